"""Leave one forge out: `python -m train.calibration.leave_out RECIPE --data FACES --out FILE.csv`.

What a network scores on forges that it was trained on says little about those it was not. So for
every family of the recipe's forges one short training leaves that family out and is tested on it
alone, on people of the `val` split; one more training with all of them is tested on each family,
for comparison. All trainings are equal but for the family: steps, seed, order of people, start.

Every row is written at once; the same command resumes where it stopped, also within
a training. A start from weights (--start) is allowed only for families that these were not trained
with: their own recipe says which. Weights that were themselves started from others name those by
their SHA-256; give them with --before, so that nothing they knew is forgotten.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from safetensors import SafetensorError, safe_open

from deepscan.errors import ModelError, UsageError
from deepscan.models.deploy import Deployed
from train.command import (
    Device,
    Faces,
    Pack,
    Progress,
    Threads,
    Workers,
    exit_on_error,
    show_progress,
    use_threads,
)
from train.evaluation.evaluate import read_network
from train.evaluation.metrics import Estimate
from train.evaluation.validation import validate
from train.forge.faces import Person, data_hash, read_faces
from train.media import evenly
from train.recipe import Recipe, Stage, parse_recipe, read_recipe
from train.train import train

ALL = "none"  # left out in the run that is trained with every family
COLUMNS = (
    "tested", "left_out", "steps", "pairs", "size", "seed", "start", "people",
    "auc", "auc_low", "auc_high", "iou", "iou_low", "iou_high", "false_pixels", "minutes",
    "settings",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShortTraining:
    """Settings that all trainings share; `size` 0 is the recipe's last, `rate` 0 the recipe's."""

    steps: int
    pairs: int
    size: int = 0
    rate: float = 0.0
    rounds: int = 1  # pairs of each person that a test draws


@dataclass(frozen=True, slots=True)
class StartWeights:
    """Weights to start from, and the forges that they or those before them were trained with."""

    path: Path
    sha256: str
    known: frozenset[str]


def families_of(recipe: Recipe) -> list[str]:
    """The forges that a recipe draws.

    Raises:
        UsageError: there are fewer than two: nothing can be left out.
    """
    families = sorted(name for name, share in recipe.forges.items() if share > 0)
    if len(families) < 2:
        raise UsageError(
            f"the recipe has {len(families)} forges: to leave one out it needs at least two"
        )
    return families


def read_start(path: Path, before: Sequence[Path] = ()) -> StartWeights:
    """Read how weights were trained; `before` are those that they came from, in any order.

    Raises:
        UsageError: what they were trained with cannot be known in full.
        ModelError: a file cannot be read.
    """
    ancestors = {_sha256(each): each for each in before}
    sha256 = _sha256(path)
    known: set[str] = set()
    current: Path | None = path
    seen: set[Path] = set()
    while current is not None:
        seen.add(current)
        try:
            with safe_open(current, "pt") as file:
                metadata = dict(file.metadata() or {})
        except (OSError, SafetensorError) as error:
            raise ModelError(f"start {current} cannot be read: {error}") from error
        if "recipe" not in metadata:
            raise UsageError(
                f"start {current} does not say what it was trained with, so no forge is surely "
                "unknown to it: give weights that train.train wrote"
            )
        forges = parse_recipe(metadata["recipe"]).forges
        if not forges:
            raise UsageError(f"start {current} was trained on a data set of unknown fakes")
        known |= {name for name, share in forges.items() if share > 0}
        earlier = metadata.get("start_sha256")
        current = None if earlier is None else ancestors.get(earlier)
        if earlier is not None and (current is None or current in seen):
            raise UsageError(
                f"start {path} comes from weights with SHA-256 {earlier[:12]}..., of which nothing "
                "is known: give them with --before"
            )
    return StartWeights(path, sha256, frozenset(known))


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"start {path} cannot be read: {error}") from error


def check_start(start: StartWeights | None, families: Sequence[str]) -> None:
    """A family that the start has seen cannot be left out any more.

    Raises:
        UsageError: the start knows one of them; the message names them.
    """
    if start is None:
        return
    known = start.known
    seen = [name for name in families if name in known]
    if seen:
        free = [name for name in families if name not in known]
        raise UsageError(
            f"start {start.path} was trained with {', '.join(seen)}: what it scores there is no "
            f"test of the unknown. Leave out only {', '.join(free) or 'nothing of this recipe'}, "
            "or start from another file"
        )


def without(recipe: Recipe, family: str, short: ShortTraining) -> Recipe:
    """The recipe of one run: without a family (`ALL`: with every one), short, in one stage."""
    stage = Stage(short.size or recipe.schedule.stages[-1].size, short.steps)
    schedule = replace(
        recipe.schedule,
        stages=(stage,),
        pairs=short.pairs,
        learning_rate=short.rate or recipe.schedule.learning_rate,
        warmup=min(recipe.schedule.warmup, short.steps // 10),
        # An average over more steps than there are would still hold the random start.
        ema=min(recipe.schedule.ema, max(0.0, 1 - 20 / short.steps)),
        validate_every=0,
    )
    forges = {name: share for name, share in recipe.forges.items() if name != family and share > 0}
    return replace(recipe, schedule=schedule, forges=forges)


def leave_out(
    recipe: Recipe,
    data: Path,
    table: Path,
    runs: Path,
    *,
    short: ShortTraining,
    families: Sequence[str] = (),
    start: StartWeights | None = None,
    pack: Path | None = None,
    with_all: bool = True,
    device: str = "cpu",
    workers: int = 0,
    people: int = 0,
    progress: Progress = lambda line: None,
) -> list[dict[str, str]]:
    """Train and test all that is not in the table yet; returns its rows of these settings.

    Args:
        recipe: gives forges, network and losses.
        data: folder of faces.
        table: CSV to append to.
        runs: folder for the trainings, one sub-folder each; a stopped one is resumed.
        short: how long and how large.
        families: which to leave out; none: all of the recipe.
        start: weights to start every run from.
        pack: pack of redrawn faces (`train.forge.build_pack`), which some forges need.
        with_all: also train with every family, for the scores in family.
        device: "cpu", "cuda" or "cuda:N".
        workers: processes that make samples.
        people: at most so many pictures are tested; 0: all.
        progress: gets a line for each row.

    Raises:
        UsageError: a family is unknown, or the start knows one that is left out.
        ModelError: the start does not fit the recipe's network.
    """
    every = families_of(recipe)
    unknown = [name for name in families if name not in every]
    if unknown:
        raise UsageError(f"no family {unknown[0]!r} in the recipe; there are {', '.join(every)}")
    chosen = sorted(families) if families else every
    check_start(start, chosen)
    held_out = evenly(read_faces(data, "val", pack), people)
    settings = _settings(recipe, short, start, data, people, pack)
    rows = [row for row in read_table(table) if row["settings"] == settings]
    for family in [*([ALL] if with_all else []), *chosen]:
        tested = chosen if family == ALL else [family]
        open_ = [
            name
            for name in tested
            if not any(row["tested"] == name and row["left_out"] == family for row in rows)
        ]
        if not open_:
            continue
        begun = time.monotonic()
        asked = without(recipe, family, short)
        run = runs / f"{settings}-{family}"
        model = _trained(asked, data, run, start, pack, device, workers)
        minutes = (time.monotonic() - begun) / 60
        for name in open_:
            row = {
                "tested": name,
                "left_out": family,
                "start": "" if start is None else start.sha256[:12],
                "people": str(len({person.person for person in held_out})),
                **_schedule_of(asked),
                **tested_on(model, held_out, name, short.rounds),
                "minutes": f"{minutes:.1f}",
                "settings": settings,
            }
            _append(table, row)
            rows.append(row)
            progress(
                f"{name}, left out {family}: AUC {row['auc']} [{row['auc_low']}, "
                f"{row['auc_high']}], IoU {row['iou']}; {minutes:.1f} min"
            )
    return rows


def _schedule_of(recipe: Recipe) -> dict[str, str]:
    """The columns that say how long and how large a training was."""
    (stage,) = recipe.schedule.stages
    return {
        "steps": str(stage.steps),
        "pairs": str(recipe.schedule.pairs),
        "size": str(stage.size),
        "seed": str(recipe.seed),
    }


def tested_on(
    model: Deployed, people: Sequence[Person], family: str, rounds: int = 1
) -> dict[str, str]:
    """AUC and mask IoU on one family, with intervals over people."""
    found = validate(model, list(people) * rounds, {family: 1.0})
    return {
        "auc": f"{found.auc.value:.4f}",
        "auc_low": f"{found.auc.low:.4f}",
        "auc_high": f"{found.auc.high:.4f}",
        "iou": f"{found.iou.value:.4f}",
        "iou_low": f"{found.iou.low:.4f}",
        "iou_high": f"{found.iou.high:.4f}",
        "false_pixels": f"{found.false_pixels:.4f}",
    }


def read_table(table: Path) -> list[dict[str, str]]:
    """All rows of a table; none where there is no file.

    Raises:
        UsageError: the file is another table.
    """
    if not table.is_file():
        return []
    with table.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UsageError(f"{table} is no table of left-out families: give another --out")
        return list(reader)


def summary(rows: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """Mean and lowest AUC over families left out, beside those in training; None without rows.

    The interval of the mean takes the families as they are and their tests as independent: the
    same people are in all of them, so it is too narrow rather than too wide.
    """
    out = [row for row in rows if row["left_out"] == row["tested"]]
    inside = [row for row in rows if row["left_out"] == ALL]
    if not out:
        return None
    worst = min(out, key=lambda row: float(row["auc"]))
    return {
        "families": len(out),
        "mean": _mean(out)._asdict(),
        "worst": {"family": worst["tested"], **_estimate(worst)._asdict()},
        "in_family_mean": _mean(inside)._asdict() if inside else None,
        "rows": [dict(row) for row in rows],
    }


def _estimate(row: Mapping[str, str]) -> Estimate:
    return Estimate(*(float(row[key]) for key in ("auc", "auc_low", "auc_high")))


def _mean(rows: Sequence[Mapping[str, str]]) -> Estimate:
    found = [_estimate(row) for row in rows]
    value = float(np.mean([each.value for each in found]))
    below = float(np.sqrt(np.sum([(e.value - e.low) ** 2 for e in found]))) / len(found)
    above = float(np.sqrt(np.sum([(e.high - e.value) ** 2 for e in found]))) / len(found)
    return Estimate(value, max(0.0, value - below), min(1.0, value + above))


def _settings(
    recipe: Recipe,
    short: ShortTraining,
    start: StartWeights | None,
    data: Path,
    people: int,
    pack: Path | None,
) -> str:
    """Names everything that decides a row but the family."""
    given = [
        without(recipe, ALL, short).to_json(),
        short.rounds,
        None if start is None else start.sha256,
        data_hash(data),
        people,
        None if pack is None else hashlib.sha256(pack.read_bytes()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]


def _append(table: Path, row: Mapping[str, str]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    fresh = not table.is_file()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def _trained(
    recipe: Recipe,
    data: Path,
    run: Path,
    start: StartWeights | None,
    pack: Path | None,
    device: str,
    workers: int,
) -> Deployed:
    """Train, resume, or load a finished training; returns the averaged weights."""
    path = train(
        recipe, data, run, workers=workers, device=device, pack=pack,
        start=None if start is None else start.path,
    )  # fmt: skip
    if path is None:
        raise UsageError(f"the training in {run} was stopped: run the same command again to resume")
    return read_network(path)[0]


def main(
    recipe: Annotated[Path, typer.Argument(help="Recipe with [forges]")],
    data: Faces,
    out: Annotated[Path, typer.Option(help="CSV to append rows to")],
    runs: Annotated[Path, typer.Option(help="Folder for the trainings")] = Path("runs/leave-out"),
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training")] = 600,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs per step")] = 16,
    size: Annotated[int, typer.Option(help="Side of the crops; 0: the recipe's last")] = 0,
    rate: Annotated[float, typer.Option(help="Learning rate; 0: the recipe's")] = 0.0,
    rounds: Annotated[int, typer.Option(min=1, help="Tested pairs of each picture")] = 1,
    family: Annotated[
        list[str] | None, typer.Option(help="Leave out only this one (repeatable)")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Weights to start from; not trained with those left out")
    ] = None,
    before: Annotated[
        list[Path] | None, typer.Option(help="Weights that the start itself came from")
    ] = None,
    pack: Pack = None,
    with_all: Annotated[bool, typer.Option(help="Also train with all of them")] = True,
    people: Annotated[int, typer.Option(help="Largest number of pictures to test; 0: all")] = 0,
    workers: Workers = 0,
    threads: Threads = 0,
    device: Device = "cpu",
) -> None:
    """Train without each family of forges in turn, and test on that family alone."""
    use_threads(threads)
    with exit_on_error("leave_out"):
        rows = leave_out(
            read_recipe(recipe),
            data,
            out,
            runs,
            short=ShortTraining(steps, pairs, size, rate, rounds),
            families=family or (),
            start=None if start is None else read_start(start, before or ()),
            pack=pack,
            with_all=with_all,
            device=device,
            workers=workers,
            people=people,
            progress=show_progress,
        )
    found = summary(rows)
    if found is not None:
        mean, worst = found["mean"], found["worst"]
        typer.echo(
            f"mean AUC over {found['families']} families left out: {mean['value']:.3f}; "
            f"lowest {worst['value']:.3f} ({worst['family']}); table: {out}"
        )


if __name__ == "__main__":
    typer.run(main)
