"""Checks that all pictures of a file were read.

Decoders skip damage without an error: about one in six files that lost frames to random damage
raises none. So the number and times of the frames are compared with what the container promises for
this stream, and with the packets that were decoded. A pause counts as a gap only if a packet lies
in it, or if the container cannot show that nothing is missing.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deepscan.types import ReadReport
from deepscan.video.probe import PLAUSIBLE_FRAMES, Probe

SLACK_FRAMES = 2.5  # how many frames the last one may end before the promised duration ...
SLACK_SHARE = 0.01  # ... or this share of it, whichever is more
EXTRA_PACKETS = 2  # packets without a picture that an undamaged stream may have
GAP = 1.8  # a pause longer than this many usual intervals lacks a picture
UNTOLD_GAP = 4.5  # the same where the container cannot say that the writer dropped frames
REGULAR = 0.95  # share of equal intervals from which a rate counts as constant
LARGEST_REPEAT = 19  # bytes of a picture that is not coded; FFmpeg's own measure
FEW_INTERVALS = 8  # too few to tell whether the rate is constant


@dataclass(slots=True)
class CompletenessCheck:
    """Counts what was read of one file. `step` is the usual time between two frames in seconds.

    `promised_frames` and `promised_duration` (s) come from the container, None if it states nothing
    for this stream; `from_zero` as in `Probe`. `one_to_one` is False for codecs that may need
    several packets for one picture. `gaps_told` is True if no packet can be missing from the
    container unnoticed. `uncoded` counts packets that may repeat the last picture.

    `packet_pts` and `frame_pts` are those of the packets with a picture and of the frames, in
    decoding order; empty if the reader does not collect them. `last_end` is the stated end of the
    last frame (s) on the clock of `times`; `origin` is the time on that clock at which the
    container's clock is zero.

    `end_errors` and `end_corrupt` count the last packet, which is often cut in a recording of a
    transport stream.
    """

    step: float
    promised_frames: int | None = None
    promised_duration: float | None = None
    from_zero: bool = False
    one_to_one: bool = True
    gaps_told: bool = False
    packets: int = 0
    uncoded: int = 0
    last_end: float = 0.0
    origin: float = 0.0
    corrupt_packets: int = 0
    corrupt_frames: int = 0
    errors: int = 0
    end_errors: int = 0
    end_corrupt: int = 0
    gave_up: bool = False
    interlaced: bool = False
    notes: list[str] = field(default_factory=list)
    times: array[float] = field(default_factory=lambda: array("d"))
    packet_pts: array[int] = field(default_factory=lambda: array("q"))
    frame_pts: array[int] = field(default_factory=lambda: array("q"))

    @classmethod
    def of(cls, probe: Probe) -> CompletenessCheck:
        """A new check with the container's promises and no counts."""
        return cls(
            step=probe.step,
            promised_frames=probe.promised_frames,
            promised_duration=probe.promised_duration,
            from_zero=probe.from_zero,
            gaps_told=probe.gaps_told,
            notes=list(probe.notes),
        )

    @property
    def decoded(self) -> int:
        return len(self.times)

    def shown(self, time: float, stated: float | None, lasts: float = 0.0) -> None:
        """Count a frame at `time`; `stated` is the container's own time of it, all in seconds."""
        if not self.times and stated is not None:
            self.origin = time - stated
        self.times.append(time)
        self.last_end = time + lasts

    def report(self, decoder: str, decoder_reason: str, *, finished: bool) -> ReadReport:
        """The result; `finished` is True if the file was read to its end."""
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
        errors = self.errors - self.end_errors
        if errors > 0:
            found.append(f"decode_errors: {errors} packets or frames could not be decoded")
        if self.gave_up:
            found.append("gave_up: too many decode errors in a row")
        corrupt = self.corrupt_packets - self.end_corrupt
        if corrupt > 0:
            found.append(f"corrupt_packets: {corrupt} packets are marked as damaged")
        frames = self.corrupt_frames - (self.end_errors or self.end_corrupt)
        if frames > 0:
            found.append(f"corrupt_frames: {frames} frames are marked as damaged")
        leading, lost = self._without_picture()
        found += self._broken_promises(leading)
        found += self._lost(lost)
        gap = None if self.gaps_told else self._longest_gap()
        if gap:
            found.append(f"gap: {gap:.3f} s without a frame in a stream of constant rate")
        return found

    def _broken_promises(self, leading: int) -> list[str]:
        found = []
        frames = self.promised_frames
        if frames and frames <= PLAUSIBLE_FRAMES:
            few, many = frames - leading - self.uncoded - 1, frames + 1
            if not few <= self.decoded <= many:
                found.append(f"frame_count: the file promises {frames} frames, {self.decoded} came")
        duration = self.promised_duration
        if duration and self.times:
            end = max(self.times[-1] + self.step, self.last_end)
            begin = min(self.times[0], self.origin) if self.from_zero else self.times[0]
            seen = end - begin + leading * self.step
            if duration - seen > max(SLACK_FRAMES * self.step, SLACK_SHARE * duration):
                found.append(f"short: the file promises {duration:.2f} s, {seen:.2f} s came")
        pictures = self.decoded * (2 if self.interlaced else 1)
        without = self.packets - leading - self.uncoded - pictures
        if self.one_to_one and without > EXTRA_PACKETS:
            found.append(f"packets: {self.packets} packets gave only {self.decoded} frames")
        return found

    def _without_picture(self) -> tuple[int, NDArray[np.int64]]:
        """Packets without a picture: the number before the first frame, and the pts of the others.

        Leading pictures follow the first key frame in the file and are shown before it. A copy that
        starts in the middle of a stream has them, but not the pictures that they refer to.
        """
        if not self.packet_pts or not self.frame_pts:
            return 0, np.empty(0, np.int64)
        packets = np.frombuffer(self.packet_pts, np.int64)
        frames = np.frombuffer(self.frame_pts, np.int64)
        own = np.flatnonzero(packets == frames[0])
        leading = int((packets[own[0] :] < frames[0]).sum()) if len(own) else 0
        ordered = np.sort(frames)
        nearest = np.searchsorted(ordered, packets).clip(max=len(ordered) - 1)
        lost = packets[ordered[nearest] != packets]
        return leading, lost[lost > frames[0]] if leading else lost

    def _lost(self, lost: NDArray[np.int64]) -> list[str]:
        """Find pauses that contain a packet without a picture."""
        if not len(lost) or len(self.frame_pts) < FEW_INTERVALS or self.uncoded:
            return []
        frames = np.sort(np.frombuffer(self.frame_pts, np.int64))
        intervals = np.diff(frames)
        usual = float(np.sort(intervals)[len(intervals) // 2])
        after = np.searchsorted(frames, lost)
        inside = after[(after > 0) & (after < len(frames))]
        holes = int((intervals[inside - 1] > GAP * usual).sum())
        return [f"gap: {holes} packets gave no picture where one is missing"] if holes else []

    def _longest_gap(self) -> float | None:
        """The longest interval if it is a gap in an otherwise constant rate, else None."""
        intervals = [later - earlier for earlier, later in pairwise(self.times)]
        if len(intervals) < FEW_INTERVALS:
            return None
        usual = median(intervals)
        odd = sum(abs(interval - usual) > 0.2 * usual + 0.0015 for interval in intervals)
        if not 0 < odd <= max(2, (1 - REGULAR) * len(intervals)):
            return None
        longest = max(intervals)
        return longest if usual > 0 and longest > UNTOLD_GAP * usual else None


def shows_nothing(codec: str, data: bytes) -> bool:
    """True if a VP8 or VP9 packet holds only a reference picture, which is never shown."""
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


def may_repeat(codec: str, data: bytes) -> bool:
    """True if an MPEG-4 packet may only repeat the last picture."""
    return codec == "mpeg4" and len(data) <= LARGEST_REPEAT
