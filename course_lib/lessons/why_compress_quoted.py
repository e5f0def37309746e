"""What notebook 00 quotes, each figure with its source: counts and results of the papers, energies, what a device can hold."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from torch import nn

from course_lib import cost
from course_lib.evidence import UNDECIDED
from course_lib.notebook import Claim, plots

ORIGINAL = "ResNet-50, original"  # as `why_compress_measured.original_resnet` builds it
ACCURACY = {  # top-1 on ImageNet, before any compression
    "AlexNet": "57.22 % (Han 2015)",
    "VGG-16": "68.50 % (Han 2015)",
    "ResNet-50": "72.88 % (Luo 2017)",
}
COMPRESSED = {"LeNet-5": 0.044, "AlexNet": 6.9, "VGG-16": 11.3}  # MB, Han et al. 2016
PUBLISHED = "Deep Compression, as published"
LIMITS = {  # MB
    "download": 100.0,  # of an app, from Apple's store without Wi-Fi; Han et al. 2016, section 1
    "flash": 1.0,  # of a microcontroller, an STM32F746; Lin et al. 2020, arXiv 2007.10319
}

SEVEN = [
    ("01", "Gong 2014", "AlexNet-like, ImageNet", "dense layers 16 to 24 times smaller", "top-5: about -1", "never"),
    ("02", "Han 2015", "VGG-16, ImageNet", "13 times fewer weights", "top-1: +0.16", "in rounds"),
    ("03", "Hu 2016", "VGG-16, ImageNet", "2.59 times fewer parameters", "top-1: +2.08 †", "in rounds"),
    ("04", "Li 2017", "VGG-16, CIFAR-10", "34 % fewer FLOPs, 64 % fewer parameters", "top-1: +0.15, best epoch", "once"),
    ("05", "Han 2016", "VGG-16, ImageNet", "file 49 times smaller, 552 to 11.3 MB", "top-1: +0.33", "in rounds"),
    ("06", "He 2017", "VGG-16, ImageNet", "5x speed-up by their own count, filters also factorized", "top-5: -0.3", "once"),
    ("07", "Luo 2017", "VGG-16, ImageNet", "3.31 times fewer FLOPs, 16.63 times fewer parameters", "top-1: -1.00", "each layer"),
]


def headlines() -> pd.DataFrame:
    """Return what each paper reports for its best-known network, in its own terms."""
    return pd.DataFrame(
        SEVEN, columns=["notebook", "paper", "network", "smaller or faster", "accuracy, change in points", "retrains"]
    )


def counts(nets: Mapping[str, nn.Module], layers: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return counts that the papers print beside ours; a MAC is two FLOPs, and VGG-16 is counted without biases, as there.

    Args:
        nets: the course's five networks.
        layers: of each and of `ORIGINAL`, as `machine.traffic` returns them.
    """
    vgg = layers["VGG-16"]
    lenet = sum(p.numel() for p in nets["LeNet-5"].parameters())
    resnet = sum(p.numel() for p in nets["ResNet-50"].parameters())
    flops = {name: 2 * table.MACs.sum() for name, table in layers.items()}
    rows = [
        ("LeNet-5, parameters", "431 K", "Han 2015", f"{lenet / 1e3:.0f} K"),
        ("LeNet-5, FLOPs", "4,586 K", "Han 2015", f"{flops['LeNet-5'] / 1e3:,.0f} K"),
        ("VGG-16, parameters without biases", "138.34 M", "Luo 2017", f"{vgg.weights.sum() / 1e6:.2f} M"),
        ("ResNet-50, parameters", "25.56 M", "Luo 2017", f"{resnet / 1e6:.2f} M"),
        ("ResNet-50, FLOPs", "7.72 G", "Luo 2017", f"{flops['ResNet-50'] / 1e9:.2f} G"),
        ("the original, stride in the 1 x 1 convolution", "", "", f"{flops[ORIGINAL] / 1e9:.2f} G"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["quantity", "paper", "from", "here"])


def paper_claims(layers: Mapping[str, pd.DataFrame], memory: pd.DataFrame, watts: float) -> list[Claim]:
    """Return what the papers' introductions claim, with our counts.

    Args:
        layers: network -> its layers, as `machine.traffic` returns them; also of `ORIGINAL`.
        memory: network x what lies in DRAM -> share of the network's energy that goes into memory.
        watts: of reading a billion weights 20 times per second.
    """
    vgg, alexnet, resnet = layers["VGG-16"], layers["AlexNet"], layers[ORIGINAL]
    held, held_alexnet, done = _dense_share(vgg, "weights"), _dense_share(alexnet, "weights"), _dense_share(vgg, "MACs")
    two = 100 * vgg.weights[["fc6", "fc7"]].sum() / vgg.weights.sum()
    convolutions = vgg.MACs[vgg.kind == "convolution"]
    fifth = 100 * convolutions.filter(like="conv5").sum() / convolutions.sum()
    flops, flops_resnet = (2e-9 * table.MACs.sum() for table in (vgg, resnet))
    low, high = memory.to_numpy().min(), memory.to_numpy().max()
    rows = [
        ("Han 2015: memory access dominates the energy", "five networks; by what DRAM holds", f"{low:.0%} to {high:.0%}",
         UNDECIDED if low < 0.5 < high else low > 0.5),
        ("Han 2015: 12.8 W for DRAM alone", "1 G connections, 20 Hz, 640 pJ", f"{watts:.1f} W", round(watts, 1) == 12.8),
        ("Gong 2014: over 90 % of weights are in dense layers", "AlexNet", f"{held_alexnet:.1f} %", held_alexnet > 90),
        ("Li 2017: dense layers hold 90 % of weights and do below 1 % of FLOPs", "VGG-16", f"{held:.1f} % and {done:.1f} %",
         round(held) in (89, 90) and done < 1),
        ("Luo 2017: VGG-16's dense layers hold 86 % of its parameters", f"all three; without fc8 {two:.1f} %",
         f"{held:.1f} %", round(held) == 86),
        ("He 2017: conv5 takes 9 % of the computation", "VGG-16, convolutions", f"{fifth:.1f} %", round(fifth) == 9),
        ("Luo 2017: 30.94 billion FLOPs", "VGG-16", f"{flops:.2f}", round(flops, 2) == 30.94),
        ("Luo 2017: 7.72 billion FLOPs", "ResNet-50, the original", f"{flops_resnet:.2f}", round(flops_resnet, 2) == 7.72),
    ]  # fmt: skip
    return [Claim(*texts, found if found == UNDECIDED else bool(found)) for *texts, found in rows]


def _dense_share(layers: pd.DataFrame, what: str) -> float:
    """Per cent of a column that the dense layers have."""
    return 100 * layers[what][layers.kind == "dense"].sum() / layers[what].sum()


def energy_figure() -> plt.Figure:
    """Draw what an operation on 32 bits costs in 45 nm."""
    names = {"int add": "integer addition", "float add": "float addition", "register": "register access",
             "int multiply": "integer product", "float multiply": "float product", "sram": "SRAM access",
             "dram": "DRAM access"}  # fmt: skip
    values = {names[name]: energy for name, energy in cost.ENERGY_PJ.items()}
    title = "A DRAM access takes far more energy than any arithmetic"
    fig = plots.bars(values, title=title, ylabel="energy (pJ, log scale), Han et al. 2015", form="{:g}", log=True)
    for bar in fig.axes[0].patches:  # one colour: the names say which is which
        bar.set_color(plots.BLUE)
    return fig


def sizes_figure(megabytes: Mapping[str, float]) -> plt.Figure:
    """Draw the size of networks, plain and after Deep Compression, against what devices can hold."""
    fig, ax = plt.subplots(figsize=(plots.WIDTH, 3.8))
    kinds = (megabytes, plots.SKY, "32 bits per weight", "left", 7), (COMPRESSED, plots.GREEN, PUBLISHED, "right", -7)
    for (sizes, colour, label, side, away), marker in zip(kinds, plots.MARKERS, strict=False):
        ax.scatter(list(sizes.values()), list(sizes), 50, color=colour, marker=marker, label=label, zorder=3)
        for name, size in sizes.items():
            ax.annotate(f"{size:.1f}" if size >= 1 else f"{size:g}", (size, name), (away, 0), textcoords="offset points",
                        ha=side, va="center", color=plots.INK)  # fmt: skip
    rows = len(megabytes)
    for place, (name, size) in enumerate(LIMITS.items()):
        foot = rows - 0.2 + 0.6 * place
        ax.plot([size, size], [-0.6, foot + 0.2], color=plots.VERMILION, linestyle=":")
        ax.text(1.12 * size, foot, f"{name}, {size:.0f} MB", va="center", color=plots.VERMILION)
    ax.set(xscale="log", xlabel="MB (log scale)", xlim=(0.005, 40_000), ylim=(rows + 0.9, -0.6))
    ax.set_yticks(range(rows), list(megabytes))
    ax.set_title("Compressed, VGG-16 falls below the limit for a download")
    fig.legend(loc="outside lower center", ncols=1)
    return fig
