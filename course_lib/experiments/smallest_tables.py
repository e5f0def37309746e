"""What the rows of the smallest files say: bytes and errors after each step, what each step contributes, and other coders."""

import pandas as pd

from course_lib import evidence
from course_lib.experiments import rows

STAGES = {  # stage -> what its file holds
    "trained": "32 bits per weight",
    "trimmed": "32 bits per weight",
    "distilled": "32 bits per weight",
    "pruned": "32 bits per weight left, gaps in Huffman's code",
    "quantized": "integers and gaps in Huffman's code",
    "coded": "integers, coded with contexts",
}
PUBLISHED = {  # network, weights kept -> the published file that is nearest in size
    ("lenet-300-100", 3600): "8,560 bytes, 1.9 % error (Oktay 2020)",
    ("lenet-300-100", 2600): "8,560 bytes, 1.9 % error (Oktay 2020)",
    ("lenet-5", 3200): "3,100 bytes, 0.69 % error (MIRACLE, not all bytes counted)",
    ("lenet-5", 2650): "2,840 bytes, 1.0 % error (Oktay 2020)",
    ("lenet-5", 1870): "1,694 bytes, 0.83 % error (MIRACLE, re-implemented)",
    ("lenet-5", 1290): "1,140 bytes, 0.98 % error (MIRACLE, re-implemented)",
}
WHOLE = "the whole pipeline"  # what the arms of the ablation are compared with
CODERS = {  # column -> how the same integers are coded
    "xz": "xz, one byte per integer",
    "huffman": "gaps and levels, Huffman",
    "ans": "gaps and levels, ANS",
    "entropy": "zero-order entropy, tables not counted",
    "as_trained": "contexts, neurons as trained",
    "bytes": "contexts, neurons sorted by density",
}


def points(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of kind 'file', a line per network, stage and size, with errors in percent and the kilobytes."""
    lines = found[found.kind == "file"]
    return lines.assign(error=100 - lines.accuracy, validation_error=100 - lines.validation, lost=lines.baseline - lines.accuracy)


def step_table(found: pd.DataFrame, size: str) -> pd.DataFrame:
    """Return a line per step of a size: non-zeros, bytes of the file, validation and test error, means with 95 % intervals."""
    lines, table = points(found), []
    lines = lines[lines["size"] == size]
    for (stage, keep), group in lines.groupby(["stage", lines.keep.fillna(0)], sort=False):
        table.append(
            {
                "step": f"{stage}, {keep:,.0f} weights" if keep else stage,
                "file": STAGES[stage],
                "non-zeros": f"{group.nonzeros.mean():,.0f}",
                "bytes": f"{group.bytes.mean():,.0f}",
                "times smaller": f"{(group.dense_bytes / group.bytes).mean():,.0f}x",
                "validation error": f"{group.validation_error.mean():.2f} %",
                "test error": f"{evidence.with_interval(group.error)} %",
                "epochs": f"{group.epochs.mean():g}",
                "networks": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def paper_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per size of file: what is published, and bytes and errors here, means over networks with their ranges."""
    lines, table = points(found), []
    for (network, keep), group in lines[lines.stage == "coded"].groupby(["network", "keep"], sort=True):
        table.append(
            {
                "network": network,
                "data set": ", ".join(sorted(set(group.dataset))),
                "published": PUBLISHED[network, int(keep)],
                "bytes here (range)": f"{group.bytes.mean():,.0f} ({group.bytes.min():,.0f} to {group.bytes.max():,.0f})",
                "test error here (95 % interval)": f"{evidence.with_interval(group.error)} %",
                "validation error": f"{group.validation_error.mean():.2f} %",
                "trained network": f"{100 - group.baseline.mean():.2f} %",
                "weights left": f"{group.nonzeros.mean():,.0f}",
                "times smaller": f"{(group.dense_bytes / group.bytes).mean():,.0f}x",
                "epochs": f"{group.epochs.mean():g}",
                "networks": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def ablations(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per replaced step and network: bytes, errors, and the difference of both to the whole pipeline.

    'worse' are the points of test accuracy lost by the replacement, 'more' the bytes it adds, in percent. The whole pipeline
    comes first, then the replacements, the worst first.
    """
    lines = found[found.kind == "ablation"].set_index("seed")
    whole = lines[lines.arm == WHOLE]
    joined = lines.join(whole[["accuracy", "bytes"]].add_suffix("_whole"))
    worse, more = joined.accuracy_whole - joined.accuracy, 100 * (joined.bytes / joined.bytes_whole - 1)
    joined = joined.assign(worse=worse, more=more).reset_index()
    means = joined.groupby("arm").worse.mean().drop(WHOLE).sort_values(ascending=False)
    return joined.set_index("arm").loc[[WHOLE, *means.index]].reset_index()


def ablation_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per replaced step: bytes, validation and test error, and the paired differences to the whole pipeline."""
    table = []
    for arm, group in ablations(found).groupby("arm", sort=False):
        whole = arm == WHOLE
        table.append(
            {
                "pipeline": arm,
                "bytes": f"{group.bytes.mean():,.0f}",
                "more bytes": "" if whole else f"{evidence.with_interval(group.more, '{:+.1f}')} %",
                "before quantization": f"{100 - group.pruned.mean():.2f} %",
                "validation error": f"{100 - group.validation.mean():.2f} %",
                "test error": f"{100 - group.accuracy.mean():.2f} %",
                "points worse": "" if whole else evidence.with_interval(group.worse, "{:+.2f}"),
                "worse": "" if whole else evidence.better(group.worse, "mnist").label,
                "epochs": f"{group.epochs.mean():g}",
                "networks": group.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def coder_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per coder and size of file: the mean bytes of the same integers, headers included where there is a file."""
    lines = points(found)
    lines = lines[lines.stage == "coded"]
    means = lines.groupby(["network", "keep"])[list(CODERS)].mean().T
    means.columns = [f"{network}, {keep:,.0f} weights" for network, keep in means.columns]
    return means.map("{:,.0f}".format).rename(index=CODERS).reset_index(names="the same integers, bytes")


def residual_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return a line per file of ResNet-20: weights left, bytes, accuracy after pruning and in the file, points lost."""
    lines, table = found[found.kind == "residual"], []
    for keep, group in lines.groupby("keep", sort=False):
        coded, pruned = (group[group.stage == stage] for stage in ("coded", "pruned"))
        table.append(
            {
                "weights left": f"{keep:,.0f} of {pruned.parameters.mean():,.0f}",
                "bytes": f"{coded.bytes.mean():,.0f}",
                "times smaller": f"{(coded.dense_bytes / coded.bytes).mean():.0f}x",
                "validation, pruned": f"{pruned.validation.mean():.2f} %",
                "validation, in the file": f"{coded.validation.mean():.2f} %",
                "test, in the file": f"{coded.accuracy.mean():.2f} %",
                "test, as trained": f"{coded.baseline.mean():.2f} %",
                "points lost": f"{(coded.baseline - coded.accuracy).mean():+.2f}",
                "epochs": f"{coded.epochs.mean():g}",
                "networks": coded.seed.nunique(),
            }
        )
    return pd.DataFrame(table)


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return the main result, for the table over all papers; columns as in `runner.HEADLINE`."""
    lines = points(found)
    lines = lines[(lines.stage == "coded") & (lines.keep == 1870)]
    if lines.empty:
        return pd.DataFrame()
    about = {
        "network": "lenet-5",
        "data set": ", ".join(sorted(set(lines.dataset))),
        "counted": "bytes of the file",
        "published": PUBLISHED["lenet-5", 1870],
        "rate": (lines.dense_bytes / lines.bytes).mean(),
    }
    return pd.DataFrame([about | rows.lost(lines)])
