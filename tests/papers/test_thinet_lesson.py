"""What notebook 07 shows: tables and claims of made-up rows, drawings against the library, exercises' scores."""

import dataclasses
import itertools

import pandas as pd
import pytest
import torch

from course_lib import data, models
from course_lib.drawings import thinet as drawings
from course_lib.evidence import with_interval
from course_lib.experiments import channel_sets, comparison
from course_lib.experiments import thinet as runs
from course_lib.experiments import thinet_tables as tables
from course_lib.lessons import thinet as lesson
from course_lib.lessons import thinet_claims, thinet_rows
from course_lib.notebook import plots
from course_lib.papers import thinet as paper

NETWORKS = 3
LOSSES = {"ThiNet": 1.5, "L1": 1.0, "APoZ": 2.0, "random": 1.2, "scratch-E": 3.0, "dense": -0.1}


def made_up_rows() -> pd.DataFrame:
    """Rows of three networks in no order, which differ by more than their arms do: network s begins with 90 + s percent."""
    lines = []

    def add(kind: str, **more) -> None:
        for seed in range(NETWORKS):
            about = dict(kind=kind, seed=seed, network="vgg-small", dataset="cifar10", baseline=90.0 + seed, question="")
            lines.append(about | {name: value(seed) if callable(value) else value for name, value in more.items()})

    for (network, shares), (number, method) in itertools.product(runs.SHARES.items(), enumerate(channel_sets.CRITERIA)):
        for share in shares if network in ("vgg-small", "resnet-20") else ():
            add("criteria", network=network, method=method, share=share, left=share**2,
                accuracy=lambda seed, share=share, number=number: 100 * share - 5 * number + 2 * seed)  # fmt: skip
    for start, lr, schedule in runs.TUNING:
        harmed = dict(accuracy=lambda seed, lr=lr: 80 + seed - 100 * lr, validation=lambda seed, lr=lr: 81 + seed - 100 * lr)
        add("tuning", start=start, lr=lr, schedule=schedule, before=lambda seed: 80.0 + seed,
            validation_before=lambda seed: 81.0 + seed, **harmed)  # fmt: skip
    for network, layer in (("vgg-small", "conv1"), ("vgg-small", "conv2"), ("resnet-20", "stage1.0.conv1")):
        for draw in range(2):
            ratios = {"removed": lambda seed: 1.01 + seed / 10, "grown": lambda seed: 1.03 + seed / 10}
            more = {"removed, rescaled": 1.02, "forward": 1.01}
            add("layers", question="greed", network=network, layer=layer, draw=draw, channels=12, keep=6, **ratios, **more)
            for count, places in itertools.product(runs.PER_CLASS, runs.POSITIONS):
                add("layers", question="samples", network=network, layer=layer, draw=draw, images=count, positions=places,
                    lost=0.1 + 1 / (count * places))  # fmt: skip
    for count in (1, 10, 100):
        add("images", images=count, draw=0, accuracy=lambda seed, count=count: 60 + 3 * seed - 10 / count)
    return pd.DataFrame(lines).sample(frac=1, random_state=0)


def made_up_comparison() -> pd.DataFrame:
    """Rows of the comparison: at 2x all arms, at 4x none; each arm loses its own number of points."""
    lines = []
    for network, (method, loss), seed in itertools.product(("vgg-small", "resnet-20"), LOSSES.items(), range(NETWORKS)):
        base, whole = 90.0 + seed, method == "dense"
        arm = dict(kind=comparison.KIND_OF[method], network=network, method=method, seed=seed, dataset="cifar10", scale="lesson")
        size = dict(rate=1, macs=40) if whole else dict(rate=2, macs=20)
        figures = dict(baseline=base, accuracy=base - loss, removed=None if whole else 50.0, epochs=20, counted="MACs")
        lines.append(arm | size | figures)
    return pd.DataFrame(lines).sample(frac=1, random_state=0)


@pytest.fixture(autouse=True)
def styled():
    plots.use_style()  # titles are to the left in it


def test_claims_compare_arms_network_by_network():
    """Networks differ by more than arms do, so differences that were paired wrongly would have an interval."""
    found, grid = made_up_rows(), made_up_comparison()
    papers, own = thinet_claims.papers_claims(grid, lesson.head_sizes()), thinet_claims.own_claims(found, grid)
    assert len(papers) == 8 and papers[-1].evidence is None and papers[6].evidence is True
    assert papers[5].evidence is None and papers[5].here == tables.MISSING, "4x is not measured in these rows"
    # criteria are 5 points apart in the order of CRITERIA; the best rival of 2x loses 1.0, and is two places behind before
    assert [claim.evidence.mean for claim in papers[:5]] == pytest.approx([-1.5, -1.5, -0.5, 0.3, -0.2])
    assert [claim.evidence.mean for claim in own] == pytest.approx([10, 5, -10, 2, 1.5])
    for claim in [*papers[:5], *own]:
        assert claim.evidence.networks == NETWORKS and claim.evidence.high - claim.evidence.low < 1e-9, claim.claim
    labels = [claim.evidence.label for claim in papers[:5]]
    assert labels == ["does not hold here", "holds", "does not hold here", "holds", "does not hold here"]


def test_what_was_not_measured_is_told_as_missing(capsys):
    found, grid = made_up_rows(), made_up_comparison()
    only = found[found.kind == "tuning"]
    assert thinet_rows.there(found, "criteria") and not thinet_rows.there(only, "criteria")
    assert capsys.readouterr().out == f"criteria: {tables.MISSING}\n"
    assert [claim.here == tables.MISSING for claim in thinet_claims.own_claims(only, grid)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert thinet_rows.schedule_table(grid).empty, "4x is not measured in these rows"
    assert thinet_rows.measured(grid) == [("vgg-small", 2), ("resnet-20", 2)]
    assert thinet_rows.random_lead(grid[grid.method != "random"]) == tables.MISSING


def quarter(grid: pd.DataFrame, method: str, loss: float, seeds: int = NETWORKS, **more) -> pd.DataFrame:
    """Rows of vgg-small at 4x that lose as many points."""
    arm = grid[(grid.method == "ThiNet") & (grid.network == "vgg-small") & (grid.rate == 2) & (grid.seed < seeds)]
    widths = [dict.fromkeys("abcdef", 1)] * len(arm)
    return arm.assign(method=method, rate=4, accuracy=arm.baseline - loss, removed=arm.baseline - 60, widths=widths, **more)


def test_the_papers_schedule_stands_beside_one_cut_of_the_same_networks():
    """The networks differ by more than the arms: a difference of unpaired networks would not be 0.5 points."""
    grid = made_up_comparison()
    grid = pd.concat([grid, quarter(grid, "ThiNet", 4.0), quarter(grid, "ThiNet, not rescaled", 4.5)])
    by_layer = quarter(grid, "ThiNet, layer by layer", 3.5, seeds=2, kind="schedule")
    in_rounds = quarter(grid, "APoZ, in rounds", 9.0, kind="schedule")
    table = thinet_rows.schedule_table(pd.concat([grid, by_layer, in_rounds]).sample(frac=1, random_state=0))
    cut = "60.0 (60.0 to 60.0)"
    assert table.columns[0] == "vgg-small, 4x fewer MACs, 20 epochs"
    assert table.to_numpy().tolist() == [
        ["ThiNet, one cut", 3, cut, "+4.00 (+4.00 to +4.00)", "-"],
        ["ThiNet, not rescaled, one cut", 3, cut, "+4.50 (+4.50 to +4.50)", "-0.50 (-0.50 to -0.50)"],
        ["ThiNet, layer by layer", 2, f"{cut} after the worst cut", "+3.50 (+3.50 to +3.50)", "+0.50 (+0.50 to +0.50)"],
    ]


def test_an_arm_of_the_papers_schedule_without_rows_is_told_as_missing():
    grid = made_up_comparison()
    by_layer = quarter(grid, "ThiNet, layer by layer", 3.5, seeds=1, kind="schedule")
    table = thinet_rows.schedule_table(pd.concat([grid, by_layer]))
    assert table.networks.tolist() == [0, 0, 1]
    assert table["points lost, just cut"].tolist() == [tables.MISSING] * 2 + ["60.0 (one network) after the worst cut"]
    assert table["ahead of ThiNet in one cut (points)"].tolist() == ["-", "-", "-"], "no cut to compare with"


def test_head_to_head_pairs_networks():
    grid = made_up_comparison()
    for place in thinet_rows.measured(grid):
        table = thinet_rows.head_to_head(grid, *place)
        table = table.set_index(table.columns[0])
        assert list(table.index) == [*(arm for arm in thinet_rows.ARMS if arm in LOSSES), "the whole network"]
        ahead = {arm: with_interval([LOSSES[arm] - LOSSES["ThiNet"]] * NETWORKS, "{:+.2f}") for arm in table.index[1:-1]}
        assert table["ThiNet ahead (points)"].to_dict() == {"ThiNet": "-"} | ahead | {"the whole network": "-"}
    (ax,) = thinet_rows.lead_figure(grid).axes
    leads = [LOSSES[arm] - LOSSES["ThiNet"] for arm in thinet_rows.CHOICES if arm in LOSSES] * len(thinet_rows.measured(grid))
    clear = sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads), len(leads)
    title = "Retrained, ThiNet is clearly ahead of {} and behind {} of {} other choices".format(*clear)
    assert ax.get_title(loc="left") == title, "scratch and dense are no choices"
    level = grid.accuracy + 0.5 * (1 - grid.seed) * (grid.method == "ThiNet") - 0.2 * (grid.method == "L1")
    (ax,) = thinet_rows.lead_figure(grid.assign(accuracy=level)[~grid.method.isin(["APoZ"])]).axes
    assert ax.get_title(loc="left") == "Retrained, no choice is clearly better or worse than ThiNet", "intervals reach over 0"


def test_tables_and_figures_of_made_up_rows(monkeypatch):
    found, grid = made_up_rows(), made_up_comparison()
    monkeypatch.setattr(
        tables.runner, "recorded", lambda paper, scale: grid if (paper, scale) == ("comparison", "lesson") else None
    )
    assert runs.headline(found.assign(scale="lesson")).lost.round(6).tolist() == [1.5, 1.5]
    lines = runs.paper_table(found)
    assert len(lines) == 36 and set(lines.networks) == {NETWORKS}
    tuned = thinet_rows.tuning_table(found)
    changes = [with_interval([-100 * lr] * 3, "{:+.1f}") for _, lr, _ in runs.TUNING]
    assert tuned["change, test (points)"].tolist() == changes
    ahead = ["+0.0 (+0.0 to +0.0)", "-1.7 (-1.7 to -1.7)", "-1.9 (-1.9 to -1.9)", "-", "-"]
    assert tuned["falling 0.02 ahead (points)"].tolist() == ahead, "the control starts elsewhere"
    assert thinet_rows.samples_table(found).iloc[0, 1] == f"{10 + 100 / 100:.1f} (11.0 to 11.0)"
    assert thinet_rows.leads(found)["rescaling gains (points)"].tolist() == ["+5.0 (+5.0 to +5.0)"] * 6
    assert thinet_rows.images_table(found)["against 10 per class (points)"].tolist()[1:] == ["-", "+0.9 (+0.9 to +0.9)"]
    assert len(thinet_rows.greed_table(found)) == 8 and thinet_rows.second(found) == "L1, 77.0 % (APoZ 72.0 %, random 67.0 %)"
    for draw in (thinet_rows.criteria_figure, thinet_rows.greed_figure, thinet_rows.samples_figure):
        fig = draw(found)
        assert fig.get_suptitle() and all(ax.get_title(loc="left") for ax in fig.axes[:2])


def test_the_recipe_is_chosen_on_validation_images_of_one_network():
    tried = pd.DataFrame(
        dict(kind="lr", network="vgg-small", rate=2, seed=seed, epochs=20, lr=lr, validation=90 - lr + seed)
        for lr, seed in ((0.1, 0), (0.03, 0), (0.03, 1))
    )
    table = thinet_rows.recipe(tried)
    assert table["vgg-small, validation (%)"].tolist() == ["89.97", "89.90"], "seed 1 does not count"
    assert table.iloc[:, 0].tolist() == ["20 epochs, 0.03", "20 epochs, 0.1"]


def test_the_film_removes_what_the_library_removes_and_that_is_the_best_set():
    x = torch.tensor(drawings.X, dtype=torch.float64)
    removed = paper.greedy_removal(x, len(x.T) - drawings.KEEP).tolist()
    captions = [caption for caption, _ in drawings.frames()]
    assert [int(caption.split()[2].rstrip(":")) for caption in captions if caption.startswith("Remove")] == removed
    errors = [x[:, pair].sum(1).square().sum().item() for pair in itertools.combinations(range(5), 3)]
    least = x[:, removed].sum(1).square().sum().item()
    assert min(errors) == least and captions[-1].endswith(f"an error of {least:.0f} remains")


def test_a_factor_changes_which_arrow_is_nearest():
    x = torch.tensor(list(drawings.ARROWS.values()), dtype=torch.float64).T  # (outputs, channels)
    assert paper.channels_to_keep(x, 1).tolist() == [1] and paper.matching_pursuit(x, 1).tolist() == [0]
    assert channel_sets.exhaustive(x, 1, refitted=False).tolist() == [1]
    assert channel_sets.exhaustive(x, 1, refitted=True).tolist() == [0]


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    whole = data.load("cifar10", scale="smoke")
    parts = dict(train=whole.train.take(300), validation=whole.validation.take(200), test=whole.test.take(50))
    return dataclasses.replace(whole, **parts)


def test_one_layer_has_a_line_per_criterion_and_the_network_is_left_as_it_was(splits):
    model = models.pretrained("vgg-small", splits.name)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = lesson.one_layer(model, "conv3", 32, splits.train.images[:100], splits.validation.images[:50], splits.test)
    assert table.iloc[:, 0].tolist() == [*channel_sets.CRITERIA, "LASSO's choice, ThiNet's factors"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_tournament_charges_macs_and_swaps_lower_the_loss(splits):
    model = models.pretrained("vgg-small", splits.name)
    even = runs.widths(model, 0.7, splits)
    macs, lost = lesson.tournament(model, splits, even)
    narrower, more = lesson.tournament(model, splits, even | dict(conv3=10))
    assert narrower < macs and more > lost > 0

    def one_swap(x, removed):
        kept = [c for c in range(x.shape[1]) if c not in removed]
        return sorted([*removed[1:], kept[0]]) if removed[0] == first else list(removed)

    first = min(
        paper.greedy_removal(paper.channel_contributions(model, "conv3", paper.sample_images(splits.train, 5)), 32).tolist()
    )
    assert "after 1 swap " in lesson.swaps(model, splits, one_swap)
