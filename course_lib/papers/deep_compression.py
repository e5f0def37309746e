"""Deep Compression: Han, Mao, Dally, ICLR 2016 (arXiv 1510.00149).

Three stages, each on what the one before left:

    prune          small weights become zero; survivors are found by the gap to the one before         (section 2)
    quantize       survivors share k values, the centroids, which are then trained:
                   dL/dC_k = sum_ij dL/dW_ij [code_ij = k]                                             (section 3)
    code           codes and gaps are far from uniform: frequent ones get short words                  (section 4)

Pruning is `course_lib.papers.weight_pruning`, the file of the last stage `course_lib.storage`. A network carries its own
state: zero weights are the pruned ones, and the different values of the others are the centroids.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import kmeans
from course_lib.data import Splits
from course_lib.papers.weight_pruning import prunable_layers
from course_lib.storage import CodedTensor, CompressedNetwork
from course_lib.training import History, fit

STARTS = ("linear", "forgy", "density")
KINDS = {"dense": nn.Linear, "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d)}
Bits = int | Mapping[str, int]  # one number, or by layer name, or by kind: 'dense', 'conv', and 'bias'


def relative_index(mask: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Where the survivors are, as the gap of each to the one before, of `bits` bits (section 2, figure 2).

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
    if not 1 <= bits <= 16:
        raise ValueError(f"bits is {bits}; allowed are 1 to 16")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; expected torch.bool, True where a weight survives")
    places = mask.flatten().nonzero().flatten() + 1
    gaps = places.diff(prepend=places.new_zeros(1))
    fillers = (gaps - 1) // 2**bits
    ends = (fillers + 1).cumsum(0) - 1  # a survivor comes behind its fillers
    filler = torch.ones(int((fillers + 1).sum()), dtype=torch.bool, device=mask.device)
    filler[ends] = False
    entries = torch.full_like(filler, 2**bits, dtype=torch.int64)
    entries[ends] = gaps - fillers * 2**bits
    return entries, filler


def initial_centroids(values: Tensor, k: int, method: str = "linear", seed: int = 0) -> Tensor:
    """Where k-means starts (section 3.2): 'linear' keeps the rare large weights, the other two crowd where weights are many.

    Args:
        values: the surviving weights, any shape.
        k: number of centroids, 2 to the number of values.
        method: 'linear', evenly from the least to the greatest value; 'forgy', k of the values at random; 'density', evenly
            in the cumulative distribution.
        seed: of 'forgy'.

    Returns:
        (k,) float32, ascending.

    Raises:
        ValueError: unknown method, or k out of range.
    """
    values = values.detach().float().flatten()
    if not 2 <= k <= len(values):
        raise ValueError(f"k is {k}; with {len(values)} values it can be 2 to {len(values)}")
    if method == "linear":
        return torch.linspace(values.min().item(), values.max().item(), k, device=values.device)
    if method == "forgy":
        chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[:k]
        return values[chosen.to(values.device)].sort().values
    if method == "density":
        middles = (torch.arange(k, device=values.device) + 0.5) / k * len(values)
        return values.sort().values[middles.long()]
    raise ValueError(f"method is {method!r}; allowed are {', '.join(STARTS)}")


def kmeans_1d(values: Tensor, k: int, init: Tensor | str = "linear") -> tuple[Tensor, Tensor]:
    """Centroids (k,) and codes of the values' shape, by Lloyd's algorithm from `init`: centroids, or a method's name.

    Raises:
        ValueError: as `initial_centroids` and `course_lib.kmeans.kmeans_1d`.
    """
    return kmeans.kmeans_1d(values, k, initial_centroids(values, k, init) if isinstance(init, str) else init)


def quantize(model: nn.Module, *, bits: Bits, method: str = "linear", seed: int = 0) -> nn.Module:
    """A copy whose surviving weights are the centroids of k-means, 2 ** bits of them in each layer.

    Zeros stay zeros: they take no part in the clustering. A layer of no more different values stays as it is.

    Args:
        model: a trained network, pruned or not.
        bits: of a code, 1 to 16: one number for all layers with weights, or by layer name or kind ('dense', 'conv'), the name
            first; layers that it does not give bits stay exact. 'bias' gives bits to all biases.
        method: the start of k-means, as for `initial_centroids`.
        seed: of the start.

    Raises:
        ValueError: bits out of range, or for a name that the model has not.
    """
    widths = _bits_by_parameter(model, bits)
    model = copy.deepcopy(model)
    for name, width in widths.items():
        parameter = model.get_parameter(name)
        survivors = parameter.detach()[parameter.detach() != 0]
        if len(survivors.unique()) > 2**width:
            start = initial_centroids(survivors, 2**width, method, seed)
            centroids, codes = kmeans.kmeans_1d(survivors, 2**width, start)
            parameter.data[parameter.detach() != 0] = centroids[codes.long()].to(parameter.dtype)
    return model


class SharedWeights(nn.Module):
    """A parametrisation: the weight is looked up in its centroids. Autograd then gives a centroid the sum of its members'
    gradients (section 3.3), and codes and zeros stay what they are."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.shape = weight.shape
        places = weight.flatten().nonzero().flatten()
        self.centroids, codes = weight.detach().flatten()[places].unique(return_inverse=True)
        self.register_buffer("places", places)
        self.register_buffer("codes", codes)

    def forward(self, centroids: Tensor) -> Tensor:
        """Centroids (k,) -> the weight."""
        zeros = centroids.new_zeros(self.shape.numel())
        return zeros.index_put((self.places,), centroids.index_select(0, self.codes)).view(self.shape)

    def right_inverse(self, _weight: Tensor) -> Tensor:
        """The weight -> its centroids (k,)."""
        return self.centroids


def finetune_centroids(model: nn.Module, splits: Splits, *, bits: Bits = 8, **training) -> tuple[nn.Module, History]:
    """A copy whose centroids have been trained, which member has which centroid staying fixed (section 3.3).

    Everything that is not shared, such as biases, is trained with them.

    Args:
        model: a quantized network.
        splits: `splits.train` is trained on.
        bits: as given to `quantize`; says which parameters are shared.
        training: arguments of `course_lib.training.fit`. A centroid's gradient is a sum over hundreds of weights, so `lr` is
            small, and `weight_decay` should be 0.

    Raises:
        ValueError: a layer with more different values than its bits allow, or what `fit` refuses.
    """
    tuned, shared = copy.deepcopy(model), []
    for name, width in _bits_by_parameter(model, bits).items():
        owner, _, field = name.rpartition(".")
        parameter, module = tuned.get_parameter(name), tuned.get_submodule(owner)
        found = len(parameter.detach()[parameter.detach() != 0].unique())
        if found > 2**width:
            raise ValueError(f"{name} has {found} different values; {width} bits allow {2**width}: quantize the network first")
        parametrize.register_parametrization(module, field, SharedWeights(parameter.detach()))
        shared.append((module, field))
    history = fit(tuned, splits, **training)
    for module, field in shared:
        parametrize.remove_parametrizations(module, field)
    result = copy.deepcopy(model)  # with the parameters in their old order
    result.load_state_dict(tuned.state_dict())
    return result, history


def compress(model: nn.Module, *, bits: Bits, index_bits: Bits, coder: str = "huffman", name: str = "") -> CompressedNetwork:
    """The network as `course_lib.storage.save` writes it; a network that is not quantized yet is (from a linear start).

    Args:
        model: a pruned network: its zero weights are the pruned ones.
        bits: as for `quantize`. What it gives no bits, such as batch norms, is stored as it is.
        index_bits: of a gap, 1 to 16, likewise; 0, or none, stores a code for every weight, zeros too.
        coder: 'fixed' (as many bits for each code), 'huffman', or 'ans', which goes one step beyond the paper.
        name: of the network, for the file's header.

    Raises:
        ValueError: bits out of range, or for a name that the model has not; an unknown coder.
    """
    model = quantize(model, bits=bits)
    widths, gap_widths = _bits_by_parameter(model, bits), _bits_by_parameter(model, index_bits, least=0)
    tensors = {
        key: _coded(tensor.detach(), gap_widths.get(key, 0)) if key in widths else tensor.detach().cpu()
        for key, tensor in model.state_dict().items()
    }
    return CompressedNetwork(name, tensors, coder)


def only_pruned(model: nn.Module, *, index_bits: int, coder: str = "fixed", name: str = "") -> CompressedNetwork:
    """The first stage alone, as a file: of each layer's weight the survivors at 32 bits, and their gaps; exact.

    A weight `fc1.weight` becomes two tensors: `fc1.weight.values`, and `fc1.weight.places` with ones for survivors.

    Args:
        model: a pruned network.
        index_bits: of a gap, 1 to 16.
        coder: of the gaps.
        name: of the network, for the file's header.
    """
    tensors = {}
    weights = _bits_by_parameter(model, 16)
    for key, tensor in model.state_dict().items():
        if key in weights:
            flat = tensor.detach().float().cpu()
            tensors[f"{key}.values"] = flat[flat != 0]
            tensors[f"{key}.places"] = _coded((flat != 0).float(), index_bits)
        else:
            tensors[key] = tensor.detach().cpu()
    return CompressedNetwork(name, tensors, coder)


def state_dict(pruned: CompressedNetwork) -> dict[str, Tensor]:
    """The network's tensors from what `only_pruned` made of them.

    Raises:
        ValueError: values and places that do not belong together.
    """
    tensors = pruned.state_dict()
    for places in [key for key in tensors if key.endswith(".places")]:
        key = places.removesuffix(".places")
        weight, values = tensors.pop(places), tensors.pop(f"{key}.values", torch.empty(0))
        if int(weight.count_nonzero()) != len(values):
            raise ValueError(f"{key} has {len(values)} values for {int(weight.count_nonzero())} places")
        weight[weight != 0] = values
        tensors[key] = weight
    return tensors


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
    chosen = {}
    layers = prunable_layers(model)
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
        width = by_name.get(name, by_name.get(kind))
        if width is not None:
            chosen[f"{name}.weight"] = width
        if "bias" in by_name and layer.bias is not None:
            chosen[f"{name}.bias"] = by_name["bias"]
    return chosen
