"""The runs behind notebook 03: Hu et al. 2016, on LeNet-5 with a ReLU after every layer.

A setting's 'kind' says which question it answers: 'lr' at which rate to retrain; 'rounds' the paper's table, and what other ways
to the same shape give in as many epochs; 'many' three layers at once against two; 'criterion' which neurons to remove, at the
paper's widths; 'images' how many images APoZ needs; 'width' how redundant a layer is by its width. A seed is an independently
trained network, which each run cuts and retrains for itself. Neurons are chosen on training images.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from course_lib import data, models, surgery, training
from course_lib.activations.relus import mean_after_relu
from course_lib.data import Split, Splits
from course_lib.experiments import rows
from course_lib.experiments.trimming_tables import headline, paper_table
from course_lib.papers import filter_pruning
from course_lib.papers import network_trimming as paper
from course_lib.streams import stream
from course_lib.training import evaluate, fit

__all__ = ["budget", "grid", "headline", "paper_table", "run"]

NETWORK = "lenet-5-relu"
LAYERS = ("conv2", "fc1")
# Widths of conv2 and fc1 in the paper's table for LeNet; its accuracies are near 99.3 % after retraining at every step (check)
PAPER = ((50, 500), (41, 426), (31, 349), (26, 293), (24, 252))
BEYOND = ((12, 126),)  # 13.4x
CRITERIA = ("APoZ", "mean activation", "L1 norm", "random", "APoZ, wrong side")
DRAWS = 5  # of the random choice
WIDTHS = ((50, 500), (12, 500), (25, 500), (100, 500), (50, 125), (50, 250), (50, 1000))
ARMS = ("three layers at once", "two layers at once", "two layers in rounds")
# rate -> widths of three layers that keep the same share, and of two layers, with as many parameters (within 1 %)
MANY = {
    "13.4x": (dict(conv1=5, conv2=13, fc1=138), dict(conv2=12, fc1=126)),
    "3.85x": (dict(conv1=10, conv2=25, fc1=256), dict(conv2=24, fc1=252)),
}
COUNTS = (10, 100, 1_000)  # images that choose

BATCH = 128
HOW = dict(batch_size=BATCH, augment="shift", progress=False)  # of all training
RATES = (0.1, 0.03, 0.01, 0.003, 0.001)
# Learning rates of retraining, for the epochs of a step of the criteria, of a round, and of all rounds together. The rows of kind
# 'lr' decided: the best mean validation accuracy of networks 0 and 1, cut by L1 norm. Random weights learn best at a higher rate,
# 99.34 against 99.20 % at the one that suits the survivors; they get it, or they would lose by the rate and not by their start.
STEP_LR = 0.01
ROUND_LR = 0.01
LONG_LR = 0.03
SCRATCH_LR = 0.1


def budget(scale: str) -> dict:
    """Return how much work each kind of run does at a scale.

    'step' are the epochs after a cut by a criterion, 'again' those of a round, 'earlier' those that the trained networks had;
    'images' choose, and are drawn from 'pool' in the runs on their number; 'train' and 'epochs' train a network of other widths.
    """
    return {
        "smoke": dict(step=1, rounds=2, again=1, earlier=2, images=500, pool=2_000, train=1_000, epochs=2),
        "lesson": dict(step=1, rounds=5, again=2, earlier=16, images=5_000, pool=10_000, train=15_000, epochs=3),
        "paper": dict(step=10, rounds=8, again=10, earlier=16, images=55_000, pool=55_000, train=55_000, epochs=15),
    }[scale]


def grid(scale: str) -> list[dict]:
    """Return all settings of the tables and figures; smoke scale keeps few widths."""
    trials = [("L1 norm", time, lr) for time in ("step", "round", "all rounds") for lr in RATES]
    trials += [("from scratch", "all rounds", lr) for lr in RATES[:2]]
    rates = [dict(kind="lr", method=method, budget=time, lr=lr, seeds=2) for method, time, lr in trials]
    certain = [dict(kind="criterion", method=method) for method in CRITERIA if method != "random"]
    draws = [dict(kind="criterion", method="random", draw=draw) for draw in range(DRAWS)]
    many, rest = ([dict(kind="many", method=method, rate=rate) for method in ARMS] for rate in MANY)
    widths = [dict(kind="width", conv2=conv2, fc1=fc1) for conv2, fc1 in (WIDTHS[:3] if scale == "smoke" else WIDTHS)]
    settings = [*rates, dict(kind="rounds"), *many, *certain, *draws, dict(kind="images"), *widths, *rest]
    return [dict(name=_name(setting), **setting) for setting in settings]


def _name(setting: Mapping) -> str:
    return " ".join(str(value) for key, value in setting.items() if key != "seeds")


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    splits = data.load("mnist", device=device, scale=scale)
    precision = training.fastest_precision(models.build(NETWORK), splits.test.images.device)
    about = dict(network=NETWORK, dataset=splits.name, batch=BATCH, precision=str(precision).removeprefix("torch."))
    return about | KINDS[setting["kind"]](setting, splits, budget(scale), seed)


def learning_rate(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of the choice of rates: the paper's last widths, cut by L1 norm or drawn anew, trained at one rate."""
    model, widths = baseline(splits, seed), dict(zip(LAYERS, PAPER[-1], strict=True))
    epochs = {"step": work["step"], "round": work["again"], "all rounds": work["again"] * work["rounds"]}[setting["budget"]]
    figures = rows.baseline(model, splits)
    if setting["method"] == "from scratch":
        return figures | trained(redrawn(widths, splits, seed), splits, epochs, setting["lr"], seed)
    narrower = cut(model, scores(model, splits.train, "L1 norm"), widths, splits)
    return figures | retrained(narrower, splits, epochs, setting["lr"], seed)


def rounds(_setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return the paper's table, a point per round; then other ways to its last shape, and the dense network trained on."""
    model, chosen_on = baseline(splits, seed), splits.train.take(work["images"])
    retrain = training.recipe(splits, epochs=work["again"], lr=ROUND_LR, seed=stream(seed, "retraining"), **HOW)
    # the record gets copies of the networks themselves
    trimmed = paper.prune(model, chosen_on, layers=LAYERS, rounds=work["rounds"], retrain=retrain, measure=copy.deepcopy)
    silence = [row["apoz"] for row in trimmed.record] + [mean_apoz(trimmed.model, chosen_on)]
    points = []
    for row, after in zip(trimmed.record, silence[1:], strict=True):
        figures = rows.outcome(row["retrained"], splits, removed=rows.percent(row["pruned"], splits.test))
        about = dict(method="rounds", round=row["round"], epochs=work["again"] * row["round"], lr=ROUND_LR, apoz=after)
        points.append(about | row["kept"] | figures)
    widths, epochs = trimmed.record[-1]["kept"], work["again"] * work["rounds"]
    at_once = cut(model, scores(model, chosen_on, "APoZ"), widths, splits)
    figures = {
        "one cut": retrained(at_once, splits, epochs, LONG_LR, seed),
        "from scratch": trained(redrawn(widths, splits, seed), splits, epochs, SCRATCH_LR, seed),
        "from scratch, longer": trained(redrawn(widths, splits, seed), splits, work["earlier"] + epochs, SCRATCH_LR, seed),
    }
    points += [dict(method=method) | widths | point for method, point in figures.items()]
    dense = trained(copy.deepcopy(model), splits, epochs, LONG_LR, seed)
    points.append(dict(method="dense", conv2=50, fc1=500) | dense)
    return rows.baseline(model, splits) | dict(apoz_before=silence[0], earlier=work["earlier"], points=points)


def many(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of many layers against few: the same parameters and epochs, by APoZ."""
    model, chosen_on = baseline(splits, seed), splits.train.take(work["images"])
    three, two = MANY[setting["rate"]]
    widths = three if setting["method"] == "three layers at once" else two
    figures, epochs = rows.baseline(model, splits) | widths, work["again"] * work["rounds"]
    if setting["method"] != "two layers in rounds":
        at_once = cut(model, scores(model, chosen_on, "APoZ", layers=tuple(widths)), widths, splits)
        return figures | retrained(at_once, splits, epochs, LONG_LR, seed)
    retrain = training.recipe(splits, epochs=work["again"], lr=ROUND_LR, seed=stream(seed, "retraining"), **HOW)
    arguments = dict(keep=widths, rounds=work["rounds"], retrain=retrain)
    trimmed = paper.prune(model, chosen_on, measure=lambda network: rows.percent(network, splits.test), **arguments)
    removed = min(row["pruned"] for row in trimmed.record)  # the deepest fall of all rounds
    return figures | dict(epochs=epochs, lr=ROUND_LR) | rows.outcome(trimmed.model, splits, removed=removed)


def criterion(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return one way of choosing: a point per pair of widths, cut from the trained network and retrained shortly."""
    model = baseline(splits, seed)
    order = scores(model, splits.train.take(work["images"]), setting["method"], stream(seed, "draw", setting.get("draw", 0)))
    points = []
    for pair in PAPER[1:] + BEYOND:
        widths = dict(zip(LAYERS, pair, strict=True))
        narrower = cut(model, order, widths, splits)
        points.append(widths | retrained(narrower, splits, work["step"], STEP_LR, seed))
    return rows.baseline(model, splits) | dict(points=points)


def images(_setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return one step of the paper's rule, not retrained: APoZ from small draws of images, three of each size, and from all."""
    model, pool = baseline(splits, seed), splits.train.take(work["pool"])
    draws = [(count, draw) for count in COUNTS for draw in range(3)] + [(len(pool.labels), 0)]
    points = []
    for count, draw in draws:
        shares = paper.apoz(model, pool.take(count, stream(seed, "images", count, draw)), LAYERS)
        keep = {layer: paper.neurons_to_keep(values) for layer, values in shares.items()}
        figures = rows.outcome(surgery.narrow(model, keep, splits.test.images[:1]), splits)
        kept = {layer: len(indices) for layer, indices in keep.items()}
        points.append(dict(images=count, draw=draw) | kept | figures | dict(removed=figures["accuracy"]))
    about = dict(method="APoZ", epochs=0, lr=None, batch=0, precision="float32")
    return rows.baseline(model, splits) | about | dict(points=points)


def width(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a LeNet of other widths, trained from random weights on a part of the training set: the APoZ of its layers."""
    model = redrawn({layer: setting[layer] for layer in LAYERS}, splits, seed)
    part = dataclasses.replace(splits, train=splits.train.take(work["train"]))
    recipe = models.RECIPES[NETWORK, "mnist"]
    fit(model, part, epochs=work["epochs"], lr=recipe["lr"], seed=stream(seed, "training"), **HOW)
    layers = {}
    for layer, shares in paper.apoz(model, splits.train.take(work["images"]), LAYERS).items():
        kept = len(paper.neurons_to_keep(shares))
        layers[layer] = dict(width=len(shares), mean=shares.mean().item(), silent=(shares > 0.9).sum().item(), kept=kept)
    about = dict(method="from scratch", epochs=work["epochs"], lr=recipe["lr"], layers=layers)
    return about | rows.baseline(model, splits) | rows.outcome(model, splits)


# What a fingerprint follows: only what a kind reads
KINDS: dict[str, Callable[[dict, Splits, Mapping[str, int], int], dict]] = {
    "lr": learning_rate, "rounds": rounds, "many": many, "criterion": criterion, "images": images, "width": width,
}  # fmt: skip


def retrained(model: nn.Module, splits: Splits, epochs: int, lr: float, seed: int) -> dict:
    """Return the fields of a row for a network that was cut: its accuracy before retraining too."""
    return trained(model, splits, epochs, lr, seed, removed=rows.percent(model, splits.test))


def trained(model: nn.Module, splits: Splits, epochs: int, lr: float, seed: int, *, removed: float | None = None) -> dict:
    """Train `model` in place and return the fields of its row."""
    fit(model, splits, epochs=epochs, lr=lr, seed=stream(seed, "retraining"), **HOW)
    return dict(epochs=epochs, lr=lr) | rows.outcome(model, splits, removed=removed)


def scores(model: nn.Module, split: Split, criterion: str, seed: int = 0, layers: tuple[str, ...] = LAYERS) -> dict[str, Tensor]:
    """Return a criterion's score of each neuron by layer, (C,); the highest stay. Raises ValueError for an unknown criterion."""
    if criterion in ("APoZ", "APoZ, wrong side"):
        sign = -1 if criterion == "APoZ" else 1
        return {layer: sign * shares for layer, shares in paper.apoz(model, split, layers).items()}
    if criterion == "mean activation":
        return mean_after_relu(model, split, layers, lambda outputs: outputs)
    weights = {layer: model.get_submodule(layer).weight for layer in layers}
    if criterion == "L1 norm":
        return {layer: filter_pruning.filter_norms(weight) for layer, weight in weights.items()}
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return {layer: torch.rand(len(weight), generator=generator) for layer, weight in weights.items()}
    raise ValueError(f"criterion is {criterion!r}; known are {', '.join(CRITERIA)}")


def mean_apoz(model: nn.Module, split: Split) -> dict[str, float]:
    """Return the mean APoZ of the layers that are trimmed."""
    return {layer: shares.mean().item() for layer, shares in paper.apoz(model, split, LAYERS).items()}


def cut(model: nn.Module, order: Mapping[str, Tensor], widths: Mapping[str, int], splits: Splits) -> nn.Module:
    """Return `model` narrowed to `widths`, layer by layer the neurons of the highest scores."""
    keep = {layer: order[layer].topk(count).indices for layer, count in widths.items()}
    return surgery.narrow(model, keep, splits.test.images[:1])


def lenet(conv2: int, fc1: int) -> nn.Module:
    """Return a fresh lenet-5-relu of other widths."""
    model = models.build(NETWORK)
    model.conv2, model.fc1, model.fc2 = nn.Conv2d(20, conv2, 5), nn.Linear(16 * conv2, fc1), nn.Linear(fc1, 10)
    return model


def redrawn(widths: Mapping[str, int], splits: Splits, seed: int) -> nn.Module:
    """Return a LeNet with random weights, others than those that the trained network began with."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, "initial weights", "from scratch"))
        return lenet(**widths).to(splits.test.images.device)


def baseline(splits: Splits, seed: int) -> nn.Module:
    """Return the trained network of a seed, for the data set that is really in use, on its device."""
    return models.pretrained(NETWORK, splits.name, seed).to(splits.test.images.device)


def error(model: nn.Module, split: Split) -> float:
    """Return the error in percent."""
    return round(100 * (1 - evaluate(model, split)), 4)


def size(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
