"""Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures: Hu, Peng, Tai, Tang 2016
(arXiv 1607.03250).

A neuron that is silent on nearly every image does little. It goes, the rest is retrained from the weights it has, and again:

    APoZ_c = 1 / (N M)  sum over images k and positions m of  [O_c(k, m) = 0]        (average percentage of zeros)
    neuron c goes where  APoZ_c > mean + std  of its layer

O_c is what ReLU makes of channel c; M is 1 for a dense neuron. *Above*: an APoZ near 1 is a neuron that says nothing.
Here, in the paper's order: the measure, the choice, iterative trimming; and the removal of neurons that are always silent.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_lib import surgery
from course_lib.data import Split, Splits
from course_lib.training import evaluate, fit, numbered


def apoz(model: nn.Module, split: Split, layers: Iterable[str] | None = None, batch_size: int = 500) -> dict[str, Tensor]:
    """Average percentage of zeros of each channel (section 3.1, equation 1), all layers in one pass over the images.

    A layer's zeros are counted behind the first ReLU that its channels meet. Batch norm, pooling, dropout and additions may
    lie between; where an addition ties several layers, as at the end of a residual block, all have the APoZ of the sum.
    Memory does not grow with the number of images.

    Args:
        model: any network of dense layers and convolutions, run in evaluation mode and left as it was.
        split: images (N, ...); the labels are not read. It guides a choice, so it should not be the test set.
        layers: names of dense or convolutional layers, not of their ReLUs; default all that have a ReLU after them and that
            `surgery.narrow` accepts, one of those that an addition ties together.
        batch_size: images at a time; the result does not depend on it.

    Returns:
        Layer name -> (C,), float64, in [0, 1].

    Raises:
        ValueError: an unknown layer, or one without a ReLU behind it (the message lists those that have one); `layers` or
            `split` empty, or a batch size below 1.
    """
    return mean_behind_relu(model, split, layers, lambda outputs: outputs == 0, batch_size)


def mean_behind_relu(
    model: nn.Module,
    split: Split,
    layers: Iterable[str] | None,
    of: Callable[[Tensor], Tensor],
    batch_size: int = 500,
) -> dict[str, Tensor]:
    """Mean of `of(outputs)` over images and positions, by layer and channel; the other arguments are those of `apoz`.

    `of` is an elementwise function of what comes out of a ReLU: of [O = 0] the mean is APoZ, of O itself the mean activation.
    """
    if len(split.images) == 0 or batch_size < 1:
        raise ValueError(f"split has {len(split.images)} images and batch_size is {batch_size}; both must be 1 or more")
    names = _measurable(model, split.images[:1], layers)
    watch = _Watch(of)
    _run(model, split.images.split(batch_size), {name: model.get_submodule(name) for name in names}, watch)
    return {name: watch.sums[name] / watch.counts[name] for name in names}


def _measurable(model: nn.Module, example_input: Tensor, layers: Iterable[str] | None) -> list[str]:
    found = layers_with_relu(model, example_input)
    if layers is None:
        layers = [name for name in surgery.prunable_layers(model, example_input) if name in found]
    wanted = [layers] if isinstance(layers, str) else list(layers)
    unsuitable = [name for name in wanted if name not in found]
    if unsuitable or not wanted:
        raise ValueError(
            f"layers is {wanted}; the model's dense layers and convolutions with a ReLU behind them are {', '.join(found)}"
        )
    return wanted


def neurons_to_keep(apoz_of_layer: Tensor, stds: float = 1.0) -> Tensor:
    """Indices of the neurons that stay: those whose APoZ is at most mean + `stds` standard deviations of the layer.

    So the silent ones go (section 3.2). Where mean + deviation exceeds 1, none goes; one at least always stays.

    Args:
        apoz_of_layer: (C,), in [0, 1], from `apoz`.
        stds: the paper takes 1; 0 prunes all neurons above the mean.

    Returns:
        Int64 indices, ascending.

    Raises:
        ValueError: `apoz_of_layer` is empty, not of one dimension or not in [0, 1]; `stds` is negative.

    >>> neurons_to_keep(torch.tensor([0.5, 0.6, 0.5, 1.0]))
    tensor([0, 1, 2])
    """
    shares = apoz_of_layer.double()
    if shares.dim() != 1 or len(shares) == 0 or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"apoz_of_layer is {apoz_of_layer}; expected numbers in [0, 1], one a channel, shape (C,)")
    if not stds >= 0:
        raise ValueError(f"stds is {stds}; allowed are 0 and above")
    threshold = shares.mean() + stds * shares.std(correction=0)
    return (shares <= threshold + 1e-12).nonzero().flatten()  # equal shares must not exceed their own mean by rounding


class Trimmed(NamedTuple):
    """What `iterative_trim` gives."""

    model: nn.Module
    rounds: list[dict[str, Any]]  # a row a round: apoz (mean by layer, before), widths, parameters, accuracy trimmed, retrained


def iterative_trim(
    model: nn.Module,
    splits: Splits,
    *,
    layers: Sequence[str],
    rounds: int = 4,
    stds: float = 1.0,
    epochs: int = 1,
    measured_on: Split | None = None,
    seed: int = 0,
    **retraining,
) -> Trimmed:
    """Measure APoZ, trim, retrain from the surviving weights, measure again (section 3.2, 'Iterative trimming').

    Args:
        model: a trained network; it is left as it was.
        splits: `splits.train` is retrained on, `splits.test` evaluated on for the record.
        layers: the layers to trim, a few of those with much APoZ and many parameters.
        rounds: how often to trim.
        stds: as for `neurons_to_keep`.
        epochs: of retraining after each round.
        measured_on: what APoZ is measured on; default `splits.train`.
        seed: of the retraining.
        retraining: arguments of `course_lib.training.fit`, such as lr, schedule, weight_decay, augment, precision; each call
            has a file of its own, numbered, beside `resume_from`.

    Raises:
        ValueError: rounds below 1, or what `apoz`, `surgery.narrow` or `fit` refuses.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; allowed are 1 and above")
    record: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        shares = apoz(model, measured_on or splits.train, layers)
        keep = {layer: neurons_to_keep(share, stds) for layer, share in shares.items()}
        model = surgery.narrow(model, keep, splits.train.images[:1])
        trimmed = evaluate(model, splits.test)
        fit(model, splits, epochs=epochs, seed=seed + number - 1, **numbered(retraining, number))
        record.append(
            dict(
                round=number, apoz={layer: share.mean().item() for layer, share in shares.items()},
                widths={layer: len(indices) for layer, indices in keep.items()},
                parameters=sum(p.numel() for p in model.parameters()),
                trimmed=trimmed, retrained=evaluate(model, splits.test),
            )
        )  # fmt: skip
    return Trimmed(model, record)


def remove_dead_neurons(model: nn.Module, split: Split, layers: Iterable[str] | None = None) -> nn.Module:
    """A narrower copy without the channels of which every reader sees zeros only: on these images its outputs are the same.

    Behind a ReLU that is an APoZ of 1. On other images such a channel may yet speak. Each layer keeps at least one.

    Args:
        model: any network of dense layers and 2-d convolutions; it is left as it was.
        split: images (N, ...) to watch.
        layers: names of the layers to narrow; default all that `surgery.narrow` accepts and that no layer or group norm follows,
            whose statistics a removal would change.

    Raises:
        ValueError: an unknown layer, one that such a norm follows, an empty split, or what `surgery.narrow` refuses.
    """
    if len(split.images) == 0:
        raise ValueError("split has no images; there is nothing to watch")
    example, heard = split.images[:1], _heard_inputs(model, split)
    tied = surgery.couplings(model, example)
    kept: dict[str, Tensor] = {}
    decided: set[str] = set()
    for layer in surgery.prunable_layers(model, example) if layers is None else layers:
        if layer not in tied:
            raise ValueError(f"layers names {layer!r}; the model's dense layers and 2-d convolutions are {', '.join(tied)}")
        norms = [name for name in tied[layer].others if isinstance(model.get_submodule(name), surgery.STATISTICS)]
        if norms and layers is not None:
            raise ValueError(f"layers names {layer!r}; without some of its channels {norms[0]!r} has other statistics")
        if norms or layer in decided or tied[layer].is_output or not tied[layer].consumers:
            continue
        decided |= set(tied[layer].producers)  # an addition ties them: they have the same readers
        alive = torch.stack([heard[name][columns].any(1) for name, columns in tied[layer].consumers.items()]).any(0)  # (C,)
        kept[layer] = alive.nonzero().flatten() if alive.any() else torch.tensor([0])
    return surgery.narrow(model, kept, example)


@torch.no_grad()
def _heard_inputs(model: nn.Module, split: Split, batch_size: int = 500) -> dict[str, Tensor]:
    """Dense layer or 2-d convolution -> (c,) bool on the CPU: the input channels that are ever anything but zero."""
    heard: dict[str, Tensor] = {}

    def record(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        dimension = -1 if isinstance(layer, nn.Linear) else 1
        any_here = (inputs[0] != 0).movedim(dimension, 0).flatten(1).any(1).cpu()
        heard[name] = heard[name] | any_here if name in heard else any_here

    readers = {name: module for name, module in model.named_modules() if isinstance(module, surgery.CUTTABLE)}
    hooks = [
        layer.register_forward_pre_hook(partial(record, name))
        for name, layer in readers.items()
        if getattr(layer, "groups", 1) == 1
    ]
    with _evaluating(model, hooks):
        for images in split.images.split(batch_size):
            model(images)
    return heard
