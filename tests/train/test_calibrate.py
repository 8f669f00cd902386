"""Calibration on simulated logits: likelihood ratios, tails, and the rate that it promises."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepscan.engines.engine import Predictions
from deepscan.types import Label
from train.calibrate import (
    FRAME_RATE,
    FRAMES,
    RATE,
    REVIEW_RATE,
    WINDOW,
    Clip,
    cross_fit,
    fit,
    fit_scale,
    label_of,
    make_clip,
    make_clips,
    wilson,
)
from train.faces import read_faces
from train.smoke import write_faces


def clips(people: int, apart: float, seed: int = 0) -> list[Clip]:
    """Two clips a person; logits are normal, the forged ones `apart` higher. A clip's windows share
    a part of their noise, as one face's do."""
    rng = np.random.default_rng(seed)
    made = []
    for person in range(people):
        for forged in (False, True):
            shared = rng.normal(-apart / 2 + apart * forged, 0.8)
            logits = tuple((shared + rng.normal(0, 1.2, FRAMES)).tolist())
            made.append(Clip(f"p{person}", forged, "x" if forged else "none", 23, 90.0, logits))
    return made


def test_wilson_against_published_values() -> None:
    assert wilson(5, 10) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((1.0, 0.7225, 1.0), abs=1e-4)


@given(total=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_holds_its_share_and_narrows(total: int, share: float) -> None:
    count = round(share * total)
    value, low, high = wilson(count, total)
    assert 0 <= low <= value + 1e-12 and value - 1e-12 <= high <= 1
    _, wide_low, wide_high = wilson(count, total)
    _, many_low, many_high = wilson(10 * count, 10 * total)
    assert many_high - many_low < wide_high - wide_low


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


def test_windows_are_means_of_a_second() -> None:
    size = round(WINDOW * FRAME_RATE)
    logits = tuple(float(value) for value in range(2 * size + 3))
    windows = Clip("p", False, "none", 23, 90.0, logits).windows()
    assert windows == pytest.approx([np.mean(logits[:size]), np.mean(logits[size : 2 * size])])


def test_the_false_alarm_rate_is_near_the_stated_one() -> None:
    rates = cross_fit(clips(1500, apart=4.0), "simulated")
    assert rates.clips == 3000
    alarm, review = rates.false_alarm, rates.false_review
    # Judged by a fit on other people: near the promise, rather below it than above.
    assert alarm[1] <= RATE <= alarm[2] or 0.2 * RATE < alarm[0] < RATE
    assert 0.3 * REVIEW_RATE < review[0] < 1.4 * REVIEW_RATE
    assert alarm[0] <= review[0]
    assert rates.found[0] > 0.7


def test_a_network_that_knows_little_finds_little_and_accuses_no_more() -> None:
    rates = cross_fit(clips(600, apart=0.5), "simulated")
    assert rates.found[0] < 0.1 and rates.false_alarm[0] < 0.03


def test_a_network_that_is_wrong_gets_no_calibration() -> None:
    with pytest.raises(ValueError, match="no scale of evidence"):
        cross_fit(clips(200, apart=-2.0), "simulated")


def test_a_fit_judges_what_is_clear() -> None:
    calibration = fit(clips(200, apart=6.0), (0.01, 0.0, 0.03), "simulated")
    assert calibration.clips == 200 and calibration.measured_interval == (0.0, 0.03)
    sure = Clip("q", True, "x", 23, 90.0, (6.0,) * FRAMES)
    clean = Clip("q", False, "none", 23, 90.0, (-6.0,) * FRAMES)
    assert label_of(sure, calibration) is Label.MANIPULATED
    assert label_of(clean, calibration) is Label.NO_EVIDENCE
    # One forged second in two is found as well: the strongest window decides.
    half = (-3.0,) * (FRAMES // 2) + (6.0,) * (FRAMES // 2)
    assert label_of(Clip("q", True, "x", 23, 90.0, half), calibration) is Label.MANIPULATED


class Brightness:
    """An engine that takes bright crops for forged ones."""

    input_size, max_batch = 32, 8

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def predict(self, crops: np.ndarray) -> Predictions:
        self.seen.append(crops)
        return Predictions(
            (crops.mean((1, 2, 3)) / 255).astype(np.float32),
            np.zeros((len(crops), 8, 8), np.float32),
        )


def test_clips_are_made_by_their_draw_and_judged_frame_by_frame(tmp_path: Path) -> None:
    write_faces(tmp_path)
    people = read_faces(tmp_path, "val")
    engine: Any = Brightness()
    clean = make_clip(people, 0, None, engine)
    again = make_clip(people, 0, None, engine)
    assert (again.crf, again.face) == (clean.crf, clean.face)
    # Not to the bit: x264's macroblock tree is not exact on processors with AVX-512.
    assert again.logits == pytest.approx(clean.logits, abs=0.02)
    assert len(clean.logits) == FRAMES and clean.forge == "none" and not clean.forged
    assert 18 <= clean.crf < 34 and clean.face >= 30
    assert all(batch.shape[1:] == (32, 32, 3) and len(batch) <= 8 for batch in engine.seen)
    forged = make_clip(people, 0, "self-blend", engine)
    assert (forged.crf, forged.face) == (clean.crf, clean.face)  # the forging alone differs
    assert forged.logits != clean.logits
    told = make_clips(people, ["redraw"], engine, SimpleNamespace)
    assert [(clip.forged, clip.forge) for clip in told] == [(False, "none"), (True, "redraw")] * 2
