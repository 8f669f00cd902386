"""Smooth warps of a batch: thin-plate splines through points that move.

What an expression moves is known at a few points; between them the picture should bend as little
as it can. That is the thin-plate spline (Bookstein 1989): one linear system for each picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from train.forge.batched.faces import pixels, sample

_TINY = 1e-9  # on the diagonal: points that fall together or on a line stay solvable


@dataclass(frozen=True, slots=True)
class Spline:
    """One smooth map of the plane for each picture of a batch.

    `knots` (B, n, 2) and `weights` (B, n + 3, 2) are in units of `scale` (B, 1, 1) pixels round
    `centre` (B, 1, 2); the weights give the displacement, so a spline of zeros is the identity.
    """

    knots: Tensor
    weights: Tensor
    centre: Tensor
    scale: Tensor

    def displacement(self, places: Tensor) -> Tensor:
        """How far places (B, m, 2) in pixels are moved: (B, m, 2) pixels."""
        at = (places - self.centre) / self.scale
        return (_terms(at, self.knots) @ self.weights) * self.scale

    def __call__(self, places: Tensor) -> Tensor:
        """Where places (B, m, 2) in pixels go: (B, m, 2) pixels."""
        return places + self.displacement(places)


def spline(source: Tensor, target: Tensor, stiffness: float = 0.0) -> Spline:
    """The thin-plate splines that take points to others.

    Args:
        source: (B, n, 2) pixels, n >= 3. Where two of them fall together and their targets do not,
            the spline goes between the two.
        target: (B, n, 2) pixels.
        stiffness: 0 meets every point; more bends less and comes nearer to one affine map. The
            unit has no dimension: about 0.1 is plain to see.

    Raises:
        ValueError: the shapes do not fit, there are fewer than three points, or the stiffness is
            below 0.
    """
    if source.ndim != 3 or source.shape != target.shape or source.shape[2] != 2:
        raise ValueError(
            f"a spline needs two sets of points (B, n, 2), not {tuple(source.shape)} "
            f"and {tuple(target.shape)}"
        )
    batch, count, _ = source.shape
    if count < 3:
        raise ValueError(f"a spline needs three points at least, not {count}")
    if stiffness < 0:
        raise ValueError(f"the stiffness is {stiffness}: it cannot be below 0")
    # The kernel's matrix is far from well conditioned: single precision would lose pixels.
    wide = torch.float32 if source.device.type == "mps" else torch.float64
    from_, to = source.to(wide), target.to(wide)
    centre = from_.mean(1, keepdim=True)
    scale = (from_ - centre).square().sum(2).mean(1).sqrt().clamp(min=1e-3)[:, None, None]
    knots = (from_ - centre) / scale
    terms = _terms(knots, knots)
    tiny = max(_TINY, 1e-6 if wide is torch.float32 else 0.0)
    ridge = torch.cat([
        torch.full((count,), stiffness + tiny, dtype=wide, device=source.device),
        torch.full((3,), -tiny, dtype=wide, device=source.device),
    ])  # fmt: skip
    affine = torch.cat([terms[:, :, count:].transpose(1, 2), knots.new_zeros(batch, 3, 3)], 2)
    system = torch.cat([terms, affine], 1) + torch.diag(ridge)
    wanted = torch.cat([(to - from_) / scale, knots.new_zeros(batch, 3, 2)], 1)
    # Without the check of errors, which would make the host wait; the ridge keeps it regular.
    weights, _ = torch.linalg.solve_ex(system, wanted, check_errors=False)
    return Spline(
        knots.to(source.dtype),
        weights.to(source.dtype),
        centre.to(source.dtype),
        scale.to(source.dtype),
    )


def _terms(places: Tensor, knots: Tensor) -> Tensor:
    """r^2 log r^2 from every place to every knot, then 1, x, y: (B, m, n + 3)."""
    # Not torch.cdist: by way of a matrix product it loses what is small beside what is far.
    apart = (places[:, :, None] - knots[:, None]).square().sum(3)
    kernel = torch.xlogy(apart, apart)
    return torch.cat([kernel, torch.ones_like(places[..., :1]), places], dim=2)


def displacements(curve: Spline, height: int, width: int, step: int = 4) -> Tensor:
    """A spline's displacement at every pixel: (B, height, width, 2) pixels.

    Args:
        curve: of a batch.
        height: of the field.
        width: of the field.
        step: it is computed once in so many pixels each way and enlarged bilinearly.

    Raises:
        ValueError: the step is below 1.
    """
    if step < 1:
        raise ValueError(f"a step of {step} pixels: it must be 1 or more")
    rows, columns = (-(-side // step) + 2 for side in (height, width))
    # One cell more on each side: beyond the outermost centres nothing could be interpolated.
    centres = (pixels(rows, columns, curve.knots.device) - 1) * step
    flat = centres.reshape(1, -1, 2).expand(len(curve.knots), -1, -1)
    coarse = curve.displacement(flat).reshape(-1, rows, columns, 2).permute(0, 3, 1, 2)
    fine = F.interpolate(coarse, scale_factor=step, mode="bilinear", align_corners=False)
    return fine[:, :, step : step + height, step : step + width].permute(0, 2, 3, 1)


def bend(
    images: Tensor,
    source: Tensor,
    target: Tensor,
    *,
    stiffness: float = 0.0,
    step: int = 4,
    mode: str = "bicubic",
    beyond: str = "reflection",
) -> Tensor:
    """Warp pictures smoothly so that what lies at some points comes to others.

    Args:
        images: (B, C, H, W).
        source: (B, n, 2) points of the pictures, pixels.
        target: (B, n, 2) where they shall be.
        stiffness: as for `spline`.
        step: as for `displacements`.
        mode: as for `sample`.
        beyond: as for `sample`.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: as for `spline` and `displacements`.
    """
    height, width = images.shape[-2:]
    back = displacements(spline(target, source, stiffness), height, width, step)
    return sample(images, pixels(height, width, images.device) + back, mode=mode, beyond=beyond)
