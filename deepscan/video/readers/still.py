"""Still pictures as videos of one frame, read with Pillow, turned upright by their EXIF tag."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from deepscan.errors import CorruptError, LimitError, UnsupportedError
from deepscan.options import Limits
from deepscan.types import Colour, Frame, Image, ReadReport, VideoInfo
from deepscan.video.embedded import parts_of, unread
from deepscan.video.input_file import Source
from deepscan.video.probe import check_size

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

EXIF_ORIENTATION = 0x0112
TURNS = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}  # EXIF orientation -> clockwise degrees
DEEP = {"I;16", "I;16B", "I;16L", "I;16N", "I"}  # modes that hold 16-bit grey
REASON = "a still picture, read with Pillow"


def load_plugins() -> None:
    """Import all that Pillow needs; a sandboxed process can import nothing later."""
    from PIL import (
        BmpImagePlugin,
        Image,
        ImageOps,
        JpegImagePlugin,
        MpoImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    assert BmpImagePlugin and ImageOps and JpegImagePlugin and MpoImagePlugin
    assert PngImagePlugin and TiffImagePlugin and WebPImagePlugin
    Image.preinit()


class StillReader:
    """Reads one picture. `kind` is Pillow's name of its format; alpha is dropped.

    Raises:
        CorruptError: the picture is damaged or cut off.
        UnsupportedError: an animation, or several pages.
        LimitError: too many pixels.
    """

    def __init__(self, source: Source, kind: str, *, limits: Limits, reason: str = REASON) -> None:
        self._done = False
        image, rotation, mode = _read(source, kind, limits)
        inside = len(parts_of(source))
        self._unread = (unread(source, inside),) if inside else ()
        self._image = image
        self._info = VideoInfo(
            path=source.path,
            container=kind.lower(),
            codec=kind.lower(),
            pixel_format=mode,
            width=image.shape[1],
            height=image.shape[0],
            frame_rate=Fraction(1),
            time_base=Fraction(1),
            duration=None,
            rotation=rotation,
            sample_aspect_ratio=Fraction(1),
            colour=Colour("gbr", True, "unknown", "unknown", False),
            audio=(),
            still=True,
            decoder="pillow",
            decoder_reason=reason,
        )

    @property
    def info(self) -> VideoInfo:
        return self._info

    def frames(self) -> Iterator[Frame]:
        """Yield the picture as the one frame at time 0."""
        if not self._done:
            self._done = True
            yield Frame(0, 0, 0.0, self._image)

    def report(self) -> ReadReport:
        reasons = self._unread if self._done else ("stopped: the picture was not read",)
        return ReadReport(
            int(self._done), 0, not reasons, reasons, "pillow", self._info.decoder_reason
        )

    def close(self) -> None:
        self._image = np.zeros((0, 0, 3), np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read(source: Source, kind: str, limits: Limits) -> tuple[Image, int, str]:
    from PIL import Image as Pillow
    from PIL import ImageOps

    load_plugins()
    Pillow.MAX_IMAGE_PIXELS = None  # our own limit is checked below, before anything is decoded
    source.rewind()
    path: Path = source.path
    with os.fdopen(os.dup(source.descriptor), "rb") as file:
        try:
            with Pillow.open(file, formats=[kind]) as picture:
                check_size(picture.width, picture.height, source, limits)
                _refuse_sequence(picture, path)
                turned = TURNS.get(picture.getexif().get(EXIF_ORIENTATION, 1), 0)
                mode = picture.mode
                upright = ImageOps.exif_transpose(picture)
                image = np.array(_to_rgb(upright), np.uint8)
        except MemoryError as error:
            raise LimitError("limit_memory", f"{path}: no memory left for the picture") from error
        except (LimitError, UnsupportedError):
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
            raise CorruptError(f"{path}: a damaged {kind} picture ({error})") from error
    image.flags.writeable = False
    return image, turned, mode.lower()


def _refuse_sequence(picture: Picture, path: Path) -> None:
    # An MPO is a JPEG with a preview or a second view behind it: the first is what viewers show.
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        raise UnsupportedError(f"{path}: holds several pictures (an animation or pages)")


def _to_rgb(picture: Picture) -> Picture:
    from PIL import Image as Pillow

    if picture.mode in DEEP:  # Pillow would clip 16 bits at 255 instead of scaling them
        deep = np.asarray(picture).astype(np.uint32) >> 8
        return Pillow.fromarray(deep.clip(0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
