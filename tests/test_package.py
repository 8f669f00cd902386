"""What is installed: the wheel holds all that a scan needs and nothing of the workshop."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return out


def test_the_wheel_holds_the_default_model_and_no_workshop(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        card = json.loads(wheel.read("deepscan/weights/msccnet-s.json"))
        weights = wheel.read("deepscan/weights/msccnet-s.safetensors")
    assert hashlib.sha256(weights).hexdigest() == card["sha256"]
    assert {
        "deepscan/py.typed",
        "deepscan/recipes/msccnet-s-tensorrt-fp16.toml",
        "deepscan/schemas/result-1.json",
        "deepscan/sinks/report.html.j2",
    } <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"deepscan"}


def test_the_wheel_asks_for_nothing_that_is_optional(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        metadata = wheel.read(
            next(name for name in wheel.namelist() if name.endswith("METADATA"))
        ).decode()
    needed = [
        line
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    for optional in ("tensorrt", "opencv", "scikit", "pytest", "ray"):
        assert not any(optional in line for line in needed)
    decord = [line for line in needed if "decord" in line]
    assert decord and all("platform_machine" in line for line in decord)


def test_the_source_package_holds_the_workshop_and_the_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        names = {name.split("/", 1)[-1] for name in source.getnames()}
    assert {"Makefile", "constraints.txt", "train/train.py", "tests/test_package.py"} <= names
