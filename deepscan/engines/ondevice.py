"""Cutting crops out of a whole frame where the network runs: one upload a frame, not one a crop.

The same rule as `deepscan.faces.crop.cut` on the CPU: Pillow's bicubic filter, which averages where
it shrinks, the picture's edge repeated outside of it. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepscan.types import Box

MOST_PIXELS = 2**24  # of the parts of a frame that are held as float32 at once: 200 MB
_CUBIC = -0.5  # Pillow's parameter of the bicubic filter
_SUPPORT = 2.0  # how far that reaches, in cells of the coarser grid


def cut_all(frame: Tensor, boxes: Sequence[Box], size: int) -> Tensor:
    """The content of each box as a square picture, on the device where the frame lies.

    Args:
        frame: (H, W, 3) uint8 RGB, not empty.
        boxes: where to cut, in frame pixels; wholly outside is allowed, sides must be above 0.
        size: side of the results in pixels.

    Returns:
        (len(boxes), size, size, 3) uint8 RGB. At most one level off what the CPU cuts, and that
        only where a value lies within rounding of the middle between two levels.

    Raises:
        ValueError: the frame or a box is empty.
    """
    height, width = frame.shape[:2]
    for box in boxes:
        if height == 0 or width == 0 or box.width <= 0 or box.height <= 0:
            raise ValueError(f"cannot cut {box} from a picture of {width}x{height}: nothing there")
    parts = [_cut(frame, group, size) for group in _groups(boxes, size)]
    return torch.cat(parts) if parts else frame.new_zeros((0, size, size, 3))


def _groups(boxes: Sequence[Box], size: int) -> list[list[Box]]:
    """Boxes in order, so many at once as memory allows."""
    groups: list[list[Box]] = []
    largest = 0.0
    for box in boxes:
        cells = _reach(box.width, size) * _reach(box.height, size)
        if groups and max(largest, cells) * (len(groups[-1]) + 1) <= MOST_PIXELS:
            largest = max(largest, cells)
            groups[-1].append(box)
        else:
            largest = cells
            groups.append([box])
    return groups


def _reach(side: float, size: int) -> float:
    """Frame pixels that a side of a box and the filter beyond it may touch."""
    return side + 2 * _SUPPORT * max(1.0, side / size) + 3


def _cut(frame: Tensor, boxes: Sequence[Box], size: int) -> Tensor:
    height, width = frame.shape[:2]
    columns, across = _filters([(box.x1, box.x2) for box in boxes], size, frame.device)
    rows, down = _filters([(box.y1, box.y2) for box in boxes], size, frame.device)
    columns, rows = columns.clamp(0, width - 1), rows.clamp(0, height - 1)
    parts = frame[rows[:, :, None], columns[:, None, :]].float()  # (B, h, w, 3)
    # Pillow goes across first and rounds what comes of it to bytes.
    wide = _bytes(torch.einsum("bsw,bhwc->bhsc", across, parts))
    return _bytes(torch.einsum("bth,bhsc->btsc", down, wide)).to(torch.uint8)


def _bytes(values: Tensor) -> Tensor:
    """Rounded to whole levels, still as float32."""
    return (values + 0.5).floor().clamp(0, 255)


def _filters(
    spans: Sequence[tuple[float, float]], size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each [start, stop) the pixels that it needs, (B, n), and their shares, (B, size, n)."""
    start, stop = torch.tensor(spans, dtype=torch.float64, device=device).T
    step = (stop - start) / size
    blur = step.clamp(min=1.0)
    reach = _SUPPORT * blur
    cells = torch.arange(size, dtype=torch.float64, device=device)
    centre = start[:, None] + (cells + 0.5) * step[:, None]  # (B, size)
    low = (centre - reach[:, None] + 0.5).floor()
    high = (centre + reach[:, None] + 0.5).floor()
    first = low[:, 0]
    length = int((high[:, -1] - first).max().item())
    pixels = first[:, None] + torch.arange(length, dtype=torch.float64, device=device)  # (B, n)
    distance = (pixels[:, None, :] + 0.5 - centre[:, :, None]) / blur[:, None, None]
    taken = (pixels[:, None, :] >= low[:, :, None]) & (pixels[:, None, :] < high[:, :, None])
    shares = _bicubic(distance) * taken
    return pixels.long(), (shares / shares.sum(dim=2, keepdim=True)).float()


def _bicubic(distance: Tensor) -> Tensor:
    x = distance.abs()
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
