"""Paints the frames of a verdict video: marked areas, face boxes, labels, and the strip below.

Inside a manipulated or suspicious interval the mask is tinted and hatched. Where the network marked
pixels outside any interval, only their outline is drawn. A judged face without a finding has a thin
box, a face that was not judged a dashed box with the reason. Labels are placed beside faces and
cover a face only if there is no other place.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from deepscan.faces.crop import paste
from deepscan.sinks import draw
from deepscan.sinks.draw import Area
from deepscan.sinks.footer import lay_out, show
from deepscan.sinks.styles import NIGHT, Mark
from deepscan.sinks.surface import Surface
from deepscan.types import Box, FacePrediction, Frame, FrameResult, Interval, Planes, Scan
from deepscan.video.planes import PlanesConverter, default_for, matrix_to_write, samples_of
from deepscan.wording import probability

THRESHOLD = 0.5  # P(manipulated) from which a pixel counts as marked

_UNJUDGED = {
    "too_small": "too small",
    "too_blurred": "too blurred",
    "limit_faces": "too many faces",
}
_MIN_WIDTH = 320  # pixels; below that the texts in the strip do not fit
_ORDER = (Mark.UNJUDGED, Mark.JUDGED, Mark.SUSPICIOUS, Mark.MANIPULATED)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One face in one frame, ready to draw; `labels` are its possible labels, longest first."""

    area: Area
    mark: Mark
    labels: tuple[str, ...]
    track_id: int | None
    prediction: FacePrediction | None = None


class Canvas:
    """Paints frame results of one scan, each over the last in one buffer.

    It paints into 4:2:0 planes, the format of decoder and encoder; RGB frames are converted first.
    """

    def __init__(self, scan: Scan, width: int, height: int, aspect: float = 1.0) -> None:
        """Prepare for pictures of `width` x `height` pixels.

        `aspect` is the width of a pixel over its height when shown; text is narrowed by it.
        """
        video = scan.verdict.video
        self._still = video is not None and video.still
        self._intervals: defaultdict[int | None, list[Interval]] = defaultdict(list)
        for interval in scan.verdict.intervals:
            self._intervals[interval.track_id].append(interval)
        # Without a calibration a score is no judgement: nothing may look like "no evidence".
        self._quiet = Mark.JUDGED if scan.verdict.calibration is not None else Mark.UNJUDGED
        self._aspect = aspect
        size = max(11, round(0.021 * math.sqrt(width * height)))
        self._size = max(10, round(0.82 * size))
        self._line = max(1, round(size / 10))
        whole = max(width, _MIN_WIDTH)
        whole += whole % 2
        self._footer = lay_out(scan, whole, height, size, aspect)
        total = height + self._footer.strip.shape[0]
        matrix = matrix_to_write(video, whole, total) if video else default_for(whole, total)
        self._converter = PlanesConverter(matrix)
        self._whole = Planes(np.empty(Planes.count(whole, total), np.uint8), whole, total, matrix)
        self._surface = Surface.of(self._whole)
        empty = np.empty((total, whole, 3), np.uint8)
        empty[:] = NIGHT
        empty[height:] = self._footer.strip
        self._empty = [plane.copy() for plane in samples_of(self._converter.convert(empty))]
        self._surface.copy(*self._empty)
        left = (whole - width) // 4 * 2  # even, as a part of the planes has to begin
        self._picture = self._surface.part(Area(left, 0, left + width, height))
        self._top = height
        self._slots: dict[int | None, int] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the painted picture, both even."""
        return self._whole.height, self._whole.width

    def paint(self, result: FrameResult) -> Planes:
        """Paint one result; the picture is valid until the next call."""
        self._clear_strip()
        self._place(result.frame)
        sightings = self._sightings(result)
        for sighting in sightings:
            self._tint(sighting)
        for sighting in sightings:
            line = self._line_for(sighting.area)
            self._picture.frame(sighting.area, sighting.mark.value, line)
        self._label(sightings)
        show(self._surface, self._top, self._footer, result.frame.time, result.analysed)
        return self._whole

    def _clear_strip(self) -> None:
        luma, blue, red = self._empty
        top, half = self._top, self._top // 2
        self._surface.luma[top:] = luma[top:]
        self._surface.blue[half:], self._surface.red[half:] = blue[half:], red[half:]

    def _place(self, frame: Frame) -> None:
        """Copy the frame; one of another size than announced is cropped or padded."""
        if frame.planes is not None:
            self._picture.copy(frame.planes.luma, frame.planes.blue, frame.planes.red)
            return
        if frame.image.shape[:2] != (self._picture.height, self._picture.width):
            self._surface.copy(*self._empty)
        if frame.image.size:
            self._picture.copy(*samples_of(self._converter.convert(frame.image)))

    def _sightings(self, result: FrameResult) -> list[Sighting]:
        """List all faces of the frame, the strongest finding last."""
        sightings = []
        for prediction in result.faces:
            face = prediction.crop.face
            mark = self._mark(face.track_id, result.frame.time)
            score = probability(prediction.score)
            labels = _labels(face.track_id, score, score, bare=mark is self._quiet)
            sightings.append(
                Sighting(self._area(face.box), mark, labels, face.track_id, prediction)
            )
        for unscored in result.unscored:
            face = unscored.face
            reason = _UNJUDGED.get(unscored.reason, unscored.reason.replace("_", " "))
            labels = _labels(face.track_id, f"not judged: {reason}", reason, bare=True)
            sightings.append(Sighting(self._area(face.box), Mark.UNJUDGED, labels, face.track_id))
        seen = [sighting for sighting in sightings if sighting.area.width and sighting.area.height]
        return sorted(seen, key=lambda sighting: _ORDER.index(sighting.mark))

    def _mark(self, track_id: int | None, time: float) -> Mark:
        marks = [
            Mark.of(interval.label)
            for interval in self._intervals.get(track_id, ())
            # An interval of a still picture may have no length.
            if self._still or interval.start <= time < interval.end
        ]
        return max(marks, key=_ORDER.index, default=self._quiet)

    def _area(self, box: Box) -> Area:
        """The whole pixels of a box that lie in the picture."""
        height, width = self._picture.height, self._picture.width
        x1, y1 = (min(max(0, math.floor(v)), n) for v, n in ((box.x1, width), (box.y1, height)))
        x2, y2 = (min(max(0, math.ceil(v)), n) for v, n in ((box.x2, width), (box.y2, height)))
        return Area(x1, y1, max(x1, x2), max(y1, y2))

    def _tint(self, sighting: Sighting) -> None:
        prediction = sighting.prediction
        if prediction is None or prediction.mask is None:
            return
        if not (prediction.mask >= THRESHOLD).any():
            return
        height, width = self._picture.height, self._picture.width
        (rows, columns), values = paste(prediction.mask, prediction.crop.box, height, width)
        if not values.size:
            return
        inside = (values >= THRESHOLD).astype(np.uint8) * np.uint8(255)
        line = self._line_for(sighting.area)
        self._picture.mark(inside, columns.start, rows.start, sighting.mark.value, line)

    def _line_for(self, area: Area) -> int:
        """Width of a thin line: thinner round a small face, which it would hide."""
        return max(1, min(self._line, round(min(area.width, area.height) / 48)))

    def _label(self, sightings: list[Sighting]) -> None:
        faces = [sighting.area for sighting in sightings]
        taken: list[Area] = []
        few = len(sightings) <= 3
        for sighting in reversed(sightings):
            room = 0.45 * self._picture.width if few else 1.5 * sighting.area.width
            sprite = self._sprite(sighting, room)
            slots = self._slots_for(sighting.area, sprite.width, sprite.height)
            held = self._slots.get(sighting.track_id, 0)
            # A label that jumps cannot be read, so its place in the last frame is tried first.
            order = [held, *(n for n in range(len(slots)) if n != held)]

            def cost(n: int, slots: list[Area] = slots) -> int:
                place = slots[n]
                hidden = sum(place.common(face) for face in faces)
                return hidden + 2 * sum(place.common(other) for other in taken)

            best = min(order, key=cost)
            self._slots[sighting.track_id] = best
            taken.append(slots[best])
            self._picture.blit(sprite, slots[best].x1, slots[best].y1)

    def _sprite(self, sighting: Sighting, room: float) -> Pillow.Image:
        """The longest label that is at most `room` pixels wide, else the shortest."""
        for label in sighting.labels:
            sprite = draw.label(label, sighting.mark.value, self._size, self._aspect)
            if sprite.width <= room:
                break
        return sprite

    def _slots_for(self, face: Area, width: int, height: int) -> list[Area]:
        """Six places for a label beside a face, best first, all inside the picture."""
        gap = 2 * self._line + 1
        above, below = face.y1 - height - gap, face.y2 + gap
        corners = (
            (face.x1, above),
            (face.x2 - width, above),
            (face.x1, below),
            (face.x2 - width, below),
            (face.x2 + gap, face.y1),
            (face.x1 - width - gap, face.y1),
        )
        rows, columns = self._picture.height, self._picture.width
        places = []
        for left, upper in corners:
            x = max(0, min(left, columns - width))
            y = max(0, min(upper, rows - height))
            places.append(Area(x, y, x + width, y + height))
        return places


def _labels(track_id: int | None, long: str, short: str, *, bare: bool) -> tuple[str, ...]:
    """Labels for a face, the longest first; the last may be the bare number of its track."""
    if track_id is None:
        return (long, short)
    labels = (f"face {track_id} · {long}", f"{track_id} · {short}")
    return (*labels, f"{track_id}") if bare else labels
