"""Networks that the combined runs leave in build/, for coders that are no part of the course; a run makes them again."""

from pathlib import Path

from torch import nn

from course_lib.files import ROOT
from course_lib.storage import networks

FOLDER = ROOT / "build" / "combined"


def keep(model: nn.Module, network: str, dataset: str, start: str, rate: int, seed: int, stage: str = "start") -> None:
    """Write a network, with the surgery that it went through.

    Args:
        model: the network.
        network: its name for `models.build`.
        dataset: what it was trained on.
        start: how it was narrowed.
        rate: how many times smaller it was made by that.
        seed: of the trained network.
        stage: 'start', or how many times fewer weights are left, such as '30x'.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    networks.save(model, path(network, dataset, start, rate, seed, stage))


def path(network: str, dataset: str, start: str, rate: int, seed: int, stage: str = "start") -> Path:
    """Return where a network lies; arguments as for `keep`."""
    return FOLDER / f"{network}.{dataset}.{start}-{rate}x.{stage}.seed-{seed}.safetensors"
