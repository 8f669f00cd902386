"""Converts decoded samples to upright RGB: matrix, range, pixel format, size (rotation: turn.py).

A file that names no colour matrix is read as players read it: BT.709 from 720 lines or 1280 columns
up, BT.601 below. FFmpeg's default (always BT.601) is up to 16 levels off on HD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepscan.types import Colour, Image
from deepscan.video.tone import TRANSFERS as HDR_TRANSFERS
from deepscan.video.tone import ToneMapper
from deepscan.video.turn import Turn

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

HD_WIDTH = 1280  # pixels
HD_HEIGHT = 720  # lines

# ITU-T H.273 numbers, as FFmpeg uses them, with FFmpeg's names.
MATRICES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    14: "ictcp",
}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "ebu3213",
}
TRANSFERS = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    11: "iec61966-2-4",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
SCALER = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # H.273 matrix -> swscale's number of it
FULL_RANGE = 2  # AVCOL_RANGE_JPEG
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG
UNTAGGED = 2  # "unspecified" in H.273


def is_rgb(pixel_format: str) -> bool:
    return pixel_format.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "pal", "0rgb", "0bgr"))


def is_gray(pixel_format: str) -> bool:
    return pixel_format.startswith(("gray", "ya8", "ya16", "mono"))


def matrix_for(frame: VideoFrame) -> int:
    """The H.273 number of the matrix that turns this frame into RGB (0: it is RGB already)."""
    if is_rgb(frame.format.name):
        return 0
    named = int(frame.colorspace)
    if named in (0, UNTAGGED) or named not in MATRICES:
        if int(frame.color_trc) in HDR_TRANSFERS:
            return 9  # of BT.2100
        return 1 if frame.height >= HD_HEIGHT or frame.width >= HD_WIDTH else 6
    return named


def is_full_range(frame: VideoFrame) -> bool:
    name = frame.format.name
    if is_rgb(name) or is_gray(name) or name.startswith("yuvj"):
        return True
    return int(frame.color_range) == FULL_RANGE


def is_hdr(frame: VideoFrame) -> bool:
    """True if the samples are HLG or PQ, not RGB with that label."""
    return int(frame.color_trc) in HDR_TRANSFERS and not is_rgb(frame.format.name)


def colour_of(frame: VideoFrame) -> Colour:
    """The colour encoding assumed for `frame`, and whether the stream named it."""
    matrix = matrix_for(frame)
    return Colour(
        matrix=MATRICES[matrix],
        full_range=is_full_range(frame),
        primaries=PRIMARIES.get(int(frame.color_primaries), "unknown"),
        transfer=TRANSFERS.get(int(frame.color_trc), "unknown"),
        tagged=int(frame.colorspace) == matrix,
        tone_mapped=is_hdr(frame),
    )


class Converter:
    """Turns decoded frames into upright (H, W, 3) uint8 RGB of one size.

    Keeps one swscale context: creating it for each frame takes up to 4.7 times as long. `width` and
    `height` are those of the decoded picture, before `turn`; frames of another size are scaled to
    fit and padded with black. HDR is mapped to BT.709 (tone.py).
    """

    def __init__(self, width: int, height: int, turn: Turn) -> None:
        from av.video.reformatter import VideoReformatter

        self.size = (width, height)
        self.turn = turn
        self._tones = ToneMapper()
        self._reformatter: VideoReformatter = VideoReformatter()

    def convert(self, frame: VideoFrame) -> Image:
        """Convert one frame to a read-only picture; alpha is dropped.

        Raises:
            av.error.FFmpegError: swscale cannot read this pixel format or matrix.
        """
        hdr = is_hdr(frame)
        width, height = self._fitting(frame)
        converted = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb48le" if hdr else "rgb24",
            src_colorspace=SCALER.get(matrix_for(frame)),
            src_color_range=FULL_RANGE if is_full_range(frame) else LIMITED_RANGE,
            dst_color_range=FULL_RANGE,
            threads=1,
        )
        decoded = converted.to_ndarray()  # a view of FFmpeg's memory
        if hdr:
            wide = decoded.astype(np.uint16, copy=False)
            decoded = self._tones.convert(wide, int(frame.color_trc))
        decoded = self._whole(decoded.astype(np.uint8, copy=False))
        image = np.ascontiguousarray(self.turn.apply(decoded))
        image.flags.writeable = False
        return image

    def _fitting(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height of a frame after scaling."""
        width, height = self.size
        if (frame.width, frame.height) == self.size:
            return self.size
        scale = min(width / frame.width, height / frame.height)
        fitting = (round(frame.width * scale), round(frame.height * scale))
        return min(width, max(1, fitting[0])), min(height, max(1, fitting[1]))

    def _whole(self, picture: Image) -> Image:
        width, height = self.size
        rows, columns = picture.shape[:2]
        if (columns, rows) == self.size:
            return picture
        whole = np.zeros((height, width, 3), np.uint8)
        top, left = (height - rows) // 2, (width - columns) // 2
        whole[top : top + rows, left : left + columns] = picture
        return whole
