"""Rules from maps to scores: on maps drawn by hand, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.evaluation.metrics import accuracy, auc
from train.experiments import rules

SEEDS = st.integers(0, 2**32 - 1)


def one_map(*values):
    return np.array([values], dtype=np.float32).reshape(1, 2, -1)


def test_each_rule_on_a_map_worked_out_by_hand():
    maps = one_map(0.9, 0.1, 0.0, 0.8, 0.0, 0.2, 0.0, 0.6)
    assert rules.mean(maps)[0] == pytest.approx(2.6 / 8)
    assert rules.maximum(maps)[0] == pytest.approx(0.9)
    assert rules.top(maps, 0.25)[0] == pytest.approx(0.85)
    assert rules.top(maps, 0.01)[0] == pytest.approx(0.9)  # at least one pixel
    assert rules.area(maps, 0.5)[0] == pytest.approx(3 / 8)
    # 0.8 and 0.6 touch, 0.9 stands alone
    assert rules.component(maps, 0.5)[0] == pytest.approx(2 / 8)


def test_pixels_that_touch_at_a_corner_are_one_component():
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, [0, 1, 3], [0, 1, 3]] = 1.0
    assert rules.component(maps, 0.5)[0] == pytest.approx(2 / 16)


def test_a_clean_map_has_no_area_and_no_component():
    maps = np.zeros((3, 5, 5), np.float32)
    for name, rule in rules.RULES.items():
        assert rule.score(maps, rule.candidates[0]).tolist() == [0.0] * 3, name


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_more_evidence_never_lowers_a_score(seed):
    rng = np.random.default_rng(seed)
    maps = rng.random((4, 6, 6)).astype(np.float32)
    more = np.maximum(maps, rng.random(maps.shape).astype(np.float32))
    for name, rule in rules.RULES.items():
        for parameter in rule.candidates[::5]:
            assert (rule.score(more, parameter) >= rule.score(maps, parameter)).all(), name


def test_calibration_finds_the_threshold_that_separates():
    # Real crops hold many weak pixels, forged ones few strong ones: only a high threshold tells.
    rng = np.random.default_rng(1)
    maps = rng.uniform(0.3, 0.45, (20, 10, 10)).astype(np.float32)
    labels = np.repeat([0, 1], 10)
    maps[labels == 1] = 0.1
    maps[labels == 1, :2, :2] = 0.8
    fitted = rules.fit_rule("area", maps, labels)
    assert 0.45 <= fitted.parameter < 0.8
    assert fitted.auc == 1.0
    assert accuracy(labels, fitted.score(maps), fitted.cut) == 1.0
    assert rules.fit_rule("mean", maps, labels).auc == 0.0
    assert rules.fit_rules(maps, labels)["area"] == fitted
    assert next(reversed(rules.fit_rules(maps, labels))) == "mean"


def test_calibration_needs_both_classes():
    with pytest.raises(ValueError, match="needs both"):
        rules.fit_rule("mean", np.zeros((2, 4, 4), np.float32), [1, 1])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=1, max_size=25))
def test_no_cut_is_better_than_the_best(pairs):
    labels = np.array([label for label, _ in pairs])
    scores = np.array([score for _, score in pairs], float)
    best = accuracy(labels, scores, rules.best_cut(labels, scores))
    for cut in np.arange(-0.5, 7.0, 0.5):
        assert best >= accuracy(labels, scores, cut)


def test_the_threshold_of_a_map_is_where_its_classes_part():
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[0, :4] = 1
    masks[1, 0] = 255
    maps = np.where(masks == 1, 0.33, 0.12).astype(np.float32)
    maps[1, 0] = 1.0  # unknown there: must not count
    threshold = rules.best_threshold(maps, masks)
    assert 0.12 < threshold <= 0.33
    assert auc((masks == 1)[masks != 255].astype(int), maps[masks != 255]) == 1.0
