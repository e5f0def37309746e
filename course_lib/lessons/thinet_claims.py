"""The claims of notebook 07, the paper's and our own, judged by recorded rows of three trained networks."""

from collections.abc import Callable

import pandas as pd

from course_lib import evidence
from course_lib.experiments import channel_sets
from course_lib.experiments import thinet as runs
from course_lib.experiments import thinet_tables as tables
from course_lib.experiments.thinet_tables import FAIR, MISSING
from course_lib.notebook import Claim

NOTHING = pd.Series(dtype=float)


def papers_claims(grid: pd.DataFrame, heads: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims; `heads` are the sizes of `head_sizes`. A dagger: not verified in the paper's text."""
    plain, residual, quarter = (tables.retrained(grid, *place) for place in FAIR)
    thin, halved = heads.iloc[0] / heads.loc["ThiNet-GAP"], "vgg-small, 2x fewer MACs, retrained"
    rivals = plain[list(tables.RIVALS)].max(axis=1) if len(plain) else NOTHING
    small = bool(abs(thin.parameters - 16.63) < 0.05 and abs(thin.FLOPs - 3.31) < 0.02)
    return [
        _judged("pruning VGG-16 loses nothing (3.23x fewer FLOPs: top-1 68.34 -> 69.80 %, top-5 88.44 -> 89.53 %)",
                f"{halved}: at most 0.3 points lost", _difference(plain, "ThiNet", "trained network"), evidence.no_worse),
        _judged("ResNet-50 loses little (2.26x fewer FLOPs: 1.87 points of top-1, 1.12 of top-5)†",
                "resnet-20, 2x fewer MACs, retrained: at most 1.87 points lost",
                _difference(residual, "ThiNet", "trained network"), lambda values, _: evidence.verdict(values, margin=-1.87)),
        _judged("ThiNet beats the weight sum (L1), APoZ and random choice (top-1, VGG-16-GAP, CUB-200)†",
                f"{halved}: ThiNet / the best of the three", _against(plain, "ThiNet", rivals), evidence.better),
        _judged("random choice is a strong rival: 2.1 points behind at 40 % of the FLOPs (top-1, CUB-200)†",
                f"{halved}: random / ThiNet, at most 2.1 points behind", _difference(plain, "random", "ThiNet"),
                lambda values, _: evidence.verdict(values, margin=-2.1)),
        _judged("the weight sum (L1) is worse than random choice: 60.5 against 66.7 % (top-1, CUB-200)†",
                f"{halved}: random / weight sum (L1)", _difference(plain, "random", "L1"), evidence.better),
        _judged("factors help at high compression: 52.3 against 48.3 % at 10 % of the FLOPs (top-1, CUB-200)†",
                "vgg-small, 4x fewer MACs, retrained: rescaled / not",
                _difference(quarter, "ThiNet", "ThiNet, not rescaled"), evidence.better),
        Claim("ThiNet-GAP has 16.63x fewer parameters and 3.31x fewer FLOPs (top-5 88.44 -> 87.92 %)", "sizes, from shapes alone",
              f"{thin.parameters:.2f}x, {thin.FLOPs:.2f}x", small, "0"),
        Claim("ThiNet-Tiny (59.34 % top-1, 81.97 % top-5, 1.32 M parameters) beats SqueezeNet (57.67, 80.39 %, 1.24 M)†",
              "ImageNet", "not run", None),
    ]  # fmt: skip


def own_claims(found: pd.DataFrame, grid: pd.DataFrame) -> list[Claim]:
    """Return what we asked beyond the paper; before retraining a network counts with the mean of its shares."""
    plain = tables.retrained(grid, *FAIR[0])
    at, best = _means_before_retraining(found)
    harm = tables.tuning(found).test.loc[runs.WHOLE, 0.02, "constant"]
    place = "vgg-small, mean of all shares, not retrained"
    return [
        _judged("without factors and retraining, ThiNet's choice beats the best rival", f"{place}: ThiNet, not rescaled / rival",
                _against(at, "ThiNet, not rescaled", best), evidence.better, "0"),
        _judged("without retraining, the factors help", f"{place}: ThiNet / not rescaled",
                _difference(at, "ThiNet", "ThiNet, not rescaled"), evidence.better, "0"),
        _judged("without retraining, the journal's forward choice is better", f"{place}: forward / ThiNet",
                _difference(at, channel_sets.FORWARD, "ThiNet"), evidence.better, "0"),
        _judged("an epoch at a constant 0.02 harms even a network that was not pruned", "vgg-small, whole: before / after",
                -harm, evidence.better, "1"),
        _judged("the cut network beats its shape trained from scratch for as many epochs as its retraining",
                "vgg-small, 2x fewer MACs: ThiNet / scratch-E",
                _difference(plain, "ThiNet", "scratch-E"), evidence.better),
    ]  # fmt: skip


def _means_before_retraining(found: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """The accuracies of vgg-small before retraining, means over the shares, by criterion, and those of the best rival at each."""
    if not (found.kind == "criteria").any():
        return pd.DataFrame(), NOTHING
    table = tables.untrained(found).loc["vgg-small"]
    return table.groupby("seed").mean(), table[list(tables.RIVALS)].max(axis=1).groupby("seed").mean()


def _difference(table: pd.DataFrame, first: str, second: str) -> pd.Series:
    """The paired differences of two columns, one per trained network; none where one of them was not measured."""
    return _against(table, first, table[second]) if second in table else NOTHING


def _against(table: pd.DataFrame, first: str, second: pd.Series) -> pd.Series:
    return (table[first] - second).dropna() if first in table else NOTHING


def _judged(claim: str, measured: str, differences: pd.Series, test: Callable, epochs: str = "20") -> Claim:
    """A claim about paired differences, one per trained network, or one that waits for its rows."""
    if not len(differences):
        return Claim(claim, measured, MISSING, None, epochs)
    spread = " ".join(f"{value:+.2f}" for value in differences)
    return Claim(claim, measured, f"by network: {spread}", test(differences, "cifar10"), epochs)
