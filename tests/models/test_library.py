"""Models by name and by path: found wherever they lie, written whole or not at all."""

from __future__ import annotations

import json
import zipfile

import pytest

from deepscan.errors import ModelError, OutputError, UsageError
from deepscan.models.card import FOLDER
from deepscan.models.library import (
    check_name,
    list_cards,
    models_folder,
    read_card,
    remove_model,
    save_model,
)
from deepscan.models.weights import load_model, read_weights
from deepscan.options import ScanOptions
from tests.models.build import write_model


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """The user's folder, which does not exist yet."""
    monkeypatch.setenv("DEEPSCAN_MODELS", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def made(tmp_path):
    """A model's folder: its path, the card's values and the weights."""
    values = write_model(tmp_path / "tiny")
    return tmp_path / "tiny", values, (tmp_path / "tiny" / "tiny.safetensors").read_bytes()


def packed(folder, path, inside=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for one in folder.iterdir():
            file.write(one, inside + one.name)
    return path


def test_the_user_s_folder_follows_the_environment(own, monkeypatch, tmp_path):
    assert models_folder() == own
    monkeypatch.delenv("DEEPSCAN_MODELS")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert models_folder() == tmp_path / "data" / "deepscan" / "models"
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_folder() == tmp_path / "Library" / "Application Support" / "deepscan" / "models"


def test_a_saved_model_is_found_by_its_name(own, made):
    _, values, weights = made
    card = save_model("mine", values, weights)
    assert card.name == "mine" and card.path == own / "mine" / "mine.safetensors"
    assert read_card("mine").sha256 == values["sha256"]
    assert load_model(card).input_size == 64
    assert [(card.name, ships) for card, ships in list_cards()] == [
        ("mine", False),
        ("msccnet-lite0", True),
        ("msccnet-s", True),
    ]
    assert sorted(path.name for path in own.iterdir()) == ["mine"]
    assert remove_model("mine") == own / "mine"
    with pytest.raises(ModelError, match=r"no model 'mine'.*there is: msccnet"):
        read_card("mine")


@pytest.mark.parametrize("inside", ["", "tiny/"])
def test_a_model_may_be_a_folder_a_zip_or_a_card_anywhere(made, tmp_path, inside):
    folder, values, weights = made
    zipped = packed(folder, tmp_path / "carried.zip", inside)
    for path in (folder, zipped, folder / "tiny.json"):
        card = read_card(str(path))
        assert (card.name, card.sha256) == ("tiny", values["sha256"])
        assert read_weights(card) == weights
    assert load_model(read_card(str(zipped))).input_size == 64


def test_a_zip_in_the_user_s_folder_is_a_model_too(own, made):
    own.mkdir()
    packed(made[0], own / "tiny.zip")
    assert read_card("tiny").name == "tiny"
    with pytest.raises(UsageError, match="there already"):
        check_name("tiny")
    assert remove_model("tiny") == own / "tiny.zip"


def test_a_card_says_what_its_model_is(made):
    card = read_card(str(made[0]))
    assert card.kind == "network" and card.has_mask and card.certified
    assert card.calibration is None and card.source == card.licence == ""
    assert card.input.size == 64 and card.output.manipulated == 1


def test_a_model_without_measurements_is_not_certified(made):
    _, values, weights = made
    card = save_model("bare", {k: values[k] for k in ("sha256", "config")}, weights)
    assert not card.certified
    assert card.info.auc is None and card.info.auc_interval is None and card.info.has_mask


def test_nothing_half_written_is_left(own, made, monkeypatch):
    _, values, weights = made
    with pytest.raises(ModelError, match="damaged"):
        save_model("mine", {**values, "config": {}, "kind": "onnx"}, weights)
    assert list(own.iterdir()) == []
    save_model("mine", values, weights)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepscan.models.library.sync", full)
    with pytest.raises(OutputError, match="No space left"):
        save_model("mine", {**values, "licence": "MIT"}, weights, force=True)
    assert [path.name for path in own.iterdir()] == ["mine"]
    assert read_card("mine").licence == ""


def test_another_takes_its_place_only_by_force(own, made):
    _, values, weights = made
    save_model("mine", values, weights)
    with pytest.raises(UsageError, match="--force"):
        save_model("mine", values, weights)
    assert save_model("mine", {**values, "licence": "MIT"}, weights, force=True).licence == "MIT"
    assert [path.name for path in own.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 65, "a b", "one.zip"])
def test_names_that_cannot_be(made, name):
    with pytest.raises(UsageError, match="no model can be called"):
        save_model(name, made[1], made[2])


def test_what_ships_stays():
    name = ScanOptions().model
    for refused in (check_name, remove_model):
        with pytest.raises(UsageError, match="ships with deepscan"):
            refused(name)
    assert (FOLDER / f"{name}.json").is_file()


def test_paths_that_are_no_model(made, tmp_path, monkeypatch):
    folder, _, _ = made
    (folder / "second.json").write_text("{}")
    with pytest.raises(ModelError, match="holds 2 cards"):
        read_card(str(folder))
    with pytest.raises(ModelError, match="no such file"):
        read_card(str(tmp_path / "nothing.zip"))
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(ModelError, match="cannot be read"):
        read_card(str(tmp_path / "bad.zip"))
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as file:
        file.writestr("../tiny.json", "{}")
    with pytest.raises(ModelError, match=r"outside of it, \.\./tiny\.json"):
        read_card(str(tmp_path / "out.zip"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"give \./tiny"):
        read_card("tiny")
    with pytest.raises(ModelError, match="is no model"):
        read_card(str(folder / "tiny.safetensors"))


def test_a_card_of_a_kind_that_is_not_known(made):
    folder, values, _ = made
    (folder / "tiny.json").write_text(json.dumps({**values, "kind": "pickle"}))
    with pytest.raises(ModelError, match="damaged"):
        read_card(str(folder))


@pytest.mark.parametrize("most", [10])
def test_a_zip_that_unpacks_to_too_much_is_refused(made, tmp_path, monkeypatch, most):
    zipped = packed(made[0], tmp_path / "bomb.zip")
    monkeypatch.setattr("deepscan.models.weights.MAX_WEIGHTS", most)
    with pytest.raises(ModelError, match="more than"):
        read_weights(read_card(str(zipped)))


def test_the_commands_lead_from_one_to_the_next(deepscan_cli, made):
    save_model("mine", {k: made[1][k] for k in ("sha256", "config")}, made[2])
    ran = deepscan_cli("model", "list")
    assert ran.code == 0 and "mine" in ran.out and "deepscan model show" in ran.out
    shown = deepscan_cli("model", "show", "mine")
    assert "nobody has measured" in shown.out and "model calibrate mine" in shown.out
    facts = json.loads(deepscan_cli("model", "show", "mine", "--format", "json").out)
    assert facts["kind"] == "network" and facts["calibration"] is None
    assert deepscan_cli("model", "remove", "mine").code == 0
    refused = deepscan_cli("model", "show", "mine")
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
