"""PairStream follow from (seed, index) alone, are cut alike, and differ where the mask says."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from train.forge import FORGES
from train.forge import pairs as pairs_module
from train.forge.faces import Person, read_faces
from train.forge.pairs import (
    PairOptions,
    PairStream,
    crop_square,
    cut,
    cut_pair,
    forge_face,
    smaller,
    trimmed,
    visible,
)
from train.smoke import write_faces, write_plain_pack

SHARES = {"self-blend": 0.5, "redraw": 0.3, "swap": 0.2}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Person]:
    folder: Path = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    write_plain_pack(folder, folder / "pack.npz")
    return read_faces(folder, "train", folder / "pack.npz")


def pairs(people: list[Person], seed: int = 1, **shares: float) -> PairStream:
    return PairStream(people, shares or SHARES, size=48, seed=seed, length=10)


def test_an_item_follows_from_seed_and_index(people: list[Person]) -> None:
    stream, again, other = pairs(people), pairs(people), pairs(people, seed=2)
    for _ in range(3):
        again[0]  # what was drawn before does not matter
    same = [all((a == b).all() for a, b in zip(stream[i], again[i], strict=True)) for i in (5, 2)]
    assert all(same)
    assert not (stream[5][0] == other[5][0]).all()
    assert not (stream[5][0] == stream[2][0]).all()


def test_an_item_has_its_shapes(people: list[Person]) -> None:
    stream = pairs(people)
    crops, mask, kind = stream[0]
    assert len(stream) == 10
    assert crops.shape == (2, 48, 48, 3) and str(crops.dtype) == "torch.uint8"
    assert mask.shape == (48, 48) and set(mask.unique().tolist()) <= {0, 1}
    assert 0 <= int(kind) < len(FORGES)


@pytest.mark.parametrize("forge", FORGES)
def test_a_pair_differs_inside_the_mask_most(people: list[Person], forge: str) -> None:
    inside, outside = [], []
    for index in range(12):
        pair = pairs(people).pair(index, person=0, forge=forge)
        assert pair.person == "astronaut" and pair.tags[0] == forge
        difference = np.abs(pair.forged.astype(int) - pair.original).mean(2)
        if pair.mask.any():
            inside.append(difference[pair.mask == 1].mean())
        outside.append(difference[pair.mask == 0].mean())
    assert np.mean(inside) > 3 * np.mean(outside)


def test_shares_decide_the_forges(people: list[Person]) -> None:
    only = pairs(people, redraw=1.0, swap=0.0)
    assert {only.pair(index).tags[0] for index in range(12)} == {"redraw"}


def test_a_swap_takes_another_person(people: list[Person]) -> None:
    forged = forge_face(people, 0, "swap", np.random.default_rng(0))
    assert forged.tags[0] == "swap"
    assert (forged.original == people[0].face.image).all()


def test_a_small_source_is_seen_more_often_than_its_share(people: list[Person]) -> None:
    from dataclasses import replace

    many = [replace(people[0], person=f"many-{i}", source="many") for i in range(16)]
    few = [replace(people[1], person="few", source="few")]
    stream = pairs(many + few)
    assert stream.shares == pytest.approx([4 / 5, 1 / 5])


def test_the_square_is_near_the_scale_of_a_scan(people: list[Person]) -> None:
    face = people[0].face
    longer = max(face.box[2] - face.box[0], face.box[3] - face.box[1])
    sides = [crop_square(face, np.random.default_rng(seed), 0.5)[2] for seed in range(50)]
    assert 1.3 * 0.88 * longer / 2 <= min(sides) < max(sides) <= 1.3 * 1.14 * longer / 2
    assert max(sides) > 1.1 * min(sides)


def test_a_cut_repeats_the_edge_outside() -> None:
    picture = np.zeros((10, 10, 3), np.uint8)
    picture[0] = 200
    crop = cut(picture, (0.0, -10.0, 10.0), 10, cv2.INTER_AREA)
    assert crop.shape == (10, 10, 3) and (crop == 200).all()
    whole = cut(picture, (0.0, 0.0, 10.0), 10, cv2.INTER_LINEAR)
    assert np.array_equal(whole, picture)
    assert cut(picture[..., 0], (2.0, 2.0, 5.0), 40, cv2.INTER_AREA).shape == (40, 40)


def test_edits_are_drawn_with_the_pair(people: list[Person]) -> None:
    plain, edited, again = (
        PairStream(people, SHARES, size=48, seed=4, length=9, options=PairOptions(benign=share))
        for share in (0, 1, 1)
    )
    changed = 0
    for index in range(8):
        one, two, three = (stream.pair(index) for stream in (plain, edited, again))
        assert np.array_equal(two.forged, three.forged)
        assert np.array_equal(two.original, three.original)
        assert np.array_equal(two.mask, three.mask) and two.mask.any()
        changed += not np.array_equal(one.original, two.original)
    assert changed > 5


def test_heads_lean_only_where_asked(people: list[Person]) -> None:
    plain, same, leaning, again = (
        PairStream(people, SHARES, size=48, seed=4, length=9, options=PairOptions(tilt=share))
        for share in (0, 0, 1, 1)
    )
    for index in range(6):
        one, two = plain.pair(index), same.pair(index)
        three, four = leaning.pair(index), again.pair(index)
        assert np.array_equal(one.original, two.original)
        assert not np.array_equal(one.original, three.original)
        assert np.array_equal(three.forged, four.forged) and three.mask.any()


@pytest.mark.parametrize("forge", FORGES)
def test_a_leaning_head_is_forged_in_its_place(people: list[Person], forge: str) -> None:
    stream = PairStream(people, SHARES, size=48, seed=3, length=9, options=PairOptions(tilt=1.0))
    inside, outside = [], []
    for index in range(12):
        pair = stream.pair(index, person=0, forge=forge)
        difference = np.abs(pair.forged.astype(int) - pair.original).mean(2)
        if pair.mask.any():
            inside.append(difference[pair.mask == 1].mean())
        outside.append(difference[pair.mask == 0].mean())
    assert np.mean(inside) > 1.5 * np.mean(outside)


def test_still_codecs_need_no_video_library(
    people: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    still = PairStream(
        people, SHARES, size=48, seed=4, length=9, options=PairOptions(codecs="still")
    )
    video = PairStream(people, SHARES, size=48, seed=4, length=9)
    for name in [name for name in sys.modules if name == "av" or name.startswith("av.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)  # importing it fails
    assert [still.pair(index).person for index in range(12)]
    with pytest.raises(ImportError):
        for index in range(12):
            video.pair(index)


def test_no_such_codecs(people: list[Person]) -> None:
    stream = PairStream(
        people, SHARES, size=48, seed=4, length=9, options=PairOptions(codecs="tape")
    )
    with pytest.raises(ValueError, match="no codecs 'tape'; there are video, still"):
        for index in range(12):
            stream.pair(index)


def test_trimming_keeps_the_face_and_what_a_crop_can_show(people: list[Person]) -> None:
    face = people[0].face
    less = trimmed(face)
    moved = face.landmarks[0] - less.landmarks[0]
    x, y = moved.astype(int)
    height, width = less.image.shape[:2]
    assert np.array_equal(face.image[y : y + height, x : x + width], less.image)
    assert np.allclose(np.array(face.box) - np.tile(moved, 2), less.box)
    for seed in range(40):
        left, top, side = crop_square(less, np.random.default_rng(seed), 1.0)
        assert (left > 0 or x == 0) and (top > 0 or y == 0)
        assert left + side < width or x + width == face.image.shape[1]
        assert top + side < height or y + height == face.image.shape[0]


def test_what_cannot_be_seen_is_no_manipulation(people: list[Person]) -> None:
    from dataclasses import replace

    face = people[0].face
    made = forge_face(people, 0, "swap", np.random.default_rng(0))
    assert visible(made, face)
    assert not visible(replace(made, image=made.original), face)
    assert not visible(replace(made, mask=made.mask * 0), face)
    speck = np.zeros_like(made.mask)
    speck[40:43, 40:43] = 1
    assert not visible(replace(made, mask=speck, image=255 - made.original), face)


def test_the_most_alike_of_strangers_is_taken(people: list[Person]) -> None:
    from dataclasses import replace

    from train.forge.mesh import place_mesh

    def person(name: str, light: int, turn: float) -> Person:
        face = people[0].face
        mesh = place_mesh(face.landmarks)
        mesh[:, 0] += turn * mesh[:, 2]  # a head that looks aside
        image = np.clip(face.image.astype(int) + light, 0, 255).astype(np.uint8)
        return replace(people[0], person=name, face=replace(face, image=image, mesh=mesh))

    own, dark, aside, alike = (
        person("own", 0, 0.0), person("dark", -90, 0.0), person("aside", 0, 0.9),
        person("alike", 3, 0.05),
    )  # fmt: skip
    crowd = [own, dark, aside, alike]
    for seed in range(10):
        taken = pairs_module._most_alike(crowd, own, own.face, np.random.default_rng(seed))
        assert taken is alike.face
    # Without meshes, or alone, whoever there is.
    bare = [replace(one, face=replace(one.face, mesh=None)) for one in crowd]
    rng = np.random.default_rng(1)
    assert pairs_module._most_alike([own, *bare[1:]], own, own.face, rng) is not None
    assert pairs_module._most_alike([own], own, own.face, rng) is None


def test_a_forge_may_have_its_frame_made_smaller(people: list[Person]) -> None:
    from dataclasses import replace

    made = forge_face(people, 0, "swap", np.random.default_rng(3))
    half = smaller(replace(made, reduced=0.5))
    height, width = made.mask.shape
    assert half.mask.shape == (round(height / 2), round(width / 2))
    assert half.image.shape == half.original.shape == (*half.mask.shape, 3)
    one, two = (
        cut_pair(
            replace(made, reduced=factor),
            people[0],
            48,
            np.random.default_rng(5),
            PairOptions(mild=1.0),
        )
        for factor in (1.0, 0.5)
    )
    # The same cut of the same face, with less detail.
    assert (one.mask != two.mask).mean() < 0.06
    assert np.abs(one.original.astype(int) - two.original).mean() < 12


@pytest.mark.parametrize("forge", ["mesh-swap", "deepswap"])
def test_some_swaps_cover_the_oval_and_ask_to_be_smaller(people: list[Person], forge: str) -> None:
    factors = {
        forge_face(people, 0, forge, np.random.default_rng(seed)).reduced for seed in range(12)
    }
    assert 1.0 in factors and len(factors) > 1
    assert all(113 * factor >= 55.9 for factor in factors)  # of a face box of 113 px
