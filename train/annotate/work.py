"""One real video with its fakes: find the face, cut the crops, annotate, write.

Written below the output folder, in the layout that MSCCNet's own code reads:
`<Raw|C23|C40>/<manipulation>/<video>/<frame>_0.png` the fake crops, `<Raw|...>/real/...` the real
ones, `Mask/<manipulation>/<video>/<frame>_0.png` the masks, one for every compression. Beside them
`settings.json`, `boxes/<video>.json` and `pairs/<manipulation>/<video>.json` record the work, so
that an interrupted run resumes where it stopped. A pair's record is written last.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from deepscan.errors import EngineError, UsageError, VideoError
from deepscan.faces import DETECTORS
from deepscan.faces.detector import FaceDetector
from deepscan.files import atomic_output
from deepscan.options import ScanOptions
from deepscan.types import Image
from train.annotate.pairs import Fake, Work
from train.annotate.procedure import SMALLEST, annotate
from train.media import evenly, read_frames

FOLDERS = {"c0": "Raw", "c23": "C23", "c40": "C40"}

_SCAN = ScanOptions()  # faces are found as a scan finds them
Corners = tuple[int, int, int, int]  # x1, y1, x2, y2; x2 and y2 exclusive


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the crops and masks: one set for each output folder."""

    compressions: tuple[str, ...] = ("c0",)  # the first one makes the masks
    scale: float = 1.3  # side of the crop over the longer side of the face: FF++'s own classifier.
    # The factor of P-FF++ is not known.
    frames: int = 20  # a video
    first: int = 300  # frames of a video that are looked at
    detector: str = "mtcnn"
    min_face: int = _SCAN.min_face
    min_confidence: float = _SCAN.min_confidence
    difference: bool = False  # also write Difference/<manipulation>/<video>/<frame>_0.png


Status = Literal[
    "annotated",  # masks were written, now or by an earlier run
    "identical",  # every crop pair is the same picture
    "no-face",  # the face detector found none in the real video
    "no-real",  # there is no real video for the fake
    "no-fake",  # the fake is missing, in one compression at least
    "size-mismatch",  # real and fake frames differ in size
    "too-short",  # the fake ends before the first frame that was chosen
    "unreadable",  # a video cannot be decoded
]


FINAL = frozenset({"annotated", "identical", "no-face"})  # another run would say the same


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one pair. `masks`, `identical` and `missing` count frames.

    `strength` is the median of the annotations' strengths, None without masks.
    """

    manipulation: str
    name: str
    status: Status
    masks: int = 0
    identical: int = 0
    missing: int = 0
    strength: float | None = None
    detail: str = ""


def folder_of(compression: str) -> str:
    """The folder name of a compression, as the loader of P-FF++ spells it."""
    return FOLDERS.get(compression, compression)


def load_detector(settings: Settings) -> FaceDetector:
    """The face detector of the settings, built."""
    module, _, name = DETECTORS[settings.detector].partition(":")
    detector: FaceDetector = getattr(import_module(module), name)(
        min_face=settings.min_face,
        min_confidence=settings.min_confidence,
        max_faces=64,
    )
    return detector


def annotate_work(
    work: Work, out: Path, settings: Settings, detector: Callable[[], FaceDetector]
) -> list[Outcome]:
    """Annotate all fakes of one real video; finished pairs are skipped.

    One face a frame: the largest. The same box cuts the fake. `detector` gives the face detector;
    it is asked for only if faces have to be looked for.
    """
    outcomes = [_finished(_record(out, fake)) for fake in work.fakes]
    todo = [fake for fake, outcome in zip(work.fakes, outcomes, strict=True) if outcome is None]
    if not todo:
        return [outcome for outcome in outcomes if outcome is not None]
    new = iter(_annotate_fakes(work, todo, out, settings, detector))
    done = []
    for fake, earlier in zip(work.fakes, outcomes, strict=True):
        outcome = earlier if earlier is not None else next(new)
        if earlier is None:
            write_bytes(_record(out, fake), json.dumps(asdict(outcome), indent=1).encode())
        done.append(outcome)
    return done


def claim(out: Path, settings: Settings) -> None:
    """Make the output folder, or resume one that was made with the same settings.

    One folder must not mix crops and masks of two settings.

    Raises:
        UsageError: the folder was made with other settings.
    """
    wanted = json.loads(json.dumps(asdict(settings)))
    path = out / "settings.json"
    if path.exists():
        earlier = _read(path) or {}
        changed = [name for name in wanted if earlier.get(name) != wanted[name]]
        if changed:
            raise UsageError(
                f"{out} was made with another {', '.join(changed)} ({path.name} there says which): "
                "give the same, or another --out"
            )
    write_bytes(path, (json.dumps(wanted, indent=1) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step, its folder too where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(path) as part:
        part.write_bytes(data)


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write (H, W) grey or (H, W, 3) RGB as PNG, in one step."""
    stored = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    done, data = cv2.imencode(".png", stored)
    if not done:
        raise OSError(f"{path}: the picture {picture.shape} cannot be written as PNG")
    write_bytes(path, data.tobytes())


def square(box: tuple[float, float, float, float], scale: float, shape: tuple[int, int]) -> Corners:
    """The square of `scale` times the longer side round a box, cut off at the frame's edges.

    `shape` is (height, width) of the frame.
    """
    x1, y1, x2, y2 = box
    half = max(x2 - x1, y2 - y1) * scale / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return (
        max(0, round(x - half)),
        max(0, round(y - half)),
        min(shape[1], round(x + half)),
        min(shape[0], round(y + half)),
    )


def _annotate_fakes(
    work: Work,
    todo: list[Fake],
    out: Path,
    settings: Settings,
    detector: Callable[[], FaceDetector],
) -> list[Outcome]:
    levels = settings.compressions
    if not work.paths:
        return [Outcome(fake.manipulation, fake.name, "no-real") for fake in todo]
    if missing := [level for level in levels if work.paths[level] is None]:
        detail = f"{work.name} is missing in {', '.join(missing)}"
        return [Outcome(fake.manipulation, fake.name, "no-real", detail=detail) for fake in todo]
    try:
        boxes, shape = _boxes(work, out, settings, detector)
        reals = {level: _cut(work.paths[level], boxes, shape) for level in levels} if boxes else {}
    except (VideoError, EngineError, _SizeError) as error:
        return [Outcome(f.manipulation, f.name, "unreadable", detail=str(error)) for f in todo]
    if not boxes:
        return [Outcome(fake.manipulation, fake.name, "no-face") for fake in todo]
    for level, crops in reals.items():
        for index, crop in crops.items():
            write_png(out / folder_of(level) / "real" / work.name / _file(index), crop)
    return [_annotate_fake(fake, boxes, shape, reals[levels[0]], out, settings) for fake in todo]


def _annotate_fake(
    fake: Fake,
    boxes: dict[int, Corners],
    shape: tuple[int, int],
    reals: dict[int, Image],
    out: Path,
    settings: Settings,
) -> Outcome:
    def outcome(status: Status, **counts: object) -> Outcome:
        return Outcome(fake.manipulation, fake.name, status, **counts)  # type: ignore[arg-type]

    if missing := [level for level in settings.compressions if fake.paths[level] is None]:
        return outcome("no-fake", detail=f"missing in {', '.join(missing)}")
    try:
        levels = {level: _cut(fake.paths[level], boxes, shape) for level in settings.compressions}
    except _SizeError as error:
        return outcome("size-mismatch", detail=str(error))
    except VideoError as error:
        return outcome("unreadable", detail=str(error))

    # A frame counts only if it is there in every compression, real and fake.
    common = set(reals).intersection(*(crops.keys() for crops in levels.values()))
    if not common:
        return outcome("too-short", missing=len(boxes))
    identical = 0
    strengths = []
    for index in sorted(common):
        found = annotate(reals[index], levels[settings.compressions[0]][index])
        if found is None:
            identical += 1
            continue
        strengths.append(found.strength)
        place = Path(fake.manipulation) / fake.name / _file(index)
        for level, crops in levels.items():
            write_png(out / folder_of(level) / place, crops[index])
        if settings.difference:
            write_png(out / "Difference" / place, found.difference)
        write_png(out / "Mask" / place, found.mask)
    return outcome(
        "annotated" if strengths else "identical",
        masks=len(strengths),
        identical=identical,
        missing=len(boxes) - len(common),
        strength=round(float(np.median(strengths)), 4) if strengths else None,
    )


class _SizeError(Exception):
    """Frames of two videos that should match differ in size."""


def _boxes(
    work: Work, out: Path, settings: Settings, detector: Callable[[], FaceDetector]
) -> tuple[dict[int, Corners], tuple[int, int]]:
    """The crop of each chosen frame, and the (height, width) of the frames; kept on disk."""
    kept = out / "boxes" / f"{work.name}.json"
    if (stored := _read(kept)) is not None:
        height, width = stored["shape"]
        boxes = {int(index): tuple(corners) for index, corners in stored["boxes"].items()}
        return boxes, (height, width)
    squares: dict[int, Corners] = {}
    shape = (0, 0)
    path = work.paths[settings.compressions[0]]
    assert path is not None  # the caller has looked
    finder = detector()
    with closing(read_frames(path, settings.first)) as frames:
        for index, image in frames:
            shape = (image.shape[0], image.shape[1])
            faces = finder.detect(image).faces
            if faces:
                box = max(faces, key=lambda face: face.box.area).box
                corners = square((box.x1, box.y1, box.x2, box.y2), settings.scale, shape)
                if min(corners[2] - corners[0], corners[3] - corners[1]) >= SMALLEST:
                    squares[index] = corners
    boxes = {index: squares[index] for index in evenly(sorted(squares), settings.frames)}
    write_bytes(kept, json.dumps({"shape": shape, "boxes": boxes}).encode())
    return boxes, shape


def _cut(path: Path | None, boxes: dict[int, Corners], shape: tuple[int, int]) -> dict[int, Image]:
    """The crops of a video at the chosen frames, as far as it has them."""
    assert path is not None  # the caller has looked
    crops = {}
    with closing(read_frames(path, max(boxes) + 1)) as frames:
        for index, image in frames:
            if image.shape[:2] != shape:
                raise _SizeError(
                    f"{path}: frame {index} is {image.shape[1]}x{image.shape[0]}, the real video "
                    f"{shape[1]}x{shape[0]}"
                )
            if index in boxes:
                x1, y1, x2, y2 = boxes[index]
                crops[index] = image[y1:y2, x1:x2].copy()  # a view would keep the whole frame
    return crops


def _file(index: int) -> str:
    return f"{index:04d}_0.png"


def _record(out: Path, fake: Fake) -> Path:
    return out / "pairs" / fake.manipulation / f"{fake.name}.json"


def _read(path: Path) -> dict[str, Any] | None:
    """A record of an earlier run, None if there is none that can be read."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _finished(path: Path) -> Outcome | None:
    """The outcome of a pair that a second run would not change; None: run it again."""
    record = _read(path)
    if record is None or record.get("status") not in FINAL:
        return None
    return Outcome(**record)
