"""The rows of notebook 04: what each kind of run may look at, what is equal between arms, and what the tables make of rows."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from course_lib import data, models
from course_lib.experiments import filter_pruning as experiments
from course_lib.experiments import filter_tables as tables
from course_lib.experiments import rows
from course_lib.experiments.filter_plans import PLANS
from course_lib.lessons import filter_claims as judged
from course_lib.lessons import filter_rows as shown

ABOUT = dict(
    scale="smoke", experiment="filter_pruning", seconds=1.0, device="CPU", versions={}, date="", command="", fingerprint=""
)
IMAGE = models.example_input("vgg-small")


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    whole = data.load("mnist-m")
    return data.Splits(whole.train.take(32), whole.validation.take(64), whole.test.take(64), whole.name, whole.requested)


@pytest.fixture(scope="module")
def vgg() -> torch.nn.Module:
    return models.pretrained("vgg-small", "mnist-m")


WORK = dict(epochs=1, images=24, maps=24)


def test_rows_of_every_kind_are_complete(few, monkeypatch, tmp_path):
    """At smoke scale, on a few images: every kind gives a row of the schema and leaves no file behind."""
    few(32, 64)
    monkeypatch.setattr(experiments, "budget", lambda scale: WORK)
    monkeypatch.setattr(experiments, "SHARES", (0.5,))
    monkeypatch.setattr(experiments, "ORDER_SHARES", (0.5,))
    monkeypatch.chdir(tmp_path)
    found = {
        setting["kind"]: setting | experiments.run(setting, seed=0, scale="smoke", device="cpu") | ABOUT | dict(seed=0)
        for setting in experiments.grid("smoke")
    }
    assert set(found) == set(experiments.KINDS)
    for row in found.values():
        assert rows.checked(row) and row["dataset"] == "mnist-m" and row["baseline"] > 80
    assert {row["epochs"] for kind, row in found.items() if kind != "as published"} == {0}
    published = found["as published"]
    assert published["lr"] == 0.001 and published["macs"] < 0.66 * published["dense_macs"]
    assert not list(tmp_path.rglob("*.pt"))
    with pytest.raises(ValueError, match="kind is 'none'"):
        experiments.run(dict(kind="none"), seed=0, scale="smoke", device="cpu")


@pytest.mark.parametrize("scale", ["smoke", "lesson", "paper"])
def test_every_setting_runs_on_three_networks_and_has_a_plan(scale):
    names = [setting["name"] for setting in experiments.grid(scale)]
    assert len(set(names)) == len(names)
    for setting in experiments.grid(scale):
        assert setting["seeds"] == 3 and setting.get("plan", "A") in PLANS[setting["network"]]


def test_a_seed_is_another_network(monkeypatch, few):
    few(4, 4)
    asked = []
    monkeypatch.setattr(models, "pretrained", lambda *which, **where: asked.append(which) or models.build("vgg-small").eval())
    monkeypatch.setitem(experiments.KINDS, "scan", lambda *_: {})
    for seed in range(3):
        experiments.run(dict(kind="scan", network="vgg-small"), seed=seed, scale="smoke", device="cpu")
    assert asked == [("vgg-small", "mnist-m", seed) for seed in range(3)]


def blank(split: data.Split) -> data.Split:
    return data.Split(torch.zeros_like(split.images), split.labels)


def test_the_scan_looks_at_validation_images_only(vgg, splits, monkeypatch):
    monkeypatch.setattr(experiments, "SHARES", (0.5,))
    other = dataclasses.replace(splits, train=blank(splits.train), test=blank(splits.test))
    first, second = (experiments.scan({}, vgg, images, WORK, 0) for images in (splits, other))
    assert first["curves"] == second["curves"] and first["whole"] == second["whole"]
    seen = dataclasses.replace(splits, validation=blank(splits.validation))
    assert experiments.scan({}, vgg, seen, WORK, 0)["curves"] != first["curves"]


def test_orders_are_chosen_on_training_images_and_measured_on_test_images(vgg, splits, monkeypatch):
    monkeypatch.setattr(experiments, "ORDER_SHARES", (0.5,))
    first = experiments.orders({}, vgg, splits, WORK, 0)["accuracies"]
    untested = dataclasses.replace(splits, validation=blank(splits.validation))
    assert experiments.orders({}, vgg, untested, WORK, 0)["accuracies"] == first
    rankings = experiments.rankings(vgg, splits.train, IMAGE, 0)
    unseen = experiments.rankings(vgg, blank(splits.train), IMAGE, 0)
    for order, of_layer in rankings.items():
        same = all(torch.equal(scores, unseen[order][layer]) for layer, scores in of_layer.items())
        assert same == (order not in experiments.paper.CRITERIA)


def test_orders_rank_as_their_names_say(vgg, splits):
    found = experiments.rankings(vgg, splits.train, IMAGE, 0)
    assert {order.rstrip(" 012") if "random" in order else order for order in found} == set(experiments.ORDERS)
    weight = vgg.conv3.weight.detach().flatten(1).numpy()
    np.testing.assert_allclose(found["smallest L1"]["conv3"].numpy(), np.abs(weight).sum(1), rtol=1e-5)
    np.testing.assert_allclose(found["smallest L2"]["conv3"].numpy(), np.sqrt((weight**2).sum(1)), rtol=1e-5)
    assert torch.equal(found["largest L1"]["conv3"], -found["smallest L1"]["conv3"])


def test_random_orders_differ_between_draws_and_networks_and_come_again(vgg, splits):
    draws = [
        tuple(experiments.rankings(vgg, splits.train, IMAGE, seed)[f"random {draw}"]["conv2"].tolist())
        for seed in range(2) for draw in range(experiments.DRAWS)
    ]  # fmt: skip
    assert len(set(draws)) == len(draws)
    assert draws[0] == tuple(experiments.rankings(vgg, splits.train, IMAGE, 0)["random 0"]["conv2"].tolist())


def test_both_strategies_have_the_same_shape(vgg, splits):
    points = pd.DataFrame(experiments.strategies({}, vgg, splits, WORK, 0)["points"])
    assert set(points.method) == {"independent", "greedy"} and set(points.share) == set(experiments.EVERY_LAYER)
    for cost in ("macs", "parameters"):
        assert (points.groupby("share")[cost].nunique() == 1).all()
    assert points.sort_values("share").macs.is_monotonic_decreasing


def test_the_branches_of_resnet_20_are_measured(splits):
    model = models.pretrained("resnet-20", "mnist-m")
    found = experiments.branches(model, splits.test.take(20).images)
    assert list(found) == [f"stage{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    x = torch.relu(model.norm1(model.conv1(splits.test.take(20).images)))
    block = model.stage1[0]
    branch = block.norm2(block.conv2(block.relu1(block.norm1(block.conv1(x)))))
    assert found["stage1.0"] == pytest.approx(branch.std().item(), abs=1e-3)


LAYERS = {"vgg-small": ("conv1", "conv2"), "resnet-20": ("stage1.0.conv1", "stage1.1.conv1", "stage2.0.shortcut.conv")}
# order -> accuracy of both layers at the first share
ORDERED = {"smallest L1": 70.0, "random 0": 50.0, "random 1": 60.0, "largest L1": 40.0, "mean std": 71.0}


def recorded() -> pd.DataFrame:
    """Rows as the runner records them, with figures that are easy to add up; network 1 and 2 are 1 and 2 points worse."""
    found = []
    for seed in range(3):
        shares = [0.5, 0.9]
        for network, layers in LAYERS.items():
            curves = {layer: [80.0 - 10 * i - seed, 70.0 - 10 * i - seed] for i, layer in enumerate(layers)}
            flatness = {layer: 0.5 + 0.1 * i for i, layer in enumerate(layers)}
            branches = {"stage1.0": 2.0, "stage1.1": 1.0} if network == "resnet-20" else {}
            scan = dict(kind="scan", network=network, shares=shares, whole=90.0 - seed, curves=curves, flatness=flatness)
            found.append(scan | dict(branches=branches, seed=seed, name=f"scan {network}"))
            points = [
                dict(method=method, share=share, accuracy=60.0 - seed + (5 if method == "greedy" else 0))
                for share in (0.1, 0.5) for method in ("greedy", "independent")
            ]  # fmt: skip
            found.append(dict(kind="strategies", network=network, seed=seed, points=points))
        accuracies = {
            order: dict(conv1=[place - seed, place - 20.0], conv2=[place - seed, place - 30.0])
            for order, place in ORDERED.items()
        }
        found.append(dict(kind="orders", network="vgg-small", seed=seed, shares=shares, accuracies=accuracies))
    return rows.frame(found)


def test_points_lost_and_rank_correlations_are_paired_by_network():
    found = recorded()
    lost = tables.points_lost(found, "vgg-small")
    assert lost.loc["conv1"].tolist() == [15.0] * 3 and lost.loc["conv2"].tolist() == [25.0] * 3
    assert tables.agreement(found, "vgg-small", "flatness").tolist() == pytest.approx([1.0] * 3)
    assert tables.agreement(found, "resnet-20", "branches").tolist() == pytest.approx([-1.0] * 3)  # the sum takes no part
    shuffled = found.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(tables.points_lost(shuffled, "vgg-small"), lost)


def test_orders_are_averaged_over_draws_and_layers():
    alone = tables.over_layers(recorded())
    assert alone.loc[("random", 0.5)].tolist() == [55.0, 54.0, 53.0]
    assert alone.loc[("smallest L1", 0.9)].tolist() == [45.0] * 3
    assert tables.layers_won(recorded(), "smallest L1", "random").to_numpy().tolist() == [[2] * 3] * 2
    assert tables.layers_won(recorded(), "smallest L1", "mean std").to_numpy().tolist() == [[0] * 3] * 2


def large() -> pd.DataFrame:
    """Rows of the paper's plan A for VGG-16, retrained as published; it loses 0.1, 0.0 and 0.1 points."""
    shared = dict(kind="as published", network="vgg-16", plan="A", dataset="cifar10", macs=66, dense_macs=100, epochs=40)
    losses = enumerate((0.1, 0.0, 0.1))
    return pd.DataFrame([shared | dict(seed=seed, baseline=93.0, accuracy=93.0 - lost) for seed, lost in losses])


def fair() -> pd.DataFrame:
    """Rows of the comparison: L1 and random filters differ by noise, both are far ahead of training from scratch."""
    arms = dict(L1=(1.0, 1.1, 1.2), random=(1.3, 1.0, 1.1), dense=(0.0, 0.1, 0.0)) | {"scratch-E": (3.0, 3.2, 3.1)}
    kinds = dict(L1="filters", random="filters", dense="dense") | {"scratch-E": "scratch"}
    found = [
        dict(kind=kinds[arm], network=network, rate=1 if arm == "dense" else rate, method=arm, counted="MACs", seed=seed,
             epochs=20, baseline=91.0, removed=None if arm in ("dense", "scratch-E") else 15.0, accuracy=91.0 - loss)
        for network, rate in tables.SHAPES for arm, losses in arms.items() for seed, loss in enumerate(losses)
        if not (arm == "dense" and rate == 4)
    ]  # fmt: skip
    return pd.DataFrame(found)


def test_claims_are_judged_by_rows():
    papers = {claim.claim.split(" (")[0]: claim for claim in judged.papers(recorded(), large(), fair())}
    lossless = papers["VGG: 34.2 % fewer MACs at no loss"]
    assert len(papers) == 8 and lossless.here == "93.00 -> 92.93 % accuracy at 34.0 % fewer" and lossless.epochs == "40"
    assert lossless.evidence.label == "holds" and lossless.evidence.mean == pytest.approx(-0.0667, abs=1e-3)
    alike = papers.pop("layers with alike norms are sensitive")  # of two made-up layers, one order in two is as good
    assert alike.evidence == "undecided here" and "over 2 layers, by chance in 50.0% of orders" in alike.here
    labels = {name: claim.evidence.label for name, claim in papers.items() if claim.evidence is not None}
    inherited = papers["with short training, inherited weights beat random ones"]
    assert inherited.evidence.label == "holds" == labels["of smallest, random and largest first, largest is worst"]
    assert labels["greedy beats independent where much is pruned"] == "holds"
    assert inherited.epochs == "20" and inherited.measured.startswith("L1 (50 + 20 epochs) and scratch-E (20), vgg-small")
    own = judged.own(recorded(), fair())
    assert len(own) == 4 and [claim.evidence.label for claim in own[:2]] == ["undecided here"] * 2
    assert own[0].evidence.mean == pytest.approx(-0.0333, abs=1e-3)
    assert own[-1].evidence == "undecided here" and "over 2 blocks, by chance in 100.0% of orders" in own[-1].here


def test_the_first_claim_is_of_vgg_16_alone_and_needs_its_rows():
    other = large().assign(network="resnet-56", accuracy=80.0)
    both = pd.concat([other, large()])
    assert judged.papers(recorded(), both, fair())[0].evidence.label == "holds"
    worse = large().assign(accuracy=92.0)
    assert judged.papers(recorded(), worse, fair())[0].evidence.label == "does not hold here"
    assert judged.papers(recorded(), other, fair())[0].evidence is None


def test_a_rank_correlation_holds_where_few_orders_reach_it_for_every_network():
    assert judged._correlated(pd.Series([1.0, 0.9]), 6, "layers") == ("0.95 over 6 layers, by chance in 0.8% of orders", "holds")
    assert judged._correlated(pd.Series([1.0, 0.77]), 6, "layers")[1] == "undecided here"


def test_a_network_that_an_arm_lacks_takes_no_part():
    found = fair()
    found = found[~((found.network == "vgg-small") & (found.method == "random") & (found.seed == 2))]
    claim = judged.own(recorded(), found)[0]
    assert claim.evidence.networks == 2 and claim.here == "89.85 and 89.95 % accuracy"


def test_a_shape_whose_arms_are_missing_is_left_out():
    found = fair()
    found = found[~((found.rate == 4) & (found.method == "random"))]
    own = judged.own(recorded(), found[~((found.network == "resnet-20") & (found.method == "random"))])
    assert len(own) == 3 and "random and L1, resnet-20" not in " ".join(claim.measured for claim in own)
    assert [shape[:2] for shape in tables.both_measured(found, "L1", "random")] == [("vgg-small", 2), ("resnet-20", 2)]
    assert not list(tables.both_measured(found, "L1", "scratch-B"))


def test_an_arm_with_more_epochs_says_so():
    longer = fair()[lambda t: (t.method == "scratch-E") & (t.network == "vgg-small") & (t.rate == 2)]
    longer = longer.assign(method="scratch-B", epochs=122, accuracy=[90.5, 90.3, 90.4])
    claim = judged.own(recorded(), pd.concat([fair(), longer]))[2]
    assert claim.epochs == "122 and 20" and claim.measured == "scratch-B and L1, vgg-small, 2x fewer MACs"
    assert claim.evidence.label == "holds" and claim.evidence.mean == pytest.approx(0.5)


def test_the_schedules_stand_beside_each_other():
    found = fair().assign(lr=0.03)
    table = shown.schedules(recorded(), large(), found).set_index("plan")
    assert list(table.index) == ["paper: VGG-16-A", "here: vgg-16-A", "grid: vgg-small", "grid: resnet-20"]
    assert table["points lost"].tolist() == ["-0.15", "+0.07 (-0.08 to +0.21)", *["+1.10 (+0.85 to +1.35)"] * 2]
    assert table.loc["grid: resnet-20", "learning rate"] == "rises to 0.03, falls to 0"


def test_one_order_is_compared_with_another_layer_by_layer():
    table = shown.orders_by_layer(recorded(), "smallest L1", "random")
    assert table["pruned"].tolist() == ["50%", "90%"] and table["layers won, by network"].tolist() == ["2, 2, 2"] * 2
    assert table.conv1.tolist() == ["+15", "+15"]


def test_points_lost_with_half_of_a_layer_are_sorted():
    assert shown.at_half(tables.curves(recorded(), "vgg-small")).to_dict() == {"conv1": 10.0, "conv2": 20.0}


def test_the_table_of_the_paper_has_what_was_run():
    assert tables.paper_table(recorded()).empty and tables.headline(recorded()).empty
    found = pd.concat([recorded(), large()])
    table, headline = tables.paper_table(found).set_index("paper"), tables.headline(found)
    assert list(table.index) == ["VGG-16-A"] and table["from scratch"].item() == "6.88 %"
    assert table["fewer MACs, here"].item() == "34.0 %" and table["points lost, here"].item() == "+0.07 (-0.08 to +0.21)"
    assert headline.rate.tolist() == [pytest.approx(1 / 0.66)]
