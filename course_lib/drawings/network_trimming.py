"""How network trimming works, drawn: zeros after a ReLU, what is removed with a neuron, and the threshold that moves."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, GREEN, INK, ORANGE, VERMILION

SUMS = ((2, -1, 3, 1, -2, 4, 2, 1), (-3, -1, -2, 5, -1, -4, -2, 1), (-2, -4, -1, -3, -1, -2, -5, -1))  # neurons by images
BEFORE = (0.30, 0.55, 0.42, 0.97, 0.61, 0.36, 0.92, 0.50)  # APoZ of the neurons in the film
RETRAINED = (0.34, 0.47, 0.38, None, 0.71, 0.35, None, 0.46)  # None: removed
HEIGHT = 5.0  # of a frame


def zeros_drawing() -> plt.Figure:
    """Draw three neurons before and after their ReLU on eight images, and the APoZ of each."""
    fig, ax = shapes.canvas(13.2, "APoZ is the share of zeros that a neuron outputs after its ReLU")
    left, size = 4.1, 1.35
    before = [[BLUE if value > 0 else ORANGE for value in neuron] for neuron in SUMS]
    after = [[BLUE if value > 0 else None for value in neuron] for neuron in SUMS]
    top = shapes.cells(ax, (left, 7.6), before, size=size, texts=[[f"{value:d}" for value in neuron] for neuron in SUMS])
    low = shapes.cells(ax, (left, 1.0), after, size=size, texts=[[f"{max(value, 0):d}" for value in neuron] for neuron in SUMS])
    shapes.write(ax, (top.top[0], 12.3), "weighted sums on eight images")
    shapes.arrow(ax, top.foot, low.top)
    shapes.write(ax, (top.foot[0] + 0.6, 6.7), "ReLU: max(0, sum)", align="left")
    shapes.write(ax, (low.right_side[0] + 0.5, 5.7), "APoZ", align="left")
    shapes.write(ax, (low.foot[0], 0.4), "outputs")
    for row, neuron in enumerate(SUMS):
        zeros = sum(value <= 0 for value in neuron)
        for grid in (top, low):
            height = grid.bottom + (2.5 - row) * size
            shapes.write(ax, (0.2, height), f"neuron {'ABC'[row]}", align="left")
        shapes.write(ax, (low.right_side[0] + 0.5, height), f"{zeros} / 8 = {zeros / 8:.2f}", align="left")
    return fig


def removal_drawing() -> plt.Figure:
    """Draw the weights that are removed with a channel of a convolution and with a neuron of the dense layer after it."""
    fig, ax = shapes.canvas(15.6, "A neuron is removed with its row and the next layer's columns")
    conv2 = [[ORANGE if row == 1 else BLUE] * 4 for row in range(3)]
    fc1 = [[GREEN if row == 2 else ORANGE if column in (2, 3) else BLUE for column in range(6)] for row in range(4)]
    fc2 = [[GREEN if column == 2 else BLUE for column in range(4)] for _ in range(3)]
    for middle, layers in ((12.4, (conv2, fc1, fc2)), (6.4, [_without_colours(layer) for layer in (conv2, fc1, fc2)])):
        grids = [
            shapes.cells(ax, (left, middle - len(layer) / 2), layer, name=name)
            for left, layer, name in zip((0.3, 6.9, 15.5), layers, ("conv2", "fc1", "fc2"), strict=True)
        ]
        for one, other in zip(grids, grids[1:], strict=False):
            shapes.arrow(ax, one.right_side, other.left_side)
    shapes.arrow(ax, (3.0, 10.2), (3.0, 8.9))
    shapes.write(ax, (3.6, 9.6), "trim", align="left")
    shapes.cells(ax, (0.3, 3.2), [[ORANGE]], size=0.8)
    shapes.write(ax, (1.5, 3.6), "one channel of conv2: its row, with its bias,", align="left")
    shapes.write(ax, (1.5, 2.8), "and the columns of fc1 that read it", align="left")
    shapes.cells(ax, (0.3, 1.2), [[GREEN]], size=0.8)
    shapes.write(ax, (1.5, 1.6), "one neuron of fc1: its row, with its bias,", align="left")
    shapes.write(ax, (1.5, 0.8), "and the column of fc2 that reads it", align="left")
    return fig


def _without_colours(layer: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells of a layer that stay: the blue ones."""
    rows = ([colour for colour in row if colour == BLUE] for row in layer)
    return [row for row in rows if row]


def frames() -> list[tuple[str, Callable[[plt.Axes], None]]]:
    """Return the frames of the moving picture, caption and function that draws: one round of trimming, and the next threshold."""
    trimmed = [share if share <= _threshold(BEFORE) else None for share in BEFORE]
    return [
        ("Measure: two neurons exceed mean + std", _bars(BEFORE, _threshold(BEFORE))),
        ("Trim: these two are removed with their weights", _bars(trimmed, None)),
        ("Retrain: the APoZ of the others changes", _bars(RETRAINED, None)),
        ("Measure again: the threshold has moved", _bars(RETRAINED, _threshold(RETRAINED))),
    ]


def _threshold(shares: Sequence[float | None]) -> float:
    """Mean plus one standard deviation of the neurons that are there."""
    there = np.array([share for share in shares if share is not None])
    return there.mean() + there.std()


def _bars(shares: Sequence[float | None], threshold: float | None) -> Callable[[plt.Axes], None]:
    """A frame: a bar per neuron as high as its APoZ, those above the threshold in another colour; None is a removed neuron."""

    def draw(ax: plt.Axes) -> None:
        for place, share in enumerate(shares):
            left, height = 2.5 + 1.65 * place, 4.0 * (BEFORE[place] if share is None else share)
            above = threshold is not None and share is not None and share > threshold
            look = dict(facecolor=VERMILION if above else BLUE, edgecolor="none")
            if share is None:
                look = dict(facecolor="none", edgecolor=INK, linestyle=":")
            ax.add_patch(Rectangle((left, 0.5), 1.2, height, linewidth=1, **look))
        ax.plot([2.2, 15.6], [0.5, 0.5], color=INK, linewidth=1)
        for height, name in ((0.5, "0"), (2.5, "APoZ"), (4.5, "1")):
            shapes.write(ax, (2.0, height), name, align="right")
        if threshold is not None:
            ax.plot([2.2, 15.6], [0.5 + 4.0 * threshold] * 2, color=INK, linewidth=1.3, linestyle="--")
            shapes.write(ax, (15.8, 0.5 + 4.0 * threshold), "mean + std", align="left")

    return draw
