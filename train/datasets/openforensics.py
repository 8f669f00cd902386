"""OpenForensics: 115 thousand pictures with several faces, some of them replaced, with outlines.

Layout: COCO files `<Split>_poly.json` for Train, Val, Test-Dev and Test-Challenge, in the folder or
in `<Split>/`; their `file_name` is `Images/<Split>/<id>.jpg`, looked for below the folder, below
`<Split>/`, and there by its bare name, as people unpack it. Categories by name: real, fake. The
pixel truth is the polygons of the fake faces. Test-Challenge is Test-Dev with strong disturbances;
it is the split `challenge` here. Read from public loaders, not checked on the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.datasets.layout import LayoutError, Part, check_split, first_file, wrong_layout
from train.datasets.sample import REAL, Sample, Truth, VideoKey

NAME = "OpenForensics"
METHOD = "openforensics"
_FOLDERS = {"train": "Train", "val": "Val", "test": "Test-Dev", "challenge": "Test-Challenge"}


class OpenForensics:
    """The pictures of OpenForensics that are there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.splits = tuple(split for split in _FOLDERS if self._annotations(split))
        if not self.splits:
            raise wrong_layout(root, NAME, "Train_poly.json, Val_poly.json, ... or Train/...")

    def parts(self) -> list[Part]:
        parts = []
        for split, folder in _FOLDERS.items():
            path = self._annotations(split)
            images = _read(path)["images"] if path else []
            found = sum(self._picture(folder, image["file_name"]) is not None for image in images)
            parts.append(Part(folder, found, len(images) if path else None))
        return parts

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(NAME, split, tuple(_FOLDERS))
        folder = _FOLDERS[split]
        annotations = self._annotations(split)
        if annotations is None:
            raise LayoutError(
                f"{self._root}: split {split}: expected {folder}_poly.json; found none"
            )
        content = _read(annotations)
        fake_ids = {c["id"] for c in content["categories"] if c["name"].lower() == "fake"}
        if not fake_ids:
            names = ", ".join(str(c["name"]) for c in content["categories"])
            raise LayoutError(f"{annotations}: expected a category fake; found {names or 'none'}")
        regions: dict[int, list[tuple[float, ...]]] = {}
        for face in content["annotations"]:
            if face["category_id"] in fake_ids:
                if not isinstance(face["segmentation"], list):
                    raise LayoutError(f"{annotations}: expected polygons; found run lengths")
                outlines = [tuple(float(value) for value in line) for line in face["segmentation"]]
                regions.setdefault(face["image_id"], []).extend(outlines)
        for image in content["images"]:
            path = self._picture(folder, image["file_name"])
            if path is None:
                continue
            polygons = tuple(regions.get(image["id"], ()))
            name = f"{folder}/{path.stem}"
            if polygons:
                key = VideoKey(NAME, METHOD, name)
                yield Sample(key, path, 1, split, Truth.POLYGONS, polygons=polygons)
            else:
                yield Sample(VideoKey(NAME, REAL, name), path, 0, split, Truth.CLEAN)

    def _annotations(self, split: str) -> Path | None:
        folder = _FOLDERS[split]
        name = f"{folder}_poly.json"
        return first_file(self._root / name, self._root / folder / name)

    def _picture(self, folder: str, file_name: str) -> Path | None:
        bare = Path(file_name).name
        inside = self._root / folder
        return first_file(
            self._root / file_name, inside / file_name, inside / bare, inside / folder / bare
        )


def _read(path: Path) -> dict[str, Any]:
    """A COCO file: images, annotations and categories."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise LayoutError(f"{path}: expected COCO annotations; found {error}") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise LayoutError(f"{path}: expected COCO annotations; found no list of {part}")
    result: dict[str, Any] = content
    return result
