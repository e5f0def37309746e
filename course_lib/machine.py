"""What this machine can do, what a layer asks of it, and which of the two limits it meets: the roofline model.

    seconds  >=  max(MACs / rate, bytes / bandwidth),      MACs per second  <=  min(rate, intensity * bandwidth)

with intensity = MACs / bytes (Williams, Waterman, Patterson 2009, who count FLOPs: two per MAC). Both limits are measured, so
they are the best that was seen, and `Roof.raised` takes in whatever turns out to be faster. Everything is measured on the
processor, also where there is a GPU, and by default on one thread: the load of other programs disturbs that least. A time is
the shortest of several, since nothing makes a program faster than the machine allows.
"""

import copy
import time
import timeit
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import cost

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
SIZES = (256, 512, 1024)  # of the matrices whose product is timed: small ones may stay in a cache, large ones keep a kernel busy
FLOAT = 4  # bytes
OTHER = 2**26, 2**29  # bytes, at least and at most, of the data that empties the caches
FINE = time.get_clock_info("thread_time").resolution < 1e-6  # on Windows it counts in steps of milliseconds


class Roof(NamedTuple):
    """The two limits of a machine."""

    rate: float  # MACs a second, float32
    bandwidth: float  # bytes a second read from main memory

    @property
    def ridge(self) -> float:
        """MACs per byte from which on arithmetic is the limit, not memory."""
        return self.rate / self.bandwidth

    def reachable(self, intensity: float) -> float:
        """The most MACs per second at `intensity` MACs per byte."""
        return min(self.rate, intensity * self.bandwidth)

    def raised(self, layers: pd.DataFrame, seconds: pd.Series) -> "Roof":
        """Return this roof, raised where a measured layer lies above it, for one image.

        Args:
            layers: as `traffic` returns them.
            seconds: measured, of some or all of the layers.
        """
        layers = layers.loc[seconds.index]
        rate, bandwidth = (layers.MACs / seconds).max(), (bytes_moved(layers) / seconds).max()
        return Roof(max(self.rate, rate), max(self.bandwidth, bandwidth))


def cache_sizes(folder: Path = CACHES) -> dict[str, int]:
    """Bytes of the first processor's caches by level, 'L1' for data, as Linux tells them; empty where it does not.

    Args:
        folder: with a folder `index0`, `index1`... for each cache.
    """
    sizes = {}
    for cache in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((cache / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes[f"L{int(level)}"] = int(size[:-1]) * UNITS[size[-1]]
        except (OSError, ValueError, KeyError, IndexError):  # a virtual machine may hide some of it
            continue
    return sizes


def best_seconds(run: Callable[[], object], *, seconds: float = 0.1, threads: int = 1, cold: bool = False) -> float:
    """The shortest time of `run`, warmed up, of three repeats and of as many more as go into about `seconds`.

    On one thread it is this thread's own time, where the system tells it finely enough: what other programs take while it
    waits for its turn is not in it. What they take of the caches and of the bandwidth is.

    Args:
        run: what to time, called without arguments under `torch.inference_mode`.
        seconds: of measuring.
        threads: of torch while measuring; afterwards the number is what it was.
        cold: whether the caches are filled with other data before every repeat, as the other layers of a network do it.

    Raises:
        ValueError: `threads` is below 1.
    """
    _check(threads=threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        timer = time.thread_time if threads == 1 and FINE else time.perf_counter
        repeat = partial(timeit.repeat, run, number=1, timer=timer)
        with torch.inference_mode():
            run()
            setup = _other_data().sum if cold else "pass"  # read only: what was written would have to be written back later
            times = repeat(setup, repeat=3)
            more = min(int(200 * seconds) if cold else 1000, int(seconds / min(times)))  # the other data takes its time, too
            return min(times + repeat(setup, repeat=more))
    finally:
        torch.set_num_threads(before)


def _other_data() -> Tensor:
    """More than the last cache holds, as far as that is known; of a server's, which others use too, not much more."""
    least, most = OTHER
    return torch.ones(min(max(least, 2 * max(cache_sizes().values(), default=0)), most) // FLOAT)


def multiply_rate(size: int, **timing) -> float:
    """Return the MACs per second of the product of two `size` x `size` matrices, float32; `timing` goes to `best_seconds`.

    Raises:
        ValueError: `size` is below 1.
    """
    _check(size=size)
    a, b, out = torch.ones(3, size, size)
    return size**3 / best_seconds(partial(torch.mm, a, b, out=out), **timing)


def read_rate(size: int, **timing) -> float:
    """Return the bytes per second at which an array of `size` bytes is summed up, repeatedly; `timing` goes to `best_seconds`.

    An array that fits into a cache is read from there, a longer one from main memory. An addition is cheap enough not to be
    the limit. Short arrays are summed several times in one measurement, or the call would be what is measured.

    Raises:
        ValueError: `size` is below 4, one number.
    """
    _check(least=FLOAT, size=size)
    times = max(1, 2**20 // size)
    array = torch.ones(1, size // FLOAT).expand(times, -1)
    return times * size / best_seconds(lambda: array.sum(1), **timing)


def roof(*, seconds: float = 0.2, threads: int = 1) -> Roof:
    """Measure the two limits: the best product of several sizes, and reading far more than the caches hold."""
    rate = max(multiply_rate(size, seconds=seconds, threads=threads) for size in SIZES)
    return Roof(rate, read_rate(2 * _other_data().nbytes, seconds=seconds, threads=threads))


def traffic(model: nn.Module, example_input: Tensor) -> pd.DataFrame:
    """What one image asks of a machine, by dense or convolutional layer, in the model's order.

    Only shapes are needed: a model built under `torch.device("meta")`, with an input there, takes no memory and no time.

    Args:
        model: any network that calls each of its layers once; it is left as it was, in its mode.
        example_input: a batch (N, ...) on the model's device.

    Returns:
        One row per layer: kind ('dense' or 'convolution'), weights (how many, no biases), inputs and outputs (how many
        activations an image), MACs.

    Raises:
        ValueError: the model runs no dense or convolutional layer, or `example_input` is no batch.
    """
    if example_input.dim() < 2 or len(example_input) == 0:
        raise ValueError(f"example_input has the shape {tuple(example_input.shape)}; expected (N, ...) with N of 1 or more")
    shapes = _shapes(model, example_input)
    if not shapes:
        raise ValueError(f"model is a {type(model).__name__} without dense or convolutional layers that run")
    counts = cost.count(model, example_input).loc[list(shapes)]
    kinds = ["dense" if isinstance(model.get_submodule(name), nn.Linear) else "convolution" for name in shapes]
    inputs, outputs = zip(*((ins[1:].numel(), outs[1:].numel()) for ins, outs in shapes.values()), strict=True)
    return pd.DataFrame(dict(kind=kinds, weights=counts.weights, inputs=inputs, outputs=outputs, MACs=counts.MACs))


def bytes_moved(layers: pd.DataFrame, batch: int = 1, bits: float = 32) -> pd.Series:
    """Return the bytes that each layer moves for a batch: weights once, of `bits` each; inputs and outputs for every image.

    Raises:
        ValueError: `batch` or `bits` is below 1.
    """
    _check(batch=batch, bits=bits)
    return layers.weights * bits / 8 + FLOAT * batch * (layers.inputs + layers.outputs)


def intensity(layers: pd.DataFrame, batch: int = 1, bits: float = 32) -> pd.Series:
    """Return the MACs per byte of each layer of `traffic`; about a quarter of the batch for a large dense layer."""
    return batch * layers.MACs / bytes_moved(layers, batch, bits)


def least_seconds(layers: pd.DataFrame, roof: Roof, batch: int = 1, bits: float = 32) -> pd.Series:
    """Return each layer's seconds for a batch at the roof: the longer of computing and moving bytes."""
    return np.maximum(batch * layers.MACs / roof.rate, bytes_moved(layers, batch, bits) / roof.bandwidth)


def call_seconds(**timing) -> float:
    """Seconds of a call of a layer with a single weight: all that is left is the call; `timing` goes to `best_seconds`."""
    return best_seconds(partial(nn.Linear(1, 1), torch.ones(1, 1)), **timing)


def weights_rate(side: int, **timing) -> float:
    """Return the bytes of weights read per second in a dense layer from `side` to `side` neurons, for one image, again and again.

    A layer that fits into a cache finds its weights there. `timing` goes to `best_seconds`.

    Raises:
        ValueError: `side` is below 1.
    """
    _check(side=side)
    layer, image = nn.Linear(side, side, bias=False), torch.ones(1, side)
    return FLOAT * side**2 / best_seconds(partial(layer, image), **timing)


def layer_seconds(
    model: nn.Module,
    example_input: Tensor,
    names: Iterable[str],
    batch: int = 1,
    layout: torch.memory_format = torch.contiguous_format,
    **timing,
) -> pd.Series:
    """Measured seconds of single layers for a batch, from cold caches, each with weights and inputs of its shape, one at a time.

    Args:
        model: as for `traffic`, best on the meta device: a layer's weights are made when it is measured and dropped afterwards.
        example_input: an image (1, ...) on the model's device.
        names: of the layers to measure.
        batch: of images.
        layout: of the inputs and weights of convolutions in memory; `torch.channels_last` puts the channels of a place together.
        timing: arguments of `best_seconds`.

    Raises:
        ValueError: a name that is none of a dense or convolutional layer of the model, or a batch below 1.
    """
    _check(batch=batch)
    shapes = _shapes(model, example_input)
    measured = {}
    for name in names:
        if name not in shapes:
            raise ValueError(f"names has {name!r}; dense and convolutional layers are {', '.join(shapes)}")
        layer = copy.deepcopy(model.get_submodule(name)).to_empty(device="cpu")
        for parameter in layer.parameters():
            nn.init.constant_(parameter, 0.01)  # pages that were never written are no memory yet
        images = torch.full((batch, *shapes[name][0][1:]), 0.5)
        if images.dim() == 4:
            layer, images = layer.to(memory_format=layout), images.to(memory_format=layout)
        measured[name] = best_seconds(partial(layer, images), cold=True, **timing)
    return pd.Series(measured)


@torch.no_grad()
def _shapes(model: nn.Module, example_input: Tensor) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Dense or convolutional layer -> (shape of its input, of its output), in the model's order."""
    seen: dict[str, tuple[torch.Size, torch.Size]] = {}

    def record(name: str, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = inputs[0].shape, output.shape

    layers = [name for name, module in model.named_modules() if isinstance(module, cost.LAYERS)]
    hooks = [model.get_submodule(name).register_forward_hook(partial(record, name)) for name in layers]
    try:
        model(example_input)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: seen[name] for name in layers if name in seen}


def _check(least: int = 1, **given: float) -> None:
    for name, value in given.items():
        if value < least:
            raise ValueError(f"{name} is {value}; allowed are {least} and above")
