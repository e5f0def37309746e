"""The runs behind notebook 02: arms with equal epochs, networks that differ, and figures that pair networks by seed."""

import itertools

import pandas as pd
import pytest
import torch

from course_lib import data, evidence, models, training
from course_lib.experiments import rows, tradeoff_curves
from course_lib.experiments import sparse_rows as sparse
from course_lib.experiments import weight_pruning as runs
from course_lib.lessons import weight_pruning as lesson
from course_lib.streams import stream

SMALL, LARGE = dict(network="lenet-300-100"), dict(network="lenet-5")
ABOUT = dict(
    name="one",
    experiment="weight_pruning",
    scale="smoke",
    seconds=1.0,
    device="CPU",
    versions={},
    date="",
    command="",
    fingerprint="",
)
WORK = runs.budget("smoke") | dict(scan=50, rounds=3, final=2, step=2, dense=4)


@pytest.fixture(autouse=True)
def _few_images(monkeypatch) -> None:
    """Rows of a few images; the networks that are not committed are made up, since none of these tests needs a good one."""
    whole = data.load("mnist-5k")
    few = data.Splits(whole.train.take(100), whole.validation.take(50), whole.test.take(100), whole.name, whole.requested)
    monkeypatch.setattr(data, "load", lambda *_, **__: few)
    monkeypatch.setattr(runs, "budget", lambda scale: WORK)
    monkeypatch.setattr(sparse, "SCAN", (0.0, 0.5, 0.9, 0.995))
    monkeypatch.setattr(rows, "latencies", lambda *_: dict(latency_1=1.0, latency_64=1.0))


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """The settings of each call of `fit`, none of which trains."""
    seen: list[dict] = []
    for module in (training, training.recipes):
        monkeypatch.setattr(module, "fit", lambda model, splits, **settings: seen.append(settings))
    return seen


def row(setting: dict, seed: int = 0) -> dict:
    setting = dict(lr=0.05) | setting
    return ABOUT | setting | dict(seed=seed) | runs.run(setting, seed=seed, scale="smoke", device="cpu")


def trained(setting: dict, calls: list[dict]) -> list[tuple]:
    """What a run does in each epoch: the schedule, the learning rate where the training began, and all else but the seed."""
    calls.clear()
    made = row(setting)
    same = ("schedule", "lr", "augment", "batch_size", "weight_decay", "l1")
    epochs = [tuple(call.get(key) for key in same) for call in calls for _ in range(call["epochs"])]
    assert made["epochs"] == len(epochs)
    assert len({call["seed"] for call in calls}) == len(calls), "each call has a stream of its own"
    return epochs


def test_the_arms_of_table_1_are_trained_alike(calls):
    arms = [dict(kind="rate", rate=12, method="iterative"), dict(kind="rate", rate=12, method="one shot")]
    arms += [dict(kind="rate", rate=1, method="dense, trained on")]
    arms += [dict(kind="lr", work="whole")]
    first, *others = [trained(SMALL | arm, calls) for arm in arms]
    assert len(first) == WORK["rounds"] + WORK["final"] and all(other == first for other in others)


def test_the_variants_have_equal_epochs_and_the_longer_one_those_of_the_dense_network_as_well(calls):
    arms = {method: trained(SMALL | dict(kind="variant", rate=12, method=method), calls) for method in runs.VARIANTS}
    assert arms[runs.KEPT] == arms[runs.REDRAWN] == arms[runs.RANDOM]
    assert len(arms[runs.OWN_RATE]) == len(arms[runs.KEPT])
    assert arms[runs.LONGER][WORK["dense"] :] == arms[runs.KEPT] and len(arms[runs.LONGER]) == WORK["dense"] + len(
        arms[runs.KEPT]
    )


def test_in_turns_and_all_at_once_are_trained_alike_and_on_the_same_streams(calls):
    in_turns = trained(LARGE | dict(kind="turns", rate=12, method="in turns"), calls)
    seeds = [call["seed"] for call in calls]
    assert in_turns == trained(LARGE | dict(kind="turns", rate=12, method="all at once"), calls)
    assert seeds == [call["seed"] for call in calls]


def test_each_point_of_the_iterative_curve_has_a_partner_with_the_same_training(calls):
    """The partner of the k-th rate is trained in the k calls that the iterative network has had by then."""
    streams, points = {}, {}
    for group in ("iterative", "long", "dense"):
        calls.clear()
        points[group] = row(SMALL | dict(kind="curves", group=group))["points"]
        streams[group] = [call["seed"] for call in calls]
    steps = range(1, len(tradeoff_curves.RATES) + 1)
    assert streams["iterative"] == streams["dense"]
    assert streams["long"] == [seed for count in steps for seed in streams["iterative"][:count]]
    for group in points.values():
        assert [point["epochs"] for point in group] == [WORK["step"] * count for count in steps]
    assert [p["rate"] for p in points["long"]] == [p["rate"] for p in points["iterative"]] == list(tradeoff_curves.RATES)


def test_curves_without_retraining_train_nothing_and_the_penalties_differ_in_nothing_else(calls):
    made = {group: row(SMALL | dict(kind="curves", group=group))["points"] for group in ("L2", "L1")}
    for point in itertools.chain(*made.values()):
        assert (point["epochs"], point["lr"] is None, point["batch"]) == (
            (0, True, 0) if "no re" in point["method"] else (2, False, 128)
        )
    assert len(made["L2"]) == 2 * len(tradeoff_curves.RATES) and len(made["L1"]) == 3 * len(tradeoff_curves.RATES)
    retraining = [{k: v for k, v in call.items() if k not in ("l1", "weight_decay")} for call in calls if call["epochs"] == 2]
    assert all(settings == retraining[0] for settings in retraining) and len(retraining) == 21


def test_the_l1_network_starts_from_the_weights_of_its_seed_and_redrawn_survivors_do_not(calls):
    splits, first = data.load("mnist"), {}
    for seed in (0, 1):
        torch.manual_seed(stream(seed, "initial weights"))
        first[seed] = models.build("lenet-300-100").fc1.weight
        made = tradeoff_curves.with_l1("lenet-300-100", splits, seed, 1, sparse.l1(1e-3))
        assert torch.equal(made.fc1.weight, first[seed])
        assert not torch.equal(runs.redrawn("lenet-300-100", splits, seed).fc1.weight, first[seed])
    assert calls[0]["l1"] == 1e-3 and calls[0]["weight_decay"] == 0 and calls[0]["seed"] == stream(0, "training")
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    "setting",
    [SMALL | dict(kind="rate", rate=12, method="iterative"), SMALL | dict(kind="variant", rate=12, method=runs.RANDOM),
     SMALL | dict(kind="lr", work="step", lr=0.01), SMALL | dict(kind="penalty", l1=1e-4, lr=0.01),
     SMALL | dict(kind="curves", group="iterative"), LARGE | dict(kind="turns", rate=12, method="in turns"),
     LARGE | dict(kind="alone", sparsity=0.9)],
    ids=lambda setting: setting["kind"],
)  # fmt: skip
def test_rows_are_complete_and_two_seeds_are_two_networks(setting, monkeypatch):
    monkeypatch.setattr(models, "pretrained", untrained)
    made = [rows.checked(row(setting, seed)) for seed in (0, 1)]
    assert made[0]["baseline_loss"] != made[1]["baseline_loss"]
    for line in rows.flat(made):
        assert line["nonzeros"] <= line["parameters"]
        if "rate" in line:
            assert line["parameters"] / line["nonzeros"] == pytest.approx(line["rate"], rel=0.1)


def untrained(network: str, dataset: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return models.build(network).eval()


def test_every_setting_has_a_name_of_its_own_and_an_unknown_kind_is_refused():
    for scale in ("smoke", "lesson", "paper"):
        names = [setting["name"] for setting in runs.grid(scale)]
        assert len(set(names)) == len(names) and {setting["kind"] for setting in runs.grid(scale)} <= set(runs.KINDS)
    with pytest.raises(ValueError, match="kind is 'curve'; known are lr"):
        runs.run(dict(kind="curve"), seed=0, scale="smoke", device="cpu")


TOY = pd.DataFrame(
    [
        dict(seed=seed, method=method, rate=rate, accuracy=97 + seed / 10 - (method == "worse") * (seed + 1) - rate)
        for seed in (0, 1, 2) for method in ("good", "worse") for rate in (1, 2)
    ]
)  # fmt: skip


def test_differences_are_paired_by_network_whatever_the_order_of_the_rows():
    expected = [1.0, 2.0, 3.0]  # the networks differ by more than the arms
    for order in range(5):
        shuffled = TOY.sample(frac=1, random_state=order)
        assert lesson.paired(shuffled, dict(method="good"), dict(method="worse")) == pytest.approx(expected)
        assert lesson.paired(shuffled, dict(method="good", rate=1), dict(method="good", rate=2)) == pytest.approx([1, 1, 1])
        assert lesson.paired(shuffled, dict(method="good", rate=[1, 2]), dict(method="worse", rate=[1, 2])) == pytest.approx(
            expected
        )
    assert evidence.verdict(lesson.paired(TOY, dict(method="good"), dict(method="worse"))).networks == 3


@pytest.mark.parametrize("lost", [dict(seed=1, method="worse"), dict(seed=2, method="good")])
def test_a_network_that_only_one_arm_has_is_refused(lost):
    less = TOY[~((TOY.seed == lost["seed"]) & (TOY.method == lost["method"]))]
    with pytest.raises(ValueError, match="networks"):
        lesson.paired(less, dict(method="good"), dict(method="worse"))


def test_a_claim_compares_with_the_dense_network_or_with_the_other_arm():
    table = TOY.assign(baseline=TOY.accuracy + [0.5, 0.3, 0.4] * 4, epochs=TOY.rate * 3)
    alone = lesson.claim(table, "c", "m", dict(method="good", rate=1), None, evidence.no_worse)
    assert alone.epochs == "3 and 0" and alone.evidence.label == "does not hold here"
    assert alone.evidence.mean == pytest.approx(
        -(table.baseline - table.accuracy)[(TOY.method == "good") & (TOY.rate == 1)].mean()
    )
    both = lesson.claim(table, "c", "m", dict(method="good"), dict(method="worse", rate=2))
    assert both.epochs == "3 to 6 and 6" and both.evidence.mean == pytest.approx(2.5)
    assert both.here == "4.40 and 6.90 % error"
