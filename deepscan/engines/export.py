"""Exports the network as an ONNX graph, in fp32 or with its convolutions in fp16 or bf16.

The graph itself holds the precision, as casts and converted weights: TensorRT 11 requires that, and
older versions then have no choice to make. Operations that need range stay in fp32: normalisation,
the class-centre product, graph step and attention, every softmax and mean.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import EngineError

if TYPE_CHECKING:
    from deepscan.models.deploy import Deployed

INPUT, OUTPUTS = "crops", ("scores", "masks")
PRECISIONS = ("fp32", "fp16", "bf16")
# 17 is the last opset of TensorRT 8.6. A convolution in bf16 exists from 22 on, TensorRT's from 10.
OPSETS = {"fp32": 17, "fp16": 17, "bf16": 22}
LOW = "low:"  # prefix of the name of every operation in low precision, and of the casts around it

# The trunk, by the names that the exporter derives from the modules.
TRUNK = ("/network/backbone/", "/network/mfa/", "/network/mscc/head/", "/network/decoder/")
# Its input is the output of the attention, as large as sums over all pixels: bf16 has the range of
# fp32, fp16 has not.
WIDE = ("/network/mscc/output/",)
# Operations of the trunk, and the number of their inputs that are values (not shapes or scales).
LOWERED = {
    "Conv": 3, "Relu": 1, "Add": 2, "MaxPool": 1, "AveragePool": 1, "Concat": 99, "Resize": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Agreement:
    """The largest differences between a graph and torch in fp32, both on a CPU."""

    score: float
    mask: float


def export(deployed: Deployed, precision: str = "fp32") -> bytes:
    """Export the network as an ONNX graph: (batch, S, S, 3) uint8 "crops" to "scores" and "masks".

    The batch is dynamic, other sizes are fixed. The graph has passed `onnx.checker`.

    Raises:
        EngineError: onnx is not installed, or the network cannot be exported in this precision.
    """
    onnx = import_onnx()
    import torch

    side = deployed.input_size
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as work:
            # The tracer warns about every constant, and that a newer exporter exists, which needs
            # further packages.
            warnings.simplefilter("ignore")
            path = Path(work, "network.onnx")
            torch.onnx.export(
                deployed,
                (torch.zeros((2, side, side, 3), dtype=torch.uint8),),
                path,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=OPSETS["fp32"],
                dynamo=False,
            )
            model = onnx.load(path)
    except (RuntimeError, OSError) as error:
        raise EngineError(f"the network cannot be written as ONNX: {error}") from error
    _free_batch(model)
    if precision != "fp32":
        model = lower(model, precision)
    onnx.checker.check_model(model, full_check=True)
    graph: bytes = model.SerializeToString()
    return graph


def lower(model: Any, precision: str) -> Any:
    """Convert the trunk of a graph to fp16 or bf16; the rest stays in fp32.

    Converted operations get the prefix `LOW`: a TensorRT that chooses precisions itself has to keep
    all others in fp32.

    Raises:
        EngineError: the graph does not have the expected trunk.
    """
    onnx = import_onnx()
    kind = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    if OPSETS[precision] != OPSETS["fp32"]:
        model = onnx.version_converter.convert_version(model, OPSETS[precision])
    trunk = TRUNK if precision == "fp16" else TRUNK + WIDE
    graph = model.graph
    typed = onnx.shape_inference.infer_shapes(model).graph.value_info
    floats = {
        each.name for each in typed if each.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    weights = {each.name: each for each in graph.initializer}
    nodes: list[Any] = []
    low: set[str] = set()  # tensors in low precision
    cast: dict[tuple[str, int], str] = {}  # (tensor, type) -> the tensor as that type

    def as_type(name: str, type_: int) -> str:
        """Cast a tensor to another type, once, before its first use."""
        if (name, type_) not in cast:
            cast[name, type_] = f"{name}:{onnx.TensorProto.DataType.Name(type_).lower()}"
            if name in weights:
                values = onnx.numpy_helper.to_array(weights[name])
                graph.initializer.append(_weights(values, cast[name, type_], type_))
            else:
                node = onnx.helper.make_node("Cast", [name], [cast[name, type_]], to=type_)
                node.name = f"{LOW}cast {cast[name, type_]}"
                nodes.append(node)
        return cast[name, type_]

    for node in graph.node:
        lowered = node.op_type in LOWERED and node.name.startswith(trunk)
        if lowered and node.output[0] in floats:  # the trunk also computes shapes
            for place, name in enumerate(node.input):
                if name and name not in low and place < LOWERED[node.op_type]:
                    node.input[place] = as_type(name, kind)
            low.update(node.output)
            node.name = LOW + node.name
        else:
            for place, name in enumerate(node.input):
                if name in low:
                    node.input[place] = as_type(name, onnx.TensorProto.FLOAT)
        nodes.append(node)
    if not low:
        raise EngineError(
            f"the exported network has no recognisable convolutions, so it cannot be converted to "
            f"{precision}. Use precision fp32"
        )
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    _drop_unused(graph)
    return model


def check(graph: bytes, deployed: Deployed, crops: NDArray[np.uint8]) -> Agreement:
    """Run the graph in ONNX Runtime without optimisation, and compare it with torch.

    Args:
        graph: the result of `export`.
        deployed: the exported network.
        crops: (N, S, S, 3) uint8 RGB, in one batch.

    Raises:
        EngineError: ONNX Runtime is not installed, cannot run the graph, or returns NaN.
    """
    import torch

    scores, masks = run(graph, crops)
    if not (np.isfinite(scores).all() and np.isfinite(masks).all()):
        raise EngineError("the ONNX graph gives NaN or infinity: its precision is too low for it")
    with torch.inference_mode():
        expected = [part.numpy() for part in deployed(torch.from_numpy(crops))]
    return Agreement(
        float(np.abs(scores - expected[0]).max()), float(np.abs(masks - expected[1]).max())
    )


def run(graph: bytes, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute scores and masks with ONNX Runtime on the CPU, without fusing operations.

    It has no operations in bf16, and few in fp16: those are computed in fp32 from rounded inputs
    and then rounded.

    Raises:
        EngineError: ONNX Runtime is not installed or cannot run the graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"ONNX Runtime cannot be imported ({error}). Run in deepscan's checkout: "
            "pip install '.[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(_widened(graph), options, ["CPUExecutionProvider"])
        scores, masks = session.run(list(OUTPUTS), {INPUT: crops})
    except Exception as error:  # ONNX Runtime's own kinds of error have no common name
        raise EngineError(f"ONNX Runtime cannot run the graph: {error}") from error
    return scores, masks


def _widened(graph: bytes) -> bytes:
    """Add casts around each operation in bf16; for fp16 ONNX Runtime does that itself."""
    onnx = import_onnx()
    model = onnx.load_from_string(graph)
    if model.opset_import[0].version != OPSETS["bf16"]:
        return graph
    nodes: list[Any] = []

    def cast(name: str, result: str, type_: int) -> Any:
        return onnx.helper.make_node("Cast", [name], [result], to=type_)

    for number, node in enumerate(model.graph.node):
        if node.op_type not in LOWERED or not node.name.startswith(LOW):
            nodes.append(node)
            continue
        for place in range(min(len(node.input), LOWERED[node.op_type])):
            wide = f"wide {number} {place}"
            nodes.append(cast(node.input[place], wide, onnx.TensorProto.FLOAT))
            node.input[place] = wide
        narrow = node.output[0]
        node.output[0] = f"wide {narrow}"
        nodes += [node, cast(node.output[0], narrow, onnx.TensorProto.BFLOAT16)]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    widened: bytes = model.SerializeToString()
    return widened


def import_onnx() -> Any:
    """Import onnx with the modules that are used here.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import onnx
        import onnx.version_converter
    except ImportError as error:
        raise EngineError(
            f"onnx cannot be imported ({error}), which is needed to build an engine. "
            "Run in deepscan's checkout: pip install '.[onnx]'"
        ) from error
    return onnx


def code_digest() -> str:
    """SHA-256 of the code that makes a graph, which changes independently of the weights."""
    from deepscan.models import weights

    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest() + weights.code_digest()


def _free_batch(model: Any) -> None:
    """Make the batch dynamic in a graph that was exported for a fixed one.

    With a dynamic batch the exporter computes every shape at run time. Here all sizes stay constant
    for the builder, and only the uses of the batch change: the first number of each shape is
    inferred, and resizing gets a factor.
    """
    onnx = import_onnx()
    graph = model.graph
    weights = {each.name for each in graph.initializer}
    same = {  # equal weights are stored once and have two names
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in weights
    }
    for node in graph.node:
        for place, given in enumerate(node.input):
            node.input[place] = same.get(given, given)
    _fix_pads(model)
    left = [node for node in graph.node if node.op_type in ("Reshape", "Resize")]
    del graph.value_info[:]  # the exporter does not know all of them
    while left:  # each fixed operation determines the sizes behind it
        typed = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
        sides = {
            each.name: [side.dim_value for side in each.type.tensor_type.shape.dim]
            for each in typed
        }
        known = [
            node
            for node in left
            if all(all(sides.get(name) or [0]) for name in (node.input[0], node.output[0]))
        ]
        if not known:
            raise EngineError(f"the exported network has no known size at {left[0].name}")
        for node in known:
            before, after = sides[node.input[0]], sides[node.output[0]]
            name = f"{node.name} to"
            if node.op_type == "Reshape":
                wanted = np.array([-1, *after[1:]], np.int64)
                node.input[1] = name
            else:
                wanted = (np.array(after) / np.array(before)).astype(np.float32)
                node.input[2] = name
                del node.input[3:]
            graph.initializer.append(onnx.numpy_helper.from_array(wanted, name))
        fixed = {node.name for node in known}
        left = [node for node in left if node.name not in fixed]
    _drop_unused(graph)
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]


def _fix_pads(model: Any) -> None:
    """Make the widths of each padding a constant: the exporter writes them as computed sums."""
    onnx = import_onnx()
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Pad" or node.input[1] not in makers:
            continue
        needed, asked = [], [node.input[1]]
        while asked:
            maker = makers.get(asked.pop())
            if maker is not None and maker not in needed:
                needed.append(maker)
                asked += maker.input
        widths = onnx.ValueInfoProto(name=node.input[1])
        ordered = [each for each in graph.node if each in needed]
        part = onnx.helper.make_graph(ordered, "pads", [], [widths], graph.initializer)
        opsets = list(model.opset_import)
        (values,) = ReferenceEvaluator(onnx.helper.make_model(part, opset_imports=opsets)).run(
            None, {}
        )
        node.input[1] = f"{node.name} by"
        graph.initializer.append(onnx.numpy_helper.from_array(values, node.input[1]))


def _drop_unused(graph: Any) -> None:
    """Remove operations and weights that no output uses."""
    used = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
    for things in (graph.node, graph.initializer):
        remaining = [
            each
            for each in things
            if used.intersection(each.output if things is graph.node else [each.name])
        ]
        del things[:]
        things.extend(remaining)


def _weights(values: NDArray[np.float32], name: str, type_: int) -> Any:
    onnx = import_onnx()
    if type_ == onnx.TensorProto.FLOAT16:
        with np.errstate(over="ignore"):  # an infinite weight shows in the check that follows
            return onnx.numpy_helper.from_array(values.astype(np.float16), name)
    return onnx.numpy_helper.from_array(
        values.astype(onnx.helper.tensor_dtype_to_np_dtype(type_)), name
    )
