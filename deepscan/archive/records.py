"""The records of a run: inputs, their outcomes, and the state of a results folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from deepscan.types import Interval, Label, Reason


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to scan.

    `name` is its path in the mirrored tree: "/"-separated, relative, unique in a run, in the file
    system's spelling (bytes that are not UTF-8 are surrogate escapes). For a file below a named
    folder it is the path from that folder on, prefixed with the folder's name if there are several
    inputs. `identity` is (device, inode, size, mtime in ns) when it was listed, None for a remote
    address. `path` is absolute.
    """

    name: str
    path: Path
    identity: tuple[int, int, int, int] | None
    address: str | None = None  # of a remote file, which is fetched to `path`


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """An entry that is not scanned (a link, a pipe, no access), with the label that it gets."""

    name: str
    path: Path
    label: Label
    reason: Reason


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a scan wrote: its sink, and its path relative to the results folder."""

    kind: str
    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one item in short form; the record on disk has the rest.

    `key` is the hash of the content and everything that affects a result (settings, weights,
    engine, versions): the same key is never scanned twice. It is None if the content could not be
    hashed. `folder` holds the outputs, relative to the results folder, None if nothing was written.
    `same_as` names the item with the same content, whose outputs this one shares. `score` is the
    calibrated P(manipulated) of the strongest window. `judged` is the share of face sightings that
    were judged, None without faces. `seconds` is the duration of the media, `took` of the work.
    """

    name: str
    path: str
    label: Label
    reasons: tuple[Reason, ...]
    key: str | None = None
    identity: tuple[int, int, int, int] | None = None
    sha256: str | None = None
    size: int | None = None
    score: float | None = None
    intervals: tuple[Interval, ...] = ()
    tracks: int = 0
    frames: int = 0
    seconds: float = 0.0
    judged: float | None = None
    engine: str | None = None
    decoder: str | None = None
    folder: str | None = None
    outputs: tuple[OutputFile, ...] = ()
    same_as: str | None = None
    started: str = ""
    took: float = 0.0
    provenance: str | None = None  # summary of its content credentials, `wording.credentials`

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """Read the values of `to_json`; fields of a newer version are ignored.

        Raises:
            KeyError, TypeError, ValueError: the values are not an outcome.
        """
        known = {key: values[key] for key in cls.__slots__ if key in values}
        known["label"] = Label(known["label"])
        known["reasons"] = tuple(Reason(**reason) for reason in known["reasons"])
        known["intervals"] = tuple(
            Interval(**{**given, "label": Label(given["label"])})
            for given in known.get("intervals", ())
        )
        known["outputs"] = tuple(OutputFile(**given) for given in known.get("outputs", ()))
        if known.get("identity") is not None:
            known["identity"] = tuple(known["identity"])
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Run:
    """One start of the program on a results folder.

    `settings` and `versions` are flat and ready for JSON. `settings_hash` covers everything that
    affects a result (`archive.settings_hash`; "decides" in journals) and is part of every
    `Outcome.key`. `controls` holds the scores of the known crops by name, and `controls_passed`
    is True if they are as expected.
    """

    id: str
    started: str  # UTC, ISO 8601
    command: tuple[str, ...]
    version: str
    model: str
    model_sha256: str
    engine: str
    calibration: str
    operating_point: float | None  # P(manipulated) at even prior odds, for one look
    false_alarm_rate: float | None
    settings: tuple[tuple[str, str | int | float | bool | None], ...]
    versions: tuple[tuple[str, str], ...]
    settings_hash: str  # SHA-256
    controls: tuple[tuple[str, float], ...] = ()
    controls_passed: bool | None = None
    shard: tuple[int, int] | None = None  # (i, n), i from 1
    listed: int | None = None  # files and skipped entries of the listing, of all shards
    passed_over: tuple[tuple[str, int], ...] = ()  # (reason, count) of files that were not listed
    mixed: tuple[str, ...] = ()  # further settings hashes whose results count (merge --mixed)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        values["decides"] = values.pop("settings_hash")
        if not self.mixed:
            del values["mixed"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Run:
        """Read the values of `to_json`; fields of a newer version are ignored.

        Raises:
            KeyError, TypeError, ValueError: the values are not a run.
        """
        known = {key: values[key] for key in cls.__slots__ if key in values}
        known["settings_hash"] = values["decides"]
        for name in ("settings", "versions", "controls", "passed_over"):
            known[name] = tuple((key, value) for key, value in known.get(name, ()))
        known["command"] = tuple(known["command"])
        known["mixed"] = tuple(known.get("mixed", ()))
        if known.get("shard") is not None:
            known["shard"] = (known["shard"][0], known["shard"][1])
        return cls(**known)


ACCEPTABLE = (Label.MANIPULATED, Label.SUSPICIOUS, Label.INCONCLUSIVE)
"""Labels that a baseline can accept. An error is no verdict, and the others need no acceptance."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """One reviewed verdict: `sha256` of the content, the accepted label, and the reason.

    `expires` is the last day of the acceptance. `reviewer` and `name` are for people only.
    """

    sha256: str
    label: Label
    reason: str
    expires: date
    reviewer: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Baseline:
    """All reviewed verdicts of a baseline, by content and label."""

    entries: Mapping[tuple[str, Label], Accepted] = field(default_factory=dict)

    def accepts(self, outcome: Outcome, today: date) -> Accepted | None:
        """The entry that accepts an outcome on that day, None if none does."""
        entry = self.entry_of(outcome)
        return entry if entry is not None and today <= entry.expires else None

    def entry_of(self, outcome: Outcome) -> Accepted | None:
        """The entry for the content and label of an outcome, also if it has expired."""
        return None if outcome.sha256 is None else self.entries.get((outcome.sha256, outcome.label))

    def knows(self, outcome: Outcome) -> bool:
        """True if any verdict on this content was reviewed."""
        return any((outcome.sha256, label) in self.entries for label in ACCEPTABLE)


@dataclass(frozen=True, slots=True)
class Results:
    """The state of a results folder.

    `outcomes` holds the current outcome of each item, sorted by name; `not_listed` has the names
    that the last run did not list. `gone` holds the last outcomes of files that are no longer in
    the archive, sorted by name; `superseded` older outcomes that other settings, weights or
    contents have replaced, oldest first. archive/states.py defines these states. `run` is the last
    start. `finished` is False if files of the last run have no outcome, since it was interrupted or
    still works; `left` is their number, if known. `baseline` holds reviewed verdicts for the
    reports.
    """

    folder: Path
    run: Run
    outcomes: tuple[Outcome, ...]
    superseded: tuple[Outcome, ...] = ()
    gone: tuple[Outcome, ...] = ()
    not_listed: frozenset[str] = frozenset()
    finished: bool = True
    left: int | None = None
    baseline: Baseline | None = None

    def state_of(self, outcome: Outcome) -> str:
        """The state (archive/states.py) of one of `outcomes`: current or not-listed."""
        return "not-listed" if outcome.name in self.not_listed else "current"

    def accepted(self, outcome: Outcome) -> Accepted | None:
        """The entry of the baseline that accepts an outcome today (UTC), None if none does."""
        if self.baseline is None:
            return None
        return self.baseline.accepts(outcome, datetime.now(UTC).date())
