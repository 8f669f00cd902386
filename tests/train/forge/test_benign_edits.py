"""BenignEdit edits: what each keeps, and that none of them tells a fake from its original."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.train.forge.test_forges import FACE, forge, resized
from train.forge.benign_edits import BENIGN_EDITS, EDITS, OCCLUDERS
from train.forge.contract import Forged
from train.forge.pairs import INSIDE, edit_pair


@pytest.mark.parametrize("name", BENIGN_EDITS)
def test_an_edit_keeps_size_and_draw_and_what_it_was_given(name: str) -> None:
    before = FACE.image.copy()
    changed = 0
    for seed in range(5):
        one, again = (
            BENIGN_EDITS[name](FACE.image, FACE.landmarks, np.random.default_rng(seed))
            for _ in range(2)
        )
        assert one.shape == FACE.image.shape and one.dtype == np.uint8
        assert np.array_equal(one, again)
        changed += not np.array_equal(one, before)
    assert changed >= 4 and np.array_equal(FACE.image, before)


@pytest.mark.parametrize("name", BENIGN_EDITS)
def test_an_edit_leaves_a_face_recognisable(name: str) -> None:
    # Correlation of luma with the untouched picture; occluders hide a part of it.
    grey = cv2.cvtColor(FACE.image, cv2.COLOR_RGB2GRAY).ravel()
    least = 0.3 if name in OCCLUDERS else 0.7
    for seed in range(6):
        made = BENIGN_EDITS[name](FACE.image, FACE.landmarks, np.random.default_rng(seed))
        luma = cv2.cvtColor(made, cv2.COLOR_RGB2GRAY).ravel()
        assert np.corrcoef(grey, luma)[0, 1] > least


@pytest.mark.parametrize("name", BENIGN_EDITS)
def test_small_flat_and_odd_pictures_do_not_crash_an_edit(name: str) -> None:
    for width, height in ((33, 31), (17, 40), (64, 64)):
        small = resized(FACE, width, height)
        for picture in (small.image, np.zeros_like(small.image), small.image * 0 + 255):
            for seed in range(3):
                rng = np.random.default_rng(seed)
                assert BENIGN_EDITS[name](picture, small.landmarks, rng).shape == picture.shape


@pytest.mark.parametrize("name", OCCLUDERS)
def test_an_occluder_touches_only_what_it_covers(name: str) -> None:
    height, width = FACE.image.shape[:2]
    covered = []
    for seed in range(8):
        layer = OCCLUDERS[name](height, width, FACE.landmarks, np.random.default_rng(seed))
        assert layer.cover.min() >= 0 and layer.cover.max() <= 1
        made = layer.over(FACE.image)
        assert np.array_equal(made[layer.cover == 0], FACE.image[layer.cover == 0])
        covered.append((layer.cover > 0.5).mean())
    assert 0 < np.mean(covered) < 0.5


def made_pair() -> Forged:
    return forge("swap", FACE, 3)


def test_an_occluder_lies_over_both_and_leaves_the_mask() -> None:
    pair = made_pair()
    seen = 0
    for seed in range(60):
        edited, alike = edit_pair(pair, FACE.landmarks, np.random.default_rng(seed))
        if edited.tags[-1] not in OCCLUDERS:
            continue
        seen += 1
        assert alike and (edited.mask <= pair.mask).all()
        assert (edited.mask > INSIDE).sum() >= 0.5 * (pair.mask > INSIDE).sum()
        # Under what is opaque both are the same and nothing is marked.
        opaque = (pair.mask > 0.99) & (edited.mask < 0.005)
        assert np.abs(edited.image.astype(int) - edited.original)[opaque].max(initial=0) <= 2
        outside = pair.mask == 0
        assert np.array_equal(edited.image[outside], edited.original[outside])
    assert seen > 8


def test_edits_leave_mask_and_label_alone() -> None:
    pair = made_pair()
    for seed in range(40):
        edited, _ = edit_pair(pair, FACE.landmarks, np.random.default_rng(seed))
        if edited.tags[-1] not in OCCLUDERS:
            assert np.array_equal(edited.mask, pair.mask)
        assert edited.tags[: len(pair.tags)] == pair.tags


def test_no_edit_tells_which_picture_is_forged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of picture has every edit equally often, and real ones alone at times."""

    def named(number: int):
        def paint(image, landmarks, rng):
            return np.where(image == 255, np.uint8(number), image)

        return paint

    for number, name in enumerate(list(EDITS)):
        monkeypatch.setitem(EDITS, name, named(number))
    white = np.full((20, 20, 3), 255, np.uint8)
    blank = Forged(white, white, np.ones((20, 20), np.float32), ("swap", "face"))
    forged, real, together = Counter(), Counter(), 0
    draws = 3000
    for seed in range(draws):
        edited, alike = edit_pair(blank, FACE.landmarks / 10, np.random.default_rng(seed))
        if edited.tags[-1] in OCCLUDERS:
            continue
        forged[int(edited.image[0, 0, 0])] += 1
        real[int(edited.original[0, 0, 0])] += 1
        together += alike
        assert not alike or np.array_equal(edited.image, edited.original)
    total = sum(real.values())
    assert total == sum(forged.values()) and total > 0.6 * draws
    assert 0.44 < together / total < 0.56
    assert set(real) == set(forged) and len(real) == len(EDITS) + 1
    for number in real:
        spread = 5 * np.sqrt(real[number] + forged[number])
        assert abs(real[number] - forged[number]) < spread


def test_the_draw_of_an_edit_does_not_depend_on_the_picture() -> None:
    dark = replace(FACE, image=FACE.image // 3)
    for name in EDITS:
        states = []
        for one in (FACE, dark):
            rng = np.random.default_rng(7)
            EDITS[name](one.image, one.landmarks, rng)
            states.append(rng.bit_generator.state["state"]["state"])
        assert states[0] == states[1], name
