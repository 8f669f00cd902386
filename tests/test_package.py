"""What is installed: the wheel holds all that a scan needs and nothing of the workshop."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

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
        card = json.loads(wheel.read("deepscan/weights/msccnet-lite0.json"))
        weights = wheel.read("deepscan/weights/msccnet-lite0.safetensors")
    assert hashlib.sha256(weights).hexdigest() == card["sha256"]
    assert {
        "deepscan/py.typed",
        "deepscan/recipes/msccnet-lite0-tensorrt-fp16.toml",
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


def test_every_extra_resolves_without_the_package_of_another_name(built: Path) -> None:
    """`deepscan` on the package index is another program: our extras refer to `deepscan-video`."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(wheel.read(name))
        script = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert metadata.name == "deepscan-video" and "deepscan = deepscan.__main__:main" in script
    requirements = metadata.requires_dist or []
    extras, seen, needed = ["dev"], set(), set()
    while extras:
        extra = extras.pop()
        assert extra in (metadata.provides_extra or []), extra
        seen.add(extra)
        for each in requirements:
            if each.marker is not None and each.marker.evaluate({"extra": extra}):
                needed.add(each.name)
                if each.name == metadata.name:
                    extras += each.extras - seen
    # One package of each extra that `dev` takes in.
    assert {"pytest", "ray", "fsspec", "onnx", "pyarrow", "scikit-learn"} <= needed
    assert "deepscan" not in needed


def test_nothing_tells_anybody_to_install_the_package_of_another_name() -> None:
    texts = [ROOT / name for name in ("README.md", "CHANGELOG.md", "Containerfile", "Makefile")]
    texts += [ROOT / "action.yml", ROOT / ".pre-commit-hooks.yaml"]
    for folder in ("docs", "engines", "deepscan", "train"):
        kinds = (".md", ".py", ".toml", ".j2")
        texts += [path for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    wrong = re.compile(
        r"""pip[\s"']+install[\s"']+(-\S+[\s"']+)*deepscan(==|['"`\s]|$)|\bdeepscan\[[a-z]"""
    )
    for bad in ("pip install 'deepscan[remote]'", "pip install -q deepscan", "`deepscan[onnx]`"):
        assert wrong.search(bad)
    assert not wrong.search("pip install '.[remote]' in deepscan's checkout")
    assert len(texts) > 100
    assert [str(path) for path in texts if wrong.search(path.read_text("utf-8"))] == []


def test_the_source_package_holds_the_workshop_and_the_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        names = {name.split("/", 1)[-1] for name in source.getnames()}
    assert {"Makefile", "constraints.txt", "train/train.py", "tests/test_package.py"} <= names
