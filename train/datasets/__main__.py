"""The command `python -m train.datasets check DIR [--name N]`: lists present and missing parts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from train.command import exit_on_error
from train.datasets import DATASETS, DataSet, LayoutError, Sample, Truth, open_dataset

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback()
def _command() -> None:
    """Data sets to train and test on."""


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    name: Annotated[str | None, typer.Option(help=f"One of: {', '.join(DATASETS)}.")] = None,
) -> None:
    """List the present and missing parts of a data set in one table.

    Without a name the first data set whose layout fits is taken. Exit code 0: every split that is
    there has samples; 2: the layout is wrong, or a split is empty or its list missing.
    """
    with exit_on_error("datasets"):
        names = [name] if name is not None else _fitting(folder)
        dataset = open_dataset(names[0], folder)
        typer.echo(_table(names[0], dataset))
        if names[1:]:
            typer.echo(f"also fits: {', '.join(names[1:])} (choose with --name)")
        for split in dataset.splits:
            if next(dataset.samples(split), None) is None:
                raise LayoutError(f"{folder}: split {split}: expected samples; found none")


def _fitting(folder: Path) -> list[str]:
    """The data sets whose layout fits, at least one."""
    fitting = []
    for name in DATASETS:
        try:
            open_dataset(name, folder)
        except LayoutError:
            continue
        fitting.append(name)
    if not fitting:
        raise LayoutError(
            f"{folder}: expected one of {', '.join(DATASETS)}; found the layout of none of them "
            "(with --name, what that one expects is said)"
        )
    return fitting


def _table(name: str, dataset: DataSet) -> str:
    rows = [("part", "found", "expected", "state")]
    for part in dataset.parts():
        expected = "?" if part.expected is None else str(part.expected)
        rows.append((part.name, str(part.found), expected, part.state))
    for split in dataset.splits:
        try:
            counts = Counter(_kind(sample) for sample in dataset.samples(split))
        except LayoutError:
            counts = Counter()
        summary = f"{counts['real']} real, {counts['fake']} fake, {counts['masked']} with masks"
        total = counts["real"] + counts["fake"] + counts["masked"]
        rows.append((f"split {split}", str(total), "?", summary if total else "missing"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{part:<{widths[0]}}  {found:>{widths[1]}}  {expected:>{widths[2]}}  {state}"
        for part, found, expected, state in rows
    ]
    return "\n".join([name, *lines])


def _kind(sample: Sample) -> str:
    if sample.label == 0:
        return "real"
    return "fake" if sample.truth is Truth.NONE else "masked"


if __name__ == "__main__":
    app()
