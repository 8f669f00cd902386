"""No healthy kind of file is called damaged, by either decoder or by a scan as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deepscan.errors import UnsupportedError
from deepscan.options import Decoder, ScanOptions
from deepscan.types import Label, Scanned
from deepscan.video import open_video
from tests.conftest import fake_scanner
from tests.video.healthy import KINDS, Kind

by_name = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
Made = Callable[[Kind], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("healthy")

    def make(kind: Kind) -> Path:
        path = folder / kind.name
        if not path.exists():
            kind.make(path)
        return path

    return make


def test_the_table_is_long_and_names_each_kind_once() -> None:
    assert len(KINDS) >= 40
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("decoder", ["pyav", "decord", "auto"])
@by_name
def test_no_reader_calls_it_damaged(kind: Kind, decoder: Decoder, made: Made) -> None:
    try:
        with open_video(made(kind), decoder=decoder, isolate=decoder == "auto") as reader:
            frames = list(reader.frames())
            report = reader.report()
    except UnsupportedError:
        assert decoder == "decord"  # it is trusted with a few kinds only
        return
    assert report.reasons == ()
    assert report.complete
    assert len(frames) == kind.shown


@by_name
def test_a_scan_gives_the_verdict_of_its_pictures(kind: Kind, made: Made) -> None:
    options = ScanOptions(isolate=False, min_face=12, min_sharpness=0.0)
    with fake_scanner(options) as scanner:
        outcome = scanner.scan(made(kind))
    assert isinstance(outcome, Scanned), outcome
    codes = [reason.code for reason in outcome.scan.verdict.reasons]
    assert "partial" not in codes, outcome.scan.verdict.reasons
    assert outcome.label is kind.label, outcome.scan.verdict.reasons


def test_most_kinds_have_no_evidence_against_them() -> None:
    assert all(kind.label in (Label.NO_EVIDENCE, Label.INCONCLUSIVE) for kind in KINDS)
