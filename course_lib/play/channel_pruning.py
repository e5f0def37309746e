"""The panel of notebook 06: the penalty of the LASSO, dragged along its path, and what the channels that are left explain."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from course_lib import least_squares
from course_lib.experiments import channel_choices as choices
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import BLUE, INK
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, canvas
from course_lib.papers import channel_pruning as paper
from course_lib.streams import stream

INVERTED = "inverted"  # keeps what the LASSO would prune, as some libraries do
WAYS = (choices.LASSO, choices.LARGEST, choices.RESPONSE, choices.RANDOM, INVERTED)
STEP = 0.02  # of the penalty
AIMED = "conv4"  # the layer of the goal
HALF, EXPLAINED = 50, 82  # percent
PLACE = (0.13, 0.18, 0.84, 0.70)


class Path(NamedTuple):
    """The LASSO of one layer at all penalties, from the strongest on."""

    penalties: np.ndarray  # (k,), as shares of the first, which removes every channel
    betas: Tensor  # (k, c)
    energies: Tensor  # of the channels' contributions, (c,)


def path_of(model: nn.Module, name: str, layer: choices.Layer) -> Path:
    """Return the path of a layer of `channel_choices.layers_of`."""
    gram, products = paper.contributions(layer.seen, model.get_submodule(name).weight.detach().flatten(2))
    penalties, betas = paper.lasso_path(gram, products, layer.seen.samples)
    return Path((penalties / penalties[0]).numpy(), betas, gram.diagonal())


def alive(path: Path, penalty: float) -> int:
    """Return how many channels a penalty leaves, at least one."""
    at = int((path.penalties > penalty).sum())  # the first knot that is not stronger
    between = path.betas[max(at - 1, 0) : at + 1] != 0
    return max(1, int(between.any(0).sum()) if penalty < 1 else 0)


def kept_by(way: str, path: Path, strongest: Tensor, keep: int) -> Tensor:
    """Return the channels that a way of choosing keeps, (keep,).

    Args:
        way: one of WAYS.
        path: of the layer.
        strongest: of the layer, (c,).
        keep: how many.
    """
    c = len(strongest)
    if way == choices.LASSO:
        return paper.survivors(path.betas, path.energies, keep)
    if way == INVERTED:
        pruned = paper.survivors(path.betas, path.energies, c - keep).tolist() if keep < c else []
        return torch.tensor(sorted(set(range(c)) - set(pruned)))
    draw = torch.randperm(c, generator=torch.Generator().manual_seed(stream(0, "random channels"))).argsort()
    return {choices.LARGEST: path.energies, choices.RESPONSE: strongest, choices.RANDOM: -draw}[way].topk(keep).indices


def measure(layers: Mapping[str, choices.Layer], paths: Mapping[str, Path], setting: Setting) -> Measured:
    """Return the channels that are left, in percent, and what they explain of the layer's output on new images, in percent.

    Args:
        layers: from `channel_choices.layers_of`.
        paths: of these layers.
        setting: layer, penalty as a share of the strongest, and way of choosing as many channels as it leaves.
    """
    name, penalty, way = setting["layer"], setting["penalty"], setting["way"]
    layer, path = layers[name], paths[name]
    c, keep = path.betas.shape[1], alive(path, penalty)
    kept = kept_by(way, path, layer.strongest, keep)
    explained = 100 * least_squares.explained(layer.unseen, least_squares.refit(layer.seen, kept)[0])
    readout = (
        f"A penalty of {penalty:.2f} leaves {keep} of the {c} channels that {name} reads. The {keep} chosen by {way} "
        f"explain {explained:.1f} % of its output."
    )
    detail = dict(layer=name, penalty=penalty, kept=kept.tolist())
    return Measured(100 * keep / c, explained, readout, detail, way)


def draw(paths: Mapping[str, Path], now: Measured, before: Measured | None) -> plt.Figure:
    """Draw beta of each channel along the path, the chosen channels in blue, with the penalty and, dashed, the one before.

    Args:
        paths: layer -> its path.
        now: of this setting.
        before: of the one before.
    """
    path, kept = paths[now.detail["layer"]], now.detail["kept"]
    x = np.linspace(0, 1, 41)
    y = np.array([np.interp(x, path.penalties[::-1], beta) for beta in path.betas.T.numpy()[:, ::-1]])
    fig, ax = canvas(3.0, PLACE)
    for channels, colour, width in ((np.delete(y, kept, axis=0), INK, 0.4), (y[kept], BLUE, 0.7)):
        breaks = np.full((len(channels), 1), np.nan)  # all lines as one: much faster
        ax.plot(np.tile([*x, np.nan], len(channels)), np.hstack([channels, breaks]).ravel(), color=colour, linewidth=width)
    if before:
        ax.axvline(before.detail["penalty"], color=INK, linewidth=1.2, linestyle="--", alpha=0.6)
    ax.axvline(now.detail["penalty"], color=INK, linewidth=2)
    ends = [bound for one in paths.values() for bound in (float(one.betas.min()), float(one.betas.max()))]
    ax.set(xlim=(0, 1), ylim=(min(ends) - 0.05, max(ends) + 0.05))
    ax.set(xlabel="penalty (1 removes all channels)", ylabel="beta of a channel")
    ax.set_title(f"{now.detail['layer']}: blue channels are kept")
    return fig


def panel(model: nn.Module, layers: Mapping[str, choices.Layer]) -> Panel:
    """Return the panel for some layers of a network, as `channel_choices.layers_of` gives them."""
    paths = {name: path_of(model, name, layer) for name, layer in layers.items()}
    start = AIMED if AIMED in layers else next(iter(layers))
    controls = {
        "layer": ipywidgets.Dropdown(options=list(layers), value=start, description="layer"),
        "penalty": ipywidgets.FloatSlider(0.6, min=0.0, max=1.0, step=STEP, description="penalty", continuous_update=False),
        "way": ipywidgets.Dropdown(options=WAYS, description="choose channels by"),
    }
    size = Axis("channels kept (%, log scale)", (2, 5, 10, 20, 50, 100))
    score = Axis("output explained (%)", (0, 50, 80, 90, 95, 98, 99), whole=100)
    words = f"explain at least {EXPLAINED} % of {AIMED}'s output with at most half of its channels"
    aim = Goal(words, HALF, EXPLAINED, lambda found: found.detail["layer"] == AIMED)
    memory = Memory(size, score, aim, ways=WAYS)
    return Panel(controls, partial(measure, layers, paths), partial(draw, paths), aim, memory, over=dict(penalty=PLACE))
