"""Decoders learn, go on where they stopped, and their pack gives back what was put in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from deepscan.errors import UsageError
from train.batches import open_training_data
from train.forge import FORGES, autoencoders, build_pack, load_forge, sheet
from train.forge.align import align
from train.forge.autoencoder_pack import encode, read_pack, write_pack
from train.forge.autoencoders import (
    DESIGNS,
    Design,
    Learner,
    aligned_faces,
    groups_of,
    load_decoders,
    train,
)  # fmt: skip
from train.forge.deepswap import enlarge, truer
from train.forge.faces import Person, read_faces, with_redrawn
from train.forge.pairs import forge_face
from train.forge.shape import mean_face
from train.recipe import read_recipe
from train.smoke import plain_copies, write_faces, write_plain_pack

QUICK = (
    Design("swap", "transposed", 32),
    Design("own", "shuffle", 40, adversarial=True),
    Design("vae", "bilinear", 32),
    Design("swap", "nearest", 32),
)
RECIPE = Path(__file__).parents[3] / "train" / "recipes" / "msccnet-s.toml"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("faces")
    write_faces(made)
    write_plain_pack(made, made / "pack.npz")
    return made


@pytest.fixture(scope="module")
def people(folder: Path) -> list[Person]:
    return read_faces(folder, "train")


def learner(people: list[Person], seed: int = 1) -> Learner:
    return Learner(aligned_faces(people, 48), seed, QUICK, size=4)


def test_aligned_landmarks_lie_where_those_of_all_faces_lie() -> None:
    five = mean_face()[1]
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    moved = five @ turn.T * 37 + (120, 80)
    for side in (48, 128):
        one, two = (p @ align(p, side)[:, :2].T + align(p, side)[:, 2] for p in (five, moved))
        assert np.allclose(one, two) and (one > 0).all() and (one < side - 1).all()


def test_every_decoder_learns(people: list[Person], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoders, "_ADVERSARY_FROM", 10)
    one = learner(people)
    losses = np.array([one.learn()[1] for _ in range(25 * len(QUICK))]).reshape(-1, len(QUICK))
    assert (losses[-4:].mean(0) < 0.8 * losses[:3].mean(0)).all()


@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: f"{d.name}-{d.upsampler}-{d.size}")
def test_a_decoder_gives_its_size(people: list[Person], design: Design) -> None:
    faces = aligned_faces(people)
    made = autoencoders.Decoders([design]).decode(0, faces)
    assert made.shape == (len(people), design.size, design.size, 3) and made.dtype == np.uint8


def test_a_stopped_training_goes_on_as_an_unbroken_one(
    people: list[Person], tmp_path: Path
) -> None:
    whole, first = learner(people), learner(people)
    for _ in range(6):
        whole.learn()
    for _ in range(4):
        first.learn()
    first.save(tmp_path / "decoders.pt")
    second = learner(people)
    second.restore(tmp_path / "decoders.pt")
    for _ in range(2):
        second.learn()
    ours, theirs = whole.networks.state_dict(), second.networks.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UsageError, match="seed 1, not 2"):
        learner(people, seed=2).restore(tmp_path / "decoders.pt")


def test_training_saves_what_can_be_loaded(people: list[Person], tmp_path: Path) -> None:
    reports = list(train(learner(people), tmp_path, 0.1))
    assert reports[-1][0] > 0 and len(reports[-1][1]) == len(QUICK)
    networks = load_decoders(tmp_path / "decoders.pt", QUICK)
    redrawn = build_pack.redraw_all(people, networks, seed=1, own=2, swapped=1, learned=False)
    assert set(redrawn) == {person.name for person in people}
    for some in redrawn.values():
        assert sorted(one.swapped for one in some) == [False, False, True]
    with pytest.raises(UsageError, match="other decoders"):
        load_decoders(tmp_path / "decoders.pt")
    (tmp_path / "text.pt").write_text("no")
    with pytest.raises(UsageError, match="cannot be read"):
        load_decoders(tmp_path / "text.pt")


def test_a_swap_decoder_never_gives_back_those_it_learned_from(people: list[Person]) -> None:
    crowd = [replace(people[0], name=f"{i}") for i in range(24)]
    groups = groups_of(QUICK, len(crowd), 3)
    assert sorted([*groups[0], *groups[3]]) == list(range(24)) and len(groups[1]) == 24
    redrawn = build_pack.redraw_all(crowd, autoencoders.Decoders(QUICK), seed=3, own=1, swapped=2)
    for index, one in enumerate(crowd):
        ways = [copy.upsampler for copy in redrawn[one.name] if copy.swapped]
        assert ways == ["nearest" if index in groups[0] else "transposed"]


def test_commands_train_and_pack(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(autoencoders, "DESIGNS", QUICK)
    monkeypatch.setattr(build_pack, "load_decoders", lambda path: load_decoders(path, QUICK))
    monkeypatch.setattr(autoencoders, "Learner", lambda faces, seed: Learner(faces, seed, QUICK, 2))
    out = tmp_path / "run"
    trained = CliRunner().invoke(
        _app(autoencoders.main), ["--data", str(folder), "--out", str(out), "--minutes", "0.01"]
    )
    assert trained.exit_code == 0 and "swap-l1 transposed 32" in trained.output
    made = tmp_path / "pack.npz"
    packed = CliRunner().invoke(
        _app(build_pack.main),
        ["--data", str(folder), "--decoders", str(out / "decoders.pt"), "--out", str(made)],
    )
    assert packed.exit_code == 0, packed.output
    assert all(person.face.redrawn for person in read_faces(folder, "val", made))


def _app(command):
    app = typer.Typer()
    app.command()(command)
    return app


def test_a_pack_gives_back_what_was_put_in(people: list[Person], tmp_path: Path) -> None:
    faces = {"a.png": plain_copies(people[0].face), "b.png": plain_copies(people[1].face)[:1]}
    write_pack(tmp_path / "p.npz", faces)
    assert read_pack(tmp_path / "p.npz") == faces
    smooth = np.full((48, 48, 3), (200, 90, 30), np.uint8)
    kept = encode(smooth, "own-l1", "nearest", False).picture()
    assert np.abs(kept.astype(int) - smooth).max() <= 2


def test_a_pack_must_be_one_and_hold_everybody(people: list[Person], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as a pack"):
        read_pack(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(UsageError, match="cannot be read as a pack"):
        read_pack(tmp_path / "text.npz")
    write_pack(tmp_path / "p.npz", {people[0].name: plain_copies(people[0].face)})
    with pytest.raises(UsageError, match=f"no redrawn face of {people[1].name}"):
        with_redrawn(people, tmp_path / "p.npz")
    broken = replace(plain_copies(people[0].face)[0], data=b"no")
    with pytest.raises(UsageError, match="damaged"):
        broken.picture()


@pytest.mark.parametrize("name", [name for name in FORGES if FORGES[name].needs_pack])
def test_without_a_pack_the_forge_says_how_to_get_one(people: list[Person], name: str) -> None:
    for seed in range(4):
        with pytest.raises(UsageError, match=r"train\.forge\.build_pack"):
            load_forge(name)(people[0].face, np.random.default_rng(seed), other=people[1].face)
    recipe = replace(read_recipe(RECIPE), forges={name: 1.0})
    with pytest.raises(UsageError, match="--pack"):
        open_training_data(recipe, Path())


def test_the_source_of_a_run_takes_a_pack_and_names_it(folder: Path) -> None:
    recipe = replace(read_recipe(RECIPE), forges={"deepswap": 0.5, "reconstruct": 0.5})
    with_pack = open_training_data(recipe, folder, folder / "pack.npz")
    crops, mask, _ = with_pack.stream(48, 2, 2)[0]
    assert crops.shape == (2, 48, 48, 3) and mask.any()
    plain = open_training_data(replace(recipe, forges={"redraw": 1.0}), folder)
    assert plain.sha256 != with_pack.sha256


@pytest.mark.parametrize("side", [48, 128, 300])
def test_a_redrawn_face_lands_where_the_face_is(people: list[Person], side: int) -> None:
    face = people[0].face
    height, width = face.image.shape[:2]
    square = cv2.warpAffine(face.image, align(face.landmarks, side), (side, side))
    for seed in range(6):
        source, inside = enlarge(square, face, face, np.random.default_rng(seed))
        assert source.shape == face.image.shape and inside.shape == (height, width)
        x, y = face.landmarks.mean(0).round().astype(int)
        window = slice(y - 20, y + 20), slice(x - 20, x + 20)
        assert (inside[window] > 0.99).all()
        soft = cv2.GaussianBlur(face.image, (0, 0), 4).astype(int)
        assert np.abs(cv2.GaussianBlur(source, (0, 0), 4).astype(int) - soft)[window].mean() < 4


def test_a_face_in_grey_stays_grey(folder: Path) -> None:
    people = read_faces(folder, "train", folder / "pack.npz")
    grey = people[0].face.image.mean(2, keepdims=True).round().astype(np.uint8).repeat(3, 2)
    one = replace(people[0].face, image=grey)
    for seed in range(8):
        made = load_forge("deepswap")(one, np.random.default_rng(seed), other=people[1].face)
        assert np.ptp(made.image.astype(int), axis=2).max() <= 2


def test_a_truer_copy_is_nearer_to_the_face_it_is_of(people: list[Person]) -> None:
    face = people[0].face
    copy = plain_copies(face)[2].picture()
    side = copy.shape[0]
    true = cv2.warpAffine(face.image, align(face.landmarks, side), (side, side)).astype(int)
    for seed in range(8):
        nearer = truer(copy, face, np.random.default_rng(seed))
        unchanged = np.array_equal(nearer, copy)
        assert unchanged or np.abs(nearer - true).mean() < np.abs(copy - true).mean()


def test_both_ways_of_a_deep_swap_come_up(folder: Path) -> None:
    people = read_faces(folder, "train", folder / "pack.npz")
    tags = {
        forge_face(people, 0, "deepswap", np.random.default_rng(seed)).tags[2] for seed in range(16)
    }
    assert tags >= {"laid on", "through"} and any("detailed" in tag for tag in tags)


def test_a_mesh_swap_takes_redrawn_copies_where_there_are_some(folder: Path) -> None:
    people = read_faces(folder, "train", folder / "pack.npz")
    decoders = {one.decoder for one in people[1].face.redrawn}
    drawn = 0
    for seed in range(12):
        made = load_forge("mesh-swap")(
            people[0].face, np.random.default_rng(seed), other=people[1].face
        )
        drawn += bool(decoders & set(made.tags))
        assert not (made.image != made.original)[made.mask == 0].any()
        bare = replace(people[1].face, redrawn=())
        plain = load_forge("mesh-swap")(people[0].face, np.random.default_rng(seed), other=bare)
        assert not decoders & set(plain.tags)
    assert 0 < drawn < 12


def test_a_contact_sheet_shows_forges_of_a_pack(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    with pytest.raises(typer.Exit):
        sheet.main(folder, out, forge="reconstruct")
    sheet.main(folder, out, forge="reconstruct", draws=2, side=64, pack=folder / "pack.npz")
    picture = cv2.imread(str(out))
    assert picture.shape == (64, 2 * 4 * 64, 3) and picture.std() > 10
