"""The sandbox: rights that a decoder process drops before it reads the first untrusted byte.

Resource limits on every system; on Linux also access to all paths (Landlock), to the network, other
programs and other processes (seccomp). It applies to the calling thread and the threads that it
starts later, so call it while the process has one thread.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import struct
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SIGKILL = 9

LANDLOCK_CREATE_RULESET = 444
LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_VERSION = 1
LANDLOCK_PATH_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # bits by ABI; 16 from ABI 5 on
LANDLOCK_TCP_ABI = 4
LANDLOCK_SCOPE_ABI = 6

SECCOMP_MODE_FILTER = 2
SECCOMP_ALLOW = 0x7FFF0000
SECCOMP_EPERM = 0x00050000 | 1
X32_BIT = 0x40000000

# System calls for the network, other programs, other processes, and kernel code that decoding never
# needs: (audit architecture, numbers).
# fmt: off
DENIED = {
    "x86_64": (
        0xC000003E,
        (41, 42, 43, 49, 50, 53, 57, 58, 59, 101, 165, 248, 250, 272, 288,
         298, 304, 308, 310, 311, 321, 322, 323, 425, 426, 427),
    ),
    "aarch64": (
        0xC00000B7,
        (40, 97, 117, 198, 199, 200, 201, 202, 203, 217, 219, 221, 241, 242,
         265, 268, 270, 271, 280, 281, 282, 425, 426, 427),
    ),
}
# fmt: on


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux only)."""
    if sys.platform == "linux":
        _libc().prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def limit_resources(memory: int, most_memory: int, cpu: int) -> None:
    """Limit address space (bytes, soft and hard) and CPU time (s); forbid files and core dumps."""
    _cap(resource.RLIMIT_AS, memory, most_memory)
    _cap(resource.RLIMIT_CPU, cpu, cpu)
    _cap(resource.RLIMIT_NOFILE, 64, 64)
    _cap(resource.RLIMIT_FSIZE, 0, 0)
    _cap(resource.RLIMIT_CORE, 0, 0)


def raise_memory_limit(memory: int) -> None:
    """Raise the limit on address space, up to the hard limit."""
    _cap(resource.RLIMIT_AS, memory, resource.getrlimit(resource.RLIMIT_AS)[1])


def _cap(kind: int, soft: int, hard: int) -> None:
    now = resource.getrlimit(kind)[1]
    if now != resource.RLIM_INFINITY:
        hard = now if hard == resource.RLIM_INFINITY else min(hard, now)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    try:
        resource.setrlimit(kind, (soft, hard))
    except (OSError, ValueError):  # macOS refuses some of them; the watchdog still works
        return


def lock_down() -> str:
    """Drop access to paths, network, programs and other processes; returns what took effect."""
    if sys.platform != "linux":
        return "none"
    libc = _libc()
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    layers = []
    abi = _deny_paths(libc)
    if abi:
        layers.append(f"landlock-{abi}")
    if _deny_calls(libc):
        layers.append("seccomp")
    return "+".join(layers) or "none"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _deny_paths(libc: ctypes.CDLL) -> int:
    """Install a Landlock ruleset that allows nothing; returns its ABI, 0 without Landlock."""
    abi = int(
        libc.syscall(
            LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(LANDLOCK_VERSION)
        )
    )
    if abi < 1:
        return 0
    fields = [(1 << LANDLOCK_PATH_RIGHTS.get(abi, 16)) - 1]
    if abi >= LANDLOCK_TCP_ABI:
        fields.append(0b11)  # bind, connect
    if abi >= LANDLOCK_SCOPE_ABI:
        fields.append(0b11)  # abstract sockets, signals
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = libc.syscall(
        LANDLOCK_CREATE_RULESET,
        ctypes.c_char_p(attributes),
        ctypes.c_size_t(len(attributes)),
        ctypes.c_uint32(0),
    )
    if ruleset < 0:
        return 0
    refused = libc.syscall(LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    libc.close(ctypes.c_int(ruleset))
    return 0 if refused else abi


def _deny_calls(libc: ctypes.CDLL) -> bool:
    """Install a seccomp filter that answers EPERM to the calls in `DENIED`."""
    if platform.machine() not in DENIED:
        return False
    architecture, calls = DENIED[platform.machine()]
    program = _filter(architecture, calls)
    code = ctypes.create_string_buffer(program)
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    pointer = ctypes.create_string_buffer(header)
    return not libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(pointer), 0, 0)


def _filter(architecture: int, calls: tuple[int, ...]) -> bytes:
    """A filter in classic BPF: compare the architecture, then the number of the call."""
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    lines = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, SECCOMP_EPERM)]
    lines.append((load, 0, 0, 0))
    lines.append((at_least, len(calls) + 1, 0, X32_BIT))
    # A match jumps over the other comparisons and the "allow" to the "deny" at the end.
    lines += [(equal, len(calls) - place, 0, call) for place, call in enumerate(calls)]
    lines += [(answer, 0, 0, SECCOMP_ALLOW), (answer, 0, 0, SECCOMP_EPERM)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
