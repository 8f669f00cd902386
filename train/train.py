"""Training: `python -m train.train RECIPE --data FOLDER --out RUN`.

A run is deterministic by its recipe: sample i of step t follows from the seed alone, so a run that
is stopped and started again with the same command resumes at the step of its last checkpoint.
On one CPU process in fp32 the result is that of an unbroken run, bit for bit; on CUDA sums of
floating-point numbers are added in any order. Ctrl-C or SIGTERM saves a checkpoint and stops.
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

from deepscan.errors import ModelError, UsageError
from deepscan.files import atomic_output
from deepscan.models.config import MSCCNetConfig
from deepscan.models.deploy import Deployed, normalise
from deepscan.models.msccnet import MSCCNet, set_input_size
from deepscan.models.weights import save_weights
from train.batches import Item, TrainingData, open_training_data
from train.command import Device, Pack, Threads, Workers, exit_on_error, use_threads
from train.distributed import Processes, join
from train.forge.held_out import KEY, list_hash, was_unseen
from train.frozen import fold_frozen_norms, freeze
from train.losses import weighted_sum
from train.progress import Display, Log, display, draw_curves
from train.recipe import OUTPUTS, Recipe, read_recipe
from train.schedule import Average, optimiser_of, rate_at
from train.smoke import smoke_data, smoke_recipe, write_plain_pack

_SAVE_EVERY = 250  # steps
_LOG_EVERY = 20
# Of timm's files: the classifier, and the convolution that only it reads.
CLASSIFIER = ("fc.", "head.", "classifier.", "conv_head.", "bn2.")


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
    pack: Path | None = None,
) -> Path | None:
    """Run or resume a recipe; returns the path of the weights, None if it stopped early.

    Args:
        recipe: the settings of the run.
        data: the folder of faces or of the data set.
        out: folder of the run; a checkpoint in it is resumed.
        workers: processes that make samples; 0 makes them in this process.
        device: "cpu", "cuda" or "cuda:N".
        backbone: weights to start the backbone from, by timm's names.
        start: weights of the whole network to start from, as an earlier run exported them.
        until: save and stop at this step, as if interrupted.
        pack: redrawn faces (`train.forge.build_pack`), which some forges need.

    Raises:
        UsageError: the data folder lacks what the recipe needs, or the checkpoint is of another
            recipe.
        ModelError: the weights to start from do not fit.
    """
    cv2.setNumThreads(0)  # its pool does not survive the fork of the sample makers
    with join(device) as processes, _stop_signals() as stopped:
        processes.share(recipe.schedule.pairs)  # raises before anything is read
        run = _Run(recipe, open_training_data(recipe, data, pack), out, processes, workers)
        run.prepare(backbone, start)
        return run.finish(until, stopped)


class _Run:
    """One training run in one process: the network, its optimiser and the current step."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        out: Path,
        processes: Processes,
        workers: int,
    ) -> None:
        self.recipe = replace(recipe, schedule=recipe.schedule.in_steps(data.pairs))
        self.data, self.out, self.processes, self.workers = data, out, processes, workers
        self.config = self.recipe.config
        self.history: dict[str, str] = {}
        self.step = 0
        self.log: Log | None = None
        self.shown: Display | None = None

    def prepare(self, backbone: Path | None, start: Path | None) -> None:
        """Build the network, fill it from files or from the run's checkpoint.

        Raises:
            ModelError: the weights to start from do not fit.
            UsageError: the checkpoint is not of this recipe.
        """
        recipe, schedule = self.recipe, self.recipe.schedule
        self.out.mkdir(parents=True, exist_ok=True)
        random.seed(recipe.seed)
        np.random.seed(recipe.seed)
        torch.manual_seed(recipe.seed)
        network = build(self.config)
        if recipe.dataset is None:
            self.history[KEY] = list_hash()
        if backbone is not None:
            self.history["backbone_sha256"] = start_from(network.backbone, backbone, CLASSIFIER)
        if start is not None:
            self.history["start_sha256"] = start_from(network, start)
            if not was_unseen(start):
                self.history.pop(KEY, None)
        network = network.to(self.processes.device)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = self.processes.synchronise_norms(network)
        self.eval_only = freeze(self.network, recipe)
        if self.eval_only and self.processes.device.type == "cpu":
            fold_frozen_norms(self.network.backbone, self.eval_only)
        self.optimiser = optimiser_of(self.network, schedule)
        self.average = Average(self.network, schedule.ema)
        self._restore(self.out / "checkpoint.pt")
        if self.step > schedule.steps:
            raise UsageError(
                f"{self.out} stands at step {self.step}, the recipe ends at {schedule.steps}"
            )
        if self.processes.first:
            self.log = Log(self.out / "log.csv", self.step)

    def finish(self, until: int | None, stopped: list[int]) -> Path | None:
        """Train all stages and export; None if it stopped early or is not the first process.

        `stopped` is not empty once a signal has asked to stop.
        """
        schedule = self.recipe.schedule
        last = schedule.steps if until is None else min(until, schedule.steps)
        with display(schedule.steps) if self.processes.first else nullcontext() as self.shown:
            while self.step < last and not self._train_stage(last, stopped):
                pass
        if self.step < schedule.steps or not self.processes.first:
            return None
        config = replace(self.config, input_size=schedule.stages[-1].size)
        training = {
            "recipe": self.recipe.to_json(),
            "seed": str(self.recipe.seed),
            "steps": str(self.step),
            "data_sha256": self.data.sha256,
            **self.history,
        }
        path = self.out / f"{self.recipe.model}.safetensors"
        save_weights(path, config, self.average.state, training)
        return path

    def _train_stage(self, last: int, stopped: list[int]) -> bool:
        """Train to the end of the stage or to step `last`; returns whether the run is to stop."""
        schedule, processes = self.recipe.schedule, self.processes
        size = schedule.stage_at(self.step).size
        end = min(last, schedule.end_of_stage(self.step))
        if self.config.input_size != size:
            # Resizing replaces learned filters without the optimiser's knowledge, so a recipe with
            # learned filters has one size only.
            self.config = replace(self.config, input_size=size)
            set_input_size(self.network, size)
        partial = any(output not in self.recipe.losses for output in OUTPUTS)
        wrapped = processes.wrap(self.network, partial=partial)
        throughput = _Throughput(self.step, schedule.steps, 2 * schedule.pairs)
        for crops, mask in self._batches(size, self.step, end):
            rate = rate_at(self.step, schedule)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            if processes.world > 1 or processes.device.type == "cuda":
                # One CPU process keeps its generator in the checkpoint; the others' states would
                # not fit in, so there each step starts from its own seed.
                seed = hash((self.recipe.seed, self.step, processes.rank)) & 0x7FFFFFFF
                torch.manual_seed(seed)
            loss = learn(wrapped, crops, mask, self.recipe, self.optimiser, self.eval_only)
            self.average.update(self.network, self.step)
            self.step += 1
            stop = processes.any(bool(stopped)) or self.step == last
            if self.step % _LOG_EVERY == 0 or self.step == end:
                self._log_step(throughput, size, processes.mean(loss.detach()), rate)
            if processes.first and (self.step % _SAVE_EVERY == 0 or self.step == end or stop):
                self._save(self.out / "checkpoint.pt")
            every = schedule.validate_every
            if self.step == schedule.steps or (every and self.step % every == 0):
                self._validate()
            if stop:
                return True
        return False

    def _batches(self, size: int, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of the batches of steps [start, stop), on its device."""
        pairs = self.recipe.schedule.pairs
        mild = self.recipe.schedule.stage_at(start).mild
        loader: DataLoader[Item] = DataLoader(
            self.data.stream(size, pairs, stop * pairs, mild),
            batch_size=self.processes.share(pairs),
            sampler=_Share(start, stop, pairs, self.processes),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            # With its own generator a loader that restarts does not shift the network's dropout.
            generator=torch.Generator().manual_seed(self.recipe.seed),
        )
        for crops, mask, _ in loader:
            yield crops.to(self.processes.device), mask.to(self.processes.device)

    def _log_step(self, throughput: _Throughput, size: int, loss: float, rate: float) -> None:
        if self.log is None or self.shown is None:
            return
        speed, left = throughput.at(self.step)
        self.log.write(step=self.step, size=size, loss=loss, rate=rate, speed=speed)
        self.shown.step(self.step, size, loss, rate, speed, left)

    def _validate(self) -> None:
        """Score the averaged weights on held-out data, in the first process only."""
        if self.log is None or self.shown is None:
            return
        # Building a network draws random numbers; the fork leaves the state of the run unchanged.
        with torch.random.fork_rng(devices=[]):
            averaged = build(self.config)
        averaged.load_state_dict(self.average.state)
        held_out = self.data.validate(Deployed(averaged))
        if held_out is not None:
            size = self.config.input_size
            self.log.write(step=self.step, size=size, auc=held_out.auc, iou=held_out.iou)
            self.shown.validated(self.step, held_out.text)
        draw_curves(self.out / "log.csv", self.out / "curves.png")

    def _save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.state,
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
            "history": self.history,
        }
        with atomic_output(path) as part:
            torch.save(state, part)

    def _restore(self, path: Path) -> None:
        """Resume from a checkpoint where there is one.

        Raises:
            UsageError: it is damaged or of another recipe.
        """
        if not path.is_file():
            return
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.network.load_state_dict(saved["network"])
            self.optimiser.load_state_dict(saved["optimiser"])
            for key, value in saved["average"].items():
                self.average.state[key].copy_(value)
            torch.set_rng_state(saved["torch_rng"])
            self.step = int(saved["step"])
            # Earlier steps may predate the list of held-out pictures.
            if KEY not in saved.get("history", {}):
                self.history.pop(KEY, None)
        except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            line = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{path} is not of this recipe or damaged: {line}; give another --out"
            ) from error


def write_snapshot(recipe: Recipe, run: Path, path: Path) -> int:
    """Write the averaged weights of an unfinished run in half precision; returns its step.

    The file is half as large as finished weights. A run may start from it (`--start`, with a
    warm-up of its own), and `train.evaluation.real_deepfakes` can score it; it is no model to scan
    with.

    Raises:
        UsageError: the run has no checkpoint, or it is not of this recipe.
    """
    try:
        saved = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
        state, step = saved["average"], int(saved["step"])
        halved = {key: v.half() if v.is_floating_point() else v for key, v in state.items()}
        size = recipe.schedule.stage_at(step).size
        config = replace(recipe.config, input_size=size)
        build(config).load_state_dict(halved)
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        line = " ".join(str(error).split())[:200]
        raise UsageError(f"{run} has no checkpoint of this recipe: {line}") from error
    made_with = {"recipe": recipe.to_json(), "seed": str(recipe.seed), "steps": str(step)}
    save_weights(path, config, halved, made_with)
    return step


def learn(
    network: nn.Module,
    crops: Tensor,
    mask: Tensor,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    eval_only: Sequence[nn.Module],
) -> Tensor:
    """Take one step; returns its loss. The modules in `eval_only` stay in eval mode."""
    images, labels, masks = batch_of(crops, mask, recipe.config)
    images = images.contiguous(memory_format=torch.channels_last)
    network.train()
    for module in eval_only:
        module.eval()
    bf16 = recipe.precision == "bf16"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        logits = network(images)
    loss = weighted_sum(logits, labels, masks, recipe.losses)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.schedule.clip:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.schedule.clip)
    optimiser.step()
    return loss


class _Throughput:
    """Crops per second since a stage began, and the seconds left at that rate."""

    def __init__(self, step: int, steps: int, crops: int) -> None:
        self._started, self._first = time.monotonic(), step
        self._steps, self._crops = steps, crops

    def at(self, step: int) -> tuple[float, float]:
        each = (time.monotonic() - self._started) / (step - self._first)
        return self._crops / each, each * (self._steps - step)


def start_from(module: nn.Module, path: Path, unused: tuple[str, ...] = ()) -> str:
    """Fill a module from a file (safetensors, or a state dict of torch).

    The network is the same at every input size, so weights of another size fit.

    Args:
        module: a whole network, or a backbone by timm's names.
        path: the weights.
        unused: prefixes of names that the module lacks; all others must fit.

    Returns:
        SHA-256 of the file, for the metadata of the weights.

    Raises:
        ModelError: the file cannot be read or is of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            state: dict[str, Tensor] = load(data)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        used = {key: value for key, value in state.items() if not key.startswith(unused)}
        module.load_state_dict(used, strict=True)
    except (
        OSError,
        RuntimeError,
        ValueError,
        AttributeError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"weights {path} do not fit: {line}") from error
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM, so that the step finishes; the second one interrupts."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        before = {kind: signal.signal(kind, note) for kind in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone may set signal handlers
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
        Path | None, typer.Option(help="Folder of the run; a stopped run is resumed")
    ] = None,
    workers: Workers = 2,
    threads: Threads = 0,
    device: Device = "cpu",
    backbone: Annotated[
        Path | None, typer.Option(help="Weights to start the backbone from, by timm's names")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="Weights of an earlier run of this network to start from"),
    ] = None,
    until: Annotated[int | None, typer.Option(help="Save and stop at this step")] = None,
    snapshot: Annotated[
        Path | None,
        typer.Option(help="Do not train: write the run's averaged weights to this file as fp16"),
    ] = None,
    pack: Pack = None,
    smoke: Annotated[
        bool, typer.Option(help="Run a few tiny steps; without --data, on a picture that ships")
    ] = False,
) -> None:
    """Train a network; the same command resumes a stopped run."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    use_threads(threads)
    with exit_on_error("train"), tempfile.TemporaryDirectory() as scratch:
        chosen = read_recipe(recipe)
        if smoke:
            chosen = smoke_recipe(chosen, int(os.environ.get("WORLD_SIZE", "1")))
            workers = 0
            if data is None:
                made = Path(scratch) / "data"
                chosen = smoke_data(chosen, made)
                data = made / "faces" if chosen.dataset is None else made
                if chosen.dataset is None:
                    pack = Path(scratch) / "pack.npz"
                    write_plain_pack(data, pack)
            out = out or Path(scratch) / "run"
        if snapshot is not None and out is not None:
            step = write_snapshot(chosen, out, snapshot)
            typer.echo(f"weights of step {step} of {chosen.schedule.steps}: {snapshot}")
            return
        if data is None or out is None:
            raise UsageError("--data and --out are needed, except with --smoke")
        path = train(
            chosen, data, out,
            workers=workers, device=device, backbone=backbone, start=start, until=until, pack=pack,
        )  # fmt: skip
    if smoke:
        typer.echo("smoke run done: every part works; its figures mean nothing")
    elif path is not None:
        typer.echo(f"weights: {path}")
    elif os.environ.get("RANK", "0") == "0":
        typer.echo(f"stopped and saved in {out}; run the same command again to resume")


if __name__ == "__main__":
    typer.run(main)
