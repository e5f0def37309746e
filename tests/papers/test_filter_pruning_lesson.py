"""What notebook 04 shows beside its cells: zeros, times, the three complaints, the tournament, drawings."""

import platform

import numpy as np
import pytest
import torch

from course_lib import cost, data, models, surgery
from course_lib.drawings import filter_pruning as drawings
from course_lib.lessons import filter_pruning as lesson
from course_lib.notebook.tries import Measured
from course_lib.papers import filter_pruning as paper
from course_lib.play import filter_pruning as play
from course_lib.training import evaluate

IMAGE = models.example_input("vgg-small")


@pytest.fixture(scope="module")
def vgg() -> torch.nn.Module:
    return models.pretrained("vgg-small", "mnist-m")


def test_three_of_four_weights_of_each_layer_are_zero(vgg):
    zeros = lesson.with_zeros(vgg, 0.75)
    for name, module in vgg.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            weight = zeros.get_submodule(name).weight
            assert (weight == 0).float().mean().item() == pytest.approx(0.75, abs=1e-3)
            assert module.weight.abs()[weight == 0].max() <= weight[weight != 0].abs().min()


def test_the_three_complaints_are_measured_in_another_process(vgg):
    narrow = surgery.narrow(vgg, {"conv5": range(64)}, IMAGE)
    table = lesson.complaints(vgg, narrow, dict(dense=(1.0, 20.0), narrow=(1.0, 10.0)))
    assert float(table.iloc[2, 2].removeprefix("yes, the sum of its scores differs by ")) < 1e-4
    assert table.iloc[1, 1:].tolist() == ["20 ms", "10 ms"]


def test_costs_are_those_of_each_network(vgg):
    test = data.load("mnist-m").test.take(50)
    narrow = surgery.narrow(vgg, {"conv5": range(64)}, IMAGE)
    times = lesson.latencies(dict(dense=vgg, narrow=narrow), test.images[:4], turns=1, seconds=0.001)
    table = lesson.costs(dict(dense=vgg, narrow=narrow), test, times).set_index("network")
    assert table.loc["dense", "parameters"] == "288,746"
    assert table.loc["narrow", "test accuracy"] == f"{100 * evaluate(narrow, test):.2f} %"
    assert table.loc["narrow", "MACs"] == f"{cost.count(narrow, IMAGE).MACs.sum() / 1e6:.1f} M"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc's malloc to keep memory")
def test_a_timed_pass_fetches_no_memory_anew(vgg):
    import resource  # Unix only

    images = data.load("mnist-m").test.take(128).images
    lesson.latencies(dict(dense=vgg), images, turns=1, seconds=0.001)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with torch.inference_mode():
        vgg(images)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 4_096  # of the 4,096 pages of a map of conv1


def test_the_papers_results_and_plans_name_the_same_networks():
    results, plans = lesson.paper_results().set_index("plan"), lesson.paper_plans()
    assert list(results.index) == plans.plan.tolist()
    assert results.loc["ResNet-56-B"].tolist() == ["6.96 -> 6.94", "8.69", "27.6 %", "13.7 %"]
    assert results.loc["ResNet-34-A, ImageNet", "fewer parameters"] == "-"


def test_fewer_images_are_trained_and_tested_on():
    splits = lesson.fewer(data.load("mnist-m"), 20)
    assert len(splits.train.labels) == len(splits.test.labels) == 20 and len(splits.validation.labels) > 20


def test_the_tournament_by_hand():
    network, _, test = lesson.arena()
    kept = network.conv6.weight.detach().abs().sum((1, 2, 3)).topk(64).indices
    gone = torch.ones(128, dtype=torch.bool).index_fill(0, kept, False)
    silent = models.pretrained("vgg-small", "mnist-m")
    for parameter in (silent.norm6.weight, silent.norm6.bias):
        parameter.data[gone] = 0
    left, lost = lesson.tournament(dict(conv6=0.5), "test")
    assert lost == pytest.approx(100 * (evaluate(network, test) - evaluate(silent, test)))
    by_layer = cost.count(network, IMAGE).MACs
    assert left == pytest.approx(1 - (by_layer["conv6"] + by_layer["fc"]) / 2 / by_layer.sum())
    assert lesson.tournament(lesson.EVERY_LAYER)[0] < 0.75


@pytest.mark.parametrize(("layer", "label"), [("conv6", "10 outputs"), ("conv5", "128 filters")])
def test_the_panel_names_the_rows_of_the_layer_that_reads(layer, label, vgg):
    now = Measured(100, 100, "", dict(layer=layer, removed=[0]), "smallest")
    fig = play.draw(play.kernels(vgg, [layer], IMAGE), now, None)
    assert label in [ax.get_ylabel() for ax in fig.axes]


def test_the_drawing_tells_greedy_from_independent():
    sums = drawings.HERE.sum(1)
    assert sums.argmin() == drawings.SMALLEST and len(set(sums)) == len(sums)
    left = np.delete(drawings.NEXT, drawings.SMALLEST, axis=1)
    norms = paper.greedy_norms(torch.from_numpy(drawings.NEXT).double(), [drawings.SMALLEST])
    assert norms.tolist() == left.sum(1).tolist()
    assert left.sum(1).argmin() != drawings.NEXT.sum(1).argmin()
