"""What notebook 04 shows beside its cells: the widget panel, and the figure it draws for one setting."""

import matplotlib.pyplot as plt
import torch
from torch import nn

from course_lib import cost, surgery
from course_lib.data import Split
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import BLUE, VERMILION
from course_lib.papers import filter_pruning
from course_lib.surgery.keeping import strongest
from course_lib.training import evaluate


def filters_view(model: nn.Module, split: Split, layer: str, share: float, order: str) -> plt.Figure:
    """The norms of a layer's filters, which of them are removed, and what that costs and saves without retraining.

    Args:
        model: a trained network; it is left as it was.
        split: what the accuracy is measured on.
        layer: name of a layer of `filter_pruning.prunable_layers`.
        share: of its filters to prune, in [0, 1).
        order: 'smallest', 'random' or 'largest' first.
    """
    norms = filter_pruning.filter_norms(model.get_submodule(layer).weight).cpu()
    random = torch.rand(len(norms), generator=torch.Generator().manual_seed(0))
    scores = {"smallest": norms, "random": random, "largest": -norms}
    if order not in scores:
        raise ValueError(f"order is {order!r}; allowed are {', '.join(scores)}")
    keep = strongest(scores[order], 1.0 - share, layer)
    image = split.images[:1]
    narrow = surgery.narrow(model, {layer: keep}, image)
    macs = 1 - cost.count(narrow, image).MACs.sum() / cost.count(model, image).MACs.sum()
    descending = norms.argsort(descending=True)
    colours = [BLUE if filter in keep.tolist() else VERMILION for filter in descending.tolist()]
    fig, ax = plt.subplots(figsize=(7.0, 2.7))
    ax.bar(range(len(norms)), norms[descending].tolist(), color=colours)
    ax.set(xlabel=f"filters of {layer}, by norm (blue stays, vermilion goes)", ylabel="L1 norm")
    accuracy = f"accuracy {evaluate(model, split):.1%} -> {evaluate(narrow, split):.1%} on {len(split.labels):,} images"
    ax.set_title(f"{len(norms) - len(keep)} of {len(norms)} filters go: {macs:.1%} fewer MACs, {accuracy}")
    return fig


def filters_panel(model: nn.Module, split: Split):
    """Layer, share and order over `filters_view`; gives an ipywidgets box."""
    import ipywidgets

    layers = filter_pruning.prunable_layers(model, split.images[:1])
    controls = {
        "layer": ipywidgets.Dropdown(options=layers, value=layers[-1], description="layer"),
        "share": ipywidgets.FloatSlider(0.5, min=0.0, max=0.95, step=0.05, description="pruned", continuous_update=False),
        "order": ipywidgets.Dropdown(options=["smallest", "random", "largest"], value="smallest", description="first go"),
    }
    return panel(controls, lambda chosen: filters_view(model, split, **chosen))
