"""Reports over a results folder: whole or absent, always the same, safe whatever a name holds."""

from __future__ import annotations

import base64
import csv
import errno
import gzip
import io
import json
import os
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepscan.archive.records import Accepted, Baseline, Outcome, OutputFile, Results, Run
from deepscan.archive.reports import REPORTS, load_report, sarif
from deepscan.archive.reports import csv as csv_report
from deepscan.archive.reports.csv import COLUMNS, write_csv
from deepscan.archive.reports.jsonl import line_of, write_jsonl
from deepscan.archive.reports.junit import write_junit
from deepscan.archive.reports.parquet import write_parquet
from deepscan.archive.reports.sarif import write_sarif
from deepscan.archive.reports.sqlite import write_sqlite
from deepscan.errors import OutputError, UsageError
from deepscan.sinks.record import name_bytes
from deepscan.types import Interval, Label, Reason

RUN = Run(
    id="20260102T030405Z-7f3a",
    started="2026-01-02T03:04:05Z",
    command=("deepscan", "clips", "--out", "results"),
    version="0.1.0",
    model="msccnet-s",
    model_sha256="ab" * 32,
    engine="torch-cpu-fp32",
    calibration="clips-1",
    operating_point=0.912,
    false_alarm_rate=0.01,
    settings=(("decoder", "auto"), ("stride", 1), ("budget", None)),
    versions=(("deepscan", "0.1.0"), ("python", "3.11")),
    settings_hash="cd" * 32,
    controls=(("known-clean", 0.02), ("known-manipulated", 0.98)),
    controls_passed=True,
)
REASONS = {
    Label.MANIPULATED: Reason("over_operating_point", "1 interval above the operating point"),
    Label.SUSPICIOUS: Reason("over_review_point", "1 interval above the review point only"),
    Label.NO_EVIDENCE: Reason("complete", "nothing above the review point"),
    Label.INCONCLUSIVE: Reason("low_coverage", "only 1 of 9 face sightings were judged"),
    Label.NOT_APPLICABLE: Reason("no_face", "no face was found in any frame"),
    Label.ERROR: Reason("corrupt", "nothing in the file can be decoded"),
}
HIDDEN = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f]")

# Whatever a file system takes, and more: controls, bidirectional marks, bytes that are no UTF-8,
# beginnings of formulas, the letters that HTML, XML and CSV are made of.
NASTY = st.one_of(
    st.text(st.characters(exclude_characters="\x00/"), min_size=1, max_size=30),
    st.text(st.sampled_from("<>&\"'=+-@;,{}\\\t\r\n\x1b\x7f\x85\u2028\u202e\ufeff\uffff\udc80\ud800＝a"),
            min_size=1, max_size=12),
    st.sampled_from(["]]>", "<!--", "</script>", "<script>alert(1)</script>", "=1+1", "{{7*7}}"]),
)  # fmt: skip


def outcome(label: Label = Label.NO_EVIDENCE, name: str = "", **changes: Any) -> Outcome:
    """What a scan could have said about a file."""
    name = name or f"clips/{label}.mp4"
    found = label in (Label.MANIPULATED, Label.SUSPICIOUS)
    judged = label not in (Label.NOT_APPLICABLE, Label.ERROR)
    made = Outcome(
        name=name,
        path=f"/archive/{name}",
        label=label,
        reasons=(REASONS[label],),
        key="ef" * 32,
        sha256=None if label is Label.ERROR else f"{list(Label).index(label):064x}",
        size=1_234,
        score=(0.97 if found else 0.12) if judged else None,
        intervals=(Interval(1.0, 2.5, 0, 0.97, 5.1, label),) if found else (),
        tracks=int(judged),
        frames=100,
        seconds=4.0,
        judged=0.9 if judged else None,
        engine="torch-cpu-fp32",
        decoder="pyav",
        folder=f"files/{name}",
        outputs=(OutputFile("record", f"files/{name}/result.json", "12" * 32, 99),),
        started="2026-01-02T03:04:06Z",
        took=0.5,
    )
    return replace(made, **changes)


def results(folder: Path, *outcomes: Outcome, **changes: Any) -> Results:
    """A finished folder; one file of each label unless outcomes are given."""
    outcomes = outcomes or tuple(map(outcome, Label))
    made = Results(folder, RUN, tuple(sorted(outcomes, key=lambda each: each.name)))
    return replace(made, **changes)


def named(*names: str) -> tuple[Outcome, ...]:
    """Outcomes of all labels with those names, which also stand in what else is text."""
    labels = list(Label)
    return tuple(
        outcome(
            labels[place % len(labels)],
            name,
            reasons=(Reason("partial", f"not read: {name}"),),
            provenance=name,
            same_as=name,
        )
        for place, name in enumerate(names)
    )


# All of them


@pytest.mark.parametrize("kind", REPORTS)
@pytest.mark.parametrize("outcomes", [None, ()], ids=["six files", "no file"])
def test_a_report_is_whole_and_the_same_every_time(
    kind: str, outcomes: tuple[Outcome, ...] | None, tmp_path: Path
) -> None:
    file, write = load_report(kind)
    made = results(tmp_path)
    if outcomes is not None:
        made = replace(made, outcomes=outcomes)
    write(made, tmp_path / file)
    first = (tmp_path / file).read_bytes()
    write(made, tmp_path / file)

    assert first or (kind == "jsonl" and not made.outcomes)
    assert (tmp_path / file).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_that_cannot_be_written_says_where(kind: str, tmp_path: Path) -> None:
    file, write = load_report(kind)
    with pytest.raises(OutputError, match=file):
        write(results(tmp_path), tmp_path / "gone" / file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", REPORTS)
def test_a_full_disk_leaves_the_old_report(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file, write = load_report(kind)
    (tmp_path / file).write_text("the old one")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write(results(tmp_path), tmp_path / file)
    assert (tmp_path / file).read_text() == "the old one"
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "sarif", "junit", "html"])
@given(names=st.lists(NASTY, min_size=1, max_size=7, unique=True))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_text_report_holds_what_hides_or_moves_text(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    file, write = load_report(kind)
    write(results(tmp_path, *named(*names)), tmp_path / file)
    text = (tmp_path / file).read_bytes().decode("utf-8")
    assert HIDDEN.findall(text) == []


# CSV


@given(names=st.lists(NASTY, min_size=1, max_size=7, unique=True))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_csv_has_no_formula_and_no_broken_line(names: list[str], tmp_path: Path) -> None:
    write_csv(results(tmp_path, *named(*names)), tmp_path / "r.csv")
    text = (tmp_path / "r.csv").read_bytes().decode("utf-8")
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)

    assert tuple(header) == COLUMNS
    assert len(rows) == len(names)
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert text.count("\r\n") == len(rows) + 1
    assert "\n" not in text.replace("\r\n", "")
    cells = [each for row in rows for each in row]
    assert [each for each in cells if each.lstrip().startswith(("=", "+", "-", "@", "＝"))] == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"),
        (" @SUM(A1)", "' @SUM(A1)"),
        ("'quoted", "''quoted"),
        ("a=b", "a=b"),
        (-0.5, "-0.5"),
        (None, ""),
        (1_234_567, "1234567"),
    ],
)
def test_csv_cells(value: Any, shown: str) -> None:
    assert csv_report.cell(value) == shown


def test_csv_says_what_was_found(tmp_path: Path) -> None:
    write_csv(results(tmp_path), tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(Label)
    found = rows["manipulated"]
    assert (found["score"], found["stretches"]) == ("0.97", "1")
    assert (found["first_start"], found["last_end"]) == ("1", "2.5")
    assert rows["error"]["score"] == rows["error"]["sha256"] == ""
    assert rows["error"]["reason_codes"] == "corrupt"


# JSON Lines


@given(name=NASTY)
def test_a_line_of_json_is_canonical_and_keeps_the_name(name: str) -> None:
    line = line_of(outcome(name=name))
    values = json.loads(line)
    assert line.isascii() and line.isprintable()
    assert line == json.dumps(values, sort_keys=True, separators=(",", ":"))
    raw = name_bytes(name)
    if "name_b64" in values:
        assert base64.b64decode(values["name_b64"]) == raw
    else:
        assert values["name"] == name


def test_a_line_of_json_refuses_nan() -> None:
    with pytest.raises(OutputError, match="NaN"):
        line_of(outcome(score=float("nan")))


def test_json_lines_can_be_read_back(tmp_path: Path) -> None:
    made = results(tmp_path)
    write_jsonl(made, tmp_path / "r.jsonl")
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    read = tuple(Outcome.from_json(json.loads(line)) for line in lines)
    assert read == made.outcomes


# SARIF


@pytest.fixture(scope="module")
def check_sarif() -> Callable[[dict[str, Any]], None]:
    """The schema that OASIS publishes for SARIF 2.1.0, as it is."""
    source = Path(__file__).with_name("sarif-schema-2.1.0.json").read_text(encoding="utf-8")
    validator = jsonschema.Draft4Validator(json.loads(source))

    def check(log: dict[str, Any]) -> None:
        validator.validate(log)

    return check


def sarif_of(made: Results, **given_: Any) -> dict[str, Any]:
    path = made.folder / "results.sarif"
    baseline = given_.pop("baseline", None)
    write_sarif(replace(made, baseline=baseline), path, **given_)
    log: dict[str, Any] = json.loads(path.read_text())
    return log


@given(names=st.lists(NASTY, min_size=1, max_size=7, unique=True))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_sarif_follows_the_official_schema(
    names: list[str], tmp_path: Path, check_sarif: Callable[[dict[str, Any]], None]
) -> None:
    made = results(tmp_path, *map(outcome, Label), *named(*names))
    accepted = Baseline({("0" * 64, Label.MANIPULATED): accept(Label.MANIPULATED)})
    check_sarif(sarif_of(made))
    check_sarif(sarif_of(made, baseline=accepted, today=date(2026, 1, 1)))
    check_sarif(sarif_of(replace(made, outcomes=(), finished=False)))


def test_sarif_kinds_levels_and_places(tmp_path: Path) -> None:
    odd = "ä b/c:d#%\udc80.mp4"
    made = results(tmp_path, *map(outcome, Label), outcome(Label.SUSPICIOUS, odd))
    log = sarif_of(made, root=Path("/archive"))
    (run,) = log["runs"]
    told = {each["ruleId"]: (each["kind"], each["level"]) for each in run["results"]}
    assert told == {
        "manipulated": ("fail", "error"),
        "suspicious": ("review", "none"),
        "inconclusive": ("open", "none"),
    }
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for each in run["results"]:
        assert rules[each["ruleIndex"]] == each["ruleId"]
        assert each["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}
        assert "baselineState" not in each
    places = uris(log)
    assert places[0] == "clips/manipulated.mp4"  # the gravest first
    assert name_bytes(odd) in map(unquote_to_bytes, places)
    assert all(re.fullmatch(r"[A-Za-z0-9/._~%-]+", place) for place in places)
    assert run["properties"]["files"] == 7  # what GitHub would show as alerts is only counted
    assert run["properties"]["labels"] == {
        **dict.fromkeys(map(str, Label), 1), "suspicious": 2,
    }  # fmt: skip

    invocation = run["invocations"][0]
    (note,) = invocation["toolExecutionNotifications"]
    assert note["level"] == "error"
    assert note["descriptor"]["id"] == "corrupt"
    assert invocation["executionSuccessful"] is False


def uris(log: dict[str, Any]) -> list[str]:
    return [
        each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for each in log["runs"][0]["results"]
    ]


def test_sarif_places_are_those_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was scanned: GitHub finds a file by its path from the top of the repository."""
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    work = tmp_path / "repository" / "media" / "in"
    work.mkdir(parents=True)
    (tmp_path / "plain").mkdir()

    def place(path: Path | str, **given_: Any) -> dict[str, str]:
        found = outcome(Label.MANIPULATED, "a.mp4", path=str(path))
        (run,) = sarif_of(results(tmp_path, found), **given_)["runs"]
        place: dict[str, str] = run["results"][0]["locations"][0]["physicalLocation"][
            "artifactLocation"
        ]
        return place

    inside = {"uri": "media/in/a%20b.mp4", "uriBaseId": "%SRCROOT%"}
    for folder in (work, work.parent, tmp_path / "repository"):
        monkeypatch.chdir(folder)
        assert place(work / "a b.mp4") == inside
    assert place(tmp_path / "a b.mp4") == {"uri": f"file://{tmp_path}/a%20b.mp4"}
    assert place("s3://bucket/a b.mp4") == {"uri": "s3://bucket/a%20b.mp4"}
    assert place(work / "a.mp4", root=work)["uri"] == "a.mp4"
    (tmp_path / "link").symlink_to(work)
    assert place(work / "a.mp4", root=tmp_path / "link")["uri"] == "a.mp4"
    (tmp_path / "repository" / ".git").rmdir()
    (tmp_path / "repository" / ".git").write_text("gitdir: elsewhere")  # a second worktree
    assert place(work / "a b.mp4") == inside
    monkeypatch.chdir(tmp_path / "plain")
    assert place(tmp_path / "plain" / "a.mp4")["uri"] == "a.mp4"


def test_sarif_categories_are_of_each_part_and_upload(tmp_path: Path) -> None:
    def category(**changes: Any) -> str:
        given_ = {"category": changes.pop("category", "")}
        made = results(tmp_path, outcome(), run=replace(RUN, **changes))
        found: str = sarif_of(made, **given_)["runs"][0]["automationDetails"]["id"]
        return found

    assert category() == "deepscan/"
    assert category(category="linux-3.12") == "linux-3.12/deepscan/"
    assert category(category="a", shard=(2, 5)) == "a/deepscan/shard-2-of-5/"


@pytest.mark.parametrize(
    ("finished", "passed", "fine"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_sarif_says_whether_the_run_is_good(
    finished: bool, passed: bool, fine: bool, tmp_path: Path
) -> None:
    run = replace(RUN, controls_passed=passed)
    log = sarif_of(results(tmp_path, outcome(), finished=finished, run=run))
    invocation = log["runs"][0]["invocations"][0]
    assert invocation["executionSuccessful"] is fine
    assert len(invocation["toolExecutionNotifications"]) == (not fine)


def test_sarif_fingerprints_hang_on_content_not_on_names(tmp_path: Path) -> None:
    def prints(*outcomes: Outcome) -> list[str]:
        found = sarif_of(results(tmp_path, *outcomes))["runs"][0]["results"]
        return [each["partialFingerprints"]["primaryLocationLineHash"] for each in found]

    def found(name: str, **changes: Any) -> Outcome:
        return outcome(Label.MANIPULATED, name, **changes)

    once = prints(found("a.mp4"))
    assert prints(found("elsewhere/b.mp4")) == once
    assert prints(found("a.mp4", sha256="9" * 64)) != once
    assert prints(outcome(Label.SUSPICIOUS, "a.mp4", sha256=found("a").sha256)) != once
    assert prints(found("a.mp4", took=9.0, score=0.2)) == once
    twins = prints(found("a.mp4"), found("b.mp4"))
    assert len(set(twins)) == 2 and once[0] in twins


def accept(label: Label, expires: date = date(2026, 6, 30)) -> Accepted:
    return Accepted("0" * 64, label, "our own test clip", expires)


@pytest.mark.parametrize(
    ("label", "today", "state"),
    [
        (Label.MANIPULATED, date(2026, 6, 30), "unchanged"),
        (Label.MANIPULATED, date(2026, 7, 1), "new"),
        (Label.SUSPICIOUS, date(2026, 6, 30), "updated"),
    ],
)
def test_sarif_baseline_state(label: Label, today: date, state: str, tmp_path: Path) -> None:
    baseline = Baseline({("0" * 64, label): accept(label)})
    made = results(tmp_path, outcome(Label.MANIPULATED), outcome(Label.INCONCLUSIVE))
    found = sarif_of(made, baseline=baseline, today=today)["runs"][0]["results"]
    assert [each["baselineState"] for each in found] == [state, "new"]
    assert ("suppressions" in found[0]) == (state == "unchanged")
    assert "suppressions" not in found[1]


def test_sarif_is_split_where_github_would_refuse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_sarif: Callable[[dict[str, Any]], None]
) -> None:
    monkeypatch.setattr(sarif, "MAX_RESULTS", 40)
    monkeypatch.setattr(sarif, "MAX_GZIP", 4_000)
    many = [outcome(Label.INCONCLUSIVE, f"{n}.mp4", sha256=f"{n:064x}") for n in range(99)]
    made = results(tmp_path, *many, outcome(Label.MANIPULATED), outcome(Label.ERROR), outcome())
    write_sarif(made, tmp_path / "results.sarif", root=Path("/archive"))
    paths = sorted(tmp_path.glob("*.sarif"))
    logs = [json.loads(path.read_text()) for path in paths]

    assert len(paths) > 3
    assert {"results.sarif", "results-2.sarif"} <= {path.name for path in paths}
    for path, log in zip(paths, logs, strict=True):
        check_sarif(log)
        assert len(log["runs"][0]["results"]) <= 40
        assert len(gzip.compress(path.read_bytes())) <= 4_000
    found = [uri for log in logs for uri in uris(log)]
    assert sorted(found) == sorted(["clips/manipulated.mp4", *(each.name for each in many)])
    assert len({log["runs"][0]["automationDetails"]["id"] for log in logs}) == len(logs)
    broken = [each["runs"][0]["invocations"][0]["toolExecutionNotifications"] for each in logs]
    assert sorted(map(len, broken))[-2:] == [0, 1]

    (tmp_path / "results-of-others.sarif").touch()
    write_sarif(results(tmp_path), tmp_path / "results.sarif")
    left = {path.name for path in tmp_path.glob("*.sarif")}
    assert left == {"results.sarif", "results-of-others.sarif"}


def test_sarif_keeps_to_the_limits_that_github_documents(tmp_path: Path) -> None:
    """ "SARIF support for code scanning" and "SARIF results exceed limits", as read in 2026."""
    assert sarif.MAX_RESULTS <= 25_000 and sarif.MAX_GZIP <= 10 * 2**20
    many = [outcome(Label.SUSPICIOUS, f"{n}.mp4", sha256=f"{n:064x}") for n in range(12_000)]
    write_sarif(results(tmp_path, *many), tmp_path / "results.sarif")
    paths = sorted(tmp_path.glob("*.sarif"))
    assert len(paths) == 3  # of a run GitHub shows the first 5,000
    for path in paths:
        (run,) = json.loads(path.read_text())["runs"]
        assert len(run["results"]) <= 5_000
        assert len(gzip.compress(path.read_bytes())) <= 10 * 2**20
        assert len(run["tool"]["driver"]["rules"]) <= 25_000
        assert all(len(each["properties"]["tags"]) <= 10 for each in run["tool"]["driver"]["rules"])
        assert all(len(each["locations"]) == 1 for each in run["results"])


# JUnit


def junit_of(made: Results, **given_: Any) -> ElementTree.Element:
    path = made.folder / "results.junit.xml"
    baseline = given_.pop("baseline", None)
    write_junit(replace(made, baseline=baseline), path, **given_)
    return ElementTree.fromstring(path.read_bytes())


def states(suites: ElementTree.Element) -> dict[str, str]:
    """Label of each test case (its name says it) -> what became of it."""
    return {
        case.attrib["name"].removesuffix(".mp4"): next(
            (child.tag for child in case if child.tag != "system-out"), "passed"
        )
        for case in suites.iter("testcase")
    }


def test_junit_states_and_counts(tmp_path: Path) -> None:
    suites = junit_of(results(tmp_path))
    assert states(suites) == {
        "manipulated": "failure",
        "suspicious": "passed",
        "no-evidence": "passed",
        "inconclusive": "error",
        "not-applicable": "skipped",
        "error": "error",
    }
    suite = suites.find("testsuite")
    assert suite is not None
    counts = {key: suite.attrib[key] for key in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {"tests": "6", "failures": "1", "errors": "2", "skipped": "1", "time": "3.000"}
    suspicious = next(
        case for case in suites.iter("testcase") if "suspicious" in case.get("name", "")
    )
    assert "closer look" in suspicious.findtext("system-out", "")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"left": 3}, "the run was stopped: 3 of 9 files were not scanned"),
        ({"left": 1}, "the run was stopped: 1 of 9 files was not scanned"),
        ({}, "the run has not finished: not all of 9 files have a result"),
        ({"left": 3, "run": replace(RUN, listed=9, shard=(1, 2))}, "up to 3 of 9 files were not"),
    ],
)
def test_junit_of_a_stopped_run_has_an_error(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    given_ = {"run": replace(RUN, listed=9), "finished": False, **changes}
    suites = junit_of(results(tmp_path, outcome(), **given_))
    suite = suites.find("testsuite")
    assert suite is not None
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("2", "1")
    assert suites.attrib["errors"] == "1"
    (error,) = suites.iter("error")
    assert told in error.attrib["message"]
    assert list(junit_of(results(tmp_path, outcome())).iter("error")) == []


@pytest.mark.parametrize("kind", REPORTS)
def test_every_report_says_what_was_passed_over(kind: str, tmp_path: Path) -> None:
    file, write = load_report(kind)
    run = replace(RUN, passed_over=((".zip", 2), ("excluded", 1)))
    write(results(tmp_path, run=run), tmp_path / file)
    match kind:
        case "sqlite":
            with closing(sqlite3.connect(tmp_path / file)) as database:
                ((text,),) = database.execute("SELECT passed_over FROM runs").fetchall()
            assert json.loads(text) == {".zip": 2, "excluded": 1}
        case "parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
            metadata = parquet.read_schema(tmp_path / file).metadata
            told = json.loads(metadata[b"deepscan.run"])["passed_over"]
            assert told == [[".zip", 2], ["excluded", 1]]
        case "sarif":
            (found,) = json.loads((tmp_path / file).read_text())["runs"]
            assert found["properties"]["passedOver"] == {".zip": 2, "excluded": 1}
        case "jsonl":
            *lines, last = map(json.loads, (tmp_path / file).read_text().splitlines())
            assert last["passed_over"] == {".zip": 2, "excluded": 1} and len(lines) == 6
            assert last["schema"] != lines[0]["schema"]
        case "csv":
            with (tmp_path / file).open(newline="", encoding="utf-8") as table:
                *rows, row = csv.DictReader(table)
            assert (row["label"], row["name"], len(rows)) == ("passed-over", "", 6)
            assert row["reasons"] == "passed over: 2 .zip, 1 excluded"
        case _:
            assert "assed over: 2 .zip, 1 excluded" in (tmp_path / file).read_text()


def test_junit_lets_pass_what_a_baseline_accepts_until_that_day(tmp_path: Path) -> None:
    baseline = Baseline({("0" * 64, Label.MANIPULATED): accept(Label.MANIPULATED)})
    before, after = date(2026, 6, 30), date(2026, 7, 1)
    assert (
        states(junit_of(results(tmp_path), baseline=baseline, today=before))["manipulated"]
        == "passed"
    )
    assert (
        states(junit_of(results(tmp_path), baseline=baseline, today=after))["manipulated"]
        == "failure"
    )


@given(names=st.lists(NASTY, min_size=1, max_size=7, unique=True))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_junit_is_xml_whatever_a_name_holds(names: list[str], tmp_path: Path) -> None:
    suites = junit_of(results(tmp_path, *named(*names)))
    assert len(list(suites.iter("testcase"))) == len(names)
    assert {each.tag for each in suites.iter()} <= {
        "testsuites",
        "testsuite",
        "testcase",
        "failure",
        "error",
        "skipped",
        "system-out",
    }


# SQLite and Parquet


def test_sqlite_answers_questions(tmp_path: Path) -> None:
    odd = outcome(name="odd/\udc80.mp4")
    made = results(
        tmp_path, *map(outcome, Label), odd, superseded=(outcome(Label.SUSPICIOUS, odd.name),)
    )
    write_sqlite(made, tmp_path / "r.sqlite")
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as database:

        def ask(question: str) -> list[tuple[Any, ...]]:
            return database.execute(question).fetchall()

        assert ask("PRAGMA integrity_check") == [("ok",)]
        assert ask("SELECT count(*) FROM files WHERE current") == [(7,)]
        assert ask("SELECT label FROM files WHERE NOT current") == [("suspicious",)]
        assert ask("SELECT name FROM findings") == [
            ("clips/manipulated.mp4",),
            ("clips/suspicious.mp4",),
        ]
        assert ask(
            'SELECT f.label, i.start, i."end" FROM intervals i JOIN files f ON f.id = i.file'
            " WHERE f.current ORDER BY f.label"
        ) == [("manipulated", 1.0, 2.5), ("suspicious", 1.0, 2.5)]
        assert ask("SELECT count(*) FROM reasons WHERE code = 'corrupt'") == [(1,)]
        assert ask("SELECT count(*) FROM outputs") == [(8,)]
        assert ask("SELECT name_bytes FROM files WHERE name LIKE 'odd/%' AND current") == [
            (b"odd/\x80.mp4",)
        ]
        assert ask("SELECT id, controls_passed FROM runs") == [(RUN.id, 1)]
        plan = ask("EXPLAIN QUERY PLAN SELECT * FROM files WHERE label = 'error'")
        assert "files_by_label" in plan[0][3]


@given(names=st.lists(NASTY, min_size=1, max_size=7, unique=True))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_tables_hold_every_name_as_bytes(names: list[str], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    made = results(tmp_path, *named(*names))
    wanted = [name_bytes(each.name) for each in made.outcomes]
    write_sqlite(made, tmp_path / "r.sqlite")
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as database:
        rows = database.execute("SELECT name_bytes FROM files ORDER BY id").fetchall()
    assert [each for (each,) in rows] == wanted
    write_parquet(made, tmp_path / "r.parquet")
    assert parquet.read_table(tmp_path / "r.parquet")["name_bytes"].to_pylist() == wanted


def test_parquet_has_lists_and_the_run(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(results(tmp_path), tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet")
    rows = {row["label"]: row for row in table.to_pylist()}
    assert rows["manipulated"]["intervals"][0]["end"] == 2.5
    assert rows["no-evidence"]["intervals"] == []
    assert rows["error"]["score"] is None
    assert rows["error"]["reasons"] == [{"code": "corrupt", "text": REASONS[Label.ERROR].text}]
    assert json.loads(table.schema.metadata[b"deepscan.run"])["id"] == RUN.id


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"'.\[query\]'"):
        write_parquet(results(tmp_path), tmp_path / "r.parquet")
    assert list(tmp_path.iterdir()) == []
