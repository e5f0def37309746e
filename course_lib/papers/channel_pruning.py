"""Channel Pruning for Accelerating Very Deep Neural Networks: He, Zhang, Sun, ICCV 2017 (arXiv 1707.06168).

A layer with weights W (n, c, kh, kw) reads c channels. Which c' of them are enough to say what it said? With patches X of its
input (N samples, p = kh kw numbers a channel) and its outputs Y there,

    min over beta and W of  1 / 2N  || Y - sum_i beta_i X_i W_i^T ||_F^2   where at most c' of the beta_i are not zero

is split (section 3.1): (i) W fixed, a LASSO over beta, its penalty raised until c' channels are left; (ii) those channels
fixed, W by least squares. As the paper does in practice, (i) at many penalties and then (ii) once, from W as it was trained
(the order that alternates would scale each W_i to length 1). Neither step needs the samples, only sums over them. Then the
whole network, layer by layer: X from the network as it is pruned so far, Y from the original (section 3.2). And residual
networks (section 3.3).
"""

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import activations

BATCH = 100  # images of a forward pass
ROUNDING = 1e-12  # a variance that is less than this share of the mean square is none
ROWS = 1024  # samples that are put into float64 at a time
RIDGE = 1e-6  # of the mean square of an input, where least squares alone has no unique answer
DEPENDENT = 1e-10  # an input of which the others leave less than this share unexplained is a combination of them


# One layer


@dataclass(frozen=True)
class Moments:
    """Sums over N samples of inputs X (N, c, p) and outputs Y (N, n), their means taken out: a bias makes up for these. float64.

    With them a layer can be pruned to any width. What they take does not grow with N.
    """

    samples: int
    input_mean: Tensor  # (c, p)
    output_mean: Tensor  # (n,)
    gram: Tensor  # X^T X, (c p, c p)
    cross: Tensor  # X^T Y, (c p, n)
    power: float  # ||Y||^2


def moments(batches: Iterable[tuple[Tensor, Tensor]]) -> Moments:
    """Accumulates what selection and reconstruction need from batches of inputs (N, c, p) and outputs (N, n).

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or fewer than two samples in all.
    """
    sums = torch.zeros((), dtype=torch.float64)
    for inputs, outputs in batches:
        _check_samples(inputs, outputs)
        (c, p), m = inputs.shape[1:], inputs[0].numel()
        for x, y in zip(inputs.split(ROWS), outputs.split(ROWS), strict=True):
            rows = torch.cat([x.flatten(1), y, torch.ones_like(y[:, :1])], dim=1).double()  # (N, c p + n + 1)
            sums = rows.T @ rows + sums.to(rows.device)
    if sums.dim() == 0 or sums[-1, -1] < 2:
        raise ValueError("inputs and outputs are fewer than two samples; there is nothing to fit")
    samples, mean = sums[-1, -1], sums[-1, :-1] / sums[-1, -1]
    centred = sums[:-1, :-1] - samples * mean.outer(mean)
    constant = centred.diagonal() <= ROUNDING * sums.diagonal()[:-1]
    centred[constant], centred[:, constant] = 0.0, 0.0
    power = centred.diagonal()[m:].sum().item()
    return Moments(int(samples), mean[:m].view(c, p), mean[m:], centred[:m, :m], centred[:m, m:], power)


def contributions(seen: Moments, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products of the channels' contributions Z_i = X_i W_i^T (N, n) with each other, (c, c), and with Y, (c,).

    <Z_i, Z_j> is the sum over a, b of (X_i^T X_j)_ab (W_i^T W_j)_ab, so Z with its N n c numbers is never built.

    Args:
        seen: of the layer.
        weight: W, (n, c, p).
    """
    n, c, p = weight.shape
    w = weight.detach().double().flatten(1)  # (n, c p)
    gram = (seen.gram * (w.T @ w)).view(c, p, c, p).sum((1, 3))
    return gram, (seen.cross * w.T).reshape(c, p * n).sum(1)


def lasso_path(gram: Tensor, products: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """All solutions of min 1 / 2N ||Y - sum_i beta_i Z_i||^2 + penalty ||beta||_1, each from the one before (LARS).

    Args:
        gram: <Z_i, Z_j>, (c, c).
        products: <Z_i, Y>, (c,).
        samples: N.

    Returns:
        The penalties at which a channel comes or goes, falling to zero, (k,), and beta at each, (k, c), in between linear;
        float64, on the CPU.
    """
    from sklearn.exceptions import ConvergenceWarning  # here: its import takes seconds
    from sklearn.linear_model import lars_path_gram

    scale = gram.diagonal().mean().item() or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of channels that repeat others: they stay out, as they should
        penalties, _, betas = lars_path_gram(
            Xy=(products / scale).cpu().numpy(), Gram=(gram / scale).cpu().numpy(), n_samples=samples, method="lasso"
        )
    return torch.from_numpy(penalties * scale), torch.from_numpy(betas.T.copy())


def survivors(betas: Tensor, size: Tensor, keep: int) -> Tensor:
    """The `keep` channels that are left when the penalty, raised from zero, first leaves no more than `keep`.

    As a rule one channel comes or goes at a time, and just `keep` are left. Where several vanish together, or fewer than
    `keep` are there at zero penalty, as with zeros and repeated channels, those that the LASSO leaves are filled up: by
    |beta_i| ||Z_i|| at zero penalty, then by ||Z_i||, then by index.

    Args:
        betas: from `lasso_path`, (k, c).
        size: ||Z_i||^2, (c,).
        keep: c', 1 to c.

    Returns:
        Ascending indices, int64 of shape (keep,).
    """
    nonzero = betas != 0
    between = nonzero[:-1] | nonzero[1:]  # (k - 1, c): who is there between two penalties
    few = (between.sum(1) <= keep).nonzero().flatten()
    left = between[few[-1]] if len(few) else torch.zeros_like(nonzero[0])
    if nonzero[-1].sum() < keep:
        warnings.warn(
            f"keep is {keep}, but only {int(nonzero[-1].sum())} of {len(size)} channels say anything that the others do not "
            "(the rest are zero, or repeat them); the largest of the rest fill up",
            stacklevel=4,
        )
    strength = betas[-1].abs() * size.cpu().sqrt()
    ranked = sorted(range(len(size)), key=lambda i: (-int(left[i]), -strength[i].item(), -size[i].item()))
    return torch.tensor(sorted(ranked[:keep]))


def choose(seen: Moments, weight: Tensor, keep: int) -> Tensor:
    """`select_channels` on accumulated moments."""
    c, p = seen.input_mean.shape
    if weight.shape != (len(seen.output_mean), c, p):
        raise ValueError(f"weight is {tuple(weight.shape)}; inputs and outputs ask for {(len(seen.output_mean), c, p)}")
    if not isinstance(keep, Integral) or not 1 <= keep <= c:
        raise ValueError(f"keep is {keep}; of {c} input channels a layer can keep 1 to {c}")
    if seen.power == 0:
        raise ValueError("outputs are the same in all samples; there is nothing to choose channels by")
    gram, products = contributions(seen, weight)
    return survivors(lasso_path(gram, products, seen.samples)[1], gram.diagonal(), keep) if keep < c else torch.arange(c)


def select_channels(inputs: Tensor, weight: Tensor, outputs: Tensor, keep: int) -> Tensor:
    """Which input channels of a layer to keep: a LASSO over their contributions, W as given (section 3.1, (i)).

    Exactly `keep` come back (`survivors` says how). Means of inputs and outputs do not count: a bias makes up for them.
    `explained` says what the choice is worth.

    Args:
        inputs: X, patches of the layer's input, (N, c, h*w), floating point.
        weight: W, (n, c, h*w).
        outputs: Y, what the layer shall say there, (N, n).
        keep: c', 1 to c.

    Returns:
        Ascending indices, int64 of shape (keep,), on the CPU.

    Raises:
        ValueError: `keep` out of range, shapes that do not fit, fewer than two samples, numbers that are not finite, or
            outputs that do not vary. Where fewer than `keep` channels contribute, there is a warning instead.

    >>> x = torch.eye(4).view(4, 4, 1)
    >>> w = torch.tensor([[[3.0], [1.0], [-2.0], [0.5]]])
    >>> select_channels(x, w, x.flatten(1) @ w.view(4, 1), keep=2)
    tensor([0, 2])
    """
    return choose(moments([(inputs, outputs)]), weight, keep)


def reconstruct(inputs: Tensor, outputs: Tensor) -> Tensor:
    """The weight that says `outputs` best, by least squares (section 3.1, (ii)); computed in float64, without an intercept.

    For an intercept take the means out of both first, or use `refit`.

    Args:
        inputs: X', of the channels that stay, (N, c', h*w), floating point.
        outputs: Y, (N, n).

    Returns:
        (n, c', h*w), of the inputs' dtype. An input that is always zero gets weight zero.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite. Where there is more than one answer, as with fewer
            samples than unknowns, a small ridge decides, and a warning says so.
    """
    _check_samples(inputs, outputs)
    x, y = inputs.flatten(1).double(), outputs.double()
    solution = _least_squares(x.T @ x, x.T @ y, len(x))  # (c' p, n)
    return solution.T.reshape(-1, *inputs.shape[1:]).to(inputs.dtype)


def refit(seen: Moments, keep: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """`reconstruct` on accumulated moments, with an intercept.

    Returns:
        Weight (n, c, p), zero at the channels that go, and bias (n,); float64.
    """
    c, p = seen.input_mean.shape
    columns = (torch.as_tensor(keep).cpu()[:, None] * p + torch.arange(p)).flatten().to(seen.gram.device)
    weight = torch.zeros_like(seen.cross)  # (c p, n)
    weight[columns] = _least_squares(seen.gram[columns][:, columns], seen.cross[columns], seen.samples)
    bias = seen.output_mean - seen.input_mean.flatten() @ weight
    return weight.T.reshape(-1, c, p), bias


def explained(seen: Moments, weight: Tensor) -> float:
    """Share of the outputs' variance that a weight (n, c, p) explains with the best bias: 1 - ||Y - X W^T||^2 / ||Y||^2."""
    w = weight.detach().double().flatten(1).T  # (c p, n)
    error = seen.power - 2 * (seen.cross * w).sum() + (w * (seen.gram @ w)).sum()
    return 1 - error.item() / seen.power


def _least_squares(gram: Tensor, cross: Tensor, samples: int) -> Tensor:
    """Solves gram @ solution = cross, gram (m, m) positive semi-definite, with a ridge where it must."""
    gram = gram.clone()
    diagonal = gram.diagonal()
    diagonal[diagonal == 0] = 1.0  # an input that is always the same: so is the rest of its row
    factor, failed = torch.linalg.cholesky_ex(gram)
    # a squared pivot is what the inputs before it leave unexplained of an input
    if failed or (factor.diagonal().square() < DEPENDENT * diagonal).any():
        why = f"{samples} samples" if samples <= len(gram) else "inputs that repeat one another"
        warnings.warn(f"{why} do not settle {len(gram)} unknowns an output; a small ridge decides", stacklevel=3)
        diagonal += RIDGE * diagonal.mean()
        factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(cross, factor)


def _check_samples(inputs: Tensor, outputs: Tensor) -> None:
    if inputs.dim() != 3 or outputs.dim() != 2 or len(inputs) != len(outputs) or 0 in (inputs.numel(), outputs.numel()):
        raise ValueError(
            f"inputs is {tuple(inputs.shape)} and outputs {tuple(outputs.shape)}; expected (N, c, h*w) and (N, n), none of them 0"
        )
    for name, values in dict(inputs=inputs, outputs=outputs).items():
        if not values.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")


# The whole network


class Pruned(NamedTuple):
    """What `prune` gives."""

    model: nn.Module  # physically narrower, in evaluation mode
    kept: dict[str, Tensor]  # layer -> the input channels that it still reads, ascending
    explained: dict[str, float]  # layer -> share of the variance of its wanted outputs that it explains, on the samples


@torch.no_grad()
def prune(
    model: nn.Module,
    images: Tensor,
    plan: Mapping[str, int | Sequence[int] | Tensor],
    *,
    positions: int = 10,
    corrected: bool = True,
    seed: int = 0,
) -> Pruned:
    """Prunes the inputs of several layers, from the network's input on (sections 3.2 and 3.3).

    A layer's inputs come from the network as it is pruned so far, the outputs it shall say from the original, at the same
    positions of the same images: so it makes up for what was lost before it. Where a layer is the only reader of its inputs,
    the filters that make them go too; otherwise a `ChannelSampler` is put in front of it. A layer without a bias gets one.

    Args:
        model: a trained network; it is left as it was.
        images: (N, ...), on the model's device; of the training set. Labels are not needed.
        plan: name of a convolution or dense layer -> how many of its input channels to keep, or which ones.
        positions: sampled from the feature map of each image.
        corrected: the last layer of a residual branch makes up for the error of the shortcut too (`residual_target`).
        seed: of the positions.

    Raises:
        ValueError: `plan` names a layer that cannot be pruned, or channels that it does not have; or as `select_channels`.
    """
    sources = inputs_of(model, plan, images[:1])
    for name, source in sources.items():  # before any work
        _ascending(range(plan[name]) if isinstance(plan[name], Integral) else plan[name], name, source)
    ends = {name: end for name, end in residual_ends(model).items() if corrected and name in plan}
    original, pruned = (copy.deepcopy(model).eval() for _ in range(2))
    batches = [activations.Sample(batch, positions, seed * 100_003 + number) for number, batch in enumerate(images.split(BATCH))]
    wanted = [_outputs(original, plan, ends, batch) for batch in batches]  # all layers in one pass
    kept, shares = {}, {}
    for name, source in sources.items():
        layer, keep, end = pruned.get_submodule(name), plan[name], ends.get(name)
        seen = moments(_pair(pruned, name, source, end, batch, said) for batch, said in zip(batches, wanted, strict=True))
        weight = layer.weight[:, source.columns].flatten(2)  # (n, c, r p)
        kept[name] = choose(seen, weight, keep) if isinstance(keep, Integral) else _ascending(keep, name, source)
        weight, bias = refit(seen, kept[name])
        shares[name] = explained(seen, weight)
        layer.weight[:, source.columns] = weight.to(layer.weight).view(len(bias), *source.columns.shape, *layer.weight.shape[2:])
        layer.bias = nn.Parameter(bias.to(layer.weight))
    return Pruned(cut(pruned, kept, images[:1]), kept, shares)


# Residual networks


class End(NamedTuple):
    """What joins the last layer of a residual branch in the sum."""

    norm: str | None  # the batch norm behind the layer
    shortcut: str  # the module whose output is added, or the block whose input is
    is_block: bool


def residual_ends(model: nn.Module) -> dict[str, End]:
    """The last convolution of each residual branch: of modules that hold convolutions and a `shortcut` or `downsample`, the last
    one held. So it is in this course's blocks and in torchvision's, where None stands for the identity."""
    ends = {}
    for name, block in model.named_modules():
        way = next((way for way in ("shortcut", "downsample") if hasattr(block, way)), None)
        branch = {child: module for child, module in block.named_children() if child != way}
        convolutions = [child for child, module in branch.items() if isinstance(module, nn.Conv2d)]
        norms = [child for child, module in branch.items() if isinstance(module, nn.BatchNorm2d)]
        if way and convolutions:
            prefix, is_block = f"{name}." if name else "", getattr(block, way) is None
            norm = prefix + norms[-1] if norms else None
            ends[prefix + convolutions[-1]] = End(norm, name if is_block else prefix + way, is_block)
    return ends


def residual_target(outputs: Tensor, shortcut: Tensor, pruned_shortcut: Tensor, norm: nn.BatchNorm2d | None = None) -> Tensor:
    """What the last layer of a branch shall say so that the sum is right: Y2 + (Y1 - Y1'), section 3.3.

    Args:
        outputs: Y2, what the layer says in the original network, (N, n).
        shortcut: Y1, what the shortcut adds in the original network, (N, n).
        pruned_shortcut: Y1', what it adds in the pruned one, (N, n).
        norm: the batch norm between the layer and the sum, in evaluation mode. It multiplies by gamma / std, so the difference
            is divided by that. Where gamma is zero the layer cannot make up for anything.
    """
    missing = shortcut - pruned_shortcut
    if norm is not None:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (n,)
        missing = torch.where(scale == 0, 0.0, missing / scale)
    return outputs + missing


def _outputs(model: nn.Module, layers: Iterable[str], ends: Mapping[str, End], sample: activations.Sample) -> dict[str, Tensor]:
    """What layers and shortcuts say: name of the module -> (N, n)."""
    readers = {name: lambda _layer, _x, y: sample.at(y) for name in layers}
    return activations.watch(model, readers | {end.shortcut: _shortcut(end, sample) for end in ends.values()}, sample.images)


def _pair(
    model: nn.Module, name: str, source: Source, end: End | None, sample: activations.Sample, original: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """A layer's inputs in the network as it is pruned so far, (N, c, r p), and what it shall say, (N, n)."""
    readers: dict[str, activations.Reader] = {name: sample.patches}
    if end is not None:
        readers[end.shortcut] = _shortcut(end, sample)
    seen, target = activations.watch(model, readers, sample.images), original[name]
    if end is not None:
        norm = None if end.norm is None else model.get_submodule(end.norm)
        target = residual_target(target, original[end.shortcut], seen[end.shortcut], norm)
    return seen[name][:, source.columns].flatten(2), target


def _shortcut(end: End, sample: activations.Sample) -> activations.Reader:
    return lambda _module, x, y: sample.at(x if end.is_block else y)
