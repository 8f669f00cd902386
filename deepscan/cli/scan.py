"""The command line: read arguments, call, turn the outcome into an exit code.

Everything heavy is imported inside functions, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import sys
import traceback
from collections import namedtuple
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from deepscan import __version__
from deepscan.cli import engine as engine_cli
from deepscan.cli import results as archive_cli
from deepscan.errors import DeepscanError, OutputError, UsageError
from deepscan.exit_codes import ERROR, INTERRUPTED, OK, ExitPolicy, counted
from deepscan.options import ScanOptions
from deepscan.sinks.wording import clock, probability, visible

if TYPE_CHECKING:
    from deepscan.archive.inputs.listing import Counts
    from deepscan.archive.records import Outcome
    from deepscan.archive.run import Ended, Ways
    from deepscan.archive.workers.contract import Crew
    from deepscan.types import Label, Scanned, Skipped

DEFAULTS = ScanOptions()
KINDS = {  # what --write names -> the sink and what follows the name given by --out
    "video": ("overlay", ".mp4"),
    "masks": ("masks", ".masks.mkv"),
    "json": ("record", ".json"),
    "frames": ("frames", ".frames.jsonl"),
    "html": ("html", ".html"),
}
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


class _DefaultIsScan(TyperGroup):
    """`deepscan VIDEO` means `deepscan scan VIDEO`, and `deepscan --help` tells about that."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        if not args or (args[0] not in self.commands and args[0] != "--version"):
            args = ["scan", *(args or ["--help"])]
        return super().parse_args(ctx, args)


class _Grouped(TyperCommand):
    """Help with the options under headings, without the boxes of rich."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        # An option whose value may be left out is beyond typer: the bare one means "all".
        end = args.index("--") if "--" in args else len(args)
        bare = "--allow-inconclusive"
        args = [f"{bare}=all" if arg == bare else arg for arg in args[:end]] + args[end:]
        return super().parse_args(ctx, args)

    def format_options(self, ctx, formatter):  # type: ignore[no-untyped-def]
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (told := parameter.get_help_record(ctx)) is not None:
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault(panel, []).append(told)
        for panel, lines in groups.items():
            with formatter.section(panel):
                formatter.write_dl(lines)


app = typer.Typer(
    cls=_DefaultIsScan, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.add_typer(engine_cli.app, name="engine")
archive_cli.register(app)


@app.callback(invoke_without_command=True)
def _group(version: Annotated[bool, typer.Option("--version")] = False) -> None:
    """deepscan finds manipulated faces in video."""
    if version:
        typer.echo(f"deepscan {__version__}")
        raise typer.Exit


_RESULTS, _JUDGING = "What is written", "What is judged, and how"
_ARCHIVE, _RUNNING = "Archives: which files", "Archives: how they are scanned"
_CODES, _TELLING = "Exit code", "What is told"


@app.command(cls=_Grouped, epilog=_EPILOG)
def scan(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO",
            help="Videos or pictures; or an archive: folders, patterns such as 'in/**/*.mp4', "
            "@LIST (a file that names files), - (such a list on stdin), addresses (s3://...).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_RESULTS,
            help="Write results: for RESULT.mp4 the verdict video and, beside it, "
            "RESULT.masks.mkv, RESULT.json, RESULT.frames.jsonl and RESULT.html. "
            "For several files or an archive: a folder. A folder that holds results already is "
            "gone on with: what is done is not done again.",
        ),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RESULTS,
            help="Which of them, separated by commas: video,masks,json,frames,html. By default "
            "all, in an archive json.",
        ),
    ] = None,
    write_found: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RESULTS,
            help="Archives: which more where something was found. By default "
            "video,masks,frames,html.",
        ),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RESULTS,
            help="Archives: reports over all files. By default html,csv,jsonl,sarif,junit; there "
            "are sqlite and parquet too.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel=_RESULTS, help="Overwrite results.")
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_ARCHIVE,
            metavar="PATTERN",
            help="Only what matches, such as '*.mp4' or 'cam1/**'. May be given again.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_ARCHIVE, metavar="PATTERN", help="Not what matches. Likewise."
        ),
    ] = None,
    follow_links: Annotated[
        bool,
        typer.Option(
            "--follow-links",
            rich_help_panel=_ARCHIVE,
            help="Follow symbolic links; else each is reported as inconclusive.",
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_RUNNING,
            min=1,
            help="Files at once for each device. By default 2 on a CPU, 4 on CUDA.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RUNNING, help="cpu, or cuda:0,cuda:1,...: a model process on each."
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            rich_help_panel=_RUNNING,
            help="Go on for ever: scan what comes into the folders, until Ctrl-C.",
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            rich_help_panel=_RUNNING,
            help="Scan everything anew; the old journal is kept beside the new one.",
        ),
    ] = False,
    paranoid: Annotated[
        bool,
        typer.Option(
            "--paranoid",
            rich_help_panel=_RUNNING,
            help="Hash also files whose name, size and time are as they were.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RUNNING,
            metavar="I/N",
            help="Only the I-th of N parts, for N machines; `deepscan merge` joins their results.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RUNNING,
            metavar="ray[...]",
            help="Scan on a Ray cluster: ray, ray:HOST:PORT, ray:auto or ray://HOST:PORT. Archive "
            "and results lie under the same paths on every node.",
        ),
    ] = None,
    min_free: Annotated[
        str,
        typer.Option(
            rich_help_panel=_RUNNING, metavar="SIZE", help="Stop when less of the disk is free."
        ),
    ] = "512M",
    decoder: Annotated[
        str,
        typer.Option(
            rich_help_panel=_JUDGING,
            help="auto, decord or pyav.",
        ),
    ] = DEFAULTS.decoder,
    engine: Annotated[
        str,
        typer.Option(
            rich_help_panel=_JUDGING,
            help="auto, or RUNTIME[-DEVICE][-PRECISION]: openvino-bf16, torch-cuda, tensorrt, "
            "torch-cpu-fp32. A named engine runs or fails; only auto looks for another.",
        ),
    ] = DEFAULTS.engine,
    model: Annotated[
        str, typer.Option(rich_help_panel=_JUDGING, help="Network to use.")
    ] = DEFAULTS.model,
    min_face: Annotated[
        int,
        typer.Option(
            rich_help_panel=_JUDGING, help="Smallest face that is judged, in pixels.", min=20
        ),
    ] = DEFAULTS.min_face,
    min_coverage: Annotated[
        float,
        typer.Option(
            rich_help_panel=_JUDGING,
            help="Share of faces to be judged for a conclusion.",
            min=0.0,
            max=1.0,
        ),
    ] = DEFAULTS.min_coverage,
    stride: Annotated[
        int, typer.Option(rich_help_panel=_JUDGING, help="Judge every n-th frame only.", min=1)
    ] = DEFAULTS.stride,
    start: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_JUDGING, metavar="TIME", help="Judge from here on: 90, 1:30 or 2m."
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(rich_help_panel=_JUDGING, metavar="TIME", help="Judge up to here."),
    ] = None,
    triage: Annotated[
        bool,
        typer.Option(
            "--triage",
            rich_help_panel=_JUDGING,
            help="A coarse pass first, then a dense one where it is uncertain.",
        ),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_JUDGING,
            metavar="TIME",
            help="Time for each file, such as 2m; what is left undone is said.",
        ),
    ] = None,
    max_false_alarms: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_JUDGING,
            metavar="N/1000",
            help="Choose the operating point: so many of 1000 unmanipulated files may be called "
            "manipulated.",
        ),
    ] = None,
    fail_on: Annotated[
        str,
        typer.Option(
            rich_help_panel=_CODES,
            help="From which label on the exit code is 1: manipulated or suspicious.",
        ),
    ] = "manipulated",
    require_face: Annotated[
        bool,
        typer.Option(
            "--require-face", rich_help_panel=_CODES, help="Exit code 3 for a file without a face."
        ),
    ] = False,
    allow_inconclusive: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_CODES,
            metavar="[=N]",
            help="Exit code 0 instead of 3; with =N for N inconclusive files at most.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_CODES,
            metavar="FILE",
            help="Archives: verdicts that were reviewed and accepted do not count.",
        ),
    ] = None,
    exit_zero: Annotated[
        bool,
        typer.Option(
            "--exit-zero",
            rich_help_panel=_CODES,
            help="Always exit 0; for those who read the record.",
        ),
    ] = False,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            rich_help_panel=_TELLING,
            help="The answer on stdout: text, or json (one line a file).",
        ),
    ] = "text",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=_TELLING, help="No progress, no log.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", rich_help_panel=_TELLING, help="Log more; show tracebacks.")
    ] = False,
) -> None:
    """Scan videos for manipulated faces: a verdict for each, masks, a record and a report.

    deepscan video.mp4 --out result.mp4

    deepscan ARCHIVE --out RESULTS
    """
    _log(quiet=quiet, debug=debug)
    try:
        options = ScanOptions(
            decoder=_one_of("--decoder", decoder, ("auto", "decord", "pyav")),  # type: ignore[arg-type]
            engine=engine,
            model=model,
            min_face=min_face,
            min_coverage=min_coverage,
            stride=stride,
            start=_seconds("--start", start) or 0.0,
            end=_seconds("--end", end),
            triage=triage,
            budget=_seconds("--budget", budget),
            false_alarm_rate=_rate("--max-false-alarms", max_false_alarms),
        )
        _one_of("--format", format_, ("text", "json"))
        _one_of("--fail-on", fail_on, ("manipulated", "suspicious"))
        allowed = _count("--allow-inconclusive", allow_inconclusive)
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
        code = _scan_archive(
            inputs,
            out,
            options,
            Archived(
                write=_sinks("--write", write or "json"),
                write_found=_sinks("--write-found", write_found or ",".join(_FOUND)),
                reports=_listed(report or ",".join(_REPORTS)),
                include=tuple(include or ()),
                exclude=tuple(exclude or ()),
                follow_links=follow_links,
                jobs=jobs,
                devices=_listed(devices or ""),
                fresh=fresh,
                paranoid=paranoid,
                shard=shard,
                cluster=cluster,
                watch=watch,
                min_free=_bytes("--min-free", min_free),
                baseline=baseline,
            ),
            lambda labels: _allowing(policy, labels, allowed).code(labels),
            format_,
            quiet=quiet,
        )
    except DeepscanError as error:
        _fail(error, debug=debug)
    except BrokenPipeError as error:
        # Typer would take it for a reader of stdout that left and exit with 1, "manipulated".
        raise RuntimeError("a pipe broke inside the scan") from error
    raise typer.Exit(code)


@app.command()
def doctor(
    format_: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Tell what works on this machine: versions, decoders, engines, the model's self-test."""
    from deepscan.cli.doctor import examine

    try:
        _one_of("--format", format_, ("text", "json"))
        report = examine(DEFAULTS)
    except DeepscanError as error:
        _fail(error, debug=False)
    typer.echo(report.to_json() if format_ == "json" else report.to_text())
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
            with Bar(enabled=not quiet and _is_terminal(sys.stderr)) as bar:
                for path, target in zip(inputs, targets, strict=True):
                    outcome = scanner.scan(path, target, force=force, progress=bar.of(path))
                    labels.append(outcome.label)
                    bar.finish()
                    _print(_told(outcome, format_))
        finally:  # also what was done before an error or Ctrl-C is counted
            if format_ == "text":
                _print(counted(labels))
            elif not quiet:
                _print_aside(counted(labels))
    return labels


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _told(outcome: Scanned | Skipped, format_: str) -> str:
    if format_ == "text":
        from deepscan.cli.text_answer import answer

        return answer(outcome)
    from deepscan.sinks.record import error_record, host_facts, record_of
    from deepscan.types import Scanned

    if isinstance(outcome, Scanned):
        record = record_of(outcome.scan, outcome.outputs, host=host_facts())
    else:
        record = error_record(outcome, host=host_facts())
    return json.dumps(record, sort_keys=True, ensure_ascii=True, allow_nan=False)


def _print(text: str) -> None:
    """stdout may be a pipe that nobody reads any more: the exit code still counts."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        _silence_stdout()
        raise OutputError(f"the answer cannot be written to stdout: {error.strerror}") from error


def _silence_stdout() -> None:
    """Python flushes stdout once more at its end; let that go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _targets(inputs: list[Path], out: Path | None, write: str | None) -> list[dict[str, Path]]:
    """For each input the files to write: sink -> path."""
    if out is None:
        if write is not None:
            raise UsageError("--write without --out: name what to write to, --out RESULT.mp4")
        return [{} for _ in inputs]
    kinds = _kinds("--write", ",".join(KINDS) if write is None else write)
    if len(inputs) == 1 and not out.is_dir():
        stem = out.name.removesuffix(out.suffix)
        if out.suffix.lower() not in (".mp4", ".json", ".html", ""):
            raise UsageError(f"--out {out}: name the verdict video, RESULT.mp4")
        return [{KINDS[k][0]: out.with_name(stem + KINDS[k][1]) for k in kinds}]
    if out.suffix and not out.is_dir():
        raise UsageError(f"--out {out} is one file for {len(inputs)} inputs: name a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {out} cannot be made: {error.strerror}") from error
    stems = [path.stem for path in inputs]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = [f"{stem}-{number}" for number, stem in enumerate(stems, start=1)]
    return [{KINDS[k][0]: out / (stem + KINDS[k][1]) for k in kinds} for stem in stems]


@dataclass(frozen=True, slots=True)
class Archived:
    """What the command line says about the scan of an archive; see the help of each option."""

    write: tuple[str, ...]
    write_found: tuple[str, ...]
    reports: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    follow_links: bool
    jobs: int | None
    devices: tuple[str, ...]
    fresh: bool
    paranoid: bool
    shard: str | None
    cluster: str | None
    watch: bool
    min_free: int
    baseline: Path | None


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
    wanted: Archived,
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
    from deepscan.archive.live import open_view
    from deepscan.archive.run import Brake, Ways, scan_archive
    from deepscan.archive.shard import Shard

    for device in wanted.devices:
        if device != "cpu" and not re.fullmatch(r"cuda(:\d{1,3})?", device):
            raise UsageError(f"--devices {device}: give cpu, or cuda:0,cuda:1,...")
    accepts = _acceptance(wanted.baseline)
    shard = None if wanted.shard is None else Shard.read(wanted.shard)

    def code_without_accepted(outcomes: Sequence[Outcome]) -> int:
        return code_of([each.label for each in outcomes if not accepts(each)])

    brake = Brake()
    signal.signal(signal.SIGINT, lambda *_: brake.press())
    for name in _ENDING:
        signal.signal(getattr(signal, name), lambda *_: brake.slam())
    ways = Ways(
        write=wanted.write,
        write_found=wanted.write_found,
        reports=wanted.reports,
        include=wanted.include,
        exclude=wanted.exclude,
        follow_links=wanted.follow_links,
        fresh=wanted.fresh,
        paranoid=wanted.paranoid,
        min_free=wanted.min_free,
        shard=None if shard is None else shard.pair(),
        share=shard,
        command=tuple(sys.argv),
    )
    crew = _crew(options, wanted, out)
    told: dict[str, Outcome] = {}

    def scan_once(crew: Crew, ways: Ways) -> Ended:
        with open_view(sys.stderr, quiet=quiet) as view:
            ended = scan_archive(
                inputs,
                out,
                options=options,
                crew=crew,
                ways=ways,
                on_event=view.take,
                brake=brake,
                code_of=code_without_accepted,
                stdin=getattr(sys.stdin, "buffer", None),
            )
        for outcome in ended.outcomes:
            if format_ == "json":
                _print(json.dumps(outcome.to_json(), sort_keys=True, allow_nan=False))
            elif outcome.label not in _QUIET_LABELS:
                _print(_told_shortly(outcome, accepted=accepts(outcome)))
            told[outcome.name] = outcome
        for error in ended.report_errors:
            _say(f"a report could not be written: {error}")
        return ended

    try:
        if wanted.watch:
            _watch(inputs, out, crew, ways, scan_once)
            return INTERRUPTED
        ended = scan_once(crew, ways)
        if not quiet and (passed := _passed_over(ended.counts)):
            _say(passed)
        if ended.interrupted:
            _say("the same command goes on from here")
        return ended.exit_code
    finally:
        if told:
            counts = counted(outcome.label for outcome in told.values())
            if accepted := sum(map(accepts, told.values())):
                counts += f" ({accepted} accepted by the baseline)"
            if format_ == "text":
                _print(counts)
            elif not quiet:
                _print_aside(counts)


def _watch(
    inputs: list[str],
    out: Path,
    crew: Crew,
    ways: Ways,
    scan_once: Callable[[Crew, Ways], Ended],
) -> None:
    """Scan what comes into folders until somebody ends it; engines are loaded once."""
    from contextlib import closing

    from deepscan.archive.watch import KeptCrew, watch

    fresh = ways.fresh
    with closing(KeptCrew(crew)) as kept:

        def scan_these(patterns: tuple[str, ...]) -> bool:
            nonlocal fresh
            ended = scan_once(kept.seat(), replace(ways, include=patterns, fresh=fresh))
            fresh = False
            return not ended.interrupted

        out.mkdir(parents=True, exist_ok=True)
        watch(
            inputs,
            out,
            scan_these,
            include=ways.include,
            exclude=ways.exclude,
            follow_links=ways.follow_links,
        )


def _crew(options: ScanOptions, wanted: Archived, out: Path) -> Crew:
    """Who scans: this machine, or a cluster."""
    from deepscan.archive.workers.contract import CREWS

    given: dict[str, Any] = {"jobs": wanted.jobs, "devices": wanted.devices}
    name = "local"
    if wanted.cluster is not None:
        name = "ray"
        given |= {"results": out, "address": wanted.cluster}
    module, _, attribute = CREWS[name].partition(":")
    crew: Crew = getattr(import_module(module), attribute)(options, **given)
    return crew


def _passed_over(counts: Counts) -> str:
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


def _told_shortly(outcome: Outcome, *, accepted: bool) -> str:
    """One line about a file of an archive."""
    told = f"{outcome.name}: {outcome.label}"
    if outcome.score is not None and outcome.intervals:
        told += f", P(manipulated) {probability(outcome.score)}"
        told += f", {clock(outcome.intervals[0].start)} to {clock(outcome.intervals[-1].end)}"
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


# From words to numbers


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _kinds(option: str, text: str) -> tuple[str, ...]:
    kinds = _listed(text)
    for kind in kinds:
        _one_of(option, kind, tuple(KINDS))
    if not kinds:
        raise UsageError(f"{option} names nothing; there are {', '.join(KINDS)}")
    return kinds


def _sinks(option: str, text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    return tuple(KINDS[kind][0] for kind in _kinds(option, text))


def _seconds(option: str, text: str | None) -> float | None:
    """ "90", "1:30", "0:01:30.5", "90s", "2m", "1h" in seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or (found[2] and found[4]):
        raise UsageError(f"{option} {text}: give seconds, 1:30, 90s, 2m or 1h")
    unit = {"": 1, "s": 1, "m": 60, "h": 3600}[found[4]]
    return int(found[1] or 0) * 3600 + int(found[2] or 0) * 60 + float(found[3]) * unit


def _bytes(option: str, text: str) -> int:
    """ "512M", "2G", "0" in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"{option} {text}: give a size such as 500M or 2G")
    return int(float(found[1]) * 1024 ** "_KMGT".index(found[2].upper() or "_"))


def _rate(option: str, text: str | None) -> float | None:
    """ "5/1000" as a share."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+)", text)
    if found is None or not 0 < float(found[1]) < int(found[2]):
        raise UsageError(f"{option} {text}: give N/1000, such as 5/1000")
    return float(found[1]) / int(found[2])


def _count(option: str, text: str | None) -> int | None:
    """ "all" or a number; None if the option is not there."""
    if text is None:
        return None
    if text == "all":
        return sys.maxsize
    if not re.fullmatch(r"\d{1,12}", text):
        raise UsageError(f"{option}={text}: give a number of files, or nothing")
    return int(text)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{option} {value}: must be one of {', '.join(allowed)}")
    return value


class _Harmless(logging.Formatter):
    """Log lines name files, and a file name can hold what moves the cursor of a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return visible(super().formatMessage(record))


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at that moment: a live view takes its place for a while."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        """Nothing: stderr it is."""


def _log(*, quiet: bool, debug: bool) -> None:
    level = logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING
    handler = _ToStderr()
    handler.setFormatter(_Harmless("deepscan: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("deepscan").setLevel(level)


def _fail(error: DeepscanError, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    _say(str(error))
    raise typer.Exit(ERROR) from error


def _say(text: str) -> None:
    """One line on stderr."""
    _print_aside(visible(f"deepscan: {text}"))


def _print_aside(text: str) -> None:
    """To stderr; if nobody reads that, the exit code still counts."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


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
        _silence_stdout()
        code = OK
    except Exception as error:
        # Typer brings its own copy of click, older ones do not: their errors have no common name.
        wrong_usage = getattr(error, "format_message", None)
        if wrong_usage is None:
            traceback.print_exc()
            _say("this is a bug, please report it with the lines above")
        else:
            _say(f"{wrong_usage()} See deepscan --help")
        code = ERROR
    for name in ("SIGINT", *_ENDING):  # all is done: a second Ctrl-C must not change the code
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # CPython marks an interruption that passes through a text which it runs (dataclasses are made
    # of such), also one that is caught, and `python -m` then dies with SIGINT in place of our exit
    # code. The next such text takes the mark away, and a named tuple is made of one.
    namedtuple("_Unmark", ())
    if code == INTERRUPTED:
        _say("interrupted; nothing half-written was left")
    sys.exit(code)
