"""One short training on crops in memory: the same for every network that is compared."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepscan.errors import UsageError
from deepscan.models.deploy import normalise
from train.experiments.cam import MAPS
from train.experiments.networks import FullNetwork, TwoHeadNetwork, build
from train.experiments.plan import Fit
from train.experiments.samples import Samples
from train.losses import weighted_sum
from train.schedule import optimiser_of, rate_at

_TIMED_BATCH = 16  # crops


def fit(
    plan: Fit, samples: Samples, *, seed: int, device: str = "cpu"
) -> TwoHeadNetwork | FullNetwork:
    """Train a network; it follows from plan, samples and seed alone.

    The seed decides the first weights, the order of the samples and the dropout, alike for every
    architecture and task.

    Raises:
        UsageError: the plan asks for more crops a batch than there are.
        ModelError: the network cannot be built, or its loss left the finite numbers.
    """
    torch.manual_seed(seed)
    network = build(
        plan.architecture,
        plan.task,
        size=samples.size,
        changes=plan.changes,
        pretrained=plan.pretrained,
    )
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    torch.manual_seed(seed)  # dropout starts alike, however many numbers the weights took
    schedule = plan.schedule
    optimiser = optimiser_of(network, schedule)
    order = batches(samples, plan.batch, seed)
    for step in range(plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, schedule)
        chosen = next(order)
        images, labels, masks = _tensors(samples, chosen, device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=plan.bf16):
            outputs = network(images)
        loss = weighted_sum(outputs, labels, masks, plan.losses)
        if not torch.isfinite(loss):
            raise UsageError(
                f"{plan.architecture}, {plan.task}: the loss is {loss.item()} at step {step}; "
                "lower learning_rate or clip"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimiser.step()
    return network.eval()


def batches(samples: Samples, size: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of batches without end, anew shuffled each time round; pairs stay together.

    Raises:
        UsageError: a batch is larger than all samples.
    """
    units = np.arange(len(samples)).reshape(-1, samples.unit)
    count = max(1, size // samples.unit)
    if count > len(units):
        raise UsageError(f"a batch of {size} crops, but only {len(samples)} are there")
    turn = 0
    while True:
        order = np.random.default_rng([seed, turn]).permutation(len(units))
        for start in range(0, len(units) - count + 1, count):
            yield units[order[start : start + count]].ravel()
        turn += 1


@torch.no_grad()
def predict(
    network: TwoHeadNetwork | FullNetwork, samples: Samples, *, device: str = "cpu", batch: int = 32
) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """Scores and maps of all samples.

    Returns:
        P(manipulated) (N,) of the image head, None without one, and maps (N, S, S) float32 by
        name: "mask", or for a classifier "cam" and "grad-cam".
    """
    network.eval()
    scores: list[Tensor] = []
    maps: dict[str, list[Tensor]] = {}
    for start in range(0, len(samples), batch):
        images, _, _ = _tensors(samples, np.arange(start, min(start + batch, len(samples))), device)
        outputs = network(images)
        if outputs.image is not None:
            scores.append(torch.softmax(outputs.image.float(), dim=1)[:, 1].cpu())
        if outputs.mask is not None:
            probability = torch.softmax(_enlarged(outputs.mask, samples.size), dim=1)[:, 1]
            maps.setdefault("mask", []).append(probability.cpu())
            continue
        assert isinstance(network, TwoHeadNetwork)
        for name, draw in MAPS.items():
            drawn = _enlarged(draw(network, images)[:, None], samples.size)[:, 0]
            maps.setdefault(name, []).append(drawn.cpu())
    joined = {name: torch.cat(parts).numpy() for name, parts in maps.items()}
    return (torch.cat(scores).numpy() if scores else None), joined


@torch.no_grad()
def throughput(network: TwoHeadNetwork | FullNetwork, size: int, *, device: str = "cpu") -> float:
    """Crops a second through the network alone, fp32, the best of a second after a warm-up."""
    network.eval()
    images = torch.zeros(_TIMED_BATCH, 3, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    best, end = math.inf, time.monotonic() + 1
    _timed(network, images)
    while best is math.inf or time.monotonic() < end:
        best = min(best, _timed(network, images))
    return _TIMED_BATCH / best


def _timed(network: nn.Module, images: Tensor) -> float:
    started = time.perf_counter()
    network(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _tensors(samples: Samples, chosen: np.ndarray, device: str) -> tuple[Tensor, Tensor, Tensor]:
    crops, labels, masks = (
        torch.from_numpy(part[chosen]).to(device)
        for part in (samples.crops, samples.labels, samples.masks)
    )
    images = normalise(crops).contiguous(memory_format=torch.channels_last)
    return images, labels, masks.long()


def _enlarged(map_: Tensor, size: int) -> Tensor:
    return F.interpolate(map_.float(), (size, size), mode="bilinear", align_corners=False)
