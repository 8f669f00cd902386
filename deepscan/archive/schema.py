"""Whether a JSON value has the shape that a published schema asks for, without another package.

It knows the words that the schemas of deepscan use and refuses a schema with any other, so that a
rule can never be passed over in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

Schema = dict[str, Any]

# Words that ask for nothing.
_TOLD = ("$schema", "$id", "$defs", "$comment", "title", "description", "contentEncoding")
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
}


@cache
def load_schema(name: str) -> Schema:
    """A schema that ships: "result-1" is that of records, "frames-1" that of frame lists."""
    found: Schema = json.loads(
        files("deepscan").joinpath("schemas", f"{name}.json").read_text("utf-8")
    )
    return found


def violations(value: Any, schema: Schema, root: Schema | None = None) -> Iterator[str]:
    """What is wrong with a JSON value, a line for each place; nothing if it has the shape.

    Raises:
        ValueError: the schema holds a word that is not known here.
    """
    yield from _check(value, schema, root or schema, "$")


def _check(value: Any, schema: Schema, root: Schema, place: str) -> Iterator[str]:
    for word, asked in schema.items():
        match word:
            case "$ref":
                yield from _check(value, _resolved(asked, root), root, place)
            case "type":
                kinds = [asked] if isinstance(asked, str) else asked
                if not any(_is_of(value, kind) for kind in kinds):
                    yield f"{place} is {_kind(value)}, not {' or '.join(kinds)}"
            case "const":
                if not _same(value, asked):
                    yield f"{place} is not {json.dumps(asked)}"
            case "enum":
                if not any(_same(value, one) for one in asked):
                    yield f"{place} is not one of {', '.join(map(str, asked))}"
            case "allOf":
                for each in asked:
                    yield from _check(value, each, root, place)
            case "oneOf":
                fitting = sum(_fits(value, each, root) for each in asked)
                if fitting != 1:
                    yield f"{place} fits {fitting} of {len(asked)} shapes, not one"
            case "not":
                if _fits(value, asked, root):
                    yield f"{place} has a shape that it must not have"
            case "if":
                if _fits(value, asked, root):
                    yield from _check(value, schema.get("then", {}), root, place)
            case "properties" | "required" | "additionalProperties":
                if isinstance(value, dict):
                    yield from _check_object(value, word, schema, root, place)
            case "items" | "contains" | "minItems" | "maxItems":
                if isinstance(value, list):
                    yield from _check_array(value, word, asked, root, place)
            case "minLength" | "pattern":
                if isinstance(value, str):
                    yield from _check_text(value, word, asked, place)
            case "minimum" | "maximum" | "exclusiveMinimum":
                if _is_of(value, "number"):
                    yield from _check_number(value, word, asked, place)
            case "then":
                pass  # belongs to "if"
            case _ if word not in _TOLD:
                raise ValueError(f"the schema uses {word!r}, which is not known here")


def _check_object(
    value: dict[str, Any], word: str, schema: Schema, root: Schema, place: str
) -> Iterator[str]:
    asked = schema[word]
    if word == "required":
        for key in asked:
            if key not in value:
                yield f"{place}.{key} is missing"
    elif word == "properties":
        for key, inner in asked.items():
            if key in value:
                yield from _check(value[key], inner, root, f"{place}.{key}")
    else:
        for key in value.keys() - schema.get("properties", {}).keys():
            if asked is False:
                yield f"{place}.{key} may not be there"
            elif isinstance(asked, dict):
                yield from _check(value[key], asked, root, f"{place}.{key}")


def _check_array(
    value: list[Any], word: str, asked: Any, root: Schema, place: str
) -> Iterator[str]:
    if word == "items":
        for index, each in enumerate(value):
            yield from _check(each, asked, root, f"{place}[{index}]")
    elif word == "contains":
        if not any(_fits(each, asked, root) for each in value):
            yield f"{place} lacks an entry that it must have"
    elif word == "minItems" and len(value) < asked:
        yield f"{place} has {len(value)} entries, at least {asked} are needed"
    elif word == "maxItems" and len(value) > asked:
        yield f"{place} has {len(value)} entries, at most {asked} may be"


def _check_text(value: str, word: str, asked: Any, place: str) -> Iterator[str]:
    if word == "minLength" and len(value) < asked:
        yield f"{place} has {len(value)} characters, at least {asked} are needed"
    elif word == "pattern" and not re.search(asked, value):
        yield f"{place} does not look like {asked}"


def _check_number(value: float, word: str, asked: float, place: str) -> Iterator[str]:
    if word == "minimum" and value < asked:
        yield f"{place} is {value}, below {asked}"
    elif word == "maximum" and value > asked:
        yield f"{place} is {value}, above {asked}"
    elif word == "exclusiveMinimum" and value <= asked:
        yield f"{place} is {value}, not above {asked}"


def _resolved(reference: str, root: Schema) -> Schema:
    if not reference.startswith("#/"):
        raise ValueError(f"the schema refers to {reference!r}, which lies elsewhere")
    found: Any = root
    for part in reference[2:].split("/"):
        found = found[part]
    resolved: Schema = found
    return resolved


def _fits(value: Any, schema: Schema, root: Schema) -> bool:
    return next(_check(value, schema, root, "$"), None) is None


def _same(value: Any, other: Any) -> bool:
    """JSON knows true and 1 apart, Python does not; 1 and 1.0 are one number in both."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _is_of(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return kind == "number" or isinstance(value, int) or value.is_integer()
    return isinstance(value, _TYPES[kind])


def _kind(value: Any) -> str:
    return next(
        (kind for kind in ("null", "boolean", "number", "string", "array") if _is_of(value, kind)),
        "object",
    )
