"""Animated pictures and pages: every frame, at its own time, and nothing missed in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import features

from deepscan.errors import LimitError, UnsupportedError
from deepscan.options import Limits, ScanOptions
from deepscan.types import Frame, Label, ReadReport, Scanned, VideoInfo
from deepscan.video import open_video
from tests.conftest import draw_face, fake_scanner
from tests.drawn import read_number
from tests.media import draw_numbered

SIZE = (200, 120)
LASTS = [100, 200, 50, 400, 100]  # ms
KINDS = ["GIF", "WEBP", "PNG", *(["AVIF"] if features.check("avif") else [])]
QUALITY = {"WEBP": {"lossless": True}, "AVIF": {"quality": 95}}


def animate(path: Path, kind: str, images: list[np.ndarray], lasts: object = None) -> Path:
    first, *rest = (Pillow.fromarray(image) for image in images)
    wanted = QUALITY.get(kind, {})
    duration = LASTS[: len(images)] if lasts is None else lasts
    first.save(path, kind, save_all=True, append_images=rest, duration=duration, **wanted)
    return path


def read(path: Path, **wanted: object) -> tuple[VideoInfo, list[Frame], ReadReport]:
    with open_video(path, **wanted) as reader:  # type: ignore[arg-type]
        frames = list(reader.frames())
        return reader.info, frames, reader.report()


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_have_their_own_times(kind: str, isolate: bool, tmp_path: Path) -> None:
    images = [draw_numbered(n, SIZE) for n in range(5)]
    path = animate(tmp_path / "moving", kind, images)
    info, frames, report = read(path, isolate=isolate)
    assert [read_number(frame.image) for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.pts for frame in frames] == [0, 100, 300, 350, 750]
    assert [frame.time for frame in frames] == [0, 0.1, 0.3, 0.35, 0.75]
    assert (info.width, info.height, info.still, info.decoder) == (*SIZE, False, "pillow")
    assert report.complete and report.decoded == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_forgery_in_an_animation_is_found_and_drawn(kind: str, tmp_path: Path) -> None:
    images = [draw_face(2 * n, forged=n >= 10) for n in range(20)]
    path = animate(tmp_path / "moving", kind, images, 100)
    outputs = {"overlay": tmp_path / "r.mp4", "masks": tmp_path / "r.mkv"}
    with fake_scanner(ScanOptions(isolate=False)) as scanner:
        outcome = scanner.scan(path, outputs)
    assert isinstance(outcome, Scanned) and outcome.label is Label.MANIPULATED
    (interval,) = outcome.scan.verdict.intervals
    assert 0.4 <= interval.start <= 1.1 and interval.end == pytest.approx(2.0)
    _, frames, _ = read(tmp_path / "r.mp4")
    assert [round(frame.time, 3) for frame in frames] == [n / 10 for n in range(20)]


def test_pages_of_any_size_are_judged(tmp_path: Path) -> None:
    page = Pillow.fromarray(np.full((60, 400, 3), 90, np.uint8))
    forged = Pillow.fromarray(draw_face(0, forged=True))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[forged, page])
    info, frames, report = read(tmp_path / "pages.tif")
    assert (info.width, info.height) == (400, 120) and report.complete
    assert [frame.time for frame in frames] == [0, 1, 2]
    assert (frames[1].image[:, 120:280] == np.asarray(forged)).all()
    with fake_scanner(ScanOptions(isolate=False)) as scanner:
        assert scanner.scan(tmp_path / "pages.tif").label is Label.MANIPULATED


def test_a_frame_without_a_time_is_shown_as_browsers_do(tmp_path: Path) -> None:
    path = animate(tmp_path / "x.gif", "GIF", [draw_numbered(n, SIZE) for n in range(3)], 0)
    assert [frame.pts for frame in read(path)[1]] == [0, 100, 200]


def test_a_cut_animation_is_never_complete(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 60, 80, 3), np.uint8)
    for kind in ("GIF", "PNG"):
        path = animate(tmp_path / "x", kind, list(noise), 100)
        whole = path.read_bytes()
        assert read(path)[2].complete
        for share in (0.3, 0.62, 0.97):
            path.write_bytes(whole[: int(share * len(whole))])
            _, frames, report = read(path)
            assert 0 < len(frames) <= 12 and not report.complete
    # What a program put behind the last mark is no damage.
    path = animate(tmp_path / "x", "GIF", list(noise), 100)
    path.write_bytes(path.read_bytes() + b"made by a program")
    assert read(path)[2].complete


def test_limits_stop_an_animation(tmp_path: Path) -> None:
    path = animate(tmp_path / "x.gif", "GIF", [draw_numbered(n, SIZE) for n in range(5)])
    for limits, reason in (
        (Limits(frames=4), "limit_frames"),
        (Limits(duration=0.2), "limit_time"),
        (Limits(side=150), "limit_pixels"),
    ):
        with pytest.raises(LimitError) as seen:
            read(path, limits=limits)
        assert seen.value.reason == reason


def test_a_picture_that_nothing_here_reads_says_what_does(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic" + bytes(300))
    from PIL import Image

    if "HEIF" not in Image.OPEN:
        with pytest.raises(UnsupportedError, match="pillow-heif"):
            read(path)
