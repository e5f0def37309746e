"""Li et al. 2017: norms against NumPy, the choices against a plain loop, residual sums, feature maps as stored."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from course_lib import cost, data, models, surgery, training
from course_lib.experiments.filter_plans import PLANS
from course_lib.papers import filter_pruning as paper
from course_lib.surgery.keeping import strongest
from course_lib.training import evaluate
from tests.resumption import resumed

numbers = st.floats(-100, 100, allow_subnormal=False)
filters = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 3), st.just(3), st.just(2)), elements=numbers)


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    whole = data.load("mnist-m")
    return data.Splits(whole.train.take(256), whole.validation.take(128), whole.test.take(128), whole.name, whole.requested)


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    return models.pretrained("vgg-small", "mnist-m")


IMAGE = models.example_input("vgg-small")


@given(filters, st.sampled_from([1, 2, 3]))
def test_norms_are_numpys(weight, p):
    expected = np.linalg.norm(weight.reshape(len(weight), -1), ord=p, axis=1)
    np.testing.assert_allclose(paper.filter_norms(torch.from_numpy(weight), p).numpy(), expected, rtol=1e-9, atol=1e-9)


@given(st.lists(numbers, min_size=1, max_size=12), st.floats(0.001, 1))
def test_those_that_stay_have_no_smaller_scores_than_those_that_are_removed(scores, share):
    keep = strongest(torch.tensor(scores, dtype=torch.float64), share).tolist()
    removed = [score for i, score in enumerate(scores) if i not in keep]
    assert keep == sorted(set(keep)) and len(keep) == max(1, int(len(scores) * share + 1e-9))
    assert not removed or min(scores[i] for i in keep) >= max(removed)


@given(filters, st.data())
def test_greedy_norms_are_those_of_the_kernels_that_are_left(weight, drawn):
    pruned = drawn.draw(st.sets(st.integers(0, weight.shape[1] - 1)))
    left = np.delete(weight, sorted(pruned), axis=1)
    expected = np.abs(left).sum((1, 2, 3))
    found = paper.greedy_norms(torch.from_numpy(weight), sorted(pruned))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "share", "left"), [(10, 0.9, 1), (10, 0.3, 7), (16, 0.1, 14), (64, 0.5, 32), (3, 0.99, 1)])
def test_as_many_stay_as_the_paper_counts(n, share, left):
    assert len(strongest(torch.arange(n), 1 - share)) == left


def test_among_equals_the_first_stay():
    assert strongest(torch.ones(4), 0.5).tolist() == [0, 1]


def chain(widths: list[int], seed: int) -> nn.Module:
    """Two convolutions, a flatten, and two dense layers, for images of 6 x 6."""
    torch.manual_seed(seed)
    a, b, c = widths
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, a, 3), relu1=nn.ReLU(), conv2=nn.Conv2d(a, b, 3), flatten=nn.Flatten(),
            fc1=nn.Linear(4 * b, c), relu2=nn.ReLU(), fc2=nn.Linear(c, 3),
        )
    ).eval()  # fmt: skip


def by_a_loop(model: nn.Module, keep: dict[str, float], greedy: bool) -> dict[str, list[int]]:
    """The choice written out for `chain`: sums over the kernels of the maps that are left."""
    kept, inputs = {}, list(range(2))
    for layer in ("conv1", "conv2", "fc1"):
        weight = model.get_submodule(layer).weight.detach().numpy()
        if layer == "fc1":
            weight = weight.reshape(len(weight), -1, 4)  # 4 positions of each map
        read = inputs if greedy else range(weight.shape[1])
        sums = [sum(np.abs(weight[j, i]).sum() for i in read) for j in range(len(weight))]
        count = max(1, int(len(sums) * keep.get(layer, 1) + 1e-9))
        inputs = sorted(sorted(range(len(sums)), key=lambda j: -sums[j])[:count])
        kept[layer] = inputs
    return {layer: kept[layer] for layer in keep}


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 7), min_size=3, max_size=3),
    st.dictionaries(st.sampled_from(["conv1", "conv2", "fc1"]), st.floats(0.1, 1), min_size=1),
    st.sampled_from(paper.STRATEGIES),
    st.integers(0, 99),
)
def test_the_choice_is_that_of_a_plain_loop(widths, keep, strategy, seed):
    model = chain(widths, seed)
    kept = paper.select_filters(model, keep, strategy, example_input=torch.zeros(1, 2, 6, 6))
    assert list(kept) == list(keep)
    assert {layer: indices.tolist() for layer, indices in kept.items()} == by_a_loop(model, keep, strategy == "greedy")


def test_greedy_does_not_count_kernels_of_maps_that_are_gone():
    model = chain([2, 2, 1], 0)
    model.conv1.weight.data[0], model.conv1.weight.data[1] = 1.0, 0.1  # map 1 is removed
    model.conv2.weight.data[:] = torch.tensor([[1.0, 9.0], [2.0, 0.0]])[:, :, None, None]
    for keep in (dict(conv1=0.5, conv2=0.5), dict(conv1=1, conv2=1), dict(conv1=[0], conv2=1)):
        how = dict(keep=keep, example_input=torch.zeros(1, 2, 6, 6))
        assert paper.select_filters(model, strategy="independent", **how)["conv2"].tolist() == [0]
        assert paper.select_filters(model, strategy="greedy", **how)["conv2"].tolist() == [1]


def test_the_projection_shortcut_chooses_for_all_that_a_sum_ties():
    model = models.build("resnet-20")
    model.stage2[0].shortcut.conv.weight.data *= torch.arange(32)[:, None, None, None] % 2 + 0.01  # the odd ones are large
    for strategy in paper.STRATEGIES:
        for layer in ("stage2.0.conv2", "stage2.0.shortcut.conv", "stage2.2.conv2"):
            assert paper.select_filters(model, {layer: 0.5}, strategy)[layer].tolist() == list(range(1, 32, 2))
    bottlenecks = torchvision.models.resnet50(weights=None)
    bottlenecks.layer2[0].downsample[0].weight.data *= torch.arange(512)[:, None, None, None] % 2 + 0.01
    kept = paper.select_filters(bottlenecks, {"layer2.3.conv3": 0.5}, example_input=torch.zeros(1, 3, 32, 32))
    assert kept["layer2.3.conv3"].tolist() == list(range(1, 512, 2))


class Pooled(nn.Module):
    """A stem, and a block whose shortcut averages before it projects."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1), nn.AvgPool2d(2)
        self.project, self.out = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 16)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.out((self.branch(x) + self.project(self.pool(x))).relu())


def test_a_projection_is_found_after_a_pool_and_by_any_name():
    model = Pooled()
    model.project.weight.data = torch.arange(6.0)[:, None, None, None].expand(6, 4, 1, 1).contiguous()
    image = torch.zeros(1, 3, 32, 32)
    for name in ("branch", "project"):
        assert paper.select_filters(model, {name: 0.5}, example_input=image)[name].tolist() == [3, 4, 5]
    assert paper.prunable_layers(model, image) == ["stem", "project"]


def test_greedy_does_not_depend_on_the_name_of_a_sum():
    model, choices = models.build("resnet-20"), []
    for name in ("stage2.0.conv2", "stage2.0.shortcut.conv", "stage2.2.conv2"):
        keep = {"stage2.1.conv1": 0.5, name: 0.5}
        choices.append(paper.select_filters(model, keep, "greedy")["stage2.1.conv1"].tolist())
        choices.append(paper.select_filters(model, dict(reversed(keep.items())), "greedy")["stage2.1.conv1"].tolist())
    assert all(choice == choices[0] for choice in choices)
    with pytest.raises(ValueError, match=r"stage2\.0\.conv2' and 'stage2\.2\.conv2'.*same sum"):
        paper.select_filters(model, {"stage2.0.conv2": 0.5, "stage2.2.conv2": 0.5})


@pytest.mark.parametrize("layer", ["conv1", "stage1.0.conv2", "stage1.2.conv2"])
def test_what_passes_identity_shortcuts_only_stays_whole(layer):
    with pytest.raises(ValueError, match=rf"'{layer}'.*identity shortcuts"):
        paper.select_filters(models.build("resnet-20"), {layer: 0.5})


def test_layers_that_can_be_pruned_by_name():
    firsts = [f"stage{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
    shortcuts = ["stage2.0.shortcut.conv", "stage3.0.shortcut.conv"]
    assert sorted(paper.prunable_layers(models.build("resnet-20"))) == sorted(firsts + shortcuts)
    assert paper.prunable_layers(models.build("vgg-small")) == [f"conv{i}" for i in range(1, 7)]
    assert paper.prunable_layers(models.build("lenet-300-100")) == ["fc1", "fc2"]


@pytest.mark.parametrize(
    "name", ["resnet18", "regnet_y_400mf", "mobilenet_v2", pytest.param("densenet121", marks=pytest.mark.slow)]
)
def test_prunable_layers_of_torchvisions_networks_are_narrowed_all_at_once(name):
    torch.manual_seed(0)
    model, image = torchvision.models.get_model(name).eval(), torch.randn(1, 3, 64, 64)
    layers = paper.prunable_layers(model, image)
    kept = {layer: range(1, len(model.get_submodule(layer).weight)) for layer in layers}
    narrower = surgery.narrow(model, kept, image)
    assert narrower(image).shape == (1, 1000)
    assert len(layers) == dict(resnet18=11, regnet_y_400mf=21, mobilenet_v2=20, densenet121=120)[name]


def test_one_number_is_for_all_layers_and_the_network_is_left(vgg, splits):
    before, modes = copy.deepcopy(vgg.state_dict()), [module.training for module in vgg.modules()]
    for network in (vgg, models.build("resnet-20")):
        result = paper.prune(network, splits.test, 0.5, strategy="greedy")
        assert result.record[0]["kept"] == {
            layer: len(network.get_submodule(layer).weight) // 2 for layer in paper.prunable_layers(network)
        }
        assert result.model(IMAGE).shape == (1, 10) and not any(module.training for module in result.model.modules())
        assert result.record[0]["MACs"] == cost.count(result.model, IMAGE).MACs.sum()
        assert result.record[0]["parameters"] == sum(p.numel() for p in result.model.parameters())
        assert list(result.record[0]) == ["round", "kept", "parameters", "MACs"]
    assert all(torch.equal(value, vgg.state_dict()[key]) for key, value in before.items())
    assert [module.training for module in vgg.modules()] == modes


def test_without_batches_an_image_is_made_up(vgg, splits):
    first, second = (paper.prune(vgg, batches, dict(conv2=7)).model.state_dict() for batches in (None, splits.test))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("keep", "strategy", "message"),
    [
        (dict(conv9=0.5), "greedy", "keep names 'conv9'.*conv1, conv2"),
        (dict(fc=0.5), "independent", "keep names 'fc'.*conv5, conv6$"),
        (dict(conv1=0.0), "independent", r"keep is 0.0 for layer 'conv1'.*a share in \(0, 1\]"),
        (dict(conv1=0), "independent", "keep is 0 for layer 'conv1'"),
        (dict(conv1=33), "independent", "keep is 33 for layer 'conv1'; allowed are 1 to 32"),
        (dict(conv1=1.1), "independent", "keep is 1.1"),
        (dict(conv1=[0, 32]), "independent", r"keep is .*\[?0, 32\]?.* for layer 'conv1'|keep is indices"),
        (dict(conv1=0.5), "global", "strategy is 'global'.*independent, greedy"),
        ({}, "independent", "keep is empty"),
    ],
)
def test_bad_plans_are_refused_before_any_training(vgg, splits, keep, strategy, message):
    with pytest.raises(ValueError, match=message):
        paper.select_filters(vgg, keep, strategy)
    with pytest.raises(ValueError, match=message):
        paper.prune(vgg, splits.test, keep, strategy=strategy, rounds=3, retrain=lambda model: pytest.fail("it trained"))


def test_an_interrupt_of_retraining_reaches_the_caller(vgg, splits):
    def interrupted(model: nn.Module) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paper.prune(vgg, splits.test, dict(conv1=0.5), retrain=interrupted)


@pytest.mark.parametrize(("weight", "p"), [(torch.ones(3), 1), (torch.ones(0, 3), 1), (torch.ones(2, 2), 0)])
def test_bad_weights_and_norms_are_refused(weight, p):
    with pytest.raises(ValueError, match="weight has shape|p is 0"):
        paper.filter_norms(weight, p)


def test_without_an_image_that_fits_one_is_asked_for():
    with pytest.raises(ValueError, match="takes no image of 1 channels and 28, 32, 64, 224, 299, 8, 12,"):
        paper.select_filters(nn.Sequential(nn.Linear(7, 4), nn.Linear(4, 2)), {"0": 0.5})


def test_sensitivity_is_that_of_filters_at_zero(vgg, splits):
    """The oracle removes nothing: it zeroes the smallest filters, and scale and shift of their batch norm."""
    shares, layers = (0.0, 0.5), ["conv2", "conv5"]
    curves = paper.sensitivity(vgg, splits.test, shares, layers)
    assert list(curves) == layers and curves["conv2"][0] == evaluate(vgg, splits.test)
    for layer in layers:
        zeroed = copy.deepcopy(vgg)
        convolution, norm = zeroed.get_submodule(layer), zeroed.get_submodule(layer.replace("conv", "norm"))
        gone = convolution.weight.detach().abs().sum((1, 2, 3)).argsort()[: len(convolution.weight) // 2]
        for parameter in (convolution.weight, norm.weight, norm.bias):
            parameter.data[gone] = 0
        assert curves[layer][1] == pytest.approx(evaluate(zeroed, splits.test), abs=1 / 128)


def test_rounds_end_at_the_width_of_one_shot(vgg, splits):
    keep, retrain = dict(conv1=0.6, conv6=0.23), training.recipe(splits, epochs=1, lr=0.01, progress=False)
    how = dict(retrain=retrain, measure=lambda network: evaluate(network, splits.test))
    results = {rounds: paper.prune(vgg, splits.train, keep, rounds=rounds, **how) for rounds in (1, 3)}
    widths = {rounds: [len(result.model.get_submodule(layer).weight) for layer in keep] for rounds, result in results.items()}
    assert widths[1] == widths[3] == [int(32 * 0.6), int(128 * 0.23)]
    assert [len(result.record) for result in results.values()] == [1, 3]
    counts = [
        {layer: int(n * (1 - (1 - keep[layer]) * t / 3)) for layer, n in dict(conv1=32, conv6=128).items()} for t in (1, 2, 3)
    ]
    assert [row["kept"] for row in results[3].record] == counts
    assert results[1].record[0]["retrained"] == evaluate(results[1].model, splits.test)
    one_shot = surgery.narrow(vgg, paper.select_filters(vgg, keep), IMAGE)
    assert results[1].record[0]["pruned"] == evaluate(one_shot, splits.test)


def test_each_round_ranks_the_filters_of_the_network_as_it_is(vgg, splits):
    def turn_round(model: nn.Module) -> None:
        """Stands for retraining: the filters of the smallest norms get the largest."""
        norms = paper.filter_norms(model.conv2.weight)
        model.conv2.weight.data /= (norms**2)[:, None, None, None]

    result = paper.prune(vgg, splits.train, dict(conv2=16), rounds=2, retrain=turn_round)
    norms = paper.filter_norms(vgg.conv2.weight)
    # without the 8 smallest, then without the 8 that were the largest
    middle = norms.argsort(descending=True)[:24][-16:].sort().values
    assert torch.equal(result.model.norm2.weight, vgg.norm2.weight[middle])


def test_no_rounds_are_refused(vgg, splits):
    with pytest.raises(ValueError, match="rounds is 0"):
        paper.prune(vgg, splits.train, dict(conv1=0.5), rounds=0)


@pytest.mark.parametrize("batch_size", [5, 128])
def test_feature_map_scores_are_those_of_the_stored_maps(vgg, splits, batch_size):
    split = splits.test.take(23)
    scores = paper.feature_map_scores(vgg, split, ["conv1", "conv4"], batch_size)
    for layer in ("conv1", "conv4"):
        index = list(dict(vgg.named_children())).index(layer)
        maps = (
            vgg[: index + 1](split.images).detach().double().numpy().reshape(len(split.labels), -1, 32**2 if index == 0 else 256)
        )
        norms = np.sqrt((maps**2).sum(2))
        expected = {
            "mean": maps.mean((0, 2)), "mean std": maps.std(2).mean(0), "mean L1": np.abs(maps).sum(2).mean(0),
            "mean L2": norms.mean(0), "variance of L2": norms.var(0),
        }  # fmt: skip
        assert tuple(scores[layer]) == paper.CRITERIA
        for criterion, values in expected.items():
            np.testing.assert_allclose(scores[layer][criterion].numpy(), values, rtol=1e-5, atol=1e-5)


def test_feature_map_scores_need_a_convolution(vgg, splits):
    with pytest.raises(ValueError, match="'fc'.*conv1, conv2"):
        paper.feature_map_scores(vgg, splits.test, ["fc"])


@pytest.mark.parametrize(
    ("network", "plan", "macs", "parameters"),
    [("vgg-16", "A", 34.2, 64.0), ("resnet-56", "A", 10.4, 9.4), ("resnet-56", "B", 27.6, 13.7)],
)
def test_the_papers_plans_cost_what_its_table_says(network, plan, macs, parameters):
    """To a quarter of a point: our ResNets project where the width changes, the paper's do not."""
    model, image = models.build(network).eval(), models.example_input(network)
    narrow = paper.prune(model, None, PLANS[network][plan]).model
    before, after = cost.count(model, image), cost.count(narrow, image)
    assert 100 * (1 - after.MACs.sum() / before.MACs.sum()) == pytest.approx(macs, abs=0.25)
    assert 100 * (1 - after.weights.sum() / before.weights.sum()) == pytest.approx(parameters, abs=0.25)


def on_gpu(splits: data.Splits) -> data.Splits:
    parts = (data.Split(split.images.cuda(), split.labels.cuda()) for split in (splits.train, splits.validation, splits.test))
    return data.Splits(*parts, splits.name, splits.requested)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("strategy", ["independent", "greedy"])
def test_cuda_prunes_and_retrains_the_same(vgg, splits, strategy):
    keep, model, there = dict(conv1=0.5, conv5=0.75, conv6=64), copy.deepcopy(vgg).cuda(), on_gpu(splits)
    pruned, expected = (
        paper.prune(network, batches, keep, strategy=strategy, rounds=2)
        for network, batches in ((model, there.train), (vgg, splits.train))
    )
    assert [row["kept"] for row in pruned.record] == [row["kept"] for row in expected.record]
    for name, value in pruned.model.state_dict().items():
        assert value.is_cuda and torch.equal(value.cpu(), expected.model.state_dict()[name])
    retrain = training.recipe(there, epochs=2, lr=0.02, progress=False)
    how = dict(retrain=retrain, measure=lambda network: evaluate(network, there.test))
    for batches in (there.train, splits.train, None):  # batches may lie elsewhere
        row = paper.prune(model, batches, keep, strategy=strategy, **how).record[0]
        assert row["retrained"] >= row["pruned"] - 0.05


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_scores_maps_the_same(vgg, splits, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here = paper.feature_map_scores(vgg, splits.test, ["conv1", "conv4"])
    there = paper.feature_map_scores(copy.deepcopy(vgg).cuda(), on_gpu(splits).test, ["conv1", "conv4"])
    for layer in here:
        for criterion, scores in here[layer].items():
            assert there[layer][criterion].is_cuda
            torch.testing.assert_close(there[layer][criterion].cpu(), scores, atol=1e-3, rtol=1e-3)


def test_a_loop_that_was_interrupted_ends_as_one_that_was_not(vgg, splits, monkeypatch, tmp_path):
    """Each call of `fit` has a file of its own; finished rounds are read from theirs."""

    def loop(**more):
        retrain = training.recipe(splits, epochs=1, lr=0.02, progress=False, **more)
        return paper.prune(vgg, splits.train, dict(conv1=0.5), rounds=2, retrain=retrain)

    whole, again, steps = resumed(loop, 4, tmp_path, monkeypatch)
    assert again.record == whole.record and steps == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.1", "state.2"]
