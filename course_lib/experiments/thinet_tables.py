"""What the rows of ThiNet say, and those of the comparison about ThiNet: figures per trained network and tables of them."""

import pandas as pd

from course_lib.evidence import interval
from course_lib.experiments import points_lost, rows, runner
from course_lib.experiments.own_schedules import BY_LAYER

# Top-1 (%) on CUB-200 by share of FLOPs left (%), retrained: VGG-16 with a mean over positions for a head, whole 71.2. Read off
# such a plot, origin unsure: (check)
LEFT = (66, 40, 22, 10)
PAPER_CRITERIA = {
    "ThiNet": (70.5, 68.8, 63.4, 52.3),
    "ThiNet, not rescaled": (70.2, 67.6, 63.5, 48.3),
    "L1": (68.1, 60.5, 49.2, 34.1),
    "APoZ": (69.1, 66.3, 58.3, 18.5),
    "random": (69.6, 66.7, 58.2, 28.4),
}
RIVALS = ("L1", "APoZ", "random")
FAIR = (("vgg-small", 2), ("resnet-20", 2), ("vgg-small", 4))  # of the comparison: network and how many times fewer MACs
MISSING = "not measured here yet"
# ImageNet: top-1 before and after, and how many times fewer FLOPs, of the networks nearest in kind
PUBLISHED = {"vgg-small": ("VGG-16", 68.34, 69.80, 3.2), "resnet-20": ("ResNet-50†", 72.88, 71.01, 2.3)}


def untrained(found: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy after all layers were cut, not retrained: by network, share and seed, a column per method."""
    lines = found[found.kind == "criteria"]
    return lines.pivot_table(index=["network", "share", "seed"], columns="method", values="accuracy")


def macs_left(found: pd.DataFrame) -> pd.Series:
    """Return the share of MACs that is left, by network and share of filters."""
    return found[found.kind == "criteria"].groupby(["network", "share"]).left.mean()


def greed(found: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each greedy choice's losses over the least, by network, layer and seed."""
    lines = found[(found.kind == "layers") & (found.question == "greed")]
    return lines.groupby(["network", "layer", "seed"])[["removed", "grown", "removed, rescaled", "forward"]].mean()


def samples(found: pd.DataFrame) -> pd.DataFrame:
    """Return the mean loss on validation images over the draws, by network, layer, positions, images per class and seed."""
    lines = found[(found.kind == "layers") & (found.question == "samples")]
    return lines.groupby(["network", "layer", "positions", "images", "seed"]).lost.mean()


def by_images(found: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of the whole network before retraining by images per class, a column per network."""
    return found[found.kind == "images"].groupby(["images", "seed"]).accuracy.mean().unstack("seed")


def tuning(found: pd.DataFrame) -> pd.DataFrame:
    """Return what an epoch changes, in points, by what is tuned, its learning rate and schedule, and by network."""
    lines = found[found.kind == "tuning"]
    lines = lines.assign(validation=lines.validation - lines.validation_before, test=lines.accuracy - lines.before)
    return lines.set_index(["start", "lr", "schedule", "seed"])[["before", "validation", "test"]].sort_index()


def retrained(grid: pd.DataFrame, network: str, rate: float) -> pd.DataFrame:
    """Return the accuracies of the comparison's arms at a rate after retraining, a column per arm, a line per network.

    An arm that was not measured on all of ThiNet's networks is left out; the column 'trained network' is what all begin with.
    """
    lines = points_lost.arms(grid)
    lines = lines[(lines.network == network) & (lines.rate == rate)]
    table = lines.pivot_table(index="seed", columns="method", values="accuracy")
    if "ThiNet" not in table:
        return pd.DataFrame()
    table = table[table["ThiNet"].notna()].dropna(axis="columns")
    return table.assign(**{"trained network": lines.groupby("seed").baseline.first()})


def own_schedule(grid: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison's rows of the paper's own schedule; there may be none yet."""
    return grid[(grid.kind == "schedule") & (grid.method == BY_LAYER)]


def paper_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return the criteria before retraining, a line per network, share and criterion: accuracies, with the 95 % interval."""
    table, left = [], macs_left(found)
    for (network, share, method), group in found[found.kind == "criteria"].groupby(["network", "share", "method"], sort=False):
        mean, low, high = interval(group.accuracy)
        ends = "one network" if len(group) == 1 else f"{max(low, 0):.1f} to {min(high, 100):.1f}"
        table.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group.dataset))),
                "criterion": method,
                "filters kept": f"{share:.0%}",
                "MACs left": f"{left[network, share]:.0%}",
                "whole network (%)": f"{group.baseline.mean():.2f}",
                "not retrained (%)": f"{mean:.1f} ({ends})",
                "networks": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, for the table over all papers: ThiNet in the comparison, at half the MACs and after retraining."""
    lines = points_lost.arms(runner.recorded("comparison", found.scale.iloc[0]))
    lines = lines[(lines.method == "ThiNet") & (lines.rate == 2) & lines.network.isin(PUBLISHED)]
    table = []
    for network, group in lines.groupby("network", sort=False):
        like, before, after, rate = PUBLISHED[network]
        about = {
            "network": network,
            "data set": ", ".join(sorted(set(group.dataset))),
            "counted": "MACs",
            "published": f"{like}: {rate}x, {before:.2f} -> {after:.2f} % top-1",
            "rate": float(group.rate.iloc[0]),
        }
        table.append(about | rows.lost(group))
    return pd.DataFrame(table)
