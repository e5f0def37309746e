"""The small networks of the course, before any training.

lenet-300-100  784-300-100-10, LeCun et al. 1998; 266,610 parameters
lenet-5        Caffe's variant 20-50-500-10, ReLU only behind the first dense layer; 431,080 parameters
lenet-5-relu   the same layers with a ReLU behind every one but the last, as counting zeros asks for (Hu et al. 2016)
vgg-small      3x3 convolutions 32 32 M 64 64 M 128 128 M, batch norm, mean over positions, one dense layer; 288,746 parameters
vgg-16         Simonyan & Zisserman 2015 for 32x32 images: 13 convolutions, dense 512 and 10, batch norm (as in Li et al. 2017)
resnet-20, -56 He et al. 2016 for CIFAR, 16-32-64 channels; 272,474 and 855,770 parameters. Where the width changes the
               shortcut is a 1x1 projection, so that every channel of the sum has a layer that makes it

Every ReLU is a module of its own, so that a hook can read what comes out of it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def build(name: str, num_classes: int = 10) -> nn.Module:
    """A fresh network, initialised from torch's global random state.

    Args:
        name: one of NETWORKS. The LeNets take (N, 1, 28, 28), the others (N, 3, 32, 32).
        num_classes: width of the last layer.

    Raises:
        ValueError: unknown name, or fewer than two classes.

    >>> sum(p.numel() for p in build("lenet-5").parameters())
    431080
    """
    if name not in NETWORKS:
        raise ValueError(f"name is {name!r}; known networks are {', '.join(NETWORKS)}")
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2")
    return NETWORKS[name](num_classes)


def input_shape(name: str) -> tuple[int, int, int]:
    """(C, height, width) of one input image of a network of `build`."""
    if name not in NETWORKS:
        raise ValueError(f"name is {name!r}; known networks are {', '.join(NETWORKS)}")
    return (1, 28, 28) if name.startswith("lenet") else (3, 32, 32)


def _lenet_300_100(num_classes: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),  # (N, 1, 28, 28) -> (N, 784)
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, num_classes),
        )
    )


def _lenet_5(num_classes: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),  # (N, 1, 28, 28) -> (N, 20, 24, 24)
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),  # (N, 20, 12, 12) -> (N, 50, 8, 8)
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),  # (N, 50, 4, 4) -> (N, 800)
            fc1=nn.Linear(800, 500),
            relu1=nn.ReLU(),
            fc2=nn.Linear(500, num_classes),
        )
    )


def _lenet_5_relu(num_classes: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),  # (N, 1, 28, 28) -> (N, 20, 24, 24)
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),  # (N, 20, 12, 12) -> (N, 50, 8, 8)
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),  # (N, 50, 4, 4) -> (N, 800)
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, num_classes),
        )
    )


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """3x3 without a bias: the batch norm behind it has one."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _vgg_features(widths: Iterable[int | str]) -> OrderedDict[str, nn.Module]:
    """conv1, norm1, relu1, ... with a max pool at every 'M'."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs, number, pools = 3, 0, 0
    for width in widths:
        if width == "M":
            pools += 1
            layers[f"pool{pools}"] = nn.MaxPool2d(2)
            continue
        number += 1
        layers[f"conv{number}"] = _conv(inputs, int(width))
        layers[f"norm{number}"] = nn.BatchNorm2d(int(width))
        layers[f"relu{number}"] = nn.ReLU()
        inputs = int(width)
    return layers


def _vgg_small(num_classes: int) -> nn.Module:
    layers = _vgg_features([32, 32, "M", 64, 64, "M", 128, 128, "M"])
    layers |= OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(128, num_classes)
    )  # (N, 128, 4, 4) -> (N, 128)
    return he_initialised(nn.Sequential(layers))


def _vgg_16(num_classes: int) -> nn.Module:
    layers = _vgg_features([64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"])
    layers |= OrderedDict(
        flatten=nn.Flatten(),  # (N, 512, 1, 1) -> (N, 512)
        fc1=nn.Linear(512, 512, bias=False),
        norm14=nn.BatchNorm1d(512),
        relu14=nn.ReLU(),
        fc2=nn.Linear(512, num_classes),
    )
    return he_initialised(nn.Sequential(layers))


class ResidualBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), He et al. 2016, section 4.2."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                OrderedDict(conv=nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm=nn.BatchNorm2d(outputs))
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(branch + self.shortcut(x))


def _resnet(blocks: int) -> Callable[[int], nn.Module]:
    """A builder of the CIFAR ResNet with 3 stages of `blocks` blocks: 6 blocks + 2 layers deep."""

    def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = ResidualBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(ResidualBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def make(num_classes: int) -> nn.Module:
        layers = OrderedDict(
            conv1=_conv(3, 16),
            norm1=nn.BatchNorm2d(16),
            relu1=nn.ReLU(),
            stage1=stage(16, 16, 1),  # (N, 16, 32, 32)
            stage2=stage(16, 32, 2),  # (N, 32, 16, 16)
            stage3=stage(32, 64, 2),  # (N, 64, 8, 8)
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),  # (N, 64)
            fc=nn.Linear(64, num_classes),
        )
        return he_initialised(nn.Sequential(layers))

    return make


def he_initialised(model: nn.Module) -> nn.Module:
    """Return `model` with its convolutions drawn anew, as those of the networks with batch norm are."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "lenet-300-100": _lenet_300_100,
    "lenet-5": _lenet_5,
    "lenet-5-relu": _lenet_5_relu,
    "vgg-small": _vgg_small,
    "vgg-16": _vgg_16,
    "resnet-20": _resnet(3),
    "resnet-56": _resnet(9),
}


def example_input(name: str, batch: int = 1) -> Tensor:
    """A random input batch (batch, C, height, width) for a network of `build`, float32, the same at every call."""
    return torch.randn(batch, *input_shape(name), generator=torch.Generator().manual_seed(0))
