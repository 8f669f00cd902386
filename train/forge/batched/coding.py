"""Coding and decoding for whole batches beside the network.

Real encoders do not run there: JPEG is computed as it is defined, video coding is imitated (see
`video` for what that lacks). Call it outside of autocast: a bfloat16 has fewer digits than a
picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from train.forge.batched.faces import per_picture, uniform
from train.forge.batched.lots import draw_lots, put
from train.forge.batched.separable import luma_of, rounded

_VIDEO = 0.72  # of all coding; the CPU's share with WebP, which is VP8 within a picture
_INTER = 0.25  # of video coding

# JPEG standard (ITU-T T.81), Annex K.1: luma and chroma.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *[99] * 32,
)  # fmt: skip


@cache
def _cosines(side: int, device: torch.device) -> Tensor:
    """The orthonormal DCT-II of 8 points, or two of 4 side by side: (8, 8)."""
    at = torch.arange(side, dtype=torch.float64)
    wave = torch.cos(torch.pi / side * (at + 0.5) * at[:, None]) * (2 / side) ** 0.5
    wave[0] /= 2**0.5
    return torch.kron(torch.eye(8 // side, dtype=torch.float64), wave).float().to(device)


@cache
def _annex_k(device: torch.device) -> tuple[Tensor, Tensor]:
    luma, chroma = (torch.tensor(table, dtype=torch.float32) for table in (_LUMA, _CHROMA))
    return luma.reshape(8, 8).to(device), chroma.reshape(8, 8).to(device)


def _quantised(plane: Tensor, transform: Tensor, steps: Tensor, rounding: Tensor) -> Tensor:
    """Transform 8x8 blocks, quantise, and transform back.

    Args:
        plane: (N, C, H, W) about 0, sides multiples of 8.
        transform: (N or 1, 8, 8) orthonormal.
        steps: (N, 8, 8) of the quantiser.
        rounding: (N or 1, 8, 8); 0.5 rounds to the nearest, less leaves a dead zone about 0.
    """
    count, channels, height, width = plane.shape
    transform = transform.expand(count, 8, 8)
    turned = transform[:, None, None]
    rows = (turned @ plane.reshape(count, channels, height // 8, 8, width)).reshape(count, -1, 8)
    found = (rows @ transform.mT).reshape(count, channels, height // 8, 8, width // 8, 8)
    steps, rounding = (table[:, None, None, :, None, :] for table in (steps, rounding))
    kept = torch.sign(found) * torch.floor(found.abs() / steps + rounding) * steps
    back = (kept.reshape(count, -1, 8) @ transform).reshape(rows.shape)
    back = turned.mT @ back.reshape(count, channels, height // 8, 8, width)
    return back.reshape(plane.shape)


def _yuv(images: Tensor, limited: bool) -> tuple[Tensor, Tensor]:
    """Luma (N, 1, H, W) and 4:2:0 chroma (N, 2, H / 2, W / 2) about 0, in whole levels (BT.601)."""
    levels = (images * 255).round()
    luma = luma_of(levels)
    chroma = torch.cat([(levels[:, 2:] - luma) / 1.772, (levels[:, :1] - luma) / 1.402], dim=1)
    if limited:
        luma, chroma = luma * (219 / 255) + 16, chroma * (224 / 255)
    chroma = F.avg_pool2d(chroma.round().clamp(-128, 127), 2).round()
    return luma.round() - 128, chroma


def _rgb(luma: Tensor, chroma: Tensor, limited: bool) -> Tensor:
    """The way back from `_yuv`; in [0, 1], whole levels."""
    luma = luma.round().clamp(-128, 127) + 128
    chroma = chroma.round().clamp(-128, 127)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False).round()
    if limited:
        luma, chroma = (luma - 16) * (255 / 219), chroma * (255 / 224)
    blue, red = chroma[:, :1], chroma[:, 1:]
    green = luma - (0.299 * 1.402 * red + 0.114 * 1.772 * blue) / 0.587
    return rounded(torch.cat([luma + 1.402 * red, green, luma + 1.772 * blue], dim=1) / 255)


@torch.no_grad()
def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Encode as baseline JPEG (4:2:0, the tables of Annex K scaled as libjpeg does) and decode.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        quality: (B,) from 1 to 100.

    Returns:
        (B, 3, H, W) in [0, 1], whole levels of 8 bits.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate")
    quality = quality.float().clamp(1, 100)
    scale = torch.where(quality < 50, torch.floor(5000 / quality), 200 - 2 * quality)
    transform = _cosines(8, images.device)[None]
    half = torch.full_like(transform, 0.5)
    planes = []
    for plane, table in zip(_yuv(padded, False), _annex_k(images.device), strict=True):
        steps = torch.floor((table * scale[:, None, None] + 50) / 100).clamp(1, 255)
        planes.append(_quantised(plane, transform, steps, half))
    return _rgb(planes[0], planes[1], False)[..., :height, :width]


@torch.no_grad()
def video(images: Tensor, harm: Tensor, generator: torch.Generator) -> Tensor:
    """Something like a picture of a coded video. No encoder: it stands in for real ones.

    What it has of H.264, MPEG-4 and MPEG-2: limited range 4:2:0, transforms of 4x4 or 8x8 points on
    a grid of any phase, flat or ramped quantisers with a dead zone, for some pictures the residual
    of a prediction from a coded picture with another grid, and for most the smoothing of block
    borders. What it lacks: prediction within a picture and all its modes, motion that is searched,
    rate-distortion decisions (a real encoder drops a detail here and keeps it there), rate control,
    adaptive quantisers, long chains of predictions, real chroma siting. Its errors are of the right
    kind and size, but where an encoder would put them it cannot know: a network that must meet true
    codecs should also see the pairs of `train.forge.degrade`, which encodes.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        harm: (B,) in [0, 1]; about CRF 16 (0) to 36 (1) of H.264 by PSNR.
        generator: on the device of the images.

    Returns:
        (B, 3, H, W) in [0, 1], whole levels of 8 bits.
    """
    return video_pairs(images[:, None], harm, generator)[:, 0]


@dataclass(frozen=True, slots=True)
class _Coder:
    """One video coder for each of N pictures."""

    quantiser: Tensor  # (N,) on the scale of H.264
    small: Tensor  # (N,) bool: 4x4 instead of 8x8
    ramp: Tensor  # (N,) how much coarser the finest waves are quantised
    smooths: Tensor  # (N,) bool: block borders

    def __getitem__(self, index: Tensor) -> _Coder:
        return _Coder(
            self.quantiser[index], self.small[index], self.ramp[index], self.smooths[index]
        )


def _coder(harm: Tensor, generator: torch.Generator) -> _Coder:
    count = len(harm)
    modern = uniform(generator, count) < 0.62  # the CPU's share of H.264 and HEVC
    small = modern & (uniform(generator, count) < 0.5)
    ramp = torch.where(modern, 0.0, uniform(generator, count))
    return _Coder(18.5 + 18 * harm, small, ramp, modern)


def video_pairs(rows: Tensor, harm: Tensor, generator: torch.Generator) -> Tensor:
    """As `video` for (n, m, 3, H, W): all m pictures of a row meet one and the same coder."""
    count, many = rows.shape[:2]
    coder = _coder(harm, generator)
    index, numbers = draw_lots(generator, count).between(0, _INTER)
    phases = [
        torch.floor(uniform(generator, 2 * size, 0, 16)).long().reshape(size, 2)
        for size in (count, len(index))
    ]
    each = torch.arange(count, device=rows.device).repeat_interleave(many)
    made = _coded(rows.flatten(0, 1), None, coder[each], phases[0].repeat_interleave(many, 0))
    made = made.reshape(rows.shape)
    again = _coded(
        rows[index].flatten(0, 1),
        made[index].flatten(0, 1),
        coder[index.repeat_interleave(many)],
        phases[1].repeat_interleave(many, 0),
    )
    return put(made, index, numbers < _INTER, again)


def _coded(images: Tensor, past: Tensor | None, coder: _Coder, phase: Tensor) -> Tensor:
    """Code pictures by themselves, or as what they differ by from the `past`."""
    height, width = images.shape[2:]
    tall, wide = (16 * ceil((side + 15) / 16) for side in (height, width))
    planes = list(_yuv(_moved(images, -phase, tall, wide), True))
    past_planes = None if past is None else _yuv(_moved(past, -phase, tall, wide), True)
    four, eight = (_cosines(side, images.device) for side in (4, 8))
    transform = torch.where(coder.small[:, None, None], four, eight)
    order = torch.arange(8, device=images.device)
    wave = torch.where(coder.small[:, None], order % 4 * 2, order)  # (N, 8)
    wave = (wave[:, :, None] + wave[:, None]) / 14
    # An encoder rounds at a third within a picture and at a sixth between pictures; means are kept.
    rounding = torch.where((wave == 0) & (past is None), 0.5, 1 / 3 if past is None else 1 / 6)
    for i in range(2):
        # Colour is never quantised as coarsely as light (H.264, table 8-15).
        spared = 0.0 if i == 0 else 0.4 * (coder.quantiser - 30).clamp(min=0)
        quantiser = coder.quantiser - spared
        step = 0.625 * torch.exp2(quantiser / 6)
        steps = step[:, None, None] * (1 + coder.ramp[:, None, None] * wave)
        # Means are predicted from neighbours, or have a fine quantiser of their own: planes of one
        # colour stay whole.
        steps = torch.where(wave == 0, steps.clamp(max=8), steps)
        before = 0.0 if past_planes is None else past_planes[i]
        found = before + _quantised(planes[i] - before, transform, steps, rounding)
        planes[i] = _without_seams(found, coder, quantiser)
    return _moved(_rgb(planes[0], planes[1], True), phase, height, width)


def _moved(images: Tensor, shift: Tensor, height: int, width: int) -> Tensor:
    """Cut (height, width) at a corner (N, 2) y, x of its own; the border is repeated outside."""
    count, channels = images.shape[:2]
    y, x = (
        (torch.arange(side, device=images.device) + shift[:, i, None]).clamp(0, most - 1)
        for i, (side, most) in enumerate(zip((height, width), images.shape[2:], strict=True))
    )
    rows = images.gather(2, y[:, None, :, None].expand(-1, channels, -1, images.shape[3]))
    return rows.gather(3, x[:, None, None].expand(count, channels, height, width))


def _without_seams(plane: Tensor, coder: _Coder, quantiser: Tensor) -> Tensor:
    """The ordinary filter of H.264 over the borders of blocks, its tables as formulas."""
    quantiser = per_picture(quantiser)
    alpha = 0.8 * (torch.exp2(quantiser / 6) - 1)
    beta = (0.5 * quantiser - 7).clamp(min=0)
    limit = 0.5 + 0.1 * torch.exp2(quantiser / 6)
    smooths, every = per_picture(coder.smooths), per_picture(torch.where(coder.small, 4, 8))
    for _ in range(2):  # across, and then down
        at = torch.arange(plane.shape[3], device=plane.device)
        far, near = plane.roll(2, 3), plane.roll(1, 3)
        behind = plane.roll(-1, 3)
        seam = smooths & (at % every == 0) & (at > 0) & ((plane - near).abs() < alpha)
        seam = seam & ((far - near).abs() < beta) & ((behind - plane).abs() < beta)
        change = ((4 * (plane - near) + far - behind) / 8).clamp(-limit, limit)
        change = torch.where(seam, change, 0)
        plane = (plane - change + change.roll(-1, 3)).transpose(2, 3)
    return plane


def code(
    pairs: Tensor,
    generator: torch.Generator,
    harm: Tensor,
    shares: Tensor,
    most: float,
) -> Tensor:
    """Code each pair with the probability of `shares` (B,), at most `most`, by a drawn codec."""
    lots = draw_lots(generator, len(pairs))
    index, numbers = lots.between(0, _VIDEO * most)
    made = video_pairs(pairs[index], harm[index], generator)
    out = put(pairs, index, numbers < _VIDEO * shares[index], made)
    index, numbers = lots.between(0, most)
    share = shares[index]
    quality = (97 - 57 * harm[index]).round().repeat_interleave(2)
    made = jpeg(pairs[index].flatten(0, 1), quality)
    return put(out, index, (numbers >= _VIDEO * share) & (numbers < share), made)
