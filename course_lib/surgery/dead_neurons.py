"""Removal of dead neurons and channels: those that no layer reads, and those that read nothing (Han et al. 2015, section 3.5).

A neuron without inputs still outputs a constant, act(bias). The constant moves into the biases of the layers that read it, so
that the narrower network computes the same outputs.
"""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import surgery
from course_lib.modes import evaluating


class Dead(NamedTuple):
    """The dead output channels of a layer, C in all."""

    channels: Tensor  # (C,) bool
    constants: dict[str, Tensor]  # layer that reads them -> (C, r): what a dead channel puts into its r columns, 0 elsewhere
    columns: dict[str, Tensor]  # layer that reads them -> (C, r): which columns these are


def remove_dead_neurons(model: nn.Module, example_input: Tensor) -> nn.Module:
    """Return a narrower copy of a network, without its dead neurons and channels and with the same outputs.

    Each layer keeps at least one channel. Layers that `surgery.narrow` does not accept keep all, and so does a channel whose
    constant cannot be moved exactly, because the layer that reads it pads with zeros or has no bias.

    Args:
        model: a pruned network of dense layers and 2-d convolutions; batch norms use their running statistics, as in evaluation
            mode. It is left as it was, and the copy has its modes.
        example_input: a batch (N, ...) on the model's device, by which the network is traced.

    Raises:
        ValueError: the model cannot be traced with `example_input`.
    """
    layers = surgery.prunable_layers(model, example_input)
    modes = [module.training for module in model.modules()]
    model = copy.deepcopy(model).eval()
    found = True
    while found:  # a neuron that is removed may have been the last reader of another one
        found = False
        for layer in layers:
            dead = dead_channels(model, layer, example_input)
            if dead.channels.any():
                _move_constants(model, dead)
                model, found = surgery.keep_channels(model, layer, (~dead.channels).nonzero().flatten(), example_input), True
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return model


@torch.no_grad()
def dead_channels(model: nn.Module, layer: str, example_input: Tensor) -> Dead:
    """Return which output channels of a layer can be removed without a change of the network's outputs; nothing is changed.

    If all are dead, the first one is left out: a layer keeps at least one channel.

    Args:
        model: a network in evaluation mode.
        layer: one of `surgery.prunable_layers`.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: the layer is unknown or unsuitable, or the model cannot be traced.
    """
    tied = surgery.coupling(model, layer, example_input)
    readers = {name: model.get_submodule(name) for name in tied.consumers}
    norms = all(isinstance(model.get_submodule(name), nn.modules.batchnorm._BatchNorm) for name in tied.others)
    weight = model.get_submodule(layer).weight
    if tied.is_output or not readers or not norms:
        return Dead(torch.zeros(len(weight), dtype=torch.bool, device=weight.device), {}, {})
    without_inputs = torch.stack([_is_zero(model.get_submodule(name).weight) for name in tied.producers]).all(0)
    unread = torch.stack([_is_zero(_read_by(readers[name], columns)) for name, columns in tied.consumers.items()]).all(0)
    constants = _constants(model, example_input, tied.consumers) if (without_inputs & ~unread).any() else {}
    for name, (value, is_constant) in constants.items():
        movable = readers[name].bias is not None and not any(_padding(readers[name]))
        without_inputs &= is_constant & (movable | (value == 0).all(1))
    dead = unread | without_inputs
    if dead.all():
        dead[0] = False
    moved = {name: (without_inputs & dead)[:, None] * value for name, (value, _) in constants.items()}
    return Dead(dead, moved, tied.consumers)


@torch.no_grad()
def _move_constants(model: nn.Module, dead: Dead) -> None:
    """Add what dead channels contribute to the layers that read them to the biases of these, in place."""
    for name, value in dead.constants.items():
        if value.any():
            reader = model.get_submodule(name)
            reader.bias += torch.einsum("cnr...,cr->n", _read_by(reader, dead.columns[name]), value)


def _is_zero(weight: Tensor) -> Tensor:
    """Return whether all entries of each channel are zero: (C, ...) -> (C,)."""
    return (weight == 0).flatten(1).all(1)


def _read_by(reader: nn.Module, columns: Tensor) -> Tensor:
    """Return a layer's weight (n, c, ...) by the channels that it reads, (C, n, r, ...), for columns (C, r)."""
    return reader.weight[:, columns.to(reader.weight.device)].movedim(1, 0)


def _padding(reader: nn.Module) -> tuple[int, ...]:
    padding = getattr(reader, "padding", 0)
    return (1,) if padding == "same" else (0,) if padding == "valid" else padding if isinstance(padding, tuple) else (padding,)


def _constants(model: nn.Module, example_input: Tensor, consumers: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what each layer reads of each channel: the value (C, r), and whether it is the same everywhere (C,).

    'Everywhere' is all positions in all images: the example, and noise added to it, since one image alone cannot show what
    depends on the image.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            columns = consumers[name].to(inputs[0].device)
            channels = -1 if isinstance(module, nn.Linear) else 1
            values = inputs[0].movedim(channels, 0).flatten(1)[columns]  # (C, r, images and positions)
            low, high = values.amin(2), values.amax(2)
            seen[name] = low, (low == high).all(1)

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(record(name)) for name in consumers]
    try:
        with evaluating(model):
            model(_with_noise(example_input))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _with_noise(images: Tensor) -> Tensor:
    """Return a batch twice, the second time with noise of its own deviation; integers, such as tokens, as they are."""
    if not images.is_floating_point():
        return images
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    return torch.cat([images, images + noise * images.std(correction=0).clamp_min(1)])
