"""Figures that several notebooks share. Each takes data, not a model, and gives a matplotlib figure; the title is the finding."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler

# Okabe and Ito's palette, distinguishable without full colour vision; black and yellow are left out, they vanish on some ground.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def use_style() -> None:
    """One look for all figures: on a white ground of their own, so that they read in a dark theme too."""
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.figsize": (7.0, 3.6), "figure.dpi": 96, "figure.facecolor": "white", "savefig.facecolor": "white",
            "figure.constrained_layout.use": True, "axes.prop_cycle": cycler(color=COLOURS), "axes.grid": True,
            "axes.axisbelow": True, "grid.alpha": 0.3, "axes.titlesize": 11, "axes.titlelocation": "left", "font.size": 9.5,
            "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
        }
    )  # fmt: skip


def lines(
    x: Sequence[float] | Mapping[str, Sequence[float]],
    curves: Mapping[str, Sequence[float]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    spread: Mapping[str, tuple] | None = None,
) -> plt.Figure:
    """Named curves, told apart by colour and marker; `x` is the same for all or by name, `spread` (lowest, highest) a band."""
    fig, ax = plt.subplots()
    places = x if isinstance(x, Mapping) else dict.fromkeys(curves, x)
    for (name, y), marker, colour in zip(curves.items(), MARKERS, COLOURS, strict=False):
        ax.plot(places[name], y, marker=marker, markersize=4.5, color=colour, label=name)
        if spread:
            ax.fill_between(places[name], *spread[name], color=colour, alpha=0.18, linewidth=0)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return fig


def bars(values: Mapping[str, float], *, title: str, ylabel: str, form: str = "{:.2f}", log: bool = False) -> plt.Figure:
    """One bar a name, with its value on top."""
    fig, ax = plt.subplots(figsize=(7.0, 3.0))
    drawn = ax.bar(list(values), list(values.values()), color=COLOURS[: len(values)], width=0.6)
    ax.bar_label(drawn, [form.format(v) for v in values.values()], padding=2)
    if log:
        ax.set_yscale("log")
    ax.set(title=title, ylabel=ylabel)
    ax.margins(y=0.12)
    return fig


def weight_histograms(weights: Mapping[str, np.ndarray], *, title: str, width: float | None = None) -> plt.Figure:
    """Histograms side by side on the same horizontal axis; zeros are left out (they are pruned weights)."""
    fig, axes = plt.subplots(1, len(weights), figsize=(7.0, 3.0), sharex=True)
    axes = np.atleast_1d(axes)
    width = width or max(np.abs(w).max() for w in weights.values())
    for ax, (name, values), colour in zip(axes, weights.items(), COLOURS, strict=False):
        values = values[values != 0]
        ax.hist(values, bins=121, range=(-width, width), color=colour)
        ax.set(title=f"{name}: {values.size:,} weights", xlabel="weight")
        ax.title.set_fontsize(9.5)
    axes[0].set_ylabel("number of weights")
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


def share_histograms(
    shares: Mapping[str, np.ndarray], *, title: str, xlabel: str, gone: Mapping[str, np.ndarray] | None = None
) -> plt.Figure:
    """Histograms of numbers in [0, 1] side by side; those that the bool masks `gone` name stand on top in vermilion."""
    fig, axes = plt.subplots(1, len(shares), figsize=(7.0, 2.8), sharex=True)
    for ax, (name, values) in zip(np.atleast_1d(axes), shares.items(), strict=True):
        mask = gone[name] if gone else np.zeros(len(values), bool)
        ax.hist([values[~mask], values[mask]], bins=25, range=(0, 1), stacked=True, color=(BLUE, VERMILION))
        ax.axvline(values.mean(), color="black", linewidth=1.2, linestyle="--")
        ax.set(title=f"{name}: mean {values.mean():.0%}", xlabel=xlabel)
        ax.title.set_fontsize(9.5)
    np.atleast_1d(axes)[0].set_ylabel("neurons")
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


def matrices(
    pictures: Mapping[str, np.ndarray], *, title: str, unit: str, values: bool = False, cmap: str = "cividis"
) -> plt.Figure:
    """Matrices as images on one colour scale; with `values` the numbers are written into the cells."""
    wide = any(picture.shape[1] > 3 * len(picture) for picture in pictures.values())
    fig, axes = plt.subplots(1, len(pictures), figsize=(7.0 if wide else 0.6 + 3.2 * len(pictures), 2.9))
    axes = np.atleast_1d(axes)
    low = min(float(np.nanmin(p)) for p in pictures.values())
    high = max(float(np.nanmax(p)) for p in pictures.values())
    for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
        image = ax.imshow(picture, vmin=low, vmax=high, cmap=cmap, interpolation="nearest")
        ax.set(title=name, xlabel="column", ylabel="row")
        ax.title.set_fontsize(9.5)
        ax.grid(False)
        if values:
            for (row, column), value in np.ndenumerate(picture):
                bright = value > (low + high) / 2
                ax.text(column, row, f"{value + 0.0:g}", ha="center", va="center", color="black" if bright else "white")
            ax.set(xticks=range(picture.shape[1]), yticks=range(picture.shape[0]))
    fig.colorbar(image, ax=axes, label=unit, shrink=0.85)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


def tiles(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (n, h, w) as one picture of `columns` images a row, empty lines between them; for `matrices`."""
    n, h, w = images.shape
    rows = -(-n // columns)
    picture = np.full((rows * (h + 1) - 1, columns * (w + 1) - 1), np.nan)
    for i, image in enumerate(images):
        top, left = i // columns * (h + 1), i % columns * (w + 1)
        picture[top : top + h, left : left + w] = image
    return picture


def grouped_bars(groups: Mapping[str, Mapping[str, float]], *, title: str, ylabel: str, form: str = "{:.2f}") -> plt.Figure:
    """Bars side by side: `groups` is name of a colour -> place on the axis -> value; no bar for NaN."""
    fig, ax = plt.subplots(figsize=(7.0, 3.0))
    width = 0.8 / len(groups)
    for i, ((name, values), colour) in enumerate(zip(groups.items(), COLOURS, strict=False)):
        places = np.arange(len(values)) + (i - (len(groups) - 1) / 2) * width
        drawn = ax.bar(places, list(values.values()), width * 0.92, color=colour, label=name)
        ax.bar_label(drawn, ["" if np.isnan(v) else form.format(v) for v in values.values()], padding=2, fontsize=8)
    ax.set(title=title, ylabel=ylabel)
    ax.set_xticks(range(len(values)), list(values))
    ax.margins(y=0.12)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def stacked_bars(parts: Mapping[str, Mapping[str, float]], *, title: str, xlabel: str) -> plt.Figure:
    """Horizontal bars made of pieces: `parts` is name of a piece -> bar -> length."""
    fig, ax = plt.subplots(figsize=(7.0, 2.9))
    names = list(next(iter(parts.values())))
    ends = np.zeros(len(names))
    for (part, lengths), colour in zip(parts.items(), COLOURS, strict=False):
        ax.barh(names, list(lengths.values()), left=ends, color=colour, label=part)
        ends += list(lengths.values())
    ax.set(title=title, xlabel=xlabel)
    ax.invert_yaxis()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def roofline(
    rate: float, bandwidth: float, points: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str
) -> plt.Figure:
    """The two limits of a machine, and groups of layers below them.

    Args:
        rate: MACs a second.
        bandwidth: bytes a second.
        points: name of a group -> (MACs per byte, MACs a second), a number each for every layer.
        title: the finding.
    """
    fig, ax = plt.subplots(figsize=(7.0, 3.8))
    every = np.concatenate([np.asarray(x, dtype=float) for x, _ in points.values()])
    x = np.geomspace(min(0.1, every.min()) / 2, max(100.0, every.max()) * 2, 200)
    ax.plot(x, np.minimum(rate, x * bandwidth) / 1e9, color="grey", linewidth=2, label="the two roofs")
    ax.axvline(rate / bandwidth, color="grey", linewidth=1, linestyle=":")
    for (name, (intensities, rates)), marker, colour in zip(points.items(), MARKERS, COLOURS, strict=False):
        ax.scatter(intensities, np.asarray(rates) / 1e9, 38, color=colour, marker=marker, label=name, zorder=3)
    lowest = min(rate / 500, *(np.min(y) / 2 for _, y in points.values()))
    ax.set(xscale="log", xlabel="MACs per byte (log scale)", title=title)
    ax.set(yscale="log", ylabel="10$^9$ MACs a second (log scale)", ylim=(lowest / 1e9, 2 * rate / 1e9))
    ax.legend(loc="lower right")
    return fig
