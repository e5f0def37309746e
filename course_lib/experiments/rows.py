"""What a row of data/results holds: one compressed network, how it was made, how well it does, and what it costs."""

import math
import tempfile
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import cost
from course_lib.data import Split, Splits
from course_lib.evidence import interval
from course_lib.storage import networks
from course_lib.training import evaluate

OPTIONAL = None  # as a kind of field: a number, or None where it has no meaning

# field -> the kind of its value. Accuracies in percent, latencies in milliseconds, bytes of the real file.
SCHEMA: dict[str, Any] = {
    "name": str, "experiment": str, "kind": str, "network": str, "dataset": str, "method": str, "scale": str,
    "seed": int,  # of the trained network that it starts from, and of all that is drawn afterwards
    "epochs": Real, "batch": int,  # of retraining, all rounds together
    "lr": OPTIONAL,  # peak of the retraining; None where nothing is trained
    "baseline": Real, "baseline_loss": Real,  # test accuracy and cross-entropy of the trained network before anything
    "removed": OPTIONAL,  # test accuracy after removal, before retraining; None where nothing is removed
    "accuracy": Real,  # test accuracy at the end
    "validation": Real,  # validation accuracy at the end; choices are made by this one
    "parameters": int, "nonzeros": int, "macs": int, "bytes": int,
    "latency_1": Real, "latency_64": Real,
    "precision": str, "seconds": Real, "device": str, "versions": dict, "date": str, "command": str, "fingerprint": str,
}  # fmt: skip
PERCENT = ("baseline", "removed", "accuracy", "validation")
POSITIVE = ("parameters", "macs", "bytes", "latency_1", "latency_64")


def checked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row as it is, if it holds what SCHEMA asks for; a row with 'points' is a run that made a row of each.

    Raises:
        ValueError: fields that are missing or of another kind, or figures out of their range; all are named.
    """
    wrong = [problem for line in flat([row]) for problem in _problems(line)]
    if wrong:
        raise ValueError(f"row {row.get('name')!r} is no row of results: {'; '.join(dict.fromkeys(wrong))}")
    return row


def flat(rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one dict per compressed network: a row with 'points' gives one for each, with the row's other fields."""
    lines = []
    for row in rows:
        shared = {key: value for key, value in row.items() if key != "points"}
        lines += [shared | point for point in row["points"]] if "points" in row else [dict(shared)]
    return lines


def frame(rows: list[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a DataFrame, one line per compressed network."""
    return pd.DataFrame(flat(rows))


def lost(lines: pd.DataFrame) -> dict[str, Any]:
    """Return the points of test accuracy lost, mean over trained networks, with the ends of its 95 % interval.

    Args:
        lines: one line per network, with 'seed', 'baseline' and 'accuracy'.
    """
    by_network = (lines.baseline - lines.accuracy).groupby(lines.seed).mean()
    mean, low, high = interval(by_network)
    return dict(lost=mean, low=low, high=high, networks=len(by_network))


def baseline(model: nn.Module, splits: Splits) -> dict[str, float]:
    """Return the row's figures of the network that a run starts from: test accuracy (percent) and test cross-entropy.

    The cross-entropy tells two networks apart that happen to get as many images right.
    """
    return dict(baseline=percent(model, splits.test), baseline_loss=round(_loss(model, splits.test), 7))


def outcome(
    model: nn.Module, splits: Splits, *, removed: float | None = None, codes: networks.Codes | None = None, timed: bool = True
) -> dict[str, Any]:
    """Return the row's figures of a network at the end: accuracies, parameters, non-zeros, MACs, bytes of its file, latencies.

    Args:
        model: the compressed network.
        splits: its test and validation images.
        removed: test accuracy in percent between removal and retraining.
        codes: of its weights, as for `storage.networks.save`.
        timed: measure latencies; False where a run measures them once for many networks of the same shape.
    """
    layers = cost.count(model, splits.test.images[:1])
    accuracies = dict(accuracy=percent(model, splits.test), validation=percent(model, splits.validation))
    return (
        dict(removed=removed)
        | accuracies
        | dict(
            parameters=int(layers.weights.sum()), nonzeros=int(layers.nonzeros.sum()), macs=int(layers.MACs.sum()),
            bytes=file_bytes(model, codes),
        )
        | (latencies(model, splits) if timed else {})
    )  # fmt: skip


def latencies(model: nn.Module, splits: Splits) -> dict[str, float]:
    """Return the milliseconds of a forward pass of 1 and of 64 images, on the threads that a run has."""
    times = {count: 1e3 * cost.measure(model, splits.test.images[:count], seconds=0.1) for count in (1, 64)}
    return {f"latency_{count}": round(milliseconds, 4) for count, milliseconds in times.items()}


def percent(model: nn.Module, split: Split) -> float:
    """Return the accuracy in percent."""
    return round(100 * evaluate(model, split), 4)


def file_bytes(model: nn.Module, codes: networks.Codes | None = None) -> int:
    """Return the size of the file that `Result.save` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        networks.save(model, path, codes)
        return path.stat().st_size


@torch.no_grad()
def _loss(model: nn.Module, split: Split) -> float:
    parts = zip(split.images.split(1000), split.labels.split(1000), strict=True)
    return sum(F.cross_entropy(model(images), labels, reduction="sum").item() for images, labels in parts) / len(split.labels)


def _problems(line: Mapping[str, Any]) -> list[str]:
    wrong = [f"{field} is missing" for field in SCHEMA if field not in line]
    for field, kind in SCHEMA.items():
        value = line.get(field)
        if field not in line or (kind is OPTIONAL and value is None):
            continue
        expected = Real if kind is OPTIONAL else Integral if kind is int else kind
        if not isinstance(value, expected) or isinstance(value, bool):
            wrong.append(f"{field} is {value!r}; expected {expected.__name__}")
        elif isinstance(value, Real) and not math.isfinite(value):
            wrong.append(f"{field} is {value}; expected a finite number")
        elif field in PERCENT and not 0 <= value <= 100:
            wrong.append(f"{field} is {value}; expected percent, from 0 to 100")
        elif field in POSITIVE and value <= 0:
            wrong.append(f"{field} is {value}; expected more than 0")
    return wrong
