"""Calibrate a model on own clips: scan them as an archive, then fit.

The scans keep a results folder for real clips and one for manipulated clips, so that the same
command resumes a stopped run. The fit reads the frame lists of the scans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from deepscan.archive.records import Outcome
from deepscan.archive.reports import inside
from deepscan.errors import ModelError, OutputError, UsageError
from deepscan.models.card import MAX_WEIGHTS, Card, read_bytes
from deepscan.models.library import save_model
from deepscan.types import Label
from deepscan.verdict.estimate import TooFewClips, clips_needed
from deepscan.verdict.evidence import from_frame_list
from deepscan.verdict.fit import Fitted, ScannedClip, fit_calibration

WRITE = ("record", "frames")  # what the scan of every clip leaves
GroupBy = Literal["folder", "file"]


@dataclass(frozen=True, slots=True)
class OwnClip:
    """One clip of the user: the input of the fit, the path, and the frame list."""

    clip: ScannedClip
    outcome: Outcome
    frames: Path


@dataclass(frozen=True, slots=True)
class Material:
    """The scan of one folder; `clips` have a judged face.

    `without_face` and `unreadable` hold names, and reasons of the latter; `twice` counts files
    whose content another one has.
    """

    folder: Path
    clips: tuple[OwnClip, ...]
    without_face: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    twice: int

    @property
    def groups(self) -> int:
        return len({each.clip.group for each in self.clips})


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration of a model, with all that its page shows."""

    model: Card
    real: Material
    manipulated: Material | None
    fitted: Fitted
    clips: tuple[OwnClip, ...]  # in the order of the fit


def check_folders(real: Path, manipulated: Path | None) -> None:
    """Refuse invalid folders before any work.

    Raises:
        UsageError: a folder is missing, is a file, or lies in the other.
    """
    for option, folder in (("--real", real), ("--manipulated", manipulated)):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{option} {folder}: there is no such folder")
    if manipulated is None:
        return
    one, other = real.resolve(), manipulated.resolve()
    if one == other:
        raise UsageError(f"--real and --manipulated name the same folder, {one}: give two")
    if one in other.parents or other in one.parents:
        raise UsageError(f"of {one} and {other} one lies in the other: give two folders apart")


def read_material(
    outcomes: Sequence[Outcome],
    results: Path,
    source: Path,
    *,
    manipulated: bool,
    group_by: GroupBy,
) -> Material:
    """Read the frame lists of a finished scan.

    Args:
        outcomes: of the files that `source` holds now.
        results: the folder of their results.

    Raises:
        OutputError: a frame list is damaged.
    """
    clips: list[OwnClip] = []
    without_face: list[str] = []
    unreadable: list[tuple[str, str]] = []
    seen: set[str] = set()
    twice = 0
    for outcome in sorted(outcomes, key=lambda each: each.name):
        if outcome.sha256 is not None and outcome.sha256 in seen:
            twice += 1
            continue
        seen.add(outcome.sha256 or "")
        if outcome.label is Label.ERROR:
            unreadable.append((outcome.name, outcome.reasons[0].text))
            continue
        path = next((each.path for each in outcome.outputs if each.kind == "frames"), None)
        if path is None or not inside(path):
            without_face.append(outcome.name)
            continue
        frames = results / path
        evidence = _evidence_of(frames)
        if not any(series.scored for series in evidence.tracks.values()):
            without_face.append(outcome.name)
            continue
        group = group_of(outcome.name, group_by)
        still = outcome.frames <= 1
        scanned = ScannedClip(outcome.name, group, manipulated, still, evidence)
        clips.append(OwnClip(scanned, outcome, frames))
    return Material(source, tuple(clips), tuple(without_face), tuple(unreadable), twice)


def group_of(name: str, group_by: GroupBy) -> str:
    """The recording or person that a file belongs to, by its name below the folder given.

    Files in one folder below it are of one; a file right in it is its own, with others of its stem.
    """
    path = PurePosixPath(name)
    if group_by == "folder" and len(path.parts) > 1:
        return str(path.parent) + "/"
    return str(path.with_suffix(""))


def calibrate(
    card: Card,
    name: str,
    real: Material,
    manipulated: Material | None,
    *,
    rate: float,
    review_rate: float,
) -> Calibrated:
    """Fit the calibration of a model.

    Raises:
        UsageError: there are too few clips, or their scores cannot be calibrated.
    """
    if not real.clips:
        raise UsageError(
            f"{_nothing(real)}; {clips_needed(rate)} recordings are needed for a false-alarm rate "
            f"of {rate:g}"
        )
    if manipulated is not None:
        _check_apart(real, manipulated)
        if not manipulated.clips:
            raise UsageError(_nothing(manipulated))
    clips = (*real.clips, *(manipulated.clips if manipulated is not None else ()))
    try:
        fitted = fit_calibration(
            [each.clip for each in clips],
            name=name,
            population=population_of(real, manipulated),
            rate=rate,
            review_rate=review_rate,
        )
    except TooFewClips as error:
        raise UsageError(_too_few(error, real)) from error
    return Calibrated(card, real, manipulated, fitted, clips)


def _nothing(material: Material) -> str:
    if material.unreadable and not material.without_face:
        name, why = material.unreadable[0]
        return f"no clip in {material.folder} can be judged ({name}: {why})"
    return f"no clip in {material.folder} has a face that can be judged"


def _too_few(error: TooFewClips, real: Material) -> str:
    text = f"{real.folder}: {error}"
    if error.groups < len(real.clips):
        text += (
            f". Its {len(real.clips)} clips count as {error.groups}, since files of one subfolder "
            "are one recording: --group-by file takes each file for one"
        )
    elif 1 / (error.groups + 1) < 0.2:
        text += f", or ask for less with --max-false-alarms 1/{error.groups + 1}"
    return text


def _check_apart(real: Material, manipulated: Material) -> None:
    known = {each.outcome.sha256: each.outcome.name for each in real.clips}
    for each in manipulated.clips:
        if each.outcome.sha256 in known:
            raise UsageError(
                f"{known[each.outcome.sha256]} among the real clips and {each.outcome.name} among "
                "the manipulated ones have the same content: take one of them away"
            )


def population_of(real: Material, manipulated: Material | None) -> str:
    """Describe the clips in words."""
    sizes = [each.clip.qualities[0] for each in real.clips]
    text = (
        f"{real.groups} real recordings ({len(real.clips)} files) of the folder "
        f"{real.folder.resolve().name}, faces of {min(sizes):.0f} to {max(sizes):.0f} pixels"
    )
    if manipulated is not None:
        text += (
            f", and {manipulated.groups} manipulated ones of {manipulated.folder.resolve().name}"
        )
    return text


def card_of(found: Calibrated, name: str) -> dict[str, Any]:
    """The card of the calibrated model.

    The name of the calibration ends in a hash of it, which distinguishes results by another one.
    What the old card says of calls at its own operating point holds no more and is left out.
    """
    values = asdict(found.fitted.calibration)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    values["name"] = f"{name}/{digest[:8]}"
    card = dict(found.model.values)
    if evaluation := card.get("evaluation"):
        evidence = [each for each in evaluation.get("evidence", ()) if "called" not in each["what"]]
        card["evaluation"] = {**evaluation, "evidence": evidence}
    return {
        **card,
        "calibration": values,
        "calibrated_from": {
            "model": found.model.name,
            "date": datetime.now(UTC).date().isoformat(),
            "real": found.real.groups,
            "manipulated": 0 if found.manipulated is None else found.manipulated.groups,
        },
    }


def save(found: Calibrated, name: str, card: dict[str, Any], *, force: bool = False) -> Card:
    """Write the model with the card of `card_of` into the user's folder.

    Raises:
        UsageError, OutputError: as `save_model`.
        ModelError: the weights are not those that the card pins.
    """
    path, sha256 = found.model.path, found.model.sha256
    try:
        weights = read_bytes(path, MAX_WEIGHTS)
    except (OSError, ValueError) as error:
        raise ModelError(f"the weights {path} cannot be read: {error}") from error
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise ModelError(f"{path} is not what its card says: import the model again")
    return save_model(name, card, weights, force=force)


def _evidence_of(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return from_frame_list(_lines(file))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"the frame list {path} cannot be used ({error!r}): remove its results folder and run "
            "the same command again"
        ) from error


def _lines(file: Sequence[bytes] | Any) -> Iterator[dict[str, Any]]:
    for raw in file:
        line = json.loads(raw)
        if "index" in line:
            yield line
