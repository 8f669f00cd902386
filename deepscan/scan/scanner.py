"""Putting the parts together: one file to one verdict, several files one by one.

A scan takes two passes. The first decodes, finds faces, judges them and ends in a verdict; the
second, only if files are to be written, reads the results again, with the pictures where a sink
shows them, and hands them to the sinks, which know the verdict from the start.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from deepscan.c2pa import read_provenance
from deepscan.engines.engine import Engine
from deepscan.engines.load import load_engine
from deepscan.engines.packages import installed_versions
from deepscan.errors import (
    CorruptError,
    NoVideoError,
    UsageError,
    VideoError,
)
from deepscan.faces import DETECTORS
from deepscan.faces.detector import FaceDetector
from deepscan.files import (
    atomic_outputs,
    check_outputs,
    finished,
    identity_of,
    resolve,
    unless_changed,
)
from deepscan.models.weights import read_card
from deepscan.options import Decoder, ScanOptions
from deepscan.scan import pipeline, triage
from deepscan.scan.frame_store import Spool
from deepscan.scan.pass_result import Findings
from deepscan.scan.pipeline import (
    Handover,
    Stretch,
    analyze,
    behind,
    fan_out,
    prefetch,
    stretches_of,
)
from deepscan.scan.timing import Stopwatch, TimedDetector, TimedEngine
from deepscan.scan.triage import Budget, Dense, doubts_of, look_again
from deepscan.sinks import SINKS, sink_class
from deepscan.sinks.record import error_record, host_facts, write_record
from deepscan.sinks.sink import Sink
from deepscan.types import (
    Frame,
    FrameResult,
    Label,
    Output,
    ReadReport,
    Reason,
    Scan,
    Scanned,
    Skipped,
    Verdict,
    VideoInfo,
)
from deepscan.verdict.decide import ONE_FRAME, Calibration, Evidence, judge
from deepscan.verdict.notes import check_part, of_budget, of_part, with_note
from deepscan.verdict.streams import accounted, stream_note, with_streams
from deepscan.video import open_video
from deepscan.video.contract import OTHER_STREAMS, VideoReader
from deepscan.video.input_file import hash_file
from deepscan.video.isolation.launcher import warm_up

logger = logging.getLogger(__name__)

FOUND = (Label.MANIPULATED, Label.SUSPICIOUS)  # worth a video and masks even in an archive

Progress = Callable[[str, int, float, float | None], None]
"""Told after every frame: "analysing" or "writing", frames so far, media seconds so far and in
all (None where unknown)."""


def _ignore(stage: str, frames: int, seconds: float, duration: float | None) -> None:
    """Progress that nobody watches."""


def scan_video(
    path: Path | str, options: ScanOptions | None = None, *, progress: Progress = _ignore
) -> Verdict:
    """Scan one video or picture; nothing is written.

    Raises:
        VideoError: the file cannot be judged; `reason` says why.
        EngineError, ModelError: the network cannot run.
    """
    with Scanner(options or ScanOptions()) as scanner:
        return scanner._scan(Path(path), {}, {}, {}, progress).scan.verdict


def analyze_video(path: Path | str, options: ScanOptions | None = None) -> Iterator[FrameResult]:
    """Yield the result of every frame, with pictures, crops and masks, as it is made.

    Scores are those of the network, not calibrated; the verdict needs all of them.

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
        yield from analyze(reader.frames(), scanner.detector, scanner.engine, chosen)


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
        outputs: gives, for an input, the files to write: sink name -> path.
        force: overwrite files that are there.

    Raises:
        OutputError, EngineError, ModelError: these would meet every file.
    """
    with Scanner(options or ScanOptions()) as scanner:
        for path in paths:
            yield scanner.scan(path, outputs(path), force=force, progress=progress)


class Scanner:
    """A loaded engine and face detector, ready for any number of files. Use it with `with`."""

    def __init__(
        self,
        options: ScanOptions,
        *,
        engine: Engine | None = None,
        detector: FaceDetector | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """Load what is not given. All of it is closed at the end, given or not.

        Raises:
            EngineError, ModelError: the network cannot run, or has no calibration.
            UsageError: no such face detector, or a part of the media that cannot be.
        """
        check_part(options)
        if options.isolate:
            warm_up()  # while the network is loaded
        self.options = options
        self.calibration = calibration or Calibration.from_card(read_card(options.model).values)
        self.calibration.at(options.false_alarm_rate)  # a rate it cannot promise fails here
        with ExitStack() as held:
            self.engine: Engine = (
                load_engine(options.engine, options.model) if engine is None else engine
            )
            held.callback(self.engine.close)
            self.detector = detector or _load_detector(options)
            held.callback(self.detector.close)
            self._held = held.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

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
        """Scan one file and write what is asked for.

        Media longer than `pipeline.SEGMENT` may be interrupted, also by a kill: with the same
        checkpoint a later scan of the same content, settings and weights goes on at the last border
        between two segments, and ends as it would have ended. Not so with triage, which is short.

        Args:
            outputs: sink name -> file to write, whatever the verdict.
            if_found: more of them, for a file that is manipulated or suspicious.
            force: overwrite files that are there.
            checkpoint: a folder of this file alone for what was found so far; made if there is
                something to keep, and taken away when the file is done.

        Raises:
            UsageError: an unknown sink, or an output that is the input.
            OutputError: an output is there already and `force` is not set, or cannot be written.
            EngineError: the engine failed.
        """
        wanted = dict(outputs or {})
        more = dict(if_found or {})
        for kind in {**wanted, **more}:
            sink_class(kind)
        check_outputs({**wanted, **more}, [path], force=force)
        known: dict[str, Any] = {}
        try:
            return self._scan(path, wanted, more, known, progress, checkpoint)
        except VideoError as error:
            skipped = _skipped(path, error)
            logger.info("%s: %s", path, error)
            if "record" not in wanted:
                return skipped
            final = wanted["record"]
            with atomic_outputs({"record": final}) as parts:
                settings, versions = _settings(self.options), installed_versions()
                record = error_record(
                    skipped, settings=settings, versions=versions, host=host_facts(), **known
                )
                write_record(parts["record"], record)
                outputs_made = (finished("record", parts["record"], final),)
            return dataclasses.replace(skipped, outputs=outputs_made)

    def _scan(
        self,
        path: Path,
        wanted: Mapping[str, Path],
        if_found: Mapping[str, Path],
        known: dict[str, Any],
        progress: Progress,
        checkpoint: Path | None = None,
    ) -> Scanned:
        """Like `scan`, but raises. What is learnt on the way to an error stays in `known`."""
        options, watch, budget = self.options, Stopwatch(), Budget(self.options.budget)
        known["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        source = resolve(path)
        with watch.measure("hash"):
            before = identity_of(source)
            known["size"] = before[2]
            known["sha256"] = hash_file(source, options.limits)
        with watch.measure("provenance"):
            known["provenance"] = read_provenance(source, options.limits)
        with ExitStack() as held:
            with watch.measure("open"):
                reader = self._open(source)
            with reader:
                info = dataclasses.replace(reader.info, path=path)
                triaged = triage.wanted(options, info)
                if triaged or info.still or (info.duration or math.inf) <= pipeline.SEGMENT:
                    checkpoint = None
                spool = held.enter_context(Spool(checkpoint, self._key(known["sha256"])))
                keep = wanted or if_found or triaged or checkpoint
                findings = Findings(spool if keep else None)
                began = time.monotonic()
                error, stopped = self._look(
                    reader, info, findings, triaged, watch, budget, progress
                )
                took = time.monotonic() - began
                report = reader.report()
            if not findings.frames:
                raise CorruptError(f"{path} holds no frame that can be decoded")
            dense: Dense | None = None
            if triaged and error is None:
                coarse, findings = findings, Findings(held.enter_context(Spool()))
                dense = look_again(
                    doubts_of(coarse.evidence, self.calibration, options),
                    coarse,
                    findings,
                    functools.partial(self._look_at, source, watch, progress),
                    options,
                    budget,
                    rate=float(info.frame_rate),
                    pace=took / max(coarse.evidence.last - info.time_offset, ONE_FRAME),
                )
                error = dense.failure
            report = unless_changed(report, before, source)
            beside: list[Verdict | VideoError] = []
            if not budget.used_up:
                beside = self._other_streams(source, report, watch)
                report = accounted(report, beside)
            info = dataclasses.replace(
                info, decoder=report.decoder, decoder_reason=report.decoder_reason
            )
            verdict = self._judge(findings.evidence, report, info, error)
            verdict = of_part(with_streams(verdict, beside), options, findings.looked)
            if dense is not None:
                verdict = with_note(verdict, dense.note)
            if stopped:
                text = f"the budget was used up at {findings.evidence.last:.1f} s of the media"
                verdict = of_budget(verdict, f"{text}; nothing behind it was looked at")
            elif dense is not None and dense.undone and dense.failure is None:
                verdict = of_budget(verdict, dense.left_undone)
            scan = Scan(
                path=path,
                sha256=known["sha256"],
                size=known["size"],
                verdict=verdict,
                report=report,
                settings=_settings(options),
                versions=installed_versions(),
                timings=watch.timings,
                started=known["started"],
                first_pts=findings.first_pts(info.time_base),
                ignored=tuple(stream_note(n, v) for n, v in enumerate(beside, 1)),
                provenance=known["provenance"],
            )
            if verdict.label in FOUND:
                wanted = {**wanted, **if_found}
            kept = findings.spool or spool
            written = self._write(source, scan, kept, wanted, watch, progress)
            return Scanned(path, dataclasses.replace(scan, timings=watch.timings), written)

    def _open(self, source: Path, decoder: Decoder | None = None, stream: int = 0) -> VideoReader:
        options = self.options
        return open_video(
            source,
            decoder=decoder or options.decoder,
            limits=options.limits,
            isolate=options.isolate,
            stream=stream,
        )

    def _look(
        self,
        reader: VideoReader,
        info: VideoInfo,
        findings: Findings,
        triaged: bool,
        watch: Stopwatch,
        budget: Budget,
        progress: Progress,
    ) -> tuple[VideoError | None, bool]:
        """The first pass, from the last mark on: the error that ended it, and whether time did.

        Raises:
            VideoError: nothing could be read at all, or not what was read before.
        """
        border = 0.0
        stretches = stretches_of(self.options, every=1 / triage.LOOKS if triaged else 0.0)
        if findings.spool is not None and findings.spool.marked is not None:
            for kept in findings.spool.kept():
                findings.add_again(kept)
            border = float(findings.spool.marked["border"])
            stretches = behind(stretches, border)
            logger.info("%s: going on at %.0f s", info.path, border)
        known = findings.frames
        passed = 0
        with closing(self._chain(reader, watch, stretches, findings.handover)) as chain:
            try:
                for result in chain:
                    at = result.frame.time
                    if at < border:
                        passed += 1
                        progress("analysing", passed, at, info.duration)
                        continue
                    _check_passed(info.path, passed, known)
                    here = at // pipeline.SEGMENT * pipeline.SEGMENT
                    if here > border and findings.spool is not None:
                        border = here
                        findings.spool.mark({"border": border})
                    with watch.measure("spool"):
                        findings.add(result)
                    progress("analysing", findings.frames, at, info.duration)
                    if budget.used_up:
                        return None, True
            except VideoError as error:
                if not findings.frames:
                    raise
                return error, False
        _check_passed(info.path, passed, known)
        return None, False

    def _look_at(
        self,
        source: Path,
        watch: Stopwatch,
        progress: Progress,
        stretches: Iterable[Stretch],
        handover: Handover,
    ) -> Generator[FrameResult]:
        """Read the file once more and look at some stretches of it."""
        with (
            self._open(source) as reader,
            closing(self._chain(reader, watch, stretches, handover)) as chain,
        ):
            for done, result in enumerate(chain, start=1):
                yield result
                progress("analysing", done, result.frame.time, reader.info.duration)

    def _chain(
        self,
        reader: VideoReader,
        watch: Stopwatch,
        stretches: Iterable[Stretch] | None = None,
        handover: Handover | None = None,
    ) -> Generator[FrameResult]:
        """All results of a reader. Its threads use the reader: close it before that."""
        return analyze(
            watch.each("decode", reader.frames()),
            TimedDetector(self.detector, watch),
            TimedEngine(self.engine, watch),
            self.options,
            stretches=stretches,
            handover=handover,
        )

    def _judge(
        self,
        evidence: Evidence,
        report: ReadReport,
        info: VideoInfo,
        error: VideoError | None = None,
    ) -> Verdict:
        return judge(
            evidence,
            report,
            self.calibration,
            self.options,
            model=self.engine.model,
            engine=self.engine.info,
            video=info,
            failure=None if error is None else Reason(error.reason, str(error)),
        )

    def _key(self, sha256: str) -> str:
        """Of all that decides what is found in a content; a checkpoint of another is not used."""
        decides = {
            "content": sha256,
            "settings": _settings(self.options),
            "model": self.engine.model.sha256,
            "engine": self.engine.name,
            "versions": installed_versions(),
            "segment": pipeline.SEGMENT,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def _other_streams(
        self, source: Path, report: ReadReport, watch: Stopwatch
    ) -> list[Verdict | VideoError]:
        """Judge the picture streams beside the main one: a file must not hide a face in them."""
        found: list[Verdict | VideoError] = []
        if not any(reason.startswith(OTHER_STREAMS) for reason in report.reasons):
            return found
        while True:
            try:
                with self._open(source, "pyav", len(found) + 1) as reader:
                    evidence = Evidence()
                    with closing(self._chain(reader, watch)) as chain:
                        for result in chain:
                            evidence.add(result)
                    report = accounted(reader.report(), ())
                    found.append(self._judge(evidence, report, reader.info))
            except NoVideoError:
                return found
            except VideoError as error:
                found.append(error)

    def _write(
        self,
        source: Path,
        scan: Scan,
        spool: Spool,
        wanted: Mapping[str, Path],
        watch: Stopwatch,
        progress: Progress,
    ) -> tuple[Output, ...]:
        """The second pass: all sinks but the record at once, then the record, then the renaming."""
        wanted = {kind: wanted[kind] for kind in SINKS if kind in wanted}
        with atomic_outputs(wanted) as parts:
            with ExitStack() as held:
                sinks: dict[str, Sink] = {}
                for kind, part in parts.items():
                    if kind != "record":
                        sinks[kind] = sink_class(kind)(part, scan)
                        held.callback(sinks[kind].abort)
                if sinks:
                    self._feed(source, scan, spool, sinks, watch, progress)
                made: tuple[Output, ...] = ()
                for kind, sink in sinks.items():
                    with watch.measure(kind):
                        sink.close(made)
                    made += (finished(kind, parts[kind], wanted[kind]),)
                held.pop_all()
            if "record" in parts:
                timed = dataclasses.replace(scan, timings=watch.timings)
                sink_class("record")(parts["record"], timed).close(made)
                made += (finished("record", parts["record"], wanted["record"]),)
        return made

    def _feed(
        self,
        source: Path,
        scan: Scan,
        spool: Spool,
        sinks: Mapping[str, Sink],
        watch: Stopwatch,
        progress: Progress,
    ) -> None:
        """Hand every result to every sink, with pictures if one of them shows any."""
        with ExitStack() as held:
            frames: Iterator[Frame] | None = None
            if any(sink.needs_images for sink in sinks.values()):
                # What the first pass read is read again by the reader that read it.
                decoder = scan.report.decoder
                still = scan.verdict.video is not None and scan.verdict.video.still
                again: Decoder = "decord" if decoder == "decord" else "auto" if still else "pyav"
                reader = held.enter_context(self._open(source, again))
                frames = held.enter_context(
                    closing(prefetch(watch.each("decode again", reader.frames())))
                )
            duration = scan.verdict.coverage.seconds
            writing = [watch.around(kind, sink.write) for kind, sink in sinks.items()]
            handed = held.enter_context(closing(fan_out(spool.replay(frames), writing)))
            for done, result in enumerate(handed, start=1):
                progress("writing", done, result.frame.time, duration)


def _check_passed(path: Path, passed: int, known: int) -> None:
    if passed != known:
        raise CorruptError(
            f"{path}: {passed} frames lie where an interrupted scan has found {known}"
        )


def _skipped(path: Path, error: VideoError) -> Skipped:
    label = Label.NOT_APPLICABLE if isinstance(error, NoVideoError) else Label.ERROR
    return Skipped(path, label, Reason(error.reason, str(error)))


def _load_detector(options: ScanOptions) -> FaceDetector:
    if options.detector not in DETECTORS:
        raise UsageError(f"no face detector {options.detector!r}; there are {', '.join(DETECTORS)}")
    module, name = DETECTORS[options.detector].split(":")
    detector: FaceDetector = getattr(import_module(module), name)(
        min_face=options.min_face,
        min_confidence=options.min_confidence,
        max_faces=options.max_faces,
    )
    return detector


def _settings(options: ScanOptions) -> tuple[tuple[str, str | int | float | bool | None], ...]:
    flat: dict[str, Any] = {}
    for key, value in dataclasses.asdict(options).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": given for inner, given in value.items()})
        else:
            flat[key] = value
    return tuple(flat.items())
