"""What lies behind or inside a picture is judged too, or it is no better than inconclusive."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image as Pillow

from deepscan.errors import NoStreamError
from deepscan.options import Limits, ScanOptions
from deepscan.types import Label, Scanned
from deepscan.video import open_video
from tests.conftest import draw_face, fake_scanner, make_face_clip

HERE = ScanOptions(isolate=False)
GREY = np.full((120, 160, 3), 90, np.uint8)


def encoded(image: np.ndarray, kind: str = "JPEG", **wanted: object) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, kind, **wanted)
    return file.getvalue()


def scan(path: Path, options: ScanOptions = HERE) -> Scanned:
    with fake_scanner(options) as scanner:
        outcome = scanner.scan(path)
    assert isinstance(outcome, Scanned), outcome
    return outcome


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("behind") / "forged.mp4"
    return make_face_clip(path, forged=range(20), audio="aac").read_bytes()


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize(
    ("kind", "between"),
    [
        ("JPEG", b""),
        ("JPEG", b"\0\0\1\n\x0e\0\0\0MotionPhoto_Data"),
        ("PNG", b""),
        ("WEBP", b"\0\0\1\0mpvd"),
        ("TIFF", b"xyz"),
    ],
)
def test_a_video_behind_a_picture_is_judged(
    forged: bytes, tmp_path: Path, kind: str, between: bytes, isolate: bool
) -> None:
    motion = tmp_path / "motion"
    motion.write_bytes(encoded(draw_face(0), kind) + between + forged)
    outcome = scan(motion, ScanOptions(isolate=isolate))
    assert outcome.label is Label.MANIPULATED
    assert outcome.scan.report.complete
    assert outcome.scan.verdict.reasons[0].code == "other_stream"
    assert "160x120, mp4 video" in outcome.scan.ignored[0]


def test_every_video_behind_a_picture_is_judged(forged: bytes, tmp_path: Path) -> None:
    clean = make_face_clip(tmp_path / "clean.mp4").read_bytes()
    avi = make_face_clip(tmp_path / "more.avi", codec="mpeg4").read_bytes()
    mkv = make_face_clip(tmp_path / "more.mkv").read_bytes()
    path = tmp_path / "motion.jpg"
    for videos in ([clean, forged], [clean, avi], [clean, mkv], [clean, b"SEFT", clean]):
        path.write_bytes(encoded(draw_face(0)) + b"".join(videos))
        outcome = scan(path)
        assert len(outcome.scan.ignored) == sum(len(each) > 4 for each in videos)
        assert (outcome.label is Label.MANIPULATED) == (forged in videos)
        assert outcome.scan.report.complete


@pytest.mark.parametrize("progressive", [False, True])
def test_a_second_picture_in_a_jpeg_is_judged(tmp_path: Path, progressive: bool) -> None:
    first = encoded(draw_face(0), progressive=progressive)
    path = tmp_path / "two.jpg"
    path.write_bytes(first + encoded(draw_face(0, forged=True), progressive=progressive))
    outcome = scan(path)
    assert outcome.label is Label.MANIPULATED
    assert "160x120, a picture" in outcome.scan.ignored[0]
    mpo = tmp_path / "two.mpo"
    second = Pillow.fromarray(draw_face(0, forged=True))
    Pillow.fromarray(draw_face(0)).save(mpo, "MPO", save_all=True, append_images=[second])
    assert scan(mpo).label is Label.MANIPULATED


def test_what_cannot_be_read_behind_a_picture_is_said(forged: bytes, tmp_path: Path) -> None:
    path = tmp_path / "motion.jpg"
    path.write_bytes(encoded(draw_face(0)) + forged[: len(forged) // 3])
    outcome = scan(path)
    assert outcome.label is Label.INCONCLUSIVE
    assert "not_all_streams_scanned" in outcome.scan.report.reasons[0]


def test_many_pictures_end_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "many.jpg"
    path.write_bytes(encoded(GREY) * 6)
    few = ScanOptions(isolate=False, limits=Limits(streams=3))
    outcome = scan(path, few)
    assert outcome.label is Label.INCONCLUSIVE and len(outcome.scan.ignored) == 4
    assert scan(path).label is Label.NOT_APPLICABLE


def tagged(jpeg: bytes, data: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data + jpeg[2:]


def test_a_plain_picture_has_nothing_inside(tmp_path: Path) -> None:
    """Previews in its tags, grey maps of brightness and rubbish behind it are no second picture."""
    thumbnail = tagged(encoded(draw_face(0)), b"Exif\0\0" + encoded(draw_face(0, forged=True)))
    one_map = tagged(encoded(GREY[:, :, 0]), b"http://ns.adobe.com/xap/1.0/\0 hdrgm:Version")
    for number, data in enumerate(
        (thumbnail, encoded(draw_face(0)) + one_map, encoded(draw_face(0)) + b"\0" * 99 + b"ftyp")
    ):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(data)
        outcome = scan(path)
        assert outcome.label is Label.NO_EVIDENCE and not outcome.scan.ignored
        with pytest.raises(NoStreamError, match="holds 0"):
            open_video(path, stream=1)
    # A map that shows colours is a picture, whatever it says.
    path.write_bytes(
        encoded(draw_face(0)) + tagged(encoded(draw_face(0, forged=True)), b"hdrgm:Version")
    )
    assert scan(path).label is Label.MANIPULATED


def test_sound_behind_a_picture_is_nothing_to_judge(tmp_path: Path) -> None:
    sound = tmp_path / "sound.m4a"
    with av.open(str(sound), "w") as out:
        stream = out.add_stream("aac", rate=48_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.sample_rate = 48_000
        out.mux(stream.encode(silence))
        out.mux(stream.encode(None))
    path = tmp_path / "shot.jpg"
    path.write_bytes(encoded(draw_face(0)) + sound.read_bytes())
    outcome = scan(path)
    assert outcome.label is Label.NO_EVIDENCE and outcome.scan.report.complete
