"""What the rows of network trimming say: a line per round, the table beside the paper's, and the main result."""

import pandas as pd

from course_lib.experiments import rows

# Rows of the paper's table for LeNet: conv2 and fc1 after each round, and how many times fewer parameters than 50, 500 these give
PAPER_ROUNDS = (("41, 426", 1.41), ("31, 349", 2.23), ("26, 293", 3.11), ("24, 252", 3.85))
PARAMETERS = 431_080  # of the whole network
REACHED = 3.85  # the rate of the paper's last round


def rounds_of(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of trimming in rounds, a line per network and round, with the rate and the points lost."""
    lines = found[(found.kind == "rounds") & (found.method == "rounds")]
    lines = lines.assign(rate=PARAMETERS / lines.parameters, lost=lines.baseline - lines.accuracy)
    return lines.astype({"round": int, "conv2": int, "fc1": int}).sort_values(["seed", "round"])


def at_papers_rate(lines: pd.DataFrame) -> pd.DataFrame:
    """Return one line per network: its first round with the paper's rate or more; its last round where it has none."""
    reached = lines[(lines.rate >= REACHED) | (lines["round"] == lines["round"].max())]
    return reached.groupby("seed").first().reset_index()


def swings(found: pd.DataFrame) -> pd.DataFrame:
    """Return, by network, by how much accuracy falls when a round trims and rises when it retrains: means of the rounds."""
    lines = rounds_of(found)
    before = lines.groupby("seed").accuracy.shift().fillna(lines.baseline)
    both = pd.DataFrame(dict(seed=lines.seed, fall=before - lines.removed, recovery=lines.accuracy - lines.removed))
    return both.groupby("seed").mean()


def silence_lost(found: pd.DataFrame) -> pd.DataFrame:
    """Return the mean APoZ of each layer in percent, by network: 'before' any trimming and 'after' the last round."""
    by_seed = rounds_of(found).groupby("seed")
    columns = dict(before=by_seed.apoz_before.first(), after=by_seed.apoz.last())
    return pd.concat({when: 100 * values.apply(pd.Series) for when, values in columns.items()}, axis=1)


def ends(found: pd.DataFrame) -> pd.DataFrame:
    """Return the last network of each way to the last shape of trimming in rounds, by method and network.

    The column 'work' are the multiply-accumulates of the forward passes of one image over all epochs of training, the earlier
    ones of a network that was trained before included; 'before' are those epochs.
    """
    lines = found[found.kind == "rounds"].sort_values(["seed", "epochs"], kind="stable")
    own = lines.groupby(["method", "seed"]).epochs.diff().fillna(lines.epochs)  # of a round, where there are several
    lines = lines.assign(work=own * lines.macs, before=lines.earlier.where(~lines.method.str.startswith("from scratch"), 0))
    by_way = lines.groupby(["method", "seed"])
    last = by_way.tail(1).set_index(["method", "seed"]).sort_index()
    whole = lines[lines.method == "dense"].macs.iloc[0]
    return last.assign(work=by_way.work.sum() + last.before * whole)


def choices(found: pd.DataFrame) -> pd.DataFrame:
    """Return what each criterion leaves, by method, network and width of conv2: accuracies before and after retraining, rate.

    The random choice of a network is the mean of its draws.
    """
    lines = found[found.kind == "criterion"].assign(rate=lambda table: PARAMETERS / table.parameters)
    return lines.groupby(["method", "seed", "conv2"])[["removed", "accuracy", "rate"]].mean()


def four_steps(found: pd.DataFrame) -> pd.DataFrame:
    """Return `choices` averaged over the four steps of the paper's table, by method and network."""
    steps = [int(widths.split(",")[0]) for widths, _ in PAPER_ROUNDS]
    table = choices(found)
    return table[table.index.isin(steps, level="conv2")].groupby(["method", "seed"]).mean()


def by_images(found: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy after a step of the paper's rule by the number of images that chose, a column per network."""
    return found[found.kind == "images"].groupby(["images", "seed"]).accuracy.mean().unstack("seed")


def silence_by_width(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per network and per layer whose width was varied, all in percent: mean APoZ, neurons above 0.9, error."""
    lines = []
    for row in found[found.kind == "width"].itertuples():
        for layer, other in (("conv2", "fc1"), ("fc1", "conv2")):
            if row.layers[other]["width"] == dict(conv2=50, fc1=500)[other]:
                of = row.layers[layer]
                silent = dict(mean=100 * of["mean"], above=100 * of["silent"] / of["width"], error=100 - row.accuracy)
                lines.append(dict(layer=layer, width=of["width"], seed=row.seed) | silent)
    return pd.DataFrame(lines)


def paper_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return 'paper / here' for the paper's table of LeNet, a line per round: means over networks, and their spread."""
    table = []
    for number, group in rounds_of(found).groupby("round"):
        widths, rate = PAPER_ROUNDS[number - 1] if number <= len(PAPER_ROUNDS) else ("-", None)
        error = 100 - group.accuracy
        table.append(
            {
                "round": number,
                "data set": ", ".join(sorted(set(group.dataset))),
                "conv2, fc1, paper": widths,
                "rate, paper": f"{rate:.2f}x" if rate else "-",
                "conv2, fc1, here": f"{group.conv2.mean():.0f}, {group.fc1.mean():.0f}",
                "rate, here": f"{group.rate.mean():.2f}x",
                "epochs so far": f"{group.epochs.mean():g}",
                "error, trimmed": f"{100 - group.removed.mean():.2f} %",
                "error, retrained": f"{error.mean():.2f} %",
                "spread": f"{error.min():.2f}-{error.max():.2f} %",
                "networks": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    lines = at_papers_rate(rounds_of(found))
    about = {
        "network": ", ".join(sorted(set(lines.network))),
        "data set": ", ".join(sorted(set(lines.dataset))),
        "counted": "parameters",
        "published": "3.85x, 99.3 % accuracy before and after†",
        "rate": lines.rate.mean(),
    }
    return pd.DataFrame([about | rows.lost(lines)])
