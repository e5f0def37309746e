"""How methods are compared, drawn: a fair grid, a verdict that appears as networks come in, and channels in blocks."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt

from course_lib import evidence
from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, COLOURS, GREEN, INK, ORANGE, SKY, VERMILION

HEIGHT = 5.6  # of a frame of the film
ENDS = (-4, 6)  # points at the ends of its line
LEFT, RIGHT = 6.6, 19.4  # where these lie
BLOCK, CHANNELS = 8, 17  # of the drawing: numbers that a processor computes at once, and channels of a layer


def grid_drawing() -> plt.Figure:
    """Draw the fair grid: from each trained network every arm goes to the same shape and through the same training."""
    fig, ax = shapes.canvas(11.4, "Seven choices at the same widths, and controls")
    network = shapes.box(ax, (2.4, 6.9), "a trained\nnetwork", width=4.4, height=2.4, colour=SKY)
    training = shapes.box(ax, (14.2, 5.7), "20\nepochs,\nsame\nimages,\nsame\norder", width=3.4, height=11)
    ways = {
        "six criteria,\nsame widths": BLUE, "random choice,\nsame widths": ORANGE,
        "not cut:\nthe dense network": GREEN, "random weights,\nsame widths": VERMILION,
    }  # fmt: skip
    for y, (way, colour) in zip((10.0, 7.1, 4.2, 1.3), ways.items(), strict=True):
        arm = shapes.box(ax, (8.8, y), way, width=6.2, height=2.1, colour=colour)
        if colour != VERMILION:  # random weights do not come from the trained network
            shapes.arrow(ax, network.right_side, arm.left_side)
        shapes.arrow(ax, arm.right_side, (training.left, y))
        shapes.arrow(ax, (training.left + training.width, y), (17.3, y))
        shapes.write(ax, (18.7, y), "test")
    return fig


def verdict_frames(pairs: Mapping[str, Sequence[float]], margin: float) -> list[tuple[str, Callable[[plt.Axes], None]]]:
    """Return the frames of verdicts that appear as networks come in: caption, and what draws it.

    Args:
        pairs: name of a comparison -> paired differences in points, one per trained network; all have as many.
        margin: that a difference has to exceed.
    """
    networks = min(map(len, pairs.values()))
    captions = [f"after network {number}: {_labels(pairs, number, margin)}" for number in range(1, networks + 1)]
    return [(caption, _frame(pairs, count, margin)) for count, caption in enumerate(captions, start=1)]


def _labels(pairs: Mapping[str, Sequence[float]], count: int, margin: float) -> str:
    labels = [evidence.verdict(list(values)[:count], margin=margin).label for values in pairs.values()]
    return labels[0] if len(set(labels)) == 1 else "one is decided" if evidence.UNDECIDED in labels else "both are decided"


def _frame(pairs: Mapping[str, Sequence[float]], count: int, margin: float) -> Callable[[plt.Axes], None]:
    def draw(ax: plt.Axes) -> None:
        for place, (name, values) in enumerate(pairs.items()):
            y, seen, colour = 4.7 - 1.9 * place, list(values)[:count], COLOURS[place]
            found = evidence.verdict(seen, margin=margin)
            shapes.write(ax, (0.1, y), name, align="left")
            ax.plot([_x(found.low), _x(found.high)], [y, y], color=colour, linewidth=4, alpha=0.4)
            ax.plot([_x(value) for value in seen], [y] * count, "o", color=colour, markersize=5)
            shapes.write(ax, (_x(4.0), y - 0.8), found.label)
        ax.plot([LEFT, RIGHT], [1.4, 1.4], color=INK, linewidth=1)
        for points in range(ENDS[0], ENDS[1] + 1, 2):
            ax.plot([_x(points)] * 2, [1.3, 1.5], color=INK, linewidth=1)
            shapes.write(ax, (_x(points), 0.8), f"{points}")
        ax.plot([_x(margin)] * 2, [1.4, 5.4], color=INK, linewidth=1, linestyle=":")
        shapes.write(ax, (0.1, 0.8), "points ahead", align="left")

    return draw


def _x(points: float) -> float:
    """Where a number of points lies; what lies beyond the ends of the line is drawn at its end."""
    share = (min(max(points, ENDS[0]), ENDS[1]) - ENDS[0]) / (ENDS[1] - ENDS[0])
    return LEFT + share * (RIGHT - LEFT)


def blocks_drawing() -> plt.Figure:
    """Draw the channels of a layer in the blocks that a processor computes at once; the last one is almost empty."""
    full, rest = divmod(CHANNELS, BLOCK)
    fig, ax = shapes.canvas(6.2, f"{CHANNELS} channels take {full + 1} blocks of {BLOCK}, as many as {(full + 1) * BLOCK}")
    for row in range(full + 1):
        filled = BLOCK if row < full else rest
        shapes.cells(ax, (5.0, 4.6 - 1.6 * row), [[BLUE] * filled + [None] * (BLOCK - filled)], size=1.3)
        shapes.write(ax, (0.1, 5.25 - 1.6 * row), f"block {row + 1}", align="left")
        shapes.write(ax, (15.9, 5.25 - 1.6 * row), f"{filled} of {BLOCK}", align="left")
    shapes.write(ax, (0.1, 0.4), "A block takes as long empty as full.", align="left")
    return fig
