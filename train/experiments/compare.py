"""Segmentation against classification.

`python -m train.experiments.compare PLAN --data FACES --out FILE.md`

"Zooming into Face Forensics" (arXiv 1912.05790) holds that manipulation is better learned as
segmentation than as classification. Here one body learns either task, or both, from the same crops
in the same order for the same number of steps with the same number of parameters, and is measured
on both: a classifier on pixels by its activation map, a segmentation on crops by the rules of
train/experiments/rules.py. The paper's own tables are not known to us, so none is reproduced here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from deepscan.errors import UsageError
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
from train.experiments.measure import IMAGE, Measure, Outcome, difference, estimate, statistic
from train.experiments.networks import Task
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
from train.experiments.rules import RULES

Cell = tuple[str, Task]  # architecture and task
Outcomes = Mapping[Cell, Sequence[Outcome]]  # one outcome a seed
Differences = Mapping[tuple[Task, Measure], Mapping[str, Estimate]]  # by architecture
_TITLES: dict[Measure, str] = {
    "auc": "image AUC",
    "accuracy": "image ACC",
    "pixel_accuracy": "pixel ACC",
    "miou": "mIoU",
    "iou_fake": "IoU manipulated",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every architecture on every task with every seed; `fit` holds their common settings."""

    architectures: tuple[str, ...]
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    data: Data
    fit: Fit

    @property
    def cells(self) -> list[Cell]:
        return list(product(self.architectures, self.tasks))


def comparison_of(values: Mapping[str, Any]) -> Comparison:
    """A plan's TOML.

    Raises:
        UsageError: something is missing, unknown or cannot work; the message names it.
    """
    check_keys(values, ("architectures", "tasks", "seeds"), ("data", "fit"))
    for key in ("architecture", "task"):
        if key in values.get("fit", {}):
            raise UsageError(f"plan: [fit] {key} stands in the list {key}s")
    shared = values.get("fit", {})
    for architecture, task in product(values["architectures"], values["tasks"]):
        fit_of({**shared, "architecture": architecture, "task": task})
    return Comparison(
        tuple(values["architectures"]),
        tuple(values["tasks"]),
        tuple(values["seeds"]),
        data_of(values.get("data", {})),
        fit_of(shared),
    )


def compare(
    plan: Comparison,
    sets: Sets,
    cache: TrainingCache,
    *,
    minutes: float | None = None,
    progress: Progress = lambda line: None,
) -> dict[Cell, list[Outcome]]:
    """Train and measure all that is not cached; seed after seed, so that cells have the same.

    With `minutes`, a further seed is begun only if it should be done by then.
    """
    outcomes: dict[Cell, list[Outcome]] = {cell: [] for cell in plan.cells}
    started = time.monotonic()
    for turn, seed in enumerate(plan.seeds):
        spent = time.monotonic() - started
        if minutes is not None and turn and spent * (turn + 1) / turn > minutes * 60:
            progress(f"seed {seed} and later would take longer than {minutes:g} minutes: left out")
            break
        for architecture, task in plan.cells:
            fit = replace(plan.fit, architecture=architecture, task=task)
            begun = time.monotonic()
            outcome, there = cache.outcome(plan.data, fit, sets, seed)
            outcomes[architecture, task].append(outcome)
            auc = estimate_value([outcome], sets, "auc")
            took = "was there" if there else f"{time.monotonic() - begun:.0f} s"
            progress(
                f"{architecture}, {task}, seed {seed}: AUC {auc:.3f} by {outcome.rule}; {took}"
            )
    return outcomes


def estimate_value(outcomes: Sequence[Outcome], sets: Sets, measure: Measure) -> float:
    """A measure without its interval."""
    return statistic(outcomes, sets.measured, measure)(np.arange(len(sets.measured)))


def report(plan: Comparison, sets: Sets, outcomes: Outcomes, header: str) -> str:
    """The result as Markdown."""
    pixels = bool((sets.measured.masks == 1).any())
    found = _differences(plan, sets, outcomes, pixels)
    answer = _answer(plan, sets, outcomes, found) + "\n\n" if found else ""
    return f"""# Segmentation against classification

{header}

## Answer

{answer}## Both tasks, measured on both

Image AUC and accuracy by the score that the calibration crops prefer ("decided by"); its threshold
and that of the map are fitted there too. Pixels are pooled over all measured crops, real ones too;
a classifier's map is its class activation map.

{_main_table(plan, sets, outcomes, pixels)}

## Differences to the classifier

On the same crops; an interval without 0 is a difference that these people and seeds show.

{_difference_table(plan, found)}

## Rules from a mask to a score

Image AUC of each rule; the free parameter of "top", "area" and "component" is fitted on the
calibration crops.

{_rule_table(plan, sets, outcomes)}

## Maps of the classifier

{_map_table(plan, sets, outcomes) if pixels else "There is no pixel truth to compare with."}

## By kind of manipulation, and by seed

Image AUC without interval.

{_kind_table(plan, sets, outcomes)}
"""


def _main_table(plan: Comparison, sets: Sets, outcomes: Outcomes, pixels: bool) -> str:
    measures: list[Measure] = ["auc", "accuracy"]
    measures += ["pixel_accuracy", "miou", "iou_fake"] if pixels else []
    header = ["architecture", "task", "decided by", *(_TITLES[measure] for measure in measures)]
    header += ["parameters", "MACs", "crops/s"]
    rows = []
    for cell in plan.cells:
        some = outcomes[cell]
        rules = sorted({outcome.rule for outcome in some})
        rows.append(
            [*cell, " / ".join(rules)]
            + [figure(estimate(some, sets.measured, measure)) for measure in measures]
            + [count(some[0].parameters), count(some[0].macs)]
            + [f"{np.median([outcome.speed for outcome in some]):.0f}"]
        )
    return markdown(header, rows)


def _differences(plan: Comparison, sets: Sets, outcomes: Outcomes, pixels: bool) -> Differences:
    """Every task less the classifier; nothing without a classifier."""
    if "classify" not in plan.tasks:
        return {}
    measures: list[Measure] = ["auc", "accuracy"]
    measures += ["miou"] if pixels else []
    return {
        (task, measure): {
            name: difference(
                outcomes[name, task], outcomes[name, "classify"], sets.measured, measure
            )
            for name in plan.architectures
        }
        for task in plan.tasks
        if task != "classify"
        for measure in measures
    }


def _difference_table(plan: Comparison, found: Differences) -> str:
    if not found:
        return "The plan has no classifier, or nothing beside it."
    tasks, measures = (list(dict.fromkeys(part)) for part in zip(*found, strict=True))
    rows = [
        [name, f"{task} - classify"]
        + [figure(found[task, measure][name], sign=True) for measure in measures]
        for name in plan.architectures
        for task in tasks
    ]
    titles = [_TITLES[measure] for measure in measures]
    return markdown(["architecture", "difference", *titles], rows)


def _rule_table(plan: Comparison, sets: Sets, outcomes: Outcomes) -> str:
    rules = [IMAGE, *RULES]
    rows = []
    for cell in plan.cells:
        some = outcomes[cell]
        figures = [
            figure(estimate(some, sets.measured, "auc", rule)) if rule in some[0].scores else ""
            for rule in rules
        ]
        rows.append([*cell, *figures])
    return markdown(["architecture", "task", *rules], rows)


def _map_table(plan: Comparison, sets: Sets, outcomes: Outcomes) -> str:
    rows = [
        [*cell, name]
        + [
            figure(estimate(outcomes[cell], sets.measured, measure, name))
            for measure in ("pixel_accuracy", "miou", "iou_fake")
        ]
        for cell in plan.cells
        for name in outcomes[cell][0].cells
        if name != "mask"
    ]
    if not rows:
        return "The plan has no classifier."
    return markdown(["architecture", "task", "map", "pixel ACC", "mIoU", "IoU manipulated"], rows)


def _kind_table(plan: Comparison, sets: Sets, outcomes: Outcomes) -> str:
    kinds = sorted(
        {k for k, label in zip(sets.measured.kinds, sets.measured.labels, strict=True) if label}
    )
    # An original carries the kind of its fake; in a data set the real ones are their own kind.
    paired = sets.measured.unit == 2
    where = {
        kind: np.flatnonzero(
            [
                own == kind or (not paired and label == 0)
                for own, label in zip(sets.measured.kinds, sets.measured.labels, strict=True)
            ]
        )
        for kind in kinds
    }
    seeds = len(next(iter(outcomes.values())))
    rows = []
    for cell in plan.cells:
        value = statistic(outcomes[cell], sets.measured, "auc")
        alone = [estimate_value([outcome], sets, "auc") for outcome in outcomes[cell]]
        rows.append(
            [*cell]
            + [f"{value(where[kind]):.3f}" for kind in kinds]
            + [f"{one:.3f}" for one in alone]
        )
    seed_names = [f"seed {seed}" for seed in plan.seeds[:seeds]]
    return markdown(["architecture", "task", *kinds, *seed_names], rows)


def _answer(plan: Comparison, sets: Sets, outcomes: Outcomes, found: Differences) -> str:
    """Does segmentation beat classification here? In sentences that follow from the intervals."""
    lines = []
    words: dict[Task, str] = {"segment": "Segmentation", "both": "Both tasks together"}
    for task, subject in words.items():
        if (task, "auc") in found:
            lines.append(
                f"- **On crops** (image AUC): {subject} against classification with the same "
                f"body: {_told(found[task, 'auc'])}"
            )
        if (task, "miou") in found:
            lines.append(
                f"- **On pixels** (mIoU): the mask of {subject.lower()} against the class "
                f"activation map of the classifier: {_told(found[task, 'miou'])}"
            )
    best = max(plan.cells, key=lambda cell: estimate_value(outcomes[cell], sets, "auc"))
    top = estimate(outcomes[best], sets.measured, "auc")
    lines.append(
        f"- The highest image AUC of all is {figure(top)}, by {best[0]} on task {best[1]}."
    )
    return "\n".join(lines)


def _told(differences: Mapping[str, Estimate]) -> str:
    mean = float(np.mean([value.value for value in differences.values()]))
    return by_sign(differences) + f". Mean difference {mean:+.3f}."


def main(
    plan: PlanFile,
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="Markdown file to write")],
    cache: CacheFolder = None,
    workers: Workers = 0,
    threads: Threads = 0,
    minutes: Annotated[float | None, typer.Option(help="Start no seed that ends later")] = None,
    device: Device = "cpu",
) -> None:
    """Train one body for segmentation, for classification and for both, and compare."""
    use_threads(threads)
    with exit_on_error("compare"):
        comparison = comparison_of(read_plan(plan))
        check_folder_of(out)
        sets = make_sets(comparison.data, data, workers=workers)
        show_progress(f"{len(sets.training)} crops to train on, {len(sets.measured)} to measure on")
        trainings = TrainingCache(cache or Path("runs") / plan.stem, data, device)
        outcomes = compare(comparison, sets, trainings, minutes=minutes, progress=show_progress)
        header = report_header(
            "compare", plan, comparison.data, data, sets,
            seeds=len(next(iter(outcomes.values()))), out=out, device=device,
            planned=len(comparison.seeds), minutes=minutes,
        )  # fmt: skip
        out.write_text(report(comparison, sets, outcomes, header), "utf-8")
    typer.echo(f"result: {out}")


if __name__ == "__main__":
    typer.run(main)
