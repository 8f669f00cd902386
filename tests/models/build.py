"""Small networks with made-up weights, written as a model that can be loaded."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from deepscan.models.config import MSCCNetConfig
from deepscan.models.deploy import normalise
from deepscan.models.msccnet import MSCCNet
from deepscan.models.weights import save_weights

TINY = MSCCNetConfig(
    input_size=64,
    backbone="resnet18",
    backbone_arguments={
        "channels": (8, 8, 16, 16),
        "layers": (1, 1, 1, 1),
        "stem_type": "deep",
        "stem_width": 8,
    },
    channels=64,
    image_head="backbone+mask",
)


def build_network(config=TINY, seed=0):
    """A network in eval mode whose scores and masks differ from crop to crop."""
    torch.manual_seed(seed)
    network = MSCCNet(config).eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
        # Spread out, and round 0.5: answers at either end would agree whatever was computed.
        crops = torch.randint(0, 256, (16, config.input_size, config.input_size, 3))
        crops[8:] = torch.linspace(0, 255, 8)[:, None, None, None]
        for layer, answer in ((network.decoder[-1], "mask"), (network.classifier, "image")):
            logits = (
                getattr(network(normalise(crops, config.mean, config.std)), answer)
                .transpose(0, 1)
                .flatten(1)
            )
            layer.weight.mul_(1.5 / (logits[1] - logits[0]).std())
            logits = (
                getattr(network(normalise(crops, config.mean, config.std)), answer)
                .transpose(0, 1)
                .flatten(1)
            )
            layer.bias.sub_(logits.mean(dim=1))
    return network


def write_model(folder, name="tiny", *, network=None, seed=0, **card):
    """Write a network's weights and card; gives the card's values."""
    network = network or build_network(seed=seed)
    folder.mkdir(exist_ok=True)
    sha256 = save_weights(
        folder / f"{name}.safetensors", network.config, network.state_dict(), {"seed": str(seed)}
    )
    values = {
        "sha256": sha256,
        "config": network.config.to_dict(),
        "evaluation": {"auc": {"value": 0.75, "low": 0.7, "high": 0.8}, "data": "made-up crops"},
        **card,
    }
    (folder / f"{name}.json").write_text(json.dumps(values))
    return values


def tiny(**changes):
    return replace(TINY, **changes)
