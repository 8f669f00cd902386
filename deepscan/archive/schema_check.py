"""Checks JSON values against the schemas that ship with deepscan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

_MESSAGE = 200  # characters; a message repeats the value, which is not trusted


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Load a schema: "result-1" of records, "frames-1" of frame lists, "baseline-1"."""
    schema: dict[str, Any] = json.loads(
        files("deepscan").joinpath("schemas", f"{name}.json").read_text("utf-8")
    )
    return schema


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    schema = load_schema(name)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def violations(value: Any, name: str) -> Iterator[str]:
    """Yield a line for each violation of a schema; nothing if the value is valid."""
    from jsonschema.exceptions import best_match

    for error in _validator(name).iter_errors(value):
        cause = best_match([error]) or error  # of alternatives, the closest one
        message = cause.message
        if len(message) > _MESSAGE:
            message = f"{message[: _MESSAGE // 2]} ... {message[-_MESSAGE // 2 :]}"
        yield f"{cause.json_path}: {message}"
