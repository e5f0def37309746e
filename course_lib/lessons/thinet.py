"""What notebook 07 shows beside its cells: choices on networks at hand, their costs, and the paper's tables for ImageNet."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from course_lib import cost, surgery
from course_lib.data import Split, Splits
from course_lib.experiments import channel_sets
from course_lib.experiments import thinet_tables as tables
from course_lib.notebook import plots
from course_lib.papers import thinet as paper
from course_lib.papers.filter_pruning import filter_norms
from course_lib.surgery.readers import layers_with_one_reader
from course_lib.training import evaluate

# ImageNet: parameters in millions and FLOPs in billions, a MAC counting as 2
PAPER_SIZES = {
    "VGG-16": (138.34, 30.94),
    "ThiNet-Conv": (131.44, 9.58),
    "ThiNet-GAP": (8.32, 9.34),
}
# Network, top-1 / top-5 accuracy (%), parameters, FLOPs. A dagger: not verified in the paper's text
PAPER_IMAGENET = (
    ("VGG-16", "68.34 / 88.44", "138.34 M", "30.94 B"),
    ("ThiNet-Conv", "69.80 / 89.53", "131.44 M", "9.58 B"),
    ("ThiNet-GAP", "67.34 / 87.92", "8.32 M", "9.34 B"),
    ("ThiNet-Tiny", "59.34 / 81.97", "1.32 M", "2.01 B"),
    ("SqueezeNet†", "57.67 / 80.39", "1.24 M", "1.72 B"),
    ("ResNet-50", "72.88 / 91.14", "25.56 M", "7.72 B"),
    ("ThiNet-70", "72.04 / 90.67", "16.94 M", "4.88 B"),
    ("ThiNet-50†", "71.01 / 90.02", "12.38 M", "3.41 B"),
    ("ThiNet-30†", "68.42 / 88.30", "8.66 M", "2.20 B"),
)
# VGG-16 on ImageNet: change of top-1 / top-5 in points, and what is how many times less
PAPER_RIVALS = (
    ("ThiNet-Conv", "+1.46 / +1.09", "3.23x fewer FLOPs"),
    ("weight sum, by ThiNet's schedule†", "+1.01 / +0.69", "3.23x fewer FLOPs"),
    ("APoZ (notebook 03)†", "-2.16 / -0.84", "2.04x fewer parameters"),
    ("APoZ (notebook 03)†", "+1.81 / +1.25", "2.70x fewer parameters"),
    ("Taylor (Molchanov 2017)†", "not quoted / -1.44", "2.68x fewer FLOPs"),
    ("Taylor (Molchanov 2017)†", "not quoted / -3.94", "3.86x fewer FLOPs"),
)
# CUB-200 with 7 % of the FLOPs left, as `tables.PAPER_CRITERIA` has it for more; read off the same plot
AT_7 = {"ThiNet": 34.5, "ThiNet, not rescaled": 25.2, "L1": 4.9, "APoZ": 0.9, "random": 1.9}
VGG_16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
THIN = (*(width // 2 for width in VGG_16[:10]), *VGG_16[10:])  # conv1_1 to conv4_3 at half their width
FILE = "bytes on disk, sparse"


def rank_correlations(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return, for each layer, the rank correlation of its filters' L1 norms with the energies that their channels contribute."""
    found = {}
    for layer in layers_with_one_reader(model, images[:1]):
        energy = paper.channel_contributions(model, layer, images).double().square().sum(0)
        size = filter_norms(model.get_submodule(layer).weight)
        ranks = (pd.Series(values.detach().cpu().numpy()).rank() for values in (size, energy))
        found[layer] = float(next(ranks).corr(next(ranks)))
    return found


def correlations_figure(found: Mapping[str, float]) -> plt.Figure:
    """Draw the rank correlation of size and contribution of the filters of each layer."""
    lowest, highest = min(found, key=found.get), max(found, key=found.get)
    title = f"Filter size predicts the contribution best in {highest}, worst in {lowest}"
    fig = plots.bars(found, title=title, ylabel="rank correlation")
    for bar in fig.axes[0].patches:  # layers need no colours of their own
        bar.set_facecolor(plots.BLUE)
    return fig


def one_layer(model: nn.Module, layer: str, keep: int, images: Tensor, unseen: Tensor, test: Split) -> pd.DataFrame:
    """Return what each criterion's choice of `keep` filters costs the next layer's output and the network, not retrained.

    Args:
        model: a trained network.
        layer: the one that is pruned.
        keep: how many of its filters stay.
        images: (N, ...), training images, for choice and factors, and to renew batch norm statistics.
        unseen: (N, ...), other images, on which the loss of the output is measured.
        test: what the accuracy is measured on.
    """
    seen, held_out = (paper.channel_contributions(model, layer, x) for x in (images, unseen))
    choices = {name: channel_sets.kept_by(name, model, layer, keep, images) for name in channel_sets.CRITERIA}
    choices["LASSO's choice, ThiNet's factors"] = channel_sets.chosen_by_lasso(model, layer, keep, images)
    lines = []
    for name, kept in choices.items():
        rescaled = name in channel_sets.RESCALED or name not in channel_sets.CRITERIA
        factors = paper.rescale(seen[:, kept], seen.sum(1)) if rescaled else 1.0
        narrow = paper.prune_layer if rescaled else lambda model, layer, kept, x: surgery.keep_channels(model, layer, kept, x[:1])
        pruned = narrow(model, layer, kept, images)
        before = evaluate(pruned, test)
        update_bn(images.split(100), pruned)
        lost = channel_sets.lost(held_out, kept, factors)
        lines.append((name, f"{100 * lost:.1f}", f"{100 * before:.1f}", f"{100 * evaluate(pruned, test):.1f}"))
    columns = [f"{keep} filters of {layer} kept by", "output lost (%)", "accuracy (%)", "statistics renewed (%)"]
    return pd.DataFrame(lines, columns=columns)


def costs(networks: Mapping[str, nn.Module], split: Split) -> pd.DataFrame:
    """Return accuracy, parameters, MACs, bytes of a file and time for one image, a line per network."""
    lines = []
    for name, model in networks.items():
        totals = cost.report(model, split.images[:1]).totals()
        lines.append(
            {
                "network": name,
                "accuracy": f"{evaluate(model, split):.1%}",
                "parameters": f"{totals['parameters']:,.0f}",
                "MACs": f"{totals['MACs'] / 1e6:.1f} M",
                "file": f"{totals[FILE] / 1000:,.0f} kB",
                "time for 1 image": f"{1000 * totals['latency of 1 image(s)']:.2f} ms",
            }
        )
    return pd.DataFrame(lines)


def percent(model: nn.Module, split: Split) -> str:
    """Return the accuracy of a network in percent, in words."""
    return f"{100 * evaluate(model, split):.1f} %"


def steps_table(record: pd.DataFrame) -> pd.DataFrame:
    """Return the layers of a pruned network in order, with the accuracy after each cut and after each tuning."""
    table = record.assign(layer=record.layer.fillna("at the end"), kept=record.kept.map("{:.0f}".format, na_action="ignore"))
    table["MACs"] = table.MACs.map(lambda macs: f"{macs / 1e6:.1f} M")
    table["points gained"] = (100 * (table.retrained - table.pruned)).map("{:+.1f}".format)
    table[["pruned", "retrained"]] = table[["pruned", "retrained"]].map("{:.1%}".format)
    return table.fillna("-").rename(columns={"retrained": "tuned"})


def tournament(model: nn.Module, splits: Splits, keep: Mapping[str, int], seed: int = 0) -> tuple[int, float]:
    """Return the MACs of exercise 3's network, and the sum over its layers of the output that each loses alone, on new images."""
    images, others = (paper.sample_images(split, 10, seed) for split in (splits.train, splits.validation))
    narrow = surgery.narrow(model, {layer: range(number) for layer, number in keep.items()}, images[:1])
    lost = sum(channel_sets.losses_alone(model, keep, images, others, seed).values())
    return int(cost.count(narrow, images[:1]).MACs.sum()), lost


def swaps(model: nn.Module, splits: Splits, best_swap: Callable[[Tensor, list[int]], Sequence[int]]) -> str:
    """Return what exercise 1's swaps, until none helps, win back of the greedy choice's loss, in a sentence."""
    contributions = paper.channel_contributions(model, "conv3", paper.sample_images(splits.train, 5)).double()
    half = contributions.shape[1] // 2
    removed, count = paper.greedy_removal(contributions, half).sort().values.tolist(), 0
    sums = [contributions[:, removed].sum(1).square().sum().item()]
    while count < 100 and (found := [int(channel) for channel in best_swap(contributions, removed)]) != removed:
        removed, count = found, count + 1
    sums.append(contributions[:, removed].sum(1).square().sum().item())
    before, after = (100 * value / contributions.sum(1).square().sum().item() for value in sums)
    words = f"{count} swap{'s' * (count != 1)}"
    return f"half of conv3 removed: greedy removal loses {before:.2f} % of the output, after {words} {after:.2f} %"


def losses_by_strength(
    model: nn.Module, splits: Splits, rescale_gently: Callable[[Tensor, Tensor, float], Tensor], strengths: Sequence[float]
) -> list[float]:
    """Return the share of conv5's output lost on new images with half of conv4, chosen and rescaled from 30 samples.

    Args:
        model: vgg-small.
        splits: samples are of training images, losses of validation images.
        rescale_gently: exercise 2's function.
        strengths: of its penalty, a loss for each.
    """
    images, others = (paper.sample_images(split.take(2_000), n) for split, n in ((splits.train, 3), (splits.validation, 20)))
    few = paper.channel_contributions(model, "conv4", images, positions=1)
    unseen = paper.channel_contributions(model, "conv4", others)
    kept = paper.channels_to_keep(few, few.shape[1] // 2)
    return [channel_sets.lost(unseen, kept, rescale_gently(few[:, kept], few.sum(1), strength)) for strength in strengths]


def papers_criteria() -> pd.DataFrame:
    """Return the paper's comparison of criteria, top-1 in percent after fine-tuning."""
    columns = [f"{left} %" for left in (*tables.LEFT, 7)]
    figures = {name: (*cited, AT_7[name]) for name, cited in tables.PAPER_CRITERIA.items()}
    table = pd.DataFrame.from_dict(figures, orient="index", columns=columns).map("{:.1f}".format)
    return table.rename_axis("VGG-16† (mean over positions) on CUB-200, whole 71.2; top-1 (%) with FLOPs left").reset_index()


def imagenet_table() -> pd.DataFrame:
    """Return the paper's networks on ImageNet, with the sizes that follow from shapes where we counted them."""
    sizes = head_sizes()
    lines = [
        (*line, f"{sizes.parameters[line[0]]:.2f} M, {sizes.FLOPs[line[0]]:.2f} B" if line[0] in sizes.index else "-")
        for line in PAPER_IMAGENET
    ]
    columns = ["network (ImageNet)", "top-1 / top-5 (%)", "parameters", "FLOPs", "counted here, from shapes"]
    return pd.DataFrame(lines, columns=columns)


def rivals_table() -> pd.DataFrame:
    """Return the paper's comparison with other methods on VGG-16."""
    return pd.DataFrame(PAPER_RIVALS, columns=["VGG-16 (ImageNet), pruned by", "change of top-1 / top-5 (points)", "saved"])


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
