"""What a pass over a file has found: the evidence for the verdict, the results for the sinks.

Both are won from the same numbers, those that the spool keeps: so evidence that is gathered from a
spool again, after an interruption or from two passes, is the same to the last bit.
"""

from __future__ import annotations

from fractions import Fraction

from deepscan.scan.frame_store import Kept, Spool, rounded
from deepscan.scan.pipeline import Handover
from deepscan.types import Frame, FrameResult
from deepscan.verdict.decide import Evidence


class Findings:
    """Takes frame results in order; `spool`, if given, keeps them. The caller closes it.

    `looked` counts the frames that were looked at, `handover` is for a pass that goes on behind
    them.
    """

    def __init__(self, spool: Spool | None = None) -> None:
        self.evidence = Evidence()
        self.spool = spool
        self.looked = 0
        self.handover = Handover()
        self._first: Frame | None = None

    @property
    def frames(self) -> int:
        return self.evidence.frames

    def first_pts(self, time_base: Fraction) -> int:
        """What the stream's clock shows at time zero."""
        if self._first is None:
            return 0
        return self._first.pts - round(Fraction(self._first.time) / time_base)

    def add(self, result: FrameResult) -> None:
        """Take the next frame.

        Raises:
            OutputError: the disk is full.
        """
        result = rounded(result)
        self._take(result)
        if self.spool is not None:
            # The detail of a crop can be measured only while there is a picture.
            tracks = self.evidence.tracks
            named = [each.crop.face.track_id for each in result.faces]
            details = [tracks[name].detail[-1] for name in named if name is not None]
            self.spool.append(result, details)

    def add_again(self, kept: Kept) -> None:
        """Take the next frame from a spool; into this one's own, if it has one, it is not put."""
        self._take(kept.result)
        for each, detail in zip(kept.result.faces, kept.details, strict=True):
            name = each.crop.face.track_id
            if name is not None:
                self.evidence.tracks[name].detail[-1] = detail

    def _take(self, result: FrameResult) -> None:
        if self._first is None:
            self._first = result.frame
        self.evidence.add(result)
        self.looked += result.analysed
        self.handover = self.handover.after(result)
