"""Output of a running training: log.csv, a live table or plain lines, and its curves.

`python -m train.progress RUN` draws RUN/curves.png anew.
"""

from __future__ import annotations

import csv
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deepscan.errors import UsageError
from deepscan.files import atomic_output
from train.command import exit_on_error

COLUMNS = ("time", "step", "size", "loss", "rate", "speed", "auc", "iou")
_SHOWN = 8  # lines of the live table


class Log:
    """log.csv: one line for every few steps, one for every validation. `speed` is crops a second.

    A resumed run drops the lines logged after its checkpoint: those steps come again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows = read_log(path)
        kept = [row for row in rows if float(row["step"]) <= step]
        if path.exists() and len(kept) == len(rows):
            return
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)

    def write(self, **values: float) -> None:
        row = [round(time.time(), 1) if c == "time" else values.get(c, "") for c in COLUMNS]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log.csv, [] where there is none; a last line cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("iou") is not None and row["step"]]


class Display:
    """Show a run on stderr: the last lines as a table with the time left, or plain lines."""

    def __init__(self, steps: int, live: Live | None) -> None:
        self._steps = steps
        self._live = live
        self._rows: deque[tuple[str, ...]] = deque(maxlen=_SHOWN)
        self._held = ""

    def step(
        self, step: int, size: int, loss: float, rate: float, speed: float, left: float
    ) -> None:
        """A step with its numbers; `left` in seconds."""
        if self._live is None:
            self.say(
                f"step {step}/{self._steps}: {size} px, loss {loss:.4f}, rate {rate:.2e}, "
                f"{speed:.1f} crops/s, {_time(left)} left"
            )
            return
        cells = (str(step), f"{size}", f"{loss:.4f}", f"{rate:.2e}", f"{speed:.1f}", _time(left))
        self._rows.append(cells)
        self._draw(self._live)

    def validated(self, step: int, text: str) -> None:
        self._held = f"step {step}: {text}"
        if self._live is None:
            self.say(self._held)
        else:
            self._draw(self._live)

    def say(self, text: str) -> None:
        if self._live is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._live.console.print(Text(text))

    def _draw(self, live: Live) -> None:
        table = Table(title=f"{self._steps} steps", title_justify="left")
        for name in ("step", "side, px", "loss", "rate", "crops/s", "left"):
            table.add_column(name, justify="right")
        for row in self._rows:
            table.add_row(*row)
        live.update(Group(table, Text(self._held)), refresh=True)


@contextmanager
def display(steps: int) -> Iterator[Display]:
    """A live table if stderr is a terminal, else plain lines."""
    if not sys.stderr.isatty():
        yield Display(steps, None)
        return
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield Display(steps, live)


def _time(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


PANELS = (
    ("loss", ("loss",)),
    ("learning rate", ("rate",)),
    ("held out", ("auc", "iou")),
    ("crops a second", ("speed",)),
)


def draw_curves(log: Path, out: Path) -> None:
    """Draw loss, learning rate, held-out measures and speed over the steps of a log.csv.

    Raises:
        UsageError: there is no such log, or nothing in it.
    """
    # The object interface: no window system, no state of the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_log(log)
    if not rows:
        raise UsageError(f"{log}: no log of a run, or nothing in it yet")
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for name in names:
            points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
            if points:
                marker = "o" if len(points) < 60 else ""
                axes.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(names) > 1 and axes.lines:
            axes.legend()
            axes.set_ylim(0, 1)
    with atomic_output(out) as part:
        figure.savefig(part, format="png", dpi=100)


def main(run: Annotated[Path, typer.Argument(help="Folder of a run, with log.csv")]) -> None:
    """Draw the curves of a run."""
    with exit_on_error("curves"):
        draw_curves(run / "log.csv", run / "curves.png")
    typer.echo(f"wrote {run / 'curves.png'}")


if __name__ == "__main__":
    typer.run(main)
