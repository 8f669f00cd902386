"""The scan of an archive from the command line: worker pool, printed answers, exit code."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from deepscan.cli.console import print_aside, print_json, print_line, print_message
from deepscan.errors import NothingToScan, UsageError
from deepscan.exit_codes import INTERRUPTED, ExitPolicy
from deepscan.wording import (
    counted,
    file_count,
    passed_over_text,
    probability,
    time_span,
    visible,
)

if TYPE_CHECKING:
    from deepscan.archive.options import ArchiveOptions
    from deepscan.archive.records import Baseline, Outcome
    from deepscan.archive.run import RunResult
    from deepscan.archive.stop_request import StopRequest
    from deepscan.archive.workers.contract import WorkerPool
    from deepscan.options import ScanOptions

ENDING_SIGNALS = tuple(name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_QUIET_LABELS = ("no-evidence", "not-applicable")  # counted, not listed
# Told with the reason where no interval tells it.
_TOLD = ("manipulated", "suspicious", "inconclusive", "error")
NOT_LISTED = " (not listed now)"
_PATTERN = re.compile(r"[*?]|\[.+\]")

ScanOnce = Callable[["WorkerPool", "ArchiveOptions"], "RunResult"]


def is_archive(inputs: list[str], out: Path | None) -> bool:
    """True if an input may be many files, or `out` is a results folder to resume.

    Raises:
        UsageError: there is no folder for the results of many files.
    """
    from deepscan.archive.inputs.remote import is_address

    for text in inputs:
        path = Path(text)
        if text == "-":
            _check_stdin()
        elif (out is None or out.suffix) and re.match("https?://", text, re.IGNORECASE):
            raise UsageError(
                f"{text} is a web address, and deepscan scans files: save the video to a file with "
                "a browser or downloader, then scan it: deepscan FILE"
            )
        if (
            text == "-"
            or is_address(text)
            or path.is_dir()
            or ((text[:1] == "@" or _PATTERN.search(text)) and not path.exists())
        ):
            if out is None:
                raise UsageError(f"{text} may be many files: name a folder, --out RESULTS")
            return True
    if out is None or not out.is_dir():
        return False
    from deepscan.archive.journal import is_results

    return is_results(out)


def _check_stdin() -> None:
    """Refuse a video on stdin: `-` reads a list of names.

    Raises:
        UsageError: stdin is not a list of names.
    """
    from deepscan.archive.inputs.listing import is_list

    stdin = getattr(sys.stdin, "buffer", None)
    if stdin is None or not hasattr(stdin, "peek") or sys.stdin.isatty():
        return
    if not is_list(stdin.peek()):
        raise UsageError(
            "- reads a list of names from stdin, but stdin holds other data: save it to a file, "
            "then scan that: deepscan FILE"
        )


def scan_archive(
    inputs: list[str],
    out: Path | None,
    options: ScanOptions,
    archive_options: ArchiveOptions,
    policy: ExitPolicy,
    format_: str,
    *,
    quiet: bool,
    verbose: bool = False,
) -> int:
    """Scan an archive and print the answers; returns the exit code.

    Raises:
        UsageError: the options do not fit an archive, or there is nothing to scan and that is not
            allowed (it never is where earlier runs had files).
    """
    if out is None:
        raise UsageError(
            "an option for archives was given (--help-all lists them): name a folder for the "
            "results, --out RESULTS"
        )
    if not out.is_dir() and (out.exists() or out.suffix.lower() in (".mp4", ".json", ".html")):
        raise UsageError(f"--out {out} is one file: name a folder for the results of an archive")
    for device in archive_options.devices:
        if device != "cpu" and not re.fullmatch(r"cuda(:\d{1,3})?", device):
            raise UsageError(f"--devices {device}: give cpu, or cuda:0,cuda:1,...")
    from deepscan.archive import run
    from deepscan.archive.journal import is_results
    from deepscan.archive.progress import open_view

    answers = _Answers(archive_options.baseline, format_, quiet=quiet)
    stop_request = stop_at_signals()

    def scan_once(pool: WorkerPool, archive_options: ArchiveOptions) -> RunResult:
        watching = archive_options.watch
        with open_view(sys.stderr, quiet=quiet, verbose=verbose, watching=watching) as view:
            result = run.scan_archive(
                inputs,
                out,
                options=options,
                pool=pool,
                archive_options=archive_options,
                on_event=view.take,
                stop_request=stop_request,
                code_of=partial(answers.code, policy),
                stdin=getattr(sys.stdin, "buffer", None),
            )
        # A watch prints each file once; otherwise the console agrees with the reports.
        told = result.outcomes if archive_options.watch else result.results.outcomes
        answers.print_result(result, told)
        return result

    pool = open_pool(options, archive_options, out)
    try:
        if archive_options.watch:
            run.describe_run(options, archive_options)  # refuses before it waits for files
            heartbeat = None if quiet else _WatchHeartbeat(answers)
            _watch(inputs, out, pool, archive_options, scan_once, heartbeat)
            return INTERRUPTED
        result = scan_once(pool, archive_options)
        if not quiet and (passed := passed_over_text(result.counts.passed_over())):
            print_message(passed)
        if result.interrupted:
            print_message("run the same command again to resume")
        return result.exit_code
    except NothingToScan as error:
        if archive_options.allow_empty or is_results(out):
            raise
        raise NothingToScan(f"{error}; --allow-empty accepts that") from error
    finally:
        answers.print_counts()


def stop_at_signals() -> StopRequest:
    """A request that Ctrl-C makes, and at once what else ends a process."""
    from deepscan.archive.stop_request import StopRequest

    stop_request = StopRequest()
    signal.signal(signal.SIGINT, lambda *_: stop_request.stop())
    for name in ENDING_SIGNALS:
        signal.signal(getattr(signal, name), lambda *_: stop_request.abort())
    return stop_request


class _Answers:
    """Prints the outcomes of all runs of this command, and computes the exit code."""

    def __init__(self, baseline: Baseline | None, format_: str, *, quiet: bool) -> None:
        self._accepts = _acceptance(baseline)
        self._format, self._quiet = format_, quiet
        self._printed: dict[str, Outcome] = {}
        self._listed: set[str] = set()  # by any run of this command: a watch makes many
        self._not_listed: frozenset[str] = frozenset()
        self._gone = 0

    def code(self, policy: ExitPolicy, outcomes: Sequence[Outcome]) -> int:
        """The exit code; findings that the baseline accepts do not count."""
        return policy.code(each.label for each in outcomes if not self._accepts(each))

    def print_result(self, result: RunResult, outcomes: Sequence[Outcome]) -> None:
        """Print a line for each file that needs attention, or in JSON for every file."""
        self._gone = len(result.results.gone)
        self._listed.update(
            each.name for each in outcomes if each.name not in result.results.not_listed
        )
        self._not_listed = result.results.not_listed - self._listed
        for outcome in outcomes:
            if self._format == "json":
                print_json(outcome.to_json())
            elif outcome.label not in _QUIET_LABELS:
                line = _file_line(outcome, accepted=self._accepts(outcome))
                print_line(line + NOT_LISTED * (outcome.name in self._not_listed))
            self._printed[outcome.name] = outcome
        for error in result.report_errors:
            print_message(f"a report could not be written: {error}")

    def counts(self) -> str:
        """The counts of files by label, as text."""
        counts = counted(outcome.label for outcome in self._printed.values())
        if accepted := sum(map(self._accepts, self._printed.values())):
            counts += f" ({accepted} accepted by the baseline)"
        if unlisted := len(self._printed.keys() & self._not_listed):
            counts += f", {unlisted} of them not listed now"
        if self._gone:
            counts += f"; {self._gone} gone from the archive"
        return counts

    def print_counts(self) -> None:
        """Print the counts by label as the last line; nothing if no run has finished."""
        if not self._printed:
            return
        counts = self.counts()
        if self._format == "text":
            print_line(counts)
        elif not self._quiet:
            print_aside(counts)


class _WatchHeartbeat:
    """Prints a line on stderr every ten minutes of a watch, to show that it still runs."""

    def __init__(self, answers: _Answers) -> None:
        self._answers = answers
        self._next = 0.0

    def __call__(self, waiting: int) -> None:
        """Print the counts and the number of waiting files, if a line is due."""
        from deepscan.archive.progress import WATCH_EVERY

        if time.monotonic() >= self._next:
            self._next = time.monotonic() + WATCH_EVERY
            print_message(f"watching: {self._answers.counts()}; {file_count(waiting)} waiting")


def _watch(
    inputs: list[str],
    out: Path,
    pool: WorkerPool,
    archive_options: ArchiveOptions,
    scan_once: ScanOnce,
    heartbeat: Callable[[int], None] | None,
) -> None:
    """Scan files as they arrive in folders until stopped; engines are loaded once."""
    from deepscan.archive.watch import ReusedPool, watch

    fresh, reused = archive_options.fresh, ReusedPool(pool)
    with closing(pool):

        def scan_these(patterns: tuple[str, ...]) -> bool:
            nonlocal fresh
            ended = scan_once(reused, replace(archive_options, include=patterns, fresh=fresh))
            fresh = False
            return not ended.interrupted

        watch(inputs, out, scan_these, archive_options=archive_options, on_look=heartbeat)


def open_pool(options: ScanOptions, archive_options: ArchiveOptions, out: Path) -> WorkerPool:
    """Make the worker pool: of this machine or of a cluster."""
    from deepscan.archive.workers import WORKER_POOLS
    from deepscan.archive.workers.contract import PoolSettings

    settings = PoolSettings(options, archive_options.jobs, archive_options.devices)
    name, more = "local", {}
    if archive_options.cluster is not None:
        name, more = "ray", {"results": out, "address": archive_options.cluster}
    pool: WorkerPool = resolve_name(WORKER_POOLS[name])(settings, **more)
    return pool


def _acceptance(baseline: Baseline | None) -> Callable[[Outcome], bool]:
    """A predicate for outcomes that a baseline accepts today."""
    if baseline is None:
        return lambda outcome: False
    today = datetime.now(UTC).date()
    return lambda outcome: baseline.accepts(outcome, today) is not None


def _file_line(outcome: Outcome, *, accepted: bool) -> str:
    """Format one line about a file of an archive."""
    text = f"{outcome.name}: {outcome.label}"
    if outcome.score is not None and outcome.intervals:
        text += f", P(manipulated) {probability(outcome.score)}"
        text += f", {time_span(outcome.intervals[0].start, outcome.intervals[-1].end)}"
    elif outcome.reasons:
        text += f", {outcome.reasons[0].code}"
        if outcome.label in _TOLD:
            text += f": {outcome.reasons[0].text}"
    if outcome.same_as is not None:
        text += f", the same content as {outcome.same_as}"
    return visible(text + (" (accepted by the baseline)" if accepted else ""))
