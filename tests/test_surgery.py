"""Removed equals masked, for layers of the course's networks and torchvision's; impossible requests are refused."""

import copy
import random
import warnings
from collections import OrderedDict

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import models, surgery
from course_lib.storage import networks


def with_statistics(name: str) -> nn.Module:
    """A network, ours or torchvision's, whose batch norms have something to say, in float64 and evaluation mode."""
    torch.manual_seed(0)
    model = models.build(name) if name in models.NETWORKS else torchvision.models.get_model(name, weights=None)
    if name in ("vgg11_bn", "alexnet"):  # of 4,096 neurons a hundred tell as much, in a hundredth of the time
        model.classifier = nn.Sequential(
            nn.Linear(model.classifier[name == "alexnet"].in_features, 100), nn.ReLU(), nn.Dropout(), nn.Linear(100, 10)
        )
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_(std=0.1)
    return model.double().eval()


def silenced(model: nn.Module, layer: str, gone: list[int], example: torch.Tensor) -> nn.Module:
    """The channels at zero, in every layer that makes them and in the batch norms on their way."""
    model = copy.deepcopy(model)
    tied = surgery.coupling(model, layer, example)
    places = dict.fromkeys(tied.producers, torch.tensor(gone, dtype=torch.int64)) | {
        name: rows[gone].flatten() for name, rows in tied.others.items()
    }
    for name, rows in places.items():
        module = model.get_submodule(name)
        module.weight.data[rows] = 0
        if module.bias is not None:
            module.bias.data[rows] = 0
    return model


CASES = [
    (name, layer)
    for name in ("lenet-300-100", "lenet-5", "vgg-small", "vgg-16", "resnet-20")
    for layer, module in models.build(name).named_modules()
    if isinstance(module, surgery.CUTTABLE) and module.weight.shape[0] != 10
] + [("resnet-56", layer) for layer in ("stage1.4.conv1", "stage1.8.conv2", "stage2.0.conv2", "stage3.8.conv1")]


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_removed_equals_masked(name, layer):
    model = with_statistics(name)
    example = models.example_input(name, 2).double()
    channels = len(model.get_submodule(layer).weight)
    gone = torch.randperm(channels, generator=torch.Generator().manual_seed(1))[: channels // 3].tolist()
    keep = sorted(set(range(channels)) - set(gone))
    before = copy.deepcopy(model.state_dict())
    narrower = surgery.keep_channels(model, layer, keep, example)
    with torch.no_grad():
        torch.testing.assert_close(narrower(example), silenced(model, layer, gone, example)(example), atol=1e-9, rtol=1e-7)
    assert len(narrower.get_submodule(layer).weight) == len(keep)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_channels_of_any_layers_at_once(data):
    """Several layers of any of the course's networks, narrowed in one go, whatever is kept of each."""
    name = data.draw(st.sampled_from(["lenet-300-100", "lenet-5", "vgg-small", "resnet-20"]))
    model, example = with_statistics(name), models.example_input(name, 2).double()
    tied = surgery.couplings(model, example)
    free = [layer for layer, found in tied.items() if found.producers == (layer,) and not found.is_output]
    chosen = data.draw(st.lists(st.sampled_from(free), min_size=1, max_size=4, unique=True))
    silent, kept = model, {}
    for layer in chosen:
        channels = list(range(len(model.get_submodule(layer).weight)))
        kept[layer] = data.draw(st.lists(st.sampled_from(channels), min_size=1, unique=True))
        silent = silenced(silent, layer, [channel for channel in channels if channel not in kept[layer]], example)
    narrower = surgery.narrow(model, kept, example)
    with torch.no_grad():
        torch.testing.assert_close(narrower(example), silent(example), atol=1e-9, rtol=1e-7)


# name -> side of the image; the features of the first networks are the smallest they accept
TORCHVISION = {
    "resnet18": 32, "resnet50": 32, "vgg11_bn": 32, "alexnet": 63, "densenet121": 32, "squeezenet1_1": 32, "mobilenet_v2": 32,
}  # fmt: skip
SECONDS = ("resnet50", "vgg11_bn", "densenet121")  # each takes several


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SECONDS else name for name in TORCHVISION]
)
def test_removed_equals_masked_in_torchvisions_networks(name):
    """The first and last layer of each that make channels which can go, and five others drawn by a fixed seed."""
    model = with_statistics(name)
    example = torch.randn(2, 3, TORCHVISION[name], TORCHVISION[name], dtype=torch.float64)
    tied = surgery.couplings(model, example)
    removable = [layer for layer, found in tied.items() if found.consumers and not found.is_output]
    drawn = random.Random(0).sample(removable[1:-1], min(5, len(removable) - 2))
    for layer in (removable[0], *drawn, removable[-1]):
        channels = len(model.get_submodule(layer).weight)
        gone = torch.randperm(channels, generator=torch.Generator().manual_seed(1))[: channels // 3].tolist()
        narrower = surgery.keep_channels(model, layer, sorted(set(range(channels)) - set(gone)), example)
        with torch.no_grad():
            wanted, whole = silenced(model, layer, gone, example)(example), model(example)
            torch.testing.assert_close(narrower(example), wanted, atol=1e-9, rtol=1e-7)
        assert not torch.allclose(wanted, whole, atol=1e-9), "nothing was at stake"


def test_an_output_of_torchvisions_networks_is_refused():
    for name, layer in {"resnet18": "fc", "squeezenet1_1": "classifier.1", "mobilenet_v2": "classifier.1"}.items():
        model = torchvision.models.get_model(name, weights=None).eval()
        with pytest.raises(ValueError, match=f"{layer}.*output"):
            surgery.keep_channels(model, layer, [0, 1], torch.randn(1, 3, 64, 64))


def pruned_vgg() -> nn.Module:
    """vgg-small narrowed twice, then 'retrained': its weights are new."""
    model, example = with_statistics("vgg-small").float(), models.example_input("vgg-small")
    model = surgery.narrow(model, dict(conv2=[0, 3, 4, 30], conv6=range(9)), example)
    model = surgery.keep_channels(model, "conv2", [1, 3], example)
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    return model


def test_a_narrow_network_is_exported_to_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, images = pruned_vgg().eval(), models.example_input("vgg-small", 3)
    path = tmp_path / "pruned.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(model, (images,), path, input_names=["images"], dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), model(images).detach())


def test_what_is_tied_by_hand():
    tied = surgery.coupling(models.build("resnet-20"), "stage2.1.conv2", models.example_input("resnet-20"))
    assert set(tied.producers) == {"stage2.0.conv2", "stage2.0.shortcut.conv", "stage2.1.conv2", "stage2.2.conv2"}
    assert set(tied.consumers) == {"stage2.1.conv1", "stage2.2.conv1", "stage3.0.conv1", "stage3.0.shortcut.conv"}
    flat = surgery.coupling(models.build("lenet-5"), "conv2", models.example_input("lenet-5")).consumers["fc1"]
    assert torch.equal(flat, torch.arange(800).view(50, 16))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_without_gradients_and_keeps_modes_and_flags(mode):
    model = models.build("lenet-5").train()
    model.conv1.weight.requires_grad_(False)
    with mode():
        narrower = surgery.keep_channels(model, "conv2", [3, 1], models.example_input("lenet-5"))
    assert narrower.training
    assert not narrower.conv1.weight.requires_grad and narrower.fc1.weight.requires_grad
    assert torch.equal(narrower.conv2.weight, model.conv2.weight[[1, 3]])


@pytest.mark.parametrize(
    ("layer", "keep", "message"),
    [
        ("conv9", [0], "conv9.*conv1, conv2, fc1, fc2"),
        ("pool1", [0], "pool1.*conv1, conv2, fc1, fc2"),
        ("conv1", [], "conv1.*0 to 19"),
        ("conv1", [20], "conv1.*0 to 19"),
        ("conv1", [-1, 2], "conv1.*0 to 19"),
        ("conv1", [2, 2], "conv1.*0 to 19"),
        ("conv1", [1.5], "conv1.*integers"),
        ("conv1", torch.arange(20) < 2, "conv1.*integers"),  # a mask
        ("fc2", [0, 1], "fc2.*output"),
    ],
)
def test_impossible_requests_name_the_layer(layer, keep, message):
    with pytest.raises(ValueError, match=message):
        surgery.keep_channels(models.build("lenet-5"), layer, keep, models.example_input("lenet-5"))


def test_two_layers_of_one_sum_are_not_cut_in_one_go():
    plan = {"stage2.0.conv2": range(16), "stage2.2.conv2": range(16)}
    with pytest.raises(ValueError, match=r"stage2\.0\.conv2.*stage2\.2\.conv2.*same channels"):
        surgery.narrow(models.build("resnet-20"), plan, models.example_input("resnet-20"))


def test_a_depthwise_layer_is_not_cut_on_its_own():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.LazyLinear(10))
    model(models.example_input("lenet-5"))
    with pytest.raises(ValueError, match="'1' is a grouped convolution"):
        surgery.keep_channels(model, "1", [0], models.example_input("lenet-5"))


class Forward(nn.Module):
    """Layers by name, and a forward given as a function of them and the input (N, 1, 28, 28)."""

    def __init__(self, forward, **layers: nn.Module):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def depthwise() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))


def concatenated() -> nn.Module:
    return Forward(
        lambda net, x: net.out(net.norm(torch.cat([net.a(x), net.b(x)], 1)).relu().mean((2, 3))),
        a=nn.Conv2d(1, 3, 3), b=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(7), out=nn.Linear(7, 10),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "layer", "tied"),  # channel 2 of the layer, and the channel of each other layer that goes with it
    [(depthwise, "0", {"1": 2}), (concatenated, "a", dict(norm=2)), (concatenated, "b", dict(norm=3 + 2))],
)
def test_networks_of_other_shapes(make, layer, tied):
    torch.manual_seed(0)
    model, example = make().double().eval(), models.example_input("lenet-5", 2).double()
    silent = copy.deepcopy(model)
    for name, channel in (tied | {layer: 2}).items():
        silent.get_submodule(name).weight.data[channel] = 0
        silent.get_submodule(name).bias.data[channel] = 0
    keep = [channel for channel in range(len(model.get_submodule(layer).weight)) if channel != 2]
    narrower = surgery.keep_channels(model, layer, keep, example)
    torch.testing.assert_close(narrower(example), silent(example), atol=1e-9, rtol=1e-7)
    assert len(narrower.get_submodule(layer).weight) == len(keep)


UNSUITABLE = {
    "its features are an output too": (
        "output",
        lambda: Forward(
            lambda net, x: [features := net.first(x.flatten(1)), net.out(features)],
            first=nn.Linear(784, 8),
            out=nn.Linear(8, 10),
        ),
    ),
    "its activation is the output": ("output", lambda: nn.Sequential(OrderedDict(first=nn.Conv2d(1, 8, 3), relu=nn.ReLU()))),
    "a grouped convolution reads it": (
        "'grouped'.*2 groups",
        lambda: nn.Sequential(
            OrderedDict(first=nn.Conv2d(1, 8, 3), grouped=nn.Conv2d(8, 8, 3, groups=2), out=nn.Conv2d(8, 10, 24))
        ),
    ),
    "the network's input is added to it": (
        "input",
        lambda: Forward(
            lambda net, x: net.out(x.repeat(1, 8, 1, 1) + net.first(x)), first=nn.Conv2d(1, 8, 1), out=nn.Conv2d(8, 10, 28)
        ),
    ),
    "it is not used": (
        "no part",
        lambda: Forward(lambda net, x: net.out(x.flatten(1)), first=nn.Linear(784, 8), out=nn.Linear(784, 10)),
    ),
}


@pytest.mark.parametrize("why", UNSUITABLE)
def test_a_layer_that_cannot_be_narrowed_is_refused(why):
    message, make = UNSUITABLE[why]
    with pytest.raises(ValueError, match=f"'first'.*{message}"):
        surgery.keep_channels(make(), "first", [0, 3, 4], models.example_input("lenet-5"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("name", "layer"), [("lenet-5", "conv2"), ("resnet-20", "stage2.0.conv1")])
def test_cuda_narrows_saves_and_loads_the_same(tmp_path, name, layer):
    model, example = with_statistics(name), models.example_input(name).double()
    keep = list(range(0, len(model.get_submodule(layer).weight), 2))
    there = surgery.narrow(copy.deepcopy(model).cuda(), {layer: torch.tensor(keep).cuda()}, example.cuda())
    assert all(tensor.is_cuda for tensor in there.state_dict().values())
    expected = surgery.narrow(model, {layer: keep}, example)
    with torch.no_grad():
        torch.testing.assert_close(there(example.cuda()).cpu(), expected(example), atol=1e-9, rtol=1e-9)
    networks.save(there, tmp_path / "network.safetensors")
    loaded = networks.load(tmp_path / "network.safetensors", with_statistics(name).cuda()).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(example.cuda()), there(example.cuda()), atol=1e-9, rtol=1e-9)
    assert next(loaded.parameters()).is_cuda
    assert not next(networks.load(tmp_path / "network.safetensors", with_statistics(name)).parameters()).is_cuda


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_couplings_are_the_same():
    model, example = with_statistics("resnet-20"), models.example_input("resnet-20").double()
    here, there = surgery.couplings(model, example), surgery.couplings(copy.deepcopy(model).cuda(), example.cuda())
    assert here.keys() == there.keys()
    for name, tied in here.items():
        assert there[name].producers == tied.producers and there[name].is_output == tied.is_output
        assert {reader: columns.tolist() for reader, columns in there[name].consumers.items()} == {
            reader: columns.tolist() for reader, columns in tied.consumers.items()
        }
