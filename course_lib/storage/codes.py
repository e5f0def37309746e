"""Weights in fewer bits: the forms they take, how each is decoded, and how many bits each takes.

`course_lib.papers.vector_quantization` makes them; here is what a file needs to know of them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from course_lib.coding.coders import pack_bits, unpack_bits
from course_lib.kmeans import code_type, look_up

WEIGHT_BITS = 32  # of a plain weight, and of a number in a codebook


@dataclass(frozen=True)
class Quantized(ABC):
    """A weight in fewer bits."""

    KINDS: ClassVar[dict[str, type]] = {}  # name of the class -> class, for `load`
    shape: torch.Size  # of the weight

    def __init_subclass__(cls):
        """Makes the class known to `load`."""
        Quantized.KINDS[cls.__name__] = cls

    @abstractmethod
    def decode(self) -> Tensor:
        """The weight that the codes stand for, float32 of `shape`."""

    def tensors(self) -> dict[str, Tensor]:
        """What has to be stored, by field; 'codes' are integers of `code_bits` bits, all else are floats."""
        return {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}

    @property
    def code_bits(self) -> int:
        """Bits of one code; of k different codes log2 k, rounded up."""
        return math.ceil(math.log2(self.tensors()["codebooks"].shape[-2]))

    @property
    def bits(self) -> int:
        """Size of codes, codebooks and factors together, in bits."""
        return sum(t.numel() * (self.code_bits if name == "codes" else WEIGHT_BITS) for name, t in self.tensors().items())

    @property
    def compression_rate(self) -> float:
        """Bits of the plain weight (32 each) over `bits`."""
        return WEIGHT_BITS * self.shape.numel() / self.bits


@dataclass(frozen=True)
class LowRank(Quantized):
    """W ~ left diag(values) right: r (m + n + 1) floats."""

    left: Tensor  # (m, r)
    values: Tensor  # (r,)
    right: Tensor  # (r, n)

    def decode(self) -> Tensor:
        """The product of the three factors."""
        return ((self.left * self.values) @ self.right).view(self.shape)


@dataclass(frozen=True)
class Binarized(Quantized):
    """W ~ sign(W), or scale * sign(W)."""

    codes: Tensor  # (m n,) uint8: 1 stands for +1, 0 for -1
    scale: Tensor | None  # (), only in the scaled variant

    @property
    def code_bits(self) -> int:
        """One."""
        return 1

    def decode(self) -> Tensor:
        """+1 and -1, times the scale where there is one."""
        signs = (2.0 * self.codes - 1.0).view(self.shape)
        return signs if self.scale is None else signs * self.scale


@dataclass(frozen=True)
class ScalarQuantized(Quantized):
    """One codebook for all weights of the layer."""

    codes: Tensor  # (m n,)
    codebooks: Tensor  # (k, 1)

    def decode(self) -> Tensor:
        """Look every weight up."""
        return self.codebooks[:, 0].index_select(0, self.codes.int()).view(self.shape)


@dataclass(frozen=True)
class ProductQuantized(Quantized):
    """A codebook for each block of columns; with `transposed`, of W^T."""

    codes: Tensor  # (s, m)
    codebooks: Tensor  # (s, k, n / s)
    transposed: bool

    def decode(self) -> Tensor:
        """Look every segment up and put the blocks side by side."""
        rows = look_up(self.codebooks, self.codes).transpose(0, 1).flatten(1)  # (s, m, d) -> (m, n)
        return (rows.T if self.transposed else rows).reshape(self.shape)


@dataclass(frozen=True)
class ResidualQuantized(Quantized):
    """A codebook of whole rows for each stage; with `transposed`, of W^T."""

    codes: Tensor  # (t, m)
    codebooks: Tensor  # (t, k, n)
    transposed: bool

    def decode(self) -> Tensor:
        """Sums what the stages say of each row."""
        rows = look_up(self.codebooks, self.codes).sum(0)  # (t, m, n) -> (m, n)
        return (rows.T if self.transposed else rows).reshape(self.shape)


@dataclass(frozen=True)
class Sparse(Quantized):
    """A bit for each weight, and the values of those that are not zero; exact."""

    codes: Tensor  # (m n,) uint8: 1 where a weight is kept
    values: Tensor  # (kept,)

    @classmethod
    def of(cls, weight: Tensor) -> "Sparse":
        """Return what stands for a float32 weight of any shape."""
        flat = weight.detach().flatten()
        return cls(weight.shape, (flat != 0).to(torch.uint8), flat[flat != 0])

    @property
    def code_bits(self) -> int:
        """One."""
        return 1

    def decode(self) -> Tensor:
        """Zeros, and the values in their places."""
        weight = self.values.new_zeros(self.shape.numel())
        weight[self.codes.bool()] = self.values
        return weight.view(self.shape)


def pack(weight: Quantized) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors by field, codes packed to the bit, and the facts that `unpack` needs besides, for JSON."""
    facts = {f.name: getattr(weight, f.name) for f in fields(weight) if isinstance(getattr(weight, f.name), bool)}
    facts |= dict(kind=type(weight).__name__, shape=list(weight.shape))
    tensors = weight.tensors()
    if "codes" in tensors:
        facts |= dict(codes=list(tensors["codes"].shape), width=weight.code_bits)
        tensors["codes"] = torch.from_numpy(pack_bits(tensors["codes"].cpu(), weight.code_bits))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, facts


def unpack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Quantized:
    """Return what `pack` was given, on the CPU, bit-identical.

    Raises:
        ValueError: tensors and facts that do not belong together.
    """
    facts = dict(facts)
    try:
        kind, shape = Quantized.KINDS[facts.pop("kind")], torch.Size(facts.pop("shape"))
        found = {f.name: tensors.get(f.name) for f in fields(kind) if f.name not in ("shape", *facts)}
        if "codes" in facts:
            codes_shape, width = torch.Size(facts.pop("codes")), facts.pop("width")
            codes = torch.from_numpy(unpack_bits(tensors["codes"].cpu().numpy(), width, codes_shape.numel()))
            found["codes"] = codes.view(codes_shape).to(code_type(2**width))
        weight = kind(shape, **found, **facts)
        weight.decode()  # fails where codes, codebooks and shape do not belong together
    except (AttributeError, KeyError, TypeError, RuntimeError, IndexError) as reason:
        raise ValueError(f"codes and facts do not belong together: {reason!r}") from reason
    return weight
