"""Scans one file to one verdict, or several files one by one.

A scan has two passes. The first decodes, finds faces, scores them and ends in a verdict. The
second, only if files are to be written, reads the results again, with the pictures if a sink needs
them, and passes them to the sinks, which know the verdict from the start.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Self

from deepscan.c2pa import read_provenance, read_trust_list
from deepscan.engines.choose import load_engine
from deepscan.engines.engine import Engine
from deepscan.engines.packages import installed_versions
from deepscan.errors import (
    CorruptError,
    LimitError,
    NoStreamError,
    NoVideoError,
    UnreadableError,
    UsageError,
    VideoError,
    system_errors_as,
)
from deepscan.faces import DETECTORS
from deepscan.faces.detector import FaceDetector
from deepscan.files import (
    atomic_outputs,
    check_outputs,
    finished,
    resolve,
)
from deepscan.models.library import read_card
from deepscan.options import Decoder, ScanOptions
from deepscan.scan import segments, triage
from deepscan.scan.frame_store import FrameStore
from deepscan.scan.loading import Loading
from deepscan.scan.pass_result import PassResult
from deepscan.scan.pipeline import analyze
from deepscan.scan.segments import Segment, TrackState, segments_of, skip_before
from deepscan.scan.timing import Stopwatch
from deepscan.scan.triage import Budget, Refinement, refine, uncertain_spans
from deepscan.scan.write import write_outputs
from deepscan.sinks import sink_class
from deepscan.sinks.pictures import Pictures
from deepscan.sinks.record import error_record, write_record
from deepscan.types import (
    Frame,
    FrameResult,
    Label,
    Provenance,
    ReadReport,
    Reason,
    Scan,
    Scanned,
    Skipped,
    Verdict,
    VideoInfo,
)
from deepscan.verdict.calibration import Calibration, calibration_of, check_rate
from deepscan.verdict.decide import decide
from deepscan.verdict.evidence import ONE_FRAME, Evidence
from deepscan.verdict.notes import (
    account_streams,
    check_part,
    of_budget,
    of_part,
    stream_note,
    with_note,
    with_streams,
)
from deepscan.video import open_video
from deepscan.video.contract import OTHER_STREAMS, VideoReader
from deepscan.video.formats import may_hold_pictures
from deepscan.video.input_file import Identity, hash_file, identity_of, unless_changed
from deepscan.video.isolation.launcher import warm_up
from deepscan.video.verdict_video_mark import is_marked

logger = logging.getLogger(__name__)

CROWD = 4  # times as many faces are detected as judged in one frame; they take turns
FOUND = (Label.MANIPULATED, Label.SUSPICIOUS)  # get a video and masks even in an archive

Progress = Callable[[str, int, float, float | None], None]
"""Called after every frame: "analysing" or "writing", frames so far, media seconds so far and in
total (None if unknown)."""


def _ignore(stage: str, frames: int, seconds: float, duration: float | None) -> None:
    """Ignore the progress."""


def scan_video(
    path: Path | str, options: ScanOptions | None = None, *, progress: Progress = _ignore
) -> Verdict:
    """Scan one video or picture; nothing is written.

    Raises:
        VideoError: the file cannot be judged; `reason` says why.
        EngineError, ModelError: the network cannot run.
    """
    with Scanner(options or ScanOptions()) as scanner:
        return _FileScan(scanner, _Request(Path(path), progress=progress)).run().scan.verdict


def analyze_video(path: Path | str, options: ScanOptions | None = None) -> Iterator[FrameResult]:
    """Yield the result of every frame, with picture, crops and masks.

    Scores are the network's output, not calibrated; the verdict needs all of them.

    Raises:
        VideoError: the file cannot be read, or not to its end.
        EngineError, ModelError: the network cannot run.
    """
    chosen = options or ScanOptions()
    with (
        Scanner(chosen) as scanner,
        open_video(
            resolve(Path(path)),
            decoder=chosen.decoder,
            limits=chosen.limits,
            isolate=chosen.isolate,
        ) as reader,
    ):
        yield from analyze(reader.frames(), scanner.detector, scanner.engine, scanner.options)


def scan_paths(
    paths: Iterable[Path],
    options: ScanOptions | None = None,
    *,
    outputs: Callable[[Path], Mapping[str, Path]] = lambda path: {},
    force: bool = False,
    progress: Progress = _ignore,
) -> Iterator[Scanned | Skipped]:
    """Scan files one by one; a bad file becomes `Skipped` and the next one follows.

    Args:
        outputs: returns the files to write for an input: sink name -> path.
        force: overwrite existing files.

    Raises:
        OutputError, EngineError, ModelError: the error affects every file.
    """
    with Scanner(options or ScanOptions()) as scanner:
        for path in paths:
            yield scanner.scan(path, outputs(path), force=force, progress=progress)


class Scanner:
    """An engine and a face detector for any number of files. Use it with `with`.

    They are loaded in a thread while the first existing file is hashed and opened, or when `engine`
    or `detector` is first used.
    """

    def __init__(
        self,
        options: ScanOptions,
        *,
        engine: Engine | None = None,
        detector: FaceDetector | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """What is not given is loaded later. All of it is closed at the end, given or not.

        Raises:
            ModelError: no such model, or its calibration is damaged.
            UsageError: a false-alarm rate that its calibration cannot promise, no such face
                detector, a part of the media that cannot be, or no trust list.
        """
        self._given = [each for each in (engine, detector) if each is not None]
        with ExitStack() as held:
            held.callback(_close, self._given)
            if options.detector not in DETECTORS:
                names = ", ".join(DETECTORS)
                raise UsageError(f"no face detector {options.detector!r}; there are {names}")
            check_part(options)
            trust_list = options.trust_list
            self.anchors = None if trust_list is None else read_trust_list(Path(trust_list))
            card = read_card(options.model)
            # What a model was trained to see is part of the model.
            options = replace(options, crop_scale=card.input.crop_scale or options.crop_scale)
            self.options = options
            self.calibration = calibration or calibration_of(card.values)
            check_rate(self.calibration, options.false_alarm_rate, card.name)
            held.pop_all()
        self._engine = engine
        self._loading = Loading(functools.partial(_load, options, engine, detector))

    @property
    def engine(self) -> Engine:
        """The engine; waits until it is loaded.

        Raises:
            EngineError, ModelError: the network cannot run.
        """
        return self._engine or self._loading.result()[0]

    @engine.setter
    def engine(self, engine: Engine) -> None:
        """Use another engine; it is not closed at the end, the first one is."""
        self._engine = engine

    @property
    def detector(self) -> FaceDetector:
        """The face detector; waits until it is loaded, and raises as `engine` does."""
        return self._loading.result()[1]

    def load(self) -> None:
        """Start to load engine and face detector, and return at once."""
        if self.options.isolate:
            warm_up()
        self._loading.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._loading.close(_close):
            _close(self._given)

    def scan(
        self,
        path: Path,
        outputs: Mapping[str, Path] | None = None,
        *,
        if_found: Mapping[str, Path] | None = None,
        force: bool = False,
        progress: Progress = _ignore,
        checkpoint: Path | None = None,
    ) -> Scanned | Skipped:
        """Scan one file and write its outputs.

        A scan of media longer than `segments.SEGMENT_LENGTH` can be interrupted, also by a kill:
        with the same checkpoint, a later scan of the same content, settings and weights resumes at
        the last segment border, with the same result. Triage is short and has no checkpoints.

        Args:
            outputs: sink name -> file to write, for any verdict.
            if_found: further outputs if the file is manipulated or suspicious.
            force: overwrite existing files.
            checkpoint: a folder for the results so far, used by this file alone; created if there
                is something to store, and removed when the file is done.

        Raises:
            UsageError: an unknown sink, or an output that is the input.
            OutputError: an output exists and `force` is not set, or cannot be written.
            EngineError: the engine failed.
        """
        request = _Request(path, dict(outputs or {}), dict(if_found or {}), checkpoint, progress)
        wanted = {**request.outputs, **request.if_found}
        for kind in wanted:
            sink_class(kind)
        check_outputs(wanted, [path], force=force)
        one = _FileScan(self, request)
        try:
            return one.run()
        except VideoError as error:
            logger.info("%s: %s", path, error)
            return one.skip(error)


@dataclass(frozen=True, slots=True)
class _Request:
    """A request to scan one file; see `Scanner.scan`."""

    path: Path
    outputs: Mapping[str, Path] = field(default_factory=dict)
    if_found: Mapping[str, Path] = field(default_factory=dict)
    checkpoint: Path | None = None
    progress: Progress = _ignore


@dataclass(frozen=True, slots=True)
class _Facts:
    """Facts about an input before it is decoded; None for those that an error prevented."""

    file: Path  # with links followed
    started: str
    identity: Identity | None = None
    sha256: str | None = None
    provenance: Provenance | None = None
    verdict_video: bool = False  # it has the mark of verdict videos


class _FileScan:
    """The scan of one file; `run` calls the stages in order."""

    def __init__(self, scanner: Scanner, request: _Request) -> None:
        self._scanner, self._request, self._options = scanner, request, scanner.options
        self._facts = _Facts(request.path, datetime.now(UTC).isoformat(timespec="seconds"))
        self._watch = Stopwatch()
        self._budget = Budget(self._options.budget)

    def run(self) -> Scanned:
        """Scan the file.

        Raises:
            VideoError: there is no verdict; `skip` makes the outcome and record for it.
            OutputError, EngineError: as `Scanner.scan`.
        """
        request = self._request
        self._identify()
        with ExitStack() as held:
            with self._watch.measure("open"):
                reader = self._open()
            with reader:
                info = replace(reader.info, path=request.path)
                triaged = triage.wanted(self._options, info)
                store = self._store(info, triaged, held)
                found = PassResult(store, self._pictures(store, triaged))
                began = time.monotonic()
                self._first_pass(reader, info, found, triaged)
                took = time.monotonic() - began
                report = reader.report()
            if not found.frames:
                raise CorruptError(f"{request.path} holds no frame that can be decoded")
            refined: Refinement | None = None
            if triaged and found.failure is None:
                seconds = max(found.evidence.last - info.time_offset, ONE_FRAME)
                final = PassResult(held.enter_context(FrameStore()))
                refined = self._refine(
                    found, final, rate=float(info.frame_rate), pace=took / seconds
                )
                found = final
            scan = self._conclude(found, refined, report, info)
            paths = dict(request.outputs)
            if scan.verdict.label in FOUND:
                paths.update(request.if_found)
            if not scan.verdict.model.has_mask:
                paths.pop("masks", None)
            written = write_outputs(
                scan, paths, found.store, self._open, self._watch, request.progress, found.pictures
            )
            return Scanned(request.path, replace(scan, timings=self._watch.timings), written)

    def skip(self, error: VideoError) -> Skipped:
        """The outcome of a file without a verdict, with a record if one is wanted."""
        label = Label.NOT_APPLICABLE if isinstance(error, NoVideoError) else Label.ERROR
        skipped = Skipped(self._request.path, label, Reason(error.reason, str(error)))
        path = self._request.outputs.get("record")
        if path is None:
            return skipped
        facts = self._facts
        with atomic_outputs({"record": path}) as parts:
            record = error_record(
                skipped,
                sha256=facts.sha256,
                size=None if facts.identity is None else facts.identity[2],
                settings=self._options.flat(),
                versions=installed_versions(),
                started=facts.started,
                provenance=facts.provenance,
            )
            write_record(parts["record"], record)
            return replace(skipped, outputs=(finished("record", parts["record"], path),))

    def _identify(self) -> None:
        """Collect the facts before decoding; facts before an error are kept."""
        file, limits = resolve(self._request.path), self._options.limits
        if may_hold_pictures(file, limits):
            self._scanner.load()
        with self._watch.measure("hash"):
            self._facts = replace(self._facts, file=file, identity=identity_of(file))
            self._facts = replace(self._facts, sha256=hash_file(file, limits))
            with system_errors_as(UnreadableError, f"{file} cannot be read"):
                self._facts = replace(self._facts, verdict_video=is_marked(file, limits))
        with self._watch.measure("provenance"):
            self._facts = replace(
                self._facts, provenance=read_provenance(file, limits, anchors=self._scanner.anchors)
            )

    def _open(
        self, decoder: Decoder | None = None, stream: int = 0, *, planes: bool = False
    ) -> VideoReader:
        options = self._options
        return open_video(
            self._facts.file,
            decoder=decoder or options.decoder,
            limits=options.limits,
            isolate=options.isolate,
            stream=stream,
            planes=planes,
        )

    def _store(self, info: VideoInfo, triaged: bool, held: ExitStack) -> FrameStore | None:
        """Open the store of the first pass if its results are read again; `held` closes it."""
        request, checkpoint = self._request, self._request.checkpoint
        if triaged or info.still or (info.duration or math.inf) <= segments.SEGMENT_LENGTH:
            checkpoint = None
        if not (request.outputs or request.if_found or triaged or checkpoint):
            return None
        return held.enter_context(FrameStore(checkpoint, self._checkpoint_key()))

    def _pictures(self, store: FrameStore | None, triaged: bool) -> Pictures | None:
        """Where the pictures for a page go, if it is the only output that shows any.

        Nowhere if not all frames pass now: in a scan that is resumed, and in a triage.
        """
        wanted = self._request.outputs
        if "html" not in wanted or "overlay" in wanted or triaged:
            return None
        return None if store is None or store.marked is not None else Pictures()

    def _checkpoint_key(self) -> str:
        """The key of a checkpoint: it changes with everything that affects a result."""
        engine = self._scanner.engine
        facts = {
            "format": 2,  # of the frame store
            "content": self._facts.sha256,
            "settings": self._options.flat(),
            "model": engine.model.sha256,
            "engine": engine.name,
            "versions": installed_versions(),
            "segment": segments.SEGMENT_LENGTH,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _first_pass(
        self, reader: VideoReader, info: VideoInfo, found: PassResult, triaged: bool
    ) -> None:
        """Analyse the file, from the last mark on if there is one, into `found`.

        Raises:
            VideoError: no frame could be read, or other frames than before.
        """
        progress = self._request.progress
        border = 0.0
        parts = segments_of(self._options, every=1 / triage.COARSE_RATE if triaged else 0.0)
        if found.store is not None and found.store.marked is not None:
            for result in found.store.results():
                found.add_stored(result)
            border = float(found.store.marked["border"])
            parts = skip_before(parts, border)
            logger.info("%s: resumed at %.0f s", info.path, border)
        known, passed = found.frames, 0
        results = self._analyze(reader.frames(), segments=parts, tracks=found.tracks)
        with closing(results):  # its threads use the reader and have to end before it is closed
            try:
                for result in results:
                    at = result.frame.time
                    if at < border:
                        passed += 1
                        progress("analysing", passed, at, info.duration)
                        continue
                    _check_passed(info.path, passed, known)
                    here = at // segments.SEGMENT_LENGTH * segments.SEGMENT_LENGTH
                    if here > border and found.store is not None:
                        border = here
                        found.store.mark({"border": border})
                    with self._watch.measure("store"):
                        found.add(result)
                    progress("analysing", found.frames, at, info.duration)
                    if self._budget.used_up:
                        found.out_of_time = True
                        return
            except VideoError as error:
                if not found.frames:
                    raise
                found.failure = error
                return
        _check_passed(info.path, passed, known)

    def _refine(
        self, coarse: PassResult, final: PassResult, *, rate: float, pace: float
    ) -> Refinement:
        """Run the dense passes of a triage; joins their results and the coarse ones in `final`."""
        scanner = self._scanner
        spans = uncertain_spans(coarse.evidence, scanner.calibration, self._options)
        refined = refine(
            spans, coarse, final, self._analyze_again, self._options, self._budget,
            rate=rate, pace=pace,
        )  # fmt: skip
        final.failure, final.out_of_time = refined.failure, coarse.out_of_time
        return refined

    def _analyze(self, frames: Iterator[Frame], **given: Any) -> Generator[FrameResult]:
        """Analyse frames of one reading; close the results before the reader."""
        scanner = self._scanner
        return analyze(
            frames,
            scanner.detector,
            scanner.engine,
            self._options,
            watch=self._watch,
            **given,
        )

    def _analyze_again(
        self, parts: Iterable[Segment], tracks: TrackState
    ) -> Generator[FrameResult]:
        """Read the file again and analyse some segments of it."""
        with self._open() as reader:
            results = self._analyze(reader.frames(), segments=parts, tracks=tracks)
            with closing(results):
                for done, result in enumerate(results, start=1):
                    yield result
                    self._request.progress(
                        "analysing", done, result.frame.time, reader.info.duration
                    )

    def _other_streams(self, report: ReadReport) -> list[Verdict | VideoError]:
        """Judge the other picture streams, in which a file could hide a face."""
        found: list[Verdict | VideoError] = []
        if not any(reason.startswith(OTHER_STREAMS) for reason in report.reasons):
            return found
        for stream in range(1, self._options.limits.streams + 2):
            try:
                with self._open("pyav", stream) as reader:
                    evidence = Evidence()
                    results = self._analyze(reader.frames())
                    with closing(results):
                        for result in results:
                            evidence.add(result)
                    found.append(
                        self._decide(evidence, account_streams(reader.report(), ()), reader.info)
                    )
            except NoStreamError:
                break
            except NoVideoError:  # sound embedded in a picture
                continue
            except LimitError as error:
                found.append(error)
                if error.reason == "limit_streams":
                    break
            except VideoError as error:
                found.append(error)
        return found

    def _decide(
        self,
        evidence: Evidence,
        report: ReadReport,
        info: VideoInfo,
        error: VideoError | None = None,
    ) -> Verdict:
        scanner = self._scanner
        return decide(
            evidence,
            report,
            scanner.calibration,
            self._options,
            model=scanner.engine.model,
            engine=scanner.engine.info,
            video=info,
            failure=None if error is None else Reason(error.reason, str(error)),
        )

    def _conclude(
        self,
        found: PassResult,
        refined: Refinement | None,
        report: ReadReport,
        info: VideoInfo,
    ) -> Scan:
        """The scan: the verdict over all streams with its notes, and all other facts."""
        facts = self._facts
        assert facts.identity is not None and facts.sha256 is not None
        report = unless_changed(report, facts.identity, facts.file)
        others: list[Verdict | VideoError] = []
        if not self._budget.used_up:
            others = self._other_streams(report)
            report = account_streams(report, others)
        info = replace(info, decoder=report.decoder, decoder_reason=report.decoder_reason)
        verdict = self._decide(found.evidence, report, info, found.failure)
        verdict = of_part(with_streams(verdict, others), self._options, found.sampled)
        if refined is not None:
            verdict = with_note(verdict, refined.note)
        if facts.verdict_video:
            text = "the file says that it is a verdict video of deepscan, with masks drawn into it"
            verdict = with_note(verdict, Reason("verdict_video", text))
        if found.out_of_time:
            text = f"the budget was used up at {found.evidence.last:.1f} s of the media"
            verdict = of_budget(verdict, f"{text}; nothing after that was analysed")
        elif refined is not None and refined.undone and refined.failure is None:
            verdict = of_budget(verdict, refined.left_undone)
        return Scan(
            path=self._request.path,
            sha256=facts.sha256,
            size=facts.identity[2],
            verdict=verdict,
            report=report,
            settings=self._options.flat(),
            versions=installed_versions(),
            timings=self._watch.timings,
            started=facts.started,
            first_pts=found.first_pts(info.time_base),
            ignored=self._left_alone(verdict, others),
            provenance=facts.provenance,
        )

    def _left_alone(
        self, verdict: Verdict, others: Iterable[Verdict | VideoError]
    ) -> tuple[str, ...]:
        """Notes for people: other picture streams, and a mask video that cannot be."""
        notes = [stream_note(n, v) for n, v in enumerate(others, 1)]
        asked = "masks" in {**self._request.outputs, **self._request.if_found}
        if asked and not verdict.model.has_mask:
            model = verdict.model.name
            notes.append(f"no mask video: the model {model} gives a score for a face and no mask")
        return tuple(notes)


def _check_passed(path: Path, passed: int, known: int) -> None:
    if passed != known:
        raise CorruptError(
            f"{path}: it has {passed} frames where an interrupted scan found {known}"
        )


def _load(
    options: ScanOptions, engine: Engine | None, detector: FaceDetector | None
) -> tuple[Engine, FaceDetector]:
    """Load the engine and detector that are not given; closes both if one cannot be loaded."""
    with ExitStack() as held:
        loaded = engine or load_engine(options.engine, options.model)
        held.callback(loaded.close)
        found = loaded, detector or load_detector(options)
        held.pop_all()
    return found


def _close(models: Iterable[Engine | FaceDetector]) -> None:
    for each in models:
        each.close()


def load_detector(options: ScanOptions) -> FaceDetector:
    detector: FaceDetector = resolve_name(DETECTORS[options.detector])(
        min_face=options.min_face,
        min_confidence=options.min_confidence,
        max_faces=CROWD * options.max_faces,
    )
    return detector
