"""Pruning Filters for Efficient ConvNets: Li, Kadav, Durdanovic, Samet, Graf, ICLR 2017 (arXiv 1608.08710).

A filter with small weights, next to the other filters of its layer, computes a feature map with small values. It is removed
together with that map and with the kernels of the next layer that read it; what is left is an ordinary, narrower network:

    s_j = sum |W_j|        the L1 norm of filter j (section 3.1); in each layer the filters with the smallest norms are removed

Here, in the paper's order: the norms; the choice within a layer and across layers, independent or greedy (sections 3.1, 3.3);
the sensitivity of each layer (section 3.2); pruning at once or in rounds, with retraining (section 3.4); and the feature map
criteria that the paper compares with (section 4.4). Residual shortcuts are followed by `course_lib.surgery.shortcuts`.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from course_lib import activations, cost, plans, surgery, training
from course_lib.data import Batches, batched
from course_lib.modes import evaluating
from course_lib.result import Result
from course_lib.surgery import examples, keeping
from course_lib.surgery.keeping import KeepByLayer, strongest
from course_lib.surgery.shortcuts import Shortcuts

STRATEGIES = ("independent", "greedy")


def filter_norms(weight: Tensor, p: float = 1) -> Tensor:
    """Return s_j = sum |W_j| of each filter, or for p = 2 the root of the sum of squares (section 3.1).

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
    _check_norm(weight, p)
    return weight.detach().flatten(1).norm(p, dim=1)


def greedy_norms(weight: Tensor, pruned_inputs: Sequence[int], p: float = 1) -> Tensor:
    """Return the norm of each filter without the kernels that read feature maps pruned before (section 3.3, 'greedy').

    Args:
        weight: (n, c, h, w) or (n, c), as for `filter_norms`.
        pruned_inputs: indices of the input channels that have been pruned.
        p: of the norm.

    Returns:
        (n,), in the weight's dtype.

    >>> greedy_norms(torch.tensor([[3.0, -4.0], [1.0, 1.0]]), [1])
    tensor([3., 1.])
    """
    columns = torch.tensor(pruned_inputs, dtype=torch.int64, device=weight.device)
    return filter_norms(weight.detach().index_fill(1, columns, 0), p)


def select_filters(
    model: nn.Module,
    keep: KeepByLayer,
    strategy: str = "independent",
    *,
    p: float = 1,
    example_input: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the kept filter indices of each layer, smallest norm removed first (sections 3.1 and 3.3).

    'independent' ranks each layer's filters by `filter_norms`; 'greedy' by `greedy_norms`, from the network's input to its
    output. Where an addition ties several layers, the filters of the projection shortcut rank the channels of all of them;
    channels that pass identity shortcuts only all stay, as in the paper.

    Args:
        model: a network of dense layers and 2-d convolutions.
        keep: layer name -> how many of its filters stay, which share, or which; or one number for all of `prunable_layers`.
        strategy: 'independent', the paper's default, or 'greedy'.
        p: of the norm.
        example_input: a batch (N, ...) on the model's device; default an image that the model accepts.

    Returns:
        Layer name -> ascending int64 indices of the kept filters, as `surgery.narrow` takes them.

    Raises:
        ValueError: an unknown strategy; `keep` empty, out of its range, or naming a layer that is unknown, that computes the
            network's output or whose channels pass identity shortcuts only, or two layers of one sum; no image fits.
    """
    _check_strategy(strategy)
    example_input = examples.example_input(model) if example_input is None else example_input
    shortcuts = Shortcuts(model, example_input)
    keep = keeping.by_layer(keep, shortcuts.layers() if isinstance(keep, Mapping) else prunable_layers(model, example_input))
    kept: dict[str, Tensor] = {}
    pruned_inputs: dict[str, list[int]] = {}  # layer -> its input channels that have been pruned
    for layer in shortcuts.in_order(keep):
        ranking = shortcuts.ranking_layer(layer)
        weight, without = model.get_submodule(ranking).weight, pruned_inputs.get(ranking, [])
        norms = greedy_norms(weight, without, p) if strategy == "greedy" else filter_norms(weight, p)
        kept[layer] = strongest(norms, keep[layer], layer)
        removed = torch.ones(len(norms), dtype=torch.bool).index_fill(0, kept[layer].cpu(), False)
        for reader, columns in shortcuts.columns_reading(layer, removed).items():
            pruned_inputs.setdefault(reader, []).extend(columns)
    return {layer: kept[layer] for layer in keep}


def prunable_layers(model: nn.Module, example_input: Tensor | None = None) -> list[str]:
    """Return the layers that `select_filters` and `surgery.narrow` accept, in order of computation, one of each sum.

    In a residual network these are the first layers of the blocks, and the projection shortcut of each stage.

    Args:
        model: any network; it is left as it was.
        example_input: a batch (N, ...) on the model's device; default an image that the model accepts.
    """
    example_input = examples.example_input(model) if example_input is None else example_input
    shortcuts, accepted = Shortcuts(model, example_input), set(surgery.prunable_layers(model, example_input))
    found: dict[str, None] = {}
    for layer in shortcuts.layers():
        if accepted & {layer, *shortcuts.couplings[layer].producers}:
            with contextlib.suppress(ValueError):  # channels that pass identity shortcuts only
                found[shortcuts.ranking_layer(layer)] = None
    return list(found)


def sensitivity(
    model: nn.Module, batches: Batches, shares: Sequence[float], layers: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Return the accuracy when one layer alone loses its smallest filters, without retraining (section 3.2, figure 2b).

    Args:
        model: a trained network; it is left as it was.
        batches: what the accuracy is measured on. It guides a choice, so it should not be the test set.
        shares: of filters to prune, as in the paper's figure, each in [0, 1).
        layers: names; default all of `prunable_layers`.

    Returns:
        Layer name -> accuracies in [0, 1], float64 of shape (len(shares),).
    """
    layers = prunable_layers(model, examples.first_image(model, batches)) if layers is None else layers

    def pruned(model: nn.Module, layer: str, share: float) -> nn.Module:
        return prune(model, batches, {layer: 1.0 - share}).model

    return plans.scan(model, batches, layers, shares, pruned)


def prune(
    model: nn.Module,
    batches: Batches | None,
    keep: KeepByLayer,
    *,
    strategy: str = "independent",
    p: float = 1,
    rounds: int = 1,
    retrain: training.Retrain | None = None,
    measure: Callable[[nn.Module], float] | None = None,
) -> Result:
    """Return the network without its smallest filters, pruned in all layers at once and retrained, or in rounds (section 3.4).

    After round t of T a layer has lost t / T of the filters that it is to lose; each round measures the norms anew.

    Args:
        model: a trained network; it is left as it was.
        batches: only the first image is read, to trace the network; None takes an image that the model accepts.
        keep: layer name -> how many of its filters stay in the end, which share, or (with one round) which; or one number for
            all of `prunable_layers`.
        strategy: 'independent' or 'greedy', as for `select_filters`.
        p: of the norm.
        rounds: 1 is the paper's one-shot pruning.
        retrain: called as retrain(network) after each round; the paper retrains a quarter of the original epochs at a constant
            learning rate of 0.001. None: no retraining.
        measure: called as measure(network) after pruning and after retraining, for the record.

    Returns:
        The result; its record has a row per round: round, kept (filters by layer), parameters, MACs, and, with `measure`, pruned
        and retrained.

    Raises:
        ValueError: rounds below 1, or what `select_filters` and `surgery.narrow` refuse; all of it before any training.
    """
    _check_rounds(rounds)
    example_input, record = examples.first_image(model, batches), []
    every = [name for name, module in model.named_modules() if isinstance(module, surgery.CUTTABLE)]
    keep = keeping.by_layer(keep, every if isinstance(keep, Mapping) else prunable_layers(model, example_input))
    widths = {layer: len(model.get_submodule(layer).weight) for layer in keep}
    for number in range(1, rounds + 1):
        now = {layer: keeping.after_round(keep[layer], widths[layer], number, rounds, layer) for layer in keep}
        kept = select_filters(model, now, strategy, p=p, example_input=example_input)
        model = surgery.narrow(model, kept, example_input).eval()
        counts = cost.count(model, example_input)
        row = dict(
            round=number, kept={layer: len(indices) for layer, indices in kept.items()},
            parameters=sum(parameter.numel() for parameter in model.parameters()), MACs=int(counts.MACs.sum()),
        )  # fmt: skip
        row |= {} if measure is None else dict(pruned=measure(model))
        training.call(retrain, model, number)
        row |= {} if measure is None else dict(retrained=measure(model))
        record.append(row)
    return Result(model, record)


CRITERIA = ("mean", "mean std", "mean L1", "mean L2", "variance of L2")


@torch.no_grad()
def feature_map_scores(
    model: nn.Module, batches: Batches, layers: Iterable[str], batch_size: int = 500
) -> dict[str, dict[str, Tensor]]:
    """Return scores of filters by the feature maps they compute, before batch norm and ReLU (section 4.4).

    Of each map its mean, standard deviation, L1 and L2 norm are taken over the positions and averaged over the images; the
    last criterion is the variance of the L2 norm over the images.

    Args:
        model: any network, run in evaluation mode and left as it was.
        batches: the images that are run through, batch by batch, so that memory does not grow with their number.
        layers: names of 2-d convolutions.
        batch_size: images at a time, of a split.

    Returns:
        Layer name -> criterion of CRITERIA -> (n,) float64.

    Raises:
        ValueError: `layers` names something that is not a 2-d convolution of the model, or batches without images.
    """
    layers, device = _check_convolutions(model, layers), next(model.parameters()).device
    sums: dict[str, Tensor] = dict.fromkeys(layers, 0)
    seen = 0

    def add(layer: str, _module: nn.Module, _inputs: Tensor, outputs: Tensor) -> None:
        maps = outputs.double().flatten(2)  # (N, n, positions)
        of_map = [maps.mean(2), maps.std(2, correction=0), maps.abs().sum(2), maps.norm(dim=2), maps.square().sum(2)]
        sums[layer] = sums[layer] + torch.stack(of_map).sum(1)  # (5, n)

    with evaluating(model), activations.hooked(model, {layer: partial(add, layer) for layer in layers}):
        for images, _ in batched(batches, batch_size, device):
            model(images)
            seen += len(images)
    scores = {}
    for layer in layers:
        mean, std, l1, l2, square = sums[layer] / seen
        scores[layer] = dict(zip(CRITERIA, (mean, std, l1, l2, square - l2.square()), strict=True))
    return scores


def _check_strategy(strategy: str) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; allowed are {', '.join(STRATEGIES)}")


def _check_norm(weight: Tensor, p: float) -> None:
    if weight.dim() < 2 or weight.numel() == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected (n, c, ...) and not empty")
    if not p > 0:
        raise ValueError(f"p is {p}; allowed is above 0")


def _check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; allowed are 1 and above")


def _check_convolutions(model: nn.Module, layers: Iterable[str]) -> list[str]:
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for layer in (layers := list(layers)):
        if layer not in convolutions:
            raise ValueError(f"layers names {layer!r}; the model's 2-d convolutions are {', '.join(convolutions)}")
    return layers
