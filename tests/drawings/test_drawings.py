"""Every schematic: its texts lie inside it and apart from each other, and its colours are the course's."""

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Patch
from matplotlib.text import Text

from course_lib import drawings
from course_lib.drawings import shapes
from course_lib.notebook import pictures, plots

GROUND = {"white", "none"}  # of text in cells


def drawn() -> Iterator[tuple[str, Callable[[], plt.Figure]]]:
    """All functions of the package that return a drawing: those that take nothing and return a figure."""
    for module in pkgutil.iter_modules(drawings.__path__):
        found = importlib.import_module(f"course_lib.drawings.{module.name}")
        for name, function in inspect.getmembers(found, inspect.isfunction):
            signature = inspect.signature(function)
            if function.__module__ == found.__name__ and not signature.parameters and signature.return_annotation is plt.Figure:
                yield f"{module.name}.{name}", function


DRAWINGS = dict(drawn())


@pytest.fixture
def figure(request) -> Iterator[plt.Figure]:
    plots.use_style()
    fig = DRAWINGS[request.param]()
    pictures.fit(fig)
    yield fig
    plt.close(fig)


every = pytest.mark.parametrize("figure", DRAWINGS, indirect=True)


def boxes(fig: plt.Figure) -> dict[str, tuple[float, float, float, float]]:
    """Text -> left, bottom, right, top of what is written, in inches."""
    renderer = fig.canvas.get_renderer()
    written = [text for text in fig.findobj(Text) if text.get_text().strip()]
    return {
        f"{place} {text.get_text()}": tuple(text.get_window_extent(renderer).extents / fig.dpi)
        for place, text in enumerate(written)
    }


@every
def test_texts_lie_inside(figure):
    width, height = figure.get_size_inches()
    for text, (left, bottom, right, top) in boxes(figure).items():
        assert left >= 0 and bottom >= 0 and right <= width and top <= height, text


@every
def test_texts_lie_apart(figure):
    for (one, a), (other, b) in itertools.combinations(boxes(figure).items(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, other)


@every
def test_colours_are_the_courses(figure):
    allowed = {to_hex(colour) for colour in (*plots.COLOURS, plots.INK)}
    for patch in figure.findobj(Patch):
        for colour in (patch.get_facecolor(), patch.get_edgecolor()):
            if colour[3] > 0 and patch is not figure.patch and patch not in [ax.patch for ax in figure.axes]:
                assert to_hex(colour[:3]) in allowed, colour


@every
def test_drawings_are_light(figure):
    assert len(pictures.svg(figure)) < 100_000


def test_a_text_outside_and_two_on_each_other_are_found():
    fig, ax = shapes.canvas(4)
    shapes.write(ax, (19.5, 2), "a text that runs out of the picture")
    shapes.write(ax, (19.5, 2.2), "another")
    found = boxes(fig)
    assert max(box[2] for box in found.values()) > fig.get_size_inches()[0]
    a, b = found.values()
    assert not (a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1])
    plt.close(fig)


def test_area_is_magnitude():
    import numpy as np

    fig, ax = shapes.canvas(4)
    shapes.weights(ax, (0, 0), np.array([[4.0, -1.0]]), size=2)
    squares = [patch for patch in ax.patches if patch.get_facecolor()[3]]
    areas = [square.get_width() * square.get_height() for square in squares]
    assert areas[0] == pytest.approx(4 * areas[1])
    assert [to_hex(square.get_facecolor()) for square in squares] == [plots.BLUE.lower(), plots.ORANGE.lower()]
    plt.close(fig)
