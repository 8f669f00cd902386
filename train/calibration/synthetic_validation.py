"""Made clips of people that training never saw, judged frame by frame, and their figures.

Every person is filmed as they are, forged, and with benign edits, through a moving camera and a
real codec at a random size, softness and quality; the draw is the same for all of them, so they
differ in the forging or edit alone. What the network said is cached row by row in a file, so that a
broken measurement resumes, and every figure (calibration, reliability, groups, tables) is
counted from the same rows. Frames of one clip and clips of one person are not independent: every
interval is a bootstrap over people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deepscan.engines.engine import Engine
from deepscan.errors import UsageError
from deepscan.faces.crop import cut, square
from deepscan.faces.quality import detail, sharpness
from deepscan.options import ScanOptions
from deepscan.types import Box, Label
from deepscan.verdict.calibration import logit, wilson
from train.calibration.clips import CODECS, Camera, film, handheld_camera, make_scene, through_codec
from train.command import Progress
from train.evaluation.metrics import Estimate, estimated, estimated_auc
from train.forge.benign_edits import BENIGN_EDITS
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.faces import Person
from train.forge.pairs import INSIDE, forge_face, visible
from train.forge.tilt import tilted

WINDOW = 1.0  # seconds
FRAMES, FRAME_RATE = 24, 12  # two seconds a clip; half the usual rate halves the cost
GRADES = ("light", "medium", "strong")  # compression, by thirds of the codec's range
SIZES = (64.0, 96.0, 128.0)  # pixels: where one column of a table ends and the next begins
_EVERY = 4  # frames: those between are nearly the same picture
_SEED = 9_000_011
_ATTEMPTS = 4  # draws of a forge until something shows
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Clip:
    """The network's logits over one made clip, and how it was made.

    `qualities` are size, sharpness and detail of the face in each frame; `pixels` count hits, false
    alarms and misses of the mask over all frames; `grade` in [0, 1) is the strength of compression;
    `leaning` says that the head was turned in the plane and narrowed (`train.forge.tilt`).
    """

    person: str
    forged: bool
    forge: str
    crf: int
    face: float  # longer side of the face box, pixels
    logits: tuple[float, ...]
    qualities: tuple[tuple[float, float, float], ...] = ()
    source: str = ""
    codec: str = "h264"
    grade: float = 0.0
    edit: str = "none"
    pixels: tuple[int, int, int] = (0, 0, 0)
    picture: str = ""
    leaning: bool = False

    def windows(self) -> Floats:
        """Mean logit of each window of WINDOW seconds."""
        size = round(WINDOW * FRAME_RATE)
        values = np.array(self.logits)
        return values[: len(values) // size * size].reshape(-1, size).mean(1)

    @property
    def untouched(self) -> bool:
        return not self.forged and self.edit == "none"

    def seen(self) -> Floats:
        """(frames, 3) qualities; of a clip without any, its size alone."""
        if self.qualities:
            return np.array(self.qualities)
        return np.tile([self.face, 0.0, 0.0], (len(self.logits), 1))


@dataclass(frozen=True, slots=True)
class ClipVerdict:
    """The verdict on a clip, by a calibration fitted on other people.

    `alarm` is the lowest false-alarm rate at which it would be called manipulated, `llr` that of
    the strongest window (None: outside of the calibration), `windows` the LLR of each whole window.
    """

    label: Label
    alarm: float
    llr: float | None
    windows: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """The number of clips to make: `takes` of every person as they are and forged, `edits` edited.

    `moving`: heads turn, and a forge is made anew in every frame, as programs do it; without, one
    picture is filmed, which is faster. `leaning` is the share of takes in which the head leans.
    """

    takes: int = 1
    edits: int = 0
    frames: int = FRAMES
    codecs: tuple[str, ...] = ("h264",)
    moving: bool = True
    leaning: float = 0.0

    def __post_init__(self) -> None:
        """
        Raises:
            UsageError: a number or codec that cannot be.
        """
        unknown = [codec for codec in self.codecs if codec not in CODECS]
        if unknown or not self.codecs:
            raise UsageError(
                f"no codec {', '.join(unknown) or 'named'}; there are {', '.join(CODECS)}"
            )
        if not 0 <= self.leaning <= 1:
            raise UsageError(f"leaning is {self.leaning}: it is a share")
        if self.takes < 1 or self.edits < 0 or self.frames < round(WINDOW * FRAME_RATE):
            raise UsageError(
                f"{self}: at least one take, no fewer than 0 edits and "
                f"{round(WINDOW * FRAME_RATE)} frames"
            )


def make_clip(
    people: Sequence[Person],
    index: int,
    forge: str | None,
    engine: Engine,
    *,
    edit: str | None = None,
    take: int = 0,
    plan: ClipPlan = ClipPlan(),
) -> Clip:
    """Film a person, forged or edited or as they are, and judge every frame."""
    options = ScanOptions()
    # The first take draws as it did when there was but one.
    rng = np.random.default_rng([_SEED, index, take] if take else [_SEED, index])
    person = people[index]
    smallest = options.min_face / max(
        person.face.box[2] - person.face.box[0], person.face.box[3] - person.face.box[1]
    )
    # From the smallest face that a scan judges to the picture's own, as many of each doubling.
    scale = float(np.exp(rng.uniform(np.log(min(1.0, smallest)), 0.0)))
    grade = float(rng.uniform())
    codec = plan.codecs[int(rng.integers(len(plan.codecs)))]
    encoder, _, (best, worst) = CODECS[codec]
    crf = best + int(grade * (worst + 1 - best))
    noise = float(rng.choice((0.0, 2.0, 4.0, 7.0)))
    # Optics and the smoothing of cameras: film is softer than portraits are.
    soft = scale * float(rng.uniform(0.2, 1.8)) if rng.random() < 0.6 else 0.0
    seeds = rng.integers(2**31, size=4)
    face = person.face
    # Draws of their own: with or without leaning heads, all else stays as it was.
    posture = np.random.default_rng([_SEED, index, take, 1])
    leaning = bool(posture.random() < plan.leaning)
    if leaning:
        face = tilted(face, posture)
    if edit is not None:
        edited = BENIGN_EDITS[edit](face.image, face.landmarks, np.random.default_rng(seeds[3]))
        face = replace(face, image=edited)
    pictures, truths = _scene(people, index, face, forge, plan, int(seeds[0]))
    camera = handheld_camera(face.image, plan.frames, np.random.default_rng(seeds[1]), scale=scale)
    shot = film(pictures, camera, np.random.default_rng(seeds[2]), noise)
    frames = through_codec(_soft(shot, soft), crf=crf, codec=encoder, rate=FRAME_RATE)
    boxes = [camera.place(face.box, i) for i in range(len(frames))]
    squares = [square(box, options.crop_scale) for box in boxes]
    crops = np.stack(
        [cut(frame, box, engine.input_size) for frame, box in zip(frames, squares, strict=True)]
    )
    scores: list[float] = []
    masks: list[NDArray[np.float32]] = []
    for start in range(0, len(crops), engine.max_batch):
        predictions = engine.predict(crops[start : start + engine.max_batch])
        scores += predictions.scores.tolist()
        assert predictions.masks is not None, "networks of ours have masks"
        masks += list(predictions.masks)
    return Clip(
        person.person,
        forge is not None,
        forge or "none",
        crf,
        max(boxes[0].width, boxes[0].height),
        tuple(round(logit(score), 4) for score in scores),
        tuple(
            (
                round(max(box.width, box.height), 2),
                round(sharpness(crop), 2),
                round(detail(crop), 4),
            )
            for box, crop in zip(boxes, crops, strict=True)
        ),
        person.source,
        codec,
        grade,
        edit or "none",
        _counts(_truths(truths, camera, squares, masks), masks),
        person.name,
        leaning,
    )


def _soft(shot: Iterator[Picture], sigma: float) -> Iterator[Picture]:
    for frame in shot:
        if sigma > 0:
            yield cv2.GaussianBlur(frame, (0, 0), sigma).astype(np.uint8, copy=False)
        else:
            yield frame


def _scene(
    people: Sequence[Person],
    index: int,
    face: FaceImage,
    forge: str | None,
    plan: ClipPlan,
    seed: int,
) -> tuple[Sequence[Picture], Sequence[NDArray[np.float32]] | None]:
    """A picture for every frame, and where each is forged (None: nowhere)."""

    def forged(
        face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
    ) -> Forged:
        return forge_face(people, index, str(forge), rng, face=face)

    if forge is None:
        if plan.moving:
            return make_scene(face, plan.frames, np.random.default_rng([seed])).pictures, None
        return [face.image] * plan.frames, None
    for attempt in range(_ATTEMPTS):
        # A first frame alone draws as the whole scene does.
        draw = [seed, attempt] if attempt else [seed]
        first = make_scene(face, 1, np.random.default_rng(draw), forge=forged)
        clean = make_scene(face, 1, np.random.default_rng(draw))
        made = Forged(first.pictures[0], clean.pictures[0], first.masks[0], first.tags)
        if visible(made, face):  # else the label would be wrong
            break
    if plan.moving:
        take = make_scene(face, plan.frames, np.random.default_rng(draw), forge=forged)
        return take.pictures, take.masks
    return [made.image] * plan.frames, [made.mask] * plan.frames


def _truths(
    truths: Sequence[NDArray[np.float32]] | None,
    camera: Camera,
    squares: Sequence[Box],
    masks: Sequence[NDArray[np.float32]],
) -> Iterator[NDArray[np.bool_]]:
    """Masks of the forged pixels of each crop, on the grid of the predicted masks."""
    for index, (box, found) in enumerate(zip(squares, masks, strict=True)):
        if truths is None:
            yield np.zeros(found.shape, bool)
            continue
        shown = camera.shoot(np.round(truths[index] * 255).astype(np.uint8), index)
        yield cut(np.repeat(shown[..., None], 3, 2), box, found.shape[0])[..., 0] > 255 * INSIDE


def _counts(
    truths: Iterator[NDArray[np.bool_]], masks: Sequence[NDArray[np.float32]]
) -> tuple[int, int, int]:
    hits = alarms = misses = 0
    for truth, mask in zip(truths, masks, strict=True):
        found = mask > 0.5
        hits += int((truth & found).sum())
        alarms += int((found & ~truth).sum())
        misses += int((truth & ~found).sum())
    return hits, alarms, misses


def make_clips(
    people: Sequence[Person],
    forges: Sequence[str],
    engine: Engine,
    progress: Progress = lambda line: None,
    *,
    plan: ClipPlan = ClipPlan(),
    cache: Path | None = None,
    key: str = "",
) -> list[Clip]:
    """All clips of a plan; forges and edits take turns over the people.

    With `cache` every clip is written there as soon as it is made, and those that are there already
    are not made again; `key` names the weights and people.

    Raises:
        UsageError: the file holds clips of other weights, people or another plan.
    """
    edits = sorted(BENIGN_EDITS)
    work: list[tuple[int, int, str | None, str | None]] = []
    for index in range(len(people)):
        for take in range(plan.takes):
            forge = forges[(index + take * len(people)) % len(forges)]
            work += [(index, take, None, None), (index, take, forge, None)]
        for take in range(plan.edits):
            work.append((index, take, None, edits[(index * plan.edits + take) % len(edits)]))
    given = {"key": key, "plan": asdict(plan), "forges": list(forges), "people": len(people)}
    title = hashlib.sha256(json.dumps([given, edits], sort_keys=True).encode()).hexdigest()
    rows = [] if cache is None else _read(cache, title)
    if cache is not None and not rows:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"clips": title}) + "\n")
    clips: list[Clip] = []
    for number, (index, take, kind, edit) in enumerate(work):
        if number < len(rows):
            row = rows[number]
        else:
            row = make_clip(people, index, kind, engine, edit=edit, take=take, plan=plan)
            if cache is not None:
                with cache.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
            if number % 50 == 49:
                progress(f"{number + 1} of {len(work)} clips")
        clips.append(row)
    return clips


def _read(cache: Path, title: str) -> list[Clip]:
    if not cache.is_file():
        return []
    lines = cache.read_text().splitlines(keepends=True)
    try:
        there = json.loads(lines[0])["clips"]
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{cache} holds no clips: remove it or give another folder") from error
    if there != title:
        raise UsageError(
            f"{cache} holds clips of other weights, people or another plan: remove it or give "
            "another folder"
        )
    if lines and not lines[-1].endswith("\n"):  # broken off within a row: that one is made anew
        lines = lines[:-1]
        cache.write_text("".join(lines))
    clips = []
    for line in lines[1:]:
        values = json.loads(line)
        values["logits"] = tuple(values["logits"])
        values["qualities"] = tuple(tuple(each) for each in values["qualities"])
        values["pixels"] = tuple(values["pixels"])
        clips.append(Clip(**values))
    return clips


# --- Tables ---------------------------------------------------------------------------------------


def video_score(clip: Clip) -> float:
    """The strongest window's mean logit, on which the rule decides."""
    size = min(round(WINDOW * FRAME_RATE), len(clip.logits))
    sums = np.concatenate([[0.0], np.cumsum(clip.logits)])
    return float((sums[size:] - sums[:-size]).max() / size)


def summarise(
    clips: Sequence[Clip], verdicts: Sequence[ClipVerdict], *, rounds: int = 500
) -> dict[str, Any]:
    """Frame AUC, video AUC, pixel IoU and F1, share found: estimates over people, or None.

    Of untouched and forged clips; a slice with one kind only has no AUC.
    """
    forged = [clip for clip in clips if clip.forged]
    scored = [(clip, value) for clip in clips for value in clip.logits[::_EVERY]]
    found = [r.label is Label.MANIPULATED for c, r in zip(clips, verdicts, strict=True) if c.forged]
    return {
        "clips": len(clips),
        "people": len({clip.person for clip in clips}),
        "frame_auc": estimated_auc(
            [clip.forged for clip, _ in scored],
            [value for _, value in scored],
            [clip.person for clip, _ in scored],
            rounds=rounds,
        ),
        "video_auc": estimated_auc(
            [clip.forged for clip in clips],
            [video_score(clip) for clip in clips],
            [clip.person for clip in clips],
            rounds=rounds,
        ),
        "pixel_iou": _pixels(forged, lambda tp, fp, fn: tp / max(1, tp + fp + fn), rounds),
        "pixel_f1": _pixels(forged, lambda tp, fp, fn: 2 * tp / max(1, 2 * tp + fp + fn), rounds),
        "iou_found": _pixels(
            [clip for clip, hit in zip(forged, found, strict=True) if hit],
            lambda tp, fp, fn: tp / max(1, tp + fp + fn),
            rounds,
        ),
        "found": None if not forged else wilson(sum(found), len(found)),
    }


def slices(
    clips: Sequence[Clip], verdicts: Sequence[ClipVerdict], *, rounds: int = 500
) -> dict[str, dict[str, Any]]:
    """The figures of all, of each forge, codec, strength of compression, face size and posture.

    Edited clips are left out; every forge stands against all untouched clips.
    """
    pairs = [(c, v) for c, v in zip(clips, verdicts, strict=True) if c.edit == "none"]
    names = {id(clip): _slices_of(clip) for clip, _ in pairs}
    forges = sorted({clip.forge for clip, _ in pairs if clip.forged})
    codecs = sorted({clip.codec for clip, _ in pairs})
    wanted = ["all", *(f"forge: {forge}" for forge in forges)]
    wanted += [f"codec: {codec}" for codec in codecs]
    wanted += [f"compression: {grade}" for grade in GRADES]
    wanted += [f"face: {size}" for size in size_names()]
    if any(clip.leaning for clip, _ in pairs):
        wanted += ["head: upright", "head: leaning"]
    found = {}
    for name in wanted:
        forge = name.removeprefix("forge: ")
        some = [
            (clip, verdict)
            for clip, verdict in pairs
            if name in names[id(clip)] or (forge != name and not clip.forged)
        ]
        if some:
            found[name] = summarise([c for c, _ in some], [v for _, v in some], rounds=rounds)
    return found


def _slices_of(clip: Clip) -> set[str]:
    """The names of the slices that a clip belongs to."""
    return {
        "all",
        f"forge: {clip.forge}",
        f"codec: {clip.codec}",
        f"compression: {grade_of(clip)}",
        f"face: {size_of(clip)}",
        f"head: {'leaning' if clip.leaning else 'upright'}",
    }


def alarms_by_edit(
    clips: Sequence[Clip], verdicts: Sequence[ClipVerdict]
) -> dict[str, dict[str, Any]]:
    """For untouched clips and each benign edit: clips, people, and shares by label (Wilson).

    Every edit has at most one clip a person where the plan has fewer edits than there are kinds.
    """
    found = {}
    for edit in ["none", *sorted({c.edit for c in clips if c.edit != "none"})]:
        chosen = [
            (c, r) for c, r in zip(clips, verdicts, strict=True) if not c.forged and c.edit == edit
        ]
        if chosen:
            found[edit] = {
                "clips": len(chosen),
                "people": len({c.person for c, _ in chosen}),
                **alarms([r for _, r in chosen]),
            }
    return found


def alarms(verdicts: Sequence[ClipVerdict]) -> dict[str, tuple[float, float, float]]:
    """Shares of manipulated, of suspicious or manipulated, and of clips that were not judged."""
    labels = [one.label for one in verdicts]
    over = sum(label is Label.MANIPULATED for label in labels)
    review = over + sum(label is Label.SUSPICIOUS for label in labels)
    outside = sum(label is Label.INCONCLUSIVE for label in labels)
    return {
        "manipulated": wilson(over, len(labels)),
        "suspicious": wilson(review, len(labels)),
        "not_judged": wilson(outside, len(labels)),
    }


def grade_of(clip: Clip) -> str:
    return GRADES[min(int(clip.grade * len(GRADES)), len(GRADES) - 1)]


def size_names() -> list[str]:
    bounds = [f"{low:.0f} to {high:.0f} px" for low, high in pairwise(SIZES)]
    return [f"under {SIZES[0]:.0f} px", *bounds, f"{SIZES[-1]:.0f} px and more"]


def size_of(clip: Clip) -> str:
    return size_names()[int(np.searchsorted(SIZES, clip.face, side="right"))]


def _pixels(
    clips: Sequence[Clip], measure: Callable[[float, float, float], float], rounds: int
) -> Estimate | None:
    counts = np.array([clip.pixels for clip in clips], float).reshape(-1, 3)
    if not len(counts):
        return None
    return estimated(
        lambda drawn: float(measure(*counts[drawn].sum(0))),
        [clip.person for clip in clips],
        rounds=rounds,
    )
