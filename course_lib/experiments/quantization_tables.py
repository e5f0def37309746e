"""Recorded rows of coded layers, compared at like rates: which settings, and what each trained network lost by them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from course_lib import evidence, models
from course_lib.experiments import rate_and_loss
from course_lib.experiments import vector_quantization as runs
from course_lib.storage.codes import WEIGHT_BITS

NAMES = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5"}
METHODS = {
    "scalar": "scalar k-means", "product": "PQ", "residual": "RQ", "low rank": "SVD", "scaled sign": "scaled sign",
    "sign": "sign",
}  # fmt: skip
NEAR = 1.25  # the factor by which the rates of two arms may differ
ROUNDING = 1.02  # and by which rates that differ are still called equal


class Arm(NamedTuple):
    """A setting in a comparison."""

    rate: float
    lost: pd.Series  # test points that each trained network lost, by seed


def near(points: pd.DataFrame, rate: float, *, below: bool = False) -> pd.Series:
    """Return the setting that loses least on validation images, of those at a rate or at most a quarter above it.

    Args:
        points: a line per setting, with its rate and `lost_validation`.
        rate: the setting has at least this rate, and at most a quarter more.
        below: it has at most this rate instead, and at most a quarter less.
    """
    low, high = (rate / NEAR, rate * ROUNDING) if below else (rate / ROUNDING, rate * NEAR)
    return points.loc[points[points.rate.between(low, high)].lost_validation.idxmin()]


def compared(recorded: pd.DataFrame, layers: str, k: int = 4) -> pd.DataFrame:
    """Return the settings that are compared at the rate of scalar k-means: a line per network and method.

    PQ has at least that rate; RQ and SVD have at most that. The signs have no other setting.
    """
    points, chosen = rate_and_loss.settings(recorded, layers), []
    for network in NAMES:
        groups = dict(list(points[points.network == network].groupby("method")))
        scalar = groups["scalar"][groups["scalar"].setting.map(lambda setting: setting == (k,))].iloc[0]
        chosen += [scalar, near(groups["product"], scalar.rate)]
        chosen += [near(groups[method], scalar.rate, below=True) for method in ("residual", "low rank")]
        chosen += [groups[method].iloc[0] for method in ("scaled sign", "sign")]
    return pd.DataFrame(chosen)


def arms(recorded: pd.DataFrame, layers: str, k: int = 4) -> dict[tuple[str, str], Arm]:
    """Return (network, method) -> its arm in `compared`."""
    chosen = compared(recorded, layers, k)
    return {
        (one.network, one.method): Arm(one.rate, rate_and_loss.lost_by(recorded, layers, one.method, one.setting)[one.network])
        for one in chosen.itertuples()
    }


def sweep_points(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the sweep of product quantization of fc1: a line per axis, k and segment length, means over the trained networks
    of both rates and of the points lost, with the ends of the interval of those lost on test images."""
    found = rate_and_loss.lines(recorded, "sweep")
    k, length, axis = (found.setting.str[i].rename(name) for i, name in enumerate(("k", "length", "axis")))
    groups = found.groupby([axis, k, length])
    means = groups[["rate", "rate_without_codebooks", "lost", "lost_validation"]].mean()
    ends = groups.lost.apply(lambda lost: evidence.interval(lost)[1:])
    return means.assign(low=ends.str[0], high=ends.str[1]).reset_index()


def layer_rate(network: str, layer: str, method: str, setting: Sequence[int]) -> float:
    """Return how many times smaller a layer becomes; that depends on its shape alone, so nothing is coded."""
    weight = models.build(network).get_submodule(layer).weight
    m, n = weight.shape
    if method == "low rank":
        return m * n / (runs.rank_for(weight, *setting) * (m + n + 1))
    k, *others = setting
    if method == "scalar":
        numbers, codes = k, m * n
    elif method == "residual":  # of columns
        numbers, codes = others[0] * k * m, others[0] * n
    else:
        width = (m, n)[others[1]]
        length = max(d for d in range(1, others[0] + 1) if width % d == 0)
        numbers, codes = k * width, m * n / length
    return WEIGHT_BITS * m * n / (WEIGHT_BITS * numbers + math.ceil(math.log2(k)) * codes)


def lost_alone(recorded: pd.DataFrame, network: str, method: str) -> pd.DataFrame:
    """Return the points lost by a layer alone and by all: a line per seed, a column per layer and one for all."""
    found = rate_and_loss.lines(recorded, "alone")
    found = found[(found.network == network) & (found.method == method)]
    return found.pivot(index="seed", columns="layers", values="lost")


def pairs_of_layers(recorded: pd.DataFrame) -> dict[str, tuple[Arm, Arm]]:
    """Return for fc2 and fc3 of LeNet-300-100, coded alone by PQ: the layer, and fc1 alone near its rate, by the sweep."""
    alone, swept = (rate_and_loss.lines(recorded, kind) for kind in ("alone", "sweep"))
    alone = alone[(alone.network == "lenet-300-100") & (alone.method == "product")]
    points, pairs = sweep_points(recorded), {}
    for layer in ("fc2", "fc3"):
        rate = layer_rate("lenet-300-100", layer, "product", runs.ALONE["product"])
        chosen = near(points, rate)
        fc1 = swept[swept.setting.map(lambda one, chosen=chosen: one == (chosen.k, chosen.length, chosen["axis"]))]
        lost = [group.set_index("seed").lost for group in (alone[alone.layers == layer], fc1)]
        pairs[layer] = Arm(rate, lost[0]), Arm(chosen.rate, lost[1])
    return pairs


def structure_factors(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the error of each order as a multiple of the trained order's: a line per seed, columns (method, order)."""
    found = rate_and_loss.lines(recorded, "structure").assign(
        layout=lambda rows: pd.Categorical(rows.layout, rows.layout.unique())
    )
    errors = found.pivot(index="seed", columns=["method", "layout"], values="error")
    return pd.concat({method: errors[method].div(errors[method, "trained"], axis=0) for method in runs.STRUCTURE}, axis=1)
