"""The network as engines run it: uint8 crops in, scores and masks out.

Normalisation, softmax and polarity live here and hence inside every compiled graph, so that no
engine can get them differently.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepscan.models.msccnet import MSCCNet

# ImageNet's, on the 0 to 255 scale, as in the paper's code.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
MASK_STRIDE = 4  # masks leave at a quarter of the crop's side: finer than the map, still small


def normalise(crops: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 RGB to (B, 3, S, S) float32 as the network wants it."""
    mean = torch.tensor(MEAN, device=crops.device)
    std = torch.tensor(STD, device=crops.device)
    return ((crops.float() - mean) / std).permute(0, 3, 1, 2)


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
        logits = self.network(normalise(crops))
        scores = torch.softmax(logits.image.float(), dim=1)[:, 1]
        size = (self.mask_size, self.mask_size)
        masks = F.interpolate(logits.mask.float(), size, mode="bilinear", align_corners=False)
        return scores, torch.softmax(masks, dim=1)[:, 1]
