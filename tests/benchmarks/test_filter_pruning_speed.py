"""Pruning a whole ResNet-56, and how much of the MACs saved arrives as time."""

import pytest
import torch

from course_lib import cost, models
from course_lib.papers import filter_pruning as paper

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))]


def test_all_layers_of_resnet_56_are_pruned_within_five_seconds(benchmark):
    model, image = models.build("resnet-56").eval(), models.example_input("resnet-56")

    def choose_and_cut() -> torch.nn.Module:
        return paper.prune(model, [(image, torch.zeros(1))], 0.7, strategy="greedy").model

    narrow = benchmark.pedantic(choose_and_cut, rounds=3)
    print(f"\n{benchmark.stats.stats.median:.2f} s to choose and remove 30 % of all filters of ResNet-56")
    assert len(narrow.stage3[8].conv1.weight) == int(64 * 0.7) and len(narrow.stage2[4].conv2.weight) == int(32 * 0.7)
    assert benchmark.stats.stats.median < 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", ["resnet-56", "vgg-16"])
def test_how_much_of_the_theory_arrives(benchmark, network, device):
    """Every prunable layer at half its filters; batch 128. The figures are for reading, the bounds only catch nonsense."""
    image = models.example_input(network, 128).to(device)
    model = models.build(network).to(device).eval()
    narrow = paper.prune(model, [(image, torch.zeros(len(image)))], 0.5).model
    macs = cost.count(model, image[:1]).MACs.sum() / cost.count(narrow, image[:1]).MACs.sum()

    def speedup() -> float:
        return cost.measure(model, image) / cost.measure(narrow, image)

    faster = benchmark.pedantic(speedup, rounds=1)
    print(f"\n{network} on {device}: {macs:.2f}x fewer MACs, {faster:.2f}x faster; {faster / macs:.0%} of the theory arrives")
    assert 1 < faster < 1.5 * macs
