"""Facts about an ONNX detector: read from its file, else asked for, one at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from deepscan.errors import ModelError, UsageError
from deepscan.models.card import MAX_SIZE, Colours, InputFormat, Layout, Meaning, OutputFormat
from deepscan.models.onnx_file import FLOATS, OnnxFacts, Port

IMAGENET = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
MEANINGS = get_args(Meaning)


@dataclass(frozen=True, slots=True)
class Answers:
    """The user's options for an imported detector; None: not given.

    `pixels` is "0..1" or "0..255"; `mean` and `std` are in order of the model's channels, on the 0
    to 1 scale. `score` and `mask` are a meaning, or OUTPUT=MEANING. `index` is the place of
    *manipulated* among two numbers; `polarity` ("high" or "low") is where a single number means it.
    """

    input_size: int | None = None
    pixels: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    colours: Colours | None = None
    layout: Layout | None = None
    crop_scale: float | None = None
    score: str | None = None
    index: int | None = None
    polarity: str | None = None
    mask: str | None = None
    mask_polarity: str | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """A detector as it will be wrapped; `names` are those of its outputs."""

    inputs: InputFormat
    outputs: OutputFormat
    names: dict[str, str]


def describe(path: Path, facts: OnnxFacts, answers: Answers) -> Described:
    """Describe a detector by its file and by the options given.

    Raises:
        UsageError: a fact is missing, or an option contradicts the file.
        ModelError: the file is of no detector of faces.
    """
    inputs = _inputs(path, facts, answers)
    if not facts.outputs:
        raise ModelError(f"{path}: it has no output")
    score, name = _output(path, facts, answers.score, "--score")
    two = score.startswith("two-")
    if two and answers.index is None:
        raise _asked(path, "which of its two scores is manipulated", "--index 0 or --index 1")
    if not two and answers.index is not None:
        raise UsageError(f"--index is for two numbers, and {score} is one: give --polarity instead")
    if two:
        manipulated = int(answers.index or 0)
    else:
        manipulated = 0 if answers.polarity == "low" else 1
    names, mask = {"score": name}, None
    if answers.mask is not None:
        mask, names["mask"] = _output(path, facts, answers.mask, "--mask")
        if names["mask"] == name:
            raise UsageError(f"{name} cannot be score and mask: say which with --mask OUTPUT=KIND")
        if answers.mask_polarity is None:
            what = "what a high value of its mask (or the second of two) means"
            raise _asked(path, what, "--mask-polarity high (manipulated) or low (not manipulated)")
    which = 0 if answers.mask_polarity == "low" else 1
    return Described(inputs, OutputFormat(score, manipulated, mask, which), names)


def _inputs(path: Path, facts: OnnxFacts, answers: Answers) -> InputFormat:
    if len(facts.inputs) != 1:
        names = ", ".join(port.name for port in facts.inputs) or "none"
        raise ModelError(f"{path}: a detector takes one input, the picture; this has: {names}")
    (port,) = facts.inputs
    if port.type not in FLOATS:
        raise ModelError(f"{path}: its input {port.name} does not take pixels as numbers")
    batch, layout, side = _picture(path, port, answers.layout)
    if side is None and answers.input_size is None:
        raise _asked(path, "the size of its crops", "--input-size 224")
    if side is not None and answers.input_size not in (None, side):
        raise UsageError(f"{path} takes crops of {side} px, not of {answers.input_size}")
    size = side or answers.input_size or 0
    if not 16 <= size <= MAX_SIZE:
        raise UsageError(f"{path}: crops of {size} px; they may have 16 to {MAX_SIZE}")
    if answers.colours is None:
        raise _asked(path, "the order of its colours", "--colours rgb or --colours bgr")
    mean, std = _normalisation(path, answers)
    if answers.crop_scale is None:
        what = "how much round a face it was trained on, as side of the crop over that of the box"
        raise _asked(path, what, "--crop-scale 1.3 (what most detectors are trained with)")
    return InputFormat(size, mean, std, answers.colours, layout, answers.crop_scale, batch)


def _picture(path: Path, port: Port, said: Layout | None) -> tuple[int | None, Layout, int | None]:
    """Batch, layout and side of the pictures that an input takes; None: any."""
    if port.shape is None:
        if said is None:
            raise _asked(path, "the order of its axes", "--layout nchw or --layout nhwc")
        return None, said, None
    if len(port.shape) != 4:
        raise ModelError(
            f"{path}: its input {port.name} has {len(port.shape)} axes; a picture has 4: batch, "
            "colours, height, width"
        )
    batch, first, second, last = port.shape
    fitting: dict[Layout, bool] = {"nchw": first in (3, None), "nhwc": last in (3, None)}
    possible = [layout for layout, fits in fitting.items() if fits]
    if not possible:
        raise ModelError(f"{path}: its input {port.name} is {port.shape}: no axis of 3 colours")
    if said is not None and said not in possible:
        raise UsageError(f"{path}: its input is {port.shape}, which is {possible[0]}, not {said}")
    sure = [layout for layout in possible if (first if layout == "nchw" else last) == 3]
    if said is None and len(sure) != 1:
        raise _asked(path, "the order of its axes", "--layout nchw or --layout nhwc")
    layout = said or sure[0]
    sides = (second, last) if layout == "nchw" else (first, second)
    if None not in sides and sides[0] != sides[1]:
        raise ModelError(
            f"{path}: its pictures are {sides[1]} x {sides[0]}; deepscan cuts squares: export it "
            "for those"
        )
    return batch, layout, next((side for side in sides if side is not None), None)


def _normalisation(
    path: Path, answers: Answers
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation on the 0 to 255 scale."""
    both = answers.mean, answers.std
    if answers.pixels is not None and both != (None, None):
        raise UsageError("give --pixels, or --mean and --std, not both")
    if answers.pixels is not None:
        scale = {"0..1": 255.0, "0..255": 1.0}.get(answers.pixels)
        if scale is None:
            raise UsageError(f"--pixels {answers.pixels}: must be 0..1 or 0..255")
        return (0.0, 0.0, 0.0), (scale, scale, scale)
    if answers.mean is None or answers.std is None:
        how = f"--pixels 0..1, --pixels 0..255, or {IMAGENET}"
        raise _asked(path, "how its pixels are scaled", how)
    if not all(value > 0 for value in answers.std):
        raise UsageError("--std: must be above 0")
    first, second, third = (255.0 * value for value in answers.mean)
    one, two, three = (255.0 * value for value in answers.std)
    return (first, second, third), (one, two, three)


def _output(path: Path, facts: OnnxFacts, said: str | None, option: str) -> tuple[Meaning, str]:
    """The meaning of an output, and its name."""
    there = ", ".join(f"{port.name} {_shape(port)}" for port in facts.outputs)
    kinds = ", ".join(MEANINGS)
    if said is None:
        how = f"{option} KIND or {option} OUTPUT=KIND, where KIND is one of {kinds}"
        raise _asked(path, f"which of its outputs is the score ({there}), and what it is", how)
    name, equals, kind = said.rpartition("=")
    if kind not in MEANINGS:
        raise UsageError(f"{option} {said}: must be one of {kinds}")
    names = [port.name for port in facts.outputs]
    if not equals and len(names) != 1:
        raise UsageError(
            f"{option} {said}: {path} has several outputs ({there}): give {option} OUTPUT={kind}"
        )
    if equals and name not in names:
        raise UsageError(f"{option} {said}: {path} has no output {name}; there is: {there}")
    return kind, name or names[0]  # type: ignore[return-value]


def _shape(port: Port) -> str:
    if port.shape is None:
        return ""
    return f"({', '.join('N' if side is None else str(side) for side in port.shape)})"


def _asked(path: Path, what: str, how: str) -> UsageError:
    return UsageError(f"{path} does not say {what}: give {how}")


def three(option: str, text: str | None) -> tuple[float, float, float] | None:
    """Three numbers, one for each colour, separated by commas.

    Raises:
        UsageError: they are not.
    """
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(re.fullmatch(r"-?\d*\.?\d+", part.strip()) for part in parts):
        raise UsageError(f"{option} {text}: give three numbers, separated by commas")
    first, second, third = (float(part) for part in parts)
    return first, second, third
