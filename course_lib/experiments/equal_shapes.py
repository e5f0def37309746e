"""Plans that no method owns: how many filters each layer keeps, the same for all methods and all trained networks.

A plan follows from the architecture alone. All layers that one other layer reads keep the same share of their filters; in a
residual network these are the first layers of the blocks. Channels that shortcuts carry stay.
"""

from collections.abc import Callable

from torch import Tensor, nn

from course_lib import plans, surgery
from course_lib.experiments import rows
from course_lib.surgery.readers import layers_with_one_reader

UNIFORM, MULTIPLES = "uniform", "multiples of 8"
# (network, rate) -> filters of a layer -> how many stay. Of all such widths these have MACs within 4 % of the uniform plan's
WIDTHS_OF_8 = {
    ("vgg-small", 2): {32: 24, 64: 40, 128: 96},
    ("vgg-small", 4): {32: 16, 64: 32, 128: 64},
    ("resnet-20", 2): {16: 8, 32: 16, 64: 32},
    ("vgg-16", 2): {64: 48, 128: 88, 256: 184, 512: 360},
    ("resnet-56", 2): {16: 8, 32: 16, 64: 32},
}


def for_macs(model: nn.Module, rate: float, example_input: Tensor) -> dict[str, int]:
    """Return how many filters each layer keeps for `rate` times fewer MACs, or slightly more than that.

    Args:
        model: the network before any pruning; only its shape counts.
        rate: MACs now over MACs afterwards.
        example_input: a batch (N, ...) on the model's device.
    """
    layers = layers_with_one_reader(model, example_input)
    return plans.keep_for_speedup(model, dict.fromkeys(layers, 1.0), rate, example_input)


def in_multiples_of_8(model: nn.Module, network: str, rate: float, example_input: Tensor) -> dict[str, int]:
    """Return about as many MACs as `for_macs` has, in widths that fill the processor's vector registers."""
    widths = WIDTHS_OF_8[network, rate]
    return {layer: widths[len(model.get_submodule(layer).weight)] for layer in layers_with_one_reader(model, example_input)}


def for_bytes(model: nn.Module, rate: float, example_input: Tensor) -> dict[str, int]:
    """Return how many filters and neurons each layer keeps for a file that is `rate` times smaller.

    Arguments as for `for_macs`.
    """
    layers = {name: len(model.get_submodule(name).weight) for name in layers_with_one_reader(model, example_input)}

    def widths(share: float) -> dict[str, int]:
        return {name: max(1, round(share * width)) for name, width in layers.items()}

    def size(share: float) -> int:
        return rows.file_bytes(surgery.narrow(model, {name: range(n) for name, n in widths(share).items()}, example_input))

    return widths(nearest(size, rows.file_bytes(model) / rate))


def nearest(size: Callable[[float], int], target: float, steps: int = 14) -> float:
    """Return the number in (0, 1] for which a growing `size` comes nearest to `target`, of those that bisection tries.

    Args:
        size: called with a number; may have jumps.
        target: the wanted size.
        steps: how often the interval is halved.
    """
    tried, low, high = {1.0: size(1.0)}, 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        tried[middle] = size(middle)
        low, high = (middle, high) if tried[middle] < target else (low, middle)
    return min(tried, key=lambda knob: abs(tried[knob] - target))
