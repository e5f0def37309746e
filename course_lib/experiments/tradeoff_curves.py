"""The runs behind figure 5 of Han et al. 2015: accuracy against how many times fewer weights, curve by curve.

Each run starts from one dense network per seed and returns a point per network that it made. A step of retraining is the same
everywhere, so that networks with as many epochs have seen the same schedule.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from course_lib import models, training
from course_lib.data import Splits
from course_lib.experiments import sparse_rows as sparse
from course_lib.models.pretraining import RECIPES
from course_lib.streams import stream

RATES = (2, 3, 5, 8, 12, 20, 30)  # times fewer weights

Plans = Mapping[int, dict[str, float]]  # rate -> layer -> share to prune
Points = list[dict[str, Any]]


def curves(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return the row of a group of curves: a point per network, each with its curve as the method."""
    network = setting["network"]
    dense = (
        with_l1(network, splits, seed, work["dense"], sparse.l1(sparse.L1_STRENGTH))
        if setting["group"] == "L1"
        else sparse.start(network, splits, seed)
    )
    plans = sparse.plans_for(dense, splits, RATES, work["scan"])
    how = sparse.recipe(splits, seed, epochs=work["step"], lr=setting["lr"])
    return sparse.shared(dense, splits) | dict(points=GROUPS[setting["group"]](dense, splits, plans, how))


def l2(dense: nn.Module, splits: Splits, plans: Plans, how: training.Recipe) -> Points:
    """Return the points of the L2 network: pruned at once to each rate, without retraining and with a step of it."""
    return at_once("L2, no retraining", dense, splits, plans, how, 0) + at_once("L2, retraining", dense, splits, plans, how, 1)


def l1(dense: nn.Module, splits: Splits, plans: Plans, how: training.Recipe) -> Points:
    """Return the points of the L1 network: without retraining, and with a step under the L1 or the L2 penalty."""
    under_l1 = training.recipe(splits, epochs=how.epochs, **how.settings | sparse.l1(sparse.L1_STRENGTH))
    return (
        at_once("L1, no retraining", dense, splits, plans, how, 0)
        + at_once("L1, retraining", dense, splits, plans, under_l1, 1)
        + at_once("L1, then L2 retraining", dense, splits, plans, how, 1)
    )


def at_once(curve: str, dense: nn.Module, splits: Splits, plans: Plans, how: training.Recipe, steps: int) -> Points:
    """Return a point per rate: pruned at once, then retrained for so many steps."""
    calls = range(1, steps + 1)
    return [
        dict(method=curve, rate=rate) | sparse.retrained(dense, splits, shares, how, calls)[1] for rate, shares in plans.items()
    ]


def iterative(dense: nn.Module, splits: Splits, plans: Plans, how: training.Recipe) -> Points:
    """Return a point per rate, each pruned further from the network of the rate before and retrained for one more step."""
    points: Points = []
    model = dense
    for step, (rate, shares) in enumerate(plans.items(), 1):
        model, figures = sparse.retrained(model, splits, shares, how, [step])
        points.append(dict(method="L2, iterative", rate=rate) | figures | sparse.trained_with(how, step))
    return points


def long(dense: nn.Module, splits: Splits, plans: Plans, how: training.Recipe) -> Points:
    """Return the partner of each point of `iterative`: pruned at once to the rate, then as many steps as that had by then."""
    points: Points = []
    for steps, (rate, shares) in enumerate(plans.items(), 1):
        figures = sparse.retrained(dense, splits, shares, how, range(1, steps + 1))[1]
        points.append(dict(method="L2, one shot, long", rate=rate) | figures)
    return points


def unpruned(dense: nn.Module, splits: Splits, plans: Plans, how: training.Recipe) -> Points:
    """Return the dense network after as many steps as the networks of the other curves had."""
    points: Points = []
    model, whole = dense, dict.fromkeys(next(iter(plans.values())), 0.0)
    for step in range(1, len(plans) + 1):
        model, figures = sparse.retrained(model, splits, whole, how, [step])
        points.append(dict(method="dense, trained on", rate=1) | figures | dict(removed=None) | sparse.trained_with(how, step))
    return points


GROUPS: dict[str, Callable[..., Points]] = {"L2": l2, "L1": l1, "iterative": iterative, "long": long, "dense": unpruned}


def with_l1(network: str, splits: Splits, seed: int, epochs: int, penalty: Mapping[str, float]) -> nn.Module:
    """Return the network of a seed, trained with the L1 penalty: the same first weights, batches and recipe otherwise."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, "initial weights"))
        model = models.build(network).to(splits.train.images.device)
    settings = RECIPES[network, splits.name] | dict(epochs=epochs) | penalty
    training.fit(model, splits, seed=stream(seed, "training"), progress=False, **settings)
    return model


def penalty(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of an L1 network pruned to 12x and retrained: the validation accuracy chooses `sparse_rows.L1_STRENGTH`."""
    l1, epochs = sparse.l1(setting["l1"]), work["rounds"] + work["final"]
    dense = with_l1(setting["network"], splits, seed, epochs, l1)
    how = sparse.recipe(splits, seed, epochs=work["step"], lr=setting["lr"], **l1)
    figures = sparse.retrained(dense, splits, sparse.plan(dense, splits, 12, work["scan"]), how, [1])[1]
    return sparse.shared(dense, splits) | dict(method="L1, retraining", rate=12, dense_epochs=epochs) | figures
