"""Small clips of many containers and codecs, and a seeded hand that damages them."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

from tests.conftest import SIZE, draw_face
from tests.media import make_video

FRAMES = 12
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}

CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"container_options": {"movflags": "faststart"}, "audio": "aac"},
    "late-index.mp4": {"options": {"bf": "2"}},
    "pieces.mp4": {"container_options": FRAGMENTS, "gop": 4},
    "h265.mp4": {"codec": "libx265"},
    "av1.mp4": {"codec": "libsvtav1"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "h264.mkv": {"vfr": True},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "h264.ts": {"gop": 4},
    "mpeg2.mpg": {"codec": "mpeg2video", "gop": 4},
    "h264.flv": {},
    "wmv2.wmv": {"codec": "wmv2"},
    "ffv1.mkv": {"codec": "ffv1"},
}
STILLS = ("still.jpg", "still.png", "still.webp", "still.tiff")

LARGEST = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# Boxes of MP4 and elements of Matroska whose fields say how much there is of something, and where.
FIELDS = (
    b"stts", b"stsz", b"stsc", b"stco", b"ctts", b"mvhd", b"mdhd", b"tkhd", b"avc1", b"avcC",
    b"elst", b"trun", b"tfhd", b"moov", b"mdat", b"strh", b"idx1", b"movi", b"\x16\x54\xae\x6b",
    b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b",
)  # fmt: skip


def make_clips(folder: Path, *, forged: bool = False) -> dict[str, bytes]:
    """Every clip and still of a drawn face, by name."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for name, wanted in CLIPS.items():
        make_video(
            folder / name,
            **{
                "frames": FRAMES,
                "size": SIZE,
                "draw": lambda index: draw_face(index, forged=forged),
                **wanted,
            },
        )
    for name in STILLS:
        Image.fromarray(draw_face(0, forged=forged)).save(folder / name)
    return {name: (folder / name).read_bytes() for name in (*CLIPS, *STILLS)}


def mutant(number: int, clips: dict[str, bytes], seed: int = 0) -> tuple[str, bytes]:
    """The name of the clip that a mutant comes from, and its bytes: the same every time."""
    chance = random.Random(f"{seed} {number}")
    name = chance.choice(sorted(clips))
    data = bytearray(clips[name])
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(ARCHIVE_OPTIONS)(data, chance)
        if not data:
            break
    return name, bytes(data)


def flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 2, 8, 32, 128))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut_off(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def lose_front(data: bytearray, chance: random.Random) -> None:
    del data[: chance.randrange(min(len(data), 2000))]


def lose_block(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    del data[start:end]


def double_block(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    data[start:start] = data[start:end]


def move_block(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    block = data[start:end]
    del data[start:end]
    to = chance.randrange(len(data) + 1)
    data[to:to] = block


def blank_block(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    fill = chance.choice((b"\x00", b"\xff", None))
    data[start:end] = chance.randbytes(end - start) if fill is None else fill * (end - start)


def set_number(data: bytearray, chance: random.Random) -> None:
    """An extreme number anywhere near the ends, where the tables of contents lie."""
    near = chance.randrange(min(len(data), 3000))
    place = near if chance.random() < 0.5 else len(data) - 1 - near
    _put(data, place, chance)


def edit_field(data: bytearray, chance: random.Random) -> None:
    """An extreme number behind the name of a field, or as its length before it."""
    places = [data.find(field) for field in FIELDS]
    found = [place for place in places if place >= 0]
    if not found:
        set_number(data, chance)
        return
    _put(data, chance.choice(found) + chance.choice((-4, 4, 8, 12, 16, 20, 24, 28)), chance)


ARCHIVE_OPTIONS = (
    flip_bits, cut_off, lose_front, lose_block, double_block, move_block, blank_block, set_number,
    edit_field, edit_field,
)  # fmt: skip


def _put(data: bytearray, place: int, chance: random.Random) -> None:
    place = max(0, min(place, len(data) - 4))
    packed = struct.pack(chance.choice((">I", "<I")), chance.choice(LARGEST))
    data[place : place + 4] = packed[: len(data) - place]


def _block(data: bytearray, chance: random.Random) -> tuple[int, int]:
    length = min(len(data), chance.choice((1, 4, 16, 188, 1024, 4096)))
    start = chance.randrange(len(data) - length + 1)
    return start, start + length
