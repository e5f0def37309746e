"""Panels: a picture that answers, its text, and what is left of them in a file."""

import re

import ipywidgets
import pytest

from course_lib.desk.stills import WIDGET, without_widgets
from course_lib.notebook import panels, plots


@pytest.fixture
def panel():
    plots.use_style()

    def view(chosen: dict):
        return plots.bars({"a": chosen["bits"]}, title=f"{2 ** chosen['bits']} values", ylabel="bits")

    bits = ipywidgets.IntSlider(3, min=1, max=8, description="bits per code")
    share = ipywidgets.FloatSlider(0.5, description="kept")
    return panels.panel({"bits": bits, "share": share}, view)


def alt(element: str) -> str:
    return re.search(r'<img alt="([^"]*)"', element)[1]


def test_a_moved_control_redraws_picture_and_text(panel):
    bits, _, picture = panel.children
    before = picture.value
    assert alt(before) == "Panel at bits per code 3, kept 0.5. 8 values."
    bits.value = 4
    assert alt(picture.value) == "Panel at bits per code 4, kept 0.5. 16 values."
    assert picture.value != before


def test_a_file_keeps_the_picture_and_how_to_play(panel):
    data, metadata = panel._repr_mimebundle_()
    assert WIDGET in data and metadata["image/png"]["alt"] == data["text/plain"] == alt(data["text/html"])
    cell = {"cell_type": "code", "outputs": [{"output_type": "execute_result", "data": dict(data)}]}
    (kept,) = without_widgets({"metadata": {"widgets": {}}, "cells": [cell]})["cells"][0]["outputs"]
    assert kept["data"] == {kind: data[kind] for kind in ("text/html", "image/png", "text/plain")}
    assert kept["data"]["text/html"].endswith(f"<p>{panels.HOW_TO_PLAY}</p>")


def test_a_file_keeps_nothing_of_a_progress_bar():
    bar = {"output_type": "display_data", "data": {WIDGET: {"model_id": "1"}, "text/plain": " 33%|##    | 1/3"}}
    printed = {"output_type": "stream", "name": "stdout", "text": "done\n"}
    text = {"cell_type": "markdown", "source": "text"}
    made = without_widgets({"metadata": {}, "cells": [text, {"cell_type": "code", "outputs": [bar, printed]}]})
    assert made["cells"] == [text, {"cell_type": "code", "outputs": [printed]}]
