"""k-means of scalars against the optimum and a plain Lloyd; k-means in batches against scikit-learn and planted clusters."""

import kmeans1d
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import KMeans
from torch import Tensor

from course_lib import kmeans as module
from course_lib.kmeans import kmeans, kmeans_1d, look_up

scalars = arrays(np.float32, st.integers(2, 60), elements=st.floats(-8, 8, width=16))


def squared_error(values: Tensor, centroids: Tensor, codes: Tensor) -> float:
    return (values.double() - centroids.double()[codes.long()]).square().sum().item()


def optimum(values: np.ndarray, k: int) -> float:
    clusters, centroids = kmeans1d.cluster(values.astype(float).tolist(), k)
    return float(np.square(values - np.array(centroids)[clusters]).sum())


def lloyd(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The textbook's loop."""
    while True:
        codes = np.abs(values[:, None] - centroids).argmin(1)
        means = np.array([values[codes == j].mean() if (codes == j).any() else c for j, c in enumerate(centroids)])
        if np.allclose(means, centroids, rtol=0, atol=1e-12):
            return means
        centroids = means


@given(scalars, st.data())
def test_few_scalars_are_clustered_optimally(values, draw):
    k = draw.draw(st.integers(2, len(values)))
    centroids, codes = kmeans_1d(torch.from_numpy(values), k)
    assert centroids.shape == (k,) and codes.shape == values.shape and codes.dtype == torch.uint8
    assert squared_error(torch.from_numpy(values), centroids, codes) <= optimum(values, k) * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("k", [2, 4, 16, 64, 256])
@pytest.mark.parametrize("shape", ["gauss", "laplace", "two humps", "spike"])
def test_many_scalars_are_clustered_within_a_percent_of_the_optimum(shape, k):
    draw = np.random.default_rng(0)
    gauss = draw.normal(size=3_000)
    values = {
        "gauss": gauss,
        "laplace": draw.laplace(size=3_000),
        "two humps": gauss + 4 * np.sign(draw.normal(size=3_000)),
        "spike": np.where(draw.random(3_000) < 0.7, 1e-4 * gauss, gauss),  # as in a layer whose weights have decayed
    }[shape].astype(np.float32)
    found = squared_error(torch.from_numpy(values), *kmeans_1d(torch.from_numpy(values), k))
    assert found <= 1.01 * optimum(values, k) + 1e-9


@given(scalars, st.integers(0, 2**32 - 1))
def test_from_a_given_start_it_is_the_textbooks_loop(values, seed):
    values = values + np.random.default_rng(seed).normal(scale=1e-2, size=len(values)).astype(np.float32)  # no ties
    k = min(5, len(values))
    start = np.random.default_rng(seed).choice(values, k, replace=False)
    centroids, _ = kmeans_1d(torch.from_numpy(values), k, torch.from_numpy(start))
    assert np.allclose(centroids, np.sort(lloyd(values.astype(float), start.astype(float))), atol=1e-4)


@given(scalars, st.data())
def test_a_scalar_gets_the_code_of_its_nearest_centroid(values, draw):
    k = draw.draw(st.integers(2, len(values)))
    centroids, codes = (t.numpy() for t in kmeans_1d(torch.from_numpy(values), k))
    distances = np.abs(values[:, None] - centroids.astype(float))
    assert (np.take_along_axis(distances, codes[:, None].astype(int), 1)[:, 0] <= distances.min(1) + 1e-6).all()


def test_a_cluster_that_runs_empty_keeps_its_centroid():
    centroids, codes = kmeans_1d(torch.tensor([0.0, 1.0, 2.0]), 3, torch.tensor([1.0, 50.0, 90.0]))
    assert centroids.tolist() == [1.0, 50.0, 90.0] and codes.tolist() == [0, 0, 0]


def test_codes_above_256_values_are_wider():
    centroids, codes = kmeans_1d(torch.arange(1000.0), 300)
    assert codes.dtype == torch.int32 and codes.max() == 299 and centroids.diff().min() > 0


@pytest.mark.parametrize(
    ("values", "k", "init", "message"),
    [
        (torch.ones(3), 4, None, "k is 4; with 3 vectors to cluster it can be 2 to 3"),
        (torch.ones(3), 1, None, "k is 1"),
        (torch.tensor([1.0, float("nan")]), 2, None, "values holds NaN"),
        (torch.arange(4.0), 2, torch.ones(3), r"init has shape \(3,\); expected \(2,\)"),
    ],
)
def test_scalars_that_cannot_be_clustered_are_refused(values, k, init, message):
    with pytest.raises(ValueError, match=message):
        kmeans_1d(values, k, init)


def points(s: int, m: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(s, m, d, generator=torch.Generator().manual_seed(seed))


def test_each_problem_of_a_batch_is_solved_as_well_as_by_scikit_learn():
    batch = points(12, 200, 4)
    centres, codes = kmeans(batch, 16)
    ours = (look_up(centres, codes) - batch).square().sum((1, 2))
    theirs = [KMeans(16, n_init=1, random_state=0).fit(problem).inertia_ for problem in batch.numpy()]
    assert ours.sum() <= 1.02 * sum(theirs)
    assert (ours <= 1.2 * torch.tensor(theirs)).all()


def test_codes_are_nearest_and_centres_are_means():
    batch = points(5, 80, 3)
    centres, codes = kmeans(batch, 7, iterations=1000)
    assert torch.equal(torch.cdist(batch, centres).argmin(2), codes.long())
    for problem, own, code in zip(batch, centres, codes, strict=True):
        for j in code.unique():
            assert torch.allclose(problem[code == j].mean(0), own[j.long()], atol=1e-5)


def test_planted_clusters_are_found():
    centres = 10 * points(3, 8, 4, seed=1)
    batch = centres.repeat_interleave(25, 1) + 0.1 * points(3, 200, 4, seed=2)
    found, codes = kmeans(batch, 8)
    assert (torch.cdist(centres, found).amin(2) < 0.2).all()
    assert all(len(row.unique()) == 8 for row in codes)


def test_empty_clusters_are_seeded_again():
    batch = 10 * points(3, 8, 4, seed=1).repeat_interleave(25, 1)
    stuck = batch[:, :1].expand(-1, 8, -1).clone()  # all centres in one place: seven of eight are empty
    found, codes = module._lloyd(batch, stuck, iterations=50)
    assert (look_up(found, codes) - batch).abs().max() < 1e-4


@pytest.mark.parametrize("case", ["as many clusters as points", "all points equal"])
def test_the_edges_of_what_can_be_clustered(case):
    batch = torch.ones(2, 6, 3) if case == "all points equal" else points(2, 6, 3)
    centres, codes = kmeans(batch, 6)
    assert torch.allclose(look_up(centres, codes), batch, atol=1e-6)


def test_a_seed_decides_and_chunks_only_spare_memory(monkeypatch):
    batch = points(6, 50, 2)
    first = kmeans(batch, 5, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, kmeans(batch, 5, seed=3), strict=True))
    assert not torch.equal(first[0], kmeans(batch, 5, seed=4)[0])
    monkeypatch.setattr(module, "START_CHUNK", 1)  # one problem at a time
    centres, codes = kmeans(batch, 5, seed=3)
    assert centres.shape == (6, 5, 2) and codes.shape == (6, 50)
    assert torch.equal(torch.cdist(batch, centres).argmin(2), codes.long())


@pytest.mark.parametrize(("k", "message"), [(1, "k is 1"), (21, "k is 21; with 20 vectors to cluster it can be 2 to 20")])
def test_a_batch_that_cannot_be_clustered_is_refused(k, message):
    with pytest.raises(ValueError, match=message):
        kmeans(points(2, 20, 3), k)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_finds_clusters_as_good():
    batch = points(12, 200, 4)
    errors = [(look_up(*kmeans(b, 16)) - b).square().sum().item() for b in (batch, batch.cuda())]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)
    values = batch.flatten()
    on_gpu = kmeans_1d(values.cuda(), 16)
    assert torch.allclose(on_gpu[0].cpu(), kmeans_1d(values, 16)[0], atol=1e-4)
