"""What the rows of channel pruning say, alone and beside those of the comparison, which has its networks retrained."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from course_lib.evidence import interval
from course_lib.experiments import points_lost, runner
from course_lib.experiments.channel_choices import LARGEST, LASSO, METHODS
from course_lib.experiments.rows import lost

# (network, times fewer MACs) -> what the paper reports of its network of the same kind
PAPER = {
    ("resnet-20", 2): "ResNet-56: 92.8 -> 91.8 % top-1",
    ("resnet-56", 2): "ResNet-56: 92.8 -> 91.8 % top-1",
    ("vgg-small", 2): "VGG-16, ImageNet, 2x: 0.0 points of top-5",
    ("vgg-small", 4): "VGG-16, ImageNet: 1.0 points of top-5",
    ("vgg-16", 2): "VGG-16, ImageNet, 2x: 0.0 points of top-5",
}


def compared(scale: str) -> pd.DataFrame:
    """Return the recorded rows of the comparison at a scale, without those that choose its recipe; empty where there are none."""
    try:
        found = runner.recorded("comparison", scale)
    except FileNotFoundError:
        return pd.DataFrame()
    chosen = found[found.kind.isin(("filters", "channels", "sums", "dense", "scratch"))]
    return points_lost.with_one_baseline(chosen)


def accuracies(fair: pd.DataFrame, network: str, rate: float, column: str = "accuracy") -> pd.DataFrame:
    """Return the accuracy of each arm of the comparison, a line per trained network, a column per method; dense ones too.

    Args:
        fair: from `compared`.
        network: such as 'vgg-small'.
        rate: times fewer MACs.
        column: 'accuracy', 'removed' (not retrained) or 'baseline'.
    """
    lines = fair[(fair.network == network) & (fair.counted == "MACs") & ((fair.rate == rate) | (fair.kind == "dense"))]
    return lines.pivot(index="seed", columns="method", values=column).astype(float)


def rates_with(fair: pd.DataFrame, *methods: str) -> list[tuple[str, int]]:
    """Return the (network, rate) at which the comparison has all networks of these methods."""
    lines = fair[(fair.counted == "MACs") & fair.method.isin(methods)]
    counts = lines.groupby(["network", "rate"]).size()
    return sorted(((net, int(rate)) for (net, rate), rows in counts.items() if rows == 3 * len(methods)), key=_order)


def _order(at: tuple[str, int]) -> tuple[bool, str, int]:
    return at[0].startswith("resnet"), *at


def alone(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of single layers, a line per network, layer, rate and method: points lost and reconstruction error."""
    lines = found[found.kind == "layer"]
    return lines.assign(lost=lines.baseline - lines.accuracy).astype(dict(speedup=int))


def leads(found: pd.DataFrame, other: str, column: str = "lost", method: str = LASSO) -> pd.DataFrame:
    """Return by how much a method loses less than another on single layers: a line per layer and trained network, by rate."""
    table = alone(found).pivot(index=["layer", "seed", "speedup"], columns="method", values=column)
    return (table[other] - table[method]).unstack("speedup")


def cases(found: pd.DataFrame, other: str, column: str = "lost", method: str = LASSO) -> tuple[int, int]:
    """Return in how many cases (a layer at a rate) a method loses less than another on average, and how many there are."""
    mean = leads(found, other, column, method).groupby("layer").mean()
    return int((mean > 0).sum().sum()), mean.size


def at_rate(found: pd.DataFrame, speedup: int, column: str = "lost") -> pd.DataFrame:
    """Return means over trained networks at a rate: a line per layer and one of their mean, a column per way of choosing."""
    lines = alone(found)
    table = lines[lines.speedup == speedup].pivot_table(index="layer", columns="method", values=column)[list(METHODS)]
    return pd.concat([table, table.mean().rename("mean").to_frame().T])


def before_and_after_fit(found: pd.DataFrame) -> pd.DataFrame:
    """Return the LASSO's error with W times beta and after least squares, and how many of its channels are among the largest."""
    lines = alone(found)
    lines = lines[lines.method == LASSO]
    lines = lines.assign(shared=100 * lines.shared / lines.keep)
    return lines.groupby(["layer", "speedup"], sort=False)[["penalty", "error_before_fit", "error", "shared"]].mean()


def by_samples(found: pd.DataFrame, fair: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy by number of images and positions, a line per trained network; the comparison has the most samples."""
    lines = found[(found.kind == "samples") & (found.method == LASSO)].astype(dict(images=int, positions=int))
    table = lines.pivot(index="seed", columns=["images", "positions"], values="accuracy")
    if "removed" in fair:
        most = accuracies(fair, lines.network.iloc[0], 2, "removed")
        table[5_000, 10] = most[LASSO]
    return table[sorted(table, key=lambda at: (at[0] * at[1], at[0]))]


def by_ridge(found: pd.DataFrame, column: str = "error") -> pd.DataFrame:
    """Return a figure of the layer that is fitted with a ridge: a line per number of samples, a column per ridge, means."""
    lines = found[found.kind == "ridge"].astype(dict(samples=int))
    return lines.pivot_table(index="samples", columns="ridge", values=column)


def by_rules(found: pd.DataFrame) -> pd.DataFrame:
    """Return the points lost under each of the rules for residual networks, a line per trained network."""
    lines = found[found.kind == "rules"]
    return lines.assign(lost=lines.baseline - lines.accuracy).pivot(index="seed", columns="rules", values="lost")


def not_retrained(found: pd.DataFrame, fair: pd.DataFrame, rate: int) -> pd.DataFrame:
    """Return accuracies of the plain network at a rate, not retrained, all with least squares: a column per way of choosing."""
    lines = found[(found.kind == "refitted") & (found.rate == rate)]
    table = lines.pivot(index="seed", columns="method", values="removed")
    if len(lines) and "removed" in fair:
        measured = accuracies(fair, lines.network.iloc[0], rate, "removed")
        table = pd.concat([measured[[method for method in (LASSO, LARGEST) if method in measured]], table], axis=1)
    return table


def paper_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return 'paper / here' after retraining, from the comparison's rows of the same scale: means over trained networks."""
    fair, table = compared(found.scale.iloc[0]), []
    for network, rate in rates_with(fair, LASSO) if len(fair) else []:
        lines = fair[(fair.network == network) & (fair.rate == rate) & (fair.method == LASSO)]
        loss, low, high = interval(lines.baseline - lines.accuracy)
        table.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(lines.dataset))),
                "MACs": f"{rate:g}x less",
                "paper": PAPER.get((network, rate), "-"),
                "top-1 accuracy here: whole, pruned, retrained": " -> ".join(
                    f"{lines[step].mean():.2f}" for step in ("baseline", "removed", "accuracy")
                ) + " %",
                "points lost": f"{loss:.2f} ({low:.2f} to {high:.2f})",
                "epochs": f"{lines.epochs.iloc[0]:g}",
                "networks": len(lines),
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, from the comparison's rows of the same scale; columns as in `runner.HEADLINE`."""
    fair = compared(found.scale.iloc[0])
    return pd.DataFrame([_line(fair, *at) for at in rates_with(fair, LASSO)] if len(fair) else [])


def _line(fair: pd.DataFrame, network: str, rate: int) -> Mapping[str, Any]:
    lines = fair[(fair.network == network) & (fair.rate == rate) & (fair.method == LASSO)]
    about = {"network": network, "data set": ", ".join(sorted(set(lines.dataset))), "counted": "MACs"}
    return about | dict(published=PAPER.get((network, rate), "-"), rate=float(rate)) | lost(lines)
