"""MSCCNet against what is known of the paper's network: numbers, shapes, switches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.errors import ModelError
from deepscan.models import MODELS
from deepscan.models.backbone import SameConv2d
from deepscan.models.config import MSCCNetConfig
from deepscan.models.msccnet import MSCC, MSCCNet, cosine_images, pointed_at, set_input_size
from tests.models.build import TINY, build_network, tiny


def images(count=2, side=64, seed=0):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def paper():
    return MSCCNet(MODELS["msccnet-r50"]).eval()


def test_the_papers_network_has_its_parameters(paper):
    assert count(paper) == 52_145_531
    assert count(paper.backbone) == 23_527_264
    assert count(paper.mfa) == 23_597_056
    assert count(paper.mscc) == 4_752_919
    assert count(paper.decoder) == 264_194
    assert count(paper.classifier) == 4_098


def test_the_papers_network_gives_its_shapes(paper):
    with torch.inference_mode():
        maps = paper.backbone(images(1, 512))
        logits = paper(images(1, 512))
    assert [tuple(map_.shape[1:]) for map_ in maps] == [
        (512, 64, 64),
        (1024, 64, 64),
        (2048, 64, 64),
    ]
    assert logits.image.shape == (1, 2)
    assert logits.mask.shape == (1, 2, 64, 64)
    assert logits.coarse.shape == (1, 2, 64, 64)


@pytest.mark.parametrize(
    ("channel", "row", "column", "value"),
    [
        (0, 0, 0, 0.015625),
        (0, 63, 17, 0.015625),
        (8, 0, 0, 0.022090432),
        (64, 63, 0, -0.022090432),
        (232, 10, 20, 0.000240567),
        (504, 0, 0, 0.030336626),
    ],
)
def test_cosine_images_have_their_reference_values(channel, row, column, value):
    assert cosine_images(512, 64, 8)[channel, row, column] == pytest.approx(value, abs=1e-8)


@given(size=st.integers(8, 24), k=st.integers(1, 6))
def test_cosine_images_are_orthonormal(size, k):
    basis = cosine_images(k * k, size, k).reshape(k * k, -1).double()
    assert torch.allclose(basis @ basis.T, torch.eye(k * k, dtype=torch.float64), atol=1e-6)


def test_attention_sums_to_one_over_the_classes(monkeypatch):
    network = build_network()
    seen = []
    softmax = torch.softmax

    def watching(values, dim):
        found = softmax(values, dim=dim)
        if values.ndim == 4 and dim == 2:
            seen.append(found)
        return found

    monkeypatch.setattr(torch, "softmax", watching)
    with torch.inference_mode():
        network(images(3))
    (attention,) = seen
    assert attention.shape == (3, 4, 2, 64)  # (B, N, K, HW)
    assert torch.allclose(attention.sum(dim=2), torch.ones(3, 4, 64), atol=1e-6)


def test_mscc_does_what_its_equations_say():
    """The same steps band by band and pixel by pixel, written down naively in float64."""
    config = tiny(channels=16, dct_k=4, input_size=16)
    torch.manual_seed(1)
    mscc = MSCC(config).eval().double()
    features = torch.randn(2, 16, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        refined, coarse = mscc(features)
        for item in range(2):
            pixels = features[item].reshape(4, 4, 4)  # (N, c, HW)
            weighted = (features[item] * mscc.filter.weight).reshape(4, 4, 2, 2)
            logits = torch.stack([mscc.head(weighted[n : n + 1])[0] for n in range(4)])
            centres = torch.zeros(4, 2, 4, dtype=torch.float64)
            for n in range(4):
                for k in range(2):
                    for p in range(4):
                        centres[n, k] += logits[n, k].flatten()[p] * weighted[n, :, p // 2, p % 2]
            mix = mscc.mix.weight[:, :, 0]
            mixed = torch.einsum("mn,nkc->mkc", mix, centres)
            centres = torch.relu(mixed + centres) @ mscc.project.weight.T
            attended = torch.zeros(4, 4, 4, dtype=torch.float64)
            for n in range(4):
                for p in range(4):
                    share = torch.softmax(centres[n] @ pixels[n, :, p], dim=0)
                    attended[n, :, p] = share @ centres[n]
            joined = torch.cat([features[item], attended.reshape(16, 2, 2)])[None]
            # The class centres are in fp32 whatever surrounds them.
            assert torch.allclose(refined[item], mscc.output(joined)[0], atol=1e-5)
            fused = torch.einsum("n,nkhw->khw", mscc.fuse.weight[0, :, 0, 0], logits)
            assert torch.allclose(coarse[item], fused + mscc.fuse.bias, atol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"filters": kind}
            for kind in ("fixed-dct", "fixed-random", "learnable-dct", "learnable-random", "none")
        ),
        {"mfa": False},
        {"mscc": False},
        {"graph": False},
        {"coarse": False},
        {"image_head": "backbone"},
        {"mscc": False, "image_head": "backbone"},
        {"dct_k": 2, "band_k": 2},
        {"dct_k": 4, "band_k": 8},
        {"output_stride": 16},
        {"output_stride": 32, "aggregation": "pyramid"},
        {"output_stride": 32, "aggregation": "pyramid", "mscc": False},
    ],
    ids=str,
)
def test_every_switch_builds_runs_and_learns(changes):
    config = tiny(**changes)
    network = MSCCNet(config).train()
    logits = network(images())
    side = 64 // config.map_stride
    assert side == (4 if config.output_stride == 16 else 8)
    assert logits.image.shape == (2, 2) and logits.mask.shape == (2, 2, side, side)
    has_coarse = changes.get("mscc", True) and changes.get("coarse", True)
    assert (logits.coarse is not None) == has_coarse
    sum(part.square().mean() for part in logits if part is not None).backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in network.parameters()
    )


def test_only_learnable_filters_learn_and_only_cosines_are_not_saved():
    def facts(kind):
        network = MSCCNet(tiny(filters=kind))
        learned = dict(network.named_parameters())
        return "mscc.filter.weight" in learned, "mscc.filter.weight" in network.state_dict()

    assert facts("fixed-dct") == (False, False)
    assert facts("fixed-random") == (False, True)
    assert facts("learnable-dct") == (True, True)
    assert facts("learnable-random") == (True, True)
    assert facts("none") == (False, False)


@pytest.mark.parametrize(
    "changes", [{"input_size": 60}, {"dct_k": 3}, {"band_k": 0}, {"band_k": 3}, {"channels": 100}]
)
def test_a_config_that_cannot_work_is_refused(changes):
    with pytest.raises(ModelError):
        tiny(**changes)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ModelError, match="no_such_net"):
        MSCCNet(tiny(backbone="no_such_net", backbone_arguments={}))


def test_a_config_survives_being_written_down():
    assert MSCCNetConfig(**MODELS["msccnet-s"].to_dict()) == MODELS["msccnet-s"]


def test_crops_of_another_size_are_refused_with_the_right_one():
    with pytest.raises(ModelError, match="8x8"):
        build_network()(images(1, 96))


@pytest.mark.parametrize("kind", ["fixed-dct", "learnable-random", "fixed-random", "none"])
def test_set_input_size_makes_another_size_fit(kind):
    network = build_network(tiny(filters=kind))
    parameters = count(network)
    set_input_size(network, 96)
    assert network.config == replace(TINY, filters=kind, input_size=96)
    with torch.inference_mode():
        assert network(images(1, 96)).mask.shape == (1, 2, 12, 12)
    if kind == "fixed-dct":
        assert torch.equal(network.mscc.filter.weight, cosine_images(64, 12, 8))
        assert count(network) == parameters


def test_set_input_size_there_and_back_changes_nothing():
    network = build_network()
    with torch.inference_mode():
        before = network(images())
        set_input_size(network, 128)
        set_input_size(network, 64)
        after = network(images())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_set_input_size_refuses_what_the_stride_does_not_divide():
    with pytest.raises(ModelError):
        set_input_size(build_network(), 60)


def test_crops_of_a_batch_do_not_see_each_other():
    network, batch = build_network(), images(4)
    with torch.inference_mode():
        together = network(batch)
        alone = network(batch[2:3])
    for whole, single in zip(together, alone, strict=True):
        assert torch.allclose(whole[2:3], single, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.1, 30), seed=st.integers(0, 1000))
def test_pointed_at_stays_within_the_features(scale, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(2, 5, 8, 8, generator=generator)
    mask = torch.randn(2, 2, 8, 8, generator=generator) * scale
    under = pointed_at(features, mask)
    assert under.shape == (2, 7)
    assert (under >= 0).all() and (under <= 1).all()
    assert (under[:, 6] >= under[:, 5] * 0.5).all()  # the peak is no weaker than half the mean


def test_pointed_at_reads_the_features_under_the_mask():
    features = torch.zeros(1, 2, 8, 8)
    features[0, 0, :4], features[0, 1, 4:] = 1.0, 1.0
    mask = torch.zeros(1, 2, 8, 8)
    mask[0, 1, :4], mask[0, 1, 4:] = 20.0, -20.0
    first, second, mean, peak = pointed_at(features, mask)[0].tolist()
    assert first == pytest.approx(32 / 33, abs=1e-3) and second == pytest.approx(0, abs=1e-3)
    assert mean == pytest.approx(0.5, abs=1e-3) and peak == pytest.approx(1.0, abs=1e-3)


def test_a_pyramid_reads_four_stages_at_their_own_strides():
    network = MSCCNet(MODELS["msccnet-lite0"]).eval()
    with torch.inference_mode():
        maps = network.backbone(torch.zeros(1, 3, 160, 160))
        logits = network(torch.zeros(1, 3, 160, 160))
    strides = [(m.shape[1], 160 // m.shape[2]) for m in maps]
    assert strides == [(24, 4), (40, 8), (112, 16), (320, 32)]
    assert logits.mask.shape == (1, 2, 20, 20)
    assert 3.0e6 < count(network) < 3.5e6


def test_a_pyramid_takes_other_sizes_and_keeps_its_weights():
    network = MSCCNet(MODELS["msccnet-lite0"]).eval()
    for size in (96, 128, 224):
        set_input_size(network, size)
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, size, size)).mask.shape[-1] == size // 8


def test_a_pyramid_without_mfa_is_refused():
    with pytest.raises(ModelError, match="pyramid"):
        MSCCNet(tiny(output_stride=32, aggregation="pyramid", mfa=False))
    with pytest.raises(ModelError, match="aggregation"):
        tiny(aggregation="tower")


@settings(max_examples=20, deadline=None)
@given(
    side=st.integers(6, 33),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
)
def test_same_padding_is_timms(side, kernel, stride, dilation):
    from timm.layers import Conv2dSame

    theirs = Conv2dSame(2, 4, kernel, stride, 0, dilation)
    ours = SameConv2d(2, 4, kernel, stride, 0, dilation)
    ours.load_state_dict(theirs.state_dict())
    given = torch.randn(1, 2, side, side + 3)
    assert torch.equal(ours(given), theirs(given))
