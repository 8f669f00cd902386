"""DEFACTO: automatic forgeries of MS-COCO pictures and faces, with masks.

Two layouts. The owners': `<name>_img/[img/]*.tif` with masks `<name>_annotations/probe_mask/` of
the same stem (`splicing_1_img`, `copymove_img`, ...); it has no real pictures. And the one that
MSCCNet's test set has: `test_vis.txt` with lines `Image/fake/0.jpg_IN_1.jpg.tif 1` (1 = fake),
masks `Mask/fake/0.jpg_IN_1.jpg`: the path with Mask for Image, for fakes without the last suffix.
Both were read from public loaders, not checked on the data; that masks are bright where manipulated
too. Masks are JPEG, so they are cut in the middle of the grey scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from train.datasets.layout import LayoutError, Part, check_split, pictures_below, wrong_layout
from train.datasets.sample import REAL, Sample, Truth, VideoKey, fake_with_mask
from train.media import is_picture

NAME = "DEFACTO"
LIST = "test_vis.txt"


class Defacto:
    """The pictures of DEFACTO in either layout. A test set as a whole."""

    splits = ("test",)

    def __init__(self, root: Path) -> None:
        self._root = root
        self._list = root / LIST
        self._folders = sorted(path for path in root.glob("*_img") if path.is_dir())
        if not self._list.is_file() and not self._folders:
            raise wrong_layout(root, NAME, f"{LIST} or <name>_img/ and <name>_annotations/")

    def parts(self) -> list[Part]:
        if self._list.is_file():
            lines = self._lines()
            return [Part(LIST, sum(path.is_file() for path, _ in lines), len(lines))]
        return [Part(path.name, sum(1 for _ in pictures_below(path))) for path in self._folders] + [
            Part(_annotations(path).name, len(_masks(path))) for path in self._folders
        ]

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(NAME, split, self.splits)
        if self._list.is_file():
            yield from self._listed()
            return
        for folder in self._folders:
            masks = _masks(folder)
            method = folder.name.removesuffix("_img")
            for path in pictures_below(folder):
                mask = masks.get(path.stem)
                if mask is None:
                    expected = f"{_annotations(folder).name}/probe_mask/{path.stem}.*"
                    raise LayoutError(f"{path}: expected its mask {expected}; found nothing")
                yield fake_with_mask(VideoKey(NAME, method, path.stem), path, split, mask)

    def _listed(self) -> Iterator[Sample]:
        for path, fake in self._lines():
            if not path.is_file():
                continue
            place = path.relative_to(self._root)
            if not fake:
                yield Sample(VideoKey(NAME, REAL, place.stem), path, 0, "test", Truth.CLEAN)
                continue
            steps = ["Mask" if step == "Image" else step for step in place.parts]
            mask = self._root.joinpath(*steps).with_suffix("")
            if not mask.is_file():
                raise LayoutError(f"{path}: expected its mask {mask}; found nothing")
            yield fake_with_mask(VideoKey(NAME, place.parent.name, place.stem), path, "test", mask)

    def _lines(self) -> list[tuple[Path, bool]]:
        lines = []
        for number, line in enumerate(self._list.read_text("utf-8").splitlines(), 1):
            place, _, label = line.strip().rpartition(" ")
            if not line.strip():
                continue
            if not place or label not in ("0", "1"):
                raise LayoutError(
                    f"{self._list}:{number}: expected `<picture> <0|1>`; found `{line.strip()}`"
                )
            lines.append((self._root / place, label == "1"))
        return lines


def _annotations(folder: Path) -> Path:
    return folder.with_name(folder.name.removesuffix("_img") + "_annotations")


def _masks(folder: Path) -> dict[str, Path]:
    masks = _annotations(folder) / "probe_mask"
    if not masks.is_dir():
        return {}
    return {path.stem: path for path in sorted(masks.iterdir()) if is_picture(path)}
