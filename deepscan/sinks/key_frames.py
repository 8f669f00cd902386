"""Selects the strongest frames of a scan and keeps them as thumbnails, with and without mask."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepscan.faces.crop import square
from deepscan.faces.turned import turn_picture
from deepscan.types import (
    Box,
    FacePrediction,
    FaceTrack,
    FrameResult,
    Image,
    Interval,
    Label,
    Mask,
    Planes,
)
from deepscan.video.planes import cut_out

STRONGEST = 6  # frames shown
SLOTS = 24  # frames kept for the faces, and the most intervals with frames
PARTS = 3  # of an interval; the strongest frame of each is kept
APART = 0.5  # seconds between two frames shown of one face
SIDE = 256  # pixels of a thumbnail
CONTEXT = 1.25  # side of a thumbnail over the side of the crop: neck and hair help people
ORDER = {Label.MANIPULATED: 0, Label.SUSPICIOUS: 1}  # the more serious first

_VERMILLION = (213.0, 94.0, 0.0)


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """A frame worth showing: the face with its surroundings, and the mask of its crop.

    `mask` and `mask_share` are None of a model that has no mask.
    """

    track_id: int
    time: float
    index: int
    score: float
    mask_share: float | None
    picture: Image  # (SIDE, SIDE, 3)
    mask: Mask | None  # (h, w) over the crop


class KeyFrames:
    """The strongest frames seen so far: one for each interval, a few for each face."""

    def __init__(self, tracks: Iterable[FaceTrack], intervals: Iterable[Interval]) -> None:
        self._tracks = {track.track_id: track for track in tracks}
        self._intervals = sorted(
            (each for each in intervals if each.track_id in self._tracks),
            key=lambda each: (ORDER[each.label], -each.score),
        )[:SLOTS]
        # The number of slots bounds memory, whatever the number of faces.
        self._parts = max(1, min(STRONGEST, SLOTS // max(1, len(self._tracks))))
        self._held: dict[tuple[str, int, int], KeyFrame] = {}

    def add(self, result: FrameResult, prediction: FacePrediction) -> None:
        """Keep the frame if its score is the highest of its interval or part of its track."""
        track_id = prediction.crop.face.track_id
        if track_id is not None:
            slots = self._slots(track_id, result.frame.time, prediction.score)
            if slots:
                self._held.update(dict.fromkeys(slots, key_frame(result, prediction, track_id)))

    def take(self, frame: KeyFrame) -> None:
        """As `add`, of a frame that was made before."""
        self._held.update(
            dict.fromkeys(self._slots(frame.track_id, frame.time, frame.score), frame)
        )

    def _slots(self, track_id: int, time: float, score: float) -> list[tuple[str, int, int]]:
        """Where a frame with this score is the strongest so far."""
        track = self._tracks.get(track_id)
        if track is None:
            return []
        span = max(track.end - track.start, 1e-6)
        part = min(max(int((time - track.start) / span * self._parts), 0), self._parts - 1)
        slots = [("track", track.track_id, part)]
        slots += [
            ("interval", place, int((time - each.start) / max(each.end - each.start, 1e-6) * PARTS))
            for place, each in enumerate(self._intervals)
            # The interval of a still picture has no length.
            if each.track_id == track.track_id
            and (each.start <= time < each.end or each.start == time)
        ]
        return [slot for slot in slots if slot not in self._held or score > self._held[slot].score]

    def strongest(self) -> list[KeyFrame]:
        """Select at most `STRONGEST` frames, strongest first.

        Each interval gets one frame, then the strongest of the others follow; without intervals the
        same for faces. Frames outside the intervals are not shown beside a finding.
        """
        by_score = sorted(self._held.items(), key=lambda item: -item[1].score)
        if any(kind == "interval" for kind, _, _ in self._held):
            owned = [(place, frame) for (kind, place, _), frame in by_score if kind == "interval"]
        else:
            owned = [(frame.track_id, frame) for _, frame in by_score]
        first: dict[int, KeyFrame] = {}
        for owner, frame in owned:
            first.setdefault(owner, frame)
        chosen: list[KeyFrame] = []
        for frame in (*first.values(), *(frame for _, frame in owned)):
            near = any(
                frame.track_id == other.track_id and abs(frame.time - other.time) < APART
                for other in chosen
            )
            if not near and len(chosen) < STRONGEST:
                chosen.append(frame)
        return sorted(chosen, key=lambda frame: -frame.score)


def thumbnail(image: Image | Planes, box: Box, side: int) -> Image:
    """Scale the square `box` of a frame to (side, side, 3); grey outside the frame."""
    from PIL import Image as Pictures

    x1, y1 = math.floor(box.x1), math.floor(box.y1)
    span = max(1, round(max(box.width, box.height)))
    height, width = (image.height, image.width) if isinstance(image, Planes) else image.shape[:2]
    left, top = max(0, x1), max(0, y1)
    right, bottom = min(width, x1 + span), min(height, y1 + span)
    # Scale only the part inside the frame: a box may reach far beyond it.
    picture = np.full((side, side, 3), 118, np.uint8)
    if right <= left or bottom <= top:
        return picture
    scale = side / span
    a, b = round((left - x1) * scale), round((top - y1) * scale)
    c, d = max(a + 1, round((right - x1) * scale)), max(b + 1, round((bottom - y1) * scale))
    if isinstance(image, Planes):
        inside = cut_out(image, left, top, right, bottom)
    else:
        inside = image[top:bottom, left:right]
    part = Pictures.fromarray(np.ascontiguousarray(inside))
    small = part.resize((c - a, d - b), Pictures.Resampling.LANCZOS, reducing_gap=1.5)
    picture[b:d, a:c] = np.asarray(small)[: side - b, : side - a]
    return picture


def marked(picture: Image, mask: NDArray[np.float32]) -> Image:
    """Draw the mask over a grey picture: heat by value, a contour at 0.5.

    `picture` is (S, S, 3) uint8 RGB, `mask` (S, S) in [0, 1].
    """
    luma = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    base = 0.35 * picture + 0.65 * luma[..., None]
    heat = (0.5 * np.clip(mask, 0, 1))[..., None]
    mixed = base * (1 - heat) + np.array(_VERMILLION, np.float32) * heat
    inside = mask > 0.5
    edge = inside & ~_shrunk(inside)
    # A dark and a light line, so that the contour is visible on any skin and in print.
    mixed[_grown(_grown(edge))] = (20, 20, 20)
    mixed[_grown(edge) & inside] = (255, 255, 255)
    result: Image = np.rint(mixed).clip(0, 255).astype(np.uint8)
    return result


def data_uri(picture: Image) -> str:
    """Encode a picture as a JPEG data URI."""
    from PIL import Image as Pictures

    held = io.BytesIO()
    Pictures.fromarray(picture).save(held, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def key_frame(result: FrameResult, prediction: FacePrediction, track_id: int) -> KeyFrame:
    """What may be shown of one face of one frame."""
    crop = prediction.crop
    box = crop.box
    image = result.frame.planes or result.frame.image
    if (
        isinstance(image, np.ndarray) and not image.size
    ):  # nobody decoded pictures: the crop is all there is
        image = np.ascontiguousarray(turn_picture(crop.image, -crop.face.turn))
        box = Box(0, 0, image.shape[1], image.shape[0])
    context = square(box, CONTEXT)
    share = None if prediction.mask is None else float(np.mean(prediction.mask > 0.5))
    return KeyFrame(
        track_id=track_id,
        time=result.frame.time,
        index=result.frame.index,
        score=float(prediction.score),
        mask_share=share,
        picture=thumbnail(image, context, SIDE),
        mask=prediction.mask,
    )


def over_context(mask: Mask) -> NDArray[np.float32]:
    """The mask of a crop as that of the thumbnail, which shows more round the face."""
    from PIL import Image as Pictures

    whole = np.zeros((SIDE, SIDE), np.float32)
    inner = round(SIDE / CONTEXT)
    inset = (SIDE - inner) // 2
    scaled = Pictures.fromarray(np.ascontiguousarray(mask, np.float32)).resize(
        (inner, inner), Pictures.Resampling.BILINEAR
    )
    whole[inset : inset + inner, inset : inset + inner] = np.asarray(scaled)
    return whole


def _grown(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = area.copy()
    grown[1:] |= area[:-1]
    grown[:-1] |= area[1:]
    grown[:, 1:] |= area[:, :-1]
    grown[:, :-1] |= area[:, 1:]
    return grown


def _shrunk(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return ~_grown(~area)
