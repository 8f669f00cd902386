"""Parts of an archive: every content belongs to exactly one, whoever asks."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepscan.archive.shard import Shard
from deepscan.errors import UsageError

DIGESTS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]


@pytest.mark.parametrize(("text", "pair"), [("1/1", (1, 1)), ("2/5", (2, 5)), ("10/10", (10, 10))])
def test_reads_what_people_write(text, pair):
    assert Shard.parse(text) == Shard(*pair)
    assert str(Shard.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "2", "0/5", "6/5", "-1/5", "1/0", "1/5/2", "a/b", "1 / 5", "1/99999", "٢/٥"]
)
def test_refuses_what_is_no_part(text):
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)


@given(st.text(), st.integers(1, 40))
def test_exactly_one_part_takes_a_name(name, count):
    parts = [Shard(number, count) for number in range(1, count + 1)]
    assert sum(part.contains(name) for part in parts) == 1


def test_parts_are_even_and_split_by_content():
    taken = [sum(Shard(number, 4).contains(each) for each in DIGESTS) for number in (1, 2, 3, 4)]
    assert sum(taken) == len(DIGESTS)
    assert all(900 < count < 1100 for count in taken)  # 1000 expected, sigma 27


def test_a_name_that_is_no_utf8_belongs_somewhere():
    assert sum(Shard(number, 3).contains("a\udcff.mp4") for number in (1, 2, 3)) == 1
