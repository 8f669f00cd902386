"""Merges several results folders, of shards or separate jobs, into one.

Different settings, two results under one name, and missing or unfinished parts are reported. The
new folder appears when it is complete, or not at all.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from deepscan import __version__
from deepscan.archive.journal import Journal, JournalState, read_state
from deepscan.archive.records import Outcome, OutputFile, Results, Run
from deepscan.archive.reports import inside
from deepscan.archive.states import Coverage, FileState, RunListing, united
from deepscan.errors import OutputError, UsageError
from deepscan.files import sha256_of
from deepscan.wording import visible

logger = logging.getLogger(__name__)

_LISTED = 5  # names in a message; the rest is counted


@dataclass(frozen=True, slots=True)
class Merged:
    """The new folder. `missing` lists reasons why it is not complete: shards that were not given,
    parts that are not finished."""

    results: Results
    missing: tuple[str, ...]
    linked: int
    copied: int


@dataclass(frozen=True, slots=True)
class _Part:
    folder: Path
    state: JournalState
    run: Run


@dataclass(frozen=True, slots=True)
class _Taken:
    """An outcome, the results folder with its outputs, and its state there."""

    outcome: Outcome
    source: Path
    state: FileState


def merge(
    out: Path,
    parts: Sequence[Path],
    *,
    copy: bool = False,
    mixed: bool = False,
    newest: bool = False,
    command: tuple[str, ...] = (),
) -> Merged:
    """Merge the results of several folders into a new one.

    Outputs keep their paths. They become hard links where the file system supports them; no run
    changes a file that it has written.

    Args:
        out: a new or empty folder.
        parts: results folders, at least one.
        copy: copy outputs, and compare the copies with their SHA-256.
        mixed: accept parts that were scanned with different settings, weights or engines.
        newest: if two parts have different results under one name, keep the newest; the others are
            kept as superseded.

    Raises:
        UsageError: `out` holds files, a part is no results folder, or parts do not fit together.
        OutputError: a journal is damaged, an output is missing or altered, or the disk is full.
    """
    if not parts:
        raise UsageError("nothing to merge: name the results folders of the shards")
    _check_target(out, parts)
    loaded = [_load(folder) for folder in parts]
    if not mixed:
        _check_same_rules(loaded)
    coverage = united(
        [(each.run, (each.state.listings or [RunListing()])[-1], each.state.finished)
         for each in loaded]
    )  # fmt: skip
    current, older = _united(loaded, newest=newest, shards=coverage is not None)
    missing = tuple(_missing(loaded))
    run = _run(loaded, command)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.parent.resolve() / f".{out.name[:40]}.{secrets.token_hex(4)}.part"
    try:
        part.mkdir()
        links = _Links(part, copy=copy)
        placed = [links.take(each) for each in (*current, *older)]
        with Journal(part) as journal:
            for each in (*(one.run for one in loaded), run):
                journal.state.apply({"kind": "run", "run": each.to_json()})
            # Superseded ones first: the last outcome of a name is the one that counts.
            for outcome in (*placed[len(current) :], *placed[: len(current)]):
                journal.state.apply({"kind": "done", "outcome": outcome.to_json()})
            listing = _listing(current, coverage or Coverage())
            journal.state.apply({"kind": "listing", "listing": listing.to_json()})
            journal.state.apply({"kind": "ended", "finished": not missing})
            journal.compact()  # all lines at once, with one sync
        os.replace(part, out)  # an empty folder may stand there
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    results = read_state(out).results(out.resolve())
    return Merged(results, missing, links.linked, links.copied)


def _check_target(out: Path, parts: Iterable[Path]) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} is no folder: name a new one for the merged results")
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} holds files already: name a new folder for the merged results")
    for folder in parts:
        if not folder.is_dir():
            raise UsageError(f"{folder} is no results folder")


def _load(folder: Path) -> _Part:
    state = read_state(folder)
    if state.run is None:
        raise UsageError(f"{folder}: no run has started here; scan first, then merge")
    return _Part(folder, state, state.run)


def _check_same_rules(parts: Sequence[_Part]) -> None:
    """Raise UsageError if the parts were not all scanned with the same settings."""
    first = parts[0]
    for part in parts[1:]:
        if part.run.settings_hash == first.run.settings_hash:
            continue
        told = "; ".join(_differences(first.run, part.run)) or "in a way that they do not state"
        raise UsageError(
            f"{first.folder} and {part.folder} were scanned with different settings ({told}): scan "
            "one of them again, or merge them anyway with --mixed"
        )


def _differences(one: Run, other: Run) -> list[str]:
    told = [
        f"{what} {getattr(one, what)} and {getattr(other, what)}"
        for what in ("engine", "model", "calibration", "version")
        if getattr(one, what) != getattr(other, what)
    ]
    if one.model_sha256 != other.model_sha256:
        told.append(f"weights {one.model_sha256[:12]} and {other.model_sha256[:12]}")
    for kind in ("settings", "versions"):
        mine, theirs = dict(getattr(one, kind)), dict(getattr(other, kind))
        told += [
            f"{name} {mine.get(name)} and {theirs.get(name)}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]
    return told


_RANKS = {state: rank for rank, state in enumerate(FileState)}


def _united(
    parts: Sequence[_Part], *, newest: bool, shards: bool
) -> tuple[list[_Taken], list[_Taken]]:
    """The outcome that counts for each name, sorted by name; and those that are superseded.

    With `shards`, the parts are all shards of one archive: a file that is not listed in its shard
    has changed and now belongs to another.
    """
    counting = {FileState.CURRENT} | (set() if shards else {FileState.NOT_LISTED})
    found: dict[str, _Taken] = {}
    older: list[_Taken] = []
    conflicts: list[str] = []
    for part in parts:
        states = part.state.states()
        older += [
            _Taken(outcome, part.folder, FileState.SUPERSEDED) for outcome in part.state.superseded
        ]
        for name, outcome in part.state.outcomes.items():
            mine, known = _Taken(outcome, part.folder, states[name]), found.get(name)
            if known is None:
                found[name] = mine
            elif _agree(known.outcome, outcome) or not {known.state, mine.state} <= counting:
                better = _RANKS[mine.state] < _RANKS[known.state]
                found[name] = mine if better else known
                if not _agree(known.outcome, outcome):
                    older.append(known if better else mine)
            else:
                conflicts.append(f"{name} ({known.source}: {_said(known)}; {_said(mine)} in "
                                 f"{part.folder})")  # fmt: skip
                # ISO 8601 in UTC: the later one is the larger text.
                late = outcome.started > known.outcome.started
                found[name] = mine if late else known
                older.append(known if late else mine)
    if conflicts and not newest:
        listed = ", ".join(conflicts[:_LISTED])
        more = f" and {len(conflicts) - _LISTED} more" if len(conflicts) > _LISTED else ""
        raise UsageError(
            f"different results under one name: {listed}{more}. If these are the same files, merge "
            "with --newest; if not, scan them into one folder, where each gets its own name"
        )
    for conflict in conflicts:
        logger.warning("different results under one name, the newest counts: %s", visible(conflict))
    return [found[name] for name in sorted(found)], older


def _listing(current: Iterable[_Taken], coverage: Coverage) -> RunListing:
    """The names that the parts have not listed, and those of them that are gone by all parts."""
    missing, gone = set(), set()
    for each in current:
        if each.state in (FileState.NOT_LISTED, FileState.GONE):
            missing.add(each.outcome.name)
            if each.state is FileState.GONE or coverage.covers(each.outcome.path):
                gone.add(each.outcome.name)
    return RunListing(missing=frozenset(missing), gone=frozenset(gone))


def _agree(one: Outcome, other: Outcome) -> bool:
    """True if two outcomes of a name are the same result.

    Outcomes without a key (a link, a pipe, no access) are compared by their label.
    """
    return one.key == other.key and one.label is other.label


def _said(taken: _Taken) -> str:
    content = taken.outcome.sha256
    return f"{taken.outcome.label}, content {content[:12] if content else 'not read'}"


def _missing(parts: Sequence[_Part]) -> Iterable[str]:
    for part in parts:
        if not part.state.finished:
            yield f"{part.folder} is not finished: start its scan again to resume it"
    shards = [part.run.shard for part in parts if part.run.shard is not None]
    counts = {count for _, count in shards}
    if len(counts) > 1:
        told = ", ".join(f"{number}/{count}" for number, count in shards)
        yield f"the shards are of different divisions ({told}): files may be missing"
    elif counts:
        count = counts.pop()
        lacking = sorted(set(range(1, count + 1)) - {number for number, _ in shards})
        if lacking:
            yield f"not given: {', '.join(f'shard {number}/{count}' for number in lacking)}"


def _run(parts: Sequence[_Part], command: tuple[str, ...]) -> Run:
    """The run of the merged folder: the first part's, with the sums over all parts."""
    first = parts[0].run
    hashes = [
        each
        for part in parts
        for each in (part.run.settings_hash, *part.run.mixed)
        if each != first.settings_hash
    ]
    return replace(
        first,
        id=secrets.token_hex(8),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        version=__version__,
        controls=tuple(
            (f"{place} {name}" if len(parts) > 1 else name, score)
            for place, part in enumerate(parts, start=1)
            for name, score in part.run.controls
        ),
        controls_passed=_all_passed(parts),
        shard=None,
        listed=_sum_or_none([part.run.listed for part in _listings(parts)]),
        passed_over=_passed_over(parts),
        mixed=tuple(dict.fromkeys(hashes)),
    )


def _listings(parts: Sequence[_Part]) -> list[_Part]:
    """Parts with separate listings; of shards only one, since each lists the whole archive."""
    shards = [part for part in parts if part.run.shard is not None]
    return [part for part in parts if part.run.shard is None] + shards[:1]


def _passed_over(parts: Sequence[_Part]) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    for part in _listings(parts):
        counts.update(dict(part.run.passed_over))
    return tuple(counts.items())


def _sum_or_none(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _all_passed(parts: Sequence[_Part]) -> bool | None:
    passed = [part.run.controls_passed for part in parts]
    if False in passed:
        return False
    return None if None in passed else True


class _Links:
    """Links or copies outputs into the new folder; two results never share a path."""

    def __init__(self, folder: Path, *, copy: bool) -> None:
        self.linked = self.copied = 0
        self._folder = folder
        self._copy = copy
        self._placed: dict[tuple[Path, str], str] = {}  # (part, its place) -> the place here
        self._used: set[str] = set()

    def take(self, taken: _Taken) -> Outcome:
        """Bring the outputs of an outcome into the new folder; returns it with the new paths.

        Raises:
            OutputError: an output is missing, differs from the journal, or cannot be written.
        """
        outcome = taken.outcome
        if outcome.folder is None:
            return outcome
        if not inside(outcome.folder):
            raise OutputError(f"{taken.source}: its journal names {outcome.folder!a}: not taken")
        mine = (taken.source, outcome.folder)
        new = mine not in self._placed
        if new:
            self._placed[mine] = self._free(outcome.folder)
        place = self._placed[mine]
        outputs = []
        for written in outcome.outputs:
            moved = f"{place}{written.path.removeprefix(outcome.folder)}"
            if not inside(written.path) or not written.path.startswith(f"{outcome.folder}/"):
                raise OutputError(f"{taken.source}: its journal names {written.path!a}: not taken")
            if not (self._folder / moved).exists():
                self._bring(taken.source / written.path, self._folder / moved, written)
            outputs.append(replace(written, path=moved))
        return replace(outcome, folder=place, outputs=tuple(outputs))

    def _free(self, place: str) -> str:
        free, number = place, 1
        while free in self._used:
            number += 1
            free = f"{place}/merged-{number}"
        self._used.add(free)
        return free

    def _bring(self, source: Path, target: Path, written: OutputFile) -> None:
        try:
            facts = source.lstat()
            if not stat.S_ISREG(facts.st_mode) or facts.st_size != written.size:
                raise OutputError(
                    f"{source} differs from the file in the journal: run `deepscan verify` on it"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self._copy:
                with suppress(OSError):  # another file system, or one without links
                    os.link(source, target, follow_symlinks=False)
                    self.linked += 1
                    return
            with source.open("rb") as old, target.open("x+b") as new:
                shutil.copyfileobj(old, new)
                new.flush()
                os.fsync(new.fileno())
                new.seek(0)
                digest = sha256_of(new)
        except FileNotFoundError as error:
            raise OutputError(
                f"{source} is missing: the journal names it; scan the shard again"
            ) from error
        except OSError as error:
            raise OutputError(f"{source} cannot be merged: {error.strerror}") from error
        if digest.hexdigest() != written.sha256:
            raise OutputError(
                f"{source} was altered after it was written (its SHA-256 differs): scan the shard "
                "again"
            )
        self.copied += 1
