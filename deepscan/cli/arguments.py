"""Arguments and options of the commands, and what their texts mean.

Every option that several commands have stands here once, as an annotated type.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from deepscan.archive.options import ArchiveOptions
from deepscan.errors import UsageError

KINDS = {  # what --write names -> the sink and what follows the name given by --out
    "video": ("overlay", ".mp4"),
    "masks": ("masks", ".masks.mkv"),
    "json": ("record", ".json"),
    "frames": ("frames", ".frames.jsonl"),
    "html": ("html", ".html"),
}

# Headings of the help of a scan

_RESULTS, _JUDGING = "What is written", "What is judged, and how"
_ARCHIVE, _RUNNING = "Archives: which files", "Archives: how they are scanned"
_CODES, _TELLING = "Exit code", "Output"


def _option(panel: str, help_: str, *flags: str, **more: Any) -> Any:
    """An option under a heading of the help."""
    return typer.Option(*flags, rich_help_panel=panel, help=help_, **more)


# Of several commands

Format = Annotated[str, _option(_TELLING, "The answer on stdout: text or json.", "--format")]
Debug = Annotated[bool, _option(_TELLING, "Show tracebacks; a scan also logs more.", "--debug")]
Model = Annotated[str, _option(_JUDGING, "Network to use.")]
FailOn = Annotated[
    str, _option(_CODES, "From which label on the exit code is 1: manipulated or suspicious.")
]
RequireFace = Annotated[
    bool, _option(_CODES, "Exit code 3 for a file without a face.", "--require-face")
]
ExitZero = Annotated[
    bool, _option(_CODES, "Always exit 0; for those who read the record.", "--exit-zero")
]
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="A results folder.")]
Reports = Annotated[
    str,
    typer.Option(
        help="Which, separated by commas: html, csv, jsonl, sarif, junit, sqlite, parquet."
    ),
]
DEFAULT_REPORTS = ",".join(ArchiveOptions().reports)

# Of a scan

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="VIDEO",
        help="Videos or pictures; or an archive: folders, patterns such as 'in/**/*.mp4', "
        "@LIST (a file that names files), - (such a list on stdin), addresses (s3://...).",
    ),
]
Out = Annotated[
    Path | None,
    _option(
        _RESULTS,
        "Write results: for RESULT.mp4 the verdict video and, beside it, RESULT.masks.mkv, "
        "RESULT.json, RESULT.frames.jsonl and RESULT.html. For several files or an archive: a "
        "folder. An existing results folder is resumed; finished files are skipped.",
    ),
]
Write = Annotated[
    str | None,
    _option(
        _RESULTS,
        "Which of them, separated by commas: video,masks,json,frames,html. By default all, in an "
        "archive json.",
    ),
]
WriteFound = Annotated[
    str | None,
    _option(
        _RESULTS,
        "Archives: which more where something was found. By default video,masks,frames,html.",
    ),
]
Report = Annotated[
    str | None,
    _option(
        _RESULTS,
        "Archives: reports over all files. By default html,csv,jsonl,sarif,junit; there are "
        "sqlite and parquet too.",
    ),
]
Force = Annotated[bool, _option(_RESULTS, "Overwrite results.", "--force")]
Include = Annotated[
    list[str] | None,
    _option(
        _ARCHIVE,
        "Only what matches, such as '*.mp4' or 'cam1/**'. May be given again.",
        metavar="PATTERN",
    ),
]
Exclude = Annotated[
    list[str] | None, _option(_ARCHIVE, "Not what matches. Likewise.", metavar="PATTERN")
]
FollowLinks = Annotated[
    bool,
    _option(
        _ARCHIVE, "Follow symbolic links; else each is reported as inconclusive.", "--follow-links"
    ),
]
Jobs = Annotated[
    int | None,
    _option(_RUNNING, "Files at once for each device. By default 2 on a CPU, 4 on CUDA.", min=1),
]
Devices = Annotated[
    str | None, _option(_RUNNING, "cpu, or cuda:0,cuda:1,...: a model process on each.")
]
Watch = Annotated[
    bool,
    _option(_RUNNING, "Keep running: scan what arrives in the folders, until Ctrl-C.", "--watch"),
]
Fresh = Annotated[
    bool,
    _option(
        _RUNNING, "Scan everything anew; the old journal is kept beside the new one.", "--fresh"
    ),
]
Paranoid = Annotated[
    bool,
    _option(_RUNNING, "Hash also files whose name, size and time are as they were.", "--paranoid"),
]
Shard = Annotated[
    str | None,
    _option(
        _RUNNING,
        "Only the I-th of N parts, for N machines; `deepscan merge` joins their results.",
        metavar="I/N",
    ),
]
Cluster = Annotated[
    str | None,
    _option(
        _RUNNING,
        "Scan on a Ray cluster: ray, ray:HOST:PORT, ray:auto or ray://HOST:PORT. Archive and "
        "results lie under the same paths on every node.",
        metavar="ray[...]",
    ),
]
MinFree = Annotated[str, _option(_RUNNING, "Stop when less of the disk is free.", metavar="SIZE")]
Decoder = Annotated[str, _option(_JUDGING, "auto, decord or pyav.")]
Engine = Annotated[
    str,
    _option(
        _JUDGING,
        "auto, or RUNTIME[-DEVICE][-PRECISION]: openvino-bf16, torch-cuda, tensorrt, "
        "torch-cpu-fp32. A named engine runs or fails; only auto looks for another.",
    ),
]
MinFace = Annotated[int, _option(_JUDGING, "Smallest face that is judged, in pixels.", min=20)]
MinCoverage = Annotated[
    float, _option(_JUDGING, "Share of faces to be judged for a conclusion.", min=0.0, max=1.0)
]
Stride = Annotated[int, _option(_JUDGING, "Judge every n-th frame only.", min=1)]
Start = Annotated[
    str | None, _option(_JUDGING, "Judge from here on: 90, 1:30 or 2m.", metavar="TIME")
]
End = Annotated[str | None, _option(_JUDGING, "Judge up to here.", metavar="TIME")]
Triage = Annotated[
    bool,
    _option(_JUDGING, "A coarse pass first, then a dense one where it is uncertain.", "--triage"),
]
Budget = Annotated[
    str | None,
    _option(
        _JUDGING,
        "Time for each file, such as 2m; the verdict names what was left out.",
        metavar="TIME",
    ),
]
MaxFalseAlarms = Annotated[
    str | None,
    _option(
        _JUDGING,
        "Choose the operating point: so many of 1000 unmanipulated files may be called "
        "manipulated.",
        metavar="N/1000",
    ),
]
AllowInconclusive = Annotated[
    str | None,
    _option(
        _CODES,
        "Exit code 0 instead of 3; with =N for N inconclusive files at most.",
        metavar="[=N]",
    ),
]
Baseline = Annotated[
    Path | None,
    _option(
        _CODES, "Archives: verdicts that were reviewed and accepted do not count.", metavar="FILE"
    ),
]
Quiet = Annotated[bool, _option(_TELLING, "No progress, no log.", "--quiet", "-q")]


# Groups and help


class DefaultIsScan(TyperGroup):
    """`deepscan VIDEO` means `deepscan scan VIDEO`, and `deepscan --help` says so."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        if not args or (args[0] not in self.commands and args[0] != "--version"):
            args = ["scan", *(args or ["--help"])]
        return super().parse_args(ctx, args)


class Grouped(TyperCommand):
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


# From words to numbers


def listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def kinds(option: str, text: str) -> tuple[str, ...]:
    found = listed(text)
    for kind in found:
        one_of(option, kind, tuple(KINDS))
    if not found:
        raise UsageError(f"{option} names nothing; there are {', '.join(KINDS)}")
    return found


def sinks(option: str, text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    return tuple(KINDS[kind][0] for kind in kinds(option, text))


def seconds(option: str, text: str | None) -> float | None:
    """ "90", "1:30", "0:01:30.5", "90s", "2m", "1h" in seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or (found[2] and found[4]):
        raise UsageError(f"{option} {text}: give seconds, 1:30, 90s, 2m or 1h")
    unit = {"": 1, "s": 1, "m": 60, "h": 3600}[found[4]]
    return int(found[1] or 0) * 3600 + int(found[2] or 0) * 60 + float(found[3]) * unit


def time_limit(option: str, text: str | None) -> float | None:
    """Like `seconds`, but never none at all: who wants no limit leaves the option out."""
    found = seconds(option, text)
    if found == 0:
        raise UsageError(f"{option} {text}: give a time above 0, or leave it out for no limit")
    return found


def size_in_bytes(option: str, text: str) -> int:
    """ "512M", "2G", "0" in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"{option} {text}: give a size such as 500M or 2G")
    return int(float(found[1]) * 1024 ** "_KMGT".index(found[2].upper() or "_"))


def rate(option: str, text: str | None) -> float | None:
    """ "5/1000" as a share."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+)", text)
    if found is None or not 0 < float(found[1]) < int(found[2]):
        raise UsageError(f"{option} {text}: give N/1000, such as 5/1000")
    return float(found[1]) / int(found[2])


def count(option: str, text: str | None) -> int:
    """ "all" or a number of files; 0 if the option is not there."""
    if text is None:
        return 0
    if text == "all":
        return sys.maxsize
    if not re.fullmatch(r"\d{1,12}", text):
        raise UsageError(f"{option}={text}: give a number of files, or nothing")
    return int(text)


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{option} {value}: must be one of {', '.join(allowed)}")
    return value
