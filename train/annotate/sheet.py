"""A contact sheet of annotations: real, fake, mask, and the mask's outline on the fake."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from train.annotate.work import Outcome, folder_of, write_png
from train.datasets.layout import counterparts
from train.media import evenly, pictures_in, read_picture

TILE = 128  # pixels a side


def write_sheet(out: Path, manipulation: str, outcomes: list[Outcome], level: str) -> Path | None:
    """Write `sheets/<manipulation>.png` with up to 16 pairs spread over those that have masks.

    Returns None where no pair of this manipulation has a mask.
    """
    names = [o.name for o in outcomes if o.manipulation == manipulation and o.masks]
    if not names:
        return None
    rows = [_row(out, manipulation, name, level) for name in evenly(names, 16)]
    if len(rows) % 2:
        rows.append(np.full_like(rows[0], 255))
    pairs = [np.hstack(rows[start : start + 2]) for start in range(0, len(rows), 2)]
    path = out / "sheets" / f"{manipulation}.png"
    write_png(path, np.vstack(pairs))
    return path


def _row(out: Path, manipulation: str, name: str, level: str) -> NDArray[np.uint8]:
    """Four tiles side by side, (TILE, 4 * TILE, 3), of the middle frame of a pair."""
    masks = pictures_in(out / "Mask" / manipulation / name)
    mask_path = masks[len(masks) // 2]
    fake = read_picture(out / folder_of(level) / manipulation / name / mask_path.name)
    mask = read_picture(mask_path)
    reals = (out / folder_of(level) / "real" / guess for guess in counterparts(name))
    real = read_picture(next(path for path in reals if path.is_dir()) / mask_path.name)
    outlined = fake.copy()
    contours, _ = cv2.findContours(mask[..., 0].copy(), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(outlined, contours, -1, (255, 0, 0), max(1, fake.shape[0] // 64))
    tiles = [cv2.resize(picture, (TILE, TILE)) for picture in (real, fake, mask, outlined)]
    return np.hstack(tiles).astype(np.uint8)
