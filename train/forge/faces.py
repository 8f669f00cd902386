"""Real faces to train on: pictures with a face box, five landmarks, a person and a split.

A folder holds `provenance.csv` (columns file, source, person_id, face_x, face_y, face_w, face_h,
lm5, split) and the pictures it names. No person is on both sides of a split. Dense landmarks come
from `landmarks478.npz` (`train.forge.mesh`) where the folder has it.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from deepscan.errors import UsageError
from train.forge.autoencoder_pack import read_pack
from train.forge.contract import FaceImage
from train.forge.held_out import is_held_out
from train.forge.mesh import FILE, Mesh, moved, read_meshes

_COLUMNS = (
    "file", "source", "person_id", "face_x", "face_y", "face_w", "face_h", "lm5", "split",
)  # fmt: skip
SURROUNDINGS = 2.1  # side of the kept square over the longer side of the face box
REAL = "real"  # all real pictures that training may not use
LARGEST_FACE = 200  # pixels; larger faces are scaled down, so that memory stays below 1 GB


@dataclass(frozen=True, slots=True)
class Person:
    """One picture of one person, cut to the surroundings of the face."""

    name: str
    person: str
    source: str
    face: FaceImage


def read_faces(folder: Path, split: str, pack: Path | None = None) -> list[Person]:
    """Read all pictures of a split ("train", "val" or REAL) into memory.

    What calibration is measured on (`train.forge.held_out`) is no part of "train": together with
    "val" it is REAL.

    Args:
        folder: the pictures and provenance.csv.
        split: which of them.
        pack: a pack of their redrawn faces (`train.forge.build_pack`), which some forges need.

    Raises:
        UsageError: provenance.csv or one of its columns or pictures is missing, or the split is
            empty, or the pack or the dense landmarks cannot be read, or the pack lacks a picture.
    """
    rows = [row for row in _rows(folder) if _in_split(row, split)]
    if not rows:
        raise UsageError(f"{folder / 'provenance.csv'} has no row with split = {split!r}")
    meshes = read_meshes(folder)
    people = [_read(folder, row, meshes.get(row["file"])) for row in rows]
    return people if pack is None else with_redrawn(people, pack)


def _in_split(row: dict[str, str], split: str) -> bool:
    held_out = is_held_out(row["file"])
    if split == REAL:
        return held_out or row["split"] == "val"
    return row["split"] == split and not held_out


def with_redrawn(people: list[Person], path: Path) -> list[Person]:
    """The same people with their redrawn faces from a pack.

    Raises:
        UsageError: the pack cannot be read or lacks somebody.
    """
    pack = read_pack(path)
    missing = [person.name for person in people if not pack.get(person.name)]
    if missing:
        raise UsageError(f"{path} has no redrawn face of {missing[0]} and {len(missing) - 1} more")
    return [replace(one, face=replace(one.face, redrawn=pack[one.name])) for one in people]


def data_hash(folder: Path) -> str:
    """SHA-256 of provenance.csv, which holds the SHA-256 of every picture.

    With dense landmarks, which change what forges make: that of the hashes of both files.
    """
    table = hashlib.sha256((folder / "provenance.csv").read_bytes()).hexdigest()
    dense = folder / FILE
    if not dense.is_file():
        return table
    both = table + hashlib.sha256(dense.read_bytes()).hexdigest()
    return hashlib.sha256(both.encode()).hexdigest()


def _rows(folder: Path) -> list[dict[str, str]]:
    table = folder / "provenance.csv"
    if not table.is_file():
        raise UsageError(f"{table} is missing: expected a folder of faces with provenance.csv")
    with table.open(newline="") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(f"{table} lacks the columns {', '.join(missing)}")
        return list(reader)


def _read(folder: Path, row: dict[str, str], mesh: Mesh | None) -> Person:
    path = folder / row["file"]
    try:
        image = np.asarray(Image.open(path).convert("RGB"))
    except OSError as error:
        raise UsageError(f"{path}, named by provenance.csv, cannot be read: {error}") from error
    x, y, width, height = (float(row[key]) for key in ("face_x", "face_y", "face_w", "face_h"))
    landmarks = np.array(row["lm5"].split(), float).reshape(5, 2)
    side = SURROUNDINGS * max(width, height)
    left = max(0, round(x + width / 2 - side / 2))
    top = max(0, round(y + height / 2 - side / 2))
    image = image[top : top + round(side), left : left + round(side)]
    factor = min(1.0, LARGEST_FACE / max(width, height))
    if factor < 1:
        size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    corner = np.array([left, top])
    box = (np.array([[x, y], [x + width, y + height]]) - corner) * factor
    face = FaceImage(
        np.ascontiguousarray(image),
        (landmarks - corner) * factor,
        tuple(box.ravel().tolist()),
        mesh=moved(mesh, np.c_[np.eye(2), -corner] * factor),
    )
    return Person(row["file"], row["person_id"], row["source"], face)
