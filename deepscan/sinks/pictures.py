"""The pictures of a page, kept while frames pass: so that nobody has to decode them once more.

Which frames are worth showing is known only with the verdict. So of each face the strongest frame
of every short stretch is kept; where they become too many, stretches are joined two by two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deepscan.faces.crop import square
from deepscan.sinks.key_frames import KeyFrame, key_frame, thumbnail
from deepscan.types import Box, FacePrediction, FrameResult, Image, Planes, UnscoredFace

STRETCH = 0.25  # seconds with a strongest frame of their own, to begin with
MOST = 96  # frames kept: 20 MB of pictures
FACES = 64  # portraits kept: 5 MB
PORTRAIT = 160  # pixels of a face card's picture


@dataclass(frozen=True, slots=True)
class _Portrait:
    quality: float
    picture: Image


class Portraits:
    """The best picture of each face so far: people recognise large, sharp ones."""

    def __init__(self) -> None:
        self._held: dict[int, _Portrait] = {}

    def add_judged(self, result: FrameResult, prediction: FacePrediction) -> None:
        """Take a face that was judged."""
        crop = prediction.crop
        self._add(crop.face.track_id, crop.sharpness + 1, crop.box, result)

    def add_unscored(self, result: FrameResult, unscored: UnscoredFace) -> None:
        """Take a face that was not judged, which is shown if it never is."""
        face = unscored.face
        self._add(face.track_id, 0.0, square(face.box, 1.3), result)

    def of(self, track_id: int) -> Image | None:
        """The picture of a face, (PORTRAIT, PORTRAIT, 3)."""
        held = self._held.get(track_id)
        return None if held is None else held.picture

    def keep(self, most: int) -> None:
        """Let the smallest and most blurred go until `most` are left."""
        over = max(0, len(self._held) - most)
        for track_id in sorted(self._held, key=lambda each: self._held[each].quality)[:over]:
            del self._held[track_id]

    def _add(self, track_id: int | None, sharpness: float, box: Box, result: FrameResult) -> None:
        image = result.frame.planes or result.frame.image
        if track_id is None or not (isinstance(image, Planes) or image.size):
            return
        # A new picture has to be clearly better, or a face that comes closer would be cut out again
        # in every frame.
        quality = sharpness * max(1.0, box.area) + box.area * 1e-3
        held = self._held.get(track_id)
        if held is None or quality > 1.15 * held.quality:
            self._held[track_id] = _Portrait(quality, thumbnail(image, box, PORTRAIT))


class Pictures:
    """What the page may show of all faces: `portraits`, and `frames` in the order of time."""

    def __init__(self) -> None:
        self.portraits = Portraits()
        self._stretch = STRETCH
        self._frames: dict[tuple[int, int], KeyFrame] = {}  # by face and stretch

    def add(self, result: FrameResult) -> None:
        """Take the next frame, with its picture."""
        for prediction in result.faces:
            track_id = prediction.crop.face.track_id
            if track_id is None:
                continue
            self.portraits.add_judged(result, prediction)
            slot = track_id, int(result.frame.time / self._stretch)
            held = self._frames.get(slot)
            if held is None or prediction.score > held.score:
                self._frames[slot] = key_frame(result, prediction, track_id)
        for unscored in result.unscored:
            self.portraits.add_unscored(result, unscored)
        self.portraits.keep(FACES)
        while len(self._frames) > MOST:
            self._join()

    def frames(self) -> Iterator[KeyFrame]:
        """Of each face the strongest frame of every stretch."""
        yield from sorted(self._frames.values(), key=lambda frame: frame.index)

    def _join(self) -> None:
        """Make stretches twice as long; where that changes nothing, let the weakest frame go."""
        self._stretch *= 2
        joined: dict[tuple[int, int], KeyFrame] = {}
        for frame in self._frames.values():
            slot = frame.track_id, int(frame.time / self._stretch)
            if slot not in joined or frame.score > joined[slot].score:
                joined[slot] = frame
        if len(joined) == len(self._frames):
            weakest = min(joined, key=lambda slot: joined[slot].score)
            del joined[weakest]
        self._frames = joined
