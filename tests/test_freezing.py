"""What is frozen stays as it is whatever trains the rest; and the rest is trained."""

import copy

import pytest
import torch
from torch import nn

from course_lib.freezing import frozen


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))


def test_a_trainer_that_takes_everything_changes_only_the_rest_and_everything_is_put_back_after_an_error():
    model, seen = small(), []
    model(torch.randn(4, 6)).sum().backward()  # gradients from before, of which an optimizer would make a step
    before = copy.deepcopy(model.state_dict())

    def train() -> None:
        with frozen(model, ["0.weight", "1"]):
            model.train().requires_grad_(True)
            with torch.no_grad():
                for tensor in model.state_dict().values():
                    tensor.add_(1)
            model.register_forward_hook(lambda *_: seen.append(model[0].weight.detach().clone()))
            model(torch.randn(4, 6))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert torch.equal(seen[0], before["0.weight"])
    still = {"0.weight", *(name for name in before if name.startswith("1."))}
    assert {name for name, value in model.state_dict().items() if torch.equal(value, before[name])} == still
    assert not model._forward_pre_hooks and all(parameter.requires_grad for parameter in model.parameters())


def test_what_was_frozen_by_the_caller_stays_so():
    model = small()
    model[0].bias.requires_grad_(False)
    with frozen(model, ["0"]):
        pass
    assert not model[0].bias.requires_grad and model[0].weight.requires_grad


@pytest.mark.parametrize("name", ["7", "0.scale", "7.weight", ""])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=r"names has .*0\.weight"), frozen(small(), [name]):
        pass
