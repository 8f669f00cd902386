"""Two detectors that others might have made, exported and imported once for the whole folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from deepscan.importer.detector import import_detector
from deepscan.importer.questions import Answers
from tests.conftest import draw_face
from tests.models import detectors

BGR = Answers(
    colours="bgr", mean=detectors.MEAN, std=detectors.STD, crop_scale=1.3, score="two-logits",
    index=0,
)  # fmt: skip
INVERTED = Answers(
    colours="rgb", pixels="0..1", crop_scale=1.3, score="p_real=probability", polarity="low",
    mask="mask=probability", mask_polarity="low",
)  # fmt: skip


@dataclass
class Made:
    """The ONNX files with the modules that they come from, and folders of known faces."""

    folder: Path
    classifier: Any
    segmenter: Any

    def __post_init__(self) -> None:
        self.bgr = self.folder / "classifier.onnx"
        self.inverted = self.folder / "segmenter.onnx"
        self.known = {"real": self.folder / "real", "manipulated": self.folder / "manipulated"}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    found = Made(folder, detectors.classifier(), detectors.segmenter())
    detectors.export(found.classifier, found.bgr, outputs=("logits",))
    detectors.export(found.segmenter, found.inverted, outputs=("p_real", "mask"))
    for kind, path in found.known.items():
        path.mkdir()
        for index in range(5):
            picture = draw_face(4 * index, forged=kind == "manipulated")
            Pillow.fromarray(picture).save(path / f"{index}.png")
    return found


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def places(library, warm_cache, monkeypatch):
    """The user's folder of models, and a cache that is kept over the tests."""
    monkeypatch.setenv("DEEPSCAN_MODELS", str(library))
    monkeypatch.setenv("DEEPSCAN_CACHE", str(warm_cache))


@pytest.fixture(scope="session")
def imported(made, library, warm_cache):
    """The cards of both, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSCAN_MODELS", str(library))
        patch.setenv("DEEPSCAN_CACHE", str(warm_cache))
        about = {"licence": "MIT", "source": "made by the tests"}
        return {
            "bgr": import_detector(made.bgr, "bgr", BGR, about, **made.known),
            "inverted": import_detector(made.inverted, "inverted", INVERTED, about, **made.known),
        }
