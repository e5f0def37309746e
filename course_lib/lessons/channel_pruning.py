"""What notebook 06 shows beside its cells: the widget panel, and the figure it draws for one setting."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from torch import nn

from course_lib import least_squares
from course_lib.experiments import channel_choices
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import COLOURS
from course_lib.papers import channel_pruning


def lasso_view(model: nn.Module, layers: Mapping[str, channel_choices.Layer], layer: str, share: float) -> plt.Figure:
    """The path of the LASSO over a layer's channels, and what the kept ones explain by each way of choosing them.

    Args:
        model: a trained network; it is left as it was.
        layers: from `channel_choices.layers_of`.
        layer: one of these.
        share: of its input channels to keep.
    """
    seen, unseen, strongest = layers[layer]
    weight = model.get_submodule(layer).weight.detach().flatten(2)
    gram, products = channel_pruning.contributions(seen, weight)
    penalties, betas = channel_pruning.lasso_path(gram, products, seen.samples)
    keep = max(1, round(share * len(gram)))
    ways = channel_choices.ways_of_choosing(weight, seen, strongest, keep)
    shares = {way: least_squares.explained(unseen, least_squares.refit(seen, kept)[0]) for way, kept in ways.items()}

    fig, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.0), width_ratios=(3, 2))
    gone = [i for i in range(len(gram)) if i not in set(ways["LASSO"].tolist())]
    left.plot(penalties, betas[:, gone], color="lightgrey", linewidth=0.8)
    left.plot(penalties, betas[:, ways["LASSO"]], color=COLOURS[0], linewidth=0.8)
    left.set(
        xscale="symlog", xlabel="penalty", ylabel="beta of a channel", title=f"blue: the {keep} of {len(gram)} that last longest"
    )
    left.set_xscale("symlog", linthresh=float(penalties[0]) / 1000)
    drawn = right.barh(list(shares), [100 * share for share in shares.values()], color=COLOURS[: len(shares)])
    right.bar_label(drawn, [f"{share:.0%}" for share in shares.values()], padding=2)
    right.set(xlim=(0, 115), xlabel=f"explained of {layer}'s output,\nnew images (%)")
    right.invert_yaxis()
    title = f"{layer} with {keep} of {len(gram)} channels: {shares['LASSO']:.0%} explained"
    fig.suptitle(f"{title}, by the largest norms {shares['max response']:.0%}", x=0.01, ha="left", fontsize=11)
    return fig


def lasso_panel(model: nn.Module, layers: Mapping[str, channel_choices.Layer]):
    """Layer and share of its channels over `lasso_view`; gives an ipywidgets box."""
    import ipywidgets

    controls = {
        "layer": ipywidgets.Dropdown(options=list(layers), description="layer"),
        "share": ipywidgets.FloatSlider(0.5, min=0.1, max=0.9, step=0.1, description="kept", continuous_update=False),
    }
    return panel(controls, lambda chosen: lasso_view(model, layers, **chosen))
