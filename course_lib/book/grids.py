"""A panel or a film as plain data: every setting of a coarse grid, measured and drawn by the panel's own functions."""

import base64
import html
import itertools
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.image import AxesImage

from course_lib.book.parts import Parts, leaves, serialized
from course_lib.drawings.films import PACE, Film
from course_lib.notebook import pictures
from course_lib.notebook.panels import Panel, Setting, told
from course_lib.notebook.tries import Measured, in_figures

LARGEST = 300_000  # bytes of a panel
DRAWN, SETTINGS = 200, 1000  # at most; drawing takes as long as measuring, or longer
STRIDES = (1, 2, 5, 10, 20, 50)
FINER = {  # where equal steps of this length miss the goal: what the sliders of a panel may be, by the module of its `measure`
    "course_lib.play.weight_pruning": (0.1, 0.4, 0.7, 1.0, 1.3, 1.6, 1.9, 2.2, 2.5, 2.8),
}
IMAGE = re.compile(r'<img alt="([^"]*)" src="data:image/svg\+xml;base64,([\w+/=]+)">')


class Grid:
    """The settings of a panel on a grid that is coarse enough to be computed beforehand."""

    def __init__(self, panel: Panel):
        self.panel, self.parts = panel, Parts()
        finer = FINER.get(getattr(panel.measure, "func", panel.measure).__module__)
        every = {name: values_of(control) for name, control in panel.controls.items()}
        self.values = {name: [value for value in values if value in (finer or values)] for name, values in every.items()}
        self.start = {name: self.values[name].index(control.value) for name, control in panel.controls.items()}
        self.strides = dict.fromkeys(self.values, 1)
        self.measured: dict[tuple, Measured] = {}
        self.drawn: dict[tuple, Any] = {}
        while not self._small():
            self.thin()

    def chosen(self, name: str) -> list:
        """Return the values of a control that the grid has: equal steps, among them the one it starts at."""
        stride = self.strides[name]
        return self.values[name][self.start[name] % stride :: stride]

    def thin(self) -> None:
        """Takes larger steps of the slider that has most values."""
        sliders = [name for name, control in self.panel.controls.items() if hasattr(control, "readout")]
        name = max(sliders, key=lambda name: len(self.chosen(name)))
        self.strides[name] = STRIDES[STRIDES.index(self.strides[name]) + 1]

    def _small(self) -> bool:
        counts = {name: len(self.chosen(name)) for name in self.values}
        settings = math.prod(counts.values())
        apart = [counts[name] for name in self.panel.over] if len(self.panel.over) > 1 else []
        drawn = settings // math.prod(apart) * (sum(apart) or 1)
        return (settings <= SETTINGS and drawn <= DRAWN) or not any(hasattr(c, "readout") for c in self.panel.controls.values())

    def packed(self) -> dict:
        """Return the grid as plain data, which is in no larger steps than `LARGEST` bytes ask for."""
        while True:
            self.parts, self.drawn = Parts(), {}
            found = self._packed()
            if len(dumped(found).encode()) <= LARGEST:
                return found
            self.thin()

    def _packed(self) -> dict:
        panel, numbers, settings = self.panel, [], {}
        for chosen in itertools.product(*(self.chosen(name) for name in self.values)):
            setting = dict(zip(self.values, chosen, strict=True))
            idle = panel.idle(setting)
            setting |= dict.fromkeys(idle)
            key = tuple(setting.values())
            if key not in settings:
                settings[key] = self._answer(setting, [list(setting).index(name) for name in idle])
            numbers.append(list(settings).index(key))
        memory = panel.memory
        return dict(
            controls=[self._control(name) for name in self.values],
            numbers=numbers,
            settings=list(settings.values()),
            goal=panel.goal.words,
            note=self._note(),
            memory=memory.empty.removesuffix("</svg>"),
            axes=f"{memory.size.label} against {memory.score.label}",
            **self.parts.packed(),
        )

    def _note(self) -> str:
        controls = self.panel.controls.items()
        larger = [control.description for name, control in controls if len(self.chosen(name)) < len(values_of(control))]
        if not larger:
            return "This page has no kernel: its panel answers from a table."
        steps = f"in which {_listed(larger)} in larger steps than in JupyterLab"
        return f"This page has no kernel: its panel answers from a table, {steps}."

    def _control(self, name: str) -> dict:
        control, values = self.panel.controls[name], self.chosen(name)
        found = dict(label=control.description, start=values.index(control.value), values=[shown(control, v) for v in values])
        if not hasattr(control, "readout"):
            return found | dict(choice=True)
        if name in self.panel.over:
            left, bottom, width, height = self.panel.over[name]
            first, last = ((value - control.min) / (control.max - control.min) for value in (values[0], values[-1]))
            sides = (left + first * width, 1 - bottom - height, (last - first) * width, height)
            found["over"] = [round(100 * side, 2) for side in sides]
        return found

    def _answer(self, setting: Setting, idle: list[int]) -> list:
        """What the script needs of a setting: picture, picture of it as the one before, readout, dot, goal, idle controls."""
        key = tuple(setting.values())
        if key not in self.measured:
            self.measured[key] = self.panel.measure(setting)
        now, number = self.measured[key], self.parts.number
        picture, before = self._pictures(setting, now)
        memory, dot = self.panel.memory, 0
        if place := memory.at(now):
            dot = [*(round(side, 1) for side in place), number(memory.colour(now)), number(in_figures(now))]
        return [picture, before, number(now.readout), dot, int(self.panel.goal.met(now)), idle]

    def _pictures(self, setting: Setting, now: Measured) -> tuple[list[int], list[int]]:
        """The parts of the picture, and what remains of it when it is the one before.

        Where several sliders lie over axes, each moves only its own; so axes are drawn once for each place of their slider.
        """
        apart = list(self.panel.over) if len(self.panel.over) > 1 else []

        def key(group: str) -> tuple:
            own = {f"axes_{place}": name for place, name in enumerate(apart, start=1)}.get(group)
            return (group, *(value for name, value in setting.items() if name not in apart or name == own))

        groups = self.drawn.get(key("all"), ())
        if not groups or any(key(group) not in self.drawn for group in groups):
            again = now._replace()  # another object: panels ask which of the two they draw
            plain, lighter = (self.parts.split(self._svg(now, before)) for before in (None, again))
            for group, elements in plain.items():
                there = set(leaves(elements))
                remains = "".join(leaf for leaf in leaves(lighter[group]) if leaf not in there)
                picture = [self.parts.number(serialized(element)) for element in elements]
                self.drawn[key(group)] = (picture, [self.parts.number(remains)] if remains else [])
            groups = self.drawn[key("all")] = tuple(plain)
        found = [self.drawn[key(group)] for group in groups]
        return tuple(sum((pair[place] for pair in found), []) for place in (0, 1))

    def _svg(self, now: Measured, before: Measured | None) -> str:
        fig = self.panel.draw(now, before)
        for image in fig.findobj(AxesImage):
            image.set_interpolation("none")  # a pixel for each number; the browser makes them larger
        drawn = pictures.svg(fig)
        plt.close(fig)
        return drawn


def values_of(control: Any) -> list:
    """Return every value that a control can have."""
    if hasattr(control, "options"):
        return list(control.options)
    count = round((control.max - control.min) / control.step) + 1
    return [round(control.min + place * control.step, 10) for place in range(count)]


def _listed(names: list[str]) -> str:
    """Who moves, in words."""
    *first, last = names
    return f"{', '.join(first)} and {last} move" if first else f"{last} moves"


def shown(control: Any, value: object) -> str:
    """Return a value as its slider shows it where that is in percent, else as panels tell it."""
    form = getattr(control, "readout_format", "")
    return format(value, form) if "%" in form else told(value)


def film(played: Film) -> dict:
    """Return the frames of a film as plain data, in the form of a panel whose only control is the step."""
    parts, settings = Parts(), []
    for page in played.frames.children:
        alt, drawn = IMAGE.fullmatch(page.value).groups()
        picture = parts.split(base64.b64decode(drawn).decode())
        numbers = [parts.number(serialized(one)) for group in picture.values() for one in group]
        settings.append([numbers, [], parts.number(html.unescape(alt)), 0, 0, []])
    steps = [str(step) for step in range(1, len(settings) + 1)]
    controls = [dict(label="step", start=0, values=steps)]
    return dict(controls=controls, numbers=list(range(len(settings))), settings=settings, pace=PACE, **parts.packed())


def dumped(found: dict | Sequence) -> str:
    """Return plain data as JSON that may stand in a page."""
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
