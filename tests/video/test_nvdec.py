"""Decoding on a GPU feeds the model only where its pixels are those of software.

Here a software decoder stands in for the GPU's; like that it hands out frames without their colour.
tests/gpu/ has the real one.
"""

from __future__ import annotations

import numpy as np
import pytest

from deepscan.errors import UnsupportedError, UsageError
from deepscan.testing import make_video
from deepscan.video import nvdec
from deepscan.video.nvdec import NvdecReader, check_here, difference
from deepscan.video.pyav import PyAVReader


class Stand:
    """A GPU's decoder: `spoil` may change what it decodes."""

    def __init__(self, stream, spoil):
        from av.codec.context import CodecContext

        self.context = CodecContext.create(stream.codec_context.name, "r")
        self.context.extradata = stream.codec_context.extradata
        self.spoil = spoil

    def decode(self, packet):
        frames = self.context.decode(packet)
        for frame in frames:
            frame.colorspace, frame.color_range = 2, 0  # as they come back from a GPU
        return [self.spoil(frame) for frame in frames]


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose GPU decodes; call it with what it spoils."""

    def install(spoil=lambda frame: frame):
        monkeypatch.setattr(nvdec, "open_context", lambda stream, device: Stand(stream, spoil))

    check_here.cache_clear()
    install()
    yield install
    check_here.cache_clear()


def shifted(frame):
    """A little brighter."""
    import av

    planes = frame.to_ndarray(format="yuv420p")
    found = av.VideoFrame.from_ndarray(np.minimum(planes + 6, 250).astype(np.uint8), "yuv420p")
    found.pts = frame.pts
    return found


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"rotation": 90, "path": "turned.mp4"},
        {"vfr": True},
        {"size": (1280, 64)},  # another colour matrix
        {"codec": "libx265"},
    ],
    ids=str,
)
def test_frames_are_those_of_software(gpu, tmp_path, wanted):
    path = make_video(tmp_path / wanted.pop("path", "clip.mp4"), frames=12, **wanted)
    with PyAVReader(path) as software:
        expected = list(software.frames())
    with NvdecReader(path) as reader:
        found = list(reader.frames())
        report = reader.report()
        assert reader.info.decoder == report.decoder == "nvdec"
        assert (reader.info.width, reader.info.height) == expected[0].image.shape[1::-1]
    assert report.complete and report.decoded == 12
    assert [frame.pts for frame in found] == [frame.pts for frame in expected]
    assert all(
        np.array_equal(mine.image, true.image) for mine, true in zip(found, expected, strict=True)
    )


def test_a_gpu_that_decodes_differently_is_refused_before_any_file(gpu, tmp_path):
    gpu(shifted)
    with pytest.raises(UsageError, match=r"does not decode a known clip .*levels off") as error:
        NvdecReader(make_video(tmp_path / "clip.mp4", frames=3))
    assert "--decoder auto" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_it_decodes_differently_is_refused(gpu, tmp_path):
    check_here(0)  # it knew the clip
    gpu(shifted)
    with pytest.raises(UnsupportedError, match=r"decodes it differently: picture 0 .*levels off"):
        NvdecReader(make_video(tmp_path / "clip.mp4", frames=3))


def test_a_file_that_it_cannot_decode_is_refused(gpu, tmp_path):
    check_here(0)

    def refuse(frame):
        import av.error

        raise av.error.InvalidDataError(1, "no such profile")

    gpu(refuse)
    with pytest.raises(UnsupportedError, match="cannot decode this kind of h264"):
        NvdecReader(make_video(tmp_path / "clip.mp4", frames=3))


@pytest.mark.parametrize(("codec", "name"), [("mpeg4", "a.mp4"), ("libx264", "a.avi")])
def test_what_gpus_do_not_decode_is_refused(gpu, tmp_path, codec, name):
    path = make_video(tmp_path / name, frames=3, codec=codec)
    with pytest.raises(UnsupportedError, match="is not decoded on the GPU"):
        NvdecReader(path)


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    check_here.cache_clear()
    path = make_video(tmp_path / "clip.mp4", frames=3)
    try:
        NvdecReader(path, device=77).close()
    except UsageError as error:
        assert "no GPU 77 that decodes video" in str(error) and "\n" not in str(error)
        assert "--decoder auto" in str(error)
    else:
        pytest.fail("there is no GPU 77 anywhere")
    finally:
        check_here.cache_clear()


def test_differences_are_told_in_words():
    grey = np.full((4, 6, 3), 100, np.uint8)
    assert difference([grey], [grey + nvdec.MOST_APART]) is None
    assert "up to 3 levels off" in difference([grey, grey], [grey, grey + 3])
    assert "is 6x4, not 5x4" in difference([grey], [grey[:, :5]])
