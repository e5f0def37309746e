"""The runs behind notebook 09: the smallest files that read digits, and what each step of the pipeline contributes.

A setting's 'kind' says which question a row answers: 'file' how few bytes a LeNet takes after each step, 'ablation' what happens
when one step of the pipeline is left out or replaced, on LeNet-300-100, 'residual' how few bytes ResNet-20 takes on CIFAR-10. A
seed is an independently trained network, which is trimmed, distilled, pruned and quantized on its own; the teachers of the LeNets
are the course's trained LeNet-5s, the same ones for all seeds.
"""

import copy
import lzma
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from course_lib import data, distillation, models, smallest, storage
from course_lib.data import Splits
from course_lib.distillation import Examples
from course_lib.experiments import rows
from course_lib.experiments.compressed_files import dense_bytes, file_size, raw
from course_lib.experiments.first_stage import only_pruned
from course_lib.experiments.smallest_residual import residual
from course_lib.experiments.smallest_tables import WHOLE, headline, paper_table
from course_lib.files import ROOT, replacing
from course_lib.masks import weight_layers
from course_lib.papers import deep_compression
from course_lib.storage import CodedTensor, CompressedNetwork
from course_lib.streams import stream

__all__ = ["budget", "grid", "headline", "paper_table", "run"]

LOGITS = ROOT / "build" / "logits"  # of the teachers, kept from one row to the next
FILES = ROOT / "build" / "smallest"  # what the rows of kind 'file' measure
LENET_300_100, LENET_5 = "lenet-300-100", "lenet-5"
# What each network is trimmed to, how many weights are left in its files, chosen on the validation images of one network, and how
# many times longer than a convolutional network it is trained, as an epoch takes a sixth of the time
SIZES = {
    "dense": dict(network=LENET_300_100, trimmed_to=dict(fc1=80, fc2=30), keeps=[3600, 2600], longer=2),
    "small": dict(network=LENET_5, trimmed_to=dict(conv1=8, conv2=20, fc1=60), keeps=[1870, 1290], longer=1),
    "medium": dict(network=LENET_5, trimmed_to=dict(conv1=10, conv2=24, fc1=80), keeps=[3200, 2650], longer=1),
}
RESIDUAL = dict(
    name="file resnet-20", kind="residual", size="residual", network="resnet-20", dataset="cifar10",
    copies=3, teachers=3, lr=1e-3, coarseness=0.5,
)  # fmt: skip
COARSENESS = 0.65
DECAY = 0.998  # of the moving average of weights per step: it reaches back 500 steps, an epoch
EPOCHS = ("distilling", "pruning", "further", "quantizing")
ABLATED = dict(network=LENET_300_100, trimmed_to=dict(fc1=80, fc2=30), keeps=[2600])
ARMS = {  # what is left out or replaced -> how
    WHOLE: {},
    "not trimmed first": dict(trimmed_to=dict(fc1=300, fc2=100)),
    "one teacher instead of five": dict(teachers=1),
    "no warped copies": dict(copies=0),
    "pruned by magnitude": dict(importance="magnitude"),
    "importance not divided by bits": dict(importance="importance"),
    "pruned weights may grow back": dict(importance="regrowth"),
    "pruned for twice as long": dict(longer=2),
    "weights averaged while pruned": dict(averaged=True),
    "the same step relative to the weights in every layer": dict(step="same"),
    "all numbers rounded at once": dict(instalments=(0.0, 1.0)),
}


def budget(scale: str) -> dict[str, Any]:
    """Return the work of a scale: epochs of each step, by kind, warped copies of each image, and teachers.

    'further' are the epochs of pruning from one file of a setting to its next, smaller one.
    """
    quick = dict(distilling=2, pruning=4, further=4, quantizing=2)
    epochs = {
        "smoke": dict(file=quick, ablation=quick),
        "lesson": dict(
            file=dict(distilling=12, pruning=50, further=25, quantizing=24),
            ablation=dict(distilling=8, pruning=30, further=0, quantizing=14),
        ),
        "paper": dict(
            file=dict(distilling=30, pruning=150, further=75, quantizing=60),
            ablation=dict(distilling=30, pruning=150, further=0, quantizing=60),
        ),
    }[scale]
    return epochs | (dict(copies=1, teachers=1) if scale == "smoke" else dict(copies=3, teachers=5))


def grid(scale: str) -> list[dict]:
    """Return all settings; smoke scale keeps one file and one replaced step."""
    files = [dict(name=f"file {size} {about['network']}", kind="file", size=size) | about for size, about in SIZES.items()]
    arms = [dict(name=f"ablation {arm}", kind="ablation", arm=arm) | ABLATED for arm in ARMS]
    paper = scale == "paper"  # an epoch takes a minute and a half on one core
    epochs = dict(pruning=[60, 30], quantizing=12, seeds=3) if paper else dict(pruning=[14, 6], quantizing=4, seeds=1)
    residual = RESIDUAL | dict(keeps=[54_000, 36_000]) | epochs
    return [files[0], arms[4]] if scale == "smoke" else [*arms, *files, residual]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    splits = data.load(setting.get("dataset", "mnist"), device=device, scale=scale)
    work = budget(scale)
    work = {key: work[key] for key in ("copies", "teachers")} | work.get(setting["kind"], {})
    dense = models.pretrained(setting["network"], splits.name, seed).to(splits.test.images.device)
    about = dict(dataset=splits.name, precision="float32", batch=distillation.BATCH, lr=3e-3, dense_bytes=dense_bytes(dense))
    return about | rows.baseline(dense, splits) | KINDS[setting["kind"]](setting, splits, work, dense, seed)


def files(setting: dict, splits: Splits, work: Mapping[str, Any], dense: nn.Module, seed: int) -> dict:
    """The rows of a network after each step, with the bytes of its file, and after the last one in each of its sizes."""
    given, work = examples(splits, work, seed), work | {key: setting["longer"] * work[key] for key in EPOCHS}
    model, epochs = smallest.trim(dense, setting["trimmed_to"], splits.test.images[:1]), work["distilling"]
    points = [_point("trained", dense, splits, 0, raw(dense)), _point("trimmed", model, splits, 0, raw(model))]
    distillation.distil(model, given, epochs=epochs, seed=stream(seed, "distil"))
    points.append(_point("distilled", model, splits, epochs, raw(model)))
    for number, keep in enumerate(setting["keeps"]):
        more = work["further" if number else "pruning"]
        epochs += more
        model = pruned(model, given, keep, splits, epochs=more, seed=stream(seed, "prune", number))
        mark = dict(keep=keep)
        points.append(_point("pruned", model, splits, epochs, only_pruned(model, index_bits=8, coder="huffman")) | mark)
        taken, quantized = _quantized(model, given, work, seed, step="sensitivity", instalments=smallest.INSTALMENTS)
        file = smallest.compressed(quantized, taken)
        total = epochs + work["quantizing"]
        coded = _point("coded", decoded(quantized, file), splits, total, file)
        points += [coded | mark | dict(stage="quantized", bytes=file_size(with_gaps(file)))]
        points += [coded | mark | others(quantized, taken, file)]
        _keep(file, f"{setting['network']}.{splits.name}.{keep}.seed-{seed}")
    return dict(method="pipeline", points=points) | rows.latencies(decoded(quantized, file), splits)


def ablation(setting: dict, splits: Splits, work: Mapping[str, Any], dense: nn.Module, seed: int) -> dict:
    """The row of the pipeline with one step left out or replaced; 'pruned' is the validation accuracy before quantization."""
    how = dict(trimmed_to=setting["trimmed_to"], teachers=work["teachers"], copies=work["copies"], importance="per bit", longer=1)
    how |= dict(step="sensitivity", instalments=smallest.INSTALMENTS, averaged=False) | ARMS[setting["arm"]]
    given = examples(splits, dict(work, teachers=how["teachers"], copies=how["copies"]), seed)
    model = smallest.trim(dense, how["trimmed_to"], splits.test.images[:1])
    distillation.distil(model, given, epochs=work["distilling"], seed=stream(seed, "distil"))
    epochs, order = how["longer"] * work["pruning"], stream(seed, "prune")
    way = averaged if how["averaged"] else pruned
    model = way(model, given, setting["keeps"][0], splits, epochs=epochs, seed=order, importance=how["importance"])
    before = rows.percent(model, splits.validation)
    taken, quantized = _quantized(model, given, work, seed, step=how["step"], instalments=how["instalments"])
    file = smallest.compressed(quantized, taken)
    outcome = _point("coded", decoded(quantized, file), splits, epochs + work["distilling"] + work["quantizing"], file)
    outcome |= others(quantized, taken, file) | rows.latencies(quantized, splits)
    return dict(method=setting["arm"], pruned=before) | outcome


KINDS = {"file": files, "ablation": ablation, "residual": residual}


def examples(splits: Splits, work: Mapping[str, Any], seed: int) -> Examples:
    """Return the training images, warped copies of them, and the mean logits of the teachers, LeNet-5s of the course.

    A single teacher is the LeNet-5 of the same seed. What a teacher computes for a seed's images is kept on disk.
    """
    images = distillation.with_copies(splits.train, work["copies"], seed)
    seeds = [seed] if work["teachers"] == 1 else range(work["teachers"])
    logits = torch.stack([_logits(teacher, splits, images, seed) for teacher in seeds]).mean(0)
    return Examples(images, logits, splits.train.labels)


def _logits(teacher: int, splits: Splits, images: Tensor, seed: int) -> Tensor:
    from safetensors.torch import load_file, save_file

    path = LOGITS / f"{splits.name}.teacher-{teacher}.images-{seed}.copies-{len(images) - 1}.safetensors"
    if not path.exists():
        network = models.pretrained(LENET_5, splits.name, teacher).to(images.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            save_file({"logits": distillation.logits_of(network, images).cpu()}, scratch)
    return load_file(path)["logits"].to(images.device)


def pruned(
    model: nn.Module, given: Examples, keep: int, splits: Splits, *, epochs: float, seed: int, importance: str = "per bit"
) -> nn.Module:
    """Return a network pruned to `keep` weights while it is trained, without the neurons that have lost all inputs or outputs."""
    model = copy.deepcopy(model)
    smallest.prune(model, given, keep, epochs=epochs, seed=seed, importance=IMPORTANCE[importance])
    return smallest.without_dead(model, splits.test.images[:1])


def averaged(
    model: nn.Module, given: Examples, keep: int, splits: Splits, *, epochs: float, seed: int, importance: str
) -> nn.Module:
    """Return the network of `pruned`, each weight left with its moving average over about the last epoch of training."""
    model = copy.deepcopy(model)
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    handle = model.register_forward_pre_hook(lambda *_: mean.update_parameters(model))
    smallest.prune(model, given, keep, epochs=epochs, seed=seed, importance=IMPORTANCE[importance])
    handle.remove()
    for parameter, average in zip(model.parameters(), mean.module.parameters(), strict=True):
        parameter.data = torch.where(parameter != 0, average, 0).detach()
    return smallest.without_dead(model, splits.test.images[:1])


def by_magnitude(weight: Tensor, state: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Return the importance of weights by their magnitude alone."""
    return weight.abs().masked_fill(mask == 0, -1.0)


def by_importance(weight: Tensor, state: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Return w^2 v, whatever the weight costs in the file."""
    return (weight**2 * state["exp_avg_sq"]).masked_fill(mask == 0, -1.0)


def with_regrowth(weight: Tensor, state: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Return w^2 v per bit, where a pruned weight counts as if it had taken Adam's next step, so that it may come back."""
    step = 3e-3 * state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)
    return torch.where(mask > 0, weight, step) ** 2 * state["exp_avg_sq"] / smallest.bits(float(mask.mean()))


IMPORTANCE = {"per bit": smallest.per_bit, "magnitude": by_magnitude, "importance": by_importance, "regrowth": with_regrowth}


def _quantized(
    model: nn.Module, given: Examples, work: Mapping[str, Any], seed: int, *, step: str, instalments: tuple[float, ...]
) -> tuple[dict, nn.Module]:
    """The steps of a quantized copy of a pruned network, and that copy."""
    model = copy.deepcopy(model)
    taken = smallest.steps(model, given, COARSENESS, seed=stream(seed, "sensitivity"))
    if step == "same":
        weights = [module.weight for module in weight_layers(model).values()]
        taken |= {weight: COARSENESS * weight[weight != 0].abs().mean().item() for weight in weights}
    smallest.quantize(model, given, taken, epochs=work["quantizing"], seed=stream(seed, "quantize"), instalments=instalments)
    return taken, model


def decoded(model: nn.Module, file: CompressedNetwork) -> nn.Module:
    """Return the network that a file holds, read back from its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        storage.save(file, Path(folder) / "file")
        tensors = storage.load(Path(folder) / "file").state_dict()
    other = copy.deepcopy(model)
    other.load_state_dict(tensors)
    return other


def with_gaps(file: CompressedNetwork, coder: str = "huffman") -> CompressedNetwork:
    """Return the same integers as codes and gaps, as Deep Compression writes them."""
    tensors = {}
    for name, tensor in file.tensors.items():
        if tensor.decode().dim() == 1:
            tensors[name] = tensor
            continue
        levels = tensor.decode().flatten()
        gaps, filler = deep_compression.relative_index(levels != 0, 8)
        codes = torch.full((len(gaps),), int((tensor.codebook == 0).nonzero()[0]))
        codes[~filler] = tensor.codes[levels != 0].long()
        tensors[name] = CodedTensor(tensor.shape, tensor.codebook, codes.int(), gaps.int(), 8)
    return CompressedNetwork(file.network, tensors, coder)


def others(model: nn.Module, taken: Mapping[nn.Parameter, float], file: CompressedNetwork) -> dict[str, Any]:
    """Return what the same integers take by other means: bytes by other coders, their entropy, and neurons in another order."""
    levels = torch.cat([tensor.codes - int((tensor.codebook == 0).nonzero()[0]) for tensor in file.tensors.values()])
    content = levels.to(torch.int8).numpy().tobytes()
    return dict(
        huffman=file_size(with_gaps(file)),
        ans=file_size(with_gaps(file, "ans")),
        xz=len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
        entropy=round(sum(map(_entropy, file.tensors.values())) / 8, 1),
        as_trained=file_size(smallest.compressed(model, taken, order="as trained")),
        widths=[module.weight.shape[0] for module in weight_layers(model).values()],
    )


def _entropy(tensor: CodedTensor) -> float:
    """The bits of a tensor's levels if each takes its own entropy, with the table of frequencies for free."""
    shares = tensor.codes.unique(return_counts=True)[1] / len(tensor.codes)
    return float(-len(tensor.codes) * (shares * shares.log2()).sum())


def _point(stage: str, model: nn.Module, splits: Splits, epochs: float, file: CompressedNetwork) -> dict[str, Any]:
    """The figures of a network after a step, with the bytes of a file of it."""
    return dict(stage=stage, epochs=epochs) | rows.outcome(model, splits, timed=False) | dict(bytes=file_size(file))


def _keep(file: CompressedNetwork, name: str) -> None:
    FILES.mkdir(parents=True, exist_ok=True)
    storage.save(file, FILES / f"{name}.cnet")
