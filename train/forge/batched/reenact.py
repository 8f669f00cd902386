"""Re-enactment of a batch: the same faces with other expressions.

The mean face is laid on the landmarks, its points are moved as muscles would move them, and a
thin-plate spline takes the picture along. What a mouth uncovers is painted, lids are drawn down
from the skin above them. Then the moved part, or the whole inner face as a network redraws it,
loses some of its detail and is blended back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from train.forge import shape
from train.forge.batched.blend import compose
from train.forge.batched.faces import (
    Faces,
    Made,
    affinity,
    apply,
    blur,
    normal,
    per_picture,
    pixels,
    random_masks,
    sample,
    similarity,
    uniform,
)
from train.forge.batched.redraw import decoded_like
from train.forge.batched.warps import displacements, spline

# Points of the mean face that steer the spline; the lips' inner line besides `shape.MOUTH`.
_UPPER_SEAM, _LOWER_SEAM = (94, 95, 96, 97, 98), (99, 100, 101, 102, 103)
_SEAM = _UPPER_SEAM + _LOWER_SEAM
_AROUND_MOUTH = (160, 163, 171, 173, 174, 175, 176, 177, 178, 158, 159, 161, 162)
_LEFT_IRIS, _RIGHT_IRIS = (2, 4, 6, 8), (10, 12, 14, 16)
_CHEEKS = (164, 165, 166, 167, 168, 169)
_EYES = (shape.LEFT_EYE + _LEFT_IRIS, shape.RIGHT_EYE + _RIGHT_IRIS)
_BROWS = (shape.LEFT_BROW, shape.RIGHT_BROW)
_NOSE = (*shape.NOSE, 171, 173)
_LIPS = shape.MOUTH + _SEAM
_STEERING = (
    shape.MOUTH + _SEAM + _AROUND_MOUTH + _CHEEKS + _EYES[0] + _EYES[1] + _BROWS[0] + _BROWS[1]
    + shape.NOSE + shape.JAW + shape.FOREHEAD
)  # fmt: skip
_PLACE = {point: row for row, point in enumerate(_STEERING)}

# How far points below the lips follow the lower lip; the chin's share is drawn.
_FOLLOW = {160: 0.25, 163: 0.25, 176: 0.8, 177: 0.85, 178: 0.8, 174: 0.6, 175: 0.45}
_CHIN = {126: 0.3, 127: 0.75, 128: 0.95, 129: 1.0, 130: 0.95, 131: 0.75, 132: 0.3}
_SHARES = {"mouth": 0.5, "smile": 0.35, "lids": 0.3, "brows": 0.2, "gaze": 0.2, "nose": 0.12}
_REDRAWN = ("inner face", "face", "features", "lower face")
_STIFFNESS = 1e-4
# The head as an ellipse: half its axes, and how far below the eyes its middle lies, in units.
_HALF, _MIDDLE = (1.25, 1.6), 0.45
_CALM = 0.82  # width of a mouth that does not smile, in units


def reenact(faces: Faces, generator: torch.Generator, *, others: Faces | None = None) -> Made:
    """Give each face another expression.

    Args:
        faces: at least one.
        generator: on the device of the tensors.
        others: not needed.
    """
    count, sides = len(faces), faces.sides
    height, width = faces.images.shape[-2:]
    acts = _acts(generator, count)
    face = _Placed.on(faces)
    mouth = _Mouth.drawn(face, acts["mouth"], acts["smile"], generator)
    points, moved = face.points.clone(), face.points.clone()
    mouth.move(points, moved, face, generator)
    _move_brows(moved, face, acts["brows"], generator)
    _move_gaze(moved, face, acts["gaze"], generator)
    _move_nose(moved, face, acts["nose"], generator)
    ring = _ring(face)
    curve = spline(torch.cat([moved, ring], 1), torch.cat([points, ring], 1), _STIFFNESS)
    step = max(2, min(4, min(height, width) // 56))
    grid = pixels(height, width, faces.images.device)
    field = displacements(curve, height, width, step) * _near(face, grid)[..., None]
    lids, lash = _lids(face, grid + field, acts["lids"], generator)
    field = field + lids
    source = sample(faces.images, grid + field)
    lash_colour = 0.35 * _colour_near(faces.images, face.eyes - 0.2 * face.down[:, None], face.unit)
    for eye in range(2):
        source = source + (lash_colour[:, eye, :, None, None] - source) * lash[:, eye : eye + 1]
    skin = _colour_near(faces.images, face.corners.mean(1, keepdim=True), face.unit)[:, 0]
    inside, cover = mouth.paint(grid, face, skin, generator)
    source = source + (inside - source) * cover
    changed = _changed(field, torch.maximum(cover, lash.amax(1, keepdim=True)), face.unit)
    soft = _feather(changed, uniform(generator, count, 0.008, 0.03) * sides)
    # A network draws the whole inner face anew, what it moves and what it does not.
    whole = uniform(generator, count) < 0.45
    regions = random_masks(generator, faces.landmarks, sides, height, width, _REDRAWN)
    masks = torch.where(per_picture(whole), torch.maximum(soft, regions), soft)
    redrawn = whole | (uniform(generator, count) < 0.6)
    strength = uniform(generator, count, 0.15, 0.7)
    source = torch.where(
        per_picture(redrawn), decoded_like(source, faces.sides, generator, strength), source
    )
    # What was made elsewhere seldom has the same white.
    shift = normal(generator, count, 3, 1, 1) * 0.012
    shift = shift * per_picture(uniform(generator, count) < 0.3)
    source = (source + shift).clamp(0, 1)
    made = compose(source, faces.images, masks, generator, (0.6, 0.25, 0.15))
    return Made(made, faces.images, masks)


def _acts(generator: torch.Generator, count: int) -> dict[str, Tensor]:
    """What each face does, (B,) bool each: at least one of mouth, smile and lids, or others."""
    drawn = {name: uniform(generator, count) < share for name, share in _SHARES.items()}
    none = ~torch.stack([drawn[name] for name in ("mouth", "smile", "lids", "brows")]).any(0)
    instead = uniform(generator, count, 0, 3)
    for place, name in enumerate(("mouth", "smile", "lids")):
        drawn[name] = drawn[name] | (none & (instead >= place) & (instead < place + 1))
    return drawn


@cache
def _mean_face(device: torch.device) -> tuple[Tensor, Tensor]:
    points, five = (torch.from_numpy(part).float().to(device) for part in shape.mean_face())
    return points, five


@dataclass(frozen=True, slots=True)
class _Placed:
    """Mean faces laid on a batch: the steering points (B, n, 2) and the faces' own axes.

    `along` and `down` (B, 2) are vectors of the length of the distance of the eyes, from eye to
    eye and towards the chin; `unit` (B,) that distance in pixels.
    """

    points: Tensor
    eyes: Tensor
    corners: Tensor
    along: Tensor
    down: Tensor
    unit: Tensor

    @classmethod
    def on(cls, faces: Faces) -> _Placed:
        marks = faces.landmarks
        points, five = _mean_face(marks.device)
        count = len(marks)
        laid = affinity(five.expand(count, -1, -1), marks)
        placed = apply(laid, points.expand(count, -1, -1))
        # The affine map meets the five landmarks only nearly: each part is put on its own.
        left = marks - apply(laid, five.expand(count, -1, -1))
        for eye, group in enumerate(_EYES):
            placed[:, group] += left[:, eye : eye + 1]
            placed[:, _BROWS[eye]] += left[:, eye : eye + 1]
        placed[:, _NOSE] += left[:, 2:3]
        lips = list(_LIPS + _AROUND_MOUTH)
        placed[:, lips] = apply(similarity(placed[:, [87, 93]], marks[:, 3:]), placed[:, lips])
        along = marks[:, 1] - marks[:, 0]
        unit = along.norm(dim=1)
        along = along / unit.clamp(min=1e-6)[:, None]
        down = torch.stack([-along[:, 1], along[:, 0]], 1)
        below = ((marks[:, 3:].mean(1) - marks[:, :2].mean(1)) * down).sum(1)
        down = torch.where((below < 0)[:, None], -down, down)
        unit = unit.clamp(min=2.0)
        along, down = along * unit[:, None], down * unit[:, None]
        return cls(placed[:, _STEERING], marks[:, :2], marks[:, 3:], along, down, unit)

    def moves(self, along: Tensor, down: Tensor) -> Tensor:
        """Vectors in pixels, (B, n, 2), of so many units each way, (B, n)."""
        return along[..., None] * self.along[:, None] + down[..., None] * self.down[:, None]

    def local(self, places: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Units along and down from a centre (B, 2): places (B, ..., 2) give (B, ...) each."""
        spread = (len(centre),) + (1,) * (places.ndim - 2) + (2,)
        away = places - centre.reshape(spread)
        square = self.unit.square().reshape(spread[:-1])
        return (
            (away * self.along.reshape(spread)).sum(-1) / square,
            (away * self.down.reshape(spread)).sum(-1) / square,
        )


def _rows(points: tuple[int, ...]) -> list[int]:
    return [_PLACE[point] for point in points]


@dataclass(frozen=True, slots=True)
class _Mouth:
    """What the mouths of a batch do, all (B,) in units of the distance of the eyes but as said.

    `upper` and `lower` is how far the lips part, `power` the shape of the opening, `squeeze` the
    share by which lips are pressed together, `sag` how far the middle of the lips' line lies below
    their corners, `apart` how far the lips are from it before; `corners` (B, 2, 2) are where these
    go, pixels.
    """

    upper: Tensor
    lower: Tensor
    power: Tensor
    squeeze: Tensor
    sag: Tensor
    apart: Tensor
    corners: Tensor

    @classmethod
    def drawn(
        cls, face: _Placed, opened: Tensor, smile: Tensor, generator: torch.Generator
    ) -> _Mouth:
        count = len(face.unit)
        pressed = uniform(generator, count) < 0.25
        gap = uniform(generator, count, 0.06, 0.28) * (opened & ~pressed)
        squeeze = uniform(generator, count, 0.15, 0.45) * (opened & pressed)
        lift = uniform(generator, count, -0.09, 0.13)
        lift = lift + 0.03 * torch.where(lift > 0, 1.0, -1.0)
        spread = uniform(generator, count, -0.06, 0.11)
        # Half of a mouth smiles at times: 0 none, 1 left, 2 right.
        side = uniform(generator, count)
        shares = torch.stack([(side > 0.15).float(), (side <= 0.15) | (side > 0.3)], 1)
        shares = shares * smile[:, None]
        way = torch.tensor([-1.0, 1.0], device=shares.device)
        # An opening mouth takes its corners along a little, inwards and down.
        u = spread[:, None] * shares * way - 0.1 * gap[:, None] * way
        v = -lift[:, None] * shares + 0.08 * gap[:, None]
        power = uniform(generator, count, 0.6, 1.0)
        # Five points do not tell a smile, but its width does: its teeth lie below the corners.
        wide = (face.corners[:, 1] - face.corners[:, 0]).norm(dim=1) / face.unit
        wide = (wide - _CALM).clamp(0, 0.25)
        sag = uniform(generator, count, -0.03, 0.05) + 0.4 * wide
        corners = face.corners + face.moves(u, v)
        return cls(0.2 * gap, 0.8 * gap, power, squeeze, sag, 0.3 * wide, corners)

    def line(self, face: _Placed) -> tuple[Tensor, Tensor, Tensor]:
        """Where the lips meet: middle and half of the vector between the corners (B, 2), and sag.

        The middle of the lips stays while the corners move, so the line bends.
        """
        middle, half = self.corners.mean(1), (self.corners[:, 1] - self.corners[:, 0]) / 2
        stay = ((face.corners.mean(1) - middle) * face.down).sum(1) / face.unit.square()
        return middle, half, self.sag + 0.8 * stay

    def move(
        self, points: Tensor, moved: Tensor, face: _Placed, generator: torch.Generator
    ) -> None:
        """Move the points of and around the mouth, and lay those between the lips first."""
        count = len(moved)
        start = face.corners.mean(1)
        half = face.corners[:, 1] - start
        half_units = (half.norm(dim=1) / face.unit).clamp(min=0.1)[:, None]
        reach = uniform(generator, count, 0.14, 0.22)[:, None]
        for side in range(2):
            u, v = face.local(face.points, face.corners[:, side])
            near = torch.exp(-(u.square() + v.square()) / (2 * reach.square()))
            near[:, _rows(shape.JAW + shape.FOREHEAD)] = 0
            moved += near[..., None] * (self.corners - face.corners)[:, side, None]
        lips = _rows(shape.MOUTH)
        u, v = face.local(face.points[:, lips], start)
        share = (1 - (u / half_units).square()).clamp(0, 1)
        v = v - self.sag[:, None] * share
        upper = v < 0
        profile = share ** self.power[:, None]
        part = torch.where(upper, -self.upper[:, None], self.lower[:, None]) * profile
        part = part + v * (1 / (1 + self.squeeze[:, None]) - 1) * share
        moved[:, lips] += face.moves(torch.zeros_like(part), part)
        chin = uniform(generator, count, 0.0, 0.5)
        for follow, strength in ((_FOLLOW, self.lower), (_CHIN, self.lower * chin)):
            rows = _rows(tuple(follow))
            down = strength[:, None] * torch.tensor(list(follow.values()), device=moved.device)
            moved[:, rows] += face.moves(torch.zeros_like(down), down)
        # The inner lips lie on their line before and leave it to both sides.
        middle, half_to, sag = self.line(face)
        for seam, way, opening in ((_UPPER_SEAM, -1, self.upper), (_LOWER_SEAM, 1, self.lower)):
            rows = _rows(seam)
            across = torch.linspace(-0.62, 0.62, len(seam), device=moved.device).expand(count, -1)
            share = 1 - across.square()
            none = torch.zeros_like(across)
            points[:, rows] = (
                start[:, None] + across[..., None] * half[:, None]
                + face.moves(none, (self.sag + way * self.apart)[:, None] * share)
            )  # fmt: skip
            down = (sag + way * self.apart)[:, None] * share
            down = down + way * opening[:, None] * share ** self.power[:, None]
            moved[:, rows] = (
                middle[:, None] + across[..., None] * half_to[:, None] + face.moves(none, down)
            )

    def paint(
        self, grid: Tensor, face: _Placed, skin: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The inside of the mouths, (B, 3, H, W), and where it is seen, (B, 1, H, W)."""
        count = len(skin)
        middle, half, sag = (part[:, None, None] for part in self.line(face))
        away = grid - middle
        across = (away * half).sum(-1) / half.square().sum(-1).clamp(min=1e-6)
        # Down is across the line of the corners, which may be tilted against that of the eyes.
        level = away - across[..., None] * half
        v = (level * face.down[:, None, None]).sum(-1) / face.unit.square()[:, None, None]
        share = (1 - across.square()).clamp(0, 1)
        profile = share ** self.power[:, None, None]
        v = v - sag * share
        was = (self.apart * (self.lower > 0))[:, None, None] * share
        upper, lower = (part[:, None, None] * profile + was for part in (self.upper, self.lower))
        step = 0.035  # softness of edges, units
        cover = ((lower - v) / step + 0.5).clamp(0, 1) * ((v + upper) / step + 0.5).clamp(0, 1)
        cover = cover * (profile > 0.02) * ((upper + lower) / step).clamp(0, 1)

        def colours(values: tuple[float, float, float], gain: Tensor) -> Tensor:
            return (skin.new_tensor(values) * gain[:, None])[..., None, None]

        dark = skin[..., None, None] * colours((0.30, 0.18, 0.16), uniform(generator, count, 0.4,
                                                                           1.2))  # fmt: skip
        bright = (skin.mean(1) * uniform(generator, count, 1.0, 1.35)).clamp(max=0.92)
        edge = uniform(generator, count, 0.25, 0.6)[:, None, None] * (upper + lower) - upper
        units = across * (half.norm(dim=-1) / face.unit[:, None, None])
        gaps = 1 - 0.25 * ((torch.pi / 0.085 * units).sin().abs() < 0.2).float()
        shade = (gaps * (1 - 0.35 * across.square()))[:, None]
        teeth = ((edge - v) / step + 0.5).clamp(0, 1)[:, None]
        teeth = teeth * per_picture(uniform(generator, count) < 0.6)
        tooth = colours((1.0, 0.95, 0.86), bright) * shade
        colour = dark + (tooth - dark) * teeth
        tongue = ((v - 0.35 * lower) / 0.06).clamp(0, 1)[:, None] * 0.7
        tongue = tongue * per_picture(uniform(generator, count) < 0.35)
        red = skin[..., None, None] * colours((0.75, 0.5, 0.5), torch.ones_like(bright))
        return (colour + (red - colour) * tongue).clamp(0, 1), cover[:, None]


def _move_brows(moved: Tensor, face: _Placed, act: Tensor, generator: torch.Generator) -> None:
    """Brows up, or down by less: between them and the lids is little skin."""
    count = len(moved)
    lift = uniform(generator, count, 0.04, 0.12)
    lift = torch.where(uniform(generator, count) < 0.5, lift, -0.5 * lift) * act
    for group in _BROWS:
        centre = face.points[:, _rows(group)].mean(1)
        u, v = face.local(face.points, centre)
        near = torch.exp(-(u / 0.3).square() - (v / 0.13).square())
        amount = lift * uniform(generator, count, 0.6, 1.0)
        moved += face.moves(torch.zeros_like(near), -amount[:, None] * near)


def _move_gaze(moved: Tensor, face: _Placed, act: Tensor, generator: torch.Generator) -> None:
    """Both irises aside within eyes that stay."""
    count = len(moved)
    aside = uniform(generator, count, 0.04, 0.085) * act
    aside = torch.where(uniform(generator, count) < 0.5, aside, -aside)
    up = uniform(generator, count, -0.02, 0.02) * act
    rows = _rows(_LEFT_IRIS + _RIGHT_IRIS)
    moved[:, rows] += face.moves(aside[:, None].expand(-1, len(rows)),
                                 up[:, None].expand(-1, len(rows)))  # fmt: skip


def _move_nose(moved: Tensor, face: _Placed, act: Tensor, generator: torch.Generator) -> None:
    """The tip of the nose aside, up or down, its wings narrower or wider."""
    count = len(moved)
    centre = face.points[:, _rows((54, 60, 70, 65))].mean(1)
    u, v = face.local(face.points, centre)
    near = torch.exp(-(u / 0.3).square() - (v / 0.22).square()) * act[:, None]
    aside, down, wide = (
        uniform(generator, count, -amount, amount)[:, None] for amount in (0.05, 0.05, 0.25)
    )
    moved += face.moves((aside + wide * u) * near, down * near)


def _lids(
    face: _Placed, places: Tensor, act: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the upper lids down: skin from below the brow is stretched over the eye.

    Returns:
        The displacement (B, H, W, 2) in pixels and the dark line of lashes (B, 2, H, W).
    """
    count = len(act)
    closed = uniform(generator, count, 0.45, 1.0)
    one = uniform(generator, count) < 0.15
    which = uniform(generator, count) < 0.5
    half = uniform(generator, count, 0.2, 0.25)[:, None, None]
    start = -uniform(generator, count, 0.17, 0.22)[:, None, None]
    dark = uniform(generator, count, 0.3, 0.8)[:, None, None]
    field = torch.zeros_like(places)
    lashes = []
    for eye in range(2):
        shuts = act & (~one | (which == bool(eye)))
        u, v = face.local(places, face.eyes[:, eye])
        profile = (1 - (u / half).square()).clamp(0, 1) ** 0.7
        top = -0.085 * profile
        bottom = (0.165 * closed[:, None, None] - 0.085) * profile
        # [start, top] of the picture is shown over [start, bottom].
        share = (top - start) / (bottom - start).clamp(min=1e-3)
        over = (v > start) & (v < bottom) & (profile > 0) & shuts[:, None, None]
        down = (start + (v - start) * share - v) * over
        field = field + down[..., None] * face.down[:, None, None]
        lash = torch.exp(-((v - bottom) / 0.018).square()) * (profile > 0.15) * profile**0.3
        lashes.append(lash * dark * shuts[:, None, None])
    return field, torch.stack(lashes, 1)


def _colour_near(images: Tensor, centres: Tensor, unit: Tensor) -> Tensor:
    """Mean colours round points (B, n, 2) within an eighth of the eyes' distance: (B, n, 3)."""
    height, width = images.shape[-2:]
    limit = centres.new_tensor([width, height])
    inside = torch.minimum(centres.clamp(min=0), limit)
    away = pixels(height, width, images.device) - inside[:, :, None, None]
    near = torch.exp(-away.square().sum(-1) / (2 * (0.125 * unit[:, None, None, None]).square()))
    weights = near / near.sum((2, 3), keepdim=True).clamp(min=1e-6)
    return torch.einsum("bnhw,bchw->bnc", weights, images)


def _ring(face: _Placed) -> Tensor:
    """Points round each head that stay where they are: (B, 12, 2)."""
    turn = torch.arange(12, device=face.unit.device) * (torch.pi / 6)
    u, v = 1.3 * _HALF[0] * turn.cos(), 1.3 * _HALF[1] * turn.sin() + _MIDDLE
    count = len(face.unit)
    middle = face.eyes.mean(1, keepdim=True)
    return middle + face.moves(u.expand(count, -1), v.expand(count, -1))


def _near(face: _Placed, grid: Tensor) -> Tensor:
    """1 on the face, falling to 0 on the shoulders: a spline reaches everywhere: (B, H, W)."""
    u, v = face.local(grid.expand(len(face.unit), -1, -1, -1), face.eyes.mean(1))
    away = torch.hypot(u / _HALF[0], (v - _MIDDLE) / _HALF[1])
    return ((1.35 - away) / 0.35).clamp(0, 1)


def _changed(field: Tensor, cover: Tensor, unit: Tensor) -> Tensor:
    """1 where the picture moved by what can be seen or was painted: (B, 1, H, W)."""
    far = field.norm(dim=3)[:, None]
    least = torch.maximum(0.2 * far.amax((1, 2, 3)), (0.006 * unit).clamp(min=0.35))
    return ((far > per_picture(least)) | (cover > 0.05)).float()


def _feather(masks: Tensor, sigma: Tensor) -> Tensor:
    """1 where it was 1, with a soft border outside of it."""
    soft = (2 * blur(masks, sigma.clamp(min=0.6))).clamp(0, 1)
    soft = torch.maximum(soft, masks)
    return torch.where(soft < 0.02, 0.0, soft)
