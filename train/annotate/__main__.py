"""The command: `python -m train.annotate REAL FAKE --out DIR`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NoReturn

# Two OpenMP teams that spin on shared cores made the face detector up to 9 times slower. Must be
# set before torch is imported, also in the workers, which inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from deepscan.errors import DeepscanError, UsageError
from deepscan.faces import DETECTORS
from deepscan.faces.detector import FaceDetector
from train.annotate.pairs import Work, find_work, manipulations, read_pairs
from train.annotate.sheet import write_sheet
from train.annotate.work import Outcome, Settings, annotate_work, claim, load_detector, write_bytes

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, rich_markup_mode=None)
_DEFAULT = Settings()


@app.command()
def main(
    real: Annotated[Path, typer.Argument(help="Real videos, e.g. original_sequences/youtube.")],
    fake: Annotated[Path, typer.Argument(help="Fake videos, e.g. manipulated_sequences.")],
    out: Annotated[Path, typer.Option(help="Folder for crops, masks and the report.")],
    manipulation: Annotated[
        list[str] | None, typer.Option(help="Folder below FAKE; may be repeated. Default: all.")
    ] = None,
    compression: Annotated[
        list[str] | None,
        typer.Option(help="c0, c23, c40; the first makes the masks, the others are cropped too."),
    ] = None,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(help="JSON list of fakes or of FF++ pairs; named after its split."),
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            help="In place of --pairs: this share of the real videos goes to the split val."
        ),
    ] = 0.0,
    scale: Annotated[float, typer.Option(help="Crop side over face side.")] = _DEFAULT.scale,
    frames: Annotated[int, typer.Option(help="Frames per video.")] = _DEFAULT.frames,
    first: Annotated[int, typer.Option(help="Use only the first N frames.")] = _DEFAULT.first,
    detector: Annotated[str, typer.Option(help="Face detector.")] = _DEFAULT.detector,
    min_face: Annotated[int, typer.Option(help="Smallest face, in pixels.")] = _DEFAULT.min_face,
    difference: Annotated[bool, typer.Option(help="Write the differences too.")] = False,
    workers: Annotated[int, typer.Option(help="Number of processes.")] = 1,
) -> None:
    """Make pixel masks from pairs of real and fake videos by the procedure of P-FF++.

    Finished pairs of an earlier run are kept. Exit code 0: every pair has masks; 1: some have none
    (report.json says why); 2: nothing could be started.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    levels = tuple(compression or ["c0"])
    if scale < 1 or frames < 1 or first < 1 or workers < 1 or min_face < 12:
        _stop("give scale >= 1, frames, first and workers >= 1, min-face >= 12")
    if not 0 <= hold_out < 1 or (hold_out and pairs):
        _stop("give a --hold-out from 0 to below 1, or --pairs")
    if detector not in DETECTORS:
        _stop(f"no face detector {detector}; there are {', '.join(DETECTORS)}")
    try:
        for folder in (real, fake):
            if not folder.is_dir():
                raise UsageError(f"{folder}: no such folder")
        folders = manipulations(fake, manipulation or [], levels[0])
        lists = {path.stem: read_pairs(path) for path in pairs or []}
        listed_once = dict.fromkeys(name for listed in lists.values() for name in listed)
        names = list(listed_once) if pairs else None
        todo = find_work(real, folders, list(levels), names)
    except UsageError as error:
        _stop(str(error))
    if not todo:
        _stop(f"{fake}: nothing to annotate")

    settings = Settings(
        compressions=levels,
        scale=scale,
        frames=frames,
        first=first,
        detector=detector,
        min_face=min_face,
        difference=difference,
    )
    try:
        claim(out, settings)
        outcomes = _run(todo, out, settings, workers)
    except DeepscanError as error:  # no pair is to blame
        _stop(str(error))
    _report(out, settings, outcomes)
    try:
        lists = split_work(todo, outcomes, hold_out) if hold_out else lists
    except UsageError as error:
        _stop(str(error))
    for split, listed in lists.items():
        # The loader of P-FF++ reads `valid.txt` where FF++ has `val.json`.
        stem = "valid" if split == "val" else split
        write_bytes(out / f"{stem}.txt", "".join(f"{name}\n" for name in listed).encode())
    raise typer.Exit(0 if all(outcome.status == "annotated" for outcome in outcomes) else 1)


def _run(todo: list[Work], out: Path, settings: Settings, workers: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for number, done in enumerate(_results(todo, out, settings, workers), 1):
        outcomes += done
        log.info("%d of %d real videos, %d pairs", number, len(todo), len(outcomes))
    return sorted(outcomes, key=lambda outcome: (outcome.manipulation, outcome.name))


def split_work(todo: list[Work], outcomes: list[Outcome], hold_out: float) -> dict[str, list[str]]:
    """Fakes with masks by split: a share of the real videos, each with all its fakes, is "val".

    Which ones follows from their names, so most stay where they are when videos are added.

    Raises:
        UsageError: fewer than two real videos have such fakes.
    """
    annotated = {(one.manipulation, one.name) for one in outcomes if one.status == "annotated"}
    fakes = {
        work.name: {each.name for each in work.fakes if (each.manipulation, each.name) in annotated}
        for work in todo
    }
    reals = sorted(
        (name for name in fakes if fakes[name]),
        key=lambda name: hashlib.sha256(name.encode()).digest(),
    )
    if len(reals) < 2:
        raise UsageError(f"{len(reals)} real videos have fakes with masks: --hold-out needs two")
    held = min(len(reals) - 1, max(1, round(hold_out * len(reals))))
    parts = {"val": reals[:held], "train": reals[held:]}
    return {
        part: sorted({fake for name in names for fake in fakes[name]})
        for part, names in parts.items()
    }


def _results(
    todo: list[Work], out: Path, settings: Settings, workers: int
) -> Iterator[list[Outcome]]:
    if workers == 1:
        yield from (_one(work, out, settings) for work in todo)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        tasks = [pool.submit(_one, work, out, settings, alone=False) for work in todo]
        for future in as_completed(tasks):
            yield future.result()


def _one(work: Work, out: Path, settings: Settings, alone: bool = True) -> list[Outcome]:
    return annotate_work(work, out, settings, partial(_detector, settings, alone))


@cache
def _detector(settings: Settings, alone: bool) -> FaceDetector:
    """The face detector of this process, built once, on one thread unless it is alone."""
    detector = load_detector(settings)
    if not alone:
        import torch

        torch.set_num_threads(1)  # the workers are the parallelism
    return detector


def _report(out: Path, settings: Settings, outcomes: list[Outcome]) -> None:
    """Write report.json and the contact sheets, and say on stdout how it went."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.manipulation, Counter())[outcome.status] += 1
    for name in counts:
        write_sheet(out, name, outcomes, settings.compressions[0])
    report = {
        "settings": asdict(settings),
        "counts": {name: dict(statuses) for name, statuses in counts.items()},
        "masks": sum(outcome.masks for outcome in outcomes),
        "identical_frames": sum(outcome.identical for outcome in outcomes),
        "missing_frames": sum(outcome.missing for outcome in outcomes),
        "pairs": [asdict(outcome) for outcome in outcomes],
    }
    write_bytes(out / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    for name, statuses in counts.items():
        typer.echo(f"{name}: " + ", ".join(f"{n} {status}" for status, n in statuses.items()))
    typer.echo(f"{report['masks']} masks; {out / 'report.json'}")


def _stop(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
