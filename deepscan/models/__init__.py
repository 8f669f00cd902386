"""The table of networks: what each name means before any weights are read.

The contract is `MSCCNetConfig` (config.py), from which `MSCCNet` (msccnet.py) is built. To add one,
add an entry here, train it (`python -m train`), and put weights and card into deepscan/weights/.
"""

from __future__ import annotations

from collections.abc import Mapping

from deepscan.models.config import MSCCNetConfig

# Small plain ResNet for two CPU cores: timm's ResNet with narrower and fewer blocks. Plain 3x3
# convolutions reach a far larger share of a CPU's peak than depthwise ones.
SMALL_RESNET: Mapping[str, object] = {
    "channels": (32, 64, 128, 192),
    "layers": (1, 2, 2, 1),
    "stem_type": "deep",
    "stem_width": 16,
}

MODELS: dict[str, MSCCNetConfig] = {
    # The paper's network as its official code trains it.
    "msccnet-r50": MSCCNetConfig(),
    # A small one that ships, with random weights to start from: 0.74 GMAC a crop, not 218.
    "msccnet-s": MSCCNetConfig(
        input_size=160,
        backbone="resnet18",
        backbone_arguments=SMALL_RESNET,
        channels=64,
        image_head="backbone+mask",
    ),
    # The default, which starts from ImageNet weights (train.pretrained): 0.3 GMAC a crop.
    "msccnet-lite0": MSCCNetConfig(
        input_size=160,
        backbone="tf_efficientnet_lite0",
        output_stride=32,
        channels=64,
        image_head="backbone+mask",
        aggregation="pyramid",
        mean=(127.5, 127.5, 127.5),  # as these ImageNet weights were trained
        std=(127.5, 127.5, 127.5),
    ),
}
