"""Predict crops with a network, and reduce the answers to the numbers that measures need.

A crop of any aspect is resized to the network's side as in a scan; the mask is resized back to the
crop's own size and is compared there (argmax of two classes), as in the paper's evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deepscan.faces.crop import cut
from deepscan.models.deploy import Deployed, normalise
from deepscan.types import Box, Image
from train.datasets import VideoKey
from train.datasets.mask import UNKNOWN
from train.evaluation.corruptions import Change
from train.evaluation.crops import Crop
from train.evaluation.metrics import Confusion, confusion, iinc

SMALL = 19  # side of the maps that PBCA compares (FFD)


class Predictor(Protocol):
    """A network: uint8 crops (B, S, S, 3) to scores (B,) and mask logits (B, 2, h, w) or None."""

    input_size: int

    def __call__(self, crops: Tensor) -> tuple[Tensor, Tensor | None]: ...


class NetworkPredictor:
    """MSCCNet in fp32 on a device."""

    def __init__(self, model: Deployed, device: str = "cpu") -> None:
        self._network = model.network.to(device).eval()
        self._device = device
        self.input_size = model.input_size

    def __call__(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        config = self._network.config
        logits = self._network(normalise(crops.to(self._device), config.mean, config.std))
        return torch.softmax(logits.image.float(), dim=1)[:, 1], logits.mask.float()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One crop judged. The pixel parts are None where the truth is not known.

    `confusion` counts pixels at the crop's size; `truth` and `found` are (19, 19) float32 maps of
    shares and of P(manipulated); `colours` (6,) the mean and spread of L, a and b.
    """

    video: VideoKey
    group: VideoKey
    frame: int
    label: int
    area: float
    score: float
    confusion: Confusion | None
    iinc: float | None
    truth: NDArray[np.float32] | None
    found: NDArray[np.float32] | None
    colours: NDArray[np.float32]


def predict(
    crops: Iterable[Crop], network: Predictor, *, batch: int = 16, change: Change | None = None
) -> Iterator[Prediction]:
    """Judge crops in their order; `change` alters each picture first, always in the same way."""
    size = network.input_size
    stream = iter(crops)
    number = 0
    while group := list(islice(stream, batch)):
        pictures = []
        for crop in group:
            picture = crop.image
            if change is not None:
                picture = change(picture, np.random.default_rng([_SEED, number]))
            pictures.append(picture)
            number += 1
        given = np.stack([_fitted(picture, size) for picture in pictures])
        with torch.inference_mode():
            scores, masks = network(torch.from_numpy(given))
        for index, (crop, picture) in enumerate(zip(group, pictures, strict=True)):
            logits = None if masks is None else masks[index].cpu()
            yield _prediction(crop, picture, float(scores[index]), logits)


_SEED = 5_000_011


def _fitted(picture: Image, size: int) -> Image:
    height, width = picture.shape[:2]
    return picture if height == width == size else cut(picture, Box(0, 0, width, height), size)


def _prediction(crop: Crop, picture: Image, score: float, logits: Tensor | None) -> Prediction:
    colours = colours_of(picture)
    known = crop.mask != UNKNOWN
    parts: tuple[Confusion | None, float | None, NDArray[np.float32] | None] = (None, None, None)
    truth: NDArray[np.float32] | None = None
    if logits is not None and known.any():
        full = F.interpolate(logits[None], crop.mask.shape, mode="bilinear", align_corners=False)
        share = torch.softmax(full, dim=1)[0, 1]
        predicted = (share > 0.5).numpy()
        small = F.adaptive_avg_pool2d(share[None, None], SMALL)[0, 0].numpy()
        clean = np.where(known, crop.mask, 0).astype(np.float32)
        truth = cv2.resize(clean, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
        parts = confusion(crop.mask, predicted.astype(np.uint8)), iinc(clean, predicted), small
    return Prediction(
        crop.video, crop.group, crop.frame, crop.label, crop.area, score,
        parts[0], parts[1], truth, parts[2], colours,
    )  # fmt: skip


def colours_of(picture: Image) -> NDArray[np.float32]:
    """Mean and standard deviation of L, a and b: (6,)."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    return np.concatenate([lab.mean(0), lab.std(0)])
