"""Compressing Deep Convolutional Networks using Vector Quantization: Gong, Liu, Yang, Bourdev 2014 (arXiv 1412.6115).

A trained weight matrix W (m x n) is replaced by short codes, and a codebook that lists the values they stand for:

    W_ij ~ codebook[codes_ij],     32 m n / (m n log2 k + 32 k) times smaller                  (scalar k-means)

Here, in the paper's order: matrix factorization (section 3.1), then binarization, scalar k-means, product quantization and
residual quantization (section 3.2), and last `quantize`, which codes the layers of a network. What they return, with its
`decode`, `bits` and `compression_rate`, is in `course_lib.storage.codes`; the two k-means are in `course_lib.kmeans`. Rates
count codes and codebooks, to the bit. A convolution (n, c, h, w) is taken as the matrix (n, c h w).
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import training
from course_lib.freezing import frozen
from course_lib.kmeans import kmeans, kmeans_1d, look_up
from course_lib.masks import weight_layers
from course_lib.result import Result
from course_lib.storage.codes import Binarized, LowRank, ProductQuantized, Quantized, ResidualQuantized, ScalarQuantized
from course_lib.streams import stream
from course_lib.training import Retrain

Code = Callable[[Tensor], Quantized]  # codes one weight, as lambda weight: scalar_kmeans(weight, 16)


def low_rank(weight: Tensor, rank: int) -> LowRank:
    """Return the best approximation of W by a matrix of rank r, from its singular value decomposition (section 3.1).

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
    """Return sign(W): +1 where w >= 0, else -1; one bit per weight (section 3.2.1).

    Args:
        weight: (m, n) or (n, c, h, w), floating point.
        scaled: multiply by mean |w|, the scale of least squared error; not in the paper, and 32 bits more.

    Raises:
        ValueError: a weight that is no matrix or not finite.
    """
    matrix = _matrix(weight)
    return Binarized(weight.shape, (matrix >= 0).to(torch.uint8).flatten(), matrix.abs().mean() if scaled else None)


def scalar_kmeans(weight: Tensor, k: int) -> ScalarQuantized:
    """Return one codebook of k values for all weights, and a code of log2 k bits per weight (section 3.2.2).

    Args:
        weight: (m, n) or (n, c, h, w), floating point.
        k: values of the codebook, 2 to the number of weights; powers of two waste no bits.

    Raises:
        ValueError: k out of range, or a weight that is no matrix or not finite.
    """
    centroids, codes = kmeans_1d(_matrix(weight), k)
    return ScalarQuantized(weight.shape, codes.flatten(), centroids[:, None])


def product_quantize(weight: Tensor, k: int, segments: int, *, axis: int = 1, seed: int = 0) -> ProductQuantized:
    """Return W = [W^1 ... W^s] in blocks of n / s columns, the segments of each coded by a k-means of its own (section 3.2.3).

    The codebooks hold k n floats in all, however many blocks there are, so k must be much smaller than m: cut the shorter axis.

    Args:
        weight: (m, n) or (n, c, h, w), floating point.
        k: segments of a codebook, 2 to m.
        segments: s, the number of blocks, and so of segments of a row; divides n.
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
    """Return codes of whole rows by k-means, then of the residual, and so on: a row is a sum of one centroid per stage (3.2.4).

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
        centroids, code = kmeans(residual[None], k, stream(seed, "stage", stage))  # (1, k, n), (1, m)
        residual = residual - look_up(centroids, code)[0]
        codebooks.append(centroids)
        codes.append(code)
    return ResidualQuantized(weight.shape, torch.cat(codes), torch.cat(codebooks), axis == 0)


def decoded(model: nn.Module, layers: Mapping[str, Quantized]) -> nn.Module:
    """Return a copy of the network that computes with the decoded weights; biases and other layers are exact.

    Args:
        model: any network; it is left as it was.
        layers: layer name -> its coded weight.

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


def quantize(
    model: nn.Module,
    code: Code,
    *,
    layers: Iterable[str] | None = None,
    retrain: Retrain | None = None,
    measure: Callable[[nn.Module], float] | None = None,
) -> Result:
    """Return a network that computes with coded weights, and the codes: saved, each coded layer takes as many bits as it says.

    The paper codes the dense layers and retrains nothing. With `retrain`, the rest of the network is trained once, after all
    layers are coded: biases, norms, layers without codes. Coded weights stay exactly what their codes say, by any optimizer.

    Args:
        model: any network; it is left as it was.
        code: called with each weight, (n, c) or (n, c, h, w); one of the functions above, its other arguments filled in.
        layers: the layers to code; default the dense ones, as in the paper.
        retrain: trains the network that it is given, in place.
        measure: gives a figure of the network for the record, such as its accuracy.

    Returns:
        The network; a row per layer with its bits, compression rate and relative squared error, and with `measure` the figure
        when this layer and those before it are coded ('quantized') and after retraining ('retrained', in the last row).

    Raises:
        ValueError: no layers, an unknown one, or one that `code` refuses; the message names it.
    """
    if layers is None:
        layers = [name for name, layer in weight_layers(model).items() if isinstance(layer, nn.Linear)]
    model = copy.deepcopy(model).eval()
    codes: dict[str, Quantized] = {}
    record: list[dict[str, Any]] = []
    for name, layer in weight_layers(model, layers).items():
        codes[f"{name}.weight".removeprefix(".")] = coded = _coded(code, layer.weight, name)
        error = _relative_error(layer.weight, coded)
        record.append(dict(layer=name, bits=coded.bits, compression_rate=coded.compression_rate, error=error))
        layer.weight.data.copy_(coded.decode())
        if measure is not None:
            record[-1]["quantized"] = record[-1]["retrained"] = measure(model)
    if retrain is not None:
        if all(name in codes for name, _ in model.named_parameters()):
            raise ValueError("retrain is given, but every parameter of the model is coded; nothing is left to train")
        with frozen(model, codes):
            training.call(retrain, model)
        if measure is not None:
            record[-1]["retrained"] = measure(model)
    return Result(model, record, codes)


def _coded(code: Code, weight: Tensor, layer: str) -> Quantized:
    """Return the code of a layer's weight; where it is refused, the message names the layer."""
    try:
        coded = code(weight.detach())
    except ValueError as reason:
        raise ValueError(f"layer {layer!r}: {reason}") from reason
    if not isinstance(coded, Quantized) or coded.shape != weight.shape:
        raise ValueError(
            f"code gives {type(coded).__name__} for layer {layer!r}; expected a Quantized of shape {tuple(weight.shape)}"
        )
    return coded


def _relative_error(weight: Tensor, coded: Quantized) -> float:
    """Return the squared error of a coded weight over the weight's own square; 0 for a weight of zeros that is exact."""
    weight = weight.detach().double()
    error, square = (coded.decode().double() - weight).square().sum(), weight.square().sum()
    return float(error / square) if square > 0 else float(error)


def _matrix(weight: Tensor, axis: int = 1) -> Tensor:
    """Return a weight as the matrix (m, n) that is coded: (n, c h w) for a convolution, transposed for axis 0; float32."""
    if weight.dim() < 2 or weight.numel() == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected a matrix (m, n) or a convolution (n, c, h, w)")
    if not weight.isfinite().all():
        raise ValueError("weight holds NaN or infinity; there is nothing to code")
    if axis not in (0, 1):
        raise ValueError(f"axis is {axis}; allowed are 1, which cuts the columns, and 0, which cuts the rows")
    matrix = weight.detach().float().flatten(1)
    return matrix if axis else matrix.T
