"""Data on the device against a DataLoader: an epoch of LeNet-300-100, both loops in one run."""

import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import data, models, training

BATCH = 128


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    return data.load("mnist")


def ours(splits: data.Splits) -> None:
    training.fit(models.build("lenet-300-100"), splits, epochs=1, lr=0.05, batch_size=BATCH, progress=False)


def with_a_data_loader(splits: data.Splits) -> None:
    """The same epoch in the usual way: torchvision's dataset and transforms, a DataLoader of 2 workers."""
    from torchvision import transforms
    from torchvision.datasets import MNIST

    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    dataset = MNIST(data.root_folder(), train=True, transform=normalise)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=2)
    model: nn.Module = models.build("lenet-300-100").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def seconds(loop, splits: data.Splits) -> float:
    start = time.perf_counter()
    loop(splits)
    return time.perf_counter() - start


def arithmetic_alone(splits: data.Splits) -> None:
    """As many steps on one batch: what any loop must spend, wherever its images come from."""
    model = models.build("lenet-300-100").train()
    optimizer = training.fitting._optimizer(model, [], 0.05, 0.9, 5e-4)
    images, labels = splits.train.images[:BATCH], splits.train.labels[:BATCH]
    for _ in range(-(-len(splits.train.labels) // BATCH)):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_an_epoch_costs_little_more_than_its_arithmetic_and_less_than_with_a_data_loader(splits, benchmark):
    """How many times faster than a DataLoader depends on what a machine's arithmetic takes: 10 times on one, 7.7 on another.
    What is ours is the rest: fetching batches, keeping the score, the bar; on any machine it is a part of the arithmetic."""
    if splits.is_stand_in:
        pytest.skip(f"torchvision's dataset needs real MNIST ({splits.why})")
    usual = statistics.median(seconds(with_a_data_loader, splits) for _ in range(3))
    benchmark.pedantic(ours, (splits,), rounds=5, warmup_rounds=1)
    bare = statistics.median(seconds(arithmetic_alone, splits) for _ in range(5))
    here = benchmark.stats.stats.median
    print(f"\nDataLoader {usual:.2f} s, data on the device {here:.2f} s: {usual / here:.1f}x; arithmetic alone {bare:.2f} s")
    benchmark.extra_info["times faster"] = usual / here
    assert here < 2 * bare and usual > 3 * here
