"""Fewer inputs of a layer: which layers compute them, and a network whose layers read only some of them."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import activations, surgery
from course_lib.surgery import keeping, steps
from course_lib.surgery.keeping import Keep


def keep_inputs(model: nn.Module, kept: Mapping[str, Sequence[int] | Tensor], example_input: Tensor) -> nn.Module:
    """Return a narrower copy whose layers read only the input channels `kept`, by the weights they have.

    Where a layer is the only reader of its inputs, the filters that compute them are removed too; otherwise a
    `ChannelSampler` is put in front of it. A layer without a bias gets one.

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
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)), layer.weight.requires_grad)
    filters = {source.producers[-1]: channels[name] for name, source in sources.items() if source.producers}
    model = surgery.narrow(model, filters, example_input)
    for name, source in sources.items():
        if not source.producers:
            _put_sampler(model, name, channels[name])
    model.surgery_steps = taken
    return model


class Source(NamedTuple):
    """Where the inputs of a layer come from."""

    columns: Tensor  # (c, r): the r columns of the layer's weight that read a channel; r > 1 after a flatten
    producers: tuple[str, ...]  # the layers whose outputs, or their sum, are all that it reads and that only it reads; or none


@torch.no_grad()
def inputs_of(model: nn.Module, layers: Iterable[str] | None, example_input: Tensor) -> dict[str, Source]:
    """Return the named layers in the order in which they run, each with where its inputs come from.

    Args:
        model: any network; it is left as it was.
        layers: names of dense layers or ungrouped 2-d convolutions; None stands for all of them that run once.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: a name that is not of a dense layer or ungrouped 2-d convolution that runs once.
    """
    model = copy.deepcopy(model).eval()
    couplings = surgery.couplings(model, example_input)
    order: list[str] = []
    with activations.hooked(model, {name: partial(lambda name, *_: order.append(name), name) for name in couplings}):
        model(example_input)
    wanted = [name for name in order if order.count(name) == 1] if layers is None else list(layers)
    for name in wanted:
        if order.count(name) != 1:
            raise ValueError(f"layer is {name!r}; the dense layers and ungrouped 2-d convolutions are {', '.join(order)}")
    sources = {name: Source(torch.arange(model.get_submodule(name).weight.shape[1])[:, None], ()) for name in order}
    for tied in couplings.values():
        for name, columns in tied.consumers.items():
            alone = len(tied.consumers) == 1 and not tied.is_output and not tied.fixed
            if alone and columns.numel() == len(sources[name].columns):  # and the reader reads nothing else
                sources[name] = Source(columns, tied.producers)
    return {name: sources[name] for name in order if name in set(wanted)}


def readers_of(sources: Mapping[str, Source]) -> dict[str, str]:
    """Return the layers whose outputs one layer alone reads -> that layer, from all `inputs_of` a network."""
    return {name: reader for reader, source in sources.items() for name in source.producers}


class Pruned(NamedTuple):
    """Inputs of a layer, some of which are to stay."""

    layer: str | None  # whose output channels they are; None: others read them too, and a sampler selects
    source: Source
    keep: int | Tensor  # how many channels, or which


def pruned_inputs(
    model: nn.Module, keep: Mapping[str, Keep], sampled: Mapping[str, Keep], example_input: Tensor
) -> dict[str, Pruned]:
    """Return whose inputs are pruned: the layers that read what `keep` and `sampled` name, in the order in which they run.

    Args:
        model: any network; it is left as it was.
        keep: layer -> how many, which share or which indices of its output channels stay; one other layer reads them.
        sampled: layer -> how many, which share or which of its input channels it goes on reading, which others read too.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: a layer that is unknown or belongs into the other mapping, two whose sum one layer reads, or something to
            keep that is out of its range.
    """
    sources = inputs_of(model, None, example_input)
    readers = readers_of(sources)
    found: dict[str, tuple[str | None, Keep]] = {}
    for layer, wanted in keeping.by_layer(keep, readers).items() if keep or not sampled else ():
        if readers[layer] in found:
            raise ValueError(
                f"keep names {found[readers[layer]][0]!r} and {layer!r}, which add to the same sum; name one of them"
            )
        found[readers[layer]] = layer, wanted
    for reader, wanted in sampled.items():
        producers = sources[reader].producers if reader in sources else ()
        if reader not in sources or producers:
            why = f"which alone reads the outputs of {producers[0]!r}; name that in keep" if producers else "which is unknown"
            others = ", ".join(name for name, source in sources.items() if not source.producers)
            raise ValueError(f"sampled names {reader!r}, {why}. The layers whose inputs others read too are {others}")
        found[reader] = None, wanted
    checked = {}
    for reader, source in ((reader, source) for reader, source in sources.items() if reader in found):
        layer, wanted = found[reader]
        check = keeping.count if keeping.is_number(wanted) else keeping.indices
        checked[reader] = Pruned(layer, source, check(wanted, len(source.columns), layer or reader))
    return checked


def kept_inputs(model: nn.Module) -> dict[str, list[int]]:
    """Return the input channels that each layer went on reading when `keep_inputs` last made `model`."""
    taken = [step["reads"] for step in getattr(model, "surgery_steps", []) if "reads" in step]
    return dict(taken[-1]) if taken else {}


class ChannelSampler(nn.Module):
    """Select some of the channels: for a layer that shares its input with others, as the first of a residual branch does.

    He et al. 2017, section 3.3. Its indices are a buffer, so they are saved with the weights.
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
