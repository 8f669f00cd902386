"""The graph is the network, in every precision, and what needs range keeps it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from deepscan.engines import export
from deepscan.engines.parity import probe
from deepscan.errors import EngineError
from deepscan.models import MODELS
from deepscan.models.config import MSCCNetConfig
from deepscan.models.deploy import Deployed, normalise
from deepscan.models.msccnet import MSCCNet
from tests.models.build import build_network, tiny

# How far a graph may be from torch in fp32: another order of sums, 11 and 8 significant bits.
NEAR = {"fp32": (1e-5, 1e-4), "fp16": (3e-3, 1e-2), "bf16": (2e-2, 8e-2)}
# ResNet-50 with its bottlenecks and deep stem, but few channels.
SLIM_R50 = MSCCNetConfig(
    input_size=64,
    backbone="resnet50c",
    backbone_arguments={"channels": (8, 8, 16, 16), "stem_width": 8},
    channels=64,
)
NETWORKS = {
    "s": tiny(),
    "stride 16": tiny(output_stride=16),
    "r50": SLIM_R50,
    "plain": tiny(graph=False, coarse=False, mfa=False, image_head="backbone"),
    "no centres": tiny(mscc=False),
    "pyramid": tiny(output_stride=32, aggregation="pyramid", mean=(127.5,) * 3, std=(127.5,) * 3),
    "same padding": replace(
        tiny(output_stride=32, aggregation="pyramid", backbone_arguments={}),
        backbone="tf_efficientnet_lite0",
    ),
}


@pytest.fixture(scope="module")
def graphs():
    """Graphs by network and precision, made when they are asked for."""
    made = {}

    def give(name, precision):
        if (name, precision) not in made:
            deployed = Deployed(build_network(NETWORKS[name]))
            made[name, precision] = export.export(deployed, precision), deployed
        return made[name, precision]

    return give


@pytest.mark.parametrize("precision", export.PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_computes_what_torch_computes(graphs, name, precision):
    if precision == "bf16" and name not in ("s", "r50"):
        precision = "fp16"  # the rest adds nothing in bf16
    graph, deployed = graphs(name, precision)
    crops = probe(64)[::3]
    found = export.check(graph, deployed, crops)
    deep = 3 if name == "same padding" else 1  # three times as many layers to lose bits in
    score, mask = (deep * bound for bound in NEAR[precision])
    assert found.score < score and found.mask < mask
    if precision != "fp32":
        assert found.mask > 1e-6, "nothing was lowered"


@pytest.mark.parametrize("precision", export.PRECISIONS)
def test_the_batch_is_dynamic_and_nothing_else(graphs, precision):
    graph, _ = graphs("s", precision)
    model = onnx.load_from_string(graph)
    shapes = {
        each.name: [side.dim_param or side.dim_value for side in each.type.tensor_type.shape.dim]
        for each in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {
        "crops": ["batch", 64, 64, 3],
        "scores": ["batch"],
        "masks": ["batch", 16, 16],
    }
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    scores, masks = export.run(graph, probe(64)[:5])
    for count in (1, 3):
        part_scores, part_masks = export.run(graph, probe(64)[:count])
        assert part_masks.shape == (count, 16, 16)
        assert np.allclose(part_scores, scores[:count], atol=1e-3)
        assert np.allclose(part_masks, masks[:count], atol=1e-3)


def typed(graph):
    """The model, and the type of each of its tensors."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph), strict_mode=True)
    types = {each.name: each.data_type for each in model.graph.initializer}
    for each in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        types[each.name] = each.type.tensor_type.elem_type
    return model, types


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)]
)
@pytest.mark.parametrize("name", ["s", "r50"])
def test_convolutions_leave_fp32_and_nothing_else_does(graphs, name, precision, kind):
    model, types = typed(graphs(name, precision)[0])
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    low = [node for node in convolutions if types[node.output[0]] == kind]
    # In fp32 stay the graph step and, in fp16, the convolution over what was attended to.
    stay = [node.name for node in convolutions if node not in low]
    wide = ["/network/mscc/output/output.0/Conv"] if precision == "fp16" else []
    assert sorted(stay) == sorted(["/network/mscc/Conv", *wide])
    for node in low:
        assert {types[each] for each in node.input} == {kind}
    wide_only = {"MatMul", "Softmax", "Gemm", "ReduceMean", "ReduceSum", "ReduceMax", "Div", "Mul"}
    for node in model.graph.node:
        if node.op_type in wide_only:
            assert kind not in {types[each] for each in [*node.input, *node.output]}, node.name
        assert node.name.startswith(export.LOW) == (
            kind in {types.get(each) for each in [*node.input, *node.output]}
        ), node.name


@pytest.mark.parametrize("precision", export.PRECISIONS)
def test_bytes_only_feed_a_cast(graphs, precision):
    model, _ = typed(graphs("s", precision)[0])
    fed = [node.op_type for node in model.graph.node if "crops" in node.input]
    assert fed == ["Cast"]


def test_opsets_are_those_that_tensorrt_reads(graphs):
    def opset(precision):
        return onnx.load_from_string(graphs("s", precision)[0]).opset_import[0].version

    assert opset("fp32") <= 17 and opset("fp16") <= 17
    assert opset("bf16") == 22  # the first with a convolution in bf16


def test_a_lowered_graph_is_smaller(graphs):
    whole, half = (len(graphs("r50", precision)[0]) for precision in ("fp32", "fp16"))
    assert half < 0.75 * whole


def far_reaching(scale=100.0):
    """A network whose class centres are far beyond fp16, as training leaves one: the layer that
    takes in what was attended to is used to its size."""
    network = build_network()
    with torch.no_grad():
        network.mfa.fuse[1].weight *= scale
        network.mfa.fuse[1].bias *= scale
        network.mscc.head[-1].weight *= scale
    crops = normalise(torch.from_numpy(probe(64)))
    seen = {}

    def remember(layer, given, answer):
        seen["attended"], seen["answer"] = given[0], answer

    handle = network.mscc.output[0].register_forward_hook(remember)
    with torch.no_grad():
        network(crops)
        handle.remove()
        norm = network.mscc.output[1]
        norm.running_mean.copy_(seen["answer"].mean((0, 2, 3)))
        norm.running_var.copy_(seen["answer"].var((0, 2, 3)))
        for layer, answer in ((network.decoder[-1], "mask"), (network.classifier, "image")):
            logits = getattr(network(crops), answer).transpose(0, 1).flatten(1)
            layer.weight /= (logits[1] - logits[0]).std()
            logits = getattr(network(crops), answer).transpose(0, 1).flatten(1)
            layer.bias -= logits.mean(dim=1)
    return Deployed(network), float(seen["attended"].abs().max())


def all_in_fp16(graph):
    """What a converter that looks at nothing makes of a graph in fp32."""
    model = onnx.load_from_string(graph)
    constants = [
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
    ]
    for tensor in [*model.graph.initializer, *constants]:
        if tensor.data_type == TensorProto.FLOAT and tensor.name != "/Resize to":  # no number
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    for output in model.graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    return model.SerializeToString()


def test_sums_beyond_fp16_are_no_danger():
    deployed, largest = far_reaching()
    assert largest > 1.5 * float(np.finfo(np.float16).max)
    crops = probe(64)
    for precision in export.PRECISIONS:
        graph = export.export(deployed, precision)
        found = export.check(graph, deployed, crops)  # raises where a number is not finite
        assert found.score < NEAR[precision][0]
        if precision == "fp32":
            naive = export.run(all_in_fp16(graph), crops)
    # The test means something: the same network, all in fp16, gives no numbers.
    assert not all(np.isfinite(part).all() for part in naive)
    with pytest.raises(EngineError, match="NaN or infinity"):
        export.check(all_in_fp16(export.export(deployed)), deployed, crops)


def test_a_graph_without_the_known_parts_is_refused(monkeypatch, graphs):
    monkeypatch.setattr(export, "TRUNK", ("/renamed/",))
    model = onnx.load_from_string(graphs("s", "fp32")[0])
    with pytest.raises(EngineError, match="cannot be converted to fp16"):
        export.lower(model, "fp16")


def test_shapes_are_numbers_that_a_builder_can_see(graphs):
    for name in NETWORKS:
        model, _ = typed(graphs(name, "fp32")[0])
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"Shape", "Unsqueeze", "Identity", "Expand"}, name


def test_a_network_whose_sizes_cannot_be_seen_is_refused(monkeypatch):
    monkeypatch.setattr(export, "_fix_pads", lambda model: None)
    with pytest.raises(EngineError, match="has no known size"):
        export.export(Deployed(build_network(NETWORKS["same padding"])))


def test_without_its_packages_it_says_what_to_install(monkeypatch, graphs):
    graph, deployed = graphs("s", "fp32")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"pip install '\.\[onnx\]'"):
        export.run(graph, probe(64)[:1])
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(EngineError, match=r"pip install '\.\[onnx\]'"):
        export.export(deployed)


def test_what_onnx_runtime_cannot_run_is_an_error():
    with pytest.raises(EngineError, match="cannot run the graph"):
        export.run(onnx.ModelProto(opset_import=[onnx.helper.make_opsetid("", 17)])
                   .SerializeToString(), probe(64)[:1])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_papers_network_in_full(precision):
    torch.manual_seed(0)
    deployed = Deployed(MSCCNet(MODELS["msccnet-r50"]))
    graph = export.export(deployed, precision)
    found = export.check(graph, deployed, probe(512)[:1])
    score, mask = NEAR[precision]
    assert found.score < score and found.mask < mask
