"""Pruning Filters for Efficient ConvNets: Li, Kadav, Durdanovic, Samet, Graf, ICLR 2017 (arXiv 1608.08710).

A filter whose weights are small makes a feature map that matters little. It is taken out whole, with its map and the kernels
that read it, so that what is left is an ordinary, narrower network:

    s_j = sum |W_j|        the L1 norm of filter j (section 3.1); in each layer the filters of smallest norm go

Here, in the paper's order: the norms, the choice within a layer and across layers, independent or greedy (sections 3.1, 3.3),
with the rule for residual blocks; sensitivity of the layers (section 3.2); pruning at once or in rounds, with retraining
(section 3.4); and the criteria by feature maps that the paper compares with (section 4.4).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import surgery
from course_lib.data import Split, Splits
from course_lib.training import evaluate, fit, numbered

STRATEGIES = ("independent", "greedy")
SIDES = (28, 32, 224)  # of images tried where no example input is given


def filter_norms(weight: Tensor, p: float = 1) -> Tensor:
    """s_j = sum |W_j|, or for p = 2 the root of the sum of squares: one number a filter (section 3.1).

    Args:
        weight: (n, c, h, w) filters of a convolution, or (n, c) of a dense layer.
        p: of the norm, above 0; the paper sees no noticeable difference between 1 and 2.

    Returns:
        (n,), in the weight's dtype.

    Raises:
        ValueError: `weight` has fewer than two dimensions or is empty, or `p` is not above 0.

    >>> filter_norms(torch.tensor([[3.0, -4.0], [1.0, 1.0]]))
    tensor([7., 2.])
    """
    if weight.dim() < 2 or weight.numel() == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected (n, c, ...) and not empty")
    if not p > 0:
        raise ValueError(f"p is {p}; allowed is above 0")
    return weight.detach().flatten(1).norm(p, dim=1)


def strongest(scores: Tensor, share: float) -> Tensor:
    """Indices of what stays when `share` of the filters go, those of the smallest scores: floor(n (1 - share)), at least one.

    Args:
        scores: (n,), any criterion; among equal scores the first filters stay.
        share: of filters to prune, in [0, 1).

    Returns:
        int64 indices in ascending order.

    Raises:
        ValueError: `share` outside [0, 1), or `scores` not of shape (n,).

    >>> strongest(torch.tensor([7.0, 2.0, 5.0, 9.0]), 0.5)
    tensor([0, 3])
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is {share}; allowed is [0, 1)")
    if scores.dim() != 1 or len(scores) == 0:
        raise ValueError(f"scores has shape {tuple(scores.shape)}; expected (n,), one score a filter")
    count = max(1, math.floor(len(scores) * (1 - share) + 1e-9))  # 10 * (1 - 0.9) is a hair below 1
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def select_filters(
    model: nn.Module,
    plan: Mapping[str, float],
    strategy: str = "independent",
    *,
    p: float = 1,
    example_input: Tensor | None = None,
) -> dict[str, Tensor]:
    """The filters that stay in each layer, by norm (sections 3.1 and 3.3).

    'independent' ranks a layer's filters as they are. 'greedy' goes through the network from input to output and leaves the
    kernels that read a map pruned before out of the sum. Where a sum ties several layers, the 1x1 convolution of the
    projection shortcut ranks for all of them; maps that pass an identity shortcut only stay whole, as in the paper.

    Args:
        model: a network of dense layers and 2-d convolutions.
        plan: layer name -> share of its filters to prune, in [0, 1).
        strategy: 'independent' or 'greedy'.
        p: of the norm.
        example_input: a batch (N, ...) on the model's device; default an image of 28, 32 or 224 pixels, the first that fits.

    Returns:
        Layer name -> int64 indices of the kept filters, ascending: what `surgery.narrow` takes.

    Raises:
        ValueError: an unknown strategy, an empty plan, a share outside [0, 1), a layer that is unknown, makes the output, or
            whose maps pass identity shortcuts only, two layers of one sum, or no image that fits.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; allowed are {', '.join(STRATEGIES)}")
    if not plan:
        raise ValueError("plan is empty; expected layer name -> share of its filters to prune")
    example_input = _an_image(model) if example_input is None else example_input
    tied, inputs = surgery.couplings(model, example_input), _inputs_in_order(model, example_input)
    judges = {layer: _judge(layer, tied, inputs, model) for layer in plan}
    _check_one_a_sum(plan, tied)
    unread: dict[str, list[int]] = {}  # layer -> its inputs that have been pruned
    kept = {}
    # a sum is there as soon as the first of its layers has computed
    for layer in sorted(plan, key=lambda layer: min(map(list(inputs).index, tied[layer].producers))):
        weight = model.get_submodule(judges[layer]).weight.detach()
        if strategy == "greedy" and judges[layer] in unread:
            gone_inputs = torch.tensor(unread[judges[layer]], dtype=torch.int64, device=weight.device)
            weight = weight.index_fill(1, gone_inputs, 0)
        kept[layer] = strongest(filter_norms(weight, p), plan[layer])
        gone = torch.ones(len(weight), dtype=torch.bool).index_fill(0, kept[layer].cpu(), False)
        for reader, columns in tied[layer].consumers.items():
            unread[reader] = unread.get(reader, []) + columns[gone].flatten().tolist()
    return {layer: kept[layer] for layer in plan}


def prunable_layers(model: nn.Module, example_input: Tensor | None = None) -> list[str]:
    """Return the layers that `select_filters` and `surgery.narrow` take, in order of computation: one of those a sum ties.

    In a residual network these are the first layers of the blocks, and the projection shortcut of each stage.
    """
    example_input = _an_image(model) if example_input is None else example_input
    tied, inputs = surgery.couplings(model, example_input), _inputs_in_order(model, example_input)
    possible = set(surgery.prunable_layers(model, example_input))
    found: dict[str, None] = {}
    for layer in (name for name in inputs if name in tied and possible & {name, *tied[name].producers}):
        try:
            found[_judge(layer, tied, inputs, model)] = None
        except ValueError:  # the output, or maps that stay whole
            continue
    return list(found)


def sensitivity(
    model: nn.Module, split: Split, shares: Sequence[float], layers: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Accuracy when one layer alone loses its smallest filters, without retraining (section 3.2, figure 2b).

    Args:
        model: a trained network; it is left as it was.
        split: what the accuracy is measured on. It guides a choice, so it should not be the test set.
        shares: of filters to prune, each in [0, 1).
        layers: names; default all of `prunable_layers`.

    Returns:
        Layer name -> accuracies in [0, 1], float64 of shape (len(shares),).
    """
    example_input = split.images[:1]
    layers = prunable_layers(model, example_input) if layers is None else list(layers)
    return {
        layer: torch.tensor([evaluate(pruned(model, {layer: share}, example_input), split) for share in shares]).double()
        for layer in layers
    }


def pruned(
    model: nn.Module, plan: Mapping[str, float], example_input: Tensor, strategy: str = "independent", *, p: float = 1
) -> nn.Module:
    """The narrower network, not yet retrained: `select_filters`, then `surgery.narrow`. Arguments as there."""
    kept = select_filters(model, plan, strategy, p=p, example_input=example_input)
    return surgery.narrow(model, kept, example_input)


class Pruned(NamedTuple):
    """What `prune_and_retrain` gives."""

    model: nn.Module
    rounds: list[dict[str, float]]  # a row a round: filters left, accuracy pruned, accuracy retrained


def prune_and_retrain(
    model: nn.Module,
    splits: Splits,
    plan: Mapping[str, float],
    *,
    strategy: str = "independent",
    rounds: int = 1,
    epochs: int = 10,
    seed: int = 0,
    **retraining,
) -> Pruned:
    """Prunes all layers of a plan at once and retrains, or a part in every round (section 3.4).

    After round t of T a layer of n filters has lost t / T of those that the plan takes from it; norms are measured anew.

    Args:
        model: a trained network; it is left as it was.
        splits: `splits.train` is retrained on; `splits.test` is evaluated on for the record.
        plan: layer name -> share of its filters to prune in all, in [0, 1).
        strategy: as for `select_filters`.
        rounds: 1 is the paper's one-shot pruning.
        epochs: of retraining, after every round.
        seed: of the retraining.
        retraining: arguments of `course_lib.training.fit`, such as lr, schedule, augment, precision; each round has a file of
            its own, numbered, beside `resume_from`.

    Raises:
        ValueError: rounds below 1, or what `select_filters` and `fit` refuse.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; allowed are 1 and above")
    example_input = splits.train.images[:1]
    select_filters(model, plan, strategy, example_input=example_input)  # refuses a bad plan before any training
    widths = {layer: len(model.get_submodule(layer).weight) for layer in plan}
    record: list[dict[str, float]] = []
    for number in range(1, rounds + 1):
        # as a share of what the layer has now; a filter's worth of rounding is `strongest`'s
        now = {
            layer: 1 - widths[layer] * (1 - share * number / rounds) / len(model.get_submodule(layer).weight)
            for layer, share in plan.items()
        }
        model = pruned(model, {layer: max(0.0, share) for layer, share in now.items()}, example_input, strategy)
        before = evaluate(model, splits.test)
        fit(model, splits, epochs=epochs, seed=seed + number - 1, **numbered(retraining, number))
        left = sum(len(model.get_submodule(layer).weight) for layer in plan) / sum(widths.values())
        record.append(dict(round=number, filters_left=left, pruned=before, retrained=evaluate(model, splits.test)))
    return Pruned(model, record)


CRITERIA = ("mean", "mean std", "mean L1", "mean L2", "variance of L2")


@torch.no_grad()
def feature_map_scores(
    model: nn.Module, split: Split, layers: Iterable[str], batch_size: int = 500
) -> dict[str, dict[str, Tensor]]:
    """Scores of filters by the maps they make, before batch norm and ReLU, averaged over images (section 4.4).

    Of each map its mean, standard deviation, L1 and L2 norm are taken over the positions and averaged over the images; the
    last criterion is the variance of the L2 norm over the images.

    Args:
        model: in evaluation mode, on the device of the split.
        split: the images that are run through; batch by batch, so memory does not grow with their number.
        layers: names of 2-d convolutions.
        batch_size: images at a time.

    Returns:
        Layer name -> criterion of CRITERIA -> (n,) float64.

    Raises:
        ValueError: `layers` names something that is not a 2-d convolution of the model.
    """
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    for layer in (layers := list(layers)):
        if layer not in convolutions:
            raise ValueError(f"layers names {layer!r}; the model's 2-d convolutions are {', '.join(convolutions)}")
    sums: dict[str, Tensor] = {}

    def add(layer: str, output: Tensor) -> None:
        maps = output.double().flatten(2)  # (N, n, positions)
        of_map = [maps.mean(2), maps.std(2, correction=0), maps.abs().sum(2), maps.norm(dim=2), maps.square().sum(2)]
        sums[layer] = sums.get(layer, 0) + torch.stack(of_map).sum(1)  # (5, n)

    with _outputs(convolutions, layers, add):
        for images in split.images.split(batch_size):
            model(images)
    scores = {}
    for layer in layers:
        mean, std, l1, l2, square = sums[layer] / len(split.images)
        scores[layer] = dict(zip(CRITERIA, (mean, std, l1, l2, square - l2.square()), strict=True))
    return scores


@contextmanager
def _outputs(modules: Mapping[str, nn.Module], layers: Iterable[str], add) -> Iterator[None]:
    """Calls `add(layer, output)` whenever one of the layers has computed."""
    hooks = [modules[name].register_forward_hook(lambda _m, _i, output, name=name: add(name, output)) for name in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _judge(layer: str, tied: Mapping[str, surgery.Coupling], inputs: Mapping[str, Tensor], model: nn.Module) -> str:
    """The layer whose norms rank the channels of `layer`: itself, or the projection shortcut among those a sum ties to it."""
    if layer not in tied:
        raise ValueError(f"plan names {layer!r}; the model's layers that make channels are {', '.join(tied)}")
    if tied[layer].is_output:
        raise ValueError(f"plan names {layer!r}, which makes the network's output; its channels are the classes")
    producers = sorted(tied[layer].producers, key=list(inputs).index)
    if producers == [layer]:
        return layer
    for name in producers:
        if _projects(name, tied, inputs, model):
            return name
    raise ValueError(
        f"plan names {layer!r}, whose maps are added to those of {', '.join(p for p in producers if p != layer)} through "
        "identity shortcuts; no projection selects among them, so they stay whole"
    )


def _projects(name: str, tied: Mapping[str, surgery.Coupling], inputs: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Whether a layer is a projection: a 1x1 convolution that reads what the first layer of its block reads too."""
    if getattr(model.get_submodule(name), "kernel_size", None) != (1, 1):
        return False
    same_tensor = any(other != name and inputs[other] is inputs[name] for other in inputs)
    return same_tensor or any(name in found.consumers and len(found.consumers) > 1 for found in tied.values())


def _check_one_a_sum(plan: Mapping[str, float], tied: Mapping[str, surgery.Coupling]) -> None:
    owner: dict[str, str] = {}
    for layer in plan:
        for producer in tied[layer].producers:
            if owner.setdefault(producer, layer) != layer:
                raise ValueError(f"plan names {owner[producer]!r} and {layer!r}, which make the same sum; name one of them")


@torch.no_grad()
def _inputs_in_order(model: nn.Module, example_input: Tensor) -> dict[str, Tensor]:
    """Layer name -> the tensor that it reads, in the order of computation."""
    seen: dict[str, Tensor] = {}
    names = {module: name for name, module in model.named_modules() if isinstance(module, surgery.CUTTABLE)}

    def note(module: nn.Module, read: tuple[Tensor, ...]) -> None:
        seen[names[module]] = read[0]

    hooks = [module.register_forward_pre_hook(note) for module in names]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()(example_input)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return seen


@torch.no_grad()
def _an_image(model: nn.Module) -> Tensor:
    """An image that the model accepts, to trace it with; which size does not matter to the result."""
    first = next((module for module in model.modules() if isinstance(module, surgery.CUTTABLE)), None)
    weight = first.weight if first is not None else torch.empty(0)
    channels = getattr(first, "in_channels", 1)
    for side in SIDES:
        image = torch.zeros(1, channels, side, side, dtype=weight.dtype, device=weight.device)
        try:
            _inputs_in_order(model, image)
        except RuntimeError:
            continue
        return image
    raise ValueError(
        f"example_input is None, and the model takes no image of {channels} x {SIDES} pixels; give it one of its inputs"
    )
