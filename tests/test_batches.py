"""Splits, DataLoaders and lists of batches are read alike, and what is none of them is refused by name."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from course_lib import data, models, training
from course_lib.data import Split, batched

IMAGES, LABELS = torch.randn(25, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(25) % 10


@pytest.mark.parametrize("size", [1, 7, 25, 100])
def test_a_split_a_loader_and_a_list_hold_the_same(size):
    split = Split(IMAGES, LABELS)
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=size)
    as_list = [[x, y] for x, y in loader]
    for batches in (split, loader, as_list):
        for _ in range(2):  # can be read again
            images, labels = (torch.cat(parts) for parts in zip(*batched(batches, size), strict=True))
            assert torch.equal(images, IMAGES) and torch.equal(labels, LABELS)
        assert torch.equal(data.example(batches), IMAGES[:1])
    model = models.build("lenet-300-100")
    assert training.evaluate(model, loader) == training.evaluate(model, split) == training.evaluate(model, as_list)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (Split(IMAGES[:0], LABELS[:0]), "batches holds no images"),
        ([], "batches holds no images"),
        (((x, y) for x, y in [(IMAGES, LABELS)]), "batches is a generator, which can be read only once"),
        ([IMAGES], "batches yields a Tensor; expected"),
        ([(IMAGES, LABELS, LABELS)], "batches yields a tuple; expected"),
        ([(IMAGES, LABELS[:3])], r"\(25, 1, 28, 28\) and labels of shape \(3,\)"),
        ([(IMAGES / 0, LABELS)], "batches yields images that hold NaN or infinity"),
    ],
)
def test_what_holds_no_batches_is_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        list(batched(batches))


def test_empty_batches_among_others_are_passed_over():
    assert len(list(batched([(IMAGES[:0], LABELS[:0]), (IMAGES, LABELS)]))) == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_batches_from_the_cpu_are_evaluated_where_the_model_is():
    model = models.build("lenet-5")
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=10, pin_memory=True)
    here = training.evaluate(model, loader)
    assert training.evaluate(model.cuda(), loader) == pytest.approx(here, abs=0.081)  # bfloat16 may turn two of 25
