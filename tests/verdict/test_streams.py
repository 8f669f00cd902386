"""Files with several picture or sound streams: nothing may hide in the one that players skip."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from deepscan.errors import NoVideoError
from deepscan.options import ScanOptions
from deepscan.types import Label, Scanned
from deepscan.video import open_video
from tests.conftest import fake_scanner, make_face_clip
from tests.media import make_video

HERE = ScanOptions(isolate=False)


def join(path: Path, *sources: Path) -> Path:
    """Put the streams of several files into one."""
    opened = [av.open(str(source)) for source in sources]
    with av.open(str(path), "w") as out:
        pairs = [(c, s, out.add_stream_from_template(s)) for c in opened for s in c.streams]
        for container in opened:
            for packet in container.demux():
                if packet.dts is not None:
                    packet.stream = next(copy for _, s, copy in pairs if s is packet.stream)
                    out.mux(packet)
            container.close()
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A large film without a face."""
    return make_grey(tmp_path / "empty.mp4", (320, 240))


def make_grey(path: Path, size: tuple[int, int]) -> Path:
    grey = np.full((size[1], size[0], 3), 90, np.uint8)
    return make_video(path, frames=20, size=size, draw=lambda index: grey)


@pytest.mark.parametrize("isolate", [False, True])
def test_each_picture_stream_can_be_opened_the_largest_first(
    empty: Path, tmp_path: Path, isolate: bool
) -> None:
    small = make_video(tmp_path / "small.mp4", frames=20, size=(160, 120))
    both = join(tmp_path / "both.mkv", small, empty)
    sizes = []
    for stream in (0, 1):
        with open_video(both, stream=stream, isolate=isolate) as reader:
            assert sum(1 for _ in reader.frames()) == 20
            sizes.append(reader.info.width)
            assert reader.report().reasons[0].startswith("not_all_streams_scanned")
    assert sizes == [320, 160]
    with pytest.raises(NoVideoError, match="2 picture streams"):
        open_video(both, stream=2, isolate=isolate)


def test_two_streams_without_a_face_are_one_file_without_a_face(
    empty: Path, tmp_path: Path
) -> None:
    both = join(tmp_path / "both.mkv", make_grey(tmp_path / "small.mp4", (160, 120)), empty)
    with fake_scanner(HERE) as scanner:
        outcome = scanner.scan(both)
    assert isinstance(outcome, Scanned)
    assert outcome.label is Label.NOT_APPLICABLE
    assert outcome.scan.report.complete
    assert "picture stream 2, 160x120" in outcome.scan.ignored[0]


def test_a_face_in_the_smaller_stream_decides_the_label(empty: Path, tmp_path: Path) -> None:
    hidden = make_face_clip(tmp_path / "hidden.mp4", forged=range(20))
    with fake_scanner(HERE) as scanner:
        alone = scanner.scan(hidden)
    both = join(tmp_path / "both.mkv", empty, hidden)
    with fake_scanner(HERE) as scanner:
        outcome = scanner.scan(both)
    assert isinstance(outcome, Scanned) and isinstance(alone, Scanned)
    assert alone.label is outcome.label is Label.MANIPULATED
    assert [reason.code for reason in outcome.scan.verdict.reasons] == ["other_stream"]


def test_all_sound_tracks_are_copied_bit_for_bit(empty: Path, tmp_path: Path) -> None:
    one = make_video(tmp_path / "one.mp4", frames=20, size=(160, 120), audio="aac")
    two = make_video(tmp_path / "two.mkv", frames=20, size=(160, 120), audio="ac3")
    both = join(tmp_path / "both.mkv", one, two)
    with fake_scanner(HERE) as scanner:
        scanner.scan(both, {"overlay": tmp_path / "r.mp4"})
    assert sound(both) == sound(tmp_path / "r.mp4")
    assert len(sound(both)) == 2


def sound(path: Path) -> list[list[bytes]]:
    tracks = []
    with av.open(str(path)) as probe:
        count = len(probe.streams.audio)
    for number in range(count):
        with av.open(str(path)) as container:
            tracks.append([bytes(p) for p in container.demux(audio=number) if p.size])
    return tracks
