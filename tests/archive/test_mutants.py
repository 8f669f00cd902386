"""Damaged files by the hundred through the whole program: none of them costs anything but itself.

The decoders are real, each file goes the way of a user's file. `make test-slow` has 5,000 of them.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepscan.archive.records import Outcome
from deepscan.types import Label
from tests.archive.command import Program, check_whole, settled_once
from tests.archive.mutate import CLIPS, FRAMES, STILLS, make_clips, mutant

# What may become of a damaged file, whose colours may look forged to the fake network. The process
# that scans must not be among the victims.
CODES = {
    "complete", "partial", "no_face", "no_video", "corrupt", "unsupported", "short_track",
    "decoder_crash", "decoder_hang", "limit_time", "limit_memory", "limit_pixels", "limit_frames",
    "limit_streams", "over_operating_point", "over_review_point", "no_analysable_face",
    "low_coverage",
}  # fmt: skip
# A transport stream says nowhere how long it is: cut at a packet, it is whole. WMV2 and MPEG
# program streams name no number of frames.
UNCOUNTED = {".ts", ".mpg", ".wmv"}


@dataclass(frozen=True)
class Flock:
    """What became of mutants: outcomes by name, and from which clip each of them came."""

    outcomes: dict[str, Outcome]
    origins: dict[str, str]

    def silent(self) -> tuple[list[str], int]:
        """Mutants that are told as if nothing were wrong, and how many lost frames at all.

        One frame more or less is within what containers promise.
        """
        short = [
            name
            for name, origin in self.origins.items()
            if origin in CLIPS
            and Path(origin).suffix not in UNCOUNTED
            and 0 < self.outcomes[name].frames < FRAMES - 1
        ]
        fine = (Label.NO_EVIDENCE, Label.SUSPICIOUS, Label.NOT_APPLICABLE)
        return [name for name in short if self.outcomes[name].label in fine], len(short)


def scan_mutants(count: int, place: Path, seconds: float) -> Flock:
    """Scan mutants of honest clips, with whole forged clips among them, and check what holds."""
    archive, out = place / "archive", place / "results"
    clips = make_clips(place / "honest")
    good = make_clips(archive / "good", forged=True)
    (archive / "bad").mkdir()
    origins = {}
    for number in range(count):
        origin, data = mutant(number, clips)
        name = f"bad/{number:05d}-{origin}"
        (archive / name).write_bytes(data)
        origins[name] = origin
    program = Program(place)
    began = time.monotonic()
    ran = program.run(
        archive, "--out", out, "--report", "jsonl,csv", "--write-found", "none", "--min-free", "0",
        seconds=seconds,
    )  # fmt: skip
    took = time.monotonic() - began
    assert ran.code == 2, ran.err[-3000:]
    assert "Traceback" not in ran.err and "bug" not in ran.err, ran.err[-3000:]
    assert ran.out.splitlines()[-1].startswith(f"{count + len(good):,} files: ".replace(",", ""))
    results = check_whole(out, {*origins, *(f"good/{name}" for name in good)})
    outcomes = {outcome.name: outcome for outcome in results.outcomes}
    settled = settled_once(out)
    assert set(settled) == set(outcomes) and set(settled.values()) == {1}
    for name in good:
        outcome = outcomes[f"good/{name}"]
        assert outcome.label is Label.MANIPULATED, outcome
        assert [reason.code for reason in outcome.reasons] == ["over_operating_point"], outcome
        assert outcome.frames == (1 if name in STILLS else FRAMES)
    codes = Counter(outcomes[name].reasons[0].code for name in origins)
    labels = Counter(str(outcomes[name].label) for name in origins)
    flock = Flock(outcomes, origins)
    silent, short = flock.silent()
    print(
        f"{count} mutants in {took:.0f} s: {dict(labels)}, {dict(codes)}, "
        f"{len(silent)} of {short} short ones silent: {silent[:20]}",
        file=sys.stderr,
    )
    assert set(codes) <= CODES, codes
    return flock


def test_two_hundred_mutants(tmp_path):
    flock = scan_mutants(200, tmp_path, seconds=280)
    silent, short = flock.silent()
    assert short >= 8 and len(silent) <= max(2, 0.05 * short), silent


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_five_thousand_mutants(tmp_path):
    flock = scan_mutants(5000, tmp_path, seconds=7000)
    silent, short = flock.silent()
    assert short >= 200 and len(silent) <= 0.05 * short, silent


def test_the_same_number_is_the_same_mutant():
    clips = {"a.mp4": bytes(range(256)) * 20, "b.avi": b"strh" + bytes(range(1, 251)) * 20}
    flock = [mutant(number, clips) for number in range(300)]
    assert flock == [mutant(number, clips) for number in range(300)]
    assert flock != [mutant(number, clips, seed=1) for number in range(300)]
    assert sum(data == clips[name] for name, data in flock) < 30
