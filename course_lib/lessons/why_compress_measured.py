"""What notebook 00 measures: five networks as shapes, whole networks in a table, and figures of layers and caches."""

import copy
import platform
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import machine, models
from course_lib.data import Split
from course_lib.kmeans import kmeans_1d
from course_lib.notebook import Environment, plots
from course_lib.training import evaluate

CONVOLUTIONS = [f"conv{block}_{place}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for place in range(1, count + 1)]
VGG_NAMES = [*CONVOLUTIONS, "fc6", "fc7", "fc8"]  # of the paper
MB = 1e6
LABELS = {  # group of points -> layer -> the side of its point on which its name is written, and those of its neighbours
    "VGG-16, convolution": {"conv1_1": "left", "conv1_2": "below", "conv5_3": "left"},
    "VGG-16, dense": {"fc7": "right"},
    "LeNet-5": {"conv1": "left", "conv2": "right", "fc1": "right", "fc2": "right"},
}
NEIGHBOURS = {"fc7": "fc6, fc7, fc8"}  # whose points almost coincide
SIDES = {"left": ((-7, -1), "right"), "right": ((7, -1), "left"), "below": ((9, -8), "center")}  # offset, alignment
Compress = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def networks() -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    """Return five networks as shapes, without weights, and an image of the right shape for each."""
    from torchvision.models import get_model

    with torch.device("meta"):
        nets = {"LeNet-300-100": models.build("lenet-300-100"), "LeNet-5": models.build("lenet-5")}
        images = {name: torch.empty(1, 1, 28, 28) for name in nets}
        nets |= {name: get_model(name.lower().replace("-", "")).eval() for name in ("AlexNet", "VGG-16", "ResNet-50")}
        images |= {name: torch.empty(1, 3, 224, 224) for name in nets if name not in images}
    return nets | {"VGG-16": _with_the_papers_names(nets["VGG-16"])}, images


def _with_the_papers_names(vgg: nn.Module) -> nn.Sequential:
    """torchvision's VGG-16 as one sequence, its layers called conv1_1 to fc8."""
    names, parts = iter(VGG_NAMES), OrderedDict()
    for place, part in enumerate([*vgg.features, vgg.avgpool, nn.Flatten(), *vgg.classifier]):
        parts[next(names) if isinstance(part, nn.Conv2d | nn.Linear) else f"part{place}"] = part
    return nn.Sequential(parts).eval()


def whole_networks(
    nets: Mapping[str, nn.Module],
    images: Mapping[str, Tensor],
    layers: Mapping[str, pd.DataFrame],
    roof: machine.Roof,
    accuracy: Mapping[str, str],
    timed: Sequence[str],
    seconds: float,
) -> pd.DataFrame:
    """Return what each network costs for one image, on one thread: counted, at the roof, and measured.

    Args:
        nets: as `networks` returns them; a copy with made-up weights is timed.
        images: one for each network.
        layers: of each network, as `machine.traffic` returns them.
        roof: of this machine.
        accuracy: of each network, in words.
        timed: the networks to measure; the others get no time.
        seconds: of measuring, for each.
    """
    rows = []
    for name, net in nets.items():
        count, table = sum(p.numel() for p in net.parameters()), layers[name]
        dense = table.loc[table.kind == "dense", ["weights", "MACs"]].sum() / table[["weights", "MACs"]].sum()
        rows.append({
            "network": name, "accuracy": accuracy[name],
            "parameters (M)": f"{count / 1e6:.2f}", "weights in dense layers": f"{dense.weights:.0%}",
            "MACs (M)": f"{table.MACs.sum() / 1e6:,.1f}", "MACs in dense layers": f"{dense.MACs:.0%}",
            "MB": f"{4 * count / MB:.1f}", "estimate (ms)": f"{1e3 * machine.least_seconds(table, roof).sum():.2f}",
            "measured (ms)": f"{1e3 * _latency(net, images[name], seconds):.2f}" if name in timed else "",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _latency(net: nn.Module, image: Tensor, seconds: float) -> float:
    """Seconds of one image on one thread; the weights have some value or other, on which a time does not depend."""
    net = copy.deepcopy(net).to_empty(device="cpu").eval()
    for tensor in (*net.parameters(), *net.buffers()):
        nn.init.constant_(tensor, 0.01) if tensor.is_floating_point() else tensor.zero_()
    return machine.best_seconds(partial(net, torch.full(image.shape, 0.5)), seconds=seconds, cold=True)


def original_resnet(resnet: nn.Module) -> nn.Module:
    """Return torchvision's ResNet-50 with the strides where the original has them: in a block's first 1 x 1 convolution."""
    resnet = copy.deepcopy(resnet)
    for block in resnet.modules():
        if hasattr(block, "conv3"):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return resnet


def empty_calls(seconds: float) -> dict[str, float]:
    """Return the seconds of a cold call of a layer with a single weight, by its kind."""
    convolution = partial(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 1, 1))
    return {
        "dense": machine.call_seconds(seconds=seconds, cold=True),
        "convolution": machine.best_seconds(convolution, seconds=seconds, cold=True),
    }


def processor() -> str:
    """Return the name of this machine's processor, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def accuracies(env: Environment, names: Iterable[str]) -> dict[str, str]:
    """Return the test accuracy of the course's own networks, one trained network each, in words."""
    measured = {name: evaluate(env.baseline(name.lower()), env.splits.test) for name in names}
    return {name: f"{100 * accuracy:.2f} % ({env.splits.name})" for name, accuracy in measured.items()}


def placed(layers: pd.DataFrame, seconds: pd.Series) -> pd.DataFrame:
    """Return the intensity of the measured ones of some layers, in MACs per byte, and their rate in MACs per second."""
    layers = layers.loc[layers.index.intersection(seconds.index)]
    return pd.DataFrame({"intensity": machine.intensity(layers), "rate": layers.MACs / seconds[layers.index]})


def layer_table(layers: pd.DataFrame, roof: machine.Roof, seconds: pd.Series) -> pd.DataFrame:
    """Return what the measured layers do for one image: counted, at the roof, and measured."""
    layers = layers.loc[seconds.index]
    least = machine.least_seconds(layers, roof)
    table = pd.DataFrame({
        "MACs (M)": layers.MACs / 1e6, "MB": machine.bytes_moved(layers) / MB, "MACs per byte": machine.intensity(layers),
        "roof (ms)": 1e3 * least, "measured (ms)": 1e3 * seconds, "times the roof": seconds / least,
    })  # fmt: skip
    return table.round(2).rename_axis("one image").reset_index()


def shares_figure(vgg: pd.DataFrame) -> plt.Figure:
    """Draw each layer's share of VGG-16's weights and of its MACs."""
    share = 100 * vgg[["weights", "MACs"]] / vgg[["weights", "MACs"]].sum()
    fig, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 4.4), sharey=True)
    for ax, (what, values), colour in zip(axes, share.items(), plots.COLOURS, strict=False):
        ax.barh(share.index, values, color=colour)
        ax.set(xlabel=f"% of all {what}")
        ax.grid(False, axis="y")
    axes[0].invert_yaxis()
    fig.suptitle("Most weights of VGG-16 are in fc6, most MACs in convolutions", x=0.01, ha="left")
    return fig


def cache_figure(reading: Mapping[int, float], layers: Mapping[int, float], caches: Mapping[str, int]) -> plt.Figure:
    """Draw how fast arrays, and the weights of dense layers, of growing size are read.

    Args:
        reading: bytes of an array -> bytes per second.
        layers: bytes of a layer's weights -> bytes per second.
        caches: name -> bytes.
    """
    curves = {"an array, summed": reading, "a dense layer's weights": layers}
    fig = plots.lines(
        {name: [size / MB for size in curve] for name, curve in curves.items()},
        {name: [rate / 1e9 for rate in curve.values()] for name, curve in curves.items()},
        title=f"A dense layer reads fastest with {max(layers, key=layers.get) / MB:.1f} MB of weights",
        xlabel="size (MB, log scale)",
        ylabel="GB per second",
    )
    (ax,) = fig.axes
    ax.set(xscale="log", ylim=(0, 1.15 * ax.get_ylim()[1]))
    for name, size in caches.items():
        ax.axvline(size / MB, color=plots.INK, linestyle=":")
        ax.text(size / MB, ax.get_ylim()[1], f"{name} ", va="top", ha="right", color=plots.INK)
    ax.get_legend().remove()
    fig.legend(loc="outside lower center", ncols=1)
    fig.set_figheight(4.2)
    return fig


def roofline_figure(roof: machine.Roof, points: Mapping[str, pd.DataFrame], title: str) -> plt.Figure:
    """Draw layers below the roof of this machine, those of `LABELS` with their names.

    Args:
        roof: of this machine.
        points: group -> a row per layer with `intensity` and `rate`, MACs per byte and MACs per second.
        title: the finding.
    """
    groups = {name: (table.intensity, table.rate) for name, table in points.items()}
    fig = plots.roofline(roof.rate, roof.bandwidth, groups, title=title)
    (ax,) = fig.axes
    for group, colour in zip(points, plots.COLOURS, strict=False):
        for name, side in LABELS[group].items():
            if name in points[group].index:
                row, (away, align) = points[group].loc[name], SIDES[side]
                label = ", ".join(n for n in NEIGHBOURS.get(name, name).split(", ") if n in points[group].index)
                ax.annotate(label, (row.intensity, row.rate / 1e9), away, textcoords="offset points", color=colour, va="top",
                            ha=align)  # fmt: skip
    if legend := ax.get_legend():
        legend.remove()
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def model_gains(layers: pd.DataFrame, roof: machine.Roof, names: Iterable[str], batches: Sequence[int]) -> dict[str, list[float]]:
    """Return how many times faster each image of a batch is than a single image, at the roof: a list for each layer."""
    least = {batch: machine.least_seconds(layers, roof, batch) / batch for batch in batches}
    alone = machine.least_seconds(layers, roof)
    return {name: [alone[name] / each[name] for each in least.values()] for name in names}


def batch_figure(
    batches: Sequence[int], gains: Mapping[str, Sequence[float]], model: Mapping[str, Sequence[float]], title: str
) -> plt.Figure:
    """Draw how many times faster each image of a batch is than a single image, measured and at the roof (dashed)."""
    fig = plots.lines(batches, gains, title=title, xlabel="images per batch (log scale)", ylabel="times faster per image")
    (ax,) = fig.axes
    for name, colour in zip(gains, plots.COLOURS, strict=False):
        if name in model:
            ax.plot(batches, model[name], color=colour, linestyle="--", label=f"{name}, roofline model")
    ax.legend()
    ax.set(xscale="log", ylim=(0, None))
    ax.set_xticks(batches, [str(batch) for batch in batches])
    ax.minorticks_off()
    return fig


def tournament(net: nn.Module, split: Split, ways: Mapping[str, Compress], bits: int) -> pd.DataFrame:
    """Return the accuracy of a network after all of its dense layers were compressed, for each way to do it.

    Args:
        net: with dense layers; it is left as it was.
        split: what the accuracy is measured on.
        ways: name -> function of a weight tensor and the bits per weight that returns codes and codebook.
        bits: per weight.
    """
    dense = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    plain = sum(machine.FLOAT * net.get_submodule(name).weight.numel() for name in dense)
    rows = [("none, 32 bits per weight", plain, evaluate(net, split))]
    for way, compress in ways.items():
        size, copied = 0.0, copy.deepcopy(net)
        for name in dense:
            weight = copied.get_submodule(name).weight.data
            codes, codebook = compress(weight.cpu(), bits)
            weight.copy_(codebook[codes.long()])
            size += codes.numel() * bits / 8 + machine.FLOAT * len(codebook)
        rows.append((f"{way}, {bits} bits", size, evaluate(copied, split)))
    named = [(way, f"{size / 1e3:,.1f}", f"{100 * accuracy:.2f}") for way, size, accuracy in rows]
    return pd.DataFrame(named, columns=["codebook", "weights (kB)", "validation accuracy (%)"])


def clustered_codebook(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return codes and the codebook of the course's own k-means."""
    codebook, codes = kmeans_1d(weight, 2**bits)
    return codes, codebook


def even_codebook(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return codes and a codebook of values at equal distances between the least and the largest weight."""
    codebook = torch.linspace(float(weight.min()), float(weight.max()), 2**bits)
    step = (codebook[1] - codebook[0]).clamp(min=1e-12)
    return ((weight - codebook[0]) / step).round().long(), codebook
