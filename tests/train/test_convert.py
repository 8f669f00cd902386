"""Official checkpoints, made here by naming a network's weights as the official code names them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from deepscan.errors import ModelError
from deepscan.models.config import MSCCNetConfig
from deepscan.models.msccnet import MSCCNet, cosine_images
from deepscan.models.official import convert, infer_config, read_checkpoint
from train.convert import app

SIDE = 64  # pixels; maps of 8x8

# Written out, not derived from the converter's table: the test must not repeat its mistakes.
NAMES = (
    ("backbone.bn1.", "backbone_net.stem.7."),
    ("backbone.conv1.", "backbone_net.stem."),
    ("backbone.", "backbone_net."),
    ("mfa.reduce.0.", "bottleneck1."),
    ("mfa.reduce.1.", "bottleneck2."),
    ("mfa.reduce.2.", "bottleneck3."),
    ("mfa.fuse.", "bottleneck_fusion."),
    ("mscc.head.", "mscc.decoder_map."),
    ("mscc.mix.", "mscc.gcn.conv1."),
    ("mscc.project.", "mscc.gcn.conv2."),
    ("mscc.output.", "mscc.bottleneck."),
    ("classifier.", "classifer.fc."),
)


def config(**changes) -> MSCCNetConfig:
    values = {"input_size": SIDE, "channels": 64, "dct_k": 8, "band_k": 2} | changes
    return MSCCNetConfig(**values)


def official(network: MSCCNet) -> dict[str, torch.Tensor]:
    """The state dict that the official code would have saved for the same weights."""
    state = {}
    for name, value in network.state_dict().items():
        for ours, theirs in NAMES:
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        state[name] = value[..., None] if name == "mscc.gcn.conv1.weight" else value
    state.pop("mscc.filter.weight", None)
    state["mscc.frequency.weight"] = network.mscc.filter.weight
    return state


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    built = MSCCNet(config()).eval()
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # so that swapped norms would be noticed
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return built


def test_a_converted_network_judges_alike(network, tmp_path):
    path = tmp_path / "epoch_30.pth"
    torch.save({"model": official(network), "cur_epoch": 30, "cur_iter": 900}, path)
    out = tmp_path / "new" / "weights.safetensors"
    result = CliRunner().invoke(app, [str(path), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "resnet50c, 64 px, dct_k 8, band_k 2" in result.output
    again = MSCCNet(config()).eval()
    again.load_state_dict(load_file(out), strict=True)
    crops = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        for mine, theirs in zip(again(crops), network(crops), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_the_config_is_read_off_the_weights(network):
    state = official(network)
    assert infer_config(state) == config()
    state["mscc.frequency.weight"] = cosine_images(64, SIDE // 8, 2)
    assert infer_config(state).dct_k == 2
    noise = torch.rand(64, SIDE // 8, SIDE // 8)
    state["mscc.frequency.weight"] = noise
    found, converted = convert(state)
    assert found.filters == "fixed-random"
    assert converted["mscc.filter.weight"] is noise


def test_what_does_not_fit_is_refused(network):
    state = official(network)
    with pytest.raises(ModelError, match=r"1 names are missing, the first decoder\.4\.bias"):
        convert({name: value for name, value in state.items() if name != "decoder.4.bias"})
    with pytest.raises(ModelError, match=r"unknown name in the checkpoint: head\.weight"):
        convert(state | {"head.weight": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"classifier\.bias is \(3,\), expected \(2,\)"):
        convert(state | {"classifer.fc.bias": torch.zeros(3)})
    with pytest.raises(ModelError, match="not MSCCNet's official layout"):
        convert({"conv.weight": torch.zeros(1)})
    convert(state | {"auxiliary_decoder.0.weight": torch.zeros(1)})


def test_checkpoints_are_not_trusted(tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"model": {"module.a": torch.zeros(1)}}, path)
    assert list(read_checkpoint(path)) == ["a"]
    torch.save({"model": Harmful()}, path)
    with pytest.raises(ModelError, match="not a checkpoint that can be read safely"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="expected a state dict"):
        read_checkpoint(path)
    result = CliRunner().invoke(app, [str(tmp_path / "gone.pth"), "--out", str(tmp_path / "o")])
    assert result.exit_code == 2
    assert not (tmp_path / "o").exists()


class Harmful:
    def __reduce__(self):
        return (print, ("this must never run",))
