"""Another order of neurons and filters is another file of the same network."""

import pytest
import torch

from course_lib import storage
from course_lib.challenge import rewriting
from course_lib.challenge.places import FOLDER
from tests.benchmarks import filter_order

FILES = sorted((FOLDER / "course").glob("*.cnet"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_reordered_file_computes_the_same(path):
    file = storage.load(path)
    images = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for layer in filter_order._layers(file)[:-1]:
        places = torch.randperm(file.tensors[f"{layer}.weight"].shape[0], generator=torch.Generator().manual_seed(1)).tolist()
        other = filter_order.reordered(file, layer, places)
        assert not torch.equal(other.tensors[f"{layer}.weight"].codes, file.tensors[f"{layer}.weight"].codes)
        with torch.no_grad():
            torch.testing.assert_close(rewriting.rebuilt(other)(images), rewriting.rebuilt(file)(images), rtol=1e-3, atol=1e-2)


def test_the_search_never_makes_a_file_longer():
    sizes = filter_order.searched(storage.load(FILES[0]), tries=2)
    assert sizes[0] == FILES[0].stat().st_size and sizes == sorted(sizes, reverse=True) and len(sizes) == 3
