"""Which method when: what a reader wants, which arms can give it, and which of them the rows can tell apart."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from course_lib import evidence
from course_lib.experiments import points_lost

# What an arm needs beside the trained network, in the order of effort; L1 before random choice, since it costs as little and
# gives the same network every time
NEEDS = {
    **{"L1": "weights", "random": "nothing", "group norm": "weights", "weight pruning": "weights", "k-means": "weights"},
    **{"Deep Compression": "weights, trained codebooks", "APoZ": "images", "ThiNet": "images, least squares"},
    **{"largest contribution": "images, least squares", "LASSO": "images, LASSO, least squares"},
    "scratch-E": "a training from random weights",
}
WITHOUT_IMAGES = tuple(arm for arm, needs in NEEDS.items() if needs == "nothing" or needs.startswith("weights"))


class Wish(NamedTuple):
    """What a reader wants, and how the arms are compared for it."""

    wants: str
    counted: str  # of the rows: 'MACs' (equal shapes) or 'bytes' (equal file sizes)
    column: str  # points lost in the end, 'lost', or without retraining, 'lost_at_once'
    arms: tuple[str, ...]  # those that can give it


ALL = tuple(NEEDS)
WISHES = (
    Wish("a smaller file, can retrain", "bytes", "lost", ALL),
    Wish("fewer MACs or less time, can retrain", "MACs", "lost", ALL),
    Wish("fewer MACs, no retraining", "MACs", "lost_at_once", ALL),
    Wish("fewer MACs, no retraining and no images", "MACs", "lost_at_once", WITHOUT_IMAGES),
)


def decisions(found: pd.DataFrame) -> pd.DataFrame:
    """Return the decision table: for each wish and shape the arm that loses least, those not shown to be worse, the simplest.

    An arm is not shown to be worse where `evidence.better` does not hold for the best arm against it: no relevant difference
    was shown. Only arms with as many networks as any count, and a shape needs two of them. A wish without rows has a line that
    says so.

    Args:
        found: rows of the comparison.
    """
    rows = {"MACs": points_lost.arms(found), "bytes": points_lost.files(found)}
    table = []
    for wish in WISHES:
        chosen = rows[wish.counted]
        chosen = chosen[chosen.method.isin(wish.arms) & chosen[wish.column].notna()]
        lines = []
        for (network, rate), group in chosen.groupby(["network", "rate"], sort=False):
            losses = group.pivot_table(index="seed", columns="method", values=wish.column)
            losses = losses.loc[:, losses.notna().sum() == losses.notna().sum().max()].dropna()
            if losses.shape[1] > 1:
                about = {"you want": wish.wants, "measured on": f"{network}, {rate:g}x"}
                lines.append(about | _decided(losses, group.dataset.iloc[0]))
        table += lines or [{"you want": wish.wants, "measured on": "no rows yet"}]
    return pd.DataFrame(table).fillna("-")


def _decided(losses: pd.DataFrame, dataset: str) -> Mapping[str, str]:
    """What the arms of one wish at one shape say."""
    best, as_good = tied(losses, dataset)
    take = min((best, *as_good), key=list(NEEDS).index)
    low, high = evidence.interval(losses[take])[1:]
    return {
        "loses least": best,
        "not shown to be worse": ", ".join(as_good) or "none",
        "so take": take,
        "it needs": NEEDS[take],
        "and loses (points)": f"{losses[take].mean():.2f} ({low:.2f} to {high:.2f})",
        "networks": str(len(losses)),
    }


def tied(losses: pd.DataFrame, dataset: str) -> tuple[str, list[str]]:
    """Return the arm of the smallest mean loss, and the arms that it is not shown to beat by a relevant difference.

    Args:
        losses: points lost, a line per trained network, a column per arm.
        dataset: whose margin counts.
    """
    best = losses.mean().idxmin()
    others = losses.drop(columns=best)
    beaten = {arm for arm in others if evidence.better(others[arm] - losses[best], dataset).label == evidence.HOLDS}
    return best, [arm for arm in others if arm not in beaten]
