"""The claims of notebook 01, judged on recorded rows: the paper's, and what we found beside them."""

from collections.abc import Mapping, Sequence

import pandas as pd

from course_lib import evidence
from course_lib.evidence import DOES_NOT, HOLDS, UNDECIDED, Verdict
from course_lib.experiments import quantization_tables as tables
from course_lib.experiments import rate_and_loss
from course_lib.experiments import vector_quantization as runs
from course_lib.notebook import Claim

MARKS = {HOLDS: "yes", DOES_NOT: "no", UNDECIDED: "undecided"}


def weakest(claim: str, measured: str, tests: Mapping[str, Verdict]) -> Claim:
    """Return the row of a claim that has to pass several tests: its verdict is that of the weakest, 'here' names all of them."""
    worst = evidence.weakest_of(tests.values())
    here = "; ".join(f"{name}: {test.mean:+.2f} ({MARKS[test.label]})" for name, test in tests.items())
    return Claim(claim, measured, here, worst, "none")


def paper_claims(recorded: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims; those with a † quote it at second hand.

    Their figures are points of test accuracy, positive where they speak for the claim.
    """
    scalar = {f"{rate}.0x": rate_and_loss.lost_by(recorded, runs.ALL, "scalar", (k,)) for rate, k in ((8, 16), (16, 4))}
    scalars = {
        f"{tables.NAMES[n]}, {rate}": evidence.verdict(-lost[n], margin=-0.5)
        for n in tables.NAMES
        for rate, lost in scalar.items()
    }
    sign = rate_and_loss.lost_by(recorded, runs.ALL, "sign", ())
    signs = {f"{tables.NAMES[n]}, 32.0x": evidence.verdict(-sign[n], margin=-10) for n in tables.NAMES}
    arms, exact = (tables.arms(recorded, layers) for layers in (runs.ALL, runs.LAST_EXACT))
    codes = ("product", "scalar")
    change, lead = "after - before, all dense layers coded, margin {} points", "their lead, {}, margin 0.1 points"
    all_coded, last_exact = lead.format("all dense layers coded"), lead.format("last layer exact")
    together = "PQ, k = 8, d = 4: points lost by all, minus the largest single loss, margin 0.1"
    last = "one layer coded: points lost by the last, minus the largest other loss, margin 0.1"
    return [
        weakest("PQ: 16-24x within 1 point of top-5", change.format(-1), _product_between(recorded, 16, 24)),
        weakest("scalar k-means: 8-16x within 0.5 points of top-5", change.format(-0.5), scalars),
        weakest("PQ and scalar k-means beat SVD at like rates", all_coded, _leads(arms, codes, "low rank")),
        weakest("our variation: the same, last layer exact", last_exact, _leads(exact, codes, "low rank")),
        weakest("RQ is worse than PQ and scalar k-means at like rates†", all_coded, _leads(arms, codes, "residual")),
        weakest("binarization: 32x at a loss of the order of 10 points or less†", change.format(-10), signs),
        weakest("all layers together lose more than any one†", together, _together(recorded)),
        weakest("the last layer is the most fragile†", last, _last(recorded)),
    ]


def our_findings(recorded: pd.DataFrame) -> list[Claim]:
    """Return what we found beside the paper's claims; figures as of `paper_claims`, unless a row says otherwise."""
    four_bits = rate_and_loss.lost_by(recorded, runs.ALL, "scalar", (16,))
    low_rank = [rate_and_loss.lost_by(recorded, layers, "low rank", (4,)) for layers in (runs.ALL, runs.LAST_EXACT)]
    scaled, sign = (rate_and_loss.lost_by(recorded, runs.ALL, name, ()) for name in ("scaled sign", "sign"))
    times = tables.structure_factors(recorded)
    broken = {"PQ, columns moved": ("product", "columns moved"), "RQ, segments exchanged": ("residual", "segments exchanged")}
    return [
        weakest(
            "four bits per weight lose less than 0.1 points",
            "scalar k-means, k = 16, after - before, margin -0.1 points",
            {tables.NAMES[n]: evidence.no_worse(-lost, "mnist") for n, lost in four_bits.items()},
        ),
        weakest(
            "PQ beats scalar k-means at like rates",
            "lead of PQ over k = 8 and k = 4, all dense layers coded, margin 0.1 points",
            _leads(tables.arms(recorded, runs.ALL, 8), ("product",), "scalar")
            | _leads(tables.arms(recorded, runs.ALL), ("product",), "scalar"),
        ),
        weakest(
            "at 4x, SVD fails because of the last layer",
            "points lost with it coded, minus those with it exact, margin 0.1",
            {tables.NAMES[n]: evidence.better(low_rank[0][n] - low_rank[1][n], "mnist") for n in tables.NAMES},
        ),
        weakest(
            "a binarized network is better without a scale",
            "points lost with a scale, minus those without, margin 0.1",
            {tables.NAMES[n]: evidence.better(scaled[n] - sign[n], "mnist") for n in tables.NAMES},
        ),
        weakest(
            "PQ of rows uses neighbours; RQ of columns uses columns that line up",
            "fc1 of LeNet-300-100: rise of the squared error as a share of it, margin 0 (no points)",
            {name: evidence.verdict(times[place] - 1) for name, place in broken.items()},
        ),
    ]


def _leads(arms: Mapping[tuple[str, str], tables.Arm], ahead: Sequence[str], behind: str) -> dict[str, Verdict]:
    """Return the tests of whether methods lose less than another one; a test's name holds both rates."""
    tests = {}
    for network in tables.NAMES:
        rival = arms[network, behind]
        for method in ahead:
            rates = f"{arms[network, method].rate:.1f}x v {rival.rate:.1f}x"
            difference = rival.lost - arms[network, method].lost
            tests[f"{tables.NAMES[network]}, {tables.METHODS[method]} {rates}"] = evidence.better(difference, "mnist")
    return tests


def _product_between(recorded: pd.DataFrame, low: float, high: float) -> dict[str, Verdict]:
    """Return the tests of whether product quantization of all layers loses at most a point at the best setting of a range."""
    points, tests = rate_and_loss.settings(recorded, runs.ALL), {}
    for network in tables.NAMES:
        inside = points[(points.network == network) & (points.method == "product") & points.rate.between(low, high)]
        best = inside.loc[inside.lost_validation.idxmin()]
        lost = rate_and_loss.lost_by(recorded, runs.ALL, "product", best.setting)[network]
        tests[f"{tables.NAMES[network]}, {best.rate:.1f}x"] = evidence.verdict(-lost, margin=-1)
    return tests


def _together(recorded: pd.DataFrame) -> dict[str, Verdict]:
    lost = {tables.NAMES[network]: tables.lost_alone(recorded, network, "product") for network in tables.NAMES}
    return {n: evidence.better(one[runs.ALL] - one.drop(columns=runs.ALL).max(axis=1), "mnist") for n, one in lost.items()}


def _last(recorded: pd.DataFrame) -> dict[str, Verdict]:
    """Return the tests of whether the last layer loses most, of the methods that code all layers at like rates."""
    tests = {}
    for method in ("scalar", "low rank"):
        for network in tables.NAMES:
            single = tables.lost_alone(recorded, network, method).drop(columns=runs.ALL)
            last = single.columns.max()
            difference = single[last] - single.drop(columns=last).max(axis=1)
            tests[f"{tables.NAMES[network]}, {tables.METHODS[method]}"] = evidence.better(difference, "mnist")
    last, fc1 = tables.pairs_of_layers(recorded)["fc3"]
    name = f"LeNet-300-100, PQ, fc3 {last.rate:.1f}x v fc1 {fc1.rate:.1f}x"
    return tests | {name: evidence.better(last.lost - fc1.lost, "mnist")}
