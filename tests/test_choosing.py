"""What notebook 08 says from rows: prices in five currencies, winners, which method when; its figures, claims and tournament."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from course_lib import cost, models, surgery
from course_lib.drawings import comparison as drawings
from course_lib.drawings import shapes
from course_lib.experiments import choosing, currencies, points_lost, tournament
from course_lib.lessons import comparison as lesson
from course_lib.notebook import plots

KINDS = {"L1": "filters", "random": "filters", "APoZ": "filters", "LASSO": "channels", "dense": "dense", "scratch-E": "scratch"}


def rows(method: str, losses: tuple[float, ...], at_once: float | None = None, **changes) -> list[dict]:
    """Rows of one arm, one per trained network; `at_once` is what it loses without retraining."""
    shared = dict(kind=KINDS.get(method, "file"), method=method, rate=1 if method == "dense" else 2, network="vgg-small",
                  counted="MACs", dataset="cifar10", epochs=20, lr=0.03, macs=19_000_000, bytes=580_000, device="NVIDIA H200",
                  latency_1=0.3, latency_64=0.4) | changes  # fmt: skip
    lines = []
    for seed, lost in enumerate(losses):
        level = 91.0 + seed / 10
        removed = None if at_once is None else level - at_once - lost / 10
        lines.append(shared | dict(seed=seed, baseline=level, accuracy=level - lost, validation=level - lost, removed=removed))
    return lines


@pytest.fixture
def found() -> pd.DataFrame:
    """Three arms that end alike, of which one starts far ahead; random weights end two points lower; no rows on files."""
    lines = [*rows("L1", (1.3, 1.5, 1.2), 75.0), *rows("random", (1.4, 1.2, 1.5), 76.0), *rows("LASSO", (1.2, 1.4, 1.35), 8.0)]
    lines += rows("scratch-E", (3.2, 3.4, 3.3)) + rows("dense", (-0.1, -0.1, 0.0), macs=38_634_752, bytes=1_161_688)
    lines += rows("L1", (3.5,), 80.0, rate=4)  # not all networks yet
    tried = {"lr": dict(lr=(0.1, 0.03, 0.001), epochs=(20, 20, 20)), "budget": dict(lr=(0.03, 0.03), epochs=(5, 40))}
    for kind, of in tried.items():
        for number, (lr, epochs) in enumerate(zip(of["lr"], of["epochs"], strict=True)):
            lines += rows("L1", (2.0 + number,), 75.0, kind=kind, lr=lr, epochs=epochs)
    return pd.DataFrame(lines)


def latencies(device: str) -> list[dict]:
    plans = {"dense": (2.0, 50.0), "uniform": (1.0, 40.0), "multiples of 8": (1.1, 38.0)}
    return [
        line | dict(plan=plan, latency_1=one + seed, latency_64=many)
        for plan, (one, many) in plans.items()
        for seed, line in enumerate(rows("L1", (0.0, 0.0), kind="latency", device=device))
    ]


# Which method when


def test_arms_that_no_verdict_parts_are_as_good_and_the_simplest_is_taken(found):
    table = choosing.decisions(found).set_index("you want")
    retrained = table.loc["fewer MACs or less time, can retrain"]
    assert retrained["loses least"] == "LASSO" and retrained["so take"] == "L1"
    assert retrained["not shown to be worse"] == "L1, random"  # and not scratch-E
    at_once = table.loc["fewer MACs, no retraining"]
    assert (at_once["so take"], at_once["not shown to be worse"]) == ("LASSO", "none")
    assert at_once["and loses (points)"].startswith("8.13 (") and at_once.networks == "3"
    blind = table.loc["fewer MACs, no retraining and no images"]
    assert blind["loses least"] == "L1" and "LASSO" not in blind["not shown to be worse"]
    assert table.loc["a smaller file, can retrain", "measured on"] == "no rows yet"
    assert set(table["measured on"]) == {"vgg-small, 2x", "no rows yet"}  # one arm alone at 4x decides nothing


def test_files_are_decided_by_their_own_margin_once_there_are_rows(found):
    shared = dict(network="lenet-5-relu", counted="bytes", dataset="mnist", rate=16)
    files = rows("deep-compression", (0.1,) * 5, **shared) + rows("filter-pruning", (0.35, 0.3, 0.4, 0.35, 0.3), **shared)
    table = choosing.decisions(pd.concat([found, pd.DataFrame(files)])).set_index("you want")
    line = table.loc["a smaller file, can retrain"]
    assert line["measured on"] == "lenet-5-relu, 16x" and line["so take"] == "Deep Compression"  # 0.24 points, the margin is 0.1
    assert line["not shown to be worse"] == "none" and line.networks == "5"


def test_one_network_parts_no_arms():
    losses = pd.DataFrame({"a": [1.0], "b": [9.0]})
    assert choosing.tied(losses, "cifar10") == ("a", ["b"])


def test_every_arm_of_the_rows_has_its_needs():
    from course_lib.experiments import comparison, points_lost, runner

    assert {points_lost.SHOWN[method] for method in comparison.SEVEN} | set(comparison.ARMS) <= set(choosing.NEEDS)
    assert len(choosing.decisions(runner.recorded("comparison"))) >= len(choosing.WISHES)


# What is measured, and who wins


def test_coverage_counts_networks_and_leaves_out_what_chose_the_recipe(found):
    table = points_lost.coverage(found).set_index("method")
    assert table.loc["L1", ["vgg-small, 2x", "vgg-small, 4x"]].tolist() == ["3", "1"]
    assert table.loc["LASSO", "vgg-small, 4x"] == "-" and set(table.epochs) == {"20"}


def test_the_winner_changes_from_network_to_network(found):
    table = points_lost.winners(found, "vgg-small", 2)
    assert table["best arm"].tolist() == ["LASSO", "random", "L1", "LASSO"]
    assert table["ahead of random (points)"].tolist() == ["+0.20", "+0.00", "+0.30", "+0.05"]


def test_factors_hold_what_a_decision_chooses_between(found):
    factors = points_lost.factors(found, "vgg-small", 2)
    assert set(factors["criterion"].index) == {"L1", "random", "LASSO"}
    assert sorted(factors["epochs (L1)"].index) == ["20 epochs", "40 epochs", "5 epochs"]
    assert sorted(factors["learning rate (L1)"].index) == ["rate 0.001", "rate 0.03", "rate 0.1"]
    assert list(factors["start"].index) == ["trained weights", "random weights"] and len(factors) == 5


def test_an_arm_without_rows_is_ahead_of_none(found):
    assert points_lost.ahead(found, "ThiNet", "L1").empty


# Five currencies


def test_energy_agrees_with_the_report_of_costs():
    model, image = models.build("vgg-small").eval(), models.example_input("vgg-small")
    counted = cost.report(model, image).totals()["energy, weights in DRAM"]
    assert currencies.whole("vgg-small")["energy"] == pytest.approx(counted, rel=0.01)


def test_prices_are_ratios_to_the_whole_network_and_times_those_of_shapes(found):
    times = currencies.recorded_times(pd.DataFrame(latencies("CPU, 1 thread")))
    priced = currencies.prices(found, times)
    arm = priced[(priced.method == "LASSO")].iloc[0]
    assert arm.macs == pytest.approx(38_634_752 / 19_000_000) and arm.bytes == pytest.approx(2.0, rel=0.01)
    assert arm.latency_1 == pytest.approx(2.5 / 1.5) and arm.latency_64 == 50 / 40  # not the GPU's of the row
    assert (priced[priced.method == "dense"][list(currencies.CURRENCIES)] == 1).all(axis=None)
    assert priced[(priced.rate == 4) & (priced.method == "L1")][["latency_1", "latency_64"]].isna().all(axis=None)


def test_times_of_a_gpu_are_left_out(found):
    both = pd.DataFrame(latencies("NVIDIA H200"))
    assert currencies.recorded_times(pd.concat([found, both])).empty
    priced = currencies.prices(found, currencies.recorded_times(both))
    assert priced[priced.method != "dense"].latency_64.isna().all()


def test_blocks_round_channels_up_and_leave_the_image_alone():
    image, model = models.example_input("vgg-small"), models.build("vgg-small").eval()
    counted = int(cost.count(model, image).MACs.sum())
    assert currencies.in_blocks(model, image, 1) == counted
    assert currencies.in_blocks(model, image, 16) == counted + 6 * 128  # 10 classes take 16
    narrow = surgery.narrow(model, {"conv1": range(22), "conv3": range(33)}, image)
    wide = surgery.narrow(model, {"conv1": range(32), "conv3": range(32)}, image)
    assert currencies.in_blocks(narrow, image, 16) > currencies.in_blocks(wide, image, 16)
    assert cost.count(narrow, image).MACs.sum() < cost.count(wide, image).MACs.sum()
    assert currencies.block() in (4, 8, 16)


def test_plans_of_a_shape_have_about_as_many_macs():
    table = currencies.shape_times([("vgg-small", 2)], seconds=0.001).set_index("plan")
    assert list(table.index) == ["dense", "uniform", "multiples of 8", "multiples of 16"]
    assert ((table.macs["dense"] / table.macs.drop("dense")) - 2).abs().max() < 0.2
    assert table.in_blocks["multiples of 16"] < 1.01 * table.macs["multiples of 16"]
    assert (table[["latency_1", "latency_64"]] > 0).all(axis=None)
    assert len(currencies.stairs((8, 9), seconds=0.001)) == 2


# Figures, claims


def test_every_figure_is_drawn(found):
    plots.use_style()
    priced = currencies.prices(found, currencies.recorded_times(pd.DataFrame(latencies("CPU"))))
    drawn = [
        lesson.headlines_figure(),
        lesson.losses_figure(found, "t"),
        lesson.currencies_figure(priced),
    ]
    drawn += [
        lesson.factors_figure(points_lost.factors(found, "vgg-small", 2), "t"),
    ]
    assert all(fig.get_suptitle() or fig.axes[0].get_title(loc="left") or fig.axes[0].get_title() for fig in drawn)


def test_a_verdict_appears_as_networks_come_in():
    frames = drawings.verdict_frames({"near": [0.1, 0.5, 0.2], "far": [2.0, 2.1, 1.9]}, 0.3)
    assert [caption for caption, _ in frames] == [
        "after network 1: undecided here", "after network 2: one is decided", "after network 3: one is decided",
    ]  # fmt: skip
    fig, ax = shapes.canvas(drawings.HEIGHT)
    frames[-1][1](ax)
    written = [text.get_text() for text in ax.texts]
    assert {"near", "far", "holds", "undecided here"} <= set(written)
    plt.close(fig)


def test_claims_pair_networks_and_leave_open_what_has_no_rows(found):
    papers, own = lesson.papers_claims(found, "vgg-small"), lesson.own_claims(found)
    assert len(lesson.papers_claims(found, "resnet-20")) < len(papers) <= 8 and len(own) <= 5
    assert papers[0].evidence.networks == 3 and papers[0].epochs == "20 / 20"
    assert papers[0].evidence.mean == pytest.approx(0.1 / 3)
    assert [claim.evidence for claim in papers if "APoZ" in claim.measured] == [None, None]
    by_pair = {claim.measured: claim for claim in own}
    assert (
        by_pair["LASSO / L1, vgg-small at 2x"].evidence.label == "holds" and by_pair["LASSO / L1, vgg-small at 2x"].epochs == "0"
    )
    assert by_pair["L1 / scratch-E, vgg-small at 2x"].evidence.label == "holds"
    assert by_pair["Deep Compression / L1, lenet-5-relu at 16x"].evidence is None  # no rows


def test_headlines_follow_from_the_papers_counts():
    published = lesson.headlines().set_index("paper")["times less"]
    assert published["Luo 2017"] == pytest.approx(30.94 / 9.58, abs=0.01)  # FLOPs of VGG-16 and of ThiNet-Conv
    assert published["Li 2017"] == pytest.approx(1 / (1 - 0.342), abs=0.01)  # 34.2 % fewer
    assert published["Han 2015"] == pytest.approx(138 / 10.3, abs=0.5) and published["Han 2016"] == pytest.approx(
        552 / 11.3, abs=0.5
    )


# The tournament


def test_a_network_is_rebuilt_from_its_tensors_with_the_biases_that_least_squares_adds():
    model, image = models.build("vgg-small").eval(), models.example_input("vgg-small")
    narrow = surgery.narrow(model, {f"conv{n}": range(10) for n in range(1, 7)}, image)
    narrow.conv3.bias = torch.nn.Parameter(torch.randn(10))
    again = tournament.rebuilt(narrow.state_dict())
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(again(images), narrow(images))
    assert tournament.share_of_macs(narrow.state_dict()) == pytest.approx(
        cost.count(narrow, image).MACs.sum() / cost.count(model, image).MACs.sum()
    )


def test_a_network_above_a_quarter_of_the_macs_is_refused():
    with pytest.raises(ValueError, match="it has 100.0% of the MACs; allowed are 25%"):
        tournament.score(models.build("vgg-small").state_dict(), None)
