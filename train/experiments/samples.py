"""Crops to compare networks on, made once and held in memory, so that all see the same.

A comparison that draws its data anew for each network compares draws too; and making a forged crop
costs as much as a small network's step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from deepscan.errors import UsageError
from train.annotate.procedure import annotate
from train.datasets import open_dataset
from train.evaluation.crops import choose, pictures_of, read_pair
from train.forge.contract import Forged
from train.forge.faces import Person
from train.forge.pairs import INSIDE, Pair, PairStream, crop_square, cut, cut_pair, forge_face
from train.media import evenly

MaskSource = Literal["blend", "annotated"]
MASK_SOURCES: tuple[MaskSource, ...] = get_args(MaskSource)
# Apart from every training seed, and the same for all runs, so that their figures compare.
_MEASURE_SEED = 7_000_003
_CALIBRATION_SHARE = 10  # of so many people in training, one is kept for calibration


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Crops (N, S, S, 3) uint8 RGB, labels (N,) int64, masks (N, S, S) uint8 of 0, 1, 255 unknown.

    `groups` names whom or which video a crop shows, `kinds` how it was manipulated. `unit` crops in
    a row belong together: 2 are a forged one and its original. N crops of side S take 4 N S² bytes.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.uint8]
    groups: tuple[str, ...]
    kinds: tuple[str, ...]
    unit: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        return int(self.crops.shape[1])


def split_calibration(people: Sequence[Person]) -> tuple[list[Person], list[Person]]:
    """People to train on, and people to calibrate on: no person is in both.

    About one in ten, chosen by a checksum of the name, so that it is the same in every run.

    Raises:
        UsageError: too few people: one of the two would be empty.
    """
    chosen = [crc32(person.person.encode()) % _CALIBRATION_SHARE == 0 for person in people]
    rest = [person for person, kept in zip(people, chosen, strict=True) if not kept]
    kept = [person for person, kept in zip(people, chosen, strict=True) if kept]
    if not rest or len({person.person for person in kept}) < 2:
        raise UsageError(
            f"{len(people)} pictures to train on leave {len(kept)} for calibration: "
            "more people are needed"
        )
    return rest, kept


def zoomed(person: Person, zoom: float) -> Person:
    """The same person with a face box of scaled sides round the same centre."""
    x1, y1, x2, y2 = person.face.box
    x, y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * zoom, (y2 - y1) * zoom
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return replace(person, face=replace(person.face, box=box))


def forge_samples(
    people: Sequence[Person],
    forges: Mapping[str, float],
    *,
    size: int,
    seed: int,
    pairs: int,
    masks: MaskSource = "blend",
    augmentation: bool = True,
    workers: int = 0,
) -> Samples:
    """The first pairs of the stream of that seed: forged and original in turn.

    Args:
        people: real faces.
        forges: share of each forge.
        size: side of the crops in pixels.
        seed: of the stream.
        pairs: how many; twice as many crops.
        masks: "blend" is where the forge blended; "annotated" what the procedure of P-FF++ finds
            between forged and original picture before any degradation.
        augmentation: degrade both pictures of a pair as cameras and platforms do.
        workers: processes that make pairs.
    """
    cv2.setNumThreads(0)  # its pool does not survive the fork of the workers
    stream = PairStream(people, forges, size=size, seed=seed, length=pairs)
    made = _Made(stream, masks, degraded=augmentation)
    return _gathered(list(DataLoader(made, batch_size=None, num_workers=workers)))


def measured_samples(
    people: Sequence[Person],
    forges: Mapping[str, float],
    *,
    size: int,
    degraded: bool = True,
    workers: int = 0,
) -> Samples:
    """Each picture through each forge, with exact masks: crops to measure on."""
    cv2.setNumThreads(0)
    length = len(people) * len(forges)
    stream = PairStream(people, forges, size=size, seed=_MEASURE_SEED, length=length)
    made = _Made(stream, "blend", degraded, in_turn=True)
    return _gathered(list(DataLoader(made, batch_size=None, num_workers=workers)))


def dataset_samples(
    name: str,
    root: Path,
    split: str,
    *,
    size: int,
    compression: str = "",
    limit: int | None = None,
) -> Samples:
    """Pictures of a data set that are face crops already, resized to the network's input.

    As in the official protocol the aspect is not kept. With a limit, pictures are taken evenly over
    the split.

    Raises:
        UsageError: the data set, split or compression is not there, or its samples are videos.
    """
    chosen = choose(open_dataset(name, root), split, compression)
    pictures = [picture for sample in chosen for picture in pictures_of(sample)]
    pictures = evenly(pictures, limit or 0)
    crops, masks = [], []
    for picture in pictures:
        image, mask = read_pair(picture)
        crops.append(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR))
        masks.append(cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST))
    return Samples(
        np.stack(crops),
        np.array([picture.label for picture in pictures]),
        np.stack(masks),
        tuple(str(picture.original or picture.video) for picture in pictures),
        tuple(picture.manipulation for picture in pictures),
    )


class _Made(Dataset[Pair]):
    """Pair i of a stream, with the masks and degradations asked for.

    `in_turn` is each picture through each forge, else both are drawn.
    """

    def __init__(
        self, stream: PairStream, masks: MaskSource, degraded: bool, *, in_turn: bool = False
    ) -> None:
        self.stream, self.masks, self.degraded, self.in_turn = stream, masks, degraded, in_turn

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: int) -> Pair:
        stream = self.stream
        rng = np.random.default_rng([stream.seed, index])
        source = stream.sources[rng.choice(len(stream.sources), p=stream.shares)]
        chosen = int(source[rng.integers(len(source))])
        forge = stream.names[rng.choice(len(stream.names), p=stream.weights)]
        if self.in_turn:
            chosen, number = index % len(stream.people), index // len(stream.people)
            forge = sorted(stream.names)[number]
        forged = forge_face(stream.people, chosen, forge, rng)
        if self.masks == "annotated":
            forged = _annotated(forged)
        person = stream.people[chosen]
        if self.degraded:
            return cut_pair(forged, person, stream.size, rng)
        return _cut_untouched(forged, person, stream.size, rng)


def _annotated(forged: Forged) -> Forged:
    found = annotate(forged.original, forged.image)
    if found is None:
        return replace(forged, mask=np.zeros_like(forged.mask))
    return replace(forged, mask=(found.mask > 0).astype(np.float32))


def _cut_untouched(forged: Forged, person: Person, size: int, rng: np.random.Generator) -> Pair:
    square = crop_square(person.face, rng, 1.0)
    crops = [cut(image, square, size, cv2.INTER_AREA) for image in (forged.image, forged.original)]
    inside = cut(forged.mask, square, size, cv2.INTER_LINEAR) > INSIDE
    return Pair(crops[0], crops[1], inside.astype(np.uint8), forged.tags, person.person)


def _gathered(pairs: Sequence[Pair]) -> Samples:
    return Samples(
        np.stack([crop for pair in pairs for crop in (pair.forged, pair.original)]),
        np.tile(np.array([1, 0]), len(pairs)),
        np.stack([mask for pair in pairs for mask in (pair.mask, np.zeros_like(pair.mask))]),
        tuple(pair.person for pair in pairs for _ in range(2)),
        tuple(kind for pair in pairs for kind in (pair.tags[0], pair.tags[0])),
        unit=2,
    )
