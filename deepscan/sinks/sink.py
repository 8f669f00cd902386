"""The sink contract: how one file about a scanned file is written.

Sinks run in a second pass, when the verdict is known. One sink writes one file, which may be
hashed, listed in the record and renamed as a whole; pictures of single frames do not fit this.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from deepscan.types import FrameResult, Output, Scan


class Sink(Protocol):
    """Writes one file. `path` is a temporary name; the caller renames it when all is done.

    `suffix` is what the file's name ends with. `needs_images` is False if the sink never looks at
    `FrameResult.frame.image` and `.planes`, which then may be missing. A frame has one of them.

    A sink may have `notes`, a tuple of sentences: what of the source its file could not keep as it
    was. They stand in the record and on the page.

    The constructor takes the path and the scan with its verdict.
    """

    suffix: ClassVar[str]
    needs_images: ClassVar[bool]

    def __init__(self, path: Path, scan: Scan) -> None: ...

    def write(self, result: FrameResult) -> None:
        """Take the next frame's result, in order.

        Raises:
            OutputError: the file cannot be written.
        """
        ...

    def close(self, made: tuple[Output, ...] = ()) -> None:
        """Complete the file; also after zero frames.

        `made` are the files that sinks before it have finished, under their final names, for those
        that list them.

        Raises:
            OutputError: the file cannot be written.
        """
        ...

    def abort(self) -> None:
        """Give up: release what is held. Never raises; the caller removes the file."""
        ...
