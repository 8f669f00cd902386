"""Plain folders: real and fake videos or pictures of your own.

Layout: `real/` and `fake/`, or `train/real/`, `train/fake/`, `val/...`, `test/...`. Below them
videos, pictures and folders of frames. A folder right below `fake/` that holds no frames itself
names a manipulation. Masks, if there are any, lie in `mask/` beside `fake/` under the same relative
path, with any suffix: 255 (brighter half) where manipulated. Without the split level everything
is `test`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from train.datasets.layout import LayoutError, Part, check_split, holds_pictures, wrong_layout
from train.datasets.sample import REAL, Sample, Truth, VideoKey, fake_with_mask
from train.media import is_picture, is_video

NAME = "folder"
SPLITS = ("train", "val", "test")


class Folder:
    """Videos, pictures and frame folders below real/ and fake/. Frames are numbered by name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        levels = {split: root / split for split in SPLITS}
        self._bases = {split: path for split, path in levels.items() if _has_both(path)}
        if not self._bases and _has_both(root):
            self._bases = {"test": root}
        if not self._bases:
            raise wrong_layout(root, "a plain folder", "real/ and fake/, or train/{real,fake}/")
        self.splits = tuple(self._bases)

    def parts(self) -> list[Part]:
        return [
            Part(str((base / kind).relative_to(self._root)), len(list(_items(base / kind))))
            for base in self._bases.values()
            for kind in ("real", "fake", "mask")
        ]

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(NAME, split, self.splits)
        base = self._bases[split]
        dataset = self._root.resolve().name
        for path in _items(base / "real"):
            key = VideoKey(dataset, REAL, _name(base / "real", path))
            yield Sample(key, path, 0, split, Truth.CLEAN)
        masks = {_name(base / "mask", path): path for path in _items(base / "mask")}
        for path in _items(base / "fake"):
            name = _name(base / "fake", path)
            method, _, rest = name.partition("/")
            key = VideoKey(dataset, method, rest) if rest else VideoKey(dataset, "fake", name)
            mask = masks.get(name)
            if mask is not None and mask.is_dir() and is_picture(path):
                raise LayoutError(f"{path}: expected a picture as its mask; found folder {mask}")
            yield fake_with_mask(key, path, split, mask)


def _has_both(base: Path) -> bool:
    return (base / "real").is_dir() and (base / "fake").is_dir()


def _items(base: Path) -> Iterator[Path]:
    """Videos, pictures and frame folders below a folder; any folder of pictures is one video."""
    if not base.is_dir():
        return
    for path in sorted(base.iterdir()):
        if is_video(path) or is_picture(path) or holds_pictures(path):
            yield path
        elif path.is_dir():
            yield from _items(path)


def _name(base: Path, path: Path) -> str:
    place = path.relative_to(base)
    return place.with_suffix("").as_posix() if path.is_file() else place.as_posix()
