"""What notebook 06 shows of one trained network beside its cells: the LASSO's path."""

import copy
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from course_lib import least_squares
from course_lib.experiments import channel_choices as choices
from course_lib.experiments.channel_choices import LARGEST, LASSO, RESPONSE
from course_lib.notebook import plots
from course_lib.notebook.plots import COLOURS
from course_lib.papers import channel_pruning as paper


def _draw_path(ax: plt.Axes, weight: Tensor, seen: least_squares.Moments, kept: Sequence[int]) -> None:
    """Draw beta of each channel by the penalty, those of `kept` in blue."""
    gram, products = paper.contributions(seen, weight)
    penalties, betas = paper.lasso_path(gram, products, seen.samples)
    gone = [i for i in range(len(gram)) if i not in set(kept)]
    ax.plot(penalties, betas[:, gone], color="lightgrey", linewidth=0.8)
    ax.plot(penalties, betas[:, kept], color=COLOURS[0], linewidth=0.8)
    ax.set(xlabel="penalty", ylabel="beta of a channel")
    ax.set_xscale("symlog", linthresh=float(penalties[0]) / 1000)


def path_figure(model: nn.Module, layer: choices.Layer, name: str, keep: int, keeps: Sequence[int]) -> plt.Figure:
    """Draw the path of the penalty, and the reconstruction error by the number of channels, before and after least squares.

    Args:
        model: a trained network; it is left as it was.
        layer: from `channel_choices.layers_of`.
        name: of the layer.
        keep: how many channels are blue in the path.
        keeps: numbers of channels of the second picture.
    """
    weight = model.get_submodule(name).weight.detach().flatten(2)
    seen, unseen, strongest = layer
    errors: dict[str, list[float]] = {"LASSO, weights times beta": []}
    for count in keeps:
        beta = choices.lasso_at(seen, weight, count)[1].to(weight)
        errors["LASSO, weights times beta"].append(choices.reconstruction_error(unseen, beta[:, None] * weight))
        for way, kept in choices.ways_of_choosing(weight, seen, strongest, count).items():
            if way in (LASSO, LARGEST, RESPONSE):
                fitted = least_squares.refit(seen, kept)[0]
                errors.setdefault(f"{way}, least squares", []).append(choices.reconstruction_error(unseen, fitted))
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6))
    _draw_path(left, weight, seen, paper.choose(seen, weight, keep).tolist())
    left.set_title(f"blue: the {keep} of {len(strongest)} channels that last longest")
    for (way, curve), marker in zip(errors.items(), plots.MARKERS, strict=False):
        right.plot(keeps, curve, marker=marker, markersize=4, label=way)
    right.set(xlabel=f"channels kept, of {len(strongest)}", ylabel="reconstruction error, new images (%)", ylim=(0, None))
    right.legend(fontsize=8)
    worst = errors["LASSO, weights times beta"][keeps.index(keep)] / errors["LASSO, least squares"][keeps.index(keep)]
    title = f"{name} with {keep} channels: least squares makes the error {worst:.1f} times smaller"
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


@torch.no_grad()
def recalibrated(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy whose batch norms have statistics of these images; least squares leaves outputs with less variance."""
    model = copy.deepcopy(model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
    for batch in images.split(250):
        model(batch)
    return model.eval()
