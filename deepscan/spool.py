"""Frame results between the two passes of a scan: on disk, so that memory does not grow.

The verdict stands on every video frame, but it is known only at the end. So the first pass keeps
what was found (boxes, scores, small masks; no pixels) in an unnamed temporary file, and the second
pass reads it beside the pictures, which are decoded again.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from deepscan.errors import CorruptError, OutputError
from deepscan.types import Frame, FrameResult

NO_IMAGE = np.zeros((0, 0, 3), np.uint8)
NO_IMAGE.setflags(write=False)


class Spool:
    """A list of frame results on disk: append all, then read from the start, any number of times.

    Masks are kept in 8 bits: P(manipulated) to within 1/510. A face takes about 2 kB.
    """

    def __init__(self) -> None:
        try:
            self._file = tempfile.TemporaryFile(prefix="deepscan-")  # noqa: SIM115 - closed by close
        except OSError as error:
            raise OutputError(f"no temporary file can be made ({error}): set TMPDIR") from error

    def append(self, result: FrameResult) -> None:
        """Keep a result without its pictures.

        Raises:
            OutputError: the disk is full.
        """
        faces = tuple(
            replace(
                face,
                crop=replace(face.crop, image=NO_IMAGE),
                mask=np.round(face.mask * 255).astype(np.uint8),
            )
            for face in result.faces
        )
        bare = replace(result, frame=replace(result.frame, image=NO_IMAGE), faces=faces)
        try:
            pickle.dump(bare, self._file, protocol=5)
        except OSError as error:
            raise _full(error) from error

    def replay(self, frames: Iterable[Frame] | None = None) -> Iterator[FrameResult]:
        """Yield the results in order, with the pictures of `frames` if given.

        Raises:
            OutputError: the disk is full.
            CorruptError: `frames` are not those of the first pass.
        """
        try:
            self._file.seek(0)  # writes what is still in memory
        except OSError as error:
            raise _full(error) from error
        pictures = None if frames is None else iter(frames)
        while True:
            try:
                # This process wrote the file, which has no name: nobody else can have changed it.
                result: FrameResult = pickle.load(self._file)
            except EOFError:
                return
            masks = tuple(
                replace(face, mask=face.mask.astype(np.float32) / np.float32(255))
                for face in result.faces
            )
            frame = result.frame if pictures is None else next(pictures, None)
            if frame is None or (frame.index, frame.pts) != (result.frame.index, result.frame.pts):
                raise CorruptError(
                    f"the file gave other frames when it was read again (at frame "
                    f"{result.frame.index}): it changed during the scan"
                )
            yield replace(result, frame=frame, faces=masks)

    def close(self) -> None:
        with suppress(OSError):  # on a full disk the rest is not written: nobody needs it now
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _full(error: OSError) -> OutputError:
    return OutputError(
        f"the temporary folder {tempfile.gettempdir()} cannot take the results "
        f"({error.strerror}): free some space or set TMPDIR"
    )
