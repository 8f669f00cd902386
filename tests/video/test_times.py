"""Times are those that a player shows: seconds from where the container starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import jsonschema
import pytest

import deepscan
from deepscan.archive.diff import compare
from deepscan.options import ScanOptions
from deepscan.sinks.record import digest_of
from deepscan.types import Scanned
from tests.conftest import fake_scanner
from tests.video.healthy import KINDS

LATE = ("late-picture.mp4", "late-picture.mkv", "late-picture.ts")
OPTIONS = ScanOptions(isolate=False, min_face=12, min_sharpness=0.0)
BEGINS, LASTS = 1.52, 1.2  # seconds; sound begins at zero


def made(name: str, folder: Path) -> Path:
    next(kind for kind in KINDS if kind.name == name).make(folder / name)
    return folder / name


def scanned(path: Path, record: Path | None = None, **options: float) -> Scanned:
    with fake_scanner(replace(OPTIONS, **options)) as scanner:
        outcome = scanner.scan(path, {"record": record} if record else None, force=True)
    assert isinstance(outcome, Scanned)
    return outcome


def probed(path: Path) -> float:
    """How long after the start of the container the picture begins, as FFmpeg counts."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.start_time is not None and stream.time_base is not None
        assert container.start_time is not None
        return float(stream.start_time * stream.time_base) - container.start_time / 1e6


@pytest.mark.parametrize("name", LATE)
def test_a_face_is_where_the_player_shows_it(name: str, tmp_path: Path) -> None:
    path = made(name, tmp_path)
    outcome = scanned(path, tmp_path / "r.json")
    record = json.loads((tmp_path / "r.json").read_text())
    schema = json.loads((Path(deepscan.__file__).parent / "schemas/result-1.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(record)
    offset = record["input"]["time_offset"]
    assert offset == pytest.approx(probed(path), abs=0.002) == pytest.approx(BEGINS, abs=0.05)
    (track,) = record["verdict"]["tracks"]
    assert track["start"]["seconds"] == pytest.approx(offset, abs=0.001)
    assert track["end"]["seconds"] == pytest.approx(offset + LASTS, abs=0.01)
    # The time lines reach to the end of the picture, and what was seen is no longer for it.
    assert outcome.scan.verdict.end == pytest.approx(offset + LASTS, abs=0.01)
    assert record["coverage"]["seconds"] == pytest.approx(LASTS, abs=0.01)


def test_a_part_is_chosen_by_the_time_of_the_player(tmp_path: Path) -> None:
    path = made("late-picture.mp4", tmp_path)
    outcome = scanned(path, start=1.71, end=2.31)
    (track,) = outcome.scan.verdict.tracks
    assert track.start == pytest.approx(BEGINS + 0.2, abs=0.001)
    assert track.end == pytest.approx(BEGINS + 0.8, abs=0.001)
    assert track.scored == 15


def test_an_old_record_counts_from_the_picture(tmp_path: Path) -> None:
    path = made("late-picture.mp4", tmp_path)
    scanned(path, tmp_path / "new.json", start=1.71, end=2.31)
    old = json.loads((tmp_path / "new.json").read_text())
    del old["input"]["time_offset"]
    old["settings"]["start"], old["settings"]["end"] = 0.19, 0.79
    old["verdict"]["p_manipulated"] = 0.9  # so that the causes are told
    old["model"]["name"] = "another"
    old["digest"] = digest_of(old)
    (tmp_path / "old.json").write_text(json.dumps(old))
    for pair in (("old.json", "new.json"), ("new.json", "old.json")):
        (move,) = compare(*(tmp_path / name for name in pair)).moves
        assert [change.what for change in move.changes] == ["name"]


def test_setting_up_a_sound_decoder_is_no_start(tmp_path: Path) -> None:
    for name in ("long.webm", "av1.webm"):  # Opus begins before zero
        assert scanned(made(name, tmp_path)).scan.verdict.video.time_offset < 0.001
