"""Turns the timestamps of a container into strictly rising pts and seconds from its start.

Time 0 is the start of the container, the earliest start time of its streams, as players and
`ffmpeg -ss` count. So sound that starts before the picture, or a lost first frame, does not shift
the others. If the stated start lies after the first frame, or more than an hour before it, the
first frame is time 0.
"""

from __future__ import annotations

from fractions import Fraction

LATEST_START = 3600.0  # seconds that the first frame may come after the stated start
SENT = ("mpegts", "mpeg")  # broadcast containers: recordings start anywhere and may be joined
JOINT = 10.0  # seconds; a longer jump means that the clock has changed, as in FFmpeg
LARGEST = 2**62  # pts beyond this are damage, and would overflow when added to


class Timestamps:
    """Repairs timestamps one by one, in presentation order.

    A frame without a timestamp is placed one usual step after the last; one that does not rise, one
    tick after it. With `joined` a jump of the clock marks the start of another recording, whose
    first frame is placed one usual step after the last, as players do.
    """

    def __init__(
        self, time_base: Fraction, start: int | None, step: float, *, joined: bool = False
    ) -> None:
        self._time_base = time_base
        self._start = start
        self._step = max(1, round(step / time_base))
        self._last: int | None = None
        self._most = round(max(JOINT, 10 * step) / time_base) if joined else None
        self._shift = 0

    @property
    def start(self) -> int:
        """The stream's timestamp at time 0; final after the first frame."""
        return self._start or 0

    def tick(self, stated: int | None) -> tuple[int, float]:
        """Return (pts, time in seconds) of the next frame; `stated` is its pts in the file."""
        if stated is not None and abs(stated) > LARGEST:
            stated = None
        last = self._last
        if last is None:
            pts = stated if stated is not None else (self._start or 0)
            self._start = self._zero(pts)
        elif stated is None:
            pts = last + self._step
        else:
            pts = stated + self._shift
            if self._most is not None and abs(pts - last) > self._most:
                pts = last + self._step
                self._shift = pts - stated
            pts = max(pts, last + 1)
        self._last = pts
        assert self._start is not None
        return pts, float((pts - self._start) * self._time_base)

    def _zero(self, first: int) -> int:
        start = self._start
        if start is None or start > first:
            return first
        return start if (first - start) * self._time_base <= LATEST_START else first
