"""Which engine is taken and why, and that a named one is never replaced."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from deepscan.engines import ENGINES, choose, recipe
from deepscan.engines import hardware as machine
from deepscan.engines.choose import Choice, auto_device, candidates, load_engine, parse_name
from deepscan.engines.engine import Predictions
from deepscan.engines.hardware import Gpu, Hardware
from deepscan.engines.tensorrt import TensorRTEngine
from deepscan.errors import EngineError, UsageError
from tests.engines.test_tensorrt import write_recipe
from tests.fakes import FakeEngine
from tests.models.build import write_model

PLAIN = Hardware("a plain CPU", ("avx2",), 2, None)
MODERN = Hardware("a modern CPU", ("avx2", "avx512_bf16"), 2, None)
GPU = replace(PLAIN, cuda="a GPU")
OLD, OLDER, NEW = Gpu("Volta", (7, 0), 2**34), Gpu("Pascal", (6, 1), 2**33), Gpu("B", (9, 0), 2**37)


def with_gpus(*gpus):
    return replace(PLAIN, cuda=gpus[0].name, gpus=gpus)


@pytest.mark.parametrize(
    ("here", "names"),
    [
        (PLAIN, ["openvino-cpu-fp32", "torch-cpu-fp32"]),
        (MODERN, ["openvino-cpu-bf16", "openvino-cpu-fp32", "torch-cpu-fp32"]),
        (GPU, ["torch-cuda-fp32", "openvino-cpu-fp32", "torch-cpu-fp32"]),
        (with_gpus(OLDER), ["torch-cuda-fp32", "openvino-cpu-fp32", "torch-cpu-fp32"]),
        (
            with_gpus(OLD),
            ["torch-cuda-fp16", "torch-cuda-fp32", "openvino-cpu-fp32", "torch-cpu-fp32"],
        ),
        (
            with_gpus(NEW, OLD),
            ["torch-cuda-bf16", "torch-cuda-fp32", "openvino-cpu-fp32", "torch-cpu-fp32"],
        ),
    ],
)
def test_auto_follows_the_machine(here, names):
    found = candidates(here)
    assert [choice.name for choice, _ in found] == names
    assert all(reason.startswith("auto: ") for _, reason in found)


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("torch", Choice("torch")),
        ("openvino", Choice("openvino")),
        ("openvino-bf16", Choice("openvino", None, "bf16")),
        ("torch-cpu", Choice("torch", "cpu")),
        ("torch-cuda-bf16", Choice("torch", "cuda", "bf16")),
        ("tensorrt", Choice("tensorrt")),
        ("tensorrt-cuda-fp16", Choice("tensorrt", "cuda", "fp16")),
        ("torch-cuda:1-bf16", Choice("torch", "cuda:1", "bf16")),
        ("torch-cuda:12", Choice("torch", "cuda:12")),
    ],
)
def test_names_are_runtime_device_precision(name, choice):
    assert parse_name(name) == choice
    assert choice.name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "onnx",
        "torch-",
        "torch-int8",
        "openvino-int8",
        "openvino-fp16",
        "torch:",
        "torch:x",
        "tensorrt:1-cuda",
        "torch-cuda:",
        "torch-cuda:-1",
        "torch-cpu:1",
        "torch-bf16-cpu",
        "cpu",
        "AUTO",
        "openvino-fp32-x",
    ],
)
def test_other_names_are_refused(name, models):
    with pytest.raises(EngineError, match="no engine"):
        load_engine(name, "tiny", folder=models)


def test_a_device_has_one_name_each():
    assert parse_name("tensorrt:1") == Choice("tensorrt", "cuda:1")
    assert parse_name("tensorrt:1-bf16") == Choice("tensorrt", "cuda:1", "bf16")
    for first in ("torch:0-bf16", "torch-cuda:0-bf16", "torch-cuda-bf16"):
        assert parse_name(first).name == "torch-cuda-bf16"


@pytest.mark.parametrize("name", ["torch-cuda:2", "tensorrt:2"])
def test_a_device_that_is_not_there_is_an_error_that_lists_those_that_are(
    name, models, monkeypatch
):
    monkeypatch.setattr(choose, "detect_hardware", lambda: with_gpus(NEW, OLD))
    with pytest.raises(EngineError, match=r"no cuda:2; torch sees cuda:0 \(B\), cuda:1 \(Volta\)"):
        load_engine(name, "tiny", folder=models)


@pytest.mark.parametrize(("name", "gpu"), [("torch-cuda-bf16", OLD), ("torch-cuda-fp16", OLDER)])
def test_a_gpu_without_such_numbers_says_so(name, gpu, models, monkeypatch):
    monkeypatch.setattr(choose, "detect_hardware", lambda: with_gpus(gpu))
    with pytest.raises(EngineError, match=rf"{gpu.name} has no .*Use --engine torch-cuda"):
        load_engine(name, "tiny", folder=models)


def test_what_torch_says_about_a_driver_is_passed_on(models, monkeypatch):
    def available():
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old\n(found version 1). "
            "Please update your GPU driver",
            stacklevel=1,
        )
        return False

    monkeypatch.setattr("torch.cuda.is_available", available)
    monkeypatch.setattr(machine, "has_gpu_driver", lambda: True)
    here = machine.detect_hardware()
    assert here.cuda is None and here.gpus == ()
    assert here.trouble.endswith("is too old (found version 1)")
    monkeypatch.setattr(choose, "detect_hardware", lambda: here)
    with pytest.raises(EngineError, match=r"sees no CUDA device \(.*driver .* too old") as error:
        load_engine("torch-cuda", "tiny", folder=models)
    assert "\n" not in str(error.value)


def test_tensorrt_says_what_it_lacks(models, monkeypatch):
    monkeypatch.setattr(choose, "detect_hardware", lambda: PLAIN)
    with pytest.raises(EngineError, match=r"no CUDA device.*--engine auto"):
        load_engine("tensorrt", "tiny", folder=models)
    with pytest.raises(EngineError, match="only CUDA"):
        load_engine("tensorrt-cpu", "tiny", folder=models)


def on_two_gpus(monkeypatch, folder):
    """Every engine starts; there are two GPUs and a recipe for TensorRT."""
    monkeypatch.setattr(choose, "detect_hardware", lambda: with_gpus(NEW, NEW))
    monkeypatch.setattr(recipe, "FOLDER", write_recipe(folder))

    def start(choice, card, machine, reason, **wanted):
        return SimpleNamespace(name=choice.name, info=SimpleNamespace(reason=reason))

    monkeypatch.setattr(choose, "build", start)


@pytest.mark.parametrize(
    ("name", "engine", "command"),
    [
        ("auto", "torch-cuda-bf16", "deepscan engine build tiny-tensorrt-fp16"),
        ("auto:1", "torch-cuda:1-bf16", "deepscan engine build tiny-tensorrt-fp16 --device cuda:1"),
    ],
)
def test_torch_runs_at_once_and_one_line_names_the_command_that_builds(
    name, engine, command, models, monkeypatch, tmp_path, caplog
):
    on_two_gpus(monkeypatch, tmp_path)
    assert load_engine(name, "tiny", folder=models).name == engine
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{engine} scans") and line.endswith(f"run {command}")


@pytest.mark.parametrize("why", ["built", "no recipe", "named", "no GPU"])
def test_nothing_is_said_of_building_where_there_is_nothing_to_build(
    why, models, monkeypatch, tmp_path, caplog
):
    on_two_gpus(monkeypatch, tmp_path)
    if why == "built":
        monkeypatch.setattr(TensorRTEngine, "is_cached", lambda *_: True)
    elif why == "no recipe":
        monkeypatch.setattr(recipe, "FOLDER", tmp_path / "none")
    elif why == "no GPU":
        monkeypatch.setattr(choose, "detect_hardware", lambda: PLAIN)
    found = load_engine("torch-cuda" if why == "named" else "auto", "tiny", folder=models)
    assert found.name.startswith("tensorrt") == (why == "built")
    assert not caplog.records


def test_auto_may_name_a_gpu():
    assert auto_device("auto:1") == "cuda:1" and auto_device("auto:0") == "cuda"
    assert auto_device("auto:x") is None and auto_device("torch") is None


def test_no_threads_is_a_wrong_use(models):
    with pytest.raises(UsageError):
        load_engine("torch", "tiny", folder=models, threads=0)


@pytest.mark.parametrize(
    "name",
    ["torch-cuda", "torch-cuda-bf16", "openvino-bf16", "torch-cpu-bf16", "torch-cpu-fp16"],
)
def test_a_named_engine_that_does_not_run_here_fails(name, models, monkeypatch):
    monkeypatch.setattr(choose, "detect_hardware", lambda: PLAIN)
    with pytest.raises(EngineError, match=r"[Uu]se --engine"):
        load_engine(name, "tiny", folder=models)


def test_openvino_is_not_for_cuda(models):
    with pytest.raises(EngineError, match="only the CPU"):
        load_engine("openvino-cuda", "tiny", folder=models)


def test_what_a_name_leaves_out_follows_the_machine(models, monkeypatch):
    monkeypatch.setattr(choose, "detect_hardware", lambda: PLAIN)
    for name, full in (("openvino", "openvino-cpu-fp32"), ("torch", "torch-cpu-fp32")):
        engine = load_engine(name, "tiny", folder=models)
        assert engine.name == full and engine.info.reason == "asked for"
        engine.close()


def test_auto_says_why(models, monkeypatch):
    monkeypatch.setattr(choose, "detect_hardware", lambda: PLAIN)
    engine = load_engine("auto", "tiny", folder=models)
    assert engine.name == "openvino-cpu-fp32"
    assert engine.info.reason == "auto: no CUDA device; OpenVINO is fastest on a CPU"
    assert (
        engine.info.parity.max_score_difference < 1e-4 and engine.info.parity.mean_mask_iou > 0.99
    )
    engine.close()


class Other(FakeEngine):
    """Stands in the table for an engine that computes something else than the network."""

    def __init__(self, card, here, options):
        super().__init__(input_size=64, judge=self.nonsense)
        self.name = f"openvino-cpu-{options.precision or 'fp32'}"
        self.info = replace(self.info, name=self.name)
        self.fingerprint = f"nonsense {self.name}"

    @staticmethod
    def nonsense(crops):
        return Predictions(
            np.ones(len(crops), np.float32), np.ones((len(crops), 16, 16), np.float32)
        )


def test_a_named_engine_out_of_tolerance_is_refused_with_the_figures(models, monkeypatch):
    monkeypatch.setitem(ENGINES, "openvino", f"{__name__}:Other")
    with pytest.raises(EngineError, match=r"a score differs by [01]\S*, at most 0\.001"):
        load_engine("openvino", "tiny", folder=models)


def test_what_was_refused_is_refused_again_without_another_look(models, monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path))
    monkeypatch.setitem(ENGINES, "openvino", f"{__name__}:Other")
    looks = []
    difference = choose.difference
    monkeypatch.setattr(
        choose, "difference", lambda *given: looks.append(given) or difference(*given)
    )
    for _ in range(2):
        with pytest.raises(EngineError, match=r"does not agree.*Use --engine torch-cpu-fp32$"):
            load_engine("openvino", "tiny", folder=models)
    assert len(looks) == 1


def test_auto_takes_the_next_and_says_once_what_it_refused(models, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(ENGINES, "openvino", f"{__name__}:Other")
    monkeypatch.setattr(choose, "detect_hardware", lambda: MODERN)
    with caplog.at_level(logging.WARNING):
        engine = load_engine("auto", "tiny", folder=models)
    assert engine.name == "torch-cpu-fp32"
    assert "openvino-cpu-bf16 refused" in engine.info.reason
    assert "openvino-cpu-fp32 refused" in engine.info.reason
    assert "a score differs" in engine.info.reason
    assert "Use --engine" not in caplog.text  # it goes on without
    assert len(caplog.records) == 2
    engine.close()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again = load_engine("auto", "tiny", folder=models)
    assert "openvino-cpu-bf16 refused" in again.info.reason and caplog.records == []
    again.close()


def test_a_name_without_precision_takes_the_fastest_that_agrees(models, monkeypatch):
    def only_fp32(found, tolerance):
        return () if tolerance is choose.TOLERANCES["fp32"] else ("a score differs",)

    monkeypatch.setattr(choose, "violations", only_fp32)
    monkeypatch.setattr(choose, "detect_hardware", lambda: MODERN)
    engine = load_engine("openvino", "tiny", folder=models)
    assert engine.name == "openvino-cpu-fp32"
    assert "openvino-cpu-bf16 does not agree" in engine.info.reason
    engine.close()
    with pytest.raises(EngineError, match=r"does not agree.*Use --engine torch-cpu-fp32"):
        load_engine("openvino-bf16", "tiny", folder=models)


def test_without_openvino_auto_takes_torch(models, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(choose, "detect_hardware", lambda: PLAIN)
    engine = load_engine("auto", "tiny", folder=models)
    assert engine.name == "torch-cpu-fp32" and "OpenVINO cannot be imported" in engine.info.reason
    engine.close()
    with pytest.raises(EngineError, match="pip install openvino"):
        load_engine("openvino", "tiny", folder=models)


def test_auto_fails_if_nothing_is_left(tmp_path, monkeypatch):
    write_model(tmp_path)

    def broken(*args, **options):
        raise EngineError("broken")

    monkeypatch.setattr(choose, "build", broken)
    with pytest.raises(EngineError, match=r"no engine runs here: .*broken"):
        load_engine("auto", "tiny", folder=tmp_path)


def test_flags_and_name_come_from_the_system(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\nmodel name\t: Some CPU 9\nflags\t\t: fpu avx2 amx_bf16 sse\n\n"
        "processor\t: 1\nmodel name\t: Some CPU 9\nflags\t\t: fpu avx2 amx_bf16 sse\n"
    )
    assert machine._cpu(info) == ("Some CPU 9", ("avx2", "amx_bf16"))
    name, flags = machine._cpu(tmp_path / "nothing")
    assert name and flags == ()


def test_bf16_needs_its_instructions():
    assert MODERN.has_bf16 and not PLAIN.has_bf16
    assert Hardware("x", ("amx_bf16",), 1, None).has_bf16
    assert not Hardware("x", ("avx2", "avx512f"), 1, None).has_bf16
