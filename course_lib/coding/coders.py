"""Streams of small integers as bytes: in a fixed width, by Huffman's code, and by an asymmetric numeral system (ANS).

Huffman gives a symbol a whole number of bits, at least one; ANS gives it what its frequency deserves, fractions too (Duda
2009). Both are well-kept libraries' (bitarray, constriction); here is what they need to find their way back: a table of which
symbols occur, and a number for each, the length of its code word or its rounded count.

| bytes | table; none for an empty stream |
| --- | --- |
| 2 | the last symbol that occurs |
| 1 | bits of a number, plus 128 if all symbols up to the last occur |
| - | if not all occur: a bit for each symbol up to the last, 1 where it does |
| - | the numbers minus 1, packed |
"""

import itertools
import struct
from collections.abc import Callable
from typing import NamedTuple

import constriction
import numpy as np
from bitarray import bitarray
from bitarray.util import canonical_decode, canonical_huffman
from numpy.typing import ArrayLike

TABLE = struct.Struct("<HB")


class Coder(NamedTuple):
    """Integers from 0 to alphabet - 1 as a table and a stream, and back."""

    encode: Callable[[ArrayLike, int], tuple[bytes, bytes]]  # symbols (n,), alphabet -> table, stream
    decode: Callable[[bytes, bytes, int, int], np.ndarray]  # table, stream, alphabet, n -> symbols; ValueError if damaged


def _encode_fixed(symbols: ArrayLike, alphabet: int) -> tuple[bytes, bytes]:
    return b"", pack_bits(symbols, (alphabet - 1).bit_length()).tobytes()


def _decode_fixed(table: bytes, stream: bytes, alphabet: int, count: int) -> np.ndarray:
    if table:
        raise ValueError(f"it has a table of {len(table)} bytes; the coder 'fixed' has none")
    return _unpacked(stream, (alphabet - 1).bit_length(), count)


def _encode_huffman(ranks: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, bytes]:
    # From 2 million symbols on, rare ones count more: a word of above 31 bits could not be decoded
    found, _, _ = canonical_huffman(dict(enumerate(np.maximum(counts, counts.sum() >> 20).tolist())))
    lengths = np.array([len(found[rank]) for rank in range(len(counts))])
    # bitarray hands out the words of a length in its tree's order; lengths alone tell the decoder only the symbols' order
    words = dict(zip(np.argsort(lengths, stable=True).tolist(), found.values(), strict=True))
    bits = bitarray()
    bits.encode(words, ranks.tolist())
    return lengths, bits.tobytes()


def _decode_huffman(lengths: np.ndarray, stream: bytes, count: int) -> np.ndarray:
    if lengths.max() > 31 or (1 << (31 - lengths)).sum() != 1 << 31:
        raise ValueError(f"words of {lengths.min()} to {lengths.max()} bits make no complete code of up to 31 bits")
    bits = bitarray(stream)
    words = canonical_decode(bits, np.bincount(lengths).tolist(), np.argsort(lengths, stable=True).tolist())
    words = itertools.islice(words, count)  # behind the last one, zeros may look like more
    # Through a bytearray it takes two thirds of the time
    ranks = np.frombuffer(bytearray(words), np.uint8) if len(lengths) <= 256 else np.fromiter(words, np.int32)
    if len(ranks) < count:
        raise ValueError(f"{len(stream)} bytes hold {len(ranks)} symbols; expected {count}")
    rest = bits[lengths[ranks].sum() :]
    if len(rest) > 7 or rest.any():
        raise ValueError(f"behind {count} symbols are {len(rest)} bits; expected up to 7 zeros")
    return ranks


def _encode_ans(ranks: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, bytes]:
    # A count keeps its 4 highest bits: it is exact up to 15, and an eighth off at most, which costs less than 0.001 bits a symbol
    shifts = np.maximum(np.frexp(counts)[1] - 4, 0)
    numbers = (counts >> shifts) + 8 * shifts
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(ranks, _model(numbers))
    return numbers, coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def _decode_ans(numbers: np.ndarray, stream: bytes, count: int) -> np.ndarray:
    if stream.endswith(b"\0"):
        raise ValueError("the last byte is zero; such bytes are left out")
    words = np.frombuffer(stream + bytes(-len(stream) % 4), "<u4").astype(np.uint32)
    coder = constriction.stream.stack.AnsCoder(words)
    ranks = coder.decode(_model(numbers), count)
    if not coder.is_empty():
        raise ValueError(f"behind {count} symbols are {coder.num_valid_bits()} bits; expected none")
    return ranks


def _model(numbers: np.ndarray) -> constriction.stream.model.Categorical:
    """Probabilities in proportion to the rounded counts, which are integers: the same on every machine."""
    shifts = np.maximum(numbers // 8 - 1, 0)
    return constriction.stream.model.Categorical(((numbers - 8 * shifts) << shifts).astype(np.float64), perfect=False)


def _with_table(encode: Callable, decode: Callable) -> Coder:
    """A coder of symbols from one of their ranks, which needs a number for each; a single symbol needs no stream."""

    def encode_symbols(symbols: ArrayLike, alphabet: int) -> tuple[bytes, bytes]:
        flat = np.asarray(symbols)
        counts = np.bincount(flat)
        used = np.flatnonzero(counts)
        if len(used) < 2:
            return _pack_table(used, np.ones_like(used)), b""
        ranks = np.cumsum(counts > 0, dtype=np.int32)[flat] - 1
        numbers, stream = encode(ranks, counts[used])
        return _pack_table(used, numbers), stream

    def decode_symbols(table: bytes, stream: bytes, alphabet: int, count: int) -> np.ndarray:
        used, numbers = _unpack_table(table, alphabet)
        if (len(used) == 0) != (count == 0) or (len(used) < 2 and stream):
            raise ValueError(f"{count} symbols, {len(used)} different ones, have a stream of {len(stream)} bytes")
        used = used.astype(np.uint8 if alphabet <= 256 else np.int32)
        return np.resize(used, count) if len(used) < 2 else used[decode(numbers, stream, count)]

    return Coder(encode_symbols, decode_symbols)


CODERS = {
    "fixed": Coder(_encode_fixed, _decode_fixed),
    "huffman": _with_table(_encode_huffman, _decode_huffman),
    "ans": _with_table(_encode_ans, _decode_ans),
}


def _pack_table(used: np.ndarray, numbers: np.ndarray) -> bytes:
    if len(used) == 0:
        return b""
    last, width = int(used[-1]), int(numbers.max() - 1).bit_length()
    full = len(used) == last + 1
    mask = b"" if full else np.packbits(np.bincount(used).astype(bool)).tobytes()
    return TABLE.pack(last, width + 128 * full) + mask + pack_bits(numbers - 1, width).tobytes()


def _unpack_table(table: bytes, alphabet: int) -> tuple[np.ndarray, np.ndarray]:
    """The symbols that occur, ascending, and a number from 1 to 256 for each."""
    if not table:
        return np.zeros(0, int), np.zeros(0, int)
    if len(table) < TABLE.size:
        raise ValueError(f"the table has {len(table)} bytes; {TABLE.size} come before its numbers")
    last, width = TABLE.unpack_from(table)
    full, width = divmod(width, 128)
    if last >= alphabet or width > 8:
        raise ValueError(f"the table goes up to symbol {last}, in {width} bits; allowed are {alphabet - 1} and 8 bits")
    end = TABLE.size + (0 if full else last // 8 + 1)
    occurs = np.ones(last + 1, bool) if full else _unpacked(table[TABLE.size : end], 1, last + 1)
    if not occurs[last]:
        raise ValueError(f"the table ends at symbol {last}, which does not occur")
    used = np.flatnonzero(occurs)
    return used, _unpacked(table[end:], width, len(used)).astype(int) + 1


def _unpacked(packed: bytes, width: int, count: int) -> np.ndarray:
    """(count,), from `unpack_bits`; refuses ones behind the last code."""
    codes = unpack_bits(np.frombuffer(packed, np.uint8), width, count)
    if packed and packed[-1] % (1 << (8 * len(packed) - count * width)):
        raise ValueError(f"there are ones behind the last of {count} codes")
    return codes


def pack_bits(codes: ArrayLike, width: int) -> np.ndarray:
    """Codes in `width` bits each, the highest bit first, zeros behind the last one; uint8 of shape (ceil(n width / 8),).

    Args:
        codes: any shape, integers from 0 to 2 ** width - 1.
        width: 0 to 31.

    Raises:
        ValueError: a width out of range, or a code that does not fit.

    >>> pack_bits([1, 2, 3, 0], 2).tolist() == [0b01_10_11_00]
    True
    """
    if not 0 <= width <= 31:
        raise ValueError(f"width is {width}; allowed are 0 to 31 bits")
    flat = np.asarray(codes).ravel()
    if flat.size and not (flat.min() >= 0 and int(flat.max()) < 2**width):
        raise ValueError(f"codes go from {flat.min()} to {flat.max()}; {width} bits hold 0 to {2**width - 1}")
    bits = np.empty((flat.size, width), np.uint8)
    for place in range(width):
        bits[:, place] = (flat >> (width - 1 - place)) & 1
    return np.packbits(bits)


def unpack_bits(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """The `count` codes that `pack_bits` packed; uint8 up to a width of 8, else int32.

    Raises:
        ValueError: `packed` does not have the length of that many codes.
    """
    if len(packed) != -(-count * width // 8):
        raise ValueError(f"packed has {len(packed)} bytes; {count} codes of {width} bits take {-(-count * width // 8)}")
    bits = np.unpackbits(packed, count=count * width).reshape(count, width)
    codes = np.zeros(count, np.uint8 if width <= 8 else np.int32)
    for place in range(width):
        codes = (codes << 1) | bits[:, place]
    return codes


def entropy(symbols: ArrayLike) -> float:
    """Bits a symbol of the symbols' own histogram; any shape, 0 if there are none."""
    counts = np.unique(symbols, return_counts=True)[1]
    shares = counts / max(1, counts.sum())
    return abs(float((shares * np.log2(shares)).sum()))
