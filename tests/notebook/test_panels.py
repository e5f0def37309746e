"""Panels: what a moved control changes and what it leaves alone, their memory and goal, and what is left of them in a file."""

import base64
import math
import re

import ipywidgets
import matplotlib.pyplot as plt
import pytest

from course_lib.desk.stills import WIDGET, without_widgets
from course_lib.notebook import panels, plots
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, accuracy_axis, canvas, in_words

SIZE, SCORE = Axis("bits", (1, 2, 4, 8)), Axis("accuracy (%)", (0, 90, 99), whole=100)
GOAL = Goal("at most 4 bits with 90 % accuracy", 4, 90)


class Toy:
    """A panel over bits and a share that does not apply to one bit; keeps the settings measured and the figures drawn."""

    def __init__(self):
        plots.use_style()
        self.measured, self.drawn = [], []
        bits = ipywidgets.IntSlider(3, min=1, max=8, description="bits per code")
        share = ipywidgets.FloatSlider(0.5, min=0.0, max=1.0, description="kept")
        place = (0.1, 0.2, 0.8, 0.5)
        self.panel = panels.Panel(
            dict(bits=bits, share=share), self.measure, self.draw, GOAL, Memory(SIZE, SCORE, GOAL, ways=("many", "few")),
            idle=lambda setting: ["share"] if setting["bits"] == 1 else [], over=dict(share=place),
        )  # fmt: skip

    def measure(self, setting: dict) -> Measured:
        self.measured.append(setting)
        bits, share = setting["bits"], setting["share"] or 0
        return Measured(bits, 100 * share, f"{bits} bits < {share:.0%}.", dict(bits=bits), "many" if bits > 2 else "few")

    def draw(self, now: Measured, before: Measured | None) -> plt.Figure:
        fig, ax = canvas(2, (0.1, 0.2, 0.8, 0.5))
        ax.bar(["now", "before"], [now.size, before.size if before else 0])
        ax.set(ylim=(0, 8))
        self.drawn.append((now, before))
        return fig

    def set(self, **values) -> None:
        for name, value in values.items():
            self.panel.controls[name].value = value


@pytest.fixture
def toy() -> Toy:
    return Toy()


def alt(element: str) -> str:
    return re.search(r'<img alt="([^"]*)"', element)[1]


def picture(element: str) -> str:
    return base64.b64decode(re.search(r"base64,([\w+/=]+)", element)[1]).decode()


def dots(panel: panels.Panel) -> list[tuple[str, str]]:
    """Centres of the dots of a panel's memory."""
    return re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="3.5"', picture(panel.dots.value))


def test_a_moved_control_changes_picture_text_and_readout(toy):
    panel = toy.panel
    assert alt(panel.picture.value) == "Panel at bits per code 3, kept 0.5. 3 bits &lt; 50%."
    assert panel.readout.value == '<div role="status">3 bits &lt; 50%.</div>'
    before = panel.picture.value
    toy.set(bits=4)
    assert alt(panel.picture.value).startswith("Panel at bits per code 4, kept 0.5.") and panel.picture.value != before
    assert "4 bits" in panel.readout.value
    assert "course-panel" in panel._dom_classes and "course-readout" in panel.readout._dom_classes


def test_the_setting_before_is_drawn_beside_the_present_one(toy):
    toy.set(bits=4)
    toy.set(share=0.75)
    assert [(now.size, before and before.size) for now, before in toy.drawn] == [(3, None), (4, 3), (4, 4)]


def test_each_setting_is_measured_once_and_leaves_one_dot(toy):
    for bits in (4, 3, 4, 5, 3):
        toy.set(bits=bits)
    assert [setting["bits"] for setting in toy.measured] == [3, 4, 5]
    assert len(dots(toy.panel)) == 3
    assert "3 settings tried" in alt(toy.panel.dots.value) and "many 5, 50" in alt(toy.panel.dots.value)


def test_a_control_that_does_not_apply_is_disabled_and_makes_no_new_setting(toy):
    toy.set(bits=1)
    assert toy.panel.controls["share"].disabled and toy.measured[-1] == dict(bits=1, share=None)
    assert "kept" not in alt(toy.panel.picture.value)
    toy.set(share=0.75)
    assert len(toy.measured) == 2
    toy.set(bits=2)
    assert not toy.panel.controls["share"].disabled and len(toy.measured) == 3


def test_a_goal_that_is_reached_stays_reached(toy):
    assert "90 % accuracy: not reached yet in 1 try." in toy.panel.aim.value
    toy.set(bits=8)
    toy.set(share=1.0)
    assert "not reached yet in 3 tries" in toy.panel.aim.value
    toy.set(bits=4)
    assert "accuracy: reached in 4 tries." in toy.panel.aim.value
    toy.set(bits=8)
    toy.set(bits=7)
    assert "accuracy: reached in 4 tries." in toy.panel.aim.value


def test_a_slider_over_the_picture_lies_where_the_axes_do(toy):
    layout = toy.panel.controls["share"].layout
    assert (layout.left, layout.bottom, layout.width, layout.height) == ("10.00%", "20.00%", "80.00%", "50.00%")
    stage = next(child for child in toy.panel.children if "course-stage" in child._dom_classes)
    assert stage.children == (toy.panel.picture, toy.panel.controls["share"])


def test_dots_lie_on_logarithmic_axes_and_at_their_ends_beyond_these():
    assert [SIZE.place(bits) for bits in (1, 2, 4, 8, 100, 0)] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 0])
    assert [SCORE.place(accuracy) for accuracy in (0, 90, 99, 100)] == pytest.approx([0, 0.5, 1, 1])


def test_a_dot_lies_on_the_tick_of_its_value():
    plots.use_style()
    memory = Memory(SIZE, SCORE, GOAL, ways=list("abcd"), paper=(2, 90, "paper"))
    drawn = memory.svg([Measured(2, 90, "")], Measured(math.nan, 90, ""))
    (found,) = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)  # no ring: nothing is known of the present setting
    marks = re.findall(r'<use xlink:href="#(\w+)" x="([\d.]+)" y="([\d.]+)" style="[^"]*stroke: #666666', drawn)  # of the ticks
    below, beside, *_ = dict.fromkeys(mark for mark, _, _ in marks)
    assert found[0] == [f"{float(x):.1f}" for mark, x, _ in marks if mark == below][1]  # 2 is the second of the ticks 1, 2, 4, 8
    assert found[1] == [f"{float(y):.1f}" for mark, _, y in marks if mark == beside][1]  # and 90 that of 0, 90, 99
    assert all(f">{way}</text>" in drawn for way in "abcd")


def test_a_goal_is_a_corner_and_what_else_it_says():
    assert GOAL.met(Measured(4, 90, "")) and not GOAL.met(Measured(5, 90, "")) and not GOAL.met(Measured(4, 89, ""))
    assert not GOAL.met(Measured(math.nan, math.nan, ""))
    assert not GOAL._replace(also=lambda found: found.way == "few").met(Measured(4, 90, "", way="many"))


def test_an_accuracy_is_told_beside_the_whole_networks():
    assert in_words(97.94, 98.34, 2000) == "97.9 % accuracy on 2,000 images (0.4 points lost)."
    assert in_words(98.5, 98.0, 200) == "98.5 % accuracy on 200 images (0.5 points gained)."


def test_a_file_keeps_the_picture_and_how_to_play(toy):
    data, metadata = toy.panel._repr_mimebundle_()
    assert WIDGET in data and metadata["image/png"]["alt"] == data["text/plain"] == alt(data["text/html"]).replace("&lt;", "<")
    cell = {"cell_type": "code", "outputs": [{"output_type": "execute_result", "data": dict(data)}]}
    (kept,) = without_widgets({"metadata": {"widgets": {}}, "cells": [cell]})["cells"][0]["outputs"]
    assert kept["data"] == {kind: data[kind] for kind in ("text/html", "image/png", "text/plain")}
    assert kept["data"]["text/html"].startswith(f"<p>Goal: {GOAL.words}.</p><img ")
    assert kept["data"]["text/html"].endswith(f"<p>3 bits &lt; 50%.</p><p>{panels.HOW_TO_PLAY}</p>")


def test_a_file_keeps_nothing_of_a_progress_bar():
    bar = {"output_type": "display_data", "data": {WIDGET: {"model_id": "1"}, "text/plain": " 33%|##    | 1/3"}}
    printed = {"output_type": "stream", "name": "stdout", "text": "done\n"}
    text = {"cell_type": "markdown", "source": "text"}
    made = without_widgets({"metadata": {}, "cells": [text, {"cell_type": "code", "outputs": [bar, printed]}]})
    assert made["cells"] == [text, {"cell_type": "code", "outputs": [printed]}]


@pytest.mark.parametrize(("best", "last"), [(50, 80), (91.9, 95), (99.2, 99.5), (100, 99.9)])
def test_an_axis_of_accuracies_reaches_beyond_the_best(best, last):
    assert accuracy_axis(best).ticks[0] == 10 and accuracy_axis(best).ticks[-1] == last
