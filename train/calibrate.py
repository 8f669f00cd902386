"""Calibration and card: `python -m train.calibrate WEIGHTS --data FACES --out FOLDER`.

From scores to likelihood ratios, on people that training never saw. Every person of the `val`
split gives two clips, one as it is and one forged, through a moving camera and a real codec at a
random size and quality. Windows of these clips fit the scale and the tail that `deepscan.verdict`
uses. The false-alarm rate is measured apart from the fit: half the people fit, the other half are
judged, and the other way round.

Writes the weights and their card (JSON) to FOLDER and the model card for people to --card.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors import safe_open

from deepscan.engines.machine import look_around
from deepscan.engines.parity import selftest_values
from deepscan.engines.torch import TorchEngine
from deepscan.errors import DeepscanError, UsageError
from deepscan.faces.crop import cut, square
from deepscan.models.weights import Card, load_model
from deepscan.options import ScanOptions
from deepscan.types import Label
from deepscan.verdict import Calibration, Scale, Tail, logit, smooth
from train.clips import film, hold_camera, through_codec
from train.faces import Person, read_faces
from train.model_card import model_card
from train.pairs import forge_face
from train.recipe import parse_recipe
from train.validate import Validation, validate

RATE, REVIEW_RATE = 0.01, 0.05  # false alarms a file at the operating and the review point
WINDOW = 1.0  # seconds
FRAMES, FRAME_RATE = 24, 12  # two seconds a clip; half the usual rate halves the cost
_SEED = 9_000_011
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Clip:
    """The network's logits over one made clip, and how it was made."""

    person: str
    forged: bool
    forge: str
    crf: int
    face: float  # longer side of the face box, pixels
    logits: tuple[float, ...]

    def windows(self) -> Floats:
        """Mean logit of each window of WINDOW seconds."""
        size = round(WINDOW * FRAME_RATE)
        values = np.array(self.logits)
        return values[: len(values) // size * size].reshape(-1, size).mean(1)


def make_clip(people: Sequence[Person], index: int, forge: str | None, engine: TorchEngine) -> Clip:
    """Film a person, forged or as they are, and judge every frame.

    The draw is the same with and without a forge, so pairs differ in the forging alone.
    """
    options = ScanOptions()
    rng = np.random.default_rng([_SEED, index])
    person = people[index]
    scale = float(rng.uniform(0.35, 1.0))
    crf = int(rng.integers(18, 34))
    noise = float(rng.choice((0.0, 2.0, 4.0, 7.0)))
    seeds = rng.integers(2**31, size=3)
    face = person.face
    image = face.image
    if forge is not None:
        image = forge_face(people, index, forge, np.random.default_rng(seeds[0])).image
    smallest = options.min_face / max(face.box[2] - face.box[0], face.box[3] - face.box[1])
    camera = hold_camera(
        image, FRAMES, np.random.default_rng(seeds[1]), scale=max(scale, smallest * 1.05)
    )
    shot = film([image] * FRAMES, camera, np.random.default_rng(seeds[2]), noise)
    frames = through_codec(shot, crf=crf, rate=FRAME_RATE)
    boxes = [camera.place(face.box, i) for i in range(len(frames))]
    crops = np.stack(
        [
            cut(frame, square(box, options.crop_scale), engine.input_size)
            for frame, box in zip(frames, boxes, strict=True)
        ]
    )
    scores: list[float] = []
    for start in range(0, len(crops), engine.max_batch):
        scores += engine.predict(crops[start : start + engine.max_batch]).scores.tolist()
    return Clip(
        person.person,
        forge is not None,
        forge or "none",
        crf,
        max(boxes[0].width, boxes[0].height),
        tuple(logit(score) for score in scores),
    )


def make_clips(
    people: Sequence[Person],
    forges: Sequence[str],
    engine: TorchEngine,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Clip]:
    """Two clips a person; the forges take turns."""
    clips = []
    for index in range(len(people)):
        forge = forges[index % len(forges)]
        clips += [make_clip(people, index, kind, engine) for kind in (None, forge)]
        if index % 20 == 19:
            tell(f"{index + 1} of {len(people)} people")
    return clips


def fit_scale(values: Floats, forged: NDArray[np.bool_]) -> Scale:
    """Logistic regression of forged on a logit, by Newton's method, at even prior odds.

    A weak pull of the slope towards 1 keeps separable data finite. The tail is an exponential over
    the upper tenth of the unmanipulated.

    Raises:
        ValueError: one of the classes is missing.
    """
    if forged.all() or not forged.any():
        raise ValueError("calibration needs clips of both kinds")
    weight = np.where(forged, 0.5 / forged.sum(), 0.5 / (~forged).sum()) * len(forged)
    parameters = np.array([1.0, 0.0])
    design = np.c_[values, np.ones_like(values)]
    pull = np.array([1.0, 1e-3])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ parameters, -40, 40)))
        slope = design.T @ (weight * (forged - p)) - pull * (parameters - np.array([1.0, 0.0]))
        curve = design.T @ (design * (weight * p * (1 - p))[:, None]) + np.diag(pull)
        step = np.linalg.solve(curve, slope)
        parameters = parameters + step
        if np.abs(step).max() < 1e-9:
            break
    slope_, offset = float(parameters[0]), float(parameters[1])
    null = slope_ * values[~forged] + offset
    u = float(np.quantile(null, 0.9))
    excess = null[null > u] - u
    # The mean excess of few values is uncertain by a share 1/sqrt(n): lean to the careful side.
    b = float(excess.mean()) * (1 + 1 / math.sqrt(len(excess))) if len(excess) else 1.0
    return Scale(slope_, offset, Tail(u, 0.1, max(b, 0.05)))


def fit(
    clips: Sequence[Clip], measured: tuple[float, float, float], population: str
) -> Calibration:
    """Fit both scales on all windows of the clips; the still scale on single frames."""
    windows = [clip.windows() for clip in clips]
    forged = np.concatenate(
        [np.full(len(w), c.forged) for w, c in zip(windows, clips, strict=True)]
    )
    stills = np.array([clip.logits[0] for clip in clips])
    rate, low, high = measured
    return Calibration(
        name="val-clips/1",
        population=population,
        window=WINDOW,
        clip=fit_scale(np.concatenate(windows), forged),
        still=fit_scale(stills, np.array([clip.forged for clip in clips])),
        rate=RATE,
        review_rate=REVIEW_RATE,
        measured=rate,
        measured_interval=(low, high),
        clips=sum(not clip.forged for clip in clips),
    )


def label_of(clip: Clip, calibration: Calibration) -> Label:
    """What the rule of `deepscan.verdict` says about a clip of one face: its sliding window."""
    times = np.arange(len(clip.logits)) / FRAME_RATE
    llr = calibration.clip.llr(smooth(times, np.array(clip.logits), calibration.window))
    looks = max(1.0, len(times) / FRAME_RATE / calibration.window)
    operating, review = calibration.points(looks, still=False)
    if llr.max() >= operating:
        return Label.MANIPULATED
    return Label.SUSPICIOUS if llr.max() >= review else Label.NO_EVIDENCE


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares with 95 % Wilson intervals: of unmanipulated clips called manipulated or at least
    suspicious, and of forged clips called manipulated; every clip judged by a fit on others."""

    false_alarm: tuple[float, float, float]
    false_review: tuple[float, float, float]
    found: tuple[float, float, float]
    clips: int


def cross_fit(clips: Sequence[Clip], population: str) -> Rates:
    """Fit on half the people, judge the other half, and the other way round."""
    people = sorted({clip.person for clip in clips})
    half = set(people[::2])
    labels: list[tuple[bool, Label]] = []
    for inside in (True, False):
        fitted = fit([c for c in clips if (c.person in half) == inside], (0, 0, 1), population)
        labels += [(c.forged, label_of(c, fitted)) for c in clips if (c.person in half) != inside]
    real = [label for forged, label in labels if not forged]
    fake = [label for forged, label in labels if forged]
    return Rates(
        wilson(sum(label is Label.MANIPULATED for label in real), len(real)),
        wilson(sum(label is not Label.NO_EVIDENCE for label in real), len(real)),
        wilson(sum(label is Label.MANIPULATED for label in fake), len(fake)),
        len(labels),
    )


def wilson(count: int, total: int) -> tuple[float, float, float]:
    """A share with its 95 % interval (Wilson 1927)."""
    z = 1.959964
    share = count / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = (
        z
        / (1 + z * z / total)
        * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    )
    return share, max(0.0, centre - half), min(1.0, centre + half)


def card_of(
    weights: Path,
    sha256: str,
    metadata: dict[str, str],
    *,
    validation: Validation,
    calibration: Calibration,
    rates: Rates,
    data: str,
    selftest: dict[str, Any],
    attribution: str,
) -> dict[str, Any]:
    """The card's JSON: what these weights are, what made them, what they scored."""
    return {
        "name": weights.stem,
        "sha256": sha256,
        "config": json.loads(metadata["config"]),
        "training": {key: value for key, value in metadata.items() if key != "config"},
        "evaluation": {
            "data": data,
            "samples": validation.samples,
            "auc": validation.auc._asdict(),
            "mask_iou": validation.iou._asdict(),
            "per_forge": {name: e._asdict() for name, e in validation.per_forge.items()},
            "false_pixels": validation.false_pixels,
            "clips": asdict(rates),
        },
        "calibration": asdict(calibration),
        "selftest": selftest,
        "licence": "Apache-2.0",
        "attribution": attribution,
    }


def main(
    weights: Annotated[Path, typer.Argument(help="NAME.safetensors as train.train wrote it")],
    data: Annotated[Path, typer.Option(help="Folder of faces with provenance.csv")],
    out: Annotated[Path, typer.Option(help="Folder for the weights and their card")],
    card: Annotated[Path, typer.Option(help="Model card for people")] = Path("docs/model-card.md"),
    threads: Annotated[int, typer.Option(help="Threads of torch; 0: all cores")] = 0,
) -> None:
    """Evaluate and calibrate weights on held-out people, and write their card."""
    cv2.setNumThreads(0)
    if threads:
        torch.set_num_threads(threads)
    try:
        values = calibrate(weights, data, out)
    except (DeepscanError, ValueError) as error:
        typer.echo(f"calibrate: {error}", err=True)
        raise typer.Exit(2) from error
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text(model_card(values))
    typer.echo(f"wrote {out / weights.name}, its card and {card}")


def calibrate(weights: Path, data: Path, out: Path) -> dict[str, Any]:
    """Evaluate, calibrate, copy the weights to `out` and write the card beside them.

    Raises:
        UsageError: the data folder or the recipe in the weights is not as expected.
        ModelError: the weights do not fit their config.
    """
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    with safe_open(weights, "pt") as file:
        metadata = dict(file.metadata())
    recipe = parse_recipe(metadata["recipe"])
    if not recipe.forges:
        raise UsageError(
            f"{weights} was trained on a data set, not on forges: evaluate it with train.evaluate"
        )
    people = read_faces(data, "val")
    values: dict[str, Any] = {"config": json.loads(metadata["config"])}
    validation = validate(
        load_model(Card(weights.stem, weights, sha256, values)), people, recipe.forges
    )
    typer.echo(f"crops: {validation}", err=True)
    forges = ", ".join(sorted(recipe.forges))
    evaluated_on = (
        f"{validation.samples} crops of {len(people)} pictures of people never trained on, "
        f"forged by {forges} or untouched; no real deepfake"
    )
    values["evaluation"] = {"auc": validation.auc._asdict(), "data": evaluated_on}
    engine = TorchEngine(
        Card(weights.stem, weights, sha256, values), look_around(), device="cpu", precision="fp32"
    )
    clips = make_clips(people, sorted(recipe.forges), engine, lambda t: typer.echo(t, err=True))
    population = (
        f"{len(people)} clips of {len({p.person for p in people})} people held out from training, "
        "filmed from still portraits, H.264 at CRF 18 to 33"
    )
    rates = cross_fit(clips, population)
    typer.echo(f"clips: {rates}", err=True)
    card = card_of(
        weights,
        sha256,
        metadata,
        validation=validation,
        calibration=fit(clips, rates.false_alarm, population),
        rates=rates,
        data=evaluated_on,
        selftest=selftest_values(engine),
        attribution=(data / "ATTRIBUTION.md").read_text(),
    )
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, out / weights.name)
    (out / f"{weights.stem}.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    return card


if __name__ == "__main__":
    typer.run(main)
