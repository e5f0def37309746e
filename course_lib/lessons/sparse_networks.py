"""What notebook 02 shows of the networks that it prunes itself: figures and tables, each from a network or its weights."""

import copy
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor, nn

from course_lib import cost, data, masks, models
from course_lib.data import Split, Splits
from course_lib.experiments import sparse_rows
from course_lib.experiments import weight_pruning as runs
from course_lib.notebook import plots
from course_lib.notebook.plots import BLUE, COLOURS, GREEN, INK, ORANGE, VERMILION, WIDTH
from course_lib.papers import weight_pruning as paper
from course_lib.training import evaluate

# The paper's own figures: network and method, top-1 / top-5 error in percent before and after, parameters, rate
PAPER_IMAGENET = [
    ("AlexNet, this paper", "42.78 / 19.73", "42.77 / 19.67", "61M -> 6.7M", "9x"),
    ("VGG-16, this paper", "31.50 / 11.32", "31.34 / 10.88", "138M -> 10.3M", "13x"),
    ("AlexNet, naive cut (smaller layers)", "-", "47.18 / 23.23", "-", "4.4x"),
    ("AlexNet, SVD", "-", "44.02 / 20.56", "-", "5x"),
    ("AlexNet, Collins and Kohli", "-", "44.40 / -", "-", "4x"),
    ("AlexNet, Fastfood-16", "-", "42.90 / -", "-", "3.7x"),
    ("AlexNet, data-free pruning", "-", "44.40 / -", "-", "1.5x"),
]
# Network, layers, weights kept in percent
PAPER_IMAGENET_LAYERS = [
    ("AlexNet", "conv1", "84"),
    ("AlexNet", "conv2 to conv5", "35 to 38"),
    ("AlexNet", "fc1 and fc2", "9"),
    ("AlexNet", "fc3", "25"),
    ("VGG-16", "convolutions", "22 to 58"),
    ("VGG-16", "fc6 and fc7", "4"),
    ("VGG-16", "fc8", "23"),
]
PAPER_TOTALS = {"lenet-300-100": (8, 8), "lenet-5": (8, 16)}  # weights and FLOPs kept in percent (tables 3 and 4)
PAPER_TOTALS_IMAGENET = "all layers: AlexNet keeps 11 % of its weights and 30 % of its FLOPs, VGG-16 7.5 % and 21 %"
PAPER_ALEXNET = "AlexNet in the paper: 5x in one step, 9x in rounds; 75 hours of training, 173 hours of retraining"
FILE = "bytes on disk, sparse"
EXTRA_EPOCHS = 3  # of the comparison of plans, as a step of figure 5 has


def heart() -> Markdown:
    """Return the rounds of `paper.prune` as they stand in its source."""
    source = textwrap.dedent(inspect.getsource(paper.prune))
    start, end = source.index("    for number in range"), source.index("    if finish is not None")
    return Markdown(f"`course_lib/papers/weight_pruning.py`, in `prune`\n```python\n{textwrap.dedent(source[start:end])}```")


def threshold_figure(model: nn.Module, title: str) -> plt.Figure:
    """Draw the share of weights kept against the quality, for each layer and for Gaussian weights."""
    qualities = np.linspace(0, 3, 61)
    fig, ax = plt.subplots()
    for (name, layer), colour in zip(masks.weight_layers(model).items(), COLOURS, strict=False):
        kept = [100 * paper.threshold_mask(layer.weight, quality).float().mean().item() for quality in qualities]
        ax.plot(qualities, kept, color=colour, linewidth=2, label=name)
    gaussian = [200 * (1 - NormalDist().cdf(quality)) for quality in qualities]
    ax.plot(qualities, gaussian, color=INK, linestyle="--", label="Gaussian")
    ax.set(title=title, xlabel="quality q (standard deviations)", ylabel="weights kept (%)", ylim=(0, 100))
    ax.legend()
    return fig


def rounds_figure(errors: Sequence[float], before: float, shares: Sequence[float]) -> plt.Figure:
    """Print the test errors of the twelve-line loop, and draw them.

    Args:
        errors: just pruned and retrained, by turns, in percent.
        before: of the dense network.
        shares: pruned in each round.
    """
    pruned, retrained = errors[0::2], errors[1::2]
    names = [f"{1 / (1 - share):.0f}x" for share in shares]
    fig, ax = plt.subplots()
    for name, cut, trained in zip(names, pruned, retrained, strict=True):
        print(f"{name}: {cut:.2f} % error just pruned, {trained:.2f} % retrained")
    x = np.arange(1, len(shares) + 1)
    ax.axhline(before, color=INK, linestyle="--", linewidth=1, label=f"dense: {before:.2f} %")
    ax.plot(np.repeat(x, 2), errors, color=INK, linewidth=0.8)
    ax.plot(x, pruned, "o", color=VERMILION, label="just pruned")
    ax.plot(x, retrained, "s", color=BLUE, label="retrained for an epoch")
    ax.set(
        title=f"At {names[-1]} an epoch cuts the error from {pruned[-1]:.1f} to {retrained[-1]:.1f} %",
        xlabel="times fewer weights in fc1 and fc2, round by round", yscale="log", ylabel="test error (%, log scale)",
    )  # fmt: skip
    ax.set_xticks(x, names)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend()
    return fig


def scan_figure(curves: Mapping[str, Tensor], title: str, plan: Mapping[str, float] | None = None) -> plt.Figure:
    """Draw accuracy on training images against the share of one layer that is pruned, with rings where a plan cuts."""
    x = 100 * np.array(sparse_rows.SCAN)
    fig = plots.lines(
        x, {name: 100 * curve for name, curve in curves.items()}, title=title,
        xlabel="weights pruned in this layer alone (%)", ylabel="accuracy on training images (%)",
    )  # fmt: skip
    for name, share in (plan or {}).items():
        height = np.interp(100 * share, x, 100 * curves[name])
        fig.axes[0].plot(100 * share, height, "o", markersize=13, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=2)
    fig.axes[0].set(xlim=(48, 101))  # below, no layer loses anything
    return fig


def loss_alone(curves: Mapping[str, Tensor], plan: Mapping[str, float]) -> dict[str, float]:
    """Return, per layer, how many points the scan's accuracy falls when that layer alone is pruned as the plan says."""
    return {name: 100 * float(curves[name][0] - np.interp(share, sparse_rows.SCAN, curves[name])) for name, share in plan.items()}


def plans_table(
    model: nn.Module, splits: Splits, shares: Mapping[str, Mapping[str, float]], seed: int, lr: float
) -> pd.DataFrame:
    """Return, per plan, what each layer keeps, and the test error when all are pruned at once, and after a short retraining.

    Args:
        model: a trained network; it is left as it was.
        splits: what is trained on, and tested on.
        shares: name of a plan -> layer -> share to prune.
        seed: of the retraining.
        lr: learning rate of the retraining, which falls to zero.
    """
    how = sparse_rows.recipe(splits, seed, epochs=EXTRA_EPOCHS, lr=lr)
    lines = []
    for name, plan in shares.items():
        _, figures = sparse_rows.retrained(model, splits, dict(plan), how, [1])
        kept = {f"{layer} keeps": f"{100 * (1 - share):.1f} %" for layer, share in plan.items()}
        errors = {
            "test error, just pruned": f"{100 - figures['removed']:.2f} %",
            f"after {EXTRA_EPOCHS} epochs": f"{100 - figures['accuracy']:.2f} %",
        }
        lines.append({"plan": name} | kept | errors)
    return pd.DataFrame(lines)


def costs(networks: Mapping[str, tuple[nn.Module, nn.Module]], split: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a table of dense and pruned networks side by side, and how many times smaller each figure became.

    Args:
        networks: name -> (dense, pruned).
        split: test images; the first one is what the latency is measured with.
    """
    lines, ratios = [], {}
    for name, pair in networks.items():
        totals = [cost.report(network, split.images[:1]).totals() for network in pair]
        times = _latencies(pair, split.images[:1])
        for state, network, found, seconds in zip(("dense", "pruned"), pair, totals, times, strict=True):
            figures = (f"{runs.error(network, split):.2f} %", f"{found['nonzero parameters']:,.0f}", f"{found['MACs']:,.0f}")
            lines.append((name, state, *figures, f"{found[FILE] / 1000:,.0f} kB", f"{1000 * seconds:.2f} ms"))
        smaller = {figure: totals[0][figure] / totals[1][figure] for figure in ("nonzero parameters", "MACs", FILE)}
        ratios[name] = smaller | {"time": times[0] / times[1]}
    columns = ["network", "", "test error", "non-zero parameters", "MACs executed", "file, sparse if smaller", "time for 1 image"]
    return pd.DataFrame(lines, columns=columns), pd.DataFrame(ratios)


def _latencies(networks: Sequence[nn.Module], image: Tensor) -> list[float]:
    """Return the seconds that each network takes for an image: the least of several turns, since other work slows some down."""
    turns = [[cost.measure(network, image, seconds=0.1) for network in networks] for _ in range(6)]
    return [min(times) for times in zip(*turns, strict=True)]


def bands_figure(weight: Tensor) -> plt.Figure:
    """Draw which pixels a layer behind 28 x 28 pixels still reads: as an image, and in the order of the layer's columns."""
    kept = 100 * (weight.detach() != 0).float().mean(0).cpu()  # (784,): neurons that read each pixel
    image = kept.view(28, 28)
    centre, rim = image[8:20, 8:20].mean(), torch.cat([image[:3], image[-3:]]).mean()
    fig, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 6.4), height_ratios=(2, 1))
    drawn = top.imshow(image, cmap="cividis")
    fig.suptitle(f"fc1 keeps {centre:.0f} % of central weights, {rim:.1f} % at the rim", x=0.01, ha="left")
    top.set(xlabel="column of pixels", ylabel="row of pixels")
    top.grid(False)
    fig.colorbar(drawn, ax=top, label="neurons that read it (%)")
    bottom.fill_between(range(len(kept)), kept, color=BLUE, linewidth=0)
    bottom.set(xlabel="the same, pixel after pixel", ylabel="neurons (%)", xlim=(0, 784))
    bottom.set_xticks(range(0, 785, 112))
    return fig


def survivors_figure(stages: Mapping[str, Tensor], title: str) -> plt.Figure:
    """Draw histograms of a layer's weights below each other, without the zeros: trained, pruned and retrained."""
    fig, axes = plt.subplots(len(stages), 1, figsize=(WIDTH, 5.6), sharex=True)
    for ax, (name, weight), colour in zip(axes, stages.items(), (BLUE, ORANGE, GREEN), strict=True):
        values = weight.detach().flatten().cpu()
        values = values[values != 0].numpy()
        ax.hist(values, bins=121, range=(-0.3, 0.3), color=colour, histtype="stepfilled")
        ax.set(title=f"{name}: {values.size:,} weights", ylabel="weights")
    axes[-1].set_xlabel("value of the weight")
    fig.suptitle(title, x=0.01, ha="left")
    return fig


def layers_table(networks: Mapping[str, nn.Module], split: Split) -> pd.DataFrame:
    """Return the paper's tables 3 and 4 beside what the pruned networks keep, layer by layer."""
    rows = []
    for name, model in networks.items():
        counts, active = cost.count(model, split.images[:1]), runs.active_inputs(model, split)
        flops_left = sum(counts["MACs kept"][layer] * active[layer] for layer in active) / counts["MACs"].sum()
        for layer, (weights, flops, _) in runs.PAPER_LAYERS[name].items():
            kept = 100 * counts.kept[layer]
            here = f"{kept:.1f} %", f"{kept * active[layer]:.1f} %"
            rows.append((name, layer, f"{counts.weights[layer]:,}", f"{weights} %", here[0], f"{flops} %", here[1]))
        layers = counts.loc[list(active)]
        kept, (weights, flops) = 100 * layers.nonzeros.sum() / layers.weights.sum(), PAPER_TOTALS[name]
        total = f"{layers.weights.sum():,}", f"{weights} %", f"{kept:.1f} %", f"{flops} %", f"{100 * flops_left:.1f} %"
        rows.append((name, "all", *total))
    columns = ["network", "layer", "weights", "kept, paper", "kept, here", "FLOPs left, paper", "FLOPs left, here"]
    return pd.DataFrame(rows, columns=columns)


def imagenet_table() -> pd.DataFrame:
    """Return the paper's results on ImageNet and those of its rivals."""
    columns = ["network, method", "top-1 / top-5 error before (%)", "and after (%)", "weights left", "rate"]
    return pd.DataFrame(PAPER_IMAGENET, columns=columns)


def imagenet_layers_table() -> pd.DataFrame:
    """Return the share of weights that the paper keeps in the layers of its ImageNet networks."""
    return pd.DataFrame(PAPER_IMAGENET_LAYERS, columns=["network", "layers", "weights kept, paper (%)"])


def dead_table(networks: Mapping[str, tuple[nn.Module, nn.Module]], image: Tensor) -> pd.DataFrame:
    """Return what is saved by removing dead neurons.

    Args:
        networks: name -> (pruned, pruned and without its dead neurons).
        image: a batch of one image, with which latencies are measured.
    """
    lines = []
    for name, pair in networks.items():
        counts = [cost.count(network, image) for network in pair]
        sizes = [[len(layer.weight) for layer in masks.weight_layers(network).values()] for network in pair]
        times = _latencies(pair, image)
        for state, size, found, seconds in zip(("pruned", "without dead neurons"), sizes, counts, times, strict=True):
            outputs = "-".join(map(str, size))
            lines.append((name, state, outputs, f"{found.weights.sum():,}", f"{found.MACs.sum():,}", f"{1000 * seconds:.2f} ms"))
    columns = ["network", "", "outputs of its layers", "parameters, zeros included", "MACs executed", "time for 1 image"]
    return pd.DataFrame(lines, columns=columns)


def tournament(plan: Mapping[str, float], part: str = "validation") -> tuple[float, float]:
    """Return the share of weights that a plan keeps, and how many points of accuracy it costs without retraining.

    It is played on the LeNet-300-100 for the 5,000 embedded digits, so that everybody everywhere gets the same score.

    Args:
        plan: layer -> share to prune.
        part: of these digits: 'validation', or 'test'.
    """
    split, dense = getattr(data.load("mnist-5k"), part), arena()
    survivors = paper.magnitude_masks(dense, plan)
    pruned = copy.deepcopy(dense)
    masks.apply(pruned, survivors)
    kept = sum(int(mask.sum()) for mask in survivors.values())
    weights = sum(layer.weight.numel() for layer in masks.weight_layers(dense).values())
    return kept / weights, 100 * (evaluate(dense, split) - evaluate(pruned, split))


def fc1_accuracy(mask: Tensor) -> float:
    """Return the accuracy in percent of the network of the tournament with fc1 pruned by a mask, on the validation images."""
    pruned = copy.deepcopy(arena())
    masks.apply(pruned, {"fc1.weight": mask})
    return 100 * evaluate(pruned, data.load("mnist-5k").validation)


def arena() -> nn.Module:
    """Return the network of the tournament."""
    return models.pretrained("lenet-300-100", "mnist-5k")
