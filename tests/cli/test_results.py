"""The commands over results: what they print, and their exit codes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from deepscan.archive.journal import Journal
from deepscan.cli import results as archive_cli
from deepscan.sinks.record import record_of, write_record
from deepscan.types import Label
from tests.archive.made import RUN, outcome
from tests.sinks import build

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
archive_cli.register(app)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def folder(path, *outcomes, run=RUN, finished=True):
    path.mkdir()
    with Journal(path) as journal:
        journal.begin(run)
        for each in outcomes:
            journal.done(replace(each, folder=None))
        journal.ended(finished=finished, exit_code=0)
    return path


@pytest.mark.parametrize("command", ["diff", "verify", "merge", "report", "journal"])
def test_every_command_tells_what_it_does(command):
    told = run(command, "--help")
    assert told.exit_code == 0
    assert "Usage" in told.output and len(told.output.splitlines()) > 5
    if command in ("diff", "verify", "merge"):
        assert "Exit codes" in told.output


def test_diff(tmp_path):
    old = folder(tmp_path / "old", outcome("a.mp4", score=0.2))
    new = folder(tmp_path / "new", outcome("a.mp4", label=Label.MANIPULATED, score=0.9))
    same = run("diff", old, old)
    assert (same.exit_code, same.stdout) == (0, "no verdict changed, of 1\n")
    moved = run("diff", old, new)
    assert moved.exit_code == 1 and "no-evidence -> manipulated" in moved.stdout
    values = json.loads(run("diff", old, new, "--format", "json").stdout)
    assert values["moved"] == 1
    assert run("diff", old, tmp_path / "nowhere").exit_code == 2
    assert run("diff", old, new, "--format", "xml").exit_code == 2


def test_verify(tmp_path):
    write_record(tmp_path / "result.json", record_of(build.scan()))
    found = run("verify", tmp_path / "result.json", "--frames", 0)
    assert found.exit_code == 2  # the clip never was
    assert "not checked" in found.stdout
    assert "4 checks: 3 ok, 0 differ, 1 could not" in found.stdout.splitlines()[-1]
    quiet = run("verify", tmp_path / "result.json", "--frames", 0, "-q")
    assert len(quiet.stdout.splitlines()) == 2
    (tmp_path / "clip.mp4").write_bytes(b"another")
    other = run("verify", tmp_path / "result.json", "--input", tmp_path / "clip.mp4",
                "--format", "json")  # fmt: skip
    assert other.exit_code == 1 and json.loads(other.stdout)["state"] == "differs"
    assert run("verify", tmp_path / "nowhere.json").exit_code == 2


@pytest.mark.parametrize(
    "named",
    ["r.json", "r.mp4", "r.masks.mkv", "r.frames.jsonl", "r.html", "r", ""],
)
def test_verify_finds_the_record_that_is_meant(tmp_path, named):
    write_record(tmp_path / "r.json", record_of(build.scan()))
    for name in ("r.mp4", "r.masks.mkv", "r.frames.jsonl", "r.html"):
        (tmp_path / name).touch()
    found = run("verify", tmp_path / named, "--frames", 0)
    assert found.exit_code == 2  # the clip never was
    assert "the record has the shape of deepscan.result/1" in found.stdout


def test_verify_says_what_it_cannot_find(tmp_path):
    for name in ("nowhere", "nowhere.mp4"):
        missing = run("verify", tmp_path / name)
        assert missing.exit_code == 2
        assert f"there is no record {tmp_path / 'nowhere.json'}" in missing.stderr
    for name in ("a.json", "b.json"):
        write_record(tmp_path / name, record_of(build.scan()))
    several = run("verify", tmp_path)
    assert several.exit_code == 2 and "holds 2 records: name one" in several.stderr


def test_merge_answers_like_a_scan(tmp_path):
    one = folder(tmp_path / "1", outcome("a.mp4"), run=replace(RUN, shard=(1, 2)))
    two = folder(
        tmp_path / "2", outcome("b.mp4", "c2", label=Label.MANIPULATED),
        run=replace(RUN, shard=(2, 2)),
    )  # fmt: skip
    merged = run("merge", tmp_path / "all", one, two, "--report", "csv,jsonl")
    assert (merged.exit_code, merged.stdout) == (1, "2 files: 1 manipulated, 1 no-evidence\n")
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert names == {"journal.jsonl", "results.csv", "results.jsonl"}
    none = run("merge", tmp_path / "zero", one, two, "--report", "none", "--exit-zero")
    assert none.exit_code == 0
    half = run("merge", tmp_path / "half", two, "--report", "none", "--format", "json")
    assert half.exit_code == 2 and "shard 1/2" in half.stderr
    assert json.loads(half.stdout)["missing"]
    assert run("merge", tmp_path / "all", one).exit_code == 2
    assert run("merge", tmp_path / "x", one, "--report", "pdf").exit_code == 2
    assert not (tmp_path / "x").exists()
    assert run("merge", tmp_path / "x", one, "--fail-on", "all").exit_code == 2


def test_a_baseline_is_written_and_reaches_every_report(tmp_path):
    sha256 = "5" * 64
    results = folder(tmp_path / "1", outcome("a.mp4", sha256, label=Label.MANIPULATED))
    given = ("baseline", results, tmp_path / "b.toml", "--reason", "our own test clip")
    assert run(*given, "--until", "someday").exit_code == 2
    assert "2020-01-01 has passed" in run(*given, "--until", "2020-01-01").stderr
    assert not (tmp_path / "b.toml").exists()
    made = run(*given, "--until", "2999-12-31", "--reviewer", "A. Reviewer")
    assert (made.exit_code, "1 accepted until 2999-12-31" in made.stdout) == (0, True)
    assert run(*given, "--until", "2999-12-31").exit_code == 2  # it is there already
    asked = ("--report", "html,csv,sarif,junit", "--baseline", tmp_path / "b.toml")
    assert run("report", results, *asked).exit_code == 0
    assert "our own test clip" in (results / "summary.html").read_text()
    assert "2999-12-31,our own test clip" in (results / "results.csv").read_text()
    assert 'failures="0"' in (results / "results.junit.xml").read_text()
    (found,) = json.loads((results / "results.sarif").read_text())["runs"][0]["results"]
    assert found["baselineState"] == "unchanged"
    assert found["suppressions"][0]["justification"].startswith("our own test clip")
    merged = run("merge", tmp_path / "all", results, *asked)
    assert merged.exit_code == 0


def test_report(tmp_path):
    results = folder(tmp_path / "1", outcome("a.mp4"), outcome("b.mp4", "c2"))
    made = run("report", results, "--report", "csv,html")
    assert made.exit_code == 0
    assert [line.rpartition("/")[2] for line in made.stdout.splitlines()] == [
        "results.csv",
        "summary.html",
    ]
    first = (results / "results.csv").read_bytes()
    (results / "results.csv").unlink()
    run("report", results, "--report", "csv")
    assert (results / "results.csv").read_bytes() == first
    assert run("report", tmp_path, "--report", "csv").exit_code == 2
    assert run("report", results, "--report", ",").exit_code == 2


def test_a_folder_that_is_no_results_folder_is_named(tmp_path):
    told = run("report", tmp_path)
    assert told.exit_code == 2
    assert f"{tmp_path} is no results folder: it holds no journal.jsonl" in told.stderr


def test_journal_show_and_repair(tmp_path):
    results = folder(
        tmp_path / "1", outcome("a.mp4"), outcome("b.mp4", "c2", label=Label.ERROR),
        run=replace(RUN, controls=(("clean-1", 0.2),), controls_passed=True, shard=(2, 3)),
    )  # fmt: skip
    told = run("journal", "show", results)
    assert told.exit_code == 0
    assert "2 files: 1 no-evidence, 1 error" in told.stdout
    assert "shard 2/3" in told.stdout and "1 known crops: passed" in told.stdout
    values = json.loads(run("journal", "show", results, "--format", "json").stdout)
    assert values["labels"] == {"error": 1, "no-evidence": 1} and values["finished"]

    whole = run("journal", "repair", results)
    assert (whole.exit_code, whole.stdout) == (0, "4 lines, none of them lost\n")
    path = results / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + b"".join(lines[2:]))
    damaged = run("journal", "show", results)
    assert damaged.exit_code == 2 and "journal repair" in damaged.stderr
    mended = run("journal", "repair", results)
    assert mended.exit_code == 0 and mended.stdout.startswith("3 lines kept, 1 lost")
    assert "1 error" in run("journal", "show", results).stdout
    assert run("journal", "show", tmp_path).exit_code == 2


def test_debug_shows_where_an_error_comes_from(tmp_path, capsys):
    failed = run("diff", tmp_path / "a", tmp_path / "b", "--debug")
    assert failed.exit_code == 2 and "Traceback" in failed.stderr
