"""A detector's ONNX graph with our border round it: uint8 crops in, scores and masks out.

Normalisation, order of colours and axes, and polarity become part of the graph, as in our own
networks: no engine can get them differently, and the SHA-256 of the file covers them. What is
written here needs the package onnx; running it does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from deepscan.errors import ModelError
from deepscan.models.card import InputFormat, OutputFormat
from deepscan.models.onnx_file import INPUT, MASKS, SCORES

MAX_MASK = 128  # pixels a side: a frame's masks are kept on the disk
_OURS = "deepscan:"  # begins the name of everything that is added


def wrap(
    model: Any,
    inputs: InputFormat,
    outputs: OutputFormat,
    names: Mapping[str, str],
) -> tuple[bytes, OutputFormat]:
    """The graph with uint8 (batch, S, S, 3) RGB "crops" in, "scores" (batch,) and "masks" out.

    Masks of more than `MAX_MASK` pixels a side are averaged down, where they divide.

    Args:
        model: an onnx.ModelProto; changed in place.
        inputs: how it takes a crop.
        outputs: what its numbers mean; comes back with the size of the masks.
        names: those of its outputs: "score" and, with a mask, "mask".

    Raises:
        ModelError: the graph cannot be wrapped, or is not as ONNX has it.
    """
    import onnx

    graph = model.graph
    constants = {each.name for each in graph.initializer}
    (port,) = (each for each in graph.input if each.name not in constants)
    shapes = _shapes(onnx, model, inputs, port)
    _check_score(shapes.get(names["score"]), names["score"], outputs)
    side, pool = 0, 1
    if outputs.mask is not None:
        side = _mask_side(shapes.get(names["mask"]), names["mask"], outputs)
        pool = -(-side // MAX_MASK)
        pool = pool if side % pool == 0 else 1
        outputs = replace(outputs, mask_size=side // pool)
    border = _Border(onnx, graph)
    before = _crops_to(border, inputs, port)
    inner = list(graph.node)
    border.nodes.clear()
    results = [_score(border, names["score"], outputs)]
    if outputs.mask is not None:
        results.append(_mask(border, names["mask"], outputs, side))
    after = list(border.nodes)
    del graph.node[:]
    graph.node.extend([*before, *inner, *after])
    batch = "batch" if inputs.batch is None else inputs.batch
    shape = [batch, inputs.size, inputs.size, 3]
    crops = onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, shape)
    kept = [each for each in graph.input if each.name in constants]
    del graph.input[:], graph.value_info[:], graph.output[:]
    graph.input.extend([crops, *kept])
    masks = [batch, outputs.mask_size, outputs.mask_size]
    for name, sides in zip(results, ([batch], masks), strict=False):
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides))
    note = json.dumps([asdict(inputs), asdict(outputs)], sort_keys=True)
    onnx.helper.set_model_props(model, {"deepscan": note})
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's and the inference's errors have no common name
        first = " ".join(str(error).split())[:300]
        raise ModelError(f"its graph does not fit what was said of it: {first}") from error
    data: bytes = model.SerializeToString()
    return data, outputs


def _shapes(onnx: Any, model: Any, inputs: InputFormat, port: Any) -> dict[str, list[int | None]]:
    """The sides of all tensors for crops of the size that was said; None where one may vary."""
    side, count = inputs.size, inputs.batch
    sides = [count, 3, side, side] if inputs.layout == "nchw" else [count, side, side, 3]
    dims = port.type.tensor_type.shape.dim
    del dims[:]
    for each in sides:
        if each is None:
            dims.add().dim_param = "batch"
        else:
            dims.add().dim_value = each
    del model.graph.value_info[:]
    for each in model.graph.output:
        each.type.tensor_type.ClearField("shape")
    try:
        typed = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:
        first = " ".join(str(error).split())[:300]
        raise ModelError(f"its graph does not take crops of {side} px: {first}") from error
    return {
        each.name: [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in each.type.tensor_type.shape.dim
        ]
        for each in (*typed.value_info, *typed.output)
        if each.type.tensor_type.HasField("shape")
    }


def _check_score(shape: list[int | None] | None, name: str, outputs: OutputFormat) -> None:
    if shape is None:
        return
    wanted = 2 if outputs.score.startswith("two-") else 1
    known = [side for side in shape[1:] if side is not None]
    if len(known) == len(shape) - 1 and math.prod(known) != wanted:
        count = math.prod(known)
        raise ModelError(
            f"its output {name} holds {count} numbers for a crop, and {outputs.score} are {wanted}"
            ": give another --score"
        )


def _mask_side(shape: list[int | None] | None, name: str, outputs: OutputFormat) -> int:
    """The side of its masks in pixels."""
    assert outputs.mask is not None
    two = outputs.mask.startswith("two-")
    wanted = "(N, 2, h, w)" if two else "(N, 1, h, w) or (N, h, w)"
    if shape is None or len(shape) < 3 or shape[-1] is None or shape[-2] is None:
        raise ModelError(
            f"the size of its mask {name} does not show in the file: export it for one size of crop"
        )
    fits = (len(shape) == 4 and shape[1] == (2 if two else 1)) or (len(shape) == 3 and not two)
    if not fits or shape[-1] != shape[-2]:
        sides = ", ".join("N" if side is None else str(side) for side in shape)
        raise ModelError(
            f"its mask {name} is ({sides}), not {wanted} with h = w: give another --mask"
        )
    return shape[-1]


class _Border:
    """Nodes and constants that are added to a graph."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx, self.graph = onnx, graph
        self.nodes: list[Any] = []
        taken = {name for node in graph.node for name in node.output}
        if any(name.startswith(_OURS) for name in taken):
            raise ModelError("it was wrapped by deepscan before: import what that was made of")

    def add(self, operator: str, given: list[str], result: str = "", **attributes: Any) -> str:
        result = result or f"{_OURS}{len(self.graph.initializer)}.{len(self.nodes)} {operator}"
        made = self.onnx.helper.make_node(operator, given, [result], **attributes)
        self.nodes.append(made)
        return result

    def constant(self, values: Any, type_: str) -> str:
        import numpy as np

        name = f"{_OURS}{len(self.graph.initializer)}"
        array = np.array(values, type_)
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def floats(self, name: str) -> str:
        return self.add("Cast", [name], to=self.onnx.TensorProto.FLOAT)


def _crops_to(border: _Border, inputs: InputFormat, port: Any) -> list[Any]:
    """The nodes that convert crops to the input of the graph."""
    pixels = border.floats(INPUT)
    if inputs.colours == "bgr":
        pixels = border.add("Gather", [pixels, border.constant([2, 1, 0], "int64")], axis=3)
    pixels = border.add("Sub", [pixels, border.constant(inputs.mean, "float32")])
    pixels = border.add("Div", [pixels, border.constant(inputs.std, "float32")])
    if inputs.layout == "nchw":
        pixels = border.add("Transpose", [pixels], perm=[0, 3, 1, 2])
    border.add("Cast", [pixels], port.name, to=port.type.tensor_type.elem_type)
    return list(border.nodes)


def _score(border: _Border, name: str, outputs: OutputFormat) -> str:
    value = border.floats(name)
    if outputs.score in ("two-logits", "two-probabilities"):
        value = border.add("Reshape", [value, border.constant([-1, 2], "int64")])
        value = _of_two(border, value, outputs.manipulated, logits=outputs.score == "two-logits")
    else:
        value = border.add("Reshape", [value, border.constant([-1], "int64")])
        value = _of_one(border, value, outputs.manipulated, logit=outputs.score == "logit")
    return border.add("Identity", [value], SCORES)


def _mask(border: _Border, name: str, outputs: OutputFormat, side: int) -> str:
    value = border.floats(name)
    which = outputs.mask_manipulated
    if outputs.mask in ("two-logits", "two-probabilities"):  # (B, 2, h, w)
        value = _of_two(border, value, which, logits=outputs.mask == "two-logits")
    else:  # (B, 1, h, w) or (B, h, w)
        value = _of_one(border, value, which, logit=outputs.mask == "logit")
    if pool := side // outputs.mask_size - 1:
        value = border.add("Reshape", [value, border.constant([-1, 1, side, side], "int64")])
        window = [pool + 1, pool + 1]
        value = border.add("AveragePool", [value], kernel_shape=window, strides=window)
    sides = border.constant([-1, outputs.mask_size, outputs.mask_size], "int64")
    value = border.add("Reshape", [value, sides])
    return border.add("Identity", [value], MASKS)


def _of_two(border: _Border, value: str, which: int, *, logits: bool) -> str:
    """P of one of two classes on axis 1, which goes: of two, softmax is a sigmoid."""
    one, other = (
        border.add("Gather", [value, border.constant(place, "int64")], axis=1)
        for place in (which, 1 - which)
    )
    return border.add("Sigmoid", [border.add("Sub", [one, other])]) if logits else one


def _of_one(border: _Border, value: str, which: int, *, logit: bool) -> str:
    if logit:
        value = border.add("Sigmoid", [value])
    if not which:
        value = border.add("Sub", [border.constant(1.0, "float32"), value])
    return value
