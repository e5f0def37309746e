"""Compressing Deep Convolutional Networks using Vector Quantization: Gong, Liu, Yang, Bourdev 2014 (arXiv 1412.6115).

A trained weight matrix W (m x n) is replaced by short codes and a codebook that says what each code stands for:

    W_ij ~ codebook[codes_ij],     32 m n / (m n log2 k + 32 k) times smaller                  (scalar k-means)

Here, in the paper's order: matrix factorization (section 3.1), binarization, scalar k-means, product quantization and
residual quantization (section 3.2). The two k-means they need are `course_lib.kmeans`. Rates count codes and codebooks, to
the bit. A convolution (n, c, h, w) is taken as the matrix (n, c h w). Nothing is retrained; biases stay as they are.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from course_lib.kmeans import kmeans, kmeans_1d, look_up

WEIGHT_BITS = 32  # of a plain weight, and of a number in a codebook


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
