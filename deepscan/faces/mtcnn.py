"""MTCNN by facenet-pytorch behind the face detector contract.

Most of MTCNN's time goes into its own resizing of the full frame, so the frame is shrunk once,
until the smallest face that is wanted is just large enough to be found. Its traps are dealt with
here: tiny pictures, boxes outside the picture, None and object arrays, and pictures made to exhaust
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deepscan.errors import EngineError, UsageError
from deepscan.faces.detector import Detection
from deepscan.models.torchvision_compat import import_torchvision
from deepscan.types import Box, Face, Image

import_torchvision()

from facenet_pytorch import MTCNN  # noqa: E402

SMALLEST = 20  # pixels left of the smallest wanted face: recall of 40 px faces 1.0, at 16 px 0.91
FACTOR = 0.709  # between two levels of the pyramid: halves the area
THRESHOLDS = (0.6, 0.7, 0.7)  # of P-Net, R-Net and O-Net, as trained
CANDIDATES = 2000  # most P-Net cells that go on from one level; a crowd of 67 faces has 1,420
SIDE = 64  # pixels; smaller pictures are padded, MTCNN fails below 20


class MTCNNDetector:
    """Finds faces from `min_face` pixels up. Deterministic; on torch's own number of threads."""

    def __init__(
        self,
        min_face: int,
        min_confidence: float,
        max_faces: int,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        """
        Args:
            min_face: side of the smallest face that has to be found, frame pixels, at least 12.
            min_confidence: faces below it are left out, 0 to 1.
            max_faces: most faces of one picture.
            device: where the networks run.

        Raises:
            UsageError: a number is out of range, or there is no such device.
        """
        if min_face < 12:
            raise UsageError(f"min_face={min_face}: MTCNN finds faces from 12 pixels; give >= 12")
        if not 0 <= min_confidence <= 1:
            raise UsageError(f"min_confidence={min_confidence}: give a number from 0 to 1")
        if max_faces < 1:
            raise UsageError(f"max_faces={max_faces}: give at least 1")
        if device not in ("cpu", "cuda"):
            raise UsageError(f"device={device} for the face detector; there are cpu and cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("device=cuda for the face detector, but torch finds no GPU; use cpu")
        self._min_confidence = min_confidence
        self._max_faces = max_faces
        self._scale = min(1.0, SMALLEST / min_face)
        self._network = MTCNN(
            keep_all=True,
            post_process=False,
            min_face_size=min_face * self._scale,
            factor=FACTOR,
            thresholds=list(THRESHOLDS),
            device=torch.device(device),
        ).eval()
        for net in (self._network.pnet, self._network.rnet, self._network.onet):
            # torch's pooling is vectorised for this layout only: a search takes half the time.
            net.to(memory_format=torch.channels_last)
        # Pictures made of faces, or of what P-Net takes for faces, would cost half a minute each.
        self._pnet = _Capped(self._network.pnet, THRESHOLDS[0], CANDIDATES)
        self._network.pnet = self._pnet

    def detect(self, image: Image) -> Detection:
        """Look at one (H, W, 3) uint8 RGB picture of any size, also smaller than a face.

        Raises:
            UsageError: the array is no such picture.
            EngineError: MTCNN failed on it.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(
                f"a face detector takes (H, W, 3) uint8, got {image.shape} {image.dtype}"
            )
        height, width = image.shape[:2]
        if height == 0 or width == 0:
            return Detection(())
        with _one_thread():
            small = _shrink(image, self._scale)
            self._pnet.hit = False
            found = self._look(small)
        scale_x, scale_y = width / small.shape[1], height / small.shape[0]

        faces = []
        for corners, confidence, points in found:
            x1, x2 = np.clip(corners[[0, 2]] * scale_x, 0, width).tolist()
            y1, y2 = np.clip(corners[[1, 3]] * scale_y, 0, height).tolist()
            if confidence < self._min_confidence or x2 <= x1 or (x2 - x1) * (y2 - y1) < 1:
                continue
            landmarks = tuple(
                (min(max(x * scale_x, 0.0), width), min(max(y * scale_y, 0.0), height))
                for x, y in points.tolist()
            )
            faces.append(Face(Box(x1, y1, x2, y2), min(confidence, 1.0), landmarks))
        faces.sort(key=lambda face: (-face.confidence, -face.box.area, face.box.x1, face.box.y1))
        truncated = len(faces) > self._max_faces or self._pnet.hit
        return Detection(tuple(faces[: self._max_faces]), truncated)

    def close(self) -> None:
        """Give back the device."""
        self._network.to("cpu")

    def _look(self, image: Image) -> list[tuple[NDArray[np.float64], float, NDArray[np.float64]]]:
        """Run MTCNN: (4,) corners, confidence and (5, 2) landmarks of each face."""
        # A candidate that lies wholly outside the picture breaks MTCNN's bookkeeping. It needs a
        # face at the very edge, so a wide border is the second try.
        border = 0
        try:
            boxes, confidences, points = self._network.detect(
                _planar(_pad(image, 0)), landmarks=True
            )
        except (IndexError, ValueError, RuntimeError):
            border = max(image.shape[:2]) // 2
            try:
                boxes, confidences, points = self._network.detect(
                    _planar(_pad(image, border)), landmarks=True
                )
            except (IndexError, ValueError, RuntimeError) as error:
                raise EngineError(
                    f"MTCNN failed on a picture of {image.shape[1]}x{image.shape[0]}: {error}"
                ) from error
        if boxes is None:
            return []
        return [
            (np.asarray(box, np.float64) - border, float(confidence), points - border)
            for box, confidence, points in zip(
                boxes, confidences, np.asarray(points, np.float64), strict=True
            )
        ]


class _Capped(nn.Module):
    """One stage of MTCNN that passes on its `limit` best candidates; `hit` if it had more."""

    def __init__(self, net: nn.Module, threshold: float, limit: int) -> None:
        super().__init__()
        self.net = net
        self.threshold = threshold
        self.limit = limit
        self.hit = False

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Offsets (N, 4, ...) and probabilities (N, 2, ...), those beyond the limit set to 0."""
        offsets, probabilities = self.net(pixels)
        face = probabilities[:, 1]
        if int((face >= self.threshold).sum()) > self.limit:
            self.hit = True
            # Stable, because a tiled picture is full of equal probabilities.
            order = torch.argsort(face.flatten(), descending=True, stable=True)
            face.view(-1)[order[self.limit :]] = 0
        return offsets, probabilities


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch for the calling thread: MTCNN's many small steps take longer with two
    (115 ms against 99 for 1280x720), and the other core has the network to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shrink(image: Image, scale: float) -> Image:
    if scale == 1:
        return image
    size = [max(1, math.ceil(side * scale)) for side in image.shape[:2]]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, H, W)
    small = nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def _planar(image: Image) -> torch.Tensor:
    """The same picture with its planes apart in memory, from which MTCNN's resizing is faster."""
    return torch.from_numpy(image).permute(2, 0, 1).contiguous().permute(1, 2, 0)


def _pad(image: Image, border: int) -> Image:
    """With a black border all round, and to at least `SIDE` on the right and at the bottom."""
    rest = [max(0, SIDE - side - 2 * border) for side in image.shape[:2]]
    if border == 0 and rest == [0, 0]:
        return image
    return np.pad(image, ((border, border + rest[0]), (border, border + rest[1]), (0, 0)))
