"""Residual shortcuts: which layer's filters rank the channels that an addition ties together (Li et al. 2017, figure 3)."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from course_lib import activations, surgery
from course_lib.modes import evaluating


class Shortcuts:
    """The layers of a network in the order of computation, with who ranks their channels and who reads them.

    Raises:
        ValueError: the model cannot be traced with the example input.
    """

    def __init__(self, model: nn.Module, example_input: Tensor):
        self.model = model
        self.couplings = surgery.couplings(model, example_input)
        self.inputs = _inputs_in_order(model, example_input)

    def layers(self) -> list[str]:
        """Return the layers whose channels are not the network's output, in the order of computation."""
        return [layer for layer in self.inputs if layer in self.couplings and not self.couplings[layer].is_output]

    def ranking_layer(self, layer: str) -> str:
        """Return the layer whose filters rank the channels of `layer`: itself, or the projection of a sum that it adds to.

        Raises:
            ValueError: the channels pass identity shortcuts only, so that no projection selects among them.
        """
        producers = self._producers(layer)
        if producers == [layer]:
            return layer
        projections = [name for name in producers if self._is_projection(name)]
        if projections:
            return projections[0]
        others = ", ".join(name for name in producers if name != layer)
        raise ValueError(
            f"keep names {layer!r}, whose feature maps are added to those of {others} through identity shortcuts; no projection "
            "selects among them, so all of them stay"
        )

    def in_order(self, layers: Iterable[str]) -> list[str]:
        """Return `layers` as a forward pass reaches them; a sum is reached with the first layer that adds to it.

        Raises:
            ValueError: two of the layers add to the same sum.
        """
        owners: dict[str, str] = {}
        for layer in (layers := list(layers)):
            for producer in self.couplings[layer].producers:
                if owners.setdefault(producer, layer) != layer:
                    raise ValueError(
                        f"keep names {owners[producer]!r} and {layer!r}, which add to the same sum; name one of them"
                    )
        order = list(self.inputs)
        return sorted(layers, key=lambda layer: order.index(self._producers(layer)[0]))

    def columns_reading(self, layer: str, removed: Tensor) -> dict[str, list[int]]:
        """Return the input columns of each next layer that read the channels `removed`, (C,) bool, of `layer`."""
        return {name: columns[removed].flatten().tolist() for name, columns in self.couplings[layer].consumers.items()}

    def _producers(self, layer: str) -> list[str]:
        return sorted(self.couplings[layer].producers, key=list(self.inputs).index)

    def _is_projection(self, layer: str) -> bool:
        """Whether a layer is a 1x1 convolution that reads what the first layer of its block reads too."""
        if getattr(self.model.get_submodule(layer), "kernel_size", None) != (1, 1):
            return False
        if any(other != layer and self.inputs[other] is self.inputs[layer] for other in self.inputs):
            return True
        return any(layer in tied.consumers and len(tied.consumers) > 1 for tied in self.couplings.values())


@torch.no_grad()
def _inputs_in_order(model: nn.Module, example_input: Tensor) -> dict[str, Tensor]:
    """Dense layer or 2-d convolution -> the tensor that it reads, in the order of computation."""
    layers = [name for name, module in model.named_modules() if isinstance(module, surgery.CUTTABLE)]
    inputs: dict[str, Tensor] = {}

    def read(name: str, _module: nn.Module, layer_input: Tensor, _output: Tensor) -> None:
        inputs[name] = layer_input

    with evaluating(model), activations.hooked(model, {name: partial(read, name) for name in layers}):
        model(example_input)
    return inputs
