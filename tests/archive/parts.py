"""What model processes of tests load by name: scanners with fakes, and ways to go wrong."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from deepscan.engines.engine import Predictions
from deepscan.errors import EngineError
from deepscan.models.library import read_card
from deepscan.verdict.calibration import calibration_of
from tests.conftest import blue_engine, fake_scanner, judge_blue


def no_controls(engine: Any, options: Any) -> tuple[tuple[tuple[str, float], ...], bool]:
    """Known crops that score as they must."""
    return (("known", 0.97),), True


def bad_controls(engine: Any, options: Any) -> tuple[tuple[tuple[str, float], ...], bool]:
    """Known crops that do not."""
    return (("known", 0.03),), False


def no_engine(options: Any, **given: Any) -> Any:
    raise EngineError("no engine runs here")


def start_failures(options: Any, **given: Any) -> Any:
    os.abort()


class _Willing:
    """A scanner that does to itself what the name of a file says."""

    def __init__(self, options: Any, engine: Any = None) -> None:
        self._scanner = fake_scanner(options, **({"engine": engine} if engine else {}))
        self.options = options
        self.engine = self._scanner.engine

    def scan(self, path: Path, *args: Any, **rest: Any) -> Any:
        if "abort" in path.name:
            os.abort()
        if "hang" in path.name:
            time.sleep(3600)
        if "bug" in path.name:
            raise RuntimeError("oops")
        if "engine" in path.name:
            raise EngineError("NaN")
        if "full" in path.name:
            raise OSError(28, "No space left on device")
        self._scanner.engine = self.engine
        return self._scanner.scan(path, *args, **rest)


def willing(options: Any, *, engine: Any = None) -> Any:
    return _Willing(options, engine)


class _Gated:
    """A scanner that scans the first clip, and others when the file that $GATE names is there."""

    def __init__(self, options: Any, engine: Any = None) -> None:
        self._scanner = fake_scanner(options, **({"engine": engine} if engine else {}))
        self.options = options
        self.engine = self._scanner.engine

    def scan(self, path: Path, *args: Any, **rest: Any) -> Any:
        while path.name != "clip00.mp4" and not os.path.exists(os.environ["GATE"]):
            time.sleep(0.02)
        self._scanner.engine = self.engine
        return self._scanner.scan(path, *args, **rest)


def gated_scanner(options: Any, *, engine: Any = None) -> Any:
    return _Gated(options, engine)


def slow_scanner(options: Any, *, engine: Any = None) -> Any:
    """A scanner whose network takes its time, so that a kill meets work in flight."""

    def judge(crops: np.ndarray) -> Predictions:
        time.sleep(0.05)
        return judge_blue(crops)

    return fake_scanner(options, engine=engine or blue_engine(judge=judge))


class _Graded:
    """A scanner whose network says what the name of a file does: "g+1.25 x.mp4" is a logit."""

    def __init__(self, options: Any, engine: Any = None) -> None:
        self.options = options
        self.engine = engine or fake_scanner(options).engine

    def scan(self, path: Path, *args: Any, **rest: Any) -> Any:
        while not os.path.exists(os.environ.get("GATE", "/")):
            time.sleep(0.02)
        found = re.match(r"g([+-][0-9.]+)", path.name)
        level = float(found[1]) if found else 0.0
        score = np.nan if path.name.startswith("nan") else 1 / (1 + np.exp(-level))

        def judge(crops: Any) -> Predictions:
            scores = np.full(len(crops), score, np.float32)
            return Predictions(scores, np.broadcast_to(scores[:, None, None], (len(crops), 16, 16)))

        engine = blue_engine(judge=judge)
        engine.model = self.engine.model
        calibration = calibration_of(read_card(self.options.model).values)
        scanner = fake_scanner(self.options, engine=engine, calibration=calibration)
        return scanner.scan(path, *args, **rest)


def graded(options: Any, *, engine: Any = None) -> Any:
    return _Graded(options, engine)
