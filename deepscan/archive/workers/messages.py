"""Messages between the run and its model processes: JSON objects with a length before each."""

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
    """A message with its length before it. Names that are no UTF-8 pass unharmed."""
    data = json.dumps(message, allow_nan=False).encode("ascii")
    return LENGTH.pack(len(data)) + data


def unpack(received: bytearray) -> Iterator[Message]:
    """Take whole messages from the front of what was received.

    Raises:
        ValueError: these are no messages.
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
        self.closed = False  # the other end is gone: no more will come
        self._received = bytearray()
        self._sending = threading.Lock()

    def send(self, kind: str, **values: Any) -> None:
        """Send a message; that the other end is gone shows when it is received from."""
        data = pack({"kind": kind, **values})
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(data)

    def receive(self) -> list[Message]:
        """The messages that came with the next data; sets `closed` if there will be no more.

        Raises:
            ValueError: these are no messages.
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
    """What the run logs, and so what its processes have to send."""
    return logging.getLogger("deepscan").getEffectiveLevel()


def task_to_json(task: Task) -> Message:
    """A task as a message holds it."""
    values = asdict(task)
    values["file"]["path"] = str(task.file.path)
    return {**values, "folder": str(task.folder)}


def task_from_json(values: Mapping[str, Any]) -> Task:
    """The task that `task_to_json` gave.

    Raises:
        KeyError, TypeError: it is not one.
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
    """The options that `asdict` gave.

    Raises:
        KeyError, TypeError: it is not one.
    """
    return ScanOptions(**{**values, "limits": Limits(**values["limits"])})


def pool_settings_from_json(values: Mapping[str, Any]) -> PoolSettings:
    """The settings that `asdict` gave, of a message that may hold more.

    Raises:
        KeyError, TypeError: it holds none.
    """
    known = {each.name: values[each.name] for each in fields(PoolSettings)}
    options, devices = options_from_json(values["options"]), tuple(values["devices"])
    return PoolSettings(**{**known, "options": options, "devices": devices})


def error_named(name: str, text: str) -> DeepscanError:
    """An error of another process, by the name of its class; EngineError if that is not ours."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, DeepscanError)):
        return EngineError(text)
    try:
        return kind(text)
    except TypeError:  # one with more arguments
        return EngineError(text)
