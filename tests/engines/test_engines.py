"""One suite over every engine of the table, in every precision; tests/gpu/ runs it over a GPU's.

To add an engine, add it to `ENGINES`: nothing here names one.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from deepscan.engines import ENGINES, PRECISIONS
from deepscan.engines.choose import Choice, create_engine, engine_class, load_engine
from deepscan.engines.engine import EngineEntry
from deepscan.engines.hardware import detect_hardware
from deepscan.engines.parity import TOLERANCES, predict_all, probe, violations
from deepscan.errors import EngineError, ModelError
from deepscan.models.library import read_card
from tests.engines.differences import compare
from tests.fakes import FakeEngine
from tests.models.build import build_network, write_model

CHOICES = [
    f"{runtime}-{device}-{precision}"
    for runtime in ENGINES
    for device, precision in engine_class(runtime).CHOICES
    if device == "cpu" and "network" in engine_class(runtime).KINDS  # the others: tests/importer
]


@pytest.fixture(scope="module", params=CHOICES)
def name(request):
    if request.param.endswith("bf16") and not detect_hardware().has_bf16:
        pytest.skip(f"{request.param} needs another CPU")
    return request.param


@pytest.fixture(scope="module")
def engine(name, models, warm_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSCAN_CACHE", str(warm_cache))
        engine = load_engine(name, "tiny", folder=models)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(models):
    engine = create_engine(
        Choice("torch", "cpu", "fp32"), read_card("tiny", models), detect_hardware()
    )
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def crops():
    return probe(64)


@pytest.mark.parametrize("runtime", ENGINES)
def test_an_entry_of_the_table_has_the_shape_of_its_contract(runtime):
    made = engine_class(runtime)
    assert issubclass(made, EngineEntry)
    theirs = inspect.signature(made.__init__).parameters
    assert list(theirs) == ["self", "card", "hardware", "options"]
    assert {precision for _, precision in made.CHOICES} == set(PRECISIONS[runtime])
    assert {device for device, _ in made.CHOICES} <= {"cpu", "cuda"}


def test_it_says_what_it_is(engine, name, models):
    assert engine.name == engine.info.name == name
    assert engine.model == read_card("tiny", models).info
    assert engine.input_size == 64 and engine.max_batch >= 1
    assert engine.info.reason == "asked for"
    assert engine.fingerprint
    assert (engine.info.parity is None) == (name == "torch-cpu-fp32")


def test_predictions_are_probabilities(engine, crops):
    found = engine.predict(crops[:5])
    assert found.scores.shape == (5,) and found.masks.shape == (5, 16, 16)
    for values in (found.scores, found.masks):
        assert values.dtype == np.float32
        assert values.min() >= 0 and values.max() <= 1


def test_it_agrees_with_the_reference(engine, reference, name, crops):
    parity = compare(engine, reference)
    assert violations(parity, TOLERANCES[name.rpartition("-")[2]]) == ()
    theirs = predict_all(reference, crops)
    # The comparison means something: crops differ by far more than engines may.
    assert theirs.scores.std() > 0.05 and theirs.masks.std() > 0.05
    if name != "torch-cpu-fp32":
        assert engine.info.parity.max_score_difference == pytest.approx(
            parity.max_score_difference, abs=1e-6
        )
        assert engine.info.parity.mean_mask_iou == pytest.approx(parity.mean_mask_iou, abs=1e-3)


def test_class_one_is_manipulated_in_every_engine(tmp_path, name):
    network = build_network()
    with torch.no_grad():
        for layer, towards in ((network.classifier, 4.0), (network.decoder[-1], -4.0)):
            layer.weight.zero_()
            layer.bias[:] = torch.tensor([-towards, towards])
    write_model(tmp_path, network=network)
    card = read_card("tiny", tmp_path)
    engine = create_engine(Choice(*name.split("-")), card, detect_hardware())
    found = engine.predict(np.zeros((1, 64, 64, 3), np.uint8))
    assert found.scores.item() > 0.99 and found.masks.max() < 0.01


def test_the_same_crops_give_the_same_numbers(engine, crops):
    first, second = engine.predict(crops[:6]), engine.predict(crops[:6])
    assert np.array_equal(first.scores, second.scores)
    assert np.array_equal(first.masks, second.masks)


def test_neither_company_nor_order_matters(engine, name, crops):
    batch = crops[: min(8, engine.max_batch)]
    order = np.random.default_rng(0).permutation(len(batch))
    together, shuffled = engine.predict(batch), engine.predict(batch[order])
    near = 1e-5 if name.endswith("fp32") else 5e-3
    assert np.allclose(together.scores[order], shuffled.scores, atol=near)
    assert np.allclose(together.masks[order], shuffled.masks, atol=near * 4)
    for place in range(len(batch)):
        alone = engine.predict(batch[place : place + 1])
        assert np.allclose(together.scores[place], alone.scores[0], atol=near)
        assert np.allclose(together.masks[place], alone.masks[0], atol=near * 4)


def test_crops_are_left_as_they_are_and_may_be_read_only(engine, crops):
    batch = crops[:3].copy()
    batch.setflags(write=False)
    first = engine.predict(batch)
    assert np.array_equal(batch, crops[:3])
    flipped = engine.predict(crops[:3, :, ::-1])
    assert np.array_equal(flipped.scores, engine.predict(crops[:3, :, ::-1].copy()).scores)
    assert np.array_equal(first.scores, engine.predict(crops[:3]).scores)


def test_predictions_outlive_the_next_call(engine, crops):
    first = engine.predict(crops[:2])
    kept = first.scores.copy(), first.masks.copy()
    engine.predict(crops[2:4])
    assert np.array_equal(first.scores, kept[0]) and np.array_equal(first.masks, kept[1])


def check_refusals(engine):
    side = engine.input_size
    good = np.zeros((1, side, side, 3), np.uint8)
    with pytest.raises(ValueError, match="at once"):
        engine.predict(np.zeros((engine.max_batch + 1, side, side, 3), np.uint8))
    with pytest.raises(ValueError, match="at once"):
        engine.predict(good[:0])
    with pytest.raises(ValueError, match="must be uint8"):
        engine.predict(good.astype(np.float32))
    for shape in ((1, side + 8, side, 3), (side, side, 3), (1, 3, side, side), (1, side, side, 4)):
        with pytest.raises(ValueError, match="must be"):
            engine.predict(np.zeros(shape, np.uint8))
    assert engine.predict(good).scores.shape == (1,)


def test_wrong_crops_are_refused(engine):
    check_refusals(engine)


def test_the_fake_refuses_the_same_crops_and_is_as_steady():
    engine = FakeEngine(max_batch=4)
    check_refusals(engine)
    crops = probe(64)[:4]
    assert np.array_equal(engine.predict(crops).scores, engine.predict(crops).scores)
    assert engine.predict(crops).masks.shape == (4, 16, 16)
    assert engine.batches[-3:] == [4, 4, 4]


def test_closing_twice_is_fine_and_a_closed_engine_says_so(name, models):
    engine = load_engine(name, "tiny", folder=models)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.predict(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_give_no_numbers_are_an_error(name, tmp_path, value):
    network = build_network()
    with torch.no_grad():
        network.decoder[0].weight[3, 5] = value
    write_model(tmp_path, network=network)
    with pytest.raises(EngineError, match="NaN"):
        engine = load_engine(name, "tiny", folder=tmp_path)
        engine.predict(probe(64)[:4])  # the reference itself is not compared with anything


def test_a_missing_model_is_an_error_whatever_the_engine(name, tmp_path):
    with pytest.raises(ModelError):
        load_engine(name, "tiny", folder=tmp_path)


def test_the_number_of_threads_changes_nothing_that_matters(name, models, crops):
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            engine = load_engine(name, "tiny", folder=models, threads=threads)
            found.append(engine.predict(crops[:4]).scores)
            engine.close()
    finally:
        torch.set_num_threads(before)
    assert np.allclose(*found, atol=1e-5 if name.endswith("fp32") else 5e-3)
