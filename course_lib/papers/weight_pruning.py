"""Learning both Weights and Connections for Efficient Neural Networks: Han, Pool, Tran, Dally, NIPS 2015 (arXiv 1506.02626).

A connection whose weight is small is taken out; those that stay are retrained from the values they have; and again:

    keep w_ij  where  |w_ij| > quality * std(W)                       (section 3, 'Pruning connections')

Here, in the paper's order: the masks, the dropout rate of retraining (section 3.2), sensitivity of the layers (section 5,
figure 6), iterative pruning (section 3.4) and the removal of dead neurons (section 3.5). L1 and L2 penalties (section 3.1)
and frozen layers (section 3.3) are arguments of `course_lib.training.fit`. Biases are never pruned.
"""

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import surgery
from course_lib.data import Splits
from course_lib.training import evaluate, fit, numbered

PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def threshold_mask(weight: Tensor, quality: float) -> Tensor:
    """True where |w| exceeds `quality` standard deviations of the layer's weights.

    Were they Gaussian around zero, quality 0.44, 1.13, 1.55, 1.75 would keep 66, 26, 12, 8 %.

    Args:
        weight: a layer's weights, any shape, floating point.
        quality: the paper's quality parameter, >= 0.

    Returns:
        Bool mask of the weight's shape.

    Raises:
        ValueError: `quality` negative or not a number, `weight` empty or not finite.
    """
    _check_weight(weight)
    if not quality >= 0:
        raise ValueError(f"quality is {quality}; allowed are 0 and above")
    return weight.detach().abs() > quality * weight.detach().std(correction=0)


def sparsity_mask(weight: Tensor, sparsity: float) -> Tensor:
    """False at the round(sparsity * size) weights of smallest magnitude, True elsewhere.

    The same as a threshold, chosen so that exactly this share goes; among equal magnitudes the first ones go.

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
    """The dropout rate for retraining a pruned layer: D_r = D_o sqrt(C_r / C_o) (section 3.2, equation 2).

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
    """`sparsity_mask` for several layers, keyed by parameter name as `course_lib.training.fit` takes them.

    Args:
        model: any network with dense or convolutional layers.
        sparsity: one share for every layer, or a share by layer name; layers that it does not name are left out.
    """
    layers = prunable_layers(model, sparsity if isinstance(sparsity, Mapping) else None)
    shares = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(layers, sparsity)
    return {f"{name}.weight": sparsity_mask(layer.weight, shares[name]) for name, layer in layers.items()}


class Pruned(NamedTuple):
    """What `iterative_prune` gives."""

    model: nn.Module  # pruned weights are exactly zero
    masks: dict[str, Tensor]  # parameter name -> bool mask
    rounds: list[dict[str, float]]  # a row a round: share of weights kept, accuracy pruned, accuracy retrained


def iterative_prune(
    model: nn.Module,
    splits: Splits,
    *,
    sparsity: float | Mapping[str, float],
    rounds: int = 10,
    epochs: int = 1,
    final_epochs: int = 5,
    in_turns: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
    **retraining,
) -> Pruned:
    """Prune a little, retrain the survivors, prune more (section 3.4); survivors keep their values (section 3.3).

    After round t of T a layer's sparsity is s_T (1 - (1 - t / T)^3): much at first, little near the end (Zhu & Gupta 2017;
    the paper does not say how it spaces its rounds). One round is pruning in one step.

    Args:
        model: a trained network; it is left as it was.
        splits: `splits.train` is retrained on; both splits are evaluated on for the record.
        sparsity: final share to prune, one for every layer or by layer name, in [0, 1).
        rounds: how often to prune.
        epochs: of retraining after each round, at a constant learning rate.
        final_epochs: of retraining at the end, with the rate falling to zero.
        in_turns: groups of layer names; each round prunes and retrains one group after the other, the other groups frozen
            (section 3.3: convolutions stay fixed while dense layers retrain, and the reverse).
        seed: of the retraining.
        retraining: arguments of `course_lib.training.fit`, such as lr, l1, weight_decay, augment, batch_size; each call has a
            file of its own, numbered, beside `resume_from`.

    Raises:
        ValueError: a sparsity outside [0, 1), rounds below 1, a group that names an unknown layer, or what `fit` refuses.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; allowed are 1 and above")
    model = copy.deepcopy(model)
    final = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(prunable_layers(model), sparsity)
    for share in final.values():
        _check_sparsity(share)
    groups = in_turns or [list(final)]
    prunable_layers(model, [name for group in groups for name in group])  # names the unknown ones
    original_dropout = dropout_layers(model)
    masks: dict[str, Tensor] = {}
    record: list[dict[str, float]] = []
    calls = itertools.count(1)

    def retrain(epochs: int, frozen: Sequence[str], schedule: str) -> None:
        scale_dropout(original_dropout, masks)
        settings = dict(epochs=epochs, masks=masks, frozen=frozen, schedule=schedule, seed=seed + len(record))
        fit(model, splits, **settings, **numbered(retraining, next(calls)))

    for number in range(1, rounds + 1):
        progress = 1 - (1 - number / rounds) ** 3
        for group in groups:
            masks |= magnitude_masks(model, {name: final[name] * progress for name in group if name in final})
            apply_masks(model, masks)
            pruned = evaluate(model, splits.test)
            frozen = [name for other in groups if other is not group for name in other]
            if epochs:
                retrain(epochs, frozen, "constant")
        kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        record.append(dict(round=number, kept=kept, pruned=pruned, retrained=evaluate(model, splits.test)))
    if final_epochs:
        retrain(final_epochs, [], "linear")
        record.append(dict(round=rounds + 1, kept=kept, pruned=record[-1]["retrained"], retrained=evaluate(model, splits.test)))
    return Pruned(model, masks, record)


def remove_dead_neurons(model: nn.Module, example_input: Tensor) -> nn.Module:
    """A narrower copy without dead neurons and channels, with the same outputs (section 3.5).

    One is dead when nothing reads it (all its outgoing weights are zero) or when it reads nothing (all incoming ones are).
    The second kind still says a constant, act(bias), which moves into the biases of its readers first. Where that cannot be
    exact, because a reader pads with zeros or has no bias, the neuron stays. Each layer keeps at least one, and layers that
    `surgery.narrow` does not accept keep all.

    Args:
        model: a pruned network of dense layers and 2-d convolutions, without batch statistics of its own (evaluation mode).
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: the model cannot be traced.
    """
    layers = surgery.prunable_layers(model, example_input)
    modes = [module.training for module in model.modules()]
    model = copy.deepcopy(model).eval()
    found = True
    while found:  # a neuron that goes may take the last reader of another one with it
        found = False
        for name in layers:
            keep = _alive(model, name, example_input)
            if len(keep) < len(model.get_submodule(name).weight):
                model, found = surgery.keep_channels(model, name, keep, example_input), True
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return model


@torch.no_grad()
def _alive(model: nn.Module, name: str, example_input: Tensor) -> list[int]:
    """Output channels of a layer that must stay; the constants of the others are folded into `model`'s biases."""
    everything = list(range(len(model.get_submodule(name).weight)))
    tied = surgery.coupling(model, name, example_input)
    norms = all(isinstance(model.get_submodule(other), nn.modules.batchnorm._BatchNorm) for other in tied.others)
    if tied.is_output or not tied.consumers or not norms:
        return everything
    reads_nothing = torch.stack([_is_zero(model.get_submodule(p).weight) for p in tied.producers]).all(0)
    readers = {reader: model.get_submodule(reader) for reader in tied.consumers}
    unread = torch.stack([_is_zero(_outgoing(readers[r].weight, columns)) for r, columns in tied.consumers.items()]).all(0)
    constants = _constants(model, example_input, tied.consumers) if (reads_nothing & ~unread).any() else {}
    for reader, (low, high) in constants.items():
        exact = readers[reader].bias is not None and not any(_padding(readers[reader]))
        reads_nothing &= (low == high).all(1) & ((low == 0).all(1) | exact)
    dead = unread | reads_nothing
    if dead.all():
        dead[0] = False
    for reader, (value, _) in constants.items():
        folded = (reads_nothing & dead)[:, None] * value  # (C, r)
        if folded.any():
            weights = _outgoing(readers[reader].weight, tied.consumers[reader])  # (C, n, r, ...)
            readers[reader].bias += torch.einsum("cnr...,cr->n", weights, folded)
    return (~dead).nonzero().flatten().tolist()


def _is_zero(weight: Tensor) -> Tensor:
    """(C, ...) -> (C,): whether all entries of a channel are zero."""
    return (weight == 0).flatten(1).all(1)


def _outgoing(weight: Tensor, columns: Tensor) -> Tensor:
    """A reader's weight (n, c, ...) by the channels that it reads: (C, n, r, ...) for columns (C, r)."""
    return weight[:, columns.to(weight.device)].movedim(1, 0)


def _padding(reader: nn.Module) -> tuple[int, ...]:
    padding = getattr(reader, "padding", 0)
    return (1,) if padding == "same" else (0,) if padding == "valid" else padding if isinstance(padding, tuple) else (padding,)


def _constants(model: nn.Module, example_input: Tensor, consumers: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """What each reader sees of each channel: the least and the greatest value over images and positions, (C, r) each."""
    seen = {}

    def record(reader: str):
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            columns = consumers[reader].to(inputs[0].device)
            channels = -1 if isinstance(model.get_submodule(reader), nn.Linear) else 1
            values = inputs[0].movedim(channels, 0).flatten(1)[columns]  # (C, r, images and positions)
            seen[reader] = values.amin(2), values.amax(2)

        return hook

    hooks = [model.get_submodule(reader).register_forward_pre_hook(record(reader)) for reader in consumers]
    try:
        model(example_input)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def dropout_layers(model: nn.Module) -> dict[str, tuple[nn.Dropout, float]]:
    """Parameter name of a layer -> (the dropout behind it, its rate), in the order in which the model registers them."""
    found, weight = {}, None
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE):
            weight = f"{name}.weight"
        elif isinstance(module, nn.Dropout) and weight is not None:
            found[weight] = (module, module.p)
    return found


def scale_dropout(original: Mapping[str, tuple[nn.Dropout, float]], masks: Mapping[str, Tensor]) -> None:
    """Sets every dropout behind a pruned layer to its `adjusted_dropout` (section 3.2)."""
    for name, (dropout, rate) in original.items():
        if name in masks:
            dropout.p = adjusted_dropout(rate, int(masks[name].sum()), masks[name].numel())


def _check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}; allowed is [0, 1)")


def _check_weight(weight: Tensor) -> None:
    if weight.numel() == 0:
        raise ValueError(f"weight is empty (shape {tuple(weight.shape)}); there is nothing to prune")
    if not weight.isfinite().all():
        raise ValueError("weight holds NaN or infinity; train again before pruning")
