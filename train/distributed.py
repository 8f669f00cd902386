"""Processes of a training: one, or several that torchrun started.

`torchrun --nproc-per-node N -m train.train ...` starts N processes; each takes its share of every
batch, and their gradients are averaged. Batch norms see the whole batch on CUDA only (SyncBatchNorm
does not run on a CPU: there each process normalises by its own share).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from deepscan.errors import UsageError

Network = TypeVar("Network", bound=nn.Module)
# The first process validates while the others wait.
_PATIENCE = timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class Processes:
    """The place of this process among `world` processes; `rank` 0 writes files and prints."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, pairs: int) -> int:
        """Pairs of a batch for each process.

        Raises:
            UsageError: they cannot be shared evenly.
        """
        if pairs % self.world:
            raise UsageError(f"{pairs} pairs a batch cannot be shared by {self.world} processes")
        return pairs // self.world

    def wrap(self, network: nn.Module, *, partial: bool) -> nn.Module:
        """The network with averaged gradients. `partial`: some weights get none from the losses."""
        if self.world == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, devices, find_unused_parameters=partial)

    def synchronise_norms(self, network: Network) -> Network:
        """The network with batch norms over all processes where these can be; same weights."""
        if self.world == 1 or self.device.type != "cuda":
            return network
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        return cast(Network, convert(network))  # type: ignore[no-untyped-call]

    def mean(self, value: Tensor) -> float:
        """The mean of a number over all processes."""
        if self.world > 1:
            value = value.detach().clone()
            distributed.all_reduce(value)
            value = value / self.world
        return float(value)

    def any(self, value: bool) -> bool:
        """True if `value` is true in any process."""
        if self.world == 1:
            return value
        flag = torch.tensor(int(value), device=self.device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())


@contextmanager
def join(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, or be the only one.

    Raises:
        UsageError: the device is not there.
    """
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"no device {device!r}; there are cpu, cuda and cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device}: torch {torch.__version__} sees no CUDA device")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(0, 1, torch.device(device))
        return
    if kind == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(distributed.get_rank(), world, torch.device(device))
    finally:
        distributed.destroy_process_group()
