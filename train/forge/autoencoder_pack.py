"""Faces that networks have redrawn, kept in one file so that forging needs no network.

A pack is an .npz: for each picture (by its name in provenance.csv) a few redrawn faces as JPEG
without colour subsampling, in the common place of `train.forge.align`, and which decoder made each.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deepscan.errors import UsageError

Picture = NDArray[np.uint8]
QUALITY = 92  # of JPEG: errors of about one level, far below what decoders leave
_ARRAYS = ("pixels", "ends", "names", "owners", "kinds", "decoders", "upsamplers", "swaps")


@dataclass(frozen=True, slots=True)
class RedrawnFace:
    """One redrawn face: an encoded square picture, aligned, and its decoder.

    `swapped` says that the decoder belongs to other people than the encoded face does.
    """

    data: bytes
    decoder: str
    upsampler: str
    swapped: bool

    def picture(self) -> Picture:
        """(size, size, 3) uint8 RGB.

        Raises:
            UsageError: the data are damaged.
        """
        pixels = cv2.imdecode(np.frombuffer(self.data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise UsageError("a redrawn face in the pack is damaged: make the pack again")
        return np.ascontiguousarray(pixels[..., ::-1])


def encode(picture: Picture, decoder: str, upsampler: str, swapped: bool) -> RedrawnFace:
    """Keep a redrawn face (size, size, 3) uint8 RGB."""
    _, data = cv2.imencode(
        ".jpg", picture[..., ::-1],
        [
            cv2.IMWRITE_JPEG_QUALITY, QUALITY,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        ],
    )  # fmt: skip
    return RedrawnFace(data.tobytes(), decoder, upsampler, swapped)


def write_pack(path: Path, faces: Mapping[str, Sequence[RedrawnFace]]) -> None:
    """Write a pack: redrawn faces by the name of the picture they belong to."""
    everyone = [(name, one) for name, some in faces.items() for one in some]
    kinds = sorted({(one.decoder, one.upsampler, one.swapped) for _, one in everyone})
    names = list(faces)
    places = {name: place for place, name in enumerate(names)}
    with path.open("wb") as file:  # savez would add .npz to another name
        np.savez(
            file,
            pixels=np.frombuffer(b"".join(one.data for _, one in everyone), np.uint8),
            ends=np.cumsum([len(one.data) for _, one in everyone], dtype=np.int64),
            names=np.array(names),
            owners=np.array([places[name] for name, _ in everyone], np.int64),
            kinds=np.array(
                [kinds.index((one.decoder, one.upsampler, one.swapped)) for _, one in everyone],
                np.int64,
            ),
            decoders=np.array([kind[0] for kind in kinds]),
            upsamplers=np.array([kind[1] for kind in kinds]),
            swaps=np.array([kind[2] for kind in kinds], bool),
        )


def read_pack(path: Path) -> dict[str, tuple[RedrawnFace, ...]]:
    """Redrawn faces by the name of the picture they belong to.

    Raises:
        UsageError: the file is missing or no pack.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} cannot be read as a pack of redrawn faces: {error}; "
            "train.forge.build_pack makes one"
        ) from error
    pixels = arrays["pixels"].tobytes()
    found: dict[str, list[RedrawnFace]] = {str(name): [] for name in arrays["names"]}
    names = list(found)
    start = 0
    for end, owner, kind in zip(arrays["ends"], arrays["owners"], arrays["kinds"], strict=True):
        found[names[owner]].append(
            RedrawnFace(
                pixels[start:end],
                str(arrays["decoders"][kind]),
                str(arrays["upsamplers"][kind]),
                bool(arrays["swaps"][kind]),
            )
        )
        start = int(end)
    return {name: tuple(some) for name, some in found.items()}
