"""Writes the file of version 2, which `course_lib.coding.compact` describes and reads."""

import json
import zlib
from binascii import crc_hqx
from typing import NamedTuple

import numpy as np
from torch import Tensor

from course_lib.coding import context
from course_lib.coding.compact import FIRST_BYTE, HALF, LAYOUTS, LISTED, ONES, SINGLE, codebook, geometry
from course_lib.coding.reading import HEADER_LIMIT
from course_lib.storage.coded import RAW_TYPES, CodedTensor, CompressedNetwork


class Levels(NamedTuple):
    """A coded tensor as the stream has it."""

    levels: np.ndarray  # (numel,) places in the codebook, counted from `zero`
    zero: int  # place of the value nearest to zero


def encode(compressed: CompressedNetwork) -> bytes:
    """Return the content of the file. Raises ValueError for a coded tensor with gaps: all its weights must have codes."""
    coded = {name: tensor for name, tensor in compressed.tensors.items() if isinstance(tensor, CodedTensor)}
    for name, tensor in coded.items():
        if tensor.index_bits:
            raise ValueError(f"tensor {name!r} has {tensor.index_bits} index bits; coder 'context' takes 0, a code per weight")
    told = {name: _levels(tensor) for name, tensor in coded.items()}
    values = {name: _written_values(tensor, told[name]) for name, tensor in coded.items()}
    forms = [form for form, _ in values.values()]
    raw = {name: _raw(tensor) for name, tensor in compressed.tensors.items() if name not in coded}
    parts = [_header(compressed), _packed_forms(forms)]
    parts += [values[name][1] if name in coded else raw[name] for name in compressed.tensors]
    shapes = geometry(tensor.shape for tensor in coded.values())
    parts.append(context.encode([one.levels.reshape(shape) for one, shape in zip(told.values(), shapes, strict=True)]))
    body = b"".join(parts)
    return bytes([FIRST_BYTE]) + crc_hqx(body, 0).to_bytes(2, "little") + body


def _header(compressed: CompressedNetwork) -> bytes:
    for number, layout in enumerate(LAYOUTS, start=1):
        shapes = {name: tuple(tensor.shape) for name, tensor in compressed.tensors.items() if isinstance(tensor, CodedTensor)}
        widths = [shape[0] for name, shape in shapes.items() if name.endswith("weight")][: layout.widths]
        same = len(widths) == layout.widths and list(layout.shapes(*widths).items()) == list(shapes.items())
        if compressed.network == layout.network and same and len(shapes) == len(compressed.tensors):
            return _number(number) + b"".join(map(_number, widths))
    rows = [
        [name, list(tensor.shape), 0 if isinstance(tensor, CodedTensor) else RAW_TYPES[tensor.dtype]]
        for name, tensor in compressed.tensors.items()
    ]
    text = json.dumps([compressed.network, rows], separators=(",", ":")).encode("ascii")
    if len(text) > HEADER_LIMIT:
        raise ValueError(f"the header of {len(rows)} tensors takes {len(text)} bytes; allowed are {HEADER_LIMIT}")
    packed = zlib.compress(text, 9, wbits=-15)
    return _number(0) + _number(len(packed)) + packed


def _levels(tensor: CodedTensor) -> Levels:
    zero = int(tensor.codebook.abs().argmin())
    return Levels(tensor.codes.numpy().astype(np.int64) - zero, zero)


def _written_values(tensor: CodedTensor, told: Levels) -> tuple[int, bytes]:
    """The form of a codebook, and what it takes to write it so that it comes back bit by bit."""
    values = tensor.codebook.numpy()
    step = np.float32(values[told.zero + 1]) if told.zero + 1 < len(values) else np.float32(1)
    for form, kind in ((ONES, None), (HALF, "<f2"), (SINGLE, "<f4")):
        with np.errstate(over="ignore"):  # what half precision cannot hold takes another form
            content = b"" if kind is None else step.astype(kind).tobytes()
        rebuilt, zero = codebook(form, content, told.levels)
        if zero == told.zero and rebuilt.tobytes() == values.tobytes():
            return form, content
    return LISTED, _number(len(values)) + values.astype("<f4").tobytes()


def _packed_forms(forms: list[int]) -> bytes:
    padded = forms + [0] * (-len(forms) % 4)
    return bytes(sum(form << 2 * place for place, form in enumerate(padded[at : at + 4])) for at in range(0, len(padded), 4))


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().numpy().astype(RAW_TYPES[tensor.dtype]).tobytes()


def _number(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
