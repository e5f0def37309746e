"""The file from which training goes on: its state after each epoch, and what it is the state of."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.files import replacing


def identity(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """What tells two runs with the same settings apart: the shapes of parameters and buffers, and a digest of each mask."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    digests = {name: hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest()[:16] for name, mask in masks.items()}
    return {f"shape of {name}": tuple(tensor.shape) for name, tensor in tensors} | {
        f"mask of {name}": digest for name, digest in digests.items()
    }


def store(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any], epochs: list[dict]
) -> None:
    """Writes the state after some epochs; it is written aside and then takes its name, so the one before is never damaged."""
    with replacing(path) as scratch:
        state = dict(settings=settings, model=model.state_dict(), optimizer=optimizer.state_dict(), epochs=epochs)
        torch.save(state, scratch)


def stored(path: str | Path | None, settings: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """What an earlier run with the same settings has stored; None if there is nothing.

    Raises:
        ValueError: the file cannot be read, or is of a run with other settings; the message names what differs.
    """
    if path is None or not Path(path).exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location=device)
        there = state["settings"]
    except Exception as reason:
        raise ValueError(f"resume_from: {path} cannot be read ({reason}); delete it to start afresh") from reason
    differing = [
        f"{key}: {there.get(key)!r} there, {settings.get(key)!r} here"
        for key in {**settings, **there}
        if there.get(key) != settings.get(key)
    ]
    if differing:
        raise ValueError(f"resume_from: {path} is of another run ({'; '.join(differing)}); delete it to start afresh")
    return state


def restore(state: dict[str, Any] | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Loads what `stored` gave, if anything, and gives the history's epochs."""
    if state is None:
        return []
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epochs"]
