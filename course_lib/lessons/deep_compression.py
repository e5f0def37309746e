"""What notebook 05 shows beside its cells: tables and figures of recorded rows."""

import dataclasses
from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from course_lib.data import Split
from course_lib.evidence import DOES_NOT, HOLDS, UNDECIDED, Verdict, better, interval, no_worse, verdict
from course_lib.experiments import deep_compression as experiments
from course_lib.experiments.compressed_files import PAPER_LAYERS
from course_lib.experiments.size_curves import (
    best_within,
    by_bits,
    by_size,
    frontier,
    gap_share,
    paired,
    pipeline,
    quantization_cost,
    sizes,
)
from course_lib.notebook import Claim
from course_lib.notebook.plots import lines

# Section 5 and tables 4 and 5, which nothing here can repeat: error in percent (top-1, top-5), size, and rate by stage
PUBLISHED = {
    "AlexNet": ("42.78 / 19.73 %", "42.78 / 19.70 %", "240 MB", "9x", "27x", "35x", "6.9 MB"),
    "VGG-16": ("31.50 / 11.32 %", "31.17 / 10.91 %", "552 MB", "13x", "31x", "49x", "11.3 MB"),
}
STAGES = ("P", "P+Q", "P+Q+H", "P+Q+ANS")


def published() -> pd.DataFrame:
    """Return the paper's results on ImageNet, stage by stage."""
    columns = ["error before (top-1 / top-5)", "after", "size", "P, weights", "P+Q, bytes", "P+Q+H, bytes", "file"]
    table = pd.DataFrame.from_dict(PUBLISHED, orient="index", columns=columns)
    return table.reset_index(names="ImageNet, not tested here")


def stage_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per network, setting and stage: bytes of the file, times smaller, test error with its interval, epochs.

    Args:
        rows: of kind 'stages', as `runner.recorded` gives them.
    """
    lines = []
    for (network, setting), group in rows[rows.kind == "stages"].groupby(["network", "setting"]):
        for stage in STAGES:
            of_stage = group[group.method == stage]
            lines.append(
                {
                    "network": network,
                    "setting": setting,
                    "stage": stage,
                    "kB": f"{of_stage.bytes.mean() / 1000:.1f}",
                    "times smaller": f"{(of_stage.dense_bytes / of_stage.bytes).mean():.1f}",
                    "error before (%)": f"{100 - of_stage.baseline.mean():.2f}",
                    "error after (%)": with_interval(100 - of_stage.accuracy),
                    "points lost": with_interval(of_stage.baseline - of_stage.accuracy, "+.2f"),
                    "epochs": f"{of_stage.epochs.iloc[0]:g}",
                }
            )
    return pd.DataFrame(lines)


def bits_figure(rows: pd.DataFrame, curves: Mapping[str, Mapping[str, str]], title: str) -> plt.Figure:
    """Draw test error against the bits of a code: means over the networks, with their 95 % intervals as bands.

    Args:
        rows: of kind 'bits'.
        curves: label -> columns and values that choose the rows of a curve: plan, start, method.
        title: of the figure.
    """
    found = {label: 100 - by_bits(rows, **chosen) for label, chosen in curves.items()}
    bits = list(next(iter(found.values())).columns)
    means = {label: table.mean() for label, table in found.items()}
    bands = {label: np.array([interval(table[b])[1:] for b in bits]).T for label, table in found.items()}
    fig = lines(bits, means, title=title, xlabel="bits of a code", ylabel="test error on MNIST (%, log scale)", spread=bands)
    fig.axes[0].set(yscale="log", xticks=bits)
    lowest, highest = min(m.min() for m in means.values()), max(m.max() for m in means.values())
    ticks = [t for t in (0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10, 20, 50) if 0.8 * lowest <= t <= 1.3 * highest]
    fig.axes[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    fig.axes[0].minorticks_off()
    return fig


def size_figure(networks: pd.DataFrame, title: str) -> plt.Figure:
    """Draw test error against the size of the file along the `frontier` of each curve, with 95 % intervals as bands."""
    chosen, x, y, bands = frontier(networks), {}, {}, {}
    for curve in networks.curve.unique():
        points = chosen[chosen.curve == curve]
        of_choice = [100 - networks[(networks.curve == curve) & (networks.choice == c)].accuracy for c in points.choice]
        x[curve], y[curve] = points.share, [errors.mean() for errors in of_choice]
        bands[curve] = np.array([interval(errors)[1:] for errors in of_choice]).T
    xlabel = "size of the file (% of the dense network, log scale)"
    fig = lines(x, y, title=title, xlabel=xlabel, ylabel="test error on MNIST (%, log scale)", spread=bands)
    fig.axes[0].set(xscale="log", yscale="log", xlim=(40, 0.6))
    fig.axes[0].set_xticks([30, 20, 10, 5, 3, 2, 1], ["30", "20", "10", "5", "3", "2", "1"])
    fig.axes[0].set_yticks([0.8, 1, 1.5, 2, 3, 5], ["0.8", "1", "1.5", "2", "3", "5"])
    fig.axes[0].minorticks_off()
    return fig


def paper_claims(rows: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims about what was run here; bits and sizes compared were fixed before any row was made."""
    training = by_bits(rows, plan="paper", start="linear", method="trained") - by_bits(
        rows, plan="paper", start="linear", method="untrained"
    )
    helps = training[[2, 3, 4, 5, 6]].mean(axis=1)
    saved = {network: 100 * (1 - files["P+Q+H"] / files["P+Q"]) for network, files in sizes(rows).items()}
    gaps = {network: gap_share(rows, network) for network in PAPER_LAYERS}
    return [
        *(at_no_loss(rows, network) for network in PAPER_LAYERS),
        both_together(rows),
        pruned_or_dense(rows),
        linear_start(rows),
        Claim("training the centroids helps", "LeNet-300-100, the paper's shares; trained less untrained, mean of 2 to 6 bits",
              ", ".join(f"{b} bits {training[b].mean():+.2f}" for b in (2, 3, 4, 5, 6)), better(helps, "mnist"),
              both_epochs(rows)),
        Claim("Huffman coding saves 20 to 30 % (its tables: 20 and 16 %)", "file before and after, the paper's setting",
              ", ".join(f"{network} {values.mean():.1f} %" for network, values in saved.items()),
              weaker(*(within(values, 20, 30) for values in saved.values()))),
        Claim("indices and weights take about half each (40 to 60 %)", "share of gaps in gaps and codes, the paper's setting",
              ", ".join(f"{network} {values.mean():.0f} %" for network, values in gaps.items()),
              weaker(*(within(values, 40, 60) for values in gaps.values()))),
    ]  # fmt: skip


def our_claims(rows: pd.DataFrame) -> list[Claim]:
    """Return what we add to the paper: its setting at equal budget, our smaller files, ANS."""
    found = []
    for network, cited in experiments.PAPER.items():
        small, arm = pipeline(rows, network, "small"), pipeline(rows, network, "paper")
        longer = rows[
            (rows.kind == "start") & (rows.network == network) & (rows.plan == "dense") & (rows.method == "pruned, longer")
        ]
        rate, left = (small.dense_bytes / small.bytes).mean(), cited["error"] - (100 - small.accuracy)
        found.append(
            Claim(
                "the paper's setting loses nothing against a dense network trained as long",
                network,
                f"{100 - longer.accuracy.mean():.2f} dense, {100 - arm.accuracy.mean():.2f} % compressed",
                no_worse(paired(arm, longer), "mnist"),
                f"{arm.epochs.iloc[0]:g} each",
            )
        )
        found.append(
            Claim(
                f"our small setting stays below the paper's error of {cited['error']:.2f} %",
                network,
                f"{rate:.0f}x smaller, {100 - small.accuracy.mean():.2f} %",
                verdict(left),
                f"{small.epochs.iloc[0]:g}",
            )
        )
    gained = [
        100 * (1 - files["P+Q+ANS"] / files["P+Q+H"]) for setting in ("paper", "small") for files in sizes(rows, setting).values()
    ]
    found.append(Claim("ANS makes the file at least 1 % smaller than Huffman", "all four files, both settings",
                       ", ".join(f"{values.mean():+.1f} %" for values in gained),
                       weaker(*(verdict(values, margin=1) for values in gained))))  # fmt: skip
    return found


def at_no_loss(rows: pd.DataFrame, network: str) -> Claim:
    """Return the claim about size and accuracy together; the weaker of its two verdicts is the verdict."""
    cited, arm = experiments.PAPER[network], pipeline(rows, network, "paper")
    rate, lost = arm.dense_bytes / arm.bytes, arm.baseline - arm.accuracy
    plain = arm.dense_bytes.iloc[0] / 1000
    here = f"{plain:.0f} -> {arm.bytes.mean() / 1000:.1f} kB, {rate.mean():.1f}x; "
    here += (
        f"error {100 - arm.baseline.mean():.2f} -> {100 - arm.accuracy.mean():.2f} %, points lost {with_interval(lost, '+.2f')}"
    )
    evidence = weaker(verdict(rate, margin=cited["rate"]), no_worse(-lost, "mnist"))
    claim = f"{cited['rate']}x smaller ({cited['kilobytes']} kB) at no loss: {cited['baseline']:.2f} -> {cited['error']:.2f} %"
    return Claim(claim, f"{network}, the paper's shares and bits", here, evidence, f"{arm.epochs.iloc[0]:g}, and 0")


def both_together(rows: pd.DataFrame, share: float = 3.0) -> Claim:
    """Return the claim of figure 6, at 3 % of the size, where the paper's combination keeps its accuracy."""
    networks = by_size(rows)
    arms = {curve: best_within(networks, curve, share) for curve in networks.curve.unique()}
    both = arms.pop("pruning and quantization")
    alone = {curve: arm for curve, arm in arms.items() if arm is not None}
    rival = max(alone, key=lambda curve: alone[curve].validation.mean())
    here = f"together {100 - both.accuracy.mean():.2f} % error, "
    here += ", ".join(f"{curve} {100 - arm.accuracy.mean():.2f} %" for curve, arm in alone.items())
    here += "".join(f", {curve}: no file so small" for curve in arms if arms[curve] is None)
    measured = f"LeNet-300-100 in at most {share:g} % of the bytes; together less {rival}"
    return Claim("together they keep accuracy where each alone fails (figure 6)", measured, here,
                 better(paired(both, alone[rival]), "mnist"), f"{both.epochs.iloc[0]:g} each")  # fmt: skip


def pruned_or_dense(rows: pd.DataFrame) -> Claim:
    """Return the claim of figure 7: what quantization costs a pruned network, less what it costs a dense one."""
    cost = {plan: quantization_cost(rows, plan) for plan in ("dense", "paper")}
    here = ", ".join(f"{b} bits {cost['paper'][b].mean():.2f} against {cost['dense'][b].mean():.2f}" for b in cost["dense"])
    difference = (cost["dense"] - cost["paper"]).mean(axis=1)
    return Claim("pruned networks quantize as well as dense ones (figure 7)",
                 "LeNet-300-100, points that quantization costs the pruned and the dense network; mean of 2 to 8 bits",
                 here, no_worse(difference, "mnist"), both_epochs(rows, ["trained"]))  # fmt: skip


def linear_start(rows: pd.DataFrame) -> Claim:
    """Return the claim of figure 8: the linear start against the better of the others by validation, without 3 bits."""
    bits = [2, 4, 5, 6, 8]
    tables = {s: by_bits(rows, plan="paper", start=s, method="trained")[bits] for s in experiments.paper.STARTS}
    chosen = {
        s: by_bits(rows, "validation", plan="paper", start=s, method="trained")[bits].mean().mean()
        for s in tables
        if s != "linear"
    }
    rival = max(chosen, key=chosen.get)
    here = ", ".join(f"{start} {100 - table.mean().mean():.2f} %" for start, table in tables.items())
    claim = "the linear start is best at 2 to 8 bits, except 3 (figure 8)"
    evidence = better((tables["linear"] - tables[rival]).mean(axis=1), "mnist")
    measured = f"LeNet-300-100, the paper's shares; linear less {rival}, mean of bits"
    return Claim(claim, measured, here, evidence, both_epochs(rows, ["trained"]))


def both_epochs(rows: pd.DataFrame, methods: Iterable[str] = ("trained", "untrained")) -> str:
    """Return the epochs of rows of kind 'bits' as text."""
    found = [rows[(rows.kind == "bits") & (rows.method == method)].epochs.iloc[0] for method in methods]
    return " and ".join(f"{epochs:g}" for epochs in found)


def within(values: Iterable[float], low: float, high: float) -> Verdict:
    """Return the verdict on 'between low and high': that of the end which is nearer to being missed."""
    values = np.array(list(values))
    above, below = verdict(values, margin=low), verdict(-values, margin=-high)
    return dataclasses.replace(above, label=weaker(above, below).label)


def weaker(*verdicts: Verdict) -> Verdict:
    """Return the verdict on a claim of several parts: it fails if one fails, and holds if all hold."""
    return min(verdicts, key=lambda found: (DOES_NOT, UNDECIDED, HOLDS).index(found.label))


def with_interval(values: Iterable[float], form: str = ".2f") -> str:
    """Return a mean over networks and its 95 % interval as text."""
    mean, low, high = interval(values)
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"


@torch.no_grad()
def output_change(model: nn.Module, other: nn.Module, split: Split) -> float:
    """Return the mean squared difference of two networks' outputs on the images of a split."""
    return (model(split.images) - other(split.images)).square().mean().item()
