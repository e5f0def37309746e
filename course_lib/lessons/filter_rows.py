"""What notebook 04 shows of recorded rows: the scan, the orders of removal, and what is left of them after retraining."""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from scipy import stats

from course_lib import evidence
from course_lib.evidence import with_interval
from course_lib.experiments import filter_tables as tables
from course_lib.experiments.filter_plans import PAPER
from course_lib.experiments.points_lost import arms
from course_lib.notebook import plots
from course_lib.notebook.plots import BLUE, VERMILION

# Orders that the figure shows; the others stand in the table
DRAWN = ("smallest L1", "random", "largest L1", "mean std", "mean", "variance of L2")
# Arms of the fair grid: what the pruned network is compared with
ARMS = ("L1", "scratch-E", "scratch-B", "dense")


def flatness_table(found: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return the flatness of each layer's norms and the points lost with it pruned alone, mean over the shares, by network."""
    flat = tables.flatness(found, network).map("{:.2f}".format)
    lost = tables.points_lost(found, network).loc[flat.index].map("{:.0f}".format)
    columns = {"flatness": flat.agg(", ".join, axis=1), "points lost, mean of the shares": lost.agg(", ".join, axis=1)}
    return pd.DataFrame(columns).rename_axis("layer").reset_index()


def networks_needed(differences: pd.Series) -> int:
    """Return how many networks would decide whether a difference is relevant, if all scatter as these few do."""
    deviation, gap = differences.std(ddof=1), abs(abs(differences.mean()) - evidence.RELEVANT["cifar10"])
    return next((n for n in range(2, 1000) if stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n) < gap), 1000)


def measured_on(found: pd.DataFrame) -> str:
    """Return where rows of one scale come from: the networks, the data set, the machines and the command."""
    devices, first = ", ".join(sorted(set(found.device))), found.iloc[0]
    networks = f"{found.seed.nunique()} trained networks of each kind, {first.dataset}, until {found.date.max()}"
    command = f"python -m course_lib reproduce {first.experiment.replace('_', '-')} --scale {first.scale}"
    return f"{networks}, on {devices}: {command}"


def at_half(curves: Mapping[str, pd.DataFrame]) -> pd.Series:
    """Return the points lost with half of a layer's filters removed, a layer each, the least first; means over networks."""
    return pd.Series({layer: (curve.iloc[0] - curve.loc[0.5]).mean() for layer, curve in curves.items()}).sort_values()


def scan_figure(curves: Mapping[str, pd.DataFrame], title: str) -> plt.Figure:
    """Draw the accuracy against the share pruned: the mean over networks of each layer, and the lowest and highest as a band.

    Args:
        curves: of `filter_tables.curves`; layers of stages are drawn stage below stage.
        title: the finding.
    """
    stages = sorted({layer.split(".")[0] for layer in curves}) if any("." in layer for layer in curves) else [""]
    size = (plots.WIDTH, 4.2 if len(stages) == 1 else 2.9 * len(stages))
    fig, axes = plt.subplots(len(stages), 1, figsize=size, sharex=True, squeeze=False)
    for stage, ax in zip(stages, axes[:, 0], strict=True):
        layers = [layer for layer in curves if layer.startswith(stage)]
        for number, layer in enumerate(layers):
            curve, whole_sum = curves[layer], "shortcut" in layer
            number = int(layer[7]) if stage else number  # a block has one colour in every stage
            marker, colour = ("x", plots.INK) if whole_sum else (plots.MARKERS[number], plots.COLOURS[number])
            label = "the sum" if whole_sum else f"block {layer[7]}, conv1" if stage else layer
            shares = 100 * curve.index.to_numpy()
            ax.plot(shares, curve.mean(axis=1), marker=marker, ls="--" if whole_sum else "-", color=colour, label=label)
            ax.fill_between(shares, curve.min(axis=1), curve.max(axis=1), color=colour, alpha=0.15, linewidth=0)
        ax.set(title=stage.replace("stage", "stage "), ylabel="accuracy (%)", ylim=(0, 100))
        ax.legend(loc="lower left")
    axes[-1, 0].set_xlabel("filters pruned in one layer (%)")
    fig.suptitle(title, x=0.01, ha="left")
    return fig


def branches_figure(found: pd.DataFrame, title: str) -> plt.Figure:
    """Draw the points that each block of ResNet-20 loses against how much its branch adds, network by network."""
    adds = pd.DataFrame({row.seed: row.branches for row in found.itertuples() if row.name == "scan resnet-20"})
    lost = tables.points_lost(found, "resnet-20").rename(lambda layer: layer.removesuffix(".conv1")).loc[adds.index]
    fig, ax = plt.subplots(figsize=(plots.WIDTH, 3.6))
    for seed, marker in zip(adds, plots.MARKERS, strict=False):
        ax.scatter(adds[seed], lost[seed], marker=marker, label=f"network {seed}")
    ax.set(title=title, xlabel="standard deviation of what the branch adds", ylabel="points lost, mean over the shares")
    ax.legend()
    return fig


def orders_figure(accuracies: pd.DataFrame, title: str) -> plt.Figure:
    """Draw the accuracy against the share pruned in one layer, a curve per order of `over_layers`.

    A curve is the mean over the networks, with a band from the lowest to the highest of them.
    """
    curves = {order: accuracies.loc[order] for order in DRAWN}
    fig = plots.lines(
        100 * accuracies.loc[DRAWN[0]].index.to_numpy(), {order: curve.mean(axis=1) for order, curve in curves.items()},
        title=title, xlabel="filters pruned in one layer (%)", ylabel="accuracy (%), mean of the layers",
        spread={order: (curve.min(axis=1), curve.max(axis=1)) for order, curve in curves.items()},
    )  # fmt: skip
    fig.set_figheight(4.4)
    fig.axes[0].set_ylim(0, 100)
    return fig


def orders_table(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Return `over_layers` in words, an order per line: the mean over the networks, the lowest and the highest, at each share."""
    words = accuracies.apply(lambda row: f"{row.mean():.1f} ({row.min():.1f} to {row.max():.1f})", axis=1).unstack("share")
    words = words.loc[accuracies.mean(axis=1).groupby("order").mean().sort_values(ascending=False).index]
    return words.rename(columns="{:.0%} pruned".format).rename_axis(columns=None).reset_index(names="accuracy (%)")


def orders_by_layer(found: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return where one order is ahead of another: in how many layers of each network, and by how much in each layer, on average.

    Args:
        found: recorded rows.
        first: an order of removal.
        second: another one.
    """
    by_order = tables.orders(found).pivot_table(index=["share", "layer", "seed"], columns="order", values="accuracy")
    lead = (by_order[first] - by_order[second]).groupby(["share", "layer"]).mean().unstack("layer")
    won = tables.layers_won(found, first, second)
    words = lead.map(lambda points: f"{round(points):+d}").rename_axis(columns=None)
    words.insert(0, "layers won, by network", [", ".join(map(str, won.loc[share])) for share in words.index])
    words.insert(0, "pruned", [f"{share:.0%}" for share in words.index])
    return words


def retrained_figure(fair: pd.DataFrame, title: str) -> plt.Figure:
    """Draw the points lost by L1 and by random filters, network by network, before and after retraining on equal terms."""
    lines, shapes = arms(fair), [shape[:2] for shape in tables.both_measured(fair, "L1", "random")]
    fig, axes = plt.subplots(2, 1, figsize=(plots.WIDTH, 5.2))
    lines = lines[lines.method.isin(("L1", "random"))].set_index(["network", "rate"]).loc[shapes].reset_index()
    for ax, column, when in zip(axes, ("lost_at_once", "lost"), ("not retrained", "after retraining"), strict=True):
        for place, (network, rate) in enumerate(shapes):
            here = lines[(lines.network == network) & (lines.rate == rate)]
            pairs = here.pivot_table(index="method", columns="seed", values=column).loc[["L1", "random"]]
            ax.plot([place - 0.15, place + 0.15], pairs, color="0.7", linewidth=0.8, zorder=0)
            for shift, method, colour in ((-0.15, "L1", BLUE), (0.15, "random", VERMILION)):
                values = here[here.method == method][column]
                ax.scatter([place + shift] * len(values), values, s=22, color=colour, label=method if not place else None)
                ax.plot([place + shift - 0.1, place + shift + 0.1], [values.mean()] * 2, color=colour)
        ax.set_xticks(range(len(shapes)), [f"{network}, {rate}x" for network, rate in shapes])
        ax.set(title=when, ylabel="points lost", ylim=(0, 1.1 * lines[column].max()))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    fig.suptitle(title, x=0.01, ha="left")
    return fig


def retrained_table(fair: pd.DataFrame) -> pd.DataFrame:
    """Return what the arms of the fair grid lose: a line per shape and arm, the mean over networks with the 95 % interval."""
    lines, table = arms(fair), []
    for network, rate in tables.SHAPES:
        for method in ARMS:
            group = lines[(lines.network == network) & (lines.rate == rate) & (lines.method == method)]
            if len(group):
                at_once = f"{group.lost_at_once.mean():.1f}" if group.lost_at_once.notna().all() else "-"
                about = (network, f"{rate}x" if method != "dense" else "1x", method, f"{group.epochs.mean():g}")
                table.append((*about, at_once, with_interval(group.lost, "{:+.2f}"), str(group.seed.nunique())))
    columns = ["network", "fewer MACs", "arm", "epochs", "lost, not retrained", "points lost in the end", "networks"]
    return pd.DataFrame(table, columns=columns).drop_duplicates()  # the dense network is the same for each shape


def schedules(found: pd.DataFrame, large: pd.DataFrame, fair: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's way to retrain beside ours: what is pruned, epochs, learning rate, what is reported, points lost.

    Args:
        found: recorded rows of this paper at lesson scale, on vgg-small.
        large: at paper scale, on VGG-16.
        fair: rows of the comparison.
    """
    published = PAPER["VGG-16", "A"]
    theirs = "40", "0.001, constant", "the best epoch, test set", f"{published.pruned - published.dense:+.2f}"
    lines = [("paper: VGG-16-A", f"{published.fewer_macs} %", *theirs)]
    for ours in (tables.published(kept, "VGG-16", "A") for kept in (large, found)):
        if len(ours):
            fewer, lost = 100 * (1 - ours.macs / ours.dense_macs).mean(), with_interval(ours.baseline - ours.accuracy, "{:+.2f}")
            how = f"{ours.epochs.max():g}", "0.001, constant", "the last epoch"
            lines.append((f"here: {ours.network.iloc[0]}-A", f"{fewer:.1f} %", *how, lost))
    grid = arms(fair)
    for network in ("vgg-small", "resnet-20"):
        group = grid[(grid.network == network) & (grid.rate == 2) & (grid.method == "L1")]
        lr = ", ".join(f"{rate:g}" for rate in sorted(set(group.lr)))
        how = f"{group.epochs.max():g}", f"rises to {lr}, falls to 0", "the last epoch"
        lines.append((f"grid: {network}", "50 %", *how, with_interval(group.lost, "{:+.2f}")))
    return pd.DataFrame(lines, columns=["plan", "fewer MACs", "epochs", "learning rate", "reported", "points lost"])
