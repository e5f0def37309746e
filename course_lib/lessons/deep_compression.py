"""What notebook 05 shows of networks at hand: tables, figures, and the widget panel."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import cost
from course_lib.data import Split
from course_lib.experiments import deep_compression as experiments
from course_lib.experiments.compressed_files import dense_bytes, file_size, inspect
from course_lib.notebook.plots import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION
from course_lib.papers import deep_compression
from course_lib.storage import CodedTensor, CompressedNetwork, coders

PARTS = ("codes", "gaps", "tables", "codebook")
CENTROIDS = (VERMILION, PURPLE, GREEN, BLUE)  # colours, as in the drawing of their training
# Section 5 and tables 4 and 5, which nothing here can repeat: stage -> MB, times smaller, bits per code and per gap, and
# error in per cent (top-1 / top-5). Sizes with a star follow from the paper's percentages.
PUBLISHED = {
    "AlexNet": {
        "dense": ("240", "", "32", "", "42.78 / 19.73"),
        "P": ("27", "9x (weights)", "32", "not counted", ""),
        "P+Q": ("8.9", "27x", "5.4", "4", ""),
        "P+Q+H": ("6.9", "35x", "4", "3.2", "42.78 / 19.70"),
        "SVD, a rival": ("", "5x", "", "", "44.02 / 20.56"),
    },
    "VGG-16": {
        "dense": ("552", "", "32", "", "31.50 / 11.32"),
        "P": ("41*", "13x (weights)", "32", "not counted", ""),
        "P+Q": ("17.7*", "31x", "6.4", "5", ""),
        "P+Q+H": ("11.3", "49x", "4.1", "3.1", "31.17 / 10.91"),
    },
}
# Section 5: bits per code in convolutions and in dense layers of AlexNet, error in per cent (top-1, top-5)
PUBLISHED_BITS = {"8 / 5": ("42.78", "19.70"), "8 / 4": ("42.79", "19.73"), "4 / 2": ("44.77", "22.33")}


def published() -> pd.DataFrame:
    """Return the paper's results on ImageNet, stage by stage."""
    columns = ["MB", "times smaller", "bits per code", "bits per gap", "error, top-1 / top-5 (%)"]
    table = {(network, stage): figures for network, stages in PUBLISHED.items() for stage, figures in stages.items()}
    lines = pd.DataFrame.from_dict(table, orient="index", columns=columns)
    lines.index = pd.MultiIndex.from_tuples(lines.index, names=["network (ImageNet)", "stage"])
    return lines.reset_index()


def published_bits() -> pd.DataFrame:
    """Return the paper's errors of AlexNet with fewer bits per code."""
    table = pd.DataFrame.from_dict(PUBLISHED_BITS, orient="index", columns=["top-1 error (%)", "top-5 error (%)"])
    return table.reset_index(names="AlexNet's bits per code, convolutions / dense layers")


def cost_table(stages: Mapping[str, tuple[nn.Module, int]], split: Split) -> pd.DataFrame:
    """Return what a network costs after each stage, a line each; the first is what the others are compared with.

    Args:
        stages: name -> the network, and the bytes of its file.
        split: the images that the error is measured on; the first one is timed.
    """
    image, first = split.images[:1], next(iter(stages.values()))[1]
    lines = []
    for name, (model, size) in stages.items():
        layers = cost.count(model, image)
        lines.append(
            {
                "stage": name,
                "test error (%)": f"{experiments.error(model, split):.2f}",
                "nonzero parameters": f"{int(layers.nonzeros.sum()):,}",
                "MACs": f"{int(layers.MACs.sum()):,}",
                "file (kB)": f"{size / 1000:,.1f}",
                "times smaller": f"{first / size:.1f}",
                "latency (ms)": f"{1000 * cost.measure(model, image):.2f}",
            }
        )
    return pd.DataFrame(lines)


def path_figure(path: Sequence[Tensor], survivors: Tensor) -> plt.Figure:
    """Draw the centroids of a layer over the steps of their training, beside the histogram of its surviving weights.

    Both are cut off beyond 1.4 times the outer centroids.

    Args:
        path: the centroids (k,) after each step, before the first one too.
        survivors: the weights that the centroids stand for.
    """
    values = torch.stack(list(path)).cpu().numpy()  # (steps + 1, k)
    apart = np.diff(values[0])
    nearest = np.minimum(np.append(apart, np.inf), np.append(np.inf, apart))
    moved = (np.abs(values[-1] - values[0]) / nearest).max()
    fig, (left, right) = plt.subplots(1, 2, sharey=True, width_ratios=(1, 3), figsize=(5.0, 3.6))
    left.hist(survivors.detach().cpu().numpy(), bins=200, orientation="horizontal", color=INK, histtype="stepfilled")
    left.invert_xaxis()
    left.set(xticks=[], ylabel="weight", xlabel="fc1's weights")
    for number, (centroid, colour) in enumerate(zip(values.T, CENTROIDS, strict=False)):
        right.plot(centroid, color=colour, linewidth=2)
        right.axhline(centroid[0], color=colour, linewidth=1, linestyle=":")
        place = dict(xytext=(4, 0), textcoords="offset points", va="center", annotation_clip=False)
        right.annotate(f"code {number}", (len(values) - 1, centroid[-1]), color=INK, **place)
    right.set(xlabel="steps of training", xlim=(0, len(values) - 1), ylim=(1.4 * values.min(), 1.4 * values.max()))
    fig.suptitle(f"Centroids move up to {100 * moved:.0f} % of the way to the next one", x=0.01, ha="left")
    return fig


def bits_by_kind(model: nn.Module, split: Split, widths: Sequence[int]) -> pd.DataFrame:
    """Return the test error and the change of the outputs when the layers of one kind alone have shared weights, untrained.

    The change is the mean square of the difference, in per cent of the outputs' variance over images.

    Args:
        model: a trained network with convolutions and dense layers.
        split: the images that both are measured on.
        widths: bits per code, a line each.
    """
    with torch.no_grad():
        spread = model(split.images).var(0).mean().item()
    table = {"bits per code": list(widths)}
    for kind, name in (("conv", "convolutions"), ("dense", "dense layers")):
        networks = [deep_compression.quantize(model, bits={kind: width}) for width in widths]
        table[f"error, {name} coded (%)"] = [experiments.error(network, split) for network in networks]
        changes = [100 * output_change(model, network, split) / spread for network in networks]
        table[f"outputs changed, {name} coded (%)"] = [f"{change:.2g}" for change in changes]
    return pd.DataFrame(table)


def sizes_by_kind(model: nn.Module, pairs: Sequence[tuple[int, int]], index_bits: int = 5) -> dict[tuple[int, int], int]:
    """Return (bits in convolutions, bits in dense layers) -> bytes of the file, Huffman coded."""
    coded = {pair: dict(zip(("conv", "dense"), pair, strict=True)) for pair in pairs}
    return {pair: file_size(deep_compression.compress(model, bits=bits, index_bits=index_bits)) for pair, bits in coded.items()}


def streams_figure(coded: CodedTensor, name: str) -> plt.Figure:
    """Draw how often each code and each gap of a layer occurs, with the entropy and the fixed width of both in the titles."""
    fig, axes = plt.subplots(2, 1, figsize=(5.0, 5.2))
    streams = {"code": (coded.codes, (len(coded.codebook) - 1).bit_length()), "gap": (coded.gaps, coded.index_bits)}
    for ax, (symbol, (stream, fixed)), colour in zip(axes, streams.items(), (BLUE, ORANGE), strict=True):
        counts = stream.long().bincount()
        ax.bar(range(len(counts)), counts.cpu(), color=colour, width=1.0)
        title = f"{symbol.title()}s carry {coders.entropy(stream):.2f} bits on average, not {fixed}"
        ax.set(xlabel=symbol, ylabel=f"entries of {name}", title=title)
    return fig


def bound_table(files: Mapping[str, CompressedNetwork]) -> pd.DataFrame:
    """Return how many bytes the codes and gaps of all layers take above their entropy, alone and with the tables, by coder."""
    layers = {coder: table[table.index.str.endswith("weight")] for coder, table in ((c, inspect(f)) for c, f in files.items())}
    one = next(iter(layers.values()))
    bound = (one.entries * (one["entropy per code"] + one["entropy per gap"])).sum() / 8  # bytes
    lines = []
    for coder, rows in layers.items():
        streams, tables = rows["bytes of codes"].sum() + rows["bytes of gaps"].sum(), rows["bytes of tables"].sum()
        above = [f"{taken / bound - 1:+.1%}" for taken in (streams, streams + tables)]
        lines.append((coder, f"{streams:,}", f"{tables:,}", *above))
    columns = ["coder", "bytes of codes and gaps", "of tables", "above the entropy", "with tables"]
    return pd.DataFrame(lines, columns=columns)


def gap_table(model: nn.Module, bits: int, widths: Sequence[int], layer: str) -> pd.DataFrame:
    """Return what other widths of a gap would give, Huffman coded: fillers among the entries of a layer, bytes of the file.

    Args:
        model: a quantized network.
        bits: of its codes.
        widths: bits per gap, a line each.
        layer: whose fillers are counted.
    """
    lines = []
    for width in widths:
        size = file_size(deep_compression.compress(model, bits=bits, index_bits=width))
        filler = deep_compression.relative_index(model.get_submodule(layer).weight.detach() != 0, width)[1].float().mean()
        lines.append((width, f"{100 * filler:.0f}", f"{size:,}", f"{dense_bytes(model) / size:.1f}"))
    return pd.DataFrame(lines, columns=["bits per gap", f"fillers, % of {layer}'s entries", "bytes of the file", "times smaller"])


@torch.no_grad()
def output_change(model: nn.Module, other: nn.Module, split: Split) -> float:
    """Return the mean squared difference of two networks' outputs on the images of a split."""
    return (model(split.images) - other(split.images)).square().mean().item()
