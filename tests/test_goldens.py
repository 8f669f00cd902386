"""The outward behaviour agrees with the goldens; see tests/goldens/__init__.py for their rule.

`python -m tests.goldens` writes them anew; in a commit that names the field that changes and the
issue that wants it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import typer

import deepscan
from tests import goldens

# What each command is given so that it ends in an error at once, whatever the option says.
_ENDS = {
    "scan": ("missing.mp4", "--out", "result.txt"),  # no name for a verdict video
    "scan --write-found": ("missing.mp4",),  # an archive without --out
    "report": ("missing",),
    "merge": ("out", "missing"),
    "diff": ("missing.json", "missing.json"),
    "verify": ("missing.json",),
    "journal show": ("missing",),
}


def same(golden, found):
    """Fails with a line for each difference."""
    found = json.loads(json.dumps(found))
    assert list(goldens.differences(golden, found)) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The small files. The scans write beside them."""
    made = tmp_path_factory.mktemp("goldens")
    goldens.make_files(made)
    return made


@pytest.fixture(scope="module")
def archive(folder):
    """What the scan of an archive showed, and its journal as it is."""
    shown = goldens.journal(folder)
    return shown, goldens.lines_of(folder / "results" / "journal.jsonl")


@pytest.fixture
def old(tmp_path):
    """A copy of the results folder that version 0.1.0 wrote."""
    return Path(shutil.copytree(goldens.OLD, tmp_path / "old"))


def test_the_comparison_sees_what_changes():
    golden = goldens.read("records.json")["files"]["forged.mp4"]
    for change, seen in (
        (lambda record, face: record["verdict"].update(label="suspicious"), ".label was"),
        (lambda record, face: record["verdict"]["reasons"][0].update(code="other"), ".code was"),
        (lambda record, face: record.pop("coverage"), ".coverage is gone"),
        (lambda record, face: record.update(more=None), ".more is new"),
        (lambda record, face: record["coverage"].update(faces=9), ".faces was"),
        (lambda record, face: face.update(p_manipulated=face["p_manipulated"] - 2e-3), "manip"),
        (lambda record, face: face.update(p_manipulated=face["p_manipulated"] - 1e-5), None),
        (lambda record, face: face["box"].append(1.0), ".box was"),
    ):
        found = json.loads(json.dumps(golden))
        change(found["record"], found["frames"][1]["faces"][0])
        differences = list(goldens.differences({"files": golden}, {"files": found}))
        assert len(differences) == (0 if seen is None else 1), differences
        assert seen is None or seen in differences[0]


# Names


def test_commands_and_options():
    same(goldens.read("options.json"), goldens.options())


@pytest.mark.parametrize("option", goldens.read("choices.json"))
def test_choices(option, monkeypatch, tmp_path, capsys):
    """A choice is taken: the error that follows is about something else. Others are refused."""
    monkeypatch.chdir(tmp_path)
    command, flag = option.rsplit(" ", 1)
    program = typer.main.get_command(goldens.inner().app)

    def refused(value):
        ends = _ENDS.get(option, _ENDS.get(command))
        args = [*command.split(), *ends, flag, value]
        capsys.readouterr()
        assert program.main(args, prog_name="deepscan", standalone_mode=False) == 2
        told = capsys.readouterr().err
        assert told.startswith("deepscan: ")
        return f"{flag} {value}" in told

    assert refused("nonsense")
    assert [value for value in goldens.read("choices.json")[option] if refused(value)] == []


def test_public_names():
    assert deepscan.__all__ == goldens.read("public.json")


# Results


def test_records_of_six_files(folder):
    same(goldens.read("records.json"), goldens.records(folder))


def test_the_journal_of_an_archive(archive):
    same(goldens.read("journal.json"), archive[0])


def test_the_hash_of_the_default_settings(archive):
    """Another hash would have every archive scanned anew."""
    assert goldens.settings_hash() == goldens.read("settings_hash.json")
    run = archive[1][0]["run"]
    assert run["decides"] == goldens.inner().settings_hash(
        deepscan.ScanOptions(),
        run["model_sha256"],
        run["engine"],
        run["versions"],
        calibration=run["calibration"],
    )
    outcomes = [line["outcome"] for line in archive[1] if line["kind"] == "done"]
    assert len(outcomes) == len(goldens.THREE)
    for outcome in outcomes:
        said = json.dumps([outcome["sha256"], run["decides"]], separators=(",", ":"))
        assert outcome["key"] == hashlib.sha256(said.encode()).hexdigest()


# Results of an earlier version: a decoder and engines that are gone, lines that nobody writes now


def test_the_old_journal_is_read(old):
    ran = goldens.command("journal", "show", old, "--format", "json", folder=old.parent)
    shown = json.loads(ran.out)
    assert ran.code == 0
    assert shown["labels"] == {"manipulated": 1, "no-evidence": 1}
    assert (shown["files"], shown["superseded"]) == (2, 1)
    assert shown["unfinished"] == ["long.mp4"] and shown["finished"] is False
    assert shown["run"]["engine"] == "openvino-cpu-int8"
    assert ["decoder", "nvdec"] in shown["run"]["settings"]

    before = (old / "journal.jsonl").read_bytes()
    ran = goldens.command("journal", "repair", old, folder=old.parent)
    assert (ran.code, ran.out) == (0, "18 lines, none of them lost\n")
    assert (old / "journal.jsonl").read_bytes() == before


def test_reports_are_written_from_old_results(old):
    before = {path.name for path in old.iterdir()}
    reports = ",".join(goldens.read("choices.json")["report --report"][:-1])
    ran = goldens.command("report", old, "--report", reports, folder=old.parent)
    assert ran.code == 0, ran.err
    assert {path.name for path in old.iterdir()} - before == {
        "summary.html", "results.csv", "results.jsonl", "results.sarif", "results.junit.xml",
        "results.sqlite", "results.parquet",
    }  # fmt: skip
    told = goldens.lines_of(old / "results.jsonl")
    engines = {"tensorrt-cuda0-fp16", "openvino-cpu-int8"}
    assert engines <= {each.get("engine") for each in told}


def test_old_records_are_compared(old):
    nvdec, int8 = (next(old.glob(f"{name}-*/result.json")) for name in ("nvdec", "int8"))
    ran = goldens.command("diff", nvdec, int8, "--format", "json", folder=old.parent)
    assert ran.code == 1, ran.err
    (move,) = json.loads(ran.out)["moves"]
    causes = {(each["cause"], each["old"], each["new"]) for each in move["changes"]}
    assert ("decoder", "nvdec", "decord") in causes
    assert ("engine", "tensorrt-cuda0-fp16", "openvino-cpu-int8") in causes


def test_old_results_are_checked_without_their_inputs(old):
    """Shapes and hashes are right, and nothing differs: the inputs alone are missing."""
    ran = goldens.command("verify", old, "--frames", 0, "--format", "json", folder=old.parent)
    assert ran.code == 2, ran.err
    checks = json.loads(ran.out)["checks"]
    assert {each["state"] for each in checks} == {"ok", "unchecked"}
    assert [each["what"] for each in checks if each["state"] == "unchecked"] == [
        "finished", "input int8.mp4", "input nvdec.mp4",
    ]  # fmt: skip
