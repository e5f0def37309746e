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

from course_lib import data, models
from course_lib.papers import weight_pruning as paper
from course_lib.training import evaluate
from tests.resumption import resumed

pytestmark = pytest.mark.timeout(240)  # some take ten seconds on an idle machine

matrices = arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.floats(-100, 100))


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    whole = data.load("mnist-5k")
    return data.Splits(whole.train.take(512), whole.test.take(256), whole.name, whole.requested)


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


def test_layers_are_found_in_any_network_and_wrong_names_list_them(trained):
    assert list(paper.prunable_layers(trained)) == ["fc1", "fc2", "fc3"]
    assert len(paper.prunable_layers(models.build("resnet-20"))) == 22  # 19 convolutions, 2 shortcuts, 1 dense layer
    for names in (["fc9"], ["relu1"], []):
        with pytest.raises(ValueError, match="fc1, fc2, fc3"):
            paper.prunable_layers(trained, names)


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
    plan = paper.sparsities_within(CURVES, SCAN, 0.05)
    assert plan["fc1"] == pytest.approx(0.5 + 0.25 * 3 / 8)  # 0.02 lost at 0.5, 0.10 at 0.75
    assert plan["fc2"] == pytest.approx(0.125)
    assert plan["fc3"] == 0.9  # never falls: as far as it was scanned


@pytest.mark.parametrize("rate", [1.0, 1.2, 2.0, 5.0, 9.9])
def test_a_plan_for_a_rate_keeps_that_many_weights(trained, rate):
    plan = paper.sparsities_for_rate(trained, CURVES, SCAN, rate)
    masks = paper.magnitude_masks(trained, plan)
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == pytest.approx(266_200 / rate, abs=3)
    with pytest.raises(ValueError, match=r"rate is 20.*it can be 1 to 1\d"):
        paper.sparsities_for_rate(trained, CURVES, SCAN, 20)


def test_iterative_pruning_reaches_its_sparsity_keeps_masks_and_leaves_the_network(trained, splits):
    before = copy.deepcopy(trained.state_dict())
    final = dict(fc1=0.95, fc2=0.8)
    result = paper.iterative_prune(trained, splits, sparsity=final, rounds=3, epochs=1, final_epochs=1, lr=0.02, progress=False)
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert set(result.masks) == {"fc1.weight", "fc2.weight"}
    for name, mask in result.masks.items():
        weight = result.model.get_parameter(name)
        assert (~mask).sum() == round(final[name[:3]] * mask.numel())
        assert (weight[~mask] == 0).all() and (weight[mask] != 0).all()
    assert (result.model.fc3.weight != 0).all()
    kept = [row["kept"] for row in result.rounds]
    assert kept == sorted(kept, reverse=True) and len(kept) == 4


def test_iterative_pruning_is_the_same_twice(trained, splits):
    settings = dict(sparsity=0.9, rounds=2, epochs=1, final_epochs=0, lr=0.02, progress=False, seed=4)
    first, second = (paper.iterative_prune(trained, splits, **settings).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_in_turns_retrains_one_group_at_a_time(splits):
    model = models.pretrained("lenet-5", "mnist-5k")
    groups = [["fc1", "fc2"], ["conv1", "conv2"]]
    seen = []
    original = paper.fit

    def spy(network, *arguments, **settings):
        seen.append((sorted(settings["frozen"]), sorted(settings["masks"])))
        return original(network, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "fit", spy)
        result = paper.iterative_prune(
            model, splits, sparsity=0.5, rounds=1, epochs=1, final_epochs=0, in_turns=groups, lr=0.01, progress=False
        )
    assert [frozen for frozen, _ in seen] == [["conv1", "conv2"], ["fc1", "fc2"]]
    assert all((result.model.get_parameter(name)[~mask] == 0).all() for name, mask in result.masks.items())


def test_dropout_behind_a_pruned_layer_is_scaled_and_the_first_networks_is_not():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    images = torch.randn(64, 1, 28, 28)
    split = data.Split(images, torch.arange(64) % 10)
    result = paper.iterative_prune(
        model,
        data.Splits(split, split, "random", "random"),
        sparsity={"1": 0.75},
        rounds=1,
        final_epochs=0,
        lr=0.01,
        progress=False,
    )
    assert result.model[3].p == pytest.approx(0.25)
    assert model[3].p == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(sparsity=1.5), r"sparsity is .*\[0, 1\)"),
        (dict(sparsity=dict(fc9=0.5)), "fc9.*fc1, fc2, fc3"),
        (dict(sparsity={}), "layers is empty"),
        (dict(sparsity=0.5, rounds=0), "rounds is 0"),
        (dict(sparsity=0.5, in_turns=[["conv1"]]), "conv1.*fc1, fc2, fc3"),
    ],
)
def test_bad_arguments_of_the_loop(trained, splits, arguments, message):
    with pytest.raises(ValueError, match=message):
        paper.iterative_prune(trained, splits, **arguments)


def test_masks_that_do_not_fit_are_refused(trained):
    for masks in ({"fc9.weight": torch.ones(1, dtype=torch.bool)}, {"fc1.weight": torch.ones(2, 2, dtype=torch.bool)}):
        with pytest.raises(ValueError, match=r"fc1.weight \(300, 784\)"):
            paper.apply_masks(trained, masks)


def test_a_loop_that_was_interrupted_ends_as_one_that_was_not(trained, splits, monkeypatch, tmp_path):
    """Each call of `fit` has a file of its own; finished rounds are read from theirs."""

    def loop(**more):
        return paper.iterative_prune(
            trained, splits, sparsity=0.9, rounds=2, epochs=1, final_epochs=2, in_turns=[["fc1"], ["fc2", "fc3"]],
            lr=0.02, progress=False, **more,
        )  # fmt: skip

    whole, again, steps = resumed(loop, 11, tmp_path, monkeypatch)
    assert again.rounds == whole.rounds and steps == 6 * 4 - 8
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"state.{call}" for call in range(1, 6)]
