"""Sums at the ends of residual branches, found while the network runs: no module needs a certain name or class.

A layer ends a branch where what it computes, perhaps through its batch norm, is added to another tensor of the same shape that
does not depend on it: the shortcut. Where both operands end in a layer, as with a projection shortcut, the branch is the one that
has passed more layers.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_lib.activations import Enough, Reader, check_vectors, hooked
from course_lib.activations import watch as watch_layers
from course_lib.modes import evaluating

LAYERS = (nn.Linear, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}  # functions, by name


class End(NamedTuple):
    """The last layer of a branch."""

    layer: str
    norm: str | None  # the batch norm between the layer and the sum


@torch.no_grad()
def branch_ends(model: nn.Module, example_input: Tensor) -> dict[str, str | None]:
    """Return the layers whose outputs are added to a shortcut -> the batch norm between the layer and the sum, or None.

    A layer is not found where something else than a batch norm lies between: a ReLU, a scale, a gate.

    Args:
        model: any network, run in evaluation mode and left as it was.
        example_input: a batch (N, ...) on the model's device.
    """
    found: dict[str, str | None] = {}
    with evaluating(model), _following(model, lambda end, _shortcut: found.setdefault(end.layer, end.norm)):
        model(example_input)
    return found


def watch(
    model: nn.Module, layer: str, reader: Reader, images: Tensor, shortcut: Callable[[Tensor], Any] | None = None
) -> tuple[Any, Any]:
    """Return what `reader` makes of a layer's input and output, and `shortcut` of the tensor that is added to its branch.

    The forward pass ends as soon as both are known.

    Args:
        model: any network, in evaluation mode.
        layer: one of `branch_ends`, or any dense layer or convolution where `shortcut` is None.
        reader: called as reader(module, its input, its output).
        images: a batch (N, ...) on the model's device.
        shortcut: called with the tensor that is added; it reads it at once, since an operation in place may follow. None: the
            second result is None too.

    Raises:
        ValueError: a dense layer whose inputs are not (N, c), or a layer that does not end a branch.
    """
    if shortcut is None:
        return watch_layers(model, {layer: reader}, images)[layer], None
    seen: list[Any] = []
    added: list[Any] = []

    def read(module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        check_vectors(layer, module, inputs)
        seen.append(reader(module, inputs, outputs))

    def add(end: End, other: Tensor) -> None:
        if end.layer == layer:
            added.append(shortcut(other))
            raise Enough

    with _following(model, add), hooked(model, {layer: read}), contextlib.suppress(Enough):
        model(images)
    if not added:
        raise ValueError(f"layer is {layer!r}, whose outputs are not added to a shortcut")
    return seen[0], added[0]


@contextlib.contextmanager
def _following(model: nn.Module, found: Callable[[End, Tensor], Any]) -> Iterator[None]:
    """Call found(end, shortcut) at each sum in which a branch ends."""
    tracer = _Tracer(found)
    starts = {
        name: partial(tracer.after_layer if isinstance(module, LAYERS) else tracer.after_norm, name)
        for name, module in model.named_modules()
        if isinstance(module, LAYERS + NORMS)
    }
    with hooked(model, starts), tracer:
        yield


class _Tracer(TorchFunctionMode):
    """Each tensor knows the layers that it depends on; what comes straight out of a layer, or its batch norm, knows of that."""

    def __init__(self, found: Callable[[End, Tensor], Any]):
        super().__init__()
        self.found = found

    def after_layer(self, name: str, _module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        outputs.passed = _passed([inputs]) | {name}
        outputs.end = End(name, None), outputs._version

    def after_norm(self, name: str, module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        end = _end(inputs)
        if end is not None and end.norm is None and module.running_var is not None:
            outputs.end = end._replace(norm=name), outputs._version

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None):
        operands = list(_tensors([*args, *(kwargs or {}).values()]))
        if func.__name__ in SUMS and len(operands) == 2 and (kwargs or {}).get("alpha", 1) == 1:
            self._at_sum(*operands)
        passed = _passed(operands)
        outputs = func(*args, **(kwargs or {}))
        for output in _tensors([outputs]) if passed else ():
            output.passed = passed
        return outputs

    def _at_sum(self, first: Tensor, second: Tensor) -> None:
        ends = [
            (len(_passed([branch])), end, shortcut)
            for branch, shortcut in ((first, second), (second, first))
            if branch.shape == shortcut.shape and (end := _end(branch)) and end.layer not in _passed([shortcut])
        ]
        if ends:
            self.found(*max(ends, key=lambda found: found[0])[1:])


def _end(tensor: Tensor) -> End | None:
    """The layer or batch norm whose output a tensor is, if nothing has changed it in place since."""
    end, version = getattr(tensor, "end", (None, None))
    return end if end is not None and version == tensor._version else None


def _passed(tensors: Iterable[Tensor]) -> frozenset[str]:
    """The layers that tensors depend on."""
    return frozenset().union(*(getattr(tensor, "passed", ()) for tensor in tensors))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
