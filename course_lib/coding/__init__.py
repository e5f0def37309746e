"""The compressed file in numpy, without torch: its coders, its readers, and what `inspect` tells of it."""

from pathlib import Path

import numpy as np

from course_lib.coding import compact, reading
from course_lib.coding.reading import Row


def read(path: Path, max_weights: int) -> tuple[str, str, list[tuple[Row, list[np.ndarray]]]]:
    """Return the network's name, the coder's, and of each tensor its values, or its codebook, codes and gaps, all flat.

    Args:
        path: a file of either version.
        max_weights: of all tensors together, a dimension of 0 counted as 1.

    Raises:
        ValueError: the file is damaged, or declares more weights.
    """
    with path.open("rb") as file:
        first = file.read(1)
    return (compact if first == bytes([compact.FIRST_BYTE]) else reading).read(path, max_weights)
