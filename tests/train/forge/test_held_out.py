"""What calibration is measured on is no part of any training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from train.forge.faces import read_faces
from train.forge.held_out import KEY, LIST, is_held_out, list_hash, real_files, was_unseen
from train.smoke import write_faces

LISTED = json.loads(LIST.read_text())


def folder(path: Path) -> Path:
    """Four pictures to train on, two of them in the list, and two clips."""
    write_faces(path)
    table = path / "provenance.csv"
    lines = table.read_text().splitlines()
    row = next(line for line in lines if line.endswith("train"))
    frame = LISTED["clips"][0]["frames"] + "0004_0.png"
    for name in (LISTED["pictures"][0], frame):
        (path / name).parent.mkdir(parents=True)
        (path / name).write_bytes((path / "astronaut.png").read_bytes())
        lines.append(row.replace("astronaut.png", name).replace(",astronaut,", f",{name},"))
    table.write_text("\n".join(lines) + "\n")
    for clip in (LISTED["clips"][0], LISTED["clips"][-1]):
        (path / clip["file"]).parent.mkdir(parents=True, exist_ok=True)
        (path / clip["file"]).write_bytes(b"")
    return path


def test_pictures_of_the_list_and_frames_of_its_clips_are_not_trained_on(tmp_path: Path) -> None:
    data = folder(tmp_path)
    names = [person.name for person in read_faces(data, "train")]
    assert names == ["astronaut.png", "mirrored.png"]


def test_what_training_may_have_seen_is_marked(tmp_path: Path) -> None:
    data = folder(tmp_path)
    seen = {each.name: each.seen for each in real_files(data, unseen=False)}
    picture, clip, untouched = (
        LISTED["pictures"][0], LISTED["clips"][0]["file"], LISTED["clips"][-1]["file"],
    )  # fmt: skip
    # Frames of a recording are measured as the recording, not as pictures beside it.
    assert set(seen) == {"astronaut.png", "mirrored.png", picture, clip, untouched}
    assert [name for name, was in seen.items() if was] == [picture, clip]
    assert not any(each.seen for each in real_files(data, unseen=True))


def test_weights_are_unseen_only_if_they_say_so(tmp_path: Path) -> None:
    state = {"w": torch.zeros(1)}
    for name, metadata in (("with", {KEY: list_hash()}), ("other", {KEY: "0" * 64}), ("none", {})):
        save_file(state, tmp_path / f"{name}.safetensors", metadata)
    unseen = {
        name: was_unseen(tmp_path / f"{name}.safetensors") for name in ("with", "other", "none")
    }
    assert unseen == {"with": True, "other": False, "none": False}


def test_the_list_is_small_and_holds_whole_recordings() -> None:
    assert LIST.stat().st_size < 16_000
    assert all(is_held_out(name) for name in LISTED["pictures"])
    frames = [clip["frames"] for clip in LISTED["clips"] if "frames" in clip]
    assert len(frames) == 8 and not any(is_held_out(each.rstrip("_")) for each in frames)
