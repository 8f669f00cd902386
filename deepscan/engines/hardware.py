"""Detects the hardware that decides which engine fits, from the system and without timing."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from deepscan.errors import EngineError

# Instructions that multiply bf16 in hardware; without one of them bf16 is slower than fp32.
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
RELEVANT_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device: its name, compute capability (major, minor) and memory in bytes."""

    name: str
    capability: tuple[int, int]
    memory: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """The CPU and GPUs of this machine.

    `flags` are those of `RELEVANT_FLAGS` that the CPU has; `cores` those that this process may use.
    `cuda` is the name of the first CUDA device, None without one; `trouble` is then torch's warning
    about it, if any. `gpus` lists all devices with their details, if known.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    cuda: str | None
    gpus: tuple[Gpu, ...] = ()
    trouble: str = ""

    @property
    def has_bf16(self) -> bool:
        """True if the CPU multiplies bf16 in hardware."""
        return any(flag in BF16_FLAGS for flag in self.flags)

    def gpu(self, device: str) -> Gpu | None:
        """The details of "cuda" (the first) or "cuda:N"; None if not known."""
        number = index_of(device)
        return self.gpus[number] if number < len(self.gpus) else None

    def low_precision(self, device: str) -> str:
        """The fastest precision that a CUDA device has in hardware: bf16, fp16 or fp32.

        bf16 (since Ampere) is preferred to fp16 (since Volta): equally fast, with fp32's range.
        """
        gpu = self.gpu(device)
        if gpu is None or gpu.capability < (7, 0):
            return "fp32"
        return "bf16" if gpu.capability >= (8, 0) else "fp16"

    def need_gpu(self, device: str, engine: str) -> str:
        """The name of a CUDA device.

        Raises:
            EngineError: there is no such device; the message lists the existing ones.
        """
        number = index_of(device)
        if self.cuda is None:
            raise EngineError(
                f"engine {engine}: torch sees no CUDA device{self.trouble and f' ({self.trouble})'}"
                ". Look at nvidia-smi, or use --engine auto"
            )
        names = [gpu.name for gpu in self.gpus] or [self.cuda]
        if number >= len(names):
            raise EngineError(
                f"engine {engine}: there is no {device}; torch sees "
                + ", ".join(f"cuda:{place} ({name})" for place, name in enumerate(names))
            )
        return names[number]

    def need_bf16(self, engine: str, instead: str) -> None:
        """Check that the CPU multiplies bf16 in hardware.

        Raises:
            EngineError: it does not, so bf16 would be slower than fp32.
        """
        if not self.has_bf16:
            raise EngineError(
                f"engine {engine}: this CPU ({self.cpu}) has no bf16 instructions. "
                f"Use --engine {instead}"
            )


def index_of(device: str) -> int:
    """N of "cuda:N"; 0 for "cuda"."""
    return int(device.partition(":")[2] or 0)


def detect_hardware() -> Hardware:
    """Detect the hardware of this machine; imports torch only if there may be a GPU."""
    cpu, flags = _cpu(Path("/proc/cpuinfo"))
    if not has_gpu_driver():
        return Hardware(cpu, flags, _cores(), None)
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()  # warns where the driver is too old for this torch
    gpus = []
    for number in range(torch.cuda.device_count() if there else 0):
        facts = torch.cuda.get_device_properties(number)
        gpus.append(Gpu(facts.name, (facts.major, facts.minor), facts.total_memory))
    trouble = "" if there or not caught else _first_sentence(str(caught[0].message))
    return Hardware(cpu, flags, _cores(), gpus[0].name if gpus else None, tuple(gpus), trouble)


def has_gpu_driver() -> bool:
    """True if the system has a driver that torch could find a GPU through: NVIDIA's or AMD's.

    Where there is none, torch sees no device either, and importing it takes seconds.
    """
    if Path("/dev/kfd").exists():  # AMD's, for torch built for ROCm
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _first_sentence(text: str) -> str:
    """The first sentence of a warning, on one line."""
    return " ".join(text.split()).partition(". ")[0]


def _cpu(info: Path) -> tuple[str, tuple[str, ...]]:
    try:
        text = info.read_text(errors="replace")
    except OSError:  # not Linux: without known flags, no engine that needs one is chosen
        return platform.processor() or platform.machine(), ()
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    flags = set(found.get("flags", "").split())
    name = found.get("model name") or platform.machine()
    return name, tuple(flag for flag in RELEVANT_FLAGS if flag in flags)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
