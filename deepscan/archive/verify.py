"""Checks a result without trusting its author.

Hashes show that input and outputs are those that the record names, and the record's own hashes that
it was not edited. They do not show that its scores are right. So some frames, drawn at random, are
scored again with the engine of this installation (rescore.py) and compared.
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

from deepscan.archive.checks import CheckList, Verification, VerifiedRecord
from deepscan.archive.diff import read_record
from deepscan.archive.journal import JOURNAL, read_state
from deepscan.archive.records import Outcome
from deepscan.archive.reports import inside
from deepscan.archive.rescore import Make, Scanners, check_scores, make_scanner
from deepscan.archive.schema_check import violations
from deepscan.errors import UsageError, VideoError
from deepscan.files import resolve
from deepscan.options import Limits
from deepscan.sinks.record import digest_of, manifest_of
from deepscan.types import Label
from deepscan.video.input_file import hash_file
from deepscan.wording import file_count

FRAMES = 8
_NOT_SCANNED = ("skipped_symlink", "skipped_special")
_SHOWN = 3  # violations in one detail


def verify(
    result: Path,
    *,
    frames: int = FRAMES,
    seed: int = 0,
    input: Path | None = None,
    engine: str = "auto",
    make: Make | None = None,
) -> Verification:
    """Check a record with all the files that it names, or a results folder.

    Args:
        result: a result.json, or a results folder.
        frames: number of frames to judge again, in total; 0: none.
        seed: random seed of their selection.
        input: path of the scanned file, or folder of the scanned files; default: the recorded path.
        engine: the engine that judges them.
        make: makes the scanner, for tests.

    Raises:
        UsageError: it is neither a record nor a results folder, or the files' folder is missing.
        OutputError: the journal is damaged.
        EngineError, ModelError: no network runs here.
    """
    with ExitStack() as held:
        scanners = Scanners(make or make_scanner, engine, held)
        chance = random.Random(seed)
        if not result.is_dir():
            checks = CheckList(result.name)
            found = _check_record(checks, read_record(result), result, input)
            if frames:
                check_scores(checks, found, frames, chance, scanners)
            return Verification(tuple(checks.checks))
        if input is not None and not input.is_dir():
            raise UsageError(f"--input {input}: there is no such folder; name that of the files")
        return _verify_folder(result, frames, chance, input, scanners)


# Hashes and shapes


def _check_record(
    checks: CheckList, record: Mapping[str, Any], path: Path, input: Path | None
) -> VerifiedRecord | None:
    """Do the checks of a record that need no network; None if its shape is invalid."""
    wrong = list(violations(record, "result-1"))
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        checks.add("schema", "differs", "; ".join(wrong[:_SHOWN]) + more)
        return None
    checks.add("schema", "ok", "the record has the shape of deepscan.result/1")
    sealed = dict(record)
    for what, of in (("digest", digest_of), ("manifest", manifest_of)):
        same = of(sealed) == record[what]
        told = f"{record[what]}" if same else "the record was edited after it was written"
        checks.add(what, "ok" if same else "differs", told)
    outputs = {}
    for output in record["outputs"]:
        target = path.parent / output["file"]
        if not inside(output["file"]) or "/" in output["file"]:
            checks.add(output["kind"], "differs", "its name contains a path: not checked")
        elif _check_hash(checks, f"{output['kind']} {output['file']}", target, output):
            outputs[output["kind"]] = target
    known = record["input"]
    source = input if input is not None else _source(known, path.parent)
    if known["sha256"] is None and known["size"] in (0, None) and _is_empty(source):
        checks.add("input", "ok", "it is empty, as recorded")
        return VerifiedRecord(checks.file, record, path.parent, None, outputs)
    if known["sha256"] is None:
        checks.add("input", "unchecked", "the record has no hash of it: it was not readable")
        return VerifiedRecord(checks.file, record, path.parent, None, outputs)
    right = _check_hash(checks, f"input {known['name']}", source, known)
    return VerifiedRecord(checks.file, record, path.parent, source if right else None, outputs)


def _check_output(checks: CheckList, what: str, path: Path, said: Mapping[str, Any]) -> bool:
    """As `_check_hash`, for files that deepscan wrote: a missing file differs."""
    if not os.path.lexists(path):
        return checks.add(what, "differs", f"{path}: it was written and is missing now")
    return _check_hash(checks, what, path, said)


def _is_empty(path: Path) -> bool:
    try:
        return path.is_file() and not path.stat().st_size
    except OSError:
        return False


def _check_hash(checks: CheckList, what: str, path: Path, said: Mapping[str, Any]) -> bool:
    """True if a file has the recorded SHA-256 and size."""
    try:
        source = resolve(path)
        size = source.stat().st_size
        digest = hash_file(source, Limits())
    except VideoError as error:
        emptied = error.reason == "corrupt"  # a file with a recorded hash was not empty
        return checks.add(what, "differs" if emptied else "unchecked", str(error))
    except OSError as error:
        return checks.add(what, "unchecked", f"{path}: {error.strerror}")
    if digest != said["sha256"] or (said["size"] is not None and size != said["size"]):
        return checks.add(what, "differs", f"its SHA-256 is {digest}, recorded is {said['sha256']}")
    return checks.add(what, "ok", f"SHA-256 {digest}, {size} bytes")


def _source(known: Mapping[str, Any], folder: Path) -> Path:
    """The path of the input: as recorded, else beside the record."""
    given = known["path"]
    if "path_b64" in known:
        given = os.fsdecode(base64.b64decode(known["path_b64"]))
    path = Path(given)
    beside = folder / path.name
    return beside if not path.exists() and beside.exists() else path


# A folder


def _verify_folder(
    folder: Path, frames: int, chance: random.Random, input: Path | None, scanners: Scanners
) -> Verification:
    if not (folder / JOURNAL).is_file():
        raise UsageError(f"{folder} is no results folder: it holds no {JOURNAL}")
    lists = [CheckList(JOURNAL)]
    results = read_state(folder).results(folder)
    lists[0].add("lines", "ok", f"whole, {file_count(len(results.outcomes))}")
    if not results.finished:
        lists[0].add("finished", "unchecked", "files of the last run are without a result")
    scored: list[VerifiedRecord] = []
    for outcome in results.outcomes:
        lists.append(CheckList(outcome.name))
        found = _check_outcome(lists[-1], folder, outcome, input)
        if found is not None and found.input is not None and found.record["model"] is not None:
            scored.append(found)
    chosen = _drawn(scored, frames, chance)
    for place, each in enumerate(chosen):
        lists.append(CheckList(each.name))
        share = frames // len(chosen) + (place < frames % len(chosen))
        check_scores(lists[-1], each, share, chance, scanners)
    return Verification(tuple(check for checks in lists for check in checks.checks))


def _drawn(
    scored: Sequence[VerifiedRecord], count: int, chance: random.Random
) -> list[VerifiedRecord]:
    """Draw files to judge again: some of each label, and three in four of those without evidence,
    since a forger would turn a finding into that."""
    groups: dict[str, list[VerifiedRecord]] = {}
    for each in scored:
        groups.setdefault(each.record["verdict"]["label"], []).append(each)
    for group in groups.values():
        chance.shuffle(group)
    clean = groups.pop(Label.NO_EVIDENCE, [])
    turns = (each for turn in zip_longest(*groups.values()) for each in turn if each is not None)
    others = list(turns)
    # One of each other label, as far as that leaves a place for a clean one.
    share = min(len(others), max(count // 4, min(len(groups), count - bool(clean))))
    share = max(share, min(count - len(clean), len(others)))
    return clean[: count - share] + others[:share]


def _check_outcome(
    checks: CheckList, folder: Path, outcome: Outcome, input: Path | None
) -> VerifiedRecord | None:
    """Compare an outcome with its files, and its record with both."""
    source = None if input is None else input / outcome.name
    if source is None and os.path.exists(outcome.path):
        source = Path(outcome.path)  # it may have been renamed since the scan
    if source is not None and input is not None and not source.exists():
        source = input / Path(outcome.path).name  # it was a single input
    if outcome.same_as is not None:
        said = {"sha256": outcome.sha256, "size": outcome.size}
        _check_hash(checks, f"input, as {outcome.same_as}", source or Path(outcome.path), said)
        return None
    record_path = None
    for written in outcome.outputs:
        target = folder / written.path
        said = {"sha256": written.sha256, "size": written.size}
        if not inside(written.path):
            checks.add(written.kind, "differs", "its path in the journal is outside the folder")
        elif _check_output(checks, f"{written.kind} of the journal", target, said):
            record_path = target if written.kind == "record" else record_path
    if not outcome.outputs and any(each.code in _NOT_SCANNED for each in outcome.reasons):
        checks.add("record", "ok", "none, since the file was not scanned, as reported")
        return None
    if record_path is None:
        what = "nothing was written for it" if not outcome.outputs else "there is no valid record"
        checks.add("record", "unchecked", what)
        return None
    try:
        record = read_record(record_path)
    except UsageError as error:
        checks.add("record", "differs", str(error))
        return None
    found = _check_record(checks, record, record_path, source)
    if found is None:
        return None
    same = (
        record["verdict"]["label"] == outcome.label and record["input"]["sha256"] == outcome.sha256
    )
    detail = "the record agrees with the journal" if same else "record and journal differ"
    checks.add("verdict", "ok" if same else "differs", detail)
    return found
