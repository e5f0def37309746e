"""Physical removal of channels and neurons: a new, narrower network that computes the same as one with these channels at zero.

torch-pruning traces which layers depend on each other (Fang et al. 2023, DepGraph); here is the clear interface over it.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn

CUTTABLE = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class Coupling:
    """The layers that are tied to the output channels of a layer, by module name.

    A producer makes the channels (several do where a residual addition ties them), a consumer reads them.
    """

    producers: tuple[str, ...]  # row i of each one's weight makes channel i
    consumers: dict[str, Tensor]  # (C, r): the r input columns that read a channel, r > 1 behind a flatten
    others: tuple[str, ...]  # batch norms, and whatever else has a parameter for each channel


def keep_channels(model: nn.Module, layer: str, keep: Sequence[int] | Tensor, example_input: Tensor) -> nn.Module:
    """A copy of `model` in which `layer` has only the output channels `keep`, and all layers tied to it fit.

    What goes: the filters, their batch norm, the columns of every consumer that read them (also behind a flatten), and the
    same channels of every layer that a residual addition ties to this one.

    Args:
        model: any network that torch can trace with `example_input`; it is left as it was.
        layer: name of a dense layer or 2-d convolution of the model.
        keep: indices of output channels, at least one, none twice; they stay in ascending order.
        example_input: a batch on the model's device.

    Raises:
        ValueError: an unknown or unsuitable layer, `keep` empty, out of range or with repetitions, or a layer that makes
            the network's output.
    """
    channels = len(_layer(model, layer).weight)
    kept = sorted(torch.as_tensor(keep).tolist())
    if not kept or len(set(kept)) < len(kept) or not (kept[0] >= 0 and kept[-1] < channels):
        raise ValueError(f"keep is {kept} for layer {layer!r}; expected different indices from 0 to {channels - 1}, at least one")
    with _traceable_copy(model) as narrower:
        graph, group = _group(narrower, layer, example_input)
        if not any(_is_plain(i.dep.target.module) and graph.is_in_channel_pruning_fn(i.dep.handler) for i in group.items):
            raise ValueError(f"layer {layer!r} makes the network's output; its channels are the classes and cannot be removed")
        gone = sorted(set(range(channels)) - set(kept))
        if gone:
            graph.get_pruning_group(narrower.get_submodule(layer), _cut(graph, narrower, layer), gone).prune()
    for (name, parameter), original in zip(narrower.named_parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
        assert parameter.dim() == original.dim(), name
    return narrower


def coupling(model: nn.Module, layer: str, example_input: Tensor) -> Coupling:
    """Which layers make, carry and read the output channels of `layer`. Arguments and errors as for `keep_channels`."""
    channels = len(_layer(model, layer).weight)
    producers, others = [], []
    consumers: dict[str, Tensor] = {}
    with _traceable_copy(model) as traced:
        names = {module: name for name, module in traced.named_modules()}
        graph, group = _group(traced, layer, example_input)
        for item in group.items:
            module = item.dep.target.module
            if module not in names:  # an operation without parameters: addition, activation, reshaping
                continue
            if not _is_plain(module):
                others.append(names[module])
            elif graph.is_in_channel_pruning_fn(item.dep.handler):
                consumers[names[module]] = _columns(item, channels)
            else:
                producers.append(names[module])
    return Coupling(tuple(producers), consumers, tuple(others))


def _is_plain(module: nn.Module) -> bool:
    """A dense layer or an ungrouped convolution: one whose rows and columns are tied to different layers."""
    return isinstance(module, CUTTABLE) and getattr(module, "groups", 1) == 1


def _columns(item, channels: int) -> Tensor:
    """(C, r): the input columns of a consumer by the channel of the root layer that they read."""
    of_channel: list[list[int]] = [[] for _ in range(channels)]
    for column, channel in zip(item.idxs, item.root_idxs, strict=True):
        of_channel[channel].append(int(column))
    return torch.tensor(of_channel)


def _layer(model: nn.Module, layer: str) -> nn.Module:
    found = {name: module for name, module in model.named_modules() if isinstance(module, CUTTABLE)}
    if layer not in found:
        raise ValueError(f"layer is {layer!r}; the model's dense layers and 2-d convolutions are {', '.join(found)}")
    if not _is_plain(found[layer]):
        raise ValueError(
            f"layer {layer!r} is a grouped convolution: its channels are tied to its inputs'; name the layer before it"
        )
    return found[layer]


def _cut(graph: torch_pruning.DependencyGraph, model: nn.Module, layer: str):
    return graph.get_pruner_of_module(model.get_submodule(layer)).prune_out_channels


def _group(model: nn.Module, layer: str, example_input: Tensor):
    """The dependency graph, and the group of all output channels of a layer."""
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_input.clone())  # not an inference tensor
    module = model.get_submodule(layer)
    return graph, graph.get_pruning_group(module, _cut(graph, model, layer), list(range(len(module.weight))))


@contextmanager
def _traceable_copy(model: nn.Module) -> Iterator[nn.Module]:
    """A copy to trace: torch-pruning follows gradients, so they are on in the block whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        traced = copy.deepcopy(model)
        modes = {module: module.training for module in traced.modules()}
        for parameter in traced.parameters():
            parameter.requires_grad_(True)
        yield traced
    for module, mode in modes.items():
        module.training = mode
