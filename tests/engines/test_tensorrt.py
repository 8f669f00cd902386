"""The calls that a TensorRT engine makes, by version, and what becomes of its engines.

TensorRT itself is a stand-in here (fake_tensorrt.py); tests/gpu/ has the real one.
"""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest
import torch

from deepscan.engines import ENGINES, choose, recipe, tensorrt
from deepscan.engines.choose import load_engine
from deepscan.engines.engine import EngineOptions
from deepscan.engines.hardware import Hardware
from deepscan.engines.maintenance import build_recipe, entries
from deepscan.engines.parity import TOLERANCES, probe, violations
from deepscan.engines.recipe import Batches
from deepscan.errors import EngineError, ModelError
from deepscan.importer.detector import import_detector
from deepscan.importer.questions import Answers
from deepscan.models.library import read_card
from tests.engines.differences import compare
from tests.engines.fake_tensorrt import SURFACES, FakeCuda, make_tensorrt
from tests.models import detectors
from tests.models.build import write_model

GPU = Hardware("a plain CPU", ("avx2",), 2, "Fake GPU")
BLIND = Hardware("a plain CPU", ("avx2",), 2, None)


@pytest.fixture(scope="session")
def exported():
    """Graphs and checks by weights and precision: an export costs a second or two."""
    return {}


@pytest.fixture
def cuda(monkeypatch, exported):
    fake = FakeCuda()
    for name in ("export", "check"):
        monkeypatch.setattr(tensorrt.export, name, once(getattr(tensorrt.export, name), exported))
    monkeypatch.setattr(tensorrt, "cuda", fake)
    monkeypatch.setattr(tensorrt, "torch_device", lambda device: "cpu")
    monkeypatch.setattr(tensorrt, "_pinned", lambda shape, dtype: torch.zeros(shape, dtype=dtype))
    monkeypatch.setattr(tensorrt, "_driver", lambda: "570.1")
    monkeypatch.setattr(choose, "detect_hardware", lambda: GPU)
    monkeypatch.setattr("deepscan.engines.maintenance.detect_hardware", lambda: GPU)
    return fake


def once(make, known):
    """`make`, with its answer known for the same network and arguments."""

    def made(*arguments):
        key = [make.__name__]
        for each in arguments:
            if isinstance(each, torch.nn.Module):
                each = tuple(each.network.classifier.weight.flatten().tolist())
            key.append(each if isinstance(each, str | tuple) else None)
        if tuple(key) not in known:
            known[tuple(key)] = make(*arguments)
        return known[tuple(key)]

    return made


@pytest.fixture
def trt(request, cuda, monkeypatch, tmp_path):
    """A TensorRT of some version over an empty cache."""
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path / "own"))
    fake = make_tensorrt(getattr(request, "param", "10.9.0"), cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.fixture
def card(models):
    return read_card("tiny", models)


def versions(*names):
    return pytest.mark.parametrize("trt", names, indirect=True)


def named(fake, name):
    return [call for call in fake.calls if call[0] == name]


def engine_paths(tmp_path):
    return [
        (tmp_path / "own" / "engines" / f"{entry.key}.bin")
        for entry in entries(tmp_path / "own" / "engines")
        if entry.kind == "tensorrt"
    ]


def write_recipe(folder, name="tiny-tensorrt-fp16", batch=(1, 4, 8)):
    folder.mkdir(exist_ok=True)
    model, runtime, precision = name.split("-")
    (folder / f"{name}.toml").write_text(
        f'model = "{model}"\nruntime = "{runtime}"\nprecision = "{precision}"\n'
        f"batch = {{min = {batch[0]}, opt = {batch[1]}, max = {batch[2]}}}\n"
    )
    return folder


# Nothing is made without a GPU


def test_without_a_gpu_nothing_of_tensorrt_is_touched(trt, card, models, monkeypatch):
    monkeypatch.setattr(choose, "detect_hardware", lambda: BLIND)
    with pytest.raises(EngineError, match="sees no CUDA device"):
        load_engine("tensorrt", "tiny", folder=models)
    assert not tensorrt.TensorRTEngine.is_cached(card, BLIND, "fp16")
    assert trt.calls == []
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # nor is it looked for
    with pytest.raises(EngineError, match="sees no CUDA device"):
        load_engine("tensorrt", "tiny", folder=models)


def test_without_tensorrt_it_says_what_to_install(cuda, models, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"pip install tensorrt.*--engine torch-cuda"):
        load_engine("tensorrt", "tiny", folder=models)


def test_it_is_for_cuda_only(trt, models):
    with pytest.raises(EngineError, match="only CUDA"):
        load_engine("tensorrt-cpu", "tiny", folder=models)
    assert trt.calls == []


# Detectors of others


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_a_detector_runs_in_fp32_as_it_is(trt, tmp_path, monkeypatch, batch, masked):
    monkeypatch.setenv("DEEPSCAN_MODELS", str(tmp_path / "models"))
    made = detectors.segmenter() if masked else detectors.classifier()
    names = ("score", "mask") if masked else ("score",)
    path = detectors.export(made, tmp_path / "made.onnx", outputs=names, batch=batch)
    answers = Answers(
        colours="bgr", mean=detectors.MEAN, std=detectors.STD, crop_scale=1.3,
        score="score=probability" if masked else "two-logits", index=None if masked else 0,
        polarity="low", mask="mask=probability" if masked else None, mask_polarity="low",
    )  # fmt: skip
    card = import_detector(path, "other", answers, {})
    engine = load_engine("tensorrt", "other")
    assert engine.name == "tensorrt-cuda-fp32"
    assert engine.info.parity.max_score_difference < 1e-3
    crops = probe(detectors.SIDE)[:4]
    found = engine.predict(crops)
    assert found.scores.shape == (4,) and (found.masks is not None) is masked
    assert named(trt, "profile")[0][2][0] == (batch or 1)
    engine.close()
    assert tensorrt.TensorRTEngine.is_cached(card, GPU, "fp32")
    with pytest.raises(EngineError, match="Use --engine tensorrt-fp32"):
        load_engine("tensorrt-fp16", "other")


# Building, by version


@versions("8.6.1")
def test_8_6_is_told_the_batch_the_precision_and_what_to_leave_alone(trt, models):
    load_engine("tensorrt-fp16", "tiny", folder=models).close()
    assert named(trt, "create_network") == [("create_network", 1)]
    assert {call[1] for call in named(trt, "set_flag")} == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    bound = {layer.name for layer in trt.network.layers if layer.precision == "float32"}
    left = {layer.name for layer in trt.network.layers} - bound
    assert not any(name.startswith("low:") for name in bound)
    assert sum("MatMul" in name for name in bound) == 4
    assert sum("Softmax" in name for name in bound) == 4
    assert not any("MatMul" in name or "Softmax" in name for name in left)
    assert all(
        layer.output_types == {0: "float32"} for layer in trt.network.layers if layer.precision
    )


@versions("8.6.1")
def test_8_6_has_no_bf16(trt, models):
    with pytest.raises(EngineError, match=r"8\.6\.1 has no bf16"):
        load_engine("tensorrt-bf16", "tiny", folder=models)
    assert not named(trt, "build")


@versions("10.9.0", "11.3.0", "11.9.0")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_later_ones_take_types_from_the_graph(trt, models, precision):
    load_engine(f"tensorrt-{precision}", "tiny", folder=models).close()
    creation = trt.NetworkDefinitionCreationFlag
    every = sum(1 << flag for flag in creation if flag.name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"))
    assert named(trt, "create_network") == [("create_network", every)]
    assert not named(trt, "set_flag")
    assert named(trt, "clear_flag") == ([] if precision == "fp16" else [("clear_flag", "TF32")])
    assert all(layer.precision is None for layer in trt.network.layers)


@versions(*SURFACES)
def test_calls_come_in_order(trt, models):
    engine = load_engine("tensorrt-fp16", "tiny", folder=models)
    names = [call[0] for call in trt.calls]
    order = ["ILogger", "Builder", "create_network", "parse", "memory", "profile", "timings"]
    order += ["build", "Runtime", "deserialize", "context", "shape", "execute"]
    places = [names.index(name) for name in order]
    assert places == sorted(places)
    assert named(trt, "profile") == [
        ("profile", "crops", (1, 64, 64, 3), (8, 64, 64, 3), (32, 64, 64, 3))
    ]
    assert named(trt, "memory") == [("memory", 2 * 2**30)]  # half of what is free
    assert len(named(trt, "context")) == 1
    engine.close()


def test_what_tensorrt_learned_about_the_gpu_is_used_again(trt, models):
    load_engine("tensorrt-fp16", "tiny", folder=models).close()
    load_engine("tensorrt-fp32", "tiny", folder=models).close()
    assert named(trt, "timings") == [("timings", b""), ("timings", b"learned")]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("parse", "no such operator"),
        ("build", r"TensorRT: out of memory"),
        ("context", "too little memory"),
    ],
)
def test_what_fails_while_building_is_one_line(trt, models, fault, told):
    trt.fault = fault
    with pytest.raises(EngineError, match=told) as error:
        load_engine("tensorrt", "tiny", folder=models)
    assert "\n" not in str(error.value)


def test_messages_go_to_the_log(trt, models, caplog):
    with caplog.at_level(logging.DEBUG, "deepscan"):
        load_engine("tensorrt", "tiny", folder=models).close()
    assert "TensorRT: thinking" in caplog.text
    assert "this takes minutes, once" in caplog.text


# Running


@pytest.fixture
def engine(trt, models, monkeypatch, tmp_path):
    """An engine for up to 2 x 8 crops."""
    monkeypatch.setattr(recipe, "FOLDER", write_recipe(tmp_path / "recipes"))
    engine = load_engine("tensorrt-fp16", "tiny", folder=models)
    trt.calls.clear()
    yield engine
    engine.close()


@pytest.fixture
def reference(models):
    engine = load_engine("torch-cpu-fp32", "tiny", folder=models)
    yield engine
    engine.close()


def test_its_numbers_are_those_of_the_network(engine, reference):
    assert engine.name == "tensorrt-cuda-fp16" and engine.max_batch == 16
    assert violations(compare(engine, reference), TOLERANCES["fp16"]) == ()
    assert engine.info.parity.max_score_difference < 5e-3
    for count in (1, 3, 8, 9, 16):
        crops = probe(64)[:count]
        found, expected = engine.predict(crops), reference.predict(crops[:8])
        assert found.scores.shape == (count,) and found.masks.shape == (count, 16, 16)
        assert np.allclose(found.scores[:8], expected.scores, atol=5e-3)


def test_batches_are_filled_up_to_a_few_shapes(engine, trt):
    ran = {}
    for count in (1, 2, 3, 5, 8, 9, 13, 16):
        trt.calls.clear()
        engine.predict(probe(64)[:count])
        ran[count] = [call[1][0] for call in named(trt, "shape")]
    assert ran == {1: [1], 2: [2], 3: [4], 5: [8], 8: [8], 9: [8, 1], 13: [8, 8], 16: [8, 8]}


def test_what_a_batch_is_filled_up_with_does_not_show(engine):
    first = engine.predict(probe(64)[:3])
    engine.predict(probe(64)[8:16])
    second = engine.predict(probe(64)[:3])
    assert np.array_equal(first.scores, second.scores)
    assert np.array_equal(first.masks, second.masks)
    assert not engine._slots[0].sent[3:4].any() and engine._slots[0].sent[4:].any()


def test_the_second_batch_is_sent_while_the_first_is_computed(engine, trt, cuda):
    cuda.calls.clear()
    engine.predict(probe(64)[:16])
    steps = [call for call in cuda.calls if call[0] in ("record", "wait", "await")]
    assert [step[0] for step in steps] == [
        "record", "wait", "record", "record", "wait", "record", "await", "await",
    ]  # fmt: skip
    sent, waited, done = steps[0], steps[1], steps[2]
    assert sent[1] == 0 and waited[1] == done[1] == 1  # two streams
    assert sent[2] == waited[2] and done[2] == steps[6][1]
    assert [call[1] for call in named(trt, "execute")] == [1001, 1001]  # never the default stream


@pytest.mark.parametrize(
    ("fault", "told"), [("run", "TensorRT: cask failure"), ("crash", "illegal memory access")]
)
def test_a_device_that_fails_is_an_error(engine, trt, fault, told):
    trt.fault = fault
    with pytest.raises(EngineError, match=told):
        engine.predict(probe(64)[:2])
    trt.fault = ""
    assert engine.predict(probe(64)[:2]).scores.shape == (2,)


def test_a_closed_engine_says_so(engine):
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.predict(probe(64)[:1])


# What is kept, and what is not believed


def scores(models, name="tensorrt-fp16"):
    engine = load_engine(name, "tiny", folder=models)
    found = engine.predict(probe(64)[:4]).scores
    engine.close()
    return found


def test_an_engine_is_built_once(trt, models, tmp_path):
    assert np.array_equal(scores(models), scores(models))
    assert len(named(trt, "build")) == 1
    (entry,) = [each for each in entries(tmp_path / "own" / "engines") if each.kind == "tensorrt"]
    assert {"weights", "tensorrt", "driver", "gpu", "sm", "precision", "batches", "code"} <= set(
        entry.facts
    )
    assert entry.facts["sm"] == "9.0" and entry.facts["driver"] == "570.1"
    note = engine_paths(tmp_path)[0].read_bytes()
    note = json.loads(note[note.rindex(b'{"onnx_differs"') :])
    assert len(note["onnx_sha256"]) == 64 and note["onnx_differs"]["score"] < 5e-3


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "unsigned"])
def test_a_damaged_engine_is_never_given_to_tensorrt(trt, models, tmp_path, damage):
    expected = scores(models)
    (path,) = engine_paths(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:1000])
    elif damage == "changed":
        data[500] ^= 1
        path.write_bytes(data)
    elif damage == "foreign":
        path.write_bytes(b"FAKE engine of somebody else")
    else:
        path.with_suffix(".json").unlink()
    trt.calls.clear()
    assert np.array_equal(scores(models), expected)
    assert len(named(trt, "build")) == 1 and len(named(trt, "deserialize")) == 1
    assert [call[0] for call in trt.calls].index("build") < [c[0] for c in trt.calls].index(
        "deserialize"
    )


@pytest.mark.parametrize("change", ["version", "driver", "capability", "gpu", "batches", "weights"])
def test_whatever_changes_leads_to_another_engine(trt, cuda, models, monkeypatch, tmp_path, change):
    scores(models)
    if change == "version":
        trt.__version__ = "10.9.1"
    elif change == "driver":
        monkeypatch.setattr(tensorrt, "_driver", lambda: "580.2")
    elif change == "capability":
        cuda.capability = (8, 9)
    elif change == "gpu":
        monkeypatch.setattr(
            choose, "detect_hardware", lambda: Hardware("a plain CPU", (), 2, "Another GPU")
        )
    elif change == "batches":
        monkeypatch.setattr(tensorrt, "DEFAULT_BATCHES", Batches(1, 4, 4))
    else:
        write_model(tmp_path / "other", seed=3)
        models = tmp_path / "other"
    scores(models)
    assert len(named(trt, "build")) == 2 and len(engine_paths(tmp_path)) == 2


def test_an_engine_that_tensorrt_refuses_is_built_again_once(trt, models, caplog):
    expected = scores(models)
    trt.refusals = 1
    assert np.array_equal(scores(models), expected)
    assert len(named(trt, "build")) == 2
    assert "built by another version" in caplog.text and "built again" in caplog.text
    trt.refusals = 2
    with pytest.raises(EngineError, match=r"refuses it \(TensorRT: built by another version\)"):
        scores(models)
    assert len(named(trt, "build")) == 3


def test_an_engine_of_another_network_is_refused(trt, models, monkeypatch):
    scores(models)
    right = tensorrt.export.OUTPUTS
    monkeypatch.setattr(tensorrt.export, "OUTPUTS", ("scores", "heat"))
    with pytest.raises(EngineError, match="not ours"):
        tensorrt.TensorRTEngine(
            read_card("tiny", models), GPU, EngineOptions(precision="fp16", allow_build=False)
        )
    assert right == ("scores", "masks")


def test_weights_that_changed_are_an_error_though_an_engine_is_there(trt, tmp_path):
    write_model(tmp_path / "models")
    scores(tmp_path / "models")
    path = tmp_path / "models" / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="SHA-256"):
        scores(tmp_path / "models")


def test_without_a_cache_it_is_built_each_time(trt, models, monkeypatch):
    for name in ("DEEPSCAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert np.array_equal(scores(models), scores(models))
    assert len(named(trt, "build")) == 2


def test_the_driver_is_read_from_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "DRIVER", tmp_path / "version")
    assert tensorrt._driver() == "unknown"
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 02:00:00 UTC 2025\n"
    )
    assert tensorrt._driver() == "570.124.06"


# Who takes it


def test_auto_takes_it_once_it_is_built_and_never_builds(trt, models, monkeypatch):
    monkeypatch.setitem(ENGINES, "torch", f"{__name__}:OnCuda")
    engine = load_engine("auto", "tiny", folder=models)
    assert engine.name == "torch-cuda-fp32" and not named(trt, "build")
    engine.close()
    scores(models)
    engine = load_engine("auto", "tiny", folder=models)
    assert engine.name == "tensorrt-cuda-fp16" and len(named(trt, "build")) == 1
    assert engine.info.reason == "auto: built for the CUDA device Fake GPU"
    engine.close()
    trt.refusals = 1
    engine = load_engine("auto", "tiny", folder=models)
    assert engine.name == "torch-cuda-fp32" and len(named(trt, "build")) == 1
    assert "tensorrt-cuda-fp16 refused" in engine.info.reason
    engine.close()


class OnCuda:
    """Torch on the CPU under the name of torch on CUDA."""

    CHOICES = (("cuda", "fp32"), ("cpu", "fp32"))

    def __new__(cls, card, machine, options):
        from deepscan.engines.torch import TorchEngine

        engine = TorchEngine(card, machine, EngineOptions("cpu", "fp32", options.threads))
        if options.device == "cuda":
            engine.name = "torch-cuda-fp32"
        return engine


def test_an_engine_out_of_tolerance_is_refused_with_the_figures(trt, models, monkeypatch):
    right = tensorrt.export.export

    def another_network(deployed, precision):
        with torch.no_grad():
            deployed.network.classifier.weight *= 1.5
        return right(deployed, precision)

    monkeypatch.setattr(tensorrt.export, "export", another_network)
    with pytest.raises(EngineError, match=r"a score differs by 0\.\d+, at most 0\.005"):
        load_engine("tensorrt", "tiny", folder=models)


def test_a_recipe_is_built_kept_and_proven(trt, models, monkeypatch, tmp_path):
    monkeypatch.setattr(recipe, "FOLDER", write_recipe(tmp_path / "recipes"))
    monkeypatch.setenv("DEEPSCAN_MODELS", str(models))
    proof = build_recipe("tiny-tensorrt-fp16")
    assert proof.engine == "tensorrt-cuda-fp16" and proof.violations == ()
    assert proof.parity.max_score_difference < 5e-3
    kinds = [entry.kind for entry in entries(tmp_path / "own" / "engines")]
    assert kinds == ["parity", "reference", "tensorrt", "timings"]
    build_recipe("tiny-tensorrt-fp16")
    assert len(named(trt, "build")) == 1


def test_a_full_disk_is_said(trt, models, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(recipe, "FOLDER", write_recipe(tmp_path / "recipes"))
    monkeypatch.setenv("DEEPSCAN_MODELS", str(models))

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepscan.engines.cache._replace", full)
    with pytest.raises(EngineError, match="cannot be written to"):
        build_recipe("tiny-tensorrt-fp16")
    assert "No space left" in caplog.text
    assert scores(models).shape == (4,)  # a scan runs all the same
