from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepscan.sinks import draw
from deepscan.sinks.canvas import Canvas
from deepscan.sinks.footer import lay_out, show, time_text
from deepscan.sinks.styles import WHITE, Mark
from deepscan.sinks.surface import Surface
from deepscan.types import Box, Face, Frame, FrameResult, Label, Planes, Scan, UnscoredFace
from deepscan.video.planes import BT709, NO_IMAGE
from deepscan.wording import probability
from tests.sinks import build

WIDTH, HEIGHT = 640, 480
FACE = Box(250, 150, 370, 300)


def canvas(made: Scan, width: int = WIDTH, height: int = HEIGHT) -> Canvas:
    return Canvas(made, width, height)


def one_face(score: float, time: float = 0.0) -> FrameResult:
    image = build.picture(HEIGHT, WIDTH, [FACE])
    return FrameResult(Frame(0, 0, time, image), (build.prediction(image, FACE, 0, score, 64),))


def changed(result: FrameResult, painted: Planes) -> NDArray[np.bool_]:
    """(H, W) bool: pixels of the picture whose brightness the painting altered."""
    height, width = result.frame.image.shape[:2]
    source = build.planes(result.frame.image, painted.matrix)
    altered: NDArray[np.bool_] = painted.luma[:height, :width] != source.luma
    return altered


def within(box: Box, margin: int = 0) -> tuple[slice, slice]:
    return (
        slice(int(box.y1) + margin, int(box.y2) - margin),
        slice(int(box.x1) + margin, int(box.x2) - margin),
    )


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_every_size_gives_even_sides_and_leaves_a_frame_without_faces_as_it_is(
    width: int, height: int, faces: int
) -> None:
    made = build.scan(info=build.video(width, height), faces=faces)
    here = canvas(made, width, height)
    image = build.picture(height, width)
    painted = here.paint(FrameResult(Frame(0, 0, 0.0, image), ()))
    assert painted.luma.shape == here.shape
    assert here.shape[0] % 2 == here.shape[1] % 2 == 0
    source = build.planes(image, painted.matrix)
    given = FrameResult(Frame(0, 0, 0.0, NO_IMAGE, source), ())
    for shown in (painted, canvas(made, width, height).paint(given)):
        left = (shown.width - width) // 4 * 2
        assert np.array_equal(shown.luma[:height, left : left + width], source.luma)
        rows, columns = source.blue.shape
        for plane, wanted in ((shown.blue, source.blue), (shown.red, source.red)):
            assert np.array_equal(plane[:rows, left // 2 : left // 2 + columns], wanted)


def test_the_marked_area_is_tinted_inside_an_interval() -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT), faces=1)
    result = one_face(0.97, time=made.verdict.intervals[0].start)
    altered = changed(result, canvas(made).paint(result))
    # The blob of `build` covers the lower middle of the face.
    middle = Box(295, 235, 325, 255)
    assert altered[within(middle)].all()


def test_outside_an_interval_only_the_outline_of_the_mask_is_drawn() -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT), faces=1)
    result = one_face(0.97, time=0.0)
    altered = changed(result, canvas(made).paint(result))
    assert not altered[within(Box(295, 235, 325, 255))].any()
    assert altered[within(FACE, 8)].any()


def test_nothing_is_drawn_on_a_judged_face_without_finding() -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT), faces=1, label=Label.NO_EVIDENCE)
    result = one_face(0.12)
    altered = changed(result, canvas(made).paint(result))
    assert not altered[within(FACE, 8)].any()
    assert altered[150, 250:370].all()


def test_the_box_of_a_face_that_was_not_judged_has_gaps() -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT), faces=0, unjudged=1)
    image = build.picture(HEIGHT, WIDTH, [FACE])
    face = UnscoredFace(Face(FACE, 0.9, None, 0), "too_small")
    result = FrameResult(Frame(0, 0, 0.0, image), (), (face,))
    altered = changed(result, canvas(made).paint(result))
    edge = altered[150, 250:370]
    assert edge.any()
    assert not edge.all()
    assert not altered[within(FACE, 8)].any()


def test_kinds_of_findings_differ_in_grey_and_in_shape() -> None:
    looks = []
    for mark in Mark:
        style = mark.value
        picture = np.full((80, 80, 3), 120, np.uint8)
        build.frame(picture, draw.Area(10, 10, 70, 70), style, 1)
        looks.append(((style.corners, style.dashed, style.sign), (picture != 120).any(axis=2)))
    assert len({sign for (_, _, sign), _ in looks}) == len(looks)
    greys = [np.dot(mark.value.colour, (0.299, 0.587, 0.114)) for mark in Mark]
    assert abs(greys[0] - greys[1]) > 60  # manipulated and suspicious


@pytest.mark.parametrize("faces", [1, 3, 12])
def test_labels_hide_no_face_where_there_is_room(faces: int) -> None:
    made = build.scan(info=build.video(1280, 720), faces=faces, unjudged=2, label=Label.NO_EVIDENCE)
    here = canvas(made, 1280, 720)
    for result in build.results(made, frames=3):
        altered = changed(result, here.paint(result))
        for prediction in result.faces:
            assert not altered[within(prediction.crop.face.box, 6)].any()


def test_boxes_and_masks_that_reach_out_of_the_picture_are_cut() -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT), faces=4)
    image = build.picture(HEIGHT, WIDTH)
    boxes = [
        Box(-50, -40, 60, 80),
        Box(600, 430, 700, 530),
        Box(700, 500, 800, 600),
        Box(10, 10, 10.2, 10.2),
    ]
    faces = tuple(build.prediction(image, b, n, 0.97, 16) for n, b in enumerate(boxes))
    time = made.verdict.intervals[0].start
    result = FrameResult(Frame(0, 0, time, image), faces)
    altered = changed(result, canvas(made).paint(result))
    assert altered[:40, :40].any()
    assert altered[450:, 610:].any()


def test_a_face_without_a_track_is_drawn() -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT), faces=1, label=Label.NO_EVIDENCE)
    result = one_face(0.12)
    (prediction,) = result.faces
    face = replace(prediction.crop.face, track_id=None)
    nameless = replace(prediction, crop=replace(prediction.crop, face=face))
    result = replace(result, faces=(nameless,))
    assert changed(result, canvas(made).paint(result))[150, 250:370].all()


@pytest.mark.parametrize("size", [(100, 100), (1000, 1000), (0, 0)])
def test_a_frame_of_another_size_does_not_break_the_canvas(size: tuple[int, int]) -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT))
    here = canvas(made)
    image = build.picture(*size)
    painted = here.paint(FrameResult(Frame(0, 0, 0.0, image), ()))
    assert painted.luma.shape == here.shape
    height, width = (min(a, b) for a, b in zip(size, (HEIGHT, WIDTH), strict=True))
    if height:
        source = build.planes(image[:height, :width], painted.matrix)
        assert np.array_equal(painted.luma[:height, :width], source.luma)
    dark = painted.luma[height:HEIGHT]
    assert (dark == painted.luma[-1, 0]).all()


def test_the_play_head_and_the_clock_are_all_that_moves_in_the_strip() -> None:
    footer = lay_out(build.scan(frames=100), WIDTH, HEIGHT, 14)
    axis = footer.axis
    assert axis is not None
    empty = build.planes(footer.strip, BT709)

    def strip(time: float, *, analysed: bool = True) -> NDArray[np.uint8]:
        planes = replace(empty, samples=empty.samples.copy())
        show(Surface.of(planes), 0, footer, time, analysed=analysed)
        return planes.luma

    def head(luma: NDArray[np.uint8]) -> int:
        row = luma[axis.y1, axis.x1 : axis.x2]
        return int(np.flatnonzero(row == row.max())[0])

    start, middle, end, late = (strip(time) for time in (0.0, 2.0, 4.0, 99.0))
    assert head(start) == 0
    assert head(middle) == pytest.approx(axis.width / 2, abs=2)
    assert head(end) == head(late) == axis.width - 1
    moved = start != middle
    assert not moved[: axis.y1].any()
    assert not moved[axis.y1 : axis.y2, axis.x1 + 10 : axis.x1 + axis.width // 2 - 10].any()
    assert (strip(0.0, analysed=False) != start).any()


def test_a_still_picture_has_no_time_line_and_shows_its_findings() -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT, still=True), faces=1, frames=1)
    interval = replace(made.verdict.intervals[0], start=0.0, end=0.0)
    made = replace(made, verdict=replace(made.verdict, intervals=(interval,)))
    assert lay_out(made, WIDTH, HEIGHT, 14).axis is None
    result = one_face(0.97)
    altered = changed(result, canvas(made).paint(result))
    assert altered[within(Box(295, 235, 325, 255))].all()


def test_the_strip_names_verdict_source_and_model() -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT))

    def strip(other: Scan) -> bytes:
        return lay_out(other, WIDTH, HEIGHT, 14).strip.tobytes()

    same = strip(made)
    assert same == strip(replace(made, sha256=made.sha256[:12] + "f" * 52))
    assert same != strip(replace(made, sha256="f" * 64))
    model = replace(made.verdict.model, name="another")
    assert same != strip(replace(made, verdict=replace(made.verdict, model=model)))
    looks = {
        label: strip(replace(made, verdict=replace(made.verdict, label=label))) for label in Label
    }
    assert len(set(looks.values())) == len(looks)


def test_many_tracks_share_the_last_row() -> None:
    few = lay_out(build.scan(faces=2, unjudged=0), WIDTH, HEIGHT, 14)
    many = lay_out(build.scan(faces=60, unjudged=9), WIDTH, HEIGHT, 14)
    assert few.axis is not None
    assert many.axis is not None
    assert few.axis.height < many.axis.height < 0.2 * HEIGHT


def test_hostile_words_are_drawn_as_they_can_be() -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT))
    name = "<img onerror>\n\x00\u202e中" * 40
    model = replace(made.verdict.model, name=name)
    made = replace(made, verdict=replace(made.verdict, model=model))
    assert lay_out(made, WIDTH, HEIGHT, 14).strip.shape[1] == WIDTH
    assert draw.clean("a\nb\u202e·中") == "a?b?·?"


def test_text_is_narrowed_for_wide_pixels() -> None:
    square = draw.text("analysis copy", 20, WHITE)
    wide = draw.text("analysis copy", 20, WHITE, float(Fraction(16, 11)))
    assert wide.height == square.height
    assert wide.width == pytest.approx(square.width * 11 / 16, abs=1)


def test_clock_and_probability_are_written_for_people() -> None:
    assert time_text(62.345, 300) == "1:02.34 / 5:00.00"
    assert time_text(0.04, 1) == "0:00.04 / 0:01.00"
    assert time_text(3725.5, 7200) == "1:02:05.50 / 2:00:00.00"
    assert time_text(59.999, 60) == "1:00.00 / 1:00.00"
    assert probability(0.999) == ">0.99"
    assert probability(1e-6) == "<0.01"
    assert probability(0.5) == "0.50"
