"""Writes results.sqlite: all results in tables, for queries in SQL.

Names are stored as text (U+FFFD for bytes that are not UTF-8) and as bytes. `files` also holds
superseded results and those of files that are gone, with `current` 0; `state` is the state
(archive/states.py). The view `findings` lists files for review. `PRAGMA user_version` is the
version of the tables.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from deepscan.archive.records import Outcome, Results, Run
from deepscan.archive.reports.jsonl import encodable
from deepscan.errors import OutputError
from deepscan.files import atomic_output
from deepscan.sinks.record import name_bytes, utf8

VERSION = 2
_TABLES = """
CREATE TABLE runs (
  id TEXT PRIMARY KEY, started TEXT NOT NULL, finished INTEGER NOT NULL, command TEXT NOT NULL,
  version TEXT NOT NULL, model TEXT NOT NULL, model_sha256 TEXT NOT NULL, engine TEXT NOT NULL,
  calibration TEXT NOT NULL, operating_point REAL, false_alarm_rate REAL, settings TEXT NOT NULL,
  versions TEXT NOT NULL, decides TEXT NOT NULL, controls TEXT NOT NULL, controls_passed INTEGER,
  shard TEXT, listed INTEGER, passed_over TEXT NOT NULL,
  mixed TEXT NOT NULL
) STRICT;
CREATE TABLE files (
  id INTEGER PRIMARY KEY, current INTEGER NOT NULL, name TEXT NOT NULL, name_bytes BLOB NOT NULL,
  path TEXT NOT NULL, label TEXT NOT NULL, score REAL, judged REAL, tracks INTEGER NOT NULL,
  frames INTEGER NOT NULL, seconds REAL NOT NULL, sha256 TEXT, size INTEGER, key TEXT,
  engine TEXT, decoder TEXT, provenance TEXT, folder TEXT, same_as TEXT, started TEXT NOT NULL,
  took REAL NOT NULL, state TEXT NOT NULL
) STRICT;
CREATE TABLE intervals (
  file INTEGER NOT NULL REFERENCES files(id), start REAL NOT NULL, "end" REAL NOT NULL,
  track_id INTEGER NOT NULL, score REAL NOT NULL, llr REAL, label TEXT NOT NULL
) STRICT;
CREATE TABLE outputs (
  file INTEGER NOT NULL REFERENCES files(id), kind TEXT NOT NULL, path TEXT NOT NULL,
  sha256 TEXT NOT NULL, size INTEGER NOT NULL
) STRICT;
CREATE TABLE reasons (
  file INTEGER NOT NULL REFERENCES files(id), place INTEGER NOT NULL, code TEXT NOT NULL,
  text TEXT NOT NULL
) STRICT;
"""
# Created after the rows: building an index once is cheaper than updating it with every row.
_INDEXES = """
CREATE INDEX files_by_label ON files(label, score);
CREATE INDEX files_by_name ON files(name);
CREATE INDEX files_by_sha256 ON files(sha256);
CREATE INDEX intervals_by_file ON intervals(file);
CREATE INDEX outputs_by_file ON outputs(file);
CREATE INDEX reasons_by_file ON reasons(file);
CREATE INDEX reasons_by_code ON reasons(code);
CREATE VIEW findings AS
  SELECT * FROM files WHERE current AND label IN ('manipulated', 'suspicious')
  ORDER BY label, score DESC, name;
"""


def write_sqlite(results: Results, path: Path) -> None:
    """Write the database.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_output(path) as part:
        try:
            with closing(sqlite3.connect(part)) as database:
                _fill(database, results)
        except sqlite3.Error as error:
            raise OutputError(f"{path}: the database cannot be written: {error}") from error


def _fill(database: sqlite3.Connection, results: Results) -> None:
    # The file is discarded if anything fails, so no journal is needed.
    database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA user_version={VERSION};{_TABLES}")
    with database:
        _insert(database, "runs", [_run(results.run) | {"finished": results.finished}])
        rows = [
            *((each, 1, results.state_of(each)) for each in results.outcomes),
            *((each, 0, "gone") for each in results.gone),
            *((each, 0, "superseded") for each in results.superseded),
        ]
        for number, (outcome, current, state) in enumerate(rows, start=1):
            _add(database, outcome, {"id": number, "current": current, "state": state})
    database.executescript(_INDEXES)


def _add(database: sqlite3.Connection, outcome: Outcome, about: dict[str, Any]) -> None:
    row = outcome.to_json() | about
    del row["identity"]  # device and inode of another day
    parts = {table: row.pop(table) for table in ("intervals", "outputs", "reasons")}
    parts["reasons"] = [{"place": place, **each} for place, each in enumerate(parts["reasons"])]
    _insert(database, "files", [row | {"name_bytes": name_bytes(outcome.name)}])
    for table, rows in parts.items():
        _insert(database, table, [{"file": about["id"], **each} for each in rows])


def _insert(database: sqlite3.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    """Insert rows with equal columns, named as in the table."""
    if rows:
        names = ", ".join(f'"{name}"' for name in rows[0])
        values = (
            [utf8(each) if isinstance(each, str) else each for each in row.values()] for row in rows
        )
        places = ", ".join("?" * len(rows[0]))
        database.executemany(f"INSERT INTO {table} ({names}) VALUES ({places})", values)


def _run(run: Run) -> dict[str, Any]:
    named = ("settings", "versions", "controls", "passed_over")
    pairs = {name: _json(dict(getattr(run, name))) for name in named}
    shard = None if run.shard is None else f"{run.shard[0]}/{run.shard[1]}"
    texts = {"command": _json(run.command), "shard": shard, "mixed": _json(run.mixed)}
    return run.to_json() | pairs | texts


def _json(value: object) -> str:
    return json.dumps(encodable(value), sort_keys=True, ensure_ascii=False)
