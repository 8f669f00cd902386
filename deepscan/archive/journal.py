"""The journal of a results folder: every step of a run, on disk before the run relies on it.

`journal.jsonl` has one line for each change, appended by one `write` and synced, so a kill at any
time leaves whole lines and at most one torn line at the end. A line is a JSON object:

    {"v":1,"seq":n,"time":"UTC","kind":...,...,"sum":"16 hex of the SHA-256 of all before it"}

The umask decides who may read it, as for the reports, which hold the same.

`seq` counts from 1 without a gap. The kinds and their fields:

    run      "run": Run                               a start of the program
    listing  "listing": RunListing                    changes against the previous listing
    started  "name", "attempt", "identity", "key"     work on an item starts (again)
    lost     "name", "attempt", "reason": Reason      the worker died without an outcome
    done     "outcome": Outcome                       the item has its outcome (also if skipped)
    ended    "finished": bool, "exit": int            the run is over; finished: every file has an
                                                      outcome; else "left": int, files without

Unknown kinds are ignored; so is "segment", which older journals hold. The newest outcome of a name
counts, older ones with another key are superseded; archive/states.py defines the states. Text is
ASCII; bytes of names that are not UTF-8 are escaped surrogates.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Self

from deepscan.archive.lock import Lock
from deepscan.archive.records import InputFile, Outcome, Results, Run
from deepscan.archive.settings_hash import result_key
from deepscan.archive.states import (
    Coverage,
    FileState,
    RunListing,
    changes,
    file_states,
    summed,
)
from deepscan.errors import OutputError, system_errors_as
from deepscan.files import atomic_output, sync
from deepscan.types import Label, Reason
from deepscan.video.input_file import Identity

logger = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"
_VERSION = 1
_LINE = 64 * 2**20  # bytes, far above any line that is written
_NAMES = 10_000  # in one line of a listing
_WASTE = 1000  # obsolete lines before the journal is compacted
_HEAD = b'{"v":'


class JournalState:
    """The content of a journal, with the look-ups that resuming a run needs.

    `outcomes` are the newest by name, `superseded` older ones that other settings, weights or
    contents have replaced, oldest first; `listings` has the listing of each run. `run` is the last
    start, `finished` is True if it has ended with an outcome for every file, `left` is the number
    of files without one, if known.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.finished = False
        self.left: int | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.listings: list[RunListing] = []
        self._missing: set[str] = set()  # by all listings so far
        self._runs: list[Run] = []
        self._older: dict[tuple[str, str | None], Outcome] = {}
        self._by_key: dict[str, dict[str, None]] = {}  # names, in order
        self._older_by_key: dict[str, dict[str, None]] = {}
        self._contents: dict[Identity, str] = {}
        self._attempts: Counter[str] = Counter()

    @property
    def superseded(self) -> tuple[Outcome, ...]:
        return tuple(self._older.values())

    def unchanged(self, file: InputFile, settings_hash: str) -> Outcome | None:
        """The current outcome of a file with the same name and identity under these settings.

        Nothing is hashed. Errors are outcomes too: check the label.
        """
        known = self.outcomes.get(file.name)
        if known is None or file.identity is None or known.identity != file.identity:
            return None
        if known.sha256 is None or known.key != result_key(known.sha256, settings_hash):
            return None
        return known

    def by_key(self, key: str) -> Outcome | None:
        """An outcome with this key that has its own outputs (not those of a duplicate).

        A current one if there is any, else the newest superseded one, so that a return to earlier
        settings needs no scan; superseded errors are left out, since their folder is reused.
        """
        for name in self._by_key.get(key, ()):
            if self.outcomes[name].same_as is None:
                return self.outcomes[name]
        for name in reversed(self._older_by_key.get(key, {})):
            older = self._older[name, key]
            if older.same_as is None and older.label is not Label.ERROR:
                return older
        return None

    def sha256_of(self, identity: Identity | None) -> str | None:
        """The SHA-256 of a file of this identity if it was hashed before: a hard link, a renamed
        file, or an unchanged file under other settings."""
        return None if identity is None else self._contents.get(identity)

    def unfinished(self) -> tuple[str, ...]:
        """Names of items that were started and have no outcome since, sorted."""
        return tuple(sorted(name for name, count in self._attempts.items() if count))

    def results(self, folder: Path, *, ending: bool = False) -> Results:
        """The state for the reports; with `ending`, as if the last run had ended well.

        Raises:
            OutputError: no run has started here.
        """
        if self.run is None:
            raise OutputError(f"{folder / JOURNAL}: no run has started here; start one first")
        states = self.states(ending=ending)
        of: dict[FileState, list[Outcome]] = {state: [] for state in FileState}
        for name in sorted(self.outcomes):
            of[states[name]].append(self.outcomes[name])
        shown = sorted(of[FileState.CURRENT] + of[FileState.NOT_LISTED], key=attrgetter("name"))
        return Results(
            folder=folder,
            run=self.run,
            outcomes=_with_own_originals(shown),
            superseded=(*self.superseded, *of[FileState.SUPERSEDED]),
            gone=tuple(of[FileState.GONE]),
            not_listed=frozenset(each.name for each in of[FileState.NOT_LISTED]),
            finished=self.finished or ending,
            left=self.left,
        )

    def states(self, *, ending: bool = False) -> dict[str, FileState]:
        """The state of each of `outcomes`, empty before the first run."""
        if self.run is None:
            return {}
        listings = [*self.listings]
        if ending and self.run.shard is None:
            listings[-1] = replace(listings[-1], whole=True)
        return file_states(listings, self.outcomes, self.run)

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Apply a line of the journal.

        Raises:
            KeyError, TypeError, ValueError: its fields do not fit its kind.
        """
        match entry["kind"]:
            case "run":
                self.run = Run.from_json(entry["run"])
                self._runs.append(self.run)
                self.finished, self.left = False, None
                self.listings.append(RunListing())
            case "listing":
                listing = RunListing.from_json(entry["listing"])
                self._missing -= listing.back
                self._missing |= listing.missing | listing.gone
                self.listings[-1:] = [(self.listings or [RunListing()])[-1].then(listing)]
            case "started":
                self._attempts[entry["name"]] += 1
            case "done":
                self._replace(Outcome.from_json(entry["outcome"]))
            case "ended":
                self.finished, self.left = bool(entry["finished"]), entry.get("left")
                if self.finished and self.run is not None and self.run.shard is None:
                    self.listings[-1] = replace(self.listings[-1], whole=True)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of a journal with this state."""
        # Outcomes in the order in which they were made: superseded before current ones.
        for run in self._runs[:-1]:
            yield _entry("run", run=run.to_json())
        for outcome in (*self.superseded, *self.outcomes.values()):
            yield _entry("done", outcome=outcome.to_json())
        if self.run is not None:
            yield _entry("run", run=self.run.to_json())
            yield from self._listing_lines()
        for name, count in self._attempts.items():
            for attempt in range(1, count + 1):
                yield _entry("started", name=name, attempt=attempt, identity=None, key=None)
        if self.finished or self.left is not None:
            yield _entry("ended", finished=self.finished, exit=None, left=self.left)

    def size(self) -> int:
        """The number of lines that `entries` yields."""
        return (
            len(self._runs)
            + len(self._older)
            + len(self.outcomes)
            + self._attempts.total()
            + sum(1 for _ in self._listing_lines())
            + (self.finished or self.left is not None)
        )

    def _listing_lines(self) -> Iterator[dict[str, Any]]:
        if self.run is not None and any(each.told for each in self.listings):
            for part in _in_lines(summed(self.listings, self.outcomes)):
                yield _entry("listing", listing=part.to_json())

    def _replace(self, outcome: Outcome) -> None:
        name = outcome.name
        if name in self._missing:  # the line that listed it again was lost
            self._missing.discard(name)
            last = self.listings[-1]
            self.listings[-1] = last.then(RunListing(last.coverage, back=frozenset((name,))))
        old = self.outcomes.pop(name, None)  # popped: the newest stands last
        if old is not None:
            _drop(self._by_key, old.key, name)
            if old.key != outcome.key:
                self._older[name, old.key] = old
                _add(self._older_by_key, old.key, name)
        self._older.pop((name, outcome.key), None)
        _drop(self._older_by_key, outcome.key, name)
        self.outcomes[name] = outcome
        _add(self._by_key, outcome.key, name)
        if outcome.sha256 is not None and outcome.identity is not None:
            self._contents[outcome.identity] = outcome.sha256
        self._attempts.pop(name, None)


class Journal:
    """The open journal of a results folder, for the run that holds its lock. Use it with `with`.

    Methods that write return when the line is on disk, and keep `state` up to date. They raise
    OutputError if it cannot be written (the disk is full); the journal stays valid. Only one thread
    may write.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create the journal. A torn last line is dropped (and logged).

        Raises:
            OutputError: it is damaged before its end (see `repair`), of a newer version, or cannot
                be written to.
        """
        self.path = folder / JOURNAL
        self.state = JournalState()
        self._broken = ""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        self._descriptor = _open(self.path, flags)
        try:
            with os.fdopen(os.dup(self._descriptor), "rb") as file:
                self._lines, self._end = _replay(self.path, file, self.state)
            if os.fstat(self._descriptor).st_size > self._end:
                os.ftruncate(self._descriptor, self._end)
                os.fsync(self._descriptor)
            sync(folder)
            if self._lines - self.state.size() > max(_WASTE, self.state.size()):
                self.compact()
        except OSError as error:
            os.close(self._descriptor)
            raise _cannot_write(self.path, error) from error
        except BaseException:
            os.close(self._descriptor)
            raise

    def begin(self, run: Run) -> None:
        """Record the start of a run."""
        self._append("run", run=run.to_json())

    def listed(self, names: Iterable[str], coverage: Coverage) -> None:
        """Record that the run lists exactly these names, within `coverage`."""
        state = self.state
        for part in _in_lines(changes(state.listings, state.outcomes, names, coverage)):
            self._append("listing", listing=part.to_json())

    def started(self, file: InputFile, *, attempt: int = 1, key: str | None = None) -> None:
        """Record that work on an item starts."""
        self._append("started", name=file.name, attempt=attempt, identity=file.identity, key=key)

    def lost(self, name: str, reason: Reason, *, attempt: int = 1) -> None:
        """Record that the worker of an item died without an outcome."""
        self._append("lost", name=name, attempt=attempt, reason=asdict(reason))

    def done(self, outcome: Outcome) -> None:
        """Record the outcome of an item; its outputs have to be complete and on disk before."""
        self._append("done", outcome=outcome.to_json())

    def ended(self, *, finished: bool, exit_code: int, left: int | None = None) -> None:
        """Record the end of the run. `finished` if every listed item has its outcome; else `left`
        is the number of items without."""
        told = {} if finished else {"left": left}
        self._append("ended", finished=finished, exit=exit_code, **told)

    def compact(self) -> None:
        """Rewrite the journal without obsolete lines, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        self._lines, self._end = _write_anew(self.path, self.state.entries())
        descriptor = _open(self.path, os.O_RDWR | os.O_APPEND)
        os.close(self._descriptor)
        self._descriptor = descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _append(self, kind: str, **values: Any) -> None:
        if self._broken:
            raise OutputError(self._broken)
        line = _sealed(_entry(kind, **values), self._lines + 1)
        try:
            if os.write(self._descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # it took a part
            os.fsync(self._descriptor)
        except OSError as error:
            self._take_back(error)
            raise _cannot_write(self.path, error) from error
        self._lines += 1
        self._end += len(line)
        self.state.apply(json.loads(line))

    def _take_back(self, error: OSError) -> None:
        """Cut off a torn line, or else refuse further lines: behind it they would be damage."""
        try:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
        except OSError:
            self._broken = str(_cannot_write(self.path, error))


def read_state(folder: Path) -> JournalState:
    """Read a journal without changing it, also during a run.

    Raises:
        OutputError: it is missing, or damaged before its end (see `repair`).
    """
    path = folder / JOURNAL
    state = JournalState()
    with (
        system_errors_as(OutputError, f"{path} cannot be read"),
        os.fdopen(_open(path, os.O_RDONLY), "rb") as file,
    ):
        _replay(path, file, state)
    return state


def read_journal(folder: Path) -> Results:
    """Read the state of a results folder for the reports.

    Raises:
        OutputError: there is no journal, no run has started, or it is damaged before its end.
    """
    return read_state(folder).results(folder)


def repair(folder: Path) -> tuple[int, int]:
    """Keep the whole lines of a damaged journal; returns the numbers of lines kept and lost.

    Takes the folder's lock. The damaged journal is kept as journal.damaged-*.jsonl. The next run
    scans the files of lost lines again.

    Raises:
        OutputError: a run is active, there is no journal, or it cannot be written.
    """
    path = folder / JOURNAL
    with Lock(folder):
        kept: list[dict[str, Any]] = []
        lost = 0
        broken = False
        try:
            with os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
                for number, line in enumerate(iter(partial(file.readline, _LINE), b""), 1):
                    try:
                        entry = _opened(line)
                        JournalState().apply(entry)
                    except (KeyError, TypeError, ValueError):
                        lost += 1
                        continue
                    if entry["v"] != _VERSION:
                        raise _newer_version(path, entry["v"])
                    broken = broken or entry["seq"] != number
                    kept.append(entry)
            if not lost and not broken:
                return len(kept), 0
            beside = _free_name(path)
            os.link(path, beside)
        except OSError as error:
            raise _cannot_write(path, error) from error
        _write_anew(path, kept)
    logger.warning("%s: %d lines kept, %d lost; copy of it: %s", path, len(kept), lost, beside)
    return len(kept), lost


def is_results(folder: Path) -> bool:
    """True if a folder holds a journal of deepscan whose first line is whole."""
    try:
        with os.fdopen(_open(folder / JOURNAL, os.O_RDONLY), "rb") as file:
            if file.read(len(_HEAD)) != _HEAD:
                return False
            file.seek(0)
            _opened(file.readline(_LINE))
    except (OSError, OutputError, ValueError):
        return False
    return True


def _with_own_originals(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """The outcomes, with duplicates pointing to files among them: if the original is gone, the
    first of its duplicates takes its place."""
    shown = tuple(outcomes)
    names = {each.name for each in shown}
    heirs: dict[str, str] = {}
    made = []
    for each in shown:
        if each.same_as is not None and each.same_as not in names:
            heir = heirs.setdefault(each.key or each.same_as, each.name)
            each = replace(each, same_as=None if heir == each.name else heir)
        made.append(each)
    return tuple(made)


def _in_lines(listing: RunListing) -> Iterator[RunListing]:
    """Split a listing into parts that fit a line of the journal; at least one."""
    names = [
        (what, name)
        for what in ("missing", "back", "gone")
        for name in sorted(getattr(listing, what))
    ]
    for at in range(0, len(names) or 1, _NAMES):
        part: dict[str, set[str]] = {"missing": set(), "back": set(), "gone": set()}
        for what, name in names[at : at + _NAMES]:
            part[what].add(name)
        yield RunListing(
            coverage=listing.coverage,
            missing=frozenset(part["missing"]),
            back=frozenset(part["back"]),
            gone=frozenset(part["gone"]),
        )


def _add(index: dict[str, dict[str, None]], value: str | None, name: str) -> None:
    if value is not None:
        index.setdefault(value, {})[name] = None


def _drop(index: dict[str, dict[str, None]], value: str | None, name: str) -> None:
    if value is not None and value in index:
        index[value].pop(name, None)
        if not index[value]:
            del index[value]


def _entry(kind: str, **values: Any) -> dict[str, Any]:
    return {"kind": kind, **values}


def _sealed(entry: Mapping[str, Any], seq: int) -> bytes:
    """Format a line, from the first brace to the line feed."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    whole = {"v": _VERSION, "time": now, **entry, "seq": seq}
    body = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode("ascii")[:-1]
    return b'%s,"sum":"%s"}\n' % (body, _sum(body))


def _sum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode("ascii")


_SEAL = len(b',"sum":"0123456789abcdef"}\n')


def _opened(line: bytes) -> dict[str, Any]:
    """Parse a line.

    Raises:
        ValueError: it is torn or was altered.
    """
    body = line[:-_SEAL]
    if line[-_SEAL:] != b',"sum":"%s"}\n' % _sum(body):
        raise ValueError("the checksum does not agree")
    entry = json.loads(body + b"}")
    if not isinstance(entry, dict) or not {"v", "seq", "kind"} <= entry.keys():
        raise ValueError("not a line of a journal")
    return entry


def _replay(path: Path, file: BinaryIO, state: JournalState) -> tuple[int, int]:
    """Read a journal into memory; returns the number and total bytes of its whole lines."""
    count = end = 0
    torn = 0
    for line in iter(partial(file.readline, _LINE), b""):
        if torn:  # only the last line can be torn: each was on disk before the next
            raise _damaged(path, torn)
        try:
            entry = _opened(line)
        except ValueError:
            torn = count + 1
            continue
        if entry["v"] != _VERSION:
            raise _newer_version(path, entry["v"])
        try:
            if entry["seq"] != count + 1:
                raise ValueError("a line is missing or doubled")
            state.apply(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, count + 1) from error
        count += 1
        end += len(line)
    if torn:
        logger.warning("%s: the last line (%d) is torn and ignored", path, torn)
    return count, end


def _write_anew(path: Path, entries: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Replace a journal atomically; returns its lines and bytes."""
    lines = size = 0
    try:
        with atomic_output(path) as part:
            descriptor = _open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            with os.fdopen(descriptor, "wb") as file:
                for lines, entry in enumerate(entries, start=1):
                    size += file.write(_sealed(entry, lines))
        sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return lines, size


def _open(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except FileNotFoundError as error:
        raise OutputError(f"{path.parent} is no results folder: it holds no {JOURNAL}") from error
    except OSError as error:
        raise OutputError(f"{path}: the journal cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OutputError(f"{path}: the journal is not a regular file; name another folder")
    return descriptor


def _free_name(path: Path) -> Path:
    number = 1
    while (beside := path.with_name(f"journal.damaged-{number}.jsonl")).exists():
        number += 1
    return beside


def _damaged(path: Path, line: int) -> OutputError:
    return OutputError(
        f"{path} is damaged in line {line}: run `deepscan journal repair {path.parent}`, which "
        f"keeps every whole line"
    )


def _newer_version(path: Path, version: object) -> OutputError:
    return OutputError(
        f"{path} has format {version!r:.20}, this deepscan reads format {_VERSION}: use the "
        f"deepscan that wrote it, or another folder"
    )


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written: {error.strerror}; results so far are kept: free some space or "
        f"fix the folder, then start again"
    )
