"""No stage of a scan has become dearer, beside the others, than docs/speed.md says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from train.benchmarks.stages import (
    STAGES,
    Costs,
    read_shares,
    share_table,
    stage_table,
)

SPEED = Path(__file__).parents[3] / "docs" / "speed.md"
GROWTH = 1.5  # of a stage's share
NOISE = 0.08  # share of the total that a stage may always gain: other CPUs, other load


def scaled(shares: dict[str, float], engine: bool) -> dict[str, float]:
    """Shares that add up to 1, without the network where that runs on another engine."""
    counted = {name: share for name, share in shares.items() if engine or name != "network"}
    return {name: share / sum(counted.values()) for name, share in counted.items()}


def dearer(found: Costs, text: str) -> dict[str, tuple[float, float]]:
    """Stages whose share has grown by half: (as committed, now)."""
    same = found.engine in text
    now = scaled({name: found.share(name) for name in found.stages}, same)
    then = scaled(read_shares(text), same)
    return {
        name: (then[name], share)
        for name, share in now.items()
        if share > GROWTH * then[name] + NOISE
    }


# In a process of its own: threads of what other tests have loaded would count as work.
MEASURE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from deepscan.scan.scanner import Scanner
from train.benchmarks.clips import SMALL, make
from train.benchmarks.stages import Costs, alone, costs
folder = Path(sys.argv[1])
clip = make(SMALL, folder / "clip.mp4")
with Scanner(alone()) as scanner:
    runs = [costs(scanner, clip, folder) for _ in range(3)]
# The least of each: whatever else this machine does can only add.
least = {name: min(run.stages[name] for run in runs) for name in runs[0].stages}
print(json.dumps(asdict(Costs(least, runs[0].engine))))
"""


def test_no_stage_has_become_dearer(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True, text=True, timeout=200, check=False, cwd=SPEED.parents[1],
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = Costs(**json.loads(ran.stdout.splitlines()[-1]))
    assert not dearer(found, SPEED.read_text("utf-8")), share_table(found)


def test_a_dearer_stage_is_found() -> None:
    costs = dict.fromkeys((*STAGES.values(), "rest"), 2.0)
    before = Costs(costs, "engine")
    text = "\n".join(["engine", *share_table(before), "", "more"])
    assert dearer(before, text) == {}
    assert list(dearer(Costs({**costs, "masks": 9.0}, "engine"), text)) == ["masks"]
    assert dearer(Costs({**costs, "network": 9.0}, "another"), text) == {}


def test_tables_say_what_was_measured() -> None:
    found = Costs({"decoding": 3.0, "masks": 1.0}, "engine")
    assert stage_table([("clip", found)])[-1] == "| clip | 3.0 | 1.0 |"
    assert read_shares("\n".join(share_table(found))) == pytest.approx(
        {"decoding": 0.75, "masks": 0.25}
    )
