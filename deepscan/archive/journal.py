"""The journal of a results folder: what has been done, on the disk before anybody relies on it.

`journal.jsonl` has one line for each change, appended by one `write` and synced, so a kill at any
time leaves whole lines and at most one torn line at the end. A line is a JSON object:

    {"v":1,"seq":n,"time":"UTC","kind":...,...,"sum":"16 hex of the SHA-256 of all before it"}

Who may read it is for the umask to say, as with the reports, which hold the same.

`seq` counts from 1 without a gap. Kinds, and what they hold:

    run      "run": Run                               a start of the program
    listing  "listing": RunListing                    what it lists that is another than before
    started  "name", "attempt", "identity", "key"     an item is taken up (again)
    lost     "name", "attempt", "reason": Reason      what worked on it died without an outcome
    done     "outcome": Outcome                       the item has its outcome (also if refused)
    ended    "finished": bool, "exit": int            the run is over; finished: nothing left out;
                                                      else "left": int, files without an outcome

Unknown kinds are ignored; so is "segment", which older journals hold. The newest outcome of a name
stands for it, older ones with another key are superseded; what state it is in, archive/states.py
says. Text is ASCII; bytes of names that are no UTF-8 are escaped surrogates.
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
from deepscan.errors import OutputError
from deepscan.files import atomic_output, sync
from deepscan.types import Label, Reason

logger = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"
_VERSION = 1
_LINE = 64 * 2**20  # bytes; nothing that is written comes near
_NAMES = 10_000  # in one line of a listing
_WASTE = 1000  # lines without use that are borne before the journal is written anew
_HEAD = b'{"v":'

Identity = tuple[int, int, int, int]


class JournalState:
    """What a journal says, with the look-ups of a run that goes on where another ended.

    `outcomes` are the newest ones by name, `superseded` the older ones that other settings,
    weights or contents have replaced, oldest first; `listings` what each run listed. `run` is the
    last start, `finished` whether it has ended and left nothing out, `left` how many files it left
    out, where that is known.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.finished = False
        self.left: int | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.listings: list[RunListing] = []
        self._missing: set[str] = set()  # what the listings so far come to
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
        """The current outcome of a file that has the same name and identity, under these settings.

        Nothing is hashed. Errors are outcomes too: look at the label.
        """
        known = self.outcomes.get(file.name)
        if known is None or file.identity is None or known.identity != file.identity:
            return None
        if known.sha256 is None or known.key != result_key(known.sha256, settings_hash):
            return None
        return known

    def by_key(self, key: str) -> Outcome | None:
        """An outcome with this key whose outputs are its own (not those of a duplicate).

        A current one if there is any, else the newest superseded one, so that going back to other
        settings costs nothing; errors among those are left out, since their folder is used again.
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
        """The content's hash if a file of this identity was hashed: for hard links, renamed files,
        and unchanged files under other settings."""
        return None if identity is None else self._contents.get(identity)

    def unfinished(self) -> tuple[str, ...]:
        """Names of items that were taken up and have no outcome since, sorted."""
        return tuple(sorted(name for name, count in self._attempts.items() if count))

    def results(self, folder: Path, *, ending: bool = False) -> Results:
        """The state as reports take it; with `ending`, as it is when the last run has ended well.

        Raises:
            OutputError: no run has begun here.
        """
        if self.run is None:
            raise OutputError(f"{folder / JOURNAL}: no run has begun here; start one first")
        states = self.states(ending=ending)
        of: dict[FileState, list[Outcome]] = {state: [] for state in FileState}
        for name in sorted(self.outcomes):
            of[states[name]].append(self.outcomes[name])
        shown = sorted(of[FileState.CURRENT] + of[FileState.NOT_LISTED], key=_name_of)
        return Results(
            folder=folder,
            run=self.run,
            outcomes=_with_own_originals(shown),
            superseded=(*self.superseded, *of[FileState.SUPERSEDED]),
            gone=tuple(of[FileState.GONE]),
            not_listed=frozenset(map(_name_of, of[FileState.NOT_LISTED])),
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
        """Take in a line of the journal.

        Raises:
            KeyError, TypeError, ValueError: it does not hold what its kind says.
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
        """The lines that a journal needs to give this state again."""
        # Outcomes in the order in which they were won: superseded ones are older than current ones.
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
        """How many lines `entries` gives."""
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
        if name in self._missing:  # the line that told it is back was lost
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
    """The open journal of a results folder, for the one run that has its lock. Use it with `with`.

    Every method that writes returns when its line is on the disk, and keeps `state` up to date.
    They raise OutputError if it cannot be written (the disk is full); the journal stays valid. One
    thread writes.
    """

    def __init__(self, folder: Path) -> None:
        """Open or begin the journal. A torn last line is dropped (and logged).

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
        """A run starts."""
        self._append("run", run=run.to_json())

    def listed(self, names: Iterable[str], coverage: Coverage) -> None:
        """The run lists these names and no others, and would have found what `coverage` says."""
        state = self.state
        for part in _in_lines(changes(state.listings, state.outcomes, names, coverage)):
            self._append("listing", listing=part.to_json())

    def started(self, file: InputFile, *, attempt: int = 1, key: str | None = None) -> None:
        """An item is taken up."""
        self._append("started", name=file.name, attempt=attempt, identity=file.identity, key=key)

    def lost(self, name: str, reason: Reason, *, attempt: int = 1) -> None:
        """What worked on an item died without an outcome."""
        self._append("lost", name=name, attempt=attempt, reason=asdict(reason))

    def done(self, outcome: Outcome) -> None:
        """An item has its outcome; its outputs are complete and on the disk before this."""
        self._append("done", outcome=outcome.to_json())

    def ended(self, *, finished: bool, exit_code: int, left: int | None = None) -> None:
        """The run is over. `finished` says that every item of the listing has its outcome; `left`
        how many have none, if not."""
        told = {} if finished else {"left": left}
        self._append("ended", finished=finished, exit=exit_code, **told)

    def compact(self) -> None:
        """Write the journal anew without what no longer matters; whole or as it was.

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
        """A torn line followed by others would be damage: cut it off, or write nothing more."""
        try:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
        except OSError:
            self._broken = str(_cannot_write(self.path, error))


def read_state(folder: Path) -> JournalState:
    """Read a journal without changing it, also beside a run at work.

    Raises:
        OutputError: there is none, or it is damaged before its end (see `repair`).
    """
    path = folder / JOURNAL
    state = JournalState()
    try:
        with os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
            _replay(path, file, state)
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}") from error
    return state


def read_journal(folder: Path) -> Results:
    """The state of a results folder, as reports take it.

    Raises:
        OutputError: there is no journal, no run has begun, or it is damaged before its end.
    """
    return read_state(folder).results(folder)


def repair(folder: Path) -> tuple[int, int]:
    """Keep the whole lines of a damaged journal; gives how many were kept and how many lost.

    Takes the folder's lock. The damaged journal stays beside the new one (journal.damaged-*.jsonl).
    Items whose lines are lost are scanned again by the next run.

    Raises:
        OutputError: a run is at work, there is no journal, or it cannot be written.
    """
    path = folder / JOURNAL
    with Lock(folder):
        kept: list[dict[str, Any]] = []
        lost = 0
        broken = False
        try:
            with os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
                for number, line in enumerate(_lines(file), start=1):
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
    logger.warning("%s: %d lines kept, %d lost; as it was: %s", path, len(kept), lost, beside)
    return len(kept), lost


def is_results(folder: Path) -> bool:
    """Whether a folder holds results of deepscan: a journal whose first line is whole."""
    try:
        with os.fdopen(_open(folder / JOURNAL, os.O_RDONLY), "rb") as file:
            if file.read(len(_HEAD)) != _HEAD:
                return False
            file.seek(0)
            _opened(file.readline(_LINE))
    except (OSError, OutputError, ValueError):
        return False
    return True


def _name_of(outcome: Outcome) -> str:
    return outcome.name


def _with_own_originals(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """The outcomes, of which none is a duplicate of one that is not among them: where the file
    that was scanned is gone, the first of its duplicates stands for it."""
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
    """A listing in parts that are short enough for lines of a journal; at least one."""
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
    """A line, from the first brace to the line feed."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    whole = {"v": _VERSION, "time": now, **entry, "seq": seq}
    body = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode("ascii")[:-1]
    return b'%s,"sum":"%s"}\n' % (body, _sum(body))


def _sum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode("ascii")


_SEAL = len(b',"sum":"0123456789abcdef"}\n')


def _opened(line: bytes) -> dict[str, Any]:
    """What a line holds.

    Raises:
        ValueError: it is not whole, or not what was written.
    """
    body = line[:-_SEAL]
    if line[-_SEAL:] != b',"sum":"%s"}\n' % _sum(body):
        raise ValueError("the checksum does not agree")
    entry = json.loads(body + b"}")
    if not isinstance(entry, dict) or not {"v", "seq", "kind"} <= entry.keys():
        raise ValueError("not a line of a journal")
    return entry


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LINE):
        yield line


def _replay(path: Path, file: BinaryIO, state: JournalState) -> tuple[int, int]:
    """Read a journal into memory; gives its whole lines and where the last of them ends."""
    count = end = 0
    torn = 0
    for line in _lines(file):
        if torn:  # only the last line can be torn: each was on the disk before the next
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
        logger.warning("%s: the last line (%d) is torn and left out", path, torn)
    return count, end


def _write_anew(path: Path, entries: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Replace a journal; whole under its name or as it was. Gives its lines and bytes."""
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
        f"{path}: format {version!r:.20}, this deepscan knows {_VERSION}: use the one that wrote "
        f"it, or another folder"
    )


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written: {error.strerror}; what is done so far is kept: free some space "
        f"or mend the folder, then run again"
    )
