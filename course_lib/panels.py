"""The widget panels. Each is a function from settings to a figure, and a thin layer of ipywidgets that calls it."""

import copy
from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import clear_output, display
from torch import Tensor, nn

from course_lib import cost, machine, surgery
from course_lib.data import Split
from course_lib.experiments import channel_pruning as channel_runs
from course_lib.experiments import deep_compression as experiments
from course_lib.experiments import thinet as thinet_runs
from course_lib.experiments import vector_quantization
from course_lib.papers import channel_pruning, deep_compression, filter_pruning, network_trimming, thinet, weight_pruning
from course_lib.plots import BLUE, COLOURS, VERMILION, matrices, roofline, share_histograms, stacked_bars, tiles
from course_lib.training import evaluate


def threshold_view(model: nn.Module, split: Split, qualities: Mapping[str, float]) -> plt.Figure:
    """Weights of each layer with its threshold, and what is left of weights and accuracy when all are pruned at once.

    Args:
        model: a trained network; it is left as it was.
        split: what the accuracy is measured on.
        qualities: layer name -> threshold in standard deviations of the layer's weights.
    """
    layers = weight_pruning.prunable_layers(model, qualities)
    masks = {f"{name}.weight": weight_pruning.threshold_mask(layer.weight, qualities[name]) for name, layer in layers.items()}
    pruned = copy.deepcopy(model)
    weight_pruning.apply_masks(pruned, masks)
    kept, total = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())

    fig, axes = plt.subplots(1, len(layers), figsize=(7.0, 2.7))
    for ax, (name, layer), colour in zip(axes, layers.items(), COLOURS, strict=False):
        weight = layer.weight.detach().cpu()
        threshold = qualities[name] * weight.std(correction=0).item()
        ax.hist(weight.flatten().numpy(), bins=81, color=colour)
        ax.axvspan(-threshold, threshold, color=VERMILION, alpha=0.25)
        ax.set(title=f"{name}: {masks[f'{name}.weight'].float().mean():.1%} kept", xlabel="weight", yscale="log")
    axes[0].set_ylabel("number of weights")
    accuracy = f"accuracy {evaluate(model, split):.1%} -> {evaluate(pruned, split):.1%} on {len(split.labels):,} images"
    fig.suptitle(
        f"{kept:,} of {total:,} weights kept ({total / max(kept, 1):.1f}x fewer), {accuracy}", x=0.01, ha="left", fontsize=11
    )
    return fig


def threshold_panel(model: nn.Module, split: Split):
    """Sliders for the thresholds of all layers over `threshold_view`; gives an ipywidgets box."""
    import ipywidgets

    sliders = {
        name: ipywidgets.FloatSlider(1.0, min=0.0, max=4.0, step=0.1, description=name, continuous_update=False)
        for name in weight_pruning.prunable_layers(model)
    }
    return _panel(sliders, lambda qualities: threshold_view(model, split, qualities))


def codebook_view(model: nn.Module, split: Split, method: str, bits: int, length: int) -> plt.Figure:
    """Six neurons of the first dense layer before and after coding, and what coding all dense layers costs and saves.

    Args:
        model: a trained network whose first dense layer looks at 28 x 28 pixels; it is left as it was.
        split: what the accuracy is measured on.
        method: 'scalar' or 'product'.
        bits: of one code.
        length: of a segment, for product quantization of the columns.
    """
    arguments = (2**bits,) if method == "scalar" else (2**bits, length)
    layers = vector_quantization.coded(model, vector_quantization.coder(method, *arguments))
    first = next(iter(layers))
    weights = torch.cat([model.get_submodule(first).weight.detach()[:6], layers[first].decode()[:6]])
    picture = tiles(weights.view(12, 28, 28).cpu().numpy(), 6)
    figures = vector_quantization.measure(model, split, layers)
    size = sum(layer.bits for layer in layers.values()) / 8000
    rate = f"{figures['rate']:.1f}x smaller ({size:,.1f} kB)"
    loss = f"{figures['loss']:.1f} points of accuracy lost on {len(split.labels):,} images"
    what = f"{bits} bits for each " + ("weight" if method == "scalar" else f"segment of {length}")
    fig = matrices({what: picture}, title=f"{rate}: {loss}", unit="weight")
    fig.axes[0].set(xlabel=f"six neurons of {first}, pixel by pixel", ylabel="coded   |   trained", xticks=[], yticks=[])
    return fig


def codebook_panel(model: nn.Module, split: Split):
    """Method, bits of a code and segment length over `codebook_view`; gives an ipywidgets box."""
    import ipywidgets

    controls = {
        "method": ipywidgets.Dropdown(options=["scalar", "product"], value="product", description="method"),
        "bits": ipywidgets.IntSlider(4, min=1, max=6, description="bits a code", continuous_update=False),
        "length": ipywidgets.SelectionSlider(options=[1, 2, 4, 10, 20], value=4, description="segment", continuous_update=False),
    }
    return _panel(controls, lambda chosen: codebook_view(model, split, **chosen))


PARTS = ("codes", "gaps", "tables", "codebook")


def file_view(model: nn.Module, split: Split, bits: int, index_bits: int, coder: str) -> plt.Figure:
    """What the parts of each layer take in the compressed file, its size, and the error of the network that it holds.

    Args:
        model: a pruned network; it is left as it was.
        split: what the error is measured on.
        bits: of a code, all layers alike.
        index_bits: of a gap.
        coder: 'fixed', 'huffman' or 'ans'.
    """
    compressed = deep_compression.compress(model, bits=bits, index_bits=index_bits, coder=coder)
    table = experiments.inspect(compressed)
    layers = [name for name in table.index if name.endswith("weight")]
    parts = {part: {name: table.loc[name, f"bytes of {part}"] / 1000 for name in layers} for part in PARTS}
    restored = copy.deepcopy(model)
    restored.load_state_dict(compressed.state_dict())
    size, dense = experiments.file_size(compressed), 4 * sum(p.numel() for p in model.parameters())
    error = f"error {experiments.error(model, split):.2f} -> {experiments.error(restored, split):.2f} %"
    title = f"{size / 1000:.1f} kB, {dense / size:.0f}x smaller; {error} on {len(split.labels):,} images, untrained"
    return stacked_bars(parts, title=title, xlabel="kilobytes in the file (biases and header not drawn)")


def file_panel(model: nn.Module, split: Split):
    """Bits of a code, bits of a gap and the coder over `file_view`; gives an ipywidgets box."""
    import ipywidgets

    controls = {
        "bits": ipywidgets.IntSlider(4, min=1, max=8, description="bits a code", continuous_update=False),
        "index_bits": ipywidgets.IntSlider(5, min=2, max=10, description="bits a gap", continuous_update=False),
        "coder": ipywidgets.Dropdown(options=["fixed", "huffman", "ans"], value="huffman", description="coder"),
    }
    return _panel(controls, lambda chosen: file_view(model, split, **chosen))


def filters_view(model: nn.Module, split: Split, layer: str, share: float, order: str) -> plt.Figure:
    """The norms of a layer's filters, which of them go, and what that costs and saves without retraining.

    Args:
        model: a trained network; it is left as it was.
        split: what the accuracy is measured on.
        layer: name of a layer of `filter_pruning.prunable_layers`.
        share: of its filters to prune, in [0, 1).
        order: 'smallest', 'random' or 'largest' first.
    """
    norms = filter_pruning.filter_norms(model.get_submodule(layer).weight).cpu()
    random = torch.rand(len(norms), generator=torch.Generator().manual_seed(0))
    scores = {"smallest": norms, "random": random, "largest": -norms}
    if order not in scores:
        raise ValueError(f"order is {order!r}; allowed are {', '.join(scores)}")
    keep = filter_pruning.strongest(scores[order], share)
    image = split.images[:1]
    narrow = surgery.narrow(model, {layer: keep}, image)
    macs = 1 - cost.count(narrow, image).MACs.sum() / cost.count(model, image).MACs.sum()
    descending = norms.argsort(descending=True)
    colours = [BLUE if filter in keep.tolist() else VERMILION for filter in descending.tolist()]
    fig, ax = plt.subplots(figsize=(7.0, 2.7))
    ax.bar(range(len(norms)), norms[descending].tolist(), color=colours)
    ax.set(xlabel=f"filters of {layer}, by norm (blue stays, vermilion goes)", ylabel="L1 norm")
    accuracy = f"accuracy {evaluate(model, split):.1%} -> {evaluate(narrow, split):.1%} on {len(split.labels):,} images"
    ax.set_title(f"{len(norms) - len(keep)} of {len(norms)} filters go: {macs:.1%} fewer MACs, {accuracy}")
    return fig


def filters_panel(model: nn.Module, split: Split):
    """Layer, share and order over `filters_view`; gives an ipywidgets box."""
    import ipywidgets

    layers = filter_pruning.prunable_layers(model, split.images[:1])
    controls = {
        "layer": ipywidgets.Dropdown(options=layers, value=layers[-1], description="layer"),
        "share": ipywidgets.FloatSlider(0.5, min=0.0, max=0.95, step=0.05, description="pruned", continuous_update=False),
        "order": ipywidgets.Dropdown(options=["smallest", "random", "largest"], value="smallest", description="first go"),
    }
    return _panel(controls, lambda chosen: filters_view(model, split, **chosen))


SIDES = ("silent ones go", "loud ones go")


def trimming_view(model: nn.Module, split: Split, apoz: Mapping[str, Tensor], stds: Mapping[str, float], side: str) -> plt.Figure:
    """APoZ of each layer, who goes at a threshold of `stds` deviations above the mean, and what is left of the network.

    Args:
        model: a trained network; it is left as it was.
        split: what the error is measured on.
        apoz: layer name -> (C,), as `network_trimming.apoz` gives it.
        stds: layer name -> deviations above the mean.
        side: 'silent ones go', or 'loud ones go': as many neurons, from the other end.
    """
    kept, gone = {}, {}
    for layer, shares in apoz.items():
        count = len(network_trimming.neurons_to_keep(shares, stds[layer]))
        kept[layer] = shares.topk(count, largest=side == SIDES[1]).indices
        gone[layer] = torch.ones(len(shares), dtype=torch.bool).index_fill(0, kept[layer].cpu(), False).numpy()
    narrower = surgery.narrow(model, kept, split.images[:1])
    rate = sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in narrower.parameters())
    widths = ", ".join(f"{layer} {len(shares)} -> {len(kept[layer])}" for layer, shares in apoz.items())
    error = f"error {100 - 100 * evaluate(model, split):.2f} -> {100 - 100 * evaluate(narrower, split):.2f} %"
    title = f"{widths}: {rate:.2f}x fewer parameters\n{error} on {len(split.labels):,} images, not retrained"
    return share_histograms(
        {layer: shares.cpu().numpy() for layer, shares in apoz.items()}, title=title, xlabel="APoZ (red goes)", gone=gone
    )


def trimming_panel(model: nn.Module, split: Split, apoz: Mapping[str, Tensor]):
    """The threshold of each layer, and which side goes, over `trimming_view`; gives an ipywidgets box."""
    import ipywidgets

    controls: dict[str, ipywidgets.Widget] = {
        layer: ipywidgets.FloatSlider(1.0, min=0.0, max=3.0, step=0.1, description=layer, continuous_update=False)
        for layer in apoz
    }
    controls["side"] = ipywidgets.Dropdown(options=SIDES, description="side")

    def view(chosen: dict) -> plt.Figure:
        return trimming_view(model, split, apoz, {layer: chosen[layer] for layer in apoz}, chosen["side"])

    return _panel(controls, view)


def lasso_view(model: nn.Module, layers: Mapping[str, channel_runs.Layer], layer: str, share: float) -> plt.Figure:
    """The path of the LASSO over a layer's channels, and what the kept ones explain by each way of choosing them.

    Args:
        model: a trained network; it is left as it was.
        layers: from `channel_runs.layers_of`.
        layer: one of these.
        share: of its input channels to keep.
    """
    seen, unseen, strongest = layers[layer]
    weight = model.get_submodule(layer).weight.detach().flatten(2)
    gram, products = channel_pruning.contributions(seen, weight)
    penalties, betas = channel_pruning.lasso_path(gram, products, seen.samples)
    keep = max(1, round(share * len(gram)))
    ways = channel_runs.ways_of_choosing(weight, seen, strongest, keep)
    shares = {way: channel_pruning.explained(unseen, channel_pruning.refit(seen, kept)[0]) for way, kept in ways.items()}

    fig, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.0), width_ratios=(3, 2))
    gone = [i for i in range(len(gram)) if i not in set(ways["LASSO"].tolist())]
    left.plot(penalties, betas[:, gone], color="lightgrey", linewidth=0.8)
    left.plot(penalties, betas[:, ways["LASSO"]], color=COLOURS[0], linewidth=0.8)
    left.set(
        xscale="symlog", xlabel="penalty", ylabel="beta of a channel", title=f"blue: the {keep} of {len(gram)} that last longest"
    )
    left.set_xscale("symlog", linthresh=float(penalties[0]) / 1000)
    drawn = right.barh(list(shares), [100 * share for share in shares.values()], color=COLOURS[: len(shares)])
    right.bar_label(drawn, [f"{share:.0%}" for share in shares.values()], padding=2)
    right.set(xlim=(0, 115), xlabel=f"explained of {layer}'s output,\nnew images (%)")
    right.invert_yaxis()
    title = f"{layer} with {keep} of {len(gram)} channels: {shares['LASSO']:.0%} explained"
    fig.suptitle(f"{title}, by the largest norms {shares['max response']:.0%}", x=0.01, ha="left", fontsize=11)
    return fig


def lasso_panel(model: nn.Module, layers: Mapping[str, channel_runs.Layer]):
    """Layer and share of its channels over `lasso_view`; gives an ipywidgets box."""
    import ipywidgets

    controls = {
        "layer": ipywidgets.Dropdown(options=list(layers), description="layer"),
        "share": ipywidgets.FloatSlider(0.5, min=0.1, max=0.9, step=0.1, description="kept", continuous_update=False),
    }
    return _panel(controls, lambda chosen: lasso_view(model, layers, **chosen))


def contributions_view(model: nn.Module, images: Tensor, split: Split, layer: str, share: float, criterion: str) -> plt.Figure:
    """What each channel of a layer says to the next one, which of them a criterion removes, and what that costs.

    Args:
        model: a trained network of `models.build` with convolutions; it is left as it was.
        images: (N, ...), training images for the choice.
        split: what the accuracy is measured on.
        layer: one that `thinet.prunable_layers` lists.
        share: of its filters that stay, in (0, 1].
        criterion: one of `experiments.thinet.CRITERIA`.
    """
    contributions = thinet.channel_contributions(model, layer, images)
    channels = contributions.shape[1]
    keep = max(1, int(share * channels))
    kept = thinet_runs.kept_by(criterion, model, layer, keep, images)
    rescaled = criterion in ("ThiNet", "ThiNet, forward")
    scales = thinet.rescale(contributions[:, kept], contributions.sum(1)) if rescaled else 1.0
    pruned = thinet_runs.prune_by(criterion)(model, layer, keep, images)

    energy = contributions.double().square().sum(0)
    energy = 100 * energy / contributions.double().sum(1).square().sum()
    order = energy.argsort(descending=True).tolist()
    stays = set(kept.tolist())
    fig, ax = plt.subplots(figsize=(7.0, 2.9))
    for name, colour, chosen in (("stays", BLUE, stays), ("goes", VERMILION, set(order) - stays)):
        places = [place for place, channel in enumerate(order) if channel in chosen]
        ax.bar(places, [energy[order[place]].item() for place in places], width=0.9, color=colour, label=name)
    ax.set(xlabel=f"channels of {layer}, by what they say alone", ylabel="energy in the next layer (%)", yscale="log")
    ax.legend()
    lost = f"{100 * thinet_runs.lost(contributions, kept, scales):.1f} % of the next layer's output lost"
    accuracy = f"accuracy {evaluate(model, split):.1%} -> {evaluate(pruned, split):.1%} on {len(split.labels):,} images"
    fig.suptitle(f"{criterion} keeps {keep} of {channels}: {lost}\n{accuracy}, untuned", x=0.01, ha="left", fontsize=11)
    return fig


def contributions_panel(model: nn.Module, images: Tensor, split: Split):
    """Layer, share of its filters and criterion over `contributions_view`; gives an ipywidgets box."""
    import ipywidgets

    layers = list(thinet.prunable_layers(model, images[:1]))
    controls = {
        "layer": ipywidgets.Dropdown(options=layers, value=layers[len(layers) // 2], description="layer"),
        "share": ipywidgets.FloatSlider(0.5, min=0.1, max=1.0, step=0.1, description="share kept", continuous_update=False),
        "criterion": ipywidgets.Dropdown(options=thinet_runs.CRITERIA, value="ThiNet", description="criterion"),
    }
    return _panel(controls, lambda chosen: contributions_view(model, images, split, **chosen))


def roofline_view(roof: machine.Roof, layers: pd.DataFrame, batch: int, bits: int) -> plt.Figure:
    """Where the layers of a network lie below a machine's roofs, how many wait for memory, and the least time of an image.

    Args:
        roof: of the machine.
        layers: as `machine.traffic` gives them.
        batch: images at a time.
        bits: of a stored weight; arithmetic and activations stay float32.
    """
    intensity = machine.intensity(layers, batch, bits)
    rates = intensity.map(roof.reachable)
    least = layers.MACs / rates  # seconds an image
    waits = intensity < roof.ridge
    share = least[waits].sum() / least.sum()
    groups = {kind: (intensity[layers.kind == kind], rates[layers.kind == kind]) for kind in ("dense", "convolution")}
    title = f"{waits.sum()} of {len(layers)} layers wait for memory, {share:.0%} of at least {1e3 * least.sum():.3g} ms an image"
    groups = {kind: points for kind, points in groups.items() if len(points[0])}
    return roofline(roof.rate, roof.bandwidth, groups, title=title)


def roofline_panel(roof: machine.Roof, networks: Mapping[str, pd.DataFrame]):
    """Network, batch and bits of a weight over `roofline_view`; gives an ipywidgets box."""
    import ipywidgets

    controls = {
        "network": ipywidgets.Dropdown(options=list(networks), value=list(networks)[-1], description="network"),
        "batch": ipywidgets.SelectionSlider(
            options=[2**i for i in range(9)], value=1, description="batch", continuous_update=False
        ),
        "bits": ipywidgets.SelectionSlider(
            options=[1, 2, 4, 8, 16, 32], value=32, description="bits a weight", continuous_update=False
        ),
    }
    return _panel(controls, lambda chosen: roofline_view(roof, networks[chosen.pop("network")], **chosen))


def _panel(sliders: Mapping[str, object], view: Callable[[Mapping[str, float]], plt.Figure]):
    """Redraws `view` whenever a slider moves."""
    import ipywidgets

    output = ipywidgets.Output()

    def redraw(_change=None) -> None:
        with output:
            fig = view({name: slider.value for name, slider in sliders.items()})
            clear_output(wait=True)
            display(fig)
            plt.close(fig)

    for slider in sliders.values():
        slider.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*sliders.values(), output])
