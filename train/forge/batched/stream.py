"""Training batches made where the network trains: every batch follows from (seed, step) alone.

The life of a pair is the same as in `train.pairs`: a head is taken upright or leaning, forged,
edited harmlessly, degraded, and cut at the scale of a scan; fake and original share all but the
forging. What a batch looks like is drawn on the CPU (who, which forge), so that nothing waits for
the device; everything within pictures is drawn there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from deepscan.errors import UsageError
from train.forge.batched.degrade import degrade
from train.forge.batched.faces import (
    BATCHED,
    BatchedForge,
    Faces,
    Made,
    apply,
    blur,
    sample,
    then,
    uniform,
    warp,
)
from train.forge.batched.harmless import harmless
from train.forge.batched.pack import Portraits
from train.forge.forged import NEED_DECODED, WITH_OTHER
from train.pairs import INSIDE, SMALLEST, VISIBLE

_CANDIDATES = 5  # strangers to choose a swap's other face from
_LEAN, _NARROW, _SHEAR = 30.0, 0.82, 0.08  # as in train.forge.tilt
_MIRRORED = (1, 0, 2, 4, 3)  # landmarks of a mirrored face, left and right by their new places


def load_batched(name: str) -> BatchedForge:
    """The batched forge of that name.

    Raises:
        KeyError: no forge has that name.
    """
    module, function = BATCHED[name].split(":")
    forge: BatchedForge = getattr(import_module(module), function)
    return forge


class BatchedPairs:
    """An endless, reproducible stream of batches on a device.

    A batch is (crops (B, 2, S, S, 3) uint8, forged first; mask (B, S, S) uint8 of the forged;
    forge (B,) int64, the place in `names`).
    """

    def __init__(
        self,
        portraits: Portraits,
        forges: Mapping[str, float],
        *,
        size: int,
        seed: int,
        gentle: float = 0.0,
        edits: float = 0.0,
        tilt: float = 0.0,
    ) -> None:
        """`gentle`, `edits` and `tilt` are shares, as `gentle`, `harmless` and `tilt` of
        `train.pairs.Pairs`.

        Raises:
            UsageError: a forge needs redrawn copies that are not there, or there is one person.
        """
        needing = sorted(name for name in NEED_DECODED if forges.get(name, 0) > 0)
        if needing and portraits.decoded is None:
            raise UsageError(
                f"the forges {', '.join(needing)} need a pack of redrawn faces: make one with "
                "train.forge.pack and give it as --decoded"
            )
        if len(set(portraits.people)) < 2:
            raise UsageError("forging needs the faces of at least two people")
        self.names = [name for name, share in forges.items() if share > 0]
        weights = np.array([forges[name] for name in self.names], float)
        self._shares = weights / weights.sum()
        self._portraits = portraits
        self._size, self._seed = size, seed
        self._gentle, self._edits, self._tilt = gentle, edits, tilt
        # As in train.pairs: a source is drawn by the square root of its number.
        sources = np.array(portraits.sources)
        counts = {name: int((sources == name).sum()) for name in set(portraits.sources)}
        each = np.array([np.sqrt(counts[name]) / counts[name] for name in portraits.sources])
        self._people_shares = each / each.sum()
        self._people = np.array(portraits.people)
        self._looks = _looks(portraits)

    def batch(
        self,
        step: int,
        pairs: int,
        *,
        people: Sequence[int] | None = None,
        forges: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of that number; who and how may be prescribed for each pair."""
        rng = np.random.default_rng([self._seed, step])
        device = self._portraits.images.device
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        who = rng.choice(len(self._people), pairs, p=self._people_shares)
        how = rng.choice(len(self.names), pairs, p=self._shares)
        strangers = self._strangers(who, rng)
        if people is not None:
            who = np.asarray(people)
            strangers = self._strangers(who, rng)
        if forges is not None:
            how = np.array([self.names.index(name) for name in forges])
        faces = self._portraits.faces(torch.from_numpy(who).to(device))
        faces = _postured(faces, generator, self._tilt)
        others = self._portraits.faces(torch.from_numpy(strangers).to(device))
        made = self._forged(faces, others, how, generator)
        crops, masks = self._cut(made, faces, generator)
        return crops, masks, torch.from_numpy(how).to(device)

    def _strangers(self, who: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Somebody else for each; half the time the most alike of a few."""
        drawn = rng.integers(len(self._people), size=(len(who), _CANDIDATES))
        apart = np.abs(self._looks[drawn] - self._looks[who][:, None]).sum(2)
        same = self._people[drawn] == self._people[who][:, None]
        any_first = np.arange(_CANDIDATES)[None] + 0.0
        alike = rng.random(len(who)) < 0.5
        order = np.where(alike[:, None], apart, any_first) + np.where(same, np.inf, 0.0)
        found = drawn[np.arange(len(who)), order.argmin(1)]
        for place in np.flatnonzero(same.all(1)):
            found[place] = rng.choice(np.flatnonzero(self._people != self._people[who[place]]))
        return found

    def _forged(
        self, faces: Faces, others: Faces, how: np.ndarray, generator: torch.Generator
    ) -> Made:
        images, originals = faces.images.clone(), faces.images.clone()
        masks = torch.zeros_like(images[:, :1])
        for number in np.unique(how):
            name = self.names[number]
            places = torch.from_numpy(np.flatnonzero(how == number)).to(images.device)
            made = load_batched(name)(
                faces[places], generator, others=others[places] if name in WITH_OTHER else None
            )
            images[places], originals[places] = made.images, made.originals
            masks[places] = made.masks
        return Made(images, originals, masks)

    def _cut(self, made: Made, faces: Faces, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pairs = torch.stack([made.images, made.originals], dim=1)
        masks = made.masks
        if self._edits > 0:
            pairs, cover = harmless(pairs, faces.landmarks, generator, self._edits)
            masks = masks * (1 - cover)
        pairs = degrade(pairs, generator, self._gentle)
        whole = masks
        crops, masks = _crops(pairs, masks, faces, self._size, generator)
        inside = masks > INSIDE
        kept = _shown(pairs, whole, faces)
        # A pair of which nothing shows would be a wrong label: another one takes its place.
        count = len(kept)
        first = torch.argmax(kept.to(torch.int8))
        index = torch.where(kept, torch.arange(count, device=kept.device), first)
        levels = (crops.clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.permute(0, 1, 3, 4, 2)[index].contiguous(), inside[index].to(torch.uint8)

    def batches(self, start: int, stop: int, pairs: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Crops and masks of the steps [start, stop)."""
        for step in range(start, stop):
            crops, masks, _ = self.batch(step, pairs)
            yield crops, masks


def _looks(portraits: Portraits) -> np.ndarray:
    """Pose and colour, roughly, as `train.pairs` compares people: (N, 13)."""
    landmarks = portraits.landmarks.cpu().numpy()
    eyes = landmarks[:, 1] - landmarks[:, 0]
    unit = np.maximum(np.hypot(eyes[:, 0], eyes[:, 1]), 1.0)
    shape = (landmarks - landmarks.mean(1, keepdims=True)) / unit[:, None, None] * 8
    side = portraits.images.shape[-1]
    skin = []
    images = portraits.images.cpu().numpy()
    for image, points, wide in zip(images, landmarks, unit, strict=True):
        x, y = np.clip(points[2] - (0, 0.2 * wide), 3, side - 4).astype(int)
        skin.append(image[:, y - 3 : y + 4, x - 3 : x + 4].mean((1, 2)) / 25)
    return np.concatenate([shape.reshape(len(shape), -1), np.stack(skin)], axis=1)


def _postured(faces: Faces, generator: torch.Generator, tilt: float) -> Faces:
    """Half of the faces mirrored, a share of them leaning: `train.forge.tilt`."""
    count, side = len(faces), faces.images.shape[-1]
    device = faces.images.device
    mirrored = uniform(generator, count) < 0.5
    leaning = (uniform(generator, count) < tilt).float()
    angle = torch.deg2rad(uniform(generator, count, -_LEAN, _LEAN)) * leaning
    narrow = 1 - (1 - uniform(generator, count, _NARROW, 1.0)) * leaning
    shear = uniform(generator, count, -_SHEAR, _SHEAR) * leaning
    cos, sin, none = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    squeeze = torch.stack([torch.stack([narrow, shear], 1), torch.stack([none, none + 1], 1)], 1)
    linear = turn @ squeeze
    middle = torch.full((2,), side / 2, device=device)
    lean = torch.cat([linear, (middle - linear @ middle)[..., None]], dim=2)
    flip = torch.zeros_like(lean)
    flip[:, 0, 0] = torch.where(mirrored, -1.0, 1.0)
    flip[:, 0, 2] = torch.where(mirrored, float(side), 0.0)
    flip[:, 1, 1] = 1
    moves = then(flip, lean)
    images = warp(faces.images, moves, side, side)
    # Sampling at whole pixels gives them back but for rounding: untouched ones stay exact.
    same = (~mirrored & (leaning == 0))[:, None, None, None]
    images = torch.where(same, faces.images, images)
    landmarks = apply(moves, faces.landmarks)
    swapped = landmarks[:, list(_MIRRORED)]
    landmarks = torch.where(mirrored[:, None, None], swapped, landmarks)
    decoded = faces.decoded
    if decoded is not None:  # a mirrored face's copies are mirrored too
        decoded = torch.where(mirrored[:, None, None, None, None], decoded.flip(-1), decoded)
    return Faces(images, landmarks, faces.sides, decoded, faces.swapped)


def _crops(
    pairs: Tensor, masks: Tensor, faces: Faces, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The square of a scan, shaken as a detector's box is: (B, 2, 3, S, S) and (B, S, S)."""
    count, side = len(pairs), pairs.shape[-1]
    device = pairs.device
    middle = (
        side / 2
        + uniform(generator, 2 * count, -0.06, 0.06).reshape(count, 2) * (faces.sides[:, None])
    )
    wide = faces.sides * 1.3 * uniform(generator, count, 0.88, 1.14)
    steps = (torch.arange(size, device=device) + 0.5) / size - 0.5
    x = middle[:, 0, None] + steps * wide[:, None]
    y = middle[:, 1, None] + steps * wide[:, None]
    places = torch.stack(
        [x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1
    )
    flat = pairs.flatten(0, 1)
    # Where several pixels fall into one, plain sampling would alias.
    shrunk = (wide / size - 1).clamp(min=0) * 0.6
    flat = blur(flat, shrunk.repeat_interleave(2))
    crops = sample(flat, places.repeat_interleave(2, 0), beyond="border")
    inside = sample(masks, places, mode="bilinear", beyond="zeros")[:, 0]
    return crops.reshape(count, 2, 3, size, size), inside


def _shown(pairs: Tensor, masks: Tensor, faces: Faces) -> Tensor:
    """Whether what is left of a forging is large and strong enough to be seen: (B,) bool."""
    inside = (masks > INSIDE).float()
    area = inside.sum((1, 2, 3))
    enough = area >= torch.clamp(SMALLEST * faces.sides**2, min=1.0)
    apart = (pairs[:, 0] - pairs[:, 1]).abs().mean(1, keepdim=True)
    seen = (apart * inside).sum((1, 2, 3)) / area.clamp(min=1.0)
    return enough & (seen * 255 >= VISIBLE)
