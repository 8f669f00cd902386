"""The share of a device that the engines use: `python -m train.benchmarks engines --device cuda`.

The ceiling is what the device's largest matrix products reach in the same run, so that a share says
how much is lost to everything else. Crops come from memory, as decoded frames do, and scores and
masks go back there. A model without weights gets random ones in a folder of its own for this run:
they cost the same time and judge nothing. Nothing here needs a video decoder or a face detector.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from deepscan.engines import ENGINES
from deepscan.engines.choose import Choice, create_engine, engine_class
from deepscan.engines.engine import Engine
from deepscan.engines.hardware import Hardware, detect_hardware
from deepscan.engines.torch import TYPES
from deepscan.errors import DeepscanError, UsageError
from deepscan.models import MODELS
from deepscan.models.card import FOLDER, Card
from deepscan.models.deploy import Deployed
from deepscan.models.library import read_card
from deepscan.models.msccnet import MSCCNet
from deepscan.models.weights import save_weights
from deepscan.options import DEFAULT_MODEL

_SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices that show the ceiling
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Rate:
    """Crops a second of one engine at one batch, median of the rounds; `share` is that of the
    ceiling in the engine's own precision, None where none was measured."""

    model: str
    engine: str
    batch: int
    crops_per_second: float
    share: float | None


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """One run. `ceilings` are TFLOP/s of matrix products by precision, `gmac` 10^9 multiply-adds
    of one crop by model, `absent` why an engine does not stand there."""

    device: str
    torch: str
    ceilings: dict[str, float]
    gmac: dict[str, float]
    rates: tuple[Rate, ...]
    absent: dict[str, str]

    def table(self) -> str:
        """Lines for people."""
        ceilings = ", ".join(f"{name} {value:.3g}" for name, value in self.ceilings.items())
        lines = [
            f"{self.device}, torch {self.torch}",
            f"matrix ceiling, TFLOP/s: {ceilings}",
            f"{'model':<14}{'engine':<24}{'batch':>6}{'crops/s':>11}{'of ceiling':>12}",
        ]
        for rate in self.rates:
            share = "-" if rate.share is None else f"{rate.share:.1%}"
            lines.append(
                f"{rate.model:<14}{rate.engine:<24}{rate.batch:>6}{rate.crops_per_second:>11.1f}"
                f"{share:>12}"
            )
        lines += [f"not here: {engine}: {why}" for engine, why in self.absent.items()]
        return "\n".join(lines)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def measure(
    device: str = "cpu",
    models: Sequence[str] = (DEFAULT_MODEL,),
    batches: Sequence[int] = (1, 8, 32, 64),
    *,
    seconds: float = 0.5,
    folder: Path = FOLDER,
) -> EngineSpeed:
    """Measure every engine that runs on a device.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        models: names of the family; those without weights in `folder` get random ones.
        batches: crops at once; those above an engine's largest are left out for it.
        seconds: of each measurement and round.
        folder: where the weights lie.

    Raises:
        UsageError: there is no such model or device.
        EngineError: not one engine runs.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown:
        raise UsageError(f"no model {unknown[0]!r}; there are {', '.join(MODELS)}")
    kind = device.partition(":")[0]
    if kind not in _SIDES:
        raise UsageError(f"no device {device!r}; there are cpu, cuda and cuda:N")
    hardware = detect_hardware()
    if kind == "cuda":
        hardware.need_gpu(device, "the benchmark")
    ceilings = _ceilings(device, seconds)
    gmac: dict[str, float] = {}
    rates: list[Rate] = []
    absent: dict[str, str] = {}
    with ExitStack() as held:
        made = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="deepscan-engines-")))
        for name in models:
            card = _card(name, folder, made)
            gmac[name] = _multiply_adds(name)
            for engine in _engines(card, hardware, device, absent):
                ceiling = ceilings.get(engine.name.rpartition("-")[2])
                try:
                    rates += _rates(engine, name, batches, gmac[name], ceiling, seconds)
                except DeepscanError as error:
                    absent[engine.name] = str(error)
                finally:
                    engine.close()
    runs_on = hardware.cpu if kind == "cpu" else hardware.need_gpu(device, "the benchmark")
    return EngineSpeed(runs_on, torch.__version__, ceilings, gmac, tuple(rates), absent)


def _card(name: str, folder: Path, made: Path) -> Card:
    """The model that ships, or one with random weights that only this run sees."""
    if (folder / f"{name}.json").is_file():
        return read_card(name, folder)
    torch.manual_seed(0)
    network = MSCCNet(MODELS[name])
    sha256 = save_weights(
        made / f"{name}.safetensors", network.config, network.state_dict(), {"weights": "random"}
    )
    values = {
        "sha256": sha256,
        "config": network.config.to_dict(),
        "evaluation": {
            "auc": {"value": 0.5, "low": 0.0, "high": 1.0}, "data": "nothing: random weights"
        },
    }  # fmt: skip
    (made / f"{name}.json").write_text(json.dumps(values))
    return read_card(name, made)


def _multiply_adds(name: str) -> float:
    """10^9 multiply-adds of one crop, counted by torch over the forward pass."""
    config = MODELS[name]
    deployed = Deployed(MSCCNet(config))
    crop = torch.zeros((1, config.input_size, config.input_size, 3), dtype=torch.uint8)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        deployed(crop)
    return round(counter.get_total_flops() / 2e9, 3)


def _ceilings(device: str, seconds: float) -> dict[str, float]:
    side = _SIDES[device.partition(":")[0]]
    types = {"fp32": torch.float32, **TYPES}
    if device == "cpu":
        del types["fp16"]
    found = {}
    for name, type_ in types.items():
        left, right = (torch.randn(side, side, device=device, dtype=type_) for _ in range(2))

        def multiply(left: torch.Tensor = left, right: torch.Tensor = right) -> None:
            torch.matmul(left, right)
            _wait(device)

        found[name] = 2e-12 * side**3 * _rate(multiply, seconds)
    return found


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _rate(run: Callable[[], object], seconds: float) -> float:
    """Runs per second, the median of a few rounds after one round of warm-up."""
    run()
    found = []
    for _ in range(_ROUNDS):
        began, count = time.perf_counter(), 0
        while not count or time.perf_counter() - began < seconds / _ROUNDS:
            run()
            count += 1
        found.append(count / (time.perf_counter() - began))
    return median(found)


def _engines(
    card: Card, hardware: Hardware, device: str, absent: dict[str, str]
) -> Sequence[Engine]:
    """Those that can be set up on the device; TensorRT's are built where they have to be."""
    kind = device.partition(":")[0]
    found: list[Engine] = []
    for runtime in ENGINES:
        try:
            choices = engine_class(runtime).CHOICES
        except (DeepscanError, ImportError) as error:
            absent[runtime] = str(error)
            continue
        for where, precision in choices:
            if where != kind:
                continue
            name = f"{runtime}-{device}-{precision}"
            try:
                found.append(create_engine(Choice(runtime, device, precision), card, hardware))
            except (DeepscanError, ImportError) as error:
                absent[name] = str(error)
    return found


def _rates(
    engine: Engine,
    model: str,
    batches: Sequence[int],
    gmac: float,
    ceiling: float | None,
    seconds: float,
) -> list[Rate]:
    side = engine.input_size
    crops = np.random.default_rng(0).integers(
        0, 256, (min(max(batches), engine.max_batch), side, side, 3), dtype=np.uint8
    )
    found = []
    for batch in sorted(set(batches)):
        if batch > engine.max_batch:
            continue
        rate = batch * _rate(lambda batch=batch: engine.predict(crops[:batch]), seconds)  # type: ignore[misc]
        share = None if not ceiling else round(rate * gmac * 2e-3 / ceiling, 4)
        found.append(Rate(model, engine.name, batch, round(rate, 1), share))
    return found
