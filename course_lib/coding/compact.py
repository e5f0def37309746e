"""The smallest file of a network of few values: version 2, which the coder 'context' writes. Here it is read.

| bytes | file, version 2; a number is a LEB128: seven bits a byte, the lowest first |
| --- | --- |
| 1, 2 | 0xC2, CRC-16 of all that follows |
| number | layout: a place in `LAYOUTS` from 1, or 0 |
| numbers | of a layout its widths; of layout 0 the length of a deflated JSON [network, [[name, shape, type], ...]], and that |
| 1 per 4 tensors | two bits for the form of each coded tensor's values |
| - | tensor by tensor: what its form asks for, or a raw tensor's numbers |
| the rest | the stream of all levels: places in the codebooks, counted from the value nearest to zero |
"""

import math
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from course_lib.coding import context
from course_lib.coding.reading import RAW_KINDS, Row, check_entries, from_bytes, locating, unpacked_json

FIRST_BYTE = 0xC2
CODER = "context"
ONES, HALF, SINGLE, LISTED = range(4)  # forms of values: the levels themselves, times a float16, times a float32, a codebook


def _lenet_5(conv1: int, conv2: int, fc1: int) -> dict[str, tuple[int, ...]]:
    weights = {"conv1": (conv1, 1, 5, 5), "conv2": (conv2, conv1, 5, 5), "fc1": (fc1, 16 * conv2), "fc2": (10, fc1)}
    return _with_biases(weights)


def _lenet_300_100(fc1: int, fc2: int) -> dict[str, tuple[int, ...]]:
    return _with_biases({"fc1": (fc1, 784), "fc2": (fc2, fc1), "fc3": (10, fc2)})


def _with_biases(weights: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for layer, shape in weights.items():
        shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    return shapes


class Layout(NamedTuple):
    """A network that a file need not describe, but for its widths."""

    network: str
    widths: int  # how many there are
    shapes: Callable[..., dict[str, tuple[int, ...]]]  # widths -> name of a tensor -> its shape


LAYOUTS = (Layout("lenet-5", 3, _lenet_5), Layout("lenet-300-100", 2, _lenet_300_100))


class Described(NamedTuple):
    """The header's word on a tensor."""

    name: str
    shape: list[int]
    kind: int | str  # 0 for a coded tensor, else the type of a raw one


def read(path: Path, max_weights: int) -> tuple[str, str, list[tuple[Row, list[np.ndarray]]]]:
    """Return the network's name, the coder's, and the tensors, as `reading.read` does; ValueError if the file is damaged."""
    content = path.read_bytes()
    body = content[3:]
    with locating("header"):
        if len(content) < 3 or crc_hqx(body, 0) != int.from_bytes(content[1:3], "little"):
            raise ValueError(f"the CRC-16 of its {len(body)} bytes is not the one in the file")
        reader = _Reader(body)
        network, described = _header(reader)
        weights = sum(math.prod(max(1, n) for n in one.shape) for one in described)
        if weights > max_weights:
            raise ValueError(f"it declares {weights} weights; max_weights is {max_weights}")
        coded = [one.shape for one in described if one.kind == 0]
        forms = iter(_forms(reader, len(coded)))
    values = [_values(reader, next(forms)) if one.kind == 0 else _raw(reader, one) for one in described]
    with locating("levels"):
        levels, taken = context.decode(reader.rest(), geometry(coded))
    streams = iter(zip(levels, taken, strict=True))
    pairs = zip(described, values, strict=True)
    return network, CODER, [_coded_tensor(one, value, *next(streams)) if one.kind == 0 else value for one, value in pairs]


def _coded_tensor(one: Described, value: tuple[int, bytes, int], levels: np.ndarray, length: int) -> tuple[Row, list[np.ndarray]]:
    """Row and arrays of a tensor whose levels take `length` bytes of the stream."""
    form, content, size = value
    with locating(f"tensor {one.name!r:.80}"):
        values, zero = codebook(form, content, levels)
        codes, no_gaps = levels.reshape(-1) + zero, np.zeros(0, np.int32)
        check_entries(codes, no_gaps, len(values), 0, len(codes))
    codes = codes.astype(np.uint8 if len(values) <= 256 else np.int32)
    return Row(one.name, one.shape, 0, len(codes), [size, 0, length, 0, 0], [0] * 5), [values, codes, no_gaps]


def _header(reader: "_Reader") -> tuple[str, list[Described]]:
    number = reader.number()
    if number > len(LAYOUTS):
        raise ValueError(f"its layout is {number}; known are 0 to {len(LAYOUTS)}")
    if number:
        layout = LAYOUTS[number - 1]
        shapes = layout.shapes(*(reader.number() for _ in range(layout.widths)))
        return layout.network, [Described(name, list(shape), 0) for name, shape in shapes.items()]
    match unpacked_json(reader.take(reader.number())):
        case [str(network), [*rows]] if all(_is_row(row) for row in rows) and len({row[0] for row in rows}) == len(rows):
            return network, [Described(*row) for row in rows]
        case _:
            raise ValueError("it is not [network, [[name, shape, type], ...]] with a name for each tensor")


def _is_row(row: object) -> bool:
    match row:
        case [str(), [*shape], kind]:
            sizes = len(shape) <= 64 and all(type(n) is int and 0 <= n < 2**40 for n in shape)
            return sizes and (kind in RAW_KINDS if isinstance(kind, str) else type(kind) is int and kind == 0)
        case _:
            return False


def _forms(reader: "_Reader", count: int) -> list[int]:
    forms = [byte >> 2 * place & 3 for byte in reader.take(-(-count // 4)) for place in range(4)]
    if any(forms[count:]):
        raise ValueError(f"there are forms behind the last of {count} tensors")
    return forms[:count]


def _values(reader: "_Reader", form: int) -> tuple[int, bytes, int]:
    """A form, what the file holds for it, and the bytes that this takes there."""
    start = reader.at
    if form == LISTED:
        count = reader.number()
        if not 1 <= count <= 2**16:
            raise ValueError(f"a codebook has {count} values; allowed are 1 to 65,536")
        content = reader.take(4 * count)
    else:
        content = reader.take((0, 2, 4)[form])
    return form, content, reader.at - start


def _raw(reader: "_Reader", one: Described) -> tuple[Row, list[np.ndarray]]:
    size = math.prod(one.shape) * np.dtype(one.kind).itemsize
    return Row(one.name, one.shape, one.kind, math.prod(one.shape), [size], [0]), [from_bytes(reader.take(size), one.kind)]


def codebook(form: int, content: bytes, levels: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the values that a form stands for, and the place of level 0 among them.

    Args:
        form: one of the four; all but `LISTED` have a value for each level from the lowest to the highest.
        content: what the file holds for it: nothing, a step, or all values.
        levels: of the tensor, any shape.

    Raises:
        ValueError: the levels are too far apart.
    """
    if form == LISTED:
        values = from_bytes(content, "<f4")
        return values, int(np.abs(values).argmin())
    lowest, highest = (min(0, int(levels.min())), max(0, int(levels.max()))) if levels.size else (0, 0)
    if highest - lowest >= 2**16:
        raise ValueError(f"levels go from {lowest} to {highest}; allowed are 65,536 of them")
    step = np.float32(1) if form == ONES else from_bytes(content, "<f2" if form == HALF else "<f4").astype(np.float32)[0]
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged step may be anything
        return np.arange(lowest, highest + 1).astype(np.float32) * step, -lowest


def geometry(shapes: Iterable[Iterable[int]]) -> list[context.Shape]:
    """Return how tensors are laid out for the coder: a dense layer behind a convolution reads feature maps, place by place."""
    found, filters = [], None
    for shape in map(tuple, shapes):
        if len(shape) > 2:
            found.append((shape[0], shape[1], math.prod(shape[2:])))
            filters = shape[0]
        elif len(shape) == 2 and filters and shape[1] % filters == 0:
            found.append((shape[0], filters, shape[1] // filters))
            filters = None
        else:
            found.append((shape[0], shape[1], 1) if len(shape) == 2 else (1, math.prod(shape), 1))
            filters = None if len(shape) == 2 else filters
    return found


class _Reader:
    """Takes bytes from the front and refuses to take more than there are."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def take(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise ValueError(f"it asks for {count} bytes; {len(self.content) - self.at} are left")
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self) -> int:
        value = 0
        for shift in range(0, 42, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number is longer than 42 bits")

    def rest(self) -> bytes:
        return self.take(len(self.content) - self.at)
