"""The roofline against counts by hand, a made-up /sys, and functions whose time is known."""

import time

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_lib import machine, models

META = torch.device("meta")


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(128, 5))


def cache(folder, index, level, kind, size):
    (folder / index).mkdir()
    for name, content in dict(level=level, type=kind, size=size).items():
        (folder / index / name).write_text(f"{content}\n")


def test_caches_are_read_from_what_linux_writes(tmp_path):
    cache(tmp_path, "index0", "1", "Data", "48K")
    cache(tmp_path, "index1", "1", "Instruction", "32K")
    cache(tmp_path, "index2", "2", "Unified", "2M")
    cache(tmp_path, "index3", "3", "Unified", "32768K")
    assert machine.cache_sizes(tmp_path) == {"L1": 48 * 1024, "L2": 2 * 1024**2, "L3": 32 * 1024**2}


def test_what_is_hidden_or_odd_is_left_out(tmp_path):
    assert machine.cache_sizes(tmp_path / "nowhere") == {}
    cache(tmp_path, "index0", "1", "Data", "")
    cache(tmp_path, "index1", "2", "Unified", "many")
    (tmp_path / "index2").mkdir()
    cache(tmp_path, "index3", "3", "Unified", "8192K")
    assert machine.cache_sizes(tmp_path) == {"L3": 8 * 1024**2}


def test_traffic_of_a_small_network_by_hand(network):
    table = machine.traffic(network, torch.zeros(1, 3, 6, 6))
    assert table.index.tolist() == ["0", "2", "4"]
    assert table.kind.tolist() == ["convolution", "convolution", "dense"]
    assert table.weights.tolist() == [4 * 3 * 9, 8 * 2 * 9, 128 * 5]
    assert table.inputs.tolist() == [3 * 36, 4 * 36, 128]
    assert table.outputs.tolist() == [4 * 36, 8 * 16, 5]
    assert table.MACs.tolist() == [36 * 4 * 27, 16 * 8 * 18, 640]


def test_on_the_meta_device_the_table_is_the_same_and_nothing_is_stored(network):
    real = machine.traffic(network, torch.zeros(1, 3, 6, 6))
    there = network.to(META)
    pd.testing.assert_frame_equal(machine.traffic(there, torch.empty(1, 3, 6, 6, device=META)), real)
    assert all(parameter.is_meta for parameter in there.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),  # Luo et al. 2017 count 2 FLOPs a MAC; torchvision's ResNet-50 strides in its 3x3 layers
    [("vgg16", 138.34e6, 30.94e9 / 2), ("resnet50", 25.56e6, 4.09e9), ("alexnet", 61.1e6, 0.714e9)],
)
def test_networks_of_torchvision_have_the_published_sizes(name, parameters, macs):
    from torchvision.models import get_model

    with META:
        network, image = get_model(name).eval(), torch.empty(2, 3, 224, 224)
    table = machine.traffic(network, image)
    assert table.MACs.sum() == pytest.approx(macs, rel=2e-3)
    assert table.weights.sum() == pytest.approx(parameters, rel=5e-3)  # without biases and norms


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 64), st.sampled_from([1, 4, 8, 32]))
def test_intensity_of_a_dense_layer_by_its_formula(n, c, batch, bits):
    with META:
        table = machine.traffic(nn.Linear(c, n), torch.empty(1, c))
    expected = batch * n * c / (n * c * bits / 8 + 4 * batch * (n + c))
    assert machine.intensity(table, batch, bits).item() == pytest.approx(expected)


@given(st.floats(1e6, 1e12), st.floats(1e6, 1e12), st.floats(1e-3, 1e4))
def test_a_roof_is_the_lower_of_two_limits(rate, bandwidth, intensity):
    roof = machine.Roof(rate, bandwidth)
    time_of_a_mac = max(1 / rate, 1 / (intensity * bandwidth))
    assert roof.reachable(intensity) == pytest.approx(1 / time_of_a_mac)
    assert (roof.reachable(intensity) == rate) == (intensity * bandwidth >= rate)
    assert roof.ridge * bandwidth == pytest.approx(rate)


@given(st.lists(st.floats(1e-7, 10), min_size=2, max_size=2), st.floats(1e6, 1e12), st.floats(1e6, 1e12))
def test_no_measured_time_lies_below_a_raised_roof(seconds, rate, bandwidth):
    with META:
        table = machine.traffic(nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 5)), torch.empty(1, 30))
    took = pd.Series(seconds, index=table.index)
    roof = machine.Roof(rate, bandwidth).raised(table, took)
    assert (took >= machine.least_seconds(table, roof) * (1 - 1e-9)).all()
    assert roof.rate >= rate and roof.bandwidth >= bandwidth
    assert machine.Roof(1e30, 1e30).raised(table, took) == (1e30, 1e30)


def test_the_least_time_of_a_layer_is_the_longer_of_computing_and_moving_bytes():
    with META:
        table = machine.traffic(nn.Linear(4096, 4096, bias=False), torch.empty(1, 4096))
    roof = machine.Roof(50e9, 25e9)
    moved = {1: 4 * (4096**2 + 8192), 64: 4 * (4096**2 + 64 * 8192)}
    assert machine.least_seconds(table, roof).item() == pytest.approx(moved[1] / 25e9)
    assert machine.least_seconds(table, roof, batch=64).item() == pytest.approx(64 * 4096**2 / 50e9)
    assert machine.least_seconds(table, roof, bits=4).item() == pytest.approx((moved[1] - 3.5 * 4096**2) / 25e9)


def test_the_other_data_of_a_large_cache_stays_within_bounds(monkeypatch):
    for cache_size, expected in ((0, 2**26), (2**27, 2**28), (2**29, 2**29)):
        monkeypatch.setattr(machine, "cache_sizes", lambda size=cache_size: {"L3": size})
        monkeypatch.setattr(torch, "ones", lambda count: count)
        assert machine._other_data() == expected // 4
        monkeypatch.undo()


def test_the_best_time_is_the_shortest():
    pauses = iter([0.2, 0.03, 0.01, 0.03] + [0.02] * 1000)  # the first warms up
    assert 0.01 <= machine.best_seconds(lambda: time.sleep(next(pauses)), seconds=0.05, threads=2) < 0.02


def test_on_one_thread_waiting_is_not_counted_and_work_is(monkeypatch):
    monkeypatch.setattr(machine, "FINE", True)

    def work():
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass
        time.sleep(0.05)

    assert 0.01 <= machine.best_seconds(work, seconds=0.01) < 0.05
    monkeypatch.setattr(machine, "FINE", False)
    assert machine.best_seconds(work, seconds=0.01) >= 0.05


def test_threads_are_those_asked_for_and_then_as_before():
    before, seen = torch.get_num_threads(), []
    machine.best_seconds(lambda: seen.append(torch.get_num_threads()), threads=before + 1, seconds=0.001)
    assert set(seen) == {before + 1} and torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        machine.best_seconds(lambda: 1 / 0, threads=before + 1)
    assert torch.get_num_threads() == before


def test_cold_fills_the_caches_before_each_repeat_outside_the_time(monkeypatch):
    calls = []

    class Other:
        def sum(self):
            calls.append("other")
            time.sleep(0.05)

    monkeypatch.setattr(machine, "FINE", False)
    monkeypatch.setattr(machine, "_other_data", Other)
    assert machine.best_seconds(lambda: calls.append("run"), seconds=1e-9, cold=True) < 0.05
    assert calls == ["run"] + ["other", "run"] * 3


def test_rates_divide_work_by_time(monkeypatch):
    monkeypatch.setattr(machine, "best_seconds", lambda run, **timing: run() is None or 2.0)
    assert machine.multiply_rate(10) == 500
    assert machine.read_rate(2**22) == 2**21
    assert machine.read_rate(2**16) == 16 * 2**15  # sixteen times in one measurement
    assert machine.weights_rate(50) == 4 * 50**2 / 2
    assert machine.call_seconds() == 2.0


def test_this_machine_has_a_roof_and_no_layer_is_far_above_it():
    roof = machine.roof(seconds=0.05)
    assert 1e8 < roof.rate < 1e14 and 1e8 < roof.bandwidth < 1e13
    with META:
        layer, image = nn.Sequential(nn.Linear(2048, 2048)), torch.empty(1, 2048)
    seconds = machine.layer_seconds(layer, image, ["0"], batch=3, seconds=0.05)["0"]
    table = machine.traffic(layer, image)
    assert 3 * table.MACs["0"] / seconds < 5 * roof.reachable(machine.intensity(table, 3)["0"])
    assert layer[0].weight.is_meta


def test_a_layer_is_measured_on_a_batch_of_its_shape(network, monkeypatch):
    shapes = []
    monkeypatch.setattr(machine, "best_seconds", lambda run, **timing: shapes.append(tuple(run().shape)) or 1.0)
    machine.layer_seconds(network.to(META), torch.empty(1, 3, 6, 6, device=META), ["2", "4"], batch=7)
    assert shapes == [(7, 8, 4, 4), (7, 5)]


def test_a_layer_is_measured_in_the_layout_asked_for(network, monkeypatch):
    together = []
    image = torch.empty(1, 3, 6, 6, device=META)
    monkeypatch.setattr(
        machine,
        "best_seconds",
        lambda run, **timing: together.append(run().is_contiguous(memory_format=torch.channels_last)) or 1,
    )
    for layout in (torch.contiguous_format, torch.channels_last):
        machine.layer_seconds(network.to(META), image, ["0"], layout=layout)
    assert together == [False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: machine.best_seconds(list, threads=0), "threads is 0"),
        (lambda net: machine.multiply_rate(0), "size is 0"),
        (lambda net: machine.read_rate(3), "size is 3; allowed are 4"),
        (lambda net: machine.weights_rate(0), "side is 0"),
        (lambda net: machine.traffic(nn.ReLU(), torch.zeros(1, 2)), "ReLU without dense"),
        (lambda net: machine.traffic(net, torch.zeros(0, 3, 6, 6)), r"shape \(0, 3, 6, 6\)"),
        (lambda net: machine.intensity(machine.traffic(net, torch.zeros(1, 3, 6, 6)), batch=0), "batch is 0"),
        (lambda net: machine.layer_seconds(net, torch.zeros(1, 3, 6, 6), ["fc9"]), "names has 'fc9'.* 0, 2, 4"),
    ],
)
def test_bad_input_is_named(call, message, network):
    with pytest.raises(ValueError, match=message):
        call(network)


def test_counts_of_the_course_s_networks_do_not_need_weights():
    with META:
        table = machine.traffic(models.build("lenet-5"), torch.empty(1, 1, 28, 28))
    assert table.weights.sum() == 430_500 and table.MACs.sum() == 2_293_000
