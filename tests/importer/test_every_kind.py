"""One suite over every kind of model: a network of ours, detectors with and without a mask.

To add a kind, add a line to `KINDS`; nothing below names one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import deepscan
from deepscan.engines import ENGINES
from deepscan.engines.choose import REFERENCES, engine_class, load_engine
from deepscan.engines.hardware import detect_hardware, has_gpu_driver
from deepscan.engines.parity import probe
from deepscan.errors import EngineError
from deepscan.importer.check import check_model
from deepscan.importer.network import import_weights
from deepscan.models.library import models_folder, read_card
from deepscan.models.weights import load_model
from deepscan.options import ScanOptions
from deepscan.scan.pipeline import analyze
from deepscan.scan.scanner import Scanner
from deepscan.types import Label
from deepscan.video import open_video
from examples.demo import portrait
from tests.fakes import FakeDetector
from tests.media import make_video
from tests.models import detectors
from tests.models.build import write_model

# Kind of model -> whether it has a mask, and what says in its own framework what it should say.
KINDS = {"network": True, "bgr": False, "inverted": True}
ON_A_CPU = [
    (kind, f"{runtime}-{device}-{precision}")
    for kind in KINDS
    for runtime in ENGINES
    for device, precision in engine_class(runtime).CHOICES
    if device == "cpu"
    if ("network" if kind == "network" else "onnx") in engine_class(runtime).KINDS
]


@pytest.fixture(scope="module")
def models(imported, tmp_path_factory, library):
    """A model of every kind in the user's folder."""
    folder = tmp_path_factory.mktemp("weights")
    write_model(folder)
    (folder / "tiny.json").unlink()  # weights alone, as from an unfinished training
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSCAN_MODELS", str(library))
        import_weights(folder / "tiny.safetensors", "network", {}, force=True)
    return tuple(KINDS)


@pytest.fixture(params=KINDS)
def kind(request, models):
    return request.param


def in_own_framework(made, kind, crops):
    if kind == "bgr":
        return detectors.judge_classifier(made.classifier, crops), None
    if kind == "inverted":
        return detectors.judge_segmenter(made.segmenter, crops)
    with torch.inference_mode():
        scores, masks = load_model(read_card(kind))(torch.from_numpy(crops))
    return scores.numpy(), masks.numpy()


def test_its_card_says_what_it_is(kind):
    card = read_card(kind)
    assert card.has_mask is card.info.has_mask is KINDS[kind]
    assert not card.certified and card.calibration is None
    assert card.info.input_size == card.input.size


@pytest.mark.parametrize(("kind", "engine"), ON_A_CPU)
def test_every_engine_that_runs_it_agrees_with_its_framework(models, made, kind, engine):
    if engine.endswith("bf16") and not detect_hardware().has_bf16:
        pytest.skip(f"{engine} needs another CPU")
    running = load_engine(engine, kind)
    try:
        crops = probe(running.input_size)[: min(8, running.max_batch)]
        found = running.predict(crops)
    finally:
        running.close()
    scores, masks = in_own_framework(made, kind, crops)
    near = 1e-3 if engine.endswith("fp32") else 0.02
    assert np.abs(found.scores - scores).max() < near
    assert (found.masks is None) is (masks is None) is not KINDS[kind]
    if masks is not None:
        assert np.abs(found.masks - masks).max() < 5 * near


def test_an_engine_of_another_kind_says_so(kind):
    card = read_card(kind)
    for runtime in ENGINES:
        if card.kind in engine_class(runtime).KINDS:
            continue
        with pytest.raises(EngineError, match="Use --engine openvino"):
            load_engine(f"{runtime}-cpu", kind)


def test_its_scores_frame_by_frame_are_those_of_its_framework(kind, made, clips, tmp_path):
    options = ScanOptions(model=kind, engine="openvino-cpu-fp32", isolate=False)
    with Scanner(options, detector=FakeDetector()) as scanner:
        with open_video(clips["forged"], isolate=False) as reader:
            results = analyze(reader.frames(), scanner.detector, scanner.engine, scanner.options)
            with closing(results):
                faces = [face for result in results for face in result.faces]
        outputs = {
            name: tmp_path / f"r{suffix}"
            for name, suffix in (
                ("overlay", ".mp4"), ("masks", ".masks.mkv"), ("html", ".html"),
                ("frames", ".frames.jsonl"), ("record", ".json"),
            )
        }  # fmt: skip
        outcome = scanner.scan(clips["forged"], outputs)
    crops = np.stack([face.crop.image for face in faces])
    assert len(crops) == 20
    scores, masks = in_own_framework(made, kind, crops)
    assert np.abs([face.score for face in faces] - scores).max() < 1e-3
    for place, face in enumerate(faces):
        if masks is None:
            assert face.mask is None
        else:
            assert np.abs(face.mask - masks[place]).max() < 5e-3
    lines = [json.loads(line) for line in outputs["frames"].read_text().splitlines()][1:]
    written = [face["p_manipulated"] for line in lines for face in line["faces"]]
    assert np.abs(np.array(written) - scores).max() < 1e-3
    assert outcome.label is Label.INCONCLUSIVE
    assert outcome.scan.verdict.reasons[0].code == "not_calibrated"
    assert outputs["masks"].exists() is KINDS[kind]
    assert outputs["overlay"].exists() and outputs["html"].exists()
    record = json.loads(outputs["record"].read_text())
    schema = Path(deepscan.__file__).parent / "schemas" / "result-1.json"
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(record)
    assert record["model"]["name"] == kind and record["calibration"] is None
    assert bool(record["ignored"]) is not KINDS[kind]


def test_a_check_of_it_finds_it_sound(kind):
    found = check_model(kind)
    assert found.ok and found.controls_passed and found.model == kind
    works = {each.name for each in found.engines if each.works}
    reference = REFERENCES[read_card(kind).kind]
    assert {reference, found.chosen} <= works
    for each in found.engines:
        assert each.works or each.detail
        assert not each.works or each.crops_per_second > 0


def run(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "deepscan", *words], cwd=cwd, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["bgr", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "bgr")]
)
def test_an_archive_is_scanned_and_verified_with_it(models, kind, tmp_path):
    picture = portrait()
    (tmp_path / "media").mkdir()
    for name, size in (("one", 0), ("two", 1)):
        make_video(
            tmp_path / "media" / f"{name}.mp4", draw=lambda _: picture, frames=6 + size,
            size=(512, 512),
        )  # fmt: skip
    folder = models_folder() / kind  # named by its place: a record does not choose one here
    ran = run("media", "--out", "results", "--model", str(folder), "--write", "json,frames,masks",
              cwd=tmp_path)  # fmt: skip
    assert ran.returncode == 3, ran.stderr
    assert len((tmp_path / "results/results.jsonl").read_text().splitlines()) == 2
    journal = (tmp_path / "results/journal.jsonl").read_text()
    assert kind in journal and '"calibration":"none"' in journal.replace(" ", "")
    assert bool(list((tmp_path / "results").rglob("*.masks.mkv"))) is KINDS[kind]
    checked = run("verify", "results", "--input", "media", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


LEAN = """
import sys
sys.argv = ["deepscan", *sys.argv[1:]]
from deepscan.cli.scan import run
try:
    run()
finally:
    heavy = ("torch", "onnx", "onnxruntime", "timm")
    print([name for name in heavy if sys.modules.get(name)], file=sys.stderr)
"""


def test_a_detector_runs_without_torch_onnx_and_onnx_runtime(models, tmp_path):
    if has_gpu_driver():
        pytest.skip("this machine may have a GPU, which torch is asked about")
    make_video(tmp_path / "clip.mp4", draw=lambda _: portrait(), frames=4, size=(512, 512))
    for _ in range(2):  # the first may convert the face detector
        ran = subprocess.run(
            [sys.executable, "-c", LEAN, "clip.mp4", "--model", "inverted", "--out", "r.mp4",
             "--force"],
            cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert ran.returncode == 3, ran.stderr
    assert ran.stderr.rstrip().endswith("[]")


@pytest.mark.parametrize(
    "kind", ["bgr", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "bgr")]
)
def test_it_is_calibrated_on_clips_of_one_s_own_and_then_gives_verdicts(models, kind, tmp_path):
    picture = portrait()
    (tmp_path / "REAL").mkdir()
    for number in range(20):
        shown = Pillow.fromarray((picture * (0.7 + 0.015 * number)).astype(np.uint8))
        shown.save(tmp_path / "REAL" / f"{number}.png")
    shown.save(tmp_path / "one.png")
    name = f"{kind}-here"
    rates = ("--max-false-alarms", "50/1000", "--max-suspicious", "200/1000")
    ran = run("model", "calibrate", kind, "--real", "REAL", "--to", name, *rates, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    card = read_card(name)
    assert card.sha256 == read_card(kind).sha256 and card.calibration is not None
    assert (card.kind, card.has_mask) == (read_card(kind).kind, KINDS[kind])
    ran = run("one.png", "--model", name, "--format", "json", cwd=tmp_path)
    record = json.loads(ran.stdout)
    assert record["verdict"]["label"] in ("no-evidence", "suspicious", "manipulated")
    assert record["calibration"]["clips"] == 20 and record["model"]["name"] == name
