"""What notebook 01 shows beside its cells: figures and claims from the recorded rows."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import NullLocator

from course_lib import evidence
from course_lib.evidence import DOES_NOT, HOLDS, UNDECIDED, Verdict
from course_lib.experiments import rate_and_loss
from course_lib.experiments import vector_quantization as runs
from course_lib.notebook import Claim
from course_lib.notebook.plots import COLOURS, INK, lines

NAMES = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5"}
RATE = 12  # at which claims compare methods; the middle of the 8x to 16x of scalar codes, where every method has settings


def tradeoff(recorded: pd.DataFrame, network: str, title: str) -> plt.Figure:
    """Return a figure of points lost against rate, the last layer exact: of each method the settings on its frontier.

    A line is the mean over the trained networks on test images, its band the 95 % interval of that mean. Validation images
    choose which settings are drawn.
    """
    points = rate_and_loss.settings(recorded, runs.LAST_EXACT)
    groups = {method: points[(points.network == network) & (points.method == method)] for method in runs.SETTINGS}
    best = {method: rate_and_loss.frontier(group) for method, group in groups.items()}
    x, y = ({method: rows[column] for method, rows in best.items()} for column in ("rate", "lost"))
    bands = {method: (rows.low, rows.high) for method, rows in best.items()}
    label = f"test accuracy lost on {points.dataset.iloc[0]} (points)"
    fig = lines(x, y, spread=bands, title=title, xlabel="times smaller (log scale)", ylabel=label)
    axes = fig.axes[0]
    axes.set(xscale="log", xlim=(1.8, 70), ylim=(-0.2, 100))
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def sweep_points(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the sweep of product quantization of fc1: a line per axis, k and segment length, means over the trained networks
    of both rates and of the points lost, with the ends of the interval of those lost on test images."""
    found = rate_and_loss.lines(recorded, "sweep")
    k, length, axis = (found.setting.str[i].rename(name) for i, name in enumerate(("k", "length", "axis")))
    groups = found.groupby([axis, k, length])
    means = groups[["rate", "rate_without_codebooks", "lost", "lost_validation"]].mean()
    ends = groups.lost.apply(lambda lost: evidence.interval(lost)[1:])
    return means.assign(low=ends.str[0], high=ends.str[1]).reset_index()


def sweep_figure(points: pd.DataFrame, rate: str, title: str) -> plt.Figure:
    """Return a figure of points lost against one of the two rates of `sweep_points`, a curve per k, bands as in `tradeoff`."""
    groups = {f"k = {k}": group.sort_values("length") for k, group in points.groupby("k")}
    x, y = ({name: group[column] for name, group in groups.items()} for column in (rate, "lost"))
    bands = {name: (group.low, group.high) for name, group in groups.items()}
    label = "test accuracy lost on mnist (points)"
    fig = lines(x, y, spread=bands, title=title, xlabel="times smaller (log scale)", ylabel=label)
    fig.axes[0].set(xscale="log", ylim=(-0.3, 10), xlim=(3, 200))
    fig.axes[0].set_xticks([4, 8, 16, 32, 64, 128], ["4", "8", "16", "32", "64", "128"])
    fig.axes[0].xaxis.set_minor_locator(NullLocator())
    return fig


def alone_table(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the test points lost with one layer coded, and with all: mean and 95 % interval, a line per network and method."""
    found = rate_and_loss.lines(recorded, "alone")
    lost = found.groupby(["network", "method", "setting", "layers"], sort=False).lost.apply(_mean_and_interval).unstack()
    lost = lost[["fc1", "fc2", "fc3", runs.ALL]].fillna("-")
    lost.index = [f"{NAMES[network]}: {method} {setting}" for network, method, setting in lost.index]
    return lost.rename_axis("points lost on mnist").reset_index()


def structure_figure(recorded: pd.DataFrame) -> plt.Figure:
    """Return bars of the squared error of fc1 with its weights in several orders, as multiples of that of the trained order.

    A bar is the mean over the trained networks, with its 95 % interval.
    """
    times = structure_factors(recorded)
    fig, ax = plt.subplots(figsize=(7.0, 3.2))
    layouts = [layout for layout in times.columns.levels[1] if layout != "trained"]
    width = 0.8 / len(layouts)
    for i, (layout, colour) in enumerate(zip(layouts, COLOURS, strict=False)):
        found = [evidence.interval(times[method, layout]) for method in runs.STRUCTURE]
        places = [j + (i - (len(layouts) - 1) / 2) * width for j in range(len(found))]
        ends = [[mean - low for mean, low, _ in found], [high - mean for mean, _, high in found]]
        ax.bar(places, [mean for mean, _, _ in found], width * 0.92, yerr=ends, capsize=2, color=colour, label=layout)
    ax.axhline(1, color=INK, linewidth=0.8)
    ax.set_xticks(range(len(runs.STRUCTURE)), [f"{method}\n{arguments}" for method, arguments in runs.STRUCTURE.items()])
    title = "Local or global structure? The error of fc1 when weights change places"
    ax.set(title=title, ylabel="squared error (times that of\nthe trained order)")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def structure_factors(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the error of each order as a multiple of the trained order's: a line per seed, columns (method, order)."""
    found = rate_and_loss.lines(recorded, "structure").assign(
        layout=lambda rows: pd.Categorical(rows.layout, rows.layout.unique())
    )
    errors = found.pivot(index="seed", columns=["method", "layout"], values="error")
    return pd.concat({method: errors[method].div(errors[method, "trained"], axis=0) for method in runs.STRUCTURE}, axis=1)


def weakest(claim: str, measured: str, tests: Mapping[str, Verdict]) -> Claim:
    """Return the row of a claim that has to pass several tests: its verdict is that of the weakest, 'here' names all of them."""
    order = (DOES_NOT, UNDECIDED, HOLDS)
    worst = min(tests.values(), key=lambda test: (order.index(test.label), test.low - test.margin))
    here = "; ".join(f"{name}: {test.mean:+.2f} {test.label}" for name, test in tests.items())
    return Claim(claim, measured, here, worst, "none")


def paper_claims(recorded: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims. Their figures are points of test accuracy, positive where they speak for the claim."""
    coded = {rate: rate_and_loss.lost_at(recorded, runs.ALL, rate) for rate in (16, 24)}
    scalar = {rate: rate_and_loss.lost_by(recorded, runs.ALL, "scalar", (k,)) for rate, k in ((8, 16), (16, 4))}
    sign = rate_and_loss.lost_by(recorded, runs.ALL, "sign", ())
    exact = rate_and_loss.lost_at(recorded, runs.LAST_EXACT, RATE)
    pairs = [(network, method) for network in NAMES for method in ("product", "scalar")]
    product = {f"{NAMES[n]}, {rate}x": evidence.verdict(-coded[rate][n, "product"], margin=-1) for n in NAMES for rate in coded}
    scalars = {f"{NAMES[n]}, {rate}x": evidence.verdict(-scalar[rate][n], margin=-0.5) for n in NAMES for rate in scalar}
    signs = {NAMES[n]: evidence.verdict(-sign[n], margin=-10) for n in NAMES}
    versus = {
        other: {f"{NAMES[n]}, {method}": evidence.better(exact[n, other] - exact[n, method], "mnist") for n, method in pairs}
        for other in ("low rank", "residual")
    }
    change, lead = "after - before, all dense layers coded, margin {} points", f"their lead at {RATE}x, last layer exact"
    return [
        weakest("PQ: 16-24x within 1 point of top-5", change.format(-1), product),
        weakest("scalar k-means: 8-16x within 0.5 points of top-5", change.format(-0.5), scalars),
        weakest("vector quantization beats SVD at the same rate", f"PQ and scalar codes, {lead}", versus["low rank"]),
        weakest("RQ is worse than PQ and k-means at like rates", f"PQ and scalar codes, {lead}", versus["residual"]),
        weakest("binarization: 32x within about 10 points", change.format(-10), signs),
        weakest("all layers together lose more than any one, and the last more than the others", *_by_layer(recorded)),
        weakest("with codebooks counted, the most centroids are not best", *_by_centroids(recorded)),
        _whole_network(recorded),
    ]


def our_findings(recorded: pd.DataFrame) -> list[Claim]:
    """Return what we found beside the paper's claims; figures as of `paper_claims`, unless a row says otherwise."""
    four_bits = rate_and_loss.lost_by(recorded, runs.ALL, "scalar", (16,))
    exact = rate_and_loss.lost_at(recorded, runs.LAST_EXACT, RATE)
    low_rank = [rate_and_loss.lost_by(recorded, layers, "low rank", (4,)) for layers in (runs.ALL, runs.LAST_EXACT)]
    scaled, sign = (rate_and_loss.lost_by(recorded, runs.ALL, name, ())["lenet-300-100"] for name in ("scaled sign", "sign"))
    times = structure_factors(recorded)
    broken = {"PQ, columns moved": ("product", "columns moved"), "RQ, segments exchanged": ("residual", "segments exchanged")}
    lead = {NAMES[n]: evidence.better(exact[n, "scalar"] - exact[n, "product"], "mnist") for n in NAMES}
    return [
        weakest(
            "four bits for each weight lose nothing",
            "scalar k-means, k = 16, after - before, margin -0.1 points",
            {NAMES[n]: evidence.no_worse(-lost, "mnist") for n, lost in four_bits.items()},
        ),
        weakest("PQ beats scalar k-means at the same rate", f"lead of PQ at {RATE}x, last layer exact", lead),
        weakest(
            "SVD fails by the last layer",
            "rate 4: points lost with it coded, less those with it exact",
            {NAMES[n]: evidence.better(low_rank[0][n] - low_rank[1][n], "mnist") for n in NAMES},
        ),
        weakest(
            "a binarized network is better without a scale",
            "points lost with a scale, less those without",
            {"LeNet-300-100": evidence.better(scaled - sign, "mnist")},
        ),
        weakest(
            "PQ of rows uses neighbours, RQ uses whole columns",
            "fc1 of LeNet-300-100: rise of the squared error, as a multiple of it, when these are broken",
            {name: evidence.verdict(times[place] - 1) for name, place in broken.items()},
        ),
    ]


def _by_layer(recorded: pd.DataFrame) -> tuple[str, dict[str, Verdict]]:
    found = rate_and_loss.lines(recorded, "alone")
    tests = {}
    for network in NAMES:
        group = found[(found.network == network) & (found.method == "product")]
        lost = group.pivot(index="seed", columns="layers", values="lost")
        together, single = lost[runs.ALL], lost.drop(columns=runs.ALL)
        last = max(single.columns)
        others = single.drop(columns=last).max(axis=1)
        tests[f"{NAMES[network]}, all"] = evidence.better(together - single.max(axis=1), "mnist")
        tests[f"{NAMES[network]}, {last}"] = evidence.better(single[last] - others, "mnist")
    return f"PQ {runs.ALONE['product']}: points lost by all, less the most by one; by the last, less the most by another", tests


def _by_centroids(recorded: pd.DataFrame) -> tuple[str, dict[str, Verdict]]:
    most, least = max(runs.CENTRES), 16
    found = rate_and_loss.lines(recorded, "sweep").assign(most=lambda rows: rows.setting.str[0] == most)
    lost = {}
    for few_or_most, group in found[(found.axis == 0) & (found.rate >= least)].groupby("most"):
        best = group.groupby("setting").lost_validation.mean().idxmin()
        lost[few_or_most] = group[group.setting == best].set_index("seed").lost
    name = f"fc1 of LeNet-300-100 at {least}x: points lost with k = {most}, less those with the best smaller k"
    return name, {"columns clustered": evidence.better(lost[True] - lost[False], "mnist")}


def _whole_network(recorded: pd.DataFrame) -> Claim:
    best = rate_and_loss.best_rates(rate_and_loss.settings(recorded, runs.ALL)).query("method == 'product'")
    found = rate_and_loss.lines(recorded, layers=runs.ALL).merge(best[["network", "method", "setting", "within"]])
    sizes = found.groupby("network").agg(dense=("dense_bytes", "mean"), coded=("bytes", "mean"), within=("within", "all"))
    times = sizes.dense / sizes.coded
    here = "; ".join(
        f"{NAMES[n]}: {size.dense / 1000:,.0f} kB to {size.coded / 1000:,.0f} kB, {times[n]:.1f}x" for n, size in sizes.iterrows()
    )
    claim, measured = "the whole network becomes 20x smaller (200 MB to under 10 MB)", "bytes of the files, PQ within a point"
    return Claim(claim, measured, here, bool((times >= 20).all() and sizes.within.all()), "none")


def _mean_and_interval(values: pd.Series) -> str:
    mean, low, high = evidence.interval(values)
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
