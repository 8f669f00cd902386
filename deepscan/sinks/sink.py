"""The sink contract: a sink writes one file about one scanned file.

Sinks run in the second pass, when the verdict is known. One sink writes one file, which is hashed,
listed in the record and renamed when complete; a picture per frame does not fit this contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from deepscan.types import FrameResult, Output, Scan


class Sink(Protocol):
    """Writes one file. `path` is a temporary name; the caller renames the file at the end.

    `suffix` is the end of the file's name. `needs_images` is False if the sink never uses
    `FrameResult.frame.image` and `.planes`, which then may be missing. A frame has one of the two.

    A sink may have `notes`, a tuple of sentences on parts of the source that its file could not
    keep. They appear in the record and on the page.

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

        `made` lists the files of earlier sinks under their final names.

        Raises:
            OutputError: the file cannot be written.
        """
        ...

    def abort(self) -> None:
        """Give up and release all resources. Never raises; the caller removes the file."""
        ...
