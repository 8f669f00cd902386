"""Cards: what is known of a model before its weights are read.

A model is a folder, or a zip of it: NAME.json, the card, with NAME.safetensors (a network of ours)
or NAME.onnx (any detector of faces, as `deepscan model import` writes it). The card pins the
SHA-256 of the weights. Nothing here reads weights or imports torch.

    name, sha256        of the weights file
    kind                "network" (where it is missing) or "onnx"
    config              of a network: `MSCCNetConfig`
    input, output       of an ONNX detector: `InputFormat`, `OutputFormat`
    evaluation          what it scored; missing where nobody measured it: then it is not certified
    certification       of `train.calibration.certify`: whether that was enough, and why not
    calibration         scores to verdicts; missing: every verdict is inconclusive
    source, licence     where it came from, and under which terms
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from deepscan.errors import ModelError
from deepscan.types import Measured, ModelInfo

FOLDER = Path(__file__).resolve().parent.parent / "weights"
"""Where the models that ship lie: NAME.safetensors and NAME.json, the card."""

Kind = Literal["network", "onnx"]
Colours = Literal["rgb", "bgr"]
Layout = Literal["nchw", "nhwc"]
Meaning = Literal["probability", "logit", "two-probabilities", "two-logits"]

SUFFIXES: dict[Kind, str] = {"network": ".safetensors", "onnx": ".onnx"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_CARD = 64 * 2**20  # bytes of a card, which holds crops and figures
MAX_WEIGHTS = 2**31  # bytes of a weights file: the most that an ONNX file can hold
MAX_SIZE = 1024  # pixels of a crop's side

Member: TypeAlias = "Path | zipfile.Path"  # a file on a disk or in a zip


@dataclass(frozen=True, slots=True)
class InputFormat:
    """How a model takes a crop: `size` pixels square, (pixel - mean) / std on the 0 to 255 scale.

    Mean and standard deviation stand in the order of the model's own channels. `crop_scale` is the
    side of the crop over the longer side of the face's box, None for that of the scan's options;
    `batch` the only number of crops at once that the graph takes, None for any.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colours: Colours = "rgb"
    layout: Layout = "nchw"
    crop_scale: float | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What the numbers mean that a model gives, as it was imported.

    `manipulated` is the place of *manipulated* among two numbers; of a single one it is 1 where a
    high one means manipulated, 0 where a low one does. `mask` and `mask_manipulated` are the same
    for the mask, of `mask_size` pixels square; None where the model has no mask.
    """

    score: Meaning
    manipulated: int = 1
    mask: Meaning | None = None
    mask_manipulated: int = 1
    mask_size: int = 0


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about a weights file: `values` is the card's JSON, `path` the weights."""

    name: str
    path: Member
    sha256: str
    values: Mapping[str, Any]

    @property
    def kind(self) -> Kind:
        """ "network" for one of ours, "onnx" for any other detector."""
        kind = self.values.get("kind", "network")
        if kind not in SUFFIXES:
            raise ValueError(f"no kind of model {kind!r}; there are {', '.join(SUFFIXES)}")
        found: Kind = kind
        return found

    @property
    def input(self) -> InputFormat:
        """How it takes a crop."""
        from deepscan.models.config import MSCCNetConfig

        if self.kind == "network":
            config = MSCCNetConfig(**self.values["config"])
            return InputFormat(config.input_size, _three(config.mean), _three(config.std))
        given = self.values["input"]
        scale = given.get("crop_scale")
        return InputFormat(
            _whole(given["size"], 16, MAX_SIZE),
            _three(given["mean"]),
            _three(given["std"]),
            _one_of(given["colours"], Colours),
            _one_of(given["layout"], Layout),
            None if scale is None else _between(scale, 1.0, 4.0),
            None if given.get("batch") is None else _whole(given["batch"], 1, 1024),
        )

    @property
    def output(self) -> OutputFormat:
        """What its numbers mean."""
        if self.kind == "network":
            return OutputFormat("two-logits", 1, "two-logits", 1)
        given = self.values["output"]
        mask = given.get("mask")
        return OutputFormat(
            _one_of(given["score"], Meaning),
            _whole(given["manipulated"], 0, 1),
            None if mask is None else _one_of(mask, Meaning),
            _whole(given.get("mask_manipulated", 1), 0, 1),
            0 if mask is None else _whole(given["mask_size"], 1, MAX_SIZE),
        )

    @property
    def has_mask(self) -> bool:
        """Whether it says where in the face it sees a manipulation."""
        return self.output.mask is not None

    @property
    def certified(self) -> bool:
        """Whether it was measured what it finds, and nobody found that to be too little."""
        return "evaluation" in self.values and not self.shortcomings

    @property
    def shortcomings(self) -> tuple[str, ...]:
        """Why its measurement did not certify it, a line each; empty where nobody says so."""
        return tuple(str(line) for line in self.values.get("certification", {}).get("failed", ()))

    @property
    def calibration(self) -> Mapping[str, Any] | None:
        """The card's calibration as it stands there; None: every verdict is inconclusive."""
        found = self.values.get("calibration")
        if found is not None and not isinstance(found, Mapping):
            raise TypeError("calibration is no object")
        return found

    @property
    def source(self) -> str:
        """Where it came from, in a line; "" where the card does not say."""
        return str(self.values.get("source", ""))

    @property
    def licence(self) -> str:
        """Under which terms the weights are; "" where the card does not say."""
        return str(self.values.get("licence", ""))

    @property
    def info(self) -> ModelInfo:
        """The model as records name it."""
        evaluation = self.values.get("evaluation")
        auc = None if evaluation is None else evaluation["auc"]
        return ModelInfo(
            name=self.name,
            sha256=self.sha256,
            input_size=self.input.size,
            auc=None if auc is None else float(auc["value"]),
            auc_interval=None if auc is None else (float(auc["low"]), float(auc["high"])),
            evaluated_on="" if evaluation is None else str(evaluation["data"]),
            evidence=tuple(
                Measured(
                    str(each["what"]),
                    str(each["on"]),
                    float(each["value"]),
                    (float(each["interval"][0]), float(each["interval"][1])),
                )
                for each in (evaluation or {}).get("evidence", ())
            ),
            has_mask=self.has_mask,
        )


def card_at(path: Member, name: str) -> Card:
    """Read the card that lies at a path; cheap, reads neither weights nor torch.

    Raises:
        FileNotFoundError: there is none.
        ModelError: it is damaged.
    """
    try:
        values = json.loads(read_bytes(path, MAX_CARD))
        kind: Kind = values.get("kind", "network")
        weights: Member = path.parent / f"{name}{SUFFIXES[kind]}"  # type: ignore[operator]
        card = Card(name, weights, str(values["sha256"]), values)
        _ = card.info, card.calibration, card.certified  # a card that cannot say this is of no use
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
        raise ModelError(
            f"the card {path} is damaged ({error!r}): import the model again, or install deepscan "
            "anew"
        ) from error
    return card


def read_bytes(path: Member, most: int) -> bytes:
    """All of a file on a disk or in a zip, if it holds no more than `most` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or the zip is damaged.
    """
    try:
        with path.open("rb") as file:
            data: bytes = file.read(most + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error
    if len(data) > most:
        raise ValueError(f"{path} holds more than {most // 2**20} MB")
    return data


def _one_of(value: Any, kinds: Any) -> Any:
    if value not in get_args(kinds):
        raise ValueError(f"{value!r} is none of {', '.join(get_args(kinds))}")
    return value


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{value!r} is no number from {low} to {high}")
    return value


def _between(value: Any, low: float, high: float) -> float:
    if not low <= float(value) <= high:
        raise ValueError(f"{value!r} does not lie between {low:g} and {high:g}")
    return float(value)


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
