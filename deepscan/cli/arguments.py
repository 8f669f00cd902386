"""Arguments and options of the commands, and what their texts mean.

Every option that several commands have stands here once, as an annotated type.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

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

# Of several commands

Format = Annotated[
    str,
    typer.Option("--format", rich_help_panel=_TELLING, help="The answer on stdout: text or json."),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", rich_help_panel=_TELLING, help="Show tracebacks; a scan also logs more."
    ),
]
Model = Annotated[str, typer.Option(rich_help_panel=_JUDGING, help="Network to use.")]
FailOn = Annotated[
    str,
    typer.Option(
        rich_help_panel=_CODES,
        help="From which label on the exit code is 1: manipulated or suspicious.",
    ),
]
RequireFace = Annotated[
    bool,
    typer.Option(
        "--require-face", rich_help_panel=_CODES, help="Exit code 3 for a file without a face."
    ),
]
ExitZero = Annotated[
    bool,
    typer.Option(
        "--exit-zero",
        rich_help_panel=_CODES,
        help="Always exit 0; for those who read the record.",
    ),
]
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="A results folder.")]
Reports = Annotated[
    str,
    typer.Option(
        help="Which, separated by commas: html, csv, jsonl, sarif, junit, sqlite, parquet."
    ),
]
REPORTS = "html,csv,jsonl,sarif,junit"

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
    typer.Option(
        rich_help_panel=_RESULTS,
        help="Write results: for RESULT.mp4 the verdict video and, beside it, "
        "RESULT.masks.mkv, RESULT.json, RESULT.frames.jsonl and RESULT.html. "
        "For several files or an archive: a folder. An existing results folder is resumed; "
        "finished files are skipped.",
    ),
]
Write = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_RESULTS,
        help="Which of them, separated by commas: video,masks,json,frames,html. By default "
        "all, in an archive json.",
    ),
]
WriteFound = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_RESULTS,
        help="Archives: which more where something was found. By default video,masks,frames,html.",
    ),
]
Report = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_RESULTS,
        help="Archives: reports over all files. By default html,csv,jsonl,sarif,junit; there "
        "are sqlite and parquet too.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", rich_help_panel=_RESULTS, help="Overwrite results.")
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=_ARCHIVE,
        metavar="PATTERN",
        help="Only what matches, such as '*.mp4' or 'cam1/**'. May be given again.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(rich_help_panel=_ARCHIVE, metavar="PATTERN", help="Not what matches. Likewise."),
]
FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        rich_help_panel=_ARCHIVE,
        help="Follow symbolic links; else each is reported as inconclusive.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=_RUNNING,
        min=1,
        help="Files at once for each device. By default 2 on a CPU, 4 on CUDA.",
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_RUNNING, help="cpu, or cuda:0,cuda:1,...: a model process on each."
    ),
]
Watch = Annotated[
    bool,
    typer.Option(
        "--watch",
        rich_help_panel=_RUNNING,
        help="Keep running: scan what arrives in the folders, until Ctrl-C.",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh",
        rich_help_panel=_RUNNING,
        help="Scan everything anew; the old journal is kept beside the new one.",
    ),
]
Paranoid = Annotated[
    bool,
    typer.Option(
        "--paranoid",
        rich_help_panel=_RUNNING,
        help="Hash also files whose name, size and time are as they were.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_RUNNING,
        metavar="I/N",
        help="Only the I-th of N parts, for N machines; `deepscan merge` joins their results.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_RUNNING,
        metavar="ray[...]",
        help="Scan on a Ray cluster: ray, ray:HOST:PORT, ray:auto or ray://HOST:PORT. Archive "
        "and results lie under the same paths on every node.",
    ),
]
MinFree = Annotated[
    str,
    typer.Option(
        rich_help_panel=_RUNNING, metavar="SIZE", help="Stop when less of the disk is free."
    ),
]
Decoder = Annotated[
    str,
    typer.Option(
        rich_help_panel=_JUDGING,
        help="auto, decord or pyav.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        rich_help_panel=_JUDGING,
        help="auto, or RUNTIME[-DEVICE][-PRECISION]: openvino-bf16, torch-cuda, tensorrt, "
        "torch-cpu-fp32. A named engine runs or fails; only auto looks for another.",
    ),
]
MinFace = Annotated[
    int,
    typer.Option(rich_help_panel=_JUDGING, help="Smallest face that is judged, in pixels.", min=20),
]
MinCoverage = Annotated[
    float,
    typer.Option(
        rich_help_panel=_JUDGING,
        help="Share of faces to be judged for a conclusion.",
        min=0.0,
        max=1.0,
    ),
]
Stride = Annotated[
    int, typer.Option(rich_help_panel=_JUDGING, help="Judge every n-th frame only.", min=1)
]
Start = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_JUDGING, metavar="TIME", help="Judge from here on: 90, 1:30 or 2m."
    ),
]
End = Annotated[
    str | None,
    typer.Option(rich_help_panel=_JUDGING, metavar="TIME", help="Judge up to here."),
]
Triage = Annotated[
    bool,
    typer.Option(
        "--triage",
        rich_help_panel=_JUDGING,
        help="A coarse pass first, then a dense one where it is uncertain.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_JUDGING,
        metavar="TIME",
        help="Time for each file, such as 2m; the verdict names what was left out.",
    ),
]
MaxFalseAlarms = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_JUDGING,
        metavar="N/1000",
        help="Choose the operating point: so many of 1000 unmanipulated files may be called "
        "manipulated.",
    ),
]
AllowInconclusive = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_CODES,
        metavar="[=N]",
        help="Exit code 0 instead of 3; with =N for N inconclusive files at most.",
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=_CODES,
        metavar="FILE",
        help="Archives: verdicts that were reviewed and accepted do not count.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=_TELLING, help="No progress, no log.")
]


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


def count(option: str, text: str | None) -> int | None:
    """ "all" or a number; None if the option is not there."""
    if text is None:
        return None
    if text == "all":
        return sys.maxsize
    if not re.fullmatch(r"\d{1,12}", text):
        raise UsageError(f"{option}={text}: give a number of files, or nothing")
    return int(text)


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{option} {value}: must be one of {', '.join(allowed)}")
    return value
