"""The panel of notebook 04: which filters of a layer are removed, and what that does to the network."""

from collections.abc import Iterable, Mapping
from functools import partial

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from course_lib import cost, surgery
from course_lib.data import Split
from course_lib.experiments.tails import Tail
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import VERMILION
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, accuracy_axis, canvas, in_words
from course_lib.papers.filter_pruning import filter_norms
from course_lib.surgery.keeping import strongest
from course_lib.surgery.readers import layers_with_one_reader, next_layer
from course_lib.training import evaluate

Kernels = tuple[np.ndarray, np.ndarray, str, str]
ORDERS = ("smallest", "random", "largest")
PLACES = ((0.13, 0.17, 0.36, 0.66), (0.61, 0.17, 0.36, 0.66))


def kept_by(norms: Tensor, share: float, order: str) -> Tensor:
    """Return the filters that stay, ascending.

    Args:
        norms: of the filters of a layer, (n,).
        share: to remove, in [0, 1).
        order: which are removed first, one of ORDERS.
    """
    random = torch.rand(len(norms), generator=torch.Generator().manual_seed(0))
    return strongest({"smallest": norms, "random": random, "largest": -norms}[order], 1.0 - share, "filters")


def measure(
    model: nn.Sequential, tails: Mapping[str, Tail], example_input: Tensor, whole: tuple[float, int], setting: Setting
) -> Measured:
    """Return the MACs that are left, in percent, the accuracy without retraining, and the places of the removed filters.

    Args:
        model: a trained network.
        tails: layer -> what comes after it.
        example_input: an image (1, ...).
        whole: accuracy of the model in percent, and its MACs.
        setting: layer, share of its filters to remove, and order: which are removed first.
    """
    layer = setting["layer"]
    norms = filter_norms(model.get_submodule(layer).weight).cpu()
    kept = kept_by(norms, setting["share"], setting["order"])
    narrower = surgery.narrow(model, {layer: kept}, example_input)
    macs = 100 * float(cost.count(narrower, example_input).MACs.sum()) / whole[1]
    accuracy = 100 * tails[layer].accuracy(narrower, kept)
    stays = set(kept.tolist())
    removed = [place for place, filter in enumerate(norms.argsort(descending=True).tolist()) if filter not in stays]
    readout = (
        f"{layer} without {len(removed)} of {len(norms)} filters: {100 - macs:.1f} % fewer MACs; "
        f"{in_words(accuracy, whole[0], len(tails[layer].read.labels))}"
    )
    return Measured(macs, accuracy, readout, dict(layer=layer, removed=removed), setting["order"])


def kernels(model: nn.Module, layers: Iterable[str], example_input: Tensor) -> dict[str, Kernels]:
    """Return the L1 norm of each kernel of each layer and of the layer that reads it, the name of that, and what its rows are.

    Rows are a layer's filters and columns its input channels. The first layer's filters, and so the columns of the second,
    are in the order of their norms, the largest first.
    """
    found = {}
    for layer in layers:
        weight = model.get_submodule(layer).weight.detach().cpu()
        reader, columns = next_layer(model, layer, example_input)
        read = model.get_submodule(reader).weight.detach().cpu()[:, columns].abs().flatten(2).sum(2)
        order = filter_norms(weight).argsort(descending=True)
        rows = "outputs" if isinstance(model.get_submodule(reader), nn.Linear) else "filters"
        found[layer] = (weight.abs().flatten(2).sum(2)[order].numpy(), read[:, order].numpy(), reader, rows)
    return found


def draw(norms: Mapping[str, Kernels], now: Measured, before: Measured | None) -> plt.Figure:
    """Draw the kernels of a layer and of the next, and in vermilion which are removed: rows here, columns there.

    Args:
        norms: from `kernels`.
        now: of this setting.
        before: of the one before: filters that were removed there and stay now are shaded lighter.
    """
    layer, removed = now.detail["layer"], now.detail["removed"]
    here, following, reader, rows = norms[layer]
    came_back = set(before.detail["removed"]) - set(removed) if before and before.detail["layer"] == layer else ()
    fig, (left, right) = canvas(3.2, *PLACES)
    for ax, picture, axis in ((left, here, "y"), (right, following, "x")):
        ax.imshow(picture, cmap="gray_r", aspect="auto", interpolation="nearest", alpha=0.7)
        for places, strength in ((removed, 0.85), (sorted(came_back), 0.3)):
            _shade(ax, places, axis, strength)
        ax.set(xticks=[], yticks=[])
    left.set(title=f"{layer} loses rows", ylabel=f"{len(here)} filters, by norm", xlabel=f"{here.shape[1]} input channels")
    right.set(title=f"{reader} loses columns", ylabel=f"{len(following)} {rows}", xlabel=f"filters of {layer}, by norm")
    return fig


def _shade(ax: plt.Axes, places: Iterable[int], axis: str, strength: float) -> None:
    """Shades rows (axis 'y') or columns ('x') of a picture; neighbours together."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.isin(np.arange(max([*places, 0]) + 1), list(places)), [0]])))
    for first, after in edges.reshape(-1, 2):
        span = ax.axhspan if axis == "y" else ax.axvspan
        span(first - 0.5, after - 0.5, color=VERMILION, alpha=strength, linewidth=0)


def panel(model: nn.Sequential, split: Split) -> Panel:
    """Return the panel for a chain of convolutions.

    Args:
        model: a trained network.
        split: what the accuracy is measured on; each layer's inputs on these images are kept in memory.
    """
    image = split.images[:1]
    layers = list(layers_with_one_reader(model, image))
    controls = {
        "layer": ipywidgets.Dropdown(options=layers, value=layers[-1], description="layer"),
        "share": ipywidgets.FloatSlider(
            0.5, min=0.0, max=0.9, step=0.05, description="share removed", readout_format=".0%", continuous_update=False
        ),
        "order": ipywidgets.Dropdown(options=ORDERS, description="remove first the"),
    }
    whole = 100 * evaluate(model, split), int(cost.count(model, image).MACs.sum())
    aim = Goal("save at least 10 % of the MACs, with at most 2 points of accuracy lost", 90, whole[0] - 2)
    size = Axis("MACs left (%, log scale)", (70, 75, 80, 85, 90, 95, 100))
    memory = Memory(size, accuracy_axis(whole[0]), aim, ways=ORDERS)
    tails = {layer: Tail(model, layer, split) for layer in layers}
    answer = partial(measure, model, tails, image, whole)
    return Panel(controls, answer, partial(draw, kernels(model, layers, image)), aim, memory)
