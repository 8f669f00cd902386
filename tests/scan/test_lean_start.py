"""A scan on a CPU imports neither torch nor what is built on it, in no process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepscan.engines.hardware import has_gpu_driver
from tests.conftest import make_face_clip

HEAVY = ("torch", "torchvision", "timm", "facenet_pytorch")
# Packages that a scan's main process may import, with those that they import themselves.
ALLOWED = {
    "deepscan", "av", "numpy", "PIL", "openvino", "packaging", "jinja2", "markupsafe",
    "typer", "click", "rich", "shellingham", "markdown_it", "mdurl", "pygments", "annotated_doc",
    "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection",
    "cython_runtime",
}  # fmt: skip
_NAMES = """
import json, sys
sys.argv = ["deepscan", *json.loads(sys.argv[1])]
from deepscan.cli.scan import run
try:
    run()
finally:
    names = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
    print(json.dumps(sorted(names)), file=sys.stderr)
"""
# Python runs this first in every process that inherits PYTHONPATH.
_REFUSE = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY[:3]!r}:
            raise ImportError(f"{{name}} is not to be imported")

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A clip, and an environment whose cache holds all that its scan needs."""
    if has_gpu_driver():
        pytest.skip("this machine may have a GPU, which torch is asked about")
    folder = tmp_path_factory.mktemp("lean")
    (folder / "archive").mkdir()
    make_face_clip(folder / "archive" / "clip.mp4")
    environment = {**os.environ, "DEEPSCAN_CACHE": str(folder / "cache")}
    first = run(["archive/clip.mp4"], folder, environment)
    assert first.returncode == 0, first.stderr
    assert "converting" in first.stderr and "once" in first.stderr
    return folder, environment


def run(arguments: list[str], folder: Path, environment: dict[str, str]):
    return subprocess.run(
        [sys.executable, "-c", _NAMES, json.dumps(arguments)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_scan_imports_what_it_needs_and_no_more(scanned):
    folder, environment = scanned
    ran = run(["archive/clip.mp4", "--out", "result.mp4"], folder, environment)
    assert ran.returncode == 0, ran.stderr
    told, names = ran.stderr.rstrip().rpartition("\n")[::2]
    assert "converting" not in told
    imported = set(json.loads(names)) - set(sys.stdlib_module_names)
    assert not imported.intersection(HEAVY)
    assert {name for name in imported if not name.startswith("_")} - ALLOWED == set()


@pytest.mark.parametrize(
    ("name", "told"), [("mistyped.mp4", "cannot be found"), ("notes.mp4", "1 error")]
)
def test_what_is_no_video_loads_no_network(scanned, name, told):
    folder, environment = scanned
    (folder / "notes.mp4").write_text("what I saw\n" * 9)
    ran = run([name], folder, environment)
    message, _, names = ran.stderr.rstrip().rpartition("\n")
    assert ran.returncode == 2 and told in ran.stdout + message
    assert not {"openvino", "av", *HEAVY}.intersection(json.loads(names))


def test_no_process_of_an_archive_imports_torch(scanned):
    folder, environment = scanned
    (folder / "sitecustomize.py").write_text(_REFUSE)
    path = os.pathsep.join([str(folder), *filter(None, [environment.get("PYTHONPATH")])])
    ran = run(
        ["archive", "--out", "results", "--jobs", "2", "--quiet"],
        folder,
        {**environment, "PYTHONPATH": path},
    )
    assert ran.returncode == 0, ran.stderr
    assert "torch" not in ran.stderr


# Notes in a file of each process what it imports: it may be killed at any time.
_NOTE = """
import os, sys
from contextlib import suppress
from importlib.machinery import PathFinder

def note(event, given):
    name = given[0] if event == "import" else "sys"
    if "." not in name and name not in sys.stdlib_module_names and PathFinder.find_spec(name):
        # A decoder's process may write nowhere once it has begun.
        with suppress(OSError), open(f"NOTES/{os.getpid()}", "a") as notes:
            notes.write(name + "\\n")

sys.addaudithook(note)
"""
_ACTOR = """
import sys
from dataclasses import asdict
from pathlib import Path
from deepscan.archive.records import InputFile
from deepscan.archive.workers.contract import PoolSettings, Task
from deepscan.archive.workers.ray_actor import ScanActor
from deepscan.options import ScanOptions

settings = asdict(PoolSettings(ScanOptions(), jobs=1))
actor = ScanActor({**settings, "device": "cpu", "level": 30, "fence": 600.0})
actor.start()
file, folder = InputFile("clip.mp4", Path(sys.argv[1]), None), Path(sys.argv[2])
done, _ = actor.scan(Task(file, folder, ("record",), (), ScanOptions()))
print(done.outcome.label)
actor.close()
"""


def test_a_worker_on_a_node_of_a_cluster_starts_as_lean(scanned):
    """The actor imports neither networks nor decoder; the model process below it no torch."""
    folder, environment = scanned
    site, notes = folder / "node", folder / "notes"
    site.mkdir()
    notes.mkdir()
    (site / "sitecustomize.py").write_text(_NOTE.replace("NOTES", str(notes)))
    path = os.pathsep.join([str(site), *filter(None, [environment.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "-c", _ACTOR, folder / "archive" / "clip.mp4", folder / "actor"],
        env={**environment, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["not-applicable"]  # the face is drawn
    by_process = [set(each.read_text().split()) for each in notes.iterdir()]
    assert {"deepscan"} in by_process  # the actor, beside its model process and the decoders
    everywhere = set().union(*by_process)
    assert "openvino" in everywhere and not everywhere.intersection(HEAVY)
    assert everywhere - ALLOWED - {"decord", "openvino_telemetry"} == set()


_IMPORTERS = """
import sys, threading
from importlib.abc import MetaPathFinder

importers = set()

class Note(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "av":
            importers.add(threading.current_thread() is threading.main_thread())

sys.meta_path.insert(0, Note())
sys.argv = ["deepscan", *sys.argv[1:]]
from tests.conftest import run_with_fakes
try:
    run_with_fakes()
finally:
    print("IMPORTERS", importers, file=sys.stderr)
"""


def test_pyav_is_imported_by_one_thread(tmp_path):
    """Its modules import one another in a circle: of two threads each waits for the other."""
    clip = make_face_clip(tmp_path / "clip.mp4")
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORTERS, clip, "--out", tmp_path / "r.mp4"],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines()[-1] == "IMPORTERS {True}"
