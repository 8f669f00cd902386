"""The small validator agrees with the big one over our schemas, whatever is broken."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.archive.schema import load_schema, violations
from deepscan.sinks.frames import line_of
from deepscan.sinks.record import record_of
from tests.sinks import build

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def record():
    return json.loads(json.dumps(record_of(build.scan())))


def places(value, path=()):
    """Every place of a JSON value, as the keys that lead there."""
    yield path
    inner = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = enumerate(value)
    for key, each in inner:
        yield from places(each, (*path, key))


def test_a_record_and_a_frame_have_their_shape():
    assert list(violations(record(), load_schema("result-1"))) == []
    for result in build.results(build.scan()):
        assert list(violations(line_of(result), load_schema("frames-1"))) == []


RECORD = record()
PLACES = [path for path in places(RECORD) if path]
BIG = jsonschema.Draft202012Validator(load_schema("result-1"))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), st.booleans(), JSON)
def test_agrees_with_jsonschema_on_broken_records(path, remove, value):
    broken = copy.deepcopy(RECORD)
    holder = broken
    for key in path[:-1]:
        holder = holder[key]
    if remove:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    assert (not list(violations(broken, load_schema("result-1")))) == BIG.is_valid(broken)


def test_a_name_that_is_no_utf8_is_in_shape():
    values = record()
    values["input"]["path_b64"] = "Yf8ubXA0"
    assert list(violations(values, load_schema("result-1"))) == []
    values["input"]["path_b64"] = 7
    assert list(violations(values, load_schema("result-1")))


def test_says_where_it_is_wrong():
    broken = record()
    broken["verdict"]["label"] = "real"
    del broken["input"]["sha256"]
    told = list(violations(broken, load_schema("result-1")))
    assert any("$.verdict.label" in line for line in told)
    assert "$.input.sha256 is missing" in told


def test_a_word_that_it_does_not_know_is_an_error_and_not_passed_over():
    with pytest.raises(ValueError, match="uniqueItems"):
        list(violations([1], {"type": "array", "uniqueItems": True}))


def test_true_is_not_one():
    assert list(violations(True, {"const": 1}))
    assert not list(violations(1.0, {"const": 1}))
    assert list(violations(True, {"type": "integer"}))
