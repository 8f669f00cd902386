"""The second pass: reads the results of a scan again and writes its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from deepscan.files import atomic_outputs, finished
from deepscan.options import Decoder
from deepscan.scan.frame_store import FrameStore
from deepscan.scan.pipeline import fan_out, prefetch
from deepscan.scan.timing import Stopwatch
from deepscan.sinks import SINKS, sink_class
from deepscan.sinks.pictures import Pictures
from deepscan.sinks.sink import Sink
from deepscan.types import Frame, Output, Scan
from deepscan.video.contract import VideoReader


def write_outputs(
    scan: Scan,
    paths: Mapping[str, Path],
    store: FrameStore | None,
    open_again: Callable[..., VideoReader],
    watch: Stopwatch,
    progress: Callable[[str, int, float, float | None], None],
    pictures: Pictures | None = None,
) -> tuple[Output, ...]:
    """Write all outputs in one pass, then the record; then rename all to their final names.

    Args:
        paths: sink name -> file.
        store: the results of the first pass; None only if there are no paths.
        open_again: opens the input with a decoder and `planes`, as in `open_video`.
        pictures: those of the page from the first pass; without them it reads the input again.

    Raises:
        OutputError: an output cannot be written; none is kept.
        CorruptError: the input differs from the first pass.
    """
    paths = {kind: paths[kind] for kind in SINKS if kind in paths}
    made: tuple[Output, ...] = ()
    with atomic_outputs(paths) as parts:
        with ExitStack() as held:
            sinks: dict[str, Sink] = {}
            for kind, part in parts.items():
                if kind != "record":
                    made_with = {"pictures": pictures} if kind == "html" and pictures else {}
                    sinks[kind] = sink_class(kind)(part, scan, **made_with)
                    held.callback(sinks[kind].abort)
            if sinks and store is not None:
                shown = {kind for kind, sink in sinks.items() if sink.needs_images}
                again = open_again if shown - ({"html"} if pictures else set()) else None
                _feed(scan, store, sinks, again, watch, progress)
            for kind, sink in sinks.items():
                with watch.measure(kind):
                    sink.close(made)
                output = finished(kind, parts[kind], paths[kind])
                made += (replace(output, notes=getattr(sink, "notes", ())),)
            held.pop_all()
        if "record" in parts:
            timed = replace(scan, timings=watch.timings)
            sink_class("record")(parts["record"], timed).close(made)
            made += (finished("record", parts["record"], paths["record"]),)
    return made


def _feed(
    scan: Scan,
    store: FrameStore,
    sinks: Mapping[str, Sink],
    open_again: Callable[..., VideoReader] | None,
    watch: Stopwatch,
    progress: Callable[[str, int, float, float | None], None],
) -> None:
    """Pass every result to every sink, with pictures if the input is opened again."""
    with ExitStack() as held:
        frames: Iterator[Frame] | None = None
        if open_again is not None:
            # Use the decoder of the first pass.
            decoder = scan.report.decoder
            still = scan.verdict.video is not None and scan.verdict.video.still
            again: Decoder = "decord" if decoder == "decord" else "auto" if still else "pyav"
            reader = held.enter_context(open_again(again, planes=True))
            frames = held.enter_context(
                closing(prefetch(watch.each("decode again", reader.frames())))
            )
        duration = scan.verdict.coverage.seconds
        writing = [watch.around(kind, sink.write) for kind, sink in sinks.items()]
        handed = held.enter_context(closing(fan_out(store.replay(frames), writing)))
        for done, result in enumerate(handed, start=1):
            progress("writing", done, result.frame.time, duration)
