"""No waiting for an engine that takes minutes to build: it is built while another one scans.

The first scan on a new GPU starts at once with torch. In a process of its own the TensorRT engine
is built, kept in the cache and proven; between two files it takes over. That process lives on when
a short scan ends, so that the next scan finds the engine. Two scans never build the same one: the
builder's log is locked as long as it runs, by the system, also if it is killed.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from deepscan.engines.cache import cache_folder, failure_of, note_failure, read_entry
from deepscan.engines.engine import ENGINES, Engine
from deepscan.engines.load import (
    Choice,
    auto_device,
    build,
    engine_class,
    load_engine,
)
from deepscan.engines.machine import Machine, look_around
from deepscan.engines.recipe import recipe_of
from deepscan.errors import DeepscanError, EngineError
from deepscan.models.weights import FOLDER, Card, read_card

logger = logging.getLogger(__name__)

TIME_LIMIT = 3600  # seconds; measured builds take minutes, so what takes an hour hangs
NICENESS = 10  # the scan comes first
BUILDER = ("onnx", "onnxruntime")  # what a build needs beside the runtime

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is worth building: the engine, its recipe, and what the cache will call it."""

    choice: Choice
    recipe: str
    key: str


def plan_for(card: Card, machine: Machine, device: str = "cuda") -> Plan | None:
    """The engine that would be faster here and can be built, None if there is none."""
    if machine.cuda is None or any(find_spec(name) is None for name in BUILDER):
        return None
    for runtime in ENGINES:
        found = engine_class(runtime)
        if not hasattr(found, "build_key"):
            continue
        for _, precision in found.CHOICES:
            try:
                recipe = recipe_of(card.name, runtime, precision)
            except EngineError as error:
                logger.warning("%s", error)
                continue
            key = found.build_key(card, machine, precision, device)
            if recipe is not None and key is not None:
                return Plan(Choice(runtime, device, precision), recipe.name, key)
    return None


def build_command(plan: Plan) -> list[str]:
    """The command that builds what is planned."""
    return [
        *(sys.executable, "-m", "deepscan", "engine", "build", plan.recipe),
        *("--device", plan.choice.device or "cuda", "--time-limit", str(TIME_LIMIT)),
    ]


class EngineSupply:
    """Gives the engine for each file. Call `next_file` between files, `close` at the end."""

    def __init__(
        self,
        name: str = "auto",
        model: str = "msccnet-s",
        *,
        folder: Path = FOLDER,
        threads: int | None = None,
        tell: Tell = logger.info,
        command: Callable[[Plan], list[str]] = build_command,
    ) -> None:
        """Load an engine that runs at once and, with "auto", begin to build a faster one.

        Args:
            name: as for `load_engine`. A named engine is never replaced.
            model: as for `load_engine`.
            folder: as for `load_engine`. Only for models that ship something is built.
            threads: as for `load_engine`.
            tell: is given what happens, a line each; failures go to the log instead.
            command: gives the command that builds a plan, for tests.

        Raises:
            EngineError, ModelError, UsageError: as for `load_engine`.
        """
        self._card, self._tell, self._command = read_card(model, folder), tell, command
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None
        self._since = 0.0
        self._waiting = False  # for another process that builds it
        self._engine: Engine = load_engine(name, model, folder=folder, threads=threads)
        self._machine = look_around()
        self._plan: Plan | None = None
        device = auto_device(name)
        ships = folder == FOLDER or command is not build_command
        if device is not None and ships and cache_folder() is not None:
            plan = plan_for(self._card, self._machine, device)
            if plan is not None and not self._engine.name.startswith(plan.choice.runtime):
                self._plan = plan
                self._look()

    @property
    def engine(self) -> Engine:
        """The engine of the current file."""
        return self._engine

    def next_file(self) -> Engine:
        """The engine for the next file: another one than before if a better one is ready.

        The one before is closed then. Never raises and never waits.
        """
        if self._plan is not None:
            self._look()
        return self._engine

    def status(self) -> str | None:
        """What is being built, for how long and what it does now; None if nothing is."""
        if self._plan is None or not (self._process or self._waiting):
            return None
        took = time.monotonic() - self._since
        where = "in another process" if self._waiting else f"{took:.0f} s"
        step = _last_line(self._log)
        return f"building {self._plan.recipe} ({where}){step and f': {step}'}"

    def close(self) -> None:
        """Give back the engine. A build goes on by itself, for the next scan."""
        if self._process is not None and self._process.poll() is None:
            assert self._plan is not None
            self._tell(
                f"{self._plan.recipe} is still being built for the next scan (process "
                f"{self._process.pid}, log {self._log})"
            )
        with warnings.catch_warnings():
            # Python warns of a process that nobody waits for, which is meant.
            warnings.simplefilter("ignore", ResourceWarning)
            self._process = None
        self._plan = None
        self._engine.close()

    def _look(self) -> None:
        """See how the build stands, begin it, or take what it made."""
        assert self._plan is not None
        if self._process is None:
            self._begin()
            return
        ended = self._process.poll()
        if ended is None:
            if time.monotonic() - self._since > TIME_LIMIT:  # it did not keep its own limit
                self._process.kill()
                self._process.wait()
                self._give_up(f"it took more than {TIME_LIMIT} s", lasting=True)
            return
        self._process = None
        if ended == 0:
            self._swap()
        elif ended == -signal.SIGALRM:
            self._give_up(f"it took more than {TIME_LIMIT} s", lasting=True)
        elif ended < 0:
            self._give_up(f"its process was killed by signal {-ended}")
        else:
            self._give_up(failure_of(self._plan.key) or _last_line(self._log) or f"code {ended}")

    def _begin(self) -> None:
        """Start the build, unless it is done, was in vain or is under way elsewhere."""
        plan, folder = self._plan, cache_folder()
        assert plan is not None
        try:
            import fcntl
        except ImportError:  # not on Windows: without the lock two scans would build
            self._plan = None
            return
        if folder is None:
            return
        self._log = folder / f"build-{plan.recipe}-{plan.key[:8]}.log"
        try:
            log = os.open(self._log, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._give_up(f"its log {self._log} cannot be written ({error.strerror})")
            return
        try:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not self._waiting:
                    self._tell(f"{plan.recipe} is being built by another process, log {self._log}")
                    self._say_why("is being built by another process")
                self._waiting, self._since = True, self._since or time.monotonic()
                return
            self._waiting = False
            if read_entry(folder, plan.key) is not None:
                self._swap()
                return
            told = failure_of(plan.key)
            if told is not None:
                logger.info("%s is not built: %s. Run: deepscan engine build %s",
                            plan.recipe, told, plan.recipe)  # fmt: skip
                self._plan = None
                return
            os.ftruncate(log, 0)
            self._since = time.monotonic()
            # The builder's output is the log, so the lock lives as long as the builder.
            self._process = subprocess.Popen(
                self._command(plan),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
            self._tell(
                f"{plan.recipe} is being built meanwhile (process {self._process.pid}, log "
                f"{self._log}); until then {self._engine.name} scans"
            )
            self._say_why("is being built meanwhile")
        except OSError as error:
            self._give_up(f"its process cannot be started ({error.strerror})")
        finally:
            os.close(log)

    def _say_why(self, what: str) -> None:
        """Let records say that a better engine is on its way."""
        assert self._plan is not None
        info = self._engine.info
        self._set_reason(f"{info.reason}; {self._plan.choice.name} {what}")

    def _set_reason(self, reason: str) -> None:
        self._engine.info = replace(self._engine.info, reason=reason)  # type: ignore[misc]

    def _swap(self) -> None:
        """Take the engine that was built, if it is what it should be."""
        plan = self._plan
        assert plan is not None
        try:
            found = build(
                plan.choice,
                self._card,
                self._machine,
                f"auto: built meanwhile for the CUDA device {self._machine.cuda}",
                threads=self._threads,
                patient=False,
            )
        except DeepscanError as error:
            self._give_up(str(error))
            return
        before, self._engine, self._plan = self._engine, found, None
        before.close()
        self._tell(f"{found.name} is built and scans from now on, instead of {before.name}")

    def _give_up(self, why: str, *, lasting: bool = False) -> None:
        """Go on with what there is; said once."""
        plan, self._plan, self._process = self._plan, None, None
        assert plan is not None
        logger.warning(
            "%s was not built: %s; %s goes on scanning. Log: %s",
            plan.recipe, why, self._engine.name, self._log,
        )  # fmt: skip
        reason = self._engine.info.reason.partition(f"; {plan.choice.name} ")[0]
        self._set_reason(f"{reason}; {plan.choice.name} was not built: {why}")
        if lasting:
            note_failure(plan.key, plan.recipe, why)


def _last_line(log: Path | None) -> str:
    """What a builder said last; no more than a screen's width."""
    try:
        lines = (log.read_bytes()[-2000:] if log else b"").decode(errors="replace").splitlines()
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("deepscan: ")[:200] if said else ""
