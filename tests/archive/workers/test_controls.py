"""Known crops in a model's card: what passes, what voids a run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepscan.archive.workers.controls import Control, controls_of, controls_values, score_controls
from deepscan.engines.engine import Predictions
from deepscan.engines.parity import label_thresholds
from deepscan.errors import ModelError
from deepscan.models.card import FOLDER
from deepscan.models.library import read_card
from deepscan.options import ScanOptions
from tests.fakes import FakeEngine

OPTIONS = ScanOptions()
LOW, HIGH = 0.05, 0.97


def shade(level, side):
    return np.full((side, side, 3), level, np.uint8)


@pytest.fixture
def folder(tmp_path, shipped_model):
    """The shipped card with four grey controls, beside no weights."""
    values = json.loads((FOLDER / f"{shipped_model}.json").read_text())
    side = values["config"]["input_size"]
    controls = [
        Control("clean-1", False, LOW, shade(10, side)),
        Control("clean-2", False, LOW, shade(30, side)),
        Control("manipulated-1", True, HIGH, shade(200, side)),
        Control("manipulated-2", True, HIGH, shade(250, side)),
    ]
    values["controls"] = controls_values(controls, "made for a test")
    (tmp_path / f"{shipped_model}.json").write_text(json.dumps(values))
    return tmp_path


def engine_that(judge, folder, name="fake"):
    """An engine that gives a crop the score that a function makes of its brightness."""

    def answer(crops):
        scores = np.array([judge(float(crop.mean())) for crop in crops], np.float32)
        return Predictions(scores, np.zeros((len(crops), 4, 4), np.float32))

    side = read_card(OPTIONS.model, folder).info.input_size
    engine = FakeEngine(input_size=side, max_batch=3, judge=answer)
    engine.name = name
    return engine


def honest(level):
    return HIGH if level > 100 else LOW


def test_a_sound_engine_passes(folder):
    scores, passed = score_controls(engine_that(honest, folder), OPTIONS, folder=folder)
    assert passed
    assert scores == (
        ("clean-1", pytest.approx(LOW)), ("clean-2", pytest.approx(LOW)),
        ("manipulated-1", pytest.approx(HIGH)), ("manipulated-2", pytest.approx(HIGH)),
    )  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        lambda level: 1 - honest(level),  # wrong polarity
        lambda level: 0.5,  # says the same of everything
        lambda level: LOW,  # finds nothing
        lambda level: HIGH if level > 20 else LOW,  # one clean one is called manipulated
        lambda level: float("nan"),
    ],
)
def test_a_broken_engine_fails(folder, broken, caplog):
    scores, passed = score_controls(engine_that(broken, folder), OPTIONS, folder=folder)
    assert not passed and len(scores) == 4
    assert "control" in caplog.text


def test_the_right_side_with_another_score_fails_too(folder):
    def off(level):
        return honest(level) - 0.04

    assert not score_controls(engine_that(off, folder), OPTIONS, folder=folder)[1]
    assert not score_controls(engine_that(off, folder, "torch-cpu-fp32"), OPTIONS, folder=folder)[1]


def test_controls_come_back_as_they_were_put(folder):
    controls = controls_of(read_card(OPTIONS.model, folder))
    assert [control.manipulated for control in controls] == [False, False, True, True]
    assert [int(control.image[0, 0, 0]) for control in controls] == [10, 30, 200, 250]


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("crops"),
        lambda values: values["crops"][0].pop("score"),
        lambda values: values["crops"][0].update(manipulated="no"),
        lambda values: values["crops"][0].update(png="not base64!"),
        lambda values: values["crops"][0].update(png="AAAA"),
        lambda values: values["crops"].__delitem__(slice(2, 4)),
    ],
)
def test_a_damaged_card_is_an_error(folder, damage):
    path = folder / f"{OPTIONS.model}.json"
    values = json.loads(path.read_text())
    damage(values["controls"])
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError):
        score_controls(engine_that(honest, folder), OPTIONS, folder=folder)


def test_a_card_without_controls_is_judged_by_the_self_test(shipped_model, tmp_path):
    values = json.loads((FOLDER / f"{shipped_model}.json").read_text())
    values.pop("controls", None)
    (tmp_path / f"{shipped_model}.json").write_text(json.dumps(values))
    scores, passed = score_controls(engine_that(honest, tmp_path), OPTIONS, folder=tmp_path)
    assert not passed
    assert all(name.startswith("probe") for name, _ in scores)


def test_the_shipped_controls_lie_on_their_sides_of_the_review_point(shipped_model):
    card = read_card(shipped_model)
    bar = label_thresholds(card.values)[0]
    assert controls_of(card)
    for control in controls_of(card):
        assert (control.score >= bar) is control.manipulated


def test_the_shipped_model_passes_its_controls(shipped_model):
    from deepscan.engines.choose import load_engine

    engine = load_engine("auto", shipped_model)
    try:
        scores, passed = score_controls(engine, OPTIONS)
    finally:
        engine.close()
    assert passed and scores


def test_levels_of_ones_own_clips_do_not_void_a_run(folder, shipped_model):
    path = folder / f"{shipped_model}.json"
    values = json.loads(path.read_text())
    for scale in [values["calibration"], *values["calibration"]["bands"]]:
        scale["still"]["tail"]["u"] = 7.0  # above the manipulated controls
    path.write_text(json.dumps(values))
    assert not score_controls(engine_that(honest, folder), OPTIONS, folder=folder)[1]
    path.write_text(json.dumps({**values, "calibrated_from": {"model": shipped_model}}))
    assert score_controls(engine_that(honest, folder), OPTIONS, folder=folder)[1]
    turned = engine_that(lambda level: 1 - honest(level), folder)
    assert not score_controls(turned, OPTIONS, folder=folder)[1]
