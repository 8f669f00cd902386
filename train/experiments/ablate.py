"""The worth of each part: `python -m train.experiments.ablate PLAN --data FACES --out FILE.md`.

A plan is a TOML file: [data] and [fit] as in a comparison, `seeds`, and [[rows]], each a name with
the values of `data` and `fit` that it changes. So a row can change the backbone's depth
(`fit.changes.encoder` or `.backbone`), the output stride (`fit.changes.output_stride`), the input
size (`data.size`), pretraining (`fit.pretrained`), losses (`fit.losses`), the source of the masks
(`data.masks`), augmentation (`data.augmentation`), the compression (`data.compression`), and the
parts of MSCCNet (`fit.changes`: mfa, mscc, graph, coarse, filters, dct_k, band_k, image_head). The
first row is what the others are compared with.

Finished trainings lie in a folder and are not run again while their settings and data stay.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from deepscan.errors import UsageError
from deepscan.files import atomic_output
from train.command import (
    Device,
    Progress,
    Threads,
    Workers,
    check_folder_of,
    exit_on_error,
    show_progress,
    use_threads,
)
from train.evaluation.markdown import by_sign, count, figure, markdown
from train.evaluation.metrics import Estimate
from train.experiments.cache import CacheFolder, DataFolder, PlanFile, TrainingCache
from train.experiments.measure import Measure, Outcome, difference, estimate
from train.experiments.plan import (
    Data,
    Fit,
    Sets,
    check_keys,
    data_of,
    fit_of,
    make_sets,
    read_plan,
)
from train.experiments.report_header import report_header

_MEASURES: dict[Measure, str] = {
    "pixel_accuracy": "pixel ACC",
    "miou": "mIoU",
    "accuracy": "image ACC",
    "auc": "image AUC",
}
_PIXEL: tuple[Measure, ...] = ("pixel_accuracy", "miou")
_COMPARED: tuple[Measure, ...] = ("miou", "auc")


@dataclass(frozen=True, slots=True)
class Row:
    """One variant."""

    name: str
    data: Data
    fit: Fit


@dataclass(frozen=True, slots=True)
class Ablation:
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]


def ablation_of(values: Mapping[str, Any]) -> Ablation:
    """A plan's TOML.

    Raises:
        UsageError: something is missing, unknown, twice there or cannot work; the message names it.
    """
    check_keys(values, ("seeds", "rows"), ("data", "fit"))
    rows = []
    for row in values["rows"]:
        extra = [key for key in row if key not in ("name", "data", "fit")]
        if "name" not in row or extra:
            raise UsageError(f"plan: a row has name, data and fit; got {', '.join(row) or 'none'}")
        data, fit = (merged(values.get(key, {}), row.get(key, {})) for key in ("data", "fit"))
        rows.append(Row(str(row["name"]), data_of(data), fit_of(fit)))
    names = [row.name for row in rows]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"plan: two rows are called {twice[0]!r}")
    return Ablation(tuple(values["seeds"]), tuple(rows))


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes; tables are merged level by level, losses and shares replaced."""
    out = dict(base)
    for key, value in changes.items():
        deeper = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        # A row that names its forges or the terms of a loss means these and no others.
        whole = key in ("forges", "image", "mask", "coarse")
        out[key] = merged(out[key], value) if deeper and not whole else value
    return out


def ablate(
    plan: Ablation,
    cache: TrainingCache,
    *,
    workers: int = 0,
    progress: Progress = lambda line: None,
) -> tuple[dict[str, list[Outcome]], dict[str, Sets]]:
    """Run rows that are not cached; returns an outcome per seed for every row, and the rows' crops.

    Raises:
        UsageError: the data folder does not hold what a row asks for.
    """
    made: dict[str, Sets] = {}
    sets: dict[str, Sets] = {}
    for row in plan.rows:
        key = json.dumps(asdict(row.data), sort_keys=True)
        if key not in made:
            made[key] = make_sets(row.data, cache.data, workers=workers)
        sets[row.name] = made[key]
    outcomes: dict[str, list[Outcome]] = {row.name: [] for row in plan.rows}
    # Seed after seed: if time runs out, the table is complete for fewer seeds.
    for seed, row in product(plan.seeds, plan.rows):
        outcome, there = cache.outcome(row.data, row.fit, sets[row.name], seed)
        progress(f"{row.name}, seed {seed}: {'was there' if there else 'done'}")
        outcomes[row.name].append(outcome)
    return outcomes, sets


@dataclass(frozen=True, slots=True)
class Result:
    """A row's figures, None where the crops have no pixel truth.

    `changes` are the differences to the first row, where both were measured on the same people.
    """

    name: str
    figures: Mapping[Measure, Estimate | None]
    changes: Mapping[Measure, Estimate]
    parameters: int
    macs: int
    speed: float


def results_of(
    plan: Ablation, outcomes: Mapping[str, Sequence[Outcome]], sets: Mapping[str, Sets]
) -> list[Result]:
    """The figures of every row, in the order of the plan."""
    first = plan.rows[0].name
    lines = []
    for row in plan.rows:
        some, samples = outcomes[row.name], sets[row.name].measured
        pixels = bool((samples.masks == 1).any())
        there = [measure for measure in _MEASURES if pixels or measure not in _PIXEL]
        found = {measure: estimate(some, samples, measure) for measure in there}
        changes = {}
        if row.name != first and samples.groups == sets[first].measured.groups:
            changes = {
                measure: difference(some, outcomes[first], samples, measure)
                for measure in _COMPARED
                if measure in there
            }
        figures = {measure: found.get(measure) for measure in _MEASURES}
        size = some[0].parameters, some[0].macs, _speed(some)
        lines.append(Result(row.name, figures, changes, *size))
    return lines


def as_markdown(lines: Sequence[Result]) -> str:
    """Markdown: a line for each row."""
    compared = [f"{_MEASURES[measure]} - first" for measure in _COMPARED]
    header = ["variant", *_MEASURES.values(), *compared, "parameters", "MACs", "frames/s"]
    rows = [
        [line.name]
        + [figure(line.figures[measure]) for measure in _MEASURES]
        + [figure(line.changes.get(measure), sign=True) for measure in _COMPARED]
        + [count(line.parameters), count(line.macs), f"{line.speed:.0f}"]
        for line in lines
    ]
    return markdown(header, rows)


def summary(lines: Sequence[Result]) -> str:
    """Name the rows that differ from the first by more than other people would change."""
    sentences = []
    for measure in _COMPARED:
        changes = {line.name: line.changes[measure] for line in lines if measure in line.changes}
        against = f"{_MEASURES[measure]} against {lines[0].name!r}"
        sentences.append(f"- {against}: {by_sign(changes) or 'nothing to compare'}.")
    return "\n".join(sentences)


def write_csv(path: Path, lines: Sequence[Result]) -> None:
    """The same table for programs, with each figure's interval in columns of its own."""
    columns = ["variant"]
    for measure in _MEASURES:
        columns += [measure, f"{measure}_low", f"{measure}_high"]
    columns += ["parameters", "macs", "frames_per_second"]
    with atomic_output(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for line in lines:
            cells: list[object] = [line.name]
            for measure in _MEASURES:
                found = line.figures[measure]
                cells += [""] * 3 if found is None else [f"{value:.4f}" for value in found]
            writer.writerow([*cells, line.parameters, line.macs, f"{line.speed:.1f}"])


def _speed(some: Sequence[Outcome]) -> float:
    return float(np.median([outcome.speed for outcome in some]))


def main(
    plan: PlanFile,
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="Markdown file to write; a CSV file goes beside it")],
    cache: CacheFolder = None,
    workers: Workers = 0,
    threads: Threads = 0,
    device: Device = "cpu",
) -> None:
    """Train every variant of a plan and table them; start again to resume after a stop."""
    use_threads(threads)
    with exit_on_error("ablate"):
        ablation = ablation_of(read_plan(plan))
        check_folder_of(out)
        trainings = TrainingCache(cache or Path("runs") / plan.stem, data, device)
        outcomes, sets = ablate(ablation, trainings, workers=workers, progress=show_progress)
        first = ablation.rows[0]
        header = report_header(
            "ablate", plan, first.data, data, sets[first.name],
            seeds=len(ablation.seeds), out=out, device=device,
        )  # fmt: skip
        lines = results_of(ablation, outcomes, sets)
        title = plan.stem.replace("-", " ").capitalize()
        parts = [f"# {title}", header, summary(lines), as_markdown(lines)]
        out.write_text("\n\n".join(parts) + "\n", "utf-8")
        write_csv(out.with_suffix(".csv"), lines)
    typer.echo(f"result: {out}")


if __name__ == "__main__":
    typer.run(main)
