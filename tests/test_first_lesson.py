"""What notebook 00 shows beside its cells: counts against the papers, and what its tables say of made-up times."""

import pandas as pd
import pytest
import torch
from torch import nn

from course_lib import data, machine, notebook
from course_lib.lessons import why_compress_measured as measured
from course_lib.lessons import why_compress_quoted as quoted


@pytest.fixture(scope="module")
def layers() -> dict[str, pd.DataFrame]:
    nets, images = measured.networks()
    nets[quoted.ORIGINAL] = measured.original_resnet(nets["ResNet-50"])
    images[quoted.ORIGINAL] = images["ResNet-50"]
    return {name: machine.traffic(net, images[name]) for name, net in nets.items()}


def test_vgg_has_the_papers_names_and_sizes(layers):
    vgg = layers["VGG-16"]
    assert vgg.index.tolist() == measured.VGG_NAMES and len(vgg) == 16
    assert vgg.weights["fc6"] == 25_088 * 4_096 and vgg.MACs["conv5_3"] == 512 * 512 * 9 * 196
    assert 2 * vgg.MACs.sum() == pytest.approx(30.94e9, rel=1e-3)  # Luo et al. 2017


def test_claims_follow_from_what_they_are_given(layers, monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "lesson")
    shares = pd.DataFrame({"weights": 0.6, "and maps": 0.7}, index=list(layers))
    assert [claim.evidence for claim in quoted.paper_claims(layers, shares, 12.8)] == [*[True] * 4, False, *[True] * 3]
    assert not quoted.paper_claims(layers, shares, 5.0)[1].evidence
    memory = {low: quoted.paper_claims(layers, shares - low, 12.8)[0] for low in (0.0, 0.15, 0.25)}
    assert [claim.line()["verdict"] for claim in memory.values()] == ["holds", "undecided here", "does not hold here"]
    assert memory[0.15].here == "45% to 55%"


def test_the_original_resnet_has_its_strides_in_the_first_convolution(layers):
    original, torchvision = layers[quoted.ORIGINAL], layers["ResNet-50"]
    assert 2 * original.MACs.sum() == pytest.approx(7.72e9, rel=1e-3)  # Luo et al. 2017
    assert (original.weights == torchvision.weights).all() and 2 * torchvision.MACs.sum() == pytest.approx(8.18e9, rel=1e-3)


def test_the_model_gains_the_batch_on_the_slope_and_nothing_on_the_flat_part(layers):
    gains = measured.model_gains(layers["VGG-16"], machine.Roof(50e9, 25e9), ["fc7", "conv5_3"], (1, 4, 1000))
    assert gains["fc7"][:2] == [1, pytest.approx(4, rel=0.01)] and gains["conv5_3"] == [1, 1, 1]
    assert gains["fc7"][2] == pytest.approx(2 / 0.25, rel=0.01)  # from its intensity to the ridge


def test_the_courses_codebook_has_a_smaller_error_than_the_even_one():
    weight = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    errors = []
    for way in (measured.clustered_codebook, measured.even_codebook):
        codes, codebook = way(weight, 2)
        assert codes.shape == weight.shape and len(codebook) == 4
        errors.append(float((codebook[codes.long()] - weight).square().mean()))
    assert errors[0] < errors[1]


def test_a_layer_at_the_roof_is_once_the_roof(layers):
    vgg, roof = layers["VGG-16"], machine.Roof(50e9, 25e9)
    took = 2 * machine.least_seconds(vgg, roof).loc[["fc7", "conv5_3"]]
    table = measured.layer_table(vgg, roof, took)
    assert table["one image"].tolist() == ["fc7", "conv5_3"] and table["times the roof"].tolist() == [2, 2]
    points = measured.placed(vgg, took)
    assert points.rate["fc7"] == pytest.approx(roof.reachable(points.intensity["fc7"]) / 2)


def test_whole_networks_are_timed_where_asked(layers, monkeypatch):
    monkeypatch.setattr(machine, "best_seconds", lambda run, **timing: float(run().shape[0]))
    nets, images = measured.networks()
    few = {"LeNet-300-100": nets["LeNet-300-100"], "LeNet-5": nets["LeNet-5"]}
    table = measured.whole_networks(
        few, images, layers, machine.Roof(50e9, 25e9), dict.fromkeys(few, "?"), timed=["LeNet-5"], seconds=0.01
    )
    assert table["measured (ms)"].tolist() == ["", "1000.00"]
    assert table["parameters (M)"].tolist() == ["0.27", "0.43"] and table["weights in dense layers"].tolist() == ["100%", "94%"]
    assert all(parameter.is_meta for parameter in nets["LeNet-5"].parameters())


def test_the_tournament_scores_a_function_and_leaves_the_network_alone():
    env = notebook.start("mnist")
    net, test = env.baseline("lenet-300-100"), env.splits.test.take(200)
    before = net.fc1.weight.clone()
    table = measured.tournament(
        net, test, {"one value": lambda w, bits: (torch.zeros(w.shape, dtype=int), w.mean()[None])}, bits=2
    )
    assert table["weights (kB)"].tolist() == ["1,064.8", f"{(266_200 / 4 + 3 * 4) / 1e3:,.1f}"]
    accuracies = table["validation accuracy (%)"].astype(float)
    assert accuracies[0] > 90 > 30 > accuracies[1]
    assert torch.equal(net.fc1.weight, before)


def test_the_even_codebook_takes_the_nearest_of_its_values():
    weight = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    codes, codebook = measured.even_codebook(weight, 3)
    assert torch.allclose(codebook.diff(), codebook.diff()[0].expand(7), atol=1e-6)
    assert torch.equal(codes, (weight[..., None] - codebook).abs().argmin(-1))
    assert (codebook[0], codebook[-1]) == (weight.min(), weight.max())


def test_accuracies_name_the_data(monkeypatch):
    monkeypatch.setattr(measured, "evaluate", lambda net, test: 0.5)
    splits = data.Splits(*[data.Split(torch.zeros(1), torch.zeros(1))] * 3, "mnist-5k", "mnist", "")
    env = notebook.Environment(splits, torch.device("cpu"), "smoke", 0)
    monkeypatch.setattr(notebook.Environment, "baseline", lambda self, name: nn.Identity())
    assert measured.accuracies(env, ["LeNet-5"]) == {"LeNet-5": "50.00 % (mnist-5k)"}
