"""Celeb-DF v1, v2 and ++: celebrities on YouTube and fakes of them; no masks.

Layout: `Celeb-real/`, `YouTube-real/` and `Celeb-synthesis/` with videos (in ++ three levels deep:
`Celeb-synthesis/FaceSwap/BlendFace/id0_id1_0000.mp4`), and `List_of_testing_videos.txt` with lines
`1 YouTube-real/00170.mp4`. **In that list 1 means real**, the opposite of everywhere here; labels
are therefore taken from the folder, and a list that disagrees is refused. What the list does not
name is the training split. That the list of v1 and ++ has the format of v2 is taken from public
loaders, not checked on the data. Which real video a fake was made from is not documented.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from train.datasets.layout import LayoutError, Part, check_split, wrong_layout
from train.datasets.sample import REAL, Sample, Truth, VideoKey
from train.media import is_video

LIST = "List_of_testing_videos.txt"
FOLDERS = ("Celeb-real", "YouTube-real", "Celeb-synthesis")


@dataclass(frozen=True, slots=True)
class Version:
    """Differences between versions: name, counts in the order of FOLDERS, methods in folders."""

    name: str
    counts: tuple[int | None, int | None, int | None]
    nested: bool


V1 = Version("Celeb-DF-v1", (None, None, 795), nested=False)  # 408 real ones in both folders
V2 = Version("Celeb-DF-v2", (590, 300, 5639), nested=False)  # 518 test videos, 178 of them real
PP = Version("Celeb-DF++", (590, 300, 53196), nested=True)  # 22 methods; the real videos of v2


class CelebDF:
    """The videos of one version of Celeb-DF."""

    splits = ("train", "test")

    def __init__(self, root: Path, version: Version) -> None:
        self._root = root
        self._version = version
        nested = (root / FOLDERS[2] / "FaceSwap").is_dir()
        if not all((root / name).is_dir() for name in FOLDERS) or nested != version.nested:
            inner = "/FaceSwap/<method>" if version.nested else ""
            expected = f"Celeb-real/, YouTube-real/, Celeb-synthesis{inner}/ and {LIST}"
            raise wrong_layout(root, version.name, expected)

    def parts(self) -> list[Part]:
        parts = [
            Part(folder, sum(1 for _ in self._videos(folder)), expected)
            for folder, expected in zip(FOLDERS, self._version.counts, strict=True)
        ]
        return [*parts, Part(LIST, len(self._listed()))]

    def samples(self, split: str) -> Iterator[Sample]:
        check_split(self._version.name, split, self.splits)
        listed = self._listed()
        for folder in FOLDERS:
            fake = folder == FOLDERS[2]
            for path in self._videos(folder):
                place = path.relative_to(self._root)
                # Some unpack to Celeb-real/videos/; the list does not know that folder.
                inside = [step for step in place.parts[1:-1] if step != "videos"]
                if ("/".join([folder, *inside, place.name]) in listed) != (split == "test"):
                    continue
                manipulation = ("/".join([folder, *inside]) if inside else folder) if fake else REAL
                # Numbers of the two real folders overlap in principle; names keep the folder.
                name = path.stem if fake else f"{folder}/{path.stem}"
                key = VideoKey(self._version.name, manipulation, name)
                truth = Truth.NONE if fake else Truth.CLEAN
                yield Sample(key, path, int(fake), split, truth)

    def _videos(self, folder: str) -> Iterator[Path]:
        yield from sorted(path for path in (self._root / folder).rglob("*") if is_video(path))

    def _listed(self) -> set[str]:
        """Paths of the test videos, relative to the folder of the data set."""
        path = self._root / LIST
        if not path.is_file():
            raise LayoutError(f"{self._root}: split test: expected {LIST}; found none")
        listed = set()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if not line.strip():
                continue
            label, _, video = line.strip().partition(" ")
            folder = video.strip().split("/")[0]
            if label not in ("0", "1") or folder not in FOLDERS:
                raise LayoutError(
                    f"{path}:{number}: expected `1 YouTube-real/00170.mp4`; found `{line.strip()}`"
                )
            if (label == "1") != (folder != FOLDERS[2]):
                raise LayoutError(
                    f"{path}:{number}: expected 1 for real and 0 for Celeb-synthesis; found "
                    f"`{line.strip()}`"
                )
            listed.add(video.strip())
        return listed


def celeb_df_v1(root: Path) -> CelebDF:
    return CelebDF(root, V1)


def celeb_df_v2(root: Path) -> CelebDF:
    return CelebDF(root, V2)


def celeb_df_pp(root: Path) -> CelebDF:
    return CelebDF(root, PP)
