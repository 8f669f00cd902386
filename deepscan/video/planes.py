"""Pictures as 4:2:0 samples, the format of decoders and encoders, without a detour over RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from deepscan.types import Image, Planes, VideoInfo
from deepscan.video.colour import (
    FULL_RANGE,
    HD_HEIGHT,
    HD_WIDTH,
    LIMITED_RANGE,
    MATRICES,
    SCALER,
    is_full_range,
    is_hdr,
    matrix_for,
)
from deepscan.video.turn import Turn

if TYPE_CHECKING:
    from av import VideoFrame

BT709, BT601 = 1, 6  # H.273 numbers of matrix, primaries and transfer alike
NO_IMAGE = np.zeros((0, 0, 3), np.uint8)  # of a frame without a picture
NO_IMAGE.setflags(write=False)
MATRIX_NUMBERS = {name: number for number, name in MATRICES.items()}


def default_for(width: int, height: int) -> int:
    """The H.273 number of matrix, primaries and transfer for a picture without tags."""
    return BT709 if width >= HD_WIDTH or height >= HD_HEIGHT else BT601


def matrix_to_write(info: VideoInfo, width: int, height: int) -> int:
    """The H.273 number of the matrix to write for a copy of `width` x `height`.

    It is the source's; the default if the source is RGB or swscale does not know its matrix; BT.709
    for HDR.
    """
    if info.colour.tone_mapped:
        return BT709
    named = MATRIX_NUMBERS.get(info.colour.matrix)
    if named is None or named not in SCALER:
        return default_for(width, height)
    return named


def planes_of(frame: VideoFrame, info: VideoInfo, turn: Turn) -> Planes | None:
    """Copy the samples of a decoded frame, upright; None if the frame has to be read as RGB.

    That is anything but limited-range 4:2:0 in 8 bits, a frame of another size or matrix than
    `info` says, HDR, and a rotated picture of odd size.
    """
    matrix = matrix_for(frame)
    width, height = frame.width, frame.height
    if (
        frame.format.name != "yuv420p"
        or is_full_range(frame)
        or is_hdr(frame)
        or info.colour.tone_mapped
        or matrix not in SCALER
        or matrix != MATRIX_NUMBERS.get(info.colour.matrix)
        or (turn != Turn() and (width % 2 or height % 2))
    ):
        return None
    if turn.transpose:
        width, height = height, width
    if (width, height) != (info.width, info.height):
        return None
    planes = Planes(np.empty(Planes.count(width, height), np.uint8), width, height, matrix)
    into = (planes.luma, planes.blue, planes.red)
    for target, samples in zip(into, samples_of(frame), strict=True):
        target[:] = turn.apply(samples[:, :, None])[:, :, 0]
    return planes


def samples_of(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """The planes of a frame in 8 bits, as they are: views (h, w) of FFmpeg's memory."""
    found = []
    for plane in frame.planes:
        rows: NDArray[np.uint8] = np.frombuffer(cast("bytes", plane), np.uint8)  # a buffer
        found.append(rows.reshape(plane.height, plane.line_size)[:, : plane.width])
    return found


def frame_of(planes: Planes) -> VideoFrame:
    """A frame for FFmpeg that shares or copies the samples; width and height are even."""
    from av import VideoFrame

    if planes.height % 4 == 0:  # PyAV takes no other height as even
        return VideoFrame.from_numpy_buffer(
            planes.samples.reshape(-1, planes.width), format="yuv420p"
        )
    frame = VideoFrame(planes.width, planes.height, "yuv420p")
    for target, samples in zip(
        samples_of(frame), (planes.luma, planes.blue, planes.red), strict=True
    ):
        target[:] = samples
    return frame


class PlanesConverter:
    """Converts RGB and gray to 4:2:0 with `matrix`, an H.273 number. Keeps a swscale context."""

    def __init__(self, matrix: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._matrix = matrix
        self._reformatter: VideoReformatter = VideoReformatter()

    def convert(self, image: Image) -> VideoFrame:
        """Convert to limited range; odd sizes are padded by repeating the edge."""
        from av import VideoFrame
        from av.video.reformatter import Interpolation

        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        # Not copied: the conversion below reads it before the caller can paint it anew.
        picture = VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24")
        return self._reformatter.reformat(
            picture,
            format="yuv420p",
            interpolation=Interpolation.BILINEAR,  # the same pixels as bicubic, in less time
            dst_colorspace=SCALER[self._matrix],
            src_color_range=FULL_RANGE,
            dst_color_range=LIMITED_RANGE,
            threads=1,
        )


def cut_out(planes: Planes, left: int, top: int, right: int, bottom: int) -> Image:
    """Convert the pixels [left, right) x [top, bottom) of a picture to RGB."""
    from av.video.reformatter import VideoReformatter

    # Whole 2x2 blocks are cut, so that every colour stays with its pixels.
    x, y = left - left % 2, top - top % 2
    width, height = right - x + (right - x) % 2, bottom - y + (bottom - y) % 2
    part = np.empty(Planes.count(width, height), np.uint8)
    block = Planes(part, width, height, planes.matrix)
    luma = planes.luma[y : y + height, x : x + width]
    block.luma[: luma.shape[0], : luma.shape[1]] = luma
    rows, columns = slice(y // 2, (y + height) // 2), slice(x // 2, (x + width) // 2)
    block.blue[:], block.red[:] = planes.blue[rows, columns], planes.red[rows, columns]
    shown = VideoReformatter().reformat(
        frame_of(block),
        format="rgb24",
        src_colorspace=SCALER[planes.matrix],
        src_color_range=LIMITED_RANGE,
        dst_color_range=FULL_RANGE,
        threads=1,
    )
    picture: Image = shown.to_ndarray().astype(np.uint8, copy=False)
    return picture[top - y : bottom - y, left - x : right - x]
