"""Training: `python -m train.train RECIPE --data FOLDER --out RUN`.

A run is deterministic by its recipe: sample i of step t follows from the seed alone, so a run that
is stopped and started again (same command) goes on at the step where its last checkpoint stands.
On one CPU process in fp32 the result is that of an unbroken run, bit for bit; on CUDA sums of
floating-point numbers come in any order. Interrupted (Ctrl-C, SIGTERM), it saves and ends.
RUN holds checkpoint.pt, log.csv, curves.png and, at the end, the weights.

Several processes: `torchrun --nproc-per-node N -m train.train ...`, see `train.distributed`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from deepscan.errors import DeepscanError, ModelError, UsageError
from deepscan.models.config import MSCCNetConfig
from deepscan.models.deploy import Deployed, normalise
from deepscan.models.msccnet import Logits, MSCCNet, set_input_size
from deepscan.models.weights import save_weights
from train.batches import Item, Source, open_source
from train.distributed import Processes, join
from train.losses import LOSSES
from train.progress import Display, Log, display, draw_curves
from train.recipe import OUTPUTS, Recipe, read_recipe
from train.schedule import Average, optimiser_of, rate_at
from train.smoke import smoke_data, smoke_recipe, write_plain_pack

_SAVE_EVERY = 250  # steps
_LOG_EVERY = 20


class _Share(Sampler[int]):
    """Indices of one process for the steps [start, stop): its part of every batch."""

    def __init__(self, start: int, stop: int, pairs: int, processes: Processes) -> None:
        local = processes.share(pairs)
        first = processes.rank * local
        self._indices = [
            step * pairs + first + place for step in range(start, stop) for place in range(local)
        ]

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


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


def batch_of(crops: Tensor, mask: Tensor, config: MSCCNetConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs to a batch: images (2 P, 3, S, S), labels (2 P,), masks (2 P, S, S).

    `crops` (P, 2, S, S, 3), manipulated first; `mask` (P, 2, S, S), or (P, S, S) of the manipulated
    ones where the others are untouched.
    """
    pairs = crops.shape[0]
    images = normalise(crops.flatten(0, 1), config.mean, config.std)
    labels = torch.tensor([1, 0], device=crops.device).repeat(pairs)
    both = mask if mask.dim() == 4 else torch.stack([mask, torch.zeros_like(mask)], dim=1)
    return images, labels, both.flatten(0, 1).long()


def build(config: MSCCNetConfig) -> MSCCNet:
    """The network of a configuration, with random weights."""
    return MSCCNet(config)


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    workers: int,
    device: str,
    backbone: Path | None = None,
    start: Path | None = None,
    until: int | None = None,
    decoded: Path | None = None,
) -> Path | None:
    """Run or continue a recipe; returns the path of the weights, None if it was stopped before.

    Args:
        recipe: what to do.
        data: the folder of faces or of the data set.
        out: folder of the run; a checkpoint in it is gone on from.
        workers: processes that make samples, 0: none beside this one.
        device: "cpu", "cuda" or "cuda:N".
        backbone: weights to start the backbone from, by timm's names.
        start: weights of the whole network to start from, as an earlier run exported them.
        until: save and stop at this step, as if interrupted.
        decoded: pack of redrawn faces (`train.forge.build_pack`), which some forges need.

    Raises:
        UsageError: the data folder lacks what the recipe needs, or the checkpoint is another's.
        ModelError: the weights to start from do not fit.
    """
    cv2.setNumThreads(0)  # its pool does not survive the fork of the sample makers
    with join(device) as processes, _stop_signals() as stopped:
        return _run(recipe, data, out, workers, processes, backbone, start, until, decoded, stopped)


def _run(
    recipe: Recipe,
    data: Path,
    out: Path,
    workers: int,
    processes: Processes,
    backbone: Path | None,
    start: Path | None,
    until: int | None,
    decoded: Path | None,
    stopped: list[int],
) -> Path | None:
    processes.share(recipe.schedule.pairs)  # raises before anything is read
    source = open_source(recipe, data, decoded)
    recipe = replace(recipe, schedule=recipe.schedule.in_steps(source.pairs))
    schedule = recipe.schedule
    out.mkdir(parents=True, exist_ok=True)
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)

    config = recipe.config
    network = build(config)
    history = {} if backbone is None else start_backbone(network, backbone)
    if start is not None:
        history |= start_network(network, start)
    network = network.to(processes.device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = processes.synchronise_norms(network)
    still = freeze(network, recipe)
    optimiser = optimiser_of(network, schedule)
    average = Average(network, schedule.ema)
    step = _restore(out / "checkpoint.pt", network, optimiser, average)
    if step > schedule.steps:
        raise UsageError(f"{out} stands at step {step}, the recipe ends at {schedule.steps}")
    log = Log(out / "log.csv", step) if processes.first else None
    last = schedule.steps if until is None else min(until, schedule.steps)

    with display(schedule.steps) if processes.first else nullcontext() as shown:
        while step < last:
            size = schedule.stage_at(step).size
            end = min(last, schedule.end_of_stage(step))
            if config.input_size != size:
                # Learned images would be replaced, behind the optimiser's back: a recipe with
                # such filters has one size only.
                config = replace(config, input_size=size)
                set_input_size(network, size)
            partial = any(output not in recipe.losses for output in OUTPUTS)
            wrapped = processes.wrap(network, partial=partial)
            pace = _Pace(step, schedule.steps, 2 * schedule.pairs)
            for crops, mask in _batches(source, recipe, size, step, end, workers, processes):
                rate = rate_at(step, schedule)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                if processes.world > 1 or processes.device.type == "cuda":
                    # One CPU process keeps its generator in the checkpoint; the others' states
                    # would not fit in, so there each step starts from its own seed.
                    torch.manual_seed(hash((recipe.seed, step, processes.rank)) & 0x7FFFFFFF)
                loss = _learn(wrapped, crops, mask, recipe, optimiser, still)
                average.update(network, step)
                step += 1
                stop = processes.any(bool(stopped)) or step == last
                if step % _LOG_EVERY == 0 or step == end:
                    value = processes.mean(loss.detach())
                    _tell(log, shown, pace, step, size, value, rate)
                if processes.first and (step % _SAVE_EVERY == 0 or step == end or stop):
                    _save(out / "checkpoint.pt", network, optimiser, average, step)
                every = schedule.validate_every
                if step == schedule.steps or (every and step % every == 0):
                    _validate(average, config, source, processes, log, shown, step)
                    if processes.first:
                        draw_curves(out / "log.csv", out / "curves.png")
                if stop:
                    last = step
                    break
            del wrapped
    if step < schedule.steps or not processes.first:
        return None
    config = replace(config, input_size=schedule.stages[-1].size)
    return export(recipe, config, average.state, source.sha256, out, step, history)


def _batches(
    source: Source,
    recipe: Recipe,
    size: int,
    start: int,
    stop: int,
    workers: int,
    processes: Processes,
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's part of the batches of steps [start, stop), on its device."""
    pairs = recipe.schedule.pairs
    gentle = recipe.schedule.stage_at(start).gentle
    loader: DataLoader[Item] = DataLoader(
        source.stream(size, pairs, stop * pairs, gentle),
        batch_size=processes.share(pairs),
        sampler=_Share(start, stop, pairs, processes),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        # A generator of its own: a loader that starts again must not shift the network's dropout.
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    for crops, mask, _ in loader:
        yield crops.to(processes.device), mask.to(processes.device)


def _learn(
    network: nn.Module,
    crops: Tensor,
    mask: Tensor,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    still: Sequence[nn.Module],
) -> Tensor:
    """One step; returns its loss. The modules in `still` stay in eval mode."""
    images, labels, masks = batch_of(crops, mask, recipe.config)
    images = images.contiguous(memory_format=torch.channels_last)
    network.train()
    for module in still:
        module.eval()
    bf16 = recipe.precision == "bf16"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        logits = network(images)
    loss = loss_of(logits, labels, masks, recipe)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.schedule.clip:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.schedule.clip)
    optimiser.step()
    return loss


class _Pace:
    """Crops a second since a stage began, and the seconds that are left at that rate."""

    def __init__(self, step: int, steps: int, crops: int) -> None:
        self._started, self._first = time.monotonic(), step
        self._steps, self._crops = steps, crops

    def at(self, step: int) -> tuple[float, float]:
        each = (time.monotonic() - self._started) / (step - self._first)
        return self._crops / each, each * (self._steps - step)


def _tell(
    log: Log | None,
    shown: Display | None,
    pace: _Pace,
    step: int,
    size: int,
    loss: float,
    rate: float,
) -> None:
    if log is None or shown is None:
        return
    speed, left = pace.at(step)
    log.write(step=step, size=size, loss=loss, rate=rate, speed=speed)
    shown.step(step, size, loss, rate, speed, left)


def _validate(
    average: Average,
    config: MSCCNetConfig,
    source: Source,
    processes: Processes,
    log: Log | None,
    shown: Display | None,
    step: int,
) -> None:
    """Score the averaged weights on what was held out; the first process only."""
    if not processes.first or log is None or shown is None:
        return
    # Building a network draws random numbers, which the run must not miss afterwards.
    with torch.random.fork_rng(devices=[]):
        averaged = build(config)
    averaged.load_state_dict(average.state)
    held = source.judge(Deployed(averaged))
    if held is not None:
        log.write(step=step, size=config.input_size, auc=held.auc, iou=held.iou)
        shown.validated(step, held.text)


def export(
    recipe: Recipe,
    config: MSCCNetConfig,
    state: dict[str, Tensor],
    data_sha256: str,
    out: Path,
    step: int,
    history: dict[str, str],
) -> Path:
    """Write the averaged weights as safetensors, with all that made them in the metadata."""
    path = out / f"{recipe.model}.safetensors"
    training = {
        "recipe": recipe.to_json(),
        "seed": str(recipe.seed),
        "steps": str(step),
        "data_sha256": data_sha256,
        **history,
    }
    save_weights(path, config, state, training)
    return path


def freeze(network: MSCCNet, recipe: Recipe) -> list[nn.Module]:
    """Keep a recipe's frozen parts of the backbone from learning.

    Returns:
        The modules that have to stay in eval mode, so that their statistics stay too.
    """
    modules = list(network.backbone.modules())
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if recipe.frozen_stages == 0:
        return list(norms) if recipe.frozen_norms else []
    # timm's features name the module that ends each stage; parameters come in forward order.
    info: Any = network.backbone.feature_info
    places = [stage["module"] for stage in info.info if stage["reduction"] >= 4]
    last = places[recipe.frozen_stages - 1]
    named = dict(network.backbone.named_parameters())
    end = max(place for place, name in enumerate(named) if name.startswith(f"{last}."))
    frozen = list(named.values())[: end + 1]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if recipe.frozen_norms:
        return list(norms)
    held = {id(parameter) for parameter in frozen}
    return [norm for norm in norms if id(norm.weight) in held]


def start_backbone(network: MSCCNet, path: Path) -> dict[str, str]:
    """Fill the backbone from a file of timm's names (safetensors, or a state dict of torch).

    The classifier of such files (`fc.*`, `head.*`, `classifier.*`, `conv_head.*`, `bn2.*`) is left
    out; all else must fit.

    Returns:
        What to note in the weights' metadata.

    Raises:
        ModelError: the file cannot be read or is of another network.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            state: dict[str, Tensor] = load(data)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        # The classifier, and the convolution that only it reads.
        unused = ("fc.", "head.", "classifier.", "conv_head.", "bn2.")
        kept = {key: value for key, value in state.items() if not key.startswith(unused)}
        network.backbone.load_state_dict(kept, strict=True)
    except (OSError, RuntimeError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"backbone weights {path} do not fit: {line}") from error
    return {"backbone_sha256": hashlib.sha256(data).hexdigest()}


def start_network(network: MSCCNet, path: Path) -> dict[str, str]:
    """Fill the whole network from weights that an earlier run exported; they must fit entirely.

    The first layers of another input size fit too: the network is the same at every size.

    Returns:
        What to note in the weights' metadata.

    Raises:
        ModelError: the file cannot be read or is of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        network.load_state_dict(load(data), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"weights {path} do not fit: {line}") from error
    return {"start_sha256": hashlib.sha256(data).hexdigest()}


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
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        for key, value in saved["average"].items():
            average.state[key].copy_(value)
        torch.set_rng_state(saved["torch_rng"])
        return int(saved["step"])
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        line = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{path} is not of this recipe or damaged: {line}; give another --out"
        ) from error


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects the first Ctrl-C or SIGTERM, so that a step is finished; the second one ends."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        before = {kind: signal.signal(kind, note) for kind in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield caught
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def main(
    recipe: Annotated[
        Path, typer.Argument(help="Recipe, for instance train/recipes/msccnet-s.toml")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of faces with provenance.csv, or of the data set"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; a stopped run goes on there")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make samples")] = 2,
    threads: Annotated[int, typer.Option(help="Threads of torch on a CPU; 0: all cores")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
    backbone: Annotated[
        Path | None, typer.Option(help="Weights to start the backbone from, timm's names")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="Weights of an earlier run of this network to start from"),
    ] = None,
    until: Annotated[int | None, typer.Option(help="Save and stop at this step")] = None,
    decoded: Annotated[
        Path | None, typer.Option(help="Pack of redrawn faces, from train.forge.build_pack")
    ] = None,
    smoke: Annotated[
        bool, typer.Option(help="A few tiny steps; without --data on a picture that ships")
    ] = False,
) -> None:
    """Train a network; start the same command again to go on after a stop."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if threads:
        torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            asked = read_recipe(recipe)
            if smoke:
                asked = smoke_recipe(asked, int(os.environ.get("WORLD_SIZE", "1")))
                workers = 0
                if data is None:
                    made = Path(scratch) / "data"
                    asked = smoke_data(asked, made)
                    data = made / "faces" if asked.dataset is None else made
                    if asked.dataset is None:
                        decoded = Path(scratch) / "decoded.npz"
                        write_plain_pack(data, decoded)
                out = out or Path(scratch) / "run"
            if data is None or out is None:
                raise UsageError("--data and --out are needed, except with --smoke")
            path = train(
                asked, data, out,
                workers=workers, device=device, backbone=backbone, start=start, until=until,
                decoded=decoded,
            )  # fmt: skip
    except DeepscanError as error:
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(2) from error
    if smoke:
        typer.echo("smoke run done: every part works; its figures mean nothing")
    elif path is not None:
        typer.echo(f"weights: {path}")
    elif os.environ.get("RANK", "0") == "0":
        typer.echo(f"stopped and saved in {out}: the same command goes on")


if __name__ == "__main__":
    typer.run(main)
