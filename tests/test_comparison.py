"""The fair grid: arms have equal shapes and epochs, files have equal sizes, and each arm keeps what its criterion says."""

import copy
import itertools
from collections import OrderedDict

import pandas as pd
import pytest
import torch
import torch_pruning
from torch import nn

from course_lib import cost, data, models, surgery
from course_lib.data import Splits
from course_lib.experiments import comparison, equal_budgets, equal_shapes, file_targets, one_shot, own_schedules, points_lost
from course_lib.experiments import rows as rows_of
from course_lib.experiments.runner import HEADLINE
from course_lib.papers import filter_pruning, network_trimming
from course_lib.streams import stream

ABOUT = dict(
    name="a", experiment="comparison", scale="smoke", seed=0, seconds=1.0, device="CPU", versions={}, date="2026-01-01",
    command="none", fingerprint="0",
)  # fmt: skip
CUT = (*comparison.ARMS, one_shot.NOT_RESCALED)
WORK = dict(images=60, positions=10)


def tiny(classes: int = 10) -> nn.Module:
    """Two convolutions with batch norm and a dense layer, for images of 32x32 pixels."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, outputs) in enumerate(((3, 6), (6, 8)), start=1):
        layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        layers[f"norm{number}"], layers[f"relu{number}"] = nn.BatchNorm2d(outputs), nn.ReLU()
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(8, classes))
    return nn.Sequential(layers)


def untrained(seed: int) -> nn.Module:
    """A network of a seed, whose batch norms tell channels apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tiny()
        for norm in (model.norm1, model.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def few() -> Splits:
    whole = data.load("cifar10", scale="smoke")
    return Splits(whole.train.take(80), whole.validation.take(40), whole.test.take(64), whole.name, whole.requested)


@pytest.fixture
def fits(monkeypatch, few) -> list[dict]:
    """Sets the tiny network up, and puts a `fit` that trains nothing in the place of ours: the list of its calls."""
    calls: list[dict] = []

    def fit(model, splits, **settings):
        calls.append(settings | dict(macs=equal_budgets.macs(model, splits)))

    monkeypatch.setattr("course_lib.training.fit", fit)
    monkeypatch.setattr("course_lib.training.recipes.fit", fit)
    monkeypatch.setitem(models.NETWORKS, "tiny", tiny)
    monkeypatch.setitem(models.RECIPES, ("tiny", few.name), dict(epochs=12, lr=0.1, augment="shift"))
    monkeypatch.setattr(models, "pretrained", lambda name, dataset, seed, device: untrained(seed))
    monkeypatch.setattr(data, "load", lambda *_, **__: few)
    monkeypatch.setattr(comparison, "budget", lambda scale: WORK)
    return calls


def settings(method: str, **changes) -> dict:
    return dict(
        kind=comparison.KIND_OF.get(method), network="tiny", rate=2, method=method, counted="MACs", epochs=7, lr=0.03
    ) | changes  # fmt: skip


def run(method: str, seed: int = 0, **changes) -> dict:
    setting = settings(method, **changes)
    return dict(rows_of.checked(ABOUT | setting | comparison.run(setting, seed=seed, scale="smoke", device="cpu")))


# Equal shapes and budgets


def test_all_arms_of_a_setting_have_equal_widths_macs_and_epochs(fits):
    found = {method: run(method) for method in CUT}
    assert len({str(row["widths"]) for row in found.values()}) == 1 and len({row["macs"] for row in found.values()}) == 1
    shared = [{key: call[key] for key in ("epochs", "batch_size", "augment", "seed", "macs")} for call in fits]
    assert len(fits) == len(CUT) and all(call == shared[0] for call in shared) and shared[0]["epochs"] == 7
    rates = {method: (row["lr"], call["lr"]) for (method, row), call in zip(found.items(), fits, strict=True)}
    assert rates.pop("scratch-E") == (0.1, 0.1)  # as the dense network was trained
    assert set(rates.values()) == {(0.03, 0.03)}
    # what is cut is measured before it is retrained; random weights are not
    assert {method for method, row in found.items() if row["removed"] is None} == {"scratch-E"}
    dense = run("dense", rate=1)
    assert fits[-1]["epochs"] == 7 and dense["macs"] > 1.9 * found["L1"]["macs"] and dense["removed"] is None


def test_scratch_b_computes_as_much_as_training_and_retraining_together(fits, few):
    narrow, longest = run("L1"), run("scratch-B")
    whole = 12 * equal_budgets.macs(untrained(0), few) + 7 * narrow["macs"]
    assert fits[-1]["epochs"] == longest["epochs"]
    assert abs(longest["epochs"] * longest["macs"] - whole) <= longest["macs"] / 2


def test_random_weights_are_others_for_each_seed_and_suit_their_widths(fits, few):
    start = equal_budgets.start(settings("scratch-E"), few, WORK, 0)
    first, again, other = (equal_budgets.from_scratch(settings("scratch-E"), few, start, seed) for seed in (0, 0, 1))
    assert torch.equal(first.conv1.weight, again.conv1.weight) and not torch.equal(first.conv1.weight, other.conv1.weight)
    filters = [len(layer.weight) for layer in (first.conv1, first.conv2)]
    assert filters == [start.widths["conv1"], start.widths["conv2"]]
    assert first.conv2.weight.std().item() == pytest.approx((2 / (9 * filters[1])) ** 0.5, rel=0.15)


def test_two_seeds_start_from_different_networks(fits, monkeypatch):
    asked = []

    def pretrained(name, dataset, seed, device):
        asked.append(seed)
        return untrained(seed)

    monkeypatch.setattr(models, "pretrained", pretrained)
    found = [run(method, seed) for method in ("L1", "random") for seed in (0, 1)]
    assert asked == [0, 1, 0, 1]
    assert found[0]["baseline_loss"] == found[2]["baseline_loss"] != found[1]["baseline_loss"] == found[3]["baseline_loss"]
    assert len({call["seed"] for call in fits}) == 2


@pytest.mark.parametrize(("network", "rate"), equal_shapes.WIDTHS_OF_8)
def test_plans_hit_their_macs(network, rate):
    model, image = models.build(network).eval(), models.example_input(network)
    uniform = equal_shapes.for_macs(model, rate, image)
    rounded = equal_shapes.in_multiples_of_8(model, network, rate, image)
    whole = cost.count(model, image).MACs.sum()
    narrow, other = (
        cost.count(surgery.narrow(model, {name: range(keep) for name, keep in plan.items()}, image), image).MACs.sum()
        for plan in (uniform, rounded)
    )
    assert rate <= whole / narrow <= 1.03 * rate
    assert abs(other / narrow - 1) < 0.04 and set(rounded) == set(uniform)
    assert all(keep % 8 == 0 for keep in rounded.values())


def test_bisection_takes_the_nearest_size_that_it_tried():
    assert equal_shapes.nearest(lambda knob: round(1000 * knob), 250) == pytest.approx(0.25, abs=1e-3)
    steps = [round(8 * equal_shapes.nearest(lambda knob: 100 * round(8 * knob), wanted)) for wanted in (340, 360)]
    assert steps == [3, 4]


@pytest.mark.parametrize("method", [own_schedules.IN_ROUNDS, own_schedules.BY_LAYER])
def test_a_paper_s_own_schedule_has_the_epochs_and_the_shape_of_the_arms(fits, method):
    own = run(method, kind="schedule", epochs=10)
    assert sum(call["epochs"] for call in fits) == 10 == own["epochs"] and len(fits) > 2
    assert len({call["seed"] for call in fits}) == len(fits)
    assert own["macs"] == run("L1")["macs"] and own["removed"] is not None
    with pytest.raises(ValueError, match="epochs is 2"):
        run(method, kind="schedule", epochs=2)


def test_a_killed_training_goes_on_and_its_state_is_of_this_code_and_seed(fits):
    run("L1")
    comparison.run(settings("L1", fingerprint="abc"), seed=3, scale="smoke", device="cpu")
    assert [call["resume_from"] and call["resume_from"].name for call in fits] == [None, "comparison abc 3.pt"]


def test_latencies_are_of_the_dense_network_and_of_both_plans(fits, monkeypatch):
    monkeypatch.setitem(equal_shapes.WIDTHS_OF_8, ("tiny", 2), {6: 5, 8: 4})
    found = rows_of.flat([run("L1", kind="latency")])
    assert [row["plan"] for row in found] == ["dense", "uniform", "multiples of 8"] and fits == []
    assert all(row["latency_1"] > 0 and row["epochs"] == 0 for row in found) and found[2]["widths"] == dict(conv1=5, conv2=4)


# What each arm keeps


def test_torch_pruning_gives_the_same_shape_and_keeps_the_largest_group_norms():
    model, image, widths = untrained(0), torch.randn(1, 3, 32, 32), dict(conv1=4, conv2=3)
    kept = one_shot.largest_group_norms(model, widths, image)
    with torch.no_grad():
        squares = {
            "conv1": [model.conv1.weight.square().sum((1, 2, 3)), model.norm1.weight ** 2,
                      model.conv2.weight.square().sum((0, 2, 3))],
            "conv2": [model.conv2.weight.square().sum((1, 2, 3)), model.norm2.weight ** 2, model.fc.weight.square().sum(0)],
        }  # fmt: skip
    for layer, parts in squares.items():
        assert kept[layer].tolist() == torch.stack(parts).mean(0).topk(widths[layer]).indices.sort().values.tolist()
    # as its user would call it
    theirs = copy.deepcopy(model)
    ratios = {theirs.conv1: 2 / 6, theirs.conv2: 5 / 8}
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")
    torch_pruning.pruner.BasePruner(
        theirs, image, importance, pruning_ratio=0.0, pruning_ratio_dict=ratios, ignored_layers=[theirs.fc]
    ).step()
    ours = surgery.narrow(model, kept, image)
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]
    assert torch.allclose(ours(image), theirs(image), atol=1e-6)


def test_torch_pruning_keeps_the_inner_channels_of_residual_blocks_only():
    model, image = models.build("resnet-20").eval(), models.example_input("resnet-20")
    widths = equal_shapes.for_macs(model, 2, image)
    kept = one_shot.largest_group_norms(model, widths, image)
    assert {layer: len(indices) for layer, indices in kept.items()} == widths


def test_scores_of_single_filters_decide(few):
    model, widths = untrained(1), dict(conv1=3, conv2=2)
    kept = {
        method: one_shot.filters_to_keep(method, model, widths, few.train, 0)
        for method in ("L1", "APoZ", "random")
    }  # fmt: skip
    zeros = network_trimming.apoz(model, few.train, ["conv1", "conv2"])
    for layer, keep in widths.items():
        norms = filter_pruning.filter_norms(model.get_submodule(layer).weight)
        for scores, chosen in ((norms, kept["L1"][layer]), (-zeros[layer], kept["APoZ"][layer])):
            best = max(itertools.combinations(range(len(scores)), keep), key=lambda some, s=scores: s[list(some)].sum())
            assert chosen.tolist() == list(best)
        assert len(set(kept["random"][layer].tolist())) == keep
    draws = {str(one_shot.filters_to_keep("random", model, widths, few.train, seed)) for seed in range(8)}
    assert len(draws) > 4
    with pytest.raises(ValueError, match="method is 'best'; known are L1"):
        one_shot.filters_to_keep("best", model, widths, few.train, 0)


def test_contributions_to_a_dense_layer_are_those_of_brute_force(few):
    model = untrained(2)
    with torch.no_grad():
        x = model[:-1](few.train.images)  # (N, 8), what fc reads
        z = torch.einsum("nc,oc->nco", x - x.mean(0), model.fc.weight)
    kept = one_shot.largest_contributions(model, dict(conv2=3), few.train, 10, 0)
    assert kept["conv2"].tolist() == z.square().sum((0, 2)).topk(3).indices.sort().values.tolist()


@pytest.mark.parametrize("method", [*one_shot.BY_FIT, *one_shot.BY_SUM])
def test_what_looks_at_the_next_layer_removes_what_that_does_not_read(few, method):
    model, useless = untrained(3), [1, 2, 6]
    model.conv2.weight.data *= 10  # large filters all the same
    model.fc.weight.data[:, useless] = 0
    cut = one_shot.by_fit if method in one_shot.BY_FIT else one_shot.by_sum
    narrower = cut(method, model, dict(conv2=5), few.train, 10, 0)
    stay = [channel for channel in range(8) if channel not in useless]
    assert torch.equal(narrower.conv2.weight, model.conv2.weight[stay])
    assert torch.allclose(narrower(few.test.images), model(few.test.images), atol=1e-4)


def test_only_rescaling_changes_the_weights_that_stay(few):
    model = untrained(4)
    plain, rescaled = (
        one_shot.by_sum(method, model, dict(conv2=5), few.train, 10, 0) for method in ("ThiNet, not rescaled", "ThiNet")
    )
    assert torch.equal(plain.conv2.weight, rescaled.conv2.weight)
    columns = (model.fc.weight[:, None, :] == plain.fc.weight[:, :, None]).all(0).any(1)
    assert columns.all() and not torch.equal(plain.fc.weight, rescaled.fc.weight)


# Equal sizes of files


@pytest.fixture
def digits(monkeypatch) -> Splits:
    whole = data.load("mnist", scale="smoke")
    small = Splits(whole.train.take(500), whole.validation.take(100), whole.test.take(100), whole.name, whole.requested)
    monkeypatch.setattr(data, "load", lambda *_, **__: small)
    monkeypatch.setattr(comparison, "budget", lambda scale: dict(images=500, positions=10))
    return small


SIZES = [(16, method) for method in comparison.SEVEN] + [
    pytest.param(4, method, marks=pytest.mark.slow) for method in comparison.SEVEN
]  # fmt: skip


@pytest.mark.parametrize(("rate", "method"), SIZES)
def test_files_have_the_wanted_size_and_methods_equal_epochs(digits, monkeypatch, rate, method):
    epochs, fit = [], equal_budgets.training.recipes.fit

    def counted(model, splits, **settings):
        epochs.append(settings["epochs"])
        return fit(model, splits, **settings)

    monkeypatch.setattr("course_lib.training.recipes.fit", counted)
    found = run(method, kind="file", network="lenet-5-relu", rate=rate, counted="bytes", epochs=3)
    assert found["dense_bytes"] / found["bytes"] == pytest.approx(rate, rel=0.04)
    trained = method != "vector-quantization"
    assert sum(epochs) == found["epochs"] == 3 * trained and (found["removed"] is not None) == trained
    assert (found["lr"] is not None) == trained


def test_widths_by_bytes_are_the_same_for_every_trained_network():
    image, plans = models.example_input("lenet-5-relu"), []
    for seed in range(2):
        torch.manual_seed(seed)
        plans.append(equal_shapes.for_bytes(models.build("lenet-5-relu"), 16, image))
    assert plans[0] == plans[1] and set(plans[0]) == {"conv1", "conv2", "fc1"}


# The grid and its tables


@pytest.mark.parametrize("scale", ["smoke", "lesson", "paper"])
def test_every_setting_has_a_name_of_its_own_and_its_kind_a_function(scale):
    found = comparison.grid(scale)
    assert len({setting["name"] for setting in found}) == len(found)
    assert {setting["kind"] for setting in found} <= set(comparison.KINDS)
    assert all(set(setting) >= {"network", "rate", "method", "epochs", "lr", "counted", "seeds"} for setting in found
               if setting["kind"] != "latency")  # fmt: skip


def test_the_lesson_grid_has_every_arm_at_every_shape():
    found = comparison.grid("lesson")
    for network, rate in (("vgg-small", 2), ("vgg-small", 4), ("resnet-20", 2)):
        arms = [
            s
            for s in found
            if (s["network"], s["rate"]) == (network, rate) and s["kind"] == comparison.KIND_OF.get(s.get("method"))
        ]
        assert {setting["method"] for setting in arms} >= set(comparison.ARMS)
        assert {setting["epochs"] for setting in arms} == {20} and {setting["seeds"] for setting in arms} == {3}
    assert {s["network"] for s in found if s["kind"] == "dense"} == {"vgg-small", "resnet-20", "lenet-5-relu"}
    lengths = {s["epochs"] for s in found if s["kind"] in ("lr", "budget") and s["network"] == "resnet-20"}
    assert lengths == set(comparison.LENGTHS)  # the row of the chosen rate is a point of the curve


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'wide'; known are lr"):
        comparison.run(dict(kind="wide", network="vgg-small"), seed=0, scale="smoke", device="cpu")


def rows(method: str, kind: str, rate: int, losses: tuple[float, ...], **changes) -> list[dict]:
    shared = dict(kind=kind, method=method, rate=rate, network="vgg-small", counted="MACs", dataset="cifar10", baseline=91.0,
                  removed=60.0, epochs=20, macs=10, bytes=1000)  # fmt: skip
    return [shared | dict(seed=seed, accuracy=91 - lost, validation=91 - lost) | changes for seed, lost in enumerate(losses)]


def test_the_tables_have_intervals_and_pairs():
    found = [*rows("L1", "filters", 2, (0.4, 0.5, 0.6)), *rows("L1", "filters", 4, (1.0, 1.2, 1.1))]
    found += rows("ThiNet", "sums", 2, (0.1, 0.3, 0.5)) + rows("ThiNet", "sums", 4, (2.0, 2.0, 2.3))
    found += rows("dense", "dense", 1, (-0.2, -0.2, -0.2), removed=None)
    found += rows("L1", "lr", 2, (9.0,)) + rows("thinet", "file", 16, (0.1,) * 5, network="lenet-5-relu", counted="bytes")
    table = comparison.paper_table(pd.DataFrame(found))
    assert list(table.arm) == ["L1", "ThiNet", "dense"] and len(points_lost.LINES) == 10
    assert table["vgg-small, 2x"][0] == "+0.50 (+0.25 to +0.75)"
    assert table["vgg-small, 2x"][2] == table["vgg-small, 4x"][2] == "-0.20 (-0.20 to -0.20)"
    ahead = points_lost.ahead(pd.DataFrame(found), "ThiNet", "L1")
    assert ahead.loc[("vgg-small", 2)].tolist() == pytest.approx([0.3, 0.2, 0.1])
    found += rows("ThiNet, layer by layer", "schedule", 4, (2.5, 2.4, 2.9))
    [line] = points_lost.schedules(pd.DataFrame(found)).to_dict("records")
    assert line["points lost"] == "+2.60 (+1.94 to +3.26)" and line["ahead of one cut"] == "-0.50 (-0.75 to -0.25)"
    lacking = pd.DataFrame(found)[lambda t: (t.kind != "sums") | (t.rate != 4) | (t.seed != 1)]
    assert points_lost.schedules(lacking).networks.tolist() == [2]
    assert points_lost.schedules(lacking[lacking.kind != "sums"]).empty
    best = comparison.headline(pd.DataFrame(found))
    assert set(best.columns) == set(HEADLINE) and (best.networks == 3).all()
    assert [line.split(", ")[0] for line in best.published] == ["none; here by ThiNet", "none; here by L1"]
    sizes = points_lost.by_file_size(pd.DataFrame(found))
    assert sizes[["rate", "method", "networks"]].to_numpy().tolist() == [[16, "ThiNet", 5]]


def test_streams_of_purposes_are_apart():
    purposes = ["images", "retraining", "least squares", "ThiNet", *file_targets.STRUCTURED]
    assert len({stream(seed, purpose) for seed in range(5) for purpose in purposes}) == 5 * len(purposes)
