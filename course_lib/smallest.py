"""The smallest file of a trained network: trim, distil, prune by worth per bit, choose steps, quantize in instalments, code.

Networks are LeNet-300-100 and LeNet-5: layers of weights in a row, between them ReLU and max-pooling. Both are homogeneous,
f(a x) = a f(x) for a > 0, so the scale of a layer costs nothing: the file holds integers, and the biases take up all scales.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import surgery
from course_lib.data import Split
from course_lib.data.warping import warped
from course_lib.storage import CodedTensor, CompressedNetwork
from course_lib.streams import stream
from course_lib.surgery.dead_neurons import remove_dead_neurons

TEMPERATURE = 3.0  # of the teachers' probabilities
START, END, EVERY = 0.05, 0.6, 32  # pruning: from and to which part of its training, and after how many steps
BATCH = 128
INSTALMENTS = (0.5, 0.7, 0.82, 0.9, 0.95, 0.98, 0.995, 1.0)  # shares of the weights that have a level
BIAS_LEVELS = 3  # on either side of zero
NO_GAPS = torch.zeros(0, dtype=torch.int32)


# 1. What is learnt from


class Examples(NamedTuple):
    """Images, copies of them that are slightly warped, and what the teachers say of each."""

    images: Tensor  # (1 + copies, n, 1, 28, 28), the originals first
    logits: Tensor  # (1 + copies, n, 10), the mean of the teachers'
    labels: Tensor  # (n,)


@torch.no_grad()
def examples(teachers: Sequence[nn.Module], split: Split, copies: int, seed: int) -> Examples:
    """Return a split's images with `copies` warped copies of each, and the teachers' mean logits for all of them."""
    images = torch.stack([split.images, *(warped(split.images, stream(seed, "warped", copy)) for copy in range(copies))])
    parts = images.flatten(0, 1).split(1000)
    logits = torch.cat([torch.stack([teacher(part) for teacher in teachers]).mean(0) for part in parts])
    return Examples(images, logits.unflatten(0, images.shape[:2]), split.labels)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that have weights, by their names, in order."""
    return {name: module for name, module in model.named_children() if isinstance(module, nn.Conv2d | nn.Linear)}


# 2. Trim


def trim(model: nn.Module, widths: Mapping[str, int], image: Tensor) -> nn.Module:
    """Return a narrower copy: each layer keeps the channels of the largest product of incoming and outgoing norm.

    Args:
        model: a trained LeNet; it is left as it was.
        widths: layer -> how many channels it keeps; all layers but the last.
        image: a batch that the network accepts.
    """
    found, kept = layers(model), {}
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
    convolutions = [module for module in layers(model).values() if isinstance(module, nn.Conv2d)]
    if convolutions:
        flatten = next(place for place, module in enumerate(model) if isinstance(module, nn.Flatten))
        dense = next(module for module in model if isinstance(module, nn.Linear))
        dense.bias += dense.weight @ model[: flatten + 1](torch.zeros_like(image[:1]))[0]
        for module in convolutions:
            module.bias.zero_().requires_grad_(False)


# 3. Distil


def distil(
    model: nn.Module, given: Examples, *, epochs: float, seed: int, lr: float = 3e-3, hook: Callable | None = None
) -> None:
    """Train a network in place to say what its teachers say, by Adam, with one cycle of the learning rate.

    Args:
        model: the network.
        given: what it learns from.
        epochs: passes over the images; in each of them half of the images are warped copies.
        seed: decides order and copies.
        lr: peak of the learning rate.
        hook: called after each step with the optimizer and the progress in (0, 1].
    """
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    count = max(1, round(epochs * len(given.labels) / BATCH))
    model.train()
    for step, batch in enumerate(batches(given, count, seed)):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / (0.2 * count), (count - step) / (0.8 * count))
        optimizer.zero_grad()
        loss(model, *batch).backward()
        optimizer.step()
        if hook is not None:
            hook(optimizer, (step + 1) / count)
    model.eval()


def loss(model: nn.Module, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return 0.9 T^2 times the divergence from the teachers' probabilities at temperature T, and 0.1 times the cross-entropy."""
    scores = model(images)
    told, said = (logits / TEMPERATURE).softmax(1), (scores / TEMPERATURE).log_softmax(1)
    divergence = F.kl_div(said, told, reduction="batchmean")
    return 0.9 * TEMPERATURE**2 * divergence + 0.1 * F.cross_entropy(scores, labels)


def batches(given: Examples, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield `count` batches of images, logits and labels, half of the images as warped copies, each once in a pass."""
    random = torch.Generator().manual_seed(stream(seed, "order"))
    copies, images = given.logits.shape[:2]
    order = torch.cat([torch.randperm(images, generator=random) for _ in range(math.ceil(count * BATCH / images))])
    for chosen in order[: count * BATCH].split(BATCH):
        which = torch.randint(1, max(2, copies), (len(chosen),), generator=random) % copies
        which *= torch.rand(len(chosen), generator=random) < 0.5
        yield given.images[which, chosen], given.logits[which, chosen], given.labels[chosen]


# 4. Prune


def prune(model: nn.Module, given: Examples, keep: int, *, epochs: float, seed: int, lr: float = 3e-3) -> None:
    """Prune a network in place to `keep` weights while it learns: those of least worth per bit go first.

    A weight's worth is w^2 v, about what the loss gains by it: v is Adam's mean squared gradient. It is divided by the `bits`
    that the weight takes in its layer, and one threshold holds for all layers. How many are left follows a cubic schedule.
    """
    masks = {module.weight: (module.weight != 0).float() for module in layers(model).values()}
    total = sum(int(mask.sum()) for mask in masks.values())
    steps = 0

    @torch.no_grad()
    def hook(optimizer: torch.optim.Adam, progress: float) -> None:
        nonlocal steps
        steps += 1
        if progress > START and steps % EVERY == 0:
            left = keep + (total - keep) * (1 - min(1, (progress - START) / (END - START))) ** 3
            worth = [_worth(weight, optimizer.state[weight]["exp_avg_sq"], mask) for weight, mask in masks.items()]
            chosen = torch.cat(worth).topk(round(left)).indices
            stays = torch.zeros(sum(map(len, worth)), device=chosen.device).index_fill(0, chosen, 1.0)
            for mask, part in zip(masks.values(), stays.split([len(values) for values in worth]), strict=True):
                mask.copy_(part.view_as(mask))
        for weight, mask in masks.items():
            weight.mul_(mask)

    distil(model, given, epochs=epochs, seed=seed, lr=lr, hook=hook)


def _worth(weight: Tensor, square: Tensor, mask: Tensor) -> Tensor:
    """w^2 v per bit, flat; what is pruned comes after all the rest."""
    return (weight**2 * square / bits(float(mask.mean()))).masked_fill(mask == 0, -1.0).flatten()


def bits(density: float) -> float:
    """Return about how many bits a weight takes in a layer of which this share is not zero: its place, and two for its value."""
    p = min(max(density, 1e-6), 1 - 1e-6)
    return (-p * math.log2(p) - (1 - p) * math.log2(1 - p)) / p + 2


def without_dead(model: nn.Module, image: Tensor) -> nn.Module:
    """Return a copy without the neurons that nobody hears, or that hear nothing; biases of convolutions stay at zero."""
    narrower = remove_dead_neurons(model, image)
    fold_biases(narrower, image)
    return narrower


# 5. Steps


def steps(model: nn.Module, given: Examples, coarseness: float, seed: int) -> dict[nn.Parameter, float]:
    """Return the distance between two levels for each weight and bias tensor.

    Where the loss is flat the step is wide: a layer's step is proportional to the mean squared gradient of its weights to the
    power -1/2. In the layer of most weights it is `coarseness` times their mean absolute value.
    """
    found = [module.weight for module in layers(model).values()]
    squares = dict.fromkeys(found, 0.0)
    for batch in batches(given, 100, seed):
        gradients = torch.autograd.grad(loss(model, *batch), found)
        for weight, gradient in zip(found, gradients, strict=True):
            squares[weight] += gradient[weight != 0].square().mean().item()
    idle = [name for name, module in layers(model).items() if not squares[module.weight] > 0]
    if idle:
        raise ValueError(f"the loss does not depend on the weights of {', '.join(idle)}; prune less, or trim to fewer neurons")
    largest = max(found, key=lambda weight: int(weight.count_nonzero()))
    unit = coarseness * largest[largest != 0].abs().mean().item() * squares[largest] ** 0.5
    biases = [p for p in model.parameters() if p.dim() == 1 and p.requires_grad]
    return {w: unit / square**0.5 for w, square in squares.items()} | {b: b.abs().max().item() / BIAS_LEVELS for b in biases}


# 6. Quantize in instalments


def quantize(
    model: nn.Module, given: Examples, coarseness: float, *, epochs: float, seed: int, price: float = 0.1, lr: float = 1e-3
) -> dict[nn.Parameter, float]:
    """Put every number of a pruned network on a level, in place, in instalments, and return the steps.

    The numbers nearest to a level are fixed there; the others learn on and make up for it, and then the next ones are fixed.
    """
    taken = steps(model, given, coarseness, seed)
    alive = {p: (p != 0) | (p.dim() == 1) for p in taken}
    fixed = {p: ~alive[p] for p in taken}
    # With a gradient of zero from the first step on, Adam leaves a number where it is
    handles = [p.register_hook(lambda gradient, still=still: gradient.masked_fill(still, 0.0)) for p, still in fixed.items()]
    for number, share in enumerate(INSTALMENTS):
        for p, step in taken.items():
            _fix(p, step, alive[p], fixed[p], share, price)
        if share < 1:
            distil(model, given, epochs=epochs / (len(INSTALMENTS) - 1), seed=stream(seed, "instalment", number), lr=lr)
    for handle in handles:
        handle.remove()
    return taken


@torch.no_grad()
def _fix(parameter: nn.Parameter, step: float, alive: Tensor, fixed: Tensor, share: float, price: float) -> None:
    """Put a share of the numbers that are alive on their levels, those first that are nearest to one."""
    values, before = parameter[alive], fixed[alive]
    levels = nearest(values / step, price) if parameter.dim() > 1 else (values / step).round().clamp(-BIAS_LEVELS, BIAS_LEVELS)
    distance = (values / step - levels).abs().masked_fill(before, -1)
    now = torch.zeros_like(before)
    now[distance.argsort()[: math.ceil(share * len(values))]] = True
    parameter[alive] = torch.where(now & ~before, levels * step, values)
    fixed[alive] = now | before


def nearest(values: Tensor, price: float) -> Tensor:
    """Return for each value the level k of least (value - k)^2 + price * bits of k: a rare level costs more than a common one."""
    levels, counts = values.round().unique(return_counts=True)
    cost = price * -(counts / counts.sum()).log2()
    return levels[((values[:, None] - levels) ** 2 + cost).argmin(1)]


# 7. Code


@torch.no_grad()
def compressed(model: nn.Module, taken: Mapping[nn.Parameter, float]) -> CompressedNetwork:
    """Return the content of the file: integers, and for the biases a step each that takes up the scales of all layers before.

    Neurons and filters are sorted, the densest first: the coder then finds ones beside ones and zeros beside zeros.
    """
    scale, order, tensors = 1.0, None, {}
    *hidden, last = layers(model)
    for name in (*hidden, last):
        module = model.get_submodule(name)
        weight, bias = (module.weight / taken[module.weight]).round(), torch.zeros_like(module.bias)
        scale *= taken[module.weight]
        if module.bias in taken:
            bias = (module.bias / taken[module.bias]).round()
        if order is not None:
            weight = weight.unflatten(1, (len(order), -1))[:, order].flatten(1, 2)
        order = (weight != 0).flatten(1).sum(1).argsort(descending=True, stable=True) if name != last else range(len(weight))
        tensors[f"{name}.weight"] = _coded(weight[order], 1.0)
        tensors[f"{name}.bias"] = _coded(bias[order], taken.get(module.bias, scale) / scale)
    return CompressedNetwork("lenet-5" if "conv1" in hidden else "lenet-300-100", tensors, "context")


def _coded(levels: Tensor, step: float) -> CodedTensor:
    lowest, highest = min(0, int(levels.min())), max(0, int(levels.max()))
    with np.errstate(over="ignore"):
        half = np.float16(step)
    codebook = torch.arange(lowest, highest + 1).float() * np.float32(half if np.isfinite(half) else step)
    return CodedTensor(levels.shape, codebook, (levels.flatten() - lowest).int(), NO_GAPS, 0)
