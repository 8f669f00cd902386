"""Baselines: findings that a person has reviewed and accepted until a date.

A baseline lets a pipeline pass although a known file is labelled manipulated, without weakening the
check of the others. It is TOML, to be reviewed like code:

    format = "deepscan.baseline/1"

    [[accepted]]
    sha256 = "9f86d0…"          # of the content: a changed file is a new finding
    label = "manipulated"       # only this verdict is accepted
    reason = "our own test clip, manipulated on purpose"
    expires = 2027-03-31        # the last day; every acceptance expires
    reviewer = "A. Reviewer"    # optional
    name = "clips/a.mp4"        # optional, for people

The schema of its values is schemas/baseline-1.json. Reading checks every key and value, so that a
misspelled key neither accepts nor drops a finding unnoticed.
"""

from __future__ import annotations

import logging
import re
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from deepscan.archive.records import ACCEPTABLE, Accepted, Baseline, Results
from deepscan.errors import UsageError
from deepscan.files import atomic_output
from deepscan.types import Label
from deepscan.wording import visible

FORMAT = "deepscan.baseline/1"
_SIZE = 64 * 2**20  # bytes; about 200,000 entries
_KEYS = {"sha256", "label", "reason", "expires", "reviewer", "name"}
_SHA256 = re.compile("[0-9a-f]{64}")
_log = logging.getLogger(__name__)


def read_baseline(path: Path) -> Baseline:
    """Read the reviewed verdicts of a baseline file; expired entries are logged.

    Raises:
        UsageError: the file cannot be read, or an entry is malformed or duplicated; the message
            names the entry and the fault.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_SIZE + 1)
        if len(content) > _SIZE:
            raise UsageError(f"{path} is no baseline: it is larger than {_SIZE >> 20} MiB")
        values = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"the baseline {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the baseline {path} is not TOML: {error}") from error
    if values.get("format") != FORMAT:
        raise UsageError(f'the baseline {path} lacks its first line: format = "{FORMAT}"')
    entries = values.get("accepted", [])
    if values.keys() - {"format", "accepted"} or not isinstance(entries, list):
        raise UsageError(f"the baseline {path} may hold format and [[accepted]] only")
    found: dict[tuple[str, Label], Accepted] = {}
    for number, given in enumerate(entries, start=1):
        try:
            entry = _entry(given)
            if (entry.sha256, entry.label) in found:
                raise ValueError("duplicate of content and label: keep one entry")
        except ValueError as error:
            told = f"the baseline {path}, entry {number}: {error}"
            raise UsageError(visible(told)) from error
        found[entry.sha256, entry.label] = entry
        if entry.expires < datetime.now(UTC).date():
            name = visible(entry.name or entry.sha256)
            _log.warning("%s: its acceptance as %s expired on %s", name, entry.label, entry.expires)
    return Baseline(found)


def write_baseline(
    results: Results,
    path: Path,
    reason: str,
    expires: date,
    *,
    reviewer: str | None = None,
) -> Baseline:
    """Write a baseline that accepts the findings of the results, one entry for each content.

    Raises:
        UsageError: the reason is empty.
        OutputError: the file cannot be written.
    """
    if not reason.strip():
        raise UsageError("a baseline needs a reason: say why these findings are accepted")
    entries: dict[tuple[str, Label], Accepted] = {}
    for each in results.outcomes:
        found = each.label in (Label.MANIPULATED, Label.SUSPICIOUS)
        if found and each.sha256 is not None:
            entry = Accepted(each.sha256, each.label, reason, expires, reviewer, each.name)
            entries.setdefault((each.sha256, each.label), entry)
    baseline = Baseline(entries)
    with atomic_output(path) as part:
        part.write_text(_toml(baseline), encoding="utf-8", newline="\n")
    return baseline


def _entry(given: Any) -> Accepted:
    if not isinstance(given, dict):
        raise ValueError("write it under a line [[accepted]]")
    if unknown := sorted(given.keys() - _KEYS):
        raise ValueError(f"{', '.join(unknown)}: unknown; there are {', '.join(sorted(_KEYS))}")
    if missing := sorted({"sha256", "label", "reason", "expires"} - given.keys()):
        raise ValueError(f"{', '.join(missing)}: missing")
    for key in ("sha256", "label", "reason", "reviewer", "name"):
        if not isinstance(given.get(key, ""), str):
            raise ValueError(f"{key}: give text in quotes")
    if not _SHA256.fullmatch(given["sha256"].lower()):
        raise ValueError("sha256: give 64 hexadecimal digits")
    if given["label"] not in ACCEPTABLE:
        raise ValueError(f"label: give one of {', '.join(ACCEPTABLE)}")
    if not given["reason"].strip():
        raise ValueError("reason: say why this finding is accepted")
    expires = given["expires"]
    if not isinstance(expires, date) or isinstance(expires, datetime):
        raise ValueError("expires: give a day without quotes, as 2027-03-31")
    return Accepted(
        sha256=given["sha256"].lower(),
        label=Label(given["label"]),
        reason=given["reason"],
        expires=expires,
        reviewer=given.get("reviewer"),
        name=given.get("name"),
    )


def _toml(baseline: Baseline) -> str:
    lines = [f'format = "{FORMAT}"']
    for each in baseline.entries.values():
        lines += ["", "[[accepted]]"]
        if each.name is not None:
            lines.append(f"name = {_quoted(each.name)}")
        lines += [
            f'sha256 = "{each.sha256}"',
            f'label = "{each.label}"',
            f"reason = {_quoted(each.reason)}",
            f"expires = {each.expires.isoformat()}",
        ]
        if each.reviewer is not None:
            lines.append(f"reviewer = {_quoted(each.reviewer)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # Control characters are spelled out first, so that a reviewer sees what is accepted; then only
    # quotes and backslashes need escaping.
    return '"' + visible(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
