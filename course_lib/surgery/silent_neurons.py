"""Neurons that are zero on every image: without them the network's outputs on these images are the same."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from course_lib import activations, surgery
from course_lib.data import Batches, batched
from course_lib.modes import evaluating
from course_lib.surgery import examples
from course_lib.surgery.wiring import is_plain


def remove_silent_neurons(model: nn.Module, batches: Batches, layers: Iterable[str] | None = None) -> nn.Module:
    """Return a narrower copy without the channels that are zero, on all images, in every layer that reads them.

    On these images the outputs stay the same; on others such a channel may be active. Directly after a ReLU these are the
    channels with an APoZ of 1. What counts is the input of the layers that read a channel, since a batch norm in between can turn
    zeros into something else. Each layer keeps at least one channel.

    Args:
        model: any network of dense layers and 2-d convolutions; it is left as it was.
        batches: a split, a DataLoader or a list of (images, labels); the labels are not read.
        layers: names of the layers to narrow; default all that `surgery.narrow` accepts and that no layer or group norm follows,
            since the statistics of such a norm change when a channel is removed.

    Raises:
        ValueError: an unknown layer, one that such a norm follows, batches without images, or what `surgery.narrow` refuses.
    """
    example_input, nonzero = examples.first_image(model, batches), _nonzero_inputs(model, batches)
    couplings = surgery.couplings(model, example_input)
    kept: dict[str, Tensor] = {}
    decided: set[str] = set()
    for layer in surgery.prunable_layers(model, example_input) if layers is None else layers:
        if layer not in couplings:
            raise ValueError(f"layers names {layer!r}; the model's dense layers and 2-d convolutions are {', '.join(couplings)}")
        tied = couplings[layer]
        norms = [name for name in tied.others if isinstance(model.get_submodule(name), surgery.STATISTICS)]
        if norms and layers is not None:
            raise ValueError(f"layers names {layer!r}; without some of its channels {norms[0]!r} has other statistics")
        if norms or layer in decided or tied.is_output or not tied.consumers:
            continue
        decided |= set(tied.producers)  # an addition ties them: the same layers read them
        is_read = torch.stack([nonzero[name][columns].any(1) for name, columns in tied.consumers.items()]).any(0)  # (C,)
        kept[layer] = is_read.nonzero().flatten() if is_read.any() else torch.tensor([0])
    return surgery.narrow(model, kept, example_input)


@torch.no_grad()
def _nonzero_inputs(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """Dense layer or ungrouped 2-d convolution -> (c,) bool on the CPU: the input channels that are not zero on every image."""
    nonzero: dict[str, Tensor] = {}

    def read(name: str, layer: nn.Module, inputs: Tensor, _outputs: Tensor) -> None:
        channels = -1 if isinstance(layer, nn.Linear) else 1
        found = (inputs != 0).movedim(channels, 0).flatten(1).any(1).cpu()
        nonzero[name] = nonzero[name] | found if name in nonzero else found

    readers = {name: partial(read, name) for name, module in model.named_modules() if is_plain(module)}
    with evaluating(model), activations.hooked(model, readers):
        for images, _ in batched(batches, device=next(model.parameters()).device):
            model(images)
    return nonzero
