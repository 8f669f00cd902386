"""Writes results.jsonl: one canonical line per file, for programs.

Sorted keys, no blanks, no NaN, ASCII only: no tool splits a line at U+2028, and no name can move
the cursor of a terminal. A name or path that is not UTF-8 contains U+FFFD, and its bytes are in
`name_b64` or `path_b64`. Files that were not listed, and files that are gone from the archive, are
counted in two last lines with the schemas `deepscan.passed-over/1` and `deepscan.gone/1`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from deepscan.archive.records import Outcome, Results
from deepscan.errors import OutputError
from deepscan.files import atomic_output
from deepscan.sinks.record import name_bytes, utf8

SCHEMA = "deepscan.outcome/1"
PASSED_OVER = "deepscan.passed-over/1"
GONE = "deepscan.gone/1"


def write_jsonl(results: Results, path: Path) -> None:
    """Write one line for each file of the results.

    Raises:
        OutputError: the file cannot be written, or a number in it is NaN or infinite.
    """
    with atomic_output(path) as part, part.open("w", encoding="ascii", newline="\n") as file:
        for outcome in results.outcomes:
            file.write(line_of(outcome, results.state_of(outcome)) + "\n")
        last: list[dict[str, Any]] = []
        if results.run.passed_over:
            last.append({"schema": PASSED_OVER, "passed_over": dict(results.run.passed_over)})
        if results.gone:
            last.append({"schema": GONE, "gone": len(results.gone)})
        for each in last:
            file.write(json.dumps(each, sort_keys=True, separators=(",", ":")) + "\n")


def line_of(outcome: Outcome, state: str = "current") -> str:
    """Format the line of one file, without the line feed.

    Raises:
        OutputError: a number in it is NaN or infinite.
    """
    values = outcome.to_json() | {"schema": SCHEMA, "state": state}
    del values["identity"]  # device and inode mean nothing on another day or machine
    for key in ("name", "path"):
        if values[key] != utf8(values[key]):
            values[f"{key}_b64"] = base64.b64encode(name_bytes(values[key])).decode("ascii")
    try:
        return json.dumps(encodable(values), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        name = ascii(outcome.name)
        message = f"the result of {name} holds NaN or infinity and is not written; please report it"
        raise OutputError(message) from error


def encodable(value: Any) -> Any:
    """Copy a JSON value with encodable texts and numbers rounded to six digits."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {utf8(key): encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(each) for each in value]
    return value
