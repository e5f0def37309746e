"""Each paper's method, set so that the file of its network has a wanted size: bytes are what all seven have in common.

Quantization and pruned weights leave the MACs as they are, so these methods cannot be compared by MACs. The sizes are searched
with trained networks before any retraining, and no image takes part in that.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from course_lib import methods, plans, training
from course_lib.data import Splits
from course_lib.experiments import equal_shapes, rows
from course_lib.experiments.equal_budgets import BATCH, UNTRAINED, Start, how, start
from course_lib.streams import stream

STRUCTURED = ("network-trimming", "filter-pruning", "channel-pruning", "thinet")
QUANTIZED, SPARSE, DEEP = "vector-quantization", "weight-pruning", "deep-compression"
CODE_BITS = range(1, 9)  # of a weight in a codebook for each layer
# Bits of a shared weight by rate. With the paper's own, at 16x, even a network of which nothing is pruned has a file that is more
# than 5x smaller; wider codes make one that is 4x smaller.
DEEP_BITS = {4: dict(conv=9, dense=9), 16: dict(conv=8, dense=5)}
CENTROIDS = dict(epochs=2, lr=1e-3, weight_decay=0.0)  # of the last epochs of Deep Compression, in which the centroids learn


def file(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Return a row of a method as `methods.apply` runs it; `removed` is the test accuracy without any retraining."""
    begun, method = start(setting, splits, work, seed), setting["method"]
    settings = settings_for(setting, begun, seed)
    result = methods.apply(method, begun.model, begun.images, **settings)
    about = rows.baseline(begun.model, splits) | dict(dense_bytes=rows.file_bytes(begun.model))
    if method == QUANTIZED:  # the paper retrains nothing
        return about | UNTRAINED | rows.outcome(result.model, splits, codes=result.codes)
    removed = rows.percent(result.model, splits.test)
    trained = methods.apply(method, begun.model, begun.images, **settings, **_training(setting, splits, seed))
    return about | dict(batch=BATCH) | rows.outcome(trained.model, splits, removed=removed, codes=trained.codes)


def settings_for(setting: Mapping[str, Any], begun: Start, seed: int) -> dict[str, Any]:
    """Return the settings of a method with which its file comes nearest to being `rate` times smaller than the dense one's.

    Args:
        setting: its 'method' and 'rate'.
        begun: the trained network, the widths of all structured methods, and the images that choose.
        seed: of the trained network.
    """
    model, method, rate = begun.model, setting["method"], setting["rate"]
    target = rows.file_bytes(model) / rate
    if method == QUANTIZED:
        coded = [dict(codes="scalar", k=2**bits) for bits in CODE_BITS]
        return min(coded, key=lambda form: abs(_size(method, model, form) - target))
    if method in (SPARSE, DEEP):
        bits = dict(bits=DEEP_BITS[rate]) if method == DEEP else {}

        def pruned(share: float) -> dict[str, Any]:
            return dict(sparsity=plans.lamp(model, 1 / share)) | bits

        return pruned(equal_shapes.nearest(lambda share: _size(method, model, pruned(share)), target))
    draws, count = dict(seed=stream(seed, method)), len(begun.images.labels)
    more = {"channel-pruning": dict(images=count) | draws, "thinet": dict(per_class=count) | draws}
    return dict(keep=begun.widths) | more.get(method, {})


def _size(method: str, model: nn.Module, settings: Mapping[str, Any]) -> int:
    result = methods.apply(method, model, None, **settings)
    return rows.file_bytes(result.model, result.codes)


def _training(setting: Mapping[str, Any], splits: Splits, seed: int) -> dict[str, Any]:
    """Return what a method takes to be retrained for the epochs of a setting, in all."""
    arguments, epochs = how(setting, splits, seed), setting["epochs"]
    if setting["method"] == "thinet":  # which would call `retrain` after each layer
        return dict(finish=training.recipe(splits, epochs=epochs, lr=setting["lr"], **arguments))
    if setting["method"] != DEEP:
        return dict(retrain=training.recipe(splits, epochs=epochs, lr=setting["lr"], **arguments))
    retrain = training.recipe(splits, epochs=epochs - CENTROIDS["epochs"], lr=setting["lr"], **arguments)
    return dict(retrain=retrain, finetune=training.recipe(splits, **arguments | CENTROIDS))
