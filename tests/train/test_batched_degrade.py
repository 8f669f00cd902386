"""Lives of whole batches: real JPEG, video coding of the right size, one life for both pictures."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from train.forge import degrade as alone
from train.forge.batched.coding import jpeg, video
from train.forge.batched.degrade import degrade
from train.forge.batched.harmless import harmless

LANDMARKS = torch.tensor([[[30.0, 40.0], [62.0, 40.0], [46.0, 56.0], [34.0, 70.0], [58.0, 70.0]]])


def textured(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8 with detail of all sizes, coloured a little."""
    rng = np.random.default_rng(seed)
    out = np.full((height, width, 3), 120.0)
    for waves in (2, 4, 8, 16, 32, 64):
        field = rng.standard_normal((waves + 2, waves + 2, 3))
        field = 0.4 * field + field.mean(2, keepdims=True)
        out += cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC) * 40 / waves**0.6
    return np.clip(out, 0, 255).astype(np.uint8)


PICTURES = np.stack([textured(150, 130, seed) for seed in range(4)])


def tensor(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def levels(images: Tensor) -> np.ndarray:
    return (images * 255).round().permute(0, 2, 3, 1).numpy()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_pairs(count: int, side: int = 96) -> Tensor:
    """Pairs that differ in the columns of the first quarter."""
    originals = tensor(np.stack([textured(side, side, seed) for seed in range(count)]))
    forged = originals.clone()
    forged[..., : side // 4] = forged[..., : side // 4].flip(2)
    return torch.stack([forged, originals], 1)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - two) ** 2)))


@pytest.mark.parametrize("quality", (15, 50, 75, 92))
def test_jpeg_errs_as_libjpeg_does(quality: int) -> None:
    coded = levels(jpeg(tensor(PICTURES), torch.full((len(PICTURES),), quality)))
    expected = np.stack([alone.jpeg(picture, quality) for picture in PICTURES]).astype(float)
    assert np.abs(coded - expected).mean() < 0.8
    own, other = coded - PICTURES, expected - PICTURES
    assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > 0.8
    assert own.std() == pytest.approx(other.std(), rel=0.04)


def test_each_picture_has_a_jpeg_quality_of_its_own() -> None:
    images, quality = tensor(PICTURES), torch.tensor([10, 35, 70, 95])
    together = jpeg(images, quality)
    for i in range(len(images)):
        assert torch.equal(together[i], jpeg(images[i : i + 1], quality[i : i + 1])[0])
    errors = (together - images).abs().mean((1, 2, 3))
    assert (errors.diff() < 0).all()


def test_coding_keeps_a_plane_of_one_colour() -> None:
    grey = torch.full((3, 3, 40, 56), 128 / 255)
    assert torch.equal(jpeg(grey, torch.tensor([5, 50, 95])), grey)
    coded = video(grey, torch.tensor([0.0, 0.5, 1.0]), seeded())
    assert (coded - grey).abs().max() <= 2.5 / 255


def test_video_harms_more_with_more_harm() -> None:
    images = tensor(PICTURES).repeat(2, 1, 1, 1)
    quality = [
        psnr(levels(video(images, torch.full((8,), harm), seeded())), levels(images))
        for harm in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert all(worse < better - 0.4 for better, worse in pairwise(quality))


def test_video_harms_as_much_as_h264() -> None:
    pytest.importorskip("av")
    images = tensor(PICTURES).repeat(4, 1, 1, 1)
    for crf in (18, 26, 34):
        expected = np.mean([psnr(alone.h264(picture, crf), picture) for picture in PICTURES])
        coded = levels(video(images, torch.full((16,), (crf - 16) / 20), seeded(crf)))
        found = np.mean([psnr(*both) for both in zip(coded, levels(images), strict=True)])
        assert found == pytest.approx(expected, abs=1.8), crf


@pytest.mark.parametrize("gentle", (0.0, 0.5, 1.0))
def test_a_life_keeps_shape_and_range_and_follows_from_its_seed(gentle: float) -> None:
    pairs = some_pairs(4)
    before = pairs.clone()
    lived = degrade(pairs, seeded(7), gentle)
    assert lived.shape == pairs.shape and lived.dtype == torch.float32
    assert lived.isfinite().all() and lived.min() >= 0 and lived.max() <= 1
    assert torch.allclose(lived * 255, (lived * 255).round(), atol=1e-3)
    assert torch.equal(lived, degrade(pairs, seeded(7), gentle))
    assert not torch.equal(lived, degrade(pairs, seeded(8), gentle))
    assert torch.equal(pairs, before)


def test_pictures_that_are_equal_stay_equal_and_pairs_live_apart() -> None:
    one = tensor(textured(96, 96, 0)[None])[:, None].expand(6, 2, -1, -1, -1)
    errors = torch.zeros(6)
    for seed in range(6):
        lived = degrade(one, seeded(seed))
        assert torch.equal(lived[:, 0], lived[:, 1])
        errors += (lived - one).abs().mean((1, 2, 3, 4))
        assert len({float(picture.sum()) for picture in lived[:, 0]}) >= 5
    assert errors.min() > 0


def test_what_was_not_forged_stays_equal() -> None:
    for seed in range(6):
        lived = degrade(some_pairs(4, 160), seeded(seed))
        # Columns from 40 on are equal; no filter and no block reaches half a picture.
        assert torch.equal(lived[:, 0, ..., 104:], lived[:, 1, ..., 104:])
        assert not torch.equal(lived[:, 0, ..., :40], lived[:, 1, ..., :40])


def test_a_gentle_life_harms_less() -> None:
    pairs = some_pairs(8)

    def detail_lost(gentle: float) -> float:
        lost = 0.0
        for seed in range(4):
            lived = degrade(pairs, seeded(seed), gentle)
            lost += float((lived.diff(dim=-1) - pairs.diff(dim=-1)).abs().mean())
        return lost

    assert detail_lost(1.0) < 0.75 * detail_lost(0.0)


@pytest.mark.parametrize("level", (0.0, 1.0))
def test_flat_pictures_stay_finite(level: float) -> None:
    pairs = torch.full((6, 2, 3, 48, 64), level)
    landmarks = LANDMARKS.expand(6, -1, -1)
    for seed in range(3):
        edited, cover = harmless(pairs, landmarks, seeded(seed), 1.0)
        for made in (degrade(pairs, seeded(seed)), edited, cover):
            assert made.isfinite().all() and made.min() >= 0 and made.max() <= 1


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(9, 40),
    st.integers(9, 40),
    st.integers(0, 2**31),
    st.floats(0, 1),
)
def test_any_size_of_batch_and_picture_is_served(
    count: int, height: int, width: int, seed: int, share: float
) -> None:
    pairs = torch.rand((count, 2, 3, height, width), generator=seeded(seed))
    landmarks = LANDMARKS.expand(count, -1, -1) * height / 96
    edited, cover = harmless(pairs, landmarks, seeded(seed), share)
    lived = degrade(edited, seeded(seed), share)
    assert lived.shape == edited.shape == pairs.shape
    assert cover.shape == (count, 1, height, width)
    for made in (edited, cover, lived):
        assert made.isfinite().all() and made.min() >= 0 and made.max() <= 1


def test_draws_do_not_depend_on_the_pictures() -> None:
    states = []
    for pairs in (some_pairs(4, 64), torch.zeros((4, 2, 3, 64, 64))):
        generator = seeded()
        harmless(pairs, LANDMARKS.expand(4, -1, -1), generator, 0.7)
        degrade(pairs, generator, 0.3)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_a_share_of_pairs_is_edited_and_the_others_are_untouched() -> None:
    pairs = some_pairs(16, 48)
    landmarks = LANDMARKS.expand(16, -1, -1) / 2
    untouched, cover = harmless(pairs, landmarks, seeded(), 0.0)
    assert torch.equal(untouched, pairs) and not cover.any()
    touched = 0
    for seed in range(8):
        edited, cover = harmless(pairs, landmarks, seeded(seed), 0.5)
        changed = (edited != pairs).flatten(1).any(1)
        assert 3 <= changed.sum() <= 8
        assert not cover[~changed].any()
        touched += int(changed.sum())
        again, _ = harmless(pairs, landmarks, seeded(seed), 0.5)
        assert torch.equal(edited, again)
    # Of an edited pair 30 in 100 are overlaid (some beside the picture), of the rest some draw no
    # edit for either picture.
    assert 0.25 < touched / (8 * 16) < 0.5


def test_edits_tell_nobody_which_picture_is_forged() -> None:
    one = tensor(textured(40, 40, 1)[None])[:, None].expand(32, 2, -1, -1, -1)
    landmarks = LANDMARKS.expand(32, -1, -1) * 40 / 96
    changed = np.zeros(2)
    strength = np.zeros(2)
    alike = 0
    for seed in range(20):
        edited, _ = harmless(one, landmarks, seeded(seed), 1.0)
        change = (edited - one).abs().flatten(2).mean(2)
        changed += (change > 0).sum(0).numpy()
        strength += change.sum(0).numpy()
        alike += int(torch.isclose(edited[:, 0], edited[:, 1], atol=1e-5).flatten(1).all(1).sum())
    assert changed[0] == pytest.approx(changed[1], rel=0.06)
    assert strength[0] == pytest.approx(strength[1], rel=0.12)
    assert 0.5 < alike / 640 < 0.85  # half of them, and those that are overlaid


def test_an_overlay_lies_over_both_alike() -> None:
    pairs = torch.stack([torch.zeros(24, 3, 64, 64), torch.ones(24, 3, 64, 64)], 1)
    landmarks = LANDMARKS.expand(24, -1, -1) * 64 / 96
    seen = 0
    for seed in range(4):
        edited, cover = harmless(pairs, landmarks, seeded(seed), 1.0)
        apart = (edited[:, 1] - edited[:, 0]).mean(1, keepdim=True)
        covered = cover.flatten(1).any(1)
        seen += int(covered.sum())
        # Over black and white alike the same colour shines through by what is not covered.
        assert torch.allclose(apart[covered], 1 - cover[covered], atol=1e-5)
    assert 10 < seen < 48


class _Readings(TorchDispatchMode):
    """Notes what a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func)
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "multinomial")
        if any(word in name for word in waits):
            self.found.append(name)
        if name.startswith("aten.index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        ):
            self.found.append(f"{name} by a mask")
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_from_the_device() -> None:
    pairs, landmarks = some_pairs(2, 32), LANDMARKS.expand(2, -1, -1) / 3
    with _Readings() as readings:
        float(pairs.sum())
    assert readings.found  # it does see what it looks for
    with _Readings() as readings:
        harmless(pairs, landmarks, seeded(), 0.7)
        degrade(pairs, seeded(), 0.3)
    assert not readings.found
