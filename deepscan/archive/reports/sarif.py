"""results.sarif: SARIF 2.1.0, for code scanning services.

| label          | here                                                     |
| -------------- | -------------------------------------------------------- |
| manipulated    | result of kind fail, level error                         |
| suspicious     | result of kind review, level none                        |
| no-evidence    | result of kind pass, level none                          |
| inconclusive   | result of kind open, level none                          |
| not-applicable | result of kind notApplicable, level none                 |
| error          | notification of the tool, and the execution has failed   |

A file has no lines: the region is line 1, and the stretches of time stand in `properties`.
GitHub takes 25,000 results and 10 MB of gzip a file: what is more goes on in results-2.sarif,
results-3.sarif, ... beside it, each valid alone and with its own category, the gravest first.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from deepscan.archive.records import Baseline, Outcome, Results, Run
from deepscan.archive.reports import SEVERITY, address
from deepscan.archive.reports.jsonl import encodable
from deepscan.errors import OutputError
from deepscan.files import atomic_output
from deepscan.sinks import wording
from deepscan.types import Label

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
KINDS = {
    Label.MANIPULATED: ("fail", "error"),
    Label.SUSPICIOUS: ("review", "none"),
    Label.NO_EVIDENCE: ("pass", "none"),
    Label.INCONCLUSIVE: ("open", "none"),
    Label.NOT_APPLICABLE: ("notApplicable", "none"),
}
"""Label -> kind and level; an error is no result."""

MAX_RESULTS = 25_000  # a run; GitHub, "SARIF support for code scanning"
MAX_GZIP = 10_000_000  # bytes of a file, the same source
_RULES = tuple(KINDS)


def write_sarif(
    results: Results,
    path: Path,
    *,
    today: date | None = None,
) -> None:
    """Write the results, in more than one file where they pass GitHub's limits.

    Where the results have a baseline, every result has a `baselineState`: unchanged if the baseline
    accepts it today (it is then suppressed too, with the reason), updated if another verdict over
    the same content was reviewed, else new. `today` is the day in UTC unless it is given.

    Raises:
        OutputError: a file cannot be written, or a number is NaN or infinite.
    """
    day = today or datetime.now(UTC).date()
    ranks = {label: rank for rank, label in enumerate(SEVERITY)}
    ordered = sorted(results.outcomes, key=lambda each: (ranks[each.label], each.name))
    seen: Counter[str] = Counter()
    found = [
        _result(each, results.baseline, day, seen)
        for each in ordered
        if each.label is not Label.ERROR
    ]
    broken = [_notification(each) for each in ordered if each.label is Label.ERROR]
    logs = _parts(results, found, broken)
    for number, log in enumerate(logs, start=1):
        with atomic_output(_part(path, number)) as part:
            part.write_bytes(log)
    _remove_left_over(path, len(logs))


def _parts(
    results: Results, found: list[dict[str, Any]], broken: list[dict[str, Any]]
) -> list[bytes]:
    # Most runs fit at once; else halves are tried until each part fits, so their number is known
    # only at the end, when every part is told its own.
    chunks = [found[at : at + MAX_RESULTS] for at in range(0, len(found), MAX_RESULTS)] or [[]]
    fitting: list[list[dict[str, Any]]] = []
    for chunk in chunks:
        fitting += _fitting(chunk)
    return [
        _dumped(_log(results, chunk, broken if number == 1 else [], number))
        for number, chunk in enumerate(fitting, start=1)
    ]


def _fitting(chunk: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    # 0.5 leaves room for the rules and the notifications.
    packed = gzip.compress(_dumped(chunk), compresslevel=6, mtime=0)
    if len(packed) <= MAX_GZIP // 2 or len(chunk) < 2:
        yield chunk
        return
    middle = len(chunk) // 2
    yield from _fitting(chunk[:middle])
    yield from _fitting(chunk[middle:])


def _log(
    results: Results,
    found: Sequence[dict[str, Any]],
    broken: Sequence[dict[str, Any]],
    number: int,
) -> dict[str, Any]:
    run = results.run
    category = "deepscan/" if number == 1 else f"deepscan/part-{number}/"
    if run.shard:
        category += f"shard-{run.shard[0]}-of-{run.shard[1]}/"
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
        notes.append(_said("controls_failed", "the control crops did not score as they must"))
    if not results.finished:
        notes.append(_said("unfinished", "the run has not finished: files are without a result"))
    errors = any(each.label is Label.ERROR for each in results.outcomes)
    invocation: dict[str, Any] = {
        # As the exit code: what could not be judged is no success, however small its share.
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
    outcome: Outcome, baseline: Baseline | None, today: date, seen: Counter[str]
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
        "locations": [_location(outcome)],
        # GitHub reads the first; copies of one content are told apart by their number.
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
            # An acceptance that has run out makes the finding new again.
            other = baseline.knows(outcome) and baseline.entry_of(outcome) is None
            result["baselineState"] = "updated" if other else "new"
    return result


def _fingerprint(outcome: Outcome) -> str:
    # The content, not the name: a file that was moved is the same finding.
    what = outcome.sha256 or outcome.name
    text = f"{outcome.label}\0{what}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


def _message(outcome: Outcome) -> str:
    reasons = "; ".join(wording.visible(reason.text) for reason in outcome.reasons)
    score = "" if outcome.score is None else f" Score {wording.probability(outcome.score)}."
    headline = wording.phrase(f"headline.{outcome.label}")
    return f"{headline}{score} {reasons}".strip()


def _location(outcome: Outcome) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": address(outcome.name), "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": 1},
        }
    }


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


def _notification(outcome: Outcome) -> dict[str, Any]:
    code = outcome.reasons[0].code if outcome.reasons else "error"
    return _said(wording.visible(code), _message(outcome)) | {"locations": [_location(outcome)]}


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
    # A folder that once held more results: its further parts would be uploaded as current ones.
    mine = re.compile(re.escape(path.stem) + r"-(\d+)" + re.escape(path.suffix))
    for other in path.parent.iterdir():
        match = mine.fullmatch(other.name)
        if match and int(match[1]) > count:
            other.unlink(missing_ok=True)
