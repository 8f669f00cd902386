"""A player shows every frame of a verdict video, at the record's times, with its sound in step."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from deepscan.types import Frame, VideoInfo
from deepscan.video import open_video
from deepscan.video.writer import VideoWriter
from tests.video.healthy import KINDS, Kind

by_name = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
SOUNDING = [kind for kind in KINDS if kind.make.keywords.get("sound") and kind.shown > 1]  # type: ignore[attr-defined]


def read(path: Path) -> tuple[VideoInfo, list[Frame]]:
    with open_video(path, decoder="pyav", isolate=False) as reader:
        return reader.info, list(reader.frames())


def film(kind: Kind, folder: Path) -> tuple[Path, list[Frame]]:
    """The verdict video of a kind as the overlay writes it, and the frames of its source."""
    source = folder / kind.name
    kind.make(source)
    info, frames = read(source)
    target = folder / "film.mp4"
    with VideoWriter(target, info, source=source) as writer:
        for frame in frames:
            writer.write(frame.image, frame.pts)
    return target, frames


def shown(path: Path) -> list[Fraction]:
    """When a player shows a picture: FFmpeg applies the edit list, nothing is seen before zero."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [frame.pts * stream.time_base for frame in container.decode(stream)]
    return [time for time in times if time >= 0]


def loud(path: Path) -> Iterator[tuple[float, float]]:
    """Start and end of each piece of sound (s) as a player plays it."""
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.audio[0]):
            assert isinstance(frame, av.AudioFrame)
            if frame.pts is not None and np.abs(frame.to_ndarray().astype(float)).max() > 0:
                begin = float(frame.pts * frame.time_base)
                yield begin, begin + frame.samples / frame.sample_rate


@by_name
def test_a_player_shows_every_frame_at_its_time(kind: Kind, tmp_path: Path) -> None:
    path, frames = film(kind, tmp_path)
    times = shown(path)
    assert len(times) == len(frames) == kind.shown
    assert [float(time) for time in times] == pytest.approx([f.time for f in frames], abs=0.0011)
    assert frames[0].time >= 0


@pytest.mark.parametrize("kind", SOUNDING, ids=[kind.name for kind in SOUNDING])
def test_sound_stays_in_step(kind: Kind, tmp_path: Path) -> None:
    path, _ = film(kind, tmp_path)
    info, _ = read(tmp_path / kind.name)
    origin = float(info.start_pts * info.time_base)
    before = list(loud(tmp_path / kind.name))
    after = list(loud(path))
    assert after[0][0] + origin == pytest.approx(before[0][0], abs=0.03)
    assert after[-1][1] + origin == pytest.approx(before[-1][1], abs=0.06)


@pytest.mark.parametrize("name", ["joined.ts", "joined-back.ts"])
def test_joined_recordings_play_on(name: str, tmp_path: Path) -> None:
    path, frames = film(next(kind for kind in KINDS if kind.name == name), tmp_path)
    assert frames[-1].time == pytest.approx(29 / 25, abs=0.1)
    assert max(np.diff(shown(path))) < 0.1
    assert list(loud(path))[-1][1] == pytest.approx(1.2, abs=0.2)
