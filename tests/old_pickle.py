"""Pickles as Python 2 and the NumPy of 2009 wrote them, as CIFAR-10's official archive holds them."""

import io
import pickle
import struct

import numpy as np


class _Python2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, and a dtype with numbers where booleans belong."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, content: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch[bytes] = save_bytes

    def reducer_override(self, thing):
        if not isinstance(thing, np.dtype):
            return NotImplemented
        return np.dtype, (b"u1", 0, 1), (3, b"|", None, None, None, -1, -1, 0)


def batch(labels: list[int], pixels: np.ndarray) -> bytes:
    """One batch of CIFAR-10: labels and uint8 pixels (N, 3072)."""
    stream = io.BytesIO()
    _Python2(stream, protocol=2).dump({b"batch_label": b"a batch", b"labels": labels, b"data": pixels})
    return stream.getvalue()
