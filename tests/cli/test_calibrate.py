"""`deepscan model calibrate`: from folders of clips to a model, with all processes and fakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deepscan.archive.journal import read_journal
from deepscan.models.library import read_card, save_model
from deepscan.types import Label
from deepscan.verdict.calibration import Calibration, calibration_of
from tests.archive.command import Program, Ran
from tests.conftest import make_face_clip

GRADED = "tests.archive.parts:graded"
RATES = ("--max-false-alarms", "50/1000", "--max-suspicious", "200/1000")


def draw(index: int, shade: int) -> np.ndarray:
    from tests.conftest import draw_face

    image = draw_face(index)
    image[: 4 + shade // 100 * 4, : 8 + shade % 100] = (
        200  # so that no two clips have the same content
    )
    return image


def make_clips(folder: Path, levels: list[float], *, frames: int = 12, first: int = 0) -> Path:
    """A clip for each level, which the network of these tests reads from its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, level in enumerate(levels, start=first):
        make_face_clip(
            folder / f"g{level:+.2f} {number:03d}.mp4",
            frames=frames,
            draw=lambda index, number=number: draw(index, number),
        )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of real clips (one of them far above the others) and of manipulated ones."""
    place = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    levels = [round(float(level), 2) for level in rng.normal(-1, 0.6, 27)]
    real = make_clips(place / "interviews", [*levels, 6.0])
    make_face_clip(real / "no face.mp4", draw=lambda index: np.full((120, 160, 3), 70, np.uint8))
    (real / "junk.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 8)
    fake = make_clips(place / "swaps", [3.0 + 0.02 * n for n in range(22)], first=100)
    return {"real": real, "fake": fake}


@dataclass(frozen=True)
class Calibrated:
    """What one run with real clips alone left; `asked` are its arguments."""

    ran: Ran
    asked: tuple[object, ...]
    work: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's own models, the same for all of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("own models")
        patch.setenv("DEEPSCAN_MODELS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def calibrated(
    made: dict[str, Path],
    models: Path,
    program: Program,
    tmp_path_factory: pytest.TempPathFactory,
) -> Calibrated:
    work = tmp_path_factory.mktemp("work")
    asked = ("--real", made["real"], "--to", "ours", "--out", work, *RATES)
    return Calibrated(run(program, *asked), asked, work)


def run(program: Program, *arguments: object, model: str = "msccnet-s") -> Ran:
    return program.run("model", "calibrate", model, *arguments, scanner=GRADED)


def test_real_clips_make_a_model_that_keeps_the_rates(
    made: dict[str, Path], program: Program, calibrated: Calibrated, tmp_path: Path
) -> None:
    ran, asked, work = calibrated.ran, calibrated.asked, calibrated.work
    assert ran.code == 0, ran.err
    assert "1 file left out that cannot be read: junk.mp4" in ran.err
    assert "1 file left out without a face that can be judged: no face.mp4" in ran.err
    assert "28 real recordings (28 files) of the folder interviews" in ran.out
    assert "No likelihood ratio is claimed" in ran.out
    assert "1 real clip stands out from the others, so look at it: g+6.00" in ran.out
    assert "deepscan --model ours FOLDER" in ran.out

    card, base = read_card("ours"), read_card("msccnet-s")
    assert card.sha256 == base.sha256 and card.path.read_bytes() == base.path.read_bytes()
    calibration = Calibration.from_card(card.values)
    assert not calibration.likelihood_ratio
    assert (calibration.rate, calibration.review_rate) == (0.05, 0.2)
    assert calibration.clips == 28 and calibration.name.startswith("ours/")
    over, review = calibration.points(1.0, still=False)
    assert -1 < review < over <= 6.01

    page = (work / "calibration.html").read_text("utf-8")
    assert page.count("<figure") == 12 and page.count("data:image/jpeg") == 12
    assert "stands out" in page and "junk.mp4" in page and "<script" not in page
    assert "By the size of faces" in page

    # The same command refuses to replace the model unasked.
    again = run(program, *asked)
    assert again.code == 2 and "a model ours is there already" in again.err

    # A clip that stood out is taken away: the levels fall, and nothing is scanned again.
    rest = shutil.copytree(made["real"], tmp_path / "interviews", copy_function=os.link)
    next(rest.glob("g+6.00*")).unlink()
    cleaned = run(program, "--real", rest, *asked[2:], "--to", "cleaned", "--format", "json")
    assert cleaned.code == 0, cleaned.err
    told = json.loads(cleaned.out)
    assert told["outliers"] == [] and told["recordings"] == 27
    journal = (work / "real" / "journal.jsonl").read_text().splitlines()
    scanned = [line for line in map(json.loads, journal) if line["kind"] == "started"]
    assert len(scanned) == 30
    assert calibration_of(read_card("cleaned").values).points(1.0, still=False)[0] < over - 2
    assert not any("called" in each.what for each in read_card("cleaned").info.evidence)


def test_verdicts_of_the_new_model_supersede_and_claim_no_likelihood_ratio(
    program: Program, calibrated: Calibrated, tmp_path: Path
) -> None:
    archive, out = make_clips(tmp_path / "archive", [7.0, -1.0], first=500), tmp_path / "results"

    def scan(model: str) -> Ran:
        return program.run(archive, "--out", out, "--model", model, scanner=GRADED)

    scan("msccnet-s")
    before = shutil.copytree(out, tmp_path / "before")
    assert scan("ours").code == 1
    results = read_journal(out)
    assert {each.label for each in results.outcomes} == {Label.MANIPULATED, Label.NO_EVIDENCE}
    assert len(results.superseded) == 2  # kept, and in no report of today
    assert results.run.calibration.startswith("ours/")
    found = next(each for each in results.outcomes if each.label is Label.MANIPULATED)
    assert [each.llr for each in found.intervals] == [None]

    path = next(each.path for each in found.outputs if each.kind == "record")
    record = json.loads((out / path).read_text())
    assert record["calibration"]["name"] == results.run.calibration
    assert "28 real recordings" in record["calibration"]["population"]
    assert record["verdict"]["intervals"][0]["llr"] is None
    assert "no likelihood ratio is claimed" in record["wording"]["sentences"][0]
    assert not record["wording"]["scale"] and "(LR " not in json.dumps(record["wording"])

    moved = program.run("diff", before, out, scanner=GRADED)
    assert "calibration: name" in moved.out and "model: name msccnet-s -> ours" in moved.out


def test_manipulated_clips_give_likelihood_ratios(
    made: dict[str, Path], models: Path, program: Program, tmp_path: Path
) -> None:
    ran = run(
        program, "--real", made["real"], "--manipulated", made["fake"], "--to", "ratios",
        "--out", tmp_path / "work", *RATES, "--quiet",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    calibration = Calibration.from_card(read_card("ratios").values)
    assert calibration.likelihood_ratio and calibration.clip.slope != 1.0
    assert "Of the manipulated recordings" in ran.out
    assert "22 manipulated ones of swaps" in ran.out


@pytest.mark.slow
def test_a_model_without_a_calibration_gets_its_first(
    made: dict[str, Path], models: Path, program: Program, tmp_path: Path
) -> None:
    base = read_card("msccnet-s")
    values = {key: each for key, each in base.values.items() if key != "calibration"}
    save_model("bare", values, base.path.read_bytes())
    ran = run(
        program, "--real", made["real"], "--to", "bare-ours", "--out", tmp_path / "w", *RATES,
        model="bare",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert not Calibration.from_card(read_card("bare-ours").values).likelihood_ratio


def test_what_cannot_work_is_one_line(
    made: dict[str, Path], models: Path, program: Program, tmp_path: Path
) -> None:
    few = make_clips(tmp_path / "few", [0.1 * n for n in range(5)])
    person = make_clips(tmp_path / "people" / "one", [0.1 * n for n in range(3)], first=300).parent
    same = made["real"] / ".." / made["real"].name

    def refused(*arguments: object) -> str:
        ran = run(program, *RATES, "--to", "x", "--out", tmp_path / "w", "--quiet", *arguments)
        assert ran.code == 2 and ran.out == ""
        lines = ran.err.strip().splitlines()
        assert len(lines) == 1, ran.err
        assert not (models / "x").exists()
        return lines[0]

    assert "5 unmanipulated recordings cannot support 50/1000 false alarms: 19 would do" in (
        refused("--real", few)
    )
    assert "--group-by file" in refused("--real", person)
    assert "name the same folder" in refused("--real", made["real"], "--manipulated", same)
    assert "there is no such folder" in refused("--real", tmp_path / "nowhere")
    assert "give no less than it" in refused("--real", few, "--max-suspicious", "1/1000")


@pytest.mark.slow
def test_clips_that_cannot_be_used_are_one_line(
    made: dict[str, Path], models: Path, program: Program, tmp_path: Path
) -> None:
    both = make_clips(tmp_path / "both", [3.0 + 0.02 * n for n in range(21)], first=600)
    one = next(made["real"].glob("g-*"))
    shutil.copy(one, both / one.name)
    broken = make_clips(tmp_path / "broken", [0.1 * n for n in range(20)], first=700)
    for path in broken.iterdir():
        path.rename(path.with_name(f"nan {path.name}"))
    for arguments, told in (
        (("--real", made["real"], "--manipulated", both), "have the same content"),
        (("--real", broken), "NaN"),
    ):
        ran = run(program, *arguments, "--to", "x", "--out", tmp_path / "w", "--quiet", *RATES)
        assert ran.code == 2 and told in ran.err and len(ran.err.strip().splitlines()) == 1
        assert not (models / "x").exists()


@pytest.mark.slow
def test_an_interrupted_calibration_goes_on(
    made: dict[str, Path], models: Path, program: Program, tmp_path: Path
) -> None:
    work, gate = tmp_path / "work", tmp_path / "gate"
    asked = ("model", "calibrate", "msccnet-s", "--real", made["real"], "--to", "later",
             "--out", work, *RATES)  # fmt: skip
    gated = {**program.environment(), "GATE": str(gate)}
    process = program.start(*asked, scanner=GRADED, env=gated)
    journal = work / "real" / "journal.jsonl"
    until = time.monotonic() + 60
    while not (journal.exists() and '"started"' in journal.read_text()):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    gate.touch()
    ran = program.end(process)
    assert ran.code == 130 and "run the same command again to resume" in ran.err
    assert not (models / "later").exists() and not (work / "calibration.html").exists()
    ended = program.run(*asked, scanner=GRADED)
    assert ended.code == 0, ended.err
    assert (models / "later" / "later.json").exists()
