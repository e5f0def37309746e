"""What notebook 05 shows of recorded rows: tables and figures over five trained networks of each kind."""

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from course_lib import evidence
from course_lib.evidence import with_interval
from course_lib.experiments import deep_compression as experiments
from course_lib.experiments.compressed_files import PAPER_LAYERS, layer_table
from course_lib.experiments.pruned_starts import rate_table
from course_lib.experiments.size_curves import best_within, by_bits, frontier, pipeline
from course_lib.notebook.plots import INK, lines, stacked_bars
from course_lib.papers.deep_compression import STARTS

NAMES = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5"}
WEIGHTS = {  # thousands
    "lenet-300-100": dict(fc1=235.2, fc2=30, fc3=1),
    "lenet-5": dict(conv1=0.5, conv2=25, fc1=400, fc2=5),
}
STAGES = {"paper": ("P", "P+Q", "P+Q+H"), "small": ("P+Q+H",)}


def stage_table(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return a line per network, setting and stage: the file, and the test error with what it lost and its 95 % interval."""
    lines = []
    for setting, stages in STAGES.items():
        for network, name in NAMES.items():
            for stage in stages:
                rows = pipeline(recorded, network, setting, stage)
                lines.append(
                    {
                        "setting": setting,
                        "network": name,
                        "stage": stage,
                        "kB": f"{rows.bytes.mean() / 1000:.1f}",
                        "times smaller": f"{(rows.dense_bytes / rows.bytes).mean():.1f}",
                        "mean error (%)": f"{100 - rows.baseline.mean():.2f} -> {100 - rows.accuracy.mean():.2f}",
                        "points lost (95 % interval)": with_interval(rows.baseline - rows.accuracy, "{:+.2f}"),
                        "epochs after dense training": f"{rows.epochs.iloc[0]:g}",
                    }
                )
    return pd.DataFrame(lines)


def layers(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's tables 2 and 3 with ours beside each figure, a line per layer of both networks."""
    tables = [layer_table(recorded, network).rename(columns=lambda c: "layer" if "paper" in c else c) for network in NAMES]
    for table, name in zip(tables, NAMES.values(), strict=True):
        table.insert(0, "network", name)
    return pd.concat(tables, ignore_index=True)


def account(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the kilobytes of the paper's file, from its tables 2 and 3, and of ours, means over the networks, layer by layer."""
    table = []
    for network, name in NAMES.items():
        rows, cited = pipeline(recorded, network, "paper"), experiments.PAPER[network]
        kb = {layer: 0.04 * WEIGHTS[network][layer] for layer in PAPER_LAYERS[network]}  # a hundredth of the dense layer
        paper = {layer: kb[layer] * figures[-1] for layer, figures in PAPER_LAYERS[network].items()}
        here = {layer: kb[layer] * np.mean([found[layer][-1] for found in rows.layers]) for layer in kb}
        other = rows.bytes.mean() / 1000 - sum(here.values())
        lines = [(layer, paper[layer], here[layer]) for layer in kb] + [("biases, header", None, other)]
        lines += [("sum", sum(paper.values()), rows.bytes.mean() / 1000), ("the paper's total", cited["kilobytes"], None)]
        dense = rows.dense_bytes.mean() / 1000
        for part, theirs, ours in lines:
            both = [("" if value is None else f"{value:.2f}") for value in (theirs, ours)]
            whole = part in ("sum", "the paper's total")
            table.append((name, part, *both, *("" if v is None or not whole else f"{dense / v:.1f}" for v in (theirs, ours))))
    columns = ["network", "part", "kB, paper", "kB, here", "times smaller, paper", "times smaller, here"]
    return pd.DataFrame(table, columns=columns)


def whole_errors(recorded: pd.DataFrame) -> dict[str, pd.Series]:
    """Return LeNet-300-100's errors (%) without quantization, by network: as trained, and dense and pruned trained on alike."""
    rows = recorded[(recorded.kind == "start") & (recorded.network == "lenet-300-100")].set_index("seed")
    longer = {plan: rows[(rows.plan == plan) & (rows.method == "pruned, longer")] for plan in ("dense", "paper")}
    epochs = f"{longer['dense'].epochs.iloc[0]:g} epochs more"
    found = {"dense, as trained": longer["dense"].baseline, f"dense, {epochs}": longer["dense"].accuracy}
    found[f"pruned 12x, {epochs}"] = longer["paper"].accuracy
    return {name: 100 - accuracy for name, accuracy in found.items()}


def whole_table(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return `whole_errors` with intervals, and what the last two are apart from the first."""
    found = whole_errors(recorded)
    first = next(iter(found.values()))
    lines = [(name, with_interval(e), with_interval(e - first, "{:+.2f}") if e is not first else "") for name, e in found.items()]
    return pd.DataFrame(lines, columns=["LeNet-300-100, 32 bits", "test error (%)", "rise from 'as trained' (points)"])


def centroid_rates(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return how the learning rate of centroids was chosen: a line per network and bits, a column per rate times s."""
    table = rate_table(recorded)
    found = table[table.iloc[:, 0].str.contains("centroids")]
    found = found.loc[:, (found != "").any()]
    names = {f"{network}, centroids,": f"{name}," for network, name in NAMES.items()} | {" paper,": " pruned 12x,"}
    found.columns = ["validation accuracy (%)", *(f"rate times s: {rate}" for rate in found.columns[1:])]
    return found.replace(names, regex=True).reset_index(drop=True)


def bits_figure(
    rows: pd.DataFrame, curves: Mapping[str, Mapping[str, str]], title: str, whole: Mapping[str, float] | None = None
) -> plt.Figure:
    """Draw test error against the bits per code: means over the networks, with their 95 % intervals as bands.

    Args:
        rows: of kind 'bits'.
        curves: label -> columns and values that choose the rows of a curve: plan, start, method.
        title: of the figure.
        whole: label -> error of a network that is not quantized, a dotted line each.
    """
    found = {label: 100 - by_bits(rows, **chosen) for label, chosen in curves.items()}
    bits = list(next(iter(found.values())).columns)
    means = {label: table.mean() for label, table in found.items()}
    bands = {label: np.array([evidence.interval(table[b])[1:] for b in bits]).T for label, table in found.items()}
    fig = lines(bits, means, title=title, xlabel="bits per code", ylabel="MNIST test error (%, log scale)", spread=bands)
    fig.axes[0].set(yscale="log", xticks=bits)
    for number, (label, value) in enumerate((whole or {}).items()):
        fig.axes[0].axhline(value, color=INK, linestyle=(":", "--")[number], linewidth=1.5, label=label)
    lowest, highest = min(m.min() for m in means.values()), max(m.max() for m in means.values())
    ticks = [t for t in (0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10, 20, 50) if 0.8 * lowest <= t <= 1.3 * highest]
    fig.axes[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    fig.axes[0].minorticks_off()
    legend_below(fig)
    return fig


def legend_below(fig: plt.Figure) -> None:
    """Move the legend from the curves to below the axes, with what the bands mean as its title."""
    fig.axes[0].get_legend().remove()
    fig.set_size_inches(5.0, 4.5)
    handles = fig.axes[0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=2, title="bands: 95 % intervals")


def starts_apart(recorded: pd.DataFrame, bits: int) -> float:
    """Return how far the mean errors of the three starts are apart after training, in points."""
    means = [by_bits(recorded, plan="paper", start=start, method="trained")[bits].mean() for start in STARTS]
    return max(means) - min(means)


def size_figure(networks: pd.DataFrame, title: str) -> plt.Figure:
    """Draw test error against the size of the file along the `frontier` of each curve, with 95 % intervals as bands."""
    chosen, x, y, bands = frontier(networks), {}, {}, {}
    for curve in networks.curve.unique():
        points = chosen[chosen.curve == curve]
        of_choice = [100 - networks[(networks.curve == curve) & (networks.choice == c)].accuracy for c in points.choice]
        x[curve], y[curve] = points.share, [errors.mean() for errors in of_choice]
        bands[curve] = np.array([evidence.interval(errors)[1:] for errors in of_choice]).T
    xlabel = "size of the file (% of the dense network, log scale)"
    fig = lines(x, y, title=title, xlabel=xlabel, ylabel="MNIST test error (%, log scale)", spread=bands)
    fig.axes[0].set(xscale="log", yscale="log", xlim=(40, 0.6))
    fig.axes[0].set_xticks([30, 20, 10, 5, 3, 2, 1], ["30", "20", "10", "5", "3", "2", "1"])
    fig.axes[0].set_yticks([0.8, 1, 1.5, 2, 3, 5], ["0.8", "1", "1.5", "2", "3", "5"])
    fig.axes[0].minorticks_off()
    legend_below(fig)
    return fig


def size_table(networks: pd.DataFrame, shares: Iterable[float]) -> pd.DataFrame:
    """Return the test error of each curve's best choice within a share (%) of the bytes, chosen on validation images."""
    table = {}
    for curve in networks.curve.unique():
        chosen = {share: best_within(networks, curve, share) for share in shares}
        table[curve] = {f"at most {share:.1f} %": _choice(rows) for share, rows in chosen.items()}
    return pd.DataFrame(table).T.reset_index(names="method (in its cells: error in %, choice, size)")


def _choice(rows: pd.DataFrame | None) -> str:
    if rows is None:
        return "none this small"
    choice = rows.choice.iloc[0].replace("paper", "12x")
    return f"{with_interval(100 - rows.accuracy)}: {choice}, {rows.share.mean():.1f} %"


def pruned_shares(networks: pd.DataFrame, rates: Iterable[str]) -> list[float]:
    """Return the sizes (% of the dense network's) of the pruned networks' files, the largest of each rate's five."""
    pruned = networks[networks.curve == "pruning"]
    return [pruned[pruned.choice == rate.replace("12x", "paper")].share.max() for rate in rates]


def parts_figure(recorded: pd.DataFrame) -> plt.Figure:
    """Draw what the parts of the Huffman-coded file take of it, means over the networks, for both settings."""
    shares = {}
    for setting in ("paper", "small"):
        for network, name in NAMES.items():
            parts = pd.DataFrame(pipeline(recorded, network, setting).parts.tolist())
            shares[f"{name},\n{setting}"] = 100 * parts.div(parts.sum(axis=1), axis=0).mean()
    table = pd.DataFrame(shares)
    title = "Codes and gaps fill most of a file"
    return stacked_bars(table.T.to_dict(), title=title, xlabel="share of the file (%, mean of five networks)")
