"""The record: it says what the scan says, fits its published schema, and its hashes hold."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepscan import wording
from deepscan.errors import OutputError
from deepscan.sinks.record import (
    RecordSink,
    digest_of,
    error_record,
    manifest_of,
    record_of,
    write_record,
)
from deepscan.types import (
    CalibrationInfo,
    Counted,
    Interval,
    Label,
    Measured,
    Output,
    Reason,
    Scan,
    Skipped,
)
from tests.sinks import build

OUTPUTS = (
    Output("overlay", Path("out/clip.overlay.mp4"), "a" * 64, 12_345),
    Output("masks", Path("out/clip.masks.mkv"), "b" * 64, 678),
)


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    text = (resources.files("deepscan") / "schemas" / "result-1.json").read_text("utf-8")
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    return jsonschema.Draft202012Validator(json.loads(text))


def scan_of(label: Label = Label.MANIPULATED) -> Scan:
    made = build.scan(info=build.video(audio=("aac",)), label=label)
    if label is Label.SUSPICIOUS:
        interval = Interval(0.2, 0.6, 0, 0.75, 1.1, Label.SUSPICIOUS)
        made = replace(made, verdict=replace(made.verdict, intervals=(interval,)))
    if label in (Label.NOT_APPLICABLE, Label.ERROR):
        made = build.scan(info=None, label=label, faces=0, unjudged=0)
    return made


def written(path: Path, scan: Scan, offset: int = 0) -> dict[str, Any]:
    sink = RecordSink(path, replace(scan, first_pts=offset))
    for result in build.results(scan, images=False):
        sink.write(result)
    sink.close(OUTPUTS)
    found: dict[str, Any] = json.loads(path.read_bytes().decode("utf-8"))
    return found


@pytest.mark.parametrize("label", list(Label))
def test_record_of_every_label_fits_the_schema(
    label: Label, tmp_path: Path, schema: jsonschema.Draft202012Validator
) -> None:
    record = written(tmp_path / "r.json", scan_of(label))
    schema.validate(record)
    assert record["verdict"]["label"] == label
    assert record["wording"]["headline"] == wording.phrase(f"headline.{label}")


@pytest.mark.parametrize("label", [Label.ERROR, Label.NOT_APPLICABLE, Label.INCONCLUSIVE], ids=str)
def test_record_without_verdict_fits_the_schema(
    label: Label, schema: jsonschema.Draft202012Validator
) -> None:
    skipped = Skipped(Path("x.mp4"), label, Reason("corrupt", "x.mp4: nothing can be decoded"))
    record = error_record(skipped, settings=[("stride", 1)], versions=[("deepscan", "1")])
    schema.validate(record)
    assert record["verdict"]["reasons"] == [
        {"code": "corrupt", "text": "x.mp4: nothing can be decoded"}
    ]
    assert record["coverage"] is None
    assert record["verdict"]["p_manipulated"] is None


def test_the_evidence_about_the_model_is_in_the_record(
    tmp_path: Path, schema: jsonschema.Draft202012Validator
) -> None:
    made = scan_of()
    known = (Measured("video AUC", "made clips", 0.91, (0.88, 0.93)),)
    model = replace(made.verdict.model, evidence=known)
    record = written(tmp_path / "r.json", replace(made, verdict=replace(made.verdict, model=model)))
    schema.validate(record)
    assert record["model"]["evidence"]["figures"] == [
        {"what": "video AUC", "on": "made clips", "value": 0.91, "interval": [0.88, 0.93]}
    ]
    record["model"]["evidence"]["figures"][0]["value"] = 1.2
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(record)
    del record["model"]["evidence"]["figures"]  # as earlier versions wrote it
    schema.validate(record)


def _set(*keys: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def spoil(record: dict[str, Any]) -> None:
        place: Any = record
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _set("schema", to="deepscan.result/2"),
        _set("verdict", "label", to="real"),
        _set("verdict", "label", to=None),
        _set("verdict", "p_manipulated", to=1.5),
        _set("verdict", "p_manipulated", to=-0.1),
        _set("verdict", "p_manipulated", to=math.nan),
        _set("verdict", "p_manipulated", to=None),
        _set("verdict", "intervals", 0, "llr", to=math.nan),
        _set("verdict", "intervals", 0, "label", to="no-evidence"),
        _set("verdict", "intervals", to=[]),
        _set("verdict", "reasons", to=[]),
        _set("verdict", "reasons", 0, to={"text": "no code"}),
        _set("coverage", to=None),
        _set("coverage", "frames_decoded", to=-1),
        _set("model", to=None),
        _set("input", "sha256", to="abc"),
        _set("input", "stream", "time_base", to="1/0"),
        _set("calibration", "false_alarm_interval", to=[0.1]),
        _set("outputs", 0, "sha256", to=""),
        _set("digest", to=None),
        lambda record: record["verdict"].pop("reasons"),
        lambda record: record.pop("coverage"),
        lambda record: record["verdict"]["intervals"][0].pop("p_manipulated"),
    ],
)
def test_schema_refuses_wrong_records(
    spoil: Callable[[dict[str, Any]], None], schema: jsonschema.Draft202012Validator
) -> None:
    record = record_of(scan_of(), OUTPUTS)
    schema.validate(record)
    spoil(record)
    assert not schema.is_valid(record)


def test_schema_lets_unknown_fields_pass(schema: jsonschema.Draft202012Validator) -> None:
    record = record_of(scan_of())
    record["added_later"] = record["verdict"]["added_later"] = {"any": "thing"}
    schema.validate(record)


def test_text_is_canonical(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    record = written(path, build.scan(path=Path("Überfahrt.mp4")))
    text = path.read_bytes().decode("utf-8")
    assert text == json.dumps(record, sort_keys=True, ensure_ascii=False, indent=2) + "\n"
    assert "Überfahrt.mp4" in text


def test_hashes_can_be_recomputed_from_the_file(tmp_path: Path) -> None:
    record = written(tmp_path / "r.json", scan_of())
    assert record["digest"] == digest_of(record)
    assert record["manifest"] == manifest_of(record)


def test_digest_is_of_the_result_and_manifest_of_everything() -> None:
    scan = scan_of()
    first = record_of(scan, OUTPUTS)
    again = record_of(replace(scan, timings=(("decode", 9.0),), started="2027-01-01T00:00:00Z"))
    assert again["digest"] == first["digest"]
    assert again["manifest"] != first["manifest"]
    other = replace(scan, verdict=replace(scan.verdict, score=0.96))
    assert record_of(other, OUTPUTS)["digest"] != first["digest"]
    assert record_of(replace(scan, sha256="f" * 64))["digest"] != first["digest"]


def test_times_are_seconds_and_pts_of_the_stream(tmp_path: Path) -> None:
    scan = scan_of()
    record = written(tmp_path / "r.json", scan, offset=4_000)
    start = record["verdict"]["intervals"][0]["start"]
    interval = scan.verdict.intervals[0]
    assert start["seconds"] == pytest.approx(interval.start, abs=1e-6)
    assert start["pts"] == 4_000 + round(interval.start / build.TIME_BASE)
    assert record["input"]["stream"]["time_base"] == "1/12800"
    assert record["input"]["stream"]["first_pts"] == 4_000


def test_outputs_are_named_relative_to_the_record() -> None:
    assert record_of(scan_of(), OUTPUTS)["outputs"][0] == {
        "kind": "overlay",
        "file": "clip.overlay.mp4",
        "sha256": "a" * 64,
        "size": 12_345,
    }


def test_name_that_is_not_utf8_keeps_its_bytes(
    tmp_path: Path, schema: jsonschema.Draft202012Validator
) -> None:
    raw = b"caf\xe9/\xff.mp4"
    record = written(tmp_path / "r.json", build.scan(path=Path(os.fsdecode(raw))))
    schema.validate(record)
    assert base64.b64decode(record["input"]["path_b64"]) == raw
    assert record["input"]["path"] == "caf\ufffd/\ufffd.mp4"
    assert "path_b64" not in record_of(scan_of())["input"]


@given(name=st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=40))
def test_any_name_gives_valid_utf8(name: str) -> None:
    record = record_of(build.scan(path=Path("folder", name)))
    reread = json.loads(json.dumps(record).encode("utf-8", "surrogatepass"))
    assert digest_of(reread) == record["digest"]
    record["input"]["path"].encode("utf-8")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(bad: float, tmp_path: Path) -> None:
    scan = scan_of()
    with pytest.raises(OutputError, match="NaN or infinity"):
        record_of(replace(scan, verdict=replace(scan.verdict, score=bad)))
    path = tmp_path / "r.json"
    with pytest.raises(OutputError, match="NaN or infinity"):
        write_record(path, {"score": bad})
    assert not path.exists()


def test_record_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone.r\.json: the record cannot be written"):
        RecordSink(tmp_path / "gone" / "r.json", scan_of()).close()


def test_no_pixels_and_no_host_name_in_the_record(tmp_path: Path) -> None:
    record = written(tmp_path / "r.json", scan_of())
    assert len(json.dumps(record)) < 20_000
    assert os.uname().nodename not in record["run"]["host"].values()


# Wording


@pytest.mark.parametrize("label", list(Label))
def test_every_label_has_words_and_none_says_real(label: Label) -> None:
    words = wording.wording_of(scan_of(label).verdict)
    assert words.headline and words.means and words.does_not_mean and words.sentences
    for text in (words.label, words.headline, words.means):
        assert "real" not in text.lower().split()
    known = 0 if label is Label.NO_EVIDENCE else -1  # what the model finds at all
    assert words.sentences[known] == wording.found_sentence(scan_of(label).verdict)
    rest = [each for each in words.sentences if each != words.sentences[known]]
    assert all(each.endswith("This is a screening result and not proof.") for each in rest)


MEASURED = (
    Counted("live swap", True, 2, 23, 19, (0.02, 0.27)),
    Counted("lip sync", True, 0, 4, 4, (0.0, 0.49)),
    Counted("real pictures", False, 4, 396, 350, (0.004, 0.026)),
    Counted("real clips", False, 0, 12, 10, (0.0, 0.24)),
    Counted("newer pictures", False, 1, 180, 170, (0.001, 0.03), seen=True),
)


def test_one_line_says_what_is_found_and_what_is_called_wrongly() -> None:
    verdict = replace(scan_of().verdict, measured=MEASURED)
    assert wording.found_sentence(verdict) == (
        "At this setting msccnet-s finds 2 of 27 real deepfakes (2 of 23 live swap, 0 of 4 lip"
        " sync). It wrongly calls 4 of 396 real pictures [0.40 % to 2.6 %] and 0 of 12 real clips"
        " [0 % to 24 %; too few to show less] manipulated."
    )
    bare = replace(verdict, measured=())
    assert "was not measured" in wording.found_sentence(bare)
    assert wording.found_sentence(bare).count("not measured") == 2


def test_figures_at_the_operating_point_come_before_those_of_the_card() -> None:
    scan = replace(scan_of(), verdict=replace(scan_of().verdict, measured=MEASURED))
    figures = record_of(scan)["model"]["evidence"]["figures"]
    first, others = figures[: len(MEASURED)], figures[len(MEASURED) :]
    assert first[0]["what"] == "live swap called manipulated"
    assert first[0]["value"] == pytest.approx(2 / 23, abs=1e-6)
    assert "seen in training" in first[-1]["on"]
    assert len(others) == len(scan.verdict.model.evidence)


def test_interval_sentence_names_ratio_population_false_alarms_and_coverage() -> None:
    verdict = scan_of().verdict
    sentence = wording.interval_sentence(verdict.intervals[0], verdict)
    for part in (
        "moderately strong support",
        "face 0 between 0:00.3 and 0:00.7 was manipulated rather than not",
        "under model msccnet-s",
        "LR 160",
        "calibrated on test clips",
        "1.0 % [95 % interval 0 % to 3.0 %]",
        "face sightings were judged, in",
        "not proof",
    ):
        assert part in sentence


@pytest.mark.parametrize(
    ("llr", "word", "number"),
    [
        (0.5, "limited", "1.6"),
        (math.log(10), "limited", "10"),
        (math.log(11), "moderate", "11"),
        (math.log(340), "moderately-strong", "340"),
        (math.log(1_234), "strong", "1,200"),
        (math.log(5e5), "very-strong", "500,000"),
        (100.0, "very-strong", "over 1,000,000"),
        (-math.log(20), "moderate", "1/20"),
    ],
)
def test_verbal_scale(llr: float, word: str, number: str) -> None:
    assert wording.verbal(llr) == word
    assert wording.ratio(llr) == number


@pytest.mark.parametrize(
    ("llr", "part"),
    [
        (
            -3.0,
            "moderate support for the proposition that face 0 between 0:00.0 and 0:01.0 was"
            " not manipulated rather than manipulated",
        ),
        (0.0, "support neither proposition"),
    ],
)
def test_evidence_the_other_way_is_not_called_support(llr: float, part: str) -> None:
    verdict = scan_of().verdict
    interval = Interval(0, 1, 0, 0.7, llr, Label.SUSPICIOUS)
    assert part in wording.interval_sentence(interval, verdict)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.00001, "under 0.01 %"),
        (0.0004, "0.04 %"),
        (0.034, "3.4 %"),
        (0.5, "50 %"),
        (0.998, "99.80 %"),
        (0.999999, "99.99 %"),
        (1.0, "100 %"),
    ],
)
def test_percent_never_rounds_to_all_or_nothing(share: float, text: str) -> None:
    assert wording.percent(share) == text


@given(st.floats(0, 1))
def test_percent_says_all_or_nothing_only_if_it_is(share: float) -> None:
    assert (wording.percent(share) == "100 %") == (share == 1)
    assert (wording.percent(share) == "0 %") == (share == 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.0"), (59.96, "1:00.0"), (83.25, "1:23.2"), (3_607, "1:00:07.0"), (-1, "0:00.0")],
)
def test_clock(seconds: float, text: str) -> None:
    assert wording.timestamp(seconds) == text


@given(st.text())
def test_visible_text_hides_and_moves_nothing(text: str) -> None:
    shown = wording.visible(text)
    assert not any(ord(letter) < 32 or letter in "\u202e\u2066\u200b\x7f\x9b" for letter in shown)
    shown.encode("utf-8")


def test_text_that_hides_is_spelt_out() -> None:
    given = "a\u180eb\ufff9c\U000e0041d\x1be"
    assert wording.visible(given) == "a\\u180eb\\ufff9c\\U000e0041d\\x1be"


def test_population_of_the_calibration_reaches_the_words() -> None:
    verdict = scan_of().verdict
    calibration = CalibrationInfo("c", "film of the 1930s", 0.9, 0.7, 0.02, (0.01, 0.04), 50)
    words = wording.wording_of(replace(verdict, calibration=calibration))
    assert all("calibrated on film of the 1930s" in each for each in words.sentences[:-1])
