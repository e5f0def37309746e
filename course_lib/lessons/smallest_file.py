"""What notebook 09 shows: the course's own files, contexts and their bits, figures of the recorded files, and the claims."""

import json
import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from torch import Tensor

from course_lib import evidence
from course_lib.challenge.entry import decoded
from course_lib.challenge.places import FOLDER
from course_lib.experiments import smallest_tables as tables
from course_lib.notebook import Claim, plots

FILE = FOLDER / "course" / "lenet-5-1.5kB.cnet"  # the one that the notebook takes apart
OUTSIDE = FOLDER / "outside_integers.json"  # written by tests/benchmarks/outside_coders.py --integers
ORDER = FOLDER / "filter_order.json"  # written by tests/benchmarks/filter_order.py
NAMES = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5"}
STEPS = {"trained": "trained", "distilled": "trimmed, distilled", "pruned": "pruned", "quantized": "quantized", "coded": "coded"}


def contexts(matrix: Tensor) -> dict[str, list]:
    """Return, for each weight of a layer in reading order, what several contexts know of it before it is read.

    Args:
        matrix: (outputs, inputs) integers.
    """
    rows, columns = np.indices(matrix.shape)
    left, above = np.zeros(matrix.shape, int), np.zeros(matrix.shape, int)
    values = np.abs(matrix.numpy()) > 0
    left[:, 1:], above[1:] = values[:, :-1], values[:-1]
    found = {
        "no context": np.zeros(matrix.shape, int),
        "its row": rows,
        "its column": columns,
        "its two neighbours": left + 2 * above,
    }
    return {name: keys.flatten().tolist() for name, keys in found.items()}


def bits_table(bits: Mapping[str, float], decisions: list[int]) -> pd.DataFrame:
    """Return a line per context: bytes, bits per decision, and the difference to the entropy of the decisions."""
    share = np.mean(decisions)
    entropy = -len(decisions) * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    lines = {"entropy, without contexts": entropy} | dict(bits)
    return pd.DataFrame(
        {
            "context": list(lines),
            "bytes": [f"{value / 8:,.0f}" for value in lines.values()],
            "bits per weight": [f"{value / len(decisions):.3f}" for value in lines.values()],
            "against the entropy": [f"{100 * (value / entropy - 1):+.1f} %" for value in lines.values()],
        }
    )


def budget(found: pd.DataFrame, size: str) -> dict[str, tuple[float, float]]:
    """Return the bytes and the test error after each step of a size, means over networks, for the drawing of the budget."""
    lines = tables.points(found)
    lines = lines[(lines["size"] == size) & lines.stage.isin(STEPS)]
    lines = lines[lines.keep.isna() | (lines.keep == lines.keep.max())]
    means = lines.groupby("stage")[["bytes", "error"]].mean()
    return {name: tuple(means.loc[stage]) for stage, name in STEPS.items()}


def published() -> pd.DataFrame:
    """Return the published files: network, bytes, test error in percent, and the source."""
    found = pd.read_csv(FOLDER / "published.csv")
    columns = {"network": "network", "bytes": "bytes", "test_error": "test error (%)", "source": "source"}
    return found[list(columns)].rename(columns=columns).assign(network=found.network.map(NAMES))


def files_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw test error against bytes: published files as stars, ours as one dot per trained network."""
    theirs, ours = pd.read_csv(FOLDER / "published.csv"), tables.points(found)
    fig, ax = plt.subplots(figsize=(plots.WIDTH, 3.8))
    for (key, name), colour in zip(NAMES.items(), (plots.ORANGE, plots.BLUE), strict=True):
        dots, stars = ours[(ours.network == key) & (ours.stage == "coded")], theirs[theirs.network == key]
        ax.scatter(dots.bytes, dots.error, 18, color=colour, alpha=0.7, label=f"{name}, here")
        ax.scatter(stars.bytes, stars.test_error, 110, marker="*", color=colour, edgecolor=plots.INK, label=f"{name}, published")
    ax.set(xscale="log", xlabel="bytes of the file", ylabel="test error (%)", title=_title(found))
    ax.set_xticks([1000, 2000, 3000, 5000, 8000], ["1,000", "2,000", "3,000", "5,000", "8,000"])
    ax.minorticks_off()
    ax.set_ylim(0.4, 2.2)
    ax.legend(loc="upper left", ncols=2, columnspacing=1)
    return fig


def _title(found: pd.DataFrame) -> str:
    lines = tables.points(found)
    lines = lines[(lines.stage == "coded") & (lines.network == "lenet-5")]
    smallest_mean = lines.groupby("keep").bytes.mean().min()
    return f"LeNet-5 in {smallest_mean:,.0f} bytes and more, beside published files"


def ablation_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw what each replaced step costs: points of accuracy and bytes, means over networks with their 95 % intervals."""
    compared = tables.ablations(found)
    arms = [arm for arm in compared.arm.unique() if arm != tables.WHOLE]
    fig, panels = plt.subplots(2, 1, figsize=(plots.WIDTH, 6.2), sharey=True)
    for ax, column, label in zip(panels, ("worse", "more"), ("points of test accuracy lost", "more bytes (%)"), strict=True):
        for place, arm in enumerate(arms):
            mean, low, high = evidence.interval(compared[compared.arm == arm][column])
            error = [[mean - low], [high - mean]] if math.isfinite(low) else None
            ax.errorbar([mean], [place], xerr=error, fmt="o", color=plots.BLUE, capsize=3)
        ax.axvline(0, color=plots.INK, linewidth=1)
        ax.set_yticks(range(len(arms)), [SHORT.get(arm, arm) for arm in arms])
        ax.set(xlabel=label, ylim=(len(arms) - 0.5, -0.5))
    fig.suptitle("What is lost when one step is replaced", x=0.01, ha="left")
    return fig


SHORT = {
    "one teacher instead of five": "one teacher",
    "importance not divided by bits": "not per bit",
    "pruned weights may grow back": "may grow back",
    "pruned for twice as long": "pruned twice as long",
    "weights averaged while pruned": "weights averaged",
    "the same step relative to the weights in every layer": "same relative step",
    "all numbers rounded at once": "rounded at once",
}


def published_claims(found: pd.DataFrame) -> list[Claim]:
    """Return whether our files reach the published ones: at most as many bytes and at most the same error."""
    wanted = [
        ("lenet-5", 1290, 1140, 0.98, "MIRACLE, re-implemented"),
        ("lenet-5", 1870, 1694, 0.83, "MIRACLE, re-implemented"),
        ("lenet-5", 2650, 2840, 1.0, "Oktay 2020"),
        ("lenet-5", 3200, 3100, 0.69, "MIRACLE"),
        ("lenet-300-100", 2600, 8560, 1.9, "Oktay 2020"),
    ]
    lines = tables.points(found)
    lines = lines[lines.stage == "coded"]
    return [_reached(lines[(lines.network == key) & (lines.keep == keep)], *goal) for key, keep, *goal in wanted]


def _reached(lines: pd.DataFrame, size: int, error: float, name: str) -> Claim:
    smaller, better = evidence.verdict(size - lines.bytes), evidence.verdict(error - lines.error)
    claim = f"{NAMES[lines.network.iloc[0]]} in {size:,} bytes at {error:g} % test error ({name})"
    here = f"{evidence.with_interval(lines.bytes, '{:,.0f}')} bytes; {evidence.with_interval(lines.error)} % error"
    weakest = evidence.weakest_of([smaller, better])
    measured = "bytes fewer" if weakest is smaller else "points of error fewer"
    return Claim(claim, measured, here, weakest, f"{lines.epochs.mean():g}")


def our_claims(found: pd.DataFrame) -> list[Claim]:
    """Return whether each step helps: by more than 0.1 points of accuracy, or in bytes where the network stays the same."""
    compared = tables.ablations(found).set_index("arm")
    steps = {
        "five teachers are better than one": "one teacher instead of five",
        "importance per bit is better than magnitude": "pruned by magnitude",
        "steps by sensitivity are better than the same relative step": "the same step relative to the weights in every layer",
        "instalments are better than rounding at once": "all numbers rounded at once",
    }
    claims = [_helps(claim, compared.loc[[arm]]) for claim, arm in steps.items()]
    lines = tables.points(found)
    saved = 100 * (1 - _by_network(lines, "bytes") / _by_network(lines, "entropy"))
    mean = f"{evidence.with_interval(saved, '{:+.1f}')} % fewer bytes"
    beyond = Claim("contexts code in fewer bytes than the entropy without contexts", "per cent of the bytes of a network's files",
                   mean, evidence.verdict(saved), "-")  # fmt: skip
    return [*claims, beyond]


def _helps(claim: str, lines: pd.DataFrame) -> Claim:
    here = f"without: {evidence.with_interval(lines.worse, '{:+.2f}')} points, {lines.more.mean():+.1f} % bytes"
    verdict = evidence.better(lines.worse, "mnist")
    return Claim(claim, "LeNet-300-100: points of test accuracy", here, verdict, f"{lines.epochs.mean():g}")


def _by_network(lines: pd.DataFrame, column: str) -> pd.Series:
    coded = lines[lines.stage == "coded"]
    return coded.groupby("seed")[column].sum()


def own_files() -> pd.DataFrame:
    """Return the course's own files: name, network and widths, weights left, bytes, and bytes by coders from elsewhere.

    The latter are recorded: nncodec and zstd are no part of the course.
    """
    table, others = [], json.loads(OUTSIDE.read_text(encoding="utf-8"))
    sizes = {(row["file"], row["coder"]): row["bytes"] for row in others["rows"]}
    for path in sorted((FOLDER / "course").glob("*.cnet")):
        entry = decoded(path.read_bytes())
        left = sum(int((tensor != 0).sum()) for tensor in entry.tensors.values())
        about = {"file": path.name, "network": f"{NAMES[entry.network]}, {entry.widths}"}
        about |= {"weights left": f"{left:,}", "bytes": f"{path.stat().st_size:,}"}
        table.append(
            about | {f"by {coder} {version}": f"{sizes[path.name, coder]:,}" for coder, version in others["versions"].items()}
        )
    return pd.DataFrame(table)


def searched_orders() -> pd.DataFrame:
    """Return what a search for the best order of neurons and filters saves in each of the course's own files."""
    found = json.loads(ORDER.read_text(encoding="utf-8"))
    tries = found["command"].split()[-1]
    columns = {"file": "file", "before": "bytes, neurons sorted by density", "after": f"bytes after {tries} moves were tried"}
    return pd.DataFrame(found["rows"]).rename(columns=columns)
