"""The runs behind notebook 08: all structured methods at equal widths on CIFAR-10, and all seven at equal file sizes on MNIST.

A run takes one trained network, cuts it at once to the shape that all arms of its network and rate have, measures it, retrains
it by one recipe, and measures it again. A setting's 'kind' says how the shape is filled: 'filters' by a score of each filter,
'channels' by least squares, 'sums' by ThiNet; 'dense' is the whole network trained on, 'scratch' the same shape from random
weights. Other kinds: 'lr' and 'budget' decide the recipe on validation images, 'schedule' has the papers' own schedules, 'file'
each method at a size of its file, and 'latency' times the shapes.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from course_lib import data, models, surgery, training
from course_lib.data import Splits
from course_lib.experiments import equal_shapes, file_targets, one_shot, own_schedules, rows
from course_lib.experiments.equal_budgets import UNTRAINED, from_scratch, macs, outcome, retrained, start, trained
from course_lib.experiments.points_lost import headline, paper_table
from course_lib.models.pretraining import RECIPES

__all__ = ["budget", "grid", "headline", "paper_table", "run"]

VGG, RESNET, LENET = "vgg-small", "resnet-20", "lenet-5-relu"  # APoZ asks for a ReLU after each layer
DENSE, SCRATCH_E, SCRATCH_B = "dense", "scratch-E", "scratch-B"  # E: as many epochs, B: as much computing
# method -> kind. Kinds are apart so that a change of one method's code leaves the rows of the others valid
KIND_OF = (
    dict.fromkeys(one_shot.BY_FILTER, "filters") | dict.fromkeys(one_shot.BY_FIT, "channels")
    | dict.fromkeys(one_shot.BY_SUM, "sums") | {DENSE: "dense", SCRATCH_E: "scratch", SCRATCH_B: "scratch"}
)  # fmt: skip
# Most telling first: the paper's claims are about these against random choice, and against training from scratch
ARMS = (
    *(one_shot.L1, one_shot.RANDOM, SCRATCH_E, one_shot.LASSO, one_shot.THINET),
    *(one_shot.APOZ, one_shot.LARGEST, one_shot.GROUP),
)
QUARTERS = (*ARMS, one_shot.NOT_RESCALED)  # rescaling matters most where most is removed
SEVEN = (*file_targets.STRUCTURED, file_targets.SPARSE, file_targets.DEEP, file_targets.QUANTIZED)

LEARNING_RATES = (0.1, 0.03, 0.01, 0.003, 0.001)
LENGTHS = (5, 10, 20, 40)  # epochs of the budget curve
# The rate is the best of LEARNING_RATES by validation accuracy of L1 on vgg-small and ResNet-20 (on LeNet-5 it ties with 0.1).
# The length is a budget and no optimum: 40 epochs beat 20
EPOCHS = {"cifar10": dict(smoke=1, lesson=20, paper=10), "mnist": dict(smoke=3, lesson=10)}
LR = {"cifar10": 0.03, "mnist": 0.03}


def budget(scale: str) -> dict[str, int]:
    """Return how many training images choose filters at a scale, and in how many places of their feature maps."""
    return {
        "smoke": dict(images=200, positions=10),
        "lesson": dict(images=5_000, positions=10),
        "paper": dict(images=5_000, positions=10),
    }[scale]


def grid(scale: str) -> list[dict]:
    """Return all settings, the most telling first.

    Paper scale needs a GPU. Three VGG-16 and six arms of each took 13 minutes of an H200, up to ten rows at a time.
    """
    settings = {"smoke": _smoke, "lesson": _lesson, "paper": _paper}[scale]()
    names = [_name(setting) for setting in settings]
    defaults = [_defaults(setting, scale) for setting in settings]
    return [dict(name=name) | default | setting for name, default, setting in zip(names, defaults, settings, strict=True)]


def _lesson() -> list[dict]:
    """Return the settings at lesson scale: what decides the recipe, then the arms; what takes longest last."""
    halves = _arms(VGG, 2, [*ARMS[:3], DENSE, *ARMS[3:], SCRATCH_B])
    files = [dict(kind="file", network=LENET, rate=rate, method=method) for rate in (16, 4) for method in SEVEN]
    controls = _arms(LENET, 16, [one_shot.RANDOM, SCRATCH_E, DENSE]) + _arms(LENET, 4, [one_shot.RANDOM, SCRATCH_E])
    residual = _arms(RESNET, 2, [*ARMS[:3], DENSE, *ARMS[3:]])
    quarters = _arms(VGG, 4, QUARTERS)
    schedules = [
        dict(kind="schedule", network=VGG, rate=4, method=method) for method in (own_schedules.BY_LAYER, own_schedules.IN_ROUNDS)
    ]
    latencies = [dict(kind="latency", network=network, rate=rate) for network, rate in ((VGG, 2), (VGG, 4), (RESNET, 2))]
    return [*_recipe(), *halves, *latencies, *files, *controls, *residual, *quarters, *schedules]


def _recipe() -> list[dict]:
    """Return the settings that decide the recipe: all on L1, at the rates at which all networks have arms."""
    tried = [(VGG, 2, lr, 1) for lr in LEARNING_RATES] + [(LENET, 4, lr, 2) for lr in LEARNING_RATES]
    tried += [(RESNET, 2, lr, 1) for lr in LEARNING_RATES[:3]]
    rates = [dict(kind="lr", network=net, rate=rate, method=one_shot.L1, lr=lr, seeds=n) for net, rate, lr, n in tried]
    lengths = [epochs for epochs in LENGTHS if epochs != EPOCHS["cifar10"]["lesson"]]
    curve = [
        dict(kind="budget", network=network, rate=2, method=one_shot.L1, epochs=epochs, seeds=1)
        for network in (VGG, RESNET) for epochs in lengths
    ]  # fmt: skip
    return rates + curve


def _paper() -> list[dict]:
    large = _arms("vgg-16", 2, [one_shot.L1, SCRATCH_E, one_shot.LASSO, one_shot.THINET, one_shot.RANDOM, DENSE, *ARMS[5:]])
    residual = _arms("resnet-56", 2, [one_shot.L1, one_shot.LASSO, SCRATCH_E, one_shot.THINET, DENSE])
    latencies = [dict(kind="latency", network=network, rate=2) for network in ("vgg-16", "resnet-56")]
    # whether the rate that lesson scale chose suits the large network
    rates = [dict(kind="lr", network="vgg-16", rate=2, method=one_shot.L1, lr=lr, seeds=1) for lr in LEARNING_RATES[:3]]
    return [*large, *residual, *latencies, *rates]


def _smoke() -> list[dict]:
    methods = [one_shot.L1, one_shot.GROUP, one_shot.LASSO, one_shot.THINET, DENSE, SCRATCH_E]
    files = [dict(kind="file", network=LENET, rate=16, method=method) for method in ("filter-pruning", "vector-quantization")]
    return [*_arms(VGG, 2, methods), *files, dict(kind="latency", network=VGG, rate=2)]


def _arms(network: str, rate: int, methods: Iterable[str]) -> list[dict]:
    return [dict(kind=KIND_OF[method], network=network, rate=1 if method == DENSE else rate, method=method) for method in methods]


def _defaults(setting: Mapping[str, Any], scale: str) -> dict[str, Any]:
    """Return what every setting of a data set has, unless it says otherwise."""
    requested = _dataset(setting["network"])
    counted, networks = ("bytes", 5) if requested == "mnist" else ("MACs", 3)
    return dict(counted=counted, epochs=EPOCHS[requested][scale], lr=LR[requested], seeds=networks)


def _name(setting: Mapping[str, Any]) -> str:
    shown = {"rate": "{}x", "lr": "at {}", "epochs": "{} epochs"}
    return " ".join(shown.get(key, "{}").format(value) for key, value in setting.items() if key != "seeds")


def _dataset(network: str) -> str:
    return "mnist" if network == LENET else "cifar10"


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    splits = data.load(_dataset(setting["network"]), device=device, scale=scale)
    precision = training.fastest_precision(models.build(setting["network"]), splits.test.images.device)
    about = dict(dataset=splits.name, precision=str(precision).removeprefix("torch."))
    return about | KINDS[setting["kind"]](setting, splits, budget(scale), seed)


def filters(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of an arm that scores each filter by itself."""
    begun = start(setting, splits, work, seed)
    narrower = one_shot.by_filter(setting["method"], begun.model, begun.widths, begun.images, seed)
    return retrained(setting, splits, seed, begun, narrower)


def channels(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of an arm that fits the weights which read the channels that stay by least squares."""
    begun = start(setting, splits, work, seed)
    narrower = one_shot.by_fit(setting["method"], begun.model, begun.widths, begun.images, work["positions"], seed)
    return retrained(setting, splits, seed, begun, narrower)


def sums(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of an arm that removes the channels whose sum the next layer misses least."""
    begun = start(setting, splits, work, seed)
    narrower = one_shot.by_sum(setting["method"], begun.model, begun.widths, begun.images, work["positions"], seed)
    return retrained(setting, splits, seed, begun, narrower)


def dense(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of the network that is not cut and has the same extra epochs."""
    begun = start(setting, splits, work, seed)
    model = copy.deepcopy(begun.model)
    figures = trained(model, setting, splits, seed, epochs=setting["epochs"], lr=setting["lr"])
    return rows.baseline(begun.model, splits) | figures | outcome(model, splits, begun.widths, None)


def scratch(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of the same shape, trained from random weights at the learning rate of the dense network.

    Random weights learn best at a higher rate than those that were trained: at the rate of the other arms they would lose by
    the rate and not by their start. scratch-B has the MACs of the dense network's training and of the retraining together.
    """
    begun = start(setting, splits, work, seed)
    model, recipe, epochs = (
        from_scratch(setting, splits, begun, seed),
        RECIPES[setting["network"], splits.name],
        setting["epochs"],
    )
    if setting["method"] == SCRATCH_B:
        epochs += round(recipe["epochs"] * macs(begun.model, splits) / macs(model, splits))
    figures = trained(model, setting, splits, seed, epochs=epochs, lr=recipe["lr"])
    return rows.baseline(begun.model, splits) | figures | outcome(model, splits, begun.widths, None)


def latency(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row with a point per shape: the dense network, the plan of the arms, and one in multiples of 8; not retrained."""
    begun, image = start(setting, splits, work, seed), splits.train.images[:1]
    rounded = equal_shapes.in_multiples_of_8(begun.model, setting["network"], setting["rate"], image)
    points = [dict(method=DENSE, plan=DENSE) | outcome(begun.model, splits, {}, None)]
    for plan, widths in ((equal_shapes.UNIFORM, begun.widths), (equal_shapes.MULTIPLES, rounded)):
        kept = one_shot.filters_to_keep(one_shot.L1, begun.model, widths, begun.images, seed)
        figures = outcome(surgery.narrow(begun.model, kept, image), splits, widths, None)
        points.append(dict(method=one_shot.L1, plan=plan) | figures | dict(removed=figures["accuracy"]))
    return rows.baseline(begun.model, splits) | UNTRAINED | dict(points=points)


KINDS: dict[str, Callable[[dict, Splits, Mapping[str, int], int], dict]] = {
    "lr": filters, "budget": filters, "filters": filters, "channels": channels, "sums": sums, "dense": dense, "scratch": scratch,
    "schedule": own_schedules.own_schedule, "latency": latency, "file": file_targets.file,
}  # fmt: skip
