"""The smallest file of a trained network: trim, distil, prune by importance per bit, choose steps, quantize in instalments, code.

Networks are LeNet-300-100 and LeNet-5: one layer with weights after the other, with ReLU and max-pooling between them. Both are
homogeneous, f(a x) = a f(x) for a > 0, so the scale of a layer costs nothing: the file holds integers, and the biases absorb all
scales.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import surgery
from course_lib.distillation import Examples, batches, distil, loss
from course_lib.masks import weight_layers
from course_lib.storage import CodedTensor, CompressedNetwork
from course_lib.streams import stream
from course_lib.surgery.dead_neurons import remove_dead_neurons

START, END, EVERY = 0.05, 0.6, 32  # pruning: from and to which part of its training, and after how many steps
INSTALMENTS = (0.5, 0.7, 0.82, 0.9, 0.95, 0.98, 0.995, 1.0)  # shares of the weights that have a level
BIAS_LEVELS = 3  # on either side of zero
ORDERS = ("dense first", "as trained")  # of neurons and filters in the file
NO_GAPS = torch.zeros(0, dtype=torch.int32)


# 1. Trim


def trim(model: nn.Module, widths: Mapping[str, int], image: Tensor) -> nn.Module:
    """Return a narrower copy: each layer keeps the channels of the largest product of incoming and outgoing norm.

    Args:
        model: a trained LeNet; it is left as it was.
        widths: layer -> how many channels it keeps; all layers but the last.
        image: a batch that the network accepts.
    """
    found, kept = weight_layers(model), {}
    for (layer, module), reader in zip(found.items(), list(found.values())[1:], strict=False):
        incoming = module.weight.flatten(1).norm(dim=1)
        columns = reader.weight.transpose(0, 1).reshape(len(incoming), -1)  # after a flatten a channel has 16 columns in a row
        kept[layer] = (incoming * columns.norm(dim=1)).topk(widths[layer]).indices.sort().values
    narrower = surgery.narrow(model, kept, image)
    fold_biases(narrower, image)
    return narrower


@torch.no_grad()
def fold_biases(model: nn.Module, image: Tensor) -> None:
    """Move the biases of LeNet-5's convolutions into the first dense layer, in place, and keep them at zero from then on.

    This is exact: between these layers lies max-pooling only, and max(x + b) = max(x) + b.
    """
    convolutions = [module for module in weight_layers(model).values() if isinstance(module, nn.Conv2d)]
    if convolutions:
        flatten = next(place for place, module in enumerate(model) if isinstance(module, nn.Flatten))
        dense = next(module for module in model if isinstance(module, nn.Linear))
        dense.bias += dense.weight @ model[: flatten + 1](torch.zeros_like(image[:1]))[0]
        for module in convolutions:
            module.bias.zero_().requires_grad_(False)


# 2. Prune

Importance = Callable[[Tensor, Mapping[str, Tensor], Tensor], Tensor]


def per_bit(weight: Tensor, state: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Return the importance of each weight per bit of the file: w^2 v, over the bits that a weight takes in its layer.

    w^2 v estimates how much the loss grows without the weight, as v, Adam's mean squared gradient, estimates the curvature. A
    weight that is removed already has importance -1, so that it stays removed.

    Args:
        weight: of one layer.
        state: Adam's state of it; 'exp_avg_sq' is v.
        mask: 1 where a weight is left, else 0.
    """
    return (weight**2 * state["exp_avg_sq"] / bits(float(mask.mean()))).masked_fill(mask == 0, -1.0)


def prune(
    model: nn.Module, given: Examples, keep: int, *, epochs: float, seed: int, lr: float = 3e-3, importance: Importance = per_bit
) -> None:
    """Prune a network in place to `keep` weights while it is trained, those of least importance first.

    One threshold holds for all layers. How many weights are left follows a cubic schedule.
    """
    masks = {module.weight: (module.weight != 0).float() for module in weight_layers(model).values()}
    total = sum(int(mask.sum()) for mask in masks.values())
    steps = 0

    @torch.no_grad()
    def hook(optimizer: torch.optim.Adam, progress: float) -> None:
        nonlocal steps
        steps += 1
        if progress > START and steps % EVERY == 0:
            left = keep + (total - keep) * (1 - min(1, (progress - START) / (END - START))) ** 3
            _keep(masks, round(left), lambda weight, mask: importance(weight, optimizer.state[weight], mask))
        for weight, mask in masks.items():
            weight.mul_(mask)

    distil(model, given, epochs=epochs, seed=seed, lr=lr, hook=hook)


def _keep(masks: dict[nn.Parameter, Tensor], count: int, importance: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Keep the most important weights of all layers."""
    scores = [importance(weight, mask).flatten() for weight, mask in masks.items()]
    chosen = torch.cat(scores).topk(count).indices
    stays = torch.zeros(sum(map(len, scores)), device=chosen.device).index_fill(0, chosen, 1.0)
    for mask, part in zip(masks.values(), stays.split([len(values) for values in scores]), strict=True):
        mask.copy_(part.view_as(mask))


def bits(density: float) -> float:
    """Return about how many bits a weight takes in a layer where this share is not zero: its place, and two for its value."""
    p = min(max(density, 1e-6), 1 - 1e-6)
    return (-p * math.log2(p) - (1 - p) * math.log2(1 - p)) / p + 2


def without_dead(model: nn.Module, image: Tensor) -> nn.Module:
    """Return a copy without the neurons that have no inputs or no outputs left; biases of convolutions stay at zero."""
    narrower = remove_dead_neurons(model, image)
    fold_biases(narrower, image)
    return narrower


# 3. Steps


def steps(model: nn.Module, given: Examples, coarseness: float, seed: int) -> dict[nn.Parameter, float]:
    """Return the distance between two levels for each weight and bias tensor.

    Where the loss is flat the step is wide: a layer's step is proportional to the mean squared gradient of its weights to the
    power -1/2. In the layer of most weights it is `coarseness` times their mean absolute value.
    """
    found = [module.weight for module in weight_layers(model).values()]
    squares = dict.fromkeys(found, 0.0)
    for batch in batches(given, 100, seed):
        gradients = torch.autograd.grad(loss(model, *batch), found)
        for weight, gradient in zip(found, gradients, strict=True):
            squares[weight] += gradient[weight != 0].square().mean().item()
    idle = [name for name, module in weight_layers(model).items() if not squares[module.weight] > 0]
    if idle:
        raise ValueError(f"the loss does not depend on the weights of {', '.join(idle)}; prune less, or trim to fewer neurons")
    largest = max(found, key=lambda weight: int(weight.count_nonzero()))
    unit = coarseness * largest[largest != 0].abs().mean().item() * squares[largest] ** 0.5
    biases = [p for p in model.parameters() if p.dim() == 1 and p.requires_grad]
    return {w: unit / square**0.5 for w, square in squares.items()} | {b: b.abs().max().item() / BIAS_LEVELS for b in biases}


# 4. Quantize in instalments


def quantize(
    model: nn.Module,
    given: Examples,
    taken: Mapping[nn.Parameter, float],
    *,
    epochs: float,
    seed: int,
    instalments: Sequence[float] = INSTALMENTS,
    price: float = 0.1,
    lr: float = 1e-3,
) -> None:
    """Round every number of a pruned network to a level, in place and in instalments.

    The numbers nearest to a level are fixed first; the others are trained on and make up for the error, then the next are fixed.

    Args:
        model: the pruned network.
        given: what it is trained on.
        taken: the distance between two levels for each parameter, as `steps` returns it.
        epochs: of all instalments together.
        seed: of the order of the images.
        instalments: the share of the numbers that are fixed after each, in rising order; the last is 1.
        price: of a bit, in squared steps; see `nearest`.
        lr: peak of the learning rate in each instalment.
    """
    alive = {p: (p != 0) | (p.dim() == 1) for p in taken}
    fixed = {p: ~alive[p] for p in taken}
    # With a gradient of zero from the first step on, Adam leaves a number where it is
    handles = [p.register_hook(lambda gradient, still=still: gradient.masked_fill(still, 0.0)) for p, still in fixed.items()]
    for number, share in enumerate(instalments):
        for p, step in taken.items():
            _fix(p, step, alive[p], fixed[p], share, price)
        if share < 1:
            distil(model, given, epochs=epochs / (len(instalments) - 1), seed=stream(seed, "instalment", number), lr=lr)
    for handle in handles:
        handle.remove()


@torch.no_grad()
def _fix(parameter: nn.Parameter, step: float, alive: Tensor, fixed: Tensor, share: float, price: float) -> None:
    """Round a share of the numbers that are not pruned to their levels, those nearest to a level first."""
    values, before = parameter[alive], fixed[alive]
    levels = nearest(values / step, price) if parameter.dim() > 1 else (values / step).round().clamp(-BIAS_LEVELS, BIAS_LEVELS)
    distance = (values / step - levels).abs().masked_fill(before, -1)
    now = torch.zeros_like(before)
    now[distance.argsort()[: math.ceil(share * len(values))]] = True
    parameter[alive] = torch.where(now & ~before, levels * step, values)
    fixed[alive] = now | before


def nearest(values: Tensor, price: float) -> Tensor:
    """Return for each value the level k of least (value - k)^2 + price * bits of k: rare levels take more bits."""
    levels, counts = values.round().unique(return_counts=True)
    cost = price * -(counts / counts.sum()).log2()
    return levels[((values[:, None] - levels) ** 2 + cost).argmin(1)]


# 5. Code


@torch.no_grad()
def compressed(model: nn.Module, taken: Mapping[nn.Parameter, float], *, order: str = "dense first") -> CompressedNetwork:
    """Return the content of the file: integers, and one step per bias that absorbs the scales of all layers before it.

    Args:
        model: a quantized network.
        taken: the distance between two levels for each parameter.
        order: of neurons and filters, 'dense first' or 'as trained'. Sorted by density, zeros lie beside zeros, and a coder that
            predicts a weight from its neighbours needs fewer bits.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; allowed are {', '.join(map(repr, ORDERS))}")
    scale, before, tensors = 1.0, None, {}
    *hidden, last = weight_layers(model)
    for name in (*hidden, last):
        module = model.get_submodule(name)
        weight, bias = (module.weight / taken[module.weight]).round(), torch.zeros_like(module.bias)
        scale *= taken[module.weight]
        if module.bias in taken:
            bias = (module.bias / taken[module.bias]).round()
        if before is not None:
            weight = weight.unflatten(1, (len(before), -1))[:, before].flatten(1, 2)
        density = (weight != 0).flatten(1).sum(1)
        sort = order == "dense first" and name != last
        before = density.argsort(descending=True, stable=True) if sort else torch.arange(len(weight))
        tensors[f"{name}.weight"] = coded(weight[before], 1.0)
        tensors[f"{name}.bias"] = coded(bias[before], taken.get(module.bias, scale) / scale)
    return CompressedNetwork("lenet-5" if "conv1" in hidden else "lenet-300-100", tensors, "context")


def coded(levels: Tensor, step: float) -> CodedTensor:
    """Return integer levels times a step as a tensor of the file; the step is a half-precision number where that can hold it."""
    lowest, highest = min(0, int(levels.min())), max(0, int(levels.max()))
    with np.errstate(over="ignore"):
        half = np.float16(step)
    codebook = torch.arange(lowest, highest + 1).float() * np.float32(half if np.isfinite(half) else step)
    return CodedTensor(levels.shape, codebook, (levels.flatten() - lowest).int(), NO_GAPS, 0)
