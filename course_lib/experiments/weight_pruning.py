"""The runs behind notebook 02: Han et al., NIPS 2015, on the LeNets.

A setting's 'kind' says which question it answers; `run` turns it into a row. Rows read the committed baselines, except
those of the trade-off figure and of the ablations, which train their own dense network from their seed.
"""

import copy
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import data, masks, models, plans, training
from course_lib.activations import hooked
from course_lib.data import Split, Splits
from course_lib.papers import weight_pruning as paper
from course_lib.result import Result
from course_lib.training import evaluate, fit

# Error in percent before and after, weights before and after, as the paper's table 1 gives them.
PAPER = {
    "lenet-300-100": dict(rate=12, baseline=1.64, error=1.59, weights=267_000, kept=22_000),
    "lenet-5": dict(rate=12, baseline=0.80, error=0.77, weights=431_000, kept=36_000),
}
# Weights kept, FLOPs kept and non-zero activations after the layer, in percent (tables 3 and 4).
PAPER_LAYERS = {
    "lenet-300-100": {"fc1": (8, 8, 38), "fc2": (9, 4, 65), "fc3": (26, 17, 100)},
    "lenet-5": {"conv1": (66, 66, 82), "conv2": (12, 10, 72), "fc1": (8, 6, 55), "fc2": (19, 10, 100)},
}
SCAN = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98, 0.99, 0.995)  # sparsities of the scan
KEPT = (0.5, 1 / 3, 0.2, 0.12, 0.08, 0.05, 0.03)  # shares of weights of the trade-off figure
CURVES = ("L2, no retraining", "L1, no retraining", "L1, retraining", "L2, retraining", "L2, iterative", "L1, then L2 retraining")
VARIANTS = ("survivors keep their values", "survivors re-initialised", "random connections")
RETRAINING = dict(lr=0.05, weight_decay=1e-4, augment="shift")
L1_PENALTY = 2e-5


def budget(scale: str) -> dict:
    """Return how much work each kind of run does at a scale: epochs, rounds, images of the scan."""
    return {
        "smoke": dict(dense=2, rounds=2, final=1, again=1, scan=200),
        "lesson": dict(dense=10, rounds=8, final=6, again=3, scan=3_000),
        "paper": dict(dense=60, rounds=20, final=40, again=30, scan=10_000),
    }[scale]


def grid(scale: str) -> list[dict]:
    """Return all settings of the paper's tables and figures; smoke scale keeps the small network."""
    rates = [dict(kind="rate", network="lenet-300-100", rate=rate) for rate in (12, 20, 30)]
    curves = [dict(kind="curve", network="lenet-300-100", curve=curve) for curve in CURVES]
    variants = [dict(kind="variant", network="lenet-300-100", rate=12, variant=variant) for variant in VARIANTS]
    large = [dict(kind="rate", network="lenet-5", rate=rate) for rate in (12, 30)]
    turns = [dict(kind="turns", network="lenet-5", rate=12, in_turns=in_turns) for in_turns in (True, False)]
    settings = rates + curves + variants + ([] if scale == "smoke" else turns + large)
    return [dict(name=" ".join(str(value) for value in setting.values()), **setting) for setting in settings]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    kinds = {"rate": at_rate, "curve": curve, "variant": variant, "turns": turns}
    if setting["kind"] not in kinds:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(kinds)}")
    splits = data.load("mnist", device=device, scale=scale)
    return {"data set": splits.name} | kinds[setting["kind"]](setting, splits, budget(scale), seed)


def at_rate(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of the paper's table 1: prune the committed baseline iteratively to a rate, layers by their sensitivity."""
    model = baseline(setting["network"], splits)
    plan = sensitivity_plan(model, splits, setting["rate"], work["scan"])
    pruned = prune(model, splits, plan, work, seed, progress=False)
    return dict(
        baseline_error=error(model, splits.test),
        error=error(pruned.model, splits.test),
        weights_kept=pruned.record[-1]["kept"],
        weights=pruned.record[-1]["weights"],
        layers={name: 1 - share for name, share in plan.items()},
    )


def prune(model: nn.Module, splits: Splits, plan: Mapping[str, float], work: Mapping[str, int], seed: int, **settings) -> Result:
    """Return what iterative pruning gives with the budget of a scale: an epoch after each round, more at the end.

    Args:
        model: a trained network; it is left as it was.
        splits: `splits.train` is trained on; the record has the accuracy on `splits.test`.
        plan: layer name -> share to prune.
        work: an entry of `budget`.
        seed: of the retraining.
        settings: more arguments of `training.recipe`.
    """
    settings = RETRAINING | dict(seed=seed) | settings
    return paper.prune(
        model,
        splits.train,
        plan,
        rounds=work["rounds"],
        retrain=training.recipe(splits, epochs=1, schedule="constant", **settings),
        finish=training.recipe(splits, epochs=work["final"], schedule="linear", **settings),
        measure=lambda network: evaluate(network, splits.test),
    )


def curve(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return one curve of figure 5: accuracy against the share of weights kept."""
    penalty, _, how = setting["curve"].partition(", ")
    dense = train_dense(setting["network"], splits, work["dense"], seed, penalty)
    shares = {kept: sensitivity_plan(dense, splits, 1 / kept, work["scan"]) for kept in KEPT}
    again = L2 if how != "retraining" else PENALTIES[penalty]
    errors = []
    model = dense
    for kept in KEPT:
        start = model if how == "iterative" else dense
        if how == "no retraining":
            model = paper.prune(start, None, shares[kept]).model
        else:
            settings = RETRAINING | again | dict(epochs=work["again"], schedule="linear", seed=seed, progress=False)
            model = paper.prune(start, None, shares[kept], finish=training.recipe(splits, **settings)).model
        errors.append(error(model, splits.test))
    return dict(baseline_error=error(dense, splits.test), kept=list(KEPT), errors=errors)


def variant(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return errors by epoch with the same masks and budget, survivors kept or drawn anew, or connections at random (3.3)."""
    dense = train_dense(setting["network"], splits, work["dense"], seed, "L2")
    plan = sensitivity_plan(dense, splits, setting["rate"], work["scan"])
    survivors = paper.magnitude_masks(dense, plan)
    if setting["variant"] == "random connections":
        survivors = {name: shuffled(mask, seed) for name, mask in survivors.items()}
    torch.manual_seed(seed + 1)
    model = (
        copy.deepcopy(dense)
        if setting["variant"] != "survivors re-initialised"
        else models.build(setting["network"]).to(splits.test.images.device)
    )
    masks.apply(model, survivors)
    before = error(model, splits.test)
    errors = []
    with masks.holding(model, survivors):
        for epoch in range(work["again"]):  # one at a time, to see how fast it recovers
            fit(model, splits, epochs=1, schedule="constant", seed=seed * 1000 + epoch, progress=False, **RETRAINING)
            errors.append(error(model, splits.test))
    return dict(baseline_error=error(dense, splits.test), before_retraining=before, errors=errors, error=errors[-1])


def turns(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return the error when dense layers are pruned and retrained first, then convolutions, or all at once (section 3.3)."""
    model = baseline(setting["network"], splits)
    plan = sensitivity_plan(model, splits, setting["rate"], work["scan"])
    groups = [["fc1", "fc2"], ["conv1", "conv2"]] if setting["in_turns"] else None
    epochs = work["again"] // 2 if setting["in_turns"] else work["again"]  # the same number of epochs in all
    retrain = training.recipe(
        splits, epochs=max(1, epochs), schedule="constant", seed=seed, progress=False, **RETRAINING
    ).__call__  # so that both groups see the images in one order, as when the rows were recorded
    pruned = paper.prune(model, None, plan, in_turns=groups, retrain=retrain)
    return dict(baseline_error=error(model, splits.test), error=error(pruned.model, splits.test))


L2 = dict(l1=0.0, weight_decay=1e-4)
PENALTIES = {"L2": L2, "L1": dict(l1=L1_PENALTY, weight_decay=0.0)}


def train_dense(network: str, splits: Splits, epochs: int, seed: int, penalty: str) -> nn.Module:
    """Return a dense network trained from `seed` under the L1 or the L2 penalty."""
    torch.manual_seed(seed)
    model = models.build(network).to(splits.train.images.device)
    fit(model, splits, epochs=epochs, lr=0.1, augment="shift", seed=seed, progress=False, **PENALTIES[penalty])
    return model


def baseline(network: str, splits: Splits) -> nn.Module:
    """Return the committed network for the data set that is really in use, on its device."""
    return models.pretrained(network, splits.name).to(splits.test.images.device)


def sensitivity_plan(model: nn.Module, splits: Splits, rate: float, images: int) -> dict[str, float]:
    """Return a sparsity per layer for a rate, by a scan on training images: the test set takes no part in the choice."""
    curves = paper.sensitivity(model, splits.train.take(images), SCAN)
    return plans.sparsities_for_rate(model, curves, SCAN, rate)


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
    """Return 'paper / here' for table 1, mean and spread over seeds."""
    table = []
    for (network, rate), group in rows[rows.kind == "rate"].groupby(["network", "rate"], sort=True):
        cited = PAPER[network] if rate == PAPER[network]["rate"] else {}
        table.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group["data set"]))),
                "rate, paper": f"{cited['rate']}x" if cited else "-",
                "error, paper": f"{cited['baseline']:.2f} -> {cited['error']:.2f} %" if cited else "-",
                "rate, here": f"{(group.weights / group.weights_kept).mean():.1f}x",
                "error, here": f"{group.baseline_error.mean():.2f} -> {group.error.mean():.2f} %",
                "spread": f"{group.error.min():.2f}-{group.error.max():.2f} %",
                "seeds": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    lines = []
    for network, cited in PAPER.items():
        group = rows[(rows.kind == "rate") & (rows.network == network) & (rows.rate == cited["rate"])]
        if group.empty:
            continue
        lines.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group["data set"]))),
                "counted": "weights that are not zero",
                "published": f"{cited['rate']}x, {cited['baseline']:.2f} -> {cited['error']:.2f} % error",
                "rate": (group.weights / group.weights_kept).mean(),
                "lost": (group.error - group.baseline_error).mean(),
            }
        )
    return pd.DataFrame(lines)
