"""The rules of a run: what is scanned, what is not, what is kept, and how it ends."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from deepscan.archive import run as running
from deepscan.archive.journal import read_journal
from deepscan.archive.lock import Lock
from deepscan.archive.run import Brake, Settled, Standing, Stopping, Ways, scan_archive
from deepscan.errors import EngineError, ModelError, OutputError, UsageError
from deepscan.files import part_name
from deepscan.options import ScanOptions
from deepscan.types import Label, Reason
from tests.archive.fake_crew import FakeCrew, by_content, outcome_for

WAYS = Ways(reports=("jsonl",), write_found=("frames",), min_free=0)
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


def scan(archive, out=None, rule=by_content, *, ways=WAYS, options=OPTIONS, crew=None, **wanted):
    """A run; the crew that did it, and what it gave."""
    crew = crew or FakeCrew(rule)
    inputs = wanted.pop("inputs", [str(archive)])
    ended = scan_archive(
        inputs, out or archive.parent / "out", options=options, crew=crew, ways=ways, **wanted
    )
    return crew, ended


def labels(ended):
    return {outcome.name: str(outcome.label) for outcome in ended.outcomes}


def journal_lines(out, kind="done"):
    lines = (out / "journal.jsonl").read_bytes().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


# What a run gives


def test_every_file_has_one_outcome_and_its_outputs(archive):
    out = archive.parent / "out"
    crew, ended = scan(archive)
    assert labels(ended) == {
        "a.mp4": "no-evidence", "b.mp4": "no-evidence", "c.mkv": "error",
        "sub/a.mp4": "manipulated",
    }  # fmt: skip
    assert crew.closed
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
    crew, ended = scan(archive)
    assert sorted(crew.scanned) == ["a.mp4", "c.mkv", "sub/a.mp4"]
    twin = next(outcome for outcome in ended.outcomes if outcome.name == "b.mp4")
    first = next(outcome for outcome in ended.outcomes if outcome.name == "a.mp4")
    assert twin.same_as == "a.mp4"
    assert (twin.key, twin.outputs) == (first.key, first.outputs)
    assert twin.path == str(archive / "b.mp4") and twin.identity != first.identity


def test_a_twin_of_a_file_in_flight_waits_for_it(archive):
    for number in range(6):
        (archive / f"twin{number}.mp4").write_bytes(b"honest 1")
    crew, ended = scan(archive, crew=FakeCrew(slots=8))
    assert len(crew.scanned) == 3
    assert sum(outcome.same_as == "a.mp4" for outcome in ended.outcomes) == 7


def test_twins_of_a_broken_file_are_linked_too(archive):
    (archive / "d.mkv").write_bytes(b"junk")
    crew, ended = scan(archive)
    assert labels(ended)["d.mkv"] == "error"
    assert sum(name.endswith("mkv") for name in crew.scanned) == 1


def test_what_is_refused_has_an_outcome(archive):
    (archive / "link.mp4").symlink_to(archive / "a.mp4")
    os.mkfifo(archive / "pipe.mp4")
    crew, ended = scan(archive)
    found = {outcome.name: outcome.reasons[0].code for outcome in ended.outcomes}
    assert found["link.mp4"] == "skipped_symlink" and found["pipe.mp4"] == "skipped_special"
    assert "link.mp4" not in crew.scanned
    before = len(journal_lines(archive.parent / "out"))
    _, again = scan(archive)
    assert labels(again) == labels(ended)
    assert len(journal_lines(archive.parent / "out")) == before


def test_the_run_knows_its_settings(archive):
    _, ended = scan(archive, ways=replace(WAYS, command=("deepscan", "x")))
    run = ended.results.run
    assert (run.engine, run.model, run.controls_passed) == ("fake", "msccnet-s", True)
    assert run.command == ("deepscan", "x") and dict(run.settings)["stride"] == 1
    assert 0 < run.operating_point < 1 and run.controls == (("known", 0.9),)


# Going on


def test_what_is_done_is_not_done_again(archive):
    scan(archive)
    before = len(journal_lines(archive.parent / "out"))
    crew, ended = scan(archive)
    assert crew.scanned == []
    assert len(labels(ended)) == 4 and ended.exit_code == 2
    assert len(journal_lines(archive.parent / "out")) == before


def test_new_and_changed_files_are_scanned(archive):
    scan(archive)
    (archive / "new.mp4").write_bytes(b"honest 3")
    (archive / "a.mp4").write_bytes(b"fake   9")
    crew, ended = scan(archive)
    assert sorted(crew.scanned) == ["a.mp4", "new.mp4"]
    assert labels(ended)["a.mp4"] == "manipulated"
    (old,) = ended.results.superseded
    assert (old.name, old.label) == ("a.mp4", Label.NO_EVIDENCE)
    kept = archive.parent / "out" / old.outputs[0].path
    assert kept.read_bytes().endswith(b"honest 1")  # the twin still stands on it
    assert labels(ended)["b.mp4"] == "no-evidence"


def test_a_touched_file_is_known_by_its_content(archive):
    scan(archive)
    os.utime(archive / "sub" / "a.mp4", ns=(1, 1))
    crew, ended = scan(archive)
    assert crew.scanned == []
    touched = next(o for o in ended.outcomes if o.name == "sub/a.mp4")
    assert touched.identity[3] == 1 and touched.same_as is None
    assert ended.results.superseded == ()
    again, _ = scan(archive)
    assert again.scanned == []


def test_a_moved_file_is_linked(archive):
    scan(archive)
    (archive / "sub" / "a.mp4").rename(archive / "moved.mp4")
    crew, ended = scan(archive)
    assert crew.scanned == []
    assert labels(ended)["moved.mp4"] == "manipulated"
    assert "sub/a.mp4" not in labels(ended)


def test_other_settings_scan_anew_and_keep_the_old_results(archive):
    _, first = scan(archive)
    crew, ended = scan(archive, options=ScanOptions(stride=2))
    assert len(crew.scanned) == 3
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
    crew, ended = scan(archive, ways=replace(WAYS, write=("record", "frames")))
    assert "a.mp4" in crew.scanned and "sub/a.mp4" not in crew.scanned  # it has both
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
    crew, _ = scan(archive)
    assert crew.scanned == ["sub/a.mp4"]


def test_fresh_scans_all_and_keeps_the_old_journal(archive):
    scan(archive)
    out = archive.parent / "out"
    crew, ended = scan(archive, ways=replace(WAYS, fresh=True))
    assert len(crew.scanned) == 3 and len(ended.outcomes) == 4
    assert len(list(out.glob("journal.before-*.jsonl"))) == 1
    assert len(journal_lines(out)) == 4


def test_paranoid_hashes_what_looks_unchanged(archive):
    scan(archive)
    path = archive / "sub" / "a.mp4"
    facts = path.stat()
    path.write_bytes(b"honest 8")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    crew, ended = scan(archive)
    assert crew.scanned == [] and labels(ended)["sub/a.mp4"] == "manipulated"
    crew, ended = scan(archive, ways=replace(WAYS, paranoid=True))
    assert crew.scanned == ["sub/a.mp4"] and labels(ended)["sub/a.mp4"] == "no-evidence"


def test_errors_of_the_content_stay_and_passing_ones_do_not(archive):
    scan(archive)
    crew, _ = scan(archive)
    assert crew.scanned == []  # c.mkv is corrupt, today as yesterday

    def broken(task):
        return Reason("worker_crash", "the model process died")

    (archive / "z.mp4").write_bytes(b"honest, but long")
    crew, ended = scan(archive, rule=broken)
    assert labels(ended)["z.mp4"] == "error"
    crew, ended = scan(archive)
    assert crew.scanned == ["z.mp4"] and labels(ended)["z.mp4"] == "no-evidence"


def test_only_its_share_is_scanned(archive):
    class Half:
        def __init__(self, odd):
            self.odd = odd

        def takes(self, sha256):
            return int(sha256[-1], 16) % 2 == self.odd

    seen = []
    for odd in (0, 1):
        out = archive.parent / f"out{odd}"
        for _ in range(2):  # the second time what is done is left out likewise
            _, ended = scan(archive, out, ways=replace(WAYS, share=Half(odd), shard=(odd + 1, 2)))
        seen += labels(ended)
        assert ended.results.run.shard == (odd + 1, 2)
    assert sorted(seen) == ["a.mp4", "b.mp4", "c.mkv", "sub/a.mp4"]


# Losses


def test_a_lost_task_is_tried_once_more_alone(archive):
    lost = []

    def rule(task):
        if task.item.name == "sub/a.mp4" and task.attempt == 1:
            lost.append(task)
            return Reason("worker_crash", "the model process died")
        return by_content(task)

    crew, ended = scan(archive, rule=rule)
    assert labels(ended)["sub/a.mp4"] == "manipulated"
    assert [task.attempt for task in crew.tasks if task.item.name == "sub/a.mp4"] == [1, 2]
    assert crew.tasks[-1].attempt == 2 and crew.together[-1] == 1
    (line,) = journal_lines(archive.parent / "out", "lost")
    assert line["name"] == "sub/a.mp4"


@pytest.mark.parametrize("code", ["decoder_crash", "limit_memory"])
def test_a_file_whose_decoder_was_killed_is_tried_once_more(archive, code):
    def rule(task):
        if task.item.name == "a.mp4" and task.attempt == 1:
            return outcome_for(task, Label.ERROR, reasons=(Reason(code, "killed"),), frames=0)
        if task.item.name == "sub/a.mp4":
            return outcome_for(task, Label.ERROR, reasons=(Reason(code, "again"),), frames=0)
        return by_content(task)

    crew, ended = scan(archive, rule=rule)
    assert labels(ended)["a.mp4"] == "no-evidence" and labels(ended)["sub/a.mp4"] == "error"
    assert crew.scanned.count("a.mp4") == crew.scanned.count("sub/a.mp4") == 2
    done = [line["outcome"]["name"] for line in journal_lines(archive.parent / "out")]
    assert sorted(done) == sorted(labels(ended))


def test_a_file_that_changes_while_it_is_scanned_is_scanned_once_more(archive):
    def rule(task):
        found = by_content(task)
        if task.item.name == "sub/a.mp4" and task.attempt == 1:
            task.item.path.write_bytes(b"honest now")
        return found

    out = archive.parent / "out"
    _, ended = scan(archive, rule=rule)
    outcome = next(o for o in ended.outcomes if o.name == "sub/a.mp4")
    assert outcome.label is Label.NO_EVIDENCE and outcome.identity[2] == len(b"honest now")
    found = {path.name for path in (out / outcome.folder).iterdir()}
    assert found == {"result.json"}  # what the first try found is not left beside it
    (line,) = journal_lines(out, "lost")
    assert line["reason"]["code"] == "changed"
    crew, _ = scan(archive)
    assert crew.scanned == []


def test_a_task_that_is_lost_twice_is_an_error_with_a_record(archive):
    def rule(task):
        if task.item.name == "sub/a.mp4":
            return Reason("worker_crash", "the model process died with signal 11")
        return by_content(task)

    crew, ended = scan(archive, rule=rule)
    assert crew.scanned.count("sub/a.mp4") == 2
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
        killed = {"a.mp4": (1,), "sub/a.mp4": (1, 2)}.get(task.item.name, ())
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
        if task.item.name == "a.mp4":
            return Reason("worker_crash", "died")
        return by_content(task)

    _, ended = scan(archive, rule=rule, crew=FakeCrew(rule, slots=4))
    assert labels(ended)["b.mp4"] == "no-evidence"


def test_a_lost_node_is_not_the_files_fault(archive):
    def rule(task):
        if task.item.name == "sub/a.mp4" and task.attempt < 4:
            return Reason("node_lost", "the machine went")
        return by_content(task)

    _, ended = scan(archive, rule=rule)
    assert labels(ended)["sub/a.mp4"] == "manipulated"


def test_a_node_that_is_lost_for_ever_is_an_error(archive):
    crew, ended = scan(archive, rule=lambda task: Reason("node_lost", "the machine went"))
    assert set(labels(ended).values()) == {"error"}
    assert len(crew.scanned) == 4 * running.NODE_TRIES


# Ends


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(archive):
    def rule(task):
        if task.item.name == "c.mkv":
            return Reason("disk_full", "r.json cannot be written: No space left on device")
        return by_content(task)

    crew = FakeCrew(rule, slots=1)
    with pytest.raises(OutputError, match="Make room"):
        scan(archive, crew=crew)
    assert crew.closed
    results = read_journal(archive.parent / "out")
    assert {outcome.name for outcome in results.outcomes} == {"a.mp4", "b.mp4"}
    assert not results.finished
    crew, ended = scan(archive)
    assert sorted(crew.scanned) == ["c.mkv", "sub/a.mp4"] and ended.results.finished


def test_too_little_room_stops_before_the_disk_is_full(archive):
    crew = FakeCrew()
    with pytest.raises(OutputError, match="MiB are free"):
        scan(archive, crew=crew, ways=replace(WAYS, min_free=2**62))
    assert crew.scanned == [] and crew.closed


def test_a_journal_that_cannot_be_written_stops_the_run(archive, monkeypatch):
    done = running.Journal.done

    def once(self, outcome):
        if len(self.memory.outcomes) == 1:
            raise OutputError("journal.jsonl cannot be written: No space left on device")
        done(self, outcome)

    monkeypatch.setattr(running.Journal, "done", once)
    crew = FakeCrew()
    with pytest.raises(OutputError, match="journal"):
        scan(archive, crew=crew)
    assert crew.closed


def test_failed_controls_void_the_run(archive):
    crew = FakeCrew(controls_passed=False)
    with pytest.raises(EngineError, match="void"):
        scan(archive, crew=crew)
    assert crew.closed and crew.scanned == []
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


def test_the_brake_lets_what_is_in_flight_end(archive):
    brake = Brake()
    told = []

    def rule(task):
        if not brake.asked:
            brake.press()
        return by_content(task)

    crew, ended = scan(archive, crew=FakeCrew(rule, slots=2), brake=brake, on_event=told.append)
    assert ended.interrupted and ended.exit_code == 130
    assert len(crew.scanned) == 2 and len(ended.outcomes) == 2
    assert not ended.results.finished
    assert any(isinstance(event, Stopping) for event in told)
    crew, ended = scan(archive)
    assert len(crew.scanned) == 1 and ended.results.finished


def test_a_brake_that_comes_after_the_last_file_finds_a_finished_run(archive):
    brake = Brake()

    def code_of(outcomes):
        brake.press()
        return 0

    _, ended = scan(archive, brake=brake, code_of=code_of)
    assert (ended.exit_code, ended.interrupted, ended.results.finished) == (0, False, True)
    (line,) = journal_lines(archive.parent / "out", "ended")
    assert (line["finished"], line["exit"]) == (True, 0)


def test_pressing_twice_ends_it_at_once(archive):
    brake = Brake()

    def rule(task):
        brake.press()
        brake.press()
        return by_content(task)

    crew = FakeCrew(rule)
    with pytest.raises(KeyboardInterrupt):
        scan(archive, crew=crew, brake=brake)
    assert crew.closed
    assert read_journal(archive.parent / "out").outcomes == ()


def test_before_there_is_work_the_brake_ends_it_at_once():
    with pytest.raises(KeyboardInterrupt):
        Brake().press()


def test_the_brake_waits_for_what_must_be_whole():
    brake = Brake()
    reached = []
    with pytest.raises(KeyboardInterrupt), brake.held_off():
        with brake.held_off():
            brake.slam()
            reached.append("inside")
        reached.append("still inside")
    assert reached == ["inside", "still inside"]
    with brake.held_off():
        pass  # it strikes once
    with pytest.raises(KeyboardInterrupt):
        brake.slam()


def test_an_interrupt_in_a_journal_line_does_not_tear_it(archive, monkeypatch):
    brake = Brake()
    real, calls = os.fsync, []

    def fsync(descriptor):
        real(descriptor)
        calls.append(descriptor)
        if len(calls) == 9:
            brake.slam()

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        scan(archive, brake=brake)
    monkeypatch.undo()
    assert not read_journal(archive.parent / "out").finished
    _, ended = scan(archive)
    assert len(ended.outcomes) == 4


def test_what_was_told_before_an_interrupt_is_written_down(archive):
    class Late(FakeCrew):
        """Is interrupted while it waits, with an outcome in hand."""

        interrupted = False

        def wait(self, timeout):
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            return super().wait(timeout)

    with pytest.raises(KeyboardInterrupt):
        scan(archive, crew=Late())
    assert len(read_journal(archive.parent / "out").outcomes) == 1


def test_a_damaged_journal_is_told_before_engines_are_loaded(archive):
    scan(archive)
    journal = archive.parent / "out" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], lines[1][:-40] + b"\n", *lines[2:]]))
    crew = FakeCrew()
    with pytest.raises(OutputError, match="damaged"):
        scan(archive, crew=crew)
    assert not crew.started
    _, ended = scan(archive, ways=replace(WAYS, fresh=True))
    assert len(ended.outcomes) == 4


def test_a_fresh_run_that_cannot_begin_keeps_the_journal(archive):
    scan(archive)
    with pytest.raises(EngineError):
        scan(archive, crew=FakeCrew(controls_passed=False), ways=replace(WAYS, fresh=True))
    crew, ended = scan(archive)
    assert crew.scanned == [] and len(ended.outcomes) == 4


def test_a_second_run_is_refused(archive):
    out = archive.parent / "out"
    out.mkdir()
    crew = FakeCrew()
    with Lock(out), pytest.raises(OutputError, match=str(os.getpid())):
        scan(archive, crew=crew)
    assert not crew.started


# Files that are elsewhere


def test_remote_files_are_fetched_scanned_and_removed(archive):
    address = f"file://{archive}"
    out = archive.parent / "out"
    there = []

    def rule(task):
        there.append(task.item.path)
        return by_content(task)

    crew, ended = scan(archive, rule=rule, inputs=[address])
    assert sorted(labels(ended).values()) == ["error", "manipulated", "no-evidence", "no-evidence"]
    assert len(crew.scanned) == 3
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
    crew, ended = scan(archive, inputs=[f"file://{archive}"])
    assert len(crew.scanned) == 1 and labels(ended)[gone.name] == "manipulated"


# Before any work


@pytest.mark.parametrize(
    ("wanted", "error", "told"),
    [
        ({"options": ScanOptions(model="oracle")}, ModelError, "oracle"),
        ({"options": ScanOptions(false_alarm_rate=1e-9)}, UsageError, "false-alarm rate"),
        ({"ways": replace(WAYS, reports=("poem",))}, UsageError, "poem"),
        ({"ways": replace(WAYS, exclude=("*",))}, UsageError, "nothing to scan"),
        ({"inputs": ["no*such"]}, UsageError, "no"),
    ],
)
def test_what_cannot_work_is_told_before_any_work(archive, wanted, error, told):
    crew = FakeCrew()
    with pytest.raises(error, match=told):
        scan(archive, crew=crew, **wanted)
    assert not crew.started


def test_results_do_not_go_among_other_files(archive):
    crew = FakeCrew()
    with pytest.raises(UsageError, match="no results folder"):
        scan(archive, archive, crew=crew)
    assert not crew.started
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
    assert isinstance(told[0], Standing) and told[0].total == 4
    settled = [event for event in told if isinstance(event, Settled)]
    assert len(settled) == 4 and sum(event.fresh for event in settled) == 3


def test_a_report_that_fails_does_not_cost_the_run(archive, monkeypatch):
    def fails(results, path):
        raise RuntimeError("oops")

    monkeypatch.setattr(running, "load_report", lambda name: ("x.txt", fails))
    _, ended = scan(archive)
    assert ended.report_errors == ("x.txt: oops",)
    assert ended.exit_code == 2 and len(ended.outcomes) == 4


def test_reports_are_written_now_and_then(archive, monkeypatch):
    monkeypatch.setattr(running, "REPORT_EVERY", 0.0)
    monkeypatch.setattr(running, "REPORT_SHARE", 0)
    seen = []

    def write(results, path):
        seen.append((len(results.outcomes), results.finished))

    monkeypatch.setattr(running, "load_report", lambda name: ("x.txt", write))
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
        "from tests.archive.fake_crew import FakeCrew\n"
        "from deepscan.archive.run import Ways, scan_archive\n"
        "from deepscan.archive.workers.local import LocalCrew\n"
        "from deepscan.archive.live import open_view\n"
        "from deepscan.options import ScanOptions\n"
        "scan_archive([sys.argv[1]], Path(sys.argv[2]), options=ScanOptions(), crew=FakeCrew(),\n"
        "             ways=Ways(min_free=0, reports=('csv', 'jsonl')))\n"
        "print([m for m in ('torch', 'av', 'decord', 'openvino') if m in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(archive), str(archive.parent / "out")],
        capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.stdout == "[]\n"
