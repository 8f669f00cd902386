"""A smoke run: any recipe in under a minute on a CPU, to see that every part of it works.

Two steps on crops of 64 pixels, the recipe's own network, losses, optimiser and data
source. Without data it draws on one public-domain portrait (the astronaut of scikit-image) and its
mirror image, who stands for another person. What such a run learns means nothing.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge.align import align
from train.forge.autoencoder_pack import RedrawnFace, encode, write_pack
from train.forge.contract import FaceImage
from train.forge.degrade import jpeg
from train.forge.faces import read_faces
from train.forge.selfblend import self_blend
from train.recipe import Recipe, Stage

SIDE, STEPS, PAIRS = 64, 2, 2
# The astronaut's face: box and five landmarks, pixels of the picture.
BOX = (180.0, 62.0, 89.0, 113.0)  # x, y, width, height
LANDMARKS = ((205.8, 101.6), (248.0, 104.1), (226.1, 129.5), (203.0, 138.7), (247.0, 141.2))
WIDTH = 512


def smoke_recipe(recipe: Recipe, world: int = 1) -> Recipe:
    """The same recipe, a few tiny steps long."""
    stages = recipe.schedule.stages
    sizes = sorted({min(SIDE, stage.size) for stage in stages})
    schedule = replace(
        recipe.schedule,
        stages=tuple(Stage(size, STEPS) for size in sizes),
        pairs=PAIRS * world,
        warmup=min(recipe.schedule.warmup, 1),
        validate_every=0,
    )
    dataset = recipe.dataset and replace(recipe.dataset, val_crops=8)
    return replace(recipe, schedule=schedule, dataset=dataset)


def smoke_data(recipe: Recipe, folder: Path) -> Recipe:
    """Make data for a recipe in a folder; returns the recipe that reads them."""
    write_faces(folder / "faces")
    if recipe.dataset is None:
        return recipe
    write_dataset(folder / "faces", folder)
    source = replace(recipe.dataset, name="folder", split="train", compression="")
    return replace(recipe, dataset=replace(source, manipulations=(), val="val"))


def write_faces(folder: Path) -> None:
    """A folder of faces for `train.forge.faces`: the portrait and its mirror, in both splits."""
    from skimage.data import astronaut

    folder.mkdir(parents=True, exist_ok=True)
    picture: NDArray[np.uint8] = astronaut()
    x, y, width, height = BOX
    points = np.array(LANDMARKS)
    mirrored = points[[1, 0, 2, 4, 3]] * (-1, 1) + (WIDTH - 1, 0)
    people = {
        "astronaut": (picture, (x, y, width, height), points),
        "mirrored": (picture[:, ::-1], (WIDTH - x - width, y, width, height), mirrored),
    }
    columns = "file,source,person_id,face_x,face_y,face_w,face_h,lm5,split"
    with (folder / "provenance.csv").open("w", newline="") as file:
        table = csv.writer(file)
        file.write(columns + "\n")
        for name, (image, box, five) in people.items():
            cv2.imwrite(str(folder / f"{name}.png"), image[..., ::-1])
            marks = " ".join(f"{value:.1f}" for value in five.ravel())
            for split in ("train", "val"):
                table.writerow((f"{name}.png", "scikit-image", name, *box, marks, split))


def plain_copies(face: FaceImage) -> tuple[RedrawnFace, ...]:
    """Stand-ins for redrawn faces: small aligned copies, smoothed or mirrored."""
    copies = []
    for side, swapped in ((48, False), (64, True), (96, False), (128, True)):
        picture = cv2.warpAffine(
            face.image, align(face.landmarks, side), (side, side), borderMode=cv2.BORDER_REPLICATE
        )
        picture = cv2.bilateralFilter(picture, 5, 60, 3)
        if swapped:
            picture = np.ascontiguousarray(picture[:, ::-1])
        copies.append(encode(picture, "plain", "none", swapped))
    return tuple(copies)


def write_plain_pack(folder: Path, path: Path) -> None:
    """A pack of stand-ins for a folder of faces, as `train.forge.build_pack` makes them."""
    people = [person for split in ("train", "val") for person in read_faces(folder, split)]
    write_pack(path, {person.name: plain_copies(person.face) for person in people})


def write_dataset(faces: Path, folder: Path) -> None:
    """A plain folder data set: the faces, self-blended and as they are, with masks."""
    for split in ("train", "val"):
        for index, person in enumerate(read_faces(faces, split)):
            for turn in range(2):
                rng = np.random.default_rng([index, turn, split == "val"])
                forged = self_blend(person.face, rng)
                name = f"{person.person}/{turn}.png"
                for kind, picture in (
                    ("fake/self-blend", jpeg(forged.image, 90)),
                    ("real", jpeg(forged.original, 90)),
                    ("mask/self-blend", np.where(forged.mask > 0.4, 255, 0).astype(np.uint8)),
                ):
                    path = folder / split / kind / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), picture if picture.ndim == 2 else picture[..., ::-1])
