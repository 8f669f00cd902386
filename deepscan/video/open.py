"""Opens a file and its reader, in this process or behind a worker process."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from deepscan.errors import DecoderCrash, DecoderHang, LimitError
from deepscan.options import Decoder, Limits
from deepscan.types import Frame, ReadReport, VideoInfo
from deepscan.video.contract import VideoReader
from deepscan.video.embedded import cut_out
from deepscan.video.input_file import open_source, still_format
from deepscan.video.isolation.reader import IsolatedReader
from deepscan.video.readers.choose import choose_reader, may_need_decord
from deepscan.video.readers.fallback import FallbackReader


def open_reader(
    path: Path, decoder: Decoder, limits: Limits, stream: int, *, isolate: bool, planes: bool
) -> VideoReader:
    """Open a file and its reader; see `deepscan.video.open_video`."""
    make: Callable[..., VideoReader] = IsolatedReader if isolate else choose_reader
    with ExitStack() as held:
        source = open_source(path, limits, stream)
        held.callback(os.close, source.descriptor)
        if stream and still_format(source) is not None:
            source = cut_out(source, limits)
            held.callback(os.close, source.descriptor)

        def reopen(why: str) -> VideoReader:
            return make(source, "pyav", limits, reason=why, planes=planes)

        try:
            reader = make(source, decoder, limits, planes=planes)
        except (DecoderCrash, DecoderHang, LimitError) as error:
            native = not isinstance(error, LimitError) or error.reason == "limit_memory"
            if decoder != "auto" or not native or not may_need_decord(source, decoder):
                raise
            reader = reopen(f"a decoder failed on opening the file: {error}")
        if decoder == "auto":
            reader = FallbackReader(reader, reopen)
        held.push(reader)
        return OpenedReader(reader, held.pop_all())


class OpenedReader:
    """A reader together with the descriptor that it reads from."""

    def __init__(self, reader: VideoReader, held: ExitStack) -> None:
        self._reader = reader
        self._close = weakref.finalize(self, held.close)  # also for one that nobody closes

    @property
    def info(self) -> VideoInfo:
        return self._reader.info

    def frames(self) -> Iterator[Frame]:
        return self._reader.frames()

    def report(self) -> ReadReport:
        return self._reader.report()

    def close(self) -> None:
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
