"""The answer on stdout, as text: what was found in a file, where, and what it does not mean."""

from __future__ import annotations

from deepscan.sinks.wording import (
    clock,
    coverage_sentence,
    interval_sentence,
    probability,
    visible,
    wording_of,
    wording_without_verdict,
)
from deepscan.types import Scanned, Skipped


def answer(outcome: Scanned | Skipped) -> str:
    """Several lines about one file; names are made harmless for a terminal."""
    if isinstance(outcome, Skipped):
        words = wording_without_verdict(outcome.label)
        lines = [words.headline, f"{outcome.reason.code}: {outcome.reason.text}"]
        return _told(outcome, lines)
    verdict = outcome.scan.verdict
    words = wording_of(verdict)
    lines = [words.headline]
    for interval in verdict.intervals:
        lines.append(
            f"face {interval.track_id}  {clock(interval.start)} to {clock(interval.end)}  "
            f"{interval.label}, P(manipulated) {probability(interval.score)}"
        )
        lines.append(f"  {interval_sentence(interval, verdict)}")
    lines.append(coverage_sentence(verdict))
    lines += [f"{reason.code}: {reason.text}" for reason in verdict.reasons]
    lines.append(words.does_not_mean)
    return _told(outcome, lines)


def _told(outcome: Scanned | Skipped, lines: list[str]) -> str:
    lines += [f"wrote {output.path}" for output in outcome.outputs]
    head = f"{outcome.path}: {outcome.label}"
    return "\n".join([visible(head), *(f"  {visible(line)}" for line in lines)])
