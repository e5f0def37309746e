"""The panel of notebook 08: one method after the other of the recorded comparison, before and after retraining."""

import math
import textwrap
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from course_lib.experiments import points_lost
from course_lib.experiments.currencies import CURRENCIES
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import BLUE, INK
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, accuracy_axis, canvas

NOT_RETRAINED, RETRAINED = WHEN = ("not retrained", "retrained")
COLUMN = {NOT_RETRAINED: "lost_at_once", RETRAINED: "lost"}
REFERENCE = "random"  # the method that every other one is drawn beside
MACS, TIME = CURRENCIES["macs"], CURRENCIES["latency_64"]
PLACE = (0.24, 0.20, 0.72, 0.68)


def shapes(priced: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """Return the networks and rates that have rows, by what a reader calls them."""
    lines = priced[priced.method != "dense"].groupby(["network", "rate"]).counted.first()
    found = {f"{network}, {rate:g}x fewer {counted}": (network, rate) for (network, rate), counted in lines.items()}
    return dict(sorted(found.items(), key=lambda item: (item[1][0] != "vgg-small", item[1])))


def accuracies(priced: pd.DataFrame, shape: tuple[str, float], when: str) -> pd.Series:
    """Return the test accuracies of the compressed networks, in percent, by method: as many of each as were trained."""
    lines = priced[(priced.network == shape[0]) & (priced.rate == shape[1]) & priced.kind.isin((*points_lost.CUT, "file"))]
    return (lines.baseline - lines[COLUMN[when]]).set_axis(lines.method).dropna()


def measure(priced: pd.DataFrame, setting: Setting) -> Measured:
    """Return what is left of a currency, in percent, and the mean test accuracy; both are NaN where there are no rows.

    Args:
        priced: as `currencies.prices` gives it.
        setting: shape, a key of `shapes`; method; when, one of WHEN; and currency, a value of CURRENCIES.
    """
    method, when, shape = setting["method"], setting["when"], shapes(priced)[setting["shape"]]
    found = accuracies(priced, shape, when)
    detail = dict(setting) | dict(networks={name: found[[name]].tolist() for name in (method, REFERENCE) if name in found})
    if method not in found:
        return Measured(math.nan, math.nan, f"There are no rows of {method} for {setting['shape']}, {when}.", detail, when)
    means = found.groupby(level=0).mean()
    lines = priced[(priced.network == shape[0]) & (priced.rate == shape[1]) & (priced.method == method)]
    left = 100 / lines[next(key for key, name in CURRENCIES.items() if name == setting["currency"])].mean()
    readout = (
        f"{setting['shape']}, by {method}, {when}: {means[method]:.2f} % test accuracy, the "
        f"{_ordinal(1 + int((means > means[method]).sum()))} best of {len(means)} methods; "
        f"{setting['currency']}: {'not measured' if math.isnan(left) else f'{left:.0f} % left'}."
    )
    return Measured(left, means[method], readout, detail, when)


def _ordinal(place: int) -> str:
    return {1: "very", 2: "second", 3: "third"}.get(place, f"{place}th")


def draw(score: Axis, now: Measured, before: Measured | None) -> plt.Figure:
    """Draw the accuracy of each trained network by a method, by random choice, and lighter by the method before.

    Args:
        score: the axis of accuracy.
        now: of this setting.
        before: of the one before.
    """
    fig, ax = canvas(2.4, PLACE)
    lines = [(now, now.detail["method"], BLUE, 1.0), (now, REFERENCE, INK, 1.0)]
    lines += [(before, before.detail["method"], BLUE, 0.35)] if before else []
    names = []
    for place, (found, method, colour, strength) in enumerate(lines):
        values = [score.place(value) for value in found.detail["networks"].get(method, [])]
        ax.scatter(values, [place] * len(values), 40, color=colour, alpha=0.6 * strength, linewidth=0)
        if values:
            ax.plot([np.mean(values)] * 2, [place - 0.28, place + 0.28], color=colour, alpha=strength)
        names.append("\n".join(textwrap.wrap(method, 13)) + ("\n(before)" if found is before else ""))
    ax.set(xlim=(-0.02, 1.02), ylim=(2.6, -0.6), xlabel="test accuracy (%)")
    ax.set_xticks([score.place(tick) for tick in score.ticks], [f"{tick:g}" for tick in score.ticks])
    ax.set_yticks(range(len(names)), names)
    ax.set_title(f"{now.detail['shape']}, {now.detail['when']}")
    return fig


def goal() -> Goal:
    """Return the goal: no table of the notebook has accuracies and times side by side."""

    def reached(found: Measured) -> bool:
        return found.way == RETRAINED and found.detail["currency"] == TIME

    return Goal(f"halve the {TIME} and keep at least 87 % test accuracy, retrained", 50, 87, reached)


def panel(priced: pd.DataFrame) -> Panel:
    """Return the panel over recorded rows, as `currencies.prices` gives them; which rows there are does not matter."""
    every = list(priced[priced.kind.isin((*points_lost.CUT, "file"))].method.unique())
    controls = {
        "shape": ipywidgets.Dropdown(options=list(shapes(priced)), description="network"),
        "method": ipywidgets.Dropdown(options=every, value="L1" if "L1" in every else every[0], description="method"),
        "when": ipywidgets.Dropdown(options=WHEN, description="when"),
        "currency": ipywidgets.Dropdown(options=list(CURRENCIES.values()), value=MACS, description="currency"),
    }
    score = accuracy_axis(priced.baseline.max())._replace(label="test accuracy (%)")
    size = Axis("left of the currency (%, log scale)", (5, 10, 20, 30, 50, 70, 100))
    aim = goal()
    memory = Memory(size, score, aim, ways=WHEN)
    return Panel(controls, partial(measure, priced), partial(draw, score), aim, memory, idle=partial(_idle, priced))


def _idle(priced: pd.DataFrame, setting: Setting) -> list[str]:
    """Without rows there is nothing that could be counted in another currency."""
    found = accuracies(priced, shapes(priced)[setting["shape"]], setting["when"])
    return [] if setting["method"] in found else ["currency"]
