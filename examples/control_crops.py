"""Control crops for a model's card: `python -m examples.control_crops deepscan/weights/NAME.json`.

They show the portrait of Eileen Collins (NASA, public domain, ships with scikit-image), as it is
and with its inner face redrawn as in the demo, each as a face crop of the model's size. Of several
cuts those are taken that the model tells best: a control shows that the chain works, it measures
nothing. A model that tells none of them gets no controls, and an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from skimage import data

from deepscan.archive.workers.controls import Control, controls_values
from deepscan.engines.choose import REFERENCE, load_engine
from deepscan.engines.engine import Engine
from deepscan.engines.parity import label_thresholds
from deepscan.errors import ModelError
from deepscan.faces.crop import cut, square
from deepscan.files import atomic_output
from deepscan.models.library import read_card
from deepscan.types import Box
from deepscan.verdict.calibration import logit
from examples.demo import find_face, manipulate, portrait
from train.command import exit_on_error

EACH = 2  # controls of each kind
# Of the logit, on both sides of the review point: five times what bf16 may be off in the middle of
# the scale. Near its ends scores, and how far an engine may move them, lie closer together.
MARGIN = 0.4
SCALES = (1.3, 1.2, 1.45)  # of the cut; the first is that of a scan
SOURCE = (
    "portrait of Eileen Collins, NASA, public domain, from scikit-image; forged by examples.demo"
)


def candidates(side: int) -> Iterator[Control]:
    """Crops of (side, side, 3) uint8 RGB that may become controls; their scores are not known."""
    small = np.ascontiguousarray(data.astronaut())
    large = portrait()
    forged, _ = manipulate(large)
    near, far = find_face(large).box, find_face(small).box
    for manipulated, image, box in (
        (False, large, near),
        (False, small, far),
        (True, forged, near),
    ):
        for flipped in (False, True):
            shown = np.ascontiguousarray(image[:, ::-1]) if flipped else image
            width = image.shape[1]
            place = Box(width - box.x2, box.y1, width - box.x1, box.y2) if flipped else box
            for scale in SCALES:
                crop = cut(shown, square(place, scale), side)
                yield Control("", manipulated, float("nan"), crop)


def make_controls(engine: Engine, bar: float) -> tuple[Control, ...]:
    """The controls for a model, with its scores.

    Args:
        engine: torch on the CPU in fp32.
        bar: the model's review point for a single picture.

    Raises:
        ModelError: the model does not tell enough of the candidates with a margin.
    """
    scored = [
        replace(each, score=float(engine.predict(each.image[None]).scores[0]))
        for each in candidates(engine.input_size)
    ]
    controls = []
    for manipulated, kind in ((False, "clean"), (True, "manipulated")):
        told = [
            each
            for each in scored
            if each.manipulated is manipulated
            and (1 if manipulated else -1) * (logit(each.score) - logit(bar)) >= MARGIN
        ]
        if len(told) < EACH:
            found = ", ".join(f"{e.score:.3f}" for e in scored if e.manipulated is manipulated)
            raise ModelError(
                f"the model tells {len(told)} of the {kind} candidates with a logit {MARGIN} from "
                f"that of its review point {bar:.3f} ({found}), {EACH} are needed: train it further"
            )
        told.sort(key=lambda each: each.score, reverse=manipulated)
        controls += [
            replace(each, name=f"{kind}-{place}") for place, each in enumerate(told[:EACH], 1)
        ]
    return tuple(controls)


def add_controls(card: Path) -> tuple[Control, ...]:
    """Put controls into a card that lies beside its weights.

    Raises:
        DeepscanError: the card or the weights are damaged, or the model tells too few candidates.
    """
    values = json.loads(card.read_text("utf-8"))
    model = read_card(card.stem, card.parent)
    engine = load_engine(REFERENCE, card.stem, folder=card.parent)
    try:
        controls = make_controls(engine, label_thresholds(model.values)[0])
    finally:
        engine.close()
    values["controls"] = controls_values(controls, SOURCE)
    with atomic_output(card) as part:
        text = json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n"
        part.write_text(text, "utf-8")
    return controls


def main(
    card: Annotated[Path, typer.Argument(help="Card of a model, NAME.json beside its weights")],
) -> None:
    """Put control crops into a model's card."""
    with exit_on_error("controls", OSError, ValueError):
        controls = add_controls(card)
    for control in controls:
        typer.echo(f"{control.name}: {control.score:.4f}")
    typer.echo(f"wrote {card}")


if __name__ == "__main__":
    typer.run(main)
