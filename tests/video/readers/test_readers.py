"""Every reader over every clip: the same frames, times and colours, or the same clear error."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from deepscan import errors
from deepscan.options import Decoder, Limits
from deepscan.types import Frame, ReadReport, VideoInfo
from deepscan.video import open_video
from deepscan.video.readers import READERS
from deepscan.video.readers.decord import is_installed
from tests.drawn import read_number, read_patches
from tests.media import PATCHES, draw_numbered, make_video, presentation

Clip = Callable[..., Path]

CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mov": {},
    "h264.mkv": {},
    "h264.ts": {},
    "h264.avi": {},
    "vfr.mp4": {"vfr": True},
    "vfr.mkv": {"vfr": True},
    "ntsc.mp4": {"rate": Fraction(30000, 1001)},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hybrid.mp4": {"container_options": {"movflags": "frag_keyframe"}},
    "slow.mp4": {"rate": Fraction(1, 1000)},
    "interlaced.ts": {"options": {"x264-params": "tff=1:interlaced=1"}},
    "hevc.mp4": {"codec": "libx265"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "full_range": True},
    "ffv1.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p"},
    "rgb.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "ten.mp4": {"pix_fmt": "yuv420p10le"},
    "full.mp4": {"full_range": True},
    "full709.mp4": {"full_range": True, "matrix": "bt709"},
    "full10.mp4": {"full_range": True, "pix_fmt": "yuv420p10le"},
    "full.webm": {"full_range": True, "codec": "libvpx-vp9", "matrix": "bt709"},
    "bt601.mp4": {"matrix": "smpte170m"},
    "bt709.mp4": {"matrix": "bt709"},
    "bt2020.mp4": {"matrix": "bt2020nc"},
    "hd.mp4": {"matrix": "bt709", "size": (1280, 720), "frames": 4},
    "hd_untagged.mp4": {"matrix": "bt709", "tagged": False, "size": (1280, 720), "frames": 4},
    "turned90.mp4": {"rotation": 90},
    "turned180.mp4": {"rotation": 180},
    "turned270.mkv": {"rotation": 270},
    "odd.mkv": {"codec": "ffv1", "size": (161, 121)},
    "odd.mp4": {"pix_fmt": "yuv444p", "size": (161, 121)},
    "narrow.mp4": {"size": (62, 120), "codec": "libx264"},
    "anamorphic.mp4": {"sample_aspect_ratio": Fraction(4, 3)},
    "edited.mp4": {"hidden": 4},
    "sound.mp4": {"audio": "aac"},
    "sound.mkv": {"audio": "libopus"},
    "one.mp4": {"frames": 1},
}
PLAIN = ("h264.mp4", "h264.mov", "h264.mkv", "vp8.webm", "vp9.webm", "vfr.mp4", "bt709.mp4")
DECODERS: tuple[Decoder, ...] = ("pyav", "decord", "auto")
COLOUR_TOLERANCE = 4  # levels: the codec's loss and 8-bit rounding; a wrong matrix is 8 to 16 off


def read(
    path: Path, decoder: Decoder = "auto", **options: Any
) -> tuple[VideoInfo, list[Frame], ReadReport]:
    options.setdefault("isolate", False)
    with open_video(path, decoder=decoder, **options) as reader:
        frames = list(reader.frames())
        return reader.info, frames, reader.report()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", CLIPS)
def test_frames_times_and_colours(name: str, decoder: Decoder, clip: Clip) -> None:
    wanted = CLIPS[name]
    path = clip(name, **wanted)
    count = wanted.get("frames", 20)
    hidden = wanted.get("hidden", 0)
    try:
        info, frames, report = read(path, decoder)
    except errors.UnsupportedError as error:
        assert decoder == "decord"
        assert "decord" in str(error)
        assert name not in PLAIN or not is_installed()
        return

    assert [read_number(frame.image) for frame in frames] == list(range(hidden, count))
    assert [frame.index for frame in frames] == list(range(count - hidden))
    rate = Fraction(wanted.get("rate", 25))
    shown = presentation(count, vfr=wanted.get("vfr", False))[hidden:]
    tick = 0.0011 if name.endswith((".mkv", ".webm")) else 1e-5  # Matroska rounds to milliseconds
    for frame, moment in zip(frames, shown, strict=True):
        assert frame.time == pytest.approx(float((moment - shown[0]) / rate), abs=tick)
    assert all(earlier.pts < later.pts for earlier, later in pairwise(frames))
    assert frames[-1].time == pytest.approx(
        float((frames[-1].pts - frames[0].pts) * info.time_base) + frames[0].time
    )

    width, height = wanted.get("size", (160, 120))
    assert (info.width, info.height) == (width, height)
    for frame in (frames[0], frames[-1]):
        assert frame.image.shape == (height, width, 3)
        assert frame.image.dtype == np.uint8
        assert not frame.image.flags.writeable
        for seen, drawn in zip(read_patches(frame.image), PATCHES, strict=True):
            assert seen == pytest.approx(drawn, abs=COLOUR_TOLERANCE)

    assert info.rotation == wanted.get("rotation", 0)
    assert info.sample_aspect_ratio == wanted.get("sample_aspect_ratio", 1)
    assert len(info.audio) == ("audio" in wanted)
    assert not info.still
    assert report.complete, report.reasons
    assert report.decoded == count - hidden
    assert report.failed == 0
    assert report.decoder == info.decoder
    assert report.decoder_reason


@pytest.mark.skipif(not is_installed(), reason="decord has no wheel for this machine")
@pytest.mark.parametrize("name", PLAIN)
def test_auto_lets_decord_read_plain_clips(name: str, clip: Clip) -> None:
    path = clip(name, **CLIPS[name])
    info, frames, _ = read(path, "auto")
    _, others, _ = read(path, "pyav")

    assert info.decoder == "decord"
    assert [(frame.pts, frame.time) for frame in frames] == [
        (frame.pts, frame.time) for frame in others
    ]
    for frame, other in zip(frames, others, strict=True):
        assert np.abs(frame.image.astype(int) - other.image).mean() < 1


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("hd_untagged.mp4", "BT.601"),
        ("turned90.mp4", "rotated"),
        ("edited.mp4", "edit list"),
        ("full.mp4", "yuvj420p"),
        ("h264.ts", "mpegts"),
        ("narrow.mp4", "columns"),
    ],
)
@pytest.mark.skipif(not is_installed(), reason="decord has no wheel for this machine")
def test_auto_says_why_decord_is_not_used(name: str, word: str, clip: Clip) -> None:
    path = clip(name, **CLIPS[name])
    with pytest.raises(errors.UnsupportedError, match=word):
        read(path, "decord")
    info, _, report = read(path, "auto")
    assert info.decoder == report.decoder == "pyav"


def test_the_table_names_what_open_video_loads() -> None:
    assert set(READERS) == {"pyav", "decord"}


def test_colour_of_untagged_video_goes_by_its_size(clip: Clip) -> None:
    small = read(clip("h264.mp4"))[0].colour
    large = read(clip("hd_untagged.mp4", **CLIPS["hd_untagged.mp4"]))[0].colour
    assert (small.matrix, small.tagged) == ("smpte170m", False)
    assert (large.matrix, large.tagged) == ("bt709", False)


# Damage


def test_cut_off_in_the_middle_is_incomplete(clip: Clip, tmp_path: Path) -> None:
    for name in ("h264.mkv", "h264.ts", "faststart.mp4"):
        whole = clip(name, frames=40, container_options={"movflags": "faststart"})
        cut = tmp_path / name
        data = whole.read_bytes()
        cut.write_bytes(data[: int(len(data) * 0.6)])
        _, frames, report = read(cut)
        assert 0 < len(frames) < 40
        assert [read_number(frame.image) for frame in frames][:5] == [0, 1, 2, 3, 4]
        # A transport stream promises no length: a clean cut of it cannot be seen.
        assert name.endswith(".ts") or not report.complete


def test_a_cut_or_holed_file_of_fragments_is_incomplete(clip: Clip, tmp_path: Path) -> None:
    data = clip("fragmented.mp4", **CLIPS["fragmented.mp4"]).read_bytes()
    second = data.find(b"moof", data.find(b"moof") + 4) - 4
    for name, damaged in (
        ("cut.mp4", data[: second + 500]),
        ("hole.mp4", data[:second] + bytes(100) + data[second + 100 :]),
    ):
        (tmp_path / name).write_bytes(damaged)
        _, frames, report = read(tmp_path / name)
        assert 0 < len(frames) < 20
        assert not report.complete
        assert report.decoder == "pyav"


def test_damage_in_the_middle_ends_nothing(clip: Clip, tmp_path: Path) -> None:
    data = bytearray(clip("h264.mp4", frames=60).read_bytes())
    start = data.find(b"mdat")
    middle = start + (data.find(b"moov") - start) // 2
    data[middle : middle + 400] = bytes(400)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    for decoder in ("pyav", "auto"):
        _, frames, report = read(path, decoder)
        assert len(frames) > 20
        assert read_number(frames[-1].image) == 59
        assert not report.complete
        assert report.decoder == "pyav"


def test_lost_packets_of_a_transport_stream_are_noticed(clip: Clip, tmp_path: Path) -> None:
    data = clip("h264.ts", frames=60).read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    path = tmp_path / "lossy.ts"
    path.write_bytes(b"".join(packet for place, packet in enumerate(packets) if place % 17))
    assert not read(path)[2].complete


def test_an_edit_list_that_hides_most_frames_is_said(clip: Clip) -> None:
    _, frames, report = read(clip("hiding.mp4", hidden=15))
    assert [read_number(frame.image) for frame in frames] == [15, 16, 17, 18, 19]
    assert report.complete
    assert "edit_list: 15 frames are not to be shown" in report.decoder_reason


def test_a_lying_frame_count_is_ignored(clip: Clip, tmp_path: Path) -> None:
    data = bytearray(clip("h264.mp4").read_bytes())
    place = data.find(b"stts") + 12
    data[place : place + 4] = (2**31 - 1).to_bytes(4, "big")
    path = tmp_path / "liar.mp4"
    path.write_bytes(data)
    _, frames, report = read(path, "auto")
    assert len(frames) == 20
    assert report.decoder == "pyav"
    with pytest.raises(errors.UnsupportedError, match="promises"):
        read(path, "decord")


def test_a_moved_index_gives_no_frames_and_an_error(clip: Clip, tmp_path: Path) -> None:
    data = bytearray(clip("h264.mp4").read_bytes())
    place = data.find(b"stco") + 12
    data[place : place + 4] = (2**31).to_bytes(4, "big")
    path = tmp_path / "astray.mp4"
    path.write_bytes(data)
    with pytest.raises(errors.CorruptError, match="frame"):
        read(path)


# Not a video


def _sound_only(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=48_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.sample_rate = 48_000
        out.mux(stream.encode(silence))
        out.mux(stream.encode(None))
    return path


def _cover_only(path: Path) -> Path:
    import av
    from av.stream import Disposition

    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=1, width=64, height=64, pix_fmt="yuvj420p")
        stream.disposition = Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", errors.CorruptError),
        (b"hello world\n" * 1000, errors.UnsupportedError),
        (bytes(5000), errors.CorruptError),
        (np.random.default_rng(1).bytes(20_000), errors.CorruptError),
        (b"\x00\x00\x00\x1cftypisom\x00\x00\x02\x00isomiso2avc1mp41", errors.CorruptError),
        (b"GIF89a" + bytes(100), errors.CorruptError),
        (b"#EXTM3U\n#EXTINF:10.0,\nother.ts\n#EXT-X-ENDLIST\n", errors.UnsupportedError),
        (b"ffconcat version 1.0\nfile other.ts\n", errors.UnsupportedError),
        (b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic", errors.UnsupportedError),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", errors.NoVideoError),
        (b"ID3\x04\x00\x00" + bytes(500), errors.NoVideoError),
        (b"\xff\xd8\xff\xe0" + bytes(500), errors.CorruptError),
    ],
)
def test_what_is_no_video_raises(
    content: bytes, error: type[errors.VideoError], decoder: Decoder, tmp_path: Path
) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises((error, errors.UnsupportedError) if decoder == "decord" else error) as seen:
        read(path, decoder)
    assert str(path) in str(seen.value)
    assert "\n" not in str(seen.value)


def test_what_stands_for_another_file_says_so(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 363268\n"
    (tmp_path / "clip.mp4").write_text(pointer)
    with pytest.raises(errors.UnsupportedError, match=r"Git LFS pointer.*`git lfs pull`"):
        read(tmp_path / "clip.mp4")
    (tmp_path / "._clip.mp4").write_bytes(b"\x00\x05\x16\x07" + bytes(4000))
    with pytest.raises(errors.UnsupportedError, match=r"macOS.*scan clip.mp4"):
        read(tmp_path / "._clip.mp4")


def test_sound_and_cover_art_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(errors.NoVideoError, match="no picture stream"):
        read(_sound_only(tmp_path / "sound.m4a"))
    with pytest.raises(errors.NoVideoError, match="cover art"):
        read(_cover_only(tmp_path / "cover.mp4"))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to("/dev/zero")
    for name, word in (
        ("pipe.mp4", "pipe"),
        ("folder.mp4", "directory"),
        ("link.mp4", "symbolic link"),
        ("missing.mp4", "No such file"),
    ):
        with pytest.raises(errors.UnreadableError, match=word):
            read(tmp_path / name)


def test_names_that_ffmpeg_would_obey_are_names(clip: Clip, tmp_path: Path) -> None:
    for name in ("http:x.mp4", "concat:a.mp4", "%03d.mp4", "-i.mp4", "pipe:0"):
        path = tmp_path / name
        path.write_bytes(clip("h264.mp4").read_bytes())
        assert len(read(path)[1]) == 20


# Still pictures


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff"])
def test_a_still_picture_is_a_video_of_one_frame(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"still.{suffix}"
    Pillow.fromarray(draw_numbered(5, (200, 120))).save(path, quality=95)
    info, frames, report = read(path)
    assert info.still
    assert (info.width, info.height, info.duration) == (200, 120, None)
    assert [(frame.index, frame.pts, frame.time) for frame in frames] == [(0, 0, 0.0)]
    assert read_number(frames[0].image) == 5
    for seen, drawn in zip(read_patches(frames[0].image), PATCHES, strict=True):
        assert seen == pytest.approx(drawn, abs=COLOUR_TOLERANCE)
    assert report.complete
    with pytest.raises(errors.UnsupportedError, match="still"):
        read(path, "decord")


@pytest.mark.parametrize(("orientation", "degrees"), [(1, 0), (3, 180), (6, 90), (8, 270)])
def test_exif_turns_a_still_picture(orientation: int, degrees: int, tmp_path: Path) -> None:
    upright = draw_numbered(9, (200, 120))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stored = Pillow.fromarray(np.ascontiguousarray(np.rot90(upright, degrees // 90)))
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    info, frames, _ = read(tmp_path / "turned.jpg")
    assert info.rotation == degrees
    assert (info.width, info.height) == (200, 120)
    assert read_number(frames[0].image) == 9


def test_odd_stills(tmp_path: Path) -> None:
    image = Pillow.fromarray(draw_numbered(3, (200, 120)))
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.convert("L").save(tmp_path / "gray.png")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Pillow.fromarray(deep).save(tmp_path / "deep.png")
    for name in ("cmyk.jpg", "gray.png", "alpha.png", "deep.png"):
        assert read_number(read(tmp_path / name)[1][0].image) == 3
    data = (tmp_path / "gray.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(errors.CorruptError):
        read(tmp_path / "cut.png")


# Limits and odd streams


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(file_size=100), "limit_size"),
        (Limits(pixels=160 * 120 - 1), "limit_pixels"),
        (Limits(side=159), "limit_pixels"),
        (Limits(frames=7), "limit_frames"),
        (Limits(duration=0.5), "limit_time"),
        (Limits(streams=1), "limit_streams"),
    ],
)
@pytest.mark.parametrize("decoder", ["pyav", "auto"])
def test_limits_stop_a_file(limits: Limits, reason: str, decoder: Decoder, clip: Clip) -> None:
    path = clip("sound.mp4", audio="aac")
    with pytest.raises(errors.LimitError) as seen:
        read(path, decoder, limits=limits)
    assert seen.value.reason == reason


def test_too_large_a_still_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Pillow.new("RGB", (300, 200)).save(tmp_path / "large.png")
    with pytest.raises(errors.LimitError) as seen:
        read(tmp_path / "large.png", limits=Limits(pixels=50_000))
    assert seen.value.reason == "limit_pixels"


def test_several_picture_streams_are_incomplete(tmp_path: Path) -> None:
    import av

    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        streams = []
        for side in (64, 128):
            stream = out.add_stream("mpeg4", rate=25, width=side, height=side, pix_fmt="yuv420p")
            streams.append((stream, side))
        for index in range(12):
            for stream, side in streams:
                image = draw_numbered(index, (side, side))
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        for stream, _ in streams:
            out.mux(stream.encode(None))
    info, frames, report = read(path)
    assert (info.width, len(frames)) == (128, 12)
    assert not report.complete
    assert report.reasons[0].startswith("not_all_streams_scanned")


@pytest.mark.parametrize(("later", "complete"), [((80, 60), True), ((320, 240), False)])
def test_a_change_of_size_is_scaled_to_the_first(
    later: tuple[int, int], complete: bool, clip: Clip, tmp_path: Path
) -> None:
    path = tmp_path / "changing.ts"
    second = tmp_path / "second.ts"
    make_video(second, size=later, frames=20, hidden=0)
    path.write_bytes(clip("h264.ts").read_bytes() + second.read_bytes())
    _, frames, report = read(path)
    assert {frame.image.shape for frame in frames} == {(120, 160, 3)}
    assert read_number(frames[-1].image) == 19
    assert "resolution_change" in report.decoder_reason
    assert any("resolution_change" in reason for reason in report.reasons) != complete


@pytest.mark.parametrize(
    ("name", "decoder"), [("x.webm", "auto"), ("x.webm", "pyav"), ("x.ts", "pyav")]
)
def test_a_change_of_shape_is_noted_and_not_squeezed(
    name: str, decoder: Decoder, tmp_path: Path
) -> None:
    """A square in a square picture, behind a wide one, stays a square between black bars."""
    import av

    square = np.full((96, 96, 3), 40, np.uint8)
    square[24:72, 24:72] = 220
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    wide, tall = (tmp_path / f"{part}.{name.partition('.')[2]}" for part in ("wide", "tall"))
    make_video(wide, frames=20, size=(160, 120), codec=codec)
    make_video(tall, frames=20, size=(96, 96), codec=codec, draw=lambda index: square)
    path = tmp_path / name
    if codec == "libx264":
        path.write_bytes(wide.read_bytes() + tall.read_bytes())
    else:
        with av.open(str(path), "w") as out, av.open(str(wide)) as one, av.open(str(tall)) as two:
            stream = out.add_stream_from_template(one.streams.video[0])
            for shift, part in ((0, one), (800, two)):
                for packet in part.demux(video=0):
                    if packet.dts is not None:
                        packet.pts += shift
                        packet.dts += shift
                        packet.stream = stream
                        out.mux(packet)
    _, frames, report = read(path, decoder)
    assert len(frames) == 40 and report.decoder == "pyav"
    assert "resolution_change: 96x96 from frame 20 on" in report.decoder_reason
    picture = frames[-1].image[:, :, 0]
    assert picture.shape == (120, 160)
    assert picture[:, :18].max() == picture[:, 142:].max() == 0
    bright = picture > 130
    assert abs(int(bright.any(0).sum()) - 60) <= 2 and abs(int(bright.any(1).sum()) - 60) <= 2


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_shown_as_its_sdr_would_be(transfer: int, tmp_path: Path) -> None:
    """A BT.709 picture whose white lies at 203 cd/m2, sent as PQ or HLG in BT.2020."""
    import av

    from deepscan.video.tone import _light, to_bt709

    shown = draw_numbered(5, (320, 240))
    shown[90:110] = 255
    light = (shown / 255.0) ** 2.4 * 203  # cd/m2
    to_2020 = np.array(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    )
    levels = np.searchsorted(_light(transfer), light @ to_2020.T).clip(0, 4095).astype(np.uint16)
    deep = (levels << 4) | (levels >> 8)
    mapped = to_bt709(deep, transfer).astype(int)
    mid = shown <= 200  # below the knee
    assert np.abs(mapped - shown)[mid].max() <= 4
    path = tmp_path / "hdr.mov"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:crf=8"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = 9, 9, transfer
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(deep, "rgb48le")
            frame = frame.reformat(format="yuv420p10le", dst_colorspace=9, dst_color_range=1)
            frame.color_trc, frame.color_primaries = transfer, 9
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    info, frames, _ = read(path)
    assert info.colour.tone_mapped and "was mapped to BT.709" in info.decoder_reason
    assert read_number(frames[0].image) == 5
    for seen, wanted in zip(read_patches(frames[0].image), PATCHES, strict=True):
        assert np.abs(np.array(seen) - wanted).max() <= 14, (seen, wanted)


def test_a_mirrored_picture_is_mirrored_back(clip: Clip, tmp_path: Path) -> None:
    data = bytearray(clip("h264.mp4").read_bytes())
    matrix = data.find(b"tkhd") + 44
    one = (1 << 16).to_bytes(4, "big")
    assert data[matrix : matrix + 4] == one
    data[matrix : matrix + 4] = (-(1 << 16)).to_bytes(4, "big", signed=True)
    path = tmp_path / "mirrored.mp4"
    path.write_bytes(data)
    plain, mirrored = read(clip("h264.mp4"), "pyav")[1], read(path, "pyav")[1]
    assert np.array_equal(mirrored[3].image, plain[3].image[:, ::-1])


def test_a_reader_can_be_left_early(clip: Clip) -> None:
    with open_video(clip("h264.mp4"), isolate=False) as reader:
        for frame in reader.frames():
            if frame.index == 3:
                break
        report = reader.report()
    assert report.decoded == 4
    assert not report.complete
    assert report.reasons[0].startswith("stopped")
