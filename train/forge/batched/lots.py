"""Who of a batch gets what, without asking the device who does.

What only some pairs get is computed for a number of pairs that is known beforehand: no value is
read back, and a share of the batch costs that share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from train.forge.batched.faces import uniform


@dataclass(frozen=True, slots=True)
class Lots:
    """One number in [0, 1) for each pair, spread evenly over the batch.

    `order` (B,) int64 are the pairs in the order of their numbers; `numbers` (B,) float32, of which
    the k-th lies in [k / B, (k + 1) / B). To each pair its number is uniform, yet who can have a
    number in an interval is a slice: a share of the batch costs that share, and nobody need count.
    """

    order: Tensor
    numbers: Tensor

    def between(self, low: float, high: float) -> tuple[Tensor, Tensor]:
        """All pairs that may have a number in [low, high), and their numbers."""
        count = len(self.order)
        slots = slice(int(low * count), min(count, ceil(high * count)))
        return self.order[slots], self.numbers[slots]


def draw_lots(generator: torch.Generator, count: int) -> Lots:
    order = uniform(generator, count).argsort()
    slots = torch.arange(count, device=generator.device, dtype=torch.float32)
    return Lots(order, (slots + uniform(generator, 1)) / count)


def put(pairs: Tensor, index: Tensor, held: Tensor, made: Tensor) -> Tensor:
    """Some pairs replaced by what was made of them where `held`, (n,) or (n, 2) bool.

    `made` may have its pictures in any grouping.
    """
    made = made.reshape(len(index), *pairs.shape[1:])
    held = held.reshape(*held.shape, *[1] * (made.ndim - held.ndim))
    return pairs.index_copy(0, index, torch.where(held, made, pairs[index]))


def in_some(
    pairs: Tensor,
    generator: torch.Generator,
    shares: Tensor,
    most: float,
    edit: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Edit each pair with the probability of `shares` (B,), none of which is above `most`."""
    index, numbers = draw_lots(generator, len(pairs)).between(0, most)
    made = edit(pairs[index].flatten(1, 2), index).clamp(0, 1)
    return put(pairs, index, numbers < shares[index], made)
