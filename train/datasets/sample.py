"""Samples, which every data set yields, keyed so that no two videos are ever mixed up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple


class VideoKey(NamedTuple):
    """Names one video among all data sets.

    The folder name alone will not do: four manipulations of FaceForensics++ each have a `000_003`.
    """

    dataset: str
    manipulation: str  # "real" for untouched videos
    name: str

    def __str__(self) -> str:
        return "/".join(self)


class Polarity(StrEnum):
    """The grey levels (0 to 255) of a mask file that mean *manipulated*."""

    ABOVE_0 = "above-0"  # every level but black: P-FF++ and other lossless pictures
    ABOVE_127 = "above-127"  # the brighter half: video or JPEG, whose coding greys the edges
    BELOW_255 = "below-255"  # every level but white: Dolos stores its masks inverted


class Truth(StrEnum):
    """The pixel truth of a sample, and its source."""

    CLEAN = "clean"  # a real picture: the mask is all zero, there is no file
    WHOLE = "whole"  # generated from edge to edge: the mask is all one, there is no file
    FILE = "file"  # `mask` names the file, `polarity` how to read it
    POLYGONS = "polygons"  # `polygons` are the manipulated regions
    NONE = "none"  # manipulated somewhere, nobody says where: no pixel loss, no pixel measure


REAL = "real"


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture, a folder of frames or a video with its label.

    `path` is the picture, the video file or the folder of frames. `frame` counts the frames of the
    video from 0 where `path` is one picture of it, else it is None. `label` is 1 for manipulated, 0
    for real. `mask` belongs to `path` as a whole: a picture for a picture, a video or folder for a
    video. `polygons` are outlines (x1, y1, x2, y2, ...) in pixels of the picture.
    `original` names the real video that a fake was made from where the data set says so, and
    `compression` is the data set's own word ("c0", "c23", ...) or "" where it has none.
    """

    video: VideoKey
    path: Path
    label: int
    split: str
    truth: Truth
    frame: int | None = None
    mask: Path | None = None
    polarity: Polarity = Polarity.ABOVE_0
    polygons: tuple[tuple[float, ...], ...] = ()
    original: VideoKey | None = None
    compression: str = ""

    def __post_init__(self) -> None:
        if self.label not in (0, 1):
            raise ValueError(f"label of {self.video} is {self.label}; expected 0 or 1")
        if (self.mask is not None) != (self.truth is Truth.FILE):
            raise ValueError(f"{self.video}: a mask file and truth {self.truth} exclude each other")
        if bool(self.polygons) != (self.truth is Truth.POLYGONS):
            raise ValueError(f"{self.video}: polygons and truth {self.truth} exclude each other")
        if (self.label == 0) != (self.truth is Truth.CLEAN):
            raise ValueError(f"{self.video}: label {self.label} cannot have truth {self.truth}")

    @property
    def manipulation(self) -> str:
        return self.video.manipulation


def fake_with_mask(
    key: VideoKey,
    path: Path,
    split: str,
    mask: Path | None,
    *,
    original: VideoKey | None = None,
    compression: str = "",
) -> Sample:
    """A fake and its mask, whose brighter half is manipulated; None where there is no mask."""
    truth = Truth.NONE if mask is None else Truth.FILE
    return Sample(
        key, path, 1, split, truth, mask=mask, polarity=Polarity.ABOVE_127,
        original=original, compression=compression,
    )  # fmt: skip
