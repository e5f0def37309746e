"""Why a network is compressed, drawn: how often a weight is used, what takes longer, and what each paper removes."""

from collections.abc import Callable

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from course_lib.drawings import shapes
from course_lib.notebook.plots import BLUE, GREEN, ORANGE, PURPLE, SKY

RATE, BANDWIDTH = 50e9, 25e9  # MACs and bytes per second of the machine in `frames`
FC7 = 4096 * 4096  # weights, and MACs for one image
CONV5_3 = 512 * 512 * 9
PLACES = 14 * 14  # of conv5_3's kernels on their map
LANE = 4.0  # height of a frame


def reuse() -> plt.Figure:
    """Draw where one weight of a dense layer and one of a convolution is used for a single image."""
    fig, ax = shapes.canvas(14.4, "How often is a weight used for one image?")
    _dense(ax, 8.6)
    _convolution(ax, 1.0)
    return fig


def _dense(ax: plt.Axes, bottom: float) -> None:
    """A matrix times a vector, and the single product in which the marked weight takes part."""
    marked = [[ORANGE if (row, column) == (1, 2) else BLUE for column in range(4)] for row in range(4)]
    weights = shapes.cells(ax, (0.6, bottom), marked, name="weights")
    inputs = shapes.cells(ax, (6.4, bottom), [[ORANGE if row == 2 else SKY] for row in range(4)], name="input")
    outputs = shapes.cells(ax, (10.0, bottom), [[ORANGE if row == 1 else GREEN] for row in range(4)], name="output")
    shapes.write(ax, ((weights.right_side[0] + inputs.left) / 2, bottom + 2), "x")
    shapes.write(ax, ((inputs.right_side[0] + outputs.left) / 2, bottom + 2), "=")
    for line, text in enumerate(("A dense layer:", "the orange weight", "meets 1 input.", "1 multiplication.")):
        shapes.write(ax, (12.6, bottom + 3.4 - 0.95 * line), text, align="left")


def _convolution(ax: plt.Axes, bottom: float) -> None:
    """A kernel that slides over a map, and all the places that the marked weight meets."""
    kernel = [[ORANGE if (row, column) == (0, 1) else BLUE for column in range(3)] for row in range(3)]
    met = [[ORANGE if row < 4 and 1 <= column < 5 else SKY for column in range(6)] for row in range(6)]
    kernel = shapes.cells(ax, (1.0, bottom + 1.0), kernel, size=0.8, name="3x3 weights")
    met = shapes.cells(ax, (4.9, bottom), met, size=0.7, name="input map")
    made = shapes.cells(ax, (10.6, bottom + 0.7), [[ORANGE] * 4] * 4, size=0.7, name="output map")
    shapes.arrow(ax, (kernel.right_side[0], met.left_side[1]), met.left_side)
    shapes.arrow(ax, met.right_side, made.left_side)
    for line, text in enumerate(("A convolution:", "the orange", "weight meets", "16 inputs.")):
        shapes.write(ax, (14.6, bottom + 3.5 - 0.95 * line), text, align="left")


def lanes() -> plt.Figure:
    """Draw how long the memory and the arithmetic of a machine are busy with fc7 and conv5_3, for more and more images."""
    return shapes.film_strip(frames(), LANE)


def frames() -> list[tuple[str, Callable[[plt.Axes], None]]]:
    """Return caption and drawing of each frame of `lanes`."""
    return [
        ("conv5_3, 1 image: computing takes longer", _lanes(CONV5_3, CONV5_3 * PLACES, 2 * 512 * PLACES, 1)),
        ("fc7, 1 image: reading the weights takes longer", _lanes(FC7, FC7, 2 * 4096, 1)),
        ("fc7, 8 images: both take almost equally long", _lanes(FC7, FC7, 2 * 4096, 8)),
        ("fc7, 32 images: computing takes longer", _lanes(FC7, FC7, 2 * 4096, 32)),
    ]


def _lanes(weights: int, macs: int, activations: int, images: int) -> Callable[[plt.Axes], None]:
    """A frame: a bar for the bytes and one for the MACs of a layer, each as long as it takes."""
    busy = {
        ("reading", "25 GB per s"): (4 * (weights + images * activations) / BANDWIDTH, SKY),
        ("computing", "50 G MACs per s"): (images * macs / RATE, ORANGE),
    }
    unit = 9.5 / 11e-3

    def draw(ax: plt.Axes) -> None:
        for ((name, limit), (seconds, colour)), bottom in zip(busy.items(), (2.3, 0.4), strict=True):
            shapes.write(ax, (0.2, bottom + 0.95), name, align="left")
            shapes.write(ax, (0.2, bottom + 0.15), limit, align="left")
            ax.add_patch(Rectangle((6.9, bottom), unit * seconds, 1.1, facecolor=colour))
            shapes.write(ax, (6.9 + unit * seconds + 0.2, bottom + 0.55), f"{1e3 * seconds:.1f} ms", align="left")

    return draw


def paper_map() -> plt.Figure:
    """Draw a filter, its map (a channel) and the column of weights that reads it, and where each paper looks to choose them."""
    fig, ax = shapes.canvas(16.0, "What the seven papers look at, and what they remove")
    size, middle, row = 1.1, 11.8, 1.1 / 2
    gong, han = (PURPLE, "01"), (None, "02")
    plain, marked = (BLUE, ""), (ORANGE, "")
    first = [[plain, han, plain], [gong, plain, gong], [(ORANGE, "04"), marked, marked], [(PURPLE, "05"), plain, (None, "05")]]
    one = _labelled(ax, (3.0, middle - 4 * row), first, "layer 1")
    maps = _labelled(ax, (7.7, middle - 4 * row), [[(SKY, "")], [(SKY, "")], [(ORANGE, "03")], [(SKY, "")]], "maps")
    two = _labelled(ax, (10.4, middle - 3 * row), [[plain, plain, marked, plain]] * 3, "layer 2")
    output = _labelled(ax, (16.9, middle - 3 * row), [[(GREEN, "06")], [(GREEN, "07")], [(GREEN, "")]], "output")
    for before, after in ((one, maps), (maps, two), (two, output)):
        shapes.arrow(ax, (before.right_side[0], middle), (after.left, middle))
    shapes.write(ax, (0.2, middle - row), "a filter", align="left")
    shapes.write(ax, (maps.foot[0], maps.bottom - 0.6), "a channel")
    shapes.write(ax, (two.left + 2.5 * size, two.bottom - 0.6), "a column")
    for line, text in enumerate(LEGEND):
        shapes.write(ax, (0.2, 7.6 - line), text, align="left")
    return fig


LEGEND = (
    "Orange: a filter, its map (a channel), and the column",
    "that reads it, removed together: fewer MACs.",
    "04 Li looks at the weights of the filter,",
    "03 Hu at the zeros in its map,",
    "06 He, 07 Luo at how far the output changes.",
    "Dotted: 02 Han removes single weights.",
    "Purple: 01 Gong gives weights, or runs of them, equal",
    "values. 05 Han does both. Fewer bytes, same shape.",
)


def _labelled(ax: plt.Axes, corner: shapes.Point, cells: list[list[tuple[str | None, str]]], name: str) -> shapes.Grid:
    """A matrix of cells, given as colour and text."""
    colours, texts = ([[cell[part] for cell in line] for line in cells] for part in (0, 1))
    return shapes.cells(ax, corner, colours, size=1.1, texts=texts, name=name)
