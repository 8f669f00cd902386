"""Batched forging: geometry, packs of faces, and batches that follow from seed and number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer import Typer
from typer.testing import CliRunner

from deepscan.errors import UsageError
from train.benchmark import app as benchmark
from train.faces import read_faces
from train.forge.batched import pack
from train.forge.batched.faces import (
    BATCHED,
    affinity,
    apply,
    blur,
    inverse,
    pixels,
    random_masks,
    region_masks,
    sample,
    similarity,
    then,
    warp,
)
from train.forge.batched.pack import Portraits, read_portraits, squared, write_portraits
from train.forge.batched.stream import BatchedPairs, _postured
from train.forge.forged import FORGES
from train.forge.shape import REGIONS, draw, place
from train.smoke import write_faces, write_plain_pack

EVERY = dict.fromkeys(FORGES, 1.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    write_plain_pack(folder, folder / "decoded.npz")
    return folder


@pytest.fixture(scope="module")
def portraits(folder: Path) -> Portraits:
    return read_portraits(folder, "train", folder / "decoded.npz", side=144)


# Geometry


maps = st.tuples(
    st.floats(-3, 3), st.floats(0.3, 3), st.floats(-40, 40), st.floats(-40, 40)
).map(
    lambda v: torch.tensor(
        [[[v[1] * np.cos(v[0]), -v[1] * np.sin(v[0]), v[2]],
          [v[1] * np.sin(v[0]), v[1] * np.cos(v[0]), v[3]]]], dtype=torch.float32
    )
)  # fmt: skip
FIVE = torch.tensor([[[60.0, 70], [110, 72], [85, 100], [65, 125], [105, 124]]])


@given(maps, maps)
@settings(max_examples=40, deadline=None)
def test_maps_are_found_undone_and_joined(one: Tensor, two: Tensor) -> None:
    moved = apply(one, FIVE)
    assert torch.allclose(similarity(FIVE, moved), one, atol=2e-2, rtol=1e-3)
    assert torch.allclose(apply(affinity(FIVE, moved), FIVE), moved, atol=0.05)
    assert torch.allclose(apply(inverse(one), moved), FIVE, atol=0.02)
    assert torch.allclose(apply(then(one, two), FIVE), apply(two, moved), atol=0.02, rtol=1e-4)


def test_sampling_at_the_pixels_gives_the_picture() -> None:
    images = torch.rand(2, 3, 20, 30)
    places = pixels(20, 30, images.device).expand(2, -1, -1, -1)
    for mode in ("nearest", "bilinear", "bicubic"):
        assert torch.allclose(sample(images, places, mode=mode), images, atol=1e-5)
    moved = warp(images, torch.tensor([[[1.0, 0, 4], [0, 1, -3]]]).expand(2, -1, -1), 20, 30)
    assert torch.allclose(moved[:, :, :17, 4:], images[:, :, 3:, :26], atol=1e-4)


def test_blur_keeps_the_mean_and_takes_each_picture_for_itself() -> None:
    images = torch.rand(3, 3, 40, 40)
    soft = blur(images, torch.tensor([0.0, 1.0, 3.0]))
    assert torch.allclose(soft[0], images[0], atol=1e-5)
    spread = soft.std((1, 2, 3))
    assert spread[0] > spread[1] > spread[2]
    assert torch.allclose(soft.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.02)


@pytest.mark.parametrize("region", sorted(REGIONS))
def test_regions_lie_where_the_pictures_forges_draw_them(region: str) -> None:
    found = region_masks([region], FIVE, 192, 192)[0, 0].numpy() > 0.5
    wanted = draw(region, place(FIVE[0].numpy().astype(float)), 192, 192) > 0.5
    assert (found & wanted).sum() / max((found | wanted).sum(), 1) > 0.85


def test_an_unknown_region_is_an_error() -> None:
    with pytest.raises(KeyError):
        region_masks(["ear ring"], FIVE, 64, 64)


def test_random_masks_are_soft_and_follow_from_the_seed() -> None:
    def draw_all(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        five = FIVE.expand(6, -1, -1)
        return random_masks(generator, five, torch.full((6,), 110.0), 192, 192, list(REGIONS))

    masks = draw_all(1)
    assert masks.shape == (6, 1, 192, 192) and masks.min() >= 0 and masks.max() <= 1
    assert ((masks > 0.05) & (masks < 0.95)).any() and (masks.mean((1, 2, 3)) > 0.001).all()
    assert torch.equal(masks, draw_all(1)) and not torch.equal(masks, draw_all(2))


# Packs


def test_a_pack_holds_what_the_folder_does(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "faces.npz"
    write_portraits(file, {split: read_faces(folder, split) for split in ("train", "val")})
    one, two = read_portraits(folder, "train"), read_portraits(file, "train")
    assert (one.people, one.sources, one.names) == (two.people, two.sources, two.names)
    assert torch.allclose(one.landmarks, two.landmarks) and torch.allclose(one.sides, two.sides)
    apart = (one.images.float() - two.images.float()).abs().mean()
    assert 0 < apart < 3  # grey levels that JPEG costs
    assert len(pack.portraits_hash(file)) == 64


def test_landmarks_lie_on_the_same_pixels_in_the_square(folder: Path) -> None:
    face = read_faces(folder, "train")[0].face
    image, landmarks = squared(face)
    scale = (landmarks[1] - landmarks[0])[0] / (face.landmarks[1] - face.landmarks[0])[0]
    for (x, y), (u, v) in zip(face.landmarks, landmarks, strict=True):
        reach = max(2, round(4 / scale))
        was = face.image[int(y) - reach : int(y) + reach, int(x) - reach : int(x) + reach]
        wide = round(reach * scale)
        now = image[int(v) - wide : int(v) + wide, int(u) - wide : int(u) + wide]
        assert np.abs(was.mean((0, 1)) - now.mean((0, 1))).max() < 12


def test_what_is_no_pack_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as a pack of faces"):
        read_portraits(folder / "provenance.csv", "train")
    file = tmp_path / "faces.npz"
    write_portraits(file, {"train": read_faces(folder, "train")})
    with pytest.raises(UsageError, match="nobody with split = 'val'"):
        read_portraits(file, "val")
    with np.load(file) as arrays:
        values = dict(arrays)
    values["pixels"] = np.zeros_like(values["pixels"])
    np.savez(file, **values)
    with pytest.raises(UsageError, match=r"picture astronaut.png is damaged"):
        read_portraits(file, "train")


def test_the_command_writes_a_pack(folder: Path, tmp_path: Path) -> None:
    app = Typer()
    app.command()(pack.main)
    done = CliRunner().invoke(app, ["--data", str(folder), "--out", str(tmp_path / "faces.npz")])
    assert done.exit_code == 0 and "4 pictures" in done.output
    missing = CliRunner().invoke(app, ["--data", str(tmp_path), "--out", str(tmp_path / "x.npz")])
    assert missing.exit_code == 2 and "provenance.csv is missing" in missing.output


# Batches


def test_the_table_has_every_family() -> None:
    assert set(BATCHED) == set(FORGES)


def stream(portraits: Portraits, **given: float) -> BatchedPairs:
    shares = {"gentle": 0.5, "edits": 0.3, "tilt": 0.5, **given}
    return BatchedPairs(portraits, EVERY, size=64, seed=3, **shares)  # type: ignore[arg-type]


def test_a_batch_follows_from_seed_and_number(portraits: Portraits) -> None:
    one, two = stream(portraits), stream(portraits)
    two.batch(0, 9)  # what was made before does not matter
    first, again, other = one.batch(5, 9), two.batch(5, 9), one.batch(6, 9)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    crops, masks, forges = first
    assert crops.shape == (9, 2, 64, 64, 3) and crops.dtype == torch.uint8
    assert masks.shape == (9, 64, 64) and set(masks.unique().tolist()) == {0, 1}
    assert forges.shape == (9,) and len(forges.unique()) > 2


@pytest.mark.parametrize("forge", sorted(FORGES))
def test_every_family_shows_inside_its_mask(portraits: Portraits, forge: str) -> None:
    plain = BatchedPairs(portraits, EVERY, size=64, seed=3, gentle=1.0)
    crops, masks, _ = plain.batch(1, 8, people=[0, 1] * 4, forges=[forge] * 8)
    apart = (crops[:, 0].float() - crops[:, 1].float()).abs().mean(-1)
    inside = (apart * masks).sum() / masks.sum().clamp(min=1)
    outside = (apart * (1 - masks)).sum() / (1 - masks).sum().clamp(min=1)
    assert masks.float().mean() > 0.01
    assert inside > 1.5 * outside and inside > 1


def test_a_stranger_is_somebody_else(portraits: Portraits) -> None:
    made = stream(portraits)
    for seed in range(20):
        who = np.array([0, 1, 0, 1])
        found = made._strangers(who, np.random.default_rng(seed))
        pairs = zip(who, found, strict=True)
        assert all(portraits.people[a] != portraits.people[b] for a, b in pairs)


def test_heads_lean_only_where_asked(portraits: Portraits) -> None:
    upright, leaning = stream(portraits, tilt=0.0), stream(portraits, tilt=1.0)
    one, two = (each.batch(2, 6)[0][:, 1] for each in (upright, leaning))
    assert not torch.equal(one, two)


def test_forges_that_need_copies_or_others_say_so(folder: Path, portraits: Portraits) -> None:
    bare = read_portraits(folder, "train", side=96)
    with pytest.raises(UsageError, match=r"deepswap, reconstruct need a pack of redrawn faces"):
        BatchedPairs(bare, EVERY, size=64, seed=1)
    BatchedPairs(bare, {"swap": 1.0, "deepswap": 0.0}, size=64, seed=1)
    alone = replace(portraits, people=("a",) * len(portraits))
    with pytest.raises(UsageError, match="at least two people"):
        BatchedPairs(alone, EVERY, size=64, seed=1)


def test_a_mirrored_face_has_mirrored_copies(portraits: Portraits) -> None:
    faces = portraits.faces(torch.tensor([0] * 8))
    out = _postured(faces, torch.Generator().manual_seed(2), tilt=0.0)
    assert faces.decoded is not None and out.decoded is not None
    turned = [not torch.equal(a, b) for a, b in zip(out.images, faces.images, strict=True)]
    assert any(turned) and not all(turned)
    for index, mirrored in enumerate(turned):
        flips = (lambda x: x.flip(-1)) if mirrored else (lambda x: x)
        assert torch.allclose(out.images[index], flips(faces.images[index]), atol=1e-3)
        assert torch.equal(out.decoded[index], flips(faces.decoded[index]))
        eyes = out.landmarks[index, 1, 0] - out.landmarks[index, 0, 0]
        assert eyes > 0  # the left eye stays the one that is seen on the left


@pytest.mark.slow
def test_the_speed_of_forging_is_told(folder: Path) -> None:
    given = ["--data", str(folder), "--decoded", str(folder / "decoded.npz")]
    sizes = ["--pairs", "1", "--size", "48", "--batches", "1"]
    done = CliRunner().invoke(benchmark, ["forge", *given, *sizes])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(found["families"]) == set(FORGES) and found["pictures"] > 0
    assert min(found["batched"], *found["families"].values()) > 0
    wrong = CliRunner().invoke(benchmark, ["forge", *given, "--device", "tpu"])
    assert wrong.exit_code == 2 and "no device 'tpu' to forge on" in wrong.output
