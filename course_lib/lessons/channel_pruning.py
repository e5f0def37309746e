"""The figures and tables that notebook 06 makes of networks it prunes itself, the loop that prunes, and the tournament."""

import copy
import functools
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown
from torch import Tensor, nn

from course_lib import cost, data, least_squares, models, training
from course_lib.data import Split
from course_lib.experiments import channel_choices as choices
from course_lib.experiments import rows
from course_lib.experiments.channel_choices import LARGEST, LASSO, RESPONSE
from course_lib.notebook import plots, reveal
from course_lib.notebook.plots import BLUE, INK, WIDTH
from course_lib.papers import channel_pruning as paper
from course_lib.streams import stream

SHRUNKEN = "LASSO, trained weights times beta"
ARENA, CHANNELS, IMAGES = "conv4", 12, 300  # of the tournament: the layer, how many channels it may read, and the images


def reveal_points(guesses: Mapping[str, Any], table: pd.DataFrame, lines: Sequence[int]) -> None:
    """Print guesses of points lost beside those of some lines of `cost_table`; its first line is the whole network."""
    accuracy = table["accuracy (%)"].astype(float)
    for (name, guess), line in zip(guesses.items(), lines, strict=True):
        reveal(f"points lost, {name}", guess, f"{accuracy[0] - accuracy[line]:.1f}")


def heart() -> Markdown:
    """Return the loop of `paper.prune` as it stands in its source."""
    source = textwrap.dedent(inspect.getsource(paper.prune))
    start, end = source.index("    for reader, (name"), source.index("        row = dict(")
    return Markdown(f"`course_lib/papers/channel_pruning.py`, in `prune`\n```python\n{textwrap.dedent(source[start:end])}```")


def shared(weight: Tensor, layer: choices.Layer, keep: int) -> int:
    """Return how many of the channels that the LASSO keeps are also among as many with the largest contributions."""
    ways = choices.ways_of_choosing(weight, layer.seen, layer.strongest, keep)
    return len(set(ways[LASSO].tolist()) & set(ways[LARGEST].tolist()))


def path_figure(weight: Tensor, layer: choices.Layer, name: str, keep: int, keeps: Sequence[int]) -> plt.Figure:
    """Draw the path of the penalty, and below it the error by the number of channels, before and after least squares.

    Args:
        weight: of the layer, (n, c, p).
        layer: from `channel_choices.layers_of`.
        name: of the layer.
        keep: how many channels are blue in the path; one of `keeps`.
        keeps: numbers of channels of the second picture.
    """
    errors = _errors(weight, layer, keeps)
    before, after = (errors[way][keeps.index(keep)] for way in (SHRUNKEN, LASSO))
    title = f"With {keep} of {name}'s channels the refit cuts the error from {before:.0f} to {after:.0f} %"
    fig, (path, curves) = plt.subplots(2, 1, figsize=(WIDTH, 6.4))
    _draw_path(path, weight, layer.seen, keep)
    curves.plot(keeps, errors.pop(SHRUNKEN), "--", color=BLUE, label=SHRUNKEN)
    for (way, curve), marker, colour in zip(errors.items(), plots.MARKERS, plots.COLOURS, strict=False):  # as in figure 4
        size = 8 if way == LASSO else 4.5  # it shows where another curve covers it
        curves.plot(keeps, curve, marker=marker, markersize=size, color=colour, label=way)
    curves.set(xlabel=f"channels kept, of {len(layer.strongest)}", ylabel="error, new images (%)", ylim=(0, None))
    fig.legend(*curves.get_legend_handles_labels(), loc="outside lower center")
    fig.suptitle(title, x=0.01, ha="left")
    return fig


def _errors(weight: Tensor, layer: choices.Layer, keeps: Sequence[int]) -> dict[str, list[float]]:
    """Way of choosing -> reconstruction error on new images after least squares; for the LASSO before it as well."""
    errors: dict[str, list[float]] = {SHRUNKEN: [], LASSO: [], LARGEST: [], RESPONSE: []}
    for count in keeps:
        beta = choices.lasso_at(layer.seen, weight, count)[1].to(weight)
        errors[SHRUNKEN].append(choices.reconstruction_error(layer.unseen, beta[:, None] * weight))
        ways = choices.ways_of_choosing(weight, layer.seen, layer.strongest, count)
        for way in (LASSO, LARGEST, RESPONSE):
            fitted = least_squares.refit(layer.seen, ways[way])[0]
            errors[way].append(choices.reconstruction_error(layer.unseen, fitted))
    return errors


def _draw_path(ax: plt.Axes, weight: Tensor, seen: least_squares.Moments, keep: int) -> None:
    """Draw beta of each channel against the penalty, in blue those that are kept."""
    penalties, betas = paper.lasso_path(*paper.contributions(seen, weight), seen.samples)
    kept = paper.choose(seen, weight, keep).tolist()
    gone = [i for i in range(betas.shape[1]) if i not in kept]
    x = penalties / penalties[0]
    ax.plot(x, betas[:, gone], color=INK, linewidth=0.6)
    ax.plot(x, betas[:, kept], color=BLUE, linewidth=0.9)
    ax.set(xlabel="penalty (1 removes all channels)", ylabel="beta of a channel", xlim=(0, 1))
    ax.set_title(f"blue: the {keep} channels that are kept")


def cost_table(networks: Mapping[str, nn.Module], split: Split, seconds: float) -> pd.DataFrame:
    """Return accuracy and cost of networks, a line each.

    Args:
        networks: name -> network.
        split: the images that accuracy is measured on; the first 64 are timed.
        seconds: how long a latency is measured.
    """
    batch, lines = split.images[:64], []
    for name, model in networks.items():
        layers = cost.count(model, batch[:1])
        one, many = (1000 * cost.measure(model, batch[:n], seconds) for n in (1, 64))
        lines.append(
            {
                "network": name, "accuracy (%)": f"{100 * training.evaluate(model, split):.2f}",
                "parameters": f"{int(layers.weights.sum()):,}", "MACs (million)": f"{layers.MACs.sum() / 1e6:.1f}",
                "file (kB)": f"{rows.file_bytes(model) / 1000:,.0f}", "ms, 1 image": f"{one:.2f}", "ms, 64": f"{many:.1f}",
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


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


# The tournament: the same network and images on every machine and at every scale


@functools.cache
def arena() -> tuple[Tensor, dict[str, least_squares.Moments]]:
    """Return the weight of the arena's layer, (n, c, p), and its moments on training, validation and test images."""
    splits = data.load("mnist-m")
    model = models.pretrained("vgg-small", "mnist-m")
    parts = {part: getattr(splits, part).images[:IMAGES] for part in ("train", "validation", "test")}
    found = {part: choices.moments_of(model, ARENA, images, 10, stream(0, "arena", part)) for part, images in parts.items()}
    return model.get_submodule(ARENA).weight.detach().flatten(2), found


def tournament(channels: Sequence[int], part: str = "validation") -> float:
    """Return the error of the arena's layer when it reads only these channels, refitted on training images, in percent.

    Args:
        channels: `CHANNELS` indices, no two alike.
        part: 'train', 'validation' or 'test': the images by which the layer is judged.

    Raises:
        ValueError: another number of channels, or one of them twice.
    """
    if len(set(channels)) != CHANNELS or len(channels) != CHANNELS:
        raise ValueError(f"channels holds {len(set(channels))} different ones of {len(channels)}; expected {CHANNELS}")
    seen = arena()[1]
    return choices.reconstruction_error(seen[part], least_squares.refit(seen["train"], list(channels))[0])


def rivals() -> dict[str, list[int]]:
    """Return the channels that the LASSO and the largest contribution choose in the arena."""
    weight, seen = arena()
    energies = paper.contributions(seen["train"], weight)[0].diagonal()
    chosen = {LASSO: paper.choose(seen["train"], weight, CHANNELS), LARGEST: energies.topk(CHANNELS).indices}
    return {way: sorted(kept.tolist()) for way, kept in chosen.items()}
