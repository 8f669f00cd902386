"""The frame list: one line a frame, each fits the schema, and the file stays valid JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from deepscan.errors import OutputError
from deepscan.sinks.frames import FramesSink, line_of
from deepscan.types import Box, Frame, FrameResult, Label
from tests.sinks import build


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    text = (resources.files("deepscan") / "schemas" / "frames-1.json").read_text("utf-8")
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    return jsonschema.Draft202012Validator(json.loads(text))


def written(path: Path, label: Label = Label.MANIPULATED) -> list[dict[str, Any]]:
    scan = build.scan(info=build.video(), label=label)
    sink = FramesSink(path, scan)
    for result in build.results(scan, images=False):
        sink.write(result)
    sink.close()
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def prediction_line(score: float = 0.5) -> dict[str, Any]:
    image = build.picture(60, 80)
    face = build.prediction(image, Box(10.04, 10, 30, 40), 3, score, 16)
    return line_of(FrameResult(Frame(1, 512, 0.04, image), (face,)))


def test_header_then_every_frame(tmp_path: Path, schema: jsonschema.Draft202012Validator) -> None:
    header, *lines = written(tmp_path / "f.jsonl")
    assert header["schema"] == "deepscan.frames/1"
    assert header["input_sha256"] == "0123456789abcdef" * 4
    assert header["time_base"] == "1/12800"
    assert [line["index"] for line in lines] == list(range(25))
    assert [line["pts"] for line in lines] == [512 * index for index in range(25)]
    for line in (header, *lines):
        schema.validate(line)


def test_judged_unjudged_and_unseen_are_three_things(tmp_path: Path) -> None:
    _, *lines = written(tmp_path / "f.jsonl")
    assert [line["index"] for line in lines if not line["analysed"]] == [9, 19]
    judged = [face for line in lines for face in line["faces"] if face["reason"] is None]
    rest = [face for line in lines for face in line["faces"] if face["reason"] is not None]
    assert {face["track"] for face in judged} == {0, 1}
    assert {face["track"] for face in rest} == {2}
    assert all(face["p_manipulated"] is not None for face in judged)
    assert {(face["p_manipulated"], face["mask_share"]) for face in rest} == {(None, None)}


def test_numbers_are_short() -> None:
    line = prediction_line(1 / 3)
    assert line["faces"][0]["p_manipulated"] == 0.33333
    assert line["faces"][0]["box"] == [10.0, 10.0, 30.0, 40.0]
    assert len(json.dumps(line)) < 290


def test_mask_share_is_the_marked_part_of_the_crop() -> None:
    image = build.picture(60, 80)
    face = build.prediction(image, Box(10, 10, 30, 40), 3, 0.9, 16)
    half = np.zeros((16, 16), np.float32)
    half[:8] = 1
    line = line_of(FrameResult(Frame(0, 0, 0.0, image), (replace(face, mask=half),)))
    assert line["faces"][0]["mask_share"] == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"p_manipulated": 1.5},
        {"p_manipulated": None},
        {"p_manipulated": math.nan},
        {"reason": "too_small"},
        {"box": [0, 0, 1]},
        {"confidence": -1},
    ],
)
def test_schema_refuses_wrong_faces(
    change: dict[str, Any], schema: jsonschema.Draft202012Validator
) -> None:
    line = prediction_line()
    schema.validate(line)
    line["faces"][0].update(change)
    assert not schema.is_valid(line)


def test_zero_frames_leave_the_header(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    FramesSink(path, build.scan(info=None, label=Label.ERROR, faces=0)).close()
    assert [json.loads(line)["time_base"] for line in path.read_text().splitlines()] == [None]


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    image = build.picture(60, 80)
    face = replace(build.prediction(image, Box(10, 10, 30, 40), 0, 0.5, 16), score=math.nan)
    sink = FramesSink(tmp_path / "f.jsonl", build.scan())
    with pytest.raises(OutputError, match="NaN"):
        sink.write(FrameResult(Frame(0, 0, 0.0, image), (face,)))
    sink.abort()
    assert "NaN" not in (tmp_path / "f.jsonl").read_text()


def test_a_folder_that_is_gone_says_where(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="frame list cannot be written"):
        FramesSink(tmp_path / "gone" / "f.jsonl", build.scan())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_output_error() -> None:
    sink = FramesSink(Path("/dev/full"), build.scan())
    with pytest.raises(OutputError, match="No space left"):
        sink.close()
    sink.abort()
