"""Makes torchvision importable beside any torch, for those who need it but not its kernels.

The wheels of torchvision for Linux are built for CUDA. Beside a CPU torch their compiled library
does not load, and `import torchvision`, hence facenet-pytorch and timm, fails although only one
operator is wanted: non-maximum suppression. Here it gets a stand-in for that case.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from deepscan.models.nms import greedy_nms

logger = logging.getLogger(__name__)

_kept: list[Any] = []
"""Operators vanish with the Library that defined them, so it has to live as long as the process."""


def import_torchvision() -> None:
    """Import torchvision; where its compiled library does not fit this torch, stand in for `nms`.

    Call it before importing facenet-pytorch, timm or torchvision. Where torchvision is whole, this
    is an ordinary import. Calling it again costs nothing.

    Raises:
        ImportError: torchvision is not installed.
    """
    if "torchvision" in sys.modules:
        return
    if _library_loads():
        importlib.import_module("torchvision")
        return
    if not _kept:
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", _nms, "CPU")
        _kept.append(library)
    importlib.import_module("torchvision")
    boxes = importlib.import_module("torchvision.ops.boxes")
    # It asks for the library that was just replaced.
    setattr(boxes, "_assert_has_ops", lambda: None)  # noqa: B010
    logger.info("torchvision's compiled operators do not fit this torch; nms runs in NumPy")


def _library_loads() -> bool:
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        raise ImportError("torchvision is not installed. Run: pip install torchvision")
    for folder in found.submodule_search_locations:
        for path in sorted(Path(folder).glob("_C*")):
            if path.suffix not in {".so", ".pyd", ".dylib"}:
                continue
            try:
                torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
            except (OSError, ImportError) as error:
                logger.debug("%s does not load: %s", path, error)
            else:
                return True
    return False


def _nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    return torch.from_numpy(
        greedy_nms(dets.detach().numpy(), scores.detach().numpy(), iou_threshold)
    )
