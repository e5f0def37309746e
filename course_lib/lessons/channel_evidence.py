"""The figure and the tables that notebook 06 makes of recorded rows, and the claims of the paper and our own."""

import math
from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from course_lib import evidence
from course_lib.evidence import with_interval
from course_lib.experiments import channel_tables as tables
from course_lib.experiments.channel_choices import FIRST, LARGEST, LASSO, METHODS, RANDOM, RESPONSE
from course_lib.notebook import Claim, plots
from course_lib.notebook.plots import COLOURS, WIDTH

SCRATCH = "scratch-E"
NO_REFIT = f"{RESPONSE}, no refit"  # the comparison calls it L1
# Arms of the comparison that the notebook shows, by the names that it gives them
RETRAINED = {
    LASSO: LASSO, LARGEST: LARGEST, "L1": NO_REFIT, RANDOM: f"{RANDOM}, no refit", SCRATCH: SCRATCH, "dense": "dense",
}  # fmt: skip

# The paper's own figures: network, method, and the points lost at some rates, "before fine-tuning -> after"; † is not verified
PAPER_VGG = [
    ("channel pruning", "2.7† -> 0.0", "7.9† -> 1.0", "22.0† -> 1.7"),
    ("3C, with both decompositions", "", "0.7† -> 0.0", "1.3† -> 0.3"),
    ("filter pruning (notebook 04), fine-tuned", "0.8†", "8.6†", "14.6†"),
    ("spatial decomposition (Jaderberg 2014)", "", "9.7†", "29.7†"),
    ("channel decomposition (Zhang 2016)", "0.28†", "3.84†", ""),
    ("both decompositions (Zhang 2016)", "", "0.9† -> 0.3†", "2.0† -> 1.0†"),
    ("the pruned shape from scratch", "", "1.8†", ""),
]
PAPER_OTHERS = [
    ("ResNet-50, ImageNet, top-5 92.2 %", "2x", "8.0; with both rules 4.0", "1.4", ""),
    ("Xception-50, ImageNet, top-5", "2x†", "2.9†", "1.0", "filter pruning 4.3†"),
    ("Faster R-CNN with VGG-16, mAP", "4x", "", "1.8", ""),
    ("the same, AP 36.7† (authors' release)", "2x / 4x", "", "0.0† / 1.6†", ""),
    ("ResNet-56, CIFAR-10, top-1 92.8 %", "2x", "2.0†", "1.0", "filter pruning 1.3†, scratch 1.9†"),
]


def single_layers_figure(found: pd.DataFrame, speedup: int) -> plt.Figure:
    """Draw figure 4 of the paper at one rate: points of accuracy lost with one layer pruned, and the error of its output.

    Points are means over trained networks, lines their 95 % intervals.
    """
    lines = tables.alone(found)
    lines = lines[lines.speedup == speedup]
    order, quantities = list(dict.fromkeys(lines.layer)), {"lost": "points of accuracy lost", "error": "reconstruction error (%)"}
    fig, axes = plt.subplots(2, 1, figsize=(WIDTH, 6.8), sharex=True)
    for ax, (quantity, label) in zip(axes, quantities.items(), strict=True):
        for place, (method, marker, colour) in enumerate(zip(METHODS, plots.MARKERS, COLOURS, strict=False)):
            values = lines[lines.method == method].groupby("layer")[quantity]
            mean, low, high = np.transpose([evidence.interval(values.get_group(name)) for name in order])
            x = np.arange(len(order)) + 0.15 * (place - 2)
            ax.vlines(x, np.maximum(low, 0), high, color=colour, linewidth=1.2)
            ax.plot(x, mean, marker, markersize=6, color=colour, label=method)
        ax.set(ylabel=label, ylim=(0, 1.15 * lines.groupby(["layer", "method"])[quantity].mean().max()))
    axes[1].set_xticks(range(len(order)), order)
    findings = {"lost": "costs most accuracy", "error": "has most error"}
    for ax, (quantity, title) in zip(axes, findings.items(), strict=True):
        values = tables.at_rate(found, speedup, quantity).drop("mean")
        worst = values.mean(axis=1).idxmax()
        always = "by any choice" if (values.idxmax() == worst).all() else "on average"
        ax.set_title(f"At {speedup}x, {always}, {worst} {title}")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def subsets_table(found: Mapping[str, Mapping[str, float]], problems: int) -> pd.DataFrame:
    """Return shares from `channel_choices.subset_search`, by how the channels are mixed, in words."""
    table = pd.DataFrame(found).T.map("{:.0%}".format)
    table.columns = ["best betas, W as it is", "refitted"]
    return table.rename_axis(f"channels of {problems} random layers").reset_index()


def first_places(found: pd.DataFrame) -> pd.DataFrame:
    """Return in how many layers each way of choosing is best on average: a line per way, a column per rate and measure."""
    columns = {}
    for speedup in sorted(set(tables.alone(found).speedup)):
        for quantity in ("lost", "error"):
            winners = tables.at_rate(found, speedup, quantity).drop("mean").idxmin(axis=1)
            columns[speedup, quantity] = {way: int((winners == way).sum()) for way in METHODS}
    return pd.DataFrame(columns)


def first_places_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return `first_places` in words."""
    table, layers = first_places(found), len(set(tables.alone(found).layer))
    table.columns = [f"{rate}x, {'points lost' if quantity == 'lost' else 'error'}" for rate, quantity in table]
    return table.rename_axis(f"layers (of {layers}) where it is smallest").reset_index()


def response_at(found: pd.DataFrame, speedup: int) -> str:
    """Return how max response compares with the LASSO at a rate by both measures, in words."""
    by_layer = {column: tables.leads(found, RESPONSE, column)[speedup] for column in ("lost", "error")}
    behind = {column: (lead.groupby("layer").mean() < 0) for column, lead in by_layer.items()}
    fewer, layers = behind["lost"], len(behind["lost"])
    gaps = by_layer["lost"].groupby("layer").mean().abs()
    named = f" ({', '.join(f'{layer} by {gaps[layer]:.2f}' for layer in fewer.index[fewer])})" if fewer.any() else ""
    lead = by_layer["lost"].groupby("seed").mean()
    return (
        f"At {speedup}x max response loses fewer points than the LASSO in {fewer.sum()} of {layers} layers{named}; "
        f"its error is smaller in {behind['error'].sum()}.\n"
        f"Mean of the layers: the LASSO is ahead by {with_interval(lead, '{:+.2f}')} points."
    )


def fit_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return `tables.before_and_after_fit` in words."""
    table = tables.before_and_after_fit(found).reset_index()
    return pd.DataFrame(
        {
            "layer": table.layer,
            "times fewer channels": table.speedup,
            "error (%), weights times beta": table.error_before_fit.map("{:.1f}".format),
            "error (%), refitted": table.error.map("{:.1f}".format),
            "LASSO's channels among the largest contributions": table.shared.map("{:.0f} %".format),
        }
    )


def not_retrained_table(found: pd.DataFrame, fair: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies of the plain network before retraining, by rate and way of choosing; all refitted but the last."""
    lines = []
    for rate in sorted(set(found[found.kind == "refitted"].rate)):
        table = tables.not_retrained(found, fair, rate)
        bare = tables.accuracies(fair, found[found.kind == "refitted"].network.iloc[0], rate, "removed") if len(fair) else {}
        row = {"accuracy (%), not retrained": f"{rate:g}x fewer MACs"}
        for way in (LASSO, LARGEST, RESPONSE, RANDOM):
            row[way] = with_interval(table[way].dropna(), "{:.1f}") if way in table else "not measured"
        row[NO_REFIT] = with_interval(bare["L1"].dropna(), "{:.1f}") if "L1" in bare else "not measured"
        lines.append(row)
    return pd.DataFrame(lines)


def retrained_table(fair: pd.DataFrame) -> pd.DataFrame:
    """Return the points lost by arms of the comparison, not retrained and retrained: a line per arm and network and rate."""
    lines = []
    for network, rate in tables.rates_with(fair, "L1"):
        end, cut, whole = (tables.accuracies(fair, network, rate, column) for column in ("accuracy", "removed", "baseline"))
        epochs = fair[fair.network == network].groupby("method").epochs.max()
        for arm, name in RETRAINED.items():
            if arm in end and end[arm].notna().all():
                at_once = with_interval(whole[arm] - cut[arm], "{:.1f}") if cut[arm].notna().all() else "-"
                lines.append((f"{network}, {rate}x", name, at_once, with_interval(whole[arm] - end[arm]), f"{epochs[arm]:g}"))
    head = ["network, times fewer MACs", "arm", "points lost, not retrained", "points lost, retrained", "epochs"]
    return pd.DataFrame(lines, columns=head)


def leads_table(found: pd.DataFrame, fair: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, evidence.Verdict]]:
    """Return by how many points the LASSO is ahead of the largest contribution, wherever both were measured, and the verdicts."""
    verdicts = {}
    for speedup, lead in tables.leads(found, LARGEST).items():
        by_network = lead.groupby("seed").mean()
        verdicts[f"one layer alone, {speedup}x, mean of the layers"] = evidence.better(by_network, "cifar10")
    for network, rate in tables.rates_with(fair, LASSO, LARGEST):
        for column, when in (("removed", "not retrained"), ("accuracy", "retrained")):
            table = tables.accuracies(fair, network, rate, column)
            verdicts[f"{network}, {rate}x, {when}"] = evidence.better(table[LASSO] - table[LARGEST], "cifar10")
    shown = [(at, f"{v.mean:+.2f} ({v.low:+.2f} to {v.high:+.2f})", v.label) for at, v in verdicts.items()]
    return pd.DataFrame(shown, columns=["LASSO against largest contribution", "points ahead", "'LASSO is better'"]), verdicts


def what_the_lasso_buys(verdicts: Mapping[str, evidence.Verdict]) -> str:
    """Return in how many of the comparisons with the largest contribution the LASSO is better, in words."""
    labels = [verdict.label for verdict in verdicts.values()]
    most = max(abs(verdict.mean) for verdict in verdicts.values())
    return (
        f"'LASSO is better' holds in {labels.count(evidence.HOLDS)} of {len(labels)} comparisons, does not hold in "
        f"{labels.count(evidence.DOES_NOT)}, and is undecided in {labels.count(evidence.UNDECIDED)}; "
        f"no mean differs by more than {most:.1f} points."
    )


def samples_table(found: pd.DataFrame, fair: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy by number of images and positions, not retrained, and of the LASSO's channels without the refit."""
    lines = []
    ridges = found[(found.kind == "samples") & (found.method == LASSO)].groupby(["images", "positions"]).ridges.mean()
    for (images, positions), values in tables.by_samples(found, fair).items():
        fitted = f"{ridges.get((images, positions), math.nan):.0f}" if (images, positions) in ridges else "-"
        lines.append((f"{images:,}", positions, f"{images * positions:,}", fitted, with_interval(values, "{:.1f}")))
    bare = found[(found.kind == "samples") & (found.method != LASSO)]
    at = f"{bare.images.iloc[0]:,.0f}", int(bare.positions.iloc[0])
    lines.append((*at, "no refit", "-", with_interval(bare.accuracy, "{:.1f}")))
    return pd.DataFrame(lines, columns=["images", "positions in each", "samples", "layers with a ridge", "accuracy (%)"])


def ridge_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return points lost and error of the layer that is fitted with a ridge, a line per number of samples."""
    lost, error = found.assign(lost=found.baseline - found.accuracy), tables.by_ridge(found)
    lost = tables.by_ridge(lost, "lost")
    unknowns = found[found.kind == "ridge"].unknowns.iloc[0]
    cells = {f"ridge {ridge:g}": [f"{lost.at[n, ridge]:.2f} / {error.at[n, ridge]:.1f}" for n in error.index] for ridge in error}
    return pd.DataFrame({f"samples, for {unknowns:.0f} unknowns": [f"{n:,}" for n in error.index]} | cells)


def rules_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return the points lost under each of the rules for residual networks, and how far each is ahead of none."""
    table = tables.by_rules(found)
    ahead = {rules: with_interval(table["neither"] - table[rules], "{:+.2f}") for rules in ("samplers", "correction", "both")}
    lines = [(rules, with_interval(table[rules]), ahead.get(rules, "")) for rules in ("neither", *ahead)]
    return pd.DataFrame(lines, columns=["rules", "points lost, not retrained", "points ahead of neither"])


def rules_layers_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return what the first and the last layers of the blocks read and explain, without samplers and with them, corrected."""
    lines = []
    for rules, shown in {"correction": "without samplers", "both": "with samplers"}.items():
        layers = [layers for layers in found[(found.kind == "rules") & (found.rules == rules)].layers]
        for end, words in {"conv1": "first", "conv2": "last"}.items():
            read = [layer for network in layers for name, layer in network.items() if name.endswith(end)]
            if read:
                mean = {key: np.mean([layer[key] for layer in read]) for key in ("kept", "explained")}
                lines.append((shown, words, f"{mean['kept']:.0f}", f"{100 * mean['explained']:.0f}"))
    return pd.DataFrame(lines, columns=["ResNet-20 at 2x", "layer of a block", "channels read, mean", "explained (%), mean"])


def published() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the paper's results on VGG-16 beside its rivals', and those on other networks, in its own terms."""
    head = ["VGG-16, points of top-5 accuracy lost (baseline 89.9 %)", "2x", "4x", "5x"]
    others = ["network and measure", "rate", "points lost before fine-tuning", "after", "rivals, fine-tuned"]
    return pd.DataFrame(PAPER_VGG, columns=head), pd.DataFrame(PAPER_OTHERS, columns=others)


# Claims


def papers_claims(found: pd.DataFrame, fair: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims in its own terms, judged by recorded rows."""
    rules, lost = tables.by_rules(found), tables.at_rate(found, 4)[LASSO]
    lines = tables.alone(found)
    lines = lines[lines.method == LASSO].pivot_table(index="seed", columns="layer", values="lost")
    deep = tables.leads(found, FIRST, method=RESPONSE).loc[list(lines)[-2:]].mean(axis=1).groupby("seed").mean()
    end, whole = (tables.accuracies(fair, "resnet-20", 2, column) for column in ("accuracy", "baseline"))
    loss, epochs = whole[LASSO] - end[LASSO], f"{fair[fair.method == LASSO].epochs.max():g}"
    shallow_ones, deep_ones = lines[list(lines)[:2]].mean(axis=1), lines[list(lines)[-2:]].mean(axis=1)
    by_layer = ", ".join(f"{layer} {lost[layer]:.0f}" for layer in lines)
    both = f"{rules['neither'].mean():.2f} / {rules['both'].mean():.2f} points lost"
    return [
        _at_every_rate(found, RESPONSE),
        _at_every_rate(found, FIRST),
        Claim("max response can be worse than first k on deep layers†", f"{' and '.join(list(lines)[-2:])} alone, top-1",
              f"first k is {abs(deep.mean()):.2f} points {'behind' if deep.mean() > 0 else 'ahead'}",
              evidence.better(-deep, "cifar10"), "0"),
        Claim("shallow layers are more redundant",
              f"top-1, mean of 2x, 3x and 4x: {', '.join(list(lines)[:2])} against {', '.join(list(lines)[-2:])}",
              f"{shallow_ones.mean():.2f} / {deep_ones.mean():.2f} points lost; at 4x {by_layer}",
              evidence.better(deep_ones - shallow_ones, "cifar10"), "0"),
        Claim("both residual rules save points (ResNet-50, top-5: 8.0 -> 4.0 lost)", "ResNet-20 at 2x, top-1: neither / both",
              both, evidence.better(rules["neither"] - rules["both"], "cifar10"), "0"),
        Claim("ResNet-56 at 2x loses 1.0 point of top-1", "ResNet-20 at 2x, top-1, correction without samplers",
              f"{loss.mean():.2f} points lost", evidence.verdict(-loss, margin=-1.0), epochs),
        _against("... and beats the same shape from scratch (ResNet-56: 91.8, 90.9† %)", "ResNet-20 at 2x, top-1, equal epochs",
                 end[LASSO], end[SCRATCH], epochs),
        Claim("VGG-16 at 2x, 4x, 5x loses 0.0, 1.0, 1.7 points of top-5", "ImageNet", "", None),
    ]  # fmt: skip


def own_claims(found: pd.DataFrame, fair: pd.DataFrame) -> list[Claim]:
    """Return what we asked beyond the paper, judged by recorded rows."""
    single = tables.leads(found, LARGEST)[4].groupby("seed").mean()
    cut, end = (tables.accuracies(fair, "vgg-small", 2, column) for column in ("removed", "accuracy"))
    chosen = tables.not_retrained(found, fair, 2)
    epochs = f"{fair[fair.method == LASSO].epochs.max():g}"
    return [
        _against("the refit keeps the network working", f"vgg-small at 2x, not retrained: {RESPONSE}, refitted / no refit",
                 chosen[RESPONSE], cut["L1"], "0"),
        _against("the choice matters, though both are refitted", "vgg-small at 2x, not retrained: LASSO / random",
                 chosen[LASSO], chosen[RANDOM], "0"),
        Claim("the LASSO beats the largest contribution on single layers", "vgg-small at 4x, mean of the layers",
              f"{single.mean():+.2f} points ahead", evidence.better(single, "cifar10"), "0"),
        _against("... and in the whole network", "vgg-small at 2x, not retrained", cut[LASSO], cut[LARGEST], "0"),
        _against("... and once that is retrained", "vgg-small at 2x, retrained", end[LASSO], end[LARGEST], epochs),
    ]  # fmt: skip


def _at_every_rate(found: pd.DataFrame, other: str) -> Claim:
    """A claim of the paper's figure 4: the verdict is that of the rate at which the LASSO's lead is smallest."""
    by_network = tables.leads(found, other).groupby("seed").mean()
    smallest = by_network.mean().idxmin()
    wins, of = tables.cases(found, other)
    here = ", ".join(f"{rate}x {lead:+.2f}" for rate, lead in by_network.mean().items())
    measured = f"one layer alone, lead in points of top-1, mean of the layers; verdict at {smallest}x, the smallest"
    words = f"{here}; ahead in {wins} of {of} (layer, rate) pairs"
    return Claim(f"less error than {other} at every rate (figure 4)", measured, words,
                 evidence.better(by_network[smallest], "cifar10"), "0")  # fmt: skip


def _against(
    claim: str, measured: str, first: pd.Series, second: pd.Series, epochs: str, test: Callable = evidence.better
) -> Claim:
    """A claim about the accuracies of two arms, each by network."""
    return Claim(claim, measured, f"{first.mean():.2f} / {second.mean():.2f} % accuracy", test(first - second, "cifar10"), epochs)
