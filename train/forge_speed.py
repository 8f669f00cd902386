"""How fast fakes are made: `python -m train.benchmark forge --data FACES --device cuda`.

Whole training batches, forged, degraded and cut on the device, and the share of each family in
that; beside them, pair by pair on one CPU core, what `train.pairs` makes of the same faces.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from deepscan.errors import UsageError
from train.faces import read_faces
from train.forge.batched.faces import BATCHED
from train.forge.batched.pack import read_portraits
from train.forge.batched.stream import BatchedPairs
from train.forge.forged import NEED_DECODED
from train.pairs import Pairs


@dataclass(frozen=True, slots=True)
class ForgeSpeed:
    """Pairs a second: `batched` over all families, `families` each alone, `pictures` one by one on
    a CPU core (None where `data` is a pack, which holds no whole pictures)."""

    device: str
    pairs: int
    size: int
    batched: float
    families: dict[str, float]
    pictures: float | None

    def table(self) -> str:
        """Lines for people."""
        lines = [
            f"{self.device}, {self.pairs} pairs a batch, crops of {self.size} px",
            f"{'all families':<16}{self.batched:>10.1f} pairs/s",
            *(f"{name:<16}{rate:>10.1f}" for name, rate in self.families.items()),
        ]
        if self.pictures is not None:
            lines.append(f"{'one by one':<16}{self.pictures:>10.1f} pairs/s on one CPU core")
        return "\n".join(lines)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def measure(
    data: Path,
    decoded: Path | None,
    *,
    device: str = "cpu",
    pairs: int = 64,
    size: int = 160,
    batches: int = 5,
) -> ForgeSpeed:
    """Time batches of everything, then of each family.

    Args:
        data: folder of faces, or a pack of them.
        decoded: pack of redrawn faces; without it the families that need one are left out.
        device: where the forging runs.
        pairs: in a batch.
        size: of the crops, pixels.
        batches: so many are timed, after one that sets up what is lazy.

    Raises:
        UsageError: the data cannot be read, or there is no such device.
    """
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        told = str(error).splitlines()[0]
        raise UsageError(f"no device {device!r} to forge on: {told}") from error
    names = [name for name in BATCHED if decoded is not None or name not in NEED_DECODED]
    shares = dict.fromkeys(names, 1.0)
    portraits = read_portraits(data, "train", decoded).to(place)
    stream = BatchedPairs(portraits, shares, size=size, seed=1, gentle=0.5, edits=0.35, tilt=0.5)

    def rate(names: list[str] | None) -> float:
        began = 0.0
        for step in range(batches + 1):
            if step == 1:
                began = time.perf_counter()
            forges = None if names is None else [names[i % len(names)] for i in range(pairs)]
            stream.batch(step, pairs, forges=forges)
            if place.type == "cuda":
                torch.cuda.synchronize(place)
        return round(batches * pairs / (time.perf_counter() - began), 1)

    one_by_one = None
    if data.is_dir():
        people = read_faces(data, "train", decoded)
        single = Pairs(
            people, shares, size=size, seed=1, length=10**9, gentle=0.5, harmless=0.35, tilt=0.5
        )
        single.pair(0)
        began, count = time.perf_counter(), max(20, pairs)
        for index in range(count):
            single.pair(index)
        one_by_one = round(count / (time.perf_counter() - began), 1)
    return ForgeSpeed(
        str(place), pairs, size, rate(None), {name: rate([name]) for name in names}, one_by_one
    )
