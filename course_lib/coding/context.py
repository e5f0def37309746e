"""Signed integers as bytes: an adaptive binary arithmetic coder that mixes the predictions of several contexts.

A level is told by decisions: is it zero, is it negative, is its magnitude above 1, above 2, ... Before each decision several
contexts predict it, from what came before in the same row, the same column, beside it and so on. A mixer weighs these
predictions, learns from each decision whom to trust (as in PAQ, Mahoney 2005), and the arithmetic coder spends
-log2(probability) bits. Nothing but integers is computed, so every machine writes and reads the same bytes.

A tensor is laid out as (rows, channels, places): the filters of a layer, the channels that they read, and the places of a
kernel, or of a feature map where a dense layer reads one.
"""

import functools
import itertools
from array import array
from collections.abc import Iterator, Sequence
from decimal import Decimal, localcontext

import numpy as np

Shape = tuple[int, int, int]

ONE = 1 << 16  # probabilities and weights of the mixer in fixed point
DETAIL = 6  # more bits of the probability that a context keeps
STEP, END = 256, 2047  # log-odds are multiples of 1/256, from -8 to 8
MOST_CERTAIN = 1768  # log-odds of a probability of 1/1000: no decision is cheaper than 0.0014 bits
MEMORY = 255  # decisions after which a context forgets the oldest as fast as it learns
DOUBT = 2  # a context that saw n decisions counts n / (n + DOUBT)
LEARNING_RATE = 12
FIRST_WEIGHT = ONE * 18 // 100
UNARY = 14  # magnitudes up to this are told one by one
DECISIONS_PER_BYTE = 5_800  # no more than 8 / 0.0014: what a byte can hold at most
LOOK_AHEAD = 4  # bytes that the decoder holds


def encode(tensors: Sequence[np.ndarray]) -> bytes:
    """Return the bytes of several tensors, one stream for all, without their shapes.

    Args:
        tensors: integers of shape (rows, channels, places) each.
    """
    encoder = _Encoder()
    for tensor in tensors:
        model, levels = _Model(encoder), tensor.reshape(-1).tolist()
        for level, contexts in zip(levels, _walk(levels, tensor.shape), strict=True):
            _tell(model, contexts, level)
    return encoder.finish()


def decode(content: bytes, shapes: Sequence[Shape]) -> tuple[list[np.ndarray], list[int]]:
    """Return the tensors of `encode`, int32, and the bytes that each of them takes, which add up to all.

    Raises:
        ValueError: the bytes end too early or too late, or could not hold as many levels.
    """
    wanted = sum(rows * channels * places for rows, channels, places in shapes)
    if wanted > DECISIONS_PER_BYTE * (len(content) + LOOK_AHEAD):
        raise ValueError(f"{len(content)} bytes cannot hold {wanted} levels")
    decoder, tensors, ends = _Decoder(content), [], [0]
    for shape in shapes:
        model, levels = _Model(decoder), array("i")  # grows with what the bytes hold, whatever the shape claims
        for contexts in _walk(levels, shape):
            levels.append(_told(model, contexts))
        tensors.append(np.array(levels, np.int32).reshape(shape))
        ends.append(min(decoder.taken - LOOK_AHEAD, len(content)))
    decoder.finish()
    ends[-1] = len(content)
    return tensors, [end - start for start, end in itertools.pairwise(ends)]


def _walk(levels: Sequence[int], shape: Shape) -> Iterator[tuple]:
    """Yield the contexts of each level of a tensor, which look at levels that come before it only."""
    rows, channels, places = shape
    at, columns = 0, channels * places
    for row in range(rows):
        for channel in range(channels):
            filled = 0  # levels of this kernel that are not zero
            for place in range(places):
                left = levels[at - 1] if place else levels[at - places] if channel else 0
                near, over = min(2, abs(left)), min(2, abs(levels[at - columns])) if row else 0
                kernel = (min(filled, 6), min(places - place, 8) // 2)
                yield (), row, (channel, place), channel, (near, over), kernel, (row, near)
                filled += levels[at] != 0
                at += 1


def _tell(model: "_Model", contexts: tuple, level: int) -> None:
    """Code a level as decisions."""
    if not model.decide(0, contexts, level != 0):
        return
    model.decide(1, contexts, level < 0)
    magnitude = abs(level)
    for tried in range(1, UNARY + 1):
        if not model.decide(1 + tried, contexts, magnitude > tried):
            return
    rest = magnitude - UNARY  # at least 1: its length in unary, then its bits
    for place in range(1, rest.bit_length() + 1):
        model.decide(UNARY + 1 + place, ((),), place < rest.bit_length())
    for place in reversed(range(rest.bit_length() - 1)):
        model.decide(UNARY + 100 + place, ((),), rest >> place & 1)


def _told(model: "_Model", contexts: tuple) -> int:
    """Return a level from its decisions."""
    if not model.decide(0, contexts):
        return 0
    sign = -1 if model.decide(1, contexts) else 1
    for tried in range(1, UNARY + 1):
        if not model.decide(1 + tried, contexts):
            return sign * tried
    length = 1
    while model.decide(UNARY + 1 + length, ((),)):
        length += 1
        if length > 30:
            raise ValueError("a level is longer than 30 bits")
    rest = 1
    for place in reversed(range(length - 1)):
        rest = 2 * rest + model.decide(UNARY + 100 + place, ((),))
    return sign * (UNARY + rest)


class _Model:
    """What the decisions of one tensor have taught: a probability per context, and a mixer per kind of decision."""

    def __init__(self, coder: "_Encoder | _Decoder"):
        self.coder = coder
        self.squash, self.stretch = _tables()
        self.seen: dict[tuple, list[int]] = {}  # context -> [probability of 1 in `DETAIL` more bits than `ONE`, decisions]
        self.weights: dict[int, list[int]] = {}

    def decide(self, kind: int, contexts: tuple, bit: bool | None = None) -> int:
        """Code a decision and return it; the decoder finds out what it is."""
        seen = [self.seen.setdefault((kind, number, at), [ONE << DETAIL - 1, 0]) for number, at in enumerate(contexts)]
        inputs = [self.stretch[chance >> DETAIL + 4] * count // (count + DOUBT) for chance, count in seen]
        weights = self.weights.setdefault(kind, [FIRST_WEIGHT] * len(contexts))
        odds = sum(weight * value for weight, value in zip(weights, inputs, strict=True)) // ONE
        chance = self.squash[max(-MOST_CERTAIN, min(MOST_CERTAIN, odds)) + END]
        bit = self.coder.code(chance, bit)
        error = (bit * ONE - chance) * LEARNING_RATE
        for number, value in enumerate(inputs):
            weights[number] += error * value >> 20
        for slot in seen:
            slot[0] += ((bit * (ONE - 1) << DETAIL) - slot[0]) * 2 // (2 * slot[1] + 3)
            slot[1] = min(slot[1] + 1, MEMORY)
        return bit


@functools.cache
def _tables() -> tuple[list[int], list[int]]:
    """Log-odds -> probability of `ONE`, and probability in 12 bits -> log-odds, from decimals: the same on every machine."""
    with localcontext() as context:
        context.prec = 20
        odds = (Decimal(value) / STEP for value in range(-END, END + 1))
        squash = [int(Decimal(ONE) / (1 + (-value).exp())) for value in odds]
    stretch, at = [], 0
    for chance in range(1 << 12):
        while at < 2 * END and squash[at] < 16 * chance + 8:
            at += 1
        stretch.append(at - END)
    return squash, stretch


class _Encoder:
    """An interval of 32 bits, which each decision divides by its probability; bytes that both ends share are written."""

    def __init__(self):
        self.low, self.high = 0, 2**32 - 1
        self.written = bytearray()

    def code(self, chance: int, bit: bool | None) -> int:
        middle = self.low + (self.high - self.low) * chance // ONE
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while (self.low ^ self.high) < 1 << 24:
            self.written.append(self.high >> 24)
            self.low, self.high = self.low << 8 & 2**32 - 1, self.high << 8 & 2**32 - 1 | 255
        return int(bool(bit))

    def finish(self) -> bytes:
        """Return all bytes, with the fewest at the end that name a number of the interval; zeros follow in thought."""
        for kept in range(LOOK_AHEAD + 1):
            shift = 32 - 8 * kept
            number = self.high >> shift << shift
            if number >= self.low:
                return bytes(self.written) + number.to_bytes(4, "big")[:kept]
        raise AssertionError("the interval holds its own upper end")


class _Decoder:
    """Follows the encoder's interval, and sees on which side of each division the bytes lie."""

    def __init__(self, content: bytes):
        self.low, self.high = 0, 2**32 - 1
        self.content, self.taken = content, LOOK_AHEAD
        self.number = int.from_bytes(content[:LOOK_AHEAD].ljust(LOOK_AHEAD, b"\0"), "big")

    def code(self, chance: int, bit: bool | None) -> int:
        middle = self.low + (self.high - self.low) * chance // ONE
        bit = self.number <= middle
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while (self.low ^ self.high) < 1 << 24:
            self.low, self.high = self.low << 8 & 2**32 - 1, self.high << 8 & 2**32 - 1 | 255
            self.number = self.number << 8 & 2**32 - 1 | (self.content[self.taken] if self.taken < len(self.content) else 0)
            self.taken += 1
            if self.taken > len(self.content) + LOOK_AHEAD:
                raise ValueError(f"the {len(self.content)} bytes end before the last level")
        return int(bit)

    def finish(self) -> None:
        """Refuses bytes behind the last level."""
        if len(self.content) > self.taken:
            raise ValueError(f"behind the last level are {len(self.content) - self.taken} bytes")
