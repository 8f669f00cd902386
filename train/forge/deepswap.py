"""Deep swap: another face from a decoder, as the face-swap programs put it on.

Either the own face went in and a decoder of other people gave it out, or another person's redrawn
face is laid on the landmarks. Then colours are matched, the picture is at times sharpened as a
super-resolution step does, and a soft mask that stays inside the face blends it in. A third covers
the whole face oval at full size and is then made smaller with its frame: what is left has no
border, only a face that belongs to somebody else.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from deepscan.errors import UsageError
from train.forge.align import align
from train.forge.autoencoder_pack import RedrawnFace
from train.forge.blend import BLENDS, SPACES, blend, compose, match_colour
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.degrade import grain, sharpen
from train.forge.selfblend import oval_mask, random_mask

LARGE = ("face", "inner face", "face", "inner face", "jaw and parts", "features")
_UP = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
BORDERLESS = 0.33  # share of swaps of the whole oval that are made smaller with their frame
_SMALLEST = 56  # pixels of a face that is still worth a look
_GREY = 3.0  # mean difference of channels below which a picture has no colours
_RIM = 0.04  # of the redrawn square, over which its edge fades out


def deepswap(
    face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
) -> Forged:
    """Put a decoder's face on this one: from `other`, or from this face by others' decoder.

    Raises:
        UsageError: neither face has a fitting redrawn copy.
    """
    whole = bool(rng.random() < BORDERLESS)
    mask, region = (oval_mask(face, rng), "face") if whole else random_mask(face, rng, LARGE)
    if other is not None and other.redrawn and rng.random() < 0.6:
        swapped = bool(rng.random() < 0.3)
        redrawn, owner, way = pick(other, rng, swapped), other, "laid on"
    else:
        redrawn, owner, way = pick(face, rng, swapped=True), face, "through"
    picture = truer(redrawn.picture(), owner, rng, 0.7 if redrawn.swapped else 1.0)
    if redrawn.swapped and rng.random() < 0.5:
        finer = truer(pick(owner, rng, swapped=False).picture(), owner, rng)
        picture, way = detailed(picture, finer, rng), f"{way}, detailed"
    made, mask, space, kind = put_on(
        picture, owner, face, mask, rng, (0.35, 0.2, 0.2, 0.15, 0.1),
        None if whole else (0.65, 0.2, 0.15),
    )  # fmt: skip
    tags = (
        "deepswap", region, way, redrawn.decoder, redrawn.upsampler, f"{picture.shape[0]} px",
        f"colour {space}", kind,
    )  # fmt: skip
    return Forged(made, face.image, mask, tags, reduction(face, rng) if whole else 1.0)


def put_on(
    picture: Picture,
    owner: FaceImage,
    face: FaceImage,
    mask: NDArray[np.float32],
    rng: np.random.Generator,
    colours: tuple[float, ...],
    blends: tuple[float, ...] | None,
) -> tuple[Picture, NDArray[np.float32], str, str]:
    """Blend a redrawn face of `owner` into `face`, in its colours.

    Args:
        picture: the redrawn face, square and aligned.
        owner: whose face it is.
        face: where it goes.
        mask: (H, W) float32 in [0, 1], what it may cover.
        rng: consumed by the draw.
        colours: probabilities of `SPACES`.
        blends: probabilities of `BLENDS`; None for "alpha".

    Returns:
        The picture (H, W, 3), the part of the mask that was covered, colour transfer and blending.
    """
    source, inside = enlarge(picture, owner, face, rng)
    mask = mask * np.clip(inside, 0, 1)
    space = SPACES[rng.choice(len(SPACES), p=colours)]
    source = as_grey_as(face, match_colour(source, face.image, mask, space))
    source = finish(source, rng)
    kind = "alpha" if blends is None else BLENDS[rng.choice(len(BLENDS), p=blends)]
    return compose(source, face.image, mask, kind), mask, space, kind


def reduction(face: FaceImage, rng: np.random.Generator) -> float:
    """A factor of 1/3 to 1/2 for the whole picture, or what leaves the face large enough to see."""
    x1, y1, x2, y2 = face.box
    least = _SMALLEST / max(x2 - x1, y2 - y1, 1.0)
    return min(1.0, max(1 / rng.uniform(2, 3), least))


def pick(face: FaceImage, rng: np.random.Generator, swapped: bool | None = None) -> RedrawnFace:
    """One of a face's redrawn copies; by own or others' decoders only, if asked.

    Raises:
        UsageError: there is none.
    """
    some = [one for one in face.redrawn if swapped is None or one.swapped == swapped]
    if not some:
        raise UsageError(
            "this forge needs faces that networks have redrawn: make a pack with "
            "train.forge.build_pack and give it as --pack"
        )
    return some[rng.integers(len(some))]


def truer(
    picture: Picture, owner: FaceImage, rng: np.random.Generator, most: float = 1.0
) -> Picture:
    """A redrawn copy nearer to the face it was made of, as a decoder of longer training gives it.

    Decoders get coarse structure right first and fine detail last, or never. So what the copy
    missed is given back below a drawn frequency; above it, all is the network's.

    Args:
        picture: the copy, square and aligned.
        owner: whose face went into the encoder.
        rng: consumed by the draw; a fifth of the copies stay as they are.
        most: at most this share of what was missed is given back.
    """
    side = picture.shape[0]
    share, sigma, drawn = rng.uniform(0.6, 1.0) * most, side / rng.uniform(50, 200), rng.random()
    if drawn < 0.2:
        return picture
    true = cv2.warpAffine(
        owner.image, align(owner.landmarks, side), (side, side), borderMode=cv2.BORDER_REPLICATE
    )
    missed = cv2.GaussianBlur(true.astype(np.float32) - picture, (0, 0), max(sigma, 0.4))
    return np.clip(picture + share * missed, 0, 255).astype(np.uint8)


def drawn_over(face: FaceImage, rng: np.random.Generator) -> tuple[Picture, RedrawnFace]:
    """A face's picture with one of its redrawn copies over it, and that copy.

    Raises:
        UsageError: it has none.
    """
    redrawn = pick(face, rng, swapped=bool(rng.random() < 0.2))
    picture = truer(redrawn.picture(), face, rng)
    source, inside = enlarge(picture, face, face, rng)
    return blend(source, face.image, inside), redrawn


def as_grey_as(face: FaceImage, picture: Picture) -> Picture:
    """Without colours where the face is in a picture without them."""
    some = face.image[::4, ::4].astype(np.int16)
    if float(np.ptp(some, axis=2).mean()) > _GREY:
        return picture
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def detailed(picture: Picture, finer: Picture, rng: np.random.Generator) -> Picture:
    """Fine detail of one redrawn copy of a face over the coarse look of another.

    Decoders of little training are soft; programs mend that with a second network, which draws the
    lids, lips and wrinkles anew. The second copy is such a drawing of the same face.
    """
    side = max(picture.shape[0], finer.shape[0])
    coarse, fine = (
        cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        for one in (picture, finer)
    )
    sigma = side / rng.uniform(16, 40)
    detail = fine - cv2.GaussianBlur(fine, (0, 0), sigma)
    out = cv2.GaussianBlur(coarse, (0, 0), sigma / 2) + rng.uniform(0.7, 1.1) * detail
    return np.clip(out, 0, 255).astype(np.uint8)


def enlarge(
    picture: Picture, owner: FaceImage, face: FaceImage, rng: np.random.Generator
) -> tuple[Picture, NDArray[np.float32]]:
    """Lay a redrawn face of `owner` on `face`.

    Returns:
        The picture (H, W, 3) and the weight (H, W) float32 in [0, 1] where it has something.
    """
    height, width = face.image.shape[:2]
    side = picture.shape[0]
    back = _way_back(owner, face, side, rng)
    scale = float(np.sqrt(abs(np.linalg.det(back[:, :2]))))
    if scale < 0.75:
        # Plain sampling of too many pixels would add aliases that no decoder made.
        picture = cv2.GaussianBlur(picture, (0, 0), 0.45 / max(scale, 0.05))
    elif scale > 1.1 and rng.random() < 0.35:
        picture, back = _restored(picture, rng), back @ np.diag([0.5, 0.5, 1.0])
        back[:, 2] -= 0.25 * (back[:, 0] + back[:, 1]) / 0.5
    rim = np.zeros(picture.shape[:2], np.float32)
    edge = max(2, round(_RIM * picture.shape[0]))
    rim[edge:-edge, edge:-edge] = 1
    rim = cv2.blur(rim, (edge, edge))
    source = cv2.warpAffine(
        picture, back, (width, height),
        flags=_UP[rng.integers(len(_UP))], borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    inside = cv2.warpAffine(rim, back, (width, height), flags=cv2.INTER_LINEAR)
    return source, inside


def _way_back(
    owner: FaceImage, face: FaceImage, side: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The affine map (2, 3) from the redrawn square to the picture of `face`."""
    there = align(owner.landmarks, side)
    if owner is face:
        return cv2.invertAffineTransform(there)
    points = owner.landmarks @ there[:, :2].T + there[:, 2]
    if rng.random() < 0.5:
        return cv2.invertAffineTransform(align(face.landmarks, side))
    solved = np.linalg.lstsq(np.c_[points, np.ones(5)], face.landmarks, rcond=None)[0]
    return np.ascontiguousarray(solved.T)


def _restored(picture: Picture, rng: np.random.Generator) -> Picture:
    """Twice the side, smooth where it was smooth and sharp at edges, as restoration models give."""
    side = picture.shape[0]
    out = cv2.resize(picture, (2 * side, 2 * side), interpolation=cv2.INTER_CUBIC)
    out = cv2.bilateralFilter(out, 5, rng.uniform(8, 30), 2)
    return sharpen(out, rng.uniform(0.6, 2.0))


def finish(picture: Picture, rng: np.random.Generator) -> Picture:
    """Finish a decoder's picture as swap programs do: unchanged, sharpened, or with grain."""
    draw = rng.random()
    if draw < 0.35:
        picture = sharpen(picture, rng.uniform(0.2, 1.5))
    elif draw < 0.45:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 0.9))
    if rng.random() < 0.25:
        picture = grain(picture, rng, rng.uniform(0.8, 4), rng.uniform(1, 2))
    return picture
