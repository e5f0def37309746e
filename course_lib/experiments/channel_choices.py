"""One layer of a network, and the ways of choosing its input channels."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import activations, least_squares, surgery
from course_lib.papers import channel_pruning as paper
from course_lib.streams import stream


class Layer(NamedTuple):
    """One layer of the whole network, on two halves of some images, and how strong its inputs are (`strengths`)."""

    seen: least_squares.Moments
    unseen: least_squares.Moments
    strongest: Tensor


@torch.no_grad()
def layers_of(model: nn.Module, names: Sequence[str], images: Tensor, positions: int = 10, seed: int = 0) -> dict[str, Layer]:
    """Return the moments of convolutions of the whole network: on one half of the images to fit to, on the other to judge by."""
    found = {}
    for name in names:
        pairs = (_pairs(model, name, part, positions, 2 * seed + half) for half, part in enumerate(images.chunk(2)))
        found[name] = Layer(*map(least_squares.moments, pairs), strengths(model, [name], images[:1])[name])
    return found


def _pairs(model: nn.Module, name: str, images: Tensor, positions: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number, batch in enumerate(images.split(activations.BATCH)):
        sample = activations.Sample(batch, positions, stream(seed, "positions", number))
        yield activations.watch(model, {name: sample.pair}, batch)[name]


def ways_of_choosing(
    weight: Tensor, seen: least_squares.Moments, strongest: Tensor, keep: int
) -> dict[str, Sequence[int] | Tensor]:
    """The channels that each way of choosing keeps: METHODS, and two more.

    'Largest contribution' looks at each channel's ||X_i W_i^T|| alone (ours, to see what the LASSO adds to it); 'inverted'
    keeps what the LASSO would prune, as some libraries do.

    Args:
        weight: of the layer, (n, c, p).
        seen: of the layer.
        strongest: from `strengths`, (c,).
        keep: how many.
    """
    c = len(strongest)
    dropped = set(paper.choose(seen, weight, c - keep).tolist()) if keep < c else set()
    return {
        "LASSO": paper.choose(seen, weight, keep),
        "max response": strongest.topk(keep).indices,
        "first k": range(keep),
        "largest contribution": paper.contributions(seen, weight)[0].diagonal().topk(keep).indices,
        "inverted": [i for i in range(c) if i not in dropped],
    }


@torch.no_grad()
def with_weight(model: nn.Module, name: str, weight: Tensor, bias: Tensor) -> nn.Module:
    """A copy in which a convolution has another weight (n, c, p) and bias (n,)."""
    model = copy.deepcopy(model)
    layer = model.get_submodule(name)
    layer.weight.copy_(weight.view_as(layer.weight))
    layer.bias = nn.Parameter(bias.to(layer.weight))
    return model


def subset_search(mixed: float, problems: int = 100) -> dict[str, float]:
    """How often the LASSO's 4 of 8 channels are within a tenth of the least error of all 70 subsets, over random layers.

    Judged twice: by the best beta with W as it is, which is what the LASSO looks at, and by the best W.

    Args:
        mixed: 0 for independent channels; at 1 half of a channel's variance comes from the others.
        problems: how many layers, of 8 channels with 4 numbers each and 12 outputs, 300 samples.
    """
    subsets = [list(subset) for subset in itertools.combinations(range(8), 4)]
    near = {"with W as it is": 0, "after least squares": 0}
    for seed in range(problems):
        random = torch.Generator().manual_seed(seed)
        mixing = torch.eye(8) + mixed * torch.randn(8, 8, generator=random) / 8**0.5
        inputs = torch.einsum("ij,njp->nip", mixing, torch.randn(300, 8, 4, generator=random))
        weight = torch.randn(12, 8, 4, generator=random)
        outputs = inputs.flatten(1) @ weight.flatten(1).T
        seen = least_squares.moments([(inputs, outputs + 0.1 * torch.randn(outputs.shape, generator=random))])
        chosen = subsets.index(paper.choose(seen, weight, 4).tolist())
        gram, products = paper.contributions(seen, weight)
        scaled = [seen.power - products[s] @ torch.linalg.solve(gram[s][:, s], products[s]) for s in subsets]
        rebuilt = [1 - least_squares.explained(seen, least_squares.refit(seen, s)[0]) for s in subsets]
        for name, errors in zip(near, (scaled, rebuilt), strict=True):
            near[name] += errors[chosen] <= 1.1 * min(errors)
    return {name: float(count) / problems for name, count in near.items()}


def strengths(model: nn.Module, layers: Sequence[str], example_input: Tensor) -> dict[str, Tensor]:
    """'Max response': for each channel that a layer reads, the sum of |W| of the filters that compute it, (c,)."""
    sums = {}
    for tied in surgery.couplings(model, example_input).values():
        total = sum(model.get_submodule(producer).weight.detach().abs().flatten(1).sum(1) for producer in tied.producers)
        sums |= dict.fromkeys(tied.consumers, total)
    return {name: sums[name] for name in layers}
