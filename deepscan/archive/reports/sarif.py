"""Writes results.sarif: SARIF 2.1.0, for code scanning services.

| label          | here                                                     |
| -------------- | -------------------------------------------------------- |
| manipulated    | result of kind fail, level error                         |
| suspicious     | result of kind review, level none                        |
| inconclusive   | result of kind open, level none                          |
| error          | notification of the tool, and the execution has failed   |
| no-evidence    | counted in the run's properties: GitHub would show every |
| not-applicable | result as an alert, whatever its kind                    |

A video has no lines: the region is line 1, and the time intervals are in `properties`. Paths are
relative to the top of the git repository around the working folder, or else to that folder; files
elsewhere have their full address.

GitHub accepts 10 MB of gzip per file and 25,000 results per run, and shows 5,000 of them ("SARIF
support for code scanning"). Further results are written to results-2.sarif, results-3.sarif, ...,
each valid alone and with its own category, the most serious first.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from deepscan import wording
from deepscan.archive.inputs.remote import is_address
from deepscan.archive.records import Baseline, Outcome, Results, Run
from deepscan.archive.reports import SEVERITY, address, unfinished_text
from deepscan.archive.reports.jsonl import encodable
from deepscan.errors import OutputError
from deepscan.files import atomic_output
from deepscan.types import Label

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
KINDS = {
    Label.MANIPULATED: ("fail", "error"),
    Label.SUSPICIOUS: ("review", "none"),
    Label.INCONCLUSIVE: ("open", "none"),
}
"""Label -> kind and level; other labels are no results."""

MAX_RESULTS = 5_000  # per run: GitHub accepts 25,000 and shows this many
MAX_GZIP = 10_000_000  # bytes of a file
_RULES = tuple(KINDS)


def write_sarif(
    results: Results,
    path: Path,
    *,
    root: Path | None = None,
    category: str = "",
    today: date | None = None,
) -> None:
    """Write the findings, in several files if they exceed GitHub's limits.

    Args:
        root: the folder that paths are relative to; None: `checkout_root()`.
        category: prefix of the category of every part, to separate several uploads for one commit
            (of a matrix).
        today: the day (UTC) for the expiry of a baseline; None: now.

    With a baseline, every result has a `baselineState`: unchanged if the baseline accepts it today
    (it is then also suppressed, with the reason), updated if another verdict on the same content
    was reviewed, else new.

    Raises:
        OutputError: a file cannot be written, or a number is NaN or infinite.
    """
    day = today or datetime.now(UTC).date()
    ranks = {label: rank for rank, label in enumerate(SEVERITY)}
    ordered = sorted(results.outcomes, key=lambda each: (ranks[each.label], each.name))
    seen: Counter[str] = Counter()
    base = os.path.realpath(checkout_root() if root is None else root)
    found = [
        _result(each, base, results.baseline, day, seen) for each in ordered if each.label in KINDS
    ]
    broken = [_notification(each, base) for each in ordered if each.label is Label.ERROR]
    logs = _parts(results, category, found, broken)
    for number, log in enumerate(logs, start=1):
        with atomic_output(_part(path, number)) as part:
            part.write_bytes(log)
    _remove_left_over(path, len(logs))


def checkout_root() -> Path:
    """The top of the git repository around the working folder, or that folder."""
    here = Path.cwd()
    # A file in a submodule or a second worktree; git itself need not be installed.
    return next((each for each in (here, *here.parents) if (each / ".git").exists()), here)


def _parts(
    results: Results,
    category: str,
    found: list[dict[str, Any]],
    broken: list[dict[str, Any]],
) -> list[bytes]:
    # Most runs fit; else parts are halved until each fits, so they are numbered at the end.
    chunks = [found[at : at + MAX_RESULTS] for at in range(0, len(found), MAX_RESULTS)] or [[]]
    fitting: list[list[dict[str, Any]]] = []
    for chunk in chunks:
        fitting += _fitting(chunk)
    return [
        _dumped(
            _log(
                results,
                _category(results.run, category, number),
                chunk,
                broken if number == 1 else [],
            )
        )
        for number, chunk in enumerate(fitting, start=1)
    ]


def _fitting(chunk: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    # Half of the limit leaves space for rules and notifications.
    packed = gzip.compress(_dumped(chunk), compresslevel=6, mtime=0)
    if len(packed) <= MAX_GZIP // 2 or len(chunk) < 2:
        yield chunk
        return
    middle = len(chunk) // 2
    yield from _fitting(chunk[:middle])
    yield from _fitting(chunk[middle:])


def _category(run: Run, category: str, number: int) -> str:
    """The id of a part's analysis. The text before the last "/" is its category on GitHub."""
    parts = [category] if category else []
    parts.append("deepscan")
    if number > 1:
        parts.append(f"part-{number}")
    if run.shard:
        parts.append(f"shard-{run.shard[0]}-of-{run.shard[1]}")
    return "/".join(parts) + "/"


def _log(
    results: Results,
    category: str,
    found: Sequence[dict[str, Any]],
    broken: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    run = results.run
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": _driver(run)},
                "automationDetails": {"id": category},
                "columnKind": "unicodeCodePoints",
                "invocations": [_invocation(results, broken)],
                "results": found,
                "properties": {
                    "files": len(results.outcomes),
                    "labels": dict(Counter(str(each.label) for each in results.outcomes)),
                    "passedOver": dict(run.passed_over),
                    "gone": len(results.gone),
                    "notListed": len(results.not_listed),
                },
            }
        ],
    }


def _driver(run: Run) -> dict[str, Any]:
    return {
        "name": "deepscan",
        "version": run.version,
        "rules": [_rule(label) for label in _RULES],
        "properties": {
            "model": run.model,
            "modelSha256": run.model_sha256,
            "engine": run.engine,
            "calibration": run.calibration,
            "operatingPoint": run.operating_point,
            "falseAlarmRate": run.false_alarm_rate,
            "versions": dict(run.versions),
        },
    }


def _rule(label: Label) -> dict[str, Any]:
    means, caveat = wording.phrase(f"means.{label}"), wording.phrase(f"caveat.{label}")
    return {
        "id": str(label),
        "name": "".join(word.capitalize() for word in label.split("-")),
        "shortDescription": {"text": wording.phrase(f"headline.{label}")},
        "fullDescription": {"text": means},
        "help": {
            "text": f"{means} {caveat} {wording.phrase('proof')}",
            "markdown": f"{means}\n\n{caveat}\n\n{wording.phrase('proof')}",
        },
        "defaultConfiguration": {"level": KINDS[label][1]},
        "properties": {"tags": ["face-manipulation"]},
    }


def _invocation(results: Results, broken: Sequence[dict[str, Any]]) -> dict[str, Any]:
    run = results.run
    notes = list(broken)
    if run.controls_passed is False:
        notes.append(_said("controls_failed", "the known crops did not score as expected"))
    if not results.finished:
        notes.append(_said("unfinished", unfinished_text(results)))
    errors = any(each.label is Label.ERROR for each in results.outcomes)
    invocation: dict[str, Any] = {
        # As for the exit code, a single file that could not be judged is no success.
        "executionSuccessful": not errors and results.finished and run.controls_passed is not False,
        "arguments": [wording.visible(each) for each in run.command[1:]],
        "toolExecutionNotifications": notes,
    }
    if run.command:
        invocation["commandLine"] = wording.visible(" ".join(run.command))
    with suppress(ValueError):
        started = datetime.fromisoformat(run.started).astimezone(UTC)
        invocation["startTimeUtc"] = started.strftime("%Y-%m-%dT%H:%M:%SZ")
    return invocation


def _result(
    outcome: Outcome, base: str, baseline: Baseline | None, today: date, seen: Counter[str]
) -> dict[str, Any]:
    kind, level = KINDS[outcome.label]
    print_ = _fingerprint(outcome)
    seen[print_] += 1
    result: dict[str, Any] = {
        "ruleId": str(outcome.label),
        "ruleIndex": _RULES.index(outcome.label),
        "kind": kind,
        "level": level,
        "message": {"text": _message(outcome)},
        "locations": [_location(outcome, base)],
        # GitHub uses the first; copies of one content differ in the number.
        "partialFingerprints": {
            "primaryLocationLineHash": f"{print_[:16]}:{seen[print_]}",
            "deepscanContent/v1": print_,
        },
        "properties": _properties(outcome),
    }
    if baseline is not None:
        accepted = baseline.accepts(outcome, today)
        if accepted is not None:
            result["baselineState"] = "unchanged"
            reason = f"{accepted.reason} (until {accepted.expires.isoformat()})"
            result["suppressions"] = [
                {
                    "kind": "external",
                    "status": "accepted",
                    "justification": wording.visible(reason),
                }
            ]
        else:
            # After an acceptance has expired, the finding is new again.
            other = baseline.knows(outcome) and baseline.entry_of(outcome) is None
            result["baselineState"] = "updated" if other else "new"
    return result


def _fingerprint(outcome: Outcome) -> str:
    # By content, not by name: a moved file is the same finding.
    what = outcome.sha256 or outcome.name
    text = f"{outcome.label}\0{what}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


def _message(outcome: Outcome) -> str:
    reasons = "; ".join(wording.visible(reason.text) for reason in outcome.reasons)
    score = "" if outcome.score is None else f" Score {wording.probability(outcome.score)}."
    headline = wording.phrase(f"headline.{outcome.label}")
    return f"{headline}{score} {reasons}".strip()


def _location(outcome: Outcome, base: str) -> dict[str, Any]:
    place: dict[str, str]
    if is_address(outcome.path):
        place = {"uri": _encoded(outcome.path)}
    elif outcome.path.startswith(os.path.join(base, "")):
        below = address(os.path.relpath(outcome.path, base))
        place = {"uri": below, "uriBaseId": "%SRCROOT%"}
    else:
        place = {"uri": f"file://{address(outcome.path)}"}
    return {"physicalLocation": {"artifactLocation": place, "region": {"startLine": 1}}}


def _encoded(text: str) -> str:
    """Encode an address ("s3://bucket/key") as a URI."""
    scheme, _, rest = text.partition("://")
    return f"{scheme}://{address(rest)}"


def _properties(outcome: Outcome) -> dict[str, Any]:
    return {
        "score": outcome.score,
        "sha256": outcome.sha256,
        "reasons": [reason.code for reason in outcome.reasons],
        "stretches": [
            {
                "start": each.start,
                "end": each.end,
                "face": each.track_id,
                "score": each.score,
                "label": str(each.label),
            }
            for each in outcome.intervals
        ],
        "judged": outcome.judged,
        "seconds": outcome.seconds,
        "sameAs": outcome.same_as and wording.visible(outcome.same_as),
        "provenance": outcome.provenance,
    }


def _notification(outcome: Outcome, base: str) -> dict[str, Any]:
    code = outcome.reasons[0].code if outcome.reasons else "error"
    return _said(wording.visible(code), _message(outcome)) | {
        "locations": [_location(outcome, base)]
    }


def _said(code: str, text: str) -> dict[str, Any]:
    return {"level": "error", "descriptor": {"id": code}, "message": {"text": text}}


def _dumped(value: Any) -> bytes:
    try:
        text = json.dumps(encodable(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        message = "a result holds NaN or infinity and SARIF is not written; please report this"
        raise OutputError(message) from error
    return text.encode("ascii") + b"\n"


def _part(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _remove_left_over(path: Path, count: int) -> None:
    # Parts of an earlier run with more results would be uploaded as current.
    mine = re.compile(re.escape(path.stem) + r"-(\d+)" + re.escape(path.suffix))
    for other in path.parent.iterdir():
        match = mine.fullmatch(other.name)
        if match and int(match[1]) > count:
            other.unlink(missing_ok=True)
