"""The panel of notebook 02: a threshold for each layer, dragged on the histogram of its weights."""

import copy
from collections.abc import Mapping
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from torch import nn

from course_lib import masks
from course_lib.data import Split
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import BLUE, INK, VERMILION
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, accuracy_axis, canvas, in_words
from course_lib.papers import weight_pruning
from course_lib.training import evaluate

HIGHEST, STEP = 4.0, 0.1  # of a threshold, in standard deviations
EDGES, TICKS = np.linspace(0, HIGHEST, 41), range(5)
FEWER, LOST = 7, 2  # of the goal: times fewer weights, points of accuracy lost
PAPER = (22, 98.41, "paper, retrained")  # table 3: 22 K of 267 K weights, error 1.59 %


def measure(model: nn.Module, split: Split, whole: float, setting: Setting) -> Measured:
    """Return thousands of weights kept, and the accuracy when all layers are pruned at once and nothing is retrained.

    Args:
        model: a trained network.
        split: what the accuracy is measured on.
        whole: its accuracy before pruning, in percent.
        setting: layer -> threshold in standard deviations of the layer's weights.
    """
    layers = masks.weight_layers(model, setting)
    survivors = {f"{name}.weight": weight_pruning.threshold_mask(layer.weight, setting[name]) for name, layer in layers.items()}
    pruned = copy.deepcopy(model)
    masks.apply(pruned, survivors)
    accuracy = 100 * evaluate(pruned, split)
    kept, total = sum(int(mask.sum()) for mask in survivors.values()), sum(mask.numel() for mask in survivors.values())
    readout = (
        f"{kept:,} of {total:,} weights kept, {total / max(kept, 1):.1f} times fewer; "
        f"{in_words(accuracy, whole, len(split.labels))}"
    )
    shares = {name: survivors[f"{name}.weight"].float().mean().item() for name in layers}
    return Measured(kept / 1000, accuracy, readout, dict(thresholds=dict(setting), kept=shares))


def histograms(model: nn.Module) -> dict[str, np.ndarray]:
    """Return how the magnitudes of each layer's weights spread, as shares of the weights in steps of a tenth of a deviation."""
    found = {}
    for name, layer in masks.weight_layers(model).items():
        magnitudes = (layer.weight.detach().abs() / layer.weight.detach().std(correction=0)).flatten().cpu().numpy()
        found[name] = np.histogram(magnitudes, EDGES)[0] / len(magnitudes)
    return found


def places(count: int) -> list[tuple[float, float, float, float]]:
    """Return where the axes of so many layers lie, the first on top."""
    height = 0.86 / count
    return [(0.05, 0.14 + (count - 1 - row) * height, 0.90, 0.66 * height) for row in range(count)]


def draw(shares: Mapping[str, np.ndarray], now: Measured, before: Measured | None) -> plt.Figure:
    """Draw each layer's magnitudes, those below the threshold in vermilion, and the threshold before it as a dashed line.

    Args:
        shares: from `histograms`.
        now: of this setting.
        before: of the one before.
    """
    fig, axes = canvas(1.25 * len(shares), *places(len(shares)))
    for ax, (name, share) in zip(axes, shares.items(), strict=True):
        threshold = now.detail["thresholds"][name]
        below = EDGES[1:] <= threshold + STEP / 2
        ax.stairs(np.where(below, 0, share), EDGES, fill=True, color=BLUE)
        ax.stairs(np.where(below, share, 0), EDGES, fill=True, color=VERMILION)
        if before:
            ax.axvline(before.detail["thresholds"][name], color=INK, linewidth=1.2, linestyle="--", alpha=0.6)
        ax.axvline(threshold, color=INK, linewidth=2)
        ax.set(xlim=(0, HIGHEST), ylim=(0, 1.1 * share.max()), yticks=[])
        ax.set_xticks(TICKS, [f"{tick}" for tick in TICKS] if ax is axes[-1] else [])
        ax.set_title(f"{name}: {threshold:.1f} deviations, {100 * now.detail['kept'][name]:.0f} % kept")
    axes[-1].set_xlabel("magnitude of a weight (standard deviations)")
    return fig


def panel(model: nn.Module, split: Split) -> Panel:
    """Return the panel for a network of dense layers: a threshold for each."""
    shares = histograms(model)
    sliders = {
        name: ipywidgets.FloatSlider(1.0, min=0.0, max=HIGHEST, step=STEP, description=name, continuous_update=False)
        for name in shares
    }
    size = Axis("thousands of weights kept (log scale)", (10, 20, 50, 100, 200, 300))
    whole = 100 * evaluate(model, split)
    weights = sum(layer.weight.numel() for layer in masks.weight_layers(model).values())
    aim = Goal(
        f"keep {FEWER} times fewer weights, with at most {LOST} points of accuracy lost", weights / FEWER / 1000, whole - LOST
    )
    memory = Memory(size, accuracy_axis(whole), aim, paper=PAPER)
    over = dict(zip(shares, places(len(shares)), strict=True))
    return Panel(sliders, partial(measure, model, split, whole), partial(draw, shares), aim, memory, over=over)
