"""A pool without processes: outcomes by a rule, at once, and a diary of what it was given."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

from deepscan.archive.records import Outcome, OutputFile
from deepscan.archive.workers.contract import (
    PoolEvent,
    PoolInfo,
    Task,
    TaskDone,
    TaskLost,
    TaskProgress,
)
from deepscan.archive.workers.worker import outputs_of
from deepscan.types import Label, Reason

Rule = Callable[[Task], "Outcome | Reason | Exception"]


def outcome_for(task: Task, label: Label = Label.NO_EVIDENCE, **known: object) -> Outcome:
    """An outcome as a pool gives it, with the outputs really written."""
    data = task.file.path.read_bytes()
    kinds = task.write
    if label in (Label.MANIPULATED, Label.SUSPICIOUS):
        kinds += task.write_found
    elif label is Label.ERROR:
        kinds = tuple(kind for kind in kinds if kind == "record")
    written = []
    task.folder.mkdir(parents=True, exist_ok=True)
    for kind, path in outputs_of(task.folder, kinds).items():
        path.write_bytes(kind.encode() + b" of " + data[:20])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        written.append(OutputFile(kind, path.name, digest, path.stat().st_size))
    return Outcome(
        **{
            "name": task.file.name,
            "path": task.file.address or str(task.file.path),
            "label": label,
            "reasons": (Reason("complete", "all was read"),),
            "identity": task.file.identity,
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "folder": "." if written else None,
            "outputs": tuple(written),
            "frames": 10,
            **known,
        }
    )


def by_content(task: Task) -> Outcome:
    """A file that holds "fake" is manipulated, one that holds "junk" an error."""
    data = task.file.path.read_bytes()
    if b"junk" in data:
        reason = Reason("corrupt", "nothing in it can be decoded")
        return outcome_for(task, Label.ERROR, reasons=(reason,), frames=0)
    return outcome_for(task, Label.MANIPULATED if b"fake" in data else Label.NO_EVIDENCE)


class FakePool:
    """Scans by a rule: an outcome, a `Reason` for a loss, or an exception that `wait` raises.

    `scanned` lists the names of tasks in order, `together` how many were under way at each `wait`.
    """

    def __init__(
        self, rule: Rule = by_content, *, slots: int = 2, controls_passed: bool = True
    ) -> None:
        self._rule = rule
        self._slots = slots
        self._passed = controls_passed
        self._tasks: deque[Task] = deque()
        self.tasks: list[Task] = []
        self.together: list[int] = []
        self.started = self.closed = False

    @property
    def scanned(self) -> list[str]:
        return [task.file.name for task in self.tasks]

    def start(self) -> PoolInfo:
        self.started = True
        return PoolInfo("fake", "a fake", self._slots, (("known", 0.9),), self._passed)

    def submit(self, task: Task) -> None:
        assert len(self._tasks) < self._slots
        self.tasks.append(task)
        self._tasks.append(task)

    def wait(self, timeout: float) -> list[PoolEvent]:
        if not self._tasks:
            return []
        self.together.append(len(self._tasks))
        task = self._tasks.popleft()
        found = self._rule(task)
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Reason):
            return [TaskLost(task, found)]
        return [TaskProgress(task, "analysing", 5, 0.2, 0.4), TaskDone(task, found)]

    def busy(self) -> dict[str, float]:
        return {"network": 1.0, "decode": 2.0}

    def close(self) -> None:
        self.closed = True
