"""The account of a reading: whether every sign agrees that all pictures of a stream were read.

Decoders pass over damage in silence: about one file in six that lost frames to random damage raises
no error at all. So the pictures are held against what the container promised.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from deepscan.types import ReadReport
from deepscan.video.probe import PLAUSIBLE_FRAMES

SLACK_FRAMES = 2.5  # how many frames the last one may end before the promised duration ...
SLACK_SHARE = 0.01  # ... or this share of it, whichever is more
EXTRA_PACKETS = 2  # packets without a picture that a sound stream may have
GAP = 1.8  # a pause longer than this many usual intervals is a hole in a constant rate
REGULAR = 0.95  # share of equal intervals from which a rate counts as constant
FEW_INTERVALS = 8  # below this nothing can be said about regularity


@dataclass(slots=True)
class Account:
    """Counters of one reading. `step` is the usual time between two frames in seconds.

    `promised_frames` and `promised_duration` come from the container, None where it says nothing.
    `one_to_one` is False for codecs that may need several packets for one picture.
    """

    step: float
    promised_frames: int | None = None
    promised_duration: float | None = None
    one_to_one: bool = True
    packets: int = 0
    corrupt_packets: int = 0
    corrupt_frames: int = 0
    errors: int = 0
    gave_up: bool = False
    interlaced: bool = False
    notes: list[str] = field(default_factory=list)
    times: array[float] = field(default_factory=lambda: array("d"))

    @property
    def decoded(self) -> int:
        return len(self.times)

    def report(self, decoder: str, decoder_reason: str, *, finished: bool) -> ReadReport:
        """The verdict on completeness; `finished` says whether the reading came to its end."""
        reasons = list(self._reasons(finished))
        return ReadReport(
            decoded=self.decoded,
            failed=self.errors,
            complete=not reasons,
            reasons=tuple(reasons),
            decoder=decoder,
            decoder_reason=decoder_reason,
        )

    def _reasons(self, finished: bool) -> list[str]:
        found = list(self.notes)
        if not finished:
            return [*found, f"stopped: reading ended early, after {self.decoded} frames"]
        if self.decoded == 0:
            found.append("no_frames: no frame could be decoded")
        if self.errors:
            found.append(f"decode_errors: {self.errors} packets or frames could not be decoded")
        if self.gave_up:
            found.append("gave_up: too many decode errors in a row")
        if self.corrupt_packets:
            found.append(f"corrupt_packets: {self.corrupt_packets} packets are marked as damaged")
        if self.corrupt_frames:
            found.append(f"corrupt_frames: {self.corrupt_frames} frames are marked as damaged")
        found += self._broken_promises()
        gap = self._longest_gap()
        if gap:
            found.append(f"gap: {gap:.3f} s without a frame in a stream of constant rate")
        return found

    def _broken_promises(self) -> list[str]:
        found = []
        frames = self.promised_frames
        if frames and frames <= PLAUSIBLE_FRAMES and abs(frames - self.decoded) > 1:
            found.append(f"frame_count: the file promises {frames} frames, {self.decoded} came")
        duration = self.promised_duration
        if duration and self.times:
            seen = self.times[-1] - self.times[0] + self.step
            if duration - seen > max(SLACK_FRAMES * self.step, SLACK_SHARE * duration):
                found.append(f"short: the file promises {duration:.2f} s, {seen:.2f} s came")
        pictures = self.decoded * (2 if self.interlaced else 1)
        if self.one_to_one and self.packets - pictures > EXTRA_PACKETS:
            found.append(f"packets: {self.packets} packets gave only {self.decoded} frames")
        return found

    def _longest_gap(self) -> float | None:
        """The longest interval if it is a hole in an otherwise constant rate."""
        intervals = [later - earlier for earlier, later in pairwise(self.times)]
        if len(intervals) < FEW_INTERVALS:
            return None
        usual = median(intervals)
        odd = sum(abs(interval - usual) > 0.2 * usual + 0.0015 for interval in intervals)
        if not 0 < odd <= max(2, (1 - REGULAR) * len(intervals)):
            return None
        longest = max(intervals)
        return longest if usual > 0 and longest > GAP * usual else None


def shows_nothing(codec: str, data: bytes) -> bool:
    """Whether a VP8 or VP9 packet only holds a hidden reference picture, which is never shown."""
    if not data:
        return False
    first = data[0]
    if codec == "vp8":
        return not first >> 4 & 1
    if codec == "vp9":
        profile_3 = first >> 4 & 3 == 3
        if first >> 6 != 2 or profile_3 or data[-1] >> 5 == 6:  # a superframe shows its last one
            return False
        return not first >> 3 & 1 and not first >> 1 & 1
    return False
