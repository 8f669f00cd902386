"""The dense mesh: its triangles, masks, warps, and that it moves with the picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepscan.errors import UsageError
from train.calibration.clips import turn_head
from train.forge import mesh
from train.forge.faces import data_hash, read_faces
from train.forge.pairs import trimmed
from train.forge.tilt import tilted
from train.smoke import write_faces

HEIGHT, WIDTH = 200, 180
FIVE = np.array([[65.0, 80.0], [115.0, 82.0], [90.0, 108.0], [70.0, 135.0], [111.0, 136.0]])


def write_meshes(folder: Path, disagreement: float = 0.0) -> mesh.Mesh:
    """The mean mesh for every picture of a folder of faces; returns the first one's."""
    people = read_faces(folder, "train")
    text = (folder / "provenance.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in text if line.endswith("train")]
    points = [mesh.place_mesh(np.array(row[7].split(), float).reshape(5, 2)) for row in rows]
    np.savez(
        folder / mesh.FILE,
        files=np.array([person.name for person in people]),
        points=np.round(np.array(points) * 4).astype(np.int16),
        disagreement=np.full(len(people), disagreement, np.float32),
    )
    return points[0]


def test_triangles_tile_the_face_but_for_its_holes() -> None:
    corners = mesh.triangles()
    assert corners.shape == (852, 3) and corners.max() == 467
    edges = {
        tuple(sorted(pair)) for a, b, c in corners.tolist() for pair in ((a, b), (b, c), (a, c))
    }
    # Euler's number of a disc with three holes.
    assert len(np.unique(corners)) - len(edges) + len(corners) == 1 - 3
    points = mesh.place_mesh(FIVE)
    drawn = mesh.fill((points[some, :2] for some in mesh.triangles(filled=True)), HEIGHT, WIDTH)
    face = mesh.draw("face", points.astype(float), HEIGHT, WIDTH)
    assert (drawn != face).mean() < 0.02


@pytest.mark.parametrize("region", mesh.REGIONS)
def test_a_region_lies_within_the_head(region: str) -> None:
    points = mesh.place_mesh(FIVE)[:, :2].astype(float)
    mask = mesh.draw(region, points, HEIGHT, WIDTH)
    head = cv2.dilate(mesh.draw("face", points, HEIGHT, WIDTH), np.ones((25, 25)))
    assert mask.any() and not (mask > head).any()
    assert points.min() > 0  # drawing changed nothing


def test_a_map_to_itself_moves_nothing_and_a_shift_shifts() -> None:
    points = mesh.place_mesh(FIVE)
    (x, y), inside = mesh.map_between(points, points + np.array([3, -2, 0]), HEIGHT, WIDTH)
    rows, columns = np.nonzero(inside)
    assert inside.sum() > 5000
    assert np.abs(x[inside] - (columns - 3)).max() < 0.01
    assert np.abs(y[inside] - (rows + 2)).max() < 0.01


def test_every_point_is_fetched_from_its_own_place() -> None:
    source = mesh.place_mesh(FIVE)
    target = mesh.place_mesh(FIVE * 1.1 - 5)
    target[:, 0] += 4 * np.sin(target[:, 1] / 20)
    (x, y), inside = mesh.map_between(source, target, HEIGHT, WIDTH)
    for index in (1, 33, 263, 61, 291, 13, 105, 334):
        column, row = np.round(target[index, :2]).astype(int)
        if inside[row, column]:
            assert (
                np.hypot(x[row, column] - source[index, 0], y[row, column] - source[index, 1]) < 2
            )


def test_an_open_mouth_is_wider_than_a_closed_one() -> None:
    closed = mesh.place_mesh(FIVE)
    upper, lower = mesh.MOUTH_HOLE
    closed[list(lower[1:-1])] = closed[list(upper[1:-1])]
    opened = closed.copy()
    opened[list(lower[1:-1]), 1] += 15
    assert mesh.openness(closed) < 0.05 < 0.2 < mesh.openness(opened)
    assert mesh.fill([mesh.opening(opened)], HEIGHT, WIDTH).sum() > 200


def test_the_mesh_moves_with_the_picture(tmp_path: Path) -> None:
    write_faces(tmp_path)
    whole = write_meshes(tmp_path)
    face = read_faces(tmp_path, "train")[0].face
    assert face.mesh is not None and face.mesh.dtype == np.float32
    for one in (face, trimmed(face), tilted(face, np.random.default_rng(1))):
        assert one.mesh is not None
        # Placed by the five landmarks, which moved too.
        assert np.abs(one.mesh - mesh.place_mesh(one.landmarks))[:, :2].max() < 1
    assert not np.allclose(face.mesh, whole, atol=2)  # it was cut out
    turned = turn_head(face, 0.05, 0.02)
    assert turned.mesh is not None
    nose = turned.mesh[4, :2] - face.mesh[4, :2]
    assert nose == pytest.approx(turned.landmarks[2] - face.landmarks[2], abs=0.5)
    assert mesh.followed(face.mesh, face.landmarks, face.landmarks + 5) == pytest.approx(
        face.mesh + np.array([5, 5, 0]), abs=0.01
    )


def test_meshes_that_disagree_are_none(tmp_path: Path) -> None:
    write_faces(tmp_path)
    assert read_faces(tmp_path, "train")[0].face.mesh is None
    plain = data_hash(tmp_path)
    write_meshes(tmp_path, 0.2)
    assert read_faces(tmp_path, "train")[0].face.mesh is None
    assert data_hash(tmp_path) != plain


@pytest.mark.parametrize("content", [b"", b"PK", None])
def test_meshes_that_cannot_be_read_are_said(tmp_path: Path, content: bytes | None) -> None:
    write_faces(tmp_path)
    if content is None:
        none = np.zeros((1, 5, 2), np.int16)
        np.savez(tmp_path / mesh.FILE, files=["a"], points=none, disagreement=np.zeros(1))
    else:
        (tmp_path / mesh.FILE).write_bytes(content)
    with pytest.raises(UsageError, match=mesh.FILE):
        read_faces(tmp_path, "train")


def test_a_folder_gives_topology_and_mean(tmp_path: Path) -> None:
    write_faces(tmp_path)
    write_meshes(tmp_path)
    edges = json.loads(Path(mesh.__file__).with_name("mesh.json").read_text())["edges"]
    (tmp_path / "landmarks478.json").write_text(json.dumps({"edges": edges}))
    made = mesh.fit(tmp_path)
    assert made["edges"] == [tuple(edge) for edge in edges]
    assert np.array(made["landmarks"])[:2] == pytest.approx(np.array([[-0.5, 0], [0.5, 0]]))
    assert np.abs(np.array(made["mean"]) - mesh.mean_mesh()[0]).max() < 0.3
