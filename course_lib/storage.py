"""Codes as bytes: a code of b bits takes b bits."""

import numpy as np
import torch
from torch import Tensor


def pack_bits(codes: Tensor, width: int) -> Tensor:
    """Codes in `width` bits each, the highest bit first, zeros behind the last one; uint8 of shape (ceil(n width / 8),).

    Args:
        codes: any shape, integers from 0 to 2 ** width - 1.
        width: 1 to 31.

    Raises:
        ValueError: a width out of range, or a code that does not fit.

    >>> pack_bits(torch.tensor([1, 2, 3, 0]), 2).tolist() == [0b01_10_11_00]
    True
    """
    if not 1 <= width <= 31:
        raise ValueError(f"width is {width}; allowed are 1 to 31 bits")
    flat = codes.detach().cpu().flatten().numpy()
    if flat.size and not (flat.min() >= 0 and int(flat.max()) < 2**width):
        raise ValueError(f"codes go from {flat.min()} to {flat.max()}; {width} bits hold 0 to {2**width - 1}")
    bits = np.empty((flat.size, width), np.uint8)
    for place in range(width):
        bits[:, place] = (flat >> (width - 1 - place)) & 1
    return torch.from_numpy(np.packbits(bits))


def unpack_bits(packed: Tensor, width: int, count: int) -> Tensor:
    """The `count` codes that `pack_bits` packed; uint8 up to a width of 8, else int32.

    Raises:
        ValueError: `packed` does not have the length of that many codes.
    """
    if len(packed) != -(-count * width // 8):
        raise ValueError(f"packed has {len(packed)} bytes; {count} codes of {width} bits take {-(-count * width // 8)}")
    bits = np.unpackbits(packed.cpu().numpy(), count=count * width).reshape(count, width)
    codes = np.zeros(count, np.uint8 if width <= 8 else np.int32)
    for place in range(width):
        codes = (codes << 1) | bits[:, place]
    return torch.from_numpy(codes)
