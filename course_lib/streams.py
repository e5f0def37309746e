"""Random streams that do not overlap: one for each purpose of each seed."""

from zlib import crc32

import numpy as np


def stream(seed: int, *purpose: int | str) -> int:
    """Return a 63-bit seed for one purpose, such as `stream(3, "retraining", 2)`: no two purposes of any seeds share one.

    numpy's SeedSequence mixes seed and purpose. A sum of the two would not do: what seed 0 draws in its round 2, seed 1 might
    draw in its round 1.

    >>> stream(0, 1) == stream(0, 1), stream(0, 2) == stream(1, 1)
    (True, False)
    """
    key = [crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0] >> 1)
