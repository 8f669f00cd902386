"""Writes results.parquet: one row per file with its intervals and outputs as lists.

The file's metadata hold the run under "deepscan.run", as JSON, and the number of files that are
gone from the archive under "deepscan.gone". Needs pyarrow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepscan.archive.records import Outcome, Results
from deepscan.archive.reports.jsonl import encodable
from deepscan.errors import OutputError, UsageError
from deepscan.files import atomic_output
from deepscan.sinks.record import name_bytes, utf8


def write_parquet(results: Results, path: Path) -> None:
    """Write the table.

    Raises:
        UsageError: pyarrow is not installed.
        OutputError: the file cannot be written.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        message = f"{path.name} needs pyarrow: pip install '.[query]' in deepscan's checkout"
        raise UsageError(message) from error
    run = json.dumps(encodable(results.run.to_json()), sort_keys=True)
    schema = _schema(pyarrow).with_metadata(
        {"deepscan.run": run, "deepscan.gone": str(len(results.gone))}
    )
    with atomic_output(path) as part:
        try:
            table = pyarrow.Table.from_pylist(
                [
                    _row(outcome) | {"state": results.state_of(outcome)}
                    for outcome in results.outcomes
                ],
                schema=schema,
            )
            parquet.write_table(table, part, compression="zstd")
        except pyarrow.ArrowException as error:
            raise OutputError(f"{path}: the table cannot be written: {error}") from error


def _schema(pa: Any) -> Any:
    text, real, whole_number = pa.string(), pa.float64(), pa.int64()
    interval = pa.struct(
        {
            "start": real,
            "end": real,
            "track_id": whole_number,
            "score": real,
            "llr": real,
            "label": text,
        }
    )
    output = pa.struct({"kind": text, "path": text, "sha256": text, "size": whole_number})
    reason = pa.struct({"code": text, "text": text})
    return pa.schema(
        {
            "name": text,
            "name_bytes": pa.binary(),
            "path": text,
            "label": text,
            "score": real,
            "judged": real,
            "tracks": whole_number,
            "frames": whole_number,
            "seconds": real,
            "sha256": text,
            "size": whole_number,
            "key": text,
            "engine": text,
            "decoder": text,
            "provenance": text,
            "folder": text,
            "same_as": text,
            "started": text,
            "took": real,
            "intervals": pa.list_(interval),
            "outputs": pa.list_(output),
            "reasons": pa.list_(reason),
            "state": text,
        }
    )


def _row(outcome: Outcome) -> dict[str, Any]:
    values: dict[str, Any] = encodable(outcome.to_json())
    del values["identity"]  # device and inode of another day
    return values | {
        "name": utf8(outcome.name),
        "name_bytes": name_bytes(outcome.name),
        "label": str(outcome.label),
    }
