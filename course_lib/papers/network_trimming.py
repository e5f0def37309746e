"""Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures: Hu, Peng, Tai, Tang 2016
(arXiv 1607.03250).

A neuron that is zero on nearly every image contributes little. It is removed, the rest is retrained from the weights it has, and
so on:

    APoZ_c = 1 / (N M)  sum over images k and positions m of  [O_c(k, m) = 0]        (average percentage of zeros)
    neuron c is removed where  APoZ_c > mean + std  of its layer

O_c is the output of channel c after its ReLU; M is 1 for a dense neuron. *Above*: an APoZ near 1 is that of a neuron that is
almost always zero. Here, in the paper's order: the measure, the choice, and trimming in rounds.
"""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from course_lib import surgery, training
from course_lib.activations.relus import layers_with_relu, mean_after_relu
from course_lib.data import Batches
from course_lib.result import Result
from course_lib.surgery import examples, keeping
from course_lib.surgery.keeping import KeepByLayer, strongest


def apoz(model: nn.Module, batches: Batches, layers: Iterable[str] | None = None, batch_size: int = 500) -> dict[str, Tensor]:
    """Return the average percentage of zeros of each channel (section 3.1, equation 1), all layers in one pass over the images.

    A layer's zeros are counted after the first ReLU that its channels meet. Batch norm, pooling, dropout and additions may lie
    between; where an addition ties several layers, as at the end of a residual block, all have the APoZ of the sum.
    Memory does not grow with the number of images.

    Args:
        model: any network of dense layers and convolutions, run in evaluation mode and left as it was.
        batches: a split, a DataLoader or a list of (images, labels); the labels are not read. It guides a choice, so it should
            not be the test set. The paper takes a validation set of 50,000 images.
        layers: names of dense or convolutional layers, not of their ReLUs; default all that have a ReLU after them and that
            `surgery.narrow` accepts, one of those that an addition ties together.
        batch_size: images at a time, of a split; the result does not depend on it.

    Returns:
        Layer name -> (C,), float64, in [0, 1].

    Raises:
        ValueError: an unknown layer, or one without a ReLU after it (the message lists those that have one); `layers` or
            `batches` empty, or a batch size below 1.
    """
    layers = _measurable(model, examples.first_image(model, batches), layers)
    return mean_after_relu(model, batches, layers, lambda outputs: outputs == 0, batch_size)


def neurons_to_keep(apoz_of_layer: Tensor, stds: float = 1.0) -> Tensor:
    """Return the indices of the neurons whose APoZ is at most mean + `stds` standard deviations of the layer (section 3.2).

    So the neurons that are zero most often are removed. Where mean + deviation exceeds 1, none is; at least one always stays.

    Args:
        apoz_of_layer: (C,), in [0, 1], from `apoz`.
        stds: the paper takes 1; 0 prunes all neurons above the mean.

    Returns:
        int64 indices, ascending.

    Raises:
        ValueError: `apoz_of_layer` is empty, not of one dimension or not in [0, 1]; `stds` is negative.

    >>> import torch
    >>> neurons_to_keep(torch.tensor([0.5, 0.6, 0.5, 1.0]))
    tensor([0, 1, 2])
    """
    _check_shares(apoz_of_layer, stds)
    shares = apoz_of_layer.double()
    threshold = shares.mean() + stds * shares.std(correction=0)
    return (shares <= threshold + 1e-12).nonzero().flatten()  # equal shares must not exceed their own mean by rounding


def prune(
    model: nn.Module,
    batches: Batches,
    *,
    layers: Iterable[str] | None = None,
    keep: KeepByLayer | None = None,
    stds: float = 1.0,
    rounds: int = 1,
    retrain: training.Retrain | None = None,
    measure: Callable[[nn.Module], float] | None = None,
) -> Result:
    """Return the trimmed network: measure APoZ, trim, retrain from the surviving weights, and again (section 3.2, 'iterative').

    Args:
        model: a trained network; it is left as it was.
        batches: what APoZ is measured on, anew in each round; not the test set.
        layers: the layers to trim; the paper takes a few, those with a high mean APoZ and many parameters. Default those of
            `keep` if it names any, else those of `apoz`.
        keep: None is the paper's rule, `neurons_to_keep`; else how many neurons or which share of them stay in the end, those
            with the smallest APoZ: one number for all layers, or by layer name. With several rounds each removes as many.
        stds: as for `neurons_to_keep`; read only where `keep` is None.
        rounds: how often to trim.
        retrain: called as retrain(network) after each round. None: no retraining, which the paper advises against.
        measure: called as measure(network) after trimming and after retraining, for the record.

    Returns:
        The result; its record has a row per round: round, apoz (mean by layer, before trimming), kept (neurons by layer),
        parameters, and, with `measure`, pruned and retrained.

    Raises:
        ValueError: rounds below 1, or what `apoz` and `surgery.narrow` refuse, or `keep` out of its range; all of it before any
            training.
    """
    _check_rounds(rounds)
    example_input, record = examples.first_image(model, batches), []
    named = keep if layers is None and isinstance(keep, Mapping) else layers
    widths = {layer: len(model.get_submodule(layer).weight) for layer in _measurable(model, example_input, named)}
    keep = None if keep is None else keeping.by_layer(keep, widths)
    layers = list(widths if keep is None else keep)
    for number in range(1, rounds + 1):
        zeros = apoz(model, batches, layers)
        if keep is None:
            kept = {layer: neurons_to_keep(zeros[layer], stds) for layer in layers}
        else:
            now = {layer: keeping.after_round(keep[layer], widths[layer], number, rounds, layer) for layer in layers}
            kept = {layer: strongest(-zeros[layer], now[layer], layer) for layer in layers}
        model = surgery.narrow(model, kept, example_input).eval()
        row = dict(
            round=number, apoz={layer: share.mean().item() for layer, share in zeros.items()},
            kept={layer: len(indices) for layer, indices in kept.items()},
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )  # fmt: skip
        row |= {} if measure is None else dict(pruned=measure(model))
        training.call(retrain, model, number)
        row |= {} if measure is None else dict(retrained=measure(model))
        record.append(row)
    return Result(model, record)


def _measurable(model: nn.Module, example_input: Tensor, layers: Iterable[str] | None) -> list[str]:
    """The layers whose APoZ can be measured: those that are named, or by default those that can be narrowed too."""
    found = layers_with_relu(model, example_input)
    if layers is None:
        layers = [name for name in surgery.prunable_layers(model, example_input) if name in found]
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted or not set(wanted) <= set(found):
        raise ValueError(
            f"layers is {wanted}; the model's dense layers and convolutions with a ReLU after them are {', '.join(found)}"
        )
    return wanted


def _check_shares(apoz_of_layer: Tensor, stds: float) -> None:
    one_number_a_channel = apoz_of_layer.dim() == 1 and len(apoz_of_layer) > 0
    if not (one_number_a_channel and ((apoz_of_layer >= 0) & (apoz_of_layer <= 1)).all()):
        raise ValueError(f"apoz_of_layer is {apoz_of_layer}; expected numbers in [0, 1], one per channel, shape (C,)")
    if not stds >= 0:
        raise ValueError(f"stds is {stds}; allowed are 0 and above")


def _check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; allowed are 1 and above")
