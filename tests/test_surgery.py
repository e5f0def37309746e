"""Removed equals masked, for every layer of the course's networks; the old network is left; impossible requests are refused."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from course_lib import models, surgery


def with_statistics(name: str) -> nn.Module:
    """A network whose batch norms have something to say, in float64 and evaluation mode."""
    torch.manual_seed(0)
    model = models.build(name)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_(std=0.1)
    return model.double().eval()


def silenced(model: nn.Module, layer: str, gone: list[int], example: torch.Tensor) -> nn.Module:
    """The channels at zero, in every layer that makes them and in the batch norms on their way."""
    model = copy.deepcopy(model)
    tied = surgery.coupling(model, layer, example)
    for name in (*tied.producers, *tied.others):
        module = model.get_submodule(name)
        module.weight.data[gone] = 0
        if module.bias is not None:
            module.bias.data[gone] = 0
    return model


CASES = [
    (name, layer)
    for name in ("lenet-300-100", "lenet-5", "vgg-small", "resnet-20")
    for layer, module in models.build(name).named_modules()
    if isinstance(module, surgery.CUTTABLE) and module.weight.shape[0] != 10
] + [("vgg-16", "conv13"), ("vgg-16", "fc1"), ("resnet-56", "stage2.0.conv2"), ("resnet-56", "stage3.8.conv1")]


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_removed_equals_masked(name, layer):
    model = with_statistics(name)
    example = models.example_input(name, 2).double()
    channels = len(model.get_submodule(layer).weight)
    gone = torch.randperm(channels, generator=torch.Generator().manual_seed(1))[: channels // 3].tolist()
    keep = sorted(set(range(channels)) - set(gone))
    before = copy.deepcopy(model.state_dict())
    narrower = surgery.keep_channels(model, layer, keep, example)
    with torch.no_grad():
        torch.testing.assert_close(narrower(example), silenced(model, layer, gone, example)(example), atol=1e-9, rtol=1e-7)
    assert len(narrower.get_submodule(layer).weight) == len(keep)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_what_is_tied_by_hand():
    tied = surgery.coupling(models.build("resnet-20"), "stage2.1.conv2", models.example_input("resnet-20"))
    assert set(tied.producers) == {"stage2.0.conv2", "stage2.0.shortcut.conv", "stage2.1.conv2", "stage2.2.conv2"}
    assert set(tied.consumers) == {"stage2.1.conv1", "stage2.2.conv1", "stage3.0.conv1", "stage3.0.shortcut.conv"}
    flat = surgery.coupling(models.build("lenet-5"), "conv2", models.example_input("lenet-5")).consumers["fc1"]
    assert torch.equal(flat, torch.arange(800).view(50, 16))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_without_gradients_and_keeps_modes_and_flags(mode):
    model = models.build("lenet-5").train()
    model.conv1.weight.requires_grad_(False)
    with mode():
        narrower = surgery.keep_channels(model, "conv2", [3, 1], models.example_input("lenet-5"))
    assert narrower.training
    assert not narrower.conv1.weight.requires_grad and narrower.fc1.weight.requires_grad
    assert torch.equal(narrower.conv2.weight, model.conv2.weight[[1, 3]])


@pytest.mark.parametrize(
    ("layer", "keep", "message"),
    [
        ("conv9", [0], "conv9.*conv1, conv2, fc1, fc2"),
        ("pool1", [0], "pool1.*conv1, conv2, fc1, fc2"),
        ("conv1", [], "conv1.*0 to 19"),
        ("conv1", [20], "conv1.*0 to 19"),
        ("conv1", [-1, 2], "conv1.*0 to 19"),
        ("conv1", [2, 2], "conv1.*0 to 19"),
        ("conv1", [1.5], "conv1.*integers"),
        ("conv1", torch.arange(20) < 2, "conv1.*integers"),  # a mask
        ("fc2", [0, 1], "fc2.*output"),
    ],
)
def test_impossible_requests_name_the_layer(layer, keep, message):
    with pytest.raises(ValueError, match=message):
        surgery.keep_channels(models.build("lenet-5"), layer, keep, models.example_input("lenet-5"))


def test_a_depthwise_layer_is_not_cut_on_its_own():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.LazyLinear(10))
    model(models.example_input("lenet-5"))
    with pytest.raises(ValueError, match="'1' is a grouped convolution"):
        surgery.keep_channels(model, "1", [0], models.example_input("lenet-5"))


class Forward(nn.Module):
    """Layers by name, and a forward given as a function of them and the input (N, 1, 28, 28)."""

    def __init__(self, forward, **layers: nn.Module):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def depthwise() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))


def concatenated() -> nn.Module:
    return Forward(
        lambda net, x: net.out(net.norm(torch.cat([net.a(x), net.b(x)], 1)).relu().mean((2, 3))),
        a=nn.Conv2d(1, 3, 3), b=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(7), out=nn.Linear(7, 10),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "layer", "tied"),  # channel 2 of the layer, and the channel of each other layer that goes with it
    [(depthwise, "0", {"1": 2}), (concatenated, "a", dict(norm=2)), (concatenated, "b", dict(norm=3 + 2))],
)
def test_networks_of_other_shapes(make, layer, tied):
    torch.manual_seed(0)
    model, example = make().double().eval(), models.example_input("lenet-5", 2).double()
    silent = copy.deepcopy(model)
    for name, channel in (tied | {layer: 2}).items():
        silent.get_submodule(name).weight.data[channel] = 0
        silent.get_submodule(name).bias.data[channel] = 0
    keep = [channel for channel in range(len(model.get_submodule(layer).weight)) if channel != 2]
    narrower = surgery.keep_channels(model, layer, keep, example)
    torch.testing.assert_close(narrower(example), silent(example), atol=1e-9, rtol=1e-7)
    assert len(narrower.get_submodule(layer).weight) == len(keep)


UNSUITABLE = {
    "its features are an output too": (
        "output",
        lambda: Forward(
            lambda net, x: [features := net.first(x.flatten(1)), net.out(features)],
            first=nn.Linear(784, 8),
            out=nn.Linear(8, 10),
        ),
    ),
    "its activation is the output": ("output", lambda: nn.Sequential(OrderedDict(first=nn.Conv2d(1, 8, 3), relu=nn.ReLU()))),
    "a grouped convolution reads it": (
        "'grouped'.*2 groups",
        lambda: nn.Sequential(
            OrderedDict(first=nn.Conv2d(1, 8, 3), grouped=nn.Conv2d(8, 8, 3, groups=2), out=nn.Conv2d(8, 10, 24))
        ),
    ),
    "the network's input is added to it": (
        "input",
        lambda: Forward(
            lambda net, x: net.out(x.repeat(1, 8, 1, 1) + net.first(x)), first=nn.Conv2d(1, 8, 1), out=nn.Conv2d(8, 10, 28)
        ),
    ),
    "it is not used": (
        "no part",
        lambda: Forward(lambda net, x: net.out(x.flatten(1)), first=nn.Linear(784, 8), out=nn.Linear(784, 10)),
    ),
}


@pytest.mark.parametrize("why", UNSUITABLE)
def test_a_layer_that_cannot_be_narrowed_is_refused(why):
    message, make = UNSUITABLE[why]
    with pytest.raises(ValueError, match=f"'first'.*{message}"):
        surgery.keep_channels(make(), "first", [0, 3, 4], models.example_input("lenet-5"))
