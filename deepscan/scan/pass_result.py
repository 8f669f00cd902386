"""The result of a pass over a file: evidence for the verdict, and stored results for the sinks.

Both use the numbers as they are stored, so evidence that is collected from a store again, after an
interruption or from two passes, is identical.
"""

from __future__ import annotations

from fractions import Fraction

from deepscan.errors import VideoError
from deepscan.scan.frame_store import FrameStore, rounded
from deepscan.scan.segments import TrackState
from deepscan.sinks.pictures import Pictures
from deepscan.types import Frame, FrameResult
from deepscan.verdict.evidence import Evidence


class PassResult:
    """Takes frame results in order, and stores them in `store`, which the caller closes.

    `pictures`, if given, keeps those that a page may show.

    `sampled` counts the analysed frames, `tracks` is for a pass that continues behind them.
    `failure` is the error of the file that ended the pass, `out_of_time` is True if the budget
    ended it.
    """

    def __init__(self, store: FrameStore | None = None, pictures: Pictures | None = None) -> None:
        self.evidence = Evidence()
        self.pictures = pictures
        self.store = store
        self.sampled = 0
        self.tracks = TrackState()
        self.failure: VideoError | None = None
        self.out_of_time = False
        self._first: Frame | None = None

    @property
    def frames(self) -> int:
        return self.evidence.frames

    def first_pts(self, time_base: Fraction) -> int:
        """The stream's timestamp at time zero."""
        if self._first is None:
            return 0
        return self._first.pts - round(Fraction(self._first.time) / time_base)

    def add(self, result: FrameResult) -> None:
        """Take the next frame.

        Raises:
            OutputError: the disk is full.
        """
        result = rounded(result)
        self.add_stored(result)
        if self.pictures is not None:
            self.pictures.add(result)
        if self.store is not None:
            self.store.append(result)

    def add_stored(self, result: FrameResult) -> None:
        """Take the next frame, which is in the store already."""
        if self._first is None:
            self._first = result.frame
        self.evidence.add(result)
        self.sampled += result.analysed
        self.tracks = self.tracks.after(result)
