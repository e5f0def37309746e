"""Physical removal of channels and neurons: a new, narrower network that computes the same as one with these channels at zero.

`wiring` traces which layers depend on each other, and `zeroing` checks every result; here is the clear interface over them.
A narrower network remembers what was kept, so that `course_lib.storage.networks` brings it back in another process.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from course_lib.surgery import keeping, steps, zeroing
from course_lib.surgery.wiring import CUTTABLE, Coupling, Member, Wiring, is_plain
from course_lib.surgery.zeroing import STATISTICS

__all__ = [
    "CUTTABLE",
    "STATISTICS",
    "Coupling",
    "coupling",
    "couplings",
    "keep_channels",
    "narrow",
    "prunable_layers",
]


def keep_channels(model: nn.Module, layer: str, keep: Sequence[int] | Tensor, example_input: Tensor) -> nn.Module:
    """Return a copy of `model` in which `layer` has only the output channels `keep`, and all layers tied to it fit.

    Removed are the filters, their batch norm, the columns of every layer that reads them (also after a flatten, channels last
    or first), and the same channels of every layer that a residual addition ties to this one; option A shortcuts, which pad
    channels, tie channel c of a stage to channel c + p of the next.

    The result is compared with the original whose removed channels are zero (and no longer read), with random weights on a
    random input; where they differ, the request is refused. That is so where a `chunk`, a GLU, a PixelShuffle, a slice, a roll
    or a flip moves the channels, and where a number is taken over all channels: softmax, local response norm, division by a
    mean over channels, an einsum over them, a functional `layer_norm`. Two kinds of modules are let through although their
    outputs differ from those of the zeroed network, since their statistics run over fewer channels: layer and group norms.

    Args:
        model: any network that torch can trace with `example_input`; it is left as it was.
        layer: name of a dense layer or 2-d convolution of the model.
        keep: indices of output channels, at least one, none twice; they stay in ascending order.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: `layer` is unknown or unsuitable, makes the network's output, is read by a grouped convolution, or the
            narrower network does not compute the same; the model cannot be traced; `keep` is empty, out of range, with
            repetitions, or not of integers.
    """
    return narrow(model, {layer: keep}, example_input)


def narrow(model: nn.Module, kept: Mapping[str, Sequence[int] | Tensor], example_input: Tensor) -> nn.Module:
    """Return a narrower copy of `model`: `keep_channels` for several layers at once, traced and checked once.

    Args:
        model: as for `keep_channels`.
        kept: layer name -> its output channels to keep, numbered as in `model`.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: what `keep_channels` refuses, or two of the layers make the same channels.
    """
    wanted = {layer: keeping.indices(keep, len(_layer(model, layer).weight), layer).tolist() for layer, keep in kept.items()}
    with _following_gradients():
        wiring = Wiring(model, example_input)
        members: list[Member] = []
        tied: dict[str, str] = {}  # layer -> the layer with which it loses channels
        for layer, keep in wanted.items():
            if layer in tied:
                raise ValueError(f"layers {tied[layer]!r} and {layer!r} make the same channels of a sum; name one of them")
            everything = wiring.members(layer, range(len(model.get_submodule(layer).weight)))
            tied |= dict.fromkeys(_made_by(everything), layer)
            members += _removable(wiring, layer, everything, keep)
        _check(model, wiring, list(wanted), members, example_input)
        narrower = copy.deepcopy(model)
        zeroing.remove(narrower, members)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters(remove_duplicate=False)}
    for name, parameter in narrower.named_parameters():
        parameter.requires_grad_(trained[name])
    narrower.surgery_steps = [*getattr(model, "surgery_steps", []), steps.step("kept", wanted, example_input)]
    return narrower


def prunable_layers(model: nn.Module, example_input: Tensor) -> list[str]:
    """Return the layers that `narrow` accepts, whichever channels are kept, in the model's order.

    Of layers that a residual addition ties together the first is listed, so that `narrow` takes all of the list at once. Each is
    tried: the network without one channel of each layer is compared with the one in which it is zero.

    Args:
        model: any network; it is left as it was.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: the model cannot be traced.
    """
    with _following_gradients():
        wiring = Wiring(model, example_input)
        removals: dict[str, list[Member]] = {}  # the first layer of each sum -> what loses its channel
        seen: set[str] = set()
        for layer in wiring.plain_layers():
            with contextlib.suppress(ValueError):
                if layer not in seen and not wiring.coupling(layer).fixed:
                    width = len(model.get_submodule(layer).weight)
                    tried = 1 if width > 3 else 0  # not the first, whose removal leaves the windows over neighbours as they are
                    everything = wiring.members(layer, range(width))
                    removals[layer] = _removable(wiring, layer, everything, [c for c in range(width) if c != tried])
                    seen |= set(_made_by(everything))
        accepted = _equal_to_zeroed(model, removals, example_input)
    return [layer for layer in removals if layer in accepted]


def coupling(model: nn.Module, layer: str, example_input: Tensor) -> Coupling:
    """Return which layers compute, carry and read the output channels of `layer`; nobody reads those of the output layer.

    Arguments as for `keep_channels`.

    Raises:
        ValueError: `layer` is unknown or unsuitable, or the model cannot be traced.
    """
    _layer(model, layer)
    with _following_gradients():
        return Wiring(model, example_input).coupling(layer)


def couplings(model: nn.Module, example_input: Tensor) -> dict[str, Coupling]:
    """Return the `coupling` of every dense layer and ungrouped 2-d convolution that the model calls, from one trace.

    Layers whose channels cannot be followed are left out; `coupling` of such a layer tells why.

    Raises:
        ValueError: the model cannot be traced.
    """
    found: dict[str, Coupling] = {}
    with _following_gradients():
        wiring = Wiring(model, example_input)
        for layer in wiring.plain_layers():
            with contextlib.suppress(ValueError):
                found[layer] = wiring.coupling(layer)
    return found


@contextlib.contextmanager
def _following_gradients() -> Iterator[None]:
    """Tracing follows gradients, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _made_by(everything: Sequence[Member]) -> list[str]:
    """Layers that lose outputs together."""
    return [member.name for member in everything if is_plain(member.node.module) and not member.reads]


def _removable(wiring: Wiring, layer: str, everything: Sequence[Member], keep: Sequence[int]) -> list[Member]:
    """What loses something when a layer keeps some channels only; refuses what is known to be impossible without a trial."""
    names = wiring.names
    for member in everything:
        if member.is_output:
            raise ValueError(f"layer {layer!r} makes the network's output; its channels are the classes and cannot be removed")
        module = member.node.module
        groups = getattr(module, "groups", 1)
        if groups > 1 and not groups == module.in_channels == module.out_channels:  # depthwise ones lose one group per channel
            raise ValueError(
                f"the channels of layer {layer!r} are read by {names[module]!r}, a convolution in {groups} groups, which "
                "would become unequal; only ungrouped and depthwise convolutions can follow"
            )
    gone = sorted(set(range(len(wiring.model.get_submodule(layer).weight))) - set(keep))
    members = wiring.members(layer, gone) if gone else []
    fixed = sorted({channel for member in members for channel in member.in_padding()})
    if fixed:
        raise ValueError(
            f"channels {fixed} of layer {layer!r} are added to zeros with which a shortcut pads its channels, and the width of "
            "that padding is written into the model's forward; keep them"
        )
    for member in members:
        size = wiring.size(member)
        if size is not None and (member.indices()[-1] >= size or len(member.indices()) == size):
            raise ValueError(
                f"layer {layer!r} cannot be narrowed: on their way, {wiring.operations(layer) or 'the model'} gives them other "
                f"places, and {member.name!r} reads them in an order that is not followed; keep all of them"
            )
    together = [index for index in (members[0].indices() if members else []) if index not in set(gone)]
    if together:
        raise ValueError(
            f"layer {layer!r} cannot lose channels {gone} alone: by {wiring.operations(layer) or 'a sum'} they are joined with "
            f"{together}; remove those too, or keep all of them"
        )
    return members


def _check(model: nn.Module, wiring: Wiring, layers: Sequence[str], members: Sequence[Member], example_input: Tensor) -> None:
    """Refuses a removal after which the network does not compute what it does with these channels at zero."""
    different = zeroing.why_different(model, members, example_input, wiring.model) if members else None
    if different:
        passed = ", ".join(filter(None, dict.fromkeys(wiring.operations(layer) for layer in layers)))
        raise ValueError(
            f"{_named(layers)} cannot be narrowed, because without these channels the network is not the one with them at zero: "
            f"{different}.{passed and f' On their way the channels pass {passed}.'} Keep all channels of such a layer"
        )


def _equal_to_zeroed(model: nn.Module, removals: Mapping[str, Sequence[Member]], example_input: Tensor) -> list[str]:
    """The layers that can lose what they are to: all are tried at once, and then halves of them."""
    members = [member for layer in removals for member in removals[layer]]
    if not members or zeroing.why_different(model, members, example_input) is None:
        return list(removals)
    if len(removals) == 1:
        return []
    layers = list(removals)
    halves = layers[: len(layers) // 2], layers[len(layers) // 2 :]
    return [
        name for half in halves for name in _equal_to_zeroed(model, {layer: removals[layer] for layer in half}, example_input)
    ]


def _named(layers: Sequence[str]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(repr, layers))}"


def _layer(model: nn.Module, layer: str) -> nn.Module:
    found = {name: module for name, module in model.named_modules() if isinstance(module, CUTTABLE)}
    if layer not in found:
        raise ValueError(f"layer is {layer!r}; the model's dense layers and 2-d convolutions are {', '.join(found)}")
    if not is_plain(found[layer]):
        raise ValueError(
            f"layer {layer!r} is a grouped convolution: its channels are tied to its inputs'; name the layer before it"
        )
    return found[layer]
