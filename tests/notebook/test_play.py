"""The panels of the notebooks: each is built at smoke scale and played with."""

import copy
import itertools
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from course_lib import data, least_squares, machine, models, storage
from course_lib.challenge import rewriting
from course_lib.experiments import channel_choices, channel_sets, currencies, runner, tails
from course_lib.experiments import deep_compression as deep_compression_runs
from course_lib.lessons import smallest_file as smallest_lesson
from course_lib.notebook import plots
from course_lib.notebook.panels import Panel
from course_lib.notebook.tries import Measured
from course_lib.papers import channel_pruning as lasso_paper
from course_lib.papers import deep_compression as deep_compression_paper
from course_lib.papers import filter_pruning as filters_paper
from course_lib.papers import network_trimming as trimming_paper
from course_lib.papers import weight_pruning as weights_paper
from course_lib.play import (
    channel_pruning,
    comparison,
    deep_compression,
    filter_pruning,
    network_trimming,
    smallest_file,
    thinet,
    vector_quantization,
    weight_pruning,
    why_compress,
)
from course_lib.surgery import narrow
from course_lib.training import evaluate

ROOF = machine.Roof(rate=10e9, bandwidth=4e9)  # ridge 2.5


def digits(count: int = 100) -> data.Split:
    return data.load("mnist").validation.take(count)


def colours(count: int = 50) -> data.Split:
    return data.load("cifar10").validation.take(count)


def network(name: str) -> torch.nn.Module:
    return models.pretrained(name, data.load("mnist" if name.startswith("lenet") else "cifar10").name)


def roofline() -> Panel:
    layers = {}
    with torch.device("meta"):
        layers["lenet-5"] = machine.traffic(models.build("lenet-5"), torch.empty(1, 1, 28, 28))
        layers["VGG-16"] = machine.traffic(models.build("vgg-16").eval(), torch.empty(1, 3, 32, 32))
    return why_compress.panel(ROOF, layers)


def trimming() -> Panel:
    model = network("lenet-5-relu")
    return network_trimming.panel(model, digits(), trimming_paper.apoz(model, digits(), ["conv2", "fc1"]))


def coded() -> Panel:
    plan = deep_compression_runs.SETTINGS["lenet-300-100"]["small"]["plan"]
    pruned = deep_compression_runs.pruned_start("lenet-300-100", data.load("mnist"), plan)
    return deep_compression.panel(pruned, digits())


def lasso() -> Panel:
    model = network("vgg-small")
    return channel_pruning.panel(model, channel_choices.layers_of(model, ["conv3", "conv4"], colours(40).images, positions=20))


def recorded() -> Panel:
    found = runner.recorded("comparison", "lesson")
    return comparison.panel(currencies.prices(found, currencies.recorded_times(found)))


def finished() -> Panel:
    return smallest_file.panel(storage.load(smallest_lesson.FILE), digits())


class Case(NamedTuple):
    build: Callable[[], Panel]
    moves: list[dict]  # one after the other; each leads to a setting that was not there before
    evaluated: str | None = None  # what must be called once for each setting


CASES = {
    "00": Case(roofline, [dict(bits=4), dict(batch=64), dict(network="lenet-5")], "course_lib.machine.intensity"),
    "01": Case(
        lambda: vector_quantization.panel(network("lenet-300-100"), digits()),
        [dict(bits=2), dict(length=4), dict(method="scalar")],
        "course_lib.play.vector_quantization.evaluate",
    ),
    "02": Case(
        lambda: weight_pruning.panel(network("lenet-300-100"), digits()),
        [dict(fc1=2.0), dict(fc3=0.0), dict(fc2=0.5)],
        "course_lib.play.weight_pruning.evaluate",
    ),
    "03": Case(
        trimming,
        [dict(conv2=60.0), dict(fc1=50.0), dict(side=network_trimming.ACTIVE)],
        "course_lib.experiments.tails.evaluate",
    ),
    "04": Case(
        lambda: filter_pruning.panel(network("vgg-small"), colours()),
        [dict(share=0.25), dict(order="largest"), dict(layer="conv1")],
        "course_lib.experiments.tails.evaluate",
    ),
    "05": Case(coded, [dict(bits=2), dict(coder="fixed"), dict(index_bits=8)]),
    "06": Case(
        lasso,
        [dict(penalty=0.3), dict(layer="conv3"), dict(way=channel_pruning.INVERTED)],
        "course_lib.least_squares.refit",
    ),
    "07": Case(
        lambda: thinet.panel(network("vgg-small"), colours().images, colours()),
        [dict(share=0.75), dict(criterion="L1"), dict(layer="conv2"), dict(criterion="random")],
        "course_lib.experiments.tails.evaluate",
    ),
    "08": Case(recorded, [dict(method="LASSO"), dict(when="retrained"), dict(currency="bytes of the file")]),
    "09": Case(finished, [dict(share=20), dict(coder="context"), dict(order=smallest_file.SHUFFLED)]),
}


def move(panel: Panel, values: dict) -> None:
    for name, value in values.items():
        panel.controls[name].value = value


@pytest.mark.parametrize("number", CASES)
def test_a_panel_answers_and_remembers(number, monkeypatch):
    plots.use_style()
    case, calls = CASES[number], []
    panel = case.build()
    if case.evaluated:
        module, _, function = case.evaluated.rpartition(".")
        real = getattr(__import__(module, fromlist=[function]), function)
        monkeypatch.setattr(case.evaluated, lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    draw, limits = panel.draw, []

    def watched(now: Measured, before: Measured | None) -> plt.Figure:
        fig = draw(now, before)
        limits.append([(ax.get_position().bounds, ax.get_xlim(), ax.get_ylim()) for ax in fig.axes])
        return fig

    monkeypatch.setattr(panel, "draw", watched)
    assert not panel.goal.met(panel._now)
    readouts = [panel.readout.value]
    for values in case.moves:
        move(panel, values)
        readouts.append(panel.readout.value)
    assert len(set(readouts)) == len(panel.tried) == len(case.moves) + 1
    assert all(isinstance(number, float) for number in (panel._now.size, panel._now.score))
    settings = [dict(zip(panel.controls, key, strict=True)) for key in panel.tried]
    move(panel, {name: value for name, value in settings[-2].items() if value is not None})  # the setting before, again
    assert panel.readout.value == readouts[-2] and len(panel.tried) == len(settings)
    assert len(calls) in (0, len(case.moves))
    layers = [setting.get("layer") for setting in [*settings[1:], settings[-2]]]
    assert all(one == limits[0] for one, layer in zip(limits, layers, strict=False) if layer == layers[0])
    assert all(control.description for control in panel.controls.values())


def test_the_roofline_panel_counts_the_layers_limited_by_memory_bandwidth():
    panel = roofline()
    move(panel, dict(network="lenet-5"))
    least = (288_000 + 1_600_000) / 10e9 + 4 * (400_000 + 1_300 + 5_000 + 510) / 4e9  # conv1 5.7 MACs per byte, conv2 13
    share = 4 * (400_000 + 1_300 + 5_000 + 510) / 4e9 / least
    assert "2 of 4 layers are limited by memory bandwidth. " in panel._now.readout
    assert f"An image takes at least {1e3 * least:.3g} ms, {share:.0%} of it in these layers" in panel._now.readout
    move(panel, dict(batch=256))
    assert "1 of 4" in panel._now.readout  # fc2: 5,000 / (4 * 510) is below 2.5 for any batch


def test_the_goal_of_the_roofline_is_the_smallest_batch_at_four_bits():
    roof, layers = machine.Roof(rate=8e9, bandwidth=4e9), roofline().measure.args[1]  # ridge 2
    goal, settings = why_compress.goal(roof, layers["VGG-16"]), [(b, w) for b in why_compress.BATCHES for w in why_compress.BITS]
    found = [why_compress.measure(roof, layers, dict(network="VGG-16", batch=b, bits=w)) for b, w in settings]
    # The last layer has 512 inputs and 10 outputs: 5,120 b / (5,120 bits / 8 + 4 * 522 b) is 1.88 at b = 4 and 2.13 at b = 8
    assert [setting for setting, one in zip(settings, found, strict=True) if goal.met(one)] == [(8, 4)]
    assert goal.words.endswith("with 4 or more bits per weight and as few images at a time as this machine allows")


def test_a_segment_does_not_apply_to_a_scalar_code():
    panel = vector_quantization.panel(network("lenet-300-100"), digits(20))
    move(panel, dict(method="scalar", bits=1))
    assert panel.controls["length"].disabled and panel._now.readout.startswith("1 bit for each weight: ")
    move(panel, dict(method="product", length=1))
    assert panel._now.readout.startswith("1 bit for each weight: ") and not panel.controls["length"].disabled


def test_the_threshold_panel_counts_what_is_left():
    model = network("lenet-300-100")
    before = copy.deepcopy(model.state_dict())
    panel = weight_pruning.panel(model, digits(20))
    move(panel, dict(fc2=0.0, fc3=0.0))
    kept = int(weights_paper.threshold_mask(model.fc1.weight, 1.0).sum()) + int((model.fc2.weight != 0).sum()) + 1_000
    assert panel._now.readout.startswith(f"{kept:,} of 266,200 weights kept") and panel._now.size == kept / 1000
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert sum(sum(share) for share in weight_pruning.histograms(model).values()) == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize("side", network_trimming.SIDES)
def test_the_trimming_panel_removes_as_many_neurons_from_either_side(side):
    shares = torch.tensor([0.1, 0.9, 0.5, 0.7])
    expected = {network_trimming.SILENT: [0, 2], network_trimming.ACTIVE: [1, 3]}[side]
    assert network_trimming.kept_by(shares, 60, side).tolist() == expected
    assert len(network_trimming.kept_by(shares, 0, side)) == 1


def test_the_filters_panel_counts_what_is_removed():
    model, split = network("vgg-small"), colours()
    panel = filter_pruning.panel(model, split)
    move(panel, dict(layer="conv6", share=0.25, order="largest"))
    assert panel._now.readout.startswith("conv6 without 32 of 128 filters: 6.1 % fewer MACs")  # conv6 has 9.4 of 38.6 M
    assert panel._now.detail["removed"] == list(range(32))
    kept = filters_paper.filter_norms(model.conv6.weight).argsort()[:96].sort().values
    assert panel._now.score == pytest.approx(100 * evaluate(narrow(model, {"conv6": kept}, split.images[:1]), split))


def test_a_tail_computes_what_the_whole_network_does():
    model, split = network("lenet-5-relu"), digits()
    kept = dict(conv2=torch.arange(0, 50, 2), fc1=torch.arange(100))
    narrower = narrow(model, kept, split.images[:1])
    assert tails.Tail(model, "conv2", split).accuracy(narrower, kept["conv2"]) == evaluate(narrower, split)


def test_the_file_panel_holds_the_file_that_is_written():
    panel = coded()
    move(panel, dict(bits=3, index_bits=6, coder="ans"))
    plan = deep_compression_runs.SETTINGS["lenet-300-100"]["small"]["plan"]
    pruned = deep_compression_runs.pruned_start("lenet-300-100", data.load("mnist"), plan)
    written = deep_compression_paper.compress(pruned, bits=3, index_bits=6, coder="ans")
    assert panel._now.size == deep_compression_runs.file_size(written) / 1000
    restored = copy.deepcopy(pruned)
    restored.load_state_dict(written.state_dict())
    assert panel._now.score == pytest.approx(100 * evaluate(restored, digits()))


def test_the_lasso_panel_keeps_what_the_penalty_leaves():
    model = network("vgg-small")
    layers = channel_choices.layers_of(model, ["conv3"], colours(40).images, positions=20)
    path, weight = channel_pruning.path_of(model, "conv3", layers["conv3"]), model.conv3.weight.detach().flatten(2)
    keep = channel_pruning.alive(path, 0.4)
    beta = [np.interp(0.4, path.penalties[::-1], column[::-1]) for column in path.betas.T.numpy()]
    assert keep == np.count_nonzero(beta) and channel_pruning.alive(path, 1.0) == 1
    assert channel_pruning.alive(path, 0.0) == len(beta)
    ways = channel_choices.ways_of_choosing(weight, layers["conv3"].seen, layers["conv3"].strongest, keep)
    for way in channel_pruning.WAYS:
        chosen = channel_pruning.kept_by(way, path, layers["conv3"].strongest, keep)
        assert sorted(chosen.tolist()) == sorted(torch.as_tensor(ways[way]).tolist())
    measured = channel_pruning.measure(layers, {"conv3": path}, dict(layer="conv3", penalty=0.4, way="LASSO"))
    kept = lasso_paper.choose(layers["conv3"].seen, weight, keep)
    share = least_squares.explained(layers["conv3"].unseen, least_squares.refit(layers["conv3"].seen, kept)[0])
    assert measured.score == pytest.approx(100 * share)


@pytest.mark.parametrize("criterion", channel_sets.CRITERIA)
def test_the_contributions_panel_keeps_what_the_criterion_does(criterion):
    model, images = network("vgg-small"), colours(20).images
    layer = thinet.layers_of(model, ["conv2"], images, colours(20))["conv2"]
    kept = thinet.kept_by(criterion, model, "conv2", layer, 16, images)
    assert kept.tolist() == channel_sets.kept_by(criterion, model, "conv2", 16, images).tolist()
    measured = thinet.measure(
        model, {"conv2": layer}, images, (90.0, 38_600_000), dict(layer="conv2", share=0.5, criterion=criterion)
    )
    pruned = channel_sets.without(criterion, model, "conv2", kept, images)
    assert measured.score == pytest.approx(100 * evaluate(pruned, colours(20)))


def test_the_comparison_panel_says_where_there_are_no_rows():
    kinds = {"L1": "filters", "random": "filters", "dense": "dense", "scratch-E": "scratch"}
    rows = dict(
        network="vgg-small", rate=2.0, counted="MACs", method=list(kinds), kind=list(kinds.values()), baseline=91.0,
        lost=[1.0, 2.0, 0.0, 0.5], lost_at_once=[None, 70.0, None, None],
    )  # fmt: skip
    rows |= {name: [2.0, 2.0, 1.0, 2.0] for name in currencies.CURRENCIES}
    panel = comparison.panel(pd.DataFrame(rows).assign(lost_at_once=lambda table: table.lost_at_once.astype(float)))
    assert panel._now.readout == "There are no rows of L1 for vgg-small, 2x fewer MACs, not retrained."
    assert "<circle" not in panel.memory.svg(panel.tried.values(), panel._now) and panel.controls["currency"].disabled
    move(panel, dict(when="retrained"))
    assert not panel.controls["currency"].disabled
    assert "90.00 % test accuracy, the very best of 2 methods; MACs: 50 % left." in panel._now.readout
    assert set(panel.controls["method"].options) == {"L1", "random"}, "controls take no part in the ranking"


def test_the_goal_of_the_comparison_is_reached_by_some_criteria_and_not_by_chance():
    found = runner.recorded("comparison")
    priced = currencies.prices(found, currencies.recorded_times(found))
    every = dict(when="retrained", currency=comparison.TIME)
    met = {
        (shape, method)
        for shape in comparison.shapes(priced) for method in priced.method.unique()
        if comparison.goal().met(comparison.measure(priced, every | dict(shape=shape, method=method)))
    }  # fmt: skip
    assert {shape for shape, _ in met} == {"vgg-small, 4x fewer MACs"}
    assert "L1" in {method for _, method in met} and "random" not in {method for _, method in met}


def test_each_setting_of_the_comparison_panel_reads_otherwise():
    panel, readouts = recorded(), {}
    names, options = list(panel.controls), [control.options for control in panel.controls.values()]
    for values in itertools.product(*options):
        setting = dict(zip(names, values, strict=True))
        setting |= dict.fromkeys(panel.idle(setting))
        readouts[tuple(setting.values())] = panel.measure(setting).readout
    assert len(set(readouts.values())) == len(readouts) > 50


def test_the_smallest_file_is_the_same_network_in_any_order_and_loses_what_matters_least():
    file, images = storage.load(smallest_lesson.FILE), digits(20).images
    expected = rewriting.rebuilt(file)(images)
    for other in (smallest_file.shuffled(file), smallest_file.shuffled(file, seed=1)):
        torch.testing.assert_close(rewriting.rebuilt(other)(images), expected, atol=1e-2, rtol=1e-4)  # sums in another order
        assert not torch.equal(rewriting.levels(other, "fc1"), rewriting.levels(file, "fc1"))
    scores, whole = smallest_file.importance(file, images), rewriting.levels(file, "fc1")
    fewer = rewriting.levels(smallest_file.without(file, scores, 30), "fc1")
    gone = (fewer == 0) & (whole != 0)
    assert int(gone.sum()) == round(0.3 * int((whole != 0).sum())) and scores[gone].max() <= scores[fewer != 0].min()
    with pytest.raises(ValueError, match=r"weights has 'fc9' of shape \(2, 2\); allowed are conv1 \(8, 1, 5, 5\)"):
        rewriting.with_levels(file, {"fc9": torch.zeros(2, 2)})
