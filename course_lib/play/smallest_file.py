"""The panel of notebook 09: a finished file loses more weights, and a coder writes it again."""

from collections.abc import Callable
from functools import cache, partial

import ipywidgets
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from course_lib.challenge import rewriting
from course_lib.data import Split
from course_lib.experiments.smallest import with_gaps
from course_lib.notebook.panels import Panel, Setting
from course_lib.notebook.plots import COLOURS, INK
from course_lib.notebook.tries import Axis, Goal, Measured, Memory, accuracy_axis, canvas, in_words
from course_lib.storage import CodedTensor, CompressedNetwork

LAYER = "fc1"  # whose weights are removed: it has four fifths of them
SORTED, SHUFFLED = ORDERS = ("sorted by density", "shuffled")
CODERS = ("context", "ans", "huffman")  # the last two with gaps
BYTES, LOST = 1_450, 0.5  # of the goal; points of accuracy against the file as it is
PUBLISHED = {1140: "0.98 %", 1694: "0.83 %", 2840: "1.0 %"}  # bytes -> test error
PLACE = (0.04, 0.36, 0.92, 0.6)


def importance(file: CompressedNetwork, images: Tensor) -> Tensor:
    """Return the mean square of each weight's product with its input, over images; for the weights of `LAYER`."""
    model = rewriting.rebuilt(file)
    squares: list[Tensor] = []
    handle = model.get_submodule(LAYER).register_forward_hook(lambda _, inputs, __: squares.append(inputs[0].square().mean(0)))
    with torch.inference_mode():
        model(images)
    handle.remove()
    return rewriting.levels(file, LAYER).float() ** 2 * squares[0]


def without(file: CompressedNetwork, scores: Tensor, share: float) -> CompressedNetwork:
    """Return the file without the least important weights of `LAYER`: a share of those that it has, in percent."""
    weights = rewriting.levels(file, LAYER).flatten()
    left = weights.nonzero().flatten()
    weights[left[scores.flatten()[left].argsort()[: round(share / 100 * len(left))]]] = 0
    return rewriting.with_levels(file, {LAYER: weights})


def shuffled(file: CompressedNetwork, seed: int = 0) -> CompressedNetwork:
    """Return the same network with its filters and neurons in random order."""
    random, tensors, order = torch.Generator().manual_seed(seed), {}, None
    names = [name.removesuffix(".weight") for name in file.tensors if name.endswith("weight")]
    for name in names:
        weight, bias = (file.tensors[f"{name}.{kind}"] for kind in ("weight", "bias"))
        values = weight.codes.view(weight.shape).flatten(1)
        if order is not None:
            values = values.unflatten(1, (len(order), -1))[:, order].flatten(1)
        order = torch.randperm(len(values), generator=random) if name != names[-1] else torch.arange(len(values))
        tensors[f"{name}.weight"] = CodedTensor(weight.shape, weight.codebook, values[order].flatten(), weight.gaps, 0)
        tensors[f"{name}.bias"] = CodedTensor(bias.shape, bias.codebook, bias.codes[order], bias.gaps, 0)
    return CompressedNetwork(file.network, tensors, file.coder)


def measure(
    whole: float, images: int, accuracy: Callable[[float], float], removed: Callable[[float], CompressedNetwork], setting: Setting
) -> Measured:
    """Return the bytes of the file and the accuracy of its network in percent.

    Args:
        whole: the accuracy of the file as it is.
        images: on how many.
        accuracy: share removed -> accuracy in percent.
        removed: share removed -> the file.
        setting: share in percent, order and coder.
    """
    file, right = removed(setting["share"]), accuracy(setting["share"])
    file = file if setting["order"] == SORTED else shuffled(file)
    file = file if setting["coder"] == "context" else with_gaps(file, setting["coder"])
    size = rewriting.size(file)
    readout = (
        f"{setting['share']} % of {LAYER}'s weights removed, {setting['order']}, {setting['coder']}: {size:,} bytes; "
        f"{in_words(right, whole, images)}"
    )
    return Measured(float(size), right, readout, {}, setting["coder"])


def draw(now: Measured, before: Measured | None) -> plt.Figure:
    """Draw the bytes of the file as a bar, those of the setting before as a frame, and published sizes as lines."""
    fig, ax = canvas(1.9, PLACE)
    ax.barh([0], [now.size], 0.5, color=COLOURS[CODERS.index(now.way)])
    if before:
        ax.barh([0], [before.size], 0.75, fill=False, edgecolor=INK, alpha=0.5)
    for size, name in PUBLISHED.items():
        ax.axvline(size, color=INK, linewidth=1, linestyle=":")
        ax.annotate(name, (size, 0.98), (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points", va="top")
    ax.set(xlim=(0, 3_200), ylim=(-0.5, 1.1), xlabel="bytes of the file; dotted: published files of LeNet-5", yticks=[])
    return fig


def panel(file: CompressedNetwork, split: Split) -> Panel:
    """Return the panel for a file of the course."""
    controls = {
        "share": ipywidgets.IntSlider(0, min=0, max=60, step=5, description=f"removed of {LAYER} (%)", continuous_update=False),
        "order": ipywidgets.Dropdown(options=ORDERS, description="neurons"),
        "coder": ipywidgets.Dropdown(options=CODERS, value="huffman", description="coder"),
    }
    scores = importance(file, split.images[:500])
    head, tail = _halves(rewriting.rebuilt(file))
    with torch.inference_mode():
        features = torch.cat([head(part) for part in split.images.split(250)])

    @cache
    def removed(share: float) -> CompressedNetwork:
        return without(file, scores, share)

    @cache
    def accuracy(share: float) -> float:
        tail[0].weight.data = rewriting.levels(removed(share), LAYER).float()
        return rewriting.accuracy(tail, features, split.labels)

    whole = accuracy(0)
    answer = partial(measure, whole, len(split.labels), accuracy, removed)
    words = f"a file of at most {BYTES:,} bytes that loses at most {LOST:g} points"
    aim = Goal(words, BYTES, whole - LOST)
    axis = Axis("bytes of the file (log scale)", (800, 1_000, 1_200, 1_500, 2_000, 3_000))
    return Panel(controls, answer, draw, aim, Memory(axis, accuracy_axis(whole), aim, ways=CODERS))


def _halves(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """The layers before `LAYER`, and it with those after it."""
    parts = list(model.named_children())
    at = [name for name, _ in parts].index(LAYER)
    return nn.Sequential(*(module for _, module in parts[:at])), nn.Sequential(*(module for _, module in parts[at:]))
