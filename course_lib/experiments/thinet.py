"""The runs behind notebook 07: Luo et al., ICCV 2017, on vgg-small and ResNet-20.

A setting's 'kind' says which question it answers: 'criterion' prunes all layers by one criterion at one share of filters and
tunes once at the end, 'half' goes layer by layer to about half the MACs, tuning after each. Both begin with the committed
baseline. What the notebook measures by itself stands below them.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import activations, cost, data, models, surgery
from course_lib.data import Split, Splits
from course_lib.papers import channel_pruning
from course_lib.papers import thinet as paper
from course_lib.papers.filter_pruning import filter_norms
from course_lib.papers.network_trimming import apoz
from course_lib.result import Result
from course_lib.surgery import keeping, readers
from course_lib.training import evaluate, fit, recipe

CRITERIA = ("ThiNet", "ThiNet, not rescaled", "ThiNet, forward", "weight sum", "APoZ", "random")
# Share of filters kept in every layer -> FLOPs left (%) of the paper's nearest point (VGG-16-GAP on CUB-200)
SHARES = {0.8: 66, 0.6: 40, 0.45: 22, 0.3: 10}
# Top-1 (%) there, tuned; the whole network has 71.2. Read off such a plot, origin unsure: (check)
PAPER_CRITERIA = {
    "ThiNet": (70.5, 68.8, 63.4, 52.3),
    "ThiNet, not rescaled": (70.2, 67.6, 63.5, 48.3),
    "weight sum": (68.1, 60.5, 49.2, 34.1),
    "APoZ": (69.1, 66.3, 58.3, 18.5),
    "random": (69.6, 66.7, 58.2, 28.4),
}
# ImageNet top-1 before and after, and FLOPs left (%), of the networks nearest in kind
PAPER_HALF = {"vgg-small": ("VGG-16", 68.34, 69.80, 31), "resnet-20": ("ResNet-50 (check)", 72.88, 71.01, 44)}
HALF = {"vgg-small": 0.7, "resnet-20": 0.5}  # share of filters that leaves about half the MACs
TUNING = dict(lr=0.02, augment="crop-flip", precision=torch.bfloat16, progress=False)


def budget(scale: str) -> dict:
    """How much work at a scale: images a class for the choice; of 'criterion' training images to tune on and epochs; of 'half'
    epochs after each layer and at the end, and test images for the record after each."""
    return {
        "smoke": dict(per_class=2, tune=256, epochs=1, each=0.05, final=1, record=200),
        "lesson": dict(per_class=20, tune=20_000, epochs=1, each=0.4, final=2, record=2_000),
        "paper": dict(per_class=100, tune=50_000, epochs=15, each=1, final=12, record=10_000),
    }[scale]


def grid(scale: str) -> list[dict]:
    """All settings; smoke scale keeps vgg-small at one share."""
    shares = (0.6,) if scale == "smoke" else tuple(SHARES)
    settings = [dict(kind="criterion", network="vgg-small", criterion=c, share=s) for s in shares for c in CRITERIA]
    settings.append(dict(kind="half", network="vgg-small"))
    if scale != "smoke":
        both = ("ThiNet", "ThiNet, forward")
        settings += [dict(kind="criterion", network="resnet-20", criterion=c, share=s) for s in (0.5, 0.3) for c in both]
        settings.append(dict(kind="half", network="resnet-20"))
    return [dict(name=" ".join(str(value) for value in setting.values()), **setting) for setting in settings]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """One row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    kinds = {"criterion": by_criterion, "half": half}
    if setting["kind"] not in kinds:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(kinds)}")
    splits = data.load("cifar10", device=device, scale=scale)
    model = models.pretrained(setting["network"], splits.name, seed).to(splits.test.images.device)
    figures = kinds[setting["kind"]](setting, model, splits, budget(scale), seed)
    accuracy = models.checkpoint_facts(setting["network"], splits.name, seed)["accuracy"]  # measuring it again would take as long
    return {"data set": splits.name, "baseline": accuracy} | figures


def by_criterion(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """All layers pruned by one criterion, one after another without tuning; accuracy then, and after tuning once."""
    pruned = prune_all(model, splits, setting["criterion"], setting["share"], work["per_class"], seed)
    accuracy = evaluate(pruned, splits.test)
    few = dataclasses.replace(splits, train=splits.train.take(work["tune"], seed))
    fit(pruned, few, epochs=work["epochs"], schedule="linear", seed=seed, **TUNING)
    return dict(pruned=accuracy, tuned=evaluate(pruned, splits.test), **sizes(model, pruned, splits.test))


def half(setting: dict, model: nn.Module, splits: Splits, work: Mapping, seed: int) -> dict:
    """The paper's schedule to about half the MACs; the record of its steps on fewer test images, the end on all."""
    few = dataclasses.replace(splits, test=splits.test.take(work["record"]))
    pruned = prune_and_tune(model, few, HALF[setting["network"]], work, seed)
    steps = [{"tuned" if column == "retrained" else column: value for column, value in row.items()} for row in pruned.record]
    accuracy = evaluate(pruned.model, splits.test)
    return dict(tuned=accuracy, start=evaluate(model, few.test), steps=steps, **sizes(model, pruned.model, splits.test))


def prune_and_tune(model: nn.Module, splits: Splits, share: float, work: Mapping, seed: int, **training) -> Result:
    """Return the network after the paper's schedule, each layer with one reader at a share of its filters.

    Args:
        model: a trained network.
        splits: tuned on `splits.train`; the record's accuracies are of `splits.test`.
        share: of the filters that stay.
        work: images of each class, and epochs after each layer and at the end, as in `budget`.
        seed: of samples and tuning.
        training: further arguments of `course_lib.training.fit`.
    """
    how = TUNING | dict(seed=seed) | training
    return paper.prune(
        model,
        splits.train,
        share,
        per_class=work["per_class"],
        retrain=recipe(splits, epochs=work["each"], schedule="constant", **how),
        finish=recipe(splits, epochs=work["final"], schedule="linear", **how),
        measure=lambda network: evaluate(network, splits.test),
        seed=seed,
    )


def sizes(model: nn.Module, pruned: nn.Module, split: Split) -> dict[str, int]:
    """MACs and parameters before and after."""
    macs = [int(cost.count(network, split.images[:1]).MACs.sum()) for network in (model, pruned)]
    weights = [sum(p.numel() for p in network.parameters()) for network in (model, pruned)]
    return dict(MACs_before=macs[0], MACs=macs[1], parameters_before=weights[0], parameters=weights[1])


def keep_counts(model: nn.Module, share: float, example_input: Tensor) -> dict[str, int]:
    """Return how many filters a share of them is, for every layer with one reader."""
    layers = readers.layers_with_one_reader(model, example_input)
    return {name: keeping.count(share, len(model.get_submodule(name).weight), name) for name in layers}


def prune_all(model: nn.Module, splits: Splits, criterion: str, share: float, per_class: int, seed: int) -> nn.Module:
    """Return the network with every layer that has one reader pruned by a criterion to a share of its filters, untuned."""
    images = paper.sample_images(splits.train, per_class, seed)
    for layer, keep in keep_counts(model, share, images[:1]).items():
        model = prune_by(criterion)(model, layer, keep, images, seed=seed)
    return model


def prune_by(criterion: str) -> Callable[..., nn.Module]:
    """Return a criterion's rule, as `paper.prune` takes it for `prune_layer`. The rivals are not rescaled, as in the paper."""
    if criterion == "ThiNet":
        return paper.prune_layer
    if criterion == "ThiNet, forward":
        return functools.partial(paper.prune_layer, choose=paper.matching_pursuit)

    def prune(model: nn.Module, layer: str, keep: int, images: Tensor, *, seed: int = 0) -> nn.Module:
        return surgery.keep_channels(model, layer, kept_by(criterion, model, layer, keep, images, seed=seed), images[:1])

    return prune


def kept_by(criterion: str, model: nn.Module, layer: str, keep: int, images: Tensor, *, seed: int = 0) -> Tensor:
    """(keep,) filters of a layer that a criterion of CRITERIA keeps, ascending. Raises ValueError for an unknown one."""
    if criterion not in CRITERIA:
        raise ValueError(f"criterion is {criterion!r}; known are {', '.join(map(repr, CRITERIA))}")
    weight = model.get_submodule(layer).weight
    if criterion.startswith("ThiNet"):
        contributions = paper.channel_contributions(model, layer, images, seed=seed)
        choose = paper.matching_pursuit if criterion == "ThiNet, forward" else paper.channels_to_keep
        return choose(contributions, keep)
    scores = {
        "weight sum": lambda: filter_norms(weight),
        "APoZ": lambda: -apoz(model, Split(images, images.new_zeros(len(images))), [layer])[layer],  # zero most often: out
        "random": lambda: torch.rand(len(weight), generator=torch.Generator().manual_seed(seed)),
    }[criterion]()
    return scores.topk(keep).indices.sort().values


def lost(contributions: Tensor, kept: Tensor, scales: Tensor | float = 1.0) -> float:
    """Squared error of the next layer's output with these channels alone, over its square; in [0, 1] with the best scales."""
    contributions = contributions.double()
    targets = contributions.sum(1)
    return ((targets - (contributions[:, kept] * scales).sum(1)).square().sum() / targets.square().sum()).item()


def exhaustive(contributions: Tensor, keep: int, refitted: bool) -> Tensor:
    """The best of all sets of `keep` channels, each channel as it is or times its least-squares factor."""
    contributions = contributions.double()
    gram = contributions.T @ contributions
    sets = torch.tensor(list(itertools.combinations(range(len(gram)), keep)), device=gram.device)  # (sets, keep)
    inside, products = gram[sets[:, :, None], sets[:, None, :]], gram.sum(1)[sets][:, :, None]
    scales = torch.linalg.pinv(inside, hermitian=True) @ products if refitted else torch.ones_like(products)
    losses = (scales.mT @ inside @ scales - 2 * scales.mT @ products).flatten()  # less the square of the output
    return sets[losses.argmin()]


def loss_ratios(contributions: Tensor, channels: int, keep: int, problems: int, seed: int = 0) -> pd.DataFrame:
    """Small problems of some channels drawn from a layer's: the losses of both choices over the least possible, a row each."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for _ in range(problems):
        x = contributions[:, torch.randperm(contributions.shape[1], generator=generator)[:channels]].double()
        removal, forward = paper.channels_to_keep(x, keep), paper.matching_pursuit(x, keep)
        best = lost(x, exhaustive(x, keep, refitted=False))
        refitted = {name: lost(x, kept, paper.rescale(x[:, kept], x.sum(1))) for name, kept in
                    dict(best=exhaustive(x, keep, refitted=True), removal=removal, forward=forward).items()}  # fmt: skip
        ratios = {name: refitted[name] / refitted["best"] for name in ("removal", "forward")}
        rows.append({"removal": lost(x, removal) / best} | {f"{name}, refitted": ratio for name, ratio in ratios.items()})
    return pd.DataFrame(rows)


def losses_alone(model: nn.Module, keep: Mapping[str, int], images: Tensor, unseen: Tensor, seed: int = 0) -> dict[str, float]:
    """Return the share of the next layer's output that each layer loses, pruned by ThiNet alone to so many filters; the
    choice and the scales come from `images`, the loss from `unseen`."""
    losses = {}
    for layer, number in keep.items():
        few, others = (paper.channel_contributions(model, layer, x, seed=seed) for x in (images, unseen))
        kept = paper.channels_to_keep(few, number)
        losses[layer] = lost(others, kept, paper.rescale(few[:, kept], few.sum(1)))
    return losses


def losses_from_few(
    pool: Tensor, held_out: Tensor, keep: int, images: Sequence[int], positions: Sequence[int], seeds: int = 5
) -> pd.DataFrame:
    """Return the loss on other samples of a choice made from few, with its scales: a row per number of images and positions.

    Args:
        pool: (N, P, C), contributions at P positions of N images.
        held_out: (m, C), contributions on other images.
        keep: channels that stay.
        images: numbers of images to draw from the pool, each at most N.
        positions: numbers of positions, each at most P.
        seeds: draws; the mean, least and greatest loss over them are given.
    """
    rows = []
    for count, places in itertools.product(images, positions):
        losses = []
        for seed in range(seeds):
            order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:count].to(pool.device)
            few = pool[order, :places].flatten(0, 1)
            kept = paper.channels_to_keep(few, keep)
            losses.append(lost(held_out, kept, paper.rescale(few[:, kept], few.sum(1))))
        rows.append(dict(images=count, positions=places, mean=sum(losses) / seeds, least=min(losses), greatest=max(losses)))
    return pd.DataFrame(rows)


@torch.no_grad()
def chosen_by_lasso(model: nn.Module, layer: str, keep: int, images: Tensor, *, positions: int = 10, seed: int = 0) -> Tensor:
    """(keep,) filters of a layer that channel pruning keeps, from all filters of the next layer at random positions."""
    name, _ = readers.next_layer(model, layer, images[:1])
    inputs, outputs = activations.watch(model, {name: activations.Sample(images, positions, seed).pair}, images)[name]
    return channel_pruning.select_channels(inputs, model.get_submodule(name).weight.flatten(2), outputs, keep)


def agreement(choices: Mapping[str, Tensor]) -> pd.DataFrame:
    """Share of channels that two choices of equal size have in common, for each pair."""
    sets = {name: set(kept.tolist()) for name, kept in choices.items()}
    return pd.DataFrame({a: {b: len(sets[a] & sets[b]) / len(sets[a]) for b in sets} for a in sets})


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    """'paper / here': half the MACs layer by layer, then the criteria at each share; means over seeds, accuracy in percent."""
    table = []
    for _, group in rows.sort_values("kind", ascending=False).groupby(["kind", "network", "name"], sort=False):
        first = group.iloc[0]
        if first.kind == "half":
            name, before, after, left = PAPER_HALF[first.network]
            how, cited = "ThiNet, layer by layer", f"{name}, ImageNet: {before:.2f} -> {after:.2f} at {left} % FLOPs"
        else:
            how, cited = f"{first.criterion}, {first.share:.0%} of filters", "-"
            if first.network == "vgg-small" and first.criterion in PAPER_CRITERIA:
                place = list(SHARES).index(first.share)
                cited = f"CUB-200: 71.2 -> {PAPER_CRITERIA[first.criterion][place]} at {SHARES[first.share]} % (check)"
        untuned = f"{100 * group.pruned.mean():.2f}" if first.kind == "criterion" else "-"
        tuned = 100 * group.tuned
        table.append(
            {
                "network": first.network,
                "data set": first["data set"],
                "method": how,
                "paper, top-1 (%)": cited,
                "MACs left": f"{group.MACs.sum() / group.MACs_before.sum():.0%}",
                "untuned (%)": untuned,
                "tuned (%)": f"{100 * first.baseline:.2f} -> {tuned.mean():.2f}",
                "spread": f"{tuned.min():.2f}-{tuned.max():.2f}",
                "seeds": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    lines = []
    for network, group in rows[rows.kind == "half"].groupby("network", sort=False):
        like, before, after, left = PAPER_HALF[network]
        lines.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group["data set"]))),
                "counted": "MACs",
                "published": f"{like}: {100 / left:.1f}x, {before:.2f} -> {after:.2f} % top-1",
                "rate": (group.MACs_before / group.MACs).mean(),
                "lost": 100 * (group.baseline - group.tuned).mean(),
            }
        )
    return pd.DataFrame(lines)
