"""What the rows of filter pruning say: sensitivities, orders, strategies, the table beside the paper's, and the main result."""

import math
from collections.abc import Iterator

import pandas as pd

from course_lib.experiments import rows
from course_lib.experiments.filter_plans import LIKE, PAPER
from course_lib.experiments.points_lost import ahead

# Of the comparison, where the filters that L1 chooses are retrained: network, times fewer MACs
SHAPES = (("vgg-small", 2), ("vgg-small", 4), ("resnet-20", 2))


def curves(found: pd.DataFrame, network: str) -> dict[str, pd.DataFrame]:
    """Return the scan of a network: layer -> accuracy in percent, a line per share pruned from 0 on, a column per seed."""
    scans = _scans(found, network)
    return {
        layer: pd.DataFrame({scan.Index: [scan.whole, *scan.curves[layer]] for scan in scans.itertuples()}, [0.0, *shares])
        for shares in scans.shares.iloc[:1]
        for layer in scans.curves.iloc[0]
    }


def points_lost(found: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return how sensitive each layer is: points lost when it alone is pruned, mean over the shares; a column per seed."""
    return pd.DataFrame({layer: curve.iloc[0] - curve.iloc[1:].mean() for layer, curve in curves(found, network).items()}).T


def flatness(found: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return how alike the norms of each layer are, their mean over their largest; a column per seed."""
    return pd.DataFrame(dict(_scans(found, network)["flatness"]))


def agreement(found: pd.DataFrame, network: str, measure: str) -> pd.Series:
    """Return, by seed, the rank correlation over the layers of a measure of the scan with the points lost.

    Args:
        found: recorded rows.
        network: of the scan.
        measure: 'flatness' or 'branches'; in a residual network both are compared over the first layers of the blocks.
    """
    scans, lost = _scans(found, network), points_lost(found, network)
    free = lost[~lost.index.str.contains("shortcut")]  # sums belong to several layers
    measures = pd.DataFrame(dict(scans[measure]))
    free = free if measure == "flatness" else free.rename(lambda layer: layer.removesuffix(".conv1"))
    return pd.Series({seed: measures.loc[free.index, seed].corr(free[seed], method="spearman") for seed in free})


def orders(found: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy in percent when one layer is pruned in an order: a line per order, layer, share and seed.

    The random order of a layer is the mean of its draws.
    """
    lines = [
        (order.rstrip(" 0123456789") if order.startswith("random") else order, layer, share, row.seed, accuracy)
        for row in found[found.kind == "orders"].itertuples()
        for order, of_layer in row.accuracies.items()
        for layer, accuracies in of_layer.items()
        for share, accuracy in zip(row.shares, accuracies, strict=True)
    ]
    table = pd.DataFrame(lines, columns=["order", "layer", "share", "seed", "accuracy"])
    return table.groupby(["order", "layer", "share", "seed"]).accuracy.mean().reset_index()


def over_layers(found: pd.DataFrame) -> pd.DataFrame:
    """Return `orders` averaged over the layers: a line per order and share, a column per seed."""
    return orders(found).pivot_table(index=["order", "share"], columns="seed", values="accuracy")


def layers_won(found: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return in how many layers one order leaves a higher accuracy than another: a line per share, a column per seed."""
    by_order = orders(found).pivot_table(index=["layer", "share", "seed"], columns="order", values="accuracy")
    return (by_order[first] > by_order[second]).groupby(["share", "seed"]).sum().unstack("seed")


def strategies(found: pd.DataFrame) -> pd.DataFrame:
    """Return the test accuracy of each strategy, not retrained: a line per network, share and seed, a column per strategy."""
    lines = found[found.kind == "strategies"]
    return lines.pivot_table(index=["network", "share", "seed"], columns="method", values="accuracy")


def both_measured(fair: pd.DataFrame, first: str, second: str) -> Iterator[tuple[str, int, pd.Series]]:
    """Yield network, times fewer MACs, and by how many points one arm is ahead of another, where both have been measured."""
    leads = ahead(fair, first, second)
    for shape in SHAPES:
        values = leads.loc[shape].dropna() if shape in leads.index else pd.Series(dtype=float)
        if len(values):
            yield *shape, values


def paper_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return those of the paper's results whose plan has been run, beside ours: points lost with the 95 % interval."""
    table = []
    for (network, plan), theirs in PAPER.items():
        if len(group := published(found, network, plan)):
            told = {
                "paper": f"{network}-{plan}",
                "fewer MACs": f"{theirs.fewer_macs} %",
                "error": f"{theirs.dense:.2f} -> {theirs.pruned:.2f} %",
                "from scratch": f"{theirs.scratch:.2f} %" if theirs.scratch else "-",
            }
            table.append(told | _here(group, plan))
    return pd.DataFrame(table)


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, a line per network and plan, for the table over all papers; columns as in `runner.HEADLINE`."""
    table = []
    for (network, plan), theirs in PAPER.items():
        group = published(found, network, plan)
        if group.empty:
            continue
        rate, errors = 100 / (100 - theirs.fewer_macs), f"{theirs.dense:.2f} -> {theirs.pruned:.2f} % error"
        about = {
            "network": ", ".join(sorted(set(group.network))),
            "data set": ", ".join(sorted(set(group.dataset))),
            "counted": "MACs",
            "published": f"{network}: {rate:.2f}x, {errors}",
            "rate": (group.dense_macs / group.macs).mean(),
        }
        table.append(about | rows.lost(group))
    return pd.DataFrame(table)


def _here(group: pd.DataFrame, plan: str) -> dict[str, str]:
    figures = rows.lost(group)
    ends = f"{figures['low']:+.2f} to {figures['high']:+.2f}" if math.isfinite(figures["low"]) else "one network"
    return {
        "here": f"{group.network.iloc[0]}-{plan}",
        "fewer MACs, here": f"{100 * (1 - group.macs / group.dense_macs).mean():.1f} %",
        "points lost, here": f"{figures['lost']:+.2f} ({ends})",
        "epochs": f"{group.epochs.max():g}",
        "networks": str(figures["networks"]),
    }


def published(found: pd.DataFrame, network: str, plan: str) -> pd.DataFrame:
    """Return the rows of our network that stands for one of the paper's, retrained as published; there may be none.

    `found` is of one scale: each has its own network for one of the paper's.
    """
    lines = found[found.kind == "as published"]
    return lines[(lines.network.map(LIKE) == network) & (lines.plan == plan)] if len(lines) else lines


def _scans(found: pd.DataFrame, network: str) -> pd.DataFrame:
    return found[(found.kind == "scan") & (found.network == network)].set_index("seed").sort_index()
