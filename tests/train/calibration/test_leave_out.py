"""Leaving forges out: what is trained, what is refused, and that a stopped table goes on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from deepscan.errors import ModelError, UsageError
from deepscan.models.weights import save_weights
from tests.models.build import TINY, build_network
from train.calibration import leave_out as module
from train.calibration.leave_out import (
    ALL,
    ShortTraining,
    check_start,
    families_of,
    leave_out,
    read_start,
    read_table,
    summary,
    without,
)
from train.recipe import Recipe, Schedule, Stage
from train.smoke import write_faces

FORGES = {"self-blend": 0.5, "redraw": 0.3, "swap": 0.2, "inpaint": 0.0}
RECIPE = Recipe(
    model="msccnet-s",
    seed=1,
    schedule=Schedule((Stage(160, 4000),), 16, 1e-3, warmup=200, ema=0.999),
    forges=FORGES,
    losses={"image": {"ce": 1.0}, "mask": {"ce": 1.0}, "coarse": {"ce": 0.5}},
    precision="fp32",
    codecs="still",
    network={
        name: value
        for name, value in TINY.to_dict().items()
        if name in ("backbone_arguments", "channels")
    },
)
SHORT = ShortTraining(steps=2, pairs=2, size=64)


def weights_of(path: Path, forges: dict[str, float] | None, **metadata: str) -> Path:
    """Weights that say what they were trained with."""
    recipe = {} if forges is None else {"recipe": replace(RECIPE, forges=forges).to_json()}
    network = build_network(replace(RECIPE.config, input_size=64))
    save_weights(path, network.config, network.state_dict(), {**recipe, **metadata})
    return path


def test_families_are_the_forges_that_are_drawn() -> None:
    assert families_of(RECIPE) == ["redraw", "self-blend", "swap"]
    with pytest.raises(UsageError, match="at least two"):
        families_of(replace(RECIPE, forges={"swap": 1.0, "redraw": 0.0}))


@pytest.mark.parametrize("left", ["swap", "redraw", ALL])
def test_runs_are_equal_but_for_the_family(left: str) -> None:
    asked = without(RECIPE, left, ShortTraining(600, 8, 96))
    assert left not in asked.forges and set(asked.forges) == set(families_of(RECIPE)) - {left}
    assert asked.schedule.stages == (Stage(96, 600),) and asked.schedule.pairs == 8
    others = without(RECIPE, "self-blend", ShortTraining(600, 8, 96))
    assert (asked.schedule, asked.seed, asked.losses) == (
        others.schedule,
        others.seed,
        others.losses,
    )
    assert asked.schedule.warmup < 600 and asked.schedule.ema < 0.999


def test_every_family_is_trained_without_and_tested_alone(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces")
    table, runs = tmp_path / "out" / "table.csv", tmp_path / "runs"
    told: list[str] = []
    given: dict[str, Any] = {
        "short": SHORT,
        "families": ["swap", "redraw"],
        "progress": told.append,
    }
    torch.set_num_threads(1)
    rows = leave_out(RECIPE, tmp_path / "faces", table, runs, **given)
    assert [(row["left_out"], row["tested"]) for row in rows] == [
        (ALL, "redraw"), (ALL, "swap"), ("redraw", "redraw"), ("swap", "swap"),
    ]  # fmt: skip
    assert len(told) == 4 and all(0 <= float(row["auc"]) <= 1 for row in rows)
    assert all(float(row["auc_low"]) <= float(row["auc"]) for row in rows)
    for row in rows:
        recipe = next(runs.glob(f"*-{row['left_out']}/*.safetensors"))
        trained = json.loads(read_metadata(recipe)["recipe"])["forges"]
        assert row["left_out"] not in trained
        assert set(trained) | {row["left_out"]} >= set(families_of(RECIPE))
    # Again: nothing is trained; with a row less, that one only.
    with patch.object(module, "train", side_effect=AssertionError("trained again")):
        assert leave_out(RECIPE, tmp_path / "faces", table, runs, **given) == rows
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-1]))
    assert leave_out(RECIPE, tmp_path / "faces", table, runs, **given)[:3] == rows[:3]
    assert len(read_table(table)) == 4
    # Other settings stand in rows of their own.
    more = leave_out(
        RECIPE, tmp_path / "faces", table, runs,
        short=replace(SHORT, pairs=1), families=["swap"], with_all=False,
    )  # fmt: skip
    assert len(more) == 1 and len(read_table(table)) == 5


def read_metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_a_start_is_used_and_named(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces")
    start = read_start(weights_of(tmp_path / "start.safetensors", {"redraw": 1.0, "swap": 0.0}))
    assert start.known == {"redraw"}
    torch.set_num_threads(1)
    rows = leave_out(
        RECIPE, tmp_path / "faces", tmp_path / "t.csv", tmp_path / "runs",
        short=SHORT, families=["swap"], start=start, with_all=False,
    )  # fmt: skip
    assert rows[0]["start"] == start.sha256[:12]
    made = next((tmp_path / "runs").glob("*/*.safetensors"))
    assert read_metadata(made)["start_sha256"] == start.sha256


def test_a_family_that_the_start_knows_is_refused(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces")
    start = read_start(weights_of(tmp_path / "start.safetensors", {"redraw": 0.5, "swap": 0.5}))
    with pytest.raises(UsageError, match=r"trained with redraw, swap.*Leave out only self-blend"):
        leave_out(
            RECIPE, tmp_path / "faces", tmp_path / "t.csv", tmp_path / "r", short=SHORT, start=start
        )
    check_start(start, ["self-blend"])
    assert not (tmp_path / "t.csv").exists() and not (tmp_path / "r").exists()


def test_what_came_before_a_start_counts_as_known(tmp_path: Path) -> None:
    first = weights_of(tmp_path / "first.safetensors", {"swap": 1.0})
    sha256 = read_start(first).sha256
    second = weights_of(tmp_path / "second.safetensors", {"redraw": 1.0}, start_sha256=sha256)
    with pytest.raises(UsageError, match="--before"):
        read_start(second)
    assert read_start(second, [first]).known == {"swap", "redraw"}


def test_a_start_that_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say what it was trained with"):
        read_start(weights_of(tmp_path / "mute.safetensors", None))
    with pytest.raises(ModelError, match="cannot be read"):
        read_start(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot be read"):
        read_start(tmp_path / "broken.safetensors")


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no family 'inpaint' in the recipe"):
        leave_out(RECIPE, tmp_path, tmp_path / "t.csv", tmp_path, short=SHORT, families=["inpaint"])


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="no table of left-out families"):
        read_table(tmp_path / "t.csv")


def row(tested: str, left_out: str, value: float) -> dict[str, str]:
    return {
        "tested": tested, "left_out": left_out, "steps": "600", "start": "", "auc": str(value),
        "auc_low": str(value - 0.1), "auc_high": str(value + 0.05),
    }  # fmt: skip


def test_the_summary_has_mean_and_worst_of_the_left_out() -> None:
    rows = [row("a", "a", 0.9), row("b", "b", 0.7), row("a", ALL, 0.95), row("b", ALL, 0.85)]
    found = summary(rows)
    assert found is not None
    assert found["families"] == 2 and found["mean"]["value"] == pytest.approx(0.8)
    assert found["worst"]["family"] == "b" and found["worst"]["value"] == pytest.approx(0.7)
    assert found["in_family_mean"]["value"] == pytest.approx(0.9)
    assert 0.7 < found["mean"]["low"] < 0.8 < found["mean"]["high"] < 0.85
    assert summary(rows[2:]) is None


def test_the_command_writes_its_table(tmp_path: Path) -> None:
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(module.main)
    out = CliRunner().invoke(
        app, [str(tmp_path / "none.toml"), "--data", str(tmp_path), "--out", str(tmp_path / "t")]
    )
    assert out.exit_code == 2 and "cannot be read" in out.output
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.DictWriter(file, module.COLUMNS).writeheader()
    assert read_table(tmp_path / "t.csv") == []
