"""The network in OpenVINO: the fastest engine on a CPU at every precision.

A network is converted once and cached in OpenVINO's portable form, so the next start needs no torch
model; compiling it for the CPU takes a fraction of a second.
"""

from __future__ import annotations

import hashlib
import io
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from deepscan.engines.cache import cache_folder, key_of, read_entry, write_entry
from deepscan.engines.engine import Answer, EngineEntry, EngineOptions, filled_up
from deepscan.engines.hardware import Hardware
from deepscan.engines.signal_stack import preserved_signal_stack
from deepscan.errors import EngineError
from deepscan.models import weights as models
from deepscan.models.card import Card, Kind
from deepscan.models.onnx_file import load_graph

logger = logging.getLogger(__name__)

Graph = tuple[bytes, bytes]  # XML and constants

MAX_BATCH = 8
CENTRES = "__module.network.mscc/"  # what convert_model calls the operations of MSCC.forward


class OpenVINOEngine(EngineEntry):
    """Runs `Deployed` as compiled by OpenVINO for this CPU.

    In bf16 the class-centre product, the graph step and the attention stay in fp32.
    """

    KINDS: ClassVar[tuple[Kind, ...]] = ("network", "onnx")
    CHOICES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("cpu", "bf16"),
        ("cpu", "fp32"),
    )

    def __init__(self, card: Card, hardware: Hardware, options: EngineOptions) -> None:
        """On the CPU only, by default in bf16 if it has instructions for that.

        Raises:
            EngineError: OpenVINO is not there, cannot take the network, or the CPU has no such
                instructions.
            ModelError: the weights are missing, damaged or of another network.
        """
        device = options.device
        precision = options.precision or ("bf16" if hardware.has_bf16 else "fp32")
        self._batch = card.input.batch
        self._set_identity(f"openvino-cpu-{precision}", card, self._batch or MAX_BATCH)
        if device not in (None, "cpu"):
            raise EngineError(f"engine openvino-{device}: only the CPU. Use --engine {self.name}")
        if precision == "bf16":
            hardware.need_bf16(self.name, "openvino-fp32")
        openvino = import_openvino(self.name)
        graph, constants = converted(card, openvino)
        self.fingerprint = key_of(
            {
                "engine": self.name,
                "weights": card.sha256,
                "openvino": openvino.__version__,
                "cpu": f"{hardware.cpu} {' '.join(hardware.flags)}",
                "graph": hashlib.sha256(graph + constants).hexdigest(),
            }
        )
        self._compiled: Any = compile_graph(
            (graph, constants),
            openvino,
            what=f"engine {self.name}",
            bf16=precision == "bf16",
            threads=options.threads or hardware.cores,
        )

    def _run(self, crops: NDArray[np.uint8]) -> Answer:
        found = self._compiled(filled_up(crops, self._batch))
        count = len(crops)
        return found[0][:count], found[1][:count] if self.model.has_mask else None

    def close(self) -> None:
        """Release the compiled network."""
        super().close()
        with preserved_signal_stack():
            self._compiled = None


def import_openvino(name: str) -> Any:
    """OpenVINO, without its telemetry.

    Raises:
        EngineError: it is not installed; `name` is the engine that wants it.
    """
    # On import OpenVINO reports to its vendor. It has a silent replacement for the case that the
    # package for these reports is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            f"engine {name}: OpenVINO cannot be imported ({error}). Run: pip install openvino, or "
            "use --engine torch"
        ) from error
    return openvino


def read(graph: bytes, constants: bytes, openvino: Any) -> Any:
    """A network in memory, of its XML and its constants."""
    return openvino.Core().read_model(graph, openvino.Tensor(np.frombuffer(constants, np.uint8)))


def written(model: Any, openvino: Any, folder: Path | None) -> Graph:
    """XML and constants of a network, by way of files in `folder`.

    Raises:
        OSError: the disk is full.
    """
    with tempfile.TemporaryDirectory(dir=folder) as work:
        path = Path(work, "model.xml")
        openvino.serialize(model, path, path.with_suffix(".bin"))
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def compile_graph(
    graph: Graph, openvino: Any, *, what: str, threads: int, bf16: bool = False
) -> Any:
    """A network ready to run on the CPU; drop it under `preserved_signal_stack`.

    Args:
        graph: as `cached_graphs` gives it.
        openvino: the package.
        what: names it in errors.
        threads: CPU threads.
        bf16: compute in bf16 where the graph does not forbid it; else everything in fp32.

    Raises:
        EngineError: OpenVINO refuses it.
    """
    settings = {
        # Left alone it takes bf16 wherever it can.
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Two scans on one machine would pin their threads to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        with preserved_signal_stack():
            return openvino.Core().compile_model(read(*graph, openvino), "CPU", settings)
    except RuntimeError as error:
        raise EngineError(f"{what} cannot be compiled: {error}") from error


def cached_graphs(
    what: str, facts: Mapping[str, str], openvino: Any, convert: Callable[[], Sequence[Graph]]
) -> tuple[Graph, ...]:
    """Networks in OpenVINO's form: from the cache, else converted now and stored there.

    Args:
        what: names them in the line that says that they are converted.
        facts: all that they depend on, but OpenVINO's version.
        openvino: the package.
        convert: makes them; imports torch.
    """
    facts = {"kind": "openvino", **facts, "openvino": openvino.__version__}
    folder, key = cache_folder(), key_of(facts)
    entry = read_entry(folder, key)
    if entry:
        return tuple(zip(entry[::2], entry[1::2], strict=True))
    logger.warning("converting %s for OpenVINO; this takes some seconds, once", what)
    began = time.monotonic()
    graphs = tuple(convert())
    write_entry(folder, key, facts, *(part for graph in graphs for part in graph))
    logger.info("converted %s in %.1f s", what, time.monotonic() - began)
    return graphs


def converted(card: Card, openvino: Any) -> Graph:
    """The network of a card in OpenVINO's form.

    Raises:
        EngineError: it cannot be converted.
        ModelError: the weights are missing or changed, also if the cache holds the network.
    """
    facts = {
        "weights": card.sha256,
        "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest() + models.code_digest(),
    }
    if card.kind == "onnx":
        graph = load_graph(card)
        (made,) = cached_graphs(card.name, facts, openvino, lambda: [_read_onnx(graph, openvino)])
        return made
    models.read_weights(card)
    facts["config"] = repr(sorted(card.values["config"].items()))
    (made,) = cached_graphs(card.name, facts, openvino, lambda: [_convert(card, openvino)])
    return made


def _read_onnx(graph: bytes, openvino: Any) -> Graph:
    try:
        with preserved_signal_stack():
            model = openvino.Core().read_model(io.BytesIO(graph))
            return written(model, openvino, cache_folder())
    except (RuntimeError, OSError) as error:
        raise EngineError(
            f"OpenVINO cannot take the model ({error}). Use --engine onnxruntime"
        ) from error


def _convert(card: Card, openvino: Any) -> Graph:
    import torch

    deployed = models.load_model(card)
    side = deployed.input_size
    example = torch.zeros((2, side, side, 3), dtype=torch.uint8)
    graph, constants = convert_module(deployed, example, [-1, side, side, 3], openvino, card.name)
    graph, pinned = pin_centres(graph)
    if not pinned and card.values["config"].get("mscc", True):
        raise EngineError(
            f"{card.name} as converted by OpenVINO {openvino.__version__} does not show its class "
            "centres, so they cannot be kept in fp32. Use --engine torch"
        )
    return graph, constants


def convert_module(
    module: Any, example: Any, shape: Sequence[int], openvino: Any, what: str
) -> Graph:
    """A torch module with one input in OpenVINO's form; sides of -1 in `shape` are dynamic.

    Raises:
        EngineError: OpenVINO cannot convert it, or the disk is full.
    """
    try:
        with warnings.catch_warnings():
            # The tracer remarks on every constant and size check, which are meant.
            warnings.simplefilter("ignore")
            model = openvino.convert_model(
                module, example_input=example, input=[openvino.PartialShape(list(shape))]
            )
            return written(model, openvino, cache_folder())
    except (RuntimeError, OSError) as error:
        raise EngineError(f"{what} cannot be converted for OpenVINO: {error}") from error


def pin_centres(graph: bytes) -> tuple[bytes, int]:
    """Mark the operations of MSCC as those that stay in fp32; also says how many they are.

    The mark ("precise") is OpenVINO's own, but there is none in its Python interface. It does not
    outlive the rewriting of a new softmax into the old one, so that is done here.
    """
    tree = ElementTree.fromstring(graph)
    pinned = 0
    for layer in tree.iter("layer"):
        if not layer.get("name", "").startswith(CENTRES) or layer.get("type") == "Const":
            continue
        data = layer.find("data")
        if layer.get("type") == "SoftMax" and data is not None and data.get("axis", "-").isdigit():
            layer.set("version", "opset1")
        notes = layer.find("rt_info")
        if notes is None:
            notes = ElementTree.Element("rt_info")
            layer.insert(0 if data is None else 1, notes)
        ElementTree.SubElement(notes, "attribute", name="precise", version="0")
        pinned += 1
    return ElementTree.tostring(tree, encoding="utf-8", xml_declaration=True), pinned
