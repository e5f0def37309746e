"""The tables, figures and claims of notebook 03 that come from recorded rows of five independently trained networks."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from course_lib import evidence
from course_lib.evidence import with_interval
from course_lib.experiments import network_trimming as runs
from course_lib.experiments import trimming_tables as tables
from course_lib.notebook import Claim, plots

# To the last shape of trimming in rounds; the dense network, trained on for as long, keeps its own
WAYS = ("rounds", "one cut", "from scratch", "from scratch, longer", "dense")
LABELS = {"dense": "trained network, longer"}  # the name of a way in figures and tables, where it differs
FALLS = dict(removed="{:.0f}", accuracy="{:.2f}")  # accuracies, and how their falls are written


def rounds_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's table for LeNet and ours, a line per round, with 95 % intervals over networks."""
    table = runs.paper_table(found)[
        ["round", "conv2, fc1, paper", "rate, paper", "conv2, fc1, here", "rate, here", "epochs so far"]
    ]
    by_round = tables.rounds_of(found).groupby("round")
    for column, name in (("removed", "error (%), trimmed"), ("accuracy", "error (%), retrained")):
        table[name] = [with_interval(100 - values) for _, values in by_round[column]]
    names = {"rate, paper": "fewer parameters, paper", "rate, here": "fewer parameters, here"}
    return table.rename(columns=names)


def step_by_step(found: pd.DataFrame, first: str = "APoZ", second: str = "random") -> pd.DataFrame:
    """Return by how many points one criterion is ahead of another at each pair of widths, before and after retraining."""
    table, lines = tables.choices(found), []
    for pair in runs.PAPER[1:] + runs.BEYOND:
        here = table.xs(pair[0], level="conv2")
        ahead = here.loc[first] - here.loc[second]
        figures = [with_interval(ahead[column], "{:+.2f}") for column in ("removed", "accuracy")]
        lines.append(("{}, {}".format(*pair), f"{here.rate.mean():.2f}x", *figures))
    ahead = [f"{first} ahead of {second}, {when} retraining (points)" for when in ("before", "after")]
    return pd.DataFrame(lines, columns=["conv2, fc1", "fewer parameters", *ahead])


def ahead_of_random(found: pd.DataFrame) -> pd.DataFrame:
    """Return by how many points each criterion is ahead of random choice, on average over the paper's four steps."""
    table, lines = tables.four_steps(found), []
    for criterion in runs.CRITERIA:
        if criterion != "random":
            ahead = table.loc[criterion] - table.loc["random"]
            lines.append((criterion, *(with_interval(ahead[column], "{:+.2f}") for column in ("removed", "accuracy"))))
    return pd.DataFrame(lines, columns=["ahead of random choice", "before retraining (points)", "after one epoch (points)"])


def deep_cuts(found: pd.DataFrame) -> pd.DataFrame:
    """Return the error of each criterion at the paper's last widths and beyond them: means over networks."""
    errors, columns = 100 - tables.choices(found)[["removed", "accuracy"]], {}
    for conv2, fc1 in (runs.PAPER[-1], *runs.BEYOND):
        means = errors.xs(conv2, level="conv2").groupby("method").mean()
        at = f"error (%) at {conv2} and {fc1}"
        columns |= {f"{at}, not retrained": means.removed, f"{at}, one epoch": means.accuracy}
    return pd.DataFrame(columns).loc[list(runs.CRITERIA)].rename_axis(None)


def criteria_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the error by rate, a curve per criterion with its 95 % interval over networks, before and after retraining."""
    table, steps = tables.choices(found), [conv2 for conv2, _ in runs.PAPER[1:] + runs.BEYOND]
    rates = table.rate.groupby("conv2").mean()[steps]
    fig, axes = plt.subplots(2, 1, figsize=(plots.WIDTH, 6.6), sharex=True)
    ticks = dict(removed=[0.5, 1, 3, 10, 30, 90], accuracy=[0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2, 3, 5])
    for ax, column, when in zip(axes, ticks, ("before retraining", "after one epoch of retraining"), strict=True):
        for method, marker, colour in zip(runs.CRITERIA, plots.MARKERS, plots.COLOURS, strict=False):
            errors = 100 - table.loc[method][column].unstack("conv2")[steps]
            mean, low, high = np.transpose([evidence.interval(errors[conv2]) for conv2 in steps])
            ax.plot(rates, mean, marker=marker, markersize=4.5, color=colour, label=method)
            ax.fill_between(rates, np.maximum(low, 0.3), np.minimum(high, 100), color=colour, alpha=0.15, linewidth=0)
        ax.set(xscale="log", yscale="log", title=when, ylabel="test error (%, log scale)")
        ax.set_xticks(rates, [f"{rate:.1f}" for rate in rates])
        low, high = ax.get_ylim()
        shown = [tick for tick in ticks[column] if low <= tick <= high]
        ax.set_yticks(shown, [str(tick) for tick in shown])
        ax.minorticks_off()
    axes[1].set_xlabel("times fewer parameters (log); bands: 95 % intervals")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    last = deep_cuts(found).iloc[:, 0]
    title = f"At {rates[runs.PAPER[-1][0]]:.2f}x, APoZ errs on {last['APoZ']:.0f} % before retraining"
    fig.suptitle(f"{title}, random cuts on {last['random']:.0f} %", x=0.01, ha="left")
    return fig


def rounds_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the error after each round's trimming and after its retraining, with 95 % intervals over networks."""
    lines = tables.rounds_of(found)
    curves, bands = {}, {}
    for name, accuracies in (("just trimmed", lines.removed), ("retrained", lines.accuracy)):
        mean, low, high = np.transpose([evidence.interval(errors) for _, errors in (100 - accuracies).groupby(lines["round"])])
        curves[name], bands[name] = mean, (low, high)
    last = [curve[-1] for curve in curves.values()]
    fig = plots.lines(
        lines.rate.groupby(lines["round"]).mean(), curves, spread=bands,
        title=f"The last cut raises the error to {last[0]:.1f} %, retraining lowers it to {last[1]:.2f} %",
        xlabel="times fewer parameters; bands: 95 % intervals", ylabel="test error on MNIST (%, log)",
    )  # fmt: skip
    ax, before = fig.axes[0], 100 - lines.groupby("seed").baseline.first().mean()
    ax.axhline(before, color=plots.INK, linewidth=1.3, linestyle="--", label=f"before trimming, {before:.2f} %")
    ax.set_yscale("log")
    ax.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    ax.minorticks_off()
    ax.legend()
    return fig


def ways_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the error of each network at the end of each way to a shape as a dot, and the mean with its 95 % interval."""
    last = tables.ends(found)
    groups = {"trained network": 100 - last.loc["dense"].baseline}
    groups |= {LABELS.get(way, way): 100 - last.loc[way].accuracy for way in WAYS}
    fig, ax = plt.subplots(figsize=(plots.WIDTH, 3.8))
    for place, (values, colour) in enumerate(zip(groups.values(), (plots.INK, *plots.COLOURS), strict=False)):
        mean, low, high = evidence.interval(values)
        ax.scatter(values, [place - 0.12] * len(values), s=16, color=colour, alpha=0.6)
        ax.errorbar(mean, place + 0.14, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=4)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.set_title("One cut ends at {:.2f} % error, rounds at {:.2f} %".format(groups["one cut"].mean(), groups["rounds"].mean()))
    ax.set_xlabel("test error on MNIST (%); dots are networks, bars 95 % intervals")
    ax.grid(False, axis="y")
    ax.invert_yaxis()
    return fig


def ways_to_a_shape(found: pd.DataFrame) -> pd.DataFrame:
    """Return the last shape of trimming in rounds, reached in each way: epochs, multiply-accumulates of its training, error."""
    last = tables.ends(found)
    dense = last.loc["dense"]
    size, epochs = f"{tables.PARAMETERS:,.0f}", dense.before.iloc[0]
    work = f"{epochs * dense.macs.iloc[0] / 1e6:.0f} M"
    table = [("trained network", size, f"{epochs:g} + 0", work, with_interval(100 - dense.baseline))]
    for way in WAYS:
        group = last.loc[way]
        epochs = f"{group.before.iloc[0]:g} + {group.epochs.iloc[0]:g}"
        work = f"{group.work.mean() / 1e6:.0f} M"
        table.append((LABELS.get(way, way), f"{group.parameters.mean():,.0f}", epochs, work, with_interval(100 - group.accuracy)))
    epochs, work = "epochs, before + after the cut", "forward MACs per training image, all epochs"
    return pd.DataFrame(table, columns=["way", "parameters", epochs, work, "error (%)"])


def many_or_few(found: pd.DataFrame) -> pd.DataFrame:
    """Return how far three layers and two fall when they are trimmed, what ten epochs leave of the fall, and the MACs left."""
    table = []
    for (rate, method), group in found[found.kind == "many"].groupby(["rate", "method"], sort=False):
        fall = [with_interval(group.baseline - group[column], form) for column, form in FALLS.items()]
        widths = runs.MANY[rate][0 if method == runs.ARMS[0] else 1].values()
        table.append((rate, method, ", ".join(map(str, widths)), f"{group.macs.mean():,.0f}", *fall))
    columns = [
        "fewer parameters",
        "trimmed",
        "widths",
        "MACs",
        "points lost, before retraining",
        "points lost, after ten epochs of retraining",
    ]
    table = pd.DataFrame(table, columns=columns)
    return table.sort_values("fewer parameters", key=lambda rates: rates.map(list(runs.MANY).index), kind="stable")


def images_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return the error after one step of the paper's rule, not retrained, by the number of images that APoZ was measured on."""
    table = [(f"{count:,.0f}", with_interval(100 - accuracies)) for count, accuracies in tables.by_images(found).iterrows()]
    return pd.DataFrame(table, columns=["images", "test error on MNIST (%)"])


def apoz_by_width(found: pd.DataFrame) -> pd.DataFrame:
    """Return the mean APoZ of layers of several widths, a share: means over networks and their 95 % intervals."""
    table = tables.silence_by_width(found)
    groups = table.assign(mean=table["mean"] / 100).groupby(["layer", "width"])
    columns = {"mean APoZ": groups["mean"].agg(with_interval)}
    columns["test error (%)"] = groups["error"].agg(with_interval)
    return pd.DataFrame(columns).reset_index()


def papers_claims(found: pd.DataFrame) -> list[Claim]:
    """Return the paper's claims, judged by recorded rows."""
    way, total = tables.ends(found).accuracy, f"{tables.ends(found).epochs['dense'].iloc[0]:g}"
    swings, apoz, after = tables.swings(found), tables.silence_lost(found) / 100, tables.four_steps(found).accuracy
    a_round = "{:.2f} points lost by trimming, {:.2f} regained by retraining".format(*swings.mean())
    falls, means = (apoz["before"] - apoz["after"]).min(axis=1), apoz.mean()
    layers = ", ".join(f"{layer} {means['before', layer]:.2f} -> {means['after', layer]:.2f}" for layer in runs.LAYERS)
    at_once = (_many(found, "13.4x", arm).accuracy for arm in ("two layers at once", "three layers at once"))
    return [
        _lossless("3.85x fewer parameters at no loss", "five rounds to 24, 252, before / after",
                  _many(found, "3.85x", "two layers in rounds"), total),
        Claim("accuracy falls by trimming and recovers", "a round: the smaller of fall and recovery", a_round,
              evidence.better(swings.min(axis=1), "mnist"), "2 a round"),
        _against("APoZ tells which neurons can go", "APoZ / random, retrained", after["APoZ"], after["random"], "1"),
        _against("old weights beat random ones", "five rounds of the rule / from scratch",
                 way["rounds"], way["from scratch"], total),
        _against("several rounds beat one cut, as we read it", "five rounds of the rule / one cut",
                 way["rounds"], way["one cut"], total),
        _against("many layers at once do lasting damage", "two / three layers at once, 13.4x", *at_once, total),
        Claim("trimming lowers the layers' APoZ", "fall of the mean APoZ, a share; the smaller of two layers, margin 0", layers,
              evidence.verdict(falls), total),
        Claim("VGG-16: 2.59x fewer parameters, above the original", "top-1 accuracy, ImageNet †",
              "68.36 -> 70.44 % in the paper", None),
    ]  # fmt: skip


def own_claims(found: pd.DataFrame) -> list[Claim]:
    """Return what we asked beyond the paper, judged by recorded rows."""
    way, table = tables.ends(found), tables.four_steps(found)
    before, long, total = table.removed, way.accuracy, f"{way.epochs['one cut'].iloc[0]:g}"
    both = f"{total} after {way.before['one cut'].iloc[0]:g}, against {way.epochs['from scratch, longer'].iloc[0]:g}"
    return [
        _lossless("one cut is enough for 3.85x at no loss", "one cut, before / after",
                  _many(found, "3.85x", "two layers at once"), total),
        _against("APoZ beats random before retraining too", "APoZ / random, not retrained",
                 before["APoZ"], before["random"], "0"),
        _against("the L1 norm beats APoZ before retraining", "L1 norm / APoZ, not retrained",
                 before["L1 norm"], before["APoZ"], "0"),
        _against("the largest APoZ should go, not the smallest", "largest / smallest removed, retrained",
                 table.accuracy["APoZ"], table.accuracy["APoZ, wrong side"], "1"),
        _against("old weights beat random ones, their earlier epochs counted",
                 "one cut / from scratch, longer",
                 long["one cut"], long["from scratch, longer"], both),
    ]  # fmt: skip


def _many(found: pd.DataFrame, rate: str, arm: str) -> pd.DataFrame:
    """The rows of one arm of many layers against few, by network."""
    return found[(found.kind == "many") & (found.rate == rate) & (found.method == arm)].set_index("seed")


def _lossless(claim: str, measured: str, arm: pd.DataFrame, epochs: str) -> Claim:
    """A claim that an arm's accuracy is that of its networks before they were trimmed."""
    here = f"{arm.baseline.mean():.2f} / {arm.accuracy.mean():.2f} % accuracy"
    return Claim(claim, measured, here, evidence.no_worse(arm.accuracy - arm.baseline, "mnist"), epochs)


def _against(claim: str, measured: str, first: pd.Series, second: pd.Series, epochs: str) -> Claim:
    """A claim that the first of two arms has the better accuracies, by network."""
    here = f"{first.mean():.2f} / {second.mean():.2f} % accuracy"
    return Claim(claim, measured, here, evidence.better(first - second, "mnist"), epochs)
