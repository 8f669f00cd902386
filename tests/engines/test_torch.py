"""What torch does on CUDA, as far as a CPU can show it: precision, memory.

tests/gpu/ runs the rest on a GPU.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deepscan.engines import torch as engines
from deepscan.engines.engine import EngineOptions
from deepscan.engines.hardware import Gpu, Hardware
from deepscan.engines.parity import probe
from deepscan.engines.torch import TorchEngine, lower
from deepscan.errors import EngineError
from deepscan.models.deploy import Deployed
from deepscan.models.library import read_card
from tests.engines.test_export import far_reaching
from tests.models.build import build_network

GPU = Hardware("a plain CPU", (), 2, "a GPU", (Gpu("a GPU", (9, 0), 2**37),))


def judged(deployed, crops, type_):
    with torch.inference_mode(), torch.autocast("cpu", type_, cache_enabled=False):
        return [part.float().numpy() for part in deployed(torch.from_numpy(crops))]


@pytest.mark.parametrize("type_", [torch.bfloat16, torch.float16])
def test_keeping_weights_in_low_precision_changes_no_number(type_):
    plain, lowered = Deployed(build_network()), Deployed(build_network())
    kept = lowered.network.mscc.output
    lower(lowered.network, type_)
    types = {
        layer.weight.dtype
        for layer in lowered.modules()
        if isinstance(layer, torch.nn.Conv2d) and layer not in set(kept.modules())
    }
    assert types == {type_}
    crops = probe(64)[:6]
    expected = judged(plain, crops, type_)
    found = judged(lowered, crops, type_)
    if type_ == torch.bfloat16:
        assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    else:  # one layer is in fp32
        assert {layer.dtype for layer in kept.parameters()} == {torch.float32}
        assert all(np.abs(a - b).max() < 0.02 for a, b in zip(found, expected, strict=True))


def test_sums_beyond_fp16_are_no_danger():
    deployed, largest = far_reaching()
    assert largest > 1.5 * float(np.finfo(np.float16).max)
    crops = probe(64)
    with torch.inference_mode():
        expected = [part.numpy() for part in deployed(torch.from_numpy(crops))]
    naive = judged(deployed, crops, torch.float16)
    assert not all(np.isfinite(part).all() for part in naive)  # the test means something
    lower(deployed.network, torch.float16)
    found = judged(deployed, crops, torch.float16)
    assert np.abs(found[0] - expected[0]).max() < 0.02
    assert np.isfinite(found[1]).all()


def on_cpu(monkeypatch, card, **wanted):
    """A TorchEngine that believes to be on CUDA."""
    real = torch.device
    monkeypatch.setattr(engines.torch, "device", lambda name: real("cpu"))
    empty = torch.empty

    def unpinned(*shape, pin_memory=False, **rest):
        return empty(*shape, **rest)

    monkeypatch.setattr(engines.torch, "empty", unpinned)
    return TorchEngine(card, GPU, EngineOptions("cuda", **wanted))


@pytest.fixture
def card(models):
    return read_card("tiny", models)


def test_the_precision_follows_the_gpu(card, monkeypatch):
    engine = on_cpu(monkeypatch, card)
    assert engine.name == "torch-cuda-bf16" and engine.max_batch == 64
    reference = TorchEngine(card, replace(GPU, cuda=None), EngineOptions("cpu"))
    crops = probe(64)[:8]
    assert np.abs(engine.predict(crops).scores - reference.predict(crops).scores).max() < 0.02


def test_equal_gpus_share_a_proof(card, monkeypatch):
    two = replace(GPU, gpus=GPU.gpus * 2)
    monkeypatch.setattr(f"{__name__}.GPU", two)
    first = on_cpu(monkeypatch, card)
    other = TorchEngine(card, two, EngineOptions("cuda:1"))
    assert other.name == "torch-cuda:1-bf16" and other.fingerprint == first.fingerprint
    assert on_cpu(monkeypatch, card, precision="fp32").fingerprint != first.fingerprint


def test_a_small_gpu_gets_smaller_batches(card, monkeypatch):
    real, most = TorchEngine._judge, 10

    def judge(self, batch):
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(self, batch)

    monkeypatch.setattr(TorchEngine, "_judge", judge)
    engine = on_cpu(monkeypatch, card)
    assert engine.max_batch == 8
    assert engine.predict(probe(64)[:8]).scores.shape == (8,)
    most = 0
    with pytest.raises(EngineError, match="too little free memory for one crop of 64 px"):
        on_cpu(monkeypatch, card)
