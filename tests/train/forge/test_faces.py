"""Reading a folder of faces, and what it says when something is missing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from deepscan.errors import UsageError
from train.forge.faces import LARGEST_FACE, data_hash, read_faces
from train.smoke import write_faces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_faces(tmp_path)
    return tmp_path


def edit(folder: Path, **changes: str) -> None:
    """Change columns of every row."""
    path = folder / "provenance.csv"
    with path.open(newline="") as lines:
        rows = [{**row, **changes} for row in csv.DictReader(lines)]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def test_a_face_is_cut_with_its_surroundings(folder: Path) -> None:
    one, mirrored = read_faces(folder, "train")
    assert (one.person, one.source, one.name) == ("astronaut", "scikit-image", "astronaut.png")
    x1, y1, x2, y2 = one.face.box
    assert (x2 - x1, y2 - y1) == pytest.approx((89, 113))
    height, width = one.face.image.shape[:2]
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and height < 2.2 * 113
    for x, y in one.face.landmarks:
        assert x1 < x < x2 and y1 < y < y2
    # The mirror's eyes are named as seen in the picture.
    assert mirrored.face.landmarks[0, 0] < mirrored.face.landmarks[1, 0]


def test_large_faces_are_scaled_down(folder: Path) -> None:
    edit(folder, face_x="60", face_y="0", face_w="400", face_h="400")
    face = read_faces(folder, "train")[0].face
    assert face.box[2] - face.box[0] == pytest.approx(LARGEST_FACE)
    assert max(face.image.shape) <= 2.1 * LARGEST_FACE + 1


def test_the_hash_names_the_table(folder: Path) -> None:
    before = data_hash(folder)
    assert before == data_hash(folder)
    edit(folder, source="elsewhere")
    assert data_hash(folder) != before


def test_grey_pictures_are_read_as_rgb(folder: Path) -> None:
    from PIL import Image

    path = folder / "astronaut.png"
    Image.open(path).convert("L").save(path)
    image = read_faces(folder, "train")[0].face.image
    assert image.dtype == np.uint8 and image.shape[2] == 3


def test_a_missing_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"provenance\.csv is missing"):
        read_faces(tmp_path, "train")


def test_a_missing_column_is_named(folder: Path) -> None:
    path = folder / "provenance.csv"
    path.write_text(path.read_text().replace("lm5", "landmarks", 1))
    with pytest.raises(UsageError, match="lacks the columns lm5"):
        read_faces(folder, "train")


def test_an_empty_split_is_said(folder: Path) -> None:
    with pytest.raises(UsageError, match="no row with split = 'test'"):
        read_faces(folder, "test")


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_picture_that_cannot_be_read_is_named(folder: Path, content: bytes | None) -> None:
    path = folder / "mirrored.png"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match=r"mirrored\.png, named by provenance\.csv"):
        read_faces(folder, "train")
