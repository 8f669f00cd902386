"""Models without a mask or without a calibration: all else is there, and nothing is made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import deepscan
from deepscan.engines.engine import Predictions
from deepscan.errors import UsageError
from deepscan.options import ScanOptions
from deepscan.types import Label
from deepscan.verdict.calibration import check_rate
from tests.conftest import blue_engine, fake_scanner, judge_blue

HERE = ScanOptions(isolate=False)
SUFFIXES = {
    "overlay": ".mp4", "masks": ".masks.mkv", "frames": ".frames.jsonl", "html": ".html",
    "record": ".json",
}  # fmt: skip


def maskless():
    engine = blue_engine(judge=lambda crops: Predictions(judge_blue(crops).scores, None))
    engine.model = replace(engine.model, has_mask=False)
    return engine


def scan(clip, folder, *, engine=None, calibrated=True):
    """A scan with every output: its outcome, record and page."""
    outputs = {kind: folder / f"r{suffix}" for kind, suffix in SUFFIXES.items()}
    with fake_scanner(HERE, engine=engine or blue_engine()) as scanner:
        if not calibrated:
            scanner.calibration = None
        outcome = scanner.scan(clip, outputs)
    record = json.loads(outputs["record"].read_text())
    schemas = Path(deepscan.__file__).parent / "schemas"
    schema = json.loads((schemas / "result-1.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(record)
    lines = [json.loads(line) for line in outputs["frames"].read_text().splitlines()]
    schema = json.loads((schemas / "frames-1.json").read_text())
    for line in lines:
        jsonschema.Draft202012Validator(schema).validate(line)
    return outcome, record, outputs["html"].read_text(), lines


def test_a_model_without_a_mask_gives_all_but_the_masks(clips, tmp_path):
    outcome, record, page, lines = scan(clips["forged"], tmp_path, engine=maskless())
    assert outcome.label is Label.MANIPULATED  # and no conflict with a mask that is not there
    assert not (tmp_path / "r.masks.mkv").exists()
    kinds = {output["kind"] for output in record["outputs"]}
    assert kinds == {"frames", "html", "overlay"}
    assert "no mask video" in record["ignored"][0]
    assert {track["mask_share"] for track in record["verdict"]["tracks"]} == {None}
    faces = [face for line in lines[1:] for face in line["faces"]]
    assert faces and {face["mask_share"] for face in faces} == {None}
    assert all(face["p_manipulated"] is not None for face in faces)
    assert "with the mask over it" not in page and "does not say where in it" in page
    assert "no mask video" in page


def test_its_verdict_video_has_boxes_and_no_tint(clips, tmp_path):
    from deepscan.video import open_video

    def first(path):
        with open_video(path, isolate=False) as reader:
            return next(iter(reader.frames())).image.astype(int)

    for name, engine in (("masked", blue_engine()), ("bare", maskless())):
        (tmp_path / name).mkdir()
        _, _, _, lines = scan(clips["forged"], tmp_path / name, engine=engine)
    x1, y1, x2, y2 = map(round, lines[1]["faces"][0]["box"])
    inside = np.s_[(3 * y1 + y2) // 4 : (y1 + 3 * y2) // 4, (3 * x1 + x2) // 4 : (x1 + 3 * x2) // 4]
    source = first(clips["forged"])
    height, width = source.shape[:2]

    def change(name):
        picture = first(tmp_path / name / "r.mp4")
        left = (picture.shape[1] - width) // 4 * 2
        part = picture[:height, left : left + width]
        return np.abs(part - source)[inside].mean(), np.abs(part - source).max()

    bare, masked = change("bare"), change("masked")
    assert bare[0] < 4 < masked[0]
    assert bare[1] > 60  # its box


@pytest.mark.parametrize("clip", ["forged", "honest"])
def test_without_a_calibration_a_judged_face_is_inconclusive(clips, tmp_path, clip):
    outcome, record, page, lines = scan(clips[clip], tmp_path, calibrated=False)
    verdict = record["verdict"]
    assert outcome.label is Label.INCONCLUSIVE
    assert verdict["reasons"][0]["code"] == "not_calibrated"
    assert "deepscan model calibrate fake --real FOLDER" in verdict["reasons"][0]["text"]
    assert verdict["intervals"] == [] and verdict["p_manipulated"] is None
    assert record["calibration"] is None
    assert [track["p_manipulated"] for track in verdict["tracks"]] == [None]
    assert verdict["tracks"][0]["frames_judged"] > 0
    assert any(face["p_manipulated"] for line in lines[1:] for face in line["faces"])
    assert "not calibrated" in page and "operating point" not in page


def test_without_a_calibration_what_shows_no_face_is_no_different(clips, tmp_path):
    outcome, _, _, _ = scan(clips["no_face"], tmp_path, calibrated=False)
    assert outcome.label is Label.NOT_APPLICABLE


def test_a_rate_needs_a_calibration():
    check_rate(None, None, "mine")
    with pytest.raises(UsageError, match="model calibrate mine"):
        check_rate(None, 0.01, "mine")
