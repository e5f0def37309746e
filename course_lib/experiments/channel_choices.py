"""One layer of a network, the ways of choosing its input channels, and the network in which it alone is pruned."""

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import activations, least_squares, surgery
from course_lib.least_squares import Moments
from course_lib.papers import channel_pruning as paper
from course_lib.streams import stream

LASSO, LARGEST, RESPONSE, FIRST, RANDOM = "LASSO", "largest contribution", "max response", "first k", "random"
METHODS = (LASSO, LARGEST, RESPONSE, FIRST, RANDOM)


class Layer(NamedTuple):
    """One layer of the whole network, on two halves of some images, and how strong its inputs are (`strengths`)."""

    seen: Moments
    unseen: Moments
    strongest: Tensor


def layers_of(model: nn.Module, names: Sequence[str], images: Tensor, positions: int = 10, seed: int = 0) -> dict[str, Layer]:
    """Return the moments of convolutions of the whole network: on one half of the images to fit to, on the other to judge by."""
    found = {}
    for name in names:
        halves = zip(images.chunk(2), ("seen", "unseen"), strict=True)
        both = (moments_of(model, name, part, positions, stream(seed, which)) for part, which in halves)
        found[name] = Layer(*both, strengths(model, [name], images[:1])[name])
    return found


@torch.no_grad()
def moments_of(model: nn.Module, name: str, images: Tensor, positions: int, seed: int) -> Moments:
    """Return the moments of a convolution's inputs and outputs at random positions of all these images."""
    return least_squares.moments(_pairs(model, name, images, positions, seed))


def _pairs(model: nn.Module, name: str, images: Tensor, positions: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number, batch in enumerate(images.split(activations.BATCH)):
        sample = activations.Sample(batch, positions, stream(seed, "positions", number))
        yield activations.watch(model, {name: sample.pair}, batch)[name]


def ways_of_choosing(
    weight: Tensor, seen: Moments, strongest: Tensor, keep: int, seed: int = 0
) -> dict[str, Sequence[int] | Tensor]:
    """Return the channels that each of METHODS keeps, and those of 'inverted'.

    'Largest contribution' looks at each channel's ||X_i W_i^T|| alone (ours, to see what the LASSO adds to it); 'inverted'
    keeps what the LASSO would prune, as some libraries do.

    Args:
        weight: of the layer, (n, c, p).
        seen: of the layer.
        strongest: from `strengths`, (c,).
        keep: how many.
        seed: of the random choice.
    """
    c = len(strongest)
    dropped = set(paper.choose(seen, weight, c - keep).tolist()) if keep < c else set()
    return {
        LASSO: paper.choose(seen, weight, keep),
        LARGEST: paper.contributions(seen, weight)[0].diagonal().topk(keep).indices,
        RESPONSE: strongest.topk(keep).indices,
        FIRST: range(keep),
        RANDOM: torch.randperm(c, generator=torch.Generator().manual_seed(stream(seed, "random channels")))[:keep],
        "inverted": [i for i in range(c) if i not in dropped],
    }


def lasso_at(seen: Moments, weight: Tensor, keep: int) -> tuple[float, Tensor]:
    """Return the smallest penalty that leaves no more than `keep` channels, and beta at this penalty, (c,).

    Args:
        seen: of the layer.
        weight: of the layer, (n, c, p).
        keep: how many channels may be left, below c.
    """
    penalties, betas = paper.lasso_path(*paper.contributions(seen, weight), seen.samples)
    nonzero = betas != 0
    few = ((nonzero[:-1] | nonzero[1:]).sum(1) <= keep).nonzero().flatten()
    at = int(few[-1]) + 1 if len(few) else 0
    return float(penalties[at]), betas[at]


def reconstruction_error(unseen: Moments, weight: Tensor) -> float:
    """Return the squared error of a layer's output as a share of the output's variance, in percent, with the best bias."""
    return 100 * (1 - least_squares.explained(unseen, weight))


def with_ridge(seen: Moments, ridge: float) -> Moments:
    """Return moments for which least squares is ridge regression: `ridge` times the mean square of an input is the penalty."""
    penalty = ridge * seen.gram.diagonal().mean() * torch.eye(len(seen.gram), dtype=seen.gram.dtype, device=seen.gram.device)
    return dataclasses.replace(seen, gram=seen.gram + penalty)


@torch.no_grad()
def with_weight(model: nn.Module, name: str, weight: Tensor, bias: Tensor) -> nn.Module:
    """Return a copy in which a convolution has another weight (n, c, p) and bias (n,)."""
    model = copy.deepcopy(model)
    layer = model.get_submodule(name)
    layer.weight.copy_(weight.view_as(layer.weight))
    layer.bias = nn.Parameter(bias.to(layer.weight))
    return model


def subset_search(mixed: float, problems: int = 100) -> dict[str, float]:
    """Return how often the LASSO's 4 of 8 channels are within a tenth of the least error of all 70 subsets, over random layers.

    Judged twice: by the best beta with W as it is, which is what the LASSO looks at, and by the best W.

    Args:
        mixed: how strongly channels are correlated: each is a standard normal variable plus `mixed` times a random combination
            of all of them, which has variance 1 on average; 0 for independent channels.
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
    """Return the 'max response' of each channel that a layer reads, (c,): the L1 norm of the filters that compute it."""
    sums = {}
    for tied in surgery.couplings(model, example_input).values():
        total = sum(model.get_submodule(producer).weight.detach().abs().flatten(1).sum(1) for producer in tied.producers)
        sums |= dict.fromkeys(tied.consumers, total)
    return {name: sums[name] for name in layers}
