"""Writes the JSON record: everything known about one file, for programs and for archiving.

It lists every other output with its hash but holds no pixels: faces are personal data, and records
are kept longer than media. Its schema is schemas/result-1.json.

It contains two hashes. `digest` covers the findings and how they were made (everything but `run`,
`outputs` and the hashes), so the same file under the same settings has the same digest on every
machine. `manifest` covers the whole record with the hashes of all outputs: a copy of it elsewhere
shows that nothing was changed. Both are SHA-256 over canonical JSON (sorted keys, no spaces,
UTF-8).
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from deepscan.errors import OutputError, system_errors_as
from deepscan.types import (
    Colour,
    Coverage,
    EngineInfo,
    FaceTrack,
    FrameResult,
    Interval,
    Output,
    Parity,
    Provenance,
    Scan,
    Skipped,
    Verdict,
    VideoInfo,
)
from deepscan.wording import credentials, figures_of, wording_of, wording_without_verdict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA = "deepscan.result/1"

Record = dict[str, Any]
Setting = str | int | float | bool | None

_NOT_IN_DIGEST = ("run", "outputs", "digest", "manifest")
_SURROGATE = re.compile("[\ud800-\udfff]")


class RecordSink:
    """Writes the record as indented JSON with sorted keys and a newline at its end."""

    suffix: ClassVar[str] = ".json"
    needs_images: ClassVar[bool] = False

    def __init__(self, path: Path, scan: Scan) -> None:
        self._path = path
        self._scan = scan

    def write(self, result: FrameResult) -> None:
        """Do nothing: the scan has all the values."""

    def close(self, made: tuple[Output, ...] = ()) -> None:
        """Write the record.

        Raises:
            OutputError: the file cannot be written, or a number in it is no number.
        """
        write_record(self._path, record_of(self._scan, made))

    def abort(self) -> None:
        """Do nothing: no resource is open."""


def record_of(scan: Scan, outputs: Iterable[Output] = ()) -> Record:
    """The record of a scan, ready for JSON.

    Outputs are named relative to the folder of the record.

    Raises:
        OutputError: a number in it is NaN or infinite.
    """
    verdict, video = scan.verdict, scan.verdict.video
    base, first_pts = video.time_base if video else None, scan.first_pts
    record: Record = {
        "schema": SCHEMA,
        "verdict": {
            "label": str(verdict.label),
            "p_manipulated": _rounded(verdict.score),
            "looks": _rounded(verdict.looks),
            "reasons": [_values(each) for each in verdict.reasons],
            "intervals": [_interval(each, base, first_pts) for each in verdict.intervals],
            "tracks": [_track(each, base, first_pts) for each in verdict.tracks],
        },
        "coverage": _coverage(verdict.coverage),
        "input": {
            **_name(scan.path),
            "sha256": scan.sha256,
            "size": scan.size,
            "stream": _stream(video, first_pts) if video else None,
            **({"time_offset": _rounded(video.time_offset)} if video else {}),
        },
        "reading": {
            "decoded": scan.report.decoded,
            "failed": scan.report.failed,
            "complete": scan.report.complete,
            "reasons": list(scan.report.reasons),
        },
        "decoder": {"name": scan.report.decoder, "reason": scan.report.decoder_reason},
        "model": _model(verdict),
        "engine": _engine(verdict.engine),
        "calibration": None if verdict.calibration is None else _values(verdict.calibration),
        "settings": dict(scan.settings),
        "versions": dict(scan.versions),
        "wording": _values(wording_of(verdict)),
        "ignored": list(scan.ignored),
        "provenance": _provenance(scan.provenance),
        "outputs": [_output(each) for each in outputs],
        "run": {
            "started": scan.started,
            "timings": [
                {"stage": stage, "seconds": _rounded(seconds)} for stage, seconds in scan.timings
            ],
            "host": _host_facts(),
        },
    }
    return _sealed(record)


def _provenance(provenance: Provenance | None) -> dict[str, Any] | None:
    if provenance is None:
        return None
    return provenance.to_json() | {"summary": credentials(provenance)}


def error_record(
    skipped: Skipped,
    *,
    sha256: str | None = None,
    size: int | None = None,
    settings: Iterable[tuple[str, Setting]] = (),
    versions: Iterable[tuple[str, str]] = (),
    started: str | None = None,
    provenance: Provenance | None = None,
) -> Record:
    """The record of a file without a verdict from its content: same shape, with nulls.

    Raises:
        OutputError: a number in it is NaN or infinite.
    """
    record: Record = {
        "schema": SCHEMA,
        "verdict": {
            "label": str(skipped.label),
            "p_manipulated": None,
            "looks": 0,
            "reasons": [_values(skipped.reason)],
            "intervals": [],
            "tracks": [],
        },
        "input": {**_name(skipped.path), "sha256": sha256, "size": size, "stream": None},
        **dict.fromkeys(("coverage", "reading", "decoder", "model", "engine", "calibration")),
        "settings": dict(settings),
        "versions": dict(versions),
        "wording": _values(wording_without_verdict(skipped.label)),
        "ignored": [],
        "provenance": _provenance(provenance),
        "outputs": [_output(each) for each in skipped.outputs],
        "run": {"started": started, "timings": [], "host": _host_facts()},
    }
    return _sealed(record)


def write_record(path: Path, record: Record) -> None:
    """Write a record as UTF-8 JSON: sorted keys, indented, a newline at the end.

    Raises:
        OutputError: the file cannot be written, or a number in it is NaN or infinite.
    """
    data = _dumped(record, indent=2) + b"\n"
    with system_errors_as(OutputError, f"{path}: the record cannot be written"):
        path.write_bytes(data)


def digest_of(record: Record) -> str:
    """SHA-256 of the findings; equal for the same file under the same settings."""
    return _sha256({key: value for key, value in record.items() if key not in _NOT_IN_DIGEST})


def manifest_of(record: Record) -> str:
    """SHA-256 of the whole record without the field that holds it."""
    return _sha256({key: value for key, value in record.items() if key != "manifest"})


def _host_facts() -> dict[str, Setting]:
    """Facts on this machine, without its name, since records may be published."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def utf8(text: str) -> str:
    """Make a text encodable: surrogates for bytes that are not UTF-8 become U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def name_bytes(name: str) -> bytes:
    """The bytes of a file name, also of one that no file system could hold."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return name.encode("utf-8", "surrogatepass")


def _sealed(record: Record) -> Record:
    record["digest"] = digest_of(record)
    record["manifest"] = manifest_of(record)
    return record


def _sha256(record: Record) -> str:
    return hashlib.sha256(_dumped(record, indent=None)).hexdigest()


def _dumped(record: Record, *, indent: int | None) -> bytes:
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        text = json.dumps(
            record,
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
            indent=indent,
            separators=separators,
        )
    except ValueError as error:
        message = "the record holds NaN or infinity and is not written; please report this"
        raise OutputError(message) from error
    # Lone surrogates stand for bytes of names that are not UTF-8, which `path_b64` keeps.
    return utf8(text).encode()


def _rounded(value: float | None) -> float | None:
    # Six digits are finer than any measured difference between engines, and keep the last bit of a
    # sum out of the digest.
    return None if value is None else round(float(value), 6)


def _values(thing: DataclassInstance) -> Record:
    """The fields of a dataclass, with rounded numbers and tuples as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(each) for each in value]
        return _rounded(value) if isinstance(value, float) else value

    return {name: plain(value) for name, value in dataclasses.asdict(thing).items()}


def _name(path: Path) -> dict[str, str]:
    names = {
        "path": utf8(str(path)),
        "name": utf8(path.name),
    }
    if names["path"] != str(path):
        names["path_b64"] = base64.b64encode(name_bytes(str(path))).decode("ascii")
    return names


def _time(seconds: float, base: Fraction | None, first_pts: int) -> dict[str, float | int | None]:
    pts = None
    if base is not None and math.isfinite(seconds):
        pts = first_pts + round(Fraction(seconds) / base)
    return {"seconds": _rounded(seconds), "pts": pts}


def _interval(interval: Interval, base: Fraction | None, first_pts: int) -> Record:
    return {
        "track_id": interval.track_id,
        "label": str(interval.label),
        "start": _time(interval.start, base, first_pts),
        "end": _time(interval.end, base, first_pts),
        "p_manipulated": _rounded(interval.score),
        "llr": _rounded(interval.llr),
    }


def _track(track: FaceTrack, base: Fraction | None, first_pts: int) -> Record:
    return {
        "track_id": track.track_id,
        "start": _time(track.start, base, first_pts),
        "end": _time(track.end, base, first_pts),
        "frames": track.frames,
        "frames_judged": track.scored,
        "p_manipulated": _rounded(track.score),
        "llr": _rounded(track.llr),
        "size": _rounded(track.size),
        "sharpness": _rounded(track.sharpness),
        "mask_share": _rounded(track.mask_share),
        "not_judged": dict(track.unscored),
    }


def _coverage(coverage: Coverage) -> Record:
    return {
        "frames_decoded": coverage.decoded,
        "frames_failed": coverage.failed,
        "frames_with_face": coverage.with_face,
        "frames_analysed": coverage.analysed,
        "faces": coverage.faces,
        "faces_judged": coverage.faces_scored,
        "faces_not_judged": dict(coverage.faces_unscored),
        "seconds": _rounded(coverage.seconds),
        "seconds_judged": _rounded(coverage.seconds_scored),
        "complete": coverage.complete,
    }


def _stream(video: VideoInfo, first_pts: int) -> Record:
    return {
        "container": video.container,
        "codec": video.codec,
        "pixel_format": video.pixel_format,
        "width": video.width,
        "height": video.height,
        "frame_rate": _rational(video.frame_rate),
        "time_base": _rational(video.time_base),
        "first_pts": first_pts,
        "duration": _rounded(video.duration),
        "rotation": video.rotation,
        "sample_aspect_ratio": _rational(video.sample_aspect_ratio),
        "colour": _colour(video.colour),
        "audio": list(video.audio),
        "still": video.still,
    }


def _colour(colour: Colour) -> Record:
    values = _values(colour)
    return values if colour.tone_mapped else {k: v for k, v in values.items() if k != "tone_mapped"}


def _rational(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


def _model(verdict: Verdict) -> Record:
    model = verdict.model
    return {
        "name": model.name,
        "sha256": model.sha256,
        "input_size": model.input_size,
        "evidence": {
            "auc": _rounded(model.auc),
            "auc_interval": (
                None
                if model.auc_interval is None
                else [_rounded(each) for each in model.auc_interval]
            ),
            "evaluated_on": model.evaluated_on,
            "figures": [_values(each) for each in figures_of(verdict)],
        },
    }


def _engine(engine: EngineInfo) -> Record:
    unknown = dict.fromkeys(field.name for field in dataclasses.fields(Parity))
    return {
        "name": engine.name,
        "reason": engine.reason,
        "parity": _values(engine.parity) if engine.parity else unknown,
    }


def _output(output: Output) -> Record:
    return {
        "kind": output.kind,
        "file": utf8(output.path.name),
        "sha256": output.sha256,
        "size": output.size,
        **({"notes": list(output.notes)} if output.notes else {}),
    }
