"""Mesh swap: another person's face, warped by triangles onto this one's pose and expression.

As landmark-based programs do it (a textured mesh of the source drawn over the target), and as the
output of swap networks looks: the target's pose, expression and light, the source's face. At times
a decoder redraws it (one of a pack, where the source has redrawn copies), the target's light is
laid over it, and the source's shape shows within the target's outline. As in deepswap, a third
covers the whole oval and is made smaller with its frame.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge.artefacts import decode
from train.forge.blend import BLENDS, SPACES, compose, match_colour
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.deepswap import BORDERLESS, as_grey_as, drawn_over, finish, reduction
from train.forge.degrade import sharpen
from train.forge.mesh import (
    FOREHEAD,
    JAW,
    OPEN,
    Mesh,
    fill,
    map_between,
    mean_mesh,
    opening,
    openness,
)
from train.forge.selfblend import frequency, oval_mask, random_mask
from train.forge.shape import surroundings

# The whole oval most often, as swap networks replace it.
_REGIONS = ("face", "face", "face", "inner face", "inner face", "features", "jaw and parts")
_WHOLE = ("face", "inner face")  # regions within which features may move
_LIGHT, _TINT = 5.0, 45.0  # of `relit`: 1/32 of a face, grey levels
_SOFT = 0.01  # of the face, the border of what was warped
_REDRAWN = 0.7  # share of sources that a pack's decoder draws, where there is a pack


def mesh_swap(
    face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
) -> Forged:
    """Draw `other`'s face on this one; by mean meshes where a face has no mesh of its own.

    Raises:
        ValueError: there is no other face.
    """
    if other is None:
        raise ValueError("a swap needs another person's face: pass other=")
    whole = bool(rng.random() < BORDERLESS)
    mask, region = (oval_mask(face, rng), "face") if whole else random_mask(face, rng, _REGIONS)
    decoder = ""
    if other.redrawn and rng.random() < _REDRAWN:
        picture, redrawn = drawn_over(other, rng)
        other, decoder = replace(other, image=picture), redrawn.decoder
    target, owner = face.dense(), other.dense()
    across = max(float(np.ptp(target[:, 0])), 1.0)
    keeps_mouth = openness(target) > OPEN > openness(owner)
    share = rng.uniform(0.1, 0.6) if rng.random() < 0.6 else 0.0
    if region in _WHOLE and not keeps_mouth:
        target = reshaped(target, owner, share)
    window = surroundings(target, mask.shape[0], mask.shape[1], 8)
    source, inside = warped(other, target, face.image[window], window, across)
    weight = mask[window] * inside
    if keeps_mouth:  # nothing of closed lips could be drawn there
        hole = fill([opening(target) - corner(window)], *weight.shape)
        soft = cv2.GaussianBlur(hole, (0, 0), max(_SOFT * across, 0.4))
        weight = weight * (1 - np.minimum(soft, np.float32(1)))
    mask = np.zeros_like(mask)
    mask[window] = weight
    draw = rng.random()
    if decoder:
        source = finish(source, rng)
    elif draw < 0.5:
        source = decode(source, across, rng, rng.uniform(0.2, 1.0))
    elif draw < 0.65:
        source = frequency(source, rng)
    elif draw < 0.75:
        source = sharpen(source, rng.uniform(0.2, 1.0))
    space = SPACES[rng.choice(len(SPACES), p=(0.4, 0.25, 0.2, 0.1, 0.05))]
    source = as_grey_as(face, match_colour(source, face.image[window], weight, space))
    if whole or rng.random() < 0.4:
        source = relit(source, face.image[window], weight, across, rng.uniform(0.3, 0.9))
    laid = face.image.copy()
    laid[window] = source
    kind = "alpha" if whole else BLENDS[rng.choice(len(BLENDS), p=(0.6, 0.2, 0.2))]
    made = compose(laid, face.image, mask, kind)
    tags = ("mesh-swap", region, *([decoder] if decoder else []), f"colour {space}", kind)
    return Forged(made, face.image, mask, tags, reduction(face, rng) if whole else 1.0)


def warped(
    other: FaceImage,
    target: Mesh,
    background: Picture,
    window: tuple[slice, slice],
    across: float,
) -> tuple[Picture, NDArray[np.float32]]:
    """Another face's texture on a mesh.

    Args:
        other: whose texture.
        target: where it shall lie, in pixels of the whole picture.
        background: (h, w, 3), the window of that picture; it stays where the mesh is not.
        window: rows and columns.
        across: width of the face in pixels.

    Returns:
        The window's picture, and the soft weight (h, w) float32 in [0, 1] where the mesh lies.
    """
    image, mesh = other.image, other.dense()
    size = across / max(float(np.ptp(mesh[:, 0])), 1.0)
    if size < 0.75:  # plain sampling of too many pixels would add aliases
        height, width = (max(4, round(side * size)) for side in image.shape[:2])
        factor = (width / image.shape[1], height / image.shape[0], size)
        mesh = mesh * np.array(factor, np.float32)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    (x, y), inside = map_between(mesh, target - (*corner(window), 0), *background.shape[:2])
    texture = cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    texture[~inside] = background[~inside]
    # The border of what was drawn is ragged: it fades inwards.
    soft = max(_SOFT * across, 0.5)
    reach = 2 * round(2 * soft) + 1
    held = cv2.erode(inside.astype(np.uint8), np.ones((reach, reach), np.uint8))
    weight = cv2.GaussianBlur(held.astype(np.float32), (0, 0), soft) * inside
    return texture, np.minimum(weight, np.float32(1))


def reshaped(target: Mesh, owner: Mesh, share: float) -> Mesh:
    """A mesh with a share of another's shape, all the more the farther a point is from the rim.

    Args:
        target: whose pose, size and outline stay.
        owner: whose shape it gets, laid on `target` by a similarity.
        share: 0 for none.
    """
    if share <= 0:
        return target
    moved = laid_on(owner, target)
    out = target.copy()
    out[:, :2] += share * _inwards()[:, None] * (moved - target[:, :2])
    return out


def laid_on(mesh: Mesh, target: Mesh) -> NDArray[np.float32]:
    """The mesh's points (478, 2) after the similarity that fits them to another's best."""
    one, two = (flat[:, 0] + 1j * flat[:, 1] for flat in (mesh, target))
    away, there = one - one.mean(), two - two.mean()
    turn = np.vdot(away, there) / max(float((np.abs(away) ** 2).sum()), 1e-6)
    laid = turn * away + two.mean()
    return np.stack([laid.real, laid.imag], 1).astype(np.float32)


@cache
def _inwards() -> NDArray[np.float32]:
    """0 on the oval, 1 from an eye distance of a third inside it: (478,)."""
    points = mean_mesh()[0][:, :2]
    rim = points[[*JAW, *FOREHEAD]]
    apart = np.hypot(*(points[:, None] - rim[None]).transpose(2, 0, 1)).min(1)
    return np.clip(apart / 0.33, 0, 1).astype(np.float32)


def relit(
    source: Picture, target: Picture, weight: NDArray[np.float32], across: float, share: float
) -> Picture:
    """The source in the target's light: what is wider than a sixth of the face comes from there.

    Args:
        source: (H, W, 3) uint8.
        target: of the same size.
        weight: (H, W), where both are compared.
        across: width of the face in pixels.
        share: of the difference of lights that is taken out.
    """
    step = max(1, round(across / 32))
    size = (max(2, weight.shape[1] // step), max(2, weight.shape[0] // step))
    inside = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    apart = cv2.resize(
        (target.astype(np.float32) - source) * weight[..., None], size, interpolation=cv2.INTER_AREA
    )
    light = cv2.GaussianBlur(apart, (0, 0), _LIGHT)
    light /= np.maximum(cv2.GaussianBlur(inside, (0, 0), _LIGHT), 0.05)[..., None]
    light = np.clip(light, -_TINT, _TINT)  # more than that is hair or glasses
    wide = cv2.resize(light, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.clip(source + share * wide, 0, 255).astype(np.uint8)


def corner(window: tuple[slice, slice]) -> tuple[int, int]:
    """x and y of a window's first pixel."""
    return window[1].start, window[0].start
