"""Arguments and options of the commands, and the parsing of their values.

Options that several commands share are defined here once, as annotated types.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from deepscan.archive.options import DEFAULT_REPORTS, FILES_CPU, FILES_CUDA, WRITE_FOUND
from deepscan.archive.reports import REPORTS
from deepscan.cli.console import errors
from deepscan.errors import UsageError
from deepscan.options import DECODERS

KINDS = {  # name in --write -> sink, and suffix behind the name given by --out
    "video": ("overlay", ".mp4"),
    "masks": ("masks", ".masks.mkv"),
    "json": ("record", ".json"),
    "frames": ("frames", ".frames.jsonl"),
    "html": ("html", ".html"),
}

# Headings of the help of a scan

_RESULTS, _JUDGING = "Outputs", "Analysis"
_ARCHIVE, _RUNNING = "Files of an archive", "Scan of an archive"
_CODES, _TELLING, _GENERAL = "Exit code", "Output", "General"

_MOST_USED = ("--out", "--write", "--force", "--fail-on", "--format", "--quiet")
_ALL = "deepscan.help_all"  # in a context's notes: every option is explained


def _option(panel: str, help_: str, *flags: str, **more: Any) -> Any:
    """Define an option under a heading of the help."""
    return typer.Option(*flags, rich_help_panel=panel, help=help_, **more)


def one_of(option: str, *allowed: str) -> Callable[[str | None], Any]:
    """A callback of an option that refuses other values in one line, with exit code 2."""

    def check(value: str | None) -> str | None:
        with errors():
            if value is not None and value not in allowed:
                raise UsageError(f"{option} {value}: must be one of {', '.join(allowed)}")
        return value

    return check


def group(help_: str | None = None, **more: Any) -> typer.Typer:
    """A group of commands with plain help, without completion."""
    plain: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": None}
    return typer.Typer(help=help_, add_completion=False, **plain, **more)


# Of several commands

REPORT_DEFAULT = ",".join(DEFAULT_REPORTS)
_MORE_REPORTS = " and ".join(name for name in REPORTS if name not in DEFAULT_REPORTS)
Format = Annotated[
    str,
    _option(
        _TELLING,
        "Print the answer as text or as json.",
        "--format",
        metavar="FORMAT",
        callback=one_of("--format", "text", "json"),
    ),
]
Debug = Annotated[bool, _option(_TELLING, "Log more, and show tracebacks.", "--debug")]
Model = Annotated[
    str,
    _option(
        _JUDGING,
        "Judge with this model: a name of `deepscan model list`, or the path of a model's folder.",
        metavar="MODEL",
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of `deepscan model list`, or a path.")
]
FailOn = Annotated[
    str,
    _option(
        _CODES,
        "Exit with 1 at this label or above: suspicious, manipulated.",
        metavar="LABEL",
        callback=one_of("--fail-on", "manipulated", "suspicious"),
    ),
]
RequireFace = Annotated[
    bool, _option(_CODES, "Exit with 3 if a file shows no face.", "--require-face")
]
ExitZero = Annotated[bool, _option(_CODES, "Always exit with 0.", "--exit-zero")]
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="A results folder.")]
Reports = Annotated[
    str,
    typer.Option(help=f"Reports, separated by commas: {', '.join(REPORTS)}."),
]
SarifRoot = Annotated[
    Path | None,
    _option(
        _RESULTS,
        "Archives: write paths in results.sarif relative to this folder, not to the top of the git "
        "repository or the working folder.",
        metavar="FOLDER",
    ),
]
SarifCategory = Annotated[
    str,
    _option(
        _RESULTS,
        "Archives: prefix for the category of results.sarif, such as a matrix value of CI.",
        metavar="NAME",
        show_default=False,
    ),
]

# Of a scan


def _show_all(ctx: typer.Context, wanted: bool) -> None:
    """Print the whole help and end."""
    if wanted:
        ctx.meta[_ALL] = True
        typer.echo(ctx.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", help="Explain every option.", is_eager=True, callback=_show_all),
]
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="VIDEO",
        help="Videos or pictures; or an archive: folders, patterns such as 'in/**/*.mp4', "
        "@LIST (a file with a list of files), - (a list on stdin), addresses (s3://...).",
    ),
]
Out = Annotated[
    Path | None,
    _option(
        _RESULTS,
        "Write the results to RESULT.mp4 and files beside it; for several files or an archive, "
        "into this folder.",
        metavar="RESULT",
    ),
]
Write = Annotated[
    str | None,
    _option(
        _RESULTS,
        f"Write only some of {','.join(KINDS)}.",
        metavar="KINDS",
        show_default="all; in an archive json",
    ),
]
WriteFound = Annotated[
    str | None,
    _option(
        _RESULTS,
        "Archives: also write these for files with a finding.",
        metavar="KINDS",
        show_default=",".join(kind for kind, (sink, _) in KINDS.items() if sink in WRITE_FOUND),
    ),
]
Report = Annotated[
    str | None,
    _option(
        _RESULTS,
        f"Archives: write these reports on all files; {_MORE_REPORTS} are available too.",
        metavar="NAMES",
        show_default=REPORT_DEFAULT,
    ),
]
Force = Annotated[bool, _option(_RESULTS, "Overwrite results.", "--force")]
Include = Annotated[
    list[str] | None,
    _option(
        _ARCHIVE,
        "Scan only files that match, such as '*.mp4' or 'cam1/**' (repeatable).",
        metavar="PATTERN",
    ),
]
Exclude = Annotated[
    list[str] | None,
    _option(_ARCHIVE, "Skip files that match (repeatable).", metavar="PATTERN"),
]
FollowLinks = Annotated[
    bool,
    _option(
        _ARCHIVE,
        "Follow symbolic links; otherwise they are reported as inconclusive.",
        "--follow-links",
    ),
]
Jobs = Annotated[
    int | None,
    _option(
        _RUNNING,
        "Number of files to scan at once on each device.",
        min=1,
        metavar="N",
        show_default=f"{FILES_CPU} on a CPU, {FILES_CUDA} on CUDA",
    ),
]
Devices = Annotated[
    str | None,
    _option(
        _RUNNING,
        "Start a model process on each of these: cpu, or cuda:0,cuda:1,...",
        metavar="NAMES",
    ),
]
Watch = Annotated[
    bool,
    _option(_RUNNING, "Keep running and scan files as they arrive in the folders.", "--watch"),
]
Fresh = Annotated[
    bool,
    _option(_RUNNING, "Scan all files again and move the old journal aside.", "--fresh"),
]
Paranoid = Annotated[
    bool,
    _option(_RUNNING, "Hash every file, even if name, size and time are unchanged.", "--paranoid"),
]
Shard = Annotated[
    str | None,
    _option(
        _RUNNING,
        "Scan part I of N; `deepscan merge` joins the results.",
        metavar="I/N",
    ),
]
Cluster = Annotated[
    str | None,
    _option(
        _RUNNING,
        "Scan on a Ray cluster whose nodes all see the archive and the results: ray, "
        "ray:HOST:PORT, ray:auto or ray://HOST:PORT.",
        metavar="ADDRESS",
    ),
]
MinFree = Annotated[str, _option(_RUNNING, "Stop if less disk space is free.", metavar="SIZE")]
Decoder = Annotated[
    str,
    _option(
        _JUDGING,
        f"Decoder: {', '.join(DECODERS)}.",
        metavar="NAME",
        callback=one_of("--decoder", *DECODERS),
    ),
]
Engine = Annotated[
    str,
    _option(
        _JUDGING,
        "Run the network on this engine, such as openvino-bf16, torch-cuda or torch-cpu-fp32; "
        "auto chooses.",
        metavar="NAME",
    ),
]
MinFace = Annotated[
    int, _option(_JUDGING, "Smallest face to judge, in pixels.", min=20, metavar="PIXELS")
]
MinCoverage = Annotated[
    float,
    _option(
        _JUDGING,
        "Share of the faces that has to be judged for a conclusion.",
        min=0.0,
        max=1.0,
        metavar="SHARE",
    ),
]
Stride = Annotated[int, _option(_JUDGING, "Judge only every N-th frame.", min=1, metavar="N")]
Start = Annotated[
    str | None, _option(_JUDGING, "Start of the judged part: 90, 1:30 or 2m.", metavar="TIME")
]
End = Annotated[str | None, _option(_JUDGING, "End of the judged part.", metavar="TIME")]
Triage = Annotated[
    bool,
    _option(
        _JUDGING,
        "Judge two frames per second first, then every frame of uncertain spans.",
        "--triage",
    ),
]
Budget = Annotated[
    str | None,
    _option(
        _JUDGING,
        "Time limit for each file, with triage; the verdict names the spans left out.",
        metavar="TIME",
    ),
]
MaxFalseAlarms = Annotated[
    str | None,
    _option(
        _JUDGING,
        "Accepted rate of unmanipulated files that are called manipulated.",
        metavar="N/1000",
    ),
]
TrustList = Annotated[
    Path | None,
    _option(
        _JUDGING,
        "Check issuers of content credentials against these certificates (PEM).",
        metavar="FILE",
    ),
]
AllowInconclusive = Annotated[
    str | None,
    _option(
        _CODES,
        "Exit with 0 instead of 3; with =N for at most N inconclusive files.",
        metavar="[=N]",
    ),
]
AllowEmpty = Annotated[
    bool,
    _option(_CODES, "Archives: exit with 0 if there is nothing to scan.", "--allow-empty"),
]
Baseline = Annotated[
    Path | None,
    _option(_CODES, "Archives: do not count findings that this baseline accepts.", metavar="FILE"),
]
Verbose = Annotated[
    bool, _option(_TELLING, "Archives: print a line for every file.", "--verbose", "-v")
]
Quiet = Annotated[bool, _option(_TELLING, "Show no progress and no log.", "--quiet", "-q")]


# Groups and help


class DefaultIsScan(TyperGroup):
    """`deepscan VIDEO` means `deepscan scan VIDEO`, and `deepscan --help` says so."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        if not args or (args[0] not in self.commands and args[0] != "--version"):
            args = ["scan", *(args or ["--help"])]
        return super().parse_args(ctx, args)


class Grouped(TyperCommand):
    """Shows the help with options under headings, without the boxes of rich."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        # Typer has no options with an optional value: the bare option means "all".
        end = args.index("--") if "--" in args else len(args)
        bare = "--allow-inconclusive"
        args = [f"{bare}=all" if arg == bare else arg for arg in args[:end]] + args[end:]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx, formatter):  # type: ignore[no-untyped-def]
        formatter.write("Usage: deepscan VIDEO... [--out RESULT.mp4] [OPTIONS]\n")
        formatter.write("       deepscan ARCHIVE --out RESULTS [OPTIONS]\n")

    def format_options(self, ctx, formatter):  # type: ignore[no-untyped-def]
        groups: dict[str, list[tuple[str, tuple[str, str]]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                panel = getattr(parameter, "rich_help_panel", None) or _GENERAL
                groups.setdefault(panel, []).append((parameter.opts[0], record))
        if ctx.meta.get(_ALL):
            for panel, options in groups.items():
                with formatter.section(panel):
                    _write_rows(formatter, [record for _, record in options])
            return
        every = dict(option for options in groups.values() for option in options)
        with formatter.section("Most used"):
            _write_rows(formatter, [every[name] for name in _MOST_USED])
        with formatter.section("More, explained by deepscan --help-all"):
            names = {
                panel: [name for name, _ in options if name not in _MOST_USED]
                for panel, options in groups.items()
                if panel != _GENERAL
            }
            _write_rows(formatter, [(panel, " ".join(more)) for panel, more in names.items()])


def _write_rows(formatter: Any, rows: list[tuple[str, str]]) -> None:
    """Write two columns as click does, but without breaking names of options."""
    indent = formatter.current_indent
    rows = [(re.sub(" <.*>", "", name), text) for name, text in rows]  # without types
    first = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        text = re.sub(r"\[default: \((.*)\)", r"[default: \1", text)  # as typer marks our words
        lines = textwrap.wrap(
            re.sub(r"\s+", " ", text), formatter.width - indent - first, break_on_hyphens=False
        )
        for line, start in zip(lines, [name, *[""] * len(lines)], strict=False):
            formatter.write(f"{'':{indent}}{start:{first}}{line}\n")


# Parsing of values


def listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def kinds(option: str, text: str) -> tuple[str, ...]:
    found = listed(text)
    for kind in found:
        one_of(option, *KINDS)(kind)
    if not found:
        raise UsageError(f"{option} names nothing; there are {', '.join(KINDS)}")
    return found


def sinks(option: str, text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    return tuple(KINDS[kind][0] for kind in kinds(option, text))


def seconds(option: str, text: str | None) -> float | None:
    """Parse "90", "1:30", "0:01:30.5", "90s", "2m" or "1h" as seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or (found[2] and found[4]):
        raise UsageError(f"{option} {text}: give seconds, 1:30, 90s, 2m or 1h")
    unit = {"": 1, "s": 1, "m": 60, "h": 3600}[found[4]]
    return int(found[1] or 0) * 3600 + int(found[2] or 0) * 60 + float(found[3]) * unit


def time_limit(option: str, text: str | None) -> float | None:
    """Parse as `seconds`, but refuse 0: without the option there is no limit."""
    found = seconds(option, text)
    if found == 0:
        raise UsageError(f"{option} {text}: give a time above 0, or leave it out for no limit")
    return found


def size_in_bytes(option: str, text: str) -> int:
    """Parse "512M", "2G" or "0" as bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"{option} {text}: give a size such as 500M or 2G")
    return int(float(found[1]) * 1024 ** "_KMGT".index(found[2].upper() or "_"))


def rate(option: str, text: str | None) -> float | None:
    """Parse "5/1000" as a share."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+)", text)
    if found is None or not 0 < float(found[1]) < int(found[2]):
        raise UsageError(f"{option} {text}: give N/1000, such as 5/1000")
    return float(found[1]) / int(found[2])


def count(option: str, text: str | None) -> int:
    """Parse "all" or a number of files; 0 without the option."""
    if text is None:
        return 0
    if text == "all":
        return sys.maxsize
    if not re.fullmatch(r"\d{1,12}", text):
        raise UsageError(f"{option}={text}: give a number of files, or nothing")
    return int(text)


def sarif_category(text: str) -> str:
    """Check the prefix of a category and strip slashes at its ends."""
    name = text.strip("/")
    if not re.fullmatch(r"[\w.,:+ /-]{0,100}", name):
        raise UsageError(f"--sarif-category {text}: give letters, digits and . , : + - / only")
    return name
