"""Training samples: a forged face and its original, degraded alike and cut as a scan cuts.

Every pair follows from (seed, index) alone, so that a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from train.faces import Person
from train.forge.degrade import degrade
from train.forge.forged import FORGES, FaceImage, Forge, Forged, Picture

_KERNELS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
INSIDE = 0.4  # blending weight from which a pixel counts as manipulated


@dataclass(frozen=True, slots=True)
class Pair:
    """Crops (S, S, 3) uint8 RGB of a forged face and its original; mask (S, S) uint8, 0 or 1."""

    forged: Picture
    original: Picture
    mask: np.ndarray
    tags: tuple[str, ...]
    person: str


def load_forge(name: str) -> Forge:
    """The forge of that name.

    Raises:
        KeyError: no forge has that name.
    """
    module, function = FORGES[name].split(":")
    forge: Forge = getattr(import_module(module), function)
    return forge


def forge_face(
    people: Sequence[Person], index: int, forge: str, rng: np.random.Generator
) -> Forged:
    """Forge one face; where the forge needs another person, draw one from the same source."""
    face = people[index].face
    other = None
    if forge == "swap":
        same = [i for i, p in enumerate(people) if p.person != people[index].person]
        other = people[same[rng.integers(len(same))]].face
    return load_forge(forge)(face, rng, other=other)


class Pairs(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """An endless, reproducible stream of pairs.

    An item is (crops (2, S, S, 3) uint8, forged first; mask (S, S) uint8 of the forged; forge).
    """

    def __init__(
        self,
        people: Sequence[Person],
        forges: Mapping[str, float],
        *,
        size: int,
        seed: int,
        length: int,
        gentle: float = 0.0,
    ) -> None:
        """`gentle` is the share of pairs that are spared the harder degradations."""
        self.people = people
        self.gentle = gentle
        self.size = size
        self.seed = seed
        self.length = length
        self.names = list(forges)
        weights = np.array([forges[name] for name in self.names], float)
        self.weights = weights / weights.sum()
        # Sources differ in JPEG history and size: draw the source first, by the square root of its
        # number, so that small ones are seen and no batch is of one kind.
        by_source: dict[str, list[int]] = defaultdict(list)
        for index, person in enumerate(people):
            by_source[person.source].append(index)
        self.sources = list(by_source.values())
        shares = np.sqrt([len(source) for source in self.sources])
        self.shares = shares / shares.sum()

    def __len__(self) -> int:
        return self.length

    def pair(self, index: int, *, person: int | None = None, forge: str | None = None) -> Pair:
        """The pair of that number; a person or forge may be prescribed."""
        rng = np.random.default_rng([self.seed, index])
        source = self.sources[rng.choice(len(self.sources), p=self.shares)]
        chosen = int(source[rng.integers(len(source))])
        drawn = self.names[rng.choice(len(self.names), p=self.weights)]
        if person is not None:
            chosen = person
        forged = forge_face(self.people, chosen, forge or drawn, rng)
        return cut_pair(forged, self.people[chosen], self.size, rng, self.gentle)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        pair = self.pair(index)
        crops = torch.from_numpy(np.stack([pair.forged, pair.original]))
        name = torch.tensor(list(FORGES).index(pair.tags[0]))
        return crops, torch.from_numpy(pair.mask), name


def cut_pair(
    forged: Forged, person: Person, size: int, rng: np.random.Generator, gentle: float = 0.0
) -> Pair:
    """Degrade both pictures alike, then cut the face at the scale of a scan, a little shaken."""
    fake, real = degrade([forged.image, forged.original], rng, gentle)
    shrink = fake.shape[1] / forged.image.shape[1]
    box = crop_square(person.face, rng, shrink)
    kernel = _KERNELS[rng.integers(len(_KERNELS))]
    mask = cv2.resize(forged.mask, (fake.shape[1], fake.shape[0]), interpolation=cv2.INTER_LINEAR)
    crops = [cut(image, box, size, kernel) for image in (fake, real)]
    inside = cut(mask, box, size, cv2.INTER_LINEAR) > INSIDE
    if rng.random() < 0.5:
        crops = [crop[:, ::-1] for crop in crops]
        inside = inside[:, ::-1]
    return Pair(
        np.ascontiguousarray(crops[0]),
        np.ascontiguousarray(crops[1]),
        np.ascontiguousarray(inside.astype(np.uint8)),
        forged.tags,
        person.person,
    )


def crop_square(
    face: FaceImage, rng: np.random.Generator, shrink: float
) -> tuple[float, float, float]:
    """Left, top and side of the square: 1.3 times the longer side of the box, jittered."""
    x1, y1, x2, y2 = (value * shrink for value in face.box)
    side = max(x2 - x1, y2 - y1)
    x = (x1 + x2) / 2 + rng.uniform(-0.06, 0.06) * side
    y = (y1 + y2) / 2 + rng.uniform(-0.06, 0.06) * side
    side *= 1.3 * rng.uniform(0.88, 1.14)
    return x - side / 2, y - side / 2, side


def cut(
    image: np.ndarray, square: tuple[float, float, float], size: int, kernel: int
) -> np.ndarray:
    """Cut a square, edges repeated where it leaves the picture, and resize it to size x size."""
    left, top, side = square
    x1, y1 = round(left), round(top)
    x2, y2 = max(x1 + 2, round(left + side)), max(y1 + 2, round(top + side))
    height, width = image.shape[:2]
    inside = image[max(y1, 0) : max(min(y2, height), 1), max(x1, 0) : max(min(x2, width), 1)]
    padded = cv2.copyMakeBorder(
        inside, max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0),
        cv2.BORDER_REPLICATE,
    )  # fmt: skip
    if kernel == cv2.INTER_AREA and padded.shape[0] < size:
        kernel = cv2.INTER_LINEAR
    return cv2.resize(padded, (size, size), interpolation=kernel)
