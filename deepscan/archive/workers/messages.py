"""Messages between the run and its model processes: JSON objects, each after its length."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from deepscan import errors
from deepscan.archive.records import InputFile
from deepscan.archive.workers.contract import PoolSettings, Task
from deepscan.errors import DeepscanError, EngineError
from deepscan.options import Limits, ScanOptions

LENGTH = struct.Struct("!I")
MAX_MESSAGE = 64 * 2**20  # bytes of a message; an outcome with 100,000 intervals has 15 MB

Message = dict[str, Any]


def pack(message: Message) -> bytes:
    """Pack a message behind its length. Names that are not UTF-8 are kept."""
    data = json.dumps(message, allow_nan=False).encode("ascii")
    return LENGTH.pack(len(data)) + data


def unpack(received: bytearray) -> Iterator[Message]:
    """Take whole messages from the front of the received data.

    Raises:
        ValueError: the data is no message.
    """
    while len(received) >= LENGTH.size:
        (length,) = LENGTH.unpack_from(received)
        if length > MAX_MESSAGE:
            raise ValueError(f"a message of {length} bytes")
        if len(received) < LENGTH.size + length:
            return
        message = json.loads(received[LENGTH.size : LENGTH.size + length])
        del received[: LENGTH.size + length]
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise ValueError("a message without a kind")
        yield message


class Channel:
    """One end of the socket between the run and a model process; any thread may send."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.closed = False  # True once the other end is closed
        self._received = bytearray()
        self._sending = threading.Lock()

    def send(self, kind: str, **values: Any) -> None:
        """Send a message; a closed other end shows in `receive`."""
        data = pack({"kind": kind, **values})
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(data)

    def receive(self) -> list[Message]:
        """Receive data and return its messages; sets `closed` at the end.

        Raises:
            ValueError: the data is no message.
        """
        try:
            data = self.socket.recv(2**20)
        except OSError:
            data = b""
        self.closed = not data
        self._received += data
        return list(unpack(self._received))

    def close(self) -> None:
        self.socket.close()


def log_level() -> int:
    """The log level of the run, which its processes use too."""
    return logging.getLogger("deepscan").getEffectiveLevel()


def task_to_json(task: Task) -> Message:
    """The values of a task for a message."""
    values = asdict(task)
    values["file"]["path"] = str(task.file.path)
    return {**values, "folder": str(task.folder)}


def task_from_json(values: Mapping[str, Any]) -> Task:
    """Read the values of `task_to_json`.

    Raises:
        KeyError, TypeError: the values are not a task.
    """
    file = values["file"]
    identity = None if file["identity"] is None else tuple(file["identity"])
    return Task(
        file=InputFile(**{**file, "path": Path(file["path"]), "identity": identity}),
        folder=Path(values["folder"]),
        write=tuple(values["write"]),
        write_found=tuple(values["write_found"]),
        options=options_from_json(values["options"]),
        attempt=values["attempt"],
    )


def options_from_json(values: Mapping[str, Any]) -> ScanOptions:
    """Read options from the values of `asdict`.

    Raises:
        KeyError, TypeError: the values are not options.
    """
    return ScanOptions(**{**values, "limits": Limits(**values["limits"])})


def pool_settings_from_json(values: Mapping[str, Any]) -> PoolSettings:
    """Read settings from the values of `asdict`; further values are ignored.

    Raises:
        KeyError, TypeError: the values hold no settings.
    """
    known = {each.name: values[each.name] for each in fields(PoolSettings)}
    options, devices = options_from_json(values["options"]), tuple(values["devices"])
    return PoolSettings(**{**known, "options": options, "devices": devices})


def error_named(name: str, text: str) -> DeepscanError:
    """Make an error by the name of its class; EngineError if the name is unknown."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, DeepscanError)):
        return EngineError(text)
    try:
        return kind(text)
    except TypeError:  # one with more arguments
        return EngineError(text)
