"""The network in OpenVINO: the fastest engine on a CPU at every precision.

A network is converted once and kept in the cache, so the next start needs no torch model. What is
kept is OpenVINO's own portable form; compiling that for the CPU takes a fraction of a second.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from deepscan.engines.cache import cache_folder, key_of, read_entry, write_entry
from deepscan.engines.engine import EngineEntry, Predictions
from deepscan.engines.hardware import Hardware
from deepscan.engines.signal_stack import preserved_signal_stack
from deepscan.engines.validation import check_crops, check_predictions
from deepscan.errors import EngineError
from deepscan.models import weights as models
from deepscan.models.weights import Card

MAX_BATCH = 8
CENTRES = "__module.network.mscc/"  # what convert_model calls the operations of MSCC.forward


class OpenVINOEngine(EngineEntry):
    """Runs `Deployed` as compiled by OpenVINO for this CPU.

    In bf16 the class-centre product, the graph step and the attention stay in fp32.
    """

    CHOICES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("cpu", "bf16"),
        ("cpu", "fp32"),
    )

    def __init__(
        self,
        card: Card,
        hardware: Hardware,
        *,
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
    ) -> None:
        """
        Args:
            card: the model.
            hardware: what is there to run it on.
            device: "cpu", the only one.
            precision: "bf16" or "fp32"; by default bf16 if the CPU has instructions for it.
            threads: CPU threads; by default one for each core.

        Raises:
            EngineError: OpenVINO is not there, cannot take the network, or the CPU has no such
                instructions.
            ModelError: the weights are missing, damaged or of another network.
        """
        precision = precision or ("bf16" if hardware.has_bf16 else "fp32")
        self._set_identity(f"openvino-cpu-{precision}", card, MAX_BATCH)
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
        try:
            with preserved_signal_stack():
                self._compiled: Any = openvino.Core().compile_model(
                    read(graph, constants, openvino),
                    "CPU",
                    {
                        # Left alone it takes bf16 wherever it can.
                        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
                        "INFERENCE_NUM_THREADS": threads or hardware.cores,
                        "NUM_STREAMS": 1,
                        # Two scans on one machine would pin their threads to the same cores.
                        "ENABLE_CPU_PINNING": False,
                    },
                )
        except RuntimeError as error:
            raise EngineError(f"engine {self.name} cannot be compiled: {error}") from error

    def predict(self, crops: NDArray[np.uint8]) -> Predictions:
        """Judge (B, S, S, 3) uint8 RGB crops, 1 <= B <= max_batch.

        Raises:
            ValueError: the crops are of another shape or type.
            EngineError: a number is NaN or infinite, OpenVINO failed, or the engine is closed.
        """
        check_crops(crops, self.input_size, self.max_batch)
        if self._compiled is None:
            raise EngineError(f"engine {self.name} is closed")
        try:
            found = self._compiled(np.ascontiguousarray(crops))
        except RuntimeError as error:
            raise EngineError(
                f"engine {self.name} failed on {len(crops)} crops: {error}"
            ) from error
        return check_predictions(found[0], found[1], self.name)

    def close(self) -> None:
        """Give back the compiled network."""
        with preserved_signal_stack():
            self._compiled = None


def import_openvino(name: str) -> Any:
    """OpenVINO, without its telemetry.

    Raises:
        EngineError: it is not installed; `name` is the engine that wants it.
    """
    # On import OpenVINO tells its vendor that it was imported. Its own code takes a silent
    # stand-in where the package that does so is not to be had.
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


def written(model: Any, openvino: Any, folder: Path | None) -> tuple[bytes, bytes]:
    """XML and constants of a network, by way of files in `folder`.

    Raises:
        OSError: the disk is full.
    """
    with tempfile.TemporaryDirectory(dir=folder) as work:
        path = Path(work, "model.xml")
        openvino.serialize(model, path, path.with_suffix(".bin"))
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def converted(card: Card, openvino: Any) -> tuple[bytes, bytes]:
    """The network in OpenVINO's form, XML and constants: from the cache, else converted now."""
    facts = {
        "kind": "openvino",
        "weights": card.sha256,
        "config": repr(sorted(card.values["config"].items())),
        "openvino": openvino.__version__,
        "code": _code(),
    }
    folder, key = cache_folder(), key_of(facts)
    models.read_weights(card)  # a changed or missing file is an error also if the cache has it
    entry = read_entry(folder, key)
    if entry is not None and len(entry) == 2:
        return entry[0], entry[1]
    graph, constants = _convert(card, openvino, folder)
    write_entry(folder, key, facts, graph, constants)
    return graph, constants


def _code() -> str:
    """A hash of the code that a converted network comes from: it changes without the weights."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(Path(models.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _convert(card: Card, openvino: Any, folder: Path | None) -> tuple[bytes, bytes]:
    import torch

    deployed = models.load_model(card)
    side = deployed.input_size
    try:
        with warnings.catch_warnings():
            # The tracer remarks on every constant and size check, which are meant.
            warnings.simplefilter("ignore")
            model = openvino.convert_model(
                deployed,
                example_input=torch.zeros((2, side, side, 3), dtype=torch.uint8),
                input=[openvino.PartialShape([-1, side, side, 3])],
            )
            graph, constants = written(model, openvino, folder)
    except (RuntimeError, OSError) as error:
        raise EngineError(f"{card.name} cannot be converted for OpenVINO: {error}") from error
    graph, pinned = pin_centres(graph)
    if not pinned and card.values["config"].get("mscc", True):
        raise EngineError(
            f"{card.name} as converted by OpenVINO {openvino.__version__} does not show its class "
            "centres, so they cannot be kept in fp32. Use --engine torch"
        )
    return graph, constants


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
