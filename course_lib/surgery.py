"""Physical removal of channels and neurons: a new, narrower network that computes the same as one with these channels at zero.

torch-pruning traces which layers depend on each other (Fang et al. 2023, DepGraph); here is the clear interface over it.
"""

import copy
from collections.abc import Sequence
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
    others: tuple[str, ...]  # batch norms, and whatever else holds parameters of these channels
    is_output: bool  # whether they are, or are part of, what the network gives


def keep_channels(model: nn.Module, layer: str, keep: Sequence[int] | Tensor, example_input: Tensor) -> nn.Module:
    """A copy of `model` in which `layer` has only the output channels `keep`, and all layers tied to it fit.

    What goes: the filters, their batch norm, the columns of every consumer that read them (also behind a flatten), and the
    same channels of every layer that a residual addition ties to this one. Zeroing all that and removing it are the same,
    except behind a layer or group norm, whose statistics run over the channels.

    Args:
        model: any network that torch can trace with `example_input`; it is left as it was.
        layer: name of a dense layer or 2-d convolution of the model.
        keep: indices of output channels, at least one, none twice; they stay in ascending order.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: `layer` is unknown or unsuitable, makes the network's output, is read by a grouped convolution, or the
            narrower network does not run; `keep` is empty, out of range, with repetitions, or not of integers.
    """
    kept = _indices(keep, layer, len(_layer(model, layer).weight))
    # torch-pruning follows gradients, whatever the caller's mode
    with torch.inference_mode(False), torch.enable_grad():
        narrower, graph, group = _traced(model, layer, example_input)
        _check_removable(narrower, layer, group)
        gone = sorted(set(group[0].idxs) - set(kept))
        if gone:
            group.prune(gone)
            _check_runs(narrower, layer, example_input)
    for (_, copied), (_, original) in zip(narrower.named_modules(), model.named_modules(), strict=True):
        copied.training = original.training
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters(remove_duplicate=False)}
    for name, parameter in narrower.named_parameters():
        parameter.requires_grad_(trained[name])
    return narrower


def coupling(model: nn.Module, layer: str, example_input: Tensor) -> Coupling:
    """Which layers make, carry and read the output channels of `layer`; for the network's output layer nobody reads them.

    Arguments as for `keep_channels`.

    Raises:
        ValueError: `layer` is unknown or unsuitable.
    """
    channels = len(_layer(model, layer).weight)
    producers, others = [], []
    consumers: dict[str, Tensor] = {}
    with torch.inference_mode(False), torch.enable_grad():
        traced, graph, group = _traced(model, layer, example_input)
    names = {module: name for name, module in traced.named_modules()}
    for item in group.items:
        module = item.dep.target.module
        if module not in names:  # an operation without parameters: addition, activation, reshaping
            continue
        if _is_plain(module) and graph.is_in_channel_pruning_fn(item.dep.handler):
            consumers[names[module]] = _columns(item, channels)
        elif _is_plain(module) and item.idxs == list(range(channels)):
            producers.append(names[module])
        else:
            others.append(names[module])
    is_output = any(item.dep.target.type == torch_pruning.ops.OPTYPE.OUTPUT for item in group.items)
    return Coupling(tuple(producers), consumers, tuple(others), is_output)


def _traced(model: nn.Module, layer: str, example_input: Tensor):
    """A copy of the model in evaluation mode, its dependency graph, and the group of all output channels of a layer."""
    copied = copy.deepcopy(model).requires_grad_(True)
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(
        copied,
        example_input.clone(),  # gradients cannot be followed from an inference tensor
        # one operation more behind every output: so each has a node of its own, whatever makes it
        output_transform=lambda outputs: [output * 1 for output in torch_pruning.utils.flatten_as_list(outputs)],
    )
    module = copied.get_submodule(layer)
    if module not in graph.module2node:
        raise ValueError(f"layer {layer!r} takes no part in what the model computes from example_input")
    cut = graph.get_pruner_of_module(module).prune_out_channels
    return copied, graph, graph.get_pruning_group(module, cut, list(range(len(module.weight))))


def _check_removable(model: nn.Module, layer: str, group: torch_pruning.Group) -> None:
    """Refuses what torch-pruning would cut wrongly without a word."""
    names = {module: name for name, module in model.named_modules()}
    for item in group.items:
        module = item.dep.target.module
        if item.dep.target.type == torch_pruning.ops.OPTYPE.OUTPUT:
            raise ValueError(f"layer {layer!r} makes the network's output; its channels are the classes and cannot be removed")
        groups = getattr(module, "groups", 1)
        if groups > 1 and not groups == module.in_channels == module.out_channels:  # depthwise ones lose a group a channel
            raise ValueError(
                f"the channels of layer {layer!r} are read by {names[module]!r}, a convolution in {groups} groups, which "
                "would become unequal; only ungrouped and depthwise convolutions can follow"
            )


def _check_runs(narrower: nn.Module, layer: str, example_input: Tensor) -> None:
    """Refuses what the trace does not show: widths that are numbers in the code, and the network's own input in a sum."""
    try:
        with torch.no_grad():
            narrower(example_input)
    except RuntimeError as error:
        raise ValueError(
            f"layer {layer!r} cannot be narrowed: the model's forward has its width written into it, or adds the network's "
            f"input to its channels ({error})"
        ) from error


def _indices(keep: Sequence[int] | Tensor, layer: str, channels: int) -> list[int]:
    """`keep` as a sorted list, if it names different channels."""
    indices = torch.as_tensor(keep)
    integers = indices.dim() == 1 and not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
    kept = sorted(indices.tolist()) if integers else []
    if not kept or len(set(kept)) < len(kept) or not (kept[0] >= 0 and kept[-1] < channels):
        raise ValueError(
            f"keep is {indices.tolist()} for layer {layer!r}; expected different integers from 0 to {channels - 1}, at least one"
        )
    return kept


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
