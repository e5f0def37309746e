"""What notebook 04 shows beside its cells: figures and claims of recorded rows."""

import math
from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from course_lib import evidence
from course_lib.experiments import filter_tables as tables
from course_lib.experiments.filter_plans import PAPER
from course_lib.experiments.points_lost import ahead, arms
from course_lib.notebook import Claim, plots
from course_lib.notebook.plots import BLUE, VERMILION

# Orders that the figure shows; the others stand in the table
DRAWN = ("smallest L1", "random", "largest L1", "mean std", "mean", "variance of L2")
# Arms of the fair grid that bear on this paper
ARMS = ("L1", "random", "scratch-E", "scratch-B", "dense")
SHAPES = (("vgg-small", 2), ("vgg-small", 4), ("resnet-20", 2))  # network, times fewer MACs


def with_interval(values: pd.Series, form: str = "{:+.2f}") -> str:
    """Return the mean over networks and its 95 % interval, in words."""
    if len(values) == 1:
        return f"{form.format(values.mean())} (one network)"
    return "{} ({} to {})".format(*(form.format(figure) for figure in evidence.interval(values)))


def networks_needed(differences: pd.Series) -> int:
    """Return how many networks would decide whether a difference is relevant, if all scatter as these few do."""
    deviation, gap = differences.std(ddof=1), abs(abs(differences.mean()) - evidence.RELEVANT["cifar10"])
    return next((n for n in range(2, 1000) if stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n) < gap), 1000)


def scan_figure(curves: Mapping[str, pd.DataFrame], title: str) -> plt.Figure:
    """Draw the accuracy against the share pruned: the mean over networks of each layer, and the lowest and highest as a band.

    Args:
        curves: of `filter_tables.curves`; layers of stages are drawn stage by stage.
        title: the finding.
    """
    stages = sorted({layer.split(".")[0] for layer in curves}) if any("." in layer for layer in curves) else [""]
    fig, axes = plt.subplots(1, len(stages), figsize=(7.0, 3.6), sharey=True, squeeze=False)
    for stage, ax in zip(stages, axes[0], strict=True):
        layers = [layer for layer in curves if layer.startswith(stage)]
        for layer, marker, colour in zip(layers, plots.MARKERS, plots.COLOURS, strict=False):
            curve, whole_sum = curves[layer], "shortcut" in layer
            label = "sum" if whole_sum else f"{layer[5:8]}, first layer" if stage else layer
            shares = 100 * curve.index.to_numpy()
            ax.plot(shares, curve.mean(axis=1), marker=marker, ls="--" if whole_sum else "-", color=colour, label=label)
            ax.fill_between(shares, curve.min(axis=1), curve.max(axis=1), color=colour, alpha=0.15, linewidth=0)
        ax.set(title=stage.replace("stage", "stage "), xlabel="filters pruned in one layer (%)")
        ax.legend(fontsize=7.5)
    axes[0, 0].set_ylabel("accuracy (%), validation images")
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


def orders_figure(accuracies: pd.DataFrame, title: str) -> plt.Figure:
    """Draw the accuracy against the share pruned in one layer, a curve with its 95 % interval per order of `over_layers`."""
    means = {order: [evidence.interval(row) for _, row in accuracies.loc[order].iterrows()] for order in DRAWN}
    ends = {order: tuple(np.clip(np.transpose(values)[1:], 0, 100)) for order, values in means.items()}
    fig = plots.lines(
        100 * accuracies.loc[DRAWN[0]].index.to_numpy(), {order: np.transpose(values)[0] for order, values in means.items()},
        title=title, xlabel="filters pruned in one layer (%)", ylabel="accuracy (%), mean over the layers", spread=ends,
    )  # fmt: skip
    fig.axes[0].set_ylim(0, 100)
    return fig


def orders_table(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Return `over_layers` in words: an order per line, with the mean over networks and its 95 % interval at each share."""
    words = accuracies.apply(lambda row: with_interval(row, "{:.1f}"), axis=1).unstack("share")
    words = words.loc[accuracies.mean(axis=1).groupby("order").mean().sort_values(ascending=False).index]
    return words.rename(columns="{:.0%} pruned".format).reset_index(names="accuracy (%)")


def retrained_figure(fair: pd.DataFrame, title: str) -> plt.Figure:
    """Draw the points lost by L1 and by random filters, network by network, before and after retraining on equal terms."""
    lines = arms(fair)
    fig, axes = plt.subplots(1, 2, figsize=(7.0, 3.4))
    for ax, column, when in zip(axes, ("lost_at_once", "lost"), ("not retrained", "after retraining"), strict=True):
        for place, (network, rate) in enumerate(SHAPES):
            here = lines[(lines.network == network) & (lines.rate == rate)]
            for shift, method, colour in ((-0.15, "L1", BLUE), (0.15, "random", VERMILION)):
                values = here[here.method == method][column]
                ax.scatter([place + shift] * len(values), values, s=22, color=colour, label=method if not place else None)
                ax.plot([place + shift - 0.1, place + shift + 0.1], [values.mean()] * 2, color=colour)
        ax.set_xticks(range(len(SHAPES)), [f"{network}\n{rate}x" for network, rate in SHAPES])
        ax.set(title=when, ylabel="points of test accuracy lost", ylim=(0, None))
    axes[1].legend()
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


def retrained_table(fair: pd.DataFrame) -> pd.DataFrame:
    """Return what the arms of the fair grid lose: a line per shape and arm, the mean over networks with the 95 % interval."""
    lines, table = arms(fair), []
    for network, rate in SHAPES:
        for method in ARMS:
            group = lines[(lines.network == network) & (lines.rate == rate) & (lines.method == method)]
            if len(group):
                at_once = f"{group.lost_at_once.mean():.1f}" if group.lost_at_once.notna().all() else "-"
                about = (network, f"{rate}x" if method != "dense" else "1x", method, f"{group.epochs.mean():g}")
                table.append((*about, at_once, with_interval(group.lost), str(group.seed.nunique())))
    columns = ["network", "fewer MACs", "arm", "epochs", "points lost, not retrained", "points lost in the end", "networks"]
    return pd.DataFrame(table, columns=columns).drop_duplicates()  # the dense network is the same for each shape


def papers_claims(found: pd.DataFrame, fair: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims, judged by recorded rows: its own, and the fair grid's where something is retrained."""
    alone, choices = tables.over_layers(found), tables.strategies(found).loc["resnet-20"]
    won = tables.layers_won(found, "smallest L1", "random")
    most = choices.index.get_level_values("share").max()
    greedy, independent = (choices.xs(most, level="share")[name] for name in ("greedy", "independent"))
    flat = tables.agreement(found, "vgg-small", "flatness")
    where = "one layer of vgg-small, not retrained"
    return [
        _headline(found),
        Claim("the smallest are a better choice than random ones in most layers (figure 8)",
              f"{where}: layers of 6 beyond 3, mean over the shares",
              f"in {won.to_numpy().mean():.1f} of 6 layers", evidence.verdict(won.mean() - 3), "0"),
        _against("removing the largest first is worst (figure 8)", f"random / largest L1, {where}",
                 alone.loc["random"].mean(), alone.loc["largest L1"].mean(), "0"),
        _against("the std of maps falls behind L1 beyond 60 % (figure 9)", f"L1 / mean std, {where}, 90 %",
                 alone.loc[("smallest L1", 0.9)], alone.loc[("mean std", 0.9)], "0"),
        _against("greedy beats independent where much is pruned (section 3.3)",
                 f"greedy / independent, resnet-20, {most:.0%} of every layer, not retrained", greedy, independent, "0"),
        Claim("layers with flat norms are sensitive (section 3.2)", "vgg-small, rank correlation of flatness and points lost",
              f"{flat.mean():.2f} over 6 layers", evidence.verdict(flat), "0"),
        _retrained(fair, "old weights beat random ones (VGG-16-A: 6.60 against 6.88 %)", "vgg-small", 2, "L1", "scratch-E"),
        _retrained(fair, "the same (ResNet-56-B: 6.94 against 8.69 %)", "resnet-20", 2, "L1", "scratch-E"),
    ]  # fmt: skip


def own_claims(found: pd.DataFrame, fair: pd.DataFrame) -> list[Claim]:
    """Return what we asked beyond the paper, judged by recorded rows."""
    adds = tables.agreement(found, "resnet-20", "branches")
    lossless = arms(fair)
    lossless = lossless[(lossless.network == "vgg-small") & (lossless.rate == 2) & (lossless.method == "L1")]
    return [
        *(_retrained(fair, "once retrained, random filters are as good as L1", network, rate, "random", "L1", evidence.no_worse)
          for network, rate in SHAPES),
        Claim("half of the MACs go at no loss", "L1 / the trained network, vgg-small, 2x",
              f"{lossless.accuracy.mean():.2f} / {lossless.baseline.mean():.2f} % right",
              evidence.no_worse(-lossless.lost, "cifar10"), f"{lossless.epochs.mean():g}"),
        Claim("a block is sensitive where its branch adds much", "resnet-20, rank correlation of both over the blocks",
              f"{adds.mean():.2f} over 9 blocks", evidence.verdict(adds), "0"),
    ]  # fmt: skip


def _headline(found: pd.DataFrame) -> Claim:
    """The paper's first result, by its own retraining; not tested where it has not been run."""
    lines, published = found[(found.kind == "as published") & (found.network == "vgg-small")], PAPER["VGG-16", "A"]
    claim = f"VGG: {published.fewer_macs} % fewer MACs at no loss ({published.dense:.2f} -> {published.pruned:.2f} %)"
    if lines.empty:
        return Claim(claim, "VGG-16-A, constant rate of 0.001", "-", None)
    fewer = 100 * (1 - lines.macs / lines.dense_macs).mean()
    here = f"{lines.baseline.mean():.2f} -> {lines.accuracy.mean():.2f} % right at {fewer:.1f} % fewer"
    lossless = evidence.no_worse(lines.accuracy - lines.baseline, "cifar10")
    return Claim(claim, "vgg-small-A, constant rate of 0.001", here, lossless, f"{lines.epochs.max():g}")


def _retrained(
    fair: pd.DataFrame, claim: str, network: str, rate: int, first: str, second: str, test: Callable = evidence.better
) -> Claim:
    """A claim about two arms of the fair grid, at equal widths and epochs."""
    difference, lines = ahead(fair, first, second).loc[(network, rate)].dropna(), arms(fair)
    lines = lines[(lines.network == network) & (lines.rate == rate) & lines.seed.isin(difference.index)]
    lines = lines[lines.method.isin((first, second))]
    ends = lines.groupby("method").accuracy.mean()
    here = f"{ends[first]:.2f} / {ends[second]:.2f} % right"
    measured = f"{first} / {second}, {network}, {rate}x fewer MACs"
    return Claim(claim, measured, here, test(difference, "cifar10"), f"{lines.epochs.mean():g}")


def _against(
    claim: str, measured: str, first: pd.Series, second: pd.Series, epochs: str, test: Callable = evidence.better
) -> Claim:
    """A claim about the accuracies of two arms, each by network."""
    here = f"{first.mean():.2f} / {second.mean():.2f} % right"
    return Claim(claim, measured, here, test(first - second, "cifar10"), epochs)
