"""The runs behind notebook 07: Luo et al., ICCV 2017, on vgg-small and ResNet-20, before any retraining.

A setting's 'kind' says which question it answers: 'criteria' which channels to remove, from all layers and at several shares;
'tuning' what training after a layer does at several learning rates; 'layers' how near greed comes to the best of all sets, and
how many samples a layer's choice needs; 'images' how many images a whole network needs. What the networks are worth after
retraining stands in the rows of the comparison, at equal widths and epochs for all criteria. A seed is an independently trained
network, whose filters are chosen on training images.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import nn

from course_lib import data, models, training
from course_lib.data import Split, Splits
from course_lib.experiments import channel_sets, one_shot, rows
from course_lib.experiments.channel_sets import CRITERIA, FORWARD
from course_lib.experiments.equal_budgets import UNTRAINED, macs
from course_lib.experiments.thinet_tables import headline, paper_table
from course_lib.models.pretraining import RECIPES
from course_lib.papers import thinet as paper
from course_lib.result import Result
from course_lib.streams import stream
from course_lib.surgery import keeping, readers

__all__ = ["budget", "grid", "headline", "paper_table", "run"]

NETWORKS = {"smoke": ("vgg-small",), "lesson": ("vgg-small", "resnet-20"), "paper": ("vgg-16", "resnet-56")}
# Shares of filters that stay: of every layer in a plain network, of the first layers of the blocks in a residual one
SHARES = {
    "vgg-small": (0.9, 0.8, 0.6, 0.45), "vgg-16": (0.9, 0.8, 0.6, 0.45), "resnet-20": (0.8, 0.5), "resnet-56": (0.8, 0.5),
}  # fmt: skip
HALF = 0.7  # the share that leaves about half the MACs of a plain network
SMALL = 12  # channels of the small problems: all sets of them can be tried
PER_CLASS, POSITIONS = (1, 3, 10, 30, 100), (1, 10, 100)  # images per class, positions per image; the paper takes 10 and 10
BATCH = 128
WHOLE, HALVED = "whole network", "half of a layer removed"
# What is tuned, the learning rate and how it goes on: 0.001 is what the authors took
TUNING = (
    (HALVED, 0.02, "constant"), (HALVED, 0.003, "constant"), (HALVED, 0.001, "constant"), (HALVED, 0.02, "linear"),
    (WHOLE, 0.02, "constant"),
)  # fmt: skip


def budget(scale: str) -> dict[str, float]:
    """Return how much work each kind of run does at a scale.

    'images' choose, in 'positions' places of each; 'problems' are drawn from each layer, with 'draws' draws of samples;
    'epochs' follow the removal of a layer.
    """
    return {
        "smoke": dict(images=100, positions=5, problems=1, draws=1, epochs=0.1),
        "lesson": dict(images=1_000, positions=10, problems=10, draws=2, epochs=1),
        "paper": dict(images=5_000, positions=10, problems=20, draws=5, epochs=1),
    }[scale]


def grid(scale: str) -> list[dict]:
    """Return all settings, the most telling first; tuning and few images on the plain network alone."""
    plain, *residual = NETWORKS[scale]
    kinds = [("tuning", plain), ("criteria", plain), ("layers", plain), ("images", plain)]
    kinds += [(kind, network) for kind in ("layers", "criteria") for network in residual]
    return [dict(name=f"{kind} {network}", kind=kind, network=network, seeds=3) for kind, network in kinds]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    splits = data.load("cifar10", device=device, scale=scale)
    model = models.pretrained(setting["network"], splits.name, seed, device=splits.test.images.device)
    figures = KINDS[setting["kind"]](setting, model, splits, budget(scale), seed)
    return dict(dataset=splits.name) | rows.baseline(model, splits) | figures


def criteria(setting: dict, model: nn.Module, splits: Splits, work: Mapping[str, float], seed: int) -> dict:
    """Return a point for each criterion and share of filters that all layers keep, not retrained."""
    chosen_on, points = splits.train.take(work["images"], stream(seed, "images")), []
    whole = macs(model, splits)
    for share, method in itertools.product(SHARES[setting["network"]], CRITERIA):
        narrower = cut(method, model, widths(model, share, splits), chosen_on, work["positions"], seed)
        figures = rows.outcome(narrower, splits)
        points.append(
            dict(method=method, share=share, left=figures["macs"] / whole) | figures | dict(removed=figures["accuracy"])
        )
    return UNTRAINED | dict(points=points)


def layers(_setting: dict, model: nn.Module, splits: Splits, work: Mapping[str, float], seed: int) -> dict:
    """Return the row of a network with a point for each small problem, and for each number of samples, of its single layers."""
    points = [dict(question="greed") | point for point in problems(model, splits, work, seed)]
    points += [dict(question="samples") | point for point in from_few_samples(model, splits, work, seed)]
    return UNTRAINED | dict(method=one_shot.THINET) | rows.outcome(model, splits) | dict(points=points)


def problems(model: nn.Module, splits: Splits, work: Mapping[str, float], seed: int) -> Iterator[dict]:
    """Yield the losses of greedy choices over the least possible, of problems so small that all sets can be tried.

    A layer of at most 16 channels is a problem as it is; of a wider one SMALL channels are drawn. A quarter, half or three
    quarters of the channels stay.
    """
    images = splits.train.take(work["images"], stream(seed, "images")).images
    for layer in readers.layers_with_one_reader(model, images[:1]):
        every = paper.channel_contributions(model, layer, images, positions=work["positions"], seed=stream(seed, "greed", layer))
        generator = torch.Generator().manual_seed(stream(seed, "channels", layer))
        whole = every.shape[1] <= 16
        for draw in range(1 if whole else work["problems"]):
            drawn = every if whole else every[:, torch.randperm(every.shape[1], generator=generator)[:SMALL].to(every.device)]
            for part in (1, 2, 3):
                keep = part * drawn.shape[1] // 4
                about = dict(layer=layer, channels=drawn.shape[1], keep=keep, draw=draw)
                yield about | channel_sets.ratios(drawn, keep)


def from_few_samples(model: nn.Module, splits: Splits, work: Mapping[str, float], seed: int) -> Iterator[dict]:
    """Yield the loss on validation images of half of a layer, chosen and rescaled from few samples of training images."""
    images = paper.sample_images(splits.train, PER_CLASS[-1], stream(seed, "images"))
    others, names = splits.validation.take(500).images, list(readers.layers_with_one_reader(model, images[:1]))
    for layer in names[len(names) // 6 :: len(names) // 3]:  # one near the input, one in the middle, one near the output
        pool = paper.channel_contributions(model, layer, images, positions=POSITIONS[-1], seed=stream(seed, "pool", layer))
        held_out = paper.channel_contributions(model, layer, others, seed=stream(seed, "held out", layer))
        pool = pool.view(len(splits.train.labels.unique()), -1, POSITIONS[-1], pool.shape[1])
        numbers = (pool.shape[3] // 2, PER_CLASS, POSITIONS, work["draws"], stream(seed, "draws", layer))
        for point in channel_sets.losses_from_few(pool, held_out, *numbers):
            yield dict(layer=layer) | point


def images(_setting: dict, model: nn.Module, splits: Splits, work: Mapping[str, float], seed: int) -> dict:
    """Return a point for each number of images per class: the whole network at about half its MACs, not retrained."""
    keep, points = widths(model, HALF, splits), []
    for draw, count in itertools.product(range(work["draws"]), PER_CLASS[::2]):
        pool = splits.train.take(5_000, stream(seed, "pool", draw))
        narrower = paper.prune(model, pool, keep, per_class=count, seed=stream(seed, "ThiNet", draw)).model
        figures = rows.outcome(narrower, splits)
        points.append(dict(images=count, draw=draw) | figures | dict(removed=figures["accuracy"]))
    return UNTRAINED | dict(method=one_shot.THINET, points=points)


def tuning(setting: dict, model: nn.Module, splits: Splits, work: Mapping[str, float], seed: int) -> dict:
    """Return a point for each way to train after half of the middle layer is removed, and for the whole network."""
    names = list(readers.layers_with_one_reader(model, splits.test.images[:1]))
    half = {names[len(names) // 2]: len(model.get_submodule(names[len(names) // 2]).weight) // 2}
    chosen_on = splits.train.take(work["images"], stream(seed, "images"))
    starts = {HALVED: cut(one_shot.THINET, model, half, chosen_on, work["positions"], seed), WHOLE: model}
    before = {name: [rows.percent(start, split) for split in (splits.test, splits.validation)] for name, start in starts.items()}
    how = dict(batch_size=BATCH, augment=RECIPES[setting["network"], splits.name]["augment"], progress=False)
    points = []
    for start, lr, schedule in TUNING:
        tuned = copy.deepcopy(starts[start])
        settings = how | dict(lr=lr, schedule=schedule, seed=stream(seed, "retraining"))
        training.recipe(splits, epochs=work["epochs"], **settings)(tuned)
        removed, validation = before[start]
        point = dict(start=start, lr=lr, schedule=schedule, before=removed, validation_before=validation)
        points.append(point | rows.outcome(tuned, splits, removed=None if start == WHOLE else removed))
    precision = training.fastest_precision(model, splits.test.images.device)
    about = dict(method=one_shot.THINET, layer=next(iter(half)), epochs=work["epochs"], batch=BATCH)
    return about | dict(precision=str(precision).removeprefix("torch."), points=points)


# What a fingerprint follows: only what a kind reads
KINDS: dict[str, Callable[[dict, nn.Module, Splits, Mapping[str, float], int], dict]] = {
    "tuning": tuning, "criteria": criteria, "layers": layers, "images": images,
}  # fmt: skip


def widths(model: nn.Module, share: float, splits: Splits) -> dict[str, int]:
    """Return how many filters a share of them is, for every layer with one reader."""
    layers = readers.layers_with_one_reader(model, splits.test.images[:1])
    return {name: keeping.count(share, len(model.get_submodule(name).weight), name) for name in layers}


def cut(method: str, model: nn.Module, keep: Mapping[str, int], images: Split, positions: int, seed: int) -> nn.Module:
    """Return the network with so many filters of each layer, chosen by a criterion and not retrained.

    The rivals look at the trained network, all layers at once, and keep their weights, as in the paper; ThiNet goes from the
    input on and looks at the network as it is by then.
    """
    if method in one_shot.BY_FILTER:
        return one_shot.by_filter(method, model, keep, images, seed)
    if method != FORWARD:
        return one_shot.by_sum(method, model, keep, images, positions, seed)
    rule = partial(paper.prune_layer, choose=paper.matching_pursuit, positions=positions)
    every = len(images.labels)
    return paper.prune(model, images, keep, prune_layer=rule, per_class=every, seed=stream(seed, "ThiNet")).model


def prune_and_tune(
    model: nn.Module, splits: Splits, share: float, work: Mapping[str, float], seed: int, *, progress: bool = False
) -> Result:
    """Return the network after the paper's schedule, shortened: layer by layer, tuned after each and for longer at the end.

    Args:
        model: a trained network.
        splits: tuned on `splits.train`; the record's accuracies are of `splits.test`.
        share: of the filters of each layer that stay.
        work: 'per_class' images that choose; 'each' and 'final' epochs, at the rates 'each_lr' (constant) and 'final_lr' (falls
            to zero).
        seed: of samples and tuning.
        progress: show a bar.
    """
    how = dict(augment="crop-flip", seed=seed, progress=progress)
    return paper.prune(
        model,
        splits.train,
        share,
        per_class=work["per_class"],
        retrain=training.recipe(splits, epochs=work["each"], lr=work["each_lr"], schedule="constant", **how),
        finish=training.recipe(splits, epochs=work["final"], lr=work["final_lr"], schedule="linear", **how),
        measure=lambda network: training.evaluate(network, splits.test),
        seed=seed,
    )
