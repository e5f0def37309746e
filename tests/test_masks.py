"""Pruned weights stay exactly zero whatever trains the network, and nothing of the masks stays behind."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_lib import masks, models, training
from course_lib.streams import stream

OPTIMIZERS = {
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "Nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "Adam with weight decay": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=1e-2),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=1e-2, amsgrad=True),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.9),
}


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    for step in range(count):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(8, 1, 8, 8)).square().mean().backward()
        optimizer.step()


@given(st.sampled_from(sorted(OPTIMIZERS)), st.integers(0, 1000), st.floats(0.0, 0.95), st.booleans())
def test_pruned_weights_stay_zero_in_any_optimizer_with_momentum_from_before(name, seed, share, foreign):
    """Also in the forward passes between: what the network computes is what it computes with these weights at zero."""
    model = small(seed)
    optimizer = OPTIMIZERS[name](model.parameters())
    if foreign:  # the optimizer has moved these very weights before they are pruned
        steps(model, optimizer)
    kept = {n: torch.rand(p.shape) >= share for n, p in model.named_parameters() if p.dim() > 1}
    seen = []
    with masks.holding(model, kept):
        watch = model[4].register_forward_hook(lambda layer, *_: seen.append(layer.weight[~kept["4.weight"]].abs().sum()))
        steps(model, optimizer)
        watch.remove()
    assert not any(seen) and len(seen) == 3
    for parameter, mask in kept.items():
        weight = model.get_parameter(parameter)
        assert (weight[~mask] == 0).all()
        assert (weight[mask] != 0).all()


def test_survivors_are_trained_as_if_the_others_did_not_exist():
    """By SGD of a network whose second layer is narrower to begin with."""
    torch.manual_seed(0)
    wide, narrow = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 2))
    with torch.no_grad():
        wide[0].bias[2:] = 0
        narrow[0].weight.copy_(wide[0].weight[:2])
        narrow[0].bias.copy_(wide[0].bias[:2])
        narrow[1].weight.copy_(wide[1].weight[:, :2])
        narrow[1].bias.copy_(wide[1].bias)
    kept = {"0.weight": torch.ones(4, 6, dtype=torch.bool), "1.weight": torch.ones(2, 4, dtype=torch.bool)}
    kept["0.weight"][2:], kept["1.weight"][:, 2:] = False, False
    x = torch.randn(20, 6)
    for model, held in ((wide, kept), (narrow, {})):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        with masks.holding(model, held):
            for _ in range(5):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
    torch.testing.assert_close(wide[0].weight[:2], narrow[0].weight)
    torch.testing.assert_close(wide[1].weight[:, :2], narrow[1].weight)


def test_nothing_stays_behind_also_after_an_interrupt():
    model = small()
    before = copy.deepcopy(model)
    kept = {"4.weight": torch.rand(3, 144) < 0.5}

    def interrupted() -> None:
        with masks.holding(model, kept):
            assert masks.held(model) is kept
            steps(model, OPTIMIZERS["Adam with weight decay"](model.parameters()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (model[4].weight[~kept["4.weight"]] == 0).all()
    assert masks.held(model) == {}
    assert not model._forward_pre_hooks and not model[4].weight._backward_hooks
    assert list(model.state_dict()) == list(before.state_dict())
    assert vars(model).keys() == vars(before).keys() and vars(model[4]).keys() == vars(before[4]).keys()


def test_two_forward_passes_before_one_backward():
    """As with accumulated gradients: zeroing again must not be a change for autograd."""
    model = small()
    with masks.holding(model, {"4.weight": torch.rand(3, 144) < 0.5}):
        x = torch.randn(4, 1, 8, 8)
        (model(x).sum() + model(2 * x).sum()).backward()
    assert model[4].weight.grad is not None


def test_masks_of_zeros_are_those_that_made_them():
    model = small()
    kept = {"4.weight": torch.rand(3, 144) < 0.5}
    masks.apply(model, kept)
    found = masks.of_zeros(model, {"0": model[0], "4": model[4]})
    assert found.keys() == kept.keys() and torch.equal(found["4.weight"], kept["4.weight"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fc9.weight": torch.ones(1, dtype=torch.bool)}, "fc9.weight.*fc1.weight"),
        ({"fc1.weight": torch.ones(784, 300, dtype=torch.bool)}, r"\(784, 300\).*\(300, 784\)"),
        ({"fc1.weight": torch.ones(300, 784)}, "float32.*torch.bool"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_anything_happens(wrong, message):
    model = models.build("lenet-300-100")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message), masks.holding(model, wrong):
        pass
    with pytest.raises(ValueError, match=message):
        masks.apply(model, wrong)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_masks_from_the_cpu_hold_on_the_gpu():
    model = small().cuda()
    kept = {"4.weight": torch.rand(3, 144) < 0.5}
    with masks.holding(model, kept):
        optimizer = OPTIMIZERS["AdamW"](model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 1, 8, 8, device="cuda")).square().mean().backward()
            optimizer.step()
    assert (model[4].weight[~kept["4.weight"].cuda()] == 0).all()


def test_a_recipe_draws_other_streams_and_files_in_each_call(tmp_path):
    """No two of (seed, call) share a stream, as `seed + call` would."""
    assert len({stream(seed, "call", number) for seed in range(50) for number in range(1, 50)}) == 50 * 49
    recipe = training.recipe(None, epochs=1, resume_from=tmp_path / "state", seed=3)
    settings = [recipe.nth(number).settings for number in (1, 2)]
    assert [s["seed"] for s in settings] == [stream(3, "call", 1), stream(3, "call", 2)]
    assert [s["resume_from"] for s in settings] == [f"{tmp_path / 'state'}.{number}" for number in (1, 2)]
