"""Sinks write what a scan found in one file, one kind of file each.

To add one, write one file with a class that has the shape of `deepscan.sinks.sink.Sink`, and add
one line each to `SINKS`, `KINDS` in cli/arguments.py (its name in --write), and `_KINDS` in
archive/reports/html.py (its link); the conformance suite in tests/sinks/ runs over it. Archives
write it by default if it is in `WRITE` or `WRITE_FOUND` in archive/options.py.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from deepscan.errors import UsageError

if TYPE_CHECKING:
    from deepscan.sinks.sink import Sink

SINKS: dict[str, str] = {
    "overlay": "deepscan.sinks.overlay:OverlaySink",
    "masks": "deepscan.sinks.masks:MaskSink",
    "frames": "deepscan.sinks.frames:FramesSink",
    "html": "deepscan.sinks.html:HtmlSink",
    "record": "deepscan.sinks.record:RecordSink",
}
"""Name -> class, in writing order: the record comes last, since it lists the other files."""


def sink_class(kind: str) -> type[Sink]:
    """The class of a sink.

    Raises:
        UsageError: there is no sink of that name.
    """
    if kind not in SINKS:
        raise UsageError(f"no output {kind!r}; there are {', '.join(SINKS)}")
    found: type[Sink] = resolve_name(SINKS[kind])
    return found
