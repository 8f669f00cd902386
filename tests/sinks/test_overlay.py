from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest

from deepscan.sinks.overlay import OverlaySink
from deepscan.types import FrameResult, Scan
from deepscan.video import open_video
from tests.drawn import read_number
from tests.media import make_video
from tests.sinks import build

WIDTH, HEIGHT = 322, 182
FRAMES = 10


def sound(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        return [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(audio=0)
            if packet.pts is not None and packet.time_base is not None
        ]


def overlay(path: Path, made: Scan, results: list[FrameResult]) -> Path:
    sink = OverlaySink(path, made)
    for result in results:
        sink.write(result)
    sink.close()
    return path


@pytest.mark.parametrize("rotation", [0, 90])
def test_frames_keep_their_times_and_the_sound_is_copied(
    tmp_path: Path, rotation: Literal[0, 90]
) -> None:
    path = make_video(
        tmp_path / "source.mp4",
        frames=FRAMES,
        size=(WIDTH, HEIGHT),
        vfr=True,
        audio="aac",
        rotation=rotation,
    )
    with open_video(path, decoder="pyav", isolate=False) as reader:
        info = reader.info
        results = [FrameResult(frame, (), ()) for frame in reader.frames()]
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    made = build.scan(info=info, path=path, faces=0, unjudged=0, frames=FRAMES)
    out = overlay(tmp_path / "out", made, results)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert stream.codec_context.pix_fmt == "yuv420p"
    assert [frame.time for frame in frames] == pytest.approx(
        [result.frame.time for result in results], abs=1e-6
    )
    shown = [frame.to_ndarray(format="rgb24")[:HEIGHT].astype(np.uint8) for frame in frames]
    assert [read_number(image) for image in shown] == list(range(FRAMES))
    copied, original = sound(out), sound(path)
    assert [data for _, data in copied] == [data for _, data in original]
    assert [float(t) for t, _ in copied] == pytest.approx([float(t) for t, _ in original], abs=1e-4)
    raw = out.read_bytes()
    assert raw.index(b"moov") < raw.index(b"mdat")  # starts to play before it is all there


def test_the_picture_is_seen_above_the_strip(tmp_path: Path) -> None:
    made = build.scan(info=build.video(WIDTH, HEIGHT), faces=0, unjudged=0, frames=2)
    results = list(build.results(made, frames=2))
    out = overlay(tmp_path / "out", made, results)
    with av.open(str(out)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert frame.shape[1] == WIDTH
    assert HEIGHT < frame.shape[0] < 1.6 * HEIGHT
    difference = frame[:HEIGHT].astype(int) - results[0].frame.image
    assert np.abs(difference).mean() < 4


def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    info = build.video(WIDTH, HEIGHT, sample_aspect_ratio=Fraction(16, 11))
    made = build.scan(info=info, frames=2)
    out = overlay(tmp_path / "out", made, list(build.results(made, frames=2)))
    with av.open(str(out)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_a_still_picture_becomes_a_short_clip(tmp_path: Path) -> None:
    info = replace(
        build.video(WIDTH, HEIGHT, still=True), time_base=Fraction(1), frame_rate=Fraction(1)
    )
    made = build.scan(info=info, frames=1)
    out = overlay(tmp_path / "out", made, list(build.results(made, frames=1)))
    with av.open(str(out)) as container:
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(2.0, abs=0.5)


def test_a_source_that_has_gone_costs_the_sound_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gone.mp4"
    info = build.video(WIDTH, HEIGHT, path=path, audio=("aac",))
    made = build.scan(info=info, path=path, frames=2)
    out = overlay(tmp_path / "out", made, list(build.results(made, frames=2)))
    assert "sound left out" in caplog.text
    with av.open(str(out)) as container:
        assert not container.streams.audio
        assert len(list(container.decode(video=0))) == 2
