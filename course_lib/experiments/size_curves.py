"""What the rows of Deep Compression say about accuracy against bits and against bytes, one figure per trained network."""

import pandas as pd


def by_bits(rows: pd.DataFrame, column: str = "accuracy", **chosen: str) -> pd.DataFrame:
    """Return figures of LeNet-300-100 from rows of kind 'bits', a line per network (seed), a column per bits of a code."""
    rows = rows[(rows.kind == "bits") & (rows.network == "lenet-300-100")]
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    table = rows.pivot(index="seed", columns="bits", values=column)
    return table.set_axis(table.columns.astype(int), axis=1)


def by_size(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the networks of figure 6, each trained for as many epochs: curve, choice, seed, share (%), accuracy, validation."""
    rows = rows[rows.network == "lenet-300-100"]
    trained = rows[(rows.kind == "bits") & (rows.start == "linear") & (rows.method == "trained")]
    longer = rows[(rows.kind == "start") & (rows.method == "pruned, longer")]
    coded = trained.assign(choice=trained.plan + ", " + trained.bits.map("{:g}".format) + " bits")
    factors = rows[rows.kind == "SVD"].set_index(["rate", "lr"])  # of each rank those of the best learning rate
    factors = factors.loc[factors.validation.groupby(["rate", "lr"]).mean().groupby("rate").idxmax()].reset_index()
    curves = {
        "pruning": longer[longer.plan != "dense"].assign(choice=longer.plan),
        "quantization": coded[coded.plan == "dense"],
        "pruning and quantization": coded[coded.plan != "dense"],
        "SVD": factors.assign(choice=factors.rate.map("rank for {:g}x".format)),
    }
    table = pd.concat([found.assign(curve=curve) for curve, found in curves.items()])
    table["share"] = 100 * table.bytes / table.dense_bytes
    return table[["curve", "choice", "seed", "epochs", "share", "accuracy", "validation"]]


def frontier(networks: pd.DataFrame) -> pd.DataFrame:
    """Return what each curve of figure 6 is drawn through: of its choices those that no smaller file beats on validation images.

    Args:
        networks: from `by_size`.
    """
    means = networks.groupby(["curve", "choice"])[["share", "accuracy", "validation"]].mean().reset_index()
    means = means.sort_values(["curve", "share"])
    before = means.groupby("curve").validation.transform(lambda values: values.cummax().shift(fill_value=0))
    return means[means.validation > before]


def best_within(networks: pd.DataFrame, curve: str, share: float) -> pd.DataFrame | None:
    """Return the networks of a curve's best choice, by validation accuracy, whose files take at most a share (%) of the dense.

    None where no choice makes files that small.
    """
    means = networks[networks.curve == curve].groupby("choice")[["share", "validation"]].mean()
    small = means[means["share"] <= share]
    if small.empty:
        return None
    return networks[(networks.curve == curve) & (networks.choice == small.validation.idxmax())]


def paired(one: pd.DataFrame, other: pd.DataFrame, column: str = "accuracy") -> pd.Series:
    """Return the differences of two arms' figures, network by network.

    Raises:
        ValueError: the arms are not of the same networks, one row each.
    """
    first, second = (rows.set_index("seed")[column].sort_index() for rows in (one, other))
    if list(first.index) != list(second.index) or not first.index.is_unique:
        raise ValueError(f"the arms are of the networks {list(first.index)} and {list(second.index)}; expected the same")
    return first - second


def quantization_cost(rows: pd.DataFrame, plan: str, method: str = "trained") -> pd.DataFrame:
    """Return the points that quantization costs LeNet-300-100, a line per network, a column per bits; epochs are equal."""
    whole = rows[
        (rows.kind == "start") & (rows.network == "lenet-300-100") & (rows.plan == plan) & (rows.method == "pruned, longer")
    ]
    return -by_bits(rows, plan=plan, start="linear", method=method).sub(whole.set_index("seed").accuracy, axis=0)


def pipeline(rows: pd.DataFrame, network: str, setting: str, stage: str = "P+Q+H") -> pd.DataFrame:
    """Return the rows of a whole pipeline, one per network."""
    return rows[(rows.kind == "stages") & (rows.network == network) & (rows.setting == setting) & (rows.method == stage)]


def sizes(rows: pd.DataFrame, setting: str = "paper") -> dict[str, pd.DataFrame]:
    """Return the bytes of the files of a setting by network: a line per trained network, a column per stage."""
    chosen = rows[(rows.kind == "stages") & (rows.setting == setting)]
    return {network: group.pivot(index="seed", columns="method", values="bytes") for network, group in chosen.groupby("network")}


def gap_share(rows: pd.DataFrame, network: str, setting: str = "paper") -> pd.Series:
    """Return what gaps take of the bytes of gaps and codes together, in percent, one figure per network."""
    parts = pd.DataFrame(pipeline(rows, network, setting).parts.tolist())
    return 100 * parts.gaps / (parts.gaps + parts.codes)
