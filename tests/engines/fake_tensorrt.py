"""Stand-ins for TensorRT and torch.cuda: they record what is called and compute what is meant.

A module made by `make_tensorrt` has the names that the version it stands for has, and no others. An
"engine" of it is the ONNX graph itself, run by ONNX Runtime on whatever lies at the addresses.
"""

from __future__ import annotations

import ctypes
import enum
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import onnxruntime

MAGIC = b"FAKE"
SURFACES = {  # version -> how a network is created, what a builder may be told
    "8.6.1": (("EXPLICIT_BATCH",), ("FP16", "INT8", "TF32", "OBEY_PRECISION_CONSTRAINTS")),
    "10.9.0": (
        ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
        ("FP16", "BF16", "INT8", "TF32", "OBEY_PRECISION_CONSTRAINTS"),
    ),
    "11.3.0": (("STRONGLY_TYPED",), ("TF32",)),
    "11.9.0": (("PREFER_AOT_PYTHON_PLUGINS",), ("TF32",)),
}
KINDS = {"Cast": "CAST", "Constant": "CONSTANT", "Shape": "SHAPE", "Conv": "CONVOLUTION"}
Severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)


class FakeCuda:
    """As much of torch.cuda as an engine touches; everything happens at once, on the CPU."""

    def __init__(self, capability=(9, 0)):
        self.calls = []
        self.capability = capability

    def get_device_capability(self, device):
        return self.capability

    def get_device_name(self, device):
        return "Fake GPU"

    def current_device(self):
        return 0

    @contextmanager
    def device(self, device):
        self.calls.append(("device", device))
        yield

    def mem_get_info(self):
        return 4 * 2**30, 8 * 2**30

    def Stream(self, device):
        number = sum(call[0] == "Stream" for call in self.calls)
        self.calls.append(("Stream", device))
        return SimpleNamespace(
            cuda_stream=1000 + number,
            wait_event=lambda event: self.calls.append(("wait", number, event.name)),
            synchronize=lambda: self.calls.append(("synchronize", number)),
            number=number,
        )

    def Event(self):
        name = f"event{sum(call[0] == 'Event' for call in self.calls)}"
        self.calls.append(("Event", name))
        return SimpleNamespace(
            name=name,
            record=lambda stream: self.calls.append(("record", stream.number, name)),
            synchronize=lambda: self.calls.append(("await", name)),
        )

    @contextmanager
    def stream(self, stream):
        yield


def make_tensorrt(version, cuda):
    """A module for `sys.modules["tensorrt"]`; `calls` is what happened, the rest are faults."""
    trt = ModuleType("tensorrt")
    trt.__version__ = version
    trt.calls = calls = []
    trt.refusals = 0  # how many engines more are refused
    trt.fault = ""  # "parse", "build", "context", "run" or "crash"
    creation, building = SURFACES[version]
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("Creation", " ".join(creation), start=0)
    trt.BuilderFlag = enum.Enum("BuilderFlag", " ".join(building))
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    trt.TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
    trt.LayerType = enum.Enum("LayerType", "CAST CONSTANT SHAPE CONVOLUTION ELEMENTWISE")
    trt.uint8, trt.float32, trt.float16, trt.int64 = "uint8", "float32", "float16", "int64"
    types = {1: trt.float32, 2: trt.uint8, 10: trt.float16, 7: trt.int64}
    strong = version >= "10" and version[:2] != "8."

    def note(*call):
        calls.append(call)

    class ILogger:
        def __init__(self):
            note("ILogger")

    ILogger.Severity = Severity

    class Layer:
        def __init__(self, node, types_of):
            self.name, self.node = node.name, node
            self.type = trt.LayerType[KINDS.get(node.op_type, "ELEMENTWISE")]
            self.num_outputs = len(node.output)
            self.outputs = [SimpleNamespace(dtype=types_of.get(name)) for name in node.output]
            self.precision, self.output_types = None, {}

        def get_output(self, place):
            return self.outputs[place]

        def set_output_type(self, place, type_):
            self.output_types[place] = type_

    class Network:
        def __init__(self, flags):
            self.flags, self.layers, self.graph = flags, [], b""

        @property
        def num_layers(self):
            return len(self.layers)

        def get_layer(self, number):
            return self.layers[number]

    class OnnxParser:
        num_errors = 1

        def __init__(self, network, log):
            self.network = network

        def parse_from_file(self, path):
            note("parse", path)
            if trt.fault == "parse":
                return False
            with open(path, "rb") as file:
                self.network.graph = file.read()
            model = onnx.shape_inference.infer_shapes(onnx.load_from_string(self.network.graph))
            types_of = {
                each.name: types.get(each.type.tensor_type.elem_type)
                for each in [*model.graph.value_info, *model.graph.output]
            }
            self.network.layers = [Layer(node, types_of) for node in model.graph.node]
            trt.network = self.network
            return True

        def get_error(self, number):
            return "no such operator"

    class Config:
        def __init__(self):
            self.flags = set()

        def set_flag(self, flag):
            assert flag in trt.BuilderFlag
            assert not (strong and flag.name != "TF32"), "types are in the graph"
            note("set_flag", flag.name)

        def clear_flag(self, flag):
            note("clear_flag", flag.name)

        def set_memory_pool_limit(self, pool, size):
            note("memory", size)

        def add_optimization_profile(self, profile):
            note("profile", *profile.shapes)

        def create_timing_cache(self, data):
            note("timings", bytes(data))
            return data

        def set_timing_cache(self, cache, ignore_mismatch):
            assert not ignore_mismatch

        def get_timing_cache(self):
            return SimpleNamespace(serialize=lambda: b"learned")

    class Profile:
        def set_shape(self, name, low, best, high):
            self.shapes = name, low, best, high

    class Builder:
        def __init__(self, log):
            note("Builder")
            self.log = log

        def create_network(self, flags):
            if version < "9" and version[:2] == "8.":
                assert flags & 1, "8.6 has an implicit batch unless told otherwise"
            note("create_network", flags)
            return Network(flags)

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            note("build")
            self.log.log(Severity.VERBOSE, "thinking")
            if trt.fault == "build":
                self.log.log(Severity.ERROR, "out of\nmemory")
                return None
            return memoryview(MAGIC + network.graph)

    class Context:
        def __init__(self, engine):
            self.engine, self.shape, self.addresses = engine, None, {}

        def set_input_shape(self, name, shape):
            note("shape", shape)
            self.shape = shape
            return True

        def set_tensor_address(self, name, address):
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream_handle):
            note("execute", stream_handle, self.shape[0])
            if trt.fault == "crash":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if trt.fault == "run":
                self.engine.log.log(Severity.INTERNAL_ERROR, "cask failure")
                return False
            self.engine.compute(self.shape, self.addresses)
            return True

    class Engine:
        def __init__(self, graph, log):
            self.log = log
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
            self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
            self.num_io_tensors = len(self.tensors)

        def get_tensor_name(self, number):
            return self.tensors[number].name

        def _of(self, name):
            return next(each for each in self.tensors if each.name == name)

        def get_tensor_mode(self, name):
            inputs = [each.name for each in self.session.get_inputs()]
            return trt.TensorIOMode.INPUT if name in inputs else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name):
            return {"tensor(uint8)": trt.uint8, "tensor(float)": trt.float32}[self._of(name).type]

        def get_tensor_shape(self, name):
            return [side if isinstance(side, int) else -1 for side in self._of(name).shape]

        def create_execution_context(self):
            note("context")
            return None if trt.fault == "context" else Context(self)

        def compute(self, shape, addresses):
            crops = _at(addresses["crops"], shape, np.uint8)
            names = [each.name for each in self.session.get_outputs()]  # no masks of some
            for name, found in zip(names, self.session.run(names, {"crops": crops}), strict=True):
                _at(addresses[name], found.shape, np.float32)[...] = found

    class Runtime:
        def __init__(self, log):
            note("Runtime")
            self.log = log

        def deserialize_cuda_engine(self, plan):
            note("deserialize")
            if trt.refusals > 0 or not plan.startswith(MAGIC):
                trt.refusals -= 1
                self.log.log(Severity.ERROR, "built by another version")
                return None
            return Engine(plan[len(MAGIC) :], self.log)

    trt.ILogger, trt.OnnxParser, trt.Builder, trt.Runtime = ILogger, OnnxParser, Builder, Runtime
    return trt


def _at(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)
