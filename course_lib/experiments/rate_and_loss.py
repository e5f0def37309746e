"""Points lost against rate from recorded rows of coded layers, over trained networks, and settings chosen on validation.

The same setting serves all networks. It is chosen by the mean of the points lost on validation images, and what it loses on
test images is told afterwards.
"""

import pandas as pd

from course_lib import evidence

GROUP = ["network", "dataset", "method", "setting"]


def lines(recorded: pd.DataFrame, kind: str = "method", layers: str | None = None) -> pd.DataFrame:
    """Return the networks of a kind of run, with what each lost in points, on validation and on test images.

    Args:
        recorded: rows as of `runner.recorded`.
        kind: of the runs.
        layers: only networks with these layers coded; default all.
    """
    chosen = recorded[(recorded.kind == kind) & (True if layers is None else recorded.layers == layers)]
    return chosen.assign(
        setting=chosen.arguments.map(tuple),
        lost=chosen.baseline - chosen.accuracy,
        lost_validation=chosen.baseline_validation - chosen.validation,
    )


def settings(recorded: pd.DataFrame, layers: str) -> pd.DataFrame:
    """Return a line per network, method and setting: mean rate, mean points lost on validation and on test images with the ends
    of the latter's 95 % interval, and the number of trained networks."""
    found = lines(recorded, layers=layers).groupby(GROUP, sort=False)
    figures = found.agg(
        rate=("rate", "mean"), lost_validation=("lost_validation", "mean"), lost=("lost", "mean"), networks=("seed", "nunique")
    )
    ends = found.lost.apply(lambda lost: evidence.interval(lost)[1:])
    return figures.assign(low=ends.str[0], high=ends.str[1]).reset_index()


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """Return the settings that no other setting beats in both rate and validation loss, by rising rate."""
    best_first = points.sort_values(["rate", "lost_validation"], ascending=[False, True])
    least_before = best_first.lost_validation.cummin().shift(fill_value=float("inf"))
    return best_first[best_first.lost_validation < least_before][::-1]


def best_rates(points: pd.DataFrame, allowed: float = 1.0) -> pd.DataFrame:
    """Return for each network and method the setting of the highest rate among those that lose at most `allowed` points on
    validation images; where there is none, the one that loses least, with `within` False."""
    best = []
    for _, group in points.groupby(["network", "method"], sort=False):
        good = group[group.lost_validation <= allowed]
        one = good.nlargest(1, "rate") if len(good) else group.nsmallest(1, "lost_validation")
        best.append(one.assign(within=bool(len(good))))
    return pd.concat(best, ignore_index=True)


def lost_by(recorded: pd.DataFrame, layers: str, method: str, setting: tuple[int, ...]) -> dict[str, pd.Series]:
    """Return network -> test points that each trained network lost, by seed, at one setting of a method."""
    found = lines(recorded, layers=layers)
    found = found[(found.method == method) & (found.setting.map(lambda one: one == setting))]
    return {network: group.set_index("seed").lost for network, group in found.groupby("network")}


def table(recorded: pd.DataFrame, layers: str) -> pd.DataFrame:
    """Return the chosen setting of each network and method in words, with the mean loss on test images and its interval."""
    best = best_rates(settings(recorded, layers))
    return pd.DataFrame(
        {
            "network": best.network,
            "data set": best.dataset,
            "networks": best.networks,
            "method": best.method,
            "setting": [" ".join(map(str, setting)) or "-" for setting in best.setting],
            "rate": best.rate.map("{:.1f}x".format).where(best.within, "none"),
            "points lost": [f"{one.lost:.2f} ({one.low:.2f} to {one.high:.2f})" for one in best.itertuples()],
        }
    )
