"""Deep Compression: Han, Mao, Dally, ICLR 2016 (arXiv 1510.00149).

Three stages, each on the result of the one before:

    prune          small weights become zero; a survivor is found by its gap to the one before         (section 2)
    quantize       survivors share k values, the centroids, which are then trained:
                   dL/dC_k = sum_ij dL/dW_ij [code_ij = k]                                             (section 3)
    code           codes and gaps are far from uniform: frequent ones get short words                  (section 4)

Pruning is `course_lib.papers.weight_pruning`, the file of the last stage `course_lib.storage`. A network carries its own
state: zero weights are the pruned ones, and the different values of the others are the centroids. So codes never disagree with
the weights, whoever trained them. Dense and convolutional layers are compressed; everything else stays as it is.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import kmeans, storage, training
from course_lib.data import Batches
from course_lib.masks import weight_layers
from course_lib.papers import weight_pruning
from course_lib.result import Result
from course_lib.storage import CodedTensor, CompressedNetwork
from course_lib.training import Retrain

STARTS = ("linear", "forgy", "density")
KINDS = {"dense": nn.Linear, "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d)}
Bits = int | Mapping[str, int]  # one number, or by layer name, or by kind: 'dense', 'conv', and 'bias'
BITS = {"conv": 8, "dense": 5}  # of AlexNet and VGG-16 (section 5)


def relative_index(mask: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the gap of each survivor to the one before, in `bits` bits (section 2, figure 2).

    Places count from 1, so that the gap of the first survivor is its place and no gap is 0. A gap above 2 ** bits is bridged
    by fillers, each 2 ** bits further on: entries that stand for an explicit zero.

    Args:
        mask: bool, True where a weight survives; any shape, read in its order in memory.
        bits: 1 to 16.

    Returns:
        Gaps (e,) int64 from 1 to 2 ** bits, and whether each is a filler's, (e,) bool.

    Raises:
        ValueError: `bits` out of range, or a mask that is not bool.

    >>> places = torch.zeros(15, dtype=torch.bool)
    >>> places[[0, 3, 14]] = True  # the places 1, 4, 15
    >>> relative_index(places, 3)
    (tensor([1, 3, 8, 3]), tensor([False, False,  True, False]))
    """
    _check_mask(mask, bits)
    places = mask.flatten().nonzero().flatten() + 1
    gaps = places.diff(prepend=places.new_zeros(1))
    fillers = (gaps - 1) // 2**bits  # how many come before each survivor
    ends = (fillers + 1).cumsum(0) - 1
    filler = torch.ones(int((fillers + 1).sum()), dtype=torch.bool, device=mask.device)
    filler[ends] = False
    entries = torch.full_like(filler, 2**bits, dtype=torch.int64)
    entries[ends] = gaps - fillers * 2**bits
    return entries, filler


def initial_centroids(values: Tensor, k: int, method: str = "linear", seed: int = 0) -> Tensor:
    """Return where k-means starts (section 3.2): 'linear' reaches the rare large weights, the others crowd at the many small.

    Args:
        values: the surviving weights, any shape.
        k: number of centroids, 2 to the number of values.
        method: 'linear', evenly from the least to the greatest value; 'forgy', k of the values at random; 'density', evenly
            in the cumulative distribution. The paper leaves open where its equal steps begin: we take the middles of k equal
            shares of the values, the quantiles 1 / 2k, 3 / 2k, ..., and not the least and the greatest value.
        seed: of 'forgy'.

    Returns:
        (k,) float32, ascending.

    Raises:
        ValueError: unknown method, or k out of range.
    """
    values = _check_start(values, k, method)
    if method == "linear":
        return torch.linspace(values.min().item(), values.max().item(), k, device=values.device)
    if method == "forgy":
        chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[:k]
        return values[chosen.to(values.device)].sort().values
    middles = (torch.arange(k, device=values.device) + 0.5) / k * len(values)
    return values.sort().values[middles.long()]


def kmeans_1d(values: Tensor, k: int, init: Tensor | str = "linear") -> tuple[Tensor, Tensor]:
    """Return centroids (k,) and codes of the values' shape, by Lloyd's algorithm from `init`: centroids, or a method's name."""
    return kmeans.kmeans_1d(values, k, initial_centroids(values, k, init) if isinstance(init, str) else init)


def quantize(model: nn.Module, *, bits: Bits, method: str = "linear", seed: int = 0) -> nn.Module:
    """Return a copy whose surviving weights are the centroids of k-means, 2 ** bits of them in each layer.

    Zeros stay zeros: they take no part in the clustering. A layer of no more different values stays as it is.

    Args:
        model: a trained network, pruned or not.
        bits: of a code, 1 to 16: one number for all layers with weights, or by layer name or kind ('dense', 'conv'), the name
            first; layers that it does not give bits stay exact. 'bias' gives bits to all biases.
        method: the start of k-means, as for `initial_centroids`.
        seed: of the start.

    Raises:
        ValueError: bits out of range, or for a name that the model does not have.
    """
    widths = _bits_by_parameter(model, bits)
    model = copy.deepcopy(model)
    for name, width in widths.items():
        weight = model.get_parameter(name).detach()
        survivors = weight[weight != 0]
        if len(survivors.unique()) > 2**width:
            centroids, codes = kmeans_1d(survivors, 2**width, initial_centroids(survivors, 2**width, method, seed))
            weight[weight != 0] = centroids[codes.long()].to(weight.dtype)
    return model


class SharedWeights(nn.Module):
    """A parametrization: the weight is looked up in its centroids. Autograd then gives each centroid the sum of its members'
    gradients (section 3.3), and codes and zeros stay what they are."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.shape = weight.shape
        places = weight.flatten().nonzero().flatten()
        self.centroids, codes = weight.detach().flatten()[places].unique(return_inverse=True)
        self.register_buffer("places", places)
        self.register_buffer("codes", codes)

    def forward(self, centroids: Tensor) -> Tensor:
        """Return the weight of centroids (k,)."""
        zeros = centroids.new_zeros(self.shape.numel())
        return zeros.index_put((self.places,), centroids.index_select(0, self.codes)).view(self.shape)

    def right_inverse(self, _weight: Tensor) -> Tensor:
        """Return its centroids (k,)."""
        return self.centroids


def finetune_centroids(model: nn.Module, retrain: Retrain, *, bits: Bits) -> nn.Module:
    """Return a copy whose centroids have been trained; every weight keeps its centroid, and zeros stay zero (section 3.3).

    Args:
        model: a quantized network; what is not shared, such as biases, is trained with the centroids.
        retrain: trains the network that it is given, in place, by any optimizer: among its parameters are the centroids. Since a
            centroid's gradient is a sum over all its members, a recipe of ours has a small rate and no weight decay:
            `training.recipe(splits, epochs=2, lr=1e-3, weight_decay=0.0)`.
        bits: as given to `quantize`; they tell which parameters are shared.

    Raises:
        ValueError: a layer with more different values than its bits allow.
    """
    tuned, shared = copy.deepcopy(model), []
    for name, width in _bits_by_parameter(model, bits).items():
        owner, _, field = name.rpartition(".")
        module, sharing = tuned.get_submodule(owner), SharedWeights(tuned.get_parameter(name))
        if len(sharing.centroids) > 2**width:
            found = f"{name} has {len(sharing.centroids)} different values; {width} bits allow {2**width}"
            raise ValueError(f"{found}: quantize the network first")
        parametrize.register_parametrization(module, field, sharing)
        shared.append((module, field))
    training.call(retrain, tuned)
    for module, field in shared:
        parametrize.remove_parametrizations(module, field)
    result = copy.deepcopy(model)  # with the parameters in their old order
    result.load_state_dict(tuned.state_dict())
    return result.eval()


def compress(model: nn.Module, *, bits: Bits, index_bits: Bits, coder: str = "huffman", name: str = "") -> CompressedNetwork:
    """Return the network as `course_lib.storage.save` writes it; one that is not quantized yet is, from a linear start.

    Args:
        model: a pruned network: its zero weights are the pruned ones.
        bits: as for `quantize`. What it gives no bits, such as batch norms, is stored as it is.
        index_bits: of a gap, 1 to 16, likewise; 0, or none, stores a code for every weight, zeros too.
        coder: 'fixed' (as many bits for each code), 'huffman', or one beyond the paper: 'ans', 'context' (no index bits).
        name: of the network, for the file's header.

    Raises:
        ValueError: as `quantize`; an unknown coder.
    """
    coded = _coded_parameters(quantize(model, bits=bits), bits, index_bits)
    tensors = {key: coded.get(key, tensor.detach().cpu()) for key, tensor in model.state_dict().items()}
    return CompressedNetwork(name, tensors, coder)


def compress_network(
    model: nn.Module,
    batches: Batches | None,
    *,
    sparsity: float | Mapping[str, float],
    bits: Bits = BITS,
    index_bits: Bits = 5,
    coder: str = "huffman",
    rounds: int = 1,
    retrain: Retrain | None = None,
    finetune: Retrain | None = None,
    measure: Callable[[nn.Module], float] | None = None,
) -> Result:
    """Compress a network by all three stages: prune it, share and train its weights, code them.

    Args:
        model: a trained network; it is left as it was.
        batches: not read, as in `weight_pruning.prune`; it has the place that it has in every paper's loop.
        sparsity: the share of weights to prune, one for all layers or by layer name; the paper prunes 89 to 92 %.
        bits: of a code, as for `quantize`; the default is the paper's for AlexNet and VGG-16.
        index_bits: of a gap, as for `compress`; the paper takes 5 for the LeNets and VGG-16.
        coder: as for `compress`.
        rounds: of pruning.
        retrain: trains the network that it is given, in place, after each round.
        finetune: the same, once, for the centroids: see `finetune_centroids`.
        measure: gives a figure of the network for the record, such as its accuracy.

    Returns:
        The network with shared weights, its codes, which `Result.save` writes, and the record: the rows of pruning, each with
        stage 'prune', then one of stage 'quantize' with the bytes of the coded parameters and, with `measure`, the figures
        'quantized' and 'retrained'.

    Raises:
        ValueError: what `weight_pruning.prune` or `compress` refuses.
    """
    CompressedNetwork("", {}, coder), _bits_by_parameter(model, bits), _bits_by_parameter(model, index_bits, least=0)  # checks
    pruned = weight_pruning.prune(model, batches, sparsity, rounds=rounds, retrain=retrain, measure=measure)
    network = quantize(pruned.model, bits=bits)
    figures = {} if measure is None else {"quantized": measure(network)}
    if finetune is not None:
        network = finetune_centroids(network, partial(training.call, finetune, number=rounds + 1), bits=bits)
    codes = CompressedNetwork("", _coded_parameters(network, bits, index_bits), coder)
    network.load_state_dict(codes.state_dict(), strict=False)  # where weights have more digits than the file
    if measure is not None:
        figures["retrained"] = measure(network)
    record = [dict(stage="prune") | row for row in pruned.record]
    record.append(dict(stage="quantize", bytes=len(storage.encode(codes))) | figures)
    return Result(network.eval(), record, codes)


def _coded_parameters(model: nn.Module, bits: Bits, index_bits: Bits) -> dict[str, CodedTensor]:
    """The quantized parameters that `bits` names, as codes."""
    widths = _bits_by_parameter(model, index_bits, least=0)  # of the gaps
    return {name: _coded(model.get_parameter(name).detach(), widths.get(name, 0)) for name in _bits_by_parameter(model, bits)}


def _coded(weight: Tensor, index_bits: int) -> CodedTensor:
    """A weight with few different values as codebook, codes and gaps."""
    flat = weight.float().cpu().flatten()
    if index_bits == 0:
        codebook, codes = flat.unique(return_inverse=True)
        return CodedTensor(weight.shape, codebook, codes, torch.empty(0, dtype=torch.int64), 0)
    gaps, filler = relative_index(flat != 0, index_bits)
    entries = torch.zeros(len(gaps))
    entries[~filler] = flat[flat != 0]
    codebook, codes = entries.unique(return_inverse=True) if len(entries) else (torch.zeros(1), gaps)
    return CodedTensor(weight.shape, codebook, codes, gaps, index_bits)


def _bits_by_parameter(model: nn.Module, bits: Bits, least: int = 1) -> dict[str, int]:
    """Parameter name -> bits, for the parameters that `bits` gives some."""
    chosen, layers = {}, weight_layers(model)
    by_name = dict(bits) if isinstance(bits, Mapping) else dict.fromkeys(KINDS, bits)
    for key, width in by_name.items():
        if key not in (*layers, *KINDS, "bias"):
            raise ValueError(f"bits are given for {key!r}; the model's layers are {', '.join(layers)}, kinds dense, conv, bias")
        if not (isinstance(width, int) and least <= width <= 16):
            raise ValueError(f"bits are {width!r} for {key!r}; allowed are {least} to 16")
    for name, layer in layers.items():
        if "weight" not in layer._parameters:
            raise ValueError(f"layer {name!r} computes its weight; torch.nn.utils.prune.remove(layer, 'weight') makes it final")
        kind = next(kind for kind, types in KINDS.items() if isinstance(layer, types))
        if (width := by_name.get(name, by_name.get(kind))) is not None:
            chosen[f"{name}.weight".removeprefix(".")] = width
        if "bias" in by_name and layer.bias is not None:
            chosen[f"{name}.bias".removeprefix(".")] = by_name["bias"]
    return chosen


def _check_mask(mask: Tensor, bits: int) -> None:
    if not 1 <= bits <= 16:
        raise ValueError(f"bits is {bits}; allowed are 1 to 16")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; expected torch.bool, True where a weight survives")


def _check_start(values: Tensor, k: int, method: str) -> Tensor:
    values = values.detach().float().flatten()
    if not 2 <= k <= len(values):
        raise ValueError(f"k is {k}; with {len(values)} values it can be 2 to {len(values)}")
    if method not in STARTS:
        raise ValueError(f"method is {method!r}; allowed are {', '.join(STARTS)}")
    return values
