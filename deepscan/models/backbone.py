"""Backbones: timm networks that give the maps of their stages.

timm imports torchvision, which does not load beside every build of torch: hence the import inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from deepscan.errors import ModelError
from deepscan.models.torchvision_compat import import_torchvision


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, for weights that come from there.

    timm's own works the padding out with tensors, which an exported graph would do at run time;
    here it is plain numbers, hence constants.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (self._around(int(x.shape[axis + 2]), axis) for axis in (0, 1))
        return F.conv2d(
            F.pad(x, (*columns, *rows)), self.weight, self.bias, self.stride, 0, self.dilation,
            self.groups,
        )  # fmt: skip

    def _around(self, side: int, axis: int) -> tuple[int, int]:
        stride, reach = self.stride[axis], (self.kernel_size[axis] - 1) * self.dilation[axis]
        total = max((math.ceil(side / stride) - 1) * stride + reach + 1 - side, 0)
        return total // 2, total - total // 2


def _plain_padding(module: nn.Module) -> None:
    """Replace timm's "same" convolutions, in place; parameters and their names stay."""
    from timm.layers import Conv2dSame

    for name, child in module.named_children():
        if isinstance(child, Conv2dSame):
            convolution = SameConv2d(
                child.in_channels, child.out_channels, child.kernel_size, child.stride,
                0, child.dilation, child.groups, child.bias is not None,
            )  # fmt: skip
            convolution.weight, convolution.bias = child.weight, child.bias
            setattr(module, name, convolution)
        else:
            _plain_padding(child)


def backbone(
    name: str,
    output_stride: int,
    stages: tuple[int, ...] = (2, 3, 4),
    arguments: Mapping[str, object] | None = None,
) -> tuple[nn.Module, tuple[int, ...]]:
    """Build a timm backbone with random weights.

    Args:
        name: a timm model that supports `features_only`; "resnet50c" is the paper's ResNet-50 v1c.
        output_stride: 8, 16 or 32; where a stage would go beyond, it is dilated instead of strided.
            Stage n is at stride 2 ** (n + 1) before that.
        stages: which stages to give.
        arguments: further arguments of the timm model.

    Returns:
        The module, which maps (B, 3, H, W) to the maps of these stages, and their channels.

    Raises:
        ModelError: timm knows no such model, or it lacks one of the stages.
    """
    import_torchvision()
    import timm

    try:
        module = timm.create_model(
            name,
            pretrained=False,
            features_only=True,
            output_stride=output_stride,
            out_indices=stages,
            **dict(arguments or {}),
        )
    except Exception as error:  # timm raises many kinds for an unknown name or argument
        raise ModelError(f"backbone {name!r} cannot be built: {error}") from error
    _plain_padding(module)
    channels = tuple(module.feature_info.channels())
    if len(channels) != len(stages):
        raise ModelError(f"backbone {name!r} gives {len(channels)} maps, stages {stages} are asked")
    return module, channels
