"""How weight pruning works, drawn: a matrix and its mask, the loop of pruning and retraining, dropout, and dead neurons.

The weights in the first two drawings are those of a small regression: what pruning and retraining do to them is computed.
"""

from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle, Rectangle

from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, INK, ORANGE, VERMILION

Draw = Callable[[plt.Axes], None]
SIDE = 5  # of the matrix
HEIGHT = 4.9  # of a frame


class State(NamedTuple):
    """The matrix at one moment of the loop."""

    weights: np.ndarray
    kept: np.ndarray  # mask of the weights
    threshold: float  # what is smaller is pruned next; 0: nothing is
    error: float  # in per cent of the outputs' variance


def mask_drawing() -> plt.Figure:
    """Draw a weight matrix, the mask of its largest magnitudes, and the matrix after pruning and after retraining."""
    trained, _, pruned, retrained = states((14,))
    fig, ax = shapes.canvas(7.6, "Prune the small weights, then retrain the others")
    first = shapes.weights(ax, (0.3, 1.9), trained.weights, name="trained")
    second = shapes.weights(ax, (7.5, 1.9), pruned.weights, kept=pruned.kept, name="14 of 25 pruned")
    third = shapes.weights(ax, (14.7, 1.9), retrained.weights, kept=pruned.kept, name="retrained")
    shapes.arrow(ax, first.right_side, second.left_side)
    shapes.arrow(ax, second.right_side, third.left_side)
    for grid, state in ((first, trained), (second, pruned), (third, retrained)):
        shapes.write(ax, (grid.foot[0], 1.3), f"error {state.error:.1f} %")
    shapes.write(ax, (0.3, 0.4), "Area: magnitude. Blue: positive. Orange: negative.", align="left")
    return fig


def frames() -> list[tuple[str, Draw]]:
    """Return the frames of the loop: caption, and what draws it on axes of 20 x `HEIGHT` units."""
    trained, marked, pruned, retrained, again, fewer, final = states((8, 14))
    return [
        ("Train. Each stroke on the line is a weight.", _frame(trained)),
        ("Choose a threshold t around zero.", _frame(marked)),
        ("Prune: set those weights to zero.", _frame(pruned)),
        ("Retrain: the survivors move and make up for them.", _frame(retrained)),
        ("Choose a larger threshold.", _frame(again)),
        ("Prune again.", _frame(fewer)),
        ("Retrain again: 14 of 25 weights are gone.", _frame(final)),
    ]


def states(shares: tuple[int, ...]) -> list[State]:
    """Return the states of a regression whose weights are pruned in rounds: trained, then (marked, pruned, retrained) per round.

    Args:
        shares: how many weights are pruned after each round, counted from the beginning.
    """
    random = np.random.default_rng(6)
    inputs = random.normal(size=(200, SIDE)) + 1.5 * random.normal(size=(200, 1))  # correlated: one can stand in for another
    outputs = inputs @ random.normal(0, 0.8, size=(SIDE, SIDE)).T
    outputs += random.normal(0, 0.2, size=outputs.shape)

    def state(weights: np.ndarray, kept: np.ndarray, threshold: float = 0.0) -> State:
        return State(weights, kept, threshold, 100 * ((inputs @ weights.T - outputs).var() / outputs.var()))

    kept = np.ones((SIDE, SIDE), dtype=bool)
    weights = _fitted(inputs, outputs, kept)
    found = [state(weights, kept)]
    for pruned in shares:
        magnitudes = np.sort(np.abs(weights), axis=None)
        threshold = magnitudes[pruned - 1 : pruned + 1].mean()
        found.append(state(weights, kept, threshold))
        kept = np.abs(weights) > threshold
        found.append(state(weights * kept, kept))
        weights = _fitted(inputs, outputs, kept)
        found.append(state(weights, kept))
    return found


def _fitted(inputs: np.ndarray, outputs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The weights of least squared error, of which only the kept ones are free."""
    weights = np.zeros(kept.shape)
    for row, free in enumerate(kept):
        weights[row, free] = np.linalg.lstsq(inputs[:, free], outputs[:, row], rcond=None)[0]
    return weights


def _frame(state: State) -> Draw:
    """The matrix at the left; at the right its weights as strokes on a line, with the threshold."""

    def draw(ax: plt.Axes) -> None:
        shapes.weights(ax, (0.3, 0.4), state.weights, size=0.85, kept=state.kept)
        middle, foot, unit = 13.0, 1.7, 3.1  # a weight of 1 is `unit` wide
        ax.plot([6.2, 19.8], [foot, foot], color=INK, linewidth=1)
        for value in state.weights[state.kept]:
            place = middle + unit * value
            ax.plot([place, place], [foot, foot + 1.4], color=BLUE if value > 0 else ORANGE, linewidth=2)
        if state.threshold:
            reach = unit * state.threshold
            ax.add_patch(
                Rectangle((middle - reach, foot - 0.2), 2 * reach, 1.9, facecolor="none", edgecolor=VERMILION, linewidth=2)
            )
            shapes.write(ax, (middle - reach, foot - 0.8), "-t")
            shapes.write(ax, (middle + reach, foot - 0.8), "t")
        shapes.write(ax, (middle, foot - 0.8), "0")
        left = int(state.kept.sum())
        shapes.write(ax, (middle, 4.2), f"{left} of {state.kept.size} weights, error {state.error:.1f} %")

    return draw


def dropout_drawing() -> plt.Figure:
    """Draw a pruned layer beside a smaller one that has as many connections."""
    fig, ax = shapes.canvas(6.4, "4 of 16 connections are like 2 x 2 neurons")
    whole = [[BLUE] * 4 for _ in range(4)]
    scattered = [[BLUE if (row, column) in {(0, 1), (1, 3), (2, 0), (3, 2)} else None for column in range(4)] for row in range(4)]
    first = shapes.cells(ax, (0.6, 1.2), whole, size=0.95, name="4 x 4 neurons")
    second = shapes.cells(ax, (7.6, 1.2), scattered, size=0.95, name="pruned")
    third = shapes.cells(ax, (15.6, 2.1), [[BLUE] * 2 for _ in range(2)], size=0.95, name="2 x 2 neurons")
    shapes.arrow(ax, first.right_side, second.left_side)
    shapes.write(ax, ((second.right_side[0] + third.left_side[0]) / 2, third.left_side[1]), "is like")
    for grid, text in ((first, "16 connections"), (second, "4 connections"), (third, "4 connections")):
        shapes.write(ax, (grid.foot[0], 0.5), text)
    return fig


def dead_neurons() -> plt.Figure:
    """Draw a neuron that has lost all its inputs, and one that has lost all its outputs."""
    fig, ax = shapes.canvas(8.4, "Neuron A is a constant, neuron B is never read")
    inputs, outputs = [(3.0, y) for y in (6.8, 4.4, 2.0)], [(12.4, y) for y in (5.8, 3.0)]
    hidden = [(7.7, y) for y in (7.0, 4.4, 1.8)]
    alive = {(0, 0), (0, 1), (0, 2), (2, 0), (2, 2)}  # (hidden neuron, input)
    read = {(0, 0), (0, 1), (1, 0), (1, 1)}  # (hidden neuron, output)
    for place, (x, y) in enumerate(hidden):
        for other, (left, height) in enumerate(inputs):
            _connection(ax, (left, height), (x, y), (place, other) in alive)
        for other, (right, height) in enumerate(outputs):
            _connection(ax, (x, y), (right, height), (place, other) in read)
    for place in [*inputs, hidden[0], *outputs]:
        _neuron(ax, place, BLUE)
    for name, place in zip("AB", hidden[1:], strict=True):
        _neuron(ax, place, VERMILION)
        shapes.write(ax, place, name, colour="white")
    texts = (
        "A has no inputs:",
        "it outputs relu(b),",
        "a constant for",
        "the next biases.",
        "",
        "B has no outputs:",
        "nothing reads it.",
    )
    for line, text in enumerate(texts):
        shapes.write(ax, (13.6, 6.8 - 0.85 * line), text, align="left")
    shapes.write(ax, (0.3, 0.4), "Dotted: pruned.", align="left")
    return fig


def _connection(ax: plt.Axes, start: shapes.Point, end: shapes.Point, kept: bool) -> None:
    ax.plot(*zip(start, end, strict=True), color=INK, linewidth=1.4 if kept else 1.0, linestyle="-" if kept else ":", zorder=0.5)


def _neuron(ax: plt.Axes, place: shapes.Point, colour: str) -> None:
    ax.add_patch(Circle(place, 0.55, facecolor=colour, edgecolor="none"))
