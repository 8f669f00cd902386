"""The progress bar on stderr: stage, share done, frames per second, time left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from deepscan.sinks.wording import visible

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from deepscan.scan.scanner import Progress


class Bar:
    """One line that is redrawn; nothing at all when not enabled."""

    def __init__(self, *, enabled: bool) -> None:
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        if enabled:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[rate]:>5.1f} frames/s"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def of(self, path: Path) -> Progress:
        """What a scan of that file is to call after every frame."""
        stage_now = ""
        began = 0.0

        def tell(stage: str, frames: int, seconds: float, duration: float | None) -> None:
            nonlocal stage_now, began
            if self._bar is None:
                return
            if stage != stage_now:
                self.finish()
                stage_now, began = stage, time.monotonic()
                self._task = self._bar.add_task(
                    f"{visible(path.name)}: {stage}", total=duration, rate=0.0
                )
            assert self._task is not None
            spent = max(time.monotonic() - began, 1e-3)
            self._bar.update(self._task, completed=seconds, rate=frames / spent)

        return tell

    def finish(self) -> None:
        """Take the line away."""
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
