"""`python -m train.annotate` from videos to masks, with the real face detector on a real face."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from deepscan.errors import UsageError
from train.annotate.__main__ import app
from train.annotate.pairs import find_work, manipulations, read_pairs
from train.annotate.work import square
from train.datasets import open_dataset
from train.datasets.layout import counterparts
from train.datasets.mask import read_mask
from train.media import evenly, read_picture

FRAMES = 4


def picture(shift: int) -> np.ndarray:
    """A frame of the "video": the astronaut's upper half, moving a little."""
    return np.ascontiguousarray(np.roll(data.astronaut()[:320, :448], 2 * shift, axis=1))


def forged(frame: np.ndarray, shift: int) -> np.ndarray:
    """The same frame with another texture blended over the middle of the face."""
    weight = np.zeros(frame.shape[:2])
    cv2.ellipse(weight, (224 + 2 * shift, 120), (26, 36), 0, 0, 360, 1.0, -1)
    weight = cv2.GaussianBlur(weight, (9, 9), 0)[..., None]
    other = cv2.resize(data.chelsea(), (frame.shape[1], frame.shape[0]))
    return np.round(weight * other + (1 - weight) * frame).astype(np.uint8)


def write_frames(folder: Path, frames: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index}.png")


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "10"})
        stream.width, stream.height, stream.pix_fmt = (
            frames[0].shape[1],
            frames[0].shape[0],
            "yuv420p",
        )
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """FF++ in miniature, as frame folders, with everything that can be wrong with a pair."""
    root = tmp_path_factory.mktemp("scene")
    reals = [picture(i) for i in range(FRAMES)]
    fakes = [forged(frame, i) for i, frame in enumerate(reals)]
    youtube = root / "original_sequences/youtube/raw/images"
    write_frames(youtube / "000", reals)
    write_frames(youtube / "001", [np.full((320, 448, 3), 80, np.uint8)] * FRAMES)
    swapped = root / "manipulated_sequences/Deepfakes/raw/images"
    write_frames(swapped / "000_003", fakes)
    write_frames(swapped / "000_004", reals)
    write_frames(swapped / "000_005", [frame[:300] for frame in fakes])
    write_frames(swapped / "001_002", [np.zeros((320, 448, 3), np.uint8)] * FRAMES)
    write_frames(swapped / "777_000", fakes)
    write_frames(root / "manipulated_sequences/FaceSwap/raw/images/000_003", fakes[:2])
    (root / "test.json").write_text('[["000", "003"]]')
    return root


@pytest.fixture(scope="module")
def annotated(scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    result = run(
        scene / "original_sequences/youtube", scene / "manipulated_sequences", "--out", out,
        "--frames", 3,
    )  # fmt: skip
    return out, result


def test_every_pair_has_its_outcome(annotated):
    out, result = annotated
    assert result.exit_code == 1, result.output
    got = {(pair["manipulation"], pair["name"]): pair for pair in report(out)["pairs"]}
    assert {key: pair["status"] for key, pair in got.items()} == {
        ("Deepfakes", "000_003"): "annotated",
        ("Deepfakes", "000_004"): "identical",
        ("Deepfakes", "000_005"): "size-mismatch",
        ("Deepfakes", "001_002"): "no-face",
        ("Deepfakes", "777_000"): "no-real",
        ("FaceSwap", "000_003"): "annotated",
    }
    assert got["Deepfakes", "000_003"]["masks"] == 3
    assert got["Deepfakes", "000_004"]["identical"] == 3
    short = got["FaceSwap", "000_003"]  # 3 frames of 4 were chosen: 0, 1, 3; the fake has 2
    assert (short["masks"], short["missing"]) == (2, 1)
    assert report(out)["counts"]["FaceSwap"] == {"annotated": 1}
    assert "1 annotated" in result.output


def test_the_masks_cover_what_was_changed(annotated):
    out, _ = annotated
    names = sorted(path.name for path in (out / "Mask/Deepfakes/000_003").iterdir())
    assert names == ["0000_0.png", "0001_0.png", "0003_0.png"]
    boxes = json.loads((out / "boxes/000.json").read_text())["boxes"]
    for name in names:
        index = int(name[:4])
        x1, y1, x2, y2 = boxes[str(index)]
        mask = read_picture(out / "Mask/Deepfakes/000_003" / name)[..., 0]
        assert mask.shape == (y2 - y1, x2 - x1)
        truth = np.zeros((320, 448), np.uint8)
        cv2.ellipse(truth, (224 + 2 * index, 120), (26, 36), 0, 0, 360, 1, -1)
        inside = truth[y1:y2, x1:x2] == 1
        both = np.count_nonzero((mask > 0) & inside)
        assert both / np.count_nonzero((mask > 0) | inside) > 0.5
        assert both / inside.sum() > 0.97


def test_crops_lie_where_the_loader_looks(annotated, scene):
    out, _ = annotated
    x1, y1, x2, y2 = json.loads((out / "boxes/000.json").read_text())["boxes"]["0"]
    real = read_picture(out / "Raw/real/000/0000_0.png")
    fake = read_picture(out / "Raw/Deepfakes/000_003/0000_0.png")
    np.testing.assert_array_equal(real, picture(0)[y1:y2, x1:x2])
    np.testing.assert_array_equal(fake, forged(picture(0), 0)[y1:y2, x1:x2])
    assert not list((out / "Raw/Deepfakes").glob("000_004/*"))
    assert not list(out.rglob("*.part"))


def test_what_it_wrote_is_a_data_set(annotated):
    out, _ = annotated
    samples = list(open_dataset("pixel-faceforensics", out).samples("test"))
    assert {(s.manipulation, s.video.name) for s in samples} == {
        ("real", "000"), ("Deepfakes", "000_003"), ("FaceSwap", "000_003"),
    }  # fmt: skip
    fake = next(s for s in samples if s.label)
    height, width = read_picture(fake.path).shape[:2]
    assert 0 < read_mask(fake, height, width).mean() < 0.5


def test_a_contact_sheet_for_people(annotated):
    out, _ = annotated
    assert read_picture(out / "sheets/Deepfakes.png").shape == (128, 8 * 128, 3)


def test_a_second_run_keeps_what_is_finished(annotated, scene):
    out, _ = annotated
    mask = out / "Mask/Deepfakes/000_003/0000_0.png"
    record = out / "pairs/FaceSwap/000_003.json"
    before = mask.stat().st_mtime_ns
    record.unlink()
    arguments = (
        scene / "original_sequences/youtube", scene / "manipulated_sequences", "--out", out,
    )  # fmt: skip
    run(*arguments, "--frames", 3)
    assert mask.stat().st_mtime_ns == before
    assert record.exists()
    refused = run(*arguments, "--frames", 2, "--manipulation", "FaceSwap")
    assert refused.exit_code == 2
    assert "was made with another frames" in refused.output
    assert mask.stat().st_mtime_ns == before


def test_videos_lists_compressions_and_workers(tmp_path):
    reals = [picture(i) for i in range(FRAMES)]
    fakes = [forged(frame, i) for i, frame in enumerate(reals)]
    for level in ("raw", "c40"):
        write_video(tmp_path / "youtube" / level / "videos/000.mp4", reals)
        write_video(tmp_path / "fakes/Deepfakes" / level / "videos/000_003.mp4", fakes)
    (tmp_path / "val.json").write_text('[["000", "003"]]')
    out = tmp_path / "out"
    result = run(
        tmp_path / "youtube", tmp_path / "fakes", "--out", out, "--pairs", tmp_path / "val.json",
        "--compression", "c0", "--compression", "c40", "--frames", 2, "--workers", 2,
        "--difference",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    statuses = {pair["name"]: pair["status"] for pair in report(out)["pairs"]}
    assert statuses == {"000_003": "annotated", "003_000": "no-real"}
    for folder in ("Raw", "C40", "Mask", "Difference"):
        assert len(list((out / folder / "Deepfakes/000_003").iterdir())) == 2
    assert (out / "valid.txt").read_text() == "000_003\n003_000\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "nowhere"], "no such folder"),
        (["{root}/original_sequences/youtube", "{root}/manipulated_sequences",
          "--manipulation", "Face2Face"], "no folder Face2Face; there are Deepfakes, FaceSwap"),
        (["{root}/original_sequences/youtube", "{root}/manipulated_sequences",
          "--compression", "c23"], "no c23 videos"),
        (["{root}/original_sequences/youtube", "{root}/manipulated_sequences",
          "--detector", "psychic"], "no face detector psychic; there are mtcnn"),
        (["{root}/original_sequences/youtube", "{root}/manipulated_sequences",
          "--scale", "0.5"], "scale >= 1"),
    ],
)  # fmt: skip
def test_what_cannot_work_ends_at_once(scene, tmp_path, arguments, message):
    result = run(*[argument.format(root=scene) for argument in arguments], "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "o").exists()


def test_counterparts_of_the_naming_schemes():
    assert "000" in list(counterparts("000_003"))
    assert "01__walking" in list(counterparts("01_02__walking__YVGY8LOK"))
    assert "id0_0000" in list(counterparts("id0_id16_0000"))
    assert next(counterparts("any")) == "any"
    assert list(counterparts("ben_1_swap")) == ["ben_1_swap", "ben_1", "ben"]


def test_pair_lists(tmp_path):
    path = tmp_path / "test.json"
    path.write_text('[["000", "003"], "a_b"]')
    assert read_pairs(path) == ["000_003", "003_000", "a_b"]
    for broken in ('{"a": 1}', "[1]", "nonsense", '[["a"]]'):
        path.write_text(broken)
        with pytest.raises(UsageError, match=r"test\.json"):
            read_pairs(path)


def test_plain_folders_and_listed_names_that_are_not_there(tmp_path):
    write_frames(tmp_path / "real/a", [np.zeros((8, 8, 3), np.uint8)])
    write_frames(tmp_path / "fake/a", [np.zeros((8, 8, 3), np.uint8)])
    folders = manipulations(tmp_path / "fake", [], "c0")
    assert folders == {"fake": tmp_path / "fake"}
    (work,) = find_work(tmp_path / "real", folders, ["c0"], None)
    assert work.fakes[0].paths == {"c0": tmp_path / "fake/a"}
    listed = find_work(tmp_path / "real", folders, ["c0"], ["a_b"])
    assert listed[0].name == "a" and listed[0].fakes[0].paths == {"c0": None}


def test_choice_of_frames_and_squares():
    assert evenly(range(300), 20) == np.linspace(0, 299, 20).astype(int).tolist()
    assert evenly([4, 9], 20) == [4, 9] and evenly([4, 9], 0) == [4, 9]
    assert square((10, 10, 30, 50), 1.0, (100, 100)) == (0, 10, 40, 50)
    assert square((80, 80, 100, 100), 1.5, (100, 100)) == (75, 75, 100, 100)
