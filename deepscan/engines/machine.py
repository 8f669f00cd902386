"""What this machine has that decides which engine fits: read from the system, never timed."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

# Instructions that multiply bf16 in hardware; without one of them bf16 is slower than fp32.
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """`flags` are those of `TELLING_FLAGS` that the CPU has; `cores` those this process may use.

    `cuda` is the name of the first CUDA device, None if there is none.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    cuda: str | None

    @property
    def has_bf16(self) -> bool:
        """Whether the CPU multiplies bf16 in hardware."""
        return any(flag in BF16_FLAGS for flag in self.flags)


def look_around() -> Machine:
    """Find out what this machine has; imports torch."""
    import torch

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    cpu, flags = _cpu(Path("/proc/cpuinfo"))
    return Machine(cpu, flags, _cores(), cuda)


def _cpu(info: Path) -> tuple[str, tuple[str, ...]]:
    try:
        text = info.read_text(errors="replace")
    except OSError:  # not Linux: no flags known, so nothing that would need one is chosen
        return platform.processor() or platform.machine(), ()
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    flags = set(found.get("flags", "").split())
    name = found.get("model name") or platform.machine()
    return name, tuple(flag for flag in TELLING_FLAGS if flag in flags)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
