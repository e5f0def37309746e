"""What notebook 07 shows of recorded rows: figures and tables over independently trained networks."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from course_lib import evidence
from course_lib.evidence import with_interval
from course_lib.experiments import channel_sets, points_lost
from course_lib.experiments import thinet as runs
from course_lib.experiments import thinet_tables as tables
from course_lib.experiments.thinet_tables import FAIR, MISSING
from course_lib.notebook import plots
from course_lib.notebook.plots import INK, WIDTH

# Arm of the comparison -> the notebook that explains it
ARMS = {
    "ThiNet": "07",
    "LASSO": "06",
    "largest contribution": "06",
    "L1": "04",
    "group norm": "04",
    "APoZ": "03",
    "random": "-",
    "scratch-E": "08",
    "dense": "-",
}
LOST = ("{:.1f}", "{:+.2f}", "{:+.2f}")  # forms of the points lost just after the cut and in the end, and of a difference
CHOICES = ("LASSO", "largest contribution", "L1", "group norm", "APoZ", "random")  # arms that differ in the choice and the refit


def there(found: pd.DataFrame, kind: str) -> bool:
    """Return whether rows of a kind were recorded; says so where they were not."""
    if not (found.kind == kind).any():
        print(f"{kind}: {MISSING}")
    return bool((found.kind == kind).any())


def criteria_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the accuracy before retraining by MACs left, a curve per criterion, 95 % intervals over trained networks as bars."""
    table, left = tables.untrained(found), tables.macs_left(found)
    networks = _plain_first(table)
    fig, axes = plt.subplots(len(networks), 1, figsize=(WIDTH, 1.2 + 2.7 * len(networks)), sharex=True, squeeze=False)
    for ax, network in zip(axes[:, 0], networks, strict=True):
        shares = sorted(left[network].index, reverse=True)
        macs = np.array([100 * left[network, share] for share in shares])
        for place, (method, marker, colour) in enumerate(zip(channel_sets.CRITERIA, plots.MARKERS, plots.COLOURS, strict=True)):
            ends = [evidence.interval(table.loc[network, share][method]) for share in shares]
            mean, low, high = np.clip(np.transpose(ends), 0, 100)
            x = macs + 0.7 * (len(channel_sets.CRITERIA) / 2 - place)  # side by side: bars at one place would hide each other
            ax.errorbar(x, mean, yerr=(mean - low, high - mean), marker=marker, markersize=4.5, color=colour,
                        linewidth=1.2, elinewidth=0.9, capsize=2, label=method)  # fmt: skip
        ax.set(title=network, ylabel="accuracy (%)")
    axes[0, 0].invert_xaxis()
    axes[-1, 0].set_xlabel("MACs left (%)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plain, share = networks[0], max(runs.SHARES[networks[0]])
    means = table.loc[plain, share].mean()
    title = f"At {100 * share:.0f} % of its filters, {plain} keeps {means.min():.0f} to {means.max():.0f} % accuracy"
    fig.suptitle(title, x=0.01, ha="left")
    return fig


def second(found: pd.DataFrame) -> str:
    """Return the rival that is best on the plain network at the most filters, not retrained, and the accuracies of all."""
    table = tables.untrained(found)
    plain = _plain_first(table)[0]
    means = table.loc[plain, max(table.loc[plain].index.get_level_values("share"))].mean()
    best, *others = sorted(tables.RIVALS, key=lambda name: -means[name])
    return f"{best}, {means[best]:.1f} % ({', '.join(f'{name} {means[name]:.1f} %' for name in others)})"


def leads(found: pd.DataFrame) -> pd.DataFrame:
    """Return by how many points ThiNet is ahead before retraining, a line per network and share, with 95 % intervals."""
    table, left, lines = tables.untrained(found), tables.macs_left(found), []
    for network, share in sorted(left.index, key=lambda place: (place[0] != "vgg-small", -place[1])):
        here = table.loc[network, share]
        pairs = (
            here["ThiNet"] - here["ThiNet, not rescaled"],
            here["ThiNet, not rescaled"] - here[list(tables.RIVALS)].max(axis=1),
            here[channel_sets.FORWARD] - here["ThiNet"],
        )
        place = f"{network}, {share:.0%} ({left[network, share]:.0%})"
        lines.append((place, f"{here['ThiNet'].mean():.1f}", *(with_interval(pair, "{:+.1f}") for pair in pairs)))
    columns = ["filters of every layer kept (MACs left)", "ThiNet's accuracy (%)", "rescaling gains (points)"]
    return pd.DataFrame(lines, columns=[*columns, "not rescaled, ahead of each network's best rival", "forward ahead of ThiNet"])


def recipe(grid: pd.DataFrame) -> pd.DataFrame:
    """Return the validation accuracy of L1 at half the MACs by learning rate and by epochs: what decided the common recipe."""
    tried = grid[grid.kind.isin(("lr", "budget")) & (grid.rate == 2) & grid.network.isin(("vgg-small", "resnet-20"))]
    tried = tried[tried.seed == tried.seed.min()]
    cells = tried.assign(recipe=[f"{epochs:g} epochs, {lr:g}" for epochs, lr in zip(tried.epochs, tried.lr, strict=True)])
    order = cells.sort_values(["epochs", "lr"]).recipe.unique()
    table = cells.pivot_table(index="recipe", columns="network", values="validation").loc[order]
    shown = table.map(lambda value: "not tried" if np.isnan(value) else f"{value:.2f}")
    columns = [f"{name}, validation (%)" for name in shown]
    return shown.set_axis(columns, axis=1).rename_axis(columns=None, index="L1 at 2x, retrained for").reset_index()


def head_to_head(grid: pd.DataFrame, network: str, rate: float) -> pd.DataFrame:
    """Return the arms of the comparison at a network and rate: before and after retraining, and how far ThiNet is ahead.

    An arm that was not measured on all of ThiNet's networks is left out; without ThiNet there is no line.
    """
    table, lines = tables.retrained(grid, network, rate), []
    arms = points_lost.arms(grid)
    for arm in (name for name in ARMS if name in table):
        own = arms[(arms.network == network) & (arms.rate == rate) & (arms.method == arm)]
        removed = own.removed.astype(float).mean()
        ahead = "-" if arm == "ThiNet" else with_interval(table["ThiNet"] - table[arm], "{:+.2f}")
        cut = "-" if np.isnan(removed) else f"{removed:.1f}"
        lines.append((arm, ARMS[arm], f"{own.macs.mean() / 1e6:.1f} M", cut, with_interval(table[arm], "{:.2f}"), ahead))
    if lines:
        whole = arms[(arms.network == network) & (arms.rate == rate) & (arms.method == "ThiNet")]
        lines.append(("the whole network", "-", "-", "-", f"{with_interval(whole.baseline)}, as trained", "-"))
    columns = [f"{network}, {rate}x fewer MACs", "notebook", "MACs", "just cut (%)", "retrained (%)", "ThiNet ahead (points)"]
    return pd.DataFrame(lines, columns=columns)


def measured(grid: pd.DataFrame) -> list[tuple[str, int]]:
    """Return the networks and rates at which ThiNet and at least one rival were retrained."""
    return [place for place in FAIR if len(head_to_head(grid, *place)) > 2]


def lead_figure(grid: pd.DataFrame) -> plt.Figure:
    """Draw ThiNet's lead over each other arm after retraining with its 95 % interval, for each network and rate."""
    places = measured(grid)
    rows = [arm for arm in ARMS if arm != "ThiNet"]
    fig, ax = plt.subplots(figsize=(WIDTH, 4.4))
    leads, looks = [], zip(plots.MARKERS, plots.COLOURS, strict=True)  # over other choices: low, high
    for number, ((network, rate), (marker, colour)) in enumerate(zip(places, looks, strict=False)):
        table = tables.retrained(grid, network, rate)
        label = f"{network}, {rate}x fewer MACs"
        for arm in (name for name in rows if name in table):
            mean, low, high = evidence.interval(table["ThiNet"] - table[arm])
            leads += [(low, high)] if arm in CHOICES else []
            height = rows.index(arm) + 0.22 * (number - (len(places) - 1) / 2)
            ax.errorbar(mean, height, xerr=[[mean - low], [high - mean]], fmt=marker, color=colour, capsize=3, label=label)
            label = None
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    better, worse = sum(low > 0 for low, _ in leads), sum(high < 0 for _, high in leads)
    title = f"Retrained, ThiNet is clearly ahead of {better} and behind {worse} of {len(leads)} other choices"
    ax.set(title=title if better or worse else "Retrained, no choice is clearly better or worse than ThiNet",
           xlabel="ThiNet ahead by (points of test accuracy)")  # fmt: skip
    fig.legend(loc="outside lower center")
    return fig


def random_lead(grid: pd.DataFrame) -> str:
    """Return by how many points ThiNet is ahead of random choice after retraining, on vgg-small at half the MACs."""
    table = tables.retrained(grid, *FAIR[0])
    here = {"ThiNet", "random"} <= set(table)
    return f"{with_interval(table['ThiNet'] - table['random'], '{:+.2f}')} points" if here else MISSING


def schedule_table(grid: pd.DataFrame) -> pd.DataFrame:
    """Return what ThiNet loses at a quarter of the MACs: in one cut, with and without factors, and by the paper's schedule.

    Empty where none of the three was measured. A difference to one cut is over the networks that both arms have.
    """
    network, rate = FAIR[2]
    here = points_lost.with_one_baseline(grid)[(grid.network == network) & (grid.rate == rate)]
    once, layerwise = here[here.kind == "sums"], tables.own_schedule(here)
    arms = {f"{name}, one cut": once[once.method == name].set_index("seed") for name in ("ThiNet", "ThiNet, not rescaled")}
    arms["ThiNet, layer by layer"] = layerwise.set_index("seed")
    epochs = ", ".join(f"{number:g}" for number in sorted({*once.epochs, *layerwise.epochs}))
    at_once, lines = next(iter(arms.values())), []
    for name, own in arms.items():
        lost = [own.baseline - accuracy.astype(float) for accuracy in (own.removed, own.accuracy)]
        ahead = (own.accuracy - at_once.accuracy).dropna() if own is not at_once else ()
        cells = (with_interval(values, form) if len(values) else "-" for values, form in zip((*lost, ahead), LOST, strict=True))
        lines += [[name, len(own), *cells]] if len(own) else [[name, 0, MISSING, "-", "-"]]
    lines[-1][2] += " after the worst cut" if len(layerwise) else ""  # its rows have the lowest accuracy after any cut
    columns = ["networks", "points lost, just cut", "points lost, retrained", "ahead of ThiNet in one cut (points)"]
    table = pd.DataFrame(lines, columns=[f"{network}, {rate}x fewer MACs, {epochs} epochs", *columns])
    return table if table.networks.any() else table[:0]


def tuning_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return what one epoch changes at each rate, of a network that lost half of a layer and of the whole one.

    The last column has the paired differences to the rate that falls to zero, from the same start.
    """
    table, lines = tables.tuning(found), []
    falling = next((lr, schedule) for _, lr, schedule in runs.TUNING if schedule != "constant")
    for start, lr, schedule in runs.TUNING:
        here = table.loc[start, lr, schedule]
        rate = f"{lr:g}, {'constant' if schedule == 'constant' else 'falls to zero'}"
        ends = (f"{accuracy.mean():.1f}" for accuracy in (here.before, here.before + here.test))
        rival = start == runs.HALVED and (lr, schedule) != falling
        ahead = with_interval(table.test.loc[start, *falling] - here.test, "{:+.1f}") if rival else "-"
        lines.append((start, rate, *ends, with_interval(here.test, "{:+.1f}"), ahead))
    columns = ["what is trained", "learning rate", "accuracy before (%)", "after (%)", "change, test (points)"]
    return pd.DataFrame(lines, columns=[*columns, f"falling {falling[0]:g} ahead (points)"])


def whole_at_high_rate(found: pd.DataFrame) -> str:
    """Return what an epoch at a constant 0.02 does to the whole network."""
    return f"{with_interval(tables.tuning(found).test.loc[runs.WHOLE, 0.02, 'constant'], '{:+.1f}')} points of test accuracy"


def greed_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the mean loss of each greedy choice over the least possible: a dot per trained network, for every layer."""
    table = tables.greed(found)
    networks = _plain_first(table)
    fig, axes = plt.subplots(len(networks), 1, figsize=(WIDTH, 1.5 + 2.3 * len(networks)), squeeze=False, sharey=True)
    for ax, network in zip(axes[:, 0], networks, strict=True):
        here = table.loc[network]
        layers = list(dict.fromkeys(here.index.get_level_values("layer")))
        for place, (choice, marker, colour) in enumerate(zip(here, plots.MARKERS, plots.COLOURS, strict=False)):
            for number, layer in enumerate(layers):
                values = here.loc[layer][choice]
                x = [number + 0.18 * (place - 1.5)] * len(values)
                label = choice if number == 0 else None
                ax.scatter(x, values, s=16, marker=marker, color=colour, alpha=0.8, label=label)
        names = [layer.replace(".conv1", "").replace("stage", "") for layer in layers]
        ax.set_xticks(range(len(layers)), names)
        where = "stage.block, its first layer" if network.startswith("resnet") else ""
        ax.set(title=network, ylabel="loss / least loss", xlabel=where)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, title="a dot per network")
    title = f"Greedy removal loses {100 * (table.removed.mean() - 1):.1f} % more than the best set, on average"
    fig.suptitle(title, x=0.01, ha="left")
    return fig


def greed_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return, for each network and greedy choice, the loss over the least: mean with interval, the largest, how often optimal."""
    problems, lines = found[(found.kind == "layers") & (found.question == "greed")], []
    for network in _plain_first(tables.greed(found)):
        group = problems[problems.network == network]
        for choice in ("removed", "grown", "removed, rescaled", "forward"):
            means = tables.greed(found).loc[network][choice].groupby("seed").mean()
            best = f"{(group[choice] < 1 + 1e-6).mean():.0%} of {len(group)}"
            lines.append((network, choice, with_interval(means, "{:.3f}"), f"{group[choice].max():.2f}", best))
    return pd.DataFrame(lines, columns=["network", "choice", "loss / least loss, mean", "largest", "optimal"])


def samples_figure(found: pd.DataFrame) -> plt.Figure:
    """Draw the loss on validation images by the number of samples, for the middle one of each network's recorded layers."""
    table = tables.samples(found)
    networks = _plain_first(table)
    layers = {network: table[network].index.unique("layer") for network in networks}
    drawn = [(network, names[len(names) // 2]) for network, names in layers.items()]
    fig, axes = plt.subplots(len(networks), 1, figsize=(WIDTH, 1.6 + 2.6 * len(networks)), squeeze=False, sharex=True)
    for ax, (network, layer) in zip(axes[:, 0], drawn, strict=True):
        for positions, marker, colour in zip(runs.POSITIONS, plots.MARKERS, plots.COLOURS, strict=False):
            here = 100 * table.loc[network, layer, positions].unstack("seed")
            label = f"{positions} position{'s' * (positions > 1)} per image"
            ax.plot(here.index, here.mean(axis=1), marker=marker, markersize=4, color=colour, label=label)
            ax.fill_between(here.index, here.min(axis=1), here.max(axis=1), color=colour, alpha=0.18, linewidth=0)
        ax.set(title=f"{network}, {layer}", xscale="log", yscale="log", ylabel="output lost (%, log scale)")
        ax.set_xticks(runs.PER_CLASS, runs.PER_CLASS)
        low, high = ax.get_ylim()
        ticks = [tick for tick in (2, 5, 10, 20, 50, 100, 200, 500, 1_000) if low <= tick <= high]
        ax.set_yticks(ticks, ticks)
        ax.minorticks_off()
    axes[-1, 0].set_xlabel("images per class (log scale)")
    title = "bands: lowest to highest of the trained networks"
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", title=title)
    few, many = (
        100 * table.xs(10, level="positions").xs(n, level="images").groupby(["network", "layer"]).mean() for n in (10, 100)
    )
    saved = sorted((few - many).loc[at] for at in drawn)
    title = f"At 10 positions, 100 images per class save {saved[0]:.0f} to {saved[-1]:.0f} points over 10"
    fig.suptitle(title, x=0.01, ha="left")
    return fig


def samples_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return what a choice from 1,000 samples loses, made up in three ways, and from the most, a line per layer.

    The losses of the best and the worst network stand in brackets: an interval of three could begin below zero.
    """
    table, lines = 100 * tables.samples(found), []
    numbers = ((100, 1), (10, 10), (1, 100), (100, 100))
    for network, layer in ((name, layer) for name in _plain_first(table) for layer in table[name].index.unique("layer")):
        here = [table.loc[network, layer, positions, images] for images, positions in numbers]
        lines.append([f"{network}, {layer}", *(f"{lost.mean():.1f} ({lost.min():.1f} to {lost.max():.1f})" for lost in here)])
    columns = [f"{10 * images:,} images x {positions}" for images, positions in numbers]
    return pd.DataFrame(lines, columns=["output lost (%), mean and range, half of", *columns])


def images_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of whole networks before retraining, by the images per class that chose."""
    accuracies = tables.by_images(found)
    gains = accuracies - accuracies.loc[10]
    lines = []
    for count, values in accuracies.iterrows():
        gain = "-" if count == 10 else with_interval(gains.loc[count], "{:+.1f}")
        lines.append((f"{int(count)}", with_interval(values, "{:.1f}"), gain))
    first = f"images per class (vgg-small, {runs.HALF:.0%} of its filters)"
    return pd.DataFrame(lines, columns=[first, "accuracy (%), not retrained", "against 10 per class (points)"])


def _plain_first(table: pd.DataFrame | pd.Series) -> list[str]:
    return sorted(table.index.unique("network"), key=lambda network: network.startswith("resnet"))
