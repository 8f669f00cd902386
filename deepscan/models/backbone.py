"""Backbones: timm networks that give the maps of their last three stages.

timm imports torchvision, which does not load beside every build of torch: hence the import inside.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from deepscan.errors import ModelError
from deepscan.torchvision_ops import import_torchvision

# Small plain ResNet for two CPU cores: timm's ResNet with narrower and fewer blocks. Plain 3x3
# convolutions reach a far larger share of a CPU's peak than depthwise ones.
SMALL_RESNET: Mapping[str, object] = {
    "channels": (32, 64, 128, 192),
    "layers": (1, 2, 2, 1),
    "stem_type": "deep",
    "stem_width": 16,
}


def backbone(
    name: str, output_stride: int, arguments: Mapping[str, object] | None = None
) -> tuple[nn.Module, tuple[int, int, int]]:
    """Build a timm backbone with random weights.

    Args:
        name: a timm model that supports `features_only`; "resnet50c" is the paper's ResNet-50 v1c.
        output_stride: 8 or 16; later stages are dilated instead of strided. At 16 the map of stage
            2 is still at 8.
        arguments: further arguments of the timm model.

    Returns:
        The module, which maps (B, 3, H, W) to the maps of stages 2, 3 and 4, and their channels.

    Raises:
        ModelError: timm knows no such model, or it has fewer than four stages.
    """
    import_torchvision()
    import timm

    try:
        module = timm.create_model(
            name,
            pretrained=False,
            features_only=True,
            output_stride=output_stride,
            out_indices=(2, 3, 4),
            **dict(arguments or {}),
        )
    except Exception as error:  # timm raises many kinds for an unknown name or argument
        raise ModelError(f"backbone {name!r} cannot be built: {error}") from error
    channels = tuple(module.feature_info.channels())
    if len(channels) != 3:
        raise ModelError(f"backbone {name!r} gives {len(channels)} of stages 2 to 4, needs three")
    return module, channels
