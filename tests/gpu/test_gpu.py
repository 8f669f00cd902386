"""The suite of every engine, over those on a GPU, and what only a GPU can show.

Where DEEPSCAN_REQUIRE names "cuda" or "tensorrt" a test that cannot run fails: a job that was meant
to run on a GPU must not pass by skipping.
"""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest

from deepscan.engines import ENGINES, maintenance, recipe
from deepscan.engines.choose import engine_class, load_engine
from deepscan.engines.hardware import detect_hardware
from deepscan.engines.parity import probe
from deepscan.engines.tensorrt import TensorRTEngine
from deepscan.models.library import read_card
from tests.engines.test_engines import (
    crops,
    engine,
    reference,
    test_a_missing_model_is_an_error_whatever_the_engine,
    test_class_one_is_manipulated_in_every_engine,
    test_closing_twice_is_fine_and_a_closed_engine_says_so,
    test_crops_are_left_as_they_are_and_may_be_read_only,
    test_it_agrees_with_the_reference,
    test_it_says_what_it_is,
    test_neither_company_nor_order_matters,
    test_predictions_are_probabilities,
    test_predictions_outlive_the_next_call,
    test_the_same_crops_give_the_same_numbers,
    test_weights_that_give_no_numbers_are_an_error,
    test_wrong_crops_are_refused,
)
from tests.engines.test_tensorrt import write_recipe

__all__ = [
    "crops",
    "engine",
    "reference",
    "test_a_missing_model_is_an_error_whatever_the_engine",
    "test_class_one_is_manipulated_in_every_engine",
    "test_closing_twice_is_fine_and_a_closed_engine_says_so",
    "test_crops_are_left_as_they_are_and_may_be_read_only",
    "test_it_agrees_with_the_reference",
    "test_it_says_what_it_is",
    "test_neither_company_nor_order_matters",
    "test_predictions_are_probabilities",
    "test_predictions_outlive_the_next_call",
    "test_the_same_crops_give_the_same_numbers",
    "test_weights_that_give_no_numbers_are_an_error",
    "test_wrong_crops_are_refused",
]

CHOICES = [
    f"{runtime}-{device}-{precision}"
    for runtime in ENGINES
    for device, precision in engine_class(runtime).CHOICES
    if device == "cuda"
]


def need(what):
    """Skip what this machine lacks, or fail if it was promised."""
    lacks = detect_hardware().cuda is None or (
        what == "tensorrt" and importlib.util.find_spec("tensorrt") is None
    )
    if not lacks:
        return
    promised = os.environ.get("DEEPSCAN_REQUIRE", "")
    if what in promised or "tensorrt" in promised:
        pytest.fail(f"DEEPSCAN_REQUIRE promises {what}, but it is not here")
    pytest.skip(f"no {what} here")


def older_than_10():
    import tensorrt

    return int(tensorrt.__version__.partition(".")[0]) < 10


@pytest.fixture(scope="module", params=CHOICES)
def name(request):
    need("tensorrt" if request.param.startswith("tensorrt") else "cuda")
    if request.param == "tensorrt-cuda-bf16" and older_than_10():
        pytest.skip("this TensorRT has no bf16")
    return request.param


@pytest.fixture
def tensorrt():
    need("tensorrt")


@pytest.fixture
def gpu():
    need("cuda")


def scores(models, count=4):
    engine = load_engine("tensorrt-fp16", "tiny", folder=models)
    found = engine.predict(probe(64)[:count])
    engine.close()
    return found.scores


def plans():
    return [entry for entry in maintenance.entries() if entry.kind == "tensorrt"]


def test_every_size_of_batch_gives_the_same_numbers(tensorrt, models, monkeypatch, tmp_path):
    monkeypatch.setattr(recipe, "FOLDER", write_recipe(tmp_path, batch=(1, 4, 8)))
    engine = load_engine("tensorrt-fp16", "tiny", folder=models)
    whole = engine.predict(probe(64)[:16])
    for count in range(1, 17):
        part = engine.predict(probe(64)[:count])
        assert np.allclose(part.scores, whole.scores[:count], atol=5e-3)
        assert np.allclose(part.masks, whole.masks[:count], atol=2e-2)
    engine.close()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_engine_is_built_again(tensorrt, models, monkeypatch, tmp_path, damage):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path))
    expected = scores(models)
    (plan,) = plans()
    path = tmp_path / "engines" / f"{plan.key}.bin"
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data if damage == "changed" else data[:-100])
    assert not TensorRTEngine.is_cached(read_card("tiny", models), detect_hardware(), "fp16")
    assert np.allclose(scores(models), expected, atol=5e-3)
    assert len(plans()) == 1


def test_auto_takes_what_was_built(tensorrt, models, monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path))
    engine = load_engine("auto", "tiny", folder=models)
    assert engine.name == f"torch-cuda-{detect_hardware().low_precision('cuda')}" and plans() == []
    engine.close()
    scores(models)
    engine = load_engine("auto", "tiny", folder=models)
    assert engine.name == "tensorrt-cuda-fp16" and engine.info.parity.max_score_difference < 5e-3
    engine.close()


def test_every_gpu_gives_the_same_numbers(gpu, models):
    names = [f"torch-cuda:{number}-fp32" for number in range(len(detect_hardware().gpus))]
    if len(names) < 2:
        pytest.skip("one GPU")
    engines = [load_engine(name, "tiny", folder=models) for name in names]
    found = [engine.predict(probe(64)[:8]).scores for engine in engines]
    assert all(np.allclose(each, found[0], atol=1e-5) for each in found)


def test_the_recipe_that_ships_is_built_and_proven(tensorrt):
    proof = maintenance.build_recipe("msccnet-s-tensorrt-fp16")
    assert proof.violations == ()
