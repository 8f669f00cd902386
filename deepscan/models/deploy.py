"""The network as engines run it: uint8 crops in, scores and masks out.

Normalisation, softmax and polarity live here and hence inside every compiled graph, so that no
engine can get them differently.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepscan.models.config import MEAN, STD
from deepscan.models.msccnet import MSCCNet

MASK_STRIDE = 4  # masks leave at a quarter of the crop's side: finer than the map, still small


def normalise(crops: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """(B, S, S, 3) uint8 RGB to (B, 3, S, S) float32: less `mean`, over `std` (0 to 255 scale)."""
    means, stds = (torch.tensor(values, device=crops.device) for values in (mean, std))
    return ((crops.float() - means) / stds).permute(0, 3, 1, 2)


class Deployed(nn.Module):
    """A network with its border. Build it once, in eval mode; it never trains."""

    def __init__(self, network: MSCCNet) -> None:
        super().__init__()
        self.network = network
        self.input_size = network.config.input_size
        self.mask_size = self.input_size // MASK_STRIDE
        self.eval()

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Judge (B, S, S, 3) uint8 RGB crops.

        Returns:
            Scores (B,) and masks (B, S / 4, S / 4), float32 P(manipulated).
        """
        config = self.network.config
        logits = self.network(normalise(crops, config.mean, config.std))
        scores = torch.softmax(logits.image.float(), dim=1)[:, 1]
        size = (self.mask_size, self.mask_size)
        masks = F.interpolate(logits.mask.float(), size, mode="bilinear", align_corners=False)
        return scores, torch.softmax(masks, dim=1)[:, 1]
