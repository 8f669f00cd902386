"""Made clips and what is counted from them: by person, resumable, each thing once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from deepscan.engines.engine import Predictions
from deepscan.errors import UsageError
from deepscan.types import Label
from train.calibration.clips import CODECS
from train.calibration.synthetic_validation import (
    FRAMES,
    GRADES,
    Clip,
    ClipPlan,
    ClipVerdict,
    alarms,
    alarms_by_edit,
    grade_of,
    make_clip,
    make_clips,
    size_names,
    size_of,
    slices,
    summarise,
    video_score,
)
from train.evaluation.metrics import Estimate, as_json
from train.forge.benign_edits import BENIGN_EDITS
from train.forge.faces import read_faces
from train.smoke import write_faces

STILL = ClipPlan(frames=12, moving=False)


class Brightness:
    """An engine that takes bright crops for forged ones."""

    input_size, max_batch = 32, 8

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def predict(self, crops: np.ndarray) -> Predictions:
        self.seen.append(crops)
        return Predictions(
            (crops.mean((1, 2, 3)) / 255).astype(np.float32),
            np.ones((len(crops), 8, 8), np.float32),
        )


@pytest.fixture
def people(tmp_path: Path) -> list[Any]:
    write_faces(tmp_path)
    return list(read_faces(tmp_path, "val"))


def test_clips_are_made_by_their_draw_and_judged_frame_by_frame(people: list[Any]) -> None:
    engine: Any = Brightness()
    clean = make_clip(people, 0, None, engine, plan=STILL)
    again = make_clip(people, 0, None, engine, plan=STILL)
    assert (again.crf, again.face) == (clean.crf, clean.face)
    # Not to the bit: x264's macroblock tree is not exact on processors with AVX-512.
    assert again.logits == pytest.approx(clean.logits, abs=0.02)
    assert len(clean.logits) == 12 and clean.forge == "none" and clean.untouched
    best, worst = CODECS[clean.codec][2]
    assert best <= clean.crf <= worst and clean.face >= 40
    assert all(batch.shape[1:] == (32, 32, 3) and len(batch) <= 8 for batch in engine.seen)
    sizes, sharpness, detail = np.array(clean.qualities).T
    assert sizes == pytest.approx(clean.face, rel=0.2)
    assert (sharpness > 0).all() and (detail > 0).all() and (detail <= 1).all()
    forged = make_clip(people, 0, "self-blend", engine, plan=STILL)
    assert (forged.crf, forged.face) == (clean.crf, clean.face)  # the forging alone differs
    assert forged.logits != clean.logits and forged.forged
    edited = make_clip(people, 0, None, engine, edit=sorted(BENIGN_EDITS)[0], plan=STILL)
    assert edited.crf == clean.crf and not edited.forged and not edited.untouched
    other = make_clip(people, 0, None, engine, take=1, plan=STILL)
    assert other.face != clean.face  # another take is another draw


def test_masks_are_counted_against_the_forged_pixels_of_each_frame(people: list[Any]) -> None:
    engine: Any = Brightness()  # marks everything
    hits, false, missed = make_clip(people, 0, "self-blend", engine, plan=STILL).pixels
    assert hits > 0 and false > 0 and missed == 0 and hits + false == 12 * 64
    assert make_clip(people, 0, None, engine, plan=STILL).pixels == (0, 12 * 64, 0)


def test_moving_clips_differ_from_frame_to_frame(people: list[Any]) -> None:
    engine: Any = Brightness()
    clip = make_clip(people, 0, "swap", engine, plan=ClipPlan(frames=12))
    assert len(set(clip.logits)) > 6 and clip.pixels[0] > 0


def test_leaning_heads_change_nothing_but_the_head(people: list[Any]) -> None:
    upright, plain, leaning = (
        make_clip(people, 0, None, cast(Any, Brightness()), plan=replace(STILL, leaning=share))
        for share in (0.0, 0.0, 1.0)
    )
    assert upright == plain and not upright.leaning and leaning.leaning
    assert leaning.logits != upright.logits
    same = ("person", "crf", "codec", "grade", "source")
    assert all(getattr(leaning, name) == getattr(upright, name) for name in same)
    verdicts = [verdict_of_label(Label.NO_EVIDENCE), verdict_of_label(Label.MANIPULATED)]
    found = slices([upright, leaning], verdicts, rounds=20)
    assert {"head: upright", "head: leaning"} <= set(found)
    assert "head: upright" not in slices([upright], verdicts[:1], rounds=20)


def test_clips_that_are_there_are_not_made_again(people: list[Any], tmp_path: Path) -> None:
    cache = tmp_path / "out" / "clips.jsonl"
    plan = replace(STILL, edits=1)
    engine: Any = Brightness()
    made = make_clips(people, ["redraw"], engine, plan=plan, cache=cache, key="a")
    assert [(c.forged, c.edit != "none") for c in made] == [
        (False, False), (True, False), (False, True),
    ] * 2  # fmt: skip
    lines = cache.read_text().splitlines(keepends=True)
    assert len(lines) == 7
    # Broken off in the middle of a row.
    cache.write_text("".join(lines[:4]) + lines[4][:30])
    engine.seen.clear()
    again = make_clips(people, ["redraw"], engine, plan=plan, cache=cache, key="a")
    assert again[:3] == made[:3] and len(again) == 6
    assert len(engine.seen) == 3 * 2  # three clips of two batches each
    engine.seen.clear()
    assert make_clips(people, ["redraw"], engine, plan=plan, cache=cache, key="a") == again
    assert not engine.seen
    for other in ({"key": "b"}, {"plan": STILL}):
        given: dict[str, Any] = {"plan": plan, "cache": cache, "key": "a", **other}
        with pytest.raises(UsageError, match="other weights, people or another plan"):
            make_clips(people, ["redraw"], engine, **given)
    cache.write_text("something else\n")
    with pytest.raises(UsageError, match="holds no clips"):
        make_clips(people, ["redraw"], engine, plan=plan, cache=cache, key="a")


@pytest.mark.parametrize(
    ("given", "said"),
    [({"codecs": ("mjpeg",)}, "no codec mjpeg"), ({"codecs": ()}, "no codec"),
     ({"takes": 0}, "at least one take"), ({"frames": 5}, "12 frames"),
     ({"leaning": 1.5}, "leaning is 1.5: it is a share")],
)  # fmt: skip
def test_plans_that_cannot_be_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ClipPlan(**given)


def clip_of(person: int, forged: bool, level: float, **given: Any) -> Clip:
    logits = (level,) * FRAMES
    pixels = (80, 20, 20) if forged else (0, 5, 0)
    kind = "x" if forged else "none"
    return Clip(
        f"p{person}", forged, kind, 23, given.pop("face", 90.0), logits, pixels=pixels, **given
    )


def verdict_of_label(label: Label) -> ClipVerdict:
    return ClipVerdict(label, 0.5, 0.0, (0.0, 0.0))


def test_figures_are_those_of_the_clips() -> None:
    made = [clip_of(p, forged, 2.0 * forged) for p in range(12) for forged in (False, True)]
    verdicts = [
        verdict_of_label(Label.MANIPULATED if c.forged else Label.NO_EVIDENCE) for c in made
    ]
    found = summarise(made, verdicts, rounds=50)
    assert (found["clips"], found["people"]) == (24, 12)
    assert found["frame_auc"].value == found["video_auc"].value == 1.0
    assert found["pixel_iou"].value == pytest.approx(80 / 120)
    assert found["pixel_f1"].value == pytest.approx(160 / 200)
    assert found["iou_found"].value == pytest.approx(80 / 120)
    assert found["found"][0] == 1.0
    real = summarise(made[::2], verdicts[::2], rounds=50)
    assert real["frame_auc"] is None and real["found"] is None and real["pixel_iou"] is None


def test_intervals_are_over_people_and_not_over_clips() -> None:
    rng = np.random.default_rng(0)
    once = [
        clip_of(p, forged, float(rng.normal(0.8 * forged)))
        for p in range(20)
        for forged in (False, True)
    ]
    ten = [clip for clip in once for _ in range(10)]  # the same people, ten times each
    widths = []
    for made in (once, ten):
        estimate = summarise(made, [verdict_of_label(Label.NO_EVIDENCE)] * len(made), rounds=200)[
            "video_auc"
        ]
        widths.append(estimate.high - estimate.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.25)


def test_slices_by_forge_codec_compression_and_size() -> None:
    made = []
    for person in range(30):
        given = {
            "codec": ("h264", "vp9")[person % 2],
            "grade": (person % 3) / 3 + 0.1,
            "face": (50.0, 100.0, 150.0)[person % 3],
        }
        made += [clip_of(person, forged, 1.0 * forged, **given) for forged in (False, True)]
    made[1] = replace(made[1], forge="y")
    made.append(clip_of(0, False, 9.0, edit="caption"))  # an edited clip is in no slice
    found = slices(made, [verdict_of_label(Label.NO_EVIDENCE)] * len(made), rounds=20)
    assert found["all"]["clips"] == 60
    assert found["forge: y"]["clips"] == 31 and found["forge: x"]["clips"] == 59
    assert found["codec: vp9"]["clips"] == 30
    assert [found[f"compression: {grade}"]["clips"] for grade in GRADES] == [20, 20, 20]
    assert sum(v["clips"] for k, v in found.items() if k.startswith("face: ")) == 60
    assert found["all"]["frame_auc"].value == 1.0
    json.dumps(as_json(found), allow_nan=False)


def test_sizes_and_grades_have_one_name_each() -> None:
    names = [size_of(clip_of(0, False, 0.0, face=face)) for face in (40.0, 64.0, 127.9, 128.0, 999)]
    assert names == [size_names()[index] for index in (0, 1, 2, 3, 3)]
    assert [grade_of(clip_of(0, False, 0.0, grade=g)) for g in (0.0, 0.5, 0.999)] == list(GRADES)


def test_the_strongest_second_is_a_clips_score() -> None:
    logits = (0.0,) * 6 + (6.0,) * 12 + (0.0,) * 6
    assert video_score(replace(clip_of(0, True, 0.0), logits=logits)) == pytest.approx(6.0)


def test_alarms_on_edits_are_counted_apart() -> None:
    made = [clip_of(0, False, 0.0), clip_of(1, False, 0.0), clip_of(1, True, 1.0)]
    made += [clip_of(p, False, 0.0, edit="caption") for p in range(4)]
    labels = [Label.NO_EVIDENCE, Label.SUSPICIOUS, Label.MANIPULATED]
    labels += [Label.MANIPULATED, Label.SUSPICIOUS, Label.NO_EVIDENCE, Label.INCONCLUSIVE]
    found = alarms_by_edit(made, [verdict_of_label(label) for label in labels])
    assert list(found) == ["none", "caption"]
    assert found["none"]["clips"] == 2 and found["none"]["manipulated"][0] == 0.0
    caption = found["caption"]
    assert (caption["clips"], caption["people"]) == (4, 4)
    assert [caption[k][0] for k in ("manipulated", "suspicious", "not_judged")] == [0.25, 0.5, 0.25]
    assert alarms([verdict_of_label(Label.MANIPULATED)])["suspicious"][0] == 1.0


def test_plain_values_are_ready_for_json() -> None:
    assert as_json({"a": Estimate(0.5, 0.4, 0.6), "b": (0.1, 0.0, 0.2), "c": None, "d": 3}) == {
        "a": {"value": 0.5, "low": 0.4, "high": 0.6},
        "b": {"value": 0.1, "low": 0.0, "high": 0.2},
        "c": None,
        "d": 3,
    }
