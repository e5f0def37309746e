"""Samples of feature maps against the convolutions themselves."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import activations

LAYERS = {
    "padded": nn.Conv2d(3, 5, 3, padding=1),
    "strided": nn.Conv2d(3, 5, (5, 3), stride=(2, 3), padding=(2, 0)),
    "dilated": nn.Conv2d(3, 5, 3, dilation=(1, 2)),
    "same": nn.Conv2d(3, 5, (5, 3), padding="same"),
    "reflected": nn.Conv2d(3, 5, 3, padding=2, padding_mode="reflect"),
    "circular": nn.Conv2d(3, 5, 3, padding=(1, 2), padding_mode="circular", bias=False),
    "pointwise": nn.Conv2d(3, 5, 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_says_of_its_patches_what_it_said_there(name):
    layer, images = LAYERS[name].double(), torch.randn(4, 3, 13, 17, dtype=torch.float64)
    sample = activations.Sample(images, positions=20, seed=1)
    said = layer(images)
    patches = sample.patches(layer, images, said)
    assert patches.shape == (80, 3, layer.weight[0, 0].numel())
    torch.testing.assert_close(F.linear(patches.flatten(1), layer.weight.flatten(1), layer.bias), sample.at(said))


def test_a_dense_layer_has_no_positions():
    layer, x = nn.Linear(6, 2), torch.randn(5, 6)
    sample = activations.Sample(x, 20, 0)
    assert torch.equal(sample.patches(layer, x, layer(x)), x[:, :, None]) and torch.equal(sample.at(layer(x)), layer(x))


def test_positions_are_anywhere_and_the_same_whoever_asks():
    maps = torch.arange(6.0 * 7).view(1, 1, 6, 7).expand(500, 2, 6, 7)
    seen = activations.Sample(maps, 10, 3).at(maps)
    assert seen.shape == (5000, 2) and set(seen.flatten().tolist()) == set(range(42))
    assert torch.equal(activations.Sample(maps, 10, 3).at(maps + 1), seen + 1)
    assert not torch.equal(activations.Sample(maps, 10, 4).at(maps), seen)


def test_the_pass_ends_when_all_have_read_and_hooks_are_gone_then():
    ran = []
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    model[2].register_forward_pre_hook(lambda *_: ran.append(1))
    x = torch.randn(5, 3)
    found = activations.watch(model, {"0": lambda layer, x, y: (x, y.clone())}, x)
    assert not ran and torch.equal(found["0"][0], x) and torch.equal(found["0"][1], model[0](x))
    model(x)
    assert ran == [1] and not model[0]._forward_hooks


def test_what_is_read_is_read_before_an_operation_in_place():
    model = nn.Sequential(nn.Linear(3, 40), nn.ReLU(inplace=True))
    seen = activations.watch(model, {"0": lambda _layer, _x, y: y.amin(), "1": lambda _layer, _x, y: y.amin()}, torch.randn(5, 3))
    assert seen["0"] < 0 <= seen["1"]
