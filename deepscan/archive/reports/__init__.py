"""What is derived from a results folder, and the two things that every report needs.

A report is a function of `Results`: written twice, it says the same. It appears whole under its
name or not at all, so that whoever reads a folder while a run goes on never sees half a table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from deepscan.errors import OutputError
from deepscan.publish import aside, publish, whole_or_absent
from deepscan.sinks.record import name_bytes
from deepscan.types import Label

GRAVITY = (
    Label.MANIPULATED,
    Label.SUSPICIOUS,
    Label.INCONCLUSIVE,
    Label.ERROR,
    Label.NO_EVIDENCE,
    Label.NOT_APPLICABLE,
)
"""Labels by how much they ask of a person, the most first."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write under; the file takes its real name `path` when the block ends well.

    Raises:
        OutputError: the file cannot be written; nothing of it is left.
    """
    part = aside(path)
    with whole_or_absent({"report": (part, path)}):
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            told = error.strerror or error
            raise OutputError(f"{path} cannot be written: {told}") from error
        publish({"report": (part, path)})


def utf8(text: str) -> str:
    """A text that can be encoded: what stands for a byte that is no UTF-8 becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def inside(path: str) -> bool:
    """Whether a path of the journal can only lead to a file below the results folder."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts


def address(path: str) -> str:
    """A relative "/"-separated path as a URI reference: every byte but the plainest is encoded."""
    return quote(name_bytes(path), safe="/")
