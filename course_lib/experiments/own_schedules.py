"""The papers' own ways of spreading the epochs over the cuts, at the widths and the number of epochs of the one-shot arms.

Hu et al. trim and retrain in rounds; Luo et al. train one epoch at a low rate after each layer, and longer at the end. The
schedules of the other two are those of the arms: Li et al. prune once and retrain, He et al. go through the layers without
training between them.
"""

from collections.abc import Mapping
from typing import Any

from course_lib import training
from course_lib.data import Splits
from course_lib.experiments import rows
from course_lib.experiments.equal_budgets import BATCH, how, outcome, start
from course_lib.papers import network_trimming, thinet
from course_lib.streams import stream

ROUNDS = 5  # as in the paper's figures for VGG-16, about a tenth of the neurons at a time
BETWEEN = dict(lr=0.001, schedule="constant")  # of the epoch after each layer, as the authors of ThiNet trained
IN_ROUNDS, BY_LAYER = "APoZ, in rounds", "ThiNet, layer by layer"


def own_schedule(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Return a row of a paper's own schedule; `removed` is the lowest test accuracy after any of its cuts."""
    begun, arguments = start(setting, splits, work, seed), how(setting, splits, seed)

    def recipe(epochs: int, **settings: Any) -> training.Recipe:
        return training.recipe(splits, epochs=epochs, **arguments | dict(lr=setting["lr"]) | settings)

    shared = dict(keep=begun.widths, measure=lambda network: rows.percent(network, splits.test))
    epochs, layers = setting["epochs"], len(begun.widths)
    if setting["method"] == IN_ROUNDS:
        _check(epochs % ROUNDS == 0, f"epochs is {epochs}; {ROUNDS} rounds share a multiple of {ROUNDS}")
        found = network_trimming.prune(begun.model, begun.images, rounds=ROUNDS, retrain=recipe(epochs // ROUNDS), **shared)
        cuts = found.record
    else:
        _check(epochs > layers, f"epochs is {epochs}; with one after each of {layers} layers allowed are {layers + 1} and above")
        every = dict(per_class=len(begun.images.labels), seed=stream(seed, "ThiNet"))
        trains = dict(retrain=recipe(1, **BETWEEN), finish=recipe(epochs - layers))
        found = thinet.prune(begun.model, begun.images, **shared, **every, **trains)
        cuts = found.record[:-1]
    removed = min(row["pruned"] for row in cuts)
    return rows.baseline(begun.model, splits) | dict(batch=BATCH) | outcome(found.model, splits, begun.widths, removed)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
