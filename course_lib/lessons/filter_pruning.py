"""What notebook 04 shows beside its live cells: costs, the three complaints, and the paper's own tables."""

import copy
import ctypes
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor, nn

from course_lib import cost, data, masks, models, surgery
from course_lib.data import Split, Splits
from course_lib.experiments.filter_plans import PAPER
from course_lib.notebook import plots
from course_lib.papers import filter_pruning as paper
from course_lib.papers import weight_pruning
from course_lib.storage import networks
from course_lib.training import evaluate

# The paper's plans: filters pruned, and layers left whole; a residual block's first convolution has an even number
PAPER_PLANS = {
    "VGG-16-A": ("half of conv1 and of conv8 to conv13", "all others"),
    "ResNet-56-A": ("10 % of each block's first convolution", "16, 20, 38, 54"),
    "ResNet-56-B": ("60, 30, 10 % of first convolutions, by stage", "16, 18, 20, 34, 38, 54"),
    "ResNet-110-A": ("50 % of first convolutions in stage 1", "36"),
    "ResNet-110-B": ("50, 40, 30 % of first convolutions, by stage", "36, 38, 74"),
    "ResNet-34-A, ImageNet": ("30, 30, 30 % of first convolutions in stages 1 to 3", "2, 8, 14, 16, 26, 28, 30, 32"),
    "ResNet-34-B, ImageNet": ("50, 60, 40 % of first convolutions in stages 1 to 3", "2, 8, 14, 16, 26, 28, 30, 32"),
    "ResNet-34-C, ImageNet": ("20 % of the sums of stage 3", "all others"),
}
# What `filter_plans.PAPER` does not hold: parameters saved in percent, and a plan without a counterpart here
FEWER_PARAMETERS = {
    "VGG-16-A": 64.0, "ResNet-56-A": 9.4, "ResNet-56-B": 13.7, "ResNet-110-A": 2.3, "ResNet-110-B": 32.4,
}  # fmt: skip
# Liu et al. 2019, tables of filter pruning: accuracy in percent
LIU = [
    ("VGG-16-A", 93.41, 93.62, 93.78),
    ("ResNet-56-A", 92.97, 92.96, 93.09),
    ("ResNet-56-B", 92.67, 92.54, 93.05),
    ("ResNet-110-A", 93.14, 93.25, 93.22),
    ("ResNet-110-B", 92.69, 92.89, 93.60),
    ("ResNet-34-A, ImageNet", 72.56, 72.77, 73.08),
    ("ResNet-34-B, ImageNet", 72.29, 72.55, 72.84),
]
RESNET_34_C = ("ResNet-34-C, ImageNet", "26.77 -> 27.52", "-", "7.5 %", "-")
LOAD = (
    "import sys; from course_lib import models; from course_lib.storage import networks;"
    "model = networks.load(sys.argv[1], models.build('vgg-small'));"
    "print(model(models.example_input('vgg-small')).sum().item())"
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
EVERY_LAYER = {f"conv{number}": 0.86 for number in range(1, 7)}  # one share for all layers, 73 % of vgg-small's MACs


def with_zeros(model: nn.Module, share: float) -> nn.Module:
    """Return a copy in which this share of each layer's weights, the smallest, is zero, as notebook 02 prunes them."""
    zeros = copy.deepcopy(model)
    layers = masks.weight_layers(zeros)
    masks.apply(zeros, {f"{name}.weight": weight_pruning.sparsity_mask(layer.weight, share) for name, layer in layers.items()})
    return zeros


def norms_figure(model: nn.Module, layers: Sequence[str]) -> plots.plt.Figure:
    """Draw the sorted L1 norms of each layer's filters over the layer's largest (figure 2a)."""
    norms = {layer: paper.filter_norms(model.get_submodule(layer).weight) for layer in layers}
    curves = {layer: (values / values.max()).sort(descending=True).values.tolist() for layer, values in norms.items()}
    means = [np.mean(curve) for curve in curves.values()]
    fig = plots.lines(
        {layer: np.linspace(0, 100, len(curve)) for layer, curve in curves.items()}, curves,
        title=f"A layer's mean norm is {min(means):.0%} to {max(means):.0%} of its largest",
        xlabel="filters, sorted by norm (%)", ylabel="L1 norm over the layer's largest",
    )  # fmt: skip
    for line in fig.axes[0].lines:
        line.set_markevery(0.1)
    fig.axes[0].get_legend().remove()
    fig.legend(loc="outside lower center", ncols=3)
    fig.set_figheight(4.0)
    return fig


def keep_freed_memory() -> None:
    """Make Linux's malloc keep what a forward pass frees for the next one; do nothing where it has no such setting.

    By default it depends on what the process did before whether the memory of large feature maps is returned after every pass
    and fetched anew, page by page, in the next. That costs vgg-small (17 MB a map, 128 images) a quarter of its time, and a
    network of half its width nothing, so that its speed-up would change from cell to cell.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_TRIM_THRESHOLD, 2**30)  # bytes free at the end of the heap from which they are returned
        mallopt(M_MMAP_THRESHOLD, 2**25)  # bytes from which a block is returned when it is freed: the most that may be set


def latencies(shapes: Mapping[str, nn.Module], batch: Tensor, *, turns: int, seconds: float) -> dict[str, list[float]]:
    """Return the milliseconds of each network for one image and for the batch, the least of several turns.

    The networks take turns, so that other work on the machine hits all of them alike.
    """
    keep_freed_memory()
    found = {name: [np.inf, np.inf] for name in shapes}
    for _ in range(turns):
        for name, network in shapes.items():
            times = [1000 * cost.measure(network, images, seconds) for images in (batch[:1], batch)]
            found[name] = [min(pair) for pair in zip(found[name], times, strict=True)]
    return found


def costs(shapes: Mapping[str, nn.Module], test: Split, times: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Return what each network costs: accuracy, parameters, MACs, bytes and milliseconds.

    Args:
        shapes: name -> network.
        test: what the accuracy is measured on.
        times: from `latencies`.
    """
    lines = []
    for name, network in shapes.items():
        macs = int(cost.count(network, test.images[:1]).MACs.sum())
        parameters = sum(parameter.numel() for parameter in network.parameters())
        accuracy = f"{100 * evaluate(network, test):.2f} %"
        figures = accuracy, f"{parameters:,}", f"{macs / 1e6:.1f} M", f"{cost.bytes_on_disk(network) / 1000:,.0f} kB"
        lines.append((name, *figures, *(f"{ms:.2f}" for ms in times[name])))
    columns = ["network", "test accuracy", "parameters", "MACs", "file", "ms, 1 image", "ms, batch"]
    return pd.DataFrame(lines, columns=columns)


def complaints(dense: nn.Module, narrow: nn.Module, times: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Return the three complaints about pruned networks, measured: the file, the time, and loading it in a fresh process.

    Args:
        dense: a vgg-small.
        narrow: the same after surgery.
        times: 'dense' and 'narrow' -> milliseconds for one image and for a batch.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.safetensors" for name in ("dense", "narrow")]
        for path, network in zip(paths, (dense, narrow), strict=True):
            networks.save(network, path)
        sizes = [path.stat().st_size for path in paths]
        there = float(subprocess.run([sys.executable, "-c", LOAD, paths[1]], capture_output=True, text=True, check=True).stdout)
    image = models.example_input("vgg-small").to(next(narrow.parameters()).device)
    here = narrow(image).sum().item()
    if abs(there - here) > 1e-4:
        raise ValueError(f"the scores add up to {there} in a fresh process and to {here} here")
    lines = [
        ("Is the file smaller?", *(f"{size / 1000:,.0f} kB" for size in sizes)),
        ("Is the network faster? (a batch)", *(f"{times[name][1]:.0f} ms" for name in ("dense", "narrow"))),
        ("Can it be loaded in a fresh process?", "-", f"yes, the sum of its scores differs by {abs(there - here):.0e}"),
    ]
    return pd.DataFrame(lines, columns=["", "vgg-small", "half of every layer"])


def tied_layers(model: nn.Module, layers: Sequence[str], image: Tensor) -> pd.DataFrame:
    """Return which layers lose filters together with each of `layers`, and which lose input channels."""
    tied, lines = surgery.couplings(model, image), []
    for layer in layers:
        others = sorted(set(tied[layer].producers) - {layer}) or ["nothing else"]
        lines.append((layer, ", ".join(others), ", ".join(sorted(tied[layer].consumers))))
    return pd.DataFrame(lines, columns=["to cut", "is cut with it", "lose input channels"])


def paper_plans() -> pd.DataFrame:
    """Return which filters each of the paper's plans prunes, and which layers it leaves whole."""
    lines = [(name, *plan) for name, plan in PAPER_PLANS.items()]
    return pd.DataFrame(lines, columns=["plan", "filters pruned", "layers left whole"])


def paper_results() -> pd.DataFrame:
    """Return the paper's tables 1 and 2: top-1 errors before and after, from scratch, and what each plan saves."""
    lines = []
    for (network, plan), found in PAPER.items():
        first, _, rest = network.partition(",")
        name = f"{first}-{plan}" + (f",{rest}" if rest else "")
        scratch = f"{found.scratch:.2f}" if found.scratch else "-"
        parameters = f"{FEWER_PARAMETERS[name]} %" if name in FEWER_PARAMETERS else "-"
        lines.append((name, f"{found.dense:.2f} -> {found.pruned:.2f}", scratch, f"{found.fewer_macs} %", parameters))
    columns = ["plan", "top-1 error (%)", "from scratch (%)", "fewer FLOPs", "fewer parameters"]
    return pd.DataFrame([*lines, RESNET_34_C], columns=columns)


def liu() -> pd.DataFrame:
    """Return what Liu et al. (2019) measured for the paper's plans: accuracies after fine-tuning and from scratch."""
    return pd.DataFrame(LIU, columns=["plan", "fine-tuned†", "scratch-E†, equal epochs", "scratch-B†, equal MACs"])


def fewer(splits: Splits, train: int) -> Splits:
    """Return the data with this many training images, and as many test images at most."""
    return dataclasses.replace(splits, train=splits.train.take(train), test=splits.test.take(min(train, len(splits.test.labels))))


@cache
def arena() -> tuple[nn.Module, Split, Split]:
    """Return what the tournament is played on: vgg-small for the embedded photographs with digits, and images of it."""
    splits = data.load("mnist-m")
    return models.pretrained("vgg-small", "mnist-m"), splits.validation.take(500), splits.test.take(500)


@cache
def _start(split: str) -> tuple[float, float]:
    model, *splits = arena()
    return 100 * evaluate(model, splits[split == "test"]), float(cost.count(model, models.example_input("vgg-small")).MACs.sum())


def tournament(plan: Mapping[str, float], split: str = "validation") -> tuple[float, float]:
    """Return the share of MACs that a plan leaves in the arena, and the points of accuracy that it loses, not retrained.

    Args:
        plan: layer -> share of its filters that stay; the smallest L1 norms are removed.
        split: 'validation' or 'test'.
    """
    model, *splits = arena()
    accuracy, macs = _start(split)
    narrow = paper.prune(model, None, dict(plan)).model
    left = float(cost.count(narrow, models.example_input("vgg-small")).MACs.sum())
    return left / macs, accuracy - 100 * evaluate(narrow, splits[split == "test"])
