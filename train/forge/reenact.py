"""Re-enactment: the same face with another expression.

Mouth opened (with a dark cavity and teeth) or pressed together, a smile, lids closed, brows moved,
the gaze turned; then the changed part, or the whole inner face as a re-enactment network draws it,
resampled and blended back.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge.artefacts import decode
from train.forge.blend import BLENDS, compose
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.selfblend import random_mask
from train.forge.shape import (
    LEFT_BROW,
    RIGHT_BROW,
    Points,
    eye_distance,
    pixel_grid,
    place,
    surroundings,
)

Floats = NDArray[np.float32]
_REGION_OF = {"mouth": "mouth", "smile": "mouth", "lids": "eyes", "brows": "brows", "gaze": "eyes"}


def reenact(face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None) -> Forged:
    """Give a face another expression."""
    height, width = face.image.shape[:2]
    points = place(face.landmarks)
    across = float(np.ptp(points[:, 0]))
    window = surroundings(face.landmarks, height, width, 1.1 * eye_distance(face.landmarks))
    corner = (window[1].start, window[0].start)
    warp = _Warp(face.image[window], face.landmarks - corner, points - corner)
    acts = _draw_acts(rng)
    for act in acts:
        _ACTS[act](warp, rng)
    source = face.image.copy()
    source[window] = warp.picture()
    moved = np.zeros((height, width), np.float32)
    moved[window] = warp.changed()
    if rng.random() < 0.45:
        # A network draws the whole inner face anew, what it moves and what it does not.
        mask, region = random_mask(face, rng, ("inner face", "face", "features", "lower face"))
        mask = np.maximum(mask, _feather(moved, across * 0.02))
        source = decode(source, across, rng, rng.uniform(0.15, 0.8))
    else:
        region = _REGION_OF[acts[0]]
        mask = _feather(moved, across * rng.uniform(0.008, 0.03))
        if rng.random() < 0.6:
            source = decode(source, across, rng, rng.uniform(0.1, 0.6))
    kind = BLENDS[rng.choice(len(BLENDS), p=(0.6, 0.25, 0.15))]
    made = compose(source, face.image, mask, kind)
    return Forged(made, face.image, mask, ("reenact", region, "+".join(acts), kind))


def _draw_acts(rng: np.random.Generator) -> list[str]:
    acts = [name for name in _ACTS if rng.random() < _SHARES[name]]
    return acts or [("mouth", "smile", "lids")[rng.integers(3)]]


def _feather(mask: Floats, sigma: float) -> Floats:
    """Soft border inside and out, 1 where it was whole and wide."""
    sigma = max(sigma, 0.6)
    wide = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)),
                      iterations=max(1, round(sigma)))  # fmt: skip
    soft = cv2.GaussianBlur(wide, (0, 0), sigma)
    return np.where(soft < 0.01, 0, np.minimum(soft, 1)).astype(np.float32)


class _Warp:
    """A displacement field over a face in the axes of the face, and paint for what it uncovers.

    `along` and `down` are unit vectors from eye to eye and towards the chin; `unit` the distance
    between the eyes in pixels.
    """

    def __init__(self, image: Picture, landmarks: Points, points: Points) -> None:
        self.image, self.landmarks, self.points = image, landmarks, points
        height, width = image.shape[:2]
        eyes = landmarks[1] - landmarks[0]
        self.unit = max(float(np.hypot(*eyes)), 2.0)
        self.along = (eyes / max(float(np.hypot(*eyes)), 1e-6)).astype(np.float32)
        self.down = np.array((-self.along[1], self.along[0]), np.float32)
        if (landmarks[3:].mean(0) - landmarks[:2].mean(0)) @ self.down < 0:
            self.down = -self.down
        self.x, self.y = pixel_grid(height, width)
        self.dx, self.dy = np.zeros_like(self.x), np.zeros_like(self.y)
        self.paint = np.zeros((height, width, 3), np.float32)
        self.cover = np.zeros((height, width), np.float32)

    def local(self, centre: NDArray[np.float64]) -> tuple[Floats, Floats]:
        """Coordinates along and down from a point, in units of the distance of the eyes."""
        x, y = (self.x - np.float32(centre[0])), (self.y - np.float32(centre[1]))
        return (
            (x * self.along[0] + y * self.along[1]) / self.unit,
            (x * self.down[0] + y * self.down[1]) / self.unit,
        )

    def fetch(
        self, along: NDArray[np.floating] | float, down: NDArray[np.floating] | float
    ) -> None:
        """Take the picture from so far away (units of the distance of the eyes)."""
        x, y = (
            along * self.along[0] + down * self.down[0],
            along * self.along[1] + down * self.down[1],
        )
        self.dx += np.asarray(x * self.unit, np.float32)
        self.dy += np.asarray(y * self.unit, np.float32)

    def lay(self, colour: NDArray[np.float32], cover: Floats) -> None:
        """Paint over what is uncovered."""
        self.paint += (colour - self.paint) * cover[..., None]
        self.cover = np.maximum(self.cover, cover)

    def changed(self) -> Floats:
        """1 where the picture moved by what can be seen or was painted."""
        far = np.hypot(self.dx, self.dy)
        moved = far > max(0.35, 0.006 * self.unit, 0.2 * float(far.max()))
        return (moved | (self.cover > 0.05)).astype(np.float32)

    def picture(self) -> Picture:
        warped = cv2.remap(
            self.image, self.x + self.dx, self.y + self.dy, cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip
        mixed = warped + (self.paint - warped) * self.cover[..., None]
        return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def _mouth(warp: _Warp, rng: np.random.Generator) -> None:
    """Open the mouth over a dark cavity, teeth at times, or press it together."""
    corners = warp.landmarks[3:]
    half = max(float(np.hypot(*(corners[1] - corners[0]))) / 2 / warp.unit, 0.1)
    u, v = warp.local(corners.mean(0))
    sag = (1 - (u / half) ** 2).clip(-1, 1) * np.float32(rng.uniform(-0.03, 0.05))
    v = v - sag.astype(np.float32)
    if rng.random() < 0.25:
        squeeze = np.float32(rng.uniform(0.15, 0.45))  # more of the picture on fewer pixels
        near = np.exp(-((u / (1.1 * half)) ** 4) - (v / 0.28) ** 2)
        warp.fetch(0.0, v * squeeze * near)
        return
    gap = rng.uniform(0.06, 0.28)
    profile = np.clip(1 - (u / half) ** 2, 0, 1) ** rng.uniform(0.6, 1.0)
    lower, upper = (np.float32(gap * share) * profile for share in (0.8, 0.2))
    reach = max(0.62, 2.2 * gap)
    below = np.clip((v - lower) / reach, 0, 1)
    above = np.clip((-v - upper) / 0.3, 0, 1)
    # Cheeks beside the mouth follow the jaw.
    side = np.exp(-(((np.abs(u) / half).clip(1, None) - 1) ** 2) / 0.18)
    jaw = np.float32(gap * 0.8) * side * np.float32(rng.uniform(0.3, 0.6)) * (np.abs(u) > half)
    ease = (1 - below) ** 2 * (1 + 2 * below)
    warp.fetch(0.0, np.where(v > 0, -(np.maximum(lower, jaw)) * ease * (v > -0.02), 0))
    warp.fetch(0.0, np.where(v < 0, upper * (1 - above) ** 2, 0))
    inside = ((v < lower) & (v > -upper)).astype(np.float32)
    inside = cv2.GaussianBlur(inside, (0, 0), max(0.5, 0.012 * warp.unit)) * (profile > 0.02)
    skin = _colour_near(warp, corners.mean(0), 0.25)
    dark = skin * np.array((0.30, 0.18, 0.16), np.float32) * np.float32(rng.uniform(0.4, 1.2))
    colour = np.broadcast_to(dark, warp.image.shape).astype(np.float32)
    if rng.random() < 0.6:
        bright = min(float(skin.mean()) * rng.uniform(1.0, 1.35), 235.0)
        tooth = np.array((1.0, 0.95, 0.86), np.float32) * np.float32(bright)
        edge = -upper + np.float32(gap * rng.uniform(0.25, 0.6)) * profile
        gaps = 1 - 0.25 * (np.abs(np.sin(np.float32(np.pi / 0.085) * u)) < 0.2)
        fade = np.float32(1) - 0.35 * (u / half) ** 2
        teeth = cv2.GaussianBlur((v < edge).astype(np.float32), (0, 0), max(0.5, 0.01 * warp.unit))
        colour = colour + (tooth * (gaps * fade)[..., None] - colour) * teeth[..., None]
    if rng.random() < 0.35:
        tongue = np.clip((v - lower * 0.35) / 0.06, 0, 1)[..., None]
        colour = colour + (skin * np.array((0.75, 0.5, 0.5), np.float32) - colour) * tongue * 0.7
    warp.lay(colour.astype(np.float32), np.clip(inside, 0, 1))


def _smile(warp: _Warp, rng: np.random.Generator) -> None:
    """Corners of the mouth up and out, or down."""
    lift, spread = rng.uniform(-0.09, 0.13), rng.uniform(-0.06, 0.11)
    lift += 0.03 if lift > 0 else -0.03
    for corner, way in zip(warp.landmarks[3:], (-1, 1), strict=True):
        u, v = warp.local(corner)
        near = np.exp(-(u**2 + v**2) / np.float32(2 * rng.uniform(0.13, 0.2) ** 2))
        warp.fetch(-way * spread * near, lift * near)


def _lids(warp: _Warp, rng: np.random.Generator) -> None:
    """Draw the upper lid down: skin from below the brow is stretched over the eye."""
    closed = rng.uniform(0.45, 1.0)
    both = rng.random() < 0.85
    for eye in warp.landmarks[:2] if both else warp.landmarks[[rng.integers(2)]]:
        u, v = warp.local(eye)
        half = rng.uniform(0.2, 0.25)
        profile = np.clip(1 - (u / half) ** 2, 0, 1) ** np.float32(0.7)
        top, bottom = -0.085 * profile, (-0.085 + 0.165 * closed) * profile
        start = np.float32(-rng.uniform(0.17, 0.22))
        # [start, top] of the picture is shown over [start, bottom].
        share = (top - start) / np.maximum(bottom - start, 1e-3)
        over = ((v > start) & (v < bottom) & (profile > 0)).astype(np.float32)
        warp.fetch(0.0, over * ((start + (v - start) * share) - v))
        lash = np.exp(-(((v - bottom) / np.float32(0.018)) ** 2)) * (profile > 0.15)
        skin = _colour_near(warp, eye - warp.down * warp.unit * 0.2, 0.1)
        warp.lay(
            np.broadcast_to(skin * 0.35, warp.image.shape).astype(np.float32),
            (lash * np.float32(rng.uniform(0.3, 0.8)) * (profile**0.3)).astype(np.float32),
        )


def _brows(warp: _Warp, rng: np.random.Generator) -> None:
    lift = rng.choice((-1, 1)) * rng.uniform(0.04, 0.12)
    for group in (LEFT_BROW, RIGHT_BROW):
        u, v = warp.local(warp.points[list(group)].mean(0))
        near = np.exp(-((u / 0.24) ** 2) - (v / 0.11) ** 2)
        warp.fetch(0.0, lift * rng.uniform(0.6, 1.0) * near)


def _gaze(warp: _Warp, rng: np.random.Generator) -> None:
    """Move the iris within the eye."""
    aside, up = rng.choice((-1, 1)) * rng.uniform(0.04, 0.085), rng.uniform(-0.02, 0.02)
    for eye in warp.landmarks[:2]:
        u, v = warp.local(eye)
        near = np.exp(-((u / 0.13) ** 4) - (v / 0.075) ** 4)
        warp.fetch(-np.float32(aside) * near, -np.float32(up) * near)


def _colour_near(warp: _Warp, centre: NDArray[np.float64], radius: float) -> Floats:
    """Mean colour round a point: (3,) float32."""
    height, width = warp.image.shape[:2]
    reach = max(2, round(radius * warp.unit))
    x, y = (int(np.clip(value, 0, side - 1))
            for value, side in zip(centre, (width, height), strict=True))  # fmt: skip
    part = warp.image[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
    return part.reshape(-1, 3).mean(0).astype(np.float32)


_ACTS = {"mouth": _mouth, "smile": _smile, "lids": _lids, "brows": _brows, "gaze": _gaze}
_SHARES = {"mouth": 0.5, "smile": 0.35, "lids": 0.3, "brows": 0.2, "gaze": 0.2}
