"""MSCCNet: face manipulation as segmentation and classification at once.

Miao et al., "Multi-spectral Class Center Network for Face Manipulation Detection and
Localization" (arXiv 2305.10794). A dilated backbone gives three maps at one resolution; MFA joins
them; MSCC weights them with cosine images, splits the channels into bands, gathers a centre for
each class and band, lets the bands talk, and attends from pixels to centres; a decoder gives the
mask. A second branch judges the whole crop. Class 1 is manipulated.

Letters in shapes: B batch, C channels, N = band_k**2 bands, c = C / N, K = 2 classes, H x W map.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepscan.errors import ModelError
from deepscan.models.backbone import backbone
from deepscan.models.config import MSCCNetConfig

CLASSES = 2  # 0 not manipulated, 1 manipulated


class Logits(NamedTuple):
    """What the network gives before any softmax; class 1 is manipulated.

    `image` (B, 2); `mask` (B, 2, H, W) at the size of the maps; `coarse` likewise, or None.
    """

    image: Tensor
    mask: Tensor
    coarse: Tensor | None


def cosine_images(channels: int, size: int, k: int) -> Tensor:
    """The fixed DCT weights: one cosine image for each group of channels (after FcaNet).

    Row x, column y of frequency (u, v) is b_u(x) b_v(y) with
    b_f(t) = cos(pi f (t + 1/2) / L) / sqrt(L), times sqrt(2) for f > 0; u is the slow index.

    Returns:
        (channels, size, size) float32.
    """
    position = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    rows = []
    for frequency in range(k):
        scale = math.sqrt((1.0 if frequency == 0 else 2.0) / size)
        rows.append(torch.cos(math.pi * frequency * position) * scale)
    basis = torch.stack(rows)  # (k, L)
    images = torch.einsum("ux,vy->uvxy", basis, basis).reshape(k * k, size, size)
    return images.repeat_interleave(channels // (k * k), dim=0).float()


def conv_bn_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution without bias that keeps the size, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class MFA(nn.Module):
    """Multi-level feature aggregation: each stage to C channels, then all to C.

    All maps are brought to the size of the map numbered `reference`: larger ones by average
    pooling, smaller ones bilinearly.
    """

    def __init__(
        self, stages: tuple[int, ...], channels: int, *, kernel: int = 3, reference: int = -1
    ) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(conv_bn_relu(stage, channels, kernel) for stage in stages)
        self.fuse = conv_bn_relu(channels * len(stages), channels, 3)
        self.reference = reference

    def forward(self, maps: list[Tensor]) -> Tensor:
        """(B, c_i, H_i, W_i) maps to (B, C, H, W) at the size of the reference."""
        size = maps[self.reference].shape[-2:]
        reduced = [
            _brought_to(layer(map_), size) for layer, map_ in zip(self.reduce, maps, strict=True)
        ]
        fused: Tensor = self.fuse(torch.cat(reduced, dim=1))
        return fused


def _brought_to(map_: Tensor, size: torch.Size) -> Tensor:
    if map_.shape[-2:] == size:
        return map_
    if map_.shape[-1] > size[-1]:
        return F.avg_pool2d(map_, map_.shape[-1] // size[-1])
    return F.interpolate(map_, size, mode="bilinear", align_corners=False)


class LastStage(nn.Module):
    """What stands in for MFA where an ablation leaves it out: the last stage alone."""

    def __init__(self, stage: int, channels: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(stage, channels, 3)

    def forward(self, maps: list[Tensor]) -> Tensor:
        reduced: Tensor = self.reduce(maps[-1])
        return reduced


def aggregation(config: MSCCNetConfig, stages: tuple[int, ...]) -> nn.Module:
    """What joins stages of so many channels each into one map.

    Raises:
        ModelError: a pyramid without MFA, whose last stage alone has no map of stride 8.
    """
    if config.aggregation == "pyramid":
        if not config.mfa:
            raise ModelError("aggregation 'pyramid' is a form of MFA: leave mfa on")
        return MFA(stages, config.channels, kernel=1, reference=1)
    return MFA(stages, config.channels) if config.mfa else LastStage(stages[-1], config.channels)


class SpectralFilter(nn.Module):
    """Weights every channel with an image: cosines or noise, fixed or learned, or nothing."""

    def __init__(self, config: MSCCNetConfig) -> None:
        super().__init__()
        shape = (config.channels, config.map_size, config.map_size)
        weight: Tensor | None
        if config.filters == "none":
            weight = None
        elif config.filters.endswith("dct"):
            weight = cosine_images(config.channels, config.map_size, config.dct_k)
        else:
            weight = torch.rand(shape)
        self.weight: Tensor | None
        if weight is not None and config.filters.startswith("learnable"):
            self.weight = nn.Parameter(weight)
        elif config.filters == "fixed-dct":
            # Not saved: it follows from the config, so another input size only rebuilds it.
            self.register_buffer("weight", weight, persistent=False)
        else:
            self.register_buffer("weight", weight)

    def forward(self, features: Tensor) -> Tensor:
        if self.weight is None:
            return features
        if features.shape[-2:] != self.weight.shape[-2:]:
            height, width = features.shape[-2:]
            raise ModelError(
                f"feature map is {height}x{width}, this network was built for "
                f"{self.weight.shape[-2]}x{self.weight.shape[-1]}: give crops of its input size"
            )
        return features * self.weight


class MSCC(nn.Module):
    """Multi-spectral class centres: weighted features in bands, their centres, attention."""

    def __init__(self, config: MSCCNetConfig) -> None:
        super().__init__()
        channels = config.channels
        self.bands = config.band_k**2
        self.band = band = channels // self.bands  # channels of each
        self.filter = SpectralFilter(config)
        self.head = nn.Sequential(
            nn.Conv2d(band, band, 1, bias=False),
            nn.BatchNorm2d(band),
            nn.ReLU(inplace=True),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(band, CLASSES, 1),
        )
        self.fuse = nn.Conv2d(self.bands, 1, 1) if config.coarse else None
        self.mix = nn.Conv1d(self.bands, self.bands, 1, bias=False) if config.graph else None
        self.project = nn.Linear(band, band, bias=False) if config.graph else None
        self.output = conv_bn_relu(2 * channels, channels, 3)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, C, H, W) to refined (B, C, H, W) and the fused coarse map (B, 2, H, W) or None."""
        batch, channels, height, width = features.shape
        bands, band, pixels = self.bands, self.band, height * width
        weighted = self.filter(features).reshape(batch * bands, band, height, width)
        coarse = self.head(weighted)  # (B N, K, H, W): raw logits, one head for all bands

        # A sum over all pixels of unbounded products: beyond fp16, so in fp32 whatever is around.
        with torch.autocast(features.device.type, enabled=False):
            pixel = features.float().reshape(batch, bands, band, pixels)
            weights = coarse.float().reshape(batch, bands, CLASSES, pixels)
            banded = weighted.float().reshape(batch, bands, band, pixels)
            centres = weights @ banded.transpose(-1, -2)  # (B, N, K, c); .mT is not in OpenVINO
            if self.mix is not None and self.project is not None:
                flat = centres.reshape(batch, bands, CLASSES * band)
                mixed = F.conv1d(flat, self.mix.weight.float())
                graph = F.relu(mixed + flat).reshape(batch, bands, CLASSES, band)
                centres = F.linear(graph, self.project.weight.float())
            attention = torch.softmax(centres @ pixel, dim=2)  # (B, N, K, HW), sums to 1 over K
            attended = centres.transpose(-1, -2) @ attention  # (B, N, c, HW)
        attended = attended.reshape(batch, channels, height, width).to(features.dtype)
        refined: Tensor = self.output(torch.cat([features, attended], dim=1))

        if self.fuse is None:
            return refined, None
        # One weight for each band, the same for both classes: fold the classes into the batch.
        by_class = coarse.reshape(batch, bands, CLASSES, height, width).transpose(1, 2)
        fused = self.fuse(by_class.reshape(batch * CLASSES, bands, height, width))
        return refined, fused.reshape(batch, CLASSES, height, width)


class MSCCNet(nn.Module):
    """The whole network: backbone, MFA, MSCC, decoder, image branch."""

    def __init__(self, config: MSCCNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, stages = backbone(
            config.backbone, config.output_stride, config.stages, config.backbone_arguments
        )
        channels = config.channels
        self.mfa = aggregation(config, stages)
        self.mscc = MSCC(config) if config.mscc else None
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(channels, CLASSES, 1),
        )
        extra = channels + 2 if config.image_head == "backbone+mask" else 0
        self.classifier = nn.Linear(stages[-1] + extra, CLASSES)

    def forward(self, images: Tensor) -> Logits:
        """Judge normalised (B, 3, S, S) crops.

        Raises:
            ModelError: the crops are not of the network's input size.
        """
        maps = self.backbone(images)
        features = self.mfa(maps)
        refined, coarse = (features, None) if self.mscc is None else self.mscc(features)
        mask = self.decoder(refined)
        pooled = maps[-1].mean(dim=(2, 3))
        if self.config.image_head == "backbone+mask":
            pooled = torch.cat([pooled, pointed_at(refined, mask)], dim=1)
        return Logits(self.classifier(pooled), mask, coarse)


def set_input_size(network: MSCCNet, size: int) -> None:
    """Make a network take crops of another side, in place: only the cosine images depend on it.

    Learned or random images are resampled.

    Raises:
        ModelError: the side is not a multiple of the output stride.
    """
    network.config = replace(network.config, input_size=size)
    if network.mscc is None or network.mscc.filter.weight is None:
        return
    config, filter_ = network.config, network.mscc.filter
    weight = filter_.weight
    assert weight is not None
    if config.filters == "fixed-dct":
        images = cosine_images(config.channels, config.map_size, config.dct_k)
        filter_.register_buffer("weight", images.to(weight.device), persistent=False)
        return
    sides = (config.map_size, config.map_size)
    images = F.interpolate(weight.detach()[None], sides, mode="bilinear", align_corners=False)[0]
    filter_.weight = nn.Parameter(images) if isinstance(weight, nn.Parameter) else images


def pointed_at(features: Tensor, mask: Tensor) -> Tensor:
    """What the mask marks, as a vector: the features under it, its mean and its peak.

    Args:
        features: (B, C, H, W).
        mask: (B, 2, H, W) logits.

    Returns:
        (B, C + 2): features averaged with P(manipulated) as weight, the mean and the largest of
        P(manipulated) smoothed over 3x3 pixels.
    """
    probability = torch.softmax(mask.float(), dim=1)[:, 1:]  # (B, 1, H, W)
    weight = probability / (probability.sum(dim=(2, 3), keepdim=True) + 1.0)
    under = (features.float() * weight).sum(dim=(2, 3))
    peak = F.avg_pool2d(probability, 3, stride=1).amax(dim=(2, 3))
    return torch.cat([under, probability.mean(dim=(2, 3)), peak], dim=1).to(features.dtype)
