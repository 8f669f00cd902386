"""Parts of a backbone that do not learn; a step on a CPU in less time where norms are frozen.

Depthwise convolutions and batch norms take most of such a step. Three rewritings give the same
gradients sooner:

- a batch norm whose statistics are frozen is a scale and a shift, which its convolution takes over;
- the gradient of a 5 x 5 depthwise filter is put together from four of 3 x 3, for which oneDNN has
  a fast routine (it has none for 5 x 5);
- under bf16 depthwise convolutions stay in fp32, as their bf16 gradients are slower still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from deepscan.models.backbone import SameConv2d
from deepscan.models.msccnet import MSCCNet
from train.recipe import Recipe


def freeze(network: MSCCNet, recipe: Recipe) -> list[nn.Module]:
    """Keep a recipe's frozen parts of the backbone from learning.

    Returns:
        The modules that have to stay in eval mode, so that their statistics stay too.
    """
    if not (recipe.frozen_stages or recipe.frozen_norms):
        return []
    modules = list(network.backbone.modules())
    norms = [m for m in modules if isinstance(m, _BatchNorm)]
    if recipe.frozen_stages == 0:
        return list(norms)
    # timm's features name the module that ends each stage; parameters come in forward order.
    info: Any = network.backbone.feature_info
    places = [stage["module"] for stage in info.info if stage["reduction"] >= 4]
    last = places[recipe.frozen_stages - 1]
    named = dict(network.backbone.named_parameters())
    end = max(place for place, name in enumerate(named) if name.startswith(f"{last}."))
    frozen = list(named.values())[: end + 1]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if recipe.frozen_norms:
        return list(norms)
    held = {id(parameter) for parameter in frozen}
    return [norm for norm in norms if id(norm.weight) in held]


def fold_frozen_norms(backbone: nn.Module, frozen: Iterable[nn.Module]) -> int:
    """Let each convolution that a frozen batch norm follows do the norm's work; returns how many.

    Parameters, their names and what the backbone computes stay; a copy of the backbone would go on
    with the parameters of this one. Only a norm that its block declares right after its convolution
    is folded: timm's blocks declare them in the order of their work.

    Args:
        backbone: changed in place: the `forward` of convolutions and norms.
        frozen: norms whose statistics never change again (they stay in eval mode).
    """
    held = {id(module) for module in frozen}
    folded = 0
    for parent in backbone.modules():
        before: nn.Module | None = None
        for module in parent.children():
            if id(module) in held and _belong(before, module):
                before.forward = _folded(before, module)  # type: ignore[union-attr]
                module.forward = _activation(module)
                folded += 1
            before = module
    return folded


def _belong(convolution: nn.Module | None, norm: nn.Module) -> bool:
    return (
        isinstance(convolution, nn.Conv2d)
        and isinstance(norm, _BatchNorm)
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
        and convolution.out_channels == norm.num_features
        and norm.affine
        and norm.running_var is not None
    )


def _activation(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """What is left of a folded norm: timm's norms carry their activation, torch's carry none."""
    then = getattr(norm, "act", None) or nn.Identity()
    dropped = getattr(norm, "drop", None) or nn.Identity()

    def forward(x: Tensor) -> Tensor:
        out: Tensor = then(dropped(x))
        return out

    return forward


def _folded(convolution: Any, norm: Any) -> Callable[[Tensor], Tensor]:
    depthwise = 1 < convolution.groups == convolution.in_channels == convolution.out_channels

    def forward(x: Tensor) -> Tensor:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = convolution.weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
        if convolution.bias is not None:
            bias = bias + convolution.bias * scale
        padding: Any = convolution.padding
        if isinstance(convolution, SameConv2d):
            sides = [convolution._around(int(x.shape[axis + 2]), axis) for axis in (1, 0)]
            x, padding = F.pad(x, (*sides[0], *sides[1])), 0
        if depthwise:
            with torch.autocast(x.device.type, enabled=False):
                return depthwise_convolution(
                    x.to(weight.dtype),
                    weight,
                    bias,
                    convolution.stride,
                    padding,
                    convolution.dilation,
                )
        return F.conv2d(
            x, weight, bias, convolution.stride, padding, convolution.dilation, convolution.groups
        )

    return forward


def depthwise_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, dilation: Any = 1
) -> Tensor:
    """`F.conv2d` with a filter for each channel, (B, C, H, W) and (C, 1, k, k), in fp32.

    On a CPU with k = 5 the gradient for the filters takes the way that the module describes.
    """
    if x.device.type == "cpu" and weight.shape[2:] == (5, 5) and dilation in (1, (1, 1)):
        pair = (padding, padding) if isinstance(padding, int) else padding
        # Padding once, here, keeps the parts below free of cases.
        out: Tensor = _Depthwise5.apply(  # type: ignore[no-untyped-call]
            F.pad(x, (pair[1], pair[1], pair[0], pair[0])), weight, bias, tuple(stride)
        )
        return out
    return F.conv2d(x, weight, bias, stride, padding, dilation, x.shape[1])


class _Depthwise5(torch.autograd.Function):
    """A 5 x 5 depthwise convolution of a padded map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride, 0, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        channels, height, width = x.shape[1], gradient.shape[2], gradient.shape[3]
        rows, columns = ctx.stride
        gradient = gradient.contiguous(memory_format=torch.channels_last)

        def back(given: Tensor, filters: Tensor, wanted: list[bool]) -> tuple[Tensor, ...]:
            out: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
                gradient, given, filters, [channels], [rows, columns], [0, 0], [1, 1], False,
                [0, 0], channels, wanted,
            )  # fmt: skip
            return out

        data = back(x, weight, [True, False, False])[0] if ctx.needs_input_grad[0] else None
        filters, bias = torch.empty_like(weight), None
        corner = weight[:, :, :3, :3].contiguous()
        for top in (0, 2):
            for left in (0, 2):
                part = x[
                    :, :, top : top + rows * (height - 1) + 3,
                    left : left + columns * (width - 1) + 3,
                ].contiguous(memory_format=torch.channels_last)  # fmt: skip
                _, ninth, sums = back(part, corner, [False, True, bias is None])
                filters[:, :, top : top + 3, left : left + 3] = ninth
                bias = sums if bias is None else bias
        return data, filters, bias, None
