"""The command over real deepfakes, on a made set: what it counts, and that looks are written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from deepscan.errors import UsageError
from deepscan.faces.detector import Detection
from deepscan.types import Box, Face
from tests.models.build import write_model
from train.evaluation import real_deepfakes
from train.evaluation.real_deepfakes import (
    Entry,
    Scored,
    compare,
    headline,
    of_set,
    read_manifest,
    summarise,
)


def scored(file, fake, recording, logits, original="", pixels=(0, 0), set_="live swap"):
    return Scored(Entry(file, fake, recording, set_, original), tuple(logits), pixels)


MADE = [
    scored("r1", False, "a", [-2.0, -1.0]),
    scored("r2", False, "b", [0.0, 1.0]),
    scored("f1", True, "a", [1.0, 2.0], "r1", (3, 4)),
    scored("f2", True, "b", [-1.0, 0.0], "r2", (1, 4)),
]


def test_figures_of_a_set():
    found = of_set(MADE, [one for one in MADE if not one.entry.fake])
    assert (found["fake"], found["real"], found["recordings"]) == (2, 2, 2)
    # f1 (1.5) is above both, f2 (-0.5) above r1 (-1.5) only.
    assert found["clips"].value == pytest.approx(0.75)
    assert found["pairs"].value == pytest.approx(0.5)
    assert found["margin"].value == pytest.approx((3.0 - 1.0) / 2)
    assert found["mask_iou"].value == pytest.approx(4 / 8)
    assert found["clips"].low <= 0.75 <= found["clips"].high


def test_fakes_of_another_set_are_judged_against_all_real_files():
    alone = [*MADE, scored("f3", True, "c", [5.0], set_="GHOST")]
    table = summarise(alone)
    assert table["GHOST"]["clips"] is None and table["GHOST"]["clips_all"].value == 1.0
    assert table["GHOST"]["pairs"] is None and table["GHOST"]["mask_iou"] is None
    assert headline(table) is None


def test_headline_is_the_mean_over_three_sets():
    table = summarise(
        [
            scored(f"{name}{kind}", kind == "f", name, [value], set_=name)
            for name in ("live swap", "FF++ c23", "Celeb-DF")
            for kind, value in (("f", 1.0), ("r", 0.0))
        ]
    )
    assert headline(table) == 1.0


def test_two_weights_are_compared_on_the_same_files():
    better = [scored(o.entry.file, o.entry.fake, o.entry.recording, [3.0 if o.entry.fake else -3.0],
                     o.entry.original) for o in MADE]  # fmt: skip
    gain = compare(better, MADE)
    assert gain["clips"].value == pytest.approx(0.25) and gain["pairs"].value == pytest.approx(0.5)
    with pytest.raises(UsageError, match="same files"):
        compare(better[:3], MADE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    place = tmp_path / "set"
    place.mkdir()
    rows = []
    for number in range(3):
        for label in ("real", "fake"):
            name = f"{label}{number}.png"
            cv2.imwrite(str(place / name), rng.integers(0, 256, (96, 96, 3)).astype(np.uint8))
            original = f"real{number}.png" if label == "fake" else ""
            rows.append([name, label, original, f"rec{number}", "stills"])
    with (place / "manifest.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows(
            [["file", "label", "real_counterpart", "recording", "set"], *rows]
        )
    half = np.zeros((96, 96), np.uint8)
    half[:, 48:] = 255
    cv2.imwrite(str(place / "mask.png"), half)
    (place / "masks.csv").write_text("clip,frame,mask,real\nfake0.png,0,mask.png,real0.png\n")
    return place


class OneFace:
    def detect(self, image, *, larger_than=0.0, within=None):
        return Detection((Face(Box(20, 20, 70, 70), 0.99),))


def run(*arguments: object):
    app = Typer()
    app.command()(real_deepfakes.main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_scores_compares_and_counts_looks(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(real_deepfakes, "load_detector", lambda settings: OneFace())
    weights = tmp_path / "models"
    write_model(weights, "tiny", seed=0)
    write_model(weights, "other", seed=1)
    kept, looks, out = tmp_path / "faces.json", tmp_path / "looks.csv", tmp_path / "out.json"
    arguments = (
        weights / "tiny.json", "--data", folder, "--against", weights / "other.json",
        "--faces", kept, "--out", out, "--looks", looks, "--question", "which seed?",
        "--step", "no training",
    )  # fmt: skip
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "| stills | 3 | 3 |" in done.output and "less" in done.output
    report = json.loads(out.read_text())
    found = report["scored"][0]["figures"]["stills"]
    assert 0 <= found["clips"]["value"] <= 1 and 0 <= found["mask_iou"]["value"] <= 1
    assert set(report["difference"]) == {"clips", "pairs"}
    # The faces are kept: nothing is detected again.
    monkeypatch.setattr(
        real_deepfakes, "load_detector", lambda settings: pytest.fail("detected again")
    )
    for _ in range(real_deepfakes.LOOKS - 1):
        assert run(*arguments).exit_code == 0
    refused = run(*arguments)
    assert refused.exit_code == 2 and "no more than 3" in refused.output
    with looks.open(newline="") as lines:
        rows = [(row["question"], row["step"]) for row in csv.DictReader(lines)]
    assert rows == [("which seed?", "no training")] * 3


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(UsageError, match=r"manifest\.csv is missing"):
        read_manifest(tmp_path)
    (folder / "real1.png").unlink()
    with pytest.raises(UsageError, match=r"real1\.png"):
        read_manifest(folder)
    assert run(tmp_path / "no.safetensors", "--data", folder).exit_code == 2
