"""The arithmetic of completeness and of time, without a decoder."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepscan.types import ReadReport
from deepscan.video.completeness import CompletenessCheck, may_repeat, shows_nothing
from deepscan.video.timestamps import Timestamps


def account(times: list[float], **fields: object) -> ReadReport:
    made = CompletenessCheck(step=0.04, **fields)  # type: ignore[arg-type]
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


def fed(packets: list[int], frames: list[int], **fields: object) -> ReadReport:
    """An account of packets and frames with those pts, in steps of 0.04 s."""
    made = CompletenessCheck(step=0.04, gaps_told=True, packets=len(packets), **fields)  # type: ignore[arg-type]
    made.packet_pts.extend(packets)
    for pts in frames:
        made.shown(pts * 0.04, pts * 0.04, 0.04)
        made.frame_pts.append(pts)
    return made.report("pyav", "asked for", finished=True)


def test_a_pause_is_a_hole_only_where_a_packet_lies_in_it() -> None:
    dropped = [*range(20), *range(23, 50)]
    assert fed(dropped, dropped).complete
    (reason,) = fed([*range(21), *range(23, 50)], dropped).reasons
    assert reason == "gap: 1 packets gave no picture where one is missing"
    assert fed(list(range(50)), dropped).reasons


def test_pictures_that_lead_the_first_key_frame_are_not_missed() -> None:
    behind = list(range(10, 50))
    copied = [10, 6, 7, 8, 9, *range(11, 50)]
    assert fed(copied, behind, promised_frames=44, promised_duration=1.76).complete
    # The same packets before the first picture's own are lost.
    assert not fed([6, 7, 8, 9, *behind], behind).complete


def test_a_last_picture_may_stand_as_long_as_the_container_says() -> None:
    made = CompletenessCheck(step=0.04, promised_duration=5.0)
    made.shown(0.0, 0.0, 0.04)
    made.shown(0.04, 0.04, 4.96)
    assert made.report("pyav", "asked for", finished=True).complete


def test_a_duration_may_count_from_time_zero() -> None:
    for from_zero in (True, False):
        made = CompletenessCheck(step=0.04, promised_duration=3.0, from_zero=from_zero)
        for time in regular(25):
            made.shown(time, time + 2.0)
        assert made.report("pyav", "asked for", finished=True).complete is from_zero


def test_the_last_packet_of_a_recording_may_be_torn() -> None:
    torn = {"errors": 1, "end_errors": 1, "corrupt_packets": 1, "end_corrupt": 1}
    assert account(regular(50), **torn).complete
    assert not account(regular(50), **{**torn, "errors": 2}).complete
    assert not account(regular(50), **{**torn, "corrupt_packets": 2}).complete


def test_a_picture_that_is_not_coded_may_be_missing() -> None:
    assert may_repeat("mpeg4", bytes(7))
    assert not may_repeat("mpeg4", bytes(30))
    assert not may_repeat("h264", bytes(7))
    assert account(regular(46), promised_frames=50, packets=50, uncoded=4).complete
    assert not account(regular(44), promised_frames=50, packets=50, uncoded=4).complete


def test_a_reading_left_early_is_incomplete() -> None:
    made = CompletenessCheck(step=0.04)
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
    clock = Timestamps(Fraction(1, 90000), 0, 0.04)
    ticks = [clock.tick(pts) for pts in stated]
    assert all(earlier[0] < later[0] for earlier, later in pairwise(ticks))
    assert all(earlier[1] <= later[1] for earlier, later in pairwise(ticks))


@given(st.lists(st.integers(0, 10**9), min_size=1, unique=True))
def test_sound_times_are_not_touched(stated: list[int]) -> None:
    clock = Timestamps(Fraction(1, 1000), None, 0.04)
    assert [clock.tick(pts)[0] for pts in sorted(stated)] == sorted(stated)


@pytest.mark.parametrize(
    ("start", "first", "time"), [(0, 0, 0.0), (None, 7200, 0.0), (0, 90, 0.09), (500, 90, 0.0)]
)
def test_time_zero_is_the_stated_start(start: int | None, first: int, time: float) -> None:
    pts, seconds = Timestamps(Fraction(1, 1000), start, 0.04).tick(first)
    assert pts == first
    assert seconds == pytest.approx(time)
