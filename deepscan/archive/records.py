"""What a run knows: inputs, the outcome of each, and the state of a folder."""

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

    `name` says where it lies in the mirrored tree: "/"-separated, relative, unique in a run, as the
    file system spells it (bytes that are no UTF-8 are surrogate escapes). For a file below a folder
    that was named it is the path from that folder on, with the folder's own name in front where
    several inputs were named. `identity` is (device, inode, size, mtime in ns) when it was listed,
    None for an address that is not on a local disk. `path` is absolute.
    """

    name: str
    path: Path
    identity: tuple[int, int, int, int] | None
    address: str | None = None  # of a remote file, fetched to `path` when its turn comes


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """An entry that is not scanned, and the label that this leads to: a link, a pipe, no access."""

    name: str
    path: Path
    label: Label
    reason: Reason


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a scan left: which sink, its path relative to the results folder, its bytes."""

    kind: str
    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one item, as short as a summary needs it; the record on disk says the rest.

    `key` is the hash of the content together with all that decides a result (settings, weights,
    engine, versions): the same key is never scanned twice. It is None where the content could not
    be hashed. `folder` is where the outputs lie, relative to the results folder, None if nothing
    was written. `same_as` names the item whose content this one shares; the outputs are then that
    one's. `score` is the calibrated P(manipulated) of the strongest window. `judged` is the share
    of face sightings that were judged, None without faces. `seconds` is of media, `took` of work.
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
    provenance: str | None = None  # what its content credentials come to, `wording.credentials`

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` gave; fields of a newer version are left out.

        Raises:
            KeyError, TypeError, ValueError: it is not one.
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

    `settings` and `versions` are flat and ready for JSON. `settings_hash` is that of all that
    decides a result (`archive.settings_hash`; "decides" in journals); every `Outcome.key` holds it.
    `controls` says how the known crops scored: name -> score, and `controls_passed` whether that
    was as it must be.
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
    passed_over: tuple[tuple[str, int], ...] = ()  # what was not listed, and how often
    mixed: tuple[str, ...] = ()  # further settings hashes whose results count (merge --mixed)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        values["decides"] = values.pop("settings_hash")
        if not self.mixed:
            del values["mixed"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Run:
        """The run that `to_json` gave; fields of a newer version are left out.

        Raises:
            KeyError, TypeError, ValueError: it is not one.
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
"""Verdicts from content. An error has none, and the others need no acceptance."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """One reviewed verdict: `sha256` of the content, the label that was accepted, and why.

    `expires` is the last day on which it holds. `reviewer` and `name` are for people only.
    """

    sha256: str
    label: Label
    reason: str
    expires: date
    reviewer: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Baseline:
    """All reviewed verdicts of a file, by content and label."""

    entries: Mapping[tuple[str, Label], Accepted] = field(default_factory=dict)

    def accepts(self, outcome: Outcome, today: date) -> Accepted | None:
        """The entry that accepts an outcome on that day, None if none does."""
        entry = self.entry_of(outcome)
        return entry if entry is not None and today <= entry.expires else None

    def entry_of(self, outcome: Outcome) -> Accepted | None:
        """The entry for the content and label of an outcome, also if it has expired."""
        return None if outcome.sha256 is None else self.entries.get((outcome.sha256, outcome.label))

    def knows(self, outcome: Outcome) -> bool:
        """Whether any verdict over this content was reviewed, this one or another."""
        return any((outcome.sha256, label) in self.entries for label in ACCEPTABLE)


@dataclass(frozen=True, slots=True)
class Results:
    """Everything known in a results folder.

    `outcomes` holds one entry for each item that counts, sorted by name; those of them that the
    last run did not list stand in `not_listed` too. `gone` holds the last entries of files that are
    no longer in the archive, sorted by name; `superseded` older entries, which other settings,
    weights or contents have replaced, oldest first. archive/states.py says which is which. `run` is
    the last start. `finished` is False while files of the last run are without an outcome:
    interrupted, or still at work; `left` says how many, where that is known. `baseline` holds
    reviewed verdicts, where the reports have to know of them.
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
