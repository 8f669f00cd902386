"""The command that has everybody redrawn by trained decoders, once.

`python -m train.forge.build_pack --data FACES --decoders FOLDER/decoders.pt --out PACK.npz`. The
pack covers people to train on and people held out; the decoders have learned from the former only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from train.command import Faces, exit_on_error, use_threads
from train.forge.autoencoder_pack import RedrawnFace, encode, write_pack
from train.forge.autoencoders import Decoders, aligned_faces, groups_of, load_decoders
from train.forge.faces import Person, read_faces

_AT_ONCE = 32


def redraw_all(
    people: list[Person],
    networks: Decoders,
    *,
    seed: int,
    own: int = 3,
    swapped: int = 2,
    learned: bool = True,
) -> dict[str, list[RedrawnFace]]:
    """Each person through a few decoders, drawn by the seed.

    Args:
        people: pictures with faces.
        networks: trained decoders.
        seed: that of the training where `learned`, from which follows who is in which group.
        own: redrawn faces per person that keep the identity.
        swapped: redrawn faces per person by decoders of other people.
        learned: whether the decoders learned from these people.
    """
    faces = aligned_faces(people)
    designs = networks.designs
    groups = groups_of(designs, len(people), seed) if learned else [np.zeros(0, np.int64)]
    rng = np.random.default_rng([seed, int(learned)])
    wanted: list[list[int]] = [[] for _ in designs]
    for index in range(len(people)):
        keeps = [i for i, design in enumerate(designs) if design.family != "swap"]
        swaps = [
            i
            for i, design in enumerate(designs)
            if design.family == "swap" and not (learned and index in set(groups[i].tolist()))
        ]
        for some, count in ((keeps, own), (swaps, swapped)):
            # Adversarial decoders give the most detail: everybody gets them where they can be had.
            drawn = sorted(rng.permutation(some), key=lambda which: not designs[which].adversarial)
            for which in drawn[:count]:
                wanted[which].append(index)
    made: dict[str, list[RedrawnFace]] = {person.name: [] for person in people}
    for which, design in enumerate(designs):
        for start in range(0, len(wanted[which]), _AT_ONCE):
            some = wanted[which][start : start + _AT_ONCE]
            pictures = networks.decode(which, faces[some])
            for index, picture in zip(some, pictures, strict=True):
                kept = encode(picture, design.name, design.upsampler, design.family == "swap")
                made[people[index].name].append(kept)
    return made


def main(
    data: Faces,
    decoders: Annotated[Path, typer.Option(help="decoders.pt of train.forge.autoencoders.")],
    out: Annotated[Path, typer.Option(help="Pack to write (.npz).")],
    seed: Annotated[int, typer.Option(help="Random seed of the decoders' training.")] = 1,
    own: Annotated[int, typer.Option(min=1, help="Redrawn faces per person, as themselves.")] = 3,
    swapped: Annotated[int, typer.Option(min=1, help="Redrawn faces per person, as others.")] = 2,
) -> None:
    """Write the pack that the forges "reconstruct" and "deepswap" draw from."""
    use_threads(1)
    with exit_on_error("build_pack"):
        networks = load_decoders(decoders)
        faces: dict[str, list[RedrawnFace]] = {}
        for split in ("train", "val"):
            faces |= redraw_all(
                read_faces(data, split), networks,
                seed=seed, own=own, swapped=swapped, learned=split == "train",
            )  # fmt: skip
        write_pack(out, faces)
    count = sum(len(some) for some in faces.values())
    typer.echo(f"{out}: {count} faces of {len(faces)} pictures, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
