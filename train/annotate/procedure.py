"""From one pair of crops to one mask: the annotation of P-FF++, the same for every manipulation."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

# What scikit-image took for float pictures when the masks of the paper were made. With 1.0, noise
# of 4 grey levels already floods the whole crop.
DATA_RANGE = 2.0
THRESHOLD = 0.08  # of the dissimilarity scaled to [0, 1]
LEAST_POINTS = 6  # corners of a contour; smaller blobs do not count
SMALLEST = 7  # pixels a side: the window of the structural similarity


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """The difference between a real and a fake crop.

    `mask` (H, W) uint8, 255 where manipulated, else 0; all zero where nothing passed the threshold.
    `difference` (H, W) uint8: the grey fake where it differs, 0 elsewhere, before any morphology.
    `strength` is the largest dissimilarity 1 - SSIM before it was scaled to [0, 1]: 0 to 2. The
    scaling makes a mask of any difference however faint, so a small strength is a weak annotation.
    """

    mask: NDArray[np.uint8]
    difference: NDArray[np.uint8]
    strength: float


def annotate(real: NDArray[np.uint8], fake: NDArray[np.uint8]) -> Annotation | None:
    """The mask of one fake crop, or None where both crops are the same picture.

    Args:
        real: (H, W, 3) uint8 RGB.
        fake: the same box of the same frame of the fake video, (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the crops differ in size, are no RGB bytes, or are smaller than 7 pixels a side.
    """
    for name, crop in (("real", real), ("fake", fake)):
        if crop.ndim != 3 or crop.shape[2] != 3 or crop.dtype != np.uint8:
            raise ValueError(f"the {name} crop is {crop.shape} {crop.dtype}; need (H, W, 3) uint8")
    if real.shape != fake.shape:
        raise ValueError(f"the real crop is {real.shape[:2]}, the fake one {fake.shape[:2]}")
    if min(real.shape[:2]) < SMALLEST:
        raise ValueError(f"crops of {real.shape[:2]} pixels; need at least {SMALLEST} a side")

    grey_real, grey_fake = (cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in (real, fake))
    _, similarity = structural_similarity(
        grey_fake / 255.0, grey_real / 255.0, full=True, data_range=DATA_RANGE
    )
    dissimilarity = 1.0 - similarity
    low, high = float(dissimilarity.min()), float(dissimilarity.max())
    if low == high or np.array_equal(grey_real, grey_fake):
        return None
    scaled = cv2.GaussianBlur((dissimilarity - low) / (high - low), (5, 5), 0)
    # Black pixels of the fake drop out here, as in the original: they are 0 whether they differ
    # or not. The hull below closes such holes.
    difference = np.where(scaled > THRESHOLD, grey_fake, 0).astype(np.uint8)
    return Annotation(_envelope(difference), difference, high)


def _envelope(difference: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One convex region (H, W) round all that differs, 255 inside.

    Net growth over the difference is about 6 pixels: 9 by dilation, 3 by the last blur, less 6 by
    erosion. Two separate regions (eyes and mouth) become one.
    """
    binary = np.where(difference > 0, 255, 0).astype(np.uint8)
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    contours, _ = cv2.findContours(
        cv2.dilate(binary, wide, iterations=3), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE
    )
    kept = [contour for contour in contours if len(contour) >= LEAST_POINTS]
    filled = np.zeros_like(binary)
    if kept:
        cv2.fillConvexPoly(filled, cv2.convexHull(np.concatenate(kept)), 255)
    narrow = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    soft = cv2.GaussianBlur(cv2.erode(filled, narrow, iterations=3) / 255.0, (7, 7), 0)
    return np.where((soft * 255).astype(np.uint8) > 0, 255, 0).astype(np.uint8)
