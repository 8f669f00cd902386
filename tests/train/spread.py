"""A run with a network without batch norms, alone or below torchrun.

`python -m torch.distributed.run --nproc-per-node 2 -m tests.train.spread RECIPE DATA OUT`. Batch
norms see only their process's share on a CPU, so only without them can results agree.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from deepscan.models.config import MSCCNetConfig
from deepscan.models.msccnet import Logits
from train import train as training
from train.recipe import read_recipe


class Plain(nn.Module):
    """Three convolutions with the outputs of MSCCNet."""

    def __init__(self, config: MSCCNetConfig) -> None:
        super().__init__()
        self.config = config
        self.mscc = None
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.mask, self.coarse = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)
        self.image = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Logits:
        maps = self.body(images)
        return Logits(self.image(maps.mean((2, 3))), self.mask(maps), self.coarse(maps))


def run(recipe: Path, data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    with patch.object(training, "build", Plain):
        training.train(read_recipe(recipe), data, out, workers=0, device="cpu")


if __name__ == "__main__":
    run(*(Path(argument) for argument in sys.argv[1:]))
