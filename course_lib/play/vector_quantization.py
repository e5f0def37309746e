"""The panel of notebook 01: how a code is made, its bits, and how many weights share one."""

from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from torch import nn

from course_lib.data import Split
from course_lib.experiments import vector_quantization as runs
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import INK, tiles
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, accuracy_axis, canvas, in_words
from course_lib.papers.vector_quantization import decoded
from course_lib.training import evaluate

SHOWN = 6  # neurons
SMALLER, LOST = 17, 4  # of the goal: times smaller, points of accuracy lost
ROWS = tuple((0.17, bottom, 0.82, 0.24) for bottom in (0.67, 0.36, 0.05))


def measure(model: nn.Module, split: Split, whole: float, setting: Setting) -> Measured:
    """Return kilobytes of the dense layers, the accuracy, and six neurons of the first dense layer as they are decoded.

    Args:
        model: a trained network whose first dense layer reads 28 x 28 pixels.
        split: what the accuracy is measured on.
        whole: its accuracy before coding, in percent.
        setting: method ('scalar' or 'product'), bits of a code, and length of a segment (None for 'scalar').
    """
    method, bits, length = setting["method"], setting["bits"], setting["length"]
    layers = runs.coded(model, runs.coder(method, 2**bits, *([length] if length else [])))
    accuracy = 100 * evaluate(decoded(model, layers), split)
    size, rate = sum(layer.bits for layer in layers.values()) / 8000, runs.compression_rate(model, layers)
    shared = f"segment of {length} weights" if length and length > 1 else "weight"
    readout = (
        f"{bits} {'bit' if bits == 1 else 'bits'} for each {shared}: {size:,.1f} kB, {rate:.1f} times smaller; "
        f"{in_words(accuracy, whole, len(split.labels))}"
    )
    first = next(iter(layers.values())).decode()[:SHOWN]
    return Measured(size, accuracy, readout, dict(neurons=first.cpu().tolist()), method)


def draw(trained: np.ndarray, now: Measured, before: Measured | None) -> plt.Figure:
    """Draw six neurons as they were trained, as they are now, and lighter as they were at the setting before.

    Args:
        trained: their weights, (6, 784).
        now: of this setting.
        before: of the one before.
    """
    fig, axes = canvas(3.1, *ROWS)
    pictures = {"trained": trained, "coded": now.detail["neurons"]} | ({"before": before.detail["neurons"]} if before else {})
    for ax, name in zip(axes, ("trained", "coded", "before"), strict=True):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if name in pictures:
            picture = tiles(np.reshape(pictures[name], (SHOWN, 28, 28)), SHOWN)
            strongest = 0.7 * np.abs(trained).max()
            ax.imshow(picture, vmin=-strongest, vmax=strongest, cmap="cividis", alpha=0.4 if name == "before" else 1)
            ax.set_ylabel(name, rotation=0, ha="right", va="center")
    if before is None:
        axes[2].text(0.5, 0.5, "Change a setting to compare it with this one.", ha="center", va="center", color=INK)
    axes[0].set_title("Six neurons of the first layer, pixel by pixel")
    return fig


def panel(model: nn.Module, split: Split) -> Panel:
    """Return the panel for a network of dense layers."""
    controls = {
        "method": ipywidgets.Dropdown(options=["scalar", "product"], value="product", description="method"),
        "bits": ipywidgets.IntSlider(4, min=1, max=6, description="bits per code", continuous_update=False),
        "length": ipywidgets.SelectionSlider(
            options=[1, 2, 4, 10, 20], value=10, description="weights per segment", continuous_update=False
        ),
    }
    size = Axis("kilobytes of the dense layers (log scale)", (10, 20, 50, 100, 200))
    whole = 100 * evaluate(model, split)
    dense = sum(4 * layer.weight.numel() / 1000 for layer in runs.dense_layers(model).values())
    words = f"make the dense layers at least {SMALLER} times smaller, with at most {LOST} points of accuracy lost"
    aim = Goal(words, dense / SMALLER, whole - LOST)
    memory = Memory(size, accuracy_axis(whole), aim, ways=("scalar", "product"))
    trained = next(iter(runs.dense_layers(model).values())).weight.detach()[:SHOWN].cpu().numpy()
    return Panel(controls, partial(measure, model, split, whole), partial(draw, trained), aim, memory, idle=_idle)


def _idle(setting: Setting) -> list[str]:
    return ["length"] if setting["method"] == "scalar" else []
