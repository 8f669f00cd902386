"""Writes notes into the output folders of a results folder whose result is no longer current.

A file may have several output folders, of other settings or of other contents under the same name.
Each folder whose result is not current contains the file `NOTE`.
"""

from __future__ import annotations

import logging
from pathlib import Path

from deepscan.archive.journal import JournalState
from deepscan.archive.records import Outcome
from deepscan.archive.reports import inside
from deepscan.archive.states import FileState
from deepscan.files import atomic_output
from deepscan.wording import visible

logger = logging.getLogger(__name__)

NOTE = "not-current.txt"


def mark_outputs(folder: Path, state: JournalState) -> None:
    """Write missing notes, and remove notes that no longer apply.

    If a note cannot be written this is logged; journal and reports hold the same information.
    """
    states = state.states()
    counts = {FileState.CURRENT, FileState.NOT_LISTED}
    current = {
        outcome.folder: outcome
        for name, outcome in state.outcomes.items()
        if states[name] in counts and outcome.folder is not None
    }
    older = [
        *((outcome, FileState.SUPERSEDED) for outcome in state.superseded),
        *((state.outcomes[name], each) for name, each in states.items() if each not in counts),
    ]
    now = {outcome.name: outcome for outcome in current.values()}
    renewed = {outcome.name for outcome, _ in older} & now.keys()
    try:
        for outcome, each in older:
            if outcome.folder is not None and inside(outcome.folder):
                note = folder / outcome.folder / NOTE
                if outcome.folder not in current and note.parent.is_dir():
                    _write(note, _text(outcome, each, now.get(outcome.name)))
        for outcome_folder in _once_marked(state, renewed):
            if outcome_folder in current:
                (folder / outcome_folder / NOTE).unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: notes cannot be written: %s", folder, error.strerror)


def _once_marked(state: JournalState, renewed: set[str]) -> set[str]:
    """Folders that may hold a note of an earlier run: of files with several results, or of files
    that were missing in between."""
    names = renewed.union(*(each.back | each.missing for each in state.listings))
    found = {state.outcomes[name].folder for name in names if name in state.outcomes}
    return {each for each in found if each is not None and inside(each)}


def _text(outcome: Outcome, state: FileState, now: Outcome | None) -> str:
    if state is FileState.GONE:
        why = "the file is gone from the archive"
    else:
        why = "it was judged by another model, calibration or setting, or from other content"
    told = f"The result of {visible(outcome.name)} in this folder is not current: {why}.\n"
    if now is not None and now.folder is not None:
        told += f"The current result is in {visible(now.folder)}/ of the results folder.\n"
    return told


def _write(note: Path, text: str) -> None:
    if not note.exists() or note.read_text(encoding="utf-8", errors="replace") != text:
        with atomic_output(note) as part:
            part.write_text(text, encoding="utf-8")
