"""Mouth: only the mouth made anew, as lip-sync programs make it, under an untouched upper face.

The mesh's lips get another person's shape, or open, close, widen or pucker; chin and cheeks give
way. What opens is filled: with another's open mouth, or teeth before the dark. The lower face comes
back at the small size of such networks (96 pixels a face in Wav2Lip), soft or sharpened.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge.artefacts import smooth
from train.forge.blend import compose
from train.forge.contract import FaceImage, Forged
from train.forge.deepswap import as_grey_as
from train.forge.degrade import Picture, sharpen
from train.forge.mesh import (
    JAW,
    LIPS,
    MOUTH,
    MOUTH_HOLE,
    OPEN,
    Mesh,
    fill,
    hull,
    mean_mesh,
    opening,
    openness,
)
from train.forge.meshswap import corner, laid_on, relit, warped
from train.forge.shape import Points, surroundings

_SIDES = (64, 80, 96, 96, 96, 128, 160, 256)  # pixels that networks draw a face with
_LEAST = 0.09  # change of openness below which the mouth is moved by a draw as well
_INNER = tuple(sorted({*MOUTH_HOLE[0], *MOUTH_HOLE[1]}))
LIPS_AND_RIMS = LIPS + _INNER


def mouth(face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None) -> Forged:
    """Give a face another mouth."""
    before = face.dense()
    shown = other if other is not None and rng.random() < 0.6 else None
    after = spoken(before, None if shown is None else shown.dense(), rng)
    height, width = face.image.shape[:2]
    window = surroundings(np.concatenate([before, after]), height, width, margin=16)
    # Another's skin and lips at times: networks draw those of the people they have seen.
    anew = other is not None and other.mesh is not None and rng.random() < 0.3
    texture = redrawn(face, other, after, window, rng, anew=anew)
    region, weight = _cover(face, before, after, window, rng)
    if anew:  # its contrast would be that of lips against beards: only its light is matched
        across = float(np.ptp(before[:, 0]))
        texture = relit(texture, face.image[window], weight, across, rng.uniform(0.8, 1.0))
    texture, side = regenerated(as_grey_as(face, texture), face, rng)
    source, mask = face.image.copy(), np.zeros(face.image.shape[:2], np.float32)
    source[window], mask[window] = texture, weight
    kind = ("alpha", "laplace", "poisson")[rng.choice(3, p=(0.75, 0.15, 0.1))]
    made = compose(source, face.image, mask, kind)
    how = "another's" if anew else "own"
    return Forged(made, face.image, mask, ("mouth", region, how, side, kind))


def spoken(before: Mesh, other: Mesh | None, rng: np.random.Generator) -> Mesh:
    """The mesh with the mouth of `other`, or opened, closed, widened or puckered by a draw."""
    lips = list(LIPS_AND_RIMS)
    shift = np.zeros((len(before), 2), np.float32)
    if other is not None:
        apart = (laid_on(other, before) - before[:, :2])[lips]
        shift[lips] = rng.uniform(0.7, 1.1) * (apart - apart.mean(0))
    width = max(float(np.hypot(*(before[308] - before[78])[:2])), 1.0)
    changed = before[:, :2] + shift
    if abs(openness(changed) - openness(before)) < _LEAST:
        shift += _drawn_shift(before, width, rng)
    return bent(before, shift, LIPS_AND_RIMS, chin=0.45)


def _drawn_shift(before: Mesh, width: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Lips that open or close, and become wider or narrower: shifts (478, 2) of the lips."""
    shift = np.zeros((len(before), 2), np.float32)
    down, along = before[152, :2] - before[168, :2], before[308, :2] - before[78, :2]
    down, along = (way / max(float(np.hypot(*way)), 1e-3) for way in (down, along))
    now = openness(before)
    if now < OPEN:
        gap = rng.uniform(0.12, 0.42)
    elif rng.random() < 0.8:
        gap = -now * rng.uniform(0.6, 1.0)
    else:  # teeth that are stretched too much would be believed by nobody
        gap = now * rng.uniform(0.4, 0.7)
    upper, lower = (list(rim[1:-1]) for rim in MOUTH_HOLE)
    profile = np.sin(np.linspace(0, np.pi, len(upper) + 2))[1:-1].astype(np.float32)[:, None]
    shift[lower] += 0.75 * gap * width * profile * down
    shift[upper] -= 0.25 * gap * width * profile * down
    # By rims: closed lips touch, and the nearest point would be the other lip's.
    for outer, rim in ((LIPS[1:8], upper), (LIPS[9:], lower)):
        apart = ((before[list(outer), None, :2] - before[rim, :2]) ** 2).sum(2)
        shift[list(outer)] = shift[np.array(rim)[apart.argmin(1)]]
    lips = list(LIPS_AND_RIMS)
    aside = (before[lips, :2] - before[lips, :2].mean(0)) @ along
    wider = rng.uniform(-0.3, 0.0) if gap > 0 else rng.uniform(-0.15, 0.12)
    shift[lips] += (wider * aside[:, None] * along).astype(np.float32)
    return shift


def bent(
    before: Mesh,
    shift: NDArray[np.float32],
    moved: tuple[int, ...],
    *,
    reach: tuple[float, float] = (0.28, 0.45),
    chin: float = 0.0,
) -> Mesh:
    """A mesh whose points follow the nearest of some that are moved, the less the farther.

    Args:
        before: the mesh.
        shift: (478, 2) in pixels; only rows in `moved` count.
        moved: indices of points that move by their shift.
        reach: how far above and below the rest follows, in distances of the eyes.
        chin: share of the lower lip's way down that the jaw goes too.
    """
    nearest, falloff = _followers(moved, reach)
    after = before.copy()
    after[:, :2] += falloff[:, None] * shift[nearest]
    drop = shift[17]
    if chin > 0 and float(drop @ (before[152, :2] - before[168, :2])) > 0:
        after[:, :2] += chin * _jaw()[:, None] * (1 - falloff)[:, None] * drop
    return after


@cache
def _followers(
    moved: tuple[int, ...], reach: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each point the nearest moved one, and how much of its way it goes, from 1 to 0."""
    points = mean_mesh()[0][:, :2]
    some = np.array(moved)
    apart = np.hypot(*(points[:, None] - points[some][None]).transpose(2, 0, 1))
    far = apart.min(1) / np.where(points[:, 1] > points[some, 1].mean(), reach[1], reach[0])
    falloff = np.cos(np.clip(far, 0, 1) * np.pi / 2) ** 2
    falloff[some] = 1
    return some[apart.argmin(1)], falloff.astype(np.float32)


@cache
def _jaw() -> NDArray[np.float32]:
    """1 at the chin, 0 at the ears and above the mouth: (478,)."""
    points = mean_mesh()[0][:, :2]
    low, high = points[152, 1], points[13, 1]
    share = np.clip((points[:, 1] - high) / (low - high), 0, 1)
    share = share * np.clip(1.3 - np.abs(points[:, 0] - points[152, 0]) / 0.7, 0, 1)
    return share.astype(np.float32)


def redrawn(
    face: FaceImage,
    other: FaceImage | None,
    after: Mesh,
    window: tuple[slice, slice],
    rng: np.random.Generator,
    *,
    anew: bool = False,
) -> Picture:
    """The window's face with its features where `after` has them, its mouth filled if it opened.

    Args:
        face: whose face.
        other: whose open mouth may fill it.
        after: the mesh to be seen, in pixels of the whole picture.
        window: rows and columns.
        rng: consumed by the draw.
        anew: the other's texture, not the face's own.
    """
    before, background = face.dense(), face.image[window]
    across = max(float(np.ptp(before[:, 0])), 1.0)
    owner = other if anew and other is not None else face
    texture, weight = warped(owner, after, background, window, across)
    blended = background + (texture.astype(np.float32) - background) * weight[..., None]
    texture = np.clip(np.round(blended), 0, 255).astype(np.uint8)
    if openness(owner.dense()) > OPEN or openness(after) <= OPEN / 2:
        return texture
    hole = fill([opening(after) - corner(window)], *texture.shape[:2])
    soft = cv2.GaussianBlur(hole, (0, 0), max(0.006 * across, 0.4))[..., None]
    if other is not None and other.mesh is not None and openness(other.mesh) > OPEN:
        inside, _ = warped(other, after, background, window, across)
        light = face.image[window].mean() / max(float(other.image.mean()), 1.0)
        filled = inside.astype(np.float32) * np.clip(light, 0.6, 1.3)
    else:
        filled = _cavity(texture, after - np.array([*corner(window), 0], np.float32), across, rng)
    return np.clip(texture + (filled - texture) * soft, 0, 255).astype(np.uint8)


def _cavity(
    texture: Picture, after: Mesh, across: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The inside of a mouth: dark, with teeth behind the upper lip and at times the lower."""
    height, width = texture.shape[:2]
    x, y = np.clip(after[[50, 280, 18], :2].round().astype(int), 0, (width - 1, height - 1)).T
    skin = texture[y, x].mean(0).astype(np.float32)
    dark = skin * np.array((0.40, 0.24, 0.22), np.float32) * np.float32(rng.uniform(0.9, 1.6))
    out = np.broadcast_to(dark, texture.shape).astype(np.float32).copy()
    rims = [after[list(rim), :2] for rim in MOUTH_HOLE]
    if rng.random() < 0.3:
        rims.reverse()  # the lower teeth
    deep = rims[0] + rng.uniform(0.25, 0.65) * (rims[1] - rims[0])
    teeth = fill([np.concatenate([rims[0], deep[::-1]])], height, width)
    teeth = cv2.GaussianBlur(teeth, (0, 0), max(0.006 * across, 0.4))[..., None]
    bright = min(float(skin.mean()) * rng.uniform(0.75, 1.2), 230.0)
    tooth = np.array((1.0, 0.97, 0.9), np.float32) * np.float32(bright)
    return out + (tooth - out) * (teeth * (rng.random() < 0.8))


def regenerated(texture: Picture, face: FaceImage, rng: np.random.Generator) -> tuple[Picture, str]:
    """A picture at the size that a network draws faces with, and back; and that size in words."""
    height, width = texture.shape[:2]
    x1, y1, x2, y2 = face.box
    side = int(_SIDES[rng.integers(len(_SIDES))])
    factor = min(side / max(x2 - x1, y2 - y1, 1.0), rng.uniform(0.6, 0.95))
    small = (max(8, round(width * factor)), max(8, round(height * factor)))
    work = cv2.resize(texture, small, interpolation=cv2.INTER_AREA)
    if rng.random() < 0.4:
        work = smooth(work, rng, rng.uniform(0.3, 1.0))
    kernel = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(2)]
    out = cv2.resize(work, (width, height), interpolation=kernel)
    if rng.random() < 0.4:
        out = sharpen(out, rng.uniform(0.3, 1.1))
    if rng.random() < 0.4:
        tint = rng.uniform(-6, 6, 3)
        out = np.clip(out + tint, 0, 255).astype(np.uint8)
    return out, f"{side} px"


def _cover(
    face: FaceImage,
    before: Mesh,
    after: Mesh,
    window: tuple[slice, slice],
    rng: np.random.Generator,
) -> tuple[str, NDArray[np.float32]]:
    """The soft mask (h, w) of a window below the nose: the mouth, the lower face, or a rectangle.

    Returns:
        A region's name, and the mask.
    """
    across = max(float(np.ptp(before[:, 0])), 1.0)
    height, width = face.image[window].shape[:2]
    both = np.concatenate([before[:, :2], after[:, :2]]).astype(float) - corner(window)
    draw = rng.random()
    if draw < 0.3:
        region, outline = "mouth", _around(both, MOUTH, rng.uniform(1.1, 1.35))
    elif draw < 0.8:
        region, outline = "lower face", _around(both, (*JAW[2:-2], 98, 327), rng.uniform(0.92, 1.0))
    else:  # programs that paste their whole square
        x1, _, x2, y2 = np.array(face.box) - np.tile(corner(window), 2)
        top = float(before[[98, 327], 1].mean()) - corner(window)[1]
        grow = rng.uniform(-0.06, 0.02) * (x2 - x1)
        region = "lower face"
        outline = np.array(
            [(x1 - grow, top), (x2 + grow, top), (x2 + grow, y2), (x1 - grow, y2)], np.float32
        )
    feather = max(rng.uniform(0.006, 0.035) * across, 0.4)
    drawn = fill([outline], height, width).astype(np.uint8)
    reach = 2 * round(feather) + 1
    held = cv2.erode(drawn, np.ones((reach, reach), np.uint8), borderValue=0)
    soft = cv2.GaussianBlur(held.astype(np.float32), (0, 0), feather)
    return region, np.minimum(soft, np.float32(1))


def _around(both: Points, group: tuple[int, ...], grow: float) -> NDArray[np.float32]:
    """The hull of a group of points in two meshes (956, 2), made larger about its middle."""
    some = hull(both, [*group, *(index + len(both) // 2 for index in group)])
    middle = some.mean(0)
    out: NDArray[np.float32] = (middle + grow * (some - middle)).astype(np.float32)
    return out
