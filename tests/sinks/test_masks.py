from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.errors import OutputError
from deepscan.sinks.masks import MaskSink, from_levels, read_masks, to_levels
from deepscan.types import Box, Face, Frame, FrameResult, Scan, UnscoredFace
from tests.sinks import build

HEIGHT, WIDTH = 48, 64
EMPTY = np.zeros((0, 0, 3), np.uint8)


def judged(*faces: tuple[Box, float]) -> FrameResult:
    """A frame with one judged face in each square; its mask has the same value everywhere."""
    predictions = []
    for number, (square, value) in enumerate(faces):
        prediction = build.prediction(EMPTY, square, number, 0.5, 8)
        crop = replace(prediction.crop, box=square)
        mask = np.full((8, 8), value, np.float32)
        predictions.append(replace(prediction, crop=crop, mask=mask))
    return FrameResult(Frame(0, 0, 0.0, EMPTY), tuple(predictions))


def written(path: Path, made: Scan, results: list[FrameResult]) -> None:
    sink = MaskSink(path, made)
    for result in results:
        sink.write(result)
    sink.close()


def test_nothing_is_analysed_outside_the_squares() -> None:
    levels = to_levels(judged((Box(10, 5, 30, 25), 0.0)), HEIGHT, WIDTH)
    probability, analysed = from_levels(levels)
    assert analysed[5:25, 10:30].all()
    assert analysed.sum() == 20 * 20
    assert (probability[analysed] == 0).all()
    assert np.isnan(probability[~analysed]).all()


def test_where_squares_overlap_the_higher_value_stands() -> None:
    low, high = (Box(0, 0, 20, 20), 0.2), (Box(10, 10, 30, 30), 0.9)
    one, other = (to_levels(judged(*pair), HEIGHT, WIDTH) for pair in ((low, high), (high, low)))
    assert np.array_equal(one, other)
    probability, _ = from_levels(one)
    assert probability[15, 15] == pytest.approx(0.9, abs=1 / 508)
    assert probability[5, 5] == pytest.approx(0.2, abs=1 / 508)


def test_faces_and_frames_that_were_not_judged_stay_zero() -> None:
    face = Face(Box(10, 10, 30, 30), 0.9)
    frame = Frame(0, 0, 0.0, EMPTY)
    unscored = FrameResult(frame, (), (UnscoredFace(face, "too_small"),))
    skipped = replace(judged((Box(0, 0, 20, 20), 0.9)), analysed=False)
    for result in (unscored, skipped, FrameResult(frame, ())):
        assert not to_levels(result, HEIGHT, WIDTH).any()


@given(st.floats(0, 1, width=32))
@settings(max_examples=200, deadline=None)
def test_a_probability_survives_to_within_half_a_step(value: float) -> None:
    levels = to_levels(judged((Box(0, 0, 4, 4), value)), 4, 4)
    probability, analysed = from_levels(levels)
    assert analysed.all()
    assert np.abs(probability - value).max() <= 1 / 508 + 1e-6


def test_the_levels_are_those_that_are_documented() -> None:
    values = [to_levels(judged((Box(0, 0, 4, 4), v)), 4, 4)[0, 0] for v in (0.0, 0.5, 1.0)]
    assert values == [1, 128, 255]


@given(
    st.integers(2, 70),
    st.integers(2, 50),
    st.lists(
        st.tuples(
            st.floats(-40, 90), st.floats(-40, 70), st.floats(0.5, 60), st.floats(0, 1, width=32)
        ),
        max_size=4,
    ),
)
@settings(max_examples=20, deadline=None)
def test_what_was_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    squares: list[tuple[float, float, float, float]],
) -> None:
    path = tmp_path_factory.mktemp("masks") / "masks"
    made = build.scan(info=build.video(width, height))
    faces = [(Box(x, y, x + side, y + side), value) for x, y, side, value in squares]
    results = [
        build.at(judged(*faces), 0),
        build.at(judged(), 1),
        build.at(replace(judged(*faces), analysed=False), 2),
    ]
    written(path, made, results)
    masks = list(read_masks(path))
    assert len(masks) == len(results)
    for index, (result, mask) in enumerate(zip(results, masks, strict=True)):
        probability, analysed = from_levels(to_levels(result, height, width))
        assert mask.index == index
        assert mask.time == pytest.approx(result.frame.time, abs=0.001)
        assert mask.probability.dtype == np.float32
        assert mask.probability.shape == (height, width)
        assert np.array_equal(mask.analysed, analysed)
        assert np.array_equal(mask.probability, probability, equal_nan=True)


def test_every_source_frame_has_a_mask_whatever_the_times(tmp_path: Path) -> None:
    # Ticks of 1/90000 s: the first three fall into one millisecond of Matroska.
    info = replace(build.video(WIDTH, HEIGHT), time_base=Fraction(1, 90_000))
    made = build.scan(info=info)
    ticks = [0, 1, 2, 3_003, 450_000, 450_001, 10**9]
    result = judged((Box(0, 0, 20, 20), 0.9))
    results = [
        replace(result, frame=replace(result.frame, index=index, pts=pts))
        for index, pts in enumerate(ticks)
    ]
    written(tmp_path / "masks", made, results)
    masks = list(read_masks(tmp_path / "masks"))
    assert [mask.index for mask in masks] == list(range(len(ticks)))
    assert [mask.time for mask in masks] == pytest.approx([t / 90_000 for t in ticks], abs=6e-4)


def test_a_still_picture_has_one_mask(tmp_path: Path) -> None:
    info = replace(
        build.video(WIDTH, HEIGHT, still=True), time_base=Fraction(1), frame_rate=Fraction(1)
    )
    made = build.scan(info=info, frames=1)
    written(tmp_path / "masks", made, [judged((Box(0, 0, 20, 20), 0.9))])
    assert len(list(read_masks(tmp_path / "masks"))) == 1


def test_a_file_that_is_no_mask_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks"
    with pytest.raises(OutputError, match="masks"):
        list(read_masks(path))
    path.write_bytes(b"no video")
    with pytest.raises(OutputError, match="masks"):
        list(read_masks(path))
