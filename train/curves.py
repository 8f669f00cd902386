"""The curves of a run as a picture: `python -m train.curves RUN` draws RUN/curves.png anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepscan.errors import DeepscanError, UsageError
from train.progress import read_log

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
    part = out.with_suffix(".part")
    figure.savefig(part, format="png", dpi=100)
    part.replace(out)


def main(run: Annotated[Path, typer.Argument(help="Folder of a run, with log.csv")]) -> None:
    """Draw the curves of a run."""
    try:
        draw_curves(run / "log.csv", run / "curves.png")
    except DeepscanError as error:
        typer.echo(f"curves: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"wrote {run / 'curves.png'}")


if __name__ == "__main__":
    typer.run(main)
