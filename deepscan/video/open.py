"""Opens a file with the reader that fits, in this process or in a worker process."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from deepscan.errors import DecoderCrash, DecoderHang, LimitError
from deepscan.video.contract import ReadOptions, VideoReader
from deepscan.video.embedded import cut_out
from deepscan.video.formats import still_format
from deepscan.video.input_file import open_source
from deepscan.video.isolation.reader import IsolatedReader
from deepscan.video.readers.choose import choose_reader, may_need_decord
from deepscan.video.readers.fallback import FallbackReader


def open_reader(path: Path, options: ReadOptions, stream: int, *, isolate: bool) -> VideoReader:
    """Open a file; see `deepscan.video.open_video`."""
    make: Callable[..., VideoReader] = IsolatedReader if isolate else choose_reader
    with ExitStack() as held:
        source = open_source(path, options.limits, stream)
        held.callback(os.close, source.descriptor)
        if stream and still_format(source) is not None:
            source = cut_out(source, options.limits)
            held.callback(os.close, source.descriptor)

        def reopen(why: str) -> VideoReader:
            return make(source, replace(options, decoder="pyav", reason=why))

        try:
            reader = make(source, options)
        except (DecoderCrash, DecoderHang, LimitError) as error:
            native = not isinstance(error, LimitError) or error.reason == "limit_memory"
            if options.decoder != "auto" or not native or not may_need_decord(source, "auto"):
                raise
            reader = reopen(f"a decoder failed on opening the file: {error}")
        return FallbackReader(reader, reopen if options.decoder == "auto" else None, held.pop_all())
