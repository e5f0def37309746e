"""The surgery that made a network what it is, as steps that JSON can hold and that a fresh network goes through again."""

import copy
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

REPLAYS = {"kept": ("course_lib.surgery", "narrow"), "reads": ("course_lib.surgery.inputs", "keep_inputs")}


def step(kind: str, channels: Mapping[str, Sequence[int]], example_input: Tensor) -> dict[str, Any]:
    """Return a step: `kind` of `REPLAYS`, which channels of which layer, and the input it was traced with."""
    return {
        kind: {layer: [int(channel) for channel in kept] for layer, kept in channels.items()},
        "input": list(example_input.shape),
        "dtype": str(example_input.dtype).removeprefix("torch."),
    }


def of(model: nn.Module) -> list[dict[str, Any]]:
    """Return all steps that were taken on `model` and on the modules within it; these carry their name under 'at'."""
    return [
        {"at": name, **step} if name else step
        for name, module in model.named_modules()
        for step in getattr(module, "surgery_steps", [])
    ]


def replay(model: nn.Module, taken: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Return a copy of `model` that has gone through the steps; its weights are cut, not chosen anew.

    Raises:
        ValueError: a step that does not fit the model.
    """
    model = copy.deepcopy(model)
    for step in taken:
        kind = next((kind for kind in REPLAYS if kind in step), None)
        if kind is None:
            raise ValueError(f"a step of surgery has {', '.join(step)}; expected one of {', '.join(REPLAYS)}")
        module, function = REPLAYS[kind]
        at = step.get("at", "")
        part = model.get_submodule(at)
        weight, dtype = next(part.parameters()), getattr(torch, step["dtype"])
        dtype = weight.dtype if dtype.is_floating_point else dtype  # the network may have another one since
        example = torch.zeros(step["input"], dtype=dtype, device=weight.device)
        part = getattr(importlib.import_module(module), function)(part, step[kind], example)
        if at:
            parent, _, child = at.rpartition(".")
            setattr(model.get_submodule(parent), child, part)
        else:
            model = part
    return model
