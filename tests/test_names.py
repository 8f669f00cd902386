"""Names that were given up for the field's own words do not come back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path for name in ("deepscan", "train", "examples") for path in (ROOT / name).rglob("*.py")
)

# What was said before -> what is said now. No module, class, function, method or parameter of ours
# has a name of the left side.
EVERYWHERE = {
    "crew": "worker pool", "Crew": "worker pool", "crewed": "worker pool", "Crewed": "worker pool",
    "_Hand": "WorkerHandle", "Hand": "WorkerHandle",
    "outpost": "ray actor", "_Post": "ray actor", "ahead": "prefetcher",
    "Brake": "StopRequest", "brake": "stop_request", "press": "stop", "slam": "abort",
    "Ways": "ArchiveOptions", "ways": "options", "Archived": "ArchiveOptions",
    "Standing": "RunStarted", "Settled": "ItemDone", "Working": "Heartbeat",
    "Refused": "SkippedEntry", "Item": "InputFile", "Written": "OutputFile",
    "decides": "settings_hash", 
    "complaints": "violations", "Conformity": "Parity",
    "Seat": "EngineClient", "patience": "max_queue_delay", "patient": "allow_build",
    "spool": "frame store", "Spool": "FrameStore", "Kept": "StoredFrame",
    "findings": "PassResult", "Findings": "PassResult",
    "starter": "forkserver", "Nursery": "Forkserver", "zygote": "forkserver",
    "Talk": "Channel", "hear": "receive", "Order": "job",
    "takeover": "fallback", "Takeover": "fallback", "soundtrack": "audio", "Soundtrack": "Audio",
    "Shelf": "maintenance", "shelf": "engine maintenance", "look_around": "detect",
    "Handover": "TrackState", "Stretch": "Segment", "_Line": "FrameCursor",
    "Doubt": "UncertainSpan", "look_again": "refine",
    "station": "sampled frame", "_Look": "Detection", "anchor": "previous", "prove": "certify",
    "obituary": "exit_reason", "STILLBORN": "MAX_START_FAILURES",
    "preface": "report header", "measure_val": "synthetic_validation",
    "source_proof": "shortcut_test", "disturb": "corruptions",
    "lots": "random bins", "gentle": "mild", "harmless": "benign edits",
}  # fmt: skip

# Ordinary words: fine for a value, but a module of that name said nothing or something else.
AS_MODULES = {
    "names": "output_paths", "item": "records", "outcome": "records",
    "reach": "notes", "answer": "text_answer", "exits": "exit_codes", "account": "completeness",
    "source": "input_file", "sound": "audio", "clock": "timestamps", "border": "validation",
    "machine": "hardware", "key": "settings_hash", "kept": "cache", "control": "colour_baseline",
    "controls": "control_crops", "judge": "predict", "figures": "summary", "scales": "fit",
    "groups": "subgroups", "table": "markdown", "tables": "paper_tables", "decoder": "artefacts",
    "decoders": "autoencoders", "decoded": "autoencoder_pack", "words": "stderr",
}  # fmt: skip
# An established word where it stands: the control crops of every archive run.
_EXEMPT = {"deepscan/archive/workers/controls.py"}


def named(path):
    """(line, name) of every class, function, method and parameter that a file defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
            arguments = node.args
            for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                yield one.lineno, one.arg


@pytest.mark.parametrize("top", ["deepscan", "train", "examples"])
def test_no_name_that_was_given_up(top):
    found = []
    for path in FILES:
        place = path.relative_to(ROOT)
        if place.parts[0] != top:
            continue
        instead = EVERYWHERE.get(path.stem) or AS_MODULES.get(path.stem)
        if instead and place.as_posix() not in _EXEMPT:
            found.append(f"{place}: say {instead}")
        found += [
            f"{place}:{line} {name}: say {EVERYWHERE[name]}"
            for line, name in named(path)
            if name in EVERYWHERE
        ]
    assert found == []


def test_no_two_modules_of_a_package_are_a_letter_apart():
    def apart(one, other):
        return one == other + "s" or other == one + "s"

    by_folder = {}
    for path in FILES:
        by_folder.setdefault(path.parent, set()).add(path.stem)
        if path.name == "__init__.py":
            by_folder.setdefault(path.parent.parent, set()).add(path.parent.name)
    pairs = [
        f"{folder.relative_to(ROOT)}: {one}, {other}"
        for folder, names in by_folder.items()
        for one in sorted(names)
        for other in sorted(names)
        if one < other and apart(one, other)
    ]
    assert pairs == []
