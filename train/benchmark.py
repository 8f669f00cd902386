"""Benchmarks as commands: `python -m train.benchmark tables EVALUATION... --out FILE.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepscan.errors import DeepscanError, UsageError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback()
def _command() -> None:
    """How good the networks are, beside what others have published."""


@app.command()
def tables(
    evaluations: Annotated[
        list[Path] | None, typer.Argument(help="Files of train.evaluate, or folders of them")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file; without it, stdout")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A1 to A10 or a source's table; may be repeated")
    ] = None,
) -> None:
    """Fill the tables of MSCCNet's paper and of the field from evaluation files."""
    from train.tables import document, read_evaluations

    try:
        text = document(read_evaluations(evaluations or []), only or [])
        if out is None:
            typer.echo(text, nl=False)
            return
        if not out.parent.is_dir():
            raise UsageError(f"{out.parent}: no such folder to write {out.name} into")
        out.write_text(text, "utf-8")
    except DeepscanError as error:
        typer.echo(f"benchmark: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"tables: {out}", err=True)


if __name__ == "__main__":
    app()
