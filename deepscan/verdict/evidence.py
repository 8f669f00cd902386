"""The evidence of a verdict: scores of every face over time, and the windows round them."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscan.types import Coverage, FrameResult, ReadReport
from deepscan.verdict.calibration import Calibration, Floats, logit

ONE_FRAME = 0.04  # seconds that a single picture counts for
MIN_SIGHTINGS = 6  # a window, for the scale of windows; half of what calibration clips have


@dataclass(slots=True)
class TrackEvidence:
    """The evidence of one track: a few numbers for every sighting."""

    times: array[float] = field(default_factory=lambda: array("d"))
    sizes: array[float] = field(default_factory=lambda: array("f"))
    scored: array[float] = field(default_factory=lambda: array("d"))  # times of scored sightings
    logits: array[float] = field(default_factory=lambda: array("f"))
    shares: array[float] = field(default_factory=lambda: array("f"))
    sharpness: array[float] = field(default_factory=lambda: array("f"))
    sides: array[float] = field(default_factory=lambda: array("f"))  # of scored sightings
    detail: array[float] = field(default_factory=lambda: array("f"))
    whole: array[int] = field(default_factory=lambda: array("b"))  # nothing else was left out
    unscored: Counter[str] = field(default_factory=Counter)


class Evidence:
    """Gathers frame results as they pass and keeps about 50 bytes for every face in a frame."""

    def __init__(self) -> None:
        self.tracks: dict[int, TrackEvidence] = {}
        self.frames = 0
        self.with_face = 0
        self.analysed = 0
        self.unscored: Counter[str] = Counter()
        self.faces = 0
        self.scored = 0
        # Spans [start, end) of a sampled file in which every frame was looked at; see `_windows`.
        self.close: tuple[tuple[float, float], ...] = ()
        self.turned: dict[int, int] = {}  # track -> by how many degrees it was turned upright
        self.first: float | None = None
        self.last = 0.0
        self._judged_seconds = 0.0  # up to the last frame
        self._last_judged = False

    def add(self, result: FrameResult) -> None:
        """Take the next frame."""
        time = result.frame.time
        if self.first is None:
            self.first = time
        elif self._last_judged:
            self._judged_seconds += time - self.last
        self.last = time
        self._last_judged = bool(result.faces)
        self.frames += 1
        self.faces += len(result.faces) + len(result.unscored)
        self.scored += len(result.faces)
        self.with_face += bool(result.faces or result.unscored)
        whole = result.analysed and not result.unscored
        self.analysed += whole
        for face in result.faces:
            series = self._series(face.crop.face.track_id)
            if face.crop.face.turn and face.crop.face.track_id is not None:
                self.turned[face.crop.face.track_id] = face.crop.face.turn
            side = max(face.crop.face.box.width, face.crop.face.box.height)
            series.times.append(time)
            series.sizes.append(side)
            series.sides.append(side)
            series.detail.append(face.crop.detail)
            series.whole.append(whole)
            series.scored.append(time)
            series.logits.append(logit(face.score))
            # NaN is below no level: without a mask the heads cannot disagree.
            share = math.nan if face.mask is None else float((face.mask > 0.5).mean())
            series.shares.append(share)
            series.sharpness.append(face.crop.sharpness)
        for unscored in result.unscored:
            self.unscored[unscored.reason] += 1
            if unscored.face.track_id is None:
                continue
            series = self._series(unscored.face.track_id)
            series.times.append(time)
            series.sizes.append(max(unscored.face.box.width, unscored.face.box.height))
            series.unscored[unscored.reason] += 1

    @property
    def beyond_limit(self) -> int:
        """Sightings beyond the most faces of a frame, of faces that were judged in no frame."""
        later = (each for each in self.tracks.values() if each.scored)
        return self.unscored["limit_faces"] - sum(each.unscored["limit_faces"] for each in later)

    def _series(self, track_id: int | None) -> TrackEvidence:
        assert track_id is not None, "find_faces names every face that it hands on"
        return self.tracks.setdefault(track_id, TrackEvidence())

    @property
    def step(self) -> float:
        """Mean seconds from frame to frame: how long the last one is shown."""
        if self.first is None or self.frames < 2:
            return ONE_FRAME
        return (self.last - self.first) / (self.frames - 1)

    def coverage(self, report: ReadReport) -> Coverage:
        """The coverage of the scan: frames and faces, judged or not."""
        return Coverage(
            decoded=self.frames,
            failed=report.failed,
            with_face=self.with_face,
            analysed=self.analysed,
            faces=self.faces,
            faces_scored=self.scored,
            faces_unscored=tuple(sorted(self.unscored.items())),
            seconds=0.0 if self.first is None else self.last - self.first + self.step,
            seconds_scored=self._judged_seconds + (self.step if self._last_judged else 0.0),
            complete=report.complete,
        )


def from_frame_list(lines: Iterable[Mapping[str, Any]]) -> Evidence:
    """The scored sightings of a frame list (schemas/frames-1.json), without its header.

    What was not judged is left out: this serves windows, no coverage.

    Raises:
        KeyError, TypeError, ValueError: a line is no frame, or does not say how sharp a face is.
    """
    evidence = Evidence()
    for line in lines:
        time = float(line["time"])
        evidence.first = time if evidence.first is None else evidence.first
        evidence.last = time
        evidence.frames += 1
        for face in line["faces"]:
            if face["p_manipulated"] is None:
                continue
            series = evidence.tracks.setdefault(int(face["track"]), TrackEvidence())
            x1, y1, x2, y2 = (float(side) for side in face["box"])
            side = max(x2 - x1, y2 - y1)
            share = face["mask_share"]
            series.times.append(time)
            series.sizes.append(side)
            series.sides.append(side)
            series.detail.append(float(face["detail"]))
            series.sharpness.append(float(face["sharpness"]))
            series.whole.append(1)
            series.scored.append(time)
            series.logits.append(logit(float(face["p_manipulated"])))
            series.shares.append(math.nan if share is None else float(share))
    return evidence


@dataclass(frozen=True, slots=True)
class TrackWindows:
    """A track's windows, one round each judged sighting: their times and LLR.

    `bands` is the quality band of each, -1 outside of all; `alone` says where single pictures are
    the scale. `durations` is how long each sighting stands for, in windows.
    """

    series: TrackEvidence
    times: Floats
    durations: Floats
    shares: Floats
    bands: NDArray[np.intp]
    logits: Floats  # of the single sightings
    llr: Floats  # of the windows; NaN outside of the bands
    alone: NDArray[np.bool_]

    @property
    def inside(self) -> NDArray[np.bool_]:
        return self.bands >= 0

    def unknown(self, *, still: bool) -> bool:
        """No window lies in a band, though the face was there for long enough to count."""
        seen = len(self.times) > 0 and not self.inside.any()
        return seen and (still or float(self.durations.sum()) >= 1 - 1e-9)


def windows_of(
    evidence: Evidence, calibration: Calibration, *, still: bool
) -> dict[int, TrackWindows]:
    """The windows of every track, by track id; `still` says that the file is a single picture."""
    return {
        track_id: _windows(series, evidence, calibration, still=still)
        for track_id, series in sorted(evidence.tracks.items())
    }


def _windows(
    series: TrackEvidence, evidence: Evidence, calibration: Calibration, *, still: bool
) -> TrackWindows:
    """The windows of a track. None reaches over the border of a close span: how many sightings a
    window has, and so its scale, is asked for each side alone."""
    times, window = np.array(series.scored), calibration.window
    qualities = np.array([series.sides, series.sharpness, series.detail], np.float64).T
    logits = np.array(series.logits, np.float64)
    durations, llr = np.zeros(len(times)), np.zeros(len(times))
    bands, alone = np.zeros(len(times), np.intp), np.zeros(len(times), np.bool_)
    for part in _parts(times, evidence.close):
        at = times[part]
        durations[part] = np.minimum(np.diff(at, append=at[-1:] + evidence.step), window) / window
        few = len(at) < MIN_SIGHTINGS * max(1.0, float(durations[part].sum()))
        alone[part] = still or few
        bands[part] = calibration.bands_of(medians(at, qualities[part], window))
        llr[part] = calibration.llr(
            smooth(at, logits[part], window), bands[part], still=still or few
        )
    shares = np.array(series.shares, np.float64)
    return TrackWindows(series, times, durations, shares, bands, logits, llr, alone)


def _parts(times: Floats, spans: Iterable[tuple[float, float]]) -> list[NDArray[np.intp]]:
    """Indices of the times outside of all spans, and of those in each; none of them empty."""
    places = np.zeros(len(times), np.intp)
    for number, (start, end) in enumerate(spans, start=1):
        places[(start <= times) & (times < end)] = number
    return [np.flatnonzero(places == number) for number in np.unique(places)]


def looks_of(windows: Iterable[TrackWindows]) -> float:
    """Independent chances of a false alarm: judged seconds in windows, at least one a track.

    Windows outside of the calibration's bands are none.
    """
    durations = [each.durations[each.inside] for each in windows]
    return max(1.0, sum(max(1.0, float(each.sum())) for each in durations if len(each)))


def smooth(times: Floats, values: Floats, window: float) -> Floats:
    """Mean of the values within window / 2 on both sides of each time; times rise.

    At the ends of a track the window is moved inwards, so that it is as long as elsewhere.
    """
    if len(times) == 0:
        return values
    low, high = _spans(times, window)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: Floats = (sums[high] - sums[low]) / (high - low)
    return means


def medians(times: Floats, values: Floats, window: float) -> Floats:
    """Medians of (N, K) values over the same windows as `smooth`, column by column."""
    if len(times) == 0:
        return values
    low, high = _spans(times, window)
    counts = high - low
    found = np.empty_like(values)
    for count in np.unique(counts):
        same = np.flatnonzero(counts == count)
        for start in range(0, len(same), 4096):  # memory stays bounded however long the track is
            rows = same[start : start + 4096]
            found[rows] = np.median(values[low[rows][:, None] + np.arange(count)], axis=1)
    return found


def _spans(times: Floats, window: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Index ranges [low, high) of the windows round each time."""
    starts = np.clip(times - window / 2, times[0], max(times[0], times[-1] - window))
    slack = 1e-9
    low = np.searchsorted(times, starts - slack, side="left")
    high = np.searchsorted(times, starts + window + slack, side="right")
    return low, high
