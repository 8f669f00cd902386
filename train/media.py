"""Frames of a video or of a folder of pictures, for everything that reads training data."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from deepscan.errors import CorruptError
from deepscan.types import Image

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


Item = TypeVar("Item")


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Select at most `most` items, evenly spread from the first to the last; 0: all of them."""
    if most == 0 or most >= len(items):
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, most)]


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, by name; `2.png` before `10.png`."""
    return sorted(
        (path for path in folder.iterdir() if is_picture(path)),
        key=lambda path: (int(path.stem) if path.stem.isdigit() else -1, path.name),
    )


def read_picture(path: Path) -> Image:
    """One picture as (H, W, 3) uint8 RGB.

    Raises:
        CorruptError: it is no picture that can be read.
    """
    try:
        with Pictures.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise CorruptError(f"{path}: not a readable picture ({error})") from error


def read_frames(path: Path, first: int | None = None) -> Generator[tuple[int, Image], None, None]:
    """Yield (index, (H, W, 3) uint8 RGB) of a video or of a folder of pictures, from 0.

    `first` ends the reading after so many frames. Close the iterator to close the video.

    Raises:
        VideoError: nothing can be read, or reading broke off.
    """
    if path.is_dir():
        for index, picture in enumerate(islice(pictures_in(path), first)):
            yield index, read_picture(picture)
        return
    from deepscan.video import open_video

    with open_video(path.resolve()) as reader:
        for frame in islice(reader.frames(), first):
            yield frame.index, frame.image
