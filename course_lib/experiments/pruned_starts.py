"""The pruned networks from which the runs of Deep Compression begin: every trained network pruned on its own, by several plans.

A plan says what share of each layer's weights stays: 'paper' as the paper's tables 2 and 3 have it, '40x' a fortieth of all
weights, shared out by `plans.lamp`, and 'dense' all of them: that network is trained on for as many epochs as the others.
"""

import copy
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from course_lib import masks, models, plans, storage
from course_lib.data import Splits
from course_lib.experiments.compressed_files import PAPER_LAYERS
from course_lib.experiments.first_stage import only_pruned, restored
from course_lib.experiments.rows import percent
from course_lib.files import ROOT, replacing
from course_lib.models.pretraining import CHECKPOINTS
from course_lib.papers import vector_quantization, weight_pruning
from course_lib.streams import stream
from course_lib.training import fastest_precision, fit, recipe

# The share of weights that stay in each layer
KEPT = {network: {name: figures[0] / 100 for name, figures in layers.items()} for network, layers in PAPER_LAYERS.items()}
RATES = (0.1, 0.03, 0.01, 0.003, 0.001)  # learning rates to choose from
# By validation accuracy, among the rates at which no network diverges: pruned in rounds at 0.1, a LeNet-5 did
LEARNING_RATE = {"lenet-300-100": 0.1, "lenet-5": 0.01}
RETRAINING = dict(weight_decay=0.0, augment="shift")
# Rounds of pruning with an epoch after each, and epochs at their end
WORK = {"lenet-300-100": dict(rounds=10, final=15), "lenet-5": dict(rounds=6, final=9)}
COMMITTED = {"lenet-300-100": ("paper", "40x"), "lenet-5": ("paper", "60x")}  # of seed 0: what notebook 05 compresses
STARTS, BUILT = CHECKPOINTS, ROOT / "build" / "pruned"  # where these lie, and the others


def pruned_start(network: str, splits: Splits, plan: str, seed: int = 0, work: Mapping[str, int] | None = None) -> nn.Module:
    """Return a trained network of the course, pruned by a plan and retrained.

    It is read from a file if there is one; else it is made, which takes a minute or two on MNIST, and kept.

    Args:
        network: 'lenet-300-100' or 'lenet-5'.
        splits: what it is retrained on.
        plan: 'paper', 'dense', or a rate such as '40x'.
        seed: which trained network is pruned, and of the retraining.
        work: rounds and final epochs; default as at lesson scale.
    """
    path, _ = _stored(network, splits, plan, seed, work or WORK[network])
    model = _trained(network, splits, seed)
    model.load_state_dict(restored(storage.load(path)))
    return model


def start_facts(network: str, splits: Splits, plan: str, seed: int = 0, work: Mapping[str, int] | None = None) -> dict:
    """Return what is known of the network of `pruned_start`: 'removed' is its accuracy before any retraining."""
    return _stored(network, splits, plan, seed, work or WORK[network])[1]


def shares(model: nn.Module, network: str, plan: str) -> dict[str, float]:
    """Return the share of each layer's weights that a plan removes."""
    if plan == "paper":
        return {name: 1 - kept for name, kept in KEPT[network].items()}
    if plan == "dense":
        return dict.fromkeys(KEPT[network], 0.0)
    return plans.lamp(model, float(plan.removesuffix("x")))


def prune(
    model: nn.Module, splits: Splits, plan: Mapping[str, float], work: Mapping[str, int], *, seed: int, lr: float, rounds: int
) -> nn.Module:
    """Return a network pruned in rounds and retrained, for as many epochs whatever the number of rounds.

    Args:
        model: a trained network; it is left as it was.
        splits: what it is retrained on.
        plan: the share of each layer's weights to remove.
        work: 'rounds' epochs are divided among the rounds, at a constant rate; 'final' ones follow, at a falling one.
        seed: of the retraining.
        lr: learning rate of the retraining.
        rounds: of pruning; a divisor of work['rounds'].
    """
    how = RETRAINING | dict(lr=lr, seed=stream(seed, "retraining"), progress=False)
    retrain = recipe(splits, epochs=work["rounds"] // rounds, schedule="constant", **how)
    finish = recipe(splits, epochs=work["final"], schedule="linear", **how)
    return weight_pruning.prune(model, splits.train, plan, rounds=rounds, retrain=retrain, finish=finish).model


def polish(model: nn.Module, splits: Splits, *, epochs: int, seed: int, lr: float) -> nn.Module:
    """Return a copy trained on for some epochs from a tenth of the rate down, zero weights fixed.

    These are the epochs in which another network trains its centroids: so all have the same number.
    """
    model = copy.deepcopy(model)
    how = RETRAINING | dict(epochs=epochs, lr=lr / 10, schedule="linear", seed=stream(seed, "polishing"), progress=False)
    with masks.holding(model, masks.of_zeros(model, masks.weight_layers(model))):
        fit(model, splits, **how)
    return model


def factorized(dense: nn.Module, rate: float) -> nn.Module:
    """Return the network with its hidden dense layers as two thin ones; the last layer stays whole (notebook 01 tells why)."""
    model = copy.deepcopy(dense)
    names = [name for name, layer in masks.weight_layers(model).items() if isinstance(layer, nn.Linear)][:-1]
    for name in names:
        layer = model.get_submodule(name)
        rank = max(1, round(layer.weight.numel() / rate / sum(layer.weight.shape)))
        factors = vector_quantization.low_rank(layer.weight.detach(), rank)
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
            first = nn.Linear(layer.in_features, rank, bias=False)
            second = nn.Linear(rank, layer.out_features)
        root = factors.values.sqrt()
        first.weight.data, second.weight.data = root[:, None] * factors.right, factors.left * root
        second.bias.data = layer.bias.detach().clone()
        model.set_submodule(name, nn.Sequential(first, second).to(layer.weight.device))
    return model.eval()


def removed_at_once(model: nn.Module, splits: Splits, plan: Mapping[str, float]) -> float:
    """Return the test accuracy in percent when a plan's weights are removed and nothing is retrained."""
    model = copy.deepcopy(model)
    masks.apply(model, weight_pruning.magnitude_masks(model, plan))
    return percent(model, splits.test)


def rate_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by which learning rates were chosen: mean validation accuracy in percent, a line per setting."""
    weights = rows[rows.kind == "lr"].assign(setting=lambda r: r.network + ", " + r.method, rate=lambda r: r.lr)
    centroids = rows[rows.kind == "centroid lr"]
    label = centroids.network + ", centroids, " + centroids.plan + ", " + centroids.bits.map("{:g}".format) + " bits"
    both = pd.concat([weights, centroids.assign(setting=label, rate=centroids.factor)])
    table = both.pivot_table(index="setting", columns="rate", values="validation", sort=False)
    table = table[sorted(table, reverse=True)].map("{:.2f}".format).replace("nan", "")
    return table.rename(columns="{:g}".format).rename_axis(columns=None).reset_index(names="validation accuracy (%) at a rate of")


def kept(model: nn.Module) -> dict[str, float]:
    """Return the share of each layer's weights that are not zero."""
    return {name: int(layer.weight.count_nonzero()) / layer.weight.numel() for name, layer in masks.weight_layers(model).items()}


def _stored(network: str, splits: Splits, plan: str, seed: int, work: Mapping[str, int]) -> tuple[Path, dict]:
    """The file of a pruned network and the facts of its side file; one that is missing, or was made otherwise, is made first."""
    from filelock import FileLock

    _trained(network, splits, seed)  # so that it is there
    made = dict(
        network=network, dataset=splits.name, plan=plan, seed=seed, lr=LEARNING_RATE[network], **RETRAINING, **work,
        baseline=models.checkpoint_facts(network, splits.name, seed)["sha256"],
    )  # fmt: skip
    committed = seed == 0 and plan in COMMITTED[network] and dict(work) == WORK[network]
    number = f".seed-{seed}" if seed else ""
    path = (STARTS if committed else BUILT) / f"{network}.{splits.name}.pruned-{plan}{number}.cnet"
    if not _is_made(path, made):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # rows run side by side
            if not _is_made(path, made):
                _make(path, splits, made, work)
    return path, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def _is_made(path: Path, made: Mapping) -> bool:
    side = path.with_suffix(".json")
    if not (path.exists() and side.exists()):
        return False
    facts = json.loads(side.read_text(encoding="utf-8"))
    return {key: facts.get(key) for key in made} == made


def _make(path: Path, splits: Splits, made: Mapping, work: Mapping[str, int]) -> None:
    model = _trained(made["network"], splits, made["seed"])
    plan = shares(model, made["network"], made["plan"])
    pruned = prune(model, splits, plan, work, seed=made["seed"], lr=made["lr"], rounds=work["rounds"])
    path.with_suffix(".json").unlink(missing_ok=True)  # of a network that was made otherwise
    storage.save(only_pruned(pruned, index_bits=8, coder="huffman", name=made["network"]), path)
    facts = made | dict(
        removed=removed_at_once(model, splits, plan), accuracy=percent(pruned, splits.test),
        precision=str(fastest_precision(pruned, splits.test.images.device)).removeprefix("torch."),
        command="python -m course_lib reproduce deep-compression",
        versions=dict(python=platform.python_version(), torch=torch.__version__),
    )  # fmt: skip
    with replacing(path.with_suffix(".json")) as scratch:
        scratch.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _trained(network: str, splits: Splits, seed: int) -> nn.Module:
    return models.pretrained(network, splits.name, seed).to(splits.test.images.device)
