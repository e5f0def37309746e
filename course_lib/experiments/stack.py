"""The stack: LeNet-5 trimmed to fewer neurons, then pruned, quantized and coded by Deep Compression.

All stacks of a network have the same epochs at each of their steps, whatever is left of the network, the one that is not
trimmed too. At each step as many weights are left of each: so files of a step hold as many numbers, and differ in the places
that these have, in the biases, and in accuracy.
"""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from course_lib import plans, storage, training
from course_lib.data import Splits
from course_lib.experiments import equal_budgets, one_shot, rows
from course_lib.experiments.deep_compression import centroid_rate
from course_lib.experiments.kept_networks import keep
from course_lib.masks import weight_layers
from course_lib.papers import deep_compression, weight_pruning
from course_lib.streams import stream

FEWER = (10, 30, 60, 120)  # weights of the trained network over those that are left, step by step
CODE_BITS = (3, 4)  # of dense layers and biases; convolutions have one more
GAP_BITS = (0, 4, 5, 6, 8)  # to choose from, layer by layer; 0: a code for every weight, zeros too
TRIMMED, PRUNED, CODED = "trimmed", "pruned", "coded"
WHOLE = "whole"  # the start that is not trimmed
PRUNING_LR = 0.1  # chosen by the rows of kind 'lr', by validation accuracy; higher rates were not tried


def stack(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Return a row with a point per stage: trimmed and retrained; pruned to each rate and retrained; coded with few bits.

    Pruning goes on from rate to rate. Latencies are those of the trimmed network: pruned weights are zeros that torch multiplies.
    """
    begun = equal_budgets.start(setting, splits, work, seed)
    model, removed = trimmed(setting, splits, begun, seed)
    training.fit(model, splits, epochs=work["trimming"], lr=setting["lr"], **equal_budgets.how(setting, splits, seed))
    about = dict(validation_before=rows.percent(begun.model, splits.validation), widths=begun.widths, batch=equal_budgets.BATCH)
    about |= rows.baseline(begun.model, splits) | dict(dense_bytes=plain_bytes(begun.model)) | rows.latencies(model, splits)
    place = setting["network"], splits.name, setting["method"], setting["rate"], seed
    keep(model, *place)
    done, lr = work["trimming"], setting["lr"]
    points = [
        dict(stage=TRIMMED, fewer=1, epochs=done, lr=lr) | _figures(model, splits, removed) | dict(bytes=plain_bytes(model))
    ]
    for step, fewer in enumerate(work["fewer"], start=1):
        how = _pruning(setting, splits, work, seed, lr=PRUNING_LR, step=step)
        model, removed = pruned(model, splits, how, left=_weights(begun.model) / fewer)
        keep(model, *place, stage=f"{fewer}x")
        done += work["pruning"]
        sparse = dict(stage=PRUNED, epochs=done, lr=PRUNING_LR) | _figures(model, splits, removed)
        sparse |= dict(fewer=fewer)
        points += [sparse, *(_coded(model, setting, splits, work, seed, sparse, bits) for bits in work["bits"])]
    return about | dict(points=points)


def trimmed(setting: dict, splits: Splits, begun: equal_budgets.Start, seed: int) -> tuple[nn.Module, float | None]:
    """Return a copy of the trained network, narrowed by the setting's criterion, and its test accuracy; None if it is whole."""
    if setting["method"] == WHOLE:
        return copy.deepcopy(begun.model), None
    model = one_shot.by_filter(setting["method"], begun.model, begun.widths, begun.images, seed)
    return model, rows.percent(model, splits.test)


def pruned(model: nn.Module, splits: Splits, retrain: training.Recipe, *, left: float) -> tuple[nn.Module, float]:
    """Return a network of which so many weights are left, retrained, and its test accuracy before that."""
    shares = plans.lamp(model, _weights(model) / left)
    found = weight_pruning.prune(model, None, shares, retrain=retrain, measure=lambda network: rows.percent(network, splits.test))
    return found.model, found.record[0]["pruned"]


def pruning_rate(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Return a row of the choice of PRUNING_LR: the trained network pruned at once and retrained as in a step of the stack."""
    dense = equal_budgets.start(setting, splits, work, seed).model
    how = _pruning(setting, splits, work, seed, lr=setting["lr"], step=1)
    model, removed = pruned(dense, splits, how, left=_weights(dense) / FEWER[1])
    about = rows.baseline(dense, splits) | dict(epochs=work["pruning"], batch=equal_budgets.BATCH)
    return about | rows.latencies(dense, splits) | _figures(model, splits, removed)


def _pruning(setting: dict, splits: Splits, work: Mapping[str, int], seed: int, *, lr: float, step: int) -> training.Recipe:
    """The retraining after a step of pruning."""
    arguments = equal_budgets.how(setting, splits, seed) | dict(seed=stream(seed, "pruning", step))
    return training.recipe(splits, epochs=work["pruning"], lr=lr, schedule="linear", weight_decay=0.0, **arguments)


def _coded(
    model: nn.Module, setting: dict, splits: Splits, work: Mapping[str, int], seed: int, sparse: Mapping[str, Any], bits: int
) -> dict[str, Any]:
    """The point of a pruned network, whose own is `sparse`, when its weights share few values, which are trained, in a file."""
    widths = dict(conv=bits + 1, dense=bits, bias=bits)
    quantized = deep_compression.quantize(model, bits=widths)
    fewer, lr = sparse["fewer"], centroid_rate(quantized)
    how = equal_budgets.how(setting, splits, seed) | dict(seed=stream(seed, "centroids", fewer, bits))
    finetune = training.recipe(splits, epochs=work["centroids"], lr=lr, schedule="linear", weight_decay=0.0, **how)
    tuned = deep_compression.finetune_centroids(quantized, finetune, bits=widths)
    file, gaps = smallest_file(tuned, widths)
    about = dict(stage=CODED, fewer=fewer, bits=bits, gap_bits=gaps, epochs=sparse["epochs"] + work["centroids"], lr=lr)
    return about | _figures(tuned, splits, rows.percent(quantized, splits.test)) | dict(bytes=len(storage.encode(file)))


def smallest_file(model: nn.Module, bits: Mapping[str, int]) -> tuple[storage.CompressedNetwork, dict[str, int]]:
    """Return a quantized network as a file of Huffman's words, with the bits of a gap that make each layer smallest."""
    forms = [deep_compression.compress(model, bits=bits, index_bits=gaps).tensors for gaps in GAP_BITS]

    def alone(tensor: storage.CodedTensor | Tensor) -> int:
        return len(storage.encode(storage.CompressedNetwork("", {"": tensor}, "huffman")))

    tensors = {name: min((form[name] for form in forms), key=alone) for name in forms[0]}
    gaps = {layer: tensors[f"{layer}.weight"].index_bits for layer in weight_layers(model)}
    return storage.CompressedNetwork("", tensors, "huffman"), gaps


def plain_bytes(model: nn.Module) -> int:
    """Return the bytes of a network in our file, all numbers as they are."""
    tensors = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    return len(storage.encode(storage.CompressedNetwork("", tensors, "fixed")))


def _weights(model: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in weight_layers(model).values())


def _figures(model: nn.Module, splits: Splits, removed: float | None) -> dict[str, Any]:
    return rows.outcome(model, splits, removed=removed, timed=False)
