"""Score weights on real deepfakes that no training has used.

`python -m train.evaluation.real_deepfakes WEIGHTS --data DIR`

DIR holds `manifest.csv` (file, label, real_counterpart, recording, set), optionally `masks.csv`
(clip, frame, mask) and the files they name: videos and pictures, real and fake. WEIGHTS is a
safetensors file or a model's card. Out come, by set and over all:

- AUC over clips and over frames, against the set's own real files and against all real files;
- pairs: how often a fake scores above its own original, and by how many logits;
- IoU of the mask on frames whose mask is known.

`--against OTHER` compares two weights on the same files. Every figure has a 95 % interval by
bootstrap over recordings. This command never trains and never calibrates. Each look at such a set
tunes a little: `--question TEXT --looks FILE` records the question and the figures, and `--step`
says what the weights are. The model card shows the list.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image as Pillow

from deepscan.errors import UsageError
from deepscan.faces.crop import cut, square
from deepscan.options import ScanOptions
from deepscan.types import Box, Image
from deepscan.verdict.calibration import logit
from train.annotate.work import Settings, load_detector
from train.command import exit_on_error
from train.evaluation.evaluate import read_network
from train.evaluation.markdown import figure, markdown
from train.evaluation.metrics import Estimate, as_json, auc, estimated, estimated_auc
from train.evaluation.predict import NetworkPredictor
from train.media import evenly, is_video, read_frames, read_picture

FORMAT = "deepscan-real-deepfakes/1"
FRAMES = 16  # of each clip, evenly spread
LOOKS = 3  # the most that one question may take
HEADLINE = ("live swap", "FF++ c23", "Celeb-DF")
"""Sets whose mean of clip AUCs certification compares."""
_SCAN = ScanOptions()  # faces are found and cut as by a scan
_COLUMNS = ("file", "label", "recording", "set", "real_counterpart")
Boxes = dict[int, tuple[float, float, float, float]]  # frame -> face, xyxy in pixels


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the set; `original` names the real file that a fake was made from, or is ""."""

    file: str
    fake: bool
    recording: str
    set: str
    original: str


@dataclass(frozen=True, slots=True)
class Scored:
    """A file and the logit of P(manipulated) in each frame that was looked at.

    `pixels` are (intersection, union) of the mask over the frames whose mask is known.
    """

    entry: Entry
    logits: tuple[float, ...]
    pixels: tuple[int, int] = (0, 0)

    @property
    def score(self) -> float:
        """Mean logit over the frames."""
        return float(np.mean(self.logits))


def read_manifest(folder: Path) -> tuple[list[Entry], dict[str, dict[int, Path]]]:
    """The entries of a folder, and for each file its frames with a mask.

    Raises:
        UsageError: manifest.csv, one of its columns or a file it names is missing.
    """
    table = folder / "manifest.csv"
    if not table.is_file():
        raise UsageError(f"{table} is missing: expected a folder with manifest.csv")
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    missing = [name for name in _COLUMNS if rows and name not in rows[0]]
    if missing or not rows:
        raise UsageError(f"{table} lacks {', '.join(missing) or 'any row'}")
    entries = [
        Entry(r["file"], r["label"] == "fake", r["recording"], r["set"], r["real_counterpart"])
        for r in rows
    ]
    masks: dict[str, dict[int, Path]] = {}
    if (folder / "masks.csv").is_file():
        with (folder / "masks.csv").open(newline="") as lines:
            for row in csv.DictReader(lines):
                masks.setdefault(row["clip"], {})[int(row["frame"])] = folder / row["mask"]
    named = [folder / entry.file for entry in entries] + [
        p for m in masks.values() for p in m.values()
    ]
    for path in named:
        if not path.is_file():
            raise UsageError(f"{path}, named by {table.name} or masks.csv, is missing")
    return entries, masks


def frames_of(path: Path, wanted: set[int] | None = None) -> Iterator[tuple[int, Image]]:
    """The wanted frames of a clip, or FRAMES evenly spread ones; a picture is frame 0."""
    if not is_video(path):
        yield 0, read_picture(path)
        return
    if wanted is None:
        frames = [image for _, image in read_frames(path)]
        for index in evenly(range(len(frames)), FRAMES):
            yield index, frames[index]
        return
    for index, image in read_frames(path, max(wanted) + 1):
        if index in wanted:
            yield index, image


def find_faces(
    folder: Path, entries: Sequence[Entry], masks: dict[str, dict[int, Path]], cache: Path | None
) -> dict[str, Boxes]:
    """The largest face in each frame that is used; found once, then read from `cache`."""
    listed = json.dumps([[asdict(e) for e in entries], FRAMES, _SCAN.min_face, sorted(masks)])
    key = hashlib.sha256(listed.encode()).hexdigest()
    if cache is not None and cache.is_file():
        stored = json.loads(cache.read_text())
        if stored["key"] == key:
            return {
                name: {int(frame): tuple(box) for frame, box in boxes.items()}
                for name, boxes in stored["boxes"].items()
            }
    detector = load_detector(Settings(min_face=_SCAN.min_face))
    found: dict[str, Boxes] = {}
    for entry in entries:
        boxes: Boxes = {}
        with_mask = masks.get(entry.file)
        for wanted in (None, set(with_mask)) if with_mask else (None,):
            for index, image in frames_of(folder / entry.file, wanted):
                faces = [face.box for face in detector.detect(image).faces]
                if faces:
                    box = max(faces, key=lambda box: box.area)
                    boxes[index] = (box.x1, box.y1, box.x2, box.y2)
        found[entry.file] = boxes
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"key": key, "boxes": found}))
    return found


def score(
    network: NetworkPredictor,
    folder: Path,
    entries: Sequence[Entry],
    masks: dict[str, dict[int, Path]],
    faces: dict[str, Boxes],
) -> list[Scored]:
    """Predictor every file; one without a face that was found is left out."""
    scored = []
    for entry in entries:
        boxes, known = faces[entry.file], masks.get(entry.file, {})
        crops: dict[int, tuple[Image, Box]] = {}
        for index, image in frames_of(folder / entry.file, set(boxes) or {0}):
            if index in boxes:
                box = square(Box(*boxes[index]), _SCAN.crop_scale)
                crops[index] = cut(image, box, network.input_size), box
        if not crops:
            continue
        with torch.inference_mode():
            scores, maps = network(torch.from_numpy(np.stack([crop for crop, _ in crops.values()])))
        logits, overlap = [], np.zeros(2, int)
        for place, (index, (_, box)) in enumerate(crops.items()):
            if index in known:
                overlap += _overlap(maps[place], known[index], box)
            if index not in known or not is_video(Path(entry.file)):
                logits.append(logit(float(scores[place])))
        scored.append(Scored(entry, tuple(logits), (int(overlap[0]), int(overlap[1]))))
    return scored


def _overlap(logits: torch.Tensor, path: Path, box: Box) -> NDArray[np.int_]:
    """Intersection and union at the size of the network's map."""
    found = (logits[1] > logits[0]).numpy()
    with Pillow.open(path) as picture:
        levels = np.array(picture.convert("RGB"))
    truth = cut(levels, box, found.shape[0])[..., 0] > 127
    return np.array([(truth & found).sum(), (truth | found).sum()])


# --- Figures --------------------------------------------------------------------------------------


def summarise(scored: Sequence[Scored]) -> dict[str, Any]:
    """The figures of each set and, under "all", of all files; see `of_set` for what they are."""
    real = [one for one in scored if not one.entry.fake]
    sets = sorted({one.entry.set for one in scored if one.entry.fake})
    table: dict[str, Any] = {
        name: of_set([one for one in scored if one.entry.set == name], real) for name in sets
    }
    table["all"] = of_set(scored, real)
    return table


def of_set(scored: Sequence[Scored], all_real: Sequence[Scored]) -> dict[str, Any]:
    """Numbers of files, and estimates over recordings (None where the set cannot give one).

    `clips` and `frames`: AUC against the set's own real files; `clips_all`: against all real files;
    `pairs`: share of fakes above their own original; `margin`: mean difference in logits;
    `mask_iou`: pooled over the pixels of frames whose mask is known.
    """
    fake = [one for one in scored if one.entry.fake]
    real = [one for one in scored if not one.entry.fake]
    by_file = {one.entry.file: one for one in all_real}
    paired = [(one, by_file[one.entry.original]) for one in fake if one.entry.original in by_file]
    margins = np.array([one.score - other.score for one, other in paired])
    recordings = [one.entry.recording for one, _ in paired]
    overlaps = np.array([one.pixels for one in fake], float).reshape(-1, 2)
    marked = [one for one in fake if one.pixels[1]]
    return {
        "fake": len(fake),
        "real": len(real),
        "recordings": len({one.entry.recording for one in scored}),
        "clips": _area([*fake, *real]),
        "clips_all": _area([*fake, *all_real]),
        "frames": _frame_area([*fake, *real]),
        "pairs": _over(lambda i: float((margins[i] > 0).mean()), recordings),
        "margin": _over(lambda i: float(margins[i].mean()), recordings),
        "mask_iou": _over(
            lambda i: (
                float(overlaps[overlaps[:, 1] > 0][i, 0].sum())
                / float(overlaps[overlaps[:, 1] > 0][i, 1].sum())
            ),
            [one.entry.recording for one in marked],
        ),
    }


def _over(statistic: Callable[[NDArray[np.intp]], float], recordings: Sequence[str]) -> Any:
    return estimated(statistic, recordings) if recordings else None


def _area(scored: Sequence[Scored]) -> Estimate | None:
    return estimated_auc(
        [one.entry.fake for one in scored],
        [one.score for one in scored],
        [one.entry.recording for one in scored],
    )


def _frame_area(scored: Sequence[Scored]) -> Estimate | None:
    return estimated_auc(
        [one.entry.fake for one in scored for _ in one.logits],
        [value for one in scored for value in one.logits],
        [one.entry.recording for one in scored for _ in one.logits],
        rounds=200,
    )


def compare(one: Sequence[Scored], other: Sequence[Scored]) -> dict[str, Estimate]:
    """Differences of one less other on the same files, by bootstrap over recordings.

    `clips`: AUC of all fakes against all real files; `pairs`: share of fakes above their original.

    Raises:
        UsageError: they were not scored on the same files.
    """
    if [a.entry for a in one] != [b.entry for b in other]:
        raise UsageError("the two weights were not scored on the same files")
    labels = np.array([a.entry.fake for a in one], int)
    values = np.array([[a.score for a in one], [b.score for b in other]])
    recordings = [a.entry.recording for a in one]
    place = {a.entry.file: i for i, a in enumerate(one)}
    couples = np.array(
        [(i, place[a.entry.original]) for i, a in enumerate(one) if a.entry.original in place]
    )
    above = values[:, couples[:, 0]] > values[:, couples[:, 1]]
    return {
        "clips": estimated(
            lambda i: auc(labels[i], values[0, i]) - auc(labels[i], values[1, i]), recordings
        ),
        "pairs": estimated(
            lambda i: float(above[0, i].mean() - above[1, i].mean()),
            [recordings[i] for i in couples[:, 0]],
        ),
    }


def headline(table: dict[str, Any]) -> float | None:
    """The headline of certification: mean clip AUC over live swap, FF++ c23 and Celeb-DF."""
    parts = [table.get(name, {}).get("clips") for name in HEADLINE]
    return None if None in parts else float(np.mean([part.value for part in parts]))


# --- Command --------------------------------------------------------------------------------------


def main(
    weights: Annotated[Path, typer.Argument(help="Weights (safetensors) or a model's card (JSON)")],
    data: Annotated[Path, typer.Option(help="Folder with manifest.csv")],
    against: Annotated[Path | None, typer.Option(help="Other weights to compare with")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures")] = None,
    faces: Annotated[Path | None, typer.Option(help="File that keeps the faces found")] = None,
    question: Annotated[str, typer.Option(help="Question that this look answers")] = "",
    looks: Annotated[Path | None, typer.Option(help="CSV file that lists all looks")] = None,
    step: Annotated[str, typer.Option(help="What the weights are, for the list of looks")] = "",
) -> None:
    """Score weights on real deepfakes."""
    with exit_on_error("real_deepfakes"):
        if question and looks is not None:
            check_looks(looks, question)
        entries, masks = read_manifest(data)
        boxes = find_faces(data, entries, masks, faces)
        scored, found = {}, {}
        for path in [weights] if against is None else [weights, against]:
            model, name = read_network(path)
            scored[path] = score(NetworkPredictor(model), data, entries, masks, boxes)
            found[path] = {"weights": name, "figures": summarise(scored[path])}
        compared = None if against is None else compare(scored[weights], scored[against])
    for path, values in found.items():
        typer.echo(f"\n{path}\n\n{as_table(values['figures'])}")
    for measure, difference in (compared or {}).items():
        typer.echo(f"{measure}: {figure(difference, sign=True)} less {against}")
    if out is not None:
        report = {
            "format": FORMAT,
            "scored": [as_json(values) for values in found.values()],
            "difference": as_json(compared),
        }
        out.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    if question and looks is not None:
        write_look(looks, question, step, found[weights], compared)


def as_table(table: dict[str, Any]) -> str:
    columns = ("clips", "clips_all", "frames", "pairs", "margin", "mask_iou")
    header = ("set", "fake", "real", *(name.replace("_", " ") for name in columns))
    rows = [
        (name, str(values["fake"]), str(values["real"]), *(figure(values[c]) for c in columns))
        for name, values in table.items()
    ]
    return markdown(header, rows)


_LOOK = ("date", "question", "step", "weights", "headline", "clips", "pairs", "difference")


def check_looks(looks: Path, question: str) -> None:
    """
    Raises:
        UsageError: the question has had its looks.
    """
    asked = sum(row["question"] == question for row in read_looks(looks))
    if asked >= LOOKS:
        raise UsageError(f"{question!r} was asked {asked} times in {looks}: no more than {LOOKS}")


def read_looks(looks: Path | None) -> list[dict[str, str]]:
    """Read all looks at the set from their list; none where there is no list."""
    if looks is None or not looks.is_file():
        return []
    with looks.open(newline="") as lines:
        return list(csv.DictReader(lines))


def write_look(
    looks: Path,
    question: str,
    step: str,
    seen: dict[str, Any],
    compared: dict[str, Estimate] | None,
) -> None:
    """Add one row to the list of looks."""
    table = seen["figures"]
    mean = headline(table)
    row = (
        date.today().isoformat(),
        question,
        step,
        str(seen["weights"]["sha256"])[:12],
        "" if mean is None else f"{mean:.3f}",
        figure(table["all"]["clips"]),
        figure(table["all"]["pairs"]),
        "" if compared is None else figure(compared["clips"], sign=True),
    )
    new = not looks.is_file()
    with looks.open("a", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerows([_LOOK, row] if new else [row])


if __name__ == "__main__":
    typer.run(main)
