"""What all arms of the comparison share: where they begin, what their criteria may look at, and how they are trained."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from course_lib import cost, models, surgery, training
from course_lib.data import Split, Splits
from course_lib.experiments import equal_shapes, rows
from course_lib.files import ROOT
from course_lib.models.pretraining import RECIPES
from course_lib.streams import stream

STATES = ROOT / "build" / "experiments"  # of trainings that are under way
BATCH = 128
UNTRAINED = dict(epochs=0, lr=None, batch=0, precision="float32")  # fields of a network that is not retrained


class Start(NamedTuple):
    """Where an arm begins."""

    model: nn.Module  # the trained network
    widths: dict[str, int]  # layer -> how many of its filters stay
    images: Split  # training images, the same for all criteria that look at images


def start(setting: Mapping[str, Any], splits: Splits, work: Mapping[str, int], seed: int) -> Start:
    """Return the trained network of a seed, the plan of a setting, and the images on which filters are chosen."""
    device = splits.test.images.device
    model = models.pretrained(setting["network"], splits.name, seed, device=device)
    images = splits.train.take(work["images"], stream(seed, "images"))
    return Start(model, plan(model, setting, images), images)


def plan(model: nn.Module, setting: Mapping[str, Any], images: Split) -> dict[str, int]:
    """Return how many filters each layer of a network keeps at the rate of a setting."""
    if setting["counted"] == "bytes":
        return equal_shapes.for_bytes(model, setting["rate"], images.images[:1])
    return equal_shapes.for_macs(model, setting["rate"], images.images[:1])


def how(setting: Mapping[str, Any], splits: Splits, seed: int) -> dict[str, Any]:
    """Return the arguments of `training.fit` that are the same for all arms: batch, augmentation, images in the same order."""
    augment = RECIPES[setting["network"], splits.name]["augment"]
    return dict(batch_size=BATCH, augment=augment, seed=stream(seed, "retraining"), progress=False)


def trained(model: nn.Module, setting: Mapping[str, Any], splits: Splits, seed: int, *, epochs: int, lr: float) -> dict[str, Any]:
    """Train `model` in place, with a rate that rises to `lr` and falls to zero; return the row's epochs, rate and batch.

    A run that was killed goes on from its last epoch, if the runner gave the setting a fingerprint.
    """
    mark = setting.get("fingerprint")
    state = STATES / f"comparison {mark} {seed}.pt" if mark else None
    training.fit(model, splits, epochs=epochs, lr=lr, resume_from=state, **how(setting, splits, seed))
    if state is not None:
        state.unlink(missing_ok=True)
    return dict(epochs=epochs, lr=lr, batch=BATCH)


def retrained(setting: Mapping[str, Any], splits: Splits, seed: int, begun: Start, narrower: nn.Module) -> dict[str, Any]:
    """Return the row of a network that was cut: measured, trained by the recipe of all arms, and measured again."""
    removed = rows.percent(narrower, splits.test)
    figures = trained(narrower, setting, splits, seed, epochs=setting["epochs"], lr=setting["lr"])
    return rows.baseline(begun.model, splits) | figures | outcome(narrower, splits, begun.widths, removed)


def outcome(model: nn.Module, splits: Splits, widths: Mapping[str, int], removed: float | None) -> dict[str, Any]:
    """Return the row's figures of a network at the end, and the widths of its layers."""
    return dict(widths=dict(widths)) | rows.outcome(model, splits, removed=removed)


def from_scratch(setting: Mapping[str, Any], splits: Splits, begun: Start, seed: int) -> nn.Module:
    """Return a network of the same shape with random weights, others than those that the trained network began with."""
    name = setting["network"]
    shape = {layer: range(keep) for layer, keep in begun.widths.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, "initial weights", "from scratch"))
        narrower = surgery.narrow(models.build(name), shape, models.example_input(name))
        for module in narrower.modules():  # drawn again, with the deviations that suit layers of these widths
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        drawn = narrower if name.startswith("lenet") else models.networks.he_initialised(narrower)
    return drawn.to(splits.test.images.device)


def macs(model: nn.Module, splits: Splits) -> int:
    """Return the multiply-accumulates of a forward pass of one image."""
    return int(cost.count(model, splits.test.images[:1]).MACs.sum())
