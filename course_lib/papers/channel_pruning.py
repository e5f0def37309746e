"""Channel Pruning for Accelerating Very Deep Neural Networks: He, Zhang, Sun, ICCV 2017 (arXiv 1707.06168).

A layer with weights W (n, c, kh, kw) reads c channels. Which c' of them suffice to compute its outputs? With patches X of its
input (N samples, p = kh kw numbers per channel) and its outputs Y at the same places,

    min over beta and W of  1 / 2N  || Y - sum_i beta_i X_i W_i^T ||_F^2   where at most c' of the beta_i are not zero

is split (section 3.1): (i) W fixed, a LASSO over beta, its penalty raised until c' channels are left; (ii) those channels fixed,
W by least squares. As the paper does in practice, (i) at many penalties and then (ii) once, from W as it was trained (the order
that alternates would scale each W_i to length 1). Then the whole network, layer by layer: X from the network as it is pruned so
far, Y from the original (section 3.2); and residual networks (section 3.3).

Neither step needs the samples, only sums over them: `course_lib.least_squares`.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral

import torch
from torch import Tensor, nn

from course_lib.activations import Sample, check_counts, readable, samples_of, sums
from course_lib.data import Batches, example
from course_lib.least_squares import Moments, check_samples, explained, moments, refit, solve
from course_lib.result import Result
from course_lib.surgery import keeping
from course_lib.surgery import prunable_layers as narrowable_layers
from course_lib.surgery.inputs import Source, inputs_of, keep_inputs, pruned_inputs, readers_of
from course_lib.surgery.keeping import Keep, KeepByLayer
from course_lib.training import Retrain, call

MOST_COLUMNS = 8192  # of a weight that one number for all layers prunes: its sums take their square, 0.5 GB


def contributions(seen: Moments, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inner products of the channels' contributions Z_i = X_i W_i^T (N, n) with each other, (c, c), and with Y, (c,).

    <Z_i, Z_j> is the sum over a, b of (X_i^T X_j)_ab (W_i^T W_j)_ab, so Z with its N n c numbers is never built.

    Args:
        seen: the moments of the layer.
        weight: W, (n, c, p).
    """
    n, c, p = weight.shape
    w = weight.detach().double().flatten(1)  # (n, c p)
    gram = (seen.gram * (w.T @ w)).view(c, p, c, p).sum((1, 3))
    return gram, (seen.cross * w.T).reshape(c, p * n).sum(1)


def lasso_path(gram: Tensor, products: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return all solutions of min 1 / 2N ||Y - sum_i beta_i Z_i||^2 + penalty ||beta||_1, each from the one before (LARS).

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


def survivors(betas: Tensor, energies: Tensor, keep: int) -> Tensor:
    """Return the `keep` channels that are left when the penalty, raised from zero, first leaves no more than `keep`.

    As a rule one channel comes or goes at a time, and exactly `keep` are left. Where several vanish together, or fewer than
    `keep` are there at zero penalty, as with zeros and repeated channels, those that the LASSO leaves are filled up: by
    |beta_i| ||Z_i|| at zero penalty, then by ||Z_i||, then by index.

    Args:
        betas: from `lasso_path`, (k, c).
        energies: ||Z_i||^2, (c,).
        keep: c', 1 to c.

    Returns:
        Ascending indices, int64 of shape (keep,).
    """
    nonzero = betas != 0
    between = nonzero[:-1] | nonzero[1:]  # (k - 1, c): which are there between two penalties
    few = (between.sum(1) <= keep).nonzero().flatten()
    left = between[few[-1]] if len(few) else torch.zeros_like(nonzero[0])
    _warn_of_repeated_channels(int(nonzero[-1].sum()), len(energies), keep)
    strength = betas[-1].abs() * energies.cpu().sqrt()
    ranked = sorted(range(len(energies)), key=lambda i: (-int(left[i]), -strength[i].item(), -energies[i].item()))
    return torch.tensor(sorted(ranked[:keep]))


def choose(seen: Moments, weight: Tensor, keep: int) -> Tensor:
    """Return the kept channels as `select_channels` does, from the moments of a layer."""
    _check_choice(seen, weight, keep)
    gram, products = contributions(seen, weight)
    if keep == len(gram):
        return torch.arange(keep)
    return survivors(lasso_path(gram, products, seen.samples)[1], gram.diagonal(), keep)


def select_channels(inputs: Tensor, weight: Tensor, outputs: Tensor, keep: int) -> Tensor:
    """Return the input channels of a layer to keep: a LASSO over their contributions, W as given (section 3.1, (i)).

    Exactly `keep` come back (see `survivors`). Means of inputs and outputs do not count: a bias makes up for them.

    Args:
        inputs: X, patches of the layer's input, (N, c, h*w), floating point.
        weight: W, (n, c, h*w).
        outputs: Y, the wanted outputs at these places, (N, n).
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
    """Return the weight that comes nearest to `outputs`, by least squares in float64, without an intercept (section 3.1, (ii)).

    For an intercept take the means out of both first, or use `course_lib.least_squares.refit`.

    Args:
        inputs: X', of the channels that stay, (N, c', h*w), floating point.
        outputs: Y, (N, n).

    Returns:
        (n, c', h*w), of the inputs' dtype. An input that is always zero gets weight zero.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite. Where there is more than one answer, as with fewer
            samples than unknowns, a small ridge decides, and a warning says so.
    """
    check_samples(inputs, outputs)
    x, y = inputs.flatten(1).double(), outputs.double()
    solution = solve(x.T @ x, x.T @ y, len(x))  # (c' p, n)
    return solution.T.reshape(-1, *inputs.shape[1:]).to(inputs.dtype)


def residual_target(outputs: Tensor, shortcut: Tensor, pruned_shortcut: Tensor, norm: nn.Module | None = None) -> Tensor:
    """Return the outputs of a branch's last layer for which the sum is right: Y2 + (Y1 - Y1'), section 3.3.

    Args:
        outputs: Y2, what the layer computes in the original network, (N, n).
        shortcut: Y1, what the shortcut adds in the original network, (N, n).
        pruned_shortcut: Y1', what it adds in the pruned one, (N, n).
        norm: the batch norm between the layer and the sum, in evaluation mode. It multiplies by gamma / std, so the difference
            is divided by that. Where gamma is zero the layer cannot make up for anything.
    """
    missing = shortcut - pruned_shortcut
    if norm is not None:
        scale = (1.0 if norm.weight is None else norm.weight) / (norm.running_var + norm.eps).sqrt()  # (n,)
        missing = torch.where(scale == 0, 0.0, missing / scale)
    return outputs + missing


# The whole network


@torch.no_grad()
def prune(
    model: nn.Module,
    batches: Batches,
    keep: KeepByLayer,
    *,
    sampled: Mapping[str, Keep] | None = None,
    positions: int = 10,
    images: int = 5_000,
    corrected: bool = True,
    retrain: Retrain | None = None,
    measure: Callable[[nn.Module], float] | None = None,
    seed: int = 0,
) -> Result:
    """Return a network with fewer channels, pruned layer by layer from the input on and refitted (sections 3.2 and 3.3).

    Channels are chosen for the layer that reads them, and its weights are fitted anew: its inputs come from the network as it is
    pruned so far, its wanted outputs from the original, at the same places of the same images. So each layer makes up for what
    was lost before it. A layer without a bias gets one. Defaults are the paper's.

    Args:
        model: a trained network; it is left as it was.
        batches: training images and labels, read once per layer; the labels are not used.
        keep: layer -> how many, which share or which indices of its output channels stay; one other layer must be all that reads
            them. Or one number for all of `prunable_layers`.
        sampled: layer -> how many, which share or which of its input channels it goes on reading, through a `ChannelSampler`.
            They stay for other layers: as before the first layer of a residual branch.
        positions: places of each feature map that are looked at; of a dense layer's outputs there is one per image.
        images: how many images are looked at; of a longer split a random draw, of other batches the first ones.
        corrected: the last layer of a residual branch makes up for the error of the shortcut too (`residual_target`).
        retrain: called as retrain(network), once after all layers.
        measure: called as measure(network) after pruning and after retraining, for the record.
        seed: of the draw and of the positions.

    Returns:
        The result; its record has a row per layer: layer (None where a sampler was put in), reader, kept (channels), explained
        (share of the variance of the reader's wanted outputs), corrected (whether these include the shortcut's error), and in
        the last row, with `measure`, pruned and retrained.

    Raises:
        ValueError: `keep` or `sampled` names a layer that cannot be pruned, or is out of its range; `images` below 2 or
            `positions` below 1; what `surgery.narrow` and `select_channels` refuse.
    """
    check_counts(images, positions)
    first = example(batches).to(next(model.parameters()).device)
    keep = keep if isinstance(keep, Mapping) else keeping.by_layer(keep, prunable_layers(model, first))
    wanted = pruned_inputs(model, keep, sampled or {}, first)
    ends = sums.branch_ends(model, first) if corrected else {}
    original, pruned = (copy.deepcopy(model).eval() for _ in range(2))
    kept, record = {}, []
    for reader, (name, source, keep) in wanted.items():
        samples = samples_of(batches, images, positions, seed, first.device)
        seen = moments(_pairs(original, pruned, reader, source, ends, samples))
        layer = pruned.get_submodule(reader)
        weight = layer.weight[:, source.columns].flatten(2)  # (n, c, r p)
        kept[reader] = choose(seen, weight, keep) if isinstance(keep, int) else keep
        weight, bias = refit(seen, kept[reader])
        layer.weight[:, source.columns] = weight.to(layer.weight).view(len(bias), *source.columns.shape, *layer.weight.shape[2:])
        trained = (layer.weight if layer.bias is None else layer.bias).requires_grad
        layer.bias = nn.Parameter(bias.to(layer.weight), trained)
        row = dict(layer=name, reader=reader, kept=len(kept[reader]), explained=explained(seen, weight))
        record.append(row | dict(corrected=reader in ends))
    narrower = keep_inputs(pruned, kept, first)
    record[-1] |= {} if measure is None else dict(pruned=measure(narrower))
    call(retrain, narrower)
    record[-1] |= {} if measure is None else dict(retrained=measure(narrower))
    return Result(narrower, record)


@torch.no_grad()
def prunable_layers(model: nn.Module, example_input: Tensor) -> list[str]:
    """Return the layers that one number for all prunes: `surgery.narrow` accepts them, and one layer is all that reads them.

    Left out are those before a dense layer on tokens, which cannot be sampled, and before a layer of more than `MOST_COLUMNS`
    inputs, such as the first dense layer of VGG-16; the paper leaves dense layers whole.
    """
    sources = inputs_of(model, None, example_input)
    readers = readers_of(sources)
    fit = {name for name in sources if model.get_submodule(name).weight[0].numel() <= MOST_COLUMNS}
    fit &= set(readable(model, sources, example_input))
    return [layer for layer in narrowable_layers(model, example_input) if readers.get(layer) in fit]


def _pairs(
    original: nn.Module, pruned: nn.Module, name: str, source: Source, ends: Mapping[str, str | None], samples: Iterator[Sample]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a layer's inputs in the network as it is pruned so far, (N, c, r p), and its wanted outputs, (N, n)."""
    norm = pruned.get_submodule(ends[name]) if ends.get(name) else None
    for sample in samples:
        at = sample.at if name in ends else None
        outputs, shortcut = sums.watch(original, name, lambda _layer, _x, y, at=sample.at: at(y), sample.images, at)
        inputs, pruned_shortcut = sums.watch(pruned, name, sample.patches, sample.images, at)
        if at is not None:
            outputs = residual_target(outputs, shortcut, pruned_shortcut, norm)
        yield inputs[:, source.columns].flatten(2), outputs


def _check_choice(seen: Moments, weight: Tensor, keep: int) -> None:
    c, p = seen.input_mean.shape
    if weight.shape != (len(seen.output_mean), c, p):
        raise ValueError(f"weight is {tuple(weight.shape)}; inputs and outputs ask for {(len(seen.output_mean), c, p)}")
    if not isinstance(keep, Integral) or not 1 <= keep <= c:
        raise ValueError(f"keep is {keep}; of {c} input channels a layer can keep 1 to {c}")
    if seen.power == 0:
        raise ValueError("outputs are the same in all samples; there is nothing to choose channels by")


def _warn_of_repeated_channels(contributing: int, channels: int, keep: int) -> None:
    if contributing < keep:
        warnings.warn(
            f"keep is {keep}, but only {contributing} of {channels} channels contribute what the others do not (the rest are "
            "zero, or repeat them); the largest of the rest fill up",
            stacklevel=5,
        )
