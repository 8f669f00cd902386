"""What a results folder says of files that are not there any more, in every place that says it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.archive import journal
from deepscan.archive.diff import compare
from deepscan.archive.events import ItemDone
from deepscan.archive.inputs import listing
from deepscan.archive.journal import JOURNAL, JournalState, read_journal, read_state
from deepscan.archive.markers import NOTE
from deepscan.archive.merge import merge
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.records import SkippedEntry
from deepscan.archive.run import scan_archive
from deepscan.archive.shard import Shard
from deepscan.archive.states import Coverage, FileState, changes, coverage_of, is_below
from deepscan.archive.stop_request import StopRequest
from deepscan.errors import UsageError
from deepscan.options import ScanOptions
from deepscan.types import Label, Reason
from tests.archive.fake_pool import FakePool
from tests.archive.made import RUN, outcome

OPTIONS = ArchiveOptions(
    reports=("html", "csv", "jsonl", "sarif", "junit", "sqlite"), write_found=(), min_free=0
)


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "D"
    folder.mkdir()
    (folder / "clean.mp4").write_bytes(b"honest 1")
    (folder / "fake.mp4").write_bytes(b"fake   2")
    return folder


def scan(archive, *inputs, out=None, archive_options=OPTIONS, options=None, **wanted: Any):
    return scan_archive(
        [str(each) for each in inputs] or [str(archive)],
        out or archive.parent / "R",
        options=options or ScanOptions(),
        pool=FakePool(),
        archive_options=archive_options,
        **wanted,
    )


def names(outcomes):
    return [each.name for each in outcomes]


# Through every report


def test_a_file_that_is_gone_is_counted_and_no_failure_anywhere(archive):
    out = archive.parent / "R"
    assert scan(archive).exit_code == 1
    (archive / "fake.mp4").unlink()
    ended = scan(archive)
    assert ended.exit_code == 0
    assert names(ended.results.outcomes) == ["clean.mp4"]
    assert names(ended.results.gone) == ["fake.mp4"]
    for report in ("summary.html", "results.csv", "results.jsonl", "results.junit.xml"):
        text = (out / report).read_text(encoding="utf-8")
        assert "fake.mp4" not in text and "gone" in text, report
    last = json.loads((out / "results.jsonl").read_text().splitlines()[-1])
    assert last == {"schema": "deepscan.gone/1", "gone": 1}
    log = json.loads((out / "results.sarif").read_text())["runs"][0]
    assert not [each for each in log["results"] if each["level"] == "error"]
    counts = log["properties"]
    assert (counts["files"], counts["gone"], counts["notListed"]) == (1, 1, 0)
    with closing(sqlite3.connect(out / "results.sqlite")) as database:
        rows = database.execute("SELECT name, current, state FROM files ORDER BY name").fetchall()
        assert rows == [("clean.mp4", 1, "current"), ("fake.mp4", 0, "gone")]
        assert database.execute("SELECT count(*) FROM findings").fetchone() == (0,)


def test_diff_shows_what_is_gone(archive):
    scan(archive)
    scan(archive, out=archive.parent / "old")
    (archive / "fake.mp4").unlink()
    scan(archive)
    (move,) = compare(archive.parent / "old", archive.parent / "R").moves
    assert (move.name, move.causes) == ("fake.mp4", ("gone",))


def test_a_file_that_comes_back_counts_again(archive):
    scan(archive)
    (archive / "fake.mp4").rename(archive.parent / "away.mp4")
    scan(archive)
    (archive.parent / "away.mp4").rename(archive / "fake.mp4")
    ended = scan(archive)
    assert ended.exit_code == 1 and not ended.results.gone
    note = archive.parent / "R" / ended.results.outcomes[1].folder / NOTE
    assert not note.exists()


def test_a_renamed_file_stands_once(archive):
    scan(archive)
    (archive / "fake.mp4").rename(archive / "other.mp4")
    ended = scan(archive)
    assert names(ended.results.outcomes) == ["clean.mp4", "other.mp4"]
    assert ended.results.outcomes[1].same_as is None  # nothing it could be the same as is there
    assert ended.exit_code == 1 and names(ended.results.gone) == ["fake.mp4"]


def test_a_moved_archive_is_the_same_and_its_files_can_go(archive):
    scan(archive)
    moved = archive.rename(archive.parent / "E")
    ended = scan(moved, moved)
    assert not ended.results.gone and not ended.results.not_listed
    (moved / "fake.mp4").unlink()
    assert names(scan(moved, moved).results.gone) == ["fake.mp4"]


# What shows nothing


def listed_again(archive, **wanted: Any):
    """The second run, after the manipulated file was removed."""
    scan(archive)
    (archive / "fake.mp4").unlink()
    return scan(archive, **wanted)


def still_counts(ended):
    assert names(ended.results.outcomes) == ["clean.mp4", "fake.mp4"]
    assert ended.results.not_listed == {"fake.mp4"} and not ended.results.gone
    return True


def test_a_list_shows_nothing(archive):
    scan(archive)
    (archive / "fake.mp4").unlink()
    (archive.parent / "list").write_text(str(archive / "clean.mp4"))
    ended = scan(archive, f"@{archive.parent / 'list'}")
    assert "fake.mp4" in ended.results.not_listed and not ended.results.gone
    assert ended.exit_code == 1


def test_a_single_file_shows_nothing(archive):
    scan(archive)
    (archive / "fake.mp4").unlink()
    ended = scan(archive, archive / "clean.mp4")
    assert still_counts(ended) and ended.exit_code == 1


def test_a_pattern_shows_nothing_of_what_it_leaves_out(archive):
    ended = listed_again(archive, archive_options=replace(OPTIONS, include=("clean*",)))
    assert still_counts(ended) and ended.exit_code == 1


def test_a_watch_and_a_shard_show_nothing(archive):
    assert still_counts(listed_again(archive, archive_options=replace(OPTIONS, watch=True)))
    assert still_counts(scan(archive, archive_options=replace(OPTIONS, shard=Shard(1, 1))))


def test_a_folder_that_was_not_entered_shows_nothing(archive, monkeypatch):
    scan(archive)
    (archive / "fake.mp4").unlink()
    (archive / "sub" / "deep").mkdir(parents=True)
    monkeypatch.setattr(listing, "DEPTH", 1)
    ended = scan(archive)
    assert "fake.mp4" in ended.results.not_listed and ended.exit_code == 2


def test_an_error_in_a_root_covers_nothing_of_it():
    failed = SkippedEntry("x", Path("/a/x"), Label.ERROR, Reason("unreadable", "no access"))
    linked = SkippedEntry("y", Path("/b/y"), Label.INCONCLUSIVE, Reason("skipped_symlink", "link"))
    covered = coverage_of(("/a", "/b", "s3://c"), [failed, linked], include=(), exclude=())
    assert covered.roots == ("/b",)
    assert coverage_of(("s3://c",), [linked], include=(), exclude=()).roots == ("s3://c",)


def test_a_run_that_was_stopped_shows_nothing(archive):
    scan(archive)
    (archive / "fake.mp4").unlink()
    (archive / "new.mp4").write_bytes(b"honest 3")
    stop = StopRequest()

    def on_event(event):
        if isinstance(event, ItemDone):
            stop.stop()

    ended = scan(archive, stop_request=stop, on_event=on_event)
    assert ended.interrupted
    assert ended.results.not_listed == {"fake.mp4"} and not ended.results.gone


def test_other_inputs_into_the_same_folder_do_not_hide_what_is_there(archive, tmp_path, caplog):
    other = tmp_path / "other"
    other.mkdir()
    (other / "new.mp4").write_bytes(b"honest 9")
    (other / "clean.mp4").write_bytes(b"honest 8")
    scan(archive)
    ended = scan(archive, other)
    assert ended.exit_code == 1 and ended.results.not_listed == {"fake.mp4"}
    assert "results of other files with the same names are replaced" in caplog.text


def test_a_root_that_yields_nothing_is_an_error_where_files_were(archive, tmp_path):
    other = tmp_path / "share"
    other.mkdir()
    (other / "there.mp4").write_bytes(b"honest 9")
    scan(archive, archive, other)
    (other / "there.mp4").unlink()
    with pytest.raises(UsageError, match="share has no files now; earlier runs had 1 file there:"):
        scan(archive, archive, other)
    assert "there.mp4" in (tmp_path / "R" / "results.csv").read_text()
    empty = tmp_path / "never"
    empty.mkdir()
    scan(archive, archive, empty, out=tmp_path / "R2")  # nothing was there, nothing is missed


# Settings


def test_results_of_other_settings_are_superseded_and_the_tree_says_so(archive):
    out = archive.parent / "R"
    scan(archive)
    ended = scan(archive, archive / "clean.mp4", options=ScanOptions(stride=2))
    assert names(ended.results.outcomes) == ["clean.mp4"] and ended.exit_code == 0
    assert sorted(names(ended.results.superseded)) == ["clean.mp4", "fake.mp4"]
    (now,) = ended.results.outcomes
    for old in ended.results.superseded:
        assert (out / old.folder / NOTE).is_file() and (out / old.folder / "result.json").is_file()
    assert not (out / now.folder / NOTE).exists()
    (before,) = [each for each in ended.results.superseded if each.name == "clean.mp4"]
    assert now.folder in (out / before.folder / NOTE).read_text()
    back = scan(archive)
    assert names(back.results.outcomes) == ["clean.mp4", "fake.mp4"] and back.exit_code == 1
    for each in back.results.outcomes:
        assert not (out / each.folder / NOTE).exists()
    assert (out / now.folder / NOTE).is_file()


# Merged


def shards(archive, count=2):
    made = []
    for number in range(1, count + 1):
        part = archive.parent / f"part{number}"
        wanted = replace(OPTIONS, shard=Shard(number, count))
        scan(archive, out=part, archive_options=wanted)
        made.append(part)
    return made


def test_all_shards_together_show_what_is_gone(archive):
    shards(archive)
    (archive / "fake.mp4").unlink()
    parts = shards(archive)
    assert not any(read_journal(part).gone for part in parts)
    whole = merge(archive.parent / "M", parts).results
    assert names(whole.outcomes) == ["clean.mp4"] and names(whole.gone) == ["fake.mp4"]
    (holder,) = [p for p in parts if "fake.mp4" in read_state(p).outcomes]
    half = merge(archive.parent / "H", [holder]).results
    assert "fake.mp4" in half.not_listed and not half.gone


def test_a_file_that_changed_its_shard_is_no_conflict(archive):
    parts = shards(archive)
    for number in range(20):  # of some content it is the other's
        (archive / "fake.mp4").write_bytes(b"honest %d" % number)
        shards(archive)
        if all("fake.mp4" in read_state(part).outcomes for part in parts):
            break
    merged = merge(archive.parent / "M", parts).results
    assert {each.name: str(each.label) for each in merged.outcomes} == {
        "clean.mp4": "no-evidence", "fake.mp4": "no-evidence",
    }  # fmt: skip


def test_what_is_gone_in_a_part_is_gone_in_the_whole(archive):
    scan(archive)
    (archive / "fake.mp4").unlink()
    scan(archive)
    whole = merge(archive.parent / "M", [archive.parent / "R"]).results
    assert names(whole.gone) == ["fake.mp4"] and names(whole.outcomes) == ["clean.mp4"]


# The rule itself

ROOTS = ("/a", "/b")
NAMES = tuple(f"{root[1:]}{number}.mp4" for root in ROOTS for number in range(3))


def path_of(name):
    return f"/{name[0]}/{name}"


RUNS = st.lists(
    st.tuples(
        st.frozensets(st.sampled_from(NAMES)),  # on the disk
        st.frozensets(st.sampled_from(ROOTS), min_size=1),  # that are listed
        st.frozensets(st.sampled_from(ROOTS)),  # in which an error is met
        st.sampled_from(("whole", "stopped", "shard", "list")),
        st.sampled_from(("d1", "d2")),  # settings
        st.booleans(),  # the journal is written anew before it
    ),
    min_size=1,
    max_size=6,
)


def replay(runs):
    """The journal of these runs, each of which scans all that it lists under its settings."""
    state = JournalState()
    for there, roots, failed, kind, given_settings, compacted in runs:
        if compacted:
            anew = JournalState()
            for entry in state.entries():
                anew.apply(json.loads(json.dumps(entry)))
            assert anew.states() == state.states()
            state = anew
        shard = (1, 2) if kind == "shard" else None
        run = replace(RUN, settings_hash=given_settings, shard=shard)
        state.apply({"kind": "run", "run": run.to_json()})
        listed = {name for name in there if f"/{name[0]}" in roots}
        coverage = Coverage(tuple(sorted(roots - failed)) if kind != "list" else ())
        told = changes(state.listings, state.outcomes, listed, coverage)
        state.apply({"kind": "listing", "listing": json.loads(json.dumps(told.to_json()))})
        for name in sorted(listed):
            found = outcome(name, name, given_settings, path=path_of(name))
            state.apply({"kind": "done", "outcome": found.to_json()})
        state.apply({"kind": "ended", "finished": kind != "stopped", "exit": 0})
    return state


def expected(runs):
    """The rule in plain words, name by name."""
    states = {}
    for name in NAMES:
        listed = [name in there and f"/{name[0]}" in roots for there, roots, *_ in runs]
        if not any(listed):
            continue
        last = max(number for number, each in enumerate(listed) if each)
        shown = any(
            kind == "whole" and f"/{name[0]}" in roots - failed
            for _, roots, failed, kind, *_ in runs[last + 1 :]
        )
        if shown:
            states[name] = FileState.GONE
        elif runs[last][4] != runs[-1][4]:
            states[name] = FileState.SUPERSEDED
        else:
            states[name] = FileState.CURRENT if listed[-1] else FileState.NOT_LISTED
    return states


@settings(max_examples=300, deadline=None)
@given(RUNS)
def test_states_follow_the_rule_whatever_the_runs(runs):
    assert replay(runs).states() == expected(runs)


@settings(max_examples=100, deadline=None)
@given(RUNS)
def test_nothing_that_was_found_goes_without_a_run_that_shows_it(runs):
    """From one run to the next, a name becomes gone only by a whole run over its root."""
    for before, after in pairwise(range(1, len(runs) + 1)):
        old, new = replay(runs[:before]).states(), replay(runs[:after]).states()
        _, roots, failed, kind, *_ = runs[after - 1]
        for name, state in new.items():
            if state is FileState.GONE and old.get(name) is not FileState.GONE:
                assert kind == "whole" and f"/{name[0]}" in roots - failed


def test_a_lost_line_makes_nothing_vanish(archive):
    """A name that was scanned is there, also if the line that told so was repaired away."""
    state = replay([
        (frozenset(NAMES), frozenset(ROOTS), frozenset(), "whole", "d1", False),
        (frozenset(NAMES[1:]), frozenset(ROOTS), frozenset(), "whole", "d1", False),
    ])  # fmt: skip
    assert state.states()[NAMES[0]] is FileState.GONE
    state.apply({"kind": "run", "run": RUN.to_json()})
    found = outcome(NAMES[0], path=path_of(NAMES[0]))
    state.apply({"kind": "done", "outcome": found.to_json()})
    assert state.states()[NAMES[0]] is FileState.CURRENT


def test_journals_of_older_versions_are_all_current():
    state = JournalState()
    state.apply({"kind": "run", "run": RUN.to_json()})
    state.apply({"kind": "done", "outcome": outcome("a").to_json()})
    state.apply({"kind": "done", "outcome": outcome("b", "c2", "d2").to_json()})
    state.apply({"kind": "ended", "finished": True, "exit": 0})
    assert state.states() == {"a": FileState.CURRENT, "b": FileState.CURRENT}


def test_below_is_about_parts_of_a_path():
    assert is_below("/a/b", "/a") and is_below("/a", "/") and is_below("s3://c/x", "s3://c")
    assert not is_below("/ab", "/a") and not is_below("/a", "/a")


def test_a_long_listing_takes_several_lines(archive, monkeypatch):
    monkeypatch.setattr(journal, "_NAMES", 2)
    for number in range(7):
        (archive / f"x{number}.mp4").write_bytes(b"honest %d" % number)
    scan(archive)
    for number in range(7):
        (archive / f"x{number}.mp4").unlink()
    assert len(scan(archive).results.gone) == 7
    out = archive.parent / "R"
    lines = [json.loads(line) for line in (out / JOURNAL).read_bytes().splitlines()]
    assert sum(each["kind"] == "listing" for each in lines) == 1 + 4
    with journal.Journal(out) as opened:
        opened.compact()
        assert len((out / JOURNAL).read_bytes().splitlines()) == opened.state.size()
    assert len(read_journal(out).gone) == 7
