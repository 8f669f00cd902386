"""Reviewed verdicts: findings that a person has looked at and accepted, for a while.

A baseline lets a pipeline pass although a known file is labelled manipulated, without turning the
detector down for the others. It is TOML, to be read and reviewed like code:

    format = "deepscan.baseline/1"

    [[accepted]]
    sha256 = "9f86d0…"          # of the content: a changed file is a new finding
    label = "manipulated"       # only this verdict is accepted
    reason = "our own test clip, manipulated on purpose"
    expires = 2027-03-31        # the last day; every acceptance ends
    reviewer = "A. Reviewer"    # optional
    name = "clips/a.mp4"        # optional, for people

Everything is checked when it is read: a misspelled key must not accept or lose anything in silence.
"""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from deepscan.archive.records import Outcome, Results
from deepscan.errors import UsageError
from deepscan.files import atomic_output
from deepscan.sinks.wording import visible
from deepscan.types import Label

FORMAT = "deepscan.baseline/1"
ACCEPTABLE = (Label.MANIPULATED, Label.SUSPICIOUS, Label.INCONCLUSIVE)
"""Verdicts from content. An error has none, and the others need no acceptance."""

_SIZE = 64 * 2**20  # bytes; about 200,000 entries
_KEYS = {"sha256", "label", "reason", "expires", "reviewer", "name"}
_SHA256 = re.compile("[0-9a-f]{64}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Accepted:
    """One reviewed verdict: `sha256` of the content, the label that was accepted, and why.

    `expires` is the last day on which it holds. `reviewer` and `name` are for people only.
    """

    sha256: str
    label: Label
    reason: str
    expires: date
    reviewer: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Baseline:
    """All reviewed verdicts of a file, by content and label."""

    entries: Mapping[tuple[str, Label], Accepted] = field(default_factory=dict)

    def accepts(self, outcome: Outcome, today: date) -> Accepted | None:
        """The entry that accepts an outcome on that day, None if none does."""
        entry = self.entry_of(outcome)
        return entry if entry is not None and today <= entry.expires else None

    def entry_of(self, outcome: Outcome) -> Accepted | None:
        """The entry for the content and label of an outcome, also if it has expired."""
        return None if outcome.sha256 is None else self.entries.get((outcome.sha256, outcome.label))

    def knows(self, outcome: Outcome) -> bool:
        """Whether any verdict over this content was reviewed, this one or another."""
        return any((outcome.sha256, label) in self.entries for label in ACCEPTABLE)


def after_baseline(
    outcomes: Iterable[Outcome], baseline: Baseline, today: date
) -> list[tuple[Outcome, Accepted | None]]:
    """Each outcome with the entry that accepts it, in order.

    For the exit code an accepted outcome counts as accepted, not under its label:
    `policy.code(outcome.label for outcome, accepted in ... if accepted is None)`. An acceptance
    that has run out accepts nothing, and is said once in the log.
    """
    judged: list[tuple[Outcome, Accepted | None]] = []
    told: set[Accepted] = set()
    for outcome in outcomes:
        entry = baseline.entry_of(outcome)
        if entry is not None and today > entry.expires and entry not in told:
            told.add(entry)
            name = visible(outcome.name)
            _log.warning("%s: its acceptance as %s expired on %s", name, entry.label, entry.expires)
        judged.append((outcome, baseline.accepts(outcome, today)))
    return judged


def read_baseline(path: Path) -> Baseline:
    """The reviewed verdicts of a baseline file.

    Raises:
        UsageError: the file cannot be read, or an entry is malformed or there twice; the message
            says which and how.
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
                raise ValueError("this content and label stand there twice: keep one")
        except ValueError as error:
            told = f"the baseline {path}, entry {number}: {error}"
            raise UsageError(visible(told)) from error
        found[entry.sha256, entry.label] = entry
    return Baseline(found)


def write_baseline(
    results: Results,
    path: Path,
    reason: str,
    expires: date,
    *,
    reviewer: str | None = None,
    labels: Iterable[Label] = (Label.MANIPULATED, Label.SUSPICIOUS),
) -> Baseline:
    """Write a baseline that accepts what the results found; each content stands there once.

    Raises:
        UsageError: the reason is empty, or a label cannot be accepted.
        OutputError: the file cannot be written.
    """
    wanted = frozenset(labels)
    if not reason.strip():
        raise UsageError("a baseline needs a reason: say why these findings are accepted")
    if refused := sorted(wanted - set(ACCEPTABLE)):
        raise UsageError(f"a baseline cannot accept {', '.join(refused)}")
    entries: dict[tuple[str, Label], Accepted] = {}
    for each in results.outcomes:
        if each.label in wanted and each.sha256 is not None:
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
    # What hides or moves text is written out first, so that a reviewer sees what is accepted; a
    # basic string then needs nothing but its quote and backslash escaped.
    return '"' + visible(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
