"""What notebook 03 shows beside its cells: figures and tables of recorded rows."""

from collections.abc import Callable, Collection, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import activations, evidence, surgery
from course_lib.experiments import network_trimming as runs
from course_lib.experiments import trimming_tables as tables
from course_lib.notebook import Claim, plots
from course_lib.surgery.inputs import inputs_of, readers_of

# To the last shape of trimming in rounds; the dense network, trained on for as long, keeps its own
WAYS = ("rounds", "one cut", "from scratch", "from scratch, longer", "dense")


@torch.no_grad()
def means_put_back(model: nn.Module, keep: Mapping[str, Tensor], images: Tensor) -> nn.Module:
    """Return a narrower network in which the layers behind the removed neurons read these neurons' mean as part of their biases.

    Args:
        model: a trained network of convolutions and dense layers; it is left as it was.
        keep: layer, read by one dense layer -> the neurons that stay, in ascending order.
        images: (N, ...) on which the means are taken.
    """
    narrower, sources = surgery.narrow(model, keep, images[:1]), inputs_of(model, None, images[:1])
    readers = readers_of(sources)
    means = activations.watch(model, {readers[layer]: lambda _layer, inputs, _outputs: inputs.mean(0) for layer in keep}, images)
    for layer, stays in keep.items():
        reader = readers[layer]
        gone = torch.ones(len(sources[reader].columns), dtype=torch.bool).index_fill(0, stays.cpu(), False)
        columns = sources[reader].columns[gone].flatten()
        shift = model.get_submodule(reader).weight[:, columns] @ means[reader][columns]
        narrower.get_submodule(reader).bias += shift[keep.get(reader, slice(None))]
    return narrower


def with_interval(values: Collection[float], form: str = "{:.2f}") -> str:
    """Return the mean over networks and its 95 % interval, in words."""
    return "{} ({} to {})".format(*(form.format(figure) for figure in evidence.interval(values)))


def rates_tried(found: pd.DataFrame) -> pd.DataFrame:
    """Return the validation accuracy at each learning rate, a column per budget: the mean over the networks that were tried."""
    lines = found[found.kind == "lr"]
    lines = lines.assign(column=lines.method + ", " + lines.epochs.map("{:g} epochs".format))
    table = lines.pivot_table(index="lr", columns="column", values="validation", sort=False).sort_index(ascending=False)
    return table.map(lambda value: "" if np.isnan(value) else f"{value:.2f} %").rename_axis(columns=None).reset_index()


def step_by_step(found: pd.DataFrame, first: str = "APoZ", second: str = "random") -> pd.DataFrame:
    """Return by how many points one criterion is ahead of another at each pair of widths, before and after retraining."""
    table, lines = tables.choices(found), []
    for pair in runs.PAPER[1:] + runs.BEYOND:
        here = table.xs(pair[0], level="conv2")
        ahead = here.loc[first] - here.loc[second]
        figures = [with_interval(ahead[column], "{:+.2f}") for column in ("removed", "accuracy")]
        lines.append(("{}, {}".format(*pair), f"{here.rate.mean():.2f}x", *figures))
    return pd.DataFrame(lines, columns=["conv2, fc1", "rate", "before retraining (points)", "after it (points)"])


def ahead_of_random(found: pd.DataFrame) -> pd.DataFrame:
    """Return by how many points each criterion is ahead of random choice, on average over the paper's four steps."""
    table, lines = tables.four_steps(found), []
    for criterion in runs.CRITERIA:
        if criterion != "random":
            ahead = table.loc[criterion] - table.loc["random"]
            lines.append((criterion, *(with_interval(ahead[column], "{:+.2f}") for column in ("removed", "accuracy"))))
    return pd.DataFrame(lines, columns=["ahead of random choice", "before retraining (points)", "after it (points)"])


def criteria_figure(found: pd.DataFrame, title: str) -> plt.Figure:
    """Draw the error by rate, a curve per criterion with its 95 % interval over networks, before and after retraining."""
    table, steps = tables.choices(found), [conv2 for conv2, _ in runs.PAPER[1:] + runs.BEYOND]
    rates = table.rate.groupby("conv2").mean()[steps]
    fig, axes = plt.subplots(1, 2, figsize=(9.0, 4.2), sharex=True)
    ticks = dict(removed=[0.5, 1, 3, 10, 30, 90], accuracy=[0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2, 3, 5])
    for ax, column, when in zip(axes, ticks, ("not retrained", "retrained"), strict=True):
        for method, marker, colour in zip(runs.CRITERIA, plots.MARKERS, plots.COLOURS, strict=False):
            errors = 100 - table.loc[method][column].unstack("conv2")[steps]
            mean, low, high = np.transpose([evidence.interval(errors[conv2]) for conv2 in steps])
            ax.plot(rates, mean, marker=marker, markersize=4.5, color=colour, label=method)
            ax.fill_between(rates, np.maximum(low, 0.3), np.minimum(high, 100), color=colour, alpha=0.15, linewidth=0)
        ax.set(xscale="log", yscale="log", xlabel="times fewer parameters", ylabel=f"test error (%), {when}")
        ax.set_xticks(rates, [f"{rate:.1f}" for rate in rates])
        low, high = ax.get_ylim()
        shown = [tick for tick in ticks[column] if low <= tick <= high]
        ax.set_yticks(shown, [str(tick) for tick in shown])
        ax.minorticks_off()
    axes[1].legend(fontsize=8)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


def strip_figure(groups: Mapping[str, Collection[float]], *, title: str, ylabel: str) -> plt.Figure:
    """Draw a figure of each network as a dot, group by group, with the mean and its 95 % interval beside them."""
    fig, ax = plt.subplots(figsize=(7.0, 3.4))
    for place, (values, colour) in enumerate(zip(groups.values(), plots.COLOURS, strict=False)):
        mean, low, high = evidence.interval(values)
        ax.scatter([place - 0.12] * len(values), values, s=16, color=colour, alpha=0.6)
        ax.errorbar(place + 0.12, mean, [[mean - low], [high - mean]], fmt="o", color=colour, capsize=4)
        ax.annotate(f"{mean:.2f}", (place + 0.2, mean), va="center", fontsize=9)
    ax.set_xticks(range(len(groups)), [name.replace(" ", "\n", 1) for name in groups])
    ax.set(title=title, ylabel=ylabel, xlim=(-0.5, len(groups) - 0.3))
    return fig


def ways_to_a_shape(found: pd.DataFrame) -> pd.DataFrame:
    """Return the last shape of trimming in rounds, reached in each way: epochs, multiply-accumulates of its training, error."""
    last, table = tables.ends(found), []
    for way in WAYS:
        group = last.loc[way]
        epochs = f"{group.before.iloc[0]:g} + {group.epochs.iloc[0]:g}"
        work = f"{group.work.mean() / 1e6:.0f} M"
        table.append((way, f"{group.parameters.mean():,.0f}", epochs, work, with_interval(100 - group.accuracy)))
    return pd.DataFrame(table, columns=["way", "parameters", "epochs", "MACs of training, one image", "error (%)"])


def many_or_few(found: pd.DataFrame) -> pd.DataFrame:
    """Return the errors of three layers trimmed at once and of two, at each rate, and the cost of the network that is left."""
    table = []
    for (rate, method), group in found[found.kind == "many"].groupby(["rate", "method"], sort=False):
        errors = [with_interval(100 - group[column]) for column in ("removed", "accuracy")]
        table.append((rate, method, f"{group.parameters.mean():,.0f}", f"{group.macs.mean():,.0f}", *errors))
    columns = ["rate", "trimmed", "parameters", "MACs", "error (%), worst before retraining", "error (%), retrained"]
    return pd.DataFrame(table, columns=columns)


def silence_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return `silence_by_width` in words: means over networks and their 95 % intervals."""
    table = tables.silence_by_width(found).groupby(["layer", "width"])[["mean", "above", "error"]]
    names = {"mean": "mean APoZ (%)", "above": "neurons with APoZ above 0.9 (%)", "error": "error of the network (%)"}
    return table.agg(lambda values: with_interval(values, "{:.1f}")).rename(columns=names).reset_index()


def papers_claims(found: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims, judged by recorded rows."""
    reached, way = tables.at_papers_rate(tables.rounds_of(found)).set_index("seed"), tables.ends(found).accuracy
    swings, silence, after = tables.swings(found), tables.silence_lost(found), tables.four_steps(found).accuracy
    total, few = f"{tables.ends(found).epochs['dense'].iloc[0]:g}", found[(found.kind == "many") & (found.rate == "13.4x")]
    few = few.set_index(["method", "seed"]).accuracy
    a_round = "{:.2f} points lost by trimming, {:.2f} won by retraining".format(*swings.mean())
    falls = (silence["before"] - silence["after"]).min(axis=1)
    means = silence.mean()
    layers = ", ".join(f"{layer} {means['before', layer]:.0f} -> {means['after', layer]:.0f} %" for layer in runs.LAYERS)
    at_once = few["two layers in rounds"], few["three layers at once"]
    lossless = evidence.no_worse(reached.accuracy - reached.baseline, "mnist")
    here = f"{reached.baseline.mean():.2f} -> {reached.accuracy.mean():.2f} % at {reached.rate.mean():.2f}x"
    return [
        Claim("3.85x fewer parameters at no loss", "accuracy before and after", here, lossless,
              f"2 a round, up to {reached.epochs.max():g}"),
        Claim("accuracy falls by trimming and recovers", "a round: the smaller of fall and recovery", a_round,
              evidence.better(swings.min(axis=1), "mnist"), "2 a round"),
        _against("APoZ says which neurons can go", "APoZ / random, retrained", after["APoZ"], after["random"], "1"),
        _against("old weights beat random ones", "one cut / from scratch", way["one cut"], way["from scratch"], total),
        _against("several rounds beat one cut", "in rounds / one cut", way["rounds"], way["one cut"], total),
        _against("many layers at once do lasting damage", "two layers in rounds / three at once, 13.4x", *at_once, total),
        Claim("trimming lowers the layers' APoZ", "fall of the mean APoZ in points, the smaller of two layers", layers,
              evidence.verdict(falls), total),
        Claim("VGG-16: 2.59x fewer parameters, above the original", "top-1 accuracy, ImageNet (check)",
              "68.36 -> 70.44 % in the paper", None),
    ]  # fmt: skip


def own_claims(found: pd.DataFrame) -> list[Claim]:
    """Return what we asked beyond the paper, judged by recorded rows."""
    way, table, counts = tables.ends(found), tables.four_steps(found), tables.by_images(found)
    long, after, everyone = way.accuracy, table.accuracy, int(counts.index.max())
    means = tables.silence_by_width(found).pivot_table(index=["layer", "width"], columns="seed", values="mean")
    rises = pd.DataFrame({layer: means.loc[layer].iloc[-1] - means.loc[layer].iloc[0] for layer in runs.LAYERS})
    grows = ", ".join(f"{layer} {rises[layer].mean():+.1f}" for layer in rises)
    both = "{:g} after {:g}, against {:g}".format(
        way.epochs["one cut"].iloc[0], way.before["one cut"].iloc[0], way.epochs["from scratch, longer"].iloc[0]
    )
    return [
        _against("before retraining too", "APoZ / random, not retrained", table.removed["APoZ"], table.removed["random"], "0"),
        _against("the silent side should go", "APoZ / its wrong side, retrained", after["APoZ"], after["APoZ, wrong side"], "1"),
        _against("the L1 norm beats APoZ", "L1 norm / APoZ, retrained", after["L1 norm"], after["APoZ"], "1"),
        _against("mean activation beats APoZ", "mean activation / APoZ, retrained",
                 after["mean activation"], after["APoZ"], "1"),
        _against("old weights beat random ones, their earlier epochs counted", "one cut / from scratch, longer",
                 long["one cut"], long["from scratch, longer"], both),
        _against("1,000 images are enough", f"1,000 / {everyone:,} images, not retrained",
                 counts.loc[1_000], counts.loc[everyone], "0", evidence.no_worse),
        Claim("wider layers are more silent", "rise of the mean APoZ in points, the smaller of two layers", grows,
              evidence.verdict(rises.min(axis=1)), "3"),
    ]  # fmt: skip


def _against(
    claim: str, measured: str, first: pd.Series, second: pd.Series, epochs: str, test: Callable = evidence.better
) -> Claim:
    """A claim about the accuracies of two arms, each by network."""
    here = f"{first.mean():.2f} / {second.mean():.2f} % right"
    return Claim(claim, measured, here, test(first - second, "mnist"), epochs)
