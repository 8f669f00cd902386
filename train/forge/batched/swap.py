"""Swaps of a batch: other people's faces, warped onto these, colour-matched and blended.

The batched twin of `train.forge.swap`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.forge.batched.blend import compose
from train.forge.batched.colour import match
from train.forge.batched.faces import (
    Faces,
    Made,
    affinity,
    apply,
    chosen,
    per_picture,
    pixels,
    random_masks,
    sample,
    similarity,
    uniform,
)
from train.forge.batched.redraw import decoded_like
from train.forge.batched.selfblend import frequency

# Programs replace the face or its inner part; parts alone are rarer.
_REGIONS = (
    "face", "inner face", "features", "face", "inner face", "jaw and parts", "lower face", "parts",
)  # fmt: skip


def swap(faces: Faces, generator: torch.Generator, *, others: Faces | None = None) -> Made:
    """Put the faces of others on these.

    Args:
        faces: at least one.
        generator: on the device of the tensors.
        others: somebody else for each face; their pictures may have another size.

    Raises:
        ValueError: there are no others, or not one for each face.
    """
    if others is None:
        raise ValueError("a swap needs other people's faces: pass others=")
    if len(others) != len(faces):
        raise ValueError(f"{len(faces)} faces need as many others, not {len(others)}")
    count, _, height, width = faces.images.shape
    masks = random_masks(generator, faces.landmarks, faces.sides, height, width, _REGIONS)
    source = aligned(others, faces, generator)
    kinds = per_picture(chosen(generator, count, (0.5, 0.2, 0.3)))
    soft = decoded_like(source, faces.sides, generator, uniform(generator, count, 0.2, 1.0))
    other = torch.where(kinds == 1, frequency(source, generator), source)
    source = torch.where(kinds == 0, soft, other)
    source = match(source, faces.images, masks, generator, (0.34, 0.25, 0.25, 0.16))
    made = compose(source, faces.images, masks, generator, (0.5, 0.2, 0.3))
    return Made(made, faces.images, masks)


def aligned(others: Faces, faces: Faces, generator: torch.Generator) -> Tensor:
    """Warp other faces onto these, each by a similarity, an affine map, or piece by piece."""
    count, _, height, width = faces.images.shape
    kinds = chosen(generator, count, (0.4, 0.3, 0.3))
    # The ways back: from these faces' pixels to those of the others.
    back = torch.where(
        (kinds == 0)[:, None, None],
        similarity(faces.landmarks, others.landmarks),
        affinity(faces.landmarks, others.landmarks),
    )
    places = pixels(height, width, faces.images.device).reshape(1, -1, 2).expand(count, -1, -1)
    read = apply(back, places) + _bend(back, others, faces, places) * (kinds == 2)[:, None, None]
    return sample(others.images, read.reshape(count, height, width, 2))


def _bend(back: Tensor, others: Faces, faces: Faces, places: Tensor) -> Tensor:
    """What is left at the five landmarks, spread by distance over places: (B, n, 2) pixels."""
    left = others.landmarks - apply(back, faces.landmarks)
    eyes = faces.landmarks[:, 1] - faces.landmarks[:, 0]
    reach = (0.5 * eyes.norm(dim=1) + 1)[:, None, None]
    apart = ((faces.landmarks[:, :, None] - faces.landmarks[:, None]) ** 2).sum(3)
    # Weights such that the sum of all bends is exactly what is left at each landmark.
    near = torch.exp(-apart / (2 * reach**2)) + 1e-3 * torch.eye(5, device=left.device)
    bend = torch.linalg.solve_ex(near, left).result
    bend = torch.maximum(torch.minimum(bend, reach), -reach)
    apart = ((places[:, :, None] - faces.landmarks[:, None]) ** 2).sum(3)
    return torch.exp(-apart / (2 * reach**2)) @ bend
