"""Sets of channels of one layer: which a criterion keeps, what the next layer's output loses, how near greed is to the best."""

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import activations, surgery
from course_lib.data import Split
from course_lib.experiments import one_shot
from course_lib.papers import channel_pruning
from course_lib.papers import thinet as paper
from course_lib.streams import stream
from course_lib.surgery import readers

FORWARD = "ThiNet, forward"  # the choice of the journal version
CRITERIA = (one_shot.THINET, one_shot.NOT_RESCALED, FORWARD, one_shot.L1, one_shot.APOZ, one_shot.RANDOM)
RESCALED = (one_shot.THINET, FORWARD)


def kept_by(criterion: str, model: nn.Module, layer: str, keep: int, images: Tensor, *, seed: int = 0) -> Tensor:
    """Return the filters of a layer that a criterion keeps, (keep,), ascending.

    Args:
        criterion: one of CRITERIA.
        model: a trained network; it is left as it was.
        layer: one that has one `next_layer`.
        keep: how many filters stay.
        images: (N, ...), training images.
        seed: of samples and of the random choice.

    Raises:
        ValueError: an unknown criterion.
    """
    if criterion in one_shot.BY_FILTER:
        unlabelled = Split(images, images.new_zeros(len(images)))
        return one_shot.filters_to_keep(criterion, model, {layer: keep}, unlabelled, seed)[layer].sort().values
    if criterion not in CRITERIA:
        raise ValueError(f"criterion is {criterion!r}; known are {', '.join(map(repr, CRITERIA))}")
    choose = paper.matching_pursuit if criterion == FORWARD else paper.channels_to_keep
    return choose(paper.channel_contributions(model, layer, images, seed=seed), keep)


def without(criterion: str, model: nn.Module, layer: str, kept: Tensor, images: Tensor, *, seed: int = 0) -> nn.Module:
    """Return the network with these filters of a layer alone; the next layer is rescaled where the criterion does that."""
    if criterion in RESCALED:
        return paper.prune_layer(model, layer, kept, images, seed=seed)
    return surgery.keep_channels(model, layer, kept, images[:1])


def lost(contributions: Tensor, kept: Tensor, scales: Tensor | float = 1.0) -> float:
    """Return the squared error of the next layer's output with these channels alone, over its square.

    Args:
        contributions: (m, C), of all channels.
        kept: the channels that stay.
        scales: a factor for each of them; with the best ones the loss lies in [0, 1].
    """
    contributions = contributions.double()
    targets = contributions.sum(1)
    return ((targets - (contributions[:, kept] * scales).sum(1)).square().sum() / targets.square().sum()).item()


def rescaled_loss(contributions: Tensor, kept: Tensor) -> float:
    """Return `lost` with the factors of `paper.rescale` on the same samples."""
    return lost(contributions, kept, paper.rescale(contributions[:, kept], contributions.sum(1)))


def grown(contributions: Tensor, keep: int) -> Tensor:
    """Return the channels to keep, (keep,), each time the one that brings the sum of all kept nearest to the output.

    The error of a kept set is the square of what the removed ones add up to, so that the best kept set is what the best removed
    set leaves. Greed from this end makes other choices all the same: it takes the channel that is of most use first, and
    `paper.greedy_removal` the one that is missed least.
    """
    gram = contributions.double().T @ contributions.double()
    missing = gram.sum(1)  # products of each channel with what the kept ones do not give
    change = gram.diagonal() - 2 * missing
    kept: list[int] = []
    for _ in range(keep):
        kept.append(int(change.argmin()))
        change = change + 2 * gram[kept[-1]]
        change[kept] = torch.inf
    return torch.tensor(sorted(kept), device=gram.device)


def exhaustive(contributions: Tensor, keep: int, refitted: bool) -> Tensor:
    """Return the best of all sets of `keep` channels, each channel as it is or times its least-squares factor."""
    contributions = contributions.double()
    gram = contributions.T @ contributions
    sets = torch.tensor(list(itertools.combinations(range(len(gram)), keep)), device=gram.device)  # (sets, keep)
    inside, products = gram[sets[:, :, None], sets[:, None, :]], gram.sum(1)[sets][:, :, None]
    scales = torch.linalg.pinv(inside, hermitian=True) @ products if refitted else torch.ones_like(products)
    losses = (scales.mT @ inside @ scales - 2 * scales.mT @ products).flatten()  # less the square of the output
    return sets[losses.argmin()]


def ratios(contributions: Tensor, keep: int) -> dict[str, float]:
    """Return the loss of each greedy choice over the least that any set of `keep` channels has.

    'removed' is the paper's choice and 'grown' that of the kept set, both as they are. 'removed, rescaled' and 'forward' are over
    the best set with least-squares factors.
    """
    removed, forward = paper.channels_to_keep(contributions, keep), paper.matching_pursuit(contributions, keep)
    best, rescaled = (exhaustive(contributions, keep, refitted) for refitted in (False, True))
    least, least_rescaled = lost(contributions, best), rescaled_loss(contributions, rescaled)
    found = {
        "removed": _over(lost(contributions, removed), least),
        "grown": _over(lost(contributions, grown(contributions, keep)), least),
        "removed, rescaled": _over(rescaled_loss(contributions, removed), least_rescaled),
        "forward": _over(rescaled_loss(contributions, forward), least_rescaled),
    }
    return {name: round(ratio, 5) for name, ratio in found.items()}


def _over(loss: float, least: float) -> float:
    return (loss + 1e-9) / (least + 1e-9)  # 1 where both lose nothing, as with dead channels


def losses_alone(model: nn.Module, keep: Mapping[str, int], images: Tensor, unseen: Tensor, seed: int = 0) -> dict[str, float]:
    """Return the share of the next layer's output that each layer loses when ThiNet prunes it alone to so many filters.

    The choice and the scales come from `images`, the loss from `unseen`.
    """
    losses = {}
    for layer, number in keep.items():
        few, others = (paper.channel_contributions(model, layer, x, seed=seed) for x in (images, unseen))
        kept = paper.channels_to_keep(few, number)
        losses[layer] = lost(others, kept, paper.rescale(few[:, kept], few.sum(1)))
    return losses


def losses_from_few(
    pool: Tensor, held_out: Tensor, keep: int, images: Sequence[int], positions: Sequence[int], draws: int, seed: int
) -> list[dict[str, float]]:
    """Return the loss on other samples of a choice made from few, with its scales: a dict for each number and draw.

    Args:
        pool: (classes, N, P, C), contributions at P positions of N images of each class.
        held_out: (m, C), contributions on other images.
        keep: channels that stay.
        images: numbers of images per class, each at most N.
        positions: numbers of positions, each at most P.
        draws: how often the images of a number are drawn.
        seed: of the draws.
    """
    found = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(stream(seed, "draw", draw))
        order = torch.randperm(pool.shape[1], generator=generator).to(pool.device)
        for count, places in itertools.product(images, positions):
            few = pool[:, order[:count], :places].flatten(0, 2)
            kept = paper.channels_to_keep(few, keep)
            loss = lost(held_out, kept, paper.rescale(few[:, kept], few.sum(1)))
            found.append(dict(images=count, positions=places, draw=draw, lost=round(loss, 5)))
    return found


@torch.no_grad()
def chosen_by_lasso(model: nn.Module, layer: str, keep: int, images: Tensor, *, positions: int = 10, seed: int = 0) -> Tensor:
    """Return the filters of a layer that channel pruning keeps, (keep,): from all filters of the next layer at some positions."""
    name, _ = readers.next_layer(model, layer, images[:1])
    inputs, outputs = activations.watch(model, {name: activations.Sample(images, positions, seed).pair}, images)[name]
    return channel_pruning.select_channels(inputs, model.get_submodule(name).weight.flatten(2), outputs, keep)


def agreement(choices: Mapping[str, Tensor]) -> pd.DataFrame:
    """Return the share of channels that two choices of equal size have in common, for each pair."""
    sets = {name: set(kept.tolist()) for name, kept in choices.items()}
    return pd.DataFrame({a: {b: len(sets[a] & sets[b]) / len(sets[a]) for b in sets} for a in sets})
