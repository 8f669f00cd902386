"""DFDC: the Deepfake Detection Challenge; 119154 training, 4000 validation, 5000 test videos.

Layout: training parts `dfdc_train_part_0/` ... `dfdc_train_part_49/`, in the folder itself or below
`train/`, each with its videos and a `metadata.json` of `{"a.mp4": {"label": "FAKE", "split":
"train", "original": "b.mp4"}}`. `validation/` and `test/` hold `labels.csv` (`filename,label`, 1 =
fake) or `metadata.json` (`{"a.mp4": {"is_fake": 1}}`), videos beside it or below `videos/`. The
layout of the two was taken from public loaders, not checked on the data. No masks; the sound of
some fakes is forged too; the labels do not say of which.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from train.datasets.layout import LayoutError, Part, check_split, first_file, wrong_layout
from train.datasets.sample import REAL, Sample, Truth, VideoKey

NAME = "DFDC"
METHOD = "dfdc"  # which of the challenge's methods made a video is not public
SPLITS = ("train", "val", "test")
_FOLDERS = {"val": "validation", "test": "test"}
_COUNTS = {"val": 4000, "test": 5000}


class DFDC:
    """The videos of DFDC that have a label and are there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        places = (root, root / "train")
        self._parts = sorted(
            path for place in places for path in place.glob("dfdc_train_part_*") if path.is_dir()
        )
        labelled = [split for split in _FOLDERS if self._labels(split)]
        self.splits = ("train",) * bool(self._parts) + tuple(labelled)
        if not self.splits:
            raise wrong_layout(
                root, NAME, "dfdc_train_part_*/metadata.json or test/{labels.csv,metadata.json}"
            )

    def parts(self) -> list[Part]:
        # 50 parts; a part is counted by its label file, which is read quickly.
        parts = [Part("dfdc_train_part_*", len(self._parts), 50)]
        for split, folder in _FOLDERS.items():
            labels = self._labels(split)
            found = sum(1 for _ in self._labelled(split, labels)) if labels else 0
            parts.append(Part(folder, found, _COUNTS[split]))
        return parts

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(NAME, split, SPLITS)
        if split == "train":
            if not self._parts:
                raise LayoutError(
                    f"{self._root}: split train: expected dfdc_train_part_*/; found "
                    f"{', '.join(self.splits)}"
                )
            for part in self._parts:
                yield from self._training(part)
            return
        labels = self._labels(split)
        if labels is None:
            expected = f"{_FOLDERS[split]}/labels.csv or metadata.json"
            raise LayoutError(f"{self._root}: split {split}: expected {expected}; found neither")
        yield from self._labelled(split, labels)

    def _training(self, part: Path) -> Iterator[Sample]:
        labels = part / "metadata.json"
        if not labels.is_file():
            raise LayoutError(f"{part}: expected metadata.json; found none")
        for file, facts in sorted(_read(labels).items()):
            if not (part / file).is_file():
                continue
            name = facts.get("original")
            original = VideoKey(NAME, REAL, Path(name).stem) if name else None
            yield _sample(part / file, facts.get("label") == "FAKE", "train", original)

    def _labels(self, split: str) -> Path | None:
        folder = self._root / _FOLDERS[split]
        return first_file(folder / "labels.csv", folder / "metadata.json")

    def _labelled(self, split: str, labels: Path) -> Iterator[Sample]:
        if labels.suffix == ".csv":
            with labels.open(newline="", encoding="utf-8") as lines:
                rows = csv.DictReader(lines)
                if not {"filename", "label"} <= set(rows.fieldnames or ()):
                    raise LayoutError(f"{labels}: expected filename,label; found {rows.fieldnames}")
                fakes = {row["filename"]: row["label"] == "1" for row in rows}
        else:
            fakes = {file: bool(facts.get("is_fake")) for file, facts in _read(labels).items()}
        for file, fake in sorted(fakes.items()):
            path = first_file(labels.parent / file, labels.parent / "videos" / file)
            if path is not None:
                yield _sample(path, fake, split, None)


def _sample(path: Path, fake: bool, split: str, original: VideoKey | None) -> Sample:
    key = VideoKey(NAME, METHOD if fake else REAL, path.stem)
    return Sample(
        key, path, int(fake), split, Truth.NONE if fake else Truth.CLEAN, original=original
    )


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        facts = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise LayoutError(f"{path}: expected a JSON object of videos; found {error}") from error
    if not isinstance(facts, dict) or not all(isinstance(v, dict) for v in facts.values()):
        raise LayoutError(f"{path}: expected a JSON object of videos; found something else")
    return facts
