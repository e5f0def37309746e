"""Physical removal of channels and neurons: a new, narrower network that computes the same as one with these channels at zero.

torch-pruning traces which layers depend on each other (Fang et al. 2023, DepGraph); here is the clear interface over it.
A narrower network remembers what was kept, so that `save` and `load` bring it back in another process.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch_pruning
from torch import Tensor, nn

from course_lib.files import replacing

CUTTABLE = (nn.Linear, nn.Conv2d)
PLAN = "kept channels"  # key of the file's metadata


@dataclass(frozen=True)
class Coupling:
    """The layers that are tied to the output channels of a layer, by module name.

    A producer makes the channels (several do where a residual addition ties them), a consumer reads them.
    """

    producers: tuple[str, ...]  # row i of each one's weight makes channel i
    consumers: dict[str, Tensor]  # (C, r): the r input columns that read a channel, r > 1 behind a flatten
    others: dict[str, Tensor]  # (C, r): batch norms, and what else holds parameters of a channel: where in them
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
    return narrow(model, {layer: keep}, example_input)


def narrow(model: nn.Module, kept: Mapping[str, Sequence[int] | Tensor], example_input: Tensor) -> nn.Module:
    """`keep_channels` for several layers in one go: the network is traced once.

    Args:
        model: as for `keep_channels`.
        kept: layer name -> its output channels to keep, numbered as in `model`.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: what `keep_channels` refuses, or two of the layers make the same channels.
    """
    wanted = {layer: _indices(keep, layer, len(_layer(model, layer).weight)) for layer, keep in kept.items()}
    # torch-pruning follows gradients, whatever the caller's mode
    with torch.inference_mode(False), torch.enable_grad():
        narrower, graph = _traced(model, example_input)
        cut: dict[str, str] = {}  # layer -> the layer on whose account it has been cut
        for layer, keep in wanted.items():
            if layer in cut:
                raise ValueError(f"layers {cut[layer]!r} and {layer!r} make the same channels of a sum; name one of them")
            group = _group(narrower, graph, layer)
            _check_removable(narrower, layer, group)
            cut |= dict.fromkeys(_producers(narrower, graph, group), layer)
            gone = sorted(set(group[0].idxs) - set(keep))
            if gone:
                group.prune(gone)
        _check_runs(narrower, list(wanted), example_input)
    for (_, copied), (_, original) in zip(narrower.named_modules(), model.named_modules(), strict=True):
        copied.training = original.training
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters(remove_duplicate=False)}
    for name, parameter in narrower.named_parameters():
        parameter.requires_grad_(trained[name])
    step = dict(kept=wanted, input=list(example_input.shape), dtype=str(example_input.dtype).removeprefix("torch."))
    narrower.surgery_steps = [*getattr(model, "surgery_steps", []), step]
    return narrower


def save(model: nn.Module, path: str | Path) -> None:
    """Writes a network, narrowed or not, as safetensors; the plan of kept channels lies in the file's metadata.

    Args:
        model: any network; what `narrow` or `keep_channels` did to it since `fresh_model` of `load` is in the plan.
        path: the file; it is written aside and then takes its name.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as scratch:
        save_file(tensors, scratch, metadata={PLAN: json.dumps(getattr(model, "surgery_steps", []))})


def load(path: str | Path, fresh_model: nn.Module) -> nn.Module:
    """The network of a file of `save`: the plan is replayed on a copy of `fresh_model`, then the weights are read.

    Args:
        path: a file of `save`.
        fresh_model: the network before any surgery, whatever its weights; it is left as it was. Its device is the result's,
            and so is its mode: call `eval()` on a fresh one before you use it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no file of `save`, or of another network; the message names what differs.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"path is {str(path)!r}; there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            steps = json.loads((file.metadata() or {})[PLAN])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, KeyError, ValueError) as reason:
        raise ValueError(f"{path} is damaged, or was not written by surgery.save ({reason!r})") from reason
    model = copy.deepcopy(fresh_model)
    device = next(model.parameters()).device
    for step in steps:
        example = torch.zeros(step["input"], dtype=getattr(torch, step["dtype"]), device=device)
        model = narrow(model, step["kept"], example)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as reason:
        raise ValueError(f"{path} holds another network than fresh_model: {reason}") from reason
    return model


def coupling(model: nn.Module, layer: str, example_input: Tensor) -> Coupling:
    """Which layers make, carry and read the output channels of `layer`; for the network's output layer nobody reads them.

    Arguments as for `keep_channels`.

    Raises:
        ValueError: `layer` is unknown or unsuitable.
    """
    _layer(model, layer)
    with torch.inference_mode(False), torch.enable_grad():
        traced, graph = _traced(model, example_input)
        return _describe(traced, graph, _group(traced, graph, layer))


def couplings(model: nn.Module, example_input: Tensor) -> dict[str, Coupling]:
    """`coupling` of every ungrouped dense layer and 2-d convolution that takes part in the computation, from one trace."""
    with torch.inference_mode(False), torch.enable_grad():
        traced, graph = _traced(model, example_input)
        return {
            name: _describe(traced, graph, _group(traced, graph, name))
            for name, module in traced.named_modules()
            if _is_plain(module) and module in graph.module2node
        }


def _traced(model: nn.Module, example_input: Tensor) -> tuple[nn.Module, torch_pruning.DependencyGraph]:
    """A copy of the model in evaluation mode, and its dependency graph."""
    copied = copy.deepcopy(model).requires_grad_(True)
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(
        copied,
        example_input.clone(),  # gradients cannot be followed from an inference tensor
        # one operation more behind every output: so each has a node of its own, whatever makes it
        output_transform=lambda outputs: [output * 1 for output in torch_pruning.utils.flatten_as_list(outputs)],
    )
    return copied, graph


def _group(traced: nn.Module, graph: torch_pruning.DependencyGraph, layer: str) -> torch_pruning.Group:
    """Everything that goes when all output channels of a layer go."""
    module = traced.get_submodule(layer)
    if module not in graph.module2node:
        raise ValueError(f"layer {layer!r} takes no part in what the model computes from example_input")
    cut = graph.get_pruner_of_module(module).prune_out_channels
    return graph.get_pruning_group(module, cut, list(range(len(module.weight))))


def _describe(traced: nn.Module, graph: torch_pruning.DependencyGraph, group: torch_pruning.Group) -> Coupling:
    names = {module: name for name, module in traced.named_modules()}
    producers = _producers(traced, graph, group)
    consumers: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for item in group.items:
        name = names.get(item.dep.target.module)
        if name is None:  # an operation without parameters: addition, activation, reshaping
            continue
        if _reads(graph, item):
            consumers[name] = _columns(item, len(group[0].idxs))
        elif name not in producers:
            others[name] = _columns(item, len(group[0].idxs))
    is_output = any(item.dep.target.type == torch_pruning.ops.OPTYPE.OUTPUT for item in group.items)
    return Coupling(producers, consumers, others, is_output)


def _producers(traced: nn.Module, graph: torch_pruning.DependencyGraph, group: torch_pruning.Group) -> tuple[str, ...]:
    """Layers of the group that make all of its channels, in its order."""
    names = {module: name for name, module in traced.named_modules()}
    everything = list(range(len(group[0].idxs)))
    return tuple(
        names[item.dep.target.module]
        for item in group.items
        if _is_plain(item.dep.target.module) and not _reads(graph, item) and item.idxs == everything
    )


def _reads(graph: torch_pruning.DependencyGraph, item) -> bool:
    """Whether a member of a group is a dense layer or ungrouped convolution that loses inputs."""
    return _is_plain(item.dep.target.module) and graph.is_in_channel_pruning_fn(item.dep.handler)


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


def _check_runs(narrower: nn.Module, layers: Sequence[str], example_input: Tensor) -> None:
    """Refuses what the trace does not show: widths that are numbers in the code, and the network's own input in a sum."""
    try:
        with torch.no_grad():
            narrower(example_input)
    except RuntimeError as error:
        raise ValueError(
            f"{_named(layers)} cannot be narrowed: the model's forward has its width written into it, or adds the network's "
            f"input to its channels ({error})"
        ) from error


def _named(layers: Sequence[str]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(repr, layers))}"


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
