"""Baselines: what a person accepted stays accepted until its day, and nothing else is."""

from __future__ import annotations

import json
import logging
import tomllib
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepscan.archive.baseline import FORMAT, read_baseline, write_baseline
from deepscan.archive.records import ACCEPTABLE, Accepted, Baseline
from deepscan.archive.schema_check import load_schema, violations
from deepscan.errors import OutputError, UsageError
from deepscan.exit_codes import ExitPolicy
from deepscan.types import Label
from tests.archive.reports.test_reports import HIDDEN, NASTY, outcome, results

LAST = date(2026, 6, 30)
ENTRY: dict[str, Any] = {
    "sha256": f'"{"0" * 64}"',
    "label": '"manipulated"',
    "reason": '"our own test clip"',
    "expires": "2026-06-30",
}


def written(path: Path, *entries: dict[str, Any], head: str = f'format = "{FORMAT}"') -> Path:
    """A baseline file of entries whose values are written as they are."""
    lines = [head]
    for entry in entries:
        lines += ["[[accepted]]", *(f"{key} = {value}" for key, value in entry.items())]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_an_entry_accepts_one_content_under_one_label_until_its_day(tmp_path: Path) -> None:
    baseline = read_baseline(written(tmp_path / "b.toml", ENTRY))
    found = outcome(Label.MANIPULATED)
    entry = baseline.accepts(found, LAST)
    assert entry == Accepted("0" * 64, Label.MANIPULATED, "our own test clip", LAST)
    assert baseline.accepts(replace(found, name="moved.mp4"), LAST) == entry

    assert baseline.accepts(found, LAST + timedelta(days=1)) is None
    assert baseline.accepts(replace(found, sha256="1" * 64), LAST) is None
    assert baseline.accepts(replace(found, sha256=None), LAST) is None
    assert baseline.accepts(replace(found, label=Label.SUSPICIOUS), LAST) is None


def test_optional_keys_and_capital_hashes(tmp_path: Path) -> None:
    entry = ENTRY | {"sha256": f'"{"AB" * 32}"', "reviewer": '"A. R."', "name": '"clips/a.mp4"'}
    (read,) = read_baseline(written(tmp_path / "b.toml", entry)).entries.values()
    assert (read.sha256, read.reviewer, read.name) == ("ab" * 32, "A. R.", "clips/a.mp4")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"expires": None}, "expires: missing"),
        ({"expires": '"2026-06-30"'}, "expires: give a day without quotes"),
        ({"expires": "2026-06-30T12:00:00"}, "expires: give a day"),
        ({"expires": "20260630"}, "expires: give a day"),
        ({"reason": '"  "'}, "reason: say why"),
        ({"reason": "7"}, "reason: give text in quotes"),
        ({"label": '"error"'}, "label: give one of manipulated"),
        ({"label": '"no-evidence"'}, "label: give one of"),
        ({"label": '"fake"'}, "label: give one of"),
        ({"sha256": '"abc"'}, "sha256: give 64"),
        ({"sha256": f'"{"g" * 64}"'}, "sha256: give 64"),
        ({"until": "2026-06-30"}, "until: unknown"),
    ],
)
def test_a_malformed_entry_is_named(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    entry = {key: value for key, value in (ENTRY | change).items() if value is not None}
    good = ENTRY | {"sha256": f'"{"1" * 64}"'}
    with pytest.raises(UsageError, match=f"entry 2: .*{told}"):
        read_baseline(written(tmp_path / "b.toml", good, entry))


def test_what_is_no_baseline_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    with pytest.raises(UsageError, match="cannot be read"):
        read_baseline(path)
    with pytest.raises(UsageError, match="duplicate of content and label"):
        read_baseline(written(path, ENTRY, ENTRY))
    with pytest.raises(UsageError, match="first line"):
        read_baseline(written(path, ENTRY, head=""))
    with pytest.raises(UsageError, match="first line"):
        read_baseline(written(path, ENTRY, head='format = "deepscan.baseline/2"'))
    with pytest.raises(UsageError, match="may hold"):
        read_baseline(written(path, head=f'format = "{FORMAT}"\naccept = []'))
    with pytest.raises(UsageError, match="may hold"):
        read_baseline(written(path, head=f'format = "{FORMAT}"\naccepted = 1'))
    with pytest.raises(UsageError, match=r"\[\[accepted\]\]"):
        read_baseline(written(path, head=f'format = "{FORMAT}"\naccepted = [1]'))
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not TOML"):
        read_baseline(path)
    path.write_text("x = " + "[" * 5_000)
    with pytest.raises(UsageError, match="not TOML"):
        read_baseline(path)


@given(content=st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_baseline_or_a_usage_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_bytes(f'format = "{FORMAT}"\n'.encode() + content)
    try:
        assert isinstance(read_baseline(path), Baseline)
    except UsageError as error:
        assert str(path) in str(error)


def test_accepted_findings_do_not_count_and_the_others_do() -> None:
    baseline = Baseline({("0" * 64, Label.MANIPULATED): _entry()})
    known = outcome(Label.MANIPULATED)
    new = replace(known, name="new.mp4", sha256="5" * 64)

    def code(*outcomes: Any, today: date = LAST) -> int:
        counted = [each.label for each in outcomes if baseline.accepts(each, today) is None]
        return ExitPolicy().code(counted)

    assert code(known, outcome()) == 0
    assert code(known, new) == 1
    assert code(known, outcome(Label.ERROR)) == 2
    assert code(known, today=LAST + timedelta(days=1)) == 1


def test_an_expired_acceptance_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = outcome(Label.MANIPULATED, "odd\x1b[31m\u202e.mp4")
    path = tmp_path / "b.toml"
    write_baseline(results(tmp_path, found), path, "known", date(2999, 1, 1))
    with caplog.at_level(logging.WARNING):
        read_baseline(path)
        assert caplog.messages == []
        write_baseline(results(tmp_path, found), path, "known", date(2020, 1, 1))
        read_baseline(path)
    (message,) = caplog.messages
    assert "expired on 2020-01-01" in message
    assert HIDDEN.search(message) is None


@given(names=st.lists(NASTY, min_size=1, max_size=5, unique=True), reason=NASTY)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(names: list[str], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    found = [
        outcome(Label.MANIPULATED, name, sha256=f"{place:064x}") for place, name in enumerate(names)
    ]
    made = results(tmp_path, *found, outcome(), outcome(Label.ERROR))
    write_baseline(made, path, f"reviewed: {reason}", LAST, reviewer=reason)
    read = read_baseline(path)
    assert HIDDEN.search(path.read_text(encoding="utf-8")) is None
    assert len(read.entries) == len(names)
    accepted = [each for each in made.outcomes if read.accepts(each, LAST) is not None]
    assert {each.label for each in accepted} == {Label.MANIPULATED}
    assert len(accepted) == len(names)


def plain(path: Path) -> Any:
    """The values of a baseline file as JSON has them."""
    values = tomllib.loads(path.read_text("utf-8"))
    return json.loads(json.dumps(values, default=date.isoformat))


def test_the_format_is_that_of_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    found = [outcome(label, f"{label}.mp4") for label in ACCEPTABLE]
    write_baseline(results(tmp_path, *found), path, "known", LAST, reviewer="A. Reviewer")
    assert list(violations(plain(path), "baseline-1")) == []
    labels = load_schema("baseline-1")["properties"]["accepted"]["items"]["properties"]["label"]
    assert labels["enum"] == list(ACCEPTABLE)
    for change in ({"sha256": '"0"'}, {"label": '"error"'}, {"reason": '" "'}, {"odd": "1"}):
        broken = written(path, {**ENTRY, **change})
        assert list(violations(plain(broken), "baseline-1"))
        with pytest.raises(UsageError):
            read_baseline(broken)


def test_twins_stand_in_a_baseline_once(tmp_path: Path) -> None:
    made = results(tmp_path, outcome(Label.MANIPULATED, "a"), outcome(Label.MANIPULATED, "b"))
    baseline = write_baseline(made, tmp_path / "b.toml", "known", LAST)
    assert [each.name for each in baseline.entries.values()] == ["a"]
    assert all(baseline.accepts(each, LAST) for each in made.outcomes)


def test_what_cannot_be_accepted_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    with pytest.raises(UsageError, match="reason"):
        write_baseline(results(tmp_path), path, " ", LAST)
    with pytest.raises(OutputError, match="gone"):
        write_baseline(results(tmp_path), tmp_path / "gone" / "b.toml", "known", LAST)
    assert list(tmp_path.iterdir()) == []
    made = write_baseline(results(tmp_path), path, "known", LAST)
    assert {each.label for each in made.entries.values()} == {Label.MANIPULATED, Label.SUSPICIOUS}


def _entry() -> Accepted:
    return Accepted("0" * 64, Label.MANIPULATED, "our own test clip", LAST)
