"""The network in TensorRT, 8.6 to 11: the fastest engine on an NVIDIA GPU.

A TensorRT engine fits one GPU, driver and TensorRT version and contains executable code, so it is
built here, cached in the user's own folder with all facts that it depends on, and never loaded from
elsewhere. TensorRT's constructors crash without a CUDA device, so that is checked first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, cuda

from deepscan.engines import export
from deepscan.engines.cache import cache_folder, key_of, read_entry, write_entry
from deepscan.engines.engine import Answer, EngineEntry, EngineOptions
from deepscan.engines.hardware import Hardware, index_of
from deepscan.engines.parity import probe
from deepscan.engines.recipe import DEFAULT_BATCHES, Batches, recipe_of
from deepscan.errors import EngineError
from deepscan.models import weights as models
from deepscan.models.card import Card, Kind
from deepscan.models.onnx_file import load_graph

logger = logging.getLogger(__name__)
steps = logging.getLogger("deepscan.engines.steps")  # of what takes minutes, for who waits

SLOTS = 2  # buffers: while one batch is computed, the next is copied and uploaded
WORKSPACE = 8 * 2**30  # bytes that a build may use to try things out, but half of what is free
DRIVER = Path("/proc/driver/nvidia/version")
UNPINNED = ("CAST", "CONSTANT", "IDENTITY", "SHAPE")  # layers that compute nothing


class TensorRTEngine(EngineEntry):
    """Runs `Deployed` as built by TensorRT for this GPU.

    The convolutions are in the named precision, everything else in fp32. In fp16 the latter may
    use TF32: fp32's range, and as many significant bits as the fp16 numbers that come in.
    """

    KINDS: ClassVar[tuple[Kind, ...]] = ("network", "onnx")
    CHOICES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("cuda", "fp16"),
        ("cuda", "bf16"),
        ("cuda", "fp32"),
    )

    def __init__(self, card: Card, hardware: Hardware, options: EngineOptions) -> None:
        """On the first CUDA device by default, in fp16; of an ONNX detector in fp32 only.

        Raises:
            EngineError: there is no CUDA device or no TensorRT, or the engine cannot be built or
                run; unless `options.allow_build` also if it was never built.
            ModelError: the weights are missing, damaged or of another network.
        """
        device = options.device or "cuda"
        precision = options.precision or ("fp16" if card.kind == "network" else "fp32")
        if device == "cpu":
            raise EngineError(
                f"engine tensorrt-cpu: only CUDA. Use --engine tensorrt-cuda-{precision}"
            )
        self._batch, self._batches = card.input.batch, batches_of(card, precision)
        self._mask = (card.output.mask_size or card.input.size // 4) if card.has_mask else 0
        self._set_identity(f"tensorrt-{device}-{precision}", card, SLOTS * self._batches.max)
        if card.kind == "onnx" and precision != "fp32":
            raise EngineError(
                f"engine {self.name}: ONNX detectors run in fp32. Use --engine tensorrt-fp32"
            )
        hardware.need_gpu(device, self.name)
        trt = _import_tensorrt(self.name)
        self._device = torch_device(device)
        models.read_weights(card)  # a changed or missing file is an error also with an engine
        facts = facts_of(card, hardware, device, precision, self._batches, str(trt.__version__))
        self._logger = _make_logger(trt)
        self._slots: list[_Slot] = []
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._copies: Any = None  # the stream of uploads
        self._stream: Any = None  # the stream of everything else
        cached = _read(facts)
        if cached is None and not options.allow_build:
            raise EngineError(
                f"engine {self.name} is not built for this machine. Run: {_builds(card, precision)}"
            )
        with self._current():
            if cached is not None:
                try:
                    self._start(trt, cached[0])
                except EngineError as error:
                    if not options.allow_build:
                        raise
                    logger.warning("%s; it is built again", error)
                    cached = None
            if cached is None:
                logger.warning("engine %s is being built; this takes minutes, once", self.name)
                cached = _build(trt, self._logger, self.name, card, precision, self._batches)
                write_entry(cache_folder(), key_of(facts), facts, *cached)
                self._start(trt, cached[0])
        self.fingerprint = fingerprint_of(facts, *cached)

    @classmethod
    def choices_for(cls, kind: Kind) -> tuple[tuple[str, str], ...]:
        """Of an ONNX detector fp32 alone: its graph says nothing of what may leave that."""
        return cls.CHOICES if kind == "network" else (("cuda", "fp32"),)

    @staticmethod
    def build_key(
        card: Card, hardware: Hardware, precision: str = "fp16", device: str = "cuda"
    ) -> str | None:
        """The cache key of such an engine on this machine; None if it cannot run here."""
        try:
            hardware.need_gpu(device, "tensorrt")
            trt = _import_tensorrt("tensorrt")
            batches = batches_of(card, precision)
        except EngineError as error:
            logger.info("%s", error)
            return None
        if precision == "bf16" and not _strongly_typed(trt):
            return None
        if card.kind == "onnx" and precision != "fp32":
            return None
        return key_of(facts_of(card, hardware, device, precision, batches, str(trt.__version__)))

    @classmethod
    def is_cached(
        cls, card: Card, hardware: Hardware, precision: str, device: str = "cuda"
    ) -> bool:
        """True if the cache holds such an engine for just this machine; makes nothing."""
        key = cls.build_key(card, hardware, precision, device)
        return key is not None and read_entry(cache_folder(), key) is not None

    def _run(self, crops: NDArray[np.uint8]) -> Answer:
        most = self._batches.max
        pieces = [crops[start : start + most] for start in range(0, len(crops), most)]
        with self._current():
            for slot, piece in zip(self._slots, pieces, strict=False):
                self._enqueue(slot, piece)
            found = [
                slot.read_outputs(len(piece))
                for slot, piece in zip(self._slots, pieces, strict=False)
            ]
        scores = np.concatenate([each for each, _ in found])
        return scores, np.concatenate([each for _, each in found]) if self._mask else None

    def close(self) -> None:
        """Release the engine's memory on the GPU."""
        super().close()
        self._slots = []
        self._context = self._engine = self._runtime = None

    def _enqueue(self, slot: _Slot, piece: NDArray[np.uint8]) -> None:
        """Copy the crops, then upload, compute and download asynchronously."""
        count = len(piece)
        padded = next(step for step in self._batches.sizes() if step >= count)
        slot.sent[:count].numpy()[...] = piece
        slot.sent[count:padded] = 0  # padding must not depend on the last batch
        with cuda.stream(self._copies):
            slot.crops[:padded].copy_(slot.sent[:padded], non_blocking=True)
            slot.arrived.record(self._copies)
        with cuda.stream(self._stream):
            self._stream.wait_event(slot.arrived)
            self._launch(slot, padded)
            slot.got_scores[:padded].copy_(slot.scores[:padded], non_blocking=True)
            slot.got_masks[:padded].copy_(slot.masks[:padded], non_blocking=True)
            slot.done.record(self._stream)

    def _launch(self, slot: _Slot, batch: int) -> None:
        side, context = self.input_size, self._context
        ready = context.set_input_shape(export.INPUT, (batch, side, side, 3))
        places = {export.INPUT: slot.crops, export.OUTPUTS[0]: slot.scores}
        if self._mask:
            places[export.OUTPUTS[1]] = slot.masks
        for name, tensor in places.items():
            ready = context.set_tensor_address(name, tensor.data_ptr()) and ready
        if not ready or not context.execute_async_v3(self._stream.cuda_stream):
            raise EngineError(f"engine {self.name} failed on a batch of {batch}{self._why()}")

    def _start(self, trt: Any, plan: bytes) -> None:
        """Make an engine ready to run.

        Raises:
            EngineError: TensorRT refuses it, or it is of another network.
        """
        with self._failures("cannot be started"):
            self._runtime = trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(
                    f"engine {self.name}: TensorRT {trt.__version__} refuses it{self._why()}"
                )
            self._check_bindings(trt)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineError(
                    f"engine {self.name} finds too little memory on the GPU{self._why()}"
                )
            make_stream: Callable[[str], Any] = cuda.Stream
            self._copies, self._stream = make_stream(self._device), make_stream(self._device)
            side, most = self.input_size, self._batches.max
            self._slots = [_Slot.of(most, side, self._mask, self._device) for _ in range(SLOTS)]

    def _check_bindings(self, trt: Any) -> None:
        """Check inputs and outputs of the engine before setting addresses."""
        engine, side, mask = self._engine, self.input_size, self._mask
        batch = -1 if self._batch is None else self._batch
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        wanted = {
            export.INPUT: (trt.TensorIOMode.INPUT, trt.uint8, (batch, side, side, 3)),
            export.OUTPUTS[0]: (trt.TensorIOMode.OUTPUT, trt.float32, (batch,)),
        }
        if mask:
            shape = (batch, mask, mask)
            wanted[export.OUTPUTS[1]] = (trt.TensorIOMode.OUTPUT, trt.float32, shape)
        found = {
            name: (
                engine.get_tensor_mode(name),
                engine.get_tensor_dtype(name),
                tuple(engine.get_tensor_shape(name)),
            )
            for name in names
        }
        if found != wanted:
            raise EngineError(f"engine {self.name} takes and gives {found}, which is not ours")

    def _current(self) -> Any:
        """Context that makes the engine's GPU the current one for TensorRT and torch."""
        return cuda.device(self._device)

    def _why(self) -> str:
        return self._logger.why()  # type: ignore[no-any-return]


@dataclass(slots=True)
class _Slot:
    """Buffers of one batch, in page-locked memory and on the GPU, and its events."""

    sent: Tensor  # (max, S, S, 3) uint8, page-locked
    crops: Tensor  # the same on the GPU
    scores: Tensor  # (max,) float32 on the GPU
    masks: Tensor  # (max, S / 4, S / 4) float32 on the GPU
    got_scores: Tensor  # the same two, page-locked
    got_masks: Tensor
    arrived: Any
    done: Any

    @classmethod
    def of(cls, most: int, side: int, mask: int, device: str) -> _Slot:
        crops, masks = (most, side, side, 3), (most, mask, mask)
        make_event: Callable[[], Any] = cuda.Event
        return cls(
            sent=_pinned(crops, torch.uint8),
            crops=torch.empty(crops, dtype=torch.uint8, device=device),
            scores=torch.empty(most, dtype=torch.float32, device=device),
            masks=torch.empty(masks, dtype=torch.float32, device=device),
            got_scores=_pinned((most,), torch.float32),
            got_masks=_pinned(masks, torch.float32),
            arrived=make_event(),
            done=make_event(),
        )

    def read_outputs(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Wait for the batch and return its results without the padding."""
        self.done.synchronize()
        return self.got_scores[:count].numpy().copy(), self.got_masks[:count].numpy().copy()


def torch_device(device: str) -> str:
    """The torch device of "cuda" or "cuda:N"."""
    return f"cuda:{index_of(device)}"


def facts_of(
    card: Card, hardware: Hardware, device: str, precision: str, batches: Batches, version: str
) -> dict[str, str]:
    """The facts that an engine depends on and that are known before it is built.

    The number of one of several equal GPUs is not among them.
    """
    major, minor = cuda.get_device_capability(index_of(device))
    return {
        "kind": "tensorrt",
        "model": card.name,
        "weights": card.sha256,
        "config": repr(sorted(card.values.get("config", {}).items())),
        "precision": precision,
        "batches": f"{batches.min}/{batches.opt}/{batches.max}",
        "tensorrt": version,
        "torch": torch.__version__,
        "driver": _driver(),
        "gpu": hardware.need_gpu(device, "tensorrt"),
        "sm": f"{major}.{minor}",
        "code": export.code_digest() + hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }


def batches_of(card: Card, precision: str) -> Batches:
    """How many crops at once an engine of a model is built for."""
    if (batch := card.input.batch) is not None:
        return Batches(batch, batch, batch)
    recipe = recipe_of(card.name, "tensorrt", precision)
    return (recipe.batches if recipe else None) or DEFAULT_BATCHES


def _builds(card: Card, precision: str) -> str:
    """The command that builds an engine of a model."""
    if card.kind == "onnx":
        return f"deepscan VIDEO --model {card.name} --engine tensorrt"
    return f"deepscan engine build {card.name}-tensorrt-{precision}"


def fingerprint_of(facts: dict[str, str], plan: bytes, note: bytes) -> str:
    """The fingerprint of a built engine: two builds from the same facts may differ."""
    return key_of(
        {**facts, "plan": hashlib.sha256(plan).hexdigest(), "note": note.decode(errors="replace")}
    )


def _read(facts: dict[str, str]) -> tuple[bytes, bytes] | None:
    entry = read_entry(cache_folder(), key_of(facts))
    return (entry[0], entry[1]) if entry is not None and len(entry) == 2 else None


def _build(
    trt: Any, log: Any, name: str, card: Card, precision: str, batches: Batches
) -> tuple[bytes, bytes]:
    """Export the network, check the graph, build the engine; returns its bytes and a note."""
    if precision == "bf16" and not _strongly_typed(trt):
        raise EngineError(
            f"engine {name}: TensorRT {trt.__version__} has no bf16. Use precision fp16"
        )
    started = time.monotonic()
    steps.info("writing %s as ONNX in %s", card.name, precision)
    graph, differs = _graph(card, precision)
    steps.info("TensorRT %s is tuning the engine, which takes minutes", trt.__version__)
    try:
        plan = _compile(trt, log, graph, precision, batches, card.input.size)
    except (RuntimeError, TypeError, OSError) as error:
        raise EngineError(f"engine {name} cannot be built: {error}{log.why()}") from error
    if plan is None:
        raise EngineError(
            f"engine {name} cannot be built by TensorRT {trt.__version__} for "
            f"{cuda.get_device_name(cuda.current_device())}{log.why()}"
        )
    note = {
        "onnx_sha256": hashlib.sha256(graph).hexdigest(),
        "onnx_differs": differs,
        "seconds": round(time.monotonic() - started, 1),
    }
    return plan, json.dumps(note, sort_keys=True).encode()


def _graph(card: Card, precision: str) -> tuple[bytes, dict[str, float] | None]:
    """A model as ONNX, and how far that is from torch; a detector is ONNX already."""
    if card.kind == "onnx":
        return load_graph(card), None
    deployed = models.load_model(card)
    graph = export.export(deployed, precision)
    return graph, asdict(export.check(graph, deployed, probe(deployed.input_size)[::8]))


def _compile(
    trt: Any, log: Any, graph: bytes, precision: str, batches: Batches, side: int
) -> bytes | None:
    """Build the engine in TensorRT. Up to version 9 the precisions have to be set here."""
    builder = trt.Builder(log)
    flags, creation = 0, trt.NetworkDefinitionCreationFlag
    for flag in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):  # each where it exists; 11 knows neither
        if hasattr(creation, flag):
            flags |= 1 << int(getattr(creation, flag))
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as work:
        path = Path(work, "network.onnx")
        path.write_bytes(graph)
        if not parser.parse_from_file(str(path)):
            told = "; ".join(str(parser.get_error(n)) for n in range(parser.num_errors))
            raise RuntimeError(f"its ONNX parser says: {told or 'nothing'}")
    config = builder.create_builder_config()
    free, _total = cuda.mem_get_info()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, min(WORKSPACE, free // 2))
    if precision != "fp16" and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if precision == "fp16" and not _strongly_typed(trt):
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        _keep_precision(trt, network)
    profile = builder.create_optimization_profile()
    shapes = [(batch, side, side, 3) for batch in (batches.min, batches.opt, batches.max)]
    profile.set_shape(export.INPUT, *shapes)
    config.add_optimization_profile(profile)
    timings = {
        "kind": "timings",
        "tensorrt": str(trt.__version__),
        "gpu": cuda.get_device_name(cuda.current_device()),
        "driver": _driver(),
    }
    known = read_entry(cache_folder(), key_of(timings))
    config.set_timing_cache(
        config.create_timing_cache(known[0] if known else b""), ignore_mismatch=False
    )
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return None
    write_entry(
        cache_folder(), key_of(timings), timings, bytes(config.get_timing_cache().serialize())
    )
    return bytes(plan)


def _keep_precision(trt: Any, network: Any) -> None:
    """Set every layer outside the trunk to fp32."""
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.name.startswith(export.LOW) or layer.type.name in UNPINNED:
            continue
        floats = [
            place
            for place in range(layer.num_outputs)
            if layer.get_output(place).dtype == trt.float32
        ]
        if floats:
            layer.precision = trt.float32
        for place in floats:
            layer.set_output_type(place, trt.float32)


def _strongly_typed(trt: Any) -> bool:
    """True if types in the graph are binding: on request in 10, always from 11 on."""
    major = int(str(trt.__version__).partition(".")[0])
    return major >= 11 or hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _make_logger(trt: Any) -> Any:
    """Make a logger that passes TensorRT's messages on and keeps the last error."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the binding wants it by name
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            grave = int(severity)  # 0 internal error, 1 error, 2 warning, 3 info, 4 verbose
            if grave <= 1:
                self.last_error = " ".join(message.split())
            logger.log(logging.INFO if grave <= 2 else logging.DEBUG, "TensorRT: %s", message)

        def why(self) -> str:
            """The last error in brackets, once; "" if there is none."""
            text, self.last_error = self.last_error, ""
            return f" (TensorRT: {text})" if text else ""

    return Logger()


def _driver() -> str:
    """The version of the NVIDIA driver, "unknown" if not available."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)*", DRIVER.read_text(errors="replace"))
    except OSError:
        return "unknown"
    return found.group() if found else "unknown"


def _pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def _import_tensorrt(name: str) -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise EngineError(
            f"engine {name}: TensorRT cannot be imported ({error}). Run: pip install tensorrt, or "
            "use --engine torch-cuda"
        ) from error
    return tensorrt
