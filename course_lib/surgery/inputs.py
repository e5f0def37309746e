"""Fewer inputs of a layer: where they come from, and a network whose layers read only some of them."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import activations, surgery
from course_lib.surgery import keeping, steps


def keep_inputs(model: nn.Module, kept: Mapping[str, Sequence[int] | Tensor], example_input: Tensor) -> nn.Module:
    """Return a narrower copy whose layers read only the input channels `kept`, by the weights they have.

    Where a layer is the only reader of its inputs, the filters that make them go too; otherwise a `ChannelSampler` is put in
    front of it. A layer without a bias gets one.

    Args:
        model: any network that `course_lib.surgery` can trace; it is left as it was.
        kept: name of a convolution or dense layer -> indices of the input channels that it goes on reading.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: an unknown layer, or indices that are not of its channels.
    """
    sources = inputs_of(model, kept, example_input)
    channels = {name: keeping.indices(kept[name], len(source.columns), name) for name, source in sources.items()}
    taken = [*getattr(model, "surgery_steps", []), steps.step("reads", channels, example_input)]
    model = copy.deepcopy(model)
    for layer in map(model.get_submodule, sources):
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
    filters = {source.producer: channels[name] for name, source in sources.items() if source.producer is not None}
    model = surgery.narrow(model, filters, example_input)
    for name, source in sources.items():
        if source.producer is None:
            _put_sampler(model, name, channels[name])
    model.surgery_steps = taken
    return model


class Source(NamedTuple):
    """Where the inputs of a layer come from."""

    columns: Tensor  # (c, r): the r columns of the layer's weight that read a channel; r > 1 behind a flatten
    producer: str | None  # the layer that makes them, where nobody else reads them


@torch.no_grad()
def inputs_of(model: nn.Module, layers: Iterable[str], example_input: Tensor) -> dict[str, Source]:
    """Return the named layers in the order in which they run, each with where its inputs come from.

    Raises:
        ValueError: a name that is not of a dense layer or ungrouped 2-d convolution that runs once.
    """
    model = copy.deepcopy(model).eval()
    couplings = surgery.couplings(model, example_input)
    order: list[str] = []
    with activations.hooked(model, {name: partial(lambda name, *_: order.append(name), name) for name in couplings}):
        model(example_input)
    for name in layers:
        if order.count(name) != 1:
            raise ValueError(f"layer is {name!r}; the dense layers and ungrouped 2-d convolutions are {', '.join(order)}")
    sources = {name: Source(torch.arange(model.get_submodule(name).weight.shape[1])[:, None], None) for name in order}
    for producer, tied in couplings.items():
        for name, columns in tied.consumers.items():
            alone = len(tied.consumers) == 1 and not tied.is_output and not tied.fixed
            if alone and columns.numel() == len(sources[name].columns):  # and the reader reads nothing else
                sources[name] = Source(columns, producer)
    return {name: sources[name] for name in order if name in set(layers)}


class ChannelSampler(nn.Module):
    """Passes on some of the channels it reads: for a layer that shares its input with others, as the first of a residual branch
    does (He et al. 2017, section 3.3). It computes nothing. Its indices are a buffer, so they are saved with the weights.
    """

    channels: Tensor

    def __init__(self, channels: Tensor):
        super().__init__()
        self.register_buffer("channels", channels)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.channels)  # (N, c, ...) -> (N, c', ...)

    def extra_repr(self) -> str:
        return f"{len(self.channels)} channels"


def _put_sampler(model: nn.Module, name: str, channels: Tensor) -> None:
    """In place: where a layer was, a sampler and the layer, which reads `channels` only."""
    layer = model.get_submodule(name)
    channels = channels.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach()[:, channels], layer.weight.requires_grad)
    setattr(layer, "in_channels" if isinstance(layer, nn.Conv2d) else "in_features", len(channels))
    parent, _, child = name.rpartition(".")
    pair = OrderedDict(sampler=ChannelSampler(channels), layer=layer)
    setattr(model.get_submodule(parent), child, nn.Sequential(pair).train(layer.training))
