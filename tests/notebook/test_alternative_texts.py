"""Every figure of every committed notebook has a text for those who cannot see it, and no two have the same."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from course_lib.commands.execute import NOTEBOOKS

COMMITTED = sorted(NOTEBOOKS.glob("*.ipynb"))
ALT = re.compile(r'<img\b[^>]*\balt="([^"]*)"')


def texts(notebook: NotebookNode) -> Iterator[tuple[int, str]]:
    """Number of a cell and the alternative text of each figure that it shows."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            pictures = re.findall(r"<img\b[^>]*>|<svg\b", data.get("text/html", ""))
            if pictures:
                yield from ((number, html.unescape(alt[1]) if (alt := ALT.match(one)) else "") for one in pictures)
            elif {"image/png", "image/jpeg", "image/svg+xml"} & data.keys():
                yield number, next((one["alt"] for one in output.metadata.values() if "alt" in one), "")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_figure_has_a_text_of_its_own(path: Path):
    found = list(texts(nbformat.read(path, as_version=4)))
    assert found
    bare = [number for number, alt in found if len(alt.split()) < 4]
    assert not bare, f"{path.name}: no text that tells what the figure of these cells shows: {bare}"
    twice = [alt for alt in {alt for _, alt in found} if sum(alt == other for _, other in found) > 1]
    assert not twice, f"{path.name}: the text of several figures: {twice}"


@pytest.mark.parametrize(
    ("data", "metadata", "expected"),
    [
        ({"text/html": '<img alt="Bars &amp; lines" src="data:,">', "image/png": "x"}, {}, ["Bars & lines"]),
        ({"text/html": '<p>a</p><img src="data:,">'}, {}, [""]),
        ({"text/html": "<svg></svg>"}, {}, [""]),
        ({"image/png": "x"}, {"image/png": {"alt": "Bars"}}, ["Bars"]),
        ({"image/svg+xml": "<svg/>"}, {}, [""]),
        ({"text/html": "<table></table>"}, {}, []),
    ],
)
def test_the_text_of_a_figure_is_found(data, metadata, expected):
    output = new_output("display_data", data=data, metadata=metadata)
    notebook = new_notebook(cells=[new_code_cell("1", outputs=[output])])
    assert list(texts(notebook)) == [(0, alt) for alt in expected]
