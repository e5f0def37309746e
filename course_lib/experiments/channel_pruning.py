"""The runs behind notebook 06: He et al. 2017, on vgg-small and ResNet-20 with CIFAR-10, nothing retrained.

A setting's 'kind' says which question it answers: 'layer' one layer alone, by each way of choosing its channels (the paper's
figure 4); 'rules' the paper's two rules for residual networks; 'samples' how many images and positions least squares needs;
'ridge' whether a ridge helps where these are few; 'refitted' the widths of the comparison (notebook 08) filled by another
choice than the LASSO's, with the same least squares. The comparison has the LASSO itself, not retrained and retrained, and the
same shape trained from scratch.

Channels are chosen and weights fitted on training images; all accuracies are those of the whole test set. A seed is an
independently trained network. Networks are measured in the precision in which they were trained, as those of the comparison.
"""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from course_lib import data, least_squares, models, training
from course_lib.data import Splits
from course_lib.experiments import channel_choices as choices
from course_lib.experiments import equal_budgets, one_shot, residual_rules, rows
from course_lib.experiments.channel_tables import headline, paper_table
from course_lib.experiments.equal_budgets import UNTRAINED
from course_lib.papers import channel_pruning as paper
from course_lib.streams import stream
from course_lib.surgery.inputs import keep_inputs, kept_inputs

__all__ = ["budget", "grid", "headline", "paper_table", "run"]

# Layers that are pruned alone: all that read the channels of another
LAYERS = {"vgg-small": tuple(f"conv{i}" for i in range(2, 7)), "vgg-16": tuple(f"conv{i}" for i in range(2, 14))}
SPEEDUPS = (2, 3, 4)  # of that layer: it reads so many times fewer channels
REFITTED = {choices.RESPONSE: one_shot.L1, choices.RANDOM: one_shot.RANDOM}  # max response is the L1 norm of the filters
RIDGES = (0.0, 0.001, 0.01, 0.1)  # in units of the mean square of an input
WITHOUT = "LASSO, no least squares"


def budget(scale: str) -> dict[str, Any]:
    """Return how much work each kind of run does at a scale.

    'images' choose and fit, in 'positions' of their feature maps, and a layer's output is judged in 'judged' positions of each
    test image; 'fewer' images serve the rules; 'samples' are pairs of images and positions, 'ridge' counts of images.
    """
    small = dict(images=100, positions=20, judged=2, fewer=60, samples=((20, 5), (50, 20)), ridge=(20, 100))
    samples = ((50, 10), (500, 1), (50, 100), (500, 10), (5_000, 1))
    large = dict(images=5_000, positions=10, judged=2, fewer=1_000, samples=samples, ridge=(50, 100, 500))
    return {"smoke": small, "lesson": large, "paper": large | dict(fewer=5_000)}[scale]


def grid(scale: str) -> list[dict]:
    """Return all settings, those that the notebook leans on most first."""
    plain, residual = ("vgg-16", "resnet-56") if scale == "paper" else ("vgg-small", "resnet-20")
    layers, rates = (LAYERS[plain][::4], (2,)) if scale == "smoke" else (LAYERS[plain], (2, 4))
    settings = [dict(kind="layer", network=plain, layer=layer) for layer in layers]
    settings += [dict(kind="rules", network=residual, rate=2, rules=rules) for rules in residual_rules.RULES]
    settings += [dict(kind="samples", network=plain, rate=2), dict(kind="ridge", network=plain, layer=layers[-1])]
    settings += [dict(kind="refitted", network=plain, rate=rate, method=method) for rate in rates for method in REFITTED]
    names = [" ".join(str(value) for value in setting.values()) for setting in settings]
    return [dict(name=name, counted="MACs", seeds=3, **setting) for name, setting in zip(names, settings, strict=True)]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    splits = data.load("cifar10", device=device, scale=scale)
    about = UNTRAINED | dict(dataset=splits.name, precision=str(precision(splits)).removeprefix("torch."))
    return about | KINDS[setting["kind"]](setting, splits, budget(scale), seed)


def layer(setting: dict, splits: Splits, work: Mapping[str, Any], seed: int) -> dict:
    """Return a row of one layer alone: a point per way of choosing and rate, with the points of accuracy lost and the error.

    The reconstruction error is that of the layer's output, on test images. For the LASSO there is also the error with the
    trained weights times beta, before least squares, the penalty, and how many channels the largest contribution would share.
    """
    model, name = trained(setting, splits, seed), setting["layer"]
    images = splits.train.take(work["images"], stream(seed, "images")).images
    seen = choices.moments_of(model, name, images, work["positions"], stream(seed, "seen", name))
    unseen = choices.moments_of(model, name, splits.test.images, work["judged"], stream(seed, "unseen", name))
    strongest = choices.strengths(model, [name], images[:1])[name]
    weight, points = model.get_submodule(name).weight.detach().flatten(2), []
    for speedup in SPEEDUPS:
        keep = round(len(strongest) / speedup)
        ways = choices.ways_of_choosing(weight, seen, strongest, keep, stream(seed, "ways", name, speedup))
        for method in choices.METHODS:
            found = judged(model, name, seen, unseen, ways[method], splits)
            points.append(dict(method=method, speedup=speedup, keep=keep) | found)
        penalty, beta = choices.lasso_at(seen, weight, keep)
        shrunken = choices.reconstruction_error(unseen, beta.to(weight)[:, None] * weight)
        shared = set(ways[choices.LASSO].tolist()) & set(ways[choices.LARGEST].tolist())
        points[-len(choices.METHODS)] |= dict(penalty=penalty, error_before_fit=shrunken, shared=len(shared))
    return before(model, splits) | dict(channels=len(strongest), points=points)


def judged(
    model: nn.Module, name: str, seen: least_squares.Moments, unseen: least_squares.Moments, kept: Any, splits: Splits
) -> dict[str, Any]:
    """Return the figures of the network in which one layer reads the channels `kept`, fitted anew."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*a small ridge decides")
        weight, bias = least_squares.refit(seen, kept)
    narrower = keep_inputs(choices.with_weight(model, name, weight, bias), {name: kept}, splits.test.images[:1])
    return dict(error=choices.reconstruction_error(unseen, weight)) | after(narrower, splits)


def rules(setting: dict, splits: Splits, work: Mapping[str, Any], seed: int) -> dict:
    """Return a row of a residual network pruned under some of the rules, with the explained shares of its layers."""
    model, images = trained(setting, splits, seed), splits.train.take(work["fewer"], stream(seed, "images"))
    how = dict(rate=setting["rate"], positions=work["positions"], images=work["fewer"], seed=stream(seed, "rules"))
    result = residual_rules.prune(model, images, setting["network"], setting["rules"], **how)
    layers = {row["reader"]: dict(kept=row["kept"], explained=row["explained"]) for row in result.record}
    return before(model, splits) | dict(method=choices.LASSO, layers=layers) | after(result.model, splits)


def samples(setting: dict, splits: Splits, work: Mapping[str, Any], seed: int) -> dict:
    """Return a row of the LASSO on few samples: a point per number of images and positions; the last one without fitting too."""
    begun, points = equal_budgets.start(setting, splits, work, seed), []
    for images, positions in work["samples"]:
        how = dict(images=images, positions=positions, seed=stream(seed, "samples", images, positions))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result = paper.prune(begun.model, begun.images, begun.widths, **how)
        ridges = sum("a small ridge decides" in str(warning.message) for warning in said)
        about = dict(method=choices.LASSO, images=images, positions=positions, ridges=ridges)
        points.append(about | after(result.model, splits))
    bare = keep_inputs(begun.model, kept_inputs(result.model), begun.images.images[:1])
    points.append(about | dict(method=WITHOUT) | after(bare, splits))
    return before(begun.model, splits) | dict(points=points)


def ridge(setting: dict, splits: Splits, work: Mapping[str, Any], seed: int) -> dict:
    """Return a row of half of a layer's channels, fitted to few samples: a point per number of images and ridge."""
    model, name, points = trained(setting, splits, seed), setting["layer"], []
    unseen = choices.moments_of(model, name, splits.test.images, work["judged"], stream(seed, "unseen", name))
    weight = model.get_submodule(name).weight.detach().flatten(2)
    for count in work["ridge"]:
        images = splits.train.take(count, stream(seed, "images")).images
        seen = choices.moments_of(model, name, images, work["positions"], stream(seed, "seen", name))
        kept = paper.choose(seen, weight, weight.shape[1] // 2)
        about = dict(method=choices.LASSO, images=count, samples=seen.samples, unknowns=len(kept) * weight.shape[2])
        for strength in RIDGES:
            found = judged(model, name, choices.with_ridge(seen, strength), unseen, kept, splits)
            points.append(about | dict(ridge=strength) | found)
    return before(model, splits) | dict(points=points)


def refitted(setting: dict, splits: Splits, work: Mapping[str, Any], seed: int) -> dict:
    """Return a row of the comparison's widths and images, filled by another choice, with the LASSO's least squares."""
    begun = equal_budgets.start(setting, splits, work, seed)
    kept = one_shot.filters_to_keep(REFITTED[setting["method"]], begun.model, begun.widths, begun.images, seed)
    how = dict(images=len(begun.images.labels), positions=work["positions"], seed=stream(seed, "least squares"))
    result = paper.prune(begun.model, begun.images, kept, **how)
    return before(begun.model, splits) | after(result.model, splits)


# What a fingerprint follows: only what a kind reads
KINDS: dict[str, Callable[[dict, Splits, Mapping[str, Any], int], dict]] = {
    "layer": layer, "rules": rules, "samples": samples, "ridge": ridge, "refitted": refitted,
}  # fmt: skip


def trained(setting: Mapping[str, Any], splits: Splits, seed: int) -> nn.Module:
    """Return the trained network of a seed, on the device of the images."""
    return models.pretrained(setting["network"], splits.name, seed, device=splits.test.images.device)


def before(model: nn.Module, splits: Splits) -> dict[str, float]:
    """Return the row's figures of the trained network."""
    with in_precision(splits):
        return rows.baseline(model.to(memory_format=torch.channels_last), splits)


def after(model: nn.Module, splits: Splits) -> dict[str, Any]:
    """Return the row's figures of a pruned network, which is not retrained."""
    with in_precision(splits):
        found = rows.outcome(model.to(memory_format=torch.channels_last), splits, timed=False)
    return found | dict(removed=found["accuracy"]) | rows.latencies(model, splits)


def precision(splits: Splits) -> torch.dtype:
    """Return the precision in which networks are trained where the images lie."""
    return training.fastest_precision(models.build("vgg-small"), splits.test.images.device)


def in_precision(splits: Splits) -> contextlib.AbstractContextManager:
    """Return the context in which networks compute in that precision."""
    kind = precision(splits)
    return torch.autocast(splits.test.images.device.type, kind, enabled=kind != torch.float32)
