"""Layers whose output channels one layer computes and one other layer reads: where it stands, and which columns it reads with."""

import contextlib
import copy

import torch
from torch import Tensor, nn

from course_lib import activations, surgery
from course_lib.modes import evaluating

CHANNELWISE = (nn.modules.batchnorm._BatchNorm, nn.PReLU)  # keep channels apart, as depthwise convolutions do


def next_layer(model: nn.Module, layer: str, example_input: Tensor) -> tuple[str, Tensor]:
    """Return the one layer that reads the output channels of `layer`, and which of its input columns read each channel.

    In a residual network the first layer of a two-layer block has one, and the first two layers of a bottleneck have; the
    outputs that a block adds to its shortcut are read by many.

    Args:
        model: any network that `course_lib.surgery` can trace.
        layer: name of a dense layer or ungrouped 2-d convolution.
        example_input: a batch (N, ...) on the model's device.

    Returns:
        The name of the next layer, and columns (C, r) int64; r > 1 after a flatten.

    Raises:
        ValueError: other layers compute or read these channels too, or what `surgery.coupling` refuses.
    """
    return _next_layer(model, layer, surgery.coupling(model, layer, example_input))


def layers_with_one_reader(model: nn.Module, example_input: Tensor) -> dict[str, str]:
    """Return the layers that have one `next_layer` and can be narrowed, in the model's order: name -> name of the next layer.

    The next layer reads vectors or feature maps; a layer that is read by a dense layer on tokens is left out.

    Args:
        model: any network; it is left as it was.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: the model cannot be traced.
    """
    couplings, found = surgery.couplings(model, example_input), {}
    for name in surgery.prunable_layers(model, example_input):
        with contextlib.suppress(ValueError):
            found[name] = _next_layer(model, name, couplings[name])[0]
    tokens = _reading_tokens(model, set(found.values()), example_input)
    return {name: following for name, following in found.items() if following not in tokens}


@torch.no_grad()
def fold_scales(model: nn.Module, layer: str, scales: Tensor, example_input: Tensor) -> nn.Module:
    """Return a copy of `model` whose next layer has its weights for each channel of `layer` multiplied by that channel's scale.

    The outputs are those of a network in which the next layer's input channels are scaled. Its bias stays.

    Raises:
        ValueError: `scales` is not one number per channel, or what `next_layer` refuses.
    """
    name, columns = next_layer(model, layer, example_input)
    if scales.shape != columns.shape[:1]:
        raise ValueError(f"scales have shape {tuple(scales.shape)}; layer {layer!r} has {len(columns)} channels")
    scaled = copy.deepcopy(model)
    weight = scaled.get_submodule(name).weight
    factors = torch.ones(weight.shape[1], dtype=torch.float64, device=weight.device)
    factors[columns.to(weight.device).flatten()] = scales.to(factors).repeat_interleave(columns.shape[1])
    weight.mul_(factors.to(weight.dtype).view(1, -1, *[1] * (weight.dim() - 2)))
    return scaled


def _next_layer(model: nn.Module, layer: str, tied: surgery.Coupling) -> tuple[str, Tensor]:
    if tied.is_output or len(tied.producers) > 1 or len(tied.consumers) != 1:
        computed, read = ", ".join(tied.producers), ", ".join(tied.consumers) or "no dense layer or ungrouped convolution"
        output = ", and are an output of the network" if tied.is_output else ""
        raise ValueError(
            f"layer is {layer!r}, whose channels are computed by {computed} and read by {read}{output}; "
            "allowed is a layer that alone computes its channels, and one that alone reads them"
        )
    for name in tied.others:
        module = model.get_submodule(name)
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels
        if not (isinstance(module, CHANNELWISE) or depthwise):
            raise ValueError(
                f"layer is {layer!r}, whose channels pass {name!r}, a {type(module).__name__}, on their way to the next layer; "
                "allowed there are batch norms, PReLUs and depthwise convolutions"
            )
    return next(iter(tied.consumers.items()))


@torch.no_grad()
def _reading_tokens(model: nn.Module, layers: set[str], example_input: Tensor) -> set[str]:
    """Those of `layers` that are dense and whose inputs are not (N, c)."""
    found: set[str] = set()

    def note(module: nn.Module, inputs: Tensor, _outputs: Tensor) -> None:
        if isinstance(module, nn.Linear) and inputs.dim() != 2:
            found.update(name for name in layers if model.get_submodule(name) is module)

    with evaluating(model), activations.hooked(model, dict.fromkeys(layers, note)):
        model(example_input)
    return found
