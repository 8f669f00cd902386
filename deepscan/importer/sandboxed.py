"""Read an untrusted ONNX file in a process that first gives up nearly all rights.

`main` runs in that process: it reads or wraps the file and answers in bytes. `inspect` and
`wrapped` start the process and check its answers.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from deepscan.errors import ModelError, system_errors_as
from deepscan.importer.wrap import wrap
from deepscan.models.card import MAX_WEIGHTS, InputFormat, OutputFormat
from deepscan.models.onnx_file import OnnxFacts, Port, check_facts, read_facts
from deepscan.video.isolation.launcher import start_interpreter
from deepscan.video.isolation.sandbox import die_with_parent, limit_resources, lock_down

TIME = 120.0  # seconds that a file may take
MEMORY = 4 * 2**30  # bytes of address space, beside some for each byte of the file
_FACTS, _MODEL, _WRONG = b"F", b"M", b"E"  # what an answer begins with
_MOST = 4 * 2**20  # bytes of an answer but a model


def inspect(path: Path) -> OnnxFacts:
    """Read the facts of an ONNX file that is safe to run.

    Raises:
        ModelError: it cannot be read, or may not be run.
    """
    kind, said = _ask(path, {}, {})
    if kind != _FACTS:
        raise ModelError(f"{path}: reading it gave no answer")
    try:
        given = json.loads(said)
        inputs, outputs = (
            [Port(str(one[0]), int(one[1]), _sides(one[2])) for one in given[key]]
            for key in ("inputs", "outputs")
        )
        external = {str(each) for each in given["external"]}
        return OnnxFacts(int(given["opset"]), inputs, outputs, external=external)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelError(f"{path}: reading it gave no answer ({error!r})") from error


def wrapped(
    path: Path,
    facts: OnnxFacts,
    inputs: InputFormat,
    outputs: OutputFormat,
    names: Mapping[str, str],
) -> tuple[bytes, OutputFormat]:
    """The file as deepscan runs it, all in one, and its outputs with the size of the masks.

    Raises:
        ModelError: a file it names lies outside its folder or is missing; it cannot be wrapped.
    """
    order = {"inputs": asdict(inputs), "outputs": asdict(outputs), "names": dict(names)}
    beside = {place: _beside(path, place) for place in sorted(facts.external)}
    kind, said = _ask(path, order, beside)
    if kind != _MODEL:
        raise ModelError(f"{path}: reading it gave no answer")
    size, _, data = said.partition(b"\n")
    check_facts(read_facts(data))
    return data, OutputFormat(**{**asdict(outputs), "mask_size": int(size)})


def _beside(path: Path, place: str) -> Path:
    """The file with a model's numbers, which must lie in the model's own folder."""
    folder = path.resolve().parent
    found = folder / place
    if not place or Path(place).is_absolute() or not found.resolve().is_relative_to(folder):
        raise ModelError(
            f"{path} wants numbers from {place!r}, outside of its folder: put them beside it, and "
            "export it again"
        )
    if not found.is_file():
        raise ModelError(f"{path} wants its numbers from {place}, which does not lie beside it")
    return found


def _ask(path: Path, order: Mapping[str, Any], beside: Mapping[str, Path]) -> tuple[bytes, bytes]:
    """Have the process work on a file: the kind of its answer, and the answer."""
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        raise ModelError(
            "importing an ONNX model needs the packages onnx and onnxruntime; to run it later does "
            "not. Run in deepscan's checkout: pip install '.[onnx]'"
        )
    with ExitStack() as held:
        descriptors, size = {}, 0
        for name, file in {"": path, **beside}.items():
            with system_errors_as(ModelError, f"{file} cannot be read"):
                opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            held.callback(os.close, opened)
            descriptors[name], size = opened, size + os.fstat(opened).st_size
        if size > MAX_WEIGHTS:
            raise ModelError(f"{path} takes {size // 2**20} MB, more than an ONNX file can hold")
        given = {**order, "files": descriptors, "parent": os.getpid(), "memory": MEMORY + 6 * size}
        process = start_interpreter(
            __name__, json.dumps(given), tuple(descriptors.values()),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            said, complaint = process.communicate(timeout=TIME)
        except subprocess.TimeoutExpired:
            raise ModelError(f"{path}: reading it took more than {TIME:.0f} s") from None
        finally:
            process.kill()
            process.wait()
    kind, answer = said[:1], said[1:]
    if kind == _WRONG:
        text = answer[:500].decode(errors="replace")
        raise ModelError(f"{path}: {text}")
    if kind not in (_FACTS, _MODEL) or (kind == _FACTS and len(answer) > _MOST):
        last = (complaint.decode(errors="replace").strip().splitlines() or ["it died"])[-1]
        raise ModelError(f"{path}: it cannot be read as an ONNX model ({last[:200]})")
    return kind, answer


def _sides(shape: Sequence[Any] | None) -> tuple[int | None, ...] | None:
    return None if shape is None else tuple(None if side is None else int(side) for side in shape)


# The process


def main(argument: str) -> NoReturn:
    """Read the file that `argument`, an order in JSON, names; never returns."""
    order = json.loads(argument)
    die_with_parent()
    if os.getppid() != order["parent"]:
        os._exit(0)
    for name in ("onnx", "onnx.checker", "onnx.shape_inference", "onnx.inliner", "numpy"):
        importlib.import_module(name)  # modules cannot be loaded after the lock-down
    memory = order["memory"]
    limit_resources(memory=memory, most_memory=memory, cpu=round(TIME))
    lock_down()
    try:
        answer = _wrap(order) if "names" in order else _look(order)
    except ModelError as error:
        answer = _WRONG + str(error).encode()
    except Exception as error:  # of the library, or for want of memory
        line = " ".join(f"{type(error).__name__}: {error}".split())
        answer = _WRONG + f"it cannot be read as an ONNX model ({line[:300]})".encode()
    view = memoryview(answer)
    while view:
        view = view[os.write(1, view) :]
    os._exit(0)


def _look(order: Mapping[str, Any]) -> bytes:
    facts = read_facts(_contents(order["files"][""]))
    if not facts.functions:  # else their domains go when they are put in place
        check_facts(facts)
    ports = {
        key: [[port.name, port.type, port.shape] for port in getattr(facts, key)]
        for key in ("inputs", "outputs")
    }
    return (
        _FACTS
        + json.dumps({**ports, "opset": facts.opset, "external": sorted(facts.external)}).encode()
    )


def _wrap(order: Mapping[str, Any]) -> bytes:
    import onnx
    import onnx.inliner

    files = order["files"]
    model = onnx.load_from_string(_contents(files[""]))
    _take_in(onnx, model, {name: _contents(file) for name, file in files.items() if name})
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
        check_facts(read_facts(model.SerializeToString()))
    inputs = InputFormat(**{key: _tuple(value) for key, value in order["inputs"].items()})
    data, outputs = wrap(model, inputs, OutputFormat(**order["outputs"]), order["names"])
    return _MODEL + str(outputs.mask_size).encode() + b"\n" + data


def _take_in(onnx: Any, model: Any, files: Mapping[str, bytes]) -> None:
    """Put the numbers that lie in other files into the model."""
    from onnx.external_data_helper import _get_all_tensors  # public in no version

    for tensor in _get_all_tensors(model):
        if not tensor.HasField("data_location") or tensor.data_location != 1:
            continue
        facts = {entry.key: entry.value for entry in tensor.external_data}
        data, offset = files[facts["location"]], int(facts.get("offset", 0))
        length = int(facts.get("length", len(data) - offset))
        if not 0 <= offset <= offset + length <= len(data):
            raise ModelError(f"numbers of {tensor.name} are missing in {facts['location']}")
        tensor.raw_data = data[offset : offset + length]
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _contents(descriptor: int) -> bytes:
    parts, place = [], 0
    while part := os.pread(descriptor, 2**24, place):
        parts.append(part)
        place += len(part)
    with contextlib.suppress(OSError):
        os.close(descriptor)
    return b"".join(parts)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
