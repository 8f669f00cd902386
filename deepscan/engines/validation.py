"""What every engine checks: crops on their way in, numbers on their way out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepscan.engines.engine import Predictions
from deepscan.errors import EngineError

_ROUNDING = 1e-5  # a softmax may end this far above 1


def check_crops(crops: NDArray[np.uint8], input_size: int, max_batch: int) -> None:
    """See that crops are (B, S, S, 3) uint8 with 1 <= B <= max_batch.

    Raises:
        ValueError: they are not; an error of the program, not of the video.
    """
    if crops.dtype != np.uint8:
        raise ValueError(f"crops are {crops.dtype}, must be uint8")
    if crops.ndim != 4 or crops.shape[1:] != (input_size, input_size, 3):
        raise ValueError(f"crops are {crops.shape}, must be (B, {input_size}, {input_size}, 3)")
    if not 1 <= len(crops) <= max_batch:
        raise ValueError(f"{len(crops)} crops at once, must be 1 to {max_batch}")


def check_predictions(
    scores: NDArray[np.float32], masks: NDArray[np.float32], name: str, count: int | None = None
) -> Predictions:
    """Make predictions of what an engine computed: no verdict may rest on anything else.

    Args:
        count: of the crops; None: as many as there are scores.

    Raises:
        EngineError: a row is missing, or a value is not finite or not a probability.
    """
    count = len(scores) if count is None else count
    if scores.shape != (count,) or masks.ndim != 3 or len(masks) != count or not masks.size:
        raise EngineError(
            f"engine {name} answered {scores.shape} scores and {masks.shape} masks to {count} "
            "crops. Run: deepscan doctor"
        )
    for kind, values in (("score", scores), ("mask", masks)):
        if not np.isfinite(values).all():
            raise EngineError(
                f"engine {name} computed a {kind} that is NaN or infinite: the weights or the "
                f"device are faulty. Run: deepscan doctor"
            )
        if values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING:
            raise EngineError(
                f"engine {name} computed a {kind} between {values.min():.3g} and "
                f"{values.max():.3g}, which is no probability. Run: deepscan doctor"
            )
    return Predictions(np.clip(scores, 0, 1), np.clip(masks, 0, 1))
