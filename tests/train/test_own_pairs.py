"""From pairs of one's own to a model that `--model` takes, by the commands of docs/training.md."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data
from typer import Typer
from typer.testing import CliRunner

from deepscan import exit_codes
from deepscan.errors import UsageError
from tests.media import make_video
from tests.train.annotate.test_annotate import forged, picture
from tests.train.test_train import PICTURES, go
from train.annotate.__main__ import split_work
from train.annotate.pairs import Fake, Work
from train.annotate.work import Outcome
from train.calibration.certify import main as certify_command
from train.calibration.pairs import certify_pairs
from train.datasets import LayoutError, open_dataset
from train.smoke import write_dataset, write_faces

ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"^## Fine-tune on your own clips\n(.*?)^## ", re.MULTILINE | re.DOTALL)


def documented() -> list[list[str]]:
    """The words of each command of the road, of the section's first block."""
    section = SECTION.search((ROOT / "docs" / "training.md").read_text("utf-8"))
    assert section is not None
    block = re.search(r"^```sh\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert block is not None
    return [shlex.split(line) for line in block[1].splitlines()]


def make_pairs(folder: Path) -> None:
    """Two real clips with a fake each, and one to scan; the second person is the first mirrored."""
    for name in ("REAL", "FAKE"):
        (folder / name).mkdir()
    frames = [picture(shift) for shift in range(4)]
    fakes = [forged(frame, shift) for shift, frame in enumerate(frames)]
    for real, fake, side in (("anna_1", "anna_1", 1), ("ben_1", "ben_1_swap", -1)):
        for path, shown in ((f"REAL/{real}", frames), (f"FAKE/{fake}", fakes)):
            make_video(
                folder / f"{path}.mp4", frames=4, size=(448, 320),
                draw=lambda index, shown=shown, side=side: shown[index][:, ::side],
            )  # fmt: skip
    large = np.ascontiguousarray(data.astronaut()[:400])
    make_video(folder / "clip.mp4", frames=6, size=(512, 400), draw=lambda _: large)


def run(words: list[str], folder: Path, code: int) -> str:
    """Run a documented command at the smallest size; what it said."""
    words = ["clip.mp4" if word == "CLIP" else word for word in words]
    if words[:3] == ["python", "-m", "train.train"]:
        words += ["--smoke"]
    words = words[1:] if words[0] == "python" else ["-m", *words]
    ran = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=280,
        check=False, env={
            **os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200",
            "DEEPSCAN_MODELS": str(folder / "models"),
        },
    )  # fmt: skip
    assert ran.returncode == code, f"{words}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


def test_the_documented_road_from_pairs_to_a_model(tmp_path: Path) -> None:
    make_pairs(tmp_path)
    for name in ("train", "deepscan"):  # recipes and weights are named from the checkout
        (tmp_path / name).symlink_to(ROOT / name)
    annotate, train, certify, import_, check, scan = documented()

    run(annotate, tmp_path, 0)
    masks = sorted(path.name for path in (tmp_path / "PAIRS/Mask/FAKE").iterdir())
    assert masks == ["anna_1", "ben_1_swap"]
    pairs = open_dataset("pixel-faceforensics", tmp_path / "PAIRS")
    people = {
        split: {sample.original or sample.video for sample in pairs.samples(split)}
        for split in ("train", "val")
    }
    assert [len(each) for each in people.values()] == [1, 1]  # fakes are with their real video
    assert not people["train"] & people["val"]

    assert "any real picture" not in run(train, tmp_path, 0)
    assert (tmp_path / "runs/mine/msccnet-s.safetensors").is_file()

    told = run(certify, tmp_path, 1)
    assert "not certified: measured on pairs held out" in told
    assert "deepscan model import runs/mine-card/msccnet-s.safetensors" in told
    card = json.loads((tmp_path / "runs/mine-card/msccnet-s.json").read_text())
    assert card["evaluation"]["samples"] == 8 and "calibration" not in card
    assert "start_sha256" in card["training"]

    told = run(import_, tmp_path, 0)
    assert re.search(r"certified +no: measured on pairs", told)
    assert re.search(r"frame AUC +[01]\.\d", told)
    calibrate = "deepscan model calibrate mine --real FOLDER --to NAME"
    assert calibrate in run(check, tmp_path, 0)

    told = run(scan, tmp_path, exit_codes.INCONCLUSIVE)
    assert "inconclusive" in told.lower() and calibrate in " ".join(told.split())


def work(names: str) -> tuple[list[Work], list[Outcome]]:
    """Real videos by letters, each with two fakes that have masks."""
    kinds = ("blend", "swap")
    todo = [Work(name, {}, [Fake(kind, f"{name}_1", {}) for kind in kinds]) for name in names]
    return todo, [Outcome(k, f"{name}_1", "annotated") for name in names for k in kinds]


def test_a_share_of_the_real_videos_is_held_out_with_its_fakes() -> None:
    lists = split_work(*work("abcdefghij"), 0.2)
    assert [len(lists["val"]), len(lists["train"])] == [2, 8]
    assert sorted(lists["val"] + lists["train"]) == [f"{name}_1" for name in "abcdefghij"]
    todo, outcomes = work("abc")
    unfinished = [one for one in outcomes if one.name != "b_1"]
    assert sum(map(len, split_work(todo, unfinished, 0.01).values())) == 2
    with pytest.raises(UsageError, match="1 real videos have fakes with masks"):
        split_work(*work("a"), 0.2)


def test_pairs_without_lists_say_what_to_do(tmp_path: Path) -> None:
    for name in ("Raw/real/anna", "Raw/FAKE/anna", "Mask/FAKE/anna"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(LayoutError, match="annotate with --hold-out or --pairs"):
        list(open_dataset("pixel-faceforensics", tmp_path).samples("train"))


def test_only_what_training_did_not_see_is_measured(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces")
    write_dataset(tmp_path / "faces", tmp_path / "pairs")
    weights = go(PICTURES, tmp_path / "pairs", tmp_path / "run")
    assert weights is not None
    card = certify_pairs(weights, tmp_path / "pairs", tmp_path / "out", rounds=20)
    assert not card["certification"]["passed"] and card["evaluation"]["samples"] == 8
    app = Typer()
    app.command()(certify_command)
    command = [str(weights), "--data", str(tmp_path / "pairs"), "--out", str(tmp_path / "other")]
    refused = CliRunner().invoke(app, [*command, "--devset", str(tmp_path)])
    assert refused.exit_code == 2 and "leave --devset" in refused.output
    moved = "fake/self-blend/mirrored/1.png"  # learned, and held out by now
    (tmp_path / "pairs/train" / moved).rename(tmp_path / "pairs/val" / moved)
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "may have been seen" in " ".join(refused.output.split())
    assert not (tmp_path / "other").exists()
