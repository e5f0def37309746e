"""What all runs of weight pruning share: where they start, how they retrain, how much of each layer they prune."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from course_lib import models, plans, training
from course_lib.data import Splits
from course_lib.experiments import rows
from course_lib.papers import weight_pruning as paper
from course_lib.streams import stream

SCAN = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98, 0.99, 0.995)  # sparsities of the scan
BATCH = 128
# Of retraining, chosen on the validation images by the rows 'lr ...', mean of five networks. LeNet-300-100 had 1.50 % error after
# three epochs at 0.1 (at 0.03: 1.60 %) and 1.25 % after ten (1.34 %); LeNet-5 had 0.76 % after three (0.78 %)
LR = {"lenet-300-100": 0.1, "lenet-5": 0.1}
# Retraining has the penalty of training: the pretrained networks had this weight decay
L2 = dict(l1=0.0, weight_decay=5e-4)
# The rows 'penalty ...': 1.47 % validation error at 12x; 2e-5 had 1.96 % and 1e-4 had 1.72 %, mean of five networks
L1_STRENGTH = 5e-5


def l1(strength: float) -> dict[str, float]:
    """Return the settings of `fit` for the L1 penalty, in the place of weight decay."""
    return dict(l1=strength, weight_decay=0.0)


def start(network: str, splits: Splits, seed: int) -> nn.Module:
    """Return the trained network of a seed for the data set that is really in use, on its device."""
    return models.pretrained(network, splits.name, seed).to(splits.test.images.device)


def recipe(splits: Splits, seed: int, *, epochs: int, lr: float, **settings) -> training.Recipe:
    """Return how a network is retrained, by default with the penalty L2 and a learning rate that falls to zero."""
    settings = dict(schedule="linear", progress=False, augment="shift", batch_size=BATCH, **L2) | settings
    return training.recipe(splits, epochs=epochs, lr=lr, seed=stream(seed, "retraining"), **settings)


def plan(model: nn.Module, splits: Splits, rate: float, images: int) -> dict[str, float]:
    """Return a sparsity per layer for a rate, by a scan of this network on training images: no test image takes part."""
    return plans_for(model, splits, [rate], images)[rate]


def plans_for(model: nn.Module, splits: Splits, rates: Iterable[float], images: int) -> dict[float, dict[str, float]]:
    """Return the `plan` of each rate, all by one scan."""
    curves = paper.sensitivity(model, splits.train.take(images), SCAN)
    return {rate: plans.sparsities_for_rate(model, curves, SCAN, rate) for rate in rates}


def retrained(
    model: nn.Module, splits: Splits, shares: dict[str, float], how: training.Recipe, calls: Sequence[int]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network that is pruned at once and then trained by `how` once per call, and its figures for the row.

    Args:
        model: what to prune; it is left as it was.
        splits: the test and validation images are measured.
        shares: layer name -> share to prune.
        how: the training of one call.
        calls: numbers of the calls, which have random streams of their own; none prunes without retraining.
    """

    def train(network: nn.Module) -> None:
        for number in calls:
            how.nth(number)(network)

    result = paper.prune(model, None, shares, retrain=train, measure=lambda network: rows.percent(network, splits.test))
    return result.model, trained_with(how, len(calls)) | figures(result.model, splits, result.record[0]["pruned"])


def figures(model: nn.Module, splits: Splits, removed: float | None) -> dict[str, Any]:
    """Return `rows.outcome` without latencies: zeros at any place change none, so a run measures its dense network."""
    return rows.outcome(model, splits, removed=removed, timed=False)


def trained_with(how: training.Recipe, calls: int = 1) -> dict[str, Any]:
    """Return the row's epochs, learning rate and batch size."""
    if not calls:
        return dict(epochs=0, lr=None, batch=0)
    return dict(epochs=calls * how.epochs, lr=how.settings["lr"], batch=how.settings["batch_size"])


def shared(dense: nn.Module, splits: Splits) -> dict[str, Any]:
    """Return the fields that all networks pruned from one dense network have in common."""
    precision = str(training.fastest_precision(dense, splits.test.images.device)).removeprefix("torch.")
    about = dict(dataset=splits.name, precision=precision)
    return about | rows.baseline(dense, splits) | rows.latencies(dense, splits)
