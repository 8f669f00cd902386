"""The whole program in a process of its own, where only the networks are fakes.

`python -m tests.archive.command SCANNER ARGUMENTS...` is `python -m deepscan ARGUMENTS...` with a
scanner of tests in its model processes; `Program` starts it and knows what it leaves behind.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepscan.archive.journal import JOURNAL, read_journal
from deepscan.archive.records import Results
from deepscan.types import Label

ROOT = Path(__file__).parents[2]
FAST = "tests.conftest:fake_scanner"
SLOW = "tests.archive.parts:slow_scanner"
TROUBLED = "tests.archive.command:troubled"
MARK = "PYTHON_DEEPSCAN_TEST"  # names beginning so are handed down to every process
DAY = 86400.0


def main() -> None:
    """Run the command line with the scanner that the first argument names."""
    import deepscan.archive.workers.local as local
    from deepscan.cli.scan import run

    scanner = sys.argv.pop(1)
    parts = {"scanner": scanner, "controls": "tests.archive.parts:no_controls"}
    make = local.LocalPool
    local.LocalPool = lambda given: make(replace(given, **parts))  # type: ignore[misc,assignment]
    if "--jump" in sys.argv:
        sys.argv.remove("--jump")
        jump_about()
    run()


def jump_about() -> None:
    """A clock that somebody sets: a day on, a day back, at every look."""
    real = time.time
    looks = 0

    def jumping() -> float:
        nonlocal looks
        looks += 1
        return real() + (-DAY, 0.0, DAY)[looks % 3]

    time.time = jumping


class _Troubled:
    """A scanner whose files meet with what their names say, while it looks at them."""

    def __init__(self, options: Any, engine: Any = None) -> None:
        from tests.conftest import fake_scanner

        self._make = functools.partial(fake_scanner, options)
        self.options = options
        self.engine = engine or self._make().engine

    def scan(self, path: Path, *args: Any, **rest: Any) -> Any:
        from tests.conftest import blue_engine

        engine = self.engine
        if "vanishes" in path.name:
            path.unlink()
        elif "grows" in path.name:
            engine = blue_engine(judge=after(_append, path))
        elif "replaced" in path.name:
            engine = blue_engine(judge=after(_replace, path))
        elif "nan" in path.name:
            engine = blue_engine(judge=judge_nothing)
        return self._make(engine=engine).scan(path, *args, **rest)


def troubled(options: Any, *, engine: Any = None) -> Any:
    return _Troubled(options, engine)


def judge_nothing(crops: Any) -> Any:
    """What a broken network gives: no numbers."""
    import numpy as np

    from deepscan.engines.engine import Predictions

    none = np.full((len(crops), 16, 16), np.nan, np.float32)
    return Predictions(none[:, 0, 0], none)


def after(change: Callable[[Path], None], path: Path) -> Callable[[Any], Any]:
    """A network that judges after something has happened to the file."""
    from tests.conftest import judge_blue

    def judge(crops: Any) -> Any:
        change(path)
        return judge_blue(crops)

    return judge


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(1000))


def _replace(path: Path) -> None:
    other = path.with_name(path.name + ".new")
    other.write_bytes(path.read_bytes() + bytes(8))
    other.replace(path)


@dataclass(frozen=True)
class Ran:
    """How a run ended."""

    code: int
    out: str
    err: str


class Program:
    """The program as one test starts it, with a place of its own for temporary files."""

    def __init__(self, place: Path) -> None:
        self.temporary = place / "temporary"
        self.temporary.mkdir(parents=True)
        self.mark = f"{os.getpid()}-{place}"

    def command(self, *arguments: object, scanner: str = FAST) -> list[str]:
        told = [os.fspath(each) if isinstance(each, os.PathLike) else str(each)
                for each in arguments]  # fmt: skip
        return [sys.executable, "-m", "tests.archive.command", scanner, *told]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.temporary), MARK: self.mark,
                "OMP_NUM_THREADS": "1"}  # fmt: skip

    def start(self, *arguments: object, scanner: str = FAST, **given: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(
            self.command(*arguments, scanner=scanner),
            **{
                "cwd": ROOT,
                "env": self.environment(),
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **given,
            },
        )

    def run(
        self, *arguments: object, scanner: str = FAST, seconds: float = 170, **given: Any
    ) -> Ran:
        process = self.start(*arguments, scanner=scanner, **given)
        return self.end(process, seconds)

    def end(self, process: subprocess.Popen[Any], seconds: float = 170) -> Ran:
        """Wait for its end, and for that of all it started."""
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
            process.wait()
        self.check_gone()
        return Ran(process.returncode, (out or b"").decode(), (err or b"").decode())

    def check_gone(self) -> None:
        """No process is left, and no temporary file."""
        until = time.monotonic() + 20
        while left := self.processes():
            assert time.monotonic() < until, left
            time.sleep(0.05)
        assert list(self.temporary.iterdir()) == []

    def processes(self) -> dict[int, str]:
        """The processes of the program that live: number -> command line."""
        found = {}
        wanted = f"{MARK}={self.mark}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (path / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
        return {pid: line for pid, line in found.items() if line}  # a dead one has no words


def check_whole(out: Path, names: set[str]) -> Results:
    """Every name has one outcome, every outcome its outputs, and nothing else lies about."""
    results = read_journal(out)
    assert {outcome.name for outcome in results.outcomes} == names
    assert len(results.outcomes) == len(names) and results.finished
    written = {each.path for outcome in results.outcomes for each in outcome.outputs}
    lie = {
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and len(path.relative_to(out).parts) > 1
    }
    assert lie == written
    assert not [path for path in out.rglob(".*") if path.name not in (".lock", ".gitignore")]
    return results


def settled_once(out: Path) -> Counter[str]:
    """How often each name was settled, over all runs that the journal knows."""
    lines = map(json.loads, (out / JOURNAL).read_bytes().splitlines())
    return Counter(line["outcome"]["name"] for line in lines if line["kind"] == "done")


def labels_of(results: Results) -> dict[str, Label]:
    return {outcome.name: outcome.label for outcome in results.outcomes}


def reasons_of(results: Results) -> dict[str, str]:
    """Name -> the code of its first reason."""
    return {outcome.name: outcome.reasons[0].code for outcome in results.outcomes}


if __name__ == "__main__":
    main()
