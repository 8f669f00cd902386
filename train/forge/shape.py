"""The mean face shape: 189 points that five landmarks place on any face.

`python -m train.forge.shape LANDMARKS.json PROVENANCE.csv` fits it from hand-placed points (Face
Research Lab London Set, CC BY 4.0) and writes mean_face.json beside this file.
"""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from train.command import exit_on_error

Points = NDArray[np.float64]  # (n, 2) x, y in pixels

_FILE = Path(__file__).with_name("mean_face.json")
POINTS = 189

# Indices into the 189 points of the London set's template.
JAW = (109, 110, 111, 125, 126, 127, 128, 129, 130, 131, 132, 133, 114, 113, 112)
FOREHEAD = (134, 135, 136, 137, 138, 139, 140, 141, 142, 143, 144)
LEFT_BROW = (71, 72, 73, 74, 75, 76, 84, 83)
RIGHT_BROW = (77, 78, 79, 80, 81, 82, 86, 85)
LEFT_EYE = (34, 35, 36, 37, 38, 22, 28, 29, 30, 46, 45, 44, 18)
RIGHT_EYE = (39, 40, 41, 42, 43, 23, 31, 32, 33, 47, 48, 49, 27)
NOSE = (50, 56, 60, 66, 67, 68, 69, 70, 172, 55, 170, 65, 64, 63, 62, 61, 54)
MOUTH = (87, 88, 89, 90, 91, 92, 93, 108, 107, 106, 105, 104)
LEFT_EAR = (115, 116, 117, 118, 119)
RIGHT_EAR = (120, 121, 122, 123, 124)
HAIR = (148, 149, 150, 151, 152, 153, 154)
LEFT_CHEEK = (109, 110, 111, 125, 126, 87, 62, 44, 34)
RIGHT_CHEEK = (112, 113, 114, 133, 132, 93, 67, 49, 43)
PHILTRUM = (158, 161, 162, 159, 176, 178)

# A mask is the union of the convex hulls of these groups.
REGIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "face": (JAW + FOREHEAD,),
    "inner face": (JAW + LEFT_BROW + RIGHT_BROW,),
    "features": (LEFT_BROW + RIGHT_BROW + LEFT_EYE + RIGHT_EYE + NOSE + MOUTH,),
    "parts": (LEFT_BROW + LEFT_EYE, RIGHT_BROW + RIGHT_EYE, NOSE, MOUTH + PHILTRUM),
    "eyes": (LEFT_BROW + LEFT_EYE + RIGHT_BROW + RIGHT_EYE,),
    "nose": (NOSE,),
    "mouth": (MOUTH + PHILTRUM,),
    "lower face": (JAW[2:13] + NOSE,),
    "forehead": (FOREHEAD + LEFT_BROW + RIGHT_BROW,),
    "head": (JAW + LEFT_EAR + RIGHT_EAR + HAIR,),
    "jaw and parts": (JAW + MOUTH, NOSE, LEFT_BROW + LEFT_EYE, RIGHT_BROW + RIGHT_EYE),
    "upper face": (FOREHEAD + LEFT_EYE + RIGHT_EYE + (109, 112),),
    "brows": (LEFT_BROW, RIGHT_BROW),
    "left eye": (LEFT_BROW + LEFT_EYE,),
    "right eye": (RIGHT_BROW + RIGHT_EYE,),
    "cheeks": (LEFT_CHEEK, RIGHT_CHEEK),
}


@cache
def mean_face() -> tuple[Points, Points]:
    """The mean shape and the mean of the five landmarks, in units of the distance of the eyes."""
    data = json.loads(_FILE.read_text())
    return np.array(data["points"]), np.array(data["landmarks"])


def place(landmarks: Points) -> Points:
    """Put the mean shape on a face by the affine map that fits its five landmarks best.

    Args:
        landmarks: (5, 2) left eye, right eye, nose, left and right corner of the mouth.

    Returns:
        (189, 2) in the same pixels.
    """
    points, five = mean_face()
    known = np.c_[five, np.ones(5)]
    affine, *_ = np.linalg.lstsq(known, landmarks, rcond=None)
    placed: Points = np.c_[points, np.ones(len(points))] @ affine
    return placed


def eye_distance(landmarks: Points, least: float = 2.0) -> float:
    """Distance between the eyes in pixels, the measure of a face; never below `least`."""
    return max(float(np.hypot(*(landmarks[1] - landmarks[0]))), least)


def pixel_grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y of every pixel: (height, width) float32 each."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def surroundings(
    points: NDArray[np.floating], height: int, width: int, margin: float
) -> tuple[slice, slice]:
    """The rows and columns of a picture in which points (n, 2 or more) lie, and `margin` more."""
    (left, top), (right, bottom) = points[:, :2].min(0) - margin, points[:, :2].max(0) + margin
    rows = slice(int(np.clip(top, 0, height - 2)), int(np.clip(bottom + 1, 2, height)))
    columns = slice(int(np.clip(left, 0, width - 2)), int(np.clip(right + 1, 2, width)))
    return rows, columns


def draw(region: str, points: Points, height: int, width: int) -> NDArray[np.float32]:
    """The filled hulls of a region: (height, width) float32, 0 or 1.

    Raises:
        KeyError: no region has that name.
    """
    mask = np.zeros((height, width), np.uint8)
    for group in REGIONS[region]:
        hull = cv2.convexHull(points[list(group)].astype(np.float32))
        cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 1)
    return mask.astype(np.float32)


def fit(landmarks: Path, provenance: Path) -> dict[str, list[list[float]]]:
    """Mean of all complete shapes after moving each face's eyes to (-1/2, 0) and (1/2, 0)."""
    five = {}
    with provenance.open(newline="") as rows:
        for row in csv.DictReader(rows):
            five[row["file"]] = np.array(row["lm5"].split(), float).reshape(5, 2)
    shapes, fives = [], []
    for name, values in json.loads(landmarks.read_text()).items():
        if len(values) != POINTS:
            continue  # a few entries follow another template
        eyes = five[name][:2]
        along = eyes[1] - eyes[0]
        distance = float(np.hypot(*along))
        cos, sin = along / distance
        turn = np.array([[cos, sin], [-sin, cos]]) / distance
        shapes.append((np.array(values) - eyes.mean(0)) @ turn.T)
        fives.append((five[name] - eyes.mean(0)) @ turn.T)
    return {
        "points": np.mean(shapes, 0).round(4).tolist(),
        "landmarks": np.mean(fives, 0).round(4).tolist(),
    }


def main(landmarks: Path, provenance: Path) -> None:
    """Fit the mean face to hand-placed points and write it beside this file."""
    with exit_on_error("shape", OSError, ValueError, KeyError):
        _FILE.write_text(json.dumps(fit(landmarks, provenance)) + "\n")
    typer.echo(f"wrote {_FILE}")


if __name__ == "__main__":
    typer.run(main)
