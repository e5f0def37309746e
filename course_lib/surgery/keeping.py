"""`keep`: how many channels of a layer stay, which share of them, or which ones; one word for all methods."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

Keep = int | float | Sequence[int] | Tensor  # how many, which share (a float in (0, 1]), or which indices
KeepByLayer = int | float | Mapping[str, Keep]  # one number for all layers, or by layer name


def by_layer(keep: KeepByLayer, layers: Iterable[str]) -> dict[str, Keep]:
    """Return `keep` by layer name: a mapping as it is, one number for each of `layers`.

    Raises:
        ValueError: `keep` is an empty mapping, or names something that is not one of `layers`; there are no layers.
    """
    layers = list(layers)
    if not isinstance(keep, Mapping):
        if not layers:
            raise ValueError("keep is one number for all layers, and the model has none that can lose channels")
        return dict.fromkeys(layers, keep)
    unknown = [name for name in keep if name not in layers]
    if unknown or not keep:
        found = f"names {unknown[0]!r}" if unknown else "is empty"
        raise ValueError(f"keep {found}; the layers that can lose channels are {', '.join(layers) or 'none'}")
    return dict(keep)


def count(keep: int | float, channels: int, layer: str) -> int:
    """Return how many of a layer's channels stay: an integer as it is, of a share the whole channels in it, at least one.

    Raises:
        ValueError: an integer that is not from 1 to `channels`, or a share outside (0, 1].

    >>> count(5, 16, "conv1"), count(0.5, 16, "conv1"), count(0.9, 10, "conv1")
    (5, 8, 9)
    """
    if isinstance(keep, Integral) and not isinstance(keep, bool) and 1 <= keep <= channels:
        return int(keep)
    if isinstance(keep, Real) and not isinstance(keep, Integral) and 0 < keep <= 1:
        return max(1, math.floor(channels * keep + 1e-9))  # 10 * 0.9 may be a hair below 9
    raise ValueError(f"keep is {keep!r} for layer {layer!r}; allowed are 1 to {channels} channels, a share in (0, 1], or indices")


def after_round(keep: Keep, channels: int, number: int, rounds: int, layer: str) -> Keep:
    """Return what stays of a layer after round `number` of `rounds`: of all it is to lose it has lost number / rounds by then.

    Args:
        keep: what stays in the end: how many, a share, or, where there is one round only, indices.
        channels: of the layer before the first round.
        number: of the round, from 1 on.
        rounds: how many there are.
        layer: a name for the message.

    Raises:
        ValueError: as `count`; or indices and more than one round.

    >>> [after_round(0.4, 10, number, 3, "conv1") for number in (1, 2, 3)]
    [8, 6, 4]
    """
    if not is_number(keep):
        if rounds > 1:
            raise ValueError(f"keep is indices for layer {layer!r}, and rounds is {rounds}; allowed are numbers, or one round")
        return keep
    last = count(keep, channels, layer)
    share = last / channels if isinstance(keep, Integral) else keep
    return count(1 - (1 - share) * number / rounds, channels, layer)


def indices(keep: Sequence[int] | Tensor, channels: int, layer: str) -> Tensor:
    """Return `keep` as ascending int64 indices on the CPU.

    Raises:
        ValueError: not different integers from 0 to `channels` - 1, or none.
    """
    chosen = torch.as_tensor(keep).cpu()
    whole = chosen.dim() == 1 and not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    found = sorted(chosen.tolist()) if whole else []
    if not found or len(set(found)) < len(found) or not (found[0] >= 0 and found[-1] < channels):
        raise ValueError(
            f"keep is {chosen.tolist()} for layer {layer!r}; expected different integers from 0 to {channels - 1}, at least one"
        )
    return torch.tensor(found)


def checked(keep: Keep, channels: int, layer: str) -> int | Tensor:
    """Return how many channels stay where `keep` says how many or which share, else the indices of those that do.

    Raises:
        ValueError: as `count` and `indices`.
    """
    return count(keep, channels, layer) if is_number(keep) else indices(keep, channels, layer)


def is_number(keep: Keep) -> bool:
    """Whether `keep` says how many or which share, rather than which."""
    return isinstance(keep, Real)


def strongest(scores: Tensor, keep: Keep, layer: str = "") -> Tensor:
    """Return the indices that stay: those of the greatest scores, or, where `keep` says which, those.

    Args:
        scores: (n,), any criterion; among equal scores the first channels stay.
        keep: how many, a share in (0, 1], or indices.
        layer: a name for the message.

    Returns:
        int64 indices in ascending order.

    Raises:
        ValueError: `keep` out of its range, or scores that are not of shape (n,) or hold NaN.

    >>> strongest(torch.tensor([7.0, 2.0, 5.0, 9.0]), 0.5)
    tensor([0, 3])
    """
    if scores.dim() != 1 or len(scores) == 0 or scores.isnan().any():
        raise ValueError(f"scores of layer {layer!r} have shape {tuple(scores.shape)}; expected (n,), one number a channel")
    if not is_number(keep):
        return indices(keep, len(scores), layer)
    return scores.argsort(descending=True, stable=True)[: count(keep, len(scores), layer)].sort().values
