"""Every loss against its formula written out in NumPy, and what all of them have in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from train.losses import IGNORED, LOSSES

MAPS = (2, 2, 5, 4)  # samples, classes, height, width


def drawn(seed: int, ignored: float = 0.2) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, (MAPS[0], *MAPS[2:]))
    target[rng.random(target.shape) < ignored] = IGNORED
    return torch.from_numpy(rng.normal(0, 2, MAPS)), torch.from_numpy(target)


def softmax(logits: Tensor) -> np.ndarray:
    powers = np.exp(logits.numpy())
    return powers / powers.sum(1, keepdims=True)


def naive_ce(logits: Tensor, target: Tensor) -> float:
    p, t = softmax(logits), target.numpy()
    terms = [
        -np.log(p[(b, t[b, y, x], y, x)]) for b, y, x in zip(*np.where(t != IGNORED), strict=True)
    ]
    return float(np.mean(terms))


def naive_bce(logits: Tensor, target: Tensor) -> float:
    margin, t = (logits[:, 1] - logits[:, 0]).numpy(), target.numpy()
    p = 1 / (1 + np.exp(-margin))
    terms = [
        -np.log(p[i] if t[i] == 1 else 1 - p[i]) for i in zip(*np.where(t != IGNORED), strict=True)
    ]
    return float(np.mean(terms))


def naive_focal(logits: Tensor, target: Tensor) -> float:
    p, t = softmax(logits), target.numpy()
    true = [p[(b, t[b, y, x], y, x)] for b, y, x in zip(*np.where(t != IGNORED), strict=True)]
    return float(np.mean([-((1 - value) ** 2) * np.log(value) for value in true]))


def naive_dice(logits: Tensor, target: Tensor) -> float:
    p, t = softmax(logits)[:, 1], target.numpy()
    losses = []
    for sample in range(len(t)):
        known, fake = t[sample] != IGNORED, t[sample] == 1
        if fake.any():
            both = p[sample][fake].sum()
            losses.append(1 - (2 * both + 1) / (p[sample][known].sum() + fake.sum() + 1))
    return float(np.mean(losses))


def naive_lovasz(logits: Tensor, target: Tensor) -> float:
    """The Lovász extension of the Jaccard loss: its increments along the sorted errors."""
    p, t = softmax(logits)[:, 1].ravel(), target.numpy().ravel()
    p, t = p[t != IGNORED], t[t != IGNORED]
    errors = np.abs(t - p)

    def jaccard_loss(wrong: set[int]) -> float:
        truth = {i for i in range(len(t)) if t[i] == 1}
        answer = truth ^ wrong
        return 1 - len(truth & answer) / len(truth | wrong)

    total, wrong = 0.0, set[int]()
    for index in np.argsort(-errors, kind="stable"):
        before = jaccard_loss(wrong)
        wrong = wrong | {int(index)}
        total += errors[index] * (jaccard_loss(wrong) - before)
    return total


NAIVE = {
    "ce": naive_ce,
    "bce": naive_bce,
    "focal": naive_focal,
    "dice": naive_dice,
    "lovasz": naive_lovasz,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_is_its_formula(name: str, seed: int) -> None:
    logits, target = drawn(seed)
    assert float(LOSSES[name](logits, target)) == pytest.approx(
        NAIVE[name](logits, target), abs=1e-5
    )


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_do_not_matter(name: str) -> None:
    logits, target = drawn(7)
    other = logits.clone()
    other.transpose(0, 1)[:, target == IGNORED] += 50.0
    assert float(LOSSES[name](other, target)) == pytest.approx(float(LOSSES[name](logits, target)))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_also_for_certain_and_wrong_answers(name: str) -> None:
    target = torch.tensor([[[0, 1], [1, 0]]])
    logits = torch.stack([target * 60.0 - 30, 30 - target * 60.0], dim=1).requires_grad_()
    loss = LOSSES[name](logits, target)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_right_answer_costs_nothing_and_a_wrong_one_does(name: str) -> None:
    target = torch.tensor([[[0, 1, 1], [1, 0, 0]]])
    right = torch.stack([30 - target * 60.0, target * 60.0 - 30], dim=1)
    assert float(LOSSES[name](right, target)) == pytest.approx(0, abs=1e-4)
    assert float(LOSSES[name](-right, target)) > 0.5


@pytest.mark.parametrize("name", ["ce", "bce", "focal"])
def test_image_logits_are_taken_too(name: str) -> None:
    logits, target = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    assert LOSSES[name](logits, target).shape == ()


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_overlap_losses_say_nothing_without_a_manipulated_pixel(name: str) -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = LOSSES[name](logits, torch.zeros(1, 3, 3, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0 and float(logits.grad.abs().max()) == 0


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.int64, (1, 3, 4), elements=st.integers(0, 1)),
    arrays(np.int64, (1, 3, 4), elements=st.integers(0, 1)),
)
def test_lovasz_of_a_hard_answer_is_one_minus_its_iou(
    truth: np.ndarray, answer: np.ndarray
) -> None:
    if not truth.any():
        return
    hard = torch.from_numpy(answer) * 100.0 - 50
    loss = LOSSES["lovasz"](torch.stack([-hard, hard], dim=1), torch.from_numpy(truth))
    iou = (truth & answer).sum() / (truth | answer).sum()
    assert float(loss) == pytest.approx(1 - iou, abs=1e-5)
