"""What notebook 00 shows beside its cells: the widget panel, and the figure it draws for one setting."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd

from course_lib import machine
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import roofline


def roofline_view(roof: machine.Roof, layers: pd.DataFrame, batch: int, bits: int) -> plt.Figure:
    """Where the layers of a network lie below a machine's roofs, how many wait for memory, and the least time of an image.

    Args:
        roof: of the machine.
        layers: as `machine.traffic` gives them.
        batch: images at a time.
        bits: of a stored weight; arithmetic and activations stay float32.
    """
    intensity = machine.intensity(layers, batch, bits)
    rates = intensity.map(roof.reachable)
    least = layers.MACs / rates  # seconds an image
    waits = intensity < roof.ridge
    share = least[waits].sum() / least.sum()
    groups = {kind: (intensity[layers.kind == kind], rates[layers.kind == kind]) for kind in ("dense", "convolution")}
    title = f"{waits.sum()} of {len(layers)} layers wait for memory, {share:.0%} of at least {1e3 * least.sum():.3g} ms an image"
    groups = {kind: points for kind, points in groups.items() if len(points[0])}
    return roofline(roof.rate, roof.bandwidth, groups, title=title)


def roofline_panel(roof: machine.Roof, networks: Mapping[str, pd.DataFrame]):
    """Network, batch and bits of a weight over `roofline_view`; gives an ipywidgets box."""
    import ipywidgets

    controls = {
        "network": ipywidgets.Dropdown(options=list(networks), value=list(networks)[-1], description="network"),
        "batch": ipywidgets.SelectionSlider(
            options=[2**i for i in range(9)], value=1, description="batch", continuous_update=False
        ),
        "bits": ipywidgets.SelectionSlider(
            options=[1, 2, 4, 8, 16, 32], value=32, description="bits a weight", continuous_update=False
        ),
    }
    return panel(controls, lambda chosen: roofline_view(roof, networks[chosen.pop("network")], **chosen))
