"""MTCNN's three networks in torch, as facenet-pytorch runs them: the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from deepscan.faces.cascade import CANDIDATES, FACTOR, SIDE, THRESHOLDS, Candidates, Part
from deepscan.models.torchvision_compat import import_torchvision
from deepscan.types import Image

import_torchvision()

from facenet_pytorch import MTCNN  # noqa: E402


class TorchCascade:
    """Runs facenet-pytorch on one thread of torch."""

    def __init__(self, smallest: float) -> None:
        """`smallest` is the side of the smallest face in pixels, at least 12."""
        self._network = MTCNN(
            keep_all=True,
            post_process=False,
            min_face_size=smallest,
            factor=FACTOR,
            thresholds=list(THRESHOLDS),
        ).eval()
        for net in (self._network.pnet, self._network.rnet, self._network.onet):
            # torch's pooling is vectorised for this layout only: a search takes half the time.
            net.to(memory_format=torch.channels_last)
        # Pictures made of faces, or of what P-Net takes for faces, would cost half a minute each.
        self._pnet = _Capped(self._network.pnet, THRESHOLDS[0], CANDIDATES)
        self._network.pnet = self._pnet

    def find(self, image: Image, larger_than: float = 0.0, part: Part | None = None) -> Candidates:
        """See `deepscan.faces.cascade.Cascade.find`; searches for all sizes always."""
        if part is not None:
            return self._find_in_part(image, part)
        self._pnet.truncated = False
        # Planes apart in memory: MTCNN's resizing is faster from there.
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous().permute(1, 2, 0)
        with _one_thread():
            boxes, confidences, points = self._network.detect(pixels, landmarks=True)
        if boxes is None:
            return Candidates.none(self._pnet.truncated)
        return Candidates(
            np.stack(boxes).astype(np.float64),
            np.asarray(confidences, np.float64),
            np.stack(points).astype(np.float64),
            self._pnet.truncated,
        )

    def find_turned(self, image: Image, turns: Sequence[int]) -> list[Candidates]:
        """See `deepscan.faces.cascade.Cascade.find_turned`."""
        return [self.find(np.rot90(image, -(turn // 90)).copy()) for turn in turns]

    def close(self) -> None:
        """Nothing is held."""

    def _find_in_part(self, image: Image, part: Part) -> Candidates:
        """As in a picture of its own, with black round it as far as needed."""
        rest = [max(0, SIDE - side) for side in image.shape[:2]]
        found = self.find(np.pad(image, ((0, rest[0]), (0, rest[1]), (0, 0))))
        corner = np.array([part.left, part.top])
        return replace(
            found, boxes=found.boxes + np.tile(corner, 2), landmarks=found.landmarks + corner
        )


class _Capped(nn.Module):
    """P-Net that passes on its `limit` best candidates; `truncated` if it had more."""

    def __init__(self, net: nn.Module, threshold: float, limit: int) -> None:
        super().__init__()
        self.net = net
        self.threshold = threshold
        self.limit = limit
        self.truncated = False

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Offsets (N, 4, ...) and probabilities (N, 2, ...), those beyond the limit set to 0."""
        offsets, probabilities = self.net(pixels)
        face = probabilities[:, 1]
        if int((face >= self.threshold).sum()) > self.limit:
            self.truncated = True
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


class _Normalised(nn.Module):
    """A network of MTCNN that takes (B, H, W, 3) float32 pixels from 0 to 255."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found: tuple[torch.Tensor, ...] = self.net((pixels.permute(0, 3, 1, 2) - 127.5) * 0.0078125)
        return found


def normalised_networks() -> list[nn.Module]:
    """P-Net, R-Net and O-Net in fp32 on the CPU, for conversion."""
    whole = MTCNN()
    return [_Normalised(net).eval() for net in (whole.pnet, whole.rnet, whole.onet)]
