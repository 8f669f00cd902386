"""Edits that are no manipulation of a face.

Two kinds. Edits (`EDITS`: compression, filters, cameras, screens) change nearly every pixel.
Occluders (`OCCLUDERS`: glasses, hands, captions) lie over the face; what lies under them is neither
real nor forged any more. `BENIGN_EDITS` has both as functions of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge.artefacts import guided, local_contrast
from train.forge.blend import Picture, Weight, blend
from train.forge.degrade import grain, jpeg, motion_blur, sharpen, webp
from train.forge.shape import FOREHEAD, JAW, MOUTH, Points, draw, eye_distance, pixel_grid, place

BenignEdit = Callable[[Picture, Points, np.random.Generator], Picture]
_KERNELS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay of a picture: colour (H, W, 3) float32 and cover (H, W) float32 in [0, 1]."""

    colour: NDArray[np.float32]
    cover: Weight

    def over(self, image: Picture) -> Picture:
        if not self.cover.any():
            return image.copy()
        rows, columns = np.flatnonzero(self.cover.any(1)), np.flatnonzero(self.cover.any(0))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        out = image.copy()
        out[window] = blend(self.colour[window], image[window], self.cover[window])
        return out


Occluder = Callable[[int, int, Points, np.random.Generator], Overlay]


# --- Edits of the whole picture ------------------------------------------------------------------


def recompress(image: Picture, rng: np.random.Generator) -> Picture:
    """Saved one to three times as JPEG or WebP."""
    out = image
    for _ in range(int(rng.integers(1, 4))):
        code = webp if rng.random() < 0.1 else jpeg
        out = code(out, int(rng.integers(25, 95)))
    return out


def rescale(image: Picture, rng: np.random.Generator) -> Picture:
    """Down and up again, at times twice, by any kernel."""
    height, width = image.shape[:2]
    out = image
    for _ in range(1 + int(rng.random() < 0.25)):
        factor = rng.uniform(0.25, 0.9)
        down, up = _KERNELS[rng.integers(1, 4)], _KERNELS[rng.choice(3, p=(0.1, 0.45, 0.45))]
        size = (max(8, round(width * factor)), max(8, round(height * factor)))
        out = cv2.resize(cv2.resize(out, size, interpolation=down), (width, height),
                         interpolation=up)  # fmt: skip
    return out


def beauty(image: Picture, rng: np.random.Generator) -> Picture:
    """A beauty filter over everything: skin smooth, brighter, a little sharper at the edges."""
    kind = rng.random()
    if kind < 0.4:
        out = cv2.bilateralFilter(image, 5, rng.uniform(15, 60), 3)
    elif kind < 0.9:
        out = guided(image, int(rng.integers(2, 8)), rng.uniform(6, 30))
    else:
        out = cv2.medianBlur(image, 5)
    if rng.random() < 0.5:
        out = cv2.addWeighted(out, 1.0, out, rng.uniform(0, 0.08), rng.uniform(0, 10))
    if rng.random() < 0.5:
        out = sharpen(out, rng.uniform(0.2, 1.2))
    if rng.random() < 0.3:
        out = local_contrast(out, rng.uniform(0.1, 0.5))
    return out


def grade(image: Picture, rng: np.random.Generator) -> Picture:
    """Curves per channel, white balance, saturation: a look."""
    x = np.linspace(0, 1, 256)
    tables = []
    bend, lift = rng.uniform(-0.25, 0.25), rng.uniform(0, 0.12)
    for _ in range(3):
        gamma = np.exp(rng.normal(0, 0.14))
        curve = x**gamma
        curve = curve + bend * np.sin(2 * np.pi * curve) / (2 * np.pi) * 2
        tables.append(lift + (1 - lift - rng.uniform(0, 0.1)) * curve)
    lut = np.clip(np.stack(tables, 1) * 255, 0, 255).astype(np.uint8)
    out = cv2.LUT(image, lut[None])
    grey = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    amount = rng.uniform(0.5, 1.5)
    return cv2.addWeighted(out, amount, grey, 1 - amount, 0)


def move(image: Picture, rng: np.random.Generator) -> Picture:
    """Motion blur."""
    return motion_blur(image, int(rng.integers(3, 14)), rng.uniform(0, 180))


def defocus(image: Picture, rng: np.random.Generator) -> Picture:
    """A disc of confusion."""
    radius = rng.uniform(0.8, 4.5)
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return cv2.filter2D(image, -1, disc / disc.sum())


def noise(image: Picture, rng: np.random.Generator) -> Picture:
    """Noise of a kind: of light, of colour, of a sensor's rows, of film."""
    height, width = image.shape[:2]
    kind = rng.integers(4)
    if kind == 0:  # shot noise: stronger where it is light
        sigma = rng.uniform(0.2, 1.0) * np.sqrt(np.arange(256, dtype=np.float32) + 8)
        field = _normal(rng, height, width)
        return np.clip(image + field[..., None] * sigma[image], 0, 255).astype(np.uint8)
    if kind == 1:  # colour, in blots
        side = rng.uniform(1, 5)
        size = (max(2, round(height / side)), max(2, round(width / side)))
        field = rng.standard_normal((*size, 3), np.float32) * np.float32(rng.uniform(2, 12))
        return np.clip(
            image + cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR), 0, 255
        ).astype(np.uint8)
    if kind == 2:  # rows and columns of a sensor, and some light
        rows = rng.standard_normal((height, 1), np.float32) * np.float32(rng.uniform(0.5, 4))
        field = rows + _normal(rng, height, width) * np.float32(rng.uniform(1, 6))
        return np.clip(image + field[..., None], 0, 255).astype(np.uint8)
    return grain(image, rng, rng.uniform(2, 16), rng.uniform(1, 3))


def _normal(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    return rng.standard_normal((height, width), np.float32)


def screen(image: Picture, rng: np.random.Generator) -> Picture:
    """A screen filmed: gamma, tint, the grid of its pixels against the camera's (moire)."""
    height, width = image.shape[:2]
    x = np.arange(width, dtype=np.float32)[None]
    y = np.arange(height, dtype=np.float32)[:, None]
    field = np.ones((height, width), np.float32)
    turn = rng.uniform(-0.2, 0.2)
    for _ in range(2):
        pitch = rng.uniform(2.1, 14)
        angle = turn + (rng.random() < 0.5) * np.pi / 2
        # A wave is the product of two phases: no sine over the whole picture.
        step = 2j * np.pi / pitch
        wave = np.exp(step * y * np.sin(angle)) * np.exp(step * x * np.cos(angle))
        field *= 1 + rng.uniform(0.01, 0.09) * wave.imag.astype(np.float32)
    colours = [cv2.GaussianBlur(field, (0, 0), sigma) for sigma in rng.uniform(0.2, 0.9, 3)]
    table = (np.linspace(0, 1, 256) ** rng.uniform(0.75, 1.35) * 255)[:, None]
    shown = np.clip(table * rng.uniform(0.88, 1.06, 3) + rng.uniform(0, 14), 0, 255)
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.0))
    out = cv2.LUT(soft, shown.astype(np.uint8)[None])
    return cv2.multiply(out, cv2.merge(colours), dtype=cv2.CV_8U)


def crisp(image: Picture, rng: np.random.Generator) -> Picture:
    """Sharpened, as editors do."""
    return sharpen(image, rng.uniform(0.3, 2.0))


def halo(image: Picture, rng: np.random.Generator) -> Picture:
    """Sharpened too much: bright seams along edges."""
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.5, 4))
    amount = rng.uniform(0.6, 2.2)
    return cv2.addWeighted(image, 1 + amount, soft, -amount, 0)


def camera(image: Picture, rng: np.random.Generator) -> Picture:
    """Process a picture as a telephone does: denoise, sharpen, map tones."""
    out = guided(image, int(rng.integers(1, 4)), rng.uniform(4, 16))
    out = sharpen(out, rng.uniform(0.3, 1.6))
    if rng.random() < 0.7:
        lab = cv2.cvtColor(out, cv2.COLOR_RGB2LAB)
        clahe = cv2.createCLAHE(rng.uniform(1.0, 2.5), (4, 4))
        lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
        out = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return out


def monochrome(image: Picture, rng: np.random.Generator) -> Picture:
    """Black and white, or sepia."""
    weights = rng.dirichlet((3, 6, 1.5))
    grey = np.clip(image.astype(np.float32) @ weights.astype(np.float32), 0, 255)
    tint = np.array((1.0, 1.0, 1.0)) if rng.random() < 0.6 else np.array((1.07, 0.96, 0.78))
    return np.clip(grey[..., None] * tint.astype(np.float32), 0, 255).astype(np.uint8)


def vignette(image: Picture, rng: np.random.Generator) -> Picture:
    """Darker, or lighter, towards the corners."""
    height, width = image.shape[:2]
    x = (np.arange(width, dtype=np.float32) / width - rng.uniform(0.35, 0.65)) * 2
    y = (np.arange(height, dtype=np.float32) / height - rng.uniform(0.35, 0.65)) * 2
    far = x[None] ** 2 + y[:, None] ** 2
    field = 1 - rng.uniform(-0.15, 0.45) * far
    return np.clip(image * field[..., None].astype(np.float32), 0, 255).astype(np.uint8)


def interlace(image: Picture, rng: np.random.Generator) -> Picture:
    """Two half pictures a moment apart, or one of them doubled."""
    out = image.copy()
    if rng.random() < 0.5:
        out[1::2] = np.roll(image, int(rng.integers(1, 5)), 1)[1::2]
        return out
    out[1::2] = out[: 2 * (len(out) // 2) : 2]
    return out


def lamps(image: Picture, rng: np.random.Generator) -> Picture:
    """Bands of light and shade from lamps that flicker under a rolling shutter."""
    height = len(image)
    wave = 2 * np.pi * (np.arange(height) / height * rng.uniform(0.5, 6) + rng.random())
    tint = rng.uniform(0.02, 0.22) * rng.uniform(0.7, 1.0, 3)
    gain = (1 + np.sin(wave)[:, None] * tint).astype(np.float32)
    return np.clip(image * gain[:, None], 0, 255).astype(np.uint8)


def night(image: Picture, rng: np.random.Generator) -> Picture:
    """Too little light, raised again: noise, and colour noise smoothed away by the camera."""
    height, width = image.shape[:2]
    light = rng.uniform(0.1, 0.4)
    speckle = rng.standard_normal((height // 2 + 1, width // 2 + 1, 3), np.float32)
    speckle *= np.float32(rng.uniform(0.3, 1.6))
    noisy = cv2.resize(speckle, (width, height)) + (
        _normal(rng, height, width) * np.float32(rng.uniform(0.4, 1.6))
    )[..., None]  # fmt: skip
    dark = cv2.addWeighted(image.astype(np.float32), light, noisy, 1.0, 0)
    out = cv2.convertScaleAbs(np.maximum(dark, 0), alpha=rng.uniform(2, 4))
    return guided(out, 2, rng.uniform(5, 25)) if rng.random() < 0.6 else out


def haze(image: Picture, rng: np.random.Generator) -> Picture:
    """Light that spreads: bloom of a lens, fog, a dirty glass."""
    soft = cv2.blur(image, (31, 31))
    share = rng.uniform(0.08, 0.35)
    return cv2.addWeighted(image, 1 - share, soft, share, rng.uniform(0, 20))


def portrait(image: Picture, landmarks: Points, rng: np.random.Generator) -> Picture:
    """A telephone's portrait mode: head and shoulders sharp, all else blurred."""
    height, width = image.shape[:2]
    points = place(landmarks)
    unit = eye_distance(landmarks)
    shape = draw("head", points, height, width)
    chin = points[129]
    body = (
        chin
        + np.array(((-0.7, -0.2), (0.7, -0.2), (2.2, 1.6), (2.4, 9), (-2.4, 9), (-2.2, 1.6))) * unit
    )
    cv2.fillConvexPoly(shape, np.round(cv2.convexHull(body.astype(np.float32))).astype(np.int32), 1)
    sharp = cv2.GaussianBlur(shape, (0, 0), max(0.5, rng.uniform(0.03, 0.15) * unit))[..., None]
    soft = cv2.GaussianBlur(image, (0, 0), max(0.5, rng.uniform(0.03, 0.15) * unit))
    return np.clip(np.round(soft + (image.astype(np.float32) - soft) * sharp), 0, 255).astype(
        np.uint8
    )


def lit(image: Picture, landmarks: Points, rng: np.random.Generator) -> Picture:
    """A face lit up, by a lamp or by a camera that exposes for faces: wide and soft."""
    height, width = image.shape[:2]
    unit = eye_distance(landmarks)
    x, y = pixel_grid(height, width)
    centre = landmarks.mean(0) + rng.normal(0, 0.5, 2) * unit
    spread = np.float32(2 * (rng.uniform(0.9, 2.5) * unit) ** 2)
    near = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2).astype(np.float32) / spread)
    tint = (rng.uniform(-0.25, 0.35) * rng.uniform(0.8, 1.0, 3)).astype(np.float32)
    return np.clip(image * (1 + near[..., None] * tint), 0, 255).astype(np.uint8)


def _wide(edit: Callable[[Picture, np.random.Generator], Picture]) -> BenignEdit:
    """An edit that needs not know where the face is."""
    return lambda image, landmarks, rng: edit(image, rng)


EDITS: dict[str, BenignEdit] = {
    "recompression": _wide(recompress),
    "rescaling": _wide(rescale),
    "beauty filter": _wide(beauty),
    "grading": _wide(grade),
    "motion blur": _wide(move),
    "defocus": _wide(defocus),
    "noise": _wide(noise),
    "screen": _wide(screen),
    "sharpening": _wide(crisp),
    "halo": _wide(halo),
    "camera": _wide(camera),
    "monochrome": _wide(monochrome),
    "vignette": _wide(vignette),
    "interlace": _wide(interlace),
    "lamps": _wide(lamps),
    "night": _wide(night),
    "haze": _wide(haze),
    "portrait mode": portrait,
    "lit face": lit,
}


# --- Occluders -----------------------------------------------------------------------------------


def _empty(height: int, width: int) -> tuple[NDArray[np.float32], Weight]:
    return np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)


def _textured(
    colour: NDArray[np.float64], height: int, width: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A colour under uneven light, with a little grain."""
    light = rng.normal(1, 0.18, (4, 4)).astype(np.float32)
    light = cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC)
    fine = rng.standard_normal((height, width), np.float32) * np.float32(rng.uniform(0.5, 6))
    return np.clip(colour.astype(np.float32) * light[..., None] + fine[..., None], 0, 255)


def _soft(shape: NDArray[np.uint8], sigma: float) -> Weight:
    return cv2.GaussianBlur(shape.astype(np.float32), (0, 0), max(sigma, 0.4))


def glasses(height: int, width: int, landmarks: Points, rng: np.random.Generator) -> Overlay:
    """Frames round both eyes, clear or dark glass, a bridge and temples."""
    eyes = landmarks[:2]
    along = eyes[1] - eyes[0]
    unit = max(float(np.hypot(*along)), 2.0)
    angle = float(np.degrees(np.arctan2(along[1], along[0])))
    frame, glass = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    axes = (round(unit * rng.uniform(0.32, 0.43)), round(unit * rng.uniform(0.22, 0.38)))
    thick = max(1, round(unit * rng.uniform(0.02, 0.09)))
    round_shape = rng.random() < 0.6
    drop = np.array((-along[1], along[0])) * rng.uniform(0, 0.08)
    centres = [tuple(np.round(eye + drop).astype(int).tolist()) for eye in eyes]
    for centre in centres:
        if round_shape:
            outline = cv2.ellipse2Poly(centre, axes, round(angle), 0, 360, 8)
        else:
            outline = cv2.boxPoints((centre, (2 * axes[0], 2 * axes[1]), angle)).astype(np.int32)
        cv2.fillPoly(glass, [outline], 1)
        cv2.polylines(frame, [outline], True, 1, thick, cv2.LINE_AA)
    step = along / unit
    for start, end in (
        (eyes[0] + drop + step * axes[0], eyes[1] + drop - step * axes[0]),
        (eyes[0] + drop - step * axes[0], eyes[0] + drop - step * unit),
        (eyes[1] + drop + step * axes[0], eyes[1] + drop + step * unit),
    ):
        cv2.line(frame, tuple(np.round(start).astype(int).tolist()),
                 tuple(np.round(end).astype(int).tolist()), 1, thick, cv2.LINE_AA)  # fmt: skip
    colour, cover = _empty(height, width)
    if rng.random() < 0.45:  # sunglasses
        dark = rng.uniform(5, 70) * rng.uniform(0.7, 1.0, 3)
        shade = np.linspace(1, rng.uniform(0.7, 1.6), height, dtype=np.float32)[:, None, None]
        colour += dark.astype(np.float32) * shade
        cover = _soft(glass, 0.01 * unit) * np.float32(rng.uniform(0.75, 1.0))
    elif rng.random() < 0.5:  # a lamp mirrored in clear glass
        x, y = pixel_grid(height, width)
        slant = rng.uniform(-0.8, 0.8)
        bands = np.sin((x + slant * y) / (unit * rng.uniform(0.08, 0.3)) + rng.uniform(0, 6)) > 0.6
        colour += 255
        cover = _soft((glass * bands).astype(np.uint8), 0.02 * unit)
        cover *= np.float32(rng.uniform(0.1, 0.5))
    rim = _soft(frame, 0.008 * unit)
    tint = (rng.uniform(10, 90) * rng.uniform(0.6, 1.0, 3)).astype(np.float32)
    colour += (tint - colour) * rim[..., None]
    return Overlay(colour, np.maximum(cover, rim))


def hand(height: int, width: int, landmarks: Points, rng: np.random.Generator) -> Overlay:
    """Fingers, a hand or another thing held before a part of the face."""
    points = place(landmarks)
    unit = eye_distance(landmarks)
    shape = np.zeros((height, width), np.uint8)
    anchor = points[rng.choice((*JAW, *MOUTH))]
    away = anchor - landmarks.mean(0)
    away = away / max(float(np.hypot(*away)), 1e-6)
    side = np.array((-away[1], away[0]))
    tilt = rng.uniform(-0.5, 0.5)
    direction = away * np.cos(tilt) + side * np.sin(tilt)
    across = np.array((-direction[1], direction[0]))
    thick = max(2, round(unit * rng.uniform(0.16, 0.28)))
    for finger in range(int(rng.choice((1, 2, 3, 4, 4)))):
        tip = (
            anchor + across * (finger - 1.5) * thick * 1.05 - direction * rng.uniform(0, 0.3) * unit
        )
        knuckle = tip + direction * unit * rng.uniform(0.7, 1.1)
        wrist = anchor + direction * unit * 2.2 + across * (finger - 1.5) * thick * 0.6
        line = np.round(np.stack([tip, knuckle, wrist])).astype(np.int32)
        cv2.polylines(shape, [line], False, 1, thick, cv2.LINE_AA)
    skin = np.array((rng.uniform(60, 235), 0, 0))
    skin[1] = skin[0] * rng.uniform(0.66, 0.84)
    skin[2] = skin[1] * rng.uniform(0.66, 0.9)
    colour = _textured(skin, height, width, rng)
    # Round fingers: darker towards their sides.
    depth = cv2.distanceTransform(shape, cv2.DIST_L2, 3) / (thick / 2)
    colour *= (0.72 + 0.28 * np.clip(depth, 0, 1))[..., None].astype(np.float32)
    return Overlay(colour, _soft(shape, 0.012 * unit))


def covering(height: int, width: int, landmarks: Points, rng: np.random.Generator) -> Overlay:
    """A medical mask, a scarf or a microphone before mouth and chin."""
    points = place(landmarks)
    unit = eye_distance(landmarks)
    shape = np.zeros((height, width), np.uint8)
    if rng.random() < 0.4:  # microphone
        centre = landmarks[3:].mean(0) + rng.normal(0, 0.15, 2) * unit + (0, 0.35 * unit)
        size = (unit * rng.uniform(0.14, 0.3), unit * rng.uniform(0.2, 0.4))
        turned = (tuple(centre), (2 * size[0], 2 * size[1]), rng.uniform(-40, 40))
        cv2.ellipse(shape, turned, 1, -1)
        end = centre + np.array((rng.uniform(-1, 1), 2.5)) * unit
        cv2.line(shape, tuple(np.round(centre).astype(int).tolist()),
                 tuple(np.round(end).astype(int).tolist()), 1, max(2, round(size[0])))  # fmt: skip
        tint = np.full(3, rng.uniform(8, 80))
    else:
        top = points[[110, 65, 54, 60, 70, 113]].astype(np.float32)
        outline = np.concatenate([points[list(JAW)] * 1.0, top])
        outline = outline + (outline - outline.mean(0)) * 0.06
        cv2.fillConvexPoly(
            shape, np.round(cv2.convexHull(outline[4:11].astype(np.float32))).astype(np.int32), 1
        )
        low = np.concatenate([points[[111, 114, 126, 132, 129]], top[1:5]]).astype(np.float32)
        cv2.fillConvexPoly(shape, np.round(cv2.convexHull(low)).astype(np.int32), 1)
        tint = rng.uniform(30, 245) * rng.uniform(0.7, 1.0, 3)
    colour = _textured(tint, height, width, rng)
    if rng.random() < 0.5:
        folds = np.sin(np.arange(height) / max(unit * rng.uniform(0.04, 0.12), 0.7))
        colour *= (1 + 0.06 * folds)[:, None, None].astype(np.float32)
    return Overlay(colour, _soft(shape, 0.012 * unit))


def caption(height: int, width: int, landmarks: Points, rng: np.random.Generator) -> Overlay:
    """A line or two of text across the picture, on a band or with a dark rim."""
    colour, cover = _empty(height, width)
    unit = eye_distance(landmarks)
    ink, rim = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    base = float(rng.choice(landmarks[:, 1])) + rng.uniform(-0.6, 0.9) * unit
    size = max(0.25, unit / 60 * rng.uniform(0.5, 1.6))
    thick = max(1, round(size * 2))
    font = _FONTS[rng.integers(len(_FONTS))]
    for line in range(int(rng.integers(1, 3))):
        letters = "".join(chr(int(c)) for c in rng.choice(np.r_[48:58, 65:91, 97:123, 32, 32, 32],
                                                          int(rng.integers(4, 30))))  # fmt: skip
        at = (round(rng.uniform(-0.1, 0.4) * width), round(base + line * 34 * size))
        cv2.putText(rim, letters, at, font, size, 255, thick + 2 + thick // 2, cv2.LINE_AA)
        cv2.putText(ink, letters, at, font, size, 255, thick, cv2.LINE_AA)
    bright = (255.0, 255.0, rng.uniform(0, 255)) if rng.random() < 0.8 else (10.0, 10.0, 10.0)
    letters_cover = ink.astype(np.float32) / 255
    if rng.random() < 0.3:  # on a band
        top, bottom = max(0, round(base - 34 * size)), max(0, round(base + 42 * size))
        cover[top:bottom] = rng.uniform(0.4, 1.0)
        colour += rng.uniform(0, 90, 3).astype(np.float32)
    else:
        cover = rim.astype(np.float32) * np.float32(rng.choice((0.0, 1.0)) / 255)
        colour += 255 - bright[0]
    colour += (np.array(bright, np.float32) - colour) * letters_cover[..., None]
    return Overlay(colour, np.maximum(cover, letters_cover))


def logo(height: int, width: int, landmarks: Points, rng: np.random.Generator) -> Overlay:
    """A sticker, a watermark or a play button, clear or half transparent."""
    colour, _ = _empty(height, width)
    unit = eye_distance(landmarks)
    shape = np.zeros((height, width), np.uint8)
    centre = landmarks.mean(0) + rng.normal(0, 0.8, 2) * unit
    at = tuple(np.round(centre).astype(int).tolist())
    reach = max(2, round(unit * rng.uniform(0.15, 0.6)))
    kind = rng.integers(4)
    if kind == 0:
        cv2.circle(shape, at, reach, 1, -1, cv2.LINE_AA)
        cv2.circle(shape, at, reach // 2, 0, -1, cv2.LINE_AA)
    elif kind == 1:
        turn = np.linspace(0, 2 * np.pi, 11)[:-1] + rng.uniform(0, 6)
        far = np.where(np.arange(10) % 2, 0.45, 1.0) * reach
        star = centre + np.stack([np.cos(turn) * far, np.sin(turn) * far], 1)
        cv2.fillPoly(shape, [np.round(star).astype(np.int32)], 1)
    elif kind == 2:
        corner = np.array((reach, reach * rng.uniform(0.3, 1)))
        first, second = np.round(centre - corner).astype(int), np.round(centre + corner).astype(int)
        cv2.rectangle(shape, tuple(first.tolist()), tuple(second.tolist()), 1, -1)
    else:
        three = centre + reach * np.array(((-0.6, -1), (-0.6, 1), (1.0, 0)))
        cv2.fillPoly(shape, [np.round(three).astype(np.int32)], 1)
    colour += rng.uniform(0, 255, 3).astype(np.float32)
    opaque = 1.0 if rng.random() < 0.6 else rng.uniform(0.2, 0.7)
    return Overlay(colour, shape.astype(np.float32) * np.float32(opaque))


def hair(height: int, width: int, landmarks: Points, rng: np.random.Generator) -> Overlay:
    """Strands across forehead and eyes."""
    points = place(landmarks)
    unit = eye_distance(landmarks)
    shape = np.zeros((height, width), np.uint8)
    t = np.linspace(0, 1, 12)[:, None]
    first = points[rng.choice(FOREHEAD)]
    slant = rng.uniform(-0.7, 0.7)
    for _ in range(int(rng.integers(8, 60))):
        start = first + rng.normal(0, 0.15, 2) * unit - (0, 0.3 * unit)
        fall = slant + rng.normal(0, 0.1), rng.uniform(0.8, 1.9)
        end = start + np.array(fall) * unit
        bow = np.array((slant * 0.2 + rng.normal(0, 0.06), 0)) * unit
        line = start * (1 - t) + end * t + bow * (4 * t * (1 - t))
        cv2.polylines(
            shape, [np.round(line * 8).astype(np.int32)], False, 1,
            max(1, round(unit * rng.uniform(0.008, 0.03))), cv2.LINE_AA, 3,
        )  # fmt: skip
    tint = rng.uniform(10, 190) * np.array((1.0, rng.uniform(0.7, 1.0), rng.uniform(0.45, 0.9)))
    return Overlay(_textured(tint, height, width, rng), _soft(shape, 0.5) * np.float32(0.9))


OCCLUDERS: dict[str, Occluder] = {
    "glasses": glasses,
    "hand": hand,
    "covering": covering,
    "caption": caption,
    "logo": logo,
    "hair": hair,
}


def _occlude(
    occluder: Occluder, image: Picture, landmarks: Points, rng: np.random.Generator
) -> Picture:
    height, width = image.shape[:2]
    return occluder(height, width, landmarks, rng).over(image)


BENIGN_EDITS: Mapping[str, BenignEdit] = {
    **EDITS,
    **{name: partial(_occlude, occluder) for name, occluder in OCCLUDERS.items()},
}
