"""Finished trainings in a folder, so that an experiment that broke off goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from train.experiments.measure import Outcome
from train.experiments.plan import Data, Fit
from train.experiments.report_header import machine
from train.forge.faces import data_hash

_FORMAT = 1


def source_of(data: Data, folder: Path) -> str:
    """What names the pictures: the hash of a folder of faces.

    Of a data set there is none: its place stands in, and who changes the set removes what is kept.
    """
    return str(folder.resolve()) if data.dataset else data_hash(folder)


def settings_of(data: Data, fit: Fit, seed: int, source: str, device: str) -> dict[str, Any]:
    """All that decides a training's figures, speed included."""
    return {
        "format": _FORMAT,
        "data": asdict(data),
        "fit": asdict(fit),
        "seed": seed,
        "source": source,
        "machine": machine(device),
    }


def kept_or_run(
    folder: Path, settings: Mapping[str, Any], run: Callable[[], Outcome]
) -> tuple[Outcome, bool]:
    """The outcome of a training and whether it was there already; else it is run and kept."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{digest}.json"
    there = path.is_file()
    if not there:
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"settings": settings, "outcome": plain(run())}))
        os.replace(part, path)
    return _outcome(json.loads(path.read_text())["outcome"]), there


def plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON."""
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
