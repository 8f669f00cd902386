"""Faces in one small file, to be forged in batches where no folder of pictures is.

`python -m train.forge.batched.pack --data FACES --out FACES.npz` cuts every picture to a square
round the face, all of one size, and keeps them as JPEG of high quality with landmarks, person,
source and split: some tens of megabytes, which travel to a machine with a GPU. Redrawn copies
travel in their own pack (`train.forge.pack`).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray

from deepscan.errors import DeepscanError, UsageError
from train.faces import Person, read_faces
from train.forge.batched.faces import Faces
from train.forge.decoded import read_pack
from train.forge.forged import FaceImage

REACH = 1.9  # side of the square over the longer side of the face box: a leaning crop needs it
SIDE = 288  # pixels of the square; a face of 152
QUALITY = 93
DECODED_SIDE = 160  # redrawn copies, which come in several sizes, are brought to this one
_ARRAYS = ("pixels", "ends", "landmarks", "sides", "names", "people", "sources", "splits")


@dataclass(frozen=True, slots=True)
class Portraits:
    """Pictures of one split: `images` (N, 3, S, S) uint8 RGB, `landmarks` (N, 5, 2) float32 pixels,
    `sides` (N,) float32; `decoded` (N, K, 3, D, D) uint8 and `swapped` (N, K) bool, or None."""

    images: torch.Tensor
    landmarks: torch.Tensor
    sides: torch.Tensor
    people: tuple[str, ...]
    sources: tuple[str, ...]
    names: tuple[str, ...]
    decoded: torch.Tensor | None = None
    swapped: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Portraits:
        return Portraits(
            self.images.to(device),
            self.landmarks.to(device),
            self.sides.to(device),
            self.people,
            self.sources,
            self.names,
            None if self.decoded is None else self.decoded.to(device),
            None if self.swapped is None else self.swapped.to(device),
        )

    def faces(self, index: torch.Tensor) -> Faces:
        """Some of them as a batch in float32."""
        return Faces(
            self.images[index].float() / 255,
            self.landmarks[index],
            self.sides[index],
            None if self.decoded is None else self.decoded[index].float() / 255,
            None if self.swapped is None else self.swapped[index],
        )


def squared(face: FaceImage, side: int = SIDE) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A face's square and its landmarks there: (side, side, 3) uint8 and (5, 2) float32.

    What lies beyond the picture is its mirror image.
    """
    x1, y1, x2, y2 = face.box
    reach = REACH * max(x2 - x1, y2 - y1)
    scale = side / reach
    left, top = (x1 + x2 - reach) / 2, (y1 + y2 - reach) / 2
    affine = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    image = face.image
    if scale < 0.75:  # plain sampling of too many pixels would add aliases
        image = cv2.GaussianBlur(image, (0, 0), 0.45 / scale).astype(np.uint8, copy=False)
    # OpenCV's pixel i is centred on i, ours covers [i, i + 1).
    centred = affine.copy()
    centred[:, 2] += 0.5 * scale - 0.5
    made = cv2.warpAffine(
        image, centred, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    landmarks = face.landmarks @ affine[:, :2].T + affine[:, 2]
    return made.astype(np.uint8, copy=False), landmarks.astype(np.float32)


def write_portraits(path: Path, splits: dict[str, Sequence[Person]], side: int = SIDE) -> None:
    """Write people of one or more splits into one file."""
    data: list[bytes] = []
    rows: list[tuple[NDArray[np.float32], float, str, str, str, str]] = []
    for split, people in splits.items():
        for person in people:
            image, landmarks = squared(person.face, side)
            _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            data.append(encoded.tobytes())
            rows.append((landmarks, side / REACH, person.name, person.person, person.source, split))
    points = np.stack([row[0] for row in rows])
    sides = np.array([row[1] for row in rows], np.float32)
    names, persons, sources, where = (np.array([row[i] for row in rows]) for i in (2, 3, 4, 5))
    with path.open("wb") as file:
        np.savez(
            file,
            pixels=np.frombuffer(b"".join(data), np.uint8),
            ends=np.cumsum([len(each) for each in data], dtype=np.int64),
            landmarks=points,
            sides=sides,
            names=names,
            people=persons,
            sources=sources,
            splits=where,
        )


def read_portraits(
    path: Path, split: str, decoded: Path | None = None, side: int = SIDE
) -> Portraits:
    """The people of a split, with their redrawn copies where a pack of those is given.

    Args:
        path: a file of `write_portraits`, or a folder of faces, which is cut on the way in.
        split: "train" or "val".
        decoded: pack of redrawn faces (`train.forge.pack`).
        side: pixels of each square that is cut from a folder; a file has its own.

    Raises:
        UsageError: the file is no such pack, lacks the split, or a pack lacks somebody.
    """
    if path.is_dir():
        people = read_faces(path, split)
        cut = [squared(person.face, side) for person in people]
        found = Portraits(
            _stacked([image for image, _ in cut]),
            torch.from_numpy(np.stack([landmarks for _, landmarks in cut])),
            torch.full((len(cut),), side / REACH),
            tuple(person.person for person in people),
            tuple(person.source for person in people),
            tuple(person.name for person in people),
        )
    else:
        found = _unpacked(path, split)
    return found if decoded is None else _with_decoded(found, decoded)


def portraits_hash(path: Path) -> str:
    """SHA-256 (hex) of a pack of faces."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _unpacked(path: Path, split: str) -> Portraits:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} cannot be read as a pack of faces: {error}; train.forge.batched.pack makes one"
        ) from error
    wanted = np.flatnonzero(arrays["splits"] == split)
    if len(wanted) == 0:
        raise UsageError(f"{path} has nobody with split = {split!r}")
    starts = np.concatenate([[0], arrays["ends"][:-1]])
    images = []
    for i in wanted:
        data = arrays["pixels"][starts[i] : arrays["ends"][i]]
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if picture is None:
            raise UsageError(f"{path}: picture {arrays['names'][i]} is damaged: make it again")
        images.append(np.ascontiguousarray(picture[..., ::-1]).astype(np.uint8, copy=False))
    return Portraits(
        _stacked(images),
        torch.from_numpy(arrays["landmarks"][wanted]),
        torch.from_numpy(arrays["sides"][wanted]),
        tuple(arrays["people"][wanted].tolist()),
        tuple(arrays["sources"][wanted].tolist()),
        tuple(arrays["names"][wanted].tolist()),
    )


def _stacked(images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _with_decoded(portraits: Portraits, path: Path) -> Portraits:
    pack = read_pack(path)
    missing = [name for name in portraits.names if not pack.get(name)]
    if missing:
        raise UsageError(f"{path} has no redrawn face of {missing[0]} and {len(missing) - 1} more")
    most = max(len(pack[name]) for name in portraits.names)
    copies, swapped = [], []
    for name in portraits.names:
        some = pack[name]
        some = tuple(some[i % len(some)] for i in range(most))  # all have as many, some twice
        pictures = [
            cv2.resize(one.picture(), (DECODED_SIDE, DECODED_SIDE), interpolation=cv2.INTER_CUBIC)
            for one in some
        ]
        copies.append(_stacked([each.astype(np.uint8, copy=False) for each in pictures]))
        swapped.append([one.swapped for one in some])
    return Portraits(
        portraits.images,
        portraits.landmarks,
        portraits.sides,
        portraits.people,
        portraits.sources,
        portraits.names,
        torch.stack(copies),
        torch.tensor(swapped),
    )


def main(
    data: Annotated[Path, typer.Option(help="Folder of faces with provenance.csv")],
    out: Annotated[Path, typer.Option(help="The pack, an .npz, to write")],
    side: Annotated[int, typer.Option(help="Pixels of each square", min=64)] = SIDE,
) -> None:
    """Write the faces of both splits into one small file."""
    cv2.setNumThreads(1)
    try:
        splits: dict[str, Sequence[Person]] = {
            split: read_faces(data, split) for split in ("train", "val")
        }
        write_portraits(out, splits, side)
    except (DeepscanError, OSError) as error:
        typer.echo(f"pack: {error}", err=True)
        raise typer.Exit(2) from error
    count = sum(len(people) for people in splits.values())
    typer.echo(f"{out}: {count} pictures, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
