"""ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression: Luo, Wu, Lin, ICCV 2017 (arXiv 1707.06342).

A filter may go if the *next* layer does not miss its channel. At a random output of the next layer, y = b + sum_c x_c, where
x_c is what input channel c contributes. The channels to remove are the set T of a given size with

    least  sum over samples of (sum_{c in T} x_c)^2                   (section 3.2, equation 6)

Here, in the paper's order: the samples (section 3.2.1), the greedy choice (3.2.2, algorithm 1), the least-squares rescaling
of what stays (3.2.3), the pruning of a layer and of a network (3.1). Beside the greedy choice stands that of the journal
version (IEEE TPAMI 41, 2019), which grows the set to keep. In residual networks only layers inside a block qualify (3.3).
"""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import activations, cost, surgery
from course_lib.data import Split, Splits
from course_lib.training import evaluate, fit, numbered

Choice = Callable[[Tensor, int], Tensor]  # (contributions (m, C), number to keep) -> indices to keep
PASSED_THROUGH = (nn.modules.batchnorm._BatchNorm, nn.PReLU)  # keep channels apart, as depthwise convolutions do


def sample_images(split: Split, per_class: int = 10, seed: int = 0) -> Tensor:
    """`per_class` images of each class, drawn without replacement (section 3.2.1); all of a class that has not more.

    Args:
        split: training images; the test set takes no part in a choice.
        per_class: the paper takes 10 of each of 1,000 classes.
        seed: of the draw.

    Raises:
        ValueError: `per_class` below 1.
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; allowed are 1 and above")
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed)).to(split.labels.device)
    chosen = [order[split.labels[order] == label][:per_class] for label in split.labels.unique()]
    return split.images[torch.cat(chosen)]


@torch.no_grad()
def channel_contributions(model: nn.Module, layer: str, images: Tensor, *, positions: int = 10, seed: int = 0) -> Tensor:
    """What each output channel of `layer` contributes to random outputs of the layer that reads it (section 3.2.1).

    A sample is a random position of a random filter of the next layer. Its row holds, for each channel, the sum over the
    kernel (behind a flatten also over the channel's positions) of weight times input; the row's sum is the output without
    its bias, unless the next layer reads other layers' channels too.

    Args:
        model: any network; computes in evaluation mode, and is left as it was.
        layer: name of a dense layer or convolution that `reader` accepts.
        images: (N, ...), training images on the model's device.
        positions: samples an image.
        seed: of positions and filters.

    Returns:
        (N * positions, C), image by image, in the dtype of the next layer's weight.

    Raises:
        ValueError: no images, `positions` below 1, or what `reader` refuses.
    """
    if len(images) == 0 or positions < 1:
        raise ValueError(f"images are {len(images)} and positions {positions}; expected 1 or more of each")
    name, columns = reader(model, layer, images[:1])
    columns = columns.to(images.device)
    # Filters are drawn from another stream than positions, or each would go with a place; seeds count by their low 32 bits
    generator = torch.Generator().manual_seed(2**31 + seed)
    rows: list[Tensor] = []
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        for number, batch in enumerate(images.split(100)):
            sample = activations.Sample(batch, positions, seed * 100_003 + number)
            shares = activations.watch(model, {name: partial(_shares, sample, generator)}, batch)[name]  # (N K, inputs)
            rows.append(shares[:, columns].sum(2))  # (N K, C, r) -> (N K, C)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(rows)


def _shares(sample: activations.Sample, random: torch.Generator, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
    """What each input channel of a layer contributes at random positions of random filters, (N K, c)."""
    patches = sample.patches(layer, inputs, outputs)  # (N K, c, p); of a dense layer (N, c, 1), the same for all its K
    patches = patches.repeat_interleave(len(inputs) * sample.positions // len(patches), dim=0)
    filters = torch.randint(len(layer.weight), (len(patches),), generator=random).to(inputs.device)
    weight = layer.weight.flatten(2) if layer.weight.dim() > 2 else layer.weight[:, :, None]
    return (patches * weight[filters]).sum(2)


def reader(model: nn.Module, layer: str, example_input: Tensor) -> tuple[str, Tensor]:
    """The layer that reads the channels of `layer`, and its input columns by channel, (C, r); r > 1 behind a flatten.

    Only layers qualify whose channels one layer makes and one layer reads. In a residual network these are the first of a
    two-layer block and the first two of a bottleneck, as in section 3.3: what a block adds to its shortcut stays.

    Raises:
        ValueError: the channels of `layer` are tied otherwise, and how; or what `surgery.coupling` refuses.
    """
    return _only_reader(model, layer, surgery.coupling(model, layer, example_input))


def _only_reader(model: nn.Module, layer: str, tied: surgery.Coupling) -> tuple[str, Tensor]:
    if tied.is_output or len(tied.producers) > 1 or len(tied.consumers) != 1:
        made, read = ", ".join(tied.producers), ", ".join(tied.consumers) or "no dense layer or ungrouped convolution"
        raise ValueError(
            f"layer is {layer!r}, whose channels are made by {made} and read by {read}"
            f"{', and are an output of the network' if tied.is_output else ''}; allowed is one that makes them and one that reads"
        )
    for name in tied.others:
        module = model.get_submodule(name)
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels
        if not (isinstance(module, PASSED_THROUGH) or depthwise):
            raise ValueError(
                f"layer is {layer!r}, whose channels pass {name!r}, a {type(module).__name__}, on their way; "
                "allowed there are batch norms, PReLUs and depthwise convolutions"
            )
    return next(iter(tied.consumers.items()))


def prunable_layers(model: nn.Module, example_input: Tensor) -> dict[str, str]:
    """Return the layers that `reader` and `surgery.narrow` accept, in the model's order, each with the layer that reads it."""
    couplings, found = surgery.couplings(model, example_input), {}
    for name in surgery.prunable_layers(model, example_input):
        with contextlib.suppress(ValueError):
            found[name] = _only_reader(model, name, couplings[name])[0]
    return found


def greedy_removal(contributions: Tensor, remove: int) -> Tensor:
    """Channels to remove, one by one that which adds least to the sum of squares of all removed (algorithm 1).

    With the Gram matrix G of the contributions, channel j makes the sum G_jj + 2 sum_{t in T} G_tj larger: a row of G joins
    a running cost at every step, and no step looks at the samples again.

    Args:
        contributions: (m, C), floating point; all sums are in float64.
        remove: how many, from 0 to C - 1.

    Returns:
        (remove,) int64 in the order of their removal; the first k of them are the answer for k. Of equals the first goes.

    Raises:
        ValueError: `remove` out of its range, contributions not a matrix, empty or not finite.

    >>> greedy_removal(torch.tensor([[1.0, 3.0, -1.0], [1.0, 0.0, -2.0]]), 2)
    tensor([0, 2])
    """
    gram = _gram(contributions)
    if not 0 <= remove < len(gram):
        raise ValueError(f"remove is {remove}; of {len(gram)} channels 0 to {len(gram) - 1} can go")
    increase = gram.diagonal().clone()
    removed = []
    for _ in range(remove):
        least = int(increase.argmin())
        removed.append(least)
        increase.add_(gram[least], alpha=2)
        increase[least] = torch.inf
    return torch.tensor(removed, dtype=torch.int64, device=gram.device)


def least_missed(contributions: Tensor, keep: int) -> Tensor:
    """Channels to keep, ascending: those that `greedy_removal` leaves. Arguments and errors as there, `keep` from 1 to C."""
    channels = contributions.shape[-1]
    if not 1 <= keep <= channels:
        raise ValueError(f"keep is {keep}; of {channels} channels 1 to {channels} can stay")
    stays = torch.ones(channels, dtype=torch.bool, device=contributions.device)
    stays[greedy_removal(contributions, channels - keep)] = False
    return stays.nonzero().flatten()


def matching_pursuit(contributions: Tensor, keep: int) -> Tensor:
    """Channels to keep, one by one that which, times its own best scalar, explains most of what is left of the output.

    The choice of the journal version. After each choice all kept ones are refitted by least squares. That is a step of a
    Cholesky factorisation of the Gram matrix, so again no step looks at the samples.

    Args:
        contributions: (m, C), floating point; the output to explain is the sum of each row.
        keep: how many, from 1 to C.

    Returns:
        (keep,) int64 in the order of their choice; the first k of them are the answer for k.

    Raises:
        ValueError: `keep` out of its range, contributions not a matrix, empty or not finite.
    """
    gram = _gram(contributions)
    if not 1 <= keep <= len(gram):
        raise ValueError(f"keep is {keep}; of {len(gram)} channels 1 to {len(gram)} can stay")
    own = gram.diagonal()
    unexplained = gram.sum(1)  # (C,) products of each channel with the residual
    directions = gram.new_zeros(len(gram), keep)  # products of each channel with the kept ones, made orthonormal
    free = own > 0
    kept: list[int] = []
    for k in range(keep):
        gain = torch.where(free, unexplained**2 / own, -1.0)
        gain[kept] = -2.0  # where all that are free are kept, one without a contribution follows
        best = int(gain.argmax())
        kept.append(best)
        direction = gram[best] - directions[:, :k] @ directions[best, :k]
        if direction[best] > 1e-12 * own[best]:  # else it is a combination of the kept ones and adds nothing
            directions[:, k] = direction / direction[best].sqrt()
            unexplained = unexplained - directions[:, k] * (unexplained[best] / direction[best].sqrt())
    return torch.tensor(kept, dtype=torch.int64, device=gram.device)


def rescale(contributions: Tensor, targets: Tensor) -> Tensor:
    """One factor a kept channel, by least squares: argmin over w of |targets - contributions @ w|^2 (equation 7).

    Where that leaves a choice, as for a channel that is zero in all samples, w is the nearest to 1: no change.

    Args:
        contributions: (m, C') of the kept channels, floating point.
        targets: (m,), the outputs without their bias: the sum of all channels, the removed ones too.

    Returns:
        (C',) float64.

    Raises:
        ValueError: contributions not a matrix, empty or not finite; `targets` of another length, or not finite.
    """
    if targets.shape != contributions.shape[:1] or not targets.isfinite().all():
        raise ValueError(f"targets have shape {tuple(targets.shape)}; expected ({len(contributions)},) finite numbers")
    missing = targets.double() - contributions.double().sum(1)
    products = contributions.double().T @ missing
    return 1 + torch.linalg.pinv(_gram(contributions), hermitian=True) @ products


def _gram(contributions: Tensor) -> Tensor:
    """(C, C) float64: the products of all pairs of channels over the samples."""
    if contributions.dim() != 2 or 0 in contributions.shape or not contributions.is_floating_point():
        found = f"{contributions.dtype} of shape {tuple(contributions.shape)}"
        raise ValueError(f"contributions are {found}; expected floating point (samples, channels), one or more of each")
    gram = contributions.new_zeros([contributions.shape[1]] * 2, dtype=torch.float64)
    for rows in contributions.detach().split(4000):  # never all of them in float64
        rows = rows.double()
        # Of a matrix times its own transpose numpy computes one triangle only, twice as fast
        gram += rows.T @ rows if rows.is_cuda else torch.from_numpy(np.matmul(rows.numpy().T, rows.numpy()))
    if not gram.isfinite().all():
        raise ValueError("contributions hold NaN or infinity, or numbers too large to be squared")
    return gram


@torch.no_grad()
def fold_scales(model: nn.Module, layer: str, scales: Tensor, example_input: Tensor) -> nn.Module:
    """A copy of `model` whose next layer has its weights for each channel of `layer` times that channel's scale.

    The outputs are those of a network in which the next layer's input channels are scaled. Its bias stays.

    Raises:
        ValueError: `scales` is not one number a channel, or what `reader` refuses.
    """
    name, columns = reader(model, layer, example_input)
    if scales.shape != columns.shape[:1]:
        raise ValueError(f"scales have shape {tuple(scales.shape)}; layer {layer!r} has {len(columns)} channels")
    scaled = copy.deepcopy(model)
    weight = scaled.get_submodule(name).weight
    factors = torch.ones(weight.shape[1], dtype=torch.float64, device=weight.device)
    factors[columns.to(weight.device).flatten()] = scales.to(factors).repeat_interleave(columns.shape[1])
    weight.mul_(factors.to(weight.dtype).view(1, -1, *[1] * (weight.dim() - 2)))
    return scaled


def prune_layer(
    model: nn.Module,
    layer: str,
    keep: int,
    images: Tensor,
    *,
    choose: Choice = least_missed,
    positions: int = 10,
    seed: int = 0,
) -> nn.Module:
    """A copy of `model` in which `layer` has `keep` filters, and the next layer is rescaled to miss the others least.

    Args:
        model: the network as it is by now: pruned and fine-tuned, its own outputs are the target.
        layer: one that `reader` accepts.
        keep: how many of its filters stay.
        images: (N, ...), training images on the model's device, as `sample_images` gives them.
        choose: `least_missed` as in the paper, or `matching_pursuit` as in its journal version.
        positions: samples an image.
        seed: of the samples.

    Raises:
        ValueError: what `channel_contributions` or `choose` refuses.
    """
    contributions = channel_contributions(model, layer, images, positions=positions, seed=seed)
    kept = choose(contributions, keep).sort().values
    scales = rescale(contributions[:, kept], contributions.sum(1))
    return fold_scales(surgery.keep_channels(model, layer, kept, images[:1]), layer, scales, images[:1])


class Pruned(NamedTuple):
    """What `prune_network` gives."""

    model: nn.Module
    steps: list[dict]  # a row a layer: layer, kept, MACs, accuracy pruned, accuracy tuned; the last without a layer


def prune_network(
    model: nn.Module,
    splits: Splits,
    keep: Mapping[str, int],
    *,
    prune: Callable[..., nn.Module] = prune_layer,
    per_class: int = 10,
    epochs: float = 1,
    final_epochs: int = 12,
    seed: int = 0,
    **tuning,
) -> Pruned:
    """Layer by layer from the input: prune, fine-tune shortly; at the end fine-tune for longer (section 3.1).

    Args:
        model: a trained network; it is left as it was.
        splits: `splits.train` gives the samples and is tuned on; the record's accuracies are of `splits.test`.
        keep: layer name -> how many of its filters stay. Pruned in the model's order.
        prune: called as prune(model, layer, keep, images, seed=...); another rule than ThiNet's can stand here.
        per_class: images of each class for the samples, drawn anew for every layer.
        epochs: after each layer, at a constant learning rate; below 1, that share of the training set, another each time.
        final_epochs: at the end, the rate falling to zero.
        seed: of samples and tuning.
        tuning: arguments of `course_lib.training.fit`, such as lr, augment, precision; each call has a file of its own,
            numbered, beside `resume_from`.

    Raises:
        ValueError: `keep` names an unknown layer, `epochs` negative, or what `prune` or `fit` refuses.
    """
    order = [name for name, module in model.named_modules() if name in keep and isinstance(module, surgery.CUTTABLE)]
    if len(order) < len(keep) or epochs < 0:
        raise ValueError(f"keep names {', '.join(keep)}, of which the model has {', '.join(order)}; epochs is {epochs}")
    model, example = copy.deepcopy(model).eval(), splits.test.images[:1]
    steps: list[dict] = []
    for number, name in enumerate([*order, None] if final_epochs else order, start=seed):
        if name is not None:
            model = prune(model, name, keep[name], sample_images(splits.train, per_class, number), seed=number)
        accuracy = tuned = evaluate(model, splits.test)
        if length := epochs if name is not None else final_epochs:
            how = dict(schedule="linear" if name is None else "constant", seed=number) | tuning
            _tune(model, splits, length, numbered(how, len(steps) + 1))
            tuned = evaluate(model, splits.test)
        macs = int(cost.count(model, example).MACs.sum())
        steps.append(dict(layer=name, kept=keep.get(name), MACs=macs, pruned=accuracy, tuned=tuned))
    return Pruned(model, steps)


def _tune(model: nn.Module, splits: Splits, epochs: float, how: dict) -> None:
    """Fine-tunes in place, below one epoch on a share of the training set."""
    if epochs < 1:
        few = splits.train.take(round(epochs * len(splits.train.labels)), how["seed"])
        splits, epochs = dataclasses.replace(splits, train=few), 1
    fit(model, splits, epochs=round(epochs), **how)
