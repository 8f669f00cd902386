"""A scan never waits for an engine: it is built beside it, and takes over between two files.

The engine and its builder are stand-ins: a builder is a small program that fills the cache.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepscan.engines import load, meanwhile, recipe
from deepscan.engines.cache import cache_folder, failure_of, key_of, note_failure, read_entry
from deepscan.engines.engine import ENGINES
from deepscan.engines.machine import Gpu, Machine
from deepscan.engines.meanwhile import EngineSupply, build_command
from deepscan.engines.parity import probe
from deepscan.engines.torch import TorchEngine
from deepscan.errors import EngineError
from tests.engines.test_tensorrt import write_recipe

GPU = Machine("a plain CPU", ("avx2",), 2, "Fake GPU", (Gpu("Fake GPU", (6, 1), 2**33),))
KEY = key_of({"kind": "tensorrt", "test": "1"})
FILL = (
    "import sys, time\n"
    "from deepscan.engines.cache import cache_folder, key_of, write_entry\n"
    "facts = {'kind': 'tensorrt', 'test': '1'}\n"
    "print('deepscan: trying ways', flush=True)\n"
    "write_entry(cache_folder(), key_of(facts), facts, b'plan', b'{}')\n"
)


class Standing:
    """Torch on the CPU under another name."""

    def __new__(cls, card, machine, *, device=None, precision=None, threads=None):
        engine = TorchEngine(card, machine, device="cpu", precision="fp32")
        engine.name = cls.CALLED
        engine.info = load.replace(engine.info, name=cls.CALLED)
        engine.fingerprint = cls.CALLED
        return engine


class OnCuda(Standing):
    CALLED = "torch-cuda-fp32"
    CHOICES = (("cuda", "fp32"),)

    def __new__(cls, card, machine, *, device=None, precision=None, threads=None):
        if device == "cpu":  # the reference
            return TorchEngine(card, machine, device="cpu", precision="fp32")
        return super().__new__(cls, card, machine)


class Built(Standing):
    """What takes minutes to build."""

    CALLED = "tensorrt-cuda-fp16"
    CHOICES = (("cuda", "fp16"),)
    BROKEN = False

    @classmethod
    def kept(cls, card, machine, **wanted):
        if cls.BROKEN or read_entry(cache_folder(), KEY) is None:
            raise EngineError("engine tensorrt-cuda-fp16 is refused by this driver")
        return cls(card, machine)

    @staticmethod
    def build_key(card, machine, precision="fp16", device="cuda"):
        return KEY if machine.cuda else None

    @classmethod
    def is_kept(cls, card, machine, precision, device="cuda"):
        return read_entry(cache_folder(), KEY) is not None


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A machine with a GPU, an empty cache and a recipe; gives the cache's folder."""
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path / "own"))
    for module in (load, meanwhile):
        monkeypatch.setattr(module, "look_around", lambda: GPU)
    monkeypatch.setitem(ENGINES, "torch", f"{__name__}:OnCuda")
    monkeypatch.setitem(ENGINES, "tensorrt", f"{__name__}:Built")
    monkeypatch.setattr(recipe, "FOLDER", write_recipe(tmp_path / "recipes"))
    monkeypatch.setattr(Built, "BROKEN", False)
    return tmp_path / "own" / "engines"


@pytest.fixture
def start(here, models):
    """Starts a supply whose builder runs a program; ends what is left of it."""
    supplies = []

    def begin(program=FILL, name="auto", **wanted):
        told = []
        supply = EngineSupply(
            name, "tiny", folder=models, tell=told.append,
            command=lambda plan: [sys.executable, "-c", program], **wanted,
        )  # fmt: skip
        supply.told = told
        supply.builder = supply._process
        supplies.append(supply)
        return supply

    yield begin
    for supply in supplies:
        supply.close()
        if supply.builder is not None:
            supply.builder.kill()
            supply.builder.wait()


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def ended(supply):
    """Wait for the builder, without telling the supply."""
    os.waitid(os.P_PID, supply.builder.pid, os.WEXITED | os.WNOWAIT)


HOLD = "import time\nprint('deepscan: at it', flush=True)\ntime.sleep(600)\n"


def test_it_scans_at_once_and_swaps_between_files(start, here):
    supply = start()
    first = supply.engine
    assert first.name == "torch-cuda-fp32" and "is being built meanwhile" in first.info.reason
    assert (
        "being built meanwhile" in supply.told[0]
        and "until then torch-cuda-fp32" in (supply.told[0])
    )
    ended(supply)
    assert first.predict(probe(64)[:2]).scores.shape == (2,)  # still there for the current file
    second = supply.next_file()
    assert second.name == supply.engine.name == "tensorrt-cuda-fp16"
    assert "auto: built meanwhile for the CUDA device Fake GPU" in second.info.reason
    assert second.info.max_score_difference == 0  # proven before it scored
    with pytest.raises(EngineError, match="closed"):
        first.predict(probe(64)[:1])
    assert supply.next_file() is second and supply.status() is None
    assert "instead of torch-cuda-fp32" in supply.told[-1]


def test_while_it_is_built_the_status_tells_and_nothing_changes(start):
    supply = start(HOLD)
    first = supply.engine
    until(lambda: "at it" in (supply.status() or ""))
    assert "building tiny-tensorrt-fp16 (" in supply.status()
    assert supply.next_file() is first
    nice = os.getpriority(os.PRIO_PROCESS, supply.builder.pid)
    assert nice >= min(19, os.getpriority(os.PRIO_PROCESS, 0)) and nice >= meanwhile.NICENESS


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; sys.stderr.write('deepscan: no kernel fits\\n'); sys.exit(2)", "no kernel"),
        ("import sys; sys.exit(3)", "code 3"),
        ("pass", "is refused by this driver"),  # says that it is done, and is not
    ],
)
def test_a_failure_is_told_once_and_the_scan_goes_on(start, caplog, program, why):
    supply = start(program)
    first = supply.engine
    ended(supply)
    for _ in range(3):
        assert supply.next_file() is first
    assert first.predict(probe(64)[:1]).scores.shape == (1,)
    (record,) = [each for each in caplog.records if "was not built" in each.message]
    assert why in record.message and "torch-cuda-fp32 goes on scanning" in record.message
    assert why in first.info.reason and "meanwhile" not in first.info.reason
    assert supply.status() is None


def test_an_engine_that_does_not_agree_is_not_taken(start, monkeypatch, caplog):
    supply = start()
    ended(supply)
    monkeypatch.setattr(Built, "BROKEN", True)
    assert supply.next_file().name == "torch-cuda-fp32"
    assert "is refused by this driver" in caplog.text


def test_a_builder_that_is_killed_is_told_and_tried_again_by_the_next_scan(start, caplog):
    supply = start(HOLD)
    supply.builder.kill()
    ended(supply)
    assert supply.next_file().name == "torch-cuda-fp32"
    assert "killed by signal 9" in caplog.text
    assert start(HOLD).builder is not None


def test_a_builder_that_hangs_is_killed_and_not_tried_again(start, monkeypatch, caplog):
    supply = start(HOLD)
    monkeypatch.setattr(meanwhile, "TIME_LIMIT", -1)
    assert supply.next_file().name == "torch-cuda-fp32"
    assert "took more than -1 s" in caplog.text
    assert supply.builder.returncode == -signal.SIGKILL
    again = start(HOLD)
    assert again.builder is None and again.status() is None


def test_its_own_limit_ends_a_build(tmp_path, here):
    ran = subprocess.run(
        [sys.executable, "-c",
         "import time\nfrom deepscan import engine_cli\nfrom deepscan.engines import shelf\n"
         "shelf.build_recipe = lambda *_, **__: time.sleep(600)\n"
         "engine_cli.build('any', time_limit=1)\n"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == -signal.SIGALRM


def test_two_scans_do_not_build_twice(start):
    first, second = start(HOLD), start(HOLD)
    assert first.builder is not None and second.builder is None
    assert "by another process" in second.told[0] and "in another process" in second.status()
    assert second.next_file() is second.engine and len(second.told) == 1
    first.builder.kill()
    ended(first)
    second.next_file()  # nobody builds it any more
    second.builder = second._process
    assert second.builder is not None


def test_what_another_scan_built_is_taken(start):
    first, second = start(), start(HOLD)
    ended(first)
    assert second.next_file().name == "tensorrt-cuda-fp16"
    assert second._process is None


def test_a_build_outlives_a_short_scan(start, here):
    program = FILL.replace("print", "time.sleep(1); print")
    supply = start(program)
    supply.close()
    assert "still being built for the next scan" in supply.told[-1]
    supply.builder.wait()
    assert start().engine.name == "tensorrt-cuda-fp16"


def test_what_failed_before_is_not_built_again_unasked(start, caplog):
    note_failure(KEY, "tiny-tensorrt-fp16", "no kernel fits")
    assert failure_of(KEY) == "no kernel fits"
    with caplog.at_level("INFO"):
        supply = start()
    assert supply.builder is None and "Run: deepscan engine build" in caplog.text
    assert supply.next_file().name == "torch-cuda-fp32"


@pytest.mark.parametrize("lacks", ["gpu", "onnx", "cache", "recipe", "auto"])
def test_nothing_is_built_where_nothing_can_be(start, monkeypatch, tmp_path, lacks):
    name = "auto"
    if lacks == "gpu":
        blind = load.replace(GPU, cuda=None, gpus=())
        for module in (load, meanwhile):
            monkeypatch.setattr(module, "look_around", lambda: blind)
        monkeypatch.setitem(ENGINES, "torch", "deepscan.engines.torch:TorchEngine")
        name = "auto"
    elif lacks == "onnx":
        monkeypatch.setattr(meanwhile, "BUILDER", ("no_such_package",))
    elif lacks == "cache":
        for variable in ("DEEPSCAN_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(variable, raising=False)
    elif lacks == "recipe":
        monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    else:
        name = "torch-cuda-fp32"
    supply = start(name=name)
    assert supply.builder is None and supply.status() is None and supply.told == []
    assert supply.next_file() is supply.engine


def test_a_log_that_cannot_be_written_is_told_and_nothing_is_built(start, here, caplog):
    here.mkdir(parents=True, mode=0o700)
    (here / f"build-tiny-tensorrt-fp16-{KEY[:8]}.log").mkdir()
    supply = start()
    assert supply.builder is None and "cannot be written" in caplog.text


def test_a_command_that_cannot_run_is_told(start, here, models, caplog):
    supply = EngineSupply("auto", "tiny", folder=models, command=lambda plan: ["/no/such/program"])
    assert "cannot be started" in caplog.text
    supply.close()


def test_the_command_is_one_that_the_command_line_knows():
    plan = meanwhile.Plan(load.Choice("tensorrt", "cuda:1", "fp16"), "nothing", KEY)
    command = build_command(plan)
    assert command[1:] == [
        "-m", "deepscan", "engine", "build", "nothing", "--device", "cuda:1", "--time-limit", "3600"
    ]  # fmt: skip
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.returncode == 2 and "no recipe 'nothing'" in ran.stderr


def test_one_name_for_each_gpu():
    two = load.replace(GPU, gpus=GPU.gpus * 2)
    assert load.one_for_each_gpu("auto", two) == ("auto", "auto:1")
    assert load.one_for_each_gpu("torch-cuda-bf16", two) == ("torch-cuda-bf16", "torch-cuda:1-bf16")
    assert load.one_for_each_gpu("tensorrt", two) == ("tensorrt-cuda", "tensorrt-cuda:1")
    for name in ("torch-cpu-fp32", "openvino", "tensorrt:1", "auto:1"):
        assert load.one_for_each_gpu(name, two) == (name,)
    assert load.one_for_each_gpu("auto", GPU) == ("auto",)
    for name in load.one_for_each_gpu("tensorrt", two):
        assert load.parse_name(name).runtime == "tensorrt"
    assert load.auto_device("auto:1") == "cuda:1" and load.auto_device("auto:0") == "cuda"
    assert load.auto_device("auto:x") is None and load.auto_device("torch") is None
