"""Signals after engines came and went: a handler runs, and the process lives."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import faulthandler, os, signal, sys
from pathlib import Path
from deepscan.engines.choose import load_engine

if sys.argv[2] == "watched":
    faulthandler.enable()
engines = [load_engine("openvino-fp32", "tiny", folder=Path(sys.argv[1])) for _ in range(2)]
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append("heard"))
for engine in engines if sys.argv[3] == "in order" else engines[::-1]:
    engine.close()
    os.kill(os.getpid(), signal.SIGTERM)
print(*heard)
"""


@pytest.mark.parametrize(
    ("watched", "order"), [("alone", "in order"), ("watched", "in order"), ("alone", "in reverse")]
)
def test_a_signal_is_handled_whatever_engine_went_first(models, watched, order):
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(models), watched, order],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "heard heard\n"), done.stderr[-2000:]
