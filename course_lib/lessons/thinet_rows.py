"""What notebook 07 shows of recorded rows: figures, tables and claims over independently trained networks."""

from collections.abc import Callable, Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from course_lib import evidence
from course_lib.experiments import channel_sets
from course_lib.experiments import thinet as runs
from course_lib.experiments import thinet_tables as tables
from course_lib.notebook import Claim, plots

MISSING = "not measured here yet"
ARMS = ("ThiNet", "ThiNet, not rescaled", "L1", "APoZ", "random", "scratch-E", "dense")  # of the comparison
FAIR = (("vgg-small", 2), ("resnet-20", 2), ("vgg-small", 4))  # network and how many times fewer MACs
NOTHING = pd.Series(dtype=float)


def with_interval(values: Iterable[float], form: str = "{:+.2f}") -> str:
    """Return the mean over trained networks and its 95 % interval, in words."""
    values = list(values)
    mean, low, high = (form.format(figure) for figure in evidence.interval(values))
    return f"{mean} (one network)" if len(values) == 1 else f"{mean} ({low} to {high})"


def criteria_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the accuracy before retraining by MACs left, a curve per criterion with its 95 % interval over trained networks."""
    table, left = tables.untrained(found), tables.macs_left(found)
    networks = _plain_first(table)
    fig, axes = plt.subplots(1, len(networks), figsize=(4.6 * len(networks), 4.0), sharey=True, squeeze=False)
    for ax, network in zip(axes[0], networks, strict=True):
        shares = sorted(left[network].index, reverse=True)
        x = [100 * left[network, share] for share in shares]
        for method, marker, colour in zip(channel_sets.CRITERIA, plots.MARKERS, plots.COLOURS, strict=True):
            ends = [evidence.interval(table.loc[network, share][method]) for share in shares]
            mean, low, high = np.clip(np.transpose(ends), 0, 100)
            ax.plot(x, mean, marker=marker, markersize=4.5, color=colour, label=method)
            ax.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        ax.set(title=network, xlabel="MACs left (%)")
        ax.invert_xaxis()
    axes[0][0].set_ylabel("test accuracy (%), not retrained")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    plain, share = networks[0], max(left[networks[0]].index)
    means = table.loc[plain, share].mean()
    rival = max(tables.RIVALS, key=lambda name: means[name])
    title = f"{plain} at {100 * left[plain, share]:.0f} % of its MACs, not retrained: "
    fig.suptitle(f"{title}ThiNet {means['ThiNet']:.0f} %, {rival} {means[rival]:.0f} %", x=0.01, ha="left", fontsize=11)
    return fig


def leads(found: pd.DataFrame) -> pd.DataFrame:
    """Return by how many points ThiNet is ahead before retraining, a line per network and share, with 95 % intervals."""
    table, left, lines = tables.untrained(found), tables.macs_left(found), []
    for network, share in sorted(left.index, key=lambda place: (place[0] != "vgg-small", -place[1])):
        here = table.loc[network, share]
        pairs = (
            here["ThiNet"] - here["ThiNet, not rescaled"],
            here["ThiNet, not rescaled"] - here[list(tables.RIVALS)].max(axis=1),
            here[channel_sets.FORWARD] - here["ThiNet"],
        )
        about = (network, f"{share:.0%}", f"{left[network, share]:.0%}", f"{here['ThiNet'].mean():.1f} %")
        lines.append((*about, *(with_interval(pair, "{:+.1f}") for pair in pairs)))
    columns = ["network", "filters kept", "MACs left", "ThiNet", "rescaling gains (points)"]
    return pd.DataFrame(lines, columns=[*columns, "not rescaled, ahead of the best rival", "forward ahead of ThiNet"])


def greed_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the mean loss of each greedy choice over the least possible: a dot per trained network, for every layer."""
    table = tables.greed(found)
    networks = _plain_first(table)
    fig, axes = plt.subplots(len(networks), 1, figsize=(7.4, 2.9 * len(networks)), squeeze=False, sharey=True)
    for ax, network in zip(axes[:, 0], networks, strict=True):
        here = table.loc[network]
        layers = list(dict.fromkeys(here.index.get_level_values("layer")))
        for place, (choice, marker, colour) in enumerate(zip(here, plots.MARKERS, plots.COLOURS, strict=False)):
            for number, layer in enumerate(layers):
                values = here.loc[layer][choice]
                x = [number + 0.18 * (place - 1.5)] * len(values)
                label = choice if number == 0 else None
                ax.scatter(x, values, s=16, marker=marker, color=colour, alpha=0.8, label=label)
        names = [layer.replace(".conv1", "").replace("stage", "") for layer in layers]
        ax.set_xticks(range(len(layers)), names)
        where = "stage.block, its first layer" if network.startswith("resnet") else ""
        ax.set(title=network, ylabel="loss / least loss", xlabel=where)
    axes[0][0].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    worst = table.removed.groupby(["network", "layer"]).mean()
    title = f"Greedy removal: {table.removed.mean():.3f} times the least loss on average, {worst.max():.3f} in its worst layer"
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


def greed_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return, for each network and greedy choice, the loss over the least: mean with interval, the largest, how often optimal."""
    problems, lines = found[(found.kind == "layers") & (found.question == "greed")], []
    for network in _plain_first(tables.greed(found)):
        group = problems[problems.network == network]
        for choice in ("removed", "grown", "removed, rescaled", "forward"):
            means = tables.greed(found).loc[network][choice].groupby("seed").mean()
            best = f"{(group[choice] < 1 + 1e-6).mean():.0%} of {len(group)}"
            lines.append((network, choice, with_interval(means, "{:.3f}"), f"{group[choice].max():.2f}", best))
    columns = ["network", "choice", "loss / least loss, mean of all problems", "largest", "optimal"]
    return pd.DataFrame(lines, columns=columns)


def samples_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the loss on validation images by the number of samples, a panel per layer, bands from the least to the most."""
    table = tables.samples(found)
    places = _layers(table)
    rows = -(-len(places) // 3)
    fig, axes = plt.subplots(rows, 3, figsize=(9.4, 2.7 * rows), squeeze=False, sharex=True)
    for ax, (network, layer) in zip(axes.flat, places, strict=False):
        for positions, marker, colour in zip(runs.POSITIONS, plots.MARKERS, plots.COLOURS, strict=False):
            here = 100 * table.loc[network, layer, positions].unstack("seed")
            label = f"{positions} position{'s' * (positions > 1)} per image"
            ax.plot(here.index, here.mean(axis=1), marker=marker, markersize=4, color=colour, label=label)
            ax.fill_between(here.index, here.min(axis=1), here.max(axis=1), color=colour, alpha=0.18, linewidth=0)
        ax.set(title=f"{network}, {layer}", xscale="log", yscale="log")
        ax.title.set_fontsize(9.5)
        ax.set_xticks(runs.PER_CLASS, runs.PER_CLASS)
        low, high = ax.get_ylim()
        ticks = [tick for tick in (2, 5, 10, 20, 50, 100, 200, 500, 1_000) if low <= tick <= high]
        ax.set_yticks(ticks, ticks)
        ax.minorticks_off()
    for ax in axes[-1]:
        ax.set_xlabel("images per class")
    for ax in axes[:, 0]:
        ax.set_ylabel("output lost (%)")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    paper, most = (
        table.xs(number, level="images").xs(places, level="positions").mean() for number, places in ((10, 10), (100, 100))
    )
    title = f"10 images per class and 10 positions lose {paper:.1%} of the output, the most samples {most:.1%}"
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


def samples_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return what a choice from 1,000 samples loses, made up in three ways, and from the most, a line per layer."""
    table, lines = 100 * tables.samples(found), []
    numbers = ((100, 1), (10, 10), (1, 100), (100, 100))
    for network, layer in _layers(table):
        here = [table.loc[network, layer, positions, images] for images, positions in numbers]
        lines.append((network, layer, *(with_interval(losses, "{:.1f}") for losses in here)))
    columns = [f"{10 * images:,} images, {positions} position{'s' * (positions > 1)} each" for images, positions in numbers]
    return pd.DataFrame(lines, columns=["network", "output lost (%), half of", *columns])


def images_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of whole networks before retraining, by the images per class that chose."""
    accuracies = tables.by_images(found)
    gains = accuracies - accuracies.loc[10]
    lines = [
        (f"{int(count)}", with_interval(values, "{:.1f}"), "-" if count == 10 else with_interval(gains.loc[count], "{:+.1f}"))
        for count, values in accuracies.iterrows()
    ]
    return pd.DataFrame(lines, columns=["images per class", "accuracy (%), not retrained", "against 10 per class (points)"])


def tuning_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return what one epoch changes at each rate, of a network that lost half of a layer and of the whole one."""
    table, lines = tables.tuning(found), []
    for start, lr, schedule in runs.TUNING:
        here = table.loc[start, lr, schedule]
        rate = f"{lr:g}, {'constant' if schedule == 'constant' else 'falls to zero'}"
        changes = [with_interval(here[images]) for images in ("validation", "test")]
        lines.append((start, rate, f"{here.before.mean():.1f} %", *changes))
    columns = ["what is trained", "learning rate", "test accuracy before", "change, validation (points)", "change, test (points)"]
    return pd.DataFrame(lines, columns=columns)


def retrained_table(grid: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison's arms beside ThiNet: accuracy after the cut and after retraining, and how far ThiNet is ahead."""
    lines = []
    for network, rate in FAIR:
        table = tables.retrained(grid, network, rate)
        shown = grid[(grid.network == network) & grid.kind.isin(("filters", "channels", "sums", "scratch", "dense"))]
        for arm in (name for name in ARMS if name in table):
            own = shown[(shown.method == arm) & shown.rate.isin((1,) if arm == "dense" else (rate,))]
            removed = own.removed.astype(float).mean()
            ahead = "-" if arm == "ThiNet" else with_interval(table["ThiNet"] - table[arm])
            cells = "-" if np.isnan(removed) else f"{removed:.1f} %", with_interval(table[arm], "{:.2f}")
            macs = f"{own.macs.mean() / 1e6:.1f} M"
            lines.append((network, f"{rate}x", arm, macs, f"{own.epochs.mean():g}", *cells, ahead))
    columns = ["network", "rate", "arm", "MACs", "epochs", "not retrained", "retrained (%)", "ThiNet ahead by (points)"]
    return pd.DataFrame(lines, columns=columns)


def papers_criteria() -> pd.DataFrame:
    """Return the paper's comparison of criteria, top-1 in percent after fine-tuning."""
    columns = [f"{left} % of the FLOPs" for left in tables.LEFT]
    cited = pd.DataFrame.from_dict(tables.PAPER_CRITERIA, orient="index", columns=columns)
    return cited.rename_axis("kept by").reset_index()


def own_schedule(grid: pd.DataFrame) -> str:
    """Return what the paper's own schedule gives, beside one cut with the same epochs, in a sentence."""
    own = tables.own_schedule(grid)
    about = "The paper's schedule (cut a layer, one epoch at 0.001, next layer; longer at the end), vgg-small"
    if own.empty:
        return f"{about}: {MISSING}."
    rate = float(own.rate.iloc[0])
    lost = (own.baseline - own.accuracy).groupby(own.seed).mean()
    sentence = f"{about} at {rate:g}x fewer MACs, {own.epochs.iloc[0]:g} epochs in all: {with_interval(lost)} points lost"
    at_once = tables.retrained(grid, "vgg-small", rate)
    if at_once.empty:
        return f"{sentence}; one cut with as many epochs: {MISSING}."
    lost = (at_once["trained network"] - at_once["ThiNet"]).loc[lambda losses: losses.index.isin(own.seed)]
    return f"{sentence}; one cut by ThiNet with as many epochs: {with_interval(lost)}."


def papers_claims(found: pd.DataFrame, grid: pd.DataFrame, heads: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims, judged by recorded rows of three trained networks, and by shapes (`head_sizes`)."""
    plain, residual, quarter = (tables.retrained(grid, *place) for place in FAIR)
    thin, halved = heads.iloc[0] / heads.loc["ThiNet-GAP"], "vgg-small, 2x fewer MACs, retrained"
    rivals = plain[list(tables.RIVALS)].max(axis=1) if len(plain) else NOTHING
    rescaling = _difference(quarter, "ThiNet", "ThiNet, not rescaled")
    small = bool(abs(thin.parameters - 16.63) < 0.05 and abs(thin.FLOPs - 3.31) < 0.02)
    return [
        _judged("pruning loses nothing (VGG-16, ImageNet, 3.23x fewer FLOPs: top-1 68.34 -> 69.80 %, top-5 88.44 -> 89.53 %)",
                f"{halved}: at most 0.3 points lost", _difference(plain, "ThiNet", "trained network"), evidence.no_worse),
        _judged("a residual network loses little (ResNet-50, ImageNet, 2.26x fewer FLOPs: 1.87 points of top-1, 1.12 of top-5)",
                "resnet-20, 2x fewer MACs, retrained: at most 1.87 points lost",
                _difference(residual, "ThiNet", "trained network"), lambda values, _: evidence.verdict(values, margin=-1.87)),
        _judged("ThiNet beats weight sum, APoZ and random choice after fine-tuning (top-1, VGG-16-GAP, CUB-200; check)",
                f"{halved}: ThiNet / the best of the three", _against(plain, "ThiNet", rivals), evidence.better),
        _judged("random choice is a strong rival: 2.1 points behind at 40 % of the FLOPs (top-1, CUB-200; check)",
                f"{halved}: at most 2.1 points behind ThiNet", _difference(plain, "random", "ThiNet"),
                lambda values, _: evidence.verdict(values, margin=-2.1)),
        _judged("the weight sum is worse than random choice: 60.5 against 66.7 % (top-1, CUB-200; check)",
                f"{halved}: random / weight sum (L1)", _difference(plain, "random", "L1"), evidence.better),
        _judged("rescaling helps most at high compression: 52.3 against 48.3 % at 10 % of the FLOPs (top-1, CUB-200; check)",
                "vgg-small, 4x fewer MACs, retrained: rescaled / not", rescaling, evidence.better),
        Claim("ThiNet-GAP: 16.63x fewer parameters, 3.31x fewer FLOPs; 88.44 -> 87.92 % top-5", "the sizes, from shapes alone",
              f"{thin.parameters:.2f}x, {thin.FLOPs:.2f}x", small, "0"),
        Claim("ThiNet-Tiny: 1.32 M parameters, 59.34 % top-1, 81.97 % top-5; SqueezeNet 57.67 and 80.39 % (check)", "ImageNet",
              "not run", None),
    ]  # fmt: skip


def own_claims(found: pd.DataFrame, grid: pd.DataFrame) -> list[Claim]:
    """Return what we asked beyond the paper, judged by recorded rows."""
    plain, at = tables.retrained(grid, *FAIR[0]), tables.untrained(found).loc["vgg-small", 0.8]
    greed, tuned, counts = tables.greed(found).groupby("seed").mean(), tables.tuning(found).test, tables.by_images(found)
    harm, own = (tuned.loc[runs.HALVED, lr, "constant"] for lr in (0.02, 0.001))
    place = "vgg-small, 80 % of all filters, not retrained"
    return [
        _judged("before retraining ThiNet's choice, not rescaled, beats every rival", place,
                _against(at, "ThiNet, not rescaled", at[list(tables.RIVALS)].max(axis=1)), evidence.better, "0"),
        _judged("before retraining rescaling helps", place,
                _difference(at, "ThiNet", "ThiNet, not rescaled"), evidence.better, "0"),
        _judged("greed does better from the removed end than from the kept one",
                "loss over the least, vgg-small and resnet-20: kept end less removed end",
                greed["grown"] - greed["removed"], lambda values, _: evidence.verdict(values), "0", "{:+.3f}"),
        _judged("10 images per class are enough", "whole vgg-small, 70 % of all filters: 10 / 100 images, not retrained",
                counts.loc[10] - counts.loc[100], evidence.no_worse, "0"),
        _judged("an epoch at a constant 0.02 after a layer does harm", "vgg-small, half of conv4: before / after the epoch",
                -harm, evidence.better, "1"),
        _judged("an epoch at 0.001, the paper's rate, does none", "the same cut: after / before the epoch", own,
                evidence.no_worse, "1"),
        _judged("the cut network beats its shape trained from scratch", "vgg-small, 2x fewer MACs: ThiNet / scratch-E",
                _difference(plain, "ThiNet", "scratch-E"), evidence.better),
    ]  # fmt: skip


def _plain_first(table: pd.DataFrame | pd.Series) -> list[str]:
    return sorted(table.index.unique("network"), key=lambda network: network.startswith("resnet"))


def _layers(table: pd.Series) -> list[tuple[str, str]]:
    return [(network, layer) for network in _plain_first(table) for layer in table[network].index.unique("layer")]


def _difference(table: pd.DataFrame, first: str, second: str) -> pd.Series:
    """The paired differences of two columns, one per trained network; none where one of them was not measured."""
    return _against(table, first, table[second]) if second in table else NOTHING


def _against(table: pd.DataFrame, first: str, second: pd.Series) -> pd.Series:
    return (table[first] - second).dropna() if first in table else NOTHING


def _judged(
    claim: str, measured: str, differences: pd.Series, test: Callable, epochs: str = "20", form: str = "{:+.2f}"
) -> Claim:
    """A claim about paired differences, one per trained network, or one that waits for its rows."""
    if not len(differences):
        return Claim(claim, measured, MISSING, None, epochs)
    spread = " ".join(form.format(value) for value in differences)
    return Claim(claim, measured, f"by network: {spread}", test(differences, "cifar10"), epochs)
