"""Luo et al., ICCV 2017: the greedy choice against textbook loop and exhaustive search, samples against single convolutions."""

import copy
import dataclasses
import itertools
import re
import weakref
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import Bottleneck, ResNet

from course_lib import activations, cost, data, models, surgery, training
from course_lib.experiments import channel_sets, one_shot, rows
from course_lib.experiments import thinet as runs
from course_lib.experiments import thinet_tables as tables
from course_lib.lessons import thinet as lesson
from course_lib.papers import channel_pruning
from course_lib.papers import thinet as paper
from course_lib.storage import networks
from course_lib.streams import stream
from course_lib.surgery import readers
from course_lib.training import evaluate, recipe
from tests.resumption import resumed

# Whole numbers are exact in float64, so that ties are ties however the sums are ordered
whole_numbers = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(2, 9)), elements=st.integers(-9, 9))
problems = st.builds(
    lambda seed, samples, channels: contributions(samples, channels, seed),
    st.integers(0, 10**6), st.integers(12, 60), st.integers(2, 10),
)  # fmt: skip


def contributions(samples: int, channels: int, seed: int = 0) -> Tensor:
    """Rectified, of unequal size and correlated, as those of a network are."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(channels, channels)) + np.eye(channels)
    size = random.uniform(0.2, 2, channels) * random.choice([-1, 1], channels)
    return torch.from_numpy(np.maximum(random.normal(size=(samples, channels)) @ mixing, 0) * size)


def textbook(x: np.ndarray, remove: int) -> list[int]:
    """Algorithm 1, as it is printed: every candidate set is summed anew."""
    removed: list[int] = []
    for _ in range(remove):
        rest = [c for c in range(x.shape[1]) if c not in removed]
        values = [np.square(x[:, [*removed, c]].sum(1)).sum() for c in rest]
        removed.append(rest[int(np.argmin(values))])
    return removed


def lost(x: np.ndarray, kept: list[int], refitted: bool) -> float:
    """Squared error of the output with these channels alone, each as it is or times its least-squares factor."""
    y = x.sum(1)
    factors = np.linalg.lstsq(x[:, kept], y, rcond=None)[0] if refitted else np.ones(len(kept))
    return np.square(y - x[:, kept] @ factors).sum()


def least_lost(x: np.ndarray, keep: int, refitted: bool) -> float:
    return min(lost(x, list(kept), refitted) for kept in itertools.combinations(range(x.shape[1]), keep))


@given(whole_numbers, st.data())
def test_greedy_removal_is_the_textbook_loop(x, data):
    remove = data.draw(st.integers(0, x.shape[1] - 1))
    assert paper.greedy_removal(torch.from_numpy(x), remove).tolist() == textbook(x, remove)


@given(problems, st.data())
def test_greedy_removal_is_the_textbook_loop_for_real_numbers_too(x, data):
    remove = data.draw(st.integers(0, x.shape[1] - 1))
    assert paper.greedy_removal(x, remove).tolist() == textbook(x.numpy(), remove)
    kept = paper.channels_to_keep(x, x.shape[1] - remove)
    assert sorted(kept.tolist() + textbook(x.numpy(), remove)) == list(range(x.shape[1]))
    assert kept.tolist() == sorted(kept.tolist())


def test_float32_samples_are_summed_in_float64():
    x = torch.tensor([[1e4, 1.0, 1.0001], [1e4, 1.0, -1.0]])
    assert paper.greedy_removal(x + 3e-5, 2).tolist() == textbook((x + 3e-5).double().numpy(), 2)
    assert paper.rescale(x, x.sum(1)).dtype == torch.float64


def test_channels_that_cancel_cost_nothing_together_and_greed_may_miss_it():
    x = torch.tensor([[2.0, -2.0, 1.0], [-2.0, 2.0, 1.0], [2.0, -2.0, 1.0]])
    assert lost(x.numpy(), [2], refitted=False) == 0 == least_lost(x.numpy(), 1, refitted=False)
    assert paper.greedy_removal(x, 2).tolist() == [2, 1]  # the smallest first, then there is no way back
    assert paper.matching_pursuit(x, 1).tolist() == [2]
    assert paper.greedy_removal(x[:, :2], 1).tolist() == [0]


def pursuit(x: np.ndarray, keep: int) -> list[int]:
    """Orthogonal matching pursuit as it is told: the best single channel for the residual, then all refitted."""
    kept: list[int] = []
    residual = x.sum(1)
    for _ in range(keep):
        rest = [c for c in range(x.shape[1]) if c not in kept]
        left = [np.square(residual - x[:, c] * (x[:, c] @ residual) / (x[:, c] @ x[:, c])).sum() for c in rest]
        kept.append(rest[int(np.argmin(left))])
        residual = x.sum(1) - x[:, kept] @ np.linalg.lstsq(x[:, kept], x.sum(1), rcond=None)[0]
    return kept


@given(problems, st.data())
def test_matching_pursuit_refits_after_every_choice(x, data):
    x = x + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()  # no channel is all zero
    keep = data.draw(st.integers(1, x.shape[1]))
    found, expected = paper.matching_pursuit(x, keep).tolist(), pursuit(x.numpy(), keep)
    if lost(x.numpy(), expected[:-1], refitted=True) > 1e-9 * np.square(x.numpy()).sum():  # else rounding chooses the last
        assert found == sorted(expected)


@given(whole_numbers, st.data())
def test_matching_pursuit_survives_channels_that_are_zero_or_copies(x, data):
    x = np.concatenate([x, x[:, :1], 0 * x[:, :1]], axis=1)
    keep = data.draw(st.integers(1, x.shape[1]))
    kept = paper.matching_pursuit(torch.from_numpy(x), keep).tolist()
    assert len(set(kept)) == keep and set(kept) <= set(range(x.shape[1]))
    if keep >= np.linalg.matrix_rank(x):
        assert lost(x, kept, refitted=True) <= 1e-9 * (1 + np.square(x).sum())


def test_both_choices_against_exhaustive_search():
    """Half of ten channels; the loss over the least possible, over 200 problems."""
    ratios: dict[str, list[float]] = {"removal": [], "removal, refitted": [], "pursuit, refitted": []}
    for seed in range(200):
        x = contributions(60, 10, seed)
        kept, chosen = paper.channels_to_keep(x, 5).tolist(), paper.matching_pursuit(x, 5).tolist()
        x = x.numpy()
        best = least_lost(x, 5, refitted=True)
        ratios["removal"].append(lost(x, kept, refitted=False) / least_lost(x, 5, refitted=False))
        ratios["removal, refitted"].append(lost(x, kept, refitted=True) / best)
        ratios["pursuit, refitted"].append(lost(x, chosen, refitted=True) / best)
    for name, values in ratios.items():
        optimal = np.mean(np.array(values) < 1 + 1e-9)
        print(f"\n{name}: mean {np.mean(values):.3f}, worst {max(values):.3f}, optimal in {optimal:.0%}")
        assert min(values) > 1 - 1e-9
    assert np.mean(ratios["removal"]) < 1.5 and max(ratios["removal"]) < 10
    assert np.mean(ratios["removal, refitted"]) < 1.5
    assert np.mean(ratios["pursuit, refitted"]) < 1.5


@given(problems, st.data())
def test_rescale_is_least_squares(x, data):
    kept = data.draw(st.integers(1, x.shape[1]))
    expected, _, rank, singular = np.linalg.lstsq(x[:, :kept].numpy(), x.sum(1).numpy(), rcond=None)
    factors = paper.rescale(x[:, :kept], x.sum(1)).numpy()
    if rank == kept and singular[-1] > 1e-4 * singular[0]:
        np.testing.assert_allclose(factors, expected, rtol=1e-6, atol=1e-6)
    left = [np.square(x.sum(1).numpy() - x[:, :kept].numpy() @ w).sum() for w in (factors, expected)]
    assert left[0] == pytest.approx(left[1], rel=1e-6, abs=1e-9)


def test_what_the_samples_do_not_decide_is_not_rescaled():
    x = contributions(30, 3)
    dead = torch.cat([x, torch.zeros(30, 1)], dim=1)
    assert paper.rescale(dead, 2 * x.sum(1)).tolist() == pytest.approx([2, 2, 2, 1])
    copied = torch.cat([x, x[:, :1]], dim=1)
    assert paper.rescale(copied, x.sum(1)).tolist() == pytest.approx([0.5, 1, 1, 0.5])


CONVOLUTIONS = {
    "plain": dict(kernel_size=3),
    "stride and padding": dict(kernel_size=3, stride=2, padding=1),
    "not square": dict(kernel_size=(3, 2), stride=(1, 2), padding=(0, 1), dilation=(1, 2)),
    "same": dict(kernel_size=(3, 5), padding="same"),
    "reflected": dict(kernel_size=3, padding=1, padding_mode="reflect"),
    "1x1, no bias": dict(kernel_size=1, bias=False),
}


def shares_by_single_channels(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """(N, outputs, c): each channel alone through the layer, all filters and positions."""
    alone = []
    for channel in range(inputs.shape[1]):
        only = torch.zeros_like(inputs)
        only[:, channel] = inputs[:, channel]
        alone.append(layer(only) - (0 if layer.bias is None else layer.bias.view(-1, 1, 1)))
    return torch.stack(alone, dim=-1).flatten(1, 3)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_sample_is_what_single_channels_give_at_a_position_of_the_next_layer(name):
    torch.manual_seed(0)
    layers = OrderedDict(first=nn.Conv2d(2, 5, 3), relu=nn.ReLU(), second=nn.Conv2d(5, 3, **CONVOLUTIONS[name]), end=nn.Flatten())
    model = nn.Sequential(layers).double().eval()
    images = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    rows = paper.channel_contributions(model, "first", images, positions=2000).view(4, 2000, 5)
    with torch.no_grad():
        shares = shares_by_single_channels(model.second, model[:2](images))
    for image in range(4):
        distance = torch.cdist(rows[image], shares[image])  # (samples, outputs)
        assert distance.min(1).values.max() < 1e-6, "every sample is an output of its image"
        assert distance.min(0).values.max() < 1e-6, "every output is drawn now and then"


def test_behind_a_flatten_a_channel_is_all_its_positions():
    model = models.pretrained("lenet-5", "mnist-5k").double()
    images = data.load("mnist-5k").train.images[:6].double()
    rows = paper.channel_contributions(model, "conv2", images, positions=3000).view(6, 3000, 50)
    with torch.no_grad():
        features = model[: list(dict(model.named_children())).index("flatten")](images)  # (6, 50, 4, 4)
        shares = torch.einsum("ncp,fcp->nfc", features.flatten(2), model.fc1.weight.view(500, 50, 16))
    for image in range(6):
        distance = torch.cdist(rows[image], shares[image])
        assert distance.min(1).values.max() < 1e-6 and (distance.min(0).values < 1e-6).float().mean() > 0.98


def test_samples_follow_the_seed_and_the_model_is_left_as_it_was():
    model = models.build("vgg-small").train()
    before, images = copy.deepcopy(model.state_dict()), models.example_input("vgg-small", 130)
    first, again, other = (paper.channel_contributions(model, "conv3", images, positions=2, seed=s) for s in (0, 0, 1))
    assert first.shape == (260, 64) and torch.equal(first, again) and not torch.equal(first, other)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules()) and not model.conv4._forward_hooks


class Scaled(nn.Module):
    """A layer whose input channels are multiplied first: what folding has to equal."""

    def __init__(self, layer: nn.Module, scales: Tensor, columns: int):
        super().__init__()
        self.layer = layer
        self.scales = scales.repeat_interleave(columns)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * self.scales.view(1, -1, *[1] * (x.dim() - 2)))


@pytest.mark.parametrize(
    ("network", "layer", "following", "columns"),
    [
        ("vgg-small", "conv3", "conv4", 1),
        ("vgg-small", "conv6", "fc", 1),
        ("lenet-5", "conv2", "fc1", 16),
        ("lenet-5", "fc1", "fc2", 1),
        ("resnet-20", "stage2.0.conv1", "stage2.0.conv2", 1),
    ],
)
def test_folding_the_scales_is_scaling_the_channels(network, layer, following, columns):
    torch.manual_seed(0)
    model, images = models.build(network).double().eval(), models.example_input(network, 3).double()
    scales = torch.rand(len(model.get_submodule(layer).weight), dtype=torch.float64) + 0.5
    assert readers.next_layer(model, layer, images)[0] == following
    before = copy.deepcopy(model.state_dict())
    folded = readers.fold_scales(model, layer, scales, images)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.set_submodule(following, Scaled(model.get_submodule(following), scales, columns))
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), atol=1e-10, rtol=1e-8)


class SideBySide(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(9, 2, 3, padding=1)

    def forward(self, x):
        return self.third(torch.cat([self.first(x), self.second(x)], dim=1)).flatten(1)


def test_of_a_reader_of_two_layers_only_the_ones_channels_are_touched():
    torch.manual_seed(0)
    model, images = SideBySide().double().eval(), torch.randn(5, 3, 6, 6, dtype=torch.float64)
    name, columns = readers.next_layer(model, "second", images)
    assert name == "third" and columns.flatten().tolist() == [4, 5, 6, 7, 8]
    rows = paper.channel_contributions(model, "second", images, positions=1000).view(5, 1000, 5)
    with torch.no_grad():
        inputs = torch.cat([model.first(images), model.second(images)], dim=1)
        shares = shares_by_single_channels(model.third, inputs)[:, :, 4:]
        assert max(torch.cdist(rows[i], shares[i]).min(1).values.max() for i in range(5)) < 1e-6
        scales = torch.rand(5, dtype=torch.float64)
        folded = readers.fold_scales(model, "second", scales, images)(images)
        model.second.weight.mul_(scales.view(-1, 1, 1, 1))
        model.second.bias.mul_(scales)
        torch.testing.assert_close(folded, model(images))


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        return self.second(x) + self.third(x)


class Grouped(nn.Module):
    def __init__(self, groups: int):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=groups), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.third(self.second(self.first(x))).mean((2, 3))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.second(self.norm(self.first(x))).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (models.build("resnet-20"), "stage2.0.conv2", r"computed by stage2\.0\.conv2.*stage2\.1\.conv2.* and read by"),
        (models.build("resnet-20"), "conv1", r"computed by conv1, stage1\.\d\.conv2"),
        (models.build("resnet-20"), "fc", "read by no dense layer or ungrouped convolution, and are an output of the network"),
        (TwoReaders(), "first", "read by second, third; allowed is a layer that alone"),
        (Grouped(4), "first", "read by no dense layer or ungrouped convolution; allowed"),
        (Normed(), "first", "pass 'norm', a GroupNorm, on their way"),
        (models.build("vgg-small"), "conv7", "layer is 'conv7'; the model's dense layers"),
    ],
)
def test_layers_that_do_not_qualify_are_refused_and_why(model, layer, message):
    example = torch.randn(2, 4) if isinstance(model, TwoReaders) else torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match=message):
        paper.channel_contributions(model, layer, example)
    assert layer not in readers.layers_with_one_reader(model, example)


@pytest.mark.parametrize(
    ("network", "pattern", "count"),
    [
        ("resnet18", r"layer\d\.\d\.conv1", 8),  # of a block of two layers the first, of a bottleneck the first two
        ("bottlenecks", r"layer\d\.\d\.conv[12]", 10),
        ("squeezenet1_1", r"features\.(0|\d+\.expand\dx\d)", 17),  # two expansions side by side are read by one layer
        # the expansions, read through a depthwise convolution; and where nothing is added to a block's output
        ("mobilenet_v2", r"features\.(\d+\.conv\.0\.0|0\.0|1\.conv\.1|17\.conv\.2|18\.0)", 20),
    ],
)
def test_which_layers_of_torchvisions_networks_qualify(network, pattern, count):
    if network == "bottlenecks":
        model = ResNet(Bottleneck, [2, 1, 1, 1]).eval()  # ResNet-50, but fewer
    else:
        model = torchvision.models.get_model(network, num_classes=7).eval()
    found = readers.layers_with_one_reader(model, torch.randn(1, 3, 32, 32))
    assert len(found) == count and all(re.fullmatch(pattern, name) for name in found)


def test_pruning_a_layer_by_hand():
    """The steps one by one: what is removed, what is left, and what the scales are."""
    model = models.pretrained("vgg-small", "mnist-m")
    images = paper.sample_images(data.load("mnist-m").train, 2)
    pruned = paper.prune_layer(model, "conv3", 20, images, positions=5, seed=3)
    rows = paper.channel_contributions(model, "conv3", images, positions=5, seed=3).double().numpy()
    kept = sorted(set(range(64)) - set(textbook(rows, 44)))
    scales = np.linalg.lstsq(rows[:, kept], rows.sum(1), rcond=None)[0]
    assert torch.equal(pruned.conv3.weight, model.conv3.weight[kept])
    expected = model.conv4.weight[:, kept].detach().numpy() * scales[None, :, None, None]
    np.testing.assert_allclose(pruned.conv4.weight.detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    assert pruned.conv4.weight.shape == (64, 20, 3, 3) and model.conv4.weight.shape == (64, 64, 3, 3)


def with_dead_and_copied_filters() -> nn.Module:
    """Filters 4 and 5 are dead, 6 and 7 do what 0 and 1 do."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten()).double().eval()
    first, second = model[0], model[2]
    first.weight.data[4:6], first.bias.data[4:6] = 0, 0
    for tensor in (first.weight.data, first.bias.data, second.weight.data.transpose(0, 1)):
        tensor[6:] = tensor[:2]
    return model


@pytest.mark.parametrize(("choose", "keep"), [(paper.channels_to_keep, 6), (paper.matching_pursuit, 4)])
def test_what_is_superfluous_goes_without_a_trace(choose, keep):
    model, images = with_dead_and_copied_filters(), torch.randn(20, 3, 9, 9, dtype=torch.float64)
    pruned = paper.prune_layer(model, "0", keep, images, choose=choose, positions=20)
    assert pruned[0].weight.shape[0] == keep
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), model(images), atol=1e-9, rtol=1e-7)


def test_keeping_all_changes_nothing():
    model, images = models.pretrained("vgg-small", "mnist-m"), data.load("mnist-m").train.images[:100]
    pruned = paper.prune_layer(model, "conv2", 32, images)
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), model(images), atol=1e-3, rtol=1e-3)


def test_a_torchvision_network_is_pruned():
    torch.manual_seed(0)
    model, images = torchvision.models.resnet18(num_classes=5).eval(), torch.randn(6, 3, 64, 64)
    pruned = paper.prune_layer(model, "layer2.0.conv1", 50, images)
    assert pruned.layer2[0].conv1.out_channels == pruned.layer2[0].conv2.in_channels == 50
    assert pruned(images).shape == (6, 5)


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    whole = data.load("mnist-m")
    return data.Splits(whole.train.take(256), whole.validation.take(200), whole.test.take(200), whole.name, whole.requested)


def test_images_are_drawn_for_each_class(splits):
    images = paper.sample_images(splits.train, 3, seed=1)
    places = [(splits.train.images == image).flatten(1).all(1).nonzero().item() for image in images]
    assert splits.train.labels[places].tolist() == [label for label in range(10) for _ in range(3)] and len(set(places)) == 30
    assert torch.equal(images, paper.sample_images(splits.train, 3, seed=1))
    assert not torch.equal(images, paper.sample_images(splits.train, 3, seed=2))
    assert len(paper.sample_images(splits.train, 1000)) == 256


def test_the_draw_is_the_same_however_the_images_are_batched(splits):
    whole = paper.sample_images(splits.train, 3, seed=1)
    for size in (1, 7, 256):
        batches = list(zip(splits.train.images.split(size), splits.train.labels.split(size), strict=True))
        assert torch.equal(paper.sample_images(batches, 3, seed=1), whole)
        assert torch.equal(paper.sample_images(DataLoader(TensorDataset(*splits.train), size), 3, seed=1), whole)


def test_each_image_of_a_class_is_drawn_as_often():
    batches = [(torch.arange(n, n + 4.0).view(4, 1), torch.zeros(4, dtype=torch.int64)) for n in (0, 4, 8)]
    drawn = torch.cat([paper.sample_images(batches, 3, seed=seed) for seed in range(800)]).int().flatten().bincount()
    assert drawn.sum() == 2400 and drawn.min() > 150 and drawn.max() < 250  # 200 of each of the 12, standard deviation 12


def test_images_are_drawn_in_one_pass_without_holding_the_set():
    class Batches:
        passes = held = 0

        def __iter__(self):
            self.passes += 1
            for seed in range(50):
                batch = torch.randn(20, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
                weakref.finalize(batch, self.let_go)
                self.held += 1
                yield batch, torch.arange(20) % 2
                del batch
                assert self.held <= 3, "batches are let go"

        def let_go(self):
            self.held -= 1

    batches = Batches()
    assert paper.sample_images(batches, 4).shape == (8, 1, 2, 2) and batches.passes == 1


KEEP = {"conv3": 40, "conv1": 20}  # given in another order than the model's


def accuracy_on(split):
    return lambda model: evaluate(model, split)


def test_a_network_without_retraining_is_its_layers_one_after_another(splits):
    model = models.pretrained("vgg-small", "mnist-m").train()
    pruned = paper.prune(model, splits.train, KEEP, per_class=4, measure=accuracy_on(splits.test), seed=5)
    expected = copy.deepcopy(model).eval()
    for number, (layer, row) in enumerate(zip(["conv1", "conv3"], pruned.record, strict=True), start=1):
        images = paper.sample_images(splits.train, 4, stream(5, "layer", number))
        expected = paper.prune_layer(expected, layer, KEEP[layer], images, seed=stream(5, "layer", number))
        accuracy, macs = evaluate(expected, splits.test), cost.count(expected, splits.test.images[:1]).MACs.sum()
        assert row == dict(layer=layer, kept=KEEP[layer], MACs=macs, pruned=accuracy, retrained=accuracy)
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in pruned.model.state_dict().items())
    assert all(module.training for module in model.modules()) and not any(m.training for m in pruned.model.modules())


def test_a_network_is_retrained_after_every_layer_and_at_the_end(splits):
    model = models.pretrained("vgg-small", "mnist-m")
    before = copy.deepcopy(model.state_dict())
    settings = dict(
        per_class=4, measure=accuracy_on(splits.test),
        retrain=recipe(splits, epochs=0.5, lr=0.01, progress=False), finish=recipe(splits, epochs=1, lr=0.01, progress=False),
    )  # fmt: skip
    pruned, again = (paper.prune(model, splits.train, KEEP, **settings) for _ in range(2))
    assert [row["layer"] for row in pruned.record] == ["conv1", "conv3", None]
    assert pruned.record == again.record and pruned.record[-1]["retrained"] == evaluate(pruned.model, splits.test)
    assert all(torch.equal(value, again.model.state_dict()[key]) for key, value in pruned.model.state_dict().items())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert len(pruned.model.conv1.weight) == 20 and not torch.equal(pruned.model.fc.weight, model.fc.weight)


def test_each_training_has_images_and_streams_of_its_own(splits, monkeypatch):
    calls = []

    def fit(model, splits, **how):
        calls.append((splits.train.labels.tolist(), how["epochs"], how["schedule"], how["seed"]))

    monkeypatch.setattr(training.recipes, "fit", fit)
    model = models.pretrained("vgg-small", "mnist-m")
    retrain, finish = recipe(splits, epochs=0.25, schedule="constant"), recipe(splits, epochs=3, schedule="linear")
    paper.prune(model, splits.train, KEEP, per_class=2, retrain=retrain, finish=finish)
    seeds = [stream(0, "call", number) for number in (1, 2, 3)]
    shares = [splits.train.take(64, seed).labels.tolist() for seed in seeds]
    everything = splits.train.labels.tolist()
    expected = [(shares[0], 1, "constant"), (shares[1], 1, "constant"), (everything, 3, "linear")]
    assert calls == [(*call, seed) for call, seed in zip(expected, seeds, strict=True)]


def test_without_a_measure_the_record_has_no_accuracies_and_retraining_is_anybodys(splits):
    seen = []
    model = models.pretrained("vgg-small", "mnist-m")
    batches = DataLoader(TensorDataset(*splits.train), 50)
    with torch.no_grad():
        pruned = paper.prune(model, batches, dict(conv1=0.5, conv2=range(3, 9)), per_class=2,
                             retrain=lambda network: seen.append(torch.is_grad_enabled()))  # fmt: skip
    assert [list(row) for row in pruned.record] == [["layer", "kept", "MACs"]] * 2 and seen == [True, True]
    assert [row["kept"] for row in pruned.record] == [16, 6]
    assert torch.equal(pruned.model.conv2.bias if pruned.model.conv2.bias is not None else pruned.model.norm2.weight,
                       model.conv2.bias[3:9] if model.conv2.bias is not None else model.norm2.weight[3:9])  # fmt: skip


def test_one_number_prunes_all_layers_with_one_reader_and_the_file_comes_back(splits, tmp_path):
    model = models.pretrained("resnet-20", "mnist-m")
    pruned = paper.prune(model, splits.train, 0.5, per_class=1)
    assert [row["layer"] for row in pruned.record] == list(readers.layers_with_one_reader(model, splits.test.images[:1]))
    assert len(pruned.record) == 9
    pruned.save(tmp_path / "network")
    read = networks.load(tmp_path / "network", models.build("resnet-20"))
    with torch.no_grad():
        assert torch.equal(read(splits.test.images), pruned.model(splits.test.images))


def test_another_rule_can_prune(splits):
    def first(model, layer, keep, images, seed):
        return surgery.keep_channels(model, layer, range(keep), images[:1])

    model = models.pretrained("vgg-small", "mnist-m")
    pruned = paper.prune(model, splits.train, KEEP, prune_layer=first).model
    assert torch.equal(pruned.conv3.weight, model.conv3.weight[:40])


def test_an_interrupt_reaches_the_caller(splits):
    def interrupted(_model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paper.prune(models.pretrained("vgg-small", "mnist-m"), splits.train, KEEP, per_class=1, retrain=interrupted)


class OnTokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.out = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.out(self.third(self.second(self.first(x).relu()).mean(1)).relu())


def test_layers_whose_reader_reads_tokens_are_refused_and_left_out_of_all():
    torch.manual_seed(0)
    model, tokens = OnTokens().eval(), [(torch.randn(4, 5, 6), torch.arange(4))]
    with pytest.raises(ValueError, match=r"'second' is a dense layer that reads \(1, 5, 8\)|\(4, 5, 8\)"):
        paper.prune_layer(model, "first", 4, tokens[0][0])
    with pytest.raises(ValueError, match="keep names 'first'; the layers that can lose channels are second, third"):
        paper.prune(model, tokens, dict(first=4))
    assert [row["layer"] for row in paper.prune(model, tokens, 0.5).record] == ["second", "third"]
    encoder = nn.Sequential(nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), nn.Flatten(), nn.Linear(30, 4)).eval()
    with pytest.raises(ValueError, match=r"layer '0.linear2' is a dense layer that reads|0\.linear1"):
        paper.prune_layer(encoder, "0.linear1", 4, tokens[0][0])
    with pytest.raises(ValueError, match="keep is one number for all layers, and the model has none"):
        paper.prune(encoder, tokens, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: paper.greedy_removal(x, 6), "remove is 6; allowed are 0 to 5"),
        (lambda x: paper.greedy_removal(x, -1), "remove is -1"),
        (lambda x: paper.channels_to_keep(x, 0), "keep is 0; allowed are 1 to 6"),
        (lambda x: paper.matching_pursuit(x, 7), "keep is 7; allowed are 1 to 6"),
        (lambda x: paper.greedy_removal(x[0], 1), r"contributions are torch.float64 of shape \(6,\)"),
        (lambda x: paper.greedy_removal(x[:0], 1), r"of shape \(0, 6\); expected floating point \(samples, channels\)"),
        (lambda x: paper.greedy_removal(x.long(), 1), "contributions are torch.int64"),
        (lambda x: paper.matching_pursuit(x * float("nan"), 1), "contributions hold NaN or infinity"),
        (lambda x: paper.rescale(x, x.sum(1)[:3]), r"targets have shape \(3,\); expected \(20,\) finite numbers"),
        (lambda x: paper.rescale(x, x.sum(1) / 0), "targets have shape"),
        (lambda x: paper.channel_contributions(models.build("lenet-5"), "conv1", torch.randn(2, 1, 28, 28), positions=0),
         "positions is 0; allowed are 1 and above"),
        (lambda x: paper.channel_contributions(models.build("lenet-5"), "conv1", torch.randn(0, 1, 28, 28)),
         "number of images is 0; allowed are 1 and above"),
        (lambda x: readers.fold_scales(models.build("lenet-5"), "conv1", torch.ones(3), torch.randn(1, 1, 28, 28)),
         r"scales have shape \(3,\); layer 'conv1' has 20 channels"),
        (lambda x: paper.sample_images(data.load("mnist-m").train, 0), "per_class is 0; allowed are 1 and above"),
        (lambda x: paper.prune(models.build("vgg-small"), data.load("mnist-m").test, {"conv9": 3}),
         "keep names 'conv9'; the layers that can lose channels are conv1, conv2, conv3, conv4, conv5, conv6"),
        (lambda x: paper.prune(models.build("vgg-small"), data.load("mnist-m").test, {"conv3": 65}),
         "keep is 65 for layer 'conv3'; allowed are 1 to 64 channels"),
        (lambda x: paper.prune_layer(models.build("lenet-5"), "conv1", 1.5, torch.randn(2, 1, 28, 28)), "keep is 1.5"),
    ],
)  # fmt: skip
def test_the_impossible_is_refused_with_what_is_possible(call, message):
    with pytest.raises(ValueError, match=message):
        call(contributions(20, 6))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_chooses_the_same():
    model, images = models.pretrained("vgg-small", "mnist-m"), data.load("mnist-m").train.images[:50]
    rows = [
        paper.channel_contributions(m, "conv3", x, positions=20)
        for m, x in ((model, images), (copy.deepcopy(model).cuda(), images.cuda()))
    ]
    torch.testing.assert_close(rows[0], rows[1].cpu(), atol=1e-2, rtol=1e-2)
    there = rows[0].cuda()
    for choose in (paper.channels_to_keep, paper.matching_pursuit):
        assert choose(there, 20).tolist() == choose(rows[0], 20).tolist()
    torch.testing.assert_close(paper.rescale(there, there.sum(1)).cpu(), paper.rescale(rows[0], rows[0].sum(1)))
    assert F.relu(paper.prune_layer(copy.deepcopy(model).cuda(), "conv3", 20, images.cuda())(images.cuda())).is_cuda


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return models.pretrained("vgg-small", "mnist-m")


def test_what_is_lost_and_the_best_set_of_all(network, splits):
    x = paper.channel_contributions(network, "conv3", splits.train.images[:40])[:, 20:28]
    for kept in ([0, 3, 5], [7]):
        factors = paper.rescale(x[:, kept], x.sum(1))
        expected = lost(x.double().numpy(), kept, refitted=True) / np.square(x.double().numpy().sum(1)).sum()
        assert channel_sets.lost(x, torch.tensor(kept), factors) == pytest.approx(expected)
        assert channel_sets.rescaled_loss(x, torch.tensor(kept)) == pytest.approx(expected)
    for refitted in (False, True):
        found = channel_sets.exhaustive(x, 4, refitted).tolist()
        assert lost(x.double().numpy(), found, refitted) == pytest.approx(least_lost(x.double().numpy(), 4, refitted))


@given(problems, st.data())
def test_the_best_removed_set_is_the_complement_of_the_best_kept_one(x, data):
    """The error of a kept set is the square of what the removed ones add up to: one problem, told from two ends."""
    keep = data.draw(st.integers(1, x.shape[1] - 1))
    kept = channel_sets.exhaustive(x, keep, refitted=False)
    removed = [c for c in range(x.shape[1]) if c not in kept.tolist()]
    squares = [x[:, list(gone)].sum(1).square().sum().item() for gone in itertools.combinations(range(x.shape[1]), len(removed))]
    assert x[:, removed].sum(1).square().sum().item() == pytest.approx(min(squares), abs=1e-9)
    assert lost(x.numpy(), kept.tolist(), refitted=False) == pytest.approx(min(squares), abs=1e-9)


@given(whole_numbers, st.data())
def test_the_kept_set_grows_by_the_channel_of_most_use(x, data):
    keep = data.draw(st.integers(1, x.shape[1]))
    kept: list[int] = []
    for _ in range(keep):
        rest = [c for c in range(x.shape[1]) if c not in kept]
        kept.append(rest[int(np.argmin([lost(x, [*kept, c], refitted=False) for c in rest]))])
    assert channel_sets.grown(torch.from_numpy(x), keep).tolist() == sorted(kept)


def test_losses_over_the_least_are_at_least_one_and_greed_misses_what_cancels():
    x = torch.tensor([[2.0, -2.0, 1.0], [-2.0, 2.0, 1.0], [2.0, -2.0, 1.0]])
    found = channel_sets.ratios(x, 1)
    assert found["removed"] > 1e6 and found["grown"] == found["forward"] == 1
    with_dead = torch.cat([x[:, :1], 0 * x], dim=1)
    assert set(channel_sets.ratios(with_dead, 2).values()) == {1.0}, "dead channels cost nothing"
    for seed in range(5):
        assert min(channel_sets.ratios(contributions(60, 8, seed), 4).values()) >= 1 - 1e-5


def test_the_rivals_keep_what_they_should(network, splits):
    images = splits.train.images[:130]
    with torch.no_grad():
        zeros = (network[: list(dict(network.named_children())).index("relu2") + 1](images) == 0).double().mean((0, 2, 3))
    sums = network.conv2.weight.detach().abs().sum((1, 2, 3))
    for criterion, scores in {"L1": sums, "APoZ": -zeros}.items():
        kept = channel_sets.kept_by(criterion, network, "conv2", 10, images)
        gone = sorted(set(range(32)) - set(kept.tolist()))
        assert kept.tolist() == sorted(kept.tolist()) and scores[kept].min() >= scores[gone].max()
    draws = [channel_sets.kept_by("random", network, "conv2", 10, images, seed=seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    for criterion, rescaled in {"ThiNet": True, "ThiNet, not rescaled": False}.items():
        kept = channel_sets.kept_by(criterion, network, "conv2", 10, images)
        assert torch.equal(kept, paper.channels_to_keep(paper.channel_contributions(network, "conv2", images), 10))
        pruned = channel_sets.without(criterion, network, "conv2", kept, images)
        assert torch.equal(pruned.conv2.weight, network.conv2.weight[kept])
        assert torch.equal(pruned.conv3.weight, network.conv3.weight[:, kept]) != rescaled
    with pytest.raises(ValueError, match="criterion is 'L2'; known are 'ThiNet'"):
        channel_sets.kept_by("L2", network, "conv2", 10, images)


def test_more_samples_lose_no_more(network, splits):
    images = paper.sample_images(splits.train, 8)
    pool = paper.channel_contributions(network, "conv3", images, positions=40).view(10, 8, 40, 64)
    held_out = paper.channel_contributions(network, "conv3", splits.validation.images, seed=1)
    table = pd.DataFrame(channel_sets.losses_from_few(pool, held_out, 32, images=(1, 8), positions=(1, 40), draws=3, seed=0))
    by_number = table.groupby(["images", "positions"]).lost
    assert by_number.mean()[1, 1] > 1.5 * by_number.mean()[8, 40] and by_number.nunique()[1, 1] > 1
    assert by_number.nunique()[8, 40] == 1, "all of the pool: nothing is left to chance"
    every = pool.flatten(0, 2)
    kept = paper.channels_to_keep(every, 32)
    expected = channel_sets.lost(held_out, kept, paper.rescale(every[:, kept], every.sum(1)))
    assert by_number.mean()[8, 40] == pytest.approx(expected, rel=1e-3)


def test_layers_lose_alone_what_the_pruned_network_says_wrong(network, splits):
    images, unseen = splits.train.images[:60], splits.train.images[60:120]
    losses = channel_sets.losses_alone(network, dict(conv2=16, conv5=128), images, unseen, seed=4)
    pruned = paper.prune_layer(network, "conv2", 16, images, seed=4)
    rows = [paper.channel_contributions(m, "conv2", unseen, seed=4).double().sum(1) for m in (network, pruned)]
    assert losses["conv2"] == pytest.approx(((rows[0] - rows[1]).square().sum() / rows[0].square().sum()).item(), rel=1e-3)
    assert losses["conv5"] == pytest.approx(0, abs=1e-9)  # all are kept


def test_the_lasso_chooses_what_channel_pruning_selects(network, splits):
    images = splits.train.images[:60]
    kept = channel_sets.chosen_by_lasso(network, "conv3", 20, images, positions=40)
    pair = activations.Sample(images, 40, 0).pair
    with torch.no_grad():
        inputs, outputs = activations.watch(network, {"conv4": pair}, images)["conv4"]
    expected = channel_pruning.select_channels(inputs, network.conv4.weight.detach().flatten(2), outputs, 20)
    assert torch.equal(kept, expected) and len(set(kept.tolist())) == 20


def test_agreement_by_hand():
    table = channel_sets.agreement({"a": torch.tensor([1, 2, 3, 4]), "b": torch.tensor([4, 3, 7, 8])})
    assert table.loc["a", "b"] == table.loc["b", "a"] == 0.5 and table.loc["a", "a"] == 1


def test_the_papers_sizes_follow_from_shapes():
    table = lesson.head_sizes()
    with torch.device("meta"):
        reference = torchvision.models.vgg16()
    assert table.parameters["VGG-16"] == sum(p.numel() for p in reference.parameters()) / 1e6
    for name, (parameters, flops) in lesson.PAPER_SIZES.items():
        assert table.parameters[name] == pytest.approx(parameters, abs=0.03)
        assert table.FLOPs[name] == pytest.approx(flops, abs=0.01)


@pytest.fixture
def brief(monkeypatch) -> None:
    """Few images of each split, few numbers of samples, two shares, and no training."""
    load = data.load

    def fewer(name: str, **more) -> data.Splits:
        whole = load(name, **more)
        parts = dict(train=whole.train.take(200), validation=whole.validation.take(40), test=whole.test.take(40))
        return dataclasses.replace(whole, **parts)

    monkeypatch.setattr(data, "load", fewer)
    monkeypatch.setattr(rows, "latencies", lambda *_: dict(latency_1=1.0, latency_64=1.0))
    monkeypatch.setattr(runs, "PER_CLASS", (1, 3, 10))
    monkeypatch.setattr(runs, "POSITIONS", (1, 5))
    monkeypatch.setattr(runs, "SHARES", {"vgg-small": (0.8, 0.5)})
    monkeypatch.setattr(training.recipes, "fit", lambda *_, **__: None)


def a_row(kind: str, seed: int = 0) -> dict:
    """A row of a kind, as the runner makes it."""
    setting = next(setting for setting in runs.grid("smoke") if setting["kind"] == kind)
    about = dict(experiment="thinet", command="", seconds=1.0, device="CPU", versions={}, date="", fingerprint="")
    return setting | dict(seed=seed, scale="smoke") | runs.run(setting, seed=seed, scale="smoke", device="cpu") | about


@pytest.mark.parametrize("kind", runs.KINDS)
def test_a_row_of_each_kind_is_complete_and_the_same_twice(kind, brief):
    first, second = (rows.flat([rows.checked(a_row(kind))]) for _ in range(2))
    assert first == second
    for line in first:
        assert line["dataset"] == "mnist-m" and line["network"] == "vgg-small" and line["seeds"] == 3
    with pytest.raises(ValueError, match="kind is 'guess'"):
        runs.run(dict(kind="guess"), seed=0, scale="smoke", device="cpu")


def test_criteria_have_the_same_widths_and_are_not_trained(brief):
    found = pd.DataFrame(rows.flat([a_row("criteria")]))
    assert found.groupby("share").parameters.nunique().eq(1).all() and (found.epochs == 0).all()
    assert found.groupby("share").method.unique().map(set).map(lambda methods: methods == set(channel_sets.CRITERIA)).all()
    assert found.groupby("method").left.unique().map(list).map(lambda left: left == sorted(left, reverse=True)).all()
    choices = found[found.share == 0.8].set_index("method").accuracy
    assert choices.nunique() > 3, "each criterion leaves another network"


def test_ways_of_tuning_start_from_the_same_network_and_images(brief, monkeypatch):
    calls = []

    def fit(model: nn.Module, splits: data.Splits, **how) -> None:
        calls.append((sum(p.sum().item() for p in model.parameters()), splits.train.labels.tolist(), how["lr"], how["schedule"]))

    monkeypatch.setattr(training.recipes, "fit", fit)
    row = a_row("tuning")
    halved, whole = calls[:-1], calls[-1]
    assert len({start for start, *_ in halved}) == 1 and whole[0] != halved[0][0]
    assert all(labels == whole[1] for _, labels, *_ in calls)
    assert [call[2:] for call in calls] == [(lr, schedule) for _, lr, schedule in runs.TUNING]
    changes = tables.tuning(pd.DataFrame(rows.flat([row])))
    assert (changes[["validation", "test"]] == 0).all(axis=None), "nothing was trained, so nothing changes"


def test_each_seed_is_a_network_of_its_own(brief, monkeypatch):
    asked = []

    def pretrained(name: str, dataset: str, seed: int = 0, **_more) -> nn.Module:
        asked.append(seed)
        torch.manual_seed(seed)
        return models.build(name).eval()

    monkeypatch.setattr(models, "pretrained", pretrained)
    first, second = (a_row("images", seed) for seed in (1, 2))
    assert asked == [1, 2] and first["baseline_loss"] != second["baseline_loss"]


def test_a_cut_is_that_of_the_comparison(network, splits):
    few, keep = splits.train.take(40), dict(conv2=20, conv4=30)
    for method in ("L1", "random", "APoZ"):
        found = runs.cut(method, network, keep, few, 5, seed=3)
        assert torch.equal(found.conv4.weight, one_shot.by_filter(method, network, keep, few, 3).conv4.weight)
    for method in ("ThiNet", "ThiNet, not rescaled"):
        found = runs.cut(method, network, keep, few, 5, seed=3)
        assert torch.equal(found.conv5.weight, one_shot.by_sum(method, network, keep, few, 5, 3).conv5.weight)
    forward = runs.cut(channel_sets.FORWARD, network, keep, few, 5, seed=3)
    assert forward.conv4.weight.shape == found.conv4.weight.shape and not torch.equal(forward.conv4.weight, found.conv4.weight)


@pytest.mark.parametrize("scale", ["smoke", "lesson", "paper"])
def test_the_settings_have_names_and_shares_of_their_own(scale):
    grid = runs.grid(scale)
    assert len({setting["name"] for setting in grid}) == len(grid) and {setting["kind"] for setting in grid} == set(runs.KINDS)
    assert all(setting["network"] in runs.SHARES for setting in grid)


def test_a_loop_that_was_interrupted_ends_as_one_that_was_not(network, splits, monkeypatch, tmp_path):
    """Each training has a file of its own; finished rounds are read from theirs."""

    def loop(**more):
        train = recipe(splits, epochs=1, lr=0.02, progress=False, **more)
        return paper.prune(network, splits.train, KEEP, per_class=2, retrain=train, finish=train)

    whole, again, steps = resumed(loop, 6, tmp_path, monkeypatch)
    assert again.record == whole.record and steps == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.1", "state.2", "state.3"]
