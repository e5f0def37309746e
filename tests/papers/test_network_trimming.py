"""Hu et al. 2016: zeros counted by hand and by NumPy, which neurons are removed, and trimming in rounds."""

import copy
import weakref
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgba
from torch import nn

from course_lib import cost, data, models, surgery, training
from course_lib.activations.relus import layers_with_relu, mean_after_relu
from course_lib.data import Split
from course_lib.experiments import network_trimming as runs
from course_lib.experiments import rows
from course_lib.experiments import trimming_tables as tables
from course_lib.lessons import network_trimming as lesson
from course_lib.lessons import trimming_rows
from course_lib.notebook import plots
from course_lib.papers import network_trimming as paper
from course_lib.storage import networks
from course_lib.streams import stream
from course_lib.training import evaluate, recipes
from tests.resumption import resumed

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
    return data.Splits(whole.train.take(512), whole.validation.take(256), whole.test.take(256), whole.name, whole.requested)


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
    assert set(layers_with_relu(model, images)) == set(BEHIND[name])
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
    found = paper.apoz(model, unlabelled(images), layers_with_relu(model, images), batch_size=4)
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
    found = paper.apoz(model, unlabelled(images), layers_with_relu(model, images))
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
    found = paper.apoz(model, unlabelled(images), layers_with_relu(model, images))
    assert list(found) == ["first", "inner"]
    assert torch.equal(found["first"], (model.first(images) <= 0).double().mean(0))


def test_a_dense_layer_on_a_sequence_has_its_channels_last():
    model, images = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(5, 7, 4)
    assert torch.equal(paper.apoz(model, unlabelled(images))["0"], (model[0](images) <= 0).double().mean((0, 1)))


def test_the_mean_activation_is_the_mean_of_the_activations(lenet, splits):
    found = mean_after_relu(lenet, splits.test, ["conv2"], lambda outputs: outputs, batch_size=100)["conv2"]
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
    paper.prune(lenet, splits.test)
    with pytest.raises(RuntimeError, match="size|shape"):
        paper.apoz(lenet, unlabelled(torch.zeros(2, 1, 20, 20)), ["fc1"])
    assert all(module.training for module in lenet.modules())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in lenet.modules())
    assert all(torch.equal(value, lenet.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("layers", [["conv9"], ["relu1"], ["conv1"], ["fc1", "fc2"], []])
def test_a_layer_without_a_relu_lists_those_with_one(layers):
    with pytest.raises(ValueError, match=r"layers is \[.*with a ReLU after them are fc1$"):
        paper.apoz(models.build("lenet-5"), unlabelled(torch.zeros(2, 1, 28, 28)), layers)


def test_nothing_to_measure_on_is_refused(lenet, splits):
    for call in (paper.apoz, paper.prune):
        for empty in (splits.test.take(0), []):
            with pytest.raises(ValueError, match="batches holds no images"):
                call(lenet, empty)
    with pytest.raises(ValueError, match="size is 0"):
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
    measured_on, layers = splits.train.take(200), ["conv2", "fc1"]
    result = paper.prune(
        lenet, measured_on, layers=layers, rounds=2, retrain=add_a_little, measure=lambda network: evaluate(network, splits.test)
    )
    assert all(torch.equal(value, lenet.state_dict()[name]) for name, value in before.items())
    by_hand = lenet
    for row in result.record:
        values = paper.apoz(by_hand, measured_on, layers)
        for layer in layers:
            by_hand = surgery.keep_channels(
                by_hand, layer, paper.neurons_to_keep(values[layer]), models.example_input("lenet-5-relu")
            )
            assert row["apoz"][layer] == values[layer].mean().item()
        assert row["kept"] == dict(conv2=by_hand.conv2.out_channels, fc1=by_hand.fc1.out_features)
        assert row["parameters"] == sum(p.numel() for p in by_hand.parameters())
        assert row["pruned"] == evaluate(by_hand, splits.test)
        add_a_little(by_hand)
        assert row["retrained"] == evaluate(by_hand, splits.test)
    assert [row["round"] for row in result.record] == [1, 2] and result.model.fc1.out_features < 500
    assert all(torch.equal(value, by_hand.state_dict()[name]) for name, value in result.model.state_dict().items())
    assert not any(module.training for module in result.model.modules())


def add_a_little(model: nn.Module) -> None:
    """Stands for retraining; leaves the network in training mode, as anybody's training may."""
    model.train()
    for parameter in model.parameters():
        parameter.data += 0.001


def test_without_retrain_and_measure_the_record_has_no_such_columns(lenet, splits):
    with torch.no_grad():
        batches = [(splits.test.images[:60], splits.test.labels[:60]), (splits.test.images[60:100], splits.test.labels[60:100])]
        by_batches = paper.prune(lenet, batches, layers=["fc1"])
    by_split = paper.prune(
        lenet, splits.test._replace(images=splits.test.images[:100], labels=splits.test.labels[:100]), layers=["fc1"]
    )
    assert by_batches.record == by_split.record and list(by_split.record[0]) == ["round", "apoz", "kept", "parameters"]


def test_as_many_neurons_stay_as_are_asked_for_spread_over_the_rounds(lenet, splits):
    values = paper.apoz(lenet, splits.test)
    result = paper.prune(lenet, splits.test, keep=dict(conv2=10, fc1=0.25))
    for layer, count in dict(conv2=10, fc1=125).items():
        assert result.record[0]["kept"][layer] == count
        kept = values[layer].argsort(stable=True)[:count].sort().values
        assert torch.equal(result.model.get_submodule(layer).bias, lenet.get_submodule(layer).bias[kept])
    assert set(result.record[0]["kept"]) == {"conv2", "fc1"}
    rounds = paper.prune(lenet, splits.test, layers=["conv1", "fc1"], keep=0.4, rounds=3).record
    assert [row["kept"] for row in rounds] == [dict(conv1=16, fc1=400), dict(conv1=12, fc1=300), dict(conv1=8, fc1=200)]


TORCHVISION = ("resnet18", pytest.param("mobilenet_v2", marks=pytest.mark.slow))


@pytest.mark.parametrize("name", TORCHVISION)
def test_by_default_it_trims_torchvisions_networks(name):
    """Neither depthwise layers nor two layers of one sum, which `narrow` refuses."""
    torch.manual_seed(0)
    model, images = torchvision.models.get_model(name).eval(), torch.randn(2, 3, 64, 64)
    found = paper.apoz(model, unlabelled(images))
    sums = [surgery.coupling(model, layer, images).producers for layer in found]
    assert len(set(sums)) == len(sums) and all(getattr(model.get_submodule(layer), "groups", 1) == 1 for layer in found)
    result = paper.prune(model, unlabelled(images), keep=0.5)
    assert result.record[0]["kept"] == {layer: len(values) // 2 for layer, values in found.items()}
    assert result.model(images).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(rounds=0), "rounds is 0"),
        (dict(layers=["fc2"]), "layers is .'fc2'"),
        (dict(keep=dict(conv9=0.5)), "layers is .'conv9'"),
        (dict(layers=["fc1"], keep=dict(conv2=0.5)), "keep names 'conv2'; .* are fc1"),
        (dict(keep={}), "layers is ..; "),
        (dict(keep=501, layers=["fc1"], rounds=2), "keep is 501 for layer 'fc1'"),
        (dict(keep=0, rounds=2), "keep is 0 for layer 'conv1'"),
        (dict(keep=1.5, rounds=2), "keep is 1.5 for layer 'conv1'"),
        (dict(keep=dict(fc1=[0, 1]), rounds=2), "keep is indices for layer 'fc1', and rounds is 2"),
        (dict(stds=-1.0), "stds is -1"),
    ],
)
def test_bad_arguments_are_refused_before_any_training(lenet, splits, arguments, message):
    with pytest.raises(ValueError, match=message):
        paper.prune(lenet, splits.test, retrain=lambda model: pytest.fail("it trained"), **arguments)


def test_an_interrupt_of_retraining_reaches_the_caller(lenet, splits):
    def interrupted(model: nn.Module) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paper.prune(lenet, splits.test, layers=["fc1"], retrain=interrupted)


def test_a_trimmed_network_is_saved_and_loaded(lenet, splits, tmp_path):
    result = paper.prune(lenet, splits.test, rounds=2)
    result.save(tmp_path / "trimmed")
    again = networks.load(tmp_path / "trimmed", models.build("lenet-5-relu"))
    assert torch.equal(again(splits.test.images), result.model(splits.test.images))


def test_trimming_is_the_same_twice(lenet, splits):
    how = dict(epochs=1, lr=0.02, seed=3, progress=False)
    first, second = (
        paper.prune(lenet, splits.train, layers=["fc1"], retrain=training.recipe(splits, **how)).model.state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


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
    cited = [("{}, {}".format(*widths), round(rate, 2)) for widths, rate in zip(runs.PAPER, rates, strict=True)]
    assert cited[1:] == list(tables.PAPER_ROUNDS) and runs.size(runs.lenet(50, 500)) == tables.PARAMETERS


def test_the_earlier_epochs_are_those_of_the_recipe():
    assert runs.budget("lesson")["earlier"] == models.RECIPES["lenet-5-relu", "mnist"]["epochs"]


def a_row(setting: dict, seed: int = 0) -> dict:
    """A row of a setting, as the runner makes it."""
    about = dict(experiment="network_trimming", command="", seconds=1.0, device="CPU", versions={}, date="", fingerprint="")
    return setting | dict(seed=seed, scale="smoke") | runs.run(setting, seed=seed, scale="smoke", device="cpu") | about


@pytest.mark.parametrize("kind", runs.KINDS)
def test_a_row_of_each_kind_is_complete_and_the_same_twice(kind, few):
    few(128, 64)
    setting = next(s for s in runs.grid("smoke") if s["kind"] == kind)
    first, second = (rows.flat([rows.checked(a_row(setting))]) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one == other | {name: one[name] for name in ("latency_1", "latency_64")}
        assert one["dataset"] == "mnist-5k" and one["network"] == "lenet-5-relu"
    with pytest.raises(ValueError, match="kind is 'guess'"):
        runs.run(dict(setting, kind="guess"), seed=0, scale="smoke", device="cpu")


@pytest.fixture
def epochs_given(monkeypatch, few) -> list[tuple[int, float]]:
    """The (parameters, epochs) of each training, none of which trains."""
    few(64, 64)
    given = []

    def fit(model: nn.Module, splits: data.Splits, *, epochs: int, **settings) -> training.History:
        given.append((runs.size(model), epochs))
        return training.History()

    monkeypatch.setattr(runs, "fit", fit)
    monkeypatch.setattr(recipes, "fit", fit)
    return given


def test_all_ways_to_a_shape_have_the_same_epochs(epochs_given):
    found = pd.DataFrame(rows.flat([runs.run(dict(kind="rounds"), seed=0, scale="smoke", device="cpu")]))
    work = runs.budget("smoke")
    total = work["rounds"] * work["again"]
    last = found[found.method == "rounds"].iloc[-1]
    shape = last.parameters
    assert epochs_given[: work["rounds"]] == [(p, work["again"]) for p in found[found.method == "rounds"].parameters]
    assert epochs_given[work["rounds"] :] == [(shape, total), (shape, total), (shape, work["earlier"] + total), (431_080, total)]
    by_method = found.groupby("method").last()
    assert (by_method.loc[["rounds", "one cut", "from scratch", "dense"], "epochs"] == total).all()
    assert by_method.loc["from scratch, longer", "epochs"] == work["earlier"] + total
    assert (by_method.loc[["rounds", "one cut", "from scratch", "from scratch, longer"], "parameters"] == shape).all()


@pytest.mark.parametrize("rate", runs.MANY)
def test_many_layers_and_few_have_the_same_epochs_and_parameters(rate, epochs_given):
    sizes = []
    for method in runs.ARMS:
        epochs_given.clear()
        row = runs.run(dict(kind="many", method=method, rate=rate), seed=0, scale="smoke", device="cpu")
        assert sum(epochs for _, epochs in epochs_given) == row["epochs"] == 2
        sizes.append(row["parameters"])
        assert row["removed"] < row["baseline"]
    assert max(sizes) <= 1.01 * min(sizes) and f"{431_080 / sizes[1]:.3g}x" == rate


def test_criteria_have_the_same_widths_and_epochs_and_each_draw_is_another(epochs_given):
    cut = {}
    for setting in (s for s in runs.grid("smoke") if s["kind"] == "criterion"):
        epochs_given.clear()
        points = runs.run(setting, seed=0, scale="smoke", device="cpu")["points"]
        assert [(p["conv2"], p["fc1"]) for p in points] == [*runs.PAPER[1:], *runs.BEYOND]
        assert epochs_given == [(p["parameters"], 1) for p in points]
        cut[setting["name"]] = tuple(p["removed"] for p in points)
    assert len(set(cut.values())) == len(cut) == len(runs.CRITERIA) - 1 + runs.DRAWS


def test_each_seed_is_a_network_of_its_own(epochs_given, monkeypatch):
    """Rows of a seed start from that seed's network, and random weights and draws are of that seed too."""
    asked = []

    def pretrained(name: str, dataset: str, seed: int = 0) -> nn.Module:
        asked.append(seed)
        torch.manual_seed(seed)
        return models.build(name)

    monkeypatch.setattr(models, "pretrained", pretrained)
    for setting in (dict(kind="rounds"), dict(kind="criterion", method="random", draw=0), dict(kind="images")):
        first, second = (pd.DataFrame(rows.flat([runs.run(setting, seed=s, scale="smoke", device="cpu")])) for s in (3, 4))
        assert (first.baseline_loss != second.baseline_loss.iloc[0]).all()
    assert asked == [3, 4] * 3
    splits, widths = data.load("mnist"), dict(conv2=5, fc1=7)
    first, again, other = (runs.redrawn(widths, splits, seed).fc1.weight for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_rate_is_chosen_for_the_epochs_that_it_is_used_for(epochs_given):
    for setting in (s for s in runs.grid("smoke") if s["kind"] == "lr"):
        epochs_given.clear()
        row = runs.run(setting, seed=0, scale="smoke", device="cpu")
        assert epochs_given == [(112_094, row["epochs"])] and row["lr"] == setting["lr"] and setting["seeds"] == 2
        assert row["epochs"] == (2 if setting["budget"] == "all rounds" else 1)


def test_the_table_takes_each_networks_first_round_at_the_papers_rate():
    """Three rounds of two networks; the second never gets to 3.85x."""
    lines = [
        dict(kind="rounds", method="rounds", dataset="mnist", network="lenet-5-relu", seed=seed, round=number, conv2=10, fc1=20,
             epochs=2 * number, baseline=99.5, removed=98.0, accuracy=99.5 - number / 10, parameters=round(431_080 / rate))
        for seed, rates in enumerate([(2, 3.9, 5), (1.5, 2, 3)]) for number, rate in enumerate(rates, start=1)
    ]  # fmt: skip
    found = pd.DataFrame(lines + [dict(lines[0], method="dense", round=None)])
    chosen = tables.at_papers_rate(tables.rounds_of(found))
    assert chosen["round"].tolist() == [2, 3] and chosen.lost.round(6).tolist() == [0.2, 0.3]
    table = runs.paper_table(found)
    assert table["rate, paper"].tolist() == ["1.41x", "2.23x", "3.11x"] and table.networks.tolist() == [2, 2, 2]
    assert table["error, retrained"].tolist() == ["0.60 %", "0.70 %", "0.80 %"]
    assert runs.headline(found).lost.round(6).tolist() == [0.25]


@pytest.mark.parametrize("scale", ["smoke", "lesson", "paper"])
def test_the_settings_have_names_of_their_own(scale):
    names = [setting["name"] for setting in runs.grid(scale)]
    assert len(set(names)) == len(names) >= 9


def on_gpu(splits: data.Splits) -> data.Splits:
    parts = (data.Split(split.images.cuda(), split.labels.cuda()) for split in (splits.train, splits.validation, splits.test))
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
    how = dict(layers=layers, rounds=2)
    trimmed, expected = paper.prune(model, there.train, **how), paper.prune(lenet, splits.train, **how)
    assert [row["kept"] for row in trimmed.record] == [row["kept"] for row in expected.record]
    for name, value in trimmed.model.state_dict().items():
        assert value.is_cuda
        assert torch.equal(value.cpu(), expected.model.state_dict()[name])
    on_cpu = [(images.cpu(), labels.cpu()) for images, labels in data.batched(there.train, 100)]  # batches may lie elsewhere
    assert paper.prune(model, on_cpu, **how).record[0]["kept"] == trimmed.record[0]["kept"]
    retrain = training.recipe(there, epochs=1, lr=0.02, progress=False)
    retrained = paper.prune(
        model, there.train, layers=layers, retrain=retrain, measure=lambda network: evaluate(network, there.test)
    )
    assert retrained.record[0]["retrained"] > 0.9


def test_a_loop_that_was_interrupted_ends_as_one_that_was_not(lenet, splits, monkeypatch, tmp_path):
    """Each call of `fit` has a file of its own; finished rounds are read from theirs."""

    def loop(**more):
        retrain = training.recipe(splits, epochs=2, lr=0.02, progress=False, **more)
        return paper.prune(lenet, splits.train, layers=["fc1"], rounds=2, retrain=retrain)

    whole, again, steps = resumed(loop, 6, tmp_path, monkeypatch)
    assert again.record == whole.record and steps == 16 - 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.1", "state.2"]


def made_up_rows() -> pd.DataFrame:
    """Rows of five networks in no order: network s has 99 + s / 10 percent, and each arm its own loss on top."""
    lines = []

    def add(kind: str, loss: float, fallen: float = 5.0, **more) -> None:
        for seed in range(5):
            base = 99 + seed / 10
            about = dict(
                kind=kind, seed=seed, dataset="mnist", network="lenet-5-relu", baseline=base, earlier=16, macs=10, epochs=10
            )
            lines.append(about | dict(accuracy=base - loss, removed=base - fallen, parameters=100_000) | more)

    for number in range(1, 6):
        silence = [dict(conv2=share, fc1=share) for share in (0.8, 0.8 - number / 20)]
        shape = dict(round=number, conv2=20, fc1=200, epochs=2 * number, parameters=431_080 / number)
        add("rounds", number / 10, method="rounds", apoz_before=silence[0], apoz=silence[1], **shape)
    for method, loss, epochs in (
        ("one cut", 0.3, 10),
        ("from scratch", 0.9, 10),
        ("from scratch, longer", 0.6, 26),
        ("dense", 0, 10),
    ):
        add("rounds", loss, method=method, epochs=epochs, macs=23 if method == "dense" else 10)
    for method, loss in zip(runs.ARMS, (0.9, 0.5, 0.2), strict=True):
        add("many", loss, method=method, rate="13.4x")
        add("many", loss / 2, method=method, rate="3.85x")
    for method, loss in zip(runs.CRITERIA, (0.5, 0.3, 0.2, 0.8, 1.5), strict=True):
        for draw in range(2 if method == "random" else 1):
            for conv2, _ in runs.PAPER[1:] + runs.BEYOND:
                add("criterion", loss + draw / 5 + (conv2 == 12), 10 * loss, method=method, conv2=conv2)
    for conv2, fc1 in runs.WIDTHS:
        layers = {layer: dict(width=wide, mean=wide / 2000, silent=1) for layer, wide in dict(conv2=conv2, fc1=fc1).items()}
        add("width", 1, layers=layers)
    return pd.DataFrame(lines).sample(frac=1, random_state=0)


def test_claims_compare_arms_network_by_network():
    """Networks differ by more than arms do, so differences that were paired wrongly would have an interval."""
    found = made_up_rows()
    papers, own = trimming_rows.papers_claims(found), trimming_rows.own_claims(found)
    assert len(papers) <= 8 and len(own) <= 5 and papers[-1].evidence is None
    effects = [claim.evidence.mean for claim in papers[:-1] + own]
    # A round falls by 4.9, 4.8, .. points from the one before and wins 4.9, 4.8, ..; random draws lose 0.8 and 1.0 points
    expected = [-0.1, 4.7, 0.4, 0.4, -0.2, 0.4, 0.25, -0.25, 3.0, 3.0, 1.0, 0.3]
    assert effects == pytest.approx(expected)
    for claim in papers[:-1] + own:
        assert claim.evidence.networks == 5 and claim.evidence.high - claim.evidence.low < 1e-9, claim.claim
    ends = tables.ends(found)
    assert ends.work["one cut"].tolist() == [16 * 23 + 10 * 10] * 5 == ends.work["rounds"].tolist()
    assert ends.work["from scratch, longer"].tolist() == [26 * 10] * 5


def test_putting_means_back_is_exact_where_the_removed_neurons_are_constant():
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(a=nn.Linear(6, 8), relu1=nn.ReLU(), b=nn.Linear(8, 7), relu2=nn.ReLU(), c=nn.Linear(7, 3)))
    with torch.no_grad():  # neurons 1 and 5 of a and 2 of b say the same whatever they see
        model.a.weight[[1, 5]], model.a.bias[[1, 5]] = 0.0, torch.tensor([0.5, 2.0])
        model.b.weight[2], model.b.bias[2] = 0.0, 1.5
    images = torch.randn(50, 6)
    keep = dict(a=torch.tensor([0, 2, 3, 4, 6, 7]), b=torch.tensor([0, 1, 3, 4, 5, 6]))
    narrower = lesson.means_put_back(model, keep, images)
    assert narrower.b.weight.shape == (6, 6)
    torch.testing.assert_close(narrower(images), model(images), atol=1e-5, rtol=1e-5)


def test_vgg16_is_counted_as_its_layers_are():
    """Against torchvision's VGG-16 with the paper's widths, counted parameter by parameter and layer by layer."""
    table = lesson.vgg16_table()
    for number, (conv, dense) in enumerate(lesson.VGG_16):
        with torch.device("meta"):
            vgg = torchvision.models.vgg16()
            vgg.features[28] = nn.Conv2d(512, conv, 3, padding=1)
            vgg.classifier[0], vgg.classifier[3] = nn.Linear(49 * conv, dense), nn.Linear(dense, 4096)
            layers = cost.count(vgg, torch.empty(1, 3, 224, 224))
        row, parameters, macs = table.iloc[number], layers.weights.sum(), layers.MACs.sum()
        if number == 0:
            assert (parameters, macs) == (lesson.VGG_PARAMETERS, lesson.VGG_MACS)
        assert row["parameters"] == f"{parameters / 1e6:.1f} M"
        assert row["fewer parameters"] == f"{lesson.VGG_PARAMETERS / parameters:.2f}x"
        assert row["fewer MACs"] == f"{lesson.VGG_MACS / macs:.2f}x"


def test_the_tournament_measures_each_score_on_validation_images(lenet, splits):
    found = lesson.tournament(runs.scores(lenet, splits.train, "L1 norm")["fc1"], lenet, splits.train, splits, keep=100)
    assert list(found)[0] == "your score" and found["your score"] == found["L1 norm"]
    kept = runs.cut(lenet, runs.scores(lenet, splits.train, "APoZ"), dict(fc1=100), splits)
    assert found["APoZ"] == runs.error(kept, splits.validation)


def test_the_tournament_draws_its_random_choice_several_times(lenet, splits):
    found = lesson.tournament(torch.arange(500.0), lenet, splits.train, splits, keep=100)
    orders = [runs.scores(lenet, None, "random", stream(0, "draw", draw)) for draw in range(lesson.DRAWS)]
    errors = [runs.error(runs.cut(lenet, order, dict(fc1=100), splits), splits.validation) for order in orders]
    assert found["random"] == pytest.approx(np.mean(errors)) and min(errors) < found["random"] < max(errors)
    assert (found["lowest draw"], found["highest draw"]) == (min(errors), max(errors))


def test_the_effects_are_drawn_by_both_measures(lenet, splits):
    shares = paper.apoz(lenet, splits.train, runs.LAYERS)
    fig = lesson.effects_figure(lenet, splits.train.images[:50], shares, dict(conv2=24, fc1=252))
    assert [ax.get_xlabel() for ax in fig.axes] == ["APoZ", "L1 norm"] * 2
    sizes = [[len(points.get_offsets()) for points in ax.collections] for ax in fig.axes]
    assert sizes == [[24, 26]] * 2 + [[252, 248]] * 2


def test_the_rounds_are_drawn_with_intervals_and_the_error_before():
    ax = trimming_rows.rounds_figure(made_up_rows()).axes[0]
    labels = [label.get_text() for label in ax.get_legend().get_texts()]
    assert labels == ["just trimmed", "retrained", "before trimming, 0.80 %"]


def test_the_layers_of_vgg_small_are_bars_from_lowest_to_highest_in_the_title():
    fig = lesson.mean_apoz_figure(dict(conv1=torch.tensor([0.2, 0.4]), conv2=torch.tensor([0.9]), conv3=torch.tensor([0.5])))
    ax = fig.axes[0]
    assert (ax.get_title("left") or ax.get_title()) == "The mean APoZ of vgg-small goes from 0.30 in conv1 to 0.90 in conv2"
    assert {bar.get_facecolor() for bar in ax.patches} == {to_rgba(plots.BLUE)}


def test_the_effect_of_a_neuron_is_that_of_its_removal(lenet, splits):
    images, whole = splits.test.images[:50], lenet(splits.test.images[:50])
    effects = lesson.effects_of_removal(lenet, images)
    for layer, channels in (("conv2", 50), ("fc1", 500)):
        assert effects[layer].shape == (channels,)
        for channel in (0, 7, channels - 1):
            others = [other for other in range(channels) if other != channel]
            narrower = surgery.narrow(lenet, {layer: others}, images[:1])
            assert effects[layer][channel].item() == pytest.approx((narrower(images) - whole).abs().mean().item(), abs=1e-5)


def test_deep_cuts_are_errors_at_two_pairs_of_widths():
    table = trimming_rows.deep_cuts(made_up_rows())
    assert list(table.index) == list(runs.CRITERIA)
    # networks have 99.2 % on average; APoZ loses 0.5 points after training, and 1.5 at the smaller widths
    assert table.loc["APoZ"].tolist() == pytest.approx([0.8 + 5, 0.8 + 0.5, 0.8 + 5, 0.8 + 1.5])


def test_the_ways_to_a_shape_are_listed_with_the_epochs_before_and_after_the_cut():
    table = trimming_rows.ways_to_a_shape(made_up_rows())
    epochs = dict(zip(table.way, table["epochs, before + after the cut"], strict=True))
    assert epochs == {
        "trained network": "16 + 0", "rounds": "16 + 10", "one cut": "16 + 10", "from scratch": "0 + 10",
        "from scratch, longer": "0 + 26", "trained network, longer": "16 + 10",
    }  # fmt: skip
