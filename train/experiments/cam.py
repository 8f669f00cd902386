"""Class activation maps of a classifier, by which it can be scored on pixels too."""

from __future__ import annotations

import torch
from torch import Tensor

from train.experiments.networks import TwoHeadNetwork


def activation_margin(network: TwoHeadNetwork, images: Tensor) -> Tensor:
    """Class activation map (Zhou et al., CVPR 2016), as a margin of logits.

    The head is linear in the mean of the features, so it may as well be applied to each pixel: the
    mean of this map is the crop's logit of manipulated less that of not manipulated.

    Args:
        network: one with an image head.
        images: normalised (B, 3, S, S).

    Returns:
        (B, h, w) float32.
    """
    assert network.image is not None
    features, _ = network.features(images)
    weight = network.image.weight[1] - network.image.weight[0]
    bias = network.image.bias[1] - network.image.bias[0]
    return torch.einsum("bchw,c->bhw", features.float(), weight.float()) + bias


def class_activation(network: TwoHeadNetwork, images: Tensor) -> Tensor:
    """The evidence through a sigmoid: (B, h, w) in [0, 1], what a per-pixel head would give."""
    return torch.sigmoid(activation_margin(network, images))


def grad_cam(network: TwoHeadNetwork, images: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of the manipulated class: (B, h, w) in [0, 1].

    Each map is divided by its largest value and multiplied by the crop's P(manipulated): alone it
    would mark something on every crop.
    """
    with torch.enable_grad():
        features, _ = network.features(images)
        features = features.detach().requires_grad_()
        assert network.image is not None
        logits = network.image(features.mean(dim=(2, 3)))
        (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    raw = torch.relu((weights * features).sum(dim=1)).detach()
    peak = raw.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    score = torch.softmax(logits.detach().float(), dim=1)[:, 1]
    return raw / peak * score[:, None, None]


MAPS = {"cam": class_activation, "grad-cam": grad_cam}
