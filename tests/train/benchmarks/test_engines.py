"""Speed of the engines: the figures belong together, and what does not run is said."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from deepscan.errors import UsageError
from deepscan.models import MODELS
from tests.models.build import TINY
from train.benchmarks import engines
from train.benchmarks.__main__ import app
from train.benchmarks.engines import EngineSpeed, measure


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A small network in the family that has no weights, and small matrices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", TINY)
        patch.setattr(engines, "_SIDES", {"cpu": 64, "cuda": 64})
        patch.setenv("DEEPSCAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def speed(tiny: None) -> EngineSpeed:
    return measure("cpu", ["tiny"], [1, 2, 4096], seconds=0.01)


def test_every_engine_of_the_device_is_measured_or_says_why_not(speed: EngineSpeed) -> None:
    there = {rate.engine for rate in speed.rates}
    assert "torch-cpu-fp32" in there
    assert {"torch-cpu-bf16", "openvino-cpu-fp32", "openvino-cpu-bf16"} <= there | set(speed.absent)
    assert all(speed.absent.values())
    assert {rate.batch for rate in speed.rates} == {1, 2}  # no engine takes 4096 at once
    assert not any("cuda" in name for name in there)


def test_shares_are_of_the_ceiling_in_the_same_precision(speed: EngineSpeed) -> None:
    assert set(speed.ceilings) == {"fp32", "bf16"} and speed.gmac["tiny"] > 0
    for rate in speed.rates:
        ceiling = speed.ceilings.get(rate.engine.rpartition("-")[2])
        if ceiling is None:
            assert rate.share is None
        else:
            expected = 2e-3 * rate.crops_per_second * speed.gmac["tiny"] / ceiling
            assert rate.share == pytest.approx(expected, rel=0.02, abs=1e-3)


def test_multiply_adds_are_those_of_the_paper() -> None:
    assert engines._multiply_adds("msccnet-s") == pytest.approx(0.74, abs=0.01)


def test_the_command_prints_a_table_and_one_line_of_json(tiny: None) -> None:
    done = CliRunner().invoke(
        app, ["engines", "--models", "tiny", "--batches", "1", "--seconds", "0.01"]
    )
    assert done.exit_code == 0, done.output
    assert "matrix ceiling" in done.output and "torch-cpu-fp32" in done.output
    assert json.loads(done.stdout.strip().splitlines()[-1])["gmac"]["tiny"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "msccnet-x"], "no model 'msccnet-x'"),
        (["--device", "tpu"], "no device 'tpu'"),
        (["--batches", "1,x"], "batches '1,x' are no numbers"),
        (["--batches", "0"], "batches '0' are no numbers"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["engines", *arguments])
    assert done.exit_code == 2 and said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_no_such_device_is_said_before_anything_is_measured() -> None:
    with pytest.raises(UsageError, match="there are cpu, cuda and cuda:N"):
        measure("metal")
