"""What is cut where the network runs is what the CPU cuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.engines import ondevice
from deepscan.engines.load import load_engine
from deepscan.engines.ondevice import cut_all
from deepscan.errors import EngineError
from deepscan.faces.crop import cut
from deepscan.types import Box

HEIGHT, WIDTH = 90, 140
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
SMOOTH = np.stack(
    np.broadcast_arrays(
        np.linspace(0, 255, WIDTH)[None], np.linspace(255, 0, HEIGHT)[:, None], 128.0
    ),
    axis=2,
).astype(np.uint8)


def boxes(*corners):
    return [Box(x, y, x + side, y + side) for x, y, side in corners]


def check(picture, squares, size):
    found = cut_all(torch.from_numpy(picture), squares, size)
    assert found.dtype == torch.uint8 and found.shape == (len(squares), size, size, 3)
    expected = np.stack([cut(picture, box, size) for box in squares])
    apart = np.abs(found.numpy().astype(int) - expected)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.002


places = st.tuples(st.floats(-150, 200), st.floats(-120, 160), st.floats(3, 200))


@settings(max_examples=40, deadline=None)
@given(st.lists(places, min_size=1, max_size=4), st.sampled_from([16, 33, 64]))
def test_it_cuts_what_the_cpu_cuts(corners, size):
    check(PICTURE, boxes(*corners), size)


def test_a_plain_copy_is_exact():
    found = cut_all(torch.from_numpy(PICTURE), boxes((30, 20, 48)), 48)
    assert np.array_equal(found[0].numpy(), PICTURE[20:68, 30:78])


def test_boxes_of_all_sizes_at_once_and_in_order(monkeypatch):
    squares = boxes((0.3, 0.7, 12), (40.5, 3.25, 80), (-20, -30, 150), (139, 89, 3), (7, 9, 33))
    check(SMOOTH, squares, 40)
    whole = cut_all(torch.from_numpy(PICTURE), squares, 40)
    monkeypatch.setattr(ondevice, "MOST_PIXELS", 1)  # one after the other
    assert torch.equal(cut_all(torch.from_numpy(PICTURE), squares, 40), whole)


def test_nothing_is_cut_from_nothing():
    assert cut_all(torch.from_numpy(PICTURE), [], 16).shape == (0, 16, 16, 3)
    for picture, box in (
        (np.zeros((0, 9, 3), np.uint8), Box(0, 0, 5, 5)),
        (PICTURE, Box(3, 3, 3, 8)),
    ):
        with pytest.raises(ValueError, match="cannot cut"):
            cut_all(torch.from_numpy(picture), [box], 16)


def test_an_engine_judges_a_frame_as_it_judges_its_crops(models):
    engine = load_engine("torch-cpu-fp32", "tiny", folder=models)
    squares = boxes(*((4.5 * place, 2.25 * place, 60 + place) for place in range(11)))
    found = engine.predict_frame(SMOOTH, squares)
    assert found.scores.shape == (11,) and found.masks.shape == (11, 16, 16)
    crops = np.stack([cut(SMOOTH, box, 64) for box in squares])
    for place, crop in enumerate(crops):
        alone = engine.predict(crop[None])
        assert found.scores[place] == pytest.approx(alone.scores[0], abs=0.02)
        assert np.abs(found.masks[place] - alone.masks[0]).max() < 0.05
    with pytest.raises(ValueError, match="no boxes"):
        engine.predict_frame(SMOOTH, [])
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.predict_frame(SMOOTH, squares)
