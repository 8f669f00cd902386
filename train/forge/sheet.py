"""Contact sheet of the forges: `python -m train.forge.sheet --data FACES --out SHEET.png`.

One row for each draw: original, forged, mask, difference (four times). It shows
forges that the eye cannot distinguish from the original, and forges that look false.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from deepscan.errors import UsageError
from train.command import Faces, Pack, exit_on_error
from train.forge import FORGES, check_pack, without_pack
from train.forge.benign_edits import BENIGN_EDITS
from train.forge.contract import Forged, Picture
from train.forge.faces import Person, read_faces
from train.forge.pairs import forge_face


def row(forged: Forged, person: Person, side: int) -> Picture:
    """Original, forged, mask, difference of the face's surroundings: (side, 4 side, 3)."""
    mask = np.repeat((forged.mask * 255).astype(np.uint8)[..., None], 3, 2)
    apart = forged.image.astype(int) - forged.original
    difference = np.clip(128 + 4 * apart, 0, 255).astype(np.uint8)
    x1, y1, x2, y2 = person.face.box
    reach = 0.65 * max(x2 - x1, y2 - y1)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    window = (
        slice(max(0, round(y - reach)), round(y + reach)),
        slice(max(0, round(x - reach)), round(x + reach)),
    )
    return np.hstack(
        [
            cv2.resize(picture[window], (side, side), interpolation=cv2.INTER_LINEAR)
            for picture in (forged.original, forged.image, mask, difference)
        ]
    )


def sheet(
    people: Sequence[Person], forges: Sequence[str], draws: int, side: int, seed: int
) -> tuple[Picture, dict[str, float]]:
    """Draw a number of pairs of each forge, two a line, with milliseconds per draw."""
    lines, took = [], {}
    for name in forges:
        rows = []
        spent = 0.0
        for number in range(draws):
            rng = np.random.default_rng([seed, number, sum(name.encode())])
            index = int(rng.integers(len(people)))
            start = time.process_time()
            forged = forge_face(people, index, name, rng)
            spent += time.process_time() - start
            made = row(forged, people[index], side)
            cv2.putText(
                made, " ".join(forged.tags), (4, side - 6), cv2.FONT_HERSHEY_PLAIN, 0.8,
                (255, 255, 0), 1,
            )  # fmt: skip
            rows.append(made)
        if draws % 2:
            rows.append(np.zeros_like(rows[0]))
        lines += [np.hstack(rows[i : i + 2]) for i in range(0, len(rows), 2)]
        took[name] = 1000 * spent / draws
    return np.vstack(lines), took


def benign_sheet(people: Sequence[Person], side: int, seed: int) -> Picture:
    """Every benign edit on four people, one edit a line."""
    lines = []
    for name, edit in BENIGN_EDITS.items():
        line = []
        for number in range(4):
            rng = np.random.default_rng([seed, number, sum(name.encode())])
            person = people[int(rng.integers(len(people)))]
            made = edit(person.face.image, person.face.landmarks, rng)
            none = np.zeros(made.shape[:2], np.float32)
            whole = Forged(made, person.face.image, none, (name,))
            line.append(row(whole, person, side)[:, : 2 * side])
        joined = np.hstack(line)
        cv2.putText(joined, name, (4, side - 6), cv2.FONT_HERSHEY_PLAIN, 1.0, (255, 255, 0), 1)
        lines.append(joined)
    return np.vstack(lines)


def main(
    data: Faces,
    out: Annotated[Path, typer.Option(help="Picture to write")],
    forge: Annotated[str, typer.Option(help="One forge, 'benign', or '' for all")] = "",
    draws: Annotated[int, typer.Option(help="Draws of each forge")] = 4,
    side: Annotated[int, typer.Option(help="Side of a face in pixels")] = 160,
    seed: Annotated[int, typer.Option(help="Random seed of the draws")] = 1,
    people: Annotated[int, typer.Option(help="Pictures of the split `val` to draw from")] = 40,
    pack: Pack = None,
) -> None:
    """Draw the contact sheet."""
    with exit_on_error("sheet"):
        if forge and forge != "benign" and forge not in FORGES:
            raise UsageError(f"no forge {forge!r}; there are {', '.join(FORGES)} and benign")
        if forge in FORGES:
            check_pack({forge: 1.0}, pack)
        faces = read_faces(data, "val", pack)
    faces = faces[:: max(1, len(faces) // people)]
    if forge == "benign":
        picture = benign_sheet(faces, side, seed)
    else:
        names = [forge] if forge else without_pack() if pack is None else list(FORGES)
        picture, took = sheet(faces, names, draws, side, seed)
        for name, value in took.items():
            typer.echo(f"{name}: {value:.1f} ms")
    cv2.imwrite(str(out), picture[..., ::-1])
    typer.echo(f"wrote {out}")


if __name__ == "__main__":
    cv2.setNumThreads(0)
    typer.run(main)
