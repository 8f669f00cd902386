"""Saying which faces of two pictures are the same, and where the picture is cut.

A track is one face over time. Its number is never used twice, and a cut ends every track: what lies
on both sides of a cut is not one face, even where the boxes agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepscan.types import Box, Face, Image

MAX_GAP = 0.5  # seconds that a track outlives its last sighting; a head that turns away and back
MAX_SHIFT = 0.8  # of the longer box side: how far a face may move between two sightings
MAX_GROWTH = 1.7  # ratio of box sides between two sightings

# Measured on clips and on cuts between photographs: frames that follow each other correlate above
# 0.96 (0.68 in a pan by a tenth of the width), cuts mostly below 0.85. Pans change up to 0.09 of
# the histogram, cuts 0.11 and more. Flashes change the histogram, but the layout correlates.
CUT_CORRELATION = 0.85
CUT_HISTOGRAM = 0.10
CUT_DIFFERENCE = 6.0  # grey levels; below it dark and flat pictures are noise to the other two
_GRID, _CELL = 64, 4

Thumbnail = NDArray[np.uint8]  # (64, 64, 3) uint8 RGB, point samples


@dataclass(frozen=True, slots=True)
class _Seen:
    face: Face
    time: float


class Tracker:
    """Names faces in pictures that come in order of time. One tracker follows one video."""

    def __init__(self) -> None:
        self._next = 0
        self._current: list[_Seen] = []
        self._lost: list[_Seen] = []

    def name(self, time: float, faces: Sequence[Face]) -> tuple[Face, ...]:
        """The same faces in the same order, each with its `track_id`.

        A face continues a track of the picture named before, else one that was lost no longer than
        `MAX_GAP` seconds ago; otherwise it begins a new track.
        """
        self._lost = [seen for seen in self._lost if time - seen.time <= MAX_GAP]
        named: dict[int, Face] = {}
        for pool in (self._current, self._lost):
            open_faces = [index for index in range(len(faces)) if index not in named]
            pairs = match(
                [seen.face.box for seen in pool],
                [faces[index].box for index in open_faces],
                near,
            )
            for old, new in pairs:
                index = open_faces[new]
                named[index] = dataclasses.replace(faces[index], track_id=pool[old].face.track_id)
            taken = {old for old, _ in pairs}
            rest = [seen for index, seen in enumerate(pool) if index not in taken]
            if pool is self._current:
                missed = rest
            else:
                self._lost = rest
        self._lost += [seen for seen in missed if time - seen.time <= MAX_GAP]
        for index, face in enumerate(faces):
            if index not in named:
                named[index] = dataclasses.replace(face, track_id=self._next)
                self._next += 1
        result = tuple(named[index] for index in range(len(faces)))
        self._current = [_Seen(face, time) for face in result]
        return result

    def cut(self) -> None:
        """End all tracks."""
        self._current, self._lost = [], []


def match(
    old: Sequence[Box], new: Sequence[Box], allowed: Callable[[Box, Box], bool]
) -> list[tuple[int, int]]:
    """Pair boxes one to one, the pair with the greatest overlap first; (old, new) indices.

    Boxes that do not overlap follow, the nearest first. Only allowed pairs are made.
    """
    candidates = []
    for i, before in enumerate(old):
        for j, after in enumerate(new):
            if allowed(before, after):
                candidates.append((-before.iou(after), _shift(before, after), i, j))
    pairs = []
    used_old: set[int] = set()
    used_new: set[int] = set()
    for _, _, i, j in sorted(candidates):
        if i not in used_old and j not in used_new:
            pairs.append((i, j))
            used_old.add(i)
            used_new.add(j)
    return pairs


def near(a: Box, b: Box) -> bool:
    """True if two boxes may be one face in neighbouring pictures, by size and place."""
    small, large = sorted((max(a.width, a.height), max(b.width, b.height)))
    return large <= MAX_GROWTH * small and _shift(a, b) <= MAX_SHIFT * large


def thumbnail(image: Image) -> Thumbnail:
    """A (64, 64, 3) uint8 sample of a picture of any size, for `is_cut`. An empty one is black."""
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        return np.zeros((_GRID, _GRID, 3), np.uint8)
    places = np.arange(_GRID) * 2 + 1
    rows, columns = places * height // (2 * _GRID), places * width // (2 * _GRID)
    sample: Thumbnail = image[rows[:, None], columns]
    return sample


def is_cut(before: Thumbnail, after: Thumbnail) -> bool:
    """True if a cut lies between two neighbouring frames.

    A cut changes the layout and the colours. Motion and pans keep the colours, fades and flashes
    keep the layout. Two shots of one framing before one background may pass for no cut; a flash to
    pure white looks like a cut.
    """
    a, b = _blocks(before), _blocks(after)
    if float(np.abs(a - b).mean()) < CUT_DIFFERENCE:
        return False
    if float(np.abs(_histogram(before) - _histogram(after)).sum()) / 2 < CUT_HISTOGRAM:
        return False
    return _correlation(a, b) < CUT_CORRELATION


def _shift(a: Box, b: Box) -> float:
    (ax, ay), (bx, by) = a.centre, b.centre
    return float(np.hypot(ax - bx, ay - by))


def _blocks(thumb: Thumbnail) -> NDArray[np.float32]:
    """Mean colour of 16x16 blocks."""
    count = _GRID // _CELL
    blocks = thumb.reshape(count, _CELL, count, _CELL, 3)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def _histogram(thumb: Thumbnail) -> NDArray[np.float64]:
    """Shares of the 64 colours of two bits a channel."""
    bits = (thumb >> 6).reshape(-1, 3).astype(np.intp)
    return np.bincount(bits @ np.array([16, 4, 1]), minlength=64) / len(bits)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Greatest correlation of two block pictures, shifted by up to one block; 0 for flat ones."""
    best = 0.0
    count = a.shape[0]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            p = a[max(0, dy) : count + min(0, dy), max(0, dx) : count + min(0, dx)]
            q = b[max(0, -dy) : count + min(0, -dy), max(0, -dx) : count + min(0, -dx)]
            p, q = p - p.mean(axis=(0, 1)), q - q.mean(axis=(0, 1))
            energy = float(np.sqrt((p * p).sum() * (q * q).sum()))
            if energy > 0:
                best = max(best, float((p * q).sum()) / energy)
    return best
