"""Training transforms: what all keep, and each one's own promise."""

from __future__ import annotations

import numpy as np
import pytest

from deepscan.models.deploy import MEAN
from tests.train.test_recipe import RECIPES
from train.datasets.transforms import PADDING, TRANSFORMS, transform
from train.recipe import read_recipe

SIZE = 48


def picture(height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    return image, mask


def one(name: str, seed: int = 0, height: int = 60, width: int = 80, **settings: float):
    chosen = TRANSFORMS[name]
    image, mask = picture(height, width)
    given = image.astype(np.float32)
    rng = np.random.default_rng(seed)
    out = chosen.step(given, mask, rng, SIZE, {**chosen.settings, **settings})
    assert np.array_equal(given, image)  # what comes in is left alone
    return out


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "pad"])
@pytest.mark.parametrize("seed", range(4))
def test_picture_and_mask_stay_together(name: str, seed: int) -> None:
    for height, width in ((60, 80), (33, 47), (9, 7)):
        out, mask = one(name, seed, height, width)
        again, _ = one(name, seed, height, width)
        assert out.shape == (*mask.shape, 3) and out.dtype == np.float32
        assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1}
        assert out.min() >= 0 and out.max() <= 255.001
        assert np.array_equal(out, again)


@pytest.mark.parametrize("recipe", ["msccnet-r50-paper", "msccnet-r50-modern"])
@pytest.mark.parametrize("shape", [(60, 80), (200, 150), (20, 21)])
def test_a_recipe_ends_at_the_size_of_the_crop(recipe: str, shape: tuple[int, int]) -> None:
    source = read_recipe(RECIPES / f"{recipe}.toml").dataset
    assert source is not None
    for seed in range(5):
        rng = np.random.default_rng(seed)
        out, mask = transform(*picture(*shape), rng, SIZE, source.transforms)
        assert out.shape == (SIZE, SIZE, 3) and mask.shape == (SIZE, SIZE)
        assert set(np.unique(mask)) <= {0, 1, PADDING} and np.isfinite(out).all()


def test_no_steps_are_a_plain_resize() -> None:
    out, mask = transform(*picture(), np.random.default_rng(0), SIZE, [])
    assert out.shape == (SIZE, SIZE, 3) and set(np.unique(mask)) == {0, 1}


def test_resize_keeps_the_aspect_and_fits_its_square() -> None:
    sides = []
    for seed in range(40):
        _, mask = one("resize", seed)
        height, width = mask.shape
        assert height / width == pytest.approx(60 / 80, abs=0.03)
        sides.append(width)
    full = 520 / 512 * SIZE
    assert 0.5 * full - 1 <= min(sides) < 0.7 * full and 1.7 * full < max(sides) <= 2 * full + 1


def test_crop_looks_for_both_classes() -> None:
    # The manipulated part is a small corner of a large picture: one draw would mostly miss it.
    image, mask = np.zeros((400, 400, 3), np.float32), np.zeros((400, 400), np.uint8)
    mask[:60, :60] = 1
    chosen = TRANSFORMS["crop"]
    found = {1: 0, 400: 0}
    for tries in found:
        for seed in range(30):
            rng = np.random.default_rng(seed)
            _, cut = chosen.step(image, mask, rng, SIZE, {"share": 0.99, "tries": tries})
            assert cut.shape == (SIZE, SIZE)
            found[tries] += len(np.unique(cut)) == 2
    assert found[1] < 8 and found[400] > 25


def test_crop_takes_the_last_draw_of_a_real_picture() -> None:
    chosen = TRANSFORMS["crop"]
    image = np.arange(100 * 100 * 3, dtype=np.float32).reshape(100, 100, 3)
    clean = np.zeros((100, 100), np.uint8)
    out, _ = chosen.step(image, clean, np.random.default_rng(1), SIZE, {"share": 0.75, "tries": 3})
    rng = np.random.default_rng(1)
    draws = [(int(rng.integers(100 - SIZE + 1)), int(rng.integers(100 - SIZE + 1))) for _ in "abc"]
    top, left = draws[-1]
    assert np.array_equal(out, image[top : top + SIZE, left : left + SIZE])


def test_pad_centres_and_marks_what_it_adds() -> None:
    out, mask = one("pad", height=20, width=30)
    assert mask.shape == (SIZE, SIZE) and (mask[14:34, 9:39] <= 1).all()
    assert (mask == PADDING).sum() == SIZE * SIZE - 20 * 30
    assert np.array_equal(out[mask == PADDING], np.tile(np.array(MEAN, np.float32), (1704, 1)))
    with pytest.raises(ValueError, match="crop or resize first"):
        one("pad", height=60, width=80)


def test_flip_turns_both() -> None:
    image, mask = picture()
    out, turned = one("flip", probability=1.0)
    assert np.array_equal(out, image[:, ::-1]) and np.array_equal(turned, mask[:, ::-1])
    assert np.array_equal(one("flip", probability=0.0)[0], image)


def test_distort_leaves_pictures_alone_as_often_as_its_chances_say() -> None:
    image, _ = picture()
    same = [np.array_equal(one("distort", seed)[0], image) for seed in range(200)]
    assert 0.02 < np.mean(same) < 0.12  # four chances of one half: 1 in 16
    colours = [one("distort", seed)[0].mean() for seed in range(40)]
    assert np.std(colours) > 5
