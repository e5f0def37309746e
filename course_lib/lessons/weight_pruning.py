"""What notebook 02 shows beside its cells: figures and tables of the recorded rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from course_lib import evidence
from course_lib.evidence import with_interval
from course_lib.notebook import Claim, plots


def chosen(rows: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the rows that have these values in these columns; a list names several that are allowed."""
    for column, value in values.items():
        rows = rows[rows[column].isin(value if isinstance(value, list) else [value])]
    return rows


def paired(rows: pd.DataFrame, first: Mapping[str, Any], second: Mapping[str, Any], column: str = "accuracy") -> list[float]:
    """Return, per trained network, a figure of one arm minus that of the other, in the order of the seeds.

    Args:
        rows: as `runner.recorded` gives them.
        first: column -> value of the rows of one arm; where that names several rows per network, their mean counts.
        second: the same of the other arm.
        column: the figure.

    Raises:
        ValueError: the arms are not of the same networks.
    """
    arms = [chosen(rows, **values).groupby("seed")[column].mean() for values in (first, second)]
    if arms[0].empty or list(arms[0].index) != list(arms[1].index):
        raise ValueError(f"the arms are of the networks {list(arms[0].index)} and {list(arms[1].index)}; expected the same ones")
    return (arms[0] - arms[1]).tolist()


def gained(rows: pd.DataFrame, **values: Any) -> list[float]:
    """Return, per trained network, the accuracy at the end minus that of the network that the run started from, in points."""
    found = chosen(rows, **values)
    return (found.accuracy - found.baseline).groupby(found.seed).mean().tolist()


# Of figure 5, in the order of their colours
CURVES = ("L2, no retraining", "L1, no retraining", "L1, retraining", "L2, retraining", "L2, iterative", "L2, one shot, long")


def tradeoff(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of figure 5 and their change of accuracy against the network of the seed trained with L2, in points."""
    curves = chosen(rows, kind="curves")
    dense = chosen(curves, group="L2").groupby("seed").baseline.first()
    return curves.assign(change=curves.accuracy - curves.seed.map(dense))


def tradeoff_figure(points: pd.DataFrame, curves: Sequence[str], title: str, lowest: float) -> plt.Figure:
    """Draw figure 5: mean change of accuracy against how many times fewer weights are left, with 95 % intervals.

    Args:
        points: as `tradeoff` gives them.
        curves: the methods to draw.
        title: the finding.
        lowest: where the axis of the changes ends, in points; what lies below is cut off.
    """
    fig, ax = plt.subplots(figsize=(plots.WIDTH, 4.4))
    for curve, colour, marker in zip(CURVES, plots.COLOURS, plots.MARKERS, strict=True):
        if curve in curves:
            changes = chosen(points, method=curve).groupby("rate").change
            mean, low, high = np.array([evidence.interval(found) for _, found in changes]).T
            rates = list(changes.groups)
            ax.plot(rates, mean, color=colour, marker=marker, markersize=4.5, label=curve)
            ax.fill_between(rates, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.set(title=title, xlabel="times fewer weights (log scale)", ylabel="accuracy against dense (points)")
    ax.set(xscale="log", ylim=(lowest, 0.3))
    ax.set_xticks(rates, [f"{rate:.0f}x" for rate in rates])
    ax.minorticks_off()
    ax.axhline(0, color=plots.INK, linewidth=0.8)
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def tradeoff_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return figure 5 in numbers: mean change of accuracy per curve and rate, and the epochs of retraining at the two ends.

    The dense network trained on stands in the column of the rate at which the iterative one has had as many epochs.
    """
    rates = chosen(points, method="L2, iterative").groupby("epochs").rate.first()
    points = points.assign(rate=points.rate.where(points.rate > 1, points.epochs.map(rates)))
    table = points.pivot_table(index="method", columns="rate", values="change", sort=False)
    table = table.sort_index(axis=1).map("{:+.2f}".format).rename(columns="{:.0f}x".format)
    table["epochs"] = [_span(chosen(points, method=method).epochs) for method in table.index]
    return table.rename_axis(columns=None, index="change of accuracy (points)").reset_index()


def learning_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the validation error per learning rate, network and epochs, in percent, means over the networks."""
    tried = chosen(rows, kind="lr")
    tried = tried.assign(error=100 - tried.validation)
    table = tried.pivot_table(index=["network", "epochs"], columns="lr", values="error").map(
        lambda error: "not run" if np.isnan(error) else f"{error:.2f}"
    )
    table = table.sort_index(axis=1, ascending=False).rename(columns="error at {:g} (%)".format).rename_axis(columns=None)
    return table.assign(networks=tried.groupby(["network", "epochs"]).seed.nunique()).reset_index()


def paths_figure(rows: pd.DataFrame, methods: Sequence[str], title: str) -> plt.Figure:
    """Draw the mean test error against epochs of retraining, with 95 % intervals.

    Args:
        rows: as `runner.recorded` gives them.
        methods: the variants to draw.
        title: the finding.
    """
    variants = chosen(rows, kind="variant", method=list(methods))
    epochs = variants.path_epochs.iloc[0]
    found = {}
    for method in methods:
        errors = 100 - np.array(chosen(variants, method=method).path.tolist())  # (networks, epochs)
        found[method] = np.array([evidence.interval(column) for column in errors.T])
    fig = plots.lines(
        epochs,
        {name: values[:, 0] for name, values in found.items()},
        title=title,
        xlabel=f"epochs of retraining (learning rate falls after {epochs[-2]})",
        ylabel="test error (%, log scale)",
        spread={name: (v[:, 1].clip(0.1), v[:, 2]) for name, v in found.items()},
    )
    fig.axes[0].set(yscale="log", xticks=epochs)
    fig.axes[0].yaxis.set_major_formatter("{x:g}")
    return fig


def arms(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return per arm, which these columns tell apart, its epochs, MACs, mean test error with its 95 % interval, and networks."""
    lines = []
    for names, found in rows.groupby(list(columns), sort=False):
        figures = (f"{found.epochs.mean():.0f}", f"{found.macs.mean():,.0f}", with_interval(100 - found.accuracy))
        names = [f"{name:.0f}x" if isinstance(name, float) else name for name in names]
        lines.append((*names, *figures, found.seed.nunique()))
    return pd.DataFrame(lines, columns=[*columns, "epochs", "MACs", "test error (%), 95 % interval", "networks"])


def claim(
    rows: pd.DataFrame,
    text: str,
    measured: str,
    arm: Mapping[str, Any],
    other: Mapping[str, Any] | None = None,
    judge=evidence.better,
) -> Claim:
    """Return the row of the table of claims that compares two arms, network by network.

    Args:
        rows: as `runner.recorded` gives them.
        text: the claim.
        measured: what is compared.
        arm: column -> value of the rows for which the claim speaks.
        other: the same of those it is compared with; None compares with the dense network from which each row started.
        judge: `evidence.better` or `evidence.no_worse`.
    """
    first = chosen(rows, **arm)
    second = first.assign(accuracy=first.baseline, epochs=0) if other is None else chosen(rows, **other)
    differences = gained(rows, **arm) if other is None else paired(rows, arm, other)
    here = f"{100 - first.accuracy.mean():.2f} and {100 - second.accuracy.mean():.2f} % error"
    epochs = " and ".join(_span(found.epochs) for found in (first, second))
    return Claim(text, measured, here, judge(differences, "mnist"), epochs)


def leads(rows: pd.DataFrame, pairs: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Return per rate of figure 5 how many points one curve is ahead of another, with the 95 % interval.

    Args:
        rows: as `runner.recorded` gives them.
        pairs: column of the table -> the two curves.
    """
    curves = chosen(rows, kind="curves")
    rates = sorted(chosen(curves, group="L2").rate.unique())
    table = {"rate": [f"{rate:.0f}x" for rate in rates]}
    for column, arms in pairs.items():
        table[column] = [
            with_interval(paired(curves, *(dict(method=arm, rate=rate) for arm in arms)), "{:+.2f}") for rate in rates
        ]
    return pd.DataFrame(table)


def lead(rows: pd.DataFrame, curve: str, other: str, rate: int) -> np.ndarray:
    """Return how many points one curve of figure 5 is ahead of another at a rate, on each network."""
    return np.array(paired(chosen(rows, kind="curves", rate=rate), dict(method=curve), dict(method=other)))


def most_sensitive(rows: pd.DataFrame, layer: str) -> Claim:
    """Return the claim that pruning this layer alone costs more accuracy than pruning any other one alone."""
    found = chosen(rows, kind="alone")
    accuracy = found.pivot(index="seed", columns="layer", values="accuracy")
    here = ", ".join(f"{name} {100 - values.mean():.1f} %" for name, values in accuracy.items()) + " error"
    differences = accuracy.drop(columns=layer).min(axis=1) - accuracy[layer]
    measured = f"{found.network.iloc[0]}, {found.sparsity.iloc[0]:.0%} of one layer pruned: {layer} against the worst other"
    return Claim(f"{layer} is the most sensitive layer", measured, here, evidence.better(differences, "mnist"), "0")


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"
