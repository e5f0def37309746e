"""The runs behind notebook 06: He et al. 2017, on vgg-small and ResNet-20 with CIFAR-10.

A setting's 'kind' says which question it answers; `run` turns it into a row: 'layer' one layer alone, at several widths, by
each way of choosing; 'network' all layers, not trained afterwards; 'tuned' the same with fine-tuning, or the shape trained
from scratch. At paper scale the networks are VGG-16 and ResNet-56, whose baselines are trained first; that needs a GPU and has
not been run here. On the CPU fine-tuning computes in bfloat16, as the baselines did.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import data, least_squares, models, plans
from course_lib.data import Split, Splits
from course_lib.experiments import filter_pruning
from course_lib.experiments.channel_choices import layers_of, strengths, ways_of_choosing, with_weight
from course_lib.papers import channel_pruning as paper
from course_lib.result import Result
from course_lib.surgery.inputs import inputs_of, keep_inputs, kept_inputs
from course_lib.training import evaluate, fit

# (network, speed-up, method) -> what the paper reports: accuracy on CIFAR-10; points of top-5 on ImageNet
PAPER = {
    ("resnet-56", 2.0, "LASSO"): "92.8 -> 90.8 -> 91.8 %",
    ("resnet-56", 2.0, "max response"): "92.8 -> 91.5 % (check)",
    ("resnet-56", 2.0, "from scratch"): "90.9 % (check)",
    ("vgg-16", 2.0, "LASSO"): "2.7 (check), then 0.0 points lost",
    ("vgg-16", 4.0, "LASSO"): "7.9 (check), then 1.0 points lost",
}
LIKE = {"vgg-small": "vgg-16", "resnet-20": "resnet-56"}  # ours -> the paper's network of the same kind
METHODS = ("LASSO", "max response", "first k")
KEPT = (0.75, 0.5, 0.375, 0.25)  # shares of its input channels that a single layer keeps
SPEEDUPS = (1.5, 2.0, 3.0, 4.0)
FINE_TUNING = dict(lr=0.05, schedule="linear", augment="crop-flip")
BLOCKS = {"resnet-20": 3, "resnet-56": 9}  # in a stage


def residual_ratios(blocks: int, first: float | None, last: float) -> dict[str, float]:
    """Relative widths for the CIFAR ResNet: what the first and the last layer of a block read; None leaves the first whole.

    Stages keep 1, 1.25 and 1.5, since shallow ones are more redundant. Blocks where the size of the map changes are sensitive,
    as the paper says, and keep 1.4 times more.
    """
    ratios = {}
    for stage in (1, 2, 3):
        for block in range(blocks):
            more = (1.0, 1.25, 1.5)[stage - 1] * (1.4 if stage > 1 and block == 0 else 1.0)
            ratios |= {f"stage{stage}.{block}.conv1": (first or 0.0) * more, f"stage{stage}.{block}.conv2": last * more}
    return {name: ratio for name, ratio in ratios.items() if ratio}


# Relative widths: layer -> share of the channels that it reads
RATIOS: dict[str, dict[str, float]] = {
    "vgg-16": {f"conv{i}": 1.0 if i < 9 else 1.5 for i in range(2, 12)},  # the outputs of conv5_x stay whole
    "vgg-small": {"conv2": 1.0, "conv3": 1.0, "conv4": 1.0, "conv5": 1.5, "conv6": 1.5},
} | {network: residual_ratios(blocks, None, 1.0) for network, blocks in BLOCKS.items()}
# The paper's two rules for residual networks, together and apart: (sampler in front of the first layers, corrected targets)
RULES = {"neither": (False, False), "sampler": (True, False), "correction": (False, True), "both": (True, True)}


def budget(scale: str) -> dict:
    """How much work a row does at a scale."""
    return {
        "smoke": dict(
            networks=("vgg-small",), images=100, positions=20, tested=500, speedups=(2.0,), tuned=((2.0, METHODS[:1]),),
            epochs={"vgg-small": 1}, scratch={},
        ),
        "lesson": dict(
            networks=("vgg-small", "resnet-20"), images=500, positions=10, tested=2_000, speedups=SPEEDUPS,
            tuned=((2.0, METHODS), (4.0, METHODS)), epochs={"vgg-small": 6, "resnet-20": 20}, scratch={},
        ),
        "paper": dict(
            networks=("vgg-16", "resnet-56"), images=5_000, positions=10, tested=10_000, speedups=SPEEDUPS,
            tuned=((2.0, METHODS), (4.0, METHODS)), epochs={"vgg-16": 40, "resnet-56": 40},
            scratch={"vgg-16": 160, "resnet-56": 160},
        ),
    }[scale]  # fmt: skip


def grid(scale: str) -> list[dict]:
    """All settings, those that the notebook leans on most first; smoke scale keeps the small network."""
    work = budget(scale)
    small, *large = work["networks"]
    tuned = [dict(kind="tuned", network=large_one, speedup=2.0, method=method)
             for large_one in large for method in ("LASSO", "from scratch", "max response")]  # fmt: skip
    for speedup, methods in work["tuned"]:
        tuned += [dict(kind="tuned", network=small, speedup=speedup, method=method) for method in (*methods, "from scratch")]
    layers = [dict(kind="layer", network=small, layer=layer) for layer in RATIOS[small]]
    whole = [
        dict(kind="network", network=network, speedup=speedup, method=method)
        for network in work["networks"] for speedup in work["speedups"] for method in METHODS
    ]  # fmt: skip
    rules = [dict(kind="rules", network=network, speedup=2.0, rules=rules) for network in large for rules in RULES]
    settings = layers + whole + rules + tuned
    return [dict(name=" ".join(str(value) for value in setting.values()), **setting) for setting in settings]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """One row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    kinds = {"layer": layer, "network": network, "rules": network, "tuned": tuned}
    if setting["kind"] not in kinds:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(kinds)}")
    splits = data.load("cifar10", device=device, scale=scale)
    work = budget(scale)
    model = filter_pruning.baseline(setting["network"], splits, seed)
    return {"data set": splits.name} | kinds[setting["kind"]](setting, model, splits, work, seed)


def layer(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """One layer alone (figure 4): what it leaves unexplained on images that it was not fitted to, and the points lost."""
    name, test = setting["layer"], splits.test.take(work["tested"])
    images = splits.train.take(2 * work["images"], seed).images
    seen, unseen, strongest = layers_of(model, [name], images, work["positions"], seed)[name]
    weight, before, points = model.get_submodule(name).weight.detach().flatten(2), evaluate(model, test), []
    for share in KEPT:
        keep = max(1, round(share * len(strongest)))
        for method, kept in ways_of_choosing(weight, seen, strongest, keep).items():
            refitted, bias = least_squares.refit(seen, kept)
            lost = 100 * (before - evaluate(with_weight(model, name, refitted, bias), test))
            figures = dict(unexplained=round(1 - least_squares.explained(unseen, refitted), 5), lost=round(lost, 3))
            points.append(dict(method=method, keep=keep, share=share) | figures)
    return dict(channels=len(strongest), points=points)


def network(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """The whole network, not trained afterwards: with least squares, without, and with batch norms measured anew."""
    train, test = splits.train.take(work["images"], seed), splits.test.take(work["tested"])
    result = prune(setting, model, train, work, seed)
    kept = kept_inputs(result.model)
    accuracies = dict(
        baseline=model,
        accuracy=result.model,
        recalibrated=recalibrated(result.model, train.images),
        without_least_squares=keep_inputs(model, kept, train.images[:1]),
    )
    return filter_pruning.sizes(model, result.model, splits) | dict(
        {name: accuracy(one, test) for name, one in accuracies.items()},
        kept={name: len(channels) for name, channels in kept.items()},
        explained={row["reader"]: round(row["explained"], 4) for row in result.record},
    )


def tuned(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """Pruned and fine-tuned; or the same shape from random weights for as many epochs, at the learning rates of the baseline."""
    train, name = splits.train.take(work["images"], seed), setting["network"]
    scratch = setting["method"] == "from scratch"
    if scratch:
        torch.manual_seed(seed + 1000)
        plan = plan_for(setting, model, train.images[:1])
        fresh = models.build(name).to(train.images.device)
        narrower = keep_inputs(fresh, {layer: range(keep) for layer, keep in plan.items()}, train.images[:1])
        how = dict(lr=filter_pruning.SCRATCH[name], augment="crop-flip")
    else:
        narrower, how = prune(setting, model, train, work, seed).model, FINE_TUNING
    before = accuracy(narrower, splits.test)
    state = Path("build/experiments") / f"channel-pruning {setting['name']} {seed}.pt"
    fit(
        narrower, splits, epochs=work["epochs"][name], seed=seed, precision=torch.bfloat16, resume_from=state,
        progress=False, **how,
    )  # fmt: skip
    row = filter_pruning.sizes(model, narrower, splits) | dict(
        baseline=accuracy(model, splits.test),
        before=before,
        accuracy=accuracy(narrower, splits.test),
        epochs=work["epochs"][name],
    )
    state.unlink()
    return row


def prune(setting: Mapping, model: nn.Module, train: Split, work: Mapping, seed: int) -> Result:
    """Return the network of a setting, pruned by its method to its speed-up, under its rules for residual networks."""
    example_input = train.images[:1]
    plan: dict[str, paper.Keep] = dict(plan_for(setting, model, example_input))
    method, (_, corrected) = setting.get("method", "LASSO"), RULES[setting.get("rules", "correction")]
    if method == "first k":
        plan = {name: range(keep) for name, keep in plan.items()}
    elif method == "max response":
        strongest = strengths(model, plan, example_input)
        plan = {name: strongest[name].topk(keep).indices for name, keep in plan.items()}
    keep, sampled = by_output(plan, producers(model, plan, example_input))
    settings = dict(sampled=sampled, positions=work["positions"], images=len(train.labels), corrected=corrected, seed=seed)
    return paper.prune(model, train, keep, **settings)


def plan_for(setting: Mapping, model: nn.Module, example_input: Tensor) -> dict[str, int]:
    """Return how many channels the layers of a setting's network read, for its speed-up."""
    ratios = RATIOS[setting["network"]]
    if RULES[setting.get("rules", "correction")][0]:  # the ends of the paper's 2 : 4 : 3 for blocks of three layers
        ratios = residual_ratios(BLOCKS[setting["network"]], 2.0, 3.0)
    computed_by = producers(model, ratios, example_input)
    keep, sampled = plans.keep_and_sampled_for_speedup(model, *by_output(ratios, computed_by), setting["speedup"], example_input)
    return {reader: sampled[reader] if layer is None else keep[layer] for reader, layer in computed_by.items()}


def producers(model: nn.Module, layers: Iterable[str], example_input: Tensor) -> dict[str, str | None]:
    """Return the layer whose outputs each of `layers` alone reads; None where others read them too."""
    sources = inputs_of(model, layers, example_input)
    return {reader: source.producers[-1] if source.producers else None for reader, source in sources.items()}


def by_output(plan: Mapping[str, Any], computed_by: Mapping[str, str | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a plan by the layers that read as `paper.prune` takes it: by the layers that compute, and behind samplers.

    Args:
        plan: layer -> something about the channels that it reads.
        computed_by: from `producers`.
    """
    keep = {layer: plan[reader] for reader, layer in computed_by.items() if layer is not None}
    return keep, {reader: plan[reader] for reader, layer in computed_by.items() if layer is None}


@torch.no_grad()
def recalibrated(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy whose batch norms have their statistics from these images: least squares leaves outputs with less variance."""
    model = copy.deepcopy(model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
    for batch in images.split(250):
        model(batch)
    return model.eval()


def accuracy(model: nn.Module, split: Split) -> float:
    """In percent."""
    return round(100 * evaluate(model, split), 4)


def mean_rows(rows: pd.DataFrame, kind: str, by: Sequence[str]) -> pd.DataFrame:
    """Means over seeds of the numbers in the rows of a kind, a line for each value of `by`."""
    chosen = rows[rows.kind == kind]
    return chosen.groupby(list(by), sort=False).mean(numeric_only=True).reset_index()


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    """'paper / here': accuracy of the whole network, of the pruned one as it is, and after fine-tuning."""
    table = []
    chosen = rows[rows.kind == "tuned"]
    for (network, speedup, method), group in chosen.groupby(["network", "speedup", "method"], sort=True):
        like = LIKE.get(network, network)
        cited = PAPER.get((like, speedup, method))
        steps = ["accuracy"] if method == "from scratch" else ["baseline", "before", "accuracy"]
        table.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group["data set"]))),
                "method": method,
                "MACs": f"{speedup:g}x less",
                "paper": f"{like}: {cited}" if cited else "-",
                "accuracy, here": " -> ".join(f"{group[step].mean():.2f}" for step in steps) + " %",
                "spread": f"{group.accuracy.min():.2f}-{group.accuracy.max():.2f} %",
                "epochs": ", ".join(str(int(epochs)) for epochs in sorted(set(group.epochs))),
                "seeds": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    lines = []
    chosen = rows[(rows.kind == "tuned") & (rows.method == "LASSO") & (rows.speedup == 2)]
    for network, group in chosen.groupby("network", sort=False):
        like = LIKE.get(network, network)
        lines.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group["data set"]))),
                "counted": "MACs",
                "published": f"{like}: 2x, {PAPER[like, 2.0, 'LASSO']}",
                "rate": (group.macs / group.macs_left).mean(),
                "lost": (group.baseline - group.accuracy).mean(),
            }
        )
    return pd.DataFrame(lines)
