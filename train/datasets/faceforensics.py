"""FaceForensics++: 1000 YouTube videos, each manipulated by five methods, in three qualities.

Layout of the owners' download script: `original_sequences/youtube/<raw|c23|c40>/videos/000.mp4`,
`manipulated_sequences/<method>/<raw|c23|c40>/videos/000_003.mp4` (target, then source) and
`manipulated_sequences/<method>/masks/videos/000_003.mp4`. There are no masks for FaceShifter. The
masks are compressed video, so they are cut in the middle of the grey scale. The official splits are
pairs of videos; both directions of a pair belong to its split (splits/faceforensics/, from the
owners' repository). Pixel-exact masks: `pixel_faceforensics.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from train.datasets.layout import Part, check_split, videos_in, wrong_layout
from train.datasets.sample import REAL, Sample, Truth, VideoKey, fake_with_mask

NAME = "FaceForensics++"
METHODS = ("Deepfakes", "Face2Face", "FaceShifter", "FaceSwap", "NeuralTextures")
COMPRESSIONS = {"raw": "c0", "c23": "c23", "c40": "c40"}  # folder -> the paper's word
SPLITS = ("train", "val", "test")
_LISTS = Path(__file__).parent / "splits" / "faceforensics"


@cache
def split_of() -> dict[str, str]:
    """Number of a YouTube video ("000" to "999") -> its official split."""
    return {
        number: split
        for split in SPLITS
        for pair in json.loads((_LISTS / f"{split}.json").read_text("utf-8"))
        for number in pair
    }


def fake_split(name: str) -> str | None:
    """The split of a fake `000_003`, None if its two videos are not of one split."""
    splits = {split_of().get(number) for number in name.split("_")}
    return splits.pop() if len(splits) == 1 else None


class FaceForensics:
    """The videos of FaceForensics++, every quality and method that is there."""

    splits = SPLITS

    def __init__(self, root: Path) -> None:
        self._real = root / "original_sequences" / "youtube"
        self._fake = root / "manipulated_sequences"
        methods = [method for method in METHODS if (self._fake / method).is_dir()]
        if not self._real.is_dir() or not methods:
            raise wrong_layout(
                root,
                NAME,
                "original_sequences/youtube/ and manipulated_sequences/{Deepfakes,...}/",
            )

    def parts(self) -> list[Part]:
        parts = [
            Part(f"original_sequences/youtube/{folder}", len(videos_in(self._real / folder)), 1000)
            for folder in COMPRESSIONS
        ]
        for method in METHODS:
            for folder in COMPRESSIONS:
                found = len(videos_in(self._fake / method / folder))
                parts.append(Part(f"manipulated_sequences/{method}/{folder}", found, 1000))
            if method != "FaceShifter":
                found = len(videos_in(self._fake / method / "masks"))
                parts.append(Part(f"manipulated_sequences/{method}/masks", found, 1000))
        return parts

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(NAME, split, self.splits)
        for folder, compression in COMPRESSIONS.items():
            for name, path in videos_in(self._real / folder).items():
                if split_of().get(name) == split:
                    key = VideoKey(NAME, REAL, name)
                    yield Sample(key, path, 0, split, Truth.CLEAN, compression=compression)
        for method in METHODS:
            masks = videos_in(self._fake / method / "masks")
            for folder, compression in COMPRESSIONS.items():
                for name, path in videos_in(self._fake / method / folder).items():
                    if fake_split(name) == split:
                        yield fake_with_mask(
                            VideoKey(NAME, method, name), path, split, masks.get(name),
                            original=VideoKey(NAME, REAL, name.split("_")[0]),
                            compression=compression,
                        )  # fmt: skip
