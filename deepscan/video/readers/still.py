"""Reads still pictures as videos of one frame with Pillow, upright by their EXIF tag."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from deepscan.errors import CorruptError, LimitError, UnsupportedError, VideoError
from deepscan.options import Limits
from deepscan.types import Colour, Frame, Image, ReadReport, VideoInfo
from deepscan.video.contract import VideoReader
from deepscan.video.embedded import parts_of, unread
from deepscan.video.input_file import Source
from deepscan.video.probe import check_size

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

EXIF_ORIENTATION = 0x0112
TURNS = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}  # EXIF orientation -> clockwise degrees
DEEP = {"I;16", "I;16B", "I;16L", "I;16N", "I"}  # modes that hold 16-bit grey
REASON = "a still picture, read with Pillow"
COLOUR = Colour("gbr", True, "unknown", "unknown", False)
HOW = {
    "AVIF": "an AVIF picture, for which Pillow 11.3 or newer is needed; or convert it to PNG",
    "HEIF": "a HEIC picture, for which the package pillow-heif is needed; or convert it to JPEG",
}


def load_plugins() -> None:
    """Import Pillow's plug-ins: a sandboxed process can import nothing later."""
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        Image,
        ImageOps,
        JpegImagePlugin,
        MpoImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    assert BmpImagePlugin and ImageOps and GifImagePlugin and JpegImagePlugin and MpoImagePlugin
    assert PngImagePlugin and TiffImagePlugin and WebPImagePlugin
    Image.preinit()
    if find_spec("PIL.AvifImagePlugin"):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if find_spec("pillow_heif"):
        pillow_heif = import_module("pillow_heif")
        pillow_heif.options.DECODE_THREADS = 1
        pillow_heif.register_heif_opener()


@contextmanager
def open_picture(source: Source, kind: str, limits: Limits) -> Iterator[Picture]:
    """Open a picture file of Pillow's format `kind`; it is closed at the end of the block.

    Raises:
        CorruptError: the picture is damaged or cut off, also if the block finds it.
        UnsupportedError: no installed package reads this format.
        LimitError: too many pixels, or no memory.
    """
    from PIL import Image as Pillow

    load_plugins()
    Pillow.MAX_IMAGE_PIXELS = None  # our own limit is checked below, before anything is decoded
    if kind in HOW and kind not in Pillow.OPEN:
        raise UnsupportedError(f"{source.path}: {HOW[kind]}")
    source.rewind()
    with os.fdopen(os.dup(source.descriptor), "rb") as file:
        try:
            with Pillow.open(file, formats=[kind]) as picture:
                check_size(picture.width, picture.height, source, limits)
                yield picture
        except MemoryError as error:
            raise LimitError(
                "limit_memory", f"{source.path}: no memory left for the picture"
            ) from error
        except VideoError:
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
            raise CorruptError(f"{source.path}: a damaged {kind} picture ({error})") from error


class StillReader(VideoReader):
    """Reads one picture. `kind` is Pillow's name of its format; alpha is dropped.

    Raises:
        CorruptError: the picture is damaged or cut off.
        UnsupportedError: no installed package reads this format.
        LimitError: too many pixels.
    """

    def __init__(self, source: Source, kind: str, *, limits: Limits) -> None:
        self._done = False
        with open_picture(source, kind, limits) as picture:
            mode = picture.mode.lower()
            image, rotation = read_frame(picture)
        inside = len(parts_of(source))
        self._unread = (unread(source, inside),) if inside else ()
        self._image = image
        height, width = image.shape[:2]
        self._info = describe(source, kind, mode, width, height, rotation, REASON)

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


def describe(
    source: Source, kind: str, mode: str, width: int, height: int, rotation: int, reason: str
) -> VideoInfo:
    """Describe a picture as a video of one frame; `kind` and `mode` are Pillow's names."""
    return VideoInfo(
        path=source.path,
        container=kind.lower(),
        codec=kind.lower(),
        pixel_format=mode,
        width=width,
        height=height,
        frame_rate=Fraction(1),
        time_base=Fraction(1),
        duration=None,
        rotation=rotation,
        sample_aspect_ratio=Fraction(1),
        colour=COLOUR,
        audio=(),
        still=True,
        decoder="pillow",
        decoder_reason=reason,
    )


def read_frame(picture: Picture) -> tuple[Image, int]:
    """Read the current frame of a picture, upright and read-only, and its rotation in degrees."""
    from PIL import ImageOps

    turned = TURNS.get(picture.getexif().get(EXIF_ORIENTATION, 1), 0)
    image = np.array(_to_rgb(ImageOps.exif_transpose(picture)), np.uint8)
    image.flags.writeable = False
    return image, turned


def _to_rgb(picture: Picture) -> Picture:
    from PIL import Image as Pillow

    if picture.mode in DEEP:  # Pillow would clip 16 bits at 255 instead of scaling them
        deep = np.asarray(picture).astype(np.uint32) >> 8
        return Pillow.fromarray(deep.clip(0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
