"""What the rows of the comparison say: points of test accuracy lost by each arm, at equal shapes and at equal file sizes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from course_lib.evidence import with_interval
from course_lib.experiments.rows import lost

CUT = ("filters", "channels", "sums")  # kinds of the arms that start from a trained network and are cut
# The lines of the main table: 'ThiNet, not rescaled' is a part of ThiNet's own story and not among them
LINES = ("L1", "random", "APoZ", "LASSO", "largest contribution", "ThiNet", "group norm", "dense", "scratch-E", "scratch-B")

SHOWN = {  # rows have the library's name of a method, readers see one name
    "filter-pruning": "L1", "network-trimming": "APoZ", "channel-pruning": "LASSO", "thinet": "ThiNet",
    "weight-pruning": "weight pruning", "vector-quantization": "k-means", "deep-compression": "Deep Compression",
}  # fmt: skip


def arms(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all arms at equal shapes, one line per network, with the points lost; dense ones once per rate."""
    lines = found[found.kind.isin((*CUT, "scratch")) & (found.counted == "MACs")]
    whole = found[(found.kind == "dense") & (found.counted == "MACs")].drop(columns="rate")
    whole = whole.merge(lines[["network", "rate"]].drop_duplicates(), on="network")
    lines = pd.concat([lines, whole], ignore_index=True)
    lines = with_one_baseline(lines)
    return lines.assign(lost=lines.baseline - lines.accuracy, lost_at_once=lines.baseline - lines.removed.astype(float))


def with_one_baseline(found: pd.DataFrame) -> pd.DataFrame:
    """Return rows with one baseline for each trained network, the median of its rows.

    CPU and GPU round differently, so that an arm that ran on one would else gain on the others by its network's baseline.
    """
    return found.assign(baseline=found.groupby(["network", "seed"]).baseline.transform("median"))


def files(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all arms at equal file sizes, one line per network, with the points lost; a dense network has 1x."""
    lines = found[(found.counted == "bytes") & found.kind.isin((*CUT, "scratch", "dense", "file"))]
    lines = lines.assign(method=lines.method.replace(SHOWN))
    return lines.assign(lost=lines.baseline - lines.accuracy, lost_at_once=lines.baseline - lines.removed.astype(float))


def ahead(found: pd.DataFrame, method: str, other: str, column: str = "accuracy", of: Callable = arms) -> pd.DataFrame:
    """Return by how many points a method is ahead of another, a line per network and rate, a column per trained network.

    These are the paired differences that `evidence.better` judges; `of` is `arms` or `files`.
    """
    lines = of(found)
    values = lines.pivot_table(index=["network", "rate"], columns=["method", "seed"], values=column)
    if not {method, other} <= set(values.columns.get_level_values("method")):
        return pd.DataFrame()
    return (values[method] - values[other]).dropna(how="all")


def paper_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return the main table: a line per arm, and the points that it loses at each network and rate, with the 95 % interval."""
    lines = arms(found)
    shapes = lines[["network", "rate"]].drop_duplicates().sort_values(["network", "rate"], ascending=[False, True])
    table = []
    for method in LINES:
        chosen = lines[lines.method == method]
        if chosen.empty:
            continue
        cells = {
            f"{shape.network}, {shape.rate:g}x": _cell(chosen[(chosen.network == shape.network) & (chosen.rate == shape.rate)])
            for shape in shapes.itertuples()
        }
        epochs = ", ".join(f"{number:g}" for number in sorted(set(chosen.epochs)))
        table.append(dict(arm=method) | cells | dict(epochs=epochs, networks=chosen.groupby("network").seed.nunique().min()))
    return pd.DataFrame(table)


def schedules(found: pd.DataFrame) -> pd.DataFrame:
    """Return the papers' own schedules, a line each: points lost, and how far each is ahead of one cut, with intervals.

    'One cut' is the arm with the same criterion, shape and number of epochs; networks that it lacks take no part.
    """
    own, at_once, table = found[found.kind == "schedule"], arms(found), []
    own = own.assign(once=own.method.str.partition(",")[0])
    same = ["network", "rate", "epochs", "seed"]
    pairs = own.merge(at_once, left_on=["once", *same], right_on=["method", *same], suffixes=("", "_once"))
    for (network, rate, method), group in pairs.groupby(["network", "rate", "method"]):
        table.append(
            {
                "schedule": method,
                "network": f"{network}, {rate:g}x",
                "epochs": f"{group.epochs.max():g}",
                "points lost": with_interval(group.baseline_once - group.accuracy, "{:+.2f}"),
                "ahead of one cut": with_interval(group.accuracy - group.accuracy_once, "{:+.2f}"),
                "networks": len(group),
            }
        )
    return pd.DataFrame(table)


def by_file_size(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per method and rate of file size, all on MNIST: the points lost at once and in the end, with the interval."""
    table = []
    for (rate, method), group in files(found).groupby(["rate", "method"]):
        at_once = group.lost_at_once.mean()
        table.append(
            {
                "rate": rate,
                "method": method,
                "kilobytes": f"{group.bytes.mean() / 1000:.0f}",
                "MACs": f"{group.macs.mean():,.0f}",
                "epochs": f"{group.epochs.mean():g}",
                "lost, not retrained": f"{at_once:+.2f}" if math.isfinite(at_once) else "-",
                "lost": _cell(group),
                "networks": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def coverage(found: pd.DataFrame) -> pd.DataFrame:
    """Return how many trained networks there are of each arm (lines) at each network and rate (columns)."""
    lines = found[~found.kind.isin(("lr", "budget", "latency"))]
    shapes = [f"{network}, {rate:g}x" for network, rate in zip(lines.network, lines.rate, strict=True)]
    lines = lines.assign(method=lines.method.replace(SHOWN), shape=shapes)
    table = lines.pivot_table(index=["method", "epochs"], columns="shape", values="seed", aggfunc="nunique", sort=False)
    shown = table.map(lambda count: "-" if math.isnan(count) else f"{count:.0f}")
    return shown[sorted(shown)].rename_axis(columns=None).reset_index().assign(epochs=lambda t: t.epochs.map("{:g}".format))


def winners(found: pd.DataFrame, network: str, rate: float) -> pd.DataFrame:
    """Return which arm wins on each trained network alone, and on the mean of all; by how many points it beats random choice."""
    lines = arms(found)
    lines = lines[lines.kind.isin(CUT) & (lines.network == network) & (lines.rate == rate)]
    table = lines.pivot_table(index="method", columns="seed", values="accuracy").dropna()
    table = table.rename(columns="network {}".format).assign(**{"mean of all": table.mean(axis=1)})
    best, ahead_of = table.idxmax(), table.max() - table.loc["random"]
    return pd.DataFrame({"judged by": table.columns, "best arm": best.values, "test accuracy (%)": table.max().round(2).values,
                         "ahead of random (points)": ahead_of.map("{:+.2f}".format).values})  # fmt: skip


def factors(found: pd.DataFrame, network: str, rate: float) -> dict[str, pd.Series]:
    """Return the test accuracies between which a decision of the experimenter chooses, by decision; each indexed by its choices.

    Criteria and starts are means over the trained networks; rates and epochs were tried with L1 on one of them.
    """
    lines = arms(found)
    lines = lines[(lines.network == network) & (lines.rate == rate)]
    ours, means = lines[lines.method == "L1"], lines.groupby("method").accuracy.mean()
    tried = found[found.kind.isin(("lr", "budget")) & (found.network == network) & (found.rate == rate)]
    equal = {"epochs": tried[tried.lr == ours.lr.iloc[0]], "learning rate": tried[tried.epochs == ours.epochs.iloc[0]]}
    by_choice = {
        name: equal[name].set_index(column).sort_index() for name, column in (("epochs", "epochs"), ("learning rate", "lr"))
    }
    starts = means[means.index.isin(("L1", "scratch-E"))]
    return {
        "criterion": means[means.index.isin(lines[lines.kind.isin(CUT)].method)],
        "which trained network (L1)": ours.set_index("seed").accuracy.rename(index="network {}".format),
        "epochs (L1)": by_choice["epochs"].accuracy.rename(index="{:g} epochs".format),
        "learning rate (L1)": by_choice["learning rate"].accuracy.rename(index="rate {:g}".format),
        "start": starts.rename(index={"L1": "trained weights", "scratch-E": "random weights"}),
    }


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per network and rate, with the arm of the best validation accuracy; columns as in `runner.HEADLINE`."""
    lines = arms(found)
    lines = lines[lines.kind.isin(CUT)]
    return pd.DataFrame([_line(group, at) for at, group in lines.groupby(["network", "rate"], sort=False)])


def _line(group: pd.DataFrame, at: tuple[str, float]) -> Mapping[str, Any]:
    best = group.groupby("method").validation.mean().idxmax()
    chosen = group[group.method == best]
    about = {
        "network": at[0],
        "data set": ", ".join(sorted(set(chosen.dataset))),
        "counted": "MACs",
        "published": f"none; here by {best}, the best of {group.method.nunique()} on validation images",
        "rate": float(at[1]),
    }
    return about | lost(chosen)


def _cell(group: pd.DataFrame) -> str:
    if group.empty:
        return "-"
    figures = lost(group)
    if not math.isfinite(figures["low"]):
        return f"{figures['lost']:+.2f} (one network)"
    return f"{figures['lost']:+.2f} ({figures['low']:+.2f} to {figures['high']:+.2f})"
