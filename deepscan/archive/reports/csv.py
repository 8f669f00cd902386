"""Writes results.csv: one line per file, safe to open in a spreadsheet.

RFC 4180: UTF-8, CRLF, a header line, quotes where needed. Control characters are spelled out. A
cell that a spreadsheet could take for a formula starts with an apostrophe, as OWASP advises; so
does one that starts with an apostrophe, which makes the rule reversible. Files that were not listed
are counted in a last line without a name and with the label "passed-over", files that are gone in
one with the label "gone". Exact names are in results.jsonl.
"""

from __future__ import annotations

import csv
from pathlib import Path

from deepscan.archive.records import Accepted, Outcome, Results
from deepscan.archive.reports import gone_text
from deepscan.files import atomic_output
from deepscan.wording import passed_over_text, visible

GONE = "gone"
COLUMNS = (
    "name",
    "label",
    "score",
    "stretches",
    "first_start",
    "last_end",
    "tracks",
    "frames",
    "seconds",
    "judged",
    "reason_codes",
    "reasons",
    "same_as",
    "provenance",
    "sha256",
    "size",
    "engine",
    "decoder",
    "folder",
    "outputs",
    "started",
    "took",
    "path",
    "accepted_until",
    "accepted_reason",
    "state",
)

# Starts of formulas by OWASP, "CSV Injection", also in the full-width forms that some programs
# accept; and the apostrophe.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")


def write_csv(results: Results, path: Path) -> None:
    """Write one line for each file of the results.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_output(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        for outcome in results.outcomes:
            values = _values(outcome, results.accepted(outcome), results.state_of(outcome))
            writer.writerow([cell(value) for value in values])
        last = {"passed-over": passed_over_text(results.run.passed_over), GONE: gone_text(results)}
        for label, reasons in last.items():
            if not reasons:
                continue
            told = {"label": label, "reasons": reasons}
            writer.writerow([cell(told.get(column)) for column in COLUMNS])


def cell(value: str | int | float | None) -> str:
    """Format a value for a spreadsheet: numbers unchanged, text never as a formula."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = visible(value)
    # Some programs drop leading blanks before they look for a formula.
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def _values(
    outcome: Outcome, accepted: Accepted | None, state: str
) -> list[str | int | float | None]:
    """One value for each of `COLUMNS`: computed here, or a field of the outcome."""
    intervals = outcome.intervals
    reckoned = {
        "label": str(outcome.label),
        "stretches": len(intervals),
        "first_start": min((each.start for each in intervals), default=None),
        "last_end": max((each.end for each in intervals), default=None),
        "reason_codes": " ".join(reason.code for reason in outcome.reasons),
        "reasons": "; ".join(reason.text for reason in outcome.reasons),
        "outputs": " ".join(output.kind for output in outcome.outputs),
        "accepted_until": None if accepted is None else accepted.expires.isoformat(),
        "accepted_reason": None if accepted is None else accepted.reason,
        "state": state,
    }
    return [
        reckoned[name] if name in reckoned else getattr(outcome, name)  # type: ignore[misc]
        for name in COLUMNS
    ]
