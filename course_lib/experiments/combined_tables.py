"""What the rows of the combined runs say: how far the stack gets without loss, and what files that users have at hand cost."""

from typing import Any

import pandas as pd

from course_lib import evidence
from course_lib.experiments import rows

CHOICE = ["start", "stage", "fewer", "bits"]  # what one chooses, by validation images
ALONE = "Deep Compression alone"
SHOWN = ("ONNX, float32", "ONNX int8, dynamic", "ONNX int8, static", "4-bit shared weights")  # forms of file


def stages(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the stack, a line per network and stage, with the points lost on test and on validation images.

    'start' says how the stack began, 'times' how many times smaller the file is than the trained network's, all numbers as they
    are; 'bits' is 0 where numbers are not coded.
    """
    lines = _of_kind(found, "stack", ["bits", "fewer", "dense_bytes", "validation", "validation_before"])
    starts = [
        ALONE if method == "whole" else f"{method}, {rate:g}x" for method, rate in zip(lines.method, lines.rate, strict=True)
    ]
    lost = dict(lost=lines.baseline - lines.accuracy, lost_validation=lines.validation_before - lines.validation)
    times = lines.dense_bytes / lines.bytes
    return lines.assign(start=starts, bits=lines.bits.fillna(0).astype(int), fewer=lines.fewer.astype(int), times=times, **lost)


def means(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per start, stage and setting: means over networks, the points lost with the 95 % interval."""
    table = []
    for at, group in stages(found).groupby(CHOICE, sort=False):
        figures = dict(bytes=group.bytes.mean(), times=group.times.mean(), nonzeros=group.nonzeros.mean())
        figures |= dict(lost_validation=group.lost_validation.mean(), epochs=group.epochs.mean())
        table.append(dict(zip(CHOICE, at, strict=True)) | figures | rows.lost(group))
    return pd.DataFrame(table)


def chosen(found: pd.DataFrame, margin: float | None = None) -> pd.DataFrame:
    """Return of each start the setting of the smallest file that loses at most `margin` points on validation, means of networks.

    One setting is chosen for all networks of a start, by validation images alone; a start without such a setting has no line.

    Args:
        found: recorded rows.
        margin: in points; default the smallest relevant difference on MNIST.
    """
    table, margin = means(found), evidence.RELEVANT["mnist"] if margin is None else margin
    kept = table[(table.lost_validation <= margin) & (table.stage == "coded")]
    return table.loc[kept.groupby("start", sort=False).bytes.idxmin()] if len(kept) else kept


def without_loss(found: pd.DataFrame) -> pd.DataFrame:
    """Return 'how far without loss' in words: a line per start, chosen by validation images and reported on test images."""
    lines, table = stages(found), []
    for row in chosen(found).itertuples():
        group = lines[(lines[CHOICE] == [getattr(row, key) for key in CHOICE]).all(axis=1)]
        verdict = evidence.no_worse(group.accuracy - group.baseline, "mnist")
        table.append(
            {
                "start": row.start,
                "weights left": f"1 of {row.fewer}",
                "bits": f"{row.bits} (convolutions {row.bits + 1})",
                "bytes": f"{row.bytes:,.0f}",
                "times smaller": f"{row.times:.0f}x",
                "lost on validation": f"{row.lost_validation:+.2f}",
                "lost on test": _interval(row.lost, row.low, row.high),
                "at most 0.1 points lost": verdict.label,
                "epochs": f"{row.epochs:g}",
                "networks": row.networks,
            }
        )
    return pd.DataFrame(table)


def against_alone(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per start, setting and network: points ahead of Deep Compression alone, and bytes over its bytes.

    Both have as many weights, bits and epochs, and begin with the same trained network: `evidence.better` judges the points.
    """
    lines = stages(found)
    lines = lines[lines.stage == "coded"].set_index(["fewer", "bits", "seed"])
    alone = lines[lines.start == ALONE]
    others = lines[lines.start != ALONE].join(alone[["accuracy", "bytes"]].add_suffix("_alone"), how="inner")
    others = others.assign(ahead=others.accuracy - others.accuracy_alone, bytes_ratio=others.bytes / others.bytes_alone)
    return others.reset_index()[["start", "fewer", "bits", "seed", "ahead", "bytes_ratio"]]


def against_alone_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return `against_alone` in words: a line per start and setting, with the verdict on 'better than Deep Compression alone'."""
    table = []
    for (start, fewer, bits), group in against_alone(found).groupby(["start", "fewer", "bits"], sort=False):
        verdict = evidence.better(group.ahead, "mnist")
        about = {
            "start": start,
            "weights left": f"1 of {fewer}",
            "bits": bits,
            "bytes": f"{100 * group.bytes_ratio.mean():.0f} %",
        }
        ahead = _interval(verdict.mean, verdict.low, verdict.high)
        table.append(about | {"points ahead": ahead, "better": verdict.label, "networks": verdict.networks})
    return pd.DataFrame(table)


def files(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of files at hand, a line per network and form, with the points that the file loses.

    'lost' counts from the network that was written into it, whole or narrowed, and 'lost_in_all' from the trained one.
    """
    lines = _of_kind(found, "files", ["float_accuracy"])
    starts = [
        "whole" if method == "whole" else f"{method}, {rate:g}x" for method, rate in zip(lines.method, lines.rate, strict=True)
    ]
    return lines.assign(start=starts, lost=lines.float_accuracy - lines.accuracy, lost_in_all=lines.baseline - lines.accuracy)


def file_table(found: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return a line per start and form of file, of SHOWN: kilobytes, after xz too, the points lost, latencies.

    Times are those of ONNX Runtime; shared weights are unpacked to float32 before they compute.
    """
    lines, table = files(found), []
    lines = lines[(lines.network == network) & lines.form.isin(SHOWN)]
    for (start, form), group in lines.groupby(["start", "form"], sort=False):
        mean, low, high = evidence.interval(group.groupby("seed").lost.mean())
        table.append(
            {
                "network": f"{network}, {start}",
                "file": form,
                "kB": f"{group.bytes.mean() / 1000:.1f}",
                "kB after xz": f"{group.packed.mean() / 1000:.1f}",
                "points lost by the file": _interval(mean, low, high),
                "lost in all": f"{group.lost_in_all.mean():+.2f}",
                "ms, 1 image": f"{group.latency_1.mean():.2f}" if form.startswith("ONNX") else "-",
                "ms, 64 images": f"{group.latency_64.mean():.1f}" if form.startswith("ONNX") else "-",
                "epochs": f"{group.epochs.mean():g}",
                "networks": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def paper_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return how far the stack gets without loss; no paper has this experiment."""
    return without_loss(found)


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return the smallest file without loss on validation images, whatever its start; columns as in `runner.HEADLINE`."""
    table = chosen(found)
    if table.empty:
        return table
    best = table.loc[table.bytes.idxmin()]
    lines = stages(found)
    about: dict[str, Any] = {
        "network": ", ".join(sorted(set(lines.network))),
        "data set": ", ".join(sorted(set(lines.dataset))),
        "counted": "bytes of the file",
        "published": f"none; here by {_before(best.start)}Deep Compression, with the smallest file that validation images allow",
        "rate": best.times,
    }
    return pd.DataFrame([about | best[["lost", "low", "high", "networks"]].to_dict()])


def _of_kind(found: pd.DataFrame, kind: str, fields: list[str]) -> pd.DataFrame:
    """The rows of a kind, with its own fields even where no row has them yet."""
    missing = [field for field in fields if field not in found]
    return found[found.kind == kind].reindex(columns=[*found.columns, *missing])


def _before(start: str) -> str:
    return "" if start == ALONE else f"trimming ({start}), then "


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" if low > float("-inf") else f"{mean:+.2f} (one network)"
