"""Dead neurons leave without a trace: the outputs are those of the masked network."""

import copy
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import masks, models
from course_lib.papers.weight_pruning import magnitude_masks
from course_lib.surgery.dead_neurons import dead_channels, remove_dead_neurons


def small_convnet(padding: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 3, padding=padding), norm=nn.BatchNorm2d(6), relu1=nn.ReLU(),
            conv2=nn.Conv2d(6, 5, 3, padding=padding), relu2=nn.ReLU(), pool=nn.MaxPool2d(4), flatten=nn.Flatten(),
            fc=nn.LazyLinear(10),
        )
    )  # fmt: skip


class Residual(nn.Module):
    """Two layers whose outputs are added: a channel is dead only where both are."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.inner, self.out = nn.Linear(784, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.first(x.flatten(1)).relu()
        return self.out(x + self.second(self.inner(x).relu()))


NETWORKS = {
    "lenet-300-100": lambda: models.build("lenet-300-100"),
    "lenet-5": lambda: models.build("lenet-5"),
    "convolutions without padding": lambda: small_convnet(0),
    "convolutions with padding": lambda: small_convnet(1),
    "residual": Residual,
}


def made(name: str, seed: int) -> nn.Module:
    """The network with random biases and batch statistics, in float64."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    model(torch.randn(2, 1, 28, 28))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_()
    return model.double().eval()


def gap(first: nn.Module, second: nn.Module) -> float:
    images = torch.randn(16, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        expected = first(images)
        return ((second(images) - expected).abs().max() / expected.abs().max()).item()


EXAMPLE = torch.randn(2, 1, 28, 28, dtype=torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=6)
@given(st.integers(0, 10_000), st.floats(0.7, 0.998))
def test_removal_equals_masking(name, seed, sparsity):
    model = made(name, seed)
    for layer in masks.weight_layers(model).values():
        layer.weight.data *= torch.rand_like(layer.weight) > sparsity
        layer.weight.data *= torch.rand(len(layer.weight), *[1] * (layer.weight.dim() - 1)) > 0.3
    before = copy.deepcopy(model.state_dict())
    smaller = remove_dead_neurons(model, EXAMPLE)
    assert gap(model, smaller) < 1e-9
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert sum(p.numel() for p in smaller.parameters()) <= sum(p.numel() for p in model.parameters())


def test_in_float32_the_outputs_agree_to_1e_5():
    model = models.build("lenet-5")
    masks.apply(model, magnitude_masks(model, dict(conv1=0.5, conv2=0.95, fc1=0.995, fc2=0.95)))
    smaller = remove_dead_neurons(model, models.example_input("lenet-5"))
    images = models.example_input("lenet-5", 64)
    torch.testing.assert_close(smaller(images), model(images), atol=1e-5, rtol=1e-5)
    assert smaller.fc1.weight.shape[0] < 500


def test_both_kinds_of_dead_neurons_go_and_what_depends_on_them():
    model = made("lenet-300-100", 0)
    model.fc1.weight.data[[3, 4]] = 0  # read nothing; bias 3 is positive: a constant that the next layer reads
    model.fc1.bias.data[3], model.fc1.bias.data[4] = 2.0, -2.0
    model.fc2.weight.data[:, 10:15] = 0  # unread
    model.fc3.weight.data[:, 7] = 0
    model.fc2.weight.data[7, 20] = 1.0
    model.fc2.weight.data[:7, 20] = model.fc2.weight.data[8:, 20:21].T.new_zeros(())  # only fc2's dead neuron 7 reads it
    model.fc2.weight.data[8:, 20] = 0
    smaller = remove_dead_neurons(model, EXAMPLE)
    assert smaller.fc1.weight.shape == (300 - 2 - 5 - 1, 784)
    assert smaller.fc2.weight.shape == (99, 292)
    assert gap(model, smaller) < 1e-12


def test_a_channel_behind_a_flatten_takes_all_its_columns():
    model = made("lenet-5", 0)
    model.conv2.weight.data[5] = 0
    model.conv2.bias.data[5] = 1.5
    model.conv2.weight.data[6] = 0
    smaller = remove_dead_neurons(model, EXAMPLE)
    assert smaller.conv2.weight.shape == (48, 20, 5, 5)
    assert smaller.fc1.weight.shape == (500, 800 - 2 * 16)
    assert gap(model, smaller) < 1e-12


def test_a_constant_before_a_padded_convolution_stays_unless_it_is_zero():
    model = made("convolutions with padding", 0)
    model.conv1.weight.data[:2] = 0
    with torch.no_grad():
        said = model.relu1(model.norm(model.conv1(EXAMPLE)))[:, :2].amax((0, 2, 3))
    model.norm.bias.data[0] += 1 - said[0]  # says something; the other one is made to be silent
    model.norm.bias.data[1] -= 10
    smaller = remove_dead_neurons(model, EXAMPLE)
    assert len(smaller.conv1.weight) == 5
    assert gap(model, smaller) < 1e-12


def test_a_channel_of_a_sum_is_dead_only_where_all_its_makers_are():
    model = made("residual", 0)
    model.first.weight.data[[1, 2]] = 0
    model.second.weight.data[[2, 3]] = 0
    smaller = remove_dead_neurons(model, EXAMPLE)
    assert smaller.first.weight.shape == smaller.second.weight.shape[:1] + (784,)
    assert len(smaller.first.weight) == 7  # channel 2 went; 1 and 3 have one maker each
    assert gap(model, smaller) < 1e-12


def test_a_channel_goes_only_when_none_of_its_readers_reads_it():
    model = made("residual", 0)
    model.inner.weight.data[:, [4, 5]] = 0
    model.out.weight.data[:, [5, 6]] = 0
    smaller = remove_dead_neurons(model, EXAMPLE)
    assert torch.equal(smaller.out.weight, model.out.weight[:, [0, 1, 2, 3, 4, 6, 7]])
    assert gap(model, smaller) < 1e-12


def test_a_layer_never_becomes_empty():
    model = made("lenet-300-100", 0)
    for layer in (model.fc1, model.fc2, model.fc3):
        layer.weight.data.zero_()
    smaller = remove_dead_neurons(model, EXAMPLE)
    assert [tuple(layer.weight.shape) for layer in (smaller.fc1, smaller.fc2, smaller.fc3)] == [(1, 784), (1, 1), (10, 1)]
    assert gap(model, smaller) < 1e-12


def test_a_network_without_dead_neurons_is_copied_and_its_mode_kept():
    model = models.build("lenet-300-100").train()
    smaller = remove_dead_neurons(model, models.example_input("lenet-300-100"))
    assert smaller is not model and smaller.training
    assert all(torch.equal(value, smaller.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_layer_whose_features_are_also_given_out_stays_whole():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(784, 6), nn.Linear(6, 10)

        def forward(self, x):
            features = self.fc1(x.flatten(1))
            return features, self.fc2(features)

    model = Features().double()
    model.fc1.weight.data[2] = 0
    assert remove_dead_neurons(model, EXAMPLE).fc1.weight.shape == (6, 784)


def test_looking_for_dead_channels_changes_nothing():
    model = made("lenet-300-100", 0)
    model.fc1.weight.data[[3, 4]] = 0
    model.fc1.bias.data[3], model.fc1.bias.data[4] = 2.0, -2.0
    before = copy.deepcopy(model.state_dict())
    first, second = (dead_channels(model, "fc1", EXAMPLE) for _ in range(2))
    assert first.channels.nonzero().flatten().tolist() == [3, 4]
    assert first.constants["fc2"][3].item() == 2.0 and first.constants["fc2"].abs().sum() == 2.0
    assert torch.equal(first.channels, second.channels) and torch.equal(first.constants["fc2"], second.constants["fc2"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_constant_that_depends_on_the_image_is_none_even_where_one_image_is_given():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 10, 3)

        def forward(self, x):
            return self.out(self.conv(x).relu() * x.mean((2, 3), keepdim=True).sigmoid())

    model = Gated().double()
    model.conv.weight.data[2], model.conv.bias.data[2] = 0, 1.0
    smaller = remove_dead_neurons(model, EXAMPLE[:1])
    assert len(smaller.conv.weight) == 6 and gap(model, smaller) < 1e-12


class Tokens(nn.Module):
    """A dense layer on tokens (N, T, 8), and what reads it."""

    def __init__(self, reader: nn.Module):
        super().__init__()
        self.first, self.reader, self.out = nn.Linear(8, 6), reader, nn.Linear(6, 4)

    def forward(self, x):
        x = self.reader(self.first(x).relu())
        return self.out((x[0] if isinstance(x, tuple) else x).mean(1))


@pytest.mark.parametrize(("reader", "width"), [(nn.Linear(6, 6), 4), (nn.LSTM(6, 6, batch_first=True), 6)])
def test_dense_layers_on_tokens_lose_theirs_unless_a_recurrent_layer_reads_them(reader, width):
    torch.manual_seed(0)
    model, example = Tokens(reader).double().eval(), torch.randn(3, 5, 8).double()
    model.first.weight.data[[1, 4]] = 0
    model.first.bias.data[1], model.first.bias.data[4] = 1.5, -1.0
    smaller = remove_dead_neurons(model, example)
    assert smaller.first.weight.shape == (width, 8)
    torch.testing.assert_close(smaller(2 * example), model(2 * example))


def test_channels_that_a_pixel_shuffle_spreads_over_positions_stay_and_the_outputs_are_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(2, 3, 3)).double().eval()
    model[0].weight.data[[2, 6]], model[0].bias.data[[2, 6]] = 0, 1.0
    assert gap(model, remove_dead_neurons(model, EXAMPLE)) < 1e-12


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(ValueError, match="cannot be traced.*\\(2, 1, 28, 28\\)"):
        remove_dead_neurons(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)).double(), EXAMPLE)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_the_outputs_stay_and_so_does_the_device():
    model = made("lenet-5", 0)
    model.conv2.weight.data[[5, 6]] = 0
    model.conv2.bias.data[5] = 1.5
    smaller = remove_dead_neurons(model.cuda(), EXAMPLE.cuda())
    assert len(smaller.conv2.weight) == 48 and all(value.is_cuda for value in smaller.state_dict().values())
    assert gap(model.cpu(), smaller.cpu()) < 1e-9
