"""A compressed network as one file: the surgery it went through, and its tensors, coded where they have codes.

The file is a safetensors one. Its metadata hold the steps of surgery, which `load` takes on a fresh network, and what is needed
to decode. A weight that is mostly zeros is written as a bit for each weight and the values of the others.
"""

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import storage
from course_lib.files import replacing
from course_lib.storage.codes import Quantized, Sparse, pack, unpack
from course_lib.surgery import steps

PLAN = "kept channels"  # keys of the file's metadata: steps of surgery,
CODES = "codes"  # and facts about coded tensors, both as JSON
COMPRESSED = "compressed network"  # the tensor that holds the bytes of a `CompressedNetwork`
SPARSE = 1 / 16  # share of zeros from which a bit for each weight pays

Codes = Mapping[str, Quantized] | storage.CompressedNetwork  # of parameters by name


def save(model: nn.Module, path: str | Path, codes: Codes | None = None) -> None:
    """Write a network, narrowed or not; the file is written aside and then takes its name.

    Args:
        model: any network; all surgery that it or a module within it went through is in the file.
        path: the file.
        codes: what stands for some of its parameters, written instead of their floats.

    Raises:
        ValueError: codes for something that the model has not, or that do not decode to what it has.
    """
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    codes = {} if codes is None else codes
    _check(whole, codes)
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    if isinstance(codes, storage.CompressedNetwork):
        tensors[COMPRESSED] = torch.from_numpy(np.frombuffer(storage.encode(codes), np.uint8).copy())
        coded = set(codes.tensors)
    else:
        coded = set(codes)
    for name, tensor in whole.items():
        form = codes.get(name) if isinstance(codes, Mapping) else None
        if form is None and name not in coded and tensor.dtype == torch.float32 and (tensor == 0).float().mean() > SPARSE:
            form = Sparse.of(tensor)
        if form is not None:
            parts, facts[name] = pack(form)
            tensors |= {f"{name}.{field}": part for field, part in parts.items()}
        elif name not in coded:
            tensors[name] = tensor.clone().contiguous()
    with replacing(path) as scratch:
        save_file(tensors, scratch, {PLAN: json.dumps(steps.of(model)), CODES: json.dumps(facts)})


def load(path: str | Path, fresh_model: nn.Module) -> nn.Module:
    """Return the network of a file of `save`: the surgery is repeated on a copy of `fresh_model`, then the weights are read.

    Args:
        path: a file of `save`.
        fresh_model: the network before any surgery, whatever its weights; it is left as it was. Its device is the result's.

    Returns:
        The network, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no file of `save`, or of another network; the message names what differs.
    """
    taken, tensors = read(path)
    try:
        model = steps.replay(fresh_model, taken) if taken else copy.deepcopy(fresh_model)
        model.load_state_dict(tensors)
    except (RuntimeError, ValueError, AttributeError) as reason:
        raise ValueError(f"{path} holds another network than fresh_model: {reason}") from reason
    return model.eval()


def read(path: str | Path) -> tuple[list[dict], dict[str, Tensor]]:
    """Return the steps of surgery of a file of `save`, and its tensors, decoded. Raises as `load`."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path is {str(path)!r}; there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            taken, facts = json.loads(metadata[PLAN]), json.loads(metadata.get(CODES, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        for name, about in facts.items():
            prefix = f"{name}."
            parts = {key: tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
            tensors[name] = unpack({key.removeprefix(prefix): part for key, part in parts.items()}, about).decode()
        if COMPRESSED in tensors:
            tensors |= _decoded(tensors.pop(COMPRESSED))
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as reason:
        raise ValueError(f"{path} is damaged, or is no network saved by this course ({reason!r})") from reason
    return taken, tensors


def _decoded(content: Tensor) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.cnet"
        file.write_bytes(content.numpy().tobytes())
        return storage.load(file).state_dict()


def _check(whole: Mapping[str, Tensor], codes: Codes) -> None:
    decoded = codes.state_dict() if isinstance(codes, storage.CompressedNetwork) else {k: c.decode() for k, c in codes.items()}
    for name, tensor in decoded.items():
        if name not in whole:
            raise ValueError(f"codes names {name!r}; the model's tensors are {', '.join(whole)}")
        if whole[name].shape != tensor.shape or not torch.equal(whole[name], tensor.cpu().to(whole[name].dtype)):
            raise ValueError(f"codes of {name!r} decode to something else than the model's tensor; it was trained since")
