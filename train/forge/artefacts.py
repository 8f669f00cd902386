"""Artefacts of a decoder: a face at a small working size, its fine detail lost and invented.

Generators, face-swap decoders and restoration models share a way: few pixels, learned upsampling
whose phases differ a little (a grid), smooth skin, then sharpening that invents detail.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge.degrade import Picture, grain, sharpen

_UP = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_NEAREST)
WIDTHS = (48, 64, 80, 96, 112, 128, 160, 224, 256)  # pixels of a decoder over a face


def decode(image: Picture, face: float, rng: np.random.Generator, strength: float = 1.0) -> Picture:
    """The picture as a decoder of a random kind gives it back.

    Args:
        image: (H, W, 3) uint8.
        face: width of the face in pixels, from which the working size follows.
        rng: consumed by the draw.
        strength: of smoothing, sharpening and grain; 1 is plain to see when enlarged.
    """
    height, width = image.shape[:2]
    factor = float(WIDTHS[rng.integers(len(WIDTHS))]) / max(face, 1.0)
    if factor > 0.85:
        factor = float(rng.uniform(0.45, 0.85))
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    work = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    work = smooth(work, rng, strength)
    if rng.random() < 0.25:
        work = requantise(work, rng)
    if rng.random() < 0.35:
        out = grid_upsample(work, width, height, rng, rng.uniform(0.02, 0.10) * strength)
    else:
        kernel = _UP[rng.choice(4, p=(0.35, 0.35, 0.2, 0.1))]
        out = cv2.resize(work, (width, height), interpolation=kernel)
    if rng.random() < 0.5:
        out = sharpen(out, rng.uniform(0.2, 1.3) * strength)
    if rng.random() < 0.3:
        out = local_contrast(out, rng.uniform(0.2, 0.7) * strength)
    if rng.random() < 0.35:
        out = grain(out, rng, rng.uniform(0.5, 4.5) * strength, rng.uniform(1, 2))
    return out


def smooth(image: Picture, rng: np.random.Generator, strength: float = 1.0) -> Picture:
    """One of several smoothings that keep edges, or none."""
    kind = rng.random()
    if kind < 0.4:
        return cv2.bilateralFilter(image, 5, rng.uniform(8, 40) * strength, 3)
    if kind < 0.6:
        return guided(image, int(rng.integers(2, 6)), rng.uniform(4, 22) * strength)
    if kind < 0.75:
        return cv2.medianBlur(image, 3)
    if kind < 0.85:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.0) * max(strength, 0.3))
    return image


def guided(image: Picture, radius: int, sigma: float) -> Picture:
    """Guided filter by the picture's own luma (He, Sun and Tang 2010): flat parts become flatter.

    Args:
        image: (H, W, 3) uint8.
        radius: of the window in pixels.
        sigma: grey levels; weaker structures vanish.
    """
    side = (2 * radius + 1, 2 * radius + 1)
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(luma, side)
    spread = cv2.blur(luma * luma, side) - mean * mean
    slope = spread / (spread + np.float32(sigma * sigma + 1e-3))
    smoothed = cv2.blur(slope, side) * luma + cv2.blur((1 - slope) * mean, side)
    # Colour is smoothed less than luma, as eyes and codecs do.
    base = cv2.blur(image, (3, 3)).astype(np.float32)
    shift = smoothed - cv2.blur(luma, (3, 3))
    return cv2.add(base, cv2.merge([shift] * 3), dtype=cv2.CV_8U)


def requantise(image: Picture, rng: np.random.Generator) -> Picture:
    """Fewer levels of colour, dithered a little: a palette or a coarse latent."""
    step = float(rng.uniform(3, 9))
    noise = rng.uniform(-0.3, 0.3, image.shape[:2]).astype(np.float32)[..., None]
    return np.clip(np.round(image / step + noise) * step, 0, 255).astype(np.uint8)


def grid_upsample(
    image: Picture, width: int, height: int, rng: np.random.Generator, depth: float
) -> Picture:
    """Enlarge as transposed convolutions do: twice or four times, each phase with its own gain.

    Zeros are put between the pixels and the result is filtered; where the kernel's phases do not
    sum to the same, a checkerboard of relative depth `depth` stays (Odena et al. 2016).
    """
    out = image.astype(np.float32)
    factor = 2 if rng.random() < 0.6 else 4
    while factor > 1 and out.shape[0] * 2 <= 2 * height and out.shape[1] * 2 <= 2 * width:
        spread = np.zeros((out.shape[0] * 2, out.shape[1] * 2, 3), np.float32)
        spread[::2, ::2] = out
        kernel = np.outer((0.5, 1, 0.5), (0.5, 1, 0.5)).astype(np.float32)
        kernel *= 1 + rng.normal(0, depth, (3, 3)).astype(np.float32)
        # The four phases together keep the brightness.
        out = cv2.filter2D(spread, -1, kernel * (4 / kernel.sum()), borderType=cv2.BORDER_REPLICATE)
        out[-1], out[:, -1] = out[-2], out[:, -2]
        factor //= 2
    out = cv2.resize(out, (width, height), interpolation=cv2.INTER_AREA
                     if out.shape[1] > width else cv2.INTER_CUBIC)  # fmt: skip
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def local_contrast(image: Picture, amount: float, sigma: float = 5.0) -> Picture:
    """Raise contrast over several pixels, as face restoration does to eyes, brows and hair."""
    soft: NDArray[np.float32] = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32)
    detail = image - soft
    # Strong edges already have contrast: only the weaker ones are raised.
    out = image + amount * detail * np.exp(-np.abs(detail) / 40)
    return np.clip(np.round(out), 0, 255).astype(np.uint8)
