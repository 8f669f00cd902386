"""A part of the media: nothing outside of it is judged, and the verdict says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepscan.errors import UsageError
from deepscan.scan import segments
from deepscan.scan.segments import segments_of
from deepscan.sinks.masks import read_masks
from deepscan.types import Label
from deepscan.verdict.notes import of_budget
from tests.conftest import fake_scanner, make_face_clip
from tests.scan.test_scanner import HERE, codes, outputs_in, scan, valid


@pytest.fixture(scope="module")
def half_forged(tmp_path_factory):
    """Four seconds, forged in the third."""
    return make_face_clip(tmp_path_factory.mktemp("c") / "a.mp4", frames=100, forged=range(50, 75))


@pytest.mark.parametrize(
    ("start", "end", "label"),
    [
        (0.0, 1.8, Label.NO_EVIDENCE),
        (3.2, None, Label.NO_EVIDENCE),
        (1.8, 3.2, Label.MANIPULATED),
        (2.0, None, Label.MANIPULATED),
    ],
)
def test_nothing_outside_of_the_part_is_judged(half_forged, tmp_path, start, end, label):
    targets = outputs_in(tmp_path, "masks", "record")
    outcome = scan(half_forged, targets, replace(HERE, start=start, end=end))
    verdict = outcome.scan.verdict
    stop = 4.0 if end is None else end
    assert verdict.label is label
    assert codes(outcome)[-1] == "part"
    assert f"from {start:g} s to" in verdict.reasons[-1].text
    assert verdict.coverage.decoded == 100
    inside = [start <= index / 25 < stop for index in range(100)]
    assert verdict.coverage.analysed == sum(inside)
    assert all(start <= track.start and track.end <= stop + 0.041 for track in verdict.tracks)
    masks = list(read_masks(targets["masks"]))
    assert [mask.analysed.any() for mask in masks] == inside  # one frame for each of the source
    record = valid(targets["record"])
    assert (record["settings"]["start"], record["settings"]["end"]) == (start, end)


def test_a_part_without_a_frame_is_not_clean(half_forged):
    outcome = scan(half_forged, options=replace(HERE, start=60.0))
    assert outcome.label is Label.INCONCLUSIVE
    assert codes(outcome) == ["part"]
    assert "nothing of the file lies" in outcome.scan.verdict.reasons[0].text


def test_a_whole_file_has_no_part(half_forged):
    assert "part" not in codes(scan(half_forged))


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": -1.0},
        {"start": float("nan")},
        {"start": float("inf")},
        {"end": 0.0},
        {"start": 5.0, "end": 5.0},
        {"end": float("nan")},
        {"budget": -1.0},
        {"budget": float("nan")},
    ],
)
def test_a_part_that_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError):
        fake_scanner(replace(HERE, **wrong))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.0, None, [(0, 10, 1), (10, 20, 1), (20, 30, 1), (30, 40, 1)]),
        (12.0, None, [(0, 12, 0), (12, 20, 1), (20, 30, 1), (30, 40, 1)]),
        (10.0, 25.0, [(0, 10, 0), (10, 20, 1), (20, 25, 1), (25, float("inf"), 0)]),
        (3.0, 4.0, [(0, 3, 0), (3, 4, 1), (4, float("inf"), 0)]),
    ],
)
def test_borders_lie_at_segments_and_at_the_part(monkeypatch, start, end, expected):
    monkeypatch.setattr(segments, "SEGMENT_LENGTH", 10.0)
    found = []
    for segment in segments_of(replace(HERE, start=start, end=end)):
        found.append((segment.start, segment.end, segment.stride))
        if len(found) == 4:
            break
    assert found == expected


def test_a_budget_that_ran_out_forbids_every_word_of_nothing_found(clips):
    labels = {
        "honest": Label.INCONCLUSIVE,
        "no_face": Label.INCONCLUSIVE,
        "cut_off": Label.INCONCLUSIVE,
        "forged": Label.MANIPULATED,
    }
    for name, label in labels.items():
        verdict = of_budget(scan(clips[name]).scan.verdict, "a part was left undone")
        assert verdict.label is label
        told = [reason.code for reason in verdict.reasons]
        assert "budget" in told
        assert not {"complete", "no_face"} & set(told)
