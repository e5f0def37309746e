"""What notebook 07 shows beside its cells: the widget panel, and the figure it draws for one setting."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import cost
from course_lib.data import Split
from course_lib.experiments import channel_sets
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import BLUE, VERMILION
from course_lib.papers import thinet
from course_lib.surgery.readers import layers_with_one_reader
from course_lib.training import evaluate

# ImageNet: parameters in millions and FLOPs in billions, a MAC counting as 2
PAPER_SIZES = {
    "VGG-16": (138.34, 30.94),
    "ThiNet-Conv": (131.44, 9.58),
    "ThiNet-GAP": (8.32, 9.34),
}
VGG_16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
THIN = (*(width // 2 for width in VGG_16[:10]), *VGG_16[10:])  # conv1_1 to conv4_3 at half their width


def imagenet_vgg_16(widths: Sequence[int], head: str) -> nn.Module:
    """VGG-16 for 224 x 224 pixels and 1,000 classes, without storage: on the meta device a tensor is only its shape.

    Args:
        widths: of the 13 convolutions.
        head: 'dense', 4096-4096-1000 as published, or 'GAP', the mean over positions and one dense layer.
    """
    layers: list[nn.Module] = []
    with torch.device("meta"):
        for number, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in (1, 3, 6, 9, 12) else []
        if head == "GAP":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1000)]
        else:
            layers += [nn.Flatten(), nn.Linear(49 * widths[-1], 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
            layers += [nn.Linear(4096, 1000)]
        return nn.Sequential(*layers)


def head_sizes() -> pd.DataFrame:
    """Parameters (millions) and FLOPs (billions, 2 a MAC) of VGG-16 with dense and with GAP head, whole and thin, from shapes."""
    networks = {
        "VGG-16": (VGG_16, "dense"),
        "VGG-GAP": (VGG_16, "GAP"),
        "ThiNet-Conv": (THIN, "dense"),
        "ThiNet-GAP": (THIN, "GAP"),
    }
    rows = []
    for name, (widths, head) in networks.items():
        model = imagenet_vgg_16(widths, head)
        macs = cost.count(model, torch.empty(1, 3, 224, 224, device="meta")).MACs.sum()
        dense = sum(p.numel() for layer in model if isinstance(layer, nn.Linear) for p in layer.parameters())
        total = sum(p.numel() for p in model.parameters())
        figures = dict(parameters=total / 1e6, dense=dense / 1e6, FLOPs=2 * macs / 1e9)
        rows.append(dict(network=name, **figures))
    return pd.DataFrame(rows).set_index("network")


def contributions_view(model: nn.Module, images: Tensor, split: Split, layer: str, share: float, criterion: str) -> plt.Figure:
    """Draw each channel's contribution to the next layer, which channels a criterion removes, and what that costs.

    Args:
        model: a trained network of `models.build` with convolutions; it is left as it was.
        images: (N, ...), training images for the choice.
        split: what the accuracy is measured on.
        layer: one that `surgery.readers.layers_with_one_reader` lists.
        share: of its filters that stay, in (0, 1].
        criterion: one of `channel_sets.CRITERIA`.
    """
    contributions = thinet.channel_contributions(model, layer, images)
    channels = contributions.shape[1]
    keep = max(1, int(share * channels))
    kept = channel_sets.kept_by(criterion, model, layer, keep, images)
    pruned = channel_sets.without(criterion, model, layer, kept, images)
    loss = channel_sets.rescaled_loss if criterion in channel_sets.RESCALED else channel_sets.lost

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
    lost = f"{100 * loss(contributions, kept):.1f} % of the next layer's output lost"
    accuracy = f"accuracy {evaluate(model, split):.1%} -> {evaluate(pruned, split):.1%} on {len(split.labels):,} images"
    fig.suptitle(f"{criterion} keeps {keep} of {channels}: {lost}\n{accuracy}, not retrained", x=0.01, ha="left", fontsize=11)
    return fig


def contributions_panel(model: nn.Module, images: Tensor, split: Split):
    """Layer, share of its filters and criterion over `contributions_view`; gives an ipywidgets box."""
    import ipywidgets

    layers = list(layers_with_one_reader(model, images[:1]))
    controls = {
        "layer": ipywidgets.Dropdown(options=layers, value=layers[len(layers) // 2], description="layer"),
        "share": ipywidgets.FloatSlider(0.5, min=0.1, max=1.0, step=0.1, description="share kept", continuous_update=False),
        "criterion": ipywidgets.Dropdown(options=channel_sets.CRITERIA, value="ThiNet", description="criterion"),
    }
    return panel(controls, lambda chosen: contributions_view(model, images, split, **chosen))
