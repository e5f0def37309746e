"""What a file that takes part holds: the numbers of one of two networks, of any widths. No code of its author is run."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_lib import coding
from course_lib.coding.compact import LAYOUTS
from course_lib.coding.reading import RAW, Row

LARGEST = 64 << 10  # bytes of a file
MOST_WEIGHTS = 500_000  # LeNet-5 has 431,080
MOST_MACS = 5_000_000  # for one digit; LeNet-5 needs 2,293,000
POSITIONS = {"conv1.weight": 24 * 24, "conv2.weight": 8 * 8}  # where a layer's weights are used more than once
NETWORKS = {layout.network: layout for layout in LAYOUTS}


@dataclass(frozen=True)
class Entry:
    """A network that may take part; raises ValueError, naming what was found and what is allowed, for any other."""

    network: str
    tensors: Mapping[str, np.ndarray]  # float32, weights and biases by name

    def __post_init__(self):
        check(self.network, {name: tensor.shape for name, tensor in self.tensors.items()})
        for name, tensor in self.tensors.items():
            if not np.isfinite(tensor).all():
                raise ValueError(f"{name} holds infinity or NaN; allowed are finite numbers")

    @property
    def widths(self) -> str:
        """Channels or neurons of each layer but the last, such as '20-50-500'."""
        return "-".join(str(width) for width in _widths({name: tensor.shape for name, tensor in self.tensors.items()})[:-1])


def decoded(content: bytes) -> Entry:
    """Return the network in a file's content.

    Raises:
        ValueError: it is too large, damaged, or holds something that may not take part; the message says which.
    """
    if len(content) > LARGEST:
        raise ValueError(f"the file has more than {LARGEST:,} bytes")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        network, _, stored = coding.read(path, MOST_WEIGHTS)
    return Entry(network, {row.name: _dense(row, arrays) for row, arrays in stored})


def _dense(row: Row, arrays: list[np.ndarray]) -> np.ndarray:
    if row.parts == RAW:
        return arrays[0].astype(np.float32).reshape(row.shape)
    codebook, codes, gaps = arrays
    values = codebook[codes]
    if row.kind:  # the others are zero
        values, stored = np.zeros(math.prod(row.shape), np.float32), values
        values[np.cumsum(gaps) - 1] = stored
    return values.reshape(row.shape)


def check(network: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless a network of this name, with tensors of these shapes, may take part."""
    if network not in NETWORKS:
        raise ValueError(f"the file holds a network named {network[:40]!r}; allowed are {' and '.join(map(repr, NETWORKS))}")
    layout = NETWORKS[network]
    names = layout.shapes(*[1] * layout.widths).keys()
    if shapes.keys() != names:
        found = ", ".join(sorted(shapes))[:200] or "none"
        raise ValueError(f"the file's tensors are {found}; a {network} has exactly {', '.join(names)}")
    widths = _widths(shapes)[:-1]
    for name, shape in layout.shapes(*widths).items():
        if tuple(shapes[name]) != shape or 0 in shape:
            told = "-".join(map(str, widths))
            raise ValueError(
                f"{name} has shape {tuple(shapes[name])}; in a {network} of widths {told} it has {shape}, none of them 0"
            )
    weights = sum(math.prod(shape) for shape in shapes.values())
    macs = sum(math.prod(shape) * POSITIONS.get(name, 1) for name, shape in shapes.items() if name.endswith("weight"))
    if weights > MOST_WEIGHTS or macs > MOST_MACS:
        allowed = f"allowed are {MOST_WEIGHTS:,} and {MOST_MACS:,}"
        raise ValueError(f"the network has {weights:,} weights and takes {macs:,} multiplications for a digit; {allowed}")


def _widths(shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    """How many outputs each layer has, in the order of the names."""
    return [shapes[name][0] if shapes[name] else 0 for name in sorted(shapes) if name.endswith("weight")]
