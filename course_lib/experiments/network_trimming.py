"""The runs behind notebook 03: Hu et al. 2016, on LeNet-5 with a ReLU after every layer.

A setting's 'kind' says which question it answers: 'iterative' the paper's table, and the same shape cut at once or trained from
random weights; 'criterion' which neurons should go, at the paper's widths; 'width' how redundant a layer is by its width.
Neurons are chosen on training images. All training computes in bfloat16, which is some times faster on a CPU too.
"""

import dataclasses
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import data, models, surgery, training
from course_lib.activations.relus import mean_after_relu
from course_lib.data import Split, Splits
from course_lib.papers import filter_pruning
from course_lib.papers import network_trimming as paper
from course_lib.training import evaluate, fit

NETWORK = "lenet-5-relu"
LAYERS = ("conv2", "fc1")
# Widths of conv2 and fc1 in the paper's table for LeNet; its accuracies are near 99.3 % after retraining at every step (check)
PAPER = ((50, 500), (41, 426), (31, 349), (26, 293), (24, 252))
NARROWER = ((12, 126), (6, 63))  # beyond the paper
CRITERIA = ("APoZ", "mean activation", "L1 norm", "random", "APoZ, wrong side")
WIDTHS = ((50, 500), (12, 500), (25, 500), (100, 500), (50, 125), (50, 250), (50, 1000))
RETRAINING = dict(lr=0.02, weight_decay=5e-4, augment="shift", precision=torch.bfloat16, progress=False)
TRAINING = RETRAINING | dict(lr=0.05)  # from random weights


def budget(scale: str) -> dict:
    """How much work each kind of run does at a scale: rounds, epochs of retraining, images for APoZ and for training."""
    return {
        "smoke": dict(rounds=2, again=1, images=500, train=1_000, epochs=2),
        "lesson": dict(rounds=5, again=2, images=5_000, train=15_000, epochs=3),
        "paper": dict(rounds=8, again=10, images=60_000, train=60_000, epochs=15),
    }[scale]


def grid(scale: str) -> list[dict]:
    """All settings of the tables and figures; smoke scale keeps few widths."""
    criteria = [dict(kind="criterion", criterion=criterion) for criterion in CRITERIA]
    widths = [dict(kind="width", conv2=conv2, fc1=fc1) for conv2, fc1 in (WIDTHS[:3] if scale == "smoke" else WIDTHS)]
    return [
        dict(name=" ".join(str(value) for value in setting.values()), **setting)
        for setting in [dict(kind="iterative"), *criteria, *widths]
    ]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """One row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    kinds = {"iterative": iterative, "criterion": criterion, "width": width}
    if setting["kind"] not in kinds:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(kinds)}")
    splits = data.load("mnist", device=device, scale=scale)
    return {"data set": splits.name} | kinds[setting["kind"]](setting, splits, budget(scale), seed)


def iterative(_setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """The paper's table, a row per round; then its last shape cut in one step, and from random weights, for as many epochs."""
    model, chosen_on = baseline(splits), splits.train.take(work["images"])
    retrain = training.recipe(splits, epochs=work["again"], schedule="linear", seed=seed, **RETRAINING)
    trimmed = paper.prune(
        model,
        chosen_on,
        layers=LAYERS,
        rounds=work["rounds"],
        retrain=retrain,
        measure=lambda network: error(network, splits.test),
    )
    widths, epochs = trimmed.record[-1]["kept"], work["rounds"] * work["again"]
    at_once = cut(model, scores(model, chosen_on, "APoZ", seed), widths, splits)
    torch.manual_seed(seed + 1)
    redrawn = lenet(**widths).to(splits.test.images.device)
    return dict(
        baseline_error=error(model, splits.test),
        baseline_parameters=size(model),
        rounds=[_recorded(row) for row in trimmed.record],
        at_once=[error(at_once, splits.test), *errors_by_epoch(at_once, splits, epochs, seed, RETRAINING)],
        from_scratch=[error(redrawn, splits.test), *errors_by_epoch(redrawn, splits, epochs, seed, TRAINING)],
    )


def _recorded(row: Mapping) -> dict:
    """A row of a result's record, under the names that it has in data/results."""
    names = dict(kept="widths", pruned="trimmed")
    return {names.get(name, name): value for name, value in row.items()}


def criterion(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """One way of choosing: errors at a series of widths without retraining, and at two of them after an epoch of it."""
    model = baseline(splits)
    order = scores(model, splits.train.take(work["images"]), setting["criterion"], seed)
    errors, retrained = [], {}
    for conv2, fc1 in PAPER + NARROWER:
        narrower = cut(model, order, dict(conv2=conv2, fc1=fc1), splits)
        errors.append(error(narrower, splits.test))
        if (conv2, fc1) in (PAPER[-1], NARROWER[-1]):
            fit(narrower, splits, epochs=1, schedule="linear", seed=seed, **RETRAINING)
            retrained[f"{conv2}, {fc1}"] = error(narrower, splits.test)
    return dict(widths=[list(pair) for pair in PAPER + NARROWER], errors=errors, retrained=retrained)


def width(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """A LeNet of other widths trained from `seed`: the APoZ of its layers."""
    torch.manual_seed(seed)
    model = lenet(setting["conv2"], setting["fc1"]).to(splits.test.images.device)
    train = splits.train.take(work["train"])
    fit(model, dataclasses.replace(splits, train=train), epochs=work["epochs"], seed=seed, **TRAINING)
    layers = {}
    for layer, shares in paper.apoz(model, splits.train.take(work["images"]), LAYERS).items():
        kept = len(paper.neurons_to_keep(shares))
        layers[layer] = dict(width=len(shares), mean=shares.mean().item(), silent=(shares > 0.9).sum().item(), kept=kept)
    return dict(error=error(model, splits.test), layers=layers)


def scores(model: nn.Module, split: Split, criterion: str, seed: int) -> dict[str, Tensor]:
    """Return a criterion's score of each neuron by layer, (C,); the highest stay. Raises ValueError for an unknown criterion."""
    if criterion in ("APoZ", "APoZ, wrong side"):
        sign = -1 if criterion == "APoZ" else 1
        return {layer: sign * shares for layer, shares in paper.apoz(model, split, LAYERS).items()}
    if criterion == "mean activation":
        return mean_after_relu(model, split, LAYERS, lambda outputs: outputs)
    weights = {layer: model.get_submodule(layer).weight for layer in LAYERS}
    if criterion == "L1 norm":
        return {layer: filter_pruning.filter_norms(weight) for layer, weight in weights.items()}
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return {layer: torch.rand(len(weight), generator=generator) for layer, weight in weights.items()}
    raise ValueError(f"criterion is {criterion!r}; known are {', '.join(CRITERIA)}")


def cut(model: nn.Module, order: Mapping[str, Tensor], widths: Mapping[str, int], splits: Splits) -> nn.Module:
    """`model` narrowed to `widths`, layer by layer the neurons of the highest scores."""
    keep = {layer: order[layer].topk(count).indices for layer, count in widths.items()}
    return surgery.narrow(model, keep, splits.test.images[:1])


def lenet(conv2: int, fc1: int) -> nn.Module:
    """A fresh lenet-5-relu of other widths."""
    model = models.build(NETWORK)
    model.conv2, model.fc1, model.fc2 = nn.Conv2d(20, conv2, 5), nn.Linear(16 * conv2, fc1), nn.Linear(fc1, 10)
    return model


def errors_by_epoch(model: nn.Module, splits: Splits, epochs: int, seed: int, settings: Mapping) -> list[float]:
    """Test error after each epoch of training `model` in place, the learning rate falling from epoch to epoch."""
    errors = []
    for epoch in range(epochs):
        rate = settings["lr"] * (1 - epoch / epochs)
        fit(model, splits, epochs=1, schedule="constant", seed=100 * seed + epoch, **settings | dict(lr=rate))
        errors.append(error(model, splits.test))
    return errors


def baseline(splits: Splits) -> nn.Module:
    """The committed network for the data set that is really in use, on its device."""
    return models.pretrained(NETWORK, splits.name).to(splits.test.images.device)


def error(model: nn.Module, split: Split) -> float:
    """Error in percent."""
    return percent_wrong(evaluate(model, split))


def percent_wrong(accuracy: float) -> float:
    return round(100 * (1 - accuracy), 4)


def size(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def rounds_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of kind 'iterative', a line per round: seed, round, conv2, fc1, parameters, rate, errors trimmed and retrained."""
    lines = []
    for row in rows[rows.kind == "iterative"].itertuples():
        for entry in row.rounds:
            line = {key: entry[key] for key in ("round", "parameters", "trimmed", "retrained")} | entry["widths"]
            lines.append(line | {"seed": row.seed, "data set": row[1 + list(rows.columns).index("data set")]})
            lines[-1]["rate"] = row.baseline_parameters / entry["parameters"]
    return pd.DataFrame(lines)


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    """'paper / here' for the paper's table of LeNet, a line per round; means over seeds, the spread after retraining."""
    whole = size(lenet(*PAPER[0]))
    table = []
    for number, group in rounds_of(rows).groupby("round"):
        cited = PAPER[number] if number < len(PAPER) else None
        table.append(
            {
                "round": number,
                "data set": ", ".join(sorted(set(group["data set"]))),
                "conv2, fc1, paper": "{}, {}".format(*cited) if cited else "-",
                "rate, paper": f"{whole / size(lenet(*cited)):.2f}x" if cited else "-",
                "conv2, fc1, here": f"{group.conv2.mean():.0f}, {group.fc1.mean():.0f}",
                "rate, here": f"{group.rate.mean():.2f}x",
                "error, trimmed": f"{group.trimmed.mean():.2f} %",
                "error, retrained": f"{group.retrained.mean():.2f} %",
                "spread": f"{group.retrained.min():.2f}-{group.retrained.max():.2f} %",
                "seeds": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    rounds = rounds_of(rows)
    baseline = rows[rows.kind == "iterative"].baseline_error.mean()
    reached = rounds.groupby("round").rate.mean() >= 3.85  # the paper's last row
    last = rounds[rounds["round"] == (reached.idxmax() if reached.any() else reached.index[-1])]
    return pd.DataFrame(
        {
            "network": [NETWORK],
            "data set": ", ".join(sorted(set(last["data set"]))),
            "counted": "parameters",
            "published": "3.85x, 99.3 % accuracy before and after (check)",
            "rate": last.rate.mean(),
            "lost": last.retrained.mean() - baseline,
        }
    )
