"""The dense face mesh: 478 landmarks, the regions and triangles between them.

The topology (regions and edges in mesh.json) is that of mediapipe's face mesh (Google LLC,
Apache-2.0). `python -m train.forge.mesh FACES` writes the file beside this one, with the mean mesh
of a folder's faces, from its landmarks478.json, landmarks478.npz and provenance.csv.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from deepscan.errors import UsageError
from train.command import exit_on_error
from train.forge.shape import Points

Mesh = NDArray[np.float32]  # (478, 3) x, y in pixels, z in the same unit, negative to the camera
Indices = NDArray[np.int64]

FILE = "landmarks478.npz"  # in a folder of faces
_FILE = Path(__file__).with_name("mesh.json")
POINTS = 478
LARGEST_DISAGREEMENT = 0.15  # with the five landmarks, in eye distances; the rest is unusable
OPEN = 0.12  # `openness` from which a mouth shows its inside
_SHIFT = 4  # bits of a pixel's fraction that drawing keeps

# Right and left are the subject's, as in the mesh; the oval runs round the face.
JAW = (
    234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361,
    323, 454,
)  # fmt: skip
FOREHEAD = (127, 162, 21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 389, 356)
RIGHT_EYE = (7, 33, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 246)
LEFT_EYE = (249, 263, 362, 373, 374, 380, 381, 382, 384, 385, 386, 387, 388, 390, 398, 466)
RIGHT_LIDS = (226, 247, 30, 29, 27, 28, 56, 190, 243, 112, 26, 22, 23, 24, 110, 25)
LEFT_LIDS = (446, 467, 260, 259, 257, 258, 286, 414, 463, 341, 256, 252, 253, 254, 339, 255)
# With the skin below them: the hair alone is too thin for a soft border.
RIGHT_BROW = (46, 52, 53, 55, 63, 65, 66, 70, 105, 107, 225, 224, 223, 222, 221)
LEFT_BROW = (276, 282, 283, 285, 293, 295, 296, 300, 334, 336, 445, 444, 443, 442, 441)
NOSE = (168, 193, 417, 122, 351, 129, 358, 102, 331, 98, 327, 164)
LIPS = (61, 40, 39, 37, 0, 267, 269, 270, 291, 321, 405, 314, 17, 84, 181, 91)
MOUTH = (57, 287, 92, 322, 165, 391, 164, 43, 273, 106, 335, 182, 406, 18)
RIGHT_CHEEK = (234, 93, 132, 58, 172, 57, 36, 120, 110, 226)
LEFT_CHEEK = (454, 323, 361, 288, 397, 287, 266, 349, 339, 446)
# Rims of the holes, upper and lower, from corner to corner.
MOUTH_HOLE = (
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
)
RIGHT_EYE_HOLE = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133),
    (33, 7, 163, 144, 145, 153, 154, 155, 133),
)
LEFT_EYE_HOLE = (
    (362, 398, 384, 385, 386, 387, 388, 466, 263),
    (362, 382, 381, 380, 374, 373, 390, 249, 263),
)
HOLES = (MOUTH_HOLE, RIGHT_EYE_HOLE, LEFT_EYE_HOLE)

_EYES = RIGHT_EYE + LEFT_EYE
_BROWS = RIGHT_BROW + LEFT_BROW
# A mask is the union of the convex hulls of these groups; names as in train.forge.shape,
# where left is that of the picture.
REGIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "face": (JAW + FOREHEAD,),  # the oval, which is the hull of all points
    "inner face": (JAW + _BROWS,),
    "features": (_BROWS + _EYES + NOSE + MOUTH,),
    "parts": (
        RIGHT_BROW + RIGHT_LIDS,
        LEFT_BROW + LEFT_LIDS,
        NOSE,
        MOUTH,
        RIGHT_CHEEK,
        LEFT_CHEEK,
    ),
    "eyes": (RIGHT_BROW + RIGHT_LIDS, LEFT_BROW + LEFT_LIDS),
    "eyes and nose": (_BROWS + RIGHT_LIDS + LEFT_LIDS + NOSE,),
    "nose": (NOSE,),
    "mouth": (MOUTH,),
    "lower face": ((*JAW[2:-2], 98, 327, 205, 425),),
    "forehead": (FOREHEAD + _BROWS,),
    "jaw and parts": (JAW[2:-2] + MOUTH, NOSE, RIGHT_LIDS, LEFT_LIDS),
    "upper face": (FOREHEAD + RIGHT_LIDS + LEFT_LIDS,),
    "brows": (RIGHT_BROW, LEFT_BROW),
    "left eye": (RIGHT_BROW + RIGHT_LIDS,),
    "right eye": (LEFT_BROW + LEFT_LIDS,),
    "cheeks": (RIGHT_CHEEK, LEFT_CHEEK),
    "raised brows": (RIGHT_BROW + RIGHT_LIDS, LEFT_BROW + LEFT_LIDS, NOSE, MOUTH + JAW[4:-4]),
}  # fmt: skip
_RAISED = "raised brows"  # brows pushed up by half the distance of the eyes


@cache
def _data() -> dict[str, list[list[float]]]:
    data: dict[str, list[list[float]]] = json.loads(_FILE.read_text())
    return data


@cache
def mean_mesh() -> tuple[NDArray[np.float64], Points]:
    """The mean mesh (478, 3) and its five landmarks (5, 2), in units of the eyes' distance."""
    return np.array(_data()["mean"]), np.array(_data()["landmarks"])


def place_mesh(landmarks: Points) -> Mesh:
    """Put the mean mesh on a face by the affine map that fits its five landmarks best.

    Args:
        landmarks: (5, 2) left eye, right eye, nose, left and right corner of the mouth.
    """
    points, five = mean_mesh()
    known = np.c_[five, np.ones(5)]
    affine, *_ = np.linalg.lstsq(known, landmarks, rcond=None)
    flat = np.c_[points[:, :2], np.ones(len(points))] @ affine
    size = np.sqrt(abs(np.linalg.det(affine[:2])))
    return np.c_[flat, points[:, 2] * size].astype(np.float32)


def moved(mesh: Mesh | None, affine: NDArray[np.floating]) -> Mesh | None:
    """The mesh after an affine map (2, 3) of the picture; z keeps the map's mean scale."""
    if mesh is None:
        return None
    flat = mesh[:, :2] @ affine[:, :2].T + affine[:, 2]
    size = np.sqrt(abs(np.linalg.det(affine[:, :2])))
    return np.c_[flat, mesh[:, 2] * size].astype(np.float32)


def followed(mesh: Mesh | None, before: Points, after: Points) -> Mesh | None:
    """The mesh of a face whose five landmarks (5, 2) were moved: by the affine map of best fit."""
    affine, *_ = np.linalg.lstsq(np.c_[before, np.ones(len(before))], after, rcond=None)
    return moved(mesh, affine.T)


@cache
def triangles(*, filled: bool = False) -> Indices:
    """Corners (n, 3) of the mesh's triangles: the 3-cycles of its edges.

    Two of the 854 cycles run round a point with three neighbours and are no triangles of the
    surface (V - E + F is that of a disc with three holes only without them): 852 are left.

    Args:
        filled: with the mouth's and the eyes' openings closed by strips of triangles.
    """
    near: dict[int, set[int]] = defaultdict(set)
    for one, two in np.array(_data()["edges"], int).tolist():
        near[one].add(two)
        near[two].add(one)
    cycles = {
        tuple(sorted((one, two, three)))
        for one in near
        for two in near[one]
        for three in near[one] & near[two]
    }
    around = {tuple(sorted(some)) for some in near.values() if len(some) == 3}
    found = sorted(cycles - around)
    if filled:
        for hole in HOLES:
            found += strip(*hole)
    return np.array(found, np.int64)


def strip(upper: Sequence[int], lower: Sequence[int]) -> list[tuple[int, int, int]]:
    """Triangles between two rims of as many points that share their ends."""
    made = []
    for i in range(len(upper) - 1):
        made += [(upper[i], upper[i + 1], lower[i]), (lower[i], lower[i + 1], upper[i + 1])]
    return [corners for corners in made if len(set(corners)) == 3]


def hull(points: NDArray[np.floating], indices: Iterable[int]) -> NDArray[np.float32]:
    """The convex hull (n, 2) of some points of a mesh."""
    some = np.asarray(points)[list(indices), :2].astype(np.float32)
    return cv2.convexHull(some)[:, 0]


def fill(outlines: Iterable[NDArray[np.floating]], height: int, width: int) -> NDArray[np.float32]:
    """The union of filled polygons (n, 2): (height, width) float32, 0 or 1."""
    mask = np.zeros((height, width), np.uint8)
    for outline in outlines:
        fixed = np.round(np.asarray(outline) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 1, shift=_SHIFT)
    return mask.astype(np.float32)


def draw(region: str, points: Points, height: int, width: int) -> NDArray[np.float32]:
    """The filled hulls of a region: (height, width) float32, 0 or 1.

    Raises:
        KeyError: no region has that name.
    """
    if region == _RAISED:
        points = np.array(points)
        right, left = (points[list(eye)].mean(0) for eye in (RIGHT_EYE, LEFT_EYE))
        up = points[10] - points[152]
        up *= 0.5 * np.hypot(*(left - right)[:2]) / max(float(np.hypot(*up[:2])), 1e-3)
        points[list(_BROWS)] += up
    return fill((hull(points, group) for group in REGIONS[region]), height, width)


def opening(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """The outline (20, 2) of the mouth's opening, between the lips."""
    upper, lower = MOUTH_HOLE
    return np.asarray(points)[[*upper, *lower[-2:0:-1]], :2].astype(np.float32)


def openness(points: NDArray[np.floating]) -> float:
    """Height of the mouth's opening over its width; closed lips give less than 0.05."""
    flat = np.asarray(points)[:, :2]
    across = max(float(np.hypot(*(flat[308] - flat[78]))), 1e-3)
    return float(np.hypot(*(flat[14] - flat[13]))) / across


def map_between(
    source: Mesh, target: NDArray[np.floating], height: int, width: int, *, filled: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Map each pixel of `target`'s picture into `source`'s: piecewise affine by triangles.

    Args:
        source: a mesh in its own picture.
        target: (478, 3), the mesh to be seen; what is nearer to the camera hides the rest.
        height: of the target's picture.
        width: of the target's picture.
        filled: see `triangles`.

    Returns:
        Maps (2, height, width) float32 of x and y for `cv2.remap`, and where they hold.
    """
    corners = triangles(filled=filled)
    flat = np.asarray(target)[:, :2].astype(np.float64)
    drawn = np.round(flat[corners] * (1 << _SHIFT)).astype(np.int32)
    labels = np.zeros((height, width), np.int32)
    for index in np.argsort(-np.asarray(target)[corners, 2].mean(1), kind="stable").tolist():
        cv2.fillConvexPoly(labels, drawn[index], index + 1, shift=_SHIFT)
    affine = _affine_maps(flat[corners], source[corners][..., :2].astype(np.float64))
    rows, columns = np.nonzero(labels)
    each = affine[labels[rows, columns] - 1]
    maps = np.zeros((2, height, width), np.float32)
    for axis in range(2):
        a = each[:, axis]
        maps[axis, rows, columns] = a[:, 0] * columns + a[:, 1] * rows + a[:, 2]
    return maps, labels > 0


def _affine_maps(there: NDArray[np.float64], back: NDArray[np.float64]) -> NDArray[np.float32]:
    """The maps (n, 2, 3) that take triangles (n, 3, 2) to others; of slivers a mere shift."""
    one, two = there[:, 1] - there[:, 0], there[:, 2] - there[:, 0]
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    thin = np.abs(area) < 0.05
    area = np.where(thin, 1.0, area)
    inverse = (
        np.stack([np.stack([two[:, 1], -two[:, 0]], 1), np.stack([-one[:, 1], one[:, 0]], 1)], 1)
        / area[:, None, None]
    )
    sides = np.stack([back[:, 1] - back[:, 0], back[:, 2] - back[:, 0]], 2)
    linear = sides @ inverse
    linear[thin] = np.eye(2)
    shift = back[:, 0] - (linear @ there[:, 0, :, None])[..., 0]
    return np.concatenate([linear, shift[..., None]], 2).astype(np.float32)


def fit(folder: Path) -> dict[str, object]:
    """Topology of the mesh and mean of a folder's meshes, eyes moved to (-1/2, 0) and (1/2, 0)."""
    topology = json.loads((folder / "landmarks478.json").read_text())
    edges = sorted({tuple(sorted(edge)) for edge in topology["edges"]})
    five = {}
    with (folder / "provenance.csv").open(newline="") as rows:
        for row in csv.DictReader(rows):
            five[row["file"]] = np.array(row["lm5"].split(), float).reshape(5, 2)
    meshes, fives = [], []
    for name, mesh in read_meshes(folder).items():
        eyes = five[name][:2]
        along = eyes[1] - eyes[0]
        cos, sin = along / np.hypot(*along)
        turn = np.array([[cos, sin], [-sin, cos]]) / np.hypot(*along)
        affine = np.c_[turn, -turn @ eyes.mean(0)]
        meshes.append(moved(mesh, affine))
        fives.append(five[name] @ turn.T + affine[:, 2])
    return {
        "source": "topology: mediapipe face mesh, Google LLC, Apache-2.0; mean: fitted here",
        "edges": edges,
        "mean": np.median(np.array(meshes), 0).round(3).tolist(),
        "landmarks": np.median(fives, 0).round(4).tolist(),
    }


def read_meshes(folder: Path) -> dict[str, Mesh]:
    """Meshes by the name of their picture, in its pixels; none where the folder has no file.

    Meshes that disagree with the five landmarks are left out.

    Raises:
        UsageError: the file cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            names, points, disagreement = file["files"], file["points"], file["disagreement"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as dense landmarks: {error}") from error
    if points.shape[1:] != (POINTS, 3):
        raise UsageError(f"{path} holds points of shape {points.shape}, not (n, {POINTS}, 3)")
    return {
        str(name): mesh.astype(np.float32) / 4
        for name, mesh, apart in zip(names, points, disagreement, strict=True)
        if apart <= LARGEST_DISAGREEMENT
    }


def main(faces: Path) -> None:
    """Fit the mean mesh of a folder of faces and write it beside this file."""
    with exit_on_error("mesh", OSError, ValueError, KeyError):
        _FILE.write_text(json.dumps(fit(faces), separators=(",", ":")) + "\n")
    typer.echo(f"wrote {_FILE}")


if __name__ == "__main__":
    typer.run(main)
