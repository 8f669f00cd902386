"""Records and frames have the shape of their schemas, and what is wrong is named with its place."""

from __future__ import annotations

import json

from deepscan.archive.schema_check import violations
from deepscan.sinks.frames import line_of
from deepscan.sinks.record import record_of
from tests.sinks import build


def record():
    return json.loads(json.dumps(record_of(build.scan())))


def test_a_record_and_a_frame_have_their_shape():
    assert list(violations(record(), "result-1")) == []
    for result in build.results(build.scan()):
        assert list(violations(line_of(result), "frames-1")) == []


def test_a_name_that_is_no_utf8_is_in_shape():
    values = record()
    values["input"]["path_b64"] = "Yf8ubXA0"
    assert list(violations(values, "result-1")) == []
    values["input"]["path_b64"] = 7
    assert list(violations(values, "result-1"))


def test_says_where_it_is_wrong():
    broken = record()
    broken["verdict"]["label"] = "real"
    del broken["input"]["sha256"]
    told = list(violations(broken, "result-1"))
    assert any("$.verdict.label" in line for line in told)
    assert "$.input: 'sha256' is a required property" in told


def test_of_alternatives_the_closest_is_named():
    (line,) = violations(
        {"index": -1, "pts": 0, "time": 0.0, "analysed": True, "faces": []}, "frames-1"
    )
    assert line.startswith("$.index: -1 ")


def test_a_message_does_not_repeat_a_long_value():
    broken = record()
    broken["verdict"]["label"] = "real" * 10_000
    (line,) = violations(broken, "result-1")
    assert line.startswith("$.verdict.label: ") and len(line) < 300


def test_true_is_not_a_number():
    broken = record()
    broken["input"]["size"] = True
    assert list(violations(broken, "result-1"))
