"""`deepscan engine`: what is asked is answered on stdout, and the exit code is right."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from deepscan.engines import maintenance
from deepscan.engines.cache import write_entry
from deepscan.engines.maintenance import clean, entries
from deepscan.engines.parity import Parity, cache_parity
from deepscan.engines.recipe import list_recipes

HAS_CUDA = "torch.cuda" in sys.modules and sys.modules["torch"].cuda.is_available()


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path / "own"))
    return tmp_path / "own" / "engines"


@pytest.fixture
def own_models(models, monkeypatch):
    """The small models lie in the user's own folder."""
    monkeypatch.setenv("DEEPSCAN_MODELS", str(models))


def lines(text):
    return [line.split() for line in text.splitlines()]


def test_recipes_are_listed(deepscan_cli, own_cache):
    ran = deepscan_cli("engine", "list")
    assert ran.code == 0 and ran.err == ""
    named = {line[0] for line in lines(ran.out) if line}
    assert {recipe.name for recipe in list_recipes()} <= named
    values = json.loads(deepscan_cli("engine", "list", "--format", "json").out)
    assert values["cache"] == str(own_cache) and values["entries"] == []
    (one,) = [each for each in values["recipes"] if each["name"] == "msccnet-s-tensorrt-fp16"]
    assert one["batches"] == {"min": 1, "opt": 32, "max": 128}


def fill(folder):
    write_entry(folder, "a", {"kind": "tensorrt", "model": "msccnet-s", "precision": "fp16",
                              "tensorrt": "10.9.0", "gpu": "Some \x1b[31mGPU", "sm": "9.0",
                              "driver": "570.1"}, b"x" * 3000, b"{}")  # fmt: skip
    write_entry(folder, "b", {"kind": "timings", "tensorrt": "10.9.0", "gpu": "Some GPU"}, b"t")
    cache_parity(
        "f" * 32, Parity(0.001, 0.0001, 0.99, 0.01, 1.0), "tensorrt-cuda-fp16", "msccnet-s"
    )
    (folder / "c.json").write_text("[]")
    (folder / "dead.bin123.part").write_text("half")
    (folder / "orphan.bin").write_text("data without a side file")


def test_what_the_cache_holds_is_listed_with_its_proof(deepscan_cli, own_cache):
    own_cache.mkdir(parents=True, mode=0o700)
    fill(own_cache)
    ran = deepscan_cli("engine", "list")
    assert "sm 9.0" in ran.out and "driver 570.1" in ran.out and "\x1b" not in ran.out
    (proof,) = [line for line in lines(ran.out) if line and line[0] == "parity"]
    assert proof[1:4] == ["tensorrt-cuda-fp16", "msccnet-s", "f" * 12]
    assert proof[-2:] == ["1.0e-03", "0.9900"]
    (recipe,) = [line for line in lines(ran.out) if line[:1] == ["msccnet-s-tensorrt-fp16"]]
    assert recipe[-1] == "yes"
    kinds = [entry.kind for entry in entries(own_cache)]
    assert kinds == ["damaged", "leftover", "leftover", "parity", "tensorrt", "timings"]


def test_clean_removes_everything_and_says_what(deepscan_cli, own_cache):
    own_cache.mkdir(parents=True, mode=0o700)
    fill(own_cache)
    ran = deepscan_cli("engine", "clean")
    assert ran.code == 0 and len(ran.out.splitlines()) == 7
    assert "removed tensorrt msccnet-s fp16" in ran.out and "6 entries" in ran.out
    assert list(own_cache.iterdir()) == []
    assert json.loads(deepscan_cli("engine", "clean", "--format", "json").out)["removed"] == []
    assert clean(own_cache) == ()


def test_clean_leaves_what_is_not_its_own(own_cache):
    own_cache.mkdir(parents=True, mode=0o700)
    (own_cache / "notes.txt").write_text("mine")
    fill(own_cache)
    clean(own_cache)
    assert [path.name for path in own_cache.iterdir()] == ["notes.txt"]


@pytest.mark.skipif(HAS_CUDA, reason="here it could be built")
def test_what_cannot_be_built_here_says_why(deepscan_cli, own_cache):
    ran = deepscan_cli("engine", "build", "msccnet-s-tensorrt-fp16")
    assert ran.code == 2 and ran.out == ""
    assert len(ran.err.splitlines()) == 1 and "no CUDA device" in ran.err
    ran = deepscan_cli("engine", "check", "msccnet-s-tensorrt-fp16")
    assert ran.code == 2 and "no CUDA device" in ran.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("build", "nothing"), "there is: msccnet-"),
        (("build", "msccnet-r50-tensorrt-fp16"), "no model 'msccnet-r50'"),
        (("check", "nothing"), "no recipe 'nothing'"),
        (("check", "torch-fp64"), "no engine 'torch-fp64': give auto or one of onnxruntime, open"),
        (("check", "torch-fp64"), "deepscan doctor says what runs here"),
        (("check", "torch", "--model", "nothing"), "no model 'nothing'"),
        (("list", "--format", "xml"), "--format xml: must be one of text, json"),
        (("bench", "--batch", "1,x"), "--batch 1,x: give numbers"),
        (("bench", "--batch", "0"), "--batch 0: give numbers"),
        (("bench", "--model", "nothing"), "no model 'nothing'"),
        (("mend",), "mend"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(deepscan_cli, own_cache, arguments, told):
    ran = deepscan_cli("engine", *arguments)
    assert ran.code == 2 and told in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_check_measures_now_and_shows_the_figures(deepscan_cli, own_cache, own_models):
    ran = deepscan_cli("engine", "check", "openvino-fp32", "--model", "tiny")
    assert ran.code == 0 and ran.err == ""
    assert "openvino-cpu-fp32 with tiny" in ran.out
    assert "agrees with torch-cpu-fp32" in ran.out
    ran = deepscan_cli("engine", "check", "openvino-fp32", "--model", "tiny", "--format", "json")
    values = json.loads(ran.out)
    assert values["parity"]["max_score_difference"] < 1e-3 and values["complaints"] == []
    assert len(entries(own_cache)) == 3  # the network, what torch said, the proof


def test_out_of_tolerance_is_code_2_with_the_figures(
    deepscan_cli, own_cache, own_models, monkeypatch
):
    monkeypatch.setattr(maintenance, "measure", lambda *_, **__: Parity(0.5, 0.1, 0.2, 0.9, 0.5))
    ran = deepscan_cli("engine", "check", "torch-cpu-fp32", "--model", "tiny")
    assert ran.code == 2
    assert "out of tolerance: a score differs by 0.5, at most 0.001 is allowed" in ran.out


def test_a_table_is_framed_on_a_terminal_only(deepscan_cli, own_cache, monkeypatch):
    plain = deepscan_cli("engine", "list").out
    assert plain.isascii()
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda self: True, raising=False)
    framed = deepscan_cli("engine", "list").out
    assert "━" in framed and "msccnet-s" in framed


def test_bench_ends_with_one_json_line(deepscan_cli, own_cache, models, monkeypatch):
    from deepscan.engines import bench as benches

    def quick(model, batches, *, threads):
        return measure("tiny", batches, rounds=1, seconds=0.01, threads=threads, folder=models)

    measure = benches.bench
    monkeypatch.setattr(benches, "bench", quick)
    ran = deepscan_cli("engine", "bench", "--batch", "2")
    assert ran.code == 0
    *table, last = ran.out.splitlines()
    values = json.loads(last)
    assert values["kind"] == "deepscan-bench"
    shown = {line.split()[0] for line in table if line.startswith("  ")}
    assert {pace["engine"] for pace in values["paces"]} <= shown
    ran = deepscan_cli("engine", "bench", "--batch", "2", "--format", "json")
    assert len(ran.out.splitlines()) == 1


def test_help_needs_nothing_heavy():
    code = (
        "import sys\nfrom deepscan.cli import scan as cli\n"
        "sys.argv = ['deepscan', 'engine', '--help']\n"
        "try:\n    cli.run()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'onnx', 'rich.table', 'openvino'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for command in ("build", "list", "check", "bench", "clean"):
        assert command in ran.stdout


def test_its_own_limit_ends_a_build():
    ran = subprocess.run(
        [sys.executable, "-c",
         "import time\nfrom deepscan.cli import engine as engine_cli\n"
         "from deepscan.engines import maintenance as shelf\n"
         "shelf.build_recipe = lambda *_, **__: time.sleep(600)\n"
         "engine_cli.build('any', time_limit=1)\n"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == -signal.SIGALRM
