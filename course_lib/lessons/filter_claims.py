"""The claims of notebook 04, judged by recorded rows: the paper's own, and what we asked beyond it."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pandas as pd

from course_lib import evidence
from course_lib.experiments import filter_tables as tables
from course_lib.experiments.filter_plans import PAPER
from course_lib.experiments.points_lost import ahead, arms
from course_lib.models.pretraining import RECIPES
from course_lib.notebook import Claim

ALONE = "one layer of vgg-small, not retrained"


def papers(found: pd.DataFrame, large: pd.DataFrame, fair: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims: judged by rows of small networks, of the paper's own (`large`), and of the fair grid."""
    alone, choices = tables.over_layers(found), tables.strategies(found).loc["resnet-20"]
    smallest, random, largest = (alone.loc[order] for order in ("smallest L1", "random", "largest L1"))
    won = tables.layers_won(found, "smallest L1", "random")
    most = choices.index.get_level_values("share").max()
    greedy, independent = (choices.xs(most, level="share")[name] for name in ("greedy", "independent"))
    return [
        _headline(large),
        Claim("smallest first beats random in most layers (figure 8)", f"{ALONE}: layers of 6 beyond 3, mean of the shares",
              f"in {won.to_numpy().mean():.1f} of 6 layers", evidence.verdict(won.mean() - 3), "0"),
        _against("of smallest, random and largest first, largest is worst (figure 8)",
                 f"the worse of smallest and random, and largest, {ALONE}",
                 pd.concat([smallest.mean(), random.mean()], axis=1).min(axis=1), largest.mean()),
        _against("the std of maps falls behind L1 beyond 60 % (figure 9)", f"L1 and mean std, {ALONE}, 90 %",
                 alone.loc[("smallest L1", 0.9)], alone.loc[("mean std", 0.9)]),
        _against("greedy beats independent where much is pruned (section 3.3)",
                 f"greedy and independent, resnet-20, {most:.0%} of every layer that can be pruned, not retrained",
                 greedy, independent),
        _alike_norms(found),
        _inherited(fair, "with short training, inherited weights beat random ones (VGG-16-A: 6.60 against 6.88 % error)",
                   "vgg-small"),
        _inherited(fair, "the same (ResNet-56-B: 6.94 against 8.69 % error)", "resnet-20"),
    ]  # fmt: skip


def own(found: pd.DataFrame, fair: pd.DataFrame) -> list[Claim]:
    """Return what we asked beyond the paper; a shape whose arms have not been measured is left out."""
    half = arms(fair)
    half = half[(half.network == "vgg-small") & (half.rate == 2) & (half.method == "L1")]
    return [
        *(_retrained(fair, "once retrained, random filters are as good as L1", network, rate, "random", "L1", evidence.no_worse)
          for network, rate, _ in tables.both_measured(fair, "random", "L1") if rate == 2),
        *(_retrained(fair, "random weights do as well, given the computing", network, rate, "scratch-B", "L1", evidence.no_worse)
          for network, rate, _ in tables.both_measured(fair, "scratch-B", "L1")),
        Claim("half of the MACs cost nothing", "L1 and the trained network, vgg-small, 2x fewer MACs",
              f"{half.accuracy.mean():.2f} and {half.baseline.mean():.2f} % accuracy",
              evidence.no_worse(-half.lost, "cifar10"), f"{half.epochs.mean():g}"),
        _adding_branches(found),
    ]  # fmt: skip


def _headline(large: pd.DataFrame) -> Claim:
    """The paper's first result: its network, its plan and its retraining."""
    lines, published = tables.published(large, "VGG-16", "A"), PAPER["VGG-16", "A"]
    claim = f"VGG: {published.fewer_macs} % fewer MACs at no loss ({published.dense:.2f} -> {published.pruned:.2f} % error)"
    if lines.empty:
        return Claim(claim, "VGG-16-A, constant rate of 0.001", "no rows yet", None)
    fewer = 100 * (1 - lines.macs / lines.dense_macs).mean()
    return Claim(
        claim,
        f"{lines.network.iloc[0]}-A, constant rate of 0.001",
        f"{lines.baseline.mean():.2f} -> {lines.accuracy.mean():.2f} % accuracy at {fewer:.1f} % fewer",
        evidence.no_worse(lines.accuracy - lines.baseline, "cifar10"),
        f"{lines.epochs.max():g}",
    )


def _alike_norms(found: pd.DataFrame) -> Claim:
    """The paper's rule of thumb for choosing rates."""
    flat = tables.agreement(found, "vgg-small", "flatness")
    here, label = _correlated(flat, len(tables.points_lost(found, "vgg-small")), "layers")
    here += f"; resnet-20's blocks {tables.agreement(found, 'resnet-20', 'flatness').mean():.2f}"
    measured = "vgg-small, rank correlation of flatness and points lost"
    return Claim("layers with alike norms are sensitive (section 3.2)", measured, here, label, "0")


def _adding_branches(found: pd.DataFrame) -> Claim:
    """Our own rule of thumb for residual networks, judged as the paper's is."""
    blocks = len(found[found.name == "scan resnet-20"].branches.iloc[0])
    here, label = _correlated(tables.agreement(found, "resnet-20", "branches"), blocks, "blocks")
    measured = "resnet-20, rank correlation of what the branch adds and points lost"
    return Claim("a block is sensitive where its branch adds much", measured, here, label, "0")


def _correlated(ranks: pd.Series, count: int, things: str) -> tuple[str, str]:
    """Return rank correlations in words, and whether they hold: few random orders do as well as any network's.

    Not by an interval over networks: correlations of few layers repeat, and equal ones would give an interval of no width.
    """
    orders = np.array(list(permutations(range(count))))  # (count!, count)
    squares = ((orders - np.arange(count)) ** 2).sum(1)
    random = 1 - 6 * squares / (count * (count**2 - 1))  # Spearman's correlation of each order with the first
    chance = max(float((random >= rank - 1e-9).mean()) for rank in ranks)
    here = f"{ranks.mean():.2f} over {count} {things}, by chance in {chance:.1%} of orders"
    return here, evidence.HOLDS if chance < 0.05 else evidence.UNDECIDED


def _inherited(fair: pd.DataFrame, claim: str, network: str) -> Claim:
    """Pruned against from scratch, as long as each other from then on; the column says what L1 had been trained before."""
    found = _retrained(fair, claim, network, 2, "L1", "scratch-E")
    before = RECIPES[network, "cifar10"]["epochs"]
    measured = f"L1 ({before} + {found.epochs} epochs) and scratch-E ({found.epochs}), {network}, 2x fewer MACs"
    return found._replace(measured=measured)


def _retrained(
    fair: pd.DataFrame, claim: str, network: str, rate: int, first: str, second: str, test: Callable = evidence.better
) -> Claim:
    """A claim about two arms of the fair grid, at equal widths and epochs."""
    difference, lines = ahead(fair, first, second).loc[(network, rate)].dropna(), arms(fair)
    lines = lines[(lines.network == network) & (lines.rate == rate) & lines.seed.isin(difference.index)]
    lines = lines[lines.method.isin((first, second))]
    ends, epochs = lines.groupby("method").accuracy.mean(), lines.groupby("method").epochs.mean()
    here = f"{ends[first]:.2f} and {ends[second]:.2f} % accuracy"
    measured = f"{first} and {second}, {network}, {rate}x fewer MACs"
    told = " and ".join(f"{number:g}" for number in dict.fromkeys((epochs[first], epochs[second])))
    return Claim(claim, measured, here, test(difference, "cifar10"), told)


def _against(claim: str, measured: str, first: pd.Series, second: pd.Series) -> Claim:
    """A claim about the accuracies of two arms that are not retrained, each by network."""
    here = f"{first.mean():.2f} and {second.mean():.2f} % accuracy"
    return Claim(claim, measured, here, evidence.better(first - second, "cifar10"), "0")
