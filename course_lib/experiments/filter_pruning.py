"""The runs behind notebook 04: Li et al. 2017, on vgg-small and ResNet-20 with CIFAR-10.

A setting's 'kind' says which question it answers; `run` turns it into a row. At paper scale the networks are the paper's,
VGG-16 and ResNet-56, whose baselines are trained first; that needs a GPU and has not been run here. On the CPU retraining
computes in bfloat16, as the baselines did.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import activations, cost, data, models, surgery, training
from course_lib.data import Split, Splits
from course_lib.experiments.filter_plans import PAPER, PLANS
from course_lib.models.pretraining import CHECKPOINTS
from course_lib.papers import filter_pruning as paper
from course_lib.surgery.keeping import strongest
from course_lib.training import evaluate, fit

LIKE = {"vgg-small": "vgg-16", "resnet-20": "resnet-56"}  # ours -> the paper's network of the same kind
SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # of filters pruned, in the sensitivity scan
CRITERIA = ("smallest L1", "smallest L2", "greedy L1", "random", "largest L1", "mean std")
ORDERS = ("smallest L1", "smallest L2", "random", "largest L1", *paper.CRITERIA)  # of one layer alone
ORDER_SHARES = (0.3, 0.5, 0.7, 0.9)  # of filters pruned
RETRAINING = dict(lr=0.05, schedule="linear", augment="crop-flip")
PAPERS_RETRAINING = dict(lr=0.001, schedule="constant", augment="crop-flip")
SCRATCH = {"vgg-small": 0.1, "vgg-16": 0.1, "resnet-20": 0.2, "resnet-56": 0.2}  # lr, one cycle, as the baselines


def budget(scale: str) -> dict:
    """How much work each kind of run does at a scale: networks, epochs of retraining and from scratch, images of the scan."""
    return {
        "smoke": dict(
            networks=("vgg-small",), epochs={"vgg-small": 1}, scratch={"vgg-small": 1}, long=1, short=1, rounds=3, images=200,
        ),
        "lesson": dict(
            networks=("vgg-small", "resnet-20"), epochs={"vgg-small": 10, "resnet-20": 10},
            scratch={"vgg-small": 40, "resnet-20": 50}, long=30, short=3, rounds=6, images=1000,
        ),
        "paper": dict(
            networks=("vgg-16", "resnet-56"), epochs=dict.fromkeys(("vgg-16", "resnet-56"), 40),
            scratch=dict.fromkeys(("vgg-16", "resnet-56"), 160), long=120, short=20, rounds=42, images=5000,
        ),
    }[scale]  # fmt: skip


def grid(scale: str) -> list[dict]:
    """All settings, those that the notebook leans on most first; smoke scale keeps the small network."""
    networks = budget(scale)["networks"]
    last = {network: list(PLANS[network])[-1] for network in networks}
    pruned = [dict(kind="pruned", network=network, plan=plan) for network in networks for plan in PLANS[network]]
    pruned.sort(key=lambda setting: last[setting["network"]] != setting["plan"])
    one = dict(network=networks[0], plan=last[networks[0]])
    controls = [dict(kind=kind, **one) for kind in ("pruned, long", "scratch", "as published", "scratch, short")]
    others = [dict(kind=kind, network=networks[-1], plan=last[networks[-1]]) for kind in ("scratch, short", "scratch")]
    scans = [dict(kind="scan", network=network) for network in networks]
    orders = [dict(kind="orders", network=networks[0])]
    criteria = [dict(kind="criterion", network=networks[0], criterion=criterion) for criterion in CRITERIA]
    rounds = [dict(kind="rounds", network=networks[0], rounds=rounds) for rounds in (1, 3)]
    settings = (
        pruned[: len(networks)] + scans + controls[:2] + orders + criteria + rounds + controls[2:] + pruned[len(networks) :]
    )
    settings += others if len(networks) > 1 else []
    return [dict(name=" ".join(str(value) for value in setting.values()), **setting) for setting in settings]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """One row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    kinds = {
        "scan": scan, "orders": orders, "criterion": criterion, "rounds": rounds, "pruned": pruned, "pruned, long": pruned,
        "as published": pruned, "scratch": scratch, "scratch, short": scratch,
    }  # fmt: skip
    if setting["kind"] not in kinds:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(kinds)}")
    splits = data.load("cifar10", device=device, scale=scale)
    start = time.perf_counter()
    model = baseline(setting["network"], splits, seed)
    figures = kinds[setting["kind"]](setting, model, splits, budget(scale), seed)
    seconds = round(time.perf_counter() - start)
    return {"data set": splits.name, "baseline_error": error(model, splits)} | figures | dict(run_seconds=seconds)


def pruned(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """The paper's table 1: one-shot pruning by a plan, and retraining; of seed 0 the network is written to `checkpoint`."""
    network, kind = setting["network"], setting["kind"]
    epochs = work["long"] if kind == "pruned, long" else work["epochs"][network]
    how = PAPERS_RETRAINING if kind == "as published" else RETRAINING
    retrain = training.recipe(splits, epochs=epochs, seed=seed, progress=False, precision=torch.bfloat16, **how)
    plan, measure = PLANS[network][setting["plan"]], lambda pruned: error(pruned, splits)
    result = paper.prune(model, splits.train, plan, retrain=retrain, measure=measure)
    if seed == 0 and kind == "pruned" and splits.name == "cifar10":
        result.save(checkpoint(network, splits.name, setting["plan"]))
    row = result.record[-1]
    return sizes(model, result.model, splits) | dict(error_before=row["pruned"], error=row["retrained"], epochs=epochs)


def checkpoint(network: str, dataset: str, plan: str) -> Path:
    """Where the pruned and retrained network of a plan lies, for `storage.networks.load`."""
    return CHECKPOINTS / "narrowed" / f"{network}.{dataset}.filters-{plan}.safetensors"


def scratch(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """The shape of a plan from random weights: as many epochs as the baseline had, or as retraining has ('short').

    A random network of the full width is narrowed by the plan, so its first weights are the larger ones of random filters;
    batch norm takes their scale away.
    """
    network = setting["network"]
    epochs = (work["epochs"] if setting["kind"] == "scratch, short" else work["scratch"])[network]
    torch.manual_seed(seed + 1000)
    fresh = models.build(network).to(splits.test.images.device)
    shape = paper.prune(fresh, splits.test, PLANS[network][setting["plan"]]).model
    state = Path("build/experiments") / f"filter-pruning {setting['name']} {seed}.pt"
    fit(
        shape, splits, epochs=epochs, lr=SCRATCH[network], augment="crop-flip", seed=seed, progress=False,
        precision=torch.bfloat16, resume_from=state,
    )  # fmt: skip
    row = sizes(model, shape, splits) | dict(error=error(shape, splits), epochs=epochs)
    state.unlink()
    return row


def scan(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """Sensitivity of every layer (figures 2b and 6), on training images: the test set takes no part in the choice."""
    split = splits.train.take(work["images"], seed)
    curves = paper.sensitivity(model, split, SHARES)
    return dict(
        shares=list(SHARES),
        curves={name: [round(a, 4) for a in curve.tolist()] for name, curve in curves.items()},
        branches=branches(model, split),
    )


@torch.no_grad()
def branches(model: nn.Module, split: Split) -> dict[str, float]:
    """Residual block -> standard deviation of what its branch adds to the shortcut, over images, channels and positions."""
    deviations: dict[str, float] = {}

    def note(block: str, _norm: nn.Module, _inputs: Tensor, output: Tensor) -> None:
        deviations[block] = round(output.std().item(), 4)

    blocks = [name for name, module in model.named_modules() if isinstance(module, models.networks.ResidualBlock)]
    with activations.hooked(model, {f"{block}.norm2": partial(note, block) for block in blocks}):
        model(split.images)
    return deviations


def orders(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """Accuracy when one layer alone is pruned by each criterion, nothing retrained (figures 8 and 9), on training images."""
    split, image = splits.train.take(work["images"], seed), splits.train.images[:1]
    accuracies: dict[str, dict[str, list[float]]] = {}
    for criterion in ORDERS:
        accuracies[criterion] = {}
        for layer in paper.prunable_layers(model, image):
            kept = [chosen(model, splits, {layer: 1 - share}, criterion, work["images"], seed) for share in ORDER_SHARES]
            found = [evaluate(surgery.narrow(model, keep, image), split) for keep in kept]
            accuracies[criterion][layer] = [round(accuracy, 4) for accuracy in found]
    return dict(shares=list(ORDER_SHARES), accuracies=accuracies)


def criterion(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """Half of the filters of every layer by one criterion, then a short retraining (sections 4.2 to 4.4)."""
    plan = dict.fromkeys(paper.prunable_layers(model, splits.test.images[:1]), 0.5)
    kept = chosen(model, splits, plan, setting["criterion"], work["images"], seed)
    narrow = surgery.narrow(model, kept, splits.test.images[:1])
    before = error(narrow, splits)
    fit(narrow, splits, epochs=work["short"], seed=seed, progress=False, precision=torch.bfloat16, **RETRAINING)
    return sizes(model, narrow, splits) | dict(error_before=before, error=error(narrow, splits))


def chosen(
    model: nn.Module, splits: Splits, plan: Mapping[str, float], criterion: str, images: int, seed: int
) -> dict[str, Tensor]:
    """The filters that stay by a criterion of CRITERIA, or of `paper.CRITERIA`; a plan has the share of each layer that stays."""
    example = splits.train.images[:1]
    by_norm = {
        "smallest L1": dict(strategy="independent"),
        "smallest L2": dict(strategy="independent", p=2),
        "greedy L1": dict(strategy="greedy"),
    }
    if criterion in by_norm:
        return paper.select_filters(model, plan, example_input=example, **by_norm[criterion])
    weights = {layer: model.get_submodule(layer).weight for layer in plan}
    if criterion == "random":
        random = torch.Generator().manual_seed(seed)
        scores = {layer: torch.rand(len(weight), generator=random) for layer, weight in weights.items()}
    elif criterion == "largest L1":
        scores = {layer: -paper.filter_norms(weight) for layer, weight in weights.items()}
    else:
        maps = paper.feature_map_scores(model, splits.train.take(images, seed), plan)
        scores = {layer: maps[layer][criterion] for layer in plan}
    return {layer: strongest(scores[layer], share, layer) for layer, share in plan.items()}


def rounds(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """70 % of the filters of every layer, at once or in rounds, with the same number of epochs in all (section 3.4)."""
    epochs = work["rounds"] // setting["rounds"]
    retrain = training.recipe(splits, epochs=epochs, seed=seed, progress=False, precision=torch.bfloat16, **RETRAINING)
    result = paper.prune(
        model, splits.train, 0.3, rounds=setting["rounds"], retrain=retrain, measure=lambda pruned: error(pruned, splits)
    )
    errors = [row["retrained"] for row in result.record]
    return sizes(model, result.model, splits) | dict(errors=errors, error=errors[-1], epochs=work["rounds"])


def error(model: nn.Module, splits: Splits) -> float:
    """Test error in percent."""
    return round(100 * (1 - evaluate(model, splits.test)), 4)


def sizes(model: nn.Module, narrow: nn.Module, splits: Splits) -> dict:
    """MACs and parameters before and after."""
    before, after = (cost.count(network, splits.test.images[:1]) for network in (model, narrow))
    return dict(
        macs=int(before.MACs.sum()), macs_left=int(after.MACs.sum()),
        parameters=int(before.weights.sum()), parameters_left=int(after.weights.sum()),
    )  # fmt: skip


def baseline(network: str, splits: Splits, seed: int) -> nn.Module:
    """The trained network of a seed for the data set in use; the paper's are trained when they are first asked for."""
    return models.pretrained(network, splits.name, seed).to(splits.test.images.device)


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    """'paper / here' for table 1; where the paper has no plan of that name, beside its plan A."""
    table = []
    variants = {"pruned": "", "pruned, long": ", long", "scratch": ", scratch"}
    for (network, plan, kind), group in rows[rows.kind.isin(variants)].groupby(["network", "plan", "kind"], sort=True):
        like = LIKE.get(network, network)
        letter = plan if (like, plan) in PAPER else "A"
        theirs = letter + (" scratch" if kind == "scratch" else "")
        cited, dense = PAPER.get((like, theirs)), PAPER[like, "baseline"]
        table.append(
            {
                "network": f"{network}-{plan}{variants[kind]}",
                "data set": ", ".join(sorted(set(group["data set"]))),
                "paper": f"{like}-{theirs}: {dense[0]:.2f} -> {cited[0]:.2f} %" if cited else "-",
                "MACs less, paper": f"{cited[1]} %" if cited else "-",
                "error, here": f"{group.baseline_error.mean():.2f} -> {group.error.mean():.2f} %",
                "MACs less, here": f"{100 * (1 - group.macs_left / group.macs).mean():.1f} %",
                "parameters less, paper": f"{cited[2]} %" if cited else "-",
                "parameters less, here": f"{100 * (1 - group.parameters_left / group.parameters).mean():.1f} %",
                "epochs": ", ".join(str(int(n)) for n in sorted(set(group.epochs))),
                "seeds": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    lines = []
    for network, kind in (("vgg-small", "pruned, long"), ("resnet-20", "pruned")):
        group = rows[(rows.network == network) & (rows.kind == kind) & (rows.plan == "B")]
        if group.empty:
            continue
        like = LIKE[network]
        plan = "B" if (like, "B") in PAPER else "A"
        cited, dense = PAPER[like, plan], PAPER[like, "baseline"]
        lines.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group["data set"]))),
                "counted": "MACs",
                "published": f"{like}: {100 / (100 - cited[1]):.2f}x, {dense[0]:.2f} -> {cited[0]:.2f} % error",
                "rate": (group.macs / group.macs_left).mean(),
                "lost": (group.error - group.baseline_error).mean(),
            }
        )
    return pd.DataFrame(lines)
