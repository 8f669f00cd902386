"""Networks for both tasks: one body, and a head that judges the crop, each pixel, or both.

"Zooming into Face Forensics" (arXiv 1912.05790) asks whether manipulation is better learned as
segmentation than as classification, by giving each architecture both tasks. Its list of
architectures is not known to us: these are common ones, from timm and segmentation_models.pytorch.

The two heads are the same linear map over the same features, applied before or after the mean over
the pixels. So both tasks have one parameter budget, to the parameter; and as heads are made last,
one seed gives every task the same body.

Weights are random unless `pretrained` is asked for: then timm (for SegFormer the other library)
fetches ImageNet's from its hub. Nothing measured in train/results/ used any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepscan.errors import ModelError, UsageError
from deepscan.models import MODELS, SMALL_RESNET
from deepscan.models.config import MSCCNetConfig
from deepscan.models.msccnet import CLASSES, MSCCNet
from deepscan.models.torchvision_compat import import_torchvision

Task = Literal["classify", "classify-encoder", "segment", "both"]
Head = Literal["fcn", "unet", "deeplabv3+", "segformer"]
TASKS: tuple[Task, ...] = get_args(Task)


class Outputs(NamedTuple):
    """Logits of the outputs of the task, class 1 manipulated: `image` (B, 2), `mask` (B, 2, h, w).

    `coarse` (B, 2, h, w) is MSCCNet's second map for the mask's loss.
    """

    image: Tensor | None
    mask: Tensor | None
    coarse: Tensor | None = None


class Body(Protocol):
    """Everything before the heads. `channels` counts those of the encoder's last map and those of
    the features."""

    channels: tuple[int, int]

    def encode(self, images: Tensor) -> list[Tensor]:
        """Normalised (B, 3, S, S) to maps, the last one the deepest."""
        ...

    def decode(self, maps: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The maps of `encode` to features (B, C, h, w), and a coarse map or None."""
        ...


@dataclass(frozen=True, slots=True)
class Architecture:
    """A head over an encoder: of timm, or for SegFormer of segmentation_models.pytorch.

    `output_stride` below 32 dilates the encoder's last stages, where it can be dilated. `width` is
    the channels of the features that the heads read, `maps` how many of the deepest maps an FCN
    joins, `arguments` further ones of timm's encoder under an FCN.
    """

    head: Head
    encoder: str
    output_stride: int = 32
    width: int = 128
    maps: int = 3
    arguments: Mapping[str, Any] = field(default_factory=dict)


ARCHITECTURES: dict[str, Architecture | MSCCNetConfig] = {
    "vgg16-fcn": Architecture("fcn", "vgg16_bn"),
    "resnet18-fcn": Architecture("fcn", "resnet18"),
    "resnet50-fcn": Architecture("fcn", "resnet50"),
    "resnet-s-fcn": Architecture("fcn", "resnet18", arguments=SMALL_RESNET),  # as in msccnet-s
    "deeplabv3+": Architecture("deeplabv3+", "resnet50", output_stride=16, width=256),
    "unet": Architecture("unet", "resnet18", width=16),
    "hrnet": Architecture("fcn", "hrnet_w18", maps=4),  # keeps its fine map: so does the head
    "xception": Architecture("fcn", "legacy_xception"),
    "mobilenetv3": Architecture("fcn", "mobilenetv3_large_100"),
    "mobilenetv3-small": Architecture("fcn", "mobilenetv3_small_100"),
    "efficientnet": Architecture("fcn", "efficientnet_b0"),
    "segformer": Architecture("segformer", "mit_b0", width=256),
    **MODELS,
}


class FCN(nn.Module):
    """The last maps of a timm encoder, each through a 1x1 convolution, summed at the finest.

    Long, Shelhamer and Darrell, "Fully convolutional networks" (CVPR 2015), with features of
    `width` channels in place of scores, so that either head can read them.
    """

    def __init__(self, architecture: Architecture, pretrained: bool) -> None:
        super().__init__()
        self.encoder = _timm(architecture, pretrained)
        sizes = self.encoder.feature_info.channels()[-architecture.maps :]
        self.reduce = nn.ModuleList(nn.Conv2d(size, architecture.width, 1) for size in sizes)
        self.finish = nn.Sequential(
            nn.BatchNorm2d(architecture.width), nn.ReLU(inplace=True), nn.Dropout2d(0.1)
        )
        self.channels = sizes[-1], architecture.width

    def encode(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.encoder(images)
        return maps

    def decode(self, maps: list[Tensor]) -> tuple[Tensor, None]:
        maps = maps[-len(self.reduce) :]
        finest = maps[0].shape[-2:]
        reduced = [layer(map_) for layer, map_ in zip(self.reduce, maps, strict=True)]
        return self.finish(sum(_scaled(map_, finest) for map_ in reduced)), None


class Library(nn.Module):
    """Encoder and decoder of a network of segmentation_models.pytorch."""

    def __init__(self, architecture: Architecture, pretrained: bool) -> None:
        super().__init__()
        network = _segmentation_model(architecture, pretrained)
        self.encoder, self.decoder = network.encoder, network.decoder
        features = network.segmentation_head[0].in_channels
        self.channels = self.encoder.out_channels[-1], features

    def encode(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.encoder(images)
        return maps

    def decode(self, maps: list[Tensor]) -> tuple[Tensor, None]:
        return self.decoder(maps), None


class MSCCBody(nn.Module):
    """MSCCNet up to its last convolution; its own image branch is left to `FullNetwork`."""

    def __init__(self, network: MSCCNet) -> None:
        super().__init__()
        self.backbone, self.mfa, self.mscc = network.backbone, network.mfa, network.mscc
        self.decoder = network.decoder[:-1]
        stages: Any = network.backbone  # timm's, which knows the channels of its maps
        self.channels = stages.feature_info.channels()[-1], network.config.channels

    def encode(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.backbone(images)
        return maps

    def decode(self, maps: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        features = self.mfa(maps)
        refined, coarse = (features, None) if self.mscc is None else self.mscc(features)
        return self.decoder(refined), coarse


class TwoHeadNetwork(nn.Module):
    """A body with a head for the crop, for the pixels, or both.

    "classify-encoder" is the ordinary classifier: it pools the encoder's last map and has no
    decoder, hence fewer parameters than its partners.
    """

    def __init__(self, body: Body, task: Task) -> None:
        super().__init__()
        assert isinstance(body, nn.Module)
        self.task = task
        self.body = body
        deepest, width = body.channels
        self.pixel = nn.Conv2d(width, CLASSES, 1) if task in ("segment", "both") else None
        pooled = deepest if task == "classify-encoder" else width
        self.image = nn.Linear(pooled, CLASSES) if task != "segment" else None
        if task == "classify-encoder":
            for part in ("reduce", "finish", "decoder", "mfa", "mscc"):
                if hasattr(body, part):
                    delattr(body, part)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The map that the heads read, (B, C, h, w), and the coarse map."""
        maps = self.body.encode(images)
        if self.task == "classify-encoder":
            return maps[-1], None
        features, coarse = self.body.decode(maps)
        return features, coarse

    def forward(self, images: Tensor) -> Outputs:
        """Judge normalised (B, 3, S, S) crops."""
        features, coarse = self.features(images)
        return Outputs(
            None if self.image is None else self.image(features.mean(dim=(2, 3))),
            None if self.pixel is None else self.pixel(features),
            None if self.pixel is None else coarse,
        )


class FullNetwork(nn.Module):
    """MSCCNet as it is specified: both tasks, its own image branch."""

    def __init__(self, network: MSCCNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(*self.network(images))


def build(
    architecture: str,
    task: Task,
    *,
    size: int,
    changes: Mapping[str, Any] | None = None,
    pretrained: bool = False,
) -> TwoHeadNetwork | FullNetwork:
    """A network that gives an `Outputs`, in training mode.

    Args:
        architecture: a name of `ARCHITECTURES`.
        task: "classify" pools the features, "classify-encoder" the encoder's last map (the ordinary
            classifier), "segment" judges pixels, "both" does both.
        size: side of the crops in pixels; MSCCNet is built for it, the others take any that their
            strides divide.
        changes: fields of the `Architecture` or `MSCCNetConfig` to set.
        pretrained: fetch ImageNet weights of the encoder.

    Raises:
        UsageError: no such architecture, task or field.
        ModelError: the parts do not fit, or the weights are not to be had.
    """
    if architecture not in ARCHITECTURES:
        raise UsageError(f"no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    if task not in TASKS:
        raise UsageError(f"no task {task!r}; there are {', '.join(TASKS)}")
    plan = _changed(architecture, ARCHITECTURES[architecture], changes or {})
    if isinstance(plan, MSCCNetConfig):
        network = MSCCNet(replace(plan, input_size=size))
        if pretrained:
            network.backbone.load_state_dict(_pretrained_stages(network.config))
        return FullNetwork(network) if task == "both" else TwoHeadNetwork(MSCCBody(network), task)
    body = FCN(plan, pretrained) if plan.head == "fcn" else Library(plan, pretrained)
    return TwoHeadNetwork(body, task)


def parameters(network: nn.Module) -> int:
    """Count the numbers that training can change."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def macs(network: nn.Module, size: int) -> int:
    """Multiplications with addition of one crop's forward pass: convolutions and products."""
    from torch.utils.flop_counter import FlopCounterMode

    mode = network.training
    network.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    network.train(mode)
    return counter.get_total_flops() // 2


def _changed(
    name: str, plan: Architecture | MSCCNetConfig, changes: Mapping[str, Any]
) -> Architecture | MSCCNetConfig:
    known = [part.name for part in fields(plan)]
    unknown = [key for key in changes if key not in known]
    if unknown:
        raise UsageError(f"{name} has no {unknown[0]!r} to change; it has {', '.join(known)}")
    return replace(plan, **changes)


def _timm(architecture: Architecture, pretrained: bool) -> Any:
    import_torchvision()
    import timm

    # Some encoders know no dilation and refuse the very argument.
    stride = architecture.output_stride
    options = dict(architecture.arguments)
    if stride != 32:
        options["output_stride"] = stride
    try:
        return timm.create_model(
            architecture.encoder, pretrained=pretrained, features_only=True, **options
        )
    except Exception as error:  # timm raises many kinds for an unknown name or argument
        raise ModelError(f"encoder {architecture.encoder!r} cannot be built: {error}") from error


def _segmentation_model(architecture: Architecture, pretrained: bool) -> Any:
    import_torchvision()
    import segmentation_models_pytorch as library

    name, width = architecture.encoder, architecture.width
    options: dict[str, Any] = {"encoder_weights": "imagenet" if pretrained else None}
    if architecture.head != "segformer":  # its encoders are the library's own, all others timm's
        name, options["encoder_weights"] = f"tu-{name}", True if pretrained else None
    try:
        if architecture.head == "unet":
            widths = [width * 2**level for level in (4, 3, 2, 1, 0)]
            return library.Unet(name, decoder_channels=widths, classes=CLASSES, **options)
        if architecture.head == "deeplabv3+":
            return library.DeepLabV3Plus(
                name,
                encoder_output_stride=architecture.output_stride,
                decoder_channels=width,
                classes=CLASSES,
                **options,
            )
        if architecture.head == "segformer":
            return library.Segformer(
                name, decoder_segmentation_channels=width, classes=CLASSES, **options
            )
    except Exception as error:  # as above
        raise ModelError(f"{architecture} cannot be built: {error}") from error
    raise UsageError(f"no head {architecture.head!r}; there are {', '.join(get_args(Head))}")


def _pretrained_stages(config: MSCCNetConfig) -> dict[str, Tensor]:
    """The state of MSCCNet's backbone with ImageNet weights."""
    import_torchvision()
    import timm

    try:
        module = timm.create_model(
            config.backbone,
            pretrained=True,
            features_only=True,
            output_stride=config.output_stride,
            out_indices=(2, 3, 4),
            **dict(config.backbone_arguments),
        )
    except Exception as error:  # as above
        raise ModelError(f"no pretrained {config.backbone!r} is to be had: {error}") from error
    state: dict[str, Tensor] = module.state_dict()
    return state


def _scaled(map_: Tensor, size: torch.Size) -> Tensor:
    if map_.shape[-2:] == size:
        return map_
    return F.interpolate(map_, size, mode="bilinear", align_corners=False)
