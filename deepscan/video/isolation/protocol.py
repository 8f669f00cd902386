"""The messages between a decoder process and its parent, with the parent's checks.

A message is one byte of kind, four bytes of length, then the payload. A hostile file may have taken
over the worker, so every field that it sends is checked.

worker -> parent: BEAT (), HELLO (VideoInfo), FRAME (`FRAME_FIELDS`), END (ReadReport),
FAILED (error and ReadReport); for sound TRACKS (a tiny MP4), PACKET (`PACKET_FIELDS`, data) and
NOTES (sentences). parent -> worker: READY (`READY_FIELDS`), then one byte for each slot of the ring
that is free again.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

from deepscan import errors
from deepscan.options import Limits
from deepscan.types import Colour, ReadReport, VideoInfo

HEADER = struct.Struct("<BI")
FRAME_FIELDS = struct.Struct("<QqdI?")  # index, pts, time, slot, whether it holds planes
READY_FIELDS = struct.Struct("<IQQ")  # slots, bytes a slot, bytes of memory

PACKET_FIELDS = struct.Struct("<IqqqII")  # track, pts, dts, duration, time base over and under

BEAT, HELLO, FRAME, END, FAILED, TRACKS, PACKET, NOTES = range(1, 9)
LARGEST = 2**20  # bytes of payload
LONGEST = 1000  # characters of one text
MOST = 64  # items of one list
HUGE = 2**63 - 1

ERRORS: dict[str, type[errors.VideoError]] = {
    kind.__name__: kind
    for kind in (
        errors.CorruptError,
        errors.UnsupportedError,
        errors.NoStreamError,  # before its base: the first that fits is sent
        errors.NoVideoError,
        errors.UnreadableError,
        errors.DecoderCrash,
    )
}
LIMITS = ("limit_pixels", "limit_frames", "limit_streams", "limit_time", "limit_memory")


class ProtocolError(Exception):
    """The worker sent an invalid message."""


def message(kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def pack_info(info: VideoInfo) -> bytes:
    fields = asdict(info)
    del fields["path"]
    for name in ("frame_rate", "time_base", "sample_aspect_ratio"):
        fields[name] = [fields[name].numerator, fields[name].denominator]
    return json.dumps(fields).encode()


def unpack_info(payload: bytes, path: Path, limits: Limits) -> VideoInfo:
    """Read the VideoInfo of `path` from a worker's message.

    Raises:
        ProtocolError: a field is missing, of the wrong type or out of range.
    """
    said = _mapping(payload)
    colour = said.get("colour")
    if not isinstance(colour, dict):
        raise ProtocolError("no colour")
    width = _integer(said, "width", 1, limits.side)
    height = _integer(said, "height", 1, limits.side)
    if width * height > limits.pixels:
        raise ProtocolError("picture too large")
    duration = said.get("duration")
    return VideoInfo(
        path=path,
        container=_text(said, "container"),
        codec=_text(said, "codec"),
        pixel_format=_text(said, "pixel_format"),
        width=width,
        height=height,
        frame_rate=_ratio(said, "frame_rate"),
        time_base=_ratio(said, "time_base"),
        duration=None if duration is None else _seconds(duration),
        rotation=_integer(said, "rotation", 0, 270),
        sample_aspect_ratio=_ratio(said, "sample_aspect_ratio"),
        colour=Colour(
            matrix=_text(colour, "matrix"),
            full_range=_truth(colour, "full_range"),
            primaries=_text(colour, "primaries"),
            transfer=_text(colour, "transfer"),
            tagged=_truth(colour, "tagged"),
            tone_mapped=_truth(colour, "tone_mapped"),
        ),
        audio=_texts(said, "audio"),
        still=_truth(said, "still"),
        decoder=_text(said, "decoder"),
        decoder_reason=_text(said, "decoder_reason"),
        start_pts=_integer(said, "start_pts", -HUGE, HUGE),
        time_offset=_seconds(said.get("time_offset")),
    )


def pack_report(report: ReadReport) -> bytes:
    return json.dumps(asdict(report)).encode()


def unpack_report(payload: bytes, received: int) -> ReadReport:
    """Read a ReadReport; `received` is the number of frames that arrived.

    Raises:
        ProtocolError: as in `unpack_info`.
    """
    return _report(_mapping(payload), received)


def _report(said: dict[str, Any], received: int) -> ReadReport:
    # A worker that fails between decoding a frame and sending it has counted one more.
    _integer(said, "decoded", received, received + 1)
    reasons = _texts(said, "reasons")
    complete = _truth(said, "complete")
    if complete and reasons:
        raise ProtocolError("complete and not")
    return ReadReport(
        decoded=received,
        failed=_integer(said, "failed", 0, HUGE),
        complete=complete,
        reasons=reasons,
        decoder=_text(said, "decoder"),
        decoder_reason=_text(said, "decoder_reason"),
    )


def pack_notes(notes: list[str]) -> bytes:
    return json.dumps({"notes": [note[:LONGEST] for note in notes[:MOST]]}).encode()


def unpack_notes(payload: bytes) -> tuple[str, ...]:
    """Read sentences; raises ProtocolError as in `unpack_info`."""
    return _texts(_mapping(payload), "notes")


def unpack_packet(payload: bytes) -> tuple[int, int, int, int, Fraction, bytes]:
    """Read track, pts, dts, duration, time base and data of a packet of sound.

    Raises:
        ProtocolError: a field is missing or out of range.
    """
    if len(payload) <= PACKET_FIELDS.size:
        raise ProtocolError("bad packet")
    track, pts, dts, duration, over, under = PACKET_FIELDS.unpack_from(payload)
    if track >= MOST or not over or not under or max(abs(pts), abs(dts), duration) > HUGE // 4:
        raise ProtocolError("bad packet")
    data = payload[PACKET_FIELDS.size :]
    return track, pts, dts, max(0, duration), Fraction(over, under), data


def pack_failure(error: errors.VideoError, report: ReadReport | None) -> bytes:
    names = (name for name, kind in ERRORS.items() if isinstance(error, kind))
    said = {
        "kind": next(names, "LimitError"),
        "reason": error.reason,
        "message": str(error)[:LONGEST],
        "report": None if report is None else asdict(report),
    }
    return json.dumps(said).encode()


def unpack_failure(payload: bytes, received: int) -> tuple[errors.VideoError, ReadReport | None]:
    """Read an error and, if the worker had opened the file, its report.

    Raises:
        ProtocolError: as in `unpack_info`.
    """
    said = _mapping(payload)
    name, reason, text = (_text(said, field) for field in ("kind", "reason", "message"))
    report = said.get("report")
    account = None if not isinstance(report, dict) else _report(report, received)
    if name == "LimitError" and reason in LIMITS:
        return errors.LimitError(reason, text), account
    if name not in ERRORS:
        raise ProtocolError("an unknown error")
    return ERRORS[name](text), account


def _mapping(payload: bytes) -> dict[str, Any]:
    try:
        said = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if not isinstance(said, dict):
        raise ProtocolError("not an object")
    return said


def _integer(said: dict[str, Any], name: str, least: int, most: int) -> int:
    value = said.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ProtocolError(f"bad {name}")
    return value


def _truth(said: dict[str, Any], name: str) -> bool:
    value = said.get(name)
    if not isinstance(value, bool):
        raise ProtocolError(f"bad {name}")
    return value


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ProtocolError(f"bad {name}")
    return value


def _texts(said: dict[str, Any], name: str) -> tuple[str, ...]:
    values = said.get(name)
    if not isinstance(values, list) or len(values) > MOST:
        raise ProtocolError(f"bad {name}")
    return tuple(_text({name: value}, name) for value in values)


def _ratio(said: dict[str, Any], name: str) -> Fraction:
    value = said.get(name)
    if not isinstance(value, list) or len(value) != 2:
        raise ProtocolError(f"bad {name}")
    parts = dict(zip(("over", "under"), value, strict=True))
    return Fraction(_integer(parts, "over", 1, HUGE), _integer(parts, "under", 1, HUGE))


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ProtocolError("bad duration")
    return float(value)
