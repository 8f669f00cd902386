"""The parts of a frame to search for faces that two frames, before and after it, show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepscan.faces.detector import Detection
from deepscan.faces.track import match, near
from deepscan.types import Box

MARGIN = 0.5  # of a face's longer side, left on each side of where it was seen ...
PADDING = 24  # ... and so many pixels more; with both a search finds the faces of a whole search
SHRINKS = 0.8  # of its side that a face has at least, between two frames that show it
MOST = 0.5  # of a frame's area: from there on all of it is searched at once
EDGE = 2.0  # pixels from the edge of a place at which a face may be cut


@dataclass(frozen=True, slots=True)
class Place:
    """A box in whole pixels of a frame, and the least longer side of the faces expected there."""

    box: Box
    least: float

    def cuts(self, face: Box, height: int, width: int) -> bool:
        """True if a face reaches an edge of the place that is not an edge of the frame."""
        here = self.box
        return (
            (here.x1 > 0 and face.x1 < here.x1 + EDGE)
            or (here.y1 > 0 and face.y1 < here.y1 + EDGE)
            or (here.x2 < width and face.x2 > here.x2 - EDGE)
            or (here.y2 < height and face.y2 > here.y2 - EDGE)
        )


def places_of(low: Detection, high: Detection, height: int, width: int) -> list[Place]:
    """Places that do not overlap and hold the way of every face from `low` to `high`.

    Empty if neither shows a face.
    """
    before, after = [face.box for face in low.faces], [face.box for face in high.faces]
    pairs = match(before, after, near)
    ways = [(before[old], after[new]) for old, new in pairs]
    ways += [(box, box) for i, box in enumerate(before) if i not in {old for old, _ in pairs}]
    ways += [(box, box) for j, box in enumerate(after) if j not in {new for _, new in pairs}]
    places: list[Place] = []
    for a, b in ways:
        sides = max(a.width, a.height), max(b.width, b.height)
        place = Place(
            _grown(a, b, PADDING + MARGIN * max(sides), height, width), SHRINKS * min(sides)
        )
        while over := [other for other in places if place.box.iou(other.box) > 0]:
            places = [other for other in places if other not in over]
            for other in over:
                joined = _grown(place.box, other.box, 0.0, height, width)
                place = Place(joined, min(place.least, other.least))
        places.append(place)
    return places


def _grown(a: Box, b: Box, margin: float, height: int, width: int) -> Box:
    """The whole pixels of the frame in the box round both, with a margin on each side."""
    return Box(
        max(0, math.floor(min(a.x1, b.x1) - margin)),
        max(0, math.floor(min(a.y1, b.y1) - margin)),
        min(width, math.ceil(max(a.x2, b.x2) + margin)),
        min(height, math.ceil(max(a.y2, b.y2) + margin)),
    )
