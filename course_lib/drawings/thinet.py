"""How ThiNet works, drawn: an output as a sum over channels, greedy removal on the Gram matrix, and what a factor changes."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np

from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION

Draw = Callable[[plt.Axes], None]
HEIGHT = 11.4  # of a frame of the film
X = np.array([[-2, -3, 1, 0, -1], [-1, 3, -2, 3, 3], [-1, 1, -2, -2, 1], [-3, 2, -2, 1, -3]])  # samples by channels
KEEP = 2  # of the five channels in the film

PATCHES = (((2, 0, 1), (1, 1, 0), (0, 2, 1)), ((1, 2, 0), (0, 1, 1), (1, 0, 1)), ((0, 1, 1), (2, 0, 0), (1, 1, 2)))
KERNELS = (((1, 0, -1), (1, 1, 0), (0, 1, 0)), ((0, -1, 0), (0, -1, 1), (-1, 0, 0)), ((0, 1, 1), (1, 0, -1), (0, -1, 1)))
REMOVED = 1  # of the three channels

ARROWS = {"a": (1, 1), "b": (3, 1), "c": (0, 2)}  # contributions of three channels at two outputs
PLANE = 9.0  # height of the drawings of these


def contributions_drawing() -> plt.Figure:
    """Draw one output as patches times kernel slices, one contribution per channel, and what removing a channel changes."""
    values = [int((np.array(patch) * kernel).sum()) for patch, kernel in zip(PATCHES, KERNELS, strict=True)]
    whole, gone = sum(values), values[REMOVED]
    fig, ax = shapes.canvas(16.3, "An output of the next layer is a sum over channels")
    for left, name in ((5.3, "patch"), (10.1, "kernel"), (15.4, "contribution")):
        shapes.write(ax, (left, 15.6), name)
    for channel, (patch, kernel) in enumerate(zip(PATCHES, KERNELS, strict=True)):
        bottom, colour = 12.3 - 3.2 * channel, VERMILION if channel == REMOVED else BLUE
        inputs = [[f"{value}" for value in row] for row in patch]
        slices = [[f"{value}" for value in row] for row in np.array(kernel)]
        shapes.cells(ax, (3.9, bottom), [[colour] * 3] * 3, size=0.93, texts=inputs)
        shapes.cells(ax, (8.7, bottom), [[colour] * 3] * 3, size=0.93, texts=slices)
        middle = bottom + 1.4
        shapes.write(ax, (0.1, middle), f"channel {channel}", align="left")
        shapes.write(ax, (7.7, middle), "times")
        shapes.write(ax, (12.3, middle), "=")
        shapes.cells(ax, (14.7, middle - 0.7), [[colour]], size=1.4, texts=[[f"{values[channel]}"]])
    ax.plot([3.9, 16.9], [5.3, 5.3], color=INK, linewidth=1)
    for bottom, name, value in (
        (4.5, "sum: the output without its bias", whole),
        (3.5, f"without channel {REMOVED}", whole - gone),
    ):
        shapes.write(ax, (13.6, bottom), name, align="right")
        shapes.write(ax, (15.4, bottom), f"{value}")
    row = ", ".join(f"{value}" for value in values)
    for line, text in enumerate(
        (f"Removing channel {REMOVED} changes this output by {abs(gone)}.", f"Its row of X, the contributions: ({row})")
    ):
        shapes.write(ax, (0.1, 2.1 - 1.1 * line), text, align="left")
    return fig


def frames() -> list[tuple[str, Draw]]:
    """Return the frames of greedy removal: caption, and what draws it on axes of 20 x `HEIGHT` units."""
    gram = X.T @ X
    cost, removed, error = gram.diagonal().astype(float), [], 0
    found: list[tuple[str, Draw]] = [("X: what five channels contribute to four outputs", _samples)]
    while len(removed) < X.shape[1] - KEEP:
        least = int(cost.argmin())
        why = "its own square is least" if not removed else "its cost is least now"
        found.append((f"Remove channel {least}: {why}", _step(gram, cost.copy(), removed.copy(), least, error)))
        error, removed = error + int(cost[least]), [*removed, least]
        cost = cost + 2 * gram[least]
        cost[removed] = np.inf
        if len(removed) < X.shape[1] - KEEP:
            added = _step(gram, cost.copy(), removed.copy(), None, error, removed[-1])
            found.append((f"Then add twice row {least} of G to the costs", added))
    last = _step(gram, np.full(len(gram), np.inf), removed.copy(), None, error)
    return [*found, (f"Channels {' and '.join(_left(removed))} stay; an error of {error} remains", last)]


def _left(removed: Sequence[int]) -> list[str]:
    return [f"{channel}" for channel in range(X.shape[1]) if channel not in removed]


def _samples(ax: plt.Axes) -> None:
    size = 1.5
    grid = shapes.cells(ax, (2.6, 3.4), _signs(X), size=size, texts=[[f"{value}" for value in row] for row in X])
    _numbers(ax, grid, size, X.shape[1])
    shapes.write(ax, (grid.top[0], 10.9), "channel")
    shapes.write(ax, (0.1, grid.left_side[1]), "sample", align="left")
    lines = ("Each row is", "one output:", "its sum is", "the output", "less its bias.")
    for number, line in enumerate(lines):
        shapes.write(ax, (11.2, 8.7 - number), line, align="left")
    shapes.write(ax, (0.1, 1.6), "G = X'X multiplies each pair of channels over the", align="left")
    shapes.write(ax, (0.1, 0.7), "samples. From here on only G is needed.", align="left")


def _signs(values: np.ndarray) -> list[list[str]]:
    return [[ORANGE if value < 0 else BLUE for value in row] for row in values]


def _numbers(ax: plt.Axes, grid: shapes.Grid, size: float, count: int) -> None:
    """Write the numbers of the channels above a matrix."""
    for channel in range(count):
        shapes.write(ax, (grid.left + (channel + 0.5) * size, grid.bottom + grid.height + 0.5), f"{channel}")


def _step(
    gram: np.ndarray, cost: np.ndarray, removed: Sequence[int], chosen: int | None, error: int, added: int | None = None
) -> Draw:
    """A frame: the Gram matrix without its removed channels, the costs below it, and the error so far.

    Args:
        gram: of all channels.
        cost: of each channel, infinite where it is removed.
        removed: the channels.
        chosen: whose cost is least.
        error: the square of what the removed channels sum to.
        added: the row that was added to the costs.
    """
    size, left, count = 1.5, 2.6, len(gram)
    gone = [channel for channel in removed if channel != added]

    def draw(ax: plt.Axes) -> None:
        colours, texts = _signs(gram), [[f"{value}" for value in row] for row in gram]
        for row in range(count):
            for column in range(count):
                if {row, column} & set(gone) or (column == added != row):
                    colours[row][column], texts[row][column] = None, ""
                elif row == added or (chosen is not None and row == column == chosen and not removed):
                    colours[row][column] = VERMILION
        grid = shapes.cells(ax, (left, 2.6), colours, size=size, texts=texts)
        _numbers(ax, grid, size, count)
        shapes.write(ax, (0.1, grid.left_side[1]), "G", align="left")
        there = [None if np.isinf(value) else VERMILION if place == chosen else GREEN for place, value in enumerate(cost)]
        shown = ["" if np.isinf(value) else f"{value:.0f}" for value in cost]
        if np.isfinite(cost).any():
            shapes.cells(ax, (left, 0.4), [there], size=size, texts=[shown])
            shapes.write(ax, (0.1, 1.15), "cost", align="left")
        shapes.write(ax, (11.2, 9.2), f"removed: {', '.join(map(str, removed)) or 'none'}", align="left")
        shapes.write(ax, (11.2, 8.0), f"error so far: {error}", align="left")
        for number, line in enumerate(_words(cost, chosen, error, added)):
            shapes.write(ax, (11.2, 5.8 - number), line, align="left")

    return draw


def _words(cost: np.ndarray, chosen: int | None, error: int, added: int | None) -> list[str]:
    if chosen is not None:
        value = int(cost[chosen])
        sum_of = f"{error} {'-' if value < 0 else '+'} {abs(value)} = {error + value}"
        why = ["Negative: it cancels", "what is removed."] if value < 0 else []
        why = why if error else ["A cost is what its", "removal would add."]
        return ["The new error:", sum_of, *why]
    if added is not None:
        return ["The cost of a channel", "depends on what is", "gone already."]
    return ["Last, each channel", "that stays gets a", "factor to make up", "for the others."]


def factor_drawing() -> plt.Figure:
    """Draw three contributions as arrows: which one comes nearest to their sum as it is, and which one times a factor."""
    return shapes.film_strip(
        [
            ("As they are: keep b. What is missing is a + c", _as_they_are),
            ("Each times its best factor: keep a, times 4", _with_factors),
        ],
        PLANE,
    )


def _as_they_are(ax: plt.Axes) -> None:
    a, b, c = (np.array(arrow) for arrow in ARROWS.values())
    _head(ax, (0, 0), b, "b", GREEN, (0.1, -0.45))
    _head(ax, b, b + a, "a", VERMILION, (0.35, -0.3))
    _head(ax, b + a, a + b + c, "c", VERMILION, (0.35, 0))
    _target(ax, a + b + c)
    y = a + b + c
    _table(ax, "keep  error", {name: np.square(y - arrow).sum() for name, arrow in ARROWS.items()})


def _with_factors(ax: plt.Axes) -> None:
    arrows = {name: np.array(arrow) for name, arrow in ARROWS.items()}
    y = sum(arrows.values())
    factors = {name: arrow @ y / (arrow @ arrow) for name, arrow in arrows.items()}
    nearest = {name: factors[name] * arrow for name, arrow in arrows.items()}
    _head(ax, (0, 0), nearest["b"], f"{factors['b']:g} b", PURPLE, (0.1, -0.5))
    _head(ax, nearest["b"], y, "", VERMILION, (0, 0))
    _head(ax, (0, 0), nearest["a"], f"{factors['a']:g} a", GREEN, (-0.9, -0.2))
    _target(ax, y)
    _table(ax, "keep  error", {name: np.square(y - arrow).sum() for name, arrow in nearest.items()})


UNIT, ORIGIN = 1.75, np.array((1.2, 0.9))


def _head(ax: plt.Axes, start: Sequence[float], end: Sequence[float], name: str, colour: str, beside: Sequence[float]) -> None:
    """Draw an arrow of the plane and write its name beside its middle."""
    first, last = (ORIGIN + UNIT * np.array(place) for place in (start, end))
    ax.annotate("", last, first, arrowprops=dict(arrowstyle="-|>", color=colour, linewidth=2.2, shrinkA=0, shrinkB=0))
    if name:
        shapes.write(ax, tuple((first + last) / 2 + UNIT * np.array(beside)), name)


def _target(ax: plt.Axes, place: np.ndarray) -> None:
    ax.plot(*(ORIGIN + UNIT * place), "o", color=INK, markersize=6)
    shapes.write(ax, tuple(ORIGIN + UNIT * place + np.array((0.4, 0.4))), "y = a + b + c", align="left")


def _table(ax: plt.Axes, head: str, errors: dict[str, float]) -> None:
    """Write the squared error of each choice, the least one first in green's place by a mark."""
    left, least = 13.2, min(errors.values())
    shapes.write(ax, (left, 5.4), head.split()[0], align="left")
    shapes.write(ax, (left + 3.2, 5.4), head.split()[1], align="left")
    for number, (name, error) in enumerate(errors.items()):
        shapes.write(ax, (left, 4.2 - number), name, align="left")
        shapes.write(ax, (left + 3.2, 4.2 - number), f"{error:g}", align="left")
        if error == least:
            ax.plot(left - 0.7, 4.2 - number, "o", color=GREEN, markersize=7)
