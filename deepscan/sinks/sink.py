"""The sink contract and the table of sinks: what is written about one scanned file.

Sinks run in a second pass, when the verdict is known. To add one, write one file with a class that
has this shape and add one line to `SINKS`; the conformance suite in tests/sinks/ runs over it.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from deepscan.types import FrameResult, Output, Scan


class Sink(Protocol):
    """Writes one kind of file. `path` is a temporary name; the caller renames it when all is done.

    `suffix` is what the file's name ends with. `needs_images` is False if the sink never looks at
    `FrameResult.frame.image`, which then may be empty.

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


SINKS: dict[str, str] = {
    "overlay": "deepscan.sinks.overlay:OverlaySink",
    "masks": "deepscan.sinks.masks:MaskSink",
    "frames": "deepscan.sinks.frames:FramesSink",
    "html": "deepscan.sinks.html:HtmlSink",
    "record": "deepscan.sinks.record:RecordSink",
}
"""In the order in which they are written: the record comes last, since it lists the others."""
