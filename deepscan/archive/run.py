"""Runs an archive scan: lock the results folder, list the inputs, scan them, write the reports.

Every step is in the journal before the run relies on it, so a run can be killed at any time: the
next run repeats only what was not recorded. Workers do the scans; this process imports neither
torch nor a decoder.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from deepscan import __version__
from deepscan.archive.events import OnEvent, RunEvent, RunStarted
from deepscan.archive.inputs.listing import Counts, Entry, Listing, list_inputs
from deepscan.archive.journal import JOURNAL, Journal, JournalState, is_results
from deepscan.archive.lock import Lock, sweep
from deepscan.archive.markers import mark_outputs
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.records import Outcome, Results, Run
from deepscan.archive.reports import load_report
from deepscan.archive.scheduler import ReportWriter, RunContext, Scheduler
from deepscan.archive.settings_hash import settings_hash
from deepscan.archive.states import Coverage, FileState, coverage_of, entry_path, is_below
from deepscan.archive.stop_request import StopRequest
from deepscan.archive.workers.contract import PoolInfo, WorkerPool
from deepscan.engines.packages import installed_versions
from deepscan.errors import (
    EngineError,
    NothingToScan,
    OutputError,
    UsageError,
    reason_of,
    system_errors_as,
)
from deepscan.exit_codes import ERROR, INTERRUPTED, ExitPolicy
from deepscan.models.library import read_card
from deepscan.options import ScanOptions
from deepscan.wording import passed_over_text, visible

logger = logging.getLogger(__name__)

_OLD_JOURNAL = "journal.before-"  # prefix of a journal that --fresh has moved aside
_NO_POOL = PoolInfo("none", "there is nothing to scan", 1, (), True)

_IN_NEW = "earlier runs had files here: scan into a new folder"
_Listed = tuple[Listing, list[Entry]]


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of a run: the state of the folder, and the outcomes of the files of this run.

    Reports and exit code use `results`, which also holds files that only an earlier run listed.
    `report_errors` lists reports that could not be written, with the reason.
    """

    results: Results
    outcomes: tuple[Outcome, ...]
    counts: Counts
    exit_code: int
    interrupted: bool = False
    report_errors: tuple[str, ...] = ()


def _ignore(event: RunEvent) -> None:
    """Ignore an event."""


def _default_exit_code(outcomes: Sequence[Outcome]) -> int:
    return ExitPolicy().code(outcome.label for outcome in outcomes)


def scan_archive(
    inputs: Sequence[str],
    out: Path,
    *,
    options: ScanOptions,
    pool: WorkerPool,
    archive_options: ArchiveOptions | None = None,
    on_event: OnEvent = _ignore,
    stop_request: StopRequest | None = None,
    code_of: Callable[[Sequence[Outcome]], int] = _default_exit_code,
    stdin: BinaryIO | None = None,
) -> RunResult:
    """Scan inputs into a results folder, or resume an earlier run.

    Files with a result under the same settings are skipped. Each content is scanned once; files
    with the same content refer to it. A file whose model process dies is retried once, alone, and
    is then an error.

    Args:
        inputs: as in `list_inputs`.
        out: the results folder; created if it is missing.
        pool: not started yet; it is closed at the end.
        on_event: called with each event, in this thread.
        stop_request: ends the run early; finished results are kept.
        code_of: the exit code of outcomes, for the journal.
        stdin: read for "-".

    Raises:
        UsageError: invalid inputs, settings or `out`; raised before any work.
        EngineError, ModelError: no network can run, or it does not score known crops as expected.
        OutputError: another run is active in `out`, the journal is damaged or cannot be written,
            or the disk is full. Finished results are kept.
        KeyboardInterrupt: the run was aborted. Finished results are kept.
    """
    archive_options = archive_options or ArchiveOptions()
    stop_request = stop_request or StopRequest()
    sarif = archive_options.sarif_root, archive_options.sarif_category
    reports = [load_report(name, *sarif) for name in archive_options.reports]
    run = describe_run(options, archive_options)  # refuses what no run can do, before any work
    folder, listed = _open_results_folder(inputs, out, archive_options, stdin)
    with Lock(folder), closing(pool), ExitStack() as held:
        sweep(folder)
        listing, entries = listed or _list(inputs, archive_options, folder, stdin)
        journal = None if archive_options.fresh else held.enter_context(Journal(folder))
        coverage = _coverage(listing.roots, entries, archive_options)
        known = JournalState() if journal is None else journal.state
        _check_roots(coverage, entries, known)
        _tell_replaced(entries, known)
        pool_info = _start(pool) if entries else _NO_POOL
        run = replace(
            _with_pool(run, pool_info, options),
            listed=len(entries),
            # A watch lists one batch at a time, so all other files would count as excluded.
            passed_over=() if archive_options.watch else listing.counts.passed_over(),
        )
        if journal is None:  # the old one is moved aside only once a new one is certain
            _put_journal_aside(folder)
            journal = held.enter_context(Journal(folder))
        with stop_request.deferred():
            journal.begin(run)
            journal.listed((entry.name for entry in entries), coverage)
        if entries:
            on_event(RunStarted(pool_info, len(entries), listing.counts))
        writer = ReportWriter(folder, journal, reports, archive_options.baseline)
        context = RunContext(folder, journal, run, options, archive_options, stop_request, on_event)
        scheduler = Scheduler(context, pool, pool_info.slots, writer)
        code, stopped = _work(scheduler, context, entries, coverage, code_of)
        if not stopped:
            mark_outputs(folder, journal.state)
        failed = writer.write()
        return RunResult(
            results=journal.state.results(folder),
            outcomes=scheduler.outcomes(),
            counts=listing.counts,
            exit_code=ERROR if failed and code != INTERRUPTED else code,
            interrupted=stopped,
            report_errors=failed,
        )


def _work(
    scheduler: Scheduler,
    context: RunContext,
    entries: Sequence[Entry],
    coverage: Coverage,
    code_of: Callable[[Sequence[Outcome]], int],
) -> tuple[int, bool]:
    """Process all entries; returns the exit code, and whether the run was stopped."""
    stop_request, journal = context.stop_request, context.journal
    try:
        stop_request.graceful = True
        scheduler.run(entries)
        stopped = stop_request.requested  # a later request has nothing left to stop
        code = INTERRUPTED
        if not stopped:
            if context.run.shard is not None:  # only now the files of this shard are known
                with stop_request.deferred():
                    journal.listed(scheduler.listed, coverage)
            code = code_of(journal.state.results(context.folder, ending=True).outcomes)
        with stop_request.deferred():
            journal.ended(finished=not stopped, exit_code=code, left=scheduler.left)
        return code, stopped
    except BaseException as error:
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else ERROR
        # An error is being raised; these would report the same.
        with suppress(OutputError, EngineError):
            scheduler.abandon()
        with suppress(OutputError), stop_request.deferred():
            journal.ended(finished=False, exit_code=code, left=scheduler.left)
            sweep(context.folder)
        raise
    finally:
        stop_request.graceful = False


def _list(
    inputs: Sequence[str], archive_options: ArchiveOptions, folder: Path, stdin: BinaryIO | None
) -> _Listed:
    listing = list_inputs(
        inputs,
        include=archive_options.include,
        exclude=archive_options.exclude,
        follow_links=archive_options.follow_links,
        skip=folder,
        stdin=stdin,
    )
    entries = list(listing)
    if not entries:  # a wrong path must not look clean
        text = f"nothing to scan: {', '.join(inputs)} holds no video or picture"
        passed = passed_over_text(listing.counts.passed_over())
        if not archive_options.allow_empty:
            raise NothingToScan(f"{text} ({passed or 'no file at all'})")
        if archive_options.fresh and is_results(folder):
            raise NothingToScan(f"{text}; {_IN_NEW}")
        logger.warning("%s", visible(text))
    return listing, entries


def _coverage(
    roots: Sequence[str], entries: Sequence[Entry], archive_options: ArchiveOptions
) -> Coverage:
    include, exclude = archive_options.include, archive_options.exclude
    if archive_options.watch:  # its patterns select only one batch
        roots = ()
    return coverage_of(roots, entries, include=include, exclude=exclude)


def _check_roots(coverage: Coverage, entries: Sequence[Entry], state: JournalState) -> None:
    """Refuse a folder that is suddenly empty: most likely a share is not mounted.

    If it always was, that is a warning.

    Raises:
        UsageError: a root has no files now, and an earlier run had files there; or there is nothing
            to scan, and an earlier run had any files.
    """
    paths = [entry_path(entry) for entry in entries]
    states = state.states()
    for root in coverage.roots:
        if any(path == root or is_below(path, root) for path in paths):
            continue
        own = replace(coverage, roots=(root,))
        had = sum(
            states[name] is not FileState.GONE and own.covers(outcome.path)
            for name, outcome in state.outcomes.items()
        )
        if had:
            raise UsageError(
                f"{root} has no files now; earlier runs had {had} file{'s' * (had != 1)} there: "
                "mount it, or leave it out; if they were deleted, scan into a new folder"
            )
        if entries:  # else that is said already
            logger.warning("%s holds no video or picture to scan", visible(root))
    if not entries and state.outcomes:
        raise NothingToScan(f"nothing to scan; {_IN_NEW}")


def _tell_replaced(entries: Sequence[Entry], state: JournalState) -> None:
    """Warn if the result of another existing file is replaced under the same name."""
    replaced = [
        known.path
        for entry in entries
        if (known := state.outcomes.get(entry.name)) is not None
        and known.path != entry_path(entry)
        and "://" not in known.path
        and os.path.lexists(known.path)
    ]
    if replaced:
        logger.warning(
            "%d results of other files with the same names are replaced (first: %s): name all "
            "inputs in one scan, or scan into different folders",
            len(replaced),
            visible(replaced[0]),
        )


def _open_results_folder(
    inputs: Sequence[str], out: Path, archive_options: ArchiveOptions, stdin: BinaryIO | None
) -> tuple[Path, _Listed | None]:
    """Create the results folder; nothing stays there if it is new and there is nothing to scan.

    Returns:
        Its absolute path; and the listing where it holds no results yet, else None: what other
        runs have recorded there is compared with a listing under the lock.
    """
    made = [each for each in (out, *out.parents) if not each.exists()]
    folder = _make_results_folder(out)
    if is_results(folder):
        return folder, None
    try:
        return folder, _list(inputs, archive_options, folder, stdin)
    except UsageError:
        with suppress(OSError):
            for each in made:
                each.rmdir()
        raise


def _make_results_folder(out: Path) -> Path:
    """Create the results folder; returns its absolute path. A folder of other files is refused."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = out.resolve(strict=True)
        others = [path.name for path in folder.iterdir()]
    except (OSError, RuntimeError) as error:
        text = f"the results folder {out} cannot be made ({reason_of(error)}): name another"
        raise OutputError(text) from error
    # A run that was killed before its first line leaves only an empty journal.
    foreign = [name for name in others if not name.startswith((".", "journal."))]
    ours = is_results(folder) or any(name.startswith(_OLD_JOURNAL) for name in others)
    if foreign and not ours:
        raise UsageError(
            f"{out} is no results folder and holds other files: name a new or an empty folder"
        )
    return folder


def _put_journal_aside(folder: Path) -> None:
    """Rename the old journal, so that it is kept beside the new one."""
    journal = folder / JOURNAL
    if journal.exists():
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        name = f"{_OLD_JOURNAL}{stamp}-{secrets.token_hex(2)}.jsonl"
        with system_errors_as(OutputError, f"{journal} cannot be put aside"):
            journal.rename(folder / name)


def _start(pool: WorkerPool) -> PoolInfo:
    pool_info = pool.start()
    if not pool_info.controls_passed:
        raise EngineError(
            f"engine {pool_info.engine} does not score known crops as expected, so its results "
            "would be invalid: run `deepscan doctor`"
        )
    return pool_info


def describe_run(options: ScanOptions, archive_options: ArchiveOptions) -> Run:
    """What is known of the run before its workers are ready.

    Raises:
        EngineError: no engine has that name.
        ModelError: there is no such model, or its calibration is damaged.
        UsageError: the calibration does not support the false-alarm rate, there is no trust list,
            or a part of the media that cannot be.
    """
    from deepscan.c2pa import read_trust_list
    from deepscan.engines.choose import auto_device, parse_name
    from deepscan.verdict.calibration import calibration_of, check_rate, sigmoid
    from deepscan.verdict.notes import check_part

    check_part(options)
    if auto_device(options.engine) is None:
        parse_name(options.engine)
    if options.trust_list is not None:
        read_trust_list(Path(options.trust_list))
    card = read_card(options.model)
    calibration = calibration_of(card.values)
    check_rate(calibration, options.false_alarm_rate, card.name)
    if calibration is not None:
        calibration = calibration.at(options.false_alarm_rate)
    shard = archive_options.shard
    now = datetime.now(UTC)
    return Run(
        id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        started=now.isoformat(timespec="seconds"),
        command=archive_options.command,
        version=__version__,
        model=card.name,
        model_sha256=card.sha256,
        engine="",
        calibration=calibration.name if calibration else "none",
        operating_point=sigmoid(calibration.points(1.0, still=False)[0]) if calibration else None,
        false_alarm_rate=calibration.stated.share if calibration else None,
        settings=options.flat(),
        versions=installed_versions(),
        settings_hash="",
        shard=None if shard is None else (shard.number, shard.count),
    )


def _with_pool(run: Run, pool_info: PoolInfo, options: ScanOptions) -> Run:
    engine, model = pool_info.engine, run.model_sha256
    return replace(
        run,
        engine=engine,
        settings_hash=settings_hash(
            options, model, engine, run.versions, calibration=run.calibration
        ),
        controls=pool_info.controls,
        controls_passed=pool_info.controls_passed,
    )
