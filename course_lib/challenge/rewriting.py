"""A file of integers, as `smallest.compressed` makes it, taken apart and put together again with other integers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from course_lib import smallest, storage
from course_lib.challenge.entry import Entry, decoded
from course_lib.challenge.measuring import network
from course_lib.storage import CompressedNetwork


def levels(file: CompressedNetwork, layer: str) -> Tensor:
    """Return the integers of a layer's weights in a file, (outputs, inputs)."""
    return file.tensors[f"{layer}.weight"].decode().flatten(1).int()


def with_levels(file: CompressedNetwork, weights: Mapping[str, Tensor]) -> CompressedNetwork:
    """Return the same file with other integers for the weights of some layers.

    Args:
        file: one of `smallest.compressed`.
        weights: layer -> integers of as many weights as the layer has.

    Raises:
        ValueError: a layer that the file has not, or another number of weights.
    """
    tensors = dict(file.tensors)
    for layer, values in weights.items():
        name = f"{layer}.weight"
        if name not in tensors or tensors[name].shape.numel() != values.numel():
            allowed = ", ".join(f"{n.removesuffix('.weight')} {tuple(t.shape)}" for n, t in tensors.items() if "weight" in n)
            raise ValueError(f"weights has {layer!r} of shape {tuple(values.shape)}; allowed are {allowed}")
        tensors[name] = smallest.coded(values.reshape(tensors[name].shape), 1.0)
    return CompressedNetwork(file.network, tensors, file.coder)


def rebuilt(file: CompressedNetwork) -> nn.Module:
    """Return the network in a file, as the challenge runs it."""
    return network(Entry(file.network, {name: tensor.numpy() for name, tensor in file.state_dict().items()}))


def reread(file: CompressedNetwork) -> nn.Module:
    """Return the network that is read back from the bytes of a file."""
    return network(decoded(storage.encode(file)))


def size(file: CompressedNetwork) -> int:
    """Return the bytes of a file."""
    return len(storage.encode(file))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the accuracy on some images, in percent."""
    with torch.inference_mode():
        return 100 * float((model(images).argmax(1) == labels).float().mean())
