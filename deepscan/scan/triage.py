"""Triage: a coarse pass over the whole file, then dense passes over uncertain spans.

The coarse pass samples `COARSE_RATE` frames per second. Where a face's evidence is near or above
the review point, every frame is analysed, the most uncertain spans first, until the budget is used
up. A dense span is searched separately; a face that both passes see in the same frame keeps its
number from the coarse pass, so faces are numbered as in a full scan. The rule of the verdict counts
the sightings of a window, dense and coarse ones separately (see verdict/decide.py, step 1). Coarse
sightings inside a dense span are dropped, so no face is counted twice.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from deepscan.errors import VideoError
from deepscan.faces.track import match, near
from deepscan.options import ScanOptions
from deepscan.scan.frame_store import FrameStore
from deepscan.scan.pass_result import PassResult
from deepscan.scan.segments import Segment, TrackState
from deepscan.types import Face, FrameResult, Reason, VideoInfo
from deepscan.verdict.calibration import Calibration
from deepscan.verdict.evidence import Evidence, looks_of, windows_of

COARSE_RATE = 2.0  # frames per second of the coarse pass
MARGIN = 2.0  # nats below the review point that still count as near it: a factor of 7


class Budget:
    """A limit on wall time in seconds from now on; None or 0: no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._end = time.monotonic() + seconds if seconds else None

    @property
    def left(self) -> float:
        return float("inf") if self._end is None else self._end - time.monotonic()

    @property
    def used_up(self) -> bool:
        return self.left <= 0


@dataclass(frozen=True, slots=True)
class UncertainSpan:
    """A span [start, end) in seconds, and the distance of its evidence from the review point."""

    start: float
    end: float
    distance: float


def wanted(options: ScanOptions, info: VideoInfo) -> bool:
    """True if a file is triaged; a picture has nothing to leave out."""
    return (options.triage or bool(options.budget)) and not info.still


def uncertain_spans(
    evidence: Evidence, calibration: Calibration | None, options: ScanOptions
) -> tuple[UncertainSpan, ...]:
    """Where the coarse pass is uncertain, the most uncertain first.

    Without a calibration nothing is: no second look could make a verdict of it.
    """
    if calibration is None:
        return ()
    calibration = calibration.at(options.false_alarm_rate)
    windows = windows_of(evidence, calibration, still=False)
    looks = looks_of(windows.values())
    review = {
        still: calibration.points_by_band(looks, still=still)[:, 1] for still in (False, True)
    }
    near: list[UncertainSpan] = []
    for each in windows.values():
        # A forgery shorter than a window may show in one frame and be lost in the mean.
        single = calibration.llr(each.logits, each.bands, still=True) - review[True][each.bands]
        level = np.where(each.alone, review[True][each.bands], review[False][each.bands])
        over = np.fmax(single, each.llr - level)
        for moment, distance in zip(each.times.tolist(), over.tolist(), strict=True):
            if distance >= -MARGIN:  # not for NaN: outside all bands a dense pass does not help
                near.append(_span_round(moment, distance, calibration.window, options))
    return tuple(sorted(_joined(near), key=lambda span: (span.distance, span.start)))


def _span_round(
    moment: float, distance: float, window: float, options: ScanOptions
) -> UncertainSpan:
    """The span around a moment: a window on both sides, at least one coarse interval."""
    pad = max(window, 1 / COARSE_RATE)
    end = float("inf") if options.end is None else options.end
    return UncertainSpan(
        max(options.start, 0.0, moment - pad), min(end, moment + pad), abs(distance)
    )


def _joined(spans: Iterable[UncertainSpan]) -> Iterator[UncertainSpan]:
    """Join overlapping spans."""
    last: UncertainSpan | None = None
    for span in sorted(spans, key=lambda span: span.start):
        if last is not None and span.start <= last.end:
            nearest = min(last.distance, span.distance)
            last = UncertainSpan(last.start, max(last.end, span.end), nearest)
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _summary(spans: Sequence[UncertainSpan]) -> str:
    seconds = sum(span.end - span.start for span in spans)
    return f"{len(spans)} span{'s' * (len(spans) != 1)} of {seconds:.1f} s"


AnalyzeAgain = Callable[[Iterable[Segment], TrackState], Generator[FrameResult]]
"""Reads the file again and analyses some segments of it."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """The result of the dense passes: spans that are done, and spans that are not."""

    done: tuple[UncertainSpan, ...]
    undone: tuple[UncertainSpan, ...]
    failure: VideoError | None

    @property
    def note(self) -> Reason:
        """A note on how the file was sampled, for the verdict."""
        text = f"{COARSE_RATE:g} frames per second were analysed"
        if self.done:
            text += f", and all frames of {_summary(self.done)} where the result was uncertain"
        return Reason("triage", text)

    @property
    def left_undone(self) -> str:
        return f"the budget was used up before all frames of {_summary(self.undone)} were analysed"


def refine(
    spans: Sequence[UncertainSpan],
    coarse: PassResult,
    final: PassResult,
    analyze_again: AnalyzeAgain,
    options: ScanOptions,
    budget: Budget,
    *,
    pace: float,
    rate: float,
) -> Refinement:
    """Analyse every frame of as many spans as the budget allows; collect all results in `final`.

    `spans` are sorted, the most uncertain first, and are analysed in that order: as many at once as
    the remaining time allows, since one reading of the file serves them all. `pace` is the wall
    time of the coarse pass per second of media, `rate` the stated frame rate; both give the first
    estimate of the cost of a dense pass.

    Raises:
        EngineError, OutputError: from `analyze_again` and the store. An error of the file is
            returned.
    """
    assert coarse.store is not None
    waiting, done = list(spans), list[UncertainSpan]()
    free = TrackState(coarse.tracks.next_track)  # faces are matched when all has been seen
    # Assumes that all of the time was spent on the samples.
    close_pace = pace * max(1.0, rate / options.stride / COARSE_RATE)
    stores: list[FrameStore] = []
    failure: VideoError | None = None
    try:
        while waiting and not budget.used_up and failure is None:
            chosen = _affordable(waiting, pace, close_pace, budget.left)
            began = time.monotonic()
            stores.append(FrameStore())
            dense = PassResult(stores[-1])
            finished, failure = _dense_pass(chosen, dense, analyze_again, free, options, budget)
            free = TrackState(max(free.next_track, dense.tracks.next_track))
            done += finished
            waiting = [span for span in waiting if span not in finished]
            took = time.monotonic() - began - pace * chosen[-1].end
            close_pace = max(0.0, took) / sum(span.end - span.start for span in chosen)
        _merge(coarse, stores, done, final)
    finally:
        for store in stores:
            store.close()
    return Refinement(tuple(done), tuple(waiting), failure)


def _affordable(
    waiting: Sequence[UncertainSpan], pace: float, close_pace: float, left: float
) -> list[UncertainSpan]:
    """The first spans that fit into `left` seconds, at least one, in order of time."""
    chosen = [waiting[0]]
    for span in waiting[1:]:
        wanted = [*chosen, span]
        reading = pace * max(each.end for each in wanted)
        if reading + close_pace * sum(each.end - each.start for each in wanted) > left:
            break
        chosen = wanted
    return sorted(chosen, key=lambda span: span.start)


def _dense_pass(
    chosen: Sequence[UncertainSpan],
    dense: PassResult,
    analyze_again: AnalyzeAgain,
    free: TrackState,
    options: ScanOptions,
    budget: Budget,
) -> tuple[list[UncertainSpan], VideoError | None]:
    """Read the file once; returns the spans that were analysed to their end."""
    segments: list[Segment] = []
    at = 0.0
    for span in chosen:
        if span.start > at:
            segments.append(Segment(at, span.start, 0))
        segments.append(Segment(span.start, span.end, options.stride))
        at = span.end
    reached = -1.0
    with closing(analyze_again(segments, free)) as results:
        try:
            for result in results:
                if budget.used_up:
                    return [span for span in chosen if span.end <= reached], None
                reached = result.frame.time
                if result.analysed:
                    dense.add(result)
        except VideoError as error:
            return [span for span in chosen if span.end <= reached], error
    return list(chosen), None


def _merge(
    coarse: PassResult,
    dense: Sequence[FrameStore],
    done: Sequence[UncertainSpan],
    final: PassResult,
) -> None:
    """Collect every frame once: the dense result where a span is done, else the coarse one."""
    assert coarse.store is not None
    final.evidence.close = tuple((span.start, span.end) for span in done)
    names = _same_faces(coarse, dense, done)
    for before, refined in _both(coarse.store, dense, done):
        final.add(before if refined is None else _renamed(refined, names))


def _both(
    coarse: FrameStore, dense: Sequence[FrameStore], done: Sequence[UncertainSpan]
) -> Iterator[tuple[FrameResult, FrameResult | None]]:
    """Yield each coarse result, with the dense one of the same frame in a span that is done."""

    def inside(result: FrameResult) -> bool:
        return any(span.start <= result.frame.time < span.end for span in done)

    refined = heapq.merge(
        *(filter(inside, store.results()) for store in dense),
        key=lambda result: result.frame.index,
    )
    ahead = next(refined, None)
    for result in coarse.results():
        if ahead is not None and ahead.frame.index == result.frame.index:
            yield result, ahead
            ahead = next(refined, None)
        else:
            yield result, None


def _same_faces(
    coarse: PassResult, dense: Sequence[FrameStore], done: Sequence[UncertainSpan]
) -> dict[int, int]:
    """Numbers for the tracks of the dense passes: that of the coarse track with which they share
    most frames, else a free one. No frame gets the same number twice."""
    assert coarse.store is not None
    shared = Counter[tuple[int, int]]()
    seen: dict[int, tuple[int, int]] = {}  # first and last frame of a dense track
    for before, refined in _both(coarse.store, dense, done):
        if refined is None:
            continue
        old, new = _tracked(before), _tracked(refined)
        for face in new:
            first, _ = seen.setdefault(_track(face), (refined.frame.index, 0))
            seen[_track(face)] = first, refined.frame.index
        pairs = match([face.box for face in old], [face.box for face in new], near)
        shared.update((_track(new[theirs]), _track(old[ours])) for ours, theirs in pairs)
    names: dict[int, int] = {}
    for (track, name), _ in shared.most_common():
        taken = [seen[other] for other, given in names.items() if given == name]
        first, last = seen[track]
        if track not in names and all(last < start or end < first for start, end in taken):
            names[track] = name
    free = count(coarse.tracks.next_track)
    return names | {track: next(free) for track in sorted(seen) if track not in names}


def _tracked(result: FrameResult) -> list[Face]:
    faces = [each.crop.face for each in result.faces] + [each.face for each in result.unscored]
    return [face for face in faces if face.track_id is not None]


def _track(face: Face) -> int:
    assert face.track_id is not None
    return face.track_id


def _renamed(result: FrameResult, names: Mapping[int, int]) -> FrameResult:
    def named(face: Face) -> Face:
        return face if face.track_id is None else replace(face, track_id=names[face.track_id])

    return replace(
        result,
        faces=tuple(
            replace(each, crop=replace(each.crop, face=named(each.crop.face)))
            for each in result.faces
        ),
        unscored=tuple(replace(each, face=named(each.face)) for each in result.unscored),
    )
