"""Figures that several notebooks share. Each takes data, not a model, and gives a matplotlib figure; the title is the finding."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler

# Nearest colours to Okabe and Ito's that have a contrast of 3:1 on white and on JupyterLab's dark ground, #111, and stay apart
# from each other for readers who see two of the three primary colours (tests/notebook/test_colours.py measures both)
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = COLOURS = ("#4045FF", "#E07A00", "#097650", "#C0430F", "#B86BA0", "#0C98FF")
MARKERS = ("o", "s", "^", "D", "v", "P")
# Text and axes: each ink has 5.5:1 on its own ground, and 3:1 on the other, should a viewer not tell its theme
INK, INK_ON_DARK = "#666666", "#949494"
# A page on a phone of 390 pixels leaves a figure 350: text of TEXT points is 8 points there, and as large as the page's own
# where there is room
WIDTH, TEXT = 5.0, 11.0  # inches, points


def use_style() -> None:
    """One look for all figures, in dark and in light."""
    plt.rcdefaults()
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    plt.rcParams.update(dict.fromkeys(inks, INK))
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.4), "figure.constrained_layout.use": True, "axes.prop_cycle": cycler(color=COLOURS),
            "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.3, "axes.titlelocation": "left",
            "font.size": TEXT, "axes.titlesize": 12.0, "figure.titlesize": 12.0, "legend.fontsize": TEXT,
            "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],  # of the same width, one on each system
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
    """One bar a name, with its value at the end; bars lie where the names are too long to stand beside each other."""
    lie = _too_long(values, len(values))
    fig, ax = plt.subplots(figsize=(WIDTH, max(3.0, 0.8 + 0.3 * len(values)) if lie else 3.0))
    names = [name.replace("\n", " ") if lie else name for name in values]
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(values))]
    drawn = (ax.barh if lie else ax.bar)(names, list(values.values()), 0.6, color=colours)
    ax.bar_label(drawn, [form.format(v) for v in values.values()], padding=2)
    _finish_bars(ax, lie, title, ylabel)
    if log:
        ax.set(**{"xscale" if lie else "yscale": "log"})
    return fig


def _too_long(names: Iterable[str], count: int) -> bool:
    """Whether names, or `count` values of three digits, are wider than their share of a horizontal axis."""
    letter = 0.62 * TEXT / 72  # inches
    names = list(names)
    widest = max(len(line) for name in names for line in name.split("\n"))
    return max(widest * len(names), 4 * count) * letter > 0.85 * WIDTH


def _finish_bars(ax: plt.Axes, lie: bool, title: str, label: str) -> None:
    """Names the axis of the values, and leaves room for what is written at the ends of the bars."""
    ax.set(title=title, **{"xlabel" if lie else "ylabel": label})
    ax.grid(False, axis="y" if lie else "x")
    if lie:
        ax.invert_yaxis()
        ax.margins(x=0.2)
    else:
        ax.margins(y=0.12)


def _legend_below(fig: plt.Figure, ax: plt.Axes) -> None:
    """Puts the legend below the axes, in as many columns as fit."""
    handles, labels = ax.get_legend_handles_labels()
    columns = max(1, int(WIDTH * 72 / (0.62 * TEXT * (max(map(len, labels)) + 5))))
    fig.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def matrices(
    pictures: Mapping[str, np.ndarray], *, title: str, unit: str, values: bool = False, cmap: str = "cividis"
) -> plt.Figure:
    """Matrices as images on one colour scale; with `values` the numbers are written into the cells."""
    fig, axes = plt.subplots(1, len(pictures), figsize=(WIDTH, 3.0))
    axes = np.atleast_1d(axes)
    low = min(float(np.nanmin(p)) for p in pictures.values())
    high = max(float(np.nanmax(p)) for p in pictures.values())
    for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
        image = ax.imshow(picture, vmin=low, vmax=high, cmap=cmap, interpolation="nearest")
        ax.set(title=name, xlabel="column", ylabel="row")
        ax.grid(False)
        if values:
            for (row, column), value in np.ndenumerate(picture):
                bright = value > (low + high) / 2
                ax.text(column, row, f"{value + 0.0:g}", ha="center", va="center", color="black" if bright else "white")
            ax.set(xticks=range(picture.shape[1]), yticks=range(picture.shape[0]))
    fig.colorbar(image, ax=axes, label=unit, shrink=0.85)
    fig.suptitle(title, x=0.01, ha="left")
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
    names = list(next(iter(groups.values())))  # the places
    bars_in_all = len(groups) * len(names)
    lie = _too_long(names, bars_in_all)
    fig, ax = plt.subplots(figsize=(WIDTH, max(3.0, 1.2 + 0.22 * bars_in_all) if lie else 3.4))
    width = 0.8 / len(groups)
    for i, ((name, values), colour) in enumerate(zip(groups.items(), COLOURS, strict=False)):
        places = np.arange(len(names)) + (i - (len(groups) - 1) / 2) * width
        drawn = (ax.barh if lie else ax.bar)(places, list(values.values()), width * 0.92, color=colour, label=name)
        ax.bar_label(drawn, ["" if np.isnan(v) else form.format(v) for v in values.values()], padding=2)
    (ax.set_yticks if lie else ax.set_xticks)(range(len(names)), [name.replace("\n", " ") if lie else name for name in names])
    _finish_bars(ax, lie, title, ylabel)
    _legend_below(fig, ax)
    return fig


def stacked_bars(parts: Mapping[str, Mapping[str, float]], *, title: str, xlabel: str) -> plt.Figure:
    """Horizontal bars made of pieces: `parts` is name of a piece -> bar -> length."""
    fig, ax = plt.subplots(figsize=(WIDTH, 3.2))
    names = list(next(iter(parts.values())))
    ends = np.zeros(len(names))
    for (part, lengths), colour in zip(parts.items(), COLOURS, strict=False):
        ax.barh(names, list(lengths.values()), left=ends, color=colour, label=part)
        ends += list(lengths.values())
    ax.set(title=title, xlabel=xlabel)
    ax.invert_yaxis()
    _legend_below(fig, ax)
    return fig


def roofline(
    rate: float, bandwidth: float, points: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str
) -> plt.Figure:
    """The roof of a machine, which is the lower of its two limits, and groups of layers below it.

    Args:
        rate: MACs per second.
        bandwidth: bytes per second.
        points: name of a group -> (MACs per byte, MACs per second), a number each for every layer.
        title: the finding.
    """
    fig, ax = plt.subplots(figsize=(WIDTH, 3.8))
    every = np.concatenate([np.asarray(x, dtype=float) for x, _ in points.values()])
    x = np.geomspace(min(0.1, every.min()) / 2, max(100.0, every.max()) * 2, 200)
    ax.plot(x, np.minimum(rate, x * bandwidth) / 1e9, color=INK, linewidth=2, label="the roof")
    ax.axvline(rate / bandwidth, color=INK, linewidth=1, linestyle=":")
    for (name, (intensities, rates)), marker, colour in zip(points.items(), MARKERS, COLOURS, strict=False):
        ax.scatter(intensities, np.asarray(rates) / 1e9, 38, color=colour, marker=marker, label=name, zorder=3)
    lowest = min(rate / 500, *(np.min(y) / 2 for _, y in points.values()))
    ax.set(xscale="log", xlabel="MACs per byte (log scale)", title=title)
    ax.set(yscale="log", ylabel="10$^9$ MACs per second (log)", ylim=(lowest / 1e9, 2 * rate / 1e9))
    ax.legend(loc="lower right")
    return fig
