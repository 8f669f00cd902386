"""Benchmarks as commands: `python -m train.benchmarks tables | scan | memory | engines`.

Each prints a table for people; all but `tables` then print one line of JSON for scripts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepscan.errors import UsageError
from deepscan.options import DEFAULT_MODEL
from train.command import Device, check_folder_of, exit_on_error, show_progress

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback()
def _command() -> None:
    """Compare networks with published figures; measure speed and memory of a scan."""


@app.command()
def tables(
    evaluations: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of train.evaluation.evaluate, or folders of them"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file; without it, stdout")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A1 to A10 or a source's table; may be repeated")
    ] = None,
) -> None:
    """Fill the tables of MSCCNet's paper and of the field from evaluation files."""
    from train.benchmarks.paper_tables import document, read_evaluations

    with exit_on_error("benchmark"):
        text = document(read_evaluations(evaluations or []), only or [])
        if out is None:
            typer.echo(text, nl=False)
            return
        check_folder_of(out)
        out.write_text(text, "utf-8")
    typer.echo(f"tables: {out}", err=True)


@app.command()
def scan() -> None:
    """Measure whole scans beside the baseline, CPU time by stage, and start-up: docs/speed.md."""
    from train.benchmarks.scan import measure

    with exit_on_error("benchmark"):
        speed = measure(show_progress)
    typer.echo(speed.table())
    typer.echo(speed.to_json())


@app.command()
def memory(
    minutes: Annotated[float, typer.Option(help="Length of the generated 1080p file")] = 20.0,
    rate: Annotated[int, typer.Option(help="Its frames per second", min=1)] = 25,
) -> None:
    """Check that the memory of a scan stays flat on a long file (Linux)."""
    from train.benchmarks.memory import measure

    with exit_on_error("benchmark"):
        held = measure(minutes, rate)
    typer.echo(held.table())
    typer.echo(held.to_json())


@app.command()
def engines(
    device: Device = "cpu",
    models: Annotated[str, typer.Option(help="Models, separated by commas")] = DEFAULT_MODEL,
    batches: Annotated[str, typer.Option(help="Batches, separated by commas")] = "1,8,32,64",
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement", min=0.01)] = 0.5,
) -> None:
    """Crops per second of every engine on a device, and its share of the matrix ceiling there."""
    from train.benchmarks.engines import measure

    sizes = batches.split(",")
    with exit_on_error("benchmark"):
        if not all(size.isdigit() and int(size) for size in sizes):
            raise UsageError(f"batches {batches!r} are no numbers such as 1,8,32")
        speed = measure(device, models.split(","), [int(size) for size in sizes], seconds=seconds)
    typer.echo(speed.table())
    typer.echo(speed.to_json())


if __name__ == "__main__":
    app()
