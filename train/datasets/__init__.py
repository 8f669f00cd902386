"""Readers of the public data sets: from the layout that their owners distribute to samples.

Each data set is one file with one class that has the shape of `DataSet`, and one line in
`DATASETS`; the conformance suite in tests/train/ runs over the table. No data come with deepscan:
most sets are given on request, for research only. What could not be checked against the data itself
is said in the file. Look at a folder with `python -m train.datasets check DIR`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol

from deepscan.errors import UsageError
from train.datasets.layout import LayoutError, Part
from train.datasets.sample import Polarity, Sample, Truth, VideoKey

__all__ = [
    "DATASETS",
    "DataSet",
    "LayoutError",
    "Part",
    "Polarity",
    "Sample",
    "Truth",
    "VideoKey",
    "open_dataset",
]


class DataSet(Protocol):
    """A data set that lies in a folder.

    It is built from its folder alone, which looks at the layout only and raises `LayoutError` where
    it is not this set's.
    `splits` names the splits that are there, in canonical words ("train", "val", "test").
    A video has one key in all its qualities, and no two videos share one.
    """

    splits: tuple[str, ...]

    def parts(self) -> list[Part]:
        """Describe the present part, and the rest of the owners' distribution."""
        ...

    def samples(self, split: str) -> Iterator[Sample]:
        """Yield the samples of a split that are present, in a fixed order.

        Raises:
            LayoutError: the split list is missing or broken.
            ValueError: there is no such split.
        """
        ...


DATASETS: dict[str, str] = {
    "faceforensics": "train.datasets.faceforensics:FaceForensics",
    "pixel-faceforensics": "train.datasets.pixel_faceforensics:PixelFaceForensics",
    "dfd": "train.datasets.dfd:DFD",
    "celeb-df-v2": "train.datasets.celebdf:celeb_df_v2",
    "celeb-df-v1": "train.datasets.celebdf:celeb_df_v1",  # the same layout; named or second
    "celeb-df-pp": "train.datasets.celebdf:celeb_df_pp",
    "dfdc": "train.datasets.dfdc:DFDC",
    "dfdc-preview": "train.datasets.dfdc_preview:DFDCPreview",
    "ffiw": "train.datasets.ffiw:FFIW",
    "dolos": "train.datasets.dolos:Dolos",
    "defacto": "train.datasets.defacto:Defacto",
    "openforensics": "train.datasets.openforensics:OpenForensics",
    "folder": "train.datasets.folder:Folder",
}


def open_dataset(name: str, root: Path) -> DataSet:
    """The data set of that name in that folder.

    Raises:
        UsageError: the name is unknown, or the folder does not exist.
        LayoutError: the folder holds something else.
    """
    if name not in DATASETS:
        raise UsageError(f"no data set {name}; there are {', '.join(DATASETS)}")
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    module, _, builder = DATASETS[name].partition(":")
    dataset: DataSet = getattr(import_module(module), builder)(root)
    return dataset
