"""The card of a weights file: identity, origin and scores, ready for JSON."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from deepscan.engines.choose import build, parse_name
from deepscan.engines.engine import Engine
from deepscan.engines.hardware import detect_hardware
from deepscan.errors import UsageError
from deepscan.files import atomic_output
from deepscan.models.card import Card
from train.calibration.fit import Calibrated
from train.calibration.synthetic_validation import Clip, alarms_by_edit, slices
from train.evaluation.metrics import as_json
from train.evaluation.validation import Validation
from train.forge import check_pack
from train.forge.faces import Person, data_hash, read_faces
from train.media import evenly
from train.recipe import Recipe, parse_recipe


@dataclass(frozen=True, slots=True)
class Weights:
    """A weights file as training wrote it, with the people to measure it on."""

    path: Path
    sha256: str
    metadata: Mapping[str, str]
    forges: Mapping[str, float]
    people: list[Person]
    data: Path
    pack: Path | None = None

    @property
    def key(self) -> str:
        """The key of cached measurements: it names weights and people."""
        pack = "" if self.pack is None else hashlib.sha256(self.pack.read_bytes()).hexdigest()
        return f"{self.sha256} {data_hash(self.data)} {pack}"

    def card(self, evaluation: Mapping[str, Any]) -> Card:
        """A card that an engine can be built from."""
        values = {"config": json.loads(self.metadata["config"]), "evaluation": evaluation}
        return Card(self.path.stem, self.path, self.sha256, values)


def read_metadata(path: Path) -> tuple[dict[str, str], Recipe]:
    """Read the metadata of a weights file, and the recipe that made it.

    Raises:
        UsageError: it is no weights file of train.train.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
        return metadata, parse_recipe(metadata["recipe"])
    except (OSError, KeyError, SafetensorError) as error:
        raise UsageError(f"{path} is no weights file of train.train: {error}") from error


def open_weights(path: Path, data: Path, *, people: int = 0, pack: Path | None = None) -> Weights:
    """Read the metadata of a weights file, and the people of the `val` split.

    Args:
        path: NAME.safetensors as train.train wrote it.
        data: folder of faces.
        pack: pack of redrawn faces (`train.forge.build_pack`), which some forges need.
        people: at most so many pictures, evenly over the split; 0: all.

    Raises:
        UsageError: the weights were not trained on forges, or the folder is not as expected.
    """
    metadata, recipe = read_metadata(path)
    if not recipe.forges:
        raise UsageError(
            f"{path} was trained on a data set, not on forges: "
            "evaluate it with train.evaluation.evaluate"
        )
    forges = {name: share for name, share in recipe.forges.items() if share > 0}
    check_pack(forges, pack)
    everyone = evenly(read_faces(data, "val", pack), people)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Weights(path, sha256, metadata, forges, everyone, data, pack)


def evaluated_on(weights: Weights, validation: Validation) -> str:
    """Describe the material of the frame AUC in words."""
    return (
        f"{validation.samples} crops of {len(weights.people)} pictures of people never trained on, "
        f"forged by {', '.join(sorted(weights.forges))} or untouched; no real deepfake"
    )


def engine_of(weights: Weights, validation: Validation, name: str, threads: int = 0) -> Engine:
    """The engine to measure with.

    Raises:
        EngineError, ModelError: it does not run here, or the weights do not fit their config.
    """
    evaluation = {"auc": validation.auc._asdict(), "data": evaluated_on(weights, validation)}
    return build(
        parse_name(name),
        weights.card(evaluation),
        detect_hardware(),
        "asked for",
        threads=threads or None,
    )


def card_of(
    weights: Weights,
    *,
    validation: Validation,
    found: Calibrated,
    clips: Sequence[Clip],
    selftest: Mapping[str, Any],
    rounds: int = 500,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The card as JSON: identity of the weights, origin and scores."""
    tables = {
        "slices": as_json(slices(clips, found.verdicts, rounds=rounds)),
        "harmless": as_json(alarms_by_edit(clips, found.verdicts)),
    }
    evaluation = {
        "data": evaluated_on(weights, validation),
        "samples": validation.samples,
        "auc": validation.auc._asdict(),
        "mask_iou": validation.iou._asdict(),
        "per_forge": {name: e._asdict() for name, e in validation.per_forge.items()},
        "false_pixels": validation.false_pixels,
        "clips": asdict(found.rates),
        "care": found.care,
        "population": found.calibration.population,
        **tables,
        **(extra or {}),
    }
    evaluation["evidence"] = evidence_of(evaluation)
    attribution = weights.data / "ATTRIBUTION.md"
    return {
        "name": weights.path.stem,
        "sha256": weights.sha256,
        "config": json.loads(weights.metadata["config"]),
        "training": {key: value for key, value in weights.metadata.items() if key != "config"},
        "evaluation": evaluation,
        "calibration": asdict(found.calibration),
        "selftest": dict(selftest),
        "licence": "Apache-2.0",
        "attribution": attribution.read_text() if attribution.is_file() else "",
    }


def evidence_of(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures that every record carries: what, on what, value and 95 % interval."""
    found: list[dict[str, Any]] = []

    def add(what: str, on: str, value: Mapping[str, float] | Sequence[float] | None) -> None:
        if value is None:
            return
        # A card that was read again has its keys in another order.
        if isinstance(value, Mapping):
            value = [value[key] for key in ("value", "low", "high")]
        found.append({"what": what, "on": on, "value": value[0], "interval": list(value[1:3])})

    sets = (evaluation.get("real_deepfakes") or {}).get("sets") or {}
    for name in sorted(sets, key=lambda name: (name == "all", name)):
        row = sets[name]
        looks = evaluation["real_deepfakes"]["looks"]
        on = f"{row['fake']} real deepfakes and {row['real']} real files of {row['recordings']}"
        on += " recordings"
        if looks:
            on += f"; chosen with {looks} look{'s' * (looks != 1)} at them, therefore optimistic"
        add(f"clip AUC, {name}", on, row["clips"])
    crops, clips = str(evaluation["data"]), f"made clips: {evaluation['population']}"
    add("frame AUC", crops, evaluation["auc"])
    add("mask IoU", "the forged ones of these crops", evaluation["mask_iou"])
    whole = evaluation["slices"].get("all", {})
    add("video AUC", clips, whole.get("video_auc"))
    add("forged clips called manipulated", clips, evaluation["clips"]["found"])
    add("untouched clips called manipulated", clips, evaluation["clips"]["false_alarm"])
    add(
        "untouched clips called suspicious or manipulated",
        clips,
        evaluation["clips"]["false_review"],
    )
    left_out = evaluation.get("leave_out")
    if left_out:
        add(
            "mean frame AUC on forges left out of training",
            f"{left_out['families']} families of forges, each by a shorter training without it",
            left_out["mean"],
        )
    return found


def write_card(weights: Weights, card: Mapping[str, Any], out: Path) -> Path:
    """Copy the weights to `out` and write their card beside them; returns the card's path."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / weights.path.name
    if target.resolve() != weights.path.resolve():
        shutil.copyfile(weights.path, target)
    path = out / f"{weights.path.stem}.json"
    with atomic_output(path) as part:
        part.write_text(json.dumps(card, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path
