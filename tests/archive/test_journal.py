"""The journal: what it says is on the disk, whatever ends the run."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deepscan.archive import journal as journals
from deepscan.archive.journal import JOURNAL, Journal, is_results, read_journal, read_state, repair
from deepscan.archive.lock import Lock
from deepscan.archive.records import Outcome, OutputFile
from deepscan.archive.settings_hash import result_key
from deepscan.errors import OutputError
from deepscan.types import Interval, Label, Reason
from tests.archive.made import RUN, input_file, outcome

AWKWARD = "caf\udce9/\n\x1b[31m\u202e.mp4"  # no UTF-8, a line feed, a colour, right to left


def write(folder: Path, *outcomes: Outcome) -> Path:
    with Journal(folder) as journal:
        journal.begin(RUN)
        for each in outcomes:
            journal.done(each)
    return folder / JOURNAL


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    full = outcome(
        AWKWARD,
        label=Label.MANIPULATED,
        intervals=(Interval(0.5, 1.5, 3, 0.99, 4.6, Label.SUSPICIOUS),),
        outputs=(OutputFile("record", "f/result.json", "ab", 12),),
        score=0.1 + 0.2,
    )
    with Journal(tmp_path) as journal:
        journal.begin(RUN)
        journal.started(input_file(AWKWARD))
        journal.done(full)
        journal.ended(finished=True, exit_code=1)
        written = journal.state.results(tmp_path)
    results = read_journal(tmp_path)
    assert results == written
    assert (results.run, results.outcomes, results.finished) == (RUN, (full,), True)
    (tmp_path / "report").touch()  # who may read the reports may read it too
    assert (tmp_path / JOURNAL).stat().st_mode == (tmp_path / "report").stat().st_mode


def test_every_line_is_json_with_a_number_and_a_checksum(tmp_path: Path) -> None:
    lines = write(tmp_path, outcome(AWKWARD), outcome("b")).read_bytes().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["seq"] for entry in entries] == [1, 2, 3]
    assert [entry["kind"] for entry in entries] == ["run", "done", "done"]
    assert all(len(entry["sum"]) == 16 and entry["v"] == 1 for entry in entries)


def test_each_line_is_one_write_that_is_synced_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    write_, fsync = os.write, os.fsync
    with Journal(tmp_path) as journal:
        monkeypatch.setattr(os, "write", lambda *a: (calls.append("write"), write_(*a))[1])
        monkeypatch.setattr(os, "fsync", lambda *a: (calls.append("fsync"), fsync(*a))[1])
        journal.done(outcome("a"))
    assert calls == ["write", "fsync"]


def test_the_newest_outcome_wins_and_others_are_superseded(tmp_path: Path) -> None:
    first = outcome("a", label=Label.ERROR)
    again = outcome("a")
    stricter = outcome("a", settings_hash="d2")
    other = outcome("b", "c2")
    write(tmp_path, first, again, other, stricter)
    results = read_journal(tmp_path)
    assert results.outcomes == (stricter, other)
    assert results.superseded == (again,)  # `first` was tried again under the same key
    write(tmp_path, again)
    assert read_journal(tmp_path).outcomes == (again, other)
    assert read_journal(tmp_path).superseded == (stricter,)


def test_look_ups_of_a_run_that_goes_on(tmp_path: Path) -> None:
    original = outcome("a")
    twin = outcome("twin", same_as="a", identity=(1, 9, 3, 4))
    write(tmp_path, twin, original)
    state = read_state(tmp_path)
    assert state.unchanged(input_file("a"), "d1") == original
    assert state.unchanged(input_file("a"), "d2") is None
    assert state.unchanged(input_file("a", (1, 2, 3, 5)), "d1") is None
    assert state.unchanged(input_file("new"), "d1") is None
    assert state.unchanged(input_file("a", None), "d1") is None
    assert state.by_key(result_key("c1", "d1")) == original
    assert state.by_key(result_key("c1", "d2")) is None
    assert state.sha256_of((1, 9, 3, 4)) == "c1"
    assert state.sha256_of((1, 9, 9, 9)) is None and state.sha256_of(None) is None


def test_going_back_to_other_settings_finds_what_was_superseded(tmp_path: Path) -> None:
    write(tmp_path, outcome("a"), outcome("a", settings_hash="d2"))
    state = read_state(tmp_path)
    assert state.by_key(result_key("c1", "d1")) == outcome("a") == state.superseded[0]
    assert state.unchanged(input_file("a"), "d1") is None
    write(tmp_path, outcome("b"), outcome("a"))
    assert read_state(tmp_path).by_key(result_key("c1", "d1")) == outcome("b")  # current before old
    assert read_state(tmp_path).by_key(result_key("c1", "d2")) == outcome("a", settings_hash="d2")


def test_superseded_errors_are_no_answer(tmp_path: Path) -> None:
    write(tmp_path, outcome("a", label=Label.ERROR), outcome("a", settings_hash="d2"))
    assert read_state(tmp_path).by_key(result_key("c1", "d1")) is None


def test_an_outcome_without_identity_is_scanned_again(tmp_path: Path) -> None:
    write(tmp_path, outcome("a", identity=None))
    assert read_state(tmp_path).unchanged(input_file("a", None), "d1") is None


def test_unfinished_items_are_those_taken_up_without_an_outcome_since(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(RUN)
        journal.started(input_file("long"), key="k")
        journal.lost("long", Reason("decoder_crash", "signal 11"))
        journal.started(input_file("long"), attempt=2, key="k")
        journal.started(input_file("short"))
        journal.done(outcome("short"))
    state = read_state(tmp_path)
    assert state.unfinished() == ("long",)
    assert not state.results(tmp_path).finished
    with Journal(tmp_path) as journal:
        journal.done(outcome("long"))
        assert journal.state.unfinished() == ()


def test_a_journal_of_an_earlier_version_stays_readable(tmp_path: Path) -> None:
    old = replace(outcome("old"), engine="openvino-cpu-int8", decoder="nvdec")
    with Journal(tmp_path) as journal:
        journal.begin(replace(RUN, engine="openvino-cpu-int8"))
        journal.started(input_file("old"), key="k")
        journal._append("segment", name="old", key="k", segment={"end": 600.0})
        journal.done(old)
    assert read_state(tmp_path).outcomes == {"old": old}
    with Journal(tmp_path) as journal:
        journal.compact()
    assert b'"segment"' not in (tmp_path / JOURNAL).read_bytes()
    assert read_state(tmp_path).outcomes == {"old": old}


def test_a_new_run_is_unfinished_until_it_ends(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(RUN)
        journal.ended(finished=True, exit_code=0)
        journal.begin(replace(RUN, id="r2"))
    assert not read_journal(tmp_path).finished and read_journal(tmp_path).run.id == "r2"
    with Journal(tmp_path) as journal:
        journal.ended(finished=False, exit_code=130)
    assert not read_journal(tmp_path).finished


def test_cut_off_anywhere_only_the_torn_line_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, *(outcome(name) for name in "abc"))
    whole = path.read_bytes()
    ends = [end + 1 for end in range(len(whole)) if whole[end] == 10]
    for cut in [*range(ends[0], len(whole), 41), *(end - 1 for end in ends[1:]), *ends]:
        path.write_bytes(whole[:cut])
        caplog.clear()
        intact = sum(end <= cut for end in ends)
        with Journal(tmp_path) as journal:
            assert sorted(journal.state.outcomes) == list("abc")[: intact - 1]
            assert ("torn" in caplog.text) == (cut not in ends)
            journal.done(outcome("z"))
        assert "z" in read_state(tmp_path).outcomes
        assert len(path.read_bytes().splitlines()) == intact + 1


def test_a_tail_of_zeros_after_a_power_cut_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, outcome("a"))
    with path.open("ab") as file:
        file.write(bytes(5000))
    with Journal(tmp_path) as journal:
        assert list(journal.state.outcomes) == ["a"]
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("damage", ["flip", "missing", "doubled", "garbage"])
def test_damage_in_the_middle_is_refused_and_can_be_repaired(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path, *(outcome(name) for name in "abc"))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2:3] = {
        "flip": [lines[2].replace(b"complete", b"somplete")],
        "missing": [],
        "doubled": [lines[2], lines[2]],
        "garbage": [b"\x00\xff" * 50 + b"\n"],
    }[damage]
    path.write_bytes(damaged := b"".join(lines))
    for read in (read_journal, Journal):
        with pytest.raises(OutputError, match=f"deepscan journal repair {tmp_path}"):
            read(tmp_path)
    assert path.read_bytes() == damaged
    kept, lost = repair(tmp_path)
    assert (kept, lost) == (
        len(lines) - (damage in ("flip", "garbage")),
        damage in ("flip", "garbage"),
    )
    expected = ["a", "b", "c"] if damage == "doubled" else ["a", "c"]
    assert [each.name for each in read_journal(tmp_path).outcomes] == expected
    (beside,) = tmp_path.glob("journal.damaged-*")
    assert beside.read_bytes() == damaged
    assert repair(tmp_path) == (kept, 0)  # and leaves it alone


def test_repair_is_refused_while_a_run_is_at_work(tmp_path: Path) -> None:
    write(tmp_path)
    with Lock(tmp_path), pytest.raises(OutputError, match="in use"):
        repair(tmp_path)


def test_journals_of_newer_versions_are_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path)
    body = path.read_bytes().replace(b'{"v":1', b'{"v":2')[: -journals._SEAL]
    path.write_bytes(sealed := b'%s,"sum":"%s"}\n' % (body, journals._sum(body)))
    for use in (Journal, read_journal, repair):
        with pytest.raises(OutputError, match="format 2"):
            use(tmp_path)
    assert path.read_bytes() == sealed


def test_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds no journal\.jsonl"):
        read_journal(tmp_path)
    Journal(tmp_path).close()
    with pytest.raises(OutputError, match="no run"):
        read_journal(tmp_path)


def test_links_and_pipes_are_no_journals(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / JOURNAL).symlink_to(target)
    with pytest.raises(OutputError):
        Journal(tmp_path)
    assert target.read_bytes() == b"precious"
    (tmp_path / JOURNAL).unlink()
    os.mkfifo(tmp_path / JOURNAL)
    with pytest.raises(OutputError):
        read_journal(tmp_path)
    assert not is_results(tmp_path)


def test_results_are_known_by_a_whole_first_line(tmp_path: Path) -> None:
    assert not is_results(tmp_path)
    path = write(tmp_path)
    assert is_results(tmp_path)
    path.write_bytes(b'{"v":1,"seq":1,"kind":"run"}\n')
    assert not is_results(tmp_path)


def test_compaction_keeps_what_matters(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(replace(RUN, id="r0"))
        journal.begin(RUN)
        for _ in range(20):
            journal.started(input_file("a"))
            journal.done(outcome("a"))
        journal.done(outcome("a", settings_hash="d2"))
        journal.done(outcome("a", settings_hash="d3"))
        journal.started(input_file("open"))
        before = journal.state.results(tmp_path)
        journal.compact()
        journal.done(outcome("b"))
    state = read_state(tmp_path)
    after = state.results(tmp_path)
    assert (after.run, after.superseded) == (before.run, before.superseded)
    assert [each.name for each in after.outcomes] == ["a", "b"] and after.outcomes[
        0
    ].key == result_key("c1", "d3")
    assert state.unfinished() == ("open",)
    assert len((tmp_path / JOURNAL).read_bytes().splitlines()) == state.size()
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


def test_a_journal_full_of_waste_is_compacted_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_WASTE", 10)
    path = write(tmp_path, *(outcome("a") for _ in range(15)))
    with Journal(tmp_path) as journal:
        assert list(journal.state.outcomes) == ["a"]
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("call", ["write", "short", "fsync"])
def test_a_full_disk_leaves_a_valid_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write = os.write

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def short(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[:40])

    with Journal(tmp_path) as journal:
        journal.begin(RUN)
        journal.done(outcome("a"))
        with monkeypatch.context() as patch:
            patch.setattr(os, call.replace("short", "write"), short if call == "short" else full)
            with pytest.raises(OutputError, match="No space left"):
                journal.done(outcome("b"))
        assert list(journal.state.outcomes) == ["a"]
        if call == "fsync":  # after that nobody knows what is on the disk
            with pytest.raises(OutputError, match="No space left"):
                journal.done(outcome("c"))
        else:
            journal.done(outcome("c"))
    assert set(read_state(tmp_path).outcomes) == ({"a"} if call == "fsync" else {"a", "c"})


FILL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.archive.made import RUN, outcome
from deepscan.archive.journal import Journal
from deepscan.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
with Journal(Path(sys.argv[1])) as journal:
    journal.begin(RUN)
    try:
        for number in range(1000):
            journal.done(outcome(f"{number:04}"))
    except OutputError:
        print(number)
"""


@pytest.mark.parametrize("limit", [5000, 5001, 7777])
def test_at_the_real_limit_of_a_file_size(tmp_path: Path, limit: int) -> None:
    root = str(Path(__file__).parents[2])
    told = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path), root, str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / JOURNAL).stat().st_size <= limit
    assert len(read_state(tmp_path).outcomes) == int(told.stdout) > 0


APPEND = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.archive.made import RUN, input_file, outcome
from deepscan.archive import journal as journals
from deepscan.archive.lock import Lock, sweep
folder = Path(sys.argv[1])
journals._WASTE = 20  # compacts at every start
with Lock(folder):
    sweep(folder)
    with journals.Journal(folder) as journal:
        journal.begin(RUN)
        for number in range(len(journal.state.outcomes), 10**6):
            name = f"{number:06}"
            journal.started(input_file(name))
            journal.done(outcome(name, f"c{number}"))
            print(name, flush=True)
"""


def kill_at_random(folder: Path, times: int) -> None:
    root = str(Path(__file__).parents[2])
    chance = random.Random(7)
    acknowledged: list[str] = []
    for _ in range(times):
        child = subprocess.Popen(
            [sys.executable, "-c", APPEND, str(folder), root], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(chance.random() * 0.05)
        child.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in (first, *child.stdout) if line.endswith("\n")]
        child.stdout.close()
        child.wait()
        names = sorted(read_state(folder).outcomes)
        assert names == [f"{number:06}" for number in range(len(names))]  # none lost or doubled
        assert 0 <= len(names) - len(acknowledged) <= times  # a kill may come before the word
        assert set(acknowledged) <= set(names) and len(set(acknowledged)) == len(acknowledged)
    assert len(acknowledged) > times
    assert not list(folder.glob(".*part*"))


def test_nothing_is_lost_or_doubled_by_kills(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 8)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_doubled_by_a_hundred_kills(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 100)
