"""Controls: known crops, clean and manipulated, that the engine scores at the start of every run.

A laboratory runs positive and negative controls with its samples, and discards a run whose controls
fail. In the same way a broken device, wrong weights or a wrong polarity show at the start of a run
and not in its results. Controls show that the engine works, not how well the model generalises.

The crops and their scores are part of the model's card, under "controls":

    {"source": "where the pictures are from",
     "crops": [{"name": "clean-1", "manipulated": false, "score": 0.21, "png": "base64"}, ...]}

`python -m examples.control_crops CARD` puts them there, with the reference engine.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from deepscan.engines.engine import Engine
from deepscan.engines.parity import (
    check_selftest,
    label_thresholds,
    predict_all,
    score_tolerance,
    selftest_scores,
)
from deepscan.errors import ModelError
from deepscan.models.card import Card
from deepscan.models.library import read_card
from deepscan.options import ScanOptions

if TYPE_CHECKING:
    from pathlib import Path

    from deepscan.types import Image

logger = logging.getLogger(__name__)

Scores = tuple[tuple[tuple[str, float], ...], bool]
"""Scores of known crops by name, and whether they are as expected."""


@dataclass(frozen=True, slots=True)
class Control:
    """A known crop: (S, S, 3) uint8 RGB, whether it is manipulated, and the score that torch on a
    CPU in fp32 gives it."""

    name: str
    manipulated: bool
    score: float
    image: Image


def controls_of(card: Card) -> tuple[Control, ...]:
    """Read the controls of a model; none if its card has none.

    Raises:
        ModelError: they are damaged, or not of the model's input size.
    """
    given = card.values.get("controls")
    if given is None:
        return ()
    side = card.info.input_size
    try:
        controls = tuple(_control(each) for each in given["crops"])
    except (KeyError, TypeError, ValueError, OSError, SyntaxError, binascii.Error) as error:
        raise ModelError(
            f"the controls in the card of {card.name} are damaged ({error!r}): install deepscan "
            "anew"
        ) from error
    kinds = {control.manipulated for control in controls}
    if kinds != {False, True}:
        raise ModelError(f"the card of {card.name} needs controls of both kinds")
    for control in controls:
        if control.image.shape != (side, side, 3):
            raise ModelError(
                f"control {control.name} of {card.name} is not {side} pixels wide: install "
                "deepscan anew"
            )
    return controls


def controls_values(controls: Iterable[Control], source: str) -> dict[str, Any]:
    """The values for "controls" in a card."""
    return {
        "source": source,
        "crops": [
            {
                "name": control.name,
                "manipulated": control.manipulated,
                "score": round(control.score, 6),
                "png": base64.b64encode(_png(control.image)).decode("ascii"),
            }
            for control in controls
        ],
    }


def score_controls(engine: Engine, options: ScanOptions, *, folder: Path | None = None) -> Scores:
    """Score the controls of the model; returns names with scores, and True if all pass.

    Clean crops have to score below the model's review point for a single picture, manipulated ones
    at or above it, and each as its card says, within the tolerance for the engine's precision. With
    thresholds from the user's own clips only the score is compared. If the card has no controls,
    the crops of the self-test are used, of which only the scores are known.

    Args:
        folder: where models lie.

    Raises:
        EngineError: the engine failed.
        ModelError: there is no such card, or it is damaged.
    """
    card = read_card(options.model, folder)
    controls = controls_of(card)
    if not controls:
        return _score_probe(engine, card)
    found = predict_all(engine, np.stack([control.image for control in controls])).scores
    scores = tuple(
        (control.name, round(float(score), 6))
        for control, score in zip(controls, found, strict=True)
    )
    bar = None if "calibrated_from" in card.values else label_thresholds(card.values)[0]
    wrong = list(_failed(controls, scores, bar, score_tolerance(engine.name)))
    for line in wrong:
        logger.error("engine %s: %s", engine.name, line)
    return scores, not wrong


def _score_probe(engine: Engine, card: Card) -> Scores:
    """Score the crops of the self-test and compare with what the model's card expects."""
    scores = selftest_scores(engine)
    found = check_selftest(card.values.get("selftest"), scores)
    if found.works is None:
        logger.warning("the card of %s holds no scores of known crops", card.name)
    named = tuple((f"probe-{place:02d}", score) for place, score in enumerate(scores, start=1))
    return named, found.works is not False


def _failed(
    controls: Iterable[Control],
    scores: Iterable[tuple[str, float]],
    bar: float | None,
    tolerance: float,
) -> Iterable[str]:
    for control, (name, score) in zip(controls, scores, strict=True):
        if bar is not None and (score >= bar) != control.manipulated:
            kind = "manipulated" if control.manipulated else "clean"
            yield f"the {kind} control {name} scored {score:.4f}; the review point is {bar:.4f}"
        if not abs(score - control.score) <= tolerance:
            yield (
                f"control {name} scored {score:.4f}, its card says {control.score:.4f} and "
                f"{tolerance:g} is allowed"
            )


def _control(given: Any) -> Control:
    if not isinstance(given["manipulated"], bool):
        raise TypeError("manipulated must be true or false")
    data = base64.b64decode(given["png"], validate=True)
    with Pillow.open(io.BytesIO(data), formats=["PNG"]) as picture:
        image = np.array(picture.convert("RGB"))
    return Control(str(given["name"]), given["manipulated"], float(given["score"]), image)


def _png(image: Image) -> bytes:
    written = io.BytesIO()
    Pillow.fromarray(image).save(written, "PNG", optimize=True)
    return written.getvalue()
