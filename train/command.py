"""Common options of the training commands, and their exit on an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from deepscan.errors import DeepscanError, UsageError

Progress = Callable[[str], None]
"""Receives one line each time a step of a long work is done."""

Faces = Annotated[Path, typer.Option(help="Folder of faces with provenance.csv")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
Threads = Annotated[int, typer.Option(min=0, help="Threads of torch on a CPU; 0: all cores")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that make samples")]
Pack = Annotated[
    Path | None,
    typer.Option("--pack", "--decoded", help="Pack of redrawn faces, from train.forge.build_pack"),
]


@contextmanager
def exit_on_error(command: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn an error of deepscan, or one of `kinds`, into one line on stderr and exit code 2."""
    caught: tuple[type[Exception], ...] = (DeepscanError, *kinds)
    try:
        yield
    except caught as error:
        typer.echo(f"{command}: {error}", err=True)
        raise typer.Exit(2) from error


def show_progress(line: str) -> None:
    """Write a line for people to stderr."""
    typer.echo(line, err=True)


def use_threads(threads: int) -> None:
    """Set the threads of torch; 0 leaves its default. OpenCV starts none of its own.

    OpenCV's pool does not survive the fork of processes that make samples.
    """
    import cv2
    import torch

    cv2.setNumThreads(0)
    if threads:
        torch.set_num_threads(threads)


def check_folder_of(out: Path) -> None:
    """
    Raises:
        UsageError: the folder that a file is to be written into does not exist.
    """
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: no such folder to write {out.name} into")
