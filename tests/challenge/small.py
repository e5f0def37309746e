"""Small files that may take part."""

import math

import numpy as np
import torch

from course_lib import storage
from course_lib.coding.compact import LAYOUTS
from course_lib.storage import CodedTensor, CompressedNetwork

SHAPES = {layout.network: layout.shapes for layout in LAYOUTS}


def small(
    network: str = "lenet-5", widths: tuple[int, ...] = (2, 3, 4), coder: str = "context", seed: int = 0
) -> CompressedNetwork:
    """A network of random levels, half of them zero; all coders but 'context' store the gaps between the others."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, shape in SHAPES[network](*widths).items():
        levels = torch.from_numpy(rng.integers(-1, 2, math.prod(shape)) * rng.integers(0, 2, math.prod(shape)))
        values, none = torch.tensor([-0.5, 0.0, 0.5]), torch.zeros(0, dtype=torch.int64)
        if coder == "context":
            tensors[name] = CodedTensor(torch.Size(shape), values, levels + 1, none, 0)
        elif name.endswith("bias"):
            tensors[name] = levels.view(shape).half()
        else:
            places = torch.unique(torch.cat([levels.nonzero().flatten(), torch.arange(3, len(levels), 4)]))  # no gap is above 4
            gaps = torch.diff(places, prepend=torch.tensor([-1]))
            tensors[name] = CodedTensor(torch.Size(shape), values, levels[places] + 1, gaps, 2)
    return CompressedNetwork(network, tensors, coder)


def content(*arguments, **settings) -> bytes:
    """The file of `small`."""
    return storage.encode(small(*arguments, **settings))
