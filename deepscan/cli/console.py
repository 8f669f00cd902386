"""The console: answers on stdout, messages and log on stderr, errors as exit codes.

File names are untrusted: control characters in them are spelled out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import typer

from deepscan.errors import DeepscanError, OutputError, reason_of
from deepscan.exit_codes import ERROR
from deepscan.wording import visible


def print_line(text: str) -> None:
    """Print an answer on stdout; a closed pipe is ignored, since the exit code still counts.

    Raises:
        OutputError: the disk is full.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence_stdout()
    except OSError as error:
        silence_stdout()
        raise OutputError(f"the answer cannot be written to stdout: {error.strerror}") from error


def print_json(values: Any) -> None:
    """Print an answer as one line of JSON."""
    print_line(json.dumps(values, sort_keys=True, allow_nan=False, default=str))


def print_answer(format_: str, values: Any, lines: Iterable[str]) -> None:
    """Print values as JSON, or the lines that say the same to people."""
    if format_ == "json":
        print_json(values)
        return
    for line in lines:
        print_line(line)


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a framed table on a terminal, elsewhere plain columns."""
    rows = [[visible(cell) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        from rich.console import Console
        from rich.table import Table

        table = Table(*head, title=visible(title))
        for row in rows:
            table.add_row(*row)
        Console(markup=False).print(table)
        return
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    print_line(visible(title))
    for row in [head, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print_line(f"  {'  '.join(cells).rstrip()}")


def print_message(text: str) -> None:
    """Print a message of deepscan on stderr."""
    print_aside(visible(f"deepscan: {text}"))


def print_aside(text: str) -> None:
    """Print a line on stderr; errors are ignored, since the exit code still counts."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def is_terminal(stream: TextIO | None) -> bool:
    """True if the stream is a terminal."""
    return stream is not None and stream.isatty()


def silence_stdout() -> None:
    """Redirect stdout to the null device: Python flushes it once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def errors(*, debug: bool = False) -> Iterator[None]:
    """End the command with one line and exit code 2 on an error of deepscan."""
    try:
        yield
    except (DeepscanError, PermissionError) as error:  # a folder on the way may be locked
        if debug:
            traceback.print_exc()
        locked = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print_message(f"{locked}{reason_of(error)}")
        raise typer.Exit(ERROR) from error
    except BrokenPipeError as error:
        # Typer would take it for a closed stdout and exit with 1, which means "manipulated".
        raise RuntimeError("a pipe broke inside the command") from error


def log_to_stderr(*, quiet: bool = False, debug: bool = False) -> None:
    """Show warnings of deepscan on stderr; only errors if `quiet`, everything if `debug`."""
    level = logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=logging.WARNING, handlers=[_handler()])
    logging.getLogger("deepscan").setLevel(level)


def show_steps() -> None:
    """Show the steps of a build on stderr: it takes minutes."""
    steps = logging.getLogger("deepscan.engines.steps")
    if not steps.handlers:
        steps.addHandler(_handler())
    steps.setLevel(logging.INFO)
    steps.propagate = False


def _handler() -> logging.Handler:
    handler = _StderrHandler()
    handler.setFormatter(_SafeFormatter("deepscan: %(message)s"))
    return handler


class _SafeFormatter(logging.Formatter):
    """Spells out control characters in log lines, which contain file names."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return visible(super().formatMessage(record))


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a live view replaces for a while."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        """Do nothing: the stream is always `sys.stderr`."""
