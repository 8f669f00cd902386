"""The command line: read arguments, call, turn the outcome into an exit code.

Everything heavy is imported inside functions, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer
from typer.core import TyperGroup

from deepscan import __version__, engine_cli
from deepscan.errors import DeepscanError, OutputError, UsageError
from deepscan.exits import ERROR, INTERRUPTED, OK, ExitPolicy, counted
from deepscan.options import ScanOptions
from deepscan.sinks.wording import visible

if TYPE_CHECKING:
    from deepscan.types import Label, Scanned, Skipped

DEFAULTS = ScanOptions()
KINDS = {  # what --write names -> the sink and what follows the name given by --out
    "video": ("overlay", ".mp4"),
    "masks": ("masks", ".masks.mkv"),
    "json": ("record", ".json"),
    "frames": ("frames", ".frames.jsonl"),
    "html": ("html", ".html"),
}
_EPILOG = """
Exit codes: 0 no finding; 1 at least one file manipulated; 2 a file or the scan failed; 3 no
finding, but at least one file inconclusive; 130 interrupted. Over several files 2 comes before 1
before 3 before 0. No label says "real": deepscan can only fail to find.

Other commands: `deepscan doctor` tells what works on this machine and why; `deepscan engine`
builds, lists, checks, measures and removes engines.
"""


class _DefaultIsScan(TyperGroup):
    """`deepscan VIDEO` means `deepscan scan VIDEO`, and `deepscan --help` tells about that."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        if not args or (args[0] not in self.commands and args[0] != "--version"):
            args = ["scan", *(args or ["--help"])]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DefaultIsScan, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.add_typer(engine_cli.app, name="engine")


@app.callback(invoke_without_command=True)
def _group(version: Annotated[bool, typer.Option("--version")] = False) -> None:
    """deepscan finds manipulated faces in video."""
    if version:
        typer.echo(f"deepscan {__version__}")
        raise typer.Exit


@app.command(epilog=_EPILOG)
def scan(
    inputs: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="Video or picture files.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write results: for RESULT.mp4 the verdict video and, beside it, "
            "RESULT.masks.mkv, RESULT.json, RESULT.frames.jsonl and RESULT.html. "
            "For several files: a folder."
        ),
    ] = None,
    write: Annotated[
        str, typer.Option(help="Which of them, separated by commas: video,masks,json,frames,html.")
    ] = ",".join(KINDS),
    force: Annotated[bool, typer.Option("--force", help="Overwrite results.")] = False,
    format_: Annotated[
        str, typer.Option("--format", help="The answer on stdout: text, or json (one line a file).")
    ] = "text",
    decoder: Annotated[str, typer.Option(help="auto, decord or pyav.")] = DEFAULTS.decoder,
    engine: Annotated[
        str,
        typer.Option(
            help="auto, or RUNTIME[-DEVICE][-PRECISION]: openvino-bf16, torch-cuda, tensorrt, "
            "torch-cpu-fp32. A named engine runs or fails; only auto looks for another."
        ),
    ] = DEFAULTS.engine,
    model: Annotated[str, typer.Option(help="Network to use.")] = DEFAULTS.model,
    min_face: Annotated[
        int, typer.Option(help="Smallest face that is judged, in pixels.", min=20)
    ] = DEFAULTS.min_face,
    min_coverage: Annotated[
        float,
        typer.Option(help="Share of faces to be judged for a conclusion.", min=0.0, max=1.0),
    ] = DEFAULTS.min_coverage,
    stride: Annotated[
        int, typer.Option(help="Judge every n-th frame only.", min=1)
    ] = DEFAULTS.stride,
    fail_on: Annotated[
        str, typer.Option(help="From which label on the exit code is 1: manipulated or suspicious.")
    ] = "manipulated",
    require_face: Annotated[
        bool, typer.Option("--require-face", help="Exit code 3 for a file without a face.")
    ] = False,
    allow_inconclusive: Annotated[
        bool, typer.Option("--allow-inconclusive", help="Exit code 0 instead of 3.")
    ] = False,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Always exit 0; for those who read the record.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no log.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log more; show tracebacks.")] = False,
) -> None:
    """Scan videos for manipulated faces: a verdict for each, masks, a record and a report.

    deepscan video.mp4 --out result.mp4
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
        )
        _one_of("--format", format_, ("text", "json"))
        _one_of("--fail-on", fail_on, ("manipulated", "suspicious"))
        policy = ExitPolicy(fail_on == "suspicious", require_face, allow_inconclusive, exit_zero)
        targets = _targets(inputs, out, write)
        labels = _scan_all(inputs, targets, options, force, format_, quiet=quiet)
    except DeepscanError as error:
        _fail(error, debug=debug)
    except BrokenPipeError as error:
        # Typer would take it for a reader of stdout that left and exit with 1, "manipulated".
        raise RuntimeError("a pipe broke inside the scan") from error
    raise typer.Exit(policy.code(labels))


@app.command()
def doctor(
    format_: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Tell what works on this machine: versions, decoders, engines, the model's self-test."""
    from deepscan.doctor import examine

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
    from deepscan.progress import Bar
    from deepscan.publish import check_outputs
    from deepscan.scan import Scanner

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
        from deepscan.answer import answer

        return answer(outcome)
    import json

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


def _targets(inputs: list[Path], out: Path | None, write: str) -> list[dict[str, Path]]:
    """For each input the files to write: sink -> path."""
    for path in inputs:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: name the files in it")
    if out is None:
        if write != ",".join(KINDS):
            raise UsageError("--write without --out: name what to write to, --out RESULT.mp4")
        return [{} for _ in inputs]
    kinds = [kind.strip() for kind in write.split(",") if kind.strip()]
    for kind in kinds:
        _one_of("--write", kind, tuple(KINDS))
    if not kinds:
        raise UsageError(f"--write names nothing; there are {', '.join(KINDS)}")
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


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{option} {value}: must be one of {', '.join(allowed)}")
    return value


class _Harmless(logging.Formatter):
    """Log lines name files, and a file name can hold what moves the cursor of a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return visible(super().formatMessage(record))


def _log(*, quiet: bool, debug: bool) -> None:
    level = logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING
    handler = logging.StreamHandler()
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
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
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
    if code == INTERRUPTED:
        _say("interrupted; nothing half-written was left")
    sys.exit(code)
