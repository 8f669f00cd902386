"""One conformance suite over every forge, and what degrading does to any picture.

The face is scikit-image's astronaut (public domain) with landmarks placed by hand, once without
dense landmarks and once with the mean mesh.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from train.forge import FORGES, load_forge, mesh
from train.forge.contract import FaceImage, Forged
from train.forge.degrade import VIDEO_CODECS, degrade, grain, h264, jpeg, motion_blur, video, webp
from train.forge.expression import raised
from train.forge.mouth import spoken
from train.forge.selfblend import random_mask
from train.forge.shape import REGIONS, draw, place
from train.smoke import plain_copies

LANDMARKS = np.array([(206, 102), (248, 104), (226, 130), (203, 139), (247, 141)], float)
BOX = (180.0, 62.0, 269.0, 175.0)
CORNER = np.array((130, 20))


def face() -> FaceImage:
    picture = np.ascontiguousarray(astronaut()[20:220, 130:320])
    x1, y1, x2, y2 = BOX
    return FaceImage(picture, LANDMARKS - CORNER, (x1 - 130, y1 - 20, x2 - 130, y2 - 20))


def resized(one: FaceImage, width: int, height: int) -> FaceImage:
    factor = np.array((width / one.image.shape[1], height / one.image.shape[0]))
    picture = cv2.resize(one.image, (width, height), interpolation=cv2.INTER_AREA)
    box = (np.array(one.box).reshape(2, 2) * factor).ravel()
    points = one.landmarks * factor
    return FaceImage(picture, points, tuple(box.tolist()), one.redrawn, _mesh_at(one, points))


def _mesh_at(one: FaceImage, landmarks: np.ndarray) -> mesh.Mesh | None:
    return mesh.followed(one.mesh, one.landmarks, landmarks)


def dense(one: FaceImage) -> FaceImage:
    """With the mean mesh, mouth opened a little."""
    points = mesh.place_mesh(one.landmarks)
    points[list(mesh.MOUTH_HOLE[1][1:-1]), 1] += 3
    return replace(one, mesh=points)


def other() -> FaceImage:
    """Somebody else: the mirror image in other light."""
    one = face()
    width = one.image.shape[1]
    mirrored = np.ascontiguousarray(one.image[:, ::-1] // 2 + 60)
    points = one.landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (width - 1, 0)
    return replace(one, image=mirrored, landmarks=points)


FACE, OTHER = (replace(one, redrawn=plain_copies(one)) for one in (face(), other()))
FACES = {"five": FACE, "dense": dense(FACE)}
OTHERS = {"five": OTHER, "dense": dense(OTHER)}


def forge(name: str, one: FaceImage, seed: int) -> Forged:
    second = OTHERS["five" if one.mesh is None else "dense"]
    return load_forge(name)(one, np.random.default_rng(seed), other=second)


@pytest.mark.parametrize("name", FORGES)
@pytest.mark.parametrize("landmarks", FACES)
@pytest.mark.parametrize("seed", range(6))
def test_a_forge_keeps_its_contract(name: str, landmarks: str, seed: int) -> None:
    before = FACE.image.copy()
    made = forge(name, FACES[landmarks], seed)
    height, width = FACE.image.shape[:2]
    for picture in (made.image, made.original):
        assert picture.shape == (height, width, 3) and picture.dtype == np.uint8
    assert made.mask.shape == (height, width) and made.mask.dtype == np.float32
    assert made.mask.min() >= 0 and made.mask.max() <= 1
    assert made.tags[0] == name and made.tags[1] in {*REGIONS, *mesh.REGIONS}
    # Nothing outside the mask, something inside, and the face given is left alone.
    different = (made.image != made.original).any(2)
    assert not different[made.mask == 0].any()
    assert different[made.mask > 0.4].mean() > 0.02
    assert 0.001 < (made.mask > 0.4).mean() < 0.6
    assert np.array_equal(FACE.image, before)


@pytest.mark.parametrize("name", FORGES)
def test_a_forge_marks_the_face(name: str) -> None:
    x1, y1, x2, y2 = (round(value) for value in FACE.box)
    for seed in range(6):
        mask = forge(name, FACES["five" if seed % 2 else "dense"], seed).mask
        assert mask[y1:y2, x1:x2].sum() > 0.6 * mask.sum()


@pytest.mark.parametrize("name", FORGES)
def test_the_same_draw_forges_the_same_and_another_another(name: str) -> None:
    one, again, different = (forge(name, FACES["dense"], seed) for seed in (3, 3, 4))
    assert np.array_equal(one.image, again.image) and np.array_equal(one.mask, again.mask)
    assert np.array_equal(one.original, again.original) and one.tags == again.tags
    assert not np.array_equal(one.image, different.image)


@pytest.mark.parametrize("name", FORGES)
@pytest.mark.parametrize(("width", "height"), [(31, 33), (24, 24), (97, 61), (40, 90)])
def test_small_and_odd_pictures_do_not_crash_a_forge(name: str, width: int, height: int) -> None:
    for seed in range(6):
        made = forge(name, resized(FACES["five" if seed % 2 else "dense"], width, height), seed)
        assert made.image.shape == made.original.shape == (height, width, 3)
        assert made.mask.shape == (height, width) and np.isfinite(made.mask).all()


@pytest.mark.parametrize("name", FORGES)
def test_flat_and_grey_pictures_do_not_crash_a_forge(name: str) -> None:
    luma = cv2.cvtColor(FACE.image, cv2.COLOR_RGB2GRAY)
    for picture in (np.dstack([luma] * 3), np.zeros_like(FACE.image), FACE.image * 0 + 255):
        for seed in range(6):
            one = FACES["five" if seed % 2 else "dense"]
            made = forge(name, replace(one, image=picture), seed)
            assert np.isfinite(made.mask).all() and made.image.dtype == np.uint8


@pytest.mark.parametrize("name", FORGES)
def test_a_face_at_the_edge_is_forged_too(name: str) -> None:
    cut = np.ascontiguousarray(FACE.image[60:, 70:])
    points = FACE.landmarks - (70, 60)
    for seed in range(4):
        mesh_at = _mesh_at(FACES["dense"], points) if seed % 2 else None
        moved = FaceImage(cut, points, (0, 0, 69, 95), FACE.redrawn, mesh_at)
        made = forge(name, moved, seed)
        assert not (made.image != made.original)[made.mask == 0].any()


@pytest.mark.parametrize("name", ["swap", "mesh-swap", "expression"])
def test_a_swap_needs_somebody_else(name: str) -> None:
    with pytest.raises(ValueError, match="another person"):
        load_forge(name)(FACE, np.random.default_rng(0))


def test_masks_follow_the_mesh() -> None:
    dense = FACES["dense"]
    assert dense.mesh is not None
    moved = replace(dense, mesh=dense.mesh + np.float32([20, 0, 0]))
    one, two = (
        random_mask(face, np.random.default_rng(2), ("face",))[0] for face in (dense, moved)
    )
    middle = [np.nonzero(mask > 0.5)[1].mean() for mask in (one, two)]
    assert middle[1] - middle[0] == pytest.approx(20, abs=4)


def test_no_forge_has_that_name() -> None:
    with pytest.raises(KeyError):
        load_forge("melt")


@pytest.mark.parametrize("region", REGIONS)
def test_regions_lie_on_the_face(region: str) -> None:
    height, width = FACE.image.shape[:2]
    mask = draw(region, place(FACE.landmarks), height, width)
    assert set(np.unique(mask)) == {0.0, 1.0}
    rows, columns = np.nonzero(mask)
    x1, y1, x2, y2 = FACE.box
    assert x1 - 15 < columns.mean() < x2 + 15 and y1 - 15 < rows.mean() < y2 + 15


def test_the_placed_shape_follows_the_landmarks() -> None:
    moved = place(FACE.landmarks * 2 + 7)
    assert np.allclose(moved, place(FACE.landmarks) * 2 + 7)


def test_degrading_treats_pictures_alike() -> None:
    second = FACE.image.copy()
    second[80:100, 80:100] = 0
    sizes = set()
    for seed in range(12):
        one, two, again = (
            *degrade([FACE.image, second], np.random.default_rng(seed)),
            degrade([FACE.image], np.random.default_rng(seed))[0],
        )
        assert one.shape == two.shape and np.array_equal(one, again)
        assert one.dtype == np.uint8 and one.shape[2] == 3
        sizes.add(one.shape)
    assert len(sizes) > 3


@pytest.mark.parametrize(("width", "height"), [(64, 48), (65, 49)])
def test_codecs_keep_the_picture(width: int, height: int) -> None:
    picture = resized(FACE, width, height).image
    assert np.abs(jpeg(picture, 95).astype(int) - picture).mean() < 5
    coded = h264(picture, 18)
    assert coded.shape == (height // 2 * 2, width // 2 * 2, 3)
    assert np.abs(coded.astype(int) - picture[: coded.shape[0], : coded.shape[1]]).mean() < 12


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_video_codecs_are_real(codec: str) -> None:
    picture = resized(FACE, 97, 81).image
    errors = []
    for quality in (4, 28):
        for before in (0, 2):
            coded = video(picture, codec, quality, before)
            assert coded.shape == (80, 96, 3) and coded.dtype == np.uint8
            assert np.array_equal(coded, video(picture, codec, quality, before))
            errors.append(np.abs(coded.astype(int) - picture[:80, :96]).mean())
    assert 0 < max(errors[:2]) < min(errors[2:]) < 25


@pytest.mark.parametrize("codecs", ["video", "still"])
def test_a_life_keeps_the_aspect(codecs: str) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        (made,) = degrade([FACE.image], rng, 0.3, codecs)
        factor = made.shape[0] / FACE.image.shape[0]
        assert 0.3 < factor <= 1
        assert made.shape[1] == pytest.approx(factor * FACE.image.shape[1], abs=1)
    assert np.abs(webp(FACE.image, 90).astype(int) - FACE.image).mean() < 6


def test_grain_has_its_strength_and_blur_keeps_the_brightness() -> None:
    flat = np.full((120, 120, 3), 128, np.uint8)
    noisy = grain(flat, np.random.default_rng(0), 8.0, 1.0)
    assert noisy.std() == pytest.approx(8.0, rel=0.1)
    assert (noisy[..., 0] == noisy[..., 1]).all()
    assert np.abs(motion_blur(flat, 5, 30.0).astype(int) - 128).max() <= 1


def test_a_mesh_swap_keeps_the_pose_and_an_open_mouth() -> None:
    assert FACES["dense"].mesh is not None
    gaping = FACES["dense"].mesh.copy()
    gaping[list(mesh.MOUTH_HOLE[1][1:-1]), 1] += 12
    hole = mesh.fill([mesh.opening(gaping)], *FACE.image.shape[:2]) > 0
    shut = mesh.place_mesh(OTHER.landmarks)
    upper, lower = mesh.MOUTH_HOLE
    shut[list(lower[1:-1])] = shut[list(upper[1:-1])]
    for seed in range(8):
        made = load_forge("mesh-swap")(
            replace(FACES["dense"], mesh=gaping),
            np.random.default_rng(seed),
            other=replace(OTHER, mesh=shut),
        )
        assert made.mask[cv2.erode(hole.astype(np.uint8), np.ones((5, 5))) > 0].max() < 0.3


def test_a_mouth_leaves_the_upper_face_alone() -> None:
    dense = FACES["dense"]
    assert dense.mesh is not None
    below = int(dense.mesh[[48, 278, 4], 1].max())
    for seed in range(20):
        made = forge("mouth", dense, seed)
        assert not (made.image != made.original)[: below - 4].any()


def test_a_spoken_mouth_opens_or_closes_and_takes_the_chin_along() -> None:
    upper, lower = mesh.MOUTH_HOLE
    shut = mesh.place_mesh(LANDMARKS)
    shut[list(lower[1:-1])] = shut[list(upper[1:-1])]
    wide = shut.copy()
    wide[list(lower[1:-1]), 1] += 15
    for seed in range(8):
        opened = spoken(shut, None, np.random.default_rng(seed))
        assert mesh.openness(opened) > mesh.openness(shut) + 0.05
        assert opened[152, 1] > shut[152, 1] and (opened[10] == shut[10]).all()
        copied = spoken(shut, wide, np.random.default_rng(seed))
        assert mesh.openness(copied) > 0.15
        assert abs(mesh.openness(spoken(wide, None, np.random.default_rng(seed))) - 0.3) > 0.03


def test_an_expression_follows_the_actor_and_keeps_the_outline() -> None:
    before = mesh.place_mesh(LANDMARKS)
    actor = before.copy()
    actor[list(mesh.LEFT_BROW), 1] -= 3
    upper, lower = mesh.RIGHT_EYE_HOLE
    actor[list(upper[1:-1])] = actor[list(lower[1:-1])]  # one eye is shut
    after = raised(before, actor, np.random.default_rng(1))
    lift = after[list(mesh.LEFT_BROW), 1] - before[list(mesh.LEFT_BROW), 1]
    assert (lift < -1).all()
    gaps = [(one[lower[4], 1] - one[upper[4], 1]) for one in (before, after)]
    assert 0 <= gaps[1] < 0.5 * gaps[0]
    assert np.array_equal(after[list(mesh.JAW)], before[list(mesh.JAW)])
