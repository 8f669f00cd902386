"""Training: `python -m train.train RECIPE --data FACES --out RUN`.

A run is deterministic by its recipe: sample i of step t follows from the seed alone, so a run that
is stopped and started again (same command) goes on at the step where its last checkpoint stands.
RUN holds checkpoint.pt, log.csv and, at the end, the weights.
"""

from __future__ import annotations

import csv
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from deepscan.errors import DeepscanError
from deepscan.models.deploy import Deployed, normalise
from deepscan.models.msccnet import MODELS, Logits, MSCCNet, set_input_size
from deepscan.models.weights import save_weights
from train.faces import data_hash, read_faces
from train.losses import LOSSES
from train.pairs import Pairs
from train.recipe import Recipe, read_recipe
from train.validate import validate

_SAVE_EVERY = 250  # steps
_VALIDATE_EVERY = 1000


class _From(Sampler[int]):
    """Indices start, start + 1, ... stop - 1: what a run that goes on has not yet seen."""

    def __init__(self, start: int, stop: int) -> None:
        self.range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


class Average:
    """An exponential moving average of a network's parameters and buffers."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        # Early on the average must forget its random start: the usual warm-up of the decay.
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)


def rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate: linear warm-up, then cosine to zero over all stages."""
    schedule = recipe.schedule
    if step < schedule.warmup:
        return schedule.learning_rate * (step + 1) / schedule.warmup
    share = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def loss_of(logits: Logits, labels: Tensor, masks: Tensor, recipe: Recipe) -> Tensor:
    """Weighted sum of the recipe's terms. Masks (B, S, S) int64; maps are scaled up to them."""
    size = masks.shape[-2:]
    outputs: dict[str, tuple[Tensor | None, Tensor]] = {
        "image": (logits.image, labels),
        "mask": (_enlarged(logits.mask, size), masks),
        "coarse": (None if logits.coarse is None else _enlarged(logits.coarse, size), masks),
    }
    total = logits.image.new_zeros((), dtype=torch.float32)
    for name, terms in recipe.losses.items():
        output, target = outputs[name]
        if output is None:
            continue
        for loss, weight in terms.items():
            total = total + weight * LOSSES[loss](output, target)
    return total


def _enlarged(map_: Tensor, size: torch.Size) -> Tensor:
    return nn.functional.interpolate(map_.float(), size, mode="bilinear", align_corners=False)


def batch_of(crops: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs to a batch: images (2 P, 3, S, S), labels (2 P,), masks (2 P, S, S)."""
    pairs = crops.shape[0]
    images = normalise(crops.flatten(0, 1))
    labels = torch.tensor([1, 0], device=crops.device).repeat(pairs)
    masks = torch.stack([mask, torch.zeros_like(mask)], dim=1).flatten(0, 1).long()
    return images, labels, masks


def train(recipe: Recipe, data: Path, out: Path, *, workers: int, device: str) -> Path:
    """Run or continue a recipe; returns the path of the weights.

    Raises:
        UsageError: the data folder lacks what `read_faces` needs.
    """
    out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(0)  # its pool does not survive the fork of the sample makers
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    people, held_out = read_faces(data, "train"), read_faces(data, "val")
    network = MSCCNet(MODELS[recipe.model]).to(device, memory_format=torch.channels_last)
    optimiser = _optimiser(network, recipe)
    average = Average(network, recipe.schedule.ema)
    step = _restore(out / "checkpoint.pt", network, optimiser, average)
    log = _Log(out / "log.csv")
    while step < recipe.schedule.steps:
        stage = recipe.schedule.stage_at(step)
        end = _end_of_stage(recipe, step)
        set_input_size(network, stage.size)
        pairs = recipe.schedule.pairs
        stream = Pairs(people, recipe.forges, size=stage.size, seed=recipe.seed, length=end * pairs)
        loader = DataLoader(
            stream,
            batch_size=pairs,
            sampler=_From(step * pairs, end * pairs),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        started, first = time.monotonic(), step
        for crops, mask, _ in loader:
            rate = rate_at(step, recipe)
            for group in optimiser.param_groups:
                group["lr"] = rate
            images, labels, masks = batch_of(crops.to(device), mask.to(device))
            images = images.contiguous(memory_format=torch.channels_last)
            network.train()
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                logits = network(images)
            loss = loss_of(logits, labels, masks, recipe)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), recipe.schedule.clip)
            optimiser.step()
            average.update(network, step)
            step += 1
            if step % 20 == 0:
                speed = (step - first) * pairs * 2 / (time.monotonic() - started)
                log.write(step=step, size=stage.size, loss=loss.item(), rate=rate, speed=speed)
            if step % _SAVE_EVERY == 0 or step == end:
                _save(out / "checkpoint.pt", network, optimiser, average, step)
            if step % _VALIDATE_EVERY == 0 or step == recipe.schedule.steps:
                averaged = MSCCNet(MODELS[recipe.model])
                averaged.load_state_dict(average.state)
                set_input_size(averaged, stage.size)
                report = validate(Deployed(averaged), held_out, recipe.forges)
                log.write(step=step, size=stage.size, auc=report.auc.value, iou=report.iou.value)
                print(f"step {step}: {report}", flush=True)
    return export(recipe, average.state, data, out, step)


def export(recipe: Recipe, state: dict[str, Tensor], data: Path, out: Path, step: int) -> Path:
    """Write the averaged weights as safetensors, with all that made them in the metadata."""
    path = out / f"{recipe.model}.safetensors"
    training = {
        "recipe": recipe.to_json(),
        "seed": str(recipe.seed),
        "steps": str(step),
        "data_sha256": data_hash(data),
    }
    save_weights(path, MODELS[recipe.model], state, training)
    return path


def _end_of_stage(recipe: Recipe, step: int) -> int:
    end = 0
    for stage in recipe.schedule.stages:
        end += stage.steps
        if step < end:
            return end
    return end


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in network.parameters() if p.dim() > 1]
    free = [p for p in network.parameters() if p.dim() <= 1]  # biases and norms
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.schedule.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=recipe.schedule.learning_rate,
    )


def _save(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, average: Average, step: int
) -> None:
    part = path.with_suffix(".part")
    torch.save(
        {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": average.state,
            "torch_rng": torch.get_rng_state(),
            "step": step,
        },
        part,
    )
    os.replace(part, path)


def _restore(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, average: Average
) -> int:
    if not path.is_file():
        return 0
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(saved["network"])
    optimiser.load_state_dict(saved["optimiser"])
    average.state = saved["average"]
    torch.set_rng_state(saved["torch_rng"])
    return int(saved["step"])


class _Log:
    """log.csv: one line for every twenty steps, one for every validation."""

    _COLUMNS = ("time", "step", "size", "loss", "rate", "speed", "auc", "iou")

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            with path.open("w", newline="") as file:
                csv.writer(file).writerow(self._COLUMNS)

    def write(self, **values: float) -> None:
        row = [round(time.time(), 1) if c == "time" else values.get(c, "") for c in self._COLUMNS]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def main(
    recipe: Annotated[
        Path, typer.Argument(help="Recipe, for instance train/recipes/msccnet-s.toml")
    ],
    data: Annotated[Path, typer.Option(help="Folder of faces with provenance.csv")],
    out: Annotated[Path, typer.Option(help="Folder of the run; a stopped run goes on there")],
    workers: Annotated[int, typer.Option(help="Processes that make samples")] = 2,
    threads: Annotated[int, typer.Option(help="Threads of torch on a CPU; 0: all cores")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
) -> None:
    """Train a network; start the same command again to go on after a stop."""
    if threads:
        torch.set_num_threads(threads)
    try:
        path = train(read_recipe(recipe), data, out, workers=workers, device=device)
    except DeepscanError as error:
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"weights: {path}")


if __name__ == "__main__":
    typer.run(main)
