"""Hu et al. 2016: zeros counted by hand and by NumPy, which neurons are removed, and trimming in rounds."""

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

from course_lib import data, models, surgery, training
from course_lib.activations.relus import layers_with_relu, mean_after_relu
from course_lib.data import Split
from course_lib.experiments import network_trimming as runs
from course_lib.papers import network_trimming as paper
from course_lib.storage import networks
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


@pytest.mark.parametrize("kind", ["iterative", "criterion", "width"])
def test_a_row_of_each_kind(kind, few):
    few(128, 128)
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
