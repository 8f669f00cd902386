"""The rotation that a display matrix asks for."""

from __future__ import annotations

import struct

import pytest

from deepscan.video.turn import Turn, turn_of


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
    a, b, c, d = (round(number * 65536) for number in numbers)
    matrix = struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    assert turn_of(matrix) == turn
    assert turn.degrees == degrees
    assert turn_of(b"short") == Turn()
