"""Calibrations from scanned clips: what they promise on simulated recordings."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from deepscan.errors import UsageError
from deepscan.verdict.calibration import Calibration
from deepscan.verdict.estimate import TooFewClips
from deepscan.verdict.evidence import Evidence, TrackEvidence
from deepscan.verdict.fit import ScannedClip, fit_calibration

RATES = {"rate": 0.01, "review_rate": 0.05}


def clip(
    rng: np.random.Generator,
    name: str,
    *,
    manipulated: bool = False,
    seconds: float = 2.0,
    faces: int = 1,
    shift: float = 0.0,
    group: str | None = None,
    size: float | None = None,
) -> ScannedClip:
    """A clip of faces whose windows share a part of their noise, as one face's do."""
    evidence = Evidence()
    times = np.arange(0, seconds, 0.1)
    evidence.frames, evidence.first, evidence.last = len(times), 0.0, float(times[-1])
    for track in range(faces):
        level = rng.normal(3.0 * manipulated - 1.0 + shift, 0.8)
        side = float(rng.uniform(60, 200)) if size is None else size
        logits = np.clip(level + rng.normal(0, 1.0, len(times)), -8, 8)
        series = TrackEvidence()
        series.times = series.scored = array("d", times)
        series.logits = array("f", logits)
        for values in (series.sizes, series.sides):
            values.extend([side] * len(times))
        series.sharpness.extend([50.0] * len(times))
        series.detail.extend([0.8] * len(times))
        series.shares.extend([0.5] * len(times))
        series.whole.extend([1] * len(times))
        evidence.tracks[track] = series
    return ScannedClip(name, group or name, manipulated, False, evidence)


def many(rng: np.random.Generator, count: int, **wanted: float) -> list[ScannedClip]:
    return [clip(rng, f"{index:04d}", **wanted) for index in range(count)]


def fitted(clips: list[ScannedClip]):
    return fit_calibration(clips, name="own", population="simulated", **RATES)


def over(clips: list[ScannedClip], calibration: Calibration) -> np.ndarray:
    """Shares of clips that the calibration's points let through."""
    from deepscan.verdict.fit import _margins

    return (np.array([_margins(each, calibration)[0] for each in clips]) >= 0).mean(0)


def test_new_clips_of_any_length_pass_at_no_more_than_the_rates() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(5):
        mixed = [
            clip(rng, f"{index}", seconds=float(rng.choice([1.5, 2, 8])), faces=1 + index % 3)
            for index in range(150)
        ]
        calibration = fitted(mixed).calibration
        new = [
            clip(rng, f"{index}", seconds=float(rng.choice([1.5, 2, 8])), faces=1 + index % 3)
            for index in range(150)
        ]
        found.append(over(new, calibration))
    manipulated, suspicious = np.mean(found, axis=0)
    assert manipulated <= 0.01 + 0.008
    assert 0.02 <= suspicious <= 0.05 + 0.015


def test_real_clips_alone_give_no_likelihood_ratio() -> None:
    result = fitted(many(np.random.default_rng(2), 120))
    assert not result.calibration.likelihood_ratio
    assert result.calibration.clip.slope == 1.0
    assert result.rates.found is None and result.rates.groups == 120
    assert (result.margins[:, 0] >= 0).sum() <= 1
    assert result.held_out.shape == (120, 2)
    assert result.rates.manipulated[1] <= 0.02


def test_manipulated_clips_make_it_likelihood_ratios() -> None:
    rng = np.random.default_rng(3)
    fakes = [clip(rng, f"fake {index}", manipulated=True) for index in range(60)]
    result = fitted([*many(rng, 150), *fakes])
    assert result.calibration.likelihood_ratio
    assert result.rates.found is not None and result.rates.found[0] > 0.3
    # ln N(2, s) / N(-1, s) of means: the slope is that of the true ratio, about 3 / var.
    assert 2.0 < result.calibration.clip.slope < 6.0


def test_bands_where_there_are_enough_recordings() -> None:
    rng = np.random.default_rng(4)
    small = [clip(rng, f"s{index}", size=50.0, shift=1.0) for index in range(130)]
    large = [clip(rng, f"l{index}", size=200.0) for index in range(130)]
    result = fitted([*small, *large])
    bands = result.calibration.bands
    assert len(bands) >= 2
    points = result.calibration.points_by_band(2.0, still=False)[:, 0]
    by_size = sorted(zip([band.size[0] for band in bands], points, strict=True))
    assert by_size[0][1] > by_size[-1][1] + 0.5
    assert len(fitted([*small[:55], *large[:55]]).calibration.bands) == 1


def test_too_few_recordings_say_how_many_would_do() -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(TooFewClips, match="99 would do"):
        fitted(many(rng, 98))
    one = [clip(rng, f"{index}", group="one person") for index in range(200)]
    with pytest.raises(TooFewClips, match="1 unmanipulated"):
        fitted(one)
    fakes = [clip(rng, f"fake {index}", manipulated=True) for index in range(3)]
    with pytest.raises(UsageError, match="20 would do"):
        fitted([*many(rng, 120), *fakes])


def test_scores_that_say_nothing_are_refused() -> None:
    rng = np.random.default_rng(6)
    alike = many(rng, 120)
    for each in alike:
        for series in each.evidence.tracks.values():
            series.logits = array("f", [0.5] * len(series.logits))
    same = [ScannedClip(c.name, c.group, False, False, c.evidence) for c in alike]
    with pytest.raises(UsageError, match="same score"):
        fitted(same)
    turned = [clip(rng, f"fake {index}", manipulated=True, shift=-7.0) for index in range(30)]
    with pytest.raises(UsageError, match="no higher than the real ones"):
        fitted([*many(rng, 120), *turned])


@pytest.mark.parametrize("rates", [(0.0, 0.05), (0.1, 0.05), (0.2, 0.7)])
def test_rates_that_cannot_be_are_refused(rates: tuple[float, float]) -> None:
    clips = many(np.random.default_rng(7), 5)
    with pytest.raises(UsageError, match="give rates above 0"):
        fit_calibration(clips, name="", population="", rate=rates[0], review_rate=rates[1])


def test_manipulated_pictures_beside_real_clips_are_one_scale() -> None:
    rng = np.random.default_rng(8)
    fakes = []
    for index in range(40):
        moving = clip(rng, f"fake {index}", manipulated=True, seconds=0.1)
        fakes.append(ScannedClip(moving.name, moving.group, True, True, moving.evidence))
    result = fitted([*many(rng, 120), *fakes])
    assert result.calibration.likelihood_ratio
    assert result.calibration.clip.slope == result.calibration.still.slope != 1.0
