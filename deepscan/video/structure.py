"""Checks that the parts of a container are all present and fit together.

Only the headers of the parts are read. A decoder skips a missing or damaged part without an error,
and the duration in the header does not help: it is that of the longest track.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from deepscan.video.input_file import Source

MOST_PARTS = 1_000_000  # that are checked, which takes some seconds

BOXES = (  # at the top level of an MP4; other data behind the index does not belong to it
    b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"styp", b"sidx", b"free", b"skip", b"wide",
    b"uuid", b"meta", b"pdin", b"emsg", b"prft",
)  # fmt: skip

EBML, SEGMENT, CLUSTER, TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B
SEEK_HEAD, CUES = 0x114D9B74, 0x1C53BB6B
VOID, CRC = 0xEC, 0xBF
SEGMENT_PARTS = {
    SEEK_HEAD, 0x1549A966, TRACKS, CUES, CLUSTER, 0x1254C367, 0x1043A770, 0x1941A469, VOID, CRC,
}  # fmt: skip
SIMPLE_BLOCK, BLOCK_GROUP, BLOCK = 0xA3, 0xA0, 0xA1
CLUSTER_PARTS = {0xE7, 0x5854, 0xA7, 0xAB, SIMPLE_BLOCK, BLOCK_GROUP, 0xAF, VOID, CRC}
TRACK_ENTRY, TRACK_NUMBER = 0xAE, 0xD7
SEEK, SEEK_POSITION = 0x4DBB, 0x53AC
CUE_POINT, CUE_TRACK, CUE_POSITION = 0xBB, 0xB7, 0xF1

LONGEST_HEADER, SHORTEST_HEADER = 64 * 1024, 20  # bytes of a box that holds numbers

AVI_HAS_INDEX = 0x10  # flag of the main header
FLV_TAGS = (8, 9, 18)


@dataclass(slots=True)
class Structure:
    """The result of the check. `known` is False for containers that are not checked here.

    `damage` lists signs of missing or changed bytes; `cut` is True if the file ends inside a part.
    `empty` counts the null frames of the picture stream, None if the file is too long to count
    them. `fragmented` is only set for MP4.
    """

    known: bool = True
    cut: bool = False
    fragmented: bool = False
    empty: int | None = 0
    damage: list[str] = field(default_factory=list)

    def end_inside(self, part: str) -> None:
        self.cut = True
        self.damage.append(f"cut: the file ends inside {part}")


def examine(source: Source, container: str, stream: int) -> Structure:
    """Check a file of FFmpeg's format name `container`; `stream` is the picture stream."""
    if container.startswith("mov"):
        return _boxes(source)
    if container.startswith("matroska"):
        return _Matroska(source).walk()
    if container == "avi":
        return _riff(source, stream)
    if container == "flv":
        return _tags(source)
    return Structure(known=False)


@dataclass(frozen=True, slots=True)
class Box:
    """A box of an MP4: offset of the box, offset of its data, and its length in bytes.

    Length 0 means up to the end of the file; any other length below 8 is damage. `kind` is empty if
    the file ends before it.
    """

    kind: bytes
    start: int
    data: int
    length: int


def boxes(descriptor: int, start: int = 0, most: int = MOST_PARTS) -> Iterator[Box]:
    """Yield the boxes of an MP4 from `start` on, up to the first with a length below 8.

    ISO/IEC 14496-12, 4.2: length 1 stands for a 64-bit length behind the kind.
    """
    for _ in range(most):
        head = os.pread(descriptor, 16, start)
        if not head:
            return
        if len(head) < 8:
            yield Box(b"", start, start, 1)
            return
        length, data = int.from_bytes(head[:4], "big"), start + 8
        if length == 1:
            length, data = int.from_bytes(head[8:], "big"), start + 16
        yield Box(head[4:8], start, data, length)
        if length < 8:
            return
        start += length


def _boxes(source: Source) -> Structure:
    """Check the top-level boxes of MP4 and MOV. Fragments have to follow one another directly."""
    found = Structure()
    for box in boxes(source.descriptor):
        end = box.start + box.length
        found.fragmented |= box.kind == b"moof"
        if box.length == 0:  # the last box, up to the end; between fragments a hole of zeros
            if found.fragmented and box.kind != b"mdat":
                found.damage.append("cut: the fragments do not fill the file")
        elif found.fragmented and (box.length < 8 or end > source.size):
            found.damage.append("cut: the fragments do not fill the file")
            found.cut = True
        elif end > source.size and box.kind in BOXES:
            found.end_inside(f"the box {box.kind.decode()}")
        if end >= source.size:
            break
    return found


class _Matroska:
    """Checks the elements of a Matroska or WebM file, down to its blocks."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found = Structure()
        self._left = MOST_PARTS
        self._tracks: set[int] = set()

    def walk(self) -> Structure:
        found, size = self._found, self._source.size
        place = 0
        while place < size and (head := self._head(place)) is not None:
            name, data, length = head
            if name == SEGMENT:
                end = size if length is None else data + length
                if end > size:
                    found.end_inside("its segment")
                self._segment(data, min(end, size))
                return found
            if length is None or name not in (EBML, VOID, CRC):
                break
            place = data + length
        found.damage.append("cut: holds no whole segment")
        return found

    def _head(self, place: int) -> tuple[int, int, int | None] | None:
        """Name, offset of the data and length of an element; length None if not stated."""
        head = os.pread(self._source.descriptor, 12, place)
        if not head or not head[0] or head[0] < 0x10:
            return None
        width = 9 - head[0].bit_length()
        name = int.from_bytes(head[:width], "big")
        rest = head[width:]
        if not rest or not rest[0]:
            return None
        more = 9 - rest[0].bit_length()
        if len(rest) < more:
            return None
        ones = (1 << 7 * more) - 1
        length = int.from_bytes(rest[:more], "big") & ones
        return name, place + width + more, None if length == ones else length

    def _parts(self, place: int, end: int) -> Iterator[tuple[int, int, int | None]]:
        """Yield the children between two offsets; anything else is damage and ends them."""
        while place < end and not self._found.cut:
            head = self._head(place)
            if head is None:
                if end - place < 12 and end == self._source.size:
                    self._found.end_inside("the head of an element")
                else:
                    self._found.damage.append(f"structure: no element at byte {place}")
                return
            yield head
            _, data, length = head
            if length is None:
                return
            place = data + length

    def _segment(self, place: int, end: int) -> None:
        found = self._found
        start = place
        targets: set[int] = set()
        follows: int | None = place  # behind a cluster of unstated length the walk starts again
        while follows is not None and follows < end and not found.cut:
            place, follows = follows, None
            for name, data, length in self._parts(place, end):
                if name == EBML:
                    return  # a second recording behind one of unstated length
                if name not in SEGMENT_PARTS:
                    found.damage.append(f"structure: an unknown element before byte {data}")
                    return
                stop = end if length is None else data + length
                if stop > self._source.size:
                    found.end_inside("a cluster" if name == CLUSTER else "an element")
                if name == CLUSTER and not self._left:
                    follows = None if length is not None else end
                elif name == CLUSTER:
                    behind = self._cluster(data, min(stop, end), length is None)
                    follows = behind if length is None else None
                elif found.cut:
                    break
                elif name == TRACKS:
                    self._tracks |= self._numbers(data, stop, (TRACK_ENTRY,), TRACK_NUMBER)
                elif name == SEEK_HEAD:
                    targets |= self._numbers(data, stop, (SEEK,), SEEK_POSITION)
                elif name == CUES:
                    targets |= self._numbers(data, stop, (CUE_POINT, CUE_TRACK), CUE_POSITION)
        if targets and start + max(targets) >= self._source.size:
            found.damage.append("cut: the index names places behind the end of the file")

    def _cluster(self, place: int, end: int, open_end: bool) -> int:
        """Check the blocks of a cluster; returns its end, which may not be stated."""
        for name, data, length in self._parts(place, end):
            self._left -= 1
            if not self._left:
                return end
            if open_end and name in {EBML, *SEGMENT_PARTS} - CLUSTER_PARTS:
                return place
            if name not in CLUSTER_PARTS or length is None:
                self._found.damage.append(f"structure: an unknown element at byte {place}")
                return end
            place = data + length
            if place > end:
                if place > self._source.size:
                    self._found.end_inside("a block")
                else:
                    self._found.damage.append(f"structure: a block beyond its cluster, {place}")
                return end
            self._block(name, data, place)
        return end

    def _block(self, name: int, data: int, end: int) -> None:
        if name == BLOCK_GROUP:
            for inner, start, length in self._parts(data, end):
                if inner == BLOCK and length is not None:
                    self._block(BLOCK, start, start + length)
        elif name in (SIMPLE_BLOCK, BLOCK) and self._tracks:
            first = os.pread(self._source.descriptor, 2, data)
            if first and first[0] & 0x80:
                number = first[0] & 0x7F
            elif len(first) == 2 and first[0] & 0x40:
                number = int.from_bytes(first, "big") & 0x3FFF
            else:
                number = -1
            if number not in self._tracks:
                self._found.damage.append(f"structure: a block of no track at byte {data}")

    def _numbers(self, place: int, end: int, path: tuple[int, ...], wanted: int) -> set[int]:
        """Collect the numbers named `wanted` in the elements at `path`."""
        numbers: set[int] = set()
        for name, data, length in self._parts(place, end):
            if length is None:
                break
            if path and name == path[0]:
                numbers |= self._numbers(data, data + length, path[1:], wanted)
            elif not path and name == wanted and length <= 8:
                numbers.add(int.from_bytes(os.pread(self._source.descriptor, length, data), "big"))
        return numbers


def _riff(source: Source, stream: int) -> Structure:
    """Check the chunks of an AVI; one above 1 GB consists of several RIFFs."""
    found = Structure()
    place, flags, indexed, empty = 0, 0, False, 0
    ends: list[int] = []
    ours = b"%02d" % stream
    size = source.size
    for _ in range(MOST_PARTS):
        while ends and place >= ends[-1]:
            ends.pop()
        if place + 8 > size:
            break
        head = os.pread(source.descriptor, 24, place)
        kind, length = head[:4], int.from_bytes(head[4:8], "little")
        if not ends and kind != b"RIFF":
            break  # behind the last RIFF
        if kind in (b"RIFF", b"LIST"):
            if place + 8 + length > size and length:
                found.end_inside("its RIFF" if kind == b"RIFF" else "a list")
                length = size - place - 8
            if kind == b"RIFF" or head[8:12] in (b"movi", b"hdrl", b"rec "):
                ends.append(place + 8 + length if length else size)
                place += 12
                continue
        elif not kind.isalnum():
            found.damage.append(f"structure: no chunk at byte {place}")
            break
        if place + 8 + length > size:
            found.end_inside("a chunk")
            break
        if kind == b"avih":
            flags = int.from_bytes(head[20:24], "little")
        indexed |= kind == b"idx1" or kind[:2] == b"ix"
        if kind[:2] == ours and kind[2:] in (b"dc", b"db") and not length:
            empty += 1
        place += 8 + length
        following = os.pread(source.descriptor, 5, place)
        if length % 2 and not (following[:1] != b"\x00" and following[:4].isalnum()):
            place += 1  # chunks are padded to even lengths, if the writer did so
    else:
        found.empty = None
        return found
    found.empty = empty
    if flags & AVI_HAS_INDEX and not indexed and not found.cut:
        found.damage.append("cut: the index that the header promises is missing")
    return found


def _tags(source: Source) -> Structure:
    """Check the tags of an FLV."""
    found = Structure()
    place = int.from_bytes(source.head()[5:9], "big") + 4
    for _ in range(MOST_PARTS):
        head = os.pread(source.descriptor, 11, place)
        if not head:
            break
        length = int.from_bytes(head[1:4], "big")
        if head[0] & 0x1F not in FLV_TAGS or head[8:11] != bytes(len(head[8:11])):
            found.damage.append(f"structure: no tag at byte {place}")
            break
        place += 11 + length
        if len(head) < 11 or place > source.size:
            found.end_inside("a tag")
            break
        # Each tag is followed by its length; some writers do not count all of its header.
        said = int.from_bytes(os.pread(source.descriptor, 4, place), "big")
        if said not in (length + 11, length + 10, length):
            found.damage.append(f"structure: a tag of another length at byte {place}")
            break
        place += 4
    return found


def shown_share(source: Source, track: int) -> float | None:
    """The share of a track's duration that the edit list of an MP4 shows; above 1 if it repeats.

    None if the track has no edit list or no duration.
    """
    movie = _first(source, (b"moov", b"mvhd"), 0, source.size)
    for trak, stop in _inside(source, (b"moov", b"trak"), 0, source.size):
        header = _first(source, (b"tkhd",), trak, stop)
        edits = _first(source, (b"edts", b"elst"), trak, stop)
        media = _first(source, (b"mdia", b"mdhd"), trak, stop)
        if not (movie and header and edits and media):
            continue
        if int.from_bytes(header[20:24] if header[0] else header[12:16], "big") != track:
            continue
        width = 8 if edits[0] else 4
        rows = range(8, len(edits) - width, 2 * width + 4)
        lengths = [
            int.from_bytes(edits[place : place + width], "big")
            for place in rows
            if edits[place + width : place + 2 * width] != b"\xff" * width  # nothing is shown
        ]
        scale, _ = _clock(movie)
        media_scale, duration = _clock(media)
        if not (scale and media_scale and duration):
            return None
        return sum(lengths) / scale / (duration / media_scale)
    return None


def _clock(header: bytes) -> tuple[int, int]:
    """Ticks per second and duration in ticks from an `mvhd` or `mdhd` box."""
    scale, width = (20, 8) if header[0] else (12, 4)
    duration = header[scale + 4 : scale + 4 + width]
    return int.from_bytes(header[scale : scale + 4], "big"), int.from_bytes(duration, "big")


def _first(source: Source, path: tuple[bytes, ...], place: int, end: int) -> bytes | None:
    """The data of the first box at `path`, at most `LONGEST_HEADER` bytes."""
    for start, stop in _inside(source, path, place, end):
        data = os.pread(source.descriptor, min(stop - start, LONGEST_HEADER), start)
        return data if len(data) >= SHORTEST_HEADER else None
    return None


def _inside(
    source: Source, path: tuple[bytes, ...], place: int, end: int
) -> Iterator[tuple[int, int]]:
    """Yield start and end of the data of each box at `path`."""
    for box in boxes(source.descriptor, place):
        stop = min(box.start + box.length, end)
        if box.data > stop:
            return
        if box.kind == path[0] and len(path) == 1:
            yield box.data, stop
        elif box.kind == path[0]:
            yield from _inside(source, path[1:], box.data, stop)
