"""Exit codes for scripts and CI.

  0  no finding: every file no-evidence, suspicious (1 with --fail-on suspicious), not-applicable
  1  at least one file manipulated
  2  a file could not be judged, or the scan could not run: bad usage, model, engine, output
  3  no finding, but at least one file inconclusive
  130  interrupted

Over several files 2 comes before 1 before 3 before 0. The counts are always printed, so that a
failed file does not hide a finding, nor the other way round. `ExitPolicy` gives the code of labels.
Commands end with another code where they raise `typer.Exit` (cli/); every error of errors.py ends
with 2 (`errors` in cli/console.py), and archive/run.py raises `NothingToScan` for an empty archive.
To change a code, edit also the table in README.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from deepscan.types import Label

OK, FOUND, ERROR, INCONCLUSIVE, INTERRUPTED = 0, 1, 2, 3, 130
_PRIORITY = (ERROR, FOUND, INCONCLUSIVE, OK)


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """Maps labels to an exit code. Only `exit_zero` can turn an error into success.

    Up to `allow_inconclusive` inconclusive files do not cause code 3.
    """

    fail_on_suspicious: bool = False
    require_face: bool = False
    allow_inconclusive: int = 0
    exit_zero: bool = False

    def code_of(self, label: Label) -> int:
        """The exit code of one file."""
        match label:
            case Label.ERROR:
                return ERROR
            case Label.MANIPULATED:
                return FOUND
            case Label.SUSPICIOUS:
                return FOUND if self.fail_on_suspicious else OK
            case Label.INCONCLUSIVE:
                return INCONCLUSIVE
            case Label.NOT_APPLICABLE:
                return INCONCLUSIVE if self.require_face else OK
            case Label.NO_EVIDENCE:
                return OK

    def code(self, labels: Iterable[Label]) -> int:
        """The exit code of a run."""
        if self.exit_zero:
            return OK
        counts = Counter(labels)
        if counts[Label.INCONCLUSIVE] <= self.allow_inconclusive:
            del counts[Label.INCONCLUSIVE]
        codes = {self.code_of(label) for label in counts}
        return next((code for code in _PRIORITY if code in codes), OK)
