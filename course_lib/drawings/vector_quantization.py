"""How vector quantization works, drawn: one row coded step by step, what each method stores, and the shuffles of a matrix."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, COLOURS, GREEN, ORANGE, VERMILION

ROW = np.array([[7, 6], [1, -1], [-4, -3], [2, 5]])  # a row of eight weights, cut into four segments of two
CODEBOOKS = np.array(
    [
        [[8, 6], [1, 2], [-5, -4], [0, -6]],
        [[5, 5], [-6, 2], [0, -1], [2, -7]],
        [[6, 1], [-4, -4], [1, 0], [-1, 6]],
        [[-3, -2], [4, -5], [-6, 3], [2, 4]],
    ]
)  # (blocks, centroids, weights of a segment)
CODES = np.square(CODEBOOKS - ROW[:, None]).sum(2).argmin(1)
ROWS = 300  # of the matrix that shares these codebooks
FRAME = 6.6  # units
LEFT, STEP = 1.7, 4.7  # of the first block, and from block to block

Draw = Callable[[plt.Axes], None]


def frames() -> list[tuple[str, Draw]]:
    """Return caption and drawing of each step of product quantization, for one row."""
    return [
        ("Cut: the row becomes four segments of two weights", _cut),
        ("Look up: each block has its own codebook of four pairs; the number of the nearest pair is the code", _look_up),
        ("Rebuild: the codes' pairs, side by side, stand in for the row", _rebuild),
        (f"Count the bits: {ROWS} rows share one set of codebooks", _count),
    ]


def _cut(ax: plt.Axes) -> None:
    whole = shapes.cells(ax, (6, 4.2), _signs(ROW.reshape(1, 8)), texts=_texts(ROW.reshape(1, 8)), name="a row of W")
    for block in range(4):
        grid = _segment(ax, block, ROW[block], 0.9)
        shapes.arrow(ax, (whole.left + 1 + 2 * block, whole.bottom), grid.top)
        shapes.write(ax, (grid.foot[0], 0.4), f"block {block + 1}")


def _look_up(ax: plt.Axes) -> None:
    for block in range(4):
        _segment(ax, block, ROW[block], 5.4)
        left = LEFT + STEP * block
        for code, pair in enumerate(CODEBOOKS[block]):
            bottom = 4.0 - 0.95 * code
            _segment(ax, block, pair, bottom, size=0.9)
            shapes.write(ax, (left - 0.5, bottom + 0.45), str(code))
            if code == CODES[block]:
                ax.add_patch(Rectangle((left, bottom), 1.8, 0.9, facecolor="none", edgecolor=GREEN, linewidth=3))
        shapes.write(ax, (left + 0.6, 0.4), f"code {CODES[block]}")


def _rebuild(ax: plt.Axes) -> None:
    for block, code in enumerate(CODES):
        place = (LEFT + 1 + STEP * block, 5.9)
        shapes.box(ax, place, f"{code:02b}", width=1.8, height=1.1, colour=GREEN)
        grid = _segment(ax, block, CODEBOOKS[block, code], 2.9)
        shapes.arrow(ax, (place[0], 5.35), grid.top)
        _segment(ax, block, ROW[block], 0.2)
    shapes.write(ax, (LEFT, 2.3), "rebuilt, and below it the row as it was", align="left")


def _count(ax: plt.Axes) -> None:
    plain, codes, books = 32 * ROW.size * ROWS, 2 * len(CODES) * ROWS, 32 * CODEBOOKS.size
    unit = 19.4 / plain
    bars = [(f"plain: {ROWS} rows x {ROW.size} weights x 32 bits = {plain:,}", plain, BLUE)]
    bars += [(f"codes: {ROWS} rows x {len(CODES)} codes x 2 bits = {codes:,}", codes, GREEN)]
    bars += [(f"codebooks: 4 x 4 pairs x 2 x 32 bits = {books:,}", books, VERMILION)]
    for place, (text, bits, colour) in enumerate(bars):
        bottom = 5.0 - 1.75 * place
        ax.add_patch(Rectangle((0.3, bottom), bits * unit, 0.6, facecolor=colour))
        shapes.write(ax, (0.3, bottom + 1.05), text, align="left")
    shapes.write(ax, (0.3, 0.5), f"together {plain / (codes + books):.1f} times smaller than plain", align="left")


def _segment(ax: plt.Axes, block: int, pair: np.ndarray, bottom: float, size: float = 1.0) -> shapes.Grid:
    return shapes.cells(ax, (LEFT + STEP * block, bottom), _signs(pair[None]), texts=_texts(pair[None]), size=size)


def _signs(values: np.ndarray) -> list[list[str]]:
    return [[BLUE if value >= 0 else ORANGE for value in line] for line in values]


def _texts(values: np.ndarray) -> list[list[str]]:
    return [[str(value) for value in line] for line in values]


# method -> the matrices of cells that it stores, each (left, bottom, rows, columns, colour), and a caption
STORED = {
    "binarization (sign)": ([(0, 0, 8, 8, GREEN)], "one bit per weight"),
    "scalar k-means": ([(0, 0, 8, 8, GREEN), (9, 2, 4, 1, BLUE)], "one code per weight,\none list of k values"),
    "product (PQ)": (
        [(0, 0, 8, 4, GREEN), (5.5, 4.4, 4, 2, BLUE), (8.5, 4.4, 4, 2, BLUE), (5.5, -0.4, 4, 2, BLUE), (8.5, -0.4, 4, 2, BLUE)],
        "one code per segment,\nk short rows per block",
    ),
    "residual (RQ)": (
        [(0, 0, 8, 2, GREEN), (3.5, 4.4, 4, 8, BLUE), (3.5, -0.4, 4, 8, BLUE)],
        "one code per row and stage,\nk whole rows per stage",
    ),
    "factorization (SVD)": ([(0, 0, 8, 2, BLUE), (3.5, 3, 2, 8, BLUE)], "two thin matrices, no codes\n(and r singular values)"),
}


def stored_drawing() -> plt.Figure:
    """Draw what each of the five methods stores instead of an 8 x 8 matrix: floats in blue, codes in green."""
    fig, ax = shapes.canvas(21, "What each method stores instead of 8 x 8 weights")
    size = 0.38
    for place, (method, (stored, words)) in enumerate(STORED.items()):
        bottom = 17.4 - 3.95 * place
        for x, y, rows, columns, colour in stored:
            shapes.cells(ax, (0.4 + size * x, bottom + size * y), [[colour] * columns] * rows, size=size)
        shapes.write(ax, (6.8, bottom + 2.5), method, align="left")
        shapes.write(ax, (6.8, bottom + 1.0), words, align="left")
    shapes.write(ax, (0.4, 0.5), "Blue: numbers of 32 bits. Green: codes of a few bits.", align="left")
    return fig


def shuffles_drawing() -> plt.Figure:
    """Draw a matrix in its trained order and in five others: a colour is a trained row, a number a trained column."""
    draw = np.random.default_rng(1)
    row, column = np.indices((4, 8))
    segment = np.repeat(draw.permuted(np.tile(np.arange(4)[:, None], 4), axis=0), 2, axis=1)
    mixed = draw.permutation(32).reshape(4, 8)
    orders = {
        "trained": (row, column),
        "columns moved": (row, np.tile(draw.permutation(8), (4, 1))),
        "segments exchanged": (segment, column),
        "shuffled in rows": (row, draw.permuted(column, axis=1)),
        "shuffled in columns": (draw.permuted(row, axis=0), column),
        "shuffled": (mixed // 8, mixed % 8),
    }
    fig, ax = shapes.canvas(17.6, "Five ways to shuffle a matrix")
    for place, (name, (rows, columns)) in enumerate(orders.items()):
        corner = (0.6 + 10 * (place % 2), 12.3 - 5.6 * (place // 2))
        colours = [[COLOURS[index] for index in line] for line in rows]
        shapes.cells(ax, corner, colours, texts=_texts(columns + 1), name=name)
    shapes.write(ax, (0.6, 0.4), "Colour: the weight's own row. Number: its column.", align="left")
    return fig
