"""Training on tiny networks: the same to the bit after a stop, alike on two processes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer import Typer
from typer.testing import CliRunner

from deepscan.errors import ModelError, UsageError
from deepscan.models.config import MSCCNetConfig
from tests.train import spread
from train import progress
from train import train as training
from train.batches import DatasetPairStream, couples, open_training_data
from train.datasets import Sample, Truth, VideoKey, open_dataset
from train.evaluation.crops import choose, pictures_of
from train.recipe import DatasetOptions, Recipe, Schedule, Stage, parse_recipe, read_recipe
from train.smoke import smoke_data, write_dataset, write_faces
from train.train import CLASSIFIER, start_from, train

ROOT = Path(__file__).parents[2]
LOSSES = {"image": {"ce": 1.0}, "mask": {"ce": 1.0, "dice": 0.5}, "coarse": {"ce": 0.5}}
TINY = {"channels": 16, "dct_k": 4}
SCHEDULE = Schedule(
    stages=(Stage(32, 4), Stage(64, 2)), pairs=2, learning_rate=1e-3, weight_decay=0.05,
    warmup=1, clip=5.0, ema=0.9, validate_every=0,
)  # fmt: skip
FACES = Recipe(
    "msccnet-s", 5, SCHEDULE, {"self-blend": 1.0}, None, LOSSES, precision="fp32", network=TINY
)
PICTURES = replace(
    FACES,
    forges={},
    dataset=DatasetOptions("folder", transforms=(("flip", {}), ("shake", {}), ("square", {}))),
    schedule=replace(
        SCHEDULE, stages=(Stage(32, epochs=2),), optimiser="sgd", curve="poly", ema=0.0
    ),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_faces(folder / "faces")
    write_dataset(folder / "faces", folder)
    return folder


def go(recipe: Recipe, data: Path, out: Path, until: int | None = None) -> Path | None:
    folder = data if recipe.dataset else data / "faces"
    return train(recipe, folder, out, workers=0, device="cpu", until=until)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def equal_files(one: Path, two: Path) -> bool:
    """The same tensors to the bit and the same metadata (safetensors shuffles its keys)."""
    with safe_open(one, "pt") as first, safe_open(two, "pt") as second:
        return first.metadata() == second.metadata() and same(load_file(one), load_file(two))


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("recipe", [FACES, PICTURES], ids=["faces", "pictures"])
def test_a_run_that_stops_and_goes_on_is_an_unbroken_one(
    recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    # A validation in between must not shift what comes after it.
    recipe = replace(recipe, schedule=replace(recipe.schedule, validate_every=3))
    whole = go(recipe, data, tmp_path / "whole")
    assert go(recipe, data, tmp_path / "broken", until=1) is None
    assert go(recipe, data, tmp_path / "broken", until=3) is None
    broken = go(recipe, data, tmp_path / "broken")
    assert whole is not None and broken is not None
    assert equal_files(whole, broken)
    one, two = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "broken")
    )
    assert set(one) == {"network", "optimiser", "average", "torch_rng", "step", "history"}
    assert same(one["network"], two["network"]) and torch.equal(one["torch_rng"], two["torch_rng"])
    assert same(one["optimiser"]["state"][0], two["optimiser"]["state"][0])
    # Once more: there is nothing left to do, and nothing changes.
    assert go(recipe, data, tmp_path / "broken") == broken
    assert equal_files(whole, broken)


def test_learned_filters_go_on_too(data: Path, tmp_path: Path) -> None:
    recipe = replace(
        FACES,
        network={**TINY, "filters": "learnable-dct"},
        schedule=replace(SCHEDULE, stages=(Stage(32, 3),)),
    )
    whole = go(recipe, data, tmp_path / "whole")
    go(recipe, data, tmp_path / "broken", until=2)
    broken = go(recipe, data, tmp_path / "broken")
    assert whole is not None and broken is not None
    assert equal_files(whole, broken)
    learned = load_file(whole)["mscc.filter.weight"]
    start = training.build(recipe.config).mscc.filter.weight.detach()
    assert 1e-4 < float((learned - start).abs().max()) < 0.1


def test_the_seed_decides(data: Path, tmp_path: Path) -> None:
    short = replace(FACES, schedule=replace(SCHEDULE, stages=(Stage(32, 2),), validate_every=0))
    one = go(short, data, tmp_path / "one")
    two = go(replace(short, seed=6), data, tmp_path / "two")
    assert one is not None and two is not None
    assert not same(load_file(one), load_file(two))


def test_the_weights_say_what_made_them(data: Path, tmp_path: Path) -> None:
    path = go(FACES, data, tmp_path)
    assert path == tmp_path / "msccnet-s.safetensors"
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert parse_recipe(said["recipe"]) == FACES
    config = MSCCNetConfig(**json.loads(said["config"]))
    assert (config.input_size, config.channels) == (64, 16)
    assert (said["steps"], said["seed"]) == ("6", "5") and len(said["data_sha256"]) == 64
    training.build(config).load_state_dict(load_file(path), strict=True)


def test_a_run_leaves_a_log_and_curves(data: Path, tmp_path: Path) -> None:
    go(FACES, data, tmp_path)
    steps = [(row["step"], bool(row["loss"]), bool(row["auc"])) for row in rows(tmp_path)]
    assert steps == [
        ("4", True, False), ("6", True, False), ("6", False, True),
    ]  # fmt: skip
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None and picture.shape == (600, 1000, 3) and picture.std() > 10
    (tmp_path / "curves.png").unlink()
    app = Typer()
    app.command()(progress.main)
    assert CliRunner().invoke(app, [str(tmp_path)]).exit_code == 0
    assert (tmp_path / "curves.png").exists()
    empty = CliRunner().invoke(app, [str(tmp_path / "none")])
    assert empty.exit_code == 2 and "no log of a run" in empty.output


def test_steps_after_the_checkpoint_are_logged_anew(data: Path, tmp_path: Path) -> None:
    go(FACES, data, tmp_path, until=3)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("1.0,20,32,0.5,0.001,9.0,,\n1.0,40,3")  # a process that died while writing
    go(FACES, data, tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == ["3", "4", "6", "6"]


def test_an_interrupted_run_saves_where_it_stands(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = training.learn
    steps = []

    def interrupt(*arguments):
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(*arguments)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(training, "learn", interrupt)
    assert go(FACES, data, tmp_path) is None
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_bf16_is_another_precision_not_another_run(data: Path, tmp_path: Path) -> None:
    short = replace(FACES, schedule=replace(SCHEDULE, stages=(Stage(32, 1),), validate_every=0))
    for name in ("fp32", "bf16"):
        go(replace(short, precision=name), data, tmp_path / name)
    one, two = (float(rows(tmp_path / name)[0]["loss"]) for name in ("fp32", "bf16"))
    assert one != two and one == pytest.approx(two, rel=0.1)


def test_two_processes_learn_what_one_does(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'model = "msccnet-s"\nseed = 2\nprecision = "fp32"\nforges = { self-blend = 1 }\n'
        "[schedule]\nstages = [{ size = 32, steps = 3 }, { size = 48, steps = 2 }]\npairs = 4\n"
        'learning_rate = 0.05\noptimiser = "sgd"\nvalidate_every = 0\n'
        "[losses]\nimage = { ce = 1 }\nmask = { ce = 1 }\n"  # coarse learns nothing: allowed
    )
    spread.run(recipe, data / "faces", tmp_path / "one")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "tests.train.spread", str(recipe), str(data / "faces"), str(tmp_path / "two"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=280)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    one, two = (load_file(tmp_path / name / "msccnet-s.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        assert torch.allclose(one[key], two[key], atol=1e-5), key
    losses = [
        [float(row["loss"]) for row in rows(tmp_path / name) if row["loss"]]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and len(losses[0]) == 2


def sample(name: str, frame: int, source: str | None = None) -> Sample:
    key = VideoKey("set", "real" if source is None else "swap", name)
    return Sample(
        key, Path(f"{name}/{frame}.png"), int(source is not None), "train",
        Truth.CLEAN if source is None else Truth.WHOLE, frame=frame,
        original=VideoKey("set", "real", source) if source else None,
    )  # fmt: skip


def test_a_fake_stands_beside_its_own_real_frame() -> None:
    real = [sample("a", 0), sample("a", 5), sample("b", 0)]
    fakes = [sample("x", 5, "a"), sample("y", 9, "b"), sample("z", 0, "gone")]
    found = couples([*real, *fakes])
    assert [fake.video.name for fake, _ in found] == ["x", "y", "z"]
    assert found[0][1] == (real[1],)
    assert found[1][1] == (real[2],)  # no such frame: another one of that video
    assert found[2][1] == tuple(real)  # no such video: anyone
    with pytest.raises(UsageError, match="0 fake and 3 real"):
        couples(real)


def test_every_epoch_shows_every_fake_once(data: Path) -> None:
    chosen = choose(open_dataset("folder", data), "train")
    pairs = couples([picture for one in chosen for picture in pictures_of(one)])
    assert len(pairs) == 4
    stream = DatasetPairStream(pairs, DatasetOptions("folder"), 32, 1, batch=2, length=8)
    crops, masks, _ = stream[0]
    assert crops.shape == (2, 32, 32, 3) and crops.dtype == torch.float32
    assert masks.shape == (2, 32, 32) and masks[0].any() and not masks[1].any()
    epochs = [[stream[index][0][0] for index in range(start, start + 4)] for start in (0, 4)]
    assert len({float(crop.sum()) for crop in epochs[0]}) == 4
    assert sorted(float(c.sum()) for c in epochs[0]) == sorted(float(c.sum()) for c in epochs[1])
    assert [float(c.sum()) for c in epochs[0]] != [float(c.sum()) for c in epochs[1]]


def test_frames_of_a_folder_keep_their_own_masks(tmp_path: Path) -> None:
    for kind in ("real/v", "fake/swap/v", "mask/swap/v"):
        (tmp_path / kind).mkdir(parents=True)
        for frame in (3, 12):
            level = 255 if kind.startswith("mask") and frame == 3 else 0
            cv2.imwrite(str(tmp_path / kind / f"{frame}.png"), np.full((6, 6), level, np.uint8))
    (fake,) = [one for one in choose(open_dataset("folder", tmp_path), "test") if one.label]
    frames = pictures_of(fake)
    assert [(one.frame, one.mask.name) for one in frames] == [(3, "3.png"), (12, "12.png")]
    (tmp_path / "mask/swap/v/12.png").unlink()
    with pytest.raises(UsageError, match=r"expected its mask .*12\.png; found nothing"):
        pictures_of(fake)


def broken_source(data: Path, **changes: object) -> UsageError:
    assert PICTURES.dataset is not None
    recipe = replace(PICTURES, dataset=replace(PICTURES.dataset, **changes))
    with pytest.raises(UsageError) as caught:
        open_training_data(recipe, data)
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_a_data_set_lacks_is_one_line(data: Path, tmp_path: Path) -> None:
    assert "has no split 'other'" in str(broken_source(data, split="other"))
    assert "no split 'other' to validate on" in str(broken_source(data, val="other"))
    assert "no compression 'c40'" in str(broken_source(data, compression="c40"))
    assert "no manipulation 'melt'" in str(broken_source(data, manipulations=("melt",)))
    (tmp_path / "train/real").mkdir(parents=True)
    (tmp_path / "train/fake").mkdir()
    for place in ("real/a.png", "fake/b.png"):
        cv2.imwrite(str(tmp_path / "train" / place), np.zeros((9, 9, 3), np.uint8))
    assert "1 fakes of folder, split train, have no mask" in str(broken_source(tmp_path, val=""))
    (tmp_path / "train/real/c.mp4").touch()
    assert "c.mp4 is a video, training reads pictures" in str(broken_source(tmp_path, val=""))


def test_a_checkpoint_of_another_recipe_is_refused(data: Path, tmp_path: Path) -> None:
    go(FACES, data, tmp_path, until=1)
    other = replace(FACES, network={**TINY, "channels": 32})
    with pytest.raises(UsageError, match="not of this recipe or damaged"):
        go(other, data, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="give another --out"):
        go(FACES, data, tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_backbone_starts_from_a_file(tmp_path: Path, suffix: str) -> None:
    one, two = (training.build(FACES.config) for _ in range(2))
    state = {**one.backbone.state_dict(), "fc.weight": torch.zeros(3, 3)}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    noted = start_from(two.backbone, path, CLASSIFIER)
    assert same(one.backbone.state_dict(), two.backbone.state_dict())
    assert noted == hashlib.sha256(path.read_bytes()).hexdigest()
    del state["layer1.0.conv1.weight"]
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(ModelError, match="do not fit"):
        start_from(two.backbone, path, CLASSIFIER)
    with pytest.raises(ModelError, match="do not fit"):
        start_from(two.backbone, tmp_path / "none.pth")


@pytest.mark.parametrize(("stages", "norms"), [(0, False), (0, True), (1, False), (2, True)])
def test_frozen_parts_of_a_backbone_stay_as_they_are(stages: int, norms: bool) -> None:
    recipe = replace(FACES, frozen_stages=stages, frozen_norms=norms)
    network = training.build(recipe.config)
    before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    still = training.freeze(network, recipe)
    optimiser = training.optimiser_of(network, recipe.schedule)
    crops = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8)
    mask = torch.zeros(2, 32, 32, dtype=torch.uint8)
    training.learn(network, crops, mask, recipe, optimiser, still)
    after = network.backbone.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    ends = [f"layer{stage}." for stage in range(stages + 1, 5)]
    learned = {key for key in moved if not key.endswith(("running_mean", "running_var", "tracked"))}
    assert learned and (stages == 0 or all(key.startswith(tuple(ends)) for key in learned))
    statistics = moved - learned
    assert bool(statistics) is not norms
    assert stages == 0 or all(key.startswith(tuple(ends)) for key in statistics)


def test_a_snapshot_of_an_unfinished_run_is_half_and_can_be_started_from(
    data: Path, tmp_path: Path
) -> None:
    assert go(FACES, data, tmp_path / "run", until=2) is None
    path = tmp_path / "half.safetensors"
    assert training.write_snapshot(FACES, tmp_path / "run", path) == 2
    saved = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["average"]
    half = load_file(path)
    assert all(half[key].dtype == torch.float16 for key in saved if saved[key].is_floating_point())
    network = training.build(FACES.config)
    training.start_from(network, path)
    assert all(
        torch.allclose(value, saved[key], atol=1e-3, rtol=1e-3)
        for key, value in network.state_dict().items()
    )
    other = replace(FACES, network={"channels": 64, "dct_k": 4})
    with pytest.raises(UsageError, match="no checkpoint of this recipe"):
        training.write_snapshot(other, tmp_path / "run", path)


def test_a_network_starts_from_the_weights_of_another_run(tmp_path: Path) -> None:
    one, two = (training.build(FACES.config) for _ in range(2))
    path = tmp_path / "weights.safetensors"
    save_file(one.state_dict(), path)
    noted = start_from(two, path)
    assert same(one.state_dict(), two.state_dict())
    assert noted == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-9])
    for wrong in (path, tmp_path / "none.safetensors"):
        with pytest.raises(ModelError, match="do not fit"):
            start_from(two, wrong)


def command(*arguments: object):
    app = Typer()
    app.command()(training.main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_bad_input_is_one_line_and_exit_2(data: Path, tmp_path: Path) -> None:
    recipe = ROOT / "train/recipes/msccnet-s-first.toml"
    nine = ROOT / "train/recipes/msccnet-s.toml"
    for arguments, said in (
        ((nine, "--data", data, "--out", tmp_path / "out"), "give it as --pack"),
        (("none.toml", "--data", data, "--out", tmp_path), "cannot be read"),
        ((recipe,), "--data and --out are needed"),
        ((recipe, "--data", tmp_path, "--out", tmp_path / "out"), "provenance.csv is missing"),
        ((recipe, "--data", data, "--out", tmp_path, "--device", "tpu"), "no device 'tpu'"),
    ):
        done = command(*arguments)
        assert done.exit_code == 2 and said in done.output
        assert len(done.output.strip().splitlines()) == 1
    if not torch.cuda.is_available():
        assert "sees no CUDA" in command(recipe, "--smoke", "--device", "cuda").output


def test_a_smoke_run_needs_nothing(tmp_path: Path) -> None:
    done = command(ROOT / "train/recipes/msccnet-s.toml", "--smoke", "--out", tmp_path / "run")
    assert done.exit_code == 0 and "figures mean nothing" in done.output
    assert (tmp_path / "run/msccnet-s.safetensors").exists()


def test_smoke_data_stand_in_for_any_data_set(tmp_path: Path) -> None:
    paper = read_recipe(ROOT / "train/recipes/msccnet-r50-paper.toml")
    stand_in = smoke_data(paper, tmp_path)
    small = replace(
        stand_in, network=TINY, model="msccnet-s",
        schedule=replace(paper.schedule, stages=(Stage(32, 1),), pairs=2),
    )  # fmt: skip
    assert train(small, tmp_path, tmp_path / "run", workers=0, device="cpu") is not None
    assert small.dataset is not None and small.dataset.transforms == paper.dataset.transforms
