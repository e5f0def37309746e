"""When a claim is held: paired differences of independently trained networks, a t-interval, and one of three verdicts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

HOLDS, DOES_NOT, UNDECIDED, NOT_TESTED = "holds", "does not hold here", "undecided here", "not tested here"
NETWORKS = {"mnist": 5, "cifar10": 3}  # how many trained networks a setting has

# The margins of the whole course, in percentage points of test accuracy: the smallest difference worth a sentence. Each is the
# standard error of an accuracy measured on the 10,000 test images, at the 99 % and 91 % that our networks reach.
RELEVANT = {"mnist": 0.1, "cifar10": 0.3}


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds, and on what evidence; all figures in the unit of the differences."""

    label: str  # 'holds', 'does not hold here' or 'undecided here'
    mean: float
    low: float  # the 95 % interval of the mean; from -inf to inf for a single network
    high: float
    networks: int
    margin: float

    def __str__(self) -> str:
        return f"{self.label}: {self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f}, {self.networks} networks)"


def verdict(differences: Iterable[float], *, margin: float = 0.0) -> Verdict:
    """Return whether a difference lies beyond a margin, judged by the 95 % t-interval of its mean.

    It *holds* where the whole interval lies above the margin, and *does not hold here* where the whole interval lies below;
    otherwise, and always for a single network, it is *undecided here*. 'At most 0.5 points are lost' is a margin of -0.5 for
    the differences after - before.

    Args:
        differences: one per independently trained network, each of two arms that start from that network; positive where it
            speaks for the claim.
        margin: what the difference has to exceed, in the unit of the differences.

    Raises:
        ValueError: no differences, or one that is not finite; a margin that is not finite.

    >>> verdict([0.4, 0.5, 0.6]).label, verdict([0.4, 0.5, 0.6], margin=1.0).label, verdict([0.5]).label
    ('holds', 'does not hold here', 'undecided here')
    """
    values = np.array(list(differences), dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"differences is {values.tolist()}; expected a finite number for each network, and at least one network")
    if not math.isfinite(margin):
        raise ValueError(f"margin is {margin}; expected a finite number")
    mean, half = float(values.mean()), half_width(values)
    low, high = mean - half, mean + half
    label = HOLDS if low > margin else DOES_NOT if high < margin else UNDECIDED
    return Verdict(label, mean, low, high, len(values), margin)


def better(differences: Iterable[float], dataset: str) -> Verdict:
    """Return `verdict` on 'one arm is better than the other': by more than a relevant difference on that data set."""
    return verdict(differences, margin=RELEVANT[dataset])


def no_worse(differences: Iterable[float], dataset: str) -> Verdict:
    """Return `verdict` on 'nothing is lost': at most a relevant difference on that data set."""
    return verdict(differences, margin=-RELEVANT[dataset])


def weakest_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim that has to pass several tests: the one that fails, or is undecided, or holds by least.

    >>> weakest_of([verdict([0.4, 0.5, 0.6]), verdict([0.1, 0.3, 0.5])]).label
    'undecided here'
    """
    order = (DOES_NOT, UNDECIDED, HOLDS)
    return min(verdicts, key=lambda found: (order.index(found.label), found.low - found.margin))


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the mean of figures of independently trained networks and the two ends of its 95 % t-interval.

    A single network has no interval: its ends are -inf and inf.
    """
    found = verdict(values)
    return found.mean, found.low, found.high


def with_interval(values: Iterable[float], form: str = "{:.2f}") -> str:
    """Return the mean of figures of independently trained networks and its 95 % interval, each formatted by `form`.

    >>> with_interval([0.4, 0.5, 0.6], "{:+.1f}"), with_interval([0.5])
    ('+0.5 (+0.3 to +0.7)', '0.50 (one network)')
    """
    values = list(values)
    mean, low, high = (form.format(figure) for figure in interval(values))
    return f"{mean} ({low} to {high})" if len(values) > 1 else f"{mean} (one network)"


def half_width(values: np.ndarray) -> float:
    """Return half the width of the 95 % t-interval of a mean, in the unit of the values; infinite for a single one."""
    from scipy.stats import t

    if len(values) == 1:
        return math.inf
    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
