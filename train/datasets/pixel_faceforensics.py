"""P-FF++: face crops of FaceForensics++ with pixel masks, as `python -m train.annotate` makes them.

Layout, also that of MSCCNet's own loader: `<Raw|C23|C40>/<method>/<video>/<frame>_0.png` the fake
crops, `<Raw|...>/<real|youtube>/<video>/<frame>_0.png` the real ones, `Mask/<method>/<video>/` the
masks under the same names, one for all qualities. Splits: `train.txt`, `valid.txt`, `test.txt` in
the folder (one fake a line, the same for every method); where there is none, FF++'s official ones.
The real video of a fake is the one whose name it has or begins with (`counterparts`). The lists of
MSCCNet's repository lack one direction of one pair each (604_703, 115_939, 227_169); the official
splits hold both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from train.datasets.faceforensics import NAME, SPLITS, fake_split, split_of
from train.datasets.layout import (
    LayoutError,
    Part,
    check_split,
    counterparts,
    pictures_below,
    wrong_layout,
)
from train.datasets.sample import REAL, Polarity, Sample, Truth, VideoKey

COMPRESSIONS = {"Raw": "c0", "C23": "c23", "C40": "c40"}
REAL_FOLDERS = ("real", "youtube")
_LISTS = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}


class PixelFaceForensics:
    """The crops of P-FF++. A real crop comes once, however many fakes were made of its video."""

    splits = SPLITS

    def __init__(self, root: Path) -> None:
        self._root = root
        self._levels = [folder for folder in COMPRESSIONS if (root / folder).is_dir()]
        if not self._levels or not (root / "Mask").is_dir():
            raise wrong_layout(root, "P-FF++", "Mask/ and one of Raw/, C23/, C40/")
        self._reals = {
            video.name
            for level in self._levels
            for folder in REAL_FOLDERS
            for video in _folders(root / level / folder)
        }

    def parts(self) -> list[Part]:
        parts = [Part("Mask", sum(1 for _ in pictures_below(self._root / "Mask")))]
        for level in COMPRESSIONS:
            for folder in _folders(self._root / level):
                count = sum(1 for _ in pictures_below(folder))
                parts.append(Part(f"{level}/{folder.name}", count))
        return parts

    def samples(self, split: str) -> Iterator[Sample]:
        check_split("P-FF++", split, self.splits)
        listed = self._listed(split)
        for level in self._levels:
            for folder in _folders(self._root / level):
                real = folder.name in REAL_FOLDERS
                for video in _folders(folder):
                    if self._belongs(video.name, real, split, listed):
                        yield from self._crops(video, level, split, real)

    def _listed(self, split: str) -> set[str] | None:
        """The fakes of a split list in the folder, None if there are no lists at all."""
        if not any((self._root / name).exists() for name in _LISTS.values()):
            if not self._reals & split_of().keys():
                raise LayoutError(
                    f"{self._root}: expected {', '.join(_LISTS.values())} beside videos that are "
                    "not of FaceForensics++; found none: annotate with --hold-out or --pairs"
                )
            return None
        path = self._root / _LISTS[split]
        if not path.exists():
            there = ", ".join(name for name in _LISTS.values() if (self._root / name).exists())
            raise LayoutError(f"{self._root}: split {split}: expected {path.name}; found {there}")
        return set(path.read_text("utf-8").split())

    def _belongs(self, name: str, real: bool, split: str, listed: set[str] | None) -> bool:
        if listed is None:
            return (split_of().get(name) if real else fake_split(name)) == split
        return name in {self._real_of(fake) for fake in listed} if real else name in listed

    def _real_of(self, fake: str) -> str:
        """The real video that is there of a fake, else its name in FF++'s own naming."""
        known = (name for name in counterparts(fake) if name in self._reals)
        return next(known, fake.split("_")[0])

    def _crops(self, video: Path, level: str, split: str, real: bool) -> Iterator[Sample]:
        method = video.parent.name
        key = VideoKey(NAME, REAL if real else method, video.name)
        original = None if real else VideoKey(NAME, REAL, self._real_of(video.name))
        for path in pictures_below(video):
            mask = self._root / "Mask" / method / video.name / path.name
            if not real and not mask.exists():
                raise LayoutError(f"{path}: expected its mask {mask}; found nothing")
            yield Sample(
                key,
                path,
                int(not real),
                split,
                Truth.CLEAN if real else Truth.FILE,
                frame=int(path.stem.split("_")[0]) if path.stem.split("_")[0].isdigit() else None,
                mask=None if real else mask,
                polarity=Polarity.ABOVE_0,
                original=original,
                compression=COMPRESSIONS[level],
            )


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
