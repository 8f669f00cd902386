"""Records to write into journals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepscan.archive.records import InputFile, Outcome, Run
from deepscan.archive.settings_hash import result_key
from deepscan.types import Label, Reason

RUN = Run(
    id="r1",
    started="2026-01-01T00:00:00+00:00",
    command=("deepscan", "archive"),
    version="0.1.0",
    model="msccnet-s",
    model_sha256="aa",
    engine="fake",
    calibration="drawn/1",
    operating_point=0.9,
    false_alarm_rate=0.01,
    settings=(("stride", 1),),
    versions=(("deepscan", "0.1.0"),),
    settings_hash="d1",
)


def outcome(name: str, content: str = "c1", settings_hash: str = "d1", **values: Any) -> Outcome:
    return Outcome(
        **{
            "name": name,
            "path": f"/in/{name}",
            "label": Label.NO_EVIDENCE,
            "reasons": (Reason("complete", "nothing found"),),
            "key": result_key(content, settings_hash),
            "identity": (1, 2, 3, 4),
            "sha256": content,
            "folder": "f",
            **values,
        }
    )


def input_file(name: str, identity: tuple[int, int, int, int] | None = (1, 2, 3, 4)) -> InputFile:
    return InputFile(name, Path("/in") / "x", identity)
