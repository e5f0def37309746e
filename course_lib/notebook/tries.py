"""What a panel makes of the settings that were tried: their goal, and a dot for each of them on axes that never move."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt

from course_lib.notebook import pictures
from course_lib.notebook.plots import COLOURS, GREEN, INK, TEXT, WIDTH

# Inches: of the axes their distance from the left and from below, their width and height; of a line of the legend
LEFT, BOTTOM, WIDE, HIGH, LINE = 0.8, 0.6, 3.95, 1.5, 0.25
COLUMNS = 3  # of the legend
ACCURACIES = (10, 50, 80, 90, 95, 98, 99, 99.5, 99.9)  # ticks


class Measured(NamedTuple):
    """What a setting leads to, in plain numbers and words."""

    size: float  # in the panel's currency, such as kilobytes; the less the better
    score: float  # such as accuracy; the more the better. NaN where nothing is known of the setting
    readout: str  # both in a sentence
    detail: Mapping[str, Any] = {}  # what the picture needs beside them
    way: str = ""  # the method, where several share the memory: each has a colour


def _always(_measured: Measured) -> bool:
    return True


class Goal(NamedTuple):
    """What the reader looks for: a setting of this size at most, with this score at least."""

    words: str  # to be read after 'Goal:', without a full stop
    size: float = math.inf
    score: float = -math.inf
    also: Callable[[Measured], bool] = _always  # what else the words ask for

    def met(self, found: Measured) -> bool:
        """Return whether a setting reaches the goal."""
        return found.size <= self.size and found.score >= self.score and self.also(found)


class Axis(NamedTuple):
    """A logarithmic axis from the first to the last of its ticks."""

    label: str
    ticks: Sequence[float]
    whole: float = 0.0  # where it is not 0, the axis is logarithmic in what is missing to it: 99 is to 90 as 90 is to 0

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 at the first tick to 1 at the last; values beyond these lie at the ends."""
        first, last, here = (self._log(number) for number in (self.ticks[0], self.ticks[-1], value))
        return min(max((here - first) / (last - first), 0.0), 1.0)

    def _log(self, value: float) -> float:
        return -math.log(max(self.whole - value, 1e-9)) if self.whole else math.log(max(value, 1e-9))


class Memory:
    """A picture of the settings tried, size against score. Its axes are drawn once; then each dot is a circle in the SVG.

    Args:
        size: its horizontal axis.
        score: its vertical axis.
        goal: its corner of the picture is green.
        ways: the methods that have colours.
        paper: size and score that the paper reports of this network, and what to call that point.
    """

    def __init__(
        self, size: Axis, score: Axis, goal: Goal, *, ways: Sequence[str] = (), paper: tuple[float, float, str] | None = None
    ):
        self.size, self.score, self.ways = size, score, tuple(ways)
        self.height = BOTTOM + HIGH + 0.1 + LINE * math.ceil((len(self.ways) + bool(paper)) / COLUMNS)
        fig = self._axes(goal, paper)
        self.empty = pictures.svg(fig).rstrip()
        plt.close(fig)

    def _axes(self, goal: Goal, paper: tuple[float, float, str] | None) -> plt.Figure:
        fig, ax = canvas(self.height, (LEFT / WIDTH, BOTTOM / self.height, WIDE / WIDTH, HIGH / self.height))
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel=self.size.label, ylabel=self.score.label)
        for set_ticks, axis in ((ax.set_xticks, self.size), (ax.set_yticks, self.score)):
            set_ticks([axis.place(tick) for tick in axis.ticks], [_short(tick) for tick in axis.ticks])
        if math.isfinite(goal.size) and math.isfinite(goal.score):
            right, low = self.size.place(goal.size), self.score.place(goal.score)
            ax.fill_between([0, right], low, 1, color=GREEN, alpha=0.2, linewidth=0)
            ax.annotate("goal", (0, 1), (4, -4), textcoords="offset points", va="top")
        for way, colour in zip(self.ways, COLOURS, strict=False):
            ax.scatter([], [], 30, color=colour, label=way)
        if paper:
            ax.scatter(*([axis.place(value)] for axis, value in zip((self.size, self.score), paper, strict=False)), 110,
                       marker="*", color=INK, label=paper[2], clip_on=False, zorder=3)  # fmt: skip
        if self.ways or paper:
            fig.legend(loc="upper left", ncols=COLUMNS, handletextpad=0, columnspacing=0.8, borderpad=0, fontsize=TEXT)
        return fig

    def svg(self, tried: Iterable[Measured], now: Measured) -> str:
        """Return the picture with a dot for each setting, the present one in a ring."""
        dots = [self._circle(found, f'r="3.5" fill-opacity="0.7" fill="{self.colour(found)}"') for found in tried]
        ring = self._circle(now, f'r="6.5" fill="none" stroke-width="1.8" stroke="{self.colour(now)}"')
        return self.empty.removesuffix("</svg>") + "".join(dots) + ring + "</svg>"

    def _circle(self, found: Measured, look: str) -> str:
        at = self.at(found)
        return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" {look}/>' if at else ""

    def at(self, found: Measured) -> tuple[float, float] | None:
        """Return where the dot of a setting lies in the picture; None where nothing is known of the setting."""
        if not math.isfinite(found.size + found.score):
            return None
        x = 72 * (LEFT + WIDE * self.size.place(found.size))
        return x, 72 * (self.height - BOTTOM - HIGH * self.score.place(found.score))

    def colour(self, found: Measured) -> str:
        """Return the colour of a dot, that of the setting's method."""
        return COLOURS[self.ways.index(found.way)] if found.way in self.ways else COLOURS[0]

    def described(self, tried: Iterable[Measured]) -> str:
        """Return the alternative text: the axes, and where the dots lie."""
        dots = [in_figures(one) for one in tried if self.at(one)]
        axes = f"{self.size.label} against {self.score.label}"
        return f"{'1 setting' if len(dots) == 1 else f'{len(dots)} settings'} tried, {axes}: {'; '.join(dots)}."


def accuracy_axis(best: float) -> Axis:
    """Return the axis of an accuracy in percent, up to the first tick above `best`."""
    last = next(number for number, tick in enumerate(ACCURACIES) if tick > best or tick == ACCURACIES[-1])
    return Axis("accuracy (%)", ACCURACIES[: last + 1], whole=100)


def in_words(accuracy: float, whole: float, images: int) -> str:
    """Return an accuracy beside that of the whole network, both in percent, and on how many images they were measured."""
    change = "lost" if accuracy <= whole else "gained"
    return f"{accuracy:.1f} % accuracy on {images:,} images ({abs(whole - accuracy):.1f} points {change})."


def in_figures(found: Measured) -> str:
    """Return a setting's method, size and score, for the alternative text of a memory."""
    return f"{found.way} {found.size:.4g}, {found.score:.4g}".strip()


def _short(number: float) -> str:
    return f"{number / 1000:g}k" if number >= 1000 else f"{number:g}"


def canvas(height: float, *places: tuple[float, float, float, float]) -> tuple[plt.Figure, Any]:
    """Return a figure, and axes at fixed places: left, bottom, width and height as shares of it; one place gives one axes."""
    fig = plt.figure(figsize=(WIDTH, height))
    fig.set_layout_engine("none")  # it would move the axes with the length of their labels
    axes = [fig.add_axes(place) for place in places]
    return fig, axes[0] if len(axes) == 1 else axes
