"""Dolos: faces from CelebA-HQ and FFHQ, generated whole or repainted in part, with masks.

Layout of the owners: `<celebahq|ffhq>/real/<split>/`, `<...>/fake/p2/<split>/` (generated whole)
and `<...>/fake/<method>/{images,masks}/<split>/` (repainted), splits train, valid and test. **The
masks are inverted: 255 is untouched**, everything else manipulated. From FFHQ there is only
repaint-p2. `wacv_data/` may be given or its parent. The paper's set-ups: A uses only whole
pictures, B and C the repainted ones without and with their masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from train.datasets.layout import LayoutError, Part, check_split, pictures_below, wrong_layout
from train.datasets.sample import REAL, Polarity, Sample, Truth, VideoKey

NAME = "Dolos"
WHOLE = "p2"
REPAINTED = {
    "celebahq": ("repaint-p2", "repaint-p2-9k", "ldm", "lama", "pluralistic"),
    "ffhq": ("repaint-p2",),
}
_FOLDERS = {"train": "train", "val": "valid", "test": "test"}


class Dolos:
    """The pictures of Dolos, every source and method that is there."""

    splits = ("train", "val", "test")

    def __init__(self, root: Path) -> None:
        places = (root, root / "wacv_data")
        found = [place for place in places for s in REPAINTED if (place / s / "real").is_dir()]
        if not found:
            raise wrong_layout(root, NAME, "celebahq/{real,fake}/ or ffhq/{real,fake}/")
        self._root = found[0]

    def parts(self) -> list[Part]:
        folders = []
        for source, methods in REPAINTED.items():
            folders += [f"{source}/real", f"{source}/fake/{WHOLE}"]
            for method in methods:
                folders += [f"{source}/fake/{method}/images", f"{source}/fake/{method}/masks"]
        return [Part(name, sum(1 for _ in pictures_below(self._root / name))) for name in folders]

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(NAME, split, self.splits)
        folder = _FOLDERS[split]
        for source, methods in REPAINTED.items():
            base = self._root / source
            for path in pictures_below(base / "real" / folder):
                key = VideoKey(NAME, REAL, f"{source}/{split}/{path.stem}")
                yield Sample(key, path, 0, split, Truth.CLEAN)
            for path in pictures_below(base / "fake" / WHOLE / folder):
                key = VideoKey(NAME, f"{source}/{WHOLE}", f"{split}/{path.stem}")
                yield Sample(key, path, 1, split, Truth.WHOLE)
            for method in methods:
                for path in pictures_below(base / "fake" / method / "images" / folder):
                    mask = base / "fake" / method / "masks" / folder / path.name
                    if not mask.is_file():
                        raise LayoutError(f"{path}: expected its mask {mask}; found nothing")
                    key = VideoKey(NAME, f"{source}/{method}", f"{split}/{path.stem}")
                    yield Sample(
                        key, path, 1, split, Truth.FILE, mask=mask, polarity=Polarity.BELOW_255
                    )
