"""Recipes: those that ship, what is refused and how, and the schedules they ask for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from deepscan.errors import UsageError
from train.recipe import Recipe, Schedule, Stage, parse_recipe, read_recipe
from train.schedule import optimiser_of, rate_at

RECIPES = Path(__file__).parents[2] / "train" / "recipes"
PLAIN = """
model = "msccnet-s"
seed = 3
[forges]
swap = 1
[schedule]
stages = [{ size = 32, steps = 4 }]
pairs = 2
learning_rate = 1e-3
[losses]
image = { ce = 1.0 }
"""
DATASET = '[dataset]\nname = "folder"\ntransforms = [{ kind = "flip" }]'


def recipe(tmp_path: Path, old: str = "", new: str = "") -> Recipe:
    assert old in PLAIN
    path = tmp_path / "recipe.toml"
    path.write_text(PLAIN.replace(old, new, 1))
    return read_recipe(path)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(RECIPES.glob("*.toml")) if "schedule" in path.read_text()],
    ids=lambda path: path.stem,
)
def test_a_recipe_that_ships_is_valid_and_travels_in_weights(path: Path) -> None:
    found = read_recipe(path)
    assert parse_recipe(found.to_json()) == found


def test_the_paper_recipe_is_the_official_protocol() -> None:
    found = read_recipe(RECIPES / "msccnet-r50-paper.toml")
    schedule = found.schedule
    assert schedule.stages == (Stage(512, epochs=30),)
    assert (schedule.optimiser, schedule.learning_rate, schedule.momentum) == ("sgd", 0.009, 0.9)
    assert (schedule.weight_decay, schedule.warmup, schedule.clip) == (5e-4, 0, 0)
    assert (schedule.curve, schedule.power, schedule.floor) == ("poly", 0.9, 0.01)
    assert 2 * schedule.pairs == 64 and found.seed == 866 and schedule.ema == 0
    assert found.losses == {output: {"ce": 1.0} for output in ("image", "mask", "coarse")}
    assert found.dataset is not None
    assert [name for name, _ in found.dataset.transforms] == [
        "resize", "crop", "flip", "distort", "pad",
    ]  # fmt: skip
    assert found.dataset.compression == "c40" and not found.dataset.manipulations


def test_weights_of_before_have_no_later_keys() -> None:
    values = {
        "model": "msccnet-s", "seed": 1, "forges": {"swap": 1.0},
        "schedule": {
            "stages": [{"size": 128, "steps": 10}], "pairs": 4, "learning_rate": 0.001,
            "weight_decay": 0.05, "warmup": 2, "clip": 5.0, "ema": 0.999,
        },
        "losses": {"image": {"ce": 1.0}},
    }  # fmt: skip
    found = parse_recipe(json.dumps(values))
    assert (found.schedule.optimiser, found.schedule.curve, found.precision) == (
        "adamw", "cosine", "bf16",
    )  # fmt: skip
    assert parse_recipe(json.dumps(values | {"forging": "pictures"})) == found
    with pytest.raises(UsageError, match="no key 'forging'"):
        parse_recipe(json.dumps(values | {"forging": "batches"}))


def test_benign_edits_and_codecs_are_settings(tmp_path: Path) -> None:
    found = recipe(tmp_path, "seed = 3", 'seed = 3\nbenign = 0.4\ncodecs = "still"')
    assert (found.benign, found.codecs) == (0.4, "still")
    assert (recipe(tmp_path).benign, recipe(tmp_path).codecs) == (0.0, "video")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"msccnet-s"', '"resnet"', "no model 'resnet'; there are msccnet-r50"),
        ("seed = 3", 'seed = "x"', "seed must be a whole number; got 'x'"),
        ("seed = 3", "seed = 3\nspeed = 1", "no key 'speed'"),
        ("seed = 3", "seed = 3\nbenign = 1.2", "benign is 1.2: it is a share"),
        ("seed = 3", "seed = 3\ntilt = -0.1", "tilt is -0.1: it is a share"),
        ("seed = 3", 'seed = 3\ncodecs = "tape"', "no codecs 'tape'; there are video, still"),
        ("seed = 3", 'seed = 3\nforging = "batches"', "no key 'forging'"),
        ("swap = 1", "melt = 1", "no forge 'melt'; there are self-blend"),
        ("swap = 1", "swap = -1", "a share is 0 or more"),
        ("swap = 1", "swap = 0", "all shares of forges are 0"),
        ("[forges]\nswap = 1", "", "either [forges] or [dataset]"),
        ("[forges]", DATASET + "\n[forges]", "either [forges] or [dataset]"),
        ("pairs = 2", "pairs = 0", "schedule.pairs is 0"),
        ("pairs = 2", "", "pairs is missing"),
        ("pairs = 2", "pairs = 2\nmomentun = 1", "schedule: no key 'momentun'"),
        ("pairs = 2", 'pairs = 2\noptimiser = "lion"', "no optimiser 'lion'; there are adamw, sgd"),
        ("pairs = 2", 'pairs = 2\ncurve = "step"', "no curve 'step'; there are cosine, poly"),
        ("steps = 4", "steps = 4, epochs = 2", "either steps or epochs"),
        ("size = 32", "size = 33", "33 is not a multiple of the map's stride"),
        ("size = 32", 'size = "big"', "size must be a whole number"),
        ("{ size = 32, steps = 4 }", "", "must be a list such as"),
        ("ce = 1.0", "hinge = 1.0", "no loss 'hinge'; there are ce, bce, dice, focal, lovasz"),
        ("image =", "edge =", "no output 'edge'; there are image, mask, coarse"),
        ("[losses]\nimage = { ce = 1.0 }", "", "[losses] is missing"),
        ("seed = 3", 'seed = 3\nprecision = "fp8"', "no precision 'fp8'; there are bf16, fp32"),
        ("seed = 3", "seed = 3\nnetwork = { depth = 9 }", "no setting of network 'depth'"),
        ("seed = 3", "seed = 3\nnetwork = { channels = 30 }", "30 channels do not split"),
        ("[forges]\nswap = 1", '[dataset]\nname = "ff"', "no data set 'ff'"),
        ("[forges]\nswap = 1", DATASET.replace("flip", "twist"), "no transform 'twist'"),
        ("[forges]\nswap = 1", DATASET.replace('"flip"', '"flip", p = 1'), "no setting of"),
        ("[forges]\nswap = 1", DATASET.replace("kind =", "name ="), "a transform needs its kind"),
        ("seed = 3", "seed = ", "cannot be read"),
    ],
)
def test_what_cannot_work_is_one_clear_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(tmp_path, old, new)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and "recipe.toml" in str(caught.value)


def test_random_filters_and_stages_of_two_sizes_exclude_each_other(tmp_path: Path) -> None:
    two = "{ size = 32, steps = 4 }, { size = 64, steps = 4 }"
    with pytest.raises(UsageError, match="belong to one size"):
        recipe(
            tmp_path,
            PLAIN,
            PLAIN.replace("{ size = 32, steps = 4 }", two).replace(
                "seed = 3", 'seed = 3\nnetwork = { filters = "learnable-dct" }'
            ),
        )


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")


def test_the_network_table_changes_the_network(tmp_path: Path) -> None:
    found = recipe(tmp_path, "seed = 3", "seed = 3\nnetwork = { channels = 16, dct_k = 4 }")
    assert (found.config.channels, found.config.dct_k, found.config.input_size) == (16, 4, 32)


SCHEDULE = Schedule(stages=(Stage(32, 100),), pairs=2, learning_rate=0.009)


def test_epochs_become_steps_and_the_rest_of_an_epoch_is_dropped() -> None:
    schedule = replace(SCHEDULE, stages=(Stage(64, epochs=3), Stage(32, steps=5)), pairs=4)
    found = schedule.in_steps(11)
    assert found.stages == (Stage(64, 6), Stage(32, 5)) and found.steps == 11
    assert [found.stage_at(step).size for step in (0, 5, 6, 10, 99)] == [64, 64, 32, 32, 32]
    assert [found.end_of_stage(step) for step in (0, 5, 6)] == [6, 6, 11]
    with pytest.raises(UsageError, match=r"lower schedule\.pairs"):
        schedule.in_steps(3)
    with pytest.raises(UsageError, match="no epochs"):
        schedule.in_steps(None)


def test_poly_is_that_of_the_official_code() -> None:
    schedule = replace(SCHEDULE, curve="poly", power=0.9, floor=0.01)
    for step in (0, 1, 50, 99):
        expected = (0.009 - 0.00009) * (1 - step / 100) ** 0.9 + 0.00009
        assert rate_at(step, schedule) == pytest.approx(expected)
    assert rate_at(100, schedule) == pytest.approx(0.00009)


def test_cosine_warms_up_and_falls_to_its_floor() -> None:
    schedule = replace(SCHEDULE, warmup=10)
    assert [rate_at(step, schedule) for step in (0, 4, 9, 10)] == pytest.approx(
        [0.0009, 0.0045, 0.009, 0.009]
    )
    assert rate_at(55, schedule) == pytest.approx(0.0045)
    assert rate_at(100, schedule) == pytest.approx(0, abs=1e-12)
    assert rate_at(100, replace(schedule, floor=0.1)) == pytest.approx(0.0009)


def test_sgd_has_one_group_and_adamw_spares_biases_and_norms() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    sgd = optimiser_of(network, replace(SCHEDULE, optimiser="sgd", weight_decay=5e-4))
    assert [(len(g["params"]), g["weight_decay"], g["momentum"]) for g in sgd.param_groups] == [
        (4, 5e-4, 0.9)
    ]
    adamw = optimiser_of(network, replace(SCHEDULE, weight_decay=0.05))
    assert [(len(g["params"]), g["weight_decay"]) for g in adamw.param_groups] == [
        (1, 0.05),
        (3, 0),
    ]
