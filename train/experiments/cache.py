"""Finished trainings in a folder, so that a broken experiment resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from deepscan.files import atomic_output
from train.experiments.measure import Outcome, run
from train.experiments.plan import Data, Fit, Sets
from train.experiments.report_header import machine
from train.forge.faces import data_hash

_FORMAT = 1

PlanFile = Annotated[Path, typer.Argument(help="TOML such as those in train/plans/")]
DataFolder = Annotated[Path, typer.Option(help="Folder of faces, or of the plan's data set")]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", "--kept", help="Folder of finished trainings; default: runs/PLAN"),
]


@dataclass(frozen=True, slots=True)
class TrainingCache:
    """Trainings on the pictures of `data`, each run once and kept as a file in `folder`."""

    folder: Path
    data: Path
    device: str = "cpu"

    def outcome(self, data: Data, fit: Fit, sets: Sets, seed: int) -> tuple[Outcome, bool]:
        """The outcome of a training, and whether it was there already; else it is run."""
        settings = {
            "format": _FORMAT,
            "data": asdict(data),
            "fit": asdict(fit),
            "seed": seed,
            # A data set has no hash: its place stands in, and who changes it removes the cache.
            "source": str(self.data.resolve()) if data.dataset else data_hash(self.data),
            "machine": machine(self.device),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"{digest}.json"
        there = path.is_file()
        if not there:
            found = run(fit, sets, seed=seed, device=self.device)
            with atomic_output(path) as part:
                part.write_text(json.dumps({"settings": settings, "outcome": _plain(found)}))
        return _outcome(json.loads(path.read_text())["outcome"]), there


def _plain(outcome: Outcome) -> dict[str, Any]:
    values = {name: getattr(outcome, name) for name in Outcome.__slots__}
    for name in ("scores", "cells"):
        values[name] = {key: array.tolist() for key, array in values[name].items()}
    return values


def _outcome(values: Mapping[str, Any]) -> Outcome:
    arrays = {
        name: {key: np.array(array) for key, array in values[name].items()}
        for name in ("scores", "cells")
    }
    return Outcome(**{**values, **arrays})
