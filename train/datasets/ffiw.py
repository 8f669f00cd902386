"""FFIW-10K: 10000 videos with several people, few of whose faces are manipulated; with masks.

Layout of the owners: `source/{train,val}/` real, `target/{train,val}/` fake, `target_mask/` masks
of the fakes; the test split is distributed apart in the same layout (`.../test/`). Videos lie right
there or below `videos/`. That source is real and target fake is how public evaluations read it (250
of each in `val`). Not checked on the data: that masks have the name of their video and are brighter
where manipulated. `FFIW10K-v1-release/` may be given or its parent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from train.datasets.layout import LayoutError, Part, check_split, videos_in, wrong_layout
from train.datasets.sample import REAL, Sample, Truth, VideoKey, fake_with_mask

NAME = "FFIW-10K"
METHOD = "ffiw"
SPLITS = ("train", "val", "test")
_COUNTS = {"val": 250}


class FFIW:
    """The videos of FFIW-10K, every split that is there."""

    def __init__(self, root: Path) -> None:
        places = (root, *sorted(root.glob("FFIW10K-v1-release*")))
        found = [place for place in places if (place / "target").is_dir()]
        if not found or not (found[0] / "source").is_dir():
            raise wrong_layout(root, NAME, "source/, target/ and target_mask/ with train/ and val/")
        self._root = found[0]
        self.splits = tuple(s for s in SPLITS if (self._root / "target" / s).is_dir())

    def parts(self) -> list[Part]:
        return [
            Part(f"{kind}/{split}", len(videos_in(self._root / kind / split)), _COUNTS.get(split))
            for split in SPLITS
            for kind in ("source", "target", "target_mask")
        ]

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(NAME, split, SPLITS)
        reals, fakes = (videos_in(self._root / kind / split) for kind in ("source", "target"))
        if not reals and not fakes:
            raise LayoutError(
                f"{self._root}: split {split}: expected source/{split}/ and target/{split}/; "
                f"found {', '.join(self.splits) or 'no split'}"
            )
        for name, path in reals.items():
            yield Sample(VideoKey(NAME, REAL, f"{split}/{name}"), path, 0, split, Truth.CLEAN)
        masks = videos_in(self._root / "target_mask" / split)
        for name, path in fakes.items():
            key = VideoKey(NAME, METHOD, f"{split}/{name}")
            yield fake_with_mask(key, path, split, masks.get(name))
