"""The claims of notebook 05, the paper's and ours, tested on recorded rows of five trained networks of each kind."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from course_lib.evidence import DOES_NOT, HOLDS, UNDECIDED, Verdict, better, no_worse, verdict, weakest_of
from course_lib.experiments import deep_compression as experiments
from course_lib.experiments.compressed_files import PAPER_LAYERS
from course_lib.experiments.size_curves import (
    best_within,
    by_bits,
    by_size,
    gap_share,
    paired,
    pipeline,
    quantization_cost,
    sizes,
)
from course_lib.notebook import Claim
from course_lib.papers.deep_compression import STARTS

NAMES = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5"}
MARKS = {HOLDS: "yes", DOES_NOT: "no", UNDECIDED: "undecided"}


def weakest(claim: str, measured: str, tests: Mapping[str, Verdict], epochs: str) -> Claim:
    """Return the row of a claim that has to pass several tests: its verdict is that of the weakest, 'here' names all of them."""
    worst = weakest_of(tests.values())
    here = "; ".join(f"{name}: {test.mean:+.2f} ({MARKS[test.label]})" for name, test in tests.items())
    return Claim(claim, measured, here, worst, epochs)


def paper_claims(recorded: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims about what was run here; bits and sizes compared were fixed before any row was made."""
    shares = dict(plan="paper", start="linear")
    training = by_bits(recorded, method="trained", **shares) - by_bits(recorded, method="untrained", **shares)
    helps = {f"{b} bits": better(training[b], "mnist") for b in (2, 3, 4, 5, 6)}
    saved = {NAMES[network]: 100 * (1 - files["P+Q+H"] / files["P+Q"]) for network, files in sizes(recorded).items()}
    gaps = {NAMES[network]: gap_share(recorded, network) for network in PAPER_LAYERS}
    return [
        *(at_no_loss(recorded, network) for network in NAMES),
        both_together(recorded),
        pruned_or_dense(recorded),
        linear_start(recorded),
        Claim("training the centroids helps", "LeNet-300-100, the paper's shares: trained minus untrained, mean of 2 to 6 bits",
              "; ".join(f"{b}: {test.mean:+.2f} ({MARKS[test.label]})" for b, test in helps.items()),
              better(training[[2, 3, 4, 5, 6]].mean(axis=1), "mnist"), both_epochs(recorded)),
        weakest("Huffman coding saves 20 to 30 % (the totals of its tables: 20 and 16 %)", "per cent of the file, its setting",
                {name: within(values, 20, 30) for name, values in saved.items()}, "-"),
        weakest("indices and weights take about half each (40 to 60 %)", "per cent of gaps in gaps and codes, its setting",
                {name: within(values, 40, 60) for name, values in gaps.items()}, "-"),
    ]  # fmt: skip


def our_claims(recorded: pd.DataFrame) -> list[Claim]:
    """Return what we add to the paper: both settings at equal budget, fewer bits, training without pruning, ANS."""
    equal = {
        setting: {NAMES[n]: no_worse(paired(pipeline(recorded, n, setting), _dense(recorded, n)), "mnist") for n in NAMES}
        for setting in ("paper", "small")
    }
    rates = [f"{(arm.dense_bytes / arm.bytes).mean():.0f}x" for arm in (pipeline(recorded, n, "small") for n in NAMES)]
    plans = ("dense", "4x", "8x", "paper", "20x", "40x", "80x")
    dense = dict(plan="dense", start="linear")
    gain = by_bits(recorded, method="trained", **dense) - by_bits(recorded, method="untrained", **dense)
    beyond = {
        f"{NAMES[network]}, {setting}": verdict(100 * (1 - files["P+Q+ANS"] / files["P+Q+H"]), margin=1)
        for setting in ("paper", "small") for network, files in sizes(recorded, setting).items()
    }  # fmt: skip
    against = "points of accuracy, minus those of the dense network trained as long"
    return [
        weakest("the paper's setting loses nothing at equal epochs", against, equal["paper"], "27 (LeNet-5: 17)"),
        weakest(f"our small setting ({' and '.join(rates)}) loses nothing at equal epochs", against, equal["small"],
                "27 (LeNet-5: 17)"),
        weakest("five bits per code cost nothing", "LeNet-300-100, after minus before, by pruning rate",
                {plan.replace("paper", "12x"): no_worse(-quantization_cost(recorded, plan)[5], "mnist") for plan in plans},
                "27 each"),
        weakest("training the centroids pays at 2 and 3 bits if nothing is pruned", "LeNet-300-100, trained minus untrained",
                {f"{b} bits": better(gain[b], "mnist") for b in (2, 3)}, both_epochs(recorded)),
        weakest("ANS makes the file at least 1 % smaller than Huffman", "per cent of the file", beyond, "-"),
    ]  # fmt: skip


def at_no_loss(recorded: pd.DataFrame, network: str) -> Claim:
    """Return the claim about size and accuracy together."""
    cited, arm = experiments.PAPER[network], pipeline(recorded, network, "paper")
    tests = {
        "times smaller": verdict(arm.dense_bytes / arm.bytes, margin=cited["rate"]),
        "points gained": no_worse(arm.accuracy - arm.baseline, "mnist"),
    }
    claim = f"{NAMES[network]}: {cited['rate']}x smaller ({cited['kilobytes']} kB) at no loss"
    claim += f" ({cited['baseline']:.2f} -> {cited['error']:.2f} % error)"
    return weakest(
        claim, "times smaller, and points of accuracy; the paper's shares and bits", tests, f"{arm.epochs.iloc[0]:g} (before: 0)"
    )


def _dense(recorded: pd.DataFrame, network: str) -> pd.DataFrame:
    """The dense networks, trained for as many epochs as those that are pruned and compressed."""
    rows = recorded[(recorded.kind == "start") & (recorded.network == network) & (recorded.plan == "dense")]
    return rows[rows.method == "pruned, longer"]


def both_together(recorded: pd.DataFrame, rate: str = "40x") -> Claim:
    """Return the claim of figure 6, at the size of a file that is pruned alone: less error than it, and no loss."""
    networks = by_size(recorded)
    alone = networks[(networks.curve == "pruning") & (networks.choice == rate)]
    share = alone.share.max()
    both = best_within(networks, "pruning and quantization", share)
    before = recorded[(recorded.kind == "start") & (recorded.plan == "dense") & (recorded.network == "lenet-300-100")]
    before = before[before.method == "pruned, longer"].set_index("seed").baseline
    tests = {
        "less error than pruned": better(paired(both, alone), "mnist"),
        "points gained": no_worse(both.set_index("seed").accuracy - before, "mnist"),
    }
    measured = (
        f"LeNet-300-100 in at most {share:.1f} % of the bytes, the file pruned {rate}; quantization or SVD alone do not fit"
    )
    return weakest("together they keep accuracy where pruning alone fails (figure 6)", measured, tests,
                   f"{both.epochs.iloc[0]:g} each (before: 0)")  # fmt: skip


def pruned_or_dense(recorded: pd.DataFrame) -> Claim:
    """Return the claim of figure 7: what quantization costs a pruned network, less what it costs a dense one."""
    cost = {plan: quantization_cost(recorded, plan) for plan in ("dense", "paper")}
    here = ", ".join(f"{b} bits {cost['paper'][b].mean():.2f} against {cost['dense'][b].mean():.2f}" for b in cost["dense"])
    difference = (cost["dense"] - cost["paper"]).mean(axis=1)
    return Claim("pruned networks quantize as well as dense ones (figure 7)",
                 "LeNet-300-100, points that quantization costs the pruned and the dense network; mean of 2 to 8 bits",
                 here, no_worse(difference, "mnist"), both_epochs(recorded, ["trained"]))  # fmt: skip


def linear_start(recorded: pd.DataFrame) -> Claim:
    """Return the claim of figure 8: the linear start against the better of the others by validation, without 3 bits."""
    bits = [2, 4, 5, 6, 8]
    tables = {s: by_bits(recorded, plan="paper", start=s, method="trained")[bits] for s in STARTS}
    chosen = {
        s: by_bits(recorded, "validation", plan="paper", start=s, method="trained")[bits].mean().mean()
        for s in tables
        if s != "linear"
    }
    rival = max(chosen, key=chosen.get)
    here = ", ".join(f"{start} {100 - table.mean().mean():.2f} %" for start, table in tables.items())
    claim = "the linear start is best at 2 to 8 bits, except 3 (figure 8)"
    evidence = better((tables["linear"] - tables[rival]).mean(axis=1), "mnist")
    measured = f"LeNet-300-100, the paper's shares; linear minus {rival}, mean of bits"
    return Claim(claim, measured, here, evidence, both_epochs(recorded, ["trained"]))


def both_epochs(recorded: pd.DataFrame, methods: Iterable[str] = ("trained", "untrained")) -> str:
    """Return the epochs of rows of kind 'bits' as text."""
    found = [recorded[(recorded.kind == "bits") & (recorded.method == method)].epochs.iloc[0] for method in methods]
    return f"{found[0]:g}" + "".join(f" (untrained: {epochs:g})" for epochs in found[1:])


def within(values: Iterable[float], low: float, high: float) -> Verdict:
    """Return the verdict on 'between low and high': that of the end which is nearer to being missed."""
    values = np.array(list(values))
    above, below = verdict(values, margin=low), verdict(-values, margin=-high)
    return dataclasses.replace(above, label=weakest_of((above, below)).label)
