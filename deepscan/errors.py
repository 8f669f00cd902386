"""The errors of deepscan.

DeepscanError                   has `reason`, a stable code, and a message: what, where, what to do
├── UsageError                  an argument or option that cannot work; before any work
│   └── NothingToScan           the inputs of an archive hold no video or picture
├── VideoError                  one input file cannot be judged
│   ├── UnreadableError         unreadable: missing, no permission, not a regular file
│   ├── CorruptError            corrupt: nothing in it can be decoded
│   ├── UnsupportedError        unsupported: a format or codec outside the allow-list
│   ├── NoVideoError            no_video: decodes, but holds no picture stream
│   │   └── NoStreamError       no_video: holds fewer picture streams than the one asked for
│   ├── LimitError              limit_size, limit_pixels, limit_frames, limit_streams, limit_time,
│   │                           limit_memory: a limit stopped the file
│   ├── DecoderCrash            decoder_crash: native code died in the worker process
│   └── DecoderHang             decoder_hang: the worker made no progress
├── ModelError                  weights missing, damaged or of another network
├── EngineError                 an engine cannot be built, loaded or trusted
└── OutputError                 output_error: a result cannot be written
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class DeepscanError(Exception):
    """Base of all errors that deepscan raises on purpose."""

    reason = "error"


class UsageError(DeepscanError):
    """An argument or option that cannot work; raised before any work is done."""

    reason = "usage"


class NothingToScan(UsageError):
    """The inputs of an archive are there, but hold no video or picture."""


class VideoError(DeepscanError):
    """One input file cannot be judged; a scan of several files continues with the next."""

    reason = "error"


class UnreadableError(VideoError):
    """The file is missing, may not be read, or is not a regular file."""

    reason = "unreadable"


class CorruptError(VideoError):
    """Nothing in the file can be decoded."""

    reason = "corrupt"


class UnsupportedError(VideoError):
    """A container or codec outside the allow-list."""

    reason = "unsupported"


class NoVideoError(VideoError):
    """The file decodes but holds no picture stream."""

    reason = "no_video"


class NoStreamError(NoVideoError):
    """The file holds pictures, but not so many streams of them."""


class LimitError(VideoError):
    """A limit stopped the file; `reason` names it ("limit_pixels", ...)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DecoderCrash(VideoError):
    """Native decoder code died in the worker process."""

    reason = "decoder_crash"


class DecoderHang(VideoError):
    """The decoder made no progress within the limit and was killed."""

    reason = "decoder_hang"


class ModelError(DeepscanError):
    """Weights are missing, damaged, or belong to another network."""

    reason = "model"


class EngineError(DeepscanError):
    """An engine cannot be built, loaded or trusted."""

    reason = "engine"


class OutputError(DeepscanError):
    """A result cannot be written: disk full, no permission, or the file is already there."""

    reason = "output_error"


@contextmanager
def system_errors_as(kind: type[DeepscanError], what: str) -> Iterator[None]:
    """Raise `kind` for an OSError in the block; the message is `what` and the system's reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """The reason of an error in short: the system's where it has one, never empty."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
