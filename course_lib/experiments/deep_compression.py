"""The runs behind notebook 05: Han et al., ICLR 2016, on the LeNets.

Every run starts from a pruned network. Those lie in data/checkpoints, survivors at 32 bits, exact; one that is missing is
pruned first. A setting's 'kind' says which question a row answers: 'start' what a pruned network is, 'stages' the paper's
table, 'bits' accuracy against the bits of a code, 'size' accuracy against the size of the file (figure 6).
"""

import json
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from course_lib import data, models, plans, storage
from course_lib.data import Splits
from course_lib.experiments.first_stage import only_pruned, restored
from course_lib.experiments.weight_pruning import error
from course_lib.files import replacing
from course_lib.masks import weight_layers
from course_lib.models.pretraining import CHECKPOINTS
from course_lib.papers import deep_compression as paper
from course_lib.papers import vector_quantization, weight_pruning
from course_lib.training import fit, recipe

# Error in percent before and after, kilobytes, compression rates after two and three stages (table 1 and the text)
PAPER = {
    "lenet-300-100": dict(baseline=1.64, error=1.58, kilobytes=27, rate=40, unhuffed=32),
    "lenet-5": dict(baseline=0.80, error=0.74, kilobytes=44, rate=39, unhuffed=33),
}
# The paper's own setting, and one that goes for the smallest file at the paper's error
SETTINGS = {
    "lenet-300-100": {
        "paper": dict(rate=12, bits=6, index_bits=5),
        "small": dict(rate=40, bits=dict(dense=3, bias=3), index_bits=8),
    },
    "lenet-5": {
        "paper": dict(rate=12, bits=dict(conv=8, dense=5), index_bits=5),
        "small": dict(rate=60, bits=dict(conv=4, dense=3, bias=3), index_bits=8),
    },
}
PRUNING = dict(lr=0.02, weight_decay=0.0, augment="shift", epochs=1)
CENTROIDS = dict(weight_decay=0.0, augment="shift", schedule="linear")
WIDTHS = (1, 2, 3, 4, 5, 6, 8)  # bits of a code, of the curves
RATES = (12, 40, 80)  # of pruning alone
RANKS = (2, 4, 8, 16)  # rates of the SVD
STARTS = CHECKPOINTS  # where the pruned networks lie


def budget(scale: str) -> dict[str, int]:
    """How much work a scale does: rounds of pruning, epochs at their end, epochs of training the centroids."""
    return {
        "smoke": dict(rounds=2, final=1, centroids=1),
        "lesson": dict(rounds=15, final=20, centroids=2),
        "paper": dict(rounds=30, final=60, centroids=20),
    }[scale]


def grid(scale: str) -> list[dict]:
    """All settings; smoke scale keeps the small network."""
    networks = list(SETTINGS)[: 1 if scale == "smoke" else 2]
    both = [(network, size) for network in networks for size in ("paper", "small")]
    settings = [dict(kind="start", network=network, rate=SETTINGS[network][size]["rate"]) for network, size in both]
    settings += [dict(kind="stages", network=network, setting=size) for network, size in both]
    settings += [dict(kind="bits", network="lenet-300-100", start=start, rate=12) for start in paper.STARTS]
    settings += [dict(kind="bits", network="lenet-300-100", start="linear", rate=1)]
    settings += [
        dict(kind="size", network="lenet-300-100", method=method)
        for method in ("pruning", "quantization", "pruning and quantization", "SVD")
    ]
    return [dict(name=" ".join(str(value) for value in setting.values()), **setting) for setting in settings]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """One row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    kinds = {"start": start, "stages": stages, "bits": by_bits, "size": by_size}
    if setting["kind"] not in kinds:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(kinds)}")
    splits = data.load("mnist", device=device, scale=scale)
    dense = models.pretrained(setting["network"], splits.name).to(splits.test.images.device)
    figures = kinds[setting["kind"]](setting, splits, budget(scale), seed)
    return {"data set": splits.name, "baseline_error": error(dense, splits.test)} | figures


def start(setting: dict, splits: Splits, _work: Mapping[str, int], _seed: int) -> dict:
    """Return the figures of the pruned network that the other rows begin with; there is one for all seeds."""
    model = pruned_start(setting["network"], splits, setting["rate"])
    layers = weight_layers(model)
    kept = {name: int(layer.weight.count_nonzero()) / layer.weight.numel() for name, layer in layers.items()}
    weights = sum(layer.weight.numel() for layer in layers.values())
    survivors = sum(int(layer.weight.count_nonzero()) for layer in layers.values())
    return dict(error=error(model, splits.test), weights=weights, survivors=survivors, layers=kept)


def stages(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """The whole pipeline: errors after each stage, and bytes of the real file after each."""
    how = SETTINGS[setting["network"]][setting["setting"]]
    pruned = pruned_start(setting["network"], splits, how["rate"])
    quantized = paper.quantize(pruned, bits=how["bits"])
    tuned = tune(quantized, splits, how["bits"], work, seed)
    coded = {coder: file_size(paper.compress(tuned, **settings(how, coder))) for coder in storage.CODERS}
    return dict(
        errors={"P": error(pruned, splits.test), "quantized": error(quantized, splits.test), "P+Q": error(tuned, splits.test)},
        bytes=dict(dense=4 * sum(p.numel() for p in tuned.parameters()),
                   P=file_size(only_pruned(pruned, index_bits=how["index_bits"])), **coded),
    )  # fmt: skip


def by_bits(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Figures 7 and 8: error against the bits of a code, before and after the centroids are trained."""
    model = pruned_start(setting["network"], splits, setting["rate"])
    untrained, trained = [], []
    for bits in WIDTHS:
        quantized = paper.quantize(model, bits=bits, method=setting["start"], seed=seed)
        untrained.append(error(quantized, splits.test))
        trained.append(error(tune(quantized, splits, bits, work, seed), splits.test))
    return dict(bits=list(WIDTHS), untrained=untrained, trained=trained)


def by_size(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict:
    """Figure 6: error against the size of the file, for one way of compressing."""
    dense = pruned_start(setting["network"], splits, 1)
    points = []
    if setting["method"] == "pruning":
        for rate in RATES:
            pruned = pruned_start(setting["network"], splits, rate)
            points.append((rate, pruned, only_pruned(pruned, index_bits=5 if rate < 20 else 8)))
    elif setting["method"] == "SVD":
        for rate in RANKS:
            points.append((rate, *factorized(dense, rate)))
    else:
        rate = 1 if setting["method"] == "quantization" else 12
        model = pruned_start(setting["network"], splits, rate)
        for bits in WIDTHS:
            tuned = tune(paper.quantize(model, bits=bits), splits, bits, work, seed)
            points.append((bits, tuned, paper.compress(tuned, bits=bits, index_bits=5 if rate > 1 else 0, coder="fixed")))
    return dict(points=[dict(at=at, error=error(model, splits.test), bytes=file_size(file)) for at, model, file in points])


def tune(model: nn.Module, splits: Splits, bits: paper.Bits, work: Mapping[str, int], seed: int, **more) -> nn.Module:
    """Return the network with its centroids trained, with the budget of a scale; `more` are other arguments of `fit`."""
    settings = dict(epochs=work["centroids"], lr=centroid_rate(model), precision=precision(model), seed=seed, progress=False)
    settings |= CENTROIDS | more
    return paper.finetune_centroids(model, lambda network: fit(network, splits, **settings), bits=bits)


def centroid_rate(model: nn.Module) -> float:
    """The learning rate for centroids: a thousandth, or less where many weights share one, since their gradients add up.

    Without the second part, dense networks at 2 to 4 bits diverged.
    """
    weights = [layer.weight.detach() for layer in weight_layers(model).values()]
    members = max(int(w.count_nonzero()) / max(1, len(w[w != 0].unique())) for w in weights)
    return min(1e-3, 0.7 / max(1.0, members))


def settings(how: Mapping, coder: str) -> dict:
    """The arguments of `compress` in an entry of SETTINGS; biases that have codes have no gaps."""
    return dict(bits=how["bits"], index_bits=dict(dense=how["index_bits"], conv=how["index_bits"]), coder=coder)


def factorized(dense: nn.Module, rate: float) -> tuple[nn.Module, storage.CompressedNetwork]:
    """The network with its hidden dense layers factorized, and its file; the last layer stays whole (notebook 01 tells why)."""
    names = [name for name, layer in weight_layers(dense).items() if isinstance(layer, nn.Linear)][:-1]
    tensors, layers = dict(dense.state_dict()), {}
    for name in names:
        weight = dense.get_submodule(name).weight
        layers[name] = vector_quantization.low_rank(weight, max(1, round(weight.numel() / rate / (sum(weight.shape) + 1))))
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{part}": tensor for part, tensor in layers[name].tensors().items()}
    return vector_quantization.decoded(dense, layers), storage.CompressedNetwork("", tensors, "fixed")


def file_size(compressed: storage.CompressedNetwork) -> int:
    """Bytes of the real file."""
    with tempfile.TemporaryDirectory() as folder:
        storage.save(compressed, Path(folder) / "network")
        return (Path(folder) / "network").stat().st_size


def prune(model: nn.Module, splits: Splits, rate: float, work: Mapping[str, int], seed: int = 0) -> nn.Module:
    """Return the network pruned to a rate in rounds, as in notebook 02, but with the layers' shares by `plans.lamp`."""
    how = PRUNING | dict(precision=precision(model), seed=seed, progress=False)
    retrain = recipe(splits, **how | dict(schedule="constant"))
    finish = recipe(splits, **how | dict(schedule="linear", epochs=work["final"]))
    shares = plans.lamp(model, rate)
    return weight_pruning.prune(model, splits.train, shares, rounds=work["rounds"], retrain=retrain, finish=finish).model


def precision(model: nn.Module) -> torch.dtype | None:
    """bfloat16 for networks with convolutions: half the time on processors that have it; otherwise `fit`'s choice."""
    return torch.bfloat16 if any(isinstance(module, nn.Conv2d) for module in model.modules()) else None


def pruned_start(network: str, splits: Splits, rate: int) -> nn.Module:
    """The network pruned to a rate, from data/checkpoints; at rate 1 the baseline. One that is missing is made, which takes
    minutes, with the budget of lesson scale whatever the scale in force."""
    from filelock import FileLock

    model = models.pretrained(network, splits.name).to(splits.test.images.device)
    if rate == 1:
        return model
    path = STARTS / f"{network}.{splits.name}.pruned-{rate}x.cnet"
    if not path.exists():
        with FileLock(path.with_suffix(".lock")):  # rows run side by side
            if not path.exists():
                _make_start(network, splits, rate, model, path)
    model.load_state_dict(restored(storage.load(path)))
    return model


def _make_start(network: str, splits: Splits, rate: int, model: nn.Module, path: Path) -> None:
    begin, work = time.perf_counter(), budget("lesson")
    pruned = prune(model, splits, rate, work)
    facts = dict(
        network=network, dataset=splits.name, rate=rate, accuracy=1 - error(pruned, splits.test) / 100, seed=0,
        **PRUNING, **work, precision=str(precision(pruned)), seconds=round(time.perf_counter() - begin),
        command="python -m course_lib reproduce deep-compression",
        versions=dict(python=platform.python_version(), torch=torch.__version__),
    )  # fmt: skip
    with replacing(path.with_suffix(".json")) as scratch:
        scratch.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    storage.save(only_pruned(pruned, index_bits=8, coder="huffman", name=network), path)


def inspect(compressed: storage.CompressedNetwork) -> pd.DataFrame:
    """`storage.inspect` of the file that a network makes."""
    with tempfile.TemporaryDirectory() as folder:
        storage.save(compressed, Path(folder) / "network")
        return storage.inspect(Path(folder) / "network")


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    """'paper / here': error and size after all three stages, mean over seeds."""
    table = []
    for (network, setting), group in rows[rows.kind == "stages"].groupby(["network", "setting"], sort=True):
        cited = PAPER[network]
        sizes = pd.DataFrame(group.bytes.tolist())
        after = pd.Series([errors["P+Q"] for errors in group.errors])
        table.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group["data set"]))),
                "setting": setting,
                "rate, paper": f"{cited['rate']}x" if setting == "paper" else "-",
                "error, paper": f"{cited['baseline']:.2f} -> {cited['error']:.2f} %" if setting == "paper" else "-",
                "rate, here": f"{(sizes.dense / sizes.huffman).mean():.0f}x",
                "with ANS": f"{(sizes.dense / sizes.ans).mean():.0f}x",
                "file, here": f"{sizes.huffman.mean() / 1000:.1f} kB",
                "error, here": f"{group.baseline_error.mean():.2f} -> {after.mean():.2f} %",
                "spread": f"{after.min():.2f}-{after.max():.2f} %",
                "seeds": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    lines = []
    for network, cited in PAPER.items():
        group = rows[(rows.kind == "stages") & (rows.network == network) & (rows.setting == "paper")]
        if group.empty:
            continue
        sizes, after = pd.DataFrame(group.bytes.tolist()), pd.Series([errors["P+Q"] for errors in group.errors])
        lines.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group["data set"]))),
                "counted": "bytes of the file",
                "published": f"{cited['rate']}x, {cited['baseline']:.2f} -> {cited['error']:.2f} % error",
                "rate": (sizes.dense / sizes.huffman).mean(),
                "lost": after.mean() - group.baseline_error.mean(),
            }
        )
    return pd.DataFrame(lines)
