"""Plans: how much of each layer to prune, by what pruning it alone costs, or for a network of so many MACs."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from course_lib import cost, masks, surgery
from course_lib.data import Batches
from course_lib.training import evaluate


def scan(
    model: nn.Module,
    batches: Batches,
    layers: Iterable[str],
    shares: Sequence[float],
    prune: Callable[[nn.Module, str, float], nn.Module],
) -> dict[str, Tensor]:
    """Return the accuracy when one layer alone is pruned, the others whole, without retraining.

    Args:
        model: a trained network; it is left as it was.
        batches: what the accuracy is measured on. It guides a choice, so it should not be the test set.
        layers: the layers to prune, one after the other.
        shares: how much of a layer to prune.
        prune: called as prune(model, layer, share); gives a new network.

    Returns:
        Layer name -> accuracies in [0, 1], float64 of shape (len(shares),).
    """
    return {
        layer: torch.tensor([evaluate(prune(model, layer, share), batches) for share in shares], dtype=torch.float64)
        for layer in layers
    }


def lamp(model: nn.Module, rate: float) -> dict[str, float]:
    """Return the sparsity of each layer when 1 / `rate` of all weights stay, by layer-adaptive magnitude (Lee et al. 2021).

    A weight's score is its square over the sum of the squares in its layer that are not smaller. One threshold on the scores
    then weighs layers against each other: it removes what changes a layer's output least in proportion.
    """
    scores = {}
    for name, layer in masks.weight_layers(model).items():
        squares = layer.weight.detach().double().square().flatten().sort().values
        scores[name] = squares / squares.flip(0).cumsum(0).flip(0)
    everything = torch.cat(list(scores.values())).sort(descending=True).values
    threshold = everything[min(len(everything) - 1, round(len(everything) / rate))]
    return {name: (score <= threshold).double().mean().item() for name, score in scores.items()}


def sparsities_within(curves: Mapping[str, Tensor], sparsities: Sequence[float], loss: float) -> dict[str, float]:
    """Return for each layer the sparsity at which its curve has lost `loss` of accuracy, interpolated between the scanned ones.

    So a sensitive layer gets a small threshold and a robust one a large (section 5: the scan decides each layer's threshold).

    Args:
        curves: from `sensitivity`.
        sparsities: the shares it was scanned at, ascending, beginning with 0.
        loss: accuracy that one layer may lose, in [0, 1].
    """
    chosen = {}
    for name, curve in curves.items():
        lost = [max(0.0, float(curve[0] - accuracy)) for accuracy in curve]
        # the first step over the limit; a curve that never gets there is pruned as far as it was scanned
        step = next((i for i in range(1, len(lost)) if lost[i] > loss), None)
        if step is None:
            chosen[name] = float(sparsities[-1])
            continue
        share = (loss - lost[step - 1]) / (lost[step] - lost[step - 1])
        chosen[name] = sparsities[step - 1] + max(0.0, share) * (sparsities[step] - sparsities[step - 1])
    return chosen


def sparsities_for_rate(
    model: nn.Module, curves: Mapping[str, Tensor], sparsities: Sequence[float], rate: float
) -> dict[str, float]:
    """Return shares per layer that keep 1 / `rate` of the scanned layers' weights, each losing the same accuracy alone.

    Args:
        model: the network that was scanned.
        curves: from `sensitivity`.
        sparsities: as for `sparsities_within`.
        rate: weights now over weights afterwards, at least 1.

    Raises:
        ValueError: the scan does not reach that rate; the message says how far it goes.
    """
    sizes = {name: layer.weight.numel() for name, layer in {name: model.get_submodule(name) for name in curves}.items()}
    target = sum(sizes.values()) / rate

    def plan_and_kept(loss: float) -> tuple[dict[str, float], float]:
        plan = sparsities_within(curves, sparsities, loss)
        return plan, sum(size * (1 - plan[name]) for name, size in sizes.items())

    if not (rate >= 1 and plan_and_kept(1.0)[1] <= target):
        most = sum(sizes.values()) / plan_and_kept(1.0)[1]
        raise ValueError(f"rate is {rate}; with sparsities up to {max(sparsities)} it can be 1 to {most:.1f}")
    less, more = (dict.fromkeys(sizes, 0.0), sum(sizes.values())), plan_and_kept(0.0)
    if more[1] > target:  # what is free does not suffice: bisect the loss that does
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if plan_and_kept(middle)[1] > target else (low, middle)
        less, more = plan_and_kept(low), plan_and_kept(high)
    # where a curve is flat its sparsity jumps; between the two ends of a jump the count of weights is linear
    share = (less[1] - target) / (less[1] - more[1]) if less[1] > more[1] else 1.0
    return {name: less[0][name] + share * (more[0][name] - less[0][name]) for name in sizes}


def keep_for_speedup(model: nn.Module, ratios: Mapping[str, float], speedup: float, example_input: Tensor) -> dict[str, int]:
    """Return how many channels each layer keeps, in proportion to `ratios`, for a network of `speedup` times fewer MACs.

    A layer that would keep more than it has keeps all.

    Args:
        model: the network to prune.
        ratios: layer name -> its share of channels relative to the other layers', above 0.
        speedup: MACs now over MACs afterwards, at least 1; the widest plan that reaches it is taken.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: `speedup` is below 1 or more than these layers can give, a ratio is not above 0, or an unknown layer.
    """
    return keep_and_sampled_for_speedup(model, ratios, {}, speedup, example_input)[0]


def keep_and_sampled_for_speedup(
    model: nn.Module, ratios: Mapping[str, float], sampled: Mapping[str, float], speedup: float, example_input: Tensor
) -> tuple[dict[str, int], dict[str, int]]:
    """Return `keep_for_speedup`, and how many input channels stay of layers that read them through a sampler.

    Args:
        model: the network to prune.
        ratios: layer name -> its share of output channels relative to all the others', above 0.
        sampled: name of a layer behind a sampler -> its share of input channels, likewise; they stay for other layers.
        speedup: MACs now over MACs afterwards, at least 1.
        example_input: a batch (N, ...) on the model's device.

    Raises:
        ValueError: as `keep_for_speedup`.
    """
    relative = [*ratios.values(), *sampled.values()]
    if not relative or min(relative) <= 0:
        found = dict(ratios) | dict(sampled)
        raise ValueError(f"ratios is {found}; expected at least one layer, and numbers above 0")
    couplings = surgery.couplings(model, example_input)
    tied = {layer: couplings.get(layer) or surgery.coupling(model, layer, example_input) for layer in ratios}  # which refuses
    parts = [_outputs_of(model, layer, tied[layer]) for layer in ratios] + [_inputs_of(model, layer) for layer in sampled]
    macs = cost.count(model, example_input).MACs.astype(float)

    def plan(scale: float) -> list[int]:
        pairs = zip(relative, parts, strict=True)
        return [min(channels, max(1, round(scale * ratio * channels))) for ratio, (channels, _) in pairs]

    def reached(scale: float) -> float:
        left = macs.copy()
        for keep, (channels, shares) in zip(plan(scale), parts, strict=True):
            for name, share in shares:
                left[name] *= 1 - (1 - keep / channels) * share
        return macs.sum() / left.sum()

    low, high = 0.0, 1 / min(relative)
    if not 1 <= speedup <= reached(low):
        raise ValueError(f"speedup is {speedup}; with these layers it can be 1 to {reached(low):.1f}")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) >= speedup else (low, middle)
    widths = plan(low)
    return dict(zip(ratios, widths, strict=False)), dict(zip(sampled, widths[len(ratios) :], strict=True))


def _outputs_of(model: nn.Module, layer: str, tied: surgery.Coupling) -> tuple[int, list[tuple[str, float]]]:
    """How many channels a layer computes, and the shares of layers' MACs that compute or read them."""
    width = len(model.get_submodule(layer).weight)
    read = [(name, columns.numel() / model.get_submodule(name).weight.shape[1]) for name, columns in tied.consumers.items()]
    return width, [(name, 1.0) for name in tied.producers] + read


def _inputs_of(model: nn.Module, layer: str) -> tuple[int, list[tuple[str, float]]]:
    """How many channels a layer reads, and that all of its MACs read them."""
    return model.get_submodule(layer).weight.shape[1], [(layer, 1.0)]
