"""Two results compared: which verdicts changed, by how much, and why."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deepscan.archive.diff import compare, to_json, to_text
from deepscan.archive.journal import Journal
from deepscan.archive.records import OutputFile
from deepscan.archive.states import Coverage
from deepscan.errors import UsageError
from deepscan.sinks.record import record_of, write_record
from deepscan.types import Label, Reason, Skipped
from tests.archive.made import RUN, outcome
from tests.sinks import build

OTHER = replace(RUN, settings_hash="d2")


def folder(path, *outcomes, run=RUN):
    path.mkdir(exist_ok=True)
    with Journal(path) as journal:
        journal.begin(run)
        for each in outcomes:
            journal.done(each)
        journal.ended(finished=True, exit_code=0)
    return path


def pair(tmp_path, run, *, old=None, new=None, old_run=RUN):
    """One file, judged under two runs."""
    before = outcome("a.mp4", **(old or {"score": 0.2}))
    after = outcome("a.mp4", settings_hash=run.settings_hash, **(new or {"label": Label.MANIPULATED,
                                                             "score": 0.97}))  # fmt: skip
    one = folder(tmp_path / "old", before, run=old_run)
    two = folder(tmp_path / "new", after, run=run)
    return compare(one, two)


def changes(found):
    (move,) = found.moves
    return {(change.cause, change.what, change.old, change.new) for change in move.changes}


def test_the_same_results_do_not_move(tmp_path):
    files = [outcome("a.mp4", score=0.2), outcome("b.mp4", "c2", label=Label.ERROR)]
    found = compare(folder(tmp_path / "old", *files), folder(tmp_path / "new", *files))
    assert not found.moved and found.same == 2
    assert list(to_text(found)) == ["no verdict changed, of 2"]


@pytest.mark.parametrize(
    ("run", "change"),
    [
        (replace(OTHER, model_sha256="bb"), ("model", "sha256", "aa", "bb")),
        (replace(OTHER, settings=(("stride", 5),)), ("settings", "stride", 1, 5)),
        (replace(OTHER, engine="torch"), ("engine", "name", "fake", "torch")),
        (
            replace(OTHER, operating_point=0.5),
            ("calibration", "operating_point", 0.9, 0.5),
        ),
        (
            replace(OTHER, versions=(("deepscan", "0.2.0"),)),
            ("version", "deepscan", "0.1.0", "0.2.0"),
        ),
    ],
)
def test_names_what_moved_a_verdict(tmp_path, run, change):
    found = pair(tmp_path, run)
    assert changes(found) == {change}
    (move,) = found.moves
    assert move.causes == (change[0],)
    assert move.by == pytest.approx(0.77)
    text = "\n".join(to_text(found))
    assert "a.mp4: no-evidence -> manipulated" in text and "(+0.770)" in text
    assert f"{change[0]}: {change[1]} {change[2]} -> {change[3]}" in text
    assert text.endswith("1 verdict changed (1 no-evidence -> manipulated), 0 did not")


def test_names_the_decoder_and_the_content(tmp_path):
    old = outcome("a.mp4", score=0.2, decoder="decord")
    new = outcome("a.mp4", "c2", score=0.9, decoder="pyav")
    found = compare(folder(tmp_path / "old", old), folder(tmp_path / "new", new))
    assert changes(found) == {
        ("content", "sha256", "c1", "c2"),
        ("decoder", "name", "decord", "pyav"),
    }


def test_a_score_may_move_within_the_tolerance(tmp_path):
    one = folder(tmp_path / "old", outcome("a.mp4", score=0.20))
    two = folder(tmp_path / "new", outcome("a.mp4", score=0.215))
    assert not compare(one, two).moved
    found = compare(one, two, tolerance=0.01)
    assert found.moved
    assert "in score only" in list(to_text(found))[-1]


def test_says_if_nothing_explains_a_move(tmp_path):
    found = pair(tmp_path, RUN, old={"score": 0.2, "decoder": "pyav"},
                 new={"label": Label.MANIPULATED, "score": 0.9, "decoder": "pyav"})  # fmt: skip
    assert changes(found) == set()
    assert any("nothing that affects a verdict differs" in line for line in to_text(found))


def test_says_what_is_not_known(tmp_path):
    """An outcome of an earlier run, of which no record is left."""
    found = pair(tmp_path, OTHER, old={"settings_hash": "d0", "score": 0.2})
    (move,) = found.moves
    assert {"model", "settings", "engine", "calibration", "version"} <= set(move.unknown)
    assert any("not known on both sides: model" in line for line in to_text(found))


def test_files_on_one_side_only(tmp_path):
    one = folder(tmp_path / "old", outcome("a.mp4"), outcome("gone.mp4", "c2"))
    two = folder(tmp_path / "new", outcome("a.mp4"), outcome("new.mp4", "c3"))
    found = compare(one, two)
    assert [(move.name, move.causes) for move in found.moves] == [
        ("gone.mp4", ("gone",)),
        ("new.mp4", ("new",)),
    ]
    assert to_json(found)["causes"] == {"gone": 1, "new": 1}


def test_results_of_other_settings_than_the_last_ones_are_no_verdict(tmp_path):
    one = folder(tmp_path / "old", outcome("a.mp4"), outcome("b.mp4", "c2"))
    two = folder(tmp_path / "new", outcome("a.mp4"), outcome("b.mp4", "c2", "d0"))
    with Journal(two) as journal:
        journal.begin(RUN)
        journal.listed(("a.mp4",), Coverage())
    found = compare(one, two)
    assert [(move.name, move.causes) for move in found.moves] == [("b.mp4", ("superseded",))]
    assert list(to_text(found)) == [
        "b.mp4: no-evidence, only in the old results; its result in the new ones is by other "
        "settings than the last run's",
        "1 verdict changed (1 superseded), 1 did not",
    ]


def test_what_is_the_same_everywhere_is_told_once(tmp_path):
    run = replace(OTHER, model_sha256="bb")
    one = folder(tmp_path / "old", *(outcome(f"{n}.mp4", f"c{n}") for n in range(3)))
    two = folder(
        tmp_path / "new",
        *(outcome(f"{n}.mp4", f"c{n}", "d2", label=Label.SUSPICIOUS) for n in range(3)),
        run=run,
    )
    lines = list(to_text(compare(one, two)))
    assert lines[0] == "everywhere: model: sha256 aa -> bb"
    assert sum("model" in line for line in lines) == 1


def test_an_outcome_of_an_earlier_run_is_explained_by_its_record(tmp_path):
    out = tmp_path / "old"
    (out / "f").mkdir(parents=True)
    write_record(out / "f" / "result.json", record_of(build.scan(label=Label.NO_EVIDENCE)))
    written = OutputFile("record", "f/result.json", "0" * 64, 1)
    one = folder(out, outcome("a.mp4", settings_hash="d0", outputs=(written,)))
    two = folder(tmp_path / "new", outcome("a.mp4", label=Label.SUSPICIOUS))
    (move,) = compare(one, two).moves
    assert "model" in move.causes and "model" not in move.unknown


@pytest.mark.parametrize(("start", "told"), [(2, [(2.5, 2)]), (2.5, [])])
def test_times_that_count_from_the_first_picture_are_moved(tmp_path, start, told):
    """The old record has no offset, so its `--start 2` is 2.5 s on a player's clock."""
    made = record_of(build.scan())
    for name, offset in (("old", {}), ("new", {"time_offset": 0.5})):
        made["input"].pop("time_offset", None)
        (tmp_path / name / "f").mkdir(parents=True)
        write_record(
            tmp_path / name / "f" / "result.json", made | {"input": made["input"] | offset}
        )
    written = (OutputFile("record", "f/result.json", "0" * 64, 1),)
    found = pair(
        tmp_path,
        replace(OTHER, settings=(("start", start),)),
        old={"outputs": written},
        new={"outputs": written, "label": Label.MANIPULATED},
        old_run=replace(RUN, settings=(("start", 2),)),
    )
    assert changes(found) == {("settings", "start", *values) for values in told}


def test_two_records(tmp_path):
    made = build.scan(label=Label.NO_EVIDENCE)
    other = replace(build.scan(), settings=(*made.settings, ("stride", 7)))
    write_record(tmp_path / "1.json", record_of(made))
    write_record(tmp_path / "2.json", record_of(other))
    found = compare(tmp_path / "1.json", tmp_path / "2.json")
    (move,) = found.moves
    assert (move.old, move.new) == (Label.NO_EVIDENCE, Label.MANIPULATED)
    assert "settings" in move.causes
    assert not compare(tmp_path / "1.json", tmp_path / "1.json").moved


def test_a_record_of_a_file_without_a_verdict(tmp_path):
    from deepscan.sinks.record import error_record

    skipped = Skipped(tmp_path / "clip.mp4", Label.ERROR, Reason("corrupt", "nothing in it"))
    write_record(tmp_path / "1.json", error_record(skipped))
    write_record(tmp_path / "2.json", record_of(build.scan()))
    (move,) = compare(tmp_path / "1.json", tmp_path / "2.json").moves
    assert move.old is Label.ERROR and move.by is None
    assert "model" in move.unknown


def test_is_json(tmp_path):
    values = json.loads(json.dumps(to_json(pair(tmp_path, replace(OTHER, engine="torch")))))
    assert values["schema"] == "deepscan.diff/1"
    assert values["moves"][0]["causes"] == ["engine"]


def test_names_cannot_move_the_cursor(tmp_path):
    one = folder(tmp_path / "old", outcome("\x1b[2J.mp4"))
    two = folder(tmp_path / "new", outcome("\x1b[2J.mp4", label=Label.ERROR))
    assert "\x1b" not in "\n".join(to_text(compare(one, two)))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"schema":"deepscan.result/1"}', b"\xff"]
)
def test_refuses_what_is_no_result(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        compare(path, path)


def test_refuses_other_folders_and_mixed_kinds(tmp_path):
    one = folder(tmp_path / "old", outcome("a.mp4"))
    write_record(tmp_path / "r.json", record_of(build.scan()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no results folder"):
        compare(one, tmp_path / "empty")
    with pytest.raises(UsageError, match="not of one kind"):
        compare(one, tmp_path / "r.json")
    with pytest.raises(UsageError, match="cannot be read"):
        compare(tmp_path / "nowhere.json", tmp_path / "r.json")
