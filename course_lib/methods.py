"""The one door: the method of every paper, on any network.

    result = methods.apply("thinet", model, loader, keep=0.5, retrain=train)
    result.save("smaller.safetensors")
    model = methods.load("smaller.safetensors", resnet18())       # in another process

`model` is any network; it is never changed. `loader` is any re-iterable of (images, labels). `train` is a function of yours that
trains the network it is given, in place, with an optimizer of its own. `METHODS` lists the methods, and `help(METHODS[name].run)`
tells the settings of one.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import masks
from course_lib.data import Batches, batched
from course_lib.masks import weight_layers
from course_lib.modes import evaluating
from course_lib.papers import (
    channel_pruning,
    deep_compression,
    filter_pruning,
    network_trimming,
    thinet,
    vector_quantization,
    weight_pruning,
)
from course_lib.result import Result
from course_lib.storage import networks
from course_lib.storage.codes import Quantized
from course_lib.training import Retrain

__all__ = ["METHODS", "Method", "Result", "apply", "load"]


def load(path: str | Path, fresh_model: nn.Module) -> nn.Module:
    """Return the network that `Result.save` wrote, in evaluation mode on the device of `fresh_model`, with the same outputs.

    Args:
        path: the file.
        fresh_model: the network as it was before any compression, whatever its weights; it is left as it was.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one of another network; the message names what differs.
    """
    return networks.load(path, _uncompiled(fresh_model))


@dataclass(frozen=True)
class Method:
    """A paper's method: `run(model, batches, *, retrain=None, **settings)` gives a `Result`."""

    paper: str
    what: str  # it does to a network, in a line
    needs_images: bool  # whether it looks at images to choose; retraining aside
    run: Callable[..., Result]
    defaults: Mapping[str, Any]  # settings that the paper's own function leaves to the caller

    def settings(self) -> dict[str, Any]:
        """Return the names of all settings and their defaults."""
        given = list(inspect.signature(self.run).parameters.values())[2:]
        found = {
            p.name: None if p.default is p.empty else p.default for p in given if p.name != "retrain" and p.kind != p.VAR_KEYWORD
        }
        return found | dict(self.defaults)


def apply(method: str, model: nn.Module, batches: Batches | None, *, retrain: Retrain | None = None, **settings) -> Result:
    """Compress a network by a paper's method; with no settings it does something sensible on any convolutional network.

    Only dense layers and convolutions are compressed: embeddings, recurrent layers and attention's joint projection of queries,
    keys and values stay as they are. Layers that run in training mode only, as auxiliary classifiers do, are not followed. When
    methods follow one another, retraining holds what the present one prunes; weights that an earlier one set to zero may move.

    Args:
        method: one of `METHODS`.
        model: any network, in any mode and on any device; it is left as it was.
        batches: a DataLoader, a list of (images, labels) or a split, read more than once; the training set or a part of it. None
            where the method looks at no images.
        retrain: trains the network that it is given, in place, by whatever optimizer; pruned weights stay zero, coded ones stay
            what their codes say. Without it nothing is retrained.
        settings: of the method: `METHODS[method].settings()` lists them with their defaults, the papers' own where they transfer.

    Returns:
        The new network, in evaluation mode on the model's device, a record, and `save`.

    Raises:
        ValueError: an unknown method or setting, a setting out of its range, weights or images that are not finite, images that
            the model does not take, or layers that the method cannot handle; the message names them.
    """
    if not (isinstance(method, str) and method in METHODS):
        raise ValueError(f"method is {method!r:.60}; allowed are {', '.join(METHODS)}")
    chosen = METHODS[method]
    _check_settings(method, chosen.settings(), settings | {"retrain": retrain})
    if batches is None and chosen.needs_images:
        raise ValueError(f"batches is None; {method} looks at images to choose what it removes")
    _check_model(model)
    model = _uncompiled(model)
    if batches is not None:
        _check_images(model, batches)
    with torch.inference_mode(False), torch.enable_grad():
        result = chosen.run(model, batches, retrain=retrain, **dict(chosen.defaults) | settings)
    result.model.eval()
    return result


CALLED = ("retrain", "finish", "finetune", "measure", "prune_layer")  # settings that are functions


def _check_settings(method: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that the method has not, or of a type that it never takes; before any training."""
    for name, value in given.items():
        if name not in known and name != "retrain":
            raise ValueError(f"{name!r} is no setting of {method}; its settings are {', '.join(known)}")
        if name in CALLED and not (value is None or callable(value)):
            raise ValueError(f"{name} is a {type(value).__name__}; expected a function of a network")
        default = known.get(name)
        number = isinstance(default, Real) and not isinstance(default, bool)
        several = name in ("keep", "sparsity") and isinstance(value, Mapping)
        if number and not several and (not isinstance(value, Real) or isinstance(default, int) and value != int(value)):
            raise ValueError(f"{name} is {value!r}; expected {'a whole number' if isinstance(default, int) else 'a number'}")


def _check_model(model: nn.Module) -> None:
    """Raise ValueError for a network whose layers cannot be compressed one by one."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, masks.LAYERS)}
    if not layers:
        raise ValueError("model has no dense layer and no convolution; there is nothing to compress")
    for name, layer in layers.items():
        if "weight" not in layer._parameters:
            raise ValueError(
                f"model computes the weight of layer {name!r}, as weight_norm and torch.nn.utils.prune do; make it final first: "
                "parametrize.remove_parametrizations, remove_weight_norm, or prune.remove"
            )
    owners: dict[nn.Parameter, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = owners.setdefault(parameter, name)
        if owner != name and any(f"{layer}.weight" in (owner, name) for layer in layers):
            raise ValueError(f"model has one tensor as {owner!r} and {name!r}; untie them first, since each would change alone")
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(f"model has a state of its own in {name!r}, a {type(value).__name__}; only tensors can be saved")
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"model holds NaN or infinity in {name!r}; there is nothing to choose by")


def _uncompiled(model: nn.Module) -> nn.Module:
    """Return the network within what torch.compile made."""
    return getattr(model, "_orig_mod", model)


def _check_images(model: nn.Module, batches: Batches) -> None:
    """Raise ValueError unless the model takes the first batch."""
    device = next(model.parameters()).device
    images = next(iter(batched(batches, 2, device)))[0][:2]
    try:
        with torch.no_grad(), evaluating(model):
            model(images)
    except Exception as reason:  # whatever this network raises at what it does not take
        raise ValueError(
            f"batches yields images of shape {tuple(images.shape)}, which the model does not take: {reason}"
        ) from reason


def _quantize(
    model: nn.Module,
    batches: Batches | None,
    *,
    codes: str,
    layers: Iterable[str] | None = None,
    retrain: Retrain | None = None,
    measure: Callable[[nn.Module], float] | None = None,
    **form: int,
) -> Result:
    """Replace weights by codes (Gong et al. 2014).

    Args:
        model: any network.
        batches: not read.
        codes: 'scalar' (`k` values for each layer), 'product' (`k` pieces of about `length` numbers for each block of columns),
            'residual' (`k` rows in each of `stages`), 'binary' (a sign for each weight, and a scale for each layer), 'low rank'
            (factors of `rank`).
        layers: which layers; default all that become smaller by it.
        retrain: trains what is not coded; the paper retrains nothing.
        measure: called with the new network; its figure goes into the record.
        form: k, length, stages, rank.
    """
    forms = _forms(**form)
    if codes not in forms:
        raise ValueError(f"codes is {codes!r}; allowed are {', '.join(forms)}")
    if layers is not None:
        return vector_quantization.quantize(model, forms[codes], layers=layers, retrain=retrain, measure=measure)
    coded = {name: _smaller(forms[codes], layer.weight) for name, layer in weight_layers(model).items()}
    coded = {name: code for name, code in coded.items() if code is not None}
    if not coded:
        raise ValueError(f"no layer of the model becomes smaller by {codes} codes of {form}")
    ready = iter(coded.values())  # each weight is coded once; `quantize` asks in the model's order
    return vector_quantization.quantize(model, lambda _: next(ready), layers=list(coded), retrain=retrain, measure=measure)


def _forms(k: int, length: int, stages: int, rank: int) -> dict[str, Callable[[Tensor], Quantized]]:
    def product(weight: Tensor) -> Quantized:
        columns = weight[0].numel()
        segments = next(columns // size for size in range(max(1, length), 0, -1) if columns % size == 0)
        return vector_quantization.product_quantize(weight, k, segments)

    return {
        "scalar": lambda weight: vector_quantization.scalar_kmeans(weight, k),
        "product": product,
        "residual": lambda weight: vector_quantization.residual_quantize(weight, k, stages),
        "binary": lambda weight: vector_quantization.binarize(weight, scaled=True),
        "low rank": lambda weight: vector_quantization.low_rank(weight, rank),
    }


def _smaller(code: Callable[[Tensor], Quantized], weight: Tensor) -> Quantized | None:
    """Return the coded weight, if the layer has enough rows for these codes and takes fewer bits by them."""
    try:
        coded = code(weight)
    except ValueError:
        return None
    return coded if coded.compression_rate > 1 else None


CODES = {"codes": "scalar", "k": 16, "length": 4, "stages": 2, "rank": 8}
METHODS: dict[str, Method] = {
    "vector-quantization": Method(
        "Gong 2014", "replaces weights by short codes and a codebook", False, _quantize, CODES
    ),
    "weight-pruning": Method(
        "Han 2015", "sets the smallest weights to zero", False, weight_pruning.prune, {"sparsity": 0.5}
    ),
    "network-trimming": Method(
        "Hu 2016", "removes neurons and filters that are zero on most images (APoZ)", True, network_trimming.prune, {}
    ),
    "filter-pruning": Method(
        "Li 2017", "removes the filters of smallest L1 norm", False, filter_pruning.prune, {"keep": 0.5}
    ),
    "deep-compression": Method(
        "Han 2016", "prunes weights, shares and trains the values of the rest, and codes them", False,
        deep_compression.compress_network, {"sparsity": 0.5},
    ),
    "channel-pruning": Method(
        "He 2017", "chooses channels by a LASSO and refits the next layer by least squares", True, channel_pruning.prune,
        {"keep": 0.5},
    ),
    "thinet": Method(
        "Luo 2017", "removes the channels that the next layer's outputs depend on least", True, thinet.prune, {"keep": 0.5}
    ),
}  # fmt: skip
