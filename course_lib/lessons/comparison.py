"""What notebook 08 shows beside its cells: figures of recorded rows and the claims."""

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import pandas as pd
from torch import nn

from course_lib import evidence
from course_lib.data import Split
from course_lib.experiments import file_targets, one_shot, points_lost
from course_lib.experiments.currencies import CURRENCIES
from course_lib.notebook import Claim, plots

# paper, network, what is counted, times less, accuracy as the paper tells it. Li's and Luo's FLOPs are MACs times two
HEADLINES = (
    ("Gong 2014", "AlexNet-like", "bits of dense layers", 24.0, "at most 1 point of top-5 lost"),
    ("Han 2015", "VGG-16", "parameters", 13.0, "top-1 error 31.50 -> 31.34 %"),
    ("Hu 2016", "VGG-16", "parameters", 2.59, "top-1 accuracy 68.36 -> 70.44 %†"),
    ("Li 2017", "VGG-16 on CIFAR-10", "MACs", 1.52, "error 6.75 -> 6.60 %"),
    ("Han 2016", "VGG-16", "bytes of the file", 49.0, "top-1 error 31.50 -> 31.17 %"),
    ("He 2017", "VGG-16", "MACs of convolutions", 5.0, "top-5 error + 1.7 points"),
    ("Luo 2017", "VGG-16", "MACs", 3.23, "top-1 accuracy 68.34 -> 69.80 %"),
)
SHAPES = (("vgg-small", 2), ("resnet-20", 2), ("vgg-small", 4))
PAPERS = {  # arm -> the claim
    "L1": "removing small L1 norms beats chance (Li)",
    "APoZ": "removing what is often zero beats chance (Hu)",
    "LASSO": "removing what the LASSO leaves out beats chance (He)",
    "ThiNet": "removing what the next layer misses least beats chance (Luo)",
}
CRITERIA, SINGLE, SCRATCH, LONGER = "criteria for filters", "weight pruning, codes", "scratch-E", "scratch-B"
FAMILIES = {
    CRITERIA: plots.BLUE, "random": plots.ORANGE, "dense": plots.GREEN, SCRATCH: plots.VERMILION, LONGER: plots.SKY,
    SINGLE: plots.PURPLE,
}  # fmt: skip
WHEN = {"retrained": "lost", "not retrained": "lost_at_once"}


def headlines() -> pd.DataFrame:
    """Return a headline result of each of the seven papers, as published; a dagger marks what is quoted at second hand."""
    return pd.DataFrame(HEADLINES, columns=["paper", "network", "counted", "times less", "accuracy"])


def headlines_figure() -> plt.Figure:
    """Draw the headline results as bars, a colour for each thing that is counted."""
    table = headlines()
    colours = dict(zip(table.counted.unique(), plots.COLOURS, strict=False))
    fig, ax = plt.subplots(figsize=(plots.WIDTH, 3.2))
    bars = ax.barh(table.paper, table["times less"], color=[colours[counted] for counted in table.counted])
    ax.bar_label(
        bars, [f"{rate:g}x {counted}" for rate, counted in zip(table["times less"], table.counted, strict=True)], padding=3
    )
    ax.invert_yaxis()
    ax.set(xscale="log", xlim=(1, 400), xlabel="times less (log scale)")
    ax.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    ax.minorticks_off()
    ax.set_title(f"Seven headlines count {table.counted.nunique()} different things")
    return fig


def losses_figure(found: pd.DataFrame, title: str) -> plt.Figure:
    """Draw the points that each arm loses before and after retraining, with 95 % intervals, a colour per network and rate."""
    lines = points_lost.arms(found)
    arms = [arm for arm in points_lost.LINES if arm in set(lines.method)]
    fig, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 6.4), sharey=True)
    for ax, (when, column) in zip(axes, reversed(WHEN.items()), strict=True):
        for (network, rate), colour, marker, shift in zip(SHAPES, plots.COLOURS, "os^", (-0.24, 0, 0.24), strict=False):
            for place, arm in enumerate(arms):
                chosen = lines[(lines.network == network) & (lines.rate == rate) & (lines.method == arm)]
                label = f"{network}, {rate}x" if place == 0 else None
                _interval(ax, chosen[column].dropna(), place + shift, colour, marker, label)
        ax.axvline(0, color=plots.INK, linewidth=0.8)
        ax.set(xlabel=f"test accuracy lost\n(points), {when}", yticks=range(len(arms)), yticklabels=arms)
    axes[0].invert_yaxis()
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    fig.suptitle(title, x=0.01, ha="left")
    return fig


def _interval(ax: plt.Axes, values: pd.Series, place: float, colour: str, marker: str, label: str | None = None) -> None:
    """A mean with its 95 % interval, lying; nothing for no values, no interval for a single one."""
    if len(values):
        mean, low, high = evidence.interval(values)
        error = [[mean - low], [high - mean]] if len(values) > 1 else None
        ax.errorbar(mean, place, xerr=error, fmt=marker, markersize=4.5, capsize=2, color=colour, label=label)


def factors_figure(factors: Mapping[str, pd.Series], title: str) -> plt.Figure:
    """Draw how far each decision moves the test accuracy: a dot per choice, a line of dots per decision."""
    fig, ax = plt.subplots(figsize=(plots.WIDTH, 4.0))
    left = min(values.min() for values in factors.values()) - 0.1
    for place, ((name, values), colour) in enumerate(zip(factors.items(), plots.COLOURS, strict=False)):
        ax.plot([values.min(), values.max()], [place, place], color=colour, linewidth=6, alpha=0.25)
        ax.scatter(values, [place] * len(values), color=colour, s=22)
        ax.text(left, place - 0.25, f"{name}: {values.idxmin()} to {values.idxmax()}", va="bottom")
    ax.set(xlabel="test accuracy (%)", title=title, ylim=(len(factors) - 0.6, -0.9))
    ax.yaxis.set_visible(False)
    return fig


def currencies_figure(priced: pd.DataFrame) -> plt.Figure:
    """Draw points lost against times less, a picture per currency; a mark is the mean of a family's arms, with its interval."""
    fig, axes = plt.subplots(3, 2, figsize=(plots.WIDTH, 7.6), sharey=True)
    markers = dict(zip(priced.network.unique(), plots.MARKERS, strict=False))
    for ax, (currency, name) in zip(axes.flat, CURRENCIES.items(), strict=False):
        for (network, _rate), shape in priced.dropna(subset=currency).groupby(["network", "rate"]):
            for kin, arms in shape.groupby(shape.method.map(family)):
                means = arms.groupby("seed")[["lost", currency]].mean()
                hollow = kin == "random"  # it lies on the criteria
                _standing(ax, means.lost, means[currency].mean(), markers[network], FAMILIES[kin], hollow)
        ax.set(xscale="log", title=name)
        top = max(4.5, priced[currency].max() * 1.15)
        ticks = [tick for tick in (1, 2, 4, 8, 16, 32) if tick <= top]
        ax.set_xticks(ticks, [f"{tick}x" for tick in ticks])
        ax.set_xlim(0.9 * min(1, priced[currency].min()), top)
        ax.minorticks_off()
    axes.flat[-1].axis("off")
    handles = [plt.Line2D([], [], marker=mark, linestyle="", color=plots.INK, label=net) for net, mark in markers.items()]
    used = {family(arm) for arm in priced.method}
    handles += [plt.Line2D([], [], linewidth=4, color=FAMILIES[name], label=name) for name in FAMILIES if name in used]
    axes.flat[-1].legend(handles=handles, loc="center")
    fig.supylabel("points of test accuracy lost", fontsize=plots.TEXT)
    fig.supxlabel("times less", fontsize=plots.TEXT)
    return fig


def family(arm: str) -> str:
    """Return the key of FAMILIES to which an arm belongs."""
    if arm in [points_lost.SHOWN[method] for method in (file_targets.SPARSE, file_targets.DEEP, file_targets.QUANTIZED)]:
        return SINGLE
    return arm if arm in FAMILIES else CRITERIA


def _standing(ax: plt.Axes, values: pd.Series, x: float, marker: str, colour: str, hollow: bool) -> None:
    """A mean with its 95 % interval, standing at a place; no interval for a single network."""
    mean, low, high = evidence.interval(values)
    error = [[mean - low], [high - mean]] if len(values) > 1 else None
    style = dict(markersize=8, fillstyle="none") if hollow else dict(markersize=5)
    ax.errorbar(x, mean, yerr=error, fmt=marker, color=colour, elinewidth=1.2, **style)


def cut(method: str, model: nn.Module, widths: Mapping[str, int], images: Split, positions: int = 10) -> nn.Module:
    """Return a network cut to given widths by one of the criteria or at random, not retrained."""
    if method in one_shot.BY_FILTER:
        return one_shot.by_filter(method, model, widths, images, seed=0)
    if method in one_shot.BY_FIT:
        return one_shot.by_fit(method, model, widths, images, positions, seed=0)
    return one_shot.by_sum(method, model, widths, images, positions, seed=0)


def papers_claims(found: pd.DataFrame, network: str) -> list[Claim]:
    """Return what the papers' criteria promise, each against random choice at equal budgets, at all rates of a network."""
    shapes = [shape for shape in SHAPES if shape[0] == network]
    return [_claim(found, claim, (arm, "random"), shape) for arm, claim in PAPERS.items() for shape in shapes]


def own_claims(found: pd.DataFrame) -> list[Claim]:
    """Return what we asked beyond the papers; a claim whose rows are not there was not tested."""
    half, _, quarter = SHAPES
    coded = points_lost.SHOWN[file_targets.DEEP]
    return [
        _claim(found, "least squares wins where nothing is retrained", ("LASSO", "L1"), half, "removed"),
        _claim(found, "trained weights beat random ones", ("L1", SCRATCH), half),
        _claim(found, "trained weights beat random ones that get as much computing", ("L1", LONGER), half),
        _claim(found, "group norm beats random choice", ("group norm", "random"), quarter),
        _claim(found, "in as many bytes, codes beat fewer filters", (coded, "L1"), ("lenet-5-relu", 16), of=points_lost.files),
    ]


def _claim(
    found: pd.DataFrame, claim: str, pair: tuple[str, str], shape: tuple[str, int], column: str = "accuracy",
    of: Callable = points_lost.arms,
) -> Claim:  # fmt: skip
    measured = "{} / {}, {} at {}x".format(*pair, *shape)
    ahead, lines = points_lost.ahead(found, *pair, column, of), of(found)
    if shape not in ahead.index:
        return Claim(claim, measured, "no rows yet", None)
    dataset = lines[lines.network == shape[0]].dataset.iloc[0]
    lines = lines[(lines.network == shape[0]) & (lines.rate == shape[1])].groupby("method")[[column, "epochs"]].mean()
    here = "{:.2f} / {:.2f} % accuracy".format(*(lines[column][arm] for arm in pair))
    epochs = " / ".join(f"{lines.epochs[arm]:g}" for arm in pair) if column == "accuracy" else "0"
    return Claim(claim, measured, here, evidence.better(ahead.loc[shape].dropna(), dataset), epochs)


def made_up_table() -> pd.DataFrame:
    """Return a table as a paper might print it, a line per arm and trained network. It is MADE UP: nothing in it was measured."""
    arms = {  # arm -> epochs, millions of MACs, what settings were chosen on, accuracies of networks 0, 1, 2
        "Ours": (60, 19.0, "validation", (91.2, 91.0, 91.3)),
        "Ours, short": (20, 19.0, "validation", (89.9, 89.3, 89.9)),
        "L1 norm": (20, 19.1, "validation", (89.5, 89.4, 89.6)),
        "Rival": (20, 19.0, "test", (89.0, 88.9, 89.1)),
        "From scratch": (20, 19.0, "validation", (87.5, 87.6, 87.4)),
    }
    columns = ["arm", "network", "epochs", "MACs", "chosen_on", "accuracy"]
    lines = [(arm, n, *about[:3], right) for arm, about in arms.items() for n, right in enumerate(about[3])]
    return pd.DataFrame(lines, columns=columns)
