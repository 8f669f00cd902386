"""The operating point bears real material, and is told what it does to real deepfakes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from deepscan.engines.choose import load_engine
from deepscan.errors import UsageError
from deepscan.types import Label, ModelInfo, ReadReport
from deepscan.verdict.calibration import Calibration, Scale, Tail
from deepscan.verdict.evidence import Evidence, TrackEvidence
from train.calibration.counts import BESIDE, count_deepfakes
from train.calibration.fit import Care, heavier, stricter
from train.calibration.real_material import care_of, measure_real
from train.evaluation.real_deepfakes import Entry
from train.evaluation.scans import Seen, alarm_of, judge, scan_files, verdict_of
from train.forge.held_out import RealFile
from train.smoke import write_faces

SCALE = Scale(1.0, 0.0, Tail(0.0, 0.1, 1.0))
CALIBRATION = Calibration("c", "p", 1.0, SCALE, SCALE, 0.01, 0.05, 0.005, (0.0, 0.02), 400)
MODEL = ModelInfo("m", "0" * 64, 64, 1.0, (1.0, 1.0), "")
WHOLE = ReadReport(1, 0, True, (), "", "")


def picture(logit: float, name: str = "x") -> Seen:
    """A picture of one face with this logit, all of it marked."""
    evidence, series = Evidence(), TrackEvidence()
    for column in ("times", "scored"):
        getattr(series, column).append(0.0)
    series.sizes.append(100.0), series.sides.append(100.0), series.sharpness.append(50.0)
    series.logits.append(logit), series.shares.append(1.0), series.detail.append(1.0)
    series.whole.append(1)
    evidence.tracks[0] = series
    evidence.frames = evidence.with_face = evidence.analysed = evidence.faces = evidence.scored = 1
    evidence.first = 0.0
    return Seen(name, True, evidence, WHOLE)


def real(count: int, spread: float, *, seen: bool = False) -> list[tuple[RealFile, Seen]]:
    """Pictures of people whose logits have an exponential tail of some spread."""
    logits = spread * np.random.default_rng(3).exponential(size=count) - 1.0
    return [
        (RealFile(Path(f"{i}"), f"{i}", f"p{i}", f"s{i % 2}", True, seen), picture(float(logit)))
        for i, logit in enumerate(logits)
    ]


def shares(files: list[tuple[RealFile, Seen]], calibration: Calibration) -> tuple[float, float]:
    labels = [judge(seen, calibration, MODEL).label for _, seen in files]
    over = sum(label is Label.MANIPULATED for label in labels)
    review = over + sum(label is Label.SUSPICIOUS for label in labels)
    return over / len(files), review / len(files)


def test_an_alarm_is_the_lowest_rate_that_the_rule_bears() -> None:
    for logit in (-1.0, 0.5, 2.0, 3.0, 5.0):
        alarm = alarm_of(picture(logit), CALIBRATION)
        for rate in (0.003, 0.01, 0.04):
            at = replace(CALIBRATION, rate=rate)
            called = verdict_of(picture(logit), at, MODEL).label is Label.MANIPULATED
            assert called == (alarm <= rate)


def test_heavier_tails_multiply_every_alarm() -> None:
    for factor in (1.0, 3.0, 40.0):  # the last one carries the line over a share of 1
        tail = heavier(SCALE, factor).tail
        assert tail.q <= 1
        before, after = SCALE.tail.rate(1, np.array([4.0, 6.0])), tail.rate(1, np.array([4.0, 6.0]))
        assert after == pytest.approx(before * factor)


def test_real_pictures_that_raise_more_alarms_raise_the_operating_point() -> None:
    files = real(400, spread=2.0)
    assert shares(files, CALIBRATION)[0] > 0.05
    found = measure_real(files, CALIBRATION, MODEL)
    assert found.care.clip == 1 < found.care.still
    over, review = shares(files, stricter(CALIBRATION, found.care))
    assert over <= 0.01 and review <= 0.05
    (material,) = found.materials
    # Cross-validated: near what was promised, and not counted on what was fitted.
    assert material.files == 400 and 0 <= material.at(0.01).share < 0.025
    assert found.sources["s0"][2] == 200


def test_quiet_pictures_ask_for_nothing() -> None:
    assert measure_real(real(400, spread=0.4), CALIBRATION, MODEL).care == Care()


def test_a_fixed_calibration_is_counted_as_it_is() -> None:
    files = real(400, spread=2.0)
    found = measure_real(files, CALIBRATION, MODEL, fixed=True)
    assert found.care == Care()
    assert found.materials[0].at(0.01).share == shares(files, CALIBRATION)[0]


def test_few_groups_bear_no_alarm_and_say_nothing_of_the_review_point() -> None:
    scores = {f"g{i}": float(i) for i in range(12)}  # -ln of the alarm: the last is at e^-11
    care = care_of(scores, (0.01, 0.05))
    assert math.exp(-11) * care > 0.01 >= math.exp(-11) * care / 1.01
    assert care_of({}, (0.01, 0.05)) == 1


def test_what_training_saw_is_another_material() -> None:
    files = [*real(120, 0.4), *real(120, 3.0, seen=True)]
    found = measure_real(files, CALIBRATION, MODEL)
    assert [(each.name, each.seen) for each in found.materials] == [
        ("real pictures that training saw", True), ("real pictures", False),
    ]  # fmt: skip
    assert found.care.still > 1  # it may make the operating point stricter, it proves nothing


def test_deepfakes_are_counted_by_set_and_their_real_files_apart() -> None:
    entries = [
        Entry("a", True, "r1", "live swap", ""), Entry("b", True, "r2", "live swap", ""),
        Entry("c", True, "r3", "lip sync", ""), Entry("d", False, "r1", "live swap", ""),
    ]  # fmt: skip
    scanned = list(zip(entries, [picture(x) for x in (6.0, -1.0, 6.0, -1.0)], strict=True))
    found = count_deepfakes(scanned, CALIBRATION, MODEL)
    assert [(m.name, m.manipulated, m.at(0.01).called, m.files, m.groups) for m in found] == [
        ("live swap", True, 1, 2, 2), ("lip sync", True, 1, 1, 1), (BESIDE, False, 0, 1, 1),
    ]  # fmt: skip
    values = {"calibration": json.loads(json.dumps(asdict(CALIBRATION)))}
    values["calibration"]["material"] = [json.loads(json.dumps(asdict(m))) for m in found]
    assert Calibration.from_card(values).material == found


def test_scans_are_kept_and_taken_up(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces")
    (tmp_path / "broken.png").write_bytes(b"nonsense")
    files = [("face", tmp_path / "faces" / "astronaut.png"), ("broken", tmp_path / "broken.png")]
    engine = load_engine("openvino")
    try:
        first = scan_files(files, engine, tmp_path / "kept.jsonl", key="k")
        kept = (tmp_path / "kept.jsonl").read_text()
        (tmp_path / "kept.jsonl").write_text(kept + '{"file": "half')
        again = scan_files(files, engine, tmp_path / "kept.jsonl", key="k")
        with pytest.raises(UsageError, match="other weights"):
            scan_files(files, engine, tmp_path / "kept.jsonl", key="other")
    finally:
        engine.close()
    assert (tmp_path / "kept.jsonl").read_text() == kept
    assert vars(again[0].evidence) == vars(first[0].evidence) and first[0].still
    assert first[0].evidence.scored == 1 and not first[0].error
    assert (
        first[1].error and verdict_of(again[1], CALIBRATION, MODEL).label is not Label.NO_EVIDENCE
    )
