"""Shards merged to one folder: the same whatever their number, and nothing lost in silence."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from deepscan.archive import output_paths
from deepscan.archive.journal import Journal, read_journal
from deepscan.archive.merge import merge
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.records import OutputFile
from deepscan.archive.reports import load_report
from deepscan.archive.run import scan_archive
from deepscan.archive.shard import Shard
from deepscan.errors import OutputError, UsageError
from deepscan.options import ScanOptions
from deepscan.types import Label
from tests.archive.fake_pool import FakePool
from tests.archive.made import RUN, outcome


@pytest.fixture
def archive(tmp_path):
    """Fourteen files: twins in different folders, a forged one, a broken one, a link, odd names.

    And one that is no media: it is counted once, however many shards have seen it.
    """
    folder = tmp_path / "archive"
    (folder / "sub").mkdir(parents=True)
    for number in range(9):
        (folder / f"clip{number}.mp4").write_bytes(b"honest %d" % number)
    (folder / "sub" / "twin.mp4").write_bytes(b"honest 3")
    (folder / "sub" / "forged.mp4").write_bytes(b"fake")
    (folder / "junk.mkv").write_bytes(b"junk")
    (folder / "sub" / "=1+1 \U0001f600.mov").write_bytes(b"formula")
    (folder / "link.mp4").symlink_to("clip0.mp4")
    (folder / "notes.txt").touch()
    return folder


def scan(archive, out, shard=None):
    archive_options = ArchiveOptions(
        reports=("jsonl",),
        write_found=("frames",),
        min_free=0,
        shard=shard and Shard.parse(shard),
    )
    scan_archive(
        [str(archive)], out, options=ScanOptions(), pool=FakePool(), archive_options=archive_options
    )
    return out


def reports(results):
    """What the reports for programs say, without the moment in which a file was scanned."""
    told = {}
    calm = replace(
        results, outcomes=tuple(replace(o, started="", took=0.0) for o in results.outcomes)
    )
    for name in ("jsonl", "csv"):
        file, write = load_report(name)
        write(calm, results.folder / file)
        told[name] = (results.folder / file).read_bytes()
    return told


def test_the_number_of_shards_makes_no_difference(archive, tmp_path):
    told, trees = [], []
    for count in (1, 2, 3):
        parts = [
            scan(archive, tmp_path / f"part{number}of{count}", f"{number}/{count}")
            for number in range(1, count + 1)
        ]
        merged = merge(tmp_path / f"all{count}", parts)
        assert merged.missing == ()
        told.append(reports(merged.results))
        out = merged.results.folder
        trees.append(
            {
                path.relative_to(out).as_posix(): path.read_bytes()
                for path in out.rglob("*")
                if path.is_file() and not path.name.startswith(("journal", "results"))
            }
        )
    whole = read_journal(scan(archive, tmp_path / "whole"))
    assert told[0] == told[1] == told[2] == reports(whole)
    assert trees[0] == trees[1] == trees[2]
    assert len(whole.outcomes) == 14


def test_every_output_is_there_as_the_journal_says(archive, tmp_path):
    parts = [scan(archive, tmp_path / f"p{n}", f"{n}/2") for n in (1, 2)]
    for copy in (False, True):
        merged = merge(tmp_path / f"all{copy}", parts, copy=copy)
        assert (merged.linked, merged.copied)[copy] > 0 == (merged.copied, merged.linked)[copy]
        for each in merged.results.outcomes:
            for written in each.outputs:
                data = (merged.results.folder / written.path).read_bytes()
                assert hashlib.sha256(data).hexdigest() == written.sha256
                assert written.path.startswith(output_paths.folder_of(each.same_as or each.name))


def test_a_merged_folder_can_be_gone_on_with(archive, tmp_path):
    parts = [scan(archive, tmp_path / f"p{n}", f"{n}/2") for n in (1, 2)]
    out = merge(tmp_path / "all", parts).results.folder
    (archive / "late.mp4").write_bytes(b"late")
    pool = FakePool()
    archive_options = ArchiveOptions(reports=(), write_found=("frames",), min_free=0)
    ended = scan_archive(
        [str(archive)], out, options=ScanOptions(), pool=pool, archive_options=archive_options
    )
    assert pool.scanned == ["late.mp4"]
    assert len(ended.results.outcomes) == 15


def test_missing_and_unfinished_parts_are_told(archive, tmp_path):
    first = scan(archive, tmp_path / "p1", "1/3")
    with Journal(first) as journal:
        journal.begin(
            replace(RUN, settings_hash=read_journal(first).run.settings_hash, shard=(1, 3))
        )
    merged = merge(tmp_path / "all", [first])
    assert merged.results.run.listed is None  # an older journal's, which does not say
    told = " ".join(merged.missing)
    assert "shard 2/3, shard 3/3" in told and "is not finished" in told
    assert not merged.results.finished


def folder(path, *outcomes, run=RUN):
    """A results folder with these outcomes, each with one output."""
    path.mkdir()
    with Journal(path) as journal:
        journal.begin(run)
        for each in outcomes:
            place = path / each.folder
            place.mkdir(parents=True, exist_ok=True)
            data = f"{each.name} {each.key}".encode()
            (place / "result.json").write_bytes(data)
            written = OutputFile(
                "record", f"{each.folder}/result.json", hashlib.sha256(data).hexdigest(), len(data)
            )
            journal.done(replace(each, outputs=(written,)))
        journal.ended(finished=True, exit_code=0)
    return path


def test_one_name_with_two_results_is_refused(tmp_path):
    one = folder(tmp_path / "1", outcome("a.mp4", "c1", started="2026-01-01"))
    two = folder(tmp_path / "2", outcome("a.mp4", "c2", started="2026-01-02"))
    with pytest.raises(UsageError, match=r"different results under one name: a\.mp4"):
        merge(tmp_path / "all", [one, two])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]  # nothing half-made


@pytest.mark.parametrize("turned", [False, True])
def test_the_newest_counts_where_that_is_asked_for_and_the_other_is_kept(tmp_path, turned):
    parts = [
        folder(tmp_path / "1", outcome("a.mp4", "c1", started="2026-01-01")),
        folder(tmp_path / "2", outcome("a.mp4", "c2", started="2026-01-02")),
    ]
    merged = merge(tmp_path / "all", parts[::-1] if turned else parts, newest=True)
    (current,) = merged.results.outcomes
    (older,) = merged.results.superseded
    assert (current.sha256, older.sha256) == ("c2", "c1")
    assert current.folder == "f" and older.folder == "f/merged-2"
    for each in (current, older):
        data = (merged.results.folder / each.outputs[0].path).read_text()
        assert data == f"a.mp4 {each.key}"


def test_the_same_result_twice_is_one(tmp_path):
    one = folder(tmp_path / "1", outcome("a.mp4"), outcome("b.mp4", "c2", folder="g"))
    two = folder(tmp_path / "2", outcome("a.mp4"))
    merged = merge(tmp_path / "all", [one, two])
    assert [each.name for each in merged.results.outcomes] == ["a.mp4", "b.mp4"]
    assert merged.results.superseded == ()


def test_the_same_key_with_another_label_is_a_conflict(tmp_path):
    one = folder(tmp_path / "1", outcome("a.mp4"))
    two = folder(tmp_path / "2", outcome("a.mp4", label=Label.SUSPICIOUS))
    with pytest.raises(UsageError, match="one name"):
        merge(tmp_path / "all", [one, two])


def test_parts_of_other_settings_are_refused_and_the_settings_named(tmp_path):
    other = replace(RUN, settings_hash="d2", settings=(("stride", 2),), engine="other")
    one = folder(tmp_path / "1", outcome("a.mp4"))
    two = folder(tmp_path / "2", outcome("b.mp4", folder="g"), run=other)
    with pytest.raises(UsageError, match="engine fake and other; stride 1 and 2"):
        merge(tmp_path / "all", [one, two])
    assert len(merge(tmp_path / "all", [one, two], mixed=True).results.outcomes) == 2


def test_an_altered_or_missing_output_is_told(tmp_path):
    part = folder(tmp_path / "1", outcome("a.mp4"))
    path = part / "f" / "result.json"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"X")
    with pytest.raises(OutputError, match="was altered"):
        merge(tmp_path / "all", [part], copy=True)
    path.write_bytes(data + b"more")
    with pytest.raises(OutputError, match="differs from the file in the journal"):
        merge(tmp_path / "all", [part])
    path.unlink()
    with pytest.raises(OutputError, match="is missing"):
        merge(tmp_path / "all", [part])
    assert not (tmp_path / "all").exists()


def test_a_journal_cannot_lead_out_of_its_folder(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"key")
    part = tmp_path / "1"
    part.mkdir()
    for place, path in (("../..", "../../secret"), ("f", "../secret"), ("f", str(secret))):
        written = OutputFile("record", path, hashlib.sha256(b"key").hexdigest(), 3)
        with Journal(part) as journal:
            journal.begin(RUN)
            journal.done(replace(outcome("a.mp4"), folder=place, outputs=(written,)))
        with pytest.raises(OutputError, match="not taken"):
            merge(tmp_path / "all", [part])


def test_a_link_is_no_output(tmp_path):
    part = folder(tmp_path / "1", outcome("a.mp4"))
    path = part / "f" / "result.json"
    data = path.read_bytes()
    (tmp_path / "elsewhere").write_bytes(data)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="differs from the file"):
        merge(tmp_path / "all", [part])


def test_the_target_must_be_new_or_empty(tmp_path):
    part = folder(tmp_path / "1", outcome("a.mp4"))
    with pytest.raises(UsageError, match="holds files"):
        merge(part, [part])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="no folder"):
        merge(tmp_path / "file", [part])
    with pytest.raises(UsageError, match="no results folder"):
        merge(tmp_path / "new", [tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    assert merge(tmp_path / "empty", [part]).results.outcomes


def test_superseded_results_and_controls_come_along(tmp_path):
    part = folder(
        tmp_path / "1",
        outcome("a.mp4", "c1"),
        outcome("a.mp4", "c2", folder="f/again-2"),
        run=replace(RUN, controls=(("clean-1", 0.2),), controls_passed=True),
    )
    merged = merge(tmp_path / "all", [part])
    assert [each.sha256 for each in merged.results.superseded] == ["c1"]
    assert merged.results.run.controls == (("clean-1", 0.2),)
    assert merged.results.run.controls_passed is True
    lines = (merged.results.folder / "journal.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))


def test_nothing_but_the_folder_is_left_beside_it(tmp_path):
    part = folder(tmp_path / "1", outcome("a.mp4"))
    merge(tmp_path / "all", [part])
    assert {path.name for path in tmp_path.iterdir()} == {"1", "all"}
    assert isinstance(read_journal(tmp_path / "all").folder, Path)
