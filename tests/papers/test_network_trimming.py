"""Hu et al. 2016: zeros counted by hand and by NumPy, which neurons go, trimming, and the removal of dead ones."""

import copy
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from course_lib import data, models, surgery
from course_lib.data import Split
from course_lib.experiments import network_trimming as runs
from course_lib.papers import network_trimming as paper
from course_lib.training import evaluate
from tests.resumption import resumed

pytestmark = pytest.mark.timeout(240)  # some take ten seconds on an idle machine

shares = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))


def with_statistics(name: str) -> nn.Module:
    """A network of the course whose batch norms shift and scale."""
    torch.manual_seed(0)
    model = models.build(name).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.3)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_(std=0.3)
    return model


def unlabelled(images: torch.Tensor) -> Split:
    return Split(images, torch.zeros(len(images), dtype=torch.int64))


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    whole = data.load("mnist-5k")
    return data.Splits(whole.train.take(512), whole.test.take(256), whole.name, whole.requested)


@pytest.fixture
def lenet() -> nn.Module:
    return models.pretrained("lenet-5-relu", "mnist-5k")


def test_three_images_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2), nn.ReLU(), nn.Linear(2, 2))
    model[0].weight.data = torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1, 1)
    model[0].bias.data = torch.tensor([0.0, 0.0, -5.0])
    model[3].weight.data = torch.cat([torch.ones(1, 12), -torch.ones(1, 12)])
    model[3].bias.data.zero_()
    images = torch.tensor([[1.0, 2, 3, 4], [0, 0, -1, -2], [6, -6, 0, 0]]).view(3, 1, 2, 2)
    # x itself is positive at 4, 0, 1 places of 4; -x at 0, 2, 1; x - 5 at one place in all
    expected = {"0": [7 / 12, 9 / 12, 11 / 12], "3": [0.0, 1.0]}
    found = paper.apoz(model, unlabelled(images), ["0", "3"])
    assert {layer: values.tolist() for layer, values in found.items()} == expected
    assert all(values.dtype == torch.float64 for values in found.values())


# layer -> the ReLU behind it, looked up in the networks' definitions
BEHIND = {
    "lenet-300-100": dict(fc1="relu1", fc2="relu2"),
    "lenet-5": dict(fc1="relu1"),
    "lenet-5-relu": dict(conv1="relu1", conv2="relu2", fc1="relu3"),
    "vgg-small": {f"conv{i}": f"relu{i}" for i in range(1, 7)},
    "vgg-16": {f"conv{i}": f"relu{i}" for i in range(1, 14)} | dict(fc1="relu14"),
    "resnet-20": {
        layer: f"{block}.relu{layer[-1]}" if block else "relu1"
        for block in ("", *(f"stage{s}.{b}" for s in (1, 2, 3) for b in (0, 1, 2)))
        for layer in ([f"{block}.conv1", f"{block}.conv2"] if block else ["conv1"])
    }
    | {f"stage{s}.0.shortcut.conv": f"stage{s}.0.relu2" for s in (2, 3)},
}


@pytest.mark.parametrize("name", BEHIND)
def test_it_is_two_lines_of_numpy_on_stored_activations(name):
    model, images = with_statistics(name), models.example_input(name, 7)
    stored: dict[str, np.ndarray] = {}
    for relu in set(BEHIND[name].values()):
        model.get_submodule(relu).register_forward_hook(lambda m, i, out, relu=relu: stored.update({relu: out.numpy()}))
    with torch.no_grad():
        model(images)
    assert set(paper.layers_with_relu(model, images)) == set(BEHIND[name])
    found = paper.apoz(model, unlabelled(images), BEHIND[name])
    for layer, relu in BEHIND[name].items():
        outputs = stored[relu]
        assert np.array_equal(found[layer], (outputs == 0).mean(axis=tuple(i for i in range(outputs.ndim) if i != 1)))


@settings(max_examples=12)
@given(st.integers(1, 40), st.integers(1, 50))
def test_the_batch_size_does_not_matter(images, batch_size):
    model = models.build("lenet-5-relu").double()  # in float32 a sum near zero may change its sign with the size of the batch
    split = unlabelled(models.example_input("lenet-5-relu", images).double())
    whole, streamed = (paper.apoz(model, split, ["conv2", "fc1"], batch_size=size) for size in (images, batch_size))
    assert all(torch.equal(whole[layer], streamed[layer]) for layer in ("conv2", "fc1"))


class Spelled(nn.Module):
    """conv, norm, pool, ReLU, conv, dropout, ReLU; with the ReLU given as a function."""

    def __init__(self, relu):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm, self.second = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3)
        self.norm.bias.data.normal_()
        self.relu = relu

    def forward(self, x):
        x = self.relu(F.max_pool2d(self.norm(self.first(x)), 2))
        return self.relu(F.dropout(self.second(x), 0.5, self.training)).mean((2, 3))


SPELLINGS = {
    "a module, used twice": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "a method": lambda x: x.relu(),
    "a method in place": lambda x: x.relu_(),
    "ReLU6, which is zero at the same places": nn.ReLU6(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_however_the_relu_is_written(spelling):
    model, images = Spelled(SPELLINGS[spelling]).double().train(), models.example_input("lenet-5", 9).double()
    found = paper.apoz(model, unlabelled(images), paper.layers_with_relu(model, images), batch_size=4)
    assert model.training
    with torch.no_grad():
        model.eval()
        first = F.max_pool2d(model.norm(model.first(images)), 2).clamp(min=0)
        second = model.second(first).clamp(min=0)
    assert list(found) == ["first", "second"]
    for values, outputs in zip(found.values(), (first, second), strict=True):
        assert torch.equal(values, (outputs == 0).double().mean((0, 2, 3)))


def test_a_network_of_torchvision_with_one_relu_for_three_places():
    torch.manual_seed(0)
    model, images = torchvision.models.resnet18().double().eval(), torch.randn(2, 3, 64, 64).double()
    found = paper.apoz(model, unlabelled(images), paper.layers_with_relu(model, images))
    assert set(found) == {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    with torch.no_grad():
        x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        inner = {name: m for name, m in model.named_children() if name.startswith("layer")}
        block, outputs = inner["layer2"][0], {}
        x = inner["layer1"](x)
        outputs["layer2.0.conv1"] = hidden = block.bn1(block.conv1(x)).clamp(min=0)
        outputs["layer2.0.conv2"] = (block.bn2(block.conv2(hidden)) + block.downsample(x)).clamp(min=0)
        outputs["layer2.0.downsample.0"] = outputs["layer2.0.conv2"]
    for layer, values in outputs.items():
        assert torch.equal(found[layer], (values == 0).double().mean((0, 2, 3)))


def test_only_the_first_relu_counts():
    class Preactivated(nn.Module):
        """The features of `first` are read behind a ReLU, and once more behind the ReLU of the sum."""

        def __init__(self):
            super().__init__()
            self.first, self.inner, self.out = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            x = self.first(x)
            return self.out(F.relu(x + self.inner(F.relu(x))))

    model, images = Preactivated(), torch.randn(20, 4)
    found = paper.apoz(model, unlabelled(images), paper.layers_with_relu(model, images))
    assert list(found) == ["first", "inner"]
    assert torch.equal(found["first"], (model.first(images) <= 0).double().mean(0))


def test_a_dense_layer_on_a_sequence_has_its_channels_last():
    model, images = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(5, 7, 4)
    assert torch.equal(paper.apoz(model, unlabelled(images))["0"], (model[0](images) <= 0).double().mean((0, 1)))


def test_the_mean_activation_is_the_mean_of_the_activations(lenet, splits):
    found = paper.mean_behind_relu(lenet, splits.test, ["conv2"], lambda outputs: outputs, batch_size=100)["conv2"]
    with torch.no_grad():
        expected = lenet[:5](splits.test.images).double().mean((0, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_without_names_it_measures_what_surgery_can_narrow():
    model, images = with_statistics("resnet-20"), models.example_input("resnet-20", 2)
    found = paper.apoz(model, unlabelled(images))
    assert set(found) == set(surgery.prunable_layers(model, images)) and "stage1.0.conv1" in found
    assert surgery.narrow(model, {layer: [0, 1] for layer in found}, images)(images).shape == (2, 10)


def test_activations_do_not_pile_up(lenet):
    alive = []

    def count(_module, _inputs, outputs):
        alive.append((weakref.ref(outputs), sum(ref() is not None for ref, _ in alive)))

    lenet.relu1.register_forward_hook(count)
    paper.apoz(lenet, unlabelled(torch.zeros(1, 1, 28, 28).expand(60, 1, 28, 28)), ["fc1"], batch_size=5)
    assert len(alive) == 13 and max(others for _, others in alive) <= 1


def test_the_network_is_left_as_it_was(lenet, splits):
    lenet.train()
    before = copy.deepcopy(lenet.state_dict())
    paper.apoz(lenet, splits.test)
    paper.remove_dead_neurons(lenet, splits.test)
    with pytest.raises(RuntimeError, match="size|shape"):
        paper.apoz(lenet, unlabelled(torch.zeros(2, 1, 20, 20)), ["fc1"])
    assert all(module.training for module in lenet.modules())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in lenet.modules())
    assert all(torch.equal(value, lenet.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("layers", [["conv9"], ["relu1"], ["conv1"], ["fc1", "fc2"], []])
def test_a_layer_without_a_relu_lists_those_with_one(layers):
    with pytest.raises(ValueError, match=r"layers is \[.*with a ReLU behind them are fc1$"):
        paper.apoz(models.build("lenet-5"), unlabelled(torch.zeros(2, 1, 28, 28)), layers)


def test_nothing_to_measure_on_is_refused(lenet, splits):
    for call in (paper.apoz, paper.remove_dead_neurons):
        with pytest.raises(ValueError, match="split has (0|no) images"):
            call(lenet, splits.test.take(0))
    with pytest.raises(ValueError, match="batch_size is 0"):
        paper.apoz(lenet, splits.test, batch_size=0)


@given(shares, st.floats(0, 3))
def test_the_neurons_that_go_are_above_the_threshold(values, stds):
    threshold = values.mean() + stds * values.std()
    kept = paper.neurons_to_keep(torch.from_numpy(values), stds).tolist()
    clear = np.abs(values - threshold) > 1e-9  # rounding decides at the threshold itself
    assert set(np.flatnonzero(clear & (values < threshold))) <= set(kept)
    assert not set(np.flatnonzero(clear & (values > threshold))) & set(kept)
    assert kept == sorted(set(kept)) and kept
    gone = np.delete(values, kept)
    assert not len(gone) or gone.min() > values[kept].max()  # the silent ones, never the loud


def test_which_side_by_hand():
    assert paper.neurons_to_keep(torch.tensor([0.1, 0.2, 0.2, 0.9])).tolist() == [0, 1, 2]  # 0.35 + 0.32
    assert paper.neurons_to_keep(torch.tensor([0.9, 0.9, 0.9, 0.1])).tolist() == [0, 1, 2, 3]  # 0.7 + 0.35 is above 1
    assert paper.neurons_to_keep(torch.tensor([0.5, 0.6, 0.8, 0.9]), stds=0).tolist() == [0, 1]
    assert paper.neurons_to_keep(torch.full((7,), 0.3)).tolist() == list(range(7))
    assert paper.neurons_to_keep(torch.tensor([0.5])).dtype == torch.int64


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]], [0.1, 1.2], [-0.1, 0.5], [0.5, float("nan")]])
def test_what_is_no_apoz_is_refused(values):
    with pytest.raises(ValueError, match=r"apoz_of_layer is .*expected numbers in \[0, 1\]"):
        paper.neurons_to_keep(torch.tensor(values))
    with pytest.raises(ValueError, match="stds is -1"):
        paper.neurons_to_keep(torch.tensor([0.5]), stds=-1)


def test_each_round_measures_anew_and_trims_what_the_measure_says(lenet, splits):
    before = copy.deepcopy(lenet.state_dict())
    measured_on = splits.train.take(200)
    result = paper.iterative_trim(
        lenet, splits, layers=["conv2", "fc1"], rounds=2, epochs=1, lr=0.0, measured_on=measured_on, progress=False
    )
    assert all(torch.equal(value, lenet.state_dict()[name]) for name, value in before.items())
    by_hand = lenet
    for row in result.rounds:  # at a learning rate of 0 the survivors are all that is left of the loop
        values = paper.apoz(by_hand, measured_on, ["conv2", "fc1"])
        for layer in ("conv2", "fc1"):
            by_hand = surgery.keep_channels(
                by_hand, layer, paper.neurons_to_keep(values[layer]), models.example_input("lenet-5-relu")
            )
            assert row["apoz"][layer] == values[layer].mean().item()
        assert row["widths"] == dict(conv2=by_hand.conv2.out_channels, fc1=by_hand.fc1.out_features)
        assert row["parameters"] == sum(p.numel() for p in by_hand.parameters())
        assert row["trimmed"] == row["retrained"] == evaluate(by_hand, splits.test)
    assert all(torch.equal(value, by_hand.state_dict()[name]) for name, value in result.model.state_dict().items())
    assert result.model.fc1.out_features < 500


def test_iterative_trimming_is_the_same_twice_and_needs_a_round(lenet, splits):
    arguments = dict(layers=["fc1"], rounds=1, epochs=1, lr=0.02, seed=3, progress=False)
    first, second = (paper.iterative_trim(lenet, splits, **arguments).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="rounds is 0"):
        paper.iterative_trim(lenet, splits, **arguments | dict(rounds=0))


def test_dead_neurons_leave_without_a_trace(lenet, splits):
    lenet = lenet.double()
    split = Split(splits.test.images.double(), splits.test.labels)
    lenet.conv1.bias.data[[2, 3]] = -100
    lenet.conv2.bias.data[[7]] = -100
    lenet.fc1.bias.data[:10] = -100
    values = paper.apoz(lenet, split)
    alive = {layer: int((shares < 1).sum()) for layer, shares in values.items()}
    smaller = paper.remove_dead_neurons(lenet, split)
    assert (alive["conv1"], alive["conv2"]) <= (18, 49) and alive["fc1"] <= 490
    assert {layer: len(smaller.get_submodule(layer).weight) for layer in alive} == alive
    with torch.no_grad():
        torch.testing.assert_close(smaller(split.images), lenet(split.images), atol=1e-12, rtol=1e-12)
    only = paper.remove_dead_neurons(lenet, split, ["conv1"])
    assert (len(only.conv1.weight), len(only.fc1.weight)) == (alive["conv1"], 500)


def test_a_silent_channel_that_a_later_norm_makes_speak_stays():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 576, 10)
    ).eval()
    model[0].bias.data[:2] = -100
    model[2].bias.data[:] = torch.tensor([0.5, 0.0, 0.0, 0.0])  # channel 0 is silent behind its ReLU and 0.5 behind the norm
    split = unlabelled(models.example_input("lenet-5", 8))
    assert (paper.apoz(model, split, ["0"])["0"][:2] == 1).all()
    smaller = paper.remove_dead_neurons(model, split, ["0"])
    assert torch.equal(smaller[0].weight, model[0].weight[[0, 2, 3]])
    torch.testing.assert_close(smaller(split.images), model(split.images))


def test_a_channel_of_a_sum_is_dead_where_all_its_readers_hear_nothing():
    model = with_statistics("resnet-20").double()
    images = models.example_input("resnet-20", 4).double()
    makers = ["conv1", "stage1.0.conv2", "stage1.1.conv2", "stage1.2.conv2"]
    norms = ["norm1", *(f"stage1.{b}.norm2" for b in range(3))]
    for norm in norms:
        model.get_submodule(norm).bias.data[[1, 5]] = -1e6
    model.get_submodule(norms[2]).bias.data[5] = 1e3  # 5 speaks from block 1 on
    model.get_submodule("stage1.1.norm1").bias.data[3] = -1000  # inside a block
    smaller = paper.remove_dead_neurons(model, unlabelled(images))
    assert [len(smaller.get_submodule(name).weight) for name in makers] == [15] * 4
    assert len(smaller.get_submodule("stage1.1.conv1").weight) <= 15
    with torch.no_grad():
        torch.testing.assert_close(smaller(images), model(images), atol=1e-9, rtol=1e-9)


def test_a_layer_that_is_wholly_silent_keeps_one_neuron(lenet, splits):
    lenet.fc1.bias.data[:] = -1000
    smaller = paper.remove_dead_neurons(lenet, splits.test)
    assert smaller.fc1.weight.shape[0] == 1
    torch.testing.assert_close(smaller(splits.test.images), lenet(splits.test.images))
    with pytest.raises(ValueError, match="layers names 'fc9'; .* are conv1, conv2, fc1, fc2"):
        paper.remove_dead_neurons(lenet, splits.test, ["fc9"])


def test_scores_by_hand_and_the_highest_stay(lenet, splits):
    with torch.no_grad():
        says = lenet[:9](splits.test.images)
    expected = {
        "APoZ": (says > 0).double().mean(0) - 1,
        "APoZ, wrong side": (says == 0).double().mean(0),
        "mean activation": says.double().mean(0),
        "L1 norm": torch.tensor([row.abs().sum() for row in lenet.fc1.weight.detach()]),
    }
    for criterion, scores in expected.items():
        found = runs.scores(lenet, splits.test, criterion, seed=0)["fc1"]
        torch.testing.assert_close(found, scores.to(found.dtype), rtol=1e-4, atol=1e-6)
    narrower = runs.cut(lenet, dict(fc1=torch.arange(500.0), conv2=-torch.arange(50.0)), dict(fc1=3, conv2=2), splits)
    assert torch.equal(narrower.fc2.weight, lenet.fc2.weight[:, [497, 498, 499]])
    assert torch.equal(narrower.conv2.weight, lenet.conv2.weight[:2])
    first, second = (runs.scores(lenet, splits.test, "random", seed)["fc1"] for seed in (1, 2))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="criterion is 'taste'"):
        runs.scores(lenet, splits.test, "taste", 0)


def test_the_papers_widths_have_the_papers_rates():
    rates = [431_080 / runs.size(runs.lenet(*widths)) for widths in runs.PAPER]
    assert [round(rate, 2) for rate in rates] == [1.0, 1.41, 2.23, 3.11, 3.85]


@pytest.mark.parametrize("kind", ["iterative", "criterion", "width"])
def test_a_row_of_each_kind(kind, splits, monkeypatch):
    monkeypatch.setattr(data, "load", lambda name, device: splits)
    setting = next(s for s in runs.grid("smoke") if s["kind"] == kind)
    first, second = (runs.run(setting, seed=0, scale="smoke", device="cpu") for _ in range(2))
    assert first == second and first["data set"] == "mnist-5k"
    if kind == "iterative":
        table = runs.paper_table(pd.DataFrame([setting | first | dict(seed=0, scale="smoke")]))
        assert list(table["round"]) == [1, 2] and table["rate, paper"].tolist() == ["1.41x", "2.23x"]
        assert len(first["at_once"]) == len(first["from_scratch"]) == 3
    with pytest.raises(ValueError, match="kind is 'guess'"):
        runs.run(dict(setting, kind="guess"), seed=0, scale="smoke", device="cpu")


@pytest.mark.parametrize("scale", ["smoke", "lesson", "paper"])
def test_the_settings_have_names_of_their_own(scale):
    names = [setting["name"] for setting in runs.grid(scale)]
    assert len(set(names)) == len(names) >= 9


def on_gpu(splits: data.Splits) -> data.Splits:
    parts = (data.Split(split.images.cuda(), split.labels.cuda()) for split in (splits.train, splits.test))
    return data.Splits(*parts, splits.name, splits.requested)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_trims_the_same(lenet, splits, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    there, layers = on_gpu(splits), ["conv2", "fc1"]
    model = copy.deepcopy(lenet).cuda()
    for layer, values in paper.apoz(model, there.train, layers).items():
        assert values.is_cuda
        torch.testing.assert_close(values.cpu(), paper.apoz(lenet, splits.train, [layer])[layer], atol=1e-3, rtol=0)
    how = dict(layers=layers, rounds=2, lr=0.0, progress=False)  # the survivors alone decide
    trimmed, expected = paper.iterative_trim(model, there, **how), paper.iterative_trim(lenet, splits, **how)
    assert [row["widths"] for row in trimmed.rounds] == [row["widths"] for row in expected.rounds]
    for name, value in trimmed.model.state_dict().items():
        assert value.is_cuda
        torch.testing.assert_close(value.cpu(), expected.model.state_dict()[name])
    assert trimmed.rounds[-1]["retrained"] == pytest.approx(expected.rounds[-1]["retrained"], abs=0.03)  # in bfloat16


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_dead_neurons_leave_without_a_trace(lenet, splits):
    lenet.conv2.bias.data[[7, 9]] = -100
    model, there = lenet.cuda(), on_gpu(splits)
    narrower = paper.remove_dead_neurons(model, there.test, ["conv2"])
    assert narrower.conv2.out_channels <= 48 and all(value.is_cuda for value in narrower.state_dict().values())
    with torch.no_grad():
        torch.testing.assert_close(narrower(there.test.images), model(there.test.images), atol=1e-2, rtol=1e-2)


def test_a_loop_that_was_interrupted_ends_as_one_that_was_not(lenet, splits, monkeypatch, tmp_path):
    """Each call of `fit` has a file of its own; finished rounds are read from theirs."""

    def loop(**more):
        return paper.iterative_trim(lenet, splits, layers=["fc1"], rounds=2, epochs=2, lr=0.02, progress=False, **more)

    whole, again, steps = resumed(loop, 6, tmp_path, monkeypatch)
    assert again.rounds == whole.rounds and steps == 16 - 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.1", "state.2"]
