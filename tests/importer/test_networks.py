"""Weights of MSCCNet as models of one's own: ours, the official code's, and what only looks so."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepscan.errors import ModelError, UsageError
from deepscan.importer.network import import_checkpoint, import_model, import_weights
from deepscan.models.card import FOLDER
from deepscan.models.config import MSCCNetConfig
from deepscan.models.library import list_cards, read_card
from deepscan.models.msccnet import MSCCNet
from deepscan.models.weights import load_model, save_weights
from deepscan.options import ScanOptions
from tests.models.build import TINY, build_network, write_model
from tests.train.test_convert import official


def names():
    return {card.name for card, _ in list_cards()}


@pytest.mark.parametrize(
    "config",
    [TINY, replace(TINY, mscc=False, image_head="backbone"), replace(TINY, channels=128)],
    ids=["tiny", "without MSCC", "wide"],
)
def test_weights_of_our_trainer_of_any_configuration(tmp_path, config):
    network = build_network(config)
    path = tmp_path / "best.safetensors"
    save_weights(path, network.config, network.state_dict(), {"steps": "12"})
    card = import_weights(path, "trained", {"licence": "MIT"}, force=True)
    assert not card.certified and card.calibration is None and card.licence == "MIT"
    assert card.values["training"] == {"steps": "12"} and len(card.values["selftest"]["scores"])
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        scores, _ = load_model(read_card("trained"))(crops)
    assert scores.shape == (2,)


def test_a_card_beside_the_weights_comes_along(tmp_path):
    values = write_model(tmp_path, licence="MIT", calibration=None)
    card = import_weights(tmp_path / "tiny.safetensors", "carded", {"source": "us"}, force=True)
    assert card.certified and card.values["evaluation"] == values["evaluation"]
    assert (card.licence, card.source) == ("MIT", "us")


def test_the_model_that_ships_can_be_copied():
    name = ScanOptions().model
    card = import_model(FOLDER / f"{name}.json", "copied", {}, force=True)
    assert card.sha256 == read_card(name).sha256 and card.calibration == read_card(name).calibration


def test_a_detector_can_be_carried_elsewhere(imported, tmp_path):
    card = import_model(imported["bgr"].path.parent, "carried", {}, force=True)
    assert card.kind == "onnx" and card.sha256 == imported["bgr"].sha256


def test_an_official_checkpoint(tmp_path):
    torch.manual_seed(0)
    network = MSCCNet(MSCCNetConfig(input_size=64, channels=64, dct_k=8, band_k=2)).eval()
    path = tmp_path / "epoch_1.pth"
    torch.save({"model": official(network), "epoch": 1}, path)
    card = import_checkpoint(path, "official", {"source": "us"}, force=True)
    assert card.kind == "network" and card.input.size == 64 and not card.certified
    ours = load_model(card).network.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in network.state_dict().items())


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["junk", "pickle", "torch", "other names"])
def test_a_checkpoint_that_is_none_is_refused_in_one_line_and_not_run(tmp_path, kind):
    path, marker = tmp_path / "epoch.pth", tmp_path / "marker"
    if kind == "junk":
        path.write_bytes(b"junk\n")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(marker)))
    elif kind == "torch":
        torch.save({"model": Payload(marker)}, path)
    else:
        torch.save({"model": {"weight": torch.zeros(2)}}, path)
    with pytest.raises(ModelError) as found:
        import_checkpoint(path, "none", {})
    assert "\n" not in str(found.value)
    assert not marker.exists() and "none" not in names()


def test_weights_that_do_not_say_whose_they_are(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="Export another detector as ONNX"):
        import_weights(path, "none", {})
    save_file({"weight": torch.zeros(2)}, path, {"config": "{}"})
    with pytest.raises(ModelError, match="do not fit"):
        import_weights(path, "none", {})
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match="no weights that can be read"):
        import_weights(path, "none", {})
    assert "none" not in names()


@pytest.mark.parametrize("fault", ["constant", "nan"])
def test_weights_that_say_nothing_are_refused(tmp_path, fault):
    network = build_network()
    with torch.no_grad():
        if fault == "constant":
            network.classifier.weight.zero_()
        else:
            network.classifier.bias[0] = np.nan
    path = tmp_path / "bad.safetensors"
    save_weights(path, network.config, network.state_dict(), {})
    with pytest.raises(ModelError, match="ignores" if fault == "constant" else "NaN"):
        import_weights(path, "none", {})
    assert "none" not in names()


def test_a_name_that_is_taken_is_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="ships with deepscan"):
        import_weights(tmp_path / "no such file", ScanOptions().model, {})


def test_the_command_chooses_by_what_it_is_given(deepscan_cli, made, tmp_path):
    write_model(tmp_path)
    ran = deepscan_cli("model", "import", tmp_path / "tiny.safetensors", "--to", "by-hand")
    assert ran.code == 0 and "next: deepscan model check by-hand" in ran.out
    ran = deepscan_cli("model", "import", made.bgr, "--to", "asked")
    assert ran.code == 2 and ran.err.count("\n") == 1 and "--colours" in ran.err
    ran = deepscan_cli(
        "model", "import", made.bgr, "--to", "by-hand-too", "--colours", "bgr", "--mean",
        "0.406,0.456,0.485", "--std", "0.225,0.224,0.229", "--crop-scale", 1.3, "--score",
        "two-logits", "--index", 0, "--licence", "MIT",
    )  # fmt: skip
    assert ran.code == 0 and "settled by what was said of it" in ran.out
    assert deepscan_cli("model", "import", tmp_path / "nothing.onnx", "--to", "x").code == 2
    assert deepscan_cli("model", "import", tmp_path / "nothing.zip", "--to", "x").code == 2
    ran = deepscan_cli("model", "check", "by-hand-too")
    assert ran.code == 0 and "next: deepscan model calibrate by-hand-too" in ran.out
    for name in ("by-hand", "by-hand-too"):
        assert deepscan_cli("model", "remove", name).code == 0
