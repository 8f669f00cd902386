"""The border of the network: normalisation, sizes, polarity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deepscan.models.deploy import Deployed, normalise
from deepscan.models.msccnet import Logits
from tests.models.build import TINY, build_network


class Fixed(nn.Module):
    """A network that always answers the same logits."""

    def __init__(self, image, mask):
        super().__init__()
        self.config = TINY
        self.image, self.mask = image, mask
        self.seen = None

    def forward(self, images):
        self.seen = images
        return Logits(self.image.expand(len(images), 2), self.mask, None)


def test_normalisation_is_imagenets_on_red_green_blue():
    crops = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    crops[..., 0], crops[..., 1], crops[..., 2] = 255, 128, 7
    found = normalise(crops)
    assert found.shape == (1, 3, 4, 4) and found.dtype == torch.float32
    expected = [(255 - 123.675) / 58.395, (128 - 116.28) / 57.12, (7 - 103.53) / 57.375]
    assert found[0, :, 2, 1].tolist() == pytest.approx(expected, rel=1e-6)


def test_rows_stay_rows():
    crops = torch.zeros(1, 4, 6, 3, dtype=torch.uint8)
    crops[0, 1, 5] = 255
    bright = normalise(crops)[0, 0] > 0
    assert bright.nonzero().tolist() == [[1, 5]]


def test_class_one_is_manipulated():
    mask = torch.zeros(1, 2, 8, 8)
    mask[0, 1, :, :4] = 9.0  # the left half speaks for class 1
    mask[0, 0, :, 4:] = 9.0
    deployed = Deployed(Fixed(torch.tensor([[-2.0, 3.0]]), mask))
    scores, masks = deployed(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert scores.item() == pytest.approx(1 / (1 + np.exp(-5)), rel=1e-5)
    assert masks.shape == (1, 16, 16)
    assert masks[0, :, :6].min() > 0.99 and masks[0, :, 10:].max() < 0.01


def test_scores_and_masks_are_probabilities_a_quarter_of_the_side():
    deployed = Deployed(build_network())
    crops = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        scores, masks = deployed(crops)
    assert scores.shape == (3,) and masks.shape == (3, 16, 16)
    assert scores.dtype == masks.dtype == torch.float32
    for values in (scores, masks):
        assert values.min() >= 0 and values.max() <= 1


def test_deployed_never_trains():
    deployed = Deployed(build_network().train())
    assert not any(module.training for module in deployed.modules())
