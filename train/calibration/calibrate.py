"""Calibration of weights on made clips.

`python -m train.calibration.calibrate WEIGHTS --data FACES --out FOLDER`

From scores to likelihood ratios, on people that training never saw. Every person of the `val` split
gives clips as they are, forged, and with harmless edits (see
`train.calibration.synthetic_validation`); these fit scales and tails (see `train.calibration.fit`).
Writes the weights and their card (JSON) to FOLDER. `python -m train.calibration.certify` does the
same and all other measurements, and renders the model card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import cv2
import torch
import typer

from deepscan.engines.load import REFERENCE
from deepscan.engines.parity import selftest_values
from deepscan.errors import DeepscanError
from deepscan.models.weights import load_model
from train.calibration.fit import calibrated, population_of
from train.calibration.synthetic_validation import FRAMES, Takes, make_clips
from train.calibration.weights_card import card_of, engine_of, open_weights, write_card
from train.validate import validate


def calibrate(
    weights: Path,
    data: Path,
    out: Path,
    *,
    plan: Takes,
    engine: str = REFERENCE,
    kept: Path | None = None,
    people: int = 0,
    decoded: Path | None = None,
    threads: int = 0,
) -> dict[str, Any]:
    """Evaluate, calibrate, copy the weights to `out` and write the card beside them.

    Raises:
        UsageError: the data folder or the recipe in the weights is not as expected.
        ModelError: the weights do not fit their config.
    """
    opened = open_weights(weights, data, people=people, decoded=decoded)
    model = load_model(opened.card({"auc": {}, "data": ""}))
    validation = validate(model, opened.people, opened.forges)
    _tell(f"crops: {validation}")
    runner = engine_of(opened, validation, engine, threads)
    try:
        clips = make_clips(
            opened.people, sorted(opened.forges), runner, _tell, plan=plan, kept=kept,
            key=opened.key,
        )  # fmt: skip
    finally:
        runner.close()
    reference = engine_of(opened, validation, REFERENCE, threads)
    selftest = selftest_values(reference)
    reference.close()
    found = calibrated(clips, population_of(clips))
    _tell(f"clips: {found.rates}; {len(found.calibration.every_band)} bands")
    card = card_of(opened, validation=validation, found=found, clips=clips, selftest=selftest)
    write_card(opened, card, out)
    return card


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def main(
    weights: Annotated[Path, typer.Argument(help="NAME.safetensors as train.train wrote it")],
    data: Annotated[Path, typer.Option(help="Folder of faces with provenance.csv")],
    out: Annotated[Path, typer.Option(help="Folder for the weights and their card")],
    takes: Annotated[int, typer.Option(help="Untouched and forged clips of every picture")] = 1,
    edits: Annotated[int, typer.Option(help="Harmlessly edited clips of every picture")] = 1,
    frames: Annotated[int, typer.Option(help="Frames of a clip, at 12 a second")] = FRAMES,
    codecs: Annotated[str, typer.Option(help="Codecs, separated by commas")] = "h264",
    leaning: Annotated[
        float, typer.Option(min=0, max=1, help="Share of takes in which the head leans")
    ] = 0.4,
    engine: Annotated[str, typer.Option(help="Engine to judge with")] = REFERENCE,
    kept: Annotated[
        Path | None, typer.Option(help="File that clips are kept in; a stopped run goes on there")
    ] = None,
    decoded: Annotated[
        Path | None, typer.Option(help="Pack of redrawn faces, from train.forge.build_pack")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0: all cores")] = 0,
) -> None:
    """Evaluate and calibrate weights on held-out people, and write their card."""
    cv2.setNumThreads(0)
    if threads:
        torch.set_num_threads(threads)
    try:
        plan = Takes(takes, edits, frames, tuple(codecs.split(",")), leaning=leaning)
        calibrate(
            weights,
            data,
            out,
            plan=plan,
            engine=engine,
            kept=kept,
            decoded=decoded,
            threads=threads,
        )
    except (DeepscanError, ValueError) as error:
        typer.echo(f"calibrate: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"wrote {out / weights.name} and its card")


if __name__ == "__main__":
    typer.run(main)
