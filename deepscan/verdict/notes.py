"""How far the looking reached: a verdict over a part of a file says so, and is never a clean bill.

A part that the user asked for is judged like a whole file: the label is that of the part, and the
reason `part` says which. What the user did not ask to leave out, but a budget cut off, forbids
every label that says nothing was found: the file is at best inconclusive, for the reason `budget`.
"""

from __future__ import annotations

import dataclasses
import math

from deepscan.errors import UsageError
from deepscan.options import ScanOptions
from deepscan.types import Label, Reason, Verdict

_STANDING = (Label.MANIPULATED, Label.ERROR, Label.INCONCLUSIVE)


def check_part(options: ScanOptions) -> None:
    """Refuse a part of the media, or a budget, that cannot be meant.

    Raises:
        UsageError: a time below zero or that is no number, or an end that is not behind the start.
    """
    if not 0 <= options.start < math.inf:
        raise UsageError(f"start {options.start:g} s: give seconds from the beginning")
    if options.end is not None and not options.end > options.start:
        raise UsageError(f"end {options.end:g} s does not lie behind start {options.start:g} s")
    if options.budget is not None and not options.budget >= 0:
        raise UsageError(f"budget {options.budget:g} s: give seconds, 0 for no limit")


def of_part(verdict: Verdict, options: ScanOptions, looked: int) -> Verdict:
    """The verdict with the part of the file that was asked for; `looked` counts its frames."""
    if options.start <= 0 and options.end is None:
        return verdict
    until = "its end" if options.end is None else f"{options.end:g} s"
    part = f"from {options.start:g} s to {until}"
    if not looked:
        text = f"nothing of the file lies {part}, so nothing was looked at"
        return _at_best_inconclusive(verdict, Reason("part", text))
    return with_note(verdict, Reason("part", f"only the part {part} was looked at, as asked for"))


def of_budget(verdict: Verdict, text: str) -> Verdict:
    """The verdict of a scan that was not finished; `text` says what was left undone."""
    return _at_best_inconclusive(verdict, Reason("budget", text))


def with_note(verdict: Verdict, reason: Reason) -> Verdict:
    """The verdict with one more reason that does not change its label."""
    return dataclasses.replace(verdict, reasons=(*verdict.reasons, reason))


def _at_best_inconclusive(verdict: Verdict, reason: Reason) -> Verdict:
    if verdict.label in _STANDING:
        return with_note(verdict, reason)
    # What spoke for the other label (no face in any frame, nothing found) is not known any more.
    others = tuple(
        each
        for each in verdict.reasons
        if each.code not in ("complete", "no_face", "no_analysable_face")
    )
    return dataclasses.replace(verdict, label=Label.INCONCLUSIVE, reasons=(reason, *others))
