"""Measures over time see what they name, and help only where there is something to tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from train.calibration import track_evidence
from train.calibration.track_evidence import MEASURES, judged, measures
from train.smoke import write_faces


def test_each_measure_sees_its_own() -> None:
    rng = np.random.default_rng(0)
    still = np.full((6, 8, 8), 0.1, np.float32)
    still[:, 2:5, 2:5] = 0.9
    jumping = np.stack([np.roll(mask, 3 * i, 1) for i, mask in enumerate(still)])
    crops = np.repeat(rng.integers(90, 110, (1, 32, 32, 3), dtype=np.uint8), 6, 0)
    lit = crops.copy()
    lit[::2, 8:24, 8:24] += 30

    def one(name: str, *given: object) -> float:
        return measures(*given)[MEASURES.index(name)]  # type: ignore[arg-type]

    flat = [1.0] * 6
    assert one("mean logit", flat, still, crops) == 1.0
    assert one("spread of logits", [0.0, 2.0] * 3, still, crops) == 1.0
    assert one("constancy of mask", flat, still, crops) == 1.0
    assert one("constancy of mask", flat, jumping, crops) < 0.5
    assert one("area of mask", flat, still, crops) > one("area of mask", flat, still / 2, crops)
    assert one("flicker inside", flat, still, lit) > 1 > one("flicker inside", flat, still, crops)
    assert one("flicker under mask", flat, still, lit) > 0


def test_a_measure_gains_only_if_it_tells_something_new() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0.0, 1.0], 150)
    groups = np.tile(np.arange(50.0), 6)
    rows = rng.normal(size=(300, len(MEASURES)))
    rows[:, 0] += labels
    rows[:, 2] += 1.5 * labels
    found = {each.name: each for each in judged(rows, labels, groups)}
    assert found["constancy of mask"].gain > 0.05
    assert abs(found["spread of logits"].gain) < 0.02
    assert found["mean logit"].gain == 0 and 0.7 < found["mean logit"].alone < 0.85
    assert found["all together"].gain > 0.05


def test_the_command_tells_every_measure(tmp_path: Path) -> None:
    write_faces(tmp_path)
    app = Typer()
    app.command()(track_evidence.main)
    given = ["--data", str(tmp_path), "--engine", "torch-cpu-fp32", "--threads", "1"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert "4 clips" in done.output and all(name in done.output for name in MEASURES)
    wrong = CliRunner().invoke(app, ["--data", str(tmp_path / "none")])
    assert wrong.exit_code == 2 and "provenance.csv is missing" in wrong.output


@pytest.mark.parametrize("count", [0, 1])
def test_one_frame_more_than_none_is_needed(count: int) -> None:
    masks = np.zeros((2 + count, 4, 4), np.float32)
    crops = np.zeros((2 + count, 16, 16, 3), np.uint8)
    assert np.isfinite(measures([0.0] * (2 + count), masks, crops)).all()
