"""Calibration on simulated logits: likelihood ratios, tails, and the rate that it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepscan.types import Label
from deepscan.verdict.calibration import wilson
from deepscan.verdict.estimate import BandMinimum, fit_scale
from train.calibration.fit import (
    RATE,
    REVIEW_RATE,
    Rates,
    calibrated,
    cross_validate,
    fit,
    rates_of,
    tail_factor,
    verdict_of,
)
from train.calibration.synthetic_validation import FRAME_RATE, FRAMES, WINDOW, Clip


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


def rates_across(clips: list[Clip]) -> Rates:
    """The rates of the rule, each clip judged by a fit on other people."""
    return rates_of(clips, cross_validate(clips, "simulated"))


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


def test_windows_are_means_of_a_second() -> None:
    size = round(WINDOW * FRAME_RATE)
    logits = tuple(float(value) for value in range(2 * size + 3))
    windows = Clip("p", False, "none", 23, 90.0, logits).windows()
    assert windows == pytest.approx([np.mean(logits[:size]), np.mean(logits[size : 2 * size])])


def test_the_false_alarm_rate_is_near_the_stated_one() -> None:
    rates = rates_across(clips(1500, apart=4.0))
    assert rates.clips == 3000
    alarm, review = rates.false_alarm, rates.false_review
    # Judged by a fit on other people: near the promise, rather below it than above.
    assert alarm[1] <= RATE <= alarm[2] or 0.2 * RATE < alarm[0] < RATE
    assert 0.3 * REVIEW_RATE < review[0] < 1.4 * REVIEW_RATE
    assert alarm[0] <= review[0]
    assert rates.found[0] > 0.7


def test_a_network_that_knows_little_finds_little_and_accuses_no_more() -> None:
    rates = rates_across(clips(600, apart=0.5))
    assert rates.found[0] < 0.1 and rates.false_alarm[0] < 0.03


def test_a_network_that_is_wrong_gets_no_calibration() -> None:
    with pytest.raises(ValueError, match="no scale of evidence"):
        rates_across(clips(200, apart=-2.0))


def test_a_fit_judges_what_is_clear() -> None:
    calibration = fit(clips(200, apart=6.0), (0.01, 0.0, 0.03), "simulated")
    assert calibration.clips == 200 and calibration.measured_interval == (0.0, 0.03)
    sure = Clip("q", True, "x", 23, 90.0, (6.0,) * FRAMES)
    clean = Clip("q", False, "none", 23, 90.0, (-6.0,) * FRAMES)
    assert verdict_of(sure, calibration).label is Label.MANIPULATED
    assert verdict_of(clean, calibration).label is Label.NO_EVIDENCE
    # One forged second in two is found as well: the strongest window decides.
    half = (-3.0,) * (FRAMES // 2) + (6.0,) * (FRAMES // 2)
    assert verdict_of(Clip("q", True, "x", 23, 90.0, half), calibration).label is Label.MANIPULATED


# Quality bands


def graded(people: int, seed: int = 0) -> list[Clip]:
    """As `clips`, but small faces are told apart badly and their unmanipulated scores stray."""
    rng = np.random.default_rng(seed)
    made = []
    for person in range(people):
        size = float(rng.uniform(45, 200))
        apart, spread = (1.5, 2.0) if size < 90 else (5.0, 0.8)
        for forged in (False, True):
            shared = rng.normal(-apart / 2 + apart * forged, spread)
            logits = tuple((shared + rng.normal(0, 0.5, FRAMES)).tolist())
            qualities = tuple(
                (size + float(rng.normal()), 80.0 + size, 0.5 + float(rng.uniform(0, 0.3)))
                for _ in range(FRAMES)
            )
            kind = "x" if forged else "none"
            made.append(Clip(f"p{person}", forged, kind, 23, size, logits, qualities))
    return made


def test_bands_split_what_differs_and_cover_all_clips() -> None:
    made = graded(600)
    minimum = BandMinimum(100, 60, 100)
    fitted = fit(made, (0.01, 0.0, 0.02), "simulated", minimum=minimum)
    assert len(fitted.bands) >= 4
    assert all(band.clips >= minimum.real for band in fitted.bands)
    assert sum(band.clips for band in fitted.bands) == 600
    qualities = np.array([np.median(clip.seen(), axis=0) for clip in made])
    assert (fitted.bands_of(qualities) >= 0).all()
    # Every point of the ranges belongs to one band alone.
    assert all(sum(band.holds(point[None])[0] for band in fitted.bands) == 1 for point in qualities)
    small = [band for band in fitted.bands if band.size[1] is not None]
    large = [band for band in fitted.bands if band.size[1] is None]
    assert small and large
    slopes = [np.mean([band.clip.slope for band in some]) for some in (small, large)]
    assert slopes[0] < slopes[1]  # the same score is less evidence where scores stray


def test_smaller_and_blurrier_than_all_clips_is_outside() -> None:
    fitted = fit(graded(200), (0.01, 0.0, 0.02), "simulated")
    inside = [100.0, 150.0, 0.6]
    points = np.array([inside, [20, 150, 0.6], [100, 3, 0.6], [100, 150, 0.01], [900, 9e3, 1.0]])
    assert (fitted.bands_of(points) >= 0).tolist() == [True, False, False, False, True]


def test_bands_with_too_few_clips_stay_pooled() -> None:
    fitted = fit(graded(50), (0.01, 0.0, 0.02), "simulated", minimum=BandMinimum(60, 30, 30))
    (band,) = fitted.bands
    assert band.clip == fitted.clip and band.still == fitted.still


def test_a_band_leans_on_the_fit_of_all_where_it_has_little() -> None:
    rng = np.random.default_rng(3)
    whole = fit_scale(
        np.concatenate([rng.normal(-1, 1, 3000), rng.normal(1, 1, 3000)]),
        np.arange(6000) >= 3000,
    )
    forged = np.array([False, False, True, True])
    few = fit_scale(np.array([1.0, 1.2, -1.0, -1.1]), forged, whole)
    assert abs(few.slope - whole.slope) < 0.8 and few.tail.b == pytest.approx(whole.tail.b, rel=0.5)
    many = fit_scale(rng.normal(0, 1, 4000), rng.random(4000) < 0.5, whole)
    assert abs(many.slope) < 0.2  # plenty of clips are believed


def test_the_rate_holds_in_every_band() -> None:
    made = graded(1200, seed=5)
    found = calibrated(made, "simulated", minimum=BandMinimum(100, 60, 100))
    for low, high in ((45, 90), (90, 200)):
        over = [
            one.label is Label.MANIPULATED
            for clip, one in zip(made, found.verdicts, strict=True)
            if clip.untouched and low <= clip.face < high
        ]
        assert np.mean(over) <= 2.5 * RATE
    assert found.rates.false_alarm[0] <= RATE and found.rates.false_review[0] <= REVIEW_RATE


def test_care_makes_the_measured_rates_keep_the_promise() -> None:
    # A tail far heavier than an exponential: one clip in thirty is called forged outright.
    made = clips(600, apart=4.0)
    wild = [
        clip if clip.forged or index % 30 else
        Clip(clip.person, False, "none", 23, 90.0, (5.5,) * FRAMES)
        for index, clip in enumerate(made)
    ]  # fmt: skip
    found = calibrated(wild, "simulated")
    assert found.care > 1 or found.rates.false_alarm[0] <= RATE
    assert found.rates.false_review[0] <= REVIEW_RATE
    plain = calibrated(made, "simulated")
    assert plain.care <= found.care
    assert tail_factor(made, plain.verdicts) == 1.0


def test_alarms_give_the_measured_rate_back() -> None:
    found = calibrated(clips(400, apart=3.0), "simulated")
    fitted = found.calibration
    assert list(fitted.alarms) == sorted(fitted.alarms)
    over = sum(alarm <= RATE for alarm in fitted.alarms)
    assert over / fitted.clips == pytest.approx(found.rates.false_alarm[0])
    looser = fitted.at(0.05)
    assert looser.measured >= fitted.measured
    assert looser.points(2, still=False)[0] < fitted.points(2, still=False)[0]


def test_edited_clips_may_be_kept_out_of_the_fit() -> None:
    made = clips(300, apart=4.0)
    edited = [
        Clip(f"p{index}", False, "none", 23, 90.0, (3.0,) * FRAMES, edit="caption")
        for index in range(0, 300, 3)
    ]
    both = [*made, *edited]
    kept = calibrated(both, "simulated").calibration
    apart = calibrated(both, "simulated", edits_in_fit=False).calibration
    assert kept.clip.tail.threshold(2, RATE) > apart.clip.tail.threshold(2, RATE)
    assert kept.clips == apart.clips == 300  # edited clips are measured for themselves


def test_a_clip_outside_of_the_bands_is_not_judged() -> None:
    fitted = fit(graded(200), (0.01, 0.0, 0.02), "simulated")
    tiny = Clip("q", True, "x", 23, 20.0, (8.0,) * FRAMES, ((20.0, 90.0, 0.6),) * FRAMES)
    found = verdict_of(tiny, fitted)
    assert found.label is Label.INCONCLUSIVE and found.llr is None and found.windows == ()
    assert math.isinf(found.alarm)
