"""Pair real and fake videos in the layouts of the data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from deepscan.errors import UsageError
from train.datasets.layout import counterparts, videos_in

# FF++ calls its uncompressed videos c0 in the paper, raw in its folders.
ALIASES = {"c0": ("c0", "raw"), "c23": ("c23",), "c40": ("c40",)}


@dataclass(frozen=True, slots=True)
class Fake:
    """A fake video, or the place where it was looked for: compression -> path, None if missing."""

    manipulation: str
    name: str
    paths: dict[str, Path | None]


@dataclass(frozen=True, slots=True)
class Work:
    """A real video with all fakes made from it, so that its faces are searched once.

    `paths` is empty where there is no such real video.
    """

    name: str
    paths: dict[str, Path | None]
    fakes: list[Fake] = field(default_factory=list)


def locate(base: Path, compression: str) -> dict[str, Path] | None:
    """The videos of one compression below `base`, or None where there are none.

    Looked for in `<base>/<compression>/{videos,frames,images,}`, then without the compression
    folder (data sets that come in one quality).
    """
    names = ALIASES.get(compression, (compression,))
    present = {path.name.lower(): path for path in base.iterdir() if path.is_dir()}
    roots = [present[name] for name in names if name in present]
    if not roots and not any(alias in present for known in ALIASES.values() for alias in known):
        roots = [base]
    return next((found for root in roots if (found := videos_in(root))), None)


def manipulations(fakes: Path, wanted: Iterable[str], compression: str) -> dict[str, Path]:
    """The folders of the manipulations: those wanted, else every one that holds videos.

    Raises:
        UsageError: a wanted one is not there, or nothing is.
    """
    wanted = list(wanted)
    if wanted:
        for name in wanted:
            if not (fakes / name).is_dir():
                there = sorted(path.name for path in fakes.iterdir() if path.is_dir())
                raise UsageError(f"{fakes}: no folder {name}; there are {', '.join(there) or 0}")
        return {name: fakes / name for name in wanted}
    if locate(fakes, compression):
        return {fakes.name: fakes}
    found = {
        path.name: path
        for path in sorted(fakes.iterdir())
        if path.is_dir() and locate(path, compression)
    }
    if not found:
        raise UsageError(
            f"{fakes}: no {compression} videos; expected <manipulation>/{compression}/videos/, "
            "<manipulation>/ or videos right here"
        )
    return found


def read_pairs(path: Path) -> list[str]:
    """Names of fakes from a JSON list of names or of FF++ pairs (both directions each).

    Raises:
        UsageError: the file is no such list.
    """
    try:
        items = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable JSON list ({error})") from error
    names: list[str] = []
    for item in items if isinstance(items, list) else [None]:
        if isinstance(item, str):
            names.append(item)
        elif isinstance(item, list) and len(item) == 2 and all(isinstance(i, str) for i in item):
            names += [f"{item[0]}_{item[1]}", f"{item[1]}_{item[0]}"]
        else:
            raise UsageError(f'{path}: expected ["000_003", ...] or [["000", "003"], ...]')
    return names


def find_work(
    reals: Path, fakes: dict[str, Path], compressions: list[str], names: list[str] | None
) -> list[Work]:
    """All real videos with their fakes, by name.

    Args:
        reals: folder of the real videos.
        fakes: manipulation -> its folder.
        compressions: those to read; the first one makes the masks.
        names: fakes to annotate; None takes all that are there.

    Raises:
        UsageError: a compression is missing as a whole.
    """
    real_paths = {level: _level(reals, level) for level in compressions}
    work: dict[str, Work] = {}
    for manipulation, folder in fakes.items():
        fake_paths = {level: _level(folder, level) for level in compressions}
        for name in names if names is not None else list(fake_paths[compressions[0]]):
            real = next(
                (guess for guess in counterparts(name) if guess in real_paths[compressions[0]]),
                None,
            )
            # Without its real video a fake still needs a line in the report: under its own name.
            key = real if real is not None else f"?{name}"
            if key not in work:
                paths = {level: real_paths[level].get(key) for level in compressions}
                work[key] = Work(key, paths if real is not None else {})
            found = {level: fake_paths[level].get(name) for level in compressions}
            work[key].fakes.append(Fake(manipulation, name, found))
    return [work[key] for key in sorted(work)]


def _level(base: Path, compression: str) -> dict[str, Path]:
    found = locate(base, compression)
    if found is None:
        raise UsageError(f"{base}: no {compression} videos; expected {compression}/videos/")
    return found
