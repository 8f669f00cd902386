"""Real material that no training may use, on which calibration is measured.

`held_out.json` names pictures, and recordings with the pictures that were taken out of them; all
pictures of the split "val" belong to it too. A data folder that lacks them is none the worse.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from deepscan.errors import ModelError, UsageError

LIST = Path(__file__).with_suffix(".json")
KEY = "held_out"
"""Of the metadata of weights: SHA-256 of the list that they were trained without."""


@dataclass(frozen=True, slots=True)
class RealFile:
    """A picture or clip that is not manipulated.

    `group` is whom or which recording it shows: files of one group are no independent witnesses.
    `seen` says that training may have seen it, or pictures out of it. `source` is where it is from.
    """

    path: Path
    name: str
    group: str
    source: str
    still: bool
    seen: bool


@cache
def _listed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(LIST.read_text("utf-8"))
    return found


def list_hash() -> str:
    """SHA-256 of the list."""
    return hashlib.sha256(LIST.read_bytes()).hexdigest()


def is_held_out(name: str) -> bool:
    """True if a picture, named as in provenance.csv, must not be trained on."""
    frames = tuple(clip["frames"] for clip in _listed()["clips"] if "frames" in clip)
    return name in _pictures() or name.startswith(frames)


@cache
def _pictures() -> frozenset[str]:
    return frozenset(_listed()["pictures"])


def was_unseen(weights: Path) -> bool:
    """True if weights are known to be trained without the list's pictures and recordings.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        if sha256 in _listed()["never_trained"]:
            return True
        if weights.suffix != ".safetensors":
            return False
        with safe_open(weights, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"weights {weights} cannot be read: {error}") from error
    return bool(metadata.get(KEY) == list_hash())


def real_files(folder: Path, *, unseen: bool) -> list[RealFile]:
    """The held-out pictures and clips that a data folder has.

    Args:
        folder: with provenance.csv, faces/ and clips/.
        unseen: of the weights in question, see `was_unseen`. Pictures of the split "val" and clips
            of which no picture was ever taken are unseen by all.

    Raises:
        UsageError: provenance.csv is missing.
    """
    table = folder / "provenance.csv"
    if not table.is_file():
        raise UsageError(f"{table} is missing: expected a folder of faces with provenance.csv")
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = []
    for row in rows:
        name, val = row["file"], row["split"] == "val"
        if val or name in _pictures():
            path, seen = folder / name, not (val or unseen)
            found.append(RealFile(path, name, row["person_id"], row["source"], True, seen))
    for clip in _listed()["clips"]:
        path = folder / clip["file"]
        if path.is_file():
            seen = "frames" in clip and not unseen
            name = clip["file"]
            found.append(RealFile(path, name, clip["group"], clip["group"].split()[0], False, seen))
    return found
