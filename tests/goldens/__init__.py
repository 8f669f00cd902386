"""What the program shows to the outside, held still as data.

The JSON files in this folder say which options there are, which names are public, what is found in
six small files, what the journal of an archive says and what the default settings hash to.
`tests/test_goldens.py` compares them with what the program does today. `python -m tests.goldens`
writes them anew (all but `choices.json` and `old/`, which are written by hand). A golden changes
only in a commit that names the field that changes and the issue that wants it.

Left out of the goldens are texts for people, times, versions, hashes and paths; the field stays and
its value is `LEFT_OUT`. `old/` is a results folder as version 0.1.0 wrote it, with decoders and
engines that later versions do not have; it is never written anew.

Everything goes through `python -m deepscan` and `import deepscan`. The only imports of single
modules are those of `inner` below: whoever moves them changes them there.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFilter

import deepscan

FOLDER = Path(__file__).parent
OLD = FOLDER / "old"
LEFT_OUT = "..."
ENGINE = "torch-cpu-fp32"  # the reference: the same numbers on every CPU, but for the last bits

SIX = ("clean.mp4", "forged.mp4", "picture.png", "two-faces.mp4", "no-face.mp4", "cut-off.mkv")
THREE = ("forged.mp4", "no-face.mp4", "junk.mp4")  # of an archive

# Options that serve only what issue 12 deletes: they may be there or not. Likewise the decoder
# nvdec is no choice in choices.json. Whoever has deleted them empties this.
GOING = {("engine build", "calibration")}

_PATHS = re.compile(r"\bpathlib\.(_local\.)?")  # the module of Path hangs on the Python


def inner() -> Any:
    """The parts of the program that are no public surface. ADAPT HERE when a module moves."""
    from types import SimpleNamespace

    from deepscan.archive.settings_hash import settings_hash
    from deepscan.cli.scan import app
    from deepscan.engines.parity import TOLERANCES
    from tests.media import make_video

    return SimpleNamespace(
        settings_hash=settings_hash, app=app, fp32=TOLERANCES["fp32"], make_video=make_video
    )


# Reading and writing


def read(name: str) -> Any:
    """A golden by its file name."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def lines_of(path: Path) -> list[Any]:
    """The values of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(name: str, values: Any) -> None:
    """Write a golden: indented, but whatever fits a line on one line."""
    (FOLDER / name).write_text(_dumped(values, "") + "\n", encoding="utf-8")


def _dumped(values: Any, indent: str) -> str:
    short = json.dumps(values, sort_keys=True, ensure_ascii=True, allow_nan=False)
    if len(short) + len(indent) <= 96 or not isinstance(values, dict | list) or not values:
        return short
    deeper = indent + " "
    if isinstance(values, dict):
        parts = [f"{json.dumps(key)}: {_dumped(values[key], deeper)}" for key in sorted(values)]
        return "{\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}}}"
    parts = [_dumped(each, deeper) for each in values]
    return "[\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}]"


# Commands and options


def options() -> dict[str, dict[str, Any]]:
    """Every command with its arguments and options: "engine build" -> name -> facts.

    Without those of `GOING`, and without the texts.
    """
    import typer

    found = {}
    for path, command in _walk(typer.main.get_command(inner().app), ()):
        hints = get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
        found[" ".join(path)] = {
            parameter.name: _facts(parameter, hints[parameter.name])
            for parameter in command.params
            if (" ".join(path), parameter.name) not in GOING
        }
    return found


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inside in sorted(getattr(command, "commands", {}).items()):
        yield from _walk(inside, (*path, name))


def _facts(parameter: Any, hint: Any) -> dict[str, Any]:
    default = parameter.default
    if isinstance(default, Path):
        default = str(default)
    if not isinstance(default, str | int | float | list | tuple):
        default = None  # also the sentinels that some versions of typer have for "none"
    limits = getattr(parameter, "type", parameter)  # older versions of typer keep them in a type
    return {
        "kind": parameter.param_type_name,
        "flags": sorted([*parameter.opts, *parameter.secondary_opts]),
        "type": hint.__name__ if type(hint) is type else _PATHS.sub("", str(hint)),
        "default": default,
        "required": parameter.required,
        "many": parameter.multiple or parameter.nargs != 1,
        "min": getattr(limits, "min", None),
        "max": getattr(limits, "max", None),
    }


# Small files


def make_files(folder: Path) -> None:
    """Make `SIX` and "junk.mp4" in a folder.

    The face is the portrait of Eileen Collins (NASA, public domain, in scikit-image); a forged one
    has its inner part drawn again at a low resolution.
    """
    make_video = partial(inner().make_video, frames=8, rate=8, gop=4)
    face = _portrait()
    forged = _forge(face)
    size = (face.shape[1], face.shape[0])
    both = np.concatenate([face, forged], axis=1)
    make_video(folder / "clean.mp4", size=size, draw=lambda index: _shift(face, index))
    make_video(
        folder / "forged.mp4", size=size, draw=lambda index: _shift(forged, index), audio="aac"
    )
    Pillow.fromarray(forged).save(folder / "picture.png")
    make_video(folder / "two-faces.mp4", size=(2 * size[0], size[1]), draw=lambda index: both)
    make_video(
        folder / "no-face.mp4",
        size=(320, 240),
        draw=lambda index: np.full((240, 320, 3), 70 + index, np.uint8),
    )
    whole = make_video(folder / "whole.mkv", size=size, draw=lambda index: _shift(face, index))
    data = whole.read_bytes()
    (folder / "cut-off.mkv").write_bytes(data[: len(data) * 6 // 10])
    whole.unlink()
    (folder / "junk.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 8)


def _portrait() -> np.ndarray:
    from skimage import data

    picture = Pillow.fromarray(data.astronaut()[10:250, 60:380])
    return np.asarray(picture.resize((480, 360), Pillow.Resampling.BICUBIC))


def _forge(image: np.ndarray) -> np.ndarray:
    """The picture with its face drawn again at 22 % of the resolution, blended in softly."""
    height, width = image.shape[:2]
    picture = Pillow.fromarray(image)
    small = picture.resize((width * 22 // 100, height * 22 // 100), Pillow.Resampling.BOX)
    redrawn = small.resize((width, height), Pillow.Resampling.BICUBIC)
    redrawn = redrawn.filter(ImageFilter.UnsharpMask(radius=2, percent=80, threshold=0))
    y, x = np.mgrid[0:height, 0:width]
    distance = ((x - 0.515 * width) / (0.10 * width)) ** 2 + (
        (y - 0.46 * height) / (0.17 * height)
    ) ** 2
    share = np.clip((1.2 - distance) / 0.4, 0.0, 1.0)[..., None]
    drawn = np.asarray(redrawn) + np.array([5.0, 1.0, -4.0])
    return np.clip(np.rint(image * (1 - share) + drawn * share), 0, 255).astype(np.uint8)


def _shift(image: np.ndarray, index: int) -> np.ndarray:
    return np.roll(image, index, axis=1)


# What the program says about them


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of the command gave."""

    code: int
    out: str
    err: str


def command(*args: object, folder: Path) -> Ran:
    """`python -m deepscan ARGS`, of the tree that is tested, in a folder."""
    root = Path(deepscan.__file__).parents[1]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    ran = subprocess.run(
        [sys.executable, "-m", "deepscan", *map(str, args)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


_RECORD = (
    "digest", "manifest", "versions", "wording.*", "provenance.*", "verdict.reasons.*.text",
    "input.path", "input.sha256", "input.size", "decoder.reason", "engine.reason", "model.sha256",
    "model.evidence.*", "calibration.population", "outputs.*.sha256", "outputs.*.size",
    "run.started", "run.timings", "run.host.*",
)  # fmt: skip
_FRAMES = ("input_sha256", "model_sha256")
_JOURNAL = (
    "time", "sum", "identity", "run.id", "run.started", "run.command", "run.version",
    "run.model_sha256", "run.versions", "run.decides", "outcome.path", "outcome.reasons.*.text",
    "outcome.key", "outcome.identity", "outcome.sha256", "outcome.size", "outcome.started",
    "outcome.took", "outcome.outputs.*.sha256", "outcome.outputs.*.size", "outcome.provenance",
    "outcome.decoder",  # decord where it has wheels
    "listing.roots",
)  # fmt: skip


def records(folder: Path) -> dict[str, Any]:
    """Scan `SIX` in a folder: the exit code, and of each file its record and its list of frames."""
    files = [folder / name for name in SIX]
    out = folder / "records"
    # PyAV reads everywhere; decord has wheels for some machines only.
    asked = ("--engine", ENGINE, "--decoder", "pyav", "--write", "json,frames")
    ran = command(*(file.name for file in files), "--out", out.name, *asked, folder=folder)
    found: dict[str, Any] = {"exit": ran.code, "files": {}}
    for file in files:
        record = out / f"{file.stem}.json"
        frames = out / f"{file.stem}.frames.jsonl"
        assert record.is_file(), ran.err
        found["files"][file.name] = {
            "record": strip(json.loads(record.read_text("utf-8")), _RECORD),
            "frames": [strip(line, _FRAMES) for line in lines_of(frames)],
        }
    return found


def journal(folder: Path) -> dict[str, Any]:
    """Scan `THREE` as an archive: the exit code, the journal, and the record of the damaged file.

    The results lie in the folder "results" of the given one.
    """
    source = folder / "in"
    source.mkdir()
    for name in THREE:
        (source / name).write_bytes((folder / name).read_bytes())
    asked = ("--engine", ENGINE, "--jobs", 1, "--write-found", "json,frames", "--report", "jsonl")
    ran = command("in", "--out", "results", *asked, folder=folder)
    results = folder / "results"
    (damaged,) = results.glob("junk*/result.json")
    return {
        "exit": ran.code,
        "lines": [strip(line, _JOURNAL) for line in lines_of(results / "journal.jsonl")],
        "files": sorted(
            str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()
        ),
        "error_record": strip(json.loads(damaged.read_text("utf-8")), _RECORD),
    }


def settings_hash() -> str:
    """The hash of the default options, under weights and versions that are made up."""
    versions = [
        ("deepscan", "0.1.0"), ("torch", "2.10.0"), ("torchvision", "0.25.0"), ("av", "18.1.0"),
        ("decord", "0.6.0"), ("facenet-pytorch", "2.5.3"), ("timm", "1.0.9"), ("numpy", "2.0.0"),
        ("pillow", "11.0.0"), ("openvino", "2026.1.0"),
    ]  # fmt: skip
    found: str = inner().settings_hash(
        deepscan.ScanOptions(), "0" * 64, "openvino-cpu-bf16", versions, calibration="val-clips/2"
    )
    return found


def strip(value: Any, left_out: tuple[str, ...], path: str = "") -> Any:
    """A JSON value with `LEFT_OUT` for what the patterns name ("a.*.b"); null stays null."""
    if value is not None and any(fnmatchcase(path, pattern) for pattern in left_out):
        return LEFT_OUT
    below = f"{path}." if path else ""
    if isinstance(value, dict):
        return {key: strip(each, left_out, below + key) for key, each in value.items()}
    if isinstance(value, list):
        return [strip(each, left_out, f"{below}*") for each in value]
    return value


# Comparing


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, a line each; numbers within `bound` are the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if key not in new or key not in old:
                yield f"{path}.{key} is {'gone' if key not in new else 'new'}"
            else:
                yield from differences(old[key], new[key], f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}[{index}]")
    elif isinstance(old, float) and isinstance(new, float):
        if not abs(old - new) <= bound(path)(old):
            yield f"{path} was {old}, is {new}"
    elif type(old) is not type(new) or old != new:
        yield f"{path} was {json.dumps(old)[:200]}, is {json.dumps(new)[:200]}"


def bound(path: str) -> Callable[[float], float]:
    """How far a number may be from its golden.

    Scores and masks of single frames: what an engine in fp32 may be apart from the reference. Boxes
    are recorded to a tenth of a pixel, which may round either way, and move the crop. What follows
    from many scores hangs on their logits, which are steep near 0 and 1: 0.02 of P(manipulated) is
    what `deepscan diff` passes over.
    """
    fp32 = inner().fp32
    name = path.rpartition(".")[2].partition("[")[0]
    if name == "p_manipulated" and ".frames[" in path:
        return lambda _: fp32.max_score_difference
    return {
        "mask_share": lambda _: fp32.max_mask_difference,
        "box": lambda _: 0.2,
        "size": lambda _: 0.2,
        "confidence": lambda _: 1e-3,
        "sharpness": lambda value: 0.01 * abs(value),
        "detail": lambda value: 0.01 * abs(value),
        "p_manipulated": lambda _: 0.02,
        "score": lambda _: 0.02,
        "controls": lambda _: fp32.max_score_difference,
        "llr": lambda _: 0.1,
    }.get(name, lambda value: 1e-6 * max(1.0, math.fabs(value)))
