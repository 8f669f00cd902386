"""The command line: defaults, answers, exit codes, and behaving well in a shell."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

import deepscan
import deepscan.scan.scanner
from deepscan.cli import arguments
from deepscan.cli import scan as cli
from deepscan.cli.archive import _file_line
from deepscan.engines.choose import parse_name
from deepscan.errors import EngineError, OutputError
from deepscan.sinks import SINKS
from deepscan.types import Label, Reason
from tests.archive.made import outcome
from tests.conftest import make_face_clip
from tests.fakes import FakeEngine

ROOT = Path(__file__).parents[2]
HELP_SECONDS = 1.5  # generous; a fast machine needs a fifth
FAKES = "from tests.conftest import run_with_fakes; run_with_fakes()"
ALL = ["r.frames.jsonl", "r.html", "r.json", "r.masks.mkv", "r.mp4"]


def real(*args, **rest):
    """The installed program, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "deepscan", *map(str, args)],
        **{"capture_output": True, "text": True, "timeout": 60, "check": False, **rest},
    )


def with_fakes(*args):
    """The arguments that start the program with fakes in a process of its own."""
    return [sys.executable, "-c", FAKES, *map(str, args)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Help and version


def test_help_tells_the_exit_codes():
    for args in ((), ("--help",), ("scan", "--help")):
        ran = real(*args)
        assert ran.returncode == 0
        text = " ".join(ran.stdout.split())
        for told in ("0 no finding", "1 at least one", "2 a file", "3 no finding", "130 interr"):
            assert told in text
        assert "--fail-on" in text and "doctor" in text and "--out" in text


def test_help_fits_a_screen_and_explains_the_options_that_most_people_use():
    for columns, most in ((80, 36), (100, 32)):
        ran = real("--help", env={**os.environ, "COLUMNS": str(columns)})
        lines = ran.stdout.splitlines()
        assert len(lines) <= most and max(map(len, lines)) <= columns
    explained = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", ran.stdout, re.MULTILINE)
    assert explained == ["--out", "--write", "--force", "--fail-on", "--format", "--quiet"]


def test_the_whole_help_explains_every_option_in_one_sentence():
    import typer

    ran = real("--help-all", env={**os.environ, "COLUMNS": "100"})
    assert ran.returncode == 0
    for heading in ("Outputs:", "Files of an archive:", "Exit code:"):
        assert heading in ran.stdout
    explained = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", ran.stdout, re.MULTILINE))
    short = " ".join(real("--help", env={**os.environ, "COLUMNS": "80"}).stdout.split())
    for option in typer.main.get_command(cli.app).commands["scan"].params:
        if option.param_type_name != "option":
            continue
        assert option.opts[0] in explained and option.opts[0] in short
        assert re.fullmatch(r"[A-Z][^.]*(\.(?! )[^.]*)*\.", option.help), option.help
        assert "default" not in option.help


def test_help_answers_fast_and_without_the_heavy_libraries():
    look = (
        "import sys, atexit\n"
        "heavy = ('torch', 'torchvision', 'av', 'numpy', 'openvino', 'decord', 'PIL', 'jinja2')\n"
        "atexit.register(lambda: print('HEAVY', [m for m in heavy if m in sys.modules]))\n"
        "sys.argv = ['deepscan', '--help']\n"
        "from deepscan.__main__ import main\n"
        "main()\n"
    )
    began, before = time.monotonic(), os.times()
    ran = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True
    )
    wall, after = time.monotonic() - began, os.times()
    spent = sum(after[2:4]) - sum(before[2:4])  # of the processor: a busy machine is no reason
    print(f"--help took {wall:.2f} s, {spent:.2f} s of the processor")
    assert "HEAVY []" in ran.stdout
    assert spent < HELP_SECONDS


def test_commands_over_results_are_there():
    import typer

    commands = set(typer.main.get_command(cli.app).commands)
    assert commands >= {"scan", "doctor", "engine", "diff", "verify", "merge", "report", "journal"}


def test_version():
    ran = real("--version")
    assert (ran.returncode, ran.stdout) == (0, f"deepscan {deepscan.__version__}\n")


# Usage


@pytest.mark.parametrize(
    "args",
    [
        ("--no-such-option", "{clip}"),
        ("{clip}", "--min-coverage", "2"),
        ("{clip}", "--stride", "0"),
        ("{clip}", "--stride"),
        ("{clip}", "--min-face", "big"),
        ("{clip}", "--decoder", "vlc"),
        ("{clip}", "--format", "xml"),
        ("{clip}", "--fail-on", "nothing"),
        ("{clip}", "--write", "poem", "--out", "{out}/r.mp4"),
        ("{clip}", "--write", "json"),
        ("{clip}", "--out", "{out}/r.avi"),
        ("{clip}", "--out", "{clip}/r.mp4"),
        ("{clip}", "--budget", "0"),
        ("https://example.org/clip.mp4",),
        ("https://example.org/clip.mp4", "--out", "{out}/r.mp4"),
        ("{clip}", "{clip}", "--out", "{out}/r.mp4"),
        ("{clip}", "--out", "{clip}", "--force"),
        ("{out}",),
        ("scan",),
        ("doctor", "--format", "xml"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_code_2(deepscan_cli, clips, tmp_path, args):
    clip = tmp_path / "in.mp4"
    shutil.copy(clips["honest"], clip)
    before = clip.read_bytes()
    (tmp_path / "out").mkdir()
    ran = deepscan_cli(*(arg.format(clip=clip, out=tmp_path / "out") for arg in args))
    assert ran.code == 2
    assert ran.out == ""
    assert re.fullmatch(r"deepscan: [^\n]+\n", ran.err)
    assert names(tmp_path / "out") == []
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "meant"),
    [("--foce", "--force"), ("--quite", "--quiet"), ("--min-fase", "--min-face"),
     ("--treage", "--triage"), ("--max-false-alarm", "--max-false-alarms")],
)  # fmt: skip
def test_a_misspelt_option_names_the_nearest(deepscan_cli, given, meant):
    ran = deepscan_cli("x.mp4", given)
    assert ran.code == 2
    assert ran.err == (
        f"deepscan: No such option: {given}. Did you mean {meant}? See deepscan --help\n"
    )


def test_a_folder_that_cannot_be_made_asks_for_another(deepscan_cli, clips, tmp_path):
    (tmp_path / "file").touch()
    ran = deepscan_cli(clips["honest"], "--out", tmp_path / "file" / "sub" / "result.mp4")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith("cannot be made (Not a directory): name another\n")


@pytest.mark.parametrize("out", ["RESULTS", "new/RESULTS", "r.mp4", "there"])
@pytest.mark.parametrize("more", [(), ("--include", "*.mp4"), ("clip.mp4",)], ids=" ".join)
def test_what_does_not_exist_leaves_nothing(
    deepscan_cli, pools, clips, tmp_path, monkeypatch, more, out
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clips["honest"], "clip.mp4")
    deepscan_cli("clip.mp4", "--out", "there", "--jobs", "1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ran = deepscan_cli("ARCHVE", *more, "--out", out)
    told = "deepscan: ARCHVE cannot be found [^:]*: check the name"
    if more and out == "r.mp4":
        told = "deepscan: --out r.mp4 is one file[^:]*: name a folder[^:]*"
    assert (ran.code, ran.out) == (2, "") and re.fullmatch(f"{told}\n", ran.err)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert names(tmp_path) == ["clip.mp4", "there"]


def test_a_misspelt_use_of_a_command_names_its_own_help(deepscan_cli):
    ran = deepscan_cli("baseline", "results", "baseline.toml")
    assert ran.code == 2
    assert ran.err.endswith(". See deepscan baseline --help\n")


@pytest.mark.parametrize("group", ["engine", "journal", "model"])
def test_a_group_without_a_command_names_its_help(deepscan_cli, group):
    ran = deepscan_cli(group)
    told = f"deepscan: Missing command. See deepscan {group} --help\n"
    assert (ran.code, ran.out, ran.err) == (2, "", told)
    rows = deepscan_cli(group, "--help").out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert rows.count("\n") >= 1 and "..." not in rows


def test_what_lies_in_a_locked_folder_is_no_bug(deepscan_cli, clips, tmp_path, monkeypatch):
    locked = tmp_path / "locked" / "a.mp4"

    def refused(real):
        def look(path, *args, **more):
            if "locked" in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **more)

        return look

    monkeypatch.setattr(os, "stat", refused(os.stat))
    monkeypatch.setattr(os, "lstat", refused(os.lstat))
    for args in ((locked, clips["honest"]), ("diff", locked, locked), ("verify", locked)):
        ran = deepscan_cli(*args)
        assert (ran.code, ran.out) == (2, "")
        assert re.fullmatch(rf"deepscan: [^\n]*{locked}[^\n]*\n", ran.err)


def test_an_option_of_archives_without_a_folder_says_what_is_missing(deepscan_cli, clips):
    ran = deepscan_cli(clips["forged"], "--jobs", "2")
    assert ran.code == 2
    assert "an option for archives was given" in ran.err
    assert "--out RESULTS" in ran.err


def test_text_is_called_text_and_not_damaged(deepscan_cli, tmp_path):
    for name, text in {
        "notes.mp4": "hello\n",
        "notes.txt": "Grüße\n",
        "page.mov": "<html>",
    }.items():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        ran = deepscan_cli(path)
        assert ran.code == 2
        assert "unsupported: " in ran.out
        assert "text, not a video or picture" in ran.out


def test_the_folder_of_the_results_is_made(deepscan_cli, clips, tmp_path):
    out = tmp_path / "new" / "folder" / "r.mp4"
    assert deepscan_cli(clips["forged"], "--out", out).code == 1
    assert names(out.parent) == ALL


def test_a_web_address_says_what_to_do(deepscan_cli):
    ran = deepscan_cli("https://example.org/watch?v=1")
    assert (ran.code, ran.out) == (2, "")
    assert "save the video to a file with" in ran.err and "deepscan FILE" in ran.err


@pytest.mark.parametrize("out", [[], ["--out", "{out}"]], ids=["alone", "out"])
@pytest.mark.parametrize("how", ["-", "@"])
def test_a_video_in_place_of_a_list_of_names(clips, tmp_path, how, out):
    out = [each.format(out=tmp_path / "out") for each in out]
    given = "-" if how == "-" else f"@{clips['honest']}"
    with open(clips["honest"], "rb") as stdin:
        ran = subprocess.run(
            with_fakes(given, *out),
            stdin=stdin, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
        )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(r"deepscan: [^\n]+\n", ran.stderr)
    if how == "-":
        assert "save it to a file" in ran.stderr
    elif out:
        assert "without the @" in ran.stderr


def test_wrong_usage_in_a_real_process():
    ran = real("--no-such-option", "x.mp4")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1 and ran.stderr.startswith("deepscan: ")


def test_a_model_that_does_not_exist(clips):
    ran = real(clips["honest"], "--model", "oracle")
    assert ran.returncode == 2
    assert "oracle" in ran.stderr and ran.stderr.count("\n") == 1


def test_an_output_that_is_there_is_code_2(deepscan_cli, clips, tmp_path):
    (tmp_path / "r.html").write_text("mine")
    ran = deepscan_cli(clips["honest"], "--out", tmp_path / "r.mp4")
    assert ran.code == 2
    assert "--force" in ran.err
    assert names(tmp_path) == ["r.html"]
    ran = deepscan_cli(clips["honest"], "--out", tmp_path / "r.mp4", "--force")
    assert ran.code == 0 and "not of this scan" not in ran.err
    ran = deepscan_cli(clips["honest"], "--out", tmp_path / "r.mp4", "--force", "--write", "json")
    assert "not of this scan, left as they were: " in ran.err
    assert str(tmp_path / "r.html") in ran.err and "r.json" not in ran.err
    ran = deepscan_cli(clips["junk"], "--out", tmp_path / "r.mp4", "--force")  # its record alone
    assert str(tmp_path / "r.html") in ran.err and "r.json" not in ran.err
    ran = deepscan_cli(tmp_path / "r.mp4", "--out", tmp_path / "r", "--force", "--write", "json")
    assert "r.html" in ran.err and "r.mp4" not in ran.err  # the input
    assert names(tmp_path) == ALL


# Exit codes and answers


@pytest.mark.parametrize(
    ("files", "args", "code", "counts"),
    [
        (["honest"], [], 0, "1 file: 1 no-evidence"),
        (["forged"], [], 1, "1 file: 1 manipulated"),
        (["junk"], [], 2, "1 file: 1 error"),
        (["cut_off"], [], 3, "1 file: 1 inconclusive"),
        (["cut_off"], ["--allow-inconclusive"], 0, "1 file: 1 inconclusive"),
        (["no_face"], [], 0, "1 file: 1 not-applicable"),
        (["no_face"], ["--require-face"], 3, "1 file: 1 not-applicable"),
        (["sound"], [], 0, "1 file: 1 not-applicable"),
        (["honest", "cut_off", "forged"], [], 1,
         "3 files: 1 manipulated, 1 no-evidence, 1 inconclusive"),
        (["forged", "junk"], [], 2, "2 files: 1 manipulated, 1 error"),
        (["forged", "junk"], ["--exit-zero"], 0, "2 files: 1 manipulated, 1 error"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value)[:7],
)  # fmt: skip
def test_exit_codes_of_real_files(deepscan_cli, clips, files, args, code, counts):
    ran = deepscan_cli(*(clips[name] for name in files), *args)
    assert ran.code == code
    assert ran.out.splitlines()[-1] == counts
    for name in files:
        assert f"{clips[name]}: " in ran.out


def test_suspicious_is_1_only_if_asked(deepscan_cli, clips, monkeypatch):
    import numpy as np

    from deepscan.engines.engine import Predictions
    from tests import conftest

    def weak(crops):
        empty = np.zeros((len(crops), 8, 8), np.float32)
        return Predictions(np.full(len(crops), 0.97, np.float32), empty)

    monkeypatch.setattr(conftest, "judge_blue", weak)
    ran = deepscan_cli(clips["forged"])
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "1 file: 1 suspicious")
    assert "heads_disagree" in ran.out
    assert deepscan_cli(clips["forged"], "--fail-on", "suspicious").code == 1


def test_results_go_where_out_says(deepscan_cli, clips, tmp_path):
    ran = deepscan_cli(clips["forged"], "--out", tmp_path / "r.mp4")
    assert ran.code == 1
    assert names(tmp_path) == ALL
    for name in ALL:
        assert f"wrote {tmp_path / name}" in ran.out


@pytest.mark.parametrize(
    ("out", "write", "made"),
    [
        ("r", "json", ["r.json"]),
        ("r.json", "json", ["r.json"]),
        ("r.html", "html,json", ["r.html", "r.json"]),
        ("", "frames", ["forged.frames.jsonl"]),
    ],
)
def test_out_and_write(deepscan_cli, clips, tmp_path, out, write, made):
    assert deepscan_cli(clips["forged"], "--out", tmp_path / out, "--write", write).code == 1
    assert names(tmp_path) == made


def test_several_files_go_to_a_folder_and_never_over_each_other(deepscan_cli, clips, tmp_path):
    inputs = [tmp_path / name for name in ("a.mp4", "a-1.mp4", "A.MOV")]
    for path in inputs:
        shutil.copy(clips["honest"], path)
    out = tmp_path / "new" / "folder"
    assert deepscan_cli(*inputs, "--out", out, "--write", "json,video").code == 0
    made = names(out)
    assert len({name.casefold() for name in made}) == 6
    found = {json.loads((out / n).read_text())["input"]["name"] for n in made if n.endswith("json")}
    assert found == {path.name for path in inputs}


def test_an_output_never_is_another_input(deepscan_cli, clips, tmp_path):
    (tmp_path / "x").mkdir()
    inputs = [tmp_path / "x" / "c.mov", tmp_path / "c-1.mp4", tmp_path / "c.mp4"]
    for path in inputs:
        shutil.copy(clips["honest"], path)
    before = [path.read_bytes() for path in inputs]
    ran = deepscan_cli(*inputs, "--out", tmp_path, "--force")
    assert ran.code == 2
    assert "is an input" in ran.err
    assert [path.read_bytes() for path in inputs] == before


def test_the_answer_as_json(deepscan_cli, clips):
    ran = deepscan_cli(clips["forged"], clips["junk"], "--format", "json")
    assert ran.code == 2
    lines = ran.out.splitlines()
    assert len(lines) == 2  # the counts are no record: they go to stderr
    assert ran.err == "2 files: 1 manipulated, 1 error\n"
    folder = Path(deepscan.__file__).parent / "schemas"
    schema = json.loads((folder / "result-1.json").read_text())
    for line, label in zip(lines, ("manipulated", "error"), strict=True):
        record = json.loads(line)
        jsonschema.Draft202012Validator(schema).validate(record)
        assert record["verdict"]["label"] == label


def test_hostile_names_are_written_out(deepscan_cli, clips, tmp_path):
    path = tmp_path / "a\x1b[2J\nb\u202e.mp4"
    shutil.copy(clips["honest"], path)
    for ran in (
        deepscan_cli(path),
        deepscan_cli(tmp_path / "gone\x1b[2J\n.mp4"),
        deepscan_cli(path, path, "--out", path),
        deepscan_cli(path, "--out", tmp_path / "no\x1b[2J\n.mp4" / "r.avi"),
        deepscan_cli("--x\x1b[2J\n"),
    ):
        told = ran.out + ran.err
        assert "\\x1b[2J\\x0a" in told
        assert "\x1b" not in told and "\u202e" not in told
        assert "\n.mp4" not in told


def test_the_way_from_the_command_to_a_score_is_short(deepscan_cli, clips, monkeypatch):
    """What a reader follows: at most eight calls in four files, the engine's own among them."""
    ways = []
    predict = FakeEngine.predict

    def traced(self, crops):
        called = [(Path(each.filename), each.function) for each in inspect.stack()]
        ways.append(called[: called.index((Path(cli.__file__), "scan")) + 1])
        return predict(self, crops)

    monkeypatch.setattr(FakeEngine, "predict", traced)
    assert deepscan_cli(clips["honest"]).code == 0
    package = Path(deepscan.__file__).parent
    calls = [call for call in ways[0] if call[0].is_relative_to(package)]
    assert len(calls) + 1 <= 8, calls
    assert len({path for path, _ in calls}) + 1 <= 4, calls


def test_what_was_done_before_an_error_is_counted(deepscan_cli, clips, monkeypatch):
    real_scan = deepscan.scan.scanner.Scanner

    def build(options):
        scanner = real_scan(options)
        scan, seen = scanner.scan, []

        def once(path, *args, **rest):
            seen.append(path)
            if len(seen) == 2:
                raise OutputError("no space left")
            return scan(path, *args, **rest)

        scanner.scan = once
        return scanner

    monkeypatch.setattr(deepscan.scan.scanner, "Scanner", build)
    ran = deepscan_cli(clips["honest"], clips["forged"], clips["honest"])
    assert ran.code == 2
    assert ran.out.splitlines()[-1] == "1 file: 1 no-evidence"
    assert ran.err == "deepscan: no space left\n"


def test_a_refused_scan_counts_no_files(deepscan_cli, clips, monkeypatch):
    real_scan = deepscan.scan.scanner.Scanner

    def build(options):
        scanner = real_scan(options)
        scanner.scan = lambda *_, **__: parse_name("foo")
        return scanner

    monkeypatch.setattr(deepscan.scan.scanner, "Scanner", build)
    for given in ((), ("--format", "json")):
        ran = deepscan_cli(clips["honest"], *given)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("deepscan: no engine 'foo': give auto or one of onnxruntime, ")
        assert ran.err.count("\n") == 1 and len(ran.err) < 170


def test_debug_shows_where_an_error_came_from(deepscan_cli, clips, monkeypatch):
    def build(options):
        raise EngineError("no device")

    monkeypatch.setattr(deepscan.scan.scanner, "Scanner", build)
    assert deepscan_cli(clips["honest"]).err == "deepscan: no device\n"
    ran = deepscan_cli(clips["honest"], "--debug")
    assert ran.code == 2
    assert "Traceback" in ran.err and ran.err.endswith("deepscan: no device\n")


def test_a_bug_is_not_a_finding(deepscan_cli, clips, monkeypatch):
    def build(options):
        raise RuntimeError("oops")

    monkeypatch.setattr(deepscan.scan.scanner, "Scanner", build)
    ran = deepscan_cli(clips["honest"])
    assert ran.code == 2  # Python's own code for it would be 1, "manipulated"
    assert "oops" in ran.err and "report" in ran.err


def test_a_pipe_that_breaks_inside_is_not_a_finding(deepscan_cli, clips, monkeypatch):
    def build(options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(deepscan.scan.scanner, "Scanner", build)
    assert deepscan_cli(clips["honest"]).code == 2


def test_the_options_reach_the_scan(deepscan_cli, clips):
    ran = deepscan_cli(
        clips["honest"], "--format", "json", "--stride", "3", "--min-face", "33",
        "--min-coverage", "0.7", "--decoder", "pyav",
    )  # fmt: skip
    settings = json.loads(ran.out)["settings"]
    assert (settings["stride"], settings["min_face"]) == (3, 33)
    assert (settings["min_coverage"], settings["decoder"]) == (0.7, "pyav")


def test_every_write_names_a_sink():
    assert {kind for kind, _ in arguments.KINDS.values()} == set(SINKS)


# Archives


@pytest.fixture
def pools(monkeypatch):
    """Fake pools in place of model processes; the last one was given what it says."""
    import deepscan.archive.workers.local
    from tests.archive.fake_pool import FakePool

    made = []

    def build(settings):
        pool = FakePool()
        pool.settings = settings
        made.append(pool)
        return pool

    monkeypatch.setattr(deepscan.archive.workers.local, "LocalPool", build)
    return made


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "archive"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"honest 1")
    (folder / "sub" / "b.mp4").write_bytes(b"fake   2")
    (folder / "twin.mp4").write_bytes(b"fake   2")
    return folder


def test_a_folder_is_an_archive(deepscan_cli, pools, archive, tmp_path):
    out = tmp_path / "out"
    ran = deepscan_cli(archive, "--out", out)
    assert ran.code == 1
    assert ran.out.splitlines() == [
        "sub/b.mp4: manipulated, complete: all was read",
        "twin.mp4: manipulated, complete: all was read, the same content as sub/b.mp4",
        "3 files: 2 manipulated, 1 no-evidence",
    ]
    assert "deepscan: sub/b.mp4: manipulated" in ran.err
    found = {path.name for path in out.glob("sub/*/*")}
    assert found == {"result.json", "result.mp4", "result.masks.mkv", "result.frames.jsonl",
                     "result.html"}  # fmt: skip
    assert {path.name for path in out.glob("a-*/*")} == {"result.json"}
    for name in ("summary.html", "results.csv", "results.jsonl", "results.sarif"):
        assert (out / name).is_file()
    again = deepscan_cli(archive, "--out", out, "--quiet")
    assert (again.code, again.out, again.err) == (1, ran.out, "")
    assert pools[-1].scanned == []


@pytest.mark.parametrize(
    "inputs",
    [["{archive}/*.mp4"], ["@{archive}/list"], ["{archive}/a.mp4", "{archive}/sub"],
     ["{archive}/**/[ab].mp4"]],
    ids=" ".join,
)  # fmt: skip
def test_other_inputs_that_make_an_archive(deepscan_cli, pools, archive, tmp_path, inputs):
    (archive / "list").write_text(f"{archive}/a.mp4\n{archive}/twin.mp4\n")
    inputs = [text.format(archive=archive) for text in inputs]
    ran = deepscan_cli(*inputs, "--out", tmp_path / "out", "--report", "jsonl")
    assert ran.code == 1, ran.err
    assert ran.out.splitlines()[-1] == "2 files: 1 manipulated, 1 no-evidence"
    alone = deepscan_cli(*inputs)
    assert alone.code == 2 and "--out RESULTS" in alone.err


def test_a_list_on_stdin(archive, tmp_path):
    script = (
        "import deepscan.archive.workers.local as local\n"
        "from tests.archive.fake_pool import FakePool\n"
        "local.LocalPool = lambda settings: FakePool()\n"
        "from deepscan.cli.scan import run\n"
        "run()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, "-", "--out", str(tmp_path / "out"), "--report", "jsonl"],
        input=f"{archive}/a.mp4\0", capture_output=True, text=True, cwd=ROOT, timeout=60,
        check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "1 file: 1 no-evidence\n"), ran.stderr


def test_a_results_folder_is_gone_on_with(deepscan_cli, pools, archive, tmp_path):
    out = tmp_path / "out"
    deepscan_cli(archive, "--out", out)
    ran = deepscan_cli(archive / "a.mp4", "--out", out)  # one plain file, but results are there
    # What is not listed now was found all the same, and still decides.
    assert ran.code == 1
    counts = "3 files: 2 manipulated, 1 no-evidence, 2 of them not listed now"
    assert ran.out.splitlines()[-1] == counts
    assert pools[-1].scanned == []


def test_options_of_archives_make_an_archive_of_files(deepscan_cli, pools, archive, tmp_path):
    ran = deepscan_cli(
        archive / "a.mp4", archive / "twin.mp4", "--out", tmp_path / "out", "--jobs", "3",
        "--devices", "cuda:0,cuda:1", "--report", "csv", "--write", "json,frames",
        "--write-found", "none", "--start", "1:30", "--end", "2m", "--budget", "90s",
        "--triage", "--paranoid", "--min-free", "0",
    )  # fmt: skip
    assert ran.code == 1, ran.err
    (pool,) = pools
    assert (pool.settings.jobs, pool.settings.devices) == (3, ("cuda:0", "cuda:1"))
    options = pool.settings.options
    assert (options.start, options.end, options.budget) == (90.0, 120.0, 90.0) and options.triage
    assert pool.tasks[0].write == ("record", "frames") and pool.tasks[0].write_found == ()
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_include_exclude_and_fresh(deepscan_cli, pools, archive, tmp_path):
    out = tmp_path / "out"
    given = (archive, "--out", out, "--report", "jsonl", "--exclude", "twin*", "--include", "*.mp4")
    assert deepscan_cli(*given).out.splitlines()[-1] == "2 files: 1 manipulated, 1 no-evidence"
    deepscan_cli(*given, "--fresh")
    assert len(pools[-1].scanned) == 2


def test_shards_divide_an_archive(deepscan_cli, pools, archive, tmp_path):
    (archive / "link.mp4").symlink_to(archive / "a.mp4")
    seen = []
    for part in (1, 2, 3):
        out = tmp_path / f"out{part}"
        ran = deepscan_cli(archive, "--out", out, "--shard", f"{part}/3", "--format", "json", "-q")
        seen += [json.loads(line)["name"] for line in ran.out.splitlines()]
    assert sorted(seen) == ["a.mp4", "link.mp4", "sub/b.mp4", "twin.mp4"]


def test_a_cluster_is_another_pool(deepscan_cli, archive, tmp_path, monkeypatch):
    import deepscan.archive.workers.ray
    from tests.archive.fake_pool import FakePool

    given = {}

    def build(settings, **wanted):
        given.update(wanted)
        return FakePool()

    monkeypatch.setattr(deepscan.archive.workers.ray, "RayPool", build)
    out = tmp_path / "out"
    ran = deepscan_cli(archive, "--out", out, "--cluster", "ray://head:10001", "--report", "csv")
    assert ran.code == 1
    assert given == {"results": out, "address": "ray://head:10001"}


def test_a_watched_inbox(archive, tmp_path):
    out = tmp_path / "out"
    script = (
        "import deepscan.archive.workers.local as local, deepscan.archive.watch as watch\n"
        "from tests.archive.fake_pool import FakePool\n"
        "local.LocalPool = lambda settings: FakePool()\n"
        "real = watch.watch\n"
        "watch.watch = lambda *a, **k: real(*a, **k, interval=0.1, settled=0.3)\n"
        "from deepscan.cli.scan import run\n"
        "run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, archive, "--out", out, "--watch", "--report", "jsonl"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip

    def wait_for(count):
        deadline = time.monotonic() + 40
        while len(list(out.glob("**/result.json"))) < count:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    try:
        wait_for(2)
        (archive / "late.mp4").write_bytes(b"fake too")
        wait_for(3)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert told.splitlines()[-1] == "4 files: 3 manipulated, 1 no-evidence"
    assert told.count("late.mp4: manipulated") == 1
    # A line now and then, and none for a clean file or for each short run.
    assert errors.count("watching: 0 files: nothing scanned; 3 files waiting") == 1
    assert "engine" not in errors and "a.mp4" not in errors


def test_verbose_tells_of_every_file(deepscan_cli, pools, archive, tmp_path):
    given = (archive, "--report", "jsonl")
    assert "a.mp4" not in deepscan_cli(*given, "--out", tmp_path / "quiet").err
    assert "deepscan: a.mp4: no-evidence" in deepscan_cli(*given, "--out", tmp_path / "v", "-v").err


def test_an_error_and_its_reason_stand_in_one_line(deepscan_cli, pools, archive, tmp_path):
    (archive / "link.mp4").symlink_to("gone.mp4")
    ran = deepscan_cli(archive, "--out", tmp_path / "out", "--report", "csv")
    line = "link.mp4: inconclusive, skipped_symlink: a symbolic link; --follow-links follows it"
    assert line in ran.out.splitlines()


def test_a_finding_without_an_interval_is_told_by_its_reason() -> None:
    reason = Reason("other_stream", "picture stream 2 was judged too: manipulated")
    found = outcome("motion.jpg", label=Label.MANIPULATED, reasons=(reason,))
    told = _file_line(found, accepted=False)
    assert told == f"motion.jpg: manipulated, other_stream: {reason.text}"


def test_a_folder_without_media_is_an_error_unless_it_is_allowed(
    deepscan_cli, pools, archive, tmp_path, caplog
):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").touch()
    out = tmp_path / "out"
    refused = deepscan_cli(tmp_path / "src", "--out", out)
    assert refused.code == 2 and "nothing to scan" in refused.err and "1 .py" in refused.err
    assert "--allow-empty" in refused.err and not out.exists()
    for _ in range(2):
        allowed = deepscan_cli(tmp_path / "src", "--out", out, "--allow-empty")
        assert (allowed.code, allowed.err) == (0, "deepscan: passed over: 1 .py\n")
        assert caplog.messages.pop().startswith("nothing to scan: ")
        assert ElementTree.parse(out / "results.junit.xml").getroot().get("tests") == "0"
        assert {"results.csv", "results.jsonl", "results.sarif"} <= set(names(out))
    assert deepscan_cli(tmp_path / "scr", "--out", tmp_path / "typo", "--allow-empty").code == 2
    assert deepscan_cli(archive, "--out", tmp_path / "found").code == 1
    # What was found there once is not gone because today there is nothing.
    given = (tmp_path / "src", "--out", tmp_path / "found", "--allow-empty")
    for more in ((), ("--fresh",)):
        refused = deepscan_cli(*given, *more)
        assert refused.code == 2 and "scan into a new folder" in refused.err
    # What comes later is scanned as ever.
    shutil.copytree(archive, tmp_path / "src", dirs_exist_ok=True)
    assert deepscan_cli(tmp_path / "src", "--out", out, "--allow-empty").code == 1


def test_an_empty_folder_beside_files_is_said(deepscan_cli, pools, archive, tmp_path, caplog):
    empty = tmp_path / "empty"
    empty.mkdir()
    for _ in range(2):
        assert deepscan_cli(empty, archive / "a.mp4", "--out", tmp_path / "out").code == 0
        assert caplog.messages == [f"{empty} holds no video or picture to scan"]
        caplog.clear()


def test_what_was_passed_over_is_said(deepscan_cli, pools, archive, tmp_path):
    for name in ("notes.txt", "LICENSE", "sub/a.ZIP", "videos.zip", "odd.\u202e\x1b"):
        (archive / name).write_text("x")
    given = (archive, "--out", tmp_path / "out", "--report", "jsonl", "--exclude", "sub")
    told = "passed over: 1 .txt, 1 .zip, 1 without a suffix, 1 with other suffixes, 1 excluded\n"
    assert told in deepscan_cli(*given).err
    assert told in deepscan_cli(*given).err
    assert deepscan_cli(*given, "-q").err == ""


def test_an_archive_as_json(deepscan_cli, pools, archive, tmp_path):
    ran = deepscan_cli(archive, "--out", tmp_path / "out", "--format", "json", "-q")
    found = {line["name"]: line["label"] for line in map(json.loads, ran.out.splitlines())}
    assert found == {"a.mp4": "no-evidence", "sub/b.mp4": "manipulated", "twin.mp4": "manipulated"}


def test_a_baseline_accepts_what_was_reviewed(deepscan_cli, pools, archive, tmp_path):
    import hashlib

    digest = hashlib.sha256((archive / "twin.mp4").read_bytes()).hexdigest()
    baseline = tmp_path / "baseline.toml"
    baseline.write_text(
        'format = "deepscan.baseline/1"\n\n[[accepted]]\nlabel = "manipulated"\n'
        f'sha256 = "{digest}"\nreason = "ours"\nexpires = 2999-01-01\n'
    )
    given = (archive, "--out", tmp_path / "out", "--report", "jsonl")
    ran = deepscan_cli(*given, "--baseline", baseline)
    assert ran.code == 0
    assert ran.out.count("(accepted by the baseline)") == 2
    assert ran.out.endswith("3 files: 2 manipulated, 1 no-evidence (2 accepted by the baseline)\n")
    assert deepscan_cli(*given).code == 1
    baseline.write_text("format = 3")
    assert deepscan_cli(*given, "--baseline", baseline).code == 2


@pytest.mark.parametrize(
    ("value", "count", "code"),
    [("--allow-inconclusive", 2, 0), ("--allow-inconclusive=2", 2, 0),
     ("--allow-inconclusive=1", 2, 3), ("--stride=1", 1, 3), ("--allow-inconclusive=0", 0, 0)],
)  # fmt: skip
def test_so_many_inconclusive_files_are_let_pass(deepscan_cli, clips, value, count, code):
    files = [clips["cut_off"]] * count + [clips["honest"]]
    assert deepscan_cli(value, *files).code == code


@pytest.mark.parametrize(
    "args",
    [
        ("{archive}",),
        ("{archive}", "--out", "{archive}/a.mp4"),
        ("{archive}", "--out", "{archive}"),
        ("{archive}", "--out", "{out}", "--force"),
        ("{archive}", "--out", "{out}", "--write", "poem"),
        ("{archive}", "--out", "{out}", "--write-found", "poem"),
        ("{archive}", "--out", "{out}", "--report", "poem"),
        ("{archive}", "--out", "{out}", "--jobs", "0"),
        ("{archive}/a.mp4", "--out", "{out}", "--watch"),
        ("{archive}", "--out", "{out}", "--cluster", "slurm"),
        ("{archive}", "--out", "{out}", "--shard", "4/3"),
        ("{archive}", "--out", "{out}", "--devices", "toaster"),
        ("{archive}", "--out", "{out}", "--min-free", "much"),
        ("{archive}", "--out", "{out}/a.mp4"),
        ("{archive}", "--out", "{archive}/a.mp4"),
        ("{archive}", "--out", "{out}", "--start", "soon"),
        ("{archive}", "--out", "{out}", "--start", "2", "--end", "1"),
        ("{archive}", "--out", "{out}", "--model", "oracle"),
        ("{archive}", "--out", "{out}", "--engine", "foo"),
        ("{archive}", "--out", "{out}", "--engine", "torch-cpu-fp64", "--watch"),
        ("{archive}", "--out", "{archive}/a.mp4/results", "--watch"),
        ("{archive}", "--out", "{out}", "--trust-list", "{archive}/none.pem"),
        ("{archive}/a.mp4", "--out", "{out}", "--min-free", "much"),
        ("{archive}", "--out", "{out}", "--budget", "1:2m"),
        ("{archive}", "--out", "{out}", "--max-false-alarms", "5"),
        ("{archive}", "--out", "{out}", "--max-false-alarms", "0/1000"),
        ("{archive}", "--out", "{out}", "--allow-inconclusive=few"),
        ("{archive}", "--out", "{out}", "--exclude", "*"),
        ("{archive}/no*such", "--out", "{out}"),
        ("@{archive}/no-list", "--out", "{out}"),
    ],
    ids=lambda args: " ".join(args[1:]) or "alone",
)
def test_wrong_usage_of_archives(deepscan_cli, pools, archive, tmp_path, args):
    out = tmp_path / "out"
    ran = deepscan_cli(*(arg.format(archive=archive, out=out) for arg in args))
    assert ran.code == 2
    assert ran.out == ""
    assert re.fullmatch(r"deepscan: [^\n]+\n", ran.err)
    assert not any(pool.scanned for pool in pools)
    assert sorted(names(archive)) == ["a.mp4", "sub", "twin.mp4"] and not out.exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1:30", 90), ("2m", 120), ("1h", 3600), ("1:00:00.5", 3600.5),
     ("0", 0), ("1.5m", 90)],
)  # fmt: skip
def test_times(text, seconds):
    assert arguments.seconds("--start", text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("512M", 2**29), ("2G", 2**31), ("1.5k", 1536), ("7", 7)]
)
def test_sizes(text, size):
    assert arguments.size_in_bytes("--min-free", text) == size


def test_false_alarms_as_a_rate():
    assert arguments.rate("--max-false-alarms", "5/1000") == 0.005


# In a shell


def test_a_reader_that_leaves_does_not_change_the_code(clips):
    files = [clips["forged"]] * 3
    ran = subprocess.run(
        ["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "-", *with_fakes(*files)],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stdout == f"{clips['forged']}: manipulated\n"
    assert ran.stderr == ""


def test_help_for_a_reader_that_leaves():
    command = f"{sys.executable} -m deepscan --help | true; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0
    assert ran.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_stdout_that_is_full_is_an_error(clips):
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            with_fakes(clips["honest"]),
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60, check=False,
        )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.startswith("deepscan: the answer cannot be written")
    assert ran.stderr.count("\n") == 1


def test_a_terminal_without_unicode(clips):
    ran = subprocess.run(
        with_fakes(clips["forged"]),
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stdout.endswith("1 file: 1 manipulated\n")


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return make_face_clip(path, frames=200, options={"preset": "ultrafast"})


def test_interrupted_in_an_import(tmp_path):
    """Where Python runs a text, as dataclasses do when they are made."""
    (tmp_path / "early.py").write_text(
        "from deepscan.cli import scan\n"
        "scan.app = lambda **_: exec('raise KeyboardInterrupt')\n"
        "scan.run()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "early"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 130, ran.stderr
    assert ran.stderr == "deepscan: interrupted; no half-written file was left\n"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(long_clip, tmp_path, sent):
    out = tmp_path / "out"
    out.mkdir()
    # Writing takes its time, so that the signal finds the second pass at work.
    slow = (
        "import time; from deepscan.sinks.overlay import OverlaySink; real = OverlaySink.write\n"
        "def write(*given): time.sleep(0.02); real(*given)\n"
        "OverlaySink.write = write\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow + FAKES, long_clip, "--out", out / "r.mp4"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        # A shell's job in the background ignores SIGINT, and hands that on.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not names(out):  # the second pass has begun to write
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(sent)
        told, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    # A machine that takes over ten seconds has told of its progress before.
    assert errors.splitlines(True)[-1] == "deepscan: interrupted; no half-written file was left\n"
    assert told == "0 files: nothing scanned\n"
    assert names(out) == []


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals on this system")
def test_progress_is_shown_on_a_terminal_and_taken_away(clips, tmp_path):
    path = tmp_path / "a\x1b[2Jb.mp4"
    shutil.copy(clips["honest"], path)
    ours, theirs = os.openpty()
    try:
        ran = subprocess.run(
            with_fakes(path, "--out", tmp_path / "r.mp4"),
            stdout=subprocess.PIPE, stderr=theirs, text=True, cwd=ROOT, timeout=60, check=False,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )  # fmt: skip
        os.set_blocking(ours, False)
        shown = os.read(ours, 2**20).decode(errors="replace")  # it may end within a character
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == 0, shown
    assert "analysing" in shown and "frames/s" in shown
    assert "Traceback" not in shown
    assert "a\\x1b[2Jb.mp4" in shown and "a\x1b[2J" not in shown
    first, *_, last = ran.stdout.splitlines()
    assert first.endswith("b.mp4: no-evidence") and last == "1 file: 1 no-evidence"
    assert "no-evidence" not in shown


def test_a_line_every_ten_seconds_without_a_terminal(capsys, monkeypatch):
    from deepscan.cli import file_progress

    now = 100.0
    monkeypatch.setattr(file_progress.time, "monotonic", lambda: now)
    with file_progress.open_progress(sys.stderr, quiet=False) as shown:
        tell = shown.of(Path("a\x1b[2J.mp4"))
        for frame in range(751):
            now = 100 + frame / 30
            tell("analysing", frame, frame / 25, 60.0)
        for frame in range(1, 81):
            now += 0.125
            tell("writing", frame, frame / 25, None)
    assert capsys.readouterr().err.splitlines() == [
        "deepscan: a\\x1b[2J.mp4: analysing, 300 frames, 30.0 frames/s, 40 s left",
        "deepscan: a\\x1b[2J.mp4: analysing, 600 frames, 30.0 frames/s, 30 s left",
        "deepscan: a\\x1b[2J.mp4: writing, 40 frames, 8.0 frames/s",
    ]
    with file_progress.open_progress(sys.stderr, quiet=False) as shown:
        tell = shown.of(Path("a.mp4"))
        now += 60
        tell("analysing", 1, 0.04, None)
    assert capsys.readouterr().err == "deepscan: a.mp4: analysing, 1 frame\n"
    with file_progress.open_progress(sys.stderr, quiet=True) as shown:
        tell = shown.of(Path("a.mp4"))
        now += 60
        tell("analysing", 1, 1.0, 60.0)
    assert capsys.readouterr().err == ""


def test_a_second_reading_is_timed_anew(capsys, monkeypatch):
    """A triage looks closely at what the coarse pass left open."""
    from deepscan.cli import file_progress

    now = 0.0
    monkeypatch.setattr(file_progress.time, "monotonic", lambda: now)
    tell = file_progress.open_progress(sys.stderr, quiet=False).of(Path("a.mp4"))
    for frames, at in ((1, 0.0), (90, 9.0), (1, 9.0), (21, 11.0)):
        now = at
        tell("analysing", frames, frames / 10, 10.0)
    assert capsys.readouterr().err == (
        "deepscan: a.mp4: analysing, 21 frames, 10.0 frames/s, 8 s left\n"
    )


def test_a_broken_installation_is_no_finding(tmp_path):
    (tmp_path / "typer").mkdir()
    (tmp_path / "typer" / "__init__.py").write_text("raise ImportError('half of it is missing')\n")
    ended = subprocess.run(
        [sys.executable, "-m", "deepscan", "--version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and "install it again" in ended.stderr
