"""The command line: read arguments, call, turn the outcome into an exit code.

Everything heavy is imported inside functions, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import traceback
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from deepscan import __version__
from deepscan.cli import arguments
from deepscan.cli import engine as engine_cli
from deepscan.cli import results as results_cli
from deepscan.cli.arguments import (
    KINDS,
    count,
    kinds,
    listed,
    one_of,
    rate,
    seconds,
    sinks,
    size_in_bytes,
)
from deepscan.cli.console import (
    errors,
    is_terminal,
    log_to_stderr,
    print_aside,
    print_line,
    print_message,
    silence_stdout,
)
from deepscan.errors import OutputError, UsageError
from deepscan.exit_codes import ERROR, INTERRUPTED, OK, ExitPolicy, counted
from deepscan.options import ScanOptions
from deepscan.sinks.wording import probability, time_span, visible

if TYPE_CHECKING:
    from deepscan.archive.inputs.listing import Counts
    from deepscan.archive.options import ArchiveOptions
    from deepscan.archive.records import Outcome
    from deepscan.archive.run import RunResult
    from deepscan.archive.workers.contract import WorkerPool
    from deepscan.types import Label, Scanned, Skipped

DEFAULTS = ScanOptions()
_FOUND = ("video", "masks", "frames", "html")  # of an archive's files with a finding
_ENDING = tuple(name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_PATTERN = re.compile(r"[*?]|\[.+\]")
_REPORTS = ("html", "csv", "jsonl", "sarif", "junit")
_EPILOG = """
Exit codes: 0 no finding; 1 at least one file manipulated; 2 a file or the scan failed; 3 no
finding, but at least one file inconclusive; 130 interrupted. Over several files 2 comes before 1
before 3 before 0. No label says "real": deepscan can only fail to find.

Other commands: `deepscan doctor` tells what works on this machine and why; `deepscan engine`
builds, lists, checks, measures and removes engines. Over results: `deepscan diff` tells which
verdicts moved, `deepscan verify` checks a result, `deepscan merge` joins the results of shards,
`deepscan report` writes reports again, `deepscan journal` shows and repairs a journal.
"""


app = typer.Typer(
    cls=arguments.DefaultIsScan,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(engine_cli.app, name="engine")
results_cli.register(app)


@app.callback(invoke_without_command=True)
def _group(version: Annotated[bool, typer.Option("--version")] = False) -> None:
    """deepscan finds manipulated faces in video."""
    if version:
        typer.echo(f"deepscan {__version__}")
        raise typer.Exit


@app.command(cls=arguments.Grouped, epilog=_EPILOG)
def scan(
    inputs: arguments.Inputs,
    out: arguments.Out = None,
    write: arguments.Write = None,
    write_found: arguments.WriteFound = None,
    report: arguments.Report = None,
    force: arguments.Force = False,
    include: arguments.Include = None,
    exclude: arguments.Exclude = None,
    follow_links: arguments.FollowLinks = False,
    jobs: arguments.Jobs = None,
    devices: arguments.Devices = None,
    watch: arguments.Watch = False,
    fresh: arguments.Fresh = False,
    paranoid: arguments.Paranoid = False,
    shard: arguments.Shard = None,
    cluster: arguments.Cluster = None,
    min_free: arguments.MinFree = "512M",
    decoder: arguments.Decoder = DEFAULTS.decoder,
    engine: arguments.Engine = DEFAULTS.engine,
    model: arguments.Model = DEFAULTS.model,
    min_face: arguments.MinFace = DEFAULTS.min_face,
    min_coverage: arguments.MinCoverage = DEFAULTS.min_coverage,
    stride: arguments.Stride = DEFAULTS.stride,
    start: arguments.Start = None,
    end: arguments.End = None,
    triage: arguments.Triage = False,
    budget: arguments.Budget = None,
    max_false_alarms: arguments.MaxFalseAlarms = None,
    fail_on: arguments.FailOn = "manipulated",
    require_face: arguments.RequireFace = False,
    allow_inconclusive: arguments.AllowInconclusive = None,
    baseline: arguments.Baseline = None,
    exit_zero: arguments.ExitZero = False,
    format_: arguments.Format = "text",
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
) -> None:
    """Scan videos for manipulated faces: a verdict for each, masks, a record and a report.

    deepscan video.mp4 --out result.mp4

    deepscan ARCHIVE --out RESULTS
    """
    log_to_stderr(quiet=quiet, debug=debug)
    with errors(debug=debug):
        options = ScanOptions(
            decoder=one_of("--decoder", decoder, ("auto", "decord", "pyav")),  # type: ignore[arg-type]
            engine=engine,
            model=model,
            min_face=min_face,
            min_coverage=min_coverage,
            stride=stride,
            start=seconds("--start", start) or 0.0,
            end=seconds("--end", end),
            triage=triage,
            budget=seconds("--budget", budget),
            false_alarm_rate=rate("--max-false-alarms", max_false_alarms),
        )
        one_of("--format", format_, ("text", "json"))
        one_of("--fail-on", fail_on, ("manipulated", "suspicious"))
        allowed = count("--allow-inconclusive", allow_inconclusive)
        policy = ExitPolicy(fail_on == "suspicious", require_face, False, exit_zero)
        wanted = {  # what makes an archive of a few files
            "--write-found": write_found,
            "--report": report,
            "--include": include,
            "--exclude": exclude,
            "--follow-links": follow_links,
            "--jobs": jobs,
            "--devices": devices,
            "--fresh": fresh,
            "--paranoid": paranoid,
            "--baseline": baseline,
            "--shard": shard,
            "--cluster": cluster,
            "--watch": watch,
        }
        if not any(wanted.values()) and not _is_archive(inputs, out):
            paths = [Path(text) for text in inputs]
            targets = _targets(paths, out, write)
            labels = _scan_all(paths, targets, options, force, format_, quiet=quiet)
            raise typer.Exit(_allowing(policy, labels, allowed).code(labels))
        if force:
            raise UsageError("--force is for single files: an archive goes on, or use --fresh")
        from deepscan.archive.options import ArchiveOptions
        from deepscan.archive.shard import Shard

        code = _scan_archive(
            inputs,
            out,
            options,
            ArchiveOptions(
                write=sinks("--write", write or "json"),
                write_found=sinks("--write-found", write_found or ",".join(_FOUND)),
                reports=listed(report or ",".join(_REPORTS)),
                include=tuple(include or ()),
                exclude=tuple(exclude or ()),
                follow_links=follow_links,
                jobs=jobs,
                devices=listed(devices or ""),
                fresh=fresh,
                paranoid=paranoid,
                shard=None if shard is None else Shard.parse(shard),
                cluster=cluster,
                watch=watch,
                min_free=size_in_bytes("--min-free", min_free),
                baseline=baseline,
                command=tuple(sys.argv),
            ),
            lambda labels: _allowing(policy, labels, allowed).code(labels),
            format_,
            quiet=quiet,
        )
    raise typer.Exit(code)


@app.command()
def doctor(format_: arguments.Format = "text") -> None:
    """Tell what works on this machine: versions, decoders, engines, the model's self-test."""
    from deepscan.cli.doctor import examine

    with errors():
        one_of("--format", format_, ("text", "json"))
        report = examine(DEFAULTS)
        print_line(report.to_json() if format_ == "json" else report.to_text())
    raise typer.Exit(0 if report.ok else ERROR)


def _scan_all(
    inputs: list[Path],
    targets: list[dict[str, Path]],
    options: ScanOptions,
    force: bool,
    format_: str,
    *,
    quiet: bool,
) -> list[Label]:
    from deepscan.cli.progress import Bar
    from deepscan.files import check_outputs
    from deepscan.scan.scanner import Scanner

    for target in targets:
        check_outputs(target, inputs, force=force)
    labels: list[Label] = []
    with Scanner(options) as scanner:
        try:
            with Bar(enabled=not quiet and is_terminal(sys.stderr)) as bar:
                for path, target in zip(inputs, targets, strict=True):
                    outcome = scanner.scan(path, target, force=force, progress=bar.of(path))
                    labels.append(outcome.label)
                    bar.finish()
                    print_line(_told(outcome, format_))
        finally:  # also what was done before an error or Ctrl-C is counted
            if format_ == "text":
                print_line(counted(labels))
            elif not quiet:
                print_aside(counted(labels))
    return labels


def _told(outcome: Scanned | Skipped, format_: str) -> str:
    if format_ == "text":
        from deepscan.cli.text_answer import text_answer

        return text_answer(outcome)
    from deepscan.sinks.record import error_record, host_facts, record_of
    from deepscan.types import Scanned

    if isinstance(outcome, Scanned):
        record = record_of(outcome.scan, outcome.outputs, host=host_facts())
    else:
        record = error_record(outcome, host=host_facts())
    return json.dumps(record, sort_keys=True, ensure_ascii=True, allow_nan=False)


def _targets(inputs: list[Path], out: Path | None, write: str | None) -> list[dict[str, Path]]:
    """For each input the files to write: sink -> path."""
    if out is None:
        if write is not None:
            raise UsageError("--write without --out: name what to write to, --out RESULT.mp4")
        return [{} for _ in inputs]
    chosen = kinds("--write", ",".join(KINDS) if write is None else write)
    if len(inputs) == 1 and not out.is_dir():
        stem = out.name.removesuffix(out.suffix)
        if out.suffix.lower() not in (".mp4", ".json", ".html", ""):
            raise UsageError(f"--out {out}: name the verdict video, RESULT.mp4")
        return [{KINDS[k][0]: out.with_name(stem + KINDS[k][1]) for k in chosen}]
    if out.suffix and not out.is_dir():
        raise UsageError(f"--out {out} is one file for {len(inputs)} inputs: name a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {out} cannot be made: {error.strerror}") from error
    stems = [path.stem for path in inputs]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = [f"{stem}-{number}" for number, stem in enumerate(stems, start=1)]
    return [{KINDS[k][0]: out / (stem + KINDS[k][1]) for k in chosen} for stem in stems]


def _is_archive(inputs: list[str], out: Path | None) -> bool:
    """Whether an input may stand for any number of files, or results are there to go on with.

    Raises:
        UsageError: there is nowhere for the results of many files.
    """
    from deepscan.archive.inputs.remote import is_address

    for text in inputs:
        path = Path(text)
        if (
            text == "-"
            or is_address(text)
            or path.is_dir()
            or ((text[:1] == "@" or _PATTERN.search(text)) and not path.exists())
        ):
            if out is None:
                raise UsageError(f"{text} may be many files: name a folder, --out RESULTS")
            return True
    if out is None or not out.is_dir():
        return False
    from deepscan.archive.journal import is_results

    return is_results(out)


def _scan_archive(
    inputs: list[str],
    out: Path | None,
    options: ScanOptions,
    archive_options: ArchiveOptions,
    code_of: Callable[[list[Label]], int],
    format_: str,
    *,
    quiet: bool,
) -> int:
    """Scan an archive and answer; its exit code."""
    if out is None:
        raise UsageError("an archive needs --out RESULTS, a folder for its results")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder for the results of an archive")
    from deepscan.archive.events import StopRequest
    from deepscan.archive.live import open_view
    from deepscan.archive.run import scan_archive

    for device in archive_options.devices:
        if device != "cpu" and not re.fullmatch(r"cuda(:\d{1,3})?", device):
            raise UsageError(f"--devices {device}: give cpu, or cuda:0,cuda:1,...")
    accepts = _acceptance(archive_options.baseline)

    def code_without_accepted(outcomes: Sequence[Outcome]) -> int:
        return code_of([each.label for each in outcomes if not accepts(each)])

    stop_request = StopRequest()
    signal.signal(signal.SIGINT, lambda *_: stop_request.stop())
    for name in _ENDING:
        signal.signal(getattr(signal, name), lambda *_: stop_request.abort())
    pool = _pool(options, archive_options, out)
    told: dict[str, Outcome] = {}

    def scan_once(pool: WorkerPool, archive_options: ArchiveOptions) -> RunResult:
        with open_view(sys.stderr, quiet=quiet) as view:
            ended = scan_archive(
                inputs,
                out,
                options=options,
                pool=pool,
                archive_options=archive_options,
                on_event=view.take,
                stop_request=stop_request,
                code_of=code_without_accepted,
                stdin=getattr(sys.stdin, "buffer", None),
            )
        for outcome in ended.outcomes:
            if format_ == "json":
                print_line(json.dumps(outcome.to_json(), sort_keys=True, allow_nan=False))
            elif outcome.label not in _QUIET_LABELS:
                print_line(_file_line(outcome, accepted=accepts(outcome)))
            told[outcome.name] = outcome
        for error in ended.report_errors:
            print_message(f"a report could not be written: {error}")
        return ended

    try:
        if archive_options.watch:
            _watch(inputs, out, pool, archive_options, scan_once)
            return INTERRUPTED
        ended = scan_once(pool, archive_options)
        if not quiet and (passed := _skipped_text(ended.counts)):
            print_message(passed)
        if ended.interrupted:
            print_message("the same command goes on from here")
        return ended.exit_code
    finally:
        if told:
            counts = counted(outcome.label for outcome in told.values())
            if accepted := sum(map(accepts, told.values())):
                counts += f" ({accepted} accepted by the baseline)"
            if format_ == "text":
                print_line(counts)
            elif not quiet:
                print_aside(counts)


def _watch(
    inputs: list[str],
    out: Path,
    pool: WorkerPool,
    archive_options: ArchiveOptions,
    scan_once: Callable[[WorkerPool, ArchiveOptions], RunResult],
) -> None:
    """Scan what comes into folders until somebody ends it; engines are loaded once."""
    from contextlib import closing

    from deepscan.archive.watch import ReusedPool, watch

    fresh = archive_options.fresh
    with closing(ReusedPool(pool)) as reused:

        def scan_these(patterns: tuple[str, ...]) -> bool:
            nonlocal fresh
            ended = scan_once(
                reused.lease(), replace(archive_options, include=patterns, fresh=fresh)
            )
            fresh = False
            return not ended.interrupted

        out.mkdir(parents=True, exist_ok=True)
        watch(inputs, out, scan_these, archive_options=archive_options)


def _pool(options: ScanOptions, archive_options: ArchiveOptions, out: Path) -> WorkerPool:
    """Who scans: this machine, or a cluster."""
    from deepscan.archive.workers import WORKER_POOLS

    given: dict[str, Any] = {
        "jobs": archive_options.jobs,
        "devices": archive_options.devices,
    }
    name = "local"
    if archive_options.cluster is not None:
        name = "ray"
        given |= {"results": out, "address": archive_options.cluster}
    module, _, attribute = WORKER_POOLS[name].partition(":")
    pool: WorkerPool = getattr(import_module(module), attribute)(options, **given)
    return pool


def _skipped_text(counts: Counts) -> str:
    """What was not scanned and has no result of its own; nothing goes missing in silence."""
    parts = [
        f"{number:,} {what}"
        for number, what in (
            (counts.not_media, "without a suffix of video or pictures"),
            (counts.excluded, "excluded"),
            (counts.repeated, "named twice"),
            (len(counts.results), "folders of results"),
        )
        if number
    ]
    return f"passed over: {', '.join(parts)}" if parts else ""


_QUIET_LABELS = ("no-evidence", "not-applicable")  # counted, not listed


def _acceptance(path: Path | None) -> Callable[[Outcome], bool]:
    """Whether a baseline accepts an outcome today."""
    if path is None:
        return lambda outcome: False
    from datetime import UTC, datetime

    from deepscan.archive.baseline import read_baseline

    baseline, today = read_baseline(path), datetime.now(UTC).date()
    return lambda outcome: baseline.accepts(outcome, today) is not None


def _file_line(outcome: Outcome, *, accepted: bool) -> str:
    """One line about a file of an archive."""
    told = f"{outcome.name}: {outcome.label}"
    if outcome.score is not None and outcome.intervals:
        told += f", P(manipulated) {probability(outcome.score)}"
        told += f", {time_span(outcome.intervals[0].start, outcome.intervals[-1].end)}"
    elif outcome.reasons:
        told += f", {outcome.reasons[0].code}"
    if outcome.same_as is not None:
        told += f", the same content as {outcome.same_as}"
    return visible(told + (" (accepted by the baseline)" if accepted else ""))


def _allowing(policy: ExitPolicy, labels: Sequence[Label], allowed: int | None) -> ExitPolicy:
    """The policy, where so many inconclusive files are let pass; None: none."""
    inconclusive = sum(label == "inconclusive" for label in labels)
    passes = allowed is not None and inconclusive <= allowed
    return replace(policy, allow_inconclusive=passes)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def run() -> NoReturn:
    """Run the command line and exit. No exit code but 1 of a finding is 1."""
    for name in _ENDING:
        signal.signal(getattr(signal, name), _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # whatever the terminal's encoding is
    try:
        code = app(prog_name="deepscan", standalone_mode=False) or OK
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit:  # typer's only one: nobody reads the help any more
        silence_stdout()
        code = OK
    except Exception as error:
        # Typer brings its own copy of click, older ones do not: their errors have no common name.
        wrong_usage = getattr(error, "format_message", None)
        if wrong_usage is None:
            traceback.print_exc()
            print_message("this is a bug, please report it with the lines above")
        else:
            print_message(f"{wrong_usage()} See deepscan --help")
        code = ERROR
    for name in ("SIGINT", *_ENDING):  # all is done: a second Ctrl-C must not change the code
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # CPython marks an interruption that passes through a text which it runs (dataclasses are made
    # of such), also one that is caught, and `python -m` then dies with SIGINT in place of our exit
    # code. The next such text takes the mark away, and a named tuple is made of one.
    namedtuple("_Unmark", ())
    if code == INTERRUPTED:
        print_message("interrupted; nothing half-written was left")
    sys.exit(code)
