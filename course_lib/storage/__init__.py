"""The compressed file of a network: write, read, check.

A compressed tensor is a codebook, a code for each stored entry, and the gap of each entry to the one before it (Han et al.
2016, sections 2 to 4). A coder turns codes and gaps, streams of small integers, into bytes.

| bytes | file, version 1; numbers are little-endian |
| --- | --- |
| 4, 1 | `CNET`, version |
| 4, 4 | length of the header, its CRC-32 |
| length | header: deflated JSON, [network, coder, [[tensor, shape, kind, entries, lengths, CRC-32s], ...]] |
| lengths | the tensors in this order, each as its parts `CODED` or `RAW`; the file ends behind the last |

The kind of a coded tensor is its index bits, that of a raw one its type.
"""

import contextlib
import json
import math
import os
import reprlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from course_lib.files import replacing
from course_lib.storage.coders import CODERS, Coder, entropy

MAGIC, VERSION = b"CNET", 1
PREFIX = struct.Struct("<4sBII")
HEADER_LIMIT = 2**20  # bytes of JSON: some ten thousand tensors
CODED = ("codebook", "table of codes", "codes", "table of gaps", "gaps")
RAW = ("values",)
RAW_TYPES = {torch.float32: "<f4", torch.float16: "<f2", torch.int64: "<i8"}
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class CorruptFileError(ValueError):
    """A file that is not as `save` leaves it."""


@dataclass(frozen=True, eq=False)
class CodedTensor:
    """A sparse tensor of shared weights; raises ValueError if its fields do not fit each other.

    A gap above 2 ** index_bits is bridged by fillers: entries whose value in the codebook is 0.
    """

    shape: torch.Size  # of up to 64 dimensions; () and empty ones too
    codebook: Tensor  # (k,) float32, k from 1 to 65536
    codes: Tensor  # (e,) integers from 0 to k - 1, one for each stored entry
    gaps: Tensor  # (e,) integers from 1 to 2 ** index_bits: the step from the entry before, for the first from place -1
    index_bits: int  # 1 to 16; or 0: then every weight is stored and gaps is (0,)

    def __post_init__(self):
        codebook, numel = self.codebook, math.prod(self.shape)
        if len(self.shape) > 64 or min(self.shape, default=0) < 0:  # torch computes with no more than 64
            raise ValueError(f"shape is {tuple(self.shape)}; allowed are up to 64 dimensions, none negative")
        if type(self.index_bits) is not int or not 0 <= self.index_bits <= 16:
            raise ValueError(f"index_bits is {self.index_bits!r}; allowed are 0 to 16")
        if codebook.dtype != torch.float32 or codebook.dim() != 1 or not 1 <= len(codebook) <= 2**16:
            found = f"{codebook.dtype} of shape {tuple(codebook.shape)}"
            raise ValueError(f"codebook is {found}; expected torch.float32 of shape (k,), k from 1 to 65536")
        _check_integers("codes", self.codes, 0, len(codebook) - 1)
        _check_integers("gaps", self.gaps, 1, 2**self.index_bits)
        entries = len(self.codes)
        if len(self.gaps) != (entries if self.index_bits else 0):
            raise ValueError(f"gaps has {len(self.gaps)} entries for {entries} codes and {self.index_bits} index bits")
        if not self.index_bits and entries != numel:
            raise ValueError(f"codes has {entries} entries; without index bits all {numel} weights need one")
        if self.gaps.sum() > numel:
            raise ValueError(f"gaps lead to place {self.gaps.sum() - 1}; the tensor has {numel} weights")

    def decode(self) -> Tensor:
        """The weights, float32 of `shape`: zeros, but for the stored entries."""
        values = self.codebook[self.codes.long()]
        if self.index_bits:
            places = self.gaps.cumsum(0) - 1
            values = values.new_zeros(math.prod(self.shape)).index_put_((places,), values)
        return values.view(self.shape)


@dataclass(frozen=True, eq=False)
class CompressedNetwork:
    """What a file holds; raises ValueError for what it cannot hold."""

    network: str  # a name such as 'lenet-5', or ''
    tensors: dict[str, CodedTensor | Tensor]  # in the order of a state dict; plain ones of a type in `RAW_TYPES`
    coder: str  # 'fixed', 'huffman' or 'ans'

    def __post_init__(self):
        if self.coder not in CODERS:
            raise ValueError(f"coder is {self.coder!r}; allowed are {', '.join(CODERS)}")
        if not isinstance(self.network, str):
            raise ValueError(f"network is {self.network!r}; expected a name")
        for name, tensor in self.tensors.items():
            found = getattr(tensor, "dtype", type(tensor))
            if not isinstance(name, str) or not (isinstance(tensor, CodedTensor) or found in RAW_TYPES):
                allowed = f"a CodedTensor, or one of {', '.join(map(str, RAW_TYPES))}"
                raise ValueError(f"tensor {name!r} is {found}; allowed under a name are {allowed}")

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, decoded."""
        return {name: tensor.decode() if isinstance(tensor, CodedTensor) else tensor for name, tensor in self.tensors.items()}


def save(compressed: CompressedNetwork, path: str | Path) -> None:
    """Writes the file; an old one at `path` stays whole until the new one is.

    Raises:
        ValueError: so many tensors that the header is longer than `HEADER_LIMIT`.
    """
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
    with replacing(path) as scratch:
        scratch.write_bytes(b"".join([prefix, header, *sections]))


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
    with _locating(Path(path).name):
        network, coder, stored = _read(Path(path), max_weights)
        return CompressedNetwork(network, {row.name: tensor for row, tensor in stored}, coder)


def inspect(path: str | Path, max_weights: int = 2**28) -> pd.DataFrame:
    """What each tensor takes in a file, a row a tensor; arguments and errors as for `load`.

    Bits are those of a stream without its table. All bytes, with `attrs["header bytes"]`, add up to the file.
    """
    with _locating(Path(path).name):
        stored = _read(Path(path), max_weights)[2]
    table = pd.DataFrame.from_dict({row.name: _costs(row, tensor) for row, tensor in stored}, "index")
    table.attrs["header bytes"] = Path(path).stat().st_size - sum(sum(row.lengths) for row, _ in stored)
    return table


class _Row(NamedTuple):
    """The header's word on a tensor."""

    name: str
    shape: list[int]
    kind: int | str
    entries: int
    lengths: list[int]
    checksums: list[int]

    @property
    def parts(self) -> tuple[str, ...]:
        return RAW if isinstance(self.kind, str) else CODED


def _costs(row: _Row, tensor: CodedTensor | Tensor) -> dict:
    """A row of `inspect`."""
    size = dict.fromkeys(CODED + RAW, 0) | dict(zip(row.parts, row.lengths, strict=True))
    raw, nothing = isinstance(tensor, Tensor), torch.empty(0)
    streams = {"code": nothing if raw else tensor.codes, "gap": nothing if raw else tensor.gaps}
    return {
        "shape": tuple(row.shape),
        "weights": math.prod(row.shape),
        "entries": row.entries,
        "nonzeros": int((tensor if raw else tensor.codebook[tensor.codes.long()]).count_nonzero()),
        "index bits": 0 if raw else row.kind,
        "codebook entries": size["codebook"] // 4,
        "bytes of codes": size["codes"],
        "bytes of gaps": size["gaps"],
        "bytes of tables": size["table of codes"] + size["table of gaps"],
        "bytes of codebook": size["codebook"],
        "raw bytes": size["values"],
        **{f"bits per {name}": 8 * size[f"{name}s"] / len(s) if len(s) else math.nan for name, s in streams.items()},
        **{f"entropy per {name}": entropy(s) if len(s) else math.nan for name, s in streams.items()},
    }


# Reading


@contextlib.contextmanager
def _locating(where: str) -> Iterator[None]:
    """Says where it is that something is wrong."""
    try:
        yield
    except ValueError as error:
        raise CorruptFileError(f"{where}: {error}") from error


def _read(path: Path, max_weights: int) -> tuple[str, str, list[tuple[_Row, CodedTensor | Tensor]]]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        with _locating("header"):
            network, coder, rows = _header(file, size)
            weights = sum(math.prod(max(1, n) for n in row.shape) for row in rows)
            if weights > max_weights:
                raise ValueError(f"it declares {weights} weights; max_weights is {max_weights}")
            end = file.tell() + sum(sum(row.lengths) for row in rows)
            if end != size:
                raise ValueError(f"it declares a file of {end} bytes; this one has {size}")
        return network, coder, [(row, _tensor(file, row, CODERS[coder])) for row in rows]


def _header(file: BinaryIO, size: int) -> tuple[str, str, list[_Row]]:
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        raise ValueError(f"the file has {size} bytes; {PREFIX.size} come before the header")
    magic, version, length, checksum = PREFIX.unpack(prefix)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"the file begins with {magic!r}, version {version}; expected {MAGIC!r}, version {VERSION}")
    if length > min(HEADER_LIMIT, size - PREFIX.size):
        raise ValueError(f"its length is {length}; allowed are {HEADER_LIMIT}, in a file of {size} bytes")
    value = _json(_verified(file.read(length), checksum))
    match value:
        case [str(network), str(coder), [*rows]] if coder in CODERS:
            rows = [_row(row) for row in rows]
        case _:
            raise ValueError(f"it is {reprlib.repr(value)}; expected [network, one of {', '.join(CODERS)}, tensors]")
    if len({row.name for row in rows}) < len(rows):
        raise ValueError("two tensors have the same name")
    return network, coder, rows


def _verified(data: bytes, checksum: int) -> bytes:
    if zlib.crc32(data) != checksum:
        raise ValueError(f"the CRC-32 of its {len(data)} bytes is {zlib.crc32(data)}; expected {checksum}")
    return data


def _json(packed: bytes) -> object:
    stream = zlib.decompressobj(wbits=-15)
    try:
        text = stream.decompress(packed, HEADER_LIMIT + 1)
        if len(text) > HEADER_LIMIT or not stream.eof or stream.unused_data:
            raise ValueError(f"it does not inflate to at most {HEADER_LIMIT} bytes")
        return json.loads(text.decode("ascii"))
    except (zlib.error, RecursionError) as error:
        raise ValueError(f"it is no deflated JSON: {error}") from error


def _row(value: object) -> _Row:
    """A row of the header whose sizes fit each other: then no section is longer than its entries can ask for."""
    match value:
        case [str(), [*shape], _, entries, [*lengths], [*sums]] if _are_counts([*shape, entries, *lengths, *sums]):
            row = _Row(*value)
        case _:
            raise ValueError(f"a tensor is {reprlib.repr(value)}; expected [name, shape, kind, entries, lengths, CRC-32s]")
    with _locating(f"tensor {row.name!r:.80}"):
        if row.kind not in RAW_TYPES.values() and not (_are_counts([row.kind]) and row.kind <= 16):
            raise ValueError(f"its kind is {reprlib.repr(row.kind)}; allowed are 0 to 16, {', '.join(RAW_TYPES.values())}")
        _check_sizes(row)
    return row


def _check_sizes(row: _Row) -> None:
    if not (len(row.shape) <= 64 and len(row.lengths) == len(row.checksums) == len(row.parts)):
        found = f"{len(row.shape)} dimensions, {len(row.lengths)} lengths, {len(row.checksums)} CRC-32s"
        raise ValueError(f"it has {found}; expected up to 64 dimensions, and {len(row.parts)} of the others")
    weights, entries = math.prod(row.shape), row.entries
    if entries > weights or (entries < weights and row.kind not in range(1, 17)):
        raise ValueError(f"it has {entries} entries for {weights} weights")
    if row.parts == RAW:
        spans = [(entries * np.dtype(row.kind).itemsize,) * 2]
    else:  # no table and no stream takes more
        spans = [(4, 2**18), *[(0, 2**18), (0, 4 * entries + 8)] * 2]
    for part, length, (least, most) in zip(row.parts, row.lengths, spans, strict=True):
        if not least <= length <= most:
            raise ValueError(f"{part} has {length} bytes; expected {least} to {most}")


def _are_counts(values: list) -> bool:
    return all(type(value) is int and 0 <= value < 2**40 for value in values)  # True is no int here


def _tensor(file: BinaryIO, row: _Row, coder: Coder) -> CodedTensor | Tensor:
    with _locating(f"tensor {row.name!r:.80}"):
        data = []
        for part, length, checksum in zip(row.parts, row.lengths, row.checksums, strict=True):
            with _locating(part):
                data.append(_verified(file.read(length), checksum))
        if row.parts == RAW:
            return _from_bytes(data[0], row.kind).view(row.shape)
        with _locating("codebook"):
            codebook = _from_bytes(data[0], "<f4")
        with _locating("codes"):
            codes = coder.decode(data[1], data[2], len(codebook), row.entries)
        with _locating("gaps"):
            gaps = coder.decode(data[3], data[4], 2**row.kind, row.entries if row.kind else 0).int() + 1
        return CodedTensor(torch.Size(row.shape), codebook, codes, gaps, row.kind)


# Tensors as bytes


def _check_integers(name: str, values: Tensor, low: int, high: int) -> None:
    if values.dtype not in INTEGERS or values.dim() != 1:
        found = f"{values.dtype} of shape {tuple(values.shape)}"
        raise ValueError(f"{name} is {found}; expected shape (e,) and one of {', '.join(map(str, INTEGERS))}")
    if len(values) and not low <= values.min() <= values.max() <= high:
        raise ValueError(f"{name} goes from {values.min()} to {values.max()}; allowed are {low} to {high}")


def _to_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().numpy().astype(RAW_TYPES[tensor.dtype]).tobytes()


def _from_bytes(data: bytes, kind: str) -> Tensor:
    values = np.frombuffer(data, kind)
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))


def _encoded(tensor: CodedTensor, coder: Coder) -> list[bytes]:
    """The parts `CODED`."""
    codes = coder.encode(tensor.codes, len(tensor.codebook))
    gaps = coder.encode(tensor.gaps.int() - 1, 2**tensor.index_bits)
    return [_to_bytes(tensor.codebook), *codes, *gaps]
