"""The runs behind notebook 04: Li et al. 2017, on vgg-small and ResNet-20 with CIFAR-10.

A setting's 'kind' says which question it answers: 'scan' how sensitive each layer is; 'orders' which filters of one layer should
be removed first; 'strategies' whether the greedy choice is better where many layers are pruned; 'as published' what the paper's
plans cost with the paper's own retraining. Only the last one trains: what criteria are worth after retraining, at equal widths
and epochs, stands in the rows of the comparison. A seed is an independently trained network. At paper scale the networks are the
paper's, VGG-16 and ResNet-56, which are trained first; that needs a GPU. What has been recorded of it is on VGG-16.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import activations, data, models, surgery, training
from course_lib.data import Split, Splits
from course_lib.experiments import rows
from course_lib.experiments.equal_budgets import UNTRAINED, macs
from course_lib.experiments.filter_plans import PLANS
from course_lib.experiments.filter_tables import headline, paper_table
from course_lib.papers import filter_pruning as paper
from course_lib.streams import stream
from course_lib.surgery.keeping import strongest

__all__ = ["budget", "grid", "headline", "paper_table", "run"]

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the filters of one layer that are pruned, in the scan
ORDER_SHARES = (0.3, 0.5, 0.7, 0.9)  # likewise, by each order
EVERY_LAYER = (0.1, 0.3, 0.5)  # of the filters of every layer
ORDERS = ("smallest L1", "smallest L2", "random", "largest L1", *paper.CRITERIA)
DRAWS = 3  # of the random order
PAPERS_RETRAINING = dict(lr=0.001, schedule="constant", batch_size=128, augment="crop-flip", progress=False)


def budget(scale: str) -> dict[str, int]:
    """Return how much work a scale does: 'epochs' of retraining, 'images' of accuracies of one layer alone, 'maps' seen by
    the criteria of feature maps."""
    return {
        "smoke": dict(epochs=1, images=200, maps=100),
        "lesson": dict(epochs=20, images=2_000, maps=2_000),
        "paper": dict(epochs=40, images=5_000, maps=50_000),
    }[scale]


def grid(scale: str) -> list[dict]:
    """Return all settings, those without training first; smoke scale keeps the small network."""
    plain, residual = ("vgg-16", "resnet-56") if scale == "paper" else ("vgg-small", "resnet-20")
    networks = (plain,) if scale == "smoke" else (plain, residual)
    settings = [dict(kind="scan", network=network) for network in networks] + [dict(kind="orders", network=plain)]
    settings += [dict(kind="strategies", network=network) for network in networks]
    retrained = networks if scale == "paper" else (plain,)
    settings += [dict(kind="as published", network=network, plan=plan) for network in retrained for plan in PLANS[network]]
    return [dict(name=" ".join(setting.values()), **setting, seeds=3) for setting in settings]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    splits = data.load("cifar10", device=device, scale=scale)
    model = models.pretrained(setting["network"], splits.name, seed, device=device)
    about = dict(dataset=splits.name) | UNTRAINED | rows.baseline(model, splits)
    return about | KINDS[setting["kind"]](setting, model, splits, budget(scale), seed)


def scan(_setting: dict, model: nn.Module, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return the sensitivity of every layer (figures 2b and 6), on validation images: it guides the choice of a plan.

    The row's own figures are those of the whole network. 'flatness' is the mean norm of a layer's filters over the largest
    (figure 2a), 'branches' what each residual branch adds.
    """
    split = splits.validation.take(work["images"], stream(seed, "scan"))
    curves = paper.sensitivity(model, split, SHARES)
    norms = {layer: paper.filter_norms(model.get_submodule(layer).weight) for layer in curves}
    return rows.outcome(model, splits) | dict(
        method="smallest L1", images=work["images"], shares=list(SHARES), whole=rows.percent(model, split),
        curves={layer: [round(100 * accuracy, 4) for accuracy in curve.tolist()] for layer, curve in curves.items()},
        flatness={layer: round((norm.mean() / norm.max()).item(), 4) for layer, norm in norms.items()},
        branches=branches(model, split.images[:500]),
    )  # fmt: skip


@torch.no_grad()
def branches(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return for each residual block the standard deviation of what its branch adds, over images, channels and positions."""
    deviations: dict[str, float] = {}

    def note(block: str, _norm: nn.Module, _inputs: Tensor, output: Tensor) -> None:
        deviations[block] = round(output.std().item(), 4)

    blocks = [name for name, module in model.named_modules() if isinstance(module, models.networks.ResidualBlock)]
    with activations.hooked(model, {f"{block}.norm2": partial(note, block) for block in blocks}):
        model(images)
    return deviations


def orders(_setting: dict, model: nn.Module, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return the accuracy on test images when one layer alone is pruned in each order, nothing retrained (figures 8 and 9).

    The row's own figures are those of the whole network.
    """
    image, split = splits.train.images[:1], splits.test.take(work["images"], stream(seed, "orders"))
    ranked = rankings(model, splits.train.take(work["maps"], stream(seed, "feature maps")), image, seed)

    def accuracy(layer: str, scores: Tensor, share: float) -> float:
        return rows.percent(surgery.narrow(model, {layer: strongest(scores, 1.0 - share, layer)}, image), split)

    found = {
        order: {layer: [accuracy(layer, scores, share) for share in ORDER_SHARES] for layer, scores in of_layer.items()}
        for order, of_layer in ranked.items()
    }
    about = dict(method="one layer alone", images=work["images"], shares=list(ORDER_SHARES), accuracies=found)
    return rows.outcome(model, splits) | about


def rankings(model: nn.Module, images: Split, image: Tensor, seed: int) -> dict[str, dict[str, Tensor]]:
    """Return order -> layer -> a score of each filter, (n,), where the highest stay; 'random' has DRAWS, numbered from 0.

    Args:
        model: a trained network.
        images: training images whose feature maps the criteria of section 4.4 look at.
        image: a batch that the network accepts.
        seed: of the trained network, for the random draws.
    """
    weights = {layer: model.get_submodule(layer).weight for layer in paper.prunable_layers(model, image)}
    maps = paper.feature_map_scores(model, images, weights)
    found = {criterion: {layer: maps[layer][criterion] for layer in weights} for criterion in paper.CRITERIA}
    found["smallest L1"] = {layer: paper.filter_norms(weight) for layer, weight in weights.items()}
    found["smallest L2"] = {layer: paper.filter_norms(weight, 2) for layer, weight in weights.items()}
    found["largest L1"] = {layer: -norms for layer, norms in found["smallest L1"].items()}
    for draw in range(DRAWS):
        random = torch.Generator().manual_seed(stream(seed, "random order", draw))
        found[f"random {draw}"] = {layer: torch.rand(len(weight), generator=random) for layer, weight in weights.items()}
    return found


def strategies(_setting: dict, model: nn.Module, splits: Splits, _work: Mapping[str, int], _seed: int) -> dict:
    """Return the independent and the greedy choice in all layers at once, residual sums included (section 3.3); a point each."""
    points = []
    for share in EVERY_LAYER:
        pruned = {name: paper.prune(model, splits.train, 1.0 - share, strategy=name).model for name in paper.STRATEGIES}
        latencies = rows.latencies(pruned["greedy"], splits)  # both have one shape
        for name, narrower in pruned.items():
            figures = rows.outcome(narrower, splits, timed=False)
            points.append(dict(method=name, share=share) | figures | dict(removed=figures["accuracy"]) | latencies)
    return dict(points=points)


def as_published(setting: dict, model: nn.Module, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Return a row of the paper's table 1: a plan, one cut, and retraining at the paper's constant learning rate."""
    narrower = paper.prune(model, splits.train, PLANS[setting["network"]][setting["plan"]]).model
    removed, epochs = rows.percent(narrower, splits.test), work["epochs"]
    state = Path("build/experiments") / f"filter-pruning {setting['name']} {seed}.pt"
    how = PAPERS_RETRAINING | dict(seed=stream(seed, "retraining"), resume_from=state)
    history = training.fit(narrower, splits, epochs=epochs, **how)
    row = rows.outcome(narrower, splits, removed=removed) | dict(dense_macs=macs(model, splits))
    state.unlink()
    used = dict(epochs=epochs, lr=how["lr"], batch=how["batch_size"], precision=history.precision)
    return row | used | dict(method="smallest L1")


# What a fingerprint follows: only what a kind reads
KINDS: dict[str, Callable[[dict, nn.Module, Splits, Mapping[str, int], int], dict]] = {
    "scan": scan, "orders": orders, "strategies": strategies, "as published": as_published,
}  # fmt: skip
