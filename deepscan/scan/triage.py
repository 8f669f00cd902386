"""Triage: a coarse pass over the whole file, then dense passes where that left doubt.

The coarse pass looks `LOOKS` times a second. Where a face's evidence comes near the review point or
passes it, every frame is looked at, the most uncertain stretches first, until the budget is used. A
dense stretch is searched on its own, so its tracks hold dense sightings only and those of the
coarse pass coarse ones only: the verdict's rule asks how many sightings stand behind a window (see
verdict/decide.py, step 1), and a track of both kinds would get one answer for both. What the coarse
pass saw inside of a dense stretch is dropped; no face is counted twice.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from deepscan.errors import VideoError
from deepscan.options import ScanOptions
from deepscan.scan.frame_store import Kept, Spool
from deepscan.scan.pass_result import Findings
from deepscan.scan.pipeline import Handover, Stretch
from deepscan.types import FrameResult, Reason, VideoInfo
from deepscan.verdict.decide import (
    MIN_SIGHTINGS,
    Calibration,
    Evidence,
    looks_of,
    medians,
    smooth,
)

LOOKS = 2.0  # a second, in the coarse pass
MARGIN = 2.0  # nats below the review point that still count as near it: a factor of 7


class Budget:
    """Wall seconds from now on; None or 0 has no end."""

    def __init__(self, seconds: float | None) -> None:
        self._end = time.monotonic() + seconds if seconds else None

    @property
    def left(self) -> float:
        return float("inf") if self._end is None else self._end - time.monotonic()

    @property
    def used_up(self) -> bool:
        return self.left <= 0


@dataclass(frozen=True, slots=True)
class Doubt:
    """A stretch [start, end) in seconds, and how many nats off the review point its evidence is."""

    start: float
    end: float
    distance: float


def wanted(options: ScanOptions, info: VideoInfo) -> bool:
    """Whether a file is triaged; a picture has nothing to leave out."""
    return (options.triage or bool(options.budget)) and not info.still


def doubts_of(
    evidence: Evidence, calibration: Calibration, options: ScanOptions
) -> tuple[Doubt, ...]:
    """Where the coarse pass left doubt, the most uncertain first."""
    calibration = calibration.at(options.false_alarm_rate)
    window = calibration.window
    looks = looks_of(evidence, window)
    alone = window * LOOKS < MIN_SIGHTINGS  # the scale on which the coarse pass was judged
    singles, means = (
        np.array(
            [
                calibration.points(looks, still=still, band=band)[1]
                for band in range(len(calibration.every_band))
            ]
        )
        for still in (True, alone)
    )
    near: list[Doubt] = []
    for series in evidence.tracks.values():
        times = np.array(series.judged)
        if not len(times):
            continue
        qualities = np.array([series.sides, series.sharpness, series.detail], np.float64).T
        bands = calibration.bands_of(medians(times, qualities, window))
        logits = np.array(series.logits, np.float64)
        # A forgery that is shorter than a window may show in one look, and drown in the mean.
        single = calibration.llr(logits, bands, still=True) - singles[bands]
        mean = calibration.llr(smooth(times, logits, window), bands, still=alone) - means[bands]
        over = np.fmax(single, mean)
        for moment, distance in zip(times.tolist(), over.tolist(), strict=True):
            if distance >= -MARGIN:  # not for NaN: outside of all bands a second look is no help
                near.append(_round(moment, distance, window, options))
    return tuple(sorted(_joined(near), key=lambda doubt: (doubt.distance, doubt.start)))


def _round(moment: float, distance: float, window: float, options: ScanOptions) -> Doubt:
    """A window on both sides, and as much as lies between two looks."""
    pad = max(window, 1 / LOOKS)
    end = float("inf") if options.end is None else options.end
    return Doubt(max(options.start, 0.0, moment - pad), min(end, moment + pad), abs(distance))


def _joined(doubts: Iterable[Doubt]) -> Iterator[Doubt]:
    """The same time without overlaps."""
    last: Doubt | None = None
    for doubt in sorted(doubts, key=lambda doubt: doubt.start):
        if last is not None and doubt.start <= last.end:
            nearest = min(last.distance, doubt.distance)
            last = Doubt(last.start, max(last.end, doubt.end), nearest)
            continue
        if last is not None:
            yield last
        last = doubt
    if last is not None:
        yield last


def _told(doubts: Sequence[Doubt]) -> str:
    seconds = sum(doubt.end - doubt.start for doubt in doubts)
    return f"{len(doubts)} stretch{'es' * (len(doubts) != 1)} of {seconds:.1f} s"


Look = Callable[[Iterable[Stretch], Handover], Generator[FrameResult]]
"""Reads the file once and looks at stretches of it."""


@dataclass(frozen=True, slots=True)
class Dense:
    """What the dense passes did: the stretches that are done, and those that are not."""

    done: tuple[Doubt, ...]
    undone: tuple[Doubt, ...]
    failure: VideoError | None

    @property
    def note(self) -> Reason:
        """How the file was looked at, for the verdict."""
        text = f"{LOOKS:g} frames a second were looked at"
        if self.done:
            text += f", and closely {_told(self.done)} where that left doubt"
        return Reason("triage", text)

    @property
    def left_undone(self) -> str:
        return f"the budget was used up before {_told(self.undone)} could be looked at closely"


def look_again(
    doubts: Sequence[Doubt],
    coarse: Findings,
    final: Findings,
    look: Look,
    options: ScanOptions,
    budget: Budget,
    *,
    pace: float,
    rate: float,
) -> Dense:
    """Look at every frame of as many stretches as the budget has time for; gather all in `final`.

    `doubts` come the most uncertain first, and are taken in that order: as many at once as the time
    left will do, since one reading of the file serves them all. `pace` is how many wall seconds the
    coarse pass took for a second of media, `rate` the frames a second that the file states; both
    serve the first guess of what a dense pass costs.

    Raises:
        EngineError, OutputError: as `look` and the spool do. An error of the file is handed back.
    """
    assert coarse.spool is not None
    waiting, done = list(doubts), list[Doubt]()
    free = Handover(coarse.handover.next_track)  # no face of the coarse pass goes on in a dense one
    # As if all of it had gone into the looks.
    close_pace = pace * max(1.0, rate / options.stride / LOOKS)
    spools: list[Spool] = []
    failure: VideoError | None = None
    try:
        while waiting and not budget.used_up and failure is None:
            chosen = _affordable(waiting, pace, close_pace, budget.left)
            began = time.monotonic()
            spools.append(Spool())
            dense = Findings(spools[-1])
            finished, failure = _pass(chosen, dense, look, free, options, budget)
            free = Handover(max(free.next_track, dense.handover.next_track))
            done += finished
            waiting = [doubt for doubt in waiting if doubt not in finished]
            took = time.monotonic() - began - pace * chosen[-1].end
            close_pace = max(0.0, took) / sum(doubt.end - doubt.start for doubt in chosen)
        _merge(coarse.spool, spools, done, final)
    finally:
        for spool in spools:
            spool.close()
    return Dense(tuple(done), tuple(waiting), failure)


def _affordable(
    waiting: Sequence[Doubt], pace: float, close_pace: float, left: float
) -> list[Doubt]:
    """The first stretches that can be done in `left` seconds, at least one, in order of time."""
    chosen = [waiting[0]]
    for doubt in waiting[1:]:
        wanted = [*chosen, doubt]
        reading = pace * max(each.end for each in wanted)
        if reading + close_pace * sum(each.end - each.start for each in wanted) > left:
            break
        chosen = wanted
    return sorted(chosen, key=lambda doubt: doubt.start)


def _pass(
    chosen: Sequence[Doubt],
    dense: Findings,
    look: Look,
    free: Handover,
    options: ScanOptions,
    budget: Budget,
) -> tuple[list[Doubt], VideoError | None]:
    """One reading of the file; gives the stretches that were looked at to their end."""
    plan: list[Stretch] = []
    at = 0.0
    for doubt in chosen:
        if doubt.start > at:
            plan.append(Stretch(at, doubt.start, 0))
        plan.append(Stretch(doubt.start, doubt.end, options.stride))
        at = doubt.end
    reached = -1.0
    with closing(look(plan, free)) as results:
        try:
            for result in results:
                if budget.used_up:
                    return [doubt for doubt in chosen if doubt.end <= reached], None
                reached = result.frame.time
                if result.analysed:
                    dense.add(result)
        except VideoError as error:
            return [doubt for doubt in chosen if doubt.end <= reached], error
    return list(chosen), None


def _merge(coarse: Spool, dense: Sequence[Spool], done: Sequence[Doubt], final: Findings) -> None:
    """Every frame once: dense where a stretch is done, else as the coarse pass saw it."""

    def inside(kept: Kept) -> bool:
        return any(doubt.start <= kept.result.frame.time < doubt.end for doubt in done)

    again = heapq.merge(
        *(filter(inside, spool.kept()) for spool in dense),
        key=lambda kept: kept.result.frame.index,
    )
    ahead = next(again, None)
    for kept in coarse.kept():
        if ahead is not None and ahead.result.frame.index == kept.result.frame.index:
            kept, ahead = ahead, next(again, None)
        final.add_again(kept)
        assert final.spool is not None
        final.spool.append(kept.result, kept.details)
