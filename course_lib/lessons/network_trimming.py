"""The figures and small tables of notebook 03 that are computed from networks at hand."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from course_lib import activations, cost, surgery
from course_lib.data import Split, Splits
from course_lib.experiments import network_trimming as runs
from course_lib.experiments.tails import Tail
from course_lib.notebook import plots
from course_lib.papers import network_trimming
from course_lib.streams import stream
from course_lib.surgery.inputs import inputs_of, readers_of
from course_lib.training import evaluate

# CONV5-3 and FC6 of VGG-16 after each round, and the accuracies that we can quote: top-1 / top-5 in percent (check)
VGG_16 = ((512, 4096), (488, 3477), (451, 2937), (430, 2479), (420, 2121), (400, 1787), (390, 1513))
QUOTED = {(512, 4096): "68.36 / 88.44 %", (390, 1513): "70.44 / 89.79 %"}
VGG_PARAMETERS, VGG_MACS = 138_357_544, 15_470_264_320  # of the whole network
DRAWS = 20  # random choices in the tournament: their errors spread so widely that the mean of five still moves by points


@torch.no_grad()
def means_put_back(model: nn.Module, keep: Mapping[str, Tensor], images: Tensor) -> nn.Module:
    """Return a narrower network in which the layers behind the removed neurons read these neurons' mean as part of their biases.

    Args:
        model: a trained network of convolutions and dense layers; it is left as it was.
        keep: layer, read by one dense layer -> the neurons that stay, in ascending order.
        images: (N, ...) on which the means are taken.
    """
    narrower, sources = surgery.narrow(model, keep, images[:1]), inputs_of(model, None, images[:1])
    readers = readers_of(sources)
    means = activations.watch(model, {readers[layer]: lambda _layer, inputs, _outputs: inputs.mean(0) for layer in keep}, images)
    for layer, stays in keep.items():
        reader = readers[layer]
        gone = torch.ones(len(sources[reader].columns), dtype=torch.bool).index_fill(0, stays.cpu(), False)
        columns = sources[reader].columns[gone].flatten()
        shift = model.get_submodule(reader).weight[:, columns] @ means[reader][columns]
        narrower.get_submodule(reader).bias += shift[keep.get(reader, slice(None))]
    return narrower


def vgg16_table() -> pd.DataFrame:
    """Return the paper's rounds on VGG-16: widths, parameters and MACs as counted here, and the accuracies as quoted."""

    def of_trimmed_layers(conv: int, dense: int) -> tuple[int, int]:
        weights = 512 * 9 * conv, 49 * conv * dense, 4096 * dense  # of CONV5-3, FC6 and FC7, which reads FC6
        return sum(weights) + conv + dense, 196 * weights[0] + weights[1] + weights[2]

    whole, lines = of_trimmed_layers(*VGG_16[0]), []
    for number, widths in enumerate(VGG_16):
        there = of_trimmed_layers(*widths)
        parameters, macs = VGG_PARAMETERS - whole[0] + there[0], VGG_MACS - whole[1] + there[1]
        ratios = f"{VGG_PARAMETERS / parameters:.2f}x", f"{VGG_MACS / macs:.2f}x"
        quoted = QUOTED.get(widths, "not known")
        lines.append((number or "-", "{}, {}".format(*widths), f"{parameters / 1e6:.1f} M", *ratios, quoted))
    columns = ["round", "CONV5-3, FC6 †", "parameters", "fewer parameters", "fewer MACs", "top-1 / top-5 on ImageNet †"]
    return pd.DataFrame(lines, columns=columns)


def zeros_figure(outputs: Tensor) -> plt.Figure:
    """Draw which outputs of a layer are positive: a row per image, a column per neuron, those that are zero most often first."""
    zero = (outputs == 0).cpu()
    zero = zero[:, zero.double().mean(0).argsort(descending=True)]
    fig, ax = plt.subplots()
    ax.imshow(~zero, cmap=ListedColormap(["none", plots.BLUE]), interpolation="nearest", aspect="auto")
    ax.set(xlabel="neuron of fc1, most zeros first", ylabel="image, digits 0 to 9")
    ax.set_title(f"{100 * zero.double().mean():.0f} % of the outputs are zero, spread unevenly (blue: positive)")
    ax.grid(False)
    return fig


@torch.no_grad()
def top_images_figure(model: nn.Module, split: Split, across: int = 10) -> plt.Figure:
    """Draw the images that give four neurons of fc1 their largest outputs, a row per neuron under its APoZ.

    A row's title names the digit on whose images the neuron's outputs have the largest sum, and that sum's part of the whole.

    Args:
        model: a `Sequential` whose first nine modules end in the ReLU of fc1.
        split: the images to choose from.
        across: images in a row.
    """
    outputs = torch.cat([model[:9](images) for images in split.images.split(500)]).cpu()  # (N, C)
    apoz = (outputs == 0).double().mean(0)
    by_digit = torch.stack([outputs[split.labels.cpu() == digit].sum(0) for digit in range(10)])  # (10, C)
    part = by_digit.max(0).values / by_digit.sum(0).clamp(min=1e-9)
    rare = ((apoz > 0.8) & (apoz < 0.95)).nonzero().flatten()
    one_digit = rare[part[rare].argmax()]
    near = rare[(apoz[rare] - apoz[one_digit]).abs() < 0.05]
    neurons = [one_digit, near[part[near].argmin()], (apoz - 0.5).abs().argmin(), apoz.argmin()]
    fig, axes = plt.subplots(len(neurons), 1, figsize=(plots.WIDTH, 3.6))
    for ax, neuron in zip(axes, neurons, strict=True):
        best = outputs[:, neuron].topk(across).indices
        ax.imshow(plots.tiles(split.images[best.to(split.images.device), 0].cpu().numpy(), across), cmap="gray")
        favourite = f"{100 * part[neuron]:.0f} % of its output comes from images of {by_digit[:, neuron].argmax()}"
        ax.set_title(f"APoZ {apoz[neuron]:.2f}: {favourite}", fontsize=plots.TEXT)
        ax.axis("off")
    return fig


def apoz_figure(apoz: Mapping[str, Tensor]) -> plt.Figure:
    """Draw the neurons of each layer by their APoZ, layers below each other, those above mean + standard deviation marked."""
    fig, axes = plt.subplots(len(apoz), 1, figsize=(plots.WIDTH, 1.5 * len(apoz) + 0.7), sharex=True)
    for ax, (layer, shares) in zip(np.atleast_1d(axes), apoz.items(), strict=True):
        values, threshold = shares.cpu().numpy(), (shares.mean() + shares.std(correction=0)).item()
        both = [values[values <= threshold], values[values > threshold]]
        ax.hist(both, bins=25, range=(0, 1), stacked=True, color=(plots.BLUE, plots.VERMILION))
        ax.axvline(threshold, color=plots.INK, linewidth=1.3, linestyle="--")
        ax.set(
            title=f"{layer}: mean {values.mean():.2f}; {len(both[1])} of {len(values)} above {threshold:.2f}", ylabel="neurons"
        )
        ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    np.atleast_1d(axes)[-1].set_xlabel("APoZ; the dashed line is mean + std")
    means = {layer: shares.mean().item() for layer, shares in apoz.items()}
    most = max(means, key=means.__getitem__)
    fig.suptitle(f"{most} is zero most often: its mean APoZ is {means[most]:.2f}", x=0.01, ha="left")
    return fig


def costs_table(networks: Mapping[str, nn.Module], test: Split) -> pd.DataFrame:
    """Return a line per network: test accuracy, parameters, MACs, bytes of its file and milliseconds per image."""
    example, lines = test.images[:1], []
    for name, model in networks.items():
        totals = cost.report(model, example).totals()
        figures = [f"{totals[quantity]:,.0f}" for quantity in ("parameters", "MACs")]
        size, time = cost.bytes_on_disk(model), 1e3 * cost.measure(model, example)
        lines.append((name, f"{100 * evaluate(model, test):.2f} %", *figures, f"{size / 1e3:,.0f} kB", f"{time:.2f} ms"))
    return pd.DataFrame(lines, columns=["network", "test accuracy", "parameters", "MACs", "file", "one image takes"])


def thresholds_table(model: nn.Module, apoz: Mapping[str, Tensor], test: Split) -> pd.DataFrame:
    """Return widths, rate and error after one step of the rule, not retrained, by the deviations of its threshold."""
    lines = []
    for stds in (0.0, 0.5, 1.0, 1.5, 2.0):
        kept = {layer: network_trimming.neurons_to_keep(shares, stds) for layer, shares in apoz.items()}
        narrower = surgery.narrow(model, kept, test.images[:1])
        rate = f"{runs.size(model) / runs.size(narrower):.2f}x"
        lines.append((f"mean + {stds:g} std", *map(len, kept.values()), rate, f"{runs.error(narrower, test):.2f} %"))
    return pd.DataFrame(lines, columns=["threshold", *apoz, "fewer parameters", "error, not retrained"])


@torch.no_grad()
def effects_of_removal(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return how far the network's outputs move, on average, when one channel of conv2 or one neuron of fc1 alone is removed.

    Args:
        model: a `Sequential` whose first five modules end in the ReLU of conv2, and the first nine in that of fc1.
        images: (N, ...) over which the means are taken.

    Returns:
        Layer name -> (C,), the mean absolute change over images and outputs.
    """
    effects, whole = {}, model(images)
    for layer, end in (("conv2", 5), ("fc1", 9)):
        outputs, moves = model[:end](images), []
        for channel in range(outputs.shape[1]):
            without = outputs.clone()
            without[:, channel] = 0
            moves.append((model[end:](without) - whole).abs().mean())
        effects[layer] = torch.stack(moves).cpu()
    return effects


def effects_figure(model: nn.Module, images: Tensor, apoz: Mapping[str, Tensor], widths: Mapping[str, int]) -> plt.Figure:
    """Draw each neuron's effect on the network's outputs by its APoZ and by its L1 norm, a row per layer.

    Neurons beyond `widths` by APoZ are marked as removed.
    """
    from scipy.stats import spearmanr

    norms, closer = runs.scores(model, None, "L1 norm"), []
    fig, axes = plt.subplots(len(widths), 2, figsize=(plots.WIDTH, 6.0), sharey="row")
    for row, (layer, effect) in zip(axes, effects_of_removal(model, images).items(), strict=True):
        order, width, ranks = apoz[layer].cpu().argsort(), widths[layer], {}
        for ax, (name, values) in zip(row, (("APoZ", apoz[layer].cpu()), ("L1 norm", norms[layer].detach().cpu())), strict=True):
            for part, label, colour in ((order[:width], "kept", plots.BLUE), (order[width:], "removed", plots.VERMILION)):
                ax.scatter(values[part], effect[part].clamp(min=1e-5), s=9, color=colour, label=f"{label} by APoZ")
            ranks[name] = spearmanr(values, effect).statistic
            ax.set_title(f"{layer}, rank\ncorrelation {ranks[name]:.2f}", fontsize=plots.TEXT)
            ax.set(yscale="log", xlabel=name)
        closer += [layer] if ranks["L1 norm"] > -ranks["APoZ"] else []  # a good measure of zeros would have a correlation of -1
        row[0].set_ylabel("effect (at least 0.00001)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    where = " and ".join(closer) or "no layer"
    fig.suptitle(f"In {where}, effects follow the L1 norm more closely than APoZ", x=0.01, ha="left")
    return fig


def mean_apoz_figure(shares: Mapping[str, Tensor]) -> plt.Figure:
    """Draw the mean APoZ of each layer as a bar."""
    means = {f"{layer}, {len(values)} channels": values.mean().item() for layer, values in shares.items()}
    (least, low), *_, (most, high) = sorted(zip(shares, means.values(), strict=True), key=lambda pair: pair[1])
    title = f"The mean APoZ of vgg-small goes from {low:.2f} in {least} to {high:.2f} in {most}"
    fig = plots.bars(means, title=title, ylabel="mean APoZ", form="{:.2f}")
    plt.setp(fig.axes[0].patches, color=plots.BLUE)  # layers of one network: a colour each would mean nothing
    return fig


def shift_table(model: nn.Module, chosen_on: Split, test: Split, widths: Mapping[str, int]) -> pd.DataFrame:
    """Return the errors when either layer or both are cut by a criterion, and when the removed means go to the biases.

    The random choice is the mean of its draws, those of the recorded rows.
    """

    def errors(order: Mapping[str, Tensor]) -> list[float]:
        keep = {layer: order[layer].topk(count).indices.sort().values for layer, count in widths.items()}
        cuts = [surgery.narrow(model, stay, test.images[:1]) for stay in (*({layer: keep[layer]} for layer in keep), keep)]
        return [runs.error(cut, test) for cut in (*cuts, means_put_back(model, keep, chosen_on.images))]

    lines = [("nothing cut", *[f"{runs.error(model, test):.2f} %"] * 4)]
    for criterion in ("APoZ", "mean activation", "L1 norm", "random"):
        seeds = [stream(0, "draw", draw) for draw in range(runs.DRAWS)] if criterion == "random" else [0]
        means = np.mean([errors(runs.scores(model, chosen_on, criterion, seed)) for seed in seeds], axis=0)
        lines.append(
            (criterion if len(seeds) == 1 else f"{criterion}, mean of {len(seeds)} draws", *(f"{mean:.2f} %" for mean in means))
        )
    names = [f"error, {layer} cut to {count}" for layer, count in widths.items()]
    return pd.DataFrame(lines, columns=["criterion", *names, "both cut", "both cut, biases corrected"])


def tournament(score: Tensor, model: nn.Sequential, chosen_on: Split, splits: Splits, keep: int = 63) -> dict[str, float]:
    """Return the validation errors in percent when fc1 keeps its best neurons by a score, and by the course's criteria.

    Under "random" stands the mean of 20 random choices, under "lowest draw" and "highest draw" the ends of their range.
    """
    tail = Tail(model, "fc1", splits.validation)

    def error(order: Tensor) -> float:
        kept = order.topk(keep).indices.sort().values
        narrower = surgery.narrow(model, dict(fc1=kept), splits.validation.images[:1])
        return round(100 * (1 - tail.accuracy(narrower, kept)), 4)

    errors = {"your score": error(score)}
    errors |= {name: error(runs.scores(model, chosen_on, name)["fc1"]) for name in ("L1 norm", "mean activation", "APoZ")}
    draws = [error(runs.scores(model, None, "random", stream(0, "draw", draw))["fc1"]) for draw in range(DRAWS)]
    return errors | {"random": float(np.mean(draws)), "lowest draw": min(draws), "highest draw": max(draws)}
