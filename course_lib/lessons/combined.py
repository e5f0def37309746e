"""What the end of notebook 08 shows of the combined runs: a figure of the stages, a table of outside coders, sentences."""

import json
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from course_lib import evidence
from course_lib.experiments import combined_tables as tables
from course_lib.experiments.runner import RESULTS
from course_lib.notebook import plots

OUTSIDE = RESULTS / "outside" / "coders.json"  # written by tests/benchmarks/outside_coders.py
MARKS = {"trimmed": "s", "pruned": "^", "coded": "o"}


def stages_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the points lost against the bytes of the file: above from stage to stage, below all coded files.

    A colour per start. Above the path to each start's smallest file without loss on validation images (to the smallest
    file of all, where none is without loss); below the means of the networks with their 95 % interval, a line per start
    and number of bits.

    Args:
        found: recorded rows; those of kind 'stack' are drawn.
    """
    means = tables.means(found)
    fig, (above, below) = plt.subplots(2, 1, figsize=(plots.WIDTH, 6.4), sharex=True)
    colours = dict(zip(means.start.unique(), plots.COLOURS, strict=False))
    for start, colour in colours.items():
        group = means[means.start == start]
        path = _path(found, group)
        above.plot(path.bytes / 1000, path.lost, color=colour, linewidth=1, alpha=0.6)
        for row in path.itertuples():
            above.plot(row.bytes / 1000, row.lost, MARKS[row.stage], color=colour, markersize=7)
        for bits, line in group[group.stage == "coded"].groupby("bits"):
            errors = [line.lost - line.low, line.high - line.lost] if (line.networks > 1).all() else None
            style = "-" if bits == group.bits.max() else "--"
            below.errorbar(
                line.bytes / 1000, line.lost, errors, fmt=f"o{style}", color=colour, markersize=4, linewidth=1, capsize=2
            )
    widths = sorted(means[means.stage == "coded"].bits.unique(), reverse=True)
    coded = "Coded files; solid: " + ", dashed: ".join(f"{bits} bits" for bits in widths)
    for ax, title in ((above, "Stage by stage"), (below, coded)):
        ax.axhline(evidence.RELEVANT["mnist"], color=plots.INK, linewidth=1, linestyle=":")
        ax.set(xscale="log", ylabel="points lost", title=title)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    below.set_xlabel("kilobytes of the file")
    above.legend(
        [plt.Line2D([], [], marker=mark, linestyle="", color=plots.INK) for mark in MARKS.values()], ["start", "pruned", "coded"]
    )
    below.legend([plt.Line2D([], [], color=colour) for colour in colours.values()], list(colours))
    fig.suptitle(_title(found), x=0.01, ha="left")
    return fig


def _path(found: pd.DataFrame, group: pd.DataFrame) -> pd.DataFrame:
    """The trimmed network, the pruned one, and the file: the stages of the start's chosen file."""
    best = tables.chosen(found)
    best = best[best.start == group.start.iloc[0]] if len(best) else best
    end = best.iloc[0] if len(best) else group.loc[group.bytes.idxmin()]
    stages = (group.stage == "trimmed") | ((group.stage == "pruned") & (group.fewer == end.fewer))
    stages |= (group.stage == "coded") & (group.fewer == end.fewer) & (group.bits == end.bits)
    return group[stages].sort_values("bytes", ascending=False)


def _title(found: pd.DataFrame) -> str:
    best = tables.chosen(found)
    if best.empty:
        return "No file is without loss on validation images"
    smallest = best.loc[best.bytes.idxmin()]
    return f"The smallest file without loss on validation images: {smallest.bytes:,.0f} bytes, {smallest.start}"


def summary(found: pd.DataFrame) -> str:
    """Return how far the stack gets without loss, and how much trimming adds to Deep Compression, in sentences."""
    best = tables.chosen(found)
    if best.empty:
        return "No file of the stack loses at most 0.1 points on validation images."
    sentences = [_sentence(row) for row in best.sort_values("bytes").itertuples()]
    alone = best[best.start == tables.ALONE]
    smallest = best.loc[best.bytes.idxmin()]
    if len(alone) and smallest.start != tables.ALONE:
        ratio = alone.bytes.iloc[0] / smallest.bytes
        sentences.append(f"Trimming first makes the smallest such file {ratio:.2f} times smaller.")
    return " ".join(sentences)


def _sentence(row: Any) -> str:
    bounds = f", 95 % interval {row.low:+.2f} to {row.high:+.2f}" if row.networks > 1 else ""
    size = f"{row.bytes:,.0f} bytes ({row.times:.0f} times smaller)"
    return f"{row.start}: {size}, {row.lost:+.2f} points lost on test images ({row.networks} networks{bounds})."


def outside_coders() -> Mapping[str, Any] | None:
    """Return what tests/benchmarks/outside_coders.py recorded: 'versions', 'date', 'rows'; None if nothing is recorded yet."""
    return json.loads(OUTSIDE.read_text(encoding="utf-8")) if OUTSIDE.exists() else None


def outside_table() -> pd.DataFrame:
    """Return a line per network and start: kilobytes by zstd, and by each coder's smallest file without loss.

    Without loss means: by no more than a relevant difference on validation images. What such a file loses on test images stands
    beside it, with the 95 % interval.
    """
    recorded = outside_coders()
    if recorded is None:
        return pd.DataFrame()
    lines = pd.DataFrame(recorded["rows"])
    table = []
    for (network, start), group in lines.groupby(["network", "start"], sort=False):
        of = dict(list(group.groupby("coder")))
        shown = {"network": f"{network}, {start}", "kB, zstd": f"{of['zstd'].bytes.mean() / 1000:.1f}"}
        for coder in ("nncodec", "course"):
            shown |= _smallest(of[coder], coder)
        table.append(shown | {"networks": group.seed.nunique()})
    return pd.DataFrame(table)


def _smallest(files: pd.DataFrame, coder: str) -> dict[str, str]:
    """The cells of a coder's smallest file without loss on validation images."""
    lost = files.validation_before - files.validation
    allowed = evidence.RELEVANT[files.dataset.iloc[0]]
    means = files.assign(lost=lost).groupby("setting")[["bytes", "lost"]].mean()
    means = means[means.lost <= allowed]
    if means.empty:
        return {f"kB, {coder}": "none", f"points lost, {coder}": "-"}
    best = files[files.setting == means.bytes.idxmin()]
    lost_in_test = evidence.with_interval(best.accuracy_before - best.accuracy, "{:+.2f}")
    return {f"kB, {coder}": f"{best.bytes.mean() / 1000:.1f} ({best.setting.iloc[0]})", f"points lost, {coder}": lost_in_test}
