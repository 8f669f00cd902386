"""The head of every results file: experiment, data, machine and command."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from train.experiments.plan import Data, Sets
from train.forge.faces import data_hash


def report_header(
    command_name: str,
    plan: Path,
    data: Data,
    folder: Path,
    sets: Sets,
    *,
    seeds: int,
    out: Path,
    device: str,
    planned: int | None = None,
    minutes: float | None = None,
) -> str:
    """Markdown: date, machine, command, data by their hash, numbers, and the plan itself.

    `seeds` is how many were run, `planned` how many were asked for, `minutes` the time they had.
    """
    if data.dataset:
        what = ""
        source = f"The data set {data.dataset}, as ready face crops."
    else:
        what = (
            " **Small, synthetic, ours**: no real deepfake is among the crops, the networks are "
            "trained for minutes, and nothing here reproduces a published figure."
        )
        source = (
            "Real portraits of a folder whose `provenance.csv` has SHA-256 "
            f"`{data_hash(folder)}`; the fakes are made by `train/forge/` "
            f"({', '.join(data.forges)}). No person is in two of the three sets."
        )
    threads = torch.get_num_threads()
    command = (
        f"python -m train.experiments.{command_name} train/plans/{plan.name} "
        f"--data {data.dataset.upper() or 'FACES'} "
        f"--out train/results/{out.name} --threads {threads}"
        + ("" if minutes is None else f" --minutes {minutes:g}")
    )
    fewer = "" if planned in (None, seeds) else f" of the plan's {planned}: there was no more time"
    calibrated, measured = (len(set(part.groups)) for part in (sets.calibration, sets.measured))
    return f"""{datetime.now(UTC):%d %B %Y}, {machine(device)}.{what}

    {command}

- {source}
- {len(sets.training):,} crops of {sets.training.size} px to train on, {len(sets.calibration):,} \
of {calibrated} people to fit rules and thresholds on, {len(sets.measured):,} of {measured} people \
to measure on; {sets.measured.labels.mean():.0%} of these are manipulated.
- Figures are means over {seeds} seed{"s" if seeds > 1 else ""}{fewer}, with 95 % intervals \
bootstrapped over people. The intervals do not cover what other seeds would change.
- All weights start at random unless the plan says `pretrained`.

The plan:

```toml
{plan.read_text("utf-8").strip()}
```"""


def machine(device: str) -> str:
    """The kind of machine, in words."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    word = "thread" if threads == 1 else "threads"
    return f"{threads} {word} on {os.cpu_count()} CPU cores ({platform.machine()})"
