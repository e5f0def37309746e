"""The panel of notebook 00: batch and bits of a weight, and how fast a machine can be at best."""

import math
from collections.abc import Mapping
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from course_lib import machine
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import BLUE, INK, MARKERS, VERMILION
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, canvas

BATCHES, BITS = tuple(2**i for i in range(9)), (1, 2, 4, 8, 16, 32)
FEWEST_BITS = 4  # of the goal
KINDS = {"dense": BLUE, "convolution": VERMILION}
PLACE = (0.16, 0.17, 0.81, 0.71)


def measure(roof: machine.Roof, networks: Mapping[str, pd.DataFrame], setting: Setting) -> Measured:
    """Return megabytes moved for an image, images per second at best, and where the layers lie on the roof.

    Args:
        roof: of the machine.
        networks: name -> layers, as `machine.traffic` gives them.
        setting: network, batch (images at a time) and bits of a stored weight; arithmetic and activations stay float32.
    """
    name, batch, bits = setting["network"], setting["batch"], setting["bits"]
    layers = networks[name]
    intensity = machine.intensity(layers, batch, bits)
    rates = intensity.map(roof.reachable)
    seconds, bound = layers.MACs / rates, intensity < roof.ridge
    groups = {kind: [intensity[layers.kind == kind].tolist(), rates[layers.kind == kind].tolist()] for kind in KINDS}
    images = "1 image" if batch == 1 else f"{batch} images"
    readout = (
        f"{name}, {images} at a time, {bits} {_plural('bit', bits)} per weight: {bound.sum()} of {len(layers)} layers are "
        f"limited by memory bandwidth. An image takes at least {1e3 * seconds.sum():.3g} ms, "
        f"{seconds[bound].sum() / seconds.sum():.0%} of it in these layers."
    )
    detail = dict(groups=groups, batch=batch, bits=bits, dense_bound=int((bound & (layers.kind == "dense")).sum()))
    moved = machine.bytes_moved(layers, batch, bits).sum() / batch / 1e6
    return Measured(moved, 1 / seconds.sum(), readout, detail, name)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def draw(roof: machine.Roof, ends: tuple[float, float], now: Measured, before: Measured | None) -> plt.Figure:
    """Draw the roof and the layers on it, those of the setting before lighter.

    Args:
        roof: of the machine.
        ends: of the horizontal axis, in MACs per byte.
        now: of this setting.
        before: of the one before.
    """
    fig, ax = canvas(3.4, PLACE)
    x = np.array([ends[0], roof.ridge, ends[1]])
    ax.plot(x, np.minimum(roof.rate, x * roof.bandwidth) / 1e9, color=INK, linewidth=1.5)
    ax.axvline(roof.ridge, color=INK, linewidth=1, linestyle=":")
    for found, strength in ((before, 0.25), (now, 1.0)):
        for (kind, colour), marker in zip(KINDS.items(), MARKERS, strict=False):
            places, rates = found.detail["groups"][kind] if found else ([], [])
            label = kind if found is now else None
            ax.scatter(places, np.array(rates) / 1e9, 34, color=colour, marker=marker, alpha=strength, linewidth=0, label=label)
    low, high = min(ends[0] * roof.bandwidth, roof.rate) / 2e9, 2 * roof.rate / 1e9
    ax.set(xscale="log", xlim=ends, xlabel="MACs per byte (log scale)")
    ax.set(yscale="log", ylim=(low, high), ylabel="billion MACs per second")
    for set_ticks, (first, last) in ((ax.set_xticks, ends), (ax.set_yticks, (low, high))):
        ticks = [tick for tick in _decades([first, last]) if first <= tick <= last]
        set_ticks(ticks, [f"{tick:,g}" for tick in ticks])  # plain numbers: powers take matplotlib as long as all the rest
    ax.minorticks_off()
    ax.set_title("Layers left of the ridge are memory-bound")
    ax.legend(loc="lower right")
    return fig


def goal(roof: machine.Roof, layers: pd.DataFrame) -> Goal:
    """Return the goal for VGG-16: no memory-bound dense layer, with the smallest batch that allows this at `FEWEST_BITS`."""
    dense = layers[layers.kind == "dense"]
    enough = (batch for batch in BATCHES if (machine.intensity(dense, batch, FEWEST_BITS) >= roof.ridge).all())
    batch = next(enough, BATCHES[-1])
    words = f"no dense layer of VGG-16 is limited by memory bandwidth, with {FEWEST_BITS} or more bits per weight and "
    words += "as few images at a time as this machine allows"  # how many is for the reader to find out

    def reached(found: Measured) -> bool:
        setting = found.detail
        small = setting["batch"] <= batch and setting["bits"] >= FEWEST_BITS
        return found.way == "VGG-16" and small and not setting["dense_bound"]

    return Goal(words, also=reached)


def panel(roof: machine.Roof, networks: Mapping[str, pd.DataFrame]) -> Panel:
    """Return the panel; VGG-16 is one of the networks, and the first shown."""
    controls = {
        "network": ipywidgets.Dropdown(options=list(networks), value="VGG-16", description="network"),
        "batch": ipywidgets.SelectionSlider(options=BATCHES, value=1, description="images at a time", continuous_update=False),
        "bits": ipywidgets.SelectionSlider(options=BITS, value=32, description="bits per weight", continuous_update=False),
    }
    corners = [dict(network=name, batch=b, bits=w) for name in networks for b in (1, BATCHES[-1]) for w in (1, 32)]
    found = [measure(roof, networks, corner) for corner in corners]
    every = [place for one in found for places, _ in one.detail["groups"].values() for place in places]
    size = Axis("megabytes moved per image (log scale)", _decades([one.size for one in found]))
    score = Axis("images per second", _decades([one.score for one in found]))
    aim = goal(roof, networks["VGG-16"])
    memory = Memory(size, score, aim, ways=list(networks))
    ends = (min(every) / 1.5, max(every) * 1.5)
    return Panel(controls, partial(measure, roof, networks), partial(draw, roof, ends), aim, memory)


def _decades(values: list[float]) -> list[float]:
    """Powers of ten around some values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, high + 1)]
