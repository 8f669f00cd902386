"""Collects one face's scores over time in bounded memory, and lays out their chart.

A line keeps the highest score of each of at most `BINS` bins, so that a peak of one frame in hours
of video stays visible, and the spans in which the face was not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deepscan import wording
from deepscan.types import Coverage, FaceTrack, Interval, Verdict

BINS = 1_000  # points of a line: about what a screen can show


@dataclass(frozen=True, slots=True)
class Band:
    """A horizontal part of a chart: `x` and `width` in percent of its width."""

    x: float
    width: float
    kind: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart ready to draw: `lines` are SVG point lists on a 1000 x 100 canvas.

    `levels` are (distance from the top in percent, kind), `ticks` (x in percent, text, anchor).
    `start` and `end` are the times at its sides in seconds. `locator` is the position of the chart
    in the file if it shows only a part.
    """

    start: float
    end: float
    lines: tuple[str, ...]
    bands: tuple[Band, ...]
    levels: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str, str], ...]
    locator: Band | None
    summary: str


class ScoreLine:
    """One face's scores over time in at most `BINS` bins, each with its highest score."""

    def __init__(self, track: FaceTrack, length: float, coverage: Coverage) -> None:
        # On the timeline of the file, a face that is seen briefly would be a single stroke.
        whole = track.end - track.start >= length / 8
        margin = 0.05 * (track.end - track.start)
        self.start = 0.0 if whole else max(0.0, track.start - margin)
        self.end = max(length if whole else min(length, track.end + margin), self.start + 1e-3)
        self._track = track
        self._length = length
        frames = coverage.decoded * (self.end - self.start) / length
        bins = min(BINS, max(1, math.ceil(frames)))
        self._top = np.full(bins, np.nan, np.float32)
        self._at = np.zeros(bins, np.float64)
        self._seen = np.zeros(bins, np.bool_)

    def add(self, time: float, score: float | None) -> None:
        """Take a sighting; `score` is None if the face was not judged in that frame."""
        bins = len(self._top)
        where = int((time - self.start) / (self.end - self.start) * bins)
        where = min(max(where, 0), bins - 1)
        self._seen[where] = True
        if score is not None and not self._top[where] >= score:
            self._top[where] = score
            self._at[where] = time

    def chart(self, intervals: Iterable[Interval], verdict: Verdict) -> Chart:
        """The drawing of this line with its intervals and the two levels."""
        judged = ~np.isnan(self._top)
        times, scores = self._at[judged], self._top[judged]
        runs, blind = self._runs(times)
        bands = [
            Band(self._x(start), self._x(end) - self._x(start), "blind") for start, end in blind
        ]
        for each in intervals:
            x = self._x(each.start)
            bands.append(Band(x, max(0.4, self._x(each.end) - x), str(each.label)))
        points = tuple(self._points(times[run], scores[run]) for run in runs)
        levels: list[tuple[float, str]] = []
        if (calibration := verdict.calibration) is not None:
            levels = [
                (100 * (1 - calibration.operating_point), "act"),
                (100 * (1 - calibration.review_point), "review"),
            ]
        return Chart(
            start=round(self.start, 3),
            end=round(self.end, 3),
            lines=points,
            bands=tuple(bands),
            levels=tuple(level for level in levels if 0 <= level[0] <= 100),
            ticks=self._ticks(),
            locator=self._locator(),
            summary=self._summary(times, scores, blind),
        )

    def _runs(self, times: NDArray[np.float64]) -> tuple[list[slice], list[tuple[float, float]]]:
        """Slices of connected judged points, and the spans that were not judged."""
        width = (self.end - self.start) / len(self._top)
        edges = self.start + width * np.flatnonzero(self._seen & np.isnan(self._top))
        if not len(times):
            return [], [(self._track.start, self._track.end)] if self._seen.any() else []
        steps = np.diff(times)
        # Scores may come every n-th frame; only a much longer step is a gap.
        hole = max(1.0, 3 * float(np.median(steps))) if len(steps) else 1.0
        cuts, blind = [], []
        for place in np.flatnonzero(steps > 1.5 * width):
            before, after = float(times[place]), float(times[place + 1])
            if after - before > hole or np.any((edges > before) & (edges < after)):
                cuts.append(int(place) + 1)
                blind.append((before, after))
        if times[0] - self._track.start > hole or np.any(edges < times[0]):
            blind.insert(0, (self._track.start, float(times[0])))
        if self._track.end - times[-1] > hole or np.any(edges > times[-1]):
            blind.append((float(times[-1]), self._track.end))
        bounds = [0, *cuts, len(times)]
        runs = [slice(a, b) for a, b in pairwise(bounds)]
        return runs, [(start, end) for start, end in blind if end > start]

    def _points(self, times: NDArray[np.float64], scores: NDArray[np.float32]) -> str:
        places = [
            (10 * self._x(float(time)), 100 * (1 - min(1.0, max(0.0, float(score)))))
            for time, score in zip(times, scores, strict=True)
        ]
        if len(places) == 1:  # a line needs two ends to be seen
            places.append((places[0][0] + 1, places[0][1]))
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)

    def _x(self, time: float) -> float:
        share = (time - self.start) / (self.end - self.start)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def _ticks(self) -> tuple[tuple[float, str, str], ...]:
        anchors = {0: "start", 4: "end"}
        span = self.end - self.start
        times = [self.start + span * quarter / 4 for quarter in range(5)]
        return tuple(
            (25.0 * place, wording.timestamp(time), anchors.get(place, "middle"))
            for place, time in enumerate(times)
        )

    def _locator(self) -> Band | None:
        if self.start <= 0 and self.end >= self._length:
            return None
        x = 100 * self.start / self._length
        width = max(0.6, 100 * (self.end - self.start) / self._length)
        return Band(round(min(x, 99.4), 2), round(width, 2), "locator")

    def _summary(
        self,
        times: NDArray[np.float64],
        scores: NDArray[np.float32],
        blind: list[tuple[float, float]],
    ) -> str:
        if not len(times):
            return f"Face {self._track.track_id} was seen but not judged."
        best = int(np.argmax(scores))
        text = (
            f"Score of face {self._track.track_id} over time: highest {scores[best]:.2f} at"
            f" {wording.timestamp(float(times[best]))}"
        )
        lost = sum(end - start for start, end in blind)
        return f"{text}; not judged for {lost:.1f} seconds." if blind else f"{text}."
