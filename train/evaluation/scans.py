"""Scan files as the product does; keep the evidence, and judge it by any calibration.

Reading, face search, network and rule are those of a scan. What a file showed does not depend on
the calibration, so it is stored row by row: a broken run resumes, and another calibration
needs no second scan.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from deepscan.engines.engine import Engine
from deepscan.errors import DeepscanError, UsageError
from deepscan.faces.detector import FaceDetector
from deepscan.options import ScanOptions
from deepscan.scan.pipeline import analyze
from deepscan.scan.scanner import load_detector
from deepscan.types import (
    Colour,
    EngineInfo,
    Label,
    ModelInfo,
    ReadReport,
    Verdict,
    VideoInfo,
)
from deepscan.verdict.calibration import Calibration
from deepscan.verdict.decide import EMPTY_MASK, decide
from deepscan.verdict.evidence import Evidence, TrackEvidence, looks_of, windows_of
from deepscan.video import open_video
from train.command import Progress

FORMAT = "deepscan-scans/1"


@dataclass(frozen=True, slots=True)
class Seen:
    """The scan of a file before any calibration; `error` is why there is no evidence."""

    file: str
    still: bool
    evidence: Evidence
    report: ReadReport
    error: str = ""


def scan_files(
    files: Sequence[tuple[str, Path]],
    engine: Engine,
    cache: Path,
    progress: Progress = lambda line: None,
    *,
    key: str,
) -> list[Seen]:
    """Scan files, each with a name, and cache the evidence in `cache`; cached files are skipped.

    Args:
        key: names weights and engine; rows of others are not taken.

    Raises:
        UsageError: the file holds rows of other weights.
        EngineError: the engine failed.
    """
    options = ScanOptions()
    title = hashlib.sha256(json.dumps([FORMAT, key, options.flat()]).encode()).hexdigest()
    kept = _read(cache, title)
    detector: FaceDetector = load_detector(options)
    try:
        with cache.open("a", encoding="utf-8") as file:
            for number, (name, path) in enumerate(files, 1):
                if name not in kept:
                    kept[name] = _scan(name, path, engine, detector, options)
                    file.write(json.dumps(_plain(kept[name])) + "\n")
                    file.flush()
                if number % 50 == 0:
                    progress(f"{number} of {len(files)} files")
    finally:
        detector.close()
    return [kept[name] for name, _ in files]


def _scan(
    name: str, path: Path, engine: Engine, detector: FaceDetector, options: ScanOptions
) -> Seen:
    evidence, still = Evidence(), False
    nothing = ReadReport(0, 0, False, (), "", "")
    try:
        with open_video(
            path, decoder=options.decoder, limits=options.limits, isolate=options.isolate
        ) as reader:
            still = reader.info.still
            with closing(analyze(reader.frames(), detector, engine, options)) as results:
                for result in results:
                    evidence.add(result)
            return Seen(name, still, evidence, reader.report())
    except DeepscanError as error:
        return Seen(name, still, evidence, nothing, str(error))


# --- Judged ---------------------------------------------------------------------------------------


def verdict_of(seen: Seen, calibration: Calibration, model: ModelInfo) -> Verdict:
    """The verdict on a file under a calibration."""
    engine, colour = EngineInfo("", ""), Colour("bt709", False, "", "", False)
    rate = Fraction(25)
    video = VideoInfo(
        Path(seen.file), "", "", "", 0, 0, rate, 1 / rate, None, 0, Fraction(1), colour, (),
        seen.still, "", "",
    )  # fmt: skip
    return decide(
        seen.evidence, seen.report, calibration, ScanOptions(), model=model, engine=engine,
        video=video,
    )  # fmt: skip


def alarm_of(seen: Seen, calibration: Calibration) -> float:
    """The lowest false-alarm rate at which the rule calls a file manipulated; inf: at none.

    A window with an empty mask raises no alarm.
    """
    windows = windows_of(seen.evidence, calibration, still=seen.still)
    looks, lowest = looks_of(windows.values()), math.inf
    for track in windows.values():
        for index, band in enumerate(calibration.every_band):
            for alone in (False, True):
                here = (track.bands == index) & (track.alone == alone)
                here &= ~(track.shares < EMPTY_MASK)
                if here.any():
                    rates = band.scale(still=alone).tail.rate(looks, track.llr[here])
                    lowest = min(lowest, float(np.nanmin(rates)))
    return lowest


@dataclass(frozen=True, slots=True)
class Judged:
    """A file's label, and the lowest rate at which it is called manipulated."""

    label: Label
    alarm: float


def judge(seen: Seen, calibration: Calibration, model: ModelInfo) -> Judged:
    """Label and alarm; where single windows and whole intervals differ, the label is right."""
    label = verdict_of(seen, calibration, model).label
    alarm, rate = alarm_of(seen, calibration), calibration.rate
    if label is Label.MANIPULATED:
        return Judged(label, min(alarm, rate))
    return Judged(label, max(alarm, math.nextafter(rate, 1.0)))


# --- Rows -----------------------------------------------------------------------------------------


def _plain(seen: Seen) -> dict[str, Any]:
    held = dict(vars(seen.evidence))
    held["tracks"] = {
        str(track): {f.name: _flat(getattr(series, f.name)) for f in fields(series)}
        for track, series in seen.evidence.tracks.items()
    }
    report = {f.name: getattr(seen.report, f.name) for f in fields(seen.report)}
    return {
        "file": seen.file, "still": seen.still, "error": seen.error, "report": report,
        "evidence": held,
    }  # fmt: skip


def _flat(values: array[Any] | Counter[str]) -> Any:
    return dict(values) if isinstance(values, Counter) else list(values)


def _seen(row: dict[str, Any]) -> Seen:
    evidence, held = Evidence(), dict(row["evidence"])
    tracks = held.pop("tracks")
    held["unscored"] = Counter(held["unscored"])
    held["close"] = tuple((start, end) for start, end in held["close"])
    held["turned"] = {int(track): turn for track, turn in held["turned"].items()}
    vars(evidence).update(held)
    for track, given in tracks.items():
        series = TrackEvidence()
        for name, values in given.items():
            getattr(series, name).extend(values) if name != "unscored" else None
        series.unscored.update(given["unscored"])
        evidence.tracks[int(track)] = series
    report = ReadReport(**{**row["report"], "reasons": tuple(row["report"]["reasons"])})
    return Seen(row["file"], row["still"], evidence, report, row["error"])


def _read(cache: Path, title: str) -> dict[str, Seen]:
    """Rows by file; an empty file gets its title."""
    if not cache.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"scans": title}) + "\n", "utf-8")
    lines = cache.read_text("utf-8").splitlines(keepends=True)
    if not lines or json.loads(lines[0]).get("scans") != title:
        raise UsageError(
            f"{cache} holds scans of other weights or another engine: remove it or give another "
            "folder"
        )
    if not lines[-1].endswith("\n"):  # broken off within a row: that file is scanned anew
        lines = lines[:-1]
        cache.write_text("".join(lines), "utf-8")
    rows: Iterable[Seen] = (_seen(json.loads(line)) for line in lines[1:])
    return {row.file: row for row in rows}
