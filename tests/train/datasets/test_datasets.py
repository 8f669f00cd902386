"""Every data set reader over a miniature of the layout that its owners distribute."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from deepscan.errors import UsageError
from train.datasets import DATASETS, LayoutError, Polarity, Sample, Truth, VideoKey, open_dataset
from train.datasets.__main__ import app
from train.datasets.faceforensics import split_of
from train.datasets.mask import binary, read_mask


def touch(root: Path, *names: str) -> None:
    """Empty files: readers look at names, they do not decode."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def grey(path: Path, levels: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(levels, np.uint8)).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


# 071 and 054 are a pair of the training split, 720 and 672 of val, 953 and 974 of test.


def faceforensics(root: Path) -> None:
    for level in ("raw", "c23"):
        touch(root, *(f"original_sequences/youtube/{level}/videos/{n}.mp4" for n in
                      ("071", "054", "720", "953")))  # fmt: skip
        for method in ("Deepfakes", "FaceShifter"):
            touch(root, *(f"manipulated_sequences/{method}/{level}/videos/{n}.mp4" for n in
                          ("071_054", "720_672", "953_974", "071_953")))  # fmt: skip
    touch(root, *(f"manipulated_sequences/Deepfakes/masks/videos/{n}.mp4" for n in
                  ("071_054", "720_672", "953_974")))  # fmt: skip


def pixel_faceforensics(root: Path) -> None:
    for video in ("071_054", "720_672", "953_974"):
        for frame in ("0000_0.png", "0015_0.png"):
            grey(root / "Raw/Deepfakes" / video / frame, [[9, 9], [9, 9]])
            grey(root / "Raw/real" / video[:3] / frame, [[7, 7], [7, 7]])
            grey(root / "Mask/Deepfakes" / video / frame, [[0, 255], [0, 0]])


def dfd(root: Path) -> None:
    touch(
        root,
        "original_sequences/actors/c23/videos/01__walking.mp4",
        "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__walking__ABCDEFGH.mp4",
    )


def celeb_df(root: Path) -> None:
    touch(
        root,
        "Celeb-real/id0_0000.mp4",
        "Celeb-real/id0_0001.mp4",
        "YouTube-real/00170.mp4",
        "Celeb-synthesis/id0_id1_0000.mp4",
        "Celeb-synthesis/id0_id1_0001.mp4",
    )
    lines = [
        "1 Celeb-real/id0_0000.mp4",
        "1 YouTube-real/00170.mp4",
        "0 Celeb-synthesis/id0_id1_0000.mp4",
    ]
    text(root / "List_of_testing_videos.txt", "\n".join(lines) + "\n")


def celeb_df_pp(root: Path) -> None:
    touch(
        root,
        "Celeb-real/id0_0000.mp4",
        "Celeb-real/id0_0001.mp4",
        "YouTube-real/00170.mp4",
        "Celeb-synthesis/FaceSwap/GHOST/id0_id1_0000.mp4",
        "Celeb-synthesis/FaceSwap/SimSwap/id0_id1_0000.mp4",
        "Celeb-synthesis/TalkingFace/FLOAT/id0_id1_0000.mp4",
    )
    text(
        root / "List_of_testing_videos.txt",
        "1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/FaceSwap/GHOST/id0_id1_0000.mp4\n",
    )


def dfdc(root: Path) -> None:
    touch(root, *(f"dfdc_train_part_{p}/{v}.mp4" for p, v in ((0, "a"), (0, "b"), (1, "c"))))
    facts = {
        "a.mp4": {"label": "FAKE", "split": "train", "original": "b.mp4"},
        "b.mp4": {"label": "REAL", "split": "train"},
        "gone.mp4": {"label": "FAKE", "split": "train", "original": "b.mp4"},
    }
    text(root / "dfdc_train_part_0/metadata.json", json.dumps(facts))
    text(root / "dfdc_train_part_1/metadata.json", '{"c.mp4": {"label": "REAL"}}')
    touch(root, "validation/d.mp4", "test/videos/e.mp4", "test/videos/f.mp4")
    text(root / "validation/metadata.json", '{"d.mp4": {"is_fake": 1}}')
    text(root / "test/labels.csv", "filename,label\ne.mp4,1\nf.mp4,0\n")


def dfdc_preview(root: Path) -> None:
    listed = {
        "method_A/1/1_2/1_2_001.mp4": {"label": "fake", "set": "train"},
        "method_B/1/1_2/1_2_001.mp4": {"label": "fake", "set": "test"},
        "original_videos/1/1_001.mp4": {"label": "real", "set": "train"},
        "original_videos/2/2_001.mp4": {"label": "real", "set": "test"},
        "original_videos/3/3_001.mp4": {"label": "real", "set": "test"},
    }
    touch(root / "dfdc_preview_set", *list(listed)[:4])
    text(root / "dfdc_preview_set/dataset.json", json.dumps(listed))


def ffiw(root: Path) -> None:
    for split in ("train", "val"):
        for kind in ("source", "target", "target_mask"):
            touch(root / "FFIW10K-v1-release", f"{kind}/{split}/00001.mp4")


def dolos(root: Path) -> None:
    for split in ("train", "valid", "test"):
        for source in ("celebahq", "ffhq"):
            grey(root / source / "real" / split / "1.png", [[5, 5]])
            grey(root / source / "fake/p2" / split / "1.png", [[5, 5]])
            grey(root / source / "fake/repaint-p2/images" / split / "1.png", [[5, 5]])
            grey(root / source / "fake/repaint-p2/masks" / split / "1.png", [[255, 0]])
        grey(root / "celebahq/fake/lama/images" / split / "1.png", [[5, 5]])
        grey(root / "celebahq/fake/lama/masks" / split / "1.png", [[254, 255]])


def defacto(root: Path) -> None:
    touch(root, "splicing_1_img/img/0_00025.tif", "copymove_img/img/0_00025.tif")
    for name in ("splicing_1", "copymove"):
        grey(root / f"{name}_annotations/probe_mask/0_00025.jpg", [[255, 0]])


def openforensics(root: Path) -> None:
    content = {
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "images": [
            {"id": 5, "file_name": "Images/Val/a.jpg"},
            {"id": 6, "file_name": "Images/Val/b.jpg"},
        ],
        "annotations": [
            {"image_id": 5, "category_id": 0, "segmentation": [[0, 0, 2, 0, 2, 2]]},
            {"image_id": 5, "category_id": 1, "segmentation": [[4, 4, 8, 4, 8, 8, 4, 8]]},
            {"image_id": 6, "category_id": 0, "segmentation": [[0, 0, 2, 0, 2, 2]]},
        ],
    }  # fmt: skip
    text(root / "Val_poly.json", json.dumps(content))
    touch(root, "Images/Val/a.jpg", "Val/Val/b.jpg")


def folder(root: Path) -> None:
    touch(root, "real/a.mp4", "fake/swap/a.mp4", "fake/mine.mp4", "fake/edit/frames_1/0.png")
    grey(root / "fake/one.png", [[3, 3]])
    grey(root / "mask/one.png", [[0, 200]])


BUILDERS = {
    "faceforensics": faceforensics,
    "pixel-faceforensics": pixel_faceforensics,
    "dfd": dfd,
    "celeb-df-v1": celeb_df,
    "celeb-df-v2": celeb_df,
    "celeb-df-pp": celeb_df_pp,
    "dfdc": dfdc,
    "dfdc-preview": dfdc_preview,
    "ffiw": ffiw,
    "dolos": dolos,
    "defacto": defacto,
    "openforensics": openforensics,
    "folder": folder,
}


def opened(name: str, root: Path):
    BUILDERS[name](root)
    return open_dataset(name, root)


def everything(dataset) -> list[Sample]:
    return [sample for split in dataset.splits for sample in dataset.samples(split)]


# Conformance: what holds for every entry of the table


@pytest.mark.parametrize("name", DATASETS)
def test_samples_are_there_once_and_labelled(name, tmp_path):
    dataset = opened(name, tmp_path)
    samples = everything(dataset)
    assert {sample.label for sample in samples} == ({1} if name == "defacto" else {0, 1})
    for sample in samples:
        assert sample.path.exists()
        assert sample.mask is None or sample.mask.exists()
        assert (sample.manipulation == "real") == (sample.label == 0)
        assert sample.original is None or sample.original.manipulation == "real"
        assert sample.split in dataset.splits
    places = [(s.video, s.compression, s.frame) for s in samples]
    assert len(set(places)) == len(places)
    assert len({s.path for s in samples}) == len(samples)
    assert samples == everything(open_dataset(name, tmp_path))


@pytest.mark.parametrize("name", DATASETS)
def test_no_video_stands_in_two_splits(name, tmp_path):
    splits: dict[VideoKey, set[str]] = {}
    for sample in everything(opened(name, tmp_path)):
        splits.setdefault(sample.video, set()).add(sample.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("name", DATASETS)
def test_a_foreign_folder_is_refused_with_expected_and_found(name, tmp_path):
    touch(tmp_path, "holiday.jpg", "notes/a.txt")
    with pytest.raises(LayoutError) as refused:
        open_dataset(name, tmp_path)
    message = str(refused.value)
    assert "expected" in message and "found holiday.jpg, notes/" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", DATASETS)
def test_unknown_splits_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="no split 'tset'"):
        list(opened(name, tmp_path).samples("tset"))


@pytest.mark.parametrize("name", DATASETS)
def test_check_says_what_is_there(name, tmp_path):
    BUILDERS[name](tmp_path)
    result = CliRunner().invoke(app, ["check", str(tmp_path), "--name", name])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == name
    assert lines[1].split() == ["part", "found", "expected", "state"]
    assert any(line.startswith("split ") and " fake" in line for line in lines)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "celeb-df-v1"])
def test_check_recognises_the_layout(name, tmp_path):
    BUILDERS[name](tmp_path)
    result = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert result.output.splitlines()[0] == name
    assert ("also fits: celeb-df-v1" in result.output) == (name == "celeb-df-v2")


# What is particular to each


def test_faceforensics_splits_hold_every_video_once():
    assert sorted(split_of()) == [f"{number:03d}" for number in range(1000)]
    counts = {split: list(split_of().values()).count(split) for split in ("train", "val", "test")}
    assert counts == {"train": 720, "val": 140, "test": 140}


def test_faceforensics(tmp_path):
    samples = list(opened("faceforensics", tmp_path).samples("train"))
    assert {(s.manipulation, s.video.name) for s in samples} == {
        ("real", "071"), ("real", "054"), ("Deepfakes", "071_054"), ("FaceShifter", "071_054"),
    }  # fmt: skip
    assert {s.compression for s in samples} == {"c0", "c23"}
    truths = {s.manipulation: (s.truth, s.mask is not None) for s in samples}
    assert truths["Deepfakes"] == (Truth.FILE, True)
    assert truths["FaceShifter"] == (Truth.NONE, False)
    fake = next(s for s in samples if s.label == 1)
    assert fake.original == VideoKey("FaceForensics++", "real", "071")


def test_pixel_faceforensics_pairs_crops_with_masks(tmp_path):
    dataset = opened("pixel-faceforensics", tmp_path)
    samples = list(dataset.samples("val"))
    assert [(s.label, s.video.name, s.frame) for s in samples] == [
        (1, "720_672", 0), (1, "720_672", 15), (0, "720", 0), (0, "720", 15),
    ]  # fmt: skip
    np.testing.assert_array_equal(read_mask(samples[0], 2, 2), [[0, 1], [0, 0]])
    assert not read_mask(samples[2], 2, 2).any()
    text(tmp_path / "train.txt", "720_672\n")
    assert {s.video.name for s in dataset.samples("train")} == {"720_672", "720"}
    with pytest.raises(LayoutError, match=r"split val: expected valid.txt; found train.txt"):
        list(dataset.samples("val"))
    (tmp_path / "Mask/Deepfakes/720_672/0000_0.png").unlink()
    with pytest.raises(LayoutError, match="expected its mask"):
        list(dataset.samples("train"))


def test_dfd_names_its_source(tmp_path):
    fake = next(s for s in everything(opened("dfd", tmp_path)) if s.label)
    assert fake.original == VideoKey("DFD", "real", "01__walking")


@pytest.mark.parametrize("name", ["celeb-df-v1", "celeb-df-v2"])
def test_one_means_real_in_the_list_of_celeb_df(name, tmp_path):
    dataset = opened(name, tmp_path)
    assert {(s.video.name, s.label) for s in dataset.samples("test")} == {
        ("Celeb-real/id0_0000", 0), ("YouTube-real/00170", 0), ("id0_id1_0000", 1),
    }  # fmt: skip
    assert {(s.video.name, s.label) for s in dataset.samples("train")} == {
        ("Celeb-real/id0_0001", 0), ("id0_id1_0001", 1),
    }  # fmt: skip
    text(tmp_path / "List_of_testing_videos.txt", "0 Celeb-real/id0_0000.mp4\n")
    with pytest.raises(LayoutError, match=r"txt:1: expected 1 for real"):
        list(dataset.samples("test"))
    (tmp_path / "List_of_testing_videos.txt").unlink()
    with pytest.raises(LayoutError, match=r"expected List_of_testing_videos\.txt; found none"):
        list(dataset.samples("test"))


def test_celeb_df_pp_keeps_methods_apart(tmp_path):
    dataset = opened("celeb-df-pp", tmp_path)
    assert {s.manipulation for s in dataset.samples("train") if s.label} == {
        "Celeb-synthesis/FaceSwap/SimSwap", "Celeb-synthesis/TalkingFace/FLOAT",
    }  # fmt: skip


def test_dfdc_labels_of_each_kind(tmp_path):
    dataset = opened("dfdc", tmp_path)
    train = {s.video.name: s for s in dataset.samples("train")}
    assert {name: s.label for name, s in train.items()} == {"a": 1, "b": 0, "c": 0}
    assert train["a"].original == train["b"].video
    assert [s.label for s in dataset.samples("val")] == [1]
    assert {s.video.name: s.label for s in dataset.samples("test")} == {"e": 1, "f": 0}
    text(tmp_path / "test/labels.csv", "file,fake\ne.mp4,1\n")
    with pytest.raises(LayoutError, match="expected filename,label"):
        list(dataset.samples("test"))


def test_dfdc_preview_keeps_equal_names_apart(tmp_path):
    dataset = opened("dfdc-preview", tmp_path)
    assert [s.label for s in dataset.samples("test")] == [1, 0]
    assert {p.name: (p.found, p.expected) for p in dataset.parts()}["original_videos"] == (2, 3)
    text(tmp_path / "dfdc_preview_set/dataset.json", '{"a.mp4": {"label": "odd", "set": "test"}}')
    with pytest.raises(LayoutError, match="something else"):
        dataset.parts()


def test_a_split_that_was_not_downloaded_says_so(tmp_path):
    dataset = opened("ffiw", tmp_path)
    assert dataset.splits == ("train", "val")
    with pytest.raises(LayoutError, match=r"split test: expected source/test/.*found train, val"):
        list(dataset.samples("test"))


def test_dolos_masks_are_inverted(tmp_path):
    dataset = opened("dolos", tmp_path)
    samples = {s.manipulation: s for s in dataset.samples("val") if s.label}
    np.testing.assert_array_equal(read_mask(samples["celebahq/repaint-p2"], 1, 2), [[0, 1]])
    np.testing.assert_array_equal(read_mask(samples["celebahq/lama"], 1, 2), [[1, 0]])
    assert read_mask(samples["ffhq/p2"], 2, 2).all()


def test_defacto_in_the_layout_of_the_paper(tmp_path):
    touch(tmp_path, "Image/fake/0.jpg_IN_1.jpg.tif", "Image/real/7.jpg")
    grey(tmp_path / "Mask/fake/0.jpg_IN_1.jpg", [[255] * 8] * 8)
    lines = "Image/fake/0.jpg_IN_1.jpg.tif 1\nImage/real/7.jpg 0\n"
    text(tmp_path / "test_vis.txt", lines)
    samples = list(open_dataset("defacto", tmp_path).samples("test"))
    assert [s.label for s in samples] == [1, 0]
    assert read_mask(samples[0], 8, 8).all()
    text(tmp_path / "test_vis.txt", "Image/real/7.jpg real\n")
    with pytest.raises(LayoutError, match=r"test_vis\.txt:1"):
        list(open_dataset("defacto", tmp_path).samples("test"))


def test_openforensics_draws_the_fake_faces_only(tmp_path):
    samples = list(opened("openforensics", tmp_path).samples("val"))
    assert [s.label for s in samples] == [1, 0]
    mask = read_mask(samples[0], 10, 10)
    assert mask[4:9, 4:9].all() and mask.sum() == 25
    assert not read_mask(samples[1], 10, 10).any()


def test_folder_names_manipulations_and_finds_masks(tmp_path):
    samples = {str(s.video).split("/", 1)[1]: s for s in everything(opened("folder", tmp_path))}
    assert set(samples) == {
        "real/a", "swap/a", "fake/mine", "fake/one", "edit/frames_1",
    }  # fmt: skip
    np.testing.assert_array_equal(read_mask(samples["fake/one"], 1, 2), [[0, 1]])
    assert (read_mask(samples["swap/a"], 2, 2) == 255).all()


def test_folder_with_splits(tmp_path):
    touch(tmp_path, "train/real/a.mp4", "train/fake/b.mp4", "test/real/c.mp4", "test/fake/d.mp4")
    dataset = open_dataset("folder", tmp_path)
    assert dataset.splits == ("train", "test")
    assert [s.video.name for s in dataset.samples("test")] == ["c", "d"]


def test_mask_polarities():
    levels = np.array([[0, 1, 127, 128, 254, 255]], np.uint8)
    assert binary(levels, Polarity.ABOVE_0).tolist() == [[0, 1, 1, 1, 1, 1]]
    assert binary(levels, Polarity.ABOVE_127).tolist() == [[0, 0, 0, 1, 1, 1]]
    assert binary(levels, Polarity.BELOW_255).tolist() == [[1, 1, 1, 1, 1, 0]]
    assert binary(np.repeat(levels[..., None], 3, axis=2), Polarity.ABOVE_0).shape == (1, 6)


def test_a_mask_follows_the_size_of_its_picture_and_videos_are_refused(tmp_path):
    grey(tmp_path / "m.png", [[0, 255], [0, 0]])
    key = VideoKey("x", "y", "z")
    sample = Sample(key, tmp_path / "p.png", 1, "test", Truth.FILE, mask=tmp_path / "m.png")
    assert read_mask(sample, 4, 4)[:2, 2:].all() and read_mask(sample, 4, 4).sum() == 4
    video = Sample(key, tmp_path / "v.mp4", 1, "test", Truth.FILE, mask=tmp_path / "m.mp4")
    with pytest.raises(ValueError, match="one by one"):
        read_mask(video, 4, 4)


@pytest.mark.parametrize(
    ("label", "truth", "mask", "message"),
    [
        (2, Truth.NONE, None, "expected 0 or 1"),
        (0, Truth.NONE, None, "cannot have truth none"),
        (1, Truth.CLEAN, None, "cannot have truth clean"),
        (1, Truth.FILE, None, "exclude each other"),
        (1, Truth.WHOLE, Path("m.png"), "exclude each other"),
        (1, Truth.POLYGONS, None, "exclude each other"),
    ],
)
def test_contradictory_samples_cannot_be_built(label, truth, mask, message):
    with pytest.raises(ValueError, match=message):
        Sample(VideoKey("a", "b", "c"), Path("p"), label, "test", truth, mask=mask)


def test_check_ends_with_2_and_one_line(tmp_path):
    def stderr(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["check", *arguments])
        assert result.exit_code == 2
        return result.stderr

    (tmp_path / "empty").mkdir()
    assert "found the layout of none" in stderr(str(tmp_path / "empty"))
    assert "expected celebahq/" in stderr(str(tmp_path / "empty"), "--name", "dolos")
    assert "no such folder" in stderr(str(tmp_path / "gone"))
    assert "no data set ff; there are faceforensics," in stderr(str(tmp_path), "--name", "ff")
    celeb_df(tmp_path / "celeb")
    (tmp_path / "celeb/List_of_testing_videos.txt").unlink()
    assert "expected List_of_testing_videos.txt; found none" in stderr(str(tmp_path / "celeb"))
    touch(tmp_path / "ff", "original_sequences/youtube/c23/videos/071.mp4")
    (tmp_path / "ff/manipulated_sequences/Deepfakes").mkdir(parents=True)
    last = stderr(str(tmp_path / "ff"), "--name", "faceforensics").strip().splitlines()[-1]
    assert last.endswith("split val: expected samples; found none")


def test_unknown_names_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="no data set"):
        open_dataset("imagenet", tmp_path)
