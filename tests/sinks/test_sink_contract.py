"""What every sink in the table keeps to."""

from __future__ import annotations

import os
import resource
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepscan.errors import OutputError
from deepscan.sinks import SINKS, sink_class
from deepscan.sinks.masks import read_masks
from deepscan.sinks.sink import Sink
from deepscan.types import Label, Scan
from tests.sinks import build

FRAMES = 12
# Without a frame there is no video: these leave no file then, all others write one.
NEEDS_FRAMES = {"overlay", "masks"}
HOSTILE = "<img src=x onerror=alert(1)>\n{{7*7}} ‮Überprüfung 日本 \udcff.mp4"


@pytest.fixture(params=SINKS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def made() -> Scan:
    return build.scan(info=build.video(96, 64, frames=FRAMES), frames=FRAMES)


def fill(sink: Sink, made: Scan, frames: int = FRAMES) -> None:
    for result in build.results(made, frames=frames, side=16, images=sink.needs_images):
        sink.write(result)


def open_files() -> set[str]:
    """What the descriptors of this process point at, as far as the system tells."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("the system does not list open files")
    found = set()
    for entry in os.listdir(folder):
        try:
            found.add(os.readlink(folder / entry))
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file can grow over `room` bytes; writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_suffixes_are_unlike_and_start_with_a_dot() -> None:
    suffixes = [sink_class(kind).suffix for kind in SINKS]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix.startswith(".") for suffix in suffixes)


def test_it_writes_one_file_under_the_very_name_it_was_given(
    kind: str, made: Scan, tmp_path: Path
) -> None:
    # The name tells nothing about the format: it is a temporary one.
    path = tmp_path / "Ünïcode 名.part"
    sink = sink_class(kind)(path, made)
    fill(sink, made)
    sink.close()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_size > 0


def test_the_same_frames_give_the_same_file(kind: str, made: Scan, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        path = tmp_path / name
        sink = sink_class(kind)(path, made)
        fill(sink, made)
        sink.close()
        if kind == "masks":  # Matroska gives each file a number of its own
            masks = [(m.pts, m.probability.tobytes()) for m in read_masks(path)]
            assert len(masks) == FRAMES
            contents.append(repr(masks).encode())
        else:
            contents.append(path.read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("stream", [True, False], ids=["stream known", "no stream"])
def test_zero_frames_can_be_closed(kind: str, stream: bool, tmp_path: Path) -> None:
    info = build.video(96, 64) if stream else None
    made = build.scan(info=info, label=Label.ERROR, faces=0, unjudged=0, frames=0)
    path = tmp_path / "out"
    sink = sink_class(kind)(path, made)
    sink.close()
    assert path.exists() == (kind not in NEEDS_FRAMES)


@pytest.mark.parametrize("label", list(Label))
def test_every_label_can_be_written(kind: str, label: Label, tmp_path: Path) -> None:
    made = build.scan(info=build.video(96, 64, frames=3), label=label, frames=3)
    sink = sink_class(kind)(tmp_path / "out", made)
    fill(sink, made, frames=3)
    sink.close()
    assert (tmp_path / "out").stat().st_size > 0


def test_a_still_picture_can_be_written(kind: str, tmp_path: Path) -> None:
    made = build.scan(info=build.video(96, 64, frames=1, still=True), frames=1)
    sink = sink_class(kind)(tmp_path / "out", made)
    fill(sink, made, frames=1)
    sink.close()
    assert (tmp_path / "out").stat().st_size > 0


@pytest.mark.parametrize("frames", [0, 1, FRAMES])
def test_an_aborted_scan_leaves_nothing_open(
    kind: str, made: Scan, frames: int, tmp_path: Path
) -> None:
    before, threads = open_files(), threading.active_count()
    sink = sink_class(kind)(tmp_path / "out", made)
    fill(sink, made, frames)
    sink.abort()
    sink.abort()
    left = {name for name in open_files() - before if name.startswith(str(tmp_path))}
    assert not left
    assert threading.active_count() == threads


def test_names_of_any_kind_do_no_harm(kind: str, tmp_path: Path) -> None:
    info = build.video(96, 64, path=Path(HOSTILE), frames=FRAMES)
    made = build.scan(info=info, path=Path(HOSTILE), frames=FRAMES)
    path = tmp_path / "out"
    sink = sink_class(kind)(path, made)
    fill(sink, made)
    sink.close()
    assert path.stat().st_size > 0
    if kind == "html":
        assert b"<img src=x" not in path.read_bytes()


def test_a_full_disk_is_an_output_error(kind: str, made: Scan, tmp_path: Path) -> None:
    path = tmp_path / "out"
    cls = sink_class(kind)
    sinks: list[Sink] = []
    with full_disk(room=200), pytest.raises(OutputError, match="out"):
        sinks.append(cls(path, made))
        fill(sinks[0], made)
        sinks[0].close()
    for sink in sinks:
        sink.abort()
    assert path.stat().st_size <= 200


def test_a_folder_that_is_not_there_is_an_output_error(
    kind: str, made: Scan, tmp_path: Path
) -> None:
    path = tmp_path / "missing" / "out"
    with pytest.raises(OutputError, match="missing"):
        sink = sink_class(kind)(path, made)
        fill(sink, made)
        sink.close()


def test_a_long_scan_takes_no_more_memory(kind: str, tmp_path: Path) -> None:
    made = build.scan(info=build.video(48, 32, frames=3000), frames=3000)
    few = list(build.results(made, frames=9, side=16))
    sink = sink_class(kind)(tmp_path / "out", made)
    held = []
    tracemalloc.start()
    try:
        for index in range(200):
            sink.write(build.at(few[index % len(few)], index))
            if index in (50, 199):
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        sink.abort()
    assert held[1] - held[0] < 150_000  # bytes; one frame of the overlay has over 100,000
