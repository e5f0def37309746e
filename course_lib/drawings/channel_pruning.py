"""How channel pruning works, drawn: the sum over channels, a race along the penalty, where X and Y come from, residual blocks.

The race is computed: its five channels have contributions of known sizes, and the penalty's path is that of the paper's module.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION
from course_lib.papers import channel_pruning as paper

Draw = Callable[[plt.Axes], None]

NAMES = "ABCDE"
# The contributions Z_i, one per column, in a basis of five directions: B points almost where A points, the others stand apart
CONTRIBUTIONS = torch.tensor(
    [[3.0, 2.6, 0.0, 0.0, 0.0], [0.0, 0.3, 0.0, 0.0, 0.0], [0.0, 0.0, 2.2, 0.0, 0.0], [0.0, 0.0, 0.0, 1.6, 0.0],
     [0.0, 0.0, 0.0, 0.0, 1.0]]
)  # fmt: skip
PAINTS = (BLUE, BLUE, GREEN, ORANGE, PURPLE)  # A and B share a colour, since they share a direction
KEPT = 2  # channels at the end of the race
HEIGHT, LANE, LEFT = 7.2, 1.2, 1.4  # of a frame of the race, of a lane, and where lanes begin


class Race(NamedTuple):
    """The path of the penalty for the five channels, and what is left at its end."""

    penalties: Tensor  # rising from zero, (k,)
    betas: Tensor  # (k, 5)
    left: list[str]  # the last channels
    out: list[str]  # the others, in the order in which they leave


def race() -> Race:
    """Return the path of the penalty, from zero until `KEPT` channels are left."""
    gram = CONTRIBUTIONS.double().T @ CONTRIBUTIONS.double()
    penalties, betas = (found.flip(0) for found in paper.lasso_path(gram, gram.sum(1), samples=1))
    last = [int((betas[:, i] != 0).nonzero().max()) for i in range(len(NAMES))]  # where each channel is there for the last time
    order = sorted(range(len(NAMES)), key=last.__getitem__)
    out, left = [NAMES[i] for i in order[:-KEPT]], sorted(NAMES[i] for i in order[-KEPT:])
    return Race(penalties, betas, left, out)


def error(betas: Tensor) -> float:
    """Return the squared error of sum_i beta_i Z_i, in per cent of ||Y||^2."""
    outputs = CONTRIBUTIONS.double().sum(1)
    return 100 * float((outputs - CONTRIBUTIONS.double() @ betas).square().sum() / outputs.square().sum())


def refitted(names: Sequence[str]) -> Tensor:
    """Return the betas of least squared error, zero for all channels but these, (5,)."""
    places = [NAMES.index(name) for name in names]
    betas = torch.zeros(len(NAMES)).double()
    betas[places] = torch.linalg.lstsq(CONTRIBUTIONS.double()[:, places], CONTRIBUTIONS.double().sum(1)).solution
    return betas


def blocks_drawing() -> plt.Figure:
    """Draw the output as a sum over channels: patches X_i times weights W_i is the contribution Z_i, which beta_i multiplies."""
    fig, ax = shapes.canvas(14.8, "The output adds up what the channels contribute")
    for x, text, shape in (
        (1.5, "map", ""),
        (5.4, "patches", "N x p"),
        (9.0, "weights", "p x n"),
        (12.6, "contribution", "N x n"),
    ):
        shapes.write(ax, (x, 14.2), text)
        shapes.write(ax, (x, 13.4), shape)
    total = shapes.cells(ax, (18.1, 6.0), [[INK] * 2] * 5, size=0.56)
    shapes.write(ax, (18.7, 9.4), "Y")
    for channel, (beta, colour) in enumerate((("x 0.9", BLUE), ("x 0", None), ("x 1.2", GREEN)), start=1):
        foot = 9.9 - 3.9 * (channel - 1)
        sheet = dict(facecolor=colour, edgecolor=INK) if colour else dict(facecolor="none", edgecolor=INK, linestyle=":")
        ax.add_patch(Rectangle((0.4, foot + 0.3), 2.2, 2.2, linewidth=1, **sheet))
        for left, rows, columns, name in ((4.3, 5, 4, "X"), (8.4, 4, 2, "W"), (12.2, 5, 2, "Z")):
            lift = 0.28 if rows == 4 else 0.0
            grid = shapes.cells(ax, (left, foot + lift), [[colour] * columns] * rows, size=0.56)
            label = f"{name}{channel}" + ("ᵀ" if name == "W" else "")  # W_i is n x p
            shapes.write(ax, (left - 0.6 - 0.1 * (name == "W"), grid.left_side[1]), label)
        shapes.write(ax, (10.5, foot + 1.4), "=")
        end = (total.left, total.left_side[1] + 0.7 * (2 - channel))
        shapes.arrow(ax, (13.4, foot + 1.4), end, colour=INK if colour else VERMILION)
        shapes.write(ax, (15.2, foot + (0.9 if channel == 3 else 2.0)), beta, colour=INK if colour else VERMILION)
    for left, foot, width, height in ((1.0, 11.3, 0.6, 0.6), (4.3, 12.14, 2.24, 0.56)):  # a patch of map 1, and its row
        ax.add_patch(Rectangle((left, foot), width, height, facecolor="none", edgecolor=ORANGE, linewidth=2.5))
    shapes.write(ax, (0.3, 1.3), "Orange: a patch of map 1, and its row of X1.", align="left")
    shapes.write(ax, (0.3, 0.5), "With beta 0, map 2 is never read.", align="left")
    return fig


def start_drawing() -> plt.Figure:
    """Draw the five channels of the race before it begins: how large their contributions are, and which two are alike."""
    fig, ax = shapes.canvas(6.9, "Five channels, by the size of their contributions")
    sizes = CONTRIBUTIONS.norm(dim=0)
    for place, (name, size, paint) in enumerate(zip(NAMES, sizes.tolist(), PAINTS, strict=True)):
        foot = 5.6 - LANE * place
        shapes.write(ax, (0.7, foot + 0.4), name)
        ax.add_patch(Rectangle((LEFT, foot), 3 * size, 0.8, facecolor=paint))
        shapes.write(ax, (LEFT + 3 * size + 0.9, foot + 0.4), f"{size:.1f}")
    alike = float(CONTRIBUTIONS[:, 0] @ CONTRIBUTIONS[:, 1] / sizes[0] / sizes[1])
    shapes.write(ax, (11.6, 4.8), f"correlation with A: {alike:.2f}", align="left")
    shapes.write(ax, (8.0, 1.2), "C, D, E: correlation 0 with all", align="left")
    return fig


def frames() -> list[tuple[str, Draw]]:
    """Return caption and drawing of each step of the race."""
    found = race()
    knots = dict(
        zip(found.out, (int((found.betas[:, NAMES.index(name)] == 0).nonzero().min()) for name in found.out), strict=True)
    )
    halfway = (found.penalties[0] + found.penalties[1]) / 2, (found.betas[0] + found.betas[1]) / 2
    at = {name: (found.penalties[knot], found.betas[knot]) for name, knot in knots.items()}
    first, second, third = found.out
    return [
        ("Penalty 0: every channel has beta 1, and the error is zero.", _frame(0.0, found.betas[0])),
        (f"The penalty grows. {first} shrinks fastest, and A grows: it takes over.", _frame(*halfway)),
        (f"{first} is out, the second largest of all: A does its job.", _frame(*at[first])),
        (f"{second} is out. C and D have shrunk as well.", _frame(*at[second])),
        (f"{third} is out. {KEPT} are left: stop.", _frame(*at[third])),
        ("Refit: least squares without the penalty. The same channels, less error.", _frame(None, refitted(found.left))),
    ]


def _frame(penalty: float | None, betas: Tensor) -> Draw:
    """Five lanes, each as long as the channel's beta; below them the penalty and the error."""

    def draw(ax: plt.Axes) -> None:
        unit = 6.4  # of a beta of 1
        ax.plot([LEFT + unit] * 2, [1.1, 7.1], color=INK, linewidth=1, linestyle=":")
        for place, (name, beta, paint) in enumerate(zip(NAMES, betas.tolist(), PAINTS, strict=True)):
            foot = 6.2 - LANE * place
            shapes.write(ax, (0.7, foot + 0.4), name)
            if beta == 0:
                ax.add_patch(Rectangle((LEFT, foot), unit, 0.8, facecolor="none", edgecolor=INK, linestyle=":"))
                shapes.write(ax, (LEFT + unit + 1.2, foot + 0.4), "out")
            else:
                ax.add_patch(Rectangle((LEFT, foot), unit * beta, 0.8, facecolor=paint))
                shapes.write(ax, (LEFT + unit * max(beta, 1) + 1.2, foot + 0.4), f"{beta:.2f}")
        left = int((betas != 0).sum())
        pressure = "no penalty" if penalty is None else f"penalty {float(penalty):.2f}"
        shapes.write(ax, (0.3, 0.4), f"{pressure}: {left} channels, error {error(betas):.1f} %", align="left")

    return draw


def network_drawing() -> plt.Figure:
    """Draw where a layer's inputs and targets come from: X from the pruned network, Y from the original."""
    fig, ax = shapes.canvas(15.4, "X comes from the pruned network, Y from the original")
    for foot, name, colours in ((9.4, "original", [BLUE] * 4), (2.4, "pruned so far", [BLUE, None, BLUE, None])):
        shapes.write(ax, (0.3, foot + 5.0), name, align="left")
        before = shapes.box(ax, (2.3, foot + 1.6), "conv1", width=3.4)
        stack = shapes.maps(ax, (6.2, foot), colours, size=1.9)
        after = shapes.box(ax, (13.4, foot + 1.6), "conv2", width=3.4, colour=INK if foot > 5 else VERMILION)
        shapes.arrow(ax, before.right_side, (stack.left, before.right_side[1]))
        shapes.arrow(ax, (stack.left + stack.width, before.right_side[1]), after.left_side)
        end = shapes.cells(ax, (17.7, foot + 0.2), [[INK] * 2] * 5, size=0.56)
        shapes.arrow(ax, after.right_side, end.left_side)
    shapes.write(ax, (18.3, 13.1), "Y")
    shapes.arrow(ax, (18.3, 9.4), (18.3, 5.5), colour=VERMILION)
    shapes.write(ax, (17.8, 7.4), "target", align="right")
    shapes.write(ax, (8.3, 6.4), "X")
    shapes.write(ax, (13.4, 5.7), "refitted", colour=VERMILION)
    shapes.write(ax, (0.3, 1.4), "Same images, same positions in both networks.", align="left")
    shapes.write(ax, (0.3, 0.5), "conv1 loses the filters that computed the dotted maps.", align="left")
    return fig


def residual_drawing() -> plt.Figure:
    """Draw a residual block after pruning: a sampler before its first layer, a corrected target for its last."""
    fig, ax = shapes.canvas(11.2, "The branch gets a sampler and a corrected target")
    shapes.maps(ax, (0.4, 4.2), [BLUE] * 4, size=1.6, name="shared map")
    sampler = shapes.box(ax, (6.2, 3.0), "sampler", width=3.8, colour=GREEN)
    first = shapes.box(ax, (10.9, 3.0), "conv1", width=3.0)
    last = shapes.box(ax, (15.2, 3.0), "conv2", width=3.0, colour=VERMILION)
    shapes.arrow(ax, (2.9, 4.6), (sampler.left, 3.3))
    shapes.arrow(ax, sampler.right_side, first.left_side)
    shapes.arrow(ax, first.right_side, last.left_side)
    shapes.arrow(ax, (3.4, 6.2), (18.3, 6.2), "shortcut: all channels, Y1' instead of Y1")
    shapes.box(ax, (19.0, 6.2), "+", width=1.3, height=1.3)
    shapes.arrow(ax, (16.7, 3.4), (18.9, 5.5))
    shapes.write(ax, (6.2, 1.8), "picks two of four")
    shapes.write(ax, (14.6, 1.8), "target: Y2 + (Y1 - Y1')", colour=VERMILION)
    shapes.write(ax, (0.3, 0.5), "Y1, Y2: what both paths add in the original network.", align="left")
    shapes.write(ax, (0.3, 10.3), "The shortcut needs every channel of the shared map.", align="left")
    shapes.write(ax, (0.3, 9.4), "So nothing is removed from it.", align="left")
    return fig
