"""Chooses the reader for a file and opens it in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pkgutil import resolve_name

from deepscan.errors import UnsupportedError
from deepscan.options import Decoder, Limits
from deepscan.video.contract import ReadOptions, VideoReader
from deepscan.video.formats import still_format
from deepscan.video.input_file import Source
from deepscan.video.readers import READERS

SAFE = "the safe choice"


def choose_reader(
    source: Source, options: ReadOptions, beat: Callable[[], None] | None = None
) -> VideoReader:
    """Open the reader for a file; it leaves `source` open.

    Raises:
        UnsupportedError: decord was requested and is not trusted with this file.
        VideoError: the file cannot be read.
    """
    kind, decoder, limits = still_format(source), options.decoder, options.limits
    if kind is not None:
        from deepscan.video.readers.animation import AnimationReader, is_animated
        from deepscan.video.readers.still import StillReader

        if decoder not in ("auto", "pyav"):
            raise UnsupportedError(f"{source.path}: {decoder} does not read still pictures")
        if is_animated(source, kind, limits):
            return AnimationReader(source, kind, limits=limits, beat=beat)
        return StillReader(source, kind, limits=limits)
    if decoder != "auto":
        reader: Callable[..., VideoReader] = resolve_name(READERS[decoder])
        return reader(source, options, beat)
    return _choose_best(source, limits, beat)


def _choose_best(source: Source, limits: Limits, beat: Callable[[], None] | None) -> VideoReader:
    from deepscan.video.readers.pyav import PyAVReader

    safe = ReadOptions("pyav", limits, SAFE)
    if not may_need_decord(source, "auto"):
        return PyAVReader(source, safe, beat)
    from deepscan.video.readers.decord import DecordReader, DistrustError, objection

    pyav = PyAVReader(source, safe, beat)
    why = objection(pyav.info, pyav.probe, source.size)
    if why is not None:
        pyav.because(why)
        return pyav
    pyav.close()
    proven = "short and plain; its first frames are those of PyAV"
    try:
        return DecordReader(source, ReadOptions("decord", limits, proven), beat)
    except DistrustError as error:
        return PyAVReader(source, replace(safe, reason=error.why), beat)


def may_need_decord(source: Source, decoder: Decoder) -> bool:
    """True if decord may have to read this file, by its first bytes and size."""
    if decoder == "pyav":
        return False
    from deepscan.video.readers.decord import is_installed, may_fit

    return is_installed() if decoder == "decord" else may_fit(source)
