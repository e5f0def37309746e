"""What notebook 07 shows beside its cells: the widget panel, and the figure it draws for one setting."""

import matplotlib.pyplot as plt
from torch import Tensor, nn

from course_lib.data import Split
from course_lib.experiments import thinet as thinet_runs
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import BLUE, VERMILION
from course_lib.papers import thinet
from course_lib.surgery.readers import layers_with_one_reader
from course_lib.training import evaluate


def contributions_view(model: nn.Module, images: Tensor, split: Split, layer: str, share: float, criterion: str) -> plt.Figure:
    """Draw each channel's contribution to the next layer, which channels a criterion removes, and what that costs.

    Args:
        model: a trained network of `models.build` with convolutions; it is left as it was.
        images: (N, ...), training images for the choice.
        split: what the accuracy is measured on.
        layer: one that `surgery.readers.layers_with_one_reader` lists.
        share: of its filters that stay, in (0, 1].
        criterion: one of `experiments.thinet.CRITERIA`.
    """
    contributions = thinet.channel_contributions(model, layer, images)
    channels = contributions.shape[1]
    keep = max(1, int(share * channels))
    kept = thinet_runs.kept_by(criterion, model, layer, keep, images)
    rescaled = criterion in ("ThiNet", "ThiNet, forward")
    scales = thinet.rescale(contributions[:, kept], contributions.sum(1)) if rescaled else 1.0
    pruned = thinet_runs.prune_by(criterion)(model, layer, keep, images)

    energy = contributions.double().square().sum(0)
    energy = 100 * energy / contributions.double().sum(1).square().sum()
    order = energy.argsort(descending=True).tolist()
    stays = set(kept.tolist())
    fig, ax = plt.subplots(figsize=(7.0, 2.9))
    for name, colour, chosen in (("kept", BLUE, stays), ("removed", VERMILION, set(order) - stays)):
        places = [place for place, channel in enumerate(order) if channel in chosen]
        ax.bar(places, [energy[order[place]].item() for place in places], width=0.9, color=colour, label=name)
    ax.set(xlabel=f"channels of {layer}, largest contribution first", ylabel="energy in the next layer (%)", yscale="log")
    ax.legend()
    lost = f"{100 * thinet_runs.lost(contributions, kept, scales):.1f} % of the next layer's output lost"
    accuracy = f"accuracy {evaluate(model, split):.1%} -> {evaluate(pruned, split):.1%} on {len(split.labels):,} images"
    fig.suptitle(f"{criterion} keeps {keep} of {channels}: {lost}\n{accuracy}, untuned", x=0.01, ha="left", fontsize=11)
    return fig


def contributions_panel(model: nn.Module, images: Tensor, split: Split):
    """Layer, share of its filters and criterion over `contributions_view`; gives an ipywidgets box."""
    import ipywidgets

    layers = list(layers_with_one_reader(model, images[:1]))
    controls = {
        "layer": ipywidgets.Dropdown(options=layers, value=layers[len(layers) // 2], description="layer"),
        "share": ipywidgets.FloatSlider(0.5, min=0.1, max=1.0, step=0.1, description="share kept", continuous_update=False),
        "criterion": ipywidgets.Dropdown(options=thinet_runs.CRITERIA, value="ThiNet", description="criterion"),
    }
    return panel(controls, lambda chosen: contributions_view(model, images, split, **chosen))
