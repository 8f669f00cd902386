"""What an ONNX file says of itself: read from its bytes, without a library, running nothing.

Only the framing of Protocol Buffers and the few fields that matter are read here, so that a model
can be judged where the package onnx is not installed: who may feed it, which operators it uses, and
whether it would reach for another file. Numbers of fields are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from deepscan.errors import ModelError
from deepscan.models.card import Card
from deepscan.models.weights import read_weights

INPUT, SCORES, MASKS = "crops", "scores", "masks"  # of a graph that an import has written

# Operators that draw random numbers, so that no two runs agree, or may run without an end.
REFUSED = frozenset(
    {
        "Bernoulli", "Loop", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike", "Scan",
    }
)  # fmt: skip
DOMAINS = frozenset({"", "ai.onnx"})  # of the operators of ONNX itself
MIN_OPSET = 9
FLOATS = {1: "float32", 2: "uint8", 10: "float16", 11: "float64"}  # of TensorProto.DataType

_DEPTH = 32  # of graphs in graphs
_EXTERNAL = 1  # TensorProto.DataLocation
_Field = tuple[int, "int | memoryview"]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, element type, and sides; a side that may vary is None."""

    name: str
    type: int
    shape: tuple[int | None, ...] | None


@dataclass(slots=True)
class OnnxFacts:
    """What a file says: its opset, what goes in and out, operators, and the files it names."""

    opset: int = 0
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    operators: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)
    functions: int = 0


def read_facts(data: bytes) -> OnnxFacts:
    """Read what an ONNX file says of itself.

    Raises:
        ModelError: it is no ONNX file, or damaged.
    """
    facts = OnnxFacts()
    graphs = 0
    try:
        for number, value in _fields(memoryview(data)):
            if number == 8:  # opset_import
                given = dict(_fields(_bytes(value)))
                if _text(given.get(1, b"")) in DOMAINS:
                    facts.opset = int(given[2])
            elif number == 7:
                graphs += 1
                _graph(_bytes(value), facts, 0)
            elif number == 25:  # functions, which have a domain of their own
                facts.functions += 1
    except (ValueError, KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"it is no ONNX file, or damaged ({error})") from error
    if graphs != 1 or not facts.opset:
        raise ModelError("it is no ONNX file: it holds no graph of operators")
    return facts


def check_facts(facts: OnnxFacts) -> None:
    """See that a file may be run at all.

    Raises:
        ModelError: its operators are not those of ONNX, or not for us.
    """
    foreign = sorted(facts.domains - DOMAINS)
    if foreign:
        raise ModelError(
            f"it uses operators of {', '.join(foreign)}, which are code from elsewhere: export it "
            "with operators of ONNX alone"
        )
    refused = sorted(facts.operators & REFUSED)
    if refused:
        raise ModelError(
            f"it uses {', '.join(refused)}: a detector must always give a crop the same score, and "
            "end. Export it for inference, without them"
        )
    if facts.opset < MIN_OPSET:
        raise ModelError(f"it is of opset {facts.opset}: export it with {MIN_OPSET} or later")


def _graph(data: memoryview, facts: OnnxFacts, depth: int) -> None:
    if depth > _DEPTH:
        raise ValueError("graphs in graphs without an end")
    inputs, outputs, constants = [], [], set()
    for number, value in _fields(data):
        if number == 1:
            _node(_bytes(value), facts, depth)
        elif number == 5:
            constants.add(_tensor(_bytes(value), facts))
        elif number == 15:  # a sparse one: values and indices
            for _, part in _fields(_bytes(value)):
                if isinstance(part, memoryview):
                    _tensor(part, facts)
        elif number == 11:
            inputs.append(_port(_bytes(value)))
        elif number == 12:
            outputs.append(_port(_bytes(value)))
    if not depth:  # older files list weights as inputs too
        facts.inputs = [port for port in inputs if port.name not in constants]
        facts.outputs = outputs


def _node(data: memoryview, facts: OnnxFacts, depth: int) -> None:
    for number, value in _fields(data):
        if number == 4:
            facts.operators.add(_text(value))
        elif number == 7:
            facts.domains.add(_text(value))
        elif number == 5:
            for kind, part in _fields(_bytes(value)):
                if kind in (5, 10):
                    _tensor(_bytes(part), facts)
                elif kind in (6, 11):
                    _graph(_bytes(part), facts, depth + 1)
                elif kind in (22, 23):
                    for _, inner in _fields(_bytes(part)):
                        if isinstance(inner, memoryview):
                            _tensor(inner, facts)


def _tensor(data: memoryview, facts: OnnxFacts) -> str:
    name, outside, places = "", False, []
    for number, value in _fields(data):
        if number == 8:
            name = _text(value)
        elif number == 13:
            entry = dict(_fields(_bytes(value)))
            if _text(entry.get(1, b"")) == "location":
                places.append(_text(entry.get(2, b"")))
        elif number == 14:
            outside = value == _EXTERNAL
    if outside or places:
        facts.external.update(places or [""])
    return name


def _port(data: memoryview) -> Port:
    """A ValueInfoProto: name, and type.tensor_type.(elem_type, shape.dim)."""
    name, type_, shape = "", 0, None
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for kind, tensor in _fields(_bytes(value)):
                if kind != 1:
                    continue
                for part, inner in _fields(_bytes(tensor)):
                    if part == 1:
                        type_ = int(inner)
                    elif part == 2:
                        shape = tuple(
                            _side(_bytes(side)) for key, side in _fields(_bytes(inner)) if key == 1
                        )
    return Port(name, type_, shape)


def _side(data: memoryview) -> int | None:
    value = dict(_fields(data)).get(1)
    return value if isinstance(value, int) and value > 0 else None


def _fields(data: memoryview) -> Iterator[_Field]:
    """The fields of a message: their numbers with an integer or the bytes."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        kind = key & 7
        value: int | memoryview
        if kind == 0:
            value, place = _varint(data, place)
        else:
            if kind == 2:
                length, place = _varint(data, place)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise ValueError(f"no field of kind {kind}")
            value, place = data[place : place + length], place + length
        if place > end:
            raise ValueError("it is cut short")
        yield key >> 3, value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number without an end")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _text(value: int | memoryview | bytes) -> str:
    if isinstance(value, int):
        raise ValueError("a number stands where a text should")
    return bytes(value).decode("utf-8")


def load_graph(card: Card) -> bytes:
    """The ONNX graph of a card, which runs nothing but operators of ONNX and names no other file.

    Raises:
        ModelError: it is missing, not the one that the card pins, or not as an import writes it.
    """
    data = read_weights(card)
    try:
        facts = read_facts(data)
        check_facts(facts)
        if facts.external or facts.functions:
            raise ModelError("it takes parts of itself from elsewhere")
        names = [port.name for port in facts.inputs], [port.name for port in facts.outputs]
        if names != ([INPUT], [SCORES, MASKS] if card.has_mask else [SCORES]):
            raise ModelError("its inputs and outputs are not as an import writes them")
    except ModelError as error:
        raise ModelError(
            f"the model {card.path} cannot be run: {error}. Run: deepscan model import"
        ) from error
    return data
