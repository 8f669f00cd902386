"""The ablation runner: what a row changes, what is run again, what is written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from deepscan.errors import UsageError
from tests.train.experiments.test_compare import draw_faces, invoke
from train.experiments import ablate, cache, compare, measure
from train.experiments.plan import read_plan

PLANS = Path(ablate.__file__).parents[1] / "plans"

PLAN = """
seeds = [1]
[data]
size = 32
pairs = 6
forges = { self-blend = 1.0, swap = 1.0 }
[fit]
architecture = "msccnet-s"
steps = 2
batch = 4
warmup = 1
bf16 = false
[[rows]]
name = "whole"
[[rows]]
name = "without MSCC"
fit.changes = { mscc = false }
[[rows]]
name = "larger"
data.size = 64
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One thread and a short bootstrap: enough to see that the figures are there."""
    monkeypatch.setattr(measure, "ROUNDS", 20)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return draw_faces(tmp_path_factory.mktemp("faces"))


def test_rows_change_the_base_and_nothing_else():
    base = {"steps": 3, "losses": {"image": {"ce": 1.0}, "mask": {"ce": 1.0, "dice": 0.5}}}
    changed = ablate.merged(base, {"losses": {"mask": {"focal": 1.0}}})
    assert changed == {"steps": 3, "losses": {"image": {"ce": 1.0}, "mask": {"focal": 1.0}}}
    assert base["losses"]["mask"] == {"ce": 1.0, "dice": 0.5}
    plan = ablate.ablation_of(
        {
            "seeds": [1, 2],
            "fit": {"changes": {"mfa": False}},
            "rows": [
                {"name": "a"},
                {"name": "b", "fit": {"changes": {"graph": False}}, "data": {"size": 64}},
            ],
        }
    )
    assert plan.rows[0].fit.changes == {"mfa": False} and plan.rows[0].data.size == 96
    assert plan.rows[1].fit.changes == {"mfa": False, "graph": False}
    assert plan.rows[1].data.size == 64


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seeds": [1]}, "rows must be a list"),
        ({"seeds": [], "rows": [{"name": "a"}]}, "seeds must be a list"),
        ({"seeds": [1], "rows": [{"size": 3}]}, "a row has name, data and fit"),
        ({"seeds": [1], "rows": [{"name": "a"}, {"name": "a"}]}, "two rows are called 'a'"),
        ({"seeds": [1], "rows": [{"name": "a"}], "steps": 3}, "no key 'steps'"),
        ({"seeds": [1], "rows": [{"name": "a", "fit": {"depth": 3}}]}, "no key 'depth'"),
    ],
)
def test_a_wrong_plan_is_named(values, words):
    with pytest.raises(UsageError, match=words):
        ablate.ablation_of(values)


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_plan_that_ships_can_be_run(path):
    values = read_plan(path)
    plan = ablate.ablation_of(values) if "rows" in values else compare.comparison_of(values)
    assert plan.seeds


def test_the_command_tables_all_rows_and_does_not_run_them_twice(faces, tmp_path):
    plan, out, kept = tmp_path / "ablation-tiny.toml", tmp_path / "out.md", tmp_path / "kept"
    plan.write_text(PLAN)
    arguments = (plan, "--data", faces, "--out", out, "--cache", kept, "--threads", 1)
    first = invoke(ablate.main, *arguments)
    assert first.exit_code == 0, first.output
    assert first.output.count("seed 1: done") == 3
    text = out.read_text()
    assert text.startswith("# Ablation tiny\n")
    for name in ("whole", "without MSCC", "larger"):
        assert f"| {name} |" in text
    with out.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["whole", "without MSCC", "larger"]
    assert int(rows[1]["parameters"]) < int(rows[0]["parameters"]) == int(rows[2]["parameters"])
    assert int(rows[2]["macs"]) > int(rows[0]["macs"])
    for row in rows:
        assert float(row["auc_low"]) <= float(row["auc"]) <= float(row["auc_high"])

    plan.write_text(PLAN.replace('"larger"\ndata.size = 64', '"longer"\nfit.steps = 3'))
    second = invoke(ablate.main, *arguments)
    assert second.exit_code == 0, second.output
    assert second.output.count("was there") == 2 and "longer, seed 1: done" in second.output
    with out.with_suffix(".csv").open(newline="") as file:
        again = list(csv.DictReader(file))
    assert again[:2] == rows[:2]


def test_a_run_that_broke_off_goes_on_where_it_was(faces, tmp_path, monkeypatch):
    plan = ablate.ablation_of(
        {
            "seeds": [1, 2],
            "data": {"size": 32, "pairs": 6, "forges": {"self-blend": 1.0}},
            "fit": {"steps": 1, "batch": 4, "warmup": 1, "bf16": False},
            "rows": [{"name": "a"}, {"name": "b", "fit": {"changes": {"graph": False}}}],
        }
    )
    begun = []

    def counted(*arguments, seed, **options):
        begun.append(seed)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return run(*arguments, seed=seed, **options)

    run = cache.run
    monkeypatch.setattr(cache, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        ablate.ablate(plan, cache.TrainingCache(tmp_path, faces))
    assert len(list(tmp_path.iterdir())) == 1  # the first; nothing of the one that broke
    outcomes, _ = ablate.ablate(plan, cache.TrainingCache(tmp_path, faces))
    assert begun == [1, 1, 1, 2, 2]  # a and b of seed 1, b again, then seed 2
    assert {name: len(some) for name, some in outcomes.items()} == {"a": 2, "b": 2}
