"""Least squares from sums over samples: what is needed of the samples does not grow with their number."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-12  # a variance below this share of the mean square is zero
ROWS = 1024  # samples that are put into float64 at a time
RIDGE = 1e-6  # of the mean square of an input, where least squares alone has no unique answer
DEPENDENT = 1e-10  # an input of which the others leave less than this share unexplained is a combination of them


@dataclass(frozen=True)
class Moments:
    """Sums over N samples of inputs X (N, c, p) and outputs Y (N, n), after their means are taken out. float64.

    X holds the patches that a layer reads: p numbers for each of c channels. With the moments of a layer it can be pruned to any
    width and fitted anew.
    """

    samples: int
    input_mean: Tensor  # (c, p)
    output_mean: Tensor  # (n,)
    gram: Tensor  # X^T X, (c p, c p)
    cross: Tensor  # X^T Y, (c p, n)
    power: float  # ||Y||^2


def moments(batches: Iterable[tuple[Tensor, Tensor]]) -> Moments:
    """Return the moments of all samples, from batches of inputs (N, c, p) and outputs (N, n), one batch in memory at a time.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or fewer than two samples in all.
    """
    sums = torch.zeros((), dtype=torch.float64)
    for inputs, outputs in batches:
        check_samples(inputs, outputs)
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


def refit(seen: Moments, keep: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias that come nearest to the outputs when a layer reads only the channels `keep`.

    Args:
        seen: the moments of the layer.
        keep: indices of its input channels.

    Returns:
        Weight (n, c, p), zero at all other channels, and bias (n,); float64.
    """
    c, p = seen.input_mean.shape
    columns = (torch.as_tensor(keep).cpu()[:, None] * p + torch.arange(p)).flatten().to(seen.gram.device)
    weight = torch.zeros_like(seen.cross)  # (c p, n)
    weight[columns] = solve(seen.gram[columns][:, columns], seen.cross[columns], seen.samples)
    bias = seen.output_mean - seen.input_mean.flatten() @ weight
    return weight.T.reshape(-1, c, p), bias


def explained(seen: Moments, weight: Tensor) -> float:
    """Return 1 - ||Y - X W^T||^2 / ||Y||^2: the share of the outputs' variance that W (n, c, p) explains with the best bias."""
    w = weight.detach().double().flatten(1).T  # (c p, n)
    error = seen.power - 2 * (seen.cross * w).sum() + (w * (seen.gram @ w)).sum()
    return 1 - error.item() / seen.power


def solve(gram: Tensor, cross: Tensor, samples: int) -> Tensor:
    """Return the solution of gram @ solution = cross; where it is not unique, of the problem with a small ridge, with a warning.

    Args:
        gram: X^T X, (m, m); an input that is always zero gets weight zero.
        cross: X^T Y, (m, n).
        samples: N, for the warning.
    """
    gram = gram.clone()
    diagonal = gram.diagonal()
    diagonal[diagonal == 0] = 1.0  # an input that is always the same: the rest of its row is zero too
    factor, failed = torch.linalg.cholesky_ex(gram)
    # a squared pivot is what the inputs before it leave unexplained of an input
    if failed or (factor.diagonal().square() < DEPENDENT * diagonal).any():
        why = f"{samples} samples" if samples <= len(gram) else "inputs that repeat one another"
        warnings.warn(f"{why} do not settle {len(gram)} unknowns per output; a small ridge decides", stacklevel=3)
        diagonal += RIDGE * diagonal.mean()
        factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(cross, factor)


def check_samples(inputs: Tensor, outputs: Tensor) -> None:
    """Raise ValueError unless inputs are (N, c, p) and outputs (N, n), not empty and finite."""
    if inputs.dim() != 3 or outputs.dim() != 2 or len(inputs) != len(outputs) or 0 in (inputs.numel(), outputs.numel()):
        raise ValueError(
            f"inputs is {tuple(inputs.shape)} and outputs {tuple(outputs.shape)}; expected (N, c, h*w) and (N, n), none of them 0"
        )
    for name, values in dict(inputs=inputs, outputs=outputs).items():
        if not values.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
