"""Shows the progress of the scan of one file on stderr: a bar on a terminal, else lines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from deepscan.cli.console import is_terminal, print_message
from deepscan.wording import visible

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from deepscan.scan.scanner import Progress


class Silence:
    """Shows nothing, for --quiet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no resource is open."""

    def of(self, path: Path) -> Progress:
        """What a scan of that file is to call after every frame."""
        return lambda stage, frames, seconds, duration: None

    def finish(self) -> None:
        """Do nothing: nothing is shown."""


class Bar(Silence):
    """Redraws one line: stage, share done, frames per second, time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._task: TaskID | None = None
        self._bar: RichProgress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]:>5.1f} frames/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # it would send the answer to stderr
        )

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def of(self, path: Path) -> Progress:
        """What a scan of that file is to call after every frame."""
        stage_now = ""
        began = 0.0

        def tell(stage: str, frames: int, seconds: float, duration: float | None) -> None:
            nonlocal stage_now, began
            if stage != stage_now:
                self.finish()
                self._bar.start()
                stage_now, began = stage, time.monotonic()
                self._task = self._bar.add_task(
                    f"{visible(path.name)}: {stage}", total=duration, rate=0.0
                )
            assert self._task is not None
            spent = max(time.monotonic() - began, 1e-3)
            self._bar.update(self._task, completed=seconds, rate=frames / spent)

        return tell

    def finish(self) -> None:
        """Remove the line."""
        if self._task is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)
            self._task = None


class Lines(Silence):
    """Prints a line every ten seconds, for logs and pipes."""

    def __init__(self) -> None:
        from deepscan.archive.progress import EVERY, duration

        self._every, self._in_words = EVERY, duration
        self._last = time.monotonic()

    def of(self, path: Path) -> Progress:
        """What a scan of that file is to call after every frame."""
        # Start of the stage, or of another reading of the file: wall time, frames, media time.
        stage_now, began, base, start = "", 0.0, 0, 0.0
        before = 0

        def tell(stage: str, frames: int, seconds: float, duration: float | None) -> None:
            nonlocal stage_now, began, base, start, before
            now = time.monotonic()
            if stage != stage_now or frames < before:
                stage_now, began, base, start = stage, now, frames, seconds
            before = frames
            if now - self._last < self._every:
                return
            self._last = now
            text = f"{path.name}: {stage}, {frames:,} frame{'' if frames == 1 else 's'}"
            if frames > base and now > began:
                text += f", {(frames - base) / (now - began):.1f} frames/s"
                if duration is not None and seconds > start:
                    left = max(0.0, duration - seconds) * (now - began) / (seconds - start)
                    text += f", {self._in_words(left)} left"
            print_message(text)

        return tell


def open_progress(stream: TextIO | None, *, quiet: bool) -> Silence:
    """Choose the display for a stream, which is stderr. Use it with `with`."""
    if quiet or stream is None:
        return Silence()
    return Bar() if is_terminal(stream) else Lines()
