"""How weight pruning works, drawn: a matrix and its mask, and the loop of pruning and retraining."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.drawings import shapes


def mask_drawing() -> plt.Figure:
    """Draw a weight matrix, the mask of its largest magnitudes, and the matrix after pruning and after retraining."""
    values = np.random.default_rng(3).normal(size=(5, 5))
    kept = np.abs(values) >= np.sort(np.abs(values), axis=None)[-10]
    fig, ax = shapes.canvas(7.6, "Pruning zeroes the smallest weights, and retraining moves the others")
    first = shapes.weights(ax, (0.3, 1.5), values, name="trained weights")
    second = shapes.weights(ax, (7.5, 1.5), values, kept=kept, name="15 of 25 pruned")
    third = shapes.weights(ax, (14.7, 1.5), values * 1.2 + 0.3 * np.sign(values), kept=kept, name="retrained")
    shapes.arrow(ax, first.right_side, second.left_side)
    shapes.arrow(ax, second.right_side, third.left_side)
    shapes.write(ax, (0.3, 0.5), "Area: magnitude. Blue: positive. Orange: negative.", align="left")
    return fig
