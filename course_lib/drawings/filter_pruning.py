"""How filters are pruned, drawn: the operation on two layers, the two ways to rank the second, and what a residual sum ties."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle

from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, GREEN, INK, ORANGE, VERMILION

HERE = np.array([[3, 1, 2], [1, 0, 1], [2, 4, 1], [1, 2, 2]])  # L1 norm of each kernel: (filters, input channels) of a layer
NEXT = np.array([[2, 5, 1, 1], [1, 1, 3, 2], [2, 0, 2, 1]])  # and of the layer that reads its maps
SMALLEST = int(HERE.sum(1).argmin())
SIZE = 1.15  # of a cell
FRAME = 7.3  # units, the height of a frame

Draw = Callable[[plt.Axes], None]


def frames() -> list[tuple[str, Draw]]:
    """Return caption and drawing of each step of pruning one filter and of ranking the next layer's."""
    return [
        ("A row is a filter, a cell one of its kernels with the kernel's L1 norm. Sum each row: s", _pair()),
        (f"Filter {SMALLEST + 1} has the smallest sum", _pair(row=VERMILION)),
        ("Remove its row, its entries in the batch norm and its feature map", _pair(row=None)),
        (f"Every filter of the next layer has a kernel that read map {SMALLEST + 1}", _pair(row=None, column=VERMILION)),
        ("Remove this column: each layer loses a quarter of its kernels", _pair(row=None, column=None)),
        ("Rank the next layer's filters: independent counts the removed column, greedy leaves it out", _ranking),
    ]


def _pair(row: str | None = BLUE, column: str | None = BLUE) -> Draw:
    """Two layers with the batch norm and the maps between; the smallest filter and what reads its map in colours of their own."""

    def draw(ax: plt.Axes) -> None:
        bottom = 1.6
        here = shapes.cells(
            ax, (1.1, bottom), _coloured(HERE, row=row), size=SIZE, texts=_texts(HERE, row is None), name="layer i"
        )
        for place, norm in enumerate(HERE.sum(1)):
            y = here.bottom + (len(HERE) - 0.5 - place) * SIZE
            shapes.write(ax, (0.5, y), str(place + 1))
            if not (row is None and place == SMALLEST):
                shapes.write(ax, (5.4, y), str(norm))
        shapes.write(ax, (5.4, here.top[1] + 0.55), "s")
        for left, name, colour in ((7.4, "batch norm", ORANGE), (10.9, "maps", GREEN)):
            colours = [[row if place == SMALLEST and row != BLUE else colour] for place in range(len(HERE))]
            shapes.cells(ax, (left, bottom), colours, size=SIZE, name=name)
        texts = [["" if column is None and i == SMALLEST else str(v) for i, v in enumerate(line)] for line in NEXT]
        there = shapes.cells(
            ax, (14.2, bottom + SIZE / 2), _coloured(NEXT, column=column), size=SIZE, texts=texts, name="layer i + 1"
        )
        for place in range(len(HERE)):
            shapes.write(ax, (there.left + (place + 0.5) * SIZE, there.bottom - 0.5), str(place + 1))
        for start, end in ((6.0, 7.3), (8.7, 10.8), (12.2, 14.1)):
            shapes.arrow(ax, (start, there.left_side[1]), (end, there.left_side[1]))
        kernels = HERE.size + NEXT.size - (row is None) * HERE.shape[1] - (column is None) * len(NEXT)
        shapes.write(ax, (0.3, 0.5), f"{kernels} kernels in both layers", align="left")

    return draw


def _ranking(ax: plt.Axes) -> None:
    """The next layer, and both sums of each of its filters."""
    left = np.delete(NEXT, SMALLEST, axis=1)
    texts = [["" if i == SMALLEST else str(v) for i, v in enumerate(line)] for line in NEXT]
    grid = shapes.cells(ax, (0.4, 2.2), _coloured(NEXT, column=None), size=SIZE, texts=texts, name="layer i + 1")
    for x, name, kernels in ((9.0, "independent", NEXT), (16.0, "greedy", left)):
        sums = kernels.sum(1)
        shapes.write(ax, (x, grid.top[1] + 0.55), name)
        for place, line in enumerate(kernels):
            y = grid.bottom + (len(NEXT) - 0.5 - place) * SIZE
            colour = VERMILION if place == sums.argmin() else INK
            shapes.write(ax, (x, y), f"{' + '.join(map(str, line))} = {sums[place]}", colour=colour)
    shapes.write(ax, (0.4, 0.8), "Vermilion: the smallest sum, which is removed.", align="left")


def _coloured(kernels: np.ndarray, **marked: str | None) -> list[list[str | None]]:
    """Blue cells, of which the row or the column of the smallest filter has another colour."""
    colours = np.full(kernels.shape, BLUE, dtype=object)
    for axis, colour in marked.items():
        colours[(SMALLEST, slice(None)) if axis == "row" else (slice(None), SMALLEST)] = colour
    return colours.tolist()


def _texts(kernels: np.ndarray, gone: bool) -> list[list[str]]:
    return [["" if gone and place == SMALLEST else str(value) for value in line] for place, line in enumerate(kernels)]


def residual_drawing() -> plt.Figure:
    """Draw two residual blocks of one stage: which layers can be cut alone, and which a sum ties together."""
    fig, ax = shapes.canvas(10.6, "What a sum ties together, in one stage of a ResNet")
    low, high, middle = 4.2, 9.0, 6.6
    sums = [(9.7, middle), (19.2, middle)]
    shapes.arrow(ax, (0.1, middle), (0.9, middle))
    for start, end, shortcut in ((0.9, 9.1, True), (10.3, 18.6, False)):
        _route(ax, [(start, middle), (start, high), (end + 0.6, high), (end + 0.6, middle + 0.6)], "identity" * (not shortcut))
        _route(ax, [(start, middle), (start, low), (end + 0.6, low), (end + 0.6, middle - 0.6)])
    for x, name, colour in ((3.2, "conv1", GREEN), (7.0, "conv2", ORANGE), (12.6, "conv1", GREEN), (16.4, "conv2", ORANGE)):
        _layer(ax, (x, low), name, colour, 2.6)
    _layer(ax, (5.2, high), "projection", ORANGE, 4.4)
    for place in sums:
        ax.add_patch(Circle(place, 0.6, facecolor="none", edgecolor=INK, linewidth=1.5))
        shapes.write(ax, place, "+")
    for x, name in ((5.2, "block 0"), (14.5, "block 1")):
        shapes.write(ax, (x, middle), name)
    shapes.write(ax, (0.3, 2.3), "Green: cut alone, because only conv2 reads it.", align="left")
    shapes.write(ax, (0.3, 1.4), "Orange: added up channel by channel, so cut", align="left")
    shapes.write(ax, (0.3, 0.5), "together; the norms of the projection choose.", align="left")
    return fig


def _layer(ax: plt.Axes, centre: shapes.Point, name: str, colour: str, width: float) -> None:
    ax.add_patch(plt.Rectangle((centre[0] - width / 2, centre[1] - 0.75), width, 1.5, facecolor=colour, zorder=2))
    shapes.write(ax, centre, name, colour="white")


def _route(ax: plt.Axes, corners: Sequence[shapes.Point], text: str = "") -> None:
    """A line around corners that ends in an arrow; a text above its longest part."""
    ax.plot(*zip(*corners[:-1], strict=True), color=INK, linewidth=1.3, zorder=1)
    shapes.arrow(ax, corners[-2], corners[-1])
    if text:
        shapes.write(ax, ((corners[1][0] + corners[2][0]) / 2, corners[1][1] + 0.55), text)
