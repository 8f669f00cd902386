"""Batched forges that blend, swap and redraw: one conformance suite, and their parts by OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.color import rgb2hsv, rgb2lab
from torch import Tensor

from deepscan.errors import UsageError
from train.faces import read_faces
from train.forge import align as numpy_align
from train.forge import blend as numpy_blend
from train.forge import decoder as numpy_decoder
from train.forge.batched import blend, colour, deepswap, filters, redraw, resize, selfblend, swap
from train.forge.batched.faces import BATCHED, BatchedForge, Faces, Made, inverse, warp
from train.smoke import plain_copies, write_faces

SIDE = 128
SEEDS = range(4)
NAMES = ("self-blend", "swap", "redraw", "reconstruct", "deepswap", "whole-face")
WITH_COPIES = ("reconstruct", "deepswap")


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensor(picture: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def levels(images: Tensor) -> NDArray[np.float32]:
    return (images[0].permute(1, 2, 0) * 255).numpy()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    """The portrait and its mirror image, twice, with stand-ins for redrawn copies."""
    folder: Path = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    images, landmarks, copies = [], [], []
    for person in read_faces(folder, "val"):
        face = person.face
        x1, y1, x2, y2 = face.box
        scale = SIDE / (1.75 * max(x2 - x1, y2 - y1))
        corner = np.array([(x1 + x2) / 2, (y1 + y2) / 2]) - SIDE / scale / 2
        affine = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
        images.append(
            cv2.warpAffine(face.image, affine, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
        )
        landmarks.append((face.landmarks - corner) * scale + 0.5)
        decoded = [cv2.resize(one.picture(), (96, 96)) for one in plain_copies(face)]
        copies.append(torch.cat([tensor(picture) for picture in decoded]))
    batch = Faces(
        torch.cat([tensor(picture) for picture in images]),
        torch.from_numpy(np.stack(landmarks)).float(),
        torch.full((2,), SIDE / 1.75),
        torch.stack(copies),
        torch.tensor([[False, True, False, True]] * 2),
    )
    return batch[torch.tensor([0, 1, 0, 1])]


def others(faces: Faces) -> Faces:
    return faces[torch.arange(len(faces)).flip(0)]


def forge(name: str) -> BatchedForge:
    module, function = BATCHED[name].split(":")
    made: BatchedForge = getattr(import_module(module), function)
    return made


def made(name: str, faces: Faces, seed: int) -> Made:
    return forge(name)(faces, drawn(seed), others=others(faces))


@pytest.fixture(scope="module", params=NAMES)
def results(request: pytest.FixtureRequest, faces: Faces) -> tuple[str, list[Made]]:
    """One family and what it makes of the batch from some seeds."""
    return request.param, [made(request.param, faces, seed) for seed in SEEDS]


# The contract


def test_a_batched_forge_keeps_its_contract(results: tuple[str, list[Made]]) -> None:
    for result in results[1]:
        assert result.images.shape == result.originals.shape == (4, 3, SIDE, SIDE)
        assert result.masks.shape == (4, 1, SIDE, SIDE)
        for values in (result.images, result.originals, result.masks):
            assert values.dtype == torch.float32
            assert values.min() >= 0 and values.max() <= 1  # and so finite
        apart = (result.images - result.originals).abs()
        assert (apart * (result.masks == 0)).max() < 1e-6
        assert (result.masks.mean((1, 2, 3)) > 0.002).all()
        assert (result.masks > 0.5).float().mean((1, 2, 3)).max() < 0.6


def test_most_of_what_is_made_can_be_seen(results: tuple[str, list[Made]]) -> None:
    seen = []
    for result in results[1]:
        inside = (result.masks > 0.5).float()
        apart = (result.images - result.originals).abs().mean(1, keepdim=True)
        shown = (apart * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)
        seen += (shown > 1 / 255).tolist()
    assert np.mean(seen) > 0.75


def test_masks_lie_on_the_face(results: tuple[str, list[Made]]) -> None:
    edge = round(SIDE * (1 - 1 / 1.5) / 2)
    for result in results[1]:
        face = result.masks[..., edge:-edge, edge:-edge]
        assert face.sum() > 0.85 * result.masks.sum()


def test_a_seed_says_what_is_made(results: tuple[str, list[Made]], faces: Faces) -> None:
    name, (_, one, other, *_) = results
    before = faces.images.clone()
    again = made(name, faces, SEEDS[1])
    assert torch.equal(faces.images, before)
    assert torch.equal(one.images, again.images) and torch.equal(one.masks, again.masks)
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(one.masks, other.masks)
    # The same face twice in a batch is forged in two ways.
    assert not torch.equal(one.images[0], one.images[2])


@pytest.mark.parametrize("name", NAMES)
def test_one_face_alone(name: str, faces: Faces) -> None:
    result = made(name, faces[:1], 5)
    assert result.images.shape == (1, 3, SIDE, SIDE)
    assert (result.images != result.originals).any()


@pytest.mark.parametrize("name", NAMES)
def test_pictures_need_not_be_square(name: str, faces: Faces) -> None:
    wide = faces.with_images(faces.images[:, :, :-7])[:2]
    result = made(name, wide, 1)
    assert result.images.shape == (2, 3, SIDE - 7, SIDE)
    assert torch.isfinite(result.images).all()


def test_no_swap_without_others(faces: Faces) -> None:
    with pytest.raises(ValueError, match="others="):
        swap.swap(faces, drawn(0))
    with pytest.raises(ValueError, match="4 faces need as many others, not 2"):
        swap.swap(faces, drawn(0), others=faces[:2])
    with pytest.raises(ValueError, match="4 faces need as many others, not 2"):
        deepswap.deepswap(faces, drawn(0), others=faces[:2])


@pytest.mark.parametrize("name", WITH_COPIES)
def test_forges_that_need_redrawn_copies_say_so(name: str, faces: Faces) -> None:
    without = replace(faces, decoded=None, swapped=None)
    with pytest.raises(UsageError, match=r"train\.forge\.pack"):
        forge(name)(without, drawn(0))
    wrong = name == "reconstruct"  # a copy of the wrong kind would be a wrong label
    assert faces.swapped is not None
    unfit = replace(faces, swapped=torch.full_like(faces.swapped, wrong))
    with pytest.raises(UsageError, match=r"train\.forge\.pack"):
        forge(name)(unfit, drawn(0))


def test_a_deep_swap_without_others_comes_through_decoders_of_others(faces: Faces) -> None:
    result = deepswap.deepswap(faces, drawn(0))
    assert (result.images != result.originals).flatten(1).any(1).all()


# Swaps and copies


def test_other_faces_lie_on_the_landmarks(faces: Faces) -> None:
    """A white dot at the nose comes to the other nose in all three ways of aligning."""
    strangers = others(faces)
    strangers = replace(strangers, landmarks=strangers.landmarks + torch.tensor([9.0, -6.0]))
    dots = torch.zeros_like(strangers.images)
    for image, (x, y) in zip(dots, strangers.landmarks[:, 2].round().int().tolist(), strict=True):
        image[:, y - 2 : y + 2, x - 2 : x + 2] = 1
    for seed in range(4):
        laid = swap.aligned(strangers.with_images(dots), faces, drawn(seed)).mean(1)
        places = torch.stack(torch.meshgrid(*[torch.arange(SIDE) + 0.5] * 2, indexing="xy"), -1)
        total = laid.sum((1, 2))[:, None]
        found = (laid[..., None] * places).sum((1, 2)) / total
        assert (found - faces.landmarks[:, 2]).abs().max() < 4


def test_the_common_square_is_that_of_packs(faces: Faces) -> None:
    ours = deepswap.align(faces.landmarks, 128).numpy()
    for one, landmarks in zip(ours, faces.landmarks.double().numpy(), strict=True):
        theirs = numpy_align.align(landmarks - 0.5, 128)  # OpenCV's pixels have whole centres
        shifted = theirs[:, 2] + 0.5 - theirs[:, :2] @ (0.5, 0.5)
        assert np.abs(one - np.c_[theirs[:, :2], shifted]).max() < 2e-3


def test_copies_come_back_where_they_were_cut(faces: Faces) -> None:
    affine = deepswap.align(faces.landmarks, SIDE)
    square = warp(faces.images, affine, SIDE, SIDE)
    laid, inside = deepswap.laid(square, inverse(affine), SIDE, SIDE, drawn(1))
    assert 0.2 < inside.mean() <= 1
    assert ((laid - faces.images).abs() * (inside == 1)).mean() < 0.01


def test_copies_become_truer(faces: Faces) -> None:
    side = 96
    true = warp(faces.images, deepswap.align(faces.landmarks, side), side, side)
    wrong = (0.6 * true + 0.2).clamp(0, 1)
    nearer = deepswap.truer(wrong, faces, drawn(0))
    before, after = ((each - true).abs().mean((1, 2, 3)) for each in (wrong, nearer))
    assert (after < before + 1e-6).all() and (after < 0.7 * before).any()


def test_grey_pictures_get_grey_faces(faces: Faces) -> None:
    grey = faces.images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    made = deepswap.as_grey_as(grey, faces.images)
    assert (made.amax(1) - made.amin(1)).max() < 1e-6
    assert torch.equal(deepswap.as_grey_as(faces.images, faces.images), faces.images)


# Colours


def coloured() -> NDArray[np.float32]:
    picture = np.random.default_rng(4).random((24, 30, 3), dtype=np.float32)
    picture[:4] = picture[:4, :, :1]  # greys
    picture[4, :8] = np.linspace(0, 0.01, 8)[:, None]  # nearly black
    return picture


@pytest.mark.parametrize(
    ("convert", "wanted"),
    [
        (colour.rgb_to_lab, lambda p: rgb2lab(p)),
        (colour.rgb_to_lab, lambda p: cv2.cvtColor(p, cv2.COLOR_RGB2Lab)),
        (colour.rgb_to_hsv, lambda p: rgb2hsv(p)),
        (
            colour.rgb_to_ycbcr,
            lambda p: cv2.cvtColor(p, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]] - (0, 0.5, 0.5),
        ),
    ],
    ids=["lab", "lab by OpenCV", "hsv", "ycbcr"],
)
def test_colours_are_converted_as_others_do(
    convert: Callable[[Tensor], Tensor],
    wanted: Callable[[NDArray[np.float32]], NDArray[np.floating]],
) -> None:
    picture = coloured()
    ours = convert(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    theirs = wanted(picture)
    scale = max(1.0, float(np.abs(theirs).max()))
    assert np.abs(ours - theirs).max() < 4e-3 * scale  # OpenCV looks cube roots up in a table


@pytest.mark.parametrize(
    ("forth", "back"),
    [
        (colour.rgb_to_lab, colour.lab_to_rgb),
        (colour.rgb_to_hsv, colour.hsv_to_rgb),
        (colour.rgb_to_ycbcr, colour.ycbcr_to_rgb),
    ],
    ids=["lab", "hsv", "ycbcr"],
)
def test_colours_come_back(
    forth: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> None:
    picture = torch.from_numpy(coloured()).permute(2, 0, 1)[None]
    assert (back(forth(picture)) - picture).abs().max() < 1e-4


def test_jitter_changes_most_pictures_a_little(faces: Faces) -> None:
    many = faces.images[:1, :, 60:92, 60:92].expand(40, -1, -1, -1)
    out = colour.jittered(many, drawn(0))
    apart = (out - many).abs().mean((1, 2, 3))
    assert 0.5 < (apart > 1e-3).float().mean() < 1 and apart.max() < 0.35
    assert (colour.jittered(many, drawn(0), 0.0) - many).abs().max() < 1e-5


@pytest.mark.parametrize("space", range(3), ids=colour.SPACES[:3])
def test_matched_colours_are_the_targets_under_the_mask(space: int, faces: Faces) -> None:
    target = faces.images[:1] * 0.5 + 0.2
    source = faces.images[1:2] * 0.6 + 0.1
    masks = torch.zeros(1, 1, SIDE, SIDE)
    masks[..., 40:90, 40:90] = 1
    shares = [float(kind == space) for kind in range(4)]
    matched = colour.match(source, target, masks, drawn(0), shares)
    window = (..., slice(40, 90), slice(40, 90))
    for statistic, bound in ((torch.mean, 0.03), (torch.std, 0.05)):
        ours, theirs = (statistic(each[window], dim=(2, 3)) for each in (matched, target))
        assert (ours - theirs).abs().max() < bound
    known = {0: "lab", 1: "ycrcb", 2: "rgb"}[space]
    one, two = (levels(each).round().astype(np.uint8) for each in (source, target))
    reference = numpy_blend.match_colour(one, two, masks[0, 0].numpy(), known)
    apart = np.abs(levels(matched) - reference)[40:90, 40:90]
    assert apart.mean() < 2 and np.percentile(apart, 99) < 6


def test_colours_stay_where_nothing_can_be_compared(faces: Faces) -> None:
    none = torch.zeros(4, 1, SIDE, SIDE)
    matched = colour.match(faces.images, others(faces).images, none, drawn(0))
    assert torch.equal(matched, faces.images)
    full = torch.ones(4, 1, SIDE, SIDE)
    kept = colour.match(faces.images, others(faces).images, full, drawn(0), (0, 0, 0, 1))
    assert torch.equal(kept, faces.images)


# Blending


def round_mask(radius: float = 30, soft: float = 12) -> Tensor:
    y, x = torch.meshgrid(*[torch.arange(SIDE) - SIDE / 2] * 2, indexing="ij")
    return ((radius - torch.hypot(x, y)) / soft + 0.5).clamp(0, 1)[None, None]


@pytest.mark.parametrize("kind", range(3), ids=blend.BLENDS)
def test_blending_is_as_before(kind: int, faces: Faces) -> None:
    source = (faces.images[:1] + torch.tensor([0.08, -0.05, 0.04])[:, None, None]).clamp(0, 1)
    target, mask = faces.images[1:2], round_mask()
    shares = [float(each == kind) for each in range(3)]
    out = blend.compose(source, target, mask, drawn(0), shares)
    assert torch.equal(torch.where(mask == 0, out, 0), torch.where(mask == 0, target, 0))
    # The NumPy forges cut a window out before; where a grid begins tells in what Poisson fills.
    soft = mask[0, 0].numpy()
    one, two = (levels(each).round().astype(np.uint8) for each in (source, target))
    mixed = (numpy_blend.blend, numpy_blend.laplace, numpy_blend.poisson)[kind](one, two, soft)
    if kind > 0:
        mixed = numpy_blend.blend(mixed, two, np.minimum(soft * 3, 1))
    apart = np.abs(levels(out) - mixed)[soft > 0]
    assert apart.mean() < 1 and np.percentile(apart, 95) < 3


def test_each_picture_is_blended_in_a_way_of_its_own(faces: Faces) -> None:
    many = torch.zeros(12, dtype=torch.int64)
    source, target = others(faces).images[many], faces.images[many]
    out = blend.compose(source, target, round_mask()[many], drawn(0), (1, 1, 1))
    assert len({round(float(picture.sum()), 3) for picture in out}) == 3


def test_the_membrane_is_flat_where_its_border_is(faces: Faces) -> None:
    known = (round_mask() == 0).float()
    values = torch.full((1, 3, SIDE, SIDE), 0.3) * known - 5 * (1 - known)
    assert (blend.fill(values, known) - 0.3).abs().max() < 1e-4


def test_the_membrane_is_as_before() -> None:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    values = np.stack([x, y, x * y], 2)
    known = (round_mask()[0, 0].numpy() == 0).astype(np.float32)
    theirs = numpy_blend.fill(values, known)
    ours = blend.fill(
        torch.from_numpy(values).permute(2, 0, 1)[None], torch.from_numpy(known)[None, None]
    )
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - theirs).max() < 0.02


# Detail


@pytest.mark.parametrize(
    ("kind", "flag"),
    tuple(
        enumerate((cv2.INTER_NEAREST_EXACT, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4))
    ),
    ids=resize.KERNELS,
)
def test_sizes_of_their_own_are_those_of_opencv(kind: int, flag: int, faces: Faces) -> None:
    factors = torch.tensor([0.3, 0.5, 0.62, 0.9])
    rooms, heights, widths = resize.shrunk(faces.images, factors)
    kinds = torch.full((4,), kind)
    out = resize.enlarged(rooms, heights, widths, SIDE, SIDE, kinds)
    for place in range(4):
        picture = levels(faces.images[place : place + 1])
        size = round(SIDE * float(factors[place]))
        small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        assert np.abs(levels(rooms[place : place + 1])[:size, :size] - small).max() < 0.5
        large = np.clip(cv2.resize(small, (SIDE, SIDE), interpolation=flag), 0, 255)
        apart = np.abs(levels(out[place : place + 1]) - large)[12:-12, 12:-12]
        assert apart.mean() < 0.5


def test_filters_that_keep_edges_are_as_before(faces: Faces) -> None:
    picture = levels(faces.images[:1]).round().astype(np.uint8)
    images = tensor(picture)
    ours = levels(filters.bilateral(images, torch.tensor([30.0])))
    assert np.abs(ours - cv2.bilateralFilter(picture, 5, 30, 3))[4:-4, 4:-4].mean() < 0.7
    ours = levels(filters.guided(images, torch.tensor([3.0]), torch.tensor([15.0])))
    assert np.abs(ours - numpy_decoder.guided(picture, 3, 15))[6:-6, 6:-6].mean() < 2
    ours = levels(filters.median(images))
    assert np.abs(ours - cv2.medianBlur(picture, 3))[4:-4, 4:-4].mean() < 2


def test_strength_nought_changes_nothing(faces: Faces) -> None:
    images, none = faces.images, torch.zeros(4)
    five = torch.full((4,), 5.0)
    for same in (
        filters.sharpened(images, none),
        filters.contrasted(images, none, five),
        filters.grained(images, drawn(0), none, five),
        filters.quantised(images, drawn(0), none),
        redraw.bent(images, drawn(0), none),
    ):
        assert (same - images).abs().max() < 1e-6


def test_learned_upsampling_leaves_its_grid(faces: Faces) -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    size = torch.tensor([32.0])
    plain, gridded = (
        filters.grid_enlarged(
            grey, size, size, drawn(0), torch.tensor([depth]), torch.tensor([False])
        )
        for depth in (0.0, 0.1)
    )
    assert (plain - 0.5).abs().max() < 1e-5
    assert gridded.std() > 5e-3 and abs(float(gridded.mean()) - 0.5) < 0.01
    assert (gridded[..., 2:-4, 2:-4] - gridded[..., 4:-2, 4:-2]).abs().max() < 1e-5  # of period 2


def test_a_decoder_loses_detail(faces: Faces) -> None:
    many = torch.zeros(10, dtype=torch.int64)
    images, sides = faces.images[many], faces.sides[many]
    out = redraw.decoded_like(images, sides, drawn(0), 0.3)
    fine = [(each - filters.gaussian(each, 1.0)).abs().mean((1, 2, 3)) for each in (images, out)]
    assert (fine[1] < fine[0]).float().mean() > 0.7
    assert (filters.gaussian(out - images, 6.0)).abs().mean() < 0.02


def test_frequencies_change_but_not_colours(faces: Faces) -> None:
    out = selfblend.frequency(faces.images, drawn(0))
    assert (out != faces.images).flatten(1).any(1).all()
    assert (out.mean((2, 3)) - faces.images.mean((2, 3))).abs().max() < 0.01
