"""Non-maximum suppression in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def greedy_nms(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], threshold: float
) -> NDArray[np.int64]:
    """Indices of the boxes that survive non-maximum suppression, highest score first.

    A box is dropped if its intersection over union with a kept box of higher score is greater than
    `threshold`. Of equal scores the first comes first.

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
        threshold: 0 to 1.
    """
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = boxes[order].T
    area = (x2 - x1) * (y2 - y1)
    alive = np.arange(len(order))
    kept = []
    while alive.size:
        first, rest = alive[0], alive[1:]
        kept.append(order[first])
        width = np.minimum(x2[first], x2[rest]) - np.maximum(x1[first], x1[rest])
        height = np.minimum(y2[first], y2[rest]) - np.maximum(y1[first], y1[rest])
        both = np.maximum(width, 0) * np.maximum(height, 0)
        # Multiplied out, so that two boxes without area do not divide by zero.
        alive = rest[both <= threshold * (area[first] + area[rest] - both)]
    return np.array(kept, dtype=np.int64)
