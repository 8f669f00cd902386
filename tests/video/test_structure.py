"""Cut and torn files are noticed by their bytes, whatever their header says of a duration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepscan.errors import VideoError
from deepscan.options import Limits
from deepscan.types import ReadReport
from deepscan.video import open_video, structure
from deepscan.video.input_file import Source, open_source
from deepscan.video.structure import Structure, examine, shown_share
from tests.video.healthy import KINDS

FORMATS = {
    "mkv": "matroska,webm", "webm": "matroska,webm", "mp4": "mov,mp4,m4a,3gp,3g2,mj2",
    "mov": "mov,mp4,m4a,3gp,3g2,mj2", "3gp": "mov,mp4,m4a,3gp,3g2,mj2", "avi": "avi", "flv": "flv",
}  # fmt: skip
WALKED = [kind for kind in KINDS if kind.name.rpartition(".")[2] in FORMATS]
LONG = ("long.mkv", "one.webm", "jitter.webm", "stream.mkv", "nulls.avi", "live.flv", "pieces.mp4")


def data_of(name: str, folder: Path) -> bytes:
    kind = next(kind for kind in KINDS if kind.name == name)
    kind.make(folder / name)
    return (folder / name).read_bytes()


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    source = open_source(path, Limits())
    try:
        yield source
    finally:
        os.close(source.descriptor)


def walk(path: Path, data: bytes) -> Structure:
    path.write_bytes(data)
    with opened(path) as source:
        return examine(source, FORMATS[path.suffix[1:]], 0)


def read(path: Path) -> ReadReport | None:
    """The report of a reading, None if there was an error."""
    try:
        with open_video(path, decoder="pyav", isolate=False) as reader:
            list(reader.frames())
            return reader.report()
    except VideoError:
        return None


@pytest.mark.parametrize("kind", WALKED, ids=[kind.name for kind in WALKED])
def test_a_whole_file_hangs_together(kind, tmp_path: Path) -> None:
    kind.make(tmp_path / kind.name)
    assert walk(tmp_path / kind.name, (tmp_path / kind.name).read_bytes()).damage == []


@pytest.mark.parametrize("name", LONG)
def test_a_cut_is_noticed_wherever_it_falls(name: str, tmp_path: Path) -> None:
    data = data_of(name, tmp_path)
    path = tmp_path / f"cut.{name.rpartition('.')[2]}"
    unnoticed = []
    for place in range(400, len(data) - 1, len(data) // 60):
        path.write_bytes(data[:place])
        report = read(path)
        if report is not None and report.complete:
            unnoticed.append(place)
    # What states no size can end at a border between two blocks and nobody can know.
    assert len(unnoticed) <= 1, unnoticed


def test_a_cut_of_a_file_that_can_be_sized_is_noticed_at_its_last_byte(tmp_path: Path) -> None:
    for name in ("mux.mkv", "one.webm", "nulls.avi", "one.mp4"):
        data = data_of(name, tmp_path)
        found = walk(tmp_path / f"cut.{name.rpartition('.')[2]}", data[:-1])
        assert found.cut and found.damage, name


@pytest.mark.parametrize("name", ["mux.mkv", "one.webm", "nulls.avi", "live.flv", "pieces.mp4"])
def test_bytes_lost_in_the_middle_are_noticed(name: str, tmp_path: Path) -> None:
    data = data_of(name, tmp_path)
    path = tmp_path / f"torn.{name.rpartition('.')[2]}"
    middle = len(data) // 2
    assert walk(path, data[:middle] + data[middle + 100 :]).damage


def test_an_index_that_points_behind_the_end_is_noticed(tmp_path: Path) -> None:
    data = bytearray(data_of("mux.mkv", tmp_path))
    cue = data.index(b"\xf1", data.rindex(b"\x1c\x53\xbb\x6b"))  # CueClusterPosition
    width = data[cue + 1] & 0x7F
    data[cue + 2 : cue + 2 + width] = b"\x7f" + b"\xff" * (width - 1)
    assert any("index" in sign for sign in walk(tmp_path / "cues.mkv", bytes(data)).damage)


def test_an_index_that_is_promised_and_missing_is_noticed(tmp_path: Path) -> None:
    data = bytearray(data_of("nulls.avi", tmp_path))
    place = data.rindex(b"idx1")
    riff = place - 8
    data[4:8] = riff.to_bytes(4, "little")
    found = walk(tmp_path / "bare.avi", bytes(data[:place]))
    assert found.damage == ["cut: the index that the header promises is missing"]


def test_a_block_of_no_track_is_noticed(tmp_path: Path) -> None:
    data = bytearray(data_of("one.mkv", tmp_path))
    block = data.index(b"\xa3", data.index(b"\x1f\x43\xb6\x75") + 20)
    number = block + 1 + (9 - data[block + 1].bit_length())
    assert data[number] == 0x81
    data[number] = 0x9F
    assert any("no track" in sign for sign in walk(tmp_path / "odd.mkv", bytes(data)).damage)


def test_an_edit_list_is_believed_by_the_time_it_hides(tmp_path: Path) -> None:
    data = bytearray(data_of("trim-most.mp4", tmp_path))
    assert read(tmp_path / "trim-most.mp4").complete
    with opened(tmp_path / "trim-most.mp4") as source:
        assert shown_share(source, 1) == pytest.approx(25 / 65, abs=0.02)
    media = data.index(b"mdhd") + 20
    data[media : media + 4] = (int.from_bytes(data[media : media + 4], "big") // 3).to_bytes(
        4, "big"
    )
    (tmp_path / "odd.mp4").write_bytes(data)
    assert any("nearly no time" in sign for sign in read(tmp_path / "odd.mp4").reasons)


def test_a_long_file_is_walked_from_cluster_to_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "MOST_PARTS", 30)
    for name in ("long.mkv", "jitter.webm", "nulls.avi", "live.flv", "pieces.mp4"):
        data = data_of(name, tmp_path)
        assert walk(tmp_path / f"whole.{name.rpartition('.')[2]}", data).damage == []
    data = data_of("long.mkv", tmp_path)
    assert walk(tmp_path / "cut.mkv", data[:-1]).cut
    assert read(tmp_path / "nulls.avi").complete  # null frames that nobody counted are not missed
