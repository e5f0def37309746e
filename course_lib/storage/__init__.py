"""The compressed file of a network: write, read, check.

A compressed tensor is a codebook, a code for each stored entry, and the gap of each entry to the one before it (Han et al.
2016, sections 2 to 4). A coder turns codes and gaps, streams of small integers, into bytes.

| bytes | file, version 1; numbers are little-endian |
| --- | --- |
| 4, 1 | `CNET`, version |
| 4, 4 | length of the header, its CRC-32 |
| length | header: deflated JSON, [network, coder, [[tensor, shape, kind, entries, lengths, CRC-32s], ...]] |
| lengths | the tensors in this order, each as its parts `CODED` or `RAW`; the file ends behind the last |

The kind of a coded tensor is its index bits, that of a raw one its type. The coder 'context' writes a file of version 2, which
`course_lib.coding.compact` describes.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_lib.coding import coders, read
from course_lib.coding.coders import CODERS, Coder
from course_lib.coding.compact import CODER
from course_lib.coding.inspecting import inspect
from course_lib.coding.reading import HEADER_LIMIT, MAGIC, PREFIX, RAW, VERSION, CorruptFileError, Row, locating
from course_lib.files import replacing
from course_lib.storage import compact
from course_lib.storage.coded import RAW_TYPES, CodedTensor, CompressedNetwork

__all__ = ["CODERS", "CodedTensor", "CompressedNetwork", "CorruptFileError", "coders", "encode", "inspect", "load", "save"]


def save(compressed: CompressedNetwork, path: str | Path) -> None:
    """Write the file; an old one at `path` stays whole until the new one is. Raises ValueError as `encode`."""
    content = encode(compressed)
    with replacing(path) as scratch:
        scratch.write_bytes(content)


def encode(compressed: CompressedNetwork) -> bytes:
    """Return the content of the file.

    Raises:
        ValueError: so many tensors that the header is longer than `HEADER_LIMIT`; or gaps, which the coder 'context' has not.
    """
    if compressed.coder == CODER:
        return compact.encode(compressed)
    rows, sections = [], []
    for name, tensor in compressed.tensors.items():
        if isinstance(tensor, CodedTensor):
            kind, entries, parts = tensor.index_bits, len(tensor.codes), _encoded(tensor, CODERS[compressed.coder])
        else:
            kind, entries, parts = RAW_TYPES[tensor.dtype], tensor.numel(), [_to_bytes(tensor)]
        rows.append(
            [name, list(tensor.shape), kind, entries, [len(part) for part in parts], [zlib.crc32(part) for part in parts]]
        )
        sections += parts
    text = json.dumps([compressed.network, compressed.coder, rows], separators=(",", ":")).encode("ascii")
    if len(text) > HEADER_LIMIT:
        raise ValueError(f"the header of {len(rows)} tensors takes {len(text)} bytes; allowed are {HEADER_LIMIT}")
    header = zlib.compress(text, 9, wbits=-15)  # raw: a checksum of its own would be the second one
    prefix = PREFIX.pack(MAGIC, VERSION, len(header), zlib.crc32(header))
    return b"".join([prefix, header, *sections])


def load(path: str | Path, max_weights: int = 2**28) -> CompressedNetwork:
    """Reads a file that `save` wrote; of one that another hand wrote, it checks each size before it gives memory to it.

    Codes come as uint8 up to k = 256, else int32; gaps as int32.

    Args:
        path: the file.
        max_weights: elements of all tensors together, a dimension of 0 counted as 1; a file of more is refused.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: the file is damaged; the message says where.
    """
    with locating(Path(path).name):
        network, coder, stored = read(Path(path), max_weights)
        return CompressedNetwork(network, {row.name: _tensor(row, arrays) for row, arrays in stored}, coder)


def _tensor(row: Row, arrays: list[np.ndarray]) -> CodedTensor | Tensor:
    parts = [torch.from_numpy(array) for array in arrays]
    return parts[0].view(row.shape) if row.parts == RAW else CodedTensor(torch.Size(row.shape), *parts, row.kind)


def _to_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().numpy().astype(RAW_TYPES[tensor.dtype]).tobytes()


def _encoded(tensor: CodedTensor, coder: Coder) -> list[bytes]:
    """The parts `CODED`."""
    codes = coder.encode(tensor.codes.cpu(), len(tensor.codebook))
    gaps = coder.encode(tensor.gaps.cpu().int() - 1, 2**tensor.index_bits)
    return [_to_bytes(tensor.codebook), *codes, *gaps]
