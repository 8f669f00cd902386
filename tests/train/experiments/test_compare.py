"""The paired trainer: equal data for all, figures that follow from the plan, errors in one line."""

from __future__ import annotations

import csv
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from deepscan.errors import UsageError
from train.experiments import compare, measure
from train.experiments.ablate import main as ablate_main
from train.experiments.plan import Data, Fit, data_of, fit_of, make_sets
from train.experiments.samples import Samples, forge_samples, split_calibration, zoomed
from train.experiments.short_training import batches, fit, predict
from train.forge.faces import read_faces
from train.losses import weighted_sum

FORGES = {"self-blend": 1.0, "swap": 1.0}
DATA = Data(size=32, pairs=6, forges=FORGES)
QUICK = Fit(architecture="resnet18-fcn", steps=2, batch=4, warmup=1, bf16=False)
RUNNER = CliRunner()
FILE = ("file", "source", "person_id")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One thread and a short bootstrap: enough to see that the figures are there."""
    monkeypatch.setattr(measure, "ROUNDS", 20)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_faces(folder):
    """Drawn faces in the layout of train/forge/faces.py: some of the people land in calibration."""
    kept = [f"p{i}" for i in range(200) if crc32(f"p{i}".encode()) % 10 == 0][:3]
    rest = [f"p{i}" for i in range(200) if crc32(f"p{i}".encode()) % 10][:8]
    rng = np.random.default_rng(0)
    rows = []
    for name in kept + rest:
        picture = cv_face(rng)
        Image.fromarray(picture).save(folder / f"{name}.png")
        split = "val" if name in rest[5:] else "train"
        marks = "48 55 72 55 60 66 50 78 70 78"
        rows.append([f"{name}.png", "drawn", name, 38, 35, 44, 52, marks, split])
    with (folder / "provenance.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["file", "source", "person_id", "face_x", "face_y", "face_w", "face_h", "lm5", "split"]
        )
        writer.writerows(rows)
    return folder


def cv_face(rng):
    """A face of blobs, 120 x 120, another colour and grain each."""
    picture = np.full((120, 120, 3), rng.integers(40, 200, 3), np.float64)
    y, x = np.mgrid[:120, :120]
    inside = ((x - 60) / 22) ** 2 + ((y - 61) / 27) ** 2 < 1
    picture[inside] = rng.integers(90, 230, 3)
    for cx, cy, radius in ((48, 55, 4), (72, 55, 4), (60, 66, 3), (60, 78, 6)):
        picture[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = rng.integers(0, 90, 3)
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return draw_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def sets(faces):
    return make_sets(DATA, faces)


def test_nobody_is_in_two_of_the_sets(sets):
    people = [set(part.groups) for part in (sets.training, sets.calibration, sets.measured)]
    assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
    assert len(people[1]) == 3 and len(people[2]) == 3


def test_samples_are_pairs_and_reproducible(sets, faces):
    training = sets.training
    assert training.crops.shape == (12, 32, 32, 3) and training.unit == 2
    assert training.labels.tolist() == [1, 0] * 6
    assert training.masks[0::2].any(axis=(1, 2)).any() and not training.masks[1::2].any()
    again = make_sets(DATA, faces).training
    assert np.array_equal(again.crops, training.crops)
    assert np.array_equal(again.masks, training.masks)


def test_masks_of_the_procedure_and_clean_crops_change_training_alone(sets, faces):
    people, _ = split_calibration(read_faces(faces, "train"))
    annotated = forge_samples(people, FORGES, size=32, seed=1, pairs=6, masks="annotated")
    assert np.array_equal(annotated.crops, sets.training.crops)
    assert not np.array_equal(annotated.masks, sets.training.masks)
    clean = forge_samples(people, FORGES, size=32, seed=1, pairs=6, augmentation=False)
    assert not np.array_equal(clean.crops, sets.training.crops)
    same = make_sets(replace(DATA, masks="annotated", augmentation=False), faces)
    assert np.array_equal(same.measured.crops, sets.measured.crops)


def test_a_zoomed_crop_shows_the_middle_of_the_face(faces):
    person = read_faces(faces, "val")[0]
    near = zoomed(person, 0.5).face.box
    x1, y1, x2, y2 = person.face.box
    assert near == pytest.approx(
        ((3 * x1 + x2) / 4, (3 * y1 + y2) / 4, (x1 + 3 * x2) / 4, (y1 + 3 * y2) / 4)
    )
    assert zoomed(person, 1.0).face.box == pytest.approx(person.face.box)


def test_too_few_people_to_calibrate_on(faces):
    with pytest.raises(UsageError, match="more people are needed"):
        split_calibration(read_faces(faces, "val"))


def test_every_round_takes_each_pair_once_and_keeps_it_together(sets):
    stream = batches(sets.training, 4, seed=3)
    first = np.concatenate([next(stream) for _ in range(3)])
    second = np.concatenate([next(stream) for _ in range(3)])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first.tolist() != second.tolist()
    assert (first[0::2] % 2 == 0).all() and (first[1::2] == first[0::2] + 1).all()
    with pytest.raises(UsageError, match="only 12 are there"):
        next(batches(sets.training, 14, seed=3))


def test_a_task_learns_only_from_the_outputs_that_it_has(sets):
    from train.experiments.networks import Outputs

    labels = torch.from_numpy(sets.training.labels[:4])
    masks = torch.from_numpy(sets.training.masks[:4]).long()
    losses = {"image": {"ce": 1.0}, "mask": {"ce": 1.0}}
    image, mask = torch.randn(4, 2), torch.randn(4, 2, 8, 8)

    alone = [
        weighted_sum(Outputs(image, None), labels, masks, losses),
        weighted_sum(Outputs(None, mask), labels, masks, losses),
    ]
    both = weighted_sum(Outputs(image, mask), labels, masks, losses)
    torch.testing.assert_close(both, alone[0] + alone[1])


def test_the_same_seed_gives_the_same_network_and_another_one_does_not(sets):
    states = [fit(QUICK, sets.training, seed=seed).state_dict() for seed in (5, 5, 6)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["pixel.weight"], states[2]["pixel.weight"])


def test_classifiers_draw_maps_and_segmentations_masks(sets):
    for task, names in (("classify", {"cam", "grad-cam"}), ("segment", {"mask"})):
        network = fit(replace(QUICK, task=task), sets.training, seed=1)
        scores, maps = predict(network, sets.measured, batch=4)
        assert (scores is None) == (task == "segment")
        assert set(maps) == names
        for drawn in maps.values():
            assert drawn.shape == (12, 32, 32) and drawn.min() >= 0 and drawn.max() <= 1


def knowing_sets(count=20, size=16):
    """Crops whose truth a drawn answer can know: half of them manipulated in a corner."""
    masks = np.zeros((count, size, size), np.uint8)
    masks[::2, :5, :5] = 1
    samples = Samples(
        np.zeros((count, size, size, 3), np.uint8),
        np.tile([1, 0], count // 2),
        masks,
        tuple(f"p{i // 2}" for i in range(count)),
        ("drawn",) * count,
        unit=2,
    )
    return measure.Sets(samples, samples, samples)


def test_a_perfect_answer_gets_full_marks_and_noise_does_not():
    sets = knowing_sets()
    perfect = sets.measured.labels.astype(np.float64), {"mask": sets.measured.masks * 0.9}
    rng = np.random.default_rng(0)
    noise = rng.random(20), {"mask": rng.random((20, 16, 16))}
    one, other = (
        measure.outcome_of(said, said, sets, parameters=1, macs=1, speed=1.0)
        for said in (perfect, noise)
    )
    samples = sets.measured
    for name in ("auc", "accuracy", "pixel_accuracy", "miou", "iou_fake"):
        found = measure.estimate([one], samples, name)
        assert found == (1.0, 1.0, 1.0), name
        assert measure.estimate([other], samples, name).value < 1.0
    gap = measure.difference([one], [other], samples, "miou")
    assert gap.low > 0
    assert measure.difference([one], [one], samples, "auc") == (0.0, 0.0, 0.0)


def test_several_seeds_are_averaged():
    sets = knowing_sets()
    truth = sets.measured.labels.astype(np.float64)
    outcomes = [
        measure.outcome_of(said, said, sets, parameters=1, macs=1, speed=1.0)
        for said in ((truth, {}), (1 - truth, {}))
    ]
    assert measure.estimate(outcomes, sets.measured, "auc").value == 0.5


def test_nothing_is_fitted_on_the_measured_crops():
    sets = knowing_sets()
    truth = sets.measured.labels
    inside = sets.measured.masks
    known = np.where(truth == 1, 0.9, 0.8), {"mask": np.where(inside, 0.9, 0.5)}
    asked = np.where(truth == 1, 0.5, 0.2), {"mask": np.where(inside, 0.4, 0.1)}
    found = measure.outcome_of(known, asked, sets, parameters=1, macs=1, speed=1.0)
    assert found.cuts[measure.IMAGE] == pytest.approx(0.85)
    # A cut of 0.85 calls all of them real, although 0.3 would part them.
    assert measure.estimate([found], sets.measured, "accuracy", measure.IMAGE).value == 0.5
    assert measure.estimate([found], sets.measured, "iou_fake").value == 0.0


PLAN = """
architectures = ["resnet18-fcn"]
tasks = ["classify", "segment", "both"]
seeds = [1]
[data]
size = 32
pairs = 6
forges = { self-blend = 1.0, swap = 1.0 }
[fit]
steps = 2
batch = 4
warmup = 1
bf16 = false
"""


def invoke(main, *arguments):
    import typer

    app = typer.Typer()
    app.command()(main)
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def test_the_command_writes_a_table_that_says_what_it_is(faces, tmp_path):
    plan, out = tmp_path / "tiny.toml", tmp_path / "result.md"
    plan.write_text(PLAN)
    kept = tmp_path / "kept"
    arguments = (plan, "--data", faces, "--out", out, "--cache", kept, "--threads", 1)
    done = invoke(compare.main, *arguments)
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert "**Small, synthetic, ours**" in text
    assert "python -m train.experiments.compare train/plans/tiny.toml --data FACES" in text
    assert str(faces) not in text and str(tmp_path) not in text
    assert 'architectures = ["resnet18-fcn"]' in text
    for task in ("classify", "segment", "both"):
        assert f"| resnet18-fcn | {task} |" in text
    assert "segment - classify" in text and "On pixels" in text
    again = invoke(compare.main, *arguments)
    assert again.output.count("was there") == 3 and out.read_text() == text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": ["judge"]}, "no task 'judge'"),
        ({"architectures": []}, "architectures must be a list"),
        ({"seeds": 3}, "seeds must be a list"),
        ({"sizes": [3]}, "no key 'sizes'"),
        ({"fit": {"task": "both"}}, r"\[fit\] task stands in the list tasks"),
        ({"fit": {"speed": 1}}, r"\[fit\]: no key 'speed'"),
        ({"fit": {"losses": {"mask": {"guess": 1.0}}}}, "no loss 'guess'"),
        ({"data": {"forges": {"paint": 1.0}}}, "no forge 'paint'"),
        ({"data": {"masks": "drawn"}}, "no masks 'drawn'"),
        ({"data": {"size": 0}}, "it must be positive"),
    ],
)
def test_a_wrong_plan_is_named(change, words):
    values = {"architectures": ["unet"], "tasks": ["both"], "seeds": [1], **change}
    with pytest.raises(UsageError, match=words):
        compare.comparison_of(values)


@pytest.mark.parametrize("main", [compare.main, ablate_main])
def test_a_wrong_folder_ends_in_one_line(main, tmp_path):
    plan = tmp_path / "tiny.toml"
    rows = PLAN.replace("architectures", "# ").replace("tasks", "# ") + '[[rows]]\nname = "a"\n'
    plan.write_text(PLAN if main is compare.main else rows)
    done = invoke(main, plan, "--data", tmp_path, "--out", tmp_path / "out.md")
    assert done.exit_code == 2
    assert "provenance.csv is missing" in done.output and "Traceback" not in done.output


def test_defaults_of_a_plan_are_whole():
    assert data_of({}) == Data() and fit_of({}) == Fit()
