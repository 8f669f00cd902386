"""Notes on a verdict: the part of the file that it covers, and its other streams.

A part that the user asked for is judged like a whole file: the label is that of the part, and the
reason `part` names it. A part that a budget cut off forbids every label that says nothing was
found: the file is at best inconclusive, for the reason `budget`.

Players show one picture stream, and picture viewers do not show a video behind the picture; a scan
of only these could miss a manipulation in the others. So the verdict of a file is the gravest of
all its picture streams.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterable

from deepscan.errors import UsageError, VideoError
from deepscan.options import ScanOptions
from deepscan.types import Label, ReadReport, Reason, Verdict
from deepscan.video.contract import OTHER_STREAMS

_STANDING = (Label.MANIPULATED, Label.ERROR, Label.INCONCLUSIVE)  # kept even if parts were left out
_NOTHING = ("complete", "no_face", "no_analysable_face")  # reasons that nothing was found
_SEVERITY = (
    Label.NOT_APPLICABLE,
    Label.NO_EVIDENCE,
    Label.INCONCLUSIVE,
    Label.SUSPICIOUS,
    Label.MANIPULATED,
    Label.ERROR,
)


def check_part(options: ScanOptions) -> None:
    """Refuse an invalid part of the media or budget.

    Raises:
        UsageError: a time below zero or that is no number, or an end that is not behind the start.
    """
    if not 0 <= options.start < math.inf:
        raise UsageError(f"start {options.start:g} s: give seconds from the beginning")
    if options.end is not None and not options.end > options.start:
        raise UsageError(f"end {options.end:g} s does not lie behind start {options.start:g} s")
    if options.budget is not None and not options.budget >= 0:
        raise UsageError(f"budget {options.budget:g} s: give seconds, 0 for no limit")


def of_part(verdict: Verdict, options: ScanOptions, looked: int) -> Verdict:
    """Add the judged part of the file to a verdict; `looked` counts its frames."""
    if options.start <= 0 and options.end is None:
        return verdict
    until = "its end" if options.end is None else f"{options.end:g} s"
    part = f"from {options.start:g} s to {until}"
    if not looked:
        text = f"nothing of the file lies {part}, so nothing was looked at"
        return _at_best_inconclusive(verdict, Reason("part", text))
    return with_note(verdict, Reason("part", f"only the part {part} was looked at, as asked for"))


def of_budget(verdict: Verdict, text: str) -> Verdict:
    """Add to a verdict that a scan ran out of time; `text` names the parts left out."""
    return _at_best_inconclusive(verdict, Reason("budget", text))


def with_note(verdict: Verdict, reason: Reason) -> Verdict:
    """Add a reason to a verdict and keep its label."""
    return dataclasses.replace(verdict, reasons=(*verdict.reasons, reason))


def _at_best_inconclusive(verdict: Verdict, reason: Reason) -> Verdict:
    if verdict.label in _STANDING:
        return with_note(verdict, reason)
    # Reasons of the other label (no face in any frame, nothing found) hold no longer.
    others = _without(verdict.reasons, _NOTHING)
    return dataclasses.replace(verdict, label=Label.INCONCLUSIVE, reasons=(reason, *others))


def _without(reasons: Iterable[Reason], codes: Container[str]) -> tuple[Reason, ...]:
    return tuple(each for each in reasons if each.code not in codes)


def account_streams(report: ReadReport, beside: Iterable[Verdict | VideoError]) -> ReadReport:
    """Remove the other picture streams, which were judged too, from the gaps of a report."""
    failed = [error for error in beside if isinstance(error, VideoError)]
    others = tuple(r for r in report.reasons if not r.startswith(OTHER_STREAMS))
    if failed:
        others += tuple(f"{OTHER_STREAMS}: {error}" for error in failed)
    return dataclasses.replace(report, complete=not others, reasons=others)


def with_streams(verdict: Verdict, beside: Iterable[Verdict | VideoError]) -> Verdict:
    """The file's verdict: the gravest of its picture streams, with the number of that stream."""
    for number, other in enumerate(beside, 1):
        if isinstance(other, VideoError):
            continue
        if _SEVERITY.index(other.label) > _SEVERITY.index(verdict.label):
            reason = Reason("other_stream", stream_note(number, other))
            # "Nothing found" and "no face" hold no longer for the whole file.
            others = _without(verdict.reasons, _NOTHING)
            verdict = dataclasses.replace(verdict, label=other.label, reasons=(reason, *others))
    return verdict


def stream_note(number: int, other: Verdict | VideoError) -> str:
    """One line about a picture stream beside the main one; `number` counts from 1."""
    if isinstance(other, VideoError):
        return f"picture stream {number + 1} could not be read: {other}"
    spans = ", ".join(f"{i.start:.1f} s to {i.end:.1f} s {i.label}" for i in other.intervals)
    video = other.video
    size = f"{video.width}x{video.height}" if video else "unknown size"
    kind = "" if video is None else ", a picture" if video.still else f", {video.container} video"
    found = f" ({spans})" if spans else ""
    return f"picture stream {number + 1}, {size}{kind}, was judged too: {other.label}{found}"
