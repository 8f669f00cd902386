"""Formats the text answer on stdout: findings in a file, where, and what they do not mean.

Headline, coverage and caveat are the sentences of the record and the page. Each face has one line;
the false-alarm rate is printed once, its population only in record and page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby

from deepscan.types import Interval, Label, Scanned, Skipped, Verdict
from deepscan.wording import (
    credentials,
    false_alarm_sentence,
    found_sentence,
    phrase,
    probability,
    ratio,
    screening_sentence,
    time_span,
    verbal,
    visible,
    wording_of,
    wording_without_verdict,
)

FACES = 8  # that have a line


def text_answer(outcome: Scanned | Skipped, width: int | None = None) -> str:
    """Format several lines about one file; control characters in names are spelled out.

    Args:
        width: columns to wrap sentences at; None: no wrapping.
    """
    if isinstance(outcome, Skipped):
        words, reasons = wording_without_verdict(outcome.label), [outcome.reason]
        sentences = [words.headline]
    else:
        verdict = outcome.scan.verdict
        words, reasons = wording_of(verdict), list(verdict.reasons)
        sentences = [words.headline]
        sentences += _faces(verdict)
        if verdict.intervals:
            sentences.append(false_alarm_sentence(verdict))
        sentences.append(screening_sentence(verdict))
        first = verdict.label is Label.NO_EVIDENCE
        sentences.insert(0 if first else len(sentences), found_sentence(verdict))
    sentences += [f"{reason.code}: {reason.text}" for reason in reasons]
    found = outcome.scan.provenance if isinstance(outcome, Scanned) else None
    if found is not None and found.state in ("valid", "invalid", "unreadable"):
        sentences.append(f"content credentials: {credentials(found)}")
    sentences.append(words.does_not_mean)
    head = visible(f"{outcome.path}: {outcome.label}")
    wrote = [f"  {visible(f'wrote {output.path}')}" for output in outcome.outputs]
    return "\n".join([head, *_wrapped(sentences, width), *wrote])


def _wrapped(sentences: list[str], width: int | None) -> Iterator[str]:
    for sentence in map(visible, sentences):
        if width is None:
            yield f"  {sentence}"
        else:
            yield from textwrap.wrap(
                sentence,
                max(width, 40),
                initial_indent="  ",
                subsequent_indent="    ",
                break_long_words=False,
                break_on_hyphens=False,
            )


def _faces(verdict: Verdict) -> Iterator[str]:
    """Yield a line for each face with a finding, the strongest first: its strongest interval."""
    by_face = groupby(
        sorted(verdict.intervals, key=lambda each: (each.track_id, -each.score)),
        key=lambda each: each.track_id,
    )
    faces = [list(found) for _, found in by_face]
    faces.sort(key=lambda found: -found[0].score)
    rows = [_face(found) for found in faces[:FACES]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()
    if len(faces) > FACES:
        yield f"and {len(faces) - FACES} more faces, listed in page and record"


def _face(found: list[Interval]) -> tuple[str, ...]:
    best, more = found[0], len(found) - 1
    return (
        f"face {best.track_id}",
        str(best.label),
        time_span(best.start, best.end),
        _strength(best),
        f"and {more} more interval{'s' * (more > 1)}" if more else "",
    )


def _strength(best: Interval) -> str:
    if best.llr is None:
        return f"score {probability(best.score)}, no likelihood ratio"
    support = "neither way" if best.llr == 0 else phrase(f"verbal.{verbal(best.llr)}") + " support"
    if best.llr < 0:
        support += " against it"
    return f"P(manipulated) {probability(best.score)}, LR {ratio(best.llr)}, {support}"
