"""Compressing Deep Convolutional Networks using Vector Quantization: Gong, Liu, Yang, Bourdev 2014 (arXiv 1412.6115).

A trained weight matrix W (m x n) is replaced by short codes and a codebook that says what each code stands for:

    W_ij ~ codebook[codes_ij],     32 m n / (m n log2 k + 32 k) times smaller                  (scalar k-means)

Here, in the paper's order: matrix factorization (section 3.1), binarization, scalar k-means, product quantization and
residual quantization (section 3.2). The two k-means they need are `course_lib.kmeans`. Rates count codes and codebooks, to
the bit. A convolution (n, c, h, w) is taken as the matrix (n, c h w). Nothing is retrained; biases stay as they are.
"""

import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from course_lib.files import replacing
from course_lib.kmeans import code_type, kmeans, kmeans_1d, look_up
from course_lib.storage.coders import pack_bits, unpack_bits

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
        """Looks every weight up."""
        return self.codebooks[:, 0].index_select(0, self.codes.int()).view(self.shape)


@dataclass(frozen=True)
class ProductQuantized(Quantized):
    """A codebook for each block of columns; with `transposed`, of W^T."""

    codes: Tensor  # (s, m)
    codebooks: Tensor  # (s, k, n / s)
    transposed: bool

    def decode(self) -> Tensor:
        """Looks every sub-row up and puts the blocks side by side."""
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


def low_rank(weight: Tensor, rank: int) -> LowRank:
    """The best approximation of W by a matrix of rank r, from its singular value decomposition (section 3.1).

    Args:
        weight: (m, n) or (n, c, h, w), floating point.
        rank: 1 to min(m, n).

    Raises:
        ValueError: rank out of range, or a weight that is no matrix or not finite.
    """
    matrix = _matrix(weight)
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank is {rank}; a {matrix.shape[0]} x {matrix.shape[1]} matrix allows 1 to {min(matrix.shape)}")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return LowRank(weight.shape, left[:, :rank].contiguous(), values[:rank].clone(), right[:rank].contiguous())


def binarize(weight: Tensor, *, scaled: bool = False) -> Binarized:
    """sign(W): +1 where w >= 0, else -1; one bit a weight (section 3.2.1).

    Args:
        weight: (m, n) or (n, c, h, w), floating point.
        scaled: times mean |w|, the scale of least squared error; not in the paper, 32 bits more.

    Raises:
        ValueError: a weight that is no matrix or not finite.
    """
    matrix = _matrix(weight)
    return Binarized(weight.shape, (matrix >= 0).to(torch.uint8).flatten(), matrix.abs().mean() if scaled else None)


def scalar_kmeans(weight: Tensor, k: int) -> ScalarQuantized:
    """One codebook of k values for all weights; log2 k bits a weight (section 3.2.2).

    Args:
        weight: (m, n) or (n, c, h, w), floating point.
        k: values of the codebook, 2 to the number of weights; powers of two waste no bits.

    Raises:
        ValueError: k out of range, or a weight that is no matrix or not finite.
    """
    centroids, codes = kmeans_1d(_matrix(weight), k)
    return ScalarQuantized(weight.shape, codes.flatten(), centroids[:, None])


def product_quantize(weight: Tensor, k: int, segments: int, *, axis: int = 1, seed: int = 0) -> ProductQuantized:
    """W = [W^1 ... W^s], blocks of n / s columns; each block's sub-rows are coded by a k-means of their own (section 3.2.3).

    The codebooks hold k n floats in all, however many blocks there are, so k << m is needed: cut the shorter axis.

    Args:
        weight: (m, n) or (n, c, h, w), floating point.
        k: sub-rows of a codebook, 2 to m.
        segments: s, the number of blocks; divides n.
        axis: 1 cuts the columns and clusters rows, 0 does the same to the transposed matrix.
        seed: of the k-means++ start.

    Raises:
        ValueError: k or axis out of range, segments that do not divide n, or a weight that is no matrix or not finite.
    """
    matrix = _matrix(weight, axis)
    m, n = matrix.shape
    if segments < 1 or n % segments:
        divisors = ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
        raise ValueError(f"segments is {segments}; {n} {('rows', 'columns')[axis]} can be cut into {divisors} equal blocks")
    blocks = matrix.reshape(m, segments, n // segments).transpose(0, 1)  # (s, m, d)
    codebooks, codes = kmeans(blocks, k, seed)
    return ProductQuantized(weight.shape, codes, codebooks, axis == 0)


def residual_quantize(weight: Tensor, k: int, stages: int, *, axis: int = 1, seed: int = 0) -> ResidualQuantized:
    """k-means of whole rows, then of what it left over, and so on: a row is the sum of one centre a stage (section 3.2.4).

    Args:
        weight: (m, n) or (n, c, h, w), floating point.
        k: rows of a codebook, 2 to m.
        stages: t, at least 1.
        axis: 1 clusters rows, 0 columns.
        seed: of the k-means++ starts.

    Raises:
        ValueError: k, stages or axis out of range, or a weight that is no matrix or not finite.
    """
    if stages < 1:
        raise ValueError(f"stages is {stages}; allowed are 1 and above")
    residual = _matrix(weight, axis)
    codebooks, codes = [], []
    for stage in range(stages):
        centres, code = kmeans(residual[None], k, seed + stage)  # (1, k, n), (1, m)
        residual = residual - look_up(centres, code)[0]
        codebooks.append(centres)
        codes.append(code)
    return ResidualQuantized(weight.shape, torch.cat(codes), torch.cat(codebooks), axis == 0)


def decoded(model: nn.Module, layers: Mapping[str, Quantized]) -> nn.Module:
    """A copy of the network that computes with the decoded weights; biases and other layers are exact.

    Raises:
        ValueError: a name that is no layer of the model, or a weight of another shape.
    """
    model = copy.deepcopy(model)
    modules = {name: module for name, module in model.named_modules() if getattr(module, "weight", None) is not None}
    for name, quantized in layers.items():
        if name not in modules or modules[name].weight.shape != quantized.shape:
            known = ", ".join(f"{n} {tuple(m.weight.shape)}" for n, m in modules.items())
            raise ValueError(f"layers has {name!r} of shape {tuple(quantized.shape)}; the model's weights are {known}")
        modules[name].weight.data.copy_(quantized.decode())
    return model


def save(layers: Mapping[str, Quantized], path: str | Path) -> None:
    """Writes quantized layers to one safetensors file, codes packed to the bit; an old file is replaced whole.

    The file is `bits` / 8 bytes a layer, rounded up, and a header of some 250 bytes a layer.
    """
    from safetensors.torch import save_file

    tensors, about = {}, {}
    for name, layer in layers.items():
        facts = {f.name: getattr(layer, f.name) for f in fields(layer) if isinstance(getattr(layer, f.name), bool)}
        facts |= dict(kind=type(layer).__name__, shape=list(layer.shape))
        for field, tensor in layer.tensors().items():
            if field == "codes":
                facts |= dict(codes=list(tensor.shape), width=layer.code_bits)
                tensor = pack_bits(tensor, layer.code_bits)
            tensors[f"{name}.{field}"] = tensor.detach().cpu().contiguous()
        about[name] = json.dumps(facts, separators=(",", ":"))
    with replacing(path) as scratch:
        save_file(tensors, scratch, about)


def load(path: str | Path) -> dict[str, Quantized]:
    """The layers that `save` wrote, on the CPU, bit-identical.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or none of `save`'s.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors, about = {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata()
        return {name: _loaded(name, json.loads(facts), tensors) for name, facts in about.items()}
    except (SafetensorError, AttributeError, ValueError, KeyError, TypeError, RuntimeError) as reason:
        raise ValueError(f"{path} holds no quantized layers, or is damaged: {reason!r}") from reason


def _loaded(name: str, facts: dict, tensors: Mapping[str, Tensor]) -> Quantized:
    kind, shape = Quantized.KINDS[facts.pop("kind")], torch.Size(facts.pop("shape"))
    found = {f.name: tensors.get(f"{name}.{f.name}") for f in fields(kind) if f.name not in ("shape", *facts)}
    if "codes" in facts:
        codes_shape, width = torch.Size(facts.pop("codes")), facts.pop("width")
        codes = unpack_bits(tensors[f"{name}.codes"], width, codes_shape.numel())
        found["codes"] = codes.view(codes_shape).to(code_type(2**width))
    layer = kind(shape, **found, **facts)
    layer.decode()  # fails where codes, codebooks and shape do not belong together
    return layer


def _matrix(weight: Tensor, axis: int = 1) -> Tensor:
    """A dense weight as it is, a convolution's (n, c, h, w) as (n, c h w), transposed for axis 0; detached, float32."""
    if weight.dim() < 2 or weight.numel() == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected a matrix (m, n) or a convolution (n, c, h, w)")
    if not weight.isfinite().all():
        raise ValueError("weight holds NaN or infinity; there is nothing to code")
    if axis not in (0, 1):
        raise ValueError(f"axis is {axis}; allowed are 1, which cuts the columns, and 0, which cuts the rows")
    matrix = weight.detach().float().flatten(1)
    return matrix if axis else matrix.T
