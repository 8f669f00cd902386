"""When decord fails, PyAV goes on, and no frame comes twice or in two versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from deepscan.errors import CorruptError, VideoError
from deepscan.options import Limits
from deepscan.types import Frame
from deepscan.video.contract import ReadOptions
from deepscan.video.input_file import open_source
from deepscan.video.readers.fallback import FallbackReader
from deepscan.video.readers.pyav import PyAVReader
from tests.drawn import read_number

Clip = Callable[..., Path]


class FailingReader(PyAVReader):
    """Calls itself decord, and dies after `last` frames; `change` alters what it gives before."""

    last = 5
    change: Callable[[Frame], Frame] = staticmethod(lambda frame: frame)

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            if frame.index == self.last:
                raise CorruptError("decord failed")
            yield self.change(frame)

    @property
    def info(self):  # type: ignore[no-untyped-def]
        return replace(super().info, decoder="decord")


def taking_over(path: Path, failing: type[FailingReader]) -> FallbackReader:
    held, options = ExitStack(), ReadOptions("pyav", Limits())
    source = open_source(path, options.limits)
    held.callback(os.close, source.descriptor)

    def reopen(why: str) -> PyAVReader:
        return PyAVReader(source, replace(options, reason=why))

    return FallbackReader(failing(source, options), reopen, held)


def test_pyav_goes_on_behind_the_frames_that_came(clip: Clip) -> None:
    with taking_over(clip("h264.mp4"), FailingReader) as reader:
        frames = list(reader.frames())
        report = reader.report()
    assert [read_number(frame.image) for frame in frames] == list(range(20))
    assert [frame.index for frame in frames] == list(range(20))
    assert report.decoder == "pyav"
    assert "took over from decord after 5 frames" in report.decoder_reason
    assert report.complete


def test_pyav_starts_anew_if_no_frame_came(clip: Clip) -> None:
    class AtOnce(FailingReader):
        last = 0

    with taking_over(clip("h264.mp4"), AtOnce) as reader:
        assert len(list(reader.frames())) == 20


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: replace(frame, pts=frame.pts + 1),
        lambda frame: replace(frame, image=255 - frame.image),
        lambda frame: replace(frame, image=frame.image[::2]),
    ],
)
def test_frames_that_pyav_disagrees_with_end_the_file(
    change: Callable[[Frame], Frame], clip: Clip
) -> None:
    class Wrong(FailingReader):
        pass

    Wrong.change = staticmethod(change)
    with (
        taking_over(clip("h264.mp4"), Wrong) as reader,
        pytest.raises(CorruptError, match="disagree"),
    ):
        list(reader.frames())


def test_a_failing_pyav_is_not_replaced(clip: Clip) -> None:
    class Failing(FailingReader):
        info = PyAVReader.info

    with (
        taking_over(clip("h264.mp4"), Failing) as reader,
        pytest.raises(VideoError, match="failed"),
    ):
        list(reader.frames())
