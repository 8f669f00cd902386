"""DFD (DeepFakeDetection): 363 videos of paid actors and 3068 fakes, distributed with FF++.

Layout: `original_sequences/actors/<raw|c23|c40>/videos/01__walking.mp4`,
`manipulated_sequences/DeepFakeDetection/<raw|c23|c40>/videos/01_02__walking__ABCDEFGH.mp4` and
`.../DeepFakeDetection/masks/videos/`. A test set as a whole: the owners give no splits. That the
real video of a fake is the target actor's in the same scene follows from the names; not verified on
the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from train.datasets.faceforensics import COMPRESSIONS
from train.datasets.layout import Part, check_split, videos_in, wrong_layout
from train.datasets.sample import REAL, Sample, Truth, VideoKey, fake_with_mask

NAME = "DFD"
METHOD = "DeepFakeDetection"


class DFD:
    """The videos of DFD, every quality that is there."""

    splits = ("test",)

    def __init__(self, root: Path) -> None:
        self._real = root / "original_sequences" / "actors"
        self._fake = root / "manipulated_sequences" / METHOD
        if not self._real.is_dir() or not self._fake.is_dir():
            raise wrong_layout(
                root,
                NAME,
                "original_sequences/actors/ and manipulated_sequences/DeepFakeDetection/",
            )

    def parts(self) -> list[Part]:
        parts = []
        for folder in COMPRESSIONS:
            parts.append(Part(f"actors/{folder}", len(videos_in(self._real / folder)), 363))
            parts.append(Part(f"{METHOD}/{folder}", len(videos_in(self._fake / folder)), 3068))
        parts.append(Part(f"{METHOD}/masks", len(videos_in(self._fake / "masks")), 3068))
        return parts

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(NAME, split, self.splits)
        masks = videos_in(self._fake / "masks")
        for folder, compression in COMPRESSIONS.items():
            for name, path in videos_in(self._real / folder).items():
                key = VideoKey(NAME, REAL, name)
                yield Sample(key, path, 0, split, Truth.CLEAN, compression=compression)
            for name, path in videos_in(self._fake / folder).items():
                actors, *scene = name.split("__")
                original = "__".join([actors.split("_")[0], *scene[:1]])
                yield fake_with_mask(
                    VideoKey(NAME, METHOD, name), path, split, masks.get(name),
                    original=VideoKey(NAME, REAL, original) if scene else None,
                    compression=compression,
                )  # fmt: skip
