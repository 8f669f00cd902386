"""The reader contract: a reader turns a file into upright RGB frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from deepscan.options import Decoder, Limits
from deepscan.types import Frame, ReadReport, VideoInfo


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a file is read.

    `reason` says why `decoder` was chosen, None if the user chose it. With `planes`, decoder "pyav"
    gives planes instead of RGB where it can.
    """

    decoder: Decoder
    limits: Limits
    reason: str | None = None
    planes: bool = False


class VideoReader(Protocol):
    """One open video. Frames come once, in presentation order, with strictly rising pts.

    Readers inherit `with` from it. Their constructors take an open file, which stays open, and
    those of the table `ReadOptions` and `beat`, which is called for every packet.
    """

    @property
    def info(self) -> VideoInfo: ...

    def frames(self) -> Iterator[Frame]:
        """Yield every frame that can be decoded; damaged packets are counted, not raised.

        Raises:
            VideoError: nothing could be decoded, a limit was reached, or the decoder died; frames
                yielded before remain valid.
        """
        ...

    def report(self) -> ReadReport:
        """Report on completeness so far; final once `frames` is exhausted or has raised."""
        ...

    def close(self) -> None:
        """Release what the reader holds; a second call does nothing."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


OTHER_STREAMS = "not_all_streams_scanned"
"""Begins the reason for a file that holds more picture streams than the one that was read."""
