"""Thresholds and scales on simulated scores: what is promised holds, and nothing else is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepscan.errors import UsageError
from deepscan.verdict.estimate import (
    TooFewClips,
    clips_needed,
    fit_scale,
    fold_of,
    group_scores,
    threshold,
)

SCORES = st.builds(
    lambda seed, count: np.random.default_rng(seed).normal(0, 3, count).round(1).tolist(),
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 250),
)  # with ties
RATES = st.floats(0.005, 0.5)
DRAWS = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "heavy tail": lambda rng, shape: rng.standard_t(1.5, shape),
    "few values": lambda rng, shape: rng.integers(0, 6, shape).astype(float),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("groups", "rate"), [(19, 0.05), (99, 0.01), (150, 0.05), (130, 0.02)])
def test_one_more_group_is_a_false_alarm_at_most_at_the_rate(
    draw: str, groups: int, rate: float
) -> None:
    rng = np.random.default_rng(groups)
    rounds = 4000
    scores = DRAWS[draw](rng, (rounds, groups + 1))
    alarms = sum(row[-1] >= threshold(row[:-1], rate) for row in scores)
    noise = 4 * math.sqrt(rate / rounds)
    assert alarms / rounds <= rate + noise
    if draw != "few values":  # where no two are equal, no more careful than it need be
        exact = math.floor(rate * (groups + 1) + 1e-9) / (groups + 1)
        assert alarms / rounds == pytest.approx(exact, abs=noise)


@given(scores=SCORES, rate=RATES, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_scores_does_not_matter(scores, rate, seed) -> None:
    order = np.random.default_rng(seed).permutation(len(scores))
    mixed = [scores[place] for place in order]
    if len(scores) < clips_needed(rate):
        with pytest.raises(TooFewClips):
            threshold(scores, rate)
        return
    assert threshold(scores, rate) == threshold(mixed, rate)


@given(scores=SCORES, rate=RATES, other=RATES)
def test_a_lower_rate_needs_a_higher_score(scores, rate, other) -> None:
    low, high = sorted((rate, other))
    assert clips_needed(low) >= clips_needed(high)
    if len(scores) >= clips_needed(low):
        assert threshold(scores, low) >= threshold(scores, high)


@given(scores=SCORES, rate=RATES, value=st.floats(-9, 9))
def test_a_score_reaches_the_thresholds_of_its_own_rate_and_above(scores, rate, value) -> None:
    if len(scores) >= clips_needed(rate):
        own = (1 + sum(score >= value for score in scores)) / (len(scores) + 1)  # conformal p-value
        assert (value >= threshold(scores, rate)) == (own <= rate + 1e-9)


@given(rate=RATES)
def test_the_number_that_is_said_to_do_does_and_one_less_does_not(rate) -> None:
    needed = clips_needed(rate)
    threshold([0.0] * needed, rate)
    if needed > 1:
        with pytest.raises(TooFewClips, match=f"{needed} would do") as refused:
            threshold([0.0] * (needed - 1), rate)
        assert (refused.value.groups, refused.value.needed) == (needed - 1, needed)


def test_usual_rates_need_the_usual_numbers() -> None:
    assert [clips_needed(rate) for rate in (0.05, 0.01, 0.001, 0.5)] == [19, 99, 999, 1]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        threshold([1.0] * 200, rate)


def test_files_of_one_group_count_once_with_their_highest_score() -> None:
    scores = group_scores([0.5, 2.0, -1.0, 1.0], ["b", "a", "a", "b"])
    assert scores == {"a": 2.0, "b": 1.0}
    with pytest.raises(TooFewClips):  # a hundred files of one recording are one
        threshold(list(group_scores(np.arange(100.0), ["one"] * 100).values()), 0.05)
    with pytest.raises(ValueError, match="score of c is nan"):
        group_scores([math.nan], ["c"])


def test_every_group_is_in_one_of_five_parts() -> None:
    names = [f"person {index // 2}" for index in range(800)]  # two files each
    parts = fold_of(names)
    assert parts.keys() == set(names) and sorted(set(parts.values())) == [0, 1, 2, 3, 4]


def test_the_scale_recovers_the_true_likelihood_ratio() -> None:
    # Normal(-1, 1) against normal(1, 1): the true log-likelihood ratio is 2 x.
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(-1, 1, 4000), rng.normal(1, 1, 1000)])
    forged = np.arange(5000) >= 4000
    scale = fit_scale(values, forged)
    assert scale.slope == pytest.approx(2.0, rel=0.1)
    assert scale.offset == pytest.approx(0.0, abs=0.15)  # even prior odds, whatever the numbers


def test_the_tail_is_that_of_the_unmanipulated() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.exponential(1.0, 5000), rng.normal(6, 1, 5000)])
    scale = fit_scale(values, np.arange(10_000) >= 5000)
    assert scale.tail.q == 0.1
    null = scale.llr(values[:5000])
    assert np.mean(null > scale.tail.u) == pytest.approx(0.1, abs=0.002)
    # An exponential keeps its rate in the tail: b is the slope times its mean, leaning upwards.
    assert scale.slope <= scale.tail.b <= 1.25 * scale.slope
    for rate in (0.05, 0.01):
        assert np.mean(null > scale.tail.threshold(1, rate)) <= 1.3 * rate


def test_separable_logits_stay_finite() -> None:
    scale = fit_scale(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    assert 0 < scale.slope < 10 and math.isfinite(scale.offset) and scale.tail.b >= 0.05


def test_useless_logits_get_no_weight() -> None:
    rng = np.random.default_rng(2)
    scale = fit_scale(rng.normal(0, 1, 2000), rng.random(2000) < 0.5)
    assert abs(scale.slope) < 0.2


@pytest.mark.parametrize("forged", [True, False])
def test_one_kind_of_clips_cannot_be_fitted(forged: bool) -> None:
    with pytest.raises(ValueError, match="both kinds"):
        fit_scale(np.zeros(4), np.full(4, forged))
