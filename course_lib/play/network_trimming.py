"""The panel of notebook 03: a threshold of APoZ for each layer, dragged on the histogram of its neurons."""

from collections.abc import Mapping
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor, nn

from course_lib import surgery
from course_lib.data import Split
from course_lib.experiments.tails import Tail
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import BLUE, INK, VERMILION
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, accuracy_axis, canvas, in_words
from course_lib.training import evaluate

SILENT, ACTIVE = SIDES = ("those most often zero", "those least often zero")
EDGES = np.arange(0, 101, 4)  # of the bars, in percent
LOST = 2  # points of accuracy, of the goal
PLACES = ((0.13, 0.64, 0.84, 0.25), (0.13, 0.17, 0.84, 0.25))


def kept_by(shares: Tensor, threshold: float, side: str) -> Tensor:
    """Return the neurons that stay, ascending: as many as have an APoZ of at most the threshold, and at least one.

    Args:
        shares: APoZ of the neurons of a layer, (C,).
        threshold: in percent.
        side: which neurons are removed, one of SIDES.
    """
    count = max(1, int((shares <= threshold / 100).sum()))
    return shares.topk(count, largest=side == ACTIVE).indices.sort().values


def measure(
    model: nn.Module, tail: Tail, example_input: Tensor, apoz: Mapping[str, Tensor], whole: float, setting: Setting
) -> Measured:
    """Return thousands of parameters, the accuracy without retraining, and how the APoZ of kept and removed neurons spreads.

    Args:
        model: a trained network.
        tail: of the model, after the first of the layers.
        example_input: an image (1, ...).
        apoz: layer -> (C,), as `network_trimming.apoz` gives it.
        whole: the accuracy of the model, in percent.
        setting: layer -> threshold in percent; and 'side', one of SIDES.
    """
    kept = {layer: kept_by(shares, setting[layer], setting["side"]) for layer, shares in apoz.items()}
    narrower = surgery.narrow(model, kept, example_input)
    accuracy = 100 * tail.accuracy(narrower, kept[next(iter(apoz))])
    before, after = (sum(p.numel() for p in network.parameters()) for network in (model, narrower))
    widths = ", ".join(f"{layer} keeps {len(kept[layer])} of {len(shares)} neurons" for layer, shares in apoz.items())
    readout = (
        f"{widths}: {after:,} parameters, {before / after:.2f} times fewer; {in_words(accuracy, whole, len(tail.read.labels))}"
    )
    detail = {layer: _spread(shares, kept[layer]) | dict(threshold=setting[layer]) for layer, shares in apoz.items()}
    return Measured(after / 1000, accuracy, readout, detail, setting["side"])


def _spread(shares: Tensor, kept: Tensor) -> dict[str, list[int]]:
    """How many of all neurons, and of the kept ones, lie in each bar."""
    percent = 100 * shares.cpu().numpy()
    return {name: np.histogram(part, EDGES)[0].tolist() for name, part in (("all", percent), ("kept", percent[kept.cpu()]))}


def draw(usual: Mapping[str, float], now: Measured, before: Measured | None) -> plt.Figure:
    """Draw each layer's APoZ, removed neurons in vermilion, with the threshold and, dashed, the one before it.

    Args:
        usual: layer -> the paper's threshold, mean plus one standard deviation, in percent.
        now: of this setting.
        before: of the one before.
    """
    fig, axes = canvas(3.6, *PLACES)
    for ax, (layer, paper) in zip(axes, usual.items(), strict=True):
        found = now.detail[layer]
        ax.stairs(found["all"], EDGES, fill=True, color=VERMILION)
        ax.stairs(found["kept"], EDGES, fill=True, color=BLUE)
        ax.axvline(paper, color=INK, linewidth=1.2, linestyle=":")
        if before:
            ax.axvline(before.detail[layer]["threshold"], color=INK, linewidth=1.2, linestyle="--", alpha=0.6)
        ax.axvline(found["threshold"], color=INK, linewidth=2)
        ax.set(xlim=(0, 100), ylim=(0, 1.1 * max(found["all"])), ylabel="neurons")
        ax.set_title(f"{layer}: {found['threshold']:g} % (dotted: the paper's rule, {paper:.0f} %)")
    axes[-1].set_xlabel("APoZ of a neuron (%)")
    return fig


def panel(model: nn.Sequential, split: Split, apoz: Mapping[str, Tensor]) -> Panel:
    """Return the panel for two layers of a network, one behind the other.

    Args:
        model: a trained network.
        split: what the accuracy is measured on.
        apoz: layer -> (C,), in the model's order.
    """
    usual = {layer: 100 * float(shares.mean() + shares.std(correction=0)) for layer, shares in apoz.items()}
    controls: dict[str, ipywidgets.Widget] = {
        layer: ipywidgets.FloatSlider(round(start), min=0.0, max=100.0, step=1.0, description=layer, continuous_update=False)
        for layer, start in usual.items()
    }
    controls["side"] = ipywidgets.Dropdown(options=SIDES, description="remove")
    size = Axis("thousands of parameters (log scale)", (20, 50, 100, 200, 400))
    whole, parameters = 100 * evaluate(model, split), sum(p.numel() for p in model.parameters()) / 1000
    aim = Goal(f"keep half of the parameters, with at most {LOST} points of accuracy lost", parameters / 2, whole - LOST)
    memory = Memory(size, accuracy_axis(whole), aim, ways=SIDES, paper=(parameters / 3.85, 99.3, "paper, retrained"))
    tail = Tail(model, next(iter(apoz)), split)
    answer = partial(measure, model, tail, split.images[:1], apoz, whole)
    return Panel(controls, answer, partial(draw, usual), aim, memory, over=dict(zip(apoz, PLACES, strict=True)))
