"""Weights files: what comes back is what was written, and nothing else is ever taken."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from deepscan.errors import ModelError
from deepscan.models.config import MSCCNetConfig
from deepscan.models.deploy import Deployed
from deepscan.models.library import read_card
from deepscan.models.weights import load_model, read_weights, save_weights
from tests.models.build import TINY, build_network, tiny, write_model


def claim(folder, data, name="tiny"):
    """Put other bytes in the place of the weights, with a card that vouches for them."""
    (folder / f"{name}.safetensors").write_bytes(data)
    card = folder / f"{name}.json"
    values = json.loads(card.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
    card.write_text(json.dumps(values))


def written(config):
    return json.dumps(config.to_dict(), sort_keys=True)


def test_a_network_comes_back_as_it_was(tmp_path):
    network = build_network()
    write_model(tmp_path, network=network)
    deployed = load_model(read_card("tiny", tmp_path))
    assert written(deployed.network.config) == written(TINY)
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        for ours, theirs in zip(deployed(crops), Deployed(network)(crops), strict=True):
            assert torch.equal(ours, theirs)


def test_the_card_says_what_the_model_is(tmp_path):
    values = write_model(tmp_path)
    info = read_card("tiny", tmp_path).info
    assert info.name == "tiny" and info.sha256 == values["sha256"] and info.input_size == 64
    assert info.auc == 0.75 and info.auc_interval == (0.7, 0.8)
    assert info.evaluated_on == "made-up crops"


def test_the_card_carries_its_evidence(tmp_path):
    figure = {"what": "video AUC", "on": "clips", "value": 0.9, "interval": [0.8, 0.95]}
    evaluation = {"auc": {"value": 0.75, "low": 0.7, "high": 0.8}, "data": "made-up crops"}
    write_model(tmp_path, evaluation={**evaluation, "evidence": [figure]})
    (found,) = read_card("tiny", tmp_path).info.evidence
    assert (found.what, found.value, found.interval) == ("video AUC", 0.9, (0.8, 0.95))
    write_model(tmp_path, evaluation={**evaluation, "evidence": [{**figure, "interval": [0.8]}]})
    with pytest.raises(ModelError, match="damaged"):
        read_card("tiny", tmp_path)


def test_a_file_tells_its_config_and_history(tmp_path):
    write_model(tmp_path, seed=5)
    with safe_open(tmp_path / "tiny.safetensors", "pt") as file:
        told = file.metadata()
    assert written(MSCCNetConfig(**json.loads(told["config"]))) == written(TINY)
    assert told["seed"] == "5"


def test_saving_gives_the_hash_and_leaves_no_part(tmp_path):
    path = tmp_path / "w.safetensors"
    sha256 = save_weights(path, TINY, build_network().state_dict(), {})
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_an_unknown_model_is_refused_with_those_there_are(tmp_path):
    write_model(tmp_path)
    with pytest.raises(ModelError, match=r"nothing.*there is: tiny"):
        read_card("nothing", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": "0"}'])
def test_a_damaged_card_is_refused(tmp_path, text):
    (tmp_path / "tiny.json").write_text(text)
    with pytest.raises(ModelError):
        read_card("tiny", tmp_path)


def test_weights_that_are_missing_are_refused(tmp_path):
    write_model(tmp_path)
    (tmp_path / "tiny.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(read_card("tiny", tmp_path))


@pytest.mark.parametrize("change", ["one bit", "shorter", "longer"])
def test_weights_that_are_not_the_cards_are_refused(tmp_path, change):
    write_model(tmp_path)
    path = tmp_path / "tiny.safetensors"
    data = bytearray(path.read_bytes())
    if change == "one bit":
        data[-1] ^= 1
    path.write_bytes({"shorter": data[:-1], "longer": data + b"\0"}.get(change, data))
    for reader in (read_weights, load_model):
        with pytest.raises(ModelError, match="SHA-256"):
            reader(read_card("tiny", tmp_path))


def test_a_truncated_file_is_refused_even_if_its_card_vouches_for_it(tmp_path):
    write_model(tmp_path)
    data = (tmp_path / "tiny.safetensors").read_bytes()
    for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        claim(tmp_path, data[:length])
        with pytest.raises(ModelError):
            load_model(read_card("tiny", tmp_path))


@pytest.mark.parametrize(
    "other", [{"channels": 128}, {"graph": False}, {"image_head": "backbone"}, {"mscc": False}]
)
def test_weights_of_another_network_are_refused(tmp_path, other):
    write_model(tmp_path)
    write_model(tmp_path, "other", network=build_network(tiny(**other)))
    claim(tmp_path, (tmp_path / "other.safetensors").read_bytes())
    with pytest.raises(ModelError, match="do not fit"):
        load_model(read_card("tiny", tmp_path))


def test_a_config_with_unknown_keys_is_refused(tmp_path):
    write_model(tmp_path, config=TINY.to_dict() | {"surprise": 1})
    with pytest.raises(ModelError, match="surprise"):
        load_model(read_card("tiny", tmp_path))


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_refused_and_not_run(tmp_path, kind):
    write_model(tmp_path)
    marker, trap = tmp_path / "marker", tmp_path / "trap"
    if kind == "pickle":
        trap.write_bytes(pickle.dumps(Payload(marker)))
    else:
        torch.save({"weight": Payload(marker)}, trap)
    claim(tmp_path, trap.read_bytes())
    with pytest.raises(ModelError):
        load_model(read_card("tiny", tmp_path))
    assert not marker.exists()


def test_every_figure_of_the_shipped_card_lies_in_its_interval(shipped_model):
    evidence = read_card(shipped_model).info.evidence
    assert len(evidence) > 5
    for each in evidence:
        assert each.interval[0] <= each.value <= each.interval[1], each
