"""What layers put out after their ReLUs: each layer's channels are followed to the first ReLU that they meet."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_lib.activations import hooked
from course_lib.data import Batches, batched
from course_lib.modes import evaluating

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
RELUS = {"relu", "relu_", "relu6"}  # by the names of the functions that modules, F and tensors end in
# Operations that leave channel c channel c, so that a layer's channels reach a ReLU after them
CARRYING = {"batch_norm", "instance_norm", "group_norm", "dropout", "add", "add_", "__add__", "__radd__", "__iadd__"}
CARRYING |= {
    f"{kind}{d}d" for kind in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "dropout") for d in (1, 2, 3)
}


def mean_after_relu(
    model: nn.Module, batches: Batches, layers: Iterable[str], of: Callable[[Tensor], Tensor], batch_size: int = 500
) -> dict[str, Tensor]:
    """Return the mean of `of(outputs)` over images and positions, by layer and channel, all layers in one pass.

    A layer's outputs are taken after the first ReLU that its channels meet. Batch norm, pooling, dropout and additions may lie
    between; where an addition ties several layers, as at the end of a residual block, all have the outputs of the sum. Memory
    does not grow with the number of images.

    Args:
        model: any network, run in evaluation mode and left as it was.
        batches: a split, a DataLoader or a list of (images, labels); the labels are not read.
        layers: names of dense layers or convolutions that `layers_with_relu` lists.
        of: an elementwise function of what comes out of a ReLU: of [O = 0] the mean is APoZ, of O the mean activation.
        batch_size: images at a time, of a split; the result does not depend on it.

    Returns:
        Layer name -> (C,), float64.

    Raises:
        ValueError: batches without images, or a batch size below 1.
    """
    tracer, device = _ReluTracer(of), next(model.parameters()).device
    names = list(layers)
    _run(model, (images for images, _ in batched(batches, batch_size, device)), names, tracer)
    return {name: tracer.sums[name] / tracer.counts[name] for name in names}


def layers_with_relu(model: nn.Module, example_input: Tensor) -> list[str]:
    """Return the names of the dense layers and convolutions whose channels meet a ReLU, in the model's order.

    Args:
        model: any network; it is left as it was.
        example_input: a batch (N, ...) on the model's device.
    """
    tracer = _ReluTracer(lambda outputs: outputs == 0)
    layers = [name for name, module in model.named_modules() if isinstance(module, LAYERS)]
    _run(model, [example_input], layers, tracer)
    return [name for name in layers if name in tracer.sums]


class _ReluTracer(TorchFunctionMode):
    """Sums `of` after ReLUs while a network runs: each tensor knows whose channels it carries, until it meets a ReLU."""

    def __init__(self, of: Callable[[Tensor], Tensor]):
        super().__init__()
        self.of = of
        self.sums: dict[str, Tensor] = {}  # layer -> (C,)
        self.counts: dict[str, int] = {}  # layer -> images and positions seen
        self.waiting: dict[str, int] = {}  # layer whose channels have met no ReLU yet -> their dimension

    def start(self, layer: str, module: nn.Module, _inputs: Tensor, outputs: Tensor) -> None:
        """Follow `outputs`, the channels of `layer`, from here on."""
        outputs.carries = {layer}
        self.waiting[layer] = -1 if isinstance(module, nn.Linear) else 1

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None):
        carried = {layer for value in args for layer in getattr(value, "carries", ())}
        outputs = func(*args, **(kwargs or {}))
        is_relu6 = func.__name__ == "hardtanh" and (kwargs or {}).get("min_val") == 0
        if func.__name__ in RELUS or is_relu6:
            for layer in carried & self.waiting.keys():
                self._add(layer, outputs, self.waiting.pop(layer))
            outputs.carries = set()  # in place, it is the tensor that came in
        elif func.__name__ in CARRYING:
            outputs.carries = carried
        return outputs

    def _add(self, layer: str, outputs: Tensor, dimension: int) -> None:
        channels = outputs.shape[dimension]
        others = [d for d in range(outputs.dim()) if d != dimension % outputs.dim()]
        self.sums[layer] = self.sums.get(layer, 0) + self.of(outputs).sum(others, dtype=torch.float64)
        self.counts[layer] = self.counts.get(layer, 0) + outputs.numel() // channels


@torch.no_grad()
def _run(model: nn.Module, batches: Iterable[Tensor], layers: Iterable[str], tracer: _ReluTracer) -> None:
    starts: Mapping[str, Callable] = {name: _starting(tracer, name) for name in layers}
    with evaluating(model), hooked(model, starts), tracer:
        for images in batches:
            model(images)


def _starting(tracer: _ReluTracer, name: str) -> Callable:
    return lambda module, inputs, outputs: tracer.start(name, module, inputs, outputs)
