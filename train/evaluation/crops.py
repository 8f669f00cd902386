"""Samples of a data set as face crops with their truth, for training and for evaluation.

`python -m train.evaluation.crops DIR --dataset NAME --out FOLDER` writes the crops of a set of
videos in the plain folder layout, so that a recipe can learn from it with `name = "folder"`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from deepscan.errors import UsageError, VideoError
from deepscan.faces.crop import square
from deepscan.faces.detector import FaceDetector
from deepscan.options import ScanOptions
from deepscan.types import Box, Image
from train.annotate.work import Settings, load_detector, write_png
from train.command import exit_on_error
from train.datasets import DATASETS, DataSet, Sample, Truth, VideoKey, open_dataset
from train.datasets.layout import LayoutError
from train.datasets.mask import UNKNOWN, binary, read_mask
from train.media import evenly, is_video, pictures_in, read_frames, read_picture

Faces = Literal["given", "largest", "all"]
Truths = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Crop:
    """One face of one frame: (h, w, 3) uint8 RGB and its truth (h, w) uint8 of 0, 1 and 255.

    `group` names the real video behind it (its own, where none is known): what belongs together
    when uncertainty is measured. `area` is that of the face box in pixels.
    """

    video: VideoKey
    group: VideoKey
    frame: int
    label: int
    image: Image
    mask: Truths
    area: float


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings by which samples become crops.

    `frames` of each video, evenly over its first `first`; 0 for all. `faces`: the pictures as they
    are, the largest face that MTCNN finds, or all; a found face is cut as a square of `scale` times
    its longer side.
    """

    frames: int = 20
    first: int = 300
    faces: Faces = "given"
    scale: float = 1.3
    min_face: int = ScanOptions().min_face


READING = Reading()


def choose(
    dataset: DataSet, split: str, compression: str = "", manipulations: Collection[str] = ()
) -> list[Sample]:
    """The samples of a split in one compression: all real ones and the fakes of the manipulations.

    Raises:
        UsageError: there is no such split, compression or manipulation, or several compressions
            and none was named.
        LayoutError: the split list is missing or broken.
    """
    try:
        samples = list(dataset.samples(split))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not samples:
        raise UsageError(f"split {split} is empty")
    there = sorted({sample.compression for sample in samples})
    if compression not in there and not (compression == "" and len(there) == 1):
        known = ", ".join(there) if there != [""] else "none"
        what = f"there is no compression {compression!r}" if compression else "name a compression"
        raise UsageError(f"{what}; in split {split} there are: {known}")
    kinds = sorted({sample.manipulation for sample in samples if sample.label == 1})
    unknown = [name for name in manipulations if name not in kinds]
    if unknown:
        raise UsageError(f"no manipulation {unknown[0]!r} in split {split}: {', '.join(kinds)}")
    return [
        sample
        for sample in samples
        if (not compression or sample.compression == compression)
        and (sample.label == 0 or not manipulations or sample.manipulation in manipulations)
    ]


def pictures_of(sample: Sample) -> list[Sample]:
    """A picture as it is; the frames of a folder each as a sample with its own mask.

    Raises:
        UsageError: it is a video.
        LayoutError: a frame has no mask although the folder has masks.
    """
    if is_video(sample.path):
        raise UsageError(
            f"{sample.path} is a video, training reads pictures: cut its faces first with "
            "`python -m train.evaluation.crops` or `python -m train.annotate`"
        )
    if not sample.path.is_dir():
        return [sample]
    masks: dict[str, Path] = {}
    if sample.mask is not None:
        if not sample.mask.is_dir():
            raise LayoutError(f"{sample.path}: expected a folder of masks; found {sample.mask}")
        masks = {path.stem: path for path in pictures_in(sample.mask)}
    found = []
    for index, path in enumerate(pictures_in(sample.path)):
        mask = masks.get(path.stem)
        if sample.mask is not None and mask is None:
            raise LayoutError(f"{path}: expected its mask {sample.mask / path.name}; found nothing")
        frame = int(path.stem) if path.stem.isdigit() else index
        found.append(replace(sample, path=path, frame=frame, mask=mask))
    return found


def read_pair(sample: Sample) -> tuple[Image, Truths]:
    """The picture of a sample and its truth at the picture's size.

    Raises:
        CorruptError: one of them cannot be read.
    """
    image = read_picture(sample.path)
    return image, read_mask(sample, *image.shape[:2])


def read_crops(
    sample: Sample, reading: Reading, detector: Callable[[], FaceDetector] | None = None
) -> Iterator[Crop]:
    """Yield the crops of a sample in the order of frames; none where no face was found.

    `detector` is called only if faces must be found.

    Raises:
        VideoError: the sample cannot be read.
    """
    for frame, image, mask in _frames(sample, reading):
        if reading.faces == "given":
            height, width = mask.shape
            yield _crop(sample, frame, image, mask, float(height * width))
            continue
        if detector is None:
            raise ValueError(f"faces={reading.faces} needs a face detector")
        found = [face.box for face in detector().detect(image).faces]
        found.sort(key=lambda box: -box.area)
        for box in found[:1] if reading.faces == "largest" else found:
            cut = square(box, reading.scale)
            yield _crop(sample, frame, _cut(image, cut), _cut(mask, cut, UNKNOWN), box.area)


def _crop(sample: Sample, frame: int, image: Image, mask: Truths, area: float) -> Crop:
    group = sample.original or sample.video
    return Crop(sample.video, group, frame, sample.label, image, mask, area)


def _frames(sample: Sample, reading: Reading) -> Iterator[tuple[int, Image, Truths]]:
    """(index, picture, truth) of the frames that are used."""
    if not is_video(sample.path):
        pictures = pictures_of(sample)
        if sample.path.is_dir():
            pictures = evenly(pictures[: reading.first], reading.frames)
        for picture in pictures:
            image, mask = read_pair(picture)
            yield picture.frame or 0, image, mask
        return
    from deepscan.video import open_video

    with open_video(sample.path.resolve()) as reader:
        info = reader.info
        there = reading.first
        if info.duration is not None:
            there = min(there, max(1, round(info.duration * info.frame_rate)))
        chosen = set(evenly(range(there), reading.frames))
        with closing(_mask_frames(sample, reading.first)) as masks:
            frames = islice(reader.frames(), reading.first)
            # A mask video that ends early leaves the rest unknown.
            for frame, levels in zip_longest(frames, masks):
                if frame is None or frame.index > max(chosen):
                    return
                if frame.index in chosen:
                    image = np.array(frame.image)
                    yield frame.index, image, _truth(sample, levels, *image.shape[:2])


def _mask_frames(sample: Sample, first: int) -> Generator[Image, None, None]:
    if sample.mask is None:
        return
    if not (is_video(sample.mask) or sample.mask.is_dir()):
        raise LayoutError(f"{sample.path}: expected a video of masks; found {sample.mask}")
    with closing(read_frames(sample.mask, first)) as frames:
        for _, levels in frames:
            yield levels


def _truth(sample: Sample, levels: Image | None, height: int, width: int) -> Truths:
    if sample.truth is not Truth.FILE:
        return read_mask(sample, height, width)
    if levels is None:
        return np.full((height, width), UNKNOWN, np.uint8)
    mask = binary(levels, sample.polarity)
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return mask


def _cut(picture: NDArray[np.uint8], box: Box, outside: int | None = None) -> NDArray[np.uint8]:
    """A box in whole pixels; outside the picture its edge is repeated, or a value stands there."""
    x1, y1, x2, y2 = round(box.x1), round(box.y1), round(box.x2), round(box.y2)
    height, width = picture.shape[:2]
    inside = picture[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)]
    borders = max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0)
    if outside is None:
        framed: NDArray[np.uint8] = cv2.copyMakeBorder(inside, *borders, cv2.BORDER_REPLICATE)
    else:
        framed = cv2.copyMakeBorder(inside, *borders, cv2.BORDER_CONSTANT, value=(outside,))
    return framed


def mtcnn(reading: Reading) -> Callable[[], FaceDetector]:
    """Gives the face detector of a reading, built when it is first asked for."""
    built: list[FaceDetector] = []

    def give() -> FaceDetector:
        if not built:
            built.append(load_detector(Settings(min_face=reading.min_face)))
        return built[0]

    return give


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the data set")],
    dataset: Annotated[str, typer.Option(help=f"One of: {', '.join(DATASETS)}")],
    out: Annotated[Path, typer.Option(help="Folder to write")],
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split (repeatable); default: all")
    ] = None,
    compression: Annotated[str, typer.Option(help="Compression, if the set has several")] = "",
    frames: Annotated[int, typer.Option(help="Frames per video; 0: all")] = READING.frames,
    first: Annotated[
        int, typer.Option(help="Use only the first N frames of a video")
    ] = READING.first,
    scale: Annotated[float, typer.Option(help="Crop side over face side")] = READING.scale,
    min_face: Annotated[int, typer.Option(help="Smallest face in pixels")] = READING.min_face,
) -> None:
    """Cut the largest face out of the frames of a data set, into a plain folder."""
    reading = Reading(frames, first, "largest", scale, min_face)
    failed = 0
    with exit_on_error("crops"):
        opened = open_dataset(dataset, data)
        find = mtcnn(reading)
        for name in split or opened.splits:
            for sample in choose(opened, name, compression):
                try:
                    if not write_crops(sample, out / name, reading, find):
                        raise UsageError("no face was found")
                except (VideoError, UsageError) as error:
                    failed += 1
                    typer.echo(f"{sample.video}: {error}", err=True)
    typer.echo(f"crops: written to {out}; {failed} videos gave none")


def write_crops(
    sample: Sample, out: Path, reading: Reading, detector: Callable[[], FaceDetector]
) -> int:
    """Write the crops of a sample, and their masks where there are any; returns their number."""
    method = sample.manipulation.replace("/", "-")
    place = f"{method}/{sample.video.name}" if sample.label else sample.video.name
    folder = "fake" if sample.label else "real"
    written = 0
    for crop in read_crops(sample, reading, detector):
        if sample.label and sample.truth is not Truth.NONE:
            if (crop.mask == UNKNOWN).all():
                continue  # the masks ended before the video
            # What lies outside the frame counts as untouched: a picture file holds two values.
            levels = np.where(crop.mask == 1, 255, 0).astype(np.uint8)
            write_png(out / "mask" / place / f"{crop.frame}.png", levels)
        write_png(out / folder / place / f"{crop.frame}.png", crop.image)
        written += 1
    return written


if __name__ == "__main__":
    typer.run(main)
