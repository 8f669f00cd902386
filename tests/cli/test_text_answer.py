"""The answer on the terminal: what, where, how sure, and what it does not mean."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from deepscan.cli.text_answer import text_answer
from deepscan.sinks.html import HtmlSink
from deepscan.sinks.record import error_record, record_of
from deepscan.sinks.wording import coverage_sentence, wording_of
from deepscan.types import Label, Output, Reason, Scanned, Skipped
from tests.sinks import build

HOSTILE = "a\x1b[2J\r\nb\u202egpj.mp4"


def scanned(label=Label.MANIPULATED, path=Path("clip.mp4"), outputs=()):
    scan = build.scan(info=build.video(), label=label, path=path)
    verdict = replace(scan.verdict, label=label)
    return Scanned(path, replace(scan, verdict=verdict), outputs)


def test_the_first_line_is_the_verdict():
    for label in Label:
        assert text_answer(scanned(label)).splitlines()[0] == f"clip.mp4: {label}"


def test_every_interval_has_its_face_time_and_strength():
    text = text_answer(scanned())
    assert "face 0  0:00.3 to 0:00.7  manipulated, P(manipulated) 0.97" in text
    assert "face 1  0:00.7 to 0:01.0  suspicious, P(manipulated) 0.71" in text
    assert "false-alarm rate at this setting" in text
    assert "not proof" in text


@pytest.mark.parametrize("label", Label)
def test_coverage_reasons_and_the_caveat_are_always_there(label):
    outcome = scanned(label)
    text = text_answer(outcome)
    assert coverage_sentence(outcome.scan.verdict) in text
    assert "over_operating_point: One face lies over the operating point." in text
    assert wording_of(outcome.scan.verdict).does_not_mean in text


@pytest.mark.parametrize("found", [True, False])
def test_terminal_record_and_page_say_the_same(found, tmp_path):
    outcome = scanned()
    if not found:
        verdict = replace(outcome.scan.verdict, label=Label.NO_EVIDENCE, intervals=(), tracks=())
        outcome = replace(outcome, scan=replace(outcome.scan, verdict=verdict))
    words = record_of(outcome.scan)["wording"]
    page = HtmlSink(tmp_path / "r.html", outcome.scan)
    page.close()
    html = unescape((tmp_path / "r.html").read_text())
    for sentence in (words["headline"], *words["sentences"], words["does_not_mean"]):
        assert sentence in text_answer(outcome)
        assert sentence in html
    assert all("not proof" in sentence for sentence in words["sentences"])


def test_a_file_without_a_verdict_says_why_and_what_it_does_not_mean():
    skipped = Skipped(Path("x.mp4"), Label.ERROR, Reason("corrupt", "nothing can be decoded"))
    assert text_answer(skipped).splitlines()[0] == "x.mp4: error"
    assert "corrupt: nothing can be decoded" in text_answer(skipped)
    assert error_record(skipped)["wording"]["does_not_mean"] in text_answer(skipped)


def test_what_was_written_is_named():
    outputs = (Output("html", Path("out/r.html"), "0" * 64, 5),)
    assert "wrote out/r.html" in text_answer(scanned(outputs=outputs))


@pytest.mark.parametrize("kind", ["scanned", "skipped"])
def test_names_cannot_move_the_cursor(kind):
    path = Path(HOSTILE)
    outputs = (Output("html", Path(HOSTILE + ".html"), "0" * 64, 5),)
    outcome = (
        scanned(path=path, outputs=outputs)
        if kind == "scanned"
        else Skipped(path, Label.ERROR, Reason("unreadable", f"{path}: gone"), outputs)
    )
    text = text_answer(outcome)
    assert "\x1b" not in text and "\r" not in text and "\u202e" not in text
    assert "\\x1b[2J\\x0d\\x0ab\\u202egpj.mp4" in text
    assert all(line.startswith("  ") for line in text.splitlines()[1:])
