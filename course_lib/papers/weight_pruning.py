"""Learning both Weights and Connections for Efficient Neural Networks: Han, Pool, Tran, Dally, NIPS 2015 (arXiv 1506.02626).

A connection whose weight is small is removed; those that stay are retrained from the values they have; and again:

    keep w_ij  where  |w_ij| > quality * std(W)                       (section 3, 'Pruning connections')

Here: the masks, the dropout rate of retraining (section 3.2), the sensitivity of the layers (section 5, figure 6), and the loop
of pruning and retraining (sections 3.3 and 3.4). L1 and L2 penalties (section 3.1) belong to the function that retrains. Dead
neurons (section 3.5) are removed by `course_lib.surgery.dead_neurons`. Biases are never pruned.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import masks, plans, training
from course_lib.data import Batches
from course_lib.freezing import frozen
from course_lib.result import Result
from course_lib.training import Retrain


def threshold_mask(weight: Tensor, quality: float) -> Tensor:
    """Return a mask that is True where |w| exceeds `quality` standard deviations of the layer's weights.

    Were they Gaussian around zero, quality 0.44, 1.13, 1.55, 1.75 would keep 66, 26, 12, 8 %.

    Args:
        weight: a layer's weights, any shape, floating point.
        quality: the paper's quality parameter, >= 0.

    Returns:
        Bool mask of the weight's shape.

    Raises:
        ValueError: `quality` negative or not a number, `weight` empty or not finite.
    """
    _check_threshold(weight, quality)
    return weight.detach().abs() > quality * weight.detach().std(correction=0)


def sparsity_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Return a mask that is False at the round(sparsity * size) weights of smallest magnitude, True elsewhere.

    The same as a threshold, chosen so that exactly this share is pruned; among equal magnitudes the first ones are.

    Args:
        weight: a layer's weights, any shape, floating point.
        sparsity: the share to prune, in [0, 1).

    Returns:
        Bool mask of the weight's shape.

    Raises:
        ValueError: `sparsity` outside [0, 1), `weight` empty or not finite.

    >>> sparsity_mask(torch.tensor([[3.0, -1.0], [0.5, -2.0]]), 0.5)
    tensor([[ True, False],
            [False,  True]])
    """
    _check_weight(weight)
    _check_sparsity(sparsity)
    smallest_first = weight.detach().abs().flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[smallest_first[: round(sparsity * weight.numel())]] = False
    return mask.view(weight.shape)


def adjusted_dropout(rate: float, kept: int, total: int) -> float:
    """Return the dropout rate for retraining a pruned layer: D_r = D_o sqrt(C_r / C_o) (section 3.2, equation 2).

    Pruning already thins the layer, so less dropout is needed against overfitting.

    Args:
        rate: D_o, the rate of the original training, in [0, 1).
        kept: C_r, connections of the layer that are left.
        total: C_o, connections that it had, inputs times outputs.

    Raises:
        ValueError: `rate` outside [0, 1), or not 0 <= kept <= total with total > 0.

    >>> adjusted_dropout(0.5, 25, 100)
    0.25
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate is {rate}; allowed is [0, 1)")
    if not (0 <= kept <= total and total > 0):
        raise ValueError(f"kept is {kept} and total {total}; expected 0 <= kept <= total and total > 0")
    return rate * (kept / total) ** 0.5


def magnitude_masks(model: nn.Module, sparsity: float | Mapping[str, float]) -> dict[str, Tensor]:
    """Return the `sparsity_mask` of several layers, by parameter name, as `course_lib.masks` takes them.

    Args:
        model: any network with dense or convolutional layers.
        sparsity: one share for every layer, or a share by layer name; layers that it does not name have no mask.

    Raises:
        ValueError: a share outside [0, 1), or an unknown layer.
    """
    return {
        f"{name}.weight".removeprefix("."): sparsity_mask(model.get_submodule(name).weight, share)
        for name, share in _shares(model, sparsity).items()
    }


def sensitivity(
    model: nn.Module, batches: Batches, sparsities: Sequence[float], layers: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Return the accuracy when one layer alone is pruned, without retraining (section 5, figure 6).

    Args:
        model: a trained network; it is left as it was.
        batches: images and labels on which the accuracy is measured. They guide a choice, so take none of the test set.
        sparsities: the shares to prune, each in [0, 1).
        layers: the layers to scan; default all dense and convolutional ones.

    Returns:
        Layer name -> accuracies in [0, 1], float64 of shape (len(sparsities),). `course_lib.plans` makes plans of them.

    Raises:
        ValueError: a share outside [0, 1), an unknown layer, or no images.
    """

    def pruned(model: nn.Module, layer: str, sparsity: float) -> nn.Module:
        model = copy.deepcopy(model)
        masks.apply(model, magnitude_masks(model, {layer: sparsity}))
        return model

    return plans.scan(model, batches, masks.weight_layers(model, layers), sparsities, pruned)


def prune(
    model: nn.Module,
    batches: Batches | None,
    sparsity: float | Mapping[str, float],
    *,
    rounds: int = 1,
    in_turns: Sequence[Sequence[str]] | None = None,
    retrain: Retrain | None = None,
    finish: Retrain | None = None,
    measure: Callable[[nn.Module], float] | None = None,
) -> Result:
    """Prune a little, retrain the survivors from their values, prune more (sections 3.3 and 3.4).

    After round t of T a layer's sparsity is s (1 - (1 - t / T)^3): much at first, little near the end (Zhu & Gupta 2017; the
    paper does not say how it spaces its rounds). Dropout after a pruned layer gets its `adjusted_dropout` before retraining;
    the result has these rates, so that whoever trains it further does so, too.

    Args:
        model: a trained network; it is left as it was.
        batches: not read, since the method looks at weights alone; it has the place that it has in every paper's loop.
        sparsity: the share to prune in the end, in [0, 1): one for all dense and convolutional layers, or by layer name.
        rounds: how often to prune; 1 prunes in one step. The paper gets further with more (figure 5).
        in_turns: groups of layers, or of modules that contain them. Each round prunes and retrains one group after the other,
            while the other groups stay exactly as they are, statistics of their batch norms included (section 3.3:
            convolutions are fixed while dense layers retrain, and the reverse). What no group names is trained in every turn.
        retrain: trains the network it is given, in place, after each pruning. Pruned weights stay exactly zero.
        finish: the same, once at the end, with nothing fixed but the pruned weights.
        measure: gives a figure of the network for the record, such as its accuracy.

    Returns:
        The network, whose pruned weights are exactly zero; and a row per round, with `in_turns` a row per group of a round, with
        `finish` a last one for it: round, weights of the layers to prune, how many are kept, and the figure of `measure` when
        they were just 'pruned' and when 'retrained'.

    Raises:
        ValueError: a sparsity outside [0, 1), rounds below 1, a name in `sparsity` or `in_turns` that is no layer of the model,
            a layer that is in two groups, or that only one of `sparsity` and `in_turns` names. Nothing is skipped in silence.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; allowed are 1 and above")
    shares = _shares(model, sparsity)
    turns = [(list(shares), [])] if in_turns is None else _turns(model, in_turns, shares)
    model = copy.deepcopy(model).eval()
    dropout = dropout_layers(model)
    survivors: dict[str, Tensor] = {}
    record: list[dict[str, Any]] = []
    calls = itertools.count(1)

    def train(how: Retrain | None, fixed: Sequence[str], number: int) -> None:
        figures = {} if measure is None else {"pruned": measure(model)}
        with frozen(model, fixed), masks.holding(model, survivors):
            training.call(how, model, next(calls))
        if measure is not None:
            figures["retrained"] = figures["pruned"] if how is None else measure(model)
        record.append(dict(round=number) | _counts(model, shares, survivors) | figures)

    for number in range(1, rounds + 1):
        progress = 1 - (1 - number / rounds) ** 3
        for layers, fixed in turns:
            survivors |= magnitude_masks(model, {name: shares[name] * progress for name in layers})  # replaces their old ones
            masks.apply(model, survivors)
            scale_dropout(dropout, survivors)
            train(retrain, fixed, number)
    if finish is not None:
        train(finish, [], rounds + 1)
    return Result(model, record)


def dropout_layers(model: nn.Module) -> dict[str, tuple[nn.Dropout, float]]:
    """Return, by parameter name of a layer, the dropout that follows it in the order of the model's modules, and its rate."""
    found, weight = {}, None
    for name, module in model.named_modules():
        if isinstance(module, masks.LAYERS):
            weight = f"{name}.weight"
        elif isinstance(module, nn.Dropout) and weight is not None:
            found[weight] = (module, module.p)
    return found


def scale_dropout(original: Mapping[str, tuple[nn.Dropout, float]], survivors: Mapping[str, Tensor]) -> None:
    """Set every dropout after a pruned layer to its `adjusted_dropout` (section 3.2), in place."""
    for name, (dropout, rate) in original.items():
        if name in survivors:
            dropout.p = adjusted_dropout(rate, int(survivors[name].sum()), survivors[name].numel())


def _shares(model: nn.Module, sparsity: float | Mapping[str, float]) -> dict[str, float]:
    """Return the share to prune of each layer, in the model's order."""
    layers = masks.weight_layers(model)
    shares = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(layers, sparsity)
    unknown = [name for name in shares if name not in layers]
    if unknown or not shares:
        named = f"names {unknown[0]!r}" if unknown else "names no layer"
        raise ValueError(f"sparsity {named}; the model's dense and convolutional layers are {', '.join(layers)}")
    for share in shares.values():
        _check_sparsity(share)
    return {name: shares[name] for name in layers if name in shares}


def _turns(model: nn.Module, groups: Sequence[Sequence[str]], shares: Mapping[str, float]) -> list[tuple[list[str], list[str]]]:
    """Return for each group the layers that are pruned with it, and the names in all other groups."""
    weighted, modules = masks.weight_layers(model), dict(model.named_modules())
    for name in itertools.chain.from_iterable(groups):
        if not name or name not in modules:
            raise ValueError(f"in_turns names {name!r}; the model's dense and convolutional layers are {', '.join(weighted)}")
        if name in weighted and name not in shares:
            raise ValueError(f"in_turns names {name!r}, for which sparsity has no share; it names {', '.join(shares)}")
    turns = [
        (
            [layer for layer in shares if any(f"{layer}.".startswith(f"{name}.") for name in group)],
            [name for other in groups if other is not group for name in other],
        )
        for group in groups
    ]
    if [] in (layers for layers, _ in turns):
        raise ValueError(f"in_turns is {groups}; each group has to name, or contain, layers of sparsity: {', '.join(shares)}")
    pruned = [layer for turn, _ in turns for layer in turn]
    for layer in shares:
        if pruned.count(layer) != 1:
            raise ValueError(f"in_turns has layer {layer!r} in {pruned.count(layer)} groups; each layer of sparsity is in one")
    return turns


def _counts(model: nn.Module, shares: Mapping[str, float], survivors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many weights the layers to be pruned have, and how many of them are kept by now."""
    weights = sum(model.get_submodule(name).weight.numel() for name in shares)
    return dict(weights=weights, kept=weights - sum(int((~mask).sum()) for mask in survivors.values()))


def _check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}; allowed is [0, 1)")


def _check_threshold(weight: Tensor, quality: float) -> None:
    _check_weight(weight)
    if not quality >= 0:
        raise ValueError(f"quality is {quality}; allowed are 0 and above")


def _check_weight(weight: Tensor) -> None:
    if weight.numel() == 0:
        raise ValueError(f"weight is empty (shape {tuple(weight.shape)}); there is nothing to prune")
    if not weight.isfinite().all():
        raise ValueError("weight holds NaN or infinity; train again before pruning")
