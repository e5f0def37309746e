"""The runs behind notebook 01: Gong et al. 2014, on the dense layers of the LeNets.

Nothing is trained: a row codes dense layers of a committed baseline and measures the error. A setting's 'kind' says which
question it answers: 'method' one method at all its settings, 'alone' every layer by itself and all together, 'sweep' product
quantization of fc1 over segment length, k and axis. Residual quantization clusters the columns of W (axis 0): these outnumber
its rows, so the codebooks weigh least.
"""

from collections.abc import Iterable, Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from course_lib import data, models
from course_lib.activations import hooked
from course_lib.data import Split
from course_lib.papers import vector_quantization as paper
from course_lib.storage.codes import WEIGHT_BITS, Quantized
from course_lib.training import evaluate

# What the paper says of ImageNet: rate of the dense layers, points lost (top-5), as its abstract and text give them
PAPER = {
    "product": "16-24x at 1 point",
    "scalar": "8-16x at 0.5",
    "sign": "32x at about 10 (check)",
    "residual": "worse than product",
    "low rank": "worse than all codes",
}
NETWORKS = ("lenet-300-100", "lenet-5")
# method -> its settings, each the arguments of `coder`
SETTINGS: dict[str, tuple[tuple[int, ...], ...]] = {
    "scalar": tuple((k,) for k in (2, 4, 8, 16, 32)),  # k
    # k, segment length, axis; at axis 1 the last layer has 10 rows to cluster
    "product": tuple((k, d, 0) for d in (1, 2, 4, 10) for k in (4, 8, 16, 32))
    + tuple((k, d, 1) for d in (1, 2, 4) for k in (4, 8)),
    "residual": tuple((k, t) for k in (4, 8, 16, 32) for t in (1, 2, 3, 4, 6, 8, 12, 16)),  # k, stages
    "low rank": tuple((rate,) for rate in (2, 3, 4, 6, 8, 12, 16, 24)),  # wanted compression rate
    "scaled sign": ((),),
    "sign": ((),),
}
ALONE = {"scalar": (4,), "product": (8, 4, 0), "residual": (8, 4), "low rank": (4,)}
CENTRES = (4, 8, 16, 32)  # k of the sweep
LENGTHS = {0: (1, 2, 4, 10, 20), 1: (1, 2, 4, 7, 14)}  # axis -> segment lengths of the sweep


def grid(scale: str) -> list[dict]:
    """Return all settings; smoke scale keeps the small network."""
    networks = NETWORKS[:1] if scale == "smoke" else NETWORKS
    methods = [
        dict(kind="method", network=network, method=method, layers=layers)
        for network in networks
        for method in SETTINGS
        for layers in ("all", "all but the last")
    ]
    alone = [dict(kind="alone", network=network, method=method) for network in networks for method in ALONE]
    sweeps = [
        dict(kind="sweep", network="lenet-300-100", axis=axis, length=length)
        for axis, lengths in LENGTHS.items()
        for length in lengths
    ]
    settings = methods + alone + sweeps
    return [dict(name=" ".join(str(value) for value in setting.values()), **setting) for setting in settings]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    kinds = {"method": method, "alone": alone, "sweep": sweep}
    if setting["kind"] not in kinds:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(kinds)}")
    splits = data.load("mnist", device=device, scale=scale)
    model = models.pretrained(setting["network"], splits.name).to(splits.test.images.device)
    model, test = dense_part(model, splits.test)
    figures = kinds[setting["kind"]](setting, model, test, seed)
    return {"data set": splits.name, "baseline_error": round(100 * (1 - evaluate(model, test)), 4)} | figures


def method(setting: dict, model: nn.Module, split: Split, seed: int) -> dict:
    """Return accuracy lost and compression rate of all settings of one method (the paper's comparison of all methods)."""
    names = list(dense_layers(model))
    names = names if setting["layers"] == "all" else names[:-1]
    return dict(
        points=[
            dict(arguments=list(a), **measure(model, split, coded(model, coder(setting["method"], *a, seed=seed), names)))
            for a in SETTINGS[setting["method"]]
        ]
    )


def alone(setting: dict, model: nn.Module, split: Split, seed: int) -> dict:
    """Return the figures with one layer coded and the others exact, and with all coded, at the same setting."""
    code = coder(setting["method"], *ALONE[setting["method"]], seed=seed)
    layers = coded(model, code)
    figures = {name: measure(model, split, {name: layer}) for name, layer in layers.items()}
    return dict(layers=figures | {"all": measure(model, split, layers)})


def sweep(setting: dict, model: nn.Module, split: Split, seed: int) -> dict:
    """Return points of product quantization of fc1 alone, one segment length, several k; rates with and without codebooks."""
    points = []
    for k in CENTRES:
        weight = dense_layers(model)["fc1"].weight
        layer = product(weight, k, setting["length"], axis=setting["axis"], seed=seed)
        bare = WEIGHT_BITS * weight.numel() / (layer.codes.numel() * layer.code_bits)
        loss = measure(model, split, dict(fc1=layer))["loss"]
        points.append(dict(k=k, loss=loss, rate=layer.compression_rate, rate_without_codebook=bare))
    return dict(points=points)


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
    """Return the rank whose factors are about `rate` times smaller than the weight, at least 1."""
    m, n = weight.flatten(1).shape
    return max(1, round(m * n / rate / (m + n + 1)))


def dense_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the dense layers by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def coded(model: nn.Module, code: paper.Code, names: Iterable[str] | None = None) -> dict[str, Quantized]:
    """Return dense layers coded one by one; all, or those of `names`."""
    layers = dense_layers(model)
    return {name: code(layers[name].weight) for name in (layers if names is None else names)}


def measure(model: nn.Module, split: Split, layers: Mapping[str, Quantized]) -> dict[str, float]:
    """Return the points of accuracy lost, and the compression rate of all dense layers together, those left exact at 32 bits."""
    sizes = {name: WEIGHT_BITS * layer.weight.numel() for name, layer in dense_layers(model).items()}
    bits = sum(layers[name].bits if name in layers else size for name, size in sizes.items())
    loss = 100 * (evaluate(model, split) - evaluate(paper.decoded(model, layers), split))
    return dict(loss=round(loss, 4), rate=round(sum(sizes.values()) / bits, 4))


@torch.no_grad()
def dense_part(model: nn.Sequential, split: Split) -> tuple[nn.Sequential, Split]:
    """Return the network from its first dense layer on, and its input there: what lies before is exact, once is enough."""
    first = next(i for i, layer in enumerate(model) if isinstance(layer, nn.Linear))
    features = torch.cat([model[:first](images) for images in split.images.split(1000)])
    return model[first:], Split(features, split.labels)


@torch.no_grad()
def layer_inputs(model: nn.Module, split: Split) -> dict[str, Tensor]:
    """Return the inputs of each dense layer over a split: name -> (N, n)."""
    seen: dict[str, Tensor] = {}

    def reader(name: str):
        def read(_module: nn.Module, inputs: Tensor, _output: Tensor) -> None:
            seen[name] = inputs

        return read

    with hooked(model, {name: reader(name) for name in dense_layers(model)}):
        model(split.images)
    return seen


def errors(weight: Tensor, layer: Quantized, inputs: Tensor) -> tuple[float, float]:
    """Return the relative squared errors of a coded weight, and of the layer's outputs for `inputs` (N, n), mean removed."""
    weight, error = weight.detach(), layer.decode() - weight.detach()
    centred = inputs - inputs.mean(0)
    of_weight = error.square().sum() / weight.square().sum()
    of_output = (centred @ error.T).square().sum() / (centred @ weight.T).square().sum()
    return of_weight.item(), of_output.item()


def mean_points(rows: pd.DataFrame, layers: str = "all") -> pd.DataFrame:
    """Return the rows of kind 'method', a line per setting: network, data set, method, arguments; means over seeds of rate and
    loss, the lowest and highest loss, and the number of seeds."""
    chosen = rows[(rows.kind == "method") & (rows.layers == layers)].explode("points")
    points = pd.DataFrame(chosen.points.tolist(), index=chosen.index)
    chosen = chosen[["network", "data set", "method", "seed"]].assign(
        arguments=points.arguments.map(tuple), rate=points.rate, loss=points.loss
    )
    groups = chosen.groupby(["network", "data set", "method", "arguments"], sort=False)
    figures = dict(
        rate=("rate", "mean"), loss=("loss", "mean"), lowest=("loss", "min"), highest=("loss", "max"), seeds=("seed", "nunique")
    )
    return groups.agg(**figures).reset_index()


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """Return the settings that no other one of `points` beats in rate and loss both, by rising rate."""
    best_first = points.sort_values(["rate", "loss"], ascending=[False, True])
    return best_first[best_first.loss < best_first.loss.cummin().shift(fill_value=float("inf"))][::-1]


def best_rates(points: pd.DataFrame, allowed: float = 1.0) -> pd.DataFrame:
    """Return for each network and method the setting of the highest rate among those that lose at most `allowed` points; where
    there is none, the one that loses least."""
    best = []
    for _, group in points.groupby(["network", "method"], sort=False):
        good = group[group.loss <= allowed]
        best.append(good.nlargest(1, "rate") if len(good) else group.nsmallest(1, "loss"))
    return pd.concat(best, ignore_index=True)


def paper_table(rows: pd.DataFrame, layers: str = "all") -> pd.DataFrame:
    """Return 'paper / here': the highest rate of the dense layers at no more than one point of accuracy lost."""
    best = best_rates(mean_points(rows, layers))
    return pd.DataFrame(
        {
            "network": best.network,
            "data set": best["data set"],
            "method": best.method,
            "setting": [" ".join(map(str, arguments)) or "-" for arguments in best.arguments],
            "paper, ImageNet": best.method.map(PAPER).fillna("-"),
            "rate here": best.rate.map("{:.1f}x".format),
            "points lost": best.loss.map("{:.2f}".format),
            "spread": best.lowest.map("{:.2f}".format) + " to " + best.highest.map("{:.2f}".format),
            "seeds": best.seeds,
        }
    )


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    best = best_rates(mean_points(rows))
    best = best[best.method == "product"].assign(counted="bits of the dense layers", published=PAPER["product"], lost=best.loss)
    return best[["network", "data set", "counted", "published", "rate", "lost", "seeds"]]
