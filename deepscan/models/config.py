"""The configuration that makes one network of the family; plain values, imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from deepscan.errors import ModelError

Filters = Literal["fixed-dct", "fixed-random", "learnable-dct", "learnable-random", "none"]
ImageHead = Literal["backbone", "backbone+mask"]
Aggregation = Literal["dilated", "pyramid"]
# ImageNet's, on the 0 to 255 scale, as in the paper's code.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
_PYRAMID_STRIDE = 8  # of the feature map that a pyramid's stages are brought to


@dataclass(frozen=True, slots=True)
class MSCCNetConfig:
    """What makes one network of the family; travels in the metadata of its weights.

    `dct_k` squared is the number of cosine images, `band_k` squared the number of bands: the
    official code mixes 8 and 2, a consistent variant has both equal. `image_head` "backbone" is
    the paper's (global average of the last map only); "backbone+mask" adds what the mask points at.

    `aggregation` "dilated" is the paper's: stages 2 to 4 of a dilated backbone, all at
    `output_stride`. "pyramid" takes stages 1 to 4 of a plain backbone as they come (strides 4, 8,
    16, 32), each reduced by a 1x1 convolution and brought to stride 8: the low-level stage stays,
    and no stage has to be dilated. `mean` and `std` normalise pixels on the 0 to 255 scale.
    """

    input_size: int = 512
    backbone: str = "resnet50c"
    backbone_arguments: Mapping[str, object] = field(default_factory=dict)
    output_stride: int = 8
    channels: int = 512
    dct_k: int = 8
    band_k: int = 2
    filters: Filters = "fixed-dct"
    mfa: bool = True
    mscc: bool = True
    graph: bool = True
    coarse: bool = True
    dropout: float = 0.1
    image_head: ImageHead = "backbone"
    aggregation: Aggregation = "dilated"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __post_init__(self) -> None:
        if self.aggregation not in get_args(Aggregation):
            raise ModelError(
                f"no aggregation {self.aggregation!r}; there are {get_args(Aggregation)}"
            )
        if self.input_size % self.map_stride:
            raise ModelError(
                f"input size {self.input_size} is not a multiple of the map's stride "
                f"{self.map_stride}"
            )
        for name, k in (("dct_k", self.dct_k), ("band_k", self.band_k)):
            if k < 1 or self.channels % (k * k):
                raise ModelError(f"{name} = {k}: {self.channels} channels do not split into {k}²")

    @property
    def map_stride(self) -> int:
        """Pixels of the crop for one of the feature map."""
        return _PYRAMID_STRIDE if self.aggregation == "pyramid" else self.output_stride

    @property
    def stages(self) -> tuple[int, ...]:
        """Which stages of the backbone are aggregated."""
        return (1, 2, 3, 4) if self.aggregation == "pyramid" else (2, 3, 4)

    @property
    def map_size(self) -> int:
        """Side of the feature maps in pixels."""
        return self.input_size // self.map_stride

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; `MSCCNetConfig(**values)` gives the config back."""
        return asdict(self)
