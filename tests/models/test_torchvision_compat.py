"""torchvision imports beside any torch, and its nms is right whoever computes it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepscan.models.nms import greedy_nms
from deepscan.models.torchvision_compat import import_torchvision
from deepscan.types import Box


def naive_nms(boxes, scores, threshold):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        box = Box(*boxes[index].tolist())
        if all(box.iou(Box(*boxes[other].tolist())) <= threshold for other in kept):
            kept.append(index)
    return kept


def random_boxes(seed, count):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(1, 50, (count, 2))])
    return boxes, rng.permutation(count) / max(1, count)  # no equal scores


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([0.1, 0.5, 0.7]))
def test_equals_a_plain_loop_over_pairs(seed, count, threshold):
    boxes, scores = random_boxes(seed, count)
    assert greedy_nms(boxes, scores, threshold).tolist() == naive_nms(boxes, scores, threshold)


def test_of_equal_boxes_with_equal_scores_the_first_stays():
    boxes = np.array([[0.0, 0, 9, 9]] * 3 + [[20.0, 0, 29, 9]])
    assert greedy_nms(boxes, np.ones(4), 0.5).tolist() == [0, 3]


def test_boxes_without_area_do_not_divide_by_zero():
    boxes = np.array([[5.0, 5, 5, 5], [5.0, 5, 5, 5]])
    assert greedy_nms(boxes, np.array([0.9, 0.8]), 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_torchvision_imports_and_its_nms_agrees(seed):
    import_torchvision()
    import_torchvision()
    ops = sys.modules["torchvision"].ops
    boxes, scores = random_boxes(seed, 80)
    kept = ops.nms(torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), 0.5)
    assert kept.dtype == torch.int64
    assert kept.tolist() == naive_nms(boxes, scores, 0.5)


def test_batched_nms_keeps_groups_apart():
    import_torchvision()
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 2)
    kept = sys.modules["torchvision"].ops.batched_nms(
        boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.5
    )
    assert kept.tolist() == [0, 1]
