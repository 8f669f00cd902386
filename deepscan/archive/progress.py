"""Shows the progress of an archive scan on stderr: live on a terminal, else a line now and then.

stdout is for the answers and is never used here. Names come from untrusted archives, so control
characters in them are spelled out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self, TextIO

from deepscan.archive.events import Heartbeat, ItemDone, RunEvent, RunStarted, RunStopping
from deepscan.archive.workers.contract import TaskProgress
from deepscan.types import Label
from deepscan.wording import file_count, probability, said_by_other_stream, visible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

EVERY = 10.0  # seconds between two plain lines
WATCH_EVERY = 600.0  # the same for a watch, also while nothing arrives
RECENT = 20.0  # seconds over which frames a second are counted
SHOWN = 8  # files in flight in the view
STAGES = {
    "decode": "decoding",
    "decode again": "decoding for the video",
    "detect": "face search",
    "hash": "reading files",
    "open": "opening files",
    "overlay": "encoding videos",
    "masks": "encoding masks",
    "store": "keeping results",
}
FOUND = (Label.MANIPULATED, Label.SUSPICIOUS)


class RunCounter:
    """Counts the events of a run, and computes rate and remaining time."""

    def __init__(self) -> None:
        self.total = 0
        self.settled = 0
        self.fresh = 0
        self.found = 0
        self.failed = 0
        self.in_flight: dict[str, TaskProgress | None] = {}
        self.stopping = False
        self.bottleneck = ""
        self.recent: deque[tuple[float, int]] = deque()
        self._frames = 0
        self._began = time.monotonic()

    def take(self, event: RunEvent) -> None:
        now = time.monotonic()
        match event:
            case RunStarted():
                self.total = event.total
                self._began = now
            case ItemDone(outcome=outcome):
                self.settled += 1
                self.found += outcome.label in FOUND
                self.failed += outcome.label is Label.ERROR
                if event.fresh:
                    self.fresh += 1
                    self._frames += outcome.frames
                self.in_flight.pop(outcome.name, None)
            case TaskProgress():
                self.in_flight[event.task.file.name] = event
            case RunStopping():
                self.stopping = True
            case Heartbeat():
                self.in_flight = {name: self.in_flight.get(name) for name in event.in_flight}
                self.bottleneck = bottleneck(event.busy)
                self.recent.append((now, self.frames))
                while now - self.recent[0][0] > RECENT and len(self.recent) > 2:
                    self.recent.popleft()

    @property
    def frames(self) -> int:
        """Frames that were judged, including files in flight."""
        under_way = list(self.in_flight.values())  # a copy: the view draws in another thread
        return self._frames + sum(e.frames for e in under_way if e and e.stage == "analysing")

    @property
    def rate(self) -> float:
        """Frames per second over the last `RECENT` seconds."""
        if len(self.recent) < 2:
            return 0.0
        (first, before), (last, now) = self.recent[0], self.recent[-1]
        return max(0.0, (now - before) / (last - first)) if last > first else 0.0

    @property
    def left(self) -> float | None:
        """Seconds until the end at the rate so far; None if not known yet."""
        if not self.fresh:
            return None
        spent = time.monotonic() - self._began
        return max(0, self.total - self.settled) * spent / self.fresh

    def line(self) -> str:
        """The counts in one line."""
        parts = [
            f"{self.settled:,} of {file_count(self.total)}",
            f"{len(self.in_flight)} in flight",
        ]
        parts += [f"{self.found:,} found", f"{self.failed:,} failed", f"{self.rate:.0f} frames/s"]
        if self.stopping:
            parts.append("stopping; press Ctrl-C again to end at once")
        else:
            if self.left is not None:
                parts.append(f"{duration(self.left)} left")
            if self.bottleneck:
                parts.append(f"bottleneck: {self.bottleneck}")
        return ", ".join(parts)


class View:
    """Shows a run; this class shows nothing. Use it with `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no resource is open."""

    def take(self, event: RunEvent) -> None:
        """Show an event if it is of interest."""


class LiveView(View):
    """A view that is redrawn in place and removed at the end."""

    def __init__(self) -> None:
        self.tally = RunCounter()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        self._live = Live(
            console=console,
            get_renderable=self._shown,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def take(self, event: RunEvent) -> None:
        self.tally.take(event)

    def _shown(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        tally = self.tally
        table = Table.grid(padding=(0, 1))
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
        table.add_column(no_wrap=True)
        table.add_column(width=24)
        if not tally.total:
            table.add_row(Text("listing files and loading the engine"), "", "")
            return table
        table.add_row(
            Text(tally.line()), "", ProgressBar(total=tally.total, completed=tally.settled)
        )
        flights = list(tally.in_flight.items())
        for name, told in flights[:SHOWN]:
            bar = ProgressBar(total=None, pulse=False)
            stage = "begins"
            if told is not None:
                stage = told.stage
                if told.duration:
                    bar = ProgressBar(total=told.duration, completed=min(told.time, told.duration))
            table.add_row(Text(f"  {visible(name)}"), Text(stage), bar)
        if len(flights) > SHOWN:
            table.add_row(Text(f"  and {len(flights) - SHOWN} more"), "", "")
        return table


class PlainLog(View):
    """Prints one line every ten seconds at most, and one for each finding.

    `verbose` prints a line for every file. `watching` is for the many short runs of a watch: they
    are not announced, and print a line every ten minutes.
    """

    def __init__(self, stream: TextIO, *, verbose: bool = False, watching: bool = False) -> None:
        self.tally = RunCounter()
        self._stream: TextIO | None = stream
        self._verbose, self._watching = verbose, watching
        self._every = WATCH_EVERY if watching else EVERY
        self._last = float("-inf")

    def take(self, event: RunEvent) -> None:
        self.tally.take(event)
        if isinstance(event, ItemDone):
            outcome = event.outcome
            if event.fresh and (self._verbose or outcome.label in FOUND):
                score = (
                    ""
                    if outcome.score is None or said_by_other_stream(outcome.reasons)
                    else f", P(manipulated) {probability(outcome.score)}"
                )
                self._say(f"{outcome.name}: {outcome.label}{score}")
        elif isinstance(event, RunStarted):
            self._last = time.monotonic()
            pool_info = event.pool_info
            if not self._watching or self._verbose:
                files = file_count(event.total)
                self._say(f"{files}, {pool_info.slots} at once, engine {pool_info.engine}")
        elif isinstance(event, RunStopping):
            one = event.in_flight == 1
            self._say(
                f"stopping: {file_count(event.in_flight)} in flight {'is' if one else 'are'} "
                "finished first; press Ctrl-C again to end at once"
            )
        elif isinstance(event, Heartbeat) and time.monotonic() - self._last >= self._every:
            self._say(self.tally.line())
            self._last = time.monotonic()

    def _say(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(f"deepscan: {visible(text)}\n")
            self._stream.flush()
        except OSError:
            self._stream = None  # the reader has gone; the run continues


def open_view(
    stream: TextIO | None, *, quiet: bool, verbose: bool = False, watching: bool = False
) -> View:
    """Choose the view for a stream, which is stderr; the other arguments as in `PlainLog`."""
    if quiet or stream is None:
        return View()
    if stream.isatty() and not verbose:
        return LiveView()
    return PlainLog(stream, verbose=verbose, watching=watching)


def bottleneck(busy: Mapping[str, float]) -> str:
    """The name of the stage that took the most time; "" if none is known."""
    if not busy or max(busy.values()) <= 0:
        return ""
    stage = max(busy, key=lambda each: busy[each])
    return STAGES.get(stage, stage)


def duration(seconds: float) -> str:
    """Format a duration in at most two units: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
