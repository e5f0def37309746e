"""The panel of notebook 07: which channels a criterion removes from a layer, and what the next layer and the network lose."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor, nn

from course_lib import cost, surgery
from course_lib.data import Split
from course_lib.experiments import channel_sets, one_shot
from course_lib.experiments.tails import Tail
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import BLUE, VERMILION
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, accuracy_axis, canvas, in_words
from course_lib.papers import network_trimming, thinet
from course_lib.papers.filter_pruning import filter_norms
from course_lib.surgery.keeping import strongest
from course_lib.surgery.readers import fold_scales, layers_with_one_reader
from course_lib.training import evaluate

PLACE = (0.15, 0.27, 0.82, 0.62)


class Layer(NamedTuple):
    """What is known of a layer before any of its channels is removed."""

    contributions: Tensor  # (m, C), of its channels to outputs of the next layer
    apoz: Tensor  # (C,)
    tail: Tail


def layers_of(model: nn.Sequential, names: list[str], images: Tensor, split: Split) -> dict[str, Layer]:
    """Return what the panel needs of some layers.

    Args:
        model: a trained network.
        names: of the layers.
        images: (N, ...), training images for the choice.
        split: what the accuracy is measured on.
    """
    zeros = network_trimming.apoz(model, Split(images, images.new_zeros(len(images))), names)
    return {
        name: Layer(thinet.channel_contributions(model, name, images), zeros[name], Tail(model, name, split)) for name in names
    }


def kept_by(criterion: str, model: nn.Module, name: str, layer: Layer, keep: int, images: Tensor) -> Tensor:
    """Return the filters that a criterion of `channel_sets.CRITERIA` keeps, (keep,), ascending."""
    if criterion == channel_sets.FORWARD:
        return thinet.matching_pursuit(layer.contributions, keep)
    if criterion in one_shot.BY_SUM:
        return thinet.channels_to_keep(layer.contributions, keep)
    if criterion == one_shot.L1:
        return strongest(filter_norms(model.get_submodule(name).weight), keep, name)
    if criterion == one_shot.APOZ:
        return strongest(-layer.apoz, keep, name)
    return channel_sets.kept_by(criterion, model, name, keep, images)


def measure(
    model: nn.Sequential, layers: Mapping[str, Layer], images: Tensor, whole: tuple[float, int], setting: Setting
) -> Measured:
    """Return the MACs that are left, in percent, the accuracy without retraining, and which channels are removed.

    Args:
        model: a trained network.
        layers: from `layers_of`.
        images: (N, ...), training images for the choice.
        whole: accuracy of the model in percent, and its MACs.
        setting: layer, share of its filters to keep, and criterion.
    """
    name, criterion = setting["layer"], setting["criterion"]
    layer, image = layers[name], images[:1]
    contributions = layer.contributions
    kept = kept_by(criterion, model, name, layer, max(1, round(setting["share"] * contributions.shape[1])), images)
    narrower, loss = surgery.keep_channels(model, name, kept, image), channel_sets.lost(contributions, kept)
    if criterion in channel_sets.RESCALED:
        scales = thinet.rescale(contributions[:, kept], contributions.sum(1))
        narrower, loss = fold_scales(narrower, name, scales, image), channel_sets.lost(contributions, kept, scales)
    macs = 100 * float(cost.count(narrower, image).MACs.sum()) / whole[1]
    accuracy = 100 * layer.tail.accuracy(narrower, kept)
    readout = (
        f"{criterion} keeps {len(kept)} of {contributions.shape[1]} filters of {name}: {100 - macs:.1f} % fewer MACs, "
        f"{100 * loss:.1f} % of the next layer's output lost; {in_words(accuracy, whole[0], len(layer.tail.read.labels))}"
    )
    return Measured(macs, accuracy, readout, dict(layer=name, kept=kept.tolist()), criterion)


def energies(contributions: Tensor) -> np.ndarray:
    """Return the energy of each channel's contribution as a share of the output's, in percent, (C,)."""
    contributions = contributions.double()
    return (100 * contributions.square().sum(0) / contributions.sum(1).square().sum()).cpu().numpy()


def draw(energy: Mapping[str, np.ndarray], now: Measured, before: Measured | None) -> plt.Figure:
    """Draw each channel's contribution to the next layer, removed ones in vermilion; the choice before as a strip below.

    The axes depend on the layer alone, so that bars can be compared from setting to setting.

    Args:
        energy: layer -> `energies`.
        now: of this setting.
        before: of the one before.
    """
    layer = now.detail["layer"]
    order = energy[layer].argsort()[::-1]
    heights, edges = energy[layer][order], np.linspace(0, 100, len(order) + 1)
    fig, ax = canvas(3.0, PLACE)
    top, told = 1.3 * heights[0], before if before and before.detail["layer"] == layer else None
    strip = np.full(len(order), -0.04 * top)
    for found, bottom, tops, look in ((now, 0.0, heights, {}), (told, -0.12 * top, strip, dict(alpha=0.4))):
        if found:
            stays = np.isin(order, found.detail["kept"])
            for part, colour, name in ((stays, BLUE, "kept"), (~stays, VERMILION, "removed")):
                drawn = ax.stairs(np.where(part, tops, bottom), edges, baseline=bottom, fill=True, color=colour, **look)
                drawn.set_label(name if found is now else None)
    ax.set(ylim=(-0.16 * top, top), xlim=(0, 100), ylabel="energy (% of output)")
    removed = abs(energy[layer].sum() - energy[layer][now.detail["kept"]].sum())  # abs: rounding must not make it -0
    ax.set_title(f"The removed bars add up to {removed:.0f} %")
    ax.set_xlabel("channels, largest contribution first (%)" + ("\n(strip: the choice before)" if told else ""))
    ax.legend(loc="upper right", ncols=2)
    return fig


def panel(model: nn.Sequential, images: Tensor, split: Split) -> Panel:
    """Return the panel for a chain of convolutions.

    Args:
        model: a trained network.
        images: (N, ...), training images for the choice.
        split: what the accuracy is measured on; each layer's inputs on these images are kept in memory.
    """
    names = list(layers_with_one_reader(model, images[:1]))
    controls = {
        "layer": ipywidgets.Dropdown(options=names, value=names[len(names) // 2], description="layer"),
        "share": ipywidgets.FloatSlider(
            0.5, min=0.1, max=1.0, step=0.05, description="share kept", readout_format=".0%", continuous_update=False
        ),
        "criterion": ipywidgets.Dropdown(options=channel_sets.CRITERIA, description="criterion"),
    }
    whole = 100 * evaluate(model, split), int(cost.count(model, images[:1]).MACs.sum())
    aim = Goal("save at least 15 % of the MACs, with at most 2 points of accuracy lost", 85, whole[0] - 2)
    size = Axis("MACs left (%, log scale)", (70, 75, 80, 85, 90, 95, 100))
    memory = Memory(size, accuracy_axis(whole[0]), aim, ways=channel_sets.CRITERIA)
    layers = layers_of(model, names, images, split)
    energy = {name: energies(layer.contributions) for name, layer in layers.items()}
    return Panel(controls, partial(measure, model, layers, images, whole), partial(draw, energy), aim, memory)
