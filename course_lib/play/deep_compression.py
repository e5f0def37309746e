"""The panel of notebook 05: bits per code, bits per gap and the coder, and the file that they make."""

from collections.abc import Callable
from functools import cache, partial

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from torch import nn

from course_lib.data import Split
from course_lib.experiments.compressed_files import dense_bytes, inspect
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import COLOURS, INK
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, accuracy_axis, canvas, in_words
from course_lib.papers import deep_compression
from course_lib.training import evaluate

PARTS = ("codes", "gaps", "tables", "codebook")
CODERS = ("fixed", "huffman", "ans")
KILOBYTES, LOST = 9, 0.5  # of the goal; points of accuracy against the pruned network
PAPER = (27, 98.42, "paper, trained")  # table 1: 40 times smaller than 1,070 kB, error 1.58 %
PLACE = (0.16, 0.36, 0.81, 0.61)


def measure(
    dense: int, whole: float, images: int, quantized: Callable[[int], tuple[nn.Module, float]], setting: Setting
) -> Measured:
    """Return kilobytes of the file, the accuracy of the network in it, and the kilobytes of its parts.

    Args:
        dense: bytes of the network before compression.
        whole: its accuracy after pruning, in percent.
        images: on how many.
        quantized: bits per code -> the quantized network, and its accuracy in percent.
        setting: bits per code, index_bits per gap, and the coder.
    """
    model, accuracy = quantized(setting["bits"])
    table = inspect(deep_compression.compress(model, **setting))
    size = int(table.filter(like="byte").sum().sum()) + table.attrs["header bytes"]
    layers = [name for name in table.index if name.endswith("weight")]
    parts = {part: [float(table.loc[name, f"bytes of {part}"]) / 1000 for name in layers] for part in PARTS}
    bits, gap = (f"{setting[name]} {'bit' if setting[name] == 1 else 'bits'}" for name in ("bits", "index_bits"))
    readout = (
        f"{bits} per code, {gap} per gap, {setting['coder']}: {size / 1000:.2f} kB, {dense / size:.0f} times smaller; "
        f"{in_words(accuracy, whole, images)}"
    )
    names = [name.removesuffix(".weight") for name in layers]
    other = size / 1000 - sum(map(sum, parts.values()))
    return Measured(size / 1000, accuracy, readout, dict(layers=names, parts=parts, other=other), setting["coder"])


def ends_of(measured: Measured) -> np.ndarray:
    """Return the kilobytes of each layer, and of biases and header."""
    return np.append(np.sum(list(measured.detail["parts"].values()), axis=0), measured.detail["other"])


def draw(longest: float, now: Measured, before: Measured | None) -> plt.Figure:
    """Draw the parts of each layer in the file as bars, and the length of the bars before as frames.

    Args:
        longest: kilobytes at the end of the axis.
        now: of this setting.
        before: of the one before.
    """
    fig, ax = canvas(2.9, PLACE)
    layers, lefts = now.detail["layers"], np.zeros(len(now.detail["layers"]))
    for (part, lengths), colour in zip(now.detail["parts"].items(), COLOURS, strict=False):
        ax.barh(layers, lengths, 0.5, left=lefts, color=colour, label=part)
        lefts += lengths
    rows = [*layers, "biases,\nheader"]
    ax.barh(rows[-1:], now.detail["other"], 0.5, color=COLOURS[len(PARTS)])
    if before:
        ax.barh(rows, ends_of(before), 0.75, fill=False, edgecolor=INK, alpha=0.5)
    ax.set(xlim=(0, longest), xlabel="kilobytes in the file")
    ax.set(ylim=(len(rows) - 0.5, -0.5))  # the first on top, with and without frames
    fig.legend(*ax.get_legend_handles_labels(), loc="lower center", ncols=len(PARTS), columnspacing=1, handlelength=1)
    return fig


def panel(model: nn.Module, split: Split) -> Panel:
    """Return the panel for a pruned network, which is quantized without training."""
    controls = {
        "bits": ipywidgets.IntSlider(4, min=1, max=8, description="bits per code", continuous_update=False),
        "index_bits": ipywidgets.IntSlider(5, min=3, max=10, description="bits per gap", continuous_update=False),
        "coder": ipywidgets.Dropdown(options=CODERS, value="huffman", description="coder"),
    }

    @cache
    def quantized(bits: int) -> tuple[nn.Module, float]:
        shared = deep_compression.quantize(model, bits=bits)
        return shared, 100 * evaluate(shared, split)

    whole = 100 * evaluate(model, split)
    answer = partial(measure, dense_bytes(model), whole, len(split.labels), quantized)
    longest = 1.05 * max(ends_of(answer(dict(bits=8, index_bits=gap, coder="fixed"))).max() for gap in (3, 10))
    size = Axis("kilobytes of the file (log scale)", (6, 8, 10, 15, 20, 30, 50))
    aim = Goal(f"a file of at most {KILOBYTES} kB, with at most {LOST} points of accuracy lost", KILOBYTES, whole - LOST)
    memory = Memory(size, accuracy_axis(whole), aim, ways=CODERS, paper=PAPER)
    return Panel(controls, answer, partial(draw, longest), aim, memory)
