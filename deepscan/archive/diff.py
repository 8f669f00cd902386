"""Compares two results of the same files: which verdicts changed, by how much, and why.

A verdict depends on the content and on everything that judged it: weights, settings, decoder,
engine, calibration, and the versions of packages that touch pixels or scores. Each difference in
them is listed with the verdicts that changed. A verdict that changed without any such difference is
reported as well, since that should not happen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deepscan.archive.journal import JOURNAL, read_state
from deepscan.archive.records import Outcome, Run
from deepscan.archive.reports import inside
from deepscan.archive.settings_hash import result_key
from deepscan.archive.states import FileState
from deepscan.errors import UsageError
from deepscan.sinks.record import SCHEMA as RECORD
from deepscan.types import Label
from deepscan.wording import probability, visible

SCHEMA = "deepscan.diff/1"
TOLERANCE = 0.02  # of P(manipulated); two engines within tolerance of torch may differ by it
CAUSES = ("content", "model", "settings", "decoder", "engine", "calibration", "version")
GONE, NEW, SUPERSEDED, UNKNOWN = "gone", "new", "superseded", "unknown"

_RECORD = 64 * 2**20  # bytes; one with 100,000 intervals has 40 MB
_ASKED = ("engine", "model", "isolate")  # requests such as "auto"; the record names the result
_NOT_CAUSES = ("python", "numpy")  # they touch no pixel and no score
_CALIBRATION = ("name", "population", "clips", "false_alarm_rate")

Facts = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Judged:
    """One file on one side: its verdict, and everything that judged it.

    `facts` holds names and values for each of `CAUSES`; unknown causes are missing. `offset` is the
    start of the picture (s); times in records without it count from there. 0: nothing says so.
    """

    name: str
    label: Label
    score: float | None
    reasons: tuple[str, ...]
    facts: Facts
    offset: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between the two sides: one of `CAUSES`, the name of the value, both values."""

    cause: str
    what: str
    old: str | int | float | bool | None
    new: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Move:
    """One file whose verdict changed: both sides, and the differences between them.

    `before` or `after` is None for a file that only one side has. `by` is the change of
    P(manipulated) if both sides have one.
    """

    name: str
    before: Judged | None
    after: Judged | None
    changes: tuple[Change, ...]
    unknown: tuple[str, ...]  # causes that are not known on both sides
    superseded: bool = False  # the side without a verdict has one by earlier settings

    @property
    def old(self) -> Label | None:
        return None if self.before is None else self.before.label

    @property
    def new(self) -> Label | None:
        return None if self.after is None else self.after.label

    @property
    def by(self) -> float | None:
        if self.before is None or self.after is None:
            return None
        old, new = self.before.score, self.after.score
        return None if old is None or new is None else new - old

    @property
    def causes(self) -> tuple[str, ...]:
        """Possible causes in the order of `CAUSES`; or only "gone", "new" or "superseded"."""
        if self.new is None or self.old is None:
            return (SUPERSEDED if self.superseded else GONE if self.new is None else NEW,)
        found = {change.cause for change in self.changes}
        return tuple(cause for cause in CAUSES if cause in found)


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between two results: files that changed, and the number that did not."""

    old: str
    new: str
    same: int
    moves: tuple[Move, ...]

    @property
    def moved(self) -> bool:
        return bool(self.moves)


def compare(old: Path, new: Path, *, tolerance: float = TOLERANCE) -> Difference:
    """Compare two results folders, or two records.

    Files are matched by name; two records always with each other.

    Args:
        tolerance: largest difference of P(manipulated) that is no change under the same label.

    Raises:
        UsageError: one of them is neither, or a folder is compared with a record.
        OutputError: a journal is damaged.
    """
    sides = [_side(path) for path in (old, new)]
    if old.is_dir() != new.is_dir():
        raise UsageError(f"{old} and {new} are not of one kind: give two folders or two records")
    if not old.is_dir():
        name = next(iter(sides[1]))
        sides[0] = {name: next(iter(sides[0].values()))}
    before, after = sides
    superseded = {each for path in (old, new) if path.is_dir() for each in _superseded(path)}
    moves = []
    for name in sorted({*before, *after}):
        move = _move(name, before.get(name), after.get(name), tolerance)
        if move is not None:
            one_sided = move.old is None or move.new is None
            moves.append(replace(move, superseded=one_sided and name in superseded))
    same = len({*before, *after}) - len(moves)
    return Difference(str(old), str(new), same, tuple(moves))


def to_json(found: Difference) -> dict[str, Any]:
    """The difference, ready for JSON."""
    counts = Counter(cause for move in found.moves for cause in move.causes or (UNKNOWN,))
    return {
        "schema": SCHEMA,
        "old": found.old,
        "new": found.new,
        "same": found.same,
        "moved": len(found.moves),
        "causes": dict(sorted(counts.items())),
        "moves": [
            {
                "name": move.name,
                "old": _half(move.before),
                "new": _half(move.after),
                "by": move.by,
                "causes": list(move.causes),
                "changes": [asdict(change) for change in move.changes],
                "unknown": list(move.unknown),
            }
            for move in found.moves
        ],
    }


def to_text(found: Difference) -> Iterator[str]:
    """Yield the difference for people, line by line; the last line has the counts."""
    common = _common(found.moves)
    for change in common:
        yield f"everywhere: {_told(change)}"
    for move in found.moves:
        yield visible(f"{move.name}: {_verdicts(move)}")
        own = [change for change in move.changes if change not in common]
        for change in own:
            yield f"  {_told(change)}"
        if move.unknown:
            yield f"  not known on both sides: {', '.join(move.unknown)}"
        elif not move.changes and move.old is not None and move.new is not None:
            yield "  nothing that affects a verdict differs: run `deepscan verify` on both"
    total = len(found.moves)
    kinds = Counter(_kind(move) for move in found.moves)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    yield (
        f"{total} verdict{'s' * (total != 1)} changed ({told}), {found.same} did not"
        if total
        else f"no verdict changed, of {found.same}"
    )


# The two sides


def _side(path: Path) -> dict[str, Judged]:
    if path.is_dir():
        if not (path / JOURNAL).is_file():
            raise UsageError(f"{path} is no results folder: it holds no {JOURNAL}")
        return dict(_of_folder(path))
    record = read_record(path)
    judged = _of_record(record)
    return {judged.name: judged}


def read_record(path: Path) -> dict[str, Any]:
    """Read a record as JSON; its shape is not checked.

    Raises:
        UsageError: the file cannot be read, or holds no record.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_RECORD + 1)
        if len(data) > _RECORD:
            raise UsageError(f"{path} is no record of deepscan: it is larger than 64 MiB")
        record = json.loads(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no record of deepscan: it is not JSON") from error
    if not isinstance(record, dict) or record.get("schema") != RECORD:
        raise UsageError(f"{path} is no record of deepscan: give a result.json or a results folder")
    return record


def _of_folder(folder: Path) -> Iterator[tuple[str, Judged]]:
    state = read_state(folder)
    results = state.results(folder)
    timed = any(value for name, value in results.run.settings if name in ("start", "end"))
    for outcome in results.outcomes:
        facts = _facts_of(outcome, results.run)
        # A journal says neither what judged in an earlier run nor where the picture starts.
        record = _record_of(folder, outcome) if timed or not facts else None
        yield (
            outcome.name,
            Judged(
                name=outcome.name,
                label=outcome.label,
                score=outcome.score,
                reasons=tuple(reason.code for reason in outcome.reasons),
                facts=(facts or (record.facts if record else {}))
                | {"content": {"sha256": outcome.sha256}},
                offset=0.0 if record is None else record.offset,
            ),
        )


def _superseded(folder: Path) -> Iterator[str]:
    """Names whose only results there are by other settings than the last run's."""
    states = read_state(folder).states()
    return (name for name, state in states.items() if state is FileState.SUPERSEDED)


def _facts_of(outcome: Outcome, run: Run) -> Facts:
    """The facts that judged an outcome; empty if another run judged it."""
    if outcome.sha256 is not None and outcome.key == result_key(outcome.sha256, run.settings_hash):
        return {
            "model": {"name": run.model, "sha256": run.model_sha256},
            "settings": _settings(dict(run.settings)),
            **({"decoder": {"name": outcome.decoder}} if outcome.decoder else {}),
            "engine": {"name": outcome.engine or run.engine},
            "calibration": {
                "name": run.calibration,
                "operating_point": run.operating_point,
                "false_alarm_rate": _short(run.false_alarm_rate),
            },
            "version": _versions(dict(run.versions)),
        }
    return {}


def _record_of(folder: Path, outcome: Outcome) -> Judged | None:
    for written in outcome.outputs:
        if written.kind == "record" and inside(written.path):
            with suppress(UsageError):
                return _of_record(read_record(folder / written.path))
    return None


def _of_record(record: Mapping[str, Any]) -> Judged:
    try:
        verdict = record["verdict"]
        facts: Facts = {
            "content": {"sha256": record["input"]["sha256"]},
            "settings": _settings(record["settings"]),
            "version": _versions(record["versions"]),
        }
        if record["model"] is not None:
            facts["model"] = {key: record["model"][key] for key in ("name", "sha256")}
        for cause in ("decoder", "engine"):
            if record[cause] is not None:
                facts[cause] = {"name": record[cause]["name"]}
        if record["calibration"] is not None:
            # The operating point is left out: in a record it is for the file's number of looks, in
            # a run for one look.
            facts["calibration"] = {key: record["calibration"].get(key) for key in _CALIBRATION}
        score = verdict["p_manipulated"]
        return Judged(
            name=str(record["input"]["name"]),
            label=Label(verdict["label"]),
            score=None if score is None else float(score),
            reasons=tuple(str(reason["code"]) for reason in verdict["reasons"]),
            facts=facts,
            offset=record["input"].get("time_offset"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"a record is damaged ({error!r}): run `deepscan verify` on it") from error


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _ASKED}


def _versions(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _NOT_CAUSES}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)  # as records have it


# The difference


def _move(name: str, old: Judged | None, new: Judged | None, tolerance: float) -> Move | None:
    if old is not None and new is not None and not _differ(old, new, tolerance):
        return None
    changes: tuple[Change, ...] = ()
    unknown: tuple[str, ...] = ()
    if old is not None and new is not None:
        changes = tuple(_changes(_on_clock_of(new, old), _on_clock_of(old, new)))
        both = old.facts.keys() & new.facts.keys()
        unknown = tuple(cause for cause in CAUSES if cause not in both)
    return Move(name, old, new, changes, unknown)


def _on_clock_of(other: Judged, side: Judged) -> Facts:
    """The facts of `side`, with times from the container's start if only the other has those."""
    settings = side.facts.get("settings")
    if settings is None or side.offset is not None or not other.offset:
        return side.facts
    moved = {
        name: round(settings[name] + other.offset, 6)
        for name in ("start", "end")
        if settings.get(name)  # nothing is the beginning or the end on either clock
    }
    return {**side.facts, "settings": {**settings, **moved}}


def _differ(old: Judged, new: Judged, tolerance: float) -> bool:
    if old.label is not new.label:
        return True
    if old.score is None or new.score is None:
        return (old.score is None) != (new.score is None)
    return abs(old.score - new.score) > tolerance


def _changes(old: Facts, new: Facts) -> Iterator[Change]:
    for cause in CAUSES:
        before, after = old.get(cause), new.get(cause)
        if before is None or after is None:
            continue
        for what in sorted(before.keys() | after.keys()):
            if cause == "calibration" and not (what in before and what in after):
                continue  # one side is a run, the other a record, with other values
            if before.get(what) != after.get(what):
                yield Change(cause, what, before.get(what), after.get(what))


def _common(moves: Iterable[Move]) -> tuple[Change, ...]:
    """Differences that are the same for every file on both sides, if there are several files."""
    both = [move for move in moves if move.old is not None and move.new is not None]
    if len(both) < 2:
        return ()
    return tuple(
        change for change in both[0].changes if all(change in other.changes for other in both[1:])
    )


# Words


def _half(side: Judged | None) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        "label": str(side.label),
        "p_manipulated": side.score,
        "reasons": list(side.reasons),
    }


def _verdicts(move: Move) -> str:
    before, after = move.before, move.after
    if after is None or before is None:
        here, there = ("old", "new") if after is None else ("new", "old")
        told = f"; its result in the {there} ones is by other settings than the last run's"
        return f"{move.old or move.new}, only in the {here} results{told * move.superseded}"
    told = f"{move.old} -> {move.new}" if move.old is not move.new else f"{move.new}"
    if before.score is not None and after.score is not None:
        told += f", P(manipulated) {probability(before.score)} -> {probability(after.score)}"
        told += f" ({move.by:+.3f})"
    if before.reasons != after.reasons:
        codes = [" ".join(side.reasons) or "no reason" for side in (before, after)]
        told += f", {codes[0]} -> {codes[1]}"
    return told


def _kind(move: Move) -> str:
    if move.new is None or move.old is None:
        return move.causes[0]
    return f"{move.old} -> {move.new}" if move.old is not move.new else "in score only"


def _told(change: Change) -> str:
    old, new = (
        str(value)[:12] if change.what == "sha256" and value else value
        for value in (change.old, change.new)
    )
    return visible(f"{change.cause}: {change.what} {old} -> {new}")
