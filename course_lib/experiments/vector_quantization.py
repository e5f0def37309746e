"""The runs behind notebook 01: Gong et al. 2014, on the dense layers of five LeNets of each kind.

Nothing is trained: a run codes dense layers of a trained network and measures it, once for each setting of a method. 'kind' says
which question a run answers: 'method' one method at all its settings, with all dense layers coded and with the last one exact;
'alone' each layer by itself and all together; 'sweep' product quantization of fc1 over segment length, k and axis; 'structure'
fc1 with its weights moved about. Residual quantization clusters the columns of W (axis 0): these outnumber its rows, so the
codebooks weigh least.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import cost, data, models
from course_lib.data import Split, Splits
from course_lib.experiments import rate_and_loss, rows
from course_lib.papers import vector_quantization as paper
from course_lib.storage.codes import WEIGHT_BITS, Quantized
from course_lib.streams import stream
from course_lib.training import evaluate

# What the paper says of ImageNet: rate of the dense layers, points lost (top-5), as its abstract and text give them
PAPER = {
    "product": "16-24x at 1 point",
    "scalar": "8-16x at 0.5 or less",
    "sign": "32x at the order of 10 or less",
    "residual": "worse than product",
    "low rank": "worse than all codes",
}
NETWORKS = ("lenet-300-100", "lenet-5")
ALL, LAST_EXACT = "all coded", "last exact"
# method -> its settings, each the arguments of `coder`
SETTINGS: dict[str, tuple[tuple[int, ...], ...]] = {
    "scalar": tuple((k,) for k in (2, 4, 8, 16, 32)),  # k
    # k, segment length, axis; at axis 1 the last layer has 10 rows to cluster
    "product": tuple((k, 1, 0) for k in (2, 4, 8)) + tuple((k, 2, 0) for k in (4, 8, 16))
    + tuple((k, 4, 0) for k in (4, 8, 16, 32)) + tuple((k, d, 0) for d in (5, 10) for k in (8, 16))
    + ((4, 1, 1), (4, 2, 1), (8, 2, 1), (8, 4, 1)),
    # k, stages
    "residual": tuple((4, t) for t in (16, 12, 9, 8, 6)) + tuple((8, t) for t in (16, 12, 9, 8, 6, 4, 3))
    + tuple((16, t) for t in (8, 6, 4, 3, 2)) + tuple((32, t) for t in (6, 4, 3, 2)),
    "low rank": tuple((rate,) for rate in (2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 24, 32)),  # the least rate of a layer
    "scaled sign": ((),),
    "sign": ((),),
}  # fmt: skip
ALONE = {"scalar": (4,), "product": (8, 4, 0), "residual": (8, 4), "low rank": (4,)}
CENTRES = (4, 8, 16, 32)  # k of the sweep
LENGTHS = {0: (1, 2, 3, 4, 5, 6, 10, 20), 1: (1, 2, 4, 7, 14)}  # axis -> segment lengths of the sweep
STRUCTURE = {"scalar": (4,), "product": (8, 4, 1), "residual": (8, 6), "low rank": (16,)}
SEGMENT = 4  # weights that stay together in the layout 'segments exchanged': the segments of STRUCTURE's product quantization


class Trained(NamedTuple):
    """A trained network, and its part from the first dense layer on with what that reads: what lies before stays exact."""

    model: nn.Sequential
    splits: Splits
    tail: nn.Sequential
    features: Splits  # what `tail` reads, of the validation and the test images
    draws: int  # seed of the k-means starts


def grid(scale: str) -> list[dict]:
    """Return all settings; smoke scale keeps the small network."""
    networks = NETWORKS[:1] if scale == "smoke" else NETWORKS
    methods = [dict(kind="method", network=network, method=method) for network in networks for method in SETTINGS]
    alone = [dict(kind="alone", network=network) for network in networks]
    sweeps = [
        dict(kind="sweep", network="lenet-300-100", method="product", axis=axis, length=length)
        for axis, lengths in LENGTHS.items()
        for length in lengths
    ]
    settings = [*methods, *alone, *sweeps, dict(kind="structure", network="lenet-300-100")]
    return [dict(name=" ".join(str(value) for value in setting.values()), **setting) for setting in settings]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    return KINDS[setting["kind"]](setting, seed=seed, scale=scale, device=device)


def method(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return a row of one method at all its settings (the paper's comparison of all methods)."""
    trained = load(setting["network"], seed, scale, device)
    points = []
    for arguments in SETTINGS[setting["method"]]:
        layers = coded(trained.model, coder(setting["method"], *arguments, seed=trained.draws))
        but_last = {name: layers[name] for name in list(layers)[:-1]}
        for which, chosen in ((ALL, layers), (LAST_EXACT, but_last)):
            points.append(point(trained, chosen, layers=which, arguments=list(arguments)))
    return row(trained, points)


def alone(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return a row with one layer coded and the others exact, and with all coded, by several methods at one setting each."""
    trained, points = load(setting["network"], seed, scale, device), []
    for method, arguments in ALONE.items():
        layers = coded(trained.model, coder(method, *arguments, seed=trained.draws))
        for which, chosen in ({name: {name: layer} for name, layer in layers.items()} | {ALL: layers}).items():
            points.append(point(trained, chosen, method=method, layers=which, arguments=list(arguments)))
    return row(trained, points)


def sweep(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return a row of product quantization of fc1 alone, one segment length, several k; its rates are those of fc1."""
    trained, points = load(setting["network"], seed, scale, device), []
    for k in CENTRES:
        layer = product(trained.model.fc1.weight, k, setting["length"], axis=setting["axis"], seed=trained.draws)
        found = point(trained, dict(fc1=layer), layers="fc1", arguments=[k, setting["length"], setting["axis"]])
        bare = WEIGHT_BITS * layer.shape.numel() / (layer.codes.numel() * layer.code_bits)
        points.append(found | dict(rate=round(layer.compression_rate, 4), rate_without_codebooks=round(bare, 4)))
    return row(trained, points)


def structure(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return a row of fc1 coded with its weights in several orders; they are put back where they were before it computes."""
    trained = load(setting["network"], seed, scale, device)
    weight, points = trained.model.fc1.weight.detach(), []
    for method, arguments in STRUCTURE.items():
        code = coder(method, *arguments, seed=trained.draws)
        for layout, order in layouts(*weight.shape, stream(seed, "layouts")).items():
            order = order.to(weight.device)
            layer, tail = code(weight.flatten()[order].view_as(weight)), copy.deepcopy(trained.tail)
            tail.fc1.weight.data.copy_(layer.decode().flatten()[order.argsort()].view_as(weight))
            error = ((tail.fc1.weight - weight).square().sum() / weight.square().sum()).item()
            facts = dict(method=method, layers="fc1", arguments=list(arguments), layout=layout, error=round(error, 5))
            points.append(point(trained, dict(fc1=layer), tail=tail, **facts))
    return row(trained, points)


KINDS = {"method": method, "alone": alone, "sweep": sweep, "structure": structure}


def load(network: str, seed: int, scale: str, device: str) -> Trained:
    """Return a trained network; `seed` says which."""
    splits = data.load("mnist", device=device, scale=scale)
    model = models.pretrained(network, splits.name, seed).to(splits.test.images.device)
    tail, test = dense_part(model, splits.test)
    validation = dense_part(model, splits.validation)[1]
    features = Splits(validation, validation, test, splits.name, splits.requested)  # nothing is trained: train is not read
    return Trained(model, splits, tail, features, stream(seed, "k-means"))


def row(trained: Trained, points: list[dict]) -> dict[str, Any]:
    """Return the points with what they share; a decoded network has the shape of the trained one, so it is timed once."""
    splits, features = trained.splits, trained.features
    counts = cost.count(trained.model, splits.test.images[:1])
    return (
        dict(dataset=splits.name, epochs=0, batch=0, lr=None, precision="float32", removed=None)
        | rows.baseline(trained.tail, features)
        | dict(baseline_validation=rows.percent(trained.tail, features.validation))
        | dict(parameters=int(counts.weights.sum()), macs=int(counts.MACs.sum()), dense_bytes=rows.file_bytes(trained.model))
        | rows.latencies(trained.model, splits)
        | dict(points=points)
    )


def point(trained: Trained, codes: Mapping[str, Quantized], *, tail: nn.Module | None = None, **facts: Any) -> dict[str, Any]:
    """Return the figures of one network with coded layers: rate of all dense layers, accuracies, non-zeros, bytes of its file.

    Args:
        trained: what was coded.
        codes: its coded layers by name; the others are exact.
        tail: computes with the codes; default the decoded tail.
        facts: told beside the figures.
    """
    model, tail = paper.decoded(trained.model, codes), tail or paper.decoded(trained.tail, codes)
    return facts | dict(
        rate=round(compression_rate(trained.model, codes), 4),
        accuracy=rows.percent(tail, trained.features.test),
        validation=rows.percent(tail, trained.features.validation),
        nonzeros=sum(int(parameter.count_nonzero()) for parameter in model.parameters()),
        bytes=rows.file_bytes(model, {f"{name}.weight": layer for name, layer in codes.items()}),
    )


def layouts(m: int, n: int, seed: int) -> dict[str, Tensor]:
    """Return orders of the weights of an m x n matrix: name -> for each place the flat index of the weight that moves there.

    'columns moved' moves whole columns, so rows stay as like each other as they were, and no weight has its neighbour.
    'segments exchanged' hands segments of a row to other rows, another exchange in each block of columns: neighbours stay, whole
    rows are gone. The other shuffles are of each row within itself, of each column within itself, and of all weights.
    """
    draw = torch.Generator().manual_seed(seed)
    places = torch.arange(m * n).view(m, n)
    row_of = torch.rand(m, n // SEGMENT, generator=draw).argsort(0).repeat_interleave(SEGMENT, 1)
    orders = {
        "trained": places,
        "columns moved": places[:, torch.randperm(n, generator=draw)],
        "segments exchanged": places.gather(0, row_of),
        "shuffled in rows": places.gather(1, torch.rand(m, n, generator=draw).argsort(1)),
        "shuffled in columns": places.gather(0, torch.rand(m, n, generator=draw).argsort(0)),
        "shuffled": torch.randperm(m * n, generator=draw),
    }
    return {name: order.flatten() for name, order in orders.items()}


def coder(method: str, *arguments: int, seed: int = 0) -> paper.Code:
    """Return the function that codes one weight by a method of SETTINGS."""
    return {
        "sign": lambda w: paper.binarize(w),
        "scaled sign": lambda w: paper.binarize(w, scaled=True),
        "scalar": lambda w: paper.scalar_kmeans(w, *arguments),
        "product": lambda w: product(w, *arguments, seed=seed),
        "residual": lambda w: paper.residual_quantize(w, *arguments, axis=0, seed=seed),
        "low rank": lambda w: paper.low_rank(w, rank_for(w, *arguments)),
    }[method]


def product(weight: Tensor, k: int, length: int, axis: int = 0, *, seed: int = 0) -> paper.ProductQuantized:
    """Return codes by the length of a segment, or the nearest below it that divides the axis, as a last layer needs."""
    width = weight.flatten(1).shape[axis]
    length = max(d for d in range(1, length + 1) if width % d == 0)
    return paper.product_quantize(weight, k, width // length, axis=axis, seed=seed)


def rank_for(weight: Tensor, rate: float) -> int:
    """Return the highest rank whose factors are at least `rate` times smaller than the weight; 1 where there is none."""
    m, n = weight.flatten(1).shape
    return max(1, math.floor(m * n / rate / (m + n + 1)))


def dense_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the dense layers by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def coded(model: nn.Module, code: paper.Code, names: Iterable[str] | None = None) -> dict[str, Quantized]:
    """Return dense layers coded one by one; all, or those of `names`."""
    layers = dense_layers(model)
    return {name: code(layers[name].weight) for name in (layers if names is None else names)}


def compression_rate(model: nn.Module, layers: Mapping[str, Quantized]) -> float:
    """Return how many times smaller all dense layers together are, 32 bits per weight in those that `layers` leaves exact."""
    sizes = {name: WEIGHT_BITS * layer.weight.numel() for name, layer in dense_layers(model).items()}
    return sum(sizes.values()) / sum(layers[name].bits if name in layers else size for name, size in sizes.items())


def measure(model: nn.Module, split: Split, layers: Mapping[str, Quantized]) -> dict[str, float]:
    """Return the points of accuracy lost, and the compression rate of all dense layers together."""
    loss = 100 * (evaluate(model, split) - evaluate(paper.decoded(model, layers), split))
    return dict(loss=round(loss, 4), rate=round(compression_rate(model, layers), 4))


@torch.no_grad()
def dense_part(model: nn.Sequential, split: Split) -> tuple[nn.Sequential, Split]:
    """Return the network from its first dense layer on, and its input there: what lies before is exact, once is enough."""
    first = next(i for i, layer in enumerate(model) if isinstance(layer, nn.Linear))
    features = torch.cat([model[:first](images) for images in split.images.split(1000)])
    return model[first:], Split(features, split.labels)


def paper_table(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return 'paper / here': the highest rate of the dense layers at no more than one point lost, chosen on validation."""
    tables = [rate_and_loss.table(recorded, layers) for layers in (LAST_EXACT, ALL)]
    here = tables[0].merge(tables[1], on=["network", "data set", "networks", "method"], suffixes=(f", {LAST_EXACT}", f", {ALL}"))
    here.insert(4, "paper, ImageNet", here.method.map(PAPER).fillna("-"))
    return here


def headline(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    best = rate_and_loss.best_rates(rate_and_loss.settings(recorded[recorded.method == "product"], ALL))
    best = best.rename(columns={"dataset": "data set"}).assign(counted="bits of the dense layers", published=PAPER["product"])
    return best[["network", "data set", "counted", "published", "rate", "lost", "low", "high", "networks"]]
