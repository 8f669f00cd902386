"""Learning rate by step, and the optimiser of a recipe."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from train.recipe import Schedule


def rate_at(step: int, schedule: Schedule) -> float:
    """Learning rate of a step: linear warm-up, then the curve over all stages, or to
    the next stage that starts it anew.

    `schedule` is in steps. Cosine falls to `floor` times the rate. Poly is that of MSCCNet's
    official code: (lr0 - floor lr0) (1 - t / T) ** power + floor lr0.
    """
    start, stop, peak = _cycle(step, schedule)
    if step - start < schedule.warmup:
        return peak * (step - start + 1) / schedule.warmup
    share = (step - start - schedule.warmup) / max(1, stop - start - schedule.warmup)
    share = min(1.0, share)
    if schedule.curve == "poly":
        level: float = (1 - share) ** schedule.power
    else:
        level = 0.5 * (1 + math.cos(math.pi * share))
    if schedule.floor == 0:
        return peak * level
    least = peak * schedule.floor
    return (peak - least) * level + least


def _cycle(step: int, schedule: Schedule) -> tuple[int, int, float]:
    """First step, end and highest rate of the curve that a step lies on."""
    start, peak, at = 0, schedule.learning_rate, 0
    for stage in schedule.stages:
        if stage.learning_rate > 0 and at > 0:
            if step < at:
                return start, at, peak
            start, peak = at, stage.learning_rate
        at += stage.steps
    return start, at, peak


def optimiser_of(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD over one group of parameters, as the paper; AdamW without decay of biases and norms."""
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=schedule.learning_rate,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
        )
    decayed = [p for p in network.parameters() if p.dim() > 1]
    free = [p for p in network.parameters() if p.dim() <= 1]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": schedule.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=schedule.learning_rate,
    )


class Average:
    """An exponential moving average of a network's parameters and buffers.

    With a decay of 0 it is the network itself.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {
            key: value.detach().clone() for key, value in network.state_dict().items()
        }

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        # Early on the average must forget its random start: the usual warm-up of the decay.
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)
