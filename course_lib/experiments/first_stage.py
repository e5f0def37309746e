"""The first stage of Deep Compression alone, as a file: surviving weights at 32 bits, and the gaps between them."""

import copy

import torch
from torch import Tensor, nn

from course_lib import storage
from course_lib.masks import weight_layers
from course_lib.papers import deep_compression as paper


def only_pruned(model: nn.Module, *, index_bits: int, coder: str = "fixed", name: str = "") -> storage.CompressedNetwork:
    """Return the first stage alone, as a file: of each layer's weight the survivors at 32 bits, and their gaps; exact.

    A weight `fc1.weight` becomes two tensors: `fc1.weight.values`, and `fc1.weight.places` with ones for survivors. Arguments
    as for `paper.compress`; the coder is that of the gaps.
    """
    ones = copy.deepcopy(model)
    for layer in weight_layers(ones).values():
        layer.weight.data = (layer.weight != 0).float()
    places, tensors = paper.compress(ones, bits=1, index_bits=index_bits).tensors, {}
    for key, tensor in model.state_dict().items():
        if isinstance(places[key], storage.CodedTensor):
            tensors |= {f"{key}.values": tensor[tensor != 0].cpu(), f"{key}.places": places[key]}
        else:
            tensors[key] = tensor.cpu()
    return storage.CompressedNetwork(name, tensors, coder)


def restored(pruned: storage.CompressedNetwork) -> dict[str, Tensor]:
    """Return the state dict of the network that `only_pruned` was given. Raises ValueError where values lack their places."""
    tensors = pruned.state_dict()
    for key in [key.removesuffix(".places") for key in tensors if key.endswith(".places")]:
        weight, values = tensors.pop(f"{key}.places"), tensors.pop(f"{key}.values", torch.empty(0))
        if int(weight.count_nonzero()) != len(values):
            raise ValueError(f"{key} has {len(values)} values for {int(weight.count_nonzero())} places")
        weight[weight != 0] = values
        tensors[key] = weight
    return tensors
