"""The checks of a result, their outcomes, and the overall state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepscan.wording import file_count, visible

SCHEMA = "deepscan.verification/1"

_JOURNAL = "journal.jsonl"  # checked beside the files of a folder
_JUDGED_AGAIN = ("scores", "verdict again")

State = Literal["ok", "differs", "unchecked"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: the file, what was checked, and the outcome."""

    file: str
    what: str
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks of a result, in order."""

    checks: tuple[Check, ...]

    @property
    def state(self) -> State:
        """ "differs" if anything does; else "unchecked" if anything is; else "ok"."""
        found = {check.state for check in self.checks}
        if "differs" in found:
            return "differs"
        return "unchecked" if "unchecked" in found or not found else "ok"

    def to_json(self) -> dict[str, Any]:
        """The verification, ready for JSON."""
        return {
            "schema": SCHEMA,
            "state": self.state,
            "checks": [asdict(check) for check in self.checks],
        }

    def to_text(self, *, everything: bool = True) -> Iterator[str]:
        """Yield a line for each check (passed ones only with `everything`), then the counts."""
        words = {"ok": "ok", "differs": "DIFFERS", "unchecked": "not checked"}
        for check in self.checks:
            if everything or check.state != "ok":
                yield visible(
                    f"{words[check.state]:<11}  {check.file}: {check.what}: {check.detail}"
                )
        counts = {
            state: sum(check.state == state for check in self.checks)
            for state in ("ok", "differs", "unchecked")
        }
        files = {check.file for check in self.checks} - {_JOURNAL}
        again = {
            check.file
            for check in self.checks
            if check.what in _JUDGED_AGAIN and check.state != "unchecked"
        }
        yield (
            f"{file_count(len(files))}, {len(again)} of them judged again; {len(self.checks)} "
            f"checks: {counts['ok']} ok, {counts['differs']} differ, {counts['unchecked']} could "
            "not be done"
        )


@dataclass(slots=True)
class CheckList:
    """The checks of one file."""

    file: str
    checks: list[Check] = field(default_factory=list)

    def add(self, what: str, state: State, detail: str) -> bool:
        self.checks.append(Check(self.file, what, state, detail))
        return state == "ok"


@dataclass(frozen=True, slots=True)
class VerifiedRecord:
    """A record, with the paths of the files that it names."""

    name: str
    record: Mapping[str, Any]
    folder: Path
    input: Path | None  # None: it is missing, or its hash differs from the record
    outputs: Mapping[str, Path]  # kind -> a file with the recorded hash
