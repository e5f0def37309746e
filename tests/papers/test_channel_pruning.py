"""He et al. 2017: selection against LASSO on the full design and against all subsets, least squares against NumPy, and networks
against identities: nothing pruned changes nothing, what is cut is what was zero, the residual correction makes sums exact."""

import copy
import itertools
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from course_lib import cost, data, models
from course_lib.experiments import channel_pruning as runs
from course_lib.papers import channel_pruning as paper

pytestmark = pytest.mark.timeout(240)  # some take ten seconds on an idle machine

seeds = st.integers(0, 10**6)


def layer(seed: int, samples: int, c: int, p: int, n: int, mixed: float = 0.0) -> tuple[Tensor, Tensor]:
    """Random inputs (N, c, p) whose channels are correlated where `mixed` is above 0, and a weight (n, c, p); float64."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.eye(c) + mixed * torch.randn(c, c, generator=random) / c**0.5
    inputs = torch.einsum("ij,njp->nip", mixing, torch.randn(samples, c, p, generator=random))
    return inputs.double(), torch.randn(n, c, p, generator=random).double()


def said(inputs: Tensor, weight: Tensor) -> Tensor:
    return inputs.flatten(1) @ weight.flatten(1).T


def design(inputs: Tensor, weight: Tensor, outputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The full problem (i): Z (N n, c) and y (N n,), the mean of every output taken out."""
    z = torch.einsum("ncp,mcp->nmc", inputs, weight)
    return (z - z.mean(0)).flatten(0, 1).numpy(), (outputs - outputs.mean(0)).flatten().numpy()


# One layer


def test_by_hand_the_channels_that_say_most_are_kept():
    x = torch.eye(4).view(4, 4, 1)
    w = torch.tensor([[[3.0], [1.0], [-2.0], [0.5]]])
    assert [paper.select_channels(x, w, said(x, w), k).tolist() for k in (1, 2, 3)] == [[0], [0, 2], [0, 1, 2]]


@given(seeds, st.floats(0, 2))
def test_a_planted_problem_is_recovered(seed, mixed):
    inputs, weight = layer(seed, 400, 32, 9, 16, min(mixed, 0.5))
    planted = torch.randperm(32, generator=torch.Generator().manual_seed(seed))[:8].sort().values
    outputs = said(inputs[:, planted], weight[:, planted])
    outputs += 0.1 * outputs.std() * torch.randn(outputs.shape, generator=torch.Generator().manual_seed(seed + 1))
    kept = paper.select_channels(inputs.float(), weight.float(), outputs.float() + 3, 8)
    assert torch.equal(kept, planted)
    rebuilt = paper.reconstruct(inputs[:, kept], outputs)
    assert torch.nn.functional.cosine_similarity(rebuilt.flatten(), weight[:, planted].flatten(), dim=0) > 0.98


def against_all_subsets(mixed: float, judge) -> list[float]:
    """For 100 problems of 8 channels, the error of the chosen 4 over the least of all 70 subsets' errors."""
    ratios = []
    for seed in range(100):
        inputs, weight = layer(seed, 300, 8, 4, 12, mixed)
        outputs = said(inputs, weight) + 0.1 * layer(seed + 1, 300, 12, 1, 1)[0][:, :, 0]
        chosen = tuple(paper.select_channels(inputs, weight, outputs, 4).tolist())
        errors = judge(inputs, weight, outputs)
        ratios.append(errors[chosen] / min(errors.values()))
    return ratios


def errors_of_all_subsets(gram: np.ndarray, cross: np.ndarray, power: float, columns_of) -> dict[tuple, float]:
    errors = {}
    for subset in itertools.combinations(range(8), 4):
        c = columns_of(subset)
        errors[subset] = power - (cross[c] * np.linalg.solve(gram[np.ix_(c, c)], cross[c])).sum()
    return errors


def after_least_squares(inputs: Tensor, weight: Tensor, outputs: Tensor) -> dict[tuple, float]:
    x, y = (inputs - inputs.mean(0)).flatten(1).numpy(), (outputs - outputs.mean(0)).numpy()
    return errors_of_all_subsets(x.T @ x, x.T @ y, (y**2).sum(), lambda s: [4 * i + k for i in s for k in range(4)])


def with_weights_fixed(inputs: Tensor, weight: Tensor, outputs: Tensor) -> dict[tuple, float]:
    z, y = design(inputs, weight, outputs)
    return errors_of_all_subsets(z.T @ z, (z.T @ y)[:, None], (y**2).sum(), list)


@pytest.mark.parametrize(
    ("mixed", "judge"), [(0, after_least_squares), (0, with_weights_fixed), (0.5, with_weights_fixed), (1, with_weights_fixed)]
)
def test_the_choice_is_within_a_tenth_of_the_best_of_all_subsets(mixed, judge):
    ratios = against_all_subsets(mixed, judge)
    assert min(ratios) >= 1 - 1e-9
    assert sum(ratio <= 1.1 for ratio in ratios) >= 95


def test_what_splitting_the_problem_costs_where_channels_are_mixed():
    """No fault of the LASSO: it is near the best for the weights as they are. But least squares rebuilds channels from others."""
    ratios = against_all_subsets(1.0, after_least_squares)
    assert 30 <= sum(ratio <= 1.1 for ratio in ratios) < 95


@given(seeds, st.integers(1, 4), st.integers(1, 9))
def test_contributions_are_those_of_the_full_design(seed, n, p):
    inputs, weight = layer(seed, 30, 5, p, n, 0.5)
    outputs = said(inputs, weight) + layer(seed + 1, 30, n, 1, 1)[0][:, :, 0] + 7
    z, y = design(inputs, weight, outputs)
    halves = [(inputs[:11], outputs[:11]), (inputs[11:], outputs[11:])]
    gram, products = paper.contributions(paper.moments(halves), weight)
    np.testing.assert_allclose(gram, z.T @ z, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(products, z.T @ y, rtol=1e-9, atol=1e-9)


@given(seeds, st.floats(0, 1))
def test_the_path_solves_the_lasso_at_every_penalty(seed, mixed):
    inputs, weight = layer(seed, 60, 10, 3, 4, mixed)
    outputs = said(inputs, weight) + layer(seed + 1, 60, 4, 1, 1)[0][:, :, 0]
    penalties, betas = paper.lasso_path(*paper.contributions(paper.moments([(inputs, outputs)]), weight), 60)
    z, y = design(inputs, weight, outputs)
    assert penalties[-1] == 0 and (penalties.diff() <= 0).all() and (betas[0] == 0).all()
    for k in (1, len(penalties) // 2):
        penalty, between = (penalties[k - 1] + penalties[k]).item() / 2, (betas[k - 1] + betas[k]) / 2
        # scikit-learn divides by its number of rows, which is N n here
        fitted = Lasso(penalty / 4, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(z, y)
        np.testing.assert_allclose(between, fitted.coef_, atol=1e-6)


@given(seeds, st.integers(1, 11))
def test_exactly_as_many_as_asked_for_whatever_the_order_and_the_unit(seed, keep):
    inputs, weight = layer(seed, 100, 12, 4, 6, 0.7)
    kept = paper.select_channels(inputs, weight, said(inputs, weight), keep)
    assert kept.dtype == torch.int64 and len(kept) == keep and (kept.diff() > 0).all()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    again = paper.select_channels(1e3 * inputs[:, order] - 5, weight[:, order], said(inputs, weight), keep)
    assert torch.equal(order[again].sort().values, kept)


def test_a_choice_of_several_that_vanish_together():
    betas = torch.tensor([[0, 0, 0, 0], [2, 0, 0, 0], [3, 1, 1, 1.0]])
    assert paper.survivors(betas, torch.ones(4), 1).tolist() == [0]
    assert paper.survivors(betas, torch.ones(4), 2).tolist() == [0, 1]  # among equals the first
    assert paper.survivors(betas, torch.tensor([1, 1, 1, 4.0]), 2).tolist() == [0, 3]
    came_back = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0], [2, 0], [2, 0.5]])
    assert paper.survivors(came_back, torch.ones(2), 1).tolist() == [0]  # from zero upwards: the first time that one is left


@given(seeds, st.integers(1, 6), st.integers(1, 4))
def test_reconstruction_is_that_of_numpy(seed, c, p):
    inputs, weight = layer(seed, 40, c, p, 3, 0.5)
    outputs = said(inputs, weight) + layer(seed + 1, 40, 3, 1, 1)[0][:, :, 0] + 2
    expected = np.linalg.lstsq(inputs.flatten(1).numpy(), outputs.numpy(), rcond=None)[0].T.reshape(3, c, p)
    np.testing.assert_allclose(paper.reconstruct(inputs, outputs), expected, atol=1e-9)
    assert paper.reconstruct(inputs.float(), outputs.float()).dtype == torch.float32


@given(seeds)
def test_refitting_is_least_squares_with_a_column_of_ones(seed):
    inputs, weight = layer(seed, 60, 6, 3, 4, 0.5)
    outputs = said(inputs, weight) + layer(seed + 1, 60, 4, 1, 1)[0][:, :, 0] - 1
    seen, keep = paper.moments([(inputs + 2, outputs)]), [1, 4]
    ones = np.hstack([(inputs + 2)[:, keep].flatten(1).numpy(), np.ones((60, 1))])
    expected = np.linalg.lstsq(ones, outputs.numpy(), rcond=None)[0]
    refitted, bias = paper.refit(seen, keep)
    np.testing.assert_allclose(refitted[:, keep].flatten(1).T, expected[:-1], atol=1e-8)
    np.testing.assert_allclose(bias, expected[-1], atol=1e-8)
    assert (refitted[:, [0, 2, 3, 5]] == 0).all()
    left = outputs.numpy() - ones @ expected
    assert paper.explained(seen, refitted) == pytest.approx(1 - left.var(axis=0).sum() / outputs.numpy().var(axis=0).sum())


def test_more_channels_explain_more_and_all_explain_what_was_said():
    inputs, weight = layer(0, 200, 10, 4, 5, 0.5)
    seen = paper.moments([(inputs, said(inputs, weight))])
    shares = [paper.explained(seen, paper.refit(seen, paper.choose(seen, weight, keep))[0]) for keep in range(1, 11)]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert paper.explained(seen, weight) == pytest.approx(1)


# Degenerate input


def test_of_repeated_channels_one_is_taken_first():
    inputs, weight = layer(1, 200, 8, 4, 6)
    inputs[:, 5], weight[:, 5] = inputs[:, 2], weight[:, 2]
    outputs = said(inputs, weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = [set(paper.select_channels(inputs, weight, outputs, keep).tolist()) for keep in range(1, 9)]
    assert [len(k) for k in kept] == list(range(1, 9))
    assert all(not {2, 5} <= k for k in kept[:6])
    with pytest.warns(UserWarning, match="inputs that repeat one another do not settle 32 unknowns an output; a small ridge"):
        rebuilt = paper.reconstruct(inputs, outputs)
    torch.testing.assert_close(said(inputs, rebuilt), outputs, atol=1e-3, rtol=0)


def test_zero_channels_go_first_and_weigh_nothing():
    inputs, weight = layer(2, 200, 8, 4, 6)
    inputs[:, [3, 6]] = 0
    assert paper.select_channels(inputs, weight, said(inputs, weight), 6).tolist() == [0, 1, 2, 4, 5, 7]
    with pytest.warns(UserWarning, match="keep is 7, but only 6 of 8 channels say anything that the others do not"):
        assert paper.select_channels(inputs, weight, said(inputs, weight), 7).tolist() == [0, 1, 2, 3, 4, 5, 7]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rebuilt = paper.reconstruct(inputs, said(inputs, weight))
    assert (rebuilt[:, [3, 6]] == 0).all()
    torch.testing.assert_close(rebuilt[:, [0, 1, 2, 4, 5, 7]], weight[:, [0, 1, 2, 4, 5, 7]])


def test_fewer_samples_than_unknowns_are_fitted_with_a_warning():
    inputs, weight = layer(3, 20, 8, 4, 6)
    outputs = said(inputs, weight)
    with pytest.warns(UserWarning, match="20 samples do not settle 32 unknowns an output"):
        rebuilt = paper.reconstruct(inputs, outputs)
    smallest = np.linalg.lstsq(inputs.flatten(1).numpy(), outputs.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(rebuilt.flatten(1), smallest, atol=1e-3)
    assert len(paper.select_channels(inputs[:3], weight, outputs[:3], 5)) == 5


def test_constant_channels_weigh_nothing_once_means_are_out():
    inputs, weight = layer(6, 200, 5, 4, 6)
    inputs[:, 3] = 0.1
    seen = paper.moments([(inputs, said(inputs, weight))])
    assert paper.choose(seen, weight, 4).tolist() == [0, 1, 2, 4]
    refitted, bias = paper.refit(seen, range(5))
    assert (refitted[:, 3] == 0).all()
    torch.testing.assert_close(said(inputs, refitted) + bias, said(inputs, weight))


def test_all_channels_are_kept_where_all_are_asked_for():
    inputs, weight = layer(4, 50, 6, 1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert paper.select_channels(inputs, weight, said(inputs, weight), 6).tolist() == list(range(6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(keep=7), "keep is 7; of 6 input channels a layer can keep 1 to 6"),
        (dict(keep=0), "keep is 0; of 6"),
        (dict(keep=2.5), "keep is 2.5; of 6"),
        (dict(weight=torch.ones(3, 5, 4)), r"weight is \(3, 5, 4\); inputs and outputs ask for \(3, 6, 4\)"),
        (dict(outputs=torch.ones(49, 3)), r"inputs is \(50, 6, 4\) and outputs \(49, 3\); expected \(N, c, h\*w\) and \(N, n\)"),
        (dict(inputs=torch.ones(50, 24)), r"inputs is \(50, 24\)"),
        (dict(inputs=torch.full((50, 6, 4), torch.nan)), "inputs holds NaN or infinity"),
        (dict(outputs=torch.full((50, 3), torch.inf)), "outputs holds NaN or infinity"),
        (dict(outputs=torch.full((50, 3), 0.1)), "outputs are the same in all samples"),
        (dict(inputs=torch.ones(1, 6, 4), outputs=torch.ones(1, 3)), "fewer than two samples"),
    ],
)
def test_the_impossible_is_refused_with_what_is_possible(change, message):
    inputs, weight = layer(5, 50, 6, 4, 3)
    arguments = dict(inputs=inputs, weight=weight, outputs=said(inputs, weight), keep=3) | change
    with pytest.raises(ValueError, match=message):
        paper.select_channels(**arguments)


# Networks


@pytest.fixture(scope="module")
def images() -> Tensor:
    return data.load("mnist-m").train.images[:40]


def convolutions(model: nn.Module) -> dict[str, int]:
    """All convolutions that read channels of others -> how many."""
    found = {name: m.in_channels for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1}
    return dict(list(found.items())[1:])


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(images)


def small(block) -> nn.Module:
    """A small residual network of torchvision's blocks, its batch norms with something to say; float64."""
    torch.manual_seed(0)
    model = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=7, width_per_group=64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
    return model.double().eval()


@pytest.mark.parametrize("name", ["vgg-small", "resnet-20"])
def test_nothing_pruned_changes_nothing(name, images):
    model = models.pretrained(name, "mnist-m")
    before = copy.deepcopy(model.state_dict())
    result = paper.prune(model, images, convolutions(model), positions=40)
    torch.testing.assert_close(outputs(result.model, images), outputs(model, images), atol=1e-4, rtol=1e-4)
    assert min(result.explained.values()) > 1 - 1e-6
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert set(result.kept) == set(convolutions(model))


def widths(model: nn.Module) -> dict[str, int]:
    return {
        name: max(1, c // 2) for name, c in convolutions(model).items() if "shortcut" not in name and "downsample" not in name
    }


@pytest.mark.parametrize("name", ["vgg-small", "resnet-20"])
def test_what_is_cut_is_what_was_zero(name, images):
    model = models.pretrained(name, "mnist-m").double()
    result = paper.prune(model, images.double(), widths(model), positions=40)
    masked, sources = copy.deepcopy(model), paper.inputs_of(model, result.kept, images[:1].double())
    filters = {source.producer: result.kept[reader] for reader, source in sources.items()}  # those that are still there
    for layer, kept in result.kept.items():
        assert len(kept) == widths(model)[layer]
        old, new = masked.get_submodule(layer), result.model.get_submodule(layer)
        new = new.layer if isinstance(new, nn.Sequential) else new
        whole = torch.zeros_like(old.weight[: len(new.weight)])
        whole[:, kept] = new.weight.detach()
        rows = filters.get(layer, torch.arange(len(old.weight)))
        old.weight.data.zero_()
        old.weight.data[rows] = whole
        old.bias = nn.Parameter(torch.zeros(len(old.weight)).double())
        old.bias.data[rows] = new.bias.detach()
    torch.testing.assert_close(outputs(masked, images.double()), outputs(result.model, images.double()))


def test_dense_layers_behind_a_flatten_are_pruned_by_channel():
    digits = data.load("mnist-5k").train.images[:1500]
    model = models.pretrained("lenet-5", "mnist-5k")
    result = paper.prune(model, digits, dict(conv2=10, fc1=30, fc2=200), positions=8)
    assert result.model.conv1.out_channels == 10 and result.model.conv2.out_channels == 30
    assert result.model.fc1.in_features == 30 * 16 and result.model.fc1.out_features == result.model.fc2.in_features == 200
    agree = (outputs(result.model, digits).argmax(1) == outputs(model, digits).argmax(1)).float().mean()
    assert agree > 0.97
    assert (outputs(paper.cut(model, result.kept, digits[:1]), digits) - outputs(model, digits)).norm() > (
        outputs(result.model, digits) - outputs(model, digits)
    ).norm()


@pytest.mark.parametrize("block", [torchvision.models.resnet.BasicBlock, torchvision.models.resnet.Bottleneck])
def test_torchvision_networks_are_pruned_too(block):
    model = small(block)
    batch = torch.randn(12, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    plan = {name: max(1, c // 4) for name, c in convolutions(model).items() if name.startswith("layer1.0.conv")}
    result = paper.prune(model, batch, plan, positions=120)
    first = result.model.get_submodule("layer1.0.conv1")
    assert isinstance(first.sampler, paper.ChannelSampler) and len(first.sampler.channels) == 16
    assert result.model.get_submodule("layer1.0.conv2").in_channels == 16
    assert result.model.conv1.out_channels == 64  # the shortcut reads all of them
    assert outputs(result.model, batch).shape == (12, 7)
    wide = paper.prune(model, batch, {name: convolutions(model)[name] for name in plan}, positions=120).model
    torch.testing.assert_close(outputs(wide, batch), outputs(model, batch), atol=0.01, rtol=0)  # of 3 to 5: few samples


def test_a_sampler_leaves_the_shared_map_whole_is_counted_and_saved(images, tmp_path):
    model = models.pretrained("resnet-20", "mnist-m")
    result = paper.prune(model, images, {"stage2.0.conv1": 4, "stage2.0.conv2": 8}, positions=40)
    block = result.model.stage2[0]
    assert block.conv1.layer.weight.shape == (8, 4, 3, 3) and block.shortcut.conv.weight.shape == (32, 16, 1, 1)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block.conv1.sampler(x), x[:, result.kept["stage2.0.conv1"]])
    dense, here = (cost.report(m, images[:1]) for m in (model, result.model))
    gone = dense.totals()["MACs"] - here.totals()["MACs"]
    assert gone == (16 * 32 - 4 * 8) * 9 * 256 + (32 - 8) * 32 * 9 * 256
    torch.save(result.model.state_dict(), tmp_path / "pruned.pt")
    fresh = paper.cut(models.build("resnet-20"), {n: range(len(k)) for n, k in result.kept.items()}, images[:1])
    fresh.load_state_dict(torch.load(tmp_path / "pruned.pt", weights_only=True))  # the sampler's indices come with it
    assert torch.equal(outputs(fresh, images), outputs(result.model, images))


def test_cutting_a_network_in_training_mode_leaves_its_statistics_and_mode(images):
    model = models.build("resnet-20").train()
    narrower = paper.cut(model, {"stage1.0.conv1": [1, 2], "stage1.0.conv2": [0]}, images[:1])
    assert all(module.training for module in narrower.modules())
    assert torch.equal(narrower.norm1.running_mean, torch.zeros(16)) and torch.equal(model.norm1.running_mean, torch.zeros(16))


def test_the_residual_target_makes_the_sum_exact():
    random = torch.Generator().manual_seed(0)
    y1, pruned, y2 = torch.randn(3, 50, 4, generator=random)
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.normal_(generator=random)
    norm.running_var.uniform_(0.5, 2, generator=random)
    norm.weight.data = torch.tensor([2.0, -0.5, 0.01, 0.0])

    def normed(y: Tensor) -> Tensor:
        return norm(y[:, :, None, None])[:, :, 0, 0].detach()

    target = paper.residual_target(y2, y1, pruned, norm).detach()
    torch.testing.assert_close((normed(target) + pruned)[:, :3], (normed(y2) + y1)[:, :3], atol=1e-4, rtol=1e-4)
    assert torch.equal(target[:, 3], y2[:, 3])  # gamma is zero: nothing gets through
    torch.testing.assert_close(paper.residual_target(y2, y1, pruned) + pruned, y2 + y1)
    assert torch.equal(paper.residual_target(y2, y1, y1, norm), y2)  # nothing lost before: exactly what was said


def test_the_correction_brings_the_sums_of_a_block_nearer(images):
    """The first block is pruned to a channel; the second one's last layer stays whole and can make up for some of it."""
    model = models.pretrained("resnet-20", "mnist-m")
    plan = {"stage1.0.conv2": 2, "stage1.1.conv2": 16}
    sums = {}
    for name, network in {
        "original": model,
        "corrected": paper.prune(model, images, plan, positions=40).model,
        "plain": paper.prune(model, images, plan, positions=40, corrected=False).model,
    }.items():
        with torch.no_grad():
            sums[name] = network[:3](images)
            for block in network.stage1[:2]:
                branch = block.norm2(block.conv2(block.relu1(block.norm1(block.conv1(sums[name])))))
                total = branch + block.shortcut(sums[name])
                sums[name] = block.relu2(total)
            sums[name] = total
    errors = {name: (sums[name] - sums["original"]).square().mean().item() for name in ("corrected", "plain")}
    assert errors["corrected"] < 0.95 * errors["plain"]


def test_the_plan_may_name_channels_and_come_in_any_order(images):
    model = models.pretrained("vgg-small", "mnist-m")
    plan = {"conv6": 40, "conv3": [5, 1, 7], "conv4": 20}
    one = paper.prune(model, images, plan, positions=40, seed=3)
    assert list(one.kept) == ["conv3", "conv4", "conv6"] and one.kept["conv3"].tolist() == [1, 5, 7]
    other = paper.prune(model, images, dict(reversed(plan.items())), positions=40, seed=3)
    assert all(torch.equal(one.kept[name], other.kept[name]) for name in plan)
    assert torch.equal(outputs(one.model, images), outputs(other.model, images))
    assert paper.prune(model, images, plan, positions=40, seed=4).explained != one.explained


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"conv9": 3}, "layer is 'conv9'; the dense layers and ungrouped 2-d convolutions are conv1, conv2"),
        ({"norm1": 3}, "layer is 'norm1'"),
        ({"conv2": 33}, r"layer 'conv2' is to keep range\(0, 33\); expected some of its 32 input channels"),
        ({"conv2": 0}, "layer 'conv2' is to keep"),
        ({"conv2": [1, 1]}, "none twice"),
        ({"conv2": [-1]}, "expected some of its 32 input channels"),
        ({"conv2": [0.5]}, "expected some of its 32 input channels"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(plan, message, images):
    with pytest.raises(ValueError, match=message):
        paper.prune(models.pretrained("vgg-small", "mnist-m"), images, plan)


@pytest.mark.parametrize(("name", "speedup"), [("vgg-small", 2.0), ("vgg-small", 4.0), ("resnet-20", 2.0), ("resnet-56", 1.5)])
def test_a_plan_reaches_its_speedup_and_not_much_more(name, speedup):
    model, example = models.build(name), models.example_input(name)
    ratios = {layer: 1.0 + 0.5 * ("3" in layer) for layer in widths(model)}
    plan = paper.plan_for_speedup(model, ratios, speedup, example)
    narrower = paper.cut(model, {layer: range(keep) for layer, keep in plan.items()}, example)
    reached = cost.count(model, example).MACs.sum() / cost.count(narrower, example).MACs.sum()
    assert speedup <= reached < 1.1 * speedup


def test_plans_that_cannot_be_made_say_how_far_it_goes():
    model, example = models.build("vgg-small"), models.example_input("vgg-small")
    for speedup in (0.5, 1000):
        with pytest.raises(ValueError, match=rf"speedup is {speedup}; with these layers it can be 1 to \d+\.\d"):
            paper.plan_for_speedup(model, {"conv2": 1.0, "conv3": 1.0}, speedup, example)
    with pytest.raises(ValueError, match="numbers above 0"):
        paper.plan_for_speedup(model, {"conv2": 0.0}, 2, example)


# The experiments


@pytest.mark.parametrize("kind", ["layer", "network", "tuned"])
def test_a_row_of_each_kind_at_smoke_scale(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a run that is cut off would leave its state
    setting = next(setting for setting in runs.grid("smoke") if setting["kind"] == kind)
    row = runs.run(setting, seed=0, scale="smoke", device="cpu")
    assert row["data set"] == "mnist-m" and json.loads(json.dumps(row)) == row
    if kind == "layer":
        points = {point["method"]: point for point in row["points"] if point["share"] == 0.25}
        assert points["LASSO"]["unexplained"] < points["inverted"]["unexplained"]
        assert points["LASSO"]["keep"] == row["channels"] // 4
    else:
        assert row["macs"] >= 2 * row["macs_left"]
    if kind == "network":
        assert row["without_least_squares"] < row["accuracy"] <= row["baseline"]
    if kind == "tuned":
        assert 50 < min(row["before"], row["accuracy"]) <= row["baseline"] and not list(tmp_path.rglob("*.pt"))
        table = runs.paper_table(pd.DataFrame([setting | row | dict(seed=0)]))
        assert table["MACs"].tolist() == ["2x less"]


def test_rules_decide_where_samplers_stand(images):
    model = models.pretrained("resnet-20", "mnist-m")
    for name, (sampler, _) in runs.RULES.items():
        setting = dict(network="resnet-20", speedup=2.0, rules=name)
        narrower = runs.prune(setting, model, images, dict(positions=40), seed=0).model
        assert any(isinstance(module, paper.ChannelSampler) for module in narrower.modules()) == sampler
        assert cost.count(model, images[:1]).MACs.sum() >= 2 * cost.count(narrower, images[:1]).MACs.sum()


def test_the_strength_of_a_channel_is_that_of_the_filters_that_make_it(images):
    model = models.pretrained("vgg-small", "mnist-m")
    strongest = runs.strengths(model, ["conv3"], images[:1])["conv3"]
    assert torch.allclose(strongest, model.conv2.weight.detach().abs().sum((1, 2, 3)))


def test_the_subset_search_agrees_with_the_one_above():
    assert runs.subset_search(0.0, 20) == {"with W as it is": 1.0, "after least squares": 1.0}
    mixed = runs.subset_search(1.0, 20)
    assert mixed["after least squares"] < 0.9 <= mixed["with W as it is"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("network", "plan"),
    [
        ("vgg-small", dict(conv2=16, conv5=32)),  # the filters before them go too
        ("resnet-20", {"stage1.0.conv1": 8, "stage2.0.conv2": 16}),  # a sampler, and the end of a residual branch
    ],
)
def test_cuda_prunes_the_same(monkeypatch, network, plan):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, images = models.pretrained(network, "mnist-m"), data.load("mnist-m").train.images[:60]
    here = paper.prune(model, images, plan, positions=20)
    there = paper.prune(copy.deepcopy(model).cuda(), images.cuda(), plan, positions=20)
    assert {name: kept.tolist() for name, kept in there.kept.items()} == {n: kept.tolist() for n, kept in here.kept.items()}
    assert there.explained == pytest.approx(here.explained, abs=1e-3)
    assert all(tensor.is_cuda for tensor in there.model.state_dict().values())
    with torch.no_grad():
        torch.testing.assert_close(there.model(images.cuda()).cpu(), here.model(images), atol=2e-2, rtol=2e-2)
