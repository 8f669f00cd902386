"""Chooses the reader of a file, and opens it in this process or behind a worker process."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Self

from deepscan.errors import DecoderCrash, DecoderHang, LimitError, UnsupportedError
from deepscan.options import Decoder, Limits
from deepscan.types import Frame, ReadReport, VideoInfo
from deepscan.video.contract import READERS, VideoReader
from deepscan.video.embedded import cut_out
from deepscan.video.input_file import Source, open_source, still_format
from deepscan.video.isolation.reader import IsolatedReader
from deepscan.video.readers.fallback import TakeoverReader

SAFE = "the safe choice"


def choose_reader(
    source: Source,
    decoder: Decoder,
    limits: Limits,
    *,
    reason: str | None = None,
    beat: Callable[[], None] | None = None,
) -> VideoReader:
    """Open the reader that fits the file and the wish; it leaves `source` open.

    `reason` is why `decoder` was named, None if a person asked for it.

    Raises:
        UnsupportedError: decord was asked for and is not trusted with this file.
        VideoError: the file cannot be read at all.
    """
    kind = still_format(source)
    if kind is not None:
        from deepscan.video.readers.animation import AnimationReader, is_animated
        from deepscan.video.readers.still import StillReader

        if decoder not in ("auto", "pyav"):
            raise UnsupportedError(f"{source.path}: {decoder} does not read still pictures")
        if is_animated(source, kind, limits):
            return AnimationReader(source, kind, limits=limits, beat=beat)
        return StillReader(source, kind, limits=limits)
    if decoder != "auto":
        return _load(decoder)(
            source.path, limits=limits, source=source, reason=reason or "asked for", beat=beat
        )
    return _choose_best(source, limits, beat)


def _choose_best(source: Source, limits: Limits, beat: Callable[[], None] | None) -> VideoReader:
    from deepscan.video.readers.pyav import PyAVReader

    if not may_need_decord(source, "auto"):
        return PyAVReader(source.path, limits=limits, source=source, reason=SAFE, beat=beat)
    from deepscan.video.readers.decord import DecordReader, DistrustError, objection

    pyav = PyAVReader(source.path, limits=limits, source=source, reason=SAFE, beat=beat)
    why = objection(pyav.info, pyav.probe, source.size)
    if why is not None:
        pyav.because(why)
        return pyav
    pyav.close()
    proven = "short and plain; its first frames are those of PyAV"
    try:
        return DecordReader(source.path, limits=limits, source=source, reason=proven, beat=beat)
    except DistrustError as error:
        return PyAVReader(source.path, limits=limits, source=source, reason=error.why, beat=beat)


def may_need_decord(source: Source, decoder: Decoder) -> bool:
    """Whether decord might be asked to read this file: a look at its first bytes and its size."""
    if decoder == "pyav":
        return False
    from deepscan.video.readers.decord import is_installed, may_fit

    return is_installed() if decoder == "decord" else may_fit(source)


def open_here(path: Path, decoder: Decoder, limits: Limits, stream: int = 0) -> VideoReader:
    """Open a file and its reader in this process, without isolation."""

    def opening(source: Source, wish: Decoder, reason: str | None) -> VideoReader:
        return choose_reader(source, wish, limits, reason=reason)

    return _open(path, decoder, limits, opening, stream)


def open_isolated(path: Path, decoder: Decoder, limits: Limits, stream: int = 0) -> VideoReader:
    """Open a file and let a worker process read it."""

    def opening(source: Source, wish: Decoder, reason: str | None) -> VideoReader:
        return IsolatedReader(source, wish, limits, reason=reason)

    return _open(path, decoder, limits, opening, stream)


def _open(
    path: Path,
    decoder: Decoder,
    limits: Limits,
    opening: Callable[[Source, Decoder, str | None], VideoReader],
    stream: int = 0,
) -> VideoReader:
    with ExitStack() as held:
        source = open_source(path, limits, stream)
        held.callback(os.close, source.descriptor)
        if stream and still_format(source) is not None:
            source = cut_out(source, limits)
            held.callback(os.close, source.descriptor)

        def reopen(why: str) -> VideoReader:
            return opening(source, "pyav", why)

        try:
            reader = opening(source, decoder, None)
        except (DecoderCrash, DecoderHang, LimitError) as error:
            native = not isinstance(error, LimitError) or error.reason == "limit_memory"
            if decoder != "auto" or not native or not may_need_decord(source, decoder):
                raise
            reader = reopen(f"a decoder failed on opening the file: {error}")
        if decoder == "auto":
            reader = TakeoverReader(reader, reopen)
        held.push(reader)
        return OpenedReader(reader, held.pop_all())


def _load(name: str) -> Callable[..., VideoReader]:
    module, _, attribute = READERS[name].partition(":")
    reader: Callable[..., VideoReader] = getattr(import_module(module), attribute)
    return reader


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
