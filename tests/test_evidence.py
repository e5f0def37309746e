"""Verdicts: the interval is scipy's, and no verdict says more than it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from course_lib import evidence

figures = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=2, max_size=8)


@given(figures, st.floats(-10, 10))
def test_the_interval_is_that_of_a_t_test(differences, margin):
    found = evidence.verdict(differences, margin=margin)
    error = stats.sem(differences)
    low, high = stats.t.interval(0.95, len(differences) - 1, np.mean(differences), error) if error else (found.mean, found.mean)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.networks == len(differences) and found.margin == margin
    assert (found.label == "holds") == (found.low > margin)
    assert (found.label == "does not hold here") == (found.high < margin)


@given(figures, st.floats(-10, 10))
def test_the_opposite_claim_gets_the_opposite_verdict(differences, margin):
    opposite = {"holds": "does not hold here", "does not hold here": "holds", "undecided here": "undecided here"}
    turned = evidence.verdict([-d for d in differences], margin=-margin)
    assert turned.label == opposite[evidence.verdict(differences, margin=margin).label]


def test_few_noisy_networks_decide_nothing_and_many_do():
    draws = np.random.default_rng(0).normal(0.3, 0.2, 40)
    assert evidence.verdict(draws[:2]).label == "undecided here"
    assert evidence.verdict(draws).label == "holds"


def test_a_single_network_is_always_undecided():
    found = evidence.verdict([5.0])
    assert (found.label, found.low, found.high, found.networks) == ("undecided here", -math.inf, math.inf, 1)


def test_a_verdict_is_rarely_wrong():
    """Where there is no difference, one side or the other is named in at most 5 % of cases, by what a 95 % interval is."""
    draws = np.random.default_rng(1).normal(0, 1, (2_000, 5))
    decided = sum(evidence.verdict(row).label != "undecided here" for row in draws)
    assert 0.035 < decided / 2_000 < 0.065


def test_the_margins_of_the_course():
    """The standard error of an accuracy on 10,000 images, to one digit."""
    for dataset, accuracy in (("mnist", 0.99), ("cifar10", 0.91)):
        error = 100 * math.sqrt(accuracy * (1 - accuracy) / 10_000)
        assert evidence.RELEVANT[dataset] == pytest.approx(error, rel=0.06)
    assert evidence.better([0.05, 0.06, 0.07], "mnist").label == "does not hold here"
    assert evidence.no_worse([-0.05, -0.06, -0.07], "mnist").label == "holds"


@pytest.mark.parametrize("differences", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_evidence_is_refused(differences):
    with pytest.raises(ValueError, match="expected a finite number for each network"):
        evidence.verdict(differences)
    with pytest.raises(ValueError, match="margin is nan"):
        evidence.verdict([1.0], margin=math.nan)
