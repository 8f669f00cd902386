"""The table of reports, and functions that they share.

A report is a function of `Results`, so writing it again gives the same file. It is written
atomically, so that a reader never sees half a report during a run.

To add one, write one file with a function `(Results, Path) -> None` that writes the file atomically
or raises `OutputError`, and add one line to `REPORTS`; the conformance suite in tests/archive/ runs
over all reports. What is written by default is `DEFAULT_REPORTS` in ../options.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from pkgutil import resolve_name
from urllib.parse import quote

from deepscan.archive.records import Results
from deepscan.errors import UsageError
from deepscan.sinks.record import name_bytes
from deepscan.types import Label
from deepscan.wording import file_count

SEVERITY = (
    Label.MANIPULATED,
    Label.SUSPICIOUS,
    Label.INCONCLUSIVE,
    Label.ERROR,
    Label.NO_EVIDENCE,
    Label.NOT_APPLICABLE,
)
"""Labels by the attention that they need, the most first."""


def unfinished_text(results: Results) -> str:
    """A sentence on the files without a result, "" for a finished run."""
    if results.finished:
        return ""
    listed = "" if results.run.listed is None else f" of {file_count(results.run.listed)}"
    if results.left is None:
        return f"the run has not finished: not all{listed or ' files'} have a result"
    most = "up to " if results.run.shard else ""
    verb = "was" if results.left == 1 else "were"
    return f"the run was stopped: {most}{results.left:,}{listed} {verb} not scanned"


def gone_text(results: Results) -> str:
    """A sentence on the files that are gone from the archive, "" for none."""
    count = len(results.gone)
    if not count:
        return ""
    files = "1 file is" if count == 1 else f"{count:,} files are"
    return f"{files} gone from the archive since an earlier run and not counted"


def inside(path: str) -> bool:
    """True if a path of the journal stays below the results folder."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts


def address(path: str) -> str:
    """Encode a relative "/"-separated path as a URI reference."""
    return quote(name_bytes(path), safe="/")


Report = Callable[[Results, Path], None]

REPORTS: dict[str, tuple[str, str]] = {
    "html": ("summary.html", "deepscan.archive.reports.html:write_html"),
    "csv": ("results.csv", "deepscan.archive.reports.csv:write_csv"),
    "jsonl": ("results.jsonl", "deepscan.archive.reports.jsonl:write_jsonl"),
    "sarif": ("results.sarif", "deepscan.archive.reports.sarif:write_sarif"),
    "junit": ("results.junit.xml", "deepscan.archive.reports.junit:write_junit"),
    "sqlite": ("results.sqlite", "deepscan.archive.reports.sqlite:write_sqlite"),
    "parquet": ("results.parquet", "deepscan.archive.reports.parquet:write_parquet"),
}
"""Name of a report -> file name in the results folder, and the function that writes it."""


def load_report(
    name: str, sarif_root: Path | None = None, sarif_category: str = ""
) -> tuple[str, Report]:
    """Load file name and function of a report.

    Args:
        sarif_root, sarif_category: as in `write_sarif`; ignored by other reports.

    Raises:
        UsageError: no report has that name, or it needs a package that is not installed.
    """
    if name not in REPORTS:
        known = ", ".join(REPORTS)
        raise UsageError(f"--report {name}: there is no such report; give some of {known}")
    file, where = REPORTS[name]
    try:
        write = resolve_name(where)
    except ImportError as error:
        raise UsageError(
            f"the report {name!r} needs a package that is not installed: {error}"
        ) from error
    if name == "sarif":
        write = partial(write, root=sarif_root, category=sarif_category)
    report: Report = write
    return file, report
