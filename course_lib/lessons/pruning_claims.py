"""The claims of notebook 02: which recorded arms each of them compares."""

from collections.abc import Callable
from typing import Any

from course_lib import evidence
from course_lib.experiments import weight_pruning as runs

FREE, BETTER = evidence.no_worse, evidence.better
RATES = (3, 5, 8, 12, 20)  # over which curves of figure 5 are compared
WIDTHS = "LeNet-300-100, mean of 3x to 20x"

# Claim, what is measured, the arm for which it speaks, the other one (None: the dense networks), how it is judged
Compared = tuple[str, str, dict[str, Any], dict[str, Any] | None, Callable]


def by_the_paper() -> list[Compared]:
    """Return the paper's claims, each with the arms that the paper compares."""
    at_12x = "iterative pruning at 12x, and dense"
    bare, bare_l1 = curve("L2, no retraining"), curve("L1, no retraining")
    l2, l1, iterative = curve("L2, retraining"), curve("L1, retraining"), curve("L2, iterative")
    kept, redrawn = variant(runs.KEPT), variant(runs.REDRAWN)
    return [
        ("12x on LeNet-300-100 costs no accuracy (1.64 -> 1.59 %)", at_12x, table_1("lenet-300-100", 12), None, FREE),
        ("12x on LeNet-5 costs no accuracy (0.80 -> 0.77 %)", at_12x, table_1("lenet-5", 12), None, FREE),
        ("2x is free without retraining", "LeNet-300-100 with L2, at 2x and dense", curve("L2, no retraining", 2), None, FREE),
        ("L1 is better before retraining", f"{WIDTHS}: L1 and L2", bare_l1, bare, BETTER),
        ("L2 is better after retraining", f"{WIDTHS}: L2 (strength not tuned) and L1 (tuned)", l2, l1, BETTER),
        ("iterative pruning beats one step", f"{WIDTHS}: as published, unequal epochs", iterative, l2, BETTER),
        ("survivors should keep their values", "LeNet-300-100 at 12x: kept and drawn anew", kept, redrawn, BETTER),
    ]


def of_our_own() -> list[Compared]:
    """Return the same questions at equal budgets, and two remarks of the paper."""
    small, dense = table_1("lenet-300-100", 12), table_1("lenet-300-100", 1, "dense, trained on")
    iterative, long = curve("L2, iterative"), curve("L2, one shot, long")
    l2, mixed = curve("L2, retraining"), curve("L1, then L2 retraining")
    kept, longer = variant(runs.KEPT), variant(runs.LONGER)
    turns, at_once = dict(kind="turns", method="in turns"), dict(kind="turns", method="all at once")
    return [
        ("iterative pruning beats one step trained as long", f"{WIDTHS}: equal epochs", iterative, long, BETTER),
        ("12x loses nothing to a dense network trained on as long", "LeNet-300-100, 12x and dense", small, dense, FREE),
        ("kept values beat new ones trained 30 epochs longer", "LeNet-300-100 at 12x", kept, longer, BETTER),
        ("L1, then L2 does not beat L2 throughout", f"{WIDTHS}: L2 and L1, then L2", l2, mixed, FREE),
        ("retraining groups of layers in turns helps", "LeNet-5 at 12x: in turns and all at once", turns, at_once, BETTER),
    ]


def table_1(network: str, rate: int, method: str = "iterative") -> dict:
    """Return how to find the rows of a network at a rate."""
    return dict(kind="rate", network=network, rate=rate, method=method)


def curve(method: str, *rates: int) -> dict:
    """Return how to find the points of a curve of figure 5, by default at `RATES`."""
    return dict(kind="curves", method=method, rate=list(rates or RATES))


def variant(method: str) -> dict:
    """Return how to find the rows with this treatment of the survivors."""
    return dict(kind="variant", method=method)
