"""Recipes are read whole or refused in one line that says what, where and what would do."""

from __future__ import annotations

import pytest

from deepscan.engines import ENGINES, recipe
from deepscan.engines.recipe import (
    FOLDER,
    Batches,
    list_recipes,
    read_recipe,
    recipe_of,
)
from deepscan.errors import EngineError, UsageError
from deepscan.models import MODELS

GOOD = """
model = "tiny"
runtime = "tensorrt"
precision = "fp16"
[batch]
min = 1
opt = 4
max = 12
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a recipe into the folder of the recipes, which holds nothing else."""

    def write(text=GOOD, name="tiny-tensorrt-fp16"):
        (tmp_path / f"{name}.toml").write_text(text)
        monkeypatch.setattr(recipe, "FOLDER", tmp_path)
        return name

    return write


def test_a_recipe_comes_back_as_written(write):
    found = read_recipe(write())
    assert (found.model, found.runtime, found.precision) == ("tiny", "tensorrt", "fp16")
    assert found.batches == Batches(1, 4, 12)
    assert list_recipes() == (found,)


def test_those_that_ship_are_good_and_short():
    shipped = list_recipes()
    assert {one.model for one in shipped} == set(MODELS)
    assert {one.runtime for one in shipped} <= set(ENGINES)
    assert {"fp16", "bf16"} <= {one.precision for one in shipped if one.runtime == "tensorrt"}
    for one in shipped:
        lines = [line for line in one.path.read_text().splitlines() if line.strip()]
        assert len(lines) <= 14 and lines[0].startswith("# ")
        assert one == recipe_of(one.model, one.runtime, one.precision)


def test_a_recipe_may_be_missing():
    assert recipe_of("tiny", "tensorrt", "fp16") is None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            '"tensorrt"',
            '"tensorflow"',
            "must be one of onnxruntime, openvino, ",
        ),
        ('"fp16"', '"int8"', "precision = 'int8'; must be one of fp32, fp16, bf16$"),
        ('"fp16"', '"bf16"', "makes tiny-tensorrt-bf16: name it"),
        ('model = "tiny"', "model = 3", "model = 3; must name a model"),
        ("[batch]", "speed = 1\n[batch]", "unknown key speed; known are batch, model"),
        ("opt = 4", "opt = 40", "must be 1 <= min <= opt <= max"),
        ("min = 1", "min = 0", "must be 1 <= min <= opt <= max"),
        ("min = 1", "min = true", "batch.min = True; must be a number"),
        ("min = 1", "", "batch.min = None; must be a number"),
        ("max = 12", "max = 12\nbest = 3", "unknown key batch.best"),
        ("[batch]", "[other]", "no table \\[batch\\]|unknown key other"),
        ("[batch]", "[tolerance]\nmean_mask_iou = 0.9\n[batch]", "unknown key tolerance"),
        ("model =", "model ", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(write, tmp_path, old, new, told):
    assert old in GOOD
    with pytest.raises(EngineError, match=told) as error:
        read_recipe(write(GOOD.replace(old, new, 1)))
    assert str(tmp_path / "tiny-tensorrt-fp16.toml") in str(error.value)
    assert "\n" not in str(error.value)


def test_batches_are_for_runtimes_that_are_built_for_them(write):
    text = GOOD.replace("tensorrt", "openvino").replace("fp16", "bf16")
    with pytest.raises(EngineError, match="unknown key batch"):
        read_recipe(write(text, "tiny-openvino-bf16"))


@pytest.mark.parametrize("name", ["nothing", "../pyproject", "", "a/b"])
def test_an_unknown_recipe_lists_those_there_are(name):
    with pytest.raises(UsageError, match=r"there is: .*msccnet-s-tensorrt-fp16"):
        read_recipe(name)


def test_a_broken_recipe_stops_its_own_engine_only(write):
    write("nonsense", "tiny-openvino-bf16")
    with pytest.raises(EngineError, match="cannot be read"):
        recipe_of("tiny", "openvino", "bf16")
    assert recipe_of("tiny", "openvino", "fp32") is None


def test_the_folder_that_ships_is_found():
    assert (FOLDER / "README.md").is_file()


@pytest.mark.parametrize(
    ("batches", "steps"),
    [
        (Batches(1, 8, 32), (1, 2, 4, 8, 16, 32)),
        (Batches(1, 5, 12), (1, 2, 4, 5, 8, 12)),
        (Batches(4, 4, 4), (4,)),
        (Batches(3, 4, 9), (3, 4, 8, 9)),
    ],
)
def test_batches_step_by_doubling(batches, steps):
    assert batches.sizes() == steps
