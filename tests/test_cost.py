"""Costs against counts by hand, SciPy's sparse matrices, and the file itself."""

import copy
import time

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

from course_lib import cost, masks, models
from course_lib.papers import weight_pruning

MACS = {
    "lenet-5": {"conv1": 20 * 25 * 24 * 24, "conv2": 50 * 20 * 25 * 8 * 8, "fc1": 800 * 500, "fc2": 500 * 10},
    "lenet-300-100": {"fc1": 784 * 300, "fc2": 300 * 100, "fc3": 100 * 10},
}


@pytest.fixture
def pruned() -> nn.Module:
    torch.manual_seed(0)
    model = models.build("lenet-5")
    masks.apply(model, weight_pruning.magnitude_masks(model, dict(conv1=0.3, conv2=0.9, fc1=0.95)))
    return model


@pytest.mark.parametrize("name", MACS)
@pytest.mark.parametrize("batch", [1, 3])
def test_macs_are_those_counted_by_hand_for_one_image(name, batch):
    report = cost.report(models.build(name), models.example_input(name, batch))
    assert {layer: report.layers.MACs[layer] for layer in MACS[name]} == MACS[name]
    assert report.totals()["MACs"] == sum(MACS[name].values())


@pytest.mark.parametrize(("name", "published"), [("vgg-16", 3.13e8), ("resnet-56", 1.25e8)])
def test_macs_of_the_large_networks_are_the_papers(name, published):
    """Li et al. 2017, table 1."""
    assert cost.count(models.build(name).eval(), models.example_input(name)).MACs.sum() == pytest.approx(published, rel=0.01)


def test_on_the_meta_device_no_weight_counts_as_zero():
    real = models.build("vgg-small").eval()
    for parameter in real.parameters():
        parameter.data.fill_(1.0)
    with torch.device("meta"):
        counts = cost.count(models.build("vgg-small").eval(), torch.empty(1, 3, 32, 32))
    pd.testing.assert_frame_equal(counts, cost.count(real, models.example_input("vgg-small")))


def test_counts_of_a_pruned_network_by_hand(pruned):
    totals = cost.report(pruned, models.example_input("lenet-5")).totals()
    kept = {"conv1": 350, "conv2": 2_500, "fc1": 20_000, "fc2": 5_000}
    biases = 20 + 50 + 500 + 10
    assert totals["parameters"] == 431_080
    assert totals["nonzero parameters"] == sum(kept.values()) + biases
    macs = 288_000 * 0.7 + 1_600_000 * 0.1 + 400_000 * 0.05 + 5_000
    assert totals["MACs with nonzero weights"] == pytest.approx(macs)
    compute = macs * (3.7 + 0.9)
    assert totals["energy, weights in DRAM"] == pytest.approx(((sum(kept.values()) + biases) * 640 + compute) * 1e-12)
    assert totals["energy, weights in SRAM"] == pytest.approx(((sum(kept.values()) + biases) * 5 + compute) * 1e-12)


def test_sparse_bytes_are_those_of_scipy_and_of_the_file(pruned):
    report = cost.report(pruned, models.example_input("lenet-5"))
    expected = 0
    for parameter in pruned.parameters():
        matrix = parameter.detach().numpy().reshape(len(parameter), -1)
        sparse = csr_matrix(matrix)
        parts = (sparse.data, sparse.indices.astype(np.int32), sparse.indptr.astype(np.int32))
        expected += min(matrix.nbytes, sum(part.nbytes for part in parts))
    assert report.bytes_sparse == expected
    assert expected < report.bytes_on_disk < expected + 2_000  # the header
    assert report.bytes_sparse < report.bytes_dense / 5


def test_a_dense_network_is_never_stored_sparse():
    report = cost.report(models.build("lenet-300-100"), models.example_input("lenet-300-100"))
    assert report.bytes_sparse == report.bytes_dense == 4 * 266_610


def test_the_network_is_left_as_it_was(pruned):
    pruned.train()
    pruned.relu1.eval()
    before = copy.deepcopy(pruned.state_dict())
    cost.report(pruned, models.example_input("lenet-5"))
    assert pruned.training and not pruned.relu1.training and pruned.conv1.training
    assert all(torch.equal(before[name], value) for name, value in pruned.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pruned.modules())


def test_counting_and_measuring_leave_the_statistics_of_a_network_in_training():
    model = models.build("vgg-small").train()
    before = copy.deepcopy(model.state_dict())
    example = models.example_input("vgg-small")  # one image: batch norm in training mode would refuse it
    assert cost.count(model, example).MACs.sum() == cost.count(copy.deepcopy(model).eval(), example).MACs.sum()
    assert cost.measure(model, example, seconds=0.01) > 0
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_latency_of_a_network_that_sleeps():
    class Sleeps(nn.Module):
        def forward(self, x):
            time.sleep(0.02)
            return x

    assert 0.02 <= cost.measure(Sleeps(), torch.zeros(1, 1), seconds=0.1) < 0.06


def test_against_a_baseline_the_table_shows_ratios(pruned):
    example = models.example_input("lenet-5")
    dense = cost.report(models.build("lenet-5"), example)
    report = cost.report(pruned, example, baseline=dense)
    table = report.frame().set_index("quantity")
    ratio = (431_080) / (350 + 2_500 + 20_000 + 5_000 + 580)
    assert table.ratio["nonzero parameters"] == f"{ratio:.2f}x"
    assert table.ratio["MACs"] == "1.00x"
    assert report.speedup == dense.latency / report.latency
    assert "nonzero parameters" in str(report) and "<table" in report._repr_html_()
    with pytest.raises(ValueError, match="no baseline"):
        _ = dense.speedup


def test_batch_norm_counts_as_biases_and_norms():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    layers = cost.report(model, torch.zeros(1, 3, 3, 3)).layers
    assert layers.weights["biases and norms"] == 4 + 4 + 2
    assert layers.MACs.to_dict() == {"0": 108, "3": 8, "biases and norms": 0}


@pytest.mark.parametrize("bad", ["images", torch.zeros(0, 1, 28, 28), torch.tensor(1.0)])
def test_inputs_that_are_no_batch_are_refused(bad):
    with pytest.raises(ValueError, match="example_input is"):
        cost.report(models.build("lenet-5"), bad)
    dense = cost.report(models.build("lenet-300-100"), torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match="measured with 2"):
        cost.report(models.build("lenet-300-100"), torch.zeros(1, 1, 28, 28), baseline=dense)


@pytest.mark.parametrize("name", ["resnet-20", "lenet-5", "mobilenet_v2", "a 1-d convolution, called twice"])
def test_macs_are_those_of_torchs_flop_counter(name):
    """torch counts in its dispatcher, two operations a MAC; ours come from the shapes of outputs and filters."""
    import torchvision
    from torch.utils.flop_counter import FlopCounterMode

    if name in models.NETWORKS:
        model, images = models.build(name).eval(), models.example_input(name, 2)
    elif name == "mobilenet_v2":  # grouped convolutions
        model, images = torchvision.models.mobilenet_v2(weights=None).eval(), torch.randn(2, 3, 64, 64)
    else:
        layer = nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=2)
        model, images = nn.Sequential(layer, nn.ReLU(), layer, nn.Flatten(), nn.Linear(36, 3)), torch.randn(2, 4, 9)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    assert cost.count(model, images).MACs.sum() * 2 * len(images) == counter.get_total_flops()
