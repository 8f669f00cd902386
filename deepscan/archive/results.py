"""The state of a results folder, as its journal tells it: what every report is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepscan.archive.outcome import Outcome, Run


@dataclass(frozen=True, slots=True)
class Results:
    """Everything known in a results folder.

    `outcomes` holds one entry for each item, sorted by name; `superseded` older entries of the same
    items, which other settings, weights or contents have replaced, oldest first. `run` is the last
    start. `finished` is False while files of the last run are without an outcome: interrupted, or
    still at work.
    """

    folder: Path
    run: Run
    outcomes: tuple[Outcome, ...]
    superseded: tuple[Outcome, ...] = ()
    finished: bool = True
