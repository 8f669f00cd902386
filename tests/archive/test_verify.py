"""A result checked by somebody else: every kind of tampering shows, honest ones pass."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from deepscan.archive.checks import VerifiedRecord
from deepscan.archive.journal import read_journal
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.rescore import options_of, tolerance_between
from deepscan.archive.run import scan_archive
from deepscan.archive.schema_check import violations
from deepscan.archive.verify import _drawn, verify
from deepscan.archive.workers.contract import PoolSettings
from deepscan.archive.workers.local import LocalPool
from deepscan.cli.scan import app
from deepscan.engines.engine import Predictions
from deepscan.errors import UsageError
from deepscan.exit_codes import ERROR
from deepscan.options import Limits, ScanOptions
from deepscan.scan.scanner import Scanner
from deepscan.sinks.record import digest_of, manifest_of, write_record
from tests.conftest import (
    CALIBRATION,
    blue_engine,
    draw_face,
    fake_scanner,
    judge_blue,
    make_face_clip,
)
from tests.fakes import FakeDetector


def make(options):
    return fake_scanner(options)


def skewed(by):
    """Scanners whose engine is off by so much."""

    def build(options):
        def judge(crops):
            honest = judge_blue(crops)
            return Predictions(np.clip(honest.scores + np.float32(by), 0, 1), honest.masks)

        return fake_scanner(options, engine=blue_engine(judge=judge))

    return build


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A forged clip, with everything that is checked of a scan."""
    folder = tmp_path_factory.mktemp("scanned")
    clip = make_face_clip(folder / "clip.mp4", forged=range(20))
    with make(ScanOptions()) as scanner:
        scanner.scan(
            clip,
            {
                "record": folder / "result.json",
                "frames": folder / "result.frames.jsonl",
                "masks": folder / "result.masks.mkv",
            },
        )
        scanner.scan(clip, {"record": folder / "alone.json"})
    return folder


@pytest.fixture
def copied(scanned, tmp_path):
    """The same, to be tampered with; the record still names the clip in the other folder."""
    shutil.copytree(scanned, tmp_path / "copy")
    return tmp_path / "copy"


def states(found):
    return {check.what.split()[0]: check.state for check in found.checks}


def test_an_honest_result_passes(scanned):
    found = verify(scanned / "result.json", make=make)
    assert found.state == "ok", list(found.to_text())
    assert states(found) == dict.fromkeys(
        ("schema", "digest", "manifest", "frames", "masks", "input", "scores"), "ok"
    )
    assert "8 faces in 8 frames" in "".join(found.to_text())
    assert json.loads(json.dumps(found.to_json()))["state"] == "ok"


def test_a_result_without_a_frame_list_is_scanned_again(scanned):
    found = verify(scanned / "alone.json", make=make)
    assert found.state == "ok"
    assert states(found)["verdict"] == "ok"


@pytest.mark.parametrize(
    ("face", "forged", "label"),
    [(True, True, "manipulated"), (False, True, "manipulated"), (False, False, "no-evidence")],
)
@pytest.mark.parametrize("kinds", [("record",), ("record", "frames")])
def test_a_label_from_another_stream_passes(tmp_path, face, forged, label, kinds):
    """A motion photo whose clip is graver than its picture, which may hold no face."""
    clip = make_face_clip(tmp_path / "clip.mp4", forged=range(20 * forged))
    picture = draw_face(0) if face else np.full((120, 160, 3), 90, np.uint8)
    path = tmp_path / "motion.jpg"
    Pillow.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes() + clip.read_bytes())
    names = {"record": "result.json", "frames": "result.frames.jsonl"}
    with make(ScanOptions()) as scanner:
        scanner.scan(path, {kind: tmp_path / names[kind] for kind in kinds})
    record = json.loads((tmp_path / "result.json").read_bytes())
    verdict = record["verdict"]
    assert (verdict["label"], verdict["intervals"]) == (label, [])
    assert verdict["reasons"][0]["code"] == "other_stream"
    found = verify(tmp_path / "result.json", make=make)
    assert found.state == "ok", list(found.to_text())
    verdict["label"] = "suspicious"
    assert list(violations(record, "result-1")) == []
    # Without that reason, score and intervals have to support the label.
    verdict |= {"label": "manipulated", "reasons": [{"code": "complete", "text": "all"}]}
    assert len(list(violations(record, "result-1"))) == (1 if face else 2)


def test_the_seed_draws_other_frames(copied):
    """Every frame gets its turn, and the same seed draws the same."""
    path = copied / "result.frames.jsonl"
    change_list(copied, {3: 0.5})  # one wrong score in twenty
    told = [verify(copied / "result.json", frames=5, seed=s, make=make).state for s in range(12)]
    again = [verify(copied / "result.json", frames=5, seed=s, make=make).state for s in range(12)]
    assert path.exists() and told == again
    assert "ok" in told and "differs" in told
    assert verify(copied / "result.json", frames=100, make=make).state == "differs"


def change_list(folder, scores):
    """An operator who writes other scores, and seals the record anew: hashes are all right."""
    path = folder / "result.frames.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for index, score in scores.items():
        lines[1 + index]["faces"][0]["p_manipulated"] = score
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seal(folder)


def seal(folder, change=lambda record: None, name="result.json"):
    import hashlib

    record = json.loads((folder / name).read_bytes())
    change(record)
    for output in record["outputs"]:
        data = (folder / output["file"]).read_bytes()
        output |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    record["digest"] = digest_of(record)
    record["manifest"] = manifest_of(record)
    write_record(folder / name, record)


def test_made_up_scores_show(copied):
    change_list(copied, dict.fromkeys(range(20), 0.05))
    found = verify(copied / "result.json", frames=20, make=make)
    assert states(found)["scores"] == "differs" and states(found)["manifest"] == "ok"
    assert "0.970 now, 0.050 recorded" in "".join(found.to_text())


def test_masks_of_somebody_else_show(copied, tmp_path):
    other = make_face_clip(tmp_path / "other.mp4")
    with make(ScanOptions()) as scanner:
        scanner.scan(other, {"masks": copied / "result.masks.mkv"}, force=True)
    seal(copied)
    found = verify(copied / "result.json", frames=20, make=make)
    assert states(found)["masks"] == "differs" or states(found)["scores"] == "differs"
    assert "marked" in "".join(check.detail for check in found.checks if check.state == "differs")


def test_a_made_up_verdict_shows_where_there_is_only_a_record(copied):
    def change(record):
        record["verdict"]["label"] = "no-evidence"
        record["verdict"]["intervals"] = []
        record["verdict"]["p_manipulated"] = 0.1

    seal(copied, change, "alone.json")
    found = verify(copied / "alone.json", make=make)
    assert found.state == "differs"
    assert "recorded is no-evidence" in "".join(found.to_text())


@pytest.mark.parametrize(
    ("name", "what"),
    [("result.masks.mkv", "masks"), ("result.frames.jsonl", "frames"), ("clip.mp4", "input")],
)
def test_an_altered_file_shows(copied, name, what):
    path = copied / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = verify(copied / "result.json", input=copied / "clip.mp4", make=make)
    assert found.state == "differs" and states(found)[what] == "differs"


def test_an_emptied_file_shows(copied):
    (copied / "result.frames.jsonl").write_bytes(b"")
    assert states(verify(copied / "result.json", make=make))["frames"] == "differs"


def test_an_edited_record_shows(copied):
    path = copied / "result.json"
    path.write_text(path.read_text().replace('"manipulated"', '"suspicious"'))
    found = verify(path, frames=0)
    assert states(found)["manifest"] == "differs" or states(found)["schema"] == "differs"
    assert found.state == "differs"
    record = json.loads((copied / "alone.json").read_bytes())
    del record["coverage"]
    write_record(copied / "alone.json", record)
    assert states(verify(copied / "alone.json"))["schema"] == "differs"


def test_a_missing_file_cannot_be_checked(copied):
    (copied / "result.masks.mkv").unlink()
    found = verify(copied / "result.json", make=make)
    assert found.state == "unchecked" and states(found)["masks"] == "unchecked"
    assert states(found)["scores"] == "ok"
    found = verify(copied / "result.json", input=copied / "nowhere.mp4", make=make)
    assert found.state == "unchecked" and states(found)["scores"] == "unchecked"


def test_a_file_beside_the_record_is_found(copied):
    def change(record):
        record["input"]["path"] = "/far/away/clip.mp4"

    seal(copied, change)
    assert verify(copied / "result.json", make=make).state == "ok"


def test_other_weights_cannot_check(scanned):
    def other(options):
        engine = blue_engine()
        engine.model = replace(engine.model, sha256="1" * 64)
        return Scanner(options, engine=engine, detector=FakeDetector(), calibration=CALIBRATION)

    found = verify(scanned / "result.json", make=other)
    assert found.state == "unchecked"
    assert "other weights" in "".join(found.to_text())


@pytest.mark.parametrize(("part", "name"), [("decoder", "nvdec"), ("engine", "openvino-cpu-int8")])
def test_what_this_version_no_longer_has_is_said_in_one_line(copied, part, name):
    def change(record):
        record[part]["name"] = record["settings"][part] = name

    seal(copied, change)
    found = verify(copied / "result.json", make=make)
    assert found.state == "unchecked"
    (line,) = [line for line in found.to_text(everything=False) if line.startswith("not checked")]
    assert f"scanned with {part} {name}, which this version of deepscan no longer has" in line
    assert "verify it with the version that wrote it, or scan the file again" in line
    told = CliRunner().invoke(app, ["verify", str(copied / "result.json")])
    assert told.exit_code == ERROR
    assert name in told.stdout and "Traceback" not in told.output


def test_scores_may_be_off_by_the_tolerance_and_no_further(scanned):
    assert tolerance_between("torch-cpu-fp32", "openvino-cpu-fp32") == pytest.approx(0.022)
    assert tolerance_between("openvino-cpu-bf16", "openvino-cpu-bf16") == pytest.approx(0.06)
    assert verify(scanned / "result.json", make=skewed(0.02)).state == "ok"
    assert verify(scanned / "result.json", make=skewed(-0.2)).state == "differs"


@pytest.mark.parametrize(
    "box", [[0, 0, 1e12, 1e12], [50, 50, 50, 50], [-1e9, 0, 10, 10], [60, 60, 10, 10]]
)
def test_a_list_with_absurd_boxes_costs_nothing(copied, box):
    path = copied / "result.frames.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for line in lines[1:]:
        line["faces"][0]["box"] = box
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seal(copied)
    assert verify(copied / "result.json", make=make).state == "differs"


@pytest.mark.parametrize(
    "content",
    [b"", b"junk\n", b"{}\n", b"[" * 10_000, b'{"schema":"deepscan.frames/1"}\n'],
)
def test_a_broken_frame_list_is_told(copied, content):
    (copied / "result.frames.jsonl").write_bytes(content)
    seal(copied)
    assert verify(copied / "result.json", make=make).state == "differs"


def test_outputs_cannot_lie_elsewhere(copied):
    def change(record):
        record["outputs"] = [
            {"kind": "masks", "file": "../copy/result.masks.mkv", "sha256": "0" * 64, "size": 1}
        ]

    seal(copied, change, "alone.json")
    assert verify(copied / "alone.json", frames=0).state == "differs"


def test_a_record_does_not_decide_what_decoding_may_cost():
    settings = {"stride": 3, "isolate": False, "engine": "x", "limits.memory": 2**60}
    options = options_of(settings, "auto")
    assert options == ScanOptions(stride=3, limits=Limits(), isolate=True)
    with pytest.raises(UsageError, match="does not know the settings colour"):
        options_of({"colour": 1}, "auto")
    with pytest.raises(UsageError, match="no model"):
        options_of({"model": "../../elsewhere"}, "auto")


@pytest.fixture(scope="module")
def archived(tmp_path_factory):
    """A results folder of four files: one forged, one a twin, one broken."""
    folder = tmp_path_factory.mktemp("archived")
    archive = folder / "in"
    archive.mkdir()
    make_face_clip(archive / "a.mp4")
    make_face_clip(archive / "forged.mp4", forged=range(20))
    (archive / "junk.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 8)
    shutil.copyfile(archive / "a.mp4", archive / "twin.mp4")
    scan_fakes(archive, folder / "out")
    return folder


def scan_fakes(archive, out):
    options = ScanOptions()
    scan_archive(
        [str(archive)], out, options=options,
        pool=LocalPool(PoolSettings(options, jobs=1, scanner="tests.conftest:fake_scanner",
                                    controls="tests.archive.parts:no_controls")),
        archive_options=ArchiveOptions(reports=(), write_found=("frames", "masks"), min_free=0),
    )  # fmt: skip


def test_a_folder_of_results(archived):
    found = verify(archived / "out", frames=4, make=make)
    assert found.state == "ok", list(found.to_text())
    by_file = {check.file for check in found.checks}
    assert by_file == {"journal.jsonl", "a.mp4", "forged.mp4", "junk.mp4", "twin.mp4"}
    again = [check for check in found.checks if check.what in ("scores", "verdict again")]
    assert {check.file for check in again} == {"a.mp4", "forged.mp4"}


def test_a_swapped_record_in_a_folder_shows(archived, tmp_path):
    shutil.copytree(archived, tmp_path / "copy")
    out = tmp_path / "copy" / "out"
    outcomes = {each.name: each for each in read_journal(out).outcomes}
    honest, forged = outcomes["a.mp4"], outcomes["forged.mp4"]
    record = next(written for written in forged.outputs if written.kind == "record")
    shutil.copyfile(out / honest.outputs[0].path, out / record.path)
    found = verify(out, frames=0)
    assert found.state == "differs"
    assert "forged.mp4" in {check.file for check in found.checks if check.state == "differs"}


def test_a_deleted_record_is_a_difference(archived, tmp_path):
    shutil.copytree(archived / "out", tmp_path / "out")
    outcomes = {each.name: each for each in read_journal(tmp_path / "out").outcomes}
    (tmp_path / "out" / outcomes["a.mp4"].outputs[0].path).unlink()
    found = verify(tmp_path / "out", frames=0)
    assert found.state == "differs"
    assert {check.file for check in found.checks if check.state == "differs"} == {"a.mp4"}


def test_links_and_empty_files_can_be_checked_and_the_answer_is_a_line(archived, tmp_path):
    archive, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(archived / "in", archive)
    (archive / "link.mp4").symlink_to(archive / "a.mp4")
    (archive / "empty.mp4").touch()
    scan_fakes(archive, out)
    (archive / "forged.mp4").rename(archive / "renamed.mp4")
    scan_fakes(archive, out)
    found = verify(out, frames=0)
    assert found.state == "ok", list(found.to_text(everything=False))
    ran = CliRunner().invoke(app, ["verify", str(out), "--frames", "0"])
    assert ran.exit_code == 0
    (line,) = ran.stdout.splitlines()
    assert line.startswith("6 files, 0 of them judged again; ")
    assert line.endswith(" 0 differ, 0 could not be done")


def test_what_is_judged_again_is_of_every_label_and_mostly_clean():
    counts = {"manipulated": 30, "no-evidence": 40, "inconclusive": 3, "suspicious": 20}
    records = [
        VerifiedRecord(f"{label}{n}", {"verdict": {"label": label}}, Path(), Path(), {})
        for label, count in counts.items()
        for n in range(count)
    ]

    def drawn(count, of=records):
        chosen = _drawn(of, count, random.Random(1))
        assert len({each.name for each in chosen}) == len(chosen) == min(count, len(of))
        return Counter(each.record["verdict"]["label"] for each in chosen)

    assert drawn(8) == {
        "no-evidence": 5, "manipulated": 1, "inconclusive": 1, "suspicious": 1,
    }  # fmt: skip
    assert drawn(1) == {"no-evidence": 1}
    assert drawn(40)["no-evidence"] == 30
    assert drawn(93) == counts
    assert drawn(4, records[:30]) == {"manipulated": 4}


def test_the_files_of_a_folder_may_have_moved(archived, tmp_path):
    shutil.copytree(archived / "in", tmp_path / "moved")
    found = verify(archived / "out", frames=1, input=tmp_path / "moved", make=make)
    assert found.state == "ok"
    for name in ("forged.mp4", "twin.mp4"):
        (tmp_path / "moved" / name).write_bytes(b"another")
    found = verify(archived / "out", frames=0, input=tmp_path / "moved")
    differing = {check.file for check in found.checks if check.state == "differs"}
    assert differing == {"forged.mp4", "twin.mp4"}
    with pytest.raises(UsageError, match="there is no such folder"):
        verify(archived / "out", frames=0, input=tmp_path / "mistyped")


def test_refuses_what_is_no_result(tmp_path):
    with pytest.raises(UsageError):
        verify(tmp_path)
    with pytest.raises(UsageError):
        verify(tmp_path / "nowhere.json")
