"""Frames as planes: the same pictures as RGB, only where that is right, also from a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepscan.types import Frame, Image, Planes
from deepscan.video import open_video
from deepscan.video.planes import cut_out, matrix_to_write
from deepscan.video.writer import VideoWriter

Clip = Callable[..., Path]


def read(path: Path, *, planes: bool = False, isolate: bool = False) -> list[Frame]:
    with open_video(path, decoder="pyav", isolate=isolate, planes=planes) as reader:
        return list(reader.frames())


def rgb(frame: Frame) -> Image:
    assert frame.planes is not None
    return cut_out(frame.planes, 0, 0, frame.planes.width, frame.planes.height)


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"size": (162, 122)},
        {"matrix": "bt709"},
        {"matrix": "bt2020nc"},
        {"rotation": 90},
        {"rotation": 180},
    ],
)
def test_planes_are_the_picture(wanted: dict[str, Any], isolate: bool, clip: Clip) -> None:
    path = clip("a.mp4", **wanted)
    frames, pictures = read(path, planes=True, isolate=isolate), read(path)
    assert [frame.pts for frame in frames] == [frame.pts for frame in pictures]
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.image.size == 0
        assert np.abs(rgb(frame).astype(int) - picture.image).mean() < 1.5


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("full.mp4", {"matrix": "bt709", "full_range": True}),
        ("444.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p"}),
        ("ten.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p10le"}),
        ("odd.mkv", {"codec": "ffv1", "size": (161, 121), "rotation": 90}),
    ],
)
def test_what_is_not_plain_comes_as_rgb(name: str, wanted: dict[str, Any], clip: Clip) -> None:
    path = clip(name, **wanted)
    for frame, picture in zip(read(path, planes=True), read(path), strict=True):
        assert frame.planes is None
        assert np.array_equal(frame.image, picture.image)


@pytest.mark.parametrize("box", [(0, 0, 160, 120), (3, 5, 64, 65), (10, 10, 11, 12)])
def test_a_part_is_cut_where_it_lies(box: tuple[int, int, int, int], clip: Clip) -> None:
    frame = read(clip("a.mp4"), planes=True)[0]
    assert frame.planes is not None
    left, top, right, bottom = box
    part = cut_out(frame.planes, *box)
    assert part.shape == (bottom - top, right - left, 3)
    whole = rgb(frame)[top:bottom, left:right]
    assert np.abs(part.astype(int) - whole).mean() < 4  # colour is smoothed across the border


@pytest.mark.parametrize("size", [(160, 120), (162, 122), (322, 442)])
def test_planes_are_written_as_they_are(size: tuple[int, int], clip: Clip, tmp_path: Path) -> None:
    path = clip("a.mp4", size=size, frames=3)
    with open_video(path, decoder="pyav", isolate=False, planes=True) as reader:
        info, frames = reader.info, list(reader.frames())
    with VideoWriter(tmp_path / "out.mp4", info) as writer:
        for frame in frames:
            assert frame.planes is not None
            writer.write(frame.planes, frame.pts)
    for frame, copy in zip(frames, read(tmp_path / "out.mp4", planes=True), strict=True):
        assert frame.planes is not None
        assert copy.planes is not None
        for name in ("luma", "blue", "red"):
            before, after = getattr(frame.planes, name), getattr(copy.planes, name)
            assert np.abs(before.astype(int) - after).mean() < 3


def test_planes_that_do_not_fit_are_refused(clip: Clip, tmp_path: Path) -> None:
    path = clip("a.mp4")
    with open_video(path, isolate=False) as reader:
        info = reader.info
    matrix = matrix_to_write(info, 160, 120)
    with VideoWriter(tmp_path / "out.mp4", info) as writer:
        for width, number in ((158, matrix), (160, 9)):
            samples = np.zeros(Planes.count(width, 120), np.uint8)
            with pytest.raises(ValueError, match="expected planes"):
                writer.write(Planes(samples, width, 120, number), 0)
