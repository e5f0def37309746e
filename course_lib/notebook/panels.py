"""Panels: settings that a reader moves, what they lead to, its picture, a memory of all that was tried, and a goal.

The steps are apart: `measure` turns a setting into plain numbers and words, `draw` turns these into a picture. So a page without
a kernel can be given the numbers of every setting beforehand.
"""

import html
from collections.abc import Callable, Collection, Mapping
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt

from course_lib.notebook import pictures
from course_lib.notebook.tries import Goal, Measured, Memory

HOW_TO_PLAY = "To play, open this notebook in JupyterLab, run its cells, and move the controls that appear here."
# A slider over the axes of the picture shares their scale: its track is as large as they are, its handle a bar to be dragged.
# Its name and number stay for screen readers; to everyone else the picture tells them
STYLE = """<style>
.course-panel {max-width: 482px; overflow: visible}
.course-panel .widget-html-content {line-height: 1.4}
.course-panel img {display: block; width: 100%}
.course-stage {position: relative; overflow: visible}
.course-stage > .widget-slider {position: absolute; margin: 0; min-width: 0}
.course-stage > .widget-slider > :is(.widget-label, .widget-readout) {position: absolute; clip-path: inset(50%); width: 1px}
.course-stage .slider-container {margin: 0; width: 100%; height: 100%; display: flex}
.course-stage .noUi-target {width: 100%; height: 100%; margin: 0; background: none; border: none; box-shadow: none}
.course-stage :is(.noUi-connects, .noUi-connect) {background: none}
.course-stage .noUi-origin {height: 100% !important}
.course-stage .noUi-handle {top: 0 !important; height: 100% !important; width: 14px !important; right: -7px !important;
  border: none !important; border-radius: 4px !important; background: rgba(128, 128, 128, 0.35) !important; cursor: ew-resize}
.course-stage .noUi-handle:is(:hover, :focus) {background: rgba(128, 128, 128, 0.6) !important}
</style>"""

Setting = dict[str, Any]  # name of a control -> its value; None where it does not apply
Place = tuple[float, float, float, float]  # left, bottom, width and height, as shares of the picture


class Panel(ipywidgets.VBox):
    """Controls, a picture of the present setting and a dot for each one tried.

    Where no kernel answers, as on a page or in a saved notebook, the picture of the first setting is shown instead.

    Args:
        controls: name of a setting -> the widget that holds its value.
        measure: what a setting leads to; called once for each setting.
        draw: the picture of that, beside the one before it (None at first), which it may draw lighter.
        goal: what to look for.
        memory: where the dots lie.
        idle: the names of the controls that do not apply at a setting; these are disabled.
        over: name of a slider -> the axes that it lies over, so that it is dragged on the picture.
    """

    def __init__(
        self,
        controls: Mapping[str, ipywidgets.Widget],
        measure: Callable[[Setting], Measured],
        draw: Callable[[Measured, Measured | None], plt.Figure],
        goal: Goal,
        memory: Memory,
        *,
        idle: Callable[[Setting], Collection[str]] = lambda setting: (),
        over: Mapping[str, Place] | None = None,
    ):
        self.controls, self.tried = dict(controls), {}
        self.measure, self.draw, self.goal, self.memory, self.idle, self.over = (
            measure,
            draw,
            goal,
            memory,
            idle,
            dict(over or {}),
        )
        self._now: Measured | None = None
        self.aim, self.picture, self.readout, self.dots = (_text() for _ in range(4))
        self.readout.add_class("course-readout")
        for name, (left, bottom, width, height) in self.over.items():
            shares = dict(left=left, bottom=bottom, width=width, height=height)
            self.controls[name].layout = ipywidgets.Layout(**{side: f"{share:.2%}" for side, share in shares.items()})
        for control in self.controls.values():
            control.style.description_width = "initial"  # a name is shown whole
            control.observe(self._answer, names="value")
        stage = ipywidgets.Box([self.picture, *(self.controls[name] for name in self.over)])
        stage.add_class("course-stage")
        beside = [control for name, control in self.controls.items() if name not in self.over]
        for control in beside:
            control.layout.width = "auto"  # that of the panel
        super().__init__([_text(STYLE), self.aim, *beside, stage, self.readout, self.dots])
        self.add_class("course-panel")
        fig, alt = self._answered()
        self.still = self._without_kernel(pictures.bundle(fig, alt))
        plt.close(fig)

    def _repr_mimebundle_(self, **options) -> tuple[dict, dict]:
        live = super()._repr_mimebundle_(**options)
        return live | self.still, pictures.metadata(self.still["text/plain"])

    def _answer(self, _change=None) -> None:
        plt.close(self._answered()[0])

    def _answered(self) -> tuple[plt.Figure, str]:
        """Shows what the present setting leads to; gives the picture and its text."""
        setting = {name: control.value for name, control in self.controls.items()}
        idle = self.idle(setting)
        for name, control in self.controls.items():
            control.disabled = name in idle
        setting |= dict.fromkeys(idle)
        key = tuple(setting.values())
        if key not in self.tried:
            self.tried[key] = self.measure(setting)
        now, before = self.tried[key], self._now
        fig, alt = self.draw(now, before), self._described(setting, now)
        self.picture.value = pictures.element(fig, alt)
        self.readout.value = f'<div role="status">{html.escape(now.readout)}</div>'
        self.aim.value = f'<div role="status"><b>Goal:</b> {html.escape(self._aim())}</div>'
        every = list(self.tried.values())
        self.dots.value = pictures.image(self.memory.svg(every, now), self.memory.described(every))
        self._now = now
        return fig, alt

    def _aim(self) -> str:
        """The goal, and how far it is reached."""
        met = [self.goal.met(found) for found in self.tried.values()]
        reached = f"reached in {_tries(met.index(True) + 1)}" if any(met) else f"not reached yet in {_tries(len(met))}"
        return f"{self.goal.words}: {reached}."

    def _described(self, setting: Setting, now: Measured) -> str:
        """The alternative text of the picture."""
        values = ((self.controls[name], value) for name, value in setting.items() if value is not None)
        settings = ", ".join(f"{control.description} {told(value)}" for control, value in values)
        return f"Panel at {settings}. {now.readout}"

    def _without_kernel(self, shown: dict[str, str]) -> dict[str, str]:
        lines = (f"Goal: {self.goal.words}.", next(iter(self.tried.values())).readout, HOW_TO_PLAY)
        goal, readout, how = (f"<p>{html.escape(line)}</p>" for line in lines)
        return shown | {"text/html": goal + shown["text/html"] + readout + how}


def _text(value: str = "") -> ipywidgets.HTML:
    return ipywidgets.HTML(value, layout=ipywidgets.Layout(width="100%", margin="2px 0"))


def _tries(count: int) -> str:
    return "1 try" if count == 1 else f"{count} tries"


def told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
