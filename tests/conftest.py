"""What tests of the whole program share: a drawn face, fakes that judge it, the command line.

A drawn face is forged where its blue is high: the fake engine can tell, the fake detector cannot.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from deepscan.engines.engine import Predictions
from deepscan.types import Image
from deepscan.verdict.calibration import Calibration, Scale, Tail
from tests.browser import Browser, start_browser
from tests.fakes import FakeDetector, FakeEngine
from tests.media import FACE_COLOUR, make_video

# A busy machine is slow; tests that measure time say so themselves.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

SIZE = (160, 120)
SIDE = 56
HONEST_BLUE, FORGED_BLUE = FACE_COLOUR[2] - 12, FACE_COLOUR[2] + 12
HIGH, LOW = 0.97, 0.05  # what the fake engine says

SCALE = Scale(slope=1.0, offset=0.0, tail=Tail(u=0.0, q=0.1, b=0.5))
CALIBRATION = Calibration(
    name="drawn/1",
    population="drawn faces",
    window=1.0,
    clip=SCALE,
    still=SCALE,
    rate=0.01,
    review_rate=0.05,
    measured=0.008,
    measured_interval=(0.004, 0.016),
    clips=500,
)


def draw_face(index: int, *, forged: bool = False, size: tuple[int, int] = SIZE) -> Image:
    """A grey picture with one face that drifts to the right, half a pixel a frame."""
    width, height = size
    image = np.full((height, width, 3), 70, np.uint8)
    left, top = 10 + index // 2 % (width - SIDE - 20), (height - SIDE) // 2
    colour = (*FACE_COLOUR[:2], FORGED_BLUE if forged else HONEST_BLUE)
    image[top : top + SIDE, left : left + SIDE] = colour
    return image


def make_face_clip(path: Path, *, forged: Container[int] = (), **wanted: Any) -> Path:
    """A clip of a drawn face that is forged in some frames."""
    return make_video(
        path,
        **{
            "frames": 20,
            "size": SIZE,
            "draw": lambda index: draw_face(index, forged=index in forged),
            **wanted,
        },
    )


def judge_blue(crops: np.ndarray) -> Predictions:
    """High for crops whose middle is as blue as a forged face; the mask agrees."""
    quarter = crops.shape[1] // 4
    middle = crops[:, quarter:-quarter, quarter:-quarter, 2].mean(axis=(1, 2))
    scores = np.where(middle > FACE_COLOUR[2], HIGH, LOW).astype(np.float32)
    masks = np.broadcast_to(scores[:, None, None], (len(crops), 16, 16)).astype(np.float32)
    return Predictions(scores, masks)


def blue_engine(**wanted: Any) -> FakeEngine:
    """A fake engine above the model floor."""
    engine = FakeEngine(**{"judge": judge_blue, **wanted})
    engine.model = replace(engine.model, auc=0.9, auc_interval=(0.85, 0.95))
    return engine


def fake_scanner(options: Any, **wanted: Any) -> Any:
    """A Scanner that needs neither weights nor torch."""
    import deepscan.scan.scanner

    return deepscan.scan.scanner.Scanner(
        options,
        **{
            "engine": blue_engine(),
            "detector": FakeDetector(),
            "calibration": CALIBRATION,
            **wanted,
        },
    )


def run_with_fakes() -> None:
    """The command line with fakes, for `python -c`."""
    put_fakes()
    from deepscan.cli.scan import run

    run()


def put_fakes() -> None:
    """Let the command line build scanners with fakes."""
    import deepscan.scan.scanner

    real = deepscan.scan.scanner.Scanner

    def build(options: Any, **given: Any) -> Any:
        parts = {"engine": blue_engine(), "detector": FakeDetector(), "calibration": CALIBRATION}
        return real(options, **{**parts, **given})

    deepscan.scan.scanner.Scanner = build  # type: ignore[assignment,misc]


@dataclass(frozen=True)
class Ran:
    """What a run of the command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def quiet_between_tests() -> Iterator[None]:
    """What a test makes of the program's log, as the command line does, ends with the test."""
    log = logging.getLogger("deepscan")
    level, handlers = log.level, list(log.handlers)
    yield
    log.setLevel(level)
    log.handlers[:] = handlers


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever builds a scanner without saying with what gets one with fakes."""
    import deepscan.scan.scanner

    monkeypatch.setattr(
        deepscan.scan.scanner, "Scanner", deepscan.scan.scanner.Scanner
    )  # put back afterwards
    put_fakes()


@pytest.fixture
def deepscan_cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fakes: None
) -> Callable[..., Ran]:
    """The command line in this process, with fakes."""
    import signal

    from deepscan.cli import scan as cli

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test run keeps its own

    def run(*args: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["deepscan", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.run()
        told = capsys.readouterr()
        return Ran(ended.value.code, told.out, told.err)  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small files, one for each thing that can become of a scan. Read only."""
    from PIL import Image as Pillow

    folder = tmp_path_factory.mktemp("clips")
    made = {
        "honest": make_face_clip(folder / "honest.mp4"),
        "forged": make_face_clip(folder / "forged.mp4", forged=range(20), audio="aac"),
        "no_face": make_face_clip(
            folder / "no-face.mp4", draw=lambda index: np.full((120, 160, 3), 70, np.uint8)
        ),
        "cut_off": folder / "cut-off.mkv",
        "junk": folder / "junk.mp4",
        "sound": folder / "sound.wav",
        "still": folder / "still.png",
    }
    whole = make_face_clip(folder / "whole.mkv", frames=60, gop=5)
    made["cut_off"].write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    made["junk"].write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 8)
    made["sound"].write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28))
    Pillow.fromarray(draw_face(0, forged=True)).save(made["still"])
    return made


@pytest.fixture(scope="session")
def shipped_model() -> str:
    """The name of the model that ships. Its weights are part of the program: no skipping."""
    from deepscan.models.library import read_card
    from deepscan.options import ScanOptions

    card = read_card(ScanOptions().model)
    assert card.path.is_file(), f"the weights {card.path} are missing"
    return card.name


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for the pages of one file of tests."""
    started = start_browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()
