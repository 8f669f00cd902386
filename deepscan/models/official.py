"""MSCCNet's official weights, renamed to ours.

The official repository (MIT) has no public weights; whoever trained with it can bring theirs. Its
names follow SSSegmentation: `backbone_net.*` (the open-mmlab ResNet v1c), `bottleneck1..3` and
`bottleneck_fusion` (MFA), `mscc.*`, `decoder.*`, and `classifer.fc` (spelt so). Everything must
fit: a name that is missing or unknown ends the conversion. Not tried on a real checkpoint: there is
none to be had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from deepscan.errors import ModelError
from deepscan.models.config import MSCCNetConfig
from deepscan.models.msccnet import MSCCNet, cosine_images

# Official prefix -> ours. Indices inside (0 convolution, 1 batch norm, ...) are the same.
PREFIXES = {
    "bottleneck1.": "mfa.reduce.0.",
    "bottleneck2.": "mfa.reduce.1.",
    "bottleneck3.": "mfa.reduce.2.",
    "bottleneck_fusion.": "mfa.fuse.",
    "mscc.bottleneck.": "mscc.output.",
    "mscc.decoder_map.": "mscc.head.",
    "mscc.fuse.": "mscc.fuse.",
    "mscc.gcn.conv1.": "mscc.mix.",
    "mscc.gcn.conv2.": "mscc.project.",
    "decoder.": "decoder.",
    "classifer.fc.": "classifier.",
    "backbone_net.stem.7.": "backbone.bn1.",  # timm keeps the stem's last norm outside of it
    "backbone_net.stem.": "backbone.conv1.",
    "backbone_net.": "backbone.",
}
UNUSED = "auxiliary_decoder."  # a head for training only; the configuration for FF++ has none
FREQUENCY = "mscc.frequency.weight"
STRIDE = 8
BACKBONES = {6: "resnet50", 23: "resnet101"}  # blocks of stage 3; "c" is added for the deep stem


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of an official checkpoint; nothing but tensors and plain values is unpickled.

    Raises:
        ModelError: the file is missing or holds no state dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # junk makes the unpickler stumble in any way
        # Not in torch's own words: they advise to run what the file holds.
        raise ModelError(
            f"{path}: not a checkpoint that can be read safely: give tensors saved by torch "
            "(.pth), weights (.safetensors), a detector (.onnx), or a model's folder or zip"
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path}: expected a state dict, by itself or under the key model")
    return {name.removeprefix("module."): value for name, value in state.items()}


def infer_config(state: Mapping[str, Tensor]) -> MSCCNetConfig:
    """The network that official weights belong to, read off their names and shapes.

    Raises:
        ModelError: names are missing, or the shapes fit no configuration.
    """
    try:
        bands = state["mscc.fuse.weight"].shape[1]
        channels, side = state[FREQUENCY].shape[0], state[FREQUENCY].shape[-1]
        blocks = {name.split(".")[2] for name in state if name.startswith("backbone_net.layer3.")}
        backbone = BACKBONES[len(blocks)]
    except KeyError as error:
        raise ModelError(f"not MSCCNet's official layout: {error} is missing or unknown") from error
    if any(name.startswith("backbone_net.stem.") for name in state):
        backbone += "c"
    band_k = math.isqrt(bands)
    dct_k = _cosines(state[FREQUENCY])
    return MSCCNetConfig(
        input_size=side * STRIDE,
        backbone=backbone,
        output_stride=STRIDE,
        channels=channels,
        dct_k=dct_k or band_k,
        band_k=band_k,
        # Random or learned images are kept as they are: for judging they are all fixed.
        filters="fixed-dct" if dct_k else "fixed-random",
    )


def convert(state: Mapping[str, Tensor]) -> tuple[MSCCNetConfig, dict[str, Tensor]]:
    """Config and state dict of deepscan's MSCCNet from an official state dict.

    Raises:
        ModelError: a name or shape does not fit.
    """
    config = infer_config(state)
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(UNUSED):
            continue
        if name == FREQUENCY:
            if config.filters != "fixed-dct":
                converted["mscc.filter.weight"] = value
            continue
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            raise ModelError(f"unknown name in the checkpoint: {name}")
        ours = PREFIXES[prefix] + name.removeprefix(prefix)
        # The mixing of bands is a 1x1 convolution over (K, c) maps there, over a line here.
        converted[ours] = value.squeeze(-1) if ours == "mscc.mix.weight" else value
    with torch.device("meta"):
        expected = MSCCNet(config).state_dict()
    missing, unknown = expected.keys() - converted.keys(), converted.keys() - expected.keys()
    for names, what in ((missing, "missing"), (unknown, "unknown")):
        if names:
            raise ModelError(f"{len(names)} names are {what}, the first {min(names)}")
    for name, value in converted.items():
        if value.shape != expected[name].shape:
            raise ModelError(
                f"{name} is {tuple(value.shape)}, expected {tuple(expected[name].shape)}"
            )
    return config, converted


def _cosines(weight: Tensor) -> int | None:
    """The k whose cosine images these weights (C, L, L) are, None if they are something else."""
    channels, side = weight.shape[0], weight.shape[-1]
    for k in (8, 2, 4, 6):
        if channels % (k * k) == 0 and torch.allclose(
            weight.float(), cosine_images(channels, side, k), atol=1e-6
        ):
            return k
    return None
