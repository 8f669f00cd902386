"""The text answer on stdout: what was found in a file, where, and what it does not mean.

Headline, sentences and caveat are those of the record and the page.
"""

from __future__ import annotations

from deepscan.sinks.wording import (
    probability,
    time_span,
    visible,
    wording_of,
    wording_without_verdict,
)
from deepscan.types import Scanned, Skipped


def text_answer(outcome: Scanned | Skipped) -> str:
    """Several lines about one file; names are made harmless for a terminal."""
    if isinstance(outcome, Skipped):
        words, reasons = wording_without_verdict(outcome.label), [outcome.reason]
        lines = [words.headline]
    else:
        verdict = outcome.scan.verdict
        words, reasons = wording_of(verdict), list(verdict.reasons)
        lines = [words.headline]
        for interval, sentence in zip(verdict.intervals, words.sentences, strict=False):
            lines.append(
                f"face {interval.track_id}  {time_span(interval.start, interval.end)}  "
                f"{interval.label}, P(manipulated) {probability(interval.score)}"
            )
            lines.append(f"  {sentence}")
        if not verdict.intervals:
            lines += words.sentences
    lines += [f"{reason.code}: {reason.text}" for reason in reasons]
    lines.append(words.does_not_mean)
    lines += [f"wrote {output.path}" for output in outcome.outputs]
    head = f"{outcome.path}: {outcome.label}"
    return "\n".join([visible(head), *(f"  {visible(line)}" for line in lines)])
