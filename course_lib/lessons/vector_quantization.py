"""What notebook 01 shows beside its cells and measures itself: costs of a coded network, a spectrum and centroids."""

import copy
import math
import statistics
from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator
from torch import Tensor, nn

from course_lib import cost
from course_lib.data import Split
from course_lib.experiments import rows
from course_lib.experiments import vector_quantization as runs
from course_lib.notebook.plots import BLUE, INK, ORANGE, VERMILION, tiles
from course_lib.papers import vector_quantization as paper
from course_lib.result import Result
from course_lib.storage.codes import Quantized

RATES = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # of the factorization in the spectrum's figure
PATCH_COLUMNS = 8
ROUNDS = 5  # of timing; in each, every network has its turn, so that a busy moment does not hit one of them alone


def cost_table(model: nn.Module, results: Mapping[str, Result], split: Split) -> pd.DataFrame:
    """Return what a network and its coded versions cost: a line each.

    Args:
        model: the trained network.
        results: name of a method -> what `paper.quantize` gave for it.
        split: the images that accuracy is measured on; the first one is timed.
    """
    dense = 32 * sum(layer.weight.numel() for layer in runs.dense_layers(model).values())
    models = {"exact": model} | {name: result.model for name, result in results.items()}
    times = _latencies(models, split.images[:1])
    table = [_costs("exact", model, split, 1.0, rows.file_bytes(model), times["exact"])]
    for name, result in results.items():
        rate, size = dense / sum(row["bits"] for row in result.record), rows.file_bytes(result.model, result.codes)
        table.append(_costs(name, result.model, split, rate, size, times[name]))
    return pd.DataFrame(table)


def _latencies(models: Mapping[str, nn.Module], image: Tensor) -> dict[str, list[float]]:
    """Return the milliseconds of a forward pass of each network, one figure per round."""
    rounds = [{name: 1000 * cost.measure(model, image, seconds=0.05) for name, model in models.items()} for _ in range(ROUNDS)]
    return {name: [one[name] for one in rounds] for name in models}


def _costs(name: str, model: nn.Module, split: Split, rate: float, size: int, times: list[float]) -> dict[str, str]:
    """Return a line of `cost_table`; `size` is that of the file in bytes, `times` are in milliseconds."""
    layers = cost.count(model, split.images[:1])
    return {
        "method": name,
        "times smaller": f"{rate:.1f}",
        "accuracy (%)": f"{rows.percent(model, split):.2f}",
        "parameters": f"{int(layers.weights.sum()):,}",
        "MACs": f"{int(layers.MACs.sum()):,}",
        "latency (ms)": f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
        "file (kB)": f"{size / 1000:,.1f}",
    }


def with_coded_weights(model: nn.Module, code: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy of a network whose dense layers have the weights that `code` makes of theirs."""
    model = copy.deepcopy(model)
    for layer in runs.dense_layers(model).values():
        layer.weight.data.copy_(code(layer.weight.detach()))
    return model


def rates_at(m: int, ks: tuple[int, ...], lengths: tuple[int, ...]) -> pd.DataFrame:
    """Return the rate of product quantization of m vectors, a line per k, a column per segment length."""
    by_length = {f"d = {d}": [f"{32 / (math.log2(k) / d + 32 * k / m):.1f}x" for k in ks] for d in lengths}
    return pd.DataFrame({f"{m:,} vectors": [f"k = {k}" for k in ks]} | by_length)


def relative_error(weight: Tensor, coded: Quantized) -> float:
    """Return the squared error of a coded weight as a share of the weight's own square."""
    return ((coded.decode() - weight).square().sum() / weight.square().sum()).item()


def spectrum_figure(weight: Tensor, scalar: list[Quantized], product: list[Quantized], seed: int = 0) -> plt.Figure:
    """Return a figure of the error of a matrix against its rate: factorization, that of the shuffled matrix, and codes.

    Args:
        weight: (m, n).
        scalar: scalar codes of the weight, by rising rate.
        product: codes of product quantization, by rising rate.
        seed: of the shuffle.
    """
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed)).to(weight.device)
    shuffled = weight.flatten()[order].view_as(weight)
    factored, mixed = ([paper.low_rank(w, runs.rank_for(w, rate)) for rate in RATES] for w in (weight, shuffled))
    curves = {
        "scalar k-means": (scalar, weight, BLUE, "o-"),
        "PQ of columns": (product, weight, ORANGE, "s-"),
        "SVD": (factored, weight, VERMILION, "D-"),
        "SVD of the same weights, shuffled": (mixed, shuffled, INK, "D:"),
    }
    fig, ax = plt.subplots(figsize=(5.0, 4.2))
    for name, (layers, matrix, colour, style) in curves.items():
        errors = [relative_error(matrix, layer) for layer in layers]
        ax.plot([layer.compression_rate for layer in layers], errors, style, markersize=4.5, color=colour, label=name)
    ax.set(xscale="log", ylim=(0, 1), xlabel="times smaller (log scale)", ylabel="share of fc1's energy lost")
    ax.set_title("At each rate, codes keep more of fc1 than SVD")
    ax.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
    ax.xaxis.set_minor_locator(NullLocator())
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def patches_figure(centroids: Tensor, uses: Tensor) -> plt.Figure:
    """Return a figure of centroids that are patches of an image, the most frequent one in a frame.

    Args:
        centroids: (k, height, width).
        uses: (k,), the number of rows that use each centroid.
    """
    picture, bound = tiles(centroids.cpu().numpy(), columns=PATCH_COLUMNS), centroids.abs().max().item()
    fig, ax = plt.subplots(figsize=(5.0, 3.9))
    image = ax.imshow(picture, cmap="cividis", vmin=-bound, vmax=bound, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    fig.colorbar(image, ax=ax, orientation="horizontal", label="weight", shrink=0.7)
    most, (height, width) = int(uses.argmax()), centroids.shape[1:]
    corner = most % PATCH_COLUMNS * (width + 1) - 0.5, most // PATCH_COLUMNS * (height + 1) - 0.5
    ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=VERMILION, linewidth=3, clip_on=False))
    fig.suptitle(
        f"Each centroid is a patch; the framed one\nserves {uses[most] / uses.sum():.0%} of the neurons", x=0.01, ha="left"
    )
    return fig
