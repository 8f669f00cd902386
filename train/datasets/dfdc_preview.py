"""DFDC preview: about 5000 videos by two methods, a year before the challenge.

Layout: `dataset.json` of `{"method_A/<person>/<pair>/<video>.mp4": {"label": "fake", "set":
"train"}}`, paths relative to it, beside `method_A/`, `method_B/` and `original_videos/`; usually in
a folder `dfdc_preview_set/`, which may be given or its parent. Sets: train and test. No masks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from train.datasets.layout import LayoutError, Part, check_split, first_file, wrong_layout
from train.datasets.sample import REAL, Sample, Truth, VideoKey

NAME = "DFDCP"


class DFDCPreview:
    """The videos of `dataset.json` that are there."""

    splits = ("train", "test")

    def __init__(self, root: Path) -> None:
        found = first_file(root / "dataset.json", root / "dfdc_preview_set" / "dataset.json")
        if found is None:
            raise wrong_layout(root, NAME, "dataset.json beside method_A/, original_videos/")
        self._list = found

    def parts(self) -> list[Part]:
        listed: dict[str, list[bool]] = {}
        for file in self._read():
            there = (self._list.parent / file).is_file()
            listed.setdefault(file.split("/")[0], []).append(there)
        return [Part(name, sum(there), len(there)) for name, there in sorted(listed.items())]

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(NAME, split, self.splits)
        for file, facts in sorted(self._read().items()):
            path = self._list.parent / file
            if facts["set"] != split or not path.is_file():
                continue
            fake = facts["label"] == "fake"
            # The same person's clips repeat their names in several folders: keep the whole path.
            key = VideoKey(NAME, file.split("/")[0] if fake else REAL, file.removesuffix(".mp4"))
            yield Sample(key, path, int(fake), split, Truth.NONE if fake else Truth.CLEAN)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            listed = json.loads(self._list.read_text("utf-8"))
            known = all(
                facts["set"] in self.splits and facts["label"] in ("real", "fake")
                for facts in listed.values()
            )
        except (ValueError, AttributeError, KeyError, TypeError):
            known = False
        if not known:
            raise LayoutError(
                f'{self._list}: expected {{"<video>": {{"label": "real|fake", "set": '
                '"train|test"}}; found something else'
            )
        result: dict[str, dict[str, str]] = listed
        return result
