"""Silent neurons: removed, and the outputs on the images that were watched stay the same."""

import copy

import pytest
import torch
from torch import nn

from course_lib import data, models
from course_lib.data import Split
from course_lib.papers.network_trimming import apoz
from course_lib.surgery.silent_neurons import remove_silent_neurons


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
    return data.Splits(whole.train.take(8), whole.validation.take(256), whole.test.take(256), whole.name, whole.requested)


@pytest.fixture
def lenet() -> nn.Module:
    return models.pretrained("lenet-5-relu", "mnist-5k")


def test_silent_neurons_are_removed_and_the_outputs_stay(lenet, splits):
    lenet = lenet.double()
    split = Split(splits.test.images.double(), splits.test.labels)
    lenet.conv1.bias.data[[2, 3]] = -100
    lenet.conv2.bias.data[[7]] = -100
    lenet.fc1.bias.data[:10] = -100
    values = apoz(lenet, split)
    alive = {layer: int((shares < 1).sum()) for layer, shares in values.items()}
    smaller = remove_silent_neurons(lenet, split)
    assert (alive["conv1"], alive["conv2"]) <= (18, 49) and alive["fc1"] <= 490
    assert {layer: len(smaller.get_submodule(layer).weight) for layer in alive} == alive
    with torch.no_grad():
        torch.testing.assert_close(smaller(split.images), lenet(split.images), atol=1e-12, rtol=1e-12)
    only = remove_silent_neurons(lenet, split, ["conv1"])
    assert (len(only.conv1.weight), len(only.fc1.weight)) == (alive["conv1"], 500)


def test_a_channel_that_a_later_norm_makes_nonzero_stays():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 576, 10)
    ).eval()
    model[0].bias.data[:2] = -100
    model[2].bias.data[:] = torch.tensor([0.5, 0.0, 0.0, 0.0])  # channel 0 is zero after its ReLU and 0.5 after the norm
    split = unlabelled(models.example_input("lenet-5", 8))
    assert (apoz(model, split, ["0"])["0"][:2] == 1).all()
    smaller = remove_silent_neurons(model, split, ["0"])
    assert torch.equal(smaller[0].weight, model[0].weight[[0, 2, 3]])
    torch.testing.assert_close(smaller(split.images), model(split.images))


def test_a_channel_of_a_sum_is_removed_where_all_that_read_it_read_zeros():
    model = with_statistics("resnet-20").double()
    images = models.example_input("resnet-20", 4).double()
    makers = ["conv1", "stage1.0.conv2", "stage1.1.conv2", "stage1.2.conv2"]
    norms = ["norm1", *(f"stage1.{b}.norm2" for b in range(3))]
    for norm in norms:
        model.get_submodule(norm).bias.data[[1, 5]] = -1e6
    model.get_submodule(norms[2]).bias.data[5] = 1e3  # 5 is positive from block 1 on
    model.get_submodule("stage1.1.norm1").bias.data[3] = -1000  # inside a block
    smaller = remove_silent_neurons(model, unlabelled(images))
    assert [len(smaller.get_submodule(name).weight) for name in makers] == [15] * 4
    assert len(smaller.get_submodule("stage1.1.conv1").weight) <= 15
    with torch.no_grad():
        torch.testing.assert_close(smaller(images), model(images), atol=1e-9, rtol=1e-9)


def test_a_layer_whose_neurons_are_all_silent_keeps_one(lenet, splits):
    lenet.fc1.bias.data[:] = -1000
    smaller = remove_silent_neurons(lenet, splits.test)
    assert smaller.fc1.weight.shape[0] == 1
    torch.testing.assert_close(smaller(splits.test.images), lenet(splits.test.images))
    with pytest.raises(ValueError, match="layers names 'fc9'; .* are conv1, conv2, fc1, fc2"):
        remove_silent_neurons(lenet, splits.test, ["fc9"])


def test_any_batches_will_do_and_none_are_refused(lenet, splits):
    lenet.train()
    lenet.conv1.bias.data[[2, 3]] = -100
    before = copy.deepcopy(lenet.state_dict())
    images, labels = splits.test
    batches = [(images[:100], labels[:100]), (images[100:], labels[100:])]
    first, second = remove_silent_neurons(lenet, splits.test), remove_silent_neurons(lenet, batches)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in lenet.modules())
    assert all(torch.equal(value, lenet.state_dict()[name]) for name, value in before.items())
    with pytest.raises(ValueError, match="batches holds no images"):
        remove_silent_neurons(lenet, [])


def on_gpu(split: Split) -> Split:
    return Split(split.images.cuda(), split.labels.cuda())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_removes_silent_neurons(lenet, splits):
    lenet.conv2.bias.data[[7, 9]] = -100
    model, there = lenet.cuda(), on_gpu(splits.test)
    narrower = remove_silent_neurons(model, there, ["conv2"])
    assert narrower.conv2.out_channels <= 48 and all(value.is_cuda for value in narrower.state_dict().values())
    with torch.no_grad():
        torch.testing.assert_close(narrower(there.images), model(there.images), atol=1e-2, rtol=1e-2)
