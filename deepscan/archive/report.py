"""The table of reports: what is derived from the journal of a results folder.

To add one, write one file in reports/ with a function `(Results, Path) -> None` that writes the
file whole or raises `OutputError`, and add one line here; the conformance suite in tests/archive/
runs over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from deepscan.archive.results import Results

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
"""Name of a report -> the file in the results folder, and the function that writes it."""


def load_report(name: str) -> tuple[str, Report]:
    """File name and function of a report.

    Raises:
        KeyError: no report has that name.
    """
    file, where = REPORTS[name]
    module, function = where.split(":")
    report: Report = getattr(import_module(module), function)
    return file, report
