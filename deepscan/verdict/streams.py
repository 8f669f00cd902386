"""Files with several picture streams: the verdict is the gravest that any of them gets.

Players show one stream; a scan that looked only at that one could be led past the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from deepscan.errors import VideoError
from deepscan.types import Label, ReadReport, Reason, Verdict
from deepscan.video.contract import OTHER_STREAMS


def accounted(report: ReadReport, beside: Iterable[Verdict | VideoError]) -> ReadReport:
    """The report once the other picture streams were judged too: they are no gap any more."""
    failed = [error for error in beside if isinstance(error, VideoError)]
    others = tuple(r for r in report.reasons if not r.startswith(OTHER_STREAMS))
    if failed:
        others += tuple(f"{OTHER_STREAMS}: {error}" for error in failed)
    return dataclasses.replace(report, complete=not others, reasons=others)


_SEVERITY = (
    Label.NOT_APPLICABLE,
    Label.NO_EVIDENCE,
    Label.INCONCLUSIVE,
    Label.SUSPICIOUS,
    Label.MANIPULATED,
    Label.ERROR,
)


def with_streams(verdict: Verdict, beside: Iterable[Verdict | VideoError]) -> Verdict:
    """The file's verdict: the gravest of its picture streams, and which one said it."""
    for number, other in enumerate(beside, 1):
        if isinstance(other, VideoError):
            continue
        if _SEVERITY.index(other.label) > _SEVERITY.index(verdict.label):
            reason = Reason("other_stream", stream_note(number, other))
            verdict = dataclasses.replace(
                verdict, label=other.label, reasons=(reason, *verdict.reasons)
            )
    return verdict


def stream_note(number: int, other: Verdict | VideoError) -> str:
    if isinstance(other, VideoError):
        return f"picture stream {number + 1} could not be read: {other}"
    spans = ", ".join(f"{i.start:.1f} s to {i.end:.1f} s {i.label}" for i in other.intervals)
    size = f"{other.video.width}x{other.video.height}" if other.video else "unknown size"
    told = f" ({spans})" if spans else ""
    return f"picture stream {number + 1}, {size}, was judged too: {other.label}{told}"
