"""The rules of a run: what is scanned, what is not, what is kept, and how it ends."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from deepscan.archive import run as running
from deepscan.archive import scheduler
from deepscan.archive.events import ItemDone, RunStarted, RunStopping
from deepscan.archive.journal import read_journal
from deepscan.archive.lock import Lock
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.run import scan_archive
from deepscan.archive.shard import Shard
from deepscan.archive.stop_request import StopRequest
from deepscan.errors import EngineError, ModelError, OutputError, UsageError
from deepscan.files import part_name
from deepscan.options import ScanOptions
from deepscan.types import Label, Reason
from tests.archive.fake_pool import FakePool, by_content, outcome_for

ARCHIVE_OPTIONS = ArchiveOptions(reports=("jsonl",), write_found=("frames",), min_free=0)
OPTIONS = ScanOptions()


@pytest.fixture
def archive(tmp_path):
    """Four files: two of one content, one found manipulated, one broken."""
    folder = tmp_path / "archive"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"honest 1")
    (folder / "sub" / "a.mp4").write_bytes(b"fake   2")
    (folder / "b.mp4").write_bytes(b"honest 1")
    (folder / "c.mkv").write_bytes(b"junk")
    return folder


def scan(
    archive,
    out=None,
    rule=by_content,
    *,
    archive_options=ARCHIVE_OPTIONS,
    options=OPTIONS,
    pool=None,
    **wanted,
):
    """A run; the pool that did it, and what it gave."""
    pool = pool or FakePool(rule)
    inputs = wanted.pop("inputs", [str(archive)])
    ended = scan_archive(
        inputs,
        out or archive.parent / "out",
        options=options,
        pool=pool,
        archive_options=archive_options,
        **wanted,
    )
    return pool, ended


def labels(ended):
    return {outcome.name: str(outcome.label) for outcome in ended.outcomes}


def journal_lines(out, kind="done"):
    lines = (out / "journal.jsonl").read_bytes().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


# What a run gives


def test_every_file_has_one_outcome_and_its_outputs(archive):
    out = archive.parent / "out"
    pool, ended = scan(archive)
    assert labels(ended) == {
        "a.mp4": "no-evidence", "b.mp4": "no-evidence", "c.mkv": "error",
        "sub/a.mp4": "manipulated",
    }  # fmt: skip
    assert pool.closed
    assert ended.exit_code == 2 and not ended.interrupted
    assert [o.name for o in ended.results.outcomes] == sorted(labels(ended))
    assert ended.results.finished
    for outcome in ended.outcomes:
        assert outcome.identity is not None
        for written in outcome.outputs:
            assert (out / written.path).stat().st_size == written.size
            assert written.path.startswith(f"{outcome.folder}/result.")
    found = next(o for o in ended.outcomes if o.label is Label.MANIPULATED)
    assert {written.kind for written in found.outputs} == {"record", "frames"}
    assert (out / "results.jsonl").is_file()
    assert len(journal_lines(out)) == 4


def test_one_content_is_scanned_once_and_its_twin_linked(archive):
    pool, ended = scan(archive)
    assert sorted(pool.scanned) == ["a.mp4", "c.mkv", "sub/a.mp4"]
    twin = next(outcome for outcome in ended.outcomes if outcome.name == "b.mp4")
    first = next(outcome for outcome in ended.outcomes if outcome.name == "a.mp4")
    assert twin.same_as == "a.mp4"
    assert (twin.key, twin.outputs) == (first.key, first.outputs)
    assert twin.path == str(archive / "b.mp4") and twin.identity != first.identity


def test_a_twin_of_a_file_in_flight_waits_for_it(archive):
    for number in range(6):
        (archive / f"twin{number}.mp4").write_bytes(b"honest 1")
    pool, ended = scan(archive, pool=FakePool(slots=8))
    assert len(pool.scanned) == 3
    assert sum(outcome.same_as == "a.mp4" for outcome in ended.outcomes) == 7


def test_twins_of_a_broken_file_are_linked_too(archive):
    (archive / "d.mkv").write_bytes(b"junk")
    pool, ended = scan(archive)
    assert labels(ended)["d.mkv"] == "error"
    assert sum(name.endswith("mkv") for name in pool.scanned) == 1


def test_what_is_refused_has_an_outcome(archive):
    (archive / "link.mp4").symlink_to(archive / "a.mp4")
    os.mkfifo(archive / "pipe.mp4")
    pool, ended = scan(archive)
    found = {outcome.name: outcome.reasons[0].code for outcome in ended.outcomes}
    assert found["link.mp4"] == "skipped_symlink" and found["pipe.mp4"] == "skipped_special"
    assert "link.mp4" not in pool.scanned
    before = len(journal_lines(archive.parent / "out"))
    _, again = scan(archive)
    assert labels(again) == labels(ended)
    assert len(journal_lines(archive.parent / "out")) == before


def test_the_run_knows_its_settings(archive):
    _, ended = scan(archive, archive_options=replace(ARCHIVE_OPTIONS, command=("deepscan", "x")))
    run = ended.results.run
    assert (run.engine, run.model, run.controls_passed) == ("fake", ScanOptions().model, True)
    assert run.command == ("deepscan", "x") and dict(run.settings)["stride"] == 1
    assert 0 < run.operating_point < 1 and run.controls == (("known", 0.9),)


# Going on


def test_what_is_done_is_not_done_again(archive):
    scan(archive)
    before = len(journal_lines(archive.parent / "out"))
    pool, ended = scan(archive)
    assert pool.scanned == []
    assert len(labels(ended)) == 4 and ended.exit_code == 2
    assert len(journal_lines(archive.parent / "out")) == before


def test_new_and_changed_files_are_scanned(archive):
    scan(archive)
    (archive / "new.mp4").write_bytes(b"honest 3")
    (archive / "a.mp4").write_bytes(b"fake   9")
    pool, ended = scan(archive)
    assert sorted(pool.scanned) == ["a.mp4", "new.mp4"]
    assert labels(ended)["a.mp4"] == "manipulated"
    (old,) = ended.results.superseded
    assert (old.name, old.label) == ("a.mp4", Label.NO_EVIDENCE)
    kept = archive.parent / "out" / old.outputs[0].path
    assert kept.read_bytes().endswith(b"honest 1")  # the twin still stands on it
    assert labels(ended)["b.mp4"] == "no-evidence"


def test_a_touched_file_is_known_by_its_content(archive):
    scan(archive)
    os.utime(archive / "sub" / "a.mp4", ns=(1, 1))
    pool, ended = scan(archive)
    assert pool.scanned == []
    touched = next(o for o in ended.outcomes if o.name == "sub/a.mp4")
    assert touched.identity[3] == 1 and touched.same_as is None
    assert ended.results.superseded == ()
    again, _ = scan(archive)
    assert again.scanned == []


def test_a_moved_file_is_linked(archive):
    scan(archive)
    (archive / "sub" / "a.mp4").rename(archive / "moved.mp4")
    pool, ended = scan(archive)
    assert pool.scanned == []
    assert labels(ended)["moved.mp4"] == "manipulated"
    assert "sub/a.mp4" not in labels(ended)


def test_other_settings_scan_anew_and_keep_the_old_results(archive):
    _, first = scan(archive)
    pool, ended = scan(archive, options=ScanOptions(stride=2))
    assert len(pool.scanned) == 3
    assert {outcome.name for outcome in ended.results.superseded} >= {"a.mp4", "sub/a.mp4"}
    out = archive.parent / "out"
    for outcome in (*first.outcomes, *ended.outcomes):
        for written in outcome.outputs:
            assert (out / written.path).is_file()
    old, new = (
        next(o for o in each.outcomes if o.name == "sub/a.mp4").folder for each in (first, ended)
    )
    assert old != new
    back, ended = scan(archive)  # and the first settings once more: all but the error is there
    assert back.scanned == ["c.mkv"]
    assert {o.name: o.folder for o in ended.outcomes} == {o.name: o.folder for o in first.outcomes}


def test_more_outputs_mean_a_new_scan_in_the_same_place(archive):
    _, first = scan(archive)
    pool, ended = scan(
        archive, archive_options=replace(ARCHIVE_OPTIONS, write=("record", "frames"))
    )
    assert "a.mp4" in pool.scanned and "sub/a.mp4" not in pool.scanned  # it has both
    folders = [
        next(o for o in each.outcomes if o.name == "a.mp4").folder for each in (first, ended)
    ]
    assert folders[0] == folders[1]
    again, _ = scan(archive)
    assert again.scanned == []  # fewer are there as well


def test_lost_outputs_are_made_again(archive):
    _, ended = scan(archive)
    found = next(o for o in ended.outcomes if o.name == "sub/a.mp4")
    (archive.parent / "out" / found.outputs[0].path).unlink()
    pool, _ = scan(archive)
    assert pool.scanned == ["sub/a.mp4"]


def test_fresh_scans_all_and_keeps_the_old_journal(archive):
    scan(archive)
    out = archive.parent / "out"
    pool, ended = scan(archive, archive_options=replace(ARCHIVE_OPTIONS, fresh=True))
    assert len(pool.scanned) == 3 and len(ended.outcomes) == 4
    assert len(list(out.glob("journal.before-*.jsonl"))) == 1
    assert len(journal_lines(out)) == 4


def test_paranoid_hashes_what_looks_unchanged(archive):
    scan(archive)
    path = archive / "sub" / "a.mp4"
    facts = path.stat()
    path.write_bytes(b"honest 8")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    pool, ended = scan(archive)
    assert pool.scanned == [] and labels(ended)["sub/a.mp4"] == "manipulated"
    pool, ended = scan(archive, archive_options=replace(ARCHIVE_OPTIONS, paranoid=True))
    assert pool.scanned == ["sub/a.mp4"] and labels(ended)["sub/a.mp4"] == "no-evidence"


def test_errors_of_the_content_stay_and_passing_ones_do_not(archive):
    scan(archive)
    pool, _ = scan(archive)
    assert pool.scanned == []  # c.mkv is corrupt, today as yesterday

    def broken(task):
        return Reason("worker_crash", "the model process died")

    (archive / "z.mp4").write_bytes(b"honest, but long")
    pool, ended = scan(archive, rule=broken)
    assert labels(ended)["z.mp4"] == "error"
    pool, ended = scan(archive)
    assert pool.scanned == ["z.mp4"] and labels(ended)["z.mp4"] == "no-evidence"


def test_only_its_share_is_scanned(archive):
    seen = []
    for number in (1, 2):
        out = archive.parent / f"out{number}"
        share = replace(ARCHIVE_OPTIONS, shard=Shard(number, 2))
        for _ in range(2):  # the second time what is done is left out likewise
            _, ended = scan(archive, out, archive_options=share)
        seen += labels(ended)
        assert ended.results.run.shard == (number, 2)
    assert sorted(seen) == ["a.mp4", "b.mp4", "c.mkv", "sub/a.mp4"]


# Losses


def test_a_lost_task_is_tried_once_more_alone(archive):
    lost = []

    def rule(task):
        if task.file.name == "sub/a.mp4" and task.attempt == 1:
            lost.append(task)
            return Reason("worker_crash", "the model process died")
        return by_content(task)

    pool, ended = scan(archive, rule=rule)
    assert labels(ended)["sub/a.mp4"] == "manipulated"
    assert [task.attempt for task in pool.tasks if task.file.name == "sub/a.mp4"] == [1, 2]
    assert pool.tasks[-1].attempt == 2 and pool.together[-1] == 1
    (line,) = journal_lines(archive.parent / "out", "lost")
    assert line["name"] == "sub/a.mp4"


@pytest.mark.parametrize("code", ["decoder_crash", "limit_memory"])
def test_a_file_whose_decoder_was_killed_is_tried_once_more(archive, code):
    def rule(task):
        if task.file.name == "a.mp4" and task.attempt == 1:
            return outcome_for(task, Label.ERROR, reasons=(Reason(code, "killed"),), frames=0)
        if task.file.name == "sub/a.mp4":
            return outcome_for(task, Label.ERROR, reasons=(Reason(code, "again"),), frames=0)
        return by_content(task)

    pool, ended = scan(archive, rule=rule)
    assert labels(ended)["a.mp4"] == "no-evidence" and labels(ended)["sub/a.mp4"] == "error"
    assert pool.scanned.count("a.mp4") == pool.scanned.count("sub/a.mp4") == 2
    done = [line["outcome"]["name"] for line in journal_lines(archive.parent / "out")]
    assert sorted(done) == sorted(labels(ended))


def test_a_file_that_changes_while_it_is_scanned_is_scanned_once_more(archive):
    def rule(task):
        found = by_content(task)
        if task.file.name == "sub/a.mp4" and task.attempt == 1:
            task.file.path.write_bytes(b"honest now")
        return found

    out = archive.parent / "out"
    _, ended = scan(archive, rule=rule)
    outcome = next(o for o in ended.outcomes if o.name == "sub/a.mp4")
    assert outcome.label is Label.NO_EVIDENCE and outcome.identity[2] == len(b"honest now")
    found = {path.name for path in (out / outcome.folder).iterdir()}
    assert found == {"result.json"}  # what the first try found is not left beside it
    (line,) = journal_lines(out, "lost")
    assert line["reason"]["code"] == "changed"
    pool, _ = scan(archive)
    assert pool.scanned == []


def test_a_task_that_is_lost_twice_is_an_error_with_a_record(archive):
    def rule(task):
        if task.file.name == "sub/a.mp4":
            return Reason("worker_crash", "the model process died with signal 11")
        return by_content(task)

    pool, ended = scan(archive, rule=rule)
    assert pool.scanned.count("sub/a.mp4") == 2
    outcome = next(o for o in ended.outcomes if o.name == "sub/a.mp4")
    assert (outcome.label, outcome.reasons[0].code) == (Label.ERROR, "worker_crash")
    (written,) = outcome.outputs
    record = json.loads((archive.parent / "out" / written.path).read_bytes())
    assert record["verdict"]["label"] == "error"
    assert record["verdict"]["reasons"][0]["code"] == "worker_crash"
    assert ended.exit_code == 2


def test_nothing_is_left_of_tries_that_were_killed(archive):
    """A model process dies while it writes, or between its last output and its word about it."""

    def rule(task):
        killed = {"a.mp4": (1,), "sub/a.mp4": (1, 2)}.get(task.file.name, ())
        if task.attempt not in killed:
            return by_content(task)
        outcome_for(task, Label.MANIPULATED)
        part_name(task.folder / "result.masks.mkv").write_bytes(b"half")
        return Reason("worker_crash", "the model process died")

    _, ended = scan(archive, rule=rule)
    assert labels(ended)["a.mp4"] == "no-evidence" and labels(ended)["sub/a.mp4"] == "error"
    out = archive.parent / "out"
    named = {written.path for outcome in ended.outcomes for written in outcome.outputs}
    lie = {str(path.relative_to(out)) for path in out.glob("*/**/*") if path.is_file()}
    assert lie == named


def test_a_twin_of_a_lost_file_gets_a_scan_of_its_own(archive):
    def rule(task):
        if task.file.name == "a.mp4":
            return Reason("worker_crash", "died")
        return by_content(task)

    _, ended = scan(archive, rule=rule, pool=FakePool(rule, slots=4))
    assert labels(ended)["b.mp4"] == "no-evidence"


def test_a_lost_node_is_not_the_files_fault(archive):
    def rule(task):
        if task.file.name == "sub/a.mp4" and task.attempt < 4:
            return Reason("node_lost", "the machine went")
        return by_content(task)

    _, ended = scan(archive, rule=rule)
    assert labels(ended)["sub/a.mp4"] == "manipulated"


def test_a_node_that_is_lost_for_ever_is_an_error(archive):
    pool, ended = scan(archive, rule=lambda task: Reason("node_lost", "the machine went"))
    assert set(labels(ended).values()) == {"error"}
    assert len(pool.scanned) == 4 * scheduler.MAX_NODE_ATTEMPTS


# Ends


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(archive):
    def rule(task):
        if task.file.name == "c.mkv":
            return Reason("disk_full", "r.json cannot be written: No space left on device")
        return by_content(task)

    pool = FakePool(rule, slots=1)
    with pytest.raises(OutputError, match="Free some space"):
        scan(archive, pool=pool)
    assert pool.closed
    results = read_journal(archive.parent / "out")
    assert {outcome.name for outcome in results.outcomes} == {"a.mp4", "b.mp4"}
    assert not results.finished
    pool, ended = scan(archive)
    assert sorted(pool.scanned) == ["c.mkv", "sub/a.mp4"] and ended.results.finished


def test_too_little_room_stops_before_the_disk_is_full(archive):
    pool = FakePool()
    with pytest.raises(OutputError, match="MiB are free"):
        scan(archive, pool=pool, archive_options=replace(ARCHIVE_OPTIONS, min_free=2**62))
    assert pool.scanned == [] and pool.closed


def test_a_journal_that_cannot_be_written_stops_the_run(archive, monkeypatch):
    done = running.Journal.done

    def once(self, outcome):
        if len(self.state.outcomes) == 1:
            raise OutputError("journal.jsonl cannot be written: No space left on device")
        done(self, outcome)

    monkeypatch.setattr(running.Journal, "done", once)
    pool = FakePool()
    with pytest.raises(OutputError, match="journal"):
        scan(archive, pool=pool)
    assert pool.closed


def test_failed_controls_void_the_run(archive):
    pool = FakePool(controls_passed=False)
    with pytest.raises(EngineError, match="known crops as expected"):
        scan(archive, pool=pool)
    assert pool.closed and pool.scanned == []
    with pytest.raises(OutputError, match="no run"):
        read_journal(archive.parent / "out")
    _, ended = scan(archive)  # and the folder can still be used
    assert len(ended.outcomes) == 4


def test_an_engine_that_goes_ends_the_run(archive):
    with pytest.raises(EngineError, match="no device"):
        scan(archive, rule=lambda task: EngineError("no device"))
    assert not read_journal(archive.parent / "out").finished
    (line,) = journal_lines(archive.parent / "out", "ended")
    assert (line["finished"], line["exit"]) == (False, 2)


def test_the_files_that_wait_in_a_watch_are_not_passed_over(archive):
    (archive / "notes.txt").touch()
    given = {"include": ("a.mp4",), "reports": ("jsonl",), "min_free": 0}
    for watching, told in ((True, ()), (False, (("excluded", 3),))):
        _, ended = scan(archive, archive_options=ArchiveOptions(watch=watching, **given))
        assert ended.results.run.passed_over == told


def test_a_stop_request_lets_what_is_in_flight_end(archive):
    stop_request = StopRequest()
    told = []

    def rule(task):
        if not stop_request.requested:
            stop_request.stop()
        return by_content(task)

    pool, ended = scan(
        archive, pool=FakePool(rule, slots=2), stop_request=stop_request, on_event=told.append
    )
    assert ended.interrupted and ended.exit_code == 130
    assert len(pool.scanned) == 2 and len(ended.outcomes) == 2
    assert not ended.results.finished
    assert (ended.results.left, ended.results.run.listed) == (2, 4)
    assert read_journal(archive.parent / "out").left == 2
    assert any(isinstance(event, RunStopping) for event in told)
    pool, ended = scan(archive)
    assert len(pool.scanned) == 1 and ended.results.finished


def test_a_stop_request_that_comes_after_the_last_file_finds_a_finished_run(archive):
    stop_request = StopRequest()

    def code_of(outcomes):
        stop_request.stop()
        return 0

    _, ended = scan(archive, stop_request=stop_request, code_of=code_of)
    assert (ended.exit_code, ended.interrupted, ended.results.finished) == (0, False, True)
    (line,) = journal_lines(archive.parent / "out", "ended")
    assert (line["finished"], line["exit"]) == (True, 0)


def test_stopping_twice_ends_it_at_once(archive):
    stop_request = StopRequest()

    def rule(task):
        stop_request.stop()
        stop_request.stop()
        return by_content(task)

    pool = FakePool(rule)
    with pytest.raises(KeyboardInterrupt):
        scan(archive, pool=pool, stop_request=stop_request)
    assert pool.closed
    assert read_journal(archive.parent / "out").outcomes == ()


def test_before_there_is_work_a_stop_request_ends_it_at_once():
    with pytest.raises(KeyboardInterrupt):
        StopRequest().stop()


def test_an_abort_waits_for_what_must_be_whole():
    stop_request = StopRequest()
    reached = []
    with pytest.raises(KeyboardInterrupt), stop_request.deferred():
        with stop_request.deferred():
            stop_request.abort()
            reached.append("inside")
        reached.append("still inside")
    assert reached == ["inside", "still inside"]
    with stop_request.deferred():
        pass  # it strikes once
    with pytest.raises(KeyboardInterrupt):
        stop_request.abort()


def test_an_interrupt_in_a_journal_line_does_not_tear_it(archive, monkeypatch):
    stop_request = StopRequest()
    real, calls = os.fsync, []

    def fsync(descriptor):
        real(descriptor)
        calls.append(descriptor)
        if len(calls) == 9:
            stop_request.abort()

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        scan(archive, stop_request=stop_request)
    monkeypatch.undo()
    assert not read_journal(archive.parent / "out").finished
    _, ended = scan(archive)
    assert len(ended.outcomes) == 4


def test_what_was_told_before_an_interrupt_is_written_down(archive):
    class Late(FakePool):
        """Is interrupted while it waits, with an outcome in hand."""

        interrupted = False

        def wait(self, timeout):
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            return super().wait(timeout)

    with pytest.raises(KeyboardInterrupt):
        scan(archive, pool=Late())
    assert len(read_journal(archive.parent / "out").outcomes) == 1


def test_a_damaged_journal_is_told_before_engines_are_loaded(archive):
    scan(archive)
    journal = archive.parent / "out" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], lines[1][:-40] + b"\n", *lines[2:]]))
    pool = FakePool()
    with pytest.raises(OutputError, match="damaged"):
        scan(archive, pool=pool)
    assert not pool.started
    _, ended = scan(archive, archive_options=replace(ARCHIVE_OPTIONS, fresh=True))
    assert len(ended.outcomes) == 4


def test_a_fresh_run_that_cannot_begin_keeps_the_journal(archive):
    scan(archive)
    with pytest.raises(EngineError):
        scan(
            archive,
            pool=FakePool(controls_passed=False),
            archive_options=replace(ARCHIVE_OPTIONS, fresh=True),
        )
    pool, ended = scan(archive)
    assert pool.scanned == [] and len(ended.outcomes) == 4


def test_a_second_run_is_refused(archive):
    out = archive.parent / "out"
    out.mkdir()
    pool = FakePool()
    with Lock(out), pytest.raises(OutputError, match=str(os.getpid())):
        scan(archive, pool=pool)
    assert not pool.started


# Files that are elsewhere


def test_remote_files_are_fetched_scanned_and_removed(archive):
    address = f"file://{archive}"
    out = archive.parent / "out"
    there = []

    def rule(task):
        there.append(task.file.path)
        return by_content(task)

    pool, ended = scan(archive, rule=rule, inputs=[address])
    assert sorted(labels(ended).values()) == ["error", "manipulated", "no-evidence", "no-evidence"]
    assert len(pool.scanned) == 3
    assert all(outcome.path.startswith("file://") for outcome in ended.outcomes)
    assert all(path.is_relative_to(out.resolve() / ".fetched") for path in there)
    assert not any(path.exists() for path in there)
    again, ended = scan(archive, inputs=[address])
    assert again.scanned == [] and len(ended.outcomes) == 4


def test_a_remote_file_that_goes_away_is_an_error(archive, monkeypatch):
    from deepscan.archive.inputs import prefetcher
    from deepscan.errors import UnreadableError

    real = prefetcher.fetch

    def fetch(address, folder, **rest):
        if address.endswith("sub/a.mp4"):
            raise UnreadableError(f"{address} is gone")
        return real(address, folder, **rest)

    monkeypatch.setattr(prefetcher, "fetch", fetch)
    _, ended = scan(archive, inputs=[f"file://{archive}"])
    gone = next(o for o in ended.outcomes if o.reasons[0].code == "unreadable")
    assert gone.label is Label.ERROR and len(ended.outcomes) == 4
    monkeypatch.undo()
    pool, ended = scan(archive, inputs=[f"file://{archive}"])
    assert len(pool.scanned) == 1 and labels(ended)[gone.name] == "manipulated"


# Before any work


@pytest.mark.parametrize(
    ("wanted", "error", "told"),
    [
        ({"options": ScanOptions(model="oracle")}, ModelError, "oracle"),
        ({"options": ScanOptions(false_alarm_rate=1e-9)}, UsageError, "false alarms are beyond"),
        ({"archive_options": replace(ARCHIVE_OPTIONS, reports=("poem",))}, UsageError, "poem"),
        (
            {"archive_options": replace(ARCHIVE_OPTIONS, exclude=("*",))},
            UsageError,
            "nothing to scan",
        ),
        ({"inputs": ["no*such"]}, UsageError, "no"),
    ],
)
def test_what_cannot_work_is_told_before_any_work(archive, wanted, error, told):
    pool = FakePool()
    with pytest.raises(error, match=told):
        scan(archive, pool=pool, **wanted)
    assert not pool.started


def test_results_do_not_go_among_other_files(archive):
    pool = FakePool()
    with pytest.raises(UsageError, match="no results folder"):
        scan(archive, archive, pool=pool)
    assert not pool.started
    assert sorted(os.listdir(archive)) == ["a.mp4", "b.mp4", "c.mkv", "sub"]


def test_a_folder_that_a_killed_run_has_left_is_taken(archive):
    out = archive.parent / "out"
    out.mkdir()
    (out / ".lock").touch()
    (out / "journal.jsonl").touch()
    _, ended = scan(archive)
    assert len(ended.outcomes) == 4


# What is told


def test_events(archive):
    told = []
    scan(archive, on_event=told.append)
    assert isinstance(told[0], RunStarted) and told[0].total == 4
    settled = [event for event in told if isinstance(event, ItemDone)]
    assert len(settled) == 4 and sum(event.fresh for event in settled) == 3


def test_a_report_that_fails_does_not_cost_the_run(archive, monkeypatch):
    def fails(results, path):
        raise RuntimeError("oops")

    monkeypatch.setattr(running, "load_report", lambda name, *_: ("x.txt", fails))
    _, ended = scan(archive)
    assert ended.report_errors == ("x.txt: oops",)
    assert ended.exit_code == 2 and len(ended.outcomes) == 4


def test_reports_are_written_now_and_then(archive, monkeypatch):
    monkeypatch.setattr(scheduler, "REPORT_INTERVAL", 0.0)
    monkeypatch.setattr(scheduler, "REPORT_SHARE", 0)
    seen = []

    def write(results, path):
        seen.append((len(results.outcomes), results.finished))

    monkeypatch.setattr(running, "load_report", lambda name, *_: ("x.txt", write))
    scan(archive)
    assert len(seen) > 1 and seen[-1] == (4, True)
    assert not any(finished for _, finished in seen[:-1])


def test_names_that_are_no_text_pass(archive):
    name = os.fsdecode(b"x\xff\x1b[2J.mp4")
    try:
        (archive / name).write_bytes(b"honest, this too")
    except OSError:
        pytest.skip("this file system takes no such names")
    _, ended = scan(archive)
    assert labels(ended)[name] == "no-evidence"
    assert {o.name for o in read_journal(archive.parent / "out").outcomes} == set(labels(ended))


def test_the_runs_process_needs_neither_torch_nor_a_decoder(archive):
    import subprocess
    import sys

    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.archive.fake_pool import FakePool\n"
        "from deepscan.archive.options import ArchiveOptions\n"
        "from deepscan.archive.run import scan_archive\n"
        "from deepscan.archive.workers.local import LocalPool\n"
        "from deepscan.archive.progress import open_view\n"
        "from deepscan.options import ScanOptions\n"
        "scan_archive([sys.argv[1]], Path(sys.argv[2]), options=ScanOptions(), pool=FakePool(),\n"
        "             archive_options=ArchiveOptions(min_free=0, reports=('csv', 'jsonl')))\n"
        "print([m for m in ('torch', 'av', 'decord', 'openvino') if m in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(archive), str(archive.parent / "out")],
        capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.stdout == "[]\n"
