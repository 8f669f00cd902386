"""The answer on the terminal: what, where, how sure, and what it does not mean."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from deepscan.cli.text_answer import text_answer
from deepscan.sinks.html import HtmlSink
from deepscan.sinks.record import error_record, record_of
from deepscan.types import Label, Output, Reason, Scanned, Skipped
from deepscan.wording import (
    coverage_sentence,
    found_sentence,
    screening_sentence,
    wording_of,
)
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
    assert re.search(
        r"^  face 0  manipulated  0:00.3 to 0:00.7  P\(manipulated\) 0.97, LR \S+, [a-z ]+t$",
        text,
        re.MULTILINE,
    )
    assert "  face 1  suspicious   0:00.7 to 0:01.0  P(manipulated) 0.71, LR " in text
    assert text.count("False-alarm rate at this setting") == 1
    assert text.count("not proof") == 2  # of screening, and of this label
    assert build.scan().verdict.calibration.population not in text


def test_a_face_has_one_line_however_many_intervals():
    outcome = scanned()
    first = outcome.scan.verdict.intervals[0]
    weaker = replace(first, start=1.5, end=1.7, score=0.96, label=Label.SUSPICIOUS)
    others = [replace(first, track_id=n, score=0.9 - n / 100) for n in range(1, 12)]
    verdict = replace(outcome.scan.verdict, intervals=(weaker, first, *others, weaker))
    outcome = replace(outcome, scan=replace(outcome.scan, verdict=verdict))
    lines = text_answer(outcome).splitlines()
    faces = [line.strip() for line in lines if "P(manipulated)" in line]
    assert len(faces) == 8
    assert faces[0].startswith("face 0  manipulated  0:00.3 to 0:00.7")
    assert faces[0].endswith("support  and 2 more intervals")
    assert "  and 4 more faces, listed in page and record" in lines


def test_a_clip_with_two_faces_fits_a_screen():
    outputs = tuple(Output("html", Path(f"out/r{n}.html"), "0" * 64, 5) for n in range(5))
    lines = text_answer(scanned(outputs=outputs), 80).splitlines()
    assert len(lines) <= 22 and max(map(len, lines)) <= 80
    plain = text_answer(scanned(outputs=outputs))
    assert " ".join(" ".join(lines).split()) == " ".join(plain.split())


@pytest.mark.parametrize("label", Label)
def test_coverage_reasons_and_the_caveat_are_always_there(label):
    outcome = scanned(label)
    text = text_answer(outcome)
    assert coverage_sentence(outcome.scan.verdict) in text
    assert "over_operating_point: One face lies over the operating point." in text
    assert wording_of(outcome.scan.verdict).does_not_mean in text


@pytest.mark.parametrize("frames", [1, 2])
def test_one_frame_is_no_frames(frames):
    told = coverage_sentence(build.scan(faces=0, unjudged=0, frames=frames).verdict)
    assert told == f"{('1 frame was', '2 frames were')[frames - 1]} looked at; no face was found."


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
    last = screening_sentence(outcome.scan.verdict)
    assert last.endswith("This is a screening result and not proof.")
    known = found_sentence(outcome.scan.verdict)
    judged = [each for each in words["sentences"] if each != known]
    assert len(judged) + 1 == len(words["sentences"])
    assert all(sentence.endswith(last) for sentence in judged)
    for sentence in (words["headline"], last, known, words["does_not_mean"]):
        assert sentence in text_answer(outcome)
        assert sentence in html
    # Who finds nothing is told first how little is found at all.
    answer = text_answer(outcome)
    assert (answer.index(known) < answer.index(words["headline"])) is not found


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


def test_without_a_likelihood_ratio_none_is_told(tmp_path):
    outcome = scanned()
    verdict = outcome.scan.verdict
    verdict = replace(
        verdict,
        intervals=tuple(replace(each, llr=None) for each in verdict.intervals),
        tracks=tuple(replace(each, llr=None) for each in verdict.tracks),
    )
    outcome = replace(outcome, scan=replace(outcome.scan, verdict=verdict))
    words = record_of(outcome.scan)["wording"]
    page = HtmlSink(tmp_path / "r.html", outcome.scan)
    page.close()
    html = unescape((tmp_path / "r.html").read_text())
    assert "no likelihood ratio is claimed" in words["sentences"][0] and not words["scale"]
    assert "(LR" not in html + text_answer(outcome) and words["sentences"][0] in html
    assert "score 0.97, no likelihood ratio" in text_answer(outcome)
