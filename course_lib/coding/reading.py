"""Reads a compressed file, of which nothing is believed before it is checked: another hand may have written it."""

import contextlib
import json
import math
import os
import reprlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from course_lib.coding.coders import CODERS, Coder

MAGIC, VERSION = b"CNET", 1
PREFIX = struct.Struct("<4sBII")
HEADER_LIMIT = 2**20  # bytes of JSON: some ten thousand tensors
CODED = ("codebook", "table of codes", "codes", "table of gaps", "gaps")
RAW = ("values",)
RAW_KINDS = ("<f4", "<f2", "<i8")


class CorruptFileError(ValueError):
    """A file that is not as `save` leaves it."""


class Row(NamedTuple):
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


@contextlib.contextmanager
def locating(where: str) -> Iterator[None]:
    """Says where it is that something is wrong."""
    try:
        yield
    except ValueError as error:
        raise CorruptFileError(f"{where}: {error}") from error


def read(path: Path, max_weights: int) -> tuple[str, str, list[tuple[Row, list[np.ndarray]]]]:
    """Return the network's name, the coder's, and of each tensor its values, or its codebook, codes and gaps, all flat."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        with locating("header"):
            network, coder, rows = _header(file, size)
            weights = sum(math.prod(max(1, n) for n in row.shape) for row in rows)
            if weights > max_weights:
                raise ValueError(f"it declares {weights} weights; max_weights is {max_weights}")
            end = file.tell() + sum(sum(row.lengths) for row in rows)
            if end != size:
                raise ValueError(f"it declares a file of {end} bytes; this one has {size}")
        return network, coder, [(row, _arrays(file, row, CODERS[coder])) for row in rows]


def _header(file: BinaryIO, size: int) -> tuple[str, str, list[Row]]:
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        raise ValueError(f"the file has {size} bytes; {PREFIX.size} come before the header")
    magic, version, length, checksum = PREFIX.unpack(prefix)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"the file begins with {magic!r}, version {version}; expected {MAGIC!r}, version {VERSION}")
    if length > min(HEADER_LIMIT, size - PREFIX.size):
        raise ValueError(f"its length is {length}; allowed are {HEADER_LIMIT}, in a file of {size} bytes")
    value = unpacked_json(_verified(file.read(length), checksum))
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


def unpacked_json(packed: bytes) -> object:
    """Return what a deflated JSON holds; ValueError if it is none, or longer than `HEADER_LIMIT`."""
    stream = zlib.decompressobj(wbits=-15)
    try:
        text = stream.decompress(packed, HEADER_LIMIT + 1)
        if len(text) > HEADER_LIMIT or not stream.eof or stream.unused_data:
            raise ValueError(f"it does not inflate to at most {HEADER_LIMIT} bytes")
        return json.loads(text.decode("ascii"))
    except (zlib.error, RecursionError) as error:
        raise ValueError(f"it is no deflated JSON: {error}") from error


def _row(value: object) -> Row:
    """A row of the header whose sizes fit each other: then no section is longer than its entries can ask for."""
    match value:
        case [str(), [*shape], _, entries, [*lengths], [*sums]] if _are_counts([*shape, entries, *lengths, *sums]):
            row = Row(*value)
        case _:
            raise ValueError(f"a tensor is {reprlib.repr(value)}; expected [name, shape, kind, entries, lengths, CRC-32s]")
    with locating(f"tensor {row.name!r:.80}"):
        if row.kind not in RAW_KINDS and not (_are_counts([row.kind]) and row.kind <= 16):
            raise ValueError(f"its kind is {reprlib.repr(row.kind)}; allowed are 0 to 16, {', '.join(RAW_KINDS)}")
        _check_sizes(row)
    return row


def _check_sizes(row: Row) -> None:
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


def _arrays(file: BinaryIO, row: Row, coder: Coder) -> list[np.ndarray]:
    with locating(f"tensor {row.name!r:.80}"):
        data = []
        for part, length, checksum in zip(row.parts, row.lengths, row.checksums, strict=True):
            with locating(part):
                data.append(_verified(file.read(length), checksum))
        if row.parts == RAW:
            return [from_bytes(data[0], row.kind)]
        with locating("codebook"):
            codebook = from_bytes(data[0], "<f4")
        with locating("codes"):
            codes = coder.decode(data[1], data[2], len(codebook), row.entries)
        with locating("gaps"):
            gaps = coder.decode(data[3], data[4], 2**row.kind, row.entries if row.kind else 0).astype(np.int32) + 1
        check_entries(codes, gaps, len(codebook), row.kind, math.prod(row.shape))
        return [codebook, codes, gaps]


def check_entries(codes: Any, gaps: Any, k: int, index_bits: int, weights: int) -> None:
    """Raise ValueError unless codes name an entry of the codebook, and gaps a place in the tensor; arrays or tensors."""
    for name, values, low, high in (("codes", codes, 0, k - 1), ("gaps", gaps, 1, 2**index_bits)):
        if len(values) and not low <= values.min() <= values.max() <= high:
            raise ValueError(f"{name} goes from {values.min()} to {values.max()}; allowed are {low} to {high}")
    if gaps.sum() > weights:
        raise ValueError(f"gaps lead to place {gaps.sum() - 1}; the tensor has {weights} weights")


def from_bytes(data: bytes, kind: str) -> np.ndarray:
    """Return numbers in the byte order of this machine; `kind` as in `RAW_KINDS`."""
    values = np.frombuffer(data, kind)
    return values.astype(values.dtype.newbyteorder("="))
