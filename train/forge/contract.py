"""The contract of a forge: a face, its manipulated picture, and the function between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from train.forge.autoencoder_pack import RedrawnFace
from train.forge.mesh import Mesh, place_mesh
from train.forge.shape import Points

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class FaceImage:
    """A picture with one main face: (H, W, 3) uint8 RGB, five landmarks (5, 2), face box xyxy.

    `redrawn` are this face's copies from a pack, which some forges need; see
    train.forge.autoencoder_pack. `mesh` are dense landmarks (478, 3) float32 in pixels of the
    picture, see train.forge.mesh; None where they were not found or disagree with the five.
    """

    image: Picture
    landmarks: Points
    box: tuple[float, float, float, float]
    redrawn: tuple[RedrawnFace, ...] = ()
    mesh: Mesh | None = None

    def dense(self) -> Mesh:
        """The face's mesh, or where it has none the mean mesh, placed by the five landmarks."""
        return place_mesh(self.landmarks) if self.mesh is None else self.mesh


@dataclass(frozen=True, slots=True)
class Forged:
    """A manipulated picture, the untouched picture that belongs to it, and where they differ.

    `mask` is (H, W) float32 in [0, 1], the blending weight before any transparency; `tags` say how
    it was made. `reduced` is the factor, at most 1, by which both pictures are to be made smaller
    before anything codes them: forged at full size, seen at less, a face shows no border.
    """

    image: Picture
    original: Picture
    mask: NDArray[np.float32]
    tags: tuple[str, ...]
    reduced: float = 1.0


class Forge(Protocol):
    """A manipulation. `other` is another person's face, for forges that need one.

    All chance comes from `rng`; the picture given is not changed.
    """

    def __call__(
        self, face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
    ) -> Forged: ...
