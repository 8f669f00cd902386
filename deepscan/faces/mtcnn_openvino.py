"""MTCNN's three networks in OpenVINO, with all that is between them in NumPy.

The same numbers as facenet-pytorch's `detect_face`, step by step, without importing torch: its
weights are converted once, compared with torch, and cached. Pyramid and crops are means over one
table of sums, so that a further level costs what its own pixels cost.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscan.engines.openvino import (
    Graph,
    cached_graphs,
    compile_graph,
    convert_module,
    import_openvino,
)
from deepscan.engines.signal_stack import preserved_signal_stack
from deepscan.errors import EngineError
from deepscan.faces.cascade import CANDIDATES, FACTOR, THRESHOLDS, Candidates, Part
from deepscan.faces.resize import AreaSums, Indices, TurnedSums
from deepscan.models.nms import greedy_nms
from deepscan.types import Image

NETWORKS = ("pnet", "rnet", "onet")
CELL, STRIDE = 12, 2  # pixels that one cell of P-Net sees, and between two of them
REACH = 0.6  # least width of what a P-Net cell sees over the face that it is to find
SIDES = (24, 48)  # of the crops for R-Net and O-Net
# Filled up to: OpenVINO compiles each other batch anew.
BATCHES = (*range(1, 4), *range(4, 16, 4), *range(16, 64, 8), *range(64, 512, 32), 512)
FILLED = 16  # pixels that the sides of a part of a level are filled up to a multiple of
TOLERANCE = 1e-4  # largest difference from torch of any output, measured when converted: 1e-6

Floats = NDArray[np.float32]


class OpenVINOCascade:
    """Runs P-Net over a pyramid, then R-Net and O-Net over what is left, on one thread."""

    def __init__(self, smallest: float) -> None:
        """
        Args:
            smallest: side of the smallest face in pixels, at least 12.

        Raises:
            EngineError: OpenVINO or the weights are not there, or the networks do not agree with
                torch.
        """
        self._smallest = smallest
        openvino = import_openvino("of the face detector")
        graphs = _graphs(openvino)
        self._networks: list[Any] = [
            compile_graph(graph, openvino, what=f"MTCNN's {name}", threads=1)
            for name, graph in zip(NETWORKS, graphs, strict=True)
        ]

    def find(self, image: Image, larger_than: float = 0.0, part: Part | None = None) -> Candidates:
        """See `deepscan.faces.cascade.Cascade.find`.

        What lies within a part, with some room round it, is found as in the whole picture: P-Net
        sees the same pixels, and so do the others.
        """
        return self._find(AreaSums(image, part), larger_than)

    def find_turned(self, image: Image, turns: Sequence[int]) -> list[Candidates]:
        """See `deepscan.faces.cascade.Cascade.find_turned`; the sums are made once."""
        sums = AreaSums(image)
        return [self._find(TurnedSums(sums, turn), 0.0) for turn in turns]

    def _find(self, sums: AreaSums | TurnedSums, larger_than: float) -> Candidates:
        boxes, truncated = self._propose(sums, larger_than)
        boxes = _within(sums, _squared(boxes))
        landmarks: Floats = np.zeros((0, 5, 2), np.float32)
        if len(boxes):
            offsets, scores = self._judge(1, sums, boxes, SIDES[0])
            passed = scores > np.float32(THRESHOLDS[1])
            boxes = np.column_stack([boxes[passed, :4], scores[passed]])
            chosen = greedy_nms(boxes[:, :4], boxes[:, 4], 0.7)
            boxes = _within(sums, _squared(_moved(boxes[chosen], offsets[passed][chosen])))
        if len(boxes):
            offsets, points, scores = self._judge(2, sums, boxes, SIDES[1])
            passed = scores > np.float32(THRESHOLDS[2])
            boxes, points = np.column_stack([boxes[passed, :4], scores[passed]]), points[passed]
            sides = boxes[:, 2:4] - boxes[:, :2] + 1
            landmarks = sides[:, None] * np.stack([points[:, :5], points[:, 5:]], axis=2)
            landmarks = landmarks + boxes[:, None, :2] - 1
            boxes = _moved(boxes, offsets[passed])
            chosen = _nms_over_smaller(boxes, 0.7)
            boxes, landmarks = boxes[chosen], landmarks[chosen]
        if not len(boxes):
            return Candidates.none(truncated)
        return Candidates(
            boxes[:, :4].astype(np.float64),
            boxes[:, 4].astype(np.float64),
            landmarks.astype(np.float64),
            truncated,
        )

    def close(self) -> None:
        """Give back the compiled networks."""
        with preserved_signal_stack():
            self._networks.clear()

    def _propose(self, sums: AreaSums | TurnedSums, larger_than: float) -> tuple[Floats, bool]:
        """P-Net over the levels: (N, 5) corners and probability; whether a level had too many."""
        height, width = sums.part.height, sums.part.width
        levels, truncated = [np.zeros((0, 9), np.float32)], False
        scales = list(_scales(min(height, width), self._smallest))
        # What a cell sees is CELL / scale pixels wide; it responds to faces of about that size.
        wide = [scale for scale in scales if CELL / scale >= REACH * larger_than]
        for scale in wide or scales[-1:]:
            size = int(height * scale + 1), int(width * scale + 1)
            level, top, left = sums.resized(*size)
            if min(level.shape[:2]) < CELL:
                continue
            is_part = level.shape[:2] != size
            offsets, probabilities = self._run_over(level, is_part=is_part)
            face = probabilities[1]
            passed = face >= np.float32(THRESHOLDS[0])
            if passed.sum() > CANDIDATES:
                truncated = True
                order = np.argsort(-face, axis=None, kind="stable")
                passed[np.unravel_index(order[CANDIDATES:], face.shape)] = False
            rows, columns = np.nonzero(passed)
            places = np.column_stack([columns, rows]) * STRIDE + (left, top)
            cells = places.astype(np.float32)
            found = np.column_stack(
                [
                    np.floor((cells + 1) / np.float32(scale)),
                    np.floor((cells + CELL) / np.float32(scale)),
                    face[passed],
                    offsets[:, passed].T,
                ]
            )
            levels.append(found[greedy_nms(found[:, :4], found[:, 4], 0.5)])
        boxes = np.concatenate(levels)
        boxes = boxes[greedy_nms(boxes[:, :4], boxes[:, 4], 0.7)]
        sides = np.tile(boxes[:, 2:4] - boxes[:, :2], 2)
        return np.column_stack([boxes[:, :4] + boxes[:, 5:] * sides, boxes[:, 4]]), truncated

    def _run_over(self, level: Floats, *, is_part: bool) -> list[Floats]:
        """P-Net over a level or a part of one: offsets (4, ...) and probabilities (2, ...).

        Parts are filled up, so that OpenVINO compiles a few sizes only; one with an odd side ends
        where the picture does, and P-Net sees what lies behind that.
        """
        sides = level.shape[:2]
        rests = [-side % FILLED if is_part and side % 2 == 0 else 0 for side in sides]
        filled = np.pad(level, ((0, rests[0]), (0, rests[1]), (0, 0)))
        rows, columns = ((side - 1) // STRIDE - 4 for side in sides)  # of cells without the rest
        return [values[0, :, :rows, :columns] for values in self._run(0, filled[None])]

    def _judge(
        self, number: int, sums: AreaSums | TurnedSums, boxes: Floats, side: int
    ) -> tuple[Floats, ...]:
        """R-Net or O-Net over crops: its outputs, of the last P(face) only.

        Raises:
            IndexError: a box lies wholly outside of the picture.
        """
        left, top, right, bottom = _pixels(boxes, sums.part)
        if not ((right > left) & (bottom > top)).all():
            raise IndexError("a candidate lies outside of the picture")
        parts = []
        for start in range(0, len(boxes), BATCHES[-1]):
            piece = slice(start, start + BATCHES[-1])
            crops = sums.crops(left[piece], top[piece], right[piece], bottom[piece], side)
            padded = next(batch for batch in BATCHES if batch >= len(crops)) - len(crops)
            filled = np.pad(crops, ((0, padded), (0, 0), (0, 0), (0, 0)))
            parts.append([values[: len(crops)] for values in self._run(number, filled)])
        *others, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
        return (*others, probabilities[:, 1])

    def _run(self, number: int, pixels: Floats) -> list[Floats]:
        found = self._networks[number](pixels)
        return [np.array(found[place]) for place in range(len(found))]


def _scales(shorter: int, smallest: float) -> Iterator[float]:
    """The levels of the pyramid, as facenet-pytorch steps through them."""
    scale = CELL / smallest
    side = shorter * scale
    while side >= CELL:
        yield scale
        scale *= FACTOR
        side *= FACTOR


def _pixels(boxes: Floats, part: Part) -> tuple[Indices, ...]:
    """The pixels [left, right) x [top, bottom) of the picture that boxes (N, 5) cover."""
    corners = np.trunc(boxes[:, :4]).astype(np.intp)
    left, top = np.maximum(corners[:, 0], 1) - 1, np.maximum(corners[:, 1], 1) - 1
    right, bottom = np.minimum(corners[:, 2], part.width), np.minimum(corners[:, 3], part.height)
    return left, top, right, bottom


def _within(sums: AreaSums | TurnedSums, boxes: Floats) -> Floats:
    """The boxes (N, 5) whose pixels are there."""
    kept: Floats = boxes[sums.inside(*_pixels(boxes, sums.part))]
    return kept


def _moved(boxes: Floats, offsets: Floats) -> Floats:
    """Boxes (N, 5) with the corners moved by shares of their sides."""
    sides = np.tile(boxes[:, 2:4] - boxes[:, :2] + 1, 2)
    return np.column_stack([boxes[:, :4] + offsets * sides, boxes[:, 4]])


def _squared(boxes: Floats) -> Floats:
    """Boxes (N, 5) made square over their longer side, with the same centre."""
    sides = boxes[:, 2:4] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + sides * np.float32(0.5) - longer * np.float32(0.5)
    return np.column_stack([corner, corner + longer, boxes[:, 4]])


def _nms_over_smaller(boxes: Floats, threshold: float) -> NDArray[np.int64]:
    """Greedy suppression by the intersection over the smaller box: (N, 5) boxes to indices."""
    x1, y1, x2, y2, scores = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = np.argsort(scores)
    chosen = []
    while order.size:
        best, rest = order[-1], order[:-1]
        chosen.append(int(best))
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1
        both = np.maximum(0, width) * np.maximum(0, height)
        order = rest[both / np.minimum(areas[best], areas[rest]) <= threshold]
    return np.array(chosen, dtype=np.int64)


def _graphs(openvino: Any) -> tuple[Graph, ...]:
    """P-Net, R-Net and O-Net from the cache, else converted from facenet-pytorch's weights.

    Raises:
        EngineError: facenet-pytorch is not there, or a network differs from torch's.
    """
    found = importlib.util.find_spec("facenet_pytorch")  # does not import it
    if found is None or not found.submodule_search_locations:
        raise EngineError("facenet-pytorch is not installed. Run: pip install facenet-pytorch")
    folder = Path(found.submodule_search_locations[0], "data")
    digest = hashlib.sha256(Path(__file__).read_bytes())
    try:
        for name in NETWORKS:
            digest.update((folder / f"{name}.pt").read_bytes())
    except OSError as error:
        raise EngineError(f"MTCNN's weights cannot be read: {error}") from error
    facts = {"weights": digest.hexdigest(), "model": "mtcnn"}
    return cached_graphs("the face detector", facts, openvino, lambda: _convert(openvino))


def _convert(openvino: Any) -> list[Graph]:
    """Convert the three networks and compare each with torch on made-up pixels."""
    import torch

    from deepscan.faces.mtcnn_torch import normalised_networks

    graphs = []
    noise = np.random.default_rng(0)
    for name, module in zip(NETWORKS, normalised_networks(), strict=True):
        side = {"pnet": -1, "rnet": SIDES[0], "onet": SIDES[1]}[name]
        height, width = (40, 64) if side < 0 else (side, side)
        pixels = noise.integers(0, 256, (8, height, width, 3)).astype(np.float32)
        example = torch.from_numpy(pixels)
        graph = convert_module(module, example, (-1, side, side, 3), openvino, f"MTCNN's {name}")
        compiled = compile_graph(graph, openvino, what=f"MTCNN's {name}", threads=1)
        with torch.inference_mode():
            expected = [values.numpy() for values in module(example)]
        found = compiled(pixels)
        worst = max(float(np.abs(found[i] - one).max()) for i, one in enumerate(expected))
        with preserved_signal_stack():
            del compiled, found
        if not worst <= TOLERANCE:
            raise EngineError(f"MTCNN's {name} in OpenVINO differs from torch by {worst:.3g}")
        graphs.append(graph)
    return graphs
