"""Losses over logits of two classes, each `(logits (B, 2, ...), target (B, ...) int64) -> scalar`.

To add one, write a function of that shape and add a line to `LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = 255  # pixels of padding


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy; ignores pixels of value 255 (the paper's loss)."""
    return F.cross_entropy(logits.float(), target, ignore_index=IGNORED)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy on the difference of the two logits."""
    known = target != IGNORED
    margin = logits[:, 1].float() - logits[:, 0].float()
    return F.binary_cross_entropy_with_logits(margin[known], target[known].float())


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice of the manipulated class, over the samples that have any such pixel.

    Samples without one give no gradient here: cross-entropy covers them.
    """
    known = (target != IGNORED).float()
    probability = torch.softmax(logits.float(), dim=1)[:, 1] * known
    truth = (target == 1).float()
    axes = tuple(range(1, truth.dim()))
    both = (probability * truth).sum(axes)
    total = probability.sum(axes) + truth.sum(axes)
    has = truth.sum(axes) > 0
    share = 1 - (2 * both + 1) / (total + 1)
    return (share * has).sum() / has.sum().clamp(min=1)


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross-entropy weighted by (1 - p)^gamma of the true class (Lin et al., 2017)."""
    known = target != IGNORED
    log_p = F.log_softmax(logits.float(), dim=1)
    true = log_p.gather(1, target.where(known, torch.zeros_like(target)).unsqueeze(1)).squeeze(1)
    loss = -((1 - true.exp()) ** gamma) * true
    return loss[known].mean()


def lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Lovász-softmax of the manipulated class (Berman et al., 2018): a surrogate of 1 - IoU."""
    known = target.flatten() != IGNORED
    probability = torch.softmax(logits.float(), dim=1)[:, 1].flatten()[known]
    truth = (target.flatten()[known] == 1).float()
    if truth.sum() == 0:
        return probability.sum() * 0
    errors, order = torch.sort((truth - probability).abs(), descending=True)
    sorted_truth = truth[order]
    union = sorted_truth.sum() + (1 - sorted_truth).cumsum(0)
    jaccard = 1 - (sorted_truth.sum() - sorted_truth.cumsum(0)) / union
    steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return (errors * steps).sum()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "bce": binary_cross_entropy,
    "dice": dice,
    "focal": focal,
    "lovasz": lovasz,
}


def weighted_sum(
    outputs: tuple[Tensor | None, Tensor | None, Tensor | None],
    labels: Tensor,
    masks: Tensor,
    losses: Mapping[str, Mapping[str, float]],
) -> Tensor:
    """The loss of a network: its weighted terms over the outputs that it has.

    Args:
        outputs: logits of image (B, 2), mask and coarse mask (B, 2, h, w), None for what is not
            there; masks are scaled up to `masks`.
        labels: (B,) int64.
        masks: (B, S, S) int64.
        losses: weights of `LOSSES` by output ("image", "mask", "coarse").
    """
    named = dict(zip(("image", "mask", "coarse"), outputs, strict=True))
    total = torch.zeros((), device=labels.device)
    for name, terms in losses.items():
        output = named[name]
        if output is None:
            continue
        if name != "image":
            output = F.interpolate(
                output.float(), masks.shape[-2:], mode="bilinear", align_corners=False
            )
        for loss, weight in terms.items():
            total = total + weight * LOSSES[loss](output, labels if name == "image" else masks)
    return total
