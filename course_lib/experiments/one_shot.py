"""Trained networks cut at once to given widths, by the criterion of each paper, and not retrained.

The criteria name different things: filters of a layer, or channels that the next layer reads. Where one layer alone reads the
outputs of another, the two are the same, so that all criteria lead to the same shape.
"""

import copy
from collections.abc import Iterator, Mapping
from functools import partial

import torch
import torch_pruning
from torch import Tensor, nn

from course_lib import activations, least_squares, surgery
from course_lib.data import Split
from course_lib.papers import channel_pruning, filter_pruning, network_trimming, thinet
from course_lib.streams import stream
from course_lib.surgery.inputs import Source, inputs_of, readers_of
from course_lib.surgery.keeping import strongest

L1, RANDOM, APOZ, GROUP = "L1", "random", "APoZ", "group norm"
LASSO, LARGEST = "LASSO", "largest contribution"
THINET, NOT_RESCALED = "ThiNet", "ThiNet, not rescaled"
BY_FILTER, BY_FIT, BY_SUM = (L1, RANDOM, APOZ, GROUP), (LASSO, LARGEST), (THINET, NOT_RESCALED)

Widths = Mapping[str, int]  # layer -> how many of its filters stay


def by_filter(method: str, model: nn.Module, widths: Widths, images: Split, seed: int) -> nn.Module:
    """Return the network without the filters that score least, each scored by itself; what stays keeps its weights.

    Args:
        method: one of BY_FILTER.
        model: a trained network; it is left as it was.
        widths: layer -> how many of its filters stay.
        images: training images, on which APoZ is measured.
        seed: of the trained network, for the random choice.
    """
    return surgery.narrow(model, filters_to_keep(method, model, widths, images, seed), images.images[:1])


def filters_to_keep(method: str, model: nn.Module, widths: Widths, images: Split, seed: int) -> dict[str, Tensor]:
    """Return the indices of the filters that stay, by layer. Arguments as for `by_filter`; ValueError for an unknown method."""
    example_input = images.images[:1]
    if method == L1:
        return filter_pruning.select_filters(model, widths, example_input=example_input)
    if method == GROUP:
        return largest_group_norms(model, widths, example_input)
    if method == APOZ:
        zeros = network_trimming.apoz(model, images, list(widths))
        return {layer: strongest(-zeros[layer], keep, layer) for layer, keep in widths.items()}
    if method == RANDOM:
        return {layer: _drawn(len(model.get_submodule(layer).weight), keep, seed, layer) for layer, keep in widths.items()}
    raise ValueError(f"method is {method!r}; known are {', '.join(BY_FILTER)}")


def _drawn(width: int, keep: int, seed: int, layer: str) -> Tensor:
    generator = torch.Generator().manual_seed(stream(seed, "random filters", layer))
    return torch.randperm(width, generator=generator)[:keep].sort().values


def largest_group_norms(model: nn.Module, widths: Widths, example_input: Tensor) -> dict[str, Tensor]:
    """Return the filters that torch-pruning keeps by its own criterion, with a ratio for each layer that gives these widths.

    A filter's importance is the mean of squared norms: of its weights, of its batch norm's scale, of the weights that read it.
    """
    model = copy.deepcopy(model)
    layers = {name: model.get_submodule(name) for name in widths}
    # torch-pruning keeps int(width * (1 - ratio)) filters: half a filter more is safe from rounding
    ratios = {layer: 1 - (widths[name] + 0.5) / len(layer.weight) for name, layer in layers.items()}
    pruner = torch_pruning.pruner.BasePruner(
        model, example_input, torch_pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        pruning_ratio=0.0, pruning_ratio_dict=ratios,
    )  # fmt: skip
    removed = {group[0].dep.target.module: group[0].idxs for group in pruner.step(interactive=True)}
    kept = {}
    for name, layer in layers.items():
        stays = torch.ones(len(layer.weight), dtype=torch.bool)
        stays[removed.get(layer, [])] = False
        kept[name] = stays.nonzero().flatten()
    return kept


def by_fit(method: str, model: nn.Module, widths: Widths, images: Split, positions: int, seed: int) -> nn.Module:
    """Return the network with the channels of a method, the weights that read them fitted anew by least squares.

    Args:
        method: one of BY_FIT.
        model: a trained network; it is left as it was.
        widths: layer -> how many of its output channels stay.
        images: training images; all of them are looked at.
        positions: places in each feature map that are looked at.
        seed: of the trained network, for the positions.
    """
    draws = stream(seed, "least squares")
    keep = widths if method == LASSO else largest_contributions(model, widths, images, positions, draws)
    count = len(images.labels)
    return channel_pruning.prune(model, images, keep, images=count, positions=positions, seed=draws).model


@torch.no_grad()
def largest_contributions(model: nn.Module, widths: Widths, images: Split, positions: int, seed: int) -> dict[str, Tensor]:
    """Return the channels with the largest ||X_i W_i^T||, each by itself: what the LASSO's choice is compared with.

    Unlike the LASSO it looks at the inputs of the trained network, and not of the network as it is pruned so far.
    """
    sources = inputs_of(model, None, images.images[:1])
    readers, kept = readers_of(sources), {}
    for layer, keep in widths.items():
        reader = readers[layer]
        source, weight = sources[reader], model.get_submodule(reader).weight
        seen = least_squares.moments(_pairs(model, reader, source, images, positions, seed))
        gram = channel_pruning.contributions(seen, weight[:, source.columns].flatten(2))[0]
        kept[layer] = strongest(gram.diagonal(), keep, layer)
    return kept


def _pairs(
    model: nn.Module, reader: str, source: Source, images: Split, positions: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a layer's inputs (N, c, p) and outputs (N, n) at random positions."""
    for sample in activations.samples_of(images, len(images.labels), positions, seed, images.images.device):
        inputs, outputs = activations.watch(model, {reader: sample.pair}, sample.images)[reader]
        yield inputs[:, source.columns].flatten(2), outputs


def by_sum(method: str, model: nn.Module, widths: Widths, images: Split, positions: int, seed: int) -> nn.Module:
    """Return the network without the channels whose sum the next layer misses least, with or without ThiNet's rescaling.

    Arguments as for `by_fit`; `method` is one of BY_SUM.
    """
    rule = partial(thinet.prune_layer if method == THINET else _not_rescaled, positions=positions)
    every = len(images.labels)
    return thinet.prune(model, images, widths, prune_layer=rule, per_class=every, seed=stream(seed, "ThiNet")).model


def _not_rescaled(model: nn.Module, layer: str, keep: int, images: Tensor, *, positions: int, seed: int) -> nn.Module:
    contributions = thinet.channel_contributions(model, layer, images, positions=positions, seed=seed)
    return surgery.keep_channels(model, layer, thinet.channels_to_keep(contributions, keep), images[:1])
