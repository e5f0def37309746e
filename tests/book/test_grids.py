"""Panels as plain data: the same numbers, words and pictures as the panel's own."""

import base64
import io
import itertools
import json
import re
from xml.etree import ElementTree

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from course_lib.book import grids, parts
from course_lib.drawings import vector_quantization as drawings
from course_lib.drawings.films import Film
from course_lib.notebook import pictures, plots
from course_lib.notebook.panels import Panel
from course_lib.notebook.plots import BLUE
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, canvas

PLACES = ((0.1, 0.6, 0.8, 0.3), (0.1, 0.1, 0.8, 0.3))


def measure(setting: dict) -> Measured:
    size = sum(setting[name] or 0 for name in ("a", "b")) + 1
    return Measured(size, 100 - size, f"{setting['way']}: {size:g} of 9 & <more>", dict(setting), setting["way"])


def draw(now: Measured, before: Measured | None) -> plt.Figure:
    """Two axes; each depends on its own slider, and on the way."""
    fig, axes = canvas(3.0, *PLACES)
    for ax, name in zip(axes, ("a", "b"), strict=True):
        value = now.detail[name] or 0
        ax.bar([value], [len(now.way)], color=BLUE)
        ax.plot([value, value], [0, 9])
        if before:
            assert before is not now
            ax.axvline(before.detail[name] or 0, linestyle="--")
        ax.set(xlim=(-1, 5), ylim=(0, 9), title=f"{name} is {value:g}")
    return fig


def panel(step: float = 2.0, over: bool = True) -> Panel:
    sliders = {name: ipywidgets.FloatSlider(2.0, min=0.0, max=4.0, step=step, description=name) for name in ("a", "b")}
    controls = sliders | {"way": ipywidgets.Dropdown(options=("long", "short"), description="way")}
    goal = Goal("be small", 3, 97)
    memory = Memory(Axis("size", (1, 9)), Axis("score", (50, 100)), goal, ways=("long", "short"))
    idle = (lambda setting: ()) if over else (lambda setting: ["b"] if setting["way"] == "short" else [])
    return Panel(controls, measure, draw, goal, memory, idle=idle, over=dict(zip(sliders, PLACES, strict=True)) if over else None)


def text(found: dict, *numbers: int) -> str:
    return "".join(found["pieces"][piece] for number in numbers for piece in found["parts"][number])


def composed(found: dict, numbers: list[int]) -> list[str]:
    """What is drawn in a picture that is put together, one by one."""
    return parts.leaves(list(ElementTree.fromstring(found["head"] + "<g>" + text(found, *numbers) + "</g></svg>"))[-1])


def drawn(svg: str) -> list[str]:
    return [leaf for elements in parts.Parts().split(svg).values() for leaf in parts.leaves(elements)]


@pytest.fixture(autouse=True)
def _style() -> None:
    plots.use_style()


def test_each_setting_has_the_numbers_words_and_picture_of_the_panel():
    shown = panel()
    found = json.loads(grids.dumped(grids.Grid(shown).packed()))
    settings = list(itertools.product((0, 2, 4), (0, 2, 4), ("long", "short")))
    assert len(found["numbers"]) == len(found["settings"]) == len(settings)
    for number, (a, b, way) in zip(found["numbers"], settings, strict=True):
        picture, _, said, dot, met, idle = found["settings"][number]
        now = measure(dict(a=a, b=b, way=way))
        assert text(found, said) == now.readout and met == shown.goal.met(now) and idle == []
        assert dot[:2] == pytest.approx(shown.memory.at(now), abs=0.05) and text(found, dot[2]) == shown.memory.colour(now)
    for number, setting in list(zip(found["numbers"], settings, strict=True))[::4]:
        fig = draw(measure(dict(zip(("a", "b", "way"), setting, strict=True))), None)
        assert composed(found, found["settings"][number][0]) == drawn(pictures.svg(fig))
        plt.close(fig)


def test_the_start_and_the_goal_are_those_of_the_panel():
    shown = panel()
    found = grids.Grid(shown).packed()
    assert [control["values"][control["start"]] for control in found["controls"]] == ["2", "2", "long"]
    assert [control.get("choice", False) for control in found["controls"]] == [False, False, True]
    assert found["goal"] == "be small" and found["memory"] + "</svg>" == shown.memory.empty
    assert found["controls"][0]["over"] == pytest.approx([10, 10, 80, 30])


def test_the_setting_before_is_what_only_it_adds():
    found = grids.Grid(panel()).packed()
    _, before, *_ = found["settings"][found["numbers"][0]]
    lines = text(found, *before)
    assert lines.count("<path") == 2 and lines.count("stroke-dasharray") == 2
    ElementTree.fromstring(found["head"] + lines + "</svg>")


def test_what_is_idle_makes_no_setting_of_its_own():
    found = grids.Grid(panel(over=False)).packed()
    assert (len(found["numbers"]), len(found["settings"])) == (18, 9 + 3)
    assert {tuple(setting[5]) for setting in found["settings"]} == {(), (1,)}


def test_larger_steps_keep_the_start_and_are_told(monkeypatch):
    monkeypatch.setattr(grids, "SETTINGS", 30)
    grid = grids.Grid(panel(step=0.1))
    assert [len(grid.chosen(name)) for name in grid.values] == [3, 5, 2] and 2.0 in grid.chosen("a")
    found = grid.packed()
    assert found["note"].endswith("in which a and b move in larger steps than in JupyterLab.")
    assert [control["values"][control["start"]] for control in found["controls"]] == ["2", "2", "long"]
    monkeypatch.setattr(grids, "LARGEST", len(grids.dumped(found).encode()) - 1)
    smaller = grids.Grid(panel(step=0.1)).packed()
    assert len(smaller["settings"]) < len(found["settings"])


def test_a_film_has_its_frames():
    film = Film(drawings.frames(), drawings.FRAME, "Four steps.")
    found = grids.film(film)
    assert len(found["settings"]) == len(drawings.frames()) == len(found["controls"][0]["values"])
    for place, (caption, _) in enumerate(drawings.frames()):
        picture, _, said, *_ = found["settings"][place]
        assert text(found, said) == f"Step {place + 1} of {len(drawings.frames())}: {caption}"
        page = base64.b64decode(grids.IMAGE.fullmatch(film.frames.children[place].value)[2]).decode()
        assert composed(found, picture) == drawn(page)


@pytest.mark.parametrize(
    "path", ["M 10 20 L 30 20 L 40 20 L 40 12.5 L 50 10 z", "M 0 0 L 1.04 0 L 2.08 0 L 2.08 3", "M 5 5 L 5 9 M 7 1 L 7.3 1"]
)
def test_a_shorter_path_leads_through_the_same_corners(path):
    def corners(text: str) -> list[tuple[float, float]]:
        x = y = 0.0
        found = []
        for command, numbers in re.findall(r"([MLlhvz])([-\d. ]*)", text):
            values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
            if command in "ML":
                x, y = values
            elif command != "z":
                x, y = x + (values[0] if command in "hl" else 0), y + (values[-1] if command in "vl" else 0)
            found.append((x, y))
        return found

    long, short = corners(path), corners(parts.shorter(path))
    assert all(min(np.hypot(x - u, y - v) for u, v in long) <= 0.08 for x, y in short)
    assert short[-1] == pytest.approx(long[-1], abs=0.08) and len(parts.shorter(path)) < len(path)


def test_pixels_keep_their_shape_and_lose_shades():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    picture[..., 3] = 102
    large = io.BytesIO()
    Image.fromarray(picture).save(large, "png")
    small, opacity = parts.fewer_colours(base64.b64encode(large.getvalue()).decode())
    again = Image.open(io.BytesIO(base64.b64decode(small)))
    assert again.size == (30, 20) and opacity == pytest.approx(0.4) and len(again.getcolors()) <= parts.COLOURS
