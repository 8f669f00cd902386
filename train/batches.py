"""Batches of a run: made by forges from a folder of faces, or read from a data set on disk.

A batch follows from the seed and its number alone, so that a resumed run sees what an
unbroken one would; and each has a measure on people or videos that training never shows.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from deepscan.errors import UsageError
from deepscan.models.deploy import Deployed
from train.datasets import Sample, Truth, VideoKey, open_dataset
from train.datasets.transforms import transform
from train.evaluation.crops import Reading, choose, pictures_of, read_crops, read_pair
from train.evaluation.metrics import auc, iou
from train.evaluation.predict import NetworkPredictor, predict
from train.evaluation.validation import validate
from train.forge import check_pack
from train.forge.faces import data_hash, read_faces
from train.forge.pairs import PairOptions, PairStream
from train.media import evenly
from train.recipe import DatasetOptions, Recipe

log = logging.getLogger(__name__)
Item = tuple[Tensor, Tensor, Tensor]
_SHUFFLE = 1_000_003  # apart from the draws within an item


class HeldOutScore(NamedTuple):
    """Scores of a network on the held-out part: frame AUC, IoU of the manipulated class."""

    auc: float
    iou: float
    text: str


def open_training_data(recipe: Recipe, data: Path, pack: Path | None = None) -> TrainingData:
    """The recipe's data in a folder; `pack` is the pack that some forges need.

    Raises:
        UsageError: the folder or a part of it is missing, or it is another data set's, or a forge
            of the recipe needs a pack and there is none.
    """
    if recipe.dataset is None:
        return ForgedFaces(recipe, data, pack)
    return PairedPictures(recipe, recipe.dataset, data)


class ForgedFaces:
    """Fakes made on the fly; mask (S, S) of the forged, the original's is empty."""

    pairs: int | None = None

    def __init__(self, recipe: Recipe, data: Path, pack: Path | None = None) -> None:
        check_pack(recipe.forges, pack)
        self._recipe = recipe
        self._people = read_faces(data, "train", pack)
        self._held_out = read_faces(data, "val", pack)
        self.sha256 = data_hash(data)
        if pack is not None:
            both = self.sha256 + hashlib.sha256(pack.read_bytes()).hexdigest()
            self.sha256 = hashlib.sha256(both.encode()).hexdigest()

    def stream(self, size: int, batch: int, length: int, mild: float = 0.0) -> Dataset[Item]:
        recipe = self._recipe
        options = PairOptions(mild, recipe.benign, recipe.tilt, recipe.codecs)
        return PairStream(
            self._people,
            recipe.forges,
            size=size,
            seed=recipe.seed,
            length=length,
            options=options,
        )

    def validate(self, model: Deployed) -> HeldOutScore:
        report = validate(model, self._held_out, self._recipe.forges)
        return HeldOutScore(report.auc.value, report.iou.value, str(report))


class PairedPictures:
    """Every fake picture of a split with its own real one; masks (2, S, S)."""

    def __init__(self, recipe: Recipe, options: DatasetOptions, data: Path) -> None:
        self._recipe = recipe
        self._options = options
        dataset = open_dataset(options.name, data)
        chosen = choose(dataset, options.split, options.compression, options.manipulations)
        pictures = [picture for sample in chosen for picture in pictures_of(sample)]
        self._couples = couples(pictures)
        _check_truth(recipe, options, pictures)
        self.pairs: int | None = len(self._couples)
        listed = sorted(f"{p.path.relative_to(data).as_posix()} {p.label}" for p in pictures)
        self.sha256 = hashlib.sha256("\n".join(listed).encode()).hexdigest()
        self._held_out: list[Sample] = []
        if options.val:
            if options.val not in dataset.splits:
                raise UsageError(
                    f"{data}: no split {options.val!r} to validate on; there are "
                    f'{", ".join(dataset.splits)} (dataset.val = "" for none)'
                )
            held = choose(dataset, options.val, options.compression, options.manipulations)
            self._held_out = _some([p for s in held for p in pictures_of(s)], options.val_crops)

    def stream(self, size: int, batch: int, length: int, mild: float = 0.0) -> Dataset[Item]:
        recipe = self._recipe
        return DatasetPairStream(self._couples, self._options, size, recipe.seed, batch, length)

    def validate(self, model: Deployed) -> HeldOutScore | None:
        if not self._held_out:
            return None
        crops = (crop for sample in self._held_out for crop in read_crops(sample, Reading()))
        predictions = list(predict(crops, NetworkPredictor(model)))
        value = auc([one.label for one in predictions], [one.score for one in predictions])
        fakes = [one.confusion for one in predictions if one.label and one.confusion is not None]
        overlap = iou(np.sum(fakes, axis=0), 1) if fakes else float("nan")
        text = f"AUC {value:.3f}; mask IoU {overlap:.3f} over fakes; {len(predictions)} crops"
        return HeldOutScore(value, overlap, text)


TrainingData = ForgedFaces | PairedPictures
"""Training data of a run. Each has `pairs`, the length of an epoch (None for made data), `sha256`,
which names the data, `stream`, the pairs by number, and `validate`, which measures a network on
what was held out (None where nothing was)."""

Couple = tuple[Sample, tuple[Sample, ...]]


def couples(pictures: Sequence[Sample]) -> list[Couple]:
    """Each fake picture with the real ones that may stand beside it.

    The same frame of the video that it was made from; without such a frame any frame of that video;
    where the data set does not say from what it was made, or that is not there, any real picture.

    Raises:
        UsageError: there are no fakes or no real pictures.
    """
    real = [picture for picture in pictures if picture.label == 0]
    fake = [picture for picture in pictures if picture.label == 1]
    if not real or not fake:
        raise UsageError(f"{len(fake)} fake and {len(real)} real pictures: training needs both")
    frames: dict[tuple[VideoKey, int | None], list[Sample]] = defaultdict(list)
    videos: dict[VideoKey, list[Sample]] = defaultdict(list)
    for picture in real:
        frames[picture.video, picture.frame].append(picture)
        videos[picture.video].append(picture)
    everyone = tuple(real)
    found: list[Couple] = []
    strangers = 0
    for picture in fake:
        partners = None
        if picture.original is not None:
            partners = frames.get((picture.original, picture.frame)) or videos.get(picture.original)
        strangers += partners is None
        found.append((picture, tuple(partners) if partners else everyone))
    if strangers:
        log.warning("%d of %d fakes are paired with any real picture", strangers, len(fake))
    return found


class DatasetPairStream(Dataset[Item]):
    """Couples in an order shuffled anew each epoch, what does not fill a batch dropped."""

    def __init__(
        self,
        couples: Sequence[Couple],
        options: DatasetOptions,
        size: int,
        seed: int,
        batch: int,
        length: int,
    ) -> None:
        self._couples = couples
        self._options = options
        self._size = size
        self._seed = seed
        # Data smaller than a batch (a smoke run) come again within it.
        self._epoch = max(len(couples) // batch * batch, min(batch, len(couples)))
        self._length = length
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Item:
        epoch, place = divmod(index, self._epoch)
        if self._order is None or self._order[0] != epoch:
            shuffle = np.random.default_rng([self._seed, _SHUFFLE, epoch])
            self._order = epoch, shuffle.permutation(len(self._couples))
        fake, partners = self._couples[self._order[1][place]]
        rng = np.random.default_rng([self._seed, index])
        real = partners[rng.integers(len(partners))]
        made = [
            transform(*read_pair(sample), rng, self._size, self._options.transforms)
            for sample in (fake, real)
        ]
        crops = torch.from_numpy(np.stack([crop for crop, _ in made]))
        masks = torch.from_numpy(np.stack([mask for _, mask in made]))
        return crops, masks, torch.tensor(place)


def _check_truth(recipe: Recipe, options: DatasetOptions, pictures: Sequence[Sample]) -> None:
    """Masks cannot be learned from fakes that have none."""
    without = sum(picture.truth is Truth.NONE for picture in pictures)
    if without and ("mask" in recipe.losses or "coarse" in recipe.losses):
        raise UsageError(
            f"{without} fakes of {options.name}, split {options.split}, have no mask: leave mask "
            "and coarse out of [losses], or out those manipulations"
        )


def _some(pictures: list[Sample], most: int) -> list[Sample]:
    """Limit samples to a number, evenly over each class, so that both remain."""
    if not most or len(pictures) <= most:
        return pictures
    return [
        picture
        for label in (0, 1)
        for picture in evenly([one for one in pictures if one.label == label], max(1, most // 2))
    ]
