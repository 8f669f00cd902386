"""The store: what goes in comes out, from a disk that may be full."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.errors import CorruptError, OutputError
from deepscan.scan.frame_store import FrameStore
from deepscan.types import Box, Face, FaceCrop, FacePrediction, Frame, FrameResult, UnscoredFace

ROOT = Path(__file__).parents[2]


def results(count, faces=2, seed=0):
    rng = np.random.default_rng(seed)
    for index in range(count):
        image = rng.integers(0, 256, (12, 16, 3), np.uint8)
        judged = tuple(
            FacePrediction(
                FaceCrop(
                    Face(Box(1, 2, 41.5, 50), 0.99, ((1.0, 2.0),) * 5, track, track == 1),
                    Box(0, 0, 60, 60),
                    rng.integers(0, 256, (64, 64, 3), np.uint8),
                    123.4,
                ),
                float(rng.random()),
                rng.random((24, 24), np.float32),
            )
            for track in range(faces)
        )
        seen = UnscoredFace(Face(Box(0, 0, 9, 9), 0.9, None, 7), "too_small")
        frame = Frame(index, 512 * index + 7, index / 25, image)
        yield FrameResult(frame, judged, (seen,), index % 3 > 0)


@given(st.integers(0, 12), st.integers(0, 3), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_what_goes_in_comes_out(count, faces, seed):
    given_in = list(results(count, faces, seed))
    with FrameStore() as store:
        for result in given_in:
            store.append(result)
        for _ in range(2):  # any number of times
            back = list(store.replay())
            assert len(back) == count
            for before, after in zip(given_in, back, strict=True):
                assert after.frame.index == before.frame.index
                assert after.frame.pts == before.frame.pts
                assert after.frame.time == before.frame.time
                assert after.frame.image.size == 0  # faces are personal data: no pixels on disk
                assert after.unscored == before.unscored
                assert after.analysed == before.analysed
                for a, b in zip(before.faces, after.faces, strict=True):
                    assert (b.score, b.crop.face, b.crop.box) == (a.score, a.crop.face, a.crop.box)
                    assert b.crop.image.size == 0
                    assert b.mask.dtype == np.float32
                    assert np.abs(a.mask - b.mask).max() <= 1 / 510 + 1e-6


def test_pictures_come_back_from_the_second_reading():
    given_in = list(results(5))
    with FrameStore() as store:
        for result in given_in:
            store.append(result)
        back = list(store.replay(result.frame for result in given_in))
    assert all(b.frame is a.frame for a, b in zip(given_in, back, strict=True))


@pytest.mark.parametrize(
    "changed",
    [
        lambda frames: frames[:-1],
        lambda frames: frames[1:],
        lambda frames: [*frames[:2], replace(frames[2], pts=1), *frames[3:]],
        lambda frames: [],
    ],
)
def test_other_frames_are_not_taken_for_the_first(changed):
    given_in = list(results(5))
    with FrameStore() as store:
        for result in given_in:
            store.append(result)
        with pytest.raises(CorruptError, match="changed during the scan"):
            list(store.replay(changed([result.frame for result in given_in])))


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from deepscan.errors import OutputError
from deepscan.scan.frame_store import FrameStore
from tests.scan.test_frame_store import results
try:
    with FrameStore() as store:
        for result in results(int(sys.argv[2])):
            store.append(result)
        list(store.replay())
except OutputError as error:
    print("OutputError:", error)
"""


@pytest.mark.parametrize(("allowed", "count"), [(4096, 200), (64, 1)])
def test_a_full_disk_is_an_output_error(allowed, count):
    """Also when only the last buffer does not fit, which shows on reading."""
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(allowed), str(count)],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert ran.stdout.startswith("OutputError: the temporary folder"), ran.stderr
    assert "TMPDIR" in ran.stdout
    assert ran.stderr == ""


def test_no_temporary_folder_is_an_output_error(monkeypatch):
    def fail(**_):
        raise OSError("no usable temporary directory")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(OutputError, match="TMPDIR"):
        FrameStore()


def test_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with FrameStore() as store:
        for result in results(3):
            store.append(result)
    assert list(tmp_path.iterdir()) == []
