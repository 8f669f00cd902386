"""Every architecture on every task: shapes, budgets, and what a classifier's map is."""

from __future__ import annotations

import pytest
import torch

from deepscan.errors import ModelError, UsageError
from train.experiments.cam import activation_margin, class_activation, grad_cam
from train.experiments.networks import ARCHITECTURES, TwoHeadNetwork, build, macs, parameters

SIZE = 64
# The large ones are built once, on the task that uses every part of them.
LARGE = ("vgg16-fcn", "resnet50-fcn", "deeplabv3+", "hrnet", "xception", "msccnet-r50")
SMALL = [name for name in ARCHITECTURES if name not in LARGE]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def images(count=2):
    return torch.randn(count, 3, SIZE, SIZE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_answers_both_tasks_and_learns_from_both(architecture):
    network = build(architecture, "both", size=SIZE).train()
    answer = network(images())
    assert answer.image.shape == (2, 2)
    assert answer.mask.shape[:2] == (2, 2)
    assert SIZE // 32 <= answer.mask.shape[-1] <= SIZE
    (answer.image.sum() + answer.mask.square().mean()).backward()
    silent = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert [name for name in silent if "fuse" not in name] == []  # the coarse map's own weights


@pytest.mark.parametrize("architecture", SMALL)
def test_tasks_share_body_and_budget(architecture):
    bodies, sizes = [], []
    for task in ("classify", "segment"):
        torch.manual_seed(7)
        network = build(architecture, task, size=SIZE)
        answer = network(images())
        assert (answer.image is None) == (task == "segment")
        assert (answer.mask is None) == (task == "classify")
        bodies.append(network.body.state_dict())
        sizes.append(parameters(network))
    assert sizes[0] == sizes[1]
    learned = [key for key in bodies[0] if "running" not in key and "tracked" not in key]
    assert all(torch.equal(bodies[0][key], bodies[1][key]) for key in learned)


@pytest.mark.parametrize("architecture", SMALL)
def test_the_ordinary_classifier_has_no_decoder(architecture):
    network = build(architecture, "classify-encoder", size=SIZE).eval()
    assert network(images()).image.shape == (2, 2)
    assert parameters(network) < parameters(build(architecture, "classify", size=SIZE))
    assert class_activation(network, images()).dim() == 3


def classifier():
    return build("resnet18-fcn", "classify", size=SIZE).eval()


def test_the_mean_of_the_activation_map_is_the_margin_of_the_crop():
    network, crops = classifier(), images()
    logits = network(crops).image
    mean = activation_margin(network, crops).mean(dim=(1, 2))
    torch.testing.assert_close(mean, logits[:, 1] - logits[:, 0], atol=1e-4, rtol=1e-3)


def test_the_activation_map_is_what_a_pixel_head_with_the_same_weights_says():
    network, crops = classifier(), images()
    partner = TwoHeadNetwork(network.body, "segment").eval()
    partner.pixel.load_state_dict(
        {
            "weight": network.image.weight[:, :, None, None],
            "bias": network.image.bias,
        }
    )
    said = torch.softmax(partner(crops).mask, dim=1)[:, 1]
    torch.testing.assert_close(class_activation(network, crops), said, atol=1e-4, rtol=1e-3)


def test_grad_cam_is_the_positive_evidence_scaled_to_the_score():
    network, crops = classifier(), images()
    with torch.no_grad():  # it must bring its own gradient
        maps = grad_cam(network, crops)
    weight = network.image.weight[1] - network.image.weight[0]
    features, _ = network.features(crops)
    raw = torch.relu(torch.einsum("bchw,c->bhw", features, weight))
    score = torch.softmax(network(crops).image, dim=1)[:, 1]
    expected = raw / raw.amax(dim=(1, 2), keepdim=True) * score[:, None, None]
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-3)


def test_macs_of_a_network_that_can_be_counted_by_hand():
    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, crops):
            return self.convolution(crops)

    assert macs(One(), 16) == 16 * 16 * 8 * 3 * 9


def test_output_stride_and_parts_can_be_changed():
    fine = build("resnet18-fcn", "segment", size=SIZE, changes={"output_stride": 8}).eval()
    with torch.no_grad():
        maps = fine.body.encode(images())
    assert {map_.shape[-1] for map_ in maps[-3:]} == {SIZE // 8}
    bare = build("msccnet-s", "segment", size=SIZE, changes={"mscc": False})
    assert bare(images()).coarse is None
    deep = build("resnet18-fcn", "segment", size=SIZE, changes={"encoder": "resnet34"})
    assert parameters(deep) > parameters(fine)


@pytest.mark.parametrize(
    ("architecture", "task", "changes", "error", "words"),
    [
        ("resnet19", "both", {}, UsageError, "no architecture 'resnet19'; there are vgg16-fcn"),
        ("unet", "colour", {}, UsageError, "no task 'colour'"),
        ("unet", "both", {"depth": 3}, UsageError, "has no 'depth' to change; it has head"),
        ("unet", "both", {"encoder": "nothing"}, ModelError, "cannot be built"),
        ("resnet18-fcn", "both", {"encoder": "nothing"}, ModelError, "cannot be built"),
        ("resnet18-fcn", "both", {"head": "sieve"}, UsageError, "no head 'sieve'"),
    ],
)
def test_what_cannot_be_built_is_named(architecture, task, changes, error, words):
    with pytest.raises(error, match=words):
        build(architecture, task, size=SIZE, changes=changes)
