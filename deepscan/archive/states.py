"""Decides the state of every file of a results folder.

A journal holds results of many runs; reports, console, exit code, `diff` and `merge` all use the
states that are decided here. Each name with a result has one state:

    current     the last run listed it, and its result is by the settings of the last run
    not-listed  the last run did not list it, but nothing shows that the file is gone: it counts
    gone        the file is no longer in the archive: only its number is reported
    superseded  judged by another model, calibration or settings than those of the last run

A file is gone only if a run has shown it: the run listed a folder with the file completely, met no
error in it, finished, and did not find the name. Files outside the patterns, shards, lists, single
files, a watch and a stopped run show nothing: the file may still exist, and dropping its findings
would look clean. A name that is listed again is current again. Results of older versions of
deepscan, which recorded no listings, are all current. A result without a key (a link, no access)
does not depend on settings and is never superseded by other settings.

All shards of one archive together show the same as one run over the archive (`united`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from deepscan.archive.inputs.patterns import Pattern
from deepscan.archive.records import InputFile, Outcome, Run, SkippedEntry
from deepscan.archive.settings_hash import result_key
from deepscan.types import Label


class FileState(StrEnum):
    """The state of a file with a result; see the docstring of this module."""

    CURRENT = "current"
    NOT_LISTED = "not-listed"
    GONE = "gone"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Coverage:
    """The area that a listing covered: files in it that exist were listed.

    `roots` are folders (absolute, without links) and addresses that were listed completely and
    without an error; the patterns select files below them.
    """

    roots: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def covers(self, path: str) -> bool:
        """True if a file would have been listed; `path` is that of its outcome."""
        return any(
            is_below(path, root) and self._takes(path[len(root) :].lstrip("/"))
            for root in self.roots
        )

    def _takes(self, below: str) -> bool:
        if any(Pattern.of(text).matches(below) for text in self.exclude):
            return False
        return not self.include or any(Pattern.of(text).matches(below) for text in self.include)


@dataclass(frozen=True, slots=True)
class RunListing:
    """The listing of a run, as changes against the run before.

    Attributes:
        coverage: the area that it covered.
        missing: names with a result that it did not list.
        back: names that were missing before and that it listed.
        gone: names known to be gone whose runs are no longer in the journal.
        whole: it finished, and was no shard: files that it did not find are gone.
        told: it is recorded; older versions of deepscan recorded none.
    """

    coverage: Coverage = field(default_factory=Coverage)
    missing: frozenset[str] = frozenset()
    back: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    whole: bool = False
    told: bool = False

    def then(self, later: RunListing) -> RunListing:
        """Join a later part of the same listing; it overrides the earlier part."""
        return RunListing(
            later.coverage,
            (self.missing - later.back) | later.missing,
            (self.back - later.missing) | later.back,
            (self.gone - later.back) | later.gone,
            self.whole or later.whole,
            self.told or later.told,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "roots": list(self.coverage.roots),
            "include": list(self.coverage.include),
            "exclude": list(self.coverage.exclude),
            **{
                what: sorted(names)
                for what in ("missing", "back", "gone")
                if (names := getattr(self, what))
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunListing:
        """Read the values of `to_json`; another line of the journal says if it is whole.

        Raises:
            KeyError, TypeError, ValueError: the values are not a listing.
        """
        return cls(
            coverage=Coverage(
                *(tuple(map(str, values[key])) for key in ("roots", "include", "exclude"))
            ),
            missing=frozenset(map(str, values.get("missing", ()))),
            back=frozenset(map(str, values.get("back", ()))),
            gone=frozenset(map(str, values.get("gone", ()))),
            told=True,
        )


def file_states(
    listings: Sequence[RunListing], outcomes: Mapping[str, Outcome], run: Run
) -> dict[str, FileState]:
    """The state of each outcome; see the docstring of this module.

    Args:
        listings: one for each run, oldest first; those of older versions are empty.
        outcomes: the newest of each name.
        run: the last start.
    """
    missing, gone = _missing_and_gone(listings, outcomes)
    told = bool(listings) and listings[-1].told
    states = {}
    for name, outcome in outcomes.items():
        if name in gone:
            states[name] = FileState.GONE
        elif told and not _judged_as(outcome, run):
            states[name] = FileState.SUPERSEDED
        else:
            states[name] = FileState.NOT_LISTED if name in missing else FileState.CURRENT
    return states


def summed(listings: Sequence[RunListing], outcomes: Mapping[str, Outcome]) -> RunListing:
    """Sum up all listings in one that gives the same states, to compact a journal."""
    missing, gone = _missing_and_gone(listings, outcomes)
    last = listings[-1] if listings else RunListing()
    return replace(last, missing=missing, back=frozenset(), gone=gone)


def changes(
    listings: Sequence[RunListing],
    outcomes: Mapping[str, Outcome],
    names: Iterable[str],
    coverage: Coverage,
) -> RunListing:
    """The listing to record for a run that lists exactly these names."""
    missing, _ = _missing_and_gone(listings, outcomes)
    found = frozenset(names)
    return RunListing(coverage, frozenset(outcomes.keys() - found - missing), missing & found)


def coverage_of(
    roots: Iterable[str],
    entries: Iterable[InputFile | SkippedEntry],
    *,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
) -> Coverage:
    """The coverage of a listing: the roots in which it met no error."""
    failed = [
        str(each.path)
        for each in entries
        if isinstance(each, SkippedEntry) and each.label is Label.ERROR
    ]
    # The path of a remote entry that could not be listed does not show its root.
    whole = [
        root
        for root in roots
        if not any("://" in root or is_below(path, root) or path == root for path in failed)
    ]
    return Coverage(tuple(sorted(set(whole))), include, exclude)


def united(parts: Sequence[tuple[Run, RunListing, bool]]) -> Coverage | None:
    """The coverage of all shards of one archive together; None if a shard is missing or not
    finished, or if they did not list the same.

    Args:
        parts: the last run of each, its listing, and whether it has finished.
    """
    shards = [run.shard for run, _, _ in parts]
    count = len(parts)
    if {(number, count) for number in range(1, count + 1)} != set(shards):
        return None
    coverages = {listing.coverage for _, listing, _ in parts}
    if len(coverages) > 1 or not all(finished for _, _, finished in parts):
        return None
    return coverages.pop()


def is_below(path: str, root: str) -> bool:
    """True if a path or address lies in a folder or below an address."""
    return path.startswith(root if root.endswith("/") else root + "/")


def entry_path(entry: InputFile | SkippedEntry) -> str:
    """The path or address that the outcome of an entry has."""
    return getattr(entry, "address", None) or os.fspath(entry.path)


def _missing_and_gone(
    listings: Iterable[RunListing], outcomes: Mapping[str, Outcome]
) -> tuple[frozenset[str], frozenset[str]]:
    missing: set[str] = set()
    gone: set[str] = set()
    for each in listings:
        missing = (missing - each.back) | each.missing | each.gone
        gone = (gone - each.back) | each.gone
        if each.whole and each.coverage.roots:
            gone |= {
                name
                for name in missing - gone
                if name in outcomes and each.coverage.covers(outcomes[name].path)
            }
    return frozenset(missing & outcomes.keys()), frozenset(gone & outcomes.keys())


def _judged_as(outcome: Outcome, run: Run) -> bool:
    if outcome.key is None or outcome.sha256 is None:
        return True
    hashes = (run.settings_hash, *run.mixed)
    return any(outcome.key == result_key(outcome.sha256, each) for each in hashes)
