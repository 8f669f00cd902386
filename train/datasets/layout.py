"""Check folders against the layout of a data set, and report a mismatch in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepscan.errors import UsageError
from train.media import is_picture, is_video


class LayoutError(UsageError):
    """A folder does not hold the data set that it was taken for; one line, expected and found."""


@dataclass(frozen=True, slots=True)
class Part:
    """One line of `check`: a part of a data set, and how many videos or pictures it has.

    `expected` is the owners' own count, None where it is not known.
    """

    name: str
    found: int
    expected: int | None = None

    @property
    def state(self) -> str:
        if self.found == 0:
            return "missing"
        if self.expected is None or self.found == self.expected:
            return "there"
        return "partial" if self.found < self.expected else "more than expected"


def wrong_layout(root: Path, dataset: str, expected: str) -> LayoutError:
    """The error that names the expected layout and the present content of a folder."""
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    found = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return LayoutError(f"{root}: not {dataset}: expected {expected}; found {found or 'nothing'}")


def check_split(dataset: str, split: str, splits: tuple[str, ...]) -> None:
    """Raise `ValueError` if there is no such split."""
    if split not in splits:
        raise ValueError(f"{dataset} has no split {split!r}; it has {', '.join(splits)}")


def videos_in(folder: Path) -> dict[str, Path]:
    """Name -> video file, or folder of frames, right inside a folder; {} where there is none.

    Several sets are distributed as videos and commonly unpacked to frames, then below `videos/`,
    `frames/` or `images/`; these are looked into, in this order.
    """
    for place in (folder, folder / "videos", folder / "frames", folder / "images"):
        if not place.is_dir():
            continue
        found = {
            path.stem if is_video(path) else path.name: path
            for path in sorted(place.iterdir())
            if is_video(path) or (path.name not in _INNER and holds_pictures(path))
        }
        if found:
            return found
    return {}


def counterparts(fake: str) -> Iterator[str]:
    """Names that the real video of a fake may have, most exact first.

    The same name; `01__scene` for DFD's `01_02__scene__ABCDEFGH`; `id0_0000` for Celeb-DF's
    `id0_id1_0000`; else what the fake's name begins with, up to any "_": `000` for FF++'s `000_003`
    (target, then source).
    """
    yield fake
    if match := re.fullmatch(r"(\d+)_\d+__(.+)__[^_]+", fake):
        yield f"{match[1]}__{match[2]}"
    if match := re.fullmatch(r"(id\d+)_id\d+_(\d+)", fake):
        yield f"{match[1]}_{match[2]}"
    while "_" in fake:
        fake = fake.rpartition("_")[0]
        yield fake


def pictures_below(folder: Path) -> Iterator[Path]:
    """All pictures in a folder and its folders, in a fixed order."""
    if folder.is_dir():
        yield from sorted(path for path in folder.rglob("*") if is_picture(path))


def first_file(*candidates: Path) -> Path | None:
    """The first of these paths that is there."""
    return next((path for path in candidates if path.exists()), None)


_INNER = frozenset({"videos", "frames", "images"})


def holds_pictures(path: Path) -> bool:
    """True if a folder has pictures right inside, as the frames of a video."""
    return path.is_dir() and any(is_picture(inner) for inner in path.iterdir())
