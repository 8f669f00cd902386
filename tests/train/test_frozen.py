"""Frozen norms folded into convolutions, and the gradients of depthwise ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepscan.models.backbone import backbone
from train.frozen import depthwise_convolution, fold_frozen_norms


def norms_of(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def outputs_and_gradients(network: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad(set_to_none=True)
    out = torch.cat([one.flatten() for one in network(images)])
    out.square().mean().backward()
    return out.detach(), {
        name: one.grad.clone() for name, one in network.named_parameters() if one.grad is not None
    }


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "hrnet_w18_small"])
def test_folded_norms_change_nothing(name: str) -> None:
    torch.manual_seed(3)
    network, _ = backbone(name, 32)
    for norm in norms_of(network):
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2)
    network = network.double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before, gradients = outputs_and_gradients(network, images)
    names = list(network.state_dict())
    assert fold_frozen_norms(network, norms_of(network)) > 15
    after, folded = outputs_and_gradients(network, images)
    assert list(network.state_dict()) == names
    torch.testing.assert_close(after, before)
    assert folded.keys() == gradients.keys()
    for key, value in gradients.items():
        torch.testing.assert_close(folded[key], value)


def test_norms_that_learn_their_statistics_are_not_folded() -> None:
    network, _ = backbone("tf_efficientnet_lite0", 32)
    assert fold_frozen_norms(network, []) == 0
    assert fold_frozen_norms(network, norms_of(network)[:1]) == 1


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 5, 8, 13])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_depthwise_convolution_has_torchs_gradients(stride: int, size: int, kernel: int) -> None:
    torch.manual_seed(size)
    filters = torch.randn(6, 1, kernel, kernel, requires_grad=True)
    bias = torch.randn(6, requires_grad=True)
    x = torch.randn(2, 6, size, size + 1, requires_grad=True)
    for channels_last in (False, True):
        given = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        place = (kernel // 2, kernel // 2)
        ours = depthwise_convolution(given, filters, bias, (stride, stride), place)
        theirs = F.conv2d(x, filters, bias, stride, place, 1, 6)
        torch.testing.assert_close(ours, theirs)
        weights = torch.randn_like(theirs)
        got = torch.autograd.grad((ours * weights).sum(), (x, filters, bias))
        wanted = torch.autograd.grad((theirs * weights).sum(), (x, filters, bias))
        for one, two in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
