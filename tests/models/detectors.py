"""Detectors as others make them, in their own framework and as ONNX: none of them knows deepscan.

They tell the drawn faces of tests.conftest apart: forged ones are bluer.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SIDE = 96
MEAN, STD = (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)  # ImageNet's, in the order BGR


class Classifier(nn.Module):
    """Two logits from normalised BGR pictures, *fake* first; in the style of torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Hardswish(),
            nn.Conv2d(8, 12, 1), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12 + 3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        return self.classifier(torch.cat([seen, middle(x)], 1))


class Segmenter(nn.Module):
    """P(real) of a picture in 0 to 1, and a mask that is high where it is real."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1))
        self.up = nn.ConvTranspose2d(4, 1, 4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blue = x[:, 2:] - 0.5 * (x[:, :1] + x[:, 1:2])
        mask = torch.sigmoid(-20 * (blue + 0.1) + 0.3 * self.up(self.down(x)))
        return torch.sigmoid(-20 * (middle(x) @ WEIGHTS + 0.1)).squeeze(1), mask


WEIGHTS = torch.tensor([[-0.5], [-0.5], [1.0]])  # of red, green, blue


def middle(x: torch.Tensor) -> torch.Tensor:
    quarter = x.shape[-1] // 4
    return x[..., quarter:-quarter, quarter:-quarter].mean(dim=(2, 3))


def classifier() -> Classifier:
    torch.manual_seed(1)
    made = Classifier().eval()
    with torch.no_grad():
        made.classifier[1].weight[:, -3:] = 0
        made.classifier[1].weight[0, -3:] += torch.tensor([3.0, -1.5, -1.5])  # blue is first
        made.classifier[1].bias.copy_(torch.tensor([2.0, 0.0]))
    return made


def segmenter() -> Segmenter:
    torch.manual_seed(2)
    return Segmenter().eval()


def export(module, path, *, inputs=("picture",), outputs=("out",), side=SIDE, batch=None, **more):
    """Write a module as ONNX, with a batch of any size or of `batch` alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.rand(batch or 2, 3, side, side),), path,
            input_names=list(inputs), output_names=list(outputs), opset_version=17, dynamo=False,
            dynamic_axes=None if batch else {name: {0: "n"} for name in (*inputs, *outputs)},
            **more,
        )  # fmt: skip
    return path


def judge_classifier(module, crops: np.ndarray) -> np.ndarray:
    """P(fake) as its own framework gives it for (B, S, S, 3) uint8 RGB crops."""
    bgr = torch.from_numpy(crops[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    with torch.inference_mode():
        return torch.softmax(module((bgr - mean) / std), 1)[:, 0].numpy()


def judge_segmenter(module, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(manipulated) and its mask, turned round, for (B, S, S, 3) uint8 RGB crops."""
    pictures = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        score, mask = module(pictures)
    return 1 - score.numpy(), 1 - mask[:, 0].numpy()
