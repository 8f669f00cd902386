"""Training samples: a forged face and its original, degraded alike and cut as a scan cuts.

Every pair follows from (seed, index) alone, so that a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from train.forge import FORGES, load_forge
from train.forge.benign_edits import EDITS, OCCLUDERS
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.degrade import degrade
from train.forge.faces import Person
from train.forge.mesh import Mesh, moved
from train.forge.tilt import tilted

_KERNELS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
INSIDE = 0.4  # blending weight from which a pixel counts as manipulated
VISIBLE = 1.0  # grey levels that a forge must change within its mask; less is no manipulation
SMALLEST = 0.01  # share of the face box that a mask must cover
_ATTEMPTS = 3
_MILD_WHEN_SMALL = 0.7  # share of pictures that a forge made smaller which are degraded mildly
_ALIKE_CANDIDATES = 20  # strangers among whom the most alike is found
_CANDIDATES = 5  # strangers to choose a swap's other face from
_TRIM = 1.75  # side of what is degraded over the longer side of the face box: more is never cut
_OCCLUDER = 0.3  # share of edited pairs that something lies over


@dataclass(frozen=True, slots=True)
class PairOptions:
    """Edits of pairs beside the forging.

    `mild` is the share that is spared the harder degradations, `benign` the share that gets edits
    which are no manipulation, `tilt` that of tilted heads; `codecs` is one of
    `train.forge.degrade.CODECS`.
    """

    mild: float = 0.0
    benign: float = 0.0
    tilt: float = 0.0
    codecs: str = "video"


@dataclass(frozen=True, slots=True)
class Pair:
    """Crops (S, S, 3) uint8 RGB of a forged face and its original; mask (S, S) uint8, 0 or 1."""

    forged: Picture
    original: Picture
    mask: np.ndarray
    tags: tuple[str, ...]
    person: str


def forge_face(
    people: Sequence[Person],
    index: int,
    forge: str,
    rng: np.random.Generator,
    *,
    face: FaceImage | None = None,
) -> Forged:
    """Forge one face, or a cut of it; where the forge takes another person, draw one."""
    person = people[index]
    face = face or person.face
    other = None
    wanted = FORGES[forge].other
    if wanted == "alike" and face.mesh is not None:
        other = _most_alike(people, person, face, rng)
    elif wanted != "none":
        other = _somebody_else(people, person, rng)
    return load_forge(forge)(face, rng, other=other)


def _most_alike(
    people: Sequence[Person], person: Person, face: FaceImage, rng: np.random.Generator
) -> FaceImage | None:
    """Another person's face, of those drawn the most alike in pose, expression, light and skin."""
    drawn = [people[int(i)] for i in rng.integers(len(people), size=_ALIKE_CANDIDATES)]
    others = [
        (other.face, other.face.mesh)
        for other in drawn
        if other.person != person.person and other.face.mesh is not None
    ]
    if face.mesh is None or not others:
        return _somebody_else(people, person, rng)
    own = dense_appearance(face.image, face.mesh)
    differences = [
        np.abs(dense_appearance(other.image, mesh) - own).sum() for other, mesh in others
    ]
    # A face of few pixels has nothing to show in a large one.
    sizes = [np.log(np.ptp(face.mesh[:, 0]) / np.ptp(mesh[:, 0])) for _, mesh in others]
    return others[int(np.argmin(differences + 12 * np.maximum(np.array(sizes) - 0.1, 0)))][0]


def _somebody_else(
    people: Sequence[Person], person: Person, rng: np.random.Generator
) -> FaceImage | None:
    """Another person's face, half the time the most alike of a few; None if there is none."""
    drawn = [people[int(i)] for i in rng.integers(len(people), size=_CANDIDATES)]
    wanted = _CANDIDATES if rng.random() < 0.5 else 1
    others = [other for other in drawn if other.person != person.person]
    if not others:
        others = [other for other in people if other.person != person.person]
    if not others:
        return None
    own = _appearance(person.face)
    differences = [np.abs(_appearance(other.face) - own).sum() for other in others[:wanted]]
    return others[int(np.argmin(differences))].face


def _appearance(face: FaceImage) -> np.ndarray:
    """Pose and colour, roughly: landmarks by the distance of the eyes, and the skin beside them."""
    eyes = face.landmarks[1] - face.landmarks[0]
    unit = max(float(np.hypot(*eyes)), 1.0)
    shape = (face.landmarks - face.landmarks.mean(0)) / unit * 8
    height, width = face.image.shape[:2]
    x, y = np.clip(face.landmarks[2] - (0, 0.2 * unit), 0, (width - 1, height - 1)).astype(int)
    skin = face.image[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].mean((0, 1)) / 25
    return np.concatenate([shape.ravel(), skin])


# Brows, nose, cheeks and chin: where skin shows, and light from either side.
_SKIN = np.array((151, 108, 337, 50, 280, 205, 425, 5, 199))


def dense_appearance(image: Picture, mesh: Mesh) -> np.ndarray:
    """Pose, expression, light and skin: points of the mesh without turn and size, and colours.

    Args:
        image: (H, W, 3) uint8.
        mesh: (478, 3) of the face in it.
    """
    points = mesh[::6, 0] + 1j * mesh[::6, 1]
    points = points - points.mean()
    eyes = mesh[263] - mesh[33]
    # The outer corners of the eyes give the turn; size is that of the whole.
    turn = np.exp(-1j * np.arctan2(eyes[1], eyes[0])) / max(float(np.abs(points).mean()), 1e-3)
    shape = points * turn * (40 / len(points))
    height, width = image.shape[:2]
    x, y = np.clip(mesh[_SKIN, :2].round().astype(int), 1, (width - 2, height - 2)).T
    patches = image[np.add.outer((-1, 0, 1), y)[:, None], np.add.outer((-1, 0, 1), x)[None]]
    skin = patches.reshape(9, -1, 3).mean(0)
    # Pictures without colours are for each other.
    colourful = np.ptp(skin, axis=1).mean(keepdims=True) / 4
    return np.concatenate([shape.real, shape.imag, skin.ravel() / 75, colourful])


class PairStream(Dataset[tuple[Tensor, Tensor, Tensor]]):
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
        options: PairOptions = PairOptions(),
    ) -> None:
        self.people = people
        self.options = options
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
        face = self.people[chosen].face
        if self.options.tilt > 0 and rng.random() < self.options.tilt:
            face = tilted(face, rng)
        kept = replace(self.people[chosen], face=trimmed(face))
        for _ in range(_ATTEMPTS):
            made = forge_face(self.people, chosen, forge or drawn, rng, face=kept.face)
            if visible(made, kept.face):
                break
        return cut_pair(made, kept, self.size, rng, self.options)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        pair = self.pair(index)
        crops = torch.from_numpy(np.stack([pair.forged, pair.original]))
        name = torch.tensor(list(FORGES).index(pair.tags[0]))
        return crops, torch.from_numpy(pair.mask), name


def visible(forged: Forged, face: FaceImage) -> bool:
    """True if the change is visible in pixels; otherwise the label would be wrong."""
    inside = forged.mask > INSIDE
    x1, y1, x2, y2 = face.box
    if inside.sum() < max(1.0, SMALLEST * (x2 - x1) * (y2 - y1)):
        return False
    return _apart(forged.image, forged.original, inside) >= VISIBLE


def _apart(one: Picture, two: Picture, inside: np.ndarray) -> float:
    """Mean difference in grey levels where `inside` holds (somewhere)."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return float(cv2.absdiff(one[window], two[window])[inside[window]].mean())


def edit_pair(
    forged: Forged, landmarks: np.ndarray, rng: np.random.Generator
) -> tuple[Forged, bool]:
    """Edit both pictures alike or apart, so that no edit shows which of them is forged.

    What lies over a face lies over both, and is taken out of the mask. Edits of the picture are,
    with equal chance, one draw for both, or drawn for each apart from the other: then real pictures
    have edits that their fakes lack and the other way round, but each kind of picture has every
    edit equally often, at every strength.

    Args:
        forged: the pair.
        landmarks: (5, 2) of the face.
        rng: consumed by the draw.

    Returns:
        The pair, its tags longer by the edits of the forged picture, and whether both had the same.
    """
    if rng.random() < _OCCLUDER:
        name = list(OCCLUDERS)[rng.integers(len(OCCLUDERS))]
        height, width = forged.mask.shape
        layer = OCCLUDERS[name](height, width, landmarks, rng)
        left = forged.mask * (1 - layer.cover)
        # A fake of which little is left to see would be a wrong label.
        if (left > INSIDE).sum() < 0.5 * (forged.mask > INSIDE).sum():
            return forged, True
        return (
            replace(
                forged,
                image=layer.over(forged.image),
                original=layer.over(forged.original),
                mask=left,
                tags=(*forged.tags, name),
            ),
            True,
        )
    seeds = rng.integers(2**63, size=2)
    alike = bool(rng.random() < 0.5)
    if alike:
        seeds[1] = seeds[0]
    (image, names), (original, _) = (
        edited(picture, landmarks, np.random.default_rng(int(seed)))
        for picture, seed in zip((forged.image, forged.original), seeds, strict=True)
    )
    made = replace(forged, image=image, original=original, tags=(*forged.tags, *names))
    return made, alike


def edited(
    image: Picture, landmarks: np.ndarray, rng: np.random.Generator
) -> tuple[Picture, tuple[str, ...]]:
    """A picture after none, one or two edits, and their names."""
    count = int(rng.choice(3, p=(0.25, 0.55, 0.2)))
    names = tuple(str(name) for name in rng.choice(list(EDITS), count, replace=False))
    for name in names:
        image = EDITS[name](image, landmarks, rng)
    return image, names


def cut_pair(
    forged: Forged,
    person: Person,
    size: int,
    rng: np.random.Generator,
    options: PairOptions = PairOptions(),
) -> Pair:
    """Edit and degrade both pictures, then cut the face at the scale of a scan, a little shaken."""
    alike, mild = True, options.mild
    if options.benign > 0 and rng.random() < options.benign:
        forged, alike = edit_pair(forged, person.face.landmarks, rng)
    width = forged.image.shape[1]
    if forged.reduced < 1:
        # What is small already is not made much smaller.
        forged, mild = smaller(forged), max(mild, _MILD_WHEN_SMALL)
    fake, real = degrade([forged.image, forged.original], rng, mild, options.codecs)
    if alike and not _survives(forged.mask, fake, real):
        # Coding erased the manipulation, and its label with it: both are degraded mildly.
        fake, real = degrade([forged.image, forged.original], rng, 1.0, options.codecs)
    shrink = fake.shape[1] / width
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


def smaller(forged: Forged) -> Forged:
    """Both pictures and the mask, made smaller by the factor that the forge asks for."""
    height, width = forged.mask.shape
    size = (max(16, round(width * forged.reduced)), max(16, round(height * forged.reduced)))
    image, original, mask = (
        cv2.resize(one, size, interpolation=cv2.INTER_AREA)
        for one in (forged.image, forged.original, forged.mask)
    )
    return replace(forged, image=image, original=original, mask=mask, reduced=1.0)


def _survives(mask: np.ndarray, fake: Picture, real: Picture) -> bool:
    height, width = fake.shape[:2]
    inside = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) > INSIDE
    return bool(inside.any()) and _apart(fake, real, inside) >= VISIBLE


def trimmed(face: FaceImage) -> FaceImage:
    """Cut off the parts that no crop can show: processing them would only cost time."""
    x1, y1, x2, y2 = face.box
    reach = _TRIM / 2 * max(x2 - x1, y2 - y1)
    height, width = face.image.shape[:2]
    left, right = np.clip(((x1 + x2) / 2 - reach, (x1 + x2) / 2 + reach), 0, width).astype(int)
    top, bottom = np.clip(((y1 + y2) / 2 - reach, (y1 + y2) / 2 + reach), 0, height).astype(int)
    if right - left < 16 or bottom - top < 16:
        return face
    return replace(
        face,
        image=np.ascontiguousarray(face.image[top:bottom, left:right]),
        landmarks=face.landmarks - (left, top),
        box=(x1 - left, y1 - top, x2 - left, y2 - top),
        mesh=moved(face.mesh, np.array([[1, 0, -left], [0, 1, -top]])),
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
