"""The pipeline to the smallest file: each step against an identity or a brute force, and the file against the network."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import distillation, models, smallest, storage
from course_lib.data import Split
from course_lib.masks import weight_layers

IMAGE = torch.zeros(1, 1, 28, 28)


@pytest.fixture(params=["lenet-5", "lenet-300-100"])
def small(request):
    """A narrow network with random weights and biases, as `trim` leaves it."""
    torch.manual_seed(0)
    widths = {"lenet-5": dict(conv1=3, conv2=6, fc1=10), "lenet-300-100": dict(fc1=10, fc2=9)}[request.param]
    return smallest.trim(models.build(request.param).eval(), widths, IMAGE)


@pytest.fixture
def few():
    """96 images with one copy each, and logits that tell which image they belong to."""
    random = torch.Generator().manual_seed(1)
    images = torch.randn(2, 96, 1, 28, 28, generator=random)
    logits = images.flatten(2) @ torch.randn(784, 10, generator=random) / 10
    return distillation.Examples(images, logits, logits[0].argmax(1))


def weights(model):
    return [module.weight for module in weight_layers(model).values()]


def test_biases_of_convolutions_move_into_the_dense_layer_exactly():
    model, images = models.build("lenet-5").eval(), torch.rand(8, 1, 28, 28)
    expected = model(images)
    smallest.fold_biases(model, images)
    assert not model.conv1.bias.any() and not model.conv2.bias.any()
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)


def test_trimming_keeps_the_channels_of_the_largest_product_of_norms():
    model = models.build("lenet-300-100")
    product = model.fc1.weight.norm(dim=1) * model.fc2.weight.norm(dim=0)
    kept = product.argsort(descending=True)[:7].sort().values
    narrower = smallest.trim(model, dict(fc1=7, fc2=100), IMAGE)
    assert torch.equal(narrower.fc1.weight, model.fc1.weight[kept])


def test_a_convolution_is_judged_by_all_columns_that_read_its_channel():
    model = models.build("lenet-5")
    with torch.no_grad():
        model.fc1.weight[:, 16 * 9 : 16 * 10] *= 100
    assert torch.equal(smallest.trim(model, dict(conv1=20, conv2=1, fc1=500), IMAGE).conv2.weight, model.conv2.weight[9:10])


def test_examples_hold_the_mean_of_the_teachers():
    teachers = [models.build("lenet-300-100") for _ in range(2)]
    split = Split(torch.rand(4, 1, 28, 28), torch.arange(4))
    found = distillation.examples(teachers, split, copies=2, seed=0)
    assert found.images.shape == (3, 4, 1, 28, 28) and torch.equal(found.images[0], split.images)
    for copy_, logits in zip(found.images, found.logits, strict=True):
        torch.testing.assert_close(logits, (teachers[0](copy_) + teachers[1](copy_)) / 2)


def test_a_pass_has_every_image_once_with_its_own_logits(few):
    seen = []
    for images, logits, labels in distillation.batches(few, 2 * 96 // distillation.BATCH + 1, seed=0):
        for image, logit, label in zip(images, logits, labels, strict=True):
            which, place = (few.logits == logit).all(2).nonzero()[0].tolist()
            assert torch.equal(image, few.images[which, place]) and label == few.labels[place]
            seen.append((which, place))
    assert sorted(place for _, place in seen[:96]) == list(range(96))
    assert 0.3 < np.mean([which for which, _ in seen]) < 0.7


def test_the_loss_of_a_network_that_says_what_its_teachers_say_is_its_cross_entropy(small, few):
    scores = small(few.images[0])
    expected = 0.1 * torch.nn.functional.cross_entropy(scores, few.labels)
    torch.testing.assert_close(distillation.loss(small, few.images[0], scores, few.labels), expected)


def test_bits_of_a_weight():
    assert smallest.bits(0.5) == pytest.approx(4)  # a bit for each of two places, and two for the value
    assert smallest.bits(1 - 1e-9) == pytest.approx(2, abs=1e-3)
    assert smallest.bits(0.01) > smallest.bits(0.1) > smallest.bits(0.5)


def test_pruning_leaves_as_many_weights_as_asked_for_and_goes_on_from_there(small, few, monkeypatch):
    monkeypatch.setattr(smallest, "EVERY", 2)
    smallest.prune(small, few, 700, epochs=40, seed=0)
    first = [weight != 0 for weight in weights(small)]
    assert sum(int(mask.sum()) for mask in first) == 700
    smallest.prune(small, few, 500, epochs=40, seed=1)
    second = [weight != 0 for weight in weights(small)]
    assert sum(int(mask.sum()) for mask in second) == 500
    assert all((new <= old).all() for new, old in zip(second, first, strict=True)), "what is pruned stays so"


def test_steps_follow_the_scale_of_a_layer(small, few):
    """Twice the weights here, half the weights there: the network is the same, and so are the levels."""
    before = smallest.steps(small, few, 0.7, seed=0)
    scaled = copy.deepcopy(small)
    first, second = weights(scaled)[:2]
    with torch.no_grad():
        first.mul_(2)
        list(weight_layers(scaled).values())[0].bias.mul_(2)
        second.div_(2)
    after = smallest.steps(scaled, few, 0.7, seed=0)
    assert after[first] == pytest.approx(2 * before[weights(small)[0]], rel=1e-3)
    assert after[second] == pytest.approx(before[weights(small)[1]] / 2, rel=1e-3)


@settings(deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=12), st.floats(0, 0.5))
def test_nearest_levels_are_the_cheapest_of_all(values, price):
    values = torch.tensor(values)
    levels, counts = values.round().unique(return_counts=True)
    cost = {level: price * -np.log2(count / len(values)) for level, count in zip(levels.tolist(), counts.tolist(), strict=True)}
    for value, found in zip(values.tolist(), smallest.nearest(values, price).tolist(), strict=True):
        least = min((value - level) ** 2 + cost[level] for level in cost)
        assert (value - found) ** 2 + cost[found] == pytest.approx(least, abs=1e-4)


def test_without_a_price_the_nearest_level_is_the_rounded_value():
    values = torch.linspace(-3.3, 3.2, 40)
    assert torch.equal(smallest.nearest(values, 0.0), values.round())


def quantized(model, few):
    smallest.prune(model, few, 500, epochs=5, seed=0)
    taken = smallest.steps(model, few, 0.7, seed=0)
    smallest.quantize(model, few, taken, epochs=7, seed=0)
    return taken


def test_after_the_last_instalment_every_number_is_a_level(small, few, monkeypatch):
    monkeypatch.setattr(smallest, "EVERY", 2)
    smallest.prune(small, few, 500, epochs=20, seed=0)
    zero = [weight == 0 for weight in weights(small)]
    taken = smallest.steps(small, few, 0.7, seed=0)
    smallest.quantize(small, few, taken, epochs=7, seed=0)
    for parameter, step in taken.items():
        levels = parameter.detach() / step
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert parameter.dim() > 1 or levels.abs().max() <= smallest.BIAS_LEVELS + 1e-4
    assert all(not weight[mask].any() for weight, mask in zip(weights(small), zero, strict=True))
    assert not any(parameter._backward_hooks for parameter in small.parameters() if parameter._backward_hooks)


def test_the_file_holds_the_network_up_to_a_factor(small, few, tmp_path):
    taken = quantized(small, few)
    compressed = smallest.compressed(small, taken)
    storage.save(compressed, tmp_path / "small.ctx")
    loaded = storage.load(tmp_path / "small.ctx")
    rebuilt = copy.deepcopy(small)
    rebuilt.load_state_dict(loaded.state_dict())
    scale = np.prod([taken[weight] for weight in weights(small)])
    expected = small(few.images[0])
    torch.testing.assert_close(rebuilt(few.images[0]) * scale, expected, atol=2e-3, rtol=2e-3)  # biases: half-precision steps
    assert all(torch.equal(value, value.round()) for name, value in loaded.state_dict().items() if name.endswith("weight"))


def test_neurons_are_sorted_by_how_many_weights_they_have(small, few):
    state = smallest.compressed(small, quantized(small, few)).state_dict()
    for name in list(weight_layers(small))[:-1]:
        counts = (state[f"{name}.weight"] != 0).flatten(1).sum(1).tolist()
        assert counts == sorted(counts, reverse=True)


def test_as_trained_the_neurons_stay_where_they_are(small, few):
    taken = quantized(small, few)
    state = smallest.compressed(small, taken, order="as trained").state_dict()
    for name, module in weight_layers(small).items():
        torch.testing.assert_close(state[f"{name}.weight"], (module.weight / taken[module.weight]).round().detach())
    with pytest.raises(ValueError, match=r"order is 'random'; allowed are 'dense first', 'as trained'"):
        smallest.compressed(small, taken, order="random")


def test_any_importance_decides_what_is_pruned(small, few, monkeypatch):
    monkeypatch.setattr(smallest, "EVERY", 2)
    kept = {weight: torch.rand_like(weight) < 0.2 for weight in weights(small)}
    count = sum(int(mask.sum()) for mask in kept.values())
    smallest.prune(
        small,
        few,
        count,
        epochs=40,
        seed=0,
        importance=lambda weight, state, mask: kept[weight].float(),
    )
    assert all(torch.equal(weight != 0, mask) for weight, mask in kept.items())
