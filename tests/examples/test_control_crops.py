"""Control crops: made from the portrait, taken only if the model tells them."""

from __future__ import annotations

import numpy as np
import pytest

from deepscan.archive.workers.controls import controls_values
from deepscan.engines.engine import Predictions
from deepscan.errors import ModelError
from examples import control_crops
from tests.fakes import FakeEngine


@pytest.fixture(scope="module")
def crops():
    return list(control_crops.candidates(96))


def detail(crop):
    """What redrawing from few pixels takes away: the mean difference between neighbours."""
    inner = crop[32:64, 32:64].astype(float).mean(axis=2)
    return np.abs(np.diff(inner, axis=0)).mean() + np.abs(np.diff(inner, axis=1)).mean()


def test_candidates_of_both_kinds(crops):
    assert {crop.image.shape for crop in crops} == {(96, 96, 3)}
    clean = [crop for crop in crops if not crop.manipulated]
    forged = [crop for crop in crops if crop.manipulated]
    assert len(clean) >= 6 and len(forged) >= 6
    assert len({crop.image.tobytes() for crop in crops}) == len(crops)
    near = clean[: len(forged)]  # the same cuts of the same picture, untouched
    for one, other in zip(near, forged, strict=True):
        assert detail(other.image) < detail(one.image)


def engine(judge):
    def answer(images):
        scores = np.array([judge(image) for image in images], np.float32)
        return Predictions(scores, np.zeros((len(images), 4, 4), np.float32))

    return FakeEngine(input_size=96, judge=answer)


def test_takes_what_the_model_tells_best(crops, monkeypatch):
    monkeypatch.setattr(control_crops, "candidates", lambda side: crops)
    forged = {crop.image.tobytes() for crop in crops if crop.manipulated}
    sound = engine(lambda image: 0.9 if image.tobytes() in forged else 0.1 + image.mean() / 1e4)
    made = control_crops.make_controls(sound, 0.6)
    assert [control.name for control in made] == [
        "clean-1",
        "clean-2",
        "manipulated-1",
        "manipulated-2",
    ]
    assert made[0].score <= made[1].score < 0.5
    values = controls_values(made, control_crops.SOURCE)
    assert "public domain" in values["source"] and len(values["crops"]) == 4


@pytest.mark.parametrize("judge", [lambda image: 0.55, lambda image: 0.0, lambda image: 1.0])
def test_a_model_that_tells_nothing_gets_no_controls(crops, judge, monkeypatch):
    monkeypatch.setattr(control_crops, "candidates", lambda side: crops)
    with pytest.raises(ModelError, match="train it further"):
        control_crops.make_controls(engine(judge), 0.6)
