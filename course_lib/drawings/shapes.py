"""The shapes of the schematics: matrices of cells, feature maps, boxes and arrows, in the colours of the course."""

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import FancyBboxPatch, Rectangle

from course_lib.notebook.plots import BLUE, INK, ORANGE, TEXT, WIDTH

LETTERS = 52  # of a title in a line
ACROSS = 20  # units of a drawing's width; one is a quarter of an inch, and a line of text is 0.65 of it high
Point = tuple[float, float]


def canvas(height: float, title: str = "") -> tuple[plt.Figure, plt.Axes]:
    """Return an empty figure without axes, `ACROSS` units wide; the origin is its lower left corner."""
    fig, (ax,) = _frames(height, [title])
    return fig, ax


def _frames(height: float, titles: Sequence[str]) -> tuple[plt.Figure, list[plt.Axes]]:
    """A figure of places to draw on below each other, each with room for its title."""
    unit, line = WIDTH / ACROSS, 0.21  # inches
    titles = [textwrap.fill(title, LETTERS) for title in titles]
    above = [line * (title.count("\n") + 1) + 0.08 if title else 0.0 for title in titles]
    total = len(titles) * height * unit + sum(above)
    # Not "none", which is None: after saving a figure, matplotlib puts back what None stands for, the style's own layout
    fig = plt.figure(figsize=(WIDTH, total), layout=PlaceHolderLayoutEngine(True, False))
    axes, top = [], total
    for title, room in zip(titles, above, strict=True):
        ax = fig.add_axes((0, (top - room - height * unit) / total, 1, height * unit / total))
        ax.set(xlim=(0, ACROSS), ylim=(0, height))
        ax.axis("off")
        ax.text(0.1, height + 0.2, title, va="bottom", ha="left", fontsize=TEXT + 1, color=INK)
        axes.append(ax)
        top -= room + height * unit
    return fig, axes


class Grid(NamedTuple):
    """Where a matrix of cells was drawn."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def right_side(self) -> Point:
        return self.left + self.width, self.bottom + self.height / 2

    @property
    def left_side(self) -> Point:
        return self.left, self.bottom + self.height / 2

    @property
    def top(self) -> Point:
        return self.left + self.width / 2, self.bottom + self.height

    @property
    def foot(self) -> Point:
        return self.left + self.width / 2, self.bottom


def cells(
    ax: plt.Axes,
    corner: Point,
    colours: Sequence[Sequence[str | None]],
    *,
    size: float = 1.0,
    texts: Sequence[Sequence[str]] | None = None,
    name: str = "",
) -> Grid:
    """Draw a matrix of cells and return where it is.

    Args:
        ax: from `canvas`.
        corner: lower left corner of the matrix.
        colours: of each cell, row by row from the top; None is a cell that is gone, a dashed outline.
        size: of a cell, in units.
        texts: written into the cells.
        name: written above the matrix.
    """
    rows, columns = len(colours), max(map(len, colours))
    left, bottom = corner
    for row, line in enumerate(colours):
        for column, colour in enumerate(line):
            x, y = left + column * size, bottom + (rows - 1 - row) * size
            _cell(ax, x, y, size, colour)
            if texts and texts[row][column]:
                write(ax, (x + size / 2, y + size / 2), texts[row][column], colour="white" if colour else INK)
    grid = Grid(left, bottom, columns * size, rows * size)
    if name:
        write(ax, (grid.top[0], grid.top[1] + 0.55), name)
    return grid


def _cell(ax: plt.Axes, x: float, y: float, size: float, colour: str | None) -> None:
    gap = 0.06 * size
    look = dict(facecolor="none", edgecolor=INK, linestyle=":") if colour is None else dict(facecolor=colour, edgecolor="none")
    ax.add_patch(Rectangle((x + gap, y + gap), size - 2 * gap, size - 2 * gap, linewidth=1, **look))


def weights(
    ax: plt.Axes, corner: Point, values: np.ndarray, *, size: float = 1.0, kept: np.ndarray | None = None, name: str = ""
) -> Grid:
    """Draw a matrix of weights as squares whose area is their magnitude: blue is positive, orange is negative.

    Args:
        ax: from `canvas`.
        corner: lower left corner of the matrix.
        values: (rows, columns).
        size: of a cell, in units.
        kept: mask of `values`; a pruned weight is a dashed cell.
        name: written above the matrix.
    """
    rows, columns = values.shape
    left, bottom = corner
    largest = np.abs(values).max()
    for (row, column), value in np.ndenumerate(values):
        x, y = left + (column + 0.5) * size, bottom + (rows - row - 0.5) * size
        if kept is not None and not kept[row, column]:
            _cell(ax, x - size / 2, y - size / 2, size, None)
            continue
        side = 0.9 * size * np.sqrt(abs(value) / largest)
        ax.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, facecolor=BLUE if value > 0 else ORANGE))
    ax.add_patch(Rectangle((left, bottom), columns * size, rows * size, facecolor="none", edgecolor=INK, linewidth=1))
    grid = Grid(left, bottom, columns * size, rows * size)
    if name:
        write(ax, (grid.top[0], grid.top[1] + 0.55), name)
    return grid


def maps(ax: plt.Axes, corner: Point, colours: Sequence[str | None], *, size: float = 2.0, name: str = "") -> Grid:
    """Draw the feature maps of a layer as a stack of sheets, the first in front; None is a map that is gone."""
    left, bottom = corner
    step = 0.45
    for place, colour in reversed(list(enumerate(colours))):
        x, y = left + place * step, bottom + place * step
        gone = dict(facecolor="none", linestyle=":", edgecolor=INK)
        ax.add_patch(Rectangle((x, y), size, size, linewidth=1, **(dict(facecolor=colour, edgecolor=INK) if colour else gone)))
    reach = size + step * (len(colours) - 1)
    grid = Grid(left, bottom, reach, reach)
    if name:
        write(ax, (grid.top[0], grid.top[1] + 0.55), name)
    return grid


def box(ax: plt.Axes, centre: Point, text: str, *, width: float, height: float = 1.4, colour: str = INK) -> Grid:
    """Draw a box with a text in it and return where it is."""
    left, bottom = centre[0] - width / 2, centre[1] - height / 2
    ax.add_patch(
        FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.25", facecolor="none",
                       edgecolor=colour, linewidth=1.5)
    )  # fmt: skip
    write(ax, centre, text)
    return Grid(left, bottom, width, height)


def arrow(ax: plt.Axes, start: Point, end: Point, text: str = "", *, colour: str = INK) -> None:
    """Draw an arrow, with a text above its middle."""
    ax.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=colour, linewidth=1.3, shrinkA=3, shrinkB=3))
    if text:
        write(ax, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.5), text)


def write(ax: plt.Axes, place: Point, text: str, *, colour: str = INK, align: str = "center") -> None:
    """Write a text around a place."""
    ax.text(*place, text, ha=align, va="center", fontsize=TEXT, color=colour)


def film_strip(frames: Sequence[tuple[str, Callable[[plt.Axes], None]]], height: float) -> plt.Figure:
    """Return all frames of a moving picture below each other, each under its caption, for those who read and do not play.

    Args:
        frames: caption, and the function that draws the frame on axes of `ACROSS` x `height` units.
        height: of a frame, in units.
    """
    fig, axes = _frames(height, [f"{number}. {caption}" for number, (caption, _) in enumerate(frames, start=1)])
    for ax, (_, draw) in zip(axes, frames, strict=True):
        draw(ax)
    return fig
