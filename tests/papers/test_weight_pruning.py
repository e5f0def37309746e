"""Han et al., NIPS 2015: masks against NumPy and torch, the scan, the plan, and the loop of pruning and retraining."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn.utils import prune

from course_lib import data, masks, models, plans, training
from course_lib.papers import weight_pruning as paper
from course_lib.storage import networks
from course_lib.streams import stream
from course_lib.training import evaluate
from tests.resumption import resumed

matrices = arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.floats(-100, 100))


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    whole = data.load("mnist-5k")
    return data.Splits(whole.train.take(512), whole.validation.take(256), whole.test.take(256), whole.name, whole.requested)


@pytest.fixture
def trained() -> nn.Module:
    return models.pretrained("lenet-300-100", "mnist-5k")


@given(matrices, st.floats(0, 5))
def test_a_threshold_mask_is_one_line_of_numpy(weight, quality):
    expected = np.abs(weight) > quality * weight.std()
    mask = paper.threshold_mask(torch.from_numpy(weight), quality).numpy()
    close = np.isclose(np.abs(weight), quality * weight.std(), rtol=1e-9, atol=1e-12)  # rounding decides there
    assert (mask == expected)[~close].all()


def test_the_papers_qualities_keep_what_it_says_of_a_gaussian():
    weight = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    for quality, share in ((0.44, 0.66), (1.13, 0.26), (1.55, 0.12), (1.75, 0.08)):
        kept = paper.threshold_mask(weight, quality).float().mean().item()
        assert kept == pytest.approx(math.erfc(quality / math.sqrt(2)), abs=2e-3)
        assert kept == pytest.approx(share, abs=5e-3)


@given(matrices, st.floats(0, 0.999))
def test_a_sparsity_mask_prunes_exactly_that_many_and_never_a_larger_one(weight, sparsity):
    mask = paper.sparsity_mask(torch.from_numpy(weight), sparsity).numpy()
    assert (~mask).sum() == round(sparsity * weight.size)
    if (~mask).any() and mask.any():
        assert np.abs(weight[~mask]).max() <= np.abs(weight[mask]).min()


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.97])
def test_a_sparsity_mask_is_that_of_torch_prune(sparsity):
    layer = nn.Conv2d(7, 5, 3)
    expected = prune.L1Unstructured(sparsity).compute_mask(layer.weight, torch.ones_like(layer.weight)).bool()
    assert torch.equal(paper.sparsity_mask(layer.weight, sparsity), expected)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2, float("nan")])
def test_sparsity_outside_its_range_is_refused(sparsity, trained):
    for call in (lambda: paper.sparsity_mask(torch.ones(4), sparsity), lambda: paper.magnitude_masks(trained, sparsity)):
        with pytest.raises(ValueError, match=r"sparsity is .*allowed is \[0, 1\)"):
            call()


@pytest.mark.parametrize("weight", [torch.ones(0), torch.tensor([1.0, float("nan")])])
def test_weights_that_cannot_be_pruned_are_refused(weight):
    for call in (lambda: paper.threshold_mask(weight, 1.0), lambda: paper.sparsity_mask(weight, 0.5)):
        with pytest.raises(ValueError, match="weight"):
            call()
    with pytest.raises(ValueError, match="quality is -1"):
        paper.threshold_mask(torch.ones(4), -1)


def test_dropout_by_hand():
    assert paper.adjusted_dropout(0.5, 1, 4) == 0.25
    assert paper.adjusted_dropout(0.5, 100, 100) == 0.5
    assert paper.adjusted_dropout(0.4, 9, 100) == pytest.approx(0.12)
    for bad in ((1.0, 1, 2), (0.5, 3, 2), (0.5, 0, 0), (-0.1, 1, 2)):
        with pytest.raises(ValueError, match="allowed|expected"):
            paper.adjusted_dropout(*bad)


def test_sensitivity_equals_pruning_by_hand_and_leaves_the_network(trained, splits):
    before = copy.deepcopy(trained.state_dict())
    curves = paper.sensitivity(trained, splits.test, [0.0, 0.9], layers=["fc2"])
    by_hand = copy.deepcopy(trained)
    by_hand.fc2.weight.data *= paper.sparsity_mask(by_hand.fc2.weight, 0.9)
    assert curves["fc2"].tolist() == [evaluate(trained, splits.test), evaluate(by_hand, splits.test)]
    assert list(curves) == ["fc2"]
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())


SCAN = (0.0, 0.25, 0.5, 0.75, 0.9)
CURVES = {"fc1": torch.tensor([1.0, 1.0, 0.98, 0.9, 0.2]), "fc2": torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6]), "fc3": torch.ones(5)}


def test_a_plan_interpolates_each_curve_by_hand():
    plan = plans.sparsities_within(CURVES, SCAN, 0.05)
    assert plan["fc1"] == pytest.approx(0.5 + 0.25 * 3 / 8)  # 0.02 lost at 0.5, 0.10 at 0.75
    assert plan["fc2"] == pytest.approx(0.125)
    assert plan["fc3"] == 0.9  # never falls: as far as it was scanned


@pytest.mark.parametrize("rate", [1.0, 1.2, 2.0, 5.0, 9.9])
def test_a_plan_for_a_rate_keeps_that_many_weights(trained, rate):
    plan = plans.sparsities_for_rate(trained, CURVES, SCAN, rate)
    kept = sum(int(mask.sum()) for mask in paper.magnitude_masks(trained, plan).values())
    assert kept == pytest.approx(266_200 / rate, abs=3)
    with pytest.raises(ValueError, match=r"rate is 20.*it can be 1 to 1\d"):
        plans.sparsities_for_rate(trained, CURVES, SCAN, 20)


def test_pruning_reaches_its_sparsity_keeps_zeros_and_leaves_the_network(trained, splits):
    before = copy.deepcopy(trained.state_dict())
    final = dict(fc1=0.95, fc2=0.8)
    how = dict(lr=0.02, progress=False)
    result = paper.prune(
        trained.train(), splits.train, final, rounds=3, retrain=training.recipe(splits, epochs=1, schedule="constant", **how),
        finish=training.recipe(splits, epochs=1, schedule="linear", **how),
        measure=lambda network: evaluate(network, splits.test),
    )  # fmt: skip
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items()) and trained.training
    assert not result.model.training
    for name, layer in masks.weight_layers(result.model).items():
        assert (layer.weight == 0).sum() == round(final.get(name, 0) * layer.weight.numel())
    kept = [row["kept"] for row in result.record]
    assert kept == sorted(kept, reverse=True) and [row["round"] for row in result.record] == [1, 2, 3, 4]
    assert kept[-1] == sum(int((layer.weight != 0).sum()) for layer in (result.model.fc1, result.model.fc2))
    assert {row["weights"] for row in result.record} == {784 * 300 + 300 * 100}
    assert result.record[-1]["pruned"] == result.record[-2]["retrained"]
    assert result.record[-1]["retrained"] == evaluate(result.model, splits.test)


def test_without_retraining_it_is_the_masks_alone(trained):
    """In one round or in several, with nothing to read and nothing to measure."""
    by_hand = copy.deepcopy(trained)
    masks.apply(by_hand, paper.magnitude_masks(trained, 0.8))
    for rounds in (1, 4):
        result = paper.prune(trained, None, 0.8, rounds=rounds)
        assert all(torch.equal(value, by_hand.state_dict()[name]) for name, value in result.model.state_dict().items())
        assert [set(row) for row in result.record] == [{"round", "weights", "kept"}] * rounds
    assert [row["kept"] / row["weights"] for row in result.record] == pytest.approx(
        [1 - 0.8 * (1 - (1 - t / 4) ** 3) for t in (1, 2, 3, 4)], abs=1e-4
    )


def test_calls_are_counted_through_retraining_and_finish(trained, splits, monkeypatch):
    seen = []
    monkeypatch.setattr(training.recipes, "fit", lambda model, splits, **settings: seen.append(settings))
    retrain, finish = training.recipe(splits, epochs=1, seed=0), training.recipe(splits, epochs=2, seed=0)
    paper.prune(trained, None, 0.5, rounds=3, retrain=retrain, finish=finish)
    paper.prune(trained, None, 0.5, finish=finish)  # the round before counts, also where nobody trains
    assert [settings["seed"] for settings in seen] == [stream(0, "call", number) for number in (1, 2, 3, 4, 2)]


def blocks() -> nn.Module:
    """Two blocks of a convolution and its batch norm, and a dense layer."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Conv2d(c, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()) for c in (1, 4))
    return nn.Sequential(first, second, nn.Flatten(), nn.Linear(4 * 36, 10))


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_in_turns_the_other_groups_stay_exactly_as_they_are(splits, optimizer):
    """By any loop, in training mode, also one that keeps old gradients; statistics of batch norm included."""
    groups, model = [["3"], ["0", "1.0", "1.1"]], blocks()
    states, modes = [], []

    def retrain(network: nn.Module) -> None:
        states.append(copy.deepcopy(network.state_dict()))
        network.train()
        how = OPTIMIZERS[optimizer](network.parameters())
        watch = network[0][1].register_forward_hook(lambda norm, *_: modes.append(norm.training))
        for _ in range(3):
            how.zero_grad(set_to_none=False)
            nn.functional.cross_entropy(network(splits.train.images[:64]), splits.train.labels[:64]).backward()
            how.step()
        watch.remove()
        states.append(copy.deepcopy(network.state_dict()))

    result = paper.prune(model, None, 0.5, rounds=2, in_turns=groups, retrain=retrain, finish=retrain)
    for turn, (before, after) in enumerate(zip(states[::2], states[1::2], strict=True)):
        changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
        dense = {name for name in before if name.startswith("3.")}
        assert changed == (set(before) if turn == 4 else dense if turn % 2 == 0 else set(before) - dense)
    assert modes == [turn % 2 == 1 or turn == 4 for turn in range(5) for _ in range(3)]
    assert all((layer.weight == 0).sum() == layer.weight.numel() // 2 for layer in masks.weight_layers(result.model).values())
    assert all(parameter.requires_grad for parameter in result.model.parameters())
    assert [row["round"] for row in result.record] == [1, 1, 2, 2, 3]


def test_dropout_after_a_pruned_layer_is_scaled_and_that_of_the_first_network_is_not():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    seen = []
    result = paper.prune(model, None, {"1": 0.75}, rounds=2, retrain=lambda network: seen.append(network[3].p))
    assert seen == [pytest.approx(0.5 * math.sqrt(1 - 0.75 * 7 / 8), abs=1e-4), 0.25]
    assert result.model[3].p == pytest.approx(0.25)
    assert model[3].p == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(sparsity=1.5), r"sparsity is .*\[0, 1\)"),
        (dict(sparsity=dict(fc9=0.5)), "sparsity names 'fc9'.*fc1, fc2, fc3"),
        (dict(sparsity={}), "sparsity names no layer"),
        (dict(sparsity=0.5, rounds=0), "rounds is 0"),
        (dict(sparsity=0.5, in_turns=[["conv1"], ["fc1", "fc2", "fc3"]]), "in_turns names 'conv1'.*fc1, fc2, fc3"),
        (dict(sparsity=0.5, in_turns=[["fc1"], ["fc2"]]), "in_turns has layer 'fc3' in 0 groups"),
        (dict(sparsity=0.5, in_turns=[["fc1", "fc2"], ["fc2", "fc3"]]), "in_turns has layer 'fc2' in 2 groups"),
        (dict(sparsity=dict(fc1=0.5), in_turns=[["fc1"], ["fc2"]]), "in_turns names 'fc2', for which sparsity has no share"),
        (dict(sparsity=0.5, in_turns=[["fc1", "fc2", "fc3"], []]), "each group has to name, or contain"),
    ],
)
def test_bad_arguments_of_the_loop(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        paper.prune(trained, None, **arguments)


def test_a_loop_that_was_interrupted_ends_as_one_that_was_not(trained, splits, monkeypatch, tmp_path):
    """Each call of `fit` has a file of its own; finished rounds are read from theirs."""

    def loop(**more):
        how = dict(lr=0.02, progress=False, **more)
        return paper.prune(
            trained, None, 0.9, rounds=2, in_turns=[["fc1"], ["fc2", "fc3"]],
            retrain=training.recipe(splits, epochs=1, schedule="constant", **how),
            finish=training.recipe(splits, epochs=2, schedule="linear", **how),
            measure=lambda network: evaluate(network, splits.test),
        )  # fmt: skip

    whole, again, steps = resumed(loop, 11, tmp_path, monkeypatch)
    assert again.record == whole.record and steps == 6 * 4 - 8
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"state.{call}" for call in range(1, 6)]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_pruned_weights_stay_zero_in_turns_and_the_file_loads_on_the_cpu(trained, tmp_path):
    splits = data.load("mnist-5k", device="cuda")
    retrain = training.recipe(splits, epochs=1, lr=0.02, progress=False)
    result = paper.prune(
        trained.cuda(), None, 0.9, rounds=2, in_turns=[["fc1"], ["fc2", "fc3"]], retrain=retrain, finish=retrain,
        measure=lambda network: evaluate(network, splits.test),
    )  # fmt: skip
    assert all(value.is_cuda for value in result.model.state_dict().values())
    for layer in masks.weight_layers(result.model).values():
        assert (layer.weight == 0).sum() == round(0.9 * layer.weight.numel())
    assert result.record[-1]["retrained"] > 0.9
    result.save(tmp_path / "network")
    loaded, images = networks.load(tmp_path / "network", models.build("lenet-300-100")), splits.test.images[:100]
    torch.testing.assert_close(loaded(images.cpu()), result.model(images).cpu(), rtol=1e-3, atol=1e-3)
