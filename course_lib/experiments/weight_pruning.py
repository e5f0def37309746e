"""The runs behind notebook 02: Han et al., NIPS 2015, on the LeNets.

A setting's 'kind' says which question it answers. Each row starts from a trained network of its own seed and makes its own plan
by sensitivity; nothing is shared between seeds.
"""

import copy
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import data, masks, models, training
from course_lib.activations import hooked
from course_lib.data import Split, Splits
from course_lib.experiments import rows, tradeoff_curves
from course_lib.experiments import sparse_rows as sparse
from course_lib.experiments.rows import lost
from course_lib.models.pretraining import RECIPES
from course_lib.papers import weight_pruning as paper
from course_lib.result import Result
from course_lib.streams import stream
from course_lib.training import evaluate

# Error in percent before and after, weights before and after, as the paper's table 1 gives them; top-5 for the last two.
PAPER = {
    "lenet-300-100": dict(rate=12, baseline=1.64, error=1.59, weights=267_000, kept=22_000),
    "lenet-5": dict(rate=12, baseline=0.80, error=0.77, weights=431_000, kept=36_000),
}
# Weights kept, FLOPs kept and non-zero activations after the layer, in percent (tables 3 and 4).
PAPER_LAYERS = {
    "lenet-300-100": {"fc1": (8, 8, 38), "fc2": (9, 4, 65), "fc3": (26, 17, 100)},
    "lenet-5": {"conv1": (66, 66, 82), "conv2": (12, 10, 72), "fc1": (8, 6, 55), "fc2": (19, 10, 100)},
}
RATES_TRIED = (0.1, 0.03, 0.01, 0.003, 0.001)  # learning rates
L1_TRIED = (1e-5, 2e-5, 5e-5, 1e-4)
KEPT, REDRAWN, RANDOM = "survivors keep their values", "survivors re-initialised", "random connections"
OWN_RATE, LONGER = "re-initialised, trained as from scratch", "re-initialised, trained as long as the dense network before"
LARGE_RATES = ((12, "iterative"), (12, "one shot"), (30, "iterative"), (30, "one shot"))
VARIANTS = (KEPT, REDRAWN, RANDOM, OWN_RATE, LONGER)


def budget(scale: str) -> dict:
    """Return how much work each kind of run does at a scale: epochs, rounds, images of the scan."""
    return {
        "smoke": dict(rounds=2, final=1, step=1, dense=2, scan=200),
        "lesson": dict(rounds=6, final=4, step=3, dense=30, scan=3_000),
        "paper": dict(rounds=20, final=40, step=30, dense=30, scan=10_000),
    }[scale]


def grid(scale: str) -> list[dict]:
    """Return all settings of the paper's tables and figures; smoke scale keeps the small network."""
    small, large = dict(network="lenet-300-100"), dict(network="lenet-5")
    tried = [dict(kind="lr", **small, work=work, lr=lr) for work in ("step", "whole") for lr in RATES_TRIED]
    tried += [dict(kind="penalty", **small, l1=strength, lr=0.03) for strength in L1_TRIED]
    curves = [dict(kind="curves", **small, group=group) for group in tradeoff_curves.GROUPS]
    rates = [dict(kind="rate", **small, rate=rate, method="iterative") for rate in (12, 20, 30)]
    rates += [dict(kind="rate", **small, rate=rate, method="one shot") for rate in (12, 30)]
    rates += [dict(kind="rate", **small, rate=1, method="dense, trained on")]
    variants = [dict(kind="variant", **small, rate=12, method=method) for method in VARIANTS]
    # the lowest rates came last on the small network
    tried_large = [dict(kind="lr", **large, work="step", lr=lr) for lr in RATES_TRIED[:3]]
    tried_large += [dict(kind="lr", **large, work="whole", lr=lr, seeds=2) for lr in RATES_TRIED[:2]]
    alone = [dict(kind="alone", **large, sparsity=0.9)]
    rates_large = [dict(kind="rate", **large, rate=rate, method=method) for rate, method in LARGE_RATES]
    # unpruned, it diverged at 0.1, the rate of the others
    rates_large += [dict(kind="rate", **large, rate=1, method="dense, trained on", lr=0.03)]
    turns = [dict(kind="turns", **large, rate=12, method=method) for method in ("in turns", "all at once")]
    whole = tried_large + alone + rates_large[:1] + turns + rates_large[1:]
    settings = curves + rates + variants + ([] if scale == "smoke" else whole) + tried
    names = [" ".join(str(value) for key, value in setting.items() if key != "seeds") for setting in settings]
    return [dict(name=name, lr=sparse.LR[setting["network"]]) | setting for name, setting in zip(names, settings, strict=True)]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    splits = data.load("mnist", device=device, scale=scale)
    return KINDS[setting["kind"]](setting, splits, budget(scale), seed)


def at_learning_rate(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of one-shot pruning to 12x at a learning rate: the validation accuracy chooses `sparse_rows.LR`.

    Trained for a step of the curves, or as long as the networks of table 1 ('whole').
    """
    dense = sparse.start(setting["network"], splits, seed)
    shares = sparse.plan(dense, splits, 12, work["scan"])
    if setting["work"] == "whole":
        result = prune(dense, splits, shares, one_shot(work), seed, lr=setting["lr"])
        return dict(method="one shot", rate=12) | _row(dense, splits, result, work, setting["lr"])
    how = sparse.recipe(splits, seed, epochs=work["step"], lr=setting["lr"])
    figures = sparse.retrained(dense, splits, shares, how, [1])[1]
    return sparse.shared(dense, splits) | dict(method="one shot", rate=12) | figures


def at_rate(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of the paper's table 1: pruned to a rate in rounds or at once, in as many epochs; or not pruned at all."""
    dense = sparse.start(setting["network"], splits, seed)
    shares = sparse.plan(dense, splits, setting["rate"], work["scan"])
    rounds = work if setting["method"] == "iterative" else one_shot(work)
    lr = setting["lr"]
    result = prune(dense, splits, shares, rounds, seed, lr=lr)
    counts = {name: result.record[-1][name] for name in ("weights", "kept")}
    layers = {name: 1 - share for name, share in shares.items()}
    return counts | dict(layers=layers) | _row(dense, splits, result, work, lr)


def _row(dense: nn.Module, splits: Splits, result: Result, work: Mapping[str, int], lr: float) -> dict[str, Any]:
    """The row of what `prune` gives; `removed` is the accuracy after the last cut, before it is retrained."""
    last, whole = result.record[-2], result.record[-1]["kept"] == result.record[-1]["weights"]
    trained = dict(epochs=work["rounds"] + work["final"], lr=lr, batch=sparse.BATCH)
    removed = None if whole else round(100 * last["pruned"], 4)
    return sparse.shared(dense, splits) | trained | sparse.figures(result.model, splits, removed)


def one_shot(work: Mapping[str, int]) -> dict[str, int]:
    """Return the budget in which one cut gets the epochs of all rounds."""
    return {**work, "rounds": 1, "each": work["rounds"]}


def prune(
    model: nn.Module, splits: Splits, plan: Mapping[str, float], work: Mapping[str, int], seed: int, *, lr: float, **settings
) -> Result:
    """Return what pruning gives with the budget of a scale: an epoch after each round, more at the end.

    Args:
        model: a trained network; it is left as it was.
        splits: `splits.train` is trained on; the record has the accuracy on `splits.test`.
        plan: layer name -> share to prune.
        work: an entry of `budget`, or `one_shot` of one.
        seed: of the retraining.
        lr: learning rate after each round, and at the beginning of the last training, in which it falls to zero.
        settings: other arguments of `training.recipe`.
    """
    return paper.prune(
        model,
        splits.train,
        plan,
        rounds=work["rounds"],
        retrain=sparse.recipe(splits, seed, epochs=work.get("each", 1), lr=lr, schedule="constant", **settings),
        finish=sparse.recipe(splits, seed, epochs=work["final"], lr=lr, **settings),
        measure=lambda network: evaluate(network, splits.test),
    )


def variant(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row with equal masks and epochs: survivors kept or drawn anew, or connections at random (section 3.3).

    `path` is the test accuracy after each of `path_epochs` of retraining.
    """
    network, method = setting["network"], setting["method"]
    dense = sparse.start(network, splits, seed)
    survivors = paper.magnitude_masks(dense, sparse.plan(dense, splits, setting["rate"], work["scan"]))
    if method == RANDOM:
        survivors = {name: shuffled(mask, stream(seed, "connections", name)) for name, mask in survivors.items()}
    model = copy.deepcopy(dense) if method in (KEPT, RANDOM) else redrawn(network, splits, seed)
    masks.apply(model, survivors)
    path = {0: rows.percent(model, splits.test)}
    from_scratch = {OWN_RATE: work["rounds"] + work["final"], LONGER: work["dense"]}.get(method, 0)
    lr = RECIPES[network, splits.name]["lr"] if from_scratch else setting["lr"]
    with masks.holding(model, survivors):
        if from_scratch:  # as the dense network was trained
            settings = RECIPES[network, splits.name] | dict(epochs=from_scratch, batch_size=sparse.BATCH, **sparse.L2)
            training.fit(model, splits, seed=stream(seed, "from scratch"), progress=False, **settings)
        for how, epochs in [] if method == OWN_RATE else _in_steps(splits, seed, work, setting["lr"]):
            how(model)
            path[epochs] = rows.percent(model, splits.test)
    about = dict(epochs=max(path) + from_scratch, lr=lr, batch=sparse.BATCH)
    about |= dict(path=list(path.values()), path_epochs=list(path))
    return sparse.shared(dense, splits) | about | sparse.figures(model, splits, path[0])


def _in_steps(splits: Splits, seed: int, work: Mapping[str, int], lr: float) -> list[tuple[training.Recipe, int]]:
    """The retraining of one-shot pruning, an epoch at a time until the learning rate falls; and the epochs at each one's end."""
    constant = sparse.recipe(splits, seed, epochs=1, lr=lr, schedule="constant")
    falling = sparse.recipe(splits, seed, epochs=work["final"], lr=lr)
    steps = [(constant.nth(number), number) for number in range(1, work["rounds"] + 1)]
    return [*steps, (falling.nth(work["rounds"] + 1), work["rounds"] + work["final"])]


def redrawn(network: str, splits: Splits, seed: int) -> nn.Module:
    """Return an untrained network: other weights than those from which the network of the seed was trained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, "weights drawn anew"))
        return models.build(network).to(splits.train.images.device)


def turns(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of pruning dense layers first and convolutions afterwards, or all at once, in as many epochs (section 3.3)."""
    network = setting["network"]
    dense = sparse.start(network, splits, seed)
    shares = sparse.plan(dense, splits, setting["rate"], work["scan"])
    how = sparse.recipe(splits, seed, epochs=work["step"], lr=setting["lr"])
    groups = [["fc1", "fc2"], ["conv1", "conv2"]] if setting["method"] == "in turns" else None
    # all at once: the second group's turn becomes a second training of everything, on the same images in the same order
    settings = dict(in_turns=groups) if groups else dict(finish=how)
    result = paper.prune(dense, None, shares, retrain=how, measure=lambda model: rows.percent(model, splits.test), **settings)
    trained = sparse.trained_with(how, 2)
    return sparse.shared(dense, splits) | trained | sparse.figures(result.model, splits, result.record[0]["pruned"])


def alone(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row with a point per layer: the network when that layer alone is pruned, without retraining (figure 6)."""
    dense = sparse.start(setting["network"], splits, seed)
    how = sparse.recipe(splits, seed, epochs=1, lr=setting["lr"])  # not called
    points = [
        dict(layer=layer) | sparse.retrained(dense, splits, {layer: setting["sparsity"]}, how, [])[1]
        for layer in masks.weight_layers(dense)
    ]
    return sparse.shared(dense, splits) | dict(method="one layer, no retraining", points=points)


KINDS = {
    "lr": at_learning_rate, "penalty": tradeoff_curves.penalty, "curves": tradeoff_curves.curves, "rate": at_rate,
    "variant": variant, "turns": turns, "alone": alone,
}  # fmt: skip


def error(model: nn.Module, split: Split) -> float:
    """Return the error in percent."""
    return round(100 * (1 - evaluate(model, split)), 4)


def shuffled(mask: Tensor, seed: int) -> Tensor:
    """Return a mask with as many entries kept, at random places."""
    order = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed)).to(mask.device)
    return mask.flatten()[order].view(mask.shape)


@torch.no_grad()
def active_inputs(model: nn.Module, split: Split) -> dict[str, float]:
    """Return the share of each layer's inputs that are not zero, over a split: what a sparse engine has to multiply."""
    shares: dict[str, float] = {}

    def reader(name: str):
        def read(_module: nn.Module, inputs: Tensor, _output: Tensor) -> None:
            shares[name] = (inputs != 0).double().mean().item()

        return read

    with hooked(model, {name: reader(name) for name in masks.weight_layers(model)}):
        model(split.images)
    return shares


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return 'paper / here' for table 1: means over the networks, all pruned iteratively."""
    table = []
    for (network, rate), group in rows[(rows.kind == "rate") & (rows.method == "iterative")].groupby(["network", "rate"]):
        cited = PAPER[network] if rate == PAPER[network]["rate"] else {}
        table.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group.dataset))),
                "rate, paper": f"{cited['rate']}x" if cited else "-",
                "error, paper": f"{cited['baseline']:.2f} -> {cited['error']:.2f} %" if cited else "-",
                "rate, here": f"{(group.weights / group.kept).mean():.1f}x",
                "error, here": f"{100 - group.baseline.mean():.2f} -> {100 - group.accuracy.mean():.2f} %",
                "lowest and highest": f"{100 - group.accuracy.max():.2f}-{100 - group.accuracy.min():.2f} %",
                "networks": group.seed.nunique(),
                "epochs": f"{group.epochs.max():.0f}",
            }
        )
    return pd.DataFrame(table)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    lines = []
    for network, cited in PAPER.items():
        chosen = (rows.kind == "rate") & (rows.method == "iterative") & (rows.network == network) & (rows.rate == cited["rate"])
        group = rows[chosen]
        if group.empty:
            continue
        lines.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group.dataset))),
                "counted": "weights that are not zero",
                "published": f"{cited['rate']}x, {cited['baseline']:.2f} -> {cited['error']:.2f} % error",
                "rate": (group.weights / group.kept).mean(),
            }
            | lost(group)
        )
    return pd.DataFrame(lines)
