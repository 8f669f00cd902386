"""Evaluation: an oracle scores full marks, shortcuts are seen, nothing drops out unseen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from typer import Typer
from typer.testing import CliRunner

from deepscan.models import MODELS
from deepscan.models.msccnet import MSCCNet
from deepscan.models.weights import save_weights
from train.datasets import VideoKey, open_dataset
from train.evaluation import crops as crops_command
from train.evaluation import evaluate as evaluation
from train.evaluation.colour_baseline import colour_scores
from train.evaluation.corruptions import CORRUPTIONS, sweep
from train.evaluation.crops import Crop, Reading, choose, read_crops
from train.evaluation.evaluate import Crops, evaluate, forged_crops
from train.evaluation.predict import Prediction, predict
from train.evaluation.summary import by_manipulation, summarise
from train.forge import without_pack
from train.smoke import write_dataset, write_faces

SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Oracle:
    """Takes pure red for manipulated: the score is its share, the mask where it is."""

    input_size = SIDE

    def __call__(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        red = (crops[..., 0] > 200) & (crops[..., 1] < 60)
        mask = torch.where(red, 20.0, -20.0)
        return (red.float().mean((1, 2)) * 8).clamp(0, 1), torch.stack([-mask, mask], dim=1)


def crop(name: str, frame: int, fake: bool, seed: int, size: int = SIDE) -> Crop:
    picture = np.random.default_rng(seed).integers(90, 160, (size, size, 3), np.uint8)
    mask = np.zeros((size, size), np.uint8)
    if fake:
        mask[size // 4 : size // 2, size // 4 : size * 3 // 4] = 1
        picture[mask == 1] = (255, 0, 0)
    group = VideoKey("set", "real", name)
    video = VideoKey("set", "swap", name) if fake else group
    return Crop(video, group, frame, int(fake), picture, mask, float(size * size))


def crops(videos: int = 6, frames: int = 2) -> list[Crop]:
    return [
        crop(f"v{video}", frame, fake, 10 * video + frame)
        for video in range(videos)
        for frame in range(frames)
        for fake in (False, True)
    ]


def test_an_oracle_scores_full_marks() -> None:
    values = evaluate(Oracle(), crops(), sweeps=[], rounds=20)
    joint = values["joint"]
    assert joint["image"] == {
        "accuracy": 1.0, "auc": 1.0, "macro_f1": 1.0, "eer": 0.0, "average_precision": 1.0,
    }  # fmt: skip
    assert all(value == 1.0 for value in joint["pixel"].values())
    assert joint["pixel_per_image"]["mcc"] == pytest.approx(1.0)
    assert joint["pixel_per_image"]["iou_fake"] == joint["pixel_per_image"]["miou"] == 1.0
    assert joint["pbca"] > 0.99 and joint["iinc_unverified"] == 0.0
    assert set(joint["video_auc"]) == {"mean", "median", "max-then-mean", "top-k"}
    assert all(value == 1.0 for value in joint["video_auc"].values())
    assert joint["intervals"]["image.auc"] == [1.0, 1.0]
    assert (joint["crops"], joint["videos"], joint["undefined"]) == (24, 12, {})
    assert list(values["manipulations"]) == ["swap"]
    json.dumps(values, allow_nan=False)


def test_crops_of_any_aspect_are_compared_at_their_own_size() -> None:
    wide = replace(
        crop("v", 0, True, 1),
        image=cv2.resize(crop("v", 0, True, 1).image, (96, 50), interpolation=cv2.INTER_NEAREST),
        mask=cv2.resize(crop("v", 0, True, 1).mask, (96, 50), interpolation=cv2.INTER_NEAREST),
    )
    (one,) = predict([wide], Oracle())
    assert one.confusion is not None and one.confusion.sum() == 96 * 50
    assert np.trace(one.confusion) > 0.93 * 96 * 50


def prediction(label: int, score: float, video: int = 0, kind: str = "swap", **parts) -> Prediction:
    group = VideoKey("set", "real", f"v{video}")
    key = VideoKey("set", kind, f"v{video}") if label else group
    plain = {
        "confusion": None, "iinc": None, "truth": None, "found": None,
        "colours": np.zeros(6, np.float32), "frame": 0, "area": 1.0,
    }  # fmt: skip
    return Prediction(video=key, group=group, label=label, score=score, **{**plain, **parts})


def test_figures_agree_with_scikit_learn_and_intervals_hold_them() -> None:
    rng = np.random.default_rng(0)
    ones = [
        prediction(label, float(np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1)), video)
        for video in range(40)
        for label in (0, 1)
    ]
    values = summarise(ones, {}, rounds=100)
    labels, scores = [one.label for one in ones], [one.score for one in ones]
    assert values["image"]["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert values["image"]["average_precision"] == pytest.approx(
        average_precision_score(labels, scores)
    )
    low, high = values["intervals"]["image.auc"]
    assert 0.5 < low < values["image"]["auc"] < high < 1
    assert values["pixel"] is None and "pixel" in values["undefined"]
    assert values["crops_with_pixel_truth"] == 0 and values["iinc_unverified"] is None


def test_what_is_undefined_is_none_with_its_reason() -> None:
    values = summarise([prediction(1, 0.7, video) for video in range(3)], {}, rounds=20)
    assert values["image"] is None and "needs both" in values["undefined"]["image"]
    assert values["video_auc"]["mean"] is None and values["colour_auc"] is None


def test_videos_without_a_crop_count_as_undecided() -> None:
    ones = [prediction(0, 0.1, 0), prediction(1, 0.9, 1)]
    missed = {VideoKey("set", "swap", "lost"): 1, VideoKey("set", "real", "lost"): 0}
    assert summarise(ones, {}, rounds=20)["video_auc"]["mean"] == 1.0
    values = summarise(ones, missed, rounds=20)
    assert values["failed_videos"] == 2 and values["videos"] == 4
    assert values["video_auc"]["mean"] == pytest.approx(3.5 / 4)


def test_each_manipulation_stands_against_all_real_ones() -> None:
    ones = [prediction(0, 0.5, video) for video in range(4)]
    ones += [prediction(1, 0.9, video, "swap") for video in range(4)]
    ones += [prediction(1, 0.1, video, "redraw") for video in range(4)]
    kinds = by_manipulation(ones, {}, "real", rounds=20)
    assert {name: one["image"]["auc"] for name, one in kinds.items()} == {"redraw": 0, "swap": 1}
    assert {one["real_crops"] for one in kinds.values()} == {4}


def coloured(shortcut: float) -> list[Prediction]:
    rng = np.random.default_rng(0)
    return [
        prediction(label, 0.5, video, colours=rng.normal(shortcut * label, 1, 6).astype(np.float32))
        for video in range(60)
        for label in (0, 1)
    ]


def test_the_control_sees_a_shortcut_and_only_that() -> None:
    labels = [one.label for one in coloured(0)]
    assert roc_auc_score(labels, colour_scores(coloured(2.0))) > 0.95
    assert 0.3 < roc_auc_score(labels, colour_scores(coloured(0.0))) < 0.65


def test_the_control_is_never_fitted_on_the_video_it_judges() -> None:
    # Colours name the video, the label follows from the video: learnable within one, not across.
    rng = np.random.default_rng(1)
    ones = []
    for video in range(40):
        colours = rng.normal(0, 5, 6).astype(np.float32)
        ones += [prediction(video % 2, 0.5, video, colours=colours) for _ in range(4)]
    auc = roc_auc_score([one.label for one in ones], colour_scores(ones))
    assert auc < 0.75


def test_the_control_needs_videos_to_leave_out() -> None:
    with pytest.raises(ValueError, match="one video"):
        colour_scores([prediction(0, 0.5), prediction(1, 0.5)])


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 47), (7, 9)])
def test_a_corruption_keeps_its_contract(name: str, height: int, width: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    before = picture.copy()
    for _, _, change in sweep([name]):
        one, two = (change(picture, np.random.default_rng(3)) for _ in range(2))
        assert one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3
        assert np.array_equal(one, two) and np.array_equal(picture, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_level_is_stronger_than_the_one_before(name: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    smooth = cv2.GaussianBlur(picture, (0, 0), 1)
    errors = []
    for _, _, change in sweep([name]):
        out = change(smooth, np.random.default_rng(0))
        out = cv2.resize(out, (64, 64), interpolation=cv2.INTER_CUBIC)
        errors.append(float(np.abs(out.astype(float) - smooth).mean()))
    assert errors == sorted(errors) and errors[0] > 0


def test_a_sweep_judges_every_level() -> None:
    values = evaluate(Oracle(), crops(), sweeps=["blur", "noise"], sweep_crops=8, rounds=5)
    rows = values["robustness"]
    assert [(row["disturbance"], row["level"]) for row in rows] == [
        ("none", 0.0),
        *(("blur", level) for level in CORRUPTIONS["blur"].levels),
        *(("noise", level) for level in CORRUPTIONS["noise"].levels),
    ]
    assert rows[0]["auc"] == 1.0 and rows[0]["iou_fake"] == 1.0
    assert rows[4]["iou_fake"] < 0.8  # pure red does not survive the strongest blur


# Real files: a data set of pictures, one of videos, made data; the commands


def write_video(path: Path, picture: Callable[[int], np.ndarray], frames: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(10))
        stream.height, stream.width = picture(0).shape[:2]
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), "rgb24")))
        out.mux(stream.encode(None))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces in videos, one fake with a mask video; one video without a face, one broken."""
    from skimage.data import astronaut

    root = tmp_path_factory.mktemp("videos")
    face = cv2.resize(astronaut()[20:260, 80:400], (160, 120))
    white = np.zeros_like(face)
    white[30:70, 60:100] = 255
    write_video(root / "real/a.mp4", lambda index: np.roll(face, index, 1))
    write_video(root / "fake/swap/a.mp4", lambda index: np.roll(255 - face // 2, index, 1))
    write_video(root / "mask/swap/a.mp4", lambda index: white, frames=3)
    write_video(root / "fake/swap/plain.mp4", lambda index: np.full_like(face, 90))
    (root / "real/broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faces, a data set of pictures and the weights of a tiny network."""
    root = tmp_path_factory.mktemp("made")
    write_faces(root / "faces")
    write_dataset(root / "faces", root / "set")
    (root / "set/val").rename(root / "set/test")
    torch.manual_seed(0)
    config = replace(MODELS["msccnet-s"], channels=16, dct_k=4, input_size=SIDE)
    network = MSCCNet(config)
    sha256 = save_weights(root / "tiny.safetensors", config, network.state_dict(), {})
    card = {
        "sha256": sha256, "config": config.to_dict(),
        "evaluation": {"auc": {"value": 0.5, "low": 0.4, "high": 0.6}, "data": "nothing"},
    }  # fmt: skip
    (root / "tiny.json").write_text(json.dumps(card))
    return root


def test_frames_of_a_video_come_with_their_masks(videos: Path) -> None:
    samples = {s.video[1:]: s for s in choose(open_dataset("folder", videos), "test")}
    found = list(read_crops(samples["swap", "a"], Reading(frames=3)))
    assert [crop.frame for crop in found] == [0, 2, 5]
    assert found[0].image.shape == (120, 160, 3) and found[0].mask[50, 80] == 1
    assert found[0].mask[10, 10] == 0 and found[0].mask.mean() == pytest.approx(1 / 12, abs=0.01)
    assert (found[2].mask == 255).all()  # the mask video has ended: nobody knows
    (real,) = read_crops(samples["real", "a"], Reading(frames=1))
    assert not real.mask.any()
    assert len(list(read_crops(samples["real", "a"], Reading(frames=0, first=4)))) == 4


def test_found_faces_are_cut_and_what_fails_is_counted(videos: Path) -> None:
    found = Crops(
        videos, "folder", "test", compression="", manipulations=[],
        reading=Reading(frames=2, faces="largest", min_face=30), device="cpu",
    )  # fmt: skip
    crops = list(found)
    assert {crop.video[1:] for crop in crops} >= {("real", "a")}
    for crop in crops:
        height, width = crop.mask.shape
        assert abs(height - width) <= 1 and crop.image.shape == (height, width, 3)
        assert crop.area < height * width < 3.5 * crop.area
    names = {"/".join(key[1:]): label for key, label in found.failed.items()}
    assert names["swap/plain"] == 1 and names["real/broken"] == 0
    assert list(found.reasons) == [VideoKey(videos.name, "real", "broken")]


def command(function: Callable[..., None], *arguments: object):
    app = Typer()
    app.command()(function)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_crops_become_a_folder_to_train_on(videos: Path, tmp_path: Path) -> None:
    done = command(
        crops_command.main, videos, "--dataset", "folder", "--out", tmp_path, "--frames", 2,
        "--min-face", 30,
    )  # fmt: skip
    assert done.exit_code == 0 and "real/broken" in done.output
    assert (tmp_path / "test/real/a/0.png").exists()
    assert not list(tmp_path.rglob("*plain*"))
    wrong = command(crops_command.main, videos, "--dataset", "dolos", "--out", tmp_path)
    assert wrong.exit_code == 2 and len(wrong.output.strip().splitlines()) == 1


@pytest.mark.parametrize("weights", ["tiny.safetensors", "tiny.json"])
def test_the_command_measures_a_data_set(made: Path, tmp_path: Path, weights: str) -> None:
    out = tmp_path / "evaluation.json"
    done = command(
        evaluation.main, made / weights, "--data", made / "set", "--dataset", "folder",
        "--out", out, "--rounds", 5, "--sweep", "noise", "--batch", 3,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "self-blend" in done.output and "colours AUC" in done.output
    assert "noise (sigma, grey levels)" in done.output
    values = json.loads(out.read_text())
    assert values["format"] == "deepscan-evaluation/1" and values["model"]["name"] == "tiny"
    assert values["data"]["dataset"] == "folder" and values["data"]["split"] == "test"
    joint = values["joint"]
    assert (joint["real_crops"], joint["fake_crops"], joint["crops_with_pixel_truth"]) == (4, 4, 8)
    assert set(values["manipulations"]) == {"self-blend"} and len(values["robustness"]) == 5


def test_made_data_are_the_held_out_people_through_the_forges(made: Path, tmp_path: Path) -> None:
    found = list(forged_crops(made / "faces", "val", ["redraw", "swap"], SIDE))
    again = list(forged_crops(made / "faces", "val", ["redraw", "swap"], SIDE))
    assert [crop.video.manipulation for crop in found[::2]] == ["redraw"] * 2 + ["swap"] * 2
    assert all(crop.video.manipulation == "real" for crop in found[1::2])
    assert all(not crop.mask.any() for crop in found[1::2])
    assert all((a.image == b.image).all() for a, b in zip(found, again, strict=True))
    assert len({(crop.video, crop.frame) for crop in found}) == len(found)
    done = command(
        evaluation.main, made / "tiny.safetensors", "--data", made / "faces",
        "--dataset", "forged", "--out", tmp_path / "e.json", "--rounds", 5,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    values = json.loads((tmp_path / "e.json").read_text())
    assert set(values["manipulations"]) == set(without_pack())
    assert values["data"] == {
        "dataset": "forged", "split": "val", "forges": without_pack(),
    }  # fmt: skip


def test_bad_input_is_one_line_and_exit_2(made: Path, tmp_path: Path) -> None:
    weights, data = made / "tiny.safetensors", made / "set"
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    given = ("--data", data, "--dataset", "folder", "--out", tmp_path / "e.json")
    for arguments, said in (
        ((tmp_path / "none.safetensors", *given), "cannot be read"),
        ((tmp_path / "damaged.safetensors", *given), "cannot be read"),
        ((tmp_path / "plain.safetensors", *given), "do not say of which network"),
        ((tmp_path / "none.json", *given), "no model 'none'"),
        ((weights, *given[:2], "--dataset", "ff"), "no data set ff"),
        ((weights, *given[:2], "--dataset", "dolos"), "not Dolos"),
        ((weights, "--data", tmp_path / "x", *given[2:]), "no such folder"),
        ((weights, *given, "--split", "val"), "has no split 'val'"),
        ((weights, *given, "--compression", "c23"), "no compression 'c23'"),
        ((weights, *given, "--manipulation", "melt"), "no manipulation 'melt'"),
        ((weights, *given, "--faces", "some"), "no --faces 'some'"),
        ((weights, *given, "--sweep", "rain"), "no corruption 'rain'"),
        (
            (weights, *given[:4], "--out", tmp_path / "x/e.json"),
            "no such folder to write e.json into",
        ),
        ((weights, *given, "--device", "tpu"), "no device 'tpu'"),
        ((weights, *given[:2], "--dataset", "forged"), "provenance.csv is missing"),
        (
            (weights, "--data", made / "faces", "--dataset", "forged", "--manipulation", "melt"),
            "no forge 'melt'",
        ),
    ):
        done = command(evaluation.main, *arguments)
        assert done.exit_code == 2, arguments
        assert said in done.output and len(done.output.strip().splitlines()) == 1, done.output
        assert not (tmp_path / "e.json").exists()
