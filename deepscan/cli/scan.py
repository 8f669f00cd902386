"""The entry point of the command line, and the commands `scan` and `doctor`.

Heavy modules are imported inside functions, so that `--help` is fast.
"""

from __future__ import annotations

import io
import signal
import sys
import traceback
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from deepscan import __version__
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.shard import Shard
from deepscan.cli import arguments
from deepscan.cli import engine as engine_cli
from deepscan.cli import model as model_cli
from deepscan.cli import results as results_cli
from deepscan.cli.archive import ENDING_SIGNALS, is_archive, scan_archive
from deepscan.cli.arguments import KINDS, count, kinds, listed, rate, seconds, sinks, time_limit
from deepscan.cli.console import (
    errors,
    is_terminal,
    log_to_stderr,
    print_aside,
    print_json,
    print_line,
    print_message,
    silence_stdout,
)
from deepscan.errors import DeepscanError, OutputError, UsageError
from deepscan.exit_codes import ERROR, INTERRUPTED, OK, ExitPolicy
from deepscan.options import ScanOptions
from deepscan.wording import counted

if TYPE_CHECKING:
    from deepscan.types import Label, Scanned, Skipped

DEFAULTS, ARCHIVE_DEFAULTS = ScanOptions(), ArchiveOptions()
_EPILOG = """
Exit codes: 0 no finding; 1 at least one file manipulated; 2 a file or the scan failed; 3 no
finding, but at least one file inconclusive; 130 interrupted. Over several files 2 comes before 1
before 3 before 0. No label says "real": deepscan can only fail to find.

Other commands, each with --help: doctor (checks this installation), engine, model (your own); for
results: diff, verify, merge, report, baseline, journal.
"""

app = arguments.group(cls=arguments.DefaultIsScan)
app.add_typer(engine_cli.app, name="engine")
app.add_typer(model_cli.app, name="model")
results_cli.register(app)


@app.callback(invoke_without_command=True)
def _group(version: Annotated[bool, typer.Option("--version")] = False) -> None:
    """deepscan finds manipulated faces in video."""
    if version:
        typer.echo(f"deepscan {__version__}")
        raise typer.Exit


@app.command(cls=arguments.Grouped, epilog=_EPILOG, context_settings={"max_content_width": 100})
def scan(
    inputs: arguments.Inputs,
    out: arguments.Out = None,
    write: arguments.Write = None,
    write_found: arguments.WriteFound = None,
    report: arguments.Report = None,
    sarif_root: arguments.SarifRoot = None,
    sarif_category: arguments.SarifCategory = "",
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
    min_free: arguments.MinFree = f"{ARCHIVE_DEFAULTS.min_free // 2**20}M",
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
    trust_list: arguments.TrustList = None,
    fail_on: arguments.FailOn = "manipulated",
    require_face: arguments.RequireFace = False,
    allow_inconclusive: arguments.AllowInconclusive = None,
    allow_empty: arguments.AllowEmpty = False,
    baseline: arguments.Baseline = None,
    exit_zero: arguments.ExitZero = False,
    format_: arguments.Format = "text",
    verbose: arguments.Verbose = False,
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
    help_all: arguments.HelpAll = False,
) -> None:
    """Look for manipulated faces in videos and pictures; print a verdict for each."""
    log_to_stderr(quiet=quiet, debug=debug)
    with errors(debug=debug):
        options = ScanOptions(
            decoder=decoder,  # type: ignore[arg-type]
            engine=engine,
            model=model,
            min_face=min_face,
            min_coverage=min_coverage,
            stride=stride,
            start=seconds("--start", start) or 0.0,
            end=seconds("--end", end),
            triage=triage,
            budget=time_limit("--budget", budget),
            false_alarm_rate=rate("--max-false-alarms", max_false_alarms),
            trust_list=None if trust_list is None else str(trust_list.resolve()),
        )
        allowed = count("--allow-inconclusive", allow_inconclusive)
        policy = ExitPolicy(fail_on == "suspicious", require_face, allowed, exit_zero)
        free = arguments.size_in_bytes("--min-free", min_free)
        only_archives = (
            write_found, report, include, exclude, follow_links, jobs, devices, watch, fresh,
            paranoid, shard, cluster, baseline, sarif_root, sarif_category,
            allow_empty, free != ARCHIVE_DEFAULTS.min_free,
        )  # fmt: skip
        if not any(only_archives) and not is_archive(inputs, out):
            paths = [Path(text) for text in inputs]
            targets = _targets(paths, out, write)
            labels = _scan_files(paths, targets, options, force, format_, quiet=quiet)
            raise typer.Exit(policy.code(labels))
        if force:
            raise UsageError("--force is for single files: an archive is resumed, or use --fresh")
        from deepscan.archive.baseline import read_baseline

        archive_options = ArchiveOptions(
            write=sinks("--write", write) if write else ARCHIVE_DEFAULTS.write,
            write_found=(
                sinks("--write-found", write_found) if write_found else ARCHIVE_DEFAULTS.write_found
            ),
            reports=listed(report) if report else ARCHIVE_DEFAULTS.reports,
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
            allow_empty=allow_empty,
            min_free=free,
            baseline=None if baseline is None else read_baseline(baseline),
            sarif_root=sarif_root,
            sarif_category=arguments.sarif_category(sarif_category),
            command=tuple(sys.argv),
        )
        code = scan_archive(
            inputs, out, options, archive_options, policy, format_, quiet=quiet, verbose=verbose
        )
    raise typer.Exit(code)


@app.command()
def doctor(format_: arguments.Format = "text") -> None:
    """Check this installation: versions, decoders, engines, the model's self-test."""
    from deepscan.cli.doctor import examine

    with errors():
        report = examine(DEFAULTS)
        print_line(report.to_json() if format_ == "json" else report.to_text())
    raise typer.Exit(0 if report.ok else ERROR)


def _scan_files(
    inputs: list[Path],
    targets: list[dict[str, Path]],
    options: ScanOptions,
    force: bool,
    format_: str,
    *,
    quiet: bool,
) -> list[Label]:
    from deepscan.files import check_exists, check_outputs

    for path in inputs:
        check_exists(path)
    for target in targets:
        for folder in {path.parent for path in target.values()}:
            _make_folder(folder)
        check_outputs(target, inputs, force=force)
    if not quiet and is_terminal(sys.stderr) and any(path.is_file() for path in inputs):
        print_message(f"loading {options.model} ...")  # the imports below take time
    from deepscan.cli.file_progress import open_progress
    from deepscan.scan.scanner import Scanner

    labels: list[Label] = []
    with Scanner(options) as scanner:
        try:
            with open_progress(sys.stderr, quiet=quiet) as shown:
                for path, target in zip(inputs, targets, strict=True):
                    outcome = scanner.scan(path, target, force=force, progress=shown.of(path))
                    labels.append(outcome.label)
                    shown.finish()
                    _print_answer(outcome, format_)
                    if force and not quiet and (others := _left_beside(target, outcome, inputs)):
                        print_message(f"not of this scan, left as they were: {', '.join(others)}")
        finally:  # files before an error or Ctrl-C are counted too
            refused = not labels and isinstance(sys.exc_info()[1], DeepscanError)
            if format_ == "text" and not refused:
                print_line(counted(labels))
            elif not quiet and not refused:
                print_aside(counted(labels))
    return labels


def _left_beside(
    target: dict[str, Path], outcome: Scanned | Skipped, inputs: list[Path]
) -> list[str]:
    """Files that lie where this scan could have written: an earlier scan's, most likely."""
    if not target:
        return []
    suffixes = dict(KINDS.values())
    sink, path = next(iter(target.items()))
    stem = path.name.removesuffix(suffixes[sink])
    known = {*inputs, *(output.path for output in outcome.outputs)}
    every = [path.with_name(stem + suffix) for suffix in suffixes.values()]
    return [str(each) for each in every if each not in known and each.exists()]


def _print_answer(outcome: Scanned | Skipped, format_: str) -> None:
    from shutil import get_terminal_size

    from deepscan.cli.text_answer import text_answer
    from deepscan.sinks.record import error_record, record_of
    from deepscan.types import Scanned

    if format_ == "text":
        wide = min(100, get_terminal_size().columns) if is_terminal(sys.stdout) else None
        print_line(text_answer(outcome, wide))
    elif isinstance(outcome, Scanned):
        print_json(record_of(outcome.scan, outcome.outputs))
    else:
        print_json(error_record(outcome))


def _targets(inputs: list[Path], out: Path | None, write: str | None) -> list[dict[str, Path]]:
    """The files to write for each input: sink name -> path."""
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
    stems = [path.stem for path in inputs]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = [f"{stem}-{number}" for number, stem in enumerate(stems, start=1)]
    return [{KINDS[k][0]: out / (stem + KINDS[k][1]) for k in chosen} for stem in stems]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"the folder {path} cannot be made ({error.strerror}): name another"
        raise OutputError(text) from error


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _usage_text(error: Exception, text: str) -> str:
    """The error text for a wrong command line; for a misspelt option it names only the nearest
    one, while click would list all similar ones alphabetically."""
    near = getattr(error, "possibilities", None)
    if not near:
        return text
    name = getattr(error, "option_name", "")
    return f"No such option: {name}. Did you mean {near[0]}?"


def run() -> NoReturn:
    """Run the command line and exit. Only a finding gives exit code 1."""
    for name in ENDING_SIGNALS:
        signal.signal(getattr(signal, name), _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8
    try:
        code = app(prog_name="deepscan", standalone_mode=False) or OK
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit:  # raised by typer only if the reader of the help has gone
        silence_stdout()
        code = OK
    except Exception as error:
        # Some versions of typer bundle click, so its errors have no common base class.
        wrong_usage = getattr(error, "format_message", None)
        if wrong_usage is None:
            traceback.print_exc()
            print_message("this is a bug, please report it with the lines above")
        else:
            context = getattr(error, "ctx", None)
            command = "deepscan" if context is None else context.command_path
            command = command.removesuffix(" scan")  # `scan` is the default command
            text = _usage_text(error, wrong_usage())
            stop = "" if text.endswith((".", "?")) else "."
            print_message(f"{text}{stop} See {command} --help")
        code = ERROR
    # The work is done: a second Ctrl-C must not change the exit code.
    for name in ("SIGINT", *ENDING_SIGNALS):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # CPython sets a flag if an interruption passes through code that `exec` runs (as dataclasses
    # do), even if it is caught, and `python -m` then dies with SIGINT instead of our exit code. The
    # next `exec` clears the flag, and creating a named tuple uses one.
    namedtuple("_Unmark", ())
    if code == INTERRUPTED:
        print_message("interrupted; no half-written file was left")
    sys.exit(code)
