"""Every engine is measured in the same run, and the figures hold together."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from deepscan.engines import bench as benches
from deepscan.engines.bench import bench
from deepscan.engines.engine import Predictions
from deepscan.errors import EngineError, ModelError
from tests.fakes import FakeEngine


@pytest.fixture
def quick(models):
    return {"model": "tiny", "rounds": 2, "seconds": 0.01, "folder": models}


def test_engines_that_run_here_are_measured_and_the_others_named(quick):
    found = bench(batches=(3, 1, 3), **quick)
    names = {pace.engine for pace in found.paces}
    assert {"torch-eager-fp32", "torch-cpu-fp32", "openvino-cpu-fp32"} <= names
    assert len(found.paces) == 2 * len(names) and {pace.batch for pace in found.paces} == {1, 3}
    assert names.isdisjoint(found.absent)
    if found.machine.cuda is None:
        assert "CUDA" in found.absent["tensorrt-cuda-fp16"]
    for pace in found.paces:
        assert 0 < pace.lowest <= pace.crops_per_second <= pace.highest
        if pace.engine == "torch-eager-fp32":
            assert pace.speedup == 1.0 and pace.cpu_speedup == 1.0
    values = json.loads(json.dumps(found.values()))
    assert values["kind"] == "deepscan-bench" and values["versions"]["torch"]
    assert len(values["paces"]) == len(found.paces)
    for best in values["best"]:
        same = [pace.speedup for pace in found.paces if pace.batch == best["batch"]]
        assert best["speedup"] == max(same)
    assert [best["batch"] for best in values["best"]] == [1, 3]


class Slow(FakeEngine):
    """Takes a millisecond a crop, asleep or at work."""

    def __init__(self, name, busy):
        super().__init__(input_size=64, max_batch=4, judge=self.wait)
        self.name, self.busy = name, busy

    def wait(self, crops):
        until = time.perf_counter() + 1e-3 * len(crops)
        while time.perf_counter() < until:
            if not self.busy:
                time.sleep(2e-4)
        return Predictions(np.zeros(len(crops), np.float32), np.zeros((len(crops), 4, 4), "f4"))


def test_wall_and_cpu_time_are_told_apart(quick, monkeypatch):
    engines = [Slow("torch-eager-fp32", busy=True), Slow("idle-cpu-fp32", busy=False)]
    monkeypatch.setattr(benches, "_engines", lambda *_: (engines, {}))
    found = {pace.engine: pace for pace in bench(batches=(2, 8), **quick).paces}
    assert len(found) == 2 and {pace.batch for pace in found.values()} == {2}  # 8 is too many
    assert found["torch-eager-fp32"].crops_per_second <= 1000
    assert found["idle-cpu-fp32"].cpu_ms_per_crop < found["torch-eager-fp32"].cpu_ms_per_crop
    assert found["idle-cpu-fp32"].cpu_speedup > 1


def test_engines_are_closed_whatever_happens(quick, monkeypatch):
    class Broken(FakeEngine):
        def predict(self, crops):
            raise EngineError("broken")

        def close(self):
            closed.append(self)

    closed = []
    monkeypatch.setattr(benches, "_engines", lambda *_: ([Broken(), Broken()], {}))
    with pytest.raises(EngineError, match="broken"):
        bench(**quick)
    assert len(closed) == 2


def test_without_the_reference_there_is_nothing_to_compare_with(quick, monkeypatch):
    def refuse(choice, *arguments, **options):
        raise EngineError(f"{choice.name} is out of order")

    monkeypatch.setattr(benches, "build", refuse)
    with pytest.raises(EngineError, match="torch-cpu-fp32 is out of order"):
        bench(**quick)


def test_a_missing_model_is_an_error(tmp_path):
    with pytest.raises(ModelError):
        bench("tiny", folder=tmp_path)
