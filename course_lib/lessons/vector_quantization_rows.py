"""What notebook 01 shows of recorded rows: figures and tables over five trained networks of each kind."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from course_lib import evidence
from course_lib.evidence import with_interval
from course_lib.experiments import quantization_tables as tables
from course_lib.experiments import rate_and_loss
from course_lib.experiments import vector_quantization as runs
from course_lib.notebook.plots import BLUE, COLOURS, GREEN, INK, MARKERS, ORANGE, PURPLE, VERMILION

METHOD_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, INK)
CUT = 5  # points lost, above which figures are cut off
FINDINGS = {  # of `tradeoff`; a test holds them against the recorded rows
    "lenet-300-100": "At 8 times smaller, LeNet-300-100 loses over\nthree points by SVD, almost none by k-means",
    "lenet-5": "At 16 times smaller, LeNet-5 loses over a point\nby RQ and SVD, almost none by PQ",
}


def tradeoff(recorded: pd.DataFrame, network: str) -> plt.Figure:
    """Return a figure of points lost against rate, the last layer exact: of each method the settings on its frontier.

    A line is the mean over the trained networks on test images, its band the 95 % interval of that mean. Validation images
    choose which settings are drawn. Above `CUT` points the figure is cut off; a method that lies above it is left out.
    """
    points = rate_and_loss.settings(recorded, runs.LAST_EXACT)
    points = points[points.network == network]
    fig, ax = plt.subplots(figsize=(5.0, 4.2))
    for (method, name), marker, colour in zip(tables.METHODS.items(), MARKERS, METHOD_COLOURS, strict=True):
        best = rate_and_loss.frontier(points[points.method == method])
        if best.lost.min() <= CUT:
            _curve(ax, best, "rate", marker, colour, name)
    ax.set_title(FINDINGS[network])
    ax.set(ylim=(-0.2, CUT), xlim=(1.8, 50), ylabel=f"test accuracy lost on {points.dataset.iloc[0]} (points)")
    _rate_axis(ax, [2, 4, 8, 16, 32])
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def _curve(ax: plt.Axes, points: pd.DataFrame, rate: str, marker: str, colour: str, name: str) -> None:
    # Scalar k-means lies on PQ in places, and the signs on both: drawn on top, and as open markers, all can be seen
    single = dict(linestyle="none", markersize=9, markerfacecolor="none", markeredgewidth=1.5) if len(points) == 1 else {}
    style = dict(markersize=4.5, zorder=3 if name == tables.METHODS["scalar"] else 2) | single
    ax.plot(points[rate], points.lost, marker=marker, color=colour, label=name, **style)
    ax.fill_between(points[rate], points.low, points.high, color=colour, alpha=0.18, linewidth=0)


def _rate_axis(ax: plt.Axes, ticks: list[int], what: str = "times smaller") -> None:
    ax.set(xscale="log", xlabel=f"{what} (log scale)")
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def comparison_table(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return what each method reaches: its highest rate within a point, chosen on validation, and the settings `compared`."""
    furthest = rate_and_loss.best_rates(rate_and_loss.settings(recorded, runs.LAST_EXACT))
    table = {"points lost at the highest rate within 1 point, last layer exact": furthest[furthest.within]}
    table |= {
        "points lost near the rate of k = 4, last layer exact": tables.compared(recorded, runs.LAST_EXACT),
        "points lost near the rate of k = 4, all layers coded": tables.compared(recorded, runs.ALL),
    }
    cells = {name: chosen.set_index(["network", "method"]).apply(_lost_at, axis=1) for name, chosen in table.items()}
    highest = next(iter(cells))  # its settings differ, so it names them
    cells[highest] += furthest.set_index(["network", "method"]).apply(_named, axis=1)
    lines = pd.DataFrame(
        cells, index=pd.MultiIndex.from_product([tables.NAMES, tables.METHODS], names=["network", "method"])
    ).fillna("none")
    return lines.rename(tables.NAMES | tables.METHODS).reset_index()


def _named(one: pd.Series) -> str:
    """Return the setting of a line of network and method, where its rate does not say it."""
    method = one.name[1]
    return "" if method == "low rank" or not one.setting else f": {_told(method, one.setting)}"


def _lost_at(one: pd.Series) -> str:
    return f"{one.lost:.2f} ({one.low:.2f} to {one.high:.2f}) at {one.rate:.1f}x"


def sweep_figure(points: pd.DataFrame) -> plt.Figure:
    """Return a figure of points lost against both rates of `sweep_points`, a curve per k, bands as in `tradeoff`."""
    fig, axes = plt.subplots(2, 1, figsize=(5.0, 6.6), sharex=True)
    titles = {"rate_without_codebooks": "Without codebooks", "rate": "With codebooks"}
    within = points[points.lost_validation <= 1]
    for ax, (rate, title) in zip(axes, titles.items(), strict=True):
        title += f", k = {within.k[within[rate].idxmax()]} goes furthest"
        for (k, group), marker, colour in zip(points.groupby("k"), MARKERS, COLOURS, strict=False):
            _curve(ax, group.sort_values("length"), rate, marker, colour, f"k = {k}")
        _rate_axis(ax, [4, 8, 16, 32, 64], "times smaller, fc1 alone")
        ax.set(ylim=(-0.2, CUT), xlim=(3.5, 100), ylabel="test accuracy lost\non mnist (points)", title=title)
    axes[0].set_xlabel("")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def alone_table(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the test points lost with one layer coded, and with all: mean, 95 % interval and rate of what is coded."""
    table: dict[str, dict[str, str]] = {}
    for (network, method, setting, layers), group in rate_and_loss.lines(recorded, "alone").groupby(
        ["network", "method", "setting", "layers"], sort=False
    ):
        rate = group.rate.mean() if layers == runs.ALL else tables.layer_rate(network, layers, method, setting)
        name = f"{tables.NAMES[network]}: {tables.METHODS[method]}, {_told(method, setting)}"
        table.setdefault(name, {})[layers] = f"{with_interval(group.lost)} at {rate:.1f}x"
    columns = ["fc1", "fc2", "fc3", runs.ALL]
    lines = pd.DataFrame.from_dict(table, orient="index")[columns].fillna("-")
    return lines.rename_axis("points lost on mnist").reset_index()


def pairs_table(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the test points that fc2 and fc3 of LeNet-300-100 lose alone by PQ, and what fc1 loses near the same rate."""
    pairs = tables.pairs_of_layers(recorded)
    alone, fc1 = ([f"{with_interval(arm.lost)} at {arm.rate:.1f}x" for arm in arms] for arms in zip(*pairs.values(), strict=True))
    name = "layer of LeNet-300-100 coded by PQ"
    return pd.DataFrame({name: list(pairs), "points lost": alone, "points that fc1 loses near that rate": fc1})


def most_fragile(recorded: pd.DataFrame, method: str, network: str = "lenet-300-100") -> str:
    """Return the layer that loses most points on test images when it alone is coded by a method of METHODS' names."""
    codes = {name: code for code, name in tables.METHODS.items()}
    return tables.lost_alone(recorded, network, codes[method]).drop(columns=runs.ALL).mean().idxmax()


def _told(method: str, setting: tuple[int, ...]) -> str:
    """Return a setting in words; PQ clusters columns unless it says rows."""
    form = {"scalar": "k = {}", "product": "k = {}, d = {}", "residual": "k = {}, t = {}", "low rank": "{}x"}[method]
    return form.format(*setting) + (", rows" if method == "product" and setting[2:] == (1,) else "")


def structure_figure(recorded: pd.DataFrame) -> plt.Figure:
    """Return bars of the squared error of fc1 with its weights in several orders, as multiples of that of the trained order.

    A bar is the mean over the trained networks, with its 95 % interval.
    """
    times = tables.structure_factors(recorded)
    layouts = [layout for layout in times.columns.levels[1] if layout != "trained"]
    names = {"scalar": "scalar\nk-means", "product": "PQ over\nrows", "residual": "RQ over\ncolumns", "low rank": "SVD"}
    fig, ax = plt.subplots(figsize=(5.0, 6.0))
    height = 0.8 / len(layouts)
    for i, (layout, colour) in enumerate(zip(layouts, COLOURS, strict=False)):
        mean, low, high = np.transpose([evidence.interval(times[method, layout]) for method in names])
        places = np.arange(len(names)) + (i - (len(layouts) - 1) / 2) * height
        ax.barh(places, mean, height * 0.9, color=colour, label=layout)
        ax.errorbar(mean, places, xerr=[mean - low, high - mean], fmt="none", ecolor=INK, capsize=2)
    ax.axvline(1, color=INK, linewidth=1)
    ax.set_yticks(range(len(names)), names.values())
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set_title("Separating neighbours hurts PQ;\nRQ and SVD need columns that line up")
    ax.set_xlabel("squared error (times that of the trained order)")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def structure_table(recorded: pd.DataFrame, guesses: Mapping[str, str]) -> pd.DataFrame:
    """Return the squared error of fc1 in each changed order, as a multiple of that of the trained order: a line per method.

    Args:
        recorded: rows as of `runner.recorded`; the multiples are means over their trained networks.
        guesses: name of a method -> the order that a reader expects to hurt it.
    """
    times, lines = tables.structure_factors(recorded).mean(), []
    for method, setting in runs.STRUCTURE.items():
        name, rate = tables.METHODS[method], tables.layer_rate("lenet-300-100", "fc1", method, setting)
        told = {"error of fc1 (trained order: 1)": f"{name}, {_told(method, setting)}: {rate:.1f}x smaller"}
        changed = times[method].drop("trained").map("{:.2f}".format)
        lines.append(told | {"your guess": guesses.get(name, "-")} | changed.to_dict())
    return pd.DataFrame(lines)
