"""Pairs follow from (seed, index) alone, are cut alike, and differ where the mask says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from train.faces import Person, read_faces
from train.forge.forged import FORGES
from train.pairs import Pairs, crop_square, cut, forge_face
from train.smoke import write_faces

SHARES = {"self-blend": 0.5, "redraw": 0.3, "swap": 0.2}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Person]:
    folder: Path = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    return read_faces(folder, "train")


def pairs(people: list[Person], seed: int = 1, **shares: float) -> Pairs:
    return Pairs(people, shares or SHARES, size=48, seed=seed, length=10)


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
