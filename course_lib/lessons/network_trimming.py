"""What notebook 03 shows beside its cells: the widget panel, and the figure it draws for one setting."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from course_lib import surgery
from course_lib.data import Split
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import share_histograms
from course_lib.papers import network_trimming
from course_lib.training import evaluate

SIDES = ("silent ones go", "loud ones go")


def trimming_view(model: nn.Module, split: Split, apoz: Mapping[str, Tensor], stds: Mapping[str, float], side: str) -> plt.Figure:
    """Draw the APoZ of each layer, which neurons a threshold of `stds` deviations removes, and what is left of the network.

    Args:
        model: a trained network; it is left as it was.
        split: what the error is measured on.
        apoz: layer name -> (C,), as `network_trimming.apoz` gives it.
        stds: layer name -> deviations above the mean.
        side: 'silent ones go', or 'loud ones go': as many neurons, from the other end.
    """
    kept, gone = {}, {}
    for layer, shares in apoz.items():
        count = len(network_trimming.neurons_to_keep(shares, stds[layer]))
        kept[layer] = shares.topk(count, largest=side == SIDES[1]).indices
        gone[layer] = torch.ones(len(shares), dtype=torch.bool).index_fill(0, kept[layer].cpu(), False).numpy()
    narrower = surgery.narrow(model, kept, split.images[:1])
    rate = sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in narrower.parameters())
    widths = ", ".join(f"{layer} {len(shares)} -> {len(kept[layer])}" for layer, shares in apoz.items())
    error = f"error {100 - 100 * evaluate(model, split):.2f} -> {100 - 100 * evaluate(narrower, split):.2f} %"
    title = f"{widths}: {rate:.2f}x fewer parameters\n{error} on {len(split.labels):,} images, not retrained"
    return share_histograms(
        {layer: shares.cpu().numpy() for layer, shares in apoz.items()}, title=title, xlabel="APoZ (red goes)", gone=gone
    )


def trimming_panel(model: nn.Module, split: Split, apoz: Mapping[str, Tensor]):
    """The threshold of each layer, and which side goes, over `trimming_view`; gives an ipywidgets box."""
    import ipywidgets

    controls: dict[str, ipywidgets.Widget] = {
        layer: ipywidgets.FloatSlider(1.0, min=0.0, max=3.0, step=0.1, description=layer, continuous_update=False)
        for layer in apoz
    }
    controls["side"] = ipywidgets.Dropdown(options=SIDES, description="side")

    def view(chosen: dict) -> plt.Figure:
        return trimming_view(model, split, apoz, {layer: chosen[layer] for layer in apoz}, chosen["side"])

    return panel(controls, view)
