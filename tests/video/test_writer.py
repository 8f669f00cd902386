"""Writing: times, colours, sound and shape of the source are kept, and a full disk is said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from deepscan.errors import OutputError
from deepscan.types import Colour, Frame, VideoInfo
from deepscan.video import open_video
from deepscan.video.writer import VideoWriter, read_gray
from tests.drawn import read_number, read_patches
from tests.media import PATCHES, draw_numbered, make_video
from tests.sinks import build

Clip = Callable[..., Path]


def read(path: Path) -> tuple[VideoInfo, list[Frame]]:
    with open_video(path, isolate=False) as reader:
        return reader.info, list(reader.frames())


def copy(path: Path, target: Path, **options: Any) -> VideoWriter:
    info, frames = read(path)
    with VideoWriter(target, info, source=path, **options) as writer:
        for frame in frames:
            writer.write(frame.image, frame.pts)
    return writer


def sound_of(path: Path) -> tuple[str, list[tuple[Fraction, bytes]]]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packets = [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.size and packet.pts is not None and packet.time_base is not None
        ]
        return stream.codec_context.name, packets


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("plain.mp4", {}),
        ("vfr.mp4", {"vfr": True}),
        ("vfr.mkv", {"vfr": True}),
        ("ntsc.mov", {"rate": Fraction(30000, 1001)}),
        ("h264.avi", {}),
        ("edited.mp4", {"hidden": 4}),
        ("h264.ts", {}),
        ("one.mp4", {"frames": 1}),
    ],
)
def test_every_frame_keeps_its_time(
    name: str, wanted: dict[str, Any], clip: Clip, tmp_path: Path
) -> None:
    path = clip(name, **wanted)
    copy(path, tmp_path / "out.mp4.part")
    before, frames = read(path)
    after, copies = read(tmp_path / "out.mp4.part")
    assert [frame.time for frame in copies] == pytest.approx([frame.time for frame in frames])
    assert [float(frame.pts * after.time_base) for frame in copies] == pytest.approx(
        [float((frame.pts - before.start_pts) * before.time_base) for frame in frames]
    )
    assert [read_number(frame.image) for frame in copies] == [
        read_number(frame.image) for frame in frames
    ]
    assert (after.container, after.codec, after.pixel_format) == ("mp4", "h264", "yuv420p")


@pytest.mark.parametrize(
    ("wanted", "matrix"),
    [
        ({}, "smpte170m"),
        ({"matrix": "bt709"}, "bt709"),
        ({"matrix": "bt709", "full_range": True}, "bt709"),
        ({"matrix": "bt2020nc"}, "bt2020nc"),
        ({"matrix": "bt709", "tagged": False, "size": (1280, 720), "frames": 3}, "bt709"),
    ],
)
def test_colours_survive_and_are_tagged(
    wanted: dict[str, Any], matrix: str, clip: Clip, tmp_path: Path
) -> None:
    copy(clip("colour.mp4", **wanted), tmp_path / "out.mp4")
    info, frames = read(tmp_path / "out.mp4")
    assert (info.colour.matrix, info.colour.tagged, info.colour.full_range) == (matrix, True, False)
    for seen, drawn in zip(read_patches(frames[-1].image), PATCHES, strict=True):
        assert seen == pytest.approx(drawn, abs=5)


def test_odd_sizes_are_padded_with_the_edge(clip: Clip, tmp_path: Path) -> None:
    copy(clip("odd.mkv", codec="ffv1", size=(161, 121), pix_fmt="yuv444p"), tmp_path / "out.mp4")
    info, frames = read(tmp_path / "out.mp4")
    assert (info.width, info.height) == (162, 122)
    last = frames[0].image[:, -2:].astype(int)
    assert np.abs(last[:, 0] - last[:, 1]).mean() < 3


def test_shape_of_pixels_and_turned_pictures_are_kept(clip: Clip, tmp_path: Path) -> None:
    path = clip("t.mp4", rotation=90, sample_aspect_ratio=Fraction(4, 3))
    copy(path, tmp_path / "out.mp4")
    before, after = read(path)[0], read(tmp_path / "out.mp4")[0]
    assert before.sample_aspect_ratio == after.sample_aspect_ratio == Fraction(3, 4)
    assert (after.width, after.height, after.rotation) == (160, 120, 0)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "aac"), ("a.mp4", "libmp3lame"), ("a.mkv", "ac3"), ("a.webm", "libopus")],
)
def test_sound_is_copied_bit_for_bit(name: str, codec: str, clip: Clip, tmp_path: Path) -> None:
    video = {"codec": "libvpx-vp9"} if name.endswith("webm") else {}
    path = clip(name, frames=50, audio=codec, **video)
    writer = copy(path, tmp_path / "out.mp4")
    (codec_before, before), (codec_after, after) = sound_of(path), sound_of(tmp_path / "out.mp4")
    assert writer.notes == ()
    assert codec_before == codec_after
    assert [data for _, data in before] == [data for _, data in after]
    for (then, _), (now, _) in zip(before, after, strict=True):
        assert abs(float(then - now)) < 0.002  # Matroska rounds to milliseconds


def test_sound_stays_in_step_with_an_edit_list(clip: Clip, tmp_path: Path) -> None:
    path = clip("edited.mp4", frames=30, hidden=10, audio="aac")
    copy(path, tmp_path / "out.mp4")
    (_, before), (_, after) = sound_of(path), sound_of(tmp_path / "out.mp4")
    assert before == after
    frames, copies = read(path), read(tmp_path / "out.mp4")
    assert frames[1][0].pts * frames[0].time_base == copies[1][0].pts * copies[0].time_base


def test_sound_that_mp4_cannot_hold_becomes_aac(clip: Clip, tmp_path: Path) -> None:
    path = clip("pcm.mkv", frames=25, audio="pcm_s16le")
    writer = copy(path, tmp_path / "out.mp4")
    codec, packets = sound_of(tmp_path / "out.mp4")
    assert codec == "aac"
    assert "AAC" in writer.notes[0]
    assert float(packets[-1][0]) == pytest.approx(1.0, abs=0.05)


def test_a_source_without_readable_sound_is_no_error(clip: Clip, tmp_path: Path) -> None:
    info, frames = read(clip("plain.mp4"))
    (tmp_path / "text").write_text("no video at all")
    with VideoWriter(tmp_path / "out.mp4", info, source=tmp_path / "text") as writer:
        writer.write(frames[0].image, 0)
    assert "sound left out" in writer.notes[0]
    assert len(read(tmp_path / "out.mp4")[1]) == 1


def test_a_late_clock_is_moved_to_zero(clip: Clip, tmp_path: Path) -> None:
    late = {"container_options": {"output_ts_offset": "7200"}}
    path = clip("late.ts", audio="aac", frames=30, **late)
    copy(path, tmp_path / "out.mp4")
    _, frames = read(tmp_path / "out.mp4")
    assert frames[0].time < 0.1
    before = sound_of(path)[1][0][0] - read(path)[1][0].pts * read(path)[0].time_base
    after = sound_of(tmp_path / "out.mp4")[1][0][0] - Fraction(frames[0].time)
    assert float(after) == pytest.approx(float(before), abs=0.002)


def test_masks_come_back_bit_for_bit(clip: Clip, tmp_path: Path) -> None:
    info, _ = read(clip("vfr.mp4", vfr=True))
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 256, (121, 161), dtype=np.uint8) for _ in range(6)]
    times = [0, 512, 1536, 2048, 4096, 4608]  # of 1/12800 s
    with VideoWriter(tmp_path / "m.part", info, kind="masks", size=(161, 121)) as writer:
        for mask, pts in zip(masks, times, strict=True):
            writer.write(mask, pts)
    back = list(read_gray(tmp_path / "m.part"))
    assert all(np.array_equal(mask, seen) for mask, (_, _, seen) in zip(masks, back, strict=True))
    assert [time for _, time, _ in back] == pytest.approx(
        [float(pts * info.time_base) for pts in times], abs=0.001
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (161, 121)])
def test_masks_are_exact_at_every_size_and_in_opencv(size: tuple[int, int], tmp_path: Path) -> None:
    import cv2

    path = tmp_path / "m.mkv"
    rng = np.random.default_rng(1)
    first = rng.integers(0, 256, size[::-1], dtype=np.uint8)
    masks = [first, first, rng.integers(0, 256, size[::-1], dtype=np.uint8), first]
    with VideoWriter(path, build.video(*size), kind="masks") as writer:
        for index, mask in enumerate(masks):
            writer.write(mask, index * 512)
    assert all(np.array_equal(m, s) for m, (*_, s) in zip(masks, read_gray(path), strict=True))
    capture = cv2.VideoCapture(str(path))
    for mask in masks:
        there, picture = capture.read()
        assert there
        assert (picture == mask[:, :, None]).all()


def test_masks_that_were_written_in_ffv1_are_read(tmp_path: Path) -> None:
    mask = np.random.default_rng(2).integers(0, 256, (121, 161), dtype=np.uint8)
    make_video(
        tmp_path / "old.mkv", frames=2, size=(161, 121), codec="ffv1", pix_fmt="gray",
        draw=lambda index: np.repeat((mask + np.uint8(index))[:, :, None], 3, axis=2),
    )  # fmt: skip
    back = [seen for *_, seen in read_gray(tmp_path / "old.mkv")]
    assert np.array_equal(back[0], mask)
    assert np.array_equal(back[1], mask + np.uint8(1))


def test_what_is_no_mask_video_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.mkv").write_bytes(b"no")
    with pytest.raises(OutputError, match=r"m\.mkv"):
        list(read_gray(tmp_path / "m.mkv"))


def test_a_still_becomes_a_short_clip(tmp_path: Path) -> None:
    Pillow.fromarray(draw_numbered(7, (161, 121))).save(tmp_path / "still.png")
    copy(tmp_path / "still.png", tmp_path / "out.mp4")
    info, frames = read(tmp_path / "out.mp4")
    assert info.duration == pytest.approx(2.0)
    assert {read_number(frame.image) for frame in frames} == {7}


def test_zero_frames_and_giving_up(clip: Clip, tmp_path: Path) -> None:
    info, frames = read(clip("plain.mp4"))
    with VideoWriter(tmp_path / "none.mp4", info):
        pass
    assert (tmp_path / "none.mp4").exists()
    with (
        pytest.raises(ValueError, match="160x120"),
        VideoWriter(tmp_path / "x.mp4", info) as writer,
    ):
        writer.write(frames[0].image, 0)
        writer.write(np.zeros((10, 10, 3), np.uint8), 512)
    writer.abort()
    writer.close()


def test_a_folder_that_is_not_there_is_an_output_error(clip: Clip, tmp_path: Path) -> None:
    info, _ = read(clip("plain.mp4"))
    with pytest.raises(OutputError, match="cannot be written"):
        VideoWriter(tmp_path / "missing" / "x.mp4", info)


@pytest.mark.parametrize("kind", ["video", "masks"])
@pytest.mark.parametrize("room", [0, 3_000, 20_000])
def test_a_full_disk_is_an_output_error(kind: str, room: int, clip: Clip, tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from deepscan.errors import OutputError; from deepscan.video import open_video\n"
        "from deepscan.video.writer import VideoWriter\n"
        "with open_video(Path(sys.argv[1]), isolate=False) as reader: info = reader.info\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)\n"
        "noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)\n"
        "try:\n"
        "    with VideoWriter(Path(sys.argv[2]), info, kind=sys.argv[3]) as writer:\n"
        "        for pts in range(0, 20 * 512, 512): writer.write(np.roll(noise, pts, 1), pts)\n"
        "except OutputError as error: print('said', error)"
    )
    target = tmp_path / "out.part"
    arguments = [str(clip("plain.mp4")), str(target), kind, str(room)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("said"), done.stdout + done.stderr
    assert str(target) in done.stdout


def test_a_tone_mapped_video_is_tagged_as_what_it_is(clip: Clip, tmp_path: Path) -> None:
    import av

    hdr = Colour("bt2020nc", False, "bt2020", "smpte2084", True, tone_mapped=True)
    with open_video(clip("h264.mp4", frames=5), isolate=False) as reader:
        info = replace(reader.info, colour=hdr)
        with VideoWriter(tmp_path / "out.mp4", info) as writer:
            for frame in reader.frames():
                writer.write(frame.image, frame.pts)
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
