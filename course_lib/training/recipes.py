"""Recipes: functions that train the network they are given, as the papers' loops take them for `retrain` and `finish`."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from course_lib.data import Splits
from course_lib.streams import stream
from course_lib.training.fitting import History, fit

Retrain = Callable[[nn.Module], Any]  # trains the network that it is given, in place; what it returns is not read


@dataclass(frozen=True)
class Recipe:
    """A way to train: call it with a network, and `fit` trains that in place."""

    splits: Splits
    epochs: float
    settings: dict[str, Any]  # the other arguments of `fit`

    def __call__(self, model: nn.Module) -> History:
        """Train `model` in place and return the history of `fit`."""
        splits, epochs = self.splits, self.epochs
        if 0 < epochs < 1:
            share = splits.train.take(round(epochs * len(splits.train.labels)), self.settings.get("seed", 0))
            splits, epochs = dataclasses.replace(splits, train=share), 1
        return fit(model, splits, epochs=epochs, **self.settings)

    def nth(self, number: int) -> "Recipe":
        """Return the recipe for the n-th of several calls, from 1 on: each has random streams and a resume file of its own.

        A loop that prunes and retrains trains more than once. With a file for each call, a loop that was interrupted and is
        started again runs through the finished rounds without training and goes on in the one that was cut off.
        """
        path = self.settings.get("resume_from")
        own = {} if path is None else {"resume_from": f"{path}.{number}"}
        seed = stream(self.settings.get("seed", 0), "call", number)
        return dataclasses.replace(self, settings=self.settings | own | {"seed": seed})


def recipe(splits: Splits, *, epochs: float, **settings) -> Recipe:
    """Return a function that trains the network it is given, in place: `fit` on `splits`, its other arguments fixed.

    Args:
        splits: only `splits.train` is read.
        epochs: passes over the training set; below 1, one pass over that share of it, another share in each call of a loop.
        settings: arguments of `fit`, such as lr, schedule, augment, weight_decay, seed, resume_from.
    """
    return Recipe(splits, epochs, settings)


def call(retrain: Retrain | None, model: nn.Module, number: int = 1) -> None:
    """Call `retrain`, if there is one, for the n-th time in a loop, with gradients on; leave `model` in evaluation mode."""
    try:
        if retrain is not None:
            with torch.inference_mode(False), torch.enable_grad():
                returned = (retrain.nth(number) if isinstance(retrain, Recipe) else retrain)(model)
                if isinstance(returned, nn.Module) and returned is not model:
                    raise ValueError("retrain returns another network; it has to train the one it is given, in place")
    finally:
        model.eval()
