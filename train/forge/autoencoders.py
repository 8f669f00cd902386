"""Small autoencoders that redraw faces as face-swap programs and generators do.

Three families, all learned from pictures of real people only:

- "swap": one encoder, a narrow code, and a decoder for each of several random groups of people.
  The encoder sees bent faces, the decoders must give them straight. A face that goes in and comes
  out by another group's decoder has that group's skin and detail: the way of the swap programs.
- "vae": a narrow code with a Kullback-Leibler term; smooth faces, as variational programs give.
- "own": a wider code, which gives the face itself back with fine detail that a network made; as
  the autoencoders around today's generators do.

All codes keep a place for every 8 x 8 pixels, so that a part of a face teaches as much as the
whole: a few minutes of one core are enough.

Decoders differ in what leaves its traces: how they enlarge, their size, and whether an adversary
taught them texture. `python -m train.forge.autoencoders --data FACES --out FOLDER --minutes M`
trains them or resumes at FOLDER/decoders.pt; step i sees the same faces whenever it
runs. `train.forge.build_pack` then decodes everybody once, so that forging needs no network.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deepscan.errors import UsageError
from deepscan.files import atomic_output
from train.command import Faces, Threads, exit_on_error, use_threads
from train.forge.align import align
from train.forge.faces import Person, read_faces

Pictures = NDArray[np.uint8]  # (n, S, S, 3) RGB

STORED = 160  # pixels of the aligned faces kept in memory
_STRIDE = 8  # pixels of a picture along each side of a place of the code
_CHANNELS = {"swap": 6, "vae": 8, "own": 12}  # of the code
_SAVE_EVERY = 30.0  # seconds
_ADVERSARY_FROM = 100  # rounds that decoders learn before its adversary joins in
_PATCH = 64


@dataclass(frozen=True, slots=True)
class Design:
    """One decoder: its family, how it enlarges, its size in pixels, and whether it is adversarial.

    `size` is a multiple of 8.
    """

    family: str
    upsampler: str
    size: int
    adversarial: bool = False

    @property
    def name(self) -> str:
        return f"{self.family}-{'gan' if self.adversarial else 'l1'}"


DESIGNS = (
    Design("swap", "nearest", 64),
    Design("swap", "transposed", 96),
    Design("swap", "shuffle", 128, adversarial=True),
    Design("swap", "bilinear", 160),
    Design("own", "shuffle", 64),
    Design("own", "transposed", 96),
    Design("own", "nearest", 160, adversarial=True),
    Design("own", "bilinear", 48),
    Design("vae", "bilinear", 64),
    Design("own", "transposed", 160, adversarial=True),
    Design("own", "shuffle", 160, adversarial=True),
    Design("own", "bilinear", 160),
)


def _act() -> nn.Module:
    return nn.LeakyReLU(0.1)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            _act(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            _act(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _enlarge(kind: str, channels: int, out: int) -> list[nn.Module]:
    """Twice the side, by the ways that decoders in use have."""
    if kind == "transposed":
        return [nn.ConvTranspose2d(channels, out, 3, 2, 1, output_padding=1)]
    if kind == "shuffle":
        return [nn.Conv2d(channels, 4 * out, 3, padding=1), nn.PixelShuffle(2)]
    return [
        nn.Upsample(scale_factor=2, mode=kind),
        nn.Conv2d(channels, out, 3, padding=1),
    ]


class Encoder(nn.Module):
    """Pictures (n, 3, S, S) in [-1, 1] to a code (n, 2 C, S / 8, S / 8).

    The second half of its channels is the logarithm of the variance, used by the family "vae".
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (3, 24, 48, 96)
        layers: list[nn.Module] = []
        for one, two in pairwise(widths):
            layers += [nn.Conv2d(one, two, 4, 2, 1), _act()]
        layers += [_Residual(widths[-1]), nn.Conv2d(widths[-1], 2 * channels, 1)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class Decoder(nn.Module):
    """A code (n, C, s, s) to pictures (n, 3, 8 s, 8 s), about [-1, 1]."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        widths = (96, 64, 40, 24)
        layers: list[nn.Module] = [
            nn.Conv2d(_CHANNELS[design.family], widths[0], 3, padding=1), _Residual(widths[0])
        ]  # fmt: skip
        for one, two in pairwise(widths):
            layers += [*_enlarge(design.upsampler, one, two), _act()]
        self.body = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 3, padding=1))

    def forward(self, code: Tensor) -> Tensor:
        out: Tensor = self.body(code)
        return out


class Critic(nn.Module):
    """Says for each patch how real it looks; its features measure likeness, too."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, two, 4, 2, 1), _act()) for one, two in pairwise(widths)
        )
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for step in self.steps:
            x = step(x)
            features.append(x)
        return self.last(x), features


class Decoders(nn.Module):
    """All encoders, decoders and adversaries of a list of designs."""

    def __init__(self, designs: Sequence[Design] = DESIGNS) -> None:
        super().__init__()
        self.designs = tuple(designs)
        families = sorted({design.family for design in designs})
        self.encoders = nn.ModuleDict({name: Encoder(_CHANNELS[name]) for name in families})
        self.decoders = nn.ModuleList(Decoder(design) for design in designs)
        self.critics = nn.ModuleDict(
            {str(i): Critic() for i, design in enumerate(designs) if design.adversarial}
        )

    def decode(self, which: int, pictures: Pictures) -> Pictures:
        """Aligned faces (n, S, S, 3) uint8 through one decoder: (n, size, size, 3) uint8."""
        design = self.designs[which]
        with torch.inference_mode():
            given = _tensor([_resized(picture, design.size) for picture in pictures])
            code = self.encoders[design.family](given)
            out = self.decoders[which](code[:, : _CHANNELS[design.family]])
        pixels = (out.float().clamp(-1, 1) + 1) * 127.5
        made: Pictures = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return made


def _tensor(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    values = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return values.contiguous(memory_format=torch.channels_last)


def _resized(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if picture.shape[0] == side:
        return picture
    out: NDArray[np.uint8] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return out


def aligned_faces(people: Sequence[Person], side: int = STORED) -> Pictures:
    """Everybody's face in the common place: (n, side, side, 3)."""
    return np.stack(
        [
            cv2.warpAffine(
                person.face.image, align(person.face.landmarks, side), (side, side),
                flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT,
            )
            for person in people
        ]
    )  # fmt: skip


def _moved(picture: NDArray[np.uint8], side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A little turned, scaled, shifted and recoloured, at its working size."""
    stored = picture.shape[0]
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    turn = cv2.getRotationMatrix2D(
        (stored / 2, stored / 2), rng.uniform(-9, 9), rng.uniform(0.94, 1.06)
    )
    turn[:, 2] += rng.uniform(-0.04, 0.04, 2) * stored
    out = cv2.warpAffine(
        np.ascontiguousarray(picture), turn, (stored, stored), borderMode=cv2.BORDER_REFLECT
    )
    out = _resized(out, side)
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, 3)
    return np.clip(out * gain + rng.uniform(-12, 12), 0, 255).astype(np.uint8)


def _bent(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Bent by a random 5 x 5 grid: what the encoder sees where the decoder must give it straight.

    Programs for swaps train so, because it keeps the code from holding the picture as it is.
    """
    side = picture.shape[0]
    grid = np.linspace(0, side - 1, 5, dtype=np.float32)
    maps = [
        cv2.resize(
            axis + rng.normal(0, 0.012 * side, axis.shape).astype(np.float32), (side, side),
            interpolation=cv2.INTER_CUBIC,
        )
        for axis in np.meshgrid(grid, grid)
    ]  # fmt: skip
    out: NDArray[np.uint8] = cv2.remap(
        picture, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return out


def batch(
    faces: Pictures, design: Design, group: NDArray[np.int64], size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Inputs and targets: parts of faces (n, 3, s, s) in [-1, 1] each."""
    given, wanted = [], []
    side = min(_PATCH, design.size)
    for index in group[rng.integers(len(group), size=size)]:
        target = _moved(faces[index], design.size, rng)
        seen = _bent(target, rng) if design.family == "swap" else target
        x, y = rng.integers(0, (design.size - side) // _STRIDE + 1, 2) * _STRIDE
        given.append(seen[y : y + side, x : x + side])
        wanted.append(target[y : y + side, x : x + side])
    return _tensor(given), _tensor(wanted)


def likeness(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of pixels and of gradients at three scales.

    Coarse scales bring a face up quickly; gradients alone would be happiest with a flat picture.
    """
    difference = made - wanted
    total = difference.abs().mean()
    for scale in range(3):
        if scale:
            difference = functional.avg_pool2d(difference, 2)
            total = total + difference.abs().mean()
        for axis in (2, 3):
            total = total + 0.3 * difference.diff(dim=axis).abs().mean()
    return total


def groups_of(designs: Sequence[Design], people: int, seed: int) -> list[NDArray[np.int64]]:
    """The people of each decoder: a random group of its own in the family "swap", else all."""
    swaps = [i for i, design in enumerate(designs) if design.family == "swap"]
    drawn = np.random.default_rng(seed).integers(max(1, len(swaps)), size=people)
    everybody = np.arange(people)
    groups = [
        np.flatnonzero(drawn == swaps.index(i)) if i in swaps else everybody
        for i in range(len(designs))
    ]
    # Of few people a group may be empty.
    return [group if len(group) else everybody for group in groups]


class Learner:
    """The networks with their optimisers; one step teaches one decoder."""

    def __init__(
        self, faces: Pictures, seed: int, designs: Sequence[Design] = DESIGNS, size: int = 16
    ) -> None:
        torch.manual_seed(seed)
        self.networks = Decoders(designs).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.faces, self.seed, self.size = faces, seed, size
        self.step = 0
        self.parameters = [
            *self.networks.encoders.parameters(),
            *self.networks.decoders.parameters(),
        ]
        self.optimiser = torch.optim.Adam(self.parameters, 1e-3, betas=(0.7, 0.99))
        critics = list(self.networks.critics.parameters()) or [nn.Parameter(torch.zeros(1))]
        self.critic_optimiser = torch.optim.Adam(critics, 5e-4, betas=(0.5, 0.99))
        self.groups = groups_of(designs, len(faces), seed)

    def learn(self) -> tuple[int, float]:
        """One step; returns which decoder learned and its loss of likeness."""
        designs = self.networks.designs
        which = self.step % len(designs)
        design = designs[which]
        rng = np.random.default_rng([self.seed, self.step])
        given, wanted = batch(self.faces, design, self.groups[which], self.size, rng)
        torch.manual_seed(int(rng.integers(2**31)))
        rate = 1e-3 / (1 + self.step / 3000) ** 0.5
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            code = self.networks.encoders[design.family](given)
            extra: Tensor | float = 0.0
            code, spread = code.chunk(2, dim=1)
            if design.family == "vae":
                mean, log_variance = code.float(), spread.float().clamp(-10, 4)
                code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
                extra = 2e-3 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
            made = self.networks.decoders[which](code).float()
        loss = likeness(made, wanted)
        total = loss + extra
        if design.adversarial and self.step // len(designs) >= _ADVERSARY_FROM:
            total = total + self._persuade(str(which), made, wanted)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        return which, float(loss.detach())

    def _persuade(self, which: str, made: Tensor, wanted: Tensor) -> Tensor:
        """Teach the critic one step, then say how far the pictures are from persuading it."""
        critic = self.networks.critics[which]
        with torch.autocast("cpu", torch.bfloat16):
            real, _ = critic(wanted)
            fake, _ = critic(made.detach())
        judged = (functional.relu(1 - real) + functional.relu(1 + fake)).float().mean()
        self.critic_optimiser.zero_grad(set_to_none=True)
        judged.backward()  # type: ignore[no-untyped-call]
        self.critic_optimiser.step()
        critic.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            fake, seen = critic(made)
            _, looked = critic(wanted)
        critic.requires_grad_(True)
        alike = sum(
            (functional.l1_loss(a.float(), b.float()) for a, b in zip(seen, looked, strict=True)),
            made.new_zeros(()),
        )
        return 0.3 * alike - 0.03 * fake.float().mean()

    def save(self, path: Path) -> None:
        state = {
            "networks": self.networks.state_dict(),
            "makers": self.optimiser.state_dict(),
            "judges": self.critic_optimiser.state_dict(),
            "step": self.step,
            "seed": self.seed,
        }
        with atomic_output(path) as part:
            torch.save(state, part)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            UsageError: it cannot be read, or has another seed or other designs.
        """
        saved = _load(path)
        if saved.get("seed") != self.seed:
            raise UsageError(f"{path} was made with seed {saved.get('seed')}, not {self.seed}")
        try:
            self.networks.load_state_dict(saved["networks"])
            self.optimiser.load_state_dict(saved["makers"])
            self.critic_optimiser.load_state_dict(saved["judges"])
            self.step = int(saved["step"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UsageError(f"{path} holds other decoders: take another folder") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UsageError(f"{path} cannot be read as decoders: {error}") from error
    return saved


def load_decoders(path: Path, designs: Sequence[Design] = DESIGNS) -> Decoders:
    """Trained networks from a file decoders.pt.

    Raises:
        UsageError: the file cannot be read or holds other decoders.
    """
    networks = Decoders(designs)
    try:
        networks.load_state_dict(_load(path)["networks"])
    except (RuntimeError, KeyError) as error:
        raise UsageError(f"{path} holds other decoders") from error
    return networks.eval()


def train(learner: Learner, out: Path, seconds: float) -> Iterator[tuple[int, list[float]]]:
    """Learn for so long, saving now and then; yields (step, mean loss per decoder) at each save."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "decoders.pt"
    if path.is_file():
        learner.restore(path)
    started = saved = time.monotonic()
    losses: list[list[float]] = [[] for _ in learner.networks.designs]
    while True:
        which, loss = learner.learn()
        losses[which].append(loss)
        now = time.monotonic()
        if now - saved > _SAVE_EVERY or now - started > seconds:
            learner.save(path)
            yield learner.step, [float(np.mean(some or [np.nan])) for some in losses]
            losses = [[] for _ in losses]
            saved = now
        if now - started > seconds:
            return


def main(
    data: Faces,
    out: Annotated[Path, typer.Option(help="Folder for decoders.pt.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Minutes of training.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Random seed of the first weights and all draws.")] = 1,
    threads: Threads = 1,
) -> None:
    """Train the decoders on the people of the split "train"."""
    use_threads(threads)
    with exit_on_error("autoencoders"):
        learner = Learner(aligned_faces(read_faces(data, "train")), seed)
        for step, losses in train(learner, out, 60 * minutes):
            each = ", ".join(
                f"{design.name} {design.upsampler} {design.size}: {loss:.3f}"
                for design, loss in zip(DESIGNS, losses, strict=True)
            )
            typer.echo(f"step {step}: {each}")


if __name__ == "__main__":
    typer.run(main)
