"""ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression: Luo, Wu, Lin, ICCV 2017 (arXiv 1707.06342).

A filter can be removed if the *next* layer's output hardly changes without its channel. At a random output of the next layer,
y = b + sum_c x_c, where x_c is the contribution of input channel c. The channels to remove are the set T of a given size with

    least  sum over samples of (sum_{c in T} x_c)^2                   (section 3.2, equation 6)

Here, in the paper's order: samples (section 3.2.1), greedy choice (3.2.2, algorithm 1), least-squares rescaling (3.2.3),
pruning (3.1); then the journal version's choice (TPAMI 41, 2019). In residual networks only layers inside a block qualify (3.3).
"""

import copy
import heapq
import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import activations, cost, surgery
from course_lib.data import Batches, batched, example
from course_lib.modes import evaluating
from course_lib.result import Result
from course_lib.streams import stream
from course_lib.surgery import keeping
from course_lib.surgery.readers import fold_scales, layers_with_one_reader, next_layer
from course_lib.training import Retrain, call

Choice = Callable[[Tensor, int], Tensor]  # (contributions (m, C), number to keep) -> ascending indices to keep


def sample_images(batches: Batches, per_class: int = 10, seed: int = 0) -> Tensor:
    """Return `per_class` images of each class, drawn without replacement in one pass (section 3.2.1).

    Every image gets a random number, and of each class the images with the least numbers are kept.

    Args:
        batches: training images and labels; the test set takes no part in a choice.
        per_class: the paper takes 10 of each of 1,000 classes; of a class that has fewer images, all are taken.
        seed: of the draw.

    Returns:
        (images, ...), class by class, where `batches` has them.

    Raises:
        ValueError: `per_class` below 1, or what `batched` refuses.
    """
    _check_number("per_class", per_class, 1)
    random, count = torch.Generator().manual_seed(seed), itertools.count()
    kept: dict[int, list] = defaultdict(list)  # label -> a heap, the greatest random number first
    for images, labels in batched(batches):
        _check_number("labels per image in batches", labels[0].numel(), 1, 1)
        keys = torch.rand(len(labels), generator=random, dtype=torch.float64)
        for key, label, image in zip((-keys).tolist(), labels.flatten().tolist(), images, strict=True):
            if len(kept[label]) < per_class:
                heapq.heappush(kept[label], (key, next(count), image.clone()))
            elif key > kept[label][0][0]:
                heapq.heapreplace(kept[label], (key, next(count), image.clone()))
    return torch.stack([image for label in sorted(kept) for *_, image in sorted(kept[label], reverse=True)])


@torch.no_grad()
def channel_contributions(model: nn.Module, layer: str, images: Tensor, *, positions: int = 10, seed: int = 0) -> Tensor:
    """Return what each output channel of `layer` contributes to random outputs of the next layer (section 3.2.1).

    A sample is a random position of a random filter of the next layer. Its row holds, for each channel, the sum over the
    kernel (after a flatten also over the channel's positions) of weight times input; the row's sum is the output without
    its bias, unless the next layer reads the channels of other layers too.

    Args:
        model: any network; computes in evaluation mode, and is left as it was.
        layer: name of a dense layer or convolution that has one `next_layer`.
        images: (N, ...), training images on the model's device.
        positions: samples per image; the paper takes 10.
        seed: of positions and filters.

    Returns:
        (N * positions, C), image by image, in the dtype of the next layer's weight.

    Raises:
        ValueError: no images, `positions` below 1, the next layer is a dense layer on tokens, or what `next_layer` refuses.
    """
    _check_number("positions", positions, 1)
    _check_number("number of images", len(images), 1)
    name, columns = next_layer(model, layer, images[:1])
    random = torch.Generator().manual_seed(stream(seed, "filters"))
    rows: list[Tensor] = []
    with evaluating(model):
        for number, batch in enumerate(images.split(100)):
            sample = activations.Sample(batch, positions, stream(seed, "positions", number))
            products = activations.watch(model, {name: partial(_sampled_products, sample, random)}, batch)[name]
            rows.append(products[:, columns.to(products.device)].sum(2))  # (N K, inputs) -> (N K, C, r) -> (N K, C)
    return torch.cat(rows)


def _sampled_products(
    sample: activations.Sample, random: torch.Generator, layer: nn.Module, inputs: Tensor, outputs: Tensor
) -> Tensor:
    """Return weight times input, summed over the kernel, at random positions of random filters of a layer: (N K, c)."""
    patches = sample.patches(layer, inputs, outputs)  # (N K, c, p); of a dense layer (N, c, 1), the same for all its K
    patches = patches.repeat_interleave(len(inputs) * sample.positions // len(patches), dim=0)
    filters = torch.randint(len(layer.weight), (len(patches),), generator=random).to(inputs.device)
    weight = layer.weight.flatten(2) if layer.weight.dim() > 2 else layer.weight[:, :, None]
    return (patches * weight[filters]).sum(2)


def greedy_removal(contributions: Tensor, remove: int) -> Tensor:
    """Return the channels to remove, in order: each step keeps the squared sum of all that are removed smallest (algorithm 1).

    With the Gram matrix G of the contributions, removing channel j as well adds G_jj + 2 sum_{t in T} G_tj. So each step adds
    one row of G to the running costs, and no step looks at the samples again.

    Args:
        contributions: (m, C), floating point; all sums are in float64.
        remove: how many, from 0 to C - 1.

    Returns:
        (remove,) int64 in the order of their removal; the first k of them are the answer for k. Of equal channels the first
        is removed.

    Raises:
        ValueError: `remove` out of its range, contributions not a matrix, empty or not finite.

    >>> greedy_removal(torch.tensor([[1.0, 3.0, -1.0], [1.0, 0.0, -2.0]]), 2)
    tensor([0, 2])
    """
    _check_number("remove", remove, 0, contributions.shape[-1] - 1)
    gram = _gram(contributions)
    increase = gram.diagonal().clone()
    removed: list[int] = []
    for _ in range(remove):
        least = int(increase.argmin())
        removed.append(least)
        increase += 2 * gram[least]
        increase[least] = torch.inf
    return torch.tensor(removed, dtype=torch.int64, device=gram.device)


def channels_to_keep(contributions: Tensor, keep: int) -> Tensor:
    """Return the channels that `greedy_removal` leaves, (keep,) int64, ascending. Errors as there, `keep` from 1 to C."""
    channels = contributions.shape[-1]
    _check_number("keep", keep, 1, channels)
    kept = torch.ones(channels, dtype=torch.bool, device=contributions.device)
    kept[greedy_removal(contributions, channels - keep)] = False
    return kept.nonzero().flatten()


def matching_pursuit(contributions: Tensor, keep: int) -> Tensor:
    """Return the channels to keep by orthogonal matching pursuit, the choice of the journal version.

    Take the channel that, times its own best factor, explains most of what is missing of the output; refit all kept channels
    together by least squares; repeat. All that it needs is the Gram matrix, which scikit-learn wants for channels of length 1.

    Args:
        contributions: (m, C), floating point; the output to explain is the sum of each row.
        keep: how many, from 1 to C.

    Returns:
        (keep,) int64, ascending. Errors as of `greedy_removal`.
    """
    from sklearn.linear_model import orthogonal_mp_gram

    _check_number("keep", keep, 1, contributions.shape[-1])
    gram = _gram(contributions).cpu().numpy()
    norms, output_norm = (np.sqrt(squares.clip(1e-300)) for squares in (gram.diagonal(), gram.sum()))
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # it stops early where nothing is left to explain
        factors = orthogonal_mp_gram(gram / np.outer(norms, norms), gram.sum(1) / norms / output_norm, n_nonzero_coefs=keep)
    kept = np.argsort(factors == 0, kind="stable")[:keep]  # then the first of the others are kept, too
    return torch.from_numpy(np.sort(kept)).to(contributions.device)


def rescale(contributions: Tensor, targets: Tensor) -> Tensor:
    """Return a factor for each kept channel, by least squares: argmin over w of |targets - contributions @ w|^2 (equation 7).

    Where that leaves a choice, as for a channel that is zero in all samples, w is the nearest to 1: no change.

    Args:
        contributions: (m, C') of the kept channels, floating point.
        targets: (m,), the outputs without their bias: the sum of all channels, the removed ones too.

    Returns:
        (C',) float64.

    Raises:
        ValueError: contributions not a matrix, empty or not finite; `targets` of another length, or not finite.
    """
    _check_targets(targets, contributions)
    missing = targets.double() - contributions.double().sum(1)
    return 1 + torch.linalg.pinv(_gram(contributions), hermitian=True) @ (contributions.double().T @ missing)


def prune_layer(
    model: nn.Module,
    layer: str,
    keep: keeping.Keep,
    images: Tensor,
    *,
    choose: Choice = channels_to_keep,
    positions: int = 10,
    seed: int = 0,
) -> nn.Module:
    """Return a copy of `model` in which `layer` has fewer filters, and the next layer is rescaled to make up for the others.

    Args:
        model: the network as it is by now, pruned and fine-tuned: its own outputs are the target.
        layer: one that has one `next_layer`.
        keep: how many of its filters stay, which share, or which indices; these are not chosen, but rescaled all the same.
        images: (N, ...), training images on the model's device, as `sample_images` draws them.
        choose: `channels_to_keep` as in the paper, or `matching_pursuit` as in its journal version.
        positions: samples per image; the paper takes 10.
        seed: of the samples.

    Raises:
        ValueError: `keep` out of its range, or what `channel_contributions` refuses.
    """
    contributions = channel_contributions(model, layer, images, positions=positions, seed=seed)
    keep = keeping.checked(keep, contributions.shape[1], layer)
    kept = choose(contributions, keep) if keeping.is_number(keep) else keep
    scales = rescale(contributions[:, kept], contributions.sum(1))
    return fold_scales(surgery.keep_channels(model, layer, kept, images[:1]), layer, scales, images[:1])


def prune(
    model: nn.Module,
    batches: Batches,
    keep: keeping.KeepByLayer,
    *,
    prune_layer: Callable[..., nn.Module] = prune_layer,
    per_class: int = 10,
    retrain: Retrain | None = None,
    finish: Retrain | None = None,
    measure: Callable[[nn.Module], float] | None = None,
    seed: int = 0,
) -> Result:
    """Prune a network layer by layer from the input on, and fine-tune it shortly after each layer (section 3.1).

    The paper keeps half of the filters, fine-tunes for one epoch after each layer, and at the end for 12.

    Args:
        model: a trained network; it is left as it was.
        batches: training images and labels; the samples are drawn from them anew for each layer.
        keep: layer -> how many, which share or which indices of its filters stay; or one number for all layers that have
            one `next_layer`. They are pruned in the model's order.
        prune_layer: called as prune_layer(model, layer, keep, images, seed=...). `functools.partial` binds other arguments of
            it: partial(prune_layer, choose=matching_pursuit, positions=20); another rule than ThiNet's can stand here too.
        per_class: images of each class for the samples; the paper takes 10.
        retrain: fine-tunes the network it is given, in place, after each layer.
        finish: fine-tunes it at the end.
        measure: gives a figure, such as the accuracy, for the record.
        seed: of the samples; each layer has random streams of its own.

    Returns:
        The pruned network, and a row for each layer: layer, kept, MACs and, with `measure`, pruned and retrained; after
        `finish` a last row without a layer.

    Raises:
        ValueError: `keep` names a layer that cannot be pruned so, or is out of its range; what `sample_images` refuses.
    """
    image = example(batches).to(next(model.parameters()).device)
    model, record = copy.deepcopy(model).eval(), []
    layers = layers_with_one_reader(model, image)
    wanted = keeping.by_layer(keep, layers)
    plan = {name: keeping.checked(wanted[name], len(model.get_submodule(name).weight), name) for name in layers if name in wanted}
    for number, layer in enumerate([*plan, None] if finish is not None else plan, start=1):
        if layer is not None:
            images = sample_images(batches, per_class, stream(seed, "layer", number)).to(image.device)
            model = prune_layer(model, layer, plan[layer], images, seed=stream(seed, "layer", number))
        kept = None if layer is None else len(model.get_submodule(layer).weight)
        row = dict(layer=layer, kept=kept, MACs=int(cost.count(model, image).MACs.sum()))
        before = {} if measure is None else {"pruned": measure(model)}
        call(retrain if layer is not None else finish, model, number)
        record.append(row | before | ({} if measure is None else {"retrained": measure(model)}))
    return Result(model, record)


def _gram(contributions: Tensor) -> Tensor:
    """(C, C) float64: the products of all pairs of channels over the samples."""
    if contributions.dim() != 2 or 0 in contributions.shape or not contributions.is_floating_point():
        found = f"{contributions.dtype} of shape {tuple(contributions.shape)}"
        raise ValueError(f"contributions are {found}; expected floating point (samples, channels), one or more of each")
    gram = contributions.new_zeros([contributions.shape[1]] * 2, dtype=torch.float64)
    for rows in contributions.detach().split(4000):  # never all of them in float64
        gram += rows.double().T @ rows.double()
    if not gram.isfinite().all():
        raise ValueError("contributions hold NaN or infinity, or numbers too large to be squared")
    return gram


def _check_number(name: str, number: int, least: int, most: int | None = None) -> None:
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name} is {number}; allowed are {least} {'and above' if most is None else f'to {most}'}")


def _check_targets(targets: Tensor, contributions: Tensor) -> None:
    if targets.shape != contributions.shape[:1] or not targets.isfinite().all():
        raise ValueError(f"targets have shape {tuple(targets.shape)}; expected ({len(contributions)},) finite numbers")
