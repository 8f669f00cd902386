"""The whole proof on a tiny network and few people, and each part of it on made-up scores."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from skimage import data

from deepscan.engines.choose import REFERENCE
from deepscan.errors import UsageError
from deepscan.models.deploy import Deployed
from deepscan.models.library import read_card
from deepscan.models.weights import save_weights
from deepscan.types import Label
from deepscan.verdict.calibration import Calibration
from deepscan.verdict.estimate import BandMinimum
from tests.models.build import build_network
from tests.train.calibration.test_leave_out import RECIPE, row
from train.calibration.certify import CertifyOptions, certify
from train.calibration.leave_out import ALL, summary
from train.calibration.model_card import Cost, model_card
from train.calibration.reliability import draw, reliability
from train.calibration.shortcut_test import shortcut_test, source_accuracy
from train.calibration.subgroups import TONES, by_subgroup, read_sexes, tone_of
from train.calibration.synthetic_validation import Clip, ClipPlan, ClipVerdict
from train.calibration.weights_card import evidence_of, open_weights
from train.forge.contract import FaceImage
from train.forge.faces import Person, read_faces
from train.smoke import write_faces

# --- Reliability ----------------------------------------------------------------------------------


def windows(people: int, llr_is_true: bool) -> tuple[list[Clip], list[ClipVerdict]]:
    """Normal scores whose LLR is known; given as it is, or three times too sure."""
    rng = np.random.default_rng(1)
    clips, verdicts = [], []
    for person in range(people):
        for forged in (False, True):
            llr = 2 * float(rng.normal(2 * forged - 1))
            clips.append(Clip(f"p{person}", forged, "x" if forged else "none", 23, 90.0, (0.0,)))
            given = llr if llr_is_true else 3 * llr
            verdicts.append(ClipVerdict(Label.NO_EVIDENCE, 0.5, given, (given,)))
    return clips, verdicts


def test_true_likelihood_ratios_are_reliable_and_overconfident_ones_are_not() -> None:
    right = reliability(*windows(1500, True), rounds=50)
    wrong = reliability(*windows(1500, False), rounds=50)
    assert right.error.value < 0.03 < wrong.error.value
    assert right.windows == 3000 and right.people == 1500
    assert sum(one.windows for one in right.bins) == 3000
    for one in right.bins:
        assert one.low <= one.mean <= one.high
        assert one.share.low - 0.05 <= one.mean <= one.share.high + 0.05


def test_odds_are_even_whatever_the_numbers() -> None:
    clips, verdicts = windows(1500, True)
    few = [i for i, clip in enumerate(clips) if not clip.forged or i % 10 == 1]
    found = reliability([clips[i] for i in few], [verdicts[i] for i in few], rounds=20)
    assert found.error.value < 0.06


def test_one_kind_alone_has_no_reliability() -> None:
    clips, verdicts = windows(10, True)
    with pytest.raises(ValueError, match="both kinds"):
        reliability(clips[::2], verdicts[::2])


def test_the_diagram_is_drawn(tmp_path: Path) -> None:
    found = reliability(*windows(60, True), rounds=20)
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        draw(found, tmp_path / f"r{suffix}", "made up")
        assert (tmp_path / f"r{suffix}").read_bytes().startswith(magic)
    assert json.dumps(found.plain(), allow_nan=False)


# --- Groups ---------------------------------------------------------------------------------------


def face_of(colour: tuple[int, int, int]) -> FaceImage:
    image = np.full((120, 100, 3), colour, np.uint8)
    points = np.array([[35.0, 45], [65, 45], [50, 62], [38, 80], [62, 80]])
    return FaceImage(image, points, (20.0, 20.0, 80.0, 100.0))


def test_skin_tone_falls_from_light_to_dark() -> None:
    colours = [(245, 215, 200), (230, 190, 160), (190, 140, 105), (120, 80, 55), (70, 45, 30)]
    angles = []
    for colour in colours:
        tone = tone_of(face_of(colour))
        assert tone is not None and tone.difference == pytest.approx(0.0, abs=0.5)
        angles.append(tone.angle)
        lab = cv2.cvtColor(np.float32([[colour]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]
        assert tone.angle == pytest.approx(np.degrees(np.arctan2(lab[0] - 50, lab[2])), abs=0.5)
    assert angles == sorted(angles, reverse=True)
    names = [tone_of(face_of(colour)).name for colour in colours]  # type: ignore[union-attr]
    assert names[0] in ("very light", "light") and names[-1] == "dark"
    assert [bound for bound, _ in TONES] == sorted((b for b, _ in TONES), reverse=True)


def test_a_grey_picture_has_no_tone_and_half_a_shadow_shows_as_difference() -> None:
    assert tone_of(face_of((128, 128, 128))) is None
    half = face_of((230, 190, 160))
    half.image[:, :50] = (120, 80, 55)
    tone = tone_of(half)
    assert tone is not None and tone.difference > 30


def test_groups_count_people_and_say_what_is_not_known() -> None:
    light, dark = face_of((245, 215, 200)), face_of((70, 45, 30))
    people = [Person(f"{i}.png", f"p{i % 4}", "s", (light, dark)[i % 2]) for i in range(8)]
    clips = [
        Clip(p.person, False, "none", 23, 90.0, (0.0,), source="s", picture=p.name) for p in people
    ]
    verdicts = [
        ClipVerdict(Label.MANIPULATED if i in (1, 5) else Label.NO_EVIDENCE, 0.1, 0.0, (0.5,))
        for i in range(8)
    ]
    found = by_subgroup(people, clips, verdicts, None)
    # Both alarms are of one person: one of two people with dark skin, not two of four clips.
    assert found["tone"]["dark"]["people"] == 2 and found["tone"]["dark"]["clips"] == 4
    assert found["tone"]["dark"]["manipulated"]["value"] == 0.5
    assert found["source"]["s"]["manipulated"]["value"] == 0.25
    assert found["sex"] is None and "not measured" in found["sex_note"]
    assert found["tone_uncertainty"]["measured"] == 8
    assert found["tone_uncertainty"]["people_with_several"] == 4
    told = by_subgroup(people, clips, verdicts, {"p0": "f", "p1": "m"})
    assert set(told["sex"]) == {"f", "m", "not said"}


def test_sex_is_what_the_provider_says(tmp_path: Path) -> None:
    write_faces(tmp_path)
    assert read_sexes(tmp_path) is None
    path = tmp_path / "provenance.csv"
    with path.open(newline="") as lines:
        rows = [{**each, "sex": "f"} for each in csv.DictReader(lines)]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    assert read_sexes(tmp_path) == {"astronaut": "f", "mirrored": "f"}


# --- Sources --------------------------------------------------------------------------------------


def test_sources_are_told_apart_only_where_features_betray_them() -> None:
    rng = np.random.default_rng(2)
    sources = [f"s{index % 3}" for index in range(240)]
    people = [f"p{index}" for index in range(240)]
    blind = rng.normal(size=(240, 12))
    open_ = blind + np.array([3.0 * int(s[1]) for s in sources])[:, None] * (np.arange(12) < 2)
    assert source_accuracy(open_, sources, people, rounds=50).value > 0.8
    found = source_accuracy(blind, sources, people, rounds=50)
    assert found.low <= 1 / 3 + 0.05 and abs(found.value - 1 / 3) < 0.12


def test_a_person_in_the_fit_is_never_asked() -> None:
    # Every person has a signature that would give the source away to who has seen them.
    rng = np.random.default_rng(3)
    people = [f"p{index % 40}" for index in range(200)]
    sources = [f"s{int(p[1:]) % 2}" for p in people]
    signatures = rng.normal(size=(40, 60)) * 5
    features = np.array([signatures[int(p[1:])] for p in people]) + rng.normal(size=(200, 60))
    assert source_accuracy(features, sources, people, rounds=20).value < 0.8


def test_the_proof_reads_features_and_scores_of_a_network(tmp_path: Path) -> None:
    write_faces(tmp_path)
    face = read_faces(tmp_path, "val")[0].face
    rng = np.random.default_rng(4)
    people = []
    for index in range(24):
        image = face.image.copy()
        if index % 2:  # one source is darker
            image = (image * 0.5).astype(np.uint8)
        image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        people.append(
            Person(f"{index}.png", f"p{index}", f"s{index % 2}", replace(face, image=image))
        )
    found = shortcut_test(Deployed(build_network()), people, None, rounds=20)
    assert found["sources"] == ["s0", "s1"] and found["chance"] == 0.5
    assert found["statistics"]["value"] > 0.9
    assert 0 <= found["features"]["value"] <= 1
    higher = [found["by_source"][name]["higher_than_others"]["value"] for name in ("s0", "s1")]
    assert sum(higher) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="nothing to classify"):
        shortcut_test(Deployed(build_network()), people[:6], None)


# --- All of it ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("proof")
    write_faces(folder / "faces")
    more_people(folder / "faces", 8)
    config = replace(RECIPE.config, input_size=64)
    # Bright crops are what this network takes for forged ones; a scale can be fitted on that.
    network = build_network(config)
    recipe = replace(RECIPE, forges={"self-blend": 0.5, "swap": 0.5})
    made = {"recipe": recipe.to_json(), "seed": "1", "steps": "2", "data_sha256": "0" * 64}
    save_weights(folder / "tiny.safetensors", config, network.state_dict(), made)
    real_deepfakes(folder / "deepfakes")
    return folder, certify_in(folder)


def certify_in(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    options = CertifyOptions(
        ClipPlan(1, 1, 12, ("h264",), moving=False),
        rounds=20,
        minimum=BandMinimum(4, 2, 2),
        cost=Cost(1.5, 2.0, "a laptop"),
        scanner=REFERENCE,
        devset=folder / "deepfakes",
        looks=folder / "looks.csv",
    )
    (folder / "looks.csv").write_text(
        "date,question,step,weights,headline,clips,pairs,difference\n"
        '2026-01-01,more crops?,"9,000 crops",0123,,0.500,0.500,\n'
    )
    return certify(folder / "tiny.safetensors", folder / "faces", folder / "out", options)


def real_deepfakes(folder: Path) -> None:
    """Two pairs of stills: the portrait, and the portrait with another's colours in its face."""
    folder.mkdir()
    rows = ["file,label,recording,set,real_counterpart"]
    for number in range(2):
        picture = data.astronaut()
        Pillow.fromarray(picture).save(folder / f"real{number}.png")
        picture[80:170, 190:260] = picture[80:170, 190:260][..., ::-1]
        Pillow.fromarray(picture).save(folder / f"fake{number}.png")
        rows += [f"real{number}.png,real,r{number},live swap,"]
        rows += [f"fake{number}.png,fake,r{number},live swap,real{number}.png"]
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def more_people(faces: Path, count: int) -> None:
    """Copies of the portrait under other names: enough to resample."""
    path = faces / "provenance.csv"
    lines = path.read_text().splitlines()
    first = next(line for line in lines if line.endswith("val"))
    lines += [first.replace("scikit-image,astronaut", f"s{i % 2},p{i}") for i in range(count)]
    path.write_text("\n".join(lines) + "\n")


def test_the_proof_gives_weights_with_a_card_that_scans_can_read(
    proof: tuple[Path, dict[str, Any]],
) -> None:
    folder, card = proof
    read = read_card("tiny", folder / "out")
    assert read.sha256 == card["sha256"]
    calibration = Calibration.from_card(read.values)
    assert calibration.bands and calibration.clips == 10
    evidence = {each.what: each for each in read.info.evidence}
    assert {"frame AUC", "video AUC", "untouched clips called manipulated"} <= set(evidence)
    for each in evidence.values():
        assert each.interval[0] <= each.value + 1e-9 and each.value <= each.interval[1] + 1e-9
    assert json.loads((folder / "out" / "tiny.json").read_text()) == json.loads(json.dumps(card))


def test_tables_and_documents_are_written(proof: tuple[Path, dict[str, Any]]) -> None:
    folder, card = proof
    for name in ("slices", "harmless", "groups-tone", "groups-source", "reliability", "clips"):
        with (folder / "out" / "tables" / f"{name}.csv").open(newline="") as lines:
            assert list(csv.DictReader(lines)), name
    text = (folder / "out" / "docs" / "model-card.md").read_text()
    assert (folder / "out" / "docs" / "reliability.svg").is_file()
    for said in (
        "never seen a real deepfake** in training", "| live swap | deepfakes |",
        "Wholly generated", "Lip-sync", "Strong compression",
        "1.5 kWh", "2 hours", "a laptop", "FaceForensics++", "Not measured", "s0", "s1",
        card["sha256"], "Sex: not measured", "| more crops? | 9,000 crops |  | 0.500 |",
        "chosen with 1 look at them",
    ):  # fmt: skip
        assert said in text, said
    assert "{" not in text and "None" not in text


def test_a_proof_goes_on_where_it_stopped(proof: tuple[Path, dict[str, Any]]) -> None:
    folder, card = proof
    kept = folder / "out" / "clips.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    stamp = kept.stat().st_mtime_ns
    again = certify_in(folder)
    assert kept.stat().st_mtime_ns == stamp and len(lines) == 31
    assert again["evaluation"]["slices"] == card["evaluation"]["slices"]
    assert again["calibration"] == card["calibration"]


def test_the_card_tells_what_was_left_out(proof: tuple[Path, dict[str, Any]]) -> None:
    _, card = proof
    rows = [
        {**row(tested, left, value), "iou": "0.5", "iou_low": "0.4", "iou_high": "0.6"}
        for tested, left, value in (
            ("swap", "swap", 0.8), ("redraw", "redraw", 0.9), ("swap", ALL, 0.95),
        )
    ]  # fmt: skip
    evaluation = {**card["evaluation"], "leave_out": summary(rows)}
    text = model_card({**card, "evaluation": evaluation})
    assert "| swap | 600 | random | 0.800 [0.700, 0.850]" in text and "lowest 0.800" in text
    whats = [each["what"] for each in evidence_of(evaluation)]
    assert "mean frame AUC on forges left out of training" in whats


def test_figures_keep_their_order_whatever_the_order_of_a_file(
    proof: tuple[Path, dict[str, Any]],
) -> None:
    folder, card = proof
    kept = json.loads((folder / "out" / "real-deepfakes.json").read_text())  # keys in rising order
    evaluation = {**card["evaluation"], "real_deepfakes": kept}
    again = {each["what"]: each for each in evidence_of(evaluation)}
    assert again == {each["what"]: each for each in card["evaluation"]["evidence"]}
    first = evidence_of(evaluation)[0]
    assert first["what"].startswith("clip AUC") and first["interval"][0] <= first["value"]


def test_the_card_says_where_a_promise_is_not_kept(proof: tuple[Path, dict[str, Any]]) -> None:
    _, card = proof
    clips = {**card["evaluation"]["clips"], "false_alarm": (0.2, 0.1, 0.3)}
    text = model_card({**card, "evaluation": {**card["evaluation"], "clips": clips}})
    assert "**more than promised**" in text


def test_weights_without_forges_cannot_be_proven(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces")
    config = replace(RECIPE.config, input_size=64)
    state = build_network(config).state_dict()
    save_weights(tmp_path / "w.safetensors", config, state, {})
    with pytest.raises(UsageError, match="no weights file of train"):
        open_weights(tmp_path / "w.safetensors", tmp_path / "faces")
    needing = replace(RECIPE, forges={"deepswap": 0.5, "swap": 0.5})
    save_weights(tmp_path / "d.safetensors", config, state, {"recipe": needing.to_json()})
    with pytest.raises(UsageError, match="deepswap need a pack"):
        open_weights(tmp_path / "d.safetensors", tmp_path / "faces")
