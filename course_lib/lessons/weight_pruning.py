"""What notebook 02 shows beside its cells: the widget panel, and the figure it draws for one setting."""

import copy
from collections.abc import Mapping

import matplotlib.pyplot as plt
from torch import nn

from course_lib import masks
from course_lib.data import Split
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import COLOURS, VERMILION
from course_lib.papers import weight_pruning
from course_lib.training import evaluate


def threshold_view(model: nn.Module, split: Split, qualities: Mapping[str, float]) -> plt.Figure:
    """Return a figure of each layer's weights and threshold, and of the weights and accuracy left when all are pruned at once.

    Args:
        model: a trained network; it is left as it was.
        split: what the accuracy is measured on.
        qualities: layer name -> threshold in standard deviations of the layer's weights.
    """
    layers = masks.weight_layers(model, qualities)
    survivors = {f"{name}.weight": weight_pruning.threshold_mask(layer.weight, qualities[name]) for name, layer in layers.items()}
    pruned = copy.deepcopy(model)
    masks.apply(pruned, survivors)
    kept, total = sum(int(m.sum()) for m in survivors.values()), sum(m.numel() for m in survivors.values())

    fig, axes = plt.subplots(1, len(layers), figsize=(7.0, 2.7))
    for ax, (name, layer), colour in zip(axes, layers.items(), COLOURS, strict=False):
        weight = layer.weight.detach().cpu()
        threshold = qualities[name] * weight.std(correction=0).item()
        ax.hist(weight.flatten().numpy(), bins=81, color=colour)
        ax.axvspan(-threshold, threshold, color=VERMILION, alpha=0.25)
        ax.set(title=f"{name}: {survivors[f'{name}.weight'].float().mean():.1%} kept", xlabel="weight", yscale="log")
    axes[0].set_ylabel("number of weights")
    accuracy = f"accuracy {evaluate(model, split):.1%} -> {evaluate(pruned, split):.1%} on {len(split.labels):,} images"
    fig.suptitle(
        f"{kept:,} of {total:,} weights kept ({total / max(kept, 1):.1f}x fewer), {accuracy}", x=0.01, ha="left", fontsize=11
    )
    return fig


def threshold_panel(model: nn.Module, split: Split):
    """Return sliders for the thresholds of all layers over `threshold_view`, an ipywidgets box."""
    import ipywidgets

    sliders = {
        name: ipywidgets.FloatSlider(1.0, min=0.0, max=4.0, step=0.1, description=name, continuous_update=False)
        for name in masks.weight_layers(model)
    }
    return panel(sliders, lambda qualities: threshold_view(model, split, qualities))
