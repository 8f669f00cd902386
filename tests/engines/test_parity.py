"""The probe and the figures of parity, and that an engine out of tolerance is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from deepscan.engines.engine import Predictions
from deepscan.engines.parity import (
    SEED,
    TOLERANCES,
    Parity,
    cache_parity,
    cached_parity,
    label_thresholds,
    predict_all,
    probe,
    selftest_scores,
    selftest_values,
    violations,
)
from deepscan.errors import EngineError
from deepscan.models.library import read_card
from deepscan.verdict.calibration import Calibration, logit
from tests.engines.differences import compare
from tests.fakes import FakeEngine

EXACT = Parity(0.0, 0.0, 1.0, 0.0, 1.0)


def shifted(by):
    def judge_shifted(crops):
        found = FakeEngine(input_size=crops.shape[1], max_batch=64).predict(crops)
        return Predictions(
            np.clip(found.scores + np.float32(by), 0, 1),
            np.clip(found.masks + np.float32(by), 0, 1),
        )

    return FakeEngine(judge=judge_shifted)


def test_the_probe_is_always_the_same():
    assert np.array_equal(probe(64), probe(64))
    digest = hashlib.sha256(probe(64).tobytes()).hexdigest()
    assert digest.startswith("4c8e2f905a6f"), "the scores in model cards are of other crops"


@pytest.mark.parametrize("side", [32, 64, 160])
def test_the_probe_is_varied(side):
    crops = probe(side)
    assert crops.shape == (24, side, side, 3) and crops.dtype == np.uint8
    assert len({crop.tobytes() for crop in crops}) == 24
    means = crops.mean(axis=(1, 2, 3))
    assert means.min() == 0 and means.max() == 255
    deviations = crops.std(axis=(1, 2, 3))
    assert (deviations == 0).sum() == 3 and deviations.max() > 120


def test_equal_engines_are_at_zero():
    assert compare(FakeEngine(), FakeEngine(max_batch=5)) == EXACT


def test_figures_are_what_they_say():
    parity = compare(shifted(0.01), FakeEngine())
    assert parity.max_score_difference == pytest.approx(0.01, abs=1e-6)
    assert parity.max_mask_difference == pytest.approx(0.01, abs=1e-6)
    # Pictures that are at 1.0 already cannot be shifted.
    assert 0.009 < parity.mean_score_difference < 0.01
    assert 0.5 < parity.mean_mask_iou < 1


def test_a_verdict_changes_where_a_score_passes_a_bar():
    scores = np.sort(FakeEngine().predict(probe(64)[:8]).scores)
    bar = float(scores[3] + scores[4]) / 2
    by = float(scores[4] - scores[3]) * 0.6
    assert compare(shifted(by), FakeEngine(), thresholds=(bar,), crops=probe(64)[:8]) == replace(
        compare(shifted(by), FakeEngine(), thresholds=(2.0,), crops=probe(64)[:8]),
        verdict_equality=pytest.approx(7 / 8),
    )
    # Over the second bar is another label than over the first alone, whatever their order.
    for bars in ((0.1, bar), (bar, 0.1)):
        found = compare(shifted(by), FakeEngine(), thresholds=bars, crops=probe(64)[:8])
        assert found.verdict_equality < 1


def test_bars_are_those_of_the_verdict(shipped_model):
    """One picture of its own, judged by the rule of verdict/decide.py."""
    values = read_card(shipped_model).values
    calibration = replace(Calibration.from_card(values), bands=())
    points = calibration.points(1.0, still=True)
    review, operating = label_thresholds(values)
    assert 0 < review < operating < 1
    found = calibration.still.llr(np.array([logit(operating), logit(review)]))
    assert found == pytest.approx(np.array(points))


@pytest.mark.parametrize("given", [None, {}, {"still": {}}, {"still": 3}, 7])
def test_without_a_calibration_the_bar_is_in_the_middle(given):
    assert label_thresholds({}) == label_thresholds({"calibration": given}) == (0.5,)


def test_two_empty_masks_agree():
    def nothing(crops):
        return Predictions(
            np.zeros(len(crops), np.float32), np.zeros((len(crops), 16, 16), np.float32)
        )

    assert compare(FakeEngine(judge=nothing), FakeEngine(judge=nothing)).mean_mask_iou == 1.0


def test_masks_of_another_size_are_an_error():
    def coarse(crops):
        found = FakeEngine().predict(crops)
        return Predictions(found.scores, found.masks[:, ::2, ::2])

    with pytest.raises(EngineError, match="masks of"):
        compare(FakeEngine(judge=coarse), FakeEngine())


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(
    ("figure", "step"),
    [
        ("max_score_difference", 1.01),
        ("mean_score_difference", 1.01),
        ("mean_mask_iou", 0.99),
        ("max_mask_difference", 1.01),
        ("verdict_equality", 0.99),
    ],
)
def test_each_figure_has_its_limit(precision, figure, step):
    tolerance = TOLERANCES[precision]
    limit = getattr(tolerance, figure)
    assert violations(EXACT, tolerance) == ()
    assert violations(replace(EXACT, **{figure: limit}), tolerance) == ()
    assert len(violations(replace(EXACT, **{figure: limit * step}), tolerance)) == 1
    assert len(violations(replace(EXACT, **{figure: float("nan")}), tolerance)) == 1


def test_figures_are_kept_for_one_engine_only():
    found = Parity(0.001, 0.0001, 0.99, 0.01, 0.96)
    assert cached_parity("engine a") is None
    cache_parity("engine a", found, thresholds=(0.4, 0.6))
    assert cached_parity("engine a") == cached_parity("engine a", (0.4, 0.6)) == found
    assert cached_parity("engine b") is None
    assert cached_parity("engine a", (0.4, 0.7)) is None  # calibrated anew


def test_figures_that_were_changed_are_measured_again(cache):
    before = set(cache.iterdir()) if cache.exists() else set()
    cache_parity("engine c", Parity(0.5, 0.5, 0.0, 0.5, 0.5))
    (data,) = [path for path in set(cache.iterdir()) - before if path.suffix == ".bin"]
    data.write_bytes(data.read_bytes().replace(b"0.5", b"0.0"))
    assert cached_parity("engine c") is None


def test_judge_goes_batch_by_batch():
    engine = FakeEngine(max_batch=7)
    found = predict_all(engine, probe(64))
    assert engine.batches == [7, 7, 7, 3]
    assert np.array_equal(found.scores, predict_all(FakeEngine(max_batch=24), probe(64)).scores)


def test_selftest_values_are_the_scores_of_the_probe():
    values = selftest_values(FakeEngine())
    assert values["seed"] == SEED and 0 < values["tolerance"] < 0.1
    assert values["scores"] == selftest_scores(FakeEngine())
    assert values["scores"] == pytest.approx(predict_all(FakeEngine(), probe(64)).scores, abs=1e-6)
