"""The connection to a Ray cluster: a running one, or an instance that is started here."""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from deepscan.errors import EngineError, UsageError

logger = logging.getLogger(__name__)

ADDRESS = re.compile(r"ray(://|:)((?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5})")
ADDRESS_HELP = (
    "ray (an instance on this machine), ray:HOST:PORT or ray:auto (a cluster that this machine is "
    "part of) or ray://HOST:PORT (a Ray client's connection)"
)
CONNECT_TIMEOUT = 20.0  # seconds in which a cluster has to answer
NO_SUCH_COMMAND = 2  # exit code of Ray's command line for an unknown command
CLOSE_TIMEOUT = 3.0  # seconds for Ray to disconnect; it never does if its node was lost
OBJECT_STORE = 80 * 2**20  # bytes, Ray's minimum; nothing large is transferred


class Cluster:
    """A Ray cluster; `close` ends an instance that was started here."""

    def __init__(self, address: str) -> None:
        """`address` is a result of `ray_address`. Nothing is connected yet."""
        self._address = address
        self._own_folder: Path | None = None  # of a Ray instance that is ours
        self._connected = False
        self._own_node: str | None = None  # through which this process reaches the others
        self._ray: Any = None

    def connect(self) -> None:
        """Join the cluster, or start an instance; usage reports to Ray are disabled.

        Raises:
            UsageError: Ray is missing, or the cluster cannot be reached.
        """
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # The pool hides GPUs from an actor without one; without this variable Ray warns about it.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray = ray = _import_ray()
        if ray.is_initialized():
            return  # the calling program has connected, and will disconnect
        _check_answers(self._address)
        wanted: dict[str, Any] = {"address": self._address, "log_to_driver": False}
        if self._address == "local":
            self._own_folder = Path(tempfile.mkdtemp(prefix="deepscan-ray-"))
            wanted |= {
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE,
                "_temp_dir": os.fspath(self._own_folder),
            }
        handler = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(logging_level=logging.ERROR, **wanted)
        except ImportError as error:
            raise UsageError(
                f"{self._address}: a client's connection needs more of Ray ({error}): pip install "
                "'ray[client]', or run on a node of the cluster with --cluster ray:auto"
            ) from error
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(
                f"the Ray cluster {self._address} cannot be reached: {why[0][:300]}. Give "
                f"{ADDRESS_HELP}"
            ) from error
        finally:
            if handler is not None:  # Ray has replaced the handler of this program
                signal.signal(signal.SIGTERM, handler)
        self._connected = True
        if not self._address.startswith("ray://"):
            self._own_node = ray.get_runtime_context().get_node_id()

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, in Ray's description.

        Raises:
            EngineError: the cluster was lost, or the node of this process.
        """
        try:
            nodes: list[dict[str, Any]] = self._ray.nodes()
        except Exception as error:  # Ray has no one class for a lost connection
            raise EngineError(f"the Ray cluster has gone: {error}") from error
        alive = [node for node in nodes if node["Alive"]]
        if self._own_node is not None and self._own_node not in {n["NodeID"] for n in alive}:
            raise EngineError(
                "this machine's own node of the Ray cluster was lost, and with it the connection "
                "to the others: join the cluster again (`ray start`), then start the same scan; "
                "finished files are skipped"
            )
        return alive

    def start_actor(self, kind: type, node: str, config: object, **claims: Any) -> Any:
        """Start an actor on this node; Ray neither restarts it nor retries its calls."""
        strategies = self._ray.util.scheduling_strategies
        affinity = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": affinity}
        return self._ray.remote(kind).options(**options, **claims).remote(config)

    def ready(self, calls: Sequence[Any], timeout: float) -> list[Any]:
        """Wait for calls to end; returns none only after `timeout` seconds.

        Raises:
            EngineError: the cluster was lost.
        """
        try:
            ready, rest = self._ray.wait(list(calls), num_returns=1, timeout=timeout)
            if ready and rest:
                ready = ready + self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        except Exception as error:  # Ray has no one class for a lost connection
            raise EngineError(f"the Ray cluster has gone: {error}") from error
        return list(ready)

    def result(self, call: Any) -> Any:
        """The result of a call.

        Raises:
            NodeError: the actor or its node cannot answer.
            Exception: the error that the call raised.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(call)
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, Exception) else RuntimeError(str(error))) from error
        except errors.RayError as error:
            away = isinstance(error, errors.ActorUnavailableError)
            raise NodeError(" ".join(str(error).split()), unreachable=away) from error

    def kill(self, actor: Any) -> None:
        """End an actor and its process."""
        try:
            self._ray.kill(actor, no_restart=True)
        except Exception as error:  # its node or the cluster was lost
            logger.debug("an actor cannot be killed: %s", error)

    def close(self) -> None:
        """Disconnect, and end an instance that was started here."""
        if self._connected:
            self._connected = False
            leaving = threading.Thread(target=self._leave, name="leave", daemon=True)
            leaving.start()
            leaving.join(CLOSE_TIMEOUT if self._own_folder is None else None)
            if leaving.is_alive():
                atexit.unregister(self._ray.shutdown)  # it would wait again, without a limit
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)
            self._own_folder = None

    def _leave(self) -> None:
        try:
            self._ray.shutdown()
        except Exception:  # its processes are children of this one, and end with it
            logger.warning("Ray did not shut down cleanly", exc_info=True)


class NodeError(Exception):
    """An actor cannot answer; `unreachable` if it may still be working."""

    def __init__(self, text: str, *, unreachable: bool) -> None:
        super().__init__(text)
        self.unreachable = unreachable


def ray_address(cluster: str) -> str:
    """Translate `--cluster` to Ray's address: "local", "auto", "host:port" or "ray://...".

    Raises:
        UsageError: the value is invalid.
    """
    if cluster == "ray":
        return "local"
    if cluster == "ray:auto":
        return "auto"
    found = ADDRESS.fullmatch(cluster)
    if found is None:
        raise UsageError(f"no cluster {cluster!r}: give {ADDRESS_HELP}")
    return cluster if found[1] == "://" else found[2]


def _check_answers(address: str) -> None:
    """Raise UsageError if no cluster answers; Ray itself would wait and log for minutes."""
    silent = UsageError(
        f"no Ray cluster answers at {address}: see `ray status` there. Give {ADDRESS_HELP}"
    )
    if address.startswith("ray://"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
        except (OSError, OverflowError) as error:
            raise silent from error
    elif address != "local":
        # In a separate process, since a connection attempt cannot be cancelled.
        command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
        command += ["--skip-version-check", "--address", address]
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=CONNECT_TIMEOUT,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            raise silent from error
        except subprocess.CalledProcessError as error:
            if error.returncode != NO_SUCH_COMMAND:
                raise silent from error


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise UsageError(
            f"--cluster needs Ray ({error}): pip install '.[cluster]' in deepscan's checkout"
        ) from error
