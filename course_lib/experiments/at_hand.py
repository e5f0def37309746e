"""Files that users have at hand: a network as safetensors, packed by xz, in int8 by ONNX Runtime, and with shared weights.

Nothing is trained after the quantization: these are the files that one gets within a minute from a trained network, whole or
narrowed. What is left to gain by training the shared weights is in the rows of kind 'stack'.
"""

import copy
import lzma
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib import storage
from course_lib.data import Splits
from course_lib.experiments import equal_budgets, one_shot, onnx_int8, rows
from course_lib.experiments.kept_networks import keep
from course_lib.papers import deep_compression
from course_lib.streams import stream

WHOLE = "whole"
FLOAT, HALF = "safetensors, float32", "safetensors, float16"
CODE_BITS = (8, 6, 5, 4)  # of a shared weight, in each layer


def shared_weights(bits: int) -> str:
    """Return the name of a file of shared weights with Huffman's words."""
    return f"{bits}-bit shared weights"


def at_hand(setting: dict, splits: Splits, work: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Return a row with a point per file; 'bytes' are those of the file, 'packed' those of the same file after xz.

    The latencies of ONNX files are those of ONNX Runtime, of the others those of torch; 'removed' is the accuracy of the
    network when it was just narrowed, 'float_accuracy' when it was retrained: what the file costs is the difference to that.
    """
    begun = equal_budgets.start(setting, splits, work, seed)
    model, about = begun.model, equal_budgets.UNTRAINED | dict(removed=None)
    if setting["method"] != WHOLE:
        model, about = narrowed(setting, splits, work, seed, begun)
        keep(model, setting["network"], splits.name, setting["method"], setting["rate"], seed)
    calibration = splits.train.take(work["calibration"], stream(seed, "calibration")).images
    whole = rows.outcome(model, splits, removed=about.pop("removed"))
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for form, content, network in files(model, Path(folder), calibration):
            accuracies = {part: rows.percent(network, getattr(splits, part)) for part in ("test", "validation")}
            figures = dict(accuracy=accuracies["test"], validation=accuracies["validation"])
            if isinstance(network, onnx_int8.OnnxNetwork):
                figures |= rows.latencies(network, splits)
            points.append(dict(form=form) | whole | figures | dict(bytes=len(content), packed=packed(content)))
    about |= dict(float_accuracy=whole["accuracy"], float_validation=whole["validation"], widths=begun.widths)
    return rows.baseline(begun.model, splits) | about | dict(onnx=onnx_int8.versions(), points=points)


def narrowed(
    setting: dict, splits: Splits, work: Mapping[str, int], seed: int, begun: equal_budgets.Start
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the trained network cut at once and retrained, and the row's epochs, rate, batch and 'removed'."""
    model = one_shot.by_filter(setting["method"], begun.model, begun.widths, begun.images, seed)
    removed = rows.percent(model, splits.test)
    about = equal_budgets.trained(model, setting, splits, seed, epochs=work["retraining"], lr=setting["lr"])
    return model, about | dict(removed=removed)


def files(model: nn.Module, folder: Path, calibration: torch.Tensor) -> Iterator[tuple[str, bytes, nn.Module]]:
    """Yield each form of a network: its name, the content of the file, and the network that the file holds."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    yield FLOAT, save(tensors), model
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    yield HALF, save(halves), _with(model, halves)
    for form, path in onnx_int8.write(model, folder, calibration).items():
        yield form, path.read_bytes(), onnx_int8.OnnxNetwork(path)
    for bits in CODE_BITS:
        file = deep_compression.compress(model, bits=bits, index_bits=0)
        yield shared_weights(bits), storage.encode(file), _with(model, file.state_dict())


def packed(content: bytes) -> int:
    """Return the bytes of a file after xz, at its strongest setting; xz comes with Python, and zstd does not."""
    return len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


def _with(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    other = copy.deepcopy(model)
    other.load_state_dict(tensors)
    return other.eval()
