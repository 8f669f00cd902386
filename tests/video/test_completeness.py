"""The arithmetic of completeness and of time, without a decoder."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepscan.types import ReadReport
from deepscan.video.colour import Turn, turn_of
from deepscan.video.completeness import Account, shows_nothing
from deepscan.video.timestamps import Clock


def account(times: list[float], **fields: object) -> ReadReport:
    made = Account(step=0.04, **fields)  # type: ignore[arg-type]
    made.times.extend(times)
    return made.report("pyav", "asked for", finished=True)


def regular(count: int) -> list[float]:
    return [place * 0.04 for place in range(count)]


def test_all_signs_agree() -> None:
    report = account(regular(50), promised_frames=50, promised_duration=2.0, packets=50)
    assert report.complete
    assert (report.decoded, report.reasons) == (50, ())


@pytest.mark.parametrize(
    ("times", "fields", "sign"),
    [
        ([], {}, "no_frames"),
        (regular(50), {"errors": 1}, "decode_errors"),
        (regular(50), {"gave_up": True}, "gave_up"),
        (regular(50), {"corrupt_packets": 2}, "corrupt_packets"),
        (regular(50), {"corrupt_frames": 1}, "corrupt_frames"),
        (regular(48), {"promised_frames": 50}, "frame_count"),
        (regular(45), {"promised_duration": 2.0}, "short"),
        (regular(50), {"packets": 53}, "packets"),
        (regular(20) + [time + 0.2 for time in regular(50)[20:]], {}, "gap"),
        (regular(50), {"notes": ["not_all_streams_scanned: 2"]}, "not_all_streams_scanned"),
    ],
)
def test_each_sign_alone_speaks(times: list[float], fields: dict[str, object], sign: str) -> None:
    report = account(times, **fields)
    assert not report.complete
    assert [reason.split(":")[0] for reason in report.reasons] == [sign]


@pytest.mark.parametrize(
    ("times", "fields"),
    [
        (regular(49), {"promised_frames": 50}),
        (regular(50), {"promised_frames": 2**31 - 1}),
        (regular(48), {"promised_duration": 2.0}),
        (regular(50), {"packets": 100, "interlaced": True}),
        (regular(50), {"packets": 90, "one_to_one": False}),
        ([0.0, 0.1, 0.5, 0.6, 2.0, 2.1, 3.0, 3.3, 4.0, 4.1, 6.0], {}),
        ([0.0], {"promised_duration": 0.04}),
    ],
)
def test_what_is_no_sign(times: list[float], fields: dict[str, object]) -> None:
    assert account(times, **fields).complete


def test_a_reading_left_early_is_incomplete() -> None:
    made = Account(step=0.04)
    made.times.extend(regular(3))
    report = made.report("pyav", "asked for", finished=False)
    assert (report.complete, report.decoded) == (False, 3)


def test_hidden_pictures_of_vpx_show_nothing() -> None:
    assert shows_nothing("vp8", b"\x00\x00")
    assert not shows_nothing("vp8", b"\x10\x00")
    assert shows_nothing("vp9", b"\x80\x00")
    assert not shows_nothing("vp9", b"\x82\x00")
    assert not shows_nothing("vp9", b"\x80\xc1")  # a superframe
    assert not shows_nothing("h264", b"\x00")


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=50))
def test_repaired_times_always_rise(stated: list[int | None]) -> None:
    clock = Clock(Fraction(1, 90000), 0, 0.04)
    ticks = [clock.tick(pts) for pts in stated]
    assert all(earlier[0] < later[0] for earlier, later in pairwise(ticks))
    assert all(earlier[1] <= later[1] for earlier, later in pairwise(ticks))


@given(st.lists(st.integers(0, 10**9), min_size=1, unique=True))
def test_sound_times_are_not_touched(stated: list[int]) -> None:
    clock = Clock(Fraction(1, 1000), None, 0.04)
    assert [clock.tick(pts)[0] for pts in sorted(stated)] == sorted(stated)


@pytest.mark.parametrize(
    ("start", "first", "time"), [(0, 0, 0.0), (None, 7200, 0.0), (0, 90, 0.09), (500, 90, 0.0)]
)
def test_time_zero_is_the_stated_start(start: int | None, first: int, time: float) -> None:
    pts, seconds = Clock(Fraction(1, 1000), start, 0.04).tick(first)
    assert pts == first
    assert seconds == pytest.approx(time)


@pytest.mark.parametrize(
    ("numbers", "turn", "degrees"),
    [
        ((1, 0, 0, 1), Turn(), 0),
        ((0, 1, -1, 0), Turn(True, False, True), 90),
        ((-1, 0, 0, -1), Turn(False, True, True), 180),
        ((0, -1, 1, 0), Turn(True, True, False), 270),
        ((-1, 0, 0, 1), Turn(False, False, True), 0),
        ((0.7, 0.7, -0.7, 0.7), Turn(), 0),
        ((0, 0, 0, 0), Turn(), 0),
    ],
)
def test_a_display_matrix_is_a_turn(numbers: tuple[float, ...], turn: Turn, degrees: int) -> None:
    import struct

    a, b, c, d = (round(number * 65536) for number in numbers)
    matrix = struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    assert turn_of(matrix) == turn
    assert turn.degrees == degrees
    assert turn_of(b"short") == Turn()
