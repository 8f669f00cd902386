"""A run over an archive: lock, list, decide, hand out, write down, tell.

The journal is written before anybody relies on it, so the run may end at any moment: what it had
not written down is done again, and nothing is done twice that it had. It scans nothing itself; a
crew does, and this process imports neither torch nor a decoder.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

from deepscan import __version__
from deepscan.archive import output_paths
from deepscan.archive.inputs.listing import Counts, list_inputs
from deepscan.archive.inputs.prefetcher import Ahead
from deepscan.archive.inputs.remote import place_of
from deepscan.archive.journal import JOURNAL, Journal, is_results
from deepscan.archive.lock import FETCHED, Lock, sweep
from deepscan.archive.records import Item, Outcome, Refused, Results, Run, Written
from deepscan.archive.reports import Report, load_report
from deepscan.archive.settings_hash import decides, key_of
from deepscan.archive.workers.contract import Crew, Crewed, Done, Lost, Progressed, Task
from deepscan.archive.workers.worker import DISK, error_outcome, outputs_of
from deepscan.engines.packages import installed_versions
from deepscan.errors import EngineError, OutputError, UnreadableError, UsageError, VideoError
from deepscan.exit_codes import ERROR, INTERRUPTED, ExitPolicy
from deepscan.files import atomic_outputs, finished, identity_of, resolve
from deepscan.models.weights import read_card
from deepscan.options import ScanOptions
from deepscan.types import Label, Reason, Skipped
from deepscan.video.input_file import hash_file

logger = logging.getLogger(__name__)

WRITE = ("record",)  # sinks of every file, and those that are added where something was found
WRITE_FOUND = ("overlay", "masks", "frames", "html")
REPORTS = ("html", "csv", "jsonl", "sarif", "junit")
MIN_FREE = 512 * 2**20  # bytes that stay free on the disk of the results
TRIES = 2  # of a file whose model process died
NODE_TRIES = 6  # of one whose machine went, which is not the file's fault
NODE_LOST = "node_lost"
REPORT_EVERY = 60.0  # seconds between two reports of a run at work ...
REPORT_SHARE = 20  # ... and so many times as long as the last ones took
# What went wrong had nothing to do with the content, or may be gone: the next run tries again.
_PASSING = {"worker_crash", "worker_hang", NODE_LOST, "engine", "unreadable", "output_error"}
# Another program may have taken the memory, or killed the decoder: the cause may be gone soon.
_ONCE_MORE = {"decoder_crash", "limit_memory"}
_BEFORE = "journal.before-"  # what a journal is called that --fresh has put aside


# What a run tells while it goes on


@dataclass(frozen=True, slots=True)
class Standing:
    """The crew stands and work begins: so many entries were listed, so much was passed over."""

    crewed: Crewed
    total: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Settled:
    """An entry has its outcome; `fresh` if it was scanned now, not found done or a twin."""

    outcome: Outcome
    fresh: bool


@dataclass(frozen=True, slots=True)
class Working:
    """A sign of life, twice a second: files in flight, and seconds of work by stage so far."""

    in_flight: tuple[str, ...]
    busy: dict[str, float]


@dataclass(frozen=True, slots=True)
class Stopping:
    """No file is begun any more; those in flight are brought to their end."""

    in_flight: int


Happening = Standing | Settled | Working | Stopping | Progressed
"""What `on_event` gets."""


class Brake:
    """How somebody ends a run: once to begin no further file, twice or by `slam` to leave at once.

    Signal handlers call it, so it may strike at any place in the run but where that holds it off:
    half a line of the journal, followed by others, would be damage.
    """

    def __init__(self) -> None:
        self.asked = False
        self.gentle = False  # set while files are in flight that are worth waiting for
        self._slammed = False
        self._holds = 0

    def press(self) -> None:
        """Ask the run to end.

        Raises:
            KeyboardInterrupt: it was asked before, or there is nothing to wait for.
        """
        if self.asked or not self.gentle:
            self.slam()
        self.asked = True

    def slam(self) -> None:
        """End the run now, or as soon as it is not held off any more.

        Raises:
            KeyboardInterrupt: as it is meant.
        """
        self._slammed = True
        if not self._holds:
            self._slammed = False
            raise KeyboardInterrupt

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """Finish what stands in the block; an end that was asked for meanwhile comes after it."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self._slammed and not self._holds:
            self._slammed = False
            raise KeyboardInterrupt


class Takes(Protocol):
    """Which contents are this run's share, where several runs divide an archive.

    What cannot be hashed goes by its name, so that exactly one of the runs tells about it.
    """

    def takes(self, sha256_or_name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Ended:
    """A run is over: the state of the folder, and the outcomes of what this run had listed.

    `report_errors` says which reports could not be written, and why.
    """

    results: Results
    outcomes: tuple[Outcome, ...]
    counts: Counts
    exit_code: int
    interrupted: bool = False
    report_errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ways:
    """How a run goes about it: what changes no result, only what is done and where it lies.

    `write` and `write_found` name sinks. `shard` is (i, n) for the record, `share` decides.
    `min_free` is in bytes. With `fresh` the journal that is there is put aside; with `paranoid`
    every file is hashed, also where name, size and time are as they were.
    """

    write: tuple[str, ...] = WRITE
    write_found: tuple[str, ...] = WRITE_FOUND
    reports: tuple[str, ...] = REPORTS
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_links: bool = False
    fresh: bool = False
    paranoid: bool = False
    min_free: int = MIN_FREE
    shard: tuple[int, int] | None = None
    share: Takes | None = None
    command: tuple[str, ...] = ()


def _ignore(event: Happening) -> None:
    """Events that nobody watches."""


def _plain_code(outcomes: Sequence[Outcome]) -> int:
    return ExitPolicy().code(outcome.label for outcome in outcomes)


def scan_archive(
    inputs: Sequence[str],
    out: Path,
    *,
    options: ScanOptions,
    crew: Crew,
    ways: Ways | None = None,
    on_event: Callable[[Happening], None] = _ignore,
    brake: Brake | None = None,
    code_of: Callable[[Sequence[Outcome]], int] = _plain_code,
    stdin: BinaryIO | None = None,
) -> Ended:
    """Scan what inputs stand for into a results folder, or go on where an earlier run ended.

    What is done already under the same settings is not done again. Each content is scanned once;
    files with the same content are linked to it. A file whose model process dies is tried once
    more, alone, and is then an error.

    Args:
        inputs: as `list_inputs` takes them.
        out: the results folder; made if it is missing.
        crew: not started yet; it is closed at the end.
        on_event: told what happens, in this thread.
        brake: ends the run early; what is done is kept.
        code_of: the exit code of outcomes, for the journal.
        stdin: where "-" reads.

    Raises:
        UsageError: inputs, settings or `out` cannot work; before any work.
        EngineError, ModelError: no network can run, or it does not score known crops as it must.
        OutputError: another run is at work in `out`, the journal is damaged or cannot be written,
            or the disk is full. What was done is kept.
        KeyboardInterrupt: the run was stopped at once. What was done is kept.
    """
    ways = ways or Ways()
    brake = brake or Brake()
    reports = [_loaded(name) for name in ways.reports]
    folder = _made(out)
    with Lock(folder), closing(crew), ExitStack() as held:
        sweep(folder)
        listing = list_inputs(
            inputs,
            include=ways.include,
            exclude=ways.exclude,
            follow_links=ways.follow_links,
            skip=folder,
            stdin=stdin,
        )
        entries = list(listing)
        if not entries:  # a wrong path must not look clean
            raise UsageError(
                f"nothing to scan: {', '.join(inputs)} holds no video or picture "
                f"({listing.counts.not_media} other files, {listing.counts.excluded} excluded)"
            )
        run = _run_of(options, ways)  # a model or rate that cannot work is told before any loading
        journal = None if ways.fresh else held.enter_context(Journal(folder))
        crewed = crew.start()
        if not crewed.controls_passed:
            raise EngineError(
                f"engine {crewed.engine} does not score known crops as it should, so this run is "
                "void: run `deepscan doctor`"
            )
        run = _with_crew(run, crewed, options)
        if journal is None:  # the old one is put aside only when there will be a new one
            _set_aside(folder)
            journal = held.enter_context(Journal(folder))
        with brake.held_off():
            journal.begin(run)
        on_event(Standing(crewed, len(entries), listing.counts))
        derive = _Derive(folder, journal, reports)
        work = _Work(folder, journal, crew, crewed, run, options, ways, on_event, brake, derive)
        try:
            brake.gentle = True
            work.go(entries)
            outcomes = work.outcomes()
            stopped = brake.asked  # who asks from here on asks for what is done
            code = INTERRUPTED if stopped else code_of(outcomes)
            with brake.held_off():
                journal.ended(finished=not stopped, exit_code=code)
        except BaseException as error:
            code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else ERROR
            # There is an error to tell already; these would say the same.
            with suppress(OutputError, EngineError):
                work.take_leave()
            with suppress(OutputError), brake.held_off():
                journal.ended(finished=False, exit_code=code)
                sweep(folder)
            raise
        finally:
            brake.gentle = False
        failed = derive.now()
        return Ended(
            results=journal.memory.results(folder),
            outcomes=outcomes,
            counts=listing.counts,
            exit_code=ERROR if failed and code != INTERRUPTED else code,
            interrupted=stopped,
            report_errors=failed,
        )


# Before the work


def _loaded(name: str) -> tuple[str, Report]:
    try:
        return load_report(name)
    except KeyError:
        raise UsageError(f"no report {name!r}") from None
    except ImportError as error:
        raise UsageError(
            f"the report {name!r} needs a package that is not there: {error}"
        ) from error


def _made(out: Path) -> Path:
    """The results folder, absolute; a folder that holds other things is not taken for one."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = out.resolve(strict=True)
        others = [path.name for path in folder.iterdir()]
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise OutputError(f"the results folder {out} cannot be made: {why}") from error
    # A run that was killed before its first word leaves an empty journal and nothing else.
    foreign = [name for name in others if not name.startswith((".", "journal."))]
    ours = is_results(folder) or any(name.startswith(_BEFORE) for name in others)
    if foreign and not ours:
        raise UsageError(
            f"{out} is no results folder and holds other files: name a new or an empty folder"
        )
    return folder


def _set_aside(folder: Path) -> None:
    """Keep the old journal beside the new one."""
    journal = folder / JOURNAL
    if journal.exists():
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        name = f"{_BEFORE}{stamp}-{secrets.token_hex(2)}.jsonl"
        try:
            journal.rename(folder / name)
        except OSError as error:
            raise OutputError(f"{journal} cannot be put aside: {error.strerror}") from error


def _run_of(options: ScanOptions, ways: Ways) -> Run:
    """What is known of the run before its crew stands.

    Raises:
        ModelError: there is no such model, or it has no calibration.
        UsageError: the calibration does not support the false-alarm rate.
    """
    from deepscan.verdict.calibration import Calibration, sigmoid

    card = read_card(options.model)
    calibration = Calibration.from_card(card.values).at(options.false_alarm_rate)
    now = datetime.now(UTC)
    return Run(
        id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        started=now.isoformat(timespec="seconds"),
        command=ways.command,
        version=__version__,
        model=card.name,
        model_sha256=card.sha256,
        engine="",
        calibration=calibration.name,
        operating_point=sigmoid(calibration.points(1.0, still=False)[0]),
        false_alarm_rate=calibration.measured,
        settings=_flat(options),
        versions=installed_versions(),
        decides="",
        shard=ways.shard,
    )


def _with_crew(run: Run, crewed: Crewed, options: ScanOptions) -> Run:
    return replace(
        run,
        engine=crewed.engine,
        decides=decides(
            options, run.model_sha256, crewed.engine, run.versions, calibration=run.calibration
        ),
        controls=crewed.controls,
        controls_passed=crewed.controls_passed,
    )


def _flat(options: ScanOptions) -> tuple[tuple[str, str | int | float | bool | None], ...]:
    flat: dict[str, str | int | float | bool | None] = {}
    for key, value in dataclasses.asdict(options).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": given for inner, given in value.items()})
        else:
            flat[key] = value
    return tuple(flat.items())


# The work


class _Derive:
    """Writes the reports from the journal, at the end and now and then."""

    def __init__(self, folder: Path, journal: Journal, reports: list[tuple[str, Report]]) -> None:
        self._folder = folder
        self._journal = journal
        self._reports = reports
        self._next = time.monotonic() + REPORT_EVERY

    def if_due(self) -> None:
        if time.monotonic() >= self._next:
            began = time.monotonic()
            self.now()
            took = time.monotonic() - began
            self._next = time.monotonic() + max(REPORT_EVERY, REPORT_SHARE * took)

    def now(self) -> tuple[str, ...]:
        """Write all reports; what could not be written, and why. A run never ends for a report."""
        failed = []
        results = self._journal.memory.results(self._folder)
        for file, write in self._reports:
            try:
                write(results, self._folder / file)
            except Exception as error:
                logger.debug("%s", file, exc_info=True)
                failed.append(f"{file}: {error or type(error).__name__}")
        return tuple(failed)


@dataclass(slots=True)
class _InFlight:
    """A task under way, its content's key if that is known, and twins that wait for it."""

    task: Task
    key: str | None
    twins: list[Item] = field(default_factory=list)


class _Work:
    """What is under way, and what is known of what is done."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        crew: Crew,
        crewed: Crewed,
        run: Run,
        options: ScanOptions,
        ways: Ways,
        on_event: Callable[[Happening], None],
        brake: Brake,
        derive: _Derive,
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._memory = journal.memory
        self._crew = crew
        self._slots = crewed.slots
        self._run = run
        self._options = options
        self._ways = ways
        self._on_event = on_event
        self._brake = brake
        self._derive = derive
        self._ahead = Ahead(folder / FETCHED, size=options.limits.file_size)
        self._listed: list[str] = []
        self._in_flight: dict[str, _InFlight] = {}
        self._again: deque[Item | Task] = deque()  # twins that waited, files of machines that went
        self._lost: deque[Task] = deque()  # may have killed what scanned them: alone, at the end
        self._keys: dict[str, str] = {}  # of items that had to be hashed before their scan
        self._halt: OutputError | None = None
        self._told = False
        known = [*self._memory.superseded, *self._memory.outcomes.values()]
        self._sizes = {outcome.size for outcome in known}
        self._claimed = {  # folders that hold a result which must stay as it is
            outcome.folder
            for outcome in known
            if outcome.folder is not None and outcome.label is not Label.ERROR
        }

    def go(self, entries: Sequence[Item | Refused]) -> None:
        """Bring every entry to its outcome.

        Raises:
            OutputError: the disk is full.
            EngineError: the crew can scan nothing any more.
        """
        for entry in self._due(entries):
            if isinstance(entry, Refused):
                self._refuse(entry)
                continue
            task = entry if isinstance(entry, Task) else self._decide(entry)
            if task is not None:
                self._hand_out(task)
        if self._halt is not None:
            raise self._halt

    def take_leave(self) -> None:
        """Write down what was told and not heard yet, and end all work."""
        try:
            for event in self._crew.wait(0.0):
                if isinstance(event, Done) and event.task.item.name in self._in_flight:
                    self._done(event.task, event.outcome)
        finally:
            self._crew.close()

    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes of all entries that have one, sorted by name."""
        known = self._memory.outcomes
        return tuple(known[name] for name in sorted(set(self._listed)) if name in known)

    def _due(self, entries: Sequence[Item | Refused]) -> Iterator[Item | Refused | Task]:
        """What comes next, until all is done or somebody asks to stop."""
        waiting = deque(entries)
        while not self._stopped():
            if self._again:
                yield self._again.popleft()
            elif waiting:
                for entry in islice(waiting, 1 + self._slots):
                    if isinstance(entry, Item) and entry.address is not None:
                        self._ahead.want(entry.address)
                yield waiting.popleft()
            elif self._in_flight:
                self._listen()
            elif self._lost:
                yield self._lost.popleft()
                while self._in_flight and not self._stopped():
                    self._listen()
            else:
                return
        self._tell_of_stopping()
        while self._in_flight:
            self._listen()

    def _tell_of_stopping(self) -> None:
        if self._brake.asked and not self._told:
            self._told = True
            self._on_event(Stopping(len(self._in_flight)))

    def _stopped(self) -> bool:
        return self._brake.asked or self._halt is not None

    # Deciding

    def _refuse(self, entry: Refused) -> None:
        if self._ways.share is not None and not self._ways.share.takes(entry.name):
            return
        self._listed.append(entry.name)
        outcome = Outcome(entry.name, str(entry.path), entry.label, (entry.reason,))
        before = self._memory.outcomes.get(entry.name)
        if before is not None and (before.label, before.reasons) == (entry.label, (entry.reason,)):
            self._on_event(Settled(before, fresh=False))
        else:
            self._settle(outcome, fresh=False)

    def _decide(self, item: Item) -> Task | None:
        """The task of an item; None if nothing has to be scanned for it now."""
        share = self._ways.share
        known = self._memory.unchanged(item, self._run.decides)
        if known is not None and not self._ways.paranoid and self._serves(known):
            if share is None or (known.sha256 is not None and share.takes(known.sha256)):
                self._listed.append(item.name)
                self._on_event(Settled(known, fresh=False))
            return None
        if item.address is not None and not self._fetched(item):
            return None
        sha256 = self._content(item)
        if share is not None and not share.takes(sha256 or item.name):
            return None
        self._listed.append(item.name)
        key = None if sha256 is None else key_of(sha256, self._run.decides)
        if key is not None:
            same = self._memory.by_key(key)
            if same is not None and self._serves(same):
                self._link(item, same)
                return None
            for each in self._in_flight.values():
                if each.key == key:
                    each.twins.append(item)
                    return None
            self._keys[item.name] = key
        return Task(
            item=item,
            folder=self._folder / self._place(item, key),
            write=self._ways.write,
            write_found=tuple(k for k in self._ways.write_found if k not in self._ways.write),
            options=self._options,
        )

    def _serves(self, outcome: Outcome) -> bool:
        """Whether an outcome needs no new scan: final, and all that is wanted of it is there."""
        if any(reason.code in _PASSING for reason in outcome.reasons):
            return False
        wanted = set(self._ways.write)
        if outcome.label in (Label.MANIPULATED, Label.SUSPICIOUS):
            wanted |= set(self._ways.write_found)
        elif outcome.label in (Label.ERROR, Label.NOT_APPLICABLE):
            wanted &= {"record"}  # there may be nothing to show
        if not wanted <= {output.kind for output in outcome.outputs}:
            return False
        return all((self._folder / output.path).is_file() for output in outcome.outputs)

    def _content(self, item: Item) -> str | None:
        """The SHA-256 of a file, if knowing it may save a scan; None also if it cannot be read."""
        size = item.identity[2] if item.identity else None
        known = None if self._ways.paranoid else self._memory.sha256_of(item.identity)
        if known is not None:
            self._sizes.add(size)
            return known
        needed = self._ways.paranoid or self._ways.share is not None or item.identity is None
        if not needed and size not in self._sizes:
            self._sizes.add(size)  # only files of one size can be twins
            return None
        for each in self._in_flight.values():
            if each.key is None and _size_of(each.task.item) == size:
                found = self._hash(each.task.item)
                each.key = None if found is None else key_of(found, self._run.decides)
        return self._hash(item)

    def _hash(self, item: Item) -> str | None:
        with suppress(VideoError):  # the scan will say what is wrong with it
            return hash_file(resolve(item.path), self._options.limits)
        return None

    def _fetched(self, item: Item) -> bool:
        """Bring a remote file here; if that fails, this is its outcome."""
        assert item.address is not None
        try:
            while not self._ahead.is_here(item.address, 0.0 if self._in_flight else 0.5):
                if self._in_flight:
                    self._listen()
            self._ahead.take(item.address)
        except VideoError as error:
            if self._ways.share is not None and not self._ways.share.takes(item.name):
                return False
            self._listed.append(item.name)
            reason = Reason(error.reason, str(error))
            self._settle(
                Outcome(item.name, item.address, Label.ERROR, (reason,)),
                fresh=False,
            )
            return False
        return True

    def _link(self, item: Item, same: Outcome) -> None:
        """The item has the content of what was scanned already, perhaps under its own name."""
        outcome = replace(same, identity=item.identity, path=item.address or str(item.path))
        if same.name != item.name:
            outcome = replace(outcome, name=item.name, same_as=same.name, took=0.0)
        self._forget_fetched(item)
        if outcome == self._memory.outcomes.get(item.name):
            self._on_event(Settled(outcome, fresh=False))
        else:
            self._settle(outcome, fresh=False)

    def _place(self, item: Item, key: str | None) -> str:
        """The folder of an item's outputs; never one that holds another result of it."""
        before = self._memory.outcomes.get(item.name)
        own = before is not None and before.same_as is None and before.folder is not None
        if before is not None and own and key is not None and before.key == key:
            assert before.folder is not None
            return before.folder  # the same result once more, with what was missing
        base = place = output_paths.folder_of(item.name)
        number = 1
        while place in self._claimed:
            number += 1
            place = f"{base}/again-{number}"
        return place

    # Scanning

    def _hand_out(self, task: Task) -> None:
        while len(self._in_flight) >= self._slots and not self._stopped():
            self._listen()
        if self._stopped() or not self._has_room():
            return
        key = self._keys.get(task.item.name)
        with self._brake.held_off():
            self._journal.started(task.item, attempt=task.attempt, key=key)
        self._in_flight[task.item.name] = _InFlight(task, key)
        self._crew.submit(task)

    def _has_room(self) -> bool:
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise OutputError(
                f"the results folder {self._folder} is gone: {error.strerror}"
            ) from error
        if free < self._ways.min_free:
            self._halt = OutputError(
                f"only {free >> 20} MiB are free for {self._folder}, less than "
                f"{self._ways.min_free >> 20} MiB: make room and start again, it goes on from here"
            )
        return self._halt is None

    def _listen(self) -> None:
        """Take what the crew has to tell, write it down, pass it on."""
        for event in self._crew.wait(0.5):
            if isinstance(event, Progressed):
                self._on_event(event)
            elif event.task.item.name in self._in_flight:
                if isinstance(event, Done):
                    self._done(event.task, event.outcome)
                else:
                    self._missed(event)
        self._tell_of_stopping()
        self._on_event(Working(tuple(self._in_flight), self._crew.busy()))
        self._derive.if_due()

    def _done(self, task: Task, outcome: Outcome) -> None:
        again = next((each for each in outcome.reasons if each.code in _ONCE_MORE), None)
        if _as_it_is(task.item) != task.item:
            again = Reason("changed", f"{task.item.path} changed while it was scanned")
        if again is not None and task.attempt < TRIES:
            for output in outcome.outputs:  # the next try may have others
                with suppress(OSError):
                    (task.folder / output.path).unlink(missing_ok=True)
            self._missed(Lost(task, again))
            return
        self._keys.pop(task.item.name, None)
        outcome = self._settled_in(task, outcome)
        twins = self._in_flight.pop(task.item.name).twins
        self._settle(outcome, fresh=True)
        self._forget_fetched(task.item)
        self._again.extend(twins)

    def _settled_in(self, task: Task, outcome: Outcome) -> Outcome:
        """An outcome as the journal holds it: its key, and paths from the results folder on."""
        place = task.folder.relative_to(self._folder).as_posix()
        return replace(
            outcome,
            key=outcome.sha256 and key_of(outcome.sha256, self._run.decides),
            folder=place if outcome.outputs else None,
            outputs=tuple(
                replace(output, path=f"{place}/{output.path}") for output in outcome.outputs
            ),
        )

    def _missed(self, event: Lost) -> None:
        """A task came back without an outcome: once more, or an error."""
        task, reason = event.task, event.reason
        if reason.code == DISK:
            raise OutputError(f"{reason.text}. Make room and start again: it goes on from here")
        with self._brake.held_off():
            self._journal.lost(task.item.name, reason, attempt=task.attempt)
        logger.warning("%s: %s", task.item.name, reason.text)
        flight = self._in_flight.pop(task.item.name)
        self._clear(task)
        retried = replace(task, item=_as_it_is(task.item), attempt=task.attempt + 1)
        if reason.code == NODE_LOST and task.attempt < NODE_TRIES:
            self._again.append(retried)
            self._again.extend(flight.twins)
        elif reason.code != NODE_LOST and task.attempt < TRIES:
            self._lost.append(retried)
            self._again.extend(flight.twins)
        else:
            self._settle(self._failed(task, reason), fresh=True)
            self._forget_fetched(task.item)
            self._again.extend(flight.twins)

    def _clear(self, task: Task) -> None:
        """Remove what a killed process has left in a task's folder: half-written files, and whole
        ones if it died before its last word. A result that was there before stays.
        """
        if not task.folder.is_dir():
            return
        sweep(task.folder, deep=False)
        if task.folder.relative_to(self._folder).as_posix() not in self._claimed:
            for path in outputs_of(task.folder, task.write + task.write_found).values():
                with suppress(OSError):  # it is written over, or told when that fails
                    path.unlink(missing_ok=True)

    def _failed(self, task: Task, reason: Reason) -> Outcome:
        """The outcome of a task that was given up, with its record if one is asked for."""
        outcome = error_outcome(task, reason)
        if "record" not in task.write:
            return outcome
        from deepscan.sinks.record import error_record, host_facts, write_record

        final = outputs_of(task.folder, ("record",))["record"]
        record = error_record(
            Skipped(task.item.path, Label.ERROR, reason),
            size=outcome.size,
            settings=self._run.settings,
            versions=self._run.versions,
            host=host_facts(),
        )
        try:
            task.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{task.folder} cannot be made: {error.strerror}") from error
        with atomic_outputs({"record": final}) as parts:
            write_record(parts["record"], record)
            made = finished("record", parts["record"], final)
        written = Written(made.kind, made.path.name, made.sha256, made.size)
        return self._settled_in(task, replace(outcome, outputs=(written,)))

    def _settle(self, outcome: Outcome, *, fresh: bool) -> None:
        with self._brake.held_off():
            self._journal.done(outcome)
        self._sizes.add(outcome.size)
        if outcome.folder is not None and outcome.label is not Label.ERROR:
            self._claimed.add(outcome.folder)
        self._on_event(Settled(outcome, fresh=fresh))

    def _forget_fetched(self, item: Item) -> None:
        if item.address is not None:
            with suppress(OSError):
                place_of(item.address, self._folder / FETCHED).unlink(missing_ok=True)


def _as_it_is(item: Item) -> Item:
    """The item with the identity that its file has now; one that cannot be asked stays as it is."""
    if item.identity is not None:
        with suppress(UnreadableError):
            return replace(item, identity=identity_of(item.path))
    return item


def _size_of(item: Item) -> int | None:
    return item.identity[2] if item.identity else None
