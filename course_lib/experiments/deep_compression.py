"""The runs behind notebook 05: Han et al., ICLR 2016, on the LeNets.

A setting's 'kind' says which question a row answers: 'lr' and 'centroid lr' which learning rates the others take, 'start' what
a pruned network is, 'stages' the paper's tables, 'bits' accuracy against the bits of a code (figures 7 and 8), 'SVD' a rival.
Figure 6, accuracy against the size of the file, is drawn from 'start', 'bits' and 'SVD': each of its networks is trained for
equally many epochs after its pretraining.
"""

from collections.abc import Mapping

import pandas as pd
from torch import nn

from course_lib import data, models, storage
from course_lib.data import Splits
from course_lib.experiments import rows as figures
from course_lib.experiments.compressed_files import dense_bytes, described, file_size, raw
from course_lib.experiments.first_stage import only_pruned
from course_lib.experiments.pruned_starts import (
    LEARNING_RATE,
    RATES,
    WORK,
    factorized,
    kept,
    polish,
    prune,
    pruned_start,
    removed_at_once,
    start_facts,
)
from course_lib.masks import weight_layers
from course_lib.papers import deep_compression as paper
from course_lib.streams import stream
from course_lib.training import evaluate, fastest_precision, fit

# Error in percent before and after, kilobytes, compression rate after all three stages (table 1)
PAPER = {
    "lenet-300-100": dict(baseline=1.64, error=1.58, kilobytes=27, rate=40),
    "lenet-5": dict(baseline=0.80, error=0.74, kilobytes=44, rate=39),
}
# The paper's own setting, and one of ours that aims at a smaller file
SETTINGS = {
    "lenet-300-100": {
        "paper": dict(plan="paper", bits=6, index_bits=5),
        "small": dict(plan="40x", bits=dict(dense=3, bias=3), index_bits=8),
    },
    "lenet-5": {
        "paper": dict(plan="paper", bits=dict(conv=8, dense=5), index_bits=5),
        "small": dict(plan="60x", bits=dict(conv=4, dense=3, bias=3), index_bits=8),
    },
}
PLANS = {"lenet-300-100": ("dense", "4x", "8x", "paper", "20x", "40x", "80x"), "lenet-5": ("dense", "paper", "60x")}
FACTORS = (3.0, 1.0, 0.3, 0.1, 0.03)  # to choose the centroids' learning rate from
CENTROID_FACTOR = 3.0
CENTROIDS = dict(weight_decay=0.0, augment="shift", schedule="linear", progress=False)
WIDTHS = (2, 3, 4, 5, 6, 8)  # bits of a code, of the curves
RANKS = (4, 8, 16)  # rates of the SVD
FACTOR_RATES = RATES[1:4]  # learning rates of its factors, to choose from


def budget(scale: str) -> dict:
    """Return how much work a scale does: rounds of pruning and epochs at their end by network, epochs of the centroids.

    At smoke scale the pruned networks are those of lesson scale: its data set is small.
    """
    more = {network: dict(rounds=20, final=40) for network in WORK}
    return {
        "smoke": dict(centroids=1, pruning=WORK),
        "lesson": dict(centroids=2, pruning=WORK),
        "paper": dict(centroids=20, pruning=more),
    }[scale]


def grid(scale: str) -> list[dict]:
    """Return all settings; smoke scale keeps the small network and few of each kind."""
    networks = list(SETTINGS)[: 1 if scale == "smoke" else 2]
    rates, factors, plans, ranks = RATES, [("paper", 2), ("paper", 4), ("dense", 2), ("dense", 4)], PLANS, RANKS
    if scale == "smoke":
        rates, factors, plans, ranks = RATES[1:2], factors[:1], {"lenet-300-100": ("paper", "40x")}, RANKS[-1:]
    two = dict(seeds=2)  # what is chosen by two networks
    settings = [dict(kind="lr", network=network, lr=lr) | two for network in networks for lr in rates]
    settings += [dict(kind="start", network=network, plan=plan) for network in networks for plan in plans[network]]
    settings += [dict(kind="centroid lr", network="lenet-300-100", plan=plan, bits=bits) | two for plan, bits in factors]
    settings += [dict(kind="centroid lr", network="lenet-5", plan="paper", bits=4) | two for _ in networks[1:]]
    settings += [dict(kind="stages", network=network, setting=size) for network in networks for size in ("paper", "small")]
    settings += [dict(kind="bits", network="lenet-300-100", plan="paper", start=start) for start in paper.STARTS]
    others = [plan for plan in plans["lenet-300-100"] if plan != "paper"]
    settings += [dict(kind="bits", network="lenet-300-100", plan=plan, start="linear") for plan in others]
    settings += [dict(kind="SVD", network="lenet-300-100", rate=rate) for rate in ranks]
    named = [{key: value for key, value in setting.items() if key != "seeds"} for setting in settings]
    return [dict(name=" ".join(map(str, n.values())), **s) for n, s in zip(named, settings, strict=True)]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    splits = data.load("mnist", device=device, scale=scale)
    work = budget(scale)
    work = dict(centroids=work["centroids"], **work["pruning"][setting["network"]])
    dense = models.pretrained(setting["network"], splits.name, seed).to(splits.test.images.device)
    precision = str(fastest_precision(dense, splits.test.images.device)).removeprefix("torch.")
    shared = dict(dataset=splits.name, precision=precision, batch=128, dense_bytes=dense_bytes(dense))
    shared |= figures.baseline(dense, splits) | figures.latencies(dense, splits)
    return shared | KINDS[setting["kind"]](setting, splits, work, seed)


def at_rate(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """A learning rate's row: 11 of 12 weights of each layer are removed at once, by magnitude, and the rest is retrained."""
    dense = models.pretrained(setting["network"], splits.name, seed).to(splits.test.images.device)
    plan = dict.fromkeys(weight_layers(dense), 11 / 12)
    pruned = prune(dense, splits, plan, pruning(work), seed=seed, lr=setting["lr"], rounds=1)
    outcome = figures.outcome(pruned, splits, removed=removed_at_once(dense, splits, plan), timed=False)
    return dict(method="one shot, 12x", epochs=epochs(work)) | outcome


def at_centroid_rate(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """The rows of a pruned network's centroids, trained at several learning rates."""
    network, bits = setting["network"], setting["bits"]
    pruned = pruned_start(network, splits, setting["plan"], seed, pruning(work))
    quantized = paper.quantize(pruned, bits=bits)
    removed, points = figures.percent(quantized, splits.test), []
    for factor in FACTORS:
        tuned = tune(quantized, splits, bits, work, seed, lr=centroid_rate(quantized, factor))
        outcome = figures.outcome(tuned, splits, removed=removed, timed=False)
        points.append(dict(factor=factor, lr=centroid_rate(quantized, factor)) | outcome)
    return dict(method="centroids trained", epochs=epochs(work, centroids=True), points=points)


def start(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """The rows of the pruned network that others begin with, and of the same trained on while others train their centroids."""
    network, plan = setting["network"], setting["plan"]
    facts = start_facts(network, splits, plan, seed, pruning(work))
    pruned = pruned_start(network, splits, plan, seed, pruning(work))
    longer = polish(pruned, splits, epochs=work["centroids"], seed=seed, lr=LEARNING_RATE[network])
    points = []
    for method, model in (("pruned", pruned), ("pruned, longer", longer)):
        file = only_pruned(model, index_bits=gap_bits(plan)) if plan != "dense" else raw(model)
        about = dict(method=method, epochs=epochs(work, centroids="longer" in method), kept=kept(model))
        points.append(about | figures.outcome(model, splits, removed=facts["removed"], timed=False) | dict(bytes=file_size(file)))
    return dict(lr=LEARNING_RATE[network], points=points)


def stages(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """The rows of the whole pipeline: accuracy after each stage, and bytes of the real file after each."""
    network, how = setting["network"], SETTINGS[setting["network"]][setting["setting"]]
    removed = start_facts(network, splits, how["plan"], seed, pruning(work))["removed"]
    pruned = pruned_start(network, splits, how["plan"], seed, pruning(work))
    quantized = paper.quantize(pruned, bits=how["bits"])
    tuned, rate = tune(quantized, splits, how["bits"], work, seed), centroid_rate(quantized)
    files = {coder: paper.compress(tuned, **settings(how, coder)) for coder in storage.CODERS}
    before, after = paper.compress(quantized, **settings(how, "fixed")), dict(lr=rate, epochs=epochs(work, centroids=True))
    arms = [
        ("P", pruned, only_pruned(pruned, index_bits=how["index_bits"]), {}),
        ("P+Q, untrained", quantized, before, {}),
        ("P+Q", tuned, files["fixed"], after),
        ("P+Q+H", tuned, files["huffman"], after | described(files)),
        ("P+Q+ANS", tuned, files["ans"], after),
    ]
    points = []
    for method, model, file, more in arms:
        about = dict(method=method, epochs=epochs(work), lr=LEARNING_RATE[network]) | more
        points.append(about | figures.outcome(model, splits, removed=removed, timed=False) | dict(bytes=file_size(file)))
    return dict(points=points)


def by_bits(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """The rows of a network with codes of 2 to 8 bits in all layers, before and after its centroids are trained."""
    network, plan = setting["network"], setting["plan"]
    pruned = pruned_start(network, splits, plan, seed, pruning(work))
    removed, points = start_facts(network, splits, plan, seed, pruning(work))["removed"], []
    for bits in WIDTHS:
        quantized = paper.quantize(pruned, bits=bits, method=setting["start"], seed=stream(seed, "draw", bits))
        tuned = tune(quantized, splits, bits, work, seed)
        arms = [("untrained", quantized, LEARNING_RATE[network]), ("trained", tuned, centroid_rate(quantized))]
        for method, model, lr in arms:
            file = paper.compress(model, bits=bits, index_bits=0 if plan == "dense" else gap_bits(plan), coder="fixed")
            about = dict(bits=bits, method=method, lr=lr, epochs=epochs(work, centroids=method == "trained"))
            outcome = figures.outcome(model, splits, removed=removed, timed=False)
            points.append(about | outcome | dict(bytes=file_size(file)))
    return dict(points=points)


def by_rank(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """The rows of a network whose hidden layers are factorized by an SVD, both factors then trained as long as the others.

    A product of two layers diverges at the rate of the others, so this rival is trained at several, and chooses on validation.
    """
    start = factorized(models.pretrained(setting["network"], splits.name, seed).to(splits.test.images.device), setting["rate"])
    removed, nothing, points = figures.percent(start, splits.test), dict.fromkeys(weight_layers(start), 0.0), []
    for lr in FACTOR_RATES:
        trained = prune(start, splits, nothing, pruning(work), seed=seed, lr=lr, rounds=1)
        trained = polish(trained, splits, epochs=work["centroids"], seed=seed, lr=lr)
        outcome = figures.outcome(trained, splits, removed=removed, timed=False)
        points.append(dict(lr=lr) | outcome | dict(bytes=file_size(raw(trained))))
    return dict(method="SVD", epochs=epochs(work, centroids=True), points=points) | figures.latencies(start, splits)


KINDS = {"lr": at_rate, "start": start, "centroid lr": at_centroid_rate, "stages": stages, "bits": by_bits, "SVD": by_rank}


def pruning(work: Mapping[str, int]) -> dict[str, int]:
    """Return the part of a budget that is spent on pruning."""
    return dict(rounds=work["rounds"], final=work["final"])


def epochs(work: Mapping[str, int], *, centroids: bool = False) -> int:
    """Return the epochs of a network after its pretraining: those of pruning, and of the centroids if they are trained."""
    return work["rounds"] + work["final"] + (work["centroids"] if centroids else 0)


def tune(model: nn.Module, splits: Splits, bits: paper.Bits, work: Mapping[str, int], seed: int, **more) -> nn.Module:
    """Return the network with its centroids trained, with the budget of a scale; `more` are other arguments of `fit`."""
    how = CENTROIDS | dict(epochs=work["centroids"], seed=stream(seed, "centroids")) | more
    how = how if "lr" in how else how | dict(lr=centroid_rate(model))
    return paper.finetune_centroids(model, lambda network: fit(network, splits, **how), bits=bits)


def centroid_rate(model: nn.Module, factor: float | None = None) -> float:
    """Return the learning rate of centroids: a rate for weights over the mean number of weights that share one.

    Moving a centroid moves all n weights that share it. The curvature of the loss along that direction is up to n times the
    largest for the weights themselves (u'Hu <= n * largest eigenvalue, for a vector u of n ones), so the largest step at which
    descent is stable is up to n times smaller. The layer with the most weights to a centroid decides.
    """
    weights = [layer.weight.detach() for layer in weight_layers(model).values()]
    sharing = max(int(w.count_nonzero()) / max(1, len(w[w != 0].unique())) for w in weights)
    return (CENTROID_FACTOR if factor is None else factor) / max(1.0, sharing)


def gap_bits(plan: str) -> int:
    """Return the bits of a gap: the paper's five, and eight where fewer than a twentieth of the weights are left."""
    return 8 if plan in ("20x", "40x", "60x", "80x") else 5


def settings(how: Mapping, coder: str) -> dict:
    """Return the arguments of `compress` in an entry of SETTINGS; biases that have codes have no gaps."""
    return dict(bits=how["bits"], index_bits=dict(dense=how["index_bits"], conv=how["index_bits"]), coder=coder)


def error(model: nn.Module, split: data.Split) -> float:
    """Return the error in percent."""
    return round(100 * (1 - evaluate(model, split)), 4)


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return 'paper / here': error and size after all three stages, means over the networks."""
    table = []
    for (network, setting), group in _files(rows).groupby(["network", "setting"], sort=True):
        cited, ours = PAPER[network], setting != "paper"
        errors = 100 - group.accuracy
        table.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group.dataset))),
                "setting": setting,
                "rate, paper": "-" if ours else f"{cited['rate']}x",
                "error, paper": "-" if ours else f"{cited['baseline']:.2f} -> {cited['error']:.2f} %",
                "rate, here": f"{(group.dense_bytes / group.bytes).mean():.1f}x",
                "file, here": f"{group.bytes.mean() / 1000:.1f} kB",
                "error, here": f"{100 - group.baseline.mean():.2f} -> {errors.mean():.2f} %",
                "range": f"{errors.min():.2f}-{errors.max():.2f} %",
                "epochs": ", ".join(f"{n:g}" for n in sorted(set(group.epochs))),
                "networks": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    lines = []
    for network, cited in PAPER.items():
        group = _files(rows).query("network == @network and setting == 'paper'")
        if group.empty:
            continue
        lines.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group.dataset))),
                "counted": "bytes of the file",
                "published": f"{cited['rate']}x, {cited['baseline']:.2f} -> {cited['error']:.2f} % error",
                "rate": (group.dense_bytes / group.bytes).mean(),
            }
            | figures.lost(group)
        )
    return pd.DataFrame(lines)


def _files(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of whole pipelines, Huffman's code and all."""
    return rows[(rows.kind == "stages") & (rows.method == "P+Q+H")]
