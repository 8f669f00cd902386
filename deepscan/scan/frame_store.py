"""Stores frame results on disk between the two passes of a scan, so that memory stays bounded.

Every frame of the verdict video shows the verdict, which is known only at the end. So the first
pass stores its results (boxes, scores, small masks; no pixels) in a file, and the second pass reads
them together with the pictures, which are decoded again. The file has no name and disappears with
the process, unless there is a checkpoint: then an interrupted scan resumes at the last `mark`.

A checkpoint is a folder with two files: `results`, which only grows, and `mark.json` with the valid
length, its SHA-256 and a key. Data behind the mark, or under another key, is discarded. Nothing in
it is executed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import astuple, replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from deepscan.errors import CorruptError, OutputError, VideoError, system_errors_as
from deepscan.files import atomic_output, sha256_of, sync
from deepscan.types import (
    Box,
    Face,
    FaceCrop,
    FacePrediction,
    Frame,
    FrameResult,
    Mask,
    UnscoredFace,
)
from deepscan.video.planes import NO_IMAGE

logger = logging.getLogger(__name__)

_LENGTHS = struct.Struct("<II")  # bytes of text, bytes of masks


class FrameStore:
    """A list of frame results on disk: append all, then read it any number of times.

    Masks are stored in 8 bits: P(manipulated) to within 1/510. A face takes about 2 kB.
    """

    def __init__(self, checkpoint: Path | None = None, key: str = "") -> None:
        """
        Args:
            checkpoint: a folder for the file, created if it is missing. Results that were marked
                there under the same key are resumed, and `marked` is their state.
            key: changes with everything that affects a result.

        Raises:
            OutputError: no file can be created, or another scan uses the checkpoint.
        """
        self._digest = hashlib.sha256()
        self._key = key
        self._folder = checkpoint
        self.marked: dict[str, Any] | None = None
        if checkpoint is not None:
            self._file = _open_checkpoint(checkpoint)
            self._resume()
            return
        try:
            self._file = tempfile.TemporaryFile(prefix="deepscan-")  # noqa: SIM115 - closed by close
        except OSError as error:
            raise OutputError(f"no temporary file can be made ({error}): set TMPDIR") from error

    def append(self, result: FrameResult) -> None:
        """Store a result without its pictures.

        Raises:
            OutputError: the disk is full.
        """
        data = _pack(result)
        with self._failures():
            self._file.write(data)
        if self._folder is not None:
            self._digest.update(data)

    def mark(self, state: dict[str, Any]) -> None:
        """Save the results so far beyond the process, with `state` (ready for JSON).

        Does nothing without a checkpoint.

        Raises:
            OutputError: the disk is full.
        """
        if self._folder is None:
            return
        with self._failures():
            self._file.flush()
            os.fsync(self._file.fileno())
            mark = {
                "key": self._key,
                "bytes": self._file.tell(),
                "sha256": self._digest.hexdigest(),
                "state": state,
            }
            with atomic_output(self._folder / "mark.json") as part:
                part.write_text(json.dumps(mark))
            sync(self._folder)

    def results(self) -> Iterator[FrameResult]:
        """Yield the results in order, without pictures.

        Raises:
            OutputError: the disk is full.
        """
        with self._failures():
            self._file.seek(0)  # flushes the buffer
        while head := self._file.read(_LENGTHS.size):
            text, masks = _LENGTHS.unpack(head)
            yield _unpack(self._file.read(text), self._file.read(masks))

    def replay(self, frames: Iterable[Frame] | None = None) -> Iterator[FrameResult]:
        """Yield the results in order, with the pictures of `frames` if given.

        Raises:
            OutputError: the disk is full.
            CorruptError: `frames` are not those of the first pass.
        """
        pictures = None if frames is None else iter(frames)
        for result in self.results():
            frame = result.frame if pictures is None else next(pictures, None)
            if frame is None or (frame.index, frame.pts) != (result.frame.index, result.frame.pts):
                raise CorruptError(
                    f"the file gave other frames when it was read again (at frame "
                    f"{result.frame.index}): it was changed during the scan"
                )
            yield replace(result, frame=frame)

    def close(self) -> None:
        with suppress(OSError):  # on a full disk the rest is not written and no longer needed
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # The file has a result or an error: there is nothing to resume.
        if self._folder is not None and (kind is None or issubclass(kind, VideoError)):
            _remove_checkpoint(self._folder)  # while it is locked
        self.close()

    def _resume(self) -> None:
        """Keep the marked part of the file if the key is the same, and discard the rest."""
        assert self._folder is not None
        length = 0
        try:
            mark = json.loads((self._folder / "mark.json").read_bytes())
            if mark["key"] == self._key:
                self._file.seek(0)
                digest = sha256_of(self._file, mark["bytes"])
                if digest.hexdigest() == mark["sha256"]:
                    length, self._digest, self.marked = mark["bytes"], digest, mark["state"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s: the checkpoint is damaged and ignored: %r", self._folder, error)
        with ExitStack() as held, self._failures():
            held.callback(self._file.close)
            self._file.truncate(length)
            self._file.seek(length)
            held.pop_all()

    def _failures(self) -> AbstractContextManager[None]:
        where = self._folder or f"the temporary folder {tempfile.gettempdir()} (see TMPDIR)"
        return system_errors_as(OutputError, f"{where} cannot take the results")


def _remove_checkpoint(folder: Path) -> None:
    for path in (*folder.glob(".mark.*.part.json"), folder / "mark.json", folder / "results"):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):  # the folder may hold other files
        folder.rmdir()


def rounded(result: FrameResult) -> FrameResult:
    """The result with masks as they are stored, so that a verdict uses the stored values."""
    faces = tuple(
        face if face.mask is None else replace(face, mask=_mask(_levels(face.mask)))
        for face in result.faces
    )
    return replace(result, faces=faces)


def _levels(mask: Mask | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The mask in 8 bits; of none at all (0, 0)."""
    if mask is None:
        return np.zeros((0, 0), np.uint8)
    return np.round(mask * 255).astype(np.uint8)


def _mask(levels: np.ndarray[Any, np.dtype[np.uint8]]) -> Mask:
    return levels.astype(np.float32) / np.float32(255)


def _open_checkpoint(folder: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with ExitStack() as held:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.fdopen(os.open(folder / "results", flags, 0o600), "r+b")
            held.callback(file.close)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{folder} is used by another scan") from error
        except OSError as error:
            raise OutputError(f"{folder} cannot hold a checkpoint ({error.strerror})") from error
        held.pop_all()
    return file


def _pack(result: FrameResult) -> bytes:
    """Pack one frame: lengths, JSON, then its masks."""
    frame = result.frame
    masks = [_levels(each.mask) for each in result.faces]
    values = [
        frame.index,
        frame.pts,
        frame.time,
        bool(result.analysed),
        [
            [
                *astuple(each.crop.face),
                astuple(each.crop.box),
                each.crop.sharpness,
                each.crop.detail,
                each.score,
                mask.shape,
            ]
            for each, mask in zip(result.faces, masks, strict=True)
        ],
        [[*astuple(each.face), each.reason] for each in result.unscored],
    ]
    text = json.dumps(values, separators=(",", ":"), default=float).encode()  # of NumPy's numbers
    levels = b"".join(mask.tobytes() for mask in masks)
    return _LENGTHS.pack(len(text), len(levels)) + text + levels


def _unpack(text: bytes, levels: bytes) -> FrameResult:
    index, pts, time, analysed, faces, unscored = json.loads(text)
    judged = []
    place = 0
    for *face, box, sharpness, detail, score, (height, width) in faces:
        size = height * width
        mask = np.frombuffer(levels, np.uint8, size, place).reshape(height, width)
        place += size
        crop = FaceCrop(_unpack_face(face), Box(*box), NO_IMAGE, sharpness, detail)
        judged.append(FacePrediction(crop, score, _mask(mask) if size else None))
    left_out = tuple(UnscoredFace(_unpack_face(face), reason) for *face, reason in unscored)
    frame = Frame(index, pts, time, NO_IMAGE)
    return FrameResult(frame, tuple(judged), left_out, analysed)


def _unpack_face(values: list[Any]) -> Face:
    box, confidence, marks, *others = values
    landmarks = None if marks is None else tuple((x, y) for x, y in marks)
    return Face(Box(*box), confidence, landmarks, *others)
